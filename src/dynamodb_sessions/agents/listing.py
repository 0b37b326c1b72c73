"""The list of an owner's or a tenant's conversations, by the table's indexes."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from dynamodb_sessions.agents.conversation_head import Head
from dynamodb_sessions.agents.tables import get
from dynamodb_sessions.agents.thread_items import is_thread
from dynamodb_sessions.aws.table_calls import Operation, TableCalls
from dynamodb_sessions.stores import table_schema
from dynamodb_sessions.stores.contract import Party


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation, as its owner's or tenant's list has it. Times are epoch seconds.

    `updated_at` is when it was last added to.
    """

    session_id: str = field(repr=False)
    created_at: int
    updated_at: int
    owner: str | None = field(default=None, repr=False)


async def conversations_of(place: TableCalls, party: Party, now: int) -> AsyncGenerator[Conversation, None]:
    """Yield the live conversations that an index names. It may still name one that is somebody else's by now."""
    name = str(party.name)
    is_owners = party.kind == "owner"
    query = table_schema.of_owner(name) | {"ScanIndexForward": False} if is_owners else table_schema.of_tenant(name)

    async def read(operation: Operation, item: dict[str, Any]) -> Conversation | None:
        if is_thread(item[table_schema.KEY]["S"]):  # LangGraph's, in the same table.
            return None
        key = {attribute: item[attribute] for attribute in (table_schema.KEY, table_schema.POSITION)}
        found = await get(place, operation, key)
        head = None if found is None else Head.of(found)
        if head is None or not head.is_live(now) or (head.owner if is_owners else head.tenant) != party.name:
            return None
        return Conversation(item[table_schema.KEY]["S"], head.created_at or 0, head.updated_at or 0, head.owner)

    async with (
        aclosing(place.pages("query", TableName=place.table_name, **query)) as listed,
        aclosing(place.many(listed, read)) as found,
    ):
        async for conversation in found:
            if conversation is not None:
                yield conversation
