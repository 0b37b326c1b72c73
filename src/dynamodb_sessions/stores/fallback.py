"""FallbackStore: what happens while the real store cannot be initialised. It heals itself.

Only initialisation is forgiven. Once the real store has answered, its outages are outages: sessions are in it, and
an empty one from memory would log everybody out.

A session that was made meanwhile stays in memory until a request brings its cookie, and then moves to the real store
under a fresh id. Under its own it might come back: an attempt that got no answer may be applied after others have ended
it, and they may have ended it before, where it was not known.
"""

import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import anyio

from dynamodb_sessions.aws.threads import in_thread
from dynamodb_sessions.clock import wall_clock
from dynamodb_sessions.events import Observer, OnEvent
from dynamodb_sessions.exceptions import SessionError, StoreUnavailable
from dynamodb_sessions.forks import tell_of_forks
from dynamodb_sessions.identifiers import is_memory_id, is_random, new_id, new_memory_id
from dynamodb_sessions.stores.contract import (
    BURIED_SECONDS,
    Changes,
    Consistency,
    Decide,
    Health,
    IsDue,
    OnMoved,
    Party,
    ProbedStore,
    Record,
    SessionStore,
    is_owner,
    parties_of,
)
from dynamodb_sessions.stores.memory import MemoryStore

K = TypeVar("K")
T = TypeVar("T")

logger: logging.Logger = logging.getLogger("dynamodb_sessions")

_PROBE_TIMEOUT = 4.0
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0
_COMPLAIN_EVERY = 300.0
_MAX_LOGOUTS = 100_000
_MAX_NOTES = 10_000
_POLL_SECONDS = 0.01
_IN_MEMORY = "DynamoDB cannot be initialised, so sessions are kept in this process and end with it: %s"


@dataclass(frozen=True, slots=True)
class _Logout:
    """What is to be ended in the primary: one session, or all of an owner or tenant but one, of before `at`."""

    session_id: str | None = field(default=None, repr=False)
    party: Party | None = None
    keep: str | None = field(default=None, repr=False)
    at: int = 0

    @property
    def is_doubtful(self) -> bool:
        """Whether it is of a session that was made in some process's memory, so that the primary has none to end.

        Anybody can make such sessions, as many as they like, and end each as often as they like.
        """
        return self.session_id is not None and is_memory_id(self.session_id)

    async def apply(self, store: ProbedStore) -> None:
        if self.session_id is not None:
            await store.delete(self.session_id, bury_until=self.at + BURIED_SECONDS)
        if self.party is not None:
            await _revoke(store, self.party, self.keep, self.at)


class _WaitingLogouts:
    """The logouts that wait for the primary: of a session, or an owner, one. The least likely to matter go first."""

    def __init__(self) -> None:
        self._certain: dict[tuple[str | None, Party | None], _Logout] = {}
        self._doubtful: dict[tuple[str | None, Party | None], _Logout] = {}

    def __len__(self) -> int:
        return len(self._certain) + len(self._doubtful)

    def add(self, logout: _Logout) -> bool:
        """Add one. False if another one was forgotten for it."""
        waiting = self._doubtful if logout.is_doubtful else self._certain
        # A later one of the same owner ends what an earlier one was to keep.
        waiting[logout.session_id, logout.party] = logout
        if len(self) <= _MAX_LOGOUTS:
            return True
        first = self._doubtful or self._certain
        del first[next(iter(first))]
        return False

    def first(self) -> _Logout:
        """Return the one to apply first."""
        return next(iter((self._certain or self._doubtful).values()))

    def applied(self, logout: _Logout) -> None:
        """Forget it, unless that has happened already, or a later one has taken its place."""
        waiting, key = self._doubtful if logout.is_doubtful else self._certain, (logout.session_id, logout.party)
        if waiting.get(key) is logout:
            del waiting[key]


class FallbackStore:
    """Uses `primary` if it can be initialised; until then `memory`, or, without one, raises what is wrong.

    While it cannot, it is probed again after 1 s, then 2, up to 60, by a thread that no request waits for. When it
    can, logouts made meanwhile are applied to it before anything else, and sessions made meanwhile are moved to it by
    the next request that brings them and can be given a new cookie: see `bring_home`.

    `on_event` is told when memory begins to stand in, and, from the thread that probes, when that ends.
    """

    def __init__(
        self,
        primary: ProbedStore,
        memory: MemoryStore | None,
        *,
        on_event: OnEvent | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.primary = primary
        self.memory = memory
        self._observer = Observer(on_event, self)
        self._clock = clock
        self._initialised = False
        self._probed = False
        self._next_probe = 0.0
        self._pause = _FIRST_PAUSE
        self._next_complaints: dict[str, float] = {}
        """When each complaint may be in the log again."""
        self._probing = False
        self._lock = threading.Lock()
        self._logouts = _WaitingLogouts()
        self._in_use = False
        """Whether memory has ever stood in."""
        self._moving: set[str] = set()
        self._moved: dict[str, str] = {}
        """Where sessions have moved from memory, by the ids they had there: their browsers may not have heard of it."""
        self._revoked: dict[Party, int] = {}
        """When whose sessions were last ended from here, in epoch seconds: those that memory still has were kept."""
        tell_of_forks(self)

    def forked(self) -> None:
        """Begin anew in a forked process: whoever probes or moves is the parent's."""
        self._lock = threading.Lock()
        self._probing = False
        self._moving = set()

    @property
    def mode(self) -> str:
        """Where sessions are kept just now: the primary's mode."""
        return self.primary.mode

    @property
    def mode_reason(self) -> str:
        """Why."""
        return self.primary.mode_reason

    @property
    def table_name(self) -> str | None:
        """The primary's table, if it has one."""
        return getattr(self.primary, "table_name", None)

    @property
    def keeps_versions(self) -> bool:
        """Whether the primary's reads are better for knowing which version the browser has seen."""
        return bool(getattr(self.primary, "keeps_versions", False))

    @property
    def is_initialised(self) -> bool:
        """Whether the primary is in use."""
        return self._initialised

    async def initialise(self) -> None:
        """Find out which store is to be used, once. Raises the reason if there is none.

        Raises ConfigurationError, too, if the primary can never be used from this event loop.
        """
        await self._is_primary()

    async def bring_home(self, session_id: str, *, now: int) -> str:
        """Move a session to the primary, if memory has it and the primary is in use. Return the id that it has now.

        For whoever can give the browser a new cookie, and nobody else. One request moves it; others of the same session
        wait. What has ended in the primary meanwhile is not moved, and ends here.
        """
        if self.memory is None or not self._in_use or not self._initialised or not is_random(session_id):
            return session_id
        while True:
            with self._lock:
                if session_id not in self._moving:
                    self._moving.add(session_id)
                    break
            await anyio.sleep(_POLL_SECONDS)
        here = session_id
        try:
            with anyio.CancelScope(shield=True):
                here = await self._bring_home(self.memory, session_id, now)
        finally:
            self._moving.discard(session_id)
        return here

    async def _bring_home(self, memory: MemoryStore, session_id: str, now: int) -> str:
        """Move a session from memory to DynamoDB. Return the id that it has there, or the old one if it has ended.

        Others may change or end it in memory meanwhile: what they changed is taken along until nothing differs, and if
        it was ended, so is what was moved.
        """
        record = await memory.load(session_id, now=now)
        if record is None:
            return await self._where_it_is(session_id, now)
        revoked_at = {party: self._revoked[party] for party in parties_of(record) if party in self._revoked}
        moved = await self.primary.move_in(record, now=now, fresh_id=new_id, revoked_at=revoked_at)
        if moved is not None:
            self._note(self._moved, session_id, moved.id)
        while moved is not None and record is not None:
            if not (changes := _difference(moved, record)).is_touch:
                moved = await self.primary.update(moved, changes, now=now)
            elif await memory.delete(session_id, version=record.version):
                return moved.id
            else:  # Another thread has changed it meanwhile, or ended it.
                record = await memory.load(session_id, now=now)
        self._moved.pop(session_id, None)
        if moved is not None:
            await self.primary.delete(moved.id, record=moved)
        await memory.delete(session_id)
        return session_id

    async def _where_it_is(self, session_id: str, now: int) -> str:
        """Return the id of a session that has moved before: its browser has not heard of it."""
        moved_to = self._moved.get(session_id)
        if moved_to is None:
            return session_id
        if await self.primary.is_buried(session_id, now=now):
            # It has logged out where the old id was not known.
            await self.primary.delete(moved_to)
            self._moved.pop(session_id, None)
            return session_id
        return moved_to

    async def load(
        self,
        session_id: str,
        *,
        now: int,
        min_version: int = 0,
        consistency: Consistency = "default",
        on_moved: OnMoved | None = None,
        is_due: IsDue | None = None,
    ) -> Record | None:
        """As every store. What has moved from memory is found under the id that it had there, too."""
        if not await self._is_primary():
            return await self._memory.load(session_id, now=now, on_moved=on_moved)
        if self._in_use:
            await self._move_fixed(session_id, now)
            found = await self._memory.load(session_id, now=now, on_moved=on_moved)
            if found is not None:
                return found
            session_id = self._moved.get(session_id, session_id)
        # A store of somebody's own that keeps no versions is never told, and need not know of it.
        told: dict[str, Any] = {} if is_due is None else {"is_due": is_due}
        return await self.primary.load(
            session_id, now=now, min_version=min_version, consistency=consistency, on_moved=on_moved, **told
        )

    async def create(
        self,
        record: Record,
        *,
        now: int,
        replaces: str | None = None,
        fresh_id: Callable[[], str] | None = None,
        bury_until: int | None = None,
    ) -> Record | None:
        """As the contract says, where sessions are kept just now. One in place of another ends that, wherever it is."""
        if not await self._is_primary() and (replaces is None or await self._remember_end_of(replaces)):
            if fresh_id is not None:
                record = replace(record, id=new_memory_id())
            created = await self._memory.create(record, now=now, replaces=replaces)
            if self._initialised and replaces in self._moved:  # Another thread has just moved it.
                await self.primary.delete(self._moved[replaces])
            return created
        if replaces is not None and replaces in self._moved:
            replaces, bury_until = self._moved[replaces], None
        created = await self.primary.create(
            record, now=now, replaces=replaces, fresh_id=fresh_id, bury_until=bury_until
        )
        if created is not None and replaces is not None and self._in_use:
            await self._memory.delete(replaces)
        return created

    async def update(self, record: Record, changes: Changes, *, now: int) -> Record | None:
        return await self._change(record, now, lambda store, held: store.update(held, changes, now=now))

    async def exchange(self, record: Record, decide: Decide, *, now: int) -> Record | None:
        return await self._change(record, now, lambda store, held: store.exchange(held, decide, now=now))

    async def rotate(self, record: Record, new_id: str, changes: Changes, *, now: int) -> Record | None:
        """As every store. In memory the new id is another than `new_id`: one by which it is known that it was there."""

        def rotate(store: SessionStore, held: Record) -> Awaitable[Record | None]:
            name = new_memory_id() if store is self.memory and is_random(new_id) else new_id
            return store.rotate(held, name, changes, now=now)

        return await self._change(record, now, rotate)

    async def delete(
        self,
        session_id: str,
        *,
        record: Record | None = None,
        version: int | None = None,
        bury_until: int | None = None,
    ) -> bool:
        """As the contract says, wherever the session is. What DynamoDB cannot be told now, it is told later."""
        is_primary = await self._is_primary()
        if self._in_use:
            is_only_here = await self._is_only_here(session_id)
            ended = await self._memory.delete(session_id, record=record, version=version)
            moved_to = self._moved.get(session_id)
            if moved_to is not None:
                session_id, bury_until = moved_to, None
                record = None if record is None else replace(record, id=moved_to)
            elif ended and (is_only_here or (is_primary and version is not None)):
                return True
            elif not is_primary and not ended:
                return False
            elif not is_primary and self._remember(_Logout(session_id, at=wall_clock())):
                return True
        return await self.primary.delete(session_id, record=record, version=version, bury_until=bury_until)

    def list_owner(self, owner: str | None, *, now: int | None = None) -> AsyncIterator[Record]:
        """Yield the owner's sessions, oldest first: those in the primary, if it is in use, and those in memory."""
        return self._list(Party("owner", owner), now)

    def list_tenant(self, tenant: str | None, *, now: int | None = None) -> AsyncIterator[Record]:
        """Yield the tenant's sessions, by owner: those in the primary, if it is in use, and those in memory."""
        return self._list(Party("tenant", tenant), now)

    async def _list(self, party: Party, now: int | None) -> AsyncIterator[Record]:
        """Yield the sessions of an owner or a tenant, those of both stores in one order."""
        at = wall_clock() if now is None else now

        def place(record: Record) -> Any:
            return record.created_at if party.kind == "owner" else str(record.owner)

        is_primary = await self._is_primary()
        waiting = [record async for record in _list(self._memory, party, at)] if self._in_use else []
        if is_primary:
            async for record in _list(self.primary, party, at):
                while waiting and place(waiting[0]) <= place(record):
                    yield waiting.pop(0)
                yield record
        for record in waiting:
            yield record

    async def revoke_owner(self, owner: str | None, *, keep: str | None = None) -> int:
        """End all the owner's sessions but the one with the id `keep`, wherever they are. Return how many it ended.

        While there is only memory, those in the primary end as soon as it can be used.
        """
        return await self._revoke(Party("owner", owner), keep)

    async def revoke_tenant(self, tenant: str | None, *, keep: str | None = None) -> int:
        """End all the tenant's sessions but the one with the id `keep`, as `revoke_owner` does. Return how many."""
        return await self._revoke(Party("tenant", tenant), keep)

    async def _revoke(self, party: Party, keep: str | None) -> int:
        """End all the sessions of an owner or a tenant but one, wherever they are. Return how many it ended."""
        if not is_owner(party.name):
            return 0
        at = wall_clock()
        is_primary = await self._is_primary() or not self._remember(_Logout(party=party, keep=keep, at=at))
        ended = 0
        if self._in_use:
            # First: whoever moves one of them looks for it in memory once more.
            self._note(self._revoked, party, at)
            ended = await _revoke(self._memory, party, keep)
            keep = keep if keep is None else self._moved.get(keep, keep)
        return ended + (await _revoke(self.primary, party, keep, at) if is_primary else 0)

    async def limit_owner(self, owner: str, maximum: int, *, keep: str) -> Sequence[str]:
        """End the owner's oldest sessions, in memory and, if it is in use, in the primary."""
        if not await self._is_primary():
            return await self._memory.limit_owner(owner, maximum, keep=keep)
        if not self._in_use or not [record async for record in self._memory.list_owner(owner)]:
            return await self.primary.limit_owner(owner, maximum, keep=self._moved.get(keep, keep))
        others = [record async for record in self.list_owner(owner) if record.id not in (keep, self._moved.get(keep))]
        ended = others[: max(0, len(others) - maximum + 1)]
        for record in ended:
            await self.delete(record.id, record=record)
        return [record.id for record in ended]

    async def health(self) -> Health:
        """Find out whether sessions are served just now: in memory, they are."""
        try:
            if not await self._is_primary():
                return Health(True, self.mode, self.mode_reason, degraded=True)
        except SessionError as error:
            return Health(False, "error", str(error))
        return await self.primary.health()

    @property
    def _memory(self) -> MemoryStore:
        assert self.memory is not None  # noqa: S101 - it is asked for once it has stood in
        return self.memory

    async def _change(
        self, record: Record, now: int, change: Callable[[SessionStore, Record], Awaitable[Record | None]]
    ) -> Record | None:
        """Change a session where it is: in memory, too, for nobody here can tell the browser of a new id."""
        is_primary = await self._is_primary()
        if self._in_use:
            if is_primary:
                await self._move_fixed(record.id, now)
            changed = await change(self._memory, record)
            if changed is not None or not self._initialised:
                return changed
            moved_to = self._moved.get(record.id)
            record = record if moved_to is None else replace(record, id=moved_to)
        return await change(self.primary, record)

    async def _move_fixed(self, session_id: str, now: int) -> None:
        """Move a session whose id its user chose to the primary, under that id: there is no cookie to tell of another.

        It is tried once. After an attempt that may still be applied, or may have been and others have ended it since,
        another one might bring it back.
        """
        if is_random(session_id):
            return
        record = await self._memory.load(session_id, now=now)
        if record is not None and await self._memory.delete(session_id, version=record.version):
            with anyio.CancelScope(shield=True):
                await self.primary.create(record, now=now)

    async def _is_primary(self) -> bool:
        """Whether DynamoDB serves this call: probe it if that is due. Raises the probe's error if memory may not."""
        if self._initialised:
            return True
        if not self._probed:
            await self._probe_first()
        elif self._clock() >= self._next_probe:
            self._probe_again()
        if self._initialised:
            return True
        if self.memory is None:
            error = type(self.primary.probe_error or StoreUnavailable())
            raise error(self.mode_reason) from self.primary.probe_error
        with self._lock:
            begins, self._in_use = not self._in_use, True
        self._complain(_IN_MEMORY, self.mode_reason)
        if begins:
            outcome = type(self.primary.probe_error or StoreUnavailable()).__name__
            self._observer.tell("fallback", outcome, reason=self.mode_reason)
        return False

    async def _probe_first(self) -> None:
        """Probe while the request waits: at the very start there is nothing else to do for it."""
        self.primary.check_event_loop()
        try:
            # A probe that failed before, as at import, has been heard; it is repeated, but not here.
            answers = self.primary.probe_error is None and await in_thread(self.primary.probe, timeout=_PROBE_TIMEOUT)
        except StoreUnavailable as error:
            answers = False
            self.primary.mark_unusable(error)
        with self._lock:
            if not self._probed:
                self._probed = True
                self._initialised = answers
                self._next_probe = self._clock() + self._pause

    def _probe_again(self) -> None:
        """Probe in a thread of its own: no request waits for it, whichever event loop it runs on."""
        with self._lock:
            if self._probing:
                return
            self._probing = True
        thread = threading.Thread(target=anyio.run, args=(self._heal,), name="dynamodb-sessions-probe", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # There are too many threads just now.
            self._probing = False

    async def _heal(self) -> None:
        """Probe DynamoDB, tell it of the logouts that wait for it, or wait twice as long before the next probe."""
        try:
            if self.primary.probe() and await self._apply_logouts():
                logger.warning("sessions are kept in DynamoDB again")
                self._observer.tell("recovered", reason=self.mode_reason)
                return
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        finally:
            self._next_probe = self._clock() + self._pause
            self._probing = False

    async def _apply_logouts(self) -> bool:
        """Delete from the primary what was logged out meanwhile, then, with nothing left to delete, switch to it."""
        while True:
            with self._lock:
                if not len(self._logouts):
                    self._initialised = True
                    return True
                logout = self._logouts.first()
            try:
                await logout.apply(self.primary)
            except SessionError as error:
                self.primary.mark_unusable(type(error)(f"logouts cannot be applied: {error}"))
                return False
            with self._lock:
                self._logouts.applied(logout)

    async def _is_only_here(self, session_id: str) -> bool:
        """Whether memory has a session that has never been anywhere else, so that to end it here is enough."""
        return is_memory_id(session_id) and await self._memory.load(session_id, now=0) is not None

    async def _remember_end_of(self, session_id: str) -> bool:
        """Note that a session is to be ended in the primary later, if it may be there. False if it is too late."""
        if await self._is_only_here(session_id):
            return not self._initialised
        return self._remember(_Logout(session_id, at=wall_clock()))

    def _remember(self, logout: _Logout) -> bool:
        """Note what is to be ended in the primary later. False if it is too late for that: end it now."""
        with self._lock:
            if self._initialised:
                return False
            all_are_kept = self._logouts.add(logout)
        if not all_are_kept:
            self._complain("more than %d logouts wait for DynamoDB: the oldest is forgotten", _MAX_LOGOUTS)
        return True

    def _note(self, notes: dict[K, T], key: K, value: T) -> None:
        """Note something, and forget the oldest of too many."""
        with self._lock:
            notes.pop(key, None)
            notes[key] = value
            if len(notes) > _MAX_NOTES:
                del notes[next(iter(notes))]

    def _complain(self, complaint: str, detail: object) -> None:
        """Tell in the log what is wrong, each complaint every five minutes at most."""
        now = self._clock()
        with self._lock:
            if now < self._next_complaints.get(complaint, 0.0):
                return
            self._next_complaints[complaint] = now + _COMPLAIN_EVERY
        logger.error(complaint, detail)


def _list(store: ProbedStore | MemoryStore, party: Party, now: int) -> AsyncIterator[Record]:
    """Return the sessions of an owner or a tenant."""
    if party.kind == "owner":
        return store.list_owner(party.name, now=now)
    return store.list_tenant(party.name, now=now)


async def _revoke(store: ProbedStore | MemoryStore, party: Party, keep: str | None, now: int | None = None) -> int:
    """End all the sessions of an owner or a tenant but one. `now` is for the primary: when that was asked for."""
    at: dict[str, Any] = {} if now is None else {"now": now}
    if party.kind == "owner":
        return await store.revoke_owner(party.name, keep=keep, **at)
    return await store.revoke_tenant(party.name, keep=keep, **at)


def _difference(moved: Record, record: Record) -> Changes:
    """Return what makes of a session that has moved what it is in memory by now."""
    is_same_login = (record.owner, record.handle) == (moved.owner, moved.handle)
    return Changes(
        record.expires_at,
        {key: value for key, value in record.data.items() if moved.data.get(key) != value},
        frozenset(moved.data.keys() - record.data.keys()),
        None if is_same_login else record.owner,
        (record.max_age or 0) if record.max_age != moved.max_age else None,
        record.created_at if record.created_at != moved.created_at else None,
        heard=moved.version,
        handle=record.handle,
        label=record.label,
        authenticated_at=record.authenticated_at if record.authenticated_at != moved.authenticated_at else None,
        tenant=record.tenant,
    )
