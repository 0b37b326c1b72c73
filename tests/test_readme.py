"""What the README and the guides say is so: their blocks run, their commands parse, their tables leave nothing out."""

import ast
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from dynamodb_sessions import DynamoDBSessionMiddleware, settings
from dynamodb_sessions.agents import tables
from dynamodb_sessions.stores import table_schema
from dynamodb_sessions.testing import session_transaction
from tests.conftest import KEY, Clock
from tests.helpers.pages import DOCS, NEEDS_PACKAGES, PAGES, PROJECT, Block, blocks, source_of, write_modules

DEMO = 'python3 -m venv .venv && .venv/bin/pip install -e ".[demo]" && .venv/bin/python -m examples.duel_arena'
TESTS = (
    'python3 -m venv .venv && .venv/bin/pip install -e ".[dev]" && .venv/bin/python -m pytest -n auto --dist loadfile'
)


def of(*languages: str) -> pytest.MarkDecorator:
    found = [block for block in blocks(*PAGES) if block.language in languages]
    if "python" in languages:
        found = [block for block in found if block.page not in NEEDS_PACKAGES]
    return pytest.mark.parametrize("block", found, ids=[f"{block.page.name}-{block.line}" for block in found])


def named_in_tables() -> set[str]:
    """Every word of code in the first cell of a table's row."""
    cells = re.findall(r"^\|([^|]*)\|", (DOCS / "settings.md").read_text(encoding="utf-8"), re.MULTILINE)
    return {word for cell in cells for word in re.findall(r"`(\w+)`", cell)}


def test_every_block_says_what_it_is() -> None:
    """Terraform's own tests try the hcl."""
    assert {block.language for block in blocks(*PAGES)} <= {"python", "bash", "console", "hcl", "javascript", "text"}
    assert {"python", "bash", "hcl"} <= {block.language for block in blocks(*PAGES)}


@pytest.fixture(params=["moto", "local"])
def _readers_machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A directory, a DynamoDB with nothing in it but the tables that the pages deploy, and a key in the environment."""
    url = request.getfixturevalue("moto_url" if request.param == "moto" else "dynamodb_local_url")
    dynamodb = boto3.client("dynamodb", endpoint_url=url, region_name="us-east-1")
    monkeypatch.setenv("DYNAMODB_ENDPOINT_URL", url)
    monkeypatch.setenv("SESSION_SECRET_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    tables.table.cache_clear()  # The environment is another one.
    names = ("sessions", "checkpoints", "conversations")
    for name in names:
        table_schema.create(dynamodb, name, conversations=name == "conversations")
    yield
    for name in names:
        dynamodb.delete_table(TableName=name)


@of("python")
@pytest.mark.usefixtures("_readers_machine")
def test_python_runs(block: Block) -> None:
    """Each block by itself."""
    block.run()


@pytest.fixture(scope="module")
def typed_blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every Python block of the pages, as a module of its own."""
    folder = tmp_path_factory.mktemp("blocks")
    write_modules(folder, blocks(*sorted(set(PAGES) - NEEDS_PACKAGES)))
    return folder


@pytest.mark.slow
def test_python_passes_mypy(typed_blocks: Path) -> None:
    command = [sys.executable, "-m", "mypy", "--strict", "--explicit-package-bases", str(typed_blocks)]
    environment = os.environ | {"MYPYPATH": os.pathsep.join((str(PROJECT / "src"), str(PROJECT)))}
    checked = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, ""), checked.stdout


@pytest.mark.slow
def test_python_passes_pyright(typed_blocks: Path) -> None:
    paths = [str(PROJECT / "src"), str(PROJECT)]
    (typed_blocks / "pyrightconfig.json").write_text(json.dumps({"include": ["."], "extraPaths": paths}))
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--project", str(typed_blocks)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Any]:
    """Return a function that runs the block of a page that has this text in it, and returns its app."""
    monkeypatch.setenv("SESSION_SECRET_KEY", KEY)

    def run(page: str, text: str) -> Any:
        (block,) = [block for block in blocks(PROJECT / page) if text in block.text]
        return block.run()["app"]

    return run


def test_the_devices_are_listed_and_ended(run: Callable[[str, str], Any]) -> None:
    app = run("docs/devices.md", "devices.end_others")
    laptop, phone = (TestClient(app, headers={"user-agent": name}) for name in ("laptop", "phone"))
    for client in (laptop, phone):
        client.post("/login/alice")
    shown = laptop.get("/devices").json()
    assert [(device["label"], device["is_current"]) for device in shown] in (
        [("phone", False), ("laptop", True)],
        [("laptop", True), ("phone", False)],  # in the same second
    )
    (handle,) = [device["handle"] for device in shown if not device["is_current"]]
    assert laptop.post(f"/devices/{handle}/end").json() is True
    assert laptop.post(f"/devices/{handle}/end").json() is False
    phone.post("/login/alice")
    assert laptop.post("/password").json() == 1
    assert len(laptop.get("/devices").json()) == 1


def test_the_password_is_asked_for_again(run: Callable[[str, str], Any], clock: Clock) -> None:
    client = TestClient(run("docs/recipes.md", "fresh_login"))
    login = {"user": "alice", "password": "correct horse"}
    assert client.delete("/account").status_code == 401
    assert client.post("/confirm", json={"password": "correct horse"}).status_code == 401
    assert client.post("/login", json=login | {"password": "wrong"}).status_code == 401
    for _ in range(2):
        assert client.post("/login", json=login).status_code == 200
        assert client.delete("/account").json() == "Goodbye, acme/alice."
    clock.now += 601
    assert client.delete("/account").status_code == 403
    assert client.post("/confirm", json={"password": "wrong"}).status_code == 403
    assert client.delete("/account").status_code == 403
    before = client.cookies["session_id"]
    assert client.post("/confirm", json={"password": "correct horse"}).status_code == 200
    assert client.cookies["session_id"] != before
    assert client.delete("/account").status_code == 200


def test_the_cart_counts(run: Callable[[str, str], Any]) -> None:
    client = TestClient(run("docs/parallel.md", "session.atomically"))
    assert [client.post(f"/cart/{item}").json() for item in ("apple", "pear", "apple")] == [1, 2, 3]


def test_the_websocket_echoes_to_who_is_logged_in(run: Callable[[str, str], Any]) -> None:
    """That it closes, too, is shown by examples/chat.py: tests/examples/test_browser.py."""
    client = TestClient(run("docs/recipes.md", "session.wait_ended"))
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/echo"):
        """Nobody is logged in."""
    with session_transaction(client) as session:
        session.bind("acme/alice")
    with client.websocket_connect("/echo") as websocket:
        websocket.send_text("hello")
        assert websocket.receive_text() == "hello"


def test_the_first_python_block_is_the_minimal_example() -> None:
    first = next(block.text for block in blocks(*PAGES) if block.language == "python")
    assert (PROJECT / "examples" / "minimal.py").read_text() == first


@of("javascript")
def test_the_javascript_is_an_examples(block: Block) -> None:
    """Which a browser runs: tests/examples/test_browser.py."""
    assert any(block.text in (PROJECT / "examples" / f"{name}.py").read_text() for name in ("sign_out_warning", "chat"))


@of("bash", "console")
def test_commands_parse(block: Block) -> None:
    commands = block.text
    if block.language == "console":
        commands = "\n".join(line[2:] for line in block.text.splitlines() if line.startswith("$ "))
    assert commands.strip()
    checked = subprocess.run(["bash", "-n"], input=commands, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


@of("hcl")
def test_what_a_module_is_given_it_takes(block: Block) -> None:
    taken = re.findall(r'^variable "(\w+)"', (PROJECT / "terraform" / "variables.tf").read_text(), re.MULTILINE)
    calls = re.findall(r'^module "\w+" \{\n(.*?)^\}', block.text, re.MULTILINE | re.DOTALL)
    assert calls
    for call in calls:
        assert set(re.findall(r"^  (\w+) +=", call, re.MULTILINE)) <= {"source", *taken}


@pytest.mark.parametrize("command", [DEMO, TESTS], ids=["demo", "tests"])
def test_one_command_sets_it_up(command: str) -> None:
    assert f"{command}\n" in [block.text for block in blocks(*PAGES) if block.language == "bash"]


def test_the_tables_name_every_parameter_of_the_middleware() -> None:
    parameters = set(inspect.signature(DynamoDBSessionMiddleware).parameters) - {"app"}
    assert parameters - named_in_tables() == set()


def test_the_tables_name_every_variable_that_is_read() -> None:
    calls = [node for node in ast.walk(ast.parse(inspect.getsource(settings))) if isinstance(node, ast.Call)]
    read = {
        node.args[0].value
        for node in calls
        if isinstance(node.func, ast.Name) and node.func.id == "_environment" and isinstance(node.args[0], ast.Constant)
    }
    assert "SESSION_SECRET_KEY" in read
    assert read - named_in_tables() == set()


def test_the_readme_is_read_in_minutes() -> None:
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert [line for line in text.splitlines() if len(line) > 120] == []
    assert len(text.split()) <= 1500


def test_the_readme_leads_to_every_page() -> None:
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    pages = [source_of(page).relative_to(PROJECT) for page in DOCS.glob("*.md")]
    assert [page for page in pages if f"({page})" not in text] == []


def headings_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site make them, which must be the same."""
    text = source_of(page).read_text(encoding="utf-8")
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    plain = [
        re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    ]
    return {re.sub(r"[-\s]+", "-", heading) for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_its_links_lead_somewhere(page: Path) -> None:
    """A page of the site links to pages of the site, or to the web; README to whatever is in the checkout."""
    for target in re.findall(r"\]\((?!https?:)([^)]+)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        assert page.parent != DOCS or file.resolve().is_relative_to(DOCS), target
        assert not anchor or anchor in headings_of(file), target


def test_the_log_is_told_as_it_is_written() -> None:
    """The messages that docs/operate.md explains are messages of the package."""
    (table,) = re.findall(r"\| it says \|.*?\n\n", (DOCS / "operate.md").read_text(encoding="utf-8"), re.DOTALL)
    told = re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)
    source = "".join(path.read_text(encoding="utf-8") for path in (PROJECT / "src").rglob("*.py"))
    assert len(told) > 5
    assert [message for message in told if message not in source] == []
