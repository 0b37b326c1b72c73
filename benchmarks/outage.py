"""What a request takes while DynamoDB is gone and the breaker is open, beside one that is answered."""

import argparse
import asyncio
import logging
import time

from starlette.types import ASGIApp

from benchmarks import stub
from benchmarks.harness import be_nobody, call, counter, milliseconds, percentile, print_table, ratio, with_sessions
from dynamodb_sessions.aws.circuit_breaker import FAILURES

TARGET = 0.010


async def timed(app: ASGIApp, cookie: str | None, requests: int) -> tuple[list[float], set[int]]:
    """Return the seconds of requests one after the other, and the statuses of their answers."""
    seconds, statuses = [], set()
    for _ in range(requests):
        started = time.perf_counter()
        statuses.add((await call(app, "/read", cookie)).status)
        seconds.append(time.perf_counter() - started)
    return seconds, statuses


async def measure(requests: int) -> bool:
    """Print the table. Returns whether every request got the status it should."""
    with stub.running(0.0) as url:
        app = with_sessions(counter, url)
        cookie = (await call(app, "/write")).cookie
        answered, healthy = await timed(app, cookie, requests)
    await timed(app, cookie, FAILURES)
    refused, failed = await timed(app, cookie, requests)
    base = percentile(answered, 50)
    rows = [
        (
            name,
            len(seconds),
            *(milliseconds(percentile(seconds, percent)) for percent in (50, 99, 100)),
            ratio(percentile(seconds, 50), base),
        )
        for name, seconds in (("answered", answered), ("gone, breaker open", refused))
    ]
    print_table(("DynamoDB is", "requests", "p50 ms", "p99 ms", "longest ms", "p50 to the first's"), rows)
    print(f"p99 while it is gone: {milliseconds(percentile(refused, 99))} ms, wanted {milliseconds(TARGET)} at most")
    return (healthy, failed) == ({200}, {503})


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks outage", description=__doc__)
    parser.add_argument("--requests", type=int, default=5_000, help="of each kind (default: %(default)s)")
    options = parser.parse_args(arguments)
    be_nobody()
    logging.disable()
    return 0 if asyncio.run(measure(options.requests)) else 1
