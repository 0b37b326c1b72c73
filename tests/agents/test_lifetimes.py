"""How long a conversation lives: as a whole, renewed by its use, and nothing of it is lost before its end."""

import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from dynamodb_sessions import SessionError
from dynamodb_sessions.agents import DynamoDBConversation, renewal
from dynamodb_sessions.agents.partition import HEAD
from tests.agents.conftest import Converse, listed, said
from tests.conftest import Clock
from tests.helpers.proxy import How, Proxy, Step

pytestmark = pytest.mark.anyio

DAY = 86400
MONTH = 30 * DAY

Sweep = Callable[[], None]
Items = Callable[[], list[dict[str, Any]]]


@pytest.fixture(params=["local"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def proxy(endpoint_url: str) -> Iterator[Proxy]:
    made = Proxy(endpoint_url)
    yield made
    made.close()


@pytest.fixture
def sweep(client: Any, table_name: str, items: Items, now: Clock) -> Sweep:
    """Remove what has expired, as DynamoDB does it some time: here at once."""

    def sweep() -> None:
        for item in items():
            if "ttl" in item and int(item["ttl"]["N"]) <= now.now:
                client.delete_item(TableName=table_name, Key={name: item[name] for name in ("session_id", "position")})

    return sweep


async def texts(conversation: DynamoDBConversation) -> list[str]:
    return [message.item["content"] async for message in conversation.messages()]


def number_of(item: dict[str, Any], name: str) -> int:
    return int(item[name]["N"])


@pytest.mark.parametrize("engine", ["local", "async"], indirect=True)
async def test_a_conversation_lives_as_a_whole_from_its_last_use_on(converse: Converse, now: Clock) -> None:
    await converse(ttl_seconds=100, owner="alice").add_items([said("call")])
    now.now += 99
    await converse(ttl_seconds=100).add_items([said("output")])
    now.now += 99
    assert await texts(converse()) == ["call", "output"]
    assert [found.session_id async for found in listed(converse, "alice")] == ["chat"]
    now.now += 1
    assert await texts(converse()) == []
    assert await converse().get_items() == []
    assert await converse().get_items(1) == []
    assert await converse().pop_item() is None
    assert [message async for message in converse().messages(after=1)] == []
    assert [message async for message in converse().messages(newest_first=True)] == []
    assert [found async for found in listed(converse, "alice")] == []


@pytest.mark.parametrize("use", ["get_items", "get_items(1)", "pop_item"])
async def test_to_read_and_to_pop_is_to_use_it(use: str, converse: Converse, now: Clock, proxy: Proxy) -> None:
    await converse(ttl_seconds=100).add_items([said("one"), said("two"), said("three")])
    conversation = converse(ttl_seconds=100, endpoint_url=proxy.url)
    calls: dict[str, Callable[[], Any]] = {
        "get_items": conversation.get_items,
        "get_items(1)": partial(conversation.get_items, 1),
        "pop_item": conversation.pop_item,
    }
    now.now += 10
    await calls[use]()
    assert "UpdateItem" not in proxy.requests, "a tenth may pass"
    now.now += 80
    await calls[use]()
    assert proxy.requests.count("UpdateItem") == 1
    now.now += 99
    assert (await texts(converse()))[0] == "one"
    now.now += 1
    assert await texts(converse()) == []


async def test_to_look_on_is_not_to_use_it(converse: Converse, now: Clock) -> None:
    await converse(ttl_seconds=100, owner="alice").add_items([said("one")])
    now.now += 99
    assert await texts(converse(ttl_seconds=100)) == ["one"]
    assert await converse().get_items() == [said("one")], "nor is it, for those who give no lifetime"
    assert [found.session_id async for found in listed(converse, "alice")] == ["chat"]
    now.now += 1
    assert await texts(converse()) == []


async def test_what_cannot_be_renewed_is_read_all_the_same(
    converse: Converse, now: Clock, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    await converse(ttl_seconds=100).add_items([said("one")])
    now.now += 90
    proxy.play("UpdateItem", rest=Step(How.ANOTHER, applied=False, error=(400, "AccessDeniedException")))
    assert await converse(ttl_seconds=100, endpoint_url=proxy.url).get_items() == [said("one")]
    assert "is not renewed" in caplog.text
    assert "chat" not in caplog.text


@pytest.mark.parametrize("engine", ["local", "async"], indirect=True)
async def test_after_its_end_a_conversation_begins_anew_and_may_be_anybodys(
    converse: Converse, now: Clock, items: Items, proxy: Proxy
) -> None:
    await converse(ttl_seconds=100, owner="alice", tenant="acme").add_items([said(str(number)) for number in range(3)])
    seen = [message.position async for message in converse().messages()][-1]
    now.now += 100
    await converse(ttl_seconds=50, owner="bob").add_items([said("his")])
    assert len(items()) == 1 + 3 + 1, "DynamoDB has not removed the old ones yet"
    assert await texts(converse()) == ["his"]
    assert await converse(endpoint_url=proxy.url).get_items() == [said("his")]
    assert await converse().get_items(2) == [said("his")]
    assert [message.item async for message in converse().messages(after=seen)] == [said("his")]
    assert [found.session_id async for found in listed(converse, "bob")] == ["chat"]
    assert [found async for found in listed(converse, "alice")] == []
    [head] = [item for item in items() if item["position"] == {"N": str(HEAD)}]
    assert "tenant" not in head
    with pytest.raises(SessionError, match="somebody else"):
        await converse(owner="alice").add_items([said("hers")])
    now.now += 50
    await converse().add_items([said("for ever")])
    now.now += 1000 * DAY
    assert await texts(converse()) == ["for ever"]


@pytest.mark.parametrize("engine", ["local", "async"], indirect=True)
@pytest.mark.parametrize("days", [4, 14, 16, 29])
async def test_nothing_is_lost_of_a_conversation_in_use_whenever_it_is_used(
    days: int, converse: Converse, now: Clock, sweep: Sweep, items: Items, proxy: Proxy
) -> None:
    """DynamoDB removes what it may at once. Each message is renewed once in a half lifetime, and no more."""
    conversation = converse(ttl_seconds=MONTH, endpoint_url=proxy.url)
    turns = range(200 // days)
    for turn in turns:
        await conversation.add_items([said(str(turn))])
        [*messages, head] = sorted(items(), key=lambda item: number_of(item, "position"))
        assert number_of(head, "expires_at") == now.now + MONTH
        assert all(number_of(item, "ttl") >= number_of(head, "expires_at") for item in messages)
        assert all(number_of(item, "ttl") <= number_of(head, "ttl") for item in messages)
        now.now += days * DAY
        sweep()
    assert await texts(converse()) == [str(turn) for turn in turns]
    of_heads = len(turns)
    renewals = days * len(turns) / 15
    assert proxy.requests.count("UpdateItem") - of_heads <= renewals * (len(turns) + 2)
    now.now += (30 - days) * DAY
    assert await texts(converse()) == []
    now.now += 33 * DAY
    sweep()
    assert items() == []


async def test_a_turn_makes_the_same_requests_however_long_the_history(
    converse: Converse, now: Clock, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewal, "PATIENCE", 600.0)
    conversation = converse(ttl_seconds=MONTH, owner="alice", endpoint_url=proxy.url)
    await conversation.add_items([said(str(number)) for number in range(300)])
    now.now += 14 * DAY
    del proxy.requests[:]
    await conversation.add_items([said("one more")])
    assert proxy.requests == ["UpdateItem", "TransactWriteItems"]
    now.now += 2 * DAY
    del proxy.requests[:]
    await conversation.add_items([said("and renewed")])
    messages, of_the_head = 301, 3
    assert proxy.requests.count("UpdateItem") == messages + of_the_head
    del proxy.requests[:]
    await conversation.add_items([said("one more")])
    assert proxy.requests == ["UpdateItem", "TransactWriteItems"]


@pytest.mark.parametrize("fails_at", [0, 1, 150, 320, 321])
async def test_a_crash_in_the_middle_of_a_renewal_loses_no_beginning(
    fails_at: int, converse: Converse, now: Clock, sweep: Sweep, proxy: Proxy
) -> None:
    expected = [str(number) for number in range(320)]
    conversation = converse(ttl_seconds=MONTH, endpoint_url=proxy.url)
    await conversation.add_items([said(text) for text in expected])
    now.now += 29 * DAY
    crash = Step(How.ANOTHER, applied=False, error=(400, "AccessDeniedException"))
    proxy.play("UpdateItem", [Step()] * (2 + fails_at), rest=crash)
    await conversation.add_items([said("kept")])
    proxy.heal()
    now.now += 29 * DAY
    sweep()
    assert await texts(converse()) == [*expected, "kept"]
    await conversation.add_items([said("again")])
    for _ in range(3):
        now.now += 29 * DAY
        sweep()
        await conversation.get_items()
    assert await texts(converse()) == [*expected, "kept", "again"]


async def test_if_it_never_can_be_renewed_it_ends_as_a_whole(
    converse: Converse, now: Clock, sweep: Sweep, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any) -> None:
        raise SessionError

    monkeypatch.setattr(renewal, "_keep", fail)
    conversation = converse(ttl_seconds=MONTH, endpoint_url=proxy.url)
    turns = 0
    for day in range(60):
        if day % 7 == 0:
            await conversation.add_items([said(str(day))])
            turns += 1
        sweep()
        assert len(await conversation.get_items()) == turns
        now.now += DAY
    assert await conversation.get_items() == []


async def test_a_long_renewal_is_spread_over_several_uses(
    converse: Converse, now: Clock, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as there is time."""
    monkeypatch.setattr(renewal, "PATIENCE", 0.0)
    conversation = converse(ttl_seconds=MONTH, endpoint_url=proxy.url)
    await conversation.add_items([said(str(number)) for number in range(250)])
    now.now += 16 * DAY
    renewed = []
    for _ in range(4):
        del proxy.requests[:]
        await conversation.get_items(1)
        renewed.append(proxy.requests.count("UpdateItem") // 100)
        now.now += 61
    assert renewed == [1, 1, 0, 0]
    now.now += 29 * DAY
    assert len(await conversation.get_items()) == 250
    now.now += 29 * DAY
    assert len(await conversation.get_items()) == 250


async def test_what_is_being_renewed_is_not_renewed_by_others_too(
    converse: Converse, now: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await converse(ttl_seconds=MONTH).add_items([said("one")])
    now.now += 16 * DAY
    keep, renewed = renewal._keep, []

    async def meanwhile(*what: Any) -> None:
        renewed.append(what[1])
        if len(renewed) == 1:
            await converse(ttl_seconds=MONTH).add_items([said("two")])
            await converse(ttl_seconds=MONTH).get_items()
        await keep(*what)

    monkeypatch.setattr(renewal, "_keep", meanwhile)
    await converse(ttl_seconds=MONTH).get_items()
    assert len(renewed) == 1
    now.now += MONTH - 1
    assert await texts(converse()) == ["one", "two"]


@pytest.mark.parametrize("meanwhile", ["pop", "clear", "clear and begin"])
async def test_what_is_removed_while_it_is_renewed_does_not_come_back(
    meanwhile: str, converse: Converse, now: Clock, items: Items, monkeypatch: pytest.MonkeyPatch
) -> None:
    await converse(ttl_seconds=MONTH).add_items([said("one"), said("two")])
    now.now += 16 * DAY
    keep = renewal._keep

    async def first(*what: Any) -> None:
        if meanwhile == "pop":
            await converse().pop_item()
        else:
            await converse().clear_session()
        if meanwhile == "clear and begin":
            await converse(ttl_seconds=100).add_items([said("new")])
        await keep(*what)

    monkeypatch.setattr(renewal, "_keep", first)
    await converse(ttl_seconds=MONTH).get_items()
    assert await texts(converse()) == {"pop": ["one"], "clear": [], "clear and begin": ["new"]}[meanwhile]
    assert len(items()) == {"pop": 2, "clear": 1, "clear and begin": 2}[meanwhile]
    now.now += 100
    assert await texts(converse()) == (["one"] if meanwhile == "pop" else [])


async def test_what_the_version_before_has_stored_is_renewed_with_the_rest_and_stays_gone_if_it_had_expired(
    converse: Converse, client: Any, table_name: str, now: Clock, sweep: Sweep
) -> None:
    """Its messages expire one by one, so it is done at the first use. Its head knows no clears."""
    head = {"last": {"N": "103"}, "owner": {"S": "alice"}, "ttl": {"N": str(now.now + 1000)}}
    times = {"created_at": {"N": "1"}, "updated_at": {"N": "1"}}
    client.put_item(TableName=table_name, Item={"session_id": {"S": "chat"}, "position": {"N": "0"}} | head | times)
    for position, ttl in ((101, now.now), (102, now.now + 10), (103, now.now + 1000)):
        message = {"message": {"S": f'{{"content":"{position}"}}'}, "created_at": {"N": "1"}, "ttl": {"N": str(ttl)}}
        key = {"session_id": {"S": "chat"}, "position": {"N": str(position)}}
        client.put_item(TableName=table_name, Item=key | message)
    assert await texts(converse()) == ["102", "103"]
    await converse(owner="alice", ttl_seconds=2000).add_items([said("new")])
    now.now += 1999
    sweep()
    assert await texts(converse()) == ["102", "103", "new"]
    assert [found.session_id async for found in listed(converse, "alice")] == ["chat"]
    now.now += 1
    assert await texts(converse()) == []


async def test_a_conversation_whose_messages_lived_one_by_one_lives_as_a_whole_from_its_next_use_on(
    converse: Converse, now: Clock, sweep: Sweep
) -> None:
    await converse(ttl_seconds=100, ttl_of="message").add_items([said("gone")])
    now.now += 60
    await converse(ttl_seconds=100, ttl_of="message").add_items([said("one")])
    now.now += 40
    assert await converse(ttl_seconds=100).get_items() == [said("one")]
    now.now += 99
    sweep()
    assert await texts(converse()) == ["one"]
    await converse(ttl_seconds=100).add_items([said("two")])
    await converse(ttl_seconds=10, ttl_of="message").add_items([said("short")])
    now.now += 99
    assert await texts(converse()) == ["one", "two"]
    now.now += 1
    assert await texts(converse()) == []


async def test_nobody_shortens_a_lifetime_and_who_says_nothing_does_not_lengthen_it(
    converse: Converse, now: Clock, sweep: Sweep
) -> None:
    await converse(ttl_seconds=MONTH).add_items([said("a month")])
    await converse(ttl_seconds=60).add_items([said("a minute")])
    await converse().add_items([said("nothing")])
    now.now += MONTH - 1
    sweep()
    assert await texts(converse()) == ["a month", "a minute", "nothing"]
    await converse().add_items([said("nothing more")])
    await converse(ttl_seconds=60).add_items([said("a minute more")])
    now.now += 59
    sweep()
    assert len(await texts(converse())) == 5
    now.now += 1
    assert await texts(converse()) == []


@pytest.mark.parametrize("ttl_of", ["conversation", "message"])
async def test_what_is_to_stay_does_so_until_it_is_cleared(
    ttl_of: Any, converse: Converse, now: Clock, sweep: Sweep
) -> None:
    await converse().add_items([said("stays")])
    await converse(ttl_seconds=60, ttl_of=ttl_of).add_items([said("goes with it")])
    now.now += 100 * DAY
    sweep()
    assert (await texts(converse()))[0] == "stays"
    assert len(await texts(converse())) == (2 if ttl_of == "conversation" else 1)
    await converse().clear_session()
    await converse(ttl_seconds=60).add_items([said("new")])
    now.now += 60
    assert await texts(converse()) == []


async def test_whatever_lifetimes_are_given_nothing_is_lost_before_the_longest_of_them(
    converse: Converse, now: Clock, sweep: Sweep
) -> None:
    """Against a model, with DynamoDB removing what it may at once."""
    chance = random.Random(19)
    for round_ in range(6):
        name, ends, expected = f"chat {round_}", 0, list[str]()
        for step in range(25):
            seconds = chance.choice([100, DAY, 3 * DAY, 10 * DAY])
            if now.now >= ends:
                expected.clear()
            if chance.random() < 0.7 or not expected:
                await converse(name, ttl_seconds=seconds).add_items([said(str(step))])
                expected.append(str(step))
                ends = max(ends, now.now + seconds) if len(expected) > 1 else now.now + seconds
            elif now.now < ends:
                await converse(name, ttl_seconds=seconds).get_items(1)
                ends = max(ends, now.now + seconds - seconds // 10)
            assert await texts(converse(name)) == expected
            now.now += chance.choice([1, DAY // 2, max(1, ends - now.now - 1), max(1, ends - now.now + 200_000)])
            sweep()
            if now.now < ends:
                assert await texts(converse(name)) == expected
