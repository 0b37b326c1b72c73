"""session_transaction: the session of a test's client, through the app, as any request has it."""

import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, assert_type

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.httpsredirect import HTTPSRedirectMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from dynamodb_sessions import (
    DynamoDBSessionMiddleware,
    DynamoDBStore,
    MemoryStore,
    Session,
    SessionError,
    StoreUnavailable,
    UnserializableValue,
    session_middleware,
)
from dynamodb_sessions.stores.contract import OwnerStore, SessionStore
from dynamodb_sessions.testing import session_transaction
from tests.conftest import KEY
from tests.helpers.asgi import Counting, an_app, browser, by_path, clear, look

if TYPE_CHECKING:
    import httpx2

pytestmark = pytest.mark.anyio

ASYNC_CLIENTS = ["httpx", "httpx2"] if find_spec("httpx2") else ["httpx"]
CLIENTS = ["TestClient", "TestClient in with", *ASYNC_CLIENTS]
KEPT = by_path(**{"": look, "logout": clear})


class Visitor:
    """A client of any kind, used in one way."""

    def __init__(self, client: Any) -> None:
        self.client = client

    @asynccontextmanager
    async def session(self, **options: Any) -> AsyncIterator[Session]:
        if isinstance(self.client, TestClient):
            with session_transaction(self.client, **options) as session:
                yield session
        else:
            async with session_transaction(self.client, **options) as session:
                yield session

    async def get(self, path: str = "/") -> Any:
        response = self.client.get(path)
        return response if isinstance(self.client, TestClient) else await response

    async def content(self) -> Any:
        return (await self.get()).json()


@asynccontextmanager
async def visiting(
    kind: str, app: Any, base_url: str = "https://testserver", *, raises: bool = True, **options: Any
) -> AsyncIterator[Visitor]:
    async with AsyncExitStack() as stack:
        client: Any
        if kind.startswith("TestClient"):
            client = TestClient(app, base_url, raise_server_exceptions=raises, **options)
            if kind.endswith("with"):
                stack.enter_context(client)
        else:
            library: Any = httpx
            if kind == "httpx2":
                import httpx2 as library  # noqa: PLC0415 - where it is installed
            transport = library.ASGITransport(app, raise_app_exceptions=raises)
            client = library.AsyncClient(transport=transport, base_url=base_url, **options)
            await stack.enter_async_context(client)
        yield Visitor(client)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=CLIENTS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def memory() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def visitor(kind: str, memory: MemoryStore) -> AsyncIterator[Visitor]:
    async with visiting(kind, an_app(memory, KEPT)) as visitor:
        yield visitor


async def owned(store: OwnerStore, owner: str = "acme/alice") -> list[dict[str, Any]]:
    return [record.content() async for record in store.list_owner(owner)]


class TestWhatItDoes:
    async def test_the_next_request_is_logged_in(self, visitor: Visitor, memory: MemoryStore) -> None:
        async with visitor.session() as session:
            assert session.info.is_new
            session["user"] = "alice"
            session.bind("acme/alice")
        assert await visitor.content() == {"user": "alice"}
        assert await owned(memory) == [{"user": "alice"}]

    async def test_it_is_the_session_that_was_there_before(self, visitor: Visitor) -> None:
        async with visitor.session() as session:
            session["cart"] = ["apple"]
        async with visitor.session() as session:
            assert session == {"cart": ["apple"]}
            assert not session.info.is_new
            session["cart"].append("pear")
        assert await visitor.content() == {"cart": ["apple", "pear"]}

    async def test_to_read_it_is_no_change(self, visitor: Visitor) -> None:
        async with visitor.session() as session:
            assert session == {}
        assert not visitor.client.cookies

    async def test_clear_is_a_logout(self, visitor: Visitor, memory: MemoryStore) -> None:
        async with visitor.session() as session:
            session.bind("acme/alice")
        async with visitor.session() as session:
            session.clear()
        assert not visitor.client.cookies
        assert await owned(memory) == []

    @pytest.mark.parametrize("act", [Session.clear, lambda session: session.update(user="eve")])
    async def test_nothing_is_stored_if_the_block_raises(
        self, visitor: Visitor, memory: MemoryStore, act: Callable[[Session], None]
    ) -> None:
        async with visitor.session() as session:
            session["user"] = "alice"
            session.bind("acme/alice")
        error = RuntimeError("the test fails")
        with pytest.raises(RuntimeError) as raised:
            async with visitor.session() as session:
                act(session)
                raise error
        assert raised.value is error
        assert await visitor.content() == {"user": "alice"}
        assert await owned(memory) == [{"user": "alice"}]

    async def test_no_new_session_is_stored_if_the_block_raises(self, visitor: Visitor, memory: MemoryStore) -> None:
        with pytest.raises(KeyError, match="absent"):
            async with visitor.session() as session:
                session["user"] = "alice"
                session.bind("acme/alice")
                session["absent"]
        assert not visitor.client.cookies
        assert await owned(memory) == []

    async def test_requests_in_the_block_see_what_is_stored(self, visitor: Visitor) -> None:
        async with visitor.session() as session:
            session["user"] = "alice"
        async with visitor.session() as session:
            session["user"] = "bob"
            assert await visitor.content() == {"user": "alice"}
        assert await visitor.content() == {"user": "bob"}

    async def test_blocks_can_be_nested(self, visitor: Visitor) -> None:
        async with visitor.session() as session:
            session["user"] = "alice"
        async with visitor.session() as outer:
            async with visitor.session() as inner:
                inner["inner"] = 1
            outer["outer"] = 2
        assert await visitor.content() == {"user": "alice", "inner": 1, "outer": 2}

    async def test_what_the_block_saves_stays_saved(self, memory: MemoryStore) -> None:
        async with visiting("httpx", an_app(memory, KEPT)) as visitor:
            with pytest.raises(RuntimeError):
                async with visitor.session() as session:
                    session["user"] = "alice"
                    assert await session.save()
                    session["user"] = "eve"
                    raise RuntimeError
            assert await visitor.content() == {"user": "alice"}

    async def test_it_is_kept_in_any_store(self, store: SessionStore) -> None:
        async with visiting("httpx", an_app(store, KEPT)) as visitor:
            async with visitor.session() as session:
                session["user"] = "alice"
                session.bind("acme/alice")
            async with visitor.session() as session:
                session["cart"] = [1]
            assert await visitor.content() == {"user": "alice", "cart": [1]}

    @pytest.mark.parametrize("backend", ["asyncio", "trio"])
    def test_a_test_client_has_event_loops_of_its_own(self, backend: Any, table_name: str, moto_url: str) -> None:
        store = DynamoDBStore(table_name, endpoint_url=moto_url, create_table=True)
        client = TestClient(an_app(store, KEPT), backend=backend)
        with session_transaction(client) as session:
            session["user"] = "alice"
        assert client.get("/").json() == {"user": "alice"}

    def test_threads_do_not_mix(self, memory: MemoryStore) -> None:
        app = an_app(memory, KEPT)
        together = threading.Barrier(8)
        seen: list[Any] = []

        def visit(number: int) -> None:
            client = TestClient(app)
            with session_transaction(client) as session:
                together.wait(30)
                session["number"] = number
                together.wait(30)
            seen.append((number, client.get("/").json()))

        threads = [threading.Thread(target=visit, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(seen) == [(number, {"number": number}) for number in range(8)]


class TestTheWayThroughTheApp:
    async def test_no_endpoint_is_called(self, kind: str, memory: MemoryStore) -> None:
        called: list[str] = []
        async with visiting(kind, an_app(memory, lambda request: called.append(request.method))) as visitor:
            async with visitor.session() as session:
                session["user"] = "alice"
            assert called == []
            await visitor.get()
            assert called == ["GET"]

    async def test_middlewares_around_ours_stay_where_they_are(self, kind: str, memory: MemoryStore) -> None:
        async def note(request: Request, call_next: Any) -> Response:
            request.scope["noted"] = True
            response: Response = await call_next(request)
            return response

        app: Any = an_app(memory, KEPT)
        app = BaseHTTPMiddleware(GZipMiddleware(CORSMiddleware(app, allow_origins=["*"])), dispatch=note)
        async with visiting(kind, BaseHTTPMiddleware(app, dispatch=note), headers={"Origin": "https://a"}) as visitor:
            async with visitor.session() as session:
                session["user"] = "alice"
            assert await visitor.content() == {"user": "alice"}

    async def test_a_mounted_app_has_its_own_session(self, kind: str, memory: MemoryStore) -> None:
        admin = an_app(memory, KEPT, session_cookie="admin")
        outer = Middleware(DynamoDBSessionMiddleware, secret_key=KEY, store=memory, exclude=["/admin"])
        app = Starlette(routes=[Mount("/admin", admin), Mount("/", an_app(memory, KEPT))], middleware=[outer])
        async with visiting(kind, app) as visitor:
            async with visitor.session(path="/admin/") as session:
                session["user"] = "root"
            assert set(visitor.client.cookies) == {"admin"}
            assert (await visitor.get("/admin/")).json() == {"user": "root"}

    async def test_only_its_own_request_is_marked(self, visitor: Visitor) -> None:
        """Whatever else is sent, with the same headers, reaches the app."""
        async with visitor.session() as session:
            session["user"] = "alice"
            response = visitor.client.request("TRACE", "/", headers={"session_transaction": "1"})
            response = response if isinstance(visitor.client, TestClient) else await response
            assert response.status_code == 405

    async def test_what_the_app_asks_of_itself_meanwhile_is_not_marked(self, kind: str, memory: MemoryStore) -> None:
        inner, answers = an_app(memory, KEPT), list[int]()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await inner(scope, receive, send)
            if scope["type"] == "http":
                async with browser(inner) as client:
                    answers.append((await client.get("/")).status_code)

        async with visiting(kind, app) as visitor, visitor.session() as session:
            session["user"] = "alice"
        assert answers == [200]


class TestWithoutASession:
    async def raised(self, kind: str, app: Any, **options: Any) -> str:
        path = options.pop("path", "/")
        async with visiting(kind, app, **options) as visitor:
            with pytest.raises(SessionError) as raised:
                async with visitor.session(path=path):
                    pytest.fail("the block runs")
        return str(raised.value)

    async def test_no_middleware_is_installed(self, kind: str) -> None:
        app = Starlette(routes=[Route("/", lambda _: pytest.fail("the endpoint is called"))])
        told = await self.raised(kind, app)
        assert "no session at '/'" in told
        assert "405" in told
        assert "It is not installed there" in told

    async def test_the_toggle_is_off(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("USE_DYNAMODB_SESSIONS", raising=False)
        app = Starlette(routes=[Route("/", PlainTextResponse("hello"))], middleware=[session_middleware(KEY)])
        told = await self.raised(kind, app)
        assert "Starlette's SessionMiddleware" in told
        assert "USE_DYNAMODB_SESSIONS is off" in told

    async def test_the_path_is_excluded(self, kind: str, memory: MemoryStore) -> None:
        told = await self.raised(kind, an_app(memory, KEPT, exclude=["/static"]), path="/static/logo.png")
        assert "no session at '/static/logo.png': `exclude` of DynamoDBSessionMiddleware excludes it" in told

    async def test_a_middleware_in_front_answers_by_itself(self, kind: str, memory: MemoryStore) -> None:
        app = HTTPSRedirectMiddleware(an_app(memory, KEPT))
        told = await self.raised(kind, app, base_url="http://testserver")
        assert "307" in told
        assert "a middleware in front of it answers by itself: a redirect" in told

    @pytest.mark.parametrize("kind", ["TestClient", *ASYNC_CLIENTS])
    async def test_the_secret_key_is_forgotten(self, kind: str, memory: MemoryStore) -> None:
        told = await self.raised(kind, an_app(memory, KEPT, secret_key=None))
        assert told == "the session could not be loaded: the middleware answered 500; an ERROR in the log says why"

    @pytest.mark.parametrize("raises", [True, False])
    async def test_what_a_middleware_in_front_raises_comes_through(self, kind: str, *, raises: bool) -> None:
        async def app(*_: Any) -> None:
            raise OSError("it is broken")

        expected = (OSError, SessionError)[not raises]
        async with visiting(kind, Starlette(routes=[Mount("/", app)]), raises=raises) as visitor:
            with pytest.raises(expected, match="broken" if raises else "500"):
                async with visitor.session():
                    pytest.fail("the block runs")

    async def test_what_is_no_client_is_a_type_error(self, memory: MemoryStore) -> None:
        with pytest.raises(TypeError, match="takes a TestClient or an AsyncClient, not Starlette"):
            session_transaction(an_app(memory, KEPT))  # type: ignore[call-overload]


class TestTrouble:
    @pytest.mark.parametrize("raises", [True, False])
    async def test_an_outage_when_it_is_loaded(self, kind: str, memory: MemoryStore, *, raises: bool) -> None:
        store = Counting(memory)
        async with visiting(kind, an_app(store, KEPT), raises=raises) as visitor:
            async with visitor.session() as session:
                session["user"] = "alice"
            store.failing = {"load"}
            with pytest.raises(StoreUnavailable, match="could not be loaded"):
                async with visitor.session():
                    pytest.fail("the block runs")

    @pytest.mark.parametrize("raises", [True, False])
    async def test_an_outage_when_it_is_saved(self, kind: str, memory: MemoryStore, *, raises: bool) -> None:
        store = Counting(memory)
        store.failing = {"create"}
        async with visiting(kind, an_app(store, KEPT), raises=raises) as visitor:
            with pytest.raises(StoreUnavailable, match="could not be saved"):
                async with visitor.session() as session:
                    session["user"] = "alice"
            assert not visitor.client.cookies

    @pytest.mark.parametrize("raises", [True, False])
    async def test_what_a_commit_raises_is_raised(self, kind: str, memory: MemoryStore, *, raises: bool) -> None:
        async with visiting(kind, an_app(memory, KEPT), raises=raises) as visitor:
            with pytest.raises(UnserializableValue, match="when"):
                async with visitor.session() as session:
                    session["when"] = object()

    async def test_it_was_ended_while_the_block_ran(self, visitor: Visitor) -> None:
        async with visitor.session() as session:
            session["user"] = "alice"
        with pytest.raises(SessionError, match="was ended while the block ran"):
            async with visitor.session() as session:
                await visitor.get("/logout")
                session["user"] = "bob"
        assert await visitor.content() == {}

    def test_the_app_gives_up_in_the_block(self, memory: MemoryStore) -> None:
        """For want of time, for example."""
        inner, scopes = an_app(memory, KEPT), list[anyio.CancelScope]()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            with anyio.CancelScope() as limit:
                scopes.append(limit)
                await inner(scope, receive, send)
            if limit.cancel_called:
                await PlainTextResponse("too late", 504)(scope, receive, send)

        with TestClient(app) as client:
            told = pytest.raises(SessionError, match="ended before the block did, with 504")
            with told, session_transaction(client) as session:
                session.bind("acme/alice")
                assert client.portal is not None
                client.portal.call(scopes[-1].cancel)
            assert not client.cookies

    async def test_a_block_that_is_cancelled_stores_nothing(self, memory: MemoryStore) -> None:
        async with visiting("httpx", an_app(memory, KEPT)) as visitor:
            async with visitor.session() as session:
                session["user"] = "alice"
            with anyio.CancelScope() as scope:
                async with visitor.session() as session:
                    session.clear()
                    session["user"] = "eve"
                    scope.cancel()
                    await anyio.sleep_forever()
            assert await visitor.content() == {"user": "alice"}


class TestTheCookie:
    """One that the client would not send back is an error: its next request would not be logged in."""

    @pytest.mark.parametrize(
        ("options", "path", "told"),
        [
            (
                {"https_only": True},
                "/",
                r"it is Secure, and this is http://testserver. .*base_url='https://testserver'",
            ),
            ({"session_cookie": "__Host-id"}, "/", "https_only=None"),
            ({"path": "/admin"}, "/", "its path is '/admin'"),
            ({"path": "/admin"}, "/administrator", "its path is '/admin'"),
            ({"domain": "example.com"}, "/", "its domain is 'example.com', and this is 'testserver'"),
        ],
    )
    async def test_what_would_not_be_sent_back(self, kind: str, options: Any, path: str, told: str) -> None:
        async with visiting(kind, an_app(MemoryStore(), KEPT, **options), "http://testserver") as visitor:
            with pytest.raises(SessionError, match=told):
                async with visitor.session(path=path) as session:
                    session["user"] = "alice"

    @pytest.mark.parametrize(
        ("options", "base_url", "path"),
        [
            ({}, "http://testserver", "/"),
            ({"https_only": True}, "https://testserver", "/"),
            ({"path": "/admin"}, "http://testserver", "/admin"),
            ({"path": "/admin"}, "http://testserver/admin", "/users"),
            ({"domain": "example.com"}, "https://www.example.com", "/"),
        ],
    )
    async def test_what_would_be(self, kind: str, options: Any, base_url: str, path: str) -> None:
        async with visiting(kind, an_app(MemoryStore(), look, **options), base_url) as visitor:
            async with visitor.session(path=path) as session:
                session["user"] = "alice"
            assert (await visitor.get(path)).json() == {"user": "alice"}

    async def test_a_client_with_a_cookie_header_of_its_own(self, kind: str, memory: MemoryStore) -> None:
        async with visiting(kind, an_app(memory, KEPT), headers={"Cookie": "theme=dark"}) as visitor:
            with pytest.raises(SessionError, match="a Cookie header or a policy of its own") as raised:
                async with visitor.session() as session:
                    session["user"] = "alice"
                    secret = session.info.id
        assert secret not in str(raised.value)

    async def test_a_client_that_sends_a_header_in_place_of_the_cookie_has_the_token_there(self, kind: str) -> None:
        app = an_app(MemoryStore(), look, session_header="X-Session-Token")
        async with visiting(kind, app, headers={"X-Session-Token": ""}) as visitor:
            async with visitor.session() as session:
                session["user"] = "alice"
            assert (await visitor.get("/")).json() == {"user": "alice"}
            assert not visitor.client.cookies
            async with visitor.session() as session:
                session.clear()
            assert visitor.client.headers["X-Session-Token"] == ""


class TestWhatOthersPay:
    def test_neither_client_is_imported_and_no_middleware_is_wrapped(self) -> None:
        script = (
            "import sys; from dynamodb_sessions import DynamoDBSessionMiddleware as ours; call = ours.__call__;"
            "assert 'dynamodb_sessions.testing' not in sys.modules; import dynamodb_sessions.testing;"
            "assert not {'httpx', 'httpx2', 'starlette.testclient'} & set(sys.modules); assert ours.__call__ is call"
        )
        subprocess.run([sys.executable, "-c", script], check=True)

    @pytest.mark.parametrize("kind", ["TestClient"])
    async def test_other_apps_go_on(self, visitor: Visitor) -> None:
        """The wrapped middlewares serve whatever is not marked, websockets and lifespans too."""
        async with visitor.session():
            pass

        async def talk(scope: Any, receive: Any, send: Any) -> None:
            assert scope["type"] == "websocket"
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": "hello"})
            await send({"type": "websocket.close"})

        starlettes = Starlette(
            routes=[Route("/", lambda request: JSONResponse(request.session))],
            middleware=[Middleware(SessionMiddleware, secret_key=KEY)],
        )
        assert TestClient(starlettes).get("/").json() == {}
        client = TestClient(DynamoDBSessionMiddleware(talk, KEY, store=MemoryStore()))
        with client.websocket_connect("/") as websocket:
            assert websocket.receive_text() == "hello"


@contextmanager
def of_its_type() -> Iterator[TestClient]:
    with TestClient(an_app(MemoryStore(), KEPT)) as client, session_transaction(client) as session:
        assert_type(session, Session)
        yield client


async def test_a_client_without_a_base_url_is_told_so(memory: MemoryStore) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(an_app(memory, KEPT))) as client:
        with pytest.raises(SessionError, match="base_url"):
            async with session_transaction(client):
                pytest.fail("there is nothing to send a request to")


async def test_its_type_is_known(memory: MemoryStore) -> None:
    with of_its_type():
        pass
    async with visiting("httpx", an_app(memory, KEPT)) as visitor:
        client: httpx.AsyncClient = visitor.client
        async with session_transaction(client) as session:
            assert_type(session, Session)


async def known_of_httpx2(client: "httpx2.AsyncClient") -> None:
    """Checked by mypy alone."""
    async with session_transaction(client, path="/") as session:
        assert_type(session, Session)
