"""What happened to which session, how it ended, how long it took and what it cost: for metrics and logs."""

import inspect
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from dynamodb_sessions.exceptions import ConfigurationError


@dataclass(frozen=True, slots=True)
class SessionEvent:
    """One operation on a stored session.

    `name`: load, create, update, touch, rotate or delete. `outcome`: "ok"; "absent" if there was no such session to
    load; "gone" if the session had ended, or been changed, before the operation could have its way; or the name of the
    error it raised. `duration_ms`: milliseconds. `capacity_units`: what DynamoDB says that it consumed; None
    if it does not say. `session`: 8 hex digits of the SHA-256 of the id, as in every log line.
    """

    name: str
    outcome: str
    duration_ms: float
    capacity_units: float | None
    session: str


OnEvent = Callable[[SessionEvent], object]

capacity: ContextVar[list[float] | None] = ContextVar("dynamodb_sessions_capacity", default=None)
"""The capacity units that the operation in progress has consumed so far, if it is observed."""


def counts_capacity() -> bool:
    """Whether the operation in progress is observed, so that DynamoDB is to say what it consumes."""
    return capacity.get() is not None


def add_capacity(consumed: Any) -> None:
    """Count what one answer of DynamoDB says was consumed, of one table or of several.

    Not all that speak its language say it, or say it so: whatever else they say is not counted.
    """
    counted = capacity.get()
    if counted is not None:
        tables = consumed if isinstance(consumed, list) else [consumed]
        counted.extend(
            table["CapacityUnits"] for table in tables if isinstance(table, dict) and "CapacityUnits" in table
        )


def check_on_event(on_event: OnEvent | None) -> None:
    """Raise ConfigurationError if it is nothing that can be called where it stands."""
    if on_event is None:
        return
    if not callable(on_event) or any(map(inspect.iscoroutinefunction, (on_event, type(on_event).__call__))):
        raise ConfigurationError(f"on_event={on_event!r} must be a function, and not an async one")
