"""Save policy: what committing a session takes. PURE: a function of the session, the lifetimes and the time.

It answers with one action; `commit` makes the store call that it stands for.
"""

from dataclasses import dataclass
from typing import Any

from dynamodb_sessions.identifiers import new_born
from dynamodb_sessions.session.asked import Asked
from dynamodb_sessions.session.lifetimes import Lifetimes
from dynamodb_sessions.session.session import Session, state_of
from dynamodb_sessions.session.state import Standing, Use
from dynamodb_sessions.stores.contract import Changes, Record


class Nothing:
    """There is nothing to do."""


# Nobody prints or changes actions: each thing less that a dataclass makes is a quicker import.


@dataclass(slots=True, repr=False)
class Create:
    """Store a new session, in place of the one named by `replaces`."""

    record: Record
    replaces: str | None = None


@dataclass(slots=True, eq=False, repr=False)
class _Change:
    record: Record
    changes: Changes


class Update(_Change):
    """Change the stored session."""


class Touch(_Change):
    """Extend the stored session's life."""


class Empty(_Change):
    """End the stored session, unless others have changed it: then only change it."""


@dataclass(slots=True, eq=False, repr=False)
class Rotate:
    """Move the stored session to a new id."""

    record: Record
    new_id: str
    changes: Changes


@dataclass(slots=True, eq=False, repr=False)
class Delete:
    """End the session. `record` is what was loaded of it; None: nothing was."""

    session_id: str
    record: Record | None = None


class Suppress:
    """Begin no session: the one that the request came with has another id since a moment ago, of a login maybe."""


Action = Nothing | Suppress | Create | Update | Touch | Rotate | Empty | Delete


def decide(session: Session, lifetimes: Lifetimes, now: int, *, failed: bool = False) -> Action:  # noqa: PLR0911 - a table
    """Return what committing the session takes.

    `failed`: the app did not succeed, so only a logout counts. Raises UnserializableValue.
    """
    state = state_of(session)
    asked, record, is_empty = state.asked, state.record, not dict.__len__(session)
    login = _login(asked, now)
    is_over = state.standing is Standing.ENDED and not asked.clear
    if is_over and asked.login is None and (record is not None or not asked.rotate):
        return Nothing()
    gone = record.id if record is not None else state.presented_id
    if failed:
        return Delete(gone, record) if asked.clear and gone is not None else Nothing()
    if asked.clear and is_empty and asked.login is None:
        return Delete(gone, record) if gone is not None else Nothing()
    if record is None or asked.clear:
        if is_empty and asked.login is None:
            return Nothing()
        if state.standing is Standing.MOVED and not asked.clear and not asked.wants_new_id:
            return Suppress()
        to_set, _ = state.delta(session)
        expires_at = lifetimes.expires_at(now, created_at=now, own=state.max_age)
        new = Record(state.id, to_set, now, expires_at, max_age=state.max_age, born=new_born(), **login)
        return Create(new, replaces=gone if asked.clear or asked.rotate else None)

    to_set, to_remove = state.delta(session)
    # A login is when the session of its owner begins: it counts as the newest, and its absolute lifetime starts.
    begins = None if asked.login is None else now
    created_at = record.created_at if begins is None else begins
    named = asked.login is not None or asked.max_age is not None
    until, expiry = lifetimes.of_change(now, created_at=created_at, own=state.max_age, named=named)
    heard = state.stored_version
    to_set |= state.rewritten(session, to_set)
    if asked.login is None:
        if to_remove and is_empty:
            emptied = Changes(until, to_set, to_remove, max_age=asked.max_age, expiry=expiry, heard=heard)
            return Empty(record, emptied)
        if not (to_set or to_remove or asked.rotate or asked.proof) and asked.max_age is None:
            gains = until is not None and lifetimes.wants_touch(record, until)
            return Touch(record, Changes(until)) if gains and state.use is Use.USED else Nothing()
    changes = Changes(
        until,
        to_set,
        to_remove,
        max_age=asked.max_age,
        created_at=begins,
        expiry=expiry,
        heard=heard,
        **login,
    )
    return Rotate(record, state.id, changes) if asked.rotate else Update(record, changes)


def _login(asked: Asked, now: int) -> dict[str, Any]:
    """Return what a login, or its confirmation, sets of a record."""
    proof = {"authenticated_at": now} if asked.proof else {}
    return proof if asked.login is None else {**proof, **asked.login._asdict()}
