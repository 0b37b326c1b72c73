"""A primary store that fails as it is told to, and the time that a fallback goes by."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import anyio

from dynamodb_sessions import (
    MemoryStore,
    SessionError,
    StoreUnavailable,
)
from dynamodb_sessions.clock import wall_clock
from dynamodb_sessions.stores.contract import Party, Record, parties_of
from dynamodb_sessions.stores.fallback import FallbackStore


class Primary(MemoryStore):
    """A store that works when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.mode = "dynamodb"
        self.mode_reason = ""
        self.probe_error: SessionError | None = None
        self.works = False
        self.fails_deletes = False
        self.probes = 0
        self.deleted: list[str] = []
        self.buried: set[str] = set()
        self.revoked: dict[Party, int] = {}

    def probe(self) -> bool:
        self.probes += 1
        self.probe_error = None if self.works else StoreUnavailable("it does not work")
        self.mode, self.mode_reason = ("dynamodb", "") if self.works else ("memory", "it does not work")
        return self.works

    def mark_unusable(self, error: SessionError) -> None:
        self.mode, self.mode_reason, self.probe_error = "memory", str(error), error

    def check_event_loop(self) -> None:
        pass

    async def delete(
        self,
        session_id: str,
        *,
        record: Record | None = None,
        version: int | None = None,
        bury_until: int | None = None,
    ) -> bool:
        if self.fails_deletes:
            raise StoreUnavailable("no deletes")
        self.deleted.append(session_id)
        if bury_until is not None and await self.load(session_id, now=0) is None:
            self.buried.add(session_id)
        return await super().delete(session_id, record=record, version=version)

    async def revoke_owner(self, owner: str | None, *, keep: str | None = None, now: int | None = None) -> int:
        self.revoked[Party("owner", owner)] = wall_clock() if now is None else now
        return await super().revoke_owner(owner, keep=keep)

    async def revoke_tenant(self, tenant: str | None, *, keep: str | None = None, now: int | None = None) -> int:
        self.revoked[Party("tenant", tenant)] = wall_clock() if now is None else now
        return await super().revoke_tenant(tenant, keep=keep)

    async def move_in(
        self,
        record: Record,
        *,
        now: int,
        fresh_id: Callable[[], str],
        revoked_at: Mapping[Party, int] | None = None,
    ) -> Record | None:
        known = revoked_at or {}
        times = {party: self.revoked[party] for party in parties_of(record) if party in self.revoked}
        if any(at >= record.created_at and at != known.get(party) for party, at in times.items()):
            return None
        if record.id in self.buried:
            return None
        return await self.create(replace(record, id=fresh_id()), now=now, replaces=record.id)

    async def is_buried(self, session_id: str, *, now: int) -> bool:  # noqa: ARG002 - here nothing is forgotten
        return session_id in self.buried


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def settled(store: FallbackStore) -> None:
    """Wait until the probing thread has ended."""
    with anyio.fail_after(30):
        while store._probing:  # noqa: ASYNC110 - another thread has no event to set here
            await anyio.sleep(0.001)


async def healed(fallback: FallbackStore, primary: Primary, clock: Time) -> None:
    primary.works = True
    clock.now += 60
    await fallback.initialise()
    await settled(fallback)
    assert fallback.mode == "dynamodb"
