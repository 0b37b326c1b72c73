"""Long connections: `session.wait_ended` returns when the session has ended elsewhere."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from dynamodb_sessions import ConfigurationError, MemoryStore, Session, SessionError, StoreUnavailable, open_session
from dynamodb_sessions.stores.contract import Record
from tests.conftest import Clock
from tests.helpers.browsing import Browser

pytestmark = pytest.mark.anyio

SOON = 0.02


@pytest.fixture(params=["memory", "local", "async"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def waits(session: Session, meanwhile: Callable[[], Awaitable[object]]) -> bool:
    """Return whether the session still waited when something had been done, and returned afterwards."""
    returned = anyio.Event()

    async def wait() -> None:
        await session.wait_ended(every=SOON)
        returned.set()

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.sleep(5 * SOON)
            waited = not returned.is_set()
            await meanwhile()
            await returned.wait()
    return waited


@pytest.mark.parametrize("how", ["logout", "revoked", "expired", "rotated", "begun anew"])
async def test_it_returns_when_the_session_ends_elsewhere(how: str, store: Any, clock: Clock) -> None:
    alice = Browser(store)
    await alice.do(lambda session: session.bind("acme/alice"))
    elsewhere = Browser(store)
    elsewhere.cookies = alice.cookies

    async def end() -> None:
        match how:
            case "logout":
                await elsewhere.do(Session.clear, "/elsewhere")
            case "revoked":
                await store.delete(record.id)
            case "expired":
                clock.now += 3600
            case "rotated":
                await elsewhere.do(Session.regenerate, "/elsewhere")
            case "begun anew":
                await store.delete(record.id)
                again = Record(record.id, {}, clock.now, clock.now + 60, born="another")
                while not await store.create(again, now=clock.now):  # noqa: ASYNC110
                    await anyio.sleep(SOON)

    (record,) = [each async for each in store.scan()]
    assert await alice.do(lambda session: waits(session, end))


async def test_its_own_logout_ends_it_and_its_own_rotation_does_not(store: Any) -> None:
    async with open_session(store, "job-1") as session:
        session["n"] = 1
        await session.save()

        async def change() -> None:
            session["n"] = 2
            await session.save()
            await anyio.sleep(3 * SOON)
            session.clear()
            await session.save()

        assert await waits(session, change)


async def test_an_outage_is_no_end(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(MemoryStore):
        fails = 0

        async def load(self, session_id: str, **options: Any) -> Record | None:
            if self.fails:
                self.fails -= 1
                raise StoreUnavailable("it is down")
            return await super().load(session_id, **options)

    store = Failing()
    async with open_session(store, "job-1") as session:
        session["n"] = 1
        await session.save()
        store.fails = 2

        async def end() -> None:
            while store.fails:  # noqa: ASYNC110
                await anyio.sleep(SOON)
            await store.delete("job-1")

        with caplog.at_level(logging.WARNING):
            assert await waits(session, end)
        assert caplog.text.count("it is down") == 2
        assert "job-1" not in caplog.text


async def test_it_costs_one_cheap_read_each_time_and_is_no_use_of_the_session(clock: Clock) -> None:
    reads: list[object] = []

    class Counting(MemoryStore):
        async def load(self, session_id: str, **options: Any) -> Record | None:
            reads.append(options.get("consistency"))
            return await super().load(session_id, **options)

    store = Counting()
    async with open_session(store, "job-1") as session:
        session["n"] = 1
    clock.now += 1000
    async with open_session(store, "job-1", touch_after=1) as session:
        reads.clear()
        with anyio.move_on_after(10.5 * SOON):
            await session.wait_ended(every=SOON)
    assert set(reads) == {"eventual"}
    assert 2 <= len(reads) <= 10
    record = await store.load("job-1", now=clock.now, consistency="default")
    assert record is not None
    assert record.expires_at == clock.now - 1000 + 3600


@pytest.mark.parametrize("every", [0, -1, True, "30", float("inf"), float("nan")])
async def test_it_asks_every_so_many_seconds(every: Any) -> None:
    with pytest.raises(ConfigurationError, match="every"):
        await Session().wait_ended(every=every)


async def test_what_is_not_stored_cannot_end() -> None:
    async with open_session(MemoryStore(), "job-1") as session:
        with pytest.raises(SessionError, match="save"):
            await session.wait_ended()
