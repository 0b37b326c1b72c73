"""ReadCache: sessions as they were read a moment ago, kept in this process, and the rules by which they may be used.

It makes no calls: whoever asks brings the read. What it gives is late by at most its seconds, and never older than the
version that the browser has seen. Every rule has a test that fails without it, in `tests/stores/test_read_cache.py` and
`tests/guarantees/test_cached_reads.py`.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import replace
from sys import getsizeof
from threading import RLock
from time import monotonic
from time import time as wall_time

import anyio
from anyio.lowlevel import current_token

from dynamodb_sessions.forks import tell_of_forks
from dynamodb_sessions.stores.contract import Changes, IsDue, Moved, Record, is_same, texts_of

Read = Callable[[], Awaitable[Record | Moved | None]]
"""Makes one strong read."""

_OVERHEAD = 640
"""Bytes of the objects around the texts of one session: measured on CPython 3.11 to 3.13."""


class _Moment:
    """When a read was about to be sent, by both clocks: what it answers is as old as that, at most.

    The monotonic clock stands still while a Lambda function is frozen; the wall clock may be set back. Whichever says
    that more time has passed is believed.
    """

    __slots__ = ("_monotonic", "_wall")

    def __init__(self) -> None:
        self._monotonic = monotonic()
        self._wall = wall_time()

    def is_past(self, seconds: float) -> bool:
        """Whether that many seconds have passed since."""
        return monotonic() - self._monotonic >= seconds or wall_time() - self._wall >= seconds


class _Entry:
    """One session as it was read, or as changes of this process have left it since."""

    __slots__ = ("read_at", "record", "size")

    def __init__(self, record: Record, read_at: _Moment) -> None:
        self.record = record
        self.read_at = read_at
        self.size = _size_of(record)


class _Flight:
    """One read that is under way, and what those wait for who would read the same.

    It also is the lease of the read: whoever drops the session removes the flight, and a read that comes back to find
    itself removed keeps nothing. So a session that was ended here meanwhile does not come back.
    """

    __slots__ = ("_ended", "event_loop", "read_at", "record")

    def __init__(self) -> None:
        self.read_at = _Moment()
        self.event_loop = current_token()
        self.record: Record | None = None
        self._ended: anyio.Event | None = None

    async def wait(self) -> Record | None:
        """Return the record; None: there is none, or the read has failed, or was cancelled."""
        self._ended = self._ended or anyio.Event()
        await self._ended.wait()
        return self.record

    def end(self, record: Record | None) -> None:
        """Tell those who wait."""
        self.record = record
        if self._ended is not None:
            self._ended.set()


class ReadCache:
    """Keeps sessions for `seconds` after they were read, in at most `size` bytes; the least recently used go first.

    Threads may share it.
    """

    def __init__(self, seconds: float, size: int) -> None:
        self._seconds = seconds
        self._size = size
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._bytes = 0
        self._flights: dict[str, _Flight] = {}
        # The garbage collector may end an abandoned read in the midst of anything, in the same thread.
        self._lock = RLock()
        tell_of_forks(self)

    def forked(self) -> None:
        """Begin anew in a forked process: nothing of the parent's is taken over."""
        self._lock = RLock()
        self._entries.clear()
        self._flights.clear()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, session_id: str, *, now: int, min_version: int, is_due: IsDue | None = None) -> Record | None:
        """Return a session that need not be read; None: it must be.

        `min_version` is the version that the browser has seen. What is past its expiry, or due to be touched, must be
        read: another process may have let it live longer.
        """
        with self._lock:
            entry = self._entries.get(session_id)
            if entry is None or entry.record.version < min_version or entry.read_at.is_past(self._seconds):
                return None
            self._entries.move_to_end(session_id)
            record = entry.record
        if record.expires_at <= now or (is_due is not None and is_due(record, now)):
            return None
        return record

    async def read(self, session_id: str, *, now: int, min_version: int, read: Read) -> Record | Moved | None:
        """Return what a read under way answers, if that is good enough for this browser, or what `read` does.

        Nobody takes from another one's read that there is nothing: a session may be created, and its browser be told,
        while that is under way.
        """
        flight = self._flight_to_join(session_id)
        if flight is not None:
            record = await flight.wait()
            if record is not None and record.version >= min_version and record.expires_at > now:
                return record
        found: Record | Moved | None = None
        flight = _Flight()
        with self._lock:
            self._flights[session_id] = flight
        try:
            found = await read()
        finally:
            self._land(session_id, flight, found if isinstance(found, Record) else None)
        return found

    def changed(self, session_id: str, stored: Record | None, changes: Changes) -> None:
        """Note an own change: what is stored after it, or None if that is not known for certain.

        If the version is exactly the next one, nobody else has changed the session between: it is kept, as the changes
        leave it, and as old as before. It must not be kept otherwise: it would have a version whose content it lacks.
        """
        with self._lock:
            entry = self._entries.get(session_id)
            self._forget(session_id)
            if entry is not None and stored is not None and _is_next(entry.record, stored, changes):
                self._put(replace(changes.apply(entry.record), expires_at=stored.expires_at), entry.read_at)

    def seen(self, session_id: str, found: Record | Moved | None) -> None:
        """Heed what a read past the cache has found: nothing, or something newer, ends what is kept."""
        with self._lock:
            entry = self._entries.get(session_id)
            if entry is not None and not (isinstance(found, Record) and _is_as_new(entry.record, found)):
                self._forget(session_id)

    def drop(self, session_id: str) -> None:
        """Forget a session that was changed or ended here, or may have been, and let no read under way keep it."""
        with self._lock:
            self._forget(session_id)

    def _flight_to_join(self, session_id: str) -> _Flight | None:
        """Return the read under way that another one of the same session may wait for: in this event loop."""
        with self._lock:
            flight = self._flights.get(session_id)
        if flight is None or flight.event_loop != current_token() or flight.read_at.is_past(self._seconds):
            return None
        return flight

    def _land(self, session_id: str, flight: _Flight, record: Record | None) -> None:
        """End a read. Keep what it has found, unless the session was dropped since it began, or is newer here."""
        try:
            with self._lock:
                if self._flights.get(session_id) is flight:
                    del self._flights[session_id]
                    entry = self._entries.get(session_id)
                    if record is None or (entry is not None and not is_same(record, entry.record)):
                        self._remove(session_id)
                    elif entry is None or record.version >= entry.record.version:
                        self._put(record, flight.read_at)
        finally:  # Whatever becomes of the cache, nobody waits for ever.
            flight.end(record)

    def _put(self, record: Record, read_at: _Moment) -> None:
        """Keep a session, in place of what was kept of it. What is too much, or too old, goes.

        One that is larger than all there is is not kept: the others stay.
        """
        self._remove(record.id)
        entry = _Entry(record, read_at)
        if entry.size > self._size:
            return
        self._entries[record.id] = entry
        self._bytes += entry.size
        while self._entries:
            first = next(iter(self._entries))
            if self._bytes <= self._size and not self._entries[first].read_at.is_past(self._seconds):
                return
            self._remove(first)

    def _forget(self, session_id: str) -> None:
        self._flights.pop(session_id, None)
        self._remove(session_id)

    def _remove(self, session_id: str) -> None:
        removed = self._entries.pop(session_id, None)
        if removed is not None:
            self._bytes -= removed.size


def _is_next(kept: Record, stored: Record, changes: Changes) -> bool:
    """Whether what is stored is what is kept with these changes: a touch makes no new version."""
    return is_same(stored, kept) and stored.version == kept.version + (not changes.is_touch)


def _is_as_new(kept: Record, found: Record) -> bool:
    """Whether what is kept is no older than what was found."""
    return is_same(found, kept) and kept.version >= found.version


def _size_of(record: Record) -> int:
    """Return the bytes that a session takes in this process."""
    texts = [record.id, *record.data, *record.data.values(), *texts_of(record).values()]
    return _OVERHEAD + getsizeof(record.data) + sum(map(getsizeof, texts))
