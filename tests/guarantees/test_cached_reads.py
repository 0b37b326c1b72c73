"""What a read cache promises, whatever the order: late by its seconds at most, never older than the browser has seen.

The oracle of `tests/helpers/interleaved.py` knows what was stored when. That it finds faults is proved with caches that
break one rule each. SESSIONS_TESTS=nightly runs more of everything; SESSIONS_SEED repeats a run.
"""

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import boto3
import pytest

from dynamodb_sessions import DynamoDBStore, StoreUnavailable
from dynamodb_sessions.aws.table_calls import Operation
from dynamodb_sessions.stores import read_cache, table_schema
from dynamodb_sessions.stores.contract import Changes, Record
from dynamodb_sessions.stores.read_cache import ReadCache
from tests.conftest import NIGHTLY, SEED, Clock
from tests.helpers.interleaved import Engine, Fake, Real, World, one_day

pytestmark = pytest.mark.anyio

Watch = Callable[[World], None]


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Have the time, and the pauses between two attempts, be the world's."""

    def watch(world: World) -> None:
        monkeypatch.setattr(read_cache, "monotonic", lambda: world.monotonic)
        monkeypatch.setattr(read_cache, "wall_time", lambda: world.wall)
        monkeypatch.setattr(Operation, "pause", world.step)

    return watch


async def faults_of(
    days: int, name: object, engine: Callable[[], Engine], clock: Clock, watch: Watch, **options: Any
) -> list[str]:
    """Return what is wrong with the first day on which anything is."""
    for day in range(days):
        clock.now = 1_800_000_000
        world = await one_day(random.Random(f"{name}/{day}"), engine(), clock, watch=watch, **options)
        if world.faults:
            return [f"SESSIONS_SEED={SEED}, day {day}", *world.faults]
    return []


async def test_every_read_is_what_was_stored_within_the_seconds(clock: Clock, watch: Watch) -> None:
    assert await faults_of(20_000 if NIGHTLY else 400, SEED, Fake, clock, watch) == []


async def test_every_read_is_what_was_stored_on_the_real_engine(
    clock: Clock, watch: Watch, dynamodb_local_url: str, table_name: str
) -> None:
    client: Any = boto3.client("dynamodb", endpoint_url=dynamodb_local_url, region_name="us-east-1")
    table_schema.create(client, table_name)
    engine = Real(client, table_name)
    assert await faults_of(1000 if NIGHTLY else 25, SEED, lambda: engine, clock, watch) == []


# Caches that break one rule each.

get, read, changed, land = ReadCache.get, ReadCache.read, ReadCache.changed, ReadCache._land
load = DynamoDBStore.load


def any_version(self: ReadCache, session_id: str, **told: Any) -> Record | None:
    return get(self, session_id, **told | {"min_version": 0})


def the_expired_too(self: ReadCache, session_id: str, **told: Any) -> Record | None:
    return get(self, session_id, **told | {"now": 0})


def joined_whatever_its_version(self: ReadCache, session_id: str, **told: Any) -> Any:
    return read(self, session_id, **told | {"min_version": 0})


def cheap(self: ReadCache, session_id: str, **told: Any) -> Any:
    given = told["read"]
    return read(self, session_id, **told | {"read": partial(given.func, *given.args, consistent=False)})


async def absence_shared(self: ReadCache, session_id: str, **told: Any) -> Any:
    flight = self._flight_to_join(session_id)
    return await read(self, session_id, **told) if flight is None else await flight.wait()


async def failure_shared(self: ReadCache, session_id: str, **told: Any) -> Any:
    flight = self._flight_to_join(session_id)
    if flight is not None and await flight.wait() is None:
        raise StoreUnavailable("the read that was under way has failed")
    return await read(self, session_id, **told)


def as_old_as_its_answer(self: ReadCache, session_id: str, flight: Any, record: Record | None) -> None:
    flight.read_at = read_cache._Moment()
    land(self, session_id, flight, record)


def joined_whatever_its_age(self: ReadCache, session_id: str) -> Any:
    return self._flights.get(session_id)


def kept_across_a_gap(self: ReadCache, session_id: str, stored: Record | None, changes: Changes) -> None:
    entry = self._entries.get(session_id)
    changed(self, session_id, stored, changes)
    if entry is not None and stored is not None:
        self._put(replace(changes.apply(entry.record), version=stored.version), entry.read_at)


def kept_though_it_failed(self: ReadCache, session_id: str, stored: Record | None, changes: Changes) -> None:
    if stored is not None:
        changed(self, session_id, stored, changes)


def read_from_the_cache_always(self: DynamoDBStore, session_id: str, **told: Any) -> Any:
    return load(self, session_id, **told | {"min_version": told.get("min_version") or 1, "consistency": "default"})


def by_one_clock(name: str) -> Callable[[Any, float], bool]:
    clock = {"_monotonic": "monotonic", "_wall": "wall_time"}[name]
    return lambda self, seconds: bool(getattr(read_cache, clock)() - getattr(self, name) >= seconds)


BROKEN: dict[str, tuple[object, str, Any]] = {
    "the browser's version is not asked for": (ReadCache, "get", any_version),
    "what has expired is given": (ReadCache, "get", the_expired_too),
    "reads that must be strong use it": (DynamoDBStore, "load", read_from_the_cache_always),
    "who waits for another's read does not look at its version": (ReadCache, "read", joined_whatever_its_version),
    "who waits takes absence from another's read": (ReadCache, "read", absence_shared),
    "who waits fails with a cancelled reader": (ReadCache, "read", failure_shared),
    "who waits does not ask since when": (ReadCache, "_flight_to_join", joined_whatever_its_age),
    "it is filled by cheap reads": (ReadCache, "read", cheap),
    "its age counts from the answer": (ReadCache, "_land", as_old_as_its_answer),
    "its age is by the monotonic clock alone": (read_cache._Moment, "is_past", by_one_clock("_monotonic")),
    "its age is by the wall clock alone": (read_cache._Moment, "is_past", by_one_clock("_wall")),
    "an own change is kept across a gap of versions": (ReadCache, "changed", kept_across_a_gap),
    "a change that is not known for certain leaves it": (ReadCache, "changed", kept_though_it_failed),
    "what is ended here stays": (ReadCache, "drop", lambda *_: None),
    "a read under way keeps what was dropped": (ReadCache, "_forget", ReadCache._remove),
}


ONLY_ON = {
    "its age is by the monotonic clock alone": {"kinds": ["frozen"]},
    "its age is by the wall clock alone": {"kinds": ["set back"]},
}
"""The kinds of days on which a rule matters."""


@pytest.mark.parametrize("rule", BROKEN)
async def test_the_oracle_finds_a_broken_rule(
    rule: str, clock: Clock, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, name, broken = BROKEN[rule]
    monkeypatch.setattr(where, name, broken)
    assert await faults_of(1500, rule, Fake, clock, watch, **ONLY_ON.get(rule, {})) != []
