"""The doctor: looks at everything sessions need in DynamoDB, and names what is wrong and what fixes it.

It changes nothing: its writes have a condition that cannot be true, except for one session that it makes, changes and
deletes. What it may not look at is left open, not wrong: an app's role must not have an operator's permissions.
"""

import time
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from enum import StrEnum
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import anyio

from dynamodb_sessions import settings
from dynamodb_sessions.aws.access_denied import Denial, denial, short
from dynamodb_sessions.aws.boto3_transport import Boto3Transport
from dynamodb_sessions.aws.errors import (
    BACKFILLING,
    CREDENTIALS_REFUSED,
    Refused,
    translate_response,
    words_of,
)
from dynamodb_sessions.aws.log_redaction import redacted_logs
from dynamodb_sessions.aws.setup_errors import is_of_dynamodb, region_problem, setup_problem, source_of
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
_TIMEOUT = 10.0
"""Seconds: twice an app's, so that what is slow is not taken for what is not there."""

_NOBODY = "dynamodb-sessions/nobody"
_ANOTHER_ID = f"{PROBE_ID}/2"

_DENIED = "AccessDeniedException"
_MISSING = "ResourceNotFoundException"
_INVALID = "ValidationException"
_UNKNOWN = "UnknownOperationException"
_CONDITION_FAILED = ("ConditionalCheckFailedException", "TransactionCanceledException")
_REFUSED = (
    *CREDENTIALS_REFUSED,
    "SignatureDoesNotMatch",
    "MissingAuthenticationToken",
    "InvalidClientTokenId",
    "OptInRequired",
)

_FIX_CREDENTIALS = (
    "correct AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or the profile or role in their place"
)
_FIX_THROTTLED = "try again, or give the table more capacity"
_WAIT = "wait until it is ACTIVE"

_STATUSES = {
    "INACCESSIBLE_ENCRYPTION_CREDENTIALS": (
        "DynamoDB cannot use the table's KMS key",
        "enable the key, or let its key policy allow DynamoDB again; after seven days the table is archived",
    ),
    "ARCHIVING": ("DynamoDB could not use the table's KMS key for seven days", "restore the table from its backup"),
    "ARCHIVED": ("DynamoDB could not use the table's KMS key for seven days", "restore the table from its backup"),
    "DELETING": ("it is being deleted", "wait until it is gone, and make it anew"),
}
"""By the status of a table that cannot be used: why, and the fix. Source: "TableDescription", API reference."""

_OF_NOBODY: dict[str, Any] = {
    "KeyConditionExpression": "#k = :k",
    "ExpressionAttributeNames": {"#k": table_schema.KEY},
    "ExpressionAttributeValues": {":k": {"S": _NOBODY}},
}

_USABLE = ("ACTIVE", "UPDATING")
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
    if not target.conversations:
        yield from _settings()
    try:
        transport = Boto3Transport(region_name=target.region_name, endpoint_url=target.endpoint_url, timeout=_TIMEOUT)
        region = transport.client.meta.region_name
        yield from _Examination(replace(target, region_name=region), transport).findings()
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

    @property
    def is_throttled(self) -> bool:
        return bool(self.code) and isinstance(translate_response(self.body), Refused)

    @property
    def denial(self) -> Denial:
        return denial(self.message) or Denial()

    @property
    def said(self) -> str:
        """The code, and the message unless it may quote what was signed, as that of a signature that is wrong does."""
        return f"{self.code}: {self.message}" if self.code in {_INVALID, _MISSING} else self.code

    @property
    def throttled(self) -> str:
        return str(translate_response(self.body))


class _Examination:
    """One visit: the calls, each made once, and what follows from their answers."""

    def __init__(self, target: Target, transport: Boto3Transport) -> None:
        self._target = target
        self._client = transport.client
        self._called = ""
        """The address that was called last: it may hold the account's number, which the region's own has not."""
        self._client.meta.events.register("before-send.dynamodb", self._note_address)
        self._transport = transport

    def _note_address(self, request: Any, **_: Any) -> None:
        parts = urlsplit(request.url)
        host = parts.netloc.rpartition("@")[2]  # Before it there may be a password.
        self._called = f"{parts.scheme}://{host}"

    @property
    def _name(self) -> str:
        return "table_name" if self._target.conversations else "SESSION_TABLE_NAME"

    def findings(self) -> Iterator[Finding]:
        another = region_problem(self._target.table_name, self._target.region_name)
        if another:
            yield _wrong("region", another, "set AWS_REGION, or give --region, to the table's")
            raise _Interrupted
        yield _ok("region", str(self._target.region_name))
        got = self._ask("get_item", Key=self._key_of(PROBE_ID))
        yield _ok("connection", self._called)
        yield _clock(got.skew)
        at_credentials = self._credentials(got)
        yield at_credentials
        if at_credentials.verdict is Verdict.WRONG:
            raise _Interrupted
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
        yield self._recovery(self._ask("describe_continuous_backups"))
        yield self._protection(described, made)
        yield from self._tenants(made)

        if at_key.verdict is Verdict.WRONG:
            yield Finding("permissions", Verdict.OPEN, "cannot be tried with that key")
            raise _Interrupted
        key_arn = made.get("SSEDescription", {}).get("KMSMasterKeyArn", "")
        needed = list(self._needed(got, queried, key_arn))
        yield from needed
        for operation, answer in (
            ("Scan", self._ask("scan", Limit=1)),
            ("DescribeTable", described),
            ("DescribeTimeToLive", time_to_live),
        ):
            yield self._optional(operation, answer)
        # A conversation's life takes the extra that agents take.
        is_well = all(finding.verdict is Verdict.OK for finding in needed if finding.check != "Query")
        if is_well and not self._target.conversations:
            yield self._round_trip()

    def _credentials(self, got: _Answer) -> Finding:
        source = source_of(self._transport.credentials())
        if got.code not in _REFUSED:
            return _ok("credentials", f"accepted, from {source}" if source else "accepted")
        refused = f"DynamoDB refuses them: {got.code}"
        return _wrong("credentials", f"{refused}; they are from {source}" if source else refused, _FIX_CREDENTIALS)

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
            with redacted_logs():
                body: dict[str, Any] = getattr(self._client, operation)(**parameters)
        except self._client.exceptions.ClientError as error:
            if not is_of_dynamodb(error.operation_name):
                raise
            body = error.response
        ended = time.time()
        error_part = body.get("Error", {})
        code = error_part.get("Code", "")
        date = body["ResponseMetadata"].get("HTTPHeaders", {}).get("date")
        answer = _Answer(code, error_part.get("Message", ""), body, date and _skew(date, started, ended))
        known = {"", _DENIED, _MISSING, _INVALID, _UNKNOWN, *_CONDITION_FAILED, *_REFUSED}
        if code not in known and not answer.is_throttled:
            raise SessionError(f"DynamoDB said {code} to {operation}")
        return answer

    def _table(self, got: _Answer, described: _Answer) -> Finding:
        name, region = self._target.table_name, self._target.region_name
        if _MISSING in (got.code, described.code):
            return _wrong(
                "table",
                f"there is no table {name} in {region}",
                f"correct {self._name} or the region, or make it with {self._target.command('create-table')} or, "
                f"to rely on it, what {self._target.command('emit cli')} prints",
            )
        made = described.body.get("Table", {})
        status = made.get("TableStatus", "ACTIVE")
        if status in _STATUSES:
            why, fix = _STATUSES[status]
            key = short(made.get("SSEDescription", {}).get("KMSMasterKeyArn", ""))
            return _wrong("table", f"{name} is {status}: {why}{f' {key}' if key and 'KMS' in why else ''}", fix)
        if status not in {"ACTIVE", "UPDATING"}:
            return _wrong("table", f"{name} is {status}", _WAIT)
        if got.code == described.code == _DENIED:
            return _not_allowed("table", "DescribeTable", described)
        return _ok("table", name)

    def _key(self, got: _Answer, made: dict[str, Any]) -> Finding:
        definition = table_schema.definition(self._target.table_name, conversations=self._target.conversations)
        expected = _schema(definition["KeySchema"], definition)
        fix = f"the key of a table cannot be changed: make another one, and point {self._name} at it"
        if not made:
            if got.code == _DENIED or got.is_throttled:
                return _not_allowed("key", "DescribeTable", got)
            if got.code == _INVALID and "key" not in got.message.lower():
                return _wrong("key", f"DynamoDB said {got.said}", "look at it as an operator")
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
            return _not_allowed("ttl", "DescribeTimeToLive", answer)
        description = answer.body["TimeToLiveDescription"]
        status, attribute = description["TimeToLiveStatus"], description.get("AttributeName")
        on = aws_cli.enable_time_to_live(self._target)
        if status == "DISABLED":
            return Finding("ttl", Verdict.WARNING, "it is off: expired sessions stay, and are paid for", on)
        if status == "DISABLING":
            detail = "it is being turned off (DISABLING): expired sessions will stay, and be paid for"
            return Finding("ttl", Verdict.WARNING, detail, f"wait until it is DISABLED, about an hour, then {on}")
        if attribute != table_schema.TTL:
            off = aws_cli.enable_time_to_live(self._target, enabled=False, attribute=str(attribute))
            return Finding(
                "ttl",
                Verdict.WARNING,
                f"it is on the attribute {attribute}, not {table_schema.TTL}: sessions do not expire by it",
                f"{off}, then, about an hour later, {on}",
            )
        return _ok("ttl", f"on the attribute {table_schema.TTL}{' soon (ENABLING)' if status == 'ENABLING' else ''}")

    def _recovery(self, answer: _Answer) -> Finding:
        if answer.code:
            return _not_allowed("recovery", "DescribeContinuousBackups", answer)
        description = answer.body["ContinuousBackupsDescription"].get("PointInTimeRecoveryDescription", {})
        if description.get("PointInTimeRecoveryStatus") == "ENABLED":
            days = description.get("RecoveryPeriodInDays")
            return _ok("recovery", f"point-in-time recovery is on{f', {days} days' if days else ''}")
        off = "point-in-time recovery is off: what is lost stays lost"
        return Finding("recovery", Verdict.OPEN, off, aws_cli.enable_recovery(self._target))

    def _protection(self, described: _Answer, made: dict[str, Any]) -> Finding:
        if not made:
            return _not_allowed("deletion", "DescribeTable", described)
        if made.get("DeletionProtectionEnabled"):
            return _ok("deletion", "deletion protection is on")
        off = "deletion protection is off: who may delete tables may delete this one"
        return Finding("deletion", Verdict.OPEN, off, aws_cli.protect(self._target))

    def _index(self, queried: _Answer, made: dict[str, Any]) -> Finding:
        name, add = table_schema.OWNER_INDEX, aws_cli.add_index(self._target)
        without = f"there is no {name}: sessions work, but those of an owner can be neither listed nor ended together"
        missing = Finding("index", Verdict.OPEN, without, add)
        if not made:
            if queried.code == _INVALID and BACKFILLING in queried.message.lower():
                return Finding("index", Verdict.WARNING, f"{name} is being built (backfilling)", _WAIT)
            if queried.code == _INVALID:
                return missing
            return _ok("index", name) if queried.is_allowed else _not_allowed("index", "DescribeTable", queried)
        found = table_schema.index_of(made, name)
        return missing if found is None else self._index_found(found, made, add)

    def _tenants(self, made: dict[str, Any]) -> Iterator[Finding]:
        """Look at the index of tenants, if there is one, or is to be one."""
        name = table_schema.TENANT_INDEX
        found = table_schema.index_of(made, name)
        if found is None and not self._target.tenants:
            return
        add = aws_cli.add_index(self._target, name)
        if found is not None and found.get("IndexStatus", "ACTIVE") not in _USABLE:  # It answers no Query yet.
            yield replace(self._index_found(found, made, add), check="tenant index")
            return
        queried = self._ask("query", **table_schema.of_tenant(_NOBODY))
        at_index, can_query = _ok("index", name), self._permission("Query", queried, f"the index {name}")
        if found is not None:
            at_index = self._index_found(found, made, add)
        elif made or queried.code == _INVALID:
            at_index = _wrong("index", f"there is no {name}, which finds the sessions of a tenant", add)
        elif queried.code == _DENIED:
            at_index = _not_allowed("index", "DescribeTable", queried)
        yield replace(at_index, check="tenant index")
        if at_index.verdict is Verdict.WRONG and queried.code != _DENIED:
            can_query = Finding("Query", Verdict.OPEN, "cannot be tried without the index")
        elif can_query.verdict is Verdict.WRONG and not self._target.tenants:
            can_query = Finding("Query", Verdict.OPEN, "not allowed, and only who lists tenants needs it")
        yield replace(can_query, check="Query tenants")

    def _index_found(self, found: dict[str, Any], made: dict[str, Any], add: str) -> Finding:
        definition = table_schema.definition(
            self._target.table_name, conversations=self._target.conversations, tenants=True
        )
        name = found["IndexName"]
        wanted = table_schema.index_of(definition, name)
        fix = f"delete it, then {add}"
        status = found.get("IndexStatus", "ACTIVE")
        if status == "DELETING":
            detail = f"{name} is being deleted (DELETING)"
            return Finding("index", Verdict.WARNING, detail, f"wait until it is gone, then {add}")
        actual, expected = _schema(found["KeySchema"], made), _schema(wanted["KeySchema"], definition)
        if actual != expected:
            return _wrong("index", f"the keys of {name} are {actual}, not {expected}", fix)
        if status not in _USABLE:
            filling = " (backfilling)" if found.get("Backfilling") else ""
            return Finding("index", Verdict.WARNING, f"{name} is being built: {status}{filling}", _WAIT)
        projection = found["Projection"]["ProjectionType"]
        if projection != wanted["Projection"]["ProjectionType"]:
            costs = f"{name} projects {projection}: every save of an owner's session writes to it, too"
            return Finding("index", Verdict.WARNING, costs, fix)
        return _ok("index", name)

    def _needed(self, got: _Answer, queried: _Answer, key_arn: str) -> Iterator[Finding]:
        """Try what the app's role must be allowed. `key_arn`: of the table's KMS key; empty: unknown."""
        permission = partial(self._permission, key_arn=key_arn)
        name = self._target.table_name
        never = {
            "ConditionExpression": "attribute_exists(#id) AND attribute_not_exists(#id)",
            "ExpressionAttributeNames": {"#id": table_schema.KEY},
        }
        key, another = self._key_of(PROBE_ID), self._key_of(_ANOTHER_ID)
        put = {"TableName": name, "Item": key, **never}
        delete = {"TableName": name, "Key": another, **never}
        yield permission("GetItem", got)
        yield permission("PutItem", self._ask("put_item", Item=key, **never))
        yield permission("UpdateItem", self._ask("update_item", Key=key, **never))
        yield permission("DeleteItem", self._ask("delete_item", Key=key, **never))
        writes = [{"Put": put}, {"Delete": delete}]
        yield permission("TransactWriteItems", self._ask("transact_write_items", TransactItems=writes))
        if self._target.conversations:
            yield replace(permission("Query", self._ask("query", **_OF_NOBODY)), check="Query messages")
            deletes = {name: [{"DeleteRequest": {"Key": key}}]}
            yield permission("BatchWriteItem", self._ask("batch_write_item", RequestItems=deletes))
        if queried.code in {_INVALID, _MISSING}:  # The latter as an emulator has it.
            yield Finding("Query", Verdict.OPEN, "cannot be tried without the index")
        else:
            yield permission("Query", queried, f"the index {table_schema.OWNER_INDEX}")

    def _permission(self, operation: str, answer: _Answer, where: str = "the table", *, key_arn: str = "") -> Finding:
        if answer.is_allowed:
            return _ok(operation, "allowed")
        if answer.is_throttled:
            return Finding(operation, Verdict.WARNING, answer.throttled, _FIX_THROTTLED)
        if answer.code != _DENIED:
            return _wrong(operation, f"DynamoDB said {answer.said}", "see the checks above")
        denied = answer.denial
        if not denied.action:
            allow = "PutItem and DeleteItem" if operation == "TransactWriteItems" else operation
            return _wrong(operation, "not allowed", self._allow(allow, where))
        fix = denied.fix
        if denied.is_of_key and denied.is_of_role:
            command = self._target.command(f"emit iam --kms-key {denied.resource or key_arn or 'ARN'}")
            fix = f"allow the role {denied.action} on it: {command} prints the statement"
        elif denied.is_of_role:
            fix = self._allow(denied.action.rpartition(":")[2], where)
        key = f" ({short(key_arn)})" if denied.is_of_key and not denied.resource and key_arn else ""
        return _wrong(operation, f"not allowed: {denied.cause}{key}", fix)

    def _allow(self, operation: str, where: str) -> str:
        return f"allow the role {operation} on {where}: {self._target.command('emit iam')} prints the policy"

    def _optional(self, operation: str, answer: _Answer) -> Finding:
        if answer.is_allowed:
            return _ok(operation, "allowed")
        if answer.code == _DENIED:
            return Finding(operation, Verdict.OPEN, "not allowed, and only an operator needs it")
        return Finding(operation, Verdict.OPEN, answer.throttled if answer.is_throttled else answer.code)

    def _round_trip(self) -> Finding:
        try:
            timings = anyio.run(self._live_a_life)
        except SessionError as error:
            if "it is throttled" in str(error):
                return Finding("round trip", Verdict.WARNING, str(error), _FIX_THROTTLED)
            return _wrong("round trip", str(error), "see the checks above, and try again")
        return _ok("round trip", ", ".join(f"{step} {seconds * 1000:.0f} ms" for step, seconds in timings.items()))

    async def _live_a_life(self) -> dict[str, float]:
        """Create, load, update and delete a session of nobody's. Return how long each took, in seconds."""
        store = DynamoDBStore(self._target.table_name, client=self._client)
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
            await timed("create", store.create(record, now=now))
            if await timed("load", store.load(record.id, now=now)) != record:
                raise SessionError("what was stored is not what was loaded")
            if await timed("update", store.update(record, changes, now=now)) is None:
                raise SessionError("the session that was stored could not be changed")
        finally:
            await timed("delete", store.delete(record.id))
        return timings


def _ok(check: str, detail: str) -> Finding:
    return Finding(check, Verdict.OK, detail)


def _wrong(check: str, detail: str, fix: str) -> Finding:
    return Finding(check, Verdict.WRONG, detail, fix)


def _not_allowed(check: str, operation: str, answer: _Answer) -> Finding:
    """Return what cannot be looked at, and why."""
    if answer.is_throttled:
        return Finding(check, Verdict.OPEN, answer.throttled, "try again")
    if answer.code == _UNKNOWN:
        return Finding(check, Verdict.OPEN, f"{operation} is unknown here: this is an emulator")
    denied = answer.denial
    if denied.action and not denied.is_of_role:
        return Finding(check, Verdict.OPEN, f"not allowed to look: {denied.cause}", denied.fix)
    return Finding(
        check,
        Verdict.OPEN,
        f"not allowed to look: {operation} is denied",
        "run the doctor as an operator: `dynamodb-sessions emit iam --operator` prints the policy",
    )


def _settings() -> Iterator[Finding]:
    """Look at the app's own variables. The app may be told what they say by arguments, so nothing here is wrong."""
    try:
        is_on = settings.use_dynamodb()
    except ConfigurationError as error:
        yield Finding("toggle", Verdict.WARNING, str(error), "set it to 1 or 0")
    else:
        off = "USE_DYNAMODB_SESSIONS is off or not set here: session_middleware() then keeps sessions in cookies"
        on = "set it to 1 where the app runs; DynamoDBSessionMiddleware does without"
        yield _ok("toggle", "USE_DYNAMODB_SESSIONS is on") if is_on else Finding("toggle", Verdict.OPEN, off, on)
    try:
        settings.secret_keys(None)
    except ConfigurationError as error:
        cause, _, fix = str(error).partition(": ")
        is_missing = cause.startswith("no secret_key")
        detail = "SESSION_SECRET_KEY is not set here: the app needs it, or secret_key=" if is_missing else cause
        yield Finding("secret key", Verdict.OPEN if is_missing else Verdict.WARNING, detail, fix)
    else:
        yield _ok("secret key", "SESSION_SECRET_KEY is set")


def _failed(error: BaseException) -> Finding:
    """Return what an error says about the check that it ended, without what it may quote."""
    problem = setup_problem(error)
    if problem is not None:
        return _wrong(problem.subject, problem.cause, problem.fix)
    return _wrong("connection", words_of(error) if isinstance(error, Exception) else type(error).__name__, "try again")


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
