"""What the SDK writes into its log about our calls: at DEBUG it quotes whole requests, session ids included.

Its lines stay, so that one sees what it does; what they would quote is left out. Its lines about anybody else's calls
are none of our business and stay as they are.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_LOGGERS = ("botocore", "urllib3")

_ours = threading.local()


@contextmanager
def discreet() -> Iterator[None]:
    """Keep what is done in this block, in this thread, out of the SDK's log lines."""
    _ours.calling = True
    try:
        yield
    finally:
        _ours.calling = False


def _withhold(record: logging.LogRecord) -> bool:
    if getattr(_ours, "calling", False) and record.args:
        # The template says what happens; the arguments are the requests, the replies and their signatures.
        record.args = ()
    return True


def install() -> None:
    """See to it that `discreet` is heard by every logger the SDK has made. Once is enough, again does no harm."""
    for name in tuple(logging.root.manager.loggerDict):
        if name.partition(".")[0] in _LOGGERS:
            logging.getLogger(name).addFilter(_withhold)
