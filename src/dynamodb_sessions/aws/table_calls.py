"""TableCalls: the calls one table gets, whatever is kept in it: deadline, breaker, retries, pages, the first probe."""

import contextlib
import random
import re
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import anyio

from dynamodb_sessions.aws.circuit_breaker import CircuitBreaker
from dynamodb_sessions.aws.errors import Contended, NotAsked
from dynamodb_sessions.aws.threads import in_thread
from dynamodb_sessions.aws.transport import open_transport
from dynamodb_sessions.events import add_capacity, counts_capacity
from dynamodb_sessions.exceptions import ConfigurationError, SessionError, StoreUnavailable

ATTEMPTS = 10
_FIRST_PAUSE = 0.01
_LONGEST_TIMEOUT = 3600
_CREATE_TABLE_TIMEOUT = 70.0
_NAME = re.compile(r"[a-zA-Z0-9_.-]{3,255}|arn:[a-zA-Z0-9:/_.-]{1,1020}")


class TableCalls:
    """Calls DynamoDB for one table. `probe_key` names an item that nobody keeps; `create` makes the table.

    Raises ConfigurationError for a table name that is none, a timeout that is not positive, or a client that cannot be
    had.
    """

    def __init__(
        self,
        table_name: str,
        *,
        probe_key: dict[str, Any],
        create: Callable[[Any, str], None],
        region_name: str | None,
        endpoint_url: str | None,
        client: Any,
        create_table: bool,
        timeout: float,
    ) -> None:
        check_table_name(table_name)
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout <= _LONGEST_TIMEOUT:
            raise ConfigurationError(f"timeout={timeout!r} must be a positive number of seconds, at most an hour")
        self.table_name = table_name
        self.mode = "dynamodb"
        self.mode_reason = "not asked yet"
        self.probe_error: SessionError | None = None
        self._probe_key = probe_key
        self._create = create
        self._transport = open_transport(client, region_name=region_name, endpoint_url=endpoint_url, timeout=timeout)
        self._breaker = CircuitBreaker(self._get_sentinel)
        self._create_table = create_table
        self._answered = False
        self._probes = 0
        self._probe_lock = Lock()

    @property
    def client(self) -> Any:
        """The boto3 client. Raises ConfigurationError if none can be built."""
        return self._transport.client

    def probe(self) -> bool:
        """Make the one GetItem that says whether the table can be used, and set `mode` and `mode_reason`.

        Never raises: what was wrong is in `probe_error`. It blocks, so call it where nothing else runs yet, as while
        a Lambda function initialises. Once it has succeeded it does nothing.
        """
        before = self._probes
        with self._probe_lock:
            if not self._answered and self._probes == before:  # Else somebody else's probe ended while this one waited.
                try:
                    self._ask()
                except SessionError as error:
                    self.mark_unusable(error)
                else:
                    self.mode, self.mode_reason, self.probe_error = "dynamodb", "the table answers", None
                    self._answered = True
                self._probes += 1
            return self._answered

    def mark_unusable(self, error: SessionError) -> None:
        """Have `mode`, `mode_reason` and `probe_error` say that the table cannot be used."""
        self.mode, self.mode_reason, self.probe_error = "memory", str(error), error

    def _get_sentinel(self) -> None:
        self._transport.call_sync("get_item", TableName=self.table_name, Key=self._probe_key)

    def _ask(self) -> None:
        try:
            self._get_sentinel()
        except ConfigurationError as error:
            if not self._create_table or "ResourceNotFoundException" not in str(error):
                raise
            try:
                self._create(self.client, self.table_name)
            except Exception as failure:
                raise ConfigurationError(
                    f"the table cannot be created: {type(failure).__name__}: {failure}"
                ) from failure

    async def retry_contended(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Make a call again while another transaction holds the item: the SDK does not."""
        begun = time.monotonic()
        with contextlib.suppress(Contended):
            return await self.call(operation, **parameters)
        with self.deadline(since=begun):
            for attempt in range(1, ATTEMPTS):
                await pause(attempt)
                with contextlib.suppress(Contended):
                    return await self.call(operation, **parameters)
        raise StoreUnavailable("other transactions keep holding the item")

    async def call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Make one call, named as boto3 names it.

        Raises what `Transport.call` raises, at once while the breaker is open.
        """
        if self._create_table and not self._answered:
            await self._prepare()
        self._breaker.check()
        if counts_capacity():
            parameters["ReturnConsumedCapacity"] = "TOTAL"
        try:
            answer = await self._transport.call(operation, **parameters)
        except NotAsked:
            raise
        except StoreUnavailable as error:
            self._breaker.failed(error)
            raise
        except SessionError:
            self._breaker.answered()
            raise
        self._breaker.answered()
        if "ConsumedCapacity" in answer:
            add_capacity(answer["ConsumedCapacity"])
        return answer

    @contextmanager
    def deadline(self, *, since: float | None = None) -> Iterator[None]:
        """End an operation of several calls soon after the deadline of one: a call that hangs is told first."""
        spent = 0.0 if since is None else time.monotonic() - since
        try:
            with anyio.fail_after(self._transport.timeout * 1.05 - spent):
                yield
        except TimeoutError:
            raise StoreUnavailable(f"DynamoDB was not done within {self._transport.timeout:g} s") from None

    async def pages(self, operation: str, **parameters: Any) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the items of every page of a Query or Scan."""
        while True:
            page = await self.call(operation, **parameters)
            for found in page["Items"]:
                yield found
            if "LastEvaluatedKey" not in page:
                return
            parameters["ExclusiveStartKey"] = page["LastEvaluatedKey"]

    async def _prepare(self) -> None:
        """Create the table before its first use."""
        if not await in_thread(self.probe, timeout=_CREATE_TABLE_TIMEOUT):
            raise self.probe_error or StoreUnavailable("DynamoDB did not answer")


async def pause(attempt: int) -> None:
    """Wait before an attempt that is not the first, longer each time, and no two writers the same."""
    if attempt:
        await anyio.sleep(random.uniform(0, _FIRST_PAUSE * 2**attempt))  # noqa: S311 - it only spreads the retries


def check_table_name(table_name: object) -> None:
    """Raise ConfigurationError if it is no name of a table, and no ARN of one."""
    if not isinstance(table_name, str) or not _NAME.fullmatch(table_name):
        raise ConfigurationError(f"table_name={table_name!r} is not a DynamoDB table's name or ARN")
