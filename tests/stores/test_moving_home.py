"""Sessions that began in memory and move to DynamoDB: what others do before, during and after the move holds."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from dynamodb_sessions import DynamoDBSessionMiddleware, DynamoDBStore, MemoryStore, StoreUnavailable
from dynamodb_sessions.identifiers import is_memory_id, is_random, new_born, new_id, new_memory_id
from dynamodb_sessions.stores import item_format
from dynamodb_sessions.stores.contract import BURIED_SECONDS, Changes, Record
from dynamodb_sessions.stores.fallback import FallbackStore
from tests.conftest import KEY
from tests.helpers.fallback import Time, settled
from tests.helpers.proxy import How, Proxy, Step

pytestmark = pytest.mark.anyio

NewStore = Callable[..., DynamoDBStore]
Heal = Callable[[FallbackStore], Awaitable[None]]
ALICE = "acme/alice"


@pytest.fixture(params=["local", "async"])
def engine(request: pytest.FixtureRequest) -> str:
    """Both transports."""
    return str(request.param)


@pytest.fixture
def new_store(engine: str, dynamodb_local_url: str, table_name: str) -> NewStore:
    """Return what makes another store on the same table, as another process would."""

    def make(**options: Any) -> DynamoDBStore:
        client = "async" if engine == "async" else None
        return DynamoDBStore(
            table_name, **{"endpoint_url": dynamodb_local_url, "client": client, "create_table": True, **options}
        )

    return make


@pytest.fixture
def passing() -> Time:
    return Time()


@pytest.fixture
def a_process(new_store: NewStore, passing: Time) -> Callable[..., FallbackStore]:
    """Return what makes a process whose DynamoDB cannot be initialised until it heals."""

    def make(**options: Any) -> FallbackStore:
        primary = new_store(**options)
        primary.mark_unusable(StoreUnavailable("not yet"))
        return FallbackStore(primary, MemoryStore(), clock=passing)

    return make


@pytest.fixture
def heal(passing: Time) -> Heal:
    async def heal(store: FallbackStore) -> None:
        with anyio.fail_after(30):
            while not store.is_initialised:  # A busy engine may not answer at once.
                passing.now += 60
                await store.initialise()
                await settled(store)

    return heal


async def an_app(store: Any) -> Starlette:
    def put(request: Request) -> JSONResponse:
        request.session["n"] = request.session.get("n", 0) + 1
        return JSONResponse(request.session["n"])

    def look(request: Request) -> JSONResponse:
        return JSONResponse(request.session.get("n"))

    def login(request: Request) -> JSONResponse:
        request.scope["session"].bind(ALICE)
        request.session["user"] = "alice"
        return JSONResponse(None)

    async def elsewhere(request: Request) -> JSONResponse:
        session = request.scope["session"]
        return JSONResponse(await session.info.store.revoke_owner(ALICE, keep=session.info.id))

    def logout(request: Request) -> JSONResponse:
        request.session.clear()
        return JSONResponse(None)

    def begin_anew(request: Request) -> JSONResponse:
        request.session.clear()
        request.session["n"] = 100
        return JSONResponse(None)

    def fail(request: Request) -> JSONResponse:
        return JSONResponse(request.session.get("n"), 500)

    handlers = {"put": put, "look": look, "login": login, "elsewhere": elsewhere, "logout": logout}
    handlers |= {"anew": begin_anew, "fail": fail}
    return Starlette(
        routes=[Route(f"/{name}", handler) for name, handler in handlers.items()],
        middleware=[Middleware(DynamoDBSessionMiddleware, secret_key=KEY, store=store)],
    )


@asynccontextmanager
async def browser(store: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=await an_app(store))
    async with httpx.AsyncClient(transport=transport, base_url="https://testserver") as client:
        yield client


def cookie(client: httpx.AsyncClient) -> str:
    return client.cookies["session_id"].partition(".")[0]


async def says(client: httpx.AsyncClient, path: str, value: str) -> Any:
    """Return the answer to a request with this cookie, whatever the browser holds."""
    client.cookies.clear()
    answer = await client.get(path, headers={"Cookie": f"session_id={value}"})
    assert answer.status_code == 200
    return answer.json()


async def sessions(store: DynamoDBStore) -> list[Record]:
    return [record async for record in store.scan(now=0)]


def a_record(**options: Any) -> Record:
    now = int(time.time())
    return replace(Record(new_memory_id(), {"n": "1"}, now, now + 1000, born=new_born()), **options)


async def test_the_response_carries_the_new_cookie(a_process: Any, heal: Heal, new_store: NewStore) -> None:
    store = a_process()
    async with browser(store) as one, browser(new_store()) as other:
        await one.get("/put")
        before, old = cookie(one), one.cookies["session_id"]
        assert is_memory_id(before)
        await heal(store)
        assert (await one.get("/look")).json() == 1
        after = cookie(one)
        assert after != before
        assert not is_memory_id(after)
        assert [record.id for record in await sessions(store.primary)] == [after]
        assert await says(other, "/look", one.cookies["session_id"]) == 1
        assert await says(other, "/look", old) is None


async def test_a_browser_that_has_not_heard_of_it_is_told_again(a_process: Any, heal: Heal) -> None:
    """The app failed, or the response was lost: the id of before finds the session, where that is known."""
    store = a_process()
    async with browser(store) as client:
        await client.get("/put")
        old = client.cookies["session_id"]
        await heal(store)
        assert (await client.get("/fail")).json() == 1
        for _ in range(2):
            assert await says(client, "/look", old) == 1
            assert client.cookies["session_id"] != old
        assert len(await sessions(store.primary)) == 1


async def test_a_session_outside_of_requests_does_not_move(a_process: Any, heal: Heal) -> None:
    """Nobody could tell the browser."""
    store = a_process()
    record = await store.create(a_record(), now=0)
    await heal(store)
    assert await store.load(record.id, now=0) == record
    assert await sessions(store.primary) == []


async def test_a_session_under_an_id_of_ones_own_moves_under_it(a_process: Any, heal: Heal) -> None:
    store = a_process()
    record = a_record(id="job-1")
    assert await store.create(record, now=0) == record
    await heal(store)
    assert await store.load("job-1", now=0) == record
    assert await sessions(store.primary) == [record]


async def test_a_move_whose_replies_are_lost_is_one_move(
    a_process: Any, heal: Heal, new_store: NewStore, dynamodb_local_url: str
) -> None:
    await new_store().load("x", now=0)
    proxy = Proxy(dynamodb_local_url)
    try:
        store = a_process(endpoint_url=proxy.url)
        record = await store.create(a_record(), now=0)
        await heal(store)
        proxy.play("TransactWriteItems", [Step(How.DROPPED)] * 2)
        home = await store.bring_home(record.id, now=0)
    finally:
        proxy.close()
    assert await sessions(new_store()) == [replace(record, id=home)]


async def test_a_move_that_is_never_answered_brings_nothing_back(
    a_process: Any, heal: Heal, new_store: NewStore, dynamodb_local_url: str
) -> None:
    """All its replies are lost. Meanwhile the browser logs out elsewhere; then its old cookie comes again."""
    other_store = new_store()
    await other_store.load("x", now=0)
    proxy = Proxy(dynamodb_local_url)
    try:
        store = a_process(endpoint_url=proxy.url, timeout=1.0)
        async with browser(store) as one, browser(other_store) as other:
            await one.get("/put")
            old = one.cookies["session_id"]
            await heal(store)
            proxy.play("TransactWriteItems", rest=Step(How.DROPPED))
            proxy.play("GetItem", [Step()], rest=Step(How.DROPPED))
            assert (await one.get("/look")).status_code == 503
            await says(other, "/logout", old)
            proxy.heal()
            with anyio.fail_after(10):
                while (answer := await one.get("/look")).status_code == 503:  # noqa: ASYNC110 - the breaker is open
                    await anyio.sleep(0.1)
            assert answer.json() is None
            assert await says(one, "/look", old) is None
    finally:
        proxy.close()


@pytest.mark.parametrize("ended", [False, True])
async def test_a_move_that_was_applied_without_an_answer_is_not_made_again(
    a_process: Any, heal: Heal, new_store: NewStore, dynamodb_local_url: str, ended: bool
) -> None:
    """What it has stored is in the list of its owner's sessions, where it can be ended."""
    other_store, now = new_store(), int(time.time())
    await other_store.load("x", now=0)
    proxy = Proxy(dynamodb_local_url)
    try:
        store = a_process(endpoint_url=proxy.url, timeout=1.0)
        record = await store.create(a_record(owner=ALICE), now=0)
        await heal(store)
        proxy.play("TransactWriteItems", rest=Step(How.DROPPED))
        proxy.play("GetItem", [Step()], rest=Step(How.DROPPED))
        with pytest.raises(StoreUnavailable):
            await store.bring_home(record.id, now=now)
        proxy.heal()
        [stored] = await sessions(other_store)
        if ended:
            await other_store.delete(stored.id, record=stored)
        with anyio.fail_after(10):
            while True:
                try:
                    home = await store.bring_home(record.id, now=now)
                    break
                except StoreUnavailable:  # The breaker is open.
                    await anyio.sleep(0.1)
        assert home == (record.id if ended else stored.id)
        assert await sessions(other_store) == ([] if ended else [stored])
        assert await store.load(record.id, now=now) == (None if ended else stored)
    finally:
        proxy.close()


async def test_a_logout_elsewhere_before_the_move_holds(a_process: Any, heal: Heal, new_store: NewStore) -> None:
    store, other_store = a_process(), new_store()
    async with browser(store) as one, browser(other_store) as other:
        await one.get("/put")
        old = one.cookies["session_id"]
        await says(other, "/logout", old)
        await heal(store)
        assert (await one.get("/look")).json() is None
        assert await says(one, "/look", old) is None
        assert await sessions(other_store) == []


async def test_a_logout_in_another_memory_before_the_move_holds(a_process: Any, heal: Heal) -> None:
    """As with several workers, none of which has reached DynamoDB yet."""
    store, other_store = a_process(), a_process()
    async with browser(store) as one, browser(other_store) as other:
        await one.get("/put")
        await says(other, "/logout", one.cookies["session_id"])
        await heal(other_store)
        await heal(store)
        assert (await one.get("/look")).json() is None


async def test_what_replaces_it_elsewhere_ends_it(a_process: Any, heal: Heal, new_store: NewStore) -> None:
    store, other_store = a_process(), new_store()
    async with browser(store) as one, browser(other_store) as other:
        await one.get("/put")
        old = one.cookies["session_id"]
        await says(other, "/anew", old)
        await heal(store)
        assert await says(one, "/look", old) is None
        [left] = await sessions(other_store)
        assert left.data == {"n": "100"}
        assert await other_store.is_buried(old.partition(".")[0], now=int(time.time()) + BURIED_SECONDS - 100)


@pytest.mark.parametrize("later", [0, 61])
async def test_a_logout_elsewhere_after_the_move_holds(
    a_process: Any, heal: Heal, new_store: NewStore, later: int
) -> None:
    """The browser has not heard of the new id, and logs out with the old one: within a minute, or after it."""
    store, other_store = a_process(), new_store()
    async with browser(store) as one, browser(other_store) as other:
        await one.get("/put")
        old = one.cookies["session_id"]
        await heal(store)
        assert (await one.get("/look")).json() == 1
        if later:
            marker = {"Key": item_format.key(old.partition(".")[0]), "TableName": other_store.table_name}
            other_store.client.delete_item(**marker)
        await says(other, "/logout", old)
        assert await says(one, "/look", old) is None
        assert await sessions(other_store) == []


async def test_a_repeated_logout_is_no_more_work(new_store: NewStore) -> None:
    store, name, now = new_store(), new_id(), int(time.time())
    for _ in range(3):
        assert await store.delete(name, bury_until=now + BURIED_SECONDS)
    assert await store.is_buried(name, now=now)
    assert await store.load(name, now=now) is None
    assert await sessions(store) == []


async def test_a_logout_that_finds_the_session_ends_it(new_store: NewStore) -> None:
    store, record = new_store(), a_record()
    await store.create(record, now=0)
    await store.delete(record.id, bury_until=record.expires_at)
    assert await store.load(record.id, now=0) is None
    assert await sessions(store) == []


async def test_revoked_elsewhere_before_the_move_it_has_ended(a_process: Any, heal: Heal, new_store: NewStore) -> None:
    store, other_store = a_process(), new_store()
    now = int(time.time())
    revoked = await store.create(a_record(owner=ALICE, created_at=now - 10), now=0)
    unbound = await store.create(a_record(created_at=now - 10), now=0)
    later = await store.create(a_record(owner=ALICE, created_at=now + 10), now=0)
    await other_store.revoke_owner(ALICE, now=now)
    await heal(store)
    for record in (revoked, unbound, later):
        home = await store.bring_home(record.id, now=now)
        assert (await store.load(home, now=now) is None) is (record is revoked)
    assert len(await sessions(other_store)) == 2
    assert [record.owner async for record in other_store.list_owner(ALICE)] == [ALICE]


async def test_revoked_here_the_one_to_keep_is_kept(a_process: Any, heal: Heal, new_store: NewStore) -> None:
    """And an earlier time, heard of later, does not count for more."""
    store, other_store = a_process(), new_store()
    now = int(time.time())
    kept = await store.create(a_record(owner=ALICE, created_at=now - 10), now=0)
    ended = await store.create(a_record(owner=ALICE, created_at=now - 10), now=0)
    assert await store.revoke_owner(ALICE, keep=kept.id) == 1
    await heal(store)
    await other_store.revoke_owner("acme/bob", now=now)
    await other_store.revoke_owner(ALICE, now=now - 20)
    home = await store.bring_home(kept.id, now=now)
    assert [record.id for record in await sessions(other_store)] == [home]
    assert await store.load(ended.id, now=now) is None


async def test_revoked_while_it_moves_it_has_ended(
    a_process: Any, heal: Heal, new_store: NewStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the move has looked, and before it is stored; the index has not heard of it."""
    store, other_store = a_process(), new_store()
    record = await store.create(a_record(owner=ALICE, created_at=int(time.time()) - 10), now=0)
    await heal(store)
    transact = store.primary._transact

    async def revoke_first(*arguments: Any) -> None:
        await other_store.revoke_owner(ALICE)
        await transact(*arguments)

    monkeypatch.setattr(store.primary, "_transact", revoke_first)
    assert await store.bring_home(record.id, now=0) == record.id
    assert await store.load(record.id, now=0) is None
    assert await sessions(other_store) == []


async def test_changed_while_it_moves_it_keeps_the_change(
    a_process: Any, heal: Heal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread has found it in memory, and changes it there."""
    store = a_process()
    record = await store.create(a_record(), now=0)
    await heal(store)
    transact = store.primary._transact

    async def change_first(*arguments: Any) -> None:
        monkeypatch.setattr(store.primary, "_transact", transact)
        await transact(*arguments)
        await store.memory.update(record, Changes(record.expires_at, set={"n": "2"}), now=0)

    monkeypatch.setattr(store.primary, "_transact", change_first)
    home = await store.bring_home(record.id, now=0)
    [stored] = await sessions(store.primary)
    assert (stored.id, stored.data) == (home, {"n": "2"})


async def test_ended_while_it_moves_it_has_ended(a_process: Any, heal: Heal, monkeypatch: pytest.MonkeyPatch) -> None:
    store = a_process()
    record = await store.create(a_record(), now=0)
    await heal(store)
    transact = store.primary._transact

    async def end_first(*arguments: Any) -> None:
        await transact(*arguments)
        await store.delete(record.id)

    monkeypatch.setattr(store.primary, "_transact", end_first)
    await store.bring_home(record.id, now=0)
    assert await sessions(store.primary) == []
    assert await store.load(record.id, now=0) is None


async def test_ids_of_sessions_in_memory_are_ids() -> None:
    assert all(is_random(new_memory_id()) and is_memory_id(new_memory_id()) for _ in range(100))
    assert not any(is_memory_id(new_id()) for _ in range(1000))
