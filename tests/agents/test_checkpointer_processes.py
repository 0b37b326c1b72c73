"""One thread of LangGraph's, several processes: some take turns, some are killed, some work at once."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from langgraph.checkpoint.conformance.test_utils import generate_checkpoint, generate_metadata

from dynamodb_sessions.agents import DynamoDBCheckpointer
from tests.helpers.graph_process import CHECKPOINTS, CONFIG, PROCESSES

pytestmark = pytest.mark.anyio

Run = Callable[[str], str]


@pytest.fixture
def command(client: Any, table_name: str, engine: str) -> Callable[[str], list[str]]:
    def command(what: str) -> list[str]:
        url = client.meta.endpoint_url
        return [sys.executable, "-m", "tests.helpers.graph_process", what, url, table_name, engine]

    return command


@pytest.fixture
def run(command: Callable[[str], list[str]]) -> Run:
    """Run a process to its end. Return what it says."""

    def run(what: str) -> str:
        done = subprocess.run(command(what), capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def test_a_graph_that_one_process_interrupts_is_resumed_by_another(run: Run) -> None:
    assert run("begin") == "do written ['really?']"
    assert run("resume") == "do written yes told 900000"


@pytest.mark.parametrize("at", ["put_writes", "put", "parts"])
def test_what_a_killed_process_has_not_ended_another_one_ends(
    at: str, run: Run, command: Callable[[str], list[str]]
) -> None:
    """Killed before the writes of a task are stored, after them, and when half of a checkpoint is."""
    with subprocess.Popen(command(f"begin-{at}"), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == at
        process.kill()
    assert run("on") == "do written ['really?']"
    assert run("resume") == "do written yes told 900000"


async def test_of_eight_processes_on_one_thread_nothing_is_lost(
    run: Run, client: Any, table_name: str, given_client: Any
) -> None:
    async with DynamoDBCheckpointer(table_name, endpoint_url=client.meta.endpoint_url, client=given_client) as saver:
        await saver.aput(CONFIG, generate_checkpoint(), generate_metadata(step=-1), {})
        assert run("many") == str([0] * PROCESSES)
        found = [each async for each in saver.alist(CONFIG)]
    ids = [each.checkpoint["id"] for each in found]
    assert ids == sorted(ids, reverse=True)
    *theirs, root = found
    everything = [[me, number] for me in range(PROCESSES) for number in range(CHECKPOINTS)]
    assert sorted(each.checkpoint["channel_values"]["a"] for each in theirs) == everything
    assert all(each.pending_writes == [("task", "own", each.checkpoint["channel_values"]["a"])] for each in theirs)
    for each in theirs:
        assert each.parent_config is not None
        parent = next(one for one in found if one.config == each.parent_config)
        assert parent is root or parent.metadata["process"] == each.metadata["process"]  # type: ignore[typeddict-item]
    assert root.pending_writes is not None
    assert sorted(value for _, channel, value in root.pending_writes if channel == "shared") == everything
    assert [channel for _, channel, _ in root.pending_writes].count("same") == CHECKPOINTS, "each is there once"
