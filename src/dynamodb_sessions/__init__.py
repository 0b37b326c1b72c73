"""Server-side sessions for Starlette, FastAPI and any ASGI app, kept in DynamoDB."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from dynamodb_sessions.stores.dynamodb import DynamoDBStore as DynamoDBStore
    from dynamodb_sessions.stores.memory import MemoryStore as MemoryStore
    from dynamodb_sessions.tagged_json import TaggedJSONSerializer as TaggedJSONSerializer
    from dynamodb_sessions.web.session_of import session_of as session_of

_HOMES = {
    "Changes": "stores.contract",
    "ConfigurationError": "exceptions",
    "CorruptRecord": "exceptions",
    "DynamoDBSessionMiddleware": "middleware",
    "DynamoDBStore": "stores.dynamodb",
    "Health": "stores.contract",
    "JSONSerializer": "codec",
    "MemoryStore": "stores.memory",
    "open_session": "session.open_session",
    "OwnerStore": "stores.contract",
    "Record": "stores.contract",
    "Serializer": "codec",
    "Session": "session.session",
    "session_middleware": "middleware",
    "session_of": "web.session_of",
    "SessionError": "exceptions",
    "SessionEvent": "events",
    "SessionInfo": "session.info",
    "SessionStore": "stores.contract",
    "SessionTooLarge": "exceptions",
    "StoreUnavailable": "exceptions",
    "TaggedJSONSerializer": "tagged_json",
    "UnserializableValue": "exceptions",
}
"""Where each public name is: imported when it is asked for, so that nobody waits for what they have no use for."""

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
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
