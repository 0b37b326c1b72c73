"""Circuit breaker: stop asking a store that does not answer, so that requests fail at once, not in seconds.

After ten failures in a row every call fails where it stands; a thread that no call waits for asks again, at most once
a second and one at a time, and the first answer closes the breaker. No traffic, no thread.
"""

import threading
import time
from collections.abc import Callable

from dynamodb_sessions.aws.errors import NotAsked, Refused
from dynamodb_sessions.exceptions import SessionError, StoreUnavailable
from dynamodb_sessions.forks import tell_of_forks

FAILURES = 10
PROBE_SECONDS = 1.0


class CircuitBreaker:
    """Counts failures in a row. `probe` asks the store something harmless, in a thread, and raises if it fails.

    It must end: until it has, nobody asks again.
    """

    def __init__(self, probe: Callable[[], object], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._probe = probe
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._cause = ""
        self._next_probe = 0.0
        self._asking = False
        """Whether a thread is asking."""
        tell_of_forks(self)

    def forked(self) -> None:
        """Begin anew in a forked process: the thread that asks is the parent's."""
        self._lock = threading.Lock()
        self._asking = False

    @property
    def is_open(self) -> bool:
        """Whether calls fail where they stand."""
        return self._failures >= FAILURES

    def check(self) -> None:
        """Raise StoreUnavailable while the breaker is open, and make sure that somebody asks again."""
        if not self.is_open:
            return
        with self._lock:
            due = self._clock() >= self._next_probe and not self._asking
            if due:
                self._next_probe = self._clock() + PROBE_SECONDS
                self._asking = True
        if due:
            try:
                threading.Thread(target=self._ask, name="dynamodb-sessions-breaker", daemon=True).start()
            except RuntimeError:  # There are too many threads just now.
                self._asking = False
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

    def ended_with(self, error: SessionError) -> None:
        """Count a call that raised this. A refusal is an answer, be it that there is no room."""
        if isinstance(error, NotAsked):
            return
        if isinstance(error, StoreUnavailable) and not isinstance(error, Refused):
            self.failed(error)
        else:
            self.answered()

    def _ask(self) -> None:
        try:
            self._probe()
            self.answered()
        except SessionError as error:
            self.ended_with(error)
        finally:
            self._asking = False
