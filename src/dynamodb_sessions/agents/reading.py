"""Reading: the messages of a conversation that a reader may see, one by one. It writes no message."""

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from dynamodb_sessions.agents import parts
from dynamodb_sessions.agents.conversation_head import Head
from dynamodb_sessions.agents.partition import HEAD, Partition, position_of
from dynamodb_sessions.agents.parts import PartsFormat
from dynamodb_sessions.aws.table_calls import Operation
from dynamodb_sessions.codec import decode
from dynamodb_sessions.identifiers import fingerprint
from dynamodb_sessions.stores import table_schema

logger: logging.Logger = logging.getLogger("dynamodb_sessions")

MESSAGE = "message"
CREATED_AT = "created_at"

_CLOCKS_APART = 300
"""Seconds by which the clocks of those who add messages may differ: beyond that, none is looked for by its time."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation. `position` grows from each to the next; `created_at`: epoch seconds."""

    position: int
    created_at: int
    item: Any


@dataclass(slots=True)
class Reading:
    """What is to be read: at most `limit` messages after a position, from `since` on and before `until`.

    `head` is the conversation's as it was read; None: there is none, or nothing was read. `pages` is how many were.
    Without an `operation` each page is one. A message that cannot be read is left out, with a warning; but one that no
    key opens raises CorruptRecord, for without its key a conversation must not look as if it were empty.
    """

    partition: Partition
    format: PartsFormat
    now: int
    newest_first: bool = False
    limit: int | None = None
    after: int = 0
    since: float | None = None
    until: float | None = None
    operation: Operation | None = None
    head: Head | None = field(default=None, init=False)
    pages: int = field(default=1, init=False)

    async def at_once(self) -> list[Message]:
        """Return the messages as they were at one time: what is cleared meanwhile is seen as a whole, or not at all."""
        found = [message async for message, _ in self.messages()]
        if found and self.pages > 1:  # One page is of one time, as is the head that begins it.
            head = await self.partition.head(self.operation or self.partition.calls.begin())
            cleared = 0 if head is None else head.cleared
            found = [message for message in found if message.position > cleared]
        return found

    async def messages(self) -> AsyncGenerator[tuple[Message, int], None]:
        """Yield messages that were not cleared and have not expired, and how many items each takes.

        A message is at the position of the last one of its items.
        """
        left = self.limit
        if left is not None and left <= 0:
            return
        async with aclosing(self._values()) as found:
            async for items, is_whole in found:
                message = self._message(items, is_whole=is_whole)
                if message is None:
                    continue
                if self._is_past(message):
                    return
                if not self._is_wanted(message):
                    continue
                left = None if left is None else left - 1
                yield message, len(items)
                if left == 0:
                    return

    async def _values(self) -> AsyncGenerator[tuple[list[dict[str, Any]], bool], None]:
        """Yield the items of each message that may be seen, and whether none is missing."""
        first = max(self.after, 0) + 1
        while first < HEAD:
            cleared, is_known, skips = 0, False, False
            items = self.partition.query(
                newest_first=self.newest_first,
                page=None if self.limit is None else self.limit + self.newest_first,
                first=first,
                last=None if self.newest_first else HEAD - 1,
                operation=self.operation,
                turned=self._turned,
            )
            async with aclosing(items), aclosing(parts.gather(items, _value_of)) as found:
                async for value, is_whole in found:
                    position = position_of(value[-1])
                    if not is_known:
                        self.head, is_known = await self._head(value[-1]), True
                        cleared = 0 if self.head is None else self.head.cleared
                        if self.head is not None and self.head.has_ended(self.now):
                            return
                        if position == HEAD:
                            continue
                    if position <= cleared:
                        skips = not self.newest_first  # Else all that follow are cleared, too.
                        break
                    yield value, is_whole
            if not skips:
                return
            self._turned()
            first = cleared + 1  # There may be pages of what was cleared and is not yet deleted.

    async def _head(self, first: dict[str, Any]) -> Head | None:
        """Return the head; None: there is none. `first` is the first item that was read.

        The newest first, it is the head itself, as it was when the first page was read. Else it is read after that: so
        whatever that page lacks, since it was cleared, the head says so.
        """
        operation = self.operation or self.partition.calls.begin()
        return await (self.partition.head_by(operation, first) if self.newest_first else self.partition.head(operation))

    def _turned(self) -> None:
        self.pages += 1

    def _message(self, items: list[dict[str, Any]], *, is_whole: bool) -> Message | None:
        """Return the message that these items hold; None: it has expired, or cannot be read."""
        for item in items:
            if not _is_live(item, self.now):
                return None
        try:
            if not is_whole:
                raise ValueError("a part of it is missing")  # noqa: TRY301 - it is as invalid as the others
            position = position_of(items[-1])
            name = name_of(position - len(items) + 1)
            text = self.format.unpack([item[MESSAGE] for item in items], name).decode()
            return Message(position, int(items[0][CREATED_AT]["N"]), decode(text))
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            logger.warning(
                "a message of conversation %s cannot be read and is left out: %s",
                fingerprint(self.partition.session_id),
                type(error).__name__ if is_whole else error,
            )
            return None

    def _is_wanted(self, message: Message) -> bool:
        at = message.created_at
        return (self.since is None or at >= self.since) and (self.until is None or at < self.until)

    def _is_past(self, message: Message) -> bool:
        """Whether none of those that come after this one is wanted: they are in the order of time, nearly."""
        if self.newest_first:
            return self.since is not None and message.created_at < self.since - _CLOCKS_APART
        return self.until is not None and message.created_at >= self.until + _CLOCKS_APART


def name_of(position: int) -> str:
    """Return the name of the message whose first part is at a position: encrypted, it is valid nowhere else."""
    return f"{MESSAGE} {position}"


def _value_of(item: dict[str, Any]) -> int:
    """Return the position of the first part of a message: its parts follow each other."""
    return position_of(item) - parts.part_of(item)


def _is_live(found: dict[str, Any], now: int) -> bool:
    """Whether an item has not expired: DynamoDB takes up to two days to remove it."""
    return table_schema.TTL not in found or int(found[table_schema.TTL]["N"]) > now
