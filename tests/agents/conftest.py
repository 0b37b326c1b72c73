"""Conversations on DynamoDB Local, by both transports."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import boto3
import pytest

from dynamodb_sessions.agents import Conversation, DynamoDBConversation, tables
from dynamodb_sessions.agents import conversation as conversation_module
from dynamodb_sessions.stores import table_schema
from tests.conftest import Clock

Converse = Callable[..., DynamoDBConversation]


@pytest.fixture(params=["local", "async"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(endpoint_url: str, table_name: str) -> Any:
    made = boto3.client("dynamodb", endpoint_url=endpoint_url, region_name="us-east-1")
    table_schema.create(made, table_name, conversations=True, tenants=True)
    return made


@pytest.fixture
def converse(given_client: Any, client: Any, table_name: str) -> Converse:
    def converse(session_id: str = "chat", **options: Any) -> DynamoDBConversation:
        options.setdefault("endpoint_url", client.meta.endpoint_url)
        options.setdefault("client", given_client)
        return DynamoDBConversation(session_id, table_name, **options)

    return converse


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that runs much else, too, a use that is due is written down."""
    monkeypatch.setattr(conversation_module, "_USE_TIMEOUT", 20.0)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have operations of the test's conversations fail as soon as two seconds have brought nothing."""
    monkeypatch.setattr(tables, "TIMEOUT", 2.0)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Clock:
    stopped = Clock(1_800_000_000)
    monkeypatch.setattr(conversation_module, "wall_clock", stopped)
    return stopped


@pytest.fixture
def items(client: Any, table_name: str) -> Callable[[], list[dict[str, Any]]]:
    def scan() -> list[dict[str, Any]]:
        pages = client.get_paginator("scan").paginate(TableName=table_name, ConsistentRead=True)
        return [item for page in pages for item in page["Items"]]

    return scan


def said(text: str, role: str = "user") -> dict[str, str]:
    return {"role": role, "content": text}


async def of_tenant(converse: Converse, tenant: str) -> AsyncIterator[Conversation]:
    place = converse()._calls
    url = place.client.meta.endpoint_url
    async for found in DynamoDBConversation.of_tenant(tenant, place.table_name, endpoint_url=url):
        yield found


async def listed(converse: Converse, owner: str) -> AsyncIterator[Conversation]:
    place = converse()._calls
    url = place.client.meta.endpoint_url
    async for found in DynamoDBConversation.of_owner(owner, place.table_name, endpoint_url=url):
        yield found
