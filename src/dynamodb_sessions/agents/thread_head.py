"""The head of a thread: its item at position 0, and the updates that change it. It makes no calls.

Only a thread with an owner or a lifetime has one. It has `created_at` and `updated_at` (N, epoch seconds), and `owner`
(S) if it is somebody's: the owners' index finds it by these. If the thread expires, `expires_at` (N) is when, `ttl` (N)
when DynamoDB removes the head, and `renewed_at` (N) when all of the thread's items last got a new lifetime.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from dynamodb_sessions.exceptions import CorruptRecord
from dynamodb_sessions.stores import table_schema
from dynamodb_sessions.stores.item_format import number


@dataclass(frozen=True, slots=True)
class Lifetime:
    """Until when what is written now lives, in epoch seconds: for readers, and for DynamoDB."""

    expires_at: int
    ttl: int

    @property
    def attributes(self) -> dict[str, Any]:
        return {"expires_at": number(self.expires_at), table_schema.TTL: number(self.ttl)}

    @property
    def renewal(self) -> dict[str, Any]:
        """The update that gives it to an item."""
        return {
            "UpdateExpression": "SET #e = :e, #t = :t",
            "ExpressionAttributeNames": {"#e": "expires_at", "#t": table_schema.TTL},
            "ExpressionAttributeValues": {":e": number(self.expires_at), ":t": number(self.ttl)},
        }


@dataclass(frozen=True, slots=True)
class ThreadHead:
    """A head as it is stored. Times are epoch seconds."""

    created_at: int
    updated_at: int
    owner: str | None = None
    expires_at: int | None = None
    renewed_at: int | None = None

    @classmethod
    def of(cls, item: dict[str, Any]) -> "ThreadHead":
        """Read an item. Raises CorruptRecord if it is no thread's head."""
        try:
            numbers = {
                name: int(item[name]["N"])
                for name in ("created_at", "updated_at", "expires_at", "renewed_at")
                if name in item
            }
            return cls(**numbers, owner=item["owner"]["S"] if "owner" in item else None)
        except (KeyError, TypeError, ValueError):
            raise CorruptRecord("a thread's head is invalid") from None

    def is_live(self, now: int) -> bool:
        return self.expires_at is None or self.expires_at > now


def lifetime_from(now: int, ttl_seconds: int) -> Lifetime:
    """Return the lifetime of what is written now. DynamoDB keeps it for twice as long as readers see it unused.

    So it need not be renewed with every use of the thread, but once in half a lifetime.
    """
    return Lifetime(now + ttl_seconds, now + 2 * ttl_seconds)


class Due(Enum):
    """Whether all that a thread has is to get a new lifetime."""

    NOT_YET = auto()
    SOON = auto()
    """There is half a lifetime left to do it in."""
    NOW = auto()


def renewal_due(renewed_at: int, now: int, lifetime: Lifetime) -> Due:
    """Return whether a thread is to get this lifetime: half of one is over since it last got one, or all of it."""
    lifetimes = (now - renewed_at) / (lifetime.ttl - lifetime.expires_at)
    return Due.NOT_YET if lifetimes < 0.5 else Due.SOON if lifetimes < 1 else Due.NOW  # noqa: PLR2004 - a half


def use(now: int, *, owner: str | None, lifetime: Lifetime | None) -> dict[str, Any]:
    """Return the update that says that a thread is used. It is refused to another owner, and if the thread has expired.

    It answers with all of the head.
    """
    names = {"#c": "created_at", "#u": "updated_at", "#e": "expires_at", "#r": "renewed_at", "#t": table_schema.TTL}
    values = {":now": number(now)}
    sets, removes = ["#c = if_not_exists(#c, :now)", "#u = :now"], " REMOVE #e, #r, #t"
    conditions = ["(attribute_not_exists(#e) OR #e > :now)"]
    if lifetime is not None:
        values |= {":e": number(lifetime.expires_at), ":t": number(lifetime.ttl)}
        sets += ["#e = :e", "#t = :t", "#r = if_not_exists(#r, :now)"]
        removes = ""
    if owner is not None:
        names["#o"], values[":o"] = "owner", {"S": owner}
        sets.append("#o = :o")
        conditions.append("(attribute_not_exists(#o) OR #o = :o)")
    return {
        "UpdateExpression": f"SET {', '.join(sets)}{removes}",
        "ConditionExpression": " AND ".join(conditions),
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": values,
        "ReturnValues": "ALL_NEW",
    }


def renewed(now: int) -> dict[str, Any]:
    """Return the update that says that all of a thread's items have a new lifetime."""
    return {
        "UpdateExpression": "SET #r = :now",
        "ConditionExpression": "attribute_exists(#r)",
        "ExpressionAttributeNames": {"#r": "renewed_at"},
        "ExpressionAttributeValues": {":now": number(now)},
    }
