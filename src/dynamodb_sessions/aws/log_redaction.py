"""What the SDK writes into its log about our calls: at DEBUG it quotes whole requests, session ids included.

Its lines stay, so that one sees what it does; what they would quote is left out. Its lines about anybody else's calls
are none of our business and stay as they are.
"""

import logging
from contextvars import ContextVar

_LOGGERS = ("aiobotocore", "aiodynamo", "botocore", "httpcore", "urllib3")

_is_ours = ContextVar("_is_ours", default=False)


class redacted_logs:  # noqa: N801 - a context manager
    """Keep what is done in this block, in this thread or task, out of the SDK's log lines."""

    def __enter__(self) -> None:
        self._token = _is_ours.set(True)

    def __exit__(self, *_: object) -> None:
        _is_ours.reset(self._token)


def _withhold(record: logging.LogRecord) -> bool:
    if _is_ours.get():
        # The template says what happens; the arguments are the requests, the replies and their signatures, and the
        # errors quote them.
        record.args, record.exc_info = (), None
    return True


def install() -> None:
    """Make sure that every logger of the SDK hears `redacted_logs`. Once is enough, again does no harm."""
    for name in tuple(logging.root.manager.loggerDict):
        if name.partition(".")[0] in _LOGGERS:
            logging.getLogger(name).addFilter(_withhold)
