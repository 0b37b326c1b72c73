"""The benchmarks run, at a size at which their figures mean nothing, and what is not about time holds."""

import asyncio
import contextlib
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import boto3
import pytest
from botocore.exceptions import ClientError
from starlette.types import Receive, Scope, Send

from benchmarks import chart, cold_start, cost, growth, import_time, load, middleware, requests, soak, stub, touch
from benchmarks.__main__ import BENCHMARKS, QUICK
from benchmarks.harness import Bar, Report, call, closing, percentile
from benchmarks.middleware import use
from benchmarks.soak import MEBIBYTE, Sample, leaks, quarters
from dynamodb_sessions import DynamoDBStore, MemoryStore
from dynamodb_sessions.session.lifetimes import Lifetimes
from dynamodb_sessions.stores import table_schema
from dynamodb_sessions.stores.contract import Changes, Record, SessionStore

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ROOT = Path(__file__).parent.parent
NOW = 1_800_000_000

Tables = list[list[dict[str, str]]]


def run(*arguments: str, complaint: str = "") -> tuple[int, str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.stderr.partition("\n")[0] == complaint
    return done.returncode, done.stdout


def tables(printed: str) -> Tables:
    """Return the Markdown tables of an output, each row by its column's heading."""
    found = []
    for block in re.findall(r"(?:^\|.*\|\n)+", printed, re.MULTILINE):
        assert len({len(line) for line in block.splitlines()}) == 1
        heading, rule, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines())
        assert all(re.fullmatch("-+:?", cell) for cell in rule)
        found.append([dict(zip(heading, row, strict=True)) for row in rows])
    return found


def test_they_are_listed() -> None:
    status, printed = run("--help")
    assert status == 0
    assert re.findall(r"^  (\w+) +\*? +\S", printed, re.MULTILINE) == list(BENCHMARKS)


def test_one_that_does_not_exist_is_refused() -> None:
    assert run("speed-of-light", complaint="there is no benchmark speed-of-light") == (2, "")


def test_figures_that_mean_nothing_do_not_take_the_place_of_those_that_do() -> None:
    """Else the test of the chart fails, too."""
    kept = [ROOT / "benchmarks" / "results.json", ROOT / "docs" / "benchmarks.svg"]
    before = [path.read_bytes() for path in kept]
    status, _ = run("--tiny")
    assert status == 0
    assert [path.read_bytes() for path in kept] == before


def test_load() -> None:
    status, printed = run("load", "--concurrent", "20", "--latency-ms", "5", "--rounds", "1")
    lag, busy = tables(printed)
    assert [row["sessions"] for row in lag] == [
        "none, 2 waits in the loop",
        "none, 2 waits in threads",
        "created (1 call)",
        "read (1 call)",
        "read and written (2 calls)",
    ]
    assert {(row["answered"], row["errors"]) for row in lag} == {("20", "0")}
    assert [row["sessions"] for row in busy] == ["read and written", "none, 2 waits in anyio's threads"]
    assert printed.count("errors: 0, wanted 0") == 2
    assert status == 0


async def answer(send: Send, status: int, body: bytes) -> None:
    await asyncio.sleep(0)
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def answers_503(_scope: Scope, _receive: Receive, send: Send) -> None:
    await answer(send, 503, b"0")


async def breaks(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise OSError


async def counts_to_nothing(_scope: Scope, _receive: Receive, send: Send) -> None:
    await answer(send, 200, b"0")


async def test_load_counts_requests_that_fail() -> None:
    asks = [partial(call, app, "/") for app in (answers_503, breaks, counts_to_nothing)]
    rounds = await load.at_once("", asks, 2)
    assert (len(rounds.answers), rounds.errors) == (2, 4)


@pytest.mark.parametrize("failing", ["measure_lag", "measure_busy"])
def test_load_fails_if_a_request_does(monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    for name in ("measure_lag", "measure_busy"):

        async def measure(errors: int = int(name == failing), **_: Any) -> int:
            return errors

        monkeypatch.setattr(load, name, measure)
    monkeypatch.setattr(load, "be_nobody", int)
    assert load.main([]) == 1


def test_soak() -> None:
    status, printed = run("soak", "--minutes", "0.05", "--clients", "8", "--latency-ms", "20")
    (parts,) = tables(printed)
    assert [row["quarter"] for row in parts] == ["1", "2", "3", "4"]
    assert len({(row["threads"], row["open files"]) for row in parts}) == 1
    assert "errors: 0, wanted 0" in printed
    assert "leaks: none" in printed
    assert status == 0


def a_soak(**ends: int) -> list[tuple[int, Sample]]:
    """Return samples of a process that holds steady, or grows evenly to what is given."""
    start = {"threads": 65, "files": 70, "memory": 60 * MEBIBYTE}
    return [
        (
            number,
            Sample(**{name: value + (ends.get(name, value) - value) * number // 99 for name, value in start.items()}),
        )
        for number in range(100)
    ]


@pytest.mark.parametrize(
    ("ends", "what"),
    [
        ({}, []),
        ({"threads": 64, "files": 10, "memory": 0}, []),
        ({"threads": 67}, ["threads"]),
        ({"files": 72}, ["open files"]),
        ({"memory": 63 * MEBIBYTE}, []),
        ({"memory": 65 * MEBIBYTE}, ["memory"]),
        ({"threads": 99, "files": 99, "memory": 99 * MEBIBYTE}, ["threads", "open files", "memory"]),
    ],
)
def test_soak_tells_a_leak(ends: dict[str, int], what: list[str]) -> None:
    assert [leak.partition(":")[0] for leak in leaks(quarters(a_soak(**ends)))] == what


async def test_soak_counts_answers_that_are_wrong() -> None:
    counted = itertools.count(1)

    async def counts_but_fails(_scope: Scope, _receive: Receive, send: Send) -> None:
        await answer(send, 503, b"%d" % next(counted))

    for app in (counts_but_fails, counts_to_nothing, breaks):
        trial = soak.Soak()
        await trial.run(app, clients=1, seconds=0.05, interval=0.01)
        assert trial.errors >= 1
        assert trial.samples


@pytest.mark.parametrize(("values", "percent", "expected"), [([3, 1, 2], 50, 2), ([3, 1, 2], 99, 3), ([7], 50, 7)])
def test_percentile(values: list[float], percent: float, expected: float) -> None:
    assert percentile(values, percent) == expected


@pytest.fixture(scope="module")
def stub_url() -> Iterator[str]:
    with stub.running() as url:
        yield url


async def everything_a_store_does(store: SessionStore) -> list[Any]:
    """Return what each operation of a store answers, those that must find their condition false among them."""
    first = Record("first", {"a": "1", "b": "2"}, NOW, NOW + 9)
    changed = Changes(NOW + 10, set={"c": "3"}, remove=frozenset("a"), owner="alice", max_age=10)
    return [
        await store.load("first", now=NOW),
        await store.create(first, now=NOW),
        await store.create(first, now=NOW),
        await store.load("first", now=NOW),
        await store.update(first, changed, now=NOW) is None,
        await store.update(first, Changes(NOW + 11), now=NOW) is None,
        await store.update(first, Changes(NOW + 11, set={"b": "4"}, max_age=0), now=NOW) is None,
        await store.load("first", now=NOW),
        await store.update(Record("none", {}, NOW, NOW + 9), changed, now=NOW) is None,
        await store.rotate(changed.apply(first), "second", Changes(NOW + 12), now=NOW) is None,
        await store.load("first", now=NOW),
        await store.load("second", now=NOW),
        await store.rotate(first, "third", Changes(NOW + 12), now=NOW),
        await store.create(Record("fourth", {}, NOW, NOW + 9), now=NOW, replaces="second"),
        await store.load("second", now=NOW),
        await store.delete("fourth", version=7),
        await store.delete("fourth", version=1),
        await store.delete("fourth"),
        await store.load("fourth", now=NOW),
        await store.create(first, now=NOW),
        await store.update(first, changed, now=NOW + 60) is None,
    ]


async def test_the_stub_answers_a_store_as_dynamodb_does(stub_url: str) -> None:
    expected = await everything_a_store_does(MemoryStore())
    assert await everything_a_store_does(DynamoDBStore("sessions", endpoint_url=stub_url)) == expected


def test_the_stub_refuses_what_it_does_not_understand(stub_url: str) -> None:
    client = boto3.client("dynamodb", endpoint_url=stub_url, region_name="us-east-1")
    key = {"session_id": {"S": "x"}}
    put = partial(client.put_item, TableName="sessions", Item=key)
    update = partial(client.update_item, TableName="sessions", Key=key, ExpressionAttributeValues={":a": {"N": "1"}})
    for request, code in (
        (client.list_tables, "UnknownOperationException"),
        (partial(put, ConditionExpression="size(#a) > :b"), "ValidationException"),
        (partial(put, ConditionExpression="a = :a AND (b = :b OR begins_with(c, :c))"), "ValidationException"),
        (partial(put, ConditionExpression="a = :a AND (b = :b OR c = :c"), "ValidationException"),
        (partial(update, UpdateExpression="SET a = list_append(a, :a)"), "ValidationException"),
        (partial(update, UpdateExpression="SET a = :a + :a"), "ValidationException"),
    ):
        with pytest.raises(ClientError, match=code):
            request()
    assert "Item" not in client.get_item(TableName="sessions", Key=key)


def test_the_stub_answers_after_its_latency_and_ends_with_its_user() -> None:
    with stub.running(0.2) as url:
        client = boto3.client("dynamodb", endpoint_url=url, region_name="us-east-1")
        started = time.monotonic()
        client.get_item(TableName="sessions", Key={"session_id": {"S": "x"}})
        assert time.monotonic() - started >= 0.2
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])))


def test_cold_start_and_outage_print_their_tables() -> None:
    status, printed = run("outage", "--requests", "20")
    assert status == 0
    ((answered, gone),) = tables(printed)
    assert (answered["requests"], gone["requests"]) == ("20", "20")
    status, printed = run("cold_start", "--tiny", "--rounds", "1")
    assert status == 0
    (rows,) = tables(printed)
    assert [row["sessions"] for row in rows] == list(cold_start.MODULES)
    assert all(float(row["import ms"]) > 0 < float(row["first request ms"]) for row in rows)


def test_a_quarter_of_a_core_is_a_quarter_of_one() -> None:
    """Where a control group can be made; elsewhere it is said that it was not measured."""
    burn = "import sys, time; open(sys.argv[1], 'w').write('0'); begun = time.perf_counter(), time.process_time()\n"
    burn += "while time.process_time() - begun[1] < 0.2: pass\nprint(time.perf_counter() - begun[0])"
    try:
        with cold_start.quota(0.25) as group:
            assert group is not None
            done = subprocess.run([sys.executable, "-c", burn, group], capture_output=True, text=True, check=True)
    except OSError:
        return  # No control group can be made here: see the next test.
    assert float(done.stdout) > 0.5
    assert not group.exists()


def test_where_no_control_group_can_be_made_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError("not yours")

    monkeypatch.setattr(Path, "mkdir", refused)
    report = Report("cold_start")
    monkeypatch.setattr(cold_start, "functions", lambda: contextlib.nullcontext(Path()))
    monkeypatch.setattr(Report, "add", lambda *_: None)
    cold_start.measure(report, rounds=1, cores=(0.25,))
    assert report.missing == [
        "a cold start on 0.25 of a core: no control group can be made here: not yours",
    ]


def test_middleware() -> None:
    status, printed = run("middleware", "--tiny", "--rounds", "1")
    (rows,) = tables(printed)
    assert [(row["request"], row["session"]) for row in rows] == [
        ("anonymous", "any"),
        *((operation, "0.5 KB") for operation in ("read", "read all", "write")),
    ]
    assert all(float(row[name]) > 0 for row in rows for name in ("this package", "Starlette's cookie"))
    assert [row["to starsessions"] == "not installed" for row in rows] == ["NOT MEASURED" in printed] * len(rows)
    assert status == 0
    status, printed = run("middleware", "--tiny", "--rounds", "1", "--bars")
    assert status == ("✗" in printed or "NOT MEASURED" in printed)


def never_writes(path: str, session: dict[str, Any]) -> bytes:
    return use(path, {**session} if path == "/write" else session)


def never_reads(path: str, session: dict[str, Any]) -> bytes:
    return b"u-4711 0" if path == "/read" else use(path, session)


@pytest.mark.parametrize("wrong", [never_writes, never_reads])
async def test_middleware_does_not_time_what_is_not_done(
    monkeypatch: pytest.MonkeyPatch, wrong: Callable[[str, dict[str, Any]], bytes]
) -> None:
    monkeypatch.setattr(middleware, "use", wrong)
    with pytest.raises(AssertionError):
        await middleware.measure(Report("middleware"), rounds=1, sizes=(500,), seconds=0.001)


def test_requests() -> None:
    status, printed = run("requests", "--tiny", "--rounds", "1")
    for rows in tables(printed):
        assert len({row["sessions"] for row in rows}) * 4 == len(rows)
        assert {(row["server ms"], row["concurrent"]) for row in rows} == {(x, y) for x in "01" for y in "12"}
        for name in (requests.BOTO3, requests.ASYNC, requests.BARE_BOTO3, requests.BARE_AIODYNAMO, requests.REDIS):
            measured = [float(row["requests/s"]) for row in rows if row["sessions"] == name]
            assert all(measured)
            assert (not measured) == (f"NOT MEASURED: {name}: " in printed)
        names = {row["sessions"] for row in rows}
        assert requests.MEMORY in names
        assert (requests.CACHED in names) == (requests.ASYNC in names)
    assert status == 0


def test_touch() -> None:
    status, printed = run("touch", "--tiny", "--rounds", "1")
    (rows,) = tables(printed)
    clients = [name for name in touch.CLIENTS if f"NOT MEASURED: {name}: " not in printed]
    assert [row["client"] for row in rows] == [name for name in clients for _ in range(2)]
    assert all(float(row[name]) >= 4 for row in rows for name in ("touched ms", "read ms"))
    assert status == 0


async def test_touch_does_not_time_what_is_not_touched(stub_url: str) -> None:
    store = DynamoDBStore("sessions", endpoint_url=stub_url)
    visitor = touch.Visitor(store, 0, touches=True)
    await visitor.sample(2)
    visitor._app.setup = visitor._app.setup._replace(lifetimes=Lifetimes(1000))
    with pytest.raises(AssertionError):
        await visitor.sample(2)


class Forgetful:
    """A client whose writes come to nothing, and whose reads count."""

    reads = 0

    async def read(self) -> None:
        self.reads += 1

    async def write(self) -> None:
        pass

    async def count(self) -> int:
        return 0


async def test_requests_does_not_time_what_is_not_written() -> None:
    clients = [Forgetful(), Forgetful()]
    group = requests.Group("forgetful", clients, [os.getpid()])
    sample = await group.sample("read", 2, 0.001)
    assert len(sample.latencies) == sum(client.reads for client in clients)
    await group.check()
    while not any(group.writes):
        await group.sample("read-mostly", 2, 0.001)
    with pytest.raises(AssertionError, match="forgetful"):
        await group.check()


async def test_requests_reads_what_there_is(stub_url: str) -> None:
    (caller,) = await requests.bare_boto3(stub_url, 1)
    await caller.write()
    await caller.write()
    assert await caller.count() == 2
    with pytest.raises(KeyError):
        await requests.Boto3Caller("nobody", caller.client, caller.limiter).read()
    browser = requests.Browser(middleware.app)
    with pytest.raises(KeyError):
        await browser.read()


def test_cost() -> None:
    status, printed = run("cost", "--tiny")
    (rows,) = tables(printed)
    assert status == 0
    dollars = {(row["traffic"], row["sessions"]): float(row["$ / million requests"]) for row in rows}
    pages = {row["sessions"]: row for row in rows if row["traffic"] == "page"}
    reads = float(pages[cost.CACHED]["reads to without"].split()[0])
    assert 0 < reads < 0.35
    for shape in cost.SHAPES:
        assert dollars[shape.name, cost.CACHED] <= dollars[shape.name, cost.OURS]
        costs = [dollars[shape.name, name] for name in (cost.EVENTUAL, cost.OURS, cost.WRITES, cost.TOUCHES)]
        assert costs == [0.0] * 4 if shape.name == "anonymous" else sorted(costs[:3]) == costs[:3]


def test_cost_charges_what_the_engine_does(dynamodb_local_url: str) -> None:
    engine = boto3.client("dynamodb", endpoint_url=dynamodb_local_url, region_name="us-east-1")
    name, meter = f"cost-{uuid.uuid4()}", cost.Meter()
    table_schema.create(engine, name)

    def sized(size: int) -> dict[str, Any]:
        text = {"S": ""}
        made = {
            "session_id": {"S": str(size)},
            "ttl": {"N": "123450"},
            "user_data": {"M": {"ä": text, "b": {"S": "1"}}},
        }
        text["S"] = "x" * (size - cost.size_of(made))
        return made

    key = {"Key": {"session_id": {"S": "4097"}}}
    shrink = {
        "UpdateExpression": "SET #d.#b = :b REMOVE #d.#a",
        "ExpressionAttributeNames": {"#d": "user_data", "#a": "ä", "#b": "b"},
        "ExpressionAttributeValues": {":b": {"S": "y"}},
    }
    calls: list[tuple[str, dict[str, Any]]] = [
        *(("put_item", {"Item": sized(size)}) for size in (1_024, 1_025, 4_096, 4_097)),
        ("get_item", {**key, "ConsistentRead": True}),
        ("get_item", {"Key": {"session_id": {"S": "4096"}}, "ConsistentRead": True}),
        ("get_item", key),
        ("get_item", {"Key": {"session_id": {"S": "none"}}}),
        ("update_item", {**key, **shrink}),
        ("update_item", {**key, **shrink}),
        ("delete_item", {"Key": {"session_id": {"S": "1025"}}}),
        ("delete_item", {"Key": {"session_id": {"S": "none"}}}),
    ]
    before = 0.0
    for operation, request in calls:
        answer = getattr(engine, operation)(TableName=name, **request, ReturnConsumedCapacity="TOTAL")
        with cost.clock() as now:
            now[0] += 10 if operation == "get_item" else 0
            getattr(meter, operation)(TableName="sessions", **request)
        consumed = answer["ConsumedCapacity"]["CapacityUnits"]
        assert meter.reads + meter.writes - before == consumed, (operation, request)
        before = meter.reads + meter.writes
    engine.delete_table(TableName=name)


def test_a_read_may_miss_what_was_written_in_the_same_second() -> None:
    meter = cost.Meter()
    meter.put_item(TableName="sessions", Item={"session_id": {"S": "x"}})
    with cost.clock() as now:
        meter.put_item(TableName="sessions", Item={"session_id": {"S": "x"}, "a": {"S": "1"}})
        get = partial(meter.get_item, TableName="sessions", Key={"session_id": {"S": "x"}})
        assert "a" not in get()["Item"]
        assert "a" in get(ConsistentRead=True)["Item"]
        now[0] += 1
        assert "a" in get()["Item"]


@pytest.mark.parametrize(
    ("value", "least", "missing", "status"),
    [(0.9, False, "", 0), (1.1, False, "", 1), (1.1, True, "", 0), (0.9, True, "", 1), (0.9, False, "a peer", 1)],
)
def test_bars_decide(value: float, least: bool, missing: str, status: int) -> None:
    report = Report("anything")
    report.add("Figures", [{"figure": Bar("it", value, 1.0, least)}, {"figure": 5.0}])
    if missing:
        report.miss(missing)
    assert closing(report, bars=True) == status
    assert closing(report, bars=False) == 0


def test_growth(dynamodb_local_url: str) -> None:
    assert dynamodb_local_url
    status, printed = run("growth", "--tiny", "--rounds", "1")
    sizes, numbers, in_tables = tables(printed)
    assert [row["session"] for row in sizes] == ["0.5 KB", "4 KB"]
    assert [row["sessions"] for row in numbers] == ["10", "100"]
    # A strong read, and a strong read and a write.
    assert {row["capacity units"] for row in in_tables} == {"3"}
    assert status == 0


def test_agents(dynamodb_local_url: str) -> None:
    """What is not installed here is told, and the rest is measured."""
    assert dynamodb_local_url
    status, printed = run("agents", "--tiny", "--rounds", "1")
    graphs, conversations = tables(printed)
    ours = [row for row in graphs if row[""].startswith("this package")]
    assert [row["ends"] for row in [*ours, conversations[0]]] == [""] * 4
    assert [row["turns"] for row in ours] == ["10"] * 3
    assert "✓" in ours[0]["bytes to what was said"]
    assert status == 0


def test_scale(dynamodb_local_url: str) -> None:
    """Every command finishes, although some of its requests are throttled."""
    assert dynamodb_local_url
    status, printed = run("scale", "--sessions", "200")
    _, commands = tables(printed)
    assert [row["last line"] for row in commands] == [
        "(101 lines)",
        "(21 lines)",
        "deleted 100 expired sessions of 200 stored",
        "revoked 20 sessions",
    ]
    assert sum(int(row["throttled"]) for row in commands) > 0
    assert status == 0


def test_conversation(dynamodb_local_url: str) -> None:
    assert dynamodb_local_url
    status, printed = run("conversation", "--tiny", "--rounds", "1")
    (rows,) = tables(printed)
    assert [row["client"] for row in rows] == ["boto3", "async"]
    assert all(float(row["CPU µs"]) > 0 < float(row["the bare Query's"]) for row in rows)
    assert status == 0


async def test_growth_keeps_the_store_full() -> None:
    data = {"count": "0"}
    store, ids = await growth.full_store(50, data)
    before = set(ids)
    assert set(await growth.sample_store(store, ids, data, 20)) == {"plain dict", "load", "update", "create"}
    assert len(store) == len(ids) == 50
    assert len(before & set(ids)) == 30


def test_import() -> None:
    status, printed = run("import", "--tiny", "--rounds", "1")
    rows, processes = tables(printed)
    assert [float(row["CPU ms"]) > 0 for row in rows] == [True, True]
    assert [row["process"] for row in processes] == ["dynamodb-sessions --help", "argparse and json"]
    assert status == 0
    assert import_time.fresh("import boto3")[2]


def test_everything_at_once(tmp_path: Path) -> None:
    kept, drawn = tmp_path / "results.json", tmp_path / "chart.svg"
    older = json.loads((ROOT / "benchmarks" / "results.json").read_text())["3.11"]
    kept.write_text(json.dumps({"3.4": older}))
    status, printed = run("--tiny", "--results", str(kept), "--chart", str(drawn))
    assert "mean nothing" in printed
    assert status == 0
    by_python = json.loads(kept.read_text())
    assert list(by_python) == ["3.4", "{}.{}".format(*sys.version_info)]
    results = by_python.popitem()[1]
    assert [name for name in results if name not in ("date", "versions")] == list(QUICK)
    for name in QUICK:
        assert f"## {name}" in printed
        assert results[name]["tables"] or results[name]["missing"]
    assert ElementTree.fromstring(drawn.read_text()).tag == "{http://www.w3.org/2000/svg}svg"


def test_the_chart_is_that_of_the_results() -> None:
    results = json.loads((ROOT / "benchmarks" / "results.json").read_text())
    assert (ROOT / "docs" / "benchmarks.svg").read_text() == chart.draw(results)
    assert [len(chart.panels(of_python)) for of_python in results.values()] == [5] * len(results)
