"""What is printed to be deployed is deployed here, and makes the table that the package defines."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import boto3
import pytest

from dynamodb_sessions.exceptions import ConfigurationError
from dynamodb_sessions.ops import cli, doctor
from dynamodb_sessions.ops.emit import FORMS, aws_cli, iam
from dynamodb_sessions.ops.target import Target
from dynamodb_sessions.stores import table_schema
from tests.conftest import TERRAFORM

KMS_KEY = "arn:aws:kms:us-east-1:123456789012:key/0f1e2d3c-0000-0000-0000-000000000000"
MODULE = Path(__file__).parent.parent.parent / "terraform"

PROVIDER = """
provider "aws" {{
  access_key                  = "testing"
  secret_key                  = "testing"
  region                      = "us-east-1"
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_requesting_account_id  = true

  endpoints {{
    dynamodb = "{url}"
  }}
}}
"""


@pytest.fixture(params=[(False, False), (True, True)], ids=["sessions", "conversations-tenants"])
def target(request: pytest.FixtureRequest, table_name: str) -> Target:
    conversations, tenants = request.param
    return Target(table_name, conversations=conversations, tenants=tenants)


def normal(definition: dict[str, Any]) -> dict[str, Any]:
    """Return a definition without the order that DynamoDB does not keep."""
    return definition | {
        "AttributeDefinitions": sorted(definition["AttributeDefinitions"], key=lambda each: str(each["AttributeName"])),
        "GlobalSecondaryIndexes": sorted(definition["GlobalSecondaryIndexes"], key=lambda each: str(each["IndexName"])),
    }


def definition_of(client: Any, table_name: str) -> dict[str, Any]:
    """Return the CreateTable that would make the table that is there."""
    made = client.describe_table(TableName=table_name)["Table"]
    indexes = made["GlobalSecondaryIndexes"]
    return normal(
        {
            "TableName": made["TableName"],
            "KeySchema": made["KeySchema"],
            "AttributeDefinitions": made["AttributeDefinitions"],
            "BillingMode": made["BillingModeSummary"]["BillingMode"],
            "GlobalSecondaryIndexes": [
                {name: index[name] for name in ("IndexName", "KeySchema", "Projection")} for index in indexes
            ],
        }
    )


@pytest.fixture
def is_as_defined(dynamodb: Any, target: Target, moto_url: str) -> Callable[[], None]:
    """Return a function that looks at what was deployed."""

    def look() -> None:
        name = target.table_name
        assert definition_of(dynamodb, name) == normal(
            table_schema.definition(name, conversations=target.conversations, tenants=target.tenants)
        )
        time_to_live = dynamodb.describe_time_to_live(TableName=name)["TimeToLiveDescription"]
        assert time_to_live == {"TimeToLiveStatus": "ENABLED", "AttributeName": "ttl"}
        assert dynamodb.describe_table(TableName=name)["Table"]["DeletionProtectionEnabled"] is True
        backups = dynamodb.describe_continuous_backups(TableName=name)["ContinuousBackupsDescription"]
        assert backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"] == "ENABLED"
        findings = doctor.examine(replace(target, endpoint_url=moto_url))
        of_the_app = ("toggle", "secret key")
        of_the_table = {finding.verdict for finding in findings if finding.check not in of_the_app}
        assert of_the_table == {doctor.Verdict.OK}

    return look


# Terraform.


def terraform(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1", "TF_INPUT": "0"}
    command = ["terraform", f"-chdir={folder}", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture
def terraform_folder(tmp_path: Path, target: Target, moto_url: str) -> Path:
    """A folder in which Terraform can apply what is emitted to moto."""
    (tmp_path / "main.tf").write_text(FORMS["terraform"](target))
    (tmp_path / "provider.tf").write_text(PROVIDER.format(url=moto_url))
    if shutil.which("terraform") is None or terraform(tmp_path, "init").returncode:
        TERRAFORM.is_missing()
    return tmp_path


def test_terraform_applies(terraform_folder: Path, is_as_defined: Callable[[], None]) -> None:
    """As it is printed, laid out as Terraform has it."""
    for command in (["fmt", "-check", "-diff", "main.tf"], ["apply", "-no-color", "-auto-approve"]):
        ran = terraform(terraform_folder, *command)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    is_as_defined()


def test_terraform_names_the_region_if_one_is_given() -> None:
    assert "provider" not in FORMS["terraform"](Target("sessions")).partition("resource")[0].replace(
        "required_providers", ""
    )
    assert 'provider "aws" {\n  region = "eu-west-1"\n}' in FORMS["terraform"](Target("sessions", "eu-west-1"))


# CloudFormation.


def lint(template: Path) -> None:
    ran = subprocess.run(
        [Path(sys.executable).with_name("cfn-lint"), "--include-checks", "I", "--", template],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (0, "")


@pytest.mark.slow
def test_cloudformation_passes_the_linter(target: Target, tmp_path: Path) -> None:
    template = tmp_path / "sessions.json"
    template.write_text(FORMS["cloudformation"](target))
    lint(template)


@pytest.fixture
def stack(target: Target, moto_url: str) -> dict[str, str]:
    """The outputs of what CloudFormation made, with a key of one's own."""
    client = boto3.client("cloudformation", endpoint_url=moto_url, region_name="us-east-1")
    client.create_stack(
        StackName=target.table_name,
        TemplateBody=FORMS["cloudformation"](target),
        Parameters=[{"ParameterKey": "KmsKeyArn", "ParameterValue": KMS_KEY}],
    )
    (made,) = client.describe_stacks(StackName=target.table_name)["Stacks"]
    assert made["StackStatus"] == "CREATE_COMPLETE"
    return {output["OutputKey"]: output["OutputValue"] for output in made["Outputs"]}


def test_cloudformation_makes_the_table(
    target: Target, stack: dict[str, str], dynamodb: Any, is_as_defined: Callable[[], None]
) -> None:
    described = dynamodb.describe_table(TableName=target.table_name)["Table"]
    assert (stack["TableName"], stack["TableArn"]) == (target.table_name, described["TableArn"])
    # moto leaves out what is no part of CreateTable.
    template = json.loads(FORMS["cloudformation"](target))
    properties = template["Resources"]["Conversations" if target.conversations else "Sessions"]["Properties"]
    recovery = properties["PointInTimeRecoverySpecification"]
    recovery["RecoveryPeriodInDays"] = template["Parameters"][recovery["RecoveryPeriodInDays"]["Ref"]]["Default"]
    for name, call in (
        ("TimeToLiveSpecification", dynamodb.update_time_to_live),
        ("PointInTimeRecoverySpecification", dynamodb.update_continuous_backups),
    ):
        call(TableName=target.table_name, **{name: properties[name]})
    is_as_defined()


def test_cloudformation_makes_the_apps_policy(target: Target, stack: dict[str, str], moto_url: str) -> None:
    client = boto3.client("iam", endpoint_url=moto_url, region_name="us-east-1")
    stored = client.get_policy_version(PolicyArn=stack["PolicyArn"], VersionId="v1")["PolicyVersion"]["Document"]
    there = replace(target, table_name=stack["TableArn"])
    assert stored == json.loads(iam.render(there, kms_key=KMS_KEY))


# SAM.


@pytest.mark.slow
def test_sam_passes_the_linter(tmp_path: Path) -> None:
    template = tmp_path / "template.json"
    template.write_text(FORMS["sam"](Target("sessions")))
    lint(template)


def test_sam_deploys_the_lambda_example() -> None:
    """The function is the one of examples/lambda_app, with the table, the settings and the policy that it needs."""
    target = Target("logins")
    template, alone = (json.loads(FORMS[form](target)) for form in ("sam", "cloudformation"))
    function = template["Resources"]["Function"]["Properties"]
    assert (function["CodeUri"], function["Handler"]) == ("function.zip", "app.handler")
    assert template["Resources"]["Sessions"] == alone["Resources"]["Sessions"]
    on_table, on_key = function["Policies"]
    assert on_table == alone["Resources"]["AppPolicy"]["Properties"]["PolicyDocument"]
    assert [statement["Action"] for statement in on_key["Statement"]] == [["ssm:GetParameter"]]
    example = (MODULE.parent / "examples" / "lambda_app" / "app.py").read_text()
    assert all(name in example for name in function["Environment"]["Variables"] if name.endswith("PARAMETER"))
    assert function["Environment"]["Variables"]["SESSION_TABLE_NAME"] == {"Ref": "Sessions"}
    deployed = (MODULE / "examples" / "lambda" / "main.tf").read_text()
    for terraform_name, name in (("runtime", "Runtime"), ("memory_size", "MemorySize"), ("timeout", "Timeout")):
        (value,) = re.findall(rf"^  {terraform_name} += (.*)$", deployed, re.MULTILINE)
        assert json.loads(value) == function[name]


def test_sam_is_for_sessions() -> None:
    with pytest.raises(ConfigurationError, match="leave --conversations out"):
        FORMS["sam"](Target("conversations", conversations=True))


# CDK.


class Construct:
    """A stand-in for the CDK's: it keeps what it was made of."""

    made: list[Any]

    def __init__(self, *scope: Any, **properties: Any) -> None:
        self.scope = scope
        self.properties = properties
        self.indexes: list[dict[str, Any]] = []
        self.made.append(self)

    def add_global_secondary_index(self, **properties: Any) -> None:
        self.indexes.append(properties)

    def synth(self) -> None:
        self.properties["synthesised"] = True


@pytest.fixture
def cdk(monkeypatch: pytest.MonkeyPatch) -> dict[str, type[Construct]]:
    """Stand-ins for what the emitted app imports. aws-cdk-lib itself takes Node and 460 MB."""
    kinds = {name: type(name, (Construct,), {"made": []}) for name in ("App", "Stack", "Table")}
    enums = {
        "AttributeType": SimpleNamespace(STRING="S", NUMBER="N", BINARY="B"),
        "BillingMode": SimpleNamespace(PAY_PER_REQUEST="PAY_PER_REQUEST"),
        "ProjectionType": SimpleNamespace(KEYS_ONLY="KEYS_ONLY"),
        "Attribute": dict,
        "PointInTimeRecoverySpecification": dict,
        "Table": kinds["Table"],
    }
    library = ModuleType("aws_cdk")
    library.__dict__.update(kinds, RemovalPolicy=SimpleNamespace(RETAIN="Retain"), Environment=dict)
    library.__dict__["aws_dynamodb"] = SimpleNamespace(**enums)
    monkeypatch.setitem(sys.modules, "aws_cdk", library)
    return kinds


def test_cdk_describes_the_table(target: Target, cdk: dict[str, type[Construct]]) -> None:
    exec(compile(FORMS["cdk"](target), "sessions_cdk.py", "exec"), {})
    (made,) = cdk["Table"].made
    own_keys = [made.properties[name] for name in ("partition_key", "sort_key") if name in made.properties]
    index_keys = [index[key] for index in made.indexes for key in ("partition_key", "sort_key")]
    keys = {key["name"]: key for key in (*own_keys, *index_keys)}.values()
    actual = {
        "TableName": made.properties["table_name"],
        "KeySchema": [
            {"AttributeName": key["name"], "KeyType": kind}
            for key, kind in zip(own_keys, ("HASH", "RANGE"), strict=False)
        ],
        "AttributeDefinitions": [{"AttributeName": key["name"], "AttributeType": key["type"]} for key in keys],
        "BillingMode": made.properties["billing_mode"],
        "GlobalSecondaryIndexes": [
            {
                "IndexName": index["index_name"],
                "KeySchema": [
                    {"AttributeName": index["partition_key"]["name"], "KeyType": "HASH"},
                    {"AttributeName": index["sort_key"]["name"], "KeyType": "RANGE"},
                ],
                "Projection": {"ProjectionType": index["projection_type"]},
            }
            for index in made.indexes
        ],
    }
    expected = table_schema.definition(target.table_name, conversations=target.conversations, tenants=target.tenants)
    assert normal(actual) == normal(expected)
    assert made.properties["time_to_live_attribute"] == "ttl"
    assert made.properties["point_in_time_recovery_specification"] == {"point_in_time_recovery_enabled": True}
    assert made.properties["deletion_protection"] is True
    assert made.properties["removal_policy"] == "Retain"
    assert cdk["App"].made[0].properties == {"synthesised": True}
    assert cdk["Stack"].made[0].properties == {}


def test_cdk_names_the_region_if_one_is_given(cdk: dict[str, type[Construct]]) -> None:
    exec(compile(FORMS["cdk"](Target("sessions", "eu-west-1")), "sessions_cdk.py", "exec"), {})
    assert cdk["Stack"].made[0].properties == {"env": {"region": "eu-west-1"}}


# The AWS CLI.


def run(client: Any, command: str) -> None:
    """Make the call that the AWS CLI would make of a command."""
    program, service, operation, *arguments = shlex.split(command)
    assert (program, service) == ("aws", "dynamodb")
    if operation == "wait":
        operation, *arguments = arguments
        call = client.get_waiter(operation.replace("-", "_")).wait
    else:
        call = getattr(client, operation.replace("-", "_"))
    parameters: dict[str, Any] = {}
    for option, value in zip(arguments[::2], arguments[1::2], strict=True):
        name = option.removeprefix("--").title().replace("-", "")
        if name == "CliInputJson":
            parameters |= json.loads(value)
        else:
            parameters[name] = shorthand(value) if "=" in value else value
    call(**parameters)


def shorthand(value: str) -> dict[str, Any]:
    pairs = dict(pair.split("=") for pair in value.split(","))
    return {name: {"true": True, "false": False}.get(word, word) for name, word in pairs.items()}


def test_the_commands_make_the_table(target: Target, dynamodb: Any, is_as_defined: Callable[[], None]) -> None:
    for command in FORMS["cli"](target).splitlines():
        run(dynamodb, command)
    is_as_defined()


@pytest.mark.parametrize("target", [(False, False), (True, False)], ids=["sessions", "conversations"], indirect=True)
def test_the_doctors_fixes_mend(target: Target, dynamodb: Any, is_as_defined: Callable[[], None]) -> None:
    """The index that lacks, and the TTL on another attribute."""
    made = table_schema.definition(target.table_name, conversations=target.conversations) | {
        "DeletionProtectionEnabled": True
    }
    del made["GlobalSecondaryIndexes"], made["AttributeDefinitions"][len(made["KeySchema"]) :]
    dynamodb.create_table(**made)
    run(dynamodb, aws_cli.enable_time_to_live(target, attribute="expires"))
    run(dynamodb, FORMS["cli"](target).splitlines()[-1])
    run(dynamodb, aws_cli.add_index(target))
    run(dynamodb, aws_cli.enable_time_to_live(target, enabled=False, attribute="expires"))
    run(dynamodb, aws_cli.enable_time_to_live(target))
    is_as_defined()


@pytest.mark.parametrize(
    "name",
    ['${file("/etc/passwd")}', "%{ if true }", "${AWS::AccountId}", "*", "sessions*", 'a"b', "a\nb", "a b", ""],
)
def test_what_is_no_name_is_not_written_into_anything(name: str) -> None:
    with pytest.raises(ConfigurationError, match="name"):
        Target(name)
    with pytest.raises(ConfigurationError, match="region"):
        Target("sessions", name)


def test_an_address_with_a_password_is_not_written_into_anything() -> None:
    with pytest.raises(ConfigurationError, match="password") as refused:
        Target("sessions", "eu-west-1", "http://alice:a-secret@127.0.0.1:8000")
    assert "a-secret" not in str(refused.value)


def test_commands_go_where_they_are_to() -> None:
    there = Target("sessions", "eu-west-1", "http://127.0.0.1:8000/?a b")
    for command in (*FORMS["cli"](there).splitlines(), aws_cli.add_index(there), aws_cli.enable_time_to_live(there)):
        assert command.endswith(" --region eu-west-1 --endpoint-url 'http://127.0.0.1:8000/?a b'")


# IAM.


def actions(statement: dict[str, Any]) -> list[str]:
    return [action.removeprefix("dynamodb:") for action in statement["Action"]]


@pytest.mark.parametrize("conversations", [False, True], ids=["sessions", "conversations"])
@pytest.mark.parametrize("operator", [False, True], ids=["app", "operator"])
def test_the_policies_are_those_of_the_terraform_module(operator: bool, conversations: bool) -> None:
    text = (MODULE / "iam.tf").read_text()

    def named(name: str) -> list[str]:
        (found,) = re.findall(rf"^ +{name} *= (?:concat\(\n)? *\[(.*)\],?$", text, re.MULTILINE)
        return re.findall(r'"dynamodb:(\w+)"', found)

    (on_index,) = re.findall(r'Sid = "OwnerIndex", Effect = "Allow", Action = \[(.*?)\]', text)
    (on_tenants,) = re.findall(r'Sid = "TenantIndex", Effect = "Allow", Action = \[(.*?)\]', text)
    (of_agents,) = re.findall(r"var\.conversations \? \[(.*)\] : \[\],", text)
    more = re.findall(r'"dynamodb:(\w+)"', of_agents) if conversations else []
    on_table = named("item_actions") + more + (named("operator_actions") if operator else [])
    target = Target("sessions", conversations=conversations)
    statements = json.loads(iam.render(target, operator=operator))["Statement"]
    sid = "Conversations" if conversations else "Sessions"
    assert [(each["Sid"], each["Effect"]) for each in statements] == [(sid, "Allow"), ("OwnerIndex", "Allow")]
    assert actions(statements[0]) == on_table
    assert actions(statements[1]) == re.findall(r"dynamodb:(\w+)", on_index)
    with_tenants = json.loads(iam.render(replace(target, tenants=True), operator=operator))["Statement"]
    assert with_tenants[:2] == statements
    assert with_tenants[2]["Sid"] == "TenantIndex"
    assert with_tenants[2]["Resource"] == [f"{statements[0]['Resource'][0]}/index/tenant-index"]
    assert actions(with_tenants[2]) == re.findall(r"dynamodb:(\w+)", on_tenants)


@pytest.mark.parametrize("operator", [False, True], ids=["app", "operator"])
def test_iam_takes_the_policies(operator: bool, table_name: str, moto_url: str) -> None:
    client = boto3.client("iam", endpoint_url=moto_url, region_name="us-east-1")
    policy = iam.render(Target(table_name), operator=operator)
    made = client.create_policy(PolicyName=table_name, PolicyDocument=policy)["Policy"]
    stored = client.get_policy_version(PolicyArn=made["Arn"], VersionId="v1")["PolicyVersion"]["Document"]
    assert stored == json.loads(policy)
    client.delete_policy(PolicyArn=made["Arn"])


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (Target("sessions"), "arn:aws:dynamodb:*:*:table/sessions"),
        (Target("sessions", "eu-west-1"), "arn:aws:dynamodb:eu-west-1:*:table/sessions"),
        (Target("sessions", "cn-north-1"), "arn:aws-cn:dynamodb:cn-north-1:*:table/sessions"),
        (Target("sessions", "us-gov-west-1"), "arn:aws-us-gov:dynamodb:us-gov-west-1:*:table/sessions"),
        (Target("arn:aws:dynamodb:eu-west-1:1:table/x"), "arn:aws:dynamodb:eu-west-1:1:table/x"),
    ],
    ids=str,
)
def test_the_policies_are_of_one_table(target: Target, expected: str) -> None:
    statements = json.loads(iam.render(target))["Statement"]
    assert [each["Resource"] for each in statements] == [[expected], [f"{expected}/index/owner-index"]]


@pytest.mark.parametrize(
    ("partition", "region", "domain"),
    [
        ("aws", "eu-west-1", "amazonaws.com"),
        ("aws-us-gov", "us-gov-west-1", "amazonaws.com"),
        ("aws-cn", "cn-north-1", "amazonaws.com.cn"),
    ],
)
def test_a_key_of_ones_own_is_used_through_dynamodb_only(partition: str, region: str, domain: str) -> None:
    arn = f"arn:{partition}:kms:{region}:123456789012:key/one"
    statement = json.loads(iam.render(Target("sessions", region), kms_key=arn))["Statement"][-1]
    assert statement["Resource"] == [arn]
    in_every_region = json.loads(iam.render(Target("sessions"), kms_key=arn))["Statement"]
    assert in_every_region[0]["Resource"] == [f"arn:{partition}:dynamodb:*:*:table/sessions"]
    assert statement["Condition"] == {"StringLike": {"kms:ViaService": f"dynamodb.*.{domain}"}}
    (of_module,) = re.findall(r'Action += (\["kms:.*\])', (MODULE / "iam.tf").read_text())
    assert statement["Action"] == json.loads(of_module)


@pytest.mark.parametrize("key", ["alias/sessions", "arn:aws:kms:eu-west-1:123456789012:alias/sessions", "", "*"])
def test_a_key_is_named_by_its_arn(key: str) -> None:
    with pytest.raises(ConfigurationError, match="not its alias"):
        iam.render(Target("sessions"), kms_key=key)


# As a user asks for it.


@pytest.mark.parametrize("form", ["terraform", "cloudformation", "sam", "cdk", "cli", "iam"])
def test_the_command_prints_it(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["emit", form, "--table", "logins"]) == 0
    expected = (FORMS | {"iam": iam.render})[form](Target("logins"))
    assert capsys.readouterr().out == expected
    assert "logins" in expected


@pytest.mark.parametrize("form", ["terraform", "cloudformation", "cdk", "cli", "iam"])
def test_the_command_prints_that_of_conversations(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["emit", form, "--conversations"]) == 0
    expected = (FORMS | {"iam": iam.render})[form](Target("conversations", conversations=True))
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize("form", ["terraform", "cloudformation", "cdk", "cli", "iam"])
def test_the_command_prints_the_index_of_tenants_on_demand(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["emit", form, "--tenants"]) == 0
    expected = (FORMS | {"iam": iam.render})[form](Target("sessions", tenants=True))
    assert capsys.readouterr().out == expected
    assert "tenant-index" in expected


def test_the_operators_policy_is_printed_on_demand(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["emit", "iam", "--operator"]) == 0
    assert capsys.readouterr().out == iam.render(Target("sessions"), operator=True)


def test_the_keys_statement_is_printed_on_demand(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["emit", "iam", "--kms-key", KMS_KEY]) == 0
    assert capsys.readouterr().out == iam.render(Target("sessions"), kms_key=KMS_KEY)


@pytest.mark.parametrize("form", sorted(FORMS))
def test_no_table_is_made_by_its_arn(form: str) -> None:
    with pytest.raises(ConfigurationError, match="not an ARN"):
        FORMS[form](Target("arn:aws:dynamodb:eu-west-1:1:table/x"))
