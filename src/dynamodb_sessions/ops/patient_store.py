"""OperatorsStore: the store of the command line, which nobody waits for: while DynamoDB is throttled it goes on trying.

An app's operation ends by its deadline, so that a visitor hears of it. A purge has no visitor: it backs off for as long
as DynamoDB answers at all, and may be kept to a rate, so that it does not starve the app.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import anyio

from dynamodb_sessions.aws.errors import ConditionFailed, OutcomeUnknown, Refused, Unreachable
from dynamodb_sessions.aws.table_calls import Operation, TableCalls, all_at_once, batches
from dynamodb_sessions.events import Observation
from dynamodb_sessions.exceptions import ConfigurationError, SessionError, StoreUnavailable, outage
from dynamodb_sessions.identifiers import fingerprint
from dynamodb_sessions.stores import item_format, table_schema
from dynamodb_sessions.stores.contract import Party
from dynamodb_sessions.stores.dynamodb import DynamoDBStore

TIMEOUT = 25.0
"""Seconds that one attempt may take. The SDK waits a fifth of it for a connection, and for what comes next."""

SILENCE = 15.0
"""Seconds without any answer, be it a refusal, after which DynamoDB is taken for unreachable."""

KEYS_AT_ONCE = 100
"""Source: BatchGetItem takes up to 100 keys."""

SEALED = ""
"""What stands for a value that no key opens. No value is stored as nothing, and it counts as nothing."""

_SUMMARY = ("session_id", "owner", "tenant", "created_at", "ttl")
_PROJECTION = {
    "ProjectionExpression": "#i, #o, #te, #c, #t",
    "ExpressionAttributeNames": dict(zip(("#i", "#o", "#te", "#c", "#t"), _SUMMARY, strict=True)),
}
_THROTTLED = StoreUnavailable("DynamoDB has no room for all the keys of a BatchGetItem")


@dataclass(frozen=True, slots=True)
class Summary:
    """A session without its data. Times are epoch seconds."""

    id: str
    owner: str | None
    tenant: str | None
    created_at: int
    expires_at: int


class Pace:
    """Keeps calls to so many capacity units a second: each waits its turn, at what the last one of its name has cost.

    What it really cost is settled with the turn of the next one.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._next = 0.0
        self._costs: dict[str, float] = {}

    async def turn(self, name: str) -> float:
        """Wait for the turn of a call. Return the units that are reserved for it."""
        now, reserved = time.monotonic(), self._costs.get(name, 1.0)
        begins = max(now, self._next)
        self._next = begins + reserved / self.rate
        await anyio.sleep(begins - now)
        return reserved

    def settle(self, name: str, reserved: float, consumed: Any) -> None:
        """Take account of what an answer says that the call has consumed."""
        tables = consumed if isinstance(consumed, list) else [consumed]
        units = sum(table.get("CapacityUnits", 0.0) for table in tables if isinstance(table, dict))
        self._next += (units - reserved) / self.rate
        self._costs[name] = units


class PatientCalls(TableCalls):
    """Calls that are repeated for as long as DynamoDB says that it has no room. Who waits no longer cancels them."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.pace: Pace | None = None
        self.on_answer: Callable[[], object] = lambda: None
        """Called after every attempt."""
        self.looked_at: int = 0
        """How many items Scans have looked at."""
        self.refused: int = 0
        """How many attempts were throttled."""
        self._silent_since: float | None = None
        """When the first of the attempts began that have had no answer; None: the last one has had one."""

    def begin_within(self, timeout: float) -> Operation:  # noqa: ARG002 - as its parent has it
        """Return an operation without a deadline."""
        return Operation(float("inf"))

    async def read(self, operation: Operation, name: str, **parameters: Any) -> dict[str, Any]:
        """Make a call that writes nothing, until it is answered."""
        while True:
            try:
                return await self.attempt(operation, name, **parameters)
            except OutcomeUnknown as error:
                await operation.pause(error)

    async def _send(
        self,
        operation: Operation,  # noqa: ARG002 - as its parent has it
        name: str,
        parameters: dict[str, Any],
        observation: Observation | None,  # noqa: ARG002 - nobody listens
    ) -> dict[str, Any]:
        """Send one attempt, in its turn. The breaker is not asked: nobody stands in line here."""
        reserved = 0.0
        if self.pace is not None:
            reserved = await self.pace.turn(name)
            parameters = parameters | {"ReturnConsumedCapacity": "TOTAL"}
        begun = time.monotonic()
        try:
            answer = await self._transport.call(name, deadline=begun + self._transport.timeout, **parameters)
        except (Unreachable, OutcomeUnknown) as error:
            if self._silent_since is None:
                self._silent_since = begun
            if time.monotonic() - self._silent_since > SILENCE:
                raise StoreUnavailable(str(error)) from None
            raise
        except SessionError as error:
            self._silent_since = None
            self.refused += isinstance(error, Refused)
            raise
        finally:
            self.on_answer()
        self._silent_since = None
        if name == "scan":
            self.looked_at += answer.get("ScannedCount", 0)
        if self.pace is not None:
            self.pace.settle(name, reserved, answer.get("ConsumedCapacity"))
        return answer


class OperatorsStore(DynamoDBStore):
    """Sessions as an operator looks at them. It needs no key of encryption: what is encrypted stays so.

    `rate` is the capacity units a second that its calls may consume; None: as many as there are.
    """

    _calls_type: ClassVar[type[TableCalls]] = PatientCalls

    def __init__(self, table_name: str, *, rate: float | None = None, **options: Any) -> None:
        super().__init__(table_name, timeout=TIMEOUT, **options)
        self._values.in_place_of_sealed = SEALED
        if rate is not None:
            self.calls.pace = Pace(rate)
        self.named: set[str] = set()
        """The ids that the index has named of an owner whose sessions are being ended."""
        self.ended: int = 0
        """How many of them have been ended."""
        self.settled: int = 0
        """How many of them have been ended, or had ended before."""
        self._may_batch = True

    @property
    def calls(self) -> PatientCalls:
        """Its calls, for how they go."""
        assert isinstance(self._calls, PatientCalls)  # noqa: S101 - it says so above
        return self._calls

    async def summaries(self, *, now: int) -> AsyncIterator[Summary]:
        """Yield every live session of the table, in no particular order, by a Scan."""
        async for item in self._scan("#t > :now", now):
            if (found := _summary(item)) is not None:
                yield found

    async def expired(self, *, now: int) -> AsyncIterator[str]:
        """Yield the id of every session that is stored and has expired, by a Scan."""
        async for item in self._scan("#t <= :now", now):
            yield item[table_schema.KEY]["S"]

    async def summaries_of(self, party: Party, *, now: int) -> AsyncIterator[Summary]:
        """Yield an owner's live sessions, oldest first, or a tenant's: one Query, and a BatchGetItem for a hundred."""
        async for found in self._calls.many(batches(self._ids_of(party), KEYS_AT_ONCE), self._read_summaries):
            for each in found:
                if getattr(each, party.kind) == party.name and each.expires_at > now:
                    yield each

    async def _ids_of(self, party: Party) -> AsyncIterator[str]:
        """Yield the ids that an index has, and note them."""
        async for session_id in super()._ids_of(party):
            self.named.add(session_id)
            yield session_id

    async def ids_named(self, party: Party, given: str) -> list[str]:
        """Return those ids that the index has of a party which are this id, or have this name of 8 digits."""
        found = [each async for each in self._ids_of(party) if given in (each, fingerprint(each))]
        return [*dict.fromkeys(found)]

    async def end_one_of(self, owner: str, session_id: str) -> bool:
        """End a session if it is the owner's still. Return whether it was."""
        return await self._delete_of(self._calls.begin(), Party("owner", owner), session_id)

    async def _delete_of(self, operation: Operation, party: Party, session_id: str, *, keep: str | None = None) -> bool:
        ended = await super()._delete_of(operation, party, session_id, keep=keep)
        self.ended += ended
        self.settled += 1
        return ended

    async def delete_expired(self, session_id: str, *, now: int) -> bool:
        """Delete what is stored if it is expired still: another session may have been created under its id since."""
        try:
            await self._calls.repeat(
                self._calls.begin(),
                "delete_item",
                TableName=self.table_name,
                Key=item_format.key(session_id),
                ConditionExpression="#t <= :now",
                ExpressionAttributeNames={"#t": table_schema.TTL},
                ExpressionAttributeValues={":now": item_format.number(now)},
            )
        except ConditionFailed:
            return False
        return True

    async def _scan(self, condition: str, now: int) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the sessions on a condition. Raises ConfigurationError if what is stored has another key."""
        # With a rate, no page may take much more than it: a page of 1 MB consumes 128 units.
        parameters: dict[str, Any] = {} if self.calls.pace is None else {"Limit": max(1, int(self.calls.pace.rate))}
        parameters |= _PROJECTION | {
            "TableName": self.table_name,
            "FilterExpression": f"attribute_exists(#c) AND {condition} OR NOT attribute_type(#i, :s)",
            "ExpressionAttributeValues": {":now": item_format.number(now), ":s": {"S": "S"}},
        }
        async for item in self._calls.pages("scan", **parameters):
            if "S" not in item.get(table_schema.KEY, ()):
                raise outage("the table is not one of sessions: its partition key must be session_id, a string")
            yield item

    async def _read_summaries(self, operation: Operation, ids: list[str]) -> list[Summary]:
        """Read up to a hundred sessions, in their order. A role that may not read many at once reads one by one."""
        ids = [*dict.fromkeys(ids)]  # A BatchGetItem is refused if it names one twice.
        items: list[dict[str, Any]] = []
        if self._may_batch:
            try:
                items = await self._read_batch(operation, ids)
            except ConfigurationError as error:
                if "AccessDenied" not in str(error):
                    raise
                self._may_batch = False
        if not self._may_batch:
            items = await all_at_once([partial(self._read_alone, each) for each in ids])
        found = {each.id: each for item in items if (each := _summary(item)) is not None}
        return [found[session_id] for session_id in ids if session_id in found]

    async def _read_batch(self, operation: Operation, ids: list[str]) -> list[dict[str, Any]]:
        keys = [item_format.key(session_id) for session_id in ids]
        left: Any = {self.table_name: {"Keys": keys, "ConsistentRead": True, **_PROJECTION}}
        items: list[dict[str, Any]] = []
        while True:
            answer = await self._calls.read(operation, "batch_get_item", RequestItems=left)
            found, left = answer.get("Responses"), answer.get("UnprocessedKeys")
            if not isinstance(found, dict):
                raise StoreUnavailable("DynamoDB's answer is invalid")
            items += [item for each in found.values() for item in each]
            if not left:
                return items
            await operation.pause(_THROTTLED)

    async def _read_alone(self, session_id: str) -> dict[str, Any]:
        answer = await self._calls.read(
            self._calls.begin(),
            "get_item",
            TableName=self.table_name,
            Key=item_format.key(session_id),
            ConsistentRead=True,
            **_PROJECTION,
        )
        found: dict[str, Any] = answer.get("Item", {})
        return found


def _summary(item: dict[str, Any]) -> Summary | None:
    """Return what an item says of a session; None: it is no session, or says nothing that can be read."""
    try:
        owner, tenant = (item[name]["S"] if name in item else None for name in ("owner", "tenant"))
        created_at, expires_at = (int(float(item[name]["N"])) for name in ("created_at", table_schema.TTL))
        return Summary(item[table_schema.KEY]["S"], owner, tenant, created_at, expires_at)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return None
