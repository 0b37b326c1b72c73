"""TurnTakingLock: one thread at a time prepares a request, and none keeps another from waiting for its answer."""

import contextlib
import io
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dynamodb_sessions import ConfigurationError, DynamoDBStore
from dynamodb_sessions.aws import threads
from dynamodb_sessions.aws.boto3_transport import Boto3Transport
from dynamodb_sessions.aws.threads import TurnTakingLock
from dynamodb_sessions.stores import table_schema


@pytest.fixture
def store(moto_url: str, table_name: str, dynamodb: Any) -> DynamoDBStore:
    table_schema.create(dynamodb, table_name)
    return DynamoDBStore(table_name, endpoint_url=moto_url)


def get(store: DynamoDBStore, key: Any = "x") -> Any:
    return store._calls._transport.call_sync("get_item", TableName=store.table_name, Key={"session_id": {"S": key}})


class Body(io.BytesIO):
    """As urllib3 gives it to botocore."""

    def stream(self) -> Iterator[bytes]:
        yield self.read()


def turn_of(store: DynamoDBStore) -> Any:
    transport = store._calls._transport
    assert isinstance(transport, Boto3Transport)
    return contextlib.nullcontext if transport._turn_taking is None else transport._turn_taking.call


def others_turn(store: DynamoDBStore) -> bool:
    """Whether another thread could have the turn now."""
    turn = turn_of(store)

    def take() -> bool:
        with turn():
            return bool(turn.__self__._thread.has_turn)

    with ThreadPoolExecutor(1) as other:
        return other.submit(take).result()


def test_one_thread_works_at_a_time() -> None:
    line, working, most = TurnTakingLock(), 0, 0

    def work(_: int) -> None:
        nonlocal working, most
        with line.call():
            working += 1
            most = max(most, working)
            time.sleep(0.001)
            working -= 1

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(work, range(32)))
    assert most == 1


def test_a_thread_that_waits_for_the_answer_has_given_up_its_turn(
    store: DynamoDBStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "PATIENCE", 0.01)
    seen: dict[str, bool] = {}

    def look(event_name: str, **_: Any) -> None:
        seen[event_name.partition(".")[0]] = others_turn(store)

    for event in ("provide-client-params", "before-send", "before-parse"):
        store.client.meta.events.register_last(f"{event}.dynamodb", look)
    get(store)
    assert seen == {"provide-client-params": False, "before-send": True, "before-parse": True}
    assert others_turn(store)


def test_a_call_within_a_call_keeps_its_turn_and_gives_it_up() -> None:
    line = TurnTakingLock()
    with line.call(), line.call():
        assert line._lock.locked()
    assert not line._lock.locked()


def test_a_call_that_fails_gives_up_its_turn(store: DynamoDBStore) -> None:
    with pytest.raises(ConfigurationError):
        get(store, key="")
    assert others_turn(store)


def test_a_turn_that_is_kept_holds_up_no_call(store: DynamoDBStore) -> None:
    kept, done = threading.Event(), threading.Event()

    def keep() -> bool:
        with turn_of(store)():
            kept.set()
            return done.wait(10)

    with ThreadPoolExecutor(1) as other:
        keeping = other.submit(keep)
        kept.wait(10)
        get(store)
        done.set()
        assert keeping.result()


def test_calls_that_others_make_with_the_client_take_no_turns(store: DynamoDBStore) -> None:
    store.client.get_item(TableName=store.table_name, Key={"session_id": {"S": "x"}})
    assert others_turn(store)


def test_a_given_client_gets_no_turns(dynamodb: Any, table_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be none of boto3's, and never say that it waits: nobody else could call meanwhile."""
    monkeypatch.setattr(threads, "PATIENCE", 60)
    table_schema.create(dynamodb, table_name)
    store = DynamoDBStore(table_name, client=dynamodb)
    with ThreadPoolExecutor(1) as other, turn_of(store)():
        assert "Item" not in other.submit(get, store).result(10)
