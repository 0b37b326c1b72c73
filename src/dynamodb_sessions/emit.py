"""What to deploy, as text: the table in four languages and the two IAM policies, all filled from `table.py`.

The table is as `terraform/` makes it by default: as `table.definition` says, with point-in-time recovery and deletion
protection. This module talks to nobody.
"""

import json
import shlex
from typing import Any

from dynamodb_sessions import table
from dynamodb_sessions.exceptions import ConfigurationError
from dynamodb_sessions.table import Target

ITEM_ACTIONS = ("GetItem", "PutItem", "UpdateItem", "DeleteItem")
"""What an app calls. TransactWriteItems has no permission of its own: it needs those of the writes in it."""

CONVERSATION_ACTIONS = (*ITEM_ACTIONS, "Query", "BatchWriteItem")
"""What an app calls on the table of its agents' conversations."""

OPERATOR_ACTIONS = ("Scan", "DescribeTable", "DescribeTimeToLive")
"""What the command line calls besides."""

_CDK_TYPES = {"S": "STRING", "N": "NUMBER", "B": "BINARY"}


def terraform(target: Target) -> str:
    """Return a Terraform configuration."""
    made = _production(target)
    keys = _keys(made["KeySchema"])
    blocks = [_block("attribute", {"name": name, "type": type_}) for name, type_ in _types(made).items()]
    for index in made["GlobalSecondaryIndexes"]:
        projection = {"projection_type": index["Projection"]["ProjectionType"]}
        blocks.append(
            _block("global_secondary_index", {"name": index["IndexName"]} | _keys(index["KeySchema"]) | projection)
        )
    blocks.append(_block("ttl", {"attribute_name": table.TTL, "enabled": True}))
    blocks.append(_block("point_in_time_recovery", {"enabled": True}))
    arguments = {
        "name": target.table_name,
        "billing_mode": made["BillingMode"],
        **keys,
        "deletion_protection_enabled": made["DeletionProtectionEnabled"],
    }
    name = "conversations" if target.conversations else "sessions"
    resource = _block(f'resource "aws_dynamodb_table" "{name}"', arguments, *blocks)
    region = "" if target.region_name is None else _block('provider "aws"', {"region": target.region_name}) + "\n"
    return f"{_TERRAFORM}\n{region}{resource}"


def cloudformation(target: Target) -> str:
    """Return a CloudFormation template, in JSON."""
    properties = _production(target) | {
        "TimeToLiveSpecification": table.time_to_live(),
        "PointInTimeRecoverySpecification": {"PointInTimeRecoveryEnabled": True},
    }
    template = {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": "The table of dynamodb-sessions",
        "Resources": {
            "Conversations" if target.conversations else "Sessions": {
                "Type": "AWS::DynamoDB::Table",
                "DeletionPolicy": "Retain",
                "UpdateReplacePolicy": "Retain",
                "Properties": properties,
            }
        },
    }
    return json.dumps(template, indent=2) + "\n"


def cdk(target: Target) -> str:
    """Return a CDK app, in Python."""
    made = _production(target)
    types = _types(made)
    (index,) = made["GlobalSecondaryIndexes"]

    def attribute(name: str) -> str:
        return f"dynamodb.Attribute(name={_quote(name)}, type=dynamodb.AttributeType.{_CDK_TYPES[types[name]]})"

    keys, index_keys = _keys(made["KeySchema"]), _keys(index["KeySchema"])
    return _CDK.format(
        environment="" if target.region_name is None else f", env=Environment(region={_quote(target.region_name)})",
        imports="App, RemovalPolicy, Stack" if target.region_name is None else "App, Environment, RemovalPolicy, Stack",
        table_name=_quote(target.table_name),
        partition_key=attribute(keys["hash_key"]),
        sort_key=f"\n    sort_key={attribute(keys['range_key'])}," if target.conversations else "",
        stack="Conversations" if target.conversations else "Sessions",
        billing_mode=made["BillingMode"],
        ttl=_quote(table.TTL),
        index_name=_quote(index["IndexName"]),
        index_partition_key=attribute(index_keys["hash_key"]),
        index_sort_key=attribute(index_keys["range_key"]),
        projection_type=index["Projection"]["ProjectionType"],
    )


def cli(target: Target) -> str:
    """Return commands of the AWS CLI, one a line."""
    recovery = "PointInTimeRecoveryEnabled=true"
    commands = [
        _aws(target, "create-table", "--cli-input-json", json.dumps(_production(target)), named=False),
        _aws(target, "wait", "table-exists"),
        enable_time_to_live(target),
        _aws(target, "update-continuous-backups", "--point-in-time-recovery-specification", recovery),
    ]
    return "\n".join(commands) + "\n"


def iam(target: Target, *, operator: bool = False) -> str:
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
            _allow("OwnerIndex", ("Query",), f"{arn}/index/{table.OWNER_INDEX}"),
        ],
    }
    return json.dumps(policy, indent=2) + "\n"


def enable_time_to_live(target: Target, *, enabled: bool = True, attribute: str = table.TTL) -> str:
    """Return the command that turns TTL on, or off, for an attribute."""
    specification = f"Enabled={str(enabled).lower()},AttributeName={attribute}"
    return _aws(target, "update-time-to-live", "--time-to-live-specification", specification)


def add_index(target: Target) -> str:
    """Return the command that adds the index to a table without it."""
    made = table.definition(target.table_name, conversations=target.conversations)
    (index,) = made["GlobalSecondaryIndexes"]
    needed = {key["AttributeName"] for key in (*made["KeySchema"], *index["KeySchema"])}
    request = {
        "TableName": target.table_name,
        "AttributeDefinitions": [each for each in made["AttributeDefinitions"] if each["AttributeName"] in needed],
        "GlobalSecondaryIndexUpdates": [{"Create": index}],
    }
    return _aws(target, "update-table", "--cli-input-json", json.dumps(request), named=False)


FORMS = {"terraform": terraform, "cloudformation": cloudformation, "cdk": cdk, "cli": cli}


def _production(target: Target) -> dict[str, Any]:
    """Return the parameters of CreateTable for a table that people rely on."""
    if target.table_name.startswith("arn:"):
        raise ConfigurationError("a table is made by its name: give --table a name, not an ARN")
    return table.definition(target.table_name, conversations=target.conversations) | {"DeletionProtectionEnabled": True}


def _types(made: dict[str, Any]) -> dict[str, str]:
    return {each["AttributeName"]: each["AttributeType"] for each in made["AttributeDefinitions"]}


def _keys(schema: list[dict[str, str]]) -> dict[str, str]:
    return {f"{key['KeyType'].lower()}_key": key["AttributeName"] for key in schema}


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


def _aws(target: Target, operation: str, *arguments: str, named: bool = True) -> str:
    words = ["aws", "dynamodb", operation, *arguments]
    if named:
        words += ["--table-name", target.table_name]
    if target.region_name is not None:
        words += ["--region", target.region_name]
    if target.endpoint_url is not None:
        words += ["--endpoint-url", target.endpoint_url]
    return shlex.join(words)


def _quote(text: str) -> str:
    """Return a string literal, in Python as in HCL: the names a Target may have hold neither quotes nor templates."""
    return json.dumps(text)


def _block(head: str, arguments: dict[str, str | bool], *blocks: str) -> str:
    """Return a block of HCL, laid out as `terraform fmt` has it."""
    width = max(map(len, arguments))
    body = "".join(f"{name:{width}} = {json.dumps(value)}\n" for name, value in arguments.items())
    body += "".join(f"\n{block}" for block in blocks)
    indented = "".join(f"  {line}" if line.strip() else line for line in body.splitlines(keepends=True))
    return f"{head} {{\n{indented}}}\n"


_TERRAFORM = """\
terraform {
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}
"""

_CDK = """\
from aws_cdk import {imports}
from aws_cdk import aws_dynamodb as dynamodb

app = App()
stack = Stack(app, "{stack}"{environment})
table = dynamodb.Table(
    stack,
    "Table",
    table_name={table_name},
    partition_key={partition_key},{sort_key}
    billing_mode=dynamodb.BillingMode.{billing_mode},
    time_to_live_attribute={ttl},
    point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
        point_in_time_recovery_enabled=True
    ),
    deletion_protection=True,
    removal_policy=RemovalPolicy.RETAIN,
)
table.add_global_secondary_index(
    index_name={index_name},
    partition_key={index_partition_key},
    sort_key={index_sort_key},
    projection_type=dynamodb.ProjectionType.{projection_type},
)
app.synth()
"""
