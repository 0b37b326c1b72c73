"""What a request costs as sessions grow, and as their number does: in memory, and in a table of DynamoDB Local.

Beside a request is one encoding and decoding of the session's JSON: the least a cookie session takes. The memory store
is full at every size, so that each session that comes ends one; beside it is a look into a plain dict. The table needs
DYNAMODB_LOCAL_URL.
"""

import argparse
import asyncio
import gc
import json
import os
import random
import statistics
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import boto3

from benchmarks.harness import KEY, Bar, Report, a_session, be_nobody, closing, options_of, paired
from benchmarks.middleware import HEADERS, MAX_AGE, Contender, app
from dynamodb_sessions import DynamoDBSessionMiddleware, DynamoDBStore, MemoryStore, SessionEvent
from dynamodb_sessions.codec import encode_items
from dynamodb_sessions.identifiers import new_id
from dynamodb_sessions.stores import item_format, table_schema
from dynamodb_sessions.stores.contract import Changes, Record
from dynamodb_sessions.web.cookie import CookiePayload

ROUNDS = 5
SIZES = (500, 4_000, 40_000, 300_000)
FULL = 1_000_000
NUMBERS = (100, 1_000, 10_000, 100_000, FULL)
TABLES = (1_000, 100_000)
BASE = 1_000
LIMIT = 1.5
LOCAL = "DYNAMODB_LOCAL_URL"
BATCH = 25
FAR = 4_000_000_000
"""When the sessions here expire, in epoch seconds: not while this runs."""


async def measure_sizes(report: Report, *, rounds: int, sizes: Sequence[int], seconds: float) -> None:
    middleware = DynamoDBSessionMiddleware(app, KEY, max_age=MAX_AGE, store=MemoryStore())
    browsers = {size: Contender(str(size), middleware) for size in sizes}
    for size, browser in browsers.items():
        await browser.sign_in(size)

    def once(size: int) -> float:
        """Return the CPU seconds of one encoding and decoding."""
        session = a_session(size)
        started, times = time.process_time(), max(1, 1_000_000 // size)
        for _ in range(times):
            json.loads(json.dumps(session))
        return (time.process_time() - started) / times

    taken: dict[int, dict[str, list[float]]] = {size: {"read": [], "write": [], "json": []} for size in sizes}
    for _ in range(rounds):
        for size, browser in browsers.items():
            for operation in ("read", "write"):
                requests = max(3, int(seconds / max(1e-4, size * 1.5e-8)))
                taken[size][operation].append(await browser.sample(operation, requests))
            taken[size]["json"].append(once(size))
    for browser in browsers.values():
        await browser.check()
    report.add(
        "A request as its session grows, CPU",
        [
            {
                "session": f"{size / 1000:g} KB",
                "read to JSON's": paired(times["read"], times["json"]),
                "write to JSON's": paired(times["write"], times["json"]),
                **{f"{name} µs": statistics.median(values) * 1e6 for name, values in times.items()},
            }
            for size, times in taken.items()
        ],
    )


async def full_store(number: int, data: dict[str, str]) -> tuple[MemoryStore, list[str]]:
    """Return a store that holds so many sessions and takes no more, and their ids."""
    store = MemoryStore(max_sessions=number, max_bytes=2**40)
    ids = [new_id() for _ in range(number)]
    for session_id in ids:
        assert await store.create(Record(session_id, data, 1, FAR), now=1)
    assert len(store) == number
    return store, ids


async def sample_store(store: MemoryStore, ids: list[str], data: dict[str, str], times: int) -> dict[str, float]:
    """Return the CPU seconds of each operation, on sessions of chance. The store stays as full as it was."""
    chance = random.Random(len(ids))
    # Strings of their own, as out of a cookie.
    asked = [session_id.encode().decode() for session_id in chance.choices(ids, k=times)]
    records = [Record(session_id, data, 1, FAR) for session_id in asked]
    coming = [Record(new_id(), data, 1, FAR) for _ in range(times)]
    operations: dict[str, tuple[list[Record], Callable[[Record], Awaitable[Any]]]] = {
        "load": (records, lambda record: store.load(record.id, now=1)),
        "update": (records, lambda record: store.update(record, Changes(FAR, set={"count": '"1"'}), now=1)),
        "create": (coming, lambda record: store.create(record, now=1)),
    }
    plain = dict.fromkeys(ids, 1)
    gc.collect()
    started = time.process_time()
    for session_id in asked:
        assert plain[session_id]
    seconds = {"plain dict": (time.process_time() - started) / times}
    for name, (given, operation) in operations.items():
        gc.collect()
        started = time.process_time()
        for record in given:
            assert await operation(record)
        seconds[name] = (time.process_time() - started) / times
    # Those that came have ended the oldest: whoever is here now is who may be asked for.
    ids[:] = [record.id async for record in store.scan(now=1)]
    return seconds


async def measure_memory(report: Report, *, rounds: int, numbers: Sequence[int], times: int) -> None:
    data = encode_items(a_session(500))
    stores = {number: await full_store(number, data) for number in numbers}
    taken: dict[int, list[dict[str, float]]] = {number: [] for number in numbers}
    for each in range(rounds + 1):
        for number, (store, ids) in stores.items():
            seconds = await sample_store(store, ids, data, times)
            if each:
                taken[number].append(seconds)
    base = BASE if BASE in taken else min(taken)
    rows = []
    for number, samples in taken.items():
        row: dict[str, Any] = {"sessions": f"{number:,}"}
        for name in samples[0]:
            to_base = paired(*([sample[name] for sample in each] for each in (samples, taken[base])))
            figure = f"memory store, {name} at {number:,} sessions, to {base:,}"
            row[f"{name} to {base:,}'s"] = (
                Bar(figure, to_base, LIMIT) if number == FULL and name != "plain dict" else to_base
            )
        for name in samples[0]:
            row[f"{name} µs"] = statistics.median(sample[name] for sample in samples) * 1e6
        rows.append(row)
    report.add("The memory store as it fills, CPU of an operation", rows)


@contextmanager
def filled_table(client: Any, number: int) -> Iterator[tuple[str, list[str]]]:
    """Make a table of so many sessions. Returns its name and some of their ids."""
    name, ids, data = f"growth-{uuid.uuid4()}", [new_id() for _ in range(number)], encode_items(a_session(500))
    table_schema.create(client, name)

    def fill(start: int) -> None:
        puts = [
            {"PutRequest": {"Item": item_format.from_record(Record(session_id, data, 1, FAR))}}
            for session_id in ids[start : start + BATCH]
        ]
        assert not client.batch_write_item(RequestItems={name: puts})["UnprocessedItems"]

    try:
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(fill, range(0, number, BATCH)))
        yield name, ids
    finally:
        client.delete_table(TableName=name)


class Tenant:
    """Requests to an app whose sessions are in a table, by browsers that have been here before."""

    def __init__(self, url: str, name: str, ids: list[str]) -> None:
        self.events: list[SessionEvent] = []
        store = DynamoDBStore(name, endpoint_url=url)
        self._middleware = DynamoDBSessionMiddleware(app, KEY, store=store, on_event=self.events.append)
        self._ids = ids

    async def sample(self, requests: int) -> float:
        """Return the wall seconds of a request that reads and one that writes, each of another session."""
        chance = random.Random()
        seconds = []
        for session_id in chance.sample(self._ids, requests):
            issued = self._middleware.setup.cookie.issue(CookiePayload(session_id), now=0, secure=True)
            cookie = issued.partition(";")[0]
            browser = Contender("", self._middleware, headers=[*HEADERS, (b"cookie", cookie.encode())])
            started = time.perf_counter()
            before = await browser.ask("/read")
            after = await browser.ask("/write")
            seconds.append(time.perf_counter() - started)
            assert int(after) == int(before.split()[1]) + 1
        return statistics.median(seconds)


async def measure_table(report: Report, *, rounds: int, tables: Sequence[int], requests: int) -> None:
    url = os.environ.get(LOCAL)
    if not url:
        report.miss(f"a growing table: start DynamoDB Local and set {LOCAL} to its address")
        return
    client = boto3.client("dynamodb", endpoint_url=url, region_name="us-east-1")
    small, large = tables
    with filled_table(client, small) as few, filled_table(client, large) as many:
        tenants = {small: Tenant(url, *few), large: Tenant(url, *many)}
        taken: dict[int, list[float]] = {number: [] for number in tables}
        for each in range(rounds + 1):
            for number, tenant in tenants.items():
                seconds = await tenant.sample(requests)
                if each:
                    taken[number].append(seconds)
    report.add(
        "A request that reads and one that writes, in a table of DynamoDB Local",
        [
            {
                "sessions in it": f"{number:,}",
                f"to {small:,}'s": paired(seconds, taken[small]),
                "wall ms": statistics.median(seconds) * 1000,
                "capacity units": sum(event.capacity_units or 0 for event in tenants[number].events)
                / (requests * (rounds + 1)),
            }
            for number, seconds in taken.items()
        ],
    )


def run(options: argparse.Namespace) -> Report:
    report = Report("growth")
    tiny, rounds = options.tiny, options.rounds
    sizes, seconds = (SIZES[:2], 0.001) if tiny else (SIZES, 0.03)
    numbers, times = ((10, 100), 50) if tiny else (NUMBERS, 5_000)
    tables, requests = ((30, 60), 5) if tiny else (TABLES, 100)
    asyncio.run(measure_sizes(report, rounds=rounds, sizes=sizes, seconds=seconds))
    asyncio.run(measure_memory(report, rounds=rounds, numbers=numbers, times=times))
    asyncio.run(measure_table(report, rounds=rounds, tables=tables, requests=requests))
    return report


def main(arguments: Sequence[str]) -> int:
    options = options_of("growth", __doc__, rounds=ROUNDS, arguments=arguments)
    be_nobody()
    return closing(run(options), bars=options.bars)
