"""What the suites of faults ask for: an engine, a proxy in front of it, and a table."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import boto3
import pytest

from dynamodb_sessions.stores import table_schema
from tests.helpers import aiobotocore_clients
from tests.helpers.aiobotocore_clients import Connect
from tests.helpers.proxy import Proxy


@pytest.fixture(scope="module", params=["boto3", "async", *aiobotocore_clients.IF_INSTALLED])
def transport(request: pytest.FixtureRequest) -> str:
    """What calls DynamoDB: each test that asks runs once for every kind."""
    return str(request.param)


@pytest.fixture(scope="module")
async def connect(transport: str) -> AsyncIterator[Connect]:
    """Return a function that makes what a store takes as `client`, for an endpoint."""
    async with aiobotocore_clients.connecting(transport) as connect:
        yield connect


@pytest.fixture(scope="module")
def engine_client(dynamodb_local_url: str) -> Any:
    """A client of the engine that nothing comes between."""
    return boto3.client("dynamodb", endpoint_url=dynamodb_local_url, region_name="us-east-1")


@pytest.fixture(scope="module")
def proxy(dynamodb_local_url: str) -> Iterator[Proxy]:
    made = Proxy(dynamodb_local_url)
    yield made
    made.close()


@pytest.fixture
def faulty(proxy: Proxy) -> Iterator[Proxy]:
    """The proxy for one test: what it breaks in it, it does not break in the next."""
    yield proxy
    proxy.heal()
    failures, proxy.failures = proxy.failures, []
    assert not failures


@pytest.fixture
def own_table(engine_client: Any, table_name: str) -> str:
    table_schema.create(engine_client, table_name)
    return table_name
