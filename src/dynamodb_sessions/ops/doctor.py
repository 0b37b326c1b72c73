"""The doctor: looks at everything sessions need in DynamoDB, and names what is wrong and what fixes it.

It changes nothing: its writes have a condition that cannot be true, except for one session that it makes, changes and
deletes. What it may not look at is left open, not wrong: an app's role must not have an operator's permissions.
"""

import time
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any

import anyio

from dynamodb_sessions.aws.errors import CREDENTIALS_REFUSED
from dynamodb_sessions.clock import wall_clock
from dynamodb_sessions.exceptions import ConfigurationError, SessionError
from dynamodb_sessions.identifiers import new_id
from dynamodb_sessions.ops.emit import aws_cli
from dynamodb_sessions.ops.target import Target
from dynamodb_sessions.stores import item_format, table_schema
from dynamodb_sessions.stores.contract import Changes, Record
from dynamodb_sessions.stores.dynamodb import DynamoDBStore
from dynamodb_sessions.stores.reserved_ids import PROBE_ID

MAX_SKEW = 300
"""Seconds a clock may be off before AWS refuses its signatures. Source: "Signature Version 4", IAM user guide."""

_WARN_SKEW = 30
_LIFETIME = 60

_NOBODY = "dynamodb-sessions/nobody"
_ANOTHER_ID = f"{PROBE_ID}/2"

_DENIED = "AccessDeniedException"
_MISSING = "ResourceNotFoundException"
_INVALID = "ValidationException"
_CONDITION_FAILED = ("ConditionalCheckFailedException", "TransactionCanceledException")
_REFUSED = (
    *CREDENTIALS_REFUSED,
    "SignatureDoesNotMatch",
    "MissingAuthenticationToken",
    "InvalidClientTokenId",
    "OptInRequired",
)

_FIX_REGION = "set AWS_REGION, or give --region"
_FIX_CREDENTIALS = (
    "correct AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or the profile or role in their place"
)
_FIND_CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, choose an AWS_PROFILE, or give the machine a role"
_FIX_CONNECTION = "correct the region or the endpoint's address, and make sure that the network lets HTTPS through"

# By the name of the SDK's error: which check has failed, and what fixes it.
_CAUSES = {
    "NoRegionError": ("region", _FIX_REGION),
    "InvalidRegionError": ("region", _FIX_REGION),
    "NoCredentialsError": ("credentials", _FIND_CREDENTIALS),
    "PartialCredentialsError": ("credentials", _FIND_CREDENTIALS),
    "CredentialRetrievalError": ("credentials", _FIX_CREDENTIALS),
    "ProfileNotFound": ("credentials", "set AWS_PROFILE to a profile that exists"),
    "SSOError": ("credentials", "log in again: aws sso login"),
    "TokenRetrievalError": ("credentials", "log in again: aws sso login"),
    "ValueError": ("connection", "give the endpoint as a URL, like http://127.0.0.1:8000"),
    "ConnectionError": ("connection", _FIX_CONNECTION),
    "HTTPClientError": ("connection", _FIX_CONNECTION),
}

_OF_NOBODY: dict[str, Any] = {
    "KeyConditionExpression": "#k = :k",
    "ExpressionAttributeNames": {"#k": table_schema.KEY},
    "ExpressionAttributeValues": {":k": {"S": _NOBODY}},
}

_TYPES = {"S": "a string", "N": "a number", "B": "binary"}


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"
    OPEN = "open"
    """Nobody can tell, or nobody needs it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check has found, and, if that is not well, what fixes it."""

    check: str
    verdict: Verdict
    detail: str
    fix: str = ""


def examine(target: Target) -> Iterator[Finding]:
    """Yield what every check finds, as it finds it; after one without which there is nothing to look at, no more.

    Raises ConfigurationError for an invalid table name.
    """
    store = DynamoDBStore(target.table_name, region_name=target.region_name, endpoint_url=target.endpoint_url)
    try:
        client = store.client
        yield _ok("region", client.meta.region_name)
        yield from _Examination(replace(target, region_name=client.meta.region_name), store).findings()
    except _Interrupted:
        pass
    except ConfigurationError as error:
        yield _failed(error.__cause__ or error)
    except Exception as error:  # noqa: BLE001 - whatever the SDK raises is a finding
        yield _failed(error)
    else:
        return
    yield Finding("the rest", Verdict.OPEN, "cannot be looked at before that is fixed")


class _Interrupted(Exception):
    """What was found leaves nothing else to look at."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """What DynamoDB said: no code is a success."""

    code: str
    message: str
    body: dict[str, Any] = field(repr=False)
    skew: float | None
    """Seconds this machine's clock is ahead of DynamoDB's; None: it did not say."""

    @property
    def is_allowed(self) -> bool:
        return not self.code or self.code in _CONDITION_FAILED


class _Examination:
    """One visit: the calls, each made once, and what follows from their answers."""

    def __init__(self, target: Target, store: DynamoDBStore) -> None:
        self._target = target
        self._store = store
        self._client = store.client

    @property
    def _name(self) -> str:
        return "table_name" if self._target.conversations else "SESSION_TABLE_NAME"

    def findings(self) -> Iterator[Finding]:
        got = self._ask("get_item", Key=self._key_of(PROBE_ID))
        yield _ok("connection", self._client.meta.endpoint_url)
        yield _clock(got.skew)
        if got.code in _REFUSED:
            yield _wrong("credentials", f"DynamoDB refuses them: {got.code}", _FIX_CREDENTIALS)
            raise _Interrupted
        yield _ok("credentials", "accepted")

        described = self._ask("describe_table")
        made = described.body.get("Table", {})
        at_table = self._table(got, described)
        yield at_table
        if at_table.verdict is Verdict.WRONG:
            raise _Interrupted
        at_key = self._key(got, made)
        yield at_key
        time_to_live = self._ask("describe_time_to_live")
        yield self._time_to_live(time_to_live)
        queried = self._ask("query", **table_schema.of_owner(_NOBODY))
        at_index = self._index(queried, made)
        yield at_index

        if at_key.verdict is Verdict.WRONG:
            yield Finding("permissions", Verdict.OPEN, "cannot be tried with that key")
            raise _Interrupted
        needed = list(self._needed(got, queried, at_index))
        yield from needed
        for operation, answer in (
            ("Scan", self._ask("scan", Limit=1)),
            ("DescribeTable", described),
            ("DescribeTimeToLive", time_to_live),
        ):
            yield self._optional(operation, answer)
        # A conversation's life takes the extra that agents take.
        is_well = all(finding.verdict is not Verdict.WRONG for finding in needed if finding.check != "Query")
        if is_well and not self._target.conversations:
            yield self._round_trip()

    def _key_of(self, session_id: str) -> dict[str, Any]:
        """Return the key of an item that is not there."""
        position = {table_schema.POSITION: item_format.number(0)} if self._target.conversations else {}
        return {**item_format.key(session_id), **position}

    def _ask(self, operation: str, **parameters: Any) -> _Answer:
        """Make a call on the table. Raises what the SDK raises if nothing answers."""
        if operation not in {"transact_write_items", "batch_write_item"}:
            parameters["TableName"] = self._target.table_name
        started = time.time()
        try:
            body: dict[str, Any] = getattr(self._client, operation)(**parameters)
        except self._client.exceptions.ClientError as error:
            body = error.response
        ended = time.time()
        error_part = body.get("Error", {})
        code = error_part.get("Code", "")
        if code not in {"", _DENIED, _MISSING, _INVALID, *_CONDITION_FAILED, *_REFUSED}:
            raise SessionError(f"DynamoDB said {code} to {operation}")
        date = body["ResponseMetadata"].get("HTTPHeaders", {}).get("date")
        return _Answer(code, error_part.get("Message", ""), body, date and _skew(date, started, ended))

    def _table(self, got: _Answer, described: _Answer) -> Finding:
        name, region = self._target.table_name, self._target.region_name
        if _MISSING in (got.code, described.code):
            return _wrong(
                "table",
                f"there is no table {name} in {region}",
                f"correct {self._name} or the region, or make it with {self._target.command('create-table')} or, "
                f"to rely on it, what {self._target.command('emit cli')} prints",
            )
        status = described.body.get("Table", {}).get("TableStatus", "ACTIVE")
        if status not in {"ACTIVE", "UPDATING"}:
            return _wrong("table", f"{name} is {status}", "wait until it is ACTIVE")
        if got.code == described.code == _DENIED:
            return _not_allowed("table", "DescribeTable")
        return _ok("table", name)

    def _key(self, got: _Answer, made: dict[str, Any]) -> Finding:
        definition = table_schema.definition(self._target.table_name, conversations=self._target.conversations)
        expected = _schema(definition["KeySchema"], definition)
        fix = f"the key of a table cannot be changed: make another one, and point {self._name} at it"
        if not made:
            if got.code == _DENIED:
                return _not_allowed("key", "DescribeTable")
            if got.code == _INVALID:
                return _wrong("key", f"the table's key is not {expected}", fix)
            return _ok("key", expected)
        actual = _schema(made["KeySchema"], made)
        if actual == expected:
            return _ok("key", expected)
        other = table_schema.definition(self._target.table_name, conversations=not self._target.conversations)
        if actual == _schema(other["KeySchema"], other) and self._target.conversations:
            fix = "it is a table of sessions: look at it without --conversations"
        elif actual == _schema(other["KeySchema"], other):
            fix = "it is a table of conversations: look at it with --conversations"
        return _wrong("key", f"the table's key is {actual}, not {expected}", fix)

    def _time_to_live(self, answer: _Answer) -> Finding:
        if answer.code:
            return _not_allowed("ttl", "DescribeTimeToLive")
        description = answer.body["TimeToLiveDescription"]
        status, attribute = description["TimeToLiveStatus"], description.get("AttributeName")
        if status in {"DISABLED", "DISABLING"}:
            return _wrong(
                "ttl", "it is off: expired sessions stay, and are paid for", aws_cli.enable_time_to_live(self._target)
            )
        if attribute != table_schema.TTL:
            off = aws_cli.enable_time_to_live(self._target, enabled=False, attribute=str(attribute))
            return _wrong(
                "ttl",
                f"it is on the attribute {attribute}, not {table_schema.TTL}: sessions do not expire by it",
                f"{off}, then, about an hour later, {aws_cli.enable_time_to_live(self._target)}",
            )
        return _ok("ttl", f"on the attribute {table_schema.TTL}")

    def _index(self, queried: _Answer, made: dict[str, Any]) -> Finding:
        name, add = table_schema.OWNER_INDEX, aws_cli.add_index(self._target)
        missing = _wrong("index", f"there is no {name}, which finds the sessions of an owner", add)
        if not made:
            if queried.code == _DENIED:
                return _not_allowed("index", "DescribeTable")
            return missing if queried.code == _INVALID else _ok("index", name)
        found = next((each for each in made.get("GlobalSecondaryIndexes", ()) if each["IndexName"] == name), None)
        return missing if found is None else self._index_found(found, made, f"delete it, then {add}")

    def _index_found(self, found: dict[str, Any], made: dict[str, Any], fix: str) -> Finding:
        definition = table_schema.definition(self._target.table_name, conversations=self._target.conversations)
        name = found["IndexName"]
        (wanted,) = definition["GlobalSecondaryIndexes"]
        actual, expected = _schema(found["KeySchema"], made), _schema(wanted["KeySchema"], definition)
        if actual != expected:
            return _wrong("index", f"the keys of {name} are {actual}, not {expected}", fix)
        if found.get("IndexStatus", "ACTIVE") not in {"ACTIVE", "UPDATING"}:
            return Finding("index", Verdict.WARNING, f"{name} is {found['IndexStatus']}", "wait until it is ACTIVE")
        projection = found["Projection"]["ProjectionType"]
        if projection != wanted["Projection"]["ProjectionType"]:
            costs = f"{name} projects {projection}: every save of an owner's session writes to it, too"
            return Finding("index", Verdict.WARNING, costs, fix)
        return _ok("index", name)

    def _needed(self, got: _Answer, queried: _Answer, at_index: Finding) -> Iterator[Finding]:
        """Try what the app's role must be allowed."""
        name = self._target.table_name
        never = {
            "ConditionExpression": "attribute_exists(#id) AND attribute_not_exists(#id)",
            "ExpressionAttributeNames": {"#id": table_schema.KEY},
        }
        key, another = self._key_of(PROBE_ID), self._key_of(_ANOTHER_ID)
        put = {"TableName": name, "Item": key, **never}
        delete = {"TableName": name, "Key": another, **never}
        yield self._permission("GetItem", got)
        yield self._permission("PutItem", self._ask("put_item", Item=key, **never))
        yield self._permission("UpdateItem", self._ask("update_item", Key=key, **never))
        yield self._permission("DeleteItem", self._ask("delete_item", Key=key, **never))
        writes = [{"Put": put}, {"Delete": delete}]
        yield self._permission("TransactWriteItems", self._ask("transact_write_items", TransactItems=writes))
        if self._target.conversations:
            yield replace(self._permission("Query", self._ask("query", **_OF_NOBODY)), check="Query messages")
            deletes = {name: [{"DeleteRequest": {"Key": key}}]}
            yield self._permission("BatchWriteItem", self._ask("batch_write_item", RequestItems=deletes))
        if at_index.verdict is Verdict.WRONG and queried.code != _DENIED:
            yield Finding("Query", Verdict.OPEN, "cannot be tried without the index")
        else:
            yield self._permission("Query", queried, f"the index {table_schema.OWNER_INDEX}")

    def _permission(self, operation: str, answer: _Answer, where: str = "the table") -> Finding:
        if answer.is_allowed:
            return _ok(operation, "allowed")
        if answer.code != _DENIED:
            return _wrong(operation, f"DynamoDB said {answer.code}: {answer.message}", "see the checks above")
        allow = "PutItem and DeleteItem" if operation == "TransactWriteItems" else operation
        return _wrong(
            operation,
            "not allowed",
            f"allow the role {allow} on {where}: {self._target.command('emit iam')} prints the policy",
        )

    def _optional(self, operation: str, answer: _Answer) -> Finding:
        if answer.is_allowed:
            return _ok(operation, "allowed")
        return Finding(operation, Verdict.OPEN, "not allowed, and only an operator needs it")

    def _round_trip(self) -> Finding:
        try:
            timings = anyio.run(self._live_a_life)
        except SessionError as error:
            return _wrong("round trip", str(error), "see the checks above, and try again")
        return _ok("round trip", ", ".join(f"{step} {seconds * 1000:.0f} ms" for step, seconds in timings.items()))

    async def _live_a_life(self) -> dict[str, float]:
        """Create, load, update and delete a session of nobody's. Return how long each took, in seconds."""
        timings: dict[str, float] = {}
        now = wall_clock()
        record = Record(new_id(), {"visits": "1"}, now, now + _LIFETIME)
        changes = Changes(now + _LIFETIME, set={"visits": "2"})

        async def timed(step: str, work: Awaitable[Any]) -> Any:
            started = time.perf_counter()
            result = await work
            timings[step] = time.perf_counter() - started
            return result

        try:
            await timed("create", self._store.create(record, now=now))
            if await timed("load", self._store.load(record.id, now=now)) != record:
                raise SessionError("what was stored is not what was loaded")
            if await timed("update", self._store.update(record, changes, now=now)) is None:
                raise SessionError("the session that was stored could not be changed")
        finally:
            await timed("delete", self._store.delete(record.id))
        return timings


def _ok(check: str, detail: str) -> Finding:
    return Finding(check, Verdict.OK, detail)


def _wrong(check: str, detail: str, fix: str) -> Finding:
    return Finding(check, Verdict.WRONG, detail, fix)


def _not_allowed(check: str, operation: str) -> Finding:
    return Finding(
        check,
        Verdict.OPEN,
        f"not allowed to look: {operation} is denied",
        "run the doctor as an operator: `dynamodb-sessions emit iam --operator` prints the policy",
    )


def _failed(error: BaseException) -> Finding:
    """Return what an error says about the check that it ended."""
    words = " ".join(str(error).split())
    for kind in type(error).__mro__:
        if kind.__name__ in _CAUSES:
            check, fix = _CAUSES[kind.__name__]
            return _wrong(check, words, fix)
    return _wrong("connection", words or type(error).__name__, "try again")


def _skew(date: str, started: float, ended: float) -> float:
    """Return the seconds this machine is ahead: 0 if the Date header, whole seconds, can be of the call's own time."""
    said = parsedate_to_datetime(date).timestamp()
    if started > said + 1:
        return started - said - 1
    return min(0.0, ended - said)


def _clock(skew: float | None) -> Finding:
    if skew is None:
        return Finding("clock", Verdict.OPEN, "DynamoDB did not say what time it is")
    detail = f"{abs(skew):.0f} s {'behind' if skew < 0 else 'ahead of'} DynamoDB's"
    fix = "let NTP or chrony set this machine's clock"
    if abs(skew) > MAX_SKEW:
        return _wrong("clock", f"{detail}: AWS refuses what is signed more than {MAX_SKEW} s off", fix)
    if abs(skew) > _WARN_SKEW:
        return Finding("clock", Verdict.WARNING, detail, fix)
    return _ok("clock", detail if abs(skew) >= 1 else "agrees with DynamoDB's")


def _schema(keys: list[dict[str, str]], made: dict[str, Any]) -> str:
    """Return a key schema in words."""
    types = {each["AttributeName"]: each["AttributeType"] for each in made["AttributeDefinitions"]}
    return " and ".join(f"{key['AttributeName']}, {_TYPES[types[key['AttributeName']]]}" for key in keys)
