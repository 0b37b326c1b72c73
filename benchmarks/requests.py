"""A whole request in process, its sessions in DynamoDB, beside starsessions in Redis and beside bare DynamoDB calls.

DynamoDB is a stub that answers at once, or after an exact latency, in a process of its own; Redis is real. A bare call
is no request: it is the least that any request would take. With a cache, a session is read once, and then found in the
process, as it is in the memory store. The servers have a core of their own, where there are two; the cost of their work
is shown, to see that it is not what is measured, with that of the relay which delays Redis' answers. Every answer
is checked: read requests must find their session, and in the end all that was written must be there.
"""

import argparse
import asyncio
import gc
import os
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import anyio
import anyio.to_thread
import boto3
from botocore.config import Config
from starlette.types import ASGIApp

from benchmarks import redis_server, stub
from benchmarks.harness import KEY, Bar, Report, be_nobody, closing, on_a_core_apart, options_of, paired, percentile
from benchmarks.middleware import MAX_AGE, Contender, app, app_that_loads
from dynamodb_sessions import ConfigurationError, DynamoDBSessionMiddleware, DynamoDBStore, MemoryStore
from dynamodb_sessions.aws.threads import MAX_CONCURRENT_CALLS

BOTO3, ASYNC = "this package, boto3", "this package, async"
CACHED, MEMORY = "this package, async, cache_seconds=60", "this package, memory"
BARE_BOTO3, BARE_AIODYNAMO = "bare boto3 in threads", "bare aiodynamo"
REDIS = "starsessions + Redis"
TRAFFIC = ("read", "read-mostly")
ROUNDS = 7
WRITE_EVERY = 10
SIZE = 1_000
CONCURRENT = (1, 8, 64)
LATENCIES = (0.0, 0.004)
CACHED_TIME = 1.3
"""How many times the memory store's time a hit of the read cache may take."""
TICKS = os.sysconf("SC_CLK_TCK")


class Client(Protocol):
    """Somebody with a session, who waits for each answer."""

    async def read(self) -> None: ...
    async def write(self) -> None: ...
    async def count(self) -> int: ...


class Browser:
    """A client of an app."""

    def __init__(self, app: ASGIApp) -> None:
        self._asking = Contender("", app)

    async def sign_in(self) -> "Browser":
        await self._asking.sign_in(SIZE)
        return self

    @property
    def session_id(self) -> str:
        return self._asking.headers[-1][1].partition(b"=")[2].partition(b".")[0].decode()

    async def read(self) -> None:
        await self._asking.request("/read", self._asking.headers)
        assert self._asking.last[0]["status"] == 200
        assert self._asking.last[1]["body"].startswith(b"u-4711 ")

    async def write(self) -> None:
        await self._asking.request("/write", self._asking.headers)
        assert self._asking.last[0]["status"] == 200

    async def count(self) -> int:
        return int((await self._asking.ask("/read")).split()[1])


class Caller:
    """A client that has no app: it makes the calls itself, in DynamoDB's own JSON."""

    def __init__(self, session_id: str) -> None:
        self._key = {"TableName": "sessions", "Key": {"session_id": {"S": session_id}}}

    async def call(self, action: str, parameters: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError

    async def count(self) -> int:
        answer = await self.call("GetItem", {**self._key, "ConsistentRead": True})
        return int(answer["Item"]["user_data"]["M"]["count"]["S"])

    async def read(self) -> None:
        await self.count()

    async def write(self) -> None:
        count = await self.count() + 1
        changes = {
            "UpdateExpression": "SET #d.#s0 = :s0, #t = :t ADD #v :one",
            "ConditionExpression": "attribute_exists(session_id) AND #t > :now",
            "ExpressionAttributeNames": {"#d": "user_data", "#s0": "count", "#t": "ttl", "#v": "version"},
            "ExpressionAttributeValues": {
                ":s0": {"S": str(count)},
                ":t": {"N": str(int(time.time()) + MAX_AGE)},
                ":now": {"N": str(int(time.time()))},
                ":one": {"N": "1"},
            },
        }
        await self.call("UpdateItem", self._key | changes)


class Boto3Caller(Caller):
    """Calls boto3 in threads of the kind and number the package has."""

    def __init__(self, session_id: str, client: Any, limiter: anyio.CapacityLimiter) -> None:
        super().__init__(session_id)
        self.client = client
        self.limiter = limiter
        self._actions = {"GetItem": client.get_item, "UpdateItem": client.update_item}

    async def call(self, action: str, parameters: dict[str, Any]) -> dict[str, Any]:
        made = partial(self._actions[action], **parameters)
        answer: dict[str, Any] = await anyio.to_thread.run_sync(made, abandon_on_cancel=True, limiter=self.limiter)
        return answer


class AiodynamoCaller(Caller):
    """Calls aiodynamo without its models, as the package does."""

    def __init__(self, session_id: str, client: Any) -> None:
        super().__init__(session_id)
        self._client = client

    async def call(self, action: str, parameters: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = await self._client.send_request(action=action, payload=parameters)
        return answer


@dataclass
class Group:
    """As many clients of one kind as are ever needed at once, and the processes of their server."""

    name: str
    clients: Sequence[Client]
    server: Sequence[int]
    writes: list[int] = field(default_factory=list)

    async def sample(self, traffic: str, concurrent: int, seconds: float) -> "Sample":
        """Have so many clients make one request after the other."""
        latencies: list[float] = []
        self.writes = self.writes or [0] * len(self.clients)
        gc.collect()
        server, cpu, started = _cpu_seconds(self.server), time.process_time(), time.perf_counter()
        end = started + seconds

        async def use(number: int) -> None:
            client, made = self.clients[number], number
            while (begun := time.perf_counter()) < end or made == number:
                made += 1
                if traffic == "read-mostly" and made % WRITE_EVERY == 0:
                    await client.write()
                    self.writes[number] += 1
                else:
                    await client.read()
                latencies.append(time.perf_counter() - begun)

        await asyncio.gather(*map(use, range(concurrent)))
        wall = time.perf_counter() - started
        return Sample(latencies, wall, time.process_time() - cpu, _cpu_seconds(self.server) - server)

    async def check(self) -> None:
        """See that every client's session has all that it wrote."""
        for client, writes in zip(self.clients, self.writes, strict=True):
            assert await client.count() == writes, self.name


@dataclass(frozen=True, slots=True)
class Sample:
    latencies: list[float]
    wall: float
    cpu: float
    server_cpu: float

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.wall


def _cpu_seconds(processes: Sequence[int]) -> float:
    ticks = 0
    for process in processes:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS


async def browsers(app: ASGIApp, number: int) -> list[Browser]:
    return [await Browser(app).sign_in() for _ in range(number)]


def with_dynamodb(url: str, client: Any = None, *, cache_seconds: float = 0) -> ASGIApp:
    store = DynamoDBStore("sessions", endpoint_url=url, client=client, cache_seconds=cache_seconds)
    return DynamoDBSessionMiddleware(app, KEY, max_age=MAX_AGE, store=store, fallback="error")


@asynccontextmanager
async def groups(report: Report, latency: float, number: int) -> AsyncIterator[list[Group]]:
    """Give all kinds of clients there are, each with sessions of its own."""
    with ExitStack() as processes:
        async with AsyncExitStack() as connections:
            with on_a_core_apart():
                url, pid = processes.enter_context(stub.process(latency))
            through_boto3 = await browsers(with_dynamodb(url), number)
            found = [Group(BOTO3, through_boto3, [pid])]
            try:
                found.append(Group(ASYNC, await browsers(with_dynamodb(url, "async"), number), [pid]))
                cached = with_dynamodb(url, "async", cache_seconds=60)
                found.append(Group(CACHED, await browsers(cached, number), [pid]))
            except ConfigurationError as error:
                report.miss(f"{ASYNC}: {error}")
            in_memory = DynamoDBSessionMiddleware(app, KEY, max_age=MAX_AGE, store=MemoryStore())
            found.append(Group(MEMORY, await browsers(in_memory, number), []))
            found.append(Group(BARE_BOTO3, await bare_boto3(url, number), [pid]))
            if find_spec("aiodynamo") is None or find_spec("aiohttp") is None:
                report.miss(f"{BARE_AIODYNAMO}: aiodynamo and aiohttp are not installed")
            else:
                found.append(Group(BARE_AIODYNAMO, await bare_aiodynamo(url, number, connections), [pid]))
            if find_spec("starsessions") is None or find_spec("redis") is None:
                report.miss(f"{REDIS}: starsessions and redis are not installed")
            elif not redis_server.is_installed():
                report.miss(f"{REDIS}: there is no program {redis_server.PROGRAM}")
            else:
                with on_a_core_apart():
                    port, redis_pids = processes.enter_context(redis_server.process(latency))
                found.append(Group(REDIS, await browsers(await with_redis(port, connections), number), redis_pids))
            yield found


async def session_ids(url: str, number: int) -> list[str]:
    """Return the ids of sessions that the package has made: the bare calls are about just such items."""
    return [browser.session_id for browser in await browsers(with_dynamodb(url), number)]


async def bare_boto3(url: str, number: int) -> list[Boto3Caller]:
    config = Config(max_pool_connections=MAX_CONCURRENT_CALLS)
    client = boto3.client("dynamodb", endpoint_url=url, region_name="us-east-1", config=config)
    limiter = anyio.CapacityLimiter(MAX_CONCURRENT_CALLS)
    return [Boto3Caller(session_id, client, limiter) for session_id in await session_ids(url, number)]


async def bare_aiodynamo(url: str, number: int, connections: AsyncExitStack) -> list[AiodynamoCaller]:
    from aiodynamo.client import Client as Aiodynamo  # noqa: PLC0415
    from aiodynamo.credentials import Key, StaticCredentials  # noqa: PLC0415
    from aiodynamo.http.aiohttp import AIOHTTP  # noqa: PLC0415
    from aiohttp import ClientSession  # noqa: PLC0415
    from yarl import URL  # noqa: PLC0415

    session = await connections.enter_async_context(ClientSession())
    client = Aiodynamo(AIOHTTP(session), StaticCredentials(Key("benchmarks", "benchmarks")), "us-east-1", URL(url))
    return [AiodynamoCaller(session_id, client) for session_id in await session_ids(url, number)]


async def with_redis(port: int, connections: AsyncExitStack) -> ASGIApp:
    from redis.asyncio import Redis  # noqa: PLC0415
    from starsessions import SessionMiddleware  # noqa: PLC0415
    from starsessions.stores.redis import RedisStore  # noqa: PLC0415

    connection = await connections.enter_async_context(Redis(host="127.0.0.1", port=port))
    middleware: ASGIApp = SessionMiddleware(app_that_loads, RedisStore(connection=connection), MAX_AGE, rolling=True)
    return middleware


async def measure(
    report: Report, *, rounds: int, concurrent: Sequence[int], latencies: Sequence[float], seconds: float
) -> None:
    rows: dict[str, list[dict[str, Any]]] = {traffic: [] for traffic in TRAFFIC}
    for latency in latencies:
        async with groups(report, latency, max(concurrent)) as everyone:
            for number in concurrent:
                for traffic in TRAFFIC:
                    taken: dict[str, list[Sample]] = {group.name: [] for group in everyone}
                    for group in everyone:
                        await group.sample(traffic, number, seconds / 4)
                    for _ in range(rounds):
                        for group in everyone:
                            taken[group.name].append(await group.sample(traffic, number, seconds))
                    rows[traffic] += [row(name, traffic, latency, number, taken) for name in taken]
            for group in everyone:
                await group.check()
    for traffic, found in rows.items():
        report.add(f"{traffic}: whole requests in process, {SIZE / 1000:g} KB sessions", found)


def row(name: str, traffic: str, latency: float, concurrent: int, taken: dict[str, list[Sample]]) -> dict[str, Any]:
    def faster_than(other: str) -> float | None:
        """Return how many times as many requests there are in a second."""
        if other not in taken or other == name:
            return None
        return paired(*([sample.rate for sample in taken[each]] for each in (name, other)))

    def to(other: str) -> Bar | float | None:
        value = faster_than(other)
        limit = None if latency else limits(name, other, traffic, concurrent)
        figure = f"{name}, {traffic}, {concurrent} concurrent, to {other}"
        return value if value is None or limit is None else Bar(figure, value, limit, least=True)

    def to_memory() -> Bar | float | None:
        """Return how many times as much work a request is as with the memory store: a hit needs nobody else's."""
        if name != CACHED:
            return None
        value = paired(*([sample.cpu / len(sample.latencies) for sample in taken[each]] for each in (name, MEMORY)))
        figure = f"{name}, {traffic}, {concurrent} concurrent, CPU to {MEMORY}"
        return value if latency or traffic != "read" else Bar(figure, value, CACHED_TIME)

    bare = {BOTO3: BARE_BOTO3, ASYNC: BARE_AIODYNAMO}.get(name)
    every = [latency for sample in taken[name] for latency in sample.latencies]
    return {
        "sessions": name,
        "server ms": latency * 1000,
        "concurrent": concurrent,
        "to the bare call's": to(bare) if bare else None,
        "to Redis'": to(REDIS),
        "to boto3's": to(BOTO3),
        "CPU to memory's": to_memory(),
        "requests/s": statistics.median(sample.rate for sample in taken[name]),
        "CPU µs": statistics.median(sample.cpu / len(sample.latencies) for sample in taken[name]) * 1e6,
        "p50 ms": percentile(every, 50) * 1000,
        "p99 ms": percentile(every, 99) * 1000,
        "server's CPU µs": sum(sample.server_cpu for sample in taken[name]) / len(every) * 1e6,
    }


def limits(name: str, other: str, traffic: str, concurrent: int) -> float | None:
    """Return how many times the other's throughput is wanted, if any is, of a server that answers at once."""
    if name == CACHED:  # Every read is a hit.
        return 8.0 if traffic == "read" and other == REDIS else None
    if traffic == "read" and (name, other) == (ASYNC, BOTO3):
        return 5.0 if concurrent == 64 else None
    reads = {(BOTO3, BARE_BOTO3): 0.85, (ASYNC, BARE_AIODYNAMO): 0.75}
    if (name, other) == (ASYNC, REDIS):
        return 1.2 if (traffic, concurrent) == ("read", 64) else 1.0
    return reads.get((name, other)) if traffic == "read" else None


def run(options: argparse.Namespace) -> Report:
    report = Report("requests")
    size: dict[str, Any] = {"concurrent": CONCURRENT, "latencies": LATENCIES, "seconds": 0.3}
    if options.tiny:
        size = {"concurrent": (1, 2), "latencies": (0.0, 0.001), "seconds": 0.01}
    asyncio.run(measure(report, rounds=options.rounds, **size))
    return report


def main(arguments: Sequence[str]) -> int:
    options = options_of("requests", __doc__, rounds=ROUNDS, arguments=arguments)
    be_nobody()
    return closing(run(options), bars=options.bars)
