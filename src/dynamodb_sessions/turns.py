"""Turns: the threads that call DynamoDB work one at a time, and wait for it all at once.

What the SDK does before a request is sent and after its answer has come is Python, so two threads are no faster at it
than one. But all those with work to do stand in line for the interpreter, and the event loop with them: 64 answers that
come together make it late by their sum. Those who stand in line for a lock are not in its way.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PATIENCE = 0.1
"""Seconds after which a thread works without its turn: it only spares the event loop, and must never hold up a call."""


class Turns:
    """Gives the threads their turns around the calls of the clients it follows."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread = threading.local()

    def follow(self, client: Any) -> None:
        """Have a boto3 client say when it begins and ends to wait: for an answer, or before it tries again."""
        client.meta.events.register("before-send.dynamodb", self._end)
        client.meta.events.register("before-parse.dynamodb", self._begin)
        client.meta.events.register("needs-retry.dynamodb", self._end)

    @contextmanager
    def call(self) -> Iterator[None]:
        """Make a call, in this thread, in this block."""
        self._thread.calls = True
        self._begin()
        try:
            yield
        finally:
            self._end()
            self._thread.calls = False

    def _begin(self, **_: Any) -> None:
        # Others may use the client for calls of their own.
        if getattr(self._thread, "calls", False) and not getattr(self._thread, "has_turn", False):
            self._thread.has_turn = self._lock.acquire(timeout=PATIENCE)

    def _end(self, **_: Any) -> None:
        if getattr(self._thread, "has_turn", False):
            self._thread.has_turn = False
            self._lock.release()
