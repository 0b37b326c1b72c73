"""The package as pip installs it: built from this tree, alone in an environment with what it depends on at run time."""

import re
import subprocess
import venv
import zipfile
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parent.parent
SOURCE = PROJECT / "src"

ROUND_TRIP = """
import asyncio, sys
import dynamodb_sessions
from dynamodb_sessions import DynamoDBSessionMiddleware, MemoryStore

assert dynamodb_sessions.__file__.startswith(sys.prefix), dynamodb_sessions.__file__

async def app(scope, receive, send):
    session = scope["session"]
    session["visits"] = session.get("visits", 0) + 1
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(session["visits"]).encode()})

async def visit(app, *headers):
    answers = []
    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}
    async def send(message):
        answers.append(message)
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http"}
    scope |= {"path": "/", "raw_path": b"/", "query_string": b"", "root_path": "", "headers": headers}
    await app(scope, receive, send)
    return dict(answers[0]["headers"]).get(b"set-cookie"), answers[1]["body"]

async def main():
    sessions = DynamoDBSessionMiddleware(app, "k" * 32, store=MemoryStore())
    cookie, first = await visit(sessions)
    _, second = await visit(sessions, (b"cookie", cookie.split(b";")[0]))
    _, stranger = await visit(sessions)
    print(first.decode(), second.decode(), stranger.decode())

asyncio.run(main())
"""


def run(*command: str | Path, cwd: Path) -> str:
    # Elsewhere than in the tree, so that nothing is imported from there by chance.
    ran = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("wheel")


@pytest.fixture(scope="module")
def python(folder: Path) -> Path:
    """The interpreter of an environment with nothing but pip in it."""
    venv.create(folder / "venv", with_pip=True)
    return folder / "venv" / "bin" / "python"


@pytest.fixture(scope="module")
def wheel(folder: Path, python: Path) -> Path:
    run(python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, PROJECT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(folder: Path, python: Path, wheel: Path) -> Path:
    run(python, "-m", "pip", "install", "--quiet", wheel, cwd=folder)
    return python


def test_it_holds_the_package_and_nothing_else(wheel: Path) -> None:
    """No test, no example, no stray file; and all of the package, `py.typed` included."""
    expected = {
        str(path.relative_to(SOURCE))
        for path in (SOURCE / "dynamodb_sessions").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "dynamodb_sessions/py.typed" in expected
    with zipfile.ZipFile(wheel) as archive:
        actual = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert expected == actual


def test_it_tells_its_licence_and_its_dependencies(wheel: Path) -> None:
    metadata = read_metadata(wheel)
    with zipfile.ZipFile(wheel) as archive:
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in archive.namelist())
    assert metadata["License-Expression"] == "MIT"
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert {"starlette", "itsdangerous", "boto3"} == {line.split("<")[0].split(">")[0].strip() for line in required}


def test_it_tells_where_the_project_is(wheel: Path) -> None:
    """Where the package is shown, no link of README.md is relative; where the code is, all of them are."""
    metadata = read_metadata(wheel)
    urls = dict(line.split(", ") for line in metadata.get_all("Project-URL", []))
    shown, readme = metadata.get_payload(), (PROJECT / "README.md").read_text(encoding="utf-8")
    assert isinstance(shown, str)
    link = re.compile(r'(?:\]\(|src="|href=")([^)"]*)')
    kept = re.compile(rf"{urls['Source']}/(?:blob|raw)/v{metadata['Version']}/")
    assert [link for link in link.findall(shown) if not link.startswith(("https://", "#"))] == []
    # Nothing else is changed.
    assert kept.sub("", shown) == readme


def test_it_keeps_a_session_without_any_extra(folder: Path, installed: Path) -> None:
    """Warnings are errors: whoever installs it should not meet ours."""
    assert run(installed, "-W", "error", "-c", ROUND_TRIP, cwd=folder).split() == ["1", "2", "1"]


def test_its_dependencies_agree_and_bring_no_extra(folder: Path, installed: Path) -> None:
    run(installed, "-m", "pip", "check", cwd=folder)
    names = run(installed, "-m", "pip", "list", "--format=freeze", cwd=folder).splitlines()
    unwanted = {"fastapi", "httpx", "moto", "pytest", "uvicorn"} & {name.split("==")[0] for name in names}
    assert unwanted == set()


def read_metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_string(archive.read(name).decode())
