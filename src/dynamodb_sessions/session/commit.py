"""Load a session, and make the one store call that an action of the save policy stands for.

Afterwards the session knows what is stored of it.
"""

import logging
from dataclasses import replace

from dynamodb_sessions import clock
from dynamodb_sessions.exceptions import StoreUnavailable
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
from dynamodb_sessions.session.session import Session, state_of, take
from dynamodb_sessions.session.state import SessionState
from dynamodb_sessions.stores.contract import BURIED_SECONDS, Changes, OnMoved, Record, SessionStore, is_same

logger = logging.getLogger("dynamodb_sessions")

_JOINS = 10
"""How often a session is created, or joined, before others are left to it."""


async def load(
    store: SessionStore,
    session_id: str,
    lifetimes: Lifetimes,
    *,
    min_version: int = 0,
    on_moved: OnMoved | None = None,
) -> Record | None:
    """Return the stored record, or None if there is none. One past its absolute lifetime is deleted.

    Raises StoreUnavailable, ConfigurationError or CorruptRecord.
    """
    now = clock.wall_clock()
    found = await store.load(session_id, now=now, min_version=min_version, on_moved=on_moved)
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
            held, stored = changes.apply(record), await store.update(record, changes, now=now)
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
    if stored != held:
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
