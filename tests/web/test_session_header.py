"""A session without a cookie: the header that stands in its place, and what a request that has it is told."""

import logging
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from dynamodb_sessions import ConfigurationError, DynamoDBSessionMiddleware, MemoryStore
from dynamodb_sessions.stores.contract import SessionStore
from tests.conftest import KEY, Clock
from tests.helpers.asgi import Counting, an_app, browser, held
from tests.helpers.starlette_cookies import ALICE, OLD_KEY, of_starlette
from tests.helpers.visitors import Site

pytestmark = pytest.mark.anyio

HEADER = "X-Session-Token"
Headers = list[tuple[str, str]]


class Client:
    """A client without a cookie jar, which keeps the token that it was answered last."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.token = ""

    async def get(self, path: str, headers: Headers | None = None) -> httpx.Response:
        async with self.site.visitor() as visitor:
            response = await visitor.get(path, headers=[(HEADER, self.token)] if headers is None else headers)
        self.token = response.headers.get(HEADER, self.token)
        return response


def a_site(store: Any, **options: Any) -> Site:
    return Site(store, **{"session_header": HEADER, **options})


def told(response: httpx.Response) -> dict[str, str | None]:
    names = (HEADER, "Set-Cookie", "Vary", "Cache-Control")
    return {name: response.headers[name] for name in names if name in response.headers}


VARY = f"Cookie, {HEADER}"


@pytest.mark.parametrize("engine", ["memory", "local", "async"])
async def test_it_carries_a_session_from_request_to_request(store: SessionStore) -> None:
    client = Client(a_site(store))
    assert told(await client.get("/")) == {"Vary": VARY}
    begun = await client.get("/a=1")
    assert told(begun) == {HEADER: client.token, "Vary": VARY, "Cache-Control": "no-store"}
    assert told(await client.get("/")) == {"Vary": VARY}
    changed = await client.get("/b=2")
    assert (changed.json(), told(changed)) == ({"a": 1, "b": 2}, {"Vary": VARY})
    before = client.token
    moved = await client.get("/login=acme")
    assert (moved.json(), told(moved)) == (
        {"a": 1, "b": 2},
        {HEADER: client.token, "Vary": VARY, "Cache-Control": "no-store"},
    )
    assert client.token != before
    assert (await client.get("/", [(HEADER, before)])).json() == {}
    last = client.token
    assert told(await client.get("/clear")) == {HEADER: "", "Vary": VARY, "Cache-Control": "no-store"}
    assert client.token == ""
    assert (await client.get("/", [(HEADER, last)])).json() == {}


async def test_the_cookie_of_such_a_request_counts_for_nothing() -> None:
    site = a_site(store := MemoryStore())
    visitor = site.visitor()
    assert told(await visitor.get("/mine=1"))["Vary"] == VARY
    empty = [(HEADER, "")]
    assert (await visitor.get("/", headers=empty)).json() == {}
    assert "Set-Cookie" not in told(await visitor.get("/clear", headers=empty))
    other = await visitor.get("/other=1", headers=empty)
    assert (other.json(), "Set-Cookie" in told(other)) == ({"other": 1}, False)
    assert (await visitor.get("/")).json() == {"mine": 1}
    assert len(store) == 2


async def test_a_cookie_to_adopt_counts_for_nothing_there_either() -> None:
    site = a_site(MemoryStore(), import_cookie="session", import_secret_key=OLD_KEY)
    visitor = site.visitor({"session": of_starlette(ALICE)})
    response = await visitor.get("/a=1", headers=[(HEADER, "")])
    assert (response.json(), "Set-Cookie" in told(response)) == ({"a": 1}, False)
    assert (await visitor.get("/")).json() == ALICE


async def test_without_it_all_is_as_it_was_but_for_what_the_response_varies_by() -> None:
    def cached(request: Request) -> Response:
        request.session.get("a")
        return PlainTextResponse("", headers={"Vary": "Accept"})

    site = a_site(MemoryStore())
    response = await site.visitor().get("/a=1")
    assert told(response).keys() == {"Set-Cookie", "Vary", "Cache-Control"}
    async with browser(an_app(MemoryStore(), cached, session_header=HEADER)) as client:
        assert (await client.get("/")).headers["Vary"] == f"Accept, {VARY}"
    async with browser(an_app(MemoryStore(), lambda _: PlainTextResponse(""), session_header=HEADER)) as client:
        assert "Vary" not in (await client.get("/")).headers


async def test_it_means_nothing_where_it_is_not_configured() -> None:
    client = Client(a_site(store := MemoryStore()))
    await client.get("/a=1")
    response = await Site(store).visitor().get("/", headers=[(HEADER, client.token)])
    assert (response.json(), told(response)) == ({}, {"Vary": "Cookie"})


async def test_what_does_not_verify_is_as_good_as_empty_and_costs_no_call() -> None:
    counting = Counting(MemoryStore())
    site = a_site(counting)
    client = Client(site)
    await client.get("/a=1")
    token, (session_id, version, signature) = client.token, client.token.split(".")
    stranger = Client(a_site(MemoryStore(), secret_key="another-key-of-more-than-thirty-two-bytes"))
    await stranger.get("/a=1")
    counting.calls.clear()
    wrong: list[list[str]] = [
        ["new"],
        ["\xff" * 3],
        [token[:-1]],
        [token + "="],
        [f'"{token}"'],
        [f"session_id={token}"],
        [f"{token}, {token}"],
        [token, token],
        [token, ""],
        [f"{session_id}.{int(version) + 1}.{signature}"],
        [f"{session_id}.{signature}"],
        [stranger.token],
        [token * 1000],
    ]
    for values in wrong:
        client.token = ""
        response = await client.get("/", [(HEADER, value.encode("latin-1")) for value in values])  # type: ignore[misc]
        assert (response.json(), told(response)) == ({}, {"Vary": VARY}), values
    assert counting.calls == []
    assert (await client.get("/", [(HEADER.upper(), f" {token} ")])).json() == {"a": 1}


async def test_a_token_of_an_older_key_is_signed_anew() -> None:
    client = Client(a_site(store := MemoryStore()))
    await client.get("/a=1")
    before = client.token
    newer = a_site(store, secret_key=["a-new-key-of-more-than-thirty-two-bytes!", KEY])
    client.site = newer
    assert (await client.get("/")).headers[HEADER] == client.token != before
    assert told(await client.get("/")) == {"Vary": VARY}


async def test_a_touch_is_told_as_with_a_cookie_unless_the_path_extends_nothing(clock: Clock) -> None:
    client = Client(a_site(MemoryStore(), max_age=1000, no_touch=["/poll"]))
    await client.get("/a=1")
    clock.now += 600
    assert HEADER not in told(await client.get("/poll"))
    assert HEADER in told(await client.get("/"))


async def test_an_outage_tells_no_token() -> None:
    counting = Counting(MemoryStore())
    counting.failing = {"create"}
    response = await Client(a_site(counting)).get("/a=1")
    assert (response.status_code, told(response)) == (503, {"Cache-Control": "no-store"})


async def test_a_websocket_carries_it_in_its_handshake() -> None:
    """Of a client that is no browser."""

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        scope["session"]["count"] = scope["session"].get("count", 0) + 1
        count = scope["session"]["count"]
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "reason": str(count)})

    middleware = DynamoDBSessionMiddleware(app, KEY, store=MemoryStore(), session_header=HEADER)
    name, token = HEADER.lower().encode(), b""
    for expected, is_told in (("1", True), ("2", False)):
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(message: Any, sent: list[Any] = sent) -> None:
            sent.append(message)

        await middleware({"type": "websocket", "path": "/", "headers": [(name, token)]}, receive, send)
        accepted, closed = sent
        headers = dict(accepted["headers"])
        assert closed["reason"] == expected
        assert (name in headers, b"set-cookie" in headers) == (is_told, False)
        token = headers.get(name, token)


async def test_no_cache_keeps_a_token_whatever_the_app_says() -> None:
    """A shared cache would hand it to the next client that asks with an empty header."""

    def act(request: Request) -> Response:
        held(request)["a"] = 1
        return Response(headers={"Cache-Control": "public, max-age=60"})

    async with browser(an_app(MemoryStore(), act, session_header=HEADER)) as client:
        response = await client.get("/", headers={HEADER: ""})
    assert response.headers[HEADER]
    assert response.headers.get_list("Cache-Control") == ["no-store"]


async def test_other_origins_read_it_where_cors_lets_them() -> None:
    inner = an_app(MemoryStore(), lambda request: request.session.update(a=1), session_header=HEADER)
    app = CORSMiddleware(inner, ["https://app.test"], allow_headers=[HEADER], expose_headers=[HEADER])
    ask = {
        "Origin": "https://app.test",
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": HEADER,
    }
    async with browser(app) as client:
        asked = await client.options("/", headers=ask)
        answered = await client.get("/", headers={"Origin": "https://app.test", HEADER: ""})
    assert HEADER in asked.headers["Access-Control-Allow-Headers"]
    assert answered.headers["Access-Control-Expose-Headers"] == HEADER
    assert answered.headers["Vary"] == f"{VARY}, Origin"


async def test_no_line_of_the_log_tells_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    client = Client(a_site(MemoryStore()))
    tokens = []
    for path in ("/a=1", "/login=acme", "/clear"):
        await client.get(path)
        tokens.append(client.token)
        await client.get("/b=1", [(HEADER, tokens[0])])
    assert all(part not in caplog.text for token in tokens[:2] for part in token.split(".") if len(part) > 2)
    assert "moment ago" in caplog.text


@pytest.mark.parametrize(
    "name",
    [
        *("", "X Session", "X-Session:", "X-Sessiön", "X-Session\n", 5, b"X-Session"),
        *("Cookie", "set-cookie", "Authorization", "Proxy-Authorization", "Host", "Content-Type", "Vary", "Origin"),
        *("Sec-Session", "Access-Control-Allow-Origin", "Accept", "Accept-Encoding", "If-None-Match", "TE"),
    ],
    ids=str,
)
def test_a_name_that_is_not_free_is_refused(name: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"session_header=.* (is not a valid header name|has a meaning)"):
        DynamoDBSessionMiddleware(Starlette(), KEY, store=MemoryStore(), session_header=name)


@pytest.mark.parametrize("name", ["X-Session-Token", "session", "Acceptance", "Fromage", "Team"])
def test_a_name_that_is_free_is_taken(name: str) -> None:
    DynamoDBSessionMiddleware(Starlette(), KEY, store=MemoryStore(), session_header=name)
