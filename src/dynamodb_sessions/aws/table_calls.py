"""TableCalls: what the calls of one table have in common: deadline, attempts, breaker, pages, many ids, the probe.

An operation is not an attempt. Here an attempt is sent again as long as it is certain that it wrote nothing. What
became of one whose reply was lost, only whoever knows what it was to write can find out.
"""

import random
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from functools import partial
from threading import Lock
from typing import Any, TypeVar

import anyio

from dynamodb_sessions.aws.circuit_breaker import CircuitBreaker
from dynamodb_sessions.aws.errors import NotAsked, OutcomeUnknown, Refused, Throttled, Unreachable, words_of
from dynamodb_sessions.aws.log_redaction import redacted_logs
from dynamodb_sessions.aws.setup_errors import region_problem
from dynamodb_sessions.aws.threads import in_thread
from dynamodb_sessions.aws.transport import open_transport
from dynamodb_sessions.events import Observation, observing
from dynamodb_sessions.exceptions import ConfigurationError, SessionError, StoreUnavailable, outage
from dynamodb_sessions.forks import tell_of_forks

T = TypeVar("T")
R = TypeVar("R")

AT_ONCE = 16
"""How many ids of many are read or deleted at once."""

_FIRST_PAUSE = 0.01
_LONGEST_PAUSE = 1.0
_LEAST = 0.05
"""Seconds that an attempt must have, or there is no point in sending it."""
_READS = 2
"""How often a read that gets no answer is sent."""
_LONGEST_TIMEOUT = 3600
_CREATE_TABLE_TIMEOUT = 70.0
_NAME = re.compile(r"[a-zA-Z0-9_.-]{3,255}|arn:[a-zA-Z0-9:/_.-]{1,1020}")


class Operation:
    """One operation on a table: its one deadline, and its id, by which a late attempt of it is known."""

    __slots__ = ("_id", "_least", "_pauses", "deadline", "is_unsettled")

    def __init__(self, timeout: float) -> None:
        self.deadline: float = time.monotonic() + timeout
        self.is_unsettled: bool = False
        """Whether an attempt of it may have been applied, or be applied yet. Until that is known, nobody is told what
        became of the operation, but by its deadline."""
        self._id: str | None = None
        self._pauses = 0
        self._least = min(_LEAST, timeout / 10)

    @property
    def id(self) -> str:
        """Epoch seconds, a colon and 72 random bits."""
        if self._id is None:
            import secrets  # noqa: PLC0415 - of no use to whoever only reads sessions

            self._id = f"{int(time.time())}:{secrets.token_urlsafe(9)}"
        return self._id

    def got_on(self) -> None:
        """Have the next pause be as short as the first: whoever was in the way has done what they were about to."""
        self._pauses = 0

    async def pause(self, failure: StoreUnavailable) -> None:
        """Wait before another attempt, longer each time, and no two writers the same.

        Raises StoreUnavailable, with the words of the failure, if the deadline comes first.
        """
        # Doubled each time, to a second. Source: "Exponential Backoff And Jitter", AWS Architecture Blog.
        longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(self._pauses, 10))
        self._pauses += 1
        pause = random.uniform(0, longest)  # noqa: S311 - it only spreads the retries
        if time.monotonic() + pause + self._least >= self.deadline:
            raise StoreUnavailable(f"{failure}; it was tried until the deadline") from None
        await anyio.sleep(pause)


class TableCalls:
    """Calls DynamoDB for one table. `probe_key` names an item that nobody keeps; `create` makes the table.

    Raises ConfigurationError for an invalid table name, a timeout that is not positive, or a client that cannot be
    built.
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
        self.mode: str = "dynamodb"
        self.mode_reason: str = "not asked yet"
        self.probe_error: SessionError | None = None
        self._probe_key = probe_key
        self._create = create
        self._transport = open_transport(client, region_name=region_name, endpoint_url=endpoint_url, timeout=timeout)
        self._breaker = CircuitBreaker(self._get_sentinel)
        self._create_table = create_table
        self._answered = False
        self._probes = 0
        self._probe_lock = Lock()
        tell_of_forks(self)

    def forked(self) -> None:
        """Begin anew in a forked process: a probe under way is the parent's."""
        self._probe_lock = Lock()

    def check_event_loop(self) -> None:
        """Raise ConfigurationError if nothing can be called from the event loop that runs here."""
        self._transport.check_event_loop()

    @property
    def blocks(self) -> bool:
        """Whether its calls can be waited for in any thread: those of boto3, and of no client for async code."""
        from dynamodb_sessions.aws.boto3_transport import Boto3Transport  # noqa: PLC0415 - of use to few

        return isinstance(self._transport, Boto3Transport)

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
        try:
            self._transport.call_sync("get_item", TableName=self.table_name, Key=self._probe_key)
        except ConfigurationError as error:
            raise self._blaming_the_region(error) from None

    def _blaming_the_region(self, error: SessionError) -> SessionError:
        """Return the error, or another one if the table is called by an ARN of another region than the client's."""
        if not isinstance(error, ConfigurationError):
            return error
        problem = region_problem(self.table_name, self._transport.region_name)
        return outage(f"{problem}: set AWS_REGION to the table's ({error})") if problem else error

    def _ask(self) -> None:
        self._transport.renew()
        try:
            self._get_sentinel()
        except ConfigurationError as error:
            if not self._create_table or "ResourceNotFoundException" not in str(error):
                raise
            try:
                with redacted_logs():
                    self._create(self.client, self.table_name)
            except Exception as failure:  # noqa: BLE001 - whatever it is, it is told without what it quotes
                # Without its cause, which may quote credentials.
                raise outage(f"the table cannot be created: {words_of(failure)}") from None

    async def close(self) -> None:
        """Close what was opened."""
        await self._transport.close()

    def begin(self) -> Operation:
        """Return a new operation. All its attempts end by its deadline."""
        return self.begin_within(self._transport.timeout)

    def begin_within(self, timeout: float) -> Operation:
        """Return a new operation whose attempts end within so many seconds."""
        return Operation(timeout)

    async def attempt(self, operation: Operation, name: str, **parameters: Any) -> dict[str, Any]:
        """Send a call, named as boto3 names it, and again while it is certain that it wrote nothing.

        Raises ConditionFailed, ItemTooLarge, ConfigurationError, OutcomeUnknown, or StoreUnavailable: at once while the
        breaker is open, unless the operation is unsettled, and in any case by the deadline.
        """
        if self._create_table and not self._answered:
            await self._prepare()
            operation.deadline = time.monotonic() + self._transport.timeout
        observation = observing.get()
        if observation is not None:
            parameters["ReturnConsumedCapacity"] = "TOTAL"
            observation.calls += 1
        failure: StoreUnavailable | None = None
        while True:
            if not operation.is_unsettled:
                self._breaker.check()
            try:
                return await self._send(operation, name, parameters, observation)
            except (Refused, Unreachable) as refusal:
                failure = refusal
                if observation is not None and isinstance(refusal, Throttled):
                    observation.throttled(refusal.limit, str(refusal))
                await operation.pause(failure)
            except (NotAsked, OutcomeUnknown) as error:
                if failure is None:
                    raise
                # The deadline has come in the midst of an attempt: what kept the ones before says more.
                raise type(error)(f"{failure}; of the last attempt: {error}") from None

    async def _send(
        self, operation: Operation, name: str, parameters: dict[str, Any], observation: Observation | None
    ) -> dict[str, Any]:
        """Send one attempt, and tell the breaker whether anybody answered: a refusal is an answer."""
        try:
            answer = await self._transport.call(name, deadline=operation.deadline, **parameters)
        except SessionError as error:
            self._breaker.ended_with(error)
            raise self._blaming_the_region(error) from None
        self._breaker.answered()
        if observation is not None and "ConsumedCapacity" in answer:
            observation.add_capacity(answer["ConsumedCapacity"])
        return answer

    async def read(self, operation: Operation, name: str, **parameters: Any) -> dict[str, Any]:
        """Make a call that writes nothing. One that gets no answer is sent once more, or until the deadline."""
        reads = 0
        while True:
            try:
                return await self.attempt(operation, name, **parameters)
            except OutcomeUnknown as error:
                reads += 1
                if reads >= _READS and not operation.is_unsettled:
                    raise StoreUnavailable(str(error)) from None
                await operation.pause(error)

    async def repeat(self, operation: Operation, name: str, **parameters: Any) -> dict[str, Any]:
        """Make a call that may be applied more than once without harm, until it is known that it was."""
        while True:
            try:
                return await self.attempt(operation, name, **parameters)
            except OutcomeUnknown as error:
                operation.is_unsettled = True
                await operation.pause(error)

    async def many(
        self, ids: AsyncIterator[T] | Iterable[T], work: Callable[[Operation, T], Awaitable[R]]
    ) -> AsyncGenerator[R, None]:
        """Do the same with many ids, some at once. Yield the results in the order of the ids.

        All of them end by one deadline, but for the time that whoever takes the results spends.
        """
        left = self._transport.timeout
        async for batch in batches(ids if isinstance(ids, AsyncIterator) else each(ids), AT_ONCE):
            begun = time.monotonic()
            results = await all_at_once([partial(work, self.begin_within(left), each) for each in batch])
            left -= time.monotonic() - begun
            for result in results:
                yield result

    async def pages(
        self,
        name: str,
        *,
        operation: Operation | None = None,
        turned: Callable[[], object] | None = None,
        **parameters: Any,
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the items of every page of a Query or Scan. Each page is an operation, unless all are part of one.

        `turned` is called before every page but the first.
        """
        while True:
            page = await self.read(operation or self.begin(), name, **parameters)
            items = page.get("Items")
            if not isinstance(items, list):
                raise StoreUnavailable("DynamoDB's answer is invalid")
            for found in items:
                yield found
            if "LastEvaluatedKey" not in page:
                return
            last = parameters["ExclusiveStartKey"] = page["LastEvaluatedKey"]
            if not isinstance(last, dict) or not last:
                raise StoreUnavailable("DynamoDB's answer is invalid")
            if turned is not None:
                turned()

    async def _prepare(self) -> None:
        """Create the table before its first use."""
        if not await in_thread(self.probe, timeout=_CREATE_TABLE_TIMEOUT):
            raise self.probe_error or StoreUnavailable("DynamoDB did not answer")


async def all_at_once(works: Iterable[Callable[[], Awaitable[R]]]) -> list[R]:
    """Do them all, whichever fail. Return what they return, in their order; raises the first failure."""
    results: dict[int, R] = {}
    failures: list[SessionError] = []

    async def one(number: int, work: Callable[[], Awaitable[R]]) -> None:
        try:
            results[number] = await work()
        except SessionError as error:
            failures.append(error)

    async with anyio.create_task_group() as tasks:
        for number, work in enumerate(works):
            tasks.start_soon(one, number, work)
    if failures:
        raise failures[0]
    return [results[number] for number in sorted(results)]


async def batches(items: AsyncIterator[T], size: int) -> AsyncGenerator[list[T], None]:
    """Yield the items in lists of so many; the last may be shorter."""
    batch: list[T] = []
    async for each in items:
        batch.append(each)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


async def each(items: Iterable[T]) -> AsyncGenerator[T, None]:
    """Yield what can be iterated over to whoever takes async iterators."""
    for item in items:
        yield item


def check_table_name(table_name: object) -> None:
    """Raise ConfigurationError if it is no name of a table, and no ARN of one."""
    if not isinstance(table_name, str) or not _NAME.fullmatch(table_name):
        raise ConfigurationError(f"table_name={table_name!r} is not a DynamoDB table's name or ARN")
