"""DynamoDBCheckpointer: what LangGraph keeps of a graph's runs, so that another process can go on with them.

How it is stored, `thread_items.py` says. Here is what LangGraph asks for, in both of its forms: async, and blocking for
whoever runs a graph without an event loop.
"""

import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from dynamodb_sessions import settings
from dynamodb_sessions.agents import tables, thread_items
from dynamodb_sessions.agents.blocking import WAITING
from dynamodb_sessions.agents.thread_items import MAX_THREAD_ID_SIZE, Place, Saved, Typed, Write
from dynamodb_sessions.agents.thread_lifetimes import ThreadLifetimes
from dynamodb_sessions.agents.thread_table import ThreadTable
from dynamodb_sessions.agents.thread_upkeep import ThreadUpkeep
from dynamodb_sessions.agents.threads import Asked, Found, Threads
from dynamodb_sessions.clock import check_seconds, wall_clock
from dynamodb_sessions.codec import is_text
from dynamodb_sessions.events import Observer, OnEvent, check_on_event, done, found_or_absent
from dynamodb_sessions.exceptions import ConfigurationError
from dynamodb_sessions.settled import settled
from dynamodb_sessions.stores.contract import MAX_OWNER_SIZE, is_owner
from dynamodb_sessions.stores.value_format import ValueFormat

try:
    from langgraph.checkpoint.base import (
        WRITES_IDX_MAP,
        BaseCheckpointSaver,
        ChannelVersions,
        Checkpoint,
        CheckpointMetadata,
        CheckpointTuple,
        get_checkpoint_id,
        get_checkpoint_metadata,
    )
except ImportError as _missing:
    raise ImportError(
        f"dynamodb_sessions.agents.langgraph takes LangGraph ({_missing}): pip install 'dynamodb-sessions[langgraph]'"
    ) from _missing

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import DeltaChannelHistory, PendingWrite
    from langgraph.checkpoint.serde.base import SerializerProtocol

    _PendingWrites = list[PendingWrite]

T = TypeVar("T")

_MAX_KNOWN = 1024
_STRATEGIES = ("keep_latest", "delete")

_Places = dict[str, tuple[str | int | float, int]]
"""By channel: a version of it, and the order of the checkpoint that has its value."""


@dataclass(frozen=True, slots=True)
class Thread:
    """A thread, as its owner's list has it. Times are epoch seconds. `updated_at` is when its last turn began."""

    thread_id: str = field(repr=False)
    created_at: int
    updated_at: int
    owner: str = field(repr=False)


class DynamoDBCheckpointer(BaseCheckpointSaver[str]):
    """Keeps the checkpoints of LangGraph's threads: `builder.compile(checkpointer=DynamoDBCheckpointer())`.

    The table is one of conversations. A thread lives for `ttl_seconds` after it was last used; None: until it is
    deleted. `config["configurable"]["owner"]` says whose a thread is: then `list_threads` lists it, and nobody who
    names another owner can use it. With `encryption_key`, or SESSION_ENCRYPTION_KEY, all that a graph says is encrypted
    by AES-256-GCM: that takes `dynamodb-sessions[encryption]`. `client`, `region_name`, `endpoint_url` and
    `create_table` are DynamoDBStore's, and DYNAMODB_ENDPOINT_URL counts as for that. `serde` is LangGraph's.
    `on_event` is called with a SessionEvent after each call of a method, and after each page of what yields many.

    The methods that block need boto3's client, which is the default. Methods raise StoreUnavailable,
    ConfigurationError, SessionTooLarge or CorruptRecord, and SessionError for somebody else's thread; ValueError for a
    config that names no thread. The constructor raises ConfigurationError. A write that is cancelled ends first.
    """

    def __init__(
        self,
        table_name: str = "conversations",
        *,
        region_name: str | None = None,
        endpoint_url: str | None = None,
        client: Any = None,
        ttl_seconds: int | None = None,
        encryption_key: settings.EncryptionKey = None,
        create_table: bool = False,
        serde: "SerializerProtocol | None" = None,
        on_event: OnEvent | None = None,
    ) -> None:
        super().__init__(serde=serde)
        check_seconds("ttl_seconds", ttl_seconds)
        check_on_event(on_event)
        values = ValueFormat(keys=settings.encryption_keys(encryption_key))
        self._calls = tables.table(table_name, region_name, settings.endpoint_url(endpoint_url), client, create_table)
        table = ThreadTable(self._calls)
        lifetimes = ThreadLifetimes(table, ttl_seconds, self._forget)
        self._threads = Threads(table, values, lifetimes)
        self._upkeep = ThreadUpkeep(table, self._threads, lifetimes)
        self._observer = Observer(on_event, self._calls, subject="thread")
        self._places: dict[tuple[str, str], tuple[str, _Places]] = {}
        """Of each namespace of a thread, the checkpoint that was last read or stored here, and where its values are."""

    async def aget_tuple(self, config: "RunnableConfig") -> CheckpointTuple | None:
        """Return the checkpoint that the config names, or the latest one; None: there is none."""
        thread = _Named.by(config)
        return await self._observer.observed("get_tuple", thread.thread_id, self._get(thread), found_or_absent)

    async def _get(self, thread: "_Named") -> CheckpointTuple | None:
        found = await self._threads.get(thread.partition, thread.ns, thread.checkpoint_id, owner=thread.owner)
        if found is None:
            return None
        read = self._tuple(thread.thread_id, found)
        self._remember(thread.partition, found.saved, read.checkpoint["channel_versions"])
        return read

    async def alist(
        self,
        config: "RunnableConfig | None",
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: "RunnableConfig | None" = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Yield a thread's checkpoints, newest first: of the config's namespace, or of one after the other.

        `filter` is what their metadata must have. Raises ValueError without a thread: `list_threads` lists these.
        """
        if config is None:
            raise ValueError("a list is of one thread: config must name it. Of an owner's threads, see list_threads")
        thread = _Named.by(config)
        found = self._observer.observed_pages("list", thread.thread_id, self._list(thread, filter, before, limit))
        async with aclosing(found):
            async for each in found:
                yield each

    async def _list(
        self,
        thread: "_Named",
        metadata: dict[str, Any] | None,
        before: "RunnableConfig | None",
        limit: int | None,
    ) -> AsyncGenerator[CheckpointTuple, None]:
        def is_wanted(saved: Saved) -> bool:
            said: Mapping[str, Any] = self._metadata(saved) if metadata else {}
            return all(key in said and said[key] == value for key, value in (metadata or {}).items())

        asked = Asked(
            thread.ns if thread.names_namespace else None,
            thread.checkpoint_id,
            None if before is None else get_checkpoint_id(before),
            limit,
            is_wanted,
        )
        found = self._threads.newest_first(thread.partition, asked, owner=thread.owner)
        async with aclosing(found):
            async for each in found:
                yield self._tuple(thread.thread_id, each)

    async def aput(
        self,
        config: "RunnableConfig",
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> "RunnableConfig":
        """Store a checkpoint; what its channels have that is not new is stored already. Return its config."""
        thread = _Named.by(config)
        work = self._put(thread, checkpoint, get_checkpoint_metadata(config, metadata), new_versions)
        await self._observer.observed("put", thread.thread_id, settled(work), done)
        return thread.config(checkpoint["id"])

    async def _put(
        self, thread: "_Named", checkpoint: Checkpoint, metadata: CheckpointMetadata, new_versions: ChannelVersions
    ) -> None:
        try:
            order = thread_items.order_of(checkpoint["id"])
        except (ValueError, TypeError, AttributeError):
            raise ValueError("a checkpoint's id must be the text of a UUID, as LangGraph's are") from None
        make = partial(self._made, thread, order, checkpoint, metadata, new_versions)
        place = thread.partition, thread.ns
        known, at_once = self._places.get(place), make()

        def made() -> Saved:
            # If the thread has expired, what the checkpoint refers to is gone.
            return at_once if self._places.get(place) is known else make()

        begins = metadata.get("source") != "loop"
        saved = await self._threads.put(thread.partition, made, owner=thread.owner, begins=begins)
        self._remember(thread.partition, saved, checkpoint["channel_versions"])

    def _made(
        self,
        thread: "_Named",
        order: int,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> Saved:
        """Return a checkpoint as it is to be stored: with those values that it cannot refer to."""
        parent, known = self._places.get((thread.partition, thread.ns), (None, {}))
        if parent != thread.checkpoint_id:
            known = {}
        versions = checkpoint["channel_versions"]
        elsewhere = {
            channel: known[channel][1]
            for channel in checkpoint["channel_values"]
            if channel not in new_versions and channel in known and known[channel][0] == versions.get(channel)
        }
        values = {
            channel: self._dumped(value)
            for channel, value in checkpoint["channel_values"].items()
            if channel in versions and channel not in elsewhere
        }
        said = {name: value for name, value in checkpoint.items() if name != "channel_values"}
        run_id = metadata.get("run_id")
        return Saved(
            thread.ns,
            order,
            checkpoint["id"],
            thread.checkpoint_id,
            None,
            thread_items.body_frames(self._dumped(said), self._dumped(metadata), values, elsewhere),
            run_owner=thread_items.run_owner(run_id) if isinstance(run_id, str) else None,
            created_at=wall_clock() if isinstance(run_id, str) else None,
        )

    async def aput_writes(
        self,
        config: "RunnableConfig",
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Store what a task wrote, for the checkpoint that the config names."""
        thread = _Named.by(config)
        await self._observer.observed(
            "put_writes", thread.thread_id, settled(self._put_writes(thread, writes, task_id, task_path)), done
        )

    async def _put_writes(
        self, thread: "_Named", writes: Sequence[tuple[str, Any]], task_id: str, task_path: str
    ) -> None:
        if thread.checkpoint_id is None:
            raise ValueError("config names no checkpoint: configurable.checkpoint_id")
        # Of one that LangGraph replaces, only the last counts.
        made = {
            index: Write(task_path, task_id, index, channel, self._dumped(value))
            for index, channel, value in (
                (WRITES_IDX_MAP.get(channel, number), channel, value) for number, (channel, value) in enumerate(writes)
            )
        }
        if made:
            await self._threads.put_writes(
                thread.partition, thread.ns, thread.checkpoint_id, [*made.values()], owner=thread.owner
            )

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete all there is of a thread. If it fails half way, delete again."""
        partition = _partition(thread_id)
        self._forget(partition)
        await self._observer.observed("delete_thread", str(thread_id), self._upkeep.delete(partition), done)

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints of these runs, in whatever thread, and keep what others are rebuilt from.

        An index finds them, which hears of a new one a moment later.
        """
        await self._observer.observed("delete_for_runs", None, self._delete_for_runs(run_ids), done)

    async def _delete_for_runs(self, run_ids: Sequence[str]) -> None:
        for run_id in run_ids:
            run_owner = thread_items.run_owner(run_id)
            for partition in await self._upkeep.of_run(run_owner):
                self._forget(partition)
                await self._upkeep.reduce(partition, partial(_of_other_runs, run_owner), self._rebuilt)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy all of a thread's checkpoints into another one, which is then the same owner's."""
        source, target = _partition(source_thread_id), _partition(target_thread_id)
        if source == target:
            return
        await self._observer.observed("copy_thread", str(source_thread_id), self._upkeep.copy(source, target), done)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Delete checkpoints of threads: all, by "delete", or all but the latest of each namespace, by "keep_latest".

        What the latest ones are rebuilt from stays, and nobody finds it.
        """
        if strategy not in _STRATEGIES:
            raise ValueError(f"strategy={strategy!r} must be one of {', '.join(_STRATEGIES)}")
        for thread_id in thread_ids:
            if strategy == "delete":
                await self.adelete_thread(thread_id)
            else:
                partition = _partition(thread_id)
                self._forget(partition)
                work = self._upkeep.reduce(partition, _latest, self._rebuilt)
                await self._observer.observed("prune", str(thread_id), work, done)

    async def aget_delta_channel_history(
        self, *, config: "RunnableConfig", channels: Sequence[str]
    ) -> "Mapping[str, DeltaChannelHistory]":
        """Return what these channels of a checkpoint are rebuilt from: see LangGraph's `DeltaChannel`."""
        if not channels:
            return {}
        thread = _Named.by(config)
        work = self._history(thread, channels)
        return await self._observer.observed("get_delta_channel_history", thread.thread_id, work, done)

    async def _history(self, thread: "_Named", channels: Sequence[str]) -> "dict[str, DeltaChannelHistory]":
        found = await self._threads.history(
            thread.partition, thread.ns, thread.checkpoint_id, channels, owner=thread.owner
        )
        histories: dict[str, DeltaChannelHistory] = {}
        for channel, history in found.items():
            histories[channel] = {"writes": self._pending(history.writes)}
            if history.seed is not None:
                histories[channel]["seed"] = self.serde.loads_typed(history.seed)
        return histories

    async def alist_threads(self, owner: str) -> AsyncIterator[Thread]:
        """Yield an owner's threads, the one begun last first. The index hears of a new one a moment later.

        An owner that no thread can have has none.
        """
        if not is_owner(owner):
            return
        found = self._observer.observed_pages("list_threads", None, self._list_threads(owner))
        async with aclosing(found):
            async for thread in found:
                yield thread

    async def _list_threads(self, owner: str) -> AsyncGenerator[Thread, None]:
        async with aclosing(self._upkeep.of_owner(owner)) as found:
            async for thread_id, head in found:
                yield Thread(thread_id, head.created_at, head.updated_at, owner)

    async def aclose(self) -> None:
        """Close the connections. All checkpointers of the same table, client and options share them."""
        await self._calls.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # The same for whoever blocks.

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get_tuple(self, config: "RunnableConfig") -> CheckpointTuple | None:
        """Do what `aget_tuple` does, and block."""
        return self._wait(self.aget_tuple(config))

    def list(
        self,
        config: "RunnableConfig | None",
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: "RunnableConfig | None" = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Do what `alist` does, and block."""
        return self._iterate(self.alist(config, filter=filter, before=before, limit=limit))

    def put(
        self,
        config: "RunnableConfig",
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> "RunnableConfig":
        """Do what `aput` does, and block."""
        return self._wait(self.aput(config, checkpoint, metadata, new_versions))

    def put_writes(
        self,
        config: "RunnableConfig",
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Do what `aput_writes` does, and block."""
        self._wait(self.aput_writes(config, writes, task_id, task_path))

    def delete_thread(self, thread_id: str) -> None:
        """Do what `adelete_thread` does, and block."""
        self._wait(self.adelete_thread(thread_id))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Do what `adelete_for_runs` does, and block."""
        self._wait(self.adelete_for_runs(run_ids))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Do what `acopy_thread` does, and block."""
        self._wait(self.acopy_thread(source_thread_id, target_thread_id))

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Do what `aprune` does, and block."""
        self._wait(self.aprune(thread_ids, strategy=strategy))

    def get_delta_channel_history(
        self, *, config: "RunnableConfig", channels: Sequence[str]
    ) -> "Mapping[str, DeltaChannelHistory]":
        """Do what `aget_delta_channel_history` does, and block."""
        return self._wait(self.aget_delta_channel_history(config=config, channels=channels))

    def list_threads(self, owner: str) -> Iterator[Thread]:
        """Do what `alist_threads` does, and block."""
        return self._iterate(self.alist_threads(owner))

    def close(self) -> None:
        """Do what `aclose` does, and block."""
        self._wait(self.aclose())

    def get_next_version(self, current: str | float | None, channel: None) -> str:  # noqa: ARG002 - LangGraph's
        """Return a version after this one: a number that counts, and one that no other branch of a thread has."""
        count = int(str(current).partition(".")[0]) if current is not None else 0
        # As many digits as LangGraph's own savers have, so that theirs and ours can be compared.
        return f"{count + 1:032}.{secrets.token_hex(4)}"

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        if not self._calls.blocks:
            work.close()
            raise ConfigurationError(
                "this client is for async code: call the methods that begin with `a`, as `graph.ainvoke` does, or give "
                "the checkpointer boto3's client, which is the default"
            )
        return WAITING.run(work)

    def _iterate(self, found: AsyncIterator[T]) -> Iterator[T]:
        async def following() -> tuple[T, ...]:
            async for each in found:
                return (each,)
            return ()

        try:
            while following_one := self._wait(following()):
                yield following_one[0]
        finally:
            if self._calls.blocks:
                WAITING.end(cast("AsyncGenerator[T, None]", found).aclose())

    def _dumped(self, value: Any) -> Typed:
        kind, dumped = self.serde.dumps_typed(value)
        return kind, bytes(dumped)

    def _tuple(self, thread_id: str, found: Found) -> CheckpointTuple:
        saved = found.saved
        checkpoint = self._checkpoint(saved)
        values = {channel: self.serde.loads_typed(value) for channel, value in found.values.items()}
        thread = _Named(thread_id, saved.ns, saved.id)
        return CheckpointTuple(
            thread.config(saved.id),
            cast("Checkpoint", {**checkpoint, "channel_values": values}),
            self._metadata(saved),
            None if saved.parent is None else thread.config(saved.parent),
            self._pending(found.writes),
        )

    def _checkpoint(self, saved: Saved) -> Checkpoint:
        """Return what a checkpoint says, without its channels' values."""
        return cast("Checkpoint", self.serde.loads_typed(saved.frames["c"]))

    def _metadata(self, saved: Saved) -> CheckpointMetadata:
        return cast("CheckpointMetadata", self.serde.loads_typed(saved.frames["m"]))

    def _pending(self, writes: Sequence[Write]) -> "_PendingWrites":
        return [(write.task_id, write.channel, self.serde.loads_typed(write.value)) for write in writes]

    def _rebuilt(self, saved: Saved) -> Collection[str]:
        """Return the channels of a checkpoint that are rebuilt from the writes of those before it.

        LangGraph counts, in the metadata, what was written to each since its value was last stored.
        """
        counters = self._metadata(saved).get("counters_since_delta_snapshot") or {}
        versions = self._checkpoint(saved)["channel_versions"]
        has = saved.values().keys() | saved.elsewhere().keys()
        return {channel for channel in counters if channel in versions and channel not in has}

    def _remember(self, partition: str, saved: Saved, versions: ChannelVersions) -> None:
        """Remember where a checkpoint's values are: the next one refers to those that it does not change."""
        places: _Places = {channel: (versions[channel], saved.order) for channel in saved.values()}
        places |= {channel: (versions[channel], order) for channel, order in saved.elsewhere().items()}
        if len(self._places) >= _MAX_KNOWN:
            self._places.clear()
        self._places[partition, saved.ns] = saved.id, places

    def _forget(self, partition: str) -> None:
        for known in [known for known in self._places if known[0] == partition]:
            self._places.pop(known, None)


@dataclass(frozen=True, slots=True)
class _Named:
    """What a config names."""

    thread_id: str = field(repr=False)
    ns: str = ""
    checkpoint_id: str | None = None
    owner: str | None = field(default=None, repr=False)
    names_namespace: bool = True

    @classmethod
    def by(cls, config: "RunnableConfig") -> "_Named":
        """Read a config. Raises ValueError if it names no thread, or one that cannot be stored."""
        configurable = config.get("configurable") or {}
        owner = configurable.get("owner")
        if owner is not None and not is_owner(owner):
            raise ValueError(f"configurable.owner must be a non-empty str of at most {MAX_OWNER_SIZE} bytes")
        thread_id = configurable.get("thread_id")
        if thread_id is None:
            raise ValueError("config names no thread: configurable.thread_id")
        _partition(thread_id)
        ns = configurable.get("checkpoint_ns")
        return cls(str(thread_id), ns or "", get_checkpoint_id(config), owner, ns is not None)

    @property
    def partition(self) -> str:
        return thread_items.partition_of(self.thread_id)

    def config(self, checkpoint_id: str) -> "RunnableConfig":
        """Return the config of a checkpoint of this namespace."""
        return {
            "configurable": {
                "thread_id": self.thread_id,
                "checkpoint_ns": self.ns,
                "checkpoint_id": checkpoint_id,
            }
        }


def _partition(thread_id: object) -> str:
    text = str(thread_id)
    if not is_text(text, max_size=MAX_THREAD_ID_SIZE):
        raise ValueError(f"a thread's id must be non-empty text of at most {MAX_THREAD_ID_SIZE} bytes")
    return thread_items.partition_of(text)


def _of_other_runs(run_owner: str, checkpoints: Sequence[Saved]) -> set[Place]:
    return {saved.place for saved in checkpoints if saved.run_owner != run_owner}


def _latest(checkpoints: Sequence[Saved]) -> set[Place]:
    newest: dict[str, Saved] = {}
    for saved in checkpoints:
        if saved.ns not in newest or newest[saved.ns].order < saved.order:
            newest[saved.ns] = saved
    return {saved.place for saved in newest.values()}
