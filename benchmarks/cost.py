"""What traffic costs in units and dollars, beside writing after every response and touching at every request.

Visitors of several kinds go through the app, by a clock of their own. Every call that the store makes is answered and
charged, by the sizes of the items it meets, as the AWS documentation has it. At worst: an eventually consistent read
never sees what was written in the same second. Touching is no more than once a second. The store's own probe, once in
a process, is not counted, nor is storage.
"""

import argparse
import asyncio
import base64
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from botocore.exceptions import ClientError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from benchmarks.harness import KEY, Bar, Report, be_nobody, closing, options_of
from benchmarks.middleware import MAX_AGE, Contender, answer, use
from benchmarks.stub import Items
from dynamodb_sessions import DynamoDBSessionMiddleware, DynamoDBStore
from dynamodb_sessions import clock as package_clock
from dynamodb_sessions.identifiers import new_id
from dynamodb_sessions.stores import item_format, read_cache
from dynamodb_sessions.stores.contract import Record
from dynamodb_sessions.web.cookie import CookiePayload, SessionCookie

Json = dict[str, Any]

READ_PRICE, WRITE_PRICE = 0.125, 0.625
"""Dollars for a million request units, on demand, standard table class, us-east-1.

In force since 2024-11-01. Source: https://airbyte.com/data-engineering-resources/dynamodb-pricing, of 2025-07-21.
What counts is https://aws.amazon.com/dynamodb/pricing/on-demand/.
"""
READ_UNIT, WRITE_UNIT = 4096, 1024
"""Bytes. Source: "DynamoDB read and write operations" in the AWS documentation."""

OURS, EVENTUAL, CACHED = "this package", "… consistent_read=False", "… cache_seconds=5"
TOUCHES, WRITES = "touching at every request", "writing after every response"
LIMITS = {OURS: 0.25, EVENTUAL: 0.15}
CACHED_READS = 0.35
"""How many of the reads of a page may be left with a cache."""
ROUNDS = 1
NOW = 1_800_000_000


def size_of(attributes: Json) -> int:
    """Return the bytes DynamoDB counts for an item. Source: "DynamoDB item sizes and formats"."""
    return sum(len(name.encode()) + _value_size(value) for name, value in attributes.items())


def _value_size(value: Json) -> int:
    ((kind, content),) = value.items()
    if kind == "M":
        return 3 + sum(1 + len(name.encode()) + _value_size(each) for name, each in content.items())
    if kind == "B":
        return len(base64.b64decode(content))
    return (len(content.rstrip("0")) + 1) // 2 + 1 if kind == "N" else len(content.encode())


def _in_base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def units(size: int, unit: int) -> int:
    return max(1, -(-size // unit))


@dataclass
class Meter:
    """A DynamoDB with the methods of a boto3 client, that counts what it would charge for."""

    calls: Counter[str] = field(default_factory=Counter)
    reads: float = 0.0
    writes: float = 0.0
    _items: Items = field(default_factory=Items)
    _before: dict[str, tuple[int, Json]] = field(default_factory=dict)
    """When each item was last written, and what the reply to a read of it was until then."""

    def get_item(self, **request: Any) -> Json:
        now = self._find(request["Key"])
        consistent = request.get("ConsistentRead", False)
        self.calls["GetItem"] += 1
        second, before = self._before.get(request["Key"]["session_id"]["S"], (0, {}))
        seen = before if not consistent and second == package_clock.wall_clock() else now
        self.reads += units(size_of(seen.get("Item", {})), READ_UNIT) * (1 if consistent else 0.5)
        return seen

    def put_item(self, **request: Any) -> Json:
        return self._write("PutItem", request, request["Item"])

    def update_item(self, **request: Any) -> Json:
        return self._write("UpdateItem", request, request["Key"])

    def delete_item(self, **request: Any) -> Json:
        return self._write("DeleteItem", request, request["Key"])

    def _find(self, holder: Json) -> Json:
        return self._answer("GetItem", {"TableName": "sessions", "Key": {"session_id": holder["session_id"]}})

    def _answer(self, operation: str, request: Json) -> Json:
        status, body = self._items.answer(operation.encode(), json.dumps(request, default=_in_base64).encode())
        found: Json = json.loads(body)
        if status != 200:
            raise ClientError({"Error": {"Code": found["__type"].rpartition("#")[2]}}, operation)
        return found

    def _write(self, operation: str, request: Json, holder: Json) -> Json:
        self.calls[operation] += 1
        before = self._find(holder)
        try:
            return self._answer(operation, request)
        finally:
            sizes = [size_of(found.get("Item", {})) for found in (before, self._find(holder))]
            self.writes += units(max(sizes), WRITE_UNIT)
            self._before[holder["session_id"]["S"]] = (package_clock.wall_clock(), before)

    @property
    def dollars(self) -> float:
        return (self.reads * READ_PRICE + self.writes * WRITE_PRICE) / 1e6


class WritesAlways:
    """What other session middleware does: load the session, and write it after every response, if there is one."""

    def __init__(self, app: ASGIApp, meter: Meter) -> None:
        self._app = app
        self._meter = meter
        self._cookie = SessionCookie(
            [KEY], name="session_id", path="/", same_site="lax", https_only=True, domain=None, partitioned=False
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        session_id, stored = new_id(), dict[str, Any]()
        for ticket in self._cookie.read(scope["headers"]):
            session_id = ticket.session_id
            found = self._meter.get_item(TableName="sessions", Key=item_format.key(session_id), ConsistentRead=True)
            stored = found["Item"]["user_data"]["M"]
        session = scope["session"] = {name: json.loads(value["S"]) for name, value in stored.items()}

        async def write(message: Message) -> None:
            if message["type"] == "http.response.start" and session:
                data = {name: json.dumps(value, separators=(",", ":")) for name, value in session.items()}
                now = package_clock.wall_clock()
                expires_at = now + MAX_AGE
                record = Record(session_id, data, NOW, expires_at)
                self._meter.put_item(TableName="sessions", Item=item_format.from_record(record))
                cookie = self._cookie.issue(CookiePayload(session_id, 1, expires_at), now=now, secure=True)
                message["headers"].append((b"set-cookie", cookie.encode()))
            await send(message)

        await self._app(scope, receive, write)


class RoundRobin:
    """A load balancer in front of several instances."""

    def __init__(self, instances: Sequence[ASGIApp]) -> None:
        self._turns = itertools.cycle(instances)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await next(self._turns)(scope, receive, send)


def middlewares(meters: dict[str, Meter], instances: int) -> dict[str, ASGIApp]:
    def ours(name: str, *, touch_after: int | None = None, **options: Any) -> ASGIApp:
        stores = [DynamoDBStore("sessions", client=meters[name], **options) for _ in range(instances)]
        return RoundRobin(
            [
                DynamoDBSessionMiddleware(app, KEY, max_age=MAX_AGE, store=store, touch_after=touch_after)
                for store in stores
            ]
        )

    return {
        OURS: ours(OURS),
        EVENTUAL: ours(EVENTUAL, consistent_read=False),
        CACHED: ours(CACHED, cache_seconds=5),
        TOUCHES: ours(TOUCHES, touch_after=1),
        WRITES: WritesAlways(app, meters[WRITES]),
    }


async def app(scope: Scope, _receive: Receive, send: Send) -> None:
    path, session = scope["path"], scope["session"]
    match path:
        case "/look":
            await answer(send, b"somebody" if session.get("user") else b"nobody")
        case "/add":
            session["cart"] = [
                *session["cart"],
                {"sku": "SKU-000001", "title": "A thing", "price": 1999, "quantity": 1},
            ]
            await answer(send, use("/write", session))
        case "/turn":
            said = [{"role": role, "content": f"{role} says so. " * 50} for role in ("user", "assistant")]
            session["messages"] = session.get("messages", []) + said
            await answer(send, use("/write", session))
        case _:
            await answer(send, use(path, session))


@dataclass(frozen=True)
class Shape:
    """What visitors do: sign in with a session of a size, if any, then a cycle of requests, so many seconds apart."""

    name: str
    size: int
    cycle: Sequence[tuple[int, str]]
    times: int
    instances: int = 1
    """How many serve them in turn."""


def _reading(writes: str, reads: int, pause: int) -> list[tuple[int, str]]:
    """Return a write, the page it redirects to at once, and as many reads as there are to be."""
    return [(pause, writes), (0, "/read"), *[(pause, "/read")] * (reads - 1)]


SHAPES = (
    Shape("anonymous", 0, [(20, "/look")], 20),
    Shape("read-mostly", 2_000, _reading("/write", 9, 20), 10),
    Shape("read-mostly, small", 500, _reading("/write", 9, 20), 10),
    Shape("chatty", 1_000, _reading("/write", 1, 5), 50),
    Shape("cart", 500, _reading("/add", 3, 15), 25),
    Shape("agent", 500, [(30, "/turn")], 40),
    Shape("page", 2_000, [(30, "/read"), *[(0, "/read")] * 9, (1, "/read"), *[(0, "/read")] * 9], 10, instances=4),
)
"""Who writes: one of ten requests of `read-mostly`, of two of `chatty`, of four of `cart`, and every one of `agent`.
A `page` makes 20 requests within two seconds, which four instances serve in turn."""


@contextmanager
def clock() -> Iterator[list[int]]:
    """Give a list whose one number is the time, to the package as well."""
    now, real = [NOW], package_clock.wall_clock
    package_clock.wall_clock = lambda: now[0]
    with patch.multiple(read_cache, monotonic=lambda: now[0], wall_time=lambda: now[0]):
        try:
            yield now
        finally:
            package_clock.wall_clock = real


async def visit(shape: Shape, middleware: ASGIApp, now: list[int]) -> int:
    """Make one visitor's requests, and see that they find what was written. Returns their number."""
    visitor, written = Contender(shape.name, middleware), 0
    if shape.size:
        await visitor.ask(f"/{shape.size}")
    for pause, path in list(shape.cycle) * shape.times:
        now[0] += pause
        body = await visitor.ask(path)
        if path == "/look":
            assert body == b"nobody"
            continue
        written += path != "/read"
        assert body == (b"u-4711 %d" if path == "/read" else b"%d") % written
    return (1 if shape.size else 0) + len(shape.cycle) * shape.times


async def measure(report: Report, *, visitors: int) -> None:
    rows = []
    for shape in SHAPES:
        meters = {name: Meter() for name in (OURS, EVENTUAL, CACHED, TOUCHES, WRITES)}
        requests = dict.fromkeys(meters, 0)
        for name, middleware in middlewares(meters, shape.instances).items():
            with clock() as now:
                for _ in range(shape.instances):
                    await Contender("", middleware).ask("/look")
                meters[name].reads = 0.0  # The probe's.
                meters[name].calls.clear()
                for _ in range(visitors):
                    requests[name] += await visit(shape, middleware, now)
        rows += [row(shape, name, meters, requests[name]) for name in meters]
    report.add("What requests cost, by the calls that were made", rows)
    print(f"on demand in us-east-1: ${READ_PRICE} a million read units, ${WRITE_PRICE} a million write units\n")


def row(shape: Shape, name: str, meters: dict[str, Meter], requests: int) -> dict[str, Any]:
    meter, always = meters[name], meters[WRITES]
    share: Bar | float | None = meter.dollars / always.dollars if always.dollars else None
    if shape.name == "read-mostly" and name in LIMITS and isinstance(share, float):
        share = Bar(f"{name}, read-mostly, cost to {WRITES}", share, LIMITS[name])
    reads: Bar | float | None = meter.reads / meters[OURS].reads if name == CACHED and meter.reads else None
    if shape.name == "page" and isinstance(reads, float):
        reads = Bar(f"{name}, page, reads to without", reads, CACHED_READS)
    return {
        "traffic": shape.name,
        "sessions": name,
        "to writing always": share,
        "reads to without": reads,
        "$ / million requests": meter.dollars / requests * 1e6,
        "read units / request": meter.reads / requests,
        "write units / request": meter.writes / requests,
        "calls / request": sum(meter.calls.values()) / requests,
        "requests": requests,
    }


def run(options: argparse.Namespace) -> Report:
    report = Report("cost")
    asyncio.run(measure(report, visitors=1 if options.tiny else 5))
    return report


def main(arguments: Sequence[str]) -> int:
    options = options_of("cost", __doc__, rounds=ROUNDS, arguments=arguments)
    be_nobody()
    return closing(run(options), bars=options.bars)
