"""The transport without threads, in what is its own. What it shares with boto3's, the suites of every store show."""

import asyncio
import gc
import logging
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import HTTPServer
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import boto3
import pytest
from aiodynamo.client import Client
from aiodynamo.credentials import ChainCredentials, Credentials, Key, StaticCredentials
from aiodynamo.http.types import HttpImplementation
from botocore.credentials import CredentialResolver, RefreshableCredentials
from yarl import URL

from dynamodb_sessions import ConfigurationError, DynamoDBStore, SessionError, StoreUnavailable
from dynamodb_sessions.aws import circuit_breaker, loop_connections
from dynamodb_sessions.aws.errors import NotAsked
from dynamodb_sessions.aws.loop_connections import Pool
from dynamodb_sessions.aws.threads import MAX_CONCURRENT_CALLS
from dynamodb_sessions.identifiers import new_id
from dynamodb_sessions.stores.contract import Record
from tests.helpers.aiodynamo_clients import never
from tests.helpers.answering import answering
from tests.helpers.proxy import How, Proxy, Step

pytestmark = pytest.mark.anyio

NOW = 1_800_000_000


@pytest.fixture
def boto3_finds_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a file that may say more than the environment."""
    path = tmp_path / "credentials"
    path.write_text("[default]\naws_access_key_id = testing\naws_secret_access_key = testing\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))


@pytest.fixture
def store(moto_url: str, table_name: str) -> DynamoDBStore:
    return DynamoDBStore(table_name, endpoint_url=moto_url, create_table=True, client="async")


async def write_and_read(store: DynamoDBStore) -> None:
    record = Record(new_id(), {"a": "1"}, NOW, NOW + 100)
    assert await store.create(record, now=NOW)
    assert await store.load(record.id, now=NOW) == record


async def session_of_this_loop() -> aiohttp.ClientSession:
    return (await Pool.of_this_loop()).session


def test_connections_close_with_their_event_loop(store: DynamoDBStore) -> None:
    """Neither a warning about one that was left open, nor one that was."""

    async def use() -> aiohttp.ClientSession:
        await write_and_read(store)
        return await session_of_this_loop()

    one, other = asyncio.run(use()), asyncio.run(use())
    assert one is not other
    assert one.closed
    assert other.closed
    gc.collect()


def test_a_closed_event_loop_is_forgotten(store: DynamoDBStore) -> None:
    async def use() -> "weakref.ref[Any]":
        await write_and_read(store)
        return weakref.ref(asyncio.get_running_loop())

    first = asyncio.run(use())
    asyncio.run(use())
    gc.collect()
    assert first() is None


def test_event_loops_at_once_have_connections_of_their_own(store: DynamoDBStore) -> None:
    both = threading.Barrier(2)
    failures: list[BaseException] = []

    async def use() -> None:
        for _ in range(20):
            both.wait(10)
            await write_and_read(store)

    def run() -> None:
        try:
            asyncio.run(use())
        except BaseException as error:  # noqa: BLE001 - it is to be seen
            failures.append(error)
            both.abort()

    assert store.probe()
    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []


def test_stores_of_one_event_loop_share_its_connections(moto_url: str, table_name: str) -> None:
    proxy = Proxy(moto_url)

    async def use() -> None:
        for _ in range(10):
            store = DynamoDBStore(table_name, endpoint_url=proxy.url, client="async")
            await store.load(new_id(), now=NOW)

    try:
        assert DynamoDBStore(table_name, endpoint_url=moto_url, create_table=True).probe()
        asyncio.run(use())
        assert proxy.connections == 1
    finally:
        proxy.close()


def test_it_is_probed_inside_a_running_event_loop(store: DynamoDBStore) -> None:
    """As an app that uvicorn imports does it."""

    async def probe() -> bool:
        return store.probe()

    assert asyncio.run(probe())
    assert store.mode == "dynamodb"


def test_trio_is_refused_by_name(store: DynamoDBStore) -> None:
    assert store.probe()
    with pytest.raises(ConfigurationError, match="asyncio"):
        anyio.run(write_and_read, store, backend="trio")


def test_a_client_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="client='asink'"):
        DynamoDBStore("sessions", client="asink")


@pytest.mark.parametrize("missing", ["yarl", "aiohttp"])
def test_what_is_not_installed_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == missing]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "dynamodb_sessions.aws.async_transport")
    with pytest.raises(ConfigurationError, match=rf"{missing}.*dynamodb-sessions\[async\]"):
        DynamoDBStore("sessions", client="async")


def test_without_a_region_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION")
    store = DynamoDBStore("sessions", client="async")
    assert not store.probe()
    assert "NoRegionError" in store.mode_reason


def test_without_credentials_it_says_so(moto_url: str, table_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    store = DynamoDBStore(table_name, endpoint_url=moto_url, client="async")
    assert not store.probe()
    assert isinstance(store.probe_error, ConfigurationError)
    assert "credentials" in store.mode_reason


def test_an_aiodynamo_client_lends_its_region_endpoint_and_credentials(
    store: DynamoDBStore, moto_url: str, table_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store.probe()
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")

    proxy = Proxy(moto_url)
    try:
        client = Client(never, StaticCredentials(Key("its-own", "secret")), "us-east-1", URL(proxy.url))
        asyncio.run(write_and_read(DynamoDBStore(table_name, client=client)))
    finally:
        proxy.close()
    assert proxy.requests == ["PutItem", "GetItem"]
    assert all("Credential=its-own/" in sent for sent in proxy.authorizations)


@pytest.mark.usefixtures("boto3_finds_credentials")
def test_credentials_are_renewed_in_a_thread(store: DynamoDBStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop has other things to do than to wait for a metadata service."""
    renewed: list[threading.Thread] = []

    def renew() -> dict[str, str]:
        renewed.append(threading.current_thread())
        soon = datetime.now(UTC) + timedelta(hours=6)
        return {"access_key": "new", "secret_key": "new", "token": "new", "expiry_time": soon.isoformat()}

    gone = datetime.now(UTC) - timedelta(hours=1)
    credentials = RefreshableCredentials("old", "old", "old", gone, renew, "test")
    monkeypatch.setattr(boto3.Session, "get_credentials", lambda _: credentials)

    async def use() -> None:
        for _ in range(3):
            await write_and_read(store)

    assert store.probe()
    asyncio.run(use())
    assert len(renewed) == 1
    assert renewed[0] is not threading.main_thread()


@pytest.mark.usefixtures("boto3_finds_credentials")
def test_credentials_are_followed_whenever_they_change(
    store: DynamoDBStore, moto_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And each time their renewal is left to a thread."""
    renewed: list[threading.Thread] = []

    def renew() -> dict[str, str]:
        renewed.append(threading.current_thread())
        key, soon = f"key{len(renewed)}", datetime.now(UTC) + timedelta(seconds=60)
        return {"access_key": key, "secret_key": key, "token": key, "expiry_time": soon.isoformat()}

    proxy = Proxy(moto_url)
    watched = DynamoDBStore(store.table_name, endpoint_url=proxy.url, client="async")
    gone = datetime.now(UTC) - timedelta(hours=1)
    credentials = RefreshableCredentials("old", "old", "old", gone, renew, "test")
    monkeypatch.setattr(boto3.Session, "get_credentials", lambda _: credentials)

    async def use() -> None:
        for _ in range(4):
            assert await watched.load(new_id(), now=NOW) is None

    assert store.probe()
    renewed.clear()
    try:
        asyncio.run(use())
    finally:
        proxy.close()
    assert len(renewed) == 4
    assert threading.main_thread() not in renewed
    keys = [sent.partition("Credential=")[2].partition("/")[0] for sent in proxy.authorizations]
    assert keys == ["key1", "key2", "key3", "key4"]


@pytest.mark.usefixtures("boto3_finds_credentials")
def test_while_credentials_are_being_renewed_those_that_still_hold_do(
    store: DynamoDBStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_end = threading.Event()

    def renew() -> dict[str, str]:
        may_end.wait(10)
        soon = datetime.now(UTC) + timedelta(hours=6)
        return {"access_key": "new", "secret_key": "new", "token": "new", "expiry_time": soon.isoformat()}

    soon = datetime.now(UTC) + timedelta(minutes=12)
    credentials = RefreshableCredentials("old", "old", "old", soon, renew, "test")

    async def use() -> list[object]:
        renewing = asyncio.create_task(store.load(new_id(), now=NOW))
        await asyncio.sleep(0.1)
        try:
            async with asyncio.timeout(4):
                return [await store.load(new_id(), now=NOW) for _ in range(5)]
        finally:
            may_end.set()
            assert await renewing is None

    assert store.probe()
    monkeypatch.setattr(store._calls._transport._credentials, "_found", credentials)  # type: ignore[attr-defined]
    assert asyncio.run(use()) == [None] * 5


@pytest.mark.usefixtures("boto3_finds_credentials")
def test_credentials_are_looked_for_once_however_many_want_them(
    moto_url: str, table_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert DynamoDBStore(table_name, endpoint_url=moto_url, create_table=True).probe()
    found = boto3.Session().get_credentials()
    looked: list[float] = []

    def look(_: CredentialResolver) -> Any:
        looked.append(time.monotonic())
        time.sleep(0.05)
        return found

    monkeypatch.setattr(CredentialResolver, "load_credentials", look)
    store = DynamoDBStore(table_name, endpoint_url=moto_url, client="async")

    async def use() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(store.load(new_id(), now=NOW))

    asyncio.run(use())
    assert len(looked) == 1


@pytest.mark.usefixtures("boto3_finds_credentials")
async def test_who_waits_for_credentials_that_hang_keeps_no_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    may_end = threading.Event()
    hanging = DynamoDBStore("sessions", endpoint_url="http://127.0.0.1:9", client="async", timeout=0.1)
    monkeypatch.setattr(boto3.Session, "get_credentials", lambda _: may_end.wait(30))
    monkeypatch.setattr(circuit_breaker, "FAILURES", 1000)
    failures: list[StoreUnavailable] = []
    before = threading.active_count()

    async def load() -> None:
        with pytest.raises(StoreUnavailable) as raised:
            await hanging.load(new_id(), now=NOW)
        failures.append(raised.value)

    try:
        for _ in range(3):
            async with asyncio.TaskGroup() as group:
                for _ in range(30):
                    group.create_task(load())
            await asyncio.sleep(0.2)
        assert threading.active_count() < before + 60, "as many as there were at once, and not one for each call"
    finally:
        may_end.set()
    assert len(failures) == 90


@pytest.mark.usefixtures("boto3_finds_credentials")
async def test_credentials_that_do_not_come_are_an_outage(
    store: DynamoDBStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a lack of turns, so the breaker hears of it; and the app's own threads are not what hangs."""
    may_end = threading.Event()

    def hang(_: boto3.Session) -> None:
        may_end.wait(10)

    hanging = DynamoDBStore(store.table_name, endpoint_url="http://127.0.0.1:9", client="async", timeout=0.05)
    monkeypatch.setattr(boto3.Session, "get_credentials", hang)
    try:
        for _ in range(circuit_breaker.FAILURES):
            with pytest.raises(StoreUnavailable, match="credentials") as raised:
                await hanging.load(new_id(), now=NOW)
            assert type(raised.value) is StoreUnavailable
        assert hanging._calls._breaker.is_open
        async with asyncio.timeout(5):
            assert await asyncio.to_thread(threading.active_count) > 1
    finally:
        may_end.set()


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN"])
@pytest.mark.parametrize("client", [None, "async"], ids=["boto3", "async"])
async def test_credentials_that_cannot_be_sent_are_named_and_not_shown(
    moto_url: str, client: str | None, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As from a file that ends with a line break."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv(name, "hush-hush\n")
    store = DynamoDBStore("sessions", endpoint_url=moto_url, client=client)
    with pytest.raises(ConfigurationError, match="line break") as raised:
        await store.load(new_id(), now=NOW)
    assert not store.probe()
    shown = f"{raised.value!r} {raised.value.__cause__!r} {store.mode_reason} {(await store.health()).reason}"
    assert "hush-hush" not in shown + caplog.text


async def test_a_bundle_of_authorities_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", "/nowhere/ca.pem")
    with pytest.raises(ConfigurationError, match=r"AWS_CA_BUNDLE='/nowhere/ca\.pem'"):
        loop_connections.trusted_authorities()


def test_who_has_no_turn_does_not_wait_for_ever(store: DynamoDBStore) -> None:
    """Though there are credentials, so that nothing else is to be waited for."""

    async def use() -> None:
        quick = DynamoDBStore(
            store.table_name, endpoint_url=store.client.meta.endpoint_url, client="async", timeout=1.5
        )
        assert await quick.load(new_id(), now=NOW) is None
        pool = await Pool.of_this_loop()
        for _ in range(MAX_CONCURRENT_CALLS):
            await pool.slots.acquire()
        async with asyncio.timeout(60):
            with pytest.raises(NotAsked):
                await quick.load(new_id(), now=NOW)

    assert store.probe()
    asyncio.run(use())


def test_more_calls_than_can_be_made_are_no_outage(store: DynamoDBStore, moto_url: str) -> None:
    """Those whose turn does not come fail; DynamoDB was not asked, so the breaker does not hear of them."""
    proxy = Proxy(moto_url)
    busy = DynamoDBStore(store.table_name, endpoint_url=proxy.url, client="async", timeout=1.0)

    async def use() -> list[BaseException | Record | None]:
        proxy.play("GetItem", rest=Step(How.NEVER))
        async with asyncio.TaskGroup() as group:
            holding = [group.create_task(hold()) for _ in range(MAX_CONCURRENT_CALLS)]
            await asyncio.sleep(0)
            loads = [group.create_task(attempt()) for _ in range(circuit_breaker.FAILURES)]
            results = [await load for load in loads]
            for task in holding:
                task.cancel()
        return results

    async def hold() -> None:
        pool = await Pool.of_this_loop()
        async with pool.slots:
            await asyncio.sleep(60)

    async def attempt() -> BaseException | Record | None:
        try:
            return await busy.load(new_id(), now=NOW)
        except StoreUnavailable as error:
            return error

    assert store.probe()
    try:
        results = asyncio.run(use())
    finally:
        proxy.close()
    assert [type(result) for result in results] == [NotAsked] * circuit_breaker.FAILURES
    assert not busy._calls._breaker.is_open
    assert proxy.requests == []


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"__type":1}', b'{"message":"no type"}'])
async def test_a_refusal_that_says_nothing_is_an_outage(body: bytes) -> None:
    with pytest.raises(StoreUnavailable, match="nothing it can name"):
        await load_from(answering(400, body))


async def load_from(server: HTTPServer) -> None:
    with server, ThreadPoolExecutor(1) as thread:
        serving = thread.submit(server.serve_forever, 0.01)
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            await DynamoDBStore("sessions", endpoint_url=url, client="async").load(new_id(), now=NOW)
        finally:
            server.shutdown()
            serving.result()


class Renewable(Credentials):
    """Credentials that are newer once they were invalidated, if they can be."""

    def __init__(self, *, renewable: bool) -> None:
        self._key = Key("old", "secret")
        self._renewable = renewable

    async def get_key(self, _: HttpImplementation) -> Key:
        return self._key

    def invalidate(self) -> bool:
        self._key = Key("new", "secret")
        return self._renewable

    def is_disabled(self) -> bool:
        return False


@pytest.mark.parametrize(
    ("error", "renewable", "expected"),
    [
        ((400, "ExpiredTokenException"), True, ["old", "new"]),
        ((400, "ExpiredTokenException"), False, ["old"]),
        ((400, "ThrottlingException"), False, ["old", "old"]),
        ((400, "ProvisionedThroughputExceededException"), False, ["old", "old"]),
        ((400, "RequestLimitExceeded"), False, ["old", "old"]),
        ((503, "ServiceUnavailable"), False, ["old", "old"]),
        ((400, "AccessDeniedException"), True, ["old"]),
    ],
)
async def test_what_may_go_better_the_next_time_is_tried_again(
    store: DynamoDBStore, moto_url: str, error: tuple[int, str], renewable: bool, expected: list[str]
) -> None:
    assert store.probe()
    proxy = Proxy(moto_url)
    proxy.play("GetItem", [Step(How.ANOTHER, applied=False, error=error)])
    client = Client(never, Renewable(renewable=renewable), "us-east-1", URL(proxy.url))
    try:
        load = DynamoDBStore(store.table_name, client=client).load(new_id(), now=NOW)
        if len(expected) == 1:
            with pytest.raises(SessionError, match=error[1]):
                await load
        else:
            assert await load is None
    finally:
        proxy.close()
    assert [sent.partition("Credential=")[2].partition("/")[0] for sent in proxy.authorizations] == expected


async def test_what_aiodynamo_says_of_its_credentials_is_withheld(
    store: DynamoDBStore, moto_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert store.probe()
    caplog.set_level(logging.DEBUG)
    chain = ChainCredentials([StaticCredentials(Key("an-id", "a-secret"))])
    client = Client(never, chain, "us-east-1", URL(moto_url))
    assert await DynamoDBStore(store.table_name, client=client).load(new_id(), now=NOW) is None
    said = [record.getMessage() for record in caplog.records if record.name.startswith("aiodynamo")]
    assert said
    assert not any("an-id" in line or "a-secret" in line for line in said)


def test_a_cancelled_call_leaves_the_connections_usable(store: DynamoDBStore, moto_url: str) -> None:
    proxy = Proxy(moto_url)
    mine = DynamoDBStore(store.table_name, endpoint_url=proxy.url, client="async")

    async def use() -> int:
        await write_and_read(mine)
        proxy.play("GetItem", rest=Step(How.NEVER))
        for _ in range(2 * MAX_CONCURRENT_CALLS):
            with anyio.move_on_after(0.001):
                await mine.load(new_id(), now=NOW)
        proxy.heal()
        before = time.monotonic()
        await write_and_read(mine)
        assert time.monotonic() - before < mine._calls._transport.timeout
        return (await Pool.of_this_loop()).slots._value

    assert store.probe()
    try:
        assert asyncio.run(use()) == MAX_CONCURRENT_CALLS
    finally:
        proxy.close()
