"""Threads: checkpoints of LangGraph's threads, stored and found. It knows how they are kept, and no LangGraph.

A public method is one operation, with one deadline, unless what it does grows with the thread: then each page that is
read and each item that is stored has a deadline of its own.

A checkpoint is stored by one write, after all that it refers to: a process that is killed half way leaves the thread as
it was. What a task wrote stays with its checkpoint, whether that is stored yet or not.
"""

import logging
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from dynamodb_sessions.agents import thread_items
from dynamodb_sessions.agents.thread_head import Lifetime
from dynamodb_sessions.agents.thread_items import Group, Place, Saved, ThreadFormat, Typed, Write
from dynamodb_sessions.agents.thread_lifetimes import ThreadLifetimes
from dynamodb_sessions.agents.thread_table import ThreadTable, groups
from dynamodb_sessions.aws.table_calls import Operation, batches
from dynamodb_sessions.identifiers import fingerprint
from dynamodb_sessions.stores.value_format import ValueFormat

logger: logging.Logger = logging.getLogger("dynamodb_sessions")

_MORE = 2
"""Items that are read at first, besides two for each checkpoint that is asked for. Few are read for nothing then."""

_WINDOW = 64
"""Checkpoints that are read before the values are looked for that none of them has."""


class Found(NamedTuple):
    """A checkpoint, the values of its channels, and what its tasks have written."""

    saved: Saved
    values: dict[str, Typed]
    writes: list[Write]


class History(NamedTuple):
    """What a channel is rebuilt from: the writes, oldest first, upon the latest value that is stored, if there is."""

    writes: list[Write]
    seed: Typed | None


@dataclass(frozen=True, slots=True)
class Asked:
    """Which checkpoints are asked for. `ns` is None for all namespaces."""

    ns: str | None
    checkpoint_id: str | None = None
    before: str | None = None
    limit: int | None = None
    is_wanted: Callable[[Saved], bool] = lambda _: True

    @property
    def span(self) -> tuple[int, int]:
        """The positions that they are at. Raises ValueError if no checkpoint has such an id."""
        order = None if self.checkpoint_id is None else thread_items.order_of(self.checkpoint_id)
        below = None if self.before is None else thread_items.order_of(self.before)
        if self.ns is None:
            return thread_items.span_of(None)
        first, last = thread_items.span_of(self.ns, order)
        return first, last if below is None else min(last, thread_items.position_of(self.ns, below) - 1)

    def is_met_by(self, saved: Saved) -> bool:
        return (
            not saved.is_removed
            and self.checkpoint_id in {None, saved.id}
            and (self.before is None or saved.id < self.before)
            and self.is_wanted(saved)
        )


class Threads:
    """The checkpoints of all threads of a table."""

    def __init__(self, table: ThreadTable, values: ValueFormat, lifetimes: ThreadLifetimes) -> None:
        self._table = table
        self._values = values
        self._lifetimes = lifetimes

    def format_of(self, partition: str) -> ThreadFormat:
        return ThreadFormat(partition, self._values)

    async def get(self, partition: str, ns: str, checkpoint_id: str | None, *, owner: str | None) -> Found | None:
        """Return a checkpoint, or the latest one of the namespace; None: there is none."""
        operation = self._table.calls.begin()
        found = self.newest_first(partition, Asked(ns, checkpoint_id, limit=1), owner=owner, operation=operation)
        async with aclosing(found):
            return await anext(found, None)

    async def newest_first(
        self, partition: str, asked: Asked, *, owner: str | None, operation: Operation | None = None
    ) -> AsyncGenerator[Found, None]:
        """Yield checkpoints, newest first; if they are of all namespaces, one namespace after the other.

        Each page is an operation, but for a first one that may be part of another.
        """
        try:
            span = asked.span
        except ValueError:
            return
        left = asked.limit
        if span[0] > span[1] or (left is not None and left <= 0):
            return
        await self._lifetimes.check_owner(operation or self._table.calls.begin(), partition, owner)
        is_live = False
        needed: dict[Place, Saved] = {}
        async with aclosing(self._windows(partition, span, left, operation)) as windows:
            async for here in windows:
                by_place = {group.place: group for group in here if asked.ns in {None, group.ns}}
                near = self._read(partition, by_place.values())
                met = [saved for saved in near.values() if asked.is_met_by(saved)]
                if met and not is_live:
                    is_live = await self._lifetimes.is_live(self._table.calls.begin(), partition, met[0].expires_at)
                    if not is_live:
                        return
                while met:
                    some, met = met[:left], met[:0] if left is None else met[left:]
                    # The next ones are likely to need the same: what none of them changes is read once.
                    needed = await self._with_needed(partition, some, near | needed)
                    for saved, values in zip(some, self._complete(partition, some, needed), strict=True):
                        if values is not None:
                            writes = self.format_of(partition).read_writes(by_place[saved.place], saved.id)
                            yield Found(saved, values, writes)
                            left = None if left is None else left - 1
                    if left == 0:
                        return

    async def _windows(
        self, partition: str, span: tuple[int, int], limit: int | None, operation: Operation | None
    ) -> AsyncGenerator[list[Group], None]:
        """Yield what belongs to checkpoints, some of them at a time. For few that are asked for, few are read first."""
        begun: list[dict[str, Any]] = []
        if limit is not None and limit < _WINDOW:
            first = operation or self._table.calls.begin()
            page, is_last = await self._table.page(first, partition, span, 2 * limit + _MORE)
            here = [*thread_items.grouped(page)]
            if here and here[-1].own is None and not is_last:
                begun = here.pop().items
            yield here
            if is_last:
                return
            span = span[0], thread_items.position_in(page[-1]) - 1
        async with (
            aclosing(self._table.items(partition, span, after=begun)) as items,
            aclosing(groups(items)) as found,
            aclosing(batches(found, _WINDOW if limit is None else min(limit, _WINDOW))) as windows,
        ):
            async for here in windows:
                yield here

    async def history(
        self, partition: str, ns: str, checkpoint_id: str | None, channels: Collection[str], *, owner: str | None
    ) -> dict[str, History]:
        """Return what channels of a checkpoint are rebuilt from: its ancestors, read newest first, by one Query."""
        await self._lifetimes.check_owner(self._table.calls.begin(), partition, owner)
        written: dict[str, list[list[Write]]] = {channel: [] for channel in channels}
        seeds: dict[str, Typed] = {}
        async with aclosing(self._ancestors(partition, ns, checkpoint_id)) as ancestors:
            async for saved, group in ancestors:
                missing = written.keys() - seeds.keys()
                writes = self.format_of(partition).read_writes(group, saved.id)
                for channel in missing:
                    written[channel].append([write for write in writes if write.channel == channel])
                seeds |= await self._seeds(partition, saved, missing)
                if len(seeds) == len(written):
                    break
        return {
            channel: History([write for writes in reversed(written[channel]) for write in writes], seeds.get(channel))
            for channel in channels
        }

    async def _ancestors(
        self, partition: str, ns: str, checkpoint_id: str | None
    ) -> AsyncGenerator[tuple[Saved, Group], None]:
        """Yield the checkpoints before one, or before the latest one, back to the first that is there."""
        try:
            order = None if checkpoint_id is None else thread_items.order_of(checkpoint_id)
        except ValueError:
            return
        first, last = thread_items.span_of(ns)[0], thread_items.span_of(ns, order)[1]
        is_target, format_ = True, self.format_of(partition)
        async with (
            aclosing(self._table.items(partition, (first, last))) as items,
            aclosing(groups(items)) as found,
        ):
            async for group in found:
                if group.ns != ns or order not in {None, group.order}:
                    continue
                saved = format_.read(group)
                if is_target and order is None and (saved is None or saved.is_removed):
                    continue
                if saved is None:
                    break
                if not is_target:
                    yield saved, group
                is_target = False
                if saved.before is None:
                    return
                order = thread_items.order_of(saved.before)
        if not is_target:
            logger.warning("of thread %s, what came before a checkpoint is gone", _fingerprint(partition))

    async def _seeds(self, partition: str, saved: Saved, channels: Collection[str]) -> dict[str, Typed]:
        """Return the values of these channels that a checkpoint has, itself or elsewhere."""
        values = saved.values()
        elsewhere = {channel: order for channel, order in saved.elsewhere().items() if channel in channels}
        if elsewhere:
            needed = await self._with_needed(partition, [saved], {})
            found = {place: holder.values() for place, holder in needed.items()}
            places = {channel: found.get((saved.ns, order), {}) for channel, order in elsewhere.items()}
            values |= {channel: holder[channel] for channel, holder in places.items() if channel in holder}
        return {channel: values[channel] for channel in channels if channel in values}

    async def put(self, partition: str, made: Callable[[], Saved], *, owner: str | None, begins: bool) -> Saved:
        """Store a checkpoint, and return it. `begins`: a turn begins with it.

        It is made once the thread is known to live, or to begin anew. Raises SessionError if it is somebody else's.
        """
        operation = self._table.calls.begin()
        lifetime = await self._lifetimes.use(operation, partition, owner, begins=begins)
        saved = made()
        await self.store(partition, saved, attributes_of(lifetime), None if lifetime else operation)
        return saved

    async def store(
        self, partition: str, saved: Saved, lifetime: Mapping[str, Any], operation: Operation | None = None
    ) -> None:
        """Store a checkpoint, after the parts that it takes."""
        *parts, own = self.format_of(partition).checkpoint(saved, lifetime)
        await self._table.merge(parts)
        await self._table.store(own, None if parts else operation)

    async def put_writes(
        self, partition: str, ns: str, checkpoint_id: str, writes: Sequence[Write], *, owner: str | None
    ) -> None:
        """Store what a task wrote. A write that is there already stays, but if its number is negative.

        Raises SessionError if the thread is somebody else's.
        """
        lifetime = await self._lifetimes.use(self._table.calls.begin(), partition, owner, begins=False)
        await self.store_writes(partition, ns, checkpoint_id, writes, attributes_of(lifetime))

    async def store_writes(
        self, partition: str, ns: str, checkpoint_id: str, writes: Sequence[Write], lifetime: Mapping[str, Any]
    ) -> None:
        parts, merged = self.format_of(partition).writes(ns, checkpoint_id, writes, lifetime)
        await self._table.merge(parts)
        replaced = [write.name for write in writes if write.number < 0]
        await self._table.merge(merged, replaced=replaced, are_large=False)

    def _read(self, partition: str, found: Iterable[Group]) -> dict[Place, Saved]:
        """Return the checkpoints that groups have, as a whole."""
        format_ = self.format_of(partition)
        near = {}
        for group in found:
            saved = format_.read(group)
            if saved is not None:
                near[saved.place] = saved
            elif group.own is not None:
                _leave_out(partition)
        return near

    async def _with_needed(
        self, partition: str, checkpoints: Sequence[Saved], near: Mapping[Place, Saved]
    ) -> dict[Place, Saved]:
        """Return the checkpoints that have values of these. Those that are not near are read."""
        places = {(saved.ns, order) for saved in checkpoints for order in saved.elsewhere().values()}
        needed = {place: near[place] for place in places if place in near}
        fetched = self._table.calls.many(sorted(places - needed.keys()), partial(self._fetch, partition))
        async with aclosing(fetched):
            async for saved in fetched:
                if saved is not None:
                    needed[saved.place] = saved
        return needed

    async def _fetch(self, partition: str, _: Operation, place: Place) -> Saved | None:
        # A value of many pages may take longer than one operation may.
        items = self._table.items(partition, thread_items.span_of(*place))
        async with aclosing(items), aclosing(groups(items)) as found:
            async for group in found:
                if group.place == place:
                    return self.format_of(partition).read(group)
        return None

    @staticmethod
    def _complete(
        partition: str, checkpoints: Iterable[Saved], needed: Mapping[Place, Saved]
    ) -> list[dict[str, Typed] | None]:
        """Return all values of each checkpoint; None: it refers to what is not there."""
        values = {place: saved.values() for place, saved in needed.items()}
        completed: list[dict[str, Typed] | None] = []
        for saved in checkpoints:
            elsewhere = {
                channel: values.get((saved.ns, order), {}).get(channel) for channel, order in saved.elsewhere().items()
            }
            found = {channel: value for channel, value in elsewhere.items() if value is not None}
            if len(found) < len(elsewhere):
                _leave_out(partition)
                completed.append(None)
            else:
                completed.append(saved.values() | found)
        return completed


def attributes_of(lifetime: Lifetime | None) -> dict[str, Any]:
    return {} if lifetime is None else lifetime.attributes


def _leave_out(partition: str) -> None:
    logger.warning(
        "a checkpoint of thread %s is left out: part of it was removed, or not stored",
        _fingerprint(partition),
    )


def _fingerprint(partition: str) -> str:
    return fingerprint(thread_items.thread_of(partition))
