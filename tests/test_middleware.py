"""One HTTP suite over every store: what a browser and a handler see."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from dynamodb_sessions import (
    ConfigurationError,
    DynamoDBSessionMiddleware,
    MemoryStore,
    SessionError,
    SessionTooLarge,
    UnserializableValue,
)
from dynamodb_sessions.clock import wall_clock
from dynamodb_sessions.identifiers import new_id
from dynamodb_sessions.stores.contract import Changes, Record, SessionStore
from dynamodb_sessions.web.cookie import CookiePayload, SessionCookie
from tests.conftest import KEY, Clock
from tests.helpers.asgi import (
    Act,
    Counting,
    an_app,
    browser,
    by_path,
    clear,
    clear_and_fill,
    clear_and_fill_session,
    held,
    look,
    put,
)
from tests.helpers.visitors import cookie_version

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def counting(store: SessionStore) -> Counting:
    return Counting(store)


async def visit(app: Any, *paths: str) -> list[httpx.Response]:
    async with browser(app) as client:
        return [await client.get(f"/{path}") for path in paths]


async def test_a_session_lives_from_request_to_request(store: SessionStore) -> None:
    responses = await visit(an_app(store, by_path(put=put(name="alice", n=1.0), look=look)), "look", "put", "look")
    assert [one.json() for one in responses] == [{}, {"name": "alice", "n": 1.0}, {"name": "alice", "n": 1.0}]


async def test_a_nested_change_alone_is_saved(store: SessionStore) -> None:
    def append(request: Request) -> None:
        request.session["cart"].append("apple")

    app = an_app(store, by_path(put=put(cart=[]), append=append, look=look))
    *_, last = await visit(app, "put", "append", "append", "look")
    assert last.json() == {"cart": ["apple", "apple"]}


async def test_the_cookies_version_never_falls_behind_what_an_earlier_save_was_told(store: SessionStore) -> None:
    """Else an eventually consistent read could miss the change that the browser has just made."""

    async def change(request: Request) -> None:
        session = held(request)
        record = await store.load(session.info.id, now=wall_clock())
        assert record is not None
        await store.update(record, Changes(record.expires_at, set={"theirs": "1"}), now=wall_clock())
        session["mine"] = 1
        assert await session.save()

    keeping = Counting(store, keeps_versions=True)
    app = an_app(keeping, by_path(put=put(a=1), change=change), touch_after=0)
    async with browser(app) as client:
        await client.get("/put")
        response = await client.get("/change")
    record = await store.load(client.cookies["session_id"].partition(".")[0], now=wall_clock())
    assert record is not None
    assert record.version == cookie_version(response) == 3


async def test_what_a_request_costs(counting: Counting) -> None:
    app = an_app(counting, by_path(put=put(a=1), change=put(a=2), look=look, nothing=lambda _: None, clear=clear))
    async with browser(app) as client:
        for path, expected in (
            ("nothing", []),
            ("look", []),
            ("clear", []),
            ("put", ["create"]),
            ("look", ["load"]),
            ("nothing", ["load"]),
            ("put", ["load", "update"]),  # Somebody else may have changed it since: the last writer wins.
            ("change", ["load", "update"]),
            ("clear", ["load", "delete"]),
            ("look", []),
        ):
            counting.calls.clear()
            await client.get(f"/{path}")
            assert counting.calls == expected, path
        client.cookies.set("session_id", f"{new_id()}.1.{new_id()}")
        counting.calls.clear()
        await client.get("/look")
        assert not counting.calls


async def test_headers_say_what_a_response_depends_on(store: SessionStore) -> None:
    def cached(request: Request) -> Response:
        request.session["a"] = 3
        return PlainTextResponse("", headers={"Cache-Control": "private", "Vary": "Accept"})

    acts = by_path(
        nothing=lambda _: None, look=look, inside=lambda request: "a" in request.scope["session"], put=put(a=1)
    )
    app = an_app(store, lambda request: cached(request) if request.url.path == "/cached" else quiet(acts, request))
    nothing, looked, inside, made, cached_response = await visit(app, "nothing", "look", "inside", "put", "cached")
    assert (nothing.headers.get("vary"), nothing.headers.get("cache-control")) == (None, None)
    assert (looked.headers.get("vary"), looked.headers.get("cache-control")) == ("Cookie", None)
    assert inside.headers.get("vary") == "Cookie"
    assert (made.headers.get("vary"), made.headers.get("cache-control")) == ("Cookie", "no-store")
    assert (
        cached_response.headers.get("vary"),
        cached_response.headers.get("cache-control"),
    ) == ("Accept, Cookie", "private")
    assert not any("set-cookie" in response.headers for response in (nothing, looked, inside))


def quiet(act: Act, request: Request) -> Response:
    act(request)
    return PlainTextResponse("")


async def test_the_cookie_has_every_attribute_deliberately(store: SessionStore) -> None:
    app = an_app(store, put(a=1))
    for scheme, secure in (("https", "; Secure"), ("http", "")):
        async with browser(app, scheme=scheme) as client:
            cookie = (await client.get("/")).headers["set-cookie"]
        assert cookie.startswith("session_id=")
        assert f"; Max-Age=3600; Path=/; HttpOnly; SameSite=lax{secure}" == cookie[cookie.index(";") :]


async def test_clear_ends_the_session_and_expires_the_cookie_with_the_same_attributes(store: SessionStore) -> None:
    app = an_app(store, by_path(put=put(a=1), clear=clear, look=look), path="/", domain="testserver.local")
    async with browser(app) as client:
        made = await client.get("/put")
        cookie = made.headers["set-cookie"].partition(";")[0]
        cleared = await client.get("/clear", headers={"cookie": cookie})
        again = await client.get("/look", headers={"cookie": cookie})
    expected = made.headers["set-cookie"].partition("Max-Age=3600")[2]
    past = "session_id=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"
    assert past + expected == cleared.headers["set-cookie"]
    assert again.json() == {}
    assert "set-cookie" not in again.headers


async def test_emptied_is_ended(store: SessionStore) -> None:
    app = an_app(store, by_path(put=put(a=1), empty=lambda request: request.session.pop("a"), look=look))
    made, emptied = await visit(app, "put", "empty")
    assert "Max-Age=0" in emptied.headers["set-cookie"]
    async with browser(app) as client:
        again = await client.get("/look", headers={"cookie": made.headers["set-cookie"].partition(";")[0]})
    assert again.json() == {}


@pytest.mark.parametrize(
    ("rotate", "expected"),
    [
        (clear_and_fill, {"new": 1}),
        (lambda request: held(request).regenerate(), {"a": 1}),
        (lambda request: held(request).bind("acme/alice"), {"a": 1}),
    ],
    ids=["clear", "regenerate", "bind"],
)
async def test_a_new_id_leaves_the_old_one_dead(store: SessionStore, rotate: Act, expected: dict[str, int]) -> None:
    app = an_app(store, by_path(put=put(a=1), rotate=rotate, look=look))
    async with browser(app) as client:
        old = (await client.get("/put")).headers["set-cookie"].partition(";")[0]
        await client.get("/rotate")
        assert expected == (await client.get("/look")).json()
    async with browser(app) as thief:
        for _ in range(3):
            response = await thief.get("/look", headers={"cookie": old})
            assert response.json() == {}
            assert "set-cookie" not in response.headers


async def test_an_id_the_store_does_not_know_is_never_adopted(store: SessionStore) -> None:
    app = an_app(store, by_path(put=put(a=1), look=look))
    fixed = SessionCookie(
        [KEY], name="session_id", path="/", same_site="lax", https_only=None, domain=None, partitioned=False
    )
    name = new_id()
    header = {"cookie": fixed.issue(CookiePayload(name), now=0, secure=False).partition(";")[0]}
    async with browser(app) as client:
        assert (await client.get("/look", headers=header)).json() == {}
        made = await client.get("/put", headers=header)
    assert made.headers["set-cookie"].startswith("session_id=")
    assert name not in made.headers["set-cookie"]


async def test_a_logout_with_a_dead_cookie_expires_it(counting: Counting) -> None:
    app = an_app(counting, by_path(put=put(a=1), clear=clear))
    async with browser(app) as client:
        cookie = (await client.get("/put")).headers["set-cookie"].partition(";")[0]
        for _ in range(2):
            response = await client.get("/clear", headers={"cookie": cookie})
            assert "Max-Age=0" in response.headers["set-cookie"]


async def test_it_slides_with_use_and_ends_without(store: SessionStore, clock: Clock) -> None:
    app = an_app(store, by_path(put=put(a=1), look=look), max_age=1000)
    async with browser(app) as client:
        cookie = (await client.get("/put")).headers["set-cookie"].partition(";")[0]
        for step, touched in ((99, False), (1, True), (999, True), (1000, False)):
            clock.now += step
            response = await client.get("/look", headers={"cookie": cookie})
            assert touched == ("Max-Age=1000" in response.headers.get("set-cookie", ""))
            assert response.json() == ({} if step == 1000 else {"a": 1})


async def test_reading_for_one_lifetime_takes_at_most_ten_touches(counting: Counting, clock: Clock) -> None:
    app = an_app(counting, by_path(put=put(a=1), look=look), max_age=3600)
    async with browser(app) as client:
        await client.get("/put")
        for _ in range(60):
            clock.now += 60
            assert (await client.get("/look")).json() == {"a": 1}
    assert 10 >= counting.calls.count("update") > 0


async def test_the_absolute_lifetime_ends_it_however_busy(store: SessionStore, clock: Clock) -> None:
    app = an_app(store, by_path(put=put(a=1), look=look), max_age=1000, absolute_max_age=1500)
    async with browser(app) as client:
        cookie = (await client.get("/put")).headers["set-cookie"].partition(";")[0]
        clock.now += 900
        response = await client.get("/look", headers={"cookie": cookie})
        assert "Max-Age=600;" in response.headers["set-cookie"]
        clock.now += 599
        assert (await client.get("/look", headers={"cookie": cookie})).json() == {"a": 1}
        clock.now += 1
        assert (await client.get("/look", headers={"cookie": cookie})).json() == {}


async def test_remember_me_outlives_the_others(store: SessionStore, clock: Clock) -> None:
    def remember(request: Request) -> None:
        request.session["a"] = 1
        held(request).set_max_age(100_000)

    app = an_app(store, by_path(remember=remember, look=look), max_age=1000)
    async with browser(app) as client:
        cookie = (await client.get("/remember")).headers["set-cookie"]
        assert "Max-Age=100000" in cookie
        clock.now += 99_999
        assert (await client.get("/look", headers={"cookie": cookie.partition(";")[0]})).json() == {"a": 1}


async def test_an_older_key_still_opens_and_the_cookie_is_signed_anew(store: SessionStore) -> None:
    newest = "the-newest-key-of-more-than-32-bytes"
    async with browser(an_app(store, put(a=1))) as client:
        cookie = (await client.get("/")).headers["set-cookie"].partition(";")[0]
    async with browser(an_app(store, look, secret_key=[newest, KEY])) as client:
        signed = await client.get("/", headers={"cookie": cookie})
        cookie = signed.headers["set-cookie"].partition(";")[0]
        again = await client.get("/", headers={"cookie": cookie})
    async with browser(an_app(store, look, secret_key=newest)) as client:
        after = await client.get("/", headers={"cookie": cookie})
    for response in (signed, again, after):
        assert response.json() == {"a": 1}
    assert "set-cookie" not in again.headers


async def test_of_several_cookies_the_one_that_lives_counts(store: SessionStore) -> None:
    app = an_app(store, by_path(put=put(a=1), clear=clear, look=look))
    async with browser(app) as client:
        dead = (await client.get("/put")).headers["set-cookie"].partition(";")[0]
        await client.get("/clear")
        living = (await client.get("/put")).headers["set-cookie"].partition(";")[0]
    async with browser(app) as client:
        for header in (f"{dead}; {living}", f"session_id=forged; {living}; {dead}"):
            assert (await client.get("/look", headers={"cookie": header})).json() == {"a": 1}


@pytest.mark.parametrize("bound", [False, True])
async def test_parallel_requests_keep_each_others_changes(store: SessionStore, bound: bool) -> None:
    """The first handler waits until the second request is through."""
    entered, may_go = anyio.Event(), anyio.Event()

    async def slow(request: Request) -> Response:
        request.session["slow"] = 1
        if bound:
            held(request).bind("acme/alice")
        entered.set()
        await may_go.wait()

        def background() -> None:
            request.session["late"] = 3

        return PlainTextResponse("", background=BackgroundTask(background))

    app = an_app(store, by_path(put=put(a=1), slow=slow, quick=put(quick=2), look=look))
    async with browser(app) as client:
        await client.get("/put")
        async with anyio.create_task_group() as group:
            group.start_soon(client.get, "/slow")
            await entered.wait()
            await client.get("/quick")
            may_go.set()
        assert (await client.get("/look")).json() == {"a": 1, "slow": 1, "quick": 2, "late": 3}


@pytest.mark.parametrize("end", [clear, clear_and_fill, lambda request: held(request).bind("o")])
async def test_a_slow_request_neither_revives_an_ended_session_nor_touches_its_cookie(
    store: SessionStore, end: Act, caplog: pytest.LogCaptureFixture
) -> None:
    entered, may_go = anyio.Event(), anyio.Event()
    slow_response: list[httpx.Response] = []

    async def slow(request: Request) -> None:
        request.session["slow"] = 1
        entered.set()
        await may_go.wait()

    app = an_app(store, by_path(put=put(a=1), slow=slow, end=end, look=look))
    async with browser(app) as client:
        cookie = (await client.get("/put")).headers["set-cookie"].partition(";")[0]

        async def go_slow() -> None:
            slow_response.append(await client.get("/slow", headers={"cookie": cookie}))

        async with anyio.create_task_group() as group:
            group.start_soon(go_slow)
            await entered.wait()
            await client.get("/end", headers={"cookie": cookie})
            may_go.set()
        assert slow_response[0].status_code == 200
        assert "set-cookie" not in slow_response[0].headers
        assert (await client.get("/look", headers={"cookie": cookie})).json() == {}
    assert "ended meanwhile" in caplog.text


async def test_saving_in_the_handler_after_the_session_was_ended_revives_nothing(counting: Counting) -> None:
    async def save_twice(request: Request) -> None:
        await counting.store.delete(held(request).info.id)
        request.session["b"] = 1
        assert not await held(request).save()
        request.session["c"] = 1
        assert not await held(request).save()

    app = an_app(counting, by_path(put=put(a=1), save=save_twice))
    _, response = await visit(app, "put", "save")
    assert "set-cookie" not in response.headers
    assert counting.calls == ["create", "load", "update"]


async def test_after_a_refusal_a_late_save_keeps_the_id_that_the_browser_knows(counting: Counting) -> None:
    def bind(request: Request) -> Response:
        session = held(request)
        session.bind("alice")
        counting.failing.add("rotate")

        async def background() -> None:
            counting.failing.clear()
            session["late"] = 1
            assert await session.save()

        return PlainTextResponse("", background=BackgroundTask(background))

    app = an_app(counting, by_path(put=put(a=1), bind=bind, look=look))
    _, refused, last = await visit(app, "put", "bind", "look")
    assert refused.status_code == 503
    assert last.json() == {"a": 1, "late": 1}


async def test_save_stores_at_once_and_the_cookie_still_comes(store: SessionStore) -> None:
    seen: list[Record | None] = []

    async def save(request: Request) -> None:
        request.session["a"] = 1
        assert await held(request).save()
        seen.append(await store.load(held(request).info.id, now=0))

    app = an_app(store, by_path(save=save, look=look))
    saved, looked = await visit(app, "save", "look")
    assert seen[0] is not None
    assert seen[0].data == {"a": "1"}
    assert "Max-Age=3600" in saved.headers["set-cookie"]
    assert looked.json() == {"a": 1}


async def test_emptied_by_one_request_it_keeps_what_another_has_added(store: SessionStore) -> None:
    entered, may_go = anyio.Event(), anyio.Event()

    async def pop(request: Request) -> None:
        request.session.pop("flash")
        entered.set()
        await may_go.wait()

    app = an_app(store, by_path(put=put(flash=1), pop=pop, add=put(cart=1), look=look))
    async with browser(app) as client:
        await client.get("/put")
        async with anyio.create_task_group() as group:
            group.start_soon(client.get, "/pop")
            await entered.wait()
            await client.get("/add")
            may_go.set()
        assert (await client.get("/look")).json() == {"cart": 1}


async def test_emptying_does_not_expire_the_cookie_of_a_login_that_came_between(store: SessionStore) -> None:
    entered, may_go = anyio.Event(), anyio.Event()

    async def pop(request: Request) -> None:
        request.session.pop("flash")
        entered.set()
        await may_go.wait()

    login = by_path(login=lambda request: held(request).bind("acme/alice"))
    app = an_app(
        store,
        lambda request: {"put": put(flash=1), "pop": pop, "look": look}.get(request.path_params["path"], login)(
            request
        ),
    )
    async with browser(app) as client:
        await client.get("/put")
        async with anyio.create_task_group() as group:
            group.start_soon(client.get, "/pop")
            await entered.wait()
            await client.get("/login")
            may_go.set()
        assert (await client.get("/look")).json() == {"flash": 1}


async def test_saves_of_one_request_that_come_at_once_lose_nothing(store: SessionStore) -> None:
    async def save_at_once(request: Request) -> None:
        async def save(key: str) -> None:
            request.session[key] = 1
            assert await held(request).save()

        async with anyio.create_task_group() as group:
            for key in "abc":
                group.start_soon(save, key)

    app = an_app(store, by_path(save=save_at_once, look=look))
    *_, last = await visit(app, "save", "look")
    assert last.json() == {"a": 1, "b": 1, "c": 1}


@pytest.mark.parametrize("ask", [lambda session: session.bind("o"), clear_and_fill_session], ids=["bind", "clear"])
async def test_what_is_asked_for_during_a_save_is_still_done(counting: Counting, ask: Any) -> None:
    async def act(request: Request) -> None:
        session = held(request)
        session["b"] = 1
        counting.during = lambda: ask(session)
        assert await session.save()

    app = an_app(counting, by_path(put=put(a=1), act=act, look=look))
    async with browser(app) as client:
        old = (await client.get("/put")).headers["set-cookie"].partition(";")[0]
        await client.get("/act")
        new = (await client.get("/look")).json()
        assert (await client.get("/look", headers={"cookie": old})).json() == {}
    assert new in ({"a": 1, "b": 1}, {"new": 1})


async def test_a_failure_whose_client_is_gone_is_still_a_failure(store: SessionStore) -> None:
    app = an_app(store, by_path(put=put(a=1), fail=failing(put(a=2), status=500), look=look))
    async with browser(app) as client:
        cookie = (await client.get("/put")).headers["set-cookie"].partition(";")[0]

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.body":
                raise OSError("gone")

        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "method": "GET",
            "path": "/fail",
            "query_string": b"",
            "headers": [(b"cookie", cookie.encode())],
        }
        with pytest.raises(OSError, match="gone"):
            await app(scope, receive, send)
        assert (await client.get("/look", headers={"cookie": cookie})).json() == {"a": 1}


def failing(change: Act, *, status: int | None) -> Act:
    def act(request: Request) -> Response:
        change(request)
        if status is None:
            raise RuntimeError("oh")
        return PlainTextResponse("", status)

    return act


@pytest.mark.parametrize("status", [500, 503, None])
async def test_a_failure_drops_changes_and_honours_a_logout(store: SessionStore, status: int | None) -> None:
    acts = {
        "put": put(a=1),
        "change": failing(put(a=2), status=status),
        "bind": failing(lambda request: held(request).bind("o"), status=status),
        "fresh": failing(clear_and_fill, status=status),
        "logout": failing(clear, status=status),
        "look": look,
    }
    app = an_app(store, by_path(**acts))
    for path, expected in (("change", {"a": 1}), ("bind", {"a": 1}), ("fresh", {}), ("logout", {})):
        async with browser(app, raise_app_exceptions=False) as client:
            cookie = (await client.get("/put")).headers["set-cookie"].partition(";")[0]
            assert (status or 500) == (await client.get(f"/{path}")).status_code
            assert expected == (await client.get("/look", headers={"cookie": cookie})).json()


@pytest.mark.parametrize("status", [200, 204, 302, 404, 422])
async def test_any_other_status_saves(store: SessionStore, status: int) -> None:
    app = an_app(store, by_path(put=failing(put(a=1), status=status), look=look))
    *_, looked = await visit(app, "put", "look")
    assert looked.json() == {"a": 1}


async def test_an_outage_on_load_is_no_logout(counting: Counting, caplog: pytest.LogCaptureFixture) -> None:
    ran: list[str] = []

    def act(request: Request) -> None:
        ran.append(request.url.path)
        request.session["a"] = 1

    app = an_app(counting, act)
    async with browser(app) as client:
        await client.get("/first")
        counting.failing = {"load"}
        counting.calls.clear()
        response = await client.get("/second")
        assert (
            response.status_code,
            response.headers.get("retry-after"),
            response.headers.get("set-cookie"),
        ) == (503, "5", None)
        assert (ran, counting.calls) == (["/first"], ["load"])
        counting.failing = set()
        assert (await client.get("/third")).json() == {"a": 1}
    assert "could not be loaded" in caplog.text


async def stream(request: Request) -> Response:
    request.session["a"] = 2

    async def words() -> AsyncIterator[str]:
        yield "secret "
        yield "words"

    return StreamingResponse(words())


@pytest.mark.parametrize(
    ("act", "operation", "left"),
    [
        (put(a=2), "update", {"a": 1}),
        (stream, "update", {"a": 1}),
        (clear, "delete", {"a": 1}),
        (clear_and_fill, "create", {}),
        (lambda request: held(request).bind("o"), "rotate", {"a": 1}),
    ],
    ids=["update", "stream", "clear", "clear and fill", "bind"],
)
async def test_an_outage_on_save_is_said_and_nothing_of_the_app_comes_through(
    counting: Counting, act: Act, operation: str, left: dict[str, int]
) -> None:
    """Of a session that was cleared and filled, what can be done is done: the logout."""
    app = an_app(counting, by_path(put=put(a=1), act=act, look=look))
    async with browser(app) as client:
        await client.get("/put")
        counting.failing = {operation}
        response = await client.get("/act")
        assert (
            response.status_code,
            response.headers.get("retry-after"),
            response.text,
            response.headers.get("set-cookie"),
        ) == (503, "5", "Service Unavailable", None)
        counting.failing = set()
        assert (await client.get("/look")).json() == left


async def test_an_outage_on_the_handlers_own_save_is_a_503_too(counting: Counting) -> None:
    async def save(request: Request) -> None:
        request.session["a"] = 1
        await held(request).save()

    counting.failing = {"create"}
    [response] = await visit(an_app(counting, save), "save")
    assert response.status_code == 503


@pytest.mark.parametrize(
    ("value", "error"), [(object(), UnserializableValue), ("x" * 500_000, SessionTooLarge)], ids=["object", "large"]
)
async def test_what_cannot_be_stored_is_the_apps_error_and_nothing_is_sent(
    counting: Counting, value: object, error: type[SessionError]
) -> None:
    bad = failing(put(bad=value), status=200)
    app = an_app(counting, by_path(put=put(a=1), bad=bad, look=look))
    async with browser(app, raise_app_exceptions=False) as client:
        await client.get("/put")
        response = await client.get("/bad")
        assert response.status_code == 500
        assert "set-cookie" not in response.headers
        assert (await client.get("/look")).json() == {"a": 1}
    async with browser(app) as client:
        with pytest.raises(error, match="bad"):
            await client.get("/bad")


async def test_what_changes_after_the_response_started_is_saved_at_its_end(counting: Counting) -> None:
    async def stream_and_append(request: Request) -> Response:
        async def words() -> AsyncIterator[str]:
            yield "a"
            request.session["said"].append("a")

        def background() -> None:
            request.session["background"] = True

        return StreamingResponse(words(), background=BackgroundTask(background))

    app = an_app(counting, by_path(put=put(said=[]), stream=stream_and_append, look=look))
    *_, last = await visit(app, "put", "stream", "look")
    assert last.json() == {"said": ["a"], "background": True}
    assert counting.calls == ["create", "load", "update", "update", "load"]


@pytest.mark.parametrize("known", [True, False])
async def test_a_session_that_would_be_new_after_the_response_started_is_not_stored(
    counting: Counting, known: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def late(request: Request) -> Response:
        def background() -> None:
            request.session.clear()
            request.session["a"] = 2

        return PlainTextResponse("", background=BackgroundTask(background))

    app = an_app(counting, by_path(put=put(a=1), late=late, look=look))
    *_, last = await visit(app, *(["put"] if known else []), "late", "look")
    assert last.json() == {}
    assert counting.calls == (["create", "load", "delete", "load"] if known else [])
    assert caplog.text.count("the response has started") == 1


async def test_the_id_cannot_change_after_the_response_started(store: SessionStore) -> None:
    errors: list[SessionError] = []

    async def late(request: Request) -> Response:
        def background() -> None:
            try:
                held(request).bind("acme/alice")
            except SessionError as error:
                errors.append(error)

        return PlainTextResponse("", background=BackgroundTask(background))

    app = an_app(store, by_path(put=put(a=1), late=late, look=look))
    *_, last = await visit(app, "put", "late", "look")
    assert len(errors) == 1
    assert last.json() == {"a": 1}


async def test_excluded_paths_have_no_session(counting: Counting) -> None:
    def has_session(request: Request) -> Response:
        return JSONResponse("session" in request.scope)

    app = an_app(counting, has_session, exclude=["/static", "/healthz/"])
    app_with_cookie = an_app(counting, put(a=1))
    async with browser(app_with_cookie) as client:
        await client.get("/")
        cookies = client.cookies
    counting.calls.clear()
    async with browser(app) as client:
        client.cookies = cookies
        found = {
            path: (await client.get(path)).json()
            for path in ("/static", "/static/a.css", "/healthz", "/statics", "/", "/a/static")
        }
    assert found == {
        "/static": False,
        "/static/a.css": False,
        "/healthz": False,
        "/statics": True,
        "/": True,
        "/a/static": True,
    }
    assert len(counting.calls) == 3


async def test_a_mounted_app_shares_the_session(store: SessionStore) -> None:
    inner = Starlette(routes=[Route("/{path:path}", lambda request: JSONResponse(dict(request.session)))])

    def outer(request: Request) -> Response:
        request.session["a"] = 1
        return PlainTextResponse("")

    app = Starlette(routes=[Mount("/inner", inner), Route("/", outer)])
    app.add_middleware(DynamoDBSessionMiddleware, secret_key=KEY, store=store)
    _, response = await visit(app, "", "inner/x")
    assert response.json() == {"a": 1}


async def test_a_save_is_finished_though_the_client_is_gone(store: SessionStore) -> None:
    """A streaming response of a client that hangs up is cancelled: what it changed before is kept all the same."""

    async def hang_up(request: Request) -> Response:
        async def words() -> AsyncIterator[str]:
            request.session["heard"] = 1
            while True:
                yield "word "
                await anyio.sleep(0.01)

        return StreamingResponse(words())

    app = an_app(store, by_path(put=put(a=1), hang_up=hang_up, look=look))
    async with browser(app) as client:
        cookie = (await client.get("/put")).headers["set-cookie"].partition(";")[0]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "method": "GET",
            "scheme": "https",
            "path": "/hang_up",
            "query_string": b"",
            "headers": [(b"cookie", cookie.encode())],
        }
        gone = anyio.Event()

        async def receive() -> Message:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if message.get("body"):
                gone.set()

        with anyio.fail_after(10):
            await app(scope, receive, send)
        assert (await client.get("/look", headers={"cookie": cookie})).json() == {"a": 1, "heard": 1}


class _Held(MemoryStore):
    """A store that has done what it was asked to, and does not answer before it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.done, self.answers = anyio.Event(), anyio.Event()

    async def _hold(self, result: Any) -> Any:
        self.done.set()
        await self.answers.wait()
        return result

    async def create(self, *args: Any, **options: Any) -> Any:
        return await self._hold(await super().create(*args, **options))

    async def rotate(self, *args: Any, **options: Any) -> Any:
        return await self._hold(await super().rotate(*args, **options))


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("how", ["a new session", "a login"])
async def test_a_save_that_its_task_is_cancelled_in_is_finished_and_known(how: str) -> None:
    """`asyncio.timeout` and `Task.cancel` do not leave it half done: the browser hears of the id that is stored."""
    store = _Held()
    store.answers.set()

    async def act(request: Request) -> None:
        held(request)["n"] = 1
        if how == "a login":
            await held(request).save()
            held(request).bind("acme/alice")
        store.done, store.answers = anyio.Event(), anyio.Event()
        task = asyncio.create_task(held(request).save())
        await store.done.wait()
        task.cancel()
        await asyncio.sleep(0)
        store.answers.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    async with browser(an_app(store, act)) as client:
        response = await client.get("/")
        assert response.status_code == 200
        (record,) = [each async for each in store.scan()]
        assert f"{record.id}." in response.headers["Set-Cookie"]


async def test_a_late_save_is_finished_though_the_request_is_cancelled(store: SessionStore) -> None:
    """As an outer middleware does whose client hangs up."""

    async def late(request: Request) -> Response:
        async def words() -> AsyncIterator[str]:
            request.session["late"] = 1
            while True:
                yield "word "
                await anyio.sleep(0.01)

        return StreamingResponse(words())

    inner = an_app(store, by_path(put=put(a=1), late=late, look=look))

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        with anyio.CancelScope() as cancelled:

            async def cancelling(message: Message) -> None:
                await send(message)
                if message.get("body") and scope["path"] == "/late":
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                    cancelled.cancel()

            await inner(scope, receive, cancelling)

    async with browser(outer) as client:
        await client.get("/put")
        await client.get("/late")
        last = await client.get("/look")
    assert last.json() == {"a": 1, "late": 1}


async def test_what_a_stream_has_changed_is_stored_before_its_end_is_sent(counting: Counting) -> None:
    """So that the next request of the same browser sees it."""

    async def stream_and_append(request: Request) -> Response:
        async def words() -> AsyncIterator[str]:
            yield "a"
            request.session["said"] = "a"

        return StreamingResponse(words())

    inner = an_app(counting, by_path(put=put(a=1), stream=stream_and_append))
    calls_at_the_end: list[list[str]] = []

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        async def watching(message: Message) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body"):
                calls_at_the_end.append(list(counting.calls))
            await send(message)

        await inner(scope, receive, watching)

    async with browser(outer) as client:
        await client.get("/put")
        await client.get("/stream")
    assert calls_at_the_end == [["create"], ["create", "load", "update"]]
    assert counting.calls == ["create", "load", "update"]


async def test_no_log_line_names_an_id_or_a_key(store: SessionStore, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "dynamodb_sessions")
    app = an_app(Counting(store), by_path(put=put(a=1), end=clear, look=look))
    failing_store = Counting(store)
    failing_store.failing = {"load"}
    async with browser(app) as client:
        cookie = (await client.get("/put")).headers["set-cookie"].partition(";")[0]
        await client.get("/end")
    async with browser(an_app(failing_store, look)) as client:
        await client.get("/", headers={"cookie": cookie})
    assert caplog.text
    for part in cookie.removeprefix("session_id=").split("."):
        assert len(part) < 10 or part not in caplog.text
    assert KEY not in caplog.text


class Wire:
    """A websocket's two ends, without a server."""

    def __init__(self, app: Any, path: str = "/", cookie: str = "", scheme: str = "wss") -> None:
        headers = [(b"cookie", cookie.encode())] if cookie else []
        self.app = app
        self.scope: Scope = {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "scheme": scheme,
            "path": path,
            "query_string": b"",
            "headers": headers,
            "subprotocols": [],
            "extensions": {"websocket.http.response": {}},
        }
        self.sent: list[Message] = []
        self.to_receive: list[Message] = [{"type": "websocket.connect"}]

    async def run(self) -> "Wire":
        async def receive() -> Message:
            return self.to_receive.pop(0) if self.to_receive else {"type": "websocket.disconnect", "code": 1000}

        async def send(message: Message) -> None:
            self.sent.append(message)

        await self.app(self.scope, receive, send)
        return self

    def cookie(self) -> str:
        headers = dict(self.sent[0].get("headers", []))
        return bytes(headers.get(b"set-cookie", b"")).decode().partition(";")[0]


def a_socket(store: Any, act: Callable[[WebSocket], Awaitable[None]], **options: Any) -> Any:
    async def endpoint(websocket: WebSocket) -> None:
        await act(websocket)

    routes = [WebSocketRoute("/", endpoint)]
    return DynamoDBSessionMiddleware(Starlette(routes=routes), KEY, store=store, **options)


async def test_a_websocket_gets_its_cookie_when_it_is_accepted_and_saves_at_its_end(store: SessionStore) -> None:
    seen: list[dict[str, Any]] = []

    async def act(websocket: WebSocket) -> None:
        seen.append(dict(websocket.session))
        websocket.session["accepted"] = 1
        await websocket.accept()
        websocket.session["after"] = 2
        await websocket.close()

    app = a_socket(store, act)
    first = await Wire(app).run()
    assert [message["type"] for message in first.sent] == ["websocket.accept", "websocket.close"]
    assert first.cookie().startswith("session_id=")
    await Wire(app, cookie=first.cookie()).run()
    assert seen == [{}, {"accepted": 1, "after": 2}]


async def test_a_websocket_that_is_refused_can_get_no_session(
    store: SessionStore, caplog: pytest.LogCaptureFixture
) -> None:
    async def act(websocket: WebSocket) -> None:
        websocket.session["a"] = 1
        await websocket.close(1008)

    wire = await Wire(a_socket(store, act)).run()
    assert wire.sent == [{"type": "websocket.close", "code": 1008, "reason": ""}]
    assert "the response has started" in caplog.text


async def test_a_websocket_that_is_refused_keeps_its_id(store: SessionStore) -> None:
    async def act(websocket: WebSocket) -> None:
        if websocket.session:
            websocket.session["b"] = 2
            websocket.scope["session"].bind("acme/alice")
            await websocket.close(1008)
        else:
            websocket.session["a"] = 1
            await websocket.accept()

    app = a_socket(store, act)
    first = await Wire(app).run()
    await Wire(app, cookie=first.cookie()).run()
    name = first.cookie().removeprefix("session_id=").partition(".")[0]
    record = await store.load(name, now=0)
    assert record is not None
    assert (record.data, record.owner) == ({"a": "1", "b": "2"}, None)


async def test_a_late_save_that_fails_is_one_line_in_the_log(
    counting: Counting, caplog: pytest.LogCaptureFixture
) -> None:
    async def late(request: Request) -> Response:
        def background() -> None:
            request.session["a"] = 2
            counting.failing = {"update"}

        return PlainTextResponse("done", background=BackgroundTask(background))

    app = an_app(counting, by_path(put=put(a=1), late=late))
    *_, last = await visit(app, "put", "late")
    assert last.text == "done"
    assert caplog.text.count("could not be saved") == 1


@pytest.mark.parametrize("can_deny", [True, False])
async def test_a_websockets_outage_is_a_try_again_later(counting: Counting, can_deny: bool) -> None:
    ran: list[int] = []

    async def act(websocket: WebSocket) -> None:
        ran.append(1)
        websocket.session["a"] = len(ran)
        await websocket.accept()
        await websocket.send_text("secret")

    app = a_socket(counting, act)
    first = await Wire(app).run()
    for operation, runs in (("load", 1), ("update", 2)):
        counting.failing = {operation}
        wire = Wire(app, cookie=first.cookie())
        if not can_deny:
            wire.scope["extensions"] = {}
        await wire.run()
        if can_deny:
            assert [message["type"].rpartition(".")[2] for message in wire.sent] == ["start", "body"]
            assert wire.sent[0]["status"] == 503
            assert (b"retry-after", b"5") in wire.sent[0]["headers"]
        else:
            assert [message["type"] for message in wire.sent] == ["websocket.close"]
            assert wire.sent[0]["code"] == 1013
        assert runs == len(ran)


async def test_other_scopes_pass_untouched() -> None:
    seen: list[str] = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append(scope["type"])
        assert "session" not in scope

    middleware = DynamoDBSessionMiddleware(app, KEY, store=MemoryStore())

    async def nothing(*_: Any) -> Any:
        raise AssertionError

    await middleware({"type": "lifespan"}, nothing, nothing)
    await middleware({"type": "other"}, nothing, nothing)
    assert seen == ["lifespan", "other"]


@pytest.mark.parametrize(
    "options",
    [
        {"secret_key": ""},
        {"secret_key": "  "},
        {"secret_key": []},
        {"secret_key": ["x" * 32, ""]},
        {"secret_key": None},
        {"max_age": 0},
        {"max_age": -5},
        {"max_age": "3600"},
        {"absolute_max_age": 0},
        {"touch_after": -1},
        {"fallback": "redis"},
        {"exclude": "/static"},
        {"exclude": ["static"]},
        {"exclude": None},
        {"no_touch": "/api/poll"},
        {"no_touch": ["api/poll"]},
        {"store": MemoryStore},
        {"store": "sessions"},
        {"session_cookie": None},
        {"path": None},
        {"domain": 5},
        {"https_only": "false"},
        {"partitioned": "x"},
        {"same_site": "none", "https_only": False},
        {"session_cookie": "__Host-id", "path": "/x"},
    ],
    ids=str,
)
async def test_a_wrong_setting_is_refused_at_construction(options: dict[str, Any]) -> None:
    given: dict[str, Any] = {"secret_key": KEY, "store": MemoryStore()}
    with pytest.raises(ConfigurationError) as caught:
        DynamoDBSessionMiddleware(Starlette(), **{**given, **options})
    if options.keys() == {"secret_key"}:
        assert "token_urlsafe" in str(caught.value)


async def test_a_corrupt_session_is_an_empty_one_and_left_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    app = an_app(store, by_path(put=put(a=1), look=look))
    async with browser(app) as client:
        made = await client.get("/put")
        name = made.headers["set-cookie"].removeprefix("session_id=").partition(".")[0]
        record = await store.load(name, now=0)
        assert record is not None
        broken = await store.update(record, Changes(record.expires_at, set={"a": "{"}), now=0)
        assert (await client.get("/look")).json() == {}
        assert caplog.text.count("cannot be read") == 1
        again = await client.get("/put")
        assert again.json() == {"a": 1}
        assert name not in again.headers["set-cookie"]
    assert broken == await store.load(name, now=0)
