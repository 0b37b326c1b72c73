"""DynamoDBStore: the store's contract as DynamoDB requests. One conditional request is one change."""

import contextlib
import logging
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from threading import Lock
from typing import Any

from dynamodb_sessions.aws.errors import ConditionFailed, ItemTooLarge
from dynamodb_sessions.aws.table_calls import ATTEMPTS, TableCalls, pause
from dynamodb_sessions.clock import wall_clock
from dynamodb_sessions.exceptions import (
    ConfigurationError,
    CorruptRecord,
    SessionError,
    SessionTooLarge,
    StoreUnavailable,
)
from dynamodb_sessions.identifiers import fingerprint
from dynamodb_sessions.stores import item_format, table_schema, update_expression
from dynamodb_sessions.stores.contract import (
    MAX_RECORD_SIZE,
    Changes,
    Health,
    Record,
    check_size,
    is_owner,
    is_same,
)
from dynamodb_sessions.stores.reserved_ids import PROBE_ID

logger = logging.getLogger("dynamodb_sessions")

_MAX_ENTRIES = 100  # An expression holds 4 KB, some 250 entries; emulators give up before that.
_MAX_WRITTEN = 1024
_STALE_SECONDS = 1
"""For so long a cheap read may miss what has been written. Source: "DynamoDB read consistency"."""


class DynamoDBStore:
    """Keeps sessions in a DynamoDB table_schema.

    `client` is any boto3-compatible DynamoDB client, made after the last fork; without one, it is built at once from
    `region_name` and `endpoint_url` or boto3's own configuration, and again in a forked process. With `"async"`, or an
    aiodynamo client, of which region, endpoint and credentials are used, requests are made without threads: that takes
    asyncio, and `pip install dynamodb-sessions[async]`. `timeout` is the deadline of an operation in seconds. With
    `consistent_read=False` reads cost half and are repeated only when they miss something the client has seen. A value
    of more than `compress_over` characters is stored compressed if it gains by it; None: never. `create_table=True`
    creates the table on first use, for development. Raises ConfigurationError for a table name that is none, a timeout
    that is not positive, or a client that cannot be had; anything else that is wrong shows at the first call, or
    `probe`.
    """

    def __init__(
        self,
        table_name: str,
        *,
        region_name: str | None = None,
        endpoint_url: str | None = None,
        client: Any = None,
        consistent_read: bool = True,
        create_table: bool = False,
        timeout: float = 5.0,
        compress_over: int | None = 1024,
    ) -> None:
        whole = isinstance(compress_over, int) and not isinstance(compress_over, bool)
        if compress_over is not None and not (whole and compress_over >= 0):
            raise ConfigurationError(f"compress_over={compress_over!r} must be None or a whole number of characters")
        if consistent_read not in (True, False):
            raise ConfigurationError(f"consistent_read={consistent_read!r} must be True or False")
        self.table_name = table_name
        self._calls = TableCalls(
            table_name,
            probe_key=item_format.key(PROBE_ID),
            create=table_schema.create,
            region_name=region_name,
            endpoint_url=endpoint_url,
            client=client,
            create_table=create_table,
            timeout=timeout,
        )
        self._compress_over = compress_over
        self._consistent_read = consistent_read
        self._noting = Lock()
        self._written: dict[str, int] = {}
        """When this store last wrote the sessions it wrote last: a cheap read right after would be repeated anyway."""

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

    def probe(self) -> bool:
        """Make the one GetItem that says whether the table can be used, and set `mode` and `mode_reason`.

        Never raises: what was wrong is in `probe_error`. It blocks, so call it where nothing else runs yet, as while
        a Lambda function initialises. Once it has succeeded it does nothing.
        """
        return self._calls.probe()

    def mark_unusable(self, error: SessionError) -> None:
        """Have `mode`, `mode_reason` and `probe_error` say that the table cannot be used."""
        self._calls.mark_unusable(error)

    async def load(self, session_id: str, *, now: int, min_version: int = 0) -> Record | None:
        consistent = self._consistent_read or now - self._written.get(session_id, 0) <= _STALE_SECONDS
        record = await self._get(session_id, now, consistent=consistent)
        if not consistent and (record is None or record.version < min_version):
            record = await self._get(session_id, now, consistent=True)
        return record

    async def create(self, record: Record, *, now: int, replaces: str | None = None) -> bool:
        check_size(record)
        put = {
            "TableName": self.table_name,
            "Item": item_format.from_record(record, self._compress_over),
            "ConditionExpression": "attribute_not_exists(#id) OR #t <= :now",
            "ExpressionAttributeNames": {"#id": table_schema.KEY, "#t": table_schema.TTL},
            "ExpressionAttributeValues": {":now": item_format.number(now)},
        }
        try:
            if replaces is None:
                await self._write(record, "put_item", **put)
            else:
                delete = {"TableName": self.table_name, "Key": item_format.key(replaces)}
                await self._transact(record, {"Put": put}, {"Delete": delete})
        except ConditionFailed as error:
            # An attempt before may have stored it, and its reply been lost.
            if not error.repeated or await self._get(record.id, now, consistent=True) != record:
                return False
        self._note_written(now, record.id, replaces)
        return True

    async def update(self, record: Record, changes: Changes, *, now: int) -> Record | None:
        changed = changes.apply(record)
        check_size(changed, before=record)
        if len(changes.set) + len(changes.remove) > _MAX_ENTRIES:
            return await self._replace(record, changes, now)
        try:
            request = update_expression.of_changes(record, changes, now, self._compress_over)
            result = await self._write(changed, "update_item", TableName=self.table_name, **request)
        except ConditionFailed:
            # Gone, or in the older layout.
            return None if changes.is_touch else await self._replace(record, changes, now)
        self._note_written(now, record.id)
        version = result.get("Attributes", {}).get("version")
        if version is None or version == item_format.number(changed.version):
            return changed
        return replace(changed, version=int(version["N"]))

    async def rotate(self, record: Record, new_id: str, changes: Changes, *, now: int) -> Record | None:
        stored: Record | None = record
        with self._calls.deadline():
            for attempt in range(ATTEMPTS):
                if attempt:  # It was changed meanwhile, and those changes are to be kept; or it was ended.
                    await pause(attempt)
                    stored = await self._get(record.id, now, consistent=True)
                if stored is None or not is_same(stored, record):
                    return None
                moved = changes.move(stored, new_id)
                check_size(moved, before=stored)
                put = {
                    "TableName": self.table_name,
                    "Item": item_format.from_record(moved, self._compress_over),
                    "ConditionExpression": "attribute_not_exists(#id)",
                    "ExpressionAttributeNames": {"#id": table_schema.KEY},
                }
                with contextlib.suppress(ConditionFailed):
                    delete = {"TableName": self.table_name, **update_expression.unchanged(stored, now)}
                    await self._transact(moved, {"Put": put}, {"Delete": delete})
                    self._note_written(now, new_id, record.id)
                    return moved
        raise StoreUnavailable("the session is changed faster than it can be moved")

    async def delete(self, session_id: str, *, version: int | None = None) -> bool:
        return await self._delete(session_id, {} if version is None else update_expression.of_version(version))

    async def list_owner(self, owner: str | None, *, now: int | None = None) -> AsyncIterator[Record]:
        """Yield the owner's sessions, oldest first, by one Query of the index and one GetItem each.

        The index hears of a login or logout a moment later. What cannot be read is left out, with a warning.
        """
        if not is_owner(owner):
            return
        at = wall_clock() if now is None else now
        async for session_id in self._ids_of(owner):
            try:
                record = await self._get(session_id, at, consistent=True)
            except CorruptRecord as error:
                logger.warning("session %s cannot be read and is left out: %s", fingerprint(session_id), error)
            else:
                if record is not None and record.owner == owner:
                    yield record

    async def revoke_owner(self, owner: str | None, *, keep: str | None = None) -> int:
        """End all the owner's sessions but the one with the id `keep`. Return how many it ended.

        The index is asked again until it names no session that is new: one may be moving to another id meanwhile.
        """
        if not is_owner(owner):
            return 0
        seen: set[str] = set()
        ended = 0
        while True:
            found = [session_id async for session_id in self._ids_of(owner) if session_id not in seen]
            if not found:
                return ended
            seen.update(found)
            for session_id in found:
                if session_id != keep:
                    ended += await self._delete_of(owner, session_id)

    async def scan(self, *, now: int | None = None, include_expired: bool = False) -> AsyncIterator[Record]:
        """Yield every session of the table, in no particular order: for an operator, whose role allows Scan.

        What cannot be read is left out, with a warning.
        """
        at = wall_clock() if now is None else now
        async for found in self._calls.pages("scan", TableName=self.table_name):
            session_id = found[table_schema.KEY]["S"]
            try:
                record = item_format.to_record(session_id, found)
            except CorruptRecord as error:
                logger.warning("session %s cannot be read and is left out: %s", fingerprint(session_id), error)
            else:
                if include_expired or record.expires_at > at:
                    yield record

    async def health(self) -> Health:
        """Make the one GetItem that says whether the table answers. Never raises a SessionError."""
        try:
            await self._calls.call("get_item", TableName=self.table_name, Key=item_format.key(PROBE_ID))
        except SessionError as error:
            return Health(False, "dynamodb", str(error))
        return Health(True, "dynamodb", "the table answers")

    async def _ids_of(self, owner: str) -> AsyncIterator[str]:
        pages = self._calls.pages(
            "query",
            TableName=self.table_name,
            IndexName=table_schema.OWNER_INDEX,
            KeyConditionExpression="#o = :o",
            ExpressionAttributeNames={"#o": "owner"},
            ExpressionAttributeValues={":o": {"S": owner}},
        )
        async for found in pages:
            yield found[table_schema.KEY]["S"]

    async def _delete_of(self, owner: str, session_id: str) -> bool:
        """Delete a session if it is the owner's still."""
        is_theirs = {
            "ConditionExpression": "#o = :o",
            "ExpressionAttributeNames": {"#o": "owner"},
            "ExpressionAttributeValues": {":o": {"S": owner}},
        }
        return await self._delete(session_id, is_theirs)

    async def _delete(self, session_id: str, condition: dict[str, Any]) -> bool:
        """Delete a session if the condition holds, or has held for an attempt before, whose reply was lost."""
        try:
            await self._calls.retry_contended(
                "delete_item", TableName=self.table_name, Key=item_format.key(session_id), **condition
            )
        except ConditionFailed as error:
            if not error.repeated or await self._get(session_id, 0, consistent=True) is not None:
                return False
        self._note_written(wall_clock(), session_id)
        return True

    def _note_written(self, now: int, *session_ids: str | None) -> None:
        if self._consistent_read:
            return
        with self._noting:
            for session_id in session_ids:
                if session_id is not None:
                    self._written.pop(session_id, None)
                    self._written[session_id] = now
            while len(self._written) > _MAX_WRITTEN:
                self._written.pop(next(iter(self._written)))

    async def _replace(self, record: Record, changes: Changes, now: int) -> Record | None:
        """Change the whole map at once, provided nobody else changes it: for what one expression cannot say."""
        with self._calls.deadline():
            for attempt in range(ATTEMPTS):
                await pause(attempt)
                stored = await self._get(record.id, now, consistent=True)
                if stored is None or not is_same(stored, record):
                    return None
                changed = changes.apply(stored)
                check_size(changed, before=stored)
                request = update_expression.of_replacement(stored, changed, changes, now, self._compress_over)
                with contextlib.suppress(ConditionFailed):
                    await self._write(changed, "update_item", TableName=self.table_name, **request)
                    self._note_written(now, record.id)
                    return changed
        raise StoreUnavailable("the session is changed by too many at once")

    async def _get(self, session_id: str, now: int, *, consistent: bool) -> Record | None:
        answer = await self._calls.call(
            "get_item", TableName=self.table_name, Key=item_format.key(session_id), ConsistentRead=consistent
        )
        if "Item" not in answer:
            return None
        found = answer["Item"]
        if not isinstance(found, dict):
            raise StoreUnavailable("DynamoDB's answer is none")
        if found.get(table_schema.KEY) != {"S": session_id}:
            # A client that is shared across a fork reads its parent's answers.
            raise StoreUnavailable(
                "DynamoDB's client answered with another session: is it shared with a forked process?"
            )
        record = item_format.to_record(session_id, found)
        return record if record.expires_at > now else None

    async def _transact(self, record: Record, *writes: dict[str, Any]) -> None:
        # The same token on every attempt: a repeated request whose first reply was lost is answered, not repeated.
        await self._write(
            record, "transact_write_items", TransactItems=list(writes), ClientRequestToken=str(uuid.uuid4())
        )

    async def _write(self, record: Record, operation: str, **parameters: Any) -> dict[str, Any]:
        try:
            return await self._calls.retry_contended(operation, **parameters)
        except ItemTooLarge:  # Others have added to the session since it was loaded.
            raise SessionTooLarge(
                MAX_RECORD_SIZE + 1, MAX_RECORD_SIZE, sorted(record.data, key=lambda key: -len(record.data[key]))[:3]
            ) from None
