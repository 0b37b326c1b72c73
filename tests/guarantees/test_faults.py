"""Faults between the store and the real engine: what the browser sees, and what is in the table afterwards.

What is to happen is declared in `fault_table.py`. The faults are made by `proxy.py` and by the SDK's own events.
"""

import functools
import itertools
import random
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import anyio.to_thread
import boto3
import httpx
import pytest
from aiohttp.client_reqrep import ConnectionKey
from botocore.exceptions import ConnectTimeoutError, EndpointConnectionError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dynamodb_sessions import DynamoDBSessionMiddleware, DynamoDBStore, SessionEvent, StoreUnavailable
from dynamodb_sessions.aws import circuit_breaker
from dynamodb_sessions.identifiers import new_id
from dynamodb_sessions.stores import table_schema
from dynamodb_sessions.stores.contract import Changes, Record
from tests.conftest import ENGINE, KEY, Clock
from tests.helpers import aiobotocore_clients, fault_table
from tests.helpers.aiobotocore_clients import Connect
from tests.helpers.apps import held
from tests.helpers.fault_table import Cell, Extent, Moment
from tests.helpers.proxy import WHOLE, How, Proxy, Step

pytestmark = pytest.mark.anyio

Items = dict[str, dict[str, Any]]

CI = Path(__file__).parent.parent.parent / ".ci"
NOW = 1_800_000_000
TOO_LARGE = {"S": "x" * 410_000}


@pytest.fixture(scope="module", params=["boto3", "async", *aiobotocore_clients.IF_INSTALLED])
def transport(request: pytest.FixtureRequest) -> str:
    """What calls DynamoDB: each test that asks runs once for every kind."""
    return str(request.param)


@pytest.fixture(scope="module")
async def connect(transport: str) -> AsyncIterator[Connect]:
    """Return a function that makes what a store takes as `client`, for an endpoint."""
    async with aiobotocore_clients.connecting(transport) as connect:
        yield connect


@pytest.fixture(scope="module")
def engine_client(dynamodb_local_url: str) -> Any:
    """A client of the engine that nothing comes between."""
    return boto3.client("dynamodb", endpoint_url=dynamodb_local_url, region_name="us-east-1")


@pytest.fixture(scope="module")
def proxy(dynamodb_local_url: str) -> Iterator[Proxy]:
    made = Proxy(dynamodb_local_url)
    yield made
    made.close()


@pytest.fixture
def faulty(proxy: Proxy) -> Iterator[Proxy]:
    """The proxy for one test: what it breaks in it, it does not break in the next."""
    yield proxy
    proxy.heal()


@pytest.fixture
def own_table(engine_client: Any, table_name: str) -> str:
    table_schema.create(engine_client, table_name)
    return table_name


class App:
    """An app that counts in the session, and a browser."""

    def __init__(self, store: Any, **options: Any) -> None:
        self.store = store
        self.events: list[SessionEvent] = []
        self.runs = 0
        app = Starlette(
            routes=[Route(f"/{name}", getattr(self, name)) for name in ("look", "count", "rotate", "logout")]
        )
        app.add_middleware(
            DynamoDBSessionMiddleware, secret_key=KEY, store=store, on_event=self.events.append, **options
        )
        self._transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self.browser = self.another_browser()

    def another_browser(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=self._transport, base_url="http://app")

    def answer(self, request: Request) -> Response:
        self.runs += 1
        return JSONResponse(dict(request.session), headers={"X-App": "its own"})

    async def look(self, request: Request) -> Response:
        held(request).get("n")
        return self.answer(request)

    async def count(self, request: Request) -> Response:
        session = held(request)
        session["n"] = session.get("n", 0) + 1
        session.setdefault("kept", "kept")
        return self.answer(request)

    async def rotate(self, request: Request) -> Response:
        held(request).regenerate()
        return self.answer(request)

    async def logout(self, request: Request) -> Response:
        held(request).clear()
        return self.answer(request)

    async def get(self, path: str) -> httpx.Response:
        """Make a request and forget what the store said before."""
        self.events.clear()
        self.runs = 0
        return await self.browser.get(path)


PATHS = {"load": "/look", "create": "/count", "update": "/count", "touch": "/look", "rotate": "/rotate"}
PATHS["delete"] = "/logout"


def told(response: httpx.Response) -> str:
    """Return what the browser is told of its cookie: "none", "set" or "expired"."""
    cookies = response.headers.get_list("Set-Cookie")
    assert len(cookies) <= 1
    if not cookies:
        return "none"
    return "expired" if "Max-Age=0" in cookies[0] else "set"


def without_version(item: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name != "version"}


def data(n: int) -> dict[str, Any]:
    return {"M": {"n": {"S": str(n)}, "kept": {"S": '"kept"'}}}


def check_change(operation: str, before: Items, after: Items, *, own: str, now: int, applied: int) -> None:
    """See that the operation has changed the table exactly once, by exactly what it was to change."""
    gone, new = before.keys() - after.keys(), after.keys() - before.keys()
    same = before.keys() & after.keys()
    changed = {name for name in same if before[name] != after[name]}
    match operation:
        case "load":
            assert before == after
        case "create":
            (name,) = new
            assert (gone, changed) == (set(), set())
            assert (after[name]["user_data"], after[name]["version"]) == (data(1), {"N": "1"})
        case "update":
            assert (gone, new, changed) == (set(), set(), {own})
            expected = before[own] | {"user_data": data(2), "ttl": {"N": str(now + 3600)}}
            assert without_version(after[own]) == without_version(expected)
            assert int(after[own]["version"]["N"]) == int(before[own]["version"]["N"]) + applied
        case "touch":
            assert (gone, new, changed) == (set(), set(), {own})
            assert after[own] == before[own] | {"ttl": {"N": str(now + 3600)}}
        case "rotate":
            (name,) = new
            assert (gone, changed) == ({own}, set())
            moved = before[own] | {"session_id": {"S": name}, "version": {"N": "2"}, "ttl": {"N": str(now + 3600)}}
            assert after[name] == moved
        case "delete":
            assert (gone, new, changed) == ({own}, set(), set())


REPLIES = {
    "ProvisionedThroughputExceededException": (400, "ProvisionedThroughputExceededException"),
    "ThrottlingException": (400, "ThrottlingException"),
    "RequestLimitExceeded": (400, "RequestLimitExceeded"),
    "500": (500, "InternalServerError"),
    "503": (503, "ServiceUnavailable"),
    "expired token": (400, "ExpiredTokenException"),
    "access denied": (400, "AccessDeniedException"),
}
BROKEN = {"read timeout": How.NEVER, "reset": How.RESET, "truncated body": How.TRUNCATED}
URL = "http://nobody.test"
WHERE = ConnectionKey("nobody.test", 443, True, True, None, None, None)
NOT_SENT: dict[str, dict[str, Exception]] = {
    "DNS": {
        "boto3": EndpointConnectionError(endpoint_url=URL, error="Name or service not known"),
        "async": aiohttp.ClientConnectorDNSError(WHERE, OSError(-2, "Name or service not known")),
    },
    "refused": {
        "boto3": EndpointConnectionError(endpoint_url=URL, error="Connection refused"),
        "async": aiohttp.ClientConnectorError(WHERE, OSError(111, "Connection refused")),
    },
    "connect timeout": {
        "boto3": ConnectTimeoutError(endpoint_url=URL, error="timed out"),
        "async": aiohttp.ConnectionTimeoutError("timed out"),
    },
}
for errors in NOT_SENT.values():  # aiobotocore raises botocore's errors for aiohttp's.
    raised: Any = type(errors["boto3"])
    errors[aiobotocore_clients.KIND] = raised(endpoint_url=URL, error=errors["async"])


def redirected(table_name: str) -> Callable[[dict[str, Any]], None]:
    """Return what sends a request to another table."""

    def redirect(params: dict[str, Any]) -> None:
        for write in params.get("TransactItems", [{"": params}]):
            for request in write.values():
                request["TableName"] = table_name

    return redirect


def swell(params: dict[str, Any]) -> None:
    """Make the session that a request is about too large."""
    if "UpdateExpression" in params:
        params["ExpressionAttributeValues"][":s0"] = TOO_LARGE
    else:
        put = params["TransactItems"][0]["Put"] if "TransactItems" in params else params
        put["Item"]["user_data"]["M"]["n"] = TOO_LARGE


class Struck:
    """A store behind the proxy, and how to strike it."""

    def __init__(self, proxy: Proxy, table_name: str, wrong_table: str, transport: str, client: Any) -> None:
        self.proxy = proxy
        self.store = DynamoDBStore(table_name, endpoint_url=proxy.url, timeout=3.0, client=client)
        self._transport = transport
        self._patches = pytest.MonkeyPatch()
        self._undo: list[Callable[[], None]] = []
        self._refused_by_engine = {
            "missing table": redirected("no-such-table"),
            "wrong key schema": redirected(wrong_table),
            "oversized": swell,
        }

    def strike(self, cell: Cell) -> None:
        """Let the fault happen from now on to the requests of the cell's operation."""
        name, call = cell.fault.name, cell.operation.call
        is_after, once = cell.moment is Moment.AFTER, cell.extent is Extent.ONE
        lost = [Step(How.RESET)] if is_after and not cell.fault.after else []
        if name in self._refused_by_engine:
            self._spoil(call, self._refused_by_engine[name], once=once)
        elif name in NOT_SENT:
            times = itertools.count(0 if lost else 1)

            def refuse() -> None:
                number = next(times)
                if number and (number == 1 or not once):
                    raise NOT_SENT[name][self._transport]

            self._before_sending(call, refuse)
            self.proxy.play(call, lost)
        else:
            applied = is_after and cell.fault.after
            step = Step(BROKEN.get(name, How.ANOTHER), applied, REPLIES.get(name, (500, "")))
            self.proxy.play(call, [*lost, step], rest=WHOLE if once else step)

    def heal(self) -> None:
        self.proxy.heal()
        self._patches.undo()
        while self._undo:
            self._undo.pop()()

    def _spoil(self, operation: str, spoil: Callable[[dict[str, Any]], None], *, once: bool) -> None:
        """Let the next calls, or the next, ask for something else."""
        transport, make, times = self.store._calls._transport, self.store._calls._transport.call, itertools.count()

        async def call(name: str, **parameters: Any) -> dict[str, Any]:
            if name.title().replace("_", "") == operation and not (next(times) and once):
                spoil(parameters)
            return await make(name, **parameters)

        self._patches.setattr(transport, "call", call)

    def _before_sending(self, operation: str, act: Callable[[], None]) -> None:
        """Do something before every attempt of a call."""
        if self._transport != "async":
            client = self.store._calls._transport._client  # type: ignore[attr-defined]
            events, name = client.meta.events, f"before-send.dynamodb.{operation}"

            def hook(**_: Any) -> None:
                act()

            events.register(name, hook)
            self._undo.append(lambda: events.unregister(name, hook))
            return
        send = aiohttp.ClientSession._request

        async def request(session: Any, method: str, url: str, **options: Any) -> Any:
            if options["headers"]["X-Amz-Target"].endswith(f".{operation}"):
                act()
            return await send(session, method, url, **options)

        self._patches.setattr(aiohttp.ClientSession, "_request", request)


@pytest.fixture(scope="module")
def tables(engine_client: Any) -> tuple[str, str]:
    """The name of a table for all cells, and of one with another key."""
    right, wrong = (f"faults-{uuid.uuid4().hex}" for _ in range(2))
    table_schema.create(engine_client, right)
    engine_client.create_table(
        TableName=wrong,
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    return right, wrong


@pytest.fixture(scope="module")
def struck(
    proxy: Proxy, tables: tuple[str, str], transport: str, connect: Connect
) -> Callable[[str], Awaitable[Struck]]:
    """Return a function that makes one store for each fault: the SDK's patience with one client has an end."""
    made: dict[str, Struck] = {}

    async def make(fault: str) -> Struck:
        if fault not in made:
            made[fault] = Struck(proxy, *tables, transport, await connect(proxy.url))
        return made[fault]

    return make


def scan(client: Any, table_name: str) -> Items:
    """Return all that is in a table."""
    pages = client.get_paginator("scan").paginate(TableName=table_name, ConsistentRead=True)
    return {item["session_id"]["S"]: item for page in pages for item in page["Items"]}


def wipe(client: Any, table_name: str) -> None:
    """Delete all that is in a table: what is scanned often had better be small."""
    for name in scan(client, table_name):
        client.delete_item(TableName=table_name, Key={"session_id": {"S": name}})


@pytest.mark.parametrize("cell", [cell for cell in fault_table.cells() if not cell.never], ids=str)
async def test_every_cell_ends_as_it_is_declared(
    cell: Cell, struck: Callable[[str], Awaitable[Struck]], tables: tuple[str, str], engine_client: Any, clock: Clock
) -> None:
    items = functools.partial(scan, engine_client, tables[0])
    wipe(engine_client, tables[0])
    place, operation, outcome = await struck(cell.fault.name), cell.operation.name, cell.outcome
    app = App(place.store, touch_after=5)
    await app.get("/look")  # From here on nothing is probed any more.
    before, own = items(), ""
    if operation != "create":
        assert (await app.get("/count")).status_code == 200
        (own,) = items().keys() - before.keys()
        before = items()
    clock.now += 10 if operation == "touch" else 0

    place.strike(cell)
    try:
        response = await app.get(PATHS[operation])
    finally:
        place.heal()

    said = [event.outcome for event in app.events if event.name == operation]
    assert said[0] == outcome.store
    assert response.status_code == outcome.status
    assert told(response) == outcome.cookie
    assert ("Retry-After" in response.headers) == outcome.retry_after
    assert ("X-App" in response.headers) == (outcome.status == 200)
    assert app.runs == (0 if operation == "load" and outcome.status == 503 else 1)
    if outcome.applied:
        check_change(operation, before, items(), own=own, now=clock.now, applied=outcome.applied)
    else:
        assert items() == before

    later = (await app.get("/look")).json()
    is_kept = operation in ("load", "update", "touch") or outcome.status == 200 or not outcome.applied
    expected = {
        "create": {"n": 1, "kept": "kept"} if outcome.status == 200 else {},
        "update": {"n": 2 if outcome.applied else 1, "kept": "kept"},
        "delete": {} if outcome.applied else {"n": 1, "kept": "kept"},
    }.get(operation, {"n": 1, "kept": "kept"} if is_kept else {})
    assert later == expected


def test_the_page_is_the_table() -> None:
    page = Path(__file__).parent.parent.parent / "docs" / "faults.md"
    assert page.read_text() == fault_table.document()


@pytest.mark.parametrize("operation", ["create", "update", "rotate", "delete"])
async def test_a_hundred_lost_replies_are_a_hundred_successes(
    operation: str, connect: Connect, faulty: Proxy, own_table: str, engine_client: Any, clock: Clock
) -> None:
    """The browser gets the app's own response, each change is made once, and none passes for a conflict."""
    store = DynamoDBStore(own_table, endpoint_url=faulty.url, client=await connect(faulty.url))
    for _, how in zip(range(100), itertools.cycle([How.DROPPED, How.RESET, How.TRUNCATED]), strict=False):
        app, own, before = App(store), "", Items()
        if operation != "create":
            await app.get("/count")
            before = scan(engine_client, own_table)
            (own,) = before
        faulty.play(fault_table.OPERATIONS[operation].call, [Step(how)])
        response = await app.get(PATHS[operation])
        assert (response.status_code, response.headers["X-App"]) == (200, "its own")
        assert [event.outcome for event in app.events if event.name != "load"] == ["ok"]
        check_change(operation, before, scan(engine_client, own_table), own=own, now=clock.now, applied=2)
        wipe(engine_client, own_table)


@pytest.mark.parametrize("how", [How.NEVER, How.DRIPPED])
async def test_every_operation_ends_by_its_deadline(how: How, connect: Connect, faulty: Proxy, own_table: str) -> None:
    """Twice the deadline is granted to a busy machine. What never ends by itself lasts five times as long."""
    store = DynamoDBStore(own_table, endpoint_url=faulty.url, timeout=2.0, client=await connect(faulty.url))
    record = Record(new_id(), {"a": "1"}, NOW, NOW + 100)
    assert await store.create(record, now=NOW)
    faulty.play("*", rest=Step(how))
    operations: dict[str, Callable[[], Awaitable[Any]]] = {
        "load": lambda: store.load(record.id, now=NOW),
        "create": lambda: store.create(replace(record, id=new_id()), now=NOW),
        "update": lambda: store.update(record, Changes(NOW + 100, set={"b": "2"}), now=NOW),
        "touch": lambda: store.update(record, Changes(NOW + 200), now=NOW),
        "rotate": lambda: store.rotate(record, new_id(), Changes(NOW + 100), now=NOW),
        "delete": lambda: store.delete(record.id),
    }
    lasted: dict[str, float] = {}

    async def attempt(name: str) -> None:
        before = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await operations[name]()
        lasted[name] = time.monotonic() - before

    async with anyio.create_task_group() as group:
        for name in operations:
            group.start_soon(attempt, name)
    assert lasted.keys() == operations.keys()
    assert max(lasted.values()) <= 2 * 2.0


async def test_what_has_failed_is_not_sent_again(
    transport: str, connect: Connect, faulty: Proxy, own_table: str
) -> None:
    """The thread whose reply drips outlives the deadline, and finds the connection broken: by then it is too late.

    Without threads a dripping reply is given up in time to ask again, once.
    """
    attempts = 1 if transport == "boto3" else 2
    store = DynamoDBStore(own_table, endpoint_url=faulty.url, timeout=1.0, client=await connect(faulty.url))
    record = Record(new_id(), {"a": "1"}, NOW, NOW + 100)
    assert await store.create(record, now=NOW)
    faulty.play("UpdateItem", [Step(How.DRIPPED, applied=False)] * attempts)
    before = faulty.requests.count("UpdateItem")
    with pytest.raises(StoreUnavailable):
        await store.update(record, Changes(NOW + 100, set={"a": "2"}), now=NOW)
    faulty.heal()
    await anyio.sleep(1)
    assert faulty.requests.count("UpdateItem") == before + attempts
    assert await store.load(record.id, now=NOW) == record


async def open_breaker(app: App, proxy: Proxy, how: How) -> None:
    """Let the store fail as often as it takes."""
    proxy.play("*", rest=Step(how))

    async def fail() -> None:
        response = await app.browser.get("/look")
        assert (response.status_code, told(response)) == (503, "none")

    async with anyio.create_task_group() as group:
        for _ in range(circuit_breaker.FAILURES):
            group.start_soon(fail)


@pytest.fixture
async def known(connect: Connect, faulty: Proxy, own_table: str) -> App:
    """An app whose browser has a session."""
    app = App(DynamoDBStore(own_table, endpoint_url=faulty.url, timeout=2.0, client=await connect(faulty.url)))
    assert (await app.get("/count")).json()["n"] == 1
    return app


@pytest.mark.parametrize("how", [How.NEVER, How.DRIPPED])
async def test_after_ten_failures_requests_fail_without_the_network(
    how: How, known: App, faulty: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuit_breaker, "PROBE_SECONDS", 3600.0)
    await open_breaker(known, faulty, how)
    # What was given up is still repeated, in its own thread, until the SDK gives up too.
    faulty.heal()
    await anyio.sleep(1)
    seen = faulty.connections, len(faulty.requests)
    for path in itertools.islice(itertools.cycle(["/look", "/count", "/rotate", "/logout"]), 100):
        response = await known.get(path)
        assert (response.status_code, response.headers["Retry-After"], told(response)) == (503, "5", "none")
        assert known.runs == 0
    assert (faulty.connections, len(faulty.requests)) == seen


@pytest.mark.parametrize("how", [How.NEVER, How.DRIPPED])
async def test_it_recovers_within_a_probe_interval(how: How, known: App, faulty: Proxy) -> None:
    """By itself, and with the sessions that were there. Three intervals are granted to a busy machine."""
    await open_breaker(known, faulty, how)
    assert (await known.get("/look")).status_code == 503
    faulty.heal()
    healed = time.monotonic()
    while (response := await known.get("/look")).status_code == 503:
        assert time.monotonic() - healed <= 3 * circuit_breaker.PROBE_SECONDS
        await anyio.sleep(0.02)
    assert (response.status_code, response.json()) == (200, {"n": 1, "kept": "kept"})


class Engine:
    """A DynamoDB Local of one's own that keeps its tables in a folder, so that it can be killed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        command = ["bash", str(CI / "dynamodb-local"), str(self._port), str(self._folder)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != self.url:
            _, said = self._process.communicate()
            pytest.fail(f"DynamoDB Local does not start: {said}")

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


class Visitor:
    """A browser that counts, and knows between which bounds its session must be: a 503 may or may not have counted."""

    def __init__(self, app: App) -> None:
        self._browser = app.another_browser()
        self.low = self.high = 0

    async def count(self) -> bool:
        """Count one up. False, if that was refused."""
        self.high += 1
        return self._check(await self._browser.get("/count"), at_least=self.low + 1)

    async def look(self) -> bool:
        return self._check(await self._browser.get("/look"), at_least=self.low)

    def _check(self, response: httpx.Response, *, at_least: int) -> bool:
        if response.status_code == 503:
            assert "Retry-After" in response.headers
            return False
        assert response.status_code == 200
        n = response.json()["n"]  # A session that is empty has none.
        assert at_least <= n <= self.high
        self.low = self.high = n
        return True


class Crowd:
    """Visitors that keep coming, and sometimes come back."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.acknowledged: list[Visitor] = []
        self.refused = 0

    async def visit(self) -> None:
        while True:
            visitor = Visitor(self.app)
            if await visitor.count():
                self.acknowledged.append(visitor)
                await visitor.count()
            elif not await random.choice(self.acknowledged).look():
                self.refused += 1
                await anyio.sleep(0.01)

    async def until(self, *, acknowledged: int = 0, refused: int = 0) -> None:
        with anyio.fail_after(60):
            while len(self.acknowledged) < acknowledged or self.refused < refused:  # noqa: ASYNC110 - it is a number
                await anyio.sleep(0.01)


async def test_what_was_acknowledged_survives_a_kill(
    connect: Connect, dynamodb_local_url: str, table_name: str, tmp_path: Path
) -> None:
    """`kill -9` under load, and a start on the same data, three times. Meanwhile: 503, and never an empty session."""
    assert dynamodb_local_url
    if shutil.which("java") is None:
        ENGINE.is_missing()
    engine = await anyio.to_thread.run_sync(Engine, tmp_path)
    try:
        crowd = Crowd(
            App(DynamoDBStore(table_name, endpoint_url=engine.url, create_table=True, client=await connect(engine.url)))
        )
        for number in range(1, 4):
            async with anyio.create_task_group() as group:
                for _ in range(8):
                    group.start_soon(crowd.visit)
                await crowd.until(acknowledged=70 * number)
                await anyio.to_thread.run_sync(engine.kill)
                await crowd.until(refused=100 * number)
                group.cancel_scope.cancel()
            await anyio.to_thread.run_sync(engine.start)
            with anyio.fail_after(10):
                while not await crowd.acknowledged[0].look():  # noqa: ASYNC110 - it is a question
                    await anyio.sleep(0.05)
            for visitor in crowd.acknowledged:
                assert await visitor.look()
    finally:
        engine.kill()
