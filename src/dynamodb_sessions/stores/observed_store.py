"""ObservedStore: a store whose operations are told to `on_event`, and to the log at DEBUG."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Any

from dynamodb_sessions.events import Observer, OnEvent, done_or_gone, found_or_absent
from dynamodb_sessions.stores.contract import (
    Changes,
    Consistency,
    Decide,
    Health,
    IsDue,
    OnMoved,
    OwnerStore,
    Record,
    SessionStore,
)


def observed(store: SessionStore, on_event: OnEvent | None) -> "ObservedStore":
    """Return the store, observed: one that finds sessions by owner if this one does."""
    return ObservedOwnerStore(store, on_event) if isinstance(store, OwnerStore) else ObservedStore(store, on_event)


class ObservedStore:
    """A store whose operations are told to `on_event`, and to the log at DEBUG."""

    def __init__(self, store: SessionStore, on_event: OnEvent | None) -> None:
        self._store = store
        self.observer: Observer = Observer(on_event, store)
        self._takes_is_due = self.keeps_versions

    @property
    def keeps_versions(self) -> bool:
        """Whether the store's reads are better for knowing which version the browser has seen."""
        return bool(getattr(self._store, "keeps_versions", False))

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
        """Load, and tell of it."""
        # A store of somebody's own that keeps no versions need not know of it.
        told: dict[str, Any] = {} if is_due is None or not self._takes_is_due else {"is_due": is_due}
        work = self._store.load(
            session_id, now=now, min_version=min_version, consistency=consistency, on_moved=on_moved, **told
        )
        return await self.observer.observed("load", session_id, work, found_or_absent)

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
        return await self.observer.observed("create", record.id, work, done_or_gone)

    async def update(self, record: Record, changes: Changes, *, now: int) -> Record | None:
        name = "touch" if changes.is_touch else "update"
        work = self._store.update(record, changes, now=now)
        return await self.observer.observed(name, record.id, work, done_or_gone)

    async def exchange(self, record: Record, decide: Decide, *, now: int) -> Record | None:
        work = self._store.exchange(record, decide, now=now)
        return await self.observer.observed("update", record.id, work, done_or_gone)

    async def rotate(self, record: Record, new_id: str, changes: Changes, *, now: int) -> Record | None:
        work = self._store.rotate(record, new_id, changes, now=now)
        return await self.observer.observed("rotate", record.id, work, done_or_gone)

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
        return await self.observer.observed("delete", session_id, work, done_or_gone)


class ObservedOwnerStore(ObservedStore):
    """An observed store that finds sessions by owner: what `session.info.store` is."""

    def __init__(self, store: OwnerStore, on_event: OnEvent | None) -> None:
        super().__init__(store, on_event)
        self._owners = store

    @property
    def mode(self) -> str:
        """Where sessions are kept just now."""
        return self._owners.mode

    @property
    def mode_reason(self) -> str:
        """Why."""
        return self._owners.mode_reason

    def list_owner(self, owner: str | None, *, now: int | None = None) -> AsyncIterator[Record]:
        records = self._owners.list_owner(owner, now=now)
        found = records if isinstance(records, AsyncGenerator) else _generated(records)
        return self.observer.observed_pages("list_owner", None, found)

    async def revoke_owner(self, owner: str | None, *, keep: str | None = None) -> int:
        return await self.observer.observed("revoke_owner", None, self._owners.revoke_owner(owner, keep=keep), int)

    def list_tenant(self, tenant: str | None, *, now: int | None = None) -> AsyncIterator[Record]:
        records = self._owners.list_tenant(tenant, now=now)
        found = records if isinstance(records, AsyncGenerator) else _generated(records)
        return self.observer.observed_pages("list_tenant", None, found)

    async def revoke_tenant(self, tenant: str | None, *, keep: str | None = None) -> int:
        return await self.observer.observed("revoke_tenant", None, self._owners.revoke_tenant(tenant, keep=keep), int)

    async def limit_owner(self, owner: str, maximum: int, *, keep: str) -> Sequence[str]:
        """End the owner's oldest sessions beyond the maximum: each is also told as one that was deleted."""
        work = self._owners.limit_owner(owner, maximum, keep=keep)
        ended = await self.observer.observed("limit_owner", None, work, len)
        if self.observer.is_listened_to:
            for session_id in ended:
                self.observer.tell("delete", session_id=session_id)
        return ended

    async def health(self) -> Health:
        return await self.observer.observed("health", None, self._owners.health(), _ok_or_unhealthy)


async def _generated(records: AsyncIterator[Record]) -> AsyncGenerator[Record, None]:
    """Yield what an iterator has, which, of a store of somebody's own, need not be a generator."""
    async for record in records:
        yield record


def _ok_or_unhealthy(health: Health) -> str:
    return "ok" if health.ok else "unhealthy"
