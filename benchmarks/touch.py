"""How much later a response comes whose session's life is extended, beside one that only reads the session.

DynamoDB is a stub of an exact latency. The handler reads the session, and then waits as it would for a database. That
each request of the one kind has touched its session, and none of the other, is checked.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from starlette.types import Receive, Scope, Send

from benchmarks import stub
from benchmarks.harness import KEY, Bar, Report, be_nobody, call, closing, counter, options_of, paired
from dynamodb_sessions import ConfigurationError, DynamoDBSessionMiddleware, DynamoDBStore

ROUNDS = 7
LATENCY = 0.004
WAITS = (0.0, 0.01, 0.03)
LIMIT = 1.1
CLIENTS = {"boto3": None, "async": "async"}


async def app(wait: float, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer the session's count, after a while."""
    scope["session"].get("count")
    await asyncio.sleep(wait)
    await counter(scope, receive, send)


class Visitor:
    """Somebody whose session is touched by every request, or by none."""

    def __init__(self, store: DynamoDBStore, wait: float, *, touches: bool) -> None:
        self._events: list[str] = []
        self._expected = ["load", "touch"] if touches else ["load"]
        self._app = DynamoDBSessionMiddleware(
            partial(app, wait),
            KEY,
            store=store,
            touch_after=0 if touches else None,
            on_event=lambda event: self._events.append(event.name),
        )

    async def sample(self, requests: int) -> float:
        """Return the median of so many requests' wall seconds."""
        cookie = (await call(self._app, "/write")).cookie
        self._events.clear()
        seconds = []
        for _ in range(requests):
            started = time.perf_counter()
            assert (await call(self._app, "/read", cookie)).body == b"1"
            seconds.append(time.perf_counter() - started)
        assert self._events == self._expected * requests, self._events
        return statistics.median(seconds)


async def measure(report: Report, *, rounds: int, requests: int, waits: Sequence[float]) -> None:
    rows: list[dict[str, Any]] = []
    with stub.running(LATENCY) as url:
        for name, client in CLIENTS.items():
            try:
                store = DynamoDBStore("sessions", endpoint_url=url, client=client)
            except ConfigurationError as error:
                report.miss(f"{name}: {error}")
                continue
            for wait in waits:
                taken: dict[bool, list[float]] = {True: [], False: []}
                visitors = {touches: Visitor(store, wait, touches=touches) for touches in taken}
                for _ in range(rounds):
                    for touches, visitor in visitors.items():
                        taken[touches].append(await visitor.sample(requests))
                later = paired(taken[True], taken[False])
                figure = f"{name}, a touch while the handler waits for {wait * 1000:g} ms"
                rows.append(
                    {
                        "client": name,
                        "server ms": LATENCY * 1000,
                        "handler ms": wait * 1000,
                        "touched to read": Bar(figure, later, LIMIT) if wait > LATENCY else later,
                        "touched ms": statistics.median(taken[True]) * 1000,
                        "read ms": statistics.median(taken[False]) * 1000,
                    }
                )
    report.add("A request that extends its session's life, wall time", rows)


def run(options: argparse.Namespace) -> Report:
    report = Report("touch")
    size: dict[str, Any] = {"requests": 2, "waits": WAITS[:2]} if options.tiny else {"requests": 20, "waits": WAITS}
    asyncio.run(measure(report, rounds=options.rounds, **size))
    return report


def main(arguments: Sequence[str]) -> int:
    options = options_of("touch", __doc__, rounds=ROUNDS, arguments=arguments)
    be_nobody()
    return closing(run(options), bars=options.bars)
