"""A primary store that fails as it is told to, and the time that a fallback goes by."""

import anyio

from dynamodb_sessions import (
    MemoryStore,
    SessionError,
    StoreUnavailable,
)
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

    def probe(self) -> bool:
        self.probes += 1
        self.probe_error = None if self.works else StoreUnavailable("it does not work")
        self.mode, self.mode_reason = ("dynamodb", "") if self.works else ("memory", "it does not work")
        return self.works

    def mark_unusable(self, error: SessionError) -> None:
        self.mode, self.mode_reason, self.probe_error = "memory", str(error), error

    async def delete(self, session_id: str, *, version: int | None = None) -> bool:
        if self.fails_deletes:
            raise StoreUnavailable("no deletes")
        self.deleted.append(session_id)
        return await super().delete(session_id, version=version)


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def settled(store: FallbackStore) -> None:
    """Wait until the probing thread has ended."""
    with anyio.fail_after(5):
        while store._probing:  # noqa: ASYNC110 - another thread has no event to set here
            await anyio.sleep(0.001)


async def healed(fallback: FallbackStore, primary: Primary, clock: Time) -> None:
    primary.works = True
    clock.now += 60
    await fallback.initialise()
    await settled(fallback)
    assert fallback.mode == "dynamodb"
