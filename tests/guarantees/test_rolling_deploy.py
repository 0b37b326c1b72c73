"""While a new version is rolled out, the one before it runs on the same table: neither breaks what the other keeps.

The version before is built as a wheel from its commit; both run in processes of their own, on the real engine.
"""

import asyncio
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import pytest

from dynamodb_sessions import Changes, DynamoDBStore, Record, StoreUnavailable
from dynamodb_sessions.aws.errors import OutcomeUnknown
from dynamodb_sessions.stores import item_format, table_schema
from tests.conftest import HISTORY, KEY

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parent.parent.parent
BEFORE = "9a12b79610a50f8371e6d0b506880fa0764ea195"
"""The last commit before logins had handles and sessions were changed atomically: "Have one helper that waits …"."""

WORKER = """
import asyncio, datetime, json, logging, sys
import dynamodb_sessions
from dynamodb_sessions import DynamoDBSessionMiddleware, DynamoDBStore, SessionError, clock, open_session

key, table, url, transport = sys.argv[1:]
store = DynamoDBStore(table, endpoint_url=url, client=transport or None, timeout=30.0)
logged, calls = [], []
make = store._calls._transport.call

async def call(operation, **parameters):
    # All of it, but for what is random.
    parts = [part for write in parameters.get("TransactItems", []) for part in write.values()] or [parameters]
    texts = [{name: text for name, text in part.items() if name.endswith("Expression")} for part in parts]
    calls.append([operation, sorted(parameters), texts, [sorted(part.get("Item", [])) for part in parts]])
    return await make(operation, **parameters)

store._calls._transport.call = call

class Lines(logging.Handler):
    def emit(self, record):
        logged.append(record.getMessage())

logging.getLogger("dynamodb_sessions").addHandler(Lines())

def tell(**what):
    print(json.dumps(what, default=repr), flush=True)

def append(key, value):
    return lambda content: content.setdefault(key, []).append(value)

async def perform(session, script, told):
    for act, *given in script:
        match act:
            case "set": session[given[0]] = given[1]
            case "read": session.get("anything")
            case "pop": session.pop(given[0], None)
            case "clear": session.clear()
            case "rotate": session.regenerate()
            case "bind": session.bind(given[0])
            case "max_age": session.set_max_age(given[0])
            # What the version before does not know.
            case "login": session.bind(given[0], label=given[1])
            case "confirm": session.confirm_login()
            case "login?": told.append([session.info.owner, session.info.authenticated_at])
            case "append": await session.atomically(append(*given))
            case "date": session[given[0]] = datetime.date.fromisoformat(given[1])
            case "devices":
                from dynamodb_sessions import devices
                told.append([[each.handle, each.label, each.is_current] for each in await devices.of(session)])
            case "end":
                from dynamodb_sessions import devices
                told.append(await devices.end(session, given[0]))
            case "wait":
                tell(waits=True)
                sys.stdin.readline()

async def app(scope, receive, send):
    await perform(scope["session"], scope["script"], scope["told"])
    scope["seen"].update(dict.items(scope["session"]))
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})

async def visit(script, cookie, token=None, **options):
    if options.pop("tagged", False):
        options["serializer"] = dynamodb_sessions.TaggedJSONSerializer()
    if token is not None:
        options["session_header"] = "X-Session-Token"
    options.setdefault("touch_after", 0)
    sessions = DynamoDBSessionMiddleware(app, key, store=store, max_age=1000, fallback="error", **options)
    answers, seen, told = [], {}, []
    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}
    async def send(message):
        answers.append(message)
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http"}
    headers = [(b"cookie", cookie.encode())] if cookie else []
    headers += [] if token is None else [(b"x-session-token", token.encode())]
    scope |= {"path": "/", "raw_path": b"/", "query_string": b"", "root_path": "", "headers": headers}
    try:
        await sessions(scope | {"script": script, "seen": seen, "told": told}, receive, send)
    except SessionError as error:
        return {"status": 500, "session": seen, "cookie": None, "told": told, "token": None}
    given = {name.lower().decode(): value.decode() for name, value in answers[0]["headers"]}
    answer = {"status": answers[0]["status"], "session": seen, "cookie": given.get("set-cookie")}
    return answer | {"told": told, "token": given.get("x-session-token")}

async def do(what):
    match what:
        case {"visits": scripts, "cookie": cookie}:
            answers = await asyncio.gather(*(visit(script, cookie) for script in scripts))
            return {"statuses": [answer["status"] for answer in answers]}
        case {"open": session_id, "script": script}:
            told = []
            try:
                async with open_session(store, session_id) as session:
                    await perform(session, script, told)
                return {"session": dict(session), "told": told}
            except SessionError as error:
                return {"error": type(error).__name__}
        case {"revoke": owner}:
            return {"ended": await store.revoke_owner(owner)}
        case {"list": owner}:
            return {"found": [record.id async for record in store.list_owner(owner)]}
        case {"script": script, "cookie": cookie, **options}:
            return await visit(script, cookie, **options)

with asyncio.Runner() as runner:
    tell(file=dynamodb_sessions.__file__)
    for line in sys.stdin:
        what = json.loads(line)
        now = what.pop("now")
        clock.wall_clock = lambda: now
        logged.clear()
        calls.clear()
        answer = runner.run(do(what))
        tell(logged=logged, calls=calls, **answer)
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
    told: list[Any]
    """What it was asked about."""
    token: str | None
    """What the header says that stands in the cookie's place."""
    logged: list[str]
    calls: list[Any]
    """Of DynamoDB."""

    @property
    def cookie(self) -> str | None:
        """As the browser sends it back."""
        return None if self.set_cookie is None else self.set_cookie.partition(";")[0]


class Version:
    """One version of the package, in a process of its own."""

    def __init__(self, package: Path, table: str, url: str, transport: str) -> None:
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
        return self.order(later=later, **what)()

    def order(self, *, later: int = 0, **what: Any) -> Callable[[], dict[str, Any]]:
        """The same, without waiting for it. Return what does."""
        self._say({**what, "now": NOW + later})
        return self._hear

    def visit(self, cookie: str | None, *script: tuple[Any, ...], later: int = 0, **options: Any) -> Answer:
        """Send a request, to a middleware with these options: of `touch_after` both versions know."""
        return self._answer(self.ask(script=script, cookie=cookie, later=later, **options))

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
        return Answer(*(heard[name] for name in ("status", "session", "cookie", "told", "token", "logged", "calls")))


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


@pytest.mark.parametrize("every", [60, 340])
def test_a_browser_that_both_serve_in_turn_keeps_its_session_as_long_as_it_is_used(pair: Pair, every: int) -> None:
    """Each verifies what the other tells, and takes its number for what it knows of such numbers."""
    cookie, forgets_at, later = None, 0, 0
    for number in range(15):
        assert cookie is None or later < forgets_at
        act = ("read",) if number % 3 else ("set", "n", number)
        answer = (pair.one, pair.other)[number % 2].visit(cookie, act, later=later, touch_after=100)
        assert (answer.status, answer.session["n"]) == (200, number - number % 3)
        if answer.set_cookie is not None:
            cookie = answer.cookie
            forgets_at = later + int(answer.set_cookie.partition("Max-Age=")[2].partition(";")[0])
        later += every


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
    one, other, *_ = pair
    cookie = one.visit(None, ("set", "a", 1)).cookie
    one.begin(cookie, change)
    other.visit(cookie, end)
    answer = one.finish()
    assert (answer.status, answer.set_cookie) == (200, None)
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


def test_each_begins_nothing_where_the_other_has_left_a_fence(pair: Pair) -> None:
    """Neither what the other changes nor what it replaces lets a late attempt land."""
    one, other, client, table = pair
    name = f"job-{os.urandom(8).hex()}"
    one.ask(open=name, script=[("set", "a", 1)])
    fence = f"{int(time.time())}:abcdefghijkl"
    client.update_item(
        TableName=table,
        Key=item_format.key(name),
        UpdateExpression="SET ops=:op",
        ExpressionAttributeValues={":op": {"SS": [fence]}},
    )
    many = [("set", f"key{number}", number) for number in range(150)]
    for script in ([("set", "b", 2)], many, [("max_age", 60)]):
        other.ask(open=name, script=script)
        item = client.get_item(TableName=table, Key=item_format.key(name))["Item"]
        assert fence in item["ops"]["SS"]
        assert "born" in item


# What the version before does not know.


@pytest.fixture
def before(versions: dict[str, Pair]) -> Version:
    return versions["before"].one


@pytest.fixture
def now(versions: dict[str, Pair]) -> Version:
    return versions["now"].one


def test_a_cookie_of_the_version_before_is_replaced_once(before: Version, now: Version) -> None:
    cookie = before.visit(None, ("set", "a", 1)).cookie
    replaced = now.visit(cookie, ("read",), touch_after=100)
    assert (replaced.session, id_in(replaced.cookie)) == ({"a": 1}, id_in(cookie))
    for act in (("read",), ("set", "b", 2)):
        assert now.visit(replaced.cookie, act, touch_after=100).set_cookie is None
    assert before.visit(replaced.cookie, ("read",), touch_after=100).session == {"a": 1, "b": 2}


LOGIN = {"owner", "handle", "label", "authenticated_at"}
"""What a login stores."""


@pytest.fixture
def owner() -> str:
    return f"acme/{os.urandom(4).hex()}"


USES_NOTHING_NEW: list[tuple[Any, ...]] = [
    # How many calls of DynamoDB it takes, which visitor comes, and what the handler does.
    (0, "anew"),
    (0, "anew", ("read",)),
    (1, "anew", ("set", "a", 1), ("set", "b", 1)),
    (1, "back"),
    (2, "back", ("read",)),  # It is extended at each use, as touch_after=0 has it.
    (2, "back", ("set", "b", 2), ("pop", "a")),
    (2, "back", ("max_age", 3000)),
    (3, "back", *[("set", f"key{number}", number) for number in range(150)]),
    (2, "back", ("rotate",)),
    (2, "back", ("clear",), ("set", "b", 3)),
    (2, "back", ("clear",)),
]
RANDOM = ("session_id", "born", "ops", "moved_to")


def test_requests_that_use_nothing_new_make_the_calls_they_made_and_leave_the_items_they_left(
    versions: dict[str, Pair],
) -> None:
    """To the last expression and condition: whoever uses nothing new pays nothing for it."""
    before, now = (whatever_it_does(pair) for pair in versions.values())
    assert before == now


def whatever_it_does(pair: Pair) -> list[Any]:
    done, cookie = [], pair.one.visit(None, ("set", "a", 1)).cookie  # The first one probes.
    for count, comes, *script in USES_NOTHING_NEW:
        answer = pair.one.visit(cookie if comes == "back" else None, *script)
        assert (answer.status, len(answer.calls)) == (200, count), script
        if answer.set_cookie is not None and "Max-Age=0" not in answer.set_cookie:
            cookie = answer.cookie
        item = pair.item(cookie) or {}
        done.append((answer.calls, {name: each for name, each in item.items() if name not in RANDOM}))
    return done


def test_a_login_outlives_what_the_version_before_changes(
    before: Version, now: Version, versions: dict[str, Pair], owner: str
) -> None:
    cookie = now.visit(None, ("login", owner, "Firefox"), ("set", "a", 1)).cookie
    many = [("set", f"key{number}", number) for number in range(150)]
    for script in ([("read",)], [("set", "a", 2)], [("max_age", 3000)], many):
        assert before.visit(cookie, *script, later=10).status == 200
    item = versions["now"].item(cookie)
    assert item is not None
    assert item.keys() >= LOGIN
    ((handle, *rest),), login = now.visit(cookie, ("devices",), ("login?",)).told
    assert (handle, rest, login) == (item["handle"]["S"], ["Firefox", True], [owner, NOW])
    # What confirms it moves it with all of that.
    moved = now.visit(cookie, ("confirm",), later=20).cookie
    assert before.visit(moved).session["a"] == 2
    assert now.visit(moved, ("devices",), ("login?",)).told == [[[handle, "Firefox", True]], [owner, NOW + 20]]
    assert before.ask(revoke=owner)["ended"] == 1
    assert now.visit(moved).session == {}


def test_a_login_that_the_version_before_has_moved_is_one_without_proof(
    before: Version, now: Version, versions: dict[str, Pair], owner: str
) -> None:
    """It writes only what it knows: the owner stays, what else is kept of the login is gone."""
    first = now.visit(None, ("login", owner, "Firefox"), ("set", "a", 1)).cookie
    second = now.visit(None, ("login", owner, "Chrome")).cookie
    moved = before.visit(first, ("rotate",)).cookie
    item = versions["now"].item(moved)
    assert item is not None
    assert item.keys() & LOGIN == {"owner"}
    here, proof = now.visit(moved, ("devices",), ("login?",)).told
    assert proof == [owner, None]
    [handle] = [handle for handle, label, is_current in here if is_current and label is None]
    assert [label for _, label, is_current in here if not is_current] == ["Chrome"]
    # It can be confirmed, and ended from another device.
    confirmed = now.visit(moved, ("confirm",), later=5).cookie
    assert now.visit(confirmed, ("login?",)).told == [[owner, NOW + 5]]
    [handle] = [each for each, label, _ in now.visit(second, ("devices",)).told[0] if label is None]
    assert now.visit(second, ("end", handle)).told == [True]
    assert now.visit(confirmed).session == before.visit(confirmed).session == {}
    assert now.visit(second, ("devices",)).told[0][0][1:] == ["Chrome", True]


def test_a_login_by_the_version_before_is_one_without_proof(before: Version, now: Version, owner: str) -> None:
    cookie = before.visit(None, ("bind", owner)).cookie
    ((handle, *rest),), proof = now.visit(cookie, ("devices",), ("login?",)).told
    assert (len(handle), rest, proof) == (16, [None, True], [owner, None])
    # Also in a session that was another login of this version's.
    cookie = now.visit(None, ("login", "acme/other", "Firefox")).cookie
    cookie = before.visit(cookie, ("bind", owner)).cookie
    assert now.visit(cookie, ("login?",)).told == [[owner, None]]


def test_what_is_changed_atomically_is_to_the_version_before_what_any_change_is(
    before: Version, now: Version, versions: dict[str, Pair]
) -> None:
    cookie = before.visit(None, ("set", "a", 1)).cookie
    assert now.visit(cookie, ("append", "log", 1)).status == 200
    item = versions["now"].item(cookie)
    assert item is not None
    assert [each.partition(":")[0] for each in item["ops"]["SS"]] == ["exchange"]
    assert before.visit(cookie, ("set", "a", 2)).session == {"a": 2, "log": [1]}
    many = [("set", f"key{number}", number) for number in range(150)]
    assert before.visit(cookie, *many, ("set", "a", 3)).status == 200
    assert now.visit(cookie, ("append", "log", 2)).status == 200
    moved = before.visit(cookie, ("rotate",)).cookie
    assert now.visit(moved, ("append", "log", 3)).status == 200
    assert before.visit(moved).session["log"] == [1, 2, 3]
    emptied = [("pop", key) for key in before.visit(moved).session]
    assert "Max-Age=0" in str(before.visit(moved, *emptied).set_cookie)
    assert now.visit(moved).session == {}


def test_parallel_changes_of_both_versions_lose_nothing(before: Version, now: Version) -> None:
    """The version before changes keys of their own, this one appends to the same list."""
    cookie = before.visit(None, ("set", "log", [])).cookie
    count = 12
    asked = [
        before.order(visits=[[("set", f"key{number}", number)] for number in range(count)], cookie=cookie),
        now.order(visits=[[("append", "log", number)] for number in range(count)], cookie=cookie),
    ]
    assert [answered()["statuses"] for answered in asked] == [[200] * count] * 2
    for version in (before, now):
        session = version.visit(cookie).session
        assert sorted(session.pop("log")) == list(range(count))
        assert session == {f"key{number}": number for number in range(count)}


@pytest.mark.parametrize(
    ("script", "is_known"),
    [([("set", "b", 2)], True), ([("set", f"key{number}", 2) for number in range(150)], False), ([("rotate",)], False)],
    ids=["update", "update of many", "rotate"],
)
@pytest.mark.parametrize("is_applied", [True, False])
def test_an_exchange_without_an_answer_is_not_made_twice_whatever_the_version_before_does_meanwhile(
    before: Version, versions: dict[str, Pair], script: Any, *, is_known: bool, is_applied: bool
) -> None:
    """A write that replaces all of a session drops the name of the exchange: then nobody can know."""
    cookie = before.visit(None, ("set", "n", 1)).cookie
    moved = []
    client, table = versions["now"].client, versions["now"].table

    async def exchange() -> Record | None:
        store = DynamoDBStore(table, client=client)
        call = store._calls._transport.call

        async def lose_the_first(operation: str, *, deadline: float, **parameters: Any) -> dict[str, Any]:
            if operation != "update_item":
                return await call(operation, deadline=deadline, **parameters)
            store._calls._transport.call = call  # type: ignore[method-assign]
            if is_applied:
                await call(operation, deadline=deadline, **parameters)
            moved.append(before.visit(cookie, *script).cookie)
            raise OutcomeUnknown("its reply is lost")

        record = await store.load(id_in(cookie), now=NOW)
        assert record is not None
        store._calls._transport.call = lose_the_first  # type: ignore[method-assign]
        return await store.exchange(record, add, now=NOW)

    def add(stored: Record) -> Changes:
        return Changes(NOW + 1000, {"n": str(int(stored.data["n"]) + 1)})

    if is_known or (not is_applied and script != [("rotate",)]):
        stored = asyncio.run(exchange())
        assert stored is not None
        assert stored.data["n"] == "2"
    else:
        with pytest.raises(StoreUnavailable):
            asyncio.run(exchange())
    assert before.visit(moved[0]).session["n"] == (2 if is_applied or script != [("rotate",)] else 1)


def test_what_is_changed_without_extending_the_session_is_extended_by_the_version_before(
    before: Version, now: Version, versions: dict[str, Pair]
) -> None:
    """It knows no paths that extend nothing."""
    cookie = before.visit(None, ("set", "a", 1)).cookie
    for script in ([("set", "b", 2)], [("append", "log", 1)]):
        assert now.visit(cookie, *script, later=100, no_touch=["/"]).status == 200
        item = versions["now"].item(cookie)
        assert item is not None
        assert item["ttl"] == {"N": str(NOW + 1000)}
    moved = now.visit(cookie, ("rotate",), later=100, no_touch=["/"]).cookie
    assert before.visit(moved, ("read",), later=999).session == {"a": 1, "b": 2, "log": [1]}
    assert now.visit(moved, later=1998, no_touch=["/"]).session == {"a": 1, "b": 2, "log": [1]}
    assert now.visit(moved, later=1999).session == {}


def test_a_token_in_a_header_is_what_the_cookie_holds(before: Version, now: Version) -> None:
    begun = now.visit(None, ("set", "a", 1), token="")
    assert (begun.set_cookie, begun.status) == (None, 200)
    changed = before.visit(f"session_id={begun.token}", ("set", "b", 2))
    assert changed.session == {"a": 1, "b": 2}
    assert changed.cookie is not None
    token = changed.cookie.removeprefix("session_id=")
    moved = now.visit(None, ("rotate",), token=token).token
    assert before.visit(f"session_id={moved}").session == {"a": 1, "b": 2}
    assert "Max-Age=0" in str(before.visit(f"session_id={moved}", ("clear",)).set_cookie)
    assert now.visit(None, token=moved).session == {}


def test_values_that_json_does_not_have_are_objects_of_json_to_the_version_before(
    before: Version, now: Version
) -> None:
    """It keeps them as they are stored, and has no use for them: switch the serializer on when it runs no more."""
    date, as_json = "datetime.date(2026, 6, 1)", {" date": "2026-06-01"}
    cookie = now.visit(None, ("date", "day", "2026-06-01"), ("set", "a", 1), tagged=True).cookie
    assert before.visit(cookie).session == {"day": as_json, "a": 1}
    many = [("set", f"key{number}", number) for number in range(150)]
    for script in ([("read",)], [("set", "a", 2)], many, [("bind", "acme/alice")], [("rotate",)]):
        answer = before.visit(cookie, *script)
        assert answer.status == 200
        cookie = answer.cookie or cookie
        assert now.visit(cookie, tagged=True).session["day"] == date
    # What its handler puts in their place is what it has said: an object.
    assert before.visit(cookie, ("set", "day", {**as_json, "a": 1}), ("set", "a", as_json)).status == 200
    session = now.visit(cookie, tagged=True).session
    assert (session["day"], session["a"]) == ({**as_json, "a": 1}, as_json)
