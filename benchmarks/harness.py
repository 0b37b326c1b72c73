"""What the benchmarks share: an app that uses its session, a client that is not measured, and tables to print."""

import argparse
import asyncio
import json
import os
import statistics
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dynamodb_sessions import DynamoDBSessionMiddleware, DynamoDBStore

KEY = "a-key-for-benchmarks-of-more-than-32-bytes"


def be_nobody() -> None:
    """Use no account and no configuration of the machine."""
    for name in tuple(os.environ):
        if name.startswith(("AWS_", "SESSION_", "USE_DYNAMODB")) or name == "DYNAMODB_ENDPOINT_URL":
            del os.environ[name]
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "benchmarks",
        "AWS_SECRET_ACCESS_KEY": "benchmarks",
        "AWS_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def with_sessions(app: ASGIApp, url: str, *, table_name: str = "sessions", **options: Any) -> DynamoDBSessionMiddleware:
    """Return the app behind the middleware, its sessions in the DynamoDB at an address and nowhere else."""
    store = DynamoDBStore(table_name, endpoint_url=url, **options)
    return DynamoDBSessionMiddleware(app, KEY, store=store, fallback="error")


async def counter(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
    """Do with the session what the path says, and answer its count: an app that is nothing but its session."""
    session = scope["session"]
    match scope["path"]:
        case "/write":
            session["count"] = session.get("count", 0) + 1
        case "/rotate":
            session.regenerate()
        case "/logout":
            session.clear()
    body = str(session.get("count", 0)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def on_a_core_apart() -> Iterator[None]:
    """Keep what is started in this block on one core, where there are two and one can choose.

    How soon a server is woken then does not depend on where it happens to run.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    if len(cores) < 2:
        yield
        return
    os.sched_setaffinity(0, cores[-1:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


@dataclass(frozen=True, slots=True)
class Answer:
    """A response. `cookie` is the session cookie it sets, "" if it removes it, None if it does neither."""

    status: int
    body: bytes
    cookie: str | None


async def call(app: ASGIApp, path: str, cookie: str | None = None) -> Answer:
    """Make one request, with nothing between it and the app."""
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"localhost")] + ([(b"cookie", cookie.encode())] if cookie else []),
        "client": ("127.0.0.1", 1),
        "server": ("localhost", 80),
        "state": {},
    }
    status, body, set_cookie = 0, b"", None

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status, body, set_cookie
        if message["type"] == "http.response.start":
            status = message["status"]
            for name, value in message["headers"]:
                if name == b"set-cookie":
                    pair = value.decode().partition(";")[0]
                    set_cookie = "" if pair.endswith("=") else pair
        else:
            body += message.get("body", b"")

    await app(scope, receive, send)
    return Answer(status, body, set_cookie)


@asynccontextmanager
async def event_loop_lag(interval: float = 0.005) -> AsyncIterator[list[float]]:
    """Give a list that grows, while the block lasts, by the seconds that a sleep of `interval` seconds came late."""
    lags: list[float] = []

    async def watch() -> None:
        while True:
            due = time.perf_counter() + interval
            await asyncio.sleep(interval)
            lags.append(max(0.0, time.perf_counter() - due))

    watching = asyncio.create_task(watch())
    try:
        yield lags
    finally:
        watching.cancel()


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that `percent` of all are not above."""
    ordered = sorted(values)
    return ordered[max(0, -int(-len(ordered) * percent // 100) - 1)]


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f}"


def ratio(value: float, other: float) -> str:
    return f"{value / other:.2f}" if other else "-"


def print_table(heading: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table as Markdown has it, its columns aligned: text to the left, figures to the right."""
    cells = [[str(cell) for cell in row] for row in (heading, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width if number == 0 else "-" * (width - 1) + ":" for number, width in enumerate(widths)])
    for row in cells:
        padded = (
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print(f"| {' | '.join(padded)} |")
    print()


@dataclass(frozen=True, slots=True)
class Bar:
    """What a figure must not be above, or with `least` below."""

    figure: str
    value: float
    limit: float
    least: bool = False

    @property
    def holds(self) -> bool:
        return self.value >= self.limit if self.least else self.value <= self.limit

    def __str__(self) -> str:
        return f"{shown(self.value)} ({'≥' if self.least else '≤'} {self.limit:g} {'✓' if self.holds else '✗'})"


@dataclass(slots=True)
class Report:
    """What one benchmark has found. `missing` is what could not be measured, and why."""

    name: str
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    bars: list[Bar] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def add(self, title: str, rows: list[dict[str, Any]]) -> None:
        """Print a table and keep it. A cell that is a Bar is also one of the bars."""
        self.tables[title] = rows
        self.bars += [cell for row in rows for cell in row.values() if isinstance(cell, Bar)]
        print(f"\n{title}\n")
        print_table(tuple(rows[0]), [tuple(map(shown, row.values())) for row in rows])

    def miss(self, what: str) -> None:
        if what in self.missing:
            return
        self.missing.append(what)
        print(f"\n!!! NOT MEASURED: {what}\n", flush=True)

    def as_json(self) -> dict[str, Any]:
        tables = {
            title: [{name: cell.value if isinstance(cell, Bar) else cell for name, cell in row.items()} for row in rows]
            for title, rows in self.tables.items()
        }
        return {
            "tables": tables,
            "bars": [asdict(bar) | {"holds": bar.holds} for bar in self.bars],
            "missing": self.missing,
        }


def shown(cell: object) -> str:
    """Return a cell as it is printed: figures with three digits that count."""
    if not isinstance(cell, float):
        return "-" if cell is None else str(cell)
    return f"{cell:.0f}" if abs(cell) >= 100 else f"{cell:.3g}"


def closing(report: Report, *, bars: bool) -> int:
    """Say which bars do not hold, and what has none. Returns the exit status: 1 if that is to count."""
    failed = [bar for bar in report.bars if not bar.holds]
    print(f"{report.name}: {len(report.bars) - len(failed)} of {len(report.bars)} bars hold")
    for bar in failed:
        print(f"  ✗ {bar.figure}: {bar}")
    for what in report.missing:
        print(f"  not measured: {what}")
    return 1 if bars and (failed or report.missing) else 0


def paired(values: Sequence[float], others: Sequence[float]) -> float:
    """Return the median of the ratios of each round: what slows the machine down, slows both."""
    return statistics.median(value / other for value, other in zip(values, others, strict=True))


def options_of(name: str, about: str | None, *, rounds: int, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the options all benchmarks with bars have."""
    parser = argparse.ArgumentParser(f"python -m benchmarks {name}", description=about)
    parser.add_argument(
        "--rounds", type=int, default=rounds, help="interleaved, of which medians (default: %(default)s)"
    )
    parser.add_argument("--tiny", action="store_true", help="so small that the figures mean nothing")
    parser.add_argument(
        "--bars", action="store_true", help="exit with 1 if a bar does not hold, or could not be measured"
    )
    return parser.parse_args(arguments)


def a_session(size: int) -> dict[str, Any]:
    """Return a session whose JSON takes about `size` bytes: somebody signed in, and a cart to fill it."""
    session: dict[str, Any] = {
        "count": 0,
        "user": {"id": "u-4711", "name": "Ada Example", "roles": ["reader", "editor"]},
        "csrf": "0123456789abcdef" * 4,
        "locale": "en-GB",
        "cart": [],
    }
    number, left = 0, size - len(json.dumps(session))
    while left > 0:
        line = {"sku": f"SKU-{number:06}", "title": f"Thing number {number}", "price": 1999 + number, "quantity": 1}
        session["cart"].append(line)
        number, left = number + 1, left - len(json.dumps(line)) - 2
    return session
