"""While a new version is rolled out, the one before it runs on the same table: neither breaks what the other keeps.

The version before is built as a wheel from its commit; both run in processes of their own, on the real engine.
"""

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import pytest

from dynamodb_sessions.stores import item_format, table_schema, update_expression
from tests.conftest import HISTORY, KEY

PROJECT = Path(__file__).parent.parent.parent
BEFORE = "cdd66d33f8804cbbf3db2a0d6ddc68b5d767697b"
"""The last commit before operations were told from their attempts: "Point the tests that look into modules …"."""

WORKER = """
import asyncio, json, logging, sys
import dynamodb_sessions
from dynamodb_sessions import DynamoDBSessionMiddleware, DynamoDBStore, SessionError, clock, open_session

key, table, url, transport = sys.argv[1:]
store = DynamoDBStore(table, endpoint_url=url, client=transport or None)
logged = []

class Lines(logging.Handler):
    def emit(self, record):
        logged.append(record.getMessage())

logging.getLogger("dynamodb_sessions").addHandler(Lines())

def tell(**what):
    print(json.dumps(what), flush=True)

async def perform(session, script):
    for act, *given in script:
        match act:
            case "set": session[given[0]] = given[1]
            case "read": session.get("anything")
            case "pop": session.pop(given[0], None)
            case "clear": session.clear()
            case "rotate": session.regenerate()
            case "bind": session.bind(given[0])
            case "max_age": session.set_max_age(given[0])
            case "wait":
                tell(waits=True)
                sys.stdin.readline()

async def app(scope, receive, send):
    await perform(scope["session"], scope["script"])
    scope["seen"].update(dict.items(scope["session"]))
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})

sessions = DynamoDBSessionMiddleware(app, key, store=store, max_age=1000, touch_after=0, fallback="error")

async def visit(script, cookie):
    answers, seen = [], {}
    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}
    async def send(message):
        answers.append(message)
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http"}
    headers = [(b"cookie", cookie.encode())] if cookie else []
    scope |= {"path": "/", "raw_path": b"/", "query_string": b"", "root_path": "", "headers": headers}
    try:
        await sessions(scope | {"script": script, "seen": seen}, receive, send)
    except SessionError as error:
        return {"status": 500, "session": seen, "cookie": None, "error": type(error).__name__}
    given = dict(answers[0]["headers"]).get(b"set-cookie")
    return {"status": answers[0]["status"], "session": seen, "cookie": given and given.decode()}

async def do(what):
    match what:
        case {"script": script, "cookie": cookie}:
            return await visit(script, cookie)
        case {"open": session_id, "script": script}:
            try:
                async with open_session(store, session_id) as session:
                    await perform(session, script)
                return {"session": dict(session)}
            except SessionError as error:
                return {"error": type(error).__name__}
        case {"revoke": owner}:
            return {"ended": await store.revoke_owner(owner)}
        case {"list": owner}:
            return {"found": [record.id async for record in store.list_owner(owner)]}
        case {"scan": _}:
            return {"found": [record.id async for record in store.scan()]}

with asyncio.Runner() as runner:
    tell(file=dynamodb_sessions.__file__)
    for line in sys.stdin:
        what = json.loads(line)
        now = what.pop("now")
        clock.wall_clock = lambda: now
        logged.clear()
        answer = runner.run(do(what))
        tell(logged=logged, **answer)
"""


def run(*command: str | Path) -> None:
    ran = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.fixture(scope="session")
def version_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as it was, and nothing else."""
    folder = tmp_path_factory.mktemp("before")
    git = [
        "git",
        "-C",
        str(PROJECT),
        "archive",
        "--format=tar",
        BEFORE,
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "src",
    ]
    try:
        archive = subprocess.run(git, capture_output=True, timeout=60, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        HISTORY.is_missing()
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder / "source", filter="data")
    pip = [sys.executable, "-m", "pip"]
    run(*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, folder / "source")
    (wheel,) = folder.glob("*.whl")
    run(*pip, "install", "--quiet", "--no-deps", "--target", folder / "installed", wheel)
    return folder / "installed"


class Answer(NamedTuple):
    status: int
    session: dict[str, Any]
    set_cookie: str | None
    logged: list[str]

    @property
    def cookie(self) -> str | None:
        """As the browser sends it back."""
        return None if self.set_cookie is None else self.set_cookie.partition(";")[0]


class Version:
    """One version of the package, in a process of its own."""

    def __init__(self, package: Path, table: str, url: str, transport: str) -> None:
        self.is_before = package != PROJECT / "src"
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORKER, KEY, table, url, transport],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(package)},
            cwd=package,
        )
        assert Path(self._hear()["file"]).is_relative_to(package)

    def _say(self, what: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process has ended"
        heard: dict[str, Any] = json.loads(line)
        return heard

    def ask(self, *, later: int = 0, **what: Any) -> dict[str, Any]:
        """Have it do something, some seconds from now."""
        self._say({**what, "now": NOW + later})
        return self._hear()

    def visit(self, cookie: str | None, *script: tuple[Any, ...], later: int = 0) -> Answer:
        """Send a request."""
        return self._answer(self.ask(script=script, cookie=cookie, later=later))

    def begin(self, cookie: str | None, *script: tuple[Any, ...]) -> None:
        """Send a request that waits for `finish` after it has loaded its session."""
        heard = self.ask(script=[("wait",), *script], cookie=cookie)
        assert heard == {"waits": True}

    def finish(self) -> Answer:
        self._say({})
        return self._answer(self._hear())

    def close(self) -> None:
        with self._process:  # It ends with its input.
            pass

    @staticmethod
    def _answer(heard: dict[str, Any]) -> Answer:
        return Answer(heard["status"], heard["session"], heard["cookie"], heard["logged"])


NOW = int(time.time())


class Pair(NamedTuple):
    """Two versions on one table."""

    one: Version
    other: Version
    client: Any
    table: str

    def item(self, cookie: str | None) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self.client.get_item(
            TableName=self.table, Key={"session_id": {"S": id_in(cookie)}}, ConsistentRead=True
        ).get("Item")
        return found


def id_in(cookie: str | None) -> str:
    assert cookie is not None
    return cookie.removeprefix("session_id=").partition(".")[0]


@pytest.fixture(scope="module", params=["", "async"], ids=["boto3", "async"])
def versions(
    request: pytest.FixtureRequest, version_before: Path, dynamodb_local_url: str
) -> Iterator[dict[str, Pair]]:
    table = f"sessions-rolling-{os.getpid()}-{request.param or 'boto3'}"
    client = boto3.client("dynamodb", endpoint_url=dynamodb_local_url, region_name="us-east-1")
    table_schema.create(client, table)
    before = Version(version_before, table, dynamodb_local_url, request.param)
    now = Version(PROJECT / "src", table, dynamodb_local_url, request.param)
    yield {"before": Pair(before, now, client, table), "now": Pair(now, before, client, table)}
    before.close()
    now.close()
    client.delete_table(TableName=table)


@pytest.fixture(params=["before", "now"])
def pair(request: pytest.FixtureRequest, versions: dict[str, Pair]) -> Pair:
    """Which version begins: the other has to do with what it left."""
    return versions[request.param]


LONG = "long " * 1000


def test_each_reads_and_changes_what_the_other_wrote(pair: Pair) -> None:
    one, other, *_ = pair
    cookie = one.visit(None, ("set", "a", 1), ("set", "long", LONG), ("set", "gone", [None])).cookie
    assert other.visit(cookie).session == {"a": 1, "long": LONG, "gone": [None]}
    changed = other.visit(cookie, ("set", "b", {"c": 1.5}), ("pop", "gone"), ("max_age", 3000))
    assert changed.status == 200
    assert one.visit(cookie).session == {"a": 1, "long": LONG, "b": {"c": 1.5}}
    assert one.visit(changed.cookie, ("set", "a", 2)).status == 200
    assert other.visit(cookie).session == {"a": 2, "long": LONG, "b": {"c": 1.5}}
    item = pair.item(cookie)
    assert item is not None
    assert (item["version"], item["max_age"], item["ttl"]) == ({"N": "3"}, {"N": "3000"}, {"N": str(NOW + 3000)})


def test_each_lets_live_longer_what_the_other_wrote(pair: Pair) -> None:
    one, other, *_ = pair
    cookie = one.visit(None, ("set", "a", 1)).cookie
    assert other.visit(cookie, ("read",), later=50).set_cookie is not None
    assert one.visit(cookie, ("read",), later=1020).session == {"a": 1}
    assert other.visit(cookie, ("read",), later=2010).session == {"a": 1}
    assert one.visit(cookie, ("read",), later=3020).session == {}


@pytest.mark.parametrize("act", [("rotate",), ("bind", "acme/alice")])
def test_each_moves_what_the_other_wrote(pair: Pair, act: tuple[Any, ...]) -> None:
    one, other, *_ = pair
    cookie = one.visit(None, ("set", "a", 1)).cookie
    moved = other.visit(cookie, ("set", "b", 2), act).cookie
    assert id_in(moved) != id_in(cookie)
    for version in (one, other):
        assert version.visit(cookie).session == {}
        assert version.visit(moved).session == {"a": 1, "b": 2}
    again = one.visit(moved, ("set", "a", 3), act).cookie
    assert other.visit(again, ("set", "c", 4)).status == 200
    assert one.visit(again).session == {"a": 3, "b": 2, "c": 4}
    assert other.visit(moved).session == {}


def test_each_ends_what_the_other_wrote(pair: Pair) -> None:
    one, other, *_ = pair
    cookie = one.visit(None, ("set", "a", 1)).cookie
    assert "Max-Age=0" in str(other.visit(cookie, ("clear",)).set_cookie)
    assert one.visit(cookie).session == {}
    replaced = one.visit(None, ("set", "a", 1)).cookie
    anew = other.visit(replaced, ("clear",), ("set", "flash", "bye")).cookie
    assert one.visit(replaced).session == {}
    assert one.visit(anew).session == {"flash": "bye"}


def test_each_finds_and_ends_an_owners_sessions(pair: Pair) -> None:
    one, other, *_ = pair
    owner = f"acme/{os.urandom(4).hex()}"
    cookies = [version.visit(None, ("set", "a", 1), ("bind", owner)).cookie for version in (one, other)]
    cookies.append(other.visit(cookies.pop(0), ("set", "b", 1), ("rotate",)).cookie)
    assert set(one.ask(list=owner)["found"]) == {id_in(cookie) for cookie in cookies}
    assert other.ask(revoke=owner)["ended"] == 2
    assert [one.visit(cookie).session for cookie in cookies] == [{}, {}]


def test_each_keeps_what_the_other_changes_meanwhile(pair: Pair) -> None:
    one, other, *_ = pair
    cookie = one.visit(None, ("set", "a", 1)).cookie
    one.begin(cookie, ("set", "b", 2))
    other.visit(cookie, ("set", "c", 3))
    assert one.finish().status == 200
    one.begin(cookie, ("set", "b", 4), ("rotate",))
    other.visit(cookie, ("set", "c", 5))
    moved = one.finish().cookie
    assert other.visit(moved).session == {"a": 1, "b": 4, "c": 5}


@pytest.mark.parametrize("end", [("clear",), ("rotate",)])
@pytest.mark.parametrize("change", [("set", "b", 2), ("read",), ("rotate",)])
def test_neither_brings_back_what_the_other_has_ended_or_moved(
    pair: Pair, end: tuple[Any, ...], change: tuple[Any, ...]
) -> None:
    """But the version before fails where it would change, at that moment, what this one has just moved: what it meets
    there is corrupt to it."""
    one, other, *_ = pair
    cookie = one.visit(None, ("set", "a", 1)).cookie
    one.begin(cookie, change)
    other.visit(cookie, end)
    answer = one.finish()
    is_corrupt = one.is_before and end == ("rotate",) and change != ("read",)
    assert (answer.status, answer.set_cookie) == (500 if is_corrupt else 200, None)
    assert one.visit(cookie).session == {}
    assert "user_data" not in (pair.item(cookie) or {})


def test_each_opens_and_ends_sessions_under_an_id_of_ones_own(pair: Pair) -> None:
    one, other, *_ = pair
    name = f"job-{os.urandom(8).hex()}"
    assert one.ask(open=name, script=[("set", "a", 1)])["session"] == {"a": 1}
    assert other.ask(open=name, script=[("set", "b", 2)])["session"] == {"a": 1, "b": 2}
    assert one.ask(open=name, script=[("pop", "a")])["session"] == {"b": 2}
    assert other.ask(open=name, script=[("pop", "b")])["session"] == {}
    assert one.ask(open=name, script=[("set", "a", 5)])["session"] == {"a": 5}
    assert other.ask(open=name, script=[])["session"] == {"a": 5}


# What the version before does not know.


def test_what_has_moved_is_an_empty_session_and_a_warning_to_the_version_before(versions: dict[str, Pair]) -> None:
    before, now, *_ = pair = versions["before"]
    cookie = now.visit(None, ("set", "a", 1)).cookie
    moved = now.visit(cookie, ("rotate",)).cookie
    seen = before.visit(cookie, ("read",))
    assert (seen.status, seen.session, seen.set_cookie) == (200, {}, None)
    assert [line.partition(" cannot")[2] for line in seen.logged] == [
        " be read and is left as it is: a stored item is not a session (KeyError)"
    ]
    # A session that it begins there is another one, under an id of its own.
    begun = before.visit(cookie, ("set", "b", 2)).cookie
    assert id_in(begun) not in {id_in(cookie), id_in(moved)}
    before.visit(cookie, ("clear",))
    marker = pair.item(cookie)
    assert marker is not None
    assert marker["moved_to"] == {"S": id_in(moved)}
    assert now.visit(moved).session == {"a": 1}
    scanned = before.ask(scan=True)
    assert id_in(moved) in scanned["found"]
    assert id_in(cookie) not in scanned["found"]


def test_a_tombstone_is_a_corrupt_session_to_the_version_before(versions: dict[str, Pair]) -> None:
    """It is left there after a creation got no answer: the version before cannot begin a session there meanwhile."""
    before, now, client, table = versions["before"]
    name = f"job-{os.urandom(8).hex()}"
    operation_id = f"{NOW}:abcdefghijkl"
    until = NOW + update_expression.OPERATION_SECONDS
    client.put_item(TableName=table, **update_expression.tombstone(name, (), operation_id, NOW, until))
    assert before.ask(open=name, script=[("set", "a", 1)])["error"] == "CorruptRecord"
    item = client.get_item(TableName=table, Key=item_format.key(name))["Item"]
    assert item["ops"] == {"SS": [operation_id]}
    assert now.ask(open=name, script=[("set", "a", 1)])["session"] == {"a": 1}
    assert before.ask(open=name, script=[("set", "b", 2)])["session"] == {"a": 1, "b": 2}


def test_the_version_before_keeps_the_fences_of_this_one(versions: dict[str, Pair]) -> None:
    """What it changes does not let a late attempt of this version land."""
    before, now, client, table = versions["before"]
    name = f"job-{os.urandom(8).hex()}"
    now.ask(open=name, script=[("set", "a", 1)])
    fences = {":op": {"SS": [f"{NOW}:abcdefghijkl"]}}
    client.update_item(
        TableName=table, Key=item_format.key(name), UpdateExpression="SET ops=:op", ExpressionAttributeValues=fences
    )
    many = [("set", f"key{number}", number) for number in range(150)]
    for script in ([("set", "b", 2)], many, [("max_age", 60)]):
        before.ask(open=name, script=script)
        item = client.get_item(TableName=table, Key=item_format.key(name))["Item"]
        assert item["ops"] == fences[":op"]
        assert "born" in item
