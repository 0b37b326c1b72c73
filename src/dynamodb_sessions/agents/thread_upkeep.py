"""ThreadUpkeep: what is done to whole threads: they are listed, copied, cut down and deleted.

Each page that is read, each batch that is deleted and each item that is rewritten has a deadline of its own. What fails
half way can be done again.
"""

from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from dynamodb_sessions.agents import thread_items
from dynamodb_sessions.agents.thread_head import ThreadHead
from dynamodb_sessions.agents.thread_items import Group, Place, Saved
from dynamodb_sessions.agents.thread_lifetimes import ThreadLifetimes
from dynamodb_sessions.agents.thread_reduction import Reduction, reduce
from dynamodb_sessions.agents.thread_table import ThreadTable, groups
from dynamodb_sessions.agents.threads import Threads, attributes_of
from dynamodb_sessions.aws.table_calls import Operation, each
from dynamodb_sessions.clock import wall_clock
from dynamodb_sessions.settled import settled
from dynamodb_sessions.stores import table_schema

_ALL = (thread_items.HEAD, thread_items.MAX_POSITION)
_CONTENT = thread_items.span_of(None)


class ThreadUpkeep:
    """Does what concerns whole threads of a table."""

    def __init__(self, table: ThreadTable, threads: Threads, lifetimes: ThreadLifetimes) -> None:
        self._table = table
        self._threads = threads
        self._lifetimes = lifetimes

    async def delete(self, partition: str) -> None:
        """Delete all there is of a thread, the newest first: its head goes last."""
        self._lifetimes.forget(partition)
        await self._table.delete(self._table.keys(partition, _ALL))

    async def copy(self, source: str, target: str) -> None:
        """Copy all checkpoints of a thread into another one, the oldest first. It is then the same owner's."""
        head = await self._table.head(self._table.calls.begin(), source)
        if head is not None and not head.is_live(wall_clock()):
            return
        owner = None if head is None else head.owner
        format_ = self._threads.format_of(source)
        async with (
            aclosing(self._table.items(source, _CONTENT, ScanIndexForward=True)) as items,
            aclosing(groups(items)) as found,
        ):
            begins = True
            async for group in found:
                saved = format_.read(group)
                if saved is not None:
                    use = self._lifetimes.use(self._table.calls.begin(), target, owner, begins=begins)
                    lifetime = attributes_of(await settled(use))
                    writes = format_.read_writes(group, saved.id)
                    await settled(self._threads.store_writes(target, saved.ns, saved.id, writes, lifetime))
                    await settled(self._threads.store(target, saved, lifetime))
                    begins = False

    async def reduce(
        self,
        partition: str,
        remaining: Callable[[Sequence[Saved]], Collection[Place]],
        rebuilt: Callable[[Saved], Collection[str]],
    ) -> None:
        """Remove all checkpoints of a thread but the remaining ones, and keep what these need of the others.

        See `thread_reduction.py`. What is stored meanwhile is neither seen nor removed.
        """
        head = await self._table.head(self._table.calls.begin(), partition)
        async with (
            aclosing(self._table.items(partition, _CONTENT)) as items,
            aclosing(groups(items)) as found,
        ):
            by_place = {group.place: group async for group in found}
        format_ = self._threads.format_of(partition)
        checkpoints = [saved for saved in map(format_.read, by_place.values()) if saved is not None]
        kept = set(remaining([saved for saved in checkpoints if not saved.is_removed]))
        if not kept:
            # What has no checkpoint yet may get one: somebody may be at it.
            stored = [item for group in by_place.values() if group.own is not None for item in group.items]
            await self._table.delete(each(stored))
            await self._delete_empty(partition, head)
            return
        plan = reduce(checkpoints, kept, rebuilt)
        # What others need is stored before anything is deleted.
        for saved in plan.rewritten:
            lifetime = _lifetime_in(by_place[saved.place].own or {})
            await settled(self._threads.store(partition, saved, lifetime))
        for saved in plan.unlinked:
            position = thread_items.position_of(saved.ns, saved.order)
            await settled(self._table.update(partition, position, thread_items.unlinking(saved)))
        await self._table.delete(each(_superfluous(by_place.values(), plan)))

    async def _delete_empty(self, partition: str, head: ThreadHead | None) -> None:
        """Delete the head of a thread that has nothing left, unless the thread was used since it was read."""
        if head is None:
            return
        async with aclosing(self._table.items(partition, _CONTENT)) as items:
            is_empty = await anext(items, None) is None
        if is_empty:
            self._lifetimes.forget(partition)
            await self._table.delete_unused_head(partition, head.updated_at)

    async def of_run(self, run_owner: str) -> list[str]:
        """Return the threads that have checkpoints of a run. The index hears of a new one a moment later."""
        query = table_schema.of_owner(run_owner)
        async with aclosing(self._table.calls.pages("query", TableName=self._table.calls.table_name, **query)) as found:
            # Each once; and no conversation or thread whose owner has such a name.
            return [*{item[table_schema.KEY]["S"]: None async for item in found if _is_checkpoint(item)}]

    async def of_owner(self, owner: str) -> AsyncGenerator[tuple[str, ThreadHead], None]:
        """Yield the ids and the heads of an owner's live threads, the one begun last first."""
        now = wall_clock()

        async def head_of(operation: Operation, partition: str) -> tuple[str, ThreadHead | None]:
            return partition, await self._table.head(operation, partition)

        async with (
            aclosing(self._heads(owner)) as partitions,
            aclosing(self._table.calls.many(partitions, head_of)) as heads,
        ):
            async for partition, head in heads:
                if head is not None and head.owner == owner and head.is_live(now):
                    yield thread_items.thread_of(partition), head

    async def _heads(self, owner: str) -> AsyncGenerator[str, None]:
        """Yield the threads whose heads an owner has in the index, the one begun last first."""
        query = table_schema.of_owner(owner) | {"ScanIndexForward": False}
        async with aclosing(self._table.calls.pages("query", TableName=self._table.calls.table_name, **query)) as found:
            async for item in found:
                partition: str = item[table_schema.KEY]["S"]
                if thread_items.position_in(item) == thread_items.HEAD and thread_items.is_thread(partition):
                    yield partition


def _is_checkpoint(item: Mapping[str, Any]) -> bool:
    is_head = thread_items.position_in(item) == thread_items.HEAD
    return thread_items.is_thread(item[table_schema.KEY]["S"]) and not is_head


def _superfluous(found: Iterable[Group], plan: Reduction) -> Iterable[dict[str, Any]]:
    """Return the items that nobody needs any more."""
    rewritten = {saved.place for saved in plan.rewritten}
    for group in found:
        if group.place in plan.deleted:
            yield from group.items
        elif group.place in rewritten:
            yield from group.parts_of_body() if group.place in plan.chained else group.others()


def _lifetime_in(item: Mapping[str, Any]) -> dict[str, Any]:
    return {name: item[name] for name in ("expires_at", table_schema.TTL) if name in item}
