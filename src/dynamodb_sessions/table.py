"""The tables' one definition, and their creation for development. Production deploys what `emit.py` makes of it.

There are two kinds: of sessions, one item each, and of agents' conversations, one item a message.
"""

import contextlib
import re
import shlex
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from dynamodb_sessions.exceptions import ConfigurationError

KEY = "session_id"
TTL = "ttl"
OWNER_INDEX = "owner-index"
POSITION = "position"
"""The sort key of conversations: of a conversation's head 0, of its messages a number that grows."""

_POLL_SECONDS = 0.25
_POLLS = 240
_NAME = re.compile(r"[a-zA-Z0-9_.-]{3,255}|arn:[a-zA-Z0-9:/_.-]{1,1020}")
_REGION = re.compile(r"[a-zA-Z0-9-]+")


@dataclass(frozen=True, slots=True)
class Target:
    """A table and where to look for it; None: where boto3 finds it. Raises ConfigurationError for what is no name."""

    table_name: str
    region_name: str | None = None
    endpoint_url: str | None = field(default=None, repr=False)
    conversations: bool = False

    def __post_init__(self) -> None:
        check_name(self.table_name)
        if self.region_name is not None and not _REGION.fullmatch(self.region_name):
            raise ConfigurationError(f"region={self.region_name!r} is not the name of an AWS region")
        if self.endpoint_url is not None and "@" in urlsplit(self.endpoint_url).netloc:
            raise ConfigurationError("an endpoint's address must hold neither a user's name nor a password")

    def command(self, name: str) -> str:
        """Return a command of ours about this table, as it is typed."""
        words = ["dynamodb-sessions", *name.split(), "--table", self.table_name]
        words += ["--region", self.region_name] if self.region_name is not None else []
        words += ["--endpoint-url", self.endpoint_url] if self.endpoint_url is not None else []
        words += ["--conversations"] if self.conversations else []
        return f"`{shlex.join(words)}`"


def check_name(table_name: object) -> None:
    """Raise ConfigurationError if it is no name of a table, and no ARN of one."""
    if not isinstance(table_name, str) or not _NAME.fullmatch(table_name):
        raise ConfigurationError(f"table_name={table_name!r} is not a DynamoDB table's name or ARN")


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
