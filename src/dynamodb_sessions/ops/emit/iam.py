"""The two IAM policies: of the app's role, and of an operator's."""

import json
from typing import Any

from dynamodb_sessions.ops.target import Target
from dynamodb_sessions.stores import table_schema

ITEM_ACTIONS = ("GetItem", "PutItem", "UpdateItem", "DeleteItem")
"""What an app calls. TransactWriteItems has no permission of its own: it needs those of the writes in it."""

CONVERSATION_ACTIONS = (*ITEM_ACTIONS, "Query", "BatchWriteItem")
"""What an app calls on the table of its agents' conversations."""

OPERATOR_ACTIONS = ("Scan", "DescribeTable", "DescribeTimeToLive", "DescribeContinuousBackups")
"""What the command line calls besides."""


KEY_ACTIONS = ("Encrypt", "Decrypt", "ReEncrypt*", "GenerateDataKey*", "DescribeKey")
"""What DynamoDB does with a customer managed key in the name of whoever calls it.

Source: "DynamoDB encryption usage notes" in its developer guide; CreateGrant is for who creates the table.
"""


def render(target: Target, *, operator: bool = False, kms_key: str | None = None) -> str:
    """Return the policy of the app's role, or of an operator's: the least that works.

    `kms_key` is the ARN of the customer managed key that the table is encrypted with.
    """
    arn = _arn(target)
    item_actions = CONVERSATION_ACTIONS if target.conversations else ITEM_ACTIONS
    policy: dict[str, Any] = {
        "Version": "2012-10-17",
        "Statement": [
            _allow(
                "Conversations" if target.conversations else "Sessions",
                item_actions + OPERATOR_ACTIONS if operator else item_actions,
                arn,
            ),
            _allow("OwnerIndex", ("Query",), f"{arn}/index/{table_schema.OWNER_INDEX}"),
        ],
    }
    if kms_key is not None:
        policy["Statement"].append(_allow_key(kms_key))
    return json.dumps(policy, indent=2) + "\n"


def _allow_key(arn: str) -> dict[str, Any]:
    """Return the statement of the table's key: it can be used through DynamoDB only."""
    return {
        "Sid": "TableKey",
        "Effect": "Allow",
        "Action": [f"kms:{action}" for action in KEY_ACTIONS],
        "Resource": [arn],
        "Condition": {"StringLike": {"kms:ViaService": "dynamodb.*.amazonaws.com"}},
    }


def _allow(sid: str, actions: tuple[str, ...], resource: str) -> dict[str, Any]:
    return {
        "Sid": sid,
        "Effect": "Allow",
        "Action": [f"dynamodb:{action}" for action in actions],
        "Resource": [resource],
    }


def _arn(target: Target) -> str:
    if target.table_name.startswith("arn:"):
        return target.table_name
    region = target.region_name or "*"
    partition = {"cn": "aws-cn", "us-gov": "aws-us-gov"}.get(region.rsplit("-", 2)[0], "aws")
    return f"arn:{partition}:dynamodb:{region}:*:table/{target.table_name}"
