"""A process that runs a graph on a thread: `python -m tests.helpers.graph_process WHAT URL TABLE CLIENT`."""

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.conformance.test_utils import generate_checkpoint, generate_metadata
from langgraph.graph import START, StateGraph
from langgraph.graph.message import _messages_delta_reducer
from langgraph.types import Command, interrupt

from dynamodb_sessions.agents import DynamoDBCheckpointer

CONFIG: RunnableConfig = {"configurable": {"thread_id": "thread", "checkpoint_ns": ""}}
PROCESSES = 8
CHECKPOINTS = 6


class State(TypedDict):
    messages: Annotated[list[AnyMessage], DeltaChannel(_messages_delta_reducer)]
    doc: bytes


def tell(what: str) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def hang(where: str) -> None:
    """Say where it is, and wait to be killed."""
    tell(where)
    time.sleep(600)


class Hanging(DynamoDBCheckpointer):
    """A checkpointer that stops at one place of the second step."""

    at = ""

    async def aput(self, config: RunnableConfig, checkpoint: Any, metadata: Any, new_versions: Any) -> RunnableConfig:
        if self.at == "put" and metadata["step"] == 1:
            hang(self.at)
        if self.at == "parts" and metadata["step"] == 1:
            self._threads._table.store = lambda *_: hang(self.at)  # type: ignore[method-assign,assignment]
        return await super().aput(config, checkpoint, metadata, new_versions)

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        if self.at == "put_writes" and any(channel == "doc" for channel, _ in writes):
            hang(self.at)
        await super().aput_writes(config, writes, task_id, task_path)


def graph(saver: DynamoDBCheckpointer) -> Any:
    """Write a large document, ask, and tell."""

    def write(state: State) -> dict[str, Any]:  # noqa: ARG001 - LangGraph's name
        return {"messages": [AIMessage("written")], "doc": b"".join(bytes([number % 251]) for number in range(900_000))}

    def ask(state: State) -> dict[str, Any]:  # noqa: ARG001 - as above
        return {"messages": [AIMessage(interrupt("really?"))]}

    def report(state: State) -> dict[str, Any]:
        return {"messages": [AIMessage(f"told {len(state['doc'])}")]}

    builder: StateGraph[State, None, State, State] = StateGraph(State)
    builder.add_node("write", write)
    builder.add_node("ask", ask)
    builder.add_node("report", report)
    builder.add_edge(START, "write")
    builder.add_edge("write", "ask")
    builder.add_edge("ask", "report")
    return builder.compile(checkpointer=saver)


def shown(result: Any) -> str:
    return " ".join(str(message.content) for message in result["messages"])


async def begin(saver: DynamoDBCheckpointer) -> None:
    result = await graph(saver).ainvoke({"messages": [HumanMessage("do")]}, CONFIG, durability="sync")
    tell(f"{shown(result)} {[each.value for each in result.get('__interrupt__', ())]}")


async def go_on(saver: DynamoDBCheckpointer) -> None:
    result = await graph(saver).ainvoke(None, CONFIG)
    tell(f"{shown(result)} {[each.value for each in result.get('__interrupt__', ())]}")


async def resume(saver: DynamoDBCheckpointer) -> None:
    tell(shown(await graph(saver).ainvoke(Command(resume="yes"), CONFIG)))


async def one_of_many(saver: DynamoDBCheckpointer, me: int) -> None:
    """Add checkpoints of one's own to the thread, and writes of one's own to the first one, which is everybody's."""
    config = first = [each.config async for each in saver.alist(CONFIG)][-1]
    for number in range(CHECKPOINTS):
        checkpoint = generate_checkpoint(channel_values={"a": [me, number]}, channel_versions={"a": f"{me}.{number}"})
        config = await saver.aput(
            config, checkpoint, generate_metadata(step=number, process=me), checkpoint["channel_versions"]
        )
        await saver.aput_writes(config, [("own", [me, number])], "task")
        await saver.aput_writes(first, [("shared", [me, number])], f"task-{me}-{number}")
        await saver.aput_writes(first, [("same", "whose?")], f"task-{number}")


def many(url: str, table: str, client: str | None) -> None:
    children = []
    for me in range(PROCESSES):
        child = os.fork()
        if not child:
            saver = DynamoDBCheckpointer(table, endpoint_url=url, client=client)
            asyncio.run(one_of_many(saver, me))
            os._exit(0)
        children.append(child)
    tell(str([os.waitpid(child, 0)[1] for child in children]))


def main(what: str, url: str, table: str, kind: str) -> None:
    client = "async" if kind == "async" else None
    if what == "many":
        many(url, table, client)
        return
    begun, _, at = what.partition("-")
    saver = Hanging(table, endpoint_url=url, client=client)
    saver.at = at
    asyncio.run({"begin": begin, "on": go_on, "resume": resume}[begun](saver))


if __name__ == "__main__":
    main(*sys.argv[1:])
