"""FallbackStore: what happens while the real store cannot be initialised. It heals itself.

Only initialisation is forgiven. Once the real store has answered, its outages are outages: sessions are in it, and
an empty one from memory would log everybody out.
"""

import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import anyio

from dynamodb_sessions.aws.threads import in_thread
from dynamodb_sessions.clock import wall_clock
from dynamodb_sessions.exceptions import SessionError, StoreUnavailable
from dynamodb_sessions.stores.contract import (
    Changes,
    Consistency,
    Health,
    OnMoved,
    ProbedStore,
    Record,
    SessionStore,
    is_owner,
)
from dynamodb_sessions.stores.memory import MemoryStore

logger = logging.getLogger("dynamodb_sessions")

_PROBE_TIMEOUT = 4.0
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0
_COMPLAIN_EVERY = 300.0
_MAX_LOGOUTS = 100_000
_POLL_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class _Logout:
    """What is to be ended in the primary: one session, or all of an owner but one."""

    session_id: str | None = field(default=None, repr=False)
    owner: str | None = None
    keep: str | None = field(default=None, repr=False)

    async def apply(self, store: ProbedStore) -> None:
        if self.session_id is not None:
            await store.delete(self.session_id)
        if self.owner is not None:
            await store.revoke_owner(self.owner, keep=self.keep)


class FallbackStore:
    """Uses `primary` if it can be initialised; until then `memory`, or, without one, raises what is wrong.

    While it cannot, it is probed again after 1 s, then 2, up to 60, by a thread that no request waits for. When it
    can, logouts made meanwhile are applied to it before anything else, and sessions made meanwhile are moved to it
    when they are next used.
    """

    def __init__(
        self, primary: ProbedStore, memory: MemoryStore | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.primary = primary
        self.memory = memory
        self._clock = clock
        self._initialised = False
        self._probed = False
        self._next_probe = 0.0
        self._pause = _FIRST_PAUSE
        self._next_complaint = 0.0
        self._probing = False
        self._lock = threading.Lock()
        self._logouts: dict[_Logout, None] = {}
        self._moving: set[str] = set()

    @property
    def mode(self) -> str:
        """Where sessions are kept just now: the primary's mode."""
        return self.primary.mode

    @property
    def mode_reason(self) -> str:
        """Why."""
        return self.primary.mode_reason

    @property
    def is_initialised(self) -> bool:
        """Whether the primary is in use."""
        return self._initialised

    async def initialise(self) -> None:
        """Find out which store is to be used, once. Raises the reason if it is none."""
        await self._is_primary()

    async def load(
        self,
        session_id: str,
        *,
        now: int,
        min_version: int = 0,
        consistency: Consistency = "default",
        on_moved: OnMoved | None = None,
    ) -> Record | None:
        nothing_to_move = self._initialised and not self.memory
        store = self.primary if nothing_to_move else await self._store_of(session_id, now)
        return await store.load(
            session_id, now=now, min_version=min_version, consistency=consistency, on_moved=on_moved
        )

    async def create(
        self,
        record: Record,
        *,
        now: int,
        replaces: str | None = None,
        fresh_id: Callable[[], str] | None = None,
    ) -> Record | None:
        ended = record.id if replaces is None else replaces
        store = await self._store_of(ended, now)
        if replaces is not None and store is self.memory and not self._remember(_Logout(replaces)):
            store = await self._store_of(ended, now)
        return await store.create(record, now=now, replaces=replaces, fresh_id=fresh_id)

    async def update(self, record: Record, changes: Changes, *, now: int) -> Record | None:
        return await self._change(record, now, lambda store: store.update(record, changes, now=now))

    async def rotate(self, record: Record, new_id: str, changes: Changes, *, now: int) -> Record | None:
        return await self._change(record, now, lambda store: store.rotate(record, new_id, changes, now=now))

    async def delete(
        self,
        session_id: str,
        *,
        record: Record | None = None,
        version: int | None = None,
        bury_until: int | None = None,
    ) -> bool:
        store = await self._store_of(session_id, 0)
        if store is self.memory and not self._remember(_Logout(session_id)):
            store = await self._store_of(session_id, 0)
        return await store.delete(session_id, record=record, version=version, bury_until=bury_until)

    async def list_owner(self, owner: str | None, *, now: int | None = None) -> AsyncIterator[Record]:
        """Yield the owner's sessions, oldest first: while there is only memory, those in memory."""
        at = wall_clock() if now is None else now
        store: ProbedStore | MemoryStore = self.primary
        if not await self._is_primary():
            assert self.memory is not None  # noqa: S101 - else _is_primary has raised
            store = self.memory
        elif self.memory is not None:
            async for record in self.memory.list_owner(owner, now=at):
                await self._move(record.id, at)
        async for record in store.list_owner(owner, now=at):
            yield record

    async def revoke_owner(self, owner: str | None, *, keep: str | None = None) -> int:
        """End all the owner's sessions but the one with the id `keep`, wherever they are. Return how many it ended.

        While there is only memory, those in the primary end as soon as it can be used.
        """
        if not is_owner(owner):
            return 0
        is_primary = await self._is_primary() or not self._remember(_Logout(owner=owner, keep=keep))
        ended = 0 if self.memory is None else await self.memory.revoke_owner(owner, keep=keep)
        return ended + (await self.primary.revoke_owner(owner, keep=keep) if is_primary else 0)

    async def limit_owner(self, owner: str, maximum: int, *, keep: str) -> Sequence[str]:
        """End the owner's oldest sessions, where sessions are kept just now."""
        if await self._is_primary():
            return await self.primary.limit_owner(owner, maximum, keep=keep)
        assert self.memory is not None  # noqa: S101 - else _is_primary has raised
        return await self.memory.limit_owner(owner, maximum, keep=keep)

    async def health(self) -> Health:
        """Find out whether sessions are served just now: in memory, they are."""
        try:
            if not await self._is_primary():
                return Health(True, self.mode, self.mode_reason)
        except SessionError as error:
            return Health(False, "error", str(error))
        return await self.primary.health()

    async def _change(
        self, record: Record, now: int, change: Callable[[SessionStore], Awaitable[Record | None]]
    ) -> Record | None:
        store = await self._store_of(record.id, now)
        changed = await change(store)
        if changed is None and store is self.memory and self._initialised:
            # Another thread has just moved it.
            changed = await change(await self._store_of(record.id, now))
        return changed

    async def _store_of(self, session_id: str, now: int) -> SessionStore:
        """Return the store a session is in: the primary, after moving the session there if need be, or memory."""
        if not await self._is_primary():
            assert self.memory is not None  # noqa: S101 - else _is_primary has raised
            return self.memory
        if self.memory:
            await self._move(session_id, now)
        return self.primary

    async def _move(self, session_id: str, now: int) -> None:
        """Move a session from memory to the primary. One request does; others of the same session wait for it."""
        assert self.memory is not None  # noqa: S101
        while True:
            with self._lock:
                if session_id not in self._moving:
                    self._moving.add(session_id)
                    break
            await anyio.sleep(_POLL_SECONDS)
        try:
            with anyio.CancelScope(shield=True):
                record = await self.memory.load(session_id, now=now)
                if record is not None:
                    await self.primary.create(record, now=now)
                    if await self.memory.load(session_id, now=now) is None:  # Its owner's sessions have been revoked.
                        await self.primary.delete(session_id)
                    await self.memory.delete(session_id)
        finally:
            self._moving.discard(session_id)

    async def _is_primary(self) -> bool:
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
        self._complain()
        return False

    async def _probe_first(self) -> None:
        """Probe while the request waits: at the very start there is nothing else to do for it."""
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
        threading.Thread(target=anyio.run, args=(self._heal,), name="dynamodb-sessions-probe", daemon=True).start()

    async def _heal(self) -> None:
        try:
            if self.primary.probe() and await self._apply_logouts():
                logger.warning("sessions are kept in DynamoDB again")
                return
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        finally:
            self._next_probe = self._clock() + self._pause
            self._probing = False

    async def _apply_logouts(self) -> bool:
        """Delete from the primary what was logged out meanwhile, then, with nothing left to delete, switch to it."""
        while True:
            with self._lock:
                if not self._logouts:
                    self._initialised = True
                    return True
                logout = next(iter(self._logouts))
            try:
                await logout.apply(self.primary)
            except SessionError as error:
                self.primary.mark_unusable(type(error)(f"logouts cannot be applied: {error}"))
                return False
            self._logouts.pop(logout, None)  # It may have been forgotten meanwhile: see `_remember`.

    def _remember(self, logout: _Logout) -> bool:
        """Note what is to be ended in the primary later. False if it is too late for that: end it now."""
        with self._lock:
            if self._initialised:
                return False
            self._logouts[logout] = None
            if len(self._logouts) > _MAX_LOGOUTS:
                self._logouts.pop(next(iter(self._logouts)))
                logger.error("more than %d logouts wait for DynamoDB: the oldest is forgotten", _MAX_LOGOUTS)
        return True

    def _complain(self) -> None:
        now = self._clock()
        with self._lock:
            if now < self._next_complaint:
                return
            self._next_complaint = now + _COMPLAIN_EVERY
        logger.error(
            "DynamoDB cannot be initialised, so sessions are kept in this process and end with it: %s", self.mode_reason
        )
