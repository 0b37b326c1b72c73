"""Turns that have a token: stored once, whoever repeats them."""

import asyncio
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dynamodb_sessions import ConfigurationError, SessionError, StoreUnavailable
from tests.agents.conftest import Converse, listed, said
from tests.conftest import Clock
from tests.helpers.proxy import How, Proxy, Step

pytestmark = pytest.mark.anyio

Items = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def proxy(endpoint_url: str) -> Iterator[Proxy]:
    made = Proxy(endpoint_url)
    yield made
    made.close()


async def test_a_turn_is_stored_once_and_another_token_is_another_turn(converse: Converse) -> None:
    for _ in range(3):
        await converse().add_items([said("one"), said("two")], token="turn 1")
    await converse().add_items([said("one"), said("two")], token="turn 2")
    await converse("another").add_items([said("there")], token="turn 1")
    assert await converse().get_items() == [said("one"), said("two")] * 2
    assert await converse("another").get_items() == [said("there")]
    assert await converse().get_items(3) == [said("two"), said("one"), said("two")]
    assert await converse().pop_item() == said("two")


async def test_many_that_add_it_at_once_store_it_once(converse: Converse) -> None:
    await asyncio.gather(*(converse().add_items([said("one")], token="turn") for _ in range(8)))
    assert await converse().get_items() == [said("one")]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("is_applied", [True, False])
@pytest.mark.parametrize("operation", ["GetItem", "UpdateItem", "TransactWriteItems"])
async def test_who_is_told_nothing_repeats_it(
    operation: str, is_applied: bool, converse: Converse, proxy: Proxy
) -> None:
    proxy.play(operation, rest=Step(How.DROPPED, applied=is_applied))
    with pytest.raises(StoreUnavailable):
        await converse(endpoint_url=proxy.url).add_items([said("one"), said("two")], token="turn")
    await converse().add_items([said("one"), said("two")], token="turn")
    assert await converse().get_items() == [said("one"), said("two")]


@pytest.mark.parametrize("stored", [0, 1, 2, 3])
async def test_a_turn_of_many_transactions_is_completed_by_its_repetition(
    stored: int, converse: Converse, proxy: Proxy
) -> None:
    """The large ones make transactions of their own; others add meanwhile, and do not come between."""
    turn = [said(f"{number} {secrets.token_hex(900_000)}") for number in range(10)] + [said(str(n)) for n in range(150)]
    refused = Step(How.ANOTHER, applied=False, error=(400, "AccessDeniedException"))
    proxy.play("TransactWriteItems", [Step()] * stored, rest=refused)
    with pytest.raises(SessionError):
        await converse(endpoint_url=proxy.url).add_items(turn, token="turn")
    await converse().add_items([said("meanwhile")])
    await converse().add_items(turn, token="turn")
    await converse().add_items(turn, token="turn")
    got = await converse().get_items()
    assert got == ([*turn, said("meanwhile")] if stored else [said("meanwhile"), *turn])


async def test_what_was_removed_since_is_not_stored_again(converse: Converse, items: Items) -> None:
    turn = [said(str(number)) for number in range(150)]
    await converse(owner="alice").add_items(turn, token="turn")
    for _ in range(60):
        await converse().pop_item()
    await converse(owner="alice").add_items(turn, token="turn")
    assert len(await converse().get_items()) == 90
    await converse().clear_session()
    await converse(owner="alice").add_items(turn, token="turn")
    assert await converse().get_items() == []
    assert [found async for found in listed(converse, "alice")] == []
    assert [item for item in items() if "message" in item] == []


async def test_a_token_is_known_for_a_month(converse: Converse, items: Items, now: Clock) -> None:
    await converse(ttl_seconds=60).add_items([said("one")], token="turn")
    [token] = [item for item in items() if int(item["position"]["N"]) < 0]
    assert int(token["ttl"]["N"]) == now.now + 30 * 86400
    assert "turn" not in str(token)
    now.now += 60
    await converse(ttl_seconds=60).add_items([said("one")], token="turn")
    assert await converse().get_items() == []


async def test_without_a_token_each_is_another_turn(converse: Converse, proxy: Proxy) -> None:
    for _ in range(2):
        await converse(endpoint_url=proxy.url).add_items([said("one")])
    assert await converse().get_items() == [said("one")] * 2
    begins = ["UpdateItem", "Query", "UpdateItem", "TransactWriteItems"]
    assert proxy.requests == [*begins, "UpdateItem", "TransactWriteItems"], "and costs nothing more"


@pytest.mark.parametrize("token", ["", "x" * 2049, 1, b"x"])
async def test_what_is_no_token_is_refused(token: Any, converse: Converse) -> None:
    with pytest.raises(ConfigurationError, match="token"):
        await converse().add_items([said("one")], token=token)


async def test_what_is_no_token_of_ours_is_an_outage(
    converse: Converse, client: Any, table_name: str, items: Items
) -> None:
    await converse().add_items([said("one")], token="turn")
    [token] = [item for item in items() if int(item["position"]["N"]) < 0]
    client.put_item(TableName=table_name, Item={**token, "first": {"S": "x"}})
    with pytest.raises(StoreUnavailable, match="token"):
        await converse().add_items([said("one")], token="turn")


@pytest.mark.parametrize(("first", "later"), [(1, 150), (101, 150), (150, 101), (150, 1)])
async def test_what_is_added_later_under_a_token_is_not_looked_at(first: int, later: int, converse: Converse) -> None:
    turn = [said(f"first {number}") for number in range(first)]
    between = [said(f"between {number}") for number in range(120)]
    await converse().add_items(turn, token="turn")
    await converse().add_items(between)
    await converse().add_items([said(f"later {number}") for number in range(later)], token="turn")
    assert await converse().get_items() == [*turn, *between]


@pytest.mark.parametrize(
    "another",
    [
        lambda turn: [*turn, said("one more")],
        lambda turn: [said(f"other {number}") for number in range(len(turn))],
        lambda turn: turn[::-1],
        lambda turn: [*turn[:-1], said("another end")],
    ],
)
async def test_a_turn_is_not_completed_by_another_one(another: Any, converse: Converse, proxy: Proxy) -> None:
    turn = [said(f"first {number}") for number in range(150)]
    refused = Step(How.ANOTHER, applied=False, error=(400, "AccessDeniedException"))
    proxy.play("TransactWriteItems", [Step()], rest=refused)
    with pytest.raises(SessionError):
        await converse(endpoint_url=proxy.url).add_items(turn, token="turn")
    await converse().add_items([said("between")])
    with pytest.raises(SessionError, match="another turn"):
        await converse().add_items(another(turn), token="turn")
    await converse().add_items(turn, token="turn")
    await converse().add_items(another(turn), token="turn")
    assert await converse().get_items() == [*turn, said("between")]


async def test_a_turn_that_an_earlier_version_has_begun_is_completed(
    converse: Converse, proxy: Proxy, client: Any, table_name: str, items: Items
) -> None:
    """It knew a turn by the sizes of its steps alone."""
    turn = [said(f"first {number}") for number in range(150)]
    proxy.play("TransactWriteItems", [Step()], rest=Step(How.ANOTHER, applied=False, error=(400, "AccessDenied")))
    with pytest.raises(SessionError):
        await converse(endpoint_url=proxy.url).add_items(turn, token="turn")
    [token] = [item for item in items() if int(item["position"]["N"]) < 0]
    del token["content"]
    client.put_item(TableName=table_name, Item=token)
    await converse().add_items(turn, token="turn")
    assert await converse().get_items() == turn


async def test_a_token_opens_nobody_elses_conversation(converse: Converse) -> None:
    await converse(owner="alice").add_items([said("one")], token="turn")
    with pytest.raises(SessionError, match="somebody else"):
        await converse(owner="bob").add_items([said("two")], token="turn")
    await converse().clear_session()
    await converse(owner="bob").add_items([said("bob's")])
    await converse(owner="alice").add_items([said("one")], token="turn")
    assert await converse().get_items() == [said("bob's")]
