"""The tables' one definition, and their creation for development. Production deploys what `emit.py` makes of it.

There are two kinds: of sessions, one item each, and of agents' conversations, one item a message.
"""

import contextlib
import time
from typing import Any

KEY = "session_id"
TTL = "ttl"
OWNER_INDEX = "owner-index"
POSITION = "position"
"""The sort key of conversations: of a conversation's head 0, of its messages a number that grows."""

_POLL_SECONDS = 0.25
_POLLS = 240


def definition(table_name: str, *, conversations: bool = False) -> dict[str, Any]:
    """Return the parameters of CreateTable."""
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
        ],
        "BillingMode": "PAY_PER_REQUEST",
        "GlobalSecondaryIndexes": [
            {
                "IndexName": OWNER_INDEX,
                "KeySchema": [
                    {"AttributeName": "owner", "KeyType": "HASH"},
                    {"AttributeName": "created_at", "KeyType": "RANGE"},
                ],
                # No attribute that changes: a touch must not rewrite the index.
                "Projection": {"ProjectionType": "KEYS_ONLY"},
            }
        ],
    }


def time_to_live() -> dict[str, Any]:
    """Return the TimeToLiveSpecification of UpdateTimeToLive."""
    return {"Enabled": True, "AttributeName": TTL}


def of_owner(owner: str) -> dict[str, Any]:
    """Return the parameters of a Query for what the index has of an owner."""
    return {
        "IndexName": OWNER_INDEX,
        "KeyConditionExpression": "#o = :o",
        "ExpressionAttributeNames": {"#o": "owner"},
        "ExpressionAttributeValues": {":o": {"S": owner}},
    }


def create(client: Any, table_name: str, *, conversations: bool = False) -> None:
    """Create the table with its TTL if it does not exist, and wait until it can be used.

    Others may do the same at the same time. Raises what the client raises, and TimeoutError after a minute.
    """
    with contextlib.suppress(client.exceptions.ResourceInUseException):  # Another worker was first.
        client.create_table(**definition(table_name, conversations=conversations))
    for _ in range(_POLLS):
        if client.describe_table(TableName=table_name)["Table"]["TableStatus"] == "ACTIVE":
            break
        time.sleep(_POLL_SECONDS)
    else:
        raise TimeoutError("the table did not become active within a minute")
    status = client.describe_time_to_live(TableName=table_name)["TimeToLiveDescription"]["TimeToLiveStatus"]
    if status == "DISABLED":
        client.update_time_to_live(TableName=table_name, TimeToLiveSpecification=time_to_live())
