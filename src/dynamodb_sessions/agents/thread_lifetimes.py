"""How long threads live, and whose they are: what is written to a thread's head, and when.

A thread with a lifetime, or an owner, costs one write a turn, to its head. With a lifetime, all of its items are
rewritten once in half a lifetime, if it is used as long as that: see `thread_head.lifetime_from`.
"""

import contextlib
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

from dynamodb_sessions.agents import thread_head, thread_items
from dynamodb_sessions.agents.thread_head import Due, Lifetime, ThreadHead
from dynamodb_sessions.agents.thread_table import ThreadTable, some_at_once
from dynamodb_sessions.aws.errors import ConditionFailed
from dynamodb_sessions.aws.table_calls import AT_ONCE, Operation, batches
from dynamodb_sessions.clock import wall_clock
from dynamodb_sessions.exceptions import SessionError
from dynamodb_sessions.identifiers import fingerprint
from dynamodb_sessions.stores import table_schema

_MAX_KNOWN = 4096
_USES_A_LIFETIME = 20
"""How often in a thread's lifetime a use is written down that no turn begins with."""

_OWNED_FOR = 3600
"""Seconds for which a process takes an owner for granted who writes, unless a turn begins."""

_PATIENCE = 1.0
"""Seconds of one use that a renewal may take while there is time left for the next use to go on with it."""

_CONTENT = thread_items.span_of(None)


class ThreadLifetimes:
    """Writes down that threads are used. Times to live are in seconds; None: threads stay until they are deleted.

    `ended` is told which thread is found to have expired, once nothing is left of it, and before it begins anew.
    """

    def __init__(self, table: ThreadTable, ttl_seconds: int | None, ended: Callable[[str], None]) -> None:
        self._table = table
        self._ttl_seconds = ttl_seconds
        self._ended = ended
        self._used: dict[tuple[str, str | None], tuple[int, Lifetime | None]] = {}
        """When a thread was last used for an owner, as far as this process knows, and how long what it has lives."""

    async def use(self, operation: Operation, partition: str, owner: str | None, *, begins: bool) -> Lifetime | None:
        """Write down that a thread is used, if that is due. Return how long what is written now lives.

        `begins`: a turn begins. Raises SessionError if the thread is somebody else's.
        """
        if owner is None and self._ttl_seconds is None:
            return None
        now = wall_clock()
        if not begins and self._is_known(partition, owner, now):
            return self._used[partition, owner][1]
        lifetime = None if self._ttl_seconds is None else thread_head.lifetime_from(now, self._ttl_seconds)
        head = await self._write(operation, partition, thread_head.use(now, owner=owner, lifetime=lifetime), now)
        if lifetime is not None and head.renewed_at is not None:
            due = thread_head.renewal_due(head.renewed_at, now, lifetime)
            # A thread that has just got its first lifetime may have been there without one.
            if due is not Due.NOT_YET or head.renewed_at == now:
                has_all = await self._renew(partition, lifetime, is_urgent=due is Due.NOW)
                if has_all and head.renewed_at != now:
                    with contextlib.suppress(ConditionFailed):  # It was deleted meanwhile.
                        await self._table.update_head(partition, thread_head.renewed(now))
        if len(self._used) >= _MAX_KNOWN:
            self._used.clear()
        self._used[partition, owner] = now, lifetime
        return lifetime

    async def check_owner(self, operation: Operation, partition: str, owner: str | None) -> None:
        """Raise SessionError if a thread is somebody else's. Without an owner, nothing is asked.

        It is asked each time: the thread may have been deleted, and begun by somebody else.
        """
        if owner is None:
            return
        head = await self._table.head(operation, partition)
        if head is not None and head.owner not in {None, owner} and head.is_live(wall_clock()):
            raise _somebody_elses(partition)

    async def is_live(self, operation: Operation, partition: str, expires_at: int | None) -> bool:
        """Whether a thread lives of which something, by itself, lives until `expires_at`."""
        now = wall_clock()
        if expires_at is None or expires_at > now:
            return True
        head = await self._table.head(operation, partition)
        return head is not None and head.is_live(now)

    def forget(self, partition: str) -> None:
        """Take nothing about a thread for granted."""
        for known in [known for known in self._used if known[0] == partition]:
            self._used.pop(known, None)

    def _is_known(self, partition: str, owner: str | None, now: int) -> bool:
        known = self._used.get((partition, owner))
        seconds = _OWNED_FOR if self._ttl_seconds is None else self._ttl_seconds // _USES_A_LIFETIME
        return known is not None and known[0] <= now < known[0] + seconds

    async def _write(self, operation: Operation, partition: str, update: dict[str, Any], now: int) -> ThreadHead:
        with contextlib.suppress(ConditionFailed):
            return ThreadHead.of(await self._table.update_head(partition, update, operation))
        head = await self._table.head(operation, partition)
        if head is not None and not head.is_live(now):
            # A new thread must not begin with what an expired one has left.
            over = "attribute_not_exists(#e) OR #e <= :e"
            await self._table.delete(self._table.keys(partition, _CONTENT, over, e=("expires_at", now)))
            await self._table.delete_head(partition, now)
            self._ended(partition)
            with contextlib.suppress(ConditionFailed):
                return ThreadHead.of(await self._table.update_head(partition, update))
        raise _somebody_elses(partition)

    async def _renew(self, partition: str, lifetime: Lifetime, *, is_urgent: bool) -> bool:
        """Give all that a thread has this lifetime, an item at a time. Return whether all has it.

        Unless it is urgent, the next use may end it.
        """
        begun = time.monotonic()

        async def renew(key: dict[str, Any]) -> None:
            await self._table.update(partition, thread_items.position_in(key), lifetime.renewal)

        is_shorter = "attribute_not_exists(#t) OR (#t < :t AND attribute_exists(expires_at))"  # No tombstone.
        shorter = self._table.keys(partition, _CONTENT, is_shorter, t=(table_schema.TTL, lifetime.ttl))
        async with aclosing(shorter) as keys, aclosing(batches(keys, AT_ONCE)) as some:
            async for batch in some:
                await some_at_once(renew, batch, AT_ONCE)
                if not is_urgent and time.monotonic() - begun > _PATIENCE:
                    return False
        return True


def _somebody_elses(partition: str) -> SessionError:
    return SessionError(f"thread {fingerprint(thread_items.thread_of(partition))} belongs to somebody else")
