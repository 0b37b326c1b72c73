"""`DynamoDBConversation.get_items(20)`, beside the bare Query that it makes, on DynamoDB Local.

The calls that it makes are counted. The bare Query has the same parameters as its own, and is made by the same client;
its items are decoded as far as DynamoDB's JSON. The times are CPU time of this process alone. It needs
DYNAMODB_LOCAL_URL.
"""

import argparse
import asyncio
import os
import statistics
import time
import uuid
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from benchmarks.growth import LOCAL
from benchmarks.harness import Bar, Report, be_nobody, closing, options_of, paired

CLIENTS = {"boto3": None, "async": "async"}
LATEST = 20
STORED = 60
LIMIT = 1.2
ROUNDS = 9
SECONDS = 10.0


async def measure(report: Report, url: str, *, rounds: int, requests: int) -> None:
    """Add 60 messages, and read the latest 20 of them again and again, with each client."""
    from dynamodb_sessions.agents import DynamoDBConversation  # noqa: PLC0415 - an extra

    rows: list[dict[str, Any]] = []
    table = f"benchmark-{uuid.uuid4().hex[:8]}"
    for name, client in CLIENTS.items():
        conversation = DynamoDBConversation(name, table, endpoint_url=url, client=client, create_table=True)
        await conversation.add_items([{"role": "user", "content": f"message {n}: {'x' * 200}"} for n in range(STORED)])
        transport: Any = conversation._calls._transport  # noqa: SLF001 - where each attempt passes
        calls = await _calls_of(conversation, transport)

        (query,) = [call for call in calls if call["operation"] == "query"]

        async def bare(transport: Any = transport, query: dict[str, Any] = query) -> None:
            await transport.call(deadline=time.monotonic() + SECONDS, **query)

        async def whole(conversation: Any = conversation) -> None:
            assert len(await conversation.get_items(LATEST)) == LATEST

        taken: list[tuple[float, float]] = []
        for number in range(rounds + 1):
            both = await _cpu(whole, requests), await _cpu(bare, requests)
            if number:
                taken.append(both)
        ours, theirs = zip(*taken, strict=True)
        rows.append(
            {
                "client": name,
                "calls": Bar(f"calls of get_items({LATEST}), {name}", float(len(calls)), 1.0),
                "to the bare Query's": Bar(
                    f"get_items({LATEST}), {name}, to a bare Query", paired(ours, theirs), LIMIT
                ),
                "CPU µs": statistics.median(ours) * 1e6,
                "the bare Query's": statistics.median(theirs) * 1e6,
            }
        )
    report.add(f"get_items({LATEST}) of {STORED} messages of 0.2 KB, CPU", rows)


async def _calls_of(conversation: Any, transport: Any) -> list[dict[str, Any]]:
    """Return the calls that one `get_items` makes, each with its parameters."""
    calls: list[dict[str, Any]] = []
    call = transport.call

    async def noted(operation: str, *, deadline: float, **parameters: Any) -> dict[str, Any]:
        calls.append({"operation": operation, **parameters})
        answer: dict[str, Any] = await call(operation, deadline=deadline, **parameters)
        return answer

    transport.call = noted
    try:
        await conversation.get_items(LATEST)
    finally:
        transport.call = call
    return calls


async def _cpu(work: Any, times: int) -> float:
    started = time.process_time()
    for _ in range(times):
        await work()
    return (time.process_time() - started) / times


def run(options: argparse.Namespace) -> Report:
    report = Report("conversation")
    url = os.environ.get(LOCAL)
    if not url:
        report.miss(f"get_items: start DynamoDB Local and set {LOCAL} to its address")
    elif find_spec("agents") is None:
        report.miss("get_items: openai-agents is not installed")
    else:
        asyncio.run(measure(report, url, rounds=options.rounds, requests=2 if options.tiny else 50))
    return report


def main(arguments: Sequence[str]) -> int:
    options = options_of("conversation", __doc__, rounds=ROUNDS, arguments=arguments)
    be_nobody()
    return closing(run(options), bars=options.bars)
