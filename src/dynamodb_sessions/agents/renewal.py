"""The renewal of a conversation's messages: what keeps DynamoDB from removing them while the conversation lives.

The head says when the conversation ends, and until when all messages stay at the least; the first never comes after
the second. So whenever a renewal ends half way, nothing is lost of the beginning: the head still says what it said, and
the next use goes on with it.
"""

import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from functools import partial
from typing import Any

from dynamodb_sessions.agents import conversation_head
from dynamodb_sessions.agents.conversation_head import DAY, Head, Lifetime
from dynamodb_sessions.agents.partition import Partition
from dynamodb_sessions.aws.errors import ConditionFailed
from dynamodb_sessions.aws.table_calls import Operation, batches
from dynamodb_sessions.settled import settled
from dynamodb_sessions.stores import table_schema
from dynamodb_sessions.stores.item_format import number

PATIENCE = 1.0
"""Seconds of one use that a renewal may take while there is time left for the next use to go on with it."""

_AT_ONCE = 100


async def renew(partition: Partition, head: Head, lifetime: Lifetime, clock: Callable[[], int]) -> None:
    """Have all messages stay for long enough, unless somebody else is at it. Raises what calls raise.

    `head` is as it was just read. Each batch of messages is an operation of its own.
    """
    now, is_urgent, begun = clock(), head.is_urgent(clock(), lifetime), time.monotonic()
    try:
        update = conversation_head.begin_renewal(head, now, lifetime)
        answer = await settled(partition.update_head(partition.calls.begin(), update))
    except ConditionFailed:
        return
    head = Head.of(answer["Attributes"])
    target = head.renewal or now
    found = partition.query("#k, #p, #t", first=head.cleared + 1, last=head.last)
    async with aclosing(found), aclosing(batches(_stale(found, now, target), _AT_ONCE)) as stale:
        async for keys in stale:
            await settled(_keep(partition, keys, now, target + DAY))
            if not is_urgent and time.monotonic() - begun > PATIENCE:
                return
    await settled(_end(partition, target, clock(), lifetime))


async def _stale(found: AsyncIterator[dict[str, Any]], now: int, target: int) -> AsyncGenerator[dict[str, Any], None]:
    """Yield the keys of the messages that DynamoDB would remove before that, and of none that has expired."""
    async for item in found:
        ttl = item.pop(table_schema.TTL, None)
        if ttl is not None and now < int(ttl["N"]) < target:
            yield item


async def _keep(partition: Partition, keys: list[dict[str, Any]], now: int, ttl: int) -> None:
    async for _ in partition.calls.many(keys, partial(_keep_one, partition, now, ttl)):
        pass


async def _keep_one(partition: Partition, now: int, ttl: int, operation: Operation, key: dict[str, Any]) -> None:
    # Refused if it was popped or has expired meanwhile: it must not come back.
    with contextlib.suppress(ConditionFailed):
        await partition.calls.repeat(
            operation,
            "update_item",
            TableName=partition.calls.table_name,
            Key=key,
            UpdateExpression="SET #t = :t",
            ConditionExpression="#t > :now AND #t < :t",
            ExpressionAttributeNames={"#t": table_schema.TTL},
            ExpressionAttributeValues={":t": number(ttl), ":now": number(now)},
        )


async def _end(partition: Partition, target: int, now: int, lifetime: Lifetime) -> None:
    operation = partition.calls.begin()
    for ends_at in (now + (lifetime.seconds or 0), None):
        with contextlib.suppress(ConditionFailed):
            await partition.update_head(operation, conversation_head.end_renewal(target, ends_at, now))
            return
