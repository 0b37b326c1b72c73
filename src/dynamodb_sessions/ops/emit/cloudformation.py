"""The table as a CloudFormation template."""

import json

from dynamodb_sessions.ops.emit.table_parameters import production
from dynamodb_sessions.ops.target import Target
from dynamodb_sessions.stores import table_schema


def render(target: Target) -> str:
    """Return a CloudFormation template, in JSON."""
    properties = production(target) | {
        "TimeToLiveSpecification": table_schema.time_to_live(),
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
