"""Where the environment says region, endpoint and credentials, `client="async"` takes them, and imports no boto3."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.credentials import Credentials

from dynamodb_sessions import ConfigurationError, DynamoDBStore
from dynamodb_sessions.aws import async_credentials, environment
from dynamodb_sessions.aws.environment import Container, Found
from dynamodb_sessions.aws.sigv4 import Key
from dynamodb_sessions.identifiers import new_id
from dynamodb_sessions.stores import table_schema
from tests.helpers.proxy import How, Proxy, Step

pytestmark = pytest.mark.anyio

NOW = 1_800_000_000
VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION")

LOADED = """
import asyncio, sys
from dynamodb_sessions import DynamoDBStore
store = DynamoDBStore(sys.argv[1], endpoint_url=sys.argv[2], client="async")
assert store.probe(), store.mode_reason
assert asyncio.run(store.load("x" * 43, now=0)) is None
print(*sorted(name for name in sys.modules if name.partition(".")[0] in ("boto3", "botocore", "urllib3")))
"""


class Agent:
    """The endpoint of a container: it gives a new key each time."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []
        self.seconds = 6 * 3600.0
        self.status = 200
        self.more: dict[str, Any] = {}
        self.may_answer = threading.Event()
        self.may_answer.set()
        agent = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                agent.may_answer.wait(10)
                body = agent.answer(self.path, self.headers["Authorization"])
                self.send_response(agent.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/credentials?of=me"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, path: str, authorization: str | None) -> bytes:
        self.asked.append((path, authorization))
        expires = datetime.now(UTC) + timedelta(seconds=self.seconds)
        given = {
            "AccessKeyId": f"key{len(self.asked)}",
            "SecretAccessKey": "secret",
            "Token": "token",
            "Expiration": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        return json.dumps(given | self.more).encode()


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Agent]:
    """It alone gives credentials."""
    made = Agent()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", made.url)
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def proxy(moto_url: str, table_name: str) -> Iterator[Proxy]:
    given = {"aws_access_key_id": "any", "aws_secret_access_key": "any", "region_name": "us-east-1"}
    table_schema.create(boto3.client("dynamodb", endpoint_url=moto_url, **given), table_name)
    made = Proxy(moto_url)
    yield made
    made.close()


@pytest.fixture
def no_boto3(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """From when the table is there."""
    assert not proxy.requests

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("boto3 is asked")

    monkeypatch.setattr(boto3, "Session", fail)


def keys(proxy: Proxy) -> list[str]:
    return [sent.partition("Credential=")[2].partition("/")[0] for sent in proxy.authorizations]


def loads(store: DynamoDBStore, number: int = 1) -> None:
    async def load() -> None:
        for _ in range(number):
            assert await store.load(new_id(), now=NOW) is None

    asyncio.run(load())


@pytest.mark.parametrize("source", ["the environment", "the container"])
def test_no_boto3_is_imported(source: str, agent: Agent, proxy: Proxy, table_name: str) -> None:
    variables = {"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "an-id", "AWS_SECRET_ACCESS_KEY": "a-secret"}
    if source == "the container":
        variables = {"AWS_REGION": "us-east-1", "AWS_CONTAINER_CREDENTIALS_FULL_URI": agent.url}
    variables |= {"PYTHONPATH": ":".join(sys.path), "HOME": "/nowhere"}
    done = subprocess.run(
        [sys.executable, "-c", LOADED, table_name, proxy.url],
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")
    assert set(keys(proxy)) == {"an-id" if source == "the environment" else "key1"}


def test_no_boto3_is_imported_before_a_boto3_store_is_made() -> None:
    code = "import sys; from dynamodb_sessions import DynamoDBStore; print('boto3' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"AWS_SESSION_TOKEN": "a-token"},
        {"AWS_SESSION_TOKEN": "a-token", "AWS_SECURITY_TOKEN": "an-older-one"},
        {"AWS_SESSION_TOKEN": ""},
        {"AWS_DEFAULT_REGION": "eu-west-1"},
        {"AWS_REGION": "", "AWS_DEFAULT_REGION": "ap-southeast-2"},
        {"AWS_REGION": "us-gov-west-1"},
        {"AWS_REGION": "il-central-1", "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:9/"},
    ],
)
def test_what_the_environment_says_is_what_boto3_finds(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = environment.look(None, None)
    assert found is not None
    client = DynamoDBStore("sessions").client
    frozen = boto3.Session().get_credentials().get_frozen_credentials()
    assert found == Found(
        client.meta.region_name,
        client.meta.endpoint_url,
        Key(frozen.access_key, frozen.secret_key, frozen.token),
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_PROFILE", "another"),
        ("AWS_DEFAULT_PROFILE", "another"),
        ("AWS_ENDPOINT_URL", "http://localhost:8000"),
        ("AWS_ENDPOINT_URL_DYNAMODB", "http://localhost:8000"),
        ("AWS_USE_FIPS_ENDPOINT", "true"),
        ("AWS_USE_DUALSTACK_ENDPOINT", "true"),
        ("AWS_CREDENTIAL_EXPIRATION", "2030-01-01T00:00:00Z"),
        ("AWS_SECRET_ACCESS_KEY", ""),
        ("AWS_ACCESS_KEY_ID", ""),
        ("AWS_REGION", ""),
        ("AWS_REGION", "cn-north-1"),
        ("AWS_REGION", "us-iso-east-1"),
        ("AWS_REGION", "us-east-1\n"),
        ("AWS_CONFIG_FILE", "pyproject.toml"),
        ("AWS_SHARED_CREDENTIALS_FILE", "pyproject.toml"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/dev/stdin"),
    ],
)
def test_where_more_may_be_said_boto3_is_asked(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if value.endswith(".toml"):
        value = str(Path(__file__).parent.parent.parent / value)
    monkeypatch.setenv(name, value)
    assert environment.look(None, None) is None


@pytest.mark.parametrize("name", ["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"])
@pytest.mark.parametrize("path", ["$HOME/aws", "${HOME}/aws", "~/aws"])
def test_a_file_may_be_named_by_a_variable(
    name: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(name, path)
    assert environment.look(None, None) is not None
    (tmp_path / "aws").write_text("[default]\nendpoint_url = http://localhost:8000\n")
    assert environment.look(None, None) is None


def test_endpoints_may_be_described_in_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert environment.look(None, None) is not None
    (tmp_path / ".aws" / "models").mkdir(parents=True)
    assert environment.look(None, None) is None


@pytest.mark.parametrize(
    "url", ["localhost:8000", "http://user:secret@here", "http://here/?a=b", "ftp://here", "http://"]
)
def test_an_endpoint_that_is_no_plain_url_is_left_to_boto3(url: str) -> None:
    assert environment.look("us-east-1", url) is None


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        ({"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/me"}, "http://169.254.170.2/v2/me"),
        (
            {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/a", "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://localhost"},
            "http://169.254.170.2/a",
        ),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/v1"}, "http://169.254.170.23/v1"),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://[fd00:ec2::23]/v1"}, "http://[fd00:ec2::23]/v1"),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:9001/x"}, "http://127.0.0.1:9001/x"),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "https://keys.test/x"}, "https://keys.test/x"),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://keys.test/x"}, None),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1.keys.test/x"}, None),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://localhost@keys.test/x"}, None),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://localhost/x\r\nHost: y"}, None),
        ({"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": ""}, "http://169.254.170.2"),
        ({"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "@keys.test/x"}, None),
        ({"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": ".keys.test/x"}, None),
        ({"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/a", "AWS_WEB_IDENTITY_TOKEN_FILE": "/token"}, None),
        ({}, None),
    ],
)
def test_a_container_is_asked_where_nobody_else_can_listen(
    variables: dict[str, str], url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert environment.credentials() == (None if url is None else Container(url))


@pytest.mark.usefixtures("no_boto3")
def test_a_containers_key_is_asked_for_once(
    agent: Agent, proxy: Proxy, table_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "let me in")
    store = DynamoDBStore(table_name, endpoint_url=proxy.url, client="async")

    async def use() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(store.load(new_id(), now=NOW))

    asyncio.run(use())
    loads(store, 3)
    assert agent.asked == [("/v1/credentials?of=me", "let me in")]
    assert set(keys(proxy)) == {"key1"}


@pytest.mark.usefixtures("no_boto3")
def test_its_token_is_read_from_its_file_each_time(
    agent: Agent, proxy: Proxy, table_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "token"
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(path))
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "not this one")
    agent.seconds = 60
    store = DynamoDBStore(table_name, endpoint_url=proxy.url, client="async")
    for token in ("one", "two"):
        path.write_text(token)
        loads(store)
    assert [authorization for _, authorization in agent.asked] == ["one", "two"]
    assert keys(proxy) == ["key1", "key2"]


@pytest.mark.usefixtures("no_boto3")
def test_a_key_that_ends_soon_is_renewed_while_others_still_use_it(agent: Agent, proxy: Proxy, table_name: str) -> None:
    agent.seconds = 12 * 60
    store = DynamoDBStore(table_name, endpoint_url=proxy.url, client="async")

    async def use() -> None:
        assert await store.load(new_id(), now=NOW) is None
        agent.may_answer.clear()
        renewing = asyncio.create_task(store.load(new_id(), now=NOW))
        await asyncio.sleep(0.05)
        try:
            for _ in range(3):
                assert await store.load(new_id(), now=NOW) is None
        finally:
            agent.may_answer.set()
        assert await renewing is None

    asyncio.run(use())
    assert keys(proxy) == ["key1", "key1", "key1", "key1", "key2"]


@pytest.mark.parametrize(
    ("status", "more"),
    [
        (500, {}),
        (200, {"AccessKeyId": None}),
        (200, {"Expiration": "soon"}),
        (200, {"Expiration": "2030-01-01T00:00:00"}),
    ],
)
def test_what_a_container_fails_to_give_boto3_is_asked_for(
    status: int, more: dict[str, Any], agent: Agent, proxy: Proxy, table_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent.status, agent.more = status, more
    monkeypatch.setattr(boto3.Session, "get_credentials", lambda _: Credentials("from-boto3", "secret"))
    loads(DynamoDBStore(table_name, endpoint_url=proxy.url, client="async"))
    assert keys(proxy) == ["from-boto3"]


@pytest.mark.parametrize("seconds", [14 * 60, 11 * 60])
@pytest.mark.usefixtures("no_boto3")
def test_a_key_that_is_still_good_is_used_while_the_container_fails(
    seconds: float, agent: Agent, proxy: Proxy, table_name: str
) -> None:
    agent.seconds = seconds
    store = DynamoDBStore(table_name, endpoint_url=proxy.url, client="async")
    loads(store)
    agent.status = 500
    loads(store, 3)
    agent.status = 200
    loads(store)
    assert len(set(keys(proxy)[:4])) == 1
    assert keys(proxy)[4] != keys(proxy)[0]


@pytest.mark.usefixtures("no_boto3")
def test_a_container_is_not_asked_through_a_proxy(
    agent: Agent, proxy: Proxy, table_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DynamoDBStore(table_name, endpoint_url=proxy.url.replace("127.0.0.1", "localhost"), client="async")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "localhost")
    loads(store)
    assert len(agent.asked) == 1
    assert keys(proxy) == ["key1"]


def test_a_token_that_cannot_be_sent_is_not_shown(
    agent: Agent, proxy: Proxy, table_name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "hush-hush\r\nX: y")
    store = DynamoDBStore(table_name, endpoint_url=proxy.url, client="async")
    assert not store.probe()
    assert "hush" not in f"{store.mode_reason} {store.probe_error!r} {caplog.text}"
    assert agent.asked == []


def refused(proxy: Proxy, times: int) -> None:
    proxy.play("GetItem", [Step(How.ANOTHER, applied=False, error=(400, "ExpiredTokenException"))] * times)


def test_a_key_of_the_environment_that_is_refused_is_read_there_again(
    proxy: Proxy, table_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DynamoDBStore(table_name, endpoint_url=proxy.url, client="async")
    loads(store)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    refused(proxy, 1)
    loads(store)
    assert keys(proxy) == ["testing", "testing", "another"]
    refused(proxy, 1)
    with pytest.raises(ConfigurationError, match=r"ExpiredTokenException.* the environment \(AWS_ACCESS_KEY_ID\)"):
        loads(store)
    assert keys(proxy)[3:] == ["another"]


@pytest.mark.usefixtures("no_boto3")
def test_a_containers_key_that_is_refused_is_asked_for_again_but_not_all_the_time(
    agent: Agent, proxy: Proxy, table_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DynamoDBStore(table_name, endpoint_url=proxy.url, client="async")
    loads(store)
    refused(proxy, 1)
    with pytest.raises(ConfigurationError, match=r"ExpiredTokenException.* the container"):
        loads(store)
    monkeypatch.setattr(async_credentials, "_RENEWAL_SECONDS", 0.0)
    refused(proxy, 1)
    loads(store)
    assert keys(proxy) == ["key1", "key1", "key1", "key2"]
    assert len(agent.asked) == 2


def test_a_probe_looks_at_the_environment_again(proxy: Proxy, table_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(proxy, 1)
    store = DynamoDBStore(table_name, endpoint_url=proxy.url, client="async")
    assert not store.probe()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    store.probe()
    assert keys(proxy) == ["testing", "another"]
    assert "/eu-west-1/" in proxy.authorizations[1]


def test_what_is_near_is_called_without_a_proxy(proxy: Proxy, table_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    loads(DynamoDBStore(table_name, endpoint_url=proxy.url, client="async"))
    assert keys(proxy) == ["testing"]


@pytest.mark.parametrize("netrc", ["default", "machine dynamo.test"])
@pytest.mark.parametrize("scheme", ["http://", "//", ""])
def test_a_request_by_a_proxy_is_signed_whatever_a_netrc_file_says(
    scheme: str, netrc: str, proxy: Proxy, table_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "netrc"
    path.write_text(f"{netrc} login me password hush\n")
    monkeypatch.setenv("NETRC", str(path))
    monkeypatch.setenv("HTTP_PROXY", f"{scheme}user:pass@{proxy.url.removeprefix('http://')}")
    loads(DynamoDBStore(table_name, endpoint_url="http://dynamo.test:8000", client="async"))
    assert keys(proxy) == ["testing"]


@pytest.mark.parametrize("host", ["127.0.0.1:9", "[bad", "here:port"])
def test_a_proxys_password_is_not_shown(
    host: str, table_name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://user:hush@{host}")
    store = DynamoDBStore(table_name, endpoint_url="http://dynamo.test:8000", client="async")
    assert not store.probe()
    assert "hush" not in f"{store.mode_reason} {store.probe_error!r} {caplog.text}"


def test_boto3s_key_that_is_refused_is_not_tried_until_the_deadline(
    agent: Agent, proxy: Proxy, table_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent.status = 500
    monkeypatch.setattr(boto3.Session, "get_credentials", lambda _: Credentials("from-boto3", "secret"))
    store = DynamoDBStore(table_name, endpoint_url=proxy.url, client="async")
    refused(proxy, 1000)
    with pytest.raises(ConfigurationError, match="ExpiredTokenException"):
        loads(store)
    assert len(keys(proxy)) <= 2
