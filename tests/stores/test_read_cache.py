"""The rules of the read cache, each alone: what is kept, for how long, in how much room, and who reads for whom."""

import gc
import sys
import threading
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from dynamodb_sessions import (
    StoreUnavailable,
)
from dynamodb_sessions.stores import read_cache
from dynamodb_sessions.stores.contract import Changes, Moved, Record
from dynamodb_sessions.stores.read_cache import ReadCache
from tests.test_forks import in_a_child

NOW = 1_800_000_000
LATER = NOW + 1000


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def a_record(version: int = 1, **more: Any) -> Record:
    data = {"n": str(version)}
    return replace(Record("a", data, NOW, LATER, version=version, born="b"), **more)


class Times:
    """Both clocks."""

    def __init__(self) -> None:
        self.monotonic = 1000.0
        self.wall = float(NOW)

    def go(self, seconds: float) -> None:
        self.monotonic += seconds
        self.wall += seconds


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Times:
    times = Times()
    monkeypatch.setattr(read_cache, "monotonic", lambda: times.monotonic)
    monkeypatch.setattr(read_cache, "wall_time", lambda: times.wall)
    return times


@pytest.fixture
def cache(times: Times) -> ReadCache:  # noqa: ARG001
    return ReadCache(4, 1_000_000)


class Reads:
    """What is stored, and reads of it that answer when they are told to."""

    def __init__(self, cache: ReadCache) -> None:
        self.stored: Record | Moved | None = a_record()
        self.sent = 0
        self._cache = cache
        self._answers = anyio.Event()
        self._answers.set()

    def hold(self) -> Callable[[], None]:
        """Have reads wait for their answers. Return what lets them go on."""
        self._answers = anyio.Event()
        return self._answers.set

    async def get(self, min_version: int = 1, *, now: int = NOW, session_id: str = "a") -> Record | Moved | None:
        """Do what a store does."""
        kept = self._cache.get(session_id, now=now, min_version=min_version)
        return kept or await self._cache.read(session_id, now=now, min_version=min_version, read=self._read)

    async def _read(self) -> Record | Moved | None:
        self.sent += 1
        found = self.stored
        await self._answers.wait()
        return found


@pytest.fixture
def reads(cache: ReadCache) -> Reads:
    return Reads(cache)


async def sent(reads: Reads, number: int) -> None:
    """Wait until so many reads have been sent."""
    while reads.sent < number:
        await anyio.lowlevel.checkpoint()


pytestmark = pytest.mark.anyio


class TestWhatIsKept:
    async def test_a_session_is_read_once_within_the_seconds(self, reads: Reads, times: Times) -> None:
        first = await reads.get()
        times.go(3.99)
        assert await reads.get() is first
        assert reads.sent == 1
        times.go(0.01)
        await reads.get()
        assert reads.sent == 2

    async def test_it_is_read_again_for_a_browser_that_has_seen_more(self, reads: Reads) -> None:
        await reads.get()
        reads.stored = a_record(2)
        assert await reads.get(2) == a_record(2)
        assert reads.sent == 2

    @pytest.mark.parametrize("late", ["monotonic", "wall"])
    async def test_whichever_clock_says_that_it_is_older_is_believed(
        self, reads: Reads, times: Times, late: str
    ) -> None:
        await reads.get()
        setattr(times, late, getattr(times, late) + 4)
        await reads.get()
        assert reads.sent == 2

    async def test_its_age_counts_from_before_the_read_was_sent(self, reads: Reads, times: Times) -> None:
        answer = reads.hold()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reads.get)
            await sent(reads, 1)
            times.go(4)
            answer()
        await reads.get()
        assert reads.sent == 2

    async def test_absence_is_never_kept(self, reads: Reads) -> None:
        for stored in (None, Moved("elsewhere")):
            reads.stored = stored
            assert await reads.get() == await reads.get() == stored
        assert reads.sent == 4

    async def test_what_is_past_its_expiry_is_read_again(self, reads: Reads) -> None:
        await reads.get()
        reads.stored = a_record(expires_at=LATER + 100)
        assert await reads.get(now=LATER) == reads.stored

    async def test_a_read_that_is_older_than_what_is_kept_is_not_kept(self, reads: Reads, cache: ReadCache) -> None:
        reads.stored = a_record(3)
        await reads.get()
        reads.stored = a_record(2)
        assert await reads.get(4) == a_record(2)
        assert cache.get("a", now=NOW, min_version=1) == a_record(3)

    async def test_of_two_sessions_under_one_id_none_is_kept(self, reads: Reads, cache: ReadCache) -> None:
        """Their versions say nothing of which one is newer."""
        reads.stored = a_record(3)
        await reads.get()
        reads.stored = a_record(1, born="another")
        assert await reads.get(4) == reads.stored
        assert len(cache) == 0

    async def test_a_read_that_fails_keeps_nothing(self, reads: Reads, cache: ReadCache) -> None:
        async def fail() -> None:
            raise StoreUnavailable("no answer")

        await reads.get()
        with pytest.raises(StoreUnavailable):
            await cache.read("a", now=NOW, min_version=2, read=fail)
        assert len(cache) == 0

    async def test_a_forked_process_begins_with_nothing(self, reads: Reads, cache: ReadCache) -> None:
        await reads.get()
        with cache._lock:
            assert in_a_child(lambda: cache.get("a", now=NOW, min_version=1) is None)
        assert len(cache) == 1
        cache.forked()
        assert (len(cache), cache._bytes) == (0, 0)


class TestOwnChanges:
    @pytest.mark.parametrize(
        ("stored", "kept"),
        [
            (a_record(2, expires_at=LATER + 5), a_record(2, data={"n": "1", "x": "1"}, expires_at=LATER + 5)),
            (a_record(3), None),  # Somebody else has changed it between.
            (a_record(2, born="another"), None),
            (a_record(1), None),
            (None, None),  # It is gone, or nobody knows what became of the change.
        ],
    )
    async def test_a_change_is_kept_if_nobody_came_between(
        self, reads: Reads, cache: ReadCache, stored: Record | None, kept: Record | None
    ) -> None:
        await reads.get()
        cache.changed("a", stored, Changes(LATER, set={"x": "1"}))
        assert cache.get("a", now=NOW, min_version=1) == kept
        assert len(cache) == (kept is not None)

    async def test_what_others_had_changed_before_is_kept_with_it(self, reads: Reads, cache: ReadCache) -> None:
        """A request changes what it has loaded some time ago: what is kept is newer than that."""
        reads.stored = a_record(7, data={"others": "1"})
        await reads.get()
        cache.changed("a", a_record(8, data={"mine": "1"}), Changes(LATER, set={"mine": "1"}))
        kept = cache.get("a", now=NOW, min_version=8)
        assert kept is not None
        assert kept.data == {"others": "1", "mine": "1"}

    async def test_neither_a_change_nor_a_touch_renews_its_age(
        self, reads: Reads, cache: ReadCache, times: Times
    ) -> None:
        await reads.get()
        times.go(3)
        cache.changed("a", a_record(1, expires_at=LATER + 5), Changes(LATER + 5))
        touched = cache.get("a", now=NOW, min_version=1)
        assert touched == a_record(1, expires_at=LATER + 5)
        cache.changed("a", a_record(2, expires_at=LATER + 5), Changes(LATER + 5, set={"n": "2"}))
        assert cache.get("a", now=NOW, min_version=2) == a_record(2, expires_at=LATER + 5)
        times.go(1)
        assert cache.get("a", now=NOW, min_version=1) is None

    async def test_a_touch_that_hears_of_a_newer_version_ends_it(self, reads: Reads, cache: ReadCache) -> None:
        await reads.get()
        cache.changed("a", a_record(2), Changes(LATER))
        assert len(cache) == 0

    async def test_nothing_is_kept_that_was_not_read(self, cache: ReadCache) -> None:
        cache.changed("a", a_record(1), Changes(LATER, set={"n": "1"}))
        assert len(cache) == 0

    @pytest.mark.parametrize(
        "act",
        [lambda cache: cache.drop("a"), lambda cache: cache.changed("a", None, Changes(LATER))],
        ids=["ended", "changed"],
    )
    async def test_a_read_that_was_under_way_does_not_bring_back_what_was_dropped(
        self, reads: Reads, cache: ReadCache, act: Callable[[ReadCache], None]
    ) -> None:
        answer = reads.hold()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reads.get)
            await sent(reads, 1)
            act(cache)
            tasks.start_soon(reads.get)
            await sent(reads, 2)  # Nor does whoever comes now wait for it.
            act(cache)
            answer()
        assert len(cache) == 0

    @pytest.mark.parametrize(
        ("found", "kept"),
        [(a_record(1), 1), (a_record(2), 1), (a_record(3), 0), (a_record(1, born="another"), 0), (None, 0)],
    )
    async def test_a_read_past_it_that_shows_it_to_be_outdated_ends_it(
        self, reads: Reads, cache: ReadCache, found: Record | None, kept: int
    ) -> None:
        cache.seen("a", found)
        reads.stored = a_record(2)
        await reads.get()
        cache.seen("a", found)
        assert len(cache) == kept


class TestOneReadForAll:
    async def test_requests_at_the_same_time_make_one_read(self, reads: Reads) -> None:
        answer, found = reads.hold(), []

        async def get() -> None:
            found.append(await reads.get())

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(get)
            await sent(reads, 1)
            await anyio.wait_all_tasks_blocked()
            answer()
        assert found == [a_record()] * 5
        assert reads.sent == 1

    @pytest.mark.parametrize("stored", [None, Moved("elsewhere"), a_record(1), a_record(2, expires_at=NOW + 1)])
    async def test_who_is_not_served_by_anothers_read_reads(self, reads: Reads, stored: Record | Moved | None) -> None:
        """There was nothing, it is older than the browser has seen, or it has expired meanwhile."""
        reads.stored = stored
        answer, found = reads.hold(), []

        async def get() -> None:
            found.append(await reads.get(2, now=NOW + 1))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reads.get)
            await sent(reads, 1)
            tasks.start_soon(get)
            await anyio.wait_all_tasks_blocked()
            reads.stored = a_record(2)
            answer()
        assert found == [a_record(2)]
        assert reads.sent == 2

    async def test_a_read_that_began_too_long_ago_is_not_waited_for(self, reads: Reads, times: Times) -> None:
        answer = reads.hold()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reads.get)
            await sent(reads, 1)
            times.go(4)
            tasks.start_soon(reads.get)
            await sent(reads, 2)
            answer()

    async def test_of_two_reads_the_one_that_began_last_is_kept(self, cache: ReadCache, times: Times) -> None:
        answers, found = [anyio.Event(), anyio.Event()], [a_record(1), a_record(2)]

        async def get(number: int) -> None:
            async def read() -> Record:
                await answers[number].wait()
                return found[number]

            await cache.read("a", now=NOW, min_version=1, read=read)

        async with anyio.create_task_group() as tasks:
            for number in range(2):
                times.go(4)
                tasks.start_soon(get, number)
                await anyio.wait_all_tasks_blocked()
            answers[1].set()
            await anyio.wait_all_tasks_blocked()
            answers[0].set()
        assert cache._entries["a"].record == a_record(2)

    async def test_a_cancelled_reader_fails_nobody(self, reads: Reads) -> None:
        answer, found = reads.hold(), []

        async def get() -> None:
            found.append(await reads.get())

        async with anyio.create_task_group() as tasks:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as first:
                    first.start_soon(get)
                    await sent(reads, 1)
                    tasks.start_soon(get)
                    await anyio.wait_all_tasks_blocked()
                    scope.cancel()
            await sent(reads, 2)
            answer()
        assert found == [a_record()]

    async def test_one_who_waits_may_be_cancelled(self, reads: Reads) -> None:
        answer, found = reads.hold(), []

        async def get() -> None:
            found.append(await reads.get())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(get)
            await sent(reads, 1)
            with anyio.move_on_after(0):
                await reads.get()
            answer()
        assert found == [a_record()]
        assert reads.sent == 1

    async def test_nobody_waits_for_a_read_of_another_event_loop(self, reads: Reads, anyio_backend: str) -> None:
        answer, here = reads.hold(), reads._cache
        elsewhere = Reads(here)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reads.get)
            await sent(reads, 1)

            def work() -> None:
                async def get() -> None:
                    elsewhere.hold()()
                    assert await elsewhere.get() == a_record()

                anyio.run(get, backend=anyio_backend)

            await anyio.to_thread.run_sync(work)
            answer()
        assert elsewhere.sent == 1


class TestBounds:
    async def test_the_least_recently_used_go_first(self, times: Times) -> None:  # noqa: ARG002
        cache = ReadCache(4, 3 * read_cache._size_of(a_record(id="1")))
        reads = Reads(cache)

        async def get(name: str) -> None:
            reads.stored = a_record(id=name)
            await reads.get(session_id=name)

        for name in "123":
            await get(name)
        await get("1")
        await get("4")
        assert set(cache._entries) == {"1", "3", "4"}

    async def test_what_is_too_old_goes_as_well(self, cache: ReadCache, reads: Reads, times: Times) -> None:
        for name in "123":
            reads.stored = a_record(id=name)
            await reads.get(session_id=name)
        times.go(4)
        reads.stored = a_record(id="4")
        await reads.get(session_id="4")
        assert set(cache._entries) == {"4"}

    async def test_what_is_larger_than_all_there_is_is_not_kept(self, times: Times) -> None:  # noqa: ARG002
        cache = ReadCache(4, 1000)
        reads = Reads(cache)
        reads.stored = a_record(data={"n": "x" * 1000})
        assert await reads.get() == reads.stored
        assert (len(cache), cache._bytes) == (0, 0)

    async def test_what_is_larger_than_all_there_is_leaves_the_others(self, times: Times) -> None:  # noqa: ARG002
        cache = ReadCache(4, 2000)
        reads = Reads(cache)
        await reads.get()
        reads.stored = a_record(id="large", data={"n": "x" * 2000})
        await reads.get(session_id="large")
        assert set(cache._entries) == {"a"}

    @pytest.mark.parametrize("entries", [0, 1, 30])
    async def test_it_takes_no_more_memory_than_it_is_told(self, times: Times, entries: int) -> None:  # noqa: ARG002
        size = 300_000
        cache = ReadCache(4, size)
        gc.collect()
        tracemalloc.start()
        try:
            for number in range(1000):
                data = {f"key {number} {each}": f"näme {each}" * 20 for each in range(entries)}
                record = a_record(id=f"{number:043}", data=data, owner=f"acme/{number}", label="ü" * 100)

                async def read(record: Record = record) -> Record:
                    return record

                await cache.read(record.id, now=NOW, min_version=1, read=read)
            del record, data, read
            gc.collect()
            taken, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert taken <= size * 1.05
        assert cache._bytes <= size

    def test_threads_may_share_it(self, anyio_backend: str) -> None:
        cache = ReadCache(4, 20 * read_cache._size_of(a_record()))

        async def use(seed: int) -> None:
            for number in range(300):
                name = str((number * seed) % 30)

                async def read(name: str = name) -> Record:
                    return a_record(id=name)

                assert await cache.read(name, now=NOW, min_version=1, read=read) is not None
                cache.get(name, now=NOW, min_version=1)
                cache.changed(name, a_record(2, id=name), Changes(LATER, set={"n": "2"}))
                if number % 7 == 0:
                    cache.drop(name)

        threads = [
            threading.Thread(target=lambda seed=seed: anyio.run(use, seed, backend=anyio_backend))
            for seed in (1, 7, 11)
        ]
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(interval)
        assert cache._bytes == sum(entry.size for entry in cache._entries.values())
        assert not cache._flights
