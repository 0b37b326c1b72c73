"""open_session: a session under an id of your own, outside of requests."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from dynamodb_sessions import clock
from dynamodb_sessions.codec import is_text
from dynamodb_sessions.exceptions import ConfigurationError, SessionError
from dynamodb_sessions.identifiers import fingerprint
from dynamodb_sessions.session.commit import commit, is_alive, load, reload
from dynamodb_sessions.session.lifetimes import Lifetimes
from dynamodb_sessions.session.save_policy import Nothing, decide
from dynamodb_sessions.session.session import Session
from dynamodb_sessions.stores.contract import OwnerStore, SessionStore

_MAX_ID_SIZE = 2048


@asynccontextmanager
async def open_session(
    store: SessionStore,
    session_id: str,
    *,
    max_age: int | None = 3600,
    absolute_max_age: int | None = None,
    touch_after: int | None = None,
) -> AsyncIterator[Session]:
    """Load, or begin, the session stored under an id of your own; commit it when the block ends without an error.

    The same session as in a request, with the same guarantees: two that change different keys, or create it, at
    once both keep theirs. Lifetimes are seconds, as the middleware's. Raises StoreUnavailable, CorruptRecord,
    ConfigurationError for a bad id or lifetime, and at the end UnserializableValue, SessionTooLarge or, if the session
    was deleted while the block ran, SessionError: its changes are then dropped.
    """
    if not is_text(session_id, max_size=_MAX_ID_SIZE):
        raise ConfigurationError(f"a session id must be a non-empty str of at most {_MAX_ID_SIZE} bytes")
    lifetimes = Lifetimes(max_age, absolute_max_age, touch_after)
    record = await load(store, session_id, lifetimes)
    session = Session(record=record, fixed_id=session_id)

    one_at_a_time = anyio.Lock()

    async def save(session: Session) -> bool:
        with anyio.CancelScope(shield=True):
            async with one_at_a_time:
                asked = session.asked
                action = decide(session, lifetimes, clock.wall_clock())
                kept = await commit(store, session, action, asked=asked)
        return kept and (not isinstance(action, Nothing) or await is_alive(store, session))

    async def read_again(session: Session) -> bool:
        async with one_at_a_time:
            return await reload(store, session)

    session.attach(save, read_again, store if isinstance(store, OwnerStore) else None)
    yield session
    with anyio.CancelScope(shield=True):
        async with one_at_a_time:
            await commit(store, session, decide(session, lifetimes, clock.wall_clock()), asked=session.asked)
    if session.ended and session.modified:
        raise SessionError(f"session {fingerprint(session_id)} was deleted while it was open: its changes are dropped")
