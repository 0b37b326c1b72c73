"""MemoryStore: sessions in this process, for development, tests and hard times. The same contract, bounded."""

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from threading import Lock

from dynamodb_sessions.clock import wall_clock
from dynamodb_sessions.exceptions import ConfigurationError
from dynamodb_sessions.forks import tell_of_forks
from dynamodb_sessions.stores.contract import (
    MOVED_SECONDS,
    Changes,
    Consistency,
    Decide,
    Health,
    IsDue,
    OnMoved,
    Party,
    Record,
    check_size,
    is_owner,
    is_same,
)

_PYTHON_OVERHEAD = 1024
"""Bytes a record takes in this process beyond its text: the objects around it."""


class MemoryStore:
    """Keeps at most `max_sessions` sessions in at most `max_bytes` bytes; the least recently used go first.

    Nothing survives the process, and nothing is shared with another one.
    """

    mode = "memory"
    mode_reason = "sessions are kept in this process and end with it"

    def __init__(self, *, max_sessions: int = 10_000, max_bytes: int = 64 * 1024 * 1024) -> None:
        for name, value in (("max_sessions", max_sessions), ("max_bytes", max_bytes)):
            if not isinstance(value, int) or value < 1:
                raise ConfigurationError(f"{name}={value!r} must be a whole number, at least 1")
        self._max_sessions = max_sessions
        self._max_bytes = max_bytes
        self._records: OrderedDict[str, tuple[Record, int]] = OrderedDict()
        """Each with its size."""
        self._moved: dict[str, tuple[str, int]] = {}
        """Where sessions have moved a moment ago, and until when that is known."""
        self._bytes = 0
        # Uncontended on one event loop; there may be several, each in a thread of its own.
        self._lock = Lock()
        tell_of_forks(self)

    def forked(self) -> None:
        """Begin anew in a forked process, without the sessions of the parent: what ends there must not live on here."""
        self._lock = Lock()
        self._records.clear()
        self._moved.clear()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._records)

    async def load(
        self,
        session_id: str,
        *,
        now: int,
        min_version: int = 0,  # noqa: ARG002
        consistency: Consistency = "default",  # noqa: ARG002
        on_moved: OnMoved | None = None,
        is_due: IsDue | None = None,  # noqa: ARG002
    ) -> Record | None:
        """As the contract says. What is past its expiry is removed, and does not exist."""
        with self._lock:
            record = self._live(session_id, now)
            has_moved = record is None and self._moved.get(session_id, ("", 0))[1] > now
        if has_moved and on_moved is not None:
            on_moved()
        return record

    async def create(
        self,
        record: Record,
        *,
        now: int,
        replaces: str | None = None,
        fresh_id: Callable[[], str] | None = None,  # noqa: ARG002 - here it is always known what became of an attempt
        bury_until: int | None = None,  # noqa: ARG002 - nothing is moved here
    ) -> Record | None:
        """As the contract says. Beyond the bounds, the sessions that were used the longest ago are dropped."""
        size = check_size(record)
        with self._lock:
            if self._live(record.id, now) is not None or self._moved.get(record.id, ("", 0))[1] > now:
                return None
            if replaces is not None and self._moved.get(replaces, ("", 0))[1] <= now:
                self._remove(replaces)
                self._note_moved(replaces, record.id, now)
            self._put(record, size)
            return record

    async def update(self, record: Record, changes: Changes, *, now: int) -> Record | None:
        return self._change(record, _touch(record, changes) if changes.is_touch else changes.apply, now)

    async def exchange(self, record: Record, decide: Decide, *, now: int) -> Record | None:
        """As the contract says. What decides runs without the lock, and is asked again if it was too slow."""
        while True:
            with self._lock:
                stored = self._live(record.id, now)
            if stored is None or not is_same(stored, record):
                return None
            changes = decide(stored)
            if changes is None:
                return stored
            changed = changes.apply(stored)
            found = self._change(record, partial(_in_place_of, stored, changed), now)
            if found is None or found is changed:
                return found

    async def rotate(self, record: Record, new_id: str, changes: Changes, *, now: int) -> Record | None:
        return self._change(record, lambda stored: changes.move(stored, new_id), now)

    async def delete(
        self,
        session_id: str,
        *,
        record: Record | None = None,
        version: int | None = None,
        bury_until: int | None = None,  # noqa: ARG002 - nothing is moved here
    ) -> bool:
        """As the contract says. A session that has moved is looked for where it is now."""
        with self._lock:
            if record is not None and version is None:
                self._remove_moved(session_id, record)
            stored, _ = self._records.get(session_id, (None, 0))
            if version is not None and (stored is None or stored.version != version):
                return False
            if stored is not None and (record is None or is_same(stored, record)):
                self._remove(session_id)
            elif version is not None:
                return False
            return True

    async def list_owner(self, owner: str | None, *, now: int | None = None) -> AsyncIterator[Record]:
        """Yield the owner's sessions, oldest first."""
        for record in sorted(self._live_of(Party("owner", owner), now), key=lambda record: record.created_at):
            yield record

    async def revoke_owner(self, owner: str | None, *, keep: str | None = None) -> int:
        """End all the owner's sessions but the one with the id `keep`. Return how many it ended."""
        return self._revoke(Party("owner", owner), keep)

    async def list_tenant(self, tenant: str | None, *, now: int | None = None) -> AsyncIterator[Record]:
        """Yield the tenant's sessions, by owner."""
        for record in sorted(self._live_of(Party("tenant", tenant), now), key=lambda record: str(record.owner)):
            yield record

    async def revoke_tenant(self, tenant: str | None, *, keep: str | None = None) -> int:
        """End all the tenant's sessions but the one with the id `keep`. Return how many it ended."""
        return self._revoke(Party("tenant", tenant), keep)

    async def limit_owner(self, owner: str, maximum: int, *, keep: str) -> Sequence[str]:
        """End the owner's oldest sessions until `maximum` are left, the one with the id `keep` among them."""
        others = [record async for record in self.list_owner(owner) if record.id != keep]
        ended = others[: max(0, len(others) - maximum + 1)]
        with self._lock:
            for record in ended:
                self._remove(record.id)
        return [record.id for record in ended]

    async def scan(self, *, now: int | None = None, include_expired: bool = False) -> AsyncIterator[Record]:
        """Yield every session, in no particular order."""
        at = wall_clock() if now is None else now
        with self._lock:
            records = list(self._records.values())
        for record, _ in records:
            if include_expired or record.expires_at > at:
                yield record

    async def health(self) -> Health:
        """Say that this process keeps its sessions itself."""
        return Health(True, self.mode, self.mode_reason)

    def _live_of(self, party: Party, now: int | None) -> list[Record]:
        """Return the sessions of an owner or a tenant that have not expired."""
        at = wall_clock() if now is None else now
        if not is_owner(party.name):
            return []
        with self._lock:
            return [record for record, _ in self._records.values() if party.has(record) and record.expires_at > at]

    def _revoke(self, party: Party, keep: str | None) -> int:
        """End all the sessions of an owner or a tenant but one. Return how many it ended."""
        if not is_owner(party.name):
            return 0
        with self._lock:
            ended = [record.id for record, _ in self._records.values() if party.has(record) and record.id != keep]
            for session_id in ended:
                self._remove(session_id)
        return len(ended)

    def _change(self, record: Record, change: Callable[[Record], Record], now: int) -> Record | None:
        """Put what `change` makes of a stored record in its place. None: the session does not exist any more."""
        with self._lock:
            stored = self._live(record.id, now)
            if stored is None or not is_same(stored, record):
                return None
            changed = change(stored)
            size = check_size(changed, before=stored)
            if changed is stored:
                return stored
            if changed.id == record.id:
                _, before = self._records[record.id]
                self._bytes -= before + _PYTHON_OVERHEAD
            else:
                self._remove(record.id)
                self._note_moved(record.id, changed.id, now)
            self._put(changed, size)
            return changed

    def _note_moved(self, session_id: str, moved_to: str, now: int) -> None:
        """Remember for a minute where a session has moved, of as many as there may be sessions."""
        self._moved[session_id] = moved_to, now + MOVED_SECONDS
        while self._moved:  # The oldest first, which is the first to be forgotten.
            oldest = next(iter(self._moved))
            if len(self._moved) <= self._max_sessions and self._moved[oldest][1] > now:
                break
            del self._moved[oldest]

    def _remove_moved(self, session_id: str, record: Record) -> None:
        """Remove a session where it is by now, if it has moved, and its owner is the same still."""
        here, now = session_id, wall_clock()
        while here not in self._records and self._moved.get(here, ("", 0))[1] > now:
            here = self._moved[here][0]
        stored, _ = self._records.get(here, (None, 0))
        is_it = stored is not None and (stored.born, stored.owner) == (record.born, record.owner)
        if is_it and here != session_id:
            self._remove(here)

    def _live(self, session_id: str, now: int) -> Record | None:
        """Return a record that has not expired, and note that it was used just now. The caller holds the lock."""
        record, _ = self._records.get(session_id, (None, 0))
        if record is None:
            return None
        if record.expires_at <= now:
            self._remove(session_id)
            return None
        self._records.move_to_end(session_id)
        return record

    def _put(self, record: Record, size: int) -> None:
        self._records[record.id] = record, size
        self._bytes += size + _PYTHON_OVERHEAD
        while len(self._records) > self._max_sessions or self._bytes > self._max_bytes:
            self._remove(next(iter(self._records)))

    def _remove(self, session_id: str) -> None:
        removed, size = self._records.pop(session_id, (None, 0))
        if removed is not None:
            self._bytes -= size + _PYTHON_OVERHEAD


def _in_place_of(expected: Record, changed: Record, stored: Record) -> Record:
    """Return the changed record, if what is stored is what was expected."""
    return changed if stored is expected else stored


def _touch(record: Record, changes: Changes) -> Callable[[Record], Record]:
    """Return what lets a record live longer, and never shorter, unless its own lifetime is another than was seen."""

    def touch(stored: Record) -> Record:
        touched = changes.apply(stored)
        return touched if stored.max_age == record.max_age and touched.expires_at > stored.expires_at else stored

    return touch
