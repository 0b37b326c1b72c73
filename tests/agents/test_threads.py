"""How threads are laid out, what stays of them, and how work is waited for: what needs no DynamoDB."""

import asyncio
import os
import threading
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langgraph.checkpoint.base.id import uuid6

from dynamodb_sessions.agents import thread_items
from dynamodb_sessions.agents.blocking import Waiting
from dynamodb_sessions.agents.thread_items import Saved, ThreadFormat, Write
from dynamodb_sessions.agents.thread_reduction import reduce
from dynamodb_sessions.stores.value_format import ValueFormat

VALUE = ("msgpack", b"\x01")
FORMAT = ThreadFormat(thread_items.partition_of("thread"), ValueFormat())


def ids(count: int) -> list[str]:
    return [str(uuid6(clock_seq=step)) for step in range(count)]


@given(st.lists(st.uuids(), min_size=2, max_size=20), st.text(max_size=5))
def test_positions_sort_as_the_ids_of_checkpoints_do(made: list[uuid.UUID], ns: str) -> None:
    texts = sorted(str(each) for each in made if each.int >> 48)
    positions = [thread_items.position_of(ns, thread_items.order_of(text)) for text in texts]
    assert positions == sorted(positions)
    first, last = thread_items.span_of(ns)
    assert all(first <= position <= last <= thread_items.MAX_POSITION for position in positions)


def test_positions_are_exact_to_dynamodb() -> None:
    """It keeps 38 digits."""
    assert len(str(thread_items.MAX_POSITION)) == 38
    for ns in ("", "child", "child:1|grandchild:2"):
        first, last = thread_items.span_of(ns, thread_items.order_of(ids(1)[0]))
        assert 0 < first < last <= thread_items.MAX_POSITION


def stored(*items: dict[str, Any]) -> list[dict[str, Any]]:
    """Merge items as DynamoDB merges them."""
    merged: dict[int, dict[str, Any]] = {}
    for item in items:
        merged.setdefault(thread_items.position_in(item), {}).update(item)
    return [*merged.values()]


@pytest.mark.parametrize("size", [10, 30_000, 50_000, 900_000])
def test_what_shares_an_item_is_told_apart(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks may share one by chance, and so may parts of what is large."""
    monkeypatch.setattr(thread_items, "_digest", lambda *_: 0)
    monkeypatch.setattr("secrets.randbelow", lambda _: 0)
    checkpoint_id = ids(1)[0]
    writes = [
        Write("path", f"task-{task}", number, "channel", ("bytes", os.urandom(size)))
        for task in range(2)
        for number in range(2)
    ]
    items = stored(*(item for each in FORMAT.writes("", checkpoint_id, writes, {}) for item in each))
    [group] = thread_items.grouped(items)
    assert FORMAT.read_writes(group, checkpoint_id) == writes
    assert FORMAT.read(group) is None, "their checkpoint is not stored yet"


def test_what_is_not_there_as_a_whole_is_left_out() -> None:
    checkpoint_id = ids(1)[0]
    saved = Saved("", thread_items.order_of(checkpoint_id), checkpoint_id, None, None, {})
    saved.frames |= thread_items.body_frames(VALUE, VALUE, {"a": ("bytes", os.urandom(900_000))}, {})
    writes = [Write("", "task", number, "a", ("bytes", os.urandom(900_000))) for number in range(2)]
    parts, merged = FORMAT.writes("", checkpoint_id, writes, {})
    *parts_of_checkpoint, own = FORMAT.checkpoint(saved, {})
    assert len(parts_of_checkpoint) == 3
    [whole] = thread_items.grouped([*parts, *merged, *parts_of_checkpoint, own])
    assert FORMAT.read(whole) == saved
    assert {thread_items.position_in(item) for item in whole.parts_of_body()} == {
        thread_items.position_in(item) for item in parts_of_checkpoint
    }
    [cut] = thread_items.grouped([*parts[1:], *merged, *parts_of_checkpoint[1:], own])
    assert FORMAT.read(cut) is None
    assert FORMAT.read_writes(cut, checkpoint_id) == writes[1:]


def chain(*values: dict[str, Any], ns: str = "") -> list[Saved]:
    """Return checkpoints, each the parent of the next. A number says which one of them has the value."""
    made: list[Saved] = []
    for checkpoint_id, has in zip(ids(len(values)), values, strict=True):
        own = {channel: VALUE for channel, where in has.items() if where is None}
        elsewhere = {channel: made[where].order for channel, where in has.items() if where is not None}
        frames = thread_items.body_frames(VALUE, VALUE, own, elsewhere)
        parent = made[-1].id if made else None
        made.append(Saved(ns, thread_items.order_of(checkpoint_id), checkpoint_id, parent, None, frames))
    return made


def test_values_that_others_refer_to_stay_and_the_rest_goes() -> None:
    checkpoints = chain({"doc": None, "a": None}, {"doc": 0, "a": None}, {"doc": 0, "a": None}, {"doc": 0, "a": 2})
    plan = reduce(checkpoints, {checkpoints[3].place}, lambda _: ())
    assert {saved.place: ({*saved.values()}, saved.is_removed) for saved in plan.rewritten} == {
        checkpoints[0].place: ({"doc"}, True),
        checkpoints[2].place: ({"a"}, True),
    }
    assert plan.deleted == {checkpoints[1].place}
    assert plan.chained == set()
    assert [(saved.place, saved.before) for saved in plan.unlinked] == [(checkpoints[3].place, None)]


def test_what_a_channel_is_rebuilt_from_stays_back_to_its_value_and_no_further() -> None:
    checkpoints = chain({"m": None}, {"m": None, "a": None}, {"m": 1, "a": None}, {}, {}, {})
    plan = reduce(checkpoints, {checkpoints[5].place}, lambda _: {"m"})
    assert plan.chained == {saved.place for saved in checkpoints[2:5]}
    assert plan.deleted == {checkpoints[0].place}
    kept = {saved.place: saved for saved in plan.rewritten}
    assert kept[checkpoints[1].place].values().keys() == {"m"}
    assert kept[checkpoints[2].place].elsewhere().keys() == {"m"}
    assert [kept[saved.place].before for saved in checkpoints[1:5]] == [
        None,
        None,
        checkpoints[2].id,
        checkpoints[3].id,
    ]
    assert [saved.chained for saved in plan.unlinked] == [checkpoints[4].id]
    everything = reduce(checkpoints, {saved.place for saved in checkpoints}, lambda _: {"m"})
    assert (everything.rewritten, everything.unlinked, everything.deleted) == ([], [], set())


def test_namespaces_do_not_meet() -> None:
    checkpoints = [*chain({"a": None}, {"a": 0}), *chain({"a": None}, {"a": 0}, ns="child")]
    plan = reduce(checkpoints, {checkpoints[1].place}, lambda _: ())
    assert plan.deleted == {checkpoints[2].place, checkpoints[3].place}


async def once(value: object) -> object:
    await asyncio.sleep(0)
    return value


def test_work_is_waited_for_from_many_threads() -> None:
    waiting = Waiting()
    results: list[object] = []
    threads = [threading.Thread(target=lambda n=n: results.append(waiting.run(once(n)))) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results, key=str) == sorted(range(20), key=str)


def test_work_that_fails_says_why() -> None:
    async def fail() -> None:
        raise ValueError("why")

    with pytest.raises(ValueError, match="why"):
        Waiting().run(fail())


def test_a_forked_process_waits_in_a_thread_of_its_own() -> None:
    waiting = Waiting()
    assert waiting.run(once(1)) == 1
    waiting.forked()
    assert waiting.run(once(2)) == 2


def test_work_that_waits_for_itself_says_so() -> None:
    waiting = Waiting()

    async def again() -> object:
        return waiting.run(once(1))

    with pytest.raises(RuntimeError, match="what blocks cannot be called"):
        waiting.run(again())
    assert waiting.run(once(2)) == 2


def test_what_is_collected_in_the_thread_of_the_work_is_ended_later() -> None:
    waiting, ended = Waiting(), threading.Event()

    async def end() -> None:
        ended.set()

    async def collect() -> None:
        waiting.end(end())
        assert not ended.is_set()

    waiting.run(collect())
    assert ended.wait(10)
