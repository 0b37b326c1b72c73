"""Clients of aiobotocore and aioboto3, in what is their own. The contract and the faults have suites over every client.

`tests/conftest.py` leaves this file out where aiobotocore is not installed, and says so.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

import anyio
import anyio.to_thread
import pytest
import trio
from aiobotocore.session import get_session

from dynamodb_sessions import ConfigurationError, DynamoDBStore, MemoryStore, StoreUnavailable
from dynamodb_sessions.aws.errors import NotAsked, OutcomeUnknown, Unreachable
from dynamodb_sessions.aws.transport import open_transport
from dynamodb_sessions.identifiers import new_id
from dynamodb_sessions.stores.contract import Record
from dynamodb_sessions.stores.fallback import FallbackStore
from tests.helpers.aiobotocore_clients import open_client
from tests.helpers.fallback import settled
from tests.helpers.proxy import How, Proxy, Step

pytestmark = pytest.mark.anyio

NOW = 1_800_000_000


@pytest.fixture
def proxy(moto_url: str) -> Iterator[Proxy]:
    made = Proxy(moto_url)
    yield made
    made.close()


@pytest.fixture
async def client(proxy: Proxy) -> AsyncIterator[Any]:
    async with open_client(proxy.url) as client:
        yield client


@pytest.fixture
def store(client: Any, table_name: str) -> DynamoDBStore:
    return DynamoDBStore(table_name, create_table=True, client=client)


async def write_and_read(store: DynamoDBStore) -> None:
    record = Record(new_id(), {"a": "1"}, NOW, NOW + 100)
    assert await store.create(record, now=NOW)
    loaded = await store.load(record.id, now=NOW)
    assert isinstance(loaded, Record)
    assert loaded.data == {"a": "1"}


async def test_a_client_of_aioboto3_is_one_of_aiobotocore(moto_url: str, table_name: str) -> None:
    import aioboto3  # noqa: PLC0415 - it lags behind aiobotocore

    async with aioboto3.Session().client("dynamodb", region_name="us-east-1", endpoint_url=moto_url) as client:
        await write_and_read(DynamoDBStore(table_name, create_table=True, client=client))


async def test_what_is_of_aioboto3_and_no_client_is_refused(moto_url: str) -> None:
    import aioboto3  # noqa: PLC0415 - as above

    session = aioboto3.Session()
    where: dict[str, Any] = {"region_name": "us-east-1", "endpoint_url": moto_url}
    async with session.resource("dynamodb", **where) as resource:
        for given, why in [
            (resource, "resource"),
            (await resource.Table("sessions"), "resource"),
            (resource.meta.client, r"meta\.client"),
            (session, "Session.*async with"),
            (get_session(), "AioSession.*async with"),
        ]:
            with pytest.raises(ConfigurationError, match=why):
                DynamoDBStore("sessions", client=given)


async def test_a_client_must_have_been_opened() -> None:
    opening = get_session().create_client("dynamodb", region_name="us-east-1")
    with pytest.raises(ConfigurationError, match=r"ClientCreatorContext.*async with"):
        DynamoDBStore("sessions", client=opening)
    async with opening as client:
        DynamoDBStore("sessions", client=client)


async def test_it_must_be_one_of_dynamodb() -> None:
    async with get_session().create_client("sqs", region_name="us-east-1") as client:
        with pytest.raises(ConfigurationError, match="not one of DynamoDB"):
            DynamoDBStore("sessions", client=client)


async def test_the_probe_blocks_where_the_event_loop_is(store: DynamoDBStore, proxy: Proxy) -> None:
    """It asks by a boto3 client of the same region, endpoint and credentials, and creates the table by it."""
    assert store.probe()
    assert proxy.requests[:2] == ["GetItem", "CreateTable"]
    await write_and_read(store)


async def test_the_probe_in_a_thread_asks_by_the_client_itself(
    store: DynamoDBStore, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write_and_read(store)
    other = DynamoDBStore(store.table_name, client=client)
    monkeypatch.setattr("boto3.Session", None)
    assert await anyio.to_thread.run_sync(other.probe)
    assert not await anyio.to_thread.run_sync(DynamoDBStore("no-such-table", client=client).probe)


def test_the_probe_answers_before_any_event_loop_runs(proxy: Proxy, table_name: str) -> None:
    async def opened() -> Any:
        return await open_client(proxy.url).__aenter__()

    store = DynamoDBStore(table_name, create_table=True, client=asyncio.run(opened()))
    assert store.probe()


class Frozen(NamedTuple):
    access_key: str
    secret_key: str
    token: str | None
    account_id: str | None = None


class Renewed:
    """Credentials that are others each time."""

    def __init__(self) -> None:
        self.given = 0

    async def get_frozen_credentials(self) -> Frozen:
        self.given += 1
        await asyncio.sleep(0)
        return Frozen(f"OWN{self.given}", "secret", None)


async def test_the_probe_has_the_credentials_of_the_client(
    store: DynamoDBStore, client: Any, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those it would sign with now, and no others that this machine has."""
    monkeypatch.setattr(client._request_signer, "_credentials", Renewed())
    for number in (1, 2):
        store._calls._transport.call_sync("list_tables")
        assert f"Credential=OWN{number}/" in proxy.authorizations[-1]


async def test_a_client_without_credentials_is_said_to_be_one(
    store: DynamoDBStore, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client._request_signer, "_credentials", None)
    assert not store.probe()
    assert "no AWS credentials" in store.mode_reason
    with pytest.raises(ConfigurationError, match="NoCredentialsError"):
        await store._calls._transport.call("get_item", deadline=time.monotonic() + 1, TableName="x", Key={})


async def test_credentials_that_cannot_be_sent_are_a_configuration(moto_url: str, table_name: str) -> None:
    async with get_session().create_client(
        "dynamodb",
        region_name="us-east-1",
        endpoint_url=moto_url,
        aws_access_key_id="AKIA\n",
        aws_secret_access_key="secret",
    ) as client:
        with pytest.raises(ConfigurationError, match="line break") as caught:
            await DynamoDBStore(table_name, client=client).load(new_id(), now=NOW)
    assert "AKIA" not in str(caught.value)


@pytest.mark.parametrize("how", [How.RESET, How.DROPPED, How.TRUNCATED, How.DRIPPED, How.NEVER])
async def test_a_connection_that_breaks_is_not_one_that_was_never_made(
    how: How, client: Any, proxy: Proxy, table_name: str
) -> None:
    """aiobotocore says of a reset that the endpoint could not be connected to. The write may be applied."""
    transport = open_transport(client, timeout=1.0)
    proxy.play("PutItem", [Step(how)])
    with pytest.raises(OutcomeUnknown):
        await transport.call("put_item", deadline=time.monotonic() + 1, TableName=table_name, Item={"id": {"S": "1"}})
    assert proxy.requests.count("PutItem") == 1


async def test_a_connection_that_cannot_be_made_is_known_to_be_none(table_name: str) -> None:
    async with open_client("http://127.0.0.1:9") as client:
        transport = open_transport(client)
        with pytest.raises(Unreachable):
            await transport.call("put_item", deadline=time.monotonic() + 1, TableName=table_name, Item={})


async def test_an_answer_that_does_not_come_is_given_up_in_time_to_find_out(store: DynamoDBStore, proxy: Proxy) -> None:
    """Though the client itself would wait for it for a minute."""
    await write_and_read(store)
    proxy.play("PutItem", [Step(How.NEVER)])
    await write_and_read(store)


async def test_what_is_cancelled_is_not_sent_again(store: DynamoDBStore, proxy: Proxy) -> None:
    await write_and_read(store)
    before = proxy.requests.count("PutItem")
    proxy.play("PutItem", rest=Step(How.NEVER, applied=False))
    with anyio.move_on_after(0.2):
        await store._calls._transport.call(
            "put_item", deadline=time.monotonic() + 5, TableName=store.table_name, Item={"session_id": {"S": "x"}}
        )
    proxy.heal()
    await anyio.sleep(0.5)
    assert proxy.requests.count("PutItem") == before + 1


async def test_other_event_loops_and_threads_send_by_the_loop_of_the_client(store: DynamoDBStore) -> None:
    """As the fallback's thread does that applies what has been logged out meanwhile."""
    await write_and_read(store)
    await anyio.to_thread.run_sync(lambda: asyncio.run(write_and_read(store)))


async def test_a_fallback_applies_what_was_logged_out_meanwhile(
    store: DynamoDBStore, client: Any, proxy: Proxy
) -> None:
    record = Record(new_id(), {"a": "1"}, NOW, NOW + 100)
    assert await store.create(record, now=NOW)
    again = DynamoDBStore(store.table_name, client=client)
    fallback = FallbackStore(again, MemoryStore(), clock=itertools.count(0.0, 100.0).__next__)
    proxy.play("*", rest=Step(How.DROPPED, applied=False))
    assert await fallback.load(record.id, now=NOW) is None
    await fallback.delete(record.id)
    proxy.heal()
    while fallback.mode != "dynamodb":
        await fallback.initialise()
        await settled(fallback)
    assert await store.load(record.id, now=NOW) is None


def test_an_event_loop_that_has_ended_is_said_to_be_what_is_wrong(moto_url: str, table_name: str) -> None:
    made: list[DynamoDBStore] = []

    async def begin() -> None:
        async with open_client(moto_url) as client:
            made.append(DynamoDBStore(table_name, create_table=True, client=client))
            await write_and_read(made[0])

    asyncio.run(begin())
    with pytest.raises(ConfigurationError, match="event loop"):
        asyncio.run(made[0].load(new_id(), now=NOW))


async def test_trio_is_said_to_be_what_is_wrong(store: DynamoDBStore) -> None:
    await write_and_read(store)
    with pytest.raises(ConfigurationError, match="asyncio"):
        await anyio.to_thread.run_sync(lambda: trio.run(_load, store))


async def _load(store: DynamoDBStore) -> None:
    await store.load(new_id(), now=NOW)


async def test_more_calls_than_the_client_has_connections_wait_their_turn(proxy: Proxy, table_name: str) -> None:
    """Who gets none in time was not answered by nobody: the breaker must not count it."""
    async with get_session().create_client("dynamodb", region_name="us-east-1", endpoint_url=proxy.url) as client:
        transport = open_transport(client, timeout=10.0)
        proxy.play("GetItem", rest=Step(How.NEVER))
        ends: list[type[Exception]] = []

        async def ask(seconds: float) -> None:
            with pytest.raises(StoreUnavailable) as caught:
                await transport.call("get_item", deadline=time.monotonic() + seconds, TableName=table_name, Key={})
            ends.append(caught.type)

        connections = client.meta.config.max_pool_connections
        async with anyio.create_task_group() as group:
            for _ in range(connections):
                group.start_soon(ask, 2.0)
            await anyio.sleep(0.5)
            for _ in range(3):
                group.start_soon(ask, 0.2)
    assert ends == [NotAsked] * 3 + [OutcomeUnknown] * connections


async def test_no_line_of_any_log_at_debug_tells_a_secret(
    store: DynamoDBStore, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await write_and_read(store)
    caplog.set_level(logging.DEBUG)
    record = Record(new_id(), {"a": '"a-secret"'}, NOW, NOW + 100)
    assert await store.create(record, now=NOW)
    assert await store.load(record.id, now=NOW)
    assert any(line.name.startswith("botocore") for line in caplog.records)
    for secret in (record.id, "a-secret", "Signature=", "AWS4-HMAC"):
        assert secret not in caplog.text
    await client.get_item(TableName=store.table_name, Key={"session_id": {"S": "somebody-else"}})
    assert "somebody-else" in caplog.text
