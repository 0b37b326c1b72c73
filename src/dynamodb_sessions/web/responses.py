"""What a client is told: a response that sets the cookie, or varies by it, and one that says to come back later."""

from collections.abc import Mapping, Sequence

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Receive, Scope, Send

_RETRY_AFTER = "5"
_TRY_AGAIN_LATER = 1013
_INTERNAL_ERROR = 1011


def add_headers(message: Message, *, vary: bytes | None, told: Sequence[tuple[bytes, str]]) -> None:
    """Add what a session wants to the headers that a message starts a response with.

    `vary`: what the response depends on: the cookie, for example. `told`: the headers that tell the client which
    session it has. A response that has any is not to be stored; with a cookie alone, unless the app says how.
    """
    headers = message["headers"] = list(message.get("headers", ()))
    names = [name.lower() for name, _ in headers]
    if vary is not None:
        if b"vary" in names:
            MutableHeaders(raw=headers).add_vary_header(vary.decode())
        else:
            headers.append((b"vary", vary))
    if told:
        headers.extend([(name, value.encode("latin-1")) for name, value in told])
        # A shared cache knows that a cookie is nobody else's. A token in another header it would hand on.
        if told[0][0] != b"set-cookie":
            headers[:] = [(name, value) for name, value in headers if name.lower() != b"cache-control"]
        elif b"cache-control" in names:
            return
        headers.append((b"cache-control", b"no-store"))


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer that the client is to come back later: 503.

    A websocket, which is not open yet, is denied with the same response, where the server can: "Websocket Denial
    Response" of the ASGI specification. Else it is closed with 1013, which a browser sees as a 403.
    """
    if not _can_respond(scope):
        await send({"type": "websocket.close", "code": _TRY_AGAIN_LATER, "reason": "Try again later"})
        return
    await _respond(scope, receive, send, 503, "Service Unavailable", {"Retry-After": _RETRY_AFTER})


async def fail(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer 500, as Starlette does; a websocket is denied with it, or closed with 1011. Coming back will not help."""
    if not _can_respond(scope):
        await send({"type": "websocket.close", "code": _INTERNAL_ERROR, "reason": "Internal Server Error"})
        return
    await _respond(scope, receive, send, 500, "Internal Server Error", {})


def _can_respond(scope: Scope) -> bool:
    return scope["type"] != "websocket" or "websocket.http.response" in scope.get("extensions", {})


async def _respond(
    scope: Scope, receive: Receive, send: Send, status: int, text: str, headers: Mapping[str, str]
) -> None:
    from starlette.responses import PlainTextResponse  # noqa: PLC0415 - rarely wanted, and slow to import

    response = PlainTextResponse(text, status, {**headers, "Cache-Control": "no-store"})
    if scope["type"] == "websocket":
        prefix = "websocket."
        await send({"type": f"{prefix}http.response.start", "status": status, "headers": response.raw_headers})
        await send({"type": f"{prefix}http.response.body", "body": response.body})
        return
    await response(scope, receive, send)
