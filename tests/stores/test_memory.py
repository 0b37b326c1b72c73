"""What is MemoryStore's own: its bounds. The rest is the contract's."""

import subprocess
import sys
from typing import Any

import pytest

from dynamodb_sessions import ConfigurationError, MemoryStore
from dynamodb_sessions.identifiers import new_id
from dynamodb_sessions.stores.contract import Changes, Record
from tests.conftest import NIGHTLY

pytestmark = pytest.mark.anyio

NOW = 1_800_000_000

GROWTH = """
import anyio, resource, sys
from dynamodb_sessions import MemoryStore
from dynamodb_sessions.identifiers import new_id
from dynamodb_sessions.stores.contract import Record

async def main(creates):
    store = MemoryStore()
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    before = peak()
    for number in range(creates):
        await store.create(Record(new_id(), {"user": '"alice"', "cart": "[1,2,3]"}, 1, 10**9), now=1)
    assert len(store) == min(creates, 10_000)
    print((peak() - before) // 1024)

anyio.run(main, int(sys.argv[1]))
"""


def a_record(data: dict[str, str] | None = None) -> Record:
    return Record(new_id(), data or {"a": "1"}, NOW, NOW + 100)


async def test_the_least_recently_used_goes_first() -> None:
    store = MemoryStore(max_sessions=3)
    first, second, third, fourth = records = [a_record() for _ in range(4)]
    for record in records[:3]:
        await store.create(record, now=NOW)
    await store.load(first.id, now=NOW)
    await store.update(second, Changes(NOW + 100, set={"b": "2"}), now=NOW)
    await store.create(fourth, now=NOW)
    assert len(store) == 3
    assert await store.load(third.id, now=NOW) is None
    for kept in (first, second, fourth):
        assert await store.load(kept.id, now=NOW) is not None


async def test_its_bytes_are_bounded_and_given_back() -> None:
    store = MemoryStore(max_bytes=1_000_000)
    for _ in range(50):
        record = a_record({"a": "x" * 100_000})
        await store.create(record, now=NOW)
        assert store._bytes <= 1_000_000
    assert len(store) == 9
    changed = await store.update(record, Changes(NOW + 100, set={"a": "1"}), now=NOW)
    assert changed is not None
    await store.delete(record.id)
    for session_id in list(store._records):
        await store.delete(session_id)
    assert (len(store), store._bytes) == (0, 0)


async def test_an_expired_session_is_forgotten_when_it_is_met() -> None:
    store = MemoryStore()
    record = a_record()
    await store.create(record, now=NOW)
    assert await store.load(record.id, now=NOW + 100) is None
    assert len(store) == 0


@pytest.mark.parametrize("options", [{"max_sessions": 0}, {"max_bytes": 0}, {"max_sessions": "5"}], ids=str)
async def test_bounds_are_positive_numbers(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        MemoryStore(**options)


def test_it_does_not_grow_however_many_are_created() -> None:
    """In a process of its own, whose peak is nobody else's: 64 MiB is what the store may hold."""
    creates = 1_000_000 if NIGHTLY else 30_000
    done = subprocess.run([sys.executable, "-c", GROWTH, str(creates)], check=True, capture_output=True, text=True)
    assert int(done.stdout) <= 64


async def test_no_two_ids_are_alike() -> None:
    count = 1_000_000 if NIGHTLY else 50_000
    assert len({new_id() for _ in range(count)}) == count
