"""Whose sessions there are, and signing out everywhere: over every store, and through the middleware."""

import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import anyio
import boto3
import pytest

from dynamodb_sessions import (
    ConfigurationError,
    DynamoDBStore,
    MemoryStore,
    Session,
    SessionError,
    StoreUnavailable,
    open_session,
)
from dynamodb_sessions.clock import wall_clock
from dynamodb_sessions.identifiers import new_id
from dynamodb_sessions.stores import table_schema
from dynamodb_sessions.stores.contract import Changes, OwnerStore, Party, Record, SessionStore
from dynamodb_sessions.stores.fallback import FallbackStore
from tests.helpers.asgi import Counting, an_app, browser, by_path, clear, held, look
from tests.helpers.fallback import Primary, Time, healed

pytestmark = pytest.mark.anyio

NOW = 1_800_000_000
ALICE = "acme/alice"


@pytest.fixture
def owners(store: SessionStore) -> OwnerStore:
    assert isinstance(store, OwnerStore)
    return store


async def put(store: SessionStore, age: int, **attributes: Any) -> Record:
    record = replace(Record(new_id(), {"a": "1"}, NOW - age, NOW + 100, owner=ALICE), **attributes)
    assert await store.create(record, now=NOW)
    return record


async def listed(store: OwnerStore, owner: str = ALICE, *, now: int = NOW) -> list[Record]:
    return [record async for record in store.list_owner(owner, now=now)]


async def test_the_owners_sessions_are_listed_oldest_first(owners: OwnerStore) -> None:
    newer, oldest, middle = [await put(owners, age) for age in (1, 30, 20)]
    await put(owners, 0, owner="acme/bob")
    await put(owners, 0, owner=None)
    assert await listed(owners) == [oldest, middle, newer]
    assert await listed(owners, "acme/nobody") == []


async def test_an_expired_session_is_not_listed_though_it_is_still_stored(owners: OwnerStore) -> None:
    await put(owners, 10, expires_at=NOW + 1)
    live = await put(owners, 5)
    assert await listed(owners, now=NOW + 1) == [live]


async def test_without_a_time_it_is_now(owners: OwnerStore) -> None:
    live = await put(owners, 0, expires_at=wall_clock() + 100)
    await put(owners, 0, expires_at=wall_clock() - 1)
    assert [record.id async for record in owners.list_owner(ALICE)] == [live.id]


async def test_all_are_ended_but_the_one_to_keep(owners: OwnerStore) -> None:
    kept, _, _ = [await put(owners, age) for age in (3, 2, 1)]
    other = await put(owners, 0, owner="acme/bob")
    assert await owners.revoke_owner(ALICE, keep=kept.id) == 2
    assert await listed(owners) == [kept]
    assert await owners.revoke_owner(ALICE) == 1
    assert await owners.revoke_owner(ALICE) == 0
    assert await listed(owners) == []
    assert await owners.load(other.id, now=NOW) == other


@pytest.mark.parametrize("nobody", [None, "", "a" * 1025, "\ud800", b"acme/alice"], ids=repr)
async def test_who_is_nobody_has_no_sessions_to_list_or_to_end(owners: OwnerStore, nobody: Any) -> None:
    """`session.info.owner` is None in every session that is bound to nobody: they are not one another's."""
    unbound = await put(owners, 0, owner=None)
    assert await listed(owners, nobody) == []
    assert await owners.revoke_owner(nobody) == 0
    assert await owners.load(unbound.id, now=NOW) == unbound


async def test_what_was_revoked_cannot_be_saved_again(owners: OwnerStore) -> None:
    record = await put(owners, 0)
    await owners.revoke_owner(ALICE)
    assert await owners.update(record, Changes(NOW + 200, set={"b": "2"}), now=NOW) is None
    assert await owners.rotate(record, new_id(), Changes(NOW + 200), now=NOW) is None
    assert await listed(owners) == []


async def test_the_content_of_a_listed_session_is_decoded(owners: OwnerStore) -> None:
    await put(owners, 0, data={"browser": '{"name":"Firefox"}'})
    [record] = await listed(owners)
    assert record.content() == {"browser": {"name": "Firefox"}}


async def scanned(store: Any, **options: Any) -> set[str]:
    return {record.id async for record in store.scan(now=NOW, **options)}


async def test_every_session_is_scanned(owners: OwnerStore) -> None:
    live = {(await put(owners, 0, owner=owner)).id for owner in (ALICE, "acme/bob", None)}
    over = await put(owners, 0, expires_at=NOW - 1)
    assert await scanned(owners) == live
    assert await scanned(owners, include_expired=True) == live | {over.id}


@pytest.fixture
def paged(dynamodb_local_url: str, table_name: str, monkeypatch: pytest.MonkeyPatch) -> DynamoDBStore:
    """A store on the real engine whose pages have two items each."""
    store = DynamoDBStore(table_name, endpoint_url=dynamodb_local_url, create_table=True)
    call = store._calls._transport.call

    async def two_at_a_time(operation: str, **parameters: Any) -> dict[str, Any]:
        limit = {"Limit": 2} if operation in ("query", "scan") else {}
        return await call(operation, **parameters, **limit)

    monkeypatch.setattr(store._calls._transport, "call", two_at_a_time)
    return store


async def test_all_pages_count(paged: DynamoDBStore) -> None:
    records = [await put(paged, age) for age in range(7, 0, -1)]
    assert await listed(paged) == records
    assert await scanned(paged) == {record.id for record in records}
    assert await paged.revoke_owner(ALICE) == 7
    assert await scanned(paged) == set()


async def test_a_session_that_moves_to_another_id_meanwhile_is_ended_all_the_same(
    dynamodb_local_url: str, table_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DynamoDBStore(table_name, endpoint_url=dynamodb_local_url, create_table=True)
    first = await put(store, 2)
    moving = await put(store, 1)
    moved = new_id()
    delete, has_moved = store._delete_of, anyio.Event()

    async def move_first(operation: Any, party: Party, session_id: str, **options: Any) -> bool:
        if session_id == first.id:
            assert await store.rotate(moving, moved, Changes(NOW + 100), now=NOW)
            has_moved.set()
        await has_moved.wait()
        return await delete(operation, party, session_id, **options)

    monkeypatch.setattr(store, "_delete_of", move_first)
    assert await store.revoke_owner(ALICE) == 2
    assert await scanned(store) == set()


@pytest.mark.parametrize("how", ["revoke_owner", "revoke_tenant", "limit_owner"])
async def test_the_session_to_keep_is_kept_though_the_index_has_its_id_of_before(
    moto_url: str, table_name: str, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """As after a change of the password, or another login in the same browser: the index hears of it a moment late."""
    store = DynamoDBStore(table_name, endpoint_url=moto_url, create_table=True)
    now = wall_clock()
    other, before = [await put(store, age, tenant="acme", expires_at=now + 100) for age in (2, 1)]
    kept = await store.rotate(before, new_id(), Changes(now + 100), now=now)
    assert kept is not None

    async def ids_of_before(_: Party) -> AsyncIterator[str]:
        for record in (other, before):
            yield record.id

    monkeypatch.setattr(store, "_ids_of", ids_of_before)
    if how == "limit_owner":
        assert await store.limit_owner(ALICE, 1, keep=kept.id) == [other.id]
    elif how == "revoke_owner":
        assert await store.revoke_owner(ALICE, keep=kept.id) == 1
    else:
        assert await store.revoke_tenant("acme", keep=kept.id) == 1
    assert await scanned(store, include_expired=True) == {kept.id}


async def test_what_cannot_be_read_is_left_out_with_a_warning_and_can_be_ended(
    dynamodb_local_url: str, table_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = DynamoDBStore(table_name, endpoint_url=dynamodb_local_url, create_table=True)
    good, bad = await put(store, 2), await put(store, 1)
    store.client.update_item(
        TableName=table_name,
        Key={table_schema.KEY: {"S": bad.id}},
        UpdateExpression="SET user_data = :n",
        ExpressionAttributeValues={":n": {"N": "1"}},
    )
    assert await listed(store) == [good]
    assert await scanned(store) == {good.id}
    assert caplog.text.count("cannot be read") == 2
    assert bad.id not in caplog.text
    assert await store.revoke_owner(ALICE) == 2


async def test_a_table_without_the_index_says_so(dynamodb_local_url: str, table_name: str) -> None:
    client = boto3.client("dynamodb", endpoint_url=dynamodb_local_url, region_name="us-east-1")
    client.create_table(
        TableName=table_name,
        KeySchema=[{"AttributeName": "session_id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "session_id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    store = DynamoDBStore(table_name, client=client)
    with pytest.raises(ConfigurationError, match=r"owner-index"):
        await store.revoke_owner(ALICE)


# While DynamoDB cannot be initialised.


@pytest.fixture
def primary() -> Primary:
    return Primary()


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def fallback(primary: Primary, time: Time) -> FallbackStore:
    return FallbackStore(primary, MemoryStore(), clock=time)


async def test_in_memory_they_are_listed_and_ended_there(fallback: FallbackStore) -> None:
    kept, _ = await put(fallback, 2), await put(fallback, 1)
    assert await fallback.revoke_owner(ALICE, keep=kept.id) == 1
    assert await listed(fallback) == [kept]


async def test_who_is_nobody_has_none_in_memory_either(fallback: FallbackStore) -> None:
    unbound = await put(fallback, 0, owner=None)
    assert await fallback.revoke_owner(None) == 0
    assert [record async for record in fallback.list_owner(None, now=NOW)] == []
    assert await fallback.load(unbound.id, now=NOW) == unbound
    assert not fallback._logouts


async def test_once_it_heals_they_are_ended_in_dynamodb_too(
    fallback: FallbackStore, primary: Primary, time: Time
) -> None:
    older = await put(primary, 9)
    kept = await put(fallback, 1)
    await fallback.revoke_owner(ALICE, keep=kept.id)
    assert await listed(primary) == [older]
    await healed(fallback, primary, time)
    assert await primary.load(older.id, now=NOW) is None
    assert await listed(fallback) == [kept]


async def test_after_it_healed_those_still_in_memory_count(
    fallback: FallbackStore, primary: Primary, time: Time
) -> None:
    waiting, kept = await put(fallback, 2), await put(fallback, 1)
    await healed(fallback, primary, time)
    there = await put(primary, 3)
    assert await listed(fallback) == [there, waiting, kept]
    late = await put(fallback.memory or primary, 0)
    assert await fallback.revoke_owner(ALICE, keep=kept.id) == 3
    assert await fallback.load(late.id, now=NOW) is None
    assert await listed(fallback) == [kept]


async def test_one_that_is_just_moving_is_ended_all_the_same(
    fallback: FallbackStore, primary: Primary, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = await put(fallback, 1)
    await healed(fallback, primary, time)
    create = primary.create

    async def revoke_first(record: Record, **options: Any) -> Record | None:
        await fallback.revoke_owner(ALICE)
        return await create(record, **options)

    monkeypatch.setattr(primary, "create", revoke_first)
    assert await fallback.load(await fallback.bring_home(record.id, now=NOW), now=NOW) is None
    assert await listed(fallback) == []


async def test_without_memory_the_reason_is_raised(primary: Primary, time: Time) -> None:
    store = FallbackStore(primary, None, clock=time)
    with pytest.raises(StoreUnavailable, match="does not work"):
        await listed(store)
    with pytest.raises(StoreUnavailable, match="does not work"):
        await store.revoke_owner(ALICE)


# Health.


async def test_a_store_that_works_is_well(owners: OwnerStore, engine: str) -> None:
    await put(owners, 0)
    health = await owners.health()
    assert health.ok
    assert health.mode == ("memory" if engine == "memory" else "dynamodb")


async def test_a_table_that_is_missing_is_not_well_and_says_why(moto_url: str, table_name: str) -> None:
    health = await DynamoDBStore(table_name, endpoint_url=moto_url).health()
    assert not health.ok
    assert "ResourceNotFoundException" in health.reason


async def test_memory_instead_of_dynamodb_is_well_but_tells(
    fallback: FallbackStore, primary: Primary, time: Time
) -> None:
    health = await fallback.health()
    assert (health.ok, health.mode, health.reason) == (True, "memory", "it does not work")
    await healed(fallback, primary, time)
    assert (await fallback.health()).ok
    health = await FallbackStore(Primary(), None).health()
    assert (health.ok, health.reason) == (False, "it does not work")


# Through the middleware.


def bind(request: Any) -> None:
    request.session["user"] = "alice"
    held(request).bind(ALICE)


async def revoke_others(request: Any) -> None:
    await held(request).info.store.revoke_owner(ALICE, keep=held(request).info.id)


async def test_end_all_others_logs_the_second_browser_out_on_its_very_next_request(owners: OwnerStore) -> None:
    app = an_app(owners, by_path(login=bind, others=revoke_others, look=look))
    async with browser(app) as first, browser(app) as second:
        for client in (first, second):
            assert (await client.get("/login")).json() == {"user": "alice"}
        assert (await first.get("/others")).status_code == 200
        assert (await second.get("/look")).json() == {}
        assert (await first.get("/look")).json() == {"user": "alice"}


async def test_the_next_login_ends_the_oldest_beyond_the_maximum(owners: OwnerStore, clock: Any) -> None:
    app = an_app(owners, by_path(login=bind, look=look, logout=clear), max_sessions_per_owner=2)
    async with browser(app) as first, browser(app) as second, browser(app) as third:
        for client in (first, second, third):
            await client.get("/login")
            clock.now += 10
        assert [(await client.get("/look")).json() for client in (first, second, third)] == [
            {},
            {"user": "alice"},
            {"user": "alice"},
        ]
        await second.get("/login")  # The same session, under a new id: nobody's place.
        assert (await third.get("/look")).json() == {"user": "alice"}
        await third.get("/logout")
        await first.get("/login")
        assert (await second.get("/look")).json() == {"user": "alice"}
        assert len(await listed(owners, now=clock.now)) == 2


async def test_owners_that_cannot_be_counted_do_not_fail_a_login(caplog: pytest.LogCaptureFixture) -> None:
    class Uncountable(MemoryStore):
        async def limit_owner(self, owner: str, maximum: int, *, keep: str) -> Any:
            raise StoreUnavailable(f"no list of {owner}: {maximum}, {len(keep)}")

    app = an_app(Uncountable(), by_path(login=bind, look=look), max_sessions_per_owner=1)
    with caplog.at_level(logging.ERROR):
        async with browser(app) as client:
            assert (await client.get("/login")).status_code == 200
            assert (await client.get("/look")).json() == {"user": "alice"}
    assert "could not be counted" in caplog.text


@pytest.mark.parametrize("maximum", [0, -1, True, "2", 1.5])
def test_a_maximum_that_is_none_is_refused(maximum: Any) -> None:
    with pytest.raises(ConfigurationError, match="max_sessions_per_owner"):
        an_app(MemoryStore(), look, max_sessions_per_owner=maximum).build_middleware_stack()


async def test_a_session_knows_where_its_owners_others_are() -> None:
    with pytest.raises(SessionError, match="finds sessions by owner"):
        _ = Session().info.store
    store = MemoryStore()
    async with open_session(store, "job-1") as session:
        assert session.info.store is store
    without: Any = Counting(store)
    async with open_session(without, "job-1") as session:
        with pytest.raises(SessionError, match="finds sessions by owner"):
            _ = session.info.store


def test_a_store_that_lists_no_owners_has_no_maximum() -> None:
    with pytest.raises(ConfigurationError, match="max_sessions_per_owner needs"):
        an_app(Counting(MemoryStore()), look, max_sessions_per_owner=2).build_middleware_stack()


async def test_the_limit_takes_the_index_alone_as_long_as_there_are_not_too_many(
    dynamodb_local_url: str, table_name: str
) -> None:
    store = DynamoDBStore(table_name, endpoint_url=dynamodb_local_url, create_table=True)
    mine = await put(store, 0)
    for age in range(1, 5):
        await put(store, age)
    calls: list[str] = []
    store.client.meta.events.register("before-call.dynamodb", lambda model, **_: calls.append(model.name))
    assert await store.limit_owner(ALICE, 5, keep=mine.id) == ()
    assert calls == ["Query"]
    calls.clear()
    assert len(await store.limit_owner(ALICE, 3, keep=mine.id)) == 2
    assert sorted(calls) == ["DeleteItem"] * 2 + ["GetItem"] * 2 + ["Query"]


async def test_an_expired_session_takes_nobodys_place(owners: OwnerStore) -> None:
    """Though DynamoDB has not removed it yet, and the index names it."""
    now = wall_clock()
    oldest = await put(owners, 30, expires_at=now + 100)
    for age in (20, 10):
        await put(owners, age, expires_at=now - 1)
    mine = await put(owners, 0, expires_at=now + 100)
    await owners.limit_owner(ALICE, 2, keep=mine.id)
    assert {record.id async for record in owners.list_owner(ALICE)} == {oldest.id, mine.id}


async def test_hundreds_of_sessions_are_ended_some_at_once(dynamodb_local_url: str, table_name: str) -> None:
    store = DynamoDBStore(table_name, endpoint_url=dynamodb_local_url, create_table=True)
    for age in range(100):
        await put(store, age)
    at_once, most = 0, 0
    call = store._calls._transport.call

    async def counted(operation: str, **parameters: Any) -> dict[str, Any]:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        try:
            return await call(operation, **parameters)
        finally:
            at_once -= 1

    store._calls._transport.call = counted  # type: ignore[method-assign]
    assert len(await listed(store)) == 100
    assert await store.revoke_owner(ALICE) == 100
    assert most == 16


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_response_to_a_login_does_not_wait_for_the_limit() -> None:
    sent: list[str] = []

    class Slow(MemoryStore):
        async def limit_owner(self, owner: str, maximum: int, *, keep: str) -> Any:
            sent.append("limit")
            return await super().limit_owner(owner, maximum, keep=keep)

    app = an_app(Slow(), bind, max_sessions_per_owner=1)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b"", "scheme": "https"}
    await app(scope, receive, send)
    assert sent == ["http.response.start", "http.response.body", "limit"]
