"""Devices: where the owner of a session is logged in, and how to log out there.

Every session that is bound to the same owner is a device of theirs. A page names a device by its handle, which works
only through a session of the same owner; a session id never reaches a page. Behind it is the owner index, which hears
of a login or a logout a moment later.
"""

import hashlib
import hmac
from dataclasses import dataclass

from dynamodb_sessions.exceptions import SessionError
from dynamodb_sessions.session.session import Session, state_of
from dynamodb_sessions.stores.contract import OwnerStore, Record


@dataclass(frozen=True, slots=True)
class Device:
    """One session of an owner, as it may be shown to them. Times are epoch seconds."""

    handle: str
    """16 hex digits that name it for `end`. They are of no use to anybody but its owner."""
    label: str | None
    """What `bind(owner, label=…)` was told. It may come from the browser: escape it in a page."""
    created_at: int
    """When they logged in."""
    last_seen: int | None
    """When it was last used, or up to `touch_after` seconds before that; None: the absolute lifetime hides it."""
    is_current: bool
    """Whether it is the session that asked."""


async def of(session: Session) -> list[Device]:
    """Return the devices where the session's owner is logged in, newest first: one Query, and the reads in parallel.

    Raises SessionError if the session is bound to nobody, or kept where sessions are not found by owner, and
    StoreUnavailable.
    """
    store, owner = _owner_of(session)
    current, backing = _stored_id(session), state_of(session).backing
    return [
        Device(
            _handle_of(record),
            record.label,
            record.created_at,
            None if backing is None else backing.lifetimes.last_used(record),
            is_current=record.id == current,
        )
        for record in await _records(session, store, owner)
    ]


async def end(session: Session, handle: str) -> bool:
    """Log the owner out on the device of this handle, at once. False if the owner has none.

    On this session's own device it is a logout. Raises as `of` does.
    """
    store, owner = _owner_of(session)
    current = _stored_id(session)
    for record in await _records(session, store, owner):
        if isinstance(handle, str) and hmac.compare_digest(
            _handle_of(record).encode(), handle.encode(errors="replace")
        ):
            if record.id == current:
                session.clear()
            return await store.delete(record.id, record=record)
    return False


async def end_others(session: Session) -> int:
    """Log the owner out everywhere else, at once. Return on how many devices. Raises as `of` does."""
    store, owner = _owner_of(session)
    return await store.revoke_owner(owner, keep=_stored_id(session))


def _owner_of(session: Session) -> tuple[OwnerStore, str]:
    info = session.info
    if info.owner is None:
        raise SessionError("this session is bound to nobody, so it has no devices: call bind() at the login")
    return info.store, info.owner


def _stored_id(session: Session) -> str:
    """Return the id that the session has in its store now. One that is only asked for is not stored yet."""
    state = state_of(session)
    return state.id if state.record is None or state.asked.clear else state.record.id


async def _records(session: Session, store: OwnerStore, owner: str) -> list[Record]:
    """Return the owner's sessions, newest first: this one, too, though the index may not have heard of its login."""
    records = {record.id: record async for record in store.list_owner(owner)}
    current = state_of(session).record
    if current is not None and current.owner == owner:
        records.setdefault(current.id, current)
    return sorted(records.values(), key=lambda record: record.created_at, reverse=True)


def _handle_of(record: Record) -> str:
    """Return the handle of a login; of one from before there were handles, digits that say nothing of its id."""
    return record.handle or hashlib.sha256(f"device {record.id}".encode()).hexdigest()[:16]
