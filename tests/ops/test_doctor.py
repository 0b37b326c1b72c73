"""What the doctor finds on set-ups that are well, and on those that are broken in every way it knows."""

import json
import shlex
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
import pytest

from dynamodb_sessions.exceptions import ConfigurationError
from dynamodb_sessions.ops import cli, doctor
from dynamodb_sessions.ops.doctor import Finding, Verdict
from dynamodb_sessions.ops.emit import iam
from dynamodb_sessions.ops.target import Target
from dynamodb_sessions.stores import table_schema
from tests.conftest import KEY

OK, WARNING, WRONG, OPEN = Verdict.OK, Verdict.WARNING, Verdict.WRONG, Verdict.OPEN
NEEDED = ("GetItem", "PutItem", "UpdateItem", "DeleteItem", "TransactWriteItems", "Query")
OPTIONAL = ("Scan", "DescribeTable", "DescribeTimeToLive")
SETTINGS = ("toggle", "secret key")
PROTECTION = ("recovery", "deletion")
ALL = (
    *SETTINGS,
    *("region", "connection", "clock", "credentials", "table", "key", "ttl", "index"),
    *PROTECTION,
    *NEEDED,
    *OPTIONAL,
    "round trip",
)

Check = Callable[..., dict[str, Finding]]


@pytest.fixture(params=["moto", "local"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def _an_apps_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USE_DYNAMODB_SESSIONS", "1")
    monkeypatch.setenv("SESSION_SECRET_KEY", KEY)


@pytest.fixture
def client(endpoint_url: str) -> Any:
    return boto3.client("dynamodb", endpoint_url=endpoint_url, region_name="us-east-1")


@pytest.fixture
def check(endpoint_url: str, table_name: str) -> Check:
    """Return a function that examines the test's table and returns the findings by the checks' names."""

    def run(url: str = endpoint_url) -> dict[str, Finding]:
        found = list(doctor.examine(Target(table_name, endpoint_url=url)))
        by_name = {finding.check: finding for finding in found}
        assert len(by_name) == len(found)
        return by_name

    return run


def verdicts(findings: dict[str, Finding], verdict: Verdict) -> list[str]:
    """Return what was found to be so. Whether a table of a test is protected, only the test of that asks."""
    return [name for name, finding in findings.items() if finding.verdict is verdict and name not in PROTECTION]


ASKED = tuple(name for name in ALL if name not in PROTECTION)


class Front(ThreadingHTTPServer):
    """Stands before an engine and, for the tests, behaves as AWS would: denies, refuses, has another time."""

    def __init__(self, url: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.engine_url = url
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.denied: set[str] = set()
        self.code = ""
        self.rewrite: Callable[[str, dict[str, Any]], Any] = lambda _operation, _answer: None
        self.ahead: int | None = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Front

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        operation = self.headers["X-Amz-Target"].partition(".")[2]
        if self.server.code:
            self.answer(400, error(self.server.code))
        elif self.permissions(operation, body) & self.server.denied:
            self.answer(400, error("AccessDeniedException"))
        else:
            headers = {name: value for name, value in self.headers.items() if name != "Host"}
            request = urllib.request.Request(self.server.engine_url, body, headers)
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    said = json.loads(answer.read())
                self.server.rewrite(operation, said)
                self.answer(200, json.dumps(said).encode())
            except urllib.error.HTTPError as answer:
                with answer:
                    self.answer(answer.code, answer.read())

    def permissions(self, operation: str, body: bytes) -> set[str]:
        """What IAM asks for: a transaction needs what is in it."""
        if operation != "TransactWriteItems":
            return {operation}
        return {f"{kind}Item" for write in json.loads(body)["TransactItems"] for kind in write} | {operation}

    def answer(self, status: int, body: bytes) -> None:
        self.send_response_only(status)
        if self.server.ahead is not None:
            self.send_header("Date", formatdate(time.time() + self.server.ahead, usegmt=True))
        self.send_header("Content-Type", "application/x-amz-json-1.0")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def error(code: str) -> bytes:
    return json.dumps({"__type": f"com.amazon.coral.service#{code}", "message": "as AWS says it"}).encode()


@pytest.fixture
def front(endpoint_url: str) -> Iterator[Front]:
    with Front(endpoint_url) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_nothing_is_wrong_with_the_packages_own_table(check: Check, client: Any, table_name: str) -> None:
    table_schema.create(client, table_name)
    findings = check()
    assert list(ALL) == list(findings)
    assert list(ASKED) == verdicts(findings, OK)
    assert not any(findings[name].fix for name in ASKED)


def test_nothing_is_wrong_with_the_packages_table_of_conversations(
    client: Any, table_name: str, endpoint_url: str
) -> None:
    table_schema.create(client, table_name, conversations=True)
    findings = [*doctor.examine(Target(table_name, endpoint_url=endpoint_url, conversations=True))]
    assert [finding.check for finding in findings if finding.verdict is not OK] == list(PROTECTION)
    assert {"Query messages", "BatchWriteItem", "Query"} <= {finding.check for finding in findings}
    assert client.scan(TableName=table_name)["Items"] == []


@pytest.mark.parametrize("denied", ["Query", "BatchWriteItem"])
def test_what_an_agents_role_lacks_is_named(denied: str, client: Any, table_name: str, front: Front) -> None:
    table_schema.create(client, table_name, conversations=True)
    front.denied = {denied}
    findings = {
        finding.check: finding
        for finding in doctor.examine(Target(table_name, endpoint_url=front.url, conversations=True))
    }
    name = "Query messages" if denied == "Query" else denied
    assert findings[name].verdict is WRONG
    assert f"allow the role {denied} on the table" in findings[name].fix
    command = f"`dynamodb-sessions emit iam --table {table_name} --region us-east-1 --endpoint-url {front.url}"
    assert f"{command} --conversations`" in findings[name].fix


def test_a_table_of_sessions_is_none_of_conversations(client: Any, table_name: str, endpoint_url: str) -> None:
    table_schema.create(client, table_name)
    found = [*doctor.examine(Target(table_name, endpoint_url=endpoint_url, conversations=True))]
    (wrong,) = [finding for finding in found if finding.verdict is WRONG]
    assert (wrong.check, wrong.detail) == (
        "key",
        "the table's key is session_id, a string, not session_id, a string and position, a number",
    )
    assert wrong.fix == "it is a table of sessions: look at it without --conversations"


def test_no_table_of_conversations(endpoint_url: str, table_name: str) -> None:
    found = [*doctor.examine(Target(table_name, endpoint_url=endpoint_url, conversations=True))]
    (wrong,) = [finding for finding in found if finding.verdict is WRONG]
    assert wrong.check == "table"
    assert (
        wrong.fix.count(f"--table {table_name} --region us-east-1 --endpoint-url {endpoint_url} --conversations`") == 2
    )


def test_a_table_of_conversations_that_is_taken_for_one_of_sessions(
    client: Any, endpoint_url: str, table_name: str
) -> None:
    table_schema.create(client, table_name, conversations=True)
    found = {finding.check: finding for finding in doctor.examine(Target(table_name, endpoint_url=endpoint_url))}
    assert found["key"].verdict is WRONG
    assert "--conversations" in found["key"].fix


def test_it_leaves_nothing_behind(check: Check, client: Any, table_name: str) -> None:
    table_schema.create(client, table_name)
    check()
    assert client.scan(TableName=table_name)["Items"] == []


def test_its_writes_harm_nothing_that_is_there(check: Check, client: Any, table_name: str) -> None:
    """Even under the ids that it tries them on."""
    table_schema.create(client, table_name)
    items = [{"session_id": {"S": name}, "x": {"S": "1"}} for name in ("dynamodb-sessions/probe", doctor._ANOTHER_ID)]
    for item in items:
        client.put_item(TableName=table_name, Item=item)
    assert verdicts(check(), OK) == list(ASKED)
    assert sorted(client.scan(TableName=table_name)["Items"], key=str) == sorted(items, key=str)


# Nine broken set-ups.


def test_no_region(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION")
    findings = check()
    assert verdicts(findings, WRONG) == ["region"]
    assert findings["region"].detail == "You must specify a region"
    assert "set AWS_REGION" in findings["region"].fix
    assert list(findings) == [*SETTINGS, "region", "the rest"]


def test_no_credentials(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    findings = check()
    assert verdicts(findings, WRONG) == ["credentials"]
    assert findings["credentials"].detail == "Unable to locate credentials"
    assert "set AWS_ACCESS_KEY_ID" in findings["credentials"].fix
    assert verdicts(findings, OPEN) == ["the rest"]


@pytest.mark.parametrize("code", ["UnrecognizedClientException", "ExpiredTokenException", "InvalidSignatureException"])
def test_wrong_credentials(check: Check, front: Front, code: str) -> None:
    front.code = code
    findings = check(front.url)
    assert verdicts(findings, WRONG) == ["credentials"]
    assert code in findings["credentials"].detail
    assert "they are from the environment" in findings["credentials"].detail
    assert "correct AWS_ACCESS_KEY_ID" in findings["credentials"].fix
    assert list(findings)[-1] == "the rest"


@pytest.mark.parametrize("engine", ["local"], indirect=True)
def test_wrong_credentials_as_an_engine_has_it(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "no-such-key!")
    findings = check()
    assert verdicts(findings, WRONG) == ["credentials"]
    assert "no-such-key" not in str(findings)


def test_no_table(check: Check, table_name: str) -> None:
    findings = check()
    assert verdicts(findings, WRONG) == ["table"]
    assert findings["table"].detail == f"there is no table {table_name} in us-east-1"
    assert "create-table" in findings["table"].fix
    assert "SESSION_TABLE_NAME" in findings["table"].fix


def make(client: Any, definition: dict[str, Any], ttl: str | None = "ttl") -> None:
    client.create_table(**definition)
    if ttl is not None:
        client.update_time_to_live(
            TableName=definition["TableName"], TimeToLiveSpecification={"Enabled": True, "AttributeName": ttl}
        )


def keyed(table_name: str, name: str, type_: str, *more: tuple[str, str]) -> dict[str, Any]:
    """Return the definition with another key."""
    made = table_schema.definition(table_name)
    made["KeySchema"] = [{"AttributeName": name, "KeyType": "HASH"}]
    made["KeySchema"] += [{"AttributeName": name, "KeyType": "RANGE"} for name, _ in more]
    keys = {"owner": "S", "created_at": "N", name: type_, **dict(more)}
    made["AttributeDefinitions"] = [{"AttributeName": name, "AttributeType": type_} for name, type_ in keys.items()]
    return made


@pytest.mark.parametrize(
    ("key", "detail"),
    [
        ([("id", "S")], "the table's key is id, a string, not session_id, a string"),
        ([("session_id", "N")], "the table's key is session_id, a number, not session_id, a string"),
        (
            [("session_id", "S"), ("kind", "S")],
            "the table's key is session_id, a string and kind, a string, not session_id, a string",
        ),
    ],
    ids=["name", "type", "sort key"],
)
def test_wrong_key(
    check: Check, client: Any, table_name: str, front: Front, engine: str, key: list[tuple[str, str]], detail: str
) -> None:
    (name, type_), *more = key
    make(client, keyed(table_name, name, type_, *more))
    findings = check()
    assert verdicts(findings, WRONG) == ["key"]
    assert findings["key"].detail == detail
    assert "make another" in findings["key"].fix
    assert verdicts(findings, OPEN) == ["permissions", "the rest"]
    if engine == "moto":  # It answers whatever the key.
        return
    # To a role that may not describe the table, its answers tell.
    front.denied = {"DescribeTable", "DescribeTimeToLive"}
    findings = check(front.url)
    assert verdicts(findings, WRONG) == ["key"]
    assert findings["key"].detail == "the table's key is not session_id, a string"


def test_ttl_off(check: Check, client: Any, table_name: str) -> None:
    make(client, table_schema.definition(table_name), ttl=None)
    findings = check()
    assert (verdicts(findings, WARNING), verdicts(findings, WRONG)) == (["ttl"], [])
    assert "it is off" in findings["ttl"].detail
    assert "update-time-to-live --time-to-live-specification Enabled=true,AttributeName=ttl" in findings["ttl"].fix
    assert f"--table-name {table_name} --region us-east-1 --endpoint-url http://127" in findings["ttl"].fix


def test_ttl_on_another_attribute(check: Check, client: Any, table_name: str) -> None:
    make(client, table_schema.definition(table_name), ttl="expires")
    findings = check()
    assert (verdicts(findings, WARNING), verdicts(findings, WRONG)) == (["ttl"], [])
    assert "on the attribute expires, not ttl" in findings["ttl"].detail
    off, on = findings["ttl"].fix.split(", then, ")
    assert "Enabled=false,AttributeName=expires" in off
    assert "Enabled=true,AttributeName=ttl" in on


def test_index_missing(check: Check, client: Any, table_name: str, front: Front, engine: str) -> None:
    made = keyed(table_name, "session_id", "S")
    del made["GlobalSecondaryIndexes"]
    made["AttributeDefinitions"] = [{"AttributeName": "session_id", "AttributeType": "S"}]
    make(client, made)
    findings = check()
    assert (verdicts(findings, OPEN), verdicts(findings, WRONG)) == (["index", "Query"], [])
    assert "there is no owner-index" in findings["index"].detail
    assert findings["index"].fix.startswith("aws dynamodb update-table")
    assert findings["Query"].verdict is OPEN
    if engine == "moto":  # It has an answer of its own.
        return
    front.denied = {"DescribeTable"}
    findings = check(front.url)
    assert verdicts(findings, WRONG) == []
    assert findings["index"].verdict is OPEN
    assert "there is no owner-index" in findings["index"].detail


# The index of tenants, which not everybody needs.

TENANT_CHECKS = ("tenant index", "Query tenants")


def with_tenants(table_name: str, url: str) -> dict[str, Finding]:
    target = Target(table_name, "us-east-1", url, tenants=True)
    return {finding.check: finding for finding in doctor.examine(target)}


def test_the_index_of_tenants_is_looked_at_where_there_is_one(
    check: Check, client: Any, table_name: str, front: Front
) -> None:
    table_schema.create(client, table_name, tenants=True)
    findings = check()
    assert [findings[name].verdict for name in TENANT_CHECKS] == [OK, OK]
    assert findings["tenant index"].detail == "tenant-index"
    front.denied = {"Query"}
    assert verdicts(check(front.url), WRONG) == ["Query"], "who lists no tenants need not be allowed to"
    findings = with_tenants(table_name, front.url)
    assert verdicts(findings, WRONG) == ["Query tenants", "Query"]
    assert "the index tenant-index" in findings["Query tenants"].fix
    assert "emit iam" in findings["Query tenants"].fix
    assert "--tenants" in findings["Query tenants"].fix


def test_it_is_missed_only_where_it_is_asked_for(
    check: Check, client: Any, table_name: str, front: Front, engine: str
) -> None:
    """And the command that it prints makes it."""
    make(client, table_schema.definition(table_name))
    assert not check().keys() & {*TENANT_CHECKS}
    findings = with_tenants(table_name, client.meta.endpoint_url)
    assert verdicts(findings, WRONG) == ["tenant index"]
    assert findings["tenant index"].detail.startswith("there is no tenant-index")
    if engine == "local":  # To a role that may not describe the table, its answers tell.
        front.denied = {"DescribeTable"}
        assert verdicts(with_tenants(table_name, front.url), WRONG) == ["tenant index"]
    words = shlex.split(findings["tenant index"].fix)
    client.update_table(**json.loads(words[words.index("--cli-input-json") + 1]))
    indexes = client.describe_table(TableName=table_name)["Table"]["GlobalSecondaryIndexes"]
    assert {index["IndexName"] for index in indexes} == {"owner-index", "tenant-index"}
    if engine == "local":  # moto forgets the keys of the other index. This one may be CREATING still.
        assert verdicts(with_tenants(table_name, client.meta.endpoint_url), WRONG) == []


def test_an_index_of_tenants_with_other_keys_is_wrong(check: Check, client: Any, table_name: str) -> None:
    made = table_schema.definition(table_name, tenants=True)
    made["GlobalSecondaryIndexes"][1]["KeySchema"] = [{"AttributeName": "tenant", "KeyType": "HASH"}]
    make(client, made)
    findings = check()
    assert verdicts(findings, WRONG) == ["tenant index"]
    assert "the keys of tenant-index are tenant, a string, not tenant, a string and owner" in (
        findings["tenant index"].detail
    )
    assert "update-table" in findings["tenant index"].fix


# What else can be wrong.


@pytest.mark.parametrize(
    ("change", "verdict", "said"),
    [
        ({"KeySchema": [{"AttributeName": "owner", "KeyType": "HASH"}]}, WRONG, "the keys of owner-index are owner, a"),
        ({"IndexName": "owners"}, OPEN, "there is no owner-index"),
        ({"Projection": {"ProjectionType": "ALL"}}, WARNING, "owner-index projects ALL"),
    ],
    ids=["keys", "name", "projection"],
)
def test_another_index(
    check: Check, client: Any, table_name: str, change: dict[str, Any], verdict: Verdict, said: str
) -> None:
    made = table_schema.definition(table_name)
    made["GlobalSecondaryIndexes"][0] |= change
    keys = {key["AttributeName"] for key in (*made["KeySchema"], *made["GlobalSecondaryIndexes"][0]["KeySchema"])}
    made["AttributeDefinitions"] = [each for each in made["AttributeDefinitions"] if each["AttributeName"] in keys]
    make(client, made)
    findings = check()
    assert findings["index"].verdict is verdict
    assert findings["index"].detail.startswith(said)
    assert "update-table" in findings["index"].fix
    assert verdicts(findings, WRONG) == (["index"] if verdict is WRONG else [])


@pytest.mark.parametrize("engine", ["moto"], indirect=True)
def test_what_is_being_built_wants_patience(check: Check, client: Any, table_name: str, front: Front) -> None:
    table_schema.create(client, table_name)

    def build_index(operation: str, answer: dict[str, Any]) -> None:
        if operation == "DescribeTable":
            answer["Table"]["GlobalSecondaryIndexes"][0]["IndexStatus"] = "CREATING"

    def build_table(operation: str, answer: dict[str, Any]) -> None:
        if operation == "DescribeTable":
            answer["Table"]["TableStatus"] = "CREATING"

    front.rewrite = build_index
    findings = check(front.url)
    assert (verdicts(findings, WARNING), verdicts(findings, WRONG)) == (["index"], [])
    assert "wait" in findings["index"].fix
    front.rewrite = build_table
    findings = check(front.url)
    assert verdicts(findings, WRONG) == ["table"]
    assert "wait" in findings["table"].fix


@pytest.mark.parametrize("engine", ["moto"], indirect=True)
def test_a_round_trip_that_fails_is_named(check: Check, client: Any, table_name: str, front: Front) -> None:
    table_schema.create(client, table_name)
    front.rewrite = lambda operation, answer: operation == "GetItem" and answer.pop("Item", None)
    findings = check(front.url)
    assert verdicts(findings, WRONG) == ["round trip"]
    assert findings["round trip"].detail == "what was stored is not what was loaded"
    assert client.scan(TableName=table_name)["Items"] == []


@pytest.mark.parametrize(
    ("denied", "expected"),
    [
        ("GetItem", ["GetItem"]),
        ("PutItem", ["PutItem", "TransactWriteItems"]),
        ("UpdateItem", ["UpdateItem"]),
        ("DeleteItem", ["DeleteItem", "TransactWriteItems"]),
        ("TransactWriteItems", ["TransactWriteItems"]),
        ("Query", ["Query"]),
    ],
)
def test_each_permission_that_lacks_is_named(
    check: Check, client: Any, table_name: str, front: Front, denied: str, expected: list[str]
) -> None:
    table_schema.create(client, table_name)
    front.denied = {denied}
    findings = check(front.url)
    assert verdicts(findings, WRONG) == expected
    assert "emit iam" in findings[expected[0]].fix
    assert "the index owner-index" in findings[expected[0]].fix or denied != "Query"
    assert ("round trip" in findings) == (denied == "Query")


def test_the_apps_own_role_is_well(check: Check, client: Any, table_name: str, front: Front) -> None:
    """It must not have an operator's permissions, so what it cannot see is left open."""
    table_schema.create(client, table_name)
    front.denied = set(OPTIONAL)
    findings = check(front.url)
    assert verdicts(findings, WRONG) == []
    assert verdicts(findings, OPEN) == ["ttl", *OPTIONAL]
    assert "emit iam --operator" in findings["ttl"].fix


def test_a_role_without_any_permission_is_told_all_it_lacks(
    check: Check, client: Any, table_name: str, front: Front
) -> None:
    table_schema.create(client, table_name)
    front.denied = {*NEEDED, *OPTIONAL}
    findings = check(front.url)
    assert verdicts(findings, WRONG) == list(NEEDED)
    assert verdicts(findings, OPEN) == ["table", "key", "ttl", "index", *OPTIONAL]


def test_the_permissions_it_tries_are_those_of_the_policies() -> None:
    assert {*iam.ITEM_ACTIONS, "Query", "TransactWriteItems"} == set(NEEDED)
    assert set(iam.OPERATOR_ACTIONS) == {*OPTIONAL, "BatchGetItem", "DescribeContinuousBackups"}


@pytest.mark.parametrize("engine", ["moto"], indirect=True)
@pytest.mark.parametrize(
    ("ahead", "verdict", "said"),
    [
        (0, OK, "agrees with"),
        (-20, OK, "s ahead of"),
        (60, WARNING, "s behind"),
        (-60, WARNING, "s ahead of"),
        (400, WRONG, "AWS refuses"),
        (-400, WRONG, "s ahead of"),
        (None, OPEN, "did not say"),
    ],
)
def test_the_clock(
    check: Check, client: Any, table_name: str, front: Front, ahead: int | None, verdict: Verdict, said: str
) -> None:
    table_schema.create(client, table_name)
    front.ahead = ahead
    findings = check(front.url)
    assert findings["clock"].verdict is verdict
    assert said in findings["clock"].detail
    assert ("NTP" in findings["clock"].fix) == (verdict in {WARNING, WRONG})


@pytest.mark.parametrize("engine", ["moto"], indirect=True)
def test_a_clock_that_is_off_is_named_beside_the_refusal_it_causes(check: Check, front: Front) -> None:
    front.ahead, front.code = 1000, "InvalidSignatureException"
    assert verdicts(check(front.url), WRONG) == ["clock", "credentials"]


@pytest.mark.parametrize("engine", ["moto"], indirect=True)
@pytest.mark.parametrize(
    ("url", "said"), [("http://127.0.0.1:9", "Could not connect"), ("127.0.0.1:9", "Invalid endpoint")]
)
def test_nobody_there(check: Check, url: str, said: str) -> None:
    findings = check(url)
    assert verdicts(findings, WRONG) == ["connection"]
    assert said in findings["connection"].detail
    assert "endpoint" in findings["connection"].fix


@pytest.mark.parametrize("engine", ["moto"], indirect=True)
@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"AWS_PROFILE": "nobody"}, "(nobody) could not be found"),
        ({"AWS_SECRET_ACCESS_KEY": ""}, "Partial credentials found in env"),
    ],
    ids=["profile", "partial"],
)
def test_credentials_that_are_half_there(
    check: Check, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], said: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    findings = check()
    assert verdicts(findings, WRONG) == ["credentials"]
    assert said in findings["credentials"].detail


@pytest.mark.parametrize("engine", ["moto"], indirect=True)
def test_what_nobody_expects_is_named_too(check: Check, front: Front) -> None:
    front.code = "InternalServerError"
    findings = check(front.url)
    assert verdicts(findings, WRONG) == ["connection"]
    assert "InternalServerError" in findings["connection"].detail


def test_a_name_that_is_none_is_no_finding() -> None:
    with pytest.raises(ConfigurationError, match="no/such"):
        list(doctor.examine(Target("no/such")))


# As a user sees it.


def test_it_prints_a_line_for_each_check(
    client: Any, table_name: str, endpoint_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    table_schema.create(client, table_name)
    assert cli.main(["check", "--table", table_name, "--endpoint-url", endpoint_url]) == 0
    lines = capsys.readouterr().out.splitlines()
    told = [line for line in lines if line[2:20].strip()]
    assert [line[2:20].strip() for line in told] == list(ALL)
    assert {line[:2] for line in told if line[2:20].strip() in ASKED} == {"✓ "}


def test_what_is_wrong_stands_beside_its_fix_and_fails_the_command(
    table_name: str, endpoint_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["check", "--table", table_name, "--endpoint-url", endpoint_url]) == 1
    *_, wrong, fix, rest = capsys.readouterr().out.splitlines()
    assert wrong.startswith(f"✗ table              there is no table {table_name}")
    assert fix.strip().startswith("fix: correct SESSION_TABLE_NAME")
    assert rest.startswith("- the rest")


def test_it_prints_json(client: Any, table_name: str, endpoint_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    make(client, table_schema.definition(table_name), ttl=None)
    assert cli.main(["check", "--json", "--table", table_name, "--endpoint-url", endpoint_url]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["ok"], said["table"]) == (True, table_name)
    assert [each["check"] for each in said["checks"]] == list(ALL)
    (wrong,) = [each for each in said["checks"] if each["verdict"] == "warning"]
    assert wrong["check"] == "ttl"
    assert wrong["fix"].startswith("aws dynamodb update-time-to-live")


@pytest.mark.parametrize("engine", ["moto"], indirect=True)
def test_it_never_shows_credentials(
    table_name: str,
    endpoint_url: str,
    client: Any,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    table_schema.create(client, table_name)
    for name, value in (("ACCESS_KEY_ID", "AKIAxyzzy"), ("SECRET_ACCESS_KEY", "plugh"), ("SESSION_TOKEN", "frobozz")):
        monkeypatch.setenv(f"AWS_{name}", value)
    for url in (endpoint_url, "http://127.0.0.1:9"):
        cli.main(["check", "--table", table_name, "--endpoint-url", url])
    said = "".join(capfd.readouterr())
    assert "round trip" in said
    assert not [word for word in ("xyzzy", "plugh", "frobozz") if word in said]
