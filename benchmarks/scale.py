"""The command line on a big table of DynamoDB Local, throttled 5 % of the time: does it finish, and in how much memory?

Half of the sessions have expired, and a tenth belong to one owner. A proxy refuses every 20th request. Each command is
a process of its own; beside its peak of memory is that of the same command on an empty table. Needs DYNAMODB_LOCAL_URL.
"""

import argparse
import asyncio
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3

from benchmarks.growth import BATCH, FAR, LOCAL
from benchmarks.harness import Bar, Report, a_session, be_nobody, closing, paired
from dynamodb_sessions.codec import encode_items
from dynamodb_sessions.identifiers import new_id
from dynamodb_sessions.ops.patient_store import OperatorsStore
from dynamodb_sessions.stores import item_format, table_schema
from dynamodb_sessions.stores.contract import Party, Record
from tests.helpers.proxy import WHOLE, How, Proxy, Step

SESSIONS = 200_000
OWNER = "acme/alice"
EVERY = 20
LIST_LIMIT = 3.0
MEMORY_LIMIT = 1.5
ROUNDS = 5
_THROTTLED = Step(How.ANOTHER, applied=False, error=(400, "ThrottlingException"))


class Throttling(Proxy):
    """Refuses every 20th request, and keeps no note of those that pass."""

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self.count = self.throttled = 0

    def step(self, operation: str, authorization: str) -> Step:  # noqa: ARG002 - as its parent has it
        self.count += 1
        if self.count % EVERY:
            return WHOLE
        self.throttled += 1
        return _THROTTLED


@contextmanager
def throttling(url: str) -> Iterator[Throttling]:
    proxy = Throttling(url)
    try:
        yield proxy
    finally:
        proxy.close()


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command went: wall seconds, MB of memory at its peak, and the last line that it printed."""

    seconds: float
    megabytes: float
    lines: int
    last: str


RUN = """import pathlib, sys
from dynamodb_sessions.ops import cli
code = cli.main(sys.argv[1:])
print(pathlib.Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0], file=sys.stderr)
sys.exit(code)
"""


def command(url: str, table_name: str, *arguments: str) -> Ran:
    """Run a command to its end. Raises AssertionError if it fails."""
    started, lines, last = time.perf_counter(), 0, ""
    words = [sys.executable, "-c", RUN, *arguments, "--table", table_name, "--endpoint-url", url]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            lines, last = lines + 1, line.strip()
        said = process.stderr.read()
    assert process.returncode == 0, said
    return Ran(time.perf_counter() - started, int(said) / 1024, lines, last)


@contextmanager
def filled(client: Any, number: int) -> Iterator[str]:
    """Make a table of so many sessions. Yields its name."""
    name, data = f"scale-{uuid.uuid4()}", encode_items(a_session(500))
    table_schema.create(client, name)

    def item(place: int) -> dict[str, Any]:
        owner = OWNER if place < number // 10 else f"acme/user-{place}"
        record = Record(new_id(), data, 1_000 + place, FAR if place < number // 2 else 2_000_000, owner=owner)
        return {"PutRequest": {"Item": item_format.from_record(record)}}

    def fill(start: int) -> None:
        puts = [item(place) for place in range(start, min(start + BATCH, number))]
        assert not client.batch_write_item(RequestItems={name: puts})["UnprocessedItems"]

    try:
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(fill, range(0, number, BATCH)))
        yield name
    finally:
        client.delete_table(TableName=name)


def query(client: Any, table_name: str) -> int:
    """Make the Query of the owner's sessions, all pages of it, and nothing else. Return how many there are."""
    pages = client.get_paginator("query").paginate(TableName=table_name, **table_schema.of_owner(OWNER))
    return sum(len(page["Items"]) for page in pages)


async def listing(store: OperatorsStore) -> int:
    """List the owner's sessions as the command does. Return how many there are."""
    return len([each async for each in store.summaries_of(Party("owner", OWNER), now=int(time.time()))])


def measure_listing(report: Report, client: Any, url: str, table_name: str, number: int) -> None:
    store = OperatorsStore(table_name, endpoint_url=url)
    taken: dict[str, list[float]] = {"the Query alone": [], "list --owner": []}
    for _ in range(ROUNDS):
        for name, seconds in taken.items():
            started = time.perf_counter()
            found = query(client, table_name) if "Query" in name else asyncio.run(listing(store))
            seconds.append(time.perf_counter() - started)
            assert found == number // 10
    to_query = paired(taken["list --owner"], taken["the Query alone"])
    report.add(
        f"Listing {number // 10:,} sessions of one owner, without throttling",
        [
            {"": "the Query alone", "wall s": min(taken["the Query alone"]), "to the Query": 1.0},
            {
                "": "list --owner",
                "wall s": min(taken["list --owner"]),
                "to the Query": Bar("list --owner, to the Query alone", to_query, LIST_LIMIT),
            },
        ],
    )


def measure_commands(report: Report, url: str, table_name: str, empty: str, number: int) -> None:
    rows = []
    expected = {
        ("list",): r"",
        ("list", "--owner", OWNER): r"",
        ("purge-expired",): rf"deleted {number - number // 2:,} expired sessions",
        ("revoke", "--owner", OWNER): rf"revoked {number // 10:,} sessions",
    }
    with throttling(url) as proxy:
        for arguments, last in expected.items():
            before = command(proxy.url, empty, *arguments)
            throttled = proxy.throttled
            ran = command(proxy.url, table_name, *arguments)
            assert re.match(last, ran.last), ran.last
            rows.append(
                {
                    "command": arguments[0] + (" --owner" if len(arguments) > 1 else ""),
                    "wall s": ran.seconds,
                    "throttled": proxy.throttled - throttled,
                    "MB at its peak": ran.megabytes,
                    "to an empty table's": Bar(
                        f"memory of {' '.join(arguments[:2])}", ran.megabytes / before.megabytes, MEMORY_LIMIT
                    ),
                    "last line": ran.last if last else f"({ran.lines:,} lines)",
                }
            )
    report.add(f"Commands on {number:,} sessions, one request in {EVERY} throttled", rows)


def run(options: argparse.Namespace) -> Report:
    report, number = Report("scale"), options.sessions
    url = os.environ.get(LOCAL)
    if not url:
        report.miss(f"a big table: start DynamoDB Local and set {LOCAL} to its address")
        return report
    client = boto3.client("dynamodb", endpoint_url=url, region_name="us-east-1")
    with filled(client, number) as table_name, filled(client, 0) as empty:
        measure_listing(report, client, url, table_name, number)
        measure_commands(report, url, table_name, empty, number)
    return report


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks scale", description=__doc__)
    parser.add_argument("--sessions", type=int, default=SESSIONS, help="how many (default: %(default)s)")
    parser.add_argument(
        "--bars", action="store_true", help="exit with 1 if a bar does not hold, or could not be measured"
    )
    options = parser.parse_args(arguments)
    be_nobody()
    return closing(run(options), bars=options.bars)
