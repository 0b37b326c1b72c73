"""session_of: the session of a request or a websocket, by its own type."""

from typing import TYPE_CHECKING, Any

from starlette.requests import HTTPConnection

from dynamodb_sessions.exceptions import SessionError
from dynamodb_sessions.session.session import Session

if TYPE_CHECKING:
    # FastAPI knows a connection by the bare class; type checkers refuse it without the type of its state.
    Connection = HTTPConnection[Any]
else:
    Connection = HTTPConnection


def session_of(connection: Connection) -> Session:
    """Return the session of a `Request` or a `WebSocket`: what `request.session` is, by its own type.

    As a dependency of FastAPI: `Annotated[Session, Depends(session_of)]`, in endpoints of both. It counts as looked at:
    the response varies by the cookie, and the session lives longer only if the dict is used.
    Raises SessionError if there is none, or if it is not one of ours.
    """
    if "session" not in connection.scope:
        raise SessionError(
            "this request has no session: DynamoDBSessionMiddleware is not installed, or excludes this path"
        )
    session = connection.scope["session"]
    if not isinstance(session, Session):
        raise SessionError(
            f"the session of this request is a {type(session).__module__}.{type(session).__name__}, which has none of "
            "Session's methods: USE_DYNAMODB_SESSIONS is off, and session_middleware() took Starlette's cookie "
            "sessions; or something was assigned to scope['session']"
        )
    # Starlette before 1.0 does not mark it in `request.session`.
    session.mark_accessed()
    return session
