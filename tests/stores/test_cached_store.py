"""A store with a read cache: which reads use it, what ends what it keeps, and what its sessions see of others."""

import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import anyio
import httpx
import pytest
from starlette.requests import Request

from dynamodb_sessions import ConfigurationError, DynamoDBStore, MemoryStore, SessionEvent, StoreUnavailable
from dynamodb_sessions.aws.errors import OutcomeUnknown
from dynamodb_sessions.identifiers import new_born, new_id, new_memory_id
from dynamodb_sessions.stores.contract import BURIED_SECONDS, Changes, Record
from dynamodb_sessions.stores.fallback import FallbackStore
from dynamodb_sessions.stores.observed_store import observed
from tests.conftest import Clock
from tests.helpers.asgi import an_app, browser, by_path, clear, held, look, put
from tests.helpers.fallback import Time, settled

pytestmark = pytest.mark.anyio

NOW = int(time.time())
LATER = NOW + 100_000
SECONDS = 3000
"""Of a cache that keeps things for as long as a test takes."""


@pytest.fixture(params=["moto", "local"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def cached(new_store: Callable[..., DynamoDBStore]) -> DynamoDBStore:
    return new_store(cache_seconds=SECONDS)


@pytest.fixture
def other(new_store: Callable[..., DynamoDBStore]) -> DynamoDBStore:
    """Another process, without a cache."""
    return new_store()


class Calls:
    """The calls that a store makes, and what happens instead of some."""

    def __init__(self, store: DynamoDBStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reads: list[bool] = []
        """Whether each was strong."""
        self.instead: list[Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]] = []
        """What is done in place of the next writes, each given what would make it."""
        self._call = store._calls._transport.call
        monkeypatch.setattr(store._calls._transport, "call", self.call)

    async def call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        if operation == "get_item":
            self.reads.append(parameters["ConsistentRead"])
        elif self.instead:
            answer: dict[str, Any] = await self.instead.pop(0)(lambda: self._call(operation, **parameters))
            return answer
        return await self._call(operation, **parameters)


@pytest.fixture
def calls(cached: DynamoDBStore, monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(cached, monkeypatch)


@pytest.fixture
async def record(other: DynamoDBStore) -> Record:
    """A session, stored."""
    made = Record(new_id(), {"n": "1"}, NOW, LATER, owner=new_id(), handle="h", born=new_born())
    assert await other.create(made, now=NOW) == made
    return made


async def test_a_read_with_a_floor_is_kept_and_spares_the_next(
    cached: DynamoDBStore, record: Record, calls: Calls
) -> None:
    for _ in range(3):
        assert await cached.load(record.id, now=NOW, min_version=1) == record
    assert calls.reads == [True]


@pytest.mark.parametrize("options", [{}, {"min_version": 1, "consistency": "strong"}, {"consistency": "eventual"}])
async def test_other_reads_neither_use_it_nor_fill_it(
    cached: DynamoDBStore, other: DynamoDBStore, record: Record, calls: Calls, options: dict[str, Any]
) -> None:
    await cached.load(record.id, now=NOW, **options)
    await cached.load(record.id, now=NOW, min_version=1)
    assert len(calls.reads) == 2
    changed = await other.update(record, Changes(LATER, set={"n": "2"}), now=NOW)
    assert await cached.load(record.id, now=NOW, min_version=1) == record
    assert await cached.load(record.id, now=NOW, **options) == changed
    # What that has shown to be outdated is not used any more.
    assert await cached.load(record.id, now=NOW, min_version=1) == changed


async def test_whoever_lists_sessions_sees_what_is_stored(
    cached: DynamoDBStore, other: DynamoDBStore, record: Record
) -> None:
    await cached.load(record.id, now=NOW, min_version=1)
    changed = await other.update(record, Changes(LATER, set={"n": "2"}), now=NOW)
    assert [each async for each in cached.list_owner(record.owner)] == [changed]


async def test_it_is_filled_by_strong_reads_though_others_are_cheap(
    new_store: Callable[..., DynamoDBStore], record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = new_store(cache_seconds=SECONDS, consistent_read=False)
    calls = Calls(cached, monkeypatch)
    await cached.load(record.id, now=NOW, min_version=1)
    await cached.load(record.id, now=NOW, min_version=1)
    assert calls.reads == [True]


async def test_what_is_due_to_be_touched_is_read_again(
    cached: DynamoDBStore, other: DynamoDBStore, record: Record
) -> None:
    await cached.load(record.id, now=NOW, min_version=1)
    touched = await other.update(record, Changes(LATER + 50), now=NOW)
    told: list[tuple[Record, int]] = []

    def is_due(seen: Record, now: int) -> bool:
        told.append((seen, now))
        return True

    assert await cached.load(record.id, now=NOW, min_version=1, is_due=is_due) == touched
    assert told == [(record, NOW)]


Act = Callable[[DynamoDBStore, Record], Awaitable[Any]]
ENDS: dict[str, Act] = {
    "deleted": lambda store, record: store.delete(record.id),
    "deleted, this session only": lambda store, record: store.delete(record.id, record=record),
    "buried": lambda store, record: store.delete(record.id, bury_until=NOW + BURIED_SECONDS),
    "its owner's revoked": lambda store, record: store.revoke_owner(record.owner),
    "one too many": lambda store, record: store.limit_owner(str(record.owner), 1, keep="another"),
    "moved": lambda store, record: store.rotate(record, new_id(), Changes(LATER), now=NOW),
    "replaced": lambda store, record: store.create(replace(record, id=new_id()), now=NOW, replaces=record.id),
}


@pytest.mark.parametrize("how", ENDS)
async def test_what_this_process_ends_is_ended_here_at_once(cached: DynamoDBStore, record: Record, how: str) -> None:
    await cached.load(record.id, now=NOW, min_version=1)
    await ENDS[how](cached, record)
    assert await cached.load(record.id, now=NOW, min_version=1) is None


async def test_what_has_moved_is_ended_where_it_is_kept(
    cached: DynamoDBStore, other: DynamoDBStore, record: Record
) -> None:
    moved = await other.rotate(record, new_id(), Changes(LATER), now=int(time.time()))
    assert moved is not None
    await cached.load(moved.id, now=NOW, min_version=1)
    assert await cached.delete(record.id, record=record)
    assert await cached.load(moved.id, now=NOW, min_version=1) is None


async def test_what_had_moved_before_it_is_replaced_here_is_ended_here_at_once(
    cached: DynamoDBStore, other: DynamoDBStore, record: Record
) -> None:
    now = int(time.time())
    await cached.load(record.id, now=now, min_version=1)
    assert await other.rotate(record, new_id(), Changes(LATER), now=now) is not None
    assert await cached.create(replace(record, id=new_id()), now=now, replaces=record.id) is not None
    assert await cached.load(record.id, now=now, min_version=1) is None


async def test_another_session_under_the_same_id_takes_its_place(
    cached: DynamoDBStore, other: DynamoDBStore, record: Record
) -> None:
    await cached.load(record.id, now=NOW, min_version=1)
    await other.delete(record.id)
    anew = replace(record, data={"anew": "1"}, born=new_born())
    assert await cached.create(anew, now=NOW) == anew
    assert await cached.load(record.id, now=NOW, min_version=1) == anew


async def test_an_own_change_is_kept(cached: DynamoDBStore, record: Record, calls: Calls) -> None:
    await cached.load(record.id, now=NOW, min_version=1)
    changed = await cached.update(record, Changes(LATER + 9, set={"x": "1"}, remove=frozenset("n")), now=NOW)
    assert await cached.load(record.id, now=NOW, min_version=2) == changed
    assert calls.reads == [True]


@pytest.mark.parametrize(
    "act",
    [
        lambda store, record: store.update(record, Changes(LATER, set={"x": "1"}), now=NOW),
        lambda store, record: store.exchange(record, lambda _: Changes(LATER, set={"x": "1"}), now=NOW),
        lambda store, record: store.update(
            record, Changes(LATER, set={"x": "1", **{f"k{number}": "1" for number in range(101)}}), now=NOW
        ),
    ],
    ids=["an update", "an exchange", "of many keys"],
)
async def test_a_change_after_others_is_read_again(
    cached: DynamoDBStore, other: DynamoDBStore, record: Record, act: Act
) -> None:
    await cached.load(record.id, now=NOW, min_version=1)
    await other.update(record, Changes(LATER, set={"others": "1"}), now=NOW)
    await act(cached, record)
    found = await cached.load(record.id, now=NOW, min_version=1)
    assert found is not None
    assert {"others", "x", "n"} <= found.data.keys()


@pytest.mark.parametrize(
    "act",
    [
        lambda store, record: store.update(record, Changes(LATER, set={"x": "1"}), now=NOW),
        lambda store, record: store.update(record, Changes(LATER + 50), now=NOW),
        lambda store, record: store.exchange(record, lambda _: Changes(LATER, set={"x": "1"}), now=NOW),
        lambda store, record: store.rotate(record, new_id(), Changes(LATER), now=NOW),
    ],
    ids=["a change", "a touch", "an exchange", "a rotation"],
)
async def test_what_fails_because_it_is_gone_is_heard_of(
    cached: DynamoDBStore, other: DynamoDBStore, record: Record, act: Act
) -> None:
    await cached.load(record.id, now=NOW, min_version=1)
    await other.delete(record.id)
    assert await act(cached, record) is None
    assert await cached.load(record.id, now=NOW, min_version=1) is None


@pytest.mark.parametrize("how", ["deleted", "moved", "replaced"])
async def test_what_may_have_been_ended_is_read_again(
    cached: DynamoDBStore, record: Record, calls: Calls, how: str
) -> None:
    """The reply is lost, and then DynamoDB is out of reach."""
    await cached.load(record.id, now=NOW, min_version=1)

    async def lost(send: Callable[[], Awaitable[Any]]) -> None:
        await send()
        raise OutcomeUnknown("no answer")

    async def out(_: Callable[[], Awaitable[Any]]) -> None:
        raise StoreUnavailable("out of reach")

    calls.instead = [lost, out]
    with pytest.raises(StoreUnavailable, match="out of reach"):
        await ENDS[how](cached, record)
    assert await cached.load(record.id, now=NOW, min_version=1) is None


async def test_a_change_that_was_settled_after_others_changed_it_too_is_read_again(
    cached: DynamoDBStore, other: DynamoDBStore, record: Record, calls: Calls
) -> None:
    """The deciding attempt's reply is lost; another request here reads it; another process makes a change; and only
    then a read shows that ours was made: its version is one more than what is kept, which yet lacks that change."""

    async def never(_: Callable[[], Awaitable[Any]]) -> None:
        raise OutcomeUnknown("no answer")

    async def decides(send: Callable[[], Awaitable[Any]]) -> None:
        await send()
        seen = await cached.load(record.id, now=NOW, min_version=2)
        assert seen is not None
        await other.update(seen, Changes(LATER, set={"others": "1"}), now=NOW)
        raise OutcomeUnknown("no answer")

    calls.instead = [never, decides]
    stored = await cached.update(record, Changes(LATER, set={"mine": "1"}), now=NOW)
    assert stored is not None
    assert stored.version == 3
    assert await cached.load(record.id, now=NOW, min_version=3) == stored
    assert stored.data.keys() == {"n", "mine", "others"}


async def test_requests_at_once_make_one_read(cached: DynamoDBStore, record: Record, calls: Calls) -> None:
    found: list[Record | None] = []

    async def load() -> None:
        found.append(await cached.load(record.id, now=NOW, min_version=1))

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(load)
    assert found == [record] * 20
    assert calls.reads == [True]


async def test_what_took_no_call_is_told_with_no_capacity(cached: DynamoDBStore, record: Record, engine: str) -> None:
    events: list[SessionEvent] = []
    kept = observed(cached, events.append)

    async def load() -> None:
        await kept.load(record.id, now=NOW, min_version=1)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(load)
        tasks.start_soon(load)
    await load()
    units = sorted(event.capacity_units or 0 for event in events)
    assert units[:2] == [0, 0]
    assert {event.capacity_units for event in events} >= {0.0}
    assert units[2] == 1 if engine == "local" else True
    assert [event.outcome for event in events] == ["ok"] * 3


class TestBesideAFallback:
    """What a fallback does to its store ends what is kept of it."""

    @pytest.fixture
    def passing(self) -> Time:
        return Time()

    @pytest.fixture
    async def fallback(self, cached: DynamoDBStore, passing: Time) -> FallbackStore:
        """One whose table could not be used, and now can be."""
        cached.mark_unusable(StoreUnavailable("not yet"))
        fallback = FallbackStore(cached, MemoryStore(), clock=passing)
        await fallback.initialise()
        return fallback

    async def heal(self, fallback: FallbackStore, passing: Time) -> None:
        with anyio.fail_after(30):
            while not fallback.is_initialised:
                passing.now += 60
                await fallback.initialise()
                await settled(fallback)

    async def test_a_session_that_came_home_ends_with_a_logout_elsewhere_under_its_old_id(
        self, fallback: FallbackStore, other: DynamoDBStore, passing: Time
    ) -> None:
        began = Record(new_memory_id(), {"n": "1"}, NOW, LATER, version=3, born=new_born())
        assert await fallback.create(began, now=NOW)
        await self.heal(fallback, passing)
        home = await fallback.bring_home(began.id, now=NOW)
        assert home != began.id
        for name in (home, began.id):
            assert await fallback.load(name, now=NOW, min_version=3) is not None
        await other.delete(began.id, bury_until=NOW + BURIED_SECONDS)
        assert await fallback.bring_home(began.id, now=NOW) == began.id
        assert await fallback.load(home, now=NOW, min_version=3) is None

    async def test_a_logout_under_the_old_id_ends_it(self, fallback: FallbackStore, passing: Time) -> None:
        began = Record(new_memory_id(), {"n": "1"}, NOW, LATER, born=new_born())
        assert await fallback.create(began, now=NOW)
        await self.heal(fallback, passing)
        home = await fallback.bring_home(began.id, now=NOW)
        assert await fallback.load(home, now=NOW, min_version=1) is not None
        await fallback.delete(began.id, record=began)
        assert await fallback.load(home, now=NOW, min_version=1) is None

    async def test_logouts_that_waited_end_what_was_kept_before(
        self, cached: DynamoDBStore, record: Record, passing: Time
    ) -> None:
        """Both of one session, and of an owner."""
        another = replace(record, id=new_id(), owner=new_id())
        await cached.create(another, now=NOW)
        for each in (record, another):
            assert await cached.load(each.id, now=NOW, min_version=1) is not None
        cached.mark_unusable(StoreUnavailable("not yet"))
        fallback = FallbackStore(cached, MemoryStore(), clock=passing)
        await fallback.delete(record.id)
        await fallback.revoke_owner(another.owner)
        await self.heal(fallback, passing)
        for each in (record, another):
            assert await fallback.load(each.id, now=NOW, min_version=1) is None

    async def test_revocations_and_moves_through_it_end_what_is_kept(
        self, cached: DynamoDBStore, record: Record
    ) -> None:
        fallback = FallbackStore(cached, MemoryStore())
        assert await fallback.load(record.id, now=NOW, min_version=1) == record
        moved = await fallback.rotate(record, new_id(), Changes(LATER), now=NOW)
        assert moved is not None
        assert await fallback.load(record.id, now=NOW, min_version=1) is None
        assert await fallback.load(moved.id, now=NOW, min_version=2) == moved
        assert await fallback.revoke_owner(record.owner) == 1
        assert await fallback.load(moved.id, now=NOW, min_version=2) is None


# In requests.


def login(request: Request) -> None:
    request.session["user"] = "alice"
    held(request).bind("alice")


def renew(request: Request) -> None:
    request.session["user"] = "alice"
    held(request).regenerate()


async def save_and_login(request: Request) -> None:
    request.session["user"] = "bob"
    await held(request).save()
    login(request)


PATHS = by_path(
    login=login,
    saved=save_and_login,
    renew=renew,
    put=put(a=1),
    more=put(b=2),
    look=look,
    clear=clear,
    reload=lambda request: held(request).reload(),
    add=lambda request: held(request).atomically(lambda data: data.__setitem__("n", data.get("n", 0) + 1)),
)


async def test_a_browser_reads_once_and_sees_what_it_writes(cached: DynamoDBStore, calls: Calls) -> None:
    async with browser(an_app(cached, PATHS)) as client:
        await client.get("/put")
        calls.reads.clear()
        for _ in range(5):
            assert (await client.get("/look")).json() == {"a": 1}
        assert (await client.get("/more")).json() == {"a": 1, "b": 2}
        for _ in range(5):
            assert (await client.get("/look")).json() == {"a": 1, "b": 2}
    assert calls.reads == [True]


async def test_what_a_browser_wrote_at_another_instance_is_seen_at_once(
    cached: DynamoDBStore, other: DynamoDBStore
) -> None:
    async with browser(an_app(cached, PATHS)) as here, browser(an_app(other, PATHS)) as there:
        await here.get("/put")
        await here.get("/look")
        there.cookies = here.cookies
        await there.get("/more")
        here.cookies = there.cookies
        assert (await here.get("/look")).json() == {"a": 1, "b": 2}


async def test_what_others_did_is_late_by_the_seconds_and_no_longer(
    cached: DynamoDBStore, other: DynamoDBStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with browser(an_app(cached, PATHS)) as here, browser(an_app(other, PATHS)) as there:
        await here.get("/put")
        await here.get("/look")
        there.cookies.update(here.cookies)
        await there.get("/clear")
        assert (await here.get("/look")).json() == {"a": 1}
        later = time.monotonic() + SECONDS
        monkeypatch.setattr("dynamodb_sessions.stores.read_cache.monotonic", lambda: later)
        assert (await here.get("/look")).json() == {}


async def test_what_must_be_certain_is_read(cached: DynamoDBStore, other: DynamoDBStore) -> None:
    async with browser(an_app(cached, PATHS)) as here, browser(an_app(other, PATHS)) as there:
        await here.get("/put")
        await here.get("/look")
        there.cookies.update(here.cookies)
        await there.get("/more")
        assert (await here.get("/reload")).json() == {"a": 1, "b": 2}
        await there.get("/add")
        assert (await here.get("/add")).json() == {"a": 1, "b": 2, "n": 2}


@pytest.mark.parametrize("path", ["/login", "/saved"])
async def test_a_login_does_not_bring_back_what_was_ended_elsewhere(
    cached: DynamoDBStore, other: DynamoDBStore, path: str
) -> None:
    async with browser(an_app(cached, PATHS)) as here, browser(an_app(other, PATHS)) as there:
        await here.get("/login")
        await here.get("/put")
        assert (await here.get("/look")).json() == {"a": 1, "user": "alice"}
        await other.revoke_owner("alice")
        await here.get(path)
        there.cookies.update(here.cookies)
        assert (await there.get("/look")).json() == {"user": "alice"}


@pytest.mark.parametrize("path", ["/login", "/renew"])
async def test_a_new_id_is_given_though_the_session_has_another_one_elsewhere(
    cached: DynamoDBStore, other: DynamoDBStore, path: str
) -> None:
    """A login whose response was lost locks nobody out."""
    async with browser(an_app(cached, PATHS)) as here, browser(an_app(other, PATHS)) as there:
        await here.get("/put")
        await here.get("/look")
        there.cookies.update(here.cookies)
        await there.get(path)
        await here.get(path)
        assert (await here.get("/look")).json() == {"user": "alice"}


async def test_a_session_that_lives_keeps_its_content_under_its_new_id(cached: DynamoDBStore) -> None:
    async with browser(an_app(cached, PATHS)) as here:
        await here.get("/put")
        await here.get("/look")
        for path in ("/renew", "/login"):
            await here.get(path)
            assert (await here.get("/look")).json() == {"a": 1, "user": "alice"}


async def test_several_instances_touch_a_session_once(
    cached: DynamoDBStore, new_store: Callable[..., DynamoDBStore], clock: Clock
) -> None:
    events: list[SessionEvent] = []
    instances = [cached, new_store(cache_seconds=SECONDS), new_store(cache_seconds=SECONDS)]
    cookies = httpx.Cookies()
    for path in ("/put", "/look"):
        for instance in instances:
            async with browser(an_app(instance, PATHS, on_event=events.append)) as client:
                client.cookies = cookies
                await client.get(path)
                cookies = client.cookies
        clock.now += 400
    assert [event.name for event in events].count("touch") == 1


# Options.


@pytest.mark.parametrize("seconds", [-1, 3601, True, "5", None, float("nan"), float("inf")])
def test_seconds_that_are_none_are_refused(seconds: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"cache_seconds={seconds!r}"):
        DynamoDBStore("sessions", cache_seconds=seconds)


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "1", None])
def test_sizes_that_are_none_are_refused(size: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"cache_size={size!r}"):
        DynamoDBStore("sessions", cache_size=size)


def test_a_store_with_a_cache_wants_versions_in_cookies() -> None:
    store = DynamoDBStore("sessions", cache_seconds=0.5)
    assert store.keeps_versions
    assert observed(FallbackStore(store, None), None).keeps_versions


def test_without_a_cache_nothing_of_it_is_imported() -> None:
    program = (
        "import sys; from dynamodb_sessions import DynamoDBStore; DynamoDBStore('sessions', region_name='us-east-1');"
        "sys.exit('dynamodb_sessions.stores.read_cache' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


async def test_a_store_of_somebodys_own_need_not_know_of_it() -> None:
    class Own(MemoryStore):
        async def load(self, session_id: str, *, now: int, min_version: int = 0, **options: Any) -> Record | None:
            assert "is_due" not in options
            return await super().load(session_id, now=now, min_version=min_version, **options)

    async with browser(an_app(Own(), PATHS)) as client:
        await client.get("/put")
        assert (await client.get("/look")).json() == {"a": 1}
