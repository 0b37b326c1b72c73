"""What is told to `on_event` and to the log of every call of a conversation."""

import logging
from contextlib import aclosing
from typing import Any

import pytest

from dynamodb_sessions import ConfigurationError, SessionEvent, SessionTooLarge
from dynamodb_sessions.agents import DynamoDBConversation, partition
from dynamodb_sessions.events import observing
from dynamodb_sessions.identifiers import fingerprint
from tests.agents.conftest import Converse, said

pytestmark = pytest.mark.anyio


async def test_every_call_is_told(converse: Converse, client: Any, table_name: str) -> None:
    events: list[SessionEvent] = []
    conversation = converse(on_event=events.append, owner="acme/alice")
    await conversation.add_items([said("one"), said("two")])
    await conversation.add_items([])
    await conversation.get_items()
    await conversation.get_items(limit=1)
    await conversation.pop_item()
    await conversation.clear_session()
    await conversation.pop_item()
    with pytest.raises(SessionTooLarge):
        await conversation.add_items([said("x" * 41_000_000)])
    assert [(event.name, event.outcome) for event in events] == [
        ("add_items", "ok"),
        ("get_items", "ok"),
        ("get_items", "ok"),
        ("pop_item", "ok"),
        ("clear_session", "ok"),
        ("pop_item", "absent"),
        ("add_items", "SessionTooLarge"),
    ]
    assert {(event.session, event.mode, event.table) for event in events} == {
        (fingerprint("chat"), "dynamodb", table_name)
    }
    assert all(event.duration_ms > 0 and event.capacity_units for event in events[:-1])
    assert events[-1].capacity_units is None
    await conversation.add_items([said("again")])
    events.clear()
    owned = DynamoDBConversation.of_owner(
        "acme/alice", table_name, endpoint_url=client.meta.endpoint_url, on_event=events.append
    )
    assert [found.session_id async for found in owned] == ["chat"]
    assert {(event.name, event.outcome, event.session) for event in events} == {("of_owner", "ok", None)}


async def test_messages_are_told_page_by_page(converse: Converse, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done with a message is no part of a page, nor is what it consumes."""
    monkeypatch.setattr(partition, "MAX_PAGE", 3)
    events: list[SessionEvent] = []
    conversation = converse(on_event=events.append)
    await conversation.add_items([said(str(number)) for number in range(5)])
    events.clear()
    async for _ in conversation.messages(limit=5):
        assert observing.get() is None
        await converse("other", on_event=events.append).get_items()
    names = [event.name for event in events]
    assert names == ["messages", *["get_items"] * 3, "messages", *["get_items"] * 2]
    events.clear()
    async with aclosing(conversation.messages(limit=5)) as found:  # type: ignore[type-var]
        async for _ in found:
            break
    assert [(event.name, event.outcome) for event in events] == [("messages", "ok")]


async def test_at_debug_the_log_has_a_line_of_each_call(converse: Converse, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="dynamodb_sessions"):
        await converse().get_items()
    [line] = [record for record in caplog.records if record.name == "dynamodb_sessions"]
    assert line.getMessage().startswith(f"conversation {fingerprint('chat')}: get_items ok in ")


async def test_what_cannot_be_called_where_it_stands_is_refused(converse: Converse) -> None:
    async def unawaited(event: SessionEvent) -> None:
        raise AssertionError(event)

    for on_event in ("print", unawaited):
        with pytest.raises(ConfigurationError, match="on_event"):
            converse(on_event=on_event)
        with pytest.raises(ConfigurationError, match="on_event"):
            _ = [found async for found in DynamoDBConversation.of_owner("alice", on_event=on_event)]  # type: ignore[arg-type]
