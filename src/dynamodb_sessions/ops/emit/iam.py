"""The two IAM policies: of the app's role, and of an operator's."""

import json
from typing import Any

from dynamodb_sessions.ops.target import Target
from dynamodb_sessions.stores import table_schema

ITEM_ACTIONS = ("GetItem", "PutItem", "UpdateItem", "DeleteItem")
"""What an app calls. TransactWriteItems has no permission of its own: it needs those of the writes in it."""

CONVERSATION_ACTIONS = (*ITEM_ACTIONS, "Query", "BatchWriteItem")
"""What an app calls on the table of its agents' conversations."""

OPERATOR_ACTIONS = ("Scan", "DescribeTable", "DescribeTimeToLive")
"""What the command line calls besides."""


def render(target: Target, *, operator: bool = False) -> str:
    """Return the policy of the app's role, or of an operator's: the least that works."""
    arn = _arn(target)
    item_actions = CONVERSATION_ACTIONS if target.conversations else ITEM_ACTIONS
    policy = {
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
    return json.dumps(policy, indent=2) + "\n"


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
