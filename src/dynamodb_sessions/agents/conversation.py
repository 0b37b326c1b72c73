"""DynamoDBConversation: what an agent and its user have said, as the OpenAI Agents SDK's `Session`, an item a message.

A conversation is one partition. Its head hands out positions to writers, each its own run of them, so that two turns at
once neither collide nor mix; it is itself above all messages. The first position is where the
clock is, in microseconds; from then on they only grow, through every clear. A message that is too large for an item
takes as many positions as it has parts. Below the head are the tokens of turns: what has one is stored once.

A public method is one operation, with one deadline. Only what takes many calls has more: a turn that does not fit into
a transaction has one for each of its parts, a clear one for what readers see and then one for each batch of deletes,
a renewal one for each batch of messages, and what yields many messages one for each page.
"""

import contextlib
import logging
import time
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import fields
from functools import partial
from typing import Any, Literal, Self

from dynamodb_sessions import settings
from dynamodb_sessions.agents import conversation_head, tables
from dynamodb_sessions.agents.conversation_head import Head, Lifetime, Writer
from dynamodb_sessions.agents.listing import Conversation, conversations_of
from dynamodb_sessions.agents.partition import FORMER, HEAD, IS_NEW, Partition, position_of
from dynamodb_sessions.agents.parts import PartsFormat
from dynamodb_sessions.agents.reading import Message, Reading
from dynamodb_sessions.agents.renewal import renew
from dynamodb_sessions.agents.thread_items import PREFIX as THREADS
from dynamodb_sessions.agents.thread_items import is_thread
from dynamodb_sessions.agents.turn import Begun, Turn
from dynamodb_sessions.aws.errors import ConditionFailed
from dynamodb_sessions.aws.table_calls import Operation, TableCalls
from dynamodb_sessions.clock import check_seconds, wall_clock
from dynamodb_sessions.codec import is_text
from dynamodb_sessions.events import Observer, OnEvent, check_on_event, done, found_or_absent
from dynamodb_sessions.exceptions import (
    ConfigurationError,
    SessionError,
    StoreUnavailable,
)
from dynamodb_sessions.identifiers import fingerprint
from dynamodb_sessions.settled import settled
from dynamodb_sessions.stores import table_schema
from dynamodb_sessions.stores.contract import MAX_OWNER_SIZE, Party, is_owner
from dynamodb_sessions.stores.value_format import ValueFormat

try:
    from agents.memory import SessionSettings
    from agents.memory.session_settings import resolve_session_limit
except ImportError as _missing:
    raise ImportError(
        f"dynamodb_sessions.agents takes the OpenAI Agents SDK ({_missing}): pip install 'dynamodb-sessions[agents]'"
    ) from _missing

__all__ = ["Conversation", "DynamoDBConversation", "Message"]

logger: logging.Logger = logging.getLogger("dynamodb_sessions")

_MAX_ID_SIZE = 2048
_MAX_TOKEN_SIZE = 2048
_USE_TIMEOUT = 1.0


class DynamoDBConversation:
    """The history of one conversation, shared by all that name it: `Runner.run(…, session=DynamoDBConversation(…))`.

    `session_id` is any text of at most 2048 bytes. A conversation lives for `ttl_seconds` after it was last used: added
    to, popped from, or read by `get_items`, which counts when a tenth of them has passed. None says nothing: a new
    conversation stays until it is cleared, and one that has a lifetime keeps it. With `ttl_of="message"` each message
    lives by itself, for `ttl_seconds` after it was added; None: until it is removed.

    `owner` is who `of_owner` lists the conversation for, and `tenant`, only with an owner, the one `of_tenant` lists it
    for. `session_settings` is the SDK's, or a dict of it, whose `limit` is how many messages `get_items` gives by
    default. `client`, `region_name`, `endpoint_url` and `create_table` are DynamoDBStore's, and DYNAMODB_ENDPOINT_URL
    counts as for that; objects with the same ones share their connections. `dynamodb_client` is another name of
    `client`. `encryption_key` is DynamoDBStore's, too, and encrypts messages, as SESSION_ENCRYPTION_KEY does.
    `on_event` is called with a SessionEvent after each call of a method, and after each page of what yields many.

    Its methods raise StoreUnavailable, ConfigurationError, UnserializableValue or SessionTooLarge, the last two before
    anything is stored; and CorruptRecord if a message is encrypted, and no key fits. The constructor raises
    ConfigurationError, and TypeError for invalid `session_settings`. A write that is cancelled ends first.
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
        dynamodb_client: Any = None,
        ttl_seconds: int | None = None,
        ttl_of: Literal["conversation", "message"] = "conversation",
        owner: str | None = None,
        tenant: str | None = None,
        create_table: bool = False,
        encryption_key: settings.EncryptionKey = None,
        session_settings: SessionSettings | dict[str, Any] | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        if not is_text(session_id, max_size=_MAX_ID_SIZE):
            raise ConfigurationError(f"a conversation's id must be a non-empty str of at most {_MAX_ID_SIZE} bytes")
        if is_thread(session_id):
            raise ConfigurationError(f"a conversation's id must not begin with {THREADS}: LangGraph's threads do")
        if owner is not None and not is_owner(owner):
            raise ConfigurationError(f"an owner must be a non-empty str of at most {MAX_OWNER_SIZE} bytes")
        if tenant is not None and (owner is None or not is_owner(tenant)):
            raise ConfigurationError(
                f"a tenant must be a non-empty str of at most {MAX_OWNER_SIZE} bytes, and given with an owner"
            )
        if ttl_of not in ("conversation", "message"):
            raise ConfigurationError(f'ttl_of={ttl_of!r} must be "conversation" or "message"')
        if client is not None and dynamodb_client is not None:
            raise ConfigurationError("client and dynamodb_client are the same: give one of them")
        check_seconds("ttl_seconds", ttl_seconds)
        check_on_event(on_event)
        self.session_id = session_id
        self.session_settings = _settings(session_settings)
        self._lifetime = Lifetime(ttl_seconds, of_messages=ttl_of == "message")
        self._writer = Writer(owner, tenant, self._lifetime)
        self._calls = tables.table(
            table_name,
            region_name,
            settings.endpoint_url(endpoint_url),
            dynamodb_client if client is None else client,
            create_table,
        )
        self._partition = Partition(self._calls, session_id)
        keys = settings.encryption_keys(encryption_key)
        self._format = PartsFormat(session_id, ValueFormat(keys=keys))
        self._observer = Observer(on_event, self._calls, subject="conversation")
        _users.setdefault(self._calls, weakref.WeakSet()).add(self)

    async def close(self) -> None:
        """Close the connections, unless other conversations with the same ones are still there. A given client stays.

        A later call opens new ones.
        """
        users = _users[self._calls]
        users.discard(self)
        if not users:
            await self._calls.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def get_items(self, limit: int | None = None) -> list[Any]:
        """Return the latest `limit` messages, or all, in the order they were added: no more than these are read."""
        return await self._observer.observed("get_items", self.session_id, self._get(limit), done)

    async def _get(self, limit: int | None) -> list[Any]:
        limit = resolve_session_limit(limit, self.session_settings)
        reading = self._reading(newest_first=True, limit=limit)
        found = [message.item for message in await reading.at_once()]
        await self._use(reading.head)
        return found[::-1]

    async def add_items(self, items: Sequence[Any], *, token: str | None = None) -> None:
        """Add messages at the end, together: up to 100 of them, and 4 MB, all or none.

        More are added in that many steps, which others' messages do not come between either. A message is JSON, or a
        pydantic model; of at most 4 MB as it is stored, compressed.

        With a `token`, any text of yours that is this turn's alone, it is stored once, whoever repeats it. So a turn
        can be added again after StoreUnavailable. A token is known for 30 days, through pops and clears, and takes the
        place of one of the 100.
        """
        if token is not None and not is_text(token, max_size=_MAX_TOKEN_SIZE):
            raise ConfigurationError(f"a token must be a non-empty str of at most {_MAX_TOKEN_SIZE} bytes")
        if items:
            await self._observer.observed("add_items", self.session_id, self._add(items, token), done)

    async def _add(self, items: Sequence[Any], token: str | None) -> None:
        turn = Turn.of(items, self._partition.session_id, self._format, now=wall_clock(), token=token)
        steps = [*turn.steps()]
        head = await settled(self._begin_turn(turn, steps[0]))
        if head is None:
            return  # It was stored before, under its token.
        for number, step in enumerate(steps[1:], 1):
            await settled(self._store(self._calls.begin(), turn, step, number))
        await self._renew(head)

    async def _begin_turn(self, turn: Turn, step: slice) -> Head | None:
        """Give all messages of a turn their positions, and store those of the first step. Return the head.

        None: there is nothing more to store, for what was stored under its token is another turn, or was cleared since.
        A turn whose first step was stored before, under its token, has the positions that it has there.
        """
        operation = self._calls.begin()
        while (begun := await self._begun_as(operation, turn)) is None:
            head = await self._reserve(operation, turn)
            turn.first = head.last - turn.count + 1
            turn.ttl = head.message_ttl(turn.now, self._lifetime)
            if await self._store(operation, turn, step, 0):
                return head
        if not begun.is_it:
            await self._check_complete(operation, turn, begun.last_step)
            return None
        found = await self._partition.head(operation)
        if found is None or turn.last <= found.cleared:
            return None
        self._check_owner(found, turn.now)
        turn.ttl = found.message_ttl(turn.now, self._lifetime)
        return found

    async def _begun_as(self, operation: Operation, turn: Turn) -> Begun | None:
        """Return what is known of the turn that was stored under this one's token; None: there is none.

        The turn then has its first position.
        """
        found = None if turn.token is None else await self._partition.get(operation, turn.token_position(0))
        if found is None:
            return None
        try:
            begun = turn.begun(found)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise StoreUnavailable("a token of a conversation cannot be read") from None
        turn.first = begun.first
        return begun

    async def _check_complete(self, operation: Operation, turn: Turn, last_step: int) -> None:
        """Raise SessionError if the turn that was stored under this one's token lacks steps: this one has not them."""
        if last_step and await self._partition.get(operation, turn.token_position(last_step)) is None:
            raise SessionError("the token stands for another turn, which is not complete: add that one again")

    async def _store(self, operation: Operation, turn: Turn, step: slice, number: int) -> bool:
        """Store the messages of a step. Return False if they were stored before, under the turn's token."""
        writes: list[dict[str, Any]] = [{"Put": {"Item": item}} for item in turn.items(step, self._format)]
        if turn.token is not None:
            writes.append({"Put": {"Item": turn.token_item(number), **IS_NEW}})
        try:
            await self._partition.transact(operation, writes)
        except ConditionFailed:
            return False
        return True

    async def _reserve(self, operation: Operation, turn: Turn) -> Head:
        """Take the turn's positions for one's own. Return the head. Repeated, it takes more: nobody misses them."""
        update, is_first = conversation_head.advance(turn.count, self._writer, now=turn.now), True
        while True:
            with contextlib.suppress(ConditionFailed):
                answer = await self._partition.update_head(operation, update)
                if not isinstance(answer.get("Attributes"), dict):
                    raise StoreUnavailable("DynamoDB's answer is invalid")
                return Head.of(answer["Attributes"])
            if not is_first:
                await operation.pause(StoreUnavailable("others change the conversation first"))
            is_first = False
            head = await self._partition.head(operation)
            if head is None:
                base = time.time_ns() // 1000
                update = conversation_head.begin(turn.count, self._writer, now=turn.now, base=base)
            else:
                self._check_owner(head, turn.now)
                update = conversation_head.advance_from(head, turn.count, self._writer, now=turn.now)

    def _check_owner(self, head: Head, now: int) -> None:
        """Raise SessionError if the conversation is somebody else's."""
        if head.is_live(now) and head.is_refused_to(self._writer):
            raise SessionError(f"conversation {fingerprint(self.session_id)} belongs to somebody else")

    async def _use(self, head: Head | None) -> None:
        """Have the conversation live for longer, if that is due. It was used, whatever becomes of this."""
        if head is None:
            return
        update = conversation_head.use(head, wall_clock(), self._lifetime)
        if update is not None:
            with self._warned(), contextlib.suppress(ConditionFailed):
                await settled(self._partition.update_head(self._calls.begin_within(_USE_TIMEOUT), update))
        await self._renew(head)

    async def _renew(self, head: Head) -> None:
        """Have the messages stay for longer, if that is due."""
        if head.needs_renewal(wall_clock(), self._lifetime):
            with self._warned():
                await renew(self._partition, head, self._lifetime, wall_clock)

    @contextlib.contextmanager
    def _warned(self) -> Any:
        """Have a failure be a warning: the next use tries again."""
        try:
            yield
        except SessionError as error:
            logger.warning("conversation %s is not renewed: %s", fingerprint(self.session_id), error)

    async def pop_item(self) -> Any | None:
        """Remove the latest message and return it; None if there is none. Of several at once, each gets another one."""
        return await self._observer.observed("pop_item", self.session_id, self._pop(), found_or_absent)

    async def _pop(self) -> Any | None:
        item, head = await settled(self._pop_latest())
        await self._use(head)
        return item

    async def _pop_latest(self) -> tuple[Any | None, Head | None]:
        operation = self._calls.begin()
        while True:
            reading = self._reading(newest_first=True, limit=1, operation=operation)
            latest = [found async for found in reading.messages()]
            if not latest:
                return None, reading.head
            [(message, count)] = latest
            exists = {
                "ConditionExpression": "attribute_exists(#k)",
                "ExpressionAttributeNames": {"#k": table_schema.KEY},
            }
            positions = range(message.position - count + 1, message.position + 1)
            # In a transaction, so that a repeated attempt is told of its own success, not that there is none.
            with contextlib.suppress(ConditionFailed):
                await self._partition.transact(
                    operation, [{"Delete": {"Key": self._partition.key(position), **exists}} for position in positions]
                )
                return message.item, reading.head
            # Or those that have waited longest would wait longest again.
            operation.got_on()
            await operation.pause(StoreUnavailable("others pop the latest message first"))

    async def clear_session(self) -> None:
        """Remove all messages there are when this is called. What others begin to add meanwhile stays.

        It is done, for every reader, before the messages are deleted. If that fails, the next clear does it.
        """
        await self._observer.observed("clear_session", self.session_id, self._clear_all(), done)

    async def _clear_all(self) -> None:
        last = await settled(self._clear())
        if last is None:
            return
        async with aclosing(self._partition.query(first=FORMER, last=min(last, HEAD - 1), projection="#k, #p")) as keys:
            await tables.delete(self._calls, keys)

    async def _clear(self) -> int | None:
        """Clear the conversation for all readers. Return the last position there was; None: there was none."""
        operation, now = self._calls.begin(), wall_clock()
        head = found = await self._partition.head(operation)
        if head is None:
            # An earlier version may have left messages behind, and no head.
            async with aclosing(
                self._partition.query(last=HEAD - 1, newest_first=True, page=1, operation=operation)
            ) as newest:
                async for each in newest:
                    head = Head(position_of(each))
                    break
        if head is None or (head.is_empty and head.cleared == head.last):
            return None if head is None else head.last
        try:
            empty = conversation_head.empty(head, now=now, exists=found is not None)
            await self._partition.update_head(operation, empty)
        except ConditionFailed:  # It has gone on.
            with contextlib.suppress(ConditionFailed):  # Somebody else has cleared it.
                await self._partition.update_head(operation, conversation_head.clear_up_to(head.last))
        return head.last

    async def messages(
        self,
        *,
        after: int = 0,
        limit: int | None = None,
        since: float | None = None,
        until: float | None = None,
        newest_first: bool = False,
    ) -> AsyncIterator[Message]:
        """Yield the messages in the order they were added; from `after`, the position of the last one seen, on.

        `since` and `until` are epoch seconds: only messages that were added from the first on, and before the second.
        What lies between the end that it begins at and the first message that is wanted is read too: begin at the
        latest, by `newest_first`, if `since` is recent.
        """
        reading = self._reading(after=after, limit=limit, since=since, until=until, newest_first=newest_first)
        found = self._observer.observed_pages("messages", self.session_id, reading.messages())
        async with aclosing(found):
            async for message, _ in found:
                yield message

    def _reading(self, **what: Any) -> Reading:
        return Reading(self._partition, self._format, wall_clock(), **what)

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
        place = partial(
            tables.table, table_name, region_name, settings.endpoint_url(endpoint_url), client, create_table
        )
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
        place = partial(
            tables.table, table_name, region_name, settings.endpoint_url(endpoint_url), client, create_table
        )
        return _observed_of(Party("tenant", tenant), place, on_event)


def _settings(given: SessionSettings | dict[str, Any] | None) -> SessionSettings:
    """Return the SDK's settings, as its own sessions take them. Raises TypeError, in its words."""
    if given is None or isinstance(given, SessionSettings):
        return given or SessionSettings()
    if not isinstance(given, dict):
        raise TypeError(f"session must be a SessionSettings instance or a dict, got {type(given).__name__}")
    unknown = sorted(map(str, given.keys() - {field.name for field in fields(SessionSettings)}))
    if unknown:
        raise TypeError(f"Unknown session settings: {', '.join(unknown)}")
    return SessionSettings(**given)


_users: weakref.WeakKeyDictionary[TableCalls, weakref.WeakSet["DynamoDBConversation"]] = weakref.WeakKeyDictionary()
"""Which conversations share the connections of a table."""


async def _observed_of(
    party: Party, make_place: Callable[[], TableCalls], on_event: OnEvent | None
) -> AsyncGenerator[Conversation, None]:
    """Yield the conversations of an owner or a tenant, and tell of each page."""
    check_on_event(on_event)
    if not is_owner(party.name):
        return
    place = make_place()
    observer = Observer(on_event, place, subject="conversation")
    found = observer.observed_pages(f"of_{party.kind}", None, conversations_of(place, party, wall_clock()))
    async with aclosing(found):
        async for conversation in found:
            yield conversation
