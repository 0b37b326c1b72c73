"""The law of imports, read off the source: which wing may stand on which, and who may import an SDK."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dynamodb_sessions
from dynamodb_sessions import Session
from dynamodb_sessions.agents import DynamoDBConversation
from dynamodb_sessions.session.state import SessionState
from dynamodb_sessions.web.overlapped_touch import OverlappedTouch
from dynamodb_sessions.web.request_cycle import RequestCycle

ROOT = Path(dynamodb_sessions.__file__).parent
PACKAGE = ROOT.name

FACES = frozenset(("__init__", "__main__", "middleware", "testing", "devices", "otel"))
GROUND = frozenset(
    ("settings", "exceptions", "events", "codec", "tagged_json", "identifiers", "clock", "forks", "settled")
)
WINGS = {
    "web": {"session", "stores", "aws"},
    "session": {"stores", "aws"},
    "stores": {"aws"},
    "aws": set[str](),
    "ops": {"session", "stores", "aws"},
    "agents": {"session", "stores", "aws"},
}
"""Which wings each wing may import, besides itself and the ground floor."""

SDKS = frozenset(("boto3", "botocore", "aiobotocore", "aiodynamo", "aiohttp", "yarl"))
TRANSPORTS = frozenset(("boto3_transport", "async_transport", "aiobotocore_transport"))
OF_TRANSPORTS = frozenset(("async_credentials", "loop_connections"))
"""What a transport has in rooms of its own."""
HTTP = frozenset(("starlette",))


def sources() -> Iterator[tuple[str, ast.Module]]:
    """Yield every module of the package: its name without the package's, and what it says."""
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        yield name, ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.Module) -> Iterator[str]:
    """Yield what a module imports, whole, wherever in it the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(name: str) -> str:
    """Return the wing a module is in; of one in no wing, its own name."""
    return name.partition(".")[0]


def breach(name: str, imported: str) -> str | None:  # noqa: PLR0911 - a table
    """Return what an import breaks; None: nothing."""
    here, transport = room(name), name.rpartition(".")[2] in TRANSPORTS
    top, _, rest = imported.partition(".")
    if top in SDKS and not transport and name.rpartition(".")[2] not in OF_TRANSPORTS:
        return "only a transport does"
    if top == "cryptography" and name != "stores.encryption":
        return "only encryption does"
    if top in HTTP and here in {"session", "stores", "aws", "agents"}:
        return "it knows no HTTP"
    if top != PACKAGE:
        return None
    if transport and set(rest.split(".")) & TRANSPORTS:
        return "transports do not import each other"
    there = room(rest)
    if here in FACES:
        return "nothing stands on it" if there in {"ops", "agents"} and here != "__main__" else None
    if here in GROUND:
        return None if there in GROUND else "it is on the ground floor"
    return None if there == here or there in GROUND or there in WINGS[here] else "it does not stand on it"


def breaches(modules: Iterator[tuple[str, ast.Module]]) -> list[str]:
    """Return every import that breaks the law."""
    told = [(name, imported, breach(name, imported)) for name, tree in modules for imported in imports(tree)]
    return [f"{name} imports {imported}: {why}" for name, imported, why in told if why is not None]


def test_imports_run_one_way() -> None:
    assert breaches(sources()) == []


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("aws.table_calls", "from dynamodb_sessions.stores import contract"),
        ("stores.memory", "from dynamodb_sessions.session.session import Session"),
        ("session.commit", "from dynamodb_sessions.web import cookie"),
        ("session.commit", "def f():\n    import starlette.requests"),
        ("events", "from dynamodb_sessions.stores.contract import Record"),
        ("web.cookie", "import dynamodb_sessions.ops.cli"),
        ("middleware", "from dynamodb_sessions.agents import DynamoDBConversation"),
        ("aws.errors", "def f():\n    from botocore.exceptions import ClientError"),
        ("aws.async_transport", "from dynamodb_sessions.aws.boto3_transport import Boto3Transport"),
        ("aws.async_transport", "from dynamodb_sessions.aws import boto3_transport"),
        ("ops.doctor", "from dynamodb_sessions.agents.conversation import Message"),
        ("stores.dynamodb", "from dynamodb_sessions import DynamoDBStore"),
        ("stores.value_format", "def f():\n    from cryptography.exceptions import InvalidTag"),
    ],
)
def test_every_breach_is_found(name: str, line: str) -> None:
    assert len(breaches(iter([(name, ast.parse(line))]))) == 1


def test_every_module_is_in_a_room() -> None:
    assert {room(name) for name, _ in sources()} <= FACES | GROUND | set(WINGS)


def test_every_folder_states_its_law() -> None:
    for folder in [ROOT / wing for wing in WINGS]:
        law = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
        assert law.count(". ") + law.count(".\n") + law.endswith(".") >= 2, folder.name


def test_every_longer_method_says_what_it_does() -> None:
    """How it is made is said by the class."""
    silent = [
        f"{name}.{kind.name}.{method.name}"
        for name, tree in sources()
        if room(name) in {"web", "session", "stores"}
        for kind in ast.walk(tree)
        if isinstance(kind, ast.ClassDef)
        for method in kind.body
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef)
        and method.name not in ("__init__", "__post_init__")
        and (method.end_lineno or 0) - method.lineno >= 5
        and ast.get_docstring(method) is None
    ]
    assert silent == []


@pytest.mark.parametrize("kind", [RequestCycle, SessionState, OverlappedTouch, Session])
def test_what_a_request_and_its_session_hold_can_be_held_in_the_mind(kind: Any) -> None:
    held: tuple[str, ...] = kind.__dict__["__slots__"]
    assert len(held) <= 12
    assert kind.__dictoffset__ == 0, "nothing is added later, and no class stands in for it"


def test_stores_see_python_values_in_two_places_only() -> None:
    """In `Record.content()` and in the older layout."""
    decoders = {"decode", "decode_items", "encode", "encode_item", "encode_items"}
    users = {
        name
        for name, tree in sources()
        if room(name) == "stores" and any(imported.rpartition(".")[2] in decoders for imported in imports(tree))
    }
    assert users == {"stores.contract", "stores.item_format"}


def test_the_stores_have_their_calls_and_are_not_them() -> None:
    for public in (dynamodb_sessions.DynamoDBStore, DynamoDBConversation):
        assert not {"call", "pages", "deadline", "retry_contended"} & set(dir(public))
