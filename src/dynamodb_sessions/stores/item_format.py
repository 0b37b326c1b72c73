"""Records to and from DynamoDB items, in the low-level JSON that every client takes.

An item holds `session_id` (S, the key), `user_data` (M of S, or of B where a value is compressed or encrypted: see
`value_format.py`), `created_at`, `ttl` and `version` (N), `born` (S), and sometimes `max_age` (N), `ops` (SS) and what
a login leaves: `owner`, `tenant`, `handle`, `label` (S) and `authenticated_at` (N). An older layout has `user_data` as
one JSON string and no version: it is read as version 0, and rewritten as a map by its next change.

Three kinds of items are no sessions. A marker says where a session has moved: `moved_to` (S) and `ttl`. A tombstone
makes sure that nothing is created under an id by attempts that are known, and that no process moves a session there out
of its memory: `ops` (SS) and `ttl`. An item may be both, or a marker that stays so that a session moves out of a memory
once: then `moved_until` (N) says for how long it is a marker to those who look for the session. And a revocation
says when all the sessions of an owner, or of a tenant, were last ended: `revoked_at` (N) and `ttl`. None of them has
what a session has, so that every condition of a write to a session refuses it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from dynamodb_sessions.codec import decode, encode_items
from dynamodb_sessions.exceptions import CorruptRecord, UnserializableValue
from dynamodb_sessions.stores.contract import Moved, Record, numbers_of, texts_of
from dynamodb_sessions.stores.table_schema import KEY, TTL
from dynamodb_sessions.stores.value_format import PLAIN, ValueFormat

MOVED_TO = "moved_to"
MOVED_UNTIL = "moved_until"
OPS = "ops"
REVOKED_AT = "revoked_at"

_MALFORMED = (
    AttributeError,
    KeyError,
    TypeError,
    ValueError,
    RecursionError,
    OverflowError,
    UnserializableValue,
)


def key(session_id: str) -> dict[str, Any]:
    return {KEY: {"S": session_id}}


def number(value: int) -> dict[str, str]:
    return {"N": str(value)}


def user_data(record: Record, values: ValueFormat) -> dict[str, Any]:
    return {"M": values.pack_all(record.id, record.data)}


def from_record(record: Record, values: ValueFormat = PLAIN) -> dict[str, Any]:
    made = key(record.id) | {
        "user_data": user_data(record, values),
        "created_at": number(record.created_at),
        TTL: number(record.expires_at),
        "version": number(record.version),
    }
    made |= {name: {"S": text} for name, text in texts_of(record).items()}
    return made | {name: number(value) for name, value in numbers_of(record).items()}


def marker(session_id: str, moved_to: str, expires_at: int) -> dict[str, Any]:
    """Return the item that says where a session has moved."""
    return key(session_id) | {MOVED_TO: {"S": moved_to}, TTL: number(expires_at)}


def lasting_marker(session_id: str, moved_to: str, moved_until: int, expires_at: int) -> dict[str, Any]:
    """Return the item that is a marker for a while, and says for longer that nothing is to be moved there again."""
    return marker(session_id, moved_to, expires_at) | {MOVED_UNTIL: number(moved_until)}


def tombstone(session_id: str, operations: Iterable[str], expires_at: int) -> dict[str, Any]:
    """Return the item under which these operations create nothing, and no memory moves a session."""
    return key(session_id) | {OPS: {"SS": sorted(operations)}, TTL: number(expires_at)}


def from_item(session_id: str, item: dict[str, Any], now: int, values: ValueFormat) -> Record | Moved | None:
    """Return what an item says now. Raises CorruptRecord if it is nothing that is ever stored here."""
    if not is_session(item):
        try:
            is_live = _int(item[MOVED_UNTIL if MOVED_UNTIL in item else TTL]) > now
            return Moved(item[MOVED_TO]["S"]) if is_live and MOVED_TO in item else None
        except _MALFORMED as error:
            raise CorruptRecord(f"a stored item is not a session ({type(error).__name__})") from None
    record = to_record(session_id, item, values)
    return record if record.expires_at > now else None


def operations(item: Mapping[str, Any]) -> frozenset[str]:
    """Return the ids of the operations none of whose late attempts may land."""
    held = item.get(OPS)
    given = held.get("SS") if isinstance(held, dict) else None
    return frozenset(each for each in given if isinstance(each, str)) if isinstance(given, list) else frozenset()


def is_session(item: Mapping[str, Any]) -> bool:
    """Whether an item is a session, and neither a marker nor a tombstone nor a revocation."""
    return "user_data" in item or not (MOVED_TO in item or OPS in item or REVOKED_AT in item)


def is_tombstone(item: Mapping[str, Any], now: int) -> bool:
    """Whether what an item says is that nothing is to be moved there."""
    try:
        return "user_data" not in item and OPS in item and _int(item[TTL]) > now
    except _MALFORMED:
        return False


def moved_to(item: Mapping[str, Any]) -> str:
    """Return where a session has moved. Raises CorruptRecord if a marker does not say."""
    try:
        name: str = item[MOVED_TO]["S"]
    except _MALFORMED as error:
        raise CorruptRecord(f"a stored item is not a marker ({type(error).__name__})") from None
    return name


def revoked_at(item: Mapping[str, Any]) -> int:
    """Return when an owner's sessions were ended, in epoch seconds. Raises CorruptRecord if it does not say."""
    try:
        return _int(item[REVOKED_AT])
    except _MALFORMED as error:
        raise CorruptRecord(f"a stored item is not a revocation ({type(error).__name__})") from None


def to_record(session_id: str, item: dict[str, Any], values: ValueFormat) -> Record:
    """Return what an item says. Raises CorruptRecord if it is not a session."""
    try:
        stored = item["user_data"]
        if "M" in stored:
            data = values.unpack_all(session_id, stored["M"])
        else:
            older = decode(stored["S"])
            if not isinstance(older, dict):
                raise TypeError("user_data is not an object")
            data = encode_items(older)
        return Record(
            session_id,
            data,
            created_at=_int(item["created_at"]),
            expires_at=_int(item[TTL]),
            version=_int(item["version"]) if "version" in item else 0,
            owner=_text(item["owner"]) if "owner" in item else None,
            max_age=_int(item["max_age"]) if "max_age" in item else None,
            born=_text(item["born"]) if "born" in item else None,
            handle=_text(item["handle"]) if "handle" in item else None,
            label=_text(item["label"]) if "label" in item else None,
            authenticated_at=_int(item["authenticated_at"]) if "authenticated_at" in item else None,
            tenant=_text(item["tenant"]) if "tenant" in item else None,
        )
    except _MALFORMED as error:
        raise CorruptRecord(f"a stored item is not a session ({type(error).__name__})") from None


def _text(attribute: dict[str, str]) -> str:
    """Return a stored text."""
    value = attribute["S"]
    if not isinstance(value, str):
        raise TypeError("no text")
    return value


def _int(attribute: dict[str, str]) -> int:
    """Return a stored number, whole: older writers left fractions of seconds."""
    value = int(float(attribute["N"]))
    if value < 0:
        raise ValueError("negative")
    return value
