"""What a request may rely on when others come between its steps, over every store: memory, moto and the real engine."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.middleware import sessions as starlette_sessions
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.types import Message, Receive, Scope, Send

from dynamodb_sessions import DynamoDBSessionMiddleware, MemoryStore, Session, SessionError, open_session, session_of
from dynamodb_sessions.clock import wall_clock
from dynamodb_sessions.exceptions import outage
from dynamodb_sessions.identifiers import fingerprint
from dynamodb_sessions.stores.contract import Changes, OwnerStore, Record, SessionStore
from tests.conftest import KEY, Clock
from tests.helpers.asgi import Counting, an_app, browser, by_path, clear, held, look, put

pytestmark = pytest.mark.anyio

Act = Callable[[Request], Any]


def login(request: Request) -> None:
    request.session["user"] = "alice"
    held(request).bind("acme/alice")


def regenerate(request: Request) -> None:
    held(request).regenerate()


async def cookie_after(app: Any, path: str, cookie: str | None = None) -> tuple[str | None, Response]:
    """Make one request of a browser that has this cookie. Return the cookie it has afterwards."""
    headers = {} if cookie is None else {"cookie": f"session_id={cookie}"}
    async with browser(app) as client:
        response: Any = await client.get(path, headers=headers)
    told = response.headers.get("set-cookie", "")
    if "Max-Age=0" in told:
        return None, response
    return (told.partition(";")[0].partition("=")[2] if told else cookie), response


class TestAfterARotation:
    """A request that still has the cookie from before a login arrives after it."""

    async def test_what_would_begin_a_session_does_not_log_the_browser_out(
        self, store: SessionStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        saved: list[bool] = []

        async def late(request: Request) -> None:
            request.session["flash"] = "hello"
            saved.append(await held(request).save())
            request.session["flash"] = "again"

        app = an_app(store, by_path(put=put(a=1), login=login, late=late, look=look))
        old, _ = await cookie_after(app, "/put")
        new, _ = await cookie_after(app, "/login", old)
        assert new != old
        with caplog.at_level(logging.WARNING):
            kept, response = await cookie_after(app, "/late", old)
        assert (kept, response.status_code) == (old, 200)
        assert "set-cookie" not in response.headers
        assert saved == [False]
        assert len([record for record in caplog.records if "another id" in record.message]) == 1
        _, response = await cookie_after(app, "/look", new)
        assert response.json() == {"a": 1, "user": "alice"}  # type: ignore[attr-defined]

    @pytest.mark.parametrize("ask", [login, regenerate])
    async def test_a_request_that_asks_for_a_new_id_gets_its_session(self, store: SessionStore, ask: Act) -> None:
        """A login whose response was lost must not lock anybody out."""

        def again(request: Request) -> None:
            request.session["second"] = True
            ask(request)

        app = an_app(store, by_path(put=put(a=1), login=login, again=again, look=look))
        old, _ = await cookie_after(app, "/put")
        await cookie_after(app, "/login", old)
        new, _ = await cookie_after(app, "/again", old)
        assert new not in (None, old)
        _, response = await cookie_after(app, "/look", new)
        assert response.json()["second"] is True  # type: ignore[attr-defined]

    async def test_a_logout_with_the_old_id_expires_the_cookie_and_leaves_the_login(self, store: SessionStore) -> None:
        app = an_app(store, by_path(put=put(a=1), login=login, clear=clear, look=look))
        old, _ = await cookie_after(app, "/put")
        new, _ = await cookie_after(app, "/login", old)
        gone, _ = await cookie_after(app, "/clear", old)
        assert gone is None
        _, response = await cookie_after(app, "/look", new)
        assert response.json() == {"a": 1, "user": "alice"}  # type: ignore[attr-defined]

    @pytest.mark.parametrize(("move", "ends"), [(regenerate, True), (login, False)], ids=["same owner", "a login"])
    async def test_a_logout_that_meets_a_move_follows_it_to_the_same_owner_only(
        self, store: SessionStore, move: Act, ends: bool
    ) -> None:
        moved: list[str | None] = []

        async def slow_logout(request: Request) -> None:
            cookie = request.cookies["session_id"]
            len(request.session)
            moved.append((await cookie_after(app, "/move", cookie))[0])
            request.session.clear()

        app = an_app(store, by_path(put=put(a=1), move=move, logout=slow_logout, look=look))
        old, _ = await cookie_after(app, "/put")
        await cookie_after(app, "/logout", old)
        _, response = await cookie_after(app, "/look", moved[0])
        assert (response.json() == {}) is ends  # type: ignore[attr-defined]

    async def test_a_stale_index_does_not_hide_a_moved_session_from_revocation(self, store: OwnerStore) -> None:
        """The index of a table hears of a move later, and names the old id until then."""
        now = wall_clock()
        record = await store.create(Record("a" * 43, {}, now, now + 100, owner="acme/alice", born="b"), now=now)
        assert record is not None
        assert await store.rotate(record, "c" * 43, Changes(now + 100), now=now) is not None
        if not isinstance(store, MemoryStore):
            ids = store._ids_of  # type: ignore[attr-defined]
            asked: list[int] = []

            async def stale(owner: str) -> Any:
                asked.append(1)
                async for each in ids(owner):
                    yield "a" * 43 if len(asked) == 1 else each

            store._ids_of = stale  # type: ignore[attr-defined]
        assert await store.revoke_owner("acme/alice") == 1
        assert await store.load("c" * 43, now=now) is None

    async def test_a_marker_is_forgotten_after_a_minute(self, store: SessionStore, clock: Clock) -> None:
        app = an_app(store, by_path(put=put(a=1), login=login, late=put(flash=1)))
        old, _ = await cookie_after(app, "/put")
        await cookie_after(app, "/login", old)
        clock.now += 60
        begun, _ = await cookie_after(app, "/late", old)
        assert begun != old


class TestLogin:
    """`bind` is a login: whoever was just let in is logged in, whatever has become of the session from before."""

    async def test_after_all_the_owners_sessions_were_ended_in_the_same_request(self, store: OwnerStore) -> None:
        async def reset_password(request: Request) -> None:
            await session_of(request).info.store.revoke_owner("acme/alice")
            login(request)

        app = an_app(store, by_path(login=login, reset=reset_password, look=look))
        old, _ = await cookie_after(app, "/login")
        new, response = await cookie_after(app, "/reset", old)
        assert (response.status_code, new != old) == (200, True)
        _, response = await cookie_after(app, "/look", new)
        assert response.json() == {"user": "alice"}  # type: ignore[attr-defined]

    async def test_when_another_request_has_given_the_session_a_new_id_meanwhile(self, store: SessionStore) -> None:
        """A login that was clicked twice."""

        async def slow_login(request: Request) -> None:
            len(request.session)
            await cookie_after(app, "/login", request.cookies["session_id"])
            login(request)

        app = an_app(store, by_path(put=put(a=1), login=login, slow=slow_login, look=look))
        old, _ = await cookie_after(app, "/put")
        new, _ = await cookie_after(app, "/slow", old)
        assert new != old
        _, response = await cookie_after(app, "/look", new)
        assert response.json()["user"] == "alice"  # type: ignore[attr-defined]

    async def test_a_new_id_alone_does_not_bring_back_what_was_ended(
        self, store: SessionStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def act(request: Request) -> None:
            session = session_of(request)
            await store.delete(session.info.id)
            session.regenerate()

        app = an_app(store, by_path(put=put(a=1), act=act, look=look))
        old, _ = await cookie_after(app, "/put")
        with caplog.at_level(logging.WARNING):
            new, response = await cookie_after(app, "/act", old)
        assert (new, "set-cookie" in response.headers) == (old, False)
        told = [record.message for record in caplog.records if record.name == "dynamodb_sessions"]
        assert [message.partition(" was ended")[0] for message in told] == [
            f"session {fingerprint(str(old).partition('.')[0])}"
        ]

    async def test_what_is_put_in_after_a_logout_is_known_as_new(self, store: SessionStore) -> None:
        known: list[Any] = []

        def act(request: Request) -> None:
            session = session_of(request)
            session.clear()
            session["a"] = 2
            known.append(session.info)

        app = an_app(store, by_path(put=put(a=1), act=act))
        old, _ = await cookie_after(app, "/put")
        await cookie_after(app, "/act", old)
        assert (known[0].is_new, known[0].created_at, known[0].expires_in) == (True, None, None)


class TestSave:
    async def test_it_knows_of_a_session_that_was_ended_elsewhere(self, store: SessionStore) -> None:
        """Though nothing was changed."""
        told: list[bool] = []

        async def ask(request: Request) -> None:
            session = held(request)
            told.append(await session.save())
            await store.delete(session.info.id)
            told.append(await session.save())

        app = an_app(store, by_path(put=put(a=1), ask=ask))
        cookie, _ = await cookie_after(app, "/put")
        await cookie_after(app, "/ask", cookie)
        assert told == [True, False]

    @pytest.mark.parametrize("verb", ["save", "reload", "atomically"])
    async def test_what_it_has_saved_gives_no_cookie_if_the_session_has_another_id_since(
        self, store: SessionStore, verb: str
    ) -> None:
        """The browser may have that of a login, which this response is not to take away."""

        async def ask(request: Request) -> None:
            session = held(request)
            session["a"] = 2
            assert await session.save()
            await cookie_after(app, "/login", request.cookies["session_id"])
            if verb == "atomically":
                with pytest.raises(SessionError):
                    await session.atomically(lambda content: content.update(a=3))
            else:
                assert not await getattr(session, verb)()

        app = an_app(store, by_path(put=put(a=1), login=login, ask=ask))
        old, _ = await cookie_after(app, "/put")
        assert (await cookie_after(app, "/ask", old))[0] == old

    async def test_reload_reads_what_others_have_stored_and_forgets_what_is_not_saved(
        self, store: SessionStore
    ) -> None:
        seen: list[Any] = []

        async def ask(request: Request) -> None:
            session = held(request)
            session["mine"] = 1
            record = await store.load(session.info.id, now=wall_clock())
            assert record is not None
            await store.update(record, Changes(record.expires_at, set={"theirs": "2"}), now=wall_clock())
            seen.append((await session.reload(), dict(session)))
            session["later"] = [1]
            session["later"].append(2)
            assert await session.save()
            await store.delete(session.info.id)
            seen.append((await session.reload(), dict(session)))

        app = an_app(store, by_path(put=put(a=1), ask=ask))
        cookie, _ = await cookie_after(app, "/put")
        await cookie_after(app, "/ask", cookie)
        content = {"a": 1, "theirs": 2}
        assert seen == [(True, content), (False, content | {"later": [1, 2]})]

    async def test_a_logout_during_a_reload_is_a_logout(
        self, store: SessionStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        load = store.load

        async def slow(session_id: str, **options: Any) -> Record | None:
            found = await load(session_id, **options)
            if options["consistency"] == "strong":
                reading.set()
                await cleared.wait()
            return found

        monkeypatch.setattr(store, "load", slow)
        reading, cleared = anyio.Event(), anyio.Event()

        async def act(request: Request) -> None:
            session = session_of(request)

            async def log_out() -> None:
                await reading.wait()
                session.clear()
                cleared.set()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(log_out)
                assert not await session.reload()

        app = an_app(store, by_path(login=login, act=act, look=look))
        cookie, _ = await cookie_after(app, "/login")
        gone, _ = await cookie_after(app, "/act", cookie)
        assert gone is None
        _, response = await cookie_after(app, "/look", cookie)
        assert response.json() == {}  # type: ignore[attr-defined]

    async def test_an_id_that_has_moved_is_not_begun_anew_outside_a_request(self, store: SessionStore) -> None:
        app = an_app(store, by_path(put=put(a=1), move=regenerate))
        cookie, _ = await cookie_after(app, "/put")
        await cookie_after(app, "/move", cookie)
        with pytest.raises(SessionError, match="deleted"):
            async with open_session(store, str(cookie).partition(".")[0]) as session:
                session["b"] = 2

    async def test_what_cannot_be_reloaded_says_so(self) -> None:
        with pytest.raises(SessionError, match="no request"):
            await Session().reload()
        told: list[bool] = []

        async def ask(request: Request) -> None:
            told.append(await held(request).reload())
            held(request)["a"] = 1
            assert await held(request).save()
            held(request).clear()
            with pytest.raises(SessionError, match="cleared"):
                await held(request).reload()

        await cookie_after(an_app(MemoryStore(), ask), "/")
        assert told == [False]

    @pytest.mark.parametrize("act", ["save", "list_owner"])
    async def test_an_outage_that_the_app_meets_is_told_as_the_commits_is(self, act: str) -> None:
        class Refusing(MemoryStore):
            async def update(self, *_: Any, **__: Any) -> Any:
                raise outage("DynamoDB said ExpiredTokenException: renew the credentials")

            async def revoke_owner(self, *_: Any, **__: Any) -> Any:
                raise outage("DynamoDB said ExpiredTokenException: renew the credentials")

        async def ask(request: Request) -> None:
            session = held(request)
            session["b"] = 1
            if act == "save":
                await session.save()
            await session.info.store.revoke_owner("acme/alice")

        app = an_app(Refusing(), by_path(put=put(a=1), ask=ask))
        cookie, _ = await cookie_after(app, "/put")
        _, response = await cookie_after(app, "/ask", cookie)
        assert (response.status_code, response.headers["retry-after"]) == (503, "5")

    async def test_a_mistake_of_the_apps_is_still_its_own(self) -> None:
        def ask(request: Request) -> None:
            held(request).bind("")

        with pytest.raises(SessionError, match="owner"):
            await cookie_after(an_app(MemoryStore(), ask), "/")


class TestWhatIsPutInTheSessionsPlace:
    async def test_it_is_the_content_from_then_on(self, store: SessionStore) -> None:
        def assign(request: Request) -> None:
            request.scope["session"] = content = {"new": [1]}
            content["new"].append(2)

        app = an_app(store, by_path(put=put(a=1), assign=assign, look=look))
        cookie, _ = await cookie_after(app, "/put")
        cookie, _ = await cookie_after(app, "/assign", cookie)
        _, response = await cookie_after(app, "/look", cookie)
        assert response.json() == {"new": [1, 2]}  # type: ignore[attr-defined]

    @pytest.mark.parametrize("empty", [dict, lambda: None])
    async def test_nothing_is_a_logout(self, store: SessionStore, empty: Callable[[], Any]) -> None:
        def assign(request: Request) -> None:
            request.scope["session"] = empty()

        async def bare(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["path"] == "/put":
                scope["session"]["a"] = 1
            else:
                assign(Request(scope))
            await Response()(scope, receive, send)

        app = DynamoDBSessionMiddleware(bare, KEY, store=store)
        cookie, _ = await cookie_after(app, "/put")
        gone, response = await cookie_after(app, "/assign", cookie)
        assert gone is None
        assert response.status_code == 200

    async def test_nothing_is_a_logout_below_a_mount_too(self, store: SessionStore) -> None:
        async def log_out(request: Request) -> Response:
            request.scope["session"] = {}
            return Response()

        async def begin(request: Request) -> Response:
            request.session["a"] = 1
            return Response()

        below = Starlette(routes=[Route("/out", log_out)])
        app = DynamoDBSessionMiddleware(
            Starlette(routes=[Route("/begin", begin), Mount("/admin", below)]), KEY, store=store
        )
        cookie, _ = await cookie_after(app, "/begin")
        after, _ = await cookie_after(app, "/admin/out", cookie)
        # Before 1.0 it could be the session of Starlette's own middleware below, which has no type of its own.
        assert after == (None if hasattr(starlette_sessions, "Session") else cookie)

    async def test_what_is_no_dict_is_refused(self) -> None:
        async def bare(scope: Scope, receive: Receive, send: Send) -> None:
            scope["session"] = 5
            await Response()(scope, receive, send)

        with pytest.raises(SessionError, match="int, which is no dict"):
            await cookie_after(DynamoDBSessionMiddleware(bare, KEY, store=MemoryStore()), "/")


class TestKeys:
    async def test_emptied_of_all_its_keys_it_is_ended_though_another_request_changed_it(
        self, store: SessionStore
    ) -> None:
        async def empty(request: Request) -> None:
            for key in list(request.session):
                del request.session[key]
            await cookie_after(app, "/change", request.cookies["session_id"])

        app = an_app(store, by_path(put=put(a=1, b=2), change=put(a=3), empty=empty, look=look))
        cookie, _ = await cookie_after(app, "/put")
        gone, _ = await cookie_after(app, "/empty", cookie)
        assert gone is None
        assert await store.load(str(cookie).partition(".")[0], now=wall_clock()) is None

    @pytest.mark.parametrize("by", ["item", "update", "ior"])
    async def test_the_last_writer_of_a_key_wins_with_the_value_it_had_loaded(
        self, store: SessionStore, by: str
    ) -> None:
        async def last(request: Request) -> None:
            len(request.session)
            await cookie_after(app, "/two", request.cookies["session_id"])
            session = held(request)
            if by == "item":
                session["n"] = 1
            elif by == "update":
                session.update(n=1)
            else:
                session |= {"n": 1}

        app = an_app(store, by_path(one=put(n=1), two=put(n=2), last=last, look=look))
        cookie, _ = await cookie_after(app, "/one")
        cookie, _ = await cookie_after(app, "/last", cookie)
        _, response = await cookie_after(app, "/look", cookie)
        assert response.json() == {"n": 1}  # type: ignore[attr-defined]

    async def test_setdefault_of_a_key_that_is_there_writes_nothing(self, store: SessionStore) -> None:
        counting = Counting(store)

        async def slow(request: Request) -> None:
            request.session.setdefault("cart", [])
            await cookie_after(app, "/put", request.cookies["session_id"])
            counting.calls.clear()

        app = an_app(counting, by_path(new=put(cart=[1]), put=put(cart=[1, 2]), slow=slow, look=look))
        cookie, _ = await cookie_after(app, "/new")
        await cookie_after(app, "/slow", cookie)
        assert counting.calls == []
        _, response = await cookie_after(app, "/look", cookie)
        assert response.json() == {"cart": [1, 2]}  # type: ignore[attr-defined]

    @pytest.mark.parametrize("engine", ["memory", "local", "async"], indirect=True)  # moto is not atomic.
    async def test_what_was_acknowledged_can_be_read(self, store: SessionStore) -> None:
        """Twelve that each store 390 KB of text that compresses to nothing, at once."""
        loaded: list[int] = []
        all_loaded = anyio.Event()

        async def grow(request: Request) -> None:
            len(request.session)
            loaded.append(1)
            if len(loaded) == 12:
                all_loaded.set()
            await all_loaded.wait()
            request.session[request.query_params["key"]] = "x" * 390_000

        app = an_app(store, by_path(put=put(a=1), grow=grow, look=lambda request: request.session.keys()))
        cookie, _ = await cookie_after(app, "/put")
        statuses: list[int] = []

        async def one(key: int) -> None:
            try:
                _, response = await cookie_after(app, f"/grow?key=k{key}", cookie)
                statuses.append(response.status_code)
            except SessionError:
                statuses.append(500)

        async with anyio.create_task_group() as tasks:
            for key in range(12):
                tasks.start_soon(one, key)
        record = await store.load(str(cookie).partition(".")[0], now=wall_clock())
        assert record is not None
        assert len(record.data) == 1 + statuses.count(200)


class TestTheEnd:
    async def test_what_is_changed_where_no_commit_follows_is_told_once(self, caplog: pytest.LogCaptureFixture) -> None:
        kept: list[Session] = []

        def keep(request: Request) -> None:
            held(request)["a"] = 1
            kept.append(held(request))

        await cookie_after(an_app(MemoryStore(), keep), "/")
        with caplog.at_level(logging.WARNING):
            kept[0]["b"] = 2
            kept[0]["c"] = 3
        assert len(caplog.records) == 1
        assert "changed after its request had ended" in caplog.records[0].message
        assert await kept[0].save()

    @pytest.mark.parametrize("anyio_backend", ["asyncio"])
    async def test_the_lifespan_ends_when_the_last_commit_has(self) -> None:
        """A server's patience ends, it cancels a stream, and stops: what was changed meanwhile is stored first."""

        class Slow(MemoryStore):
            async def update(self, record: Record, changes: Changes, *, now: int) -> Record | None:
                await anyio.sleep(0.2)
                return await super().update(record, changes, now=now)

        store = Slow()

        async def stream(request: Request) -> Response:
            async def chunks() -> Any:
                yield "begun"
                request.session["late"] = True
                await anyio.sleep(60)

            return StreamingResponse(chunks())

        async def begin(request: Request) -> Response:
            request.session["a"] = 1
            return JSONResponse({})

        app = DynamoDBSessionMiddleware(
            Starlette(routes=[Route("/", stream), Route("/begin", begin)]), KEY, store=store
        )
        cookie, _ = await cookie_after(app, "/begin")
        asked: asyncio.Queue[Message] = asyncio.Queue()
        told: asyncio.Queue[Message] = asyncio.Queue()
        lifespan = asyncio.create_task(app({"type": "lifespan", "state": {}}, asked.get, told.put))
        await asked.put({"type": "lifespan.startup"})
        assert (await told.get())["type"] == "lifespan.startup.complete"

        begun = asyncio.Event()

        async def receive() -> Message:
            await asyncio.sleep(60)
            raise AssertionError

        async def send(message: Message) -> None:
            if message.get("body") == b"begun":
                begun.set()

        headers = [(b"cookie", f"session_id={cookie}".encode())]
        scope = {"type": "http", "method": "GET", "path": "/", "headers": headers, "query_string": b""}
        request = asyncio.create_task(app(scope, receive, send))
        await begun.wait()
        await asyncio.sleep(0.01)
        request.cancel()
        await asked.put({"type": "lifespan.shutdown"})
        assert (await told.get())["type"] == "lifespan.shutdown.complete"
        record = await store.load(str(cookie).partition(".")[0], now=wall_clock())
        assert record is not None
        assert record.data["late"] == "true"
        await lifespan


Handler = Callable[[Request], Awaitable[Response]]


async def test_counting_still_counts(store: SessionStore) -> None:
    """A session that is only looked at costs one call, a reload one more."""
    counting = Counting(store)

    async def ask(request: Request) -> None:
        await held(request).reload()

    app = an_app(counting, by_path(put=put(a=1), look=look, ask=ask))
    cookie, _ = await cookie_after(app, "/put")
    for path, calls in (("/look", ["load"]), ("/ask", ["load", "load"])):
        counting.calls.clear()
        await cookie_after(app, path, cookie)
        assert counting.calls == calls
