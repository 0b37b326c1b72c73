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
        self._thread: int | None = None
        tell_of_forks(self)

    def forked(self) -> None:
        """Begin anew in a forked process: the thread is the parent's."""
        self._lock = threading.Lock()
        self._loop = self._thread = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what the work returns. It is cancelled if whoever waits is interrupted.

        Raises RuntimeError in the loop's own thread, as in an `on_event`: nobody could do the work.
        """
        if self._is_here():
            work.close()
            raise RuntimeError("what blocks cannot be called by what another such call is waiting for, as `on_event`")
        future = asyncio.run_coroutine_threadsafe(work, self._running())
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def end(self, work: Coroutine[Any, Any, None]) -> None:
        """Have the work done, and wait for it, unless this is the loop's own thread: garbage may be collected there."""
        if self._is_here():
            asyncio.run_coroutine_threadsafe(work, self._running())
        else:
            self.run(work)

    def _is_here(self) -> bool:
        return threading.get_ident() == self._thread

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                # A daemon: the interpreter ends without it.
                thread = threading.Thread(target=self._loop.run_forever, name="dynamodb_sessions", daemon=True)
                thread.start()
                self._thread = thread.ident
            return self._loop


WAITING: Waiting = Waiting()
