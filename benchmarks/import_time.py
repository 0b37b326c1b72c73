"""What importing costs a fresh process, beside Starlette's cookie sessions.

Sessions are in memory: boto3 must not be imported. And how soon the command line prints its help, beside the start of a
process that only imports argparse and json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.harness import Bar, Report, be_nobody, closing, options_of, paired

COOKIE = "Starlette's cookie"
STATEMENTS = {
    "this package": "from dynamodb_sessions import DynamoDBSessionMiddleware, MemoryStore",
    COOKIE: "from starlette.middleware.sessions import SessionMiddleware",
}
ROUNDS = 15
LIMIT = 1.15
BARE = "argparse and json"
COMMANDS = {"dynamodb-sessions --help": ["-m", "dynamodb_sessions", "--help"], BARE: ["-c", "import argparse, json"]}
HELP_LIMIT = 5.0

TIMED = """
import json, sys, time
cpu, wall = time.process_time(), time.perf_counter()
exec(sys.argv[1])
seconds = [time.process_time() - cpu, time.perf_counter() - wall]
print(json.dumps([seconds, len(sys.modules), any(name in sys.modules for name in ("boto3", "botocore"))]))
"""


def _environment() -> dict[str, str]:
    """Let Python keep what it compiles, as it does where nobody forbids it: an installed package is compiled."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def fresh(statement: str) -> tuple[list[float], int, bool]:
    """Run a statement in a new process. Returns its CPU and wall seconds, how many modules, and whether boto3's."""
    done = subprocess.run(
        [sys.executable, "-c", TIMED, statement], capture_output=True, text=True, check=True, env=_environment()
    )
    seconds, modules, boto3 = json.loads(done.stdout)
    return seconds, modules, boto3


def measure(report: Report, *, rounds: int) -> None:
    taken: dict[str, list[list[float]]] = {name: [] for name in STATEMENTS}
    modules: dict[str, int] = {}
    for number in range(rounds + 1):
        for name, statement in STATEMENTS.items():
            seconds, modules[name], boto3 = fresh(statement)
            assert not boto3, f"{name}: boto3 is imported before it is needed"
            if number:  # The first has compiled the modules and read them from the disk.
                taken[name].append(seconds)
    cpu = {name: [seconds[0] for seconds in each] for name, each in taken.items()}
    wall = {name: [seconds[1] for seconds in each] for name, each in taken.items()}
    rows: list[dict[str, Any]] = []
    for name in STATEMENTS:
        to_cookie = paired(cpu[name], cpu[COOKIE])
        rows.append(
            {
                "import of": name,
                "CPU to the cookie's": Bar(f"import, to {COOKIE}", to_cookie, LIMIT) if name != COOKIE else to_cookie,
                "wall to the cookie's": paired(wall[name], wall[COOKIE]),
                "CPU ms": statistics.median(cpu[name]) * 1000,
                "wall ms": statistics.median(wall[name]) * 1000,
                "modules": modules[name],
            }
        )
    report.add("Importing, in a fresh process, without boto3", rows)


def measure_help(report: Report, *, rounds: int) -> None:
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(rounds + 1):
        for name, arguments in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, *arguments], capture_output=True, check=True, env=_environment())
            if number:
                taken[name].append(time.perf_counter() - started)
    rows: list[dict[str, Any]] = []
    for name, seconds in taken.items():
        to_bare = paired(seconds, taken[BARE])
        ratio = Bar(f"start of {name}, to {BARE}", to_bare, HELP_LIMIT) if name != BARE else to_bare
        rows.append({"process": name, "wall to the bare one's": ratio, "wall ms": statistics.median(seconds) * 1000})
    report.add("How soon the command line helps", rows)


def run(options: argparse.Namespace) -> Report:
    report = Report("import")
    measure(report, rounds=options.rounds)
    measure_help(report, rounds=options.rounds)
    return report


def main(arguments: Sequence[str]) -> int:
    options = options_of("import", __doc__, rounds=ROUNDS, arguments=arguments)
    be_nobody()
    return closing(run(options), bars=options.bars)
