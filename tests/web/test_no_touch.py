"""Requests that use a session and do not extend it: what is stored of its expiry stays, and the cookie agrees."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from dynamodb_sessions import DynamoDBSessionMiddleware, MemoryStore, Record, session_middleware
from dynamodb_sessions.stores.contract import SessionStore
from tests.conftest import KEY, Clock
from tests.helpers.asgi import Counting, an_app, browser, held
from tests.helpers.starlette_cookies import ALICE, OLD_KEY, of_starlette
from tests.helpers.visitors import Site, cookie_max_age, kept_until, meanwhile, told

pytestmark = pytest.mark.anyio

over_stores = pytest.mark.parametrize("engine", ["memory", "local", "async"])

MAX_AGE = 1000
ELAPSED = 600
LEFT = MAX_AGE - ELAPSED

CHANGES = ["b=2", "regenerate", "many=1", "add=a"]
"""In one expression, by a move, by all of it at once, and by what is read for it."""


def a_site(store: Any, **options: Any) -> Site:
    return Site(store, **{"max_age": MAX_AGE, "no_touch": ["/poll"], **options})


async def signed_in(site: Site, clock: Clock, path: str = "/a=1/kept=1") -> httpx.AsyncClient:
    """Return a visitor whose session is due to be touched."""
    visitor = site.visitor()
    await visitor.get(path)
    clock.now += ELAPSED
    return visitor


async def stored(store: Any) -> Record:
    """Return the one session there is."""
    (record,) = [record async for record in store.scan(now=0)]
    assert isinstance(record, Record)
    return record


@over_stores
async def test_reading_extends_nothing_and_takes_one_call(store: SessionStore, clock: Clock) -> None:
    counting = Counting(store)
    visitor = await signed_in(a_site(counting), clock)
    counting.calls.clear()
    for _ in range(3):
        assert told(await visitor.get("/poll")) == "none"
    assert counting.calls == ["load"] * 3
    assert cookie_max_age(await visitor.get("/polls")) == MAX_AGE
    assert counting.calls[3:] == ["load", "update"]


@over_stores
@pytest.mark.parametrize("change", [*CHANGES, "a=1", "pop=a", "regenerate/b=2/save"])
async def test_a_change_is_stored_and_the_expiry_stays(store: Any, clock: Clock, change: str) -> None:
    visitor = await signed_in(a_site(store), clock)
    response = await visitor.get(f"/poll/{change}")
    record = await stored(store)
    assert record.content() == response.json()
    assert record.expires_at == kept_until(visitor) == clock.now + LEFT
    assert told(response) == ("set" if "regenerate" in change else "none")
    clock.now += LEFT
    assert (await visitor.get("/")).json() == {}


@over_stores
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("extension", "age"), [("", MAX_AGE), ("max_age=9000", 9000), ("max_age=50", 50)])
async def test_what_another_request_makes_of_it_meanwhile_stays(
    store: Any, clock: Clock, change: str, extension: str, age: int
) -> None:
    site = a_site(store)
    visitor = await signed_in(site, clock)
    other = site.visitor(dict(visitor.cookies))
    site.during = meanwhile(lambda: other.get(f"/{extension}"))
    response = await visitor.get(f"/poll/{change}")
    record = await stored(store)
    assert record.expires_at == clock.now + age
    assert cookie_max_age(response) == age
    assert record.content() == response.json()


@over_stores
async def test_until_the_browser_closes_is_told_as_the_session_is_stored(store: Any, clock: Clock) -> None:
    """Whether the cookie has a Max-Age at all depends on a lifetime that another request sets meanwhile."""
    site = a_site(store, max_age=None)
    visitor = await signed_in(site, clock)
    other = site.visitor(dict(visitor.cookies))
    site.during = meanwhile(lambda: other.get("/max_age=9000"))
    assert cookie_max_age(await visitor.get("/poll/b=2")) == 9000
    assert "Max-Age" not in (await a_site(store, max_age=None).visitor().get("/poll/b=2")).headers["Set-Cookie"]


@over_stores
@pytest.mark.parametrize(
    ("asked", "age", "own"),
    [
        ("login=acme", MAX_AGE, None),
        ("max_age=50", 50, 50),
        ("max_age=9000/b=2", 9000, 9000),
        ("clear/b=2", MAX_AGE, None),
    ],
)
async def test_what_names_a_lifetime_counts(store: Any, clock: Clock, asked: str, age: int, own: int | None) -> None:
    visitor = await signed_in(a_site(store), clock)
    response = await visitor.get(f"/poll/{asked}")
    record = await stored(store)
    assert (record.expires_at, record.max_age) == (clock.now + age, own)
    assert cookie_max_age(response) == age


async def test_a_new_session_lives_as_long_as_any(clock: Clock) -> None:
    response = await a_site(store := MemoryStore()).visitor().get("/poll/a=1")
    assert (await stored(store)).expires_at == clock.now + MAX_AGE
    assert cookie_max_age(response) == MAX_AGE


async def test_the_absolute_lifetime_ends_it_all_the_same(clock: Clock) -> None:
    site = a_site(MemoryStore(), absolute_max_age=MAX_AGE + 100)
    visitor = await signed_in(site, clock)
    assert told(await visitor.get("/poll/b=2")) == "none"
    assert kept_until(visitor) == clock.now + LEFT
    assert cookie_max_age(await visitor.get("/b=3")) == LEFT + 100
    assert told(await visitor.get("/poll/b=4")) == "none"
    assert cookie_max_age(await visitor.get("/poll/login=acme")) == MAX_AGE


@over_stores
async def test_a_cookie_of_an_older_key_is_signed_anew_and_extends_nothing(store: Any, clock: Clock) -> None:
    visitor = await signed_in(a_site(store), clock)
    newer = a_site(store, secret_key=["a-new-key-of-more-than-thirty-two-bytes!", KEY])
    visitor = newer.visitor(visitor.cookies)
    assert cookie_max_age(await visitor.get("/poll")) == LEFT
    assert (await stored(store)).expires_at == clock.now + LEFT
    assert told(await visitor.get("/poll")) == "none"


@over_stores
async def test_an_adopted_session_is_a_new_one(store: Any, clock: Clock) -> None:
    site = a_site(store, import_cookie="session", import_secret_key=OLD_KEY)
    visitor = site.visitor({"session": of_starlette(ALICE)})
    response = await visitor.get("/poll")
    assert response.json() == ALICE
    ours, removed = response.headers.get_list("Set-Cookie")
    assert f"Max-Age={MAX_AGE}" in ours
    assert removed.startswith("session=;")
    clock.now += ELAPSED
    visitor = site.visitor({"session_id": response.cookies["session_id"]})
    assert told(await visitor.get("/poll/b=2")) == "none"
    assert kept_until(visitor) == clock.now + LEFT


async def test_what_is_saved_after_the_response_has_started_extends_nothing(clock: Clock) -> None:
    def stream(request: Request) -> Any:
        async def chunks() -> AsyncIterator[str]:
            yield "begun"
            request.session["late"] = request.session.get("late", 0) + 1

        held(request).setdefault("a", 1)
        return StreamingResponse(chunks())

    store = MemoryStore()
    app = an_app(store, stream, max_age=MAX_AGE, no_touch=["/poll"])
    async with browser(app) as client:
        await client.get("/")
        clock.now += ELAPSED
        await client.get("/poll")
        record = await stored(store)
        assert (record.expires_at, record.content()) == (clock.now + LEFT, {"a": 1, "late": 2})
        await client.get("/")
        assert (await stored(store)).expires_at == clock.now + MAX_AGE


async def test_a_login_that_no_browser_can_be_told_of_extends_nothing(clock: Clock) -> None:
    """A websocket that is closed before it is accepted."""
    store = MemoryStore()
    visitor = await signed_in(a_site(store), clock)
    cookie = "; ".join(f"{name}={value}" for name, value in visitor.cookies.items())

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        scope["session"]["b"] = 2
        scope["session"].bind("acme")
        await send({"type": "websocket.close"})

    async def ignore(_: Any) -> None:
        pass

    middleware = DynamoDBSessionMiddleware(app, KEY, max_age=MAX_AGE, store=store, no_touch=["/poll"])
    scope = {"type": "websocket", "path": "/poll", "headers": [(b"cookie", cookie.encode())]}
    await middleware(scope, ignore, ignore)  # type: ignore[arg-type]
    record = await stored(store)
    assert (record.expires_at, record.owner, record.content()["b"]) == (clock.now + LEFT, None, 2)


@pytest.mark.parametrize(
    ("path", "root_path", "extends"),
    [
        ("/api/poll", "", False),
        ("/api/poll/now", "", False),
        ("/shop/api/poll", "/shop", False),
        ("/api/polls", "", True),
        ("/api", "", True),
        ("/shop/api/poll", "", True),
    ],
)
async def test_paths_are_matched_as_excluded_ones_are(
    clock: Clock, path: str, root_path: str, *, extends: bool
) -> None:
    app = an_app(
        MemoryStore(), lambda request: held(request).setdefault("a", 1), max_age=MAX_AGE, no_touch=["/api/poll/"]
    )
    async with browser(app) as client:
        await client.get("/")
        clock.now += ELAPSED
        cookies = client.cookies
    async with browser(app, root_path=root_path) as client:
        client.cookies = cookies
        assert ("Set-Cookie" in (await client.get(path)).headers) is extends


def test_starlettes_sessions_do_without_it(caplog: pytest.LogCaptureFixture) -> None:
    session_middleware(secret_key=KEY, no_touch=["/api/poll"], session_header="X-Session-Token")
    assert "do without what is given as no_touch, session_header" in caplog.text
