"""DynamoDBConversation: what an agent and its user have said, as the OpenAI Agents SDK's `Session`, an item a message.

A conversation is one partition. At position 0 is its head, which hands out positions to writers, each its own run of
them, so that two turns at once neither collide nor mix; after it come the messages. The first position is where the
clock is, in microseconds; from then on they only grow, through every clear.

A public method is one operation, with one deadline. Only what takes many calls has more: a turn that does not fit into
a transaction has one for each of its parts, a clear one for what readers see and then one for each batch of deletes,
and what yields many messages one for each page.
"""

import contextlib
import functools
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

from dynamodb_sessions import settings
from dynamodb_sessions.agents import conversation_head
from dynamodb_sessions.agents.conversation_head import Head, Lifetime
from dynamodb_sessions.aws.errors import ConditionFailed
from dynamodb_sessions.aws.table_calls import Operation, TableCalls, batches
from dynamodb_sessions.clock import check_seconds, wall_clock
from dynamodb_sessions.codec import decode, encode_item, is_text
from dynamodb_sessions.events import Observer, OnEvent, check_on_event, done, found_or_absent
from dynamodb_sessions.exceptions import ConfigurationError, SessionError, SessionTooLarge, StoreUnavailable
from dynamodb_sessions.identifiers import fingerprint
from dynamodb_sessions.settled import settled
from dynamodb_sessions.stores import item_format, table_schema, value_format
from dynamodb_sessions.stores.contract import MAX_OWNER_SIZE, MAX_RECORD_SIZE, Party, is_owner
from dynamodb_sessions.stores.reserved_ids import PROBE_ID

try:
    from agents.memory import SessionSettings
    from agents.memory.session_settings import resolve_session_limit
except ImportError as _missing:
    raise ImportError(
        f"dynamodb_sessions.agents takes the OpenAI Agents SDK ({_missing}): pip install 'dynamodb-sessions[agents]'"
    ) from _missing

logger: logging.Logger = logging.getLogger("dynamodb_sessions")

MAX_TRANSACTION_ITEMS = 100
MAX_TRANSACTION_SIZE = 4_000_000
"""Bytes. Source: DynamoDB's service quotas, "Transactions": 4 MB, of which the requests' own text takes a little."""

_MAX_ID_SIZE = 2048
_MAX_PAGE = 1000
_DELETES_AT_ONCE = 25  # Source: DynamoDB's service quotas, "BatchWriteItem".
_COMPRESS_OVER = 1024
_HEAD = conversation_head.POSITION
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
    """A conversation, as its owner's or tenant's list has it. Times are epoch seconds.

    `updated_at` is when it was last added to.
    """

    session_id: str
    created_at: int
    updated_at: int
    owner: str | None = None


class DynamoDBConversation:
    """The history of one conversation, shared by all that name it: `Runner.run(…, session=DynamoDBConversation(…))`.

    `session_id` is any text of at most 2048 bytes. Messages live for `ttl_seconds` after they were added; None: until
    they are removed. `owner` is who `of_owner` lists the conversation for, and `tenant`, only with an owner, the one
    `of_tenant` lists it for. `session_settings` is the SDK's, whose `limit` is how many messages `get_items` gives by
    default. `client`, `region_name`, `endpoint_url` and `create_table` are DynamoDBStore's, and DYNAMODB_ENDPOINT_URL
    counts as for that; objects with the same ones share their connections. `on_event` is called with a SessionEvent
    after each call of a method, and after each page of what yields many.

    Its methods raise StoreUnavailable, ConfigurationError, UnserializableValue or SessionTooLarge, the last two before
    anything is stored. The constructor raises ConfigurationError. A write that is cancelled ends first.
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
        tenant: str | None = None,
        create_table: bool = False,
        session_settings: SessionSettings | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        if not is_text(session_id, max_size=_MAX_ID_SIZE):
            raise ConfigurationError(f"a conversation's id must be a non-empty str of at most {_MAX_ID_SIZE} bytes")
        if owner is not None and not is_owner(owner):
            raise ConfigurationError(f"an owner must be a non-empty str of at most {MAX_OWNER_SIZE} bytes")
        if tenant is not None and (owner is None or not is_owner(tenant)):
            raise ConfigurationError(
                f"a tenant must be a non-empty str of at most {MAX_OWNER_SIZE} bytes, and given with an owner"
            )
        check_seconds("ttl_seconds", ttl_seconds)
        check_on_event(on_event)
        self.session_id = session_id
        self.session_settings = session_settings or SessionSettings()
        self._ttl_seconds = ttl_seconds
        self._owner = owner
        self._tenant = tenant
        self._calls = _table(table_name, region_name, settings.endpoint_url(endpoint_url), client, create_table)
        self._observer = Observer(on_event, self._calls, subject="conversation")

    async def get_items(self, limit: int | None = None) -> list[Any]:
        """Return the latest `limit` messages, or all, in the order they were added: no more than these are read."""
        return await self._observer.observed("get_items", self.session_id, self._get(limit), done)

    async def _get(self, limit: int | None) -> list[Any]:
        limit = resolve_session_limit(limit, self.session_settings)
        found = [message.item async for message in self._read(newest_first=limit is not None, limit=limit)]
        return found if limit is None else found[::-1]

    async def add_items(self, items: Sequence[Any]) -> None:
        """Add messages at the end, together: up to 100 of them, and 4 MB, all or none.

        More are added in that many steps, which others' messages do not come between either.
        """
        if items:
            await self._observer.observed("add_items", self.session_id, self._add(items), done)

    async def _add(self, items: Sequence[Any]) -> None:
        now = wall_clock()
        made = [self._made(f"items[{number}]", each, now) for number, each in enumerate(items)]
        parts = [*_transactions(made)]
        await settled(self._begin_turn(made, parts[0], now))
        for part in parts[1:]:
            await settled(self._put(self._calls.begin(), part))

    async def pop_item(self) -> Any | None:
        """Remove the latest message and return it; None if there is none. Of several at once, each gets another one."""
        return await self._observer.observed("pop_item", self.session_id, settled(self._pop()), found_or_absent)

    async def clear_session(self) -> None:
        """Remove all messages there are when this is called. What others begin to add meanwhile stays.

        It is done, for every reader, before the messages are deleted. If that fails, the next clear does it.
        """
        await self._observer.observed("clear_session", self.session_id, self._clear_all(), done)

    async def _clear_all(self) -> None:
        last = await settled(self._clear())
        if last is None:
            return
        async with (
            aclosing(self._query(last=last, projection="#k, #p")) as found,
            aclosing(batches(found, _DELETES_AT_ONCE)) as parts,
        ):
            async for keys in parts:
                await settled(self._delete(keys))

    async def messages(self, *, after: int = _HEAD, limit: int | None = None) -> AsyncIterator[Message]:
        """Yield the messages in the order they were added; from `after`, the position of the last one seen, on."""
        found = self._observer.observed_pages("messages", self.session_id, self._read(after=after, limit=limit))
        async with aclosing(found):
            async for message in found:
                yield message

    @staticmethod
    def of_owner(
        owner: str,
        table_name: str = "conversations",
        *,
        region_name: str | None = None,
        endpoint_url: str | None = None,
        client: Any = None,
        create_table: bool = False,
        on_event: OnEvent | None = None,
    ) -> AsyncIterator[Conversation]:
        """Yield an owner's conversations, the one begun last first. The index hears of a new one a moment later.

        An owner that no conversation can have has none.
        """
        place = partial(_table, table_name, region_name, settings.endpoint_url(endpoint_url), client, create_table)
        return _observed_of(Party("owner", owner), place, on_event)

    @staticmethod
    def of_tenant(
        tenant: str,
        table_name: str = "conversations",
        *,
        region_name: str | None = None,
        endpoint_url: str | None = None,
        client: Any = None,
        create_table: bool = False,
        on_event: OnEvent | None = None,
    ) -> AsyncIterator[Conversation]:
        """Yield a tenant's conversations, by owner, as `of_owner` does those of one.

        Raises ConfigurationError if the table has no index `tenant-index`.
        """
        place = partial(_table, table_name, region_name, settings.endpoint_url(endpoint_url), client, create_table)
        return _observed_of(Party("tenant", tenant), place, on_event)

    async def _begin_turn(self, made: list[dict[str, Any]], part: list[dict[str, Any]], now: int) -> None:
        """Give all messages of a turn their positions, and store the first part of them."""
        operation = self._calls.begin()
        first = await self._reserve(operation, len(made), now) - len(made) + 1
        for position, message in enumerate(made, first):
            message[table_schema.POSITION] = item_format.number(position)
        await self._put(operation, part)

    async def _reserve(self, operation: Operation, count: int, now: int) -> int:
        """Take so many positions for one's own. Return the last. Repeated, it takes more: nobody misses them."""
        for lifetime in Lifetime if self._ttl_seconds is not None else (Lifetime.ALL,):
            update = conversation_head.advance(
                count,
                now=now,
                base=time.time_ns() // 1000,
                owner=self._owner,
                tenant=self._tenant,
                ttl_seconds=self._ttl_seconds,
                lifetime=lifetime,
            )
            with contextlib.suppress(ConditionFailed):
                answer = await self._update_head(operation, update)
                try:
                    return int(answer["Attributes"]["last"]["N"])
                except (KeyError, TypeError, ValueError):
                    raise StoreUnavailable("DynamoDB's answer is invalid") from None
        raise SessionError(f"conversation {fingerprint(self.session_id)} belongs to somebody else")

    async def _update_head(self, operation: Operation, update: dict[str, Any]) -> dict[str, Any]:
        """Raises ConditionFailed if the head is not as the update demands."""
        return await self._calls.repeat(
            operation, "update_item", TableName=self._calls.table_name, Key=self._key(_HEAD), **update
        )

    async def _put(self, operation: Operation, messages: list[dict[str, Any]]) -> None:
        puts = [{"Put": {"TableName": self._calls.table_name, "Item": message}} for message in messages]
        await self._transact(operation, puts)

    async def _pop(self) -> Any | None:
        operation = self._calls.begin()
        while True:
            latest = [message async for message in self._read(newest_first=True, limit=1, operation=operation)]
            if not latest:
                return None
            delete = {
                "TableName": self._calls.table_name,
                "Key": self._key(latest[0].position),
                "ConditionExpression": "attribute_exists(#k)",
                "ExpressionAttributeNames": {"#k": table_schema.KEY},
            }
            # In a transaction, so that a repeated attempt is told of its own success, not that there is none.
            with contextlib.suppress(ConditionFailed):
                await self._transact(operation, [{"Delete": delete}])
                return latest[0].item
            await operation.pause(StoreUnavailable("others pop the latest message first"))

    async def _clear(self) -> int | None:
        """Clear the conversation for all readers. Return the last position there was; None: there was none."""
        operation, now = self._calls.begin(), wall_clock()
        head = found = await _head(self._calls, operation, self._key(_HEAD))
        if head is None:
            # An earlier version may have left messages behind, and no head.
            async with aclosing(self._query(newest_first=True, page=1, operation=operation)) as newest:
                async for each in newest:
                    head = Head(int(each[table_schema.POSITION]["N"]))
                    break
        if head is None or (head.is_empty and head.cleared == head.last):
            return None if head is None else head.last
        try:
            await self._update_head(operation, conversation_head.empty(head, now=now, exists=found is not None))
        except ConditionFailed:  # It has gone on.
            with contextlib.suppress(ConditionFailed):  # Somebody else has cleared it.
                await self._update_head(operation, conversation_head.clear_up_to(head.last))
        return head.last

    def _made(self, name: str, message: Any, now: int) -> dict[str, Any]:
        """Return a message's item, but for its position. `name` is what errors call it."""
        text = encode_item(name, message)
        made = {
            **self._key(2**63),  # As many digits as any.
            "message": value_format.pack(text, _COMPRESS_OVER),
            "created_at": item_format.number(now),
        }
        if self._ttl_seconds is not None:
            made[table_schema.TTL] = item_format.number(now + self._ttl_seconds)
        size = max(_size(made), len(text.encode()))  # However small it is compressed: it is to be read again.
        if size > MAX_RECORD_SIZE:
            raise SessionTooLarge(size, MAX_RECORD_SIZE, [name])
        return made

    async def _read(
        self,
        *,
        newest_first: bool = False,
        limit: int | None = None,
        after: int = _HEAD,
        operation: Operation | None = None,
    ) -> AsyncGenerator[Message, None]:
        """Yield messages that were not cleared and have not expired. Without an operation each page is one.

        A message that cannot be read is left out, with a warning.
        """
        if limit is not None and limit <= 0:
            return
        left, now, cleared = limit, wall_clock(), _HEAD
        first = after + 1
        if after <= _HEAD and not newest_first:
            first = _HEAD  # The head comes with them.
        else:
            head = await _head(self._calls, operation or self._calls.begin(), self._key(_HEAD))
            cleared = _HEAD if head is None else head.cleared
            first = max(after, cleared) + 1
        page = None if limit is None else limit + (first == _HEAD)
        async with aclosing(
            self._query(newest_first=newest_first, page=page, first=first, operation=operation)
        ) as found:
            async for each in found:
                position = int(each[table_schema.POSITION]["N"])
                if position == _HEAD:
                    cleared = Head.of(each).cleared
                if position <= cleared or not _is_live(each, now):
                    continue
                try:
                    message = decode(value_format.unpack(each["message"]))
                    made = Message(position, int(each["created_at"]["N"]), message)
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
        first: int = _HEAD + 1,
        last: int | None = None,
        operation: Operation | None = None,
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the items at these positions, a page of at most so many after the other."""
        values: dict[str, Any] = {":k": {"S": self.session_id}, ":p": item_format.number(first)}
        positions = "#p >= :p"
        if last is not None:
            positions, values[":l"] = "#p BETWEEN :p AND :l", item_format.number(last)
        options: dict[str, Any] = {} if page is None else {"Limit": min(page, _MAX_PAGE)}
        if projection is not None:
            options["ProjectionExpression"] = projection
        return self._calls.pages(
            "query",
            operation=operation,
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
            left = (answer.get("UnprocessedItems") or {}).get(self._calls.table_name) or []
            if left:
                await operation.pause(StoreUnavailable("DynamoDB keeps refusing to delete"))

    async def _transact(self, operation: Operation, writes: list[dict[str, Any]]) -> None:
        # The same token on every attempt: a repeated request whose first reply was lost is answered, not repeated. Also
        # one write alone needs it: what it has added may have been popped before it is repeated.
        await self._calls.repeat(
            operation, "transact_write_items", TransactItems=writes, ClientRequestToken=str(uuid.uuid4())
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
        create=partial(table_schema.create, conversations=True, tenants=True),
        region_name=region_name,
        endpoint_url=endpoint_url,
        client=client,
        create_table=create_table,
        timeout=5.0,
    )


async def _observed_of(
    party: Party, make_place: Callable[[], TableCalls], on_event: OnEvent | None
) -> AsyncGenerator[Conversation, None]:
    """Yield the conversations of an owner or a tenant, and tell of each page."""
    check_on_event(on_event)
    if not is_owner(party.name):
        return
    place = make_place()
    observer = Observer(on_event, place, subject="conversation")
    found = observer.observed_pages(f"of_{party.kind}", None, _conversations_of(place, party))
    async with aclosing(found):
        async for conversation in found:
            yield conversation


async def _conversations_of(place: TableCalls, party: Party) -> AsyncGenerator[Conversation, None]:
    """Yield the live conversations that an index names. It may still name one that is somebody else's by now."""
    now, name = wall_clock(), str(party.name)
    is_owners = party.kind == "owner"
    query = table_schema.of_owner(name) | {"ScanIndexForward": False} if is_owners else table_schema.of_tenant(name)
    async with aclosing(place.pages("query", TableName=place.table_name, **query)) as found:
        async for each in found:
            key = {attribute: each[attribute] for attribute in (table_schema.KEY, table_schema.POSITION)}
            head = await _head(place, place.begin(), key)
            if head is None or not head.is_live(now):
                continue
            if (head.owner if is_owners else head.tenant) == party.name:
                session_id = key[table_schema.KEY]["S"]
                yield Conversation(session_id, head.created_at or 0, head.updated_at or 0, head.owner)


async def _head(place: TableCalls, operation: Operation, key: dict[str, Any]) -> Head | None:
    answer = await place.read(operation, "get_item", TableName=place.table_name, Key=key, ConsistentRead=True)
    found = answer.get("Item")
    return None if found is None else Head.of(found)


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
