"""64 clients for ten minutes: does a session go wrong, does a thread, a socket or memory leak?

Each client creates, reads, changes, rotates and ends sessions, in an order of chance, and checks every answer. Threads
and open files must not, after the warm-up, be more than at its worst. Memory must not grow by more than 1 MiB from the
third quarter of the time to the last, by the medians: what the allocator does to itself has come to rest by then.
"""

import argparse
import asyncio
import os
import random
import statistics
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import boto3
from starlette.types import ASGIApp

from benchmarks import stub
from benchmarks.harness import be_nobody, call, counter, print_table, with_sessions
from dynamodb_sessions.stores import table_schema

MEBIBYTE = 1024 * 1024
MEMORY_TARGET = MEBIBYTE
PAGE = os.sysconf("SC_PAGE_SIZE")
CHOICES = ("/read", "/write", "/rotate", "/logout")
WEIGHTS = (5, 3, 1, 1)


@dataclass(frozen=True, slots=True)
class Sample:
    """What the process holds: threads, open files, bytes of memory."""

    threads: int
    files: int
    memory: int

    @classmethod
    def take(cls) -> "Sample":
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return cls(threading.active_count(), len(list(Path("/proc/self/fd").iterdir())), pages * PAGE)


@dataclass
class Soak:
    """What has happened so far."""

    requests: int = 0
    errors: int = 0
    ended: bool = False
    samples: list[tuple[int, Sample]] = field(default_factory=list)
    """How many requests there had been, and what the process then held."""

    async def client(self, app: ASGIApp, chance: random.Random) -> None:
        """Use one session after another, as a browser would, and know what is in it."""
        cookie, count = "", 0
        while not self.ended:
            path = chance.choices(CHOICES, WEIGHTS)[0] if cookie else "/write"
            expected = {"/write": count + 1, "/logout": 0}.get(path, count)
            answer = await call(app, path, cookie)
            self.requests += 1
            if answer.status != 200 or int(answer.body) != expected:
                self.errors += 1
                cookie, count = "", 0
            else:
                cookie, count = cookie if answer.cookie is None else answer.cookie, expected

    async def run(self, app: ASGIApp, *, clients: int, seconds: float, interval: float) -> None:
        """Let the clients work, and take a sample at every interval."""
        working = [asyncio.create_task(self.client(app, random.Random(number))) for number in range(clients)]
        until = time.monotonic() + seconds
        while time.monotonic() < until and not any(task.done() for task in working):
            await asyncio.sleep(interval)
            self.samples.append((self.requests, Sample.take()))
        self.ended = True
        for result in await asyncio.gather(*working, return_exceptions=True):
            self.errors += result is not None


@dataclass(frozen=True, slots=True)
class Quarter:
    """A quarter of the time: threads and files at their worst, memory by the median."""

    requests: int
    threads: int
    files: int
    memory: float


def quarters(samples: Sequence[tuple[int, Sample]]) -> list[Quarter]:
    size = len(samples) // 4
    result = []
    for number in range(4):
        part = samples[number * size : (number + 1) * size] if number < 3 else samples[3 * size :]
        result.append(
            Quarter(
                part[-1][0],
                max(sample.threads for _, sample in part),
                max(sample.files for _, sample in part),
                statistics.median(sample.memory for _, sample in part),
            )
        )
    return result


def leaks(parts: Sequence[Quarter]) -> list[str]:
    """Return what leaks, the first quarter being the warm-up."""
    warm_up, *later = parts
    found = [
        f"{name}: {worst}, {before} in the warm-up"
        for name, before, worst in (
            ("threads", warm_up.threads, max(part.threads for part in later)),
            ("open files", warm_up.files, max(part.files for part in later)),
        )
        if worst > before
    ]
    growth = parts[3].memory - parts[2].memory
    if growth > MEMORY_TARGET:
        found.append(f"memory: {growth / MEBIBYTE:.1f} MiB more in the last quarter than in the one before")
    return found


def main(arguments: list[str]) -> int:
    """Print the figures. The status is 1 if something leaks, or an answer was not what it must be."""
    parser = argparse.ArgumentParser("python -m benchmarks soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--url", help="a DynamoDB to use, such as DynamoDB Local; without it, the stub")
    parser.add_argument("--latency-ms", type=float, default=100.0, help="the stub's, for every call")
    options = parser.parse_args(arguments)
    be_nobody()
    seconds = options.minutes * 60
    soak = Soak()
    with ExitStack() as stack:
        url = options.url or stack.enter_context(stub.running(options.latency_ms / 1000))
        table_name = stack.enter_context(own_table(url)) if options.url else "sessions"
        app = with_sessions(counter, url, table_name=table_name)
        asyncio.run(soak.run(app, clients=options.clients, seconds=seconds, interval=min(1.0, seconds / 40)))
    parts = quarters(soak.samples)
    print(f"{options.clients} clients, {options.minutes:g} minutes, {'the engine' if options.url else 'the stub'}\n")
    print_table(
        ("quarter", "requests", "threads", "open files", "memory MiB"),
        [
            (number, part.requests, part.threads, part.files, f"{part.memory / MEBIBYTE:.2f}")
            for number, part in enumerate(parts, 1)
        ],
    )
    found = leaks(parts)
    requests = parts[3].requests - parts[2].requests
    print(f"errors: {soak.errors}, wanted 0")
    print(f"memory per request, last quarter: {(parts[3].memory - parts[2].memory) / max(1, requests):.1f} bytes")
    print(f"leaks: {'; '.join(found) or 'none'}")
    return 1 if found or soak.errors else 0


@contextmanager
def own_table(url: str) -> Iterator[str]:
    """Have a table for as long as the block lasts."""
    client = boto3.client("dynamodb", endpoint_url=url, region_name="us-east-1")
    name = f"soak-{uuid.uuid4().hex}"
    table_schema.create(client, name)
    try:
        yield name
    finally:
        client.delete_table(TableName=name)
