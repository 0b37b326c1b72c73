"""Conversations: on DynamoDB Local, by both transports, but for what only moto is asked."""

import asyncio
import itertools
import json
import logging
import secrets
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agents import Agent, RunConfig, Runner
from agents.memory import Session, SessionSettings
from pydantic import BaseModel

from dynamodb_sessions import (
    ConfigurationError,
    DynamoDBStore,
    SessionError,
    SessionEvent,
    SessionTooLarge,
    StoreUnavailable,
    UnserializableValue,
    open_session,
)
from dynamodb_sessions.agents import Conversation, DynamoDBConversation, partition, tables
from dynamodb_sessions.agents.partition import HEAD
from dynamodb_sessions.aws import table_calls
from dynamodb_sessions.aws.table_calls import TableCalls
from examples.agent_chat.scripted import ScriptedModel
from tests.agents.conftest import Converse, listed, of_tenant, said
from tests.conftest import Clock
from tests.helpers.aiobotocore_clients import IF_INSTALLED, Connect
from tests.helpers.proxy import How, Proxy, Step

pytestmark = pytest.mark.anyio

PROJECT = Path(__file__).parent.parent.parent


@pytest.fixture(params=["local", "async", *IF_INSTALLED])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_it_is_a_session_of_the_sdk(converse: Converse) -> None:
    conversation = converse()
    assert isinstance(conversation, Session)
    assert await conversation.get_items() == []
    assert await conversation.pop_item() is None
    await conversation.add_items([])
    await conversation.add_items([said("one"), said("two", "assistant")])
    await conversation.add_items([said("three")])
    assert await conversation.get_items() == [said("one"), said("two", "assistant"), said("three")]
    assert await conversation.get_items(2) == [said("two", "assistant"), said("three")]
    assert await conversation.get_items(0) == []
    assert await conversation.pop_item() == said("three")
    assert await converse("another").get_items() == []
    await conversation.clear_session()
    assert await conversation.get_items() == []
    await conversation.add_items([said("again")])
    assert await conversation.get_items() == [said("again")]


async def test_messages_come_back_exactly_as_they_went(converse: Converse) -> None:
    message = {
        "type": "message",
        "content": [{"text": "", "logprobs": [0.1, -1e-300, 1.0], "n": None, "big": 2**70, "ok": True, "empty": {}}],
        "ü": "😀" * 2000,
    }
    await converse().add_items([message])
    assert await converse().get_items() == [message]


async def test_settings_limit_what_is_got(converse: Converse) -> None:
    conversation = converse(session_settings=SessionSettings(limit=2))
    await conversation.add_items([said(str(number)) for number in range(5)])
    assert await conversation.get_items() == [said("3"), said("4")]
    assert len(await conversation.get_items(limit=4)) == 4


async def test_a_runner_remembers(converse: Converse) -> None:
    agent = Agent(name="scripted", model=ScriptedModel())
    quiet = RunConfig(tracing_disabled=True)
    first = await Runner.run(agent, "My name is Ada.", session=converse(), run_config=quiet)
    second = await Runner.run(agent, "What was that?", session=converse(), run_config=quiet)
    assert "My name is Ada." in second.final_output
    assert first.final_output != second.final_output
    assert [item["role"] for item in await converse().get_items()] == ["user", "assistant"] * 2


TURN = """
import asyncio, sys
from agents import Agent, RunConfig, Runner
from dynamodb_sessions.agents import DynamoDBConversation
from examples.agent_chat.scripted import ScriptedModel

url, table_name, text = sys.argv[1:]
conversation = DynamoDBConversation("chat", table_name, endpoint_url=url)
agent = Agent(name="scripted", model=ScriptedModel())
run = Runner.run(agent, text, session=conversation, run_config=RunConfig(tracing_disabled=True))
print(asyncio.run(run).final_output)
"""


@pytest.mark.parametrize("engine", ["local"], indirect=True)
@pytest.mark.usefixtures("client")
def test_another_process_remembers(endpoint_url: str, table_name: str) -> None:
    answers = [
        subprocess.run(
            [sys.executable, "-c", TURN, endpoint_url, table_name, text],
            check=True,
            capture_output=True,
            text=True,
            cwd=PROJECT,
        ).stdout
        for text in ("My name is Ada.", "And my cat is Bob.", "What was that?")
    ]
    assert "My name is Ada." in answers[1]
    assert "My name is Ada." in answers[2]
    assert "And my cat is Bob." in answers[2]


async def test_turns_at_once_neither_collide_nor_mix(converse: Converse) -> None:
    async def write(who: int) -> None:
        for turn in range(50):
            await converse().add_items([{"who": who, "turn": turn, "part": part} for part in range(3)])

    await asyncio.gather(*map(write, range(8)))
    got = await converse().get_items()
    assert len(got) == 1200
    turns = [got[start : start + 3] for start in range(0, 1200, 3)]
    assert all([item["part"] for item in turn] == [0, 1, 2] for turn in turns)
    assert all(len({(item["who"], item["turn"]) for item in turn}) == 1 for turn in turns)
    for who in range(8):
        assert [turn[0]["turn"] for turn in turns if turn[0]["who"] == who] == [*range(50)]


async def test_each_message_is_popped_once(converse: Converse) -> None:
    await converse().add_items([{"n": number} for number in range(400)])
    popped: Counter[int] = Counter()
    unknown = 0

    async def pop() -> None:
        nonlocal unknown
        conversation = converse()
        while True:
            try:
                item = await conversation.pop_item()
            except StoreUnavailable as error:
                # On a busy machine the others may be first until the deadline. Then nothing was popped.
                unknown += "others pop" not in str(error)
                continue
            if item is None:
                return
            popped[item["n"]] += 1

    await asyncio.gather(*(pop() for _ in range(8)))
    assert set(popped.values()) == {1}
    assert 400 - unknown <= len(popped) <= 400


@pytest.mark.usefixtures("impatient")
async def test_a_lost_reply_is_no_second_message_and_no_lost_one(
    converse: Converse, connect: Connect, endpoint_url: str
) -> None:
    proxy = Proxy(endpoint_url)
    conversation = converse(endpoint_url=proxy.url, client=await connect(proxy.url))
    try:
        for operation, add in (("PutItem", 1), ("TransactWriteItems", 3), ("UpdateItem", 2)):
            proxy.play(operation, [Step(How.DROPPED)])
            await conversation.add_items([said(f"{operation} {number}") for number in range(add)])
        assert len(await conversation.get_items()) == 6
        proxy.play("TransactWriteItems", [Step(How.DROPPED)])
        assert await conversation.pop_item() == said("UpdateItem 1")
        assert await conversation.pop_item() == said("UpdateItem 0")
        assert len(await conversation.get_items()) == 4
        proxy.heal()
        proxy.play("*", rest=Step(How.ANOTHER, applied=False))
        with pytest.raises(StoreUnavailable):
            await conversation.add_items([said("never")])
        with pytest.raises(StoreUnavailable):
            await conversation.get_items()
    finally:
        proxy.close()
    assert len(await converse().get_items()) == 4


@pytest.mark.usefixtures("impatient")
async def test_a_batch_is_whole_or_absent(
    converse: Converse, connect: Connect, items: Callable[[], Any], endpoint_url: str
) -> None:
    proxy = Proxy(endpoint_url)
    conversation = converse(endpoint_url=proxy.url, client=await connect(proxy.url))
    try:
        proxy.play("TransactWriteItems", rest=Step(How.ANOTHER, applied=False))
        with pytest.raises(StoreUnavailable):
            await conversation.add_items([said(str(number)) for number in range(100)])
    finally:
        proxy.close()
    assert await converse().get_items() == []
    assert [item["position"] for item in items()] == [{"N": str(HEAD)}]


async def test_more_than_a_transaction_takes_stays_in_order_and_together(converse: Converse) -> None:
    large = [{"n": number, "text": uuid.uuid4().hex * 3000} for number in range(60)]  # 5.8 MB that barely compresses.
    small = [{"n": number} for number in range(250)]
    await asyncio.gather(converse().add_items(small), converse().add_items(large))
    got = await converse().get_items()
    groups = [[*group] for _, group in itertools.groupby(got, key=lambda item: "text" in item)]
    assert sorted(groups, key=len) == [large, small]


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"data": b"x"}, UnserializableValue),
        ({1: 2}, UnserializableValue),
        ({"text": secrets.token_hex(4_000_000)}, SessionTooLarge),
        ({"text": "x" * 41_000_000}, SessionTooLarge),
    ],
    ids=["bytes", "key", "large", "large uncompressed"],
)
async def test_what_cannot_be_kept_is_named_and_nothing_is(
    message: Any, error: type[Exception], converse: Converse, items: Callable[[], Any]
) -> None:
    with pytest.raises(error, match=r"^items\[1\], a message of a conversation,") as caught:
        await converse().add_items([said("fine"), message])
    assert "session" not in str(caught.value)
    assert items() == []


async def test_ten_thousand_messages_are_cleared(converse: Converse, items: Callable[[], Any]) -> None:
    conversation = converse(owner="acme/alice")
    await conversation.add_items([{"n": number} for number in range(10_000)])
    await converse("another").add_items([said("stays")])
    await conversation.clear_session()
    left = [item for item in items() if item["session_id"]["S"] != "another"]
    assert [item.keys() for item in left] == [{"session_id", "position", "last", "cleared"}]
    await conversation.clear_session()


async def test_what_is_added_while_it_is_cleared_stays(converse: Converse, monkeypatch: pytest.MonkeyPatch) -> None:
    conversation = converse()
    await conversation.add_items([said(str(number)) for number in range(60)])
    write = tables.write_batch
    turns = itertools.count()

    async def add_and_delete(calls: TableCalls, requests: list[dict[str, Any]]) -> None:
        await converse().add_items([said(f"late {next(turns)}")])
        await write(calls, requests)

    monkeypatch.setattr(tables, "write_batch", add_and_delete)
    await conversation.clear_session()
    assert await converse().get_items() == [said("late 0"), said("late 1"), said("late 2")]


async def test_messages_expire_one_by_one(converse: Converse, now: Clock) -> None:
    conversation = converse(ttl_seconds=100, ttl_of="message", owner="acme/alice")
    await conversation.add_items([said("old")])
    now.now += 60
    await conversation.add_items([said("new")])
    now.now += 40
    assert await conversation.get_items() == [said("new")]
    assert await conversation.get_items(5) == [said("new")]
    now.now += 59
    assert await conversation.pop_item() == said("new")
    assert await conversation.pop_item() is None
    assert [found async for found in listed(converse, "acme/alice")] == [
        Conversation("chat", now.now - 159, now.now - 99, "acme/alice")
    ]
    now.now += 1
    assert [found async for found in listed(converse, "acme/alice")] == []


async def test_a_page_of_expired_ones_does_not_hide_the_rest(converse: Converse, now: Clock) -> None:
    await converse().add_items([said("for ever")])
    await converse(ttl_seconds=10, ttl_of="message").add_items([said(str(number)) for number in range(30)])
    now.now += 10
    assert await converse().get_items(5) == [said("for ever")]
    assert await converse().pop_item() == said("for ever")


async def test_an_owners_conversations_are_listed_the_newest_first(converse: Converse, now: Clock) -> None:
    for name in ("first", "second", "third"):
        now.now += 1
        await converse(name, owner="acme/alice").add_items([said("x")] * 3)
    await converse("first", owner="acme/alice").add_items([said("x")])
    await converse("hers", owner="acme/bob").add_items([said("x")])
    await converse("nobodys").add_items([said("x")])
    found = [each async for each in listed(converse, "acme/alice")]
    assert [each.session_id for each in found] == ["third", "second", "first"]
    assert found[-1] == Conversation("first", now.now - 2, now.now, "acme/alice")
    await converse("second").clear_session()
    assert [each.session_id async for each in listed(converse, "acme/alice")] == ["third", "first"]


async def test_what_has_become_somebody_elses_is_not_listed(
    converse: Converse, now: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index may be behind; here, it was read before."""
    monkeypatch.setattr(table_calls, "AT_ONCE", 1)
    for name in ("first", "second"):
        now.now += 1
        await converse(name, owner="acme/alice").add_items([said("mine")])
    found = []
    async for each in listed(converse, "acme/alice"):
        found.append(each.session_id)
        await converse("first").clear_session()
        await converse("first", owner="acme/bob").add_items([said("his")])
    assert found == ["second"]


async def test_a_long_list_is_read_some_at_once_and_in_order(
    converse: Converse, now: Clock, client: Any, table_name: str
) -> None:
    for number in range(40):
        now.now += 1
        await converse(f"chat {number}", owner="acme/alice").add_items([said("x")])
    await converse("chat 20").clear_session()
    expected = [f"chat {number}" for number in reversed(range(40)) if number != 20]
    assert [found.session_id async for found in listed(converse, "acme/alice")] == expected
    client.update_item(
        TableName=table_name,
        Key={"session_id": {"S": "chat 7"}, "position": {"N": str(HEAD)}},
        UpdateExpression="SET #l = :x",
        ExpressionAttributeNames={"#l": "last"},
        ExpressionAttributeValues={":x": {"S": "x"}},
    )
    with pytest.raises(StoreUnavailable, match="head"):
        _ = [found async for found in listed(converse, "acme/alice")]


async def test_a_tenants_conversations_are_listed_by_owner(converse: Converse) -> None:
    for owner, tenant in (("acme/bob", "acme"), ("acme/alice", "acme"), ("dan", "globex"), ("eve", None)):
        await converse(owner, owner=owner, tenant=tenant).add_items([said("x")])
    assert [(found.session_id, found.owner) async for found in of_tenant(converse, "acme")] == [
        ("acme/alice", "acme/alice"),
        ("acme/bob", "acme/bob"),
    ]
    with pytest.raises(SessionError, match="belongs to somebody else"):
        await converse("dan", owner="dan", tenant="acme").add_items([said("theirs")])
    await converse("dan", owner="dan").add_items([said("and without naming the tenant")])
    assert [found.session_id async for found in of_tenant(converse, "globex")] == ["dan"]
    await converse("dan", owner="dan").clear_session()
    assert [found async for found in of_tenant(converse, "globex")] == []
    await converse("dan", owner="dan", tenant="acme").add_items([said("theirs now")])
    assert [found.owner async for found in of_tenant(converse, "acme")] == ["acme/alice", "acme/bob", "dan"]
    assert [found async for found in of_tenant(converse, "")] == []


@pytest.mark.parametrize("owner", ["", None, "x" * 1025])
async def test_who_can_own_none_has_none(converse: Converse, owner: Any) -> None:
    assert [found async for found in listed(converse, owner)] == []


async def test_nobody_adds_to_anothers_conversation(converse: Converse) -> None:
    await converse(owner="acme/alice").add_items([said("mine")])
    with pytest.raises(SessionError, match="belongs to somebody else") as caught:
        await converse(owner="acme/bob").add_items([said("not mine")])
    assert "chat" not in str(caught.value)
    await converse().add_items([said("by the app")])
    assert len(await converse().get_items()) == 2


async def test_messages_are_paged(converse: Converse, now: Clock) -> None:
    for number in range(5):
        now.now += 1
        await converse().add_items([said(str(number))])
    first = [message async for message in converse().messages(limit=3)]
    rest = [message async for message in converse().messages(after=first[-1].position)]
    assert [message.item["content"] for message in first + rest] == ["0", "1", "2", "3", "4"]
    assert [message.created_at for message in first + rest] == [now.now - 4 + number for number in range(5)]


async def test_what_cannot_be_read_is_left_out_with_a_warning(
    converse: Converse, client: Any, table_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    await converse().add_items([said("one")])
    for position, message in enumerate([{"S": "{"}, {"N": "1"}, {"B": b"no zlib"}], 2**60):
        key = {"session_id": {"S": "chat"}, "position": {"N": str(position)}}
        client.put_item(TableName=table_name, Item={**key, "message": message, "created_at": {"N": "1"}})
    with caplog.at_level(logging.WARNING):
        assert await converse().get_items() == [said("one")]
    assert caplog.text.count("cannot be read") == 3
    assert "chat" not in caplog.text


@pytest.mark.parametrize("engine", ["local"], indirect=True)
async def test_the_latest_cost_the_same_however_long_the_history(converse: Converse) -> None:
    """2 MB and 5,000 messages: what is read is what is wanted, by DynamoDB's own count."""
    client = converse()._calls.client
    used: list[float] = []
    client.meta.events.register(
        "provide-client-params.dynamodb.Query", lambda params, **_: params | {"ReturnConsumedCapacity": "TOTAL"}
    )
    client.meta.events.register(
        "after-call.dynamodb.Query", lambda parsed, **_: used.append(parsed["ConsumedCapacity"]["CapacityUnits"])
    )
    text = "".join(chr(33 + number % 90) for number in range(380))
    costs: list[float] = []
    for length, more in ((100, 100), (5000, 4900)):
        await converse().add_items([{"n": number, "text": text} for number in range(more)])
        used.clear()
        got = await converse().get_items(limit=20)
        assert [item["n"] for item in got] == [*range(more - 20, more)]
        costs.append(sum(used))
        used.clear()
        assert len(await converse().get_items()) == length
        assert sum(used) > 3 * costs[-1]
    assert costs[0] == costs[1] <= 4


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"session_id": ""}, "id"),
        ({"session_id": 1}, "id"),
        ({"session_id": "x" * 2049}, "id"),
        ({"owner": ""}, "owner"),
        ({"owner": "acme/alice", "tenant": ""}, "tenant"),
        ({"tenant": "acme"}, "with an owner"),
        ({"ttl_seconds": 0}, "ttl_seconds"),
        ({"ttl_seconds": 1.5}, "ttl_seconds"),
        ({"ttl_of": "head"}, "ttl_of"),
        ({"client": "async", "dynamodb_client": "async"}, "the same"),
        ({"table_name": "a b"}, "table_name"),
        ({"client": "asink"}, "client"),
    ],
)
def test_what_cannot_be_is_refused_by_name(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        DynamoDBConversation(**({"session_id": "chat"} | options))


async def test_the_table_is_made_on_first_use(moto_url: str, table_name: str) -> None:
    conversation = DynamoDBConversation("chat", table_name, endpoint_url=moto_url, create_table=True)
    await conversation.add_items([said("one")])
    assert await conversation.get_items() == [said("one")]
    with pytest.raises(ConfigurationError, match="ResourceNotFoundException"):
        await DynamoDBConversation("chat", "no-such-table", endpoint_url=moto_url).get_items()


def test_without_the_sdk_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['agents'] = None; from dynamodb_sessions.agents import DynamoDBConversation"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install 'dynamodb-sessions[agents]'" in done.stderr.splitlines()[-1]


async def test_state_is_kept_by_thread_and_comes_back_exactly(moto_url: str, table_name: str, clock: Clock) -> None:
    """The recipe of checkpoints: save, load, delete, list."""
    store = DynamoDBStore(table_name, endpoint_url=moto_url, create_table=True)
    state = {"step": 3, "score": 0.1, "whole": 1.0, "none": None, "empty": "", "nested": [{"a": [1, {"b": -1e-300}]}]}
    async with open_session(store, "thread/ü 1", max_age=30 * 86400) as checkpoint:
        checkpoint.update(state)
    async with open_session(store, "thread/ü 1", max_age=30 * 86400) as checkpoint:
        assert dict(checkpoint) == state
        assert isinstance(checkpoint["whole"], float)
        assert isinstance(checkpoint["step"], int)
    for number in range(30):
        async with open_session(store, f"thread/{number}", max_age=30 * 86400) as checkpoint:
            checkpoint["blob"] = json.dumps([number] * 20_000)
    assert len([record async for record in store.scan(now=clock.now)]) == 31
    await store.delete("thread/ü 1")
    async with open_session(store, "thread/ü 1") as checkpoint:
        assert dict(checkpoint) == {}
    clock.now += 30 * 86400
    assert [record async for record in store.scan(now=clock.now)] == []


@pytest.mark.parametrize("longer", [None, 1000])
async def test_a_conversation_lives_as_long_as_its_longest_message(
    converse: Converse, longer: int | None, now: Clock
) -> None:
    """If each message has a lifetime of its own."""
    each: dict[str, Any] = {"ttl_of": "message", "owner": "alice"}
    await converse(ttl_seconds=longer, **each).add_items([said("stays")])
    await converse(ttl_seconds=60, **each).add_items([said("goes")])
    now.now += 100
    assert await converse(owner="alice").get_items() == [said("stays")]
    with pytest.raises(SessionError, match="somebody else"):
        await converse(ttl_seconds=60, owner="bob").add_items([said("mine")])
    assert [found.session_id async for found in listed(converse, "alice")] == ["chat"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["0", "1", "2", "3", "4", "5"]),
        ({"since": 2}, ["2", "3", "4", "5"]),
        ({"until": 2}, ["0", "1"]),
        ({"since": 1.5, "until": 4}, ["2", "3"]),
        ({"newest_first": True}, ["5", "4", "3", "2", "1", "0"]),
        ({"newest_first": True, "since": 2, "limit": 3}, ["5", "4", "3"]),
        ({"newest_first": True, "until": 2}, ["1", "0"]),
        ({"since": 2, "limit": 1}, ["2"]),
        ({"since": 6}, []),
        ({"until": 0, "newest_first": True}, []),
    ],
    ids=str,
)
async def test_messages_are_found_by_their_time(
    options: dict[str, Any], expected: list[str], converse: Converse, now: Clock
) -> None:
    """Each was added an hour after the one before; times here are hours, too."""
    begun = now.now
    for number in range(6):
        await converse().add_items([said(str(number))])
        now.now += 3600
    times = {name: begun + options[name] * 3600 for name in ("since", "until") if name in options}
    found = [message.item["content"] async for message in converse().messages(**options | times)]
    assert found == expected


@pytest.mark.parametrize("engine", ["local"], indirect=True)
async def test_recent_messages_are_found_without_reading_the_older_ones(
    converse: Converse, now: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition, "MAX_PAGE", 10)
    for _ in range(5):
        await converse().add_items([said(str(number)) for number in range(20)])
        now.now += 3600
    events: list[SessionEvent] = []
    conversation = converse(on_event=events.append)
    found = [each async for each in conversation.messages(since=now.now - 3600, newest_first=True, limit=1000)]
    assert len(found) == 20
    pages = [event for event in events if event.name == "messages"]
    events.clear()
    found = [each async for each in conversation.messages(since=now.now - 3600, limit=1000)]
    assert len(found) == 20
    assert sum(event.capacity_units or 0 for event in pages) <= sum(event.capacity_units or 0 for event in events)


async def test_settings_are_taken_as_the_sdks_own_sessions_take_them(converse: Converse) -> None:
    conversation = converse(session_settings={"limit": 2})
    assert conversation.session_settings == SessionSettings(limit=2)
    await conversation.add_items([said(str(number)) for number in range(5)])
    assert await conversation.get_items() == [said("3"), said("4")]
    assert converse().session_settings == SessionSettings()
    with pytest.raises(TypeError, match="Unknown session settings: limits"):
        converse(session_settings={"limits": 2})
    with pytest.raises(TypeError, match="a SessionSettings instance or a dict, got list"):
        converse(session_settings=[("limit", 2)])


async def test_pydantic_models_are_messages(converse: Converse) -> None:
    class Part(BaseModel):
        text: str
        note: str | None = None

    class Said(BaseModel):
        role: str
        content: list[Part]

    await converse().add_items([Said(role="user", content=[Part(text="hello")]), said("and a dict")])
    assert await converse().get_items() == [{"role": "user", "content": [{"text": "hello"}]}, said("and a dict")]


async def test_it_is_closed_when_its_block_ends_and_others_go_on(converse: Converse) -> None:
    """The last one of those that share connections closes them; a later call opens new ones."""
    other = converse("another")
    async with converse() as conversation:
        await conversation.add_items([said("one")])
        await other.add_items([said("there")])
    assert await other.get_items() == [said("there")]
    await other.close()
    await other.close()
    assert await conversation.get_items() == [said("one")]
    await conversation.close()


async def test_the_last_one_closes_the_connections(
    moto_url: str, table_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (DynamoDBConversation(name, table_name, endpoint_url=moto_url, create_table=True) for name in "ab")
    closed = []

    async def close() -> None:
        closed.append(True)

    monkeypatch.setattr(one._calls, "close", close)
    await one.close()
    assert closed == []
    await two.close()
    assert closed == [True]


@pytest.mark.aiobotocore
@pytest.mark.parametrize("engine", ["local"], indirect=True)
async def test_what_was_written_for_the_published_package_runs_with_the_import_changed(
    client: Any, table_name: str
) -> None:
    """Of openai-agents-session 0.1."""
    from aiobotocore.session import get_session  # noqa: PLC0415 - not everywhere

    from dynamodb_sessions.agents import DynamoDBConversation as DynamoDBSession  # noqa: PLC0415 - the change

    url = client.meta.endpoint_url
    boto_session = get_session()
    async with boto_session.create_client("dynamodb", region_name="us-east-1", endpoint_url=url) as dynamodb:
        session = DynamoDBSession(
            session_id="user-123",
            dynamodb_client=dynamodb,
            table_name=table_name,
            ttl_seconds=3600,  # 1 hour expiration
        )
        agent = Agent(name="Assistant", model=ScriptedModel())
        quiet = RunConfig(tracing_disabled=True)
        await Runner.run(agent, "My name is Ada.", session=session, run_config=quiet)
        result = await Runner.run(agent, "What was that?", session=session, run_config=quiet)
        assert "My name is Ada." in result.final_output
        await session.close()
        assert len(await session.get_items()) == 4
