"""What Terraform makes, applied to moto: the table is the one the package knows, works as one, and goes again.

`terraform/tests/` looks at plans; here there is something to plan for.
"""

import json
import logging
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import boto3
import pytest

from dynamodb_sessions import DynamoDBStore, MemoryStore
from dynamodb_sessions.agents import DynamoDBConversation
from dynamodb_sessions.ops import cli
from dynamodb_sessions.ops.emit import iam
from dynamodb_sessions.ops.target import Target
from dynamodb_sessions.stores import table_schema
from dynamodb_sessions.stores.fallback import FallbackStore
from tests.conftest import TERRAFORM
from tests.helpers.policies import granted
from tests.stores import test_contract

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parent.parent.parent

PROVIDER = """
provider "aws" {{
  region                      = "us-east-1"
  access_key                  = "testing"
  secret_key                  = "testing"
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_requesting_account_id  = true

  endpoints {{
    {endpoints}
  }}
}}
"""
SERVICES = ("apigatewayv2", "cloudwatch", "dynamodb", "iam", "lambda", "logs", "sts")

Run = Callable[..., str]


@pytest.fixture(scope="module")
def terraform(tmp_path_factory: pytest.TempPathFactory, moto_url: str) -> Iterator[Callable[[str], Run]]:
    """Return a function that makes a folder of `terraform/` ready and returns the command for it; all is destroyed."""
    if shutil.which("terraform") is None:
        TERRAFORM.is_missing()
    copy = tmp_path_factory.mktemp("terraform") / "terraform"
    shutil.copytree(PROJECT / "terraform", copy, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*"))

    def ready(folder: str) -> Run:
        where = copy / folder
        endpoints = "\n    ".join(f'{service} = "{moto_url}"' for service in SERVICES)
        (where / "provider.tf").write_text(PROVIDER.format(endpoints=endpoints))

        def run(*arguments: str) -> str:
            environment = {**os.environ, "CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1", "TF_INPUT": "0"}
            done = subprocess.run(
                ["terraform", f"-chdir={where}", *arguments],
                capture_output=True,
                text=True,
                check=False,
                env=environment,
            )
            if done.returncode and arguments[0] == "init":
                TERRAFORM.is_missing()
            assert done.returncode == 0, done.stderr
            return done.stdout

        run("init", "-no-color", "-backend=false")
        return run

    yield ready
    shutil.rmtree(copy)


@pytest.fixture(scope="module")
def applied(terraform: Callable[[str], Run], moto_url: str) -> Iterator[dict[str, Any]]:
    """Return the outputs of the module, applied; afterwards it is destroyed, and nothing is left."""
    run = terraform(".")
    options = ("-no-color", "-auto-approve", "-var=name=applied", "-var=deletion_protection=false")
    run("apply", *options)
    yield {name: output["value"] for name, output in json.loads(run("output", "-json")).items()}
    run("destroy", *options)
    client = boto3.client("dynamodb", endpoint_url=moto_url, region_name="us-east-1")
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.describe_table(TableName="applied")


def test_its_table_is_the_one_the_package_makes(applied: dict[str, Any], dynamodb: Any) -> None:
    made = dynamodb.describe_table(TableName=applied["table_name"])["Table"]
    wanted = table_schema.definition(applied["table_name"])
    for name in ("TableName", "KeySchema"):
        assert made[name] == wanted[name]
    assert made["BillingModeSummary"]["BillingMode"] == wanted["BillingMode"]
    assert sorted(map(str, made["AttributeDefinitions"])) == sorted(map(str, wanted["AttributeDefinitions"]))
    (index,), (wanted_index,) = made["GlobalSecondaryIndexes"], wanted["GlobalSecondaryIndexes"]
    assert {name: index[name] for name in wanted_index} == wanted_index
    ttl = dynamodb.describe_time_to_live(TableName=applied["table_name"])["TimeToLiveDescription"]
    assert (ttl["TimeToLiveStatus"], ttl["AttributeName"]) == ("ENABLED", table_schema.TTL)
    backups = dynamodb.describe_continuous_backups(TableName=applied["table_name"])["ContinuousBackupsDescription"]
    assert backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"] == "ENABLED"


@pytest.fixture(scope="module")
def conversations(terraform: Callable[[str], Run]) -> Iterator[dict[str, Any]]:
    """Return the outputs of the module, applied for agents' conversations."""
    run = terraform(".")
    state = "-state=conversations.tfstate"
    options = ("-var=name=applied-conversations", "-var=conversations=true", "-var=deletion_protection=false")
    run("apply", "-no-color", "-auto-approve", state, *options)
    yield {name: output["value"] for name, output in json.loads(run("output", "-json", state)).items()}
    run("destroy", "-no-color", "-auto-approve", state, *options)


@pytest.mark.anyio
async def test_its_other_table_keeps_conversations(
    conversations: dict[str, Any], dynamodb: Any, moto_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = conversations["table_name"]
    made, wanted = dynamodb.describe_table(TableName=name)["Table"], table_schema.definition(name, conversations=True)
    assert made["KeySchema"] == wanted["KeySchema"]
    assert sorted(map(str, made["AttributeDefinitions"])) == sorted(map(str, wanted["AttributeDefinitions"]))
    for policy, operator in (("policy_json", False), ("operator_policy_json", True)):
        target = Target(name, conversations=True)
        assert granted(conversations[policy]) == granted(iam.render(target, operator=operator))
    assert conversations["environment"] == {}
    conversation = DynamoDBConversation("c", name, endpoint_url=moto_url, ttl_seconds=60, owner="acme/alice")
    await conversation.add_items([{"role": "user", "content": "Hello"}])
    assert await conversation.get_items() == [{"role": "user", "content": "Hello"}]
    status = cli.main(["--table", name, "--endpoint-url", moto_url, "check", "--conversations", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (status, found["ok"]) == (0, True)
    assert {check["check"] for check in found["checks"] if check["verdict"] == "ok"} >= {
        "Query messages",
        "BatchWriteItem",
    }


def is_for_moto(test: Any) -> bool:
    """Whether a promise concerns one store, and not one that moto is no oracle for."""
    marks = [mark.name for mark in getattr(test, "pytestmark", ())]
    return test.__code__.co_varnames[: test.__code__.co_argcount] == ("store",) and "parametrize" not in marks


CONTRACT = {name: test for name, test in vars(test_contract).items() if name.startswith("test_") and is_for_moto(test)}


@pytest.mark.anyio
@pytest.mark.parametrize("promise", CONTRACT.values(), ids=CONTRACT)
async def test_its_table_keeps_the_stores_promises(applied: dict[str, Any], promise: Any, moto_url: str) -> None:
    await promise(DynamoDBStore(applied["table_name"], endpoint_url=moto_url))


def test_the_doctor_finds_nothing_wrong(
    applied: dict[str, Any], moto_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status = cli.main(["--table", applied["table_name"], "--endpoint-url", moto_url, "check", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (status, found["ok"]) == (0, True)
    assert {check["check"] for check in found["checks"] if check["verdict"] == "ok"} >= {
        *("key", "ttl", "index", "round trip"),
        *("GetItem", "PutItem", "UpdateItem", "DeleteItem", "Query"),
    }


def test_its_outputs_lead_to_it(applied: dict[str, Any]) -> None:
    assert applied["environment"] == {"USE_DYNAMODB_SESSIONS": "true", "SESSION_TABLE_NAME": "applied"}
    assert applied["owner_index_arn"] == f"{applied['table_arn']}/index/{table_schema.OWNER_INDEX}"
    for policy, operator in (("policy_json", False), ("operator_policy_json", True)):
        assert granted(applied[policy]) == granted(iam.render(Target("applied"), operator=operator))


def test_the_lambda_example_applies_and_goes_again(
    terraform: Callable[[str], Run], function_zip: Path, moto_url: str, dynamodb: Any
) -> None:
    """With the very zip that its first lines make."""
    run = terraform("examples/lambda")
    options = ("-no-color", "-auto-approve", f"-var=package={function_zip}", "-var=deletion_protection=false")
    run("apply", *options)
    function = boto3.client("lambda", endpoint_url=moto_url, region_name="us-east-1")
    assert function.get_function(FunctionName="visits")["Configuration"]["CodeSize"] == function_zip.stat().st_size
    assert dynamodb.describe_table(TableName="visits")
    run("destroy", *options)
    assert function.list_functions()["Functions"] == []
    with pytest.raises(dynamodb.exceptions.ResourceNotFoundException):
        dynamodb.describe_table(TableName="visits")


def test_a_fallback_to_memory_is_a_line_that_the_alarm_is_for(caplog: pytest.LogCaptureFixture) -> None:
    (pattern,) = re.findall(r'pattern += "\\"(.*)\\""', (PROJECT / "terraform" / "alarms.tf").read_text())
    unreachable = DynamoDBStore("sessions", region_name="us-east-1", endpoint_url="http://127.0.0.1:1", timeout=1)
    anyio.run(partial(FallbackStore(unreachable, MemoryStore()).load, "A" * 43, now=1))
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert pattern in line
