"""Sessions that cannot be set up: raised where their user makes the middleware, told once where Starlette does."""

import functools
import logging
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from dynamodb_sessions import ConfigurationError, DynamoDBSessionMiddleware
from dynamodb_sessions.web.misconfigured import Misconfigured

pytestmark = pytest.mark.anyio

MISSING = "SESSION_SECRET_KEY is not set"


def without_a_key(make: Callable[..., Any] = Starlette) -> Any:
    app = make()
    app.add_middleware(DynamoDBSessionMiddleware)
    return app


@pytest.mark.parametrize("make", [Starlette, FastAPI])
def test_every_request_is_answered_500_and_why_is_told_once(
    make: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    client = TestClient(without_a_key(make))
    for _ in range(3):
        answer = client.get("/")
        assert (answer.status_code, answer.text) == (500, "Internal Server Error")
        assert answer.headers["Cache-Control"] == "no-store"
    (told,) = caplog.records
    assert (told.levelno, told.name, told.exc_info) == (logging.ERROR, "dynamodb_sessions", None)
    assert MISSING in told.getMessage()


def test_no_option_is_too_wrong_for_that(caplog: pytest.LogCaptureFixture) -> None:
    app = Starlette()
    app.add_middleware(DynamoDBSessionMiddleware, "k" * 32, max_age=0)
    assert TestClient(app).get("/").status_code == 500
    assert "max_age=0" in caplog.text


def test_starlettes_test_client_raises_it() -> None:
    with pytest.raises(ConfigurationError, match=MISSING), TestClient(without_a_key()):
        pass


async def test_where_its_user_makes_it_it_raises() -> None:
    """In an event loop too, and within another app's request."""

    def view(_: Request) -> Response:
        with pytest.raises(ConfigurationError, match=MISSING):
            DynamoDBSessionMiddleware(Starlette())
        return PlainTextResponse("raised")

    with pytest.raises(ConfigurationError, match=MISSING):
        DynamoDBSessionMiddleware(Starlette())
    with pytest.raises(ConfigurationError, match=MISSING):
        without_a_key().build_middleware_stack()
    assert TestClient(Starlette(routes=[Route("/", view)])).get("/").text == "raised"


def test_subclasses_and_instruments_in_between_change_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """OpenTelemetry and the like wrap the method that Starlette makes its middleware with."""

    class Ours(DynamoDBSessionMiddleware):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)

    app = Starlette()
    app.add_middleware(Ours)
    build = app.build_middleware_stack

    @functools.wraps(build)
    def instrumented() -> Any:
        return build()

    app.build_middleware_stack = instrumented  # type: ignore[method-assign]
    assert TestClient(app).get("/").status_code == 500
    assert caplog.text.count(MISSING) == 1


async def test_only_the_first_lifespan_fails() -> None:
    """Behind Mangum every invocation has one."""
    app = Misconfigured(ConfigurationError("why"))
    sent: list[str] = []

    async def receive() -> dict[str, str]:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(message["type"].removeprefix("lifespan."))

    with pytest.raises(ConfigurationError, match="why"):
        await app({"type": "lifespan"}, receive, send)
    assert sent == ["startup.complete", "shutdown.failed"]
    sent.clear()
    await app({"type": "lifespan"}, receive, send)
    assert sent == ["startup.complete", "shutdown.complete"]


async def test_a_websocket_is_closed_where_the_server_cannot_deny_it() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError

    await Misconfigured(ConfigurationError("why"))({"type": "websocket"}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1011, "reason": "Internal Server Error"}]


def test_a_websocket_is_denied_where_it_can() -> None:
    client = TestClient(without_a_key())
    with pytest.raises(WebSocketDisconnect) as denied, client.websocket_connect("/"):
        pass
    assert getattr(denied.value, "status_code", None) == 500
