"""The table as a Terraform configuration."""

import json

from dynamodb_sessions.ops.emit.table_parameters import attribute_types, key_names, production
from dynamodb_sessions.ops.target import Target
from dynamodb_sessions.stores import table_schema


def render(target: Target) -> str:
    """Return a Terraform configuration."""
    made = production(target)
    keys = key_names(made["KeySchema"])
    blocks = [_block("attribute", {"name": name, "type": type_}) for name, type_ in attribute_types(made).items()]
    for index in made["GlobalSecondaryIndexes"]:
        projection = {"projection_type": index["Projection"]["ProjectionType"]}
        blocks.append(
            _block("global_secondary_index", {"name": index["IndexName"]} | key_names(index["KeySchema"]) | projection)
        )
    blocks.append(_block("ttl", {"attribute_name": table_schema.TTL, "enabled": True}))
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
