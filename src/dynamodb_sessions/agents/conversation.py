"""DynamoDBConversation: what an agent and its user have said, as the OpenAI Agents SDK's `Session`, an item a message.

A conversation is one partition. At position 0 is its head, which hands out positions to writers, each its own run of
them, so that two turns at once neither collide nor mix; after it come the messages. A conversation that is cleared and
goes on begins where the clock is, in microseconds, far beyond all that it has had.
"""

import contextlib
import functools
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

from dynamodb_sessions.aws.errors import ConditionFailed
from dynamodb_sessions.aws.table_calls import TableCalls
from dynamodb_sessions.clock import check_seconds, wall_clock
from dynamodb_sessions.codec import decode, encode_item, is_text
from dynamodb_sessions.exceptions import ConfigurationError, SessionError, SessionTooLarge, StoreUnavailable
from dynamodb_sessions.identifiers import fingerprint
from dynamodb_sessions.stores import item_format, table_schema
from dynamodb_sessions.stores.contract import MAX_OWNER_SIZE, MAX_RECORD_SIZE, is_owner
from dynamodb_sessions.stores.reserved_ids import PROBE_ID

try:
    from agents.memory import SessionSettings
    from agents.memory.session_settings import resolve_session_limit
except ImportError as missing:
    raise ImportError(
        f"dynamodb_sessions.agents takes the OpenAI Agents SDK ({missing}): pip install 'dynamodb-sessions[agents]'"
    ) from missing

logger = logging.getLogger("dynamodb_sessions")

MAX_TRANSACTION_ITEMS = 100
MAX_TRANSACTION_SIZE = 4_000_000
"""Bytes. Source: DynamoDB's service quotas, "Transactions": 4 MB, of which the requests' own text takes a little."""

_MAX_ID_SIZE = 2048
_MAX_PAGE = 1000
_DELETES_AT_ONCE = 25  # Source: DynamoDB's service quotas, "BatchWriteItem".
_COMPRESS_OVER = 1024
_HEAD = 0
_PROBE = {**item_format.key(PROBE_ID), table_schema.POSITION: item_format.number(_HEAD)}
_NAMES = {"#k": table_schema.KEY, "#p": table_schema.POSITION}


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation. `position` grows from each to the next; `created_at`: epoch seconds."""

    position: int
    created_at: int
    item: Any


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation, as its owner's list has it. Times are epoch seconds; `updated_at`: when it was last added to."""

    session_id: str
    created_at: int
    updated_at: int


class DynamoDBConversation:
    """The history of one conversation, shared by all that name it: `Runner.run(…, session=DynamoDBConversation(…))`.

    `session_id` is any text of at most 2048 bytes. Messages live for `ttl_seconds` after they were added; None: until
    they are removed. `owner` is who `of_owner` lists the conversation for. `session_settings` is the SDK's, whose
    `limit` is how many messages `get_items` gives by default. `client`, `region_name`, `endpoint_url` and
    `create_table` are DynamoDBStore's; objects with the same ones share their connections.

    Its methods raise StoreUnavailable, ConfigurationError, UnserializableValue or SessionTooLarge, the last two before
    anything is stored. The constructor raises ConfigurationError.
    """

    session_settings: SessionSettings | None = None

    def __init__(
        self,
        session_id: str,
        table_name: str = "conversations",
        *,
        region_name: str | None = None,
        endpoint_url: str | None = None,
        client: Any = None,
        ttl_seconds: int | None = None,
        owner: str | None = None,
        create_table: bool = False,
        session_settings: SessionSettings | None = None,
    ) -> None:
        if not is_text(session_id, max_size=_MAX_ID_SIZE):
            raise ConfigurationError(f"a conversation's id must be a non-empty str of at most {_MAX_ID_SIZE} bytes")
        if owner is not None and not is_owner(owner):
            raise ConfigurationError(f"an owner must be a non-empty str of at most {MAX_OWNER_SIZE} bytes")
        check_seconds("ttl_seconds", ttl_seconds)
        self.session_id = session_id
        self.session_settings = session_settings or SessionSettings()
        self._ttl_seconds = ttl_seconds
        self._owner = owner
        self._calls = _table(table_name, region_name, endpoint_url, client, create_table)

    async def get_items(self, limit: int | None = None) -> list[Any]:
        """Return the latest `limit` messages, or all, in the order they were added: no more than these are read."""
        limit = resolve_session_limit(limit, self.session_settings)
        if limit is not None and limit <= 0:
            return []
        found = [message.item async for message in self._read(newest_first=limit is not None, limit=limit)]
        return found if limit is None else found[::-1]

    async def add_items(self, items: Sequence[Any]) -> None:
        """Add messages at the end, together: up to 100 of them, and 4 MB, all or none.

        More are added in that many steps, which others' messages do not come between either.
        """
        if not items:
            return
        now = wall_clock()
        made = [self._made(f"items[{number}]", each, now) for number, each in enumerate(items)]
        first = await self._reserve(len(made), now) - len(made) + 1
        for position, message in enumerate(made, first):
            message[table_schema.POSITION] = item_format.number(position)
        for part in _transactions(made):
            puts = [{"Put": {"TableName": self._calls.table_name, "Item": message}} for message in part]
            await self._transact(puts)

    async def pop_item(self) -> Any | None:
        """Remove the latest message and return it; None if there is none. Of several at once, each gets another one."""
        while True:
            latest = [message async for message in self._read(newest_first=True, limit=1)]
            if not latest:
                return None
            delete = {
                "TableName": self._calls.table_name,
                "Key": self._key(latest[0].position),
                "ConditionExpression": "attribute_exists(#k)",
                "ExpressionAttributeNames": {"#k": table_schema.KEY},
            }
            # In a transaction, so that a repeated attempt is told of its own success, not that there is none.
            with contextlib.suppress(ConditionFailed):  # Somebody else was faster.
                await self._transact([{"Delete": delete}])
                return latest[0].item

    async def clear_session(self) -> None:
        """Remove all messages there are when this is called. What is added meanwhile stays."""
        head = await self._calls.read(
            self._calls.begin(), "get_item", TableName=self._calls.table_name, Key=self._key(_HEAD), ConsistentRead=True
        )
        last = head["Item"]["last"] if "Item" in head else None
        keys: list[dict[str, Any]] = []
        async with aclosing(self._query("#k, #p", last=last)) as found:
            async for each in found:
                keys.append(
                    {table_schema.KEY: each[table_schema.KEY], table_schema.POSITION: each[table_schema.POSITION]}
                )
                if len(keys) == _DELETES_AT_ONCE:
                    await self._delete(keys)
                    keys.clear()
        await self._delete(keys)
        if last is not None:
            with contextlib.suppress(ConditionFailed):  # It has gone on.
                await self._calls.repeat(
                    self._calls.begin(),
                    "delete_item",
                    TableName=self._calls.table_name,
                    Key=self._key(_HEAD),
                    ConditionExpression="#l = :l",
                    ExpressionAttributeNames={"#l": "last"},
                    ExpressionAttributeValues={":l": last},
                )

    async def messages(self, *, after: int = _HEAD, limit: int | None = None) -> AsyncIterator[Message]:
        """Yield the messages in the order they were added; from `after`, the position of the last one seen, on."""
        async with aclosing(self._read(after=after, limit=limit)) as found:
            async for message in found:
                yield message

    @classmethod
    async def of_owner(
        cls,
        owner: str,
        table_name: str = "conversations",
        *,
        region_name: str | None = None,
        endpoint_url: str | None = None,
        client: Any = None,
        create_table: bool = False,
    ) -> AsyncIterator[Conversation]:
        """Yield an owner's conversations, the one begun last first. The index hears of a new one a moment later.

        An owner that no conversation can have has none.
        """
        if not is_owner(owner):
            return
        place, now = _table(table_name, region_name, endpoint_url, client, create_table), wall_clock()
        pages = place.pages(
            "query",
            TableName=table_name,
            IndexName=table_schema.OWNER_INDEX,
            KeyConditionExpression="#o = :o",
            ExpressionAttributeNames={"#o": "owner"},
            ExpressionAttributeValues={":o": {"S": owner}},
            ScanIndexForward=False,
        )
        async with aclosing(pages) as found:
            async for each in found:
                key = {table_schema.KEY: each[table_schema.KEY], table_schema.POSITION: each[table_schema.POSITION]}
                head = (
                    await place.read(place.begin(), "get_item", TableName=table_name, Key=key, ConsistentRead=True)
                ).get("Item")
                # The index may still name one that was cleared and is somebody else's now.
                if head is not None and head.get("owner") == {"S": owner} and _is_live(head, now):
                    times = (int(head[name]["N"]) for name in ("created_at", "updated_at"))
                    yield Conversation(head[table_schema.KEY]["S"], *times)

    async def _reserve(self, count: int, now: int) -> int:
        """Take so many positions for one's own. Return the last."""
        try:
            return await self._advance(count, now, lifetime=True)
        except ConditionFailed:
            # The head may live longer already: it must not end before what was added with a longer lifetime, or none.
            if self._ttl_seconds is not None:
                with contextlib.suppress(ConditionFailed):
                    return await self._advance(count, now, lifetime=False)
        raise SessionError(f"conversation {fingerprint(self.session_id)} belongs to somebody else")

    async def _advance(self, count: int, now: int, *, lifetime: bool) -> int:
        """Change the head. Raises ConditionFailed if it is another owner's, or is to get a shorter lifetime."""
        names = {"#l": "last", "#c": "created_at", "#u": "updated_at"}
        values = {
            ":base": item_format.number(time.time_ns() // 1000),
            ":count": item_format.number(count),
            ":now": item_format.number(now),
        }
        sets = ["#l = if_not_exists(#l, :base) + :count", "#c = if_not_exists(#c, :now)", "#u = :now"]
        removes, conditions = "", []
        if lifetime:
            names["#t"] = table_schema.TTL
        if lifetime and self._ttl_seconds is None:
            removes = " REMOVE #t"
        elif lifetime and self._ttl_seconds is not None:
            names["#k"], values[":t"] = table_schema.KEY, item_format.number(now + self._ttl_seconds)
            sets.append("#t = :t")
            conditions.append("(attribute_not_exists(#k) OR #t <= :t)")
        if self._owner is not None:
            names["#o"], values[":o"] = "owner", {"S": self._owner}
            sets.append("#o = :o")
            conditions.append("(attribute_not_exists(#o) OR #o = :o)")
        answer = await self._calls.repeat(
            self._calls.begin(),
            "update_item",
            TableName=self._calls.table_name,
            Key=self._key(_HEAD),
            UpdateExpression=f"SET {', '.join(sets)}{removes}",
            ExpressionAttributeNames=names,
            ExpressionAttributeValues=values,
            ReturnValues="UPDATED_NEW",
            **({"ConditionExpression": " AND ".join(conditions)} if conditions else {}),
        )
        return int(answer["Attributes"]["last"]["N"])

    def _made(self, name: str, message: Any, now: int) -> dict[str, Any]:
        """Return a message's item, but for its position. `name` is what errors call it."""
        text = encode_item(name, message)
        made = {
            **self._key(2**63),  # As many digits as any.
            "message": item_format.pack(text, _COMPRESS_OVER),
            "created_at": item_format.number(now),
        }
        if self._ttl_seconds is not None:
            made[table_schema.TTL] = item_format.number(now + self._ttl_seconds)
        size = max(_size(made), len(text.encode()))  # However small it is compressed: it is to be read again.
        if size > MAX_RECORD_SIZE:
            raise SessionTooLarge(size, MAX_RECORD_SIZE, [name])
        return made

    async def _read(
        self, *, newest_first: bool = False, limit: int | None = None, after: int = _HEAD
    ) -> AsyncGenerator[Message, None]:
        """Yield messages that have not expired. One that cannot be read is left out, with a warning."""
        left, now = limit, wall_clock()
        async with aclosing(self._query(newest_first=newest_first, page=limit, after=after)) as found:
            async for each in found:
                if left == 0:
                    return
                if not _is_live(each, now):
                    continue
                try:
                    message = decode(item_format.unpack(each["message"]))
                    made = Message(int(each[table_schema.POSITION]["N"]), int(each["created_at"]["N"]), message)
                except (KeyError, TypeError, ValueError, RecursionError) as error:
                    logger.warning(
                        "a message of conversation %s cannot be read and is left out: %s",
                        fingerprint(self.session_id),
                        type(error).__name__,
                    )
                    continue
                left = None if left is None else left - 1
                yield made
                if left == 0:
                    return

    def _query(
        self,
        projection: str | None = None,
        *,
        newest_first: bool = False,
        page: int | None = None,
        after: int = _HEAD,
        last: dict[str, str] | None = None,
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the messages' items, a page of at most so many after the other."""
        values: dict[str, Any] = {":k": {"S": self.session_id}, ":p": item_format.number(after + 1)}
        positions = "#p >= :p"
        if last is not None:
            positions, values[":l"] = "#p BETWEEN :p AND :l", last
        options: dict[str, Any] = {} if page is None else {"Limit": min(page, _MAX_PAGE)}
        if projection is not None:
            options["ProjectionExpression"] = projection
        return self._calls.pages(
            "query",
            TableName=self._calls.table_name,
            KeyConditionExpression=f"#k = :k AND {positions}",
            ExpressionAttributeNames=_NAMES,
            ExpressionAttributeValues=values,
            ScanIndexForward=not newest_first,
            ConsistentRead=True,
            **options,
        )

    async def _delete(self, keys: list[dict[str, Any]]) -> None:
        """Delete at most 25 items."""
        left: list[dict[str, Any]] = [{"DeleteRequest": {"Key": key}} for key in keys]
        operation = self._calls.begin()
        while left:
            answer = await self._calls.repeat(
                operation, "batch_write_item", RequestItems={self._calls.table_name: left}
            )
            left = answer.get("UnprocessedItems", {}).get(self._calls.table_name, [])
            if left:
                await operation.pause(StoreUnavailable("DynamoDB keeps refusing to delete"))

    async def _transact(self, writes: list[dict[str, Any]]) -> None:
        # The same token on every attempt: a repeated request whose first reply was lost is answered, not repeated.
        await self._calls.repeat(
            self._calls.begin(), "transact_write_items", TransactItems=writes, ClientRequestToken=str(uuid.uuid4())
        )

    def _key(self, position: int) -> dict[str, Any]:
        return {**item_format.key(self.session_id), table_schema.POSITION: item_format.number(position)}


@functools.lru_cache(maxsize=64)
def _table(
    table_name: str, region_name: str | None, endpoint_url: str | None, client: Any, create_table: bool
) -> TableCalls:
    return TableCalls(
        table_name,
        probe_key=_PROBE,
        create=partial(table_schema.create, conversations=True),
        region_name=region_name,
        endpoint_url=endpoint_url,
        client=client,
        create_table=create_table,
        timeout=5.0,
    )


def _is_live(found: dict[str, Any], now: int) -> bool:
    """Whether an item has not expired: DynamoDB takes up to two days to remove it."""
    return table_schema.TTL not in found or int(found[table_schema.TTL]["N"]) > now


def _size(made: dict[str, Any]) -> int:
    """Return the bytes DynamoDB counts for a message's item, or a few more."""
    values = (next(iter(value.values())) for value in made.values())
    return sum(
        len(name) + len(value.encode() if isinstance(value, str) else value)
        for name, value in zip(made, values, strict=True)
    )


def _transactions(made: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Yield the items in their order, as many at a time as one transaction takes."""
    part: list[dict[str, Any]] = []
    size = 0
    for message in made:
        more = _size(message)
        if part and (len(part) == MAX_TRANSACTION_ITEMS or size + more > MAX_TRANSACTION_SIZE):
            yield part
            part, size = [], 0
        part.append(message)
        size += more
    yield part
