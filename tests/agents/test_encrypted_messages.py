"""Messages that are encrypted: nothing plain is in the table, and each opens where it was stored."""

import base64
import secrets
from collections.abc import Callable
from typing import Any

import pytest

from dynamodb_sessions import ConfigurationError, CorruptRecord
from tests.agents.conftest import Converse, said

pytestmark = pytest.mark.anyio

Items = Callable[[], list[dict[str, Any]]]

OLD, NEW = (base64.urlsafe_b64encode(letter * 32).decode() for letter in (b"o", b"n"))


async def test_nothing_plain_is_stored_and_it_comes_back_with_the_key(
    converse: Converse, items: Items, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = secrets.token_hex(500_000)
    told = [said("a secret"), said("x" * 5000), said(large)]
    await converse().add_items([said("from before")])
    await converse(encryption_key=OLD).add_items(told)
    for item in items():
        held = item.get("message", {"S": "from before"})
        assert "B" in held or "from before" in held["S"]
        assert b"secret" not in held.get("B", b"")
    keys: list[Any] = [OLD, [NEW, OLD], [None, OLD]]
    for key in keys:
        assert await converse(encryption_key=key).get_items() == [said("from before"), *told]
    for other in (None, NEW):
        with pytest.raises(CorruptRecord, match="no key fits"):
            await converse(encryption_key=other).get_items()
        with pytest.raises(CorruptRecord, match="no key fits"):
            await converse(encryption_key=other).pop_item()
    monkeypatch.setenv("SESSION_ENCRYPTION_KEY", OLD)
    assert await converse().pop_item() == said(large)
    await converse().clear_session()
    assert await converse().get_items() == []


async def test_a_message_opens_at_its_position_and_in_its_conversation_only(
    converse: Converse, client: Any, table_name: str, items: Items
) -> None:
    conversation = converse(encryption_key=OLD)
    await conversation.add_items([said("one"), said("two")])
    [one, two, _] = sorted(items(), key=lambda item: int(item["position"]["N"]))
    client.put_item(TableName=table_name, Item={**one, "session_id": {"S": "another"}})
    client.put_item(TableName=table_name, Item={**one, "message": two["message"]})
    for name in ("chat", "another"):
        with pytest.raises(CorruptRecord):
            await converse(name, encryption_key=OLD).get_items()


@pytest.mark.parametrize("key", ["", "short", b"x"])
async def test_what_is_no_key_is_refused(key: Any, converse: Converse) -> None:
    with pytest.raises(ConfigurationError, match="encryption"):
        converse(encryption_key=key)
