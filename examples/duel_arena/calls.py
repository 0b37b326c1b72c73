"""Which DynamoDB calls a request made: those before its headers go into a header, those after are kept to be shown.

A context variable holds the list of the request at hand. Worker threads get a copy of the context, and with it the
very same list, so what boto3 reports there ends up with the right request.
"""

import time
from collections import deque
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dynamodb_sessions import Session

HEADER = "X-DynamoDB-Calls"

_KEPT = 100

_operations: ContextVar[list[str]] = ContextVar("operations")


def watch(client: Any) -> None:
    """Note every call this boto3 client makes. Watching it twice is watching it once."""
    client.meta.events.register("before-call.dynamodb", _note, unique_id="duel-arena")


def _note(model: Any, **_: Any) -> None:
    operations = _operations.get(None)
    if operations is not None:
        operations.append(model.name)


@dataclass(frozen=True)
class LateCalls:
    """What one request asked of DynamoDB after its headers had gone. `at` is epoch seconds."""

    session_id: str
    path: str
    operations: list[str]
    at: float


class CountCalls:
    """Goes around the session middleware, so that its calls are counted too."""

    def __init__(self, app: ASGIApp, *, late: deque[LateCalls]) -> None:
        self.app = app
        self.late = late

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        operations: list[str] = []
        in_time: int | None = None

        async def counted(message: Message) -> None:
            nonlocal in_time
            if message["type"] == "http.response.start":
                in_time = len(operations)
                MutableHeaders(scope=message)[HEADER] = ", ".join(operations)
            await send(message)

        token = _operations.set(operations)
        try:
            await self.app(scope, receive, counted)
        finally:
            _operations.reset(token)
            session = scope.get("session")
            if in_time is not None and operations[in_time:] and isinstance(session, Session):
                self.late.append(LateCalls(session.info.id, scope["path"], operations[in_time:], time.time()))


def late_calls() -> deque[LateCalls]:
    """Return where late calls are kept: the last hundred, in this process only."""
    return deque(maxlen=_KEPT)
