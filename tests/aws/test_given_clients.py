"""Clients that an app brings: which are refused, what is repeated, and that the app's own calls stay as they are."""

import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import anyio
import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.stub import Stubber

from dynamodb_sessions import ConfigurationError, DynamoDBStore, StoreUnavailable
from dynamodb_sessions.aws.errors import OutcomeUnknown, Refused
from dynamodb_sessions.aws.transport import Transport, open_transport
from dynamodb_sessions.identifiers import new_id
from dynamodb_sessions.stores import table_schema
from dynamodb_sessions.stores.contract import Changes, Record
from tests.helpers import aiobotocore_clients
from tests.helpers.proxy import How, Proxy, Step

pytestmark = pytest.mark.anyio

NOW = 1_800_000_000

Connect = Callable[..., Any]

LOST = [Step(how, applied) for how in (How.RESET, How.DROPPED, How.TRUNCATED) for applied in (True, False)]
SERVER_ERRORS = [
    Step(How.ANOTHER, applied, error) for applied in (True, False) for error in [(500, "InternalServerError")]
]
THROTTLED = [
    Step(How.ANOTHER, applied=False, error=(400, code))
    for code in ("ProvisionedThroughputExceededException", "ThrottlingException", "TransactionConflictException")
]


def boto3_client(url: str, **config: Any) -> Any:
    return boto3.client("dynamodb", endpoint_url=url, region_name="us-east-1", config=Config(**config))


@pytest.fixture(params=["boto3", *aiobotocore_clients.IF_INSTALLED])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Connect]:
    """Return a function that makes a client, as an app does."""
    async with AsyncExitStack() as opened:

        async def connect(url: str, **config: Any) -> Any:
            if request.param == "boto3":
                return boto3_client(url, **config)
            return await opened.enter_async_context(aiobotocore_clients.open_client(url, **config))

        yield connect


async def ended(answer: Any) -> Any:
    """Return what a call of either client answers."""
    return await answer if hasattr(answer, "__await__") else answer


@pytest.fixture(scope="module")
def proxy(dynamodb_local_url: str) -> Iterator[Proxy]:
    made = Proxy(dynamodb_local_url)
    yield made
    made.close()


@pytest.fixture
def faulty(proxy: Proxy) -> Iterator[Proxy]:
    proxy.requests.clear()
    yield proxy
    proxy.heal()


@pytest.fixture
def own_table(dynamodb_local_url: str, table_name: str) -> str:
    table_schema.create(boto3_client(dynamodb_local_url), table_name)
    return table_name


def calls(table_name: str) -> dict[str, dict[str, Any]]:
    """Return a call of every kind that writes, and one that does not."""
    where: dict[str, Any] = {"TableName": table_name}
    key = {"session_id": {"S": new_id()}}
    return {
        "get_item": where | {"Key": key},
        "put_item": where | {"Item": key},
        "update_item": where
        | {"Key": key, "UpdateExpression": "ADD version :1"}
        | {"ExpressionAttributeValues": {":1": {"N": "1"}}},
        "delete_item": where | {"Key": key},
        "transact_write_items": {"TransactItems": [{"Put": where | {"Item": {"session_id": {"S": new_id()}}}}]},
    }


async def fails(transport: Transport, name: str, parameters: dict[str, Any]) -> Exception:
    """Make one attempt, and return how it failed."""
    with pytest.raises(StoreUnavailable) as caught:
        await transport.call(name, deadline=time.monotonic() + 3, **parameters)
    return caught.value


MODES = pytest.mark.parametrize(
    "retries",
    [
        {"mode": mode, "max_attempts": attempts}
        for mode, attempts in itertools.product(("legacy", "standard", "adaptive"), (1, 3, 6))
    ],
    ids=lambda retries: f"{retries['mode']} {retries['max_attempts']}",
)


@MODES
async def test_a_client_sends_no_call_of_ours_twice(
    retries: dict[str, Any], connect: Connect, faulty: Proxy, own_table: str
) -> None:
    """What becomes of a write whose reply was lost is not known, nor what a 500 means."""
    transport = open_transport(await connect(faulty.url, retries=retries))
    for name, parameters in calls(own_table).items():
        operation = name.title().replace("_", "")
        for step in LOST + SERVER_ERRORS:
            faulty.play(operation, [step])
            assert isinstance(await fails(transport, name, parameters), OutcomeUnknown)
        assert faulty.requests.count(operation) == len(LOST + SERVER_ERRORS)


@MODES
async def test_what_was_refused_is_known_not_to_be_written(
    retries: dict[str, Any], connect: Connect, faulty: Proxy, own_table: str
) -> None:
    """The client does not wait to repeat it by itself, and its second attempt is not taken for the first."""
    transport = open_transport(await connect(faulty.url, retries=retries))
    for name, parameters in calls(own_table).items():
        operation = name.title().replace("_", "")
        for step in THROTTLED:
            faulty.play(operation, [step])
            assert isinstance(await fails(transport, name, parameters), Refused)
        assert faulty.requests.count(operation) == len(THROTTLED)


@MODES
async def test_a_write_that_is_throttled_five_times_is_made(
    retries: dict[str, Any], connect: Connect, faulty: Proxy, own_table: str
) -> None:
    store = DynamoDBStore(own_table, client=await connect(faulty.url, retries=retries))
    record = Record(new_id(), {"a": "1"}, NOW, NOW + 100)
    faulty.play("PutItem", [THROTTLED[0]] * 5)
    assert await store.create(record, now=NOW)
    faulty.play("UpdateItem", [THROTTLED[1]] * 5)
    changed = await store.update(record, Changes(NOW + 100, set={"b": "2"}), now=NOW)
    assert changed is not None
    assert changed.data == {"a": "1", "b": "2"}
    assert [faulty.requests.count(name) for name in ("PutItem", "UpdateItem")] == [6, 6]


@MODES
async def test_our_failures_leave_the_client_its_repetitions(
    retries: dict[str, Any], connect: Connect, faulty: Proxy, own_table: str
) -> None:
    """The standard mode has a quota of them, which the app's own calls need."""
    client = await connect(faulty.url, retries=retries)
    transport = open_transport(client)
    call = {"TableName": own_table, "Item": {"session_id": {"S": new_id()}}}
    faulty.play("PutItem", rest=SERVER_ERRORS[1])
    for _ in range(120):
        await fails(transport, "put_item", call)
    faulty.requests.clear()
    faulty.play("PutItem", [SERVER_ERRORS[1]])
    await ended(client.put_item(**call))
    assert faulty.requests == ["PutItem"] * 2


async def test_nothing_is_sent_after_the_deadline_though_the_client_waits_before(
    connect: Connect, faulty: Proxy, own_table: str
) -> None:
    """As the adaptive mode does, in the last handler before a request is sent."""
    client = await connect(faulty.url, retries={"mode": "adaptive"})
    client.meta.events.register_first("before-send", lambda **_: time.sleep(0.4))
    transport = open_transport(client)
    for name, parameters in calls(own_table).items():
        with pytest.raises(StoreUnavailable):
            await transport.call(name, deadline=time.monotonic() + 0.1, **parameters)
    await anyio.sleep(0.5)
    assert faulty.requests == []


async def test_the_apps_own_calls_are_what_they_were(connect: Connect, faulty: Proxy, own_table: str) -> None:
    """Repeated by the client as it is set to, and answered by whatever answers."""
    client = await connect(faulty.url)
    store = DynamoDBStore(own_table, client=client)
    item = {"session_id": {"S": new_id()}}
    assert await store.load(new_id(), now=NOW) is None  # In this very task.
    faulty.play("PutItem", [SERVER_ERRORS[1], LOST[0]])
    await ended(client.put_item(TableName=own_table, Item=item))
    assert faulty.requests.count("PutItem") == 3
    found = await ended(client.get_item(TableName=own_table, Key=item))
    assert found["Item"] == item


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"message": "sorry"}'])
async def test_an_answer_to_the_app_is_not_looked_at(body: bytes, moto_url: str) -> None:
    class Raw:
        def stream(self, **_: Any) -> Iterator[bytes]:
            yield body

    client = boto3_client(moto_url)
    store = DynamoDBStore("sessions", client=client)
    client.meta.events.register("before-send", lambda **_: AWSResponse(moto_url, 200, {}, Raw()))
    said = client.get_item(TableName="sessions", Key={"session_id": {"S": "x"}})
    assert "Item" not in said
    with pytest.raises(StoreUnavailable):
        await store.load(new_id(), now=NOW)


@pytest.mark.parametrize("ours", [False, True])
async def test_a_reply_that_did_not_come_over_a_connection(moto_url: str, ours: bool) -> None:
    """As DAX's client has it, on the events of the session that it was made with, and as a stub has it."""
    client = boto3_client(moto_url)
    store = DynamoDBStore("sessions", client=client)
    model = client.meta.service_model.operation_model("GetItem")
    client.meta.events.emit("after-call.dynamodb.GetItem", http_response=None, parsed={}, model=model, context={})
    with Stubber(client) as stub:
        stub.add_response("get_item", {})
        if ours:
            assert await store.load(new_id(), now=NOW) is None
        else:
            assert client.get_item(TableName="sessions", Key={"session_id": {"S": "x"}}) == {}


class AmazonDaxClient:
    """What there is to see of DAX's client."""

    __module__ = "amazondax.AmazonDaxClient"

    def get_item(self, **_: Any) -> dict[str, Any]:
        return {}


def a_resource() -> Any:
    return boto3.resource("dynamodb", region_name="us-east-1")


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (AmazonDaxClient, "DAX.*repeats writes by itself"),
        (type("Own", (AmazonDaxClient,), {}), "DAX.*repeats writes by itself"),
        (a_resource, r"resource.*pass boto3\.client"),
        (lambda: a_resource().Table("sessions"), r"resource.*pass boto3\.client"),
        (lambda: a_resource().meta.client, r"meta\.client.*boto3\.client"),
        (lambda: a_resource().Table("sessions").meta.client, r"meta\.client.*boto3\.client"),
        (boto3.Session, r"Session, not a client.*boto3\.client"),
    ],
)
def test_what_looks_like_a_client_is_refused_in_words(make: Callable[[], Any], why: str) -> None:
    """Each would be accepted, and fail at the first request, or break a promise."""
    with pytest.raises(ConfigurationError, match=why):
        DynamoDBStore("sessions", client=make())


def test_a_client_is_accepted_though_a_resource_was_made_of_the_same_session() -> None:
    session = boto3.Session(region_name="us-east-1")
    session.resource("dynamodb")
    DynamoDBStore("sessions", client=session.client("dynamodb"))
