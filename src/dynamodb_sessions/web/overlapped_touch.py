"""The touch that overlaps the handler: a session's life is extended while the app works, not after it."""

import contextlib
import threading
from collections.abc import Awaitable, Callable
from enum import Enum, auto

import anyio

from dynamodb_sessions.exceptions import UnserializableValue
from dynamodb_sessions.session.state import SessionState


class Progress(Enum):
    """How far the touch of one request is."""

    AWAITED = auto()
    """It is due, and the session is not used yet; or the app changed it first, and a commit will extend it."""
    MADE = auto()
    FAILED = auto()


class OverlappedTouch:
    """Extends the life of a session that is due, as soon as it is used.

    A tenth of all requests write the expiry of a session that they only read. That is one call of some milliseconds
    which needs nothing from the handler, so it is made while the handler waits for its own database: without this, each
    such response would be later by a whole call. Three things follow.

    It runs next to the app, in a task group, so it never outlives the request: the group is cancelled when the app
    has ended, and the call itself, which is shielded, is waited for. The group must not wrap the app's error in an
    ExceptionGroup, which no error handler above would know: the error is carried around it by hand.

    It begins when the app first waits, not at once: what the app changes before that goes into one call with the touch,
    which then is no touch but an update, and is left to the commit before the response.

    Its failure is nobody's yet. The commit before the response decides again: if there is a change to store, that call
    tells whether the store is there. If there is none, it raises the failure, and makes no second call.
    """

    __slots__ = ("failure", "progress")

    def __init__(self) -> None:
        self.progress: Progress = Progress.AWAITED
        self.failure: Exception | None = None

    async def run(
        self, app: Callable[[], Awaitable[None]], touch: Callable[[], Awaitable[None]], state: SessionState
    ) -> None:
        """Run the app, and touch the session when it is used. Raises what the app raises."""
        failure = None
        async with anyio.create_task_group() as tasks:
            used = anyio.Event()
            state.on_use = _from_any_thread(used.set)
            tasks.start_soon(self._make, used, touch, state)
            try:
                await app()
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as error:  # noqa: BLE001 - it is the app's, and not to be wrapped in the group's
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _make(self, used: "anyio.Event", touch: Callable[[], Awaitable[None]], state: SessionState) -> None:
        """Wait until the session is used, touch it, and note how it went."""
        record = state.record
        await used.wait()
        if state.record is not record:
            return  # Whatever was committed lets the session live longer, or ends it.
        try:
            await touch()
            if state.record is not record:
                self.progress = Progress.MADE
        except UnserializableValue:
            pass  # The app may still put it right.
        except Exception as error:  # noqa: BLE001 - it is the commit's, before the response
            self.progress, self.failure = Progress.FAILED, error

    def raise_failure(self) -> None:
        """Raise what went wrong, once: a later commit tries again."""
        failure, self.failure = self.failure, None
        if failure is not None:
            self.progress = Progress.AWAITED
            raise failure


def _from_any_thread(callback: Callable[[], None]) -> Callable[[], None]:
    """Return what makes the callback in this thread's event loop, and waits for nothing.

    A sync endpoint uses the session in a thread, where an event of the loop must not be set. And it must not wait for
    the loop to do so: the loop's thread may itself be waiting for that thread.
    """
    import asyncio  # noqa: PLC0415 - a server has imported it; what only imports this package waits for none of it

    here = threading.get_ident()
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:  # Trio's: what other threads use, is touched when it is committed.
        loop = None

    def call() -> None:
        if threading.get_ident() == here:
            callback()
        elif loop is not None:
            with contextlib.suppress(RuntimeError):  # It is closed.
                loop.call_soon_threadsafe(callback)

    return call
