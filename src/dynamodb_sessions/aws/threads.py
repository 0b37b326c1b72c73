"""The worker threads that wait for DynamoDB: how many there are, and how they take turns.

They are not anyio's default ones: busy endpoints hold those. Nothing here is bound to an event loop: behind Mangum
every invocation may have a new one.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from dynamodb_sessions.aws.errors import NotAsked, OutcomeUnknown

T = TypeVar("T")

MAX_CONCURRENT_CALLS = 64
"""Worker threads, and pooled connections, of one event loop."""

PATIENCE = 0.1
"""Seconds after which a thread works without its turn: it only spares the event loop, and must never hold up a call."""

_limiter: anyio.lowlevel.RunVar[anyio.CapacityLimiter] = anyio.lowlevel.RunVar("dynamodb_sessions")


async def in_thread(function: Callable[[], T], *, timeout: float) -> T:  # noqa: ASYNC109
    """Run a blocking function in a worker thread. Raises OutcomeUnknown after `timeout` seconds, waiting included.

    The thread is then left to end by itself: nothing can interrupt it. NotAsked if there was none to be had.
    """
    begun = False

    def begin() -> T:
        nonlocal begun
        begun = True
        return function()

    try:
        limiter = _limiter.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(MAX_CONCURRENT_CALLS)
        _limiter.set(limiter)
    try:
        with anyio.fail_after(timeout):
            return await anyio.to_thread.run_sync(begin, abandon_on_cancel=True, limiter=limiter)
    except TimeoutError:
        if not begun:
            raise NotAsked(f"more than {MAX_CONCURRENT_CALLS} calls at once: none of the threads was free") from None
        raise OutcomeUnknown(f"DynamoDB did not answer within {timeout:.3g} s") from None


class TurnTakingLock:
    """Lets the threads that call DynamoDB take turns until their requests are sent; they wait all at once.

    What the SDK does before a request is sent is Python, so two threads are no faster at it than one. But all those
    with work to do stand in line for the interpreter, and the event loop with them. Those who stand in line for a lock
    are not in its way. Since requests are sent one by one, answers come one by one: reading them takes no turns.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread = threading.local()

    def follow(self, client: Any) -> None:
        """Have a boto3 client say when it sends a request."""
        client.meta.events.register("before-send.dynamodb", self._end)

    @contextmanager
    def call(self) -> Iterator[None]:
        """Make a call, in this thread, in this block."""
        if not getattr(self._thread, "has_turn", False):
            self._thread.has_turn = self._lock.acquire(timeout=PATIENCE)
        try:
            yield
        finally:
            self._end()

    def _end(self, **_: Any) -> None:
        # Others may use the client for calls of their own.
        if getattr(self._thread, "has_turn", False):
            self._thread.has_turn = False
            self._lock.release()
