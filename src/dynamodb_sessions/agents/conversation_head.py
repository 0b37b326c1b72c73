"""The head of a conversation: its item at position 0, and the writes that change it. It makes no calls.

The head hands out positions, so it outlives what it has handed them out for: a clear leaves it there, emptied. Two
things in it make a clear one step for everybody, however long it takes to delete the messages:

- `last` (N): the highest position that was handed out. It never goes down.
- `cleared` (N): no reader sees what is at this position or below. So a turn that got its positions before a clear and
  is stored after it is cleared too, as a whole: nobody finds it in a conversation that has no owner any more.

While it has messages, a head has `created_at` and `updated_at` (N), and `owner` (S) if it is somebody's, with `tenant`
(S) if they named one. `expires_at` (N) is when the last message that a reader may see expires; `ttl` (N) is when
DynamoDB removes the head: never before any of its messages, be it a cleared one, and never within a day. Without `ttl`
it stays. Heads of earlier versions have neither `cleared` nor `expires_at`, and their `ttl` means both.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from dynamodb_sessions.exceptions import StoreUnavailable
from dynamodb_sessions.stores import table_schema
from dynamodb_sessions.stores.item_format import number

POSITION = 0

_KEPT = 24 * 60 * 60
"""Seconds for which a head stays at the least. Then no clock is so far behind that it would begin below it: DynamoDB
refuses requests that were signed a quarter of an hour ago."""


@dataclass(frozen=True, slots=True)
class Head:
    """A head as it is stored. Times are epoch seconds; of a conversation with no messages there are none."""

    last: int
    cleared: int = POSITION
    owner: str | None = None
    created_at: int | None = None
    updated_at: int | None = None
    expires_at: int | None = None
    ttl: int | None = None
    tenant: str | None = None

    @classmethod
    def of(cls, item: dict[str, Any]) -> "Head":
        """Read an item. Raises StoreUnavailable if it is no head."""
        try:
            numbers = {
                name: int(item[name]["N"])
                for name in ("last", "cleared", "created_at", "updated_at", "expires_at", table_schema.TTL)
                if name in item
            }
            owner, tenant = (item[name]["S"] if name in item else None for name in ("owner", "tenant"))
            return cls(**numbers, owner=owner, tenant=tenant)
        except (KeyError, TypeError, ValueError):
            raise StoreUnavailable("a conversation's head cannot be read") from None

    @property
    def is_empty(self) -> bool:
        """Whether nothing was added since it was cleared."""
        return self.created_at is None

    def is_live(self, now: int) -> bool:
        """Whether it may have a message that has not expired."""
        ends = self.ttl if self.expires_at is None else self.expires_at
        return not self.is_empty and (ends is None or ends > now)


class Lifetime(Enum):
    """What adding messages that expire makes of a head's lifetime, tried in this order."""

    ALL = auto()
    """The head stays for these messages: neither older messages nor cleared ones live longer."""
    SEEN = auto()
    """It stays longer for what was cleared: only what readers see ends with these messages."""
    NONE = auto()
    """Older messages live longer."""


def advance(
    count: int,
    *,
    now: int,
    base: int,
    owner: str | None,
    tenant: str | None = None,
    ttl_seconds: int | None,
    lifetime: Lifetime = Lifetime.ALL,
) -> dict[str, Any]:
    """Return the update that takes so many positions, from `base` on if there is no head.

    It is refused to another owner or tenant, and if messages that live longer forbid this lifetime.
    """
    names = {"#l": "last", "#c": "created_at", "#u": "updated_at"}
    values = {":base": number(base), ":count": number(count), ":now": number(now)}
    sets = ["#l = if_not_exists(#l, :base) + :count", "#c = if_not_exists(#c, :now)", "#u = :now"]
    removes, conditions = "", []
    if ttl_seconds is None:
        names |= {"#t": table_schema.TTL, "#e": "expires_at"}
        removes = " REMOVE #t, #e"
    elif lifetime is not Lifetime.NONE:
        names["#e"], values[":e"] = "expires_at", number(now + ttl_seconds)
        sets.append("#e = :e")
        conditions.append("(attribute_not_exists(#c) OR #e <= :e)")
    if ttl_seconds is not None and lifetime is Lifetime.ALL:
        names |= {"#t": table_schema.TTL, "#k": table_schema.KEY}
        values[":t"] = number(now + max(ttl_seconds, _KEPT))
        sets.append("#t = :t")
        # An older version's `ttl` is when its messages expire.
        seen = "attribute_not_exists(#c) OR #e <= :e OR (attribute_not_exists(#e) AND #t <= :e)"
        conditions = [f"(attribute_not_exists(#k) OR (#t <= :t AND ({seen})))"]
    for attribute, name in (("owner", owner), ("tenant", tenant)):
        if name is not None:
            names[f"#{attribute}"], values[f":{attribute}"] = attribute, {"S": name}
            sets.append(f"#{attribute} = :{attribute}")
            conditions.append(f"(attribute_not_exists(#{attribute}) OR #{attribute} = :{attribute})")
    return {
        "UpdateExpression": f"SET {', '.join(sets)}{removes}",
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": values,
        "ReturnValues": "UPDATED_NEW",
        **({"ConditionExpression": " AND ".join(conditions)} if conditions else {}),
    }


def empty(head: Head, *, now: int, exists: bool) -> dict[str, Any]:
    """Return the update that leaves a conversation without messages and owner. It is refused if it has gone on."""
    names = {
        "#l": "last",
        "#cleared": "cleared",
        "#o": "owner",
        "#c": "created_at",
        "#u": "updated_at",
        "#e": "expires_at",
    }
    values = {":l": number(head.last)}
    sets = ["#cleared = :l", "#l = :l"]
    if head.ttl is not None:
        names["#t"], values[":t"] = table_schema.TTL, number(max(head.ttl, now + _KEPT))
        sets.append("#t = :t")
    removes = "#o, #c, #u, #e"
    if head.tenant is not None:
        names["#tenant"] = "tenant"
        removes += ", #tenant"
    if not exists:
        names["#k"] = table_schema.KEY
    return {
        "UpdateExpression": f"SET {', '.join(sets)} REMOVE {removes}",
        "ConditionExpression": "#l = :l" if exists else "attribute_not_exists(#k)",
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": values,
    }


def clear_up_to(last: int) -> dict[str, Any]:
    """Return the update that clears what a conversation had at some time, and lets it go on."""
    return {
        "UpdateExpression": "SET #cleared = :l",
        "ConditionExpression": "#l > :l AND (attribute_not_exists(#cleared) OR #cleared < :l)",
        "ExpressionAttributeNames": {"#l": "last", "#cleared": "cleared"},
        "ExpressionAttributeValues": {":l": number(last)},
    }
