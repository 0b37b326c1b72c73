"""Circuit breaker: stop asking a store that does not answer, so that requests fail at once, not in seconds.

After ten failures in a row every call fails where it stands; a thread that no call waits for asks again, at most once
a second, and the first answer closes the breaker. No traffic, no thread.
"""

import threading
import time
from collections.abc import Callable

from dynamodb_sessions.exceptions import SessionError, StoreUnavailable

FAILURES = 10
PROBE_SECONDS = 1.0


class CircuitBreaker:
    """Counts failures in a row. `probe` asks the store something harmless, in a thread, and raises if it fails."""

    def __init__(self, probe: Callable[[], object], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._probe = probe
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._cause = ""
        self._next_probe = 0.0

    @property
    def is_open(self) -> bool:
        """Whether calls fail where they stand."""
        return self._failures >= FAILURES

    def check(self) -> None:
        """Raise StoreUnavailable while the breaker is open; see to it that somebody asks again."""
        if not self.is_open:
            return
        with self._lock:
            due = self._clock() >= self._next_probe
            if due:
                self._next_probe = self._clock() + PROBE_SECONDS
        if due:
            threading.Thread(target=self._ask, name="dynamodb-sessions-breaker", daemon=True).start()
        raise StoreUnavailable(f"DynamoDB has failed {FAILURES} times in a row and is asked again soon: {self._cause}")

    def failed(self, cause: StoreUnavailable) -> None:
        """Count a call that got no answer."""
        with self._lock:
            self._failures += 1
            self._cause = str(cause)
            if self._failures == FAILURES:
                self._next_probe = self._clock() + PROBE_SECONDS

    def answered(self) -> None:
        """Take any answer, be it a refusal, for a sign that the store is there."""
        if self._failures:
            with self._lock:
                self._failures = 0

    def _ask(self) -> None:
        try:
            self._probe()
        except StoreUnavailable:
            return
        except SessionError:  # A refusal is an answer.
            pass
        self.answered()
