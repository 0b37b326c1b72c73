"""Async work for whoever cannot await: it runs in one event loop, in one thread that all of the process share."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from dynamodb_sessions.forks import tell_of_forks

T = TypeVar("T")


class Waiting:
    """Runs async work, and waits for it. The loop starts with the first work, and ends with the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        tell_of_forks(self)

    def forked(self) -> None:
        """Begin anew in a forked process: the thread is the parent's."""
        self._lock = threading.Lock()
        self._loop = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what the work returns. It is cancelled if whoever waits is interrupted."""
        future = asyncio.run_coroutine_threadsafe(work, self._running())
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                # A daemon: the interpreter ends without it.
                threading.Thread(target=self._loop.run_forever, name="dynamodb_sessions", daemon=True).start()
            return self._loop


WAITING: Waiting = Waiting()
