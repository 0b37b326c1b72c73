"""Faults between the store and the real engine: what the browser sees, and what is in the table afterwards.

What is to happen is declared in `fault_table.py`. The faults are made by `proxy.py` and by the SDK's own events.
"""

import functools
import itertools
import json
import random
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dynamodb_sessions import (
    DynamoDBSessionMiddleware,
    DynamoDBStore,
    SessionError,
    SessionEvent,
    StoreUnavailable,
    open_session,
)
from dynamodb_sessions.aws import boto3_transport, circuit_breaker
from dynamodb_sessions.identifiers import new_id
from dynamodb_sessions.stores import table_schema
from dynamodb_sessions.stores.contract import Changes, Record
from tests.conftest import ENGINE, KEY, Clock
from tests.helpers import fault_table
from tests.helpers.aiobotocore_clients import Connect
from tests.helpers.apps import held
from tests.helpers.fault_table import ENDINGS, Cell, Ending, Extent, Moment, Somebody, Way
from tests.helpers.proxy import WHOLE, How, Proxy, Step, cut
from tests.helpers.proxy import held as held_back
from tests.helpers.unsent import NOT_SENT, before_sending
from tests.helpers.visitors import add, content, meanwhile, scan, sessions, told

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

Items = dict[str, dict[str, Any]]

CI = Path(__file__).parent.parent.parent / ".ci"
NOW = 1_800_000_000
TOO_LARGE = {"S": "x" * 410_000}


class App:
    """An app that counts in the session, and a browser."""

    def __init__(self, store: Any, **options: Any) -> None:
        self.store = store
        self.events: list[SessionEvent] = []
        self.runs = 0
        app = Starlette(
            routes=[Route(f"/{name}", getattr(self, name)) for name in ("look", "count", "add", "rotate", "logout")]
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

    async def add(self, request: Request) -> Response:
        await held(request).atomically(functools.partial(add, "n"))
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
PATHS |= {"exchange": "/add", "delete": "/logout"}


def told_of(cookie: str) -> str:
    """Return what the browser is told of a cookie: of one that it keeps, nothing."""
    return "none" if cookie == "kept" else cookie


def without_version(item: dict[str, Any]) -> dict[str, Any]:
    """Return an item without what a fence changes."""
    return {name: value for name, value in item.items() if name not in ("version", "ops")}


def data(n: int) -> dict[str, Any]:
    return {"M": {"n": {"S": str(n)}, "kept": {"S": '"kept"'}}}


def check_change(operation: str, before: Items, after: Items, *, own: str, now: int, fenced: bool = False) -> None:
    """See that the operation has changed the table exactly once, by exactly what it was to change."""
    tombstones = [name for name, item in after.items() if item.keys() == {"session_id", "ops", "ttl"}]
    assert len(tombstones) == (operation == "create" and fenced)
    after = {name: item for name, item in after.items() if name not in tombstones}
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
            assert int(after[own]["version"]["N"]) == int(before[own]["version"]["N"]) + 1 + fenced
            assert len(after[own].get("ops", {"SS": []})["SS"]) <= 1
        case "exchange":
            assert (gone, new, changed) == (set(), set(), {own})
            expected = before[own] | {"user_data": data(2), "ttl": {"N": str(now + 3600)}, "version": {"N": "2"}}
            assert after[own] == expected | {"ops": after[own]["ops"]}
            assert len(after[own]["ops"]["SS"]) == 1
        case "touch":
            assert (gone, new, changed) == (set(), set(), {own})
            assert after[own] == before[own] | {"ttl": {"N": str(now + 3600)}}
        case "rotate":
            (name,) = new
            assert (gone, changed) == (set(), {own})
            moved = before[own] | {"session_id": {"S": name}, "version": {"N": "2"}, "ttl": {"N": str(now + 3600)}}
            assert after[name] == moved
            assert after[own] == {"session_id": {"S": own}, "moved_to": {"S": name}, "ttl": {"N": str(now + 60)}}
        case "delete":
            assert (gone, new, changed) == ({own}, set(), set())


REPLIES = {
    "ProvisionedThroughputExceededException": (400, "ProvisionedThroughputExceededException"),
    "ThrottlingException": (400, "ThrottlingException"),
    "RequestLimitExceeded": (400, "RequestLimitExceeded"),
    "conflict": (400, "TransactionConflictException"),
    "500": (500, "InternalServerError"),
    "503": (503, "ServiceUnavailable"),
    "expired token": (400, "ExpiredTokenException"),
    "access denied": (400, "AccessDeniedException"),
}
BROKEN = {"read timeout": How.NEVER, "reset": How.RESET, "truncated body": How.TRUNCATED}


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

    def __init__(
        self, proxy: Proxy, table_name: str, wrong_table: str, transport: str, client: Any, timeout: float
    ) -> None:
        self.proxy = proxy
        self.store = DynamoDBStore(table_name, endpoint_url=proxy.url, timeout=timeout, client=client)
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

            self._undo.append(before_sending(self.store, self._transport, call, refuse))
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
        # What fails for as long as an operation lasts may fail often enough to be asked no more for a second.
        self.store._calls._breaker.answered()

    def _spoil(self, operation: str, spoil: Callable[[dict[str, Any]], None], *, once: bool) -> None:
        """Let the next calls, or the next, ask for something else."""
        transport, make, times = self.store._calls._transport, self.store._calls._transport.call, itertools.count()

        async def call(name: str, **parameters: Any) -> dict[str, Any]:
            if name.title().replace("_", "") == operation and not (next(times) and once):
                spoil(parameters)
            return await make(name, **parameters)

        self._patches.setattr(transport, "call", call)


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
) -> Callable[[float], Awaitable[Struck]]:
    """Return a function that makes one store for each timeout."""
    made: dict[float, Struck] = {}

    async def make(timeout: float) -> Struck:  # noqa: ASYNC109 - it is the store's
        if timeout not in made:
            made[timeout] = Struck(proxy, *tables, transport, await connect(proxy.url), timeout)
        return made[timeout]

    return make


def wipe(client: Any, table_name: str) -> None:
    """Delete all that is in a table: what is scanned often had better be small."""
    for name in scan(client, table_name):
        client.delete_item(TableName=table_name, Key={"session_id": {"S": name}})


@pytest.fixture
def no_other_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the credentials looked for a moment ago, so that a refusal of them is final."""
    monkeypatch.setattr(boto3_transport, "_RENEWAL_SECONDS", float("inf"))


@pytest.mark.usefixtures("no_other_credentials")
@pytest.mark.parametrize("cell", [cell for cell in fault_table.cells() if not cell.never], ids=str)
async def test_every_cell_ends_as_it_is_declared(
    cell: Cell, struck: Callable[[float], Awaitable[Struck]], tables: tuple[str, str], engine_client: Any, clock: Clock
) -> None:
    items = functools.partial(scan, engine_client, tables[0])
    wipe(engine_client, tables[0])
    # What is healed, is granted time on a busy machine; what ends by its deadline, is not waited for.
    place, operation, outcome = await struck(1.5 if cell.ends_by_deadline else 5.0), cell.operation.name, cell.outcome
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

    name = "update" if operation == "exchange" else operation
    said = [event.outcome for event in app.events if event.name == name]
    assert said[0] == outcome.store
    assert response.status_code == outcome.status
    assert told(response) == told_of(outcome.cookie)
    assert ("Retry-After" in response.headers) == outcome.retry_after
    assert ("X-App" in response.headers) == (outcome.status == 200)
    # An exchange that fails is the handler's own failure.
    assert app.runs == (0 if operation in ("load", "exchange") and outcome.status != 200 else 1)
    if outcome.applied:
        check_change(operation, before, items(), own=own, now=clock.now, fenced=outcome.fenced)
    else:
        after = items()
        assert after.keys() == before.keys()
        for name, item in before.items():
            assert without_version(after[name]) == without_version(item)

    later = (await app.get("/look")).json()
    is_kept = operation in ("load", "update", "exchange", "touch") or outcome.status == 200 or not outcome.applied
    expected = {
        "create": {"n": 1, "kept": "kept"} if outcome.status == 200 else {},
        "update": {"n": 2 if outcome.applied else 1, "kept": "kept"},
        "delete": {} if outcome.applied else {"n": 1, "kept": "kept"},
    }.get(name, {"n": 1, "kept": "kept"} if is_kept else {})
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
        after = scan(engine_client, own_table)
        check_change(operation, before, after, own=own, now=clock.now, fenced=operation == "update")
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
        "exchange": lambda: store.exchange(record, lambda _: Changes(NOW + 100, set={"b": "2"}), now=NOW),
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


async def test_what_has_failed_is_not_sent_again(connect: Connect, faulty: Proxy, own_table: str) -> None:
    """The thread whose reply drips outlives the deadline, and finds the connection broken: by then it is too late."""
    store = DynamoDBStore(own_table, endpoint_url=faulty.url, timeout=1.0, client=await connect(faulty.url))
    record = Record(new_id(), {"a": "1"}, NOW, NOW + 100)
    assert await store.create(record, now=NOW)
    faulty.play("UpdateItem", rest=Step(How.DRIPPED, applied=False))
    with pytest.raises(StoreUnavailable):
        await store.update(record, Changes(NOW + 100, set={"a": "2"}), now=NOW)
    was_told = time.monotonic()
    faulty.heal()
    await anyio.sleep(1)
    assert faulty.times[-1] <= was_told
    assert await store.load(record.id, now=NOW) == record


class Between:
    """A session, our operation on it through the proxy, and somebody else who acts between two attempts of it."""

    def __init__(self, operation: str, somebody: Somebody, proxy: Proxy, table: str, ours: Any, theirs: Any) -> None:
        self.operation = operation
        self.somebody = somebody
        self.proxy = proxy
        self.theirs: DynamoDBStore = theirs
        self._client = theirs.client
        self._table = table
        self._ours = ours
        self._id = "job-1" if somebody is Somebody.ANEW else ""
        self._app = App(ours, touch_after=5)
        self._known: Any = None
        """What they have loaded."""

    async def prepare(self, clock: Clock) -> None:
        """Begin the session, if it is not ours to begin."""
        if self._id and self.operation != "create":
            async with open_session(self.theirs, self._id) as session:
                session.update(n=1, kept="kept")
        elif not self._id:
            await self._app.get("/look" if self.operation == "create" else "/count")
        self._known = await self._find()
        clock.now += 10 if self.operation == "touch" else 0

    async def _find(self) -> Any:
        for name in self.left():
            return await self.theirs.load(name, now=NOW)
        return self._known

    def left(self) -> Items:
        return sessions(self._client, self._table)

    async def act(self) -> None:
        """Do what somebody else does."""
        found, now = await self._find(), NOW
        match self.somebody:
            case Somebody.SAME_KEY:
                await self.theirs.update(found, Changes(now + 3600, set={"n": "9"}), now=now)
            case Somebody.OTHER_KEY:
                await self.theirs.update(found, Changes(now + 3600, set={"m": "9"}), now=now)
            case Somebody.ENDED:
                await self.theirs.delete(found.id, record=found)
            case Somebody.ROTATED:
                await self.theirs.rotate(found, new_id(), Changes(now + 3600), now=now)
            case Somebody.ANEW:
                await self.theirs.delete(self._id)
                async with open_session(self.theirs, self._id) as session:
                    session["n"] = 9

    async def run(self) -> tuple[str, str]:
        """Make our operation. Return what is told: of the operation, and of the cookie."""
        if not self._id:
            response = await self._app.get(PATHS[self.operation])
            return str(response.status_code), told(response)
        try:
            async with open_session(self._ours, self._id, touch_after=5) as session:
                match self.operation:
                    case "create":
                        session.update(n=1, kept="kept")
                    case "update":
                        session["n"] = 2
                    case "exchange":
                        await session.atomically(functools.partial(add, "n"))
                    case "touch":
                        session.get("n")
                    case "delete":
                        session.clear()
        except SessionError as error:
            return type(error).__name__, "none"
        return "done", "none"

    def expected(self, ending: Ending) -> list[dict[str, str]]:
        """Return the content of the sessions that are there in the end."""
        if ending.left == "nothing":
            return []
        if self.somebody is Somebody.ANEW:
            return [{"n": "9"}]
        entries = {"n": "1", "kept": '"kept"'}
        if self.operation in ("update", "exchange") and ending.left in ("ours", "both"):
            entries["n"] = "2"
        if ending.left in ("theirs", "both"):
            same = {"n": "10" if (self.operation, ending.left) == ("exchange", "both") else "9"}
            entries |= {Somebody.SAME_KEY: same, Somebody.OTHER_KEY: {"m": "9"}}.get(self.somebody, {})
        return [entries]

    async def look(self) -> Any:
        return (await self._app.get("/look")).json()


BETWEEN = [
    pytest.param(operation, way, somebody, landing, id=f"{operation}-{way.name}-{somebody.name}-{landing}")
    for (operation, way), endings in ENDINGS.items()
    for somebody, ending in endings.items()
    for landing in ([0] if way is Way.LOST else [0, 1, 2])
    if ending.told != "never"
]
"""A late attempt is applied after all others, or before the reply to the first or second of them."""


@pytest.mark.parametrize(("operation", "way", "somebody", "landing"), BETWEEN)
async def test_whatever_somebody_else_does_between_two_attempts(
    operation: str,
    way: Way,
    somebody: Somebody,
    landing: int,
    struck: Callable[[float], Awaitable[Struck]],
    faulty: Proxy,
    tables: tuple[str, str],
    engine_client: Any,
    clock: Clock,
) -> None:
    ending = ENDINGS[operation, way][somebody]
    wipe(engine_client, tables[0])
    ours, theirs = (await struck(10.0)).store, DynamoDBStore(tables[0], client=engine_client)
    between = Between(operation, somebody, faulty, tables[0], ours, theirs)
    await between.prepare(clock)

    act = meanwhile(between.act)
    step = cut(act) if way is Way.LOST else held_back(act, late=landing)
    faulty.play(fault_table.OPERATIONS[operation].call, [step])
    assert await between.run() == (ending.told, told_of(ending.cookie))
    faulty.land()
    assert len(faulty.landed) == (way is Way.LATE)

    left = between.left()
    assert [content(item) for item in left.values()] == between.expected(ending)
    if operation == "touch" and ending.left in ("ours", "both"):
        assert [item["ttl"] for item in left.values()] == [{"N": str(clock.now + 3600)}]
    if operation in ("create", "update", "exchange", "touch") and ending.cookie in ("set", "kept"):
        assert await between.look() == {name: json.loads(value) for name, value in between.expected(ending)[0].items()}


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
    # What was given up may still be read, in its own thread.
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
        client = await connect(engine.url)
        store = DynamoDBStore(table_name, endpoint_url=engine.url, create_table=True, client=client, timeout=4.0)
        crowd = Crowd(App(store))
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
