"""FastAPI, and apps that were written for Starlette's own SessionMiddleware: only the import changes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.cookies import Morsel, SimpleCookie
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException, Request, WebSocket
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import HTTPConnection
from starlette.types import Message, Scope

from dynamodb_sessions import DynamoDBSessionMiddleware, MemoryStore, StoreUnavailable
from dynamodb_sessions.stores import table_schema
from dynamodb_sessions.stores.contract import Record, SessionStore
from tests.conftest import KEY

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def browser(app: Any, host: str = "testserver", root_path: str = "") -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, root_path=root_path)
    async with httpx.AsyncClient(transport=transport, base_url=f"https://{host}") as client:
        yield client


def an_app(store: SessionStore, **options: Any) -> FastAPI:
    app = FastAPI()
    app.add_middleware(DynamoDBSessionMiddleware, secret_key=KEY, store=store, **options)
    return app


def current_user(connection: HTTPConnection) -> str:
    """A dependency for endpoints and websockets alike."""
    user: str | None = connection.session.get("user")
    if user is None:
        raise HTTPException(401)
    return user


async def test_sync_and_async_endpoints_and_dependencies_share_the_session(store: SessionStore) -> None:
    app = an_app(store)

    @app.post("/login/{user}")
    def login(request: Request, user: str) -> None:
        request.session["user"] = user
        request.session["cart"] = []

    @app.post("/cart/{thing}")
    async def put(request: Request, thing: str) -> None:
        request.session["cart"].append(thing)

    @app.get("/me")
    def me(request: Request, user: Annotated[str, Depends(current_user)]) -> list[Any]:
        return [user, request.session["cart"]]

    @app.get("/async-me")
    async def async_me(request: Request, user: Annotated[str, Depends(current_user)]) -> list[Any]:
        return [user, request.session["cart"]]

    @app.post("/logout")
    def logout(request: Request) -> None:
        request.session.clear()

    async with browser(app) as client:
        assert (await client.get("/me")).status_code == 401
        await client.post("/login/alice")
        await client.post("/cart/apple")
        for path in ("/me", "/async-me"):
            assert (await client.get(path)).json() == ["alice", ["apple"]]
        await client.post("/logout")
        assert not client.cookies
        assert (await client.get("/async-me")).status_code == 401


async def test_a_dependency_that_yields_can_change_the_session(store: SessionStore) -> None:
    """Before the endpoint and after it, whether FastAPI ends the dependency before the response or behind it."""
    app = an_app(store)

    async def steps(request: Request) -> AsyncIterator[list[str]]:
        taken = request.session.setdefault("steps", [])
        taken.append("before")
        yield taken
        taken.append("after")

    @app.get("/work")
    async def work(taken: Annotated[list[str], Depends(steps)]) -> None:
        taken.append("work")

    @app.get("/look")
    async def look(request: Request) -> Any:
        return request.session

    async with browser(app) as client:
        await client.get("/work")
        assert (await client.get("/look")).json() == {"steps": ["before", "work", "after"]}


async def test_an_http_exception_keeps_the_changes_and_a_crash_drops_them(store: SessionStore) -> None:
    app = an_app(store)

    @app.post("/put/{key}/{status}")
    async def put(request: Request, key: str, status: int) -> None:
        request.session[key] = True
        if status != 200:
            raise HTTPException(status)

    @app.get("/look")
    async def look(request: Request) -> Any:
        return request.session

    async with browser(app) as client:
        for key, status in (("a", 200), ("b", 403), ("c", 502)):
            assert (await client.post(f"/put/{key}/{status}")).status_code == status
        assert (await client.get("/look")).json() == {"a": True, "b": True}


async def test_a_mounted_app_shares_the_session(store: SessionStore) -> None:
    app, sub = an_app(store), FastAPI()
    app.mount("/shop", sub)

    @app.post("/login")
    async def login(request: Request) -> None:
        request.session["user"] = "alice"

    @sub.post("/buy")
    def buy(request: Request) -> str:
        request.session["bought"] = True
        return str(request.session["user"])

    @app.get("/look")
    async def look(request: Request) -> Any:
        return request.session

    async with browser(app) as client:
        await client.post("/login")
        assert (await client.post("/shop/buy")).json() == "alice"
        assert (await client.get("/look")).json() == {"user": "alice", "bought": True}


class Down(MemoryStore):
    """A store that has what is put in, and does not give it back."""

    async def load(self, session_id: str, **options: Any) -> Record | None:  # noqa: ARG002
        raise StoreUnavailable("the store is out")


@pytest.mark.parametrize("root_path", ["", "/v1"])
async def test_excluded_paths_have_no_session_and_need_no_store(root_path: str) -> None:
    """In mounted apps too, and whatever the prefix that the app is served under."""
    app, sub = an_app(Down(), exclude=["/health", "/shop/static/"]), FastAPI()
    app.mount("/shop", sub)

    @app.get("/put")
    async def put(request: Request) -> None:
        request.session["user"] = "alice"

    @app.get("/health")
    @app.get("/healthy")
    @sub.get("/static/logo.svg")
    @sub.get("/buy")
    async def has_session(request: Request) -> bool:
        return "session" in request.scope

    async with browser(app, root_path=root_path) as client:
        await client.get("/put")
        assert "session_id" in client.cookies
        for path in ("/health", "/shop/static/logo.svg"):
            response = await client.get(root_path + path)
            assert (response.status_code, response.text) == (200, "false"), path
            assert "vary" not in response.headers
        for path in ("/healthy", "/shop/buy"):
            assert (await client.get(root_path + path)).status_code == 503, path


async def converse(app: Any, path: str, *texts: str, cookie: str = "") -> list[Message]:
    """Open a websocket, send the texts, leave; return what the app sent."""
    sent: list[Message] = []
    received: list[Message] = [
        {"type": "websocket.connect"},
        *({"type": "websocket.receive", "text": text} for text in texts),
        {"type": "websocket.disconnect", "code": 1000},
    ]
    scope: Scope = {
        "type": "websocket",
        "scheme": "wss",
        "path": path,
        "query_string": b"",
        "headers": [(b"cookie", cookie.encode())],
        "subprotocols": [],
    }

    async def receive() -> Message:
        return received.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


async def test_a_websocket_has_the_session_of_its_browser(store: SessionStore) -> None:
    app = an_app(store)

    @app.post("/login")
    async def login(request: Request) -> None:
        request.session["user"] = "alice"

    @app.websocket("/chat")
    async def chat(websocket: WebSocket, user: Annotated[str, Depends(current_user)]) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            websocket.session.setdefault("said", []).append(text)
            await websocket.send_text(f"{user}: {text}")

    @app.get("/look")
    async def look(request: Request) -> Any:
        return request.session

    async with browser(app) as client:
        await client.post("/login")
        cookie = f"session_id={client.cookies['session_id']}"
        messages = await converse(app, "/chat", "hello", "bye", cookie=cookie)
        assert [message.get("text") for message in messages] == [None, "alice: hello", "alice: bye"]
        assert (await client.get("/look")).json() == {"user": "alice", "said": ["hello", "bye"]}


ORIGINS = {"starlette": (SessionMiddleware, "no"), "memory": (DynamoDBSessionMiddleware, "no")}
ORIGINS |= {"dynamodb": (DynamoDBSessionMiddleware, "yes")}


@pytest.fixture(params=list(ORIGINS))
def middleware(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, moto_url: str, dynamodb: Any, table_name: str
) -> Any:
    """The class that an import brings, and the environment that is around it."""
    cls, use_dynamodb = ORIGINS[request.param]
    monkeypatch.setenv("USE_DYNAMODB_SESSIONS", use_dynamodb)
    if request.param == "dynamodb":
        monkeypatch.setenv("SESSION_TABLE_NAME", table_name)
        monkeypatch.setenv("DYNAMODB_ENDPOINT_URL", moto_url)
        table_schema.create(dynamodb, table_name)
    return cls


def an_older_app() -> FastAPI:
    """An app that knows nothing of this package."""
    app = FastAPI()

    @app.post("/app/login")
    async def login(request: Request) -> bool:
        request.session["user"] = "alice"
        request.session.update(cart=["apple"], visits=1)
        return isinstance(request.session, dict)

    @app.get("/app/me")
    def me(request: Request) -> Any:
        request.session["visits"] += 1
        return request.session

    @app.post("/app/forget")
    def forget(request: Request) -> Any:
        return request.session.pop("cart", None)

    @app.get("/app/public")
    def public() -> str:
        return "hello"

    @app.post("/app/logout")
    def logout(request: Request) -> None:
        request.session.clear()

    return app


async def use(app: FastAPI, host: str, name: str) -> tuple[Morsel[str], Morsel[str]]:
    """Log in, look around, log out, and find it all as it should be. Returns the first and the last cookie."""
    async with browser(app, host) as client:
        assert "set-cookie" not in (await client.get("/app/public")).headers
        login = await client.post("/app/login")
        assert login.json() is True
        assert (await client.get("/app/me")).json() == {"user": "alice", "cart": ["apple"], "visits": 2}
        assert (await client.post("/app/forget")).json() == ["apple"]
        assert (await client.get("/app/me")).json() == {"user": "alice", "visits": 3}
        async with browser(app, host) as stranger:
            assert (await stranger.post("/app/forget")).json() is None
        logout = await client.post("/app/logout")
        assert not client.cookies
        assert (await client.post("/app/forget")).json() is None
    return SimpleCookie(login.headers["set-cookie"])[name], SimpleCookie(logout.headers["set-cookie"])[name]


async def test_all_parameters_of_starlettes_middleware_by_name(middleware: Any) -> None:
    app = an_older_app()
    app.add_middleware(
        middleware,
        KEY,
        session_cookie="sid",
        max_age=600,
        path="/app",
        same_site="strict",
        https_only=True,
        domain="example.com",
    )
    given, taken = await use(app, "www.example.com", "sid")
    assert given["max-age"] == "600"
    assert taken["expires"] == "Thu, 01 Jan 1970 00:00:00 GMT"
    for cookie in (given, taken):
        assert (cookie["path"], cookie["domain"], cookie["samesite"]) == ("/app", "example.com", "strict")
        assert (cookie["secure"], cookie["httponly"]) == (True, True)


async def test_all_parameters_of_starlettes_middleware_by_position(middleware: Any) -> None:
    app = an_older_app()
    app.add_middleware(middleware, KEY, "sid", None, "/app", "strict", True, "example.com")
    given, taken = await use(app, "www.example.com", "sid")
    assert (given["max-age"], given["expires"]) == ("", "")
    for cookie in (given, taken):
        assert (cookie["path"], cookie["domain"], cookie["samesite"]) == ("/app", "example.com", "strict")
        assert (cookie["secure"], cookie["httponly"]) == (True, True)


async def test_the_secret_key_alone_is_enough(middleware: Any) -> None:
    """The cookie's name and lifetime are then the middleware's own."""
    app = an_older_app()
    app.add_middleware(middleware, KEY)
    name = "session" if middleware is SessionMiddleware else "session_id"
    given, taken = await use(app, "www.example.com", name)
    for cookie in (given, taken):
        assert (cookie["path"], cookie["domain"], cookie["samesite"]) == ("/", "", "lax")
        assert cookie["httponly"] is True
