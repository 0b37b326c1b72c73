"""What the lower bounds in pyproject.toml are for. `.ci/run` runs this with the oldest releases they allow."""

import time
from collections.abc import Iterator

import pytest

from dynamodb_sessions import DynamoDBStore
from dynamodb_sessions.aws.errors import OutcomeUnknown
from dynamodb_sessions.identifiers import new_id
from tests.helpers.proxy import How, Proxy, Step

pytestmark = pytest.mark.anyio


@pytest.fixture
def proxy(moto_url: str) -> Iterator[Proxy]:
    made = Proxy(moto_url)
    yield made
    made.close()


@pytest.mark.parametrize("client", [None, "async"])
async def test_the_endpoint_is_where_botos_variable_says(
    client: str | None, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", proxy.url)
    await DynamoDBStore("sessions", client=client).health()
    assert proxy.requests == ["GetItem"]


@pytest.mark.parametrize("mode", ["legacy", "standard", "adaptive"])
async def test_our_client_makes_one_attempt_whatever_the_environment_says(
    mode: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`total_max_attempts` counts the first one too; botocore's other setting counts what comes after it."""
    monkeypatch.setenv("AWS_RETRY_MODE", mode)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "5")
    proxy.play("GetItem", rest=Step(How.ANOTHER))
    store = DynamoDBStore("sessions", endpoint_url=proxy.url)
    assert store.client.meta.config.retries == {"mode": "legacy", "total_max_attempts": 1}
    with pytest.raises(OutcomeUnknown):
        await store._calls._transport.call(
            "get_item", deadline=time.monotonic() + 5, TableName="sessions", Key={"session_id": {"S": new_id()}}
        )
    store.client.meta.events.unregister("needs-retry.dynamodb", unique_id="dynamodb-sessions-needs-retry")
    with pytest.raises(OutcomeUnknown):
        store._calls._transport.call_sync("get_item", TableName="sessions", Key={"session_id": {"S": new_id()}})
    assert proxy.requests == ["GetItem"] * 2
