"""The true cause, in AWS's own wordings, as `check` names it and as an app's error does.

Each answer here carries where it is from: the page of AWS's documentation that has it, or a message that somebody
recorded. Action and resource are put in the place of the page's own.
"""

import json
import os
import shlex
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import boto3
import pytest
from botocore.awsrequest import AWSResponse

from dynamodb_sessions import DynamoDBStore
from dynamodb_sessions.aws import boto3_transport
from dynamodb_sessions.aws.access_denied import denial
from dynamodb_sessions.aws.boto3_transport import Boto3Transport
from dynamodb_sessions.exceptions import SessionError
from dynamodb_sessions.identifiers import new_id
from dynamodb_sessions.ops import cli, doctor
from dynamodb_sessions.ops.doctor import Finding, Verdict
from dynamodb_sessions.ops.emit import iam
from dynamodb_sessions.ops.target import Target
from dynamodb_sessions.stores import table_schema
from tests.helpers.answering import answering
from tests.helpers.proxy import How, Proxy, Step

pytestmark = pytest.mark.anyio

TABLE = "arn:aws:dynamodb:us-east-1:123456789012:table/sessions"
KEY_ID = "e8479c67-bc1d-470f-ba7b-a2bf1ba890f3"
KEY_ARN = f"arn:aws:kms:us-east-1:123456789012:key/{KEY_ID}"
ROLE = "arn:aws:sts::123456789012:assumed-role/app/i-0abc"
DENIED = f"User: {ROLE} is not authorized to perform: dynamodb:GetItem"
PAGE = "https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html"

CLIENTS = pytest.mark.parametrize("client", [None, "async"], ids=["boto3", "async"])


@dataclass(frozen=True)
class Answer:
    """What AWS answers, and where that is written."""

    message: str
    source: str
    said: str
    """What is to be told of it."""
    fix: str
    code: str = "AccessDeniedException"
    details: dict[str, Any] = field(default_factory=dict)

    def step(self) -> Step:
        return Step(How.ANOTHER, applied=False, error=(400, self.code), details={"message": self.message})


DENIALS = {
    "identity-based policy": Answer(
        f"{DENIED} on resource: {TABLE} because no identity-based policy allows the dynamodb:GetItem action",
        "https://github.com/AntonShuvaev/intellij-dynamodb/issues/29",
        "no identity-based policy allows dynamodb:GetItem on table/sessions to the role app",
        "emit iam",
    ),
    "identity-based policy, explicit": Answer(
        f"{DENIED} on resource: {TABLE} with an explicit deny in an identity-based policy",
        PAGE,
        "an identity-based policy denies dynamodb:GetItem on table/sessions",
        "take GetItem on table/sessions out of what that policy denies",
    ),
    "service control policy": Answer(
        f"{DENIED} on resource: {TABLE} with an explicit deny in a service control policy: "
        "arn:aws:organizations::999999999999:policy/o-example/service_control_policy/p-guardrail",
        f"{PAGE}; its policy's ARN as in https://haitmg.pl/blog/aws-iam-access-denied-debugging",
        "a service control policy denies dynamodb:GetItem",
        "AWS organization",
    ),
    "VPC endpoint policy": Answer(
        f"{DENIED} because no VPC endpoint policy allows the dynamodb:GetItem action",
        PAGE,
        "no VPC endpoint policy allows dynamodb:GetItem",
        "the policy of the VPC endpoint",
    ),
    "VPC endpoint policy, explicit": Answer(
        f"{DENIED} on resource: {TABLE} with an explicit deny in a VPC endpoint policy",
        PAGE,
        "a VPC endpoint policy denies dynamodb:GetItem",
        "out of what that policy denies",
    ),
    "VPC endpoint policy, by another one": Answer(
        f"{DENIED} on resource: {TABLE} with an explicit deny in a VPC endpoint policy transitively through a service "
        "control policy",
        PAGE,
        "a service control policy denies dynamodb:GetItem",
        "AWS organization",
    ),
    "permissions boundary": Answer(
        f"{DENIED} on resource: {TABLE} because no permissions boundary allows the dynamodb:GetItem action",
        PAGE,
        "no permissions boundary allows dynamodb:GetItem",
        "let the permissions boundary of the role allow GetItem",
    ),
    "session policy": Answer(
        f"{DENIED} on resource: {TABLE} because no session policy allows the dynamodb:GetItem action",
        PAGE,
        "no session policy allows dynamodb:GetItem",
        "passed when the role was assumed",
    ),
    "session policy, explicit": Answer(
        f"{DENIED} on resource: {TABLE} with an explicit deny in a sessions policy",
        PAGE,
        "a session policy denies dynamodb:GetItem",
        "out of what that policy denies",
    ),
    "another account's table": Answer(
        f"User: {ROLE} is not authorized to perform: dynamodb:GetItem on resource: "
        "arn:aws:dynamodb:us-east-1:210987654321:table/sessions because no resource-based policy allows the "
        "dynamodb:GetItem action",
        f"{PAGE}; that both policies must allow it: "
        "https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/rbac-cross-account-access.html",
        "no resource-based policy allows dynamodb:GetItem on table/sessions (account 210987654321)",
        "is in another account: there, let its resource-based policy allow the role app GetItem",
    ),
    "no policy named": Answer(
        f"{DENIED} on resource: {TABLE}",
        "https://github.com/aws/aws-sdk-js/issues/832",
        "dynamodb:GetItem on table/sessions is not allowed to the role app",
        "emit iam",
    ),
    "the table's key": Answer(
        f"User: {ROLE} is not authorized to perform: kms:Decrypt on resource: {KEY_ARN} because no identity-based "
        "policy allows the kms:Decrypt action",
        "https://github.com/ministryofjustice/modernisation-platform-environments/pull/10745",
        f"no identity-based policy allows kms:Decrypt on the KMS key {KEY_ID} to the role app",
        f"emit iam --kms-key {KEY_ARN}",
    ),
    "the table's key, to write": Answer(
        f"User: {ROLE} is not authorized to perform: kms:GenerateDataKey on resource: {KEY_ARN} because no "
        "resource-based policy allows the kms:GenerateDataKey action",
        PAGE,
        f"no resource-based policy allows kms:GenerateDataKey on the KMS key {KEY_ID}",
        "let the key policy of the KMS key",
    ),
    "the table's key, in KMS's older words": Answer(
        "KMS key access denied error: com.amazonaws.services.kms.model.AWSKMSException: The ciphertext refers to a "
        "customer master key that does not exist, does not exist in this region, or you are not allowed to access. "
        "(Service: AWSKMS; Status Code: 400; Error Code: AccessDeniedException; Request ID: x)",
        "https://github.com/aws/aws-cdk/issues/10010",
        "kms:Decrypt on the table's key is not allowed",
        "emit iam --kms-key ",
    ),
}


@pytest.fixture
def engine() -> str:
    return "moto"


@pytest.fixture
def endpoint_url(moto_url: str) -> str:
    return moto_url


@pytest.fixture
def table(moto_url: str, table_name: str) -> str:
    table_schema.create(boto3.client("dynamodb", endpoint_url=moto_url, region_name="us-east-1"), table_name)
    return table_name


@pytest.fixture
def proxy(moto_url: str) -> Iterator[Proxy]:
    proxy = Proxy(moto_url)
    yield proxy
    proxy.close()


def check(table_name: str, url: str | None = None) -> dict[str, Finding]:
    return {finding.check: finding for finding in doctor.examine(Target(table_name, endpoint_url=url))}


def wrong(findings: dict[str, Finding]) -> list[str]:
    return [name for name, finding in findings.items() if finding.verdict is Verdict.WRONG]


async def error_of(
    table_name: str, url: str | None, client: str | None, act: Callable[[DynamoDBStore], Any] | None = None
) -> str:
    """Return what an app is told."""
    async with DynamoDBStore(table_name, client=client, endpoint_url=url) as store:
        with pytest.raises(SessionError) as caught:
            await (store.load(new_id(), now=0) if act is None else act(store))
        # A traceback shows the causes, too.
        assert caught.value.__suppress_context__
        return str(caught.value)


def table_as(**changes: Any) -> Step:
    """Have DescribeTable say that the table is otherwise than it is."""
    made = table_schema.definition("sessions") | {"TableStatus": "ACTIVE"} | changes
    return Step(How.ANOTHER, applied=False, error=(200, ""), details={"Table": made})


def index_as(**changes: Any) -> Step:
    (index,) = table_schema.definition("sessions")["GlobalSecondaryIndexes"]
    return table_as(GlobalSecondaryIndexes=[index | changes])


# Access denied.


@pytest.mark.parametrize("name", DENIALS)
def test_check_names_what_denies_access(name: str, table: str, proxy: Proxy) -> None:
    answer = DENIALS[name]
    proxy.play("GetItem", rest=answer.step())
    findings = check(table, proxy.url)
    assert "GetItem" in findings, findings
    finding = findings["GetItem"]
    assert finding.verdict is Verdict.WRONG
    assert answer.said in finding.detail
    assert answer.fix in finding.fix
    assert "i-0abc" not in f"{finding}"


@CLIENTS
@pytest.mark.parametrize("name", DENIALS)
async def test_an_apps_error_names_what_denies_access(name: str, client: str | None, table: str, proxy: Proxy) -> None:
    answer = DENIALS[name]
    proxy.play("GetItem", rest=answer.step())
    told = await error_of(table, proxy.url, client)
    assert answer.said in told
    assert answer.fix in told
    assert "i-0abc" not in told


def test_what_an_answer_says_cannot_steer_a_terminal(
    table: str, proxy: Proxy, capsys: pytest.CaptureFixture[str]
) -> None:
    message = f"{DENIED} on resource: {TABLE}\x1b[2J with an explicit deny in a VPC endpoint policy"
    step = Step(How.ANOTHER, applied=False, error=(400, "AccessDeniedException"), details={"message": message})
    proxy.play("GetItem", rest=step)
    assert cli.main(["check", "--table", table, "--endpoint-url", proxy.url]) == 1
    printed = capsys.readouterr().out
    assert "out of what that policy denies" in printed
    assert "\x1b" not in printed


def test_a_key_that_aws_does_not_name_is_that_of_the_table(table: str, proxy: Proxy) -> None:
    proxy.play("GetItem", rest=DENIALS["the table's key, in KMS's older words"].step())
    proxy.play("DescribeTable", rest=table_as(SSEDescription={"SSEType": "KMS", "KMSMasterKeyArn": KEY_ARN}))
    finding = check(table, proxy.url)["GetItem"]
    assert KEY_ID in finding.detail
    assert f"emit iam --kms-key {KEY_ARN}" in finding.fix


def test_what_says_nothing_about_a_denial_is_none() -> None:
    assert denial("as AWS says it") is None


def test_emit_iam_prints_the_statement_of_the_tables_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["emit", "iam", "--kms-key", KEY_ARN]) == 0
    printed = capsys.readouterr().out
    assert printed == iam.render(Target("sessions"), kms_key=KEY_ARN)
    *_, statement = json.loads(printed)["Statement"]
    assert statement["Resource"] == [KEY_ARN]
    assert {"kms:Decrypt", "kms:GenerateDataKey*"} <= set(statement["Action"])
    assert "kms:ViaService" in statement["Condition"]["StringLike"]


def test_a_key_goes_with_iam_only() -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["emit", "terraform", "--kms-key", KEY_ARN])


# A table and an index that are not as they should be.

BACKFILLING = Answer(
    "Cannot read from backfilling global secondary index: owner-index",
    "https://github.com/aws-cloudformation/cloudformation-coverage-roadmap/issues/1075",
    "being built (backfilling)",
    "wait until it is ACTIVE",
    "ValidationException",
)


def test_a_backfilling_index_is_not_missing(table: str, proxy: Proxy) -> None:
    proxy.play("Query", rest=BACKFILLING.step())
    proxy.play("DescribeTable", rest=index_as(IndexStatus="CREATING", Backfilling=True))
    for step in (index_as(IndexStatus="CREATING", Backfilling=True), DENIALS["identity-based policy"].step()):
        proxy.play("DescribeTable", rest=step)
        findings = check(table, proxy.url)
        assert wrong(findings) == []
        assert "backfilling" in findings["index"].detail
        assert findings["index"].fix == BACKFILLING.fix
        assert findings["Query"].verdict is Verdict.OPEN


@CLIENTS
async def test_an_app_is_told_that_an_index_is_backfilling(client: str | None, table: str, proxy: Proxy) -> None:
    proxy.play("Query", rest=BACKFILLING.step())
    told = await error_of(table, proxy.url, client, lambda store: anext(store.list_owner("acme/alice")))
    assert BACKFILLING.said in told
    assert BACKFILLING.fix in told
    assert "no index" not in told


def test_an_index_that_is_being_deleted(table: str, proxy: Proxy) -> None:
    proxy.play("DescribeTable", rest=index_as(IndexStatus="DELETING"))
    findings = check(table, proxy.url)
    assert wrong(findings) == []
    assert findings["index"].detail == "owner-index is being deleted (DELETING)"
    assert findings["index"].fix.startswith("wait until it is gone, then aws dynamodb update-table")


def test_ttl_that_is_being_turned_off(table: str, proxy: Proxy) -> None:
    described = {"TimeToLiveDescription": {"TimeToLiveStatus": "DISABLING", "AttributeName": "ttl"}}
    proxy.play("DescribeTimeToLive", rest=Step(How.ANOTHER, applied=False, error=(200, ""), details=described))
    finding = check(table, proxy.url)["ttl"]
    assert "DISABLING" in finding.detail
    assert finding.fix.startswith("wait until it is DISABLED")


def test_a_table_whose_key_dynamodb_cannot_use(table: str, proxy: Proxy) -> None:
    """Source: https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_TableDescription.html."""
    key = {"SSEType": "KMS", "KMSMasterKeyArn": KEY_ARN, "InaccessibleEncryptionDateTime": 1679311246}
    inaccessible = table_as(TableStatus="INACCESSIBLE_ENCRYPTION_CREDENTIALS", SSEDescription=key)
    proxy.play("DescribeTable", rest=inaccessible)
    findings = check(table, proxy.url)
    assert wrong(findings) == ["table"]
    assert "INACCESSIBLE_ENCRYPTION_CREDENTIALS" in findings["table"].detail
    assert KEY_ID in findings["table"].detail
    assert "enable the key" in findings["table"].fix


THROTTLING = Answer(
    "Throughput exceeds the current throughput limit for your account",
    "https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/throttling-diagnosing-workflow.html",
    "it is throttled (TableReadMaxOnDemandThroughputExceeded on table/sessions)",
    "give the table more capacity",
    "ThrottlingException",
)


def test_a_table_that_is_throttled_is_neither_missing_nor_forbidden(table: str, proxy: Proxy) -> None:
    reasons = [{"reason": "TableReadMaxOnDemandThroughputExceeded", "resource": "table/sessions"}]
    throttled = {"message": THROTTLING.message, "throttlingReasons": reasons}
    proxy.play("*", rest=Step(How.ANOTHER, applied=False, error=(400, THROTTLING.code), details=throttled))
    findings = check(table, proxy.url)
    assert wrong(findings) == []
    assert findings["GetItem"].verdict is Verdict.WARNING
    assert THROTTLING.said in findings["GetItem"].detail
    assert THROTTLING.fix in findings["GetItem"].fix
    assert findings["key"].verdict is Verdict.OPEN


@CLIENTS
async def test_an_arn_of_another_region(client: str | None, table: str, endpoint_url: str) -> None:
    arn = f"arn:aws:dynamodb:eu-west-1:123456789012:table/{table}"
    findings = check(arn, endpoint_url)
    assert wrong(findings) == ["region"]
    said = "the table's ARN is of the region eu-west-1, and us-east-1 is asked for it"
    assert findings["region"].detail == said
    refusing = Proxy(endpoint_url)
    step = Answer("The provided key element does not match the schema", "moto", "", "", "ValidationException").step()
    refusing.play("GetItem", rest=step)
    try:
        assert said in await error_of(arn, refusing.url, client)
    finally:
        refusing.close()


@CLIENTS
async def test_a_validation_exception_that_is_not_about_the_key_does_not_blame_it(
    client: str | None, table: str, proxy: Proxy
) -> None:
    answer = Answer("One or more parameter values were invalid", "moto", "", "", "ValidationException")
    proxy.play("GetItem", rest=answer.step())
    told = await error_of(table, proxy.url, client)
    assert "partition key" not in told
    assert "dynamodb-sessions check" in told


# Region and credentials.


@pytest.fixture
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that makes this the profile."""

    def use(text: str) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        (tmp_path / "config").write_text(f"[profile app]\n{text}\n", encoding="utf-8")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_PROFILE", "app")
        monkeypatch.setenv("HOME", str(tmp_path))

    return use


async def both(table: str, url: str | None, client: str | None, subject: str, said: str, fix: str) -> None:
    """Assert that `check` and an app's error say it."""
    findings = check(table, url)
    assert wrong(findings) == [subject]
    assert said in findings[subject].detail
    assert fix in findings[subject].fix
    assert findings["the rest"].verdict is Verdict.OPEN
    told = await error_of(table, url, client)
    assert said in told
    assert fix in told


@CLIENTS
@pytest.mark.parametrize("region", ["us-east-1\n", "us-east-1\r\n", " us-east-1"])
async def test_a_region_with_a_line_break(
    client: str | None, region: str, table: str, endpoint_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REGION", region)
    said = "AWS_REGION has a line break or blanks around it"
    await both(table, endpoint_url, client, "region", said, "set AWS_REGION")


@CLIENTS
async def test_a_credential_process_that_hangs(
    client: str | None,
    table: str,
    endpoint_url: str,
    profile: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(boto3_transport, "_PROCESS_SHARE", 0.005)
    monkeypatch.setattr(doctor, "_TIMEOUT", 20.0)  # As the tests' stores have it.
    profile("credential_process = /bin/sleep 600")
    said = "the credential_process of a profile did not end within 0.1 s"
    await both(table, endpoint_url, client, "credentials", said, "run the command by itself")


async def test_many_calls_wait_for_one_process_that_hangs(
    table: str,
    endpoint_url: str,
    tmp_path: Path,
    profile: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(boto3_transport, "_PROCESS_SHARE", 0.2)
    (tmp_path / "hangs").write_text("#!/bin/sh\necho run >> $0.log\nexec sleep 600\n")
    (tmp_path / "hangs").chmod(0o700)
    profile(f"credential_process = {tmp_path / 'hangs'}")
    told: list[str] = []
    async with DynamoDBStore(table, endpoint_url=endpoint_url) as store, anyio.create_task_group() as tasks:

        async def load() -> None:
            with pytest.raises(SessionError) as caught:
                await store.load(new_id(), now=0)
            told.append(str(caught.value))

        for _ in range(20):
            tasks.start_soon(load)
    assert len([each for each in told if "did not end" in each]) == 20
    # Once when the store is made, and once or twice by them all: whoever comes a moment late begins another one.
    assert len((tmp_path / "hangs.log").read_text().splitlines()) <= 3


@CLIENTS
async def test_a_role_whose_source_profile_hangs(
    client: str | None,
    table: str,
    endpoint_url: str,
    profile: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(boto3_transport, "_PROCESS_SHARE", 0.005)
    monkeypatch.setattr(doctor, "_TIMEOUT", 20.0)  # As the tests' stores have it.
    profile(
        "role_arn = arn:aws:iam::123456789012:role/app\nsource_profile = slow\n"
        "[profile slow]\ncredential_process = /bin/sleep 600"
    )
    await both(table, endpoint_url, client, "credentials", "did not end within 0.1 s", "run the command by itself")


@CLIENTS
@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("import sys; sys.exit('the secret frobozz')", "the credential_process of a profile fails"),
        ("print('the secret frobozz')", "the credential_process of a profile prints no JSON"),
    ],
    ids=["fails", "no JSON"],
)
async def test_a_credential_process_that_fails_is_named_and_not_quoted(
    client: str | None,
    command: str,
    said: str,
    table: str,
    endpoint_url: str,
    profile: Callable[[str], None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    profile(f"credential_process = {shlex.join([sys.executable, '-c', command])}")
    await both(table, endpoint_url, client, "credentials", said, "run the command by itself")
    assert "frobozz" not in f"{check(table, endpoint_url)}{await error_of(table, endpoint_url, client)}"
    assert "frobozz" not in "".join(capfd.readouterr())


@CLIENTS
@pytest.mark.usefixtures("no_keys")
async def test_a_web_identity_without_its_token_file(
    client: str | None, table: str, endpoint_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/app")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/no/such/token")
    said = "the token file of the web identity cannot be read: /no/such/token: No such file or directory"
    await both(table, endpoint_url, client, "credentials", said, "eks.amazonaws.com/role-arn")


@CLIENTS
async def test_nobody_logged_in_to_sso(
    client: str | None, table: str, endpoint_url: str, profile: Callable[[str], None]
) -> None:
    profile(
        "sso_start_url = https://example.awsapps.com/start\nsso_region = us-east-1\n"
        "sso_account_id = 123456789012\nsso_role_name = app"
    )
    await both(table, endpoint_url, client, "credentials", "nobody is logged in to SSO", "aws sso login")


@contextmanager
def sts(code: str, message: str) -> Iterator[str]:
    """Yield the address of an STS that refuses everything."""
    body = f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>"
    with answering(403, f"{body}<RequestId>x</RequestId></ErrorResponse>".encode()) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


REFUSED_ROLE = Answer(
    "User: arn:aws:iam::123456789012:user/aws-user is not authorized to perform: sts:AssumeRole on resource: "
    "arn:aws:iam::210987654321:role/cross-account-assume-role",
    "https://github.com/nccgroup/aws-inventory/issues/34",
    "STS refuses AssumeRole: AccessDenied: sts:AssumeRole on the role cross-account-assume-role",
    "let the role's trust policy name who assumes it",
    "AccessDenied",
)
REFUSED_WEB_IDENTITY = Answer(
    "Not authorized to perform sts:AssumeRoleWithWebIdentity",
    "https://github.com/sentry-kubernetes/charts/issues/514",
    "STS refuses AssumeRoleWithWebIdentity: AccessDenied",
    "let the role's trust policy name the cluster's OIDC provider",
    "AccessDenied",
)


@CLIENTS
async def test_a_role_that_sts_refuses(
    client: str | None,
    table: str,
    endpoint_url: str,
    profile: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    profile(
        "role_arn = arn:aws:iam::210987654321:role/cross-account-assume-role\nsource_profile = base\n"
        "[profile base]\naws_access_key_id = AKIAEXAMPLE\naws_secret_access_key = frobozz"
    )
    with sts(REFUSED_ROLE.code, REFUSED_ROLE.message) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", url)
        await both(table, endpoint_url, client, "credentials", REFUSED_ROLE.said, REFUSED_ROLE.fix)


@CLIENTS
@pytest.mark.usefixtures("no_keys")
async def test_a_web_identity_that_sts_refuses(
    client: str | None,
    table: str,
    endpoint_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "token").write_text("frobozz")
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/app")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    with sts(REFUSED_WEB_IDENTITY.code, REFUSED_WEB_IDENTITY.message) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", url)
        answer = REFUSED_WEB_IDENTITY
        await both(table, endpoint_url, client, "credentials", answer.said, answer.fix)


@CLIENTS
async def test_refused_credentials_are_told_with_their_source(
    client: str | None, table: str, proxy: Proxy, profile: Callable[[str], None]
) -> None:
    printed = {"Version": 1, "AccessKeyId": "AKIAEXAMPLE", "SecretAccessKey": "frobozz"}
    command = shlex.join([sys.executable, "-c", f"print({json.dumps(json.dumps(printed))})"])
    profile(f"credential_process = {command}")
    assert check(table, proxy.url)["credentials"].detail == "accepted, from the credential_process of a profile"
    refused = Step(How.ANOTHER, applied=False, error=(400, "UnrecognizedClientException"))
    proxy.play("*", rest=refused)
    source = "they are from the credential_process of a profile"
    assert source in check(table, proxy.url)["credentials"].detail
    assert source in await error_of(table, proxy.url, client)


# What does not break the app.


def test_a_table_without_the_index_is_well(moto_url: str, table_name: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = table_schema.definition(table_name)
    del made["GlobalSecondaryIndexes"]
    made["AttributeDefinitions"] = [{"AttributeName": "session_id", "AttributeType": "S"}]
    boto3.client("dynamodb", endpoint_url=moto_url, region_name="us-east-1").create_table(**made)
    assert cli.main(["check", "--table", table_name, "--endpoint-url", moto_url]) == 0
    assert "✗" not in capsys.readouterr().out


def test_what_the_apps_variables_say(monkeypatch: pytest.MonkeyPatch, table: str, endpoint_url: str) -> None:
    findings = check(table, endpoint_url)
    assert [findings[name].verdict for name in ("toggle", "secret key")] == [Verdict.OPEN, Verdict.OPEN]
    assert "session_middleware() then keeps sessions in cookies" in findings["toggle"].detail
    assert "SESSION_SECRET_KEY is not set" in findings["secret key"].detail
    assert "token_urlsafe" in findings["secret key"].fix
    monkeypatch.setenv("USE_DYNAMODB_SESSIONS", "perhaps")
    monkeypatch.setenv("SESSION_SECRET_KEY", "xyzzy-and-frobozz-with-a-line-break\n")
    findings = check(table, endpoint_url)
    assert [findings[name].verdict for name in ("toggle", "secret key")] == [Verdict.WARNING, Verdict.WARNING]
    assert "frobozz" not in f"{findings}"
    monkeypatch.setenv("USE_DYNAMODB_SESSIONS", "on")
    monkeypatch.setenv("SESSION_SECRET_KEY", "xyzzy-and-frobozz-of-more-than-32-bytes")
    findings = check(table, endpoint_url)
    assert [findings[name].verdict for name in ("toggle", "secret key")] == [Verdict.OK, Verdict.OK]
    assert "frobozz" not in f"{findings}"


def test_an_invalid_encryption_key_is_not_taken_for_a_connection_that_fails(
    monkeypatch: pytest.MonkeyPatch, table: str, endpoint_url: str
) -> None:
    monkeypatch.setenv("SESSION_ENCRYPTION_KEY", "frobozz")
    findings = check(table, endpoint_url)
    assert wrong(findings) == ["round trip"]
    assert "SESSION_ENCRYPTION_KEY" in findings["round trip"].detail
    assert "frobozz" not in f"{findings}"


def test_recovery_and_deletion_protection_are_a_line_each(table: str, moto_url: str) -> None:
    findings = check(table, moto_url)
    assert [findings[name].verdict for name in ("recovery", "deletion")] == [Verdict.OPEN, Verdict.OPEN]
    assert findings["recovery"].fix.startswith("aws dynamodb update-continuous-backups")
    assert findings["deletion"].fix.startswith("aws dynamodb update-table --deletion-protection-enabled")
    client = boto3.client("dynamodb", endpoint_url=moto_url, region_name="us-east-1")
    client.update_table(TableName=table, DeletionProtectionEnabled=True)
    client.update_continuous_backups(
        TableName=table, PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True}
    )
    findings = check(table, moto_url)
    assert [findings[name].verdict for name in ("recovery", "deletion")] == [Verdict.OK, Verdict.OK]


class _Body:
    """What a connection of botocore's would have received."""

    def stream(self) -> Iterator[bytes]:
        yield b"{}"


def test_the_host_is_the_one_that_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """Source: https://docs.aws.amazon.com/sdkref/latest/guide/feature-account-endpoints.html."""
    called = set[str]()
    build = Boto3Transport._build

    def answer(request: Any, **_: Any) -> AWSResponse:
        called.add(request.url.rstrip("/"))
        return AWSResponse(request.url, 200, {"Content-Length": "2"}, _Body())

    def build_answered(transport: Boto3Transport) -> Any:
        client = build(transport)
        client.meta.events.register_last("before-send", answer)
        return client

    monkeypatch.setattr(Boto3Transport, "_build", build_answered)
    monkeypatch.setenv("AWS_ACCOUNT_ID", "123456789012")
    connection = next(each for each in doctor.examine(Target("sessions")) if each.check == "connection")
    assert {connection.detail} == called  # An old botocore calls the region's.


# Credentials are never shown.

UNSENDABLE = {
    "a token with a line break": {"AWS_SESSION_TOKEN": "frobozz-xyzzy\n"},
    "a token with a line break in it": {"AWS_SESSION_TOKEN": "frobozz\nxyzzy"},
    "a key id with a line break": {"AWS_ACCESS_KEY_ID": "AKIAfrobozz\n"},
    "a key id with a carriage return": {"AWS_ACCESS_KEY_ID": "AKIAfrobozz\r\n"},
}


@pytest.mark.parametrize("environment", UNSENDABLE.values(), ids=UNSENDABLE)
@pytest.mark.parametrize("command", ["check", "check --json", "list", "show x", "create-table", "purge-expired"])
def test_no_command_prints_credentials_that_cannot_be_sent(
    environment: dict[str, str],
    command: str,
    table: str,
    endpoint_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cli.main([*command.split(), "--table", table, "--endpoint-url", endpoint_url]) == 1
    printed = "".join(capfd.readouterr())
    assert "is there a line break at the end of one" in printed
    for secret in ("frobozz", "xyzzy", "Signature", "AWS4-HMAC"):
        assert secret not in printed


@CLIENTS
@pytest.mark.parametrize("environment", UNSENDABLE.values(), ids=UNSENDABLE)
async def test_no_error_shows_credentials_that_cannot_be_sent(
    environment: dict[str, str],
    client: str | None,
    table: str,
    endpoint_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    told = await error_of(table, endpoint_url, client)
    assert "is there a line break at the end of one" in told
    assert "frobozz" not in told


@pytest.mark.parametrize("kind", ["HTTPClientError", "SomethingNew", "ValueError"])
def test_whatever_a_client_quotes_is_not_shown(
    kind: str, table: str, endpoint_url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Only an error whose class is known to quote nothing but names is shown in its own words."""
    raised = type(kind, (Exception,), {})

    def fail(**_: Any) -> None:
        raise raised("Credential=AKIAfrobozz")

    build = Boto3Transport._build

    def build_failing(transport: Boto3Transport) -> Any:
        client = build(transport)
        client.meta.events.register("before-send.dynamodb", fail)
        return client

    monkeypatch.setattr(Boto3Transport, "_build", build_failing)
    assert cli.main(["check", "--table", table, "--endpoint-url", endpoint_url]) == 1
    assert cli.main(["create-table", "--table", table, "--endpoint-url", endpoint_url]) == 1
    assert "frobozz" not in "".join(capfd.readouterr())


def test_every_answer_says_where_it_is_from() -> None:
    answers = [*DENIALS.values(), BACKFILLING, THROTTLING, REFUSED_ROLE, REFUSED_WEB_IDENTITY]
    assert all("https://" in answer.source for answer in answers)
    assert os.environ.get("AWS_PROFILE") is None  # No test has left its own behind.
