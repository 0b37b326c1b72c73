"""Partition: the items of one conversation, and the calls that are made for them. It knows no messages."""

import logging
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from dynamodb_sessions.agents import conversation_head, tables
from dynamodb_sessions.agents.conversation_head import Head
from dynamodb_sessions.aws.errors import ConditionFailed
from dynamodb_sessions.aws.table_calls import Operation, TableCalls
from dynamodb_sessions.exceptions import SessionError, StoreUnavailable
from dynamodb_sessions.identifiers import fingerprint
from dynamodb_sessions.stores import item_format, table_schema

HEAD = conversation_head.POSITION
FORMER = conversation_head.FORMER_POSITION
MAX_PAGE = 1000
_MOVE_TIMEOUT = 1.0
"""Seconds in which a head is moved, or the next use does it: whoever reads does not wait longer."""

IS_NEW: dict[str, Any] = {
    "ConditionExpression": "attribute_not_exists(#k)",
    "ExpressionAttributeNames": {"#k": table_schema.KEY},
}
"""What makes a write of a transaction one of an item that is not there."""

logger: logging.Logger = logging.getLogger("dynamodb_sessions")


class Partition:
    """The items that have one key, each at a position of its own."""

    __slots__ = ("calls", "session_id")

    def __init__(self, calls: TableCalls, session_id: str) -> None:
        self.calls: TableCalls = calls
        self.session_id: str = session_id

    def key(self, position: int) -> dict[str, Any]:
        """Return the key of the item at a position."""
        return {**item_format.key(self.session_id), table_schema.POSITION: item_format.number(position)}

    async def get(self, operation: Operation, position: int) -> dict[str, Any] | None:
        """Return the item at a position."""
        return await tables.get(self.calls, operation, self.key(position))

    async def head(self, operation: Operation) -> Head | None:
        """Return the head; None: nothing was added yet."""
        async with aclosing(self.query(newest_first=True, page=1, first=FORMER, operation=operation)) as newest:
            async for item in newest:
                return await self.head_by(operation, item)
        return None

    async def head_by(self, operation: Operation, newest: dict[str, Any]) -> Head | None:
        """Return the head; None: there is none. `newest` is the item at the highest position: nearly always the head.

        A head that is where earlier versions had it is moved.
        """
        if position_of(newest) == HEAD:
            return Head.of(newest)
        while True:
            former = await self.get(operation, FORMER)
            if former is not None:
                head = Head.of(former)
                try:
                    return await self._move(former, head)
                except ConditionFailed:
                    pass
                except SessionError as error:  # Whoever only reads need not be able to write.
                    logger.warning("conversation %s is not moved: %s", fingerprint(self.session_id), error)
                    return head
            found = await self.get(operation, HEAD)
            if found is not None:
                return Head.of(found)
            if former is None:
                return None
            await operation.pause(StoreUnavailable("others change the conversation first"))

    async def _move(self, former: dict[str, Any], head: Head) -> Head:
        """Move the head to where it belongs, as it was read. Raises ConditionFailed if it has changed, or has moved."""
        moved = {**former, **self.key(HEAD)}
        if head.last >= HEAD:  # An earlier version has taken the head for a message, and cleared it.
            moved |= dict.fromkeys(("last", "cleared"), item_format.number(time.time_ns() // 1000))
        names = dict(enumerate(former))
        unchanged = {
            "ConditionExpression": " AND ".join(f"#{number} = :{number}" for number in names),
            "ExpressionAttributeNames": {f"#{number}": name for number, name in names.items()},
            "ExpressionAttributeValues": {f":{number}": former[name] for number, name in names.items()},
        }
        await self.transact(
            self.calls.begin_within(_MOVE_TIMEOUT),
            [{"Put": {"Item": moved, **IS_NEW}}, {"Delete": {"Key": self.key(FORMER), **unchanged}}],
        )
        return Head.of(moved)

    async def update_head(self, operation: Operation, update: dict[str, Any]) -> dict[str, Any]:
        """Raises ConditionFailed if the head is not as the update demands."""
        return await self.calls.repeat(
            operation, "update_item", TableName=self.calls.table_name, Key=self.key(HEAD), **update
        )

    def query(
        self,
        projection: str | None = None,
        *,
        newest_first: bool = False,
        page: int | None = None,
        first: int = 1,
        last: int | None = None,
        operation: Operation | None = None,
        turned: Callable[[], object] | None = None,
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the items at these positions, a page of at most so many after the other: see `TableCalls.pages`."""
        values: dict[str, Any] = {":k": {"S": self.session_id}, ":p": item_format.number(first)}
        names = {"#k": table_schema.KEY, "#p": table_schema.POSITION}
        positions = "#p >= :p"
        if last is not None:
            positions, values[":l"] = "#p BETWEEN :p AND :l", item_format.number(last)
        options: dict[str, Any] = {} if page is None else {"Limit": min(page, MAX_PAGE)}
        if projection is not None:
            options["ProjectionExpression"] = projection
            names |= {"#t": table_schema.TTL} if "#t" in projection else {}
        return self.calls.pages(
            "query",
            operation=operation,
            turned=turned,
            TableName=self.calls.table_name,
            KeyConditionExpression=f"#k = :k AND {positions}",
            ExpressionAttributeNames=names,
            ExpressionAttributeValues=values,
            ScanIndexForward=not newest_first,
            ConsistentRead=True,
            **options,
        )

    async def transact(self, operation: Operation, writes: Sequence[dict[str, Any]]) -> None:
        """Make all the writes, or none. Each is named as TransactWriteItems names it, without its table.

        Raises ConditionFailed if one of their conditions does not hold.
        """
        named = [
            {kind: {"TableName": self.calls.table_name, **write}} for each in writes for kind, write in each.items()
        ]
        # The same token on every attempt: a repeated request whose first reply was lost is answered, not repeated. Also
        # one write alone needs it: what it has added may have been popped before it is repeated.
        await self.calls.repeat(
            operation, "transact_write_items", TransactItems=named, ClientRequestToken=str(uuid.uuid4())
        )


def position_of(item: dict[str, Any]) -> int:
    """Return the position of an item."""
    return int(item[table_schema.POSITION]["N"])
