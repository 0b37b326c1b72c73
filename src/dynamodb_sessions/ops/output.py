"""What the command line prints: lines for people, JSON for machines, progress on a terminal, and why it failed."""

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

FAILED = 1

_TELL_EVERY = 0.2


def put(text: str, /, *, as_json: bool, **told: Any) -> None:
    """Print a line for people; or what it tells as a JSON object, in one line."""
    if as_json:
        import json  # noqa: PLC0415 - of no use to whoever only asks for help

        text = json.dumps(told)
    print(text)


def fail(reason: str) -> int:
    """Say in one line on standard error what went wrong. Return the exit code."""
    # The SDK quotes the endpoint's address, which may hold a password.
    without_password = re.sub(r"//\S*@", "//", " ".join(printable(reason).split()))
    print(f"dynamodb-sessions: {without_password}", file=sys.stderr)
    return FAILED


def moment(seconds: int) -> str:
    """Return epoch seconds as a date and a time in UTC."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):  # After the year 9999, by another writer's mistake.
        return str(seconds)


def sessions(count: int, kind: str = "") -> str:
    """Return how many sessions."""
    return f"{f'{count:,}' if count else 'no'} {kind}session{'' if count == 1 else 's'}"


def printable(text: str) -> str:
    """Return the text with what could steer a terminal, or end the line, escaped."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


@contextmanager
def progress(so_far: Callable[[], str], *, shown: bool) -> Iterator[Callable[[], None]]:
    """Give a function that tells how far the work is: on a terminal, on one line, a few times a second."""
    if not shown or not sys.stderr.isatty():
        yield lambda: None
        return
    told = 0.0

    def tell() -> None:
        nonlocal told
        if time.monotonic() - told >= _TELL_EVERY:
            told = time.monotonic()
            print(f"\r{so_far()}\033[K", end="", file=sys.stderr, flush=True)

    try:
        yield tell
    finally:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
