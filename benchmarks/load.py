"""1,000 requests at once and a slow store: does one fail, is the event loop late, do busy threads delay sessions?

The event loop is as late as a sleep of 5 ms ends late. Beside it is what the same waits cost an app without sessions.
"""

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from benchmarks import stub
from benchmarks.harness import (
    Answer,
    be_nobody,
    call,
    counter,
    event_loop_lag,
    milliseconds,
    percentile,
    print_table,
    ratio,
    with_sessions,
)
from dynamodb_sessions.aws.threads import MAX_CONCURRENT_CALLS

LAG_TARGET = 0.020
BUSY_TARGET = 0.050
BUSY_ENDPOINTS = 40
"""As many as anyio's default limiter has threads."""

Ask = Callable[[], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Rounds:
    """What many requests at once took, in seconds per round, and how late the event loop was meanwhile."""

    name: str
    answers: Sequence[Answer]
    errors: int
    seconds: float
    lags: Sequence[float]

    @property
    def lag(self) -> float:
        return percentile(self.lags, 99)


async def at_once(name: str, requests: Sequence[Ask], rounds: int = 1) -> Rounds:
    """Start all the requests at once, and again when all are answered."""
    answers: list[Answer] = []
    errors = 0
    started = time.perf_counter()
    async with event_loop_lag() as lags:
        for _ in range(rounds):
            for answer in await asyncio.gather(*(request() for request in requests), return_exceptions=True):
                if isinstance(answer, Answer) and answer.status == 200:
                    answers.append(answer)
                else:
                    errors += 1
    return Rounds(name, answers, errors, (time.perf_counter() - started) / rounds, lags)


def without_sessions(wait: Callable[[], Awaitable[object]]) -> ASGIApp:
    """Return the app with two waits where a session is loaded and saved."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await wait()
        await counter({**scope, "session": {}}, receive, send)
        await wait()

    return app


async def measure_lag(*, concurrent: int, latency: float, rounds: int) -> int:
    """Compare the event loop under requests with and without sessions. Returns the number of errors."""
    limiter = anyio.CapacityLimiter(MAX_CONCURRENT_CALLS)

    async def wait_in_loop() -> None:
        async with limiter:
            await asyncio.sleep(latency)

    async def wait_in_thread() -> None:
        await anyio.to_thread.run_sync(time.sleep, latency, limiter=limiter)

    in_loop, in_threads = without_sessions(wait_in_loop), without_sessions(wait_in_thread)
    with stub.running(latency) as url:
        app = with_sessions(counter, url)
        await call(app, "/read")
        made = await at_once("created (1 call)", [partial(call, app, "/write")] * concurrent, rounds)
        cookies = [answer.cookie for answer in made.answers[-concurrent:]]
        results = [
            await at_once("none, 2 waits in the loop", [partial(call, in_loop, "/")] * concurrent, rounds),
            await at_once("none, 2 waits in threads", [partial(call, in_threads, "/")] * concurrent, rounds),
            made,
            await at_once("read (1 call)", [partial(call, app, "/read", cookie) for cookie in cookies], rounds),
            await at_once(
                "read and written (2 calls)", [partial(call, app, "/write", cookie) for cookie in cookies], rounds
            ),
        ]
    base = results[0].lag
    print(f"{concurrent} requests at once; {latency * 1000:g} ms a call, {MAX_CONCURRENT_CALLS} calls at a time\n")
    print_table(
        ("sessions", "answered", "errors", "seconds", "lag p50 ms", "p99 ms", "max ms", "p99 to the first's"),
        [
            (
                each.name,
                len(each.answers),
                each.errors,
                f"{each.seconds:.2f}",
                milliseconds(percentile(each.lags, 50)),
                milliseconds(each.lag),
                milliseconds(max(each.lags)),
                ratio(each.lag, base),
            )
            for each in results
        ],
    )
    errors = sum(each.errors for each in results)
    worst = max(each.lag for each in results[2:])
    print(f"errors: {errors}, wanted 0")
    print(f"lag of the event loop, p99: {milliseconds(worst)} ms, wanted {milliseconds(LAG_TARGET)} at most\n")
    return errors


async def measure_busy(*, latency: float, times: int) -> int:
    """Time session I/O while sync endpoints hold all of anyio's threads, beside waits in those very threads."""
    hold = 10 * latency
    errors = 0

    def sync_endpoint(_: Request) -> PlainTextResponse:
        time.sleep(hold)
        return PlainTextResponse("done")

    async def wait_in_default_thread() -> None:
        await anyio.to_thread.run_sync(time.sleep, latency)

    async def median(app: ASGIApp, cookie: str | None) -> float:
        nonlocal errors
        seconds = []
        for _ in range(times):
            started = time.perf_counter()
            errors += (await call(app, "/write", cookie)).status != 200
            seconds.append(time.perf_counter() - started)
        return percentile(seconds, 50)

    busy = Starlette(routes=[Route("/", sync_endpoint)])

    async def keep_busy() -> None:
        while True:
            await call(busy, "/")

    with stub.running(latency) as url:
        app = with_sessions(counter, url)
        cookie = (await call(app, "/write")).cookie
        apps: dict[str, ASGIApp] = {
            "read and written": app,
            "none, 2 waits in anyio's threads": without_sessions(wait_in_default_thread),
        }
        alone = [await median(each, cookie) for each in apps.values()]
        endpoints = [asyncio.create_task(keep_busy()) for _ in range(BUSY_ENDPOINTS)]
        await asyncio.sleep(latency)
        beside = [await median(each, cookie) for each in apps.values()]
        for endpoint in endpoints:
            endpoint.cancel()
        await asyncio.gather(*endpoints, return_exceptions=True)
    print(f"{BUSY_ENDPOINTS} busy sync endpoints, {hold:g} s each; {latency * 1000:g} ms a call\n")
    print_table(
        ("sessions", "alone ms", "beside them ms", "added ms", "beside to alone"),
        [
            (name, milliseconds(before), milliseconds(after), milliseconds(after - before), ratio(after, before))
            for name, before, after in zip(apps, alone, beside, strict=True)
        ],
    )
    print(f"errors: {errors}, wanted 0")
    added = milliseconds(beside[0] - alone[0])
    print(f"added to session I/O, p50: {added} ms, wanted {milliseconds(BUSY_TARGET)} at most\n")
    return errors


def main(arguments: list[str]) -> int:
    """Print the figures. The status is 1 if a request failed: how fast a machine is, is no failure."""
    parser = argparse.ArgumentParser("python -m benchmarks load", description=__doc__)
    parser.add_argument("--concurrent", type=int, default=1000, help="requests at once")
    parser.add_argument("--latency-ms", type=float, default=100.0, help="the store's, for every call")
    parser.add_argument("--rounds", type=int, default=3, help="how often")
    options = parser.parse_args(arguments)
    be_nobody()
    latency = options.latency_ms / 1000
    errors = asyncio.run(measure_lag(concurrent=options.concurrent, latency=latency, rounds=options.rounds))
    errors += asyncio.run(measure_busy(latency=latency, times=3 * options.rounds))
    return 1 if errors else 0
