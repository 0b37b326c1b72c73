"""Credentials that come late, are refused, or are those of a role: both transports find them."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from botocore.credentials import CredentialResolver
from starlette.types import Message

from dynamodb_sessions import ConfigurationError, DynamoDBSessionMiddleware, DynamoDBStore, StoreUnavailable
from dynamodb_sessions.identifiers import new_id
from tests.conftest import KEY
from tests.helpers.proxy import How, Proxy, Step

pytestmark = pytest.mark.anyio

BOTH = pytest.mark.parametrize("client", [None, "async"])


class Choosy(Proxy):
    """Refuses the keys that begin with "wrong"."""

    code = "UnrecognizedClientException"

    def step(self, operation: str, authorization: str) -> Step:
        step = super().step(operation, authorization)
        if "Credential=wrong" in authorization:
            return Step(How.ANOTHER, applied=False, error=(400, self.code))
        return step

    @property
    def keys(self) -> list[str]:
        return [sent.partition("Credential=")[2].partition("/")[0] for sent in self.authorizations]


@pytest.fixture
def choosy(moto_url: str, table_name: str) -> Iterator[Choosy]:
    assert DynamoDBStore(table_name, endpoint_url=moto_url, create_table=True).probe()
    proxy = Choosy(moto_url)
    yield proxy
    proxy.close()


@pytest.fixture
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file with the credentials, and nothing else that has any."""
    path = tmp_path / "credentials"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    return path


def write(path: Path, key: str) -> None:
    path.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = secret\n")


@BOTH
def test_a_probe_finds_credentials_that_have_come_since(
    choosy: Choosy, table_name: str, credentials: Path, client: str | None
) -> None:
    store = DynamoDBStore(table_name, endpoint_url=choosy.url, client=client)
    assert not store.probe()
    assert "redentials" in store.mode_reason
    write(credentials, "right")
    assert store.probe()
    assert choosy.keys == ["right"]


@BOTH
def test_a_probe_finds_a_region_that_has_come_since(
    choosy: Choosy, table_name: str, client: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_REGION")
    store = DynamoDBStore(table_name, endpoint_url=choosy.url, client=client)
    assert not store.probe()
    assert "region" in store.mode_reason
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    assert store.probe()
    assert "/us-east-1/" in choosy.authorizations[0]


@BOTH
def test_a_probe_finds_a_key_that_was_corrected(
    choosy: Choosy, table_name: str, credentials: Path, client: str | None
) -> None:
    write(credentials, "wrong")
    store = DynamoDBStore(table_name, endpoint_url=choosy.url, client=client)
    assert not store.probe()
    write(credentials, "right")
    assert store.probe()
    assert choosy.keys == ["wrong", "right"]


@BOTH
@pytest.mark.parametrize("code", ["UnrecognizedClientException", "ExpiredTokenException", "InvalidSignatureException"])
async def test_a_key_that_is_refused_in_the_middle_is_read_again(
    choosy: Choosy, table_name: str, credentials: Path, client: str | None, code: str
) -> None:
    """It was valid when the store began, expires, and is corrected: no request that comes then is refused."""
    choosy.code = code
    write(credentials, "right")
    store = DynamoDBStore(table_name, endpoint_url=choosy.url, client=client)
    assert await store.load(new_id(), now=0) is None
    write(credentials, "wrong-now")
    forget(store)
    with pytest.raises(ConfigurationError, match=code):
        await store.load(new_id(), now=0)
    write(credentials, "right-again")
    await anyio.sleep(1.1)
    for _ in range(3):
        assert await store.load(new_id(), now=0) is None
    assert choosy.keys[-3:] == ["right-again"] * 3


def forget(store: DynamoDBStore) -> None:
    """Have the store use what the file says now."""
    transport: Any = store._calls._transport
    if hasattr(transport, "_boto3"):
        transport._credentials._found = None
        transport = transport._made_boto3
    transport._client = transport._session = None


@BOTH
async def test_a_key_that_stays_refused_is_read_once_a_second(
    choosy: Choosy, table_name: str, credentials: Path, client: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[float] = []
    load = CredentialResolver.load_credentials

    def look(resolver: CredentialResolver) -> Any:
        looked.append(time.monotonic())
        return load(resolver)

    write(credentials, "wrong")
    store = DynamoDBStore(table_name, endpoint_url=choosy.url, client=client)
    monkeypatch.setattr(CredentialResolver, "load_credentials", look)
    begun = time.monotonic()
    while time.monotonic() - begun < 2.5:
        with pytest.raises((ConfigurationError, StoreUnavailable)):
            await store.load(new_id(), now=0)
    assert 1 <= len(looked) <= 3


@BOTH
async def test_a_role_is_taken_in_the_stores_region_and_once(
    choosy: Choosy, moto_url: str, table_name: str, tmp_path: Path, client: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No variable names a region, and the role's token service has an address of its own."""
    there = DynamoDBStore(table_name, region_name="eu-west-1", endpoint_url=moto_url, create_table=True)
    assert there.probe()
    token, config = tmp_path / "token", tmp_path / "config"
    token.write_text("a-token")
    config.write_text(f"[default]\nrole_arn = arn:aws:iam::123456789012:role/app\nweb_identity_token_file = {token}\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", moto_url)
    looked: list[int] = []
    load = CredentialResolver.load_credentials

    def look(resolver: CredentialResolver) -> Any:
        looked.append(1)
        return load(resolver)

    monkeypatch.setattr(CredentialResolver, "load_credentials", look)
    store = DynamoDBStore(table_name, region_name="eu-west-1", endpoint_url=choosy.url, client=client)
    await store.load(new_id(), now=0)
    assert all("/eu-west-1/dynamodb/" in sent for sent in choosy.authorizations)
    assert len(looked) == 1


@pytest.mark.parametrize("fallback", ["memory", "error"])
def test_under_trio_the_server_is_told_when_it_starts(moto_url: str, table_name: str, fallback: Any) -> None:
    store = DynamoDBStore(table_name, endpoint_url=moto_url, create_table=True, client="async")

    async def never(*_: Any) -> None:
        raise AssertionError("the app is not to start")

    app = DynamoDBSessionMiddleware(never, KEY, store=store, fallback=fallback)
    sent: list[Message] = []

    async def start() -> None:
        async def receive() -> Message:
            return {"type": "lifespan.startup"}

        async def send(message: Message) -> None:
            sent.append(message)

        await app({"type": "lifespan"}, receive, send)

    anyio.run(start, backend="trio")
    assert [message["type"] for message in sent] == ["lifespan.startup.failed"]
    assert "asyncio" in sent[0]["message"]
