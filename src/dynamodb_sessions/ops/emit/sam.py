"""The Lambda example with its table, as a template of AWS SAM: function, HTTP API, log group, table and policy."""

import json

from dynamodb_sessions.exceptions import ConfigurationError
from dynamodb_sessions.ops.emit import cloudformation
from dynamodb_sessions.ops.target import Target

_TABLE = "Sessions"
_READ_KEY = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Sid": "SecretKey",
            "Effect": "Allow",
            "Action": ["ssm:GetParameter"],
            "Resource": [
                {"Fn::Sub": "arn:${AWS::Partition}:ssm:${AWS::Region}:${AWS::AccountId}:parameter${SecretKeyParameter}"}
            ],
        }
    ],
}
_LEFT_OPEN = {
    "Logs": {
        "CKV_AWS_158": "The log holds no session, id or cookie: CloudWatch's own encryption is enough.",
        "CKV_AWS_338": "30 days are for finding faults. Who has to keep logs longer sets RetentionInDays.",
    },
    "Function": {
        "CKV_AWS_50": "X-Ray is paid for by the trace, and needs its SDK to tell more than the log does.",
        "CKV_AWS_115": "The account's limit holds: a limit of this function's own turns visitors away.",
        "CKV_AWS_116": "It is called synchronously, so nothing would ever be in a dead-letter queue.",
        "CKV_AWS_117": "DynamoDB and Parameter Store are reached by TLS and IAM: a VPC adds nothing but cost.",
        "CKV_AWS_173": "The variables hold names, no secret: the key itself is in Parameter Store.",
    },
    "Api": {"CKV_AWS_95": "The function sees every request, and has a log: access logs are for who wants them too."},
}
"""What checkov asks for, by resource, that the template leaves to its owner, and why."""


def render(target: Target) -> str:
    """Return a template of AWS SAM, in JSON."""
    if target.conversations:
        raise ConfigurationError("emit sam is about the Lambda example, which has sessions: leave --conversations out")
    template = {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Transform": "AWS::Serverless-2016-10-31",
        "Description": "An app on Lambda with its sessions in DynamoDB",
        "Parameters": cloudformation.parameters(target)
        | {
            "SecretKeyParameter": {
                "Type": "String",
                "Default": f"/{target.table_name}/session-secret-key",
                "AllowedPattern": "/[a-zA-Z0-9_.-]+(/[a-zA-Z0-9_.-]+)*",
                "Description": "Name of the SecureString in Parameter Store that signs the cookies",
            }
        },
        "Rules": cloudformation.RULES,
        "Conditions": cloudformation.CONDITIONS,
        "Resources": {
            _TABLE: cloudformation.table_resource(target),
            "Logs": {
                "Type": "AWS::Logs::LogGroup",
                "DeletionPolicy": "Delete",
                "UpdateReplacePolicy": "Delete",
                "Properties": {"RetentionInDays": 30},
            },
            "Function": {
                "Type": "AWS::Serverless::Function",
                "Properties": {
                    "CodeUri": "function.zip",
                    "Handler": "app.handler",
                    "Runtime": "python3.13",
                    "Architectures": ["arm64"],
                    "MemorySize": 512,
                    "Timeout": 15,
                    "LoggingConfig": {"LogGroup": {"Ref": "Logs"}},
                    "Environment": {
                        "Variables": {
                            "USE_DYNAMODB_SESSIONS": "true",
                            "SESSION_TABLE_NAME": {"Ref": _TABLE},
                            "SESSION_SECRET_KEY_PARAMETER": {"Ref": "SecretKeyParameter"},
                        }
                    },
                    "Policies": [
                        cloudformation.policy_document(target, _TABLE),
                        _READ_KEY,
                    ],
                    "Events": {"Requests": {"Type": "HttpApi", "Properties": {"ApiId": {"Ref": "Api"}}}},
                },
            },
            "Api": {"Type": "AWS::Serverless::HttpApi", "Properties": {"StageName": "$default"}},
        },
        "Outputs": {
            **cloudformation.table_outputs(_TABLE),
            "Url": {"Description": "Where it answers", "Value": {"Fn::GetAtt": ["Api", "ApiEndpoint"]}},
        },
    }
    for name, reasons in _LEFT_OPEN.items():
        skip = [{"id": check, "comment": reason} for check, reason in reasons.items()]
        template["Resources"][name]["Metadata"] = {"checkov": {"skip": skip}}  # type: ignore[index]
    return json.dumps(template, indent=2) + "\n"
