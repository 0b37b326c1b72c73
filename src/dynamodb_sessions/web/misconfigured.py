"""Misconfigured: the app that answers where sessions cannot be set up, because a key was forgotten, for example.

Starlette makes its middleware when the first message comes in, and again with every message as long as that raises. A
server would then log that the lifespan "appears unsupported", and a traceback for every request.
"""

import inspect
import logging

from starlette.types import Receive, Scope, Send

from dynamodb_sessions.exceptions import ConfigurationError
from dynamodb_sessions.web.responses import fail

logger: logging.Logger = logging.getLogger("dynamodb_sessions")


def is_built_for_a_message() -> bool:
    """Whether Starlette is making its middleware just now, because a message has come in.

    Only the stack of calls tells: nothing else differs from a middleware that its user makes, where an error must be
    raised. A Starlette that did it another way would not be recognised, and the error raised there too.
    """
    from starlette.applications import Starlette  # noqa: PLC0415 - of no use where all is well

    frame, is_building = inspect.currentframe(), False
    while frame is not None:
        name = frame.f_code.co_name
        if is_building and name == "__call__" and isinstance(frame.f_locals.get("self"), Starlette):
            return True
        is_building = is_building or name == "build_middleware_stack"
        frame = frame.f_back
    return False


class Misconfigured:
    """An ASGI app that answers everything with 500, after one ERROR that says why."""

    def __init__(self, error: ConfigurationError) -> None:
        self._error = error
        self._is_told = False
        logger.error("no request can be served, because sessions cannot be set up: %s: %s", type(error).__name__, error)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            await fail(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        """Fail the first lifespan. Behind Mangum every invocation has one: the others pass, or each had a traceback."""
        await receive()
        await send({"type": "lifespan.startup.complete"})
        if self._is_told:
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        # `uvicorn --lifespan on` must not start; plain uvicorn must start, and answer. `startup.failed` would keep both
        # from starting. Only an exception is taken differently by the two, and plain uvicorn then logs that the
        # lifespan "appears unsupported", unless it has been told of a failure before. So tell it that the app has
        # started and has failed, with no message, because the log has it; then raise, which Starlette's TestClient
        # raises as well. A server that ends at `shutdown.failed` does as the specification asks.
        self._is_told = True
        await send({"type": "lifespan.shutdown.failed", "message": ""})
        raise self._error
