"""The head of a conversation: its item above all messages, and the writes that change it. It makes no calls.

Who reads the latest messages reads the head before them, by one Query. Earlier versions had it at position 0.

The head hands out positions, so it outlives what it has handed them out for: a clear leaves it there, emptied. It
decides what readers see, in one step for everybody, however long it takes to delete or renew the messages:

- `last` (N): the highest position that was handed out. It never goes down.
- `cleared` (N): no reader sees what is at this position or below. So a turn that got its positions before a clear and
  is stored after it is cleared too, as a whole: nobody finds it in a conversation that has no owner any more.
- `expires_at` (N): from then on no reader sees any message. Whoever adds one then begins anew, and clears what was
  there. Without it the conversation stays.
- `kept_until` (N): no message that a reader may see is removed by DynamoDB before that, so `expires_at` is never later.
  It is missing if each message expires by itself.
- `renewal` (N): what `kept_until` will be when the messages are renewed; `renewal_at` (N): when somebody began with it.

While it has messages, a head has `created_at` and `updated_at` (N), and `owner` (S) if it is somebody's, with `tenant`
(S) if they named one. `ttl` (N) is when DynamoDB removes the head: never before any of its messages, be it a cleared
one, and never within a day. Without `ttl` it stays. Heads of earlier versions have neither `cleared` nor `expires_at`,
and their `ttl` means both `ttl` and `expires_at`.

The arithmetic of lifetimes, for `ttl_seconds` L, at a time t: a use makes `expires_at` t + L, but never more than
`kept_until`. Messages are stored, and renewed, to stay until t + 2 L, or t + L and a day, whichever is later; and for
one day more, for turns that were under way. They are renewed when half of what they stay beyond L is over: so never
twice within L / 2, and with as much to spare in which it may fail. If it fails for longer, the conversation expires as
a whole, at `kept_until`.
"""

from dataclasses import dataclass, replace
from typing import Any

from dynamodb_sessions.exceptions import StoreUnavailable
from dynamodb_sessions.stores import table_schema
from dynamodb_sessions.stores.item_format import number

POSITION = 10**20
"""Far above all that a clock in microseconds comes to. Messages are at 1 and above."""

FORMER_POSITION = 0
"""Where earlier versions had it."""

DAY = 24 * 60 * 60
"""Seconds for which a head stays at the least. Then no clock is so far behind that it would begin below it: DynamoDB
refuses requests that were signed a quarter of an hour ago."""

_RENEWAL_SECONDS = 60
"""After so long, whoever began to renew the messages is taken to have crashed, and somebody else goes on."""

_NUMBERS = (
    "last",
    "cleared",
    "created_at",
    "updated_at",
    "expires_at",
    "kept_until",
    "renewal",
    "renewal_at",
    table_schema.TTL,
)
_LIFETIME = ("cleared", "created_at", "expires_at", "kept_until", table_schema.TTL)
"""What a head's lifetime is made of: whoever changes it has to have seen it."""


@dataclass(frozen=True, slots=True)
class Lifetime:
    """How long those who use a conversation have it live: so many seconds from each use on; None: they do not say.

    `of_messages`: not the conversation, but each message from when it was added. Then None is for ever.
    """

    seconds: int | None = None
    of_messages: bool = False

    @property
    def kept(self) -> int:
        """For how many seconds the messages of a conversation stay at the least."""
        seconds = self.seconds or 0
        return seconds + max(seconds, DAY)

    @property
    def renewed(self) -> int:
        """How many seconds before they might be removed the messages are renewed."""
        return ((self.seconds or 0) + self.kept) // 2


@dataclass(frozen=True, slots=True)
class Writer:
    """Who adds messages: for this owner and tenant, if they are named, and to live for so long."""

    owner: str | None
    tenant: str | None
    lifetime: Lifetime


@dataclass(frozen=True, slots=True)
class Head:
    """A head as it is stored. Times are epoch seconds; of a conversation with no messages there are none."""

    last: int
    cleared: int = 0
    owner: str | None = None
    created_at: int | None = None
    updated_at: int | None = None
    expires_at: int | None = None
    ttl: int | None = None
    tenant: str | None = None
    kept_until: int | None = None
    renewal: int | None = None
    renewal_at: int | None = None

    @classmethod
    def of(cls, item: dict[str, Any]) -> "Head":
        """Read an item. Raises StoreUnavailable if it is no head."""
        try:
            numbers = {name: int(item[name]["N"]) for name in _NUMBERS if name in item}
            owner, tenant = (item[name]["S"] if name in item else None for name in ("owner", "tenant"))
            return cls(**numbers, owner=owner, tenant=tenant)
        except (KeyError, TypeError, ValueError):
            raise StoreUnavailable("a conversation's head cannot be read") from None

    @property
    def is_empty(self) -> bool:
        """Whether nothing was added since it was cleared."""
        return self.created_at is None

    @property
    def ends_at(self) -> int | None:
        """When readers see nothing of it any more; None: never."""
        return self.ttl if self.expires_at is None else self.expires_at

    def has_ended(self, now: int) -> bool:
        """Whether all its messages have expired."""
        return not self.is_empty and self.ends_at is not None and self.ends_at <= now

    def is_live(self, now: int) -> bool:
        """Whether it may have a message that has not expired."""
        return not self.is_empty and not self.has_ended(now)

    def is_refused_to(self, writer: Writer) -> bool:
        """Whether it is another owner's or another tenant's."""
        named = ((self.owner, writer.owner), (self.tenant, writer.tenant))
        return any(None not in (its, theirs) and its != theirs for its, theirs in named)

    def message_ttl(self, now: int, lifetime: Lifetime) -> int | None:
        """Return when DynamoDB may remove a message that is added now; None: never."""
        seconds = lifetime.seconds
        if lifetime.of_messages and (seconds is not None or self.kept_until is None):
            return None if seconds is None else now + seconds
        if self.ends_at is None:
            return None
        stays = now if seconds is None else now + lifetime.kept
        return max(stays, self.ends_at, self.kept_until or 0, self.renewal or 0) + DAY

    def used(self, now: int, lifetime: Lifetime) -> "Head":
        """Return it as it is when it is used now: it lives for longer, if it does not live longer anyway."""
        ends, seconds = self.ends_at, lifetime.seconds
        if ends is None:
            return self
        if seconds is None and lifetime.of_messages and self.kept_until is None:
            return replace(self, expires_at=None, ttl=None)
        if seconds is not None:
            lives = now + seconds
            ends = max(ends, lives if self.kept_until is None else min(lives, self.kept_until))
        return replace(self, expires_at=ends).outliving(now, lifetime)

    def begun(self, now: int, lifetime: Lifetime) -> "Head":
        """Return it as it is when the first message is added now."""
        seconds = lifetime.seconds
        made = replace(
            self,
            created_at=now,
            expires_at=None if seconds is None else now + seconds,
            kept_until=None if seconds is None or lifetime.of_messages else now + lifetime.kept,
            renewal=None,
            renewal_at=None,
        )
        return replace(made, ttl=None) if seconds is None else made.outliving(now, lifetime)

    def outliving(self, now: int, lifetime: Lifetime) -> "Head":
        """Return it with a `ttl` after that of a message which is added now. What stays for good does so."""
        if self.ttl is None:
            return self
        ttl = self.message_ttl(now, lifetime)
        stays = now + DAY if ttl is None else max(now, ttl) + (0 if lifetime.of_messages else DAY)
        return replace(self, ttl=max(self.ttl, stays, now + DAY))

    def needs_renewal(self, now: int, lifetime: Lifetime) -> bool:
        """Whether its messages are to be renewed, since DynamoDB would remove them too soon."""
        if lifetime.seconds is None or lifetime.of_messages or self.ends_at is None or not self.is_live(now):
            return False
        return self.kept_until is None or self.kept_until < now + lifetime.renewed

    def is_urgent(self, now: int, lifetime: Lifetime) -> bool:
        """Whether without a renewal it would not live as long as whoever uses it has it live."""
        return lifetime.seconds is not None and (self.kept_until is None or self.kept_until < now + lifetime.seconds)


def begin(count: int, writer: Writer, *, now: int, base: int) -> dict[str, Any]:
    """Return the update that makes a head, and takes so many positions after `base`. It is refused if there is one."""
    begun = Head(base + count, ttl=0).begun(now, writer.lifetime)
    update = Update(last=begun.last, created_at=now, updated_at=now)
    update.set(expires_at=begun.expires_at, kept_until=begun.kept_until, ttl=begun.ttl)
    update.name(table_schema.KEY)
    update.conditions.append("attribute_not_exists(#session_id)")
    update.belong(writer)
    return update.parameters(answer=True)


def advance(count: int, writer: Writer, *, now: int) -> dict[str, Any]:
    """Return the update that takes so many positions of a head that is as most are.

    It is refused if there is none, to another owner or tenant, if the conversation has ended, was cleared, or was begun
    later, or if there is more to a head's lifetime than that it goes on: `advance_from` is for these. So a late attempt
    does not make somebody's what has been cleared meanwhile.
    """
    lifetime, update = writer.lifetime, Update(updated_at=now)
    update.name("last", "created_at", "expires_at", "kept_until", "ttl")
    update.values |= {":count": number(count), ":now": number(now)}
    update.sets.append("#last = #last + :count")
    update.conditions.append("#created_at <= :now")
    if lifetime.seconds is not None:
        begun = Head(0, ttl=0).begun(now, lifetime)
        update.set(expires_at=begun.expires_at, ttl=begun.ttl)
        update.conditions += ["#expires_at > :now", "#expires_at <= :expires_at", "#ttl <= :ttl"]
        if begun.kept_until is None:
            update.conditions.append("attribute_not_exists(#kept_until)")
        else:
            update.conditions.append("#kept_until >= :expires_at")
    elif lifetime.of_messages:
        update.set(expires_at=None, ttl=None)
        update.conditions.append("(attribute_not_exists(#expires_at) OR #expires_at > :now)")
        update.conditions.append("attribute_not_exists(#kept_until)")
    else:
        update.conditions += [f"attribute_not_exists(#{name})" for name in ("expires_at", "kept_until", "ttl")]
    update.belong(writer)
    return update.parameters(answer=True)


def advance_from(head: Head, count: int, writer: Writer, *, now: int) -> dict[str, Any]:
    """Return the update that takes so many positions of the head that was read. It is refused if that has changed.

    A conversation that has ended is cleared by it, and is nobody's but this owner's and tenant's.
    """
    lifetime, update = writer.lifetime, Update(updated_at=now)
    update.name("last")
    update.values[":count"] = number(count)
    update.sets.append("#last = #last + :count")
    update.seen(head, *_LIFETIME)
    if head.has_ended(now):
        update.seen(head, "last")
        update.set(cleared=head.last, renewal=None, renewal_at=None)
        after = head.begun(now, lifetime)
        update.set_text(owner=writer.owner, tenant=writer.tenant)
    else:
        after = head.begun(now, lifetime) if head.is_empty else head.used(now, lifetime)
        update.belong(writer)
    update.set(created_at=after.created_at, expires_at=after.expires_at, kept_until=after.kept_until, ttl=after.ttl)
    return update.parameters(answer=True)


def use(head: Head, now: int, lifetime: Lifetime) -> dict[str, Any] | None:
    """Return the update that has a conversation live for longer since it was read. None: it lives long enough.

    A tenth of its lifetime may pass before it is renewed. It is refused if it has ended, or changed, meanwhile.
    """
    seconds = lifetime.seconds
    if seconds is None or lifetime.of_messages or head.kept_until is None or not head.is_live(now):
        return None
    ends, before = head.used(now, lifetime).expires_at, head.ends_at
    if ends is None or before is None or ends - before <= seconds // 10:
        return None
    update = Update(expires_at=ends)
    update.seen(head, "created_at", "kept_until", "cleared")
    update.values[":now"] = number(now)
    update.conditions += ["#expires_at > :now", "#expires_at < :expires_at"]
    return update.parameters()


def begin_renewal(head: Head, now: int, lifetime: Lifetime) -> dict[str, Any]:
    """Return the update by which one of those who use a conversation takes it on to renew its messages.

    It is refused if somebody else is at it. What somebody has begun, and not ended, goes on if that is enough.
    """
    target = head.renewal
    if target is None or target < now + lifetime.renewed:
        target = now + lifetime.kept
    update = Update(renewal=target, renewal_at=now)
    update.seen(head, "created_at", "cleared", "kept_until")
    if head.expires_at is None:
        update.seen(head, "expires_at")
        update.set(expires_at=head.ends_at)
    if head.ttl is not None:
        update.set(ttl=max(head.ttl, target + 2 * DAY))
        update.conditions.append("#ttl <= :ttl")
    update.values[":stale"] = number(now - _RENEWAL_SECONDS)
    update.conditions.append("(attribute_not_exists(#renewal_at) OR #renewal_at <= :stale)")
    return update.parameters(answer=True)


def end_renewal(target: int, ends_at: int | None, now: int) -> dict[str, Any]:
    """Return the update that says that all messages are renewed, and has the conversation end then; None: as it would.

    It is refused if the conversation has ended meanwhile, or if it would end later anyway.
    """
    update = Update(kept_until=target, renewal=None, renewal_at=None)
    update.values |= {":target": number(target), ":now": number(now)}
    update.name("expires_at")
    update.conditions += ["#renewal = :target", "#expires_at > :now"]
    if ends_at is not None:
        update.set(expires_at=min(ends_at, target))
        update.conditions.append("#expires_at <= :expires_at")
    return update.parameters()


def empty(head: Head, *, now: int, exists: bool) -> dict[str, Any]:
    """Return the update that leaves a conversation without messages and owner. It is refused if it has gone on."""
    gone = ("owner", "created_at", "updated_at", "expires_at", "kept_until", "renewal", "renewal_at")
    update = Update(cleared=head.last, last=head.last, **dict.fromkeys(gone))
    if head.ttl is not None:
        update.set(ttl=max(head.ttl, now + DAY))
    if head.tenant is not None:
        update.set(tenant=None)
    if not exists:
        update.name(table_schema.KEY)
    update.conditions.append("#last = :last" if exists else "attribute_not_exists(#session_id)")
    return update.parameters()


def clear_up_to(last: int) -> dict[str, Any]:
    """Return the update that clears what a conversation had at some time, and lets it go on."""
    update = Update(cleared=last)
    update.name("last")
    update.conditions.append("#last > :cleared AND (attribute_not_exists(#cleared) OR #cleared < :cleared)")
    return update.parameters()


class Update:
    """An UpdateItem of a head, as it is put together: `#name` and `:name` are an attribute and its new value."""

    def __init__(self, **numbers: int | None) -> None:
        self.names: dict[str, str] = {}
        self.values: dict[str, Any] = {}
        self.sets: list[str] = []
        self.conditions: list[str] = []
        self._removes: list[str] = []
        self.set(**numbers)

    def name(self, *attributes: str) -> None:
        """Have attributes called by their names in an expression."""
        self.names |= {f"#{attribute}": attribute for attribute in attributes}

    def set(self, **numbers: int | None) -> None:
        """Set attributes to numbers; None removes them."""
        for attribute, value in numbers.items():
            self._set(attribute, None if value is None else number(value))

    def set_text(self, **texts: str | None) -> None:
        """Set attributes to texts; None removes them."""
        for attribute, value in texts.items():
            self._set(attribute, None if value is None else {"S": value})

    def _set(self, attribute: str, value: dict[str, str] | None) -> None:
        self.name(attribute)
        if value is None:
            self._removes.append(f"#{attribute}")
        else:
            self.values[f":{attribute}"] = value
            self.sets.append(f"#{attribute} = :{attribute}")

    def belong(self, writer: Writer) -> None:
        """Have it be this owner's and this tenant's, if they are named. It is refused if it is somebody else's."""
        for attribute, text in (("owner", writer.owner), ("tenant", writer.tenant)):
            if text is not None:
                self.set_text(**{attribute: text})
                self.conditions.append(f"(attribute_not_exists(#{attribute}) OR #{attribute} = :{attribute})")

    def seen(self, head: Head, *attributes: str) -> None:
        """Have it refused if one of these is not as it was seen."""
        for attribute in attributes:
            self.name(attribute)
            value = getattr(head, attribute)
            if value is None or (attribute == "cleared" and value == 0):
                self.conditions.append(f"attribute_not_exists(#{attribute})")
            else:
                self.values[f":seen_{attribute}"] = number(value)
                self.conditions.append(f"#{attribute} = :seen_{attribute}")

    def parameters(self, *, answer: bool = False) -> dict[str, Any]:
        """Return UpdateItem's parameters. `answer`: it is to tell what the head is afterwards."""
        removes = f" REMOVE {', '.join(self._removes)}" if self._removes else ""
        made = {
            "UpdateExpression": (f"SET {', '.join(self.sets)}" if self.sets else "") + removes,
            "ExpressionAttributeNames": self.names,
            "ExpressionAttributeValues": self.values,
            "ConditionExpression": " AND ".join(self.conditions),
        }
        if not made["ConditionExpression"]:
            del made["ConditionExpression"]
        return made | ({"ReturnValues": "ALL_NEW"} if answer else {})
