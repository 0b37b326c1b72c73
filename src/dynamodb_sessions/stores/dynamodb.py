"""DynamoDBStore: the store's contract as DynamoDB requests. One conditional request is one change."""

import contextlib
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from dynamodb_sessions import settings
from dynamodb_sessions.aws.errors import ConditionFailed, ItemTooLarge, OutcomeUnknown
from dynamodb_sessions.aws.table_calls import Operation, TableCalls
from dynamodb_sessions.clock import wall_clock
from dynamodb_sessions.events import observing
from dynamodb_sessions.exceptions import (
    ConfigurationError,
    CorruptRecord,
    SessionError,
    SessionTooLarge,
    StoreUnavailable,
)
from dynamodb_sessions.forks import tell_of_forks
from dynamodb_sessions.identifiers import fingerprint, is_random
from dynamodb_sessions.stores import item_format, table_schema, update_expression
from dynamodb_sessions.stores.contract import (
    BURIED_SECONDS,
    MAX_RECORD_SIZE,
    MOVED_SECONDS,
    Changes,
    Consistency,
    Decide,
    Health,
    IsDue,
    Moved,
    OnMoved,
    Party,
    Record,
    is_owner,
    is_same,
    parties_of,
)
from dynamodb_sessions.stores.reserved_ids import PROBE_ID, revocation_of
from dynamodb_sessions.stores.value_format import ValueFormat, check_readable

if TYPE_CHECKING:
    from dynamodb_sessions.stores.read_cache import ReadCache

logger: logging.Logger = logging.getLogger("dynamodb_sessions")

_MAX_ENTRIES = 100  # An expression holds 4 KB, some 250 entries; emulators give up before that.
_MAX_WRITTEN = 1024
_MAX_MOVES = 8
_BURIED_ENOUGH = 24 * 60 * 60
"""How many seconds sooner than asked for a tombstone may go, so that each logout need not write it anew."""
_LONGEST_CACHED = 3600
_STALE_SECONDS = 1
"""For so long a cheap read may miss what has been written. Source: "DynamoDB read consistency"."""


class DynamoDBStore:
    """Keeps sessions in a DynamoDB table.

    Without `table_name`, it is SESSION_TABLE_NAME or "sessions"; without `endpoint_url`, DYNAMODB_ENDPOINT_URL if set.
    `client` is a boto3 client of DynamoDB, made after the last fork, or an open one of aiobotocore or aioboto3; without
    one, it is built at once from `region_name` and `endpoint_url` or boto3's own configuration, and again in a forked
    process. A client of DAX or of a boto3 resource is refused. With `"async"`, or an aiodynamo client, of which region,
    endpoint and credentials are used, requests are made without threads: that takes asyncio, and
    `pip install dynamodb-sessions[async]`. `timeout` is the deadline of an operation in seconds. With
    `consistent_read=False` reads cost half and are repeated only when they miss something the client has seen. A value
    of more than `compress_over` characters is stored compressed if it gains by it; None: never. `create_table=True`
    creates the table with all its indexes on first use, for development.

    With `cache_seconds`, a process keeps what it has read for so long, in at most `cache_size` bytes, and a request of
    the same browser need not read it again: see docs/read-cache.md. The promise: a browser sees at once what it has
    done in responses that came one after the other; what parallel requests did, what was saved after a response had
    begun (streams, websockets, before a 5xx), and what others did, a logout and a revocation of a copied cookie
    included, is late by at most `cache_seconds`. 0: nothing is kept.

    With `encryption_key`, or SESSION_ENCRYPTION_KEY, values are encrypted by AES-256-GCM: that takes
    `pip install dynamodb-sessions[encryption]`. A key is 32 bytes in URL-safe base64. Of a list, newest first, the
    first encrypts and all decrypt; if the first is None, nothing is encrypted. See docs/encryption.md.

    Raises ConfigurationError for an invalid table name, a timeout that is not positive, an invalid size or number of
    seconds, an invalid encryption key, or a client that cannot be built; anything else that is wrong shows at the first
    call, or `probe`.
    """

    _calls_type: ClassVar[type[TableCalls]] = TableCalls
    """How its calls are made: the command line's store is more patient."""

    def __init__(
        self,
        table_name: str | None = None,
        *,
        region_name: str | None = None,
        endpoint_url: str | None = None,
        client: Any = None,
        consistent_read: bool = True,
        create_table: bool = False,
        timeout: float = 5.0,
        compress_over: int | None = 1024,
        encryption_key: settings.EncryptionKey = None,
        cache_seconds: float = 0,
        cache_size: int = 16 * 1024 * 1024,
    ) -> None:
        if consistent_read not in (True, False):
            raise ConfigurationError(f"consistent_read={consistent_read!r} must be True or False")
        self.table_name: str = settings.table_name(table_name)
        self._calls = self._calls_type(
            self.table_name,
            probe_key=item_format.key(PROBE_ID),
            create=partial(table_schema.create, tenants=True),
            region_name=region_name,
            endpoint_url=settings.endpoint_url(endpoint_url),
            client=client,
            create_table=create_table,
            timeout=timeout,
        )
        self._values = ValueFormat(compress_over, settings.encryption_keys(encryption_key))
        self._consistent_read = consistent_read
        self._cache = _cache(cache_seconds, cache_size)
        self._noting = Lock()
        self._written: dict[str, int] = {}
        """When this store last wrote the sessions it wrote last: a cheap read right after would be repeated anyway."""
        tell_of_forks(self)

    def forked(self) -> None:
        """Begin anew in a forked process: a thread of the parent's may have held the lock."""
        self._noting = Lock()

    @property
    def client(self) -> Any:
        """The boto3 client. Raises ConfigurationError if none can be built."""
        return self._calls.client

    @property
    def mode(self) -> str:
        """Where sessions are kept: "dynamodb", or "memory" if the last probe failed, and the table cannot be used."""
        return self._calls.mode

    @property
    def mode_reason(self) -> str:
        """Why."""
        return self._calls.mode_reason

    @property
    def probe_error(self) -> SessionError | None:
        """What the last probe found wrong."""
        return self._calls.probe_error

    @property
    def keeps_versions(self) -> bool:
        """Whether a read may miss what its browser has seen, unless the browser says which version that was."""
        return self._cache is not None or not self._consistent_read

    def probe(self) -> bool:
        """Make the one GetItem that says whether the table can be used, and set `mode` and `mode_reason`.

        Never raises: what was wrong is in `probe_error`. It blocks, so call it where nothing else runs yet, as while
        a Lambda function initialises. Once it has succeeded it does nothing.
        """
        return self._calls.probe()

    def mark_unusable(self, error: SessionError) -> None:
        """Have `mode`, `mode_reason` and `probe_error` say that the table cannot be used."""
        self._calls.mark_unusable(error)

    async def close(self) -> None:
        """Close the connections that this store has opened; a given client stays open. A later call opens new ones."""
        await self._calls.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def check_event_loop(self) -> None:
        """Raise ConfigurationError if the store cannot be used from the event loop that runs here."""
        self._calls.check_event_loop()

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
        """As the contract says: one GetItem, and a strong one if the first is older than what the browser has seen.

        With a cache, none if that has what the browser has seen, else a strong one for all who ask at the same time.
        """
        cache = self._cache
        found: Record | Moved | None
        if cache is not None and min_version and consistency == "default":
            found = cache.get(session_id, now=now, min_version=min_version, is_due=is_due)
            if found is None:
                read = partial(self._get, self._calls.begin(), session_id, now, consistent=True)
                found = await cache.read(session_id, now=now, min_version=min_version, read=read)
            if (observation := observing.get()) is not None and not observation.calls:
                observation.add_nothing()
        else:
            consistent = consistency == "strong" or (
                consistency == "default"
                and (self._consistent_read or now - self._written.get(session_id, 0) <= _STALE_SECONDS)
            )
            operation = self._calls.begin()
            found = await self._get(operation, session_id, now, consistent=consistent)
            if not consistent and (not isinstance(found, Record) or found.version < min_version):
                found = await self._get(operation, session_id, now, consistent=True)
            if cache is not None:
                cache.seen(session_id, found)
        if isinstance(found, Moved):
            if on_moved is not None:
                on_moved()
            return None
        return found

    async def create(
        self,
        record: Record,
        *,
        now: int,
        replaces: str | None = None,
        fresh_id: Callable[[], str] | None = None,
        bury_until: int | None = None,
    ) -> Record | None:
        """As the contract says: a PutItem, or a transaction with the marker that the session in its place leaves."""
        self._values.check_size(record)
        operation = self._calls.begin()
        ended = replaces
        try:
            while True:
                try:
                    await self._create_once(operation, record, replaces, now, bury_until)
                except ConditionFailed:
                    if replaces is None or not isinstance(await self._get_any(operation, replaces, now), Moved):
                        return None
                    # It has moved already: whoever is to end it must find out where to, not what is begun here.
                    replaces = None
                    if not operation.is_unsettled:
                        continue
                    error = OutcomeUnknown("a new session got no answer")
                except OutcomeUnknown as unknown:
                    error = unknown
                else:
                    return record
                if await self._is_created(operation, record, now, error):
                    return record
                if fresh_id is None:
                    raise StoreUnavailable(f"{error}; nothing is stored under this id") from None
                record = replace(record, id=fresh_id())
        finally:
            self._note_written(now, record.id, ended)

    async def update(self, record: Record, changes: Changes, *, now: int) -> Record | None:
        """As the contract says: one UpdateItem, and a second, deciding attempt only where the first cannot be known."""
        changed = changes.apply(record)
        self._values.check_size(changed, before=record)
        operation = self._calls.begin()
        stored: Record | None = None
        try:
            if changes.is_touch:
                stored = await self._touch(operation, record, changes, now)
            elif len(changes.set) + len(changes.remove) > _MAX_ENTRIES:
                stored = await self._replace(operation, record, changes, now)
            else:
                stored = await self._update(operation, record, changes, changed, now)
        finally:
            if self._cache is not None:
                self._cache.changed(record.id, None if operation.is_unsettled else stored, changes)
            self._note_for_cheap_reads(now, record.id)
        return stored

    async def exchange(self, record: Record, decide: Decide, *, now: int) -> Record | None:
        """As the contract says: a read, and an UpdateItem on condition of what was read, until nobody comes between.

        It leaves its name in the item, in place of the name that the last one left: so it is known whether it was
        applied, unless so much has happened since that yet another name stands there.
        """
        operation = self._calls.begin()
        name, left, request = f"exchange:{operation.id}", record, dict[str, Any]()
        changes = Changes(None)
        try:
            while True:
                stored, operations = await self._read(operation, record.id, now)
                if operation.is_unsettled and isinstance(stored, Moved):
                    raise StoreUnavailable("a change got no answer; the session has another id meanwhile")
                if not isinstance(stored, Record) or not is_same(stored, record):
                    return None
                if name in operations:
                    return stored
                # One that may still be applied is sent again as it was: then either of the two may be the one that is.
                if not _may_land(operation, stored, left):
                    operation.is_unsettled = False
                    decided = decide(stored)
                    if decided is None:
                        return stored
                    changes = decided
                    left = changes.apply(stored)
                    request = self._exchanging(stored, operations, changes, left, name, now)
                if (changed := await self._change_as_read(operation, left, changes, request)) is not None:
                    return changed
        finally:
            self._note_written(now, record.id)

    def _exchanging(
        self, stored: Record, operations: Collection[str], changes: Changes, changed: Record, name: str, now: int
    ) -> dict[str, Any]:
        """Return the UpdateItem that changes what was just read, and leaves a name in it. Raises SessionTooLarge."""
        self._values.check_size(changed, before=stored)
        check_readable(changed)
        if stored.version and len(changes.set) + len(changes.remove) <= _MAX_ENTRIES:
            return update_expression.deciding_attempt(stored, operations, changes, name, now, self._values)
        return update_expression.replacement(stored, operations, changed, changes, name, now, self._values)

    async def rotate(self, record: Record, new_id: str, changes: Changes, *, now: int) -> Record | None:
        """As the contract says: one transaction of two writes. The old id then holds a marker."""
        operation = self._calls.begin()
        stored: Record | None = record
        try:
            while stored is not None:
                moved = changes.move(stored, new_id)
                self._values.check_size(moved, before=stored)
                put = {
                    "TableName": self.table_name,
                    "Item": item_format.from_record(moved, self._values),
                    "ConditionExpression": "attribute_not_exists(#id)",
                    "ExpressionAttributeNames": {"#id": table_schema.KEY},
                }
                marker = update_expression.move(stored, new_id, now, keeps_expiry=changes.expires_at is None)
                leave = {"TableName": self.table_name, **marker}
                try:
                    await self._transact(operation, moved, {"Put": put}, {"Put": leave})
                except ConditionFailed:  # It was changed meanwhile, and those changes are to be kept; or it was ended.
                    found = await self._get(operation, record.id, now, consistent=True)
                    stored = found if isinstance(found, Record) and is_same(found, record) else None
                except OutcomeUnknown as error:
                    settled = await self._settle_rotation(operation, record, new_id, now, error)
                    if not isinstance(settled, _StillThere):
                        return settled
                    stored = settled.record
                else:
                    return moved
                if stored is not None:
                    await operation.pause(StoreUnavailable("the session is changed faster than it can be moved"))
            return None
        finally:
            self._note_written(now, new_id, record.id)

    async def delete(
        self,
        session_id: str,
        *,
        record: Record | None = None,
        version: int | None = None,
        bury_until: int | None = None,
    ) -> bool:
        """As the contract says: one DeleteItem, or a tombstone in its place where a creation may still come."""
        operation, now = self._calls.begin(), wall_clock()
        try:
            if record is None and version is None and not is_random(session_id):
                # What others may begin anew under an id of their own is not for a late attempt of ours to end.
                found = await self._get_any(operation, session_id, now)
                if found is None:
                    return True
                record = found if isinstance(found, Record) else None
            if bury_until is not None and await self._bury(operation, session_id, now, bury_until):
                return True
            return await self._delete(operation, session_id, record=record, version=version)
        finally:
            self._note_written(now, session_id)

    async def move_in(
        self,
        record: Record,
        *,
        now: int,
        fresh_id: Callable[[], str],
        revoked_at: Mapping[Party, int] | None = None,
    ) -> Record | None:
        """Store a session that was kept in a process's memory, under a fresh id, unless it has ended here.

        That it was not buried, and has not moved before, is a condition of the write: an earlier move, whose replies
        were lost, counts, be it that what it has stored has ended since. Whether its owner's or its tenant's sessions
        were ended is read before, and again afterwards: who ends them writes that first, and then looks for them.
        """
        self._values.check_size(record)
        operation = self._calls.begin()
        known = revoked_at or {}
        if await self._is_revoked(operation, record, known):
            return None
        stored: Record | None = None
        while stored is None:
            moved = replace(record, id=fresh_id())
            put = update_expression.creation(moved, operation.id, now, self._values)
            leave = update_expression.move_in(record.id, moved.id, now)
            writes = [{"Put": {"TableName": self.table_name, **write}} for write in (put, leave)]
            try:
                await self._transact(operation, moved, *writes)
            except ConditionFailed:
                stored = await self._moved_before(operation, record, now)
                if stored is None:
                    return None
            except OutcomeUnknown as error:
                stored = moved if await self._is_created(operation, moved, now, error) else None
            else:
                stored = moved
        if await self._is_revoked(operation, record, known):
            await self._delete(operation, stored.id, record=stored)
            return None
        self._note_written(now, stored.id)
        return stored

    async def is_buried(self, session_id: str, *, now: int) -> bool:
        """Whether a session has ended of which nothing was found here."""
        found = await self._item(self._calls.begin(), session_id, consistent=True)
        return found is not None and item_format.is_tombstone(found, now)

    def list_owner(self, owner: str | None, *, now: int | None = None) -> AsyncIterator[Record]:
        """Yield the owner's sessions, oldest first, by one Query of the index and one GetItem each, some at once.

        The index hears of a login or logout a moment later. What cannot be read is left out, with a warning. All of it
        ends by the store's timeout, but for the time that the caller takes.
        """
        return self._list(Party("owner", owner), now)

    def list_tenant(self, tenant: str | None, *, now: int | None = None) -> AsyncIterator[Record]:
        """Yield the tenant's sessions, by owner, as `list_owner` does those of one.

        Raises ConfigurationError if the table has no index `tenant-index`.
        """
        return self._list(Party("tenant", tenant), now)

    async def _list(self, party: Party, now: int | None) -> AsyncIterator[Record]:
        """Yield the sessions of an owner or a tenant, in the order of the index."""
        if not is_owner(party.name):
            return
        at = wall_clock() if now is None else now

        async def read(operation: Operation, session_id: str) -> Record | None:
            try:
                found = await self._get(operation, session_id, at, consistent=True)
            except CorruptRecord as error:
                logger.warning("session %s cannot be read and is left out: %s", fingerprint(session_id), error)
                return None
            return found if isinstance(found, Record) and party.has(found) else None

        async for record in self._calls.many(self._ids_of(party), read):
            if record is not None:
                yield record

    async def owner_ids(self, owner: str) -> list[str]:
        """Return the ids that the index has of an owner, oldest first. Some may have ended, or be about to be there."""
        return [session_id async for session_id in self._ids_of(Party("owner", owner))]

    async def revoke_owner(self, owner: str | None, *, keep: str | None = None, now: int | None = None) -> int:
        """End all the owner's sessions but the one with the id `keep`. Return how many it ended.

        The index is asked again until it names no session that is new: one may be moving to another id meanwhile. That
        they are ended is written down first: of those that other processes keep in memory, as they could not reach the
        table when they began, none is moved to it that was created before. `now`, epoch seconds, is when it was asked
        for; None: now.
        """
        return await self._revoke(Party("owner", owner), keep, now)

    async def revoke_tenant(self, tenant: str | None, *, keep: str | None = None, now: int | None = None) -> int:
        """End all the tenant's sessions but the one with the id `keep`, as `revoke_owner` does. Return how many.

        Raises ConfigurationError if the table has no index `tenant-index`, and StoreUnavailable if there are more than
        can be ended by the store's timeout: call it again, and it goes on with those that are left.
        """
        return await self._revoke(Party("tenant", tenant), keep, now)

    async def _revoke(self, party: Party, keep: str | None, now: int | None) -> int:
        """End all the sessions of an owner or a tenant but one. Return how many it ended."""
        if not is_owner(party.name):
            return 0
        await self._note_revocation(party, wall_clock() if now is None else now)
        seen: set[str] = set()
        ended = 0

        async def end(operation: Operation, session_id: str) -> bool:
            return await self._delete_of(operation, party, session_id, keep=keep)

        while True:
            found = [session_id async for session_id in self._ids_of(party) if session_id not in seen]
            if not found:
                return ended
            seen.update(found)
            theirs = [session_id for session_id in found if session_id != keep]
            ended += sum([was_there async for was_there in self._calls.many(theirs, end)])

    async def limit_owner(self, owner: str, maximum: int, *, keep: str) -> Sequence[str]:
        """End the owner's oldest sessions until `maximum` are left, the one with the id `keep` among them.

        As long as there are not more than that, it takes one Query of the index; else it reads the newest, until it has
        found as many as may stay, and ends all that are older. Return the ids of those that it ended.
        """
        others = [session_id for session_id in await self.owner_ids(owner) if session_id != keep]
        if len(others) < maximum:
            return ()
        at = wall_clock()

        async def is_live(operation: Operation, session_id: str) -> bool:
            found = await self._get_any(operation, session_id, at)
            return isinstance(found, Record) and found.owner == owner

        async def end(operation: Operation, session_id: str) -> str | None:
            return (
                session_id if await self._delete_of(operation, Party("owner", owner), session_id, keep=keep) else None
            )

        newest_first, left = others[::-1], maximum - 1
        seen = 0
        while left and seen < len(newest_first):
            # No more at once than may stay: most are live.
            part = newest_first[seen : seen + left]
            left -= sum([live async for live in self._calls.many(part, is_live)])
            seen += len(part)
        ended = [session_id async for session_id in self._calls.many(newest_first[seen:], end)]
        return [session_id for session_id in ended if session_id is not None]

    async def scan(self, *, now: int | None = None, include_expired: bool = False) -> AsyncIterator[Record]:
        """Yield every session of the table, in no particular order: for an operator, whose role allows Scan.

        Where a session has moved, or has never been, is left out. What cannot be read is left out, with a warning.
        """
        at = wall_clock() if now is None else now
        async for found in self._calls.pages("scan", TableName=self.table_name):
            session_id = _id_of(found)
            if not item_format.is_session(found):
                continue
            try:
                record = item_format.to_record(session_id, found, self._values)
            except CorruptRecord as error:
                logger.warning("session %s cannot be read and is left out: %s", fingerprint(session_id), error)
            else:
                if include_expired or record.expires_at > at:
                    yield record

    async def health(self) -> Health:
        """Make the one GetItem that says whether the table answers. Never raises a SessionError."""
        try:
            await self._calls.read(
                self._calls.begin(), "get_item", TableName=self.table_name, Key=item_format.key(PROBE_ID)
            )
        except SessionError as error:
            return Health(False, "dynamodb", str(error))
        return Health(True, "dynamodb", "the table answers")

    async def _ids_of(self, party: Party) -> AsyncIterator[str]:
        """Yield the ids that an index has, of an owner the oldest first. It hears of changes a moment late."""
        of = table_schema.of_owner if party.kind == "owner" else table_schema.of_tenant
        async for found in self._calls.pages("query", TableName=self.table_name, **of(str(party.name))):
            yield _id_of(found)

    async def _get_any(self, operation: Operation, session_id: str, now: int) -> Record | Moved | str | None:
        """Read strongly what is stored under an id, be it corrupt: then return what is wrong with it."""
        try:
            return await self._get(operation, session_id, now, consistent=True)
        except CorruptRecord as error:
            return str(error)

    async def _note_revocation(self, party: Party, at: int) -> None:
        request = update_expression.revocation(revocation_of(party), at, at + BURIED_SECONDS)
        with contextlib.suppress(ConditionFailed):  # They were ended later than that, too.
            await self._calls.repeat(self._calls.begin(), "update_item", TableName=self.table_name, **request)

    async def _moved_before(self, operation: Operation, record: Record, now: int) -> Record | None:
        """Return what an earlier move of a session has stored, if that has not ended since."""
        left = await self._item(operation, record.id, consistent=True)
        if left is None or item_format.is_tombstone(left, now) or item_format.MOVED_TO not in left:
            return None
        found = await self._get(operation, item_format.moved_to(left), now, consistent=True)
        return found if isinstance(found, Record) and is_same(found, record) else None

    async def _is_revoked(self, operation: Operation, record: Record, known: Mapping[Party, int]) -> bool:
        """Whether the sessions of whom it is bound to were ended after it was created, and not at the time known."""
        for party in parties_of(record):
            found = await self._item(operation, revocation_of(party), consistent=True)
            at = None if found is None else item_format.revoked_at(found)
            if at is not None and at >= record.created_at and at != known.get(party):
                return True
        return False

    async def _create_once(
        self, operation: Operation, record: Record, replaces: str | None, now: int, bury_until: int | None
    ) -> None:
        """Make one attempt to create: the item alone, or in one transaction with what takes the place of `replaces`."""
        put = {
            "TableName": self.table_name,
            **update_expression.creation(record, operation.id, now, self._values),
        }
        if replaces is None:
            await self._write(operation, record, "put_item", **put)
            return
        until = now + MOVED_SECONDS
        if bury_until is None:
            leave = update_expression.replacing(replaces, record.id, now)
        else:
            marker = item_format.lasting_marker(replaces, record.id, until, bury_until)
            leave = {"Item": marker | item_format.tombstone(replaces, [operation.id], bury_until)}
        await self._transact(operation, record, {"Put": put}, {"Put": {"TableName": self.table_name, **leave}})

    async def _is_created(self, operation: Operation, record: Record, now: int, error: OutcomeUnknown) -> bool:
        """Find out what became of an attempt to create a session; if it has not, see that it never does."""
        operation.is_unsettled = True
        while True:
            await operation.pause(error)
            found, operations = await self._read(operation, record.id, now)
            if isinstance(found, Record):
                # A record of nobody's making has nothing that tells it from its like, but for what it says.
                if is_same(found, record) and (record.born is not None or found.data == record.data):
                    return True
                raise StoreUnavailable(f"{error}; another session is stored under this id")
            if isinstance(found, Moved) and is_random(record.id):  # It was created, and will not be again.
                raise StoreUnavailable(f"{error}; the session has another id meanwhile")
            until = now + update_expression.OPERATION_SECONDS
            request = update_expression.tombstone(record.id, operations, operation.id, now, until)
            try:
                await self._calls.attempt(operation, "put_item", TableName=self.table_name, **request)
            except ConditionFailed:
                continue
            except OutcomeUnknown as unknown:
                error = unknown
                continue
            return False

    async def _touch(self, operation: Operation, record: Record, changes: Changes, now: int) -> Record | None:
        """Let a session live longer. It can be repeated without harm, so it is."""
        request = update_expression.touch(record, changes, now)
        try:
            answer = await self._calls.repeat(operation, "update_item", TableName=self.table_name, **request)
        except ConditionFailed:
            # It has ended; or it lives as long already, maybe by an attempt of ours; or its own lifetime is another.
            found = await self._get(operation, record.id, now, consistent=True)
            return found if isinstance(found, Record) and is_same(found, record) else None
        return _heard(changes.apply(record), answer, changes)

    async def _update(
        self, operation: Operation, record: Record, changes: Changes, changed: Record, now: int
    ) -> Record | None:
        """Make the first attempt to change what is stored, and settle it if what became of it is not clear."""
        request = update_expression.first_attempt(record, changes, operation.id, now, self._values)
        try:
            answer = await self._write(operation, changed, "update_item", TableName=self.table_name, **request)
        except ConditionFailed:
            # Gone, or in the older layout, or not to be changed without a look at all of it.
            return await self._replace(operation, record, changes, now)
        except OutcomeUnknown as error:
            return await self._settle_update(operation, record, changes, now, error)
        return _heard(changed, answer, changes)

    async def _settle_update(
        self, operation: Operation, record: Record, changes: Changes, now: int, error: OutcomeUnknown
    ) -> Record | None:
        """Find out what became of an attempt to change a session, and change it if that has not happened.

        `base` is the highest version that is known to be without our changes. What is stored one version later than
        that has been changed once: by us, then all of our changes are there; if they are not, by somebody else. Of
        later ones nobody can tell, unless our changes are there, or our operation.
        """
        operation.is_unsettled = True
        base = max(record.version, changes.heard)
        decision: _Decision | None = None
        while True:
            await operation.pause(error)
            stored, operations = await self._read(operation, record.id, now)
            if isinstance(stored, Moved):
                raise StoreUnavailable(f"{error}; the session has another id meanwhile")
            if stored is None or not is_same(stored, record):
                return None
            if operation.id in operations:  # By what was decided last: what was decided before cannot land any more.
                return stored if decision is None else decision.answer(stored)
            if not stored.version:
                return await self._replace(operation, record, changes, now)
            too_large = None if decision is None else decision.too_large
            decision = self._decide(operation, stored, operations, changes, base, now, too_large)
            base = decision.base
            try:
                await self._write(operation, stored, "update_item", TableName=self.table_name, **decision.request)
            except ConditionFailed:
                continue
            except SessionTooLarge as refused:
                decision = decision._replace(too_large=refused)
            except OutcomeUnknown as unknown:
                error = unknown
            else:
                return decision.answer(decision.left)

    def _decide(
        self,
        operation: Operation,
        stored: Record,
        operations: Collection[str],
        changes: Changes,
        base: int,
        now: int,
        too_large: SessionTooLarge | None,
    ) -> "_Decision":
        """Decide on what was just read: change it, or leave a fence, after which it is told that it was done, or not.

        Also what is too large is refused only after a fence: there may be room again when an attempt is late.
        """
        fence = update_expression.fence(stored, operations, operation.id, now)
        fenced = replace(stored, version=stored.version + 1)
        if changes.are_in(stored):
            # Others may have put it there: then it is for us to let the session live as long as ours would.
            until = max(stored.expires_at, changes.expires_with(stored))
            fence = update_expression.fence(stored, operations, operation.id, now, until=until)
            return _Decision(fence, replace(fenced, expires_at=until), base)
        if stored.version > base + 1:
            unknown = StoreUnavailable("DynamoDB did not answer, and others have changed the session since")
            return _Decision(fence, fenced, base, unknown)
        base, changed = stored.version, changes.apply(stored)
        try:
            check_readable(changed)
        except SessionTooLarge as refused:
            too_large = refused
        if too_large is not None:
            return _Decision(fence, fenced, base, too_large, too_large)
        request = update_expression.deciding_attempt(stored, operations, changes, operation.id, now, self._values)
        return _Decision(request, changed, base)

    async def _replace(self, operation: Operation, record: Record, changes: Changes, now: int) -> Record | None:
        """Change the whole map at once, provided nobody else changes it: for what one expression cannot say."""
        while True:
            stored, operations = await self._read(operation, record.id, now)
            if not isinstance(stored, Record) or not is_same(stored, record):
                if operation.is_unsettled and isinstance(stored, Moved):
                    raise StoreUnavailable("a change got no answer; the session has another id meanwhile")
                return None
            if operation.id in operations:
                return stored
            changed = changes.apply(stored)
            check_readable(changed)
            request = update_expression.replacement(
                stored, operations, changed, changes, operation.id, now, self._values
            )
            if (heard := await self._change_as_read(operation, changed, changes, request)) is not None:
                return heard

    async def _change_as_read(
        self, operation: Operation, changed: Record, changes: Changes, request: dict[str, Any]
    ) -> Record | None:
        """Make one attempt that demands what was just read. None, after a pause: it is to be read again."""
        failure = StoreUnavailable("the session is changed by too many at once")
        try:
            answer = await self._write(operation, changed, "update_item", TableName=self.table_name, **request)
        except ConditionFailed:
            pass
        except OutcomeUnknown as error:
            operation.is_unsettled = True
            failure = error
        else:
            return _heard(changed, answer, changes)
        await operation.pause(failure)
        return None

    async def _settle_rotation(
        self, operation: Operation, record: Record, new_id: str, now: int, error: OutcomeUnknown
    ) -> "Record | _StillThere | None":
        """Find out what became of an attempt to move a session; if it has not moved, see that it never does."""
        operation.is_unsettled = True
        while True:
            await operation.pause(error)
            stored, operations = await self._read(operation, record.id, now)
            if isinstance(stored, Record) and is_same(stored, record):
                request = update_expression.fence(stored, operations, operation.id, now)
                try:
                    await self._calls.attempt(operation, "update_item", TableName=self.table_name, **request)
                except ConditionFailed:
                    continue
                except OutcomeUnknown as unknown:
                    error = unknown
                    continue
                return _StillThere(replace(stored, version=stored.version + 1))
            # It can never land any more: what it demanded is gone.
            found = await self._get(operation, new_id, now, consistent=True)
            return found if isinstance(found, Record) else None

    async def _delete(
        self,
        operation: Operation,
        session_id: str,
        *,
        record: Record | None = None,
        version: int | None = None,
        party: Party | None = None,
        keep: str | None = None,
    ) -> bool:
        """Delete what lives under an id on these conditions; what has moved, where it is now, if it is theirs still."""
        request = update_expression.deletion(session_id, record=record, version=version, party=party)
        try:
            await self._calls.repeat(operation, "delete_item", TableName=self.table_name, **request)
        except ConditionFailed:
            found = await self._get_any(operation, session_id, wall_clock())
        else:
            return True
        finally:
            self._note_written(wall_clock(), session_id)
        whose = party if record is None or party is not None else Party("owner", record.owner)
        if isinstance(found, Moved) and version is None and whose is not None:
            return await self._delete_moved(operation, found.to, whose, record, keep)
        if version is None and record is not None:
            return True  # It is ended, and what is there is another one.
        if not operation.is_unsettled or isinstance(found, str):
            return False
        # An attempt of ours may have ended it; it has not if the session still lives, be it under another id.
        if isinstance(found, Moved) and version is not None and record is not None:
            moved = await self._follow(operation, found.to)
            return not (isinstance(moved, Record) and moved.born == record.born)
        return not isinstance(found, Record) or (record is not None and not is_same(found, record))

    async def _delete_moved(
        self, operation: Operation, session_id: str, whose: Party, record: Record | None, keep: str | None
    ) -> bool:
        """Delete a session under the id it has moved to, unless it is somebody else's by now, or the one to keep.

        With a record, delete that session only, not one that was begun in its place.
        """
        found = await self._follow(operation, session_id)
        if not isinstance(found, Record) or not whose.has(found) or found.id == keep:
            return False
        if record is not None and found.born != record.born:
            return False
        return await self._delete(operation, found.id, record=found, keep=keep)

    async def _follow(self, operation: Operation, session_id: str) -> Record | Moved | None:
        """Read what is stored under the id that a session has by now."""
        found = await self._get(operation, session_id, wall_clock(), consistent=True)
        for _ in range(_MAX_MOVES):
            if not isinstance(found, Moved):
                break
            found = await self._get(operation, found.to, wall_clock(), consistent=True)
        return found

    async def _bury(self, operation: Operation, session_id: str, now: int, until: int) -> bool:
        """Leave a tombstone where nothing is stored. False if a session is."""
        request = update_expression.tombstone(session_id, (), operation.id, now, until)
        name = "put_item"
        while True:
            try:
                await self._calls.repeat(operation, name, TableName=self.table_name, **request)
            except ConditionFailed:
                found = await self._item(operation, session_id, consistent=True)
            else:
                return True
            if found is not None and item_format.is_session(found):
                return False
            if found is not None and item_format.is_tombstone(found, until - 1 - _BURIED_ENOUGH):
                return True
            if found is not None and item_format.MOVED_TO in found:
                name, request = "update_item", update_expression.bury_marker(session_id, operation.id, until)
            else:
                operations = frozenset[str]() if found is None else item_format.operations(found)
                name = "put_item"
                request = update_expression.tombstone(session_id, operations, operation.id, now, until)
            await operation.pause(StoreUnavailable("others end the session at the same time"))

    async def _delete_of(self, operation: Operation, party: Party, session_id: str, *, keep: str | None = None) -> bool:
        """End a session if it is theirs still, under whichever id it is by now, unless that is the id `keep`.

        The index names for a moment the id that the session had before it got that one.
        """
        record = None
        if not is_random(session_id):
            found = await self._get_any(operation, session_id, wall_clock())
            record = found if isinstance(found, Record) else None
            if found is None or (record is not None and not party.has(record)):
                return False
        return await self._delete(operation, session_id, record=record, party=party, keep=keep)

    def _note_written(self, now: int, *session_ids: str | None) -> None:
        """Note what this process has written, or may have: what the cache has of it may be over."""
        if self._cache is not None:
            for session_id in session_ids:
                if session_id is not None:
                    self._cache.drop(session_id)
        self._note_for_cheap_reads(now, *session_ids)

    def _note_for_cheap_reads(self, now: int, *session_ids: str | None) -> None:
        """Note what this process has written: for two seconds, reads of it are strong. The oldest are forgotten."""
        if self._consistent_read:
            return
        with self._noting:
            for session_id in session_ids:
                if session_id is not None:
                    self._written.pop(session_id, None)
                    self._written[session_id] = now
            while len(self._written) > _MAX_WRITTEN:
                self._written.pop(next(iter(self._written)))

    async def _get(self, operation: Operation, session_id: str, now: int, *, consistent: bool) -> Record | Moved | None:
        found = await self._item(operation, session_id, consistent=consistent)
        return None if found is None else item_format.from_item(session_id, found, now, self._values)

    async def _read(
        self, operation: Operation, session_id: str, now: int
    ) -> tuple[Record | Moved | None, frozenset[str]]:
        """Read strongly what is stored under an id, and the operations that are known there."""
        found = await self._item(operation, session_id, consistent=True)
        if found is None:
            return None, frozenset()
        return item_format.from_item(session_id, found, now, self._values), item_format.operations(found)

    async def _item(self, operation: Operation, session_id: str, *, consistent: bool) -> dict[str, Any] | None:
        """Return a session's item; None: there is none. Raises StoreUnavailable if the answer is of something else."""
        answer = await self._calls.read(
            operation,
            "get_item",
            TableName=self.table_name,
            Key=item_format.key(session_id),
            ConsistentRead=consistent,
        )
        if "Item" not in answer:
            return None
        found: dict[str, Any] = answer["Item"]
        if not isinstance(found, dict):
            raise StoreUnavailable("DynamoDB's answer is invalid")
        if found.get(table_schema.KEY) != {"S": session_id}:
            # A client that is shared across a fork reads its parent's answers.
            raise StoreUnavailable(
                "DynamoDB's client answered with another session: is it shared with a forked process?"
            )
        return found

    async def _transact(self, operation: Operation, record: Record, *writes: dict[str, Any]) -> None:
        """Make all the writes, or none. One that gets no answer is sent once more: the same token makes it the same."""
        parameters = {"TransactItems": list(writes), "ClientRequestToken": str(uuid.uuid4())}
        try:
            await self._write(operation, record, "transact_write_items", **parameters)
        except OutcomeUnknown as error:
            operation.is_unsettled = True
            await operation.pause(error)
            await self._write(operation, record, "transact_write_items", **parameters)

    async def _write(self, operation: Operation, record: Record, name: str, **parameters: Any) -> dict[str, Any]:
        """Make one attempt to write. Raises SessionTooLarge, which names the largest keys, if the item is."""
        try:
            return await self._calls.attempt(operation, name, **parameters)
        except ItemTooLarge:  # Others have added to the session since it was loaded.
            raise SessionTooLarge(
                MAX_RECORD_SIZE + 1, MAX_RECORD_SIZE, sorted(record.data, key=lambda key: -len(record.data[key]))[:3]
            ) from None


def _cache(seconds: float, size: int) -> "ReadCache | None":
    """Return a read cache; None: there is to be none. Raises ConfigurationError."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= _LONGEST_CACHED:
        raise ConfigurationError(f"cache_seconds={seconds!r} must be a number of seconds, from 0 (none) to an hour")
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ConfigurationError(f"cache_size={size!r} must be a whole number of bytes, at least 1")
    if not seconds:
        return None
    from dynamodb_sessions.stores.read_cache import ReadCache  # noqa: PLC0415 - of no use without a cache

    return ReadCache(seconds, size)


def _id_of(item: Any) -> str:
    """Return the id of an item that an answer holds. Raises StoreUnavailable if the answer is not one of DynamoDB's."""
    try:
        session_id = item[table_schema.KEY]["S"]
    except (KeyError, TypeError):
        session_id = None
    if not isinstance(session_id, str):
        raise StoreUnavailable("DynamoDB's answer is invalid")
    return session_id


def _may_land(operation: Operation, stored: Record, left: Record) -> bool:
    """Whether an exchange that would leave this may still be applied. Raises StoreUnavailable if it may have been."""
    if operation.is_unsettled and stored.version > left.version:
        raise StoreUnavailable("a change got no answer, and others have changed the session since")
    return operation.is_unsettled and stored.version < left.version


class _Decision(NamedTuple):
    """A write that decides what becomes of a change whose outcome is unknown."""

    request: dict[str, Any]
    left: Record
    """What is stored once it is applied."""
    base: int
    """The highest version that is known to be without the change."""
    refusal: SessionError | None = None
    """What is told then; None: that the change is done."""
    too_large: SessionTooLarge | None = None

    def answer(self, stored: Record) -> Record:
        """Return what is stored if the change is done, or raise."""
        if self.refusal is not None:
            raise self.refusal
        return stored


class _StillThere(NamedTuple):
    """A session that has not moved, and will not by what was tried so far."""

    record: Record


def _heard(changed: Record, answer: dict[str, Any], changes: Changes) -> Record:
    """Return the changed record with what the answer says of it: its version, and when it expires.

    If it expires at another time than was expected, its own lifetime is another than was last heard of.
    """
    if "Attributes" not in answer:
        return changed
    told = answer["Attributes"]
    try:
        version = int(told["version"]["N"]) if "version" in told else changed.version
        expires_at = int(float(told[table_schema.TTL]["N"])) if table_schema.TTL in told else changed.expires_at
    except (AttributeError, KeyError, TypeError, ValueError):
        raise StoreUnavailable("DynamoDB's answer is invalid") from None
    if version == changed.version and expires_at == changed.expires_at:
        return changed
    max_age = changed.max_age
    if expires_at != changed.expires_at and changes.expiry is not None:
        max_age = expires_at - changes.expiry.used_at
    return replace(changed, version=version, expires_at=expires_at, max_age=max_age)
