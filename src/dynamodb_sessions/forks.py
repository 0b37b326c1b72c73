"""What a forked process must not take over from its parent: locks that another thread held, work that one did.

Only the thread that forks lives on in the child. A lock that another one held is never released there, and a flag that
says that another one is at work is never taken back.
"""

import os
import weakref
from typing import Protocol


class Forked(Protocol):
    """What has such locks or flags."""

    def forked(self) -> None:
        """Begin anew in a forked process: with new locks, and without the threads of the parent."""
        ...


_known = weakref.WeakSet[Forked]()


def tell_of_forks(forked: Forked) -> None:
    """Have `forked()` called in every process that is forked from this one, for as long as the object lives."""
    _known.add(forked)


def _tell() -> None:
    for forked in list(_known):
        forked.forked()


if hasattr(os, "register_at_fork"):  # Not on Windows, where nothing forks.
    os.register_at_fork(after_in_child=_tell)
