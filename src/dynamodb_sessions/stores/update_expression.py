"""Writes as text: the expressions and conditions by which one change is one request.

What is returned are a request's parameters without the table's name. Three rules keep attempts apart from operations:

- every write to a session is on condition that it is that session: its `born`, or, of an older one, its `created_at`;
- a first attempt is on condition that its operation is not in `ops`: once it is there, no late attempt can land;
- a fence, and an attempt that decides after one whose outcome is unknown, puts it there, on condition of the version
  just read, and raises the version: of two that decide at once, one fails and reads again.
"""

import time
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any

from dynamodb_sessions.stores import item_format, table_schema
from dynamodb_sessions.stores.contract import BURIED_SECONDS, MOVED_SECONDS, Changes, Party, Record
from dynamodb_sessions.stores.value_format import MAX_RATIO, ValueFormat

OPERATION_SECONDS = 20 * 60
"""For how long an operation is kept in `ops`. No signature is valid that long: AWS refuses those of 15 minutes ago."""

_LIVE = "attribute_exists(#id) AND #t > :now"


class _Write:
    """The parts of one write. `request` puts them together."""

    def __init__(self, record: Record, now: int) -> None:
        self._key = item_format.key(record.id)
        self._record = record
        self._conditions = [_LIVE]
        self.names = {"#id": table_schema.KEY, "#t": table_schema.TTL}
        self.values: dict[str, Any] = {":now": item_format.number(now)}
        self.sets: list[str] = []
        self.removes: list[str] = []
        self._is_same()

    def condition(self, text: str) -> None:
        self._conditions.append(text)

    def _is_same(self) -> None:
        """Write to this session, not to another one that was created under its id since, nor to a marker."""
        condition, names, values = _is_session(self._record)
        self.condition(condition)
        self.names |= names
        self.values |= values

    def of_version(self, version: int) -> None:
        """Write only if that is still the version; 0: the item has none yet."""
        self.names["#v"] = "version"
        if version:
            self.values[":v"] = item_format.number(version)
            self.condition("#v=:v")
        else:
            self.condition("attribute_not_exists(#v)")

    def of_max_age(self, max_age: int | None) -> None:
        """Write only if the session's own lifetime is the one that was seen."""
        self.names["#m"] = "max_age"
        if max_age is None:
            self.condition("attribute_not_exists(#m)")
        else:
            self.values[":m0"] = item_format.number(max_age)
            self.condition("#m=:m0")

    def of_expiry(self) -> None:
        """Write only if nobody has let the session live longer. Older writers left fractions of seconds in it."""
        self.values[":t1"] = item_format.number(self._record.expires_at + 1)
        self.condition("#t<:t1")

    def unless_fenced(self, operation_id: str) -> None:
        """Write only if no fence of this operation is there."""
        self.names["#ops"], self.values[":op"] = item_format.OPS, {"S": operation_id}
        self.condition("NOT contains(#ops,:op)")

    def fence(self, operation_id: str, operations: Iterable[str]) -> None:
        """Leave the operation's id, in place of those that no late attempt can have any more."""
        self.names["#ops"] = item_format.OPS
        self.values[":ops"] = {"SS": sorted({operation_id, *_recent(operations)})}
        self.sets.append("#ops=:ops")

    def expire(self, changes: Changes) -> None:
        """Set the expiry: by what is stored of the session's own lifetime, unless this write sets it."""
        seen, expiry = self._record.max_age, changes.expiry
        if changes.expires_at is None:
            self.expire_at(None)
            self.of_max_age(seen)
            return
        if expiry is None or changes.max_age is not None or expiry.ends_at is not None:
            self.expire_at(changes.expires_with(self._record))
            if expiry is not None and changes.max_age is None:
                self.of_max_age(seen)
            return
        self.names["#m"] = "max_age"
        self.values |= {":idle": item_format.number(expiry.idle), ":used": item_format.number(expiry.used_at)}
        self.sets.append("#t=if_not_exists(#m,:idle)+:used")

    def expire_at(self, when: int | None) -> None:
        """Set the expiry, in epoch seconds. None: leave it as it is, and hear when that is: see UPDATED_NEW."""
        if when is None:
            self.sets.append("#t=#t")
        else:
            self.values[":t"] = item_format.number(when)
            self.sets.append("#t=:t")

    def attributes(self, changes: Changes) -> None:
        """Set what else a change may set."""
        if changes.owner is not None:
            for name in ("owner", "tenant", "handle", "label"):
                self._set_or_remove(name, getattr(changes, name))
        if changes.authenticated_at is not None:
            self.names["#auth"], self.values[":auth"] = "authenticated_at", item_format.number(changes.authenticated_at)
            self.sets.append("#auth=:auth")
        if changes.created_at is not None and self._record.born is not None:
            self.names["#c"], self.values[":c1"] = "created_at", item_format.number(changes.created_at)
            self.sets.append("#c=:c1")
        if changes.max_age is not None:
            self.names["#m"] = "max_age"
            if changes.max_age:
                self.values[":m"] = item_format.number(changes.max_age)
                self.sets.append("#m=:m")
            else:
                self.removes.append("#m")

    def _set_or_remove(self, name: str, text: str | None) -> None:
        """Set an attribute that is a text; None: remove it."""
        self.names[f"#{name}"] = name
        if text is None:
            self.removes.append(f"#{name}")
        else:
            self.values[f":{name}"] = {"S": text}
            self.sets.append(f"#{name}=:{name}")

    def entries(self, changes: Changes, values: ValueFormat) -> None:
        """Set and remove the entries that changed, and no others."""
        if not (changes.set or changes.remove):
            return
        self.names["#d"], self.values[":map"] = "user_data", {"S": "M"}
        self.condition("attribute_type(#d,:map)")
        is_dense = False
        for number, (key, packed) in enumerate(values.pack_all(self._record.id, changes.set).items()):
            self.names[f"#s{number}"], self.values[f":s{number}"] = key, packed
            self.sets.append(f"#d.#s{number}=:s{number}")
            is_dense = is_dense or ("B" in packed and len(changes.set[key]) > MAX_RATIO * len(packed["B"]))
        for number, key in enumerate(changes.remove):
            self.names[f"#r{number}"] = key
            self.removes.append(f"#d.#r{number}")
        if is_dense and "#v" not in self.names:
            # Many such values, stored by many at once, would fit into the item, and be too long to be read again.
            self.of_version(self._record.version)

    def change(self, changes: Changes, values: ValueFormat) -> dict[str, Any]:
        """Take in all that changed. Return the request."""
        self.expire(changes)
        self.entries(changes, values)
        self.attributes(changes)
        self.raise_version()
        return self.request

    def raise_version(self) -> None:
        self.names["#v"], self.values[":one"] = "version", item_format.number(1)

    @property
    def condition_check(self) -> dict[str, Any]:
        """The key and the condition alone."""
        return {
            "Key": self._key,
            "ConditionExpression": " AND ".join(self._conditions),
            "ExpressionAttributeNames": self.names,
            "ExpressionAttributeValues": self.values,
        }

    @property
    def request(self) -> dict[str, Any]:
        """Return the parameters of an UpdateItem that makes these changes under this condition."""
        clauses = ["SET " + ",".join(self.sets)]
        if ":one" in self.values:
            clauses.append("ADD #v :one")
        if self.removes:
            clauses.append("REMOVE " + ",".join(self.removes))
        return self.condition_check | {"UpdateExpression": " ".join(clauses), "ReturnValues": "UPDATED_NEW"}


def _recent(operations: Iterable[str]) -> Collection[str]:
    """Return those of which an attempt may still be under way."""
    earliest = time.time() - OPERATION_SECONDS
    return [each for each in operations if _began_at(each) >= earliest]


def _began_at(operation_id: str) -> float:
    try:
        return int(operation_id.partition(":")[0])
    except ValueError:  # Not one of ours.
        return 0


def _is_session(record: Record) -> tuple[str, dict[str, str], dict[str, Any]]:
    """Return a condition, its names and values: what is stored is this session, whatever has become of it.

    One of an older version has no `born`, and maybe a fraction of a second in its `created_at`.
    """
    if record.born is not None:
        return "#b=:b", {"#b": "born"}, {":b": {"S": record.born}}
    values = {":c": item_format.number(record.created_at), ":c2": item_format.number(record.created_at + 1)}
    return "#c>=:c AND #c<:c2 AND attribute_not_exists(#b)", {"#b": "born", "#c": "created_at"}, values


def touch(record: Record, changes: Changes, now: int) -> dict[str, Any]:
    """Return the UpdateItem that lets a session live longer. It can be repeated: it never shortens a life."""
    write = _Write(record, now)
    write.values[":t"] = item_format.number(changes.expires_with(record))
    write.sets.append("#t=:t")
    write.condition("#t<=:t")
    write.of_max_age(record.max_age)
    if record.version:  # To hear which version is stored: see UPDATED_NEW.
        write.names["#v"] = "version"
        write.sets.append("#v=#v")
    return write.request


def _as_read(stored: Record, operations: Iterable[str], operation_id: str, now: int) -> "_Write":
    """Begin a write that demands what was just read, and after which no other attempt of its operation can land."""
    write = _Write(stored, now)
    write.of_version(stored.version)
    write.fence(operation_id, operations)
    return write


def first_attempt(record: Record, changes: Changes, operation_id: str, now: int, values: ValueFormat) -> dict[str, Any]:
    """Return the UpdateItem that changes only what changed."""
    write = _Write(record, now)
    write.unless_fenced(operation_id)
    return write.change(changes, values)


def deciding_attempt(
    stored: Record,
    operations: Iterable[str],
    changes: Changes,
    operation_id: str,
    now: int,
    values: ValueFormat,
) -> dict[str, Any]:
    """Return the same, provided that nobody has changed what was just read: no other attempt of it can land then."""
    write = _as_read(stored, operations, operation_id, now)
    return write.change(changes, values)


def fence(
    stored: Record, operations: Iterable[str], operation_id: str, now: int, *, until: int | None = None
) -> dict[str, Any]:
    """Return the UpdateItem that changes nothing of what was just read, and after which no attempt can land.

    `until`: the session is to live at least until then, epoch seconds.
    """
    write = _as_read(stored, operations, operation_id, now)
    if until is not None and until > stored.expires_at:
        write.values[":t"] = item_format.number(until)
        write.sets.append("#t=:t")
        write.condition("#t<=:t")
    write.raise_version()
    return write.request


def replacement(
    stored: Record,
    operations: Iterable[str],
    changed: Record,
    changes: Changes,
    operation_id: str,
    now: int,
    values: ValueFormat,
) -> dict[str, Any]:
    """Return the UpdateItem that writes the whole map, provided that nobody has changed what was just read."""
    write = _as_read(stored, operations, operation_id, now)
    write.names |= {"#c": "created_at", "#d": "user_data"}
    write.values |= {
        # Older writers left fractions in it.
        ":c1": item_format.number(changed.created_at),
        ":d": item_format.user_data(changed, values),
    }
    write.sets += ["#c=:c1", "#d=:d"]
    write.expire_at(None if changes.expires_at is None else changed.expires_at)
    write.attributes(replace(changes, created_at=None))
    write.raise_version()
    return write.request


def move(stored: Record, new_id: str, now: int, *, keeps_expiry: bool) -> dict[str, Any]:
    """Return the Put that leaves, in place of a session as it was read, where it has moved.

    `keeps_expiry`: a touch, which makes no new version, counts as a change too.
    """
    write = _Write(stored, now)
    write.of_version(stored.version)
    if keeps_expiry:
        write.of_expiry()
    check = write.condition_check
    del check["Key"]
    return {"Item": item_format.marker(stored.id, new_id, now + MOVED_SECONDS), **check}


def move_in(session_id: str, new_id: str, now: int) -> dict[str, Any]:
    """Return the Put that leaves where a session has moved that was kept in memory.

    It is on condition that the session has not moved already, and has not ended here.
    """
    return {
        "Item": item_format.lasting_marker(session_id, new_id, now + MOVED_SECONDS, now + BURIED_SECONDS),
        "ConditionExpression": "attribute_not_exists(#id) OR #t<=:now",
        "ExpressionAttributeNames": {"#id": table_schema.KEY, "#t": table_schema.TTL},
        "ExpressionAttributeValues": {":now": item_format.number(now)},
    }


def bury_marker(session_id: str, operation_id: str, until: int) -> dict[str, Any]:
    """Return the UpdateItem that makes a marker a tombstone too. It can be repeated."""
    return {
        "Key": item_format.key(session_id),
        "UpdateExpression": "SET #until=if_not_exists(#until,#t),#t=:until ADD #ops :op",
        "ConditionExpression": "attribute_exists(#moved)",
        "ExpressionAttributeNames": {
            "#t": table_schema.TTL,
            "#moved": item_format.MOVED_TO,
            "#until": item_format.MOVED_UNTIL,
            "#ops": item_format.OPS,
        },
        "ExpressionAttributeValues": {":until": item_format.number(until), ":op": {"SS": [operation_id]}},
    }


def revocation(revocation_id: str, at: int, until: int) -> dict[str, Any]:
    """Return the UpdateItem that says when all the sessions of somebody were ended. It can be repeated."""
    return {
        "Key": item_format.key(revocation_id),
        "UpdateExpression": "SET #r=:at,#t=:until",
        "ConditionExpression": "attribute_not_exists(#r) OR #r<:at",
        "ExpressionAttributeNames": {"#r": item_format.REVOKED_AT, "#t": table_schema.TTL},
        "ExpressionAttributeValues": {":at": item_format.number(at), ":until": item_format.number(until)},
    }


def replacing(session_id: str, new_id: str, now: int) -> dict[str, Any]:
    """Return the Put that leaves, in place of a session, which one was begun instead; where it has moved to stays."""
    return {
        "Item": item_format.marker(session_id, new_id, now + MOVED_SECONDS),
        "ConditionExpression": "attribute_not_exists(#moved) OR #until<=:now OR #t<=:now",
        "ExpressionAttributeNames": {
            "#moved": item_format.MOVED_TO,
            "#until": item_format.MOVED_UNTIL,
            "#t": table_schema.TTL,
        },
        "ExpressionAttributeValues": {":now": item_format.number(now)},
    }


def creation(record: Record, operation_id: str, now: int, values: ValueFormat) -> dict[str, Any]:
    """Return the PutItem that stores a new session where there is none, and no tombstone of this operation."""
    return {
        "Item": item_format.from_record(record, values),
        "ConditionExpression": (
            "attribute_not_exists(#id) OR #t<=:now OR (attribute_exists(#ops) AND attribute_not_exists(#d) "
            "AND attribute_not_exists(#moved) AND NOT contains(#ops,:op))"
        ),
        "ExpressionAttributeNames": {
            "#id": table_schema.KEY,
            "#t": table_schema.TTL,
            "#ops": item_format.OPS,
            "#d": "user_data",
            "#moved": item_format.MOVED_TO,
        },
        "ExpressionAttributeValues": {":now": item_format.number(now), ":op": {"S": operation_id}},
    }


def tombstone(session_id: str, operations: Collection[str], operation_id: str, now: int, until: int) -> dict[str, Any]:
    """Return the PutItem that leaves a tombstone where nothing lives.

    `operations` are those of the tombstone that was just read there, if there was one: it is not to lose them.
    """
    values: dict[str, Any] = {":now": item_format.number(now)}
    is_as_read = "attribute_not_exists(#id) OR #t<=:now"
    names = {"#id": table_schema.KEY, "#t": table_schema.TTL}
    if operations:
        values[":read"] = {"SS": sorted(operations)}
        names["#ops"] = item_format.OPS
        names["#d"] = "user_data"
        is_as_read += " OR (#ops=:read AND attribute_not_exists(#d))"
    return {
        "Item": item_format.tombstone(session_id, {operation_id, *_recent(operations)}, until),
        "ConditionExpression": is_as_read,
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": values,
    }


def deletion(
    session_id: str, *, record: Record | None = None, version: int | None = None, party: Party | None = None
) -> dict[str, Any]:
    """Return the DeleteItem of a session: of this one, this version, this party's. A marker or tombstone stays."""
    names, values = dict[str, str](), dict[str, Any]()
    if record is None:
        names = {"#moved": item_format.MOVED_TO, "#ops": item_format.OPS, "#d": "user_data"}
        conditions = ["attribute_not_exists(#moved) AND (attribute_not_exists(#ops) OR attribute_exists(#d))"]
    else:
        condition, names, values = _is_session(record)
        conditions = [condition]
    if version:
        names["#v"], values[":v"] = "version", item_format.number(version)
        conditions.append("#v=:v")
    elif version is not None:
        names |= {"#id": table_schema.KEY, "#v": "version"}
        conditions.append("attribute_exists(#id) AND attribute_not_exists(#v)")
    if party is not None:
        names["#o"], values[":o"] = party.kind, {"S": party.name}
        conditions.append("#o=:o")
    request: dict[str, Any] = {
        "Key": item_format.key(session_id),
        "ConditionExpression": " AND ".join(conditions),
        "ExpressionAttributeNames": names,
    }
    return request | ({"ExpressionAttributeValues": values} if values else {})
