"""A role with nothing but the emitted policy does all an app does, and the policy allows nothing that no path needs.

The same for an operator's role and the command line.

A transaction has no permission of its own: it needs those of the writes in it. A query of an index is allowed on the
index. Source: "Using IAM with DynamoDB transactions" and "Using IAM policy conditions" in the AWS documentation.
"""

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from botocore.exceptions import ClientError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from dynamodb_sessions import DynamoDBStore, MemoryStore, open_session
from dynamodb_sessions.agents import DynamoDBConversation
from dynamodb_sessions.agents import conversation as conversation_module
from dynamodb_sessions.aws.boto3_transport import Boto3Transport
from dynamodb_sessions.clock import wall_clock
from dynamodb_sessions.identifiers import new_id
from dynamodb_sessions.ops import cli
from dynamodb_sessions.ops.emit import iam
from dynamodb_sessions.ops.target import Target
from dynamodb_sessions.stores import item_format, table_schema
from dynamodb_sessions.stores.contract import Record
from dynamodb_sessions.stores.fallback import FallbackStore
from tests.conftest import Clock
from tests.helpers.asgi import an_app, browser, by_path, clear, clear_and_fill, held, look, put
from tests.helpers.fallback import Time, settled
from tests.helpers.policies import Permission, granted
from tests.helpers.starlette_cookies import ALICE, OLD_KEY, of_starlette

pytestmark = pytest.mark.anyio

"""An action and what it is allowed on: the table, or an index of it."""

GET, PUT, UPDATE, DELETE = ((f"dynamodb:{name}Item", "") for name in ("Get", "Put", "Update", "Delete"))
QUERY = ("dynamodb:Query", f"/index/{table_schema.OWNER_INDEX}")
BATCH_GET = ("dynamodb:BatchGetItem", "")
SCAN, DESCRIBE, DESCRIBE_TTL, DESCRIBE_BACKUPS = (
    (f"dynamodb:{name}", "") for name in ("Scan", "DescribeTable", "DescribeTimeToLive", "DescribeContinuousBackups")
)


def needed(operation: str, request: Mapping[str, Any]) -> Iterator[Permission]:
    """Yield what IAM asks for before DynamoDB serves a request."""
    if operation in ("BatchGetItem", "BatchWriteItem"):
        yield from ((f"dynamodb:{operation}", name) for name in request["RequestItems"])
    elif operation == "TransactWriteItems":
        for write in request["TransactItems"]:
            for kind, part in write.items():
                yield from needed("ConditionCheckItem" if kind == "ConditionCheck" else f"{kind}Item", part)
    else:
        index = f"/index/{request['IndexName']}" if "IndexName" in request else ""
        yield f"dynamodb:{operation}", request["TableName"] + index


@dataclass
class Role:
    """What its clients may do. What they asked for is noted, and so is what they were denied."""

    permissions: set[Permission]
    used: set[Permission] = field(default_factory=set)
    denied: set[Permission] = field(default_factory=set)

    def assume(self, client: Any) -> None:
        client.meta.events.register("before-parameter-build.dynamodb", self._authorise)

    def leave(self, client: Any) -> None:
        client.meta.events.unregister("before-parameter-build.dynamodb", self._authorise)

    def forget(self) -> None:
        self.used.clear()
        self.denied.clear()

    def _authorise(self, *, params: dict[str, Any], model: Any, **_: Any) -> None:
        asked = set(needed(model.name, params))
        denied = asked - self.permissions
        self.used |= asked
        self.denied |= denied
        if denied:
            raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "denied"}}, model.name)


@dataclass(frozen=True)
class Stage:
    """Where a path is walked. `client` has assumed the role; what `others` do is not the role's."""

    role: Role
    table_name: str
    client: Any
    others: Any
    clock: Clock

    def store(self, **options: Any) -> DynamoDBStore:
        return DynamoDBStore(self.table_name, client=self.client, **options)

    def app(self, store: Any, **options: Any) -> Starlette:
        app = an_app(store, by_path(**ACTS), **options)
        app.state.stage = self
        return app

    def change(self, session_id: str) -> None:
        """Change a session as another request would."""
        self.others.update_item(
            TableName=self.table_name,
            Key={table_schema.KEY: {"S": session_id}},
            UpdateExpression="SET user_data.added = :one ADD version :n",
            ExpressionAttributeValues={":one": {"S": "1"}, ":n": {"N": "1"}},
        )


def empty_while_changed(request: Request) -> None:
    for key in list(request.session):
        del request.session[key]
    request.app.state.stage.change(held(request).info.id)


def regenerate_while_changed(request: Request) -> None:
    old_id = held(request).info.id
    held(request).regenerate()
    request.app.state.stage.change(old_id)


def clear_and_fail(request: Request) -> Response:
    request.session.clear()
    return PlainTextResponse("", 500)


async def others(request: Request) -> None:
    session = held(request)
    await session.info.store.revoke_owner(str(session.info.owner), keep=session.info.id)


async def devices(request: Request) -> None:
    assert [record async for record in held(request).info.store.list_owner("acme/alice")]


def stream(request: Request) -> Response:
    async def chunks() -> Any:
        yield "late"
        request.session["late"] = True

    return StreamingResponse(chunks())


ACTS: dict[str, Callable[[Request], Any]] = {
    "look": look,
    "put": put(a=1, b=2),
    "change": put(a=3),
    "many": put(**{f"key{number}": 1 for number in range(101)}),
    "remove": lambda request: request.session.pop("a"),
    "empty": lambda request: [request.session.pop(key) for key in ("a", "b")],
    "empty_while_changed": empty_while_changed,
    "clear": clear,
    "clear_and_fail": clear_and_fail,
    "refill": clear_and_fill,
    "regenerate": lambda request: held(request).regenerate(),
    "regenerate_while_changed": regenerate_while_changed,
    "bind": lambda request: held(request).bind("acme/alice"),
    "remember": lambda request: held(request).set_max_age(86400),
    "save": lambda request: held(request).save(),
    "others": others,
    "devices": devices,
    "stream": stream,
}

Path = Callable[[Stage], Awaitable[None]]
Step = str | Callable[[Stage, httpx.AsyncClient], None]


def visits(*steps: Step, consistent_read: bool = True, **options: Any) -> Path:
    """Return the path of a browser's requests, and what happens between them. Only the last is looked at."""

    async def walk(stage: Stage) -> None:
        store = stage.store(consistent_read=consistent_read)
        store.probe()
        async with browser(stage.app(store, **options)) as client:
            for step in steps:
                stage.role.forget()
                if isinstance(step, str):
                    await client.get(f"/{step}")
                else:
                    step(stage, client)

    return walk


def later(stage: Stage, _: httpx.AsyncClient) -> None:
    stage.clock.now += 1000


def another_browser(_: Stage, client: httpx.AsyncClient) -> None:
    client.cookies.clear()


def with_starlettes_cookie(_: Stage, client: httpx.AsyncClient) -> None:
    client.cookies.set("session", of_starlette(ALICE))


def with_a_forged_cookie(_: Stage, client: httpx.AsyncClient) -> None:
    client.cookies.set("session_id", f"{new_id()}.1.{new_id()}")


def older_layout(stage: Stage, client: httpx.AsyncClient) -> None:
    """Rewrite the session as older versions stored it."""
    key = {table_schema.KEY: {"S": client.cookies["session_id"].partition(".")[0]}}
    stored = stage.others.get_item(TableName=stage.table_name, Key=key)["Item"]
    del stored["version"]
    stage.others.put_item(TableName=stage.table_name, Item=stored | {"user_data": {"S": '{"a": 1}'}})


async def probe(stage: Stage) -> None:
    stage.store().probe()


async def health(stage: Stage) -> None:
    await stage.store().health()


async def created_at_once(stage: Stage) -> None:
    """Two that begin the same session outside a request."""
    store, name = stage.store(), new_id()
    async with open_session(store, name) as outer:
        outer["a"] = 1
        async with open_session(store, name) as inner:
            inner["b"] = 2


async def too_old(stage: Stage) -> None:
    """The absolute timeout came after the session."""
    store = stage.store()
    async with browser(stage.app(store)) as before, browser(stage.app(store, absolute_max_age=900)) as after:
        await before.get("/put")
        stage.clock.now += 1000
        after.cookies = before.cookies
        stage.role.forget()
        await after.get("/look")


async def permitted_late(stage: Stage) -> None:
    """Until the role may do anything sessions are in memory; then logouts are applied, and sessions move."""
    time = Time()
    async with browser(stage.app(stage.store())) as one:
        await one.get("/put")
        permissions, stage.role.permissions = stage.role.permissions, set()
        fallback = FallbackStore(stage.store(), MemoryStore(), clock=time)
        async with browser(stage.app(fallback)) as two:
            two.cookies.update(one.cookies)
            await two.get("/clear")
            await two.get("/put")
            stage.role.permissions = permissions
            stage.role.forget()
            time.now += 60
            await two.get("/look")
            await settled(fallback)
            await two.get("/look")


PATHS: dict[str, tuple[set[Permission], Path]] = {
    "it is asked whether the table answers": ({GET}, probe),
    "its health is asked for": ({GET}, health),
    "nobody's": (set(), visits("look")),
    "nobody's, ended": (set(), visits("clear")),
    "forged": (set(), visits(with_a_forged_cookie, "look")),
    "created": ({PUT}, visits("put")),
    "created and bound": ({PUT}, visits("bind")),
    "read": ({GET}, visits("put", "look")),
    "read from a copy": ({GET}, visits("put", "look", consistent_read=False)),
    "touched": ({GET, UPDATE}, visits("put", later, "look")),
    "changed": ({GET, UPDATE}, visits("put", "change")),
    "changed in many keys": ({GET, UPDATE}, visits("put", "many")),
    "changed late": ({GET, UPDATE}, visits("put", "stream")),
    "saved early": ({GET, UPDATE}, visits("put", later, "save")),
    "given another lifetime": ({GET, UPDATE}, visits("put", "remember")),
    "one of its keys removed": ({GET, UPDATE}, visits("put", "remove")),
    "emptied": ({GET, DELETE}, visits("put", "empty")),
    "emptied while another changes it": ({GET, DELETE, UPDATE}, visits("put", "empty_while_changed")),
    "ended": ({GET, DELETE}, visits("put", "clear")),
    "ended by a request that fails": ({GET, DELETE}, visits("put", "clear_and_fail")),
    "ended and begun anew": ({GET, PUT}, visits("put", "refill")),
    "regenerated": ({GET, PUT}, visits("put", "regenerate")),
    "regenerated while another changes it": ({GET, PUT}, visits("put", "regenerate_while_changed")),
    "bound": ({GET, PUT}, visits("put", "bind")),
    "expired": ({GET}, visits("put", *[later] * 4, "look")),
    "too old": ({GET, DELETE}, too_old),
    "of the older layout": ({GET}, visits("put", older_layout, "look")),
    "of the older layout, touched": ({GET, UPDATE}, visits("put", older_layout, later, "look")),
    "of the older layout, changed": ({GET, UPDATE}, visits("put", older_layout, "change")),
    "of the older layout, bound": ({GET, PUT}, visits("put", older_layout, "bind")),
    "of the older layout, ended": ({GET, DELETE}, visits("put", older_layout, "clear")),
    "adopted from Starlette's cookie": (
        {GET, PUT},
        visits(with_starlettes_cookie, "look", import_cookie="session", import_secret_key=OLD_KEY),
    ),
    "created outside a request by two at once": ({GET, PUT, UPDATE}, created_at_once),
    "one too many": (
        {PUT, QUERY, DELETE},
        visits("bind", another_browser, "bind", max_sessions_per_owner=1),
    ),
    "an owner's sessions are listed": ({GET, QUERY}, visits("bind", "devices")),
    "an owner's other sessions are ended": (
        {GET, UPDATE, QUERY, DELETE},
        visits("bind", another_browser, "bind", "others"),
    ),
    "the policy is attached late": ({GET, PUT, DELETE}, permitted_late),
}
COMMANDS = {
    "check": {GET, PUT, UPDATE, DELETE, QUERY, SCAN, DESCRIBE, DESCRIBE_TTL, DESCRIBE_BACKUPS},
    "list": {SCAN},
    "list --owner acme/alice": {QUERY, BATCH_GET},
    "list --owner acme/alice --sizes": {QUERY, GET},
    "show alice": {GET},
    "revoke alice": {GET, DELETE},
    "revoke --owner acme/alice": {QUERY, GET, UPDATE, DELETE},
    "show alice --owner acme/alice": {QUERY, GET},
    "revoke alice --owner acme/alice": {QUERY, GET, DELETE},
    "purge-expired": {SCAN, DELETE},
}


def of_table(permissions: set[Permission], table_name: str) -> set[Permission]:
    return {(action, table_name + index) for action, index in permissions}


CONVERSING = {GET, PUT, UPDATE, DELETE, QUERY, ("dynamodb:Query", ""), ("dynamodb:BatchWriteItem", "")}


async def test_the_policy_of_conversations_is_enough_and_allows_nothing_else(
    client: Any, dynamodb: Any, table_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table_schema.create(dynamodb, table_name, conversations=True)
    role = Role(granted(iam.render(Target(table_name, "us-east-1", conversations=True))))
    role.assume(client)
    try:
        conversation = DynamoDBConversation("c", table_name, client=client, owner="acme/alice", ttl_seconds=60)
        await conversation.add_items([{"n": 1}])
        await conversation.add_items([{"n": 2}, {"n": 3}], token="turn")
        await conversation.add_items([{"n": 2}, {"n": 3}], token="turn")
        assert [
            each.session_id async for each in DynamoDBConversation.of_owner("acme/alice", table_name, client=client)
        ]
        monkeypatch.setattr(conversation_module, "wall_clock", lambda: int(time.time()) + 50)
        assert await conversation.get_items() == [{"n": 1}, {"n": 2}, {"n": 3}], "and the conversation is renewed"
        assert await conversation.pop_item() == {"n": 3}
        assert [message.item async for message in conversation.messages()] == await conversation.get_items()
        await conversation.clear_session()
        assert await conversation.get_items() == []
    finally:
        role.leave(client)
    assert role.denied == set()
    assert role.used == role.permissions == of_table(CONVERSING, table_name)


@pytest.fixture(scope="module")
def client(moto_url: str) -> Any:
    """A client as a store builds it."""
    return DynamoDBStore("sessions", endpoint_url=moto_url).client


@pytest.fixture
def stage(client: Any, dynamodb: Any, table_name: str, clock: Clock) -> Iterator[Stage]:
    """A table of its own, and the role of an app that was given what `dynamodb-sessions emit iam` prints."""
    table_schema.create(dynamodb, table_name)
    clock.now = wall_clock()
    role = Role(granted(iam.render(Target(table_name, "us-east-1"))))
    role.assume(client)
    yield Stage(role, table_name, client, dynamodb, clock)
    role.leave(client)


@pytest.mark.parametrize("path", PATHS)
async def test_the_policy_is_enough(stage: Stage, path: str) -> None:
    needs, walk = PATHS[path]
    await walk(stage)
    assert stage.role.denied == set()
    assert stage.role.used == of_table(needs, stage.table_name)


def test_the_policy_allows_nothing_else(stage: Stage) -> None:
    assert stage.role.permissions == of_table(set().union(*(needs for needs, _ in PATHS.values())), stage.table_name)


@pytest.mark.parametrize(
    ("permission", "path"),
    [
        (GET, "it is asked whether the table answers"),
        (PUT, "created"),
        (UPDATE, "touched"),
        (DELETE, "ended"),
        (QUERY, "one too many"),
    ],
)
async def test_the_role_has_no_permission_but_those_of_its_policy(
    stage: Stage, permission: Permission, path: str
) -> None:
    """Or all of the above would prove nothing."""
    missing = of_table({permission}, stage.table_name)
    stage.role.permissions -= missing
    await PATHS[path][1](stage)
    assert stage.role.denied == missing


@pytest.fixture
def operator(dynamodb: Any, table_name: str, moto_url: str, monkeypatch: pytest.MonkeyPatch) -> Role:
    """The role of whoever uses the command line, on a table with a live session and an expired one."""
    table_schema.create(dynamodb, table_name)
    now = wall_clock()
    for name, expires_at in (("alice", now + 3600), ("expired", now - 1)):
        record = Record(name, {}, now - 10, expires_at, owner="acme/alice")
        dynamodb.put_item(TableName=table_name, Item=item_format.from_record(record))
    role = Role(granted(iam.render(Target(table_name, "us-east-1"), operator=True)))
    build = Boto3Transport._build

    def build_and_assume(transport: Boto3Transport) -> Any:
        client = build(transport)
        role.assume(client)
        return client

    monkeypatch.setattr(Boto3Transport, "_build", build_and_assume)
    monkeypatch.setenv("DYNAMODB_ENDPOINT_URL", moto_url)
    return role


@pytest.mark.parametrize("command", COMMANDS)
def test_the_operators_policy_is_enough(operator: Role, table_name: str, command: str) -> None:
    assert cli.main(["--table", table_name, *command.split()]) == 0
    assert operator.denied == set()
    assert operator.used == of_table(COMMANDS[command], table_name)


def test_a_role_that_may_not_read_many_at_once_lists_an_owners_all_the_same(
    operator: Role, table_name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As an app's role, and an operator's of an older policy: it reads one by one."""
    operator.permissions -= of_table({BATCH_GET}, table_name)
    assert cli.main(["--table", table_name, "list", "--owner", "acme/alice"]) == 0
    assert operator.denied == of_table({BATCH_GET}, table_name)
    assert "acme/alice" in capsys.readouterr().out


def test_the_operators_policy_allows_nothing_else(operator: Role, table_name: str) -> None:
    assert operator.permissions == of_table(set().union(*COMMANDS.values()), table_name)
