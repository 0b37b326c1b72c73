"""Commands of the AWS CLI: that make the table, and that fix one."""

import json
import shlex

from dynamodb_sessions.ops.emit.table_parameters import production
from dynamodb_sessions.ops.target import Target
from dynamodb_sessions.stores import table_schema


def render(target: Target) -> str:
    """Return commands of the AWS CLI, one a line."""
    commands = [
        _aws(target, "create-table", "--cli-input-json", json.dumps(production(target)), named=False),
        _aws(target, "wait", "table-exists"),
        enable_time_to_live(target),
        enable_recovery(target),
    ]
    return "\n".join(commands) + "\n"


def enable_time_to_live(target: Target, *, enabled: bool = True, attribute: str = table_schema.TTL) -> str:
    """Return the command that turns TTL on, or off, for an attribute."""
    specification = f"Enabled={str(enabled).lower()},AttributeName={attribute}"
    return _aws(target, "update-time-to-live", "--time-to-live-specification", specification)


def enable_recovery(target: Target) -> str:
    """Return the command that turns point-in-time recovery on."""
    recovery = "PointInTimeRecoveryEnabled=true"
    return _aws(target, "update-continuous-backups", "--point-in-time-recovery-specification", recovery)


def protect(target: Target) -> str:
    """Return the command that turns deletion protection on."""
    return _aws(target, "update-table", "--deletion-protection-enabled")


def add_index(target: Target, name: str = table_schema.OWNER_INDEX) -> str:
    """Return the command that adds the index of this name to a table without it."""
    made = table_schema.definition(target.table_name, conversations=target.conversations, tenants=True)
    index = table_schema.index_of(made, name)
    needed = {key["AttributeName"] for key in (*made["KeySchema"], *index["KeySchema"])}
    request = {
        "TableName": target.table_name,
        "AttributeDefinitions": [each for each in made["AttributeDefinitions"] if each["AttributeName"] in needed],
        "GlobalSecondaryIndexUpdates": [{"Create": index}],
    }
    return _aws(target, "update-table", "--cli-input-json", json.dumps(request), named=False)


def _aws(target: Target, operation: str, *arguments: str, named: bool = True) -> str:
    words = ["aws", "dynamodb", operation, *arguments]
    if named:
        words += ["--table-name", target.table_name]
    if target.region_name is not None:
        words += ["--region", target.region_name]
    if target.endpoint_url is not None:
        words += ["--endpoint-url", target.endpoint_url]
    return shlex.join(words)
