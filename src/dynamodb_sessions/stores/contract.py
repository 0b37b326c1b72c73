"""The contract between the session machinery and the places sessions are kept.

Whoever implements `SessionStore` promises what its docstrings say; `tests/stores/test_contract.py` holds every store
to it. A store knows nothing of cookies, requests or Python values: it moves strings.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol, TypeGuard, runtime_checkable

from dynamodb_sessions.codec import decode_items, is_text
from dynamodb_sessions.exceptions import CorruptRecord, SessionError, SessionTooLarge

MAX_RECORD_SIZE = 400 * 1024
"""Bytes of one item, names and values. Source: DynamoDB's service quotas, "Item size"."""

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

    def content(self) -> dict[str, Any]:
        """Return the decoded data. Raises CorruptRecord if it is not JSON."""
        try:
            return decode_items(self.data)
        except (ValueError, RecursionError):
            raise CorruptRecord("a stored session value is not JSON") from None


class Health(NamedTuple):
    """Whether a store serves sessions just now, where it keeps them, and why."""

    ok: bool
    mode: str
    reason: str


@dataclass(frozen=True, slots=True)
class Changes:
    """What one request did to a session: only what it changed, so that others' changes beside it are kept."""

    expires_at: int
    set: Mapping[str, str] = field(default_factory=dict, repr=False)
    remove: frozenset[str] = field(default_factory=frozenset, repr=False)
    owner: str | None = None
    """None: as it was."""
    max_age: int | None = None
    """None: as it was; 0: back to the default."""

    @property
    def is_touch(self) -> bool:
        """Whether the expiry is all there is: no change of the session itself, so no new version."""
        return not self.set and not self.remove and self.owner is None and self.max_age is None

    def apply(self, record: Record) -> Record:
        """Return the record as these changes leave it."""
        data = {**record.data, **self.set}
        for key in self.remove:
            data.pop(key, None)
        return Record(
            record.id,
            data,
            record.created_at,
            self.expires_at,
            record.version + (not self.is_touch),
            record.owner if self.owner is None else self.owner,
            record.max_age if self.max_age is None else self.max_age or None,
        )

    def move(self, record: Record, new_id: str) -> Record:
        """Return the record as these changes leave it under a new id, which always is a new version."""
        return replace(self.apply(record), id=new_id, version=record.version + 1)


@runtime_checkable
class SessionStore(Protocol):
    """Where sessions are kept. `now` is always the caller's clock, in whole epoch seconds.

    A record whose `expires_at` is not after `now` does not exist, whether or not it is still stored.
    Every method raises StoreUnavailable if it cannot tell what happened, ConfigurationError if it never can.
    Each is atomic: a cancelled or failed call has happened whole or not at all.
    """

    async def load(self, session_id: str, *, now: int, min_version: int = 0) -> Record | None:
        """Return the record, or None if there is none.

        A store that reads stale copies reads again until the record is at least as new as `min_version`.
        Raises CorruptRecord if what is stored is not a session.
        """
        ...

    async def create(self, record: Record, *, now: int, replaces: str | None = None) -> bool:
        """Store a new record and, in the same transaction, delete the one named by `replaces`.

        False, with nothing changed, if the id is taken. Raises SessionTooLarge.
        """
        ...

    async def update(self, record: Record, changes: Changes, *, now: int) -> Record | None:
        """Apply the changes to what is stored under `record.id` now; keys they do not name keep their stored values.

        `record` is what the changes were made on. None, with nothing changed, if it does not exist any more, though
        another may have been created under its id since: an update never brings a session back. A record of version 0
        stands for whatever is stored. Raises SessionTooLarge.
        """
        ...

    async def rotate(self, record: Record, new_id: str, changes: Changes, *, now: int) -> Record | None:
        """Move what is stored under `record.id` now, with the changes applied, to `new_id`; the old id is gone.

        None, with nothing changed, if it does not exist any more. Raises SessionTooLarge.
        """
        ...

    async def delete(self, session_id: str, *, version: int | None = None) -> bool:
        """Delete the record; if there is none, this is a no-op.

        With `version`, delete it only if that is still its version; False, with nothing changed, if it is not.
        """
        ...


@runtime_checkable
class OwnerStore(SessionStore, Protocol):
    """A store that finds sessions by whom they are bound to. `now` is epoch seconds; None: this machine's clock.

    An owner that no session can be bound to has none: None least of all, which is what an unbound session says.
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

    async def health(self) -> Health:
        """Find out whether the store serves sessions just now. Never raises a SessionError."""
        ...


@runtime_checkable
class ProbedStore(OwnerStore, Protocol):
    """A store on the far side of a network, that may prove impossible to use from the very start."""

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
    """Whether a session can be bound to it."""
    return is_text(owner, max_size=MAX_OWNER_SIZE)


def is_same(stored: Record, record: Record) -> bool:
    """Whether what is stored is the session a record was loaded from, not one created under its id since."""
    return record.version == 0 or stored.created_at == record.created_at


def record_size(record: Record) -> int:
    """Return the bytes DynamoDB counts for the record's item.

    Source: "DynamoDB item sizes and formats" in the AWS documentation; checked against DynamoDB Local.
    """
    numbers = [record.created_at, record.expires_at, record.version]
    size = _NAMES_SIZE + len(record.id.encode()) + _MAP_SIZE + _data_size(record.data)
    if record.owner is not None:
        size += len("owner") + len(record.owner.encode())
    if record.max_age is not None:
        size += len("max_age")
        numbers.append(record.max_age)
    return size + sum((len(str(number).rstrip("0")) + 1) // 2 + 1 for number in numbers)


def _data_size(data: Mapping[str, str]) -> int:
    return len("".join(data).encode()) + len("".join(data.values()).encode()) + len(data)


def check_size(record: Record, *, before: Record | None = None) -> int:
    """Return the record's size in bytes. Raises SessionTooLarge if it does not fit into one item.

    One that was larger before may stay so: compressed, what several have put in together may fit all the same.
    """
    size = record_size(record)
    if size > MAX_RECORD_SIZE and (before is None or _data_size(record.data) > _data_size(before.data)):
        keys = sorted(record.data, key=lambda key: len(record.data[key].encode()), reverse=True)
        raise SessionTooLarge(size, MAX_RECORD_SIZE, keys[:_LARGEST_KEYS])
    return size
