"""Values that are encrypted: nothing plain is in the item, each opens in its session and under its key alone."""

import base64
import json
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import boto3
import pytest
from starlette.datastructures import Secret

from dynamodb_sessions import ConfigurationError, CorruptRecord, DynamoDBStore, SessionTooLarge
from dynamodb_sessions.identifiers import new_id
from dynamodb_sessions.settings import encryption_keys
from dynamodb_sessions.stores import table_schema
from dynamodb_sessions.stores.contract import MAX_RECORD_SIZE, Changes, Record, record_size
from dynamodb_sessions.stores.value_format import ValueFormat
from tests.stores.test_dynamodb import losing_first_reply

pytestmark = pytest.mark.anyio

NOW = 1_800_000_000
LATER = NOW + 100
OLD, NEW, OTHER = (
    base64.urlsafe_b64encode(name * 4).decode().rstrip("=") for name in (b"an older", b"a newer.", b"another.")
)
OVERHEAD = 29
NO_KEY_FITS = "no key fits"

NewStore = Callable[..., DynamoDBStore]


@pytest.fixture(params=["moto", "local", "async"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(endpoint_url: str, table_name: str) -> Any:
    made = boto3.client("dynamodb", endpoint_url=endpoint_url, region_name="us-east-1")
    table_schema.create(made, table_name)
    return made


@pytest.fixture
def with_keys(new_store: NewStore, client: Any) -> NewStore:  # noqa: ARG001 - it has made the table
    """Return a function that makes a store with these keys, newest first; without any, one that has none."""

    def make(*keys: str | None, **options: Any) -> DynamoDBStore:
        return new_store(encryption_key=keys or None, **options)

    return make


@pytest.fixture
def values(client: Any, table_name: str) -> Callable[[str], dict[str, Any]]:
    """Return a function that returns what is stored of a session's values, as it is stored."""

    def get(session_id: str) -> dict[str, Any]:
        key = {"session_id": {"S": session_id}}
        item = client.get_item(TableName=table_name, Key=key, ConsistentRead=True)["Item"]
        held: dict[str, Any] = item["user_data"]["M"]
        return held

    return get


@pytest.fixture
def put_value(client: Any, table_name: str) -> Callable[[str, str, Any], None]:
    """Return a function that puts a value into a session, as someone does who may write to the table."""

    def put(session_id: str, key: str, value: Any) -> None:
        client.update_item(
            TableName=table_name,
            Key={"session_id": {"S": session_id}},
            UpdateExpression="SET user_data.#k = :v",
            ExpressionAttributeNames={"#k": key},
            ExpressionAttributeValues={":v": value},
        )

    return put


def a_record(**data: str) -> Record:
    return Record(new_id(), data or {"user": '"alice"', "n": "1"}, NOW, LATER, born="b")


async def created(store: DynamoDBStore, record: Record) -> Record:
    assert await store.create(record, now=NOW)
    return record


async def test_nothing_plain_is_in_the_item(with_keys: NewStore, client: Any, table_name: str) -> None:
    """By whichever way it was written; and what was stored in memory moves in like that."""
    secret = "attorney-client privileged"
    store = with_keys(NEW)
    record = await created(store, a_record(first=f'"{secret}"', long=f'"{secret * 100}"'))
    updated = await store.update(record, Changes(LATER, set={"second": f'"{secret}"'}), now=NOW)
    assert updated is not None
    many = {f"many-{number}": f'"{secret}"' for number in range(150)}
    replaced = await store.update(updated, Changes(LATER, set=many), now=NOW)
    assert replaced is not None
    exchanged = await store.exchange(replaced, lambda _: Changes(LATER, set={"one": f'"{secret}"'}), now=NOW)
    assert exchanged is not None
    rotated = await store.rotate(exchanged, new_id(), Changes(LATER, set={"third": f'"{secret}"'}), now=NOW)
    moved_in = await store.move_in(a_record(kept=f'"{secret}"'), now=NOW, fresh_id=new_id)
    begun = await store.create(a_record(again=f'"{secret}"'), now=NOW, replaces=moved_in.id if moved_in else None)
    for written in (rotated, begun):
        assert written is not None
        assert await with_keys(NEW).load(written.id, now=NOW) == written
    whole = str(client.scan(TableName=table_name)["Items"])
    assert "many-149" in whole, "keys are not encrypted"
    assert secret not in whole
    assert "{'S': '\"" not in whole


async def test_a_stored_value_is_the_documented_one(
    with_keys: NewStore, values: Callable[[str], dict[str, Any]]
) -> None:
    long = json.dumps("abc " * 1000)
    record = await created(with_keys(NEW), a_record(short='"é"', long=long))
    held = values(record.id)
    assert (held["short"]["B"][0], len(held["short"]["B"])) == (1, OVERHEAD + len('"é"'.encode()))
    assert (held["long"]["B"][0], len(held["long"]["B"])) == (2, OVERHEAD + len(zlib.compress(long.encode())))


async def test_the_same_value_is_never_stored_as_the_same_bytes(
    with_keys: NewStore, values: Callable[[str], dict[str, Any]]
) -> None:
    record = await created(with_keys(NEW), a_record(a="1", b="1"))
    before = values(record.id)
    await with_keys(NEW).update(record, Changes(LATER, set={"a": "1"}), now=NOW)
    assert len({value["B"] for value in (*before.values(), *values(record.id).values())}) == 3


async def test_a_value_that_was_moved_is_refused(
    with_keys: NewStore, values: Callable[[str], dict[str, Any]], put_value: Callable[[str, str, Any], None]
) -> None:
    store = with_keys(NEW)
    mine, theirs = await created(store, a_record(user='"mallory"', n="1")), await created(store, a_record())
    put_value(mine.id, "user", values(theirs.id)["user"])
    with pytest.raises(CorruptRecord, match=NO_KEY_FITS):
        await store.load(mine.id, now=NOW)
    put_value(theirs.id, "n", values(theirs.id)["user"])
    with pytest.raises(CorruptRecord, match=NO_KEY_FITS):
        await store.load(theirs.id, now=NOW)


async def test_a_value_that_was_changed_is_refused_and_stays(
    with_keys: NewStore, values: Callable[[str], dict[str, Any]], put_value: Callable[[str, str, Any], None]
) -> None:
    record = await created(with_keys(NEW), a_record())
    held = values(record.id)["user"]["B"]
    changed = {"B": held[:20] + bytes([held[20] ^ 1]) + held[21:]}
    put_value(record.id, "user", changed)
    with pytest.raises(CorruptRecord, match=NO_KEY_FITS):
        await with_keys(NEW).load(record.id, now=NOW)
    assert values(record.id)["user"] == changed


@pytest.mark.parametrize("value", ['"alice"', json.dumps("abc " * 1000)], ids=["text", "compressed"])
def test_no_byte_can_be_changed_and_none_can_be_missing(value: str) -> None:
    form = ValueFormat(1024, encryption_keys(NEW))
    held = form.pack_all("id", {"user": value})["user"]["B"]
    assert form.unpack_all("id", {"user": {"B": held}}) == {"user": value}
    changed = [held[:at] + bytes([held[at] ^ bit]) + held[at + 1 :] for at in range(len(held)) for bit in (1, 3)]
    for wrong in (*changed, *(held[:size] for size in range(len(held)))):
        with pytest.raises((CorruptRecord, ValueError)):
            form.unpack_all("id", {"user": {"B": wrong}})


@pytest.mark.parametrize("keys", [(), (OTHER,), (OTHER, NEW)], ids=["no key", "another", "others"])
async def test_without_the_key_it_is_a_corrupt_record_that_shows_no_key(
    keys: tuple[str, ...], with_keys: NewStore, caplog: pytest.LogCaptureFixture
) -> None:
    record = await created(with_keys(OLD), replace(a_record(), owner="acme/alice"))
    store = with_keys(*keys)
    with pytest.raises(CorruptRecord, match=NO_KEY_FITS) as caught:
        await store.load(record.id, now=NOW)
    assert [each async for each in store.list_owner("acme/alice", now=NOW)] == []
    for shown in (str(caught.value), caplog.text):
        assert NO_KEY_FITS in shown
        assert not any(each in shown for each in (OLD, OTHER, NEW, record.id))
    assert await store.revoke_owner("acme/alice") == 1
    assert await with_keys(OLD).load(record.id, now=NOW) is None


async def test_a_key_is_replaced_value_by_value(with_keys: NewStore, values: Callable[[str], dict[str, Any]]) -> None:
    """The older key is needed until nothing is left that it encrypted; a session that gets a new id is all new."""
    record = await created(with_keys(OLD), a_record(changed="1", kept="1"))
    both, new = with_keys(NEW, OLD), with_keys(NEW)
    loaded = await both.load(record.id, now=NOW)
    assert loaded == record
    kept = values(record.id)["kept"]
    updated = await both.update(record, Changes(LATER, set={"changed": "2"}), now=NOW)
    assert updated is not None
    assert values(record.id)["kept"] == kept
    with pytest.raises(CorruptRecord):
        await new.load(record.id, now=NOW)
    moved = await both.rotate(updated, new_id(), Changes(LATER), now=NOW)
    assert moved is not None
    assert await new.load(moved.id, now=NOW) == moved


async def test_what_is_not_encrypted_is_read_and_becomes_it_by_its_next_change(
    with_keys: NewStore, values: Callable[[str], dict[str, Any]], client: Any, table_name: str
) -> None:
    long = json.dumps("abc " * 1000)
    record = await created(with_keys(), a_record(kept="1", compressed=long, changed="1"))
    store = with_keys(NEW)
    assert await store.load(record.id, now=NOW) == record
    changed = await store.update(record, Changes(LATER, set={"changed": "2"}), now=NOW)
    assert changed is not None
    held = values(record.id)
    assert (held["kept"], held["compressed"]) == ({"S": "1"}, {"B": zlib.compress(long.encode())})
    assert held["changed"]["B"][0] == 1
    assert await store.load(record.id, now=NOW) == changed
    # An older layout is rewritten as a whole.
    old = {"session_id": {"S": new_id()}, "user_data": {"S": '{"a": 1, "b": 2}'}}
    client.put_item(TableName=table_name, Item=old | {"created_at": {"N": str(NOW)}, "ttl": {"N": str(LATER)}})
    older = await store.load(old["session_id"]["S"], now=NOW)
    assert older is not None
    assert await store.update(older, Changes(LATER, set={"c": "3"}), now=NOW)
    assert {value["B"][0] for value in values(older.id).values()} == {1}


async def test_a_store_may_decrypt_and_not_encrypt(
    with_keys: NewStore, values: Callable[[str], dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    """What every instance must be able to do before the first one encrypts, and after it was switched off."""
    record = await created(with_keys(NEW), a_record(a="1", b="1"))
    assert "none that encrypts" not in caplog.text
    reader = with_keys(None, NEW)
    assert "none that encrypts" in caplog.text
    assert await reader.load(record.id, now=NOW) == record
    changed = await reader.update(record, Changes(LATER, set={"a": "2"}), now=NOW)
    assert values(record.id)["a"] == {"S": "2"}
    for store in (reader, with_keys(NEW)):
        assert await store.load(record.id, now=NOW) == changed


@pytest.mark.parametrize("engine", ["local"])
async def test_a_lost_reply_is_settled_by_what_the_values_say(with_keys: NewStore) -> None:
    """Not by how they are stored, which is another way each time."""
    store = with_keys(NEW)
    lost = [losing_first_reply(store, name) for name in ("PutItem", "UpdateItem", "TransactWriteItems")]
    record = await created(store, a_record())
    updated = await store.update(record, Changes(LATER, set={"n": "2"}), now=NOW)
    assert updated is not None
    rotated = await store.rotate(updated, new_id(), Changes(LATER, set={"n": "3"}), now=NOW)
    assert lost == [[200], [200], [200]]
    assert rotated is not None
    assert await with_keys(NEW).load(rotated.id, now=NOW) == rotated
    assert rotated.data == {"user": '"alice"', "n": "3"}


@pytest.mark.parametrize("engine", ["local"])
async def test_sizes_count_encrypted(
    with_keys: NewStore, monkeypatch: pytest.MonkeyPatch, values: Callable[[str], dict[str, Any]]
) -> None:
    """At the limit it fits; one byte more is refused before it is sent, and, sent all the same, by the engine."""
    store = with_keys(NEW, compress_over=None)
    empty = a_record(é="", b="1")
    largest = MAX_RECORD_SIZE - record_size(empty) - 2 * OVERHEAD
    record = await created(store, replace(empty, data={"é": "x" * largest, "b": "1"}))
    assert len(values(record.id)["é"]["B"]) == largest + OVERHEAD
    assert await store.load(record.id, now=NOW) == record
    too_large = replace(empty, id=new_id(), data={"é": "x" * (largest + 1), "b": "1"})
    with pytest.raises(SessionTooLarge) as caught:
        await store.create(too_large, now=NOW)
    assert caught.value.size == MAX_RECORD_SIZE + 1
    with pytest.raises(SessionTooLarge):
        await store.update(record, Changes(LATER, set={"é": "x" * (largest + 1)}), now=NOW)
    monkeypatch.setattr(ValueFormat, "check_size", lambda *_, **__: None)
    with pytest.raises(SessionTooLarge):
        await store.create(too_large, now=NOW)


def test_no_key_is_in_what_a_store_shows() -> None:
    store = DynamoDBStore("sessions", encryption_key=NEW)
    shown = [repr(store), str(vars(store)), repr(store._values), repr(store._values._encryption)]
    shown += [repr(getattr(store._values._encryption, name)) for name in ("_keys", "overhead")]
    raw = repr(encryption_keys(NEW)[0])[2:-1]
    assert not [each for each in shown if NEW in each or raw in each]


BAD_KEYS = ["", " ", "short", OLD[:-1], OLD + "A", OLD + "==", "+/" + OLD[2:], OLD + "\n", "é" * 43]


@pytest.mark.parametrize("bad", BAD_KEYS)
def test_a_key_that_is_not_32_bytes_is_refused_and_not_shown(bad: str) -> None:
    for given in (bad, Secret(bad), [OLD, bad]):
        with pytest.raises(ConfigurationError, match=r"token_urlsafe\(32\)") as caught:
            DynamoDBStore("sessions", encryption_key=given)
        assert bad.strip() not in str(caught.value) or not bad.strip()
        assert OLD not in str(caught.value)


@pytest.mark.parametrize("given", [b"x" * 32, [], [None], [OLD, None], 5, {OLD}, [OLD.encode()]])
def test_what_is_no_key_is_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="encryption_key"):
        DynamoDBStore("sessions", encryption_key=given)


def test_keys_are_the_environments_unless_they_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    assert encryption_keys() == []
    monkeypatch.setenv("SESSION_ENCRYPTION_KEY_FALLBACKS", f" {OLD} , {OTHER}=")
    old, other = encryption_keys([OLD, OTHER])
    assert encryption_keys() == [None, old, other]
    monkeypatch.setenv("SESSION_ENCRYPTION_KEY", NEW)
    assert encryption_keys() == [*encryption_keys(Secret(NEW)), old, other]
    assert {len(key or b"") for key in encryption_keys()} == {32}
    assert encryption_keys(OTHER) == [other]
    monkeypatch.setenv("SESSION_ENCRYPTION_KEY", "too short")
    with pytest.raises(ConfigurationError, match="SESSION_ENCRYPTION_KEY"):
        DynamoDBStore("sessions")


def test_cryptography_is_imported_only_where_a_key_is_given() -> None:
    script = (
        "import sys; from dynamodb_sessions import DynamoDBStore; DynamoDBStore(region_name='us-east-1', {})\n"
        "print('dynamodb_sessions.stores.encryption' in sys.modules)"
    )
    for options, imported in (("", "False"), (f"encryption_key='{NEW}'", "True")):
        command = [sys.executable, "-c", script.format(options)]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"{imported}\n"


def test_where_cryptography_is_missing_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "dynamodb_sessions.stores.encryption", raising=False)
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    DynamoDBStore("sessions")
    with pytest.raises(ConfigurationError, match=r"pip install 'dynamodb-sessions\[encryption\]'"):
        DynamoDBStore("sessions", encryption_key=NEW)
