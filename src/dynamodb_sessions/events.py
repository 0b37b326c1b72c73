"""What happened to which session, how it ended, how long it took and what it cost: for metrics and logs."""

import inspect
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from dynamodb_sessions.exceptions import ConfigurationError
from dynamodb_sessions.identifiers import fingerprint

T = TypeVar("T")

logger: logging.Logger = logging.getLogger("dynamodb_sessions")


@dataclass(frozen=True, slots=True)
class SessionEvent:
    """One operation on stored sessions, or something else that an operator wants to hear of.

    `name`, of an operation: load, create, update, touch, rotate or delete; list_owner and list_tenant, for each page;
    revoke_owner, revoke_tenant, limit_owner, health; of a conversation or a thread, the name of the method. `outcome`:
    "ok"; "absent" if there was no such session to load; "gone" if the session had ended, or been changed, before the
    operation could have its way; "unhealthy" of a health check; "cancelled"; or the name of the error it raised.

    What is no operation has a `duration_ms` of 0: `fallback`, memory stands in for DynamoDB; `recovered`, it does not
    any more, told from another thread; `refused`, a request had a session cookie or token that does not verify;
    `throttled`, DynamoDB refused one attempt of an operation: its outcome is AWS's reason; and the `delete` of each
    session that `limit_owner` has ended.
    """

    name: str
    outcome: str
    duration_ms: float
    """Milliseconds, retries included."""
    capacity_units: float | None
    """What DynamoDB says that it consumed; None if it does not say; 0 if what was loaded was in the read cache."""
    session: str | None
    """8 hex digits of the SHA-256 of the id, as in every log line; None: it is not about one session."""
    mode: str | None = None
    """Where sessions are kept just now: "dynamodb" or "memory"; None: the store does not say."""
    table: str | None = None
    """The table's name; None: the store has none."""
    count: int = 1
    """How many sessions ended by revoke_owner, revoke_tenant or limit_owner; of everything else, 1."""
    reason: str | None = None
    """Of fallback, recovered and throttled: why, in words, as in the log."""


OnEvent = Callable[[SessionEvent], object]


class Observer:
    """Tells of operations and events: to `on_event`, and to the log at DEBUG.

    `place` is what they happen in: its `mode` and `table_name`, if it has them, are in each event. `subject` is what
    the log calls that which has an id. While nobody listens, work is given back as it is.
    """

    def __init__(self, on_event: OnEvent | None, place: object, subject: str = "session") -> None:
        self._on_event = on_event
        self._place = place
        self._subject = subject

    @property
    def is_listened_to(self) -> bool:
        """Whether anybody is to be told."""
        return self._on_event is not None or logger.isEnabledFor(logging.DEBUG)

    def observed(
        self, name: str, session_id: str | None, work: Awaitable[T], judge: Callable[[T], str | int]
    ) -> Awaitable[T]:
        """Have it told how the work ends. `judge` says of its result what the outcome is, or how many have ended."""
        if self._on_event is None and not logger.isEnabledFor(logging.DEBUG):
            return work
        return self._observe(name, session_id, work, judge)

    def observed_pages(
        self, name: str, session_id: str | None, found: AsyncGenerator[T, None]
    ) -> AsyncGenerator[T, None]:
        """Have each page of what is found told as an operation: without the time that the caller takes."""
        if not self.is_listened_to:
            return found
        return self._observe_pages(name, session_id, found)

    async def _observe(
        self,
        name: str,
        session_id: str | None,
        work: Awaitable[T],
        judge: Callable[[T], str | int],
        *,
        only_calls: bool = False,
    ) -> T:
        """Do the work. Time it, add up the capacity that it consumes, and tell of it, however it ends.

        `only_calls`: unless it went well and took no call.
        """
        outcome, count = "cancelled", 1
        observation = Observation(self, session_id)
        token = observing.set(observation)
        started = time.perf_counter()
        try:
            result = await work
            judged = judge(result)
            outcome, count = ("ok", judged) if isinstance(judged, int) else (judged, 1)
        except Exception as error:
            outcome = type(error).__name__
            raise
        else:
            return result
        finally:
            duration_ms = (time.perf_counter() - started) * 1000
            observing.reset(token)
            if observation.calls or outcome != "ok" or not only_calls:
                units = sum(observation.units) if observation.units else None
                self.tell(name, outcome, session_id, duration_ms=duration_ms, capacity_units=units, count=count)

    async def _observe_pages(
        self, name: str, session_id: str | None, found: AsyncGenerator[T, None]
    ) -> AsyncGenerator[T, None]:
        """Observe each wait for a next one by itself: what the caller does between two is not part of it."""
        is_later = False
        try:
            while True:
                step = cast("Awaitable[T | _End]", anext(found, _END))
                each = await self._observe(name, session_id, step, done, only_calls=is_later)
                if isinstance(each, _End):
                    return
                yield each
                is_later = True
        finally:
            await found.aclose()

    def tell(
        self,
        name: str,
        outcome: str = "ok",
        session_id: str | None = None,
        *,
        duration_ms: float = 0.0,
        capacity_units: float | None = None,
        count: int = 1,
        reason: str | None = None,
    ) -> None:
        """Write one line at DEBUG, and call `on_event`, whose errors do no harm."""
        event = SessionEvent(
            name,
            outcome,
            duration_ms,
            capacity_units,
            None if session_id is None else fingerprint(session_id),
            mode=getattr(self._place, "mode", None),
            table=getattr(self._place, "table_name", None),
            count=count,
            reason=reason,
        )
        logger.debug(
            "%s %s: %s %s in %.1f ms",
            self._subject,
            event.session or "-",
            name,
            outcome,
            duration_ms,
            extra={
                "event": name,
                "outcome": outcome,
                "duration_ms": duration_ms,
                "capacity_units": capacity_units,
                "session": event.session,
                "mode": event.mode,
                "table": event.table,
                "count": count,
                "reason": reason,
            },
        )
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except Exception as error:  # noqa: BLE001 - metrics must not break what they measure
            logger.error("on_event raised %s", type(error).__name__)

    def refused(self) -> None:
        """Tell that a session cookie or token of a request does not verify."""
        self.tell("refused", "refused")


class Observation:
    """What is heard of one operation while it is in progress."""

    __slots__ = ("_observer", "_session_id", "calls", "units")

    def __init__(self, observer: Observer, session_id: str | None) -> None:
        self._observer = observer
        self._session_id = session_id
        self.calls: int = 0
        """How many calls of DynamoDB it took so far, each with all its attempts."""
        self.units: list[float] = []
        """The capacity units that it has consumed so far."""

    def add_capacity(self, consumed: Any) -> None:
        """Count what one answer of DynamoDB says was consumed, of one table or of several.

        Not all that speak its language say it, or say it so: whatever else they say is not counted.
        """
        tables = consumed if isinstance(consumed, list) else [consumed]
        self.units.extend(
            table["CapacityUnits"] for table in tables if isinstance(table, dict) and "CapacityUnits" in table
        )

    def add_nothing(self) -> None:
        """Note that it took nothing of DynamoDB: not as if nobody could say how much."""
        self.units.append(0.0)

    def throttled(self, limit: str, reason: str) -> None:
        """Tell that DynamoDB has refused an attempt. `limit`: AWS's name of what was reached."""
        self._observer.tell("throttled", limit, self._session_id, reason=reason)


observing: ContextVar[Observation | None] = ContextVar("dynamodb_sessions_observation", default=None)
"""The operation in progress, if it is observed. It is never held while a generator yields."""


class _End:
    """What comes after the last."""


_END = _End()


def done(_: object) -> str:
    """Say that it is done: for work that raises if it is not."""
    return "ok"


def found_or_absent(found: object) -> str:
    """Say whether there was one."""
    return "ok" if found else "absent"


def done_or_gone(done: object) -> str:
    """Say whether it could be done."""
    return "ok" if done else "gone"


def check_on_event(on_event: OnEvent | None) -> None:
    """Raise ConfigurationError if it is nothing that can be called where it stands."""
    if on_event is None:
        return
    if not callable(on_event) or any(map(inspect.iscoroutinefunction, (on_event, type(on_event).__call__))):
        raise ConfigurationError(f"on_event={on_event!r} must be a function, and not an async one")
