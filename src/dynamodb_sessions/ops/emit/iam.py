"""The two IAM policies: of the app's role, and of an operator's."""

import json
import re
from collections.abc import Callable
from typing import Any

from dynamodb_sessions.exceptions import ConfigurationError
from dynamodb_sessions.ops.target import Target
from dynamodb_sessions.stores import table_schema

ITEM_ACTIONS = ("GetItem", "PutItem", "UpdateItem", "DeleteItem")
"""What an app calls. TransactWriteItems has no permission of its own: it needs those of the writes in it."""

CONVERSATION_ACTIONS = (*ITEM_ACTIONS, "Query", "BatchWriteItem")
"""What an app calls on the table of its agents' conversations."""

OPERATOR_ACTIONS = ("Scan", "BatchGetItem", "DescribeTable", "DescribeTimeToLive", "DescribeContinuousBackups")
"""What the command line calls besides."""

KEY_ACTIONS = ("Encrypt", "Decrypt", "ReEncrypt*", "GenerateDataKey*", "DescribeKey")
"""What DynamoDB calls in the name of whoever calls DynamoDB, where the table has a customer managed key.

AWS lists CreateGrant too: it is needed by whoever creates the table.
Source: https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/encryption.usagenotes.html
"""

_KEY_ARN = re.compile(r"arn:(aws[a-z-]*):kms:[a-z0-9-]+:[0-9]{12}:key/[\w-]+", re.ASCII)
_DOMAINS = {"aws-cn": "amazonaws.com.cn"}
"""By which services call KMS, where it is not amazonaws.com. GovCloud has that one too.

Source: the endpoints of DynamoDB, https://docs.amazonaws.cn/en_us/aws/latest/userguide/endpoints-Beijing.html
"""


def render(target: Target, *, operator: bool = False, kms_key: str | None = None) -> str:
    """Return the policy of the app's role, or of an operator's: the least that works.

    `kms_key` is the ARN of the table's customer managed key, if it has one. Raises ConfigurationError for what is no
    ARN of a key.
    """
    key = _KEY_ARN.fullmatch(kms_key or "")
    if kms_key is not None and key is None:
        raise ConfigurationError("a policy names a key by its ARN, arn:aws:kms:REGION:ACCOUNT:key/ID, not its alias")
    arn = _arn(target, "aws" if key is None else key[1])
    policy = document(target, arn, lambda index: f"{arn}/index/{index}", operator=operator)
    if key is not None:
        policy["Statement"].append(key_statement(kms_key, _DOMAINS.get(key[1], "amazonaws.com")))
    return json.dumps(policy, indent=2) + "\n"


def document(target: Target, table: Any, index: Callable[[str], Any], *, operator: bool = False) -> dict[str, Any]:
    """Return a policy for a table and its indexes: their ARNs, or what a template has in place of them."""
    item_actions = CONVERSATION_ACTIONS if target.conversations else ITEM_ACTIONS
    return {
        "Version": "2012-10-17",
        "Statement": [
            _allow(
                "Conversations" if target.conversations else "Sessions",
                item_actions + OPERATOR_ACTIONS if operator else item_actions,
                [table],
            ),
            _allow("OwnerIndex", ("Query",), [index(table_schema.OWNER_INDEX)]),
            *([_allow("TenantIndex", ("Query",), [index(table_schema.TENANT_INDEX)])] if target.tenants else []),
        ],
    }


def key_statement(key: Any, domain: str) -> dict[str, Any]:
    """Return the statement for a table's own key, which lets it be used through DynamoDB only.

    The region is a wildcard because the replicas of a global table have keys of their own.
    """
    return _allow("TableKey", KEY_ACTIONS, [key], service="kms") | {
        "Condition": {"StringLike": {"kms:ViaService": f"dynamodb.*.{domain}"}}
    }


def _allow(sid: str, actions: tuple[str, ...], resources: list[Any], *, service: str = "dynamodb") -> dict[str, Any]:
    return {
        "Sid": sid,
        "Effect": "Allow",
        "Action": [f"{service}:{action}" for action in actions],
        "Resource": resources,
    }


def _arn(target: Target, partition: str) -> str:
    """Return the table's ARN. `partition`: where the region does not tell it."""
    if target.table_name.startswith("arn:"):
        return target.table_name
    region = target.region_name or "*"
    partition = {"cn": "aws-cn", "us-gov": "aws-us-gov"}.get(region.rsplit("-", 2)[0], partition)
    return f"arn:{partition}:dynamodb:{region}:*:table/{target.table_name}"
