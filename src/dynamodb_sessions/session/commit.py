"""Load a session, and make the one store call that an action of the save policy stands for.

Afterwards the session knows what is stored of it.
"""

import inspect
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import anyio

from dynamodb_sessions import clock
from dynamodb_sessions.codec import encode_item
from dynamodb_sessions.exceptions import SessionError, StoreUnavailable
from dynamodb_sessions.identifiers import fingerprint, new_born, new_id
from dynamodb_sessions.session.lifetimes import Lifetimes
from dynamodb_sessions.session.save_policy import (
    Action,
    Create,
    Delete,
    Empty,
    Nothing,
    Rotate,
    Suppress,
    Touch,
    Update,
)
from dynamodb_sessions.session.session import Session, begin_anew, rebase, state_of, take
from dynamodb_sessions.session.state import SessionState, Standing
from dynamodb_sessions.stores.contract import (
    BURIED_SECONDS,
    Changes,
    Consistency,
    Decide,
    OnMoved,
    Record,
    SessionStore,
    is_same,
)

T = TypeVar("T")

logger: logging.Logger = logging.getLogger("dynamodb_sessions")

_JOINS = 10
"""How often a session is created, or joined, before others are left to it."""


async def load(
    store: SessionStore,
    session_id: str,
    lifetimes: Lifetimes,
    *,
    min_version: int = 0,
    consistency: Consistency = "default",
    on_moved: OnMoved | None = None,
) -> Record | None:
    """Return the stored record, or None if there is none. One past its absolute lifetime is deleted.

    Raises StoreUnavailable, ConfigurationError or CorruptRecord.
    """
    now = clock.wall_clock()
    # Of a browser that has seen a version, a cache may know enough. All else is read.
    told: dict[str, Any] = {"is_due": lifetimes.is_due} if min_version else {}
    found = await store.load(
        session_id, now=now, min_version=min_version, consistency=consistency, on_moved=on_moved, **told
    )
    if found is not None and lifetimes.is_over(found, now):
        await store.delete(session_id, record=found, version=found.version)
        return None
    return found


async def is_alive(store: SessionStore, state: SessionState) -> bool:
    """Whether the session is still stored, or has never been. Raises as `load` does."""
    record = state.record
    if state.is_ended or record is None or state.asked.clear:
        return not state.is_ended
    found = await store.load(record.id, now=clock.wall_clock(), consistency="strong")
    if found is None or not is_same(found, record):
        state.end()
        logger.warning("session %s was ended meanwhile: nothing more is stored of it", fingerprint(record.id))
    return not state.is_ended


async def look_again(store: SessionStore, session: Session) -> None:
    """Find out whether a session has ended of which a copy was loaded. Then only what was set since is to be stored.

    A login that keeps the content would else keep that of a session that was ended before.
    """
    state, moved = state_of(session), list[bool]()
    record = state.record
    if record is None or (state.is_ended and state.asked.login is None):
        return
    found = await store.load(
        record.id, now=clock.wall_clock(), consistency="strong", on_moved=lambda: moved.append(True)
    )
    if found is None:
        begin_anew(session, moved=bool(moved))


async def reload(store: SessionStore, session: Session) -> bool:
    """Have a session hold what is stored of it now. False if it has ended, or was never stored."""
    state = state_of(session)
    record = state.record
    if state.is_ended or record is None:
        return False
    found = await store.load(record.id, now=clock.wall_clock(), consistency="strong")
    if found is None or not is_same(found, record):
        state.end()
        return False
    if state.asked.clear:  # Meanwhile, by another task or thread: what was ended is not to be filled again.
        return False
    take(session, found)
    return True


async def wait_ended(store: SessionStore, state: SessionState, lifetimes: Lifetimes, every: float) -> None:
    """Return once the session has ended, wherever that was. Raises SessionError if nothing is stored of it."""
    if state.record is None and not state.is_ended:
        raise SessionError("nothing is stored of this session yet, so it cannot end: wait after `await session.save()`")
    while not state.is_ended and (record := state.record) is not None:
        await anyio.sleep(every)
        if state.record is not record:  # It was changed here meanwhile, so it was there.
            continue
        now = clock.wall_clock()
        try:
            found = await store.load(record.id, now=now, consistency="eventual")
        except SessionError as error:
            logger.warning("nobody knows whether session %s has ended: %s", fingerprint(record.id), error)
            continue
        if (found is None or not is_same(found, record) or lifetimes.is_over(found, now)) and state.record is record:
            return


async def atomically(
    store: SessionStore, session: Session, lifetimes: Lifetimes, change: Callable[[dict[str, Any]], T]
) -> T:
    """Change what is stored now by a function of it, and have the session know. Return what the function returns.

    The caller makes sure that no commit runs at the same time. Raises what `Session.atomically` raises.
    """
    state, now, results = state_of(session), clock.wall_clock(), list[T]()
    if state.asked.clear or state.asked.rotate:
        raise SessionError("this session is to be cleared or to get a new id: `await session.save()` first")

    serializer = state.serializer

    def decide(stored: Record) -> Changes | None:
        content, known = stored.content(serializer), stored.data
        results[:] = [_changed_by(change, content)]
        to_set = {
            key: encoded
            for key, value in content.items()
            if (encoded := encode_item(key, value, known=known.get(key), serializer=serializer)) != known.get(key)
        }
        to_remove = frozenset(known.keys() - content.keys())
        until, _ = lifetimes.of_change(now, created_at=stored.created_at, own=stored.max_age, named=False)
        return Changes(until, to_set, to_remove) if to_set or to_remove else None

    stored = None
    if state.record is not None and not state.is_ended:
        stored = await store.exchange(state.record, decide, now=now)
    elif state.standing is Standing.NEW:
        stored = await _begin(store, state, lifetimes, decide, now)
    if stored is None:
        state.end()
        raise SessionError("this session was ended meanwhile, or has another id: nothing is stored")
    if stored.data or state.record is not None:
        rebase(session, stored)
    return results[0]


async def _begin(
    store: SessionStore, state: SessionState, lifetimes: Lifetimes, decide: Decide, now: int
) -> Record | None:
    """Create what `decide` makes of an empty session, or change the session that somebody else has just created.

    An empty one is returned, and not stored.
    """
    expires_at = lifetimes.expires_at(now, created_at=now, own=None)
    empty = Record(state.id, {}, now, expires_at, version=0, born=new_born())
    for _ in range(_JOINS):
        changes = decide(empty)
        if changes is not None:
            fresh_id = None if state.fixed_id is not None else new_id
            created = await store.create(changes.apply(empty), now=now, fresh_id=fresh_id)
            if created is not None:
                return created
        elif state.fixed_id is None:  # Nobody else can have created it.
            return empty
        found = await store.load(empty.id, now=now, consistency="strong")
        if found is None and changes is None:
            return empty
        stored = await store.exchange(found, decide, now=now) if found is not None else None
        if stored is not None:
            return stored
    return None


def _changed_by(change: Callable[[dict[str, Any]], T], content: dict[str, Any]) -> T:
    result = change(content)
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise TypeError("atomically() takes a function that is not async: it may run several times, and must be quick")
    return result


async def commit(store: SessionStore, state: SessionState, action: Action, *, asked: int) -> bool:  # noqa: C901 - a table
    """Make the action's store call and settle the session. False, with one line in the log, if it was gone.

    `asked` is the state's `asked.count` from before the action was decided.
    The caller makes sure that there is one at a time, and that it is not cancelled.
    """
    now = clock.wall_clock()
    held: Record | None = None
    stored: Record | None = None
    match action:
        case Nothing():
            return True
        case Suppress():
            state.end()
            logger.warning(
                "a request changed its session, which has another id since a moment ago: nothing of it is stored"
            )
            return False
        case Delete(session_id, record):
            await store.delete(session_id, record=record, bury_until=now + BURIED_SECONDS if record is None else None)
        case Empty(record, changes):
            held, stored = await _empty(store, record, changes, now)
        case Create(record, replaces) if state.fixed_id is None:
            bury_until = now + BURIED_SECONDS if replaces is not None and state.record is None else None
            held = stored = await store.create(
                record, now=now, replaces=replaces, fresh_id=new_id, bury_until=bury_until
            )
            if stored is None:
                raise StoreUnavailable("a new session's id is taken")
        case Create(record):
            held, stored = record, await _create_or_join(store, record, now)
        case Update(record, changes) | Touch(record, changes):
            stored = await store.update(record, changes, now=now)
            # What has the next version is the record with these changes, and nobody else's.
            is_next = stored is None or stored.version == record.version + (not changes.is_touch)
            held = (stored or record) if is_next else changes.apply(record)
        case Rotate(record, moved_to, changes):
            held, stored = await _rotate(store, record, moved_to, changes, now)
    if held is None:
        state.settle(None, asked=asked)
        return True
    if stored is None:
        state.end()
        named = held if state.record is None else state.record
        logger.warning("session %s was ended meanwhile: nothing more is stored of it", fingerprint(named.id))
        return False
    # A touch may not hear of a version that an earlier commit has heard of already.
    version = max(stored.version, state.stored_version) if isinstance(action, Touch) else stored.version
    if stored is not held and stored != held:
        # What others have changed meanwhile is not in this session's dict: it must not look removed from it, nor be
        # deleted as known.
        held = replace(stored, data=held.data, version=held.version)
    state.settle(held, asked=asked, version=version)
    return True


async def _rotate(
    store: SessionStore, record: Record, moved_to: str, changes: Changes, now: int
) -> tuple[Record, Record | None]:
    """Move a session to its new id. Return what the session holds and what is stored.

    Whoever has just logged in is logged in, though the session from before the login is gone: a new one is begun.
    """
    held = changes.move(record, moved_to)
    stored = await store.rotate(record, moved_to, changes, now=now)
    if stored is None and changes.owner is not None:
        held = replace(held, version=1, created_at=now, born=new_born())
        stored = await store.create(held, now=now, fresh_id=new_id)
        held = stored or held
    return held, stored


async def _empty(
    store: SessionStore, record: Record, changes: Changes, now: int
) -> tuple[Record | None, Record | None]:
    """End a session that has no entries left, unless others have added some: then only remove ours.

    Return what the session holds and what is stored; no record: it is ended; nothing stored: it was ended by others.
    """
    known = record
    while not await store.delete(record.id, record=known, version=known.version):
        found = await store.load(record.id, now=now, consistency="strong")
        if found is None or not is_same(found, record):
            return changes.apply(record), None
        if changes.apply(found).data:
            return changes.apply(record), await store.update(record, changes, now=now)
        known = found
    return None, None


async def _create_or_join(store: SessionStore, record: Record, now: int) -> Record | None:
    """Create a session under an id of its user's own, or add it to the one that somebody else has just created."""
    changes = Changes(
        record.expires_at,
        set=record.data,
        owner=record.owner,
        max_age=record.max_age,
        handle=record.handle,
        label=record.label,
        authenticated_at=record.authenticated_at,
        tenant=record.tenant,
    )
    moved: list[bool] = []
    for _ in range(_JOINS):
        created = await store.create(record, now=now)
        if created is not None:
            return created
        found = await store.load(record.id, now=now, consistency="strong", on_moved=lambda: moved.append(True))
        if moved:  # It is the id of a request's session, which has another one now: nothing is begun in its place.
            return None
        joined = await store.update(found, changes, now=now) if found is not None else None
        if joined is not None:
            return joined
    raise StoreUnavailable("others keep beginning and ending the session at the same time")
