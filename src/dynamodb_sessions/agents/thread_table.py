"""ThreadTable: the calls that read and write the items of threads. It knows no checkpoints.

A call that is given no operation has a deadline of its own. Each write may be made more than once without harm, so one
of which nobody knows what became is made again, and the attempt before it is void: see `thread_items.py`.
"""

import contextlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from functools import partial
from typing import Any

from dynamodb_sessions.agents import tables, thread_items
from dynamodb_sessions.agents.thread_head import ThreadHead
from dynamodb_sessions.agents.thread_items import Group
from dynamodb_sessions.aws.errors import ConditionFailed, OutcomeUnknown
from dynamodb_sessions.aws.table_calls import AT_ONCE, Operation, TableCalls, all_at_once
from dynamodb_sessions.clock import wall_clock
from dynamodb_sessions.exceptions import StoreUnavailable
from dynamodb_sessions.stores import item_format, table_schema
from dynamodb_sessions.stores.update_expression import OPERATION_SECONDS

_LARGE_AT_ONCE = 4
"""How many items that may be as large as any are stored at once."""


class ThreadTable:
    """Calls a table of threads."""

    def __init__(self, calls: TableCalls) -> None:
        self.calls = calls

    async def head(self, operation: Operation, partition: str) -> ThreadHead | None:
        """Return a thread's head; None: it has none."""
        found = await tables.get(self.calls, operation, thread_items.key(partition, thread_items.HEAD))
        return None if found is None or thread_items.is_tombstone(found) else ThreadHead.of(found)

    async def update_head(
        self, partition: str, update: dict[str, Any], operation: Operation | None = None
    ) -> dict[str, Any]:
        """Return what the update answers. Raises ConditionFailed if the head is not as it demands."""
        key = thread_items.key(partition, thread_items.HEAD)
        answer = await self._write({"Key": key, **update}, operation)
        attributes: dict[str, Any] = answer.get("Attributes", {})
        return attributes

    async def update(self, partition: str, position: int, update: dict[str, Any]) -> None:
        """Change an item, unless it was deleted."""
        on_condition = {
            **update,
            "Key": thread_items.key(partition, position),
            "ConditionExpression": "attribute_exists(#k)",
            "ExpressionAttributeNames": {**update["ExpressionAttributeNames"], "#k": table_schema.KEY},
        }
        with contextlib.suppress(ConditionFailed):
            await self._write(on_condition)

    async def page(
        self, operation: Operation, partition: str, span: tuple[int, int], limit: int
    ) -> tuple[list[dict[str, Any]], bool]:
        """Return at most so many of the items at these positions, newest first, and whether they are the last ones."""
        query = _query(partition, span) | {"Limit": limit}
        answer = await self.calls.read(operation, "query", TableName=self.calls.table_name, **query)
        items = answer.get("Items")
        if not isinstance(items, list):
            raise StoreUnavailable("DynamoDB's answer is invalid")
        return items, not items or "LastEvaluatedKey" not in answer

    async def items(
        self,
        partition: str,
        span: tuple[int, int],
        *,
        after: Iterable[dict[str, Any]] = (),
        **options: Any,
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the items at these positions, newest first unless the options of the Query say otherwise.

        None is a tombstone. `after`: what was read already, which comes first.
        """
        for item in after:
            yield item
        query = _query(partition, span) | options
        async with aclosing(self.calls.pages("query", TableName=self.calls.table_name, **query)) as found:
            async for item in found:
                if not thread_items.is_tombstone(item):
                    yield item

    async def keys(
        self, partition: str, span: tuple[int, int], condition: str | None = None, **values: tuple[str, int]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the keys of items, newest first, with what a tombstone in their place has: see `delete`.

        A condition names, as `#a` and `:a`, an attribute and a number.
        """
        query = _query(partition, span)
        query["ProjectionExpression"] = "#k, #p, #v, ns"
        query["ExpressionAttributeNames"]["#v"] = thread_items.VOID
        if condition is not None:
            query["FilterExpression"] = condition
        for name, (attribute, value) in values.items():
            query["ExpressionAttributeNames"][f"#{name}"] = attribute
            query["ExpressionAttributeValues"][f":{name}"] = item_format.number(value)
        async with aclosing(self.calls.pages("query", TableName=self.calls.table_name, **query)) as found:
            async for key in found:
                yield key

    async def store(self, item: dict[str, Any], operation: Operation | None = None) -> None:
        """Store a checkpoint's item in place of what is there."""
        await self._write(thread_items.storing(item), operation)

    async def merge(
        self, items: Iterable[dict[str, Any]], *, replaced: Iterable[str] = (), are_large: bool = True
    ) -> None:
        """Merge the attributes of these items into what is stored: see `thread_items.merging`."""
        replaced = frozenset(replaced)

        async def merge(item: dict[str, Any]) -> None:
            await self._write(thread_items.merging(item, replaced=replaced))

        await some_at_once(merge, items, _LARGE_AT_ONCE if are_large else AT_ONCE)

    async def delete(self, items: AsyncIterator[dict[str, Any]]) -> None:
        """Delete items, or those that `keys` yields. A batch that has begun ends, even if it is cancelled.

        Where an attempt that is void might still land, a tombstone is left.
        """
        until = wall_clock() + OPERATION_SECONDS

        def removing(item: dict[str, Any]) -> dict[str, Any]:
            if thread_items.VOID in item:
                return {"PutRequest": {"Item": thread_items.tombstone(item, until)}}
            return tables.deleting(thread_items.key_of(item))

        await tables.delete(self.calls, items, removing)

    async def delete_head(self, partition: str, now: int) -> None:
        """Delete a head that has expired."""
        await self._delete_head(partition, "#a <= :a", "expires_at", now)

    async def delete_unused_head(self, partition: str, updated_at: int) -> None:
        """Delete a head, unless the thread was used since then."""
        await self._delete_head(partition, "#a = :a", "updated_at", updated_at)

    async def _delete_head(self, partition: str, condition: str, attribute: str, value: int) -> None:
        with contextlib.suppress(ConditionFailed):  # Somebody else was first.
            await self.calls.repeat(
                self.calls.begin(),
                "delete_item",
                TableName=self.calls.table_name,
                Key=thread_items.key(partition, thread_items.HEAD),
                ConditionExpression=condition,
                ExpressionAttributeNames={"#a": attribute},
                ExpressionAttributeValues={":a": item_format.number(value)},
            )

    async def _write(self, update: dict[str, Any], operation: Operation | None = None) -> dict[str, Any]:
        """Make an update, as often as it takes to know that it was made, and have no attempt of it land later.

        So what is deleted, or replaced, afterwards does not come back. Raises ConditionFailed if the item is not as the
        update demands.
        """
        operation = operation or self.calls.begin()
        void: list[str] = []
        while True:
            attempt = secrets.token_hex(8)
            try:
                made = thread_items.attempted(update, attempt, void)
                return await self.calls.attempt(operation, "update_item", TableName=self.calls.table_name, **made)
            except OutcomeUnknown as error:
                operation.is_unsettled = True
                void.append(attempt)
                await operation.pause(error)


async def some_at_once(
    work: Callable[[dict[str, Any]], Awaitable[None]], items: Iterable[dict[str, Any]], at_once: int
) -> None:
    """Do the same with all of them, so many at a time."""
    items = list(items)
    for start in range(0, len(items), at_once):
        await all_at_once([partial(work, item) for item in items[start : start + at_once]])


async def groups(items: AsyncIterator[dict[str, Any]]) -> AsyncGenerator[Group, None]:
    """Yield what belongs to each checkpoint, in the order in which it is read."""
    group: Group | None = None
    async for item in items:
        place = thread_items.place_of(item)
        if group is None or (group.ns, group.order) != place:
            if group is not None:
                yield group
            group = Group(*place, [])
        group.items.append(item)
    if group is not None:
        yield group


def _query(partition: str, span: tuple[int, int]) -> dict[str, Any]:
    return {
        "KeyConditionExpression": "#k = :k AND #p BETWEEN :first AND :last",
        "ExpressionAttributeNames": {"#k": table_schema.KEY, "#p": table_schema.POSITION},
        "ExpressionAttributeValues": {
            ":k": {"S": partition},
            ":first": item_format.number(span[0]),
            ":last": item_format.number(span[1]),
        },
        "ScanIndexForward": False,
        "ConsistentRead": True,
    }
