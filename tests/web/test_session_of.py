"""The session by its own type, and what a look at it means."""

import logging
from collections.abc import Callable
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, WebSocket
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from dynamodb_sessions import (
    DynamoDBSessionMiddleware,
    MemoryStore,
    Session,
    SessionError,
    session_middleware,
    session_of,
)
from tests.conftest import KEY, Clock

pytestmark = pytest.mark.anyio

CurrentSession = Annotated[Session, Depends(session_of)]


def test_it_is_a_dependency_of_endpoints_and_websockets_alike() -> None:
    app = FastAPI()
    app.add_middleware(DynamoDBSessionMiddleware, KEY, store=MemoryStore())

    @app.get("/put")
    def put(session: CurrentSession) -> None:
        session["user"] = "alice"

    @app.get("/look")
    async def look(session: CurrentSession) -> Any:
        return session

    @app.websocket("/talk")
    async def talk(websocket: WebSocket, session: CurrentSession) -> None:
        assert session_of(websocket) is session
        await websocket.accept()
        await websocket.send_text(session["user"])
        await websocket.close()

    with TestClient(app, base_url="https://testserver") as client:
        client.get("/put")
        assert client.get("/look").json() == {"user": "alice"}
        with client.websocket_connect("wss://testserver/talk") as websocket:
            assert websocket.receive_text() == "alice"


async def ask(app: Any, path: str = "/", cookie: str = "") -> httpx.Response:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="https://testserver") as client:
        return await client.get(path, headers={"cookie": cookie} if cookie else {})


@pytest.mark.parametrize("why", ["the toggle is off", "nothing is installed", "the path is excluded", "replaced"])
async def test_where_there_is_none_of_ours_an_error_says_so(
    why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    monkeypatch.setenv("SESSION_SECRET_KEY", KEY)
    told = []

    async def endpoint(request: Request) -> Response:
        if why == "replaced":
            request.scope["session"] = {}
        with pytest.raises(SessionError) as caught:
            session_of(request)
        told.append(str(caught.value))
        return PlainTextResponse()

    app: Any = Starlette(routes=[Route("/", endpoint)])
    if why == "the toggle is off":
        app = Starlette(routes=[Route("/", endpoint)], middleware=[session_middleware()])
    elif why != "nothing is installed":
        exclude = ["/"] if why == "the path is excluded" else []
        app = DynamoDBSessionMiddleware(app, KEY, store=MemoryStore(), exclude=exclude)
    await ask(app)
    (error,) = told
    assert ("USE_DYNAMODB_SESSIONS is off" in error) is (why in ("the toggle is off", "replaced"))
    assert ("not installed, or excludes this path" in error) is (why not in ("the toggle is off", "replaced"))


LOOKS: dict[str, Callable[[HTTPConnection], Any]] = {
    "session_of": session_of,
    "request.session": lambda request: request.session,
    "info": lambda request: request.scope["session"].info.owner,
}
USES: dict[str, Callable[[HTTPConnection], Any]] = {
    "get": lambda request: request.session.get("user"),
    "in": lambda request: "nobody" in request.session,
    "len, as Starlette before 1.0 gives it": lambda request: len(request.scope["session"]),
    "items": lambda request: list(request.session.items()),
    "a change": lambda request: request.session.update(b=1),
    "a change that is none": lambda request: request.session.update(user="alice"),
    "bind": lambda request: session_of(request).bind("acme/alice"),
}


@pytest.mark.parametrize("touch_after", [0, None])
@pytest.mark.parametrize("way", [*LOOKS, *USES, "nothing"])
async def test_looked_at_is_not_used(clock: Clock, way: str, touch_after: int | None) -> None:
    """A look makes the response vary. Use lets the session live longer, too."""
    store = MemoryStore()

    async def endpoint(request: Request) -> Response:
        if request.url.path == "/put":
            request.session["user"] = "alice"
        elif way != "nothing":
            (LOOKS | USES)[way](request)
        return PlainTextResponse()

    app = Starlette(routes=[Route("/{path:path}", endpoint)])
    app.add_middleware(DynamoDBSessionMiddleware, KEY, store=store, max_age=1000, touch_after=touch_after)
    cookie = (await ask(app, "/put")).headers["set-cookie"].partition(";")[0]
    clock.now += 500
    response = await ask(app, "/", cookie)
    assert ("vary" in response.headers) is (way != "nothing")
    (record,) = [record async for record in store.scan()]
    assert (record.expires_at - clock.now) == (1000 if way in USES else 500)
    assert ("set-cookie" in response.headers) is (way in USES)
