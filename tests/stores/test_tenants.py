"""Whose customers' sessions there are, and ending them all: over every store, and through the middleware."""

import time
from dataclasses import replace
from typing import Any

import boto3
import pytest

from dynamodb_sessions import ConfigurationError, DynamoDBStore, MemoryStore, Session, StoreUnavailable
from dynamodb_sessions.clock import wall_clock
from dynamodb_sessions.identifiers import new_id
from dynamodb_sessions.stores import table_schema
from dynamodb_sessions.stores.contract import Changes, OwnerStore, Record, SessionStore
from dynamodb_sessions.stores.fallback import FallbackStore
from tests.helpers.browsing import Browser
from tests.helpers.fallback import Primary, Time, healed

pytestmark = pytest.mark.anyio

NOW = 1_800_000_000


@pytest.fixture
def tenants(store: SessionStore) -> OwnerStore:
    assert isinstance(store, OwnerStore)
    return store


async def put(store: SessionStore, owner: str = "acme/alice", **attributes: Any) -> Record:
    record = replace(Record(new_id(), {"a": "1"}, NOW, NOW + 100, owner=owner, tenant="acme", born="b"), **attributes)
    assert await store.create(record, now=NOW)
    return record


async def listed(store: OwnerStore, tenant: str = "acme", *, now: int = NOW) -> list[Record]:
    return [record async for record in store.list_tenant(tenant, now=now)]


async def test_the_tenants_sessions_are_listed_by_owner(tenants: OwnerStore) -> None:
    carol, alice, bob = [await put(tenants, f"acme/{name}") for name in ("carol", "alice", "bob")]
    await put(tenants, "globex/dan", tenant="globex")
    await put(tenants, tenant=None)
    await put(tenants, "acme/over", expires_at=NOW)
    assert await listed(tenants) == [alice, bob, carol]
    assert await listed(tenants, "nobody") == []


async def test_all_of_the_tenant_are_ended_but_the_one_to_keep(tenants: OwnerStore) -> None:
    kept, _, _ = [await put(tenants, f"acme/{name}") for name in ("admin", "alice", "bob")]
    others = await put(tenants, "globex/dan", tenant="globex"), await put(tenants, tenant=None)
    assert await tenants.revoke_tenant("acme", keep=kept.id) == 2
    assert await listed(tenants) == [kept]
    assert await tenants.revoke_tenant("acme") == 1
    assert await tenants.revoke_tenant("acme") == 0
    assert [await tenants.load(other.id, now=NOW) for other in others] == [*others]


@pytest.mark.parametrize("nobody", [None, "", "a" * 1025, "\ud800", b"acme"], ids=repr)
async def test_what_is_no_tenant_has_no_sessions_to_list_or_to_end(tenants: OwnerStore, nobody: Any) -> None:
    """`session.info.tenant` is None in every session without one: they are not one another's."""
    without = await put(tenants, tenant=None)
    assert await listed(tenants, nobody) == []
    assert await tenants.revoke_tenant(nobody) == 0
    assert await tenants.load(without.id, now=NOW) == without


async def test_what_was_revoked_cannot_be_saved_again(tenants: OwnerStore) -> None:
    record = await put(tenants)
    await tenants.revoke_tenant("acme")
    assert await tenants.update(record, Changes(NOW + 200, set={"b": "2"}), now=NOW) is None
    assert await tenants.rotate(record, new_id(), Changes(NOW + 200), now=NOW) is None
    assert await listed(tenants) == []


async def test_who_has_logged_in_to_another_tenant_meanwhile_stays(
    dynamodb_local_url: str, table_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And who has only a new id does not."""
    store = DynamoDBStore(table_name, endpoint_url=dynamodb_local_url, create_table=True)
    now = wall_clock()
    first, rotated, leaving = [await put(store, f"acme/{n}", expires_at=now + 100) for n in ("a", "b", "c")]
    fixed = await put(store, "acme/d", id="job-1", expires_at=now + 100)
    left = new_id()
    delete = store._delete_of

    async def move_first(operation: Any, party: Any, session_id: str, **options: Any) -> bool:
        if session_id == first.id:
            elsewhere: Any = {"owner": "acme/c", "tenant": "globex", "handle": "h"}
            assert await store.rotate(rotated, new_id(), Changes(now + 100), now=now)
            assert await store.rotate(leaving, left, Changes(now + 100, **elsewhere), now=now)
            assert await store.update(fixed, Changes(now + 100, **elsewhere), now=now)
        return await delete(operation, party, session_id, **options)

    # One at a time, as the first makes the others move.
    monkeypatch.setattr("dynamodb_sessions.aws.table_calls.AT_ONCE", 1)
    monkeypatch.setattr(store, "_delete_of", move_first)
    assert await store.revoke_tenant("acme") == 2
    assert {record.id async for record in store.scan(now=now)} == {left, fixed.id}


async def test_a_table_without_the_index_says_so_and_how_to_make_it(dynamodb_local_url: str, table_name: str) -> None:
    client = boto3.client("dynamodb", endpoint_url=dynamodb_local_url, region_name="us-east-1")
    client.create_table(**table_schema.definition(table_name))
    store = DynamoDBStore(table_name, client=client)
    await put(store)
    for work in (listed(store), store.revoke_tenant("acme")):
        with pytest.raises(ConfigurationError, match=r"no index tenant-index.* tenant_index = true .*check --tenants"):
            await work
    assert await store.revoke_owner("acme/alice") == 1, "and it needs no such index"


async def test_a_session_that_has_no_tenant_is_not_in_the_index(dynamodb_local_url: str, table_name: str) -> None:
    """Who does not use it, does not pay for it."""
    store = DynamoDBStore(table_name, endpoint_url=dynamodb_local_url, create_table=True)
    await put(store, tenant=None)
    found = store.client.scan(TableName=table_name, IndexName=table_schema.TENANT_INDEX)
    assert found["Items"] == []
    assert "tenant" not in store.client.scan(TableName=table_name)["Items"][0]


# Through the middleware.


async def test_an_admin_ends_the_tenants_other_sessions(tenants: OwnerStore) -> None:
    admin, alice, dan = Browser(tenants), Browser(tenants), Browser(tenants)
    for browser, owner, tenant in ((admin, "acme/admin", "acme"), (alice, "acme/alice", "acme"), (dan, "dan", None)):

        def login(session: Session, owner: str = owner, tenant: str | None = tenant) -> str | None:
            session.bind(owner, tenant=tenant)
            return session.info.tenant

        assert await browser.do(login) == tenant

    async def end_others(session: Session) -> int:
        info = session.info
        return await info.store.revoke_tenant(info.tenant, keep=info.id)

    assert await admin.do(end_others) == 1
    assert [await each.do(lambda session: session.info.owner) for each in (admin, alice, dan)] == [
        *("acme/admin", None, "dan")
    ]


async def test_a_tenant_of_many_does_not_count_for_an_owners_limit(tenants: OwnerStore) -> None:
    for name in ("alice", "bob", "alice"):

        def login(session: Session, owner: str = f"acme/{name}") -> None:
            session.bind(owner, tenant="acme")

        await Browser(tenants, max_sessions_per_owner=1).do(login)
    owners = [record.owner async for record in tenants.list_tenant("acme")]
    assert owners == ["acme/alice", "acme/bob"]


@pytest.mark.parametrize("tenant", ["", "a" * 1025, "\ud800", b"acme", 7], ids=repr)
def test_a_tenant_is_text(tenant: Any) -> None:
    session = Session()
    with pytest.raises(ConfigurationError, match="a tenant must be"):
        session.bind("acme/alice", tenant=tenant)
    assert session.info.owner is None


# While DynamoDB cannot be initialised.


@pytest.fixture
def primary() -> Primary:
    return Primary()


@pytest.fixture
def passing() -> Time:
    return Time()


@pytest.fixture
def fallback(primary: Primary, passing: Time) -> FallbackStore:
    return FallbackStore(primary, MemoryStore(), clock=passing)


async def test_revoked_in_memory_they_end_there_and_once_it_heals_in_dynamodb(
    fallback: FallbackStore, primary: Primary, passing: Time
) -> None:
    older = await put(primary, "acme/bob")
    of_other = await put(primary, "acme", tenant="globex")
    kept, _ = await put(fallback, "acme/admin"), await put(fallback, "acme/alice")
    assert await fallback.revoke_tenant("acme", keep=kept.id) == 1
    assert await fallback.revoke_owner("acme") == 0
    assert len(fallback._logouts) == 2, "an owner who is called like a tenant is somebody else"
    await healed(fallback, primary, passing)
    assert await primary.load(older.id, now=NOW) is None
    assert await primary.load(of_other.id, now=NOW) is None
    assert await listed(fallback) == [kept]


async def test_after_it_healed_those_still_in_memory_count(
    fallback: FallbackStore, primary: Primary, passing: Time
) -> None:
    waiting = [await put(fallback, f"acme/{name}") for name in ("a", "c")]
    await healed(fallback, primary, passing)
    there = await put(primary, "acme/b")
    assert await listed(fallback) == [waiting[0], there, waiting[1]]
    assert await fallback.revoke_tenant("acme", keep=there.id) == 2
    assert await listed(fallback) == [there]


@pytest.mark.parametrize("client", [None, "async"])
async def test_revoked_elsewhere_those_in_a_processs_memory_end_too(
    dynamodb_local_url: str, table_name: str, client: str | None
) -> None:
    """And the one that was kept here by a revocation of this process's own is kept."""

    def new_store() -> DynamoDBStore:
        return DynamoDBStore(table_name, endpoint_url=dynamodb_local_url, client=client, create_table=True)

    now, elsewhere, primary, passing = int(time.time()), new_store(), new_store(), Time()
    primary.mark_unusable(StoreUnavailable("not yet"))
    store = FallbackStore(primary, MemoryStore(), clock=passing)
    made: Any = {"created_at": now - 10, "expires_at": now + 100}
    revoked, other, without = [await put(store, tenant=tenant, **made) for tenant in ("acme", "globex", None)]
    later = await put(store, **made | {"created_at": now + 10})
    kept, ended = [await put(store, tenant="initech", **made) for _ in range(2)]
    assert await store.revoke_tenant("initech", keep=kept.id) == 1
    await elsewhere.revoke_tenant("acme", now=now)
    primary.probe()
    store._initialised = await store._apply_logouts()
    for record in (revoked, other, without, later, kept, ended):
        home = await store.bring_home(record.id, now=now)
        assert (await store.load(home, now=now) is None) is (record in (revoked, ended))
    assert [record.created_at async for record in elsewhere.list_tenant("acme")] == [now + 10]
    # What has moved is found there, by whoever ends the tenant's sessions next.
    assert await elsewhere.revoke_tenant("initech") == 1
