"""What is left of a request when it is over."""

import asyncio
import contextlib
import gc
from typing import Any

import pytest

from dynamodb_sessions import DynamoDBSessionMiddleware, MemoryStore, Session
from dynamodb_sessions.clock import wall_clock
from tests.conftest import KEY

pytestmark = pytest.mark.anyio

Sent = list[Any]


async def ask(app: Any, path: str = "/", cookie: str = "", kind: str = "http") -> Sent:
    sent: Sent = []

    async def receive() -> Any:
        return {"type": f"{kind}.request", "body": b""}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"cookie", cookie.encode())] if cookie else []
    await app({"type": kind, "method": "GET", "path": path, "scheme": "https", "headers": headers}, receive, send)
    return sent


def cookie_of(sent: Sent) -> str:
    found: bytes = dict(sent[0]["headers"])[b"set-cookie"]
    return found.decode().partition(";")[0]


async def answer(send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def test_nothing_is_left_to_the_garbage_collector() -> None:
    """Else its memory is not used again at once, and each request takes longer."""

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        if scope["path"] != "/nothing":
            scope["session"]["list"] = [*scope["session"].get("list", []), 1][-3:]
        await answer(send)

    middleware = DynamoDBSessionMiddleware(app, KEY, store=MemoryStore())
    cookie = cookie_of(await ask(middleware))
    gc.collect()
    gc.disable()
    try:
        for _ in range(50):
            await ask(middleware, "/nothing")
            await ask(middleware, cookie=cookie)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = [type(each).__name__ for each in gc.garbage]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert "Session" not in left
    assert "RequestCycle" not in left


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_who_outlives_the_request_may_save_but_not_speak(kind: str) -> None:
    kept: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["session"]["user"] = "alice"
        kept.extend((scope["session"], receive, send))
        await (answer(send) if kind == "http" else send({"type": "websocket.accept"}))

    store = MemoryStore()
    sent = await ask(DynamoDBSessionMiddleware(app, KEY, store=store), kind=kind)
    session, receive, send = kept
    assert isinstance(session, Session)
    before = len(sent)
    await send({"type": "http.response.body", "body": b"late"})
    assert len(sent) == before
    assert await receive() == {"type": f"{kind}.disconnect"} | ({"code": 1005} if kind == "websocket" else {})
    session["later"] = 1
    one, other = await asyncio.gather(session.save(), session.save())
    assert one is other is True
    record = await store.load(session.info.id, now=wall_clock())
    assert record is not None
    assert record.data == {"user": '"alice"', "later": "1"}


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_what_the_client_has_sent_is_received_though_it_has_gone(kind: str) -> None:
    """A failed send says that nothing arrives any more, not that nothing had come."""
    queued = [{"type": f"{kind}.request", "body": b"1"}, {"type": f"{kind}.disconnect", "code": 4001}]
    received = []

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        with contextlib.suppress(OSError):
            await send({"type": "http.response.start", "status": 200} if kind == "http" else {"type": "websocket.send"})
        received.extend([await receive() for _ in queued])

    messages = iter(queued)

    async def receive() -> Any:
        return next(messages)

    async def send(_: Any) -> None:
        raise BrokenPipeError

    middleware = DynamoDBSessionMiddleware(app, KEY, store=MemoryStore())
    await middleware({"type": kind, "method": "GET", "path": "/", "headers": []}, receive, send)
    assert received == queued


async def test_an_app_that_is_wrapped_later_is_called_wrapped() -> None:
    """As tracers do it with what the `app` of a built middleware is."""
    called = []

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        called.append(scope["path"])
        await answer(send)

    async def tracing(scope: Any, receive: Any, send: Any) -> None:
        called.append("traced")
        await app(scope, receive, send)

    middleware = DynamoDBSessionMiddleware(app, KEY, store=MemoryStore(), exclude=["/not"])
    middleware.app = tracing
    for path in ("/", "/not"):
        await ask(middleware, path)
    assert called == ["traced", "/", "traced", "/not"]
