"""What a process does that was forked while threads of its parent held locks, and were at work."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from dynamodb_sessions import DynamoDBStore, MemoryStore, StoreUnavailable
from dynamodb_sessions.aws.circuit_breaker import FAILURES
from dynamodb_sessions.identifiers import new_id
from dynamodb_sessions.stores.contract import Record
from dynamodb_sessions.stores.fallback import FallbackStore

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")


def in_a_child(work: Callable[[], bool]) -> bool:
    """Return what comes of the work in a forked process. False if it takes too long."""
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            os._exit(0 if work() else 1)
        finally:
            os._exit(2)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 0


@pytest.fixture(params=[None, "async"])
def store(moto_url: str, table_name: str, request: pytest.FixtureRequest) -> DynamoDBStore:
    return DynamoDBStore(
        table_name, endpoint_url=moto_url, create_table=True, client=request.param, consistent_read=False
    )


def locks_of(store: DynamoDBStore) -> list[Any]:
    transport: Any = store._calls._transport
    locks = [store._noting, store._calls._probe_lock, store._calls._breaker._lock]
    if hasattr(transport, "_boto3"):
        locks.append(transport._making)
        transport = transport._boto3
    return [*locks, transport._lock]


async def write_and_read(store: Any) -> bool:
    now = int(time.time())
    record = Record(new_id(), {}, now, now + 100)
    return bool(await store.create(record, now=now)) and await store.load(record.id, now=now) == record


def test_a_lock_that_another_thread_held_is_free(store: DynamoDBStore) -> None:
    def work() -> bool:
        for _ in range(FAILURES):
            store._calls._breaker.failed(StoreUnavailable("out"))
        store._calls._breaker.answered()
        return store.probe() and anyio.run(write_and_read, store) and store.client is not None

    locks = locks_of(store)
    for lock in locks:
        lock.acquire()
    try:
        assert in_a_child(work)
    finally:
        for lock in locks:
            lock.release()
    assert store.probe()


def test_memorys_lock_is_free_and_its_sessions_are_the_parents() -> None:
    store = MemoryStore()
    record = Record(new_id(), {}, 0, 2**33)
    anyio.run(lambda: store.create(record, now=0))
    with store._lock:
        assert in_a_child(lambda: len(store) == 0 and anyio.run(write_and_read, store))
    assert len(store) == 1


def test_a_fallback_is_probed_though_the_parent_was_just_probing(store: DynamoDBStore) -> None:
    store.mark_unusable(StoreUnavailable("not yet"))
    fallback = FallbackStore(store, MemoryStore(), clock=lambda: clock[0])
    clock = [0.0]
    assert anyio.run(write_and_read, fallback)
    name = new_id()

    async def heal() -> bool:
        clock[0] = 100.0
        with anyio.fail_after(10):
            while not fallback.is_initialised:
                await fallback.initialise()
                await anyio.sleep(0.05)
            return await fallback.bring_home(name, now=0) == name and await write_and_read(fallback)

    fallback._probing = True
    fallback._moving.add(name)
    with fallback._lock:
        assert in_a_child(lambda: anyio.run(heal))


def test_a_breaker_asks_though_a_thread_of_the_parents_was_asking(store: DynamoDBStore) -> None:
    breaker = store._calls._breaker
    assert store.probe()
    for _ in range(FAILURES):
        breaker.failed(StoreUnavailable("out"))
    breaker._asking = True

    def work() -> bool:
        for _ in range(100):
            if not breaker.is_open:
                return True
            time.sleep(0.05)
            with contextlib.suppress(StoreUnavailable):
                breaker.check()
        return False

    with breaker._lock:
        assert in_a_child(work)
