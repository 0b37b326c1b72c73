"""The parameters of a table that people rely on, and what the forms read off them."""

from typing import Any

from dynamodb_sessions.exceptions import ConfigurationError
from dynamodb_sessions.ops.target import Target
from dynamodb_sessions.stores import table_schema


def production(target: Target) -> dict[str, Any]:
    """Return the parameters of CreateTable for a table that people rely on."""
    if target.table_name.startswith("arn:"):
        raise ConfigurationError("a table is made by its name: give --table a name, not an ARN")
    made = table_schema.definition(target.table_name, conversations=target.conversations, tenants=target.tenants)
    return made | {"DeletionProtectionEnabled": True}


def attribute_types(made: dict[str, Any]) -> dict[str, str]:
    return {each["AttributeName"]: each["AttributeType"] for each in made["AttributeDefinitions"]}


def key_names(schema: list[dict[str, str]]) -> dict[str, str]:
    return {f"{key['KeyType'].lower()}_key": key["AttributeName"] for key in schema}
