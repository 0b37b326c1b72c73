"""A total deadline for a blocking call: the SDK's own timeouts are for every piece of a reply, however many there are.

A server that sends a byte a second is waited for without an end by whatever reads sockets as Python's `http.client`
does. Nothing outside can interrupt a thread that reads. So, while a call is under way that must end, a look at the
clock precedes each read of the thread's, by the hook that Python has for profilers. It makes the call slower by a
millisecond, so this is for probes, of which there is at most one a second, and not for requests.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from socket import SocketIO
from types import FrameType
from typing import Any

_READ = SocketIO.readinto.__code__


@contextmanager
def reads_end_by(deadline: float) -> Iterator[None]:
    """In this block, in this thread, fail every read of a socket after the deadline, in seconds of the monotonic clock.

    It fails with TimeoutError, as one for which nothing came. Not while a profiler runs in the thread.
    """

    def look(frame: FrameType, event: str, _: Any) -> None:
        if frame.f_code is _READ and event == "call" and time.monotonic() > deadline:
            raise TimeoutError("timed out")

    if sys.getprofile() is not None:
        yield
        return
    sys.setprofile(look)
    try:
        yield
    finally:
        sys.setprofile(None)
