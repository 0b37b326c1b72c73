"""LangGraph's checkpoints on DynamoDB Local, by both transports, and blocking."""

import asyncio
import logging
import os
import pickle
import random
import string
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
)
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.capabilities import Capability
from langgraph.checkpoint.conformance.test_utils import generate_checkpoint, generate_metadata
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import _messages_delta_reducer, add_messages
from langgraph.types import Command, Send, interrupt

from dynamodb_sessions import ConfigurationError, CorruptRecord, SessionError, SessionEvent, SessionTooLarge
from dynamodb_sessions.agents import Conversation, DynamoDBCheckpointer, DynamoDBConversation, thread_items
from dynamodb_sessions.agents import langgraph as checkpointer_module
from dynamodb_sessions.agents import thread_lifetimes as lifetimes_module
from dynamodb_sessions.agents import thread_upkeep as upkeep_module
from dynamodb_sessions.identifiers import fingerprint
from tests.conftest import Clock
from tests.helpers import aiobotocore_clients
from tests.helpers.proxy import How, Proxy, Step, held

pytestmark = pytest.mark.anyio

NewCheckpointer = Callable[..., DynamoDBCheckpointer]

DAY = 86400


@pytest.fixture
async def new(given_client: Any, client: Any, table_name: str) -> AsyncIterator[NewCheckpointer]:
    """Return a function that makes another checkpointer on the same table, as another process would."""
    made: list[DynamoDBCheckpointer] = []

    def new(**options: Any) -> DynamoDBCheckpointer:
        if "endpoint_url" not in options and given_client is None:
            options.setdefault("client", client)
        options = {"client": given_client, "endpoint_url": client.meta.endpoint_url, **options}
        made.append(DynamoDBCheckpointer(table_name, **options))
        made[-1]._calls._transport.timeout = 30.0  # The machine may be busy.
        return made[-1]

    yield new
    for each in made:
        await each.aclose()


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Clock:
    stopped = Clock(1_800_000_000)
    for module in (checkpointer_module, lifetimes_module, upkeep_module):
        monkeypatch.setattr(module, "wall_clock", stopped)
    return stopped


class Blocking(BaseCheckpointSaver[str]):
    """A checkpointer whose async methods call those that block, each in a thread."""

    def __init__(self, blocking: DynamoDBCheckpointer) -> None:
        super().__init__()
        self._blocking = blocking

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        return await asyncio.to_thread(self._blocking.get_tuple, config)

    async def alist(self, config: RunnableConfig | None, **asked: Any) -> AsyncIterator[CheckpointTuple]:
        for found in await asyncio.to_thread(lambda: [*self._blocking.list(config, **asked)]):
            yield found

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        return await asyncio.to_thread(self._blocking.put, config, checkpoint, metadata, new_versions)

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        await asyncio.to_thread(self._blocking.put_writes, config, writes, task_id, task_path)

    async def adelete_thread(self, thread_id: str) -> None:
        await asyncio.to_thread(self._blocking.delete_thread, thread_id)

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        await asyncio.to_thread(self._blocking.delete_for_runs, run_ids)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        await asyncio.to_thread(self._blocking.copy_thread, source_thread_id, target_thread_id)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        await asyncio.to_thread(self._blocking.prune, thread_ids, strategy=strategy)


async def failures_of(saver: BaseCheckpointSaver[Any], capability: Capability) -> list[str]:
    async def made() -> AsyncIterator[BaseCheckpointSaver[Any]]:
        yield saver

    report = await validate(checkpointer_test(name="ours")(made), capabilities={capability.value})
    result = report.results[capability.value]
    assert result.detected
    assert result.tests_passed or result.failures
    return result.failures


@pytest.mark.parametrize("engine", ["local", "async", *aiobotocore_clients.IF_INSTALLED])
@pytest.mark.parametrize("capability", Capability)
@pytest.mark.parametrize("options", [{}, {"ttl_seconds": DAY}, {"encryption_key": "k" * 43}], ids=str)
async def test_langgraphs_own_conformance_suite_passes(
    new: NewCheckpointer, capability: Capability, options: dict[str, Any]
) -> None:
    assert await failures_of(new(**options), capability) == []


@pytest.mark.parametrize("engine", ["local"])
@pytest.mark.parametrize("capability", Capability)
async def test_langgraphs_own_conformance_suite_passes_with_the_methods_that_block(
    new: NewCheckpointer, capability: Capability
) -> None:
    assert await failures_of(Blocking(new()), capability) == []


class Plain(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


class Delta(TypedDict):
    messages: Annotated[list[AnyMessage], DeltaChannel(_messages_delta_reducer, snapshot_frequency=1000)]


class Often(TypedDict):
    messages: Annotated[list[AnyMessage], DeltaChannel(_messages_delta_reducer, snapshot_frequency=4)]


def chat(state: type) -> StateGraph[Any, Any, Any, Any]:
    """A model that answers by counting what it was told."""
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(state)
    builder.add_node("model", lambda said: {"messages": [AIMessage(f"{len(said['messages'])}")]})
    builder.add_edge(START, "model")
    builder.add_edge("model", END)
    return builder


def named(thread_id: str = "thread", **more: Any) -> RunnableConfig:
    return {"configurable": {"thread_id": thread_id, **more}}


async def turns(saver: BaseCheckpointSaver[Any], state: type, count: int, config: RunnableConfig | None = None) -> Any:
    """Let a graph take so many turns, each in a graph of its own. Return what the last one says."""
    result: Any = None
    for _ in range(count):
        graph = chat(state).compile(checkpointer=saver)
        result = await graph.ainvoke({"messages": [HumanMessage("hello")]}, config or named())
    return texts(result)


def texts(state: Any) -> list[str]:
    return [str(message.content) for message in state["messages"]]


def expected(count: int) -> list[str]:
    return [text for turn in range(count) for text in ("hello", str(2 * turn + 1))]


@pytest.mark.parametrize("state", [Plain, Delta, Often])
async def test_a_graph_goes_on_where_another_process_left_it(new: NewCheckpointer, state: type) -> None:
    for count in range(1, 8):
        assert await turns(new(), state, 1) == expected(count)
    graph = chat(state).compile(checkpointer=new())
    assert texts((await graph.aget_state(named())).values) == expected(7)
    states = [texts(each.values) async for each in graph.aget_state_history(named()) if each.next == ()]
    assert states == [expected(count) for count in range(7, 0, -1)]


@pytest.mark.parametrize("state", [Plain, Delta, Often])
async def test_a_thread_goes_on_from_any_of_its_checkpoints(new: NewCheckpointer, state: type) -> None:
    await turns(new(), state, 5)
    graph = chat(state).compile(checkpointer=new())
    ends = [each async for each in graph.aget_state_history(named()) if each.next == ()]
    forked = await graph.ainvoke({"messages": [HumanMessage("instead")]}, ends[2].config)
    assert texts(forked) == [*expected(3), "instead", "7"]
    assert texts((await graph.aget_state(named())).values) == texts(forked)
    assert texts((await graph.aget_state(ends[0].config)).values) == expected(5)


@pytest.mark.parametrize("engine", ["local"])
def test_a_graph_runs_without_an_event_loop(client: Any, table_name: str) -> None:
    url = client.meta.endpoint_url
    for count in range(1, 4):
        graph = chat(Delta).compile(checkpointer=DynamoDBCheckpointer(table_name, endpoint_url=url))
        assert texts(graph.invoke({"messages": [HumanMessage("hello")]}, named())) == expected(count)
    with DynamoDBCheckpointer(table_name, endpoint_url=url) as saver:
        assert len([*saver.list(named(), limit=4)]) == 4
        assert len([*saver.list(named())]) == 9
        assert next(saver.list(named())).metadata["step"] == 7
        saver.delete_thread("thread")
        assert saver.get_tuple(named()) is None
        assert [*saver.list_threads("alice")] == []


@pytest.mark.parametrize("engine", ["local"])
async def test_the_methods_that_block_work_inside_a_running_event_loop(new: NewCheckpointer) -> None:
    saver = new()
    graph = chat(Plain).compile(checkpointer=saver)
    assert texts(graph.invoke({"messages": [HumanMessage("hello")]}, named())) == expected(1)
    assert texts(await graph.ainvoke({"messages": [HumanMessage("hello")]}, named())) == expected(2)


@pytest.mark.parametrize("engine", ["async"])
async def test_with_a_client_for_async_code_the_methods_that_block_say_so(new: NewCheckpointer) -> None:
    saver = new()
    calls: list[Callable[[], object]] = [
        lambda: saver.get_tuple(named()),
        lambda: [*saver.list(named())],
        lambda: [*saver.list_threads("alice")],
        lambda: saver.put(named(), generate_checkpoint(), generate_metadata(), {}),
        lambda: saver.put_writes(named(), [], "task"),
        lambda: saver.delete_thread("thread"),
        lambda: saver.delete_for_runs([]),
        lambda: saver.copy_thread("thread", "other"),
        lambda: saver.prune([]),
        lambda: saver.get_delta_channel_history(config=named(), channels=["messages"]),
    ]
    for call in calls:
        with pytest.raises(ConfigurationError, match="methods that begin with `a`"):
            call()


async def test_an_interrupted_task_goes_on_in_another_process(new: NewCheckpointer) -> None:
    ran: list[str] = []

    def ask(state: Delta) -> dict[str, Any]:  # noqa: ARG001 - LangGraph's name
        ran.append("ask")
        return {"messages": [AIMessage(interrupt({"question": "really?"}))]}

    def beside(state: Delta) -> dict[str, Any]:  # noqa: ARG001 - as above
        ran.append("beside")
        return {"messages": [AIMessage("beside")]}

    def graph() -> Any:
        builder: StateGraph[Any, Any, Any, Any] = StateGraph(Delta)
        builder.add_node("ask", ask)
        builder.add_node("beside", beside)
        builder.add_edge(START, "ask")
        builder.add_edge(START, "beside")
        return builder.compile(checkpointer=new())

    stopped = await graph().ainvoke({"messages": [HumanMessage("do")]}, named())
    assert [each.value for each in stopped["__interrupt__"]] == [{"question": "really?"}]
    waiting = await graph().aget_state(named())
    assert [task.name for task in waiting.tasks if task.interrupts] == ["ask"]
    result = await graph().ainvoke(Command(resume="yes"), named())
    assert texts(result) == ["do", "yes", "beside"]
    assert sorted(ran) == ["ask", "ask", "beside"], "what was done is not done again"


async def test_tasks_that_ran_at_once_are_rebuilt_in_the_order_of_their_paths(new: NewCheckpointer) -> None:
    def fan(_: Any) -> list[Send]:
        return [Send("work", number) for number in range(30)]

    def graph(saver: BaseCheckpointSaver[Any]) -> Any:
        builder: StateGraph[Any, Any, Any, Any] = StateGraph(Delta)
        builder.add_node("work", lambda number: {"messages": [AIMessage(str(number)), AIMessage(f"{number}!")]})
        builder.add_conditional_edges(START, fan, ["work"])
        return builder.compile(checkpointer=saver)

    saver = new()
    done = await graph(saver).ainvoke({"messages": [HumanMessage("go")]}, named())
    assert texts((await graph(new()).aget_state(named())).values) == texts(done)
    assert texts(done) == ["go", *(text for number in range(30) for text in (f"{number}", f"{number}!"))]


def noise(size: int, seed: int = 1) -> str:
    """Text that no compression makes much smaller."""
    return "".join(random.Random(seed).choices(string.printable, k=size))


@pytest.mark.parametrize("options", [{}, {"encryption_key": "k" * 43}], ids=["plain", "encrypted"])
@pytest.mark.parametrize("size", [40_000, 500_000, 5_000_000])
async def test_values_and_writes_have_any_size(new: NewCheckpointer, size: int, options: dict[str, Any]) -> None:
    value, written = noise(size), noise(size, 2)
    checkpoint = generate_checkpoint(channel_values={"doc": value, "small": 1}, channel_versions={"doc": 1, "small": 1})
    config = await new(**options).aput(named(checkpoint_ns=""), checkpoint, generate_metadata(), {"doc": 1, "small": 1})
    writes = [("a", written), ("b", 1), ("c", written[::-1])]
    await new(**options).aput_writes(config, writes, "task")
    await new(**options).aput_writes(config, [("a", "too late")], "task")
    found = await new(**options).aget_tuple(named())
    assert found is not None
    assert found.checkpoint["channel_values"] == {"doc": value, "small": 1}
    assert found.pending_writes == [("task", channel, value) for channel, value in writes]
    [listed] = [each async for each in new(**options).alist(named())]
    assert listed == found
    await new(**options).acopy_thread("thread", "copy")
    copied = await new(**options).aget_tuple(named("copy"))
    assert copied is not None
    assert copied.checkpoint == found.checkpoint
    assert copied.pending_writes == found.pending_writes


async def test_what_is_too_large_to_be_read_again_is_refused(
    new: NewCheckpointer, monkeypatch: pytest.MonkeyPatch, items: Callable[[], list[dict[str, Any]]]
) -> None:
    """Together, what is stored together."""
    monkeypatch.setattr(thread_items, "MAX_UNPACKED", 2000)
    versions: ChannelVersions = {"doc": 1, "other": 1}
    checkpoint = generate_checkpoint(channel_values={"doc": "x" * 1000, "other": "x" * 900}, channel_versions=versions)
    with pytest.raises(SessionTooLarge, match="'doc' of a thread, with what is stored with it, is 2,"):
        await new().aput(named(), checkpoint, generate_metadata(), versions)
    with pytest.raises(SessionTooLarge, match="'doc' of a thread, with what is stored with it, is 2,"):
        await new().aput_writes(named(checkpoint_id=checkpoint["id"]), [("doc", "x" * 2000)], "task")
    assert items() == []


def size_of(items: Sequence[dict[str, Any]]) -> int:
    """Return about how many bytes these are, and no fewer."""
    return sum(
        len(name) + (len(value) if isinstance(value, bytes | str) else len(str(value)))
        for item in items
        for name, held in item.items()
        for value in held.values()
    )


async def test_a_value_is_stored_once_however_many_checkpoints_have_it(
    new: NewCheckpointer, items: Callable[[], list[dict[str, Any]]]
) -> None:
    """Whoever has read the thread or stored it refers to what there is."""

    class State(TypedDict):
        doc: str
        count: int

    def graph() -> Any:
        builder: StateGraph[Any, Any, Any, Any] = StateGraph(State)
        builder.add_node("count", lambda state: {"count": state.get("count", 0) + 1})
        builder.add_edge(START, "count")
        return builder.compile(checkpointer=new())

    doc = noise(100_000)
    await graph().ainvoke({"doc": doc}, named())
    before = size_of(items())
    for count in range(2, 12):
        assert await graph().ainvoke({}, named()) == {"doc": doc, "count": count}
    assert size_of(items()) - before < 50_000
    found = [each async for each in new().alist(named())]
    assert {each.checkpoint["channel_values"].get("doc") for each in found} == {doc, None}
    assert len(found) > 30


async def test_a_thousand_turns_take_at_most_three_times_what_was_said(
    new: NewCheckpointer, items: Callable[[], list[dict[str, Any]]]
) -> None:
    """Here are twenty of them, of 2 KB each; the benchmark has the thousand."""
    saver = new()
    for turn in range(20):
        builder: StateGraph[Any, Any, Any, Any] = StateGraph(Delta)
        builder.add_node("model", lambda _, turn=turn: {"messages": [AIMessage(noise(1024, 2 * turn))]})
        builder.add_edge(START, "model")
        graph = builder.compile(checkpointer=saver)
        await graph.ainvoke({"messages": [HumanMessage(noise(1024, 2 * turn + 1))]}, named())
    assert size_of(items()) <= 3 * 20 * 2048


async def test_a_list_takes_one_query_however_many_there_are(new: NewCheckpointer, proxied: Any) -> None:
    await turns(new(), Plain, 8)
    saver = new(endpoint_url=proxied.url)
    assert len([each async for each in saver.alist(named())]) == 24
    assert proxied.asked == ["Query"]
    proxied.asked.clear()
    assert len([each async for each in saver.alist(named(), limit=3)]) == 3
    assert proxied.asked == ["Query"]
    proxied.asked.clear()
    assert await saver.aget_tuple(named()) is not None
    assert proxied.asked == ["Query"]


async def test_a_delta_channel_is_rebuilt_by_one_query(new: NewCheckpointer, proxied: Any) -> None:
    await turns(new(), Delta, 8)
    saver = new(endpoint_url=proxied.url)
    found = await saver.aget_tuple(named())
    assert found is not None
    proxied.asked.clear()
    history = await saver.aget_delta_channel_history(config=found.config, channels=["messages", "other"])
    assert proxied.asked == ["Query"]
    assert [value for _, _, values in history["messages"]["writes"] for value in texts({"messages": values})] == (
        expected(8)
    )
    assert history["other"] == {"writes": []}
    assert await saver.aget_delta_channel_history(config=named(), channels=["messages"]) == {
        "messages": history["messages"]
    }
    assert await saver.aget_delta_channel_history(config=named(), channels=[]) == {}
    assert await saver.aget_delta_channel_history(config=named("none"), channels=["a"]) == {"a": {"writes": []}}


async def test_history_is_what_langgraphs_own_saver_returns(new: NewCheckpointer) -> None:
    """Whatever is written in which order, and wherever a thread forks."""
    for seed in range(3):
        chance = random.Random(seed)
        ours, theirs = new(), InMemorySaver()
        thread = f"thread-{seed}"
        configs: list[RunnableConfig] = [named(thread, checkpoint_ns="")]
        for version in range(12):
            parent = chance.choice(configs[-3:])
            channels = {name: chance.choice([noise(50, version), version]) for name in "abc" if chance.random() < 0.3}
            new_versions: ChannelVersions = {name: f"{version:032}.x" for name in "abc" if name in channels}
            checkpoint = generate_checkpoint(channel_values=channels, channel_versions=new_versions)
            stored = [
                await saver.aput(parent, checkpoint, generate_metadata(), new_versions) for saver in (ours, theirs)
            ]
            assert stored[0] == stored[1]
            configs.append(stored[0])
            for task in chance.sample(range(100), chance.randrange(4)):
                writes = [(chance.choice("abcd"), chance.random()) for _ in range(chance.randrange(1, 15))]
                path = f"path-{chance.random()}"
                for saver in (ours, theirs):
                    await saver.aput_writes(stored[0], writes, f"task-{task}", path)
        for config in configs[1:]:
            mine_, theirs_ = [
                await saver.aget_delta_channel_history(config=config, channels=["a", "b", "c", "d"])
                for saver in (ours, theirs)
            ]
            assert mine_ == theirs_
            mine, other = await ours.aget_tuple(config), await theirs.aget_tuple(config)
            assert mine is not None
            assert other is not None
            assert mine == other
        assert [each async for each in ours.alist(named(thread))] == [
            each async for each in theirs.alist(named(thread))
        ]


@pytest.mark.parametrize("state", [Plain, Delta, Often])
async def test_prune_keeps_what_the_latest_checkpoint_is_rebuilt_from(
    new: NewCheckpointer, state: type, items: Callable[[], list[dict[str, Any]]]
) -> None:
    await turns(new(), state, 7)
    before = len(items())
    for _ in range(2):
        await new().aprune(["thread", "none"])
        [left] = [each async for each in new().alist(named())]
        assert left.parent_config is None
        assert len(items()) <= before - (0 if state is Delta else 10), "nothing of it could be rebuilt from less"
        graph = chat(state).compile(checkpointer=new())
        assert texts((await graph.aget_state(named())).values) == expected(7)
    assert await turns(new(), state, 3) == expected(10)
    await new().aprune(["thread"])
    assert len([each async for each in new().alist(named())]) == 1
    assert await turns(new(), state, 1) == expected(11)
    await new().aprune(["thread"], strategy="delete")
    assert items() == []
    with pytest.raises(ValueError, match="strategy='some' must be one of"):
        await new().aprune(["thread"], strategy="some")


@pytest.mark.parametrize("state", [Plain, Delta, Often])
async def test_the_runs_that_are_deleted_leave_the_others_whole(new: NewCheckpointer, state: type) -> None:
    for number in range(6):
        config = named()
        config["metadata"] = {"run_id": f"run-{number}"}
        await turns(new(), state, 1, config)
    await new().adelete_for_runs(["run-1", "run-3", "none"])
    graph = chat(state).compile(checkpointer=new())
    assert texts((await graph.aget_state(named())).values) == expected(6)
    left = [texts(each.values) async for each in graph.aget_state_history(named()) if each.next == ()]
    assert left == [expected(count) for count in (6, 5, 3, 1)]
    assert {each.metadata.get("run_id") async for each in new().alist(named())} == {"run-0", "run-2", "run-4", "run-5"}
    await new().adelete_for_runs(["run-5"])
    assert texts((await graph.aget_state(named())).values) == expected(5)
    await new().adelete_for_runs(["run-0", "run-2", "run-4"])
    assert await new().aget_tuple(named()) is None


@pytest.mark.parametrize("options", [{}, {"encryption_key": "k" * 43}], ids=["plain", "encrypted"])
@pytest.mark.parametrize("state", [Plain, Delta, Often])
async def test_a_copy_goes_its_own_way(new: NewCheckpointer, state: type, options: dict[str, Any]) -> None:
    await turns(new(**options), state, 5)
    await new(**options).acopy_thread("thread", "copy")
    assert await turns(new(**options), state, 1, named("copy")) == expected(6)
    await new(**options).adelete_thread("copy")
    assert await turns(new(**options), state, 1) == expected(6)


async def test_what_a_graph_says_is_encrypted_and_valid_in_its_thread_only(
    new: NewCheckpointer, client: Any, table_name: str, items: Callable[[], list[dict[str, Any]]]
) -> None:
    key = "k" * 43
    secret = {"messages": [HumanMessage("my secret is 1234")]}
    graph = chat(Plain).compile(checkpointer=new(encryption_key=key))
    await graph.ainvoke(secret, named("a"))
    assert b"secret" not in b"".join(
        value for item in items() for held in item.values() for value in held.values() if isinstance(value, bytes)
    )
    with pytest.raises(CorruptRecord):
        await new().aget_tuple(named("a"))
    with pytest.raises(CorruptRecord):
        await new(encryption_key="o" * 43).aget_tuple(named("a"))
    assert await new(encryption_key=["o" * 43, key]).aget_tuple(named("a")) is not None
    for item in items():
        client.put_item(TableName=table_name, Item=item | {"session_id": {"S": "langgraph:b"}})
    with pytest.raises(CorruptRecord):
        await new(encryption_key=key).aget_tuple(named("b"))


async def test_a_thread_is_its_owners_and_in_their_list(new: NewCheckpointer, now: Clock) -> None:
    for number, owner in enumerate(("alice", "bob", "alice")):
        now.now += 10
        await turns(new(), Delta, 1, named(f"thread-{number}", owner=owner))
    await turns(new(), Delta, 1, named("nobodys"))
    now.now += 5
    await turns(new(), Delta, 1, named("thread-0", owner="alice"))
    listed = [thread async for thread in new().alist_threads("alice")]
    assert [(thread.thread_id, thread.owner, thread.updated_at - thread.created_at) for thread in listed] == [
        ("thread-2", "alice", 0),
        ("thread-0", "alice", 25),
    ]
    assert [thread async for thread in new().alist_threads("carol")] == []
    assert [thread async for thread in new().alist_threads("")] == []
    saver, stolen = new(), named("thread-0", owner="bob")
    found = await saver.aget_tuple(named("thread-0"))
    assert found is not None
    with pytest.raises(SessionError, match="belongs to somebody else"):
        await saver.aget_tuple(stolen)
    with pytest.raises(SessionError, match="belongs to somebody else"):
        assert [each async for each in saver.alist(stolen)]
    with pytest.raises(SessionError, match="belongs to somebody else"):
        await saver.aget_delta_channel_history(config=stolen, channels=["messages"])
    with pytest.raises(SessionError, match="belongs to somebody else"):
        await saver.aput(stolen, generate_checkpoint(), generate_metadata(), {})
    theirs = {**found.config["configurable"], "owner": "bob"}
    with pytest.raises(SessionError, match="belongs to somebody else"):
        await saver.aput_writes({"configurable": theirs}, [("a", 1)], "task")
    with pytest.raises(ValueError, match="owner must be"):
        await saver.aget_tuple(named(owner=""))
    await saver.acopy_thread("thread-0", "copy")
    await saver.adelete_thread("thread-0")
    assert [thread.thread_id async for thread in saver.alist_threads("alice")] == ["copy", "thread-2"]
    assert await turns(new(), Delta, 1, stolen) == expected(1)


async def test_conversations_and_threads_of_one_table_are_listed_apart(
    new: NewCheckpointer, client: Any, table_name: str
) -> None:
    await turns(new(), Plain, 1, named("same", owner="alice"))
    url = client.meta.endpoint_url
    await DynamoDBConversation("same", table_name, endpoint_url=url, owner="alice").add_items([{"role": "user"}])
    chats = DynamoDBConversation.of_owner("alice", table_name, endpoint_url=url)
    assert [chat.session_id async for chat in chats] == ["same"]
    assert [thread.thread_id async for thread in new().alist_threads("alice")] == ["same"]
    await new().adelete_thread("same")
    assert await DynamoDBConversation("same", table_name, endpoint_url=url).get_items() == [{"role": "user"}]


@pytest.mark.parametrize("state", [Plain, Delta])
async def test_a_threads_lifetime_is_renewed_by_use(
    new: NewCheckpointer, now: Clock, state: type, items: Callable[[], list[dict[str, Any]]]
) -> None:
    config = named(owner="alice")
    for count in range(1, 12):
        assert await turns(new(ttl_seconds=DAY), state, 1, config) == expected(count)
        assert all(int(item["ttl"]["N"]) >= now.now + DAY for item in items()), "DynamoDB keeps all of it"
        now.now += int(0.4 * DAY)
    graph = chat(state).compile(checkpointer=new(ttl_seconds=DAY))
    first = [each async for each in graph.aget_state_history(named())][-3]
    assert texts((await graph.aget_state(first.config)).values) == expected(1), "its beginning lives as long"
    now.now += DAY
    saver = new(ttl_seconds=DAY)
    assert await saver.aget_tuple(config) is None
    assert await saver.aget_tuple(first.config) is None
    assert [each async for each in saver.alist(config)] == []
    assert [each async for each in saver.alist_threads("alice")] == []
    await saver.acopy_thread("thread", "copy")
    assert await saver.aget_tuple(named("copy")) is None
    assert await turns(new(ttl_seconds=DAY), state, 1, named(owner="bob")) == expected(1), "it begins anew"
    assert len(items()) == 6, "and without what the expired one has left"


async def test_a_renewal_that_takes_long_is_ended_by_the_next_uses(
    new: NewCheckpointer, now: Clock, items: Callable[[], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifetimes_module, "_PATIENCE", 0.0)
    await turns(new(ttl_seconds=DAY), Plain, 20)
    now.now += DAY // 2
    await turns(new(ttl_seconds=DAY), Plain, 1)
    assert {int(item["ttl"]["N"]) - now.now for item in items()} == {2 * DAY, 2 * DAY - DAY // 2}
    now.now += DAY // 2
    await turns(new(ttl_seconds=DAY), Plain, 1)
    assert {int(item["ttl"]["N"]) - now.now for item in items()} == {2 * DAY}, "there was no time left"


async def test_a_turn_of_a_thread_with_a_lifetime_takes_one_write_more(
    new: NewCheckpointer, proxied: Any, now: Clock
) -> None:
    for options in ({}, {"ttl_seconds": DAY}):
        saver = new(endpoint_url=proxied.url, **options)
        config = named(f"thread-{len(options)}")
        await turns(saver, Plain, 2, config)
        now.now += 60
        proxied.asked.clear()
        await turns(saver, Plain, 1, config)
        writes = [name for name in proxied.asked if name not in {"Query", "GetItem"}]
        assert len(writes) == 5 + len(options)


async def test_every_call_is_told(new: NewCheckpointer, caplog: pytest.LogCaptureFixture) -> None:
    events: list[SessionEvent] = []
    saver = new(on_event=events.append)
    with caplog.at_level(logging.DEBUG, logger="dynamodb_sessions"):
        await turns(saver, Delta, 2, named("my-thread"))
    names = [event.name for event in events]
    assert {name: names.count(name) for name in names} == {
        "get_tuple": 2,
        "put": 6,
        "put_writes": 4,
        "get_delta_channel_history": 1,
    }
    assert [event.outcome for event in events if event.name == "get_tuple"] == ["absent", "ok"]
    assert {event.session for event in events} == {fingerprint("my-thread")}
    assert all(event.capacity_units is not None for event in events)
    assert f"thread {fingerprint('my-thread')}: put ok in " in caplog.text
    assert "my-thread" not in caplog.text
    events.clear()
    await saver.aprune(["my-thread"])
    await saver.adelete_for_runs([])
    assert [each async for each in saver.alist_threads("alice")] == []
    await saver.acopy_thread("my-thread", "copy")
    assert len([each async for each in saver.alist(named("my-thread"))]) == 1
    await saver.adelete_thread("my-thread")
    assert [event.name for event in events] == [
        "prune",
        "delete_for_runs",
        "list_threads",
        "copy_thread",
        "list",
        "delete_thread",
    ]


async def test_what_cannot_be_a_checkpoint_is_refused(new: NewCheckpointer) -> None:
    saver = new()
    configs: list[Any] = [{}, {"configurable": {}}, named(""), named("x" * 2040), named("\ud800")]
    for config in configs:
        with pytest.raises(ValueError, match="thread"):
            await saver.aget_tuple(config)
    with pytest.raises(ValueError, match="list_threads"):
        assert [each async for each in saver.alist(None)]
    for checkpoint_id in ("1", "00000000-0000-0000-0000-000000000000", "1EF4F797-8335-6428-8001-8A1503F9B875"):
        with pytest.raises(ValueError, match="UUID"):
            await saver.aput(named(), generate_checkpoint(checkpoint_id=checkpoint_id), generate_metadata(), {})
        assert await saver.aget_tuple(named(checkpoint_id=checkpoint_id)) is None
        assert [each async for each in saver.alist(named(), before=named(checkpoint_id=checkpoint_id))] == []
    with pytest.raises(ValueError, match="checkpoint_id"):
        await saver.aput_writes(named(), [("a", 1)], "task")
    assert [each async for each in saver.alist(named(), limit=0)] == []
    for options in ({"ttl_seconds": 0}, {"on_event": 1}, {"encryption_key": "short"}, {"client": "sync"}):
        with pytest.raises(ConfigurationError):
            new(**options)


async def test_an_id_that_is_a_number_is_its_text(new: NewCheckpointer) -> None:
    assert await turns(new(), Plain, 1, named(7)) == expected(1)  # type: ignore[arg-type]
    assert await turns(new(), Plain, 1, named("7")) == expected(2)


async def test_a_checkpoint_whose_values_are_gone_is_left_out_with_a_warning(
    new: NewCheckpointer, caplog: pytest.LogCaptureFixture
) -> None:
    """A graph that runs while its thread is deleted refers to what is not there any more."""

    class State(TypedDict):
        doc: str
        count: int

    saver, other = new(), new()

    async def count(state: Any) -> dict[str, Any]:
        await other.adelete_thread("thread")
        return {"count": state.get("count", 0) + 1}

    builder: StateGraph[Any, Any, Any, Any] = StateGraph(State)
    builder.add_node("count", count)
    builder.add_edge(START, "count")
    await builder.compile(checkpointer=saver).ainvoke({"doc": "words"}, named(), durability="sync")
    assert await new().aget_tuple(named()) is None
    assert [each async for each in new().alist(named())] == []
    assert f"a checkpoint of thread {fingerprint('thread')} is left out" in caplog.text


async def test_what_is_stored_is_never_unpickled(new: NewCheckpointer, client: Any, table_name: str) -> None:
    """Whoever can write to the table must not run code here."""
    saver = new()
    checkpoint = generate_checkpoint(channel_values={"a": 1}, channel_versions={"a": 1})
    config = await saver.aput(named(), checkpoint, generate_metadata(), {"a": 1})
    item = client.query(
        TableName=table_name,
        KeyConditionExpression="session_id = :k",
        ExpressionAttributeValues={":k": {"S": "langgraph:thread"}},
    )["Items"][0]
    format_ = thread_items.ThreadFormat("langgraph:thread", saver._threads._values)
    [group] = thread_items.grouped([item])
    saved = format_.read(group)
    assert saved is not None
    saved.frames["v:a"] = ("pickle", pickle.dumps(os.getcwd))
    [forged] = format_.checkpoint(saved, {})
    client.put_item(TableName=table_name, Item=forged)
    with pytest.raises(NotImplementedError, match="pickle"):
        await new().aget_tuple(config)


@pytest.mark.parametrize("body", [{"S": "x"}, {"B": b""}, {"B": b"\x00\x00"}, {"M": {}}, {"N": "1"}, {"B": b"x\x9c!"}])
async def test_a_checkpoint_that_is_not_one_is_corrupt(
    new: NewCheckpointer, client: Any, table_name: str, body: dict[str, Any]
) -> None:
    config = await new().aput(named(), generate_checkpoint(), generate_metadata(), {})
    position = thread_items.position_of("", thread_items.order_of(config["configurable"]["checkpoint_id"]))
    client.update_item(
        TableName=table_name,
        Key=thread_items.key("langgraph:thread", position),
        UpdateExpression="SET body = :b",
        ExpressionAttributeValues={":b": body},
    )
    with pytest.raises(CorruptRecord):
        await new().aget_tuple(config)


@pytest.fixture
def proxied(endpoint_url: str) -> Iterator[Any]:
    """A proxy that knows what was asked of DynamoDB, and does something once after a request was applied."""

    class Asked(Proxy):
        def __init__(self, upstream: str) -> None:
            super().__init__(upstream)
            self.asked: list[str] = []
            self.then: dict[str, Callable[[], object]] = {}

        def forward(self, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
            self.asked.append(headers["X-Amz-Target"].rpartition(".")[2])
            reply = super().forward(headers, body)
            self.then.pop(self.asked[-1], lambda: None)()
            return reply

    made = Asked(endpoint_url)
    yield made
    made.close()


async def test_a_write_whose_reply_is_lost_is_made_once(new: NewCheckpointer, proxied: Any) -> None:
    proxied.play("UpdateItem", [Step(How.DROPPED), Step(How.RESET, applied=False), *[Step(How.DROPPED)] * 4])
    saver = new(endpoint_url=proxied.url, ttl_seconds=DAY)
    assert await turns(saver, Delta, 2, named(owner="alice")) == expected(2)
    graph = chat(Delta).compile(checkpointer=new())
    assert texts((await graph.aget_state(named())).values) == expected(2)


async def test_a_put_that_is_cancelled_ends_first(new: NewCheckpointer, proxied: Any) -> None:
    saver, loop = new(endpoint_url=proxied.url), asyncio.get_running_loop()
    checkpoint = generate_checkpoint(channel_values={"a": 1}, channel_versions={"a": "1"})
    put = asyncio.ensure_future(saver.aput(named(), checkpoint, generate_metadata(), {"a": "1"}))
    proxied.then["UpdateItem"] = lambda: loop.call_soon_threadsafe(put.cancel)
    with pytest.raises(asyncio.CancelledError):
        await put
    found = await new().aget_tuple(named())
    assert found is not None
    assert found.checkpoint == checkpoint


async def test_a_branch_that_lost_its_values_does_not_hide_the_others(
    new: NewCheckpointer, caplog: pytest.LogCaptureFixture
) -> None:
    """It began at a checkpoint that somebody else removed meanwhile."""
    saver = new()
    versions: ChannelVersions = {"a": "1", "b": "1"}
    first = generate_checkpoint(channel_values={"a": 1, "b": 1}, channel_versions=versions)
    root = await saver.aput(named(), first, generate_metadata(), versions)
    latest = generate_checkpoint(channel_values={"a": 2, "b": 2}, channel_versions={"a": "2", "b": "2"})
    kept = await new().aput(root, latest, generate_metadata(), {"a": "2", "b": "2"})
    await new().aprune(["thread"])
    branch = generate_checkpoint(channel_values={"a": 3, "b": 1}, channel_versions={"a": "3", "b": "1"})
    lost = await saver.aput(root, branch, generate_metadata(), {"a": "3"})
    found = await new().aget_tuple(named())
    assert found is not None
    assert found.config == kept
    assert [each.config async for each in new().alist(named())] == [kept]
    assert await new().aget_tuple(lost) is None
    assert "is left out" in caplog.text


async def test_history_begins_with_a_value_wherever_it_is_stored(new: NewCheckpointer) -> None:
    saver = new()
    config = named(checkpoint_ns="")
    for number, channels in enumerate(({"a": None}, {"b": None}, {"b": None})):
        values = {name: noise(100_000, number) for name in channels}
        checkpoint = generate_checkpoint(
            channel_values={"a": "seed", **values}, channel_versions={"a": "1", "b": str(number)}
        )
        new_versions: ChannelVersions = {"a": "1"} if not number else {"b": str(number)}
        if not number:
            checkpoint["channel_values"] = {"a": "seed"}
        config = await saver.aput(config, checkpoint, generate_metadata(), new_versions)
        await saver.aput_writes(config, [("a", number)], "task")
    asked = {"channels": ["a"], "config": config}
    assert await new().aget_delta_channel_history(**asked) == {  # type: ignore[arg-type]
        "a": {"writes": [("task", "a", 1)], "seed": "seed"}
    }
    await new().aprune(["thread"])
    assert await new().aget_delta_channel_history(config=named(checkpoint_id="1"), channels=["a"]) == {
        "a": {"writes": []}
    }


async def test_part_of_a_checkpoint_that_is_gone_makes_it_left_out(
    new: NewCheckpointer, client: Any, table_name: str, items: Callable[[], list[dict[str, Any]]]
) -> None:
    checkpoint = generate_checkpoint(channel_values={"a": noise(900_000)}, channel_versions={"a": "1"})
    config = await new().aput(named(), checkpoint, generate_metadata(), {"a": "1"})
    part = next(item for item in items() if any(name.startswith("p:") for name in item))
    client.delete_item(TableName=table_name, Key={name: part[name] for name in ("session_id", "position")})
    assert await new().aget_tuple(config) is None
    assert await new().aget_delta_channel_history(config=config, channels=["a"]) == {"a": {"writes": []}}


async def test_a_head_that_is_not_one_is_corrupt(new: NewCheckpointer, client: Any, table_name: str) -> None:
    await turns(new(), Plain, 1, named(owner="alice"))
    client.update_item(
        TableName=table_name,
        Key=thread_items.key("langgraph:thread", thread_items.HEAD),
        UpdateExpression="SET updated_at = :u",
        ExpressionAttributeValues={":u": {"S": "x"}},
    )
    with pytest.raises(CorruptRecord):
        await new().aget_tuple(named(owner="alice"))


async def test_an_owner_does_not_read_what_somebody_else_has_begun_since(new: NewCheckpointer) -> None:
    alices = new()
    await turns(alices, Plain, 1, named(owner="alice"))
    await new().adelete_thread("thread")
    await turns(new(), Plain, 1, named(owner="bob"))
    with pytest.raises(SessionError, match="belongs to somebody else"):
        await alices.aget_tuple(named(owner="alice"))


async def test_a_thread_that_is_given_a_lifetime_ends_as_a_whole(
    new: NewCheckpointer, now: Clock, items: Callable[[], list[dict[str, Any]]]
) -> None:
    await turns(new(), Plain, 2, named(owner="alice"))
    now.now += 60
    await turns(new(ttl_seconds=DAY), Plain, 1, named(owner="alice"))
    assert [item["position"]["N"] for item in items() if "ttl" not in item] == []
    now.now += DAY
    assert await turns(new(ttl_seconds=DAY), Plain, 1, named(owner="bob")) == expected(1)
    assert len([each async for each in new(ttl_seconds=DAY).alist(named())]) == 3


async def test_deleting_runs_leaves_conversations_alone(new: NewCheckpointer, client: Any, table_name: str) -> None:
    url = client.meta.endpoint_url
    chat = DynamoDBConversation("chat", table_name, endpoint_url=url, owner=thread_items.run_owner("run-1"))
    await chat.add_items([{"role": "user"}])
    await new().adelete_for_runs(["run-1"])
    assert await chat.get_items() == [{"role": "user"}]


async def test_deleting_the_only_run_leaves_what_another_one_stores_meanwhile(
    new: NewCheckpointer, proxied: Any
) -> None:
    config = named(owner="alice")
    config["metadata"] = {"run_id": "run-1"}
    await turns(new(), Plain, 1, config)
    other = new()
    kept: list[RunnableConfig] = []
    loop = asyncio.get_running_loop()

    def meanwhile() -> None:
        put = other.aput(named(owner="alice"), generate_checkpoint(), generate_metadata(), {})
        kept.append(asyncio.run_coroutine_threadsafe(put, loop).result(30))

    # The first Query asks which threads, the second what is in them.
    proxied.then["Query"] = lambda: proxied.then.update(Query=meanwhile)
    await new(endpoint_url=proxied.url).adelete_for_runs(["run-1"])
    found = await new().aget_tuple(named())
    assert found is not None
    assert found.config == kept[0]


async def test_prune_leaves_the_writes_of_a_checkpoint_that_is_not_stored_yet(new: NewCheckpointer) -> None:
    checkpoint = generate_checkpoint()
    config = named(checkpoint_ns="", checkpoint_id=checkpoint["id"])
    await new().aput_writes(config, [("a", 1)], "task")
    await new().aprune(["thread"])
    await new().aput(named(), checkpoint, generate_metadata(), {})
    found = await new().aget_tuple(config)
    assert found is not None
    assert found.pending_writes == [("task", "a", 1)]


async def test_a_conversation_cannot_have_the_key_of_a_thread(client: Any, table_name: str) -> None:
    with pytest.raises(ConfigurationError, match="must not begin with langgraph:"):
        DynamoDBConversation("langgraph:thread", table_name, endpoint_url=client.meta.endpoint_url)


async def test_a_thread_is_not_copied_onto_itself(
    new: NewCheckpointer, items: Callable[[], list[dict[str, Any]]]
) -> None:
    checkpoint = generate_checkpoint(channel_values={"a": noise(900_000)}, channel_versions={"a": "1"})
    config = await new().aput(named(), checkpoint, generate_metadata(), {"a": "1"})
    await new().aput_writes(config, [("a", noise(500_000))], "task")
    before = len(items())
    await new().acopy_thread("thread", "thread")
    assert len(items()) == before


async def test_what_is_listed_does_not_say_its_id_or_whose_it_is() -> None:
    for listed in (checkpointer_module.Thread("my-thread", 1, 1, "alice"), Conversation("my-thread", 1, 1, "alice")):
        assert "my-thread" not in repr(listed)
        assert "alice" not in repr(listed)


async def test_a_thread_that_expires_before_it_is_stored_begins_with_what_the_graph_has(
    new: NewCheckpointer, now: Clock
) -> None:
    saver = new(ttl_seconds=DAY)
    first = generate_checkpoint(channel_values={"a": 1, "b": 1}, channel_versions={"a": "1", "b": "1"})
    await saver.aput(named(), first, {"source": "input"}, {"a": "1", "b": "1"})
    now.now += DAY - 1
    read = await saver.aget_tuple(named())
    assert read is not None
    now.now += 2
    second = generate_checkpoint(channel_values={"a": 2, "b": 1}, channel_versions={"a": "2", "b": "1"})
    await saver.aput(read.config, second, {"source": "input"}, {"a": "2"})
    found = await new(ttl_seconds=DAY).aget_tuple(named())
    assert found is not None
    assert found.checkpoint == second


async def test_a_list_of_one_checkpoint_before_an_older_one_is_empty(new: NewCheckpointer) -> None:
    older = await new().aput(named(), generate_checkpoint(), generate_metadata(), {})
    newer = await new().aput(older, generate_checkpoint(), generate_metadata(), {})
    assert [each async for each in new().alist(newer, before=older)] == []
    assert [each.config async for each in new().alist(older, before=newer)] == [older]


async def test_what_takes_many_pages_is_read_however_long_that_takes(new: NewCheckpointer, proxied: Any) -> None:
    values = {"a": noise(5_000_000)}
    first = generate_checkpoint(channel_values=values, channel_versions={"a": "1"})
    saver = new()
    config = await saver.aput(named(), first, generate_metadata(), {"a": "1"})
    second = generate_checkpoint(channel_values=values, channel_versions={"a": "1"})
    await saver.aput(config, second, generate_metadata(), {})
    slow = new(endpoint_url=proxied.url)
    slow._calls._transport.timeout = 2.0
    proxied.play("Query", rest=Step(between=lambda: time.sleep(0.6)))
    for asked, checkpoint in ((config, first), (named(), second)):
        found = await slow.aget_tuple(asked)
        assert found is not None
        assert found.checkpoint == checkpoint


@pytest.mark.parametrize("ns", ["", "child"])
async def test_a_late_attempt_of_a_write_does_not_take_the_place_of_a_newer_one(
    new: NewCheckpointer, proxied: Any, ns: str
) -> None:
    config = await new().aput(named(checkpoint_ns=ns), generate_checkpoint(), generate_metadata(), {})
    proxied.play("UpdateItem", [held(late=0)])
    await new(endpoint_url=proxied.url).aput_writes(config, [("__error__", "first")], "task")
    await new().aput_writes(config, [("__error__", "second")], "task")
    proxied.land()
    found = await new().aget_tuple(config)
    assert found is not None
    assert found.pending_writes == [("task", "__error__", "second")]


async def test_a_delta_channel_that_has_lost_its_beginning_is_warned_of(
    new: NewCheckpointer, caplog: pytest.LogCaptureFixture
) -> None:
    await turns(new(), Delta, 2)
    saver = new()
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(Delta)

    async def deleted(_: Any) -> Any:
        await new().adelete_thread("thread")
        return {"messages": [AIMessage("late")]}

    builder.add_node("model", deleted)  # type: ignore[arg-type]
    builder.add_edge(START, "model")
    await builder.compile(checkpointer=saver).ainvoke({"messages": [HumanMessage("hello")]}, named(), durability="sync")
    assert caplog.text == ""
    state = await chat(Delta).compile(checkpointer=new()).aget_state(named())
    assert texts(state.values) == []
    assert f"of thread {fingerprint('thread')}, what came before a checkpoint is gone" in caplog.text


# What an attempt that is late must not do.


async def test_a_late_attempt_of_a_checkpoint_does_not_bring_a_deleted_thread_back(
    new: NewCheckpointer, proxied: Any, items: Callable[[], list[dict[str, Any]]]
) -> None:
    proxied.play("UpdateItem", [held(late=0)])
    await new(endpoint_url=proxied.url).aput(named(), generate_checkpoint(), generate_metadata(), {})
    for _ in range(2):
        await new().adelete_thread("thread")
    proxied.land()
    assert await new().aget_tuple(named()) is None
    (left,) = items()
    assert left.keys() == {"session_id", "position", "void", "ttl"}
    await turns(new(), Plain, 1)
    state = await chat(Plain).compile(checkpointer=new()).aget_state(named())
    assert len(texts(state.values)) == 2


async def test_a_late_attempt_of_a_checkpoint_does_not_undo_its_removal(new: NewCheckpointer, proxied: Any) -> None:
    proxied.play("UpdateItem", [held(late=0)])
    config = await new(endpoint_url=proxied.url).aput(named(), generate_checkpoint(), generate_metadata(), {})
    later = await new().aput(config, generate_checkpoint(), generate_metadata(), {})
    await new().aprune(["thread"])
    proxied.land()
    found = [saved.config async for saved in new().alist(named())]
    assert found == [later]


@pytest.mark.parametrize("size", [10, 100_000])
async def test_a_late_attempt_of_a_write_leaves_nothing_that_was_said_in_a_deleted_thread(
    new: NewCheckpointer, proxied: Any, items: Callable[[], list[dict[str, Any]]], size: int
) -> None:
    config = await new().aput(named(), generate_checkpoint(), generate_metadata(), {})
    proxied.play("UpdateItem", [held(late=0)])
    await new(endpoint_url=proxied.url).aput_writes(config, [("messages", noise(size))], "task")
    await new().adelete_thread("thread")
    proxied.land()
    assert all(map(thread_items.is_tombstone, items()))


async def test_a_late_attempt_of_a_head_does_not_bring_a_deleted_thread_back(
    new: NewCheckpointer, proxied: Any
) -> None:
    proxied.play("UpdateItem", [held(late=0)])
    alice = named(owner="alice")
    await new(endpoint_url=proxied.url).aput(alice, generate_checkpoint(), generate_metadata(source="input"), {})
    await new().adelete_thread("thread")
    proxied.land()
    assert [thread async for thread in new().alist_threads("alice")] == []
    await new().aput(named(owner="bob"), generate_checkpoint(), generate_metadata(source="input"), {})
    assert [thread.owner async for thread in new().alist_threads("bob")] == ["bob"]


async def test_what_is_stored_again_and_deleted_again_does_not_come_back(new: NewCheckpointer, proxied: Any) -> None:
    await new().aput(named("source"), generate_checkpoint(), generate_metadata(), {})
    proxied.play("UpdateItem", [held(late=0)])
    await new(endpoint_url=proxied.url).acopy_thread("source", "copy")
    for _ in range(2):
        await new().adelete_thread("copy")
        await new().acopy_thread("source", "copy")
    await new().adelete_thread("copy")
    proxied.land()
    assert await new().aget_tuple(named("copy")) is None


# What is left in the place of the deleted is in nobody's way.


def valued(**values: Any) -> Any:
    return generate_checkpoint(channel_values=values, channel_versions=dict.fromkeys(values, f"{1:032}.0"))


@pytest.mark.parametrize("ns", ["", "child"])
async def test_a_tombstone_does_not_hide_a_value_of_many_parts(new: NewCheckpointer, proxied: Any, ns: str) -> None:
    saver, value = new(endpoint_url=proxied.url), noise(900_000)
    first = valued(a=value)
    config = await saver.aput(named(checkpoint_ns=ns), first, generate_metadata(), first["channel_versions"])
    proxied.play("UpdateItem", [held(late=0)])
    await saver.aput_writes(config, [("__error__", "first")], "task")
    last = await saver.aput(config, valued(a=value), generate_metadata(), {})
    await new().aprune(["thread"])
    assert [found.config async for found in new().alist(named(checkpoint_ns=ns))] == [last]
    await new().acopy_thread("thread", "copy")
    for thread in ("thread", "copy"):
        found = await new().aget_tuple(named(thread, checkpoint_ns=ns))
        assert found is not None
        assert found.checkpoint["channel_values"] == {"a": value}


async def test_a_thread_of_which_only_tombstones_are_left_is_not_listed(new: NewCheckpointer, proxied: Any) -> None:
    config = named(owner="alice")
    await new().aput(config, generate_checkpoint(), generate_metadata(run_id="another"), {})
    proxied.play("UpdateItem", [held(late=0)])
    await new(endpoint_url=proxied.url).aput_writes(
        await new().aput(config, generate_checkpoint(), generate_metadata(run_id="run"), {}), [("a", 1)], "task"
    )
    await new().adelete_for_runs(["run", "another"])
    assert [thread async for thread in new().alist_threads("alice")] == []


async def test_tombstones_end_while_their_thread_lives_on(
    new: NewCheckpointer, proxied: Any, items: Callable[[], list[dict[str, Any]]], now: Clock
) -> None:
    saver = new(endpoint_url=proxied.url, ttl_seconds=DAY)
    config = await saver.aput(named(), generate_checkpoint(), generate_metadata(source="input"), {})
    proxied.play("UpdateItem", [held(late=0)])
    await saver.aput_writes(config, [("a", 1)], "task")
    config = await saver.aput(config, generate_checkpoint(), generate_metadata(), {})
    await saver.aprune(["thread"])
    tombstones = [item for item in items() if thread_items.is_tombstone(item)]
    assert len(tombstones) == 1
    for _ in range(4):
        now.now += DAY * 3 // 4
        config = await saver.aput(config, generate_checkpoint(), generate_metadata(source="input"), {})
        await saver.aprune(["thread"])
    assert [item for item in items() if thread_items.is_tombstone(item)] == tombstones


async def test_what_is_written_on_a_tombstone_outlives_it(
    new: NewCheckpointer, proxied: Any, items: Callable[[], list[dict[str, Any]]]
) -> None:
    source = await new().aput(named("source"), generate_checkpoint(), generate_metadata(), {})
    await new().aput_writes(source, [("__interrupt__", "really?")], "task")
    proxied.play("UpdateItem", [held(late=0)] * 2)
    await new(endpoint_url=proxied.url).acopy_thread("source", "copy")
    await new().adelete_thread("copy")
    await new().acopy_thread("source", "copy")
    found = await new().aget_tuple(named("copy"))
    assert found is not None
    assert found.pending_writes == [("task", "__interrupt__", "really?")]
    assert [item for item in items() if "ttl" in item] == []


async def test_a_checkpoint_without_its_id_is_corrupt(
    new: NewCheckpointer, items: Callable[[], list[dict[str, Any]]], client: Any, table_name: str
) -> None:
    await new().aput(named(), generate_checkpoint(), generate_metadata(), {})
    (item,) = items()
    del item["id"]
    client.put_item(TableName=table_name, Item=item)
    with pytest.raises(CorruptRecord):
        await new().aget_tuple(named())
