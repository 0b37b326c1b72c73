import ast
import inspect
import logging
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from aiodynamo.client import Client
from aiodynamo.credentials import Key, StaticCredentials
from starlette.applications import Starlette
from starlette.datastructures import Secret
from starlette.middleware.sessions import SessionMiddleware
from yarl import URL

from dynamodb_sessions import (
    ConfigurationError,
    DynamoDBSessionMiddleware,
    DynamoDBStore,
    MemoryStore,
    session_middleware,
)
from dynamodb_sessions.agents import DynamoDBConversation
from dynamodb_sessions.agents.tables import table
from dynamodb_sessions.middleware import store_from_environment
from dynamodb_sessions.settings import secret_keys, use_dynamodb
from dynamodb_sessions.stores.fallback import FallbackStore
from tests.conftest import KEY
from tests.helpers.aiodynamo_clients import never


async def no_app(*_: Any) -> None:
    raise AssertionError


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((value, True) for value in ("1", "true", "Yes", "ON", " true ")),
        *((value, False) for value in ("0", "False", "no", "off", "", None)),
    ],
)
def test_the_toggle_is_read_as_people_write_it(
    value: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is not None:
        monkeypatch.setenv("USE_DYNAMODB_SESSIONS", value)
    assert use_dynamodb() is expected
    store = store_from_environment()
    assert isinstance(store, DynamoDBStore if expected else MemoryStore)


def test_a_toggle_that_is_neither_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USE_DYNAMODB_SESSIONS", "maybe")
    with pytest.raises(ConfigurationError, match="USE_DYNAMODB_SESSIONS='maybe'"):
        session_middleware(secret_key=KEY)


def test_memory_by_default_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    middleware = DynamoDBSessionMiddleware(no_app, KEY)
    assert isinstance(middleware.store, MemoryStore)
    assert caplog.text.count("USE_DYNAMODB_SESSIONS is off") == 1


def test_the_store_is_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USE_DYNAMODB_SESSIONS", "true")
    monkeypatch.setenv("SESSION_TABLE_NAME", "logins")
    monkeypatch.setenv("DYNAMODB_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    store = store_from_environment()
    assert isinstance(store, DynamoDBStore)
    assert store.table_name == "logins"
    assert store.client.meta.endpoint_url == "http://127.0.0.1:9"
    assert store.client.meta.region_name == "eu-west-1"


def test_the_region_is_also_found_where_boto3_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USE_DYNAMODB_SESSIONS", "true")
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    store = store_from_environment()
    assert isinstance(store, DynamoDBStore)
    assert (store.table_name, store.client.meta.region_name) == ("sessions", "eu-central-1")


def test_an_argument_counts_more_than_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    store = DynamoDBStore("sessions", region_name="us-west-2", endpoint_url="http://127.0.0.1:9")
    assert store.client.meta.region_name == "us-west-2"


@pytest.fixture
def _elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An environment that says where DynamoDB is, and what the table of sessions is called."""
    monkeypatch.setenv("SESSION_TABLE_NAME", "logins")
    monkeypatch.setenv("DYNAMODB_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", "http://127.0.0.1:10")  # boto3's own, which ours outdoes.
    table.cache_clear()
    yield
    table.cache_clear()


@pytest.mark.usefixtures("_elsewhere")
@pytest.mark.parametrize("client", [None, "async"])
def test_a_store_of_ones_own_is_where_the_environment_says(client: str | None) -> None:
    store = DynamoDBStore(client=client)
    assert (store.table_name, store.client.meta.endpoint_url) == ("logins", "http://127.0.0.1:9")
    assert store.client.meta.region_name == "us-east-1"
    other = DynamoDBStore("others", endpoint_url="http://127.0.0.1:11", client=client)
    assert (other.table_name, other.client.meta.endpoint_url) == ("others", "http://127.0.0.1:11")


def test_a_store_of_ones_own_has_the_middlewares_defaults() -> None:
    store = DynamoDBStore()
    assert store.table_name == "sessions"
    assert store.client.meta.endpoint_url == "https://dynamodb.us-east-1.amazonaws.com"


@pytest.mark.usefixtures("_elsewhere")
def test_a_given_client_counts_more_than_the_environment() -> None:
    given = boto3.client("dynamodb", endpoint_url="http://127.0.0.1:11", region_name="us-east-1")
    assert DynamoDBStore(client=given).client is given
    another = Client(never, StaticCredentials(Key("id", "secret")), "us-east-1", endpoint=URL("http://127.0.0.1:11"))
    assert DynamoDBStore(client=another).client.meta.endpoint_url == "http://127.0.0.1:11"


@pytest.mark.usefixtures("_elsewhere")
def test_a_conversation_is_where_the_environment_says_in_a_table_of_its_own() -> None:
    """Its items have another key: SESSION_TABLE_NAME does not count."""
    conversation = DynamoDBConversation("chat-1")
    assert conversation._calls.table_name == "conversations"
    assert conversation._calls.client.meta.endpoint_url == "http://127.0.0.1:9"
    other = DynamoDBConversation("chat-1", "others", endpoint_url="http://127.0.0.1:11")
    assert other._calls.table_name == "others"
    assert other._calls.client.meta.endpoint_url == "http://127.0.0.1:11"


@pytest.mark.anyio
async def test_an_owners_conversations_are_there_too(moto_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNAMODB_ENDPOINT_URL", moto_url)
    name = f"conversations-{uuid.uuid4().hex}"
    await DynamoDBConversation("chat-1", name, owner="alice", create_table=True).add_items([{"content": "Hello"}])
    assert [each.session_id async for each in DynamoDBConversation.of_owner("alice", name)] == ["chat-1"]


def test_a_bad_table_name_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USE_DYNAMODB_SESSIONS", "true")
    monkeypatch.setenv("SESSION_TABLE_NAME", "no/such name")
    with pytest.raises(ConfigurationError, match="no/such name"):
        store_from_environment()


@pytest.mark.parametrize(
    ("given", "expected"),
    [(KEY, [KEY]), (Secret(KEY), [KEY]), ([KEY, "x" * 32], [KEY, "x" * 32]), ((Secret(KEY),), [KEY])],
)
def test_keys_are_given_newest_first(given: Any, expected: list[str]) -> None:
    assert secret_keys(given) == expected


def test_keys_are_the_environments_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSION_SECRET_KEY", KEY)
    assert secret_keys(None) == [KEY]
    monkeypatch.setenv("SESSION_SECRET_KEY_FALLBACKS", f"{'o' * 32}, ,{'p' * 32},")
    assert secret_keys(None) == [KEY, "o" * 32, "p" * 32]


@pytest.mark.parametrize(
    "key",
    [
        *(f"{'a' * 32},{'b' * 32}", f"{'a' * 32},", f"{'a' * 32}\n{'b' * 32}", f"{'a' * 32}\u2028{'b' * 32}"),
        *(f"{KEY}\n", f"{KEY}\r\n", f" {KEY}", f"{KEY}\t"),
    ],
    ids=repr,
)
def test_a_key_that_could_not_be_retired_is_refused_by_the_name_of_its_variable(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parts would verify as keys, and it would not."""
    monkeypatch.setenv("SESSION_SECRET_KEY", key)
    with pytest.raises(ConfigurationError, match="SESSION_SECRET_KEY has a comma, a line break or blanks") as caught:
        secret_keys(None)
    assert not any(part in str(caught.value) for part in ("aaaa", KEY))
    assert secret_keys(["new" * 11, key]) == ["new" * 11, key]


def test_older_keys_with_a_line_break_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSION_SECRET_KEY", KEY)
    monkeypatch.setenv("SESSION_SECRET_KEY_FALLBACKS", f"{'o' * 32},\n  {'p' * 32}\n")
    assert secret_keys(None) == [KEY, "o" * 32, "p" * 32]
    monkeypatch.setenv("SESSION_SECRET_KEY_FALLBACKS", f"{'o' * 32}\n{'p' * 32}")
    with pytest.raises(ConfigurationError, match="SESSION_SECRET_KEY_FALLBACKS has a line break") as caught:
        secret_keys(None)
    assert "oooo" not in str(caught.value)


@pytest.mark.parametrize("given", [None, "", " ", [], [""], [KEY, ""], Secret(""), "a\ud800" * 16])
def test_without_a_key_nothing_starts(given: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"secrets\.token_urlsafe\(32\)"):
        secret_keys(given)


@pytest.mark.parametrize("given", [b"x" * 40, [KEY, None], [b"x" * 40], 12345, {KEY}], ids=repr)
def test_what_is_no_text_is_no_key(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="must be a str"):
        secret_keys(given)


def test_a_short_key_draws_one_warning_that_does_not_show_it(caplog: pytest.LogCaptureFixture) -> None:
    secret_keys(["short-1", "short-2", KEY])
    assert caplog.text.count("shorter than 32 bytes") == 1
    assert "short-1" not in caplog.text
    caplog.clear()
    secret_keys("x" * 32)
    assert not caplog.text


@pytest.mark.parametrize("toggle", ["true", "false"])
def test_the_toggle_moves_between_both_with_no_change_of_code(toggle: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USE_DYNAMODB_SESSIONS", toggle)
    monkeypatch.setenv("SESSION_SECRET_KEY", KEY)
    options: dict[str, Any] = {"session_cookie": "sid", "max_age": 60, "same_site": "strict", "https_only": True}
    made = session_middleware(**options, touch_after=5, exclude=["/static"])
    expected = DynamoDBSessionMiddleware if toggle == "true" else SessionMiddleware
    factory: Any = made.cls
    kwargs: Any = made.kwargs
    assert factory is expected
    built = factory(no_app, **kwargs)
    if isinstance(built, DynamoDBSessionMiddleware):
        assert isinstance(built.store, FallbackStore)
        assert built.setup.cookie.name == "sid"
    else:
        assert isinstance(built, SessionMiddleware)
        assert (built.session_cookie, built.max_age) == ("sid", 60)
        assert "samesite=strict; secure" in built.security_flags


def test_starlettes_middleware_gets_our_defaults_and_the_newest_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSION_SECRET_KEY", KEY)
    monkeypatch.setenv("SESSION_SECRET_KEY_FALLBACKS", "o" * 32)
    kwargs = session_middleware(domain="example.com").kwargs
    assert kwargs == {
        "secret_key": KEY,
        "session_cookie": "session_id",
        "max_age": 3600,
        "path": "/",
        "same_site": "lax",
        "https_only": False,
        "domain": "example.com",
    }
    assert session_middleware(partitioned=True).kwargs["partitioned"] is True


def test_what_starlettes_middleware_does_without_is_named(caplog: pytest.LogCaptureFixture) -> None:
    session_middleware(secret_key=KEY, max_age=5, https_only=True, path="/", domain="example.com", touch_after=None)
    assert caplog.text == ""
    session_middleware(secret_key=KEY, max_age=5, absolute_max_age=9, exclude=["/static"])
    assert "do without what is given as absolute_max_age, exclude" in caplog.text


@pytest.mark.parametrize("toggle", ["true", "false"])
@pytest.mark.parametrize(
    "options",
    [{"fallback": "bogus"}, {"max_age": "x"}, {"exclude": "x"}, {"same_site": "none", "https_only": False}],
    ids=str,
)
def test_what_would_fail_in_production_fails_in_development(
    toggle: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USE_DYNAMODB_SESSIONS", toggle)
    with pytest.raises(ConfigurationError):
        session_middleware(secret_key=KEY, **options)


@pytest.mark.parametrize(
    "options", [{"same_site": "none"}, {"session_cookie": "__Host-id"}, {"partitioned": True}], ids=str
)
def test_starlettes_cookie_is_secure_where_browsers_insist_on_it(options: dict[str, Any]) -> None:
    assert session_middleware(secret_key=KEY, **options).kwargs["https_only"] is True


def test_without_a_key_the_toggle_does_not_matter() -> None:
    with pytest.raises(ConfigurationError, match="SESSION_SECRET_KEY"):
        session_middleware()


@pytest.mark.parametrize("toggle", ["true", "false"])
def test_an_option_that_does_not_exist_is_refused_either_way(toggle: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USE_DYNAMODB_SESSIONS", toggle)
    misspelt: dict[str, Any] = {"max_agee": 5}
    with pytest.raises(TypeError, match="max_agee"):
        Starlette(middleware=[session_middleware(secret_key=KEY, **misspelt)]).build_middleware_stack()


@pytest.mark.parametrize("toggle", ["true", "false"])
def test_options_may_be_given_by_position(toggle: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USE_DYNAMODB_SESSIONS", toggle)
    assert (
        session_middleware([KEY], "sid", 60).kwargs
        == session_middleware(secret_key=[KEY], session_cookie="sid", max_age=60).kwargs
    )


def test_what_a_release_of_starlette_does_not_know_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """0.27 knows neither `domain` nor `partitioned`."""

    class Old:
        def __init__(
            self,
            app: Any,
            secret_key: Any,
            session_cookie: Any,
            max_age: Any,
            path: Any,
            same_site: Any,
            https_only: Any,
        ) -> None: ...

    monkeypatch.setattr("dynamodb_sessions.middleware.SessionMiddleware", Old)
    made = session_middleware(secret_key=KEY, domain="example.com")
    assert set(made.kwargs) == set(inspect.signature(Old).parameters) - {"app"}
    assert "do without what is given as domain" in caplog.text


def test_the_options_are_the_middlewares_own() -> None:
    options = [*inspect.signature(DynamoDBSessionMiddleware).parameters.values()]
    assert [*inspect.signature(session_middleware).parameters.values()] == options[1:]


def test_no_option_is_listed_twice() -> None:
    """Only the constructor has them all; what checks some has no more than those."""
    options = set(inspect.signature(DynamoDBSessionMiddleware).parameters) - {"app"}
    tree = ast.parse(inspect.getsource(inspect.getmodule(DynamoDBSessionMiddleware) or pytest))
    listed = [
        len(options & {each.arg for each in (*node.args.args, *node.args.kwonlyargs)})
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert sorted(listed)[-2:] == [3, len(options)]


RIGHT = """
import dynamodb_sessions
from dynamodb_sessions import session_middleware

session_middleware()
session_middleware("key", "sid", 60, same_site="strict", exclude=["/static"], fallback="error")
reveal_type(session_middleware(max_age=None, store=dynamodb_sessions.MemoryStore()))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "checker", [["mypy", "--strict"], ["pyright", "--pythonpath", sys.executable]], ids=["mypy", "pyright"]
)
def test_type_checkers_know_the_options(checker: list[str], tmp_path: Path) -> None:
    """A typo, a value of the wrong type and one that is not among the choices: one error in each line, no others."""
    wrong = ["max_agee=60", 'max_age="60"', 'same_site="Lax"', "0"]
    text = RIGHT + "".join(f"session_middleware({given})\n" for given in wrong)
    (tmp_path / "snippet.py").write_text(text)
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    source = str(Path(inspect.getfile(session_middleware)).parent.parent)
    done = subprocess.run(
        [sys.executable, "-m", *checker, "snippet.py"],
        cwd=tmp_path,
        env=os.environ | {"MYPYPATH": source, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    errors = {int(line) for line in re.findall(r"snippet\.py:(\d+)(?::\d+)?(?: -)?:? error", done.stdout)}
    assert errors == {text.splitlines().index(f"session_middleware({given})") + 1 for given in wrong}, done.stdout
    assert re.search(r"[Tt]ype (of .* )?is \"(starlette\.middleware\.)?Middleware\"", done.stdout), done.stdout
