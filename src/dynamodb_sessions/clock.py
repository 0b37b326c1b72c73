"""The time in whole epoch seconds, and durations in seconds. Every `now` comes from here."""

import time

from dynamodb_sessions.exceptions import ConfigurationError

_CENTURY = 100 * 366 * 86400


def wall_clock() -> int:
    """Return the time in whole epoch seconds."""
    return int(time.time())


def check_seconds(name: str, value: int | None, *, minimum: int = 1) -> None:
    """Raise ConfigurationError if a duration is neither None nor whole seconds from `minimum` to a hundred years."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if value is not None and not (whole and minimum <= value <= _CENTURY):
        raise ConfigurationError(f"{name}={value!r} must be None or whole seconds, from {minimum} to a hundred years")
