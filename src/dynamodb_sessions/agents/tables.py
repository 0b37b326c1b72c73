"""The table that conversations and threads are kept in: one TableCalls for all that name it alike, and shared calls."""

import functools
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from functools import partial
from typing import Any

from dynamodb_sessions.aws.table_calls import Operation, TableCalls, batches
from dynamodb_sessions.exceptions import StoreUnavailable
from dynamodb_sessions.settled import settled
from dynamodb_sessions.stores import item_format, table_schema
from dynamodb_sessions.stores.reserved_ids import PROBE_ID

TIMEOUT = 5.0
"""Seconds that one operation on a conversation or a thread takes at the most."""

_DELETES_AT_ONCE = 25  # Source: DynamoDB's service quotas, "BatchWriteItem".
_PROBE = {**item_format.key(PROBE_ID), table_schema.POSITION: item_format.number(0)}


@functools.lru_cache(maxsize=64)
def table(
    table_name: str, region_name: str | None, endpoint_url: str | None, client: Any, create_table: bool
) -> TableCalls:
    """Return what calls the table. Objects with the same options share its connections.

    Raises ConfigurationError for an invalid name, or a client that cannot be built or used.
    """
    return TableCalls(
        table_name,
        probe_key=_PROBE,
        create=partial(table_schema.create, conversations=True, tenants=True),
        region_name=region_name,
        endpoint_url=endpoint_url,
        client=client,
        create_table=create_table,
        timeout=TIMEOUT,
    )


async def get(calls: TableCalls, operation: Operation, key: dict[str, Any]) -> dict[str, Any] | None:
    """Return the item with a key."""
    answer = await calls.read(operation, "get_item", TableName=calls.table_name, Key=key, ConsistentRead=True)
    found: dict[str, Any] | None = answer.get("Item")
    return found


def deleting(key: dict[str, Any]) -> dict[str, Any]:
    """Return what deletes an item, as BatchWriteItem names it."""
    return {"DeleteRequest": {"Key": key}}


async def delete(
    calls: TableCalls,
    keys: AsyncIterator[dict[str, Any]],
    removing: Callable[[dict[str, Any]], dict[str, Any]] = deleting,
) -> None:
    """Delete items, a batch after the other. A batch that has begun ends, even if it is cancelled.

    `removing` returns the request that removes an item, if some leave another one in their place.
    """
    async with aclosing(batches(keys, _DELETES_AT_ONCE)) as some:
        async for batch in some:
            await settled(write_batch(calls, [removing(key) for key in batch]))


async def write_batch(calls: TableCalls, left: list[dict[str, Any]]) -> None:
    """Make at most 25 requests of BatchWriteItem."""
    operation = calls.begin()
    while left:
        answer = await calls.repeat(operation, "batch_write_item", RequestItems={calls.table_name: left})
        left = (answer.get("UnprocessedItems") or {}).get(calls.table_name) or []
        if left:
            await operation.pause(StoreUnavailable("DynamoDB keeps refusing to delete"))
