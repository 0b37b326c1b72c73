"""Messages that do not fit into an item: stored in parts, read and popped whole."""

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dynamodb_sessions import SessionTooLarge, StoreUnavailable
from dynamodb_sessions.agents.parts import PART_SIZE
from tests.agents.conftest import Converse, said
from tests.helpers.proxy import How, Proxy, Step

pytestmark = pytest.mark.anyio

Items = Callable[[], list[dict[str, Any]]]

LARGE = secrets.token_hex(2 * PART_SIZE)
"""Of twice as many digits, which compress to three parts."""


@pytest.fixture
def proxy(endpoint_url: str) -> Iterator[Proxy]:
    made = Proxy(endpoint_url)
    yield made
    made.close()


async def test_large_messages_come_back_in_their_order_by_every_way(converse: Converse, items: Items) -> None:
    conversation = converse()
    said_ = [said("before"), said(LARGE), said("between"), said(LARGE[::-1]), said("after")]
    await conversation.add_items(said_)
    assert len(items()) == 1 + 3 * 1 + 2 * 3
    assert await conversation.get_items() == said_
    for limit in range(1, 6):
        assert await conversation.get_items(limit) == said_[-limit:]
    found = [message async for message in conversation.messages()]
    for number, message in enumerate(found):
        rest = [each.item async for each in conversation.messages(after=message.position)]
        assert rest == said_[number + 1 :]
    for expected in reversed(said_):
        assert await conversation.pop_item() == expected
    assert await conversation.pop_item() is None
    assert len(items()) == 1, "no part is left behind"


async def test_what_compresses_well_may_be_as_large_as_it_likes(converse: Converse, items: Items) -> None:
    await converse().add_items([said("x" * 10_000_000)])
    assert len(items()) == 2
    assert await converse().get_items() == [said("x" * 10_000_000)]


async def test_nearly_four_megabytes_are_one_message(converse: Converse) -> None:
    conversation = converse("c" * 2048)
    text = secrets.token_hex(3_400_000)
    await conversation.add_items([said(text)])
    assert await conversation.get_items(1) == [said(text)]
    assert await conversation.pop_item() == said(text)
    with pytest.raises(SessionTooLarge, match=r"items\[0\], a message of a conversation, is") as caught:
        await conversation.add_items([said(text + secrets.token_hex(600_000))])
    assert caught.value.limit == 4_000_000 < caught.value.size
    assert await conversation.get_items() == []


async def test_it_is_cleared_with_the_others(converse: Converse, items: Items) -> None:
    await converse().add_items([said(LARGE), said("short")])
    await converse().clear_session()
    assert await converse().get_items() == []
    assert len(items()) == 1


@pytest.mark.usefixtures("impatient")
async def test_it_is_stored_once_or_not_at_all_whatever_becomes_of_the_reply(
    converse: Converse, items: Items, proxy: Proxy
) -> None:
    conversation = converse(endpoint_url=proxy.url)
    proxy.play("TransactWriteItems", [Step(How.DROPPED)])
    await conversation.add_items([said(LARGE)])
    assert await converse().get_items() == [said(LARGE)]
    proxy.play("TransactWriteItems", [Step(How.DROPPED)])
    assert await conversation.pop_item() == said(LARGE)
    assert len(items()) == 1
    proxy.play("TransactWriteItems", rest=Step(How.ANOTHER, applied=False))
    with pytest.raises(StoreUnavailable):
        await conversation.add_items([said(LARGE)])
    assert len(items()) == 1


async def test_two_that_pop_at_once_get_one_each(converse: Converse) -> None:
    await converse().add_items([said("first"), said(LARGE)])
    popped = await asyncio.gather(converse().pop_item(), converse().pop_item(), converse().pop_item())
    assert sorted(popped, key=str) == sorted([said(LARGE), said("first"), None], key=str)


async def test_one_of_which_a_part_is_missing_is_left_out_with_a_warning(
    converse: Converse, client: Any, table_name: str, items: Items, caplog: pytest.LogCaptureFixture
) -> None:
    await converse().add_items([said("one"), said(LARGE), said("two")])
    missing = sorted(int(item["position"]["N"]) for item in items())[3]
    client.delete_item(TableName=table_name, Key={"session_id": {"S": "chat"}, "position": {"N": str(missing)}})
    with caplog.at_level(logging.WARNING):
        assert await converse().get_items() == [said("one"), said("two")]
        assert await converse().get_items(2) == [said("one"), said("two")]
    assert caplog.text.count("cannot be read and is left out: a part of it is missing") == 2
    assert "chat" not in caplog.text
    assert await converse().pop_item() == said("two")
    assert await converse().pop_item() == said("one")
