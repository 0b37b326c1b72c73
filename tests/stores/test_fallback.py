"""What happens while DynamoDB cannot be initialised, and once it can."""

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import anyio
import boto3
import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import Message

from dynamodb_sessions import (
    ConfigurationError,
    DynamoDBSessionMiddleware,
    DynamoDBStore,
    MemoryStore,
    StoreUnavailable,
)
from dynamodb_sessions.identifiers import new_id
from dynamodb_sessions.stores import table_schema
from dynamodb_sessions.stores.contract import Changes, Party, Record
from dynamodb_sessions.stores.fallback import FallbackStore
from tests.conftest import KEY
from tests.helpers.fallback import Primary, Time, healed, settled
from tests.helpers.proxy import How, Proxy, Step

pytestmark = pytest.mark.anyio

NOW = 1_800_000_000


def a_record(**data: str) -> Record:
    return Record(new_id(), data, NOW, NOW + 100)


@pytest.fixture
def hole() -> Iterator[str]:
    """An endpoint that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def broken(
    request: pytest.FixtureRequest, moto_url: str, table_name: str, monkeypatch: pytest.MonkeyPatch
) -> DynamoDBStore:
    """A store that cannot be initialised, each for a reason of its own."""
    name = request.param
    if name == "no region":
        monkeypatch.delenv("AWS_REGION")
        return DynamoDBStore(table_name)
    if name == "no credentials":
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        return DynamoDBStore(table_name, endpoint_url=moto_url)
    if name == "wrong key":
        client = boto3.client("dynamodb", endpoint_url=moto_url, region_name="us-east-1")
        client.create_table(
            TableName=table_name,
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
    if name == "no answer":
        return DynamoDBStore(table_name, endpoint_url=request.getfixturevalue("hole"), timeout=1)
    if name == "refused":
        return DynamoDBStore(table_name, endpoint_url="http://127.0.0.1:1")
    return DynamoDBStore(table_name, endpoint_url=moto_url)


every_way = pytest.mark.parametrize(
    ("broken", "cause"),
    [
        ("no region", "You must specify a region"),
        ("no credentials", "Unable to locate credentials"),
        ("no table", "ResourceNotFoundException: create the table"),
        ("wrong key", "ValidationException: its partition key must be session_id"),
        ("refused", "EndpointConnectionError"),
        ("no answer", "ReadTimeoutError"),
    ],
    indirect=["broken"],
)


def an_app(store: Any, **options: Any) -> Starlette:
    def count(request: Request) -> JSONResponse:
        request.session["visits"] = request.session.get("visits", 0) + 1
        return JSONResponse(request.session["visits"])

    def logout(request: Request) -> JSONResponse:
        request.session.clear()
        return JSONResponse(None)

    def nothing(_: Request) -> JSONResponse:
        return JSONResponse(None)

    routes = [Route("/", count), Route("/logout", logout), Route("/nothing", nothing)]
    return Starlette(
        routes=routes, middleware=[Middleware(DynamoDBSessionMiddleware, secret_key=KEY, store=store, **options)]
    )


def browser(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="https://testserver")


@every_way
async def test_the_app_serves_from_memory_and_says_why_once(
    broken: DynamoDBStore, cause: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with browser(an_app(broken)) as client:
        with anyio.fail_after(5):
            assert (await client.get("/")).json() == 1
        assert (await client.get("/")).json() == 2
        await client.get("/logout")
        assert (await client.get("/")).json() == 1
    assert broken.mode == "memory"
    assert cause in broken.mode_reason
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert cause in errors[0]


@every_way
async def test_where_memory_will_not_do_the_error_is_raised(broken: DynamoDBStore, cause: str) -> None:
    async with browser(an_app(broken, fallback="error")) as client:
        for _ in range(2):
            with pytest.raises((ConfigurationError, StoreUnavailable), match=cause):
                await client.get("/nothing")


@every_way
async def test_a_server_whose_store_must_work_does_not_start(broken: DynamoDBStore, cause: str) -> None:
    sent = await lifespan(an_app(broken, fallback="error"))
    assert [message["type"] for message in sent] == ["lifespan.startup.failed"]
    assert cause in sent[0]["message"]


async def lifespan(app: Any) -> list[Message]:
    sent: list[Message] = []
    messages: list[Message] = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
    return sent


async def test_the_first_lifespan_probes_and_no_other(moto_url: str, table_name: str) -> None:
    store = DynamoDBStore(table_name, endpoint_url=moto_url, create_table=True)
    calls: list[str] = []
    store.client.meta.events.register("before-call.dynamodb", lambda model, **_: calls.append(model.name))
    app = an_app(store)
    for _ in range(3):
        sent = await lifespan(app)
        assert [message["type"] for message in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert calls.count("GetItem") == 1
    assert store.mode == "dynamodb"


async def test_many_first_requests_make_one_probe(moto_url: str, table_name: str, dynamodb: Any) -> None:
    table_schema.create(dynamodb, table_name)
    store = DynamoDBStore(table_name, endpoint_url=moto_url)
    calls: list[str] = []
    store.client.meta.events.register("before-call.dynamodb", lambda model, **_: calls.append(model.name))
    async with browser(an_app(store)) as client, anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(client.get, "/nothing")
    assert calls == ["GetItem"]


async def test_a_probe_that_failed_at_import_is_not_waited_for_again(hole: str, table_name: str) -> None:
    store = DynamoDBStore(table_name, endpoint_url=hole)
    assert not store.probe()
    assert store.mode == "memory"
    started = store._calls._probes
    async with browser(an_app(store)) as client:
        assert (await client.get("/")).json() == 1
    assert store._calls._probes == started


@pytest.fixture
def primary() -> Primary:
    return Primary()


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def fallback(primary: Primary, clock: Time) -> FallbackStore:
    return FallbackStore(primary, MemoryStore(), clock=clock)


async def test_it_is_probed_again_after_growing_pauses_up_to_a_minute(
    fallback: FallbackStore, primary: Primary, clock: Time
) -> None:
    await fallback.initialise()
    pauses = []
    for _ in range(8):
        before, waited = primary.probes, 0
        while primary.probes == before:
            clock.now += 1
            waited += 1
            await fallback.initialise()
            await settled(fallback)
        pauses.append(waited)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]


async def test_the_error_is_repeated_every_five_minutes(
    fallback: FallbackStore, clock: Time, caplog: pytest.LogCaptureFixture
) -> None:
    for second, errors in ((0, 1), (1, 1), (298, 1), (1, 2), (299, 2), (1, 3)):
        clock.now += second
        await fallback.initialise()
        await settled(fallback)
        assert caplog.text.count("cannot be initialised") == errors


async def test_a_logout_that_is_forgotten_while_it_is_applied_is_no_obstacle(
    fallback: FallbackStore, primary: Primary, clock: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynamodb_sessions.stores.fallback._MAX_LOGOUTS", 1)
    delete = primary.delete

    async def one_more(session_id: str, **options: Any) -> bool:
        if session_id == "first":
            await fallback.delete("second")
        return await delete(session_id, **options)

    monkeypatch.setattr(primary, "delete", one_more)
    await fallback.delete("first")
    await healed(fallback, primary, clock)
    assert primary.deleted == ["first", "second"]


async def test_a_session_made_meanwhile_moves_when_it_is_next_used(
    fallback: FallbackStore, primary: Primary, clock: Time
) -> None:
    loaded, updated, rotated, deleted, replaced = records = [a_record(a="1") for _ in range(5)]
    for record in records:
        assert await fallback.create(record, now=NOW)
    assert len(primary) == 0
    await healed(fallback, primary, clock)

    home = await fallback.bring_home(loaded.id, now=NOW)
    assert home != loaded.id
    assert await fallback.load(home, now=NOW) == replace(loaded, id=home)
    assert await fallback.update(updated, Changes(NOW + 200, set={"b": "2"}), now=NOW) is not None
    moved = await fallback.rotate(rotated, new_id(), Changes(NOW + 200), now=NOW)
    assert moved is not None
    await fallback.delete(deleted.id)
    assert await fallback.create(a_record(), now=NOW, replaces=replaced.id)

    assert await primary.load(home, now=NOW) == replace(loaded, id=home)
    for name, data in ((updated.id, {"a": "1", "b": "2"}), (moved.id, {"a": "1"})):
        # Nobody could tell their browsers of new ids, so they are still where they were.
        assert await primary.load(name, now=NOW) is None
        stored = await primary.load(await fallback.bring_home(name, now=NOW), now=NOW)
        assert stored is not None
        assert stored.data == data
    for gone in (rotated, deleted, replaced):
        assert await primary.load(gone.id, now=NOW) is None
        assert await fallback.load(gone.id, now=NOW) is None
    assert fallback.memory is not None
    assert len(fallback.memory) == 0


async def test_logouts_made_meanwhile_come_first(fallback: FallbackStore, primary: Primary, clock: Time) -> None:
    older, replaced, kept = [a_record() for _ in range(3)]
    for record in (older, replaced, kept):
        await primary.create(record, now=NOW)
    await fallback.delete(older.id)
    assert await fallback.create(a_record(), now=NOW, replaces=replaced.id)
    assert primary.deleted == []
    await healed(fallback, primary, clock)
    assert primary.deleted == [older.id, replaced.id]
    assert await fallback.load(kept.id, now=NOW) == kept


@pytest.mark.parametrize("replacing", [False, True])
async def test_a_logout_that_meets_the_healing_counts(
    fallback: FallbackStore, primary: Primary, monkeypatch: pytest.MonkeyPatch, replacing: bool
) -> None:
    """Memory was chosen, and while the session is ended there, the other thread switches to the primary."""
    record = a_record()
    await fallback.create(record, now=NOW)
    remember = fallback._remember

    def heal_first(logout: Any) -> bool:
        fallback._initialised = True
        return remember(logout)

    monkeypatch.setattr(fallback, "_remember", heal_first)
    if replacing:
        await fallback.create(a_record(), now=NOW, replaces=record.id)
    else:
        await fallback.delete(record.id)
    assert await fallback.load(record.id, now=NOW) is None
    assert await primary.load(record.id, now=NOW) is None


async def test_until_they_are_applied_it_is_not_used(fallback: FallbackStore, primary: Primary, clock: Time) -> None:
    older = a_record()
    await primary.create(older, now=NOW)
    await fallback.delete(older.id)
    primary.works = primary.fails_deletes = True
    clock.now += 60
    await fallback.initialise()
    await settled(fallback)
    assert fallback.mode == "memory"
    assert "logouts" in fallback.mode_reason
    assert await fallback.load(older.id, now=NOW) is None
    primary.fails_deletes = False
    await healed(fallback, primary, clock)
    assert await fallback.load(older.id, now=NOW) is None


async def test_requests_that_come_at_once_move_a_session_once(
    fallback: FallbackStore, primary: Primary, clock: Time
) -> None:
    record = a_record(a="1")
    await fallback.create(record, now=NOW)
    await healed(fallback, primary, clock)

    async def update(number: int) -> None:
        await fallback.update(record, Changes(NOW + 9, set={f"{number}": "1"}), now=NOW)

    homes = set()

    async def bring_home() -> None:
        homes.add(await fallback.bring_home(record.id, now=NOW))

    async with anyio.create_task_group() as group:
        for number in range(10):
            group.start_soon(update, number)
            group.start_soon(bring_home)
    assert len(homes) == len(primary) == 1
    loaded = await fallback.load(record.id, now=NOW)
    assert loaded is not None
    assert len(loaded.data) == 11


async def test_once_it_has_worked_memory_is_never_used_again(
    fallback: FallbackStore, primary: Primary, monkeypatch: pytest.MonkeyPatch
) -> None:
    primary.works = True
    record = a_record()
    await fallback.create(record, now=NOW)

    async def out(*_: Any, **__: Any) -> None:
        raise StoreUnavailable("out")

    monkeypatch.setattr(primary, "load", out)
    with pytest.raises(StoreUnavailable):
        await fallback.load(record.id, now=NOW)
    assert fallback.mode == "dynamodb"


async def test_a_real_table_that_appears_is_found(moto_url: str, table_name: str, dynamodb: Any) -> None:
    """The whole way, over HTTP: memory, then the table is made, then the same login goes on in DynamoDB."""
    store = DynamoDBStore(table_name, endpoint_url=moto_url)
    async with browser(an_app(store)) as client:
        assert (await client.get("/")).json() == 1
        assert store.mode == "memory"
        table_schema.create(dynamodb, table_name)
        with anyio.fail_after(10):
            while store.mode == "memory":
                await anyio.sleep(0.1)
                await client.get("/nothing")
        await anyio.sleep(0.1)
        assert (await client.get("/")).json() == 2
    [item] = [found for found in dynamodb.scan(TableName=table_name)["Items"] if "user_data" in found]
    assert item["user_data"] == {"M": {"visits": {"S": "2"}}}


async def test_a_probe_that_hangs_is_left_behind(primary: Primary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynamodb_sessions.stores.fallback._PROBE_TIMEOUT", 0.05)
    hangs = threading.Event()
    monkeypatch.setattr(primary, "probe", lambda: hangs.wait(5))
    store = FallbackStore(primary, MemoryStore())
    before = time.monotonic()
    await store.initialise()
    hangs.set()
    assert time.monotonic() - before < 4
    assert (store.mode, store.mode_reason) == ("memory", "DynamoDB did not answer within 0.05 s")


async def test_forgotten_logouts_are_said(
    fallback: FallbackStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("dynamodb_sessions.stores.fallback._MAX_LOGOUTS", 1)
    await fallback.delete(new_id())
    await fallback.delete(new_id())
    assert "the oldest is forgotten" in caplog.text


async def test_a_visitors_logouts_do_not_make_it_forget_real_ones(
    fallback: FallbackStore, primary: Primary, clock: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A visitor makes sessions, of this process and of others that are in memory, and logs out of each, twice."""
    monkeypatch.setattr("dynamodb_sessions.stores.fallback._MAX_LOGOUTS", 10)
    real = a_record(user='"alice"')
    await primary.create(real, now=NOW)
    await fallback.delete(real.id, bury_until=NOW)
    await fallback.revoke_owner("acme/bob")
    other = FallbackStore(Primary(), MemoryStore(), clock=clock)
    for _ in range(20):
        for store in (fallback, other):
            made = await store.create(a_record(), now=NOW, fresh_id=new_id)
            assert made is not None
            moved = await store.rotate(made, new_id(), Changes(NOW + 50), now=NOW)
            assert moved is not None
            for session_id in (moved.id, made.id):
                await fallback.delete(session_id, bury_until=NOW)
                await fallback.delete(session_id, bury_until=NOW)
    await healed(fallback, primary, clock)
    assert await primary.load(real.id, now=NOW) is None
    assert Party("owner", "acme/bob") in primary.revoked


async def test_a_session_that_was_never_elsewhere_is_ended_without_a_note(fallback: FallbackStore) -> None:
    made = await fallback.create(a_record(), now=NOW, fresh_id=new_id)
    assert made is not None
    await fallback.delete(made.id, record=made)
    assert not fallback._logouts
    assert await fallback.load(made.id, now=NOW) is None


async def test_of_an_owner_one_revocation_waits(fallback: FallbackStore, primary: Primary, clock: Time) -> None:
    """The later one ends what the earlier one was to keep; and both leave alone who logs in later."""
    first, second = [replace(a_record(), owner="acme/alice") for _ in range(2)]
    for record in (first, second):
        await primary.create(record, now=NOW)
    for keep in (first, second):
        await fallback.revoke_owner("acme/alice", keep=keep.id)
    assert len(fallback._logouts) == 1
    before = primary.revoked.copy()
    await healed(fallback, primary, clock)
    assert await primary.load(first.id, now=NOW) is None
    assert await primary.load(second.id, now=NOW) == second
    assert before != primary.revoked


@pytest.mark.parametrize("client", [None, "async"])
@pytest.mark.parametrize("fallback", ["memory", "error"])
async def test_credentials_that_come_later_are_found(
    moto_url: str, table_name: str, monkeypatch: pytest.MonkeyPatch, client: str | None, fallback: str
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    store = DynamoDBStore(table_name, endpoint_url=moto_url, create_table=True, client=client)
    async with browser(an_app(store, fallback=fallback)) as visitor:
        if fallback == "memory":
            assert (await visitor.get("/")).json() == 1
            assert store.mode == "memory"
        else:
            with pytest.raises(ConfigurationError, match="redentials"):
                await visitor.get("/")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
        with anyio.fail_after(10):
            while store.mode == "memory":
                await anyio.sleep(0.1)
                with contextlib.suppress(ConfigurationError):
                    await visitor.get("/nothing")
        await anyio.sleep(0.1)
        assert (await visitor.get("/")).json() == (2 if fallback == "memory" else 1)


@pytest.mark.parametrize("client", [None, "async"])
async def test_a_server_that_drips_is_probed_again(
    moto_url: str, table_name: str, client: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first reply would take longer than this test."""
    monkeypatch.setattr("tests.helpers.proxy.DRIPS", 10_000)
    assert DynamoDBStore(table_name, endpoint_url=moto_url, create_table=True).probe()
    proxy = Proxy(moto_url)
    proxy.play("GetItem", [Step(How.DRIPPED)] * 2)
    store = FallbackStore(DynamoDBStore(table_name, endpoint_url=proxy.url, client=client, timeout=1.0), MemoryStore())
    try:
        with anyio.fail_after(15):
            await store.initialise()
            assert not store.is_initialised
            while not store.is_initialised:
                await anyio.sleep(0.1)
                await store.initialise()
    finally:
        proxy.close()
    assert proxy.requests == ["GetItem"] * 3
