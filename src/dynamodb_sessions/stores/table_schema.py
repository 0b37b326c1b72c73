"""The tables' one definition, and their creation for development. Production deploys what `emit.py` makes of it.

There are two kinds: of sessions, one item each, and of agents' conversations, one item a message.
"""

import contextlib
import time
from typing import Any

KEY = "session_id"
TTL = "ttl"
OWNER_INDEX = "owner-index"
TENANT_INDEX = "tenant-index"
"""The index that only those make who bind sessions to tenants."""
POSITION = "position"
"""The sort key of conversations: of a conversation's head 0, of its messages a number that grows."""

_POLL_SECONDS = 0.25
_POLLS = 240


def definition(table_name: str, *, conversations: bool = False, tenants: bool = False) -> dict[str, Any]:
    """Return the parameters of CreateTable. `tenants`: with the index that finds the sessions of a tenant."""
    keys, attributes = [{"AttributeName": KEY, "KeyType": "HASH"}], [{"AttributeName": KEY, "AttributeType": "S"}]
    if conversations:
        keys.append({"AttributeName": POSITION, "KeyType": "RANGE"})
        attributes.append({"AttributeName": POSITION, "AttributeType": "N"})
    return {
        "TableName": table_name,
        "KeySchema": keys,
        "AttributeDefinitions": [
            *attributes,
            {"AttributeName": "owner", "AttributeType": "S"},
            {"AttributeName": "created_at", "AttributeType": "N"},
            *([{"AttributeName": "tenant", "AttributeType": "S"}] if tenants else []),
        ],
        "BillingMode": "PAY_PER_REQUEST",
        "GlobalSecondaryIndexes": [
            _index(OWNER_INDEX, "owner", "created_at"),
            *([_index(TENANT_INDEX, "tenant", "owner")] if tenants else []),
        ],
    }


def _index(name: str, hash_key: str, range_key: str) -> dict[str, Any]:
    return {
        "IndexName": name,
        "KeySchema": [
            {"AttributeName": hash_key, "KeyType": "HASH"},
            {"AttributeName": range_key, "KeyType": "RANGE"},
        ],
        # No attribute that changes: a touch must not rewrite the index.
        "Projection": {"ProjectionType": "KEYS_ONLY"},
    }


def index_of(made: dict[str, Any], name: str) -> Any:
    """Return the index of this name that a table, or its definition, has; None: it has none."""
    return next((each for each in made.get("GlobalSecondaryIndexes", ()) if each["IndexName"] == name), None)


def time_to_live() -> dict[str, Any]:
    """Return the TimeToLiveSpecification of UpdateTimeToLive."""
    return {"Enabled": True, "AttributeName": TTL}


def of_owner(owner: str) -> dict[str, Any]:
    """Return the parameters of a Query for what the index has of an owner."""
    return _of(OWNER_INDEX, "owner", owner)


def of_tenant(tenant: str) -> dict[str, Any]:
    """Return the parameters of a Query for what the index has of a tenant."""
    return _of(TENANT_INDEX, "tenant", tenant)


def _of(index: str, hash_key: str, value: str) -> dict[str, Any]:
    return {
        "IndexName": index,
        "KeyConditionExpression": "#o = :o",
        "ExpressionAttributeNames": {"#o": hash_key},
        "ExpressionAttributeValues": {":o": {"S": value}},
    }


def create(client: Any, table_name: str, *, conversations: bool = False, tenants: bool = False) -> None:
    """Create the table with its TTL if it does not exist, and wait until it can be used.

    Others may do the same at the same time. Raises what the client raises, and TimeoutError after a minute.
    """
    with contextlib.suppress(client.exceptions.ResourceInUseException):  # Another worker was first.
        client.create_table(**definition(table_name, conversations=conversations, tenants=tenants))
    for _ in range(_POLLS):
        if client.describe_table(TableName=table_name)["Table"]["TableStatus"] == "ACTIVE":
            break
        time.sleep(_POLL_SECONDS)
    else:
        raise TimeoutError("the table did not become active within a minute")
    status = client.describe_time_to_live(TableName=table_name)["TimeToLiveDescription"]["TimeToLiveStatus"]
    if status == "DISABLED":
        client.update_time_to_live(TableName=table_name, TimeToLiveSpecification=time_to_live())
