"""The table as a CDK app, in Python."""

import json
from typing import Any

from dynamodb_sessions.ops.emit.table_parameters import attribute_types, key_names, production
from dynamodb_sessions.ops.target import Target
from dynamodb_sessions.stores import table_schema

_CDK_TYPES = {"S": "STRING", "N": "NUMBER", "B": "BINARY"}


def render(target: Target) -> str:
    """Return a CDK app, in Python."""
    made = production(target)
    types = attribute_types(made)

    def attribute(name: str) -> str:
        return f"dynamodb.Attribute(name={_quote(name)}, type=dynamodb.AttributeType.{_CDK_TYPES[types[name]]})"

    def index(each: dict[str, Any]) -> str:
        keys = key_names(each["KeySchema"])
        return _INDEX.format(
            name=_quote(each["IndexName"]),
            partition_key=attribute(keys["hash_key"]),
            sort_key=attribute(keys["range_key"]),
            projection_type=each["Projection"]["ProjectionType"],
        )

    keys = key_names(made["KeySchema"])
    return _CDK.format(
        environment="" if target.region_name is None else f", env=Environment(region={_quote(target.region_name)})",
        imports="App, RemovalPolicy, Stack" if target.region_name is None else "App, Environment, RemovalPolicy, Stack",
        table_name=_quote(target.table_name),
        partition_key=attribute(keys["hash_key"]),
        sort_key=f"\n    sort_key={attribute(keys['range_key'])}," if target.conversations else "",
        stack="Conversations" if target.conversations else "Sessions",
        billing_mode=made["BillingMode"],
        ttl=_quote(table_schema.TTL),
        indexes="".join(map(index, made["GlobalSecondaryIndexes"])),
    )


def _quote(text: str) -> str:
    """Return a string literal, in Python as in HCL: the names a Target may have hold neither quotes nor templates."""
    return json.dumps(text)


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
{indexes}app.synth()
"""

_INDEX = """\
table.add_global_secondary_index(
    index_name={name},
    partition_key={partition_key},
    sort_key={sort_key},
    projection_type=dynamodb.ProjectionType.{projection_type},
)
"""
