"""open_session: a session under an id of your own, outside of requests."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio

from dynamodb_sessions import clock
from dynamodb_sessions.codec import Serializer, checked_serializer, is_text
from dynamodb_sessions.events import OnEvent, check_on_event
from dynamodb_sessions.exceptions import ConfigurationError, SessionError
from dynamodb_sessions.identifiers import fingerprint
from dynamodb_sessions.session.commit import atomically, commit, is_alive, load, reload, wait_ended
from dynamodb_sessions.session.lifetimes import Lifetimes
from dynamodb_sessions.session.save_policy import Action, Nothing, decide
from dynamodb_sessions.session.session import Session, make_session, state_of
from dynamodb_sessions.session.state import SessionState
from dynamodb_sessions.settled import settled
from dynamodb_sessions.stores.contract import OwnerStore, SessionStore
from dynamodb_sessions.stores.observed_store import observed

T = TypeVar("T")

_MAX_ID_SIZE = 2048


class _Opened:
    """What saves the session of one `open_session`: one call at a time, for each must see what the last has stored."""

    def __init__(self, store: SessionStore, lifetimes: Lifetimes, serializer: Serializer) -> None:
        self._store = store
        self.lifetimes = lifetimes
        self.serializer = serializer
        self._turn = anyio.Lock()
        self.owners = store if isinstance(store, OwnerStore) else None

    async def save(self, session: Session) -> bool:
        """Store the changes now. False if the session was ended meanwhile, though nothing was changed."""
        action, kept = await settled(self._commit(session))
        return kept and (not isinstance(action, Nothing) or await is_alive(self._store, state_of(session)))

    async def reload(self, session: Session) -> bool:
        """Have the session hold what is stored of it now."""
        async with self._turn:
            return await reload(self._store, session)

    async def atomically(self, session: Session, change: Callable[[dict[str, Any]], T]) -> T:
        """Change what is stored now, and return what `change` returns."""

        async def work() -> T:
            async with self._turn:
                return await atomically(self._store, session, self.lifetimes, change)

        return await settled(work())

    async def wait_ended(self, session: Session, every: float) -> None:
        """Return once the session has ended. Asks every so many seconds."""
        await wait_ended(self._store, state_of(session), self.lifetimes, every)

    async def close(self, session: Session) -> None:
        """Store the changes at the end. Raises SessionError if there are any, and the session was ended meanwhile."""
        await settled(self._commit(session))
        state = state_of(session)
        if state.is_ended and state.is_modified(session):
            name = fingerprint(state.id)
            raise SessionError(f"session {name} was deleted while it was open: its changes are dropped")

    async def _commit(self, session: Session) -> tuple[Action, bool]:
        """Store what was done to the session. Return how, and False if it was ended meanwhile."""
        state = state_of(session)
        async with self._turn:
            asked = state.asked.count
            action = decide(session, self.lifetimes, clock.wall_clock())
            return action, await commit(self._store, state, action, asked=asked)


@asynccontextmanager
async def open_session(
    store: SessionStore,
    session_id: str,
    *,
    max_age: int | None = 3600,
    absolute_max_age: int | None = None,
    touch_after: int | None = None,
    serializer: Serializer | None = None,
    on_event: OnEvent | None = None,
) -> AsyncIterator[Session]:
    """Load, or begin, the session stored under an id of your own; commit it when the block ends without an error.

    The same session as in a request, with the same guarantees: two that change different keys, or create it, at
    once both keep theirs. Lifetimes are seconds, `serializer` is None for JSON, and `on_event` is called with a
    SessionEvent after each operation, all as the middleware's. Raises StoreUnavailable, CorruptRecord,
    ConfigurationError for an invalid id, lifetime, serializer or on_event, and at the end UnserializableValue,
    SessionTooLarge or, if the session was deleted while the block ran, SessionError: its changes are then dropped.
    """
    if not is_text(session_id, max_size=_MAX_ID_SIZE):
        raise ConfigurationError(f"a session id must be a non-empty str of at most {_MAX_ID_SIZE} bytes")
    lifetimes, serializer = Lifetimes(max_age, absolute_max_age, touch_after), checked_serializer(serializer)
    if on_event is not None:
        check_on_event(on_event)
        store = observed(store, on_event)
    record = await load(store, session_id, lifetimes)
    opened = _Opened(store, lifetimes, serializer)
    session = make_session(SessionState(record, fixed_id=session_id, backing=opened))
    yield session
    await opened.close(session)
