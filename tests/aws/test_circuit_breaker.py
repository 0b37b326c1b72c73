import contextlib
import threading

import anyio
import anyio.lowlevel
import pytest

from dynamodb_sessions import DynamoDBStore, StoreUnavailable
from dynamodb_sessions.aws import threads
from dynamodb_sessions.aws.circuit_breaker import FAILURES, CircuitBreaker
from dynamodb_sessions.identifiers import new_id
from tests.helpers.proxy import How, Proxy, Step

OUT = StoreUnavailable("out")


class Asked:
    """A probe that fails until it is told not to, and a clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.works = False
        self.times = 0
        self.ended = threading.Event()

    def probe(self) -> None:
        self.times += 1
        try:
            if not self.works:
                raise OUT
        finally:
            self.ended.set()

    def clock(self) -> float:
        return self.now


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture
def breaker(asked: Asked) -> CircuitBreaker:
    return CircuitBreaker(asked.probe, clock=asked.clock)


def test_it_opens_after_ten_failures_in_a_row(breaker: CircuitBreaker) -> None:
    for _ in range(FAILURES - 1):
        breaker.failed(OUT)
    breaker.answered()
    for _ in range(FAILURES):
        breaker.check()
        breaker.failed(OUT)
    with pytest.raises(StoreUnavailable, match="10 times in a row and is asked again soon: out"):
        breaker.check()


def refused(breaker: CircuitBreaker) -> bool:
    try:
        breaker.check()
    except StoreUnavailable:
        return True
    return False


def test_it_asks_at_most_once_a_second_and_closes_at_the_first_answer(breaker: CircuitBreaker, asked: Asked) -> None:
    for _ in range(FAILURES):
        breaker.failed(OUT)
    for expected in (1, 2):
        asked.ended.clear()
        for _ in range(5):
            assert refused(breaker)
        assert asked.times == expected - 1
        asked.now += 1.0
        for _ in range(5):
            assert refused(breaker)
        assert asked.ended.wait(5)
        assert asked.times == expected
    asked.works = True
    asked.ended.clear()
    asked.now += 1.0
    assert refused(breaker)
    assert asked.ended.wait(5)
    for thread in threading.enumerate():
        if thread.name == "dynamodb-sessions-breaker":
            thread.join(5)
    assert not refused(breaker)


@pytest.mark.anyio
async def test_a_store_that_is_gone_is_not_waited_for_and_found_again(moto_url: str, table_name: str) -> None:
    store = DynamoDBStore(table_name, endpoint_url=moto_url, create_table=True)
    assert await store.load(new_id(), now=0) is None
    sent: list[str] = []
    gone = [True]

    def drop(**_: object) -> None:
        sent.append("")
        if gone[0]:
            raise OSError("gone")

    store.client.meta.events.register("before-call.dynamodb", drop)
    for _ in range(FAILURES + 20):
        with pytest.raises(StoreUnavailable):
            await store.load(new_id(), now=0)
    assert len(sent) == FAILURES
    gone[0] = False
    with anyio.fail_after(10):
        while True:
            try:
                assert await store.load(new_id(), now=0) is None
                break
            except StoreUnavailable:
                await anyio.sleep(0.05)


@pytest.mark.anyio
async def test_a_call_that_found_no_free_thread_says_nothing_about_dynamodb(
    monkeypatch: pytest.MonkeyPatch, moto_url: str, table_name: str
) -> None:
    """More calls at once than there are threads, and one that hangs: the others fail without being counted."""
    monkeypatch.setattr(threads, "MAX_CONCURRENT_CALLS", 1)
    monkeypatch.setattr(threads, "_limiter", anyio.lowlevel.RunVar("one thread"))
    store = DynamoDBStore(table_name, endpoint_url=moto_url, create_table=True, timeout=0.3)
    assert store.probe()
    hanging = threading.Event()
    store.client.meta.events.register("before-call.dynamodb", lambda **_: hanging.wait(5))
    errors: list[str] = []

    async def load() -> None:
        with pytest.raises(StoreUnavailable) as caught:
            await store.load(new_id(), now=0)
        errors.append(str(caught.value))

    async with anyio.create_task_group() as tasks:
        for _ in range(2 * FAILURES):
            tasks.start_soon(load)
    hanging.set()
    of_threads = [error for error in errors if error.startswith("more than 1 calls at once")]
    # The thread that hangs is given up after the deadline, and another call may get its place at the last moment.
    assert len(of_threads) > FAILURES
    assert store._calls._breaker._failures == len(errors) - len(of_threads)


@pytest.mark.anyio
@pytest.mark.parametrize("client", [None, "async"])
async def test_a_visitors_throttled_session_is_nobody_elses_trouble(table_name: str, client: str | None) -> None:
    """A refusal is an answer: however often one key is throttled, all others are read."""
    throttled = new_id()

    class ThrottlingOne(Proxy):
        """Instead of an engine, which may be too busy to be told from one that does not answer."""

        def forward(self, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:  # noqa: ARG002
            refusal = b'{"__type": "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException"}'
            is_throttled = throttled.encode() in body
            kept = {"Content-Type": "application/x-amz-json-1.0"}
            return (400, kept, refusal) if is_throttled else (200, kept, b"{}")

    proxy = ThrottlingOne("http://127.0.0.1:1")
    store = DynamoDBStore(table_name, endpoint_url=proxy.url, client=client, timeout=6.0)

    async def read_throttled() -> None:
        with pytest.raises(StoreUnavailable, match="throttled"):
            await store.load(throttled, now=0)

    try:
        async with anyio.create_task_group() as tasks:
            for _ in range(FAILURES + 5):
                tasks.start_soon(read_throttled)
        for _ in range(15):
            assert await store.load(new_id(), now=0) is None
    finally:
        proxy.close()


def breaker_threads() -> int:
    return sum(thread.name == "dynamodb-sessions-breaker" for thread in threading.enumerate())


@pytest.mark.anyio
@pytest.mark.parametrize("client", [None, "async"])
async def test_a_server_that_drips_is_asked_by_one_at_a_time_and_found_again(
    moto_url: str, table_name: str, client: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its replies would take longer than this test."""
    monkeypatch.setattr("tests.helpers.proxy.DRIPS", 10_000)
    assert DynamoDBStore(table_name, endpoint_url=moto_url, create_table=True).probe()
    proxy = Proxy(moto_url)
    proxy.play("GetItem", rest=Step(How.DRIPPED))
    store = DynamoDBStore(table_name, endpoint_url=proxy.url, client=client, timeout=1.5)
    most = 0
    try:
        for _ in range(FAILURES):
            store._calls._breaker.failed(OUT)
        with anyio.move_on_after(5):
            while True:
                with pytest.raises(StoreUnavailable):
                    await store.load(new_id(), now=0)
                most = max(most, breaker_threads())
                await anyio.sleep(0.05)
        assert most == 1
        assert len(proxy.requests) > 1
        proxy.play("GetItem")
        with anyio.fail_after(30):
            while store._calls._breaker.is_open:
                await anyio.sleep(0.05)
                with contextlib.suppress(StoreUnavailable):
                    await store.load(new_id(), now=0)
        await anyio.sleep(0.1)
        assert breaker_threads() == 0
    finally:
        proxy.close()


def test_one_that_is_still_asking_is_not_joined_by_another(asked: Asked) -> None:
    may_end = threading.Event()
    times: list[float] = []

    def ask() -> None:
        times.append(asked.now)
        may_end.wait(5)

    breaker = CircuitBreaker(ask, clock=asked.clock)
    for _ in range(FAILURES):
        breaker.failed(OUT)
    for _ in range(5):
        asked.now += 1.0
        assert refused(breaker)
    may_end.set()
    assert len(times) == 1


def test_where_no_thread_can_be_started_it_is_tried_again(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    breaker = CircuitBreaker(asked.probe, clock=asked.clock)
    for _ in range(FAILURES):
        breaker.failed(OUT)

    def too_many(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    asked.now += 1.0
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", too_many)
        assert refused(breaker)
    asked.now += 1.0
    assert refused(breaker)
    assert asked.ended.wait(5)
