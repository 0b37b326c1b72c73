"""Server-side sessions for Starlette, FastAPI and any ASGI app, kept in DynamoDB."""

from typing import TYPE_CHECKING, Any

from dynamodb_sessions.codec import JSONSerializer as JSONSerializer
from dynamodb_sessions.codec import Serializer as Serializer
from dynamodb_sessions.events import SessionEvent as SessionEvent
from dynamodb_sessions.exceptions import ConfigurationError as ConfigurationError
from dynamodb_sessions.exceptions import CorruptRecord as CorruptRecord
from dynamodb_sessions.exceptions import SessionError as SessionError
from dynamodb_sessions.exceptions import SessionTooLarge as SessionTooLarge
from dynamodb_sessions.exceptions import StoreUnavailable as StoreUnavailable
from dynamodb_sessions.exceptions import UnserializableValue as UnserializableValue
from dynamodb_sessions.middleware import DynamoDBSessionMiddleware as DynamoDBSessionMiddleware
from dynamodb_sessions.middleware import session_middleware as session_middleware
from dynamodb_sessions.session.info import SessionInfo as SessionInfo
from dynamodb_sessions.session.open_session import open_session as open_session
from dynamodb_sessions.session.session import Session as Session
from dynamodb_sessions.stores.contract import Changes as Changes
from dynamodb_sessions.stores.contract import Health as Health
from dynamodb_sessions.stores.contract import OwnerStore as OwnerStore
from dynamodb_sessions.stores.contract import Record as Record
from dynamodb_sessions.stores.contract import SessionStore as SessionStore
from dynamodb_sessions.stores.memory import MemoryStore as MemoryStore
from dynamodb_sessions.web.session_of import session_of as session_of

if TYPE_CHECKING:
    from dynamodb_sessions.stores.dynamodb import DynamoDBStore as DynamoDBStore
    from dynamodb_sessions.tagged_json import TaggedJSONSerializer as TaggedJSONSerializer

__all__ = [
    "Changes",
    "ConfigurationError",
    "CorruptRecord",
    "DynamoDBSessionMiddleware",
    "DynamoDBStore",
    "Health",
    "JSONSerializer",
    "MemoryStore",
    "OwnerStore",
    "Record",
    "Serializer",
    "Session",
    "SessionError",
    "SessionEvent",
    "SessionInfo",
    "SessionStore",
    "SessionTooLarge",
    "StoreUnavailable",
    "TaggedJSONSerializer",
    "UnserializableValue",
    "open_session",
    "session_middleware",
    "session_of",
]


def __getattr__(name: str) -> Any:
    """Import when it is asked for what many have no use for: the way to DynamoDB, and types that JSON has not."""
    if name == "DynamoDBStore":
        from dynamodb_sessions.stores.dynamodb import DynamoDBStore  # noqa: PLC0415

        return DynamoDBStore
    if name == "TaggedJSONSerializer":
        from dynamodb_sessions.tagged_json import TaggedJSONSerializer  # noqa: PLC0415

        return TaggedJSONSerializer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
