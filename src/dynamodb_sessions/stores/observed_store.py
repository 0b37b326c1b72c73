"""ObservedStore: a store whose operations are told to `on_event`, and to the log at DEBUG."""

import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from dynamodb_sessions.events import OnEvent, SessionEvent, capacity
from dynamodb_sessions.identifiers import fingerprint
from dynamodb_sessions.stores.contract import Changes, Consistency, Decide, OnMoved, OwnerStore, Record, SessionStore

T = TypeVar("T")

logger = logging.getLogger("dynamodb_sessions")


class ObservedStore:
    """A store whose operations are told to `on_event`, and to the log at DEBUG."""

    def __init__(self, store: SessionStore, on_event: OnEvent | None) -> None:
        self._store = store
        self._on_event = on_event

    async def load(
        self,
        session_id: str,
        *,
        now: int,
        min_version: int = 0,
        consistency: Consistency = "default",
        on_moved: OnMoved | None = None,
    ) -> Record | None:
        """Load, and tell of it."""
        work = self._store.load(
            session_id, now=now, min_version=min_version, consistency=consistency, on_moved=on_moved
        )
        return await self._observed("load", session_id, work, missing="absent")

    async def create(
        self,
        record: Record,
        *,
        now: int,
        replaces: str | None = None,
        fresh_id: Callable[[], str] | None = None,
        bury_until: int | None = None,
    ) -> Record | None:
        """Create, and tell of it."""
        work = self._store.create(record, now=now, replaces=replaces, fresh_id=fresh_id, bury_until=bury_until)
        return await self._observed("create", record.id, work)

    async def update(self, record: Record, changes: Changes, *, now: int) -> Record | None:
        name = "touch" if changes.is_touch else "update"
        return await self._observed(name, record.id, self._store.update(record, changes, now=now))

    async def exchange(self, record: Record, decide: Decide, *, now: int) -> Record | None:
        return await self._observed("update", record.id, self._store.exchange(record, decide, now=now))

    async def rotate(self, record: Record, new_id: str, changes: Changes, *, now: int) -> Record | None:
        return await self._observed("rotate", record.id, self._store.rotate(record, new_id, changes, now=now))

    async def delete(
        self,
        session_id: str,
        *,
        record: Record | None = None,
        version: int | None = None,
        bury_until: int | None = None,
    ) -> bool:
        """Delete, and tell of it."""
        work = self._store.delete(session_id, record=record, version=version, bury_until=bury_until)
        return await self._observed("delete", session_id, work)

    async def limit_owner(self, owners: OwnerStore, owner: str, maximum: int, *, keep: str) -> None:
        """End the owner's oldest sessions beyond the maximum: each is told as one that was deleted."""
        started = time.perf_counter()
        ended = await owners.limit_owner(owner, maximum, keep=keep)
        duration_ms = (time.perf_counter() - started) * 1000
        for session_id in ended:
            self._tell(SessionEvent("delete", "ok", duration_ms, None, fingerprint(session_id)))

    def _observed(self, name: str, session_id: str, work: Awaitable[T], *, missing: str = "gone") -> Awaitable[T]:
        """Have it told how the work ends, if anybody is to be told. `missing`: the outcome if it has found nothing."""
        if self._on_event is None and not logger.isEnabledFor(logging.DEBUG):
            return work
        return self._observe(name, session_id, work, missing)

    async def _observe(self, name: str, session_id: str, work: Awaitable[T], missing: str) -> T:
        """Do the work. Time it, add up the capacity that it consumes, and tell of it, however it ends."""
        outcome = "cancelled"
        units: list[float] = []
        token = capacity.set(units)
        started = time.perf_counter()
        try:
            found = await work
            outcome = "ok" if found else missing
        except Exception as error:
            outcome = type(error).__name__
            raise
        else:
            return found
        finally:
            duration_ms = (time.perf_counter() - started) * 1000
            capacity.reset(token)
            self._tell(SessionEvent(name, outcome, duration_ms, sum(units) if units else None, fingerprint(session_id)))

    def _tell(self, event: SessionEvent) -> None:
        """Write one line at DEBUG, and call `on_event`, whose errors do no harm."""
        logger.debug(
            "session %s: %s %s in %.1f ms",
            event.session,
            event.name,
            event.outcome,
            event.duration_ms,
            extra={
                "event": event.name,
                "outcome": event.outcome,
                "duration_ms": event.duration_ms,
                "capacity_units": event.capacity_units,
                "session": event.session,
            },
        )
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except Exception as error:  # noqa: BLE001 - metrics must not break what they measure
            logger.error("on_event raised %s", type(error).__name__)
