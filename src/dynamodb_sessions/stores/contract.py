"""The contract between the session machinery and the places sessions are kept.

Whoever implements `SessionStore` promises what its docstrings say; `tests/stores/test_contract.py` holds every store
to it. A store knows nothing of cookies, requests or Python values: it moves strings.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol, TypeGuard, runtime_checkable

from dynamodb_sessions.codec import JSON, Serializer, decode_items, is_text
from dynamodb_sessions.exceptions import CorruptRecord, SessionError, SessionTooLarge

MAX_RECORD_SIZE = 400 * 1024
"""Bytes of one item, names and values. Source: DynamoDB's service quotas, "Item size"."""

MOVED_SECONDS = 60
"""For how long it is known where a session has moved: as long as requests with its old cookie may be under way."""

Decide = Callable[["Record"], "Changes | None"]
"""Says what is to be changed of a record, as it is stored now. None: nothing. It may be asked several times."""

OnMoved = Callable[[], None]
"""Called if what was looked for had that id until a moment ago: the session, or a login in its place, has another."""

IsDue = Callable[["Record", int], bool]
"""Says of a record whether its session is to be touched if it is used now, in epoch seconds."""

BURIED_SECONDS = 400 * 24 * 60 * 60
"""For how long it is known that a session has ended of which nothing was found: as long as a browser keeps a cookie.

Source: RFC 6265bis, "The Max-Age Attribute": at most 400 days.
"""

Consistency = Literal["default", "strong", "eventual"]
"""Of a read: "default" is the store's own."""

MAX_LABEL_LENGTH = 256
"""Characters of a label. What is longer is cut."""

MAX_OWNER_SIZE = 1024
"""Bytes. Source: DynamoDB's limit of a partition key is 2048; half of it leaves every composite key room."""

_NAMES_SIZE = sum(map(len, ("session_id", "user_data", "created_at", "ttl", "version")))
_MAP_SIZE = 3
_LARGEST_KEYS = 3


@dataclass(frozen=True, slots=True)
class Record:
    """One stored session. Times are whole epoch seconds; `data` maps each session key to its encoded value."""

    id: str = field(repr=False)
    data: Mapping[str, str] = field(repr=False)
    created_at: int
    expires_at: int
    version: int = 1
    owner: str | None = None
    max_age: int | None = None
    """The session's own idle lifetime in seconds; None: whoever loads it decides."""
    born: str | None = None
    """Random, from its creation: tells it from one that is created under its id later. Older records have none."""
    handle: str | None = None
    """64 random bits in hex, from its login: a name by which its owner may know it, and which is not its id."""
    label: str | None = None
    """What the app calls the device that logged in, such as its user agent."""
    authenticated_at: int | None = None
    """When its owner last proved who they are."""
    tenant: str | None = None
    """The tenant that its owner has logged in to: the customer of yours, for example. Only with an owner."""

    def content(self, serializer: Serializer = JSON) -> dict[str, Any]:
        """Return the data, decoded by the serializer that it was stored with. Raises CorruptRecord if it cannot be."""
        try:
            return decode_items(self.data, serializer)
        except (ValueError, RecursionError):
            raise CorruptRecord("a stored session value is not JSON") from None


class Party(NamedTuple):
    """Whom sessions are bound to: an owner, or a tenant, which has many owners. `kind` is the attribute's name."""

    kind: Literal["owner", "tenant"]
    name: str | None

    def has(self, record: Record) -> bool:
        """Whether a session is bound to it."""
        return (record.owner if self.kind == "owner" else record.tenant) == self.name


@dataclass(frozen=True, slots=True)
class Moved:
    """What is stored under an id that a session had until a moment ago: nothing of the session, but where it is now.

    A store keeps it for `MOVED_SECONDS`. `to` ends what moved there; it never gives access to it.
    """

    to: str = field(repr=False)


class Expiry(NamedTuple):
    """When a session expires that is used now: a function of its own idle lifetime, which the store alone knows.

    `used_at` is epoch seconds, `idle` the seconds that a session without a lifetime of its own lives for, `ends_at` the
    epoch second at which the session ends, however busy; None: never.
    """

    used_at: int
    idle: int
    ends_at: int | None = None

    def at(self, max_age: int | None) -> int:
        """Return when a session of this lifetime expires, in epoch seconds."""
        idle = self.used_at + (max_age or self.idle)
        return idle if self.ends_at is None else min(idle, self.ends_at)


class Health(NamedTuple):
    """Whether a store serves sessions just now, where it keeps them, and why.

    `degraded`: it does, but in this process's memory, as DynamoDB cannot be initialised.
    """

    ok: bool
    mode: str
    reason: str
    degraded: bool = False


@dataclass(frozen=True, slots=True)
class Changes:
    """What one request did to a session: only what it changed, so that what others change at the same time is kept."""

    expires_at: int | None
    """None: as it was, whatever others make of it meanwhile."""
    set: Mapping[str, str] = field(default_factory=dict, repr=False)
    remove: frozenset[str] = field(default_factory=frozenset, repr=False)
    owner: str | None = None
    """Who has just logged in; `tenant`, `handle` and `label` are then this login's. None: all four as they were."""
    max_age: int | None = None
    """None: as it was; 0: back to the default."""
    created_at: int | None = None
    """Epoch seconds: what the session counts as created at from now, because its owner has just logged in."""
    expiry: Expiry | None = None
    """When the session expires, if its own lifetime is not what was last heard of it. None: `expires_at` as it is."""
    heard: int = 0
    """The highest version of the session that is known to be without these changes."""
    handle: str | None = None
    label: str | None = None
    authenticated_at: int | None = None
    """Epoch seconds: when the owner has just proved who they are. None: as it was."""
    tenant: str | None = None

    @property
    def is_touch(self) -> bool:
        """Whether the expiry is all there is: no change of the session itself, so no new version."""
        if self.owner is not None or self.authenticated_at is not None:
            return False
        return not self.set and not self.remove and self.max_age is None

    def apply(self, record: Record) -> Record:
        """Return the record as these changes leave it."""
        data = {**record.data, **self.set}
        for key in self.remove:
            data.pop(key, None)
        login = record if self.owner is None else self
        return Record(
            record.id,
            data,
            # An older session is known by the time of its creation.
            record.created_at if self.created_at is None or record.born is None else self.created_at,
            self.expires_with(record),
            record.version + (not self.is_touch),
            login.owner,
            record.max_age if self.max_age is None else self.max_age or None,
            record.born,
            login.handle,
            login.label,
            record.authenticated_at if self.authenticated_at is None else self.authenticated_at,
            login.tenant,
        )

    def expires_with(self, record: Record) -> int:
        """Return when these changes let a session expire that is stored like this."""
        if self.expires_at is None:
            return record.expires_at
        return self.expires_at if self.expiry is None or self.max_age is not None else self.expiry.at(record.max_age)

    def are_in(self, record: Record) -> bool:
        """Whether what these changes would leave is what there is, but for times and version."""
        return (
            all(record.data.get(key) == value for key, value in self.set.items())
            and all(key not in record.data for key in self.remove)
            and (self.owner is None or (self.owner, self.handle) == (record.owner, record.handle))
            and (self.authenticated_at is None or self.authenticated_at == record.authenticated_at)
            and (self.max_age is None or (self.max_age or None) == record.max_age)
        )

    def move(self, record: Record, new_id: str) -> Record:
        """Return the record as these changes leave it under a new id, which always is a new version."""
        created_at = record.created_at if self.created_at is None else self.created_at
        return replace(self.apply(record), id=new_id, created_at=created_at, version=record.version + 1)


@runtime_checkable
class SessionStore(Protocol):
    """Where sessions are kept. `now` is always the caller's clock, in whole epoch seconds.

    A record whose `expires_at` is not after `now` does not exist, whether or not it is still stored.
    Every method raises StoreUnavailable if it cannot tell what happened, ConfigurationError if it never can.
    Each is atomic: a cancelled or failed call has happened whole or not at all, once, and what it is told to have done
    is not done again by a late attempt of it.

    A store of your own has each method by its name: from Python 3.12 on, `isinstance` does not find those of
    `__getattr__`, and the middleware refuses the store.

    A store whose reads may miss what a browser has seen has an attribute `keeps_versions` that is True: then cookies
    and tokens carry the version that the browser has seen, and `load` gets it as `min_version`, and `is_due`.
    """

    async def load(
        self,
        session_id: str,
        *,
        now: int,
        min_version: int = 0,
        consistency: Consistency = "default",
        on_moved: OnMoved | None = None,
        is_due: IsDue | None = None,
    ) -> Record | None:
        """Return the record; None if there is none: then `on_moved` is called if it has another id since a moment ago.

        `min_version` is the version that the browser has seen; 0: that is not known. A store that reads stale copies
        reads again until the record is at least as new as that. It does not answer from a cache if it is 0, if another
        consistency than "default" is asked for, or if the record there `is_due`. With `consistency="strong"` what it
        returns is not stale, with "eventual" it may be.
        Raises CorruptRecord if what is stored is not a session.
        """
        ...

    async def create(
        self,
        record: Record,
        *,
        now: int,
        replaces: str | None = None,
        fresh_id: Callable[[], str] | None = None,
        bury_until: int | None = None,
    ) -> Record | None:
        """Store a new record and, in the same transaction, end the one named by `replaces`: it has moved.

        With `bury_until` nothing was found of that one, and it is ended as `delete` ends such.
        Return what is stored; None, with nothing changed, if the id is taken. Where it cannot be known what became of
        an attempt, the store makes sure that nothing ever does, and stores the record under `fresh_id()`, or, without
        one, raises StoreUnavailable. Raises SessionTooLarge.
        """
        ...

    async def update(self, record: Record, changes: Changes, *, now: int) -> Record | None:
        """Apply the changes to what is stored under `record.id` now; keys they do not name keep their stored values.

        Return what is stored then, at least as far as the record and the changes know it. `record` is what the changes
        were made on: None, with nothing changed, if that session does not exist any more, though another may have been
        created under its id since. An update never brings a session back. A touch never shortens what is stored.
        Raises SessionTooLarge.
        """
        ...

    async def exchange(self, record: Record, decide: Decide, *, now: int) -> Record | None:
        """Change what is stored under `record.id` now by what `decide` says of it, if nobody else changes it meanwhile.

        Else `decide` is asked again. Return what is stored then. `record` is the session: None, with nothing changed,
        if it does not exist any more. What `decide` raises comes through. Raises SessionTooLarge.
        """
        ...

    async def rotate(self, record: Record, new_id: str, changes: Changes, *, now: int) -> Record | None:
        """Move what is stored under `record.id` now, with the changes applied, to `new_id`; the old id has Moved.

        None, with nothing changed, if it does not exist any more. Raises SessionTooLarge.
        """
        ...

    async def delete(
        self,
        session_id: str,
        *,
        record: Record | None = None,
        version: int | None = None,
        bury_until: int | None = None,
    ) -> bool:
        """Delete what is stored; if there is nothing, this is a no-op.

        With `record`, delete that session only, not another one created under its id since; and if it has moved and has
        the same owner still, delete it where it is now. With `version`, delete it only if that is still its version;
        False, with nothing changed, if it is not. With `bury_until`, epoch seconds, make sure that, where nothing is
        stored, no session of this id is moved to the store until then: another process may have it in its memory.
        """
        ...


@runtime_checkable
class OwnerStore(SessionStore, Protocol):
    """A store that finds sessions by whom they are bound to. `now` is epoch seconds; None: this machine's clock.

    An owner or tenant that no session can be bound to has none: None least of all, which is what an unbound session
    says.
    """

    @property
    def mode(self) -> str:
        """Where sessions are kept just now: "dynamodb", "memory", or a word of your own."""
        ...

    @property
    def mode_reason(self) -> str:
        """Why they are kept there, in a few words."""
        ...

    def list_owner(self, owner: str | None, *, now: int | None = None) -> AsyncIterator[Record]:
        """Yield the owner's sessions, oldest first. What cannot be read is left out, with a warning."""
        ...

    async def revoke_owner(self, owner: str | None, *, keep: str | None = None) -> int:
        """End all the owner's sessions but the one with the id `keep`. Return how many it ended."""
        ...

    def list_tenant(self, tenant: str | None, *, now: int | None = None) -> AsyncIterator[Record]:
        """Yield the tenant's sessions, by owner. What cannot be read is left out, with a warning."""
        ...

    async def revoke_tenant(self, tenant: str | None, *, keep: str | None = None) -> int:
        """End all the tenant's sessions but the one with the id `keep`. Return how many it ended."""
        ...

    async def limit_owner(self, owner: str, maximum: int, *, keep: str) -> Sequence[str]:
        """End the owner's oldest sessions until `maximum` are left, the one with the id `keep` among them.

        Return the ids of those that it ended.
        """
        ...

    async def health(self) -> Health:
        """Find out whether the store serves sessions just now. Never raises a SessionError."""
        ...


@runtime_checkable
class ProbedStore(OwnerStore, Protocol):
    """A store on the far side of a network, that may prove impossible to use from the very start."""

    async def revoke_owner(self, owner: str | None, *, keep: str | None = None, now: int | None = None) -> int:
        """As `OwnerStore` has it. `now`: when that was asked for; no session of before is moved to the store later."""
        ...

    async def revoke_tenant(self, tenant: str | None, *, keep: str | None = None, now: int | None = None) -> int:
        """As `OwnerStore` has it, with `now` as above."""
        ...

    async def move_in(
        self,
        record: Record,
        *,
        now: int,
        fresh_id: Callable[[], str],
        revoked_at: Mapping[Party, int] | None = None,
    ) -> Record | None:
        """Store a session that was kept in a process's memory, under a fresh id. Return what is stored.

        None, with nothing changed, if it has ended here: it was buried, or the sessions of its owner, or its tenant,
        were ended since it was created, at another time than `revoked_at`, which its process knows of. Raises what
        `create` raises; what became of it then is a session whose id nobody knows.
        """
        ...

    async def is_buried(self, session_id: str, *, now: int) -> bool:
        """Whether a session has ended of which nothing was found here: see `delete`."""
        ...

    def check_event_loop(self) -> None:
        """Raise ConfigurationError if the store cannot be used from the event loop that runs here."""
        ...

    @property
    def probe_error(self) -> SessionError | None:
        """What the last probe found wrong; None: nothing, or it has not been made."""
        ...

    def mark_unusable(self, error: SessionError) -> None:
        """Have `mode`, `mode_reason` and `probe_error` say that the store cannot be used, until a probe succeeds."""
        ...

    def probe(self) -> bool:
        """Find out, synchronously, whether the store can be used. Never raises: the error is in `probe_error`.

        Once it has succeeded it does nothing, and answers True.
        """
        ...


def is_owner(owner: object) -> TypeGuard[str]:
    """Whether a session can be bound to it, as an owner or as a tenant."""
    return is_text(owner, max_size=MAX_OWNER_SIZE)


def parties_of(record: Record) -> list[Party]:
    """Return whom a session is bound to."""
    parties = (Party("owner", record.owner), Party("tenant", record.tenant))
    return [party for party in parties if party.name is not None]


def is_same(stored: Record, record: Record) -> bool:
    """Whether what is stored is the session a record was loaded from, not one created under its id since."""
    return stored.born == record.born and (record.born is not None or stored.created_at == record.created_at)


def texts_of(record: Record) -> dict[str, str]:
    """Return those of a record's optional texts that it has, by the names of their attributes."""
    texts = {
        "owner": record.owner,
        "tenant": record.tenant,
        "born": record.born,
        "handle": record.handle,
        "label": record.label,
    }
    return {name: text for name, text in texts.items() if text is not None}


def numbers_of(record: Record) -> dict[str, int]:
    """Return those of a record's optional numbers that it has, by the names of their attributes."""
    numbers = {"max_age": record.max_age, "authenticated_at": record.authenticated_at}
    return {name: number for name, number in numbers.items() if number is not None}


def record_size(record: Record, *, overhead: int = 0) -> int:
    """Return the bytes DynamoDB counts for the record's item, if each value takes `overhead` bytes more than its text.

    Source: "DynamoDB item sizes and formats" in the AWS documentation; checked against DynamoDB Local.
    """
    numbers = [record.created_at, record.expires_at, record.version]
    size = _NAMES_SIZE + len(record.id.encode()) + _MAP_SIZE + _data_size(record.data, overhead)
    for name, text in texts_of(record).items():
        size += len(name) + len(text.encode())
    for name, number in numbers_of(record).items():
        size += len(name)
        numbers.append(number)
    return size + sum((len(str(number).rstrip("0")) + 1) // 2 + 1 for number in numbers)


def _data_size(data: Mapping[str, str], overhead: int) -> int:
    return len("".join(data).encode()) + len("".join(data.values()).encode()) + len(data) * (1 + overhead)


def check_size(record: Record, *, before: Record | None = None, overhead: int = 0) -> int:
    """Return the record's size in bytes. Raises SessionTooLarge if it does not fit into one item.

    One that was larger before may stay so: compressed, what several have put in together may fit all the same.
    """
    size = record_size(record, overhead=overhead)
    if size > MAX_RECORD_SIZE and (
        before is None or _data_size(record.data, overhead) > _data_size(before.data, overhead)
    ):
        keys = sorted(record.data, key=lambda key: len(record.data[key].encode()), reverse=True)
        raise SessionTooLarge(size, MAX_RECORD_SIZE, keys[:_LARGEST_KEYS])
    return size
