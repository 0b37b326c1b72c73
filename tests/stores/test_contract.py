"""One suite over every store: what `store.SessionStore` promises."""

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any

import anyio
import pytest

from dynamodb_sessions import SessionTooLarge
from dynamodb_sessions.identifiers import new_id
from dynamodb_sessions.stores.contract import MAX_RECORD_SIZE, Changes, Record, SessionStore, record_size
from tests.helpers.aiobotocore_clients import IF_INSTALLED

pytestmark = pytest.mark.anyio

NOW = 1_800_000_000
ENCRYPTION_KEY = secrets.token_urlsafe(32)
ENCRYPTED = "encrypted"
LATER = NOW + 100

not_on_moto = pytest.mark.parametrize("engine", ["memory", "local", "async", *IF_INSTALLED])
"""moto is no oracle for concurrency, being not atomic under threads, nor for sizes, which it measures its own way.

Nor does it answer what an attribute is that an update sets to what it was.
"""


@pytest.fixture(params=["memory", "moto", "local", "async", *IF_INSTALLED, ENCRYPTED])
def engine(request: pytest.FixtureRequest) -> str:
    """As everywhere; and "local" with values that are encrypted."""
    return str(request.param)


@pytest.fixture
def new_store(new_store: Callable[..., SessionStore], engine: str) -> Callable[..., SessionStore]:
    return partial(new_store, encryption_key=ENCRYPTION_KEY) if engine == ENCRYPTED else new_store


def a_record(data: dict[str, str] | None = None, **attributes: object) -> Record:
    record = Record(new_id(), {"a": "1", "b": '"x"'} if data is None else data, NOW, LATER)
    return replace(record, **attributes)  # type: ignore[arg-type]


async def created(store: SessionStore, record: Record) -> Record:
    assert await store.create(record, now=NOW)
    return record


async def test_a_created_record_is_loaded_as_it_was(store: SessionStore) -> None:
    login: Any = {"owner": "acme/alice", "tenant": "acme", "handle": "0123456789abcdef", "label": "Firefox"}
    record = await created(store, a_record(max_age=500, born="b", authenticated_at=NOW, **login))
    assert record == await store.load(record.id, now=NOW)


async def test_a_record_without_data_is_a_record(store: SessionStore) -> None:
    record = await created(store, a_record({}))
    assert record == await store.load(record.id, now=NOW)


async def test_an_unknown_id_is_none(store: SessionStore) -> None:
    assert await store.load(new_id(), now=NOW) is None


async def test_a_taken_id_is_not_created_again(store: SessionStore) -> None:
    record = await created(store, a_record())
    other = replace(record, data={"c": "2"})
    victim = await created(store, a_record())
    assert not await store.create(other, now=NOW)
    assert not await store.create(other, now=NOW, replaces=victim.id)
    assert record == await store.load(record.id, now=NOW)
    assert victim == await store.load(victim.id, now=NOW)


async def test_an_expired_record_does_not_exist_though_it_is_still_stored(store: SessionStore) -> None:
    record = await created(store, a_record())
    touch = Changes(LATER + 100)
    assert await store.load(record.id, now=LATER - 1) is not None
    assert await store.update(record, touch, now=LATER) is None
    assert await store.update(record, replace(touch, set={"c": "3"}), now=LATER) is None
    assert await store.rotate(record, new_id(), touch, now=LATER) is None
    assert await store.load(record.id, now=LATER) is None


async def test_the_id_of_an_expired_record_can_be_created_again(store: SessionStore) -> None:
    record = await created(store, a_record())
    again = replace(record, data={"c": "3"}, created_at=LATER, expires_at=LATER + 100)
    assert await store.create(again, now=LATER)
    assert again == await store.load(record.id, now=LATER)


async def test_creating_in_place_of_another_ends_that_one(store: SessionStore) -> None:
    old, new = await created(store, a_record()), a_record()
    assert await store.create(new, now=NOW, replaces=old.id)
    assert await store.load(old.id, now=NOW) is None
    assert new == await store.load(new.id, now=NOW)


async def test_creating_in_place_of_one_that_is_gone_is_creating(store: SessionStore) -> None:
    new = a_record()
    assert await store.create(new, now=NOW, replaces=new_id())
    assert new == await store.load(new.id, now=NOW)


async def test_an_update_sets_and_removes_only_what_it_names(store: SessionStore) -> None:
    record = await created(store, a_record({"a": "1", "b": "2", "c": "3"}))
    changes = Changes(LATER + 1, set={"a": "9", "d": "4"}, remove=frozenset({"b", "never there"}))
    updated = await store.update(record, changes, now=NOW)
    expected = replace(record, data={"a": "9", "c": "3", "d": "4"}, expires_at=LATER + 1, version=2)
    assert expected == updated
    assert expected == await store.load(record.id, now=NOW)


async def test_updates_of_different_keys_are_both_kept(store: SessionStore) -> None:
    record = await created(store, a_record({}))
    await store.update(record, Changes(LATER, set={"a": "1"}), now=NOW)
    updated = await store.update(record, Changes(LATER, set={"b": "2"}), now=NOW)
    loaded = await store.load(record.id, now=NOW)
    assert loaded is not None
    assert loaded.data == {"a": "1", "b": "2"}
    assert updated is not None
    assert 3 == loaded.version == updated.version


async def test_the_last_writer_of_one_key_wins(store: SessionStore) -> None:
    record = await created(store, a_record({}))
    for value in ("1", "2"):
        await store.update(record, Changes(LATER, set={"a": value}), now=NOW)
    loaded = await store.load(record.id, now=NOW)
    assert loaded is not None
    assert loaded.data == {"a": "2"}


async def test_a_touch_changes_the_expiry_alone(store: SessionStore) -> None:
    record = await created(store, a_record(owner="o", max_age=5))
    touched = await store.update(record, Changes(LATER + 50), now=NOW)
    assert replace(record, expires_at=LATER + 50) == touched
    assert touched == await store.load(record.id, now=NOW)


@not_on_moto
@pytest.mark.parametrize("count", [1, 101])
async def test_a_change_that_names_no_expiry_keeps_what_others_have_made_of_it(store: SessionStore, count: int) -> None:
    """And says what it is by now, with the lifetime of its own that they gave it."""
    record = await created(store, a_record({}))
    await store.update(record, Changes(LATER + 50), now=NOW)
    changes = Changes(None, set={f"key-{number}": "1" for number in range(count)})
    touched = await store.update(record, changes, now=NOW)
    assert touched == replace(record, data=changes.set, expires_at=LATER + 50, version=2)
    await store.update(record, Changes(LATER + 900, max_age=900), now=NOW)
    changed = await store.update(record, changes, now=NOW)
    assert changed == replace(touched, expires_at=LATER + 900, max_age=900, version=4)
    assert changed == await store.load(record.id, now=NOW)


async def test_a_rotation_that_names_no_expiry_keeps_what_others_have_made_of_it(store: SessionStore) -> None:
    record = await created(store, a_record())
    await store.update(record, Changes(LATER + 50), now=NOW)
    name = new_id()
    moved = await store.rotate(record, name, Changes(None), now=NOW)
    assert moved == replace(record, id=name, expires_at=LATER + 50, version=2)
    assert moved == await store.load(name, now=NOW)


async def test_owner_and_max_age_change_only_where_they_are_named(store: SessionStore) -> None:
    record = await created(store, a_record({}))
    await store.update(record, Changes(LATER, owner="acme/alice", max_age=900), now=NOW)
    await store.update(record, Changes(LATER, set={"a": "1"}), now=NOW)
    expected = replace(record, data={"a": "1"}, owner="acme/alice", max_age=900, version=3)
    assert expected == await store.load(record.id, now=NOW)
    await store.update(record, Changes(LATER, max_age=0), now=NOW)
    assert replace(expected, max_age=None, version=4) == await store.load(record.id, now=NOW)


async def test_a_login_replaces_the_one_before_it_whole(store: SessionStore) -> None:
    """Owner, tenant, handle, label belong together; when the owner has proved who they are may change by itself."""
    login: Any = {"owner": "acme/alice", "tenant": "acme", "handle": "aa", "label": "Firefox"}
    record = await created(store, a_record(authenticated_at=NOW - 9, **login))
    confirmed = await store.update(record, Changes(LATER, authenticated_at=NOW), now=NOW)
    assert replace(record, authenticated_at=NOW, version=2) == confirmed
    assert confirmed == await store.load(record.id, now=NOW)
    again = await store.update(record, Changes(LATER, owner="acme/bob", handle="bb", authenticated_at=NOW + 1), now=NOW)
    theirs: Any = {"owner": "acme/bob", "tenant": None, "handle": "bb", "label": None}
    expected = replace(record, authenticated_at=NOW + 1, version=3, **theirs)
    assert expected == again
    assert expected == await store.load(record.id, now=NOW)
    moved = await store.rotate(record, new_id(), Changes(LATER, set={"a": "2"}), now=NOW)
    assert moved is not None
    assert expected == replace(moved, id=record.id, data=record.data, version=3)
    assert moved == await store.load(moved.id, now=NOW)
    elsewhere = Changes(LATER, owner="globex/bob", tenant="globex", handle="cc", authenticated_at=NOW + 2)
    back = await store.update(moved, elsewhere, now=NOW)
    assert back is not None
    assert (back.owner, back.tenant, back.handle) == ("globex/bob", "globex", "cc")
    assert back == await store.load(moved.id, now=NOW)


async def test_an_exchange_changes_what_is_stored_now(store: SessionStore) -> None:
    record = await created(store, a_record({"n": "1"}))
    await store.update(record, Changes(LATER, set={"n": "2", "beside": "1"}), now=NOW)
    seen: list[Record] = []

    def add(stored: Record) -> Changes:
        seen.append(stored)
        return Changes(LATER + 9, set={"n": str(int(stored.data["n"]) + 1)})

    changed = await store.exchange(record, add, now=NOW)
    assert [each.data["n"] for each in seen] == ["2"]
    assert replace(record, data={"n": "3", "beside": "1"}, version=3, expires_at=LATER + 9) == changed
    assert changed == await store.load(record.id, now=NOW)


async def test_an_exchange_of_nothing_writes_nothing(store: SessionStore) -> None:
    record = await created(store, a_record())
    assert record == await store.exchange(record, lambda _: None, now=NOW)
    assert record == await store.load(record.id, now=NOW)


async def test_an_exchange_never_brings_a_session_back_nor_changes_another(store: SessionStore) -> None:
    record = await created(store, a_record(born="first"))
    await store.delete(record.id)
    assert await store.exchange(record, lambda _: Changes(LATER, set={"c": "3"}), now=NOW) is None
    other = await created(store, replace(record, born="second"))
    assert await store.exchange(record, lambda _: Changes(LATER, set={"c": "3"}), now=NOW) is None
    assert other == await store.load(record.id, now=NOW)


@pytest.mark.parametrize("count", [60, 150])
async def test_an_exchange_of_any_number_of_keys_is_one_change(count: int, store: SessionStore) -> None:
    record = await created(store, a_record({f"old-{number}": "0" for number in range(count)}))
    changes = Changes(LATER, set={f"new-{number}": "1" for number in range(count)}, remove=frozenset(record.data))
    changed = await store.exchange(record, lambda _: changes, now=NOW)
    assert changed is not None
    assert changes.set == changed.data
    assert changed == await store.load(record.id, now=NOW)


async def test_an_exchange_that_would_be_too_large_changes_nothing(store: SessionStore) -> None:
    record = await created(store, a_record())
    with pytest.raises(SessionTooLarge):
        await store.exchange(record, lambda _: Changes(LATER, set={"c": "x" * MAX_RECORD_SIZE}), now=NOW)
    assert record == await store.load(record.id, now=NOW)


async def test_an_update_never_brings_a_session_back(store: SessionStore) -> None:
    record = await created(store, a_record())
    await store.delete(record.id)
    for changes in (Changes(LATER), Changes(LATER, set={"c": "3"}), Changes(LATER, owner="o")):
        assert await store.update(record, changes, now=NOW) is None
    many = Changes(LATER, set={f"key-{number}": "1" for number in range(400)})
    assert await store.update(record, many, now=NOW) is None
    assert await store.rotate(record, new_id(), Changes(LATER), now=NOW) is None
    assert await store.load(record.id, now=NOW) is None


async def test_a_change_of_very_many_keys_is_one_change(store: SessionStore) -> None:
    record = await created(store, a_record({f"old-{number}": "0" for number in range(300)} | {"kept": "1"}))
    await store.update(record, Changes(LATER, set={"beside": "2"}), now=NOW)
    changes = Changes(
        LATER, set={f"new-{number}": "1" for number in range(600)}, remove=frozenset(record.data) - {"kept"}, owner="o"
    )
    updated = await store.update(record, changes, now=NOW)
    loaded = await store.load(record.id, now=NOW)
    assert loaded is not None
    assert {"kept": "1", "beside": "2", **changes.set} == loaded.data
    assert loaded.owner == "o"
    assert loaded == updated


@pytest.mark.parametrize("count", [0, 1, 50, 99, 100])
async def test_any_number_of_keys_can_be_set_and_removed_at_once(store: SessionStore, count: int) -> None:
    record = await created(store, a_record({f"old-{number}": "0" for number in range(count)}))
    changes = Changes(LATER, set={f"new-{number}": "1" for number in range(100 - count)}, remove=frozenset(record.data))
    await store.update(record, changes, now=NOW)
    loaded = await store.load(record.id, now=NOW)
    assert loaded is not None
    assert changes.set == loaded.data


async def test_a_rotation_moves_everything_to_the_new_id(store: SessionStore) -> None:
    record = await created(store, a_record(max_age=7))
    name = new_id()
    moved = await store.rotate(record, name, Changes(LATER + 9, set={"a": "2"}, owner="acme/alice"), now=NOW)
    expected = replace(
        record, id=name, data={"a": "2", "b": '"x"'}, expires_at=LATER + 9, owner="acme/alice", version=2
    )
    assert expected == moved
    assert expected == await store.load(name, now=NOW)
    assert await store.load(record.id, now=NOW) is None


async def test_a_rotation_keeps_what_others_have_changed_meanwhile(store: SessionStore) -> None:
    record = await created(store, a_record({"a": "1"}))
    await store.update(record, Changes(LATER, set={"beside": "2"}), now=NOW)
    name = new_id()
    moved = await store.rotate(record, name, Changes(LATER, set={"mine": "3"}), now=NOW)
    loaded = await store.load(name, now=NOW)
    assert loaded is not None
    assert loaded.data == {"a": "1", "beside": "2", "mine": "3"}
    assert loaded == moved


async def test_deleting_is_final_and_deleting_nothing_is_a_no_op(store: SessionStore) -> None:
    record = await created(store, a_record())
    await store.delete(record.id)
    await store.delete(record.id)
    await store.delete(new_id())
    assert await store.load(record.id, now=NOW) is None


async def test_deleting_one_version_spares_another(store: SessionStore) -> None:
    record = await created(store, a_record())
    changed = await store.update(record, Changes(LATER, set={"c": "3"}), now=NOW)
    assert changed is not None
    assert not await store.delete(record.id, version=1)
    assert await store.load(record.id, now=NOW) == changed
    assert await store.delete(record.id, version=2)
    assert not await store.delete(record.id, version=2)
    assert await store.load(record.id, now=NOW) is None


async def test_what_was_created_again_under_the_same_id_is_another_session(store: SessionStore) -> None:
    record = await created(store, a_record())
    await store.delete(record.id)
    again = replace(record, data={"new": "1"}, created_at=NOW + 1)
    assert await store.create(again, now=NOW)
    for changes in (Changes(LATER + 5), Changes(LATER, set={"late": "1"})):
        assert await store.update(record, changes, now=NOW) is None
    many = Changes(LATER, set={f"key-{number}": "1" for number in range(200)})
    assert await store.update(record, many, now=NOW) is None
    assert await store.rotate(record, new_id(), Changes(LATER), now=NOW) is None
    assert await store.load(record.id, now=NOW) == again


async def test_a_bare_rotation_is_a_new_version(store: SessionStore) -> None:
    record = await created(store, a_record())
    moved = await store.rotate(record, new_id(), Changes(LATER), now=NOW)
    assert moved is not None
    assert moved.version == 2


async def test_another_store_on_the_same_table_sees_the_same(new_store: Callable[..., SessionStore]) -> None:
    record = await created(new_store(), a_record())
    assert record == await new_store().load(record.id, now=NOW)


@pytest.mark.parametrize("key", ["#", ":s0", "a.b", "a[0]", "schlüssel", "😀", "x" * 1000, "size", " "])
async def test_a_key_may_be_any_text(store: SessionStore, key: str) -> None:
    record = await created(store, a_record({}))
    await store.update(record, Changes(LATER, set={key: '"é"'}), now=NOW)
    loaded = await store.load(record.id, now=NOW)
    assert loaded is not None
    assert {key: '"é"'} == loaded.data
    await store.update(record, Changes(LATER, remove=frozenset({key})), now=NOW)
    loaded = await store.load(record.id, now=NOW)
    assert loaded is not None
    assert loaded.data == {}


@pytest.mark.parametrize("value", ["x" * 5000, "ü€😀" * 2000, secrets.token_urlsafe(2000)], ids=["x", "ü", "random"])
async def test_a_long_value_comes_back_as_it_went(store: SessionStore, value: str) -> None:
    """However it is stored."""
    record = await created(store, a_record({"long": f'"{value}"', "short": "1"}))
    assert record == await store.load(record.id, now=NOW)
    changed = await store.update(record, Changes(LATER, set={"more": f'["{value}"]'}), now=NOW)
    assert changed is not None
    moved = await store.rotate(changed, new_id(), Changes(LATER, set={"short": f'"{value}"'}), now=NOW)
    assert moved is not None
    assert moved.data == {"long": f'"{value}"', "short": f'"{value}"', "more": f'["{value}"]'}
    assert moved == await store.load(moved.id, now=NOW)


def of_size(size: int, **attributes: Any) -> Record:
    """A record whose size is exactly this many bytes."""
    record = a_record({"small": "1", "large": ""}, **attributes)
    return replace(record, data={"small": "1", "large": "x" * (size - record_size(record))})


@not_on_moto
async def test_a_record_of_the_very_limit_is_stored(store: SessionStore) -> None:
    login: Any = {"owner": "o", "tenant": "é", "handle": "0" * 16, "label": "é", "authenticated_at": NOW}
    record = await created(store, of_size(MAX_RECORD_SIZE, **login))
    assert record == await store.load(record.id, now=NOW)


@pytest.mark.parametrize("engine", ["memory", "moto", "local", "async", *IF_INSTALLED])
async def test_a_byte_more_is_refused_and_what_was_stored_is_intact(store: SessionStore) -> None:
    too_large = of_size(MAX_RECORD_SIZE + 1)
    with pytest.raises(SessionTooLarge) as caught:
        await store.create(too_large, now=NOW)
    assert (
        caught.value.size,
        caught.value.limit,
        caught.value.keys,
    ) == (MAX_RECORD_SIZE + 1, MAX_RECORD_SIZE, ("large", "small"))
    assert await store.load(too_large.id, now=NOW) is None

    record = await created(store, a_record())
    changes = Changes(LATER, set=too_large.data)
    attempts: list[Callable[[], Awaitable[object]]] = [
        lambda: store.update(record, changes, now=NOW),
        lambda: store.rotate(record, new_id(), changes, now=NOW),
    ]
    for attempt in attempts:
        with pytest.raises(SessionTooLarge):
            await attempt()
    assert record == await store.load(record.id, now=NOW)


@not_on_moto
async def test_what_only_others_made_too_large_is_refused_too(store: SessionStore) -> None:
    """The changer has not seen the other half: the store itself has to say no."""
    # Nothing that compresses well.
    half = '"' + secrets.token_urlsafe(MAX_RECORD_SIZE // 2) + '"'
    record = await created(store, a_record({}))
    first = await store.update(record, Changes(LATER, set={"first": half}), now=NOW)
    with pytest.raises(SessionTooLarge):
        await store.update(record, Changes(LATER, set={"second": half}), now=NOW)
    with pytest.raises(SessionTooLarge):
        await store.rotate(record, new_id(), Changes(LATER, set={"second": half}), now=NOW)
    assert first == await store.load(record.id, now=NOW)


@not_on_moto
async def test_many_writers_of_different_keys_lose_nothing(store: SessionStore) -> None:
    record = await created(store, a_record({}))

    async def write(writer: int) -> None:
        for number in range(25):
            assert await store.update(record, Changes(LATER, set={f"{writer}-{number}": "1"}), now=NOW) is not None

    async with anyio.create_task_group() as group:
        for writer in range(8):
            group.start_soon(write, writer)
    loaded = await store.load(record.id, now=NOW)
    assert loaded is not None
    assert len(loaded.data) == 200
    assert loaded.version == 201


@not_on_moto
async def test_writers_lose_nothing_to_a_rotation_that_comes_between(store: SessionStore) -> None:
    """Each write is either in the moved session, or was told that the old one is gone."""
    record = await created(store, a_record({}))
    name = new_id()
    kept: set[str] = set()

    async def write(writer: int) -> None:
        for number in range(10):
            key = f"{writer}-{number}"
            if await store.update(record, Changes(LATER, set={key: "1"}), now=NOW) is not None:
                kept.add(key)

    async def move() -> None:
        await anyio.sleep(0.02)
        assert await store.rotate(record, name, Changes(LATER), now=NOW) is not None

    async with anyio.create_task_group() as group:
        for writer in range(4):
            group.start_soon(write, writer)
        group.start_soon(move)
    loaded = await store.load(name, now=NOW)
    assert loaded is not None
    assert kept == set(loaded.data)
    assert await store.load(record.id, now=NOW) is None
