"""What a turn of an agent costs as its thread grows: bytes, capacity units and milliseconds, beside the published ones.

LangGraph's threads beside `langgraph-checkpoint-aws`, conversations beside `openai-agents-session`, on DynamoDB Local:
it needs DYNAMODB_LOCAL_URL. All of it together, in an environment of its own, because aiobotocore pins botocore:

    pip install -e '.[agents,async,langgraph]' langgraph langgraph-checkpoint-aws 'openai-agents-session[dynamodb]'

A turn is a user's message and an answer, together 2 KB of words. It is taken as a new process takes it: what was said
before is read first. Only the last turns before each mark are measured. The ones before them are written in full, and
read from memory, because a reader of all that was said needs longer with every turn.
"""

import argparse
import asyncio
import contextlib
import os
import random
import statistics
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol, TypedDict

import boto3

from benchmarks.cost import size_of
from benchmarks.harness import Bar, Report, be_nobody, closing, options_of
from dynamodb_sessions.stores import table_schema

ROUNDS = 5
MARKS = (10, 100, 1_000)
PLAIN_MARKS = (10, 100)
"""Each version of a plain channel has all that was said: 1,000 turns of it are gigabytes."""

MESSAGE = 1_024
SAID = 2 * MESSAGE
PATIENCE = 30.0
"""Seconds after which no further turn is measured at a mark."""

LIMIT = 3.0
VERSIONS_LIMIT = 1.0
LOCAL = "DYNAMODB_LOCAL_URL"
WORDS = ["".join(random.Random(seed).choices("etaoinshrdlucmfwypvbgk", k=2 + seed % 8)) for seed in range(4_000)]


def words(chance: random.Random) -> str:
    """Return a message of words."""
    said = ""
    while len(said) < MESSAGE:
        said += chance.choice(WORDS) + " "
    return said[:MESSAGE]


@dataclass
class Meter:
    """Counts what a botocore client's calls consume, whoever makes them."""

    units: float = 0.0

    def watch(self, client: Any) -> None:
        client.meta.events.register("before-parameter-build.dynamodb", self._ask)
        client.meta.events.register("after-call.dynamodb", self._count)

    def _ask(self, params: dict[str, Any], model: Any, **_: Any) -> None:
        if "ReturnConsumedCapacity" in model.input_shape.members:
            params["ReturnConsumedCapacity"] = "TOTAL"

    def _count(self, parsed: dict[str, Any], **_: Any) -> None:
        consumed = parsed.get("ConsumedCapacity", [])
        self.units += sum(each["CapacityUnits"] for each in (consumed if isinstance(consumed, list) else [consumed]))


class Agent(Protocol):
    """Somebody who keeps what is said."""

    async def turn(self, said: str, answer: str) -> int:
        """Take a turn as a new process takes it. Return how many messages there are then."""
        ...

    async def forward(self, said: str, answer: str) -> None:
        """Store a turn, and read as little as possible."""
        ...


@dataclass
class Contender:
    name: str
    marks: Sequence[int]
    make: Callable[["Place"], Agent]
    limit: float | None = None
    all_versions: bool = False
    """Whether what was said counts once for each version of the channel."""


@dataclass
class Place:
    """A table of its own, and clients that are measured."""

    url: str
    table: str
    meter: Meter = field(default_factory=Meter)
    aiobotocore: Any = None

    @property
    def plain(self) -> Any:
        """A boto3 client that is not measured."""
        return boto3.client("dynamodb", endpoint_url=self.url, region_name="us-east-1")

    @property
    def measured(self) -> Any:
        client = self.plain
        self.meter.watch(client)
        return client

    def stored(self) -> int:
        """Return how many bytes there are in the table."""
        pages = self.plain.get_paginator("scan").paginate(TableName=self.table)
        return sum(_size(item) for page in pages for item in page["Items"])


def _size(item: dict[str, Any]) -> int:
    """Return the bytes DynamoDB counts for an item, whose bytes are not in base64."""
    binary = {name: value for name, value in item.items() if "B" in value}
    maps = {name: value for name, value in item.items() if "M" in value}
    rest = {name: value for name, value in item.items() if name not in binary and name not in maps}
    held = sum(len(name) + len(value["B"]) for name, value in binary.items())
    return size_of(rest) + held + sum(len(name) + 3 + _size(value["M"]) for name, value in maps.items())


def graph_agents() -> Iterator[Contender]:  # noqa: C901 - classes of what may not be installed
    """Yield what keeps LangGraph's threads."""
    from langchain_core.messages import AIMessage, HumanMessage  # noqa: PLC0415 - of this benchmark only
    from langgraph.channels.delta import DeltaChannel  # noqa: PLC0415
    from langgraph.checkpoint.memory import InMemorySaver  # noqa: PLC0415
    from langgraph.graph import START, StateGraph  # noqa: PLC0415
    from langgraph.graph.message import _messages_delta_reducer, add_messages  # noqa: PLC0415

    from dynamodb_sessions.agents import DynamoDBCheckpointer  # noqa: PLC0415

    class Rarely(TypedDict):
        messages: Annotated[list[Any], DeltaChannel(_messages_delta_reducer, snapshot_frequency=1_000)]

    class Default(TypedDict):
        messages: Annotated[list[Any], DeltaChannel(_messages_delta_reducer)]

    class Plain(TypedDict):
        messages: Annotated[list[Any], add_messages]

    config: Any = {"configurable": {"thread_id": "thread"}}

    class Forwarding(InMemorySaver):
        """Writes to another saver as well. It reads from there, or from memory."""

        def __init__(self, saver: Any) -> None:
            super().__init__()
            self._saver = saver
            self.reads_memory = False

        async def aget_tuple(self, config: Any) -> Any:
            return await (super().aget_tuple(config) if self.reads_memory else self._saver.aget_tuple(config))

        async def aget_delta_channel_history(self, *, config: Any, channels: Sequence[str]) -> Any:
            if self.reads_memory:
                return await super().aget_delta_channel_history(config=config, channels=channels)
            return await self._saver.aget_delta_channel_history(config=config, channels=channels)

        async def aput(self, *given: Any) -> Any:
            await self._saver.aput(*given)
            return await super().aput(*given)

        async def aput_writes(
            self, config: Any, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
        ) -> None:
            await self._saver.aput_writes(config, writes, task_id, task_path)
            await super().aput_writes(config, writes, task_id, task_path)

        def get_next_version(self, current: Any, channel: None) -> str:
            version: str = self._saver.get_next_version(current, channel)
            return version

    class Graph:
        def __init__(self, saver: Any, state: type) -> None:
            self._answer = ""
            builder: StateGraph[Any, Any, Any, Any] = StateGraph(state)
            builder.add_node("model", lambda _: {"messages": [AIMessage(self._answer)]})
            builder.add_edge(START, "model")
            self._saver = Forwarding(saver)
            self._graph = builder.compile(checkpointer=self._saver)

        async def turn(self, said: str, answer: str, *, reads_memory: bool = False) -> int:
            self._answer = answer
            self._saver.reads_memory = reads_memory
            result = await self._graph.ainvoke({"messages": [HumanMessage(said)]}, config)
            return len(result["messages"])

        async def forward(self, said: str, answer: str) -> None:
            await self.turn(said, answer, reads_memory=True)

    def ours(place: Place) -> DynamoDBCheckpointer:
        table_schema.create(place.plain, place.table, conversations=True)
        return DynamoDBCheckpointer(place.table, client=place.measured)

    def amazons(place: Place) -> Any:
        from langgraph_checkpoint_aws import DynamoDBSaver  # noqa: PLC0415 - it may not be installed

        place.plain.create_table(
            TableName=place.table,
            KeySchema=[{"AttributeName": "PK", "KeyType": "HASH"}, {"AttributeName": "SK", "KeyType": "RANGE"}],
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("PK", "SK")],
            BillingMode="PAY_PER_REQUEST",
        )
        saver = DynamoDBSaver(place.table, endpoint_url=place.url, region_name="us-east-1")
        place.meter.watch(saver.client)
        return saver

    rare, usual = "DeltaChannel(snapshot_frequency=1000)", "DeltaChannel()"
    yield Contender(f"this package, {rare}", MARKS, lambda place: Graph(ours(place), Rarely), LIMIT)
    yield Contender(f"langgraph-checkpoint-aws, {rare}", MARKS, lambda place: Graph(amazons(place), Rarely))
    yield Contender(f"this package, {usual}", MARKS, lambda place: Graph(ours(place), Default))
    yield Contender("this package, plain", PLAIN_MARKS, lambda place: Graph(ours(place), Plain), VERSIONS_LIMIT, True)
    yield Contender(
        "langgraph-checkpoint-aws, plain", PLAIN_MARKS, lambda place: Graph(amazons(place), Plain), None, True
    )


def conversation_agents() -> Iterator[Contender]:
    """Yield what keeps the OpenAI Agents SDK's conversations."""
    from dynamodb_sessions.agents import DynamoDBConversation  # noqa: PLC0415 - of this benchmark only

    class Conversation:
        def __init__(self, session: Callable[[], Any]) -> None:
            self._session = session

        async def turn(self, said: str, answer: str) -> int:
            session = self._session()
            before = await session.get_items()
            await self.forward(said, answer)
            return len(before) + 2

        async def forward(self, said: str, answer: str) -> None:
            await self._session().add_items(
                [{"role": "user", "content": said}, {"role": "assistant", "content": answer}]
            )

    def ours(place: Place) -> Agent:
        table_schema.create(place.plain, place.table, conversations=True)
        client = place.aiobotocore or place.measured
        return Conversation(lambda: DynamoDBConversation("chat", place.table, client=client))

    def published(place: Place) -> Agent:
        from openai_agents_session import DynamoDBSession  # noqa: PLC0415 - it may not be installed

        place.plain.create_table(
            TableName=place.table,
            KeySchema=[{"AttributeName": "session_id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "session_id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        return Conversation(lambda: DynamoDBSession("chat", place.aiobotocore, place.table))

    yield Contender("this package, a conversation", MARKS, ours)
    yield Contender("openai-agents-session", MARKS, published)


@asynccontextmanager
async def a_place(url: str) -> AsyncIterator[Place]:
    place = Place(url, f"agents-{uuid.uuid4()}")
    async with AsyncExitStack() as stack:
        try:
            from aiobotocore.session import get_session  # noqa: PLC0415 - it may not be installed
        except ImportError:
            place.aiobotocore = None
        else:
            created = get_session().create_client("dynamodb", endpoint_url=url, region_name="us-east-1")
            place.aiobotocore = await stack.enter_async_context(created)
            place.meter.watch(place.aiobotocore)
        try:
            yield place
        finally:
            client = place.plain
            with contextlib.suppress(client.exceptions.ResourceNotFoundException):  # It came to nothing before.
                client.delete_table(TableName=place.table)


async def measure(contender: Contender, url: str, *, turns: int, most: int) -> list[dict[str, Any]]:
    """Take turns up to each mark, and measure the last ones before it."""
    rows: list[dict[str, Any]] = []
    async with a_place(url) as place:
        agent, chance, done = contender.make(place), random.Random(1), 0
        for mark in [mark for mark in contender.marks if mark <= most]:
            row: dict[str, Any] = {"": contender.name, "turns": f"{mark:,}"}
            rows.append(row)
            try:
                while done < mark - turns:
                    await agent.forward(words(chance), words(chance))
                    done += 1
                taken, units, began = list[float](), list[float](), time.perf_counter()
                while done < mark:
                    if taken and time.perf_counter() - began > PATIENCE:
                        await agent.forward(words(chance), words(chance))
                        done += 1
                        continue
                    before, started = place.meter.units, time.perf_counter()
                    count = await agent.turn(words(chance), words(chance))
                    taken.append((time.perf_counter() - started) * 1000)
                    units.append(place.meter.units - before)
                    done += 1
                    assert count == 2 * done
            except Exception as error:  # noqa: BLE001 - whatever it is, it goes no further
                row |= {"bytes to what was said": None, "units a turn": None, "ms a turn": None}
                row["ends"] = f"turn {done + 1}: {type(error).__name__}"
                return rows
            stored = place.stored()
            said = MESSAGE * mark * (2 * mark + 1) if contender.all_versions else SAID * mark
            to_said = stored / said
            figure = f"{contender.name}: bytes to what was said, {mark:,} turns"
            row |= {
                "bytes to what was said": to_said if contender.limit is None else Bar(figure, to_said, contender.limit),
                "units a turn": statistics.median(units),
                "ms a turn": statistics.median(taken),
                "ends": "",
            }
    return rows


async def measure_all(report: Report, url: str, *, turns: int, most: int) -> None:
    for title, agents in (
        ("LangGraph: a turn of 2 KB", graph_agents),
        ("OpenAI Agents SDK: a turn of 2 KB", conversation_agents),
    ):
        rows = []
        try:
            for contender in agents():
                try:
                    rows += await measure(contender, url, turns=turns, most=most)
                except ImportError as error:
                    report.miss(f"{contender.name}: {error.name} is not installed")
        except ImportError as error:
            report.miss(f"{title}: {error.name} is not installed")
        if rows:
            report.add(title, rows)
    print("Of a plain channel, what was said counts once for each of its versions: each of them has all of it.")


def run(options: argparse.Namespace) -> Report:
    report = Report("agents")
    url = os.environ.get(LOCAL)
    be_nobody()
    if url is None:
        report.miss(f"agents: {LOCAL} is not set")
        return report
    asyncio.run(measure_all(report, url, turns=options.rounds, most=MARKS[0] if options.tiny else MARKS[-1]))
    return report


def main(arguments: list[str]) -> int:
    options = options_of("agents", __doc__, rounds=ROUNDS, arguments=arguments)
    return closing(run(options), bars=options.bars)
