"""ObservedStore: a store whose operations are told to `on_event`, and to the log at DEBUG."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from dynamodb_sessions.events import OnEvent, SessionEvent, capacity
from dynamodb_sessions.identifiers import fingerprint
from dynamodb_sessions.stores.contract import Changes, Consistency, Decide, OnMoved, OwnerStore, Record, SessionStore

logger = logging.getLogger("dynamodb_sessions")

_UNOBSERVED = nullcontext[dict[str, Any]]({})


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
        load = self._store.load
        if self._on_event is None and not logger.isEnabledFor(logging.DEBUG):  # Of most requests the only operation.
            return await load(session_id, now=now, min_version=min_version, consistency=consistency, on_moved=on_moved)
        with self._observe("load", session_id) as ending:
            found = await load(session_id, now=now, min_version=min_version, consistency=consistency, on_moved=on_moved)
            ending["outcome"] = "ok" if found is not None else "absent"
        return found

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
        with self._observe("create", record.id) as ending:
            created = await self._store.create(
                record, now=now, replaces=replaces, fresh_id=fresh_id, bury_until=bury_until
            )
            ending["outcome"] = "ok" if created is not None else "gone"
        return created

    async def update(self, record: Record, changes: Changes, *, now: int) -> Record | None:
        with self._observe("touch" if changes.is_touch else "update", record.id) as ending:
            stored = await self._store.update(record, changes, now=now)
            ending["outcome"] = "ok" if stored is not None else "gone"
        return stored

    async def exchange(self, record: Record, decide: Decide, *, now: int) -> Record | None:
        with self._observe("update", record.id) as ending:
            stored = await self._store.exchange(record, decide, now=now)
            ending["outcome"] = "ok" if stored is not None else "gone"
        return stored

    async def rotate(self, record: Record, new_id: str, changes: Changes, *, now: int) -> Record | None:
        with self._observe("rotate", record.id) as ending:
            stored = await self._store.rotate(record, new_id, changes, now=now)
            ending["outcome"] = "ok" if stored is not None else "gone"
        return stored

    async def delete(
        self,
        session_id: str,
        *,
        record: Record | None = None,
        version: int | None = None,
        bury_until: int | None = None,
    ) -> bool:
        """Delete, and tell of it."""
        with self._observe("delete", session_id) as ending:
            deleted = await self._store.delete(session_id, record=record, version=version, bury_until=bury_until)
            ending["outcome"] = "ok" if deleted else "gone"
        return deleted

    async def limit_owner(self, owners: OwnerStore, owner: str, maximum: int, *, keep: str) -> None:
        """End the owner's oldest sessions beyond the maximum: each is told as one that was deleted."""
        started = time.perf_counter()
        ended = await owners.limit_owner(owner, maximum, keep=keep)
        duration_ms = (time.perf_counter() - started) * 1000
        for session_id in ended:
            self._tell(SessionEvent("delete", "ok", duration_ms, None, fingerprint(session_id)))

    def _observe(self, name: str, session_id: str) -> AbstractContextManager[dict[str, Any]]:
        if self._on_event is None and not logger.isEnabledFor(logging.DEBUG):
            return _UNOBSERVED
        return self._observing(name, session_id)

    @contextmanager
    def _observing(self, name: str, session_id: str) -> Iterator[dict[str, Any]]:
        """Time what the block does, add up the capacity that it consumed, and tell of it, however it ends."""
        ending = {"outcome": "cancelled"}
        units: list[float] = []
        token = capacity.set(units)
        started = time.perf_counter()
        try:
            yield ending
        except Exception as error:
            ending["outcome"] = type(error).__name__
            raise
        finally:
            duration_ms = (time.perf_counter() - started) * 1000
            capacity.reset(token)
            consumed = sum(units) if units else None
            self._tell(SessionEvent(name, ending["outcome"], duration_ms, consumed, fingerprint(session_id)))

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
