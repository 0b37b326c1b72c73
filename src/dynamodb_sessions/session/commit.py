"""Load a session, and make the one store call that an action of the save policy stands for.

Afterwards the session knows what is stored of it.
"""

import logging
from dataclasses import replace

from dynamodb_sessions import clock
from dynamodb_sessions.identifiers import fingerprint
from dynamodb_sessions.session.lifetimes import Lifetimes
from dynamodb_sessions.session.save_policy import Action, Create, Delete, Empty, Nothing, Rotate, Touch, Update
from dynamodb_sessions.session.session import Session
from dynamodb_sessions.stores.contract import Changes, Record, SessionStore

logger = logging.getLogger("dynamodb_sessions")


async def load(store: SessionStore, session_id: str, lifetimes: Lifetimes, *, min_version: int = 0) -> Record | None:
    """Return the stored record, or None if there is none. One past its absolute lifetime is deleted.

    Raises StoreUnavailable, ConfigurationError or CorruptRecord.
    """
    now = clock.wall_clock()
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
    now = clock.wall_clock()
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
        logger.warning("session %s was ended meanwhile: nothing more is stored of it", fingerprint(held.id))
        return False
    # A touch may not hear of a version that an earlier commit has heard of already.
    version = max(stored.version, session.stored_version) if isinstance(action, Touch) else stored.version
    if stored != held:
        # What others have changed meanwhile is not in this session's dict: it must not look removed from it, nor be
        # deleted as known.
        held = replace(stored, data=held.data, version=held.version)
    session.settle(held, asked=asked, version=version)
    return True


async def _join(store: SessionStore, record: Record, now: int) -> Record | None:
    """Add a new session's content to the one that somebody else has just created under the same id."""
    changes = Changes(record.expires_at, set=record.data, owner=record.owner, max_age=record.max_age)
    return await store.update(replace(record, data={}, version=0), changes, now=now)
