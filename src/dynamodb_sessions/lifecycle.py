"""Load a session and commit it, for requests and for `open_session` alike.

What a commit does is decided by `decide`, a pure function of the session, the lifetimes and the clock; `commit`
then makes the one store call it says. Nothing here knows of cookies or HTTP.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import anyio

from dynamodb_sessions.codec import is_text
from dynamodb_sessions.exceptions import ConfigurationError, SessionError
from dynamodb_sessions.session import Session
from dynamodb_sessions.store import Changes, OwnerStore, Record, SessionStore, check_seconds, short, wall_clock

logger = logging.getLogger("dynamodb_sessions")

BROWSER_SESSION_AGE = 14 * 24 * 60 * 60
"""Seconds a session is stored that lives, for the browser, until it closes."""

_MAX_ID_SIZE = 2048
_TOUCHES_PER_LIFETIME = 10


clock = wall_clock
"""Every `now` comes from here."""


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long sessions live, in seconds. Raises ConfigurationError for anything but positive whole numbers.

    `max_age` is the idle timeout (None: the browser's session, 14 days in the store), `absolute_max_age` the
    absolute one, `touch_after` how much a session that is only read must gain before its expiry is written.
    """

    max_age: int | None
    absolute_max_age: int | None = None
    touch_after: int | None = None

    def __post_init__(self) -> None:
        check_seconds("max_age", self.max_age)
        check_seconds("absolute_max_age", self.absolute_max_age)
        check_seconds("touch_after", self.touch_after, minimum=0)
        if self.touch_after is not None and self.touch_after >= (self.max_age or BROWSER_SESSION_AGE):
            raise ConfigurationError(
                f"touch_after={self.touch_after} must be less than max_age, or sessions end in use"
            )

    def expires_at(self, now: int, *, created_at: int, own: int | None) -> int:
        """Return when a session used now expires; `own` is its own idle timeout, if it has one."""
        idle = now + (own or self.max_age or BROWSER_SESSION_AGE)
        return idle if self.absolute_max_age is None else min(idle, created_at + self.absolute_max_age)

    def is_over(self, record: Record, now: int) -> bool:
        """Whether the absolute timeout has passed, whatever the record says of itself."""
        return self.absolute_max_age is not None and record.created_at + self.absolute_max_age <= now

    def wants_touch(self, record: Record, expires_at: int) -> bool:
        """Whether a session that was only read gains enough to be worth a write."""
        return expires_at - record.expires_at >= self._step(record.max_age or self.max_age or BROWSER_SESSION_AGE)

    def _step(self, idle: int) -> int:
        """Return the seconds that a touch is to gain."""
        step = self.touch_after
        return -(-idle // _TOUCHES_PER_LIFETIME) if step is None or step >= idle else step

    def is_due(self, record: Record, now: int) -> bool:
        """Whether a session is to be touched if it is used now."""
        idle = record.max_age or self.max_age or BROWSER_SESSION_AGE
        # The absolute timeout, which only shortens it, need not be asked of most.
        if now + idle - record.expires_at < self._step(idle):
            return False
        return self.wants_touch(record, self.expires_at(now, created_at=record.created_at, own=record.max_age))

    def cookie_max_age(self, record: Record, now: int) -> int | None:
        """Return the seconds the browser is to keep the cookie; None: until it closes."""
        return None if self.max_age is None and record.max_age is None else record.expires_at - now


class Nothing:
    """There is nothing to do."""


@dataclass(frozen=True, slots=True)
class Create:
    """Store a new session, in place of the one named by `replaces`."""

    record: Record
    replaces: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class _Change:
    record: Record
    changes: Changes


class Update(_Change):
    """Change the stored session."""


class Touch(_Change):
    """Extend the stored session's life."""


class Empty(_Change):
    """End the stored session, unless others have changed it: then only change it."""


@dataclass(frozen=True, slots=True, eq=False)
class Rotate:
    """Move the stored session to a new id."""

    record: Record
    new_id: str = field(repr=False)
    changes: Changes


@dataclass(frozen=True, slots=True, eq=False)
class Delete:
    """End the session."""

    session_id: str = field(repr=False)


Action = Nothing | Create | Update | Touch | Rotate | Empty | Delete


def decide(session: Session, lifetimes: Lifetimes, now: int, *, failed: bool = False, refresh: bool = False) -> Action:  # noqa: PLR0911 - a table
    """Return what committing the session takes.

    `failed`: the app did not succeed, so only a logout counts. `refresh`: the client is to get a new cookie, which
    takes knowing that the session still lives. Raises UnserializableValue.
    """
    record = session.record
    if session.ended and not session.cleared:
        return Nothing()
    gone = record.id if record is not None else session.presented_id
    if failed:
        return Delete(gone) if session.cleared and gone is not None else Nothing()
    if session.cleared and not dict.__len__(session) and session.new_owner is None:
        return Delete(gone) if gone is not None else Nothing()
    if record is None or session.cleared:
        if not dict.__len__(session) and session.new_owner is None:
            return Nothing()
        to_set, _ = session.delta()
        expires_at = lifetimes.expires_at(now, created_at=now, own=session.max_age)
        new = Record(session.id, to_set, now, expires_at, owner=session.owner, max_age=session.max_age)
        return Create(new, replaces=gone if session.cleared or session.rotates else None)

    to_set, to_remove = session.delta()
    expires_at = lifetimes.expires_at(now, created_at=record.created_at, own=session.max_age)
    if session.new_owner is None:
        if to_remove and not dict.__len__(session):
            return Empty(record, Changes(expires_at, set=to_set, remove=to_remove, max_age=session.new_max_age))
        if not (to_set or to_remove or session.rotates) and session.new_max_age is None:
            wanted = refresh or (session.accessed and lifetimes.wants_touch(record, expires_at))
            return Touch(record, Changes(expires_at)) if wanted else Nothing()
    changes = Changes(expires_at, to_set, to_remove, session.new_owner, session.new_max_age)
    return Rotate(record, session.id, changes) if session.rotates else Update(record, changes)


async def load(store: SessionStore, session_id: str, lifetimes: Lifetimes, *, min_version: int = 0) -> Record | None:
    """Return the stored record, or None if there is none. One past its absolute lifetime is deleted.

    Raises StoreUnavailable, ConfigurationError or CorruptRecord.
    """
    now = clock()
    record = await store.load(session_id, now=now, min_version=min_version)
    if record is not None and lifetimes.is_over(record, now):
        await store.delete(session_id, version=record.version)
        return None
    return record


async def commit(store: SessionStore, session: Session, action: Action, *, asked: int) -> bool:  # noqa: C901 - a table
    """Make the action's store call and settle the session. False, with one line in the log, if it was gone.

    `asked` is the session's from before the action was decided.
    Its caller sees to it that there is one at a time, and that it is not cancelled.
    """
    now = clock()
    held: Record | None = None
    stored: Record | None = None
    match action:
        case Nothing():
            return True
        case Delete(session_id):
            await store.delete(session_id)
        case Empty(record, changes):
            if not await store.delete(record.id, version=record.version):
                held, stored = changes.apply(record), await store.update(record, changes, now=now)
        case Create(record, replaces):
            held, stored = record, record
            # That a fresh id is taken can only mean that our own first attempt took it and its reply was lost.
            if not await store.create(record, now=now, replaces=replaces) and session.fixed_id is not None:
                stored = await _join(store, record, now)
        case Update(record, changes) | Touch(record, changes):
            held, stored = changes.apply(record), await store.update(record, changes, now=now)
        case Rotate(record, new_id, changes):
            held, stored = changes.move(record, new_id), await store.rotate(record, new_id, changes, now=now)
    if held is None:
        session.settle(None, asked=asked)
        return True
    if stored is None:
        session.ended = True
        logger.warning("session %s was ended meanwhile: nothing more is stored of it", short(held.id))
        return False
    # A touch may not hear of a version that an earlier commit has heard of already.
    version = max(stored.version, session.stored_version) if isinstance(action, Touch) else stored.version
    if stored != held:
        # What others have changed meanwhile is not in this session's dict: it must not look removed from it, nor be
        # deleted as known.
        held = replace(stored, data=held.data, version=held.version)
    session.settle(held, asked=asked, version=version)
    return True


async def limit_owner(owners: OwnerStore, store: SessionStore, record: Record, maximum: int) -> None:
    """End, in `store`, the oldest sessions of a record's owner until `maximum` are left, its own among them."""
    if record.owner is None:
        return
    others = [other async for other in owners.list_owner(record.owner, now=clock()) if other.id != record.id]
    for other in others[: max(0, len(others) - maximum + 1)]:
        await store.delete(other.id)


async def _join(store: SessionStore, record: Record, now: int) -> Record | None:
    """Add a new session's content to the one that somebody else has just created under the same id."""
    changes = Changes(record.expires_at, set=record.data, owner=record.owner, max_age=record.max_age)
    return await store.update(replace(record, data={}, version=0), changes, now=now)


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
                kept = await commit(store, session, decide(session, lifetimes, clock()), asked=asked)
        return kept

    session.attach(save, store if isinstance(store, OwnerStore) else None)
    yield session
    await save(session)
    if session.ended and session.modified:
        raise SessionError(f"session {short(session_id)} was deleted while it was open: its changes are dropped")
