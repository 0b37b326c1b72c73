"""What browsers of the tests ask: uvicorn in front of whatever app a test serves."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from dynamodb_sessions import DynamoDBSessionMiddleware, MemoryStore, Session
from tests.conftest import KEY

PATIENCE = 20
"""Seconds for what takes a few at most when nothing else runs."""


class Site:
    """Whatever app a test serves, in the clear and encrypted, at any name that ends in `.test` and at localhost."""

    def __init__(self) -> None:
        self.app: ASGIApp = PlainTextResponse("nothing is served")
        self.ports: dict[str, int] = {}
        self.entered = Event()
        self.released = Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)

    def serve(self, **options: Any) -> None:
        """Serve an app whose sessions have these options."""
        self.entered.clear()
        self.released.clear()
        self.app = an_app(self.entered, self.released, **options)

    def url(self, path: str, host: str = "a.test", scheme: str = "https") -> str:
        return f"{scheme}://{host}:{self.ports[scheme]}{path}"


@contextmanager
def run(app: ASGIApp, certificate: Path | None = None) -> Iterator[int]:
    """Run uvicorn on a free port of this machine."""
    options: dict[str, Any] = {"ssl_certfile": certificate, "timeout_graceful_shutdown": PATIENCE}
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="websockets-sansio", lifespan="off", **options))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def an_app(entered: Event, released: Event, **options: Any) -> Starlette:
    def blank(_: Request) -> Response:
        return HTMLResponse("<!doctype html><title>Blank</title>", headers={"Cache-Control": "no-store"})

    def login(request: Request) -> Response:
        session: Session = request.session  # type: ignore[assignment]
        session["user"] = request.path_params["name"]
        session.bind(request.path_params["name"])
        return look(request)

    def visit(request: Request) -> Response:
        request.session["visited"] = True
        return look(request)

    def logout(request: Request) -> Response:
        request.session.clear()
        return look(request)

    def look(request: Request) -> Response:
        return PlainTextResponse(request.session.get("user", "nobody"), headers={"Cache-Control": "no-store"})

    def slow(request: Request) -> Response:
        request.session["slow"] = True
        entered.set()
        released.wait(PATIENCE)
        return look(request)

    def raw(request: Request) -> Response:
        return PlainTextResponse("", headers={"Set-Cookie": request.query_params["cookie"]})

    routes = [
        Route("/", blank),
        Route("/visit", visit),
        Route("/login/{name}", login),
        Route("/logout", logout),
        Route("/look", look, methods=["GET", "POST"]),
        Route("/slow", slow),
        Route("/raw", raw),
    ]
    app = Starlette(routes=[Mount("/app/deep", routes=routes), *routes])
    app.add_middleware(DynamoDBSessionMiddleware, KEY, store=MemoryStore(), **options)
    return app
