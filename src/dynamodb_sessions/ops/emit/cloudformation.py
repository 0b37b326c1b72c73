"""The table and the app's policy as a CloudFormation template."""

import json
from typing import Any

from dynamodb_sessions.ops.emit import iam
from dynamodb_sessions.ops.emit.table_parameters import production
from dynamodb_sessions.ops.target import Target
from dynamodb_sessions.stores import table_schema

AWS_OWNED_KEY = (
    "A key of one's own is the parameter KmsKeyArn. Without it the table is encrypted too, by a key AWS owns."
)


def render(target: Target) -> str:
    """Return a CloudFormation template, in JSON."""
    table = "Conversations" if target.conversations else "Sessions"
    template = {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": "The table of dynamodb-sessions, and the policy of the app that uses it",
        "Parameters": parameters(target),
        "Rules": RULES,
        "Conditions": CONDITIONS,
        "Resources": {
            table: table_resource(target),
            "AppPolicy": {
                "Type": "AWS::IAM::ManagedPolicy",
                "Properties": {
                    "Description": {"Fn::Sub": "What an app does with the table ${TableName}"},
                    "PolicyDocument": policy_document(target, table),
                },
            },
        },
        "Outputs": {
            **table_outputs(table),
            "PolicyArn": {
                "Description": "ARN of the policy to attach to the app's role",
                "Value": {"Ref": "AppPolicy"},
            },
        },
    }
    return json.dumps(template, indent=2) + "\n"


_WARM = [{"Fn::Not": [{"Fn::Equals": [{"Ref": name}, 0]}]} for name in ("WarmReadUnits", "WarmWriteUnits")]

CONDITIONS: dict[str, Any] = {
    "HasKey": {"Fn::Not": [{"Fn::Equals": [{"Ref": "KmsKeyArn"}, ""]}]},
    "IsWarm": {"Fn::And": _WARM},
}

RULES: dict[str, Any] = {
    "WarmUnits": {
        "RuleCondition": {"Fn::Or": _WARM},
        "Assertions": [
            {
                "Assert": {"Fn::And": _WARM},
                "AssertDescription": "Give both WarmReadUnits and WarmWriteUnits, or neither.",
            }
        ],
    }
}


def parameters(target: Target) -> dict[str, Any]:
    """Return what a stack may choose of its table."""
    return {
        "TableName": {
            "Type": "String",
            "Default": target.table_name,
            "AllowedPattern": "[a-zA-Z0-9_.-]{3,255}",
            "Description": "Name of the table",
        },
        "KmsKeyArn": {
            "Type": "String",
            "Default": "",
            "AllowedPattern": "(arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/.+)?",
            "Description": "ARN of a customer managed key. Empty: a key that AWS owns, at no cost",
        },
        "PointInTimeRecoveryDays": {
            "Type": "Number",
            "Default": 35,
            "MinValue": 1,
            "MaxValue": 35,
            "Description": "How many days back the table can be restored to",
        },
        "WarmReadUnits": {
            "Type": "Number",
            "Default": 0,
            "MinValue": 0,
            "Description": "Read units a second that the table takes at once: 12000 or more. 0: what DynamoDB sets",
        },
        "WarmWriteUnits": {
            "Type": "Number",
            "Default": 0,
            "MinValue": 0,
            "Description": "Write units a second that the table takes at once: 4000 or more. 0: what DynamoDB sets",
        },
    }


def table_resource(target: Target) -> dict[str, Any]:
    """Return the table, with the parameters of `parameters`."""
    return {
        "Type": "AWS::DynamoDB::Table",
        "DeletionPolicy": "Retain",
        "UpdateReplacePolicy": "Retain",
        "Metadata": {"checkov": {"skip": [{"id": "CKV_AWS_119", "comment": AWS_OWNED_KEY}]}},
        "Properties": production(target)
        | {
            "TableName": {"Ref": "TableName"},
            "TimeToLiveSpecification": table_schema.time_to_live(),
            "PointInTimeRecoverySpecification": {
                "PointInTimeRecoveryEnabled": True,
                "RecoveryPeriodInDays": {"Ref": "PointInTimeRecoveryDays"},
            },
            "SSESpecification": _if(
                "HasKey", {"SSEEnabled": True, "SSEType": "KMS", "KMSMasterKeyId": {"Ref": "KmsKeyArn"}}
            ),
            "WarmThroughput": _if(
                "IsWarm",
                {"ReadUnitsPerSecond": {"Ref": "WarmReadUnits"}, "WriteUnitsPerSecond": {"Ref": "WarmWriteUnits"}},
            ),
        },
    }


def policy_document(target: Target, table: str) -> dict[str, Any]:
    """Return the app's policy for the table that the template calls so."""
    policy = iam.document(
        target, {"Fn::GetAtt": [table, "Arn"]}, lambda index: {"Fn::Sub": f"${{{table}.Arn}}/index/{index}"}
    )
    key = iam.key_statement({"Ref": "KmsKeyArn"}, "${AWS::URLSuffix}")
    through = key["Condition"]["StringLike"]
    through["kms:ViaService"] = {"Fn::Sub": through["kms:ViaService"]}
    policy["Statement"].append(_if("HasKey", key))
    return policy


def table_outputs(table: str) -> dict[str, Any]:
    """Return what a stack tells of its table."""
    return {
        "TableName": {"Description": "Name of the table, for SESSION_TABLE_NAME", "Value": {"Ref": table}},
        "TableArn": {"Description": "ARN of the table", "Value": {"Fn::GetAtt": [table, "Arn"]}},
    }


def _if(condition: str, value: Any) -> dict[str, Any]:
    return {"Fn::If": [condition, value, {"Ref": "AWS::NoValue"}]}
