"""Tracking: which keys of a session may have changed since it was loaded.

Only those have to be compared with what is stored: a request that reads one key encodes one value, not all. Values that
cannot be changed in place need no watching; of others an imprint is taken when they are handed out.

The imprint is what `marshal` makes of the value: a list or a dict can be changed long after it was given away, without
a word to the session, so that the only way to tell is to look again. To compare with the stored JSON would mean to
encode each value that was read, in every request; marshal does the same job several times as fast. It need not be
exact, only safe: two values that differ never have one imprint, while one value may have two (an object that something
else refers to is written differently), which costs one comparison of JSON. Without it a change of `session["cart"]`
would be lost, or every read would cost what a write does. Nothing is ever loaded from an imprint, and none leaves the
process.
"""

import marshal
from collections.abc import Iterable, Mapping
from typing import Any

from dynamodb_sessions.codec import Serializer, carries

ABSENT = object()


class Tracking:
    """The keys of one session that may have changed. Several threads of one request may use it at once."""

    __slots__ = ("_all_written", "_handed_out", "written")

    def __init__(self) -> None:
        self._handed_out: dict[str, bytes | None] = {}
        """Keys that were set or removed, or whose value was given away and can be changed.

        Each with the imprint that its value had when it was given away. None: only what is stored can tell.
        """
        self._all_written = False
        self.written: set[str] = set()
        """Keys that were set or removed since anything was stored."""

    def hand_out(self, key: str, value: Any) -> None:
        """Note that a value is given away, which can then be changed without a word."""
        if key not in self._handed_out:
            self._handed_out.setdefault(key, imprint(value))  # Another thread may have been faster, and changed it.

    def write(self, key: str) -> None:
        """Note that an entry is set or removed."""
        self.written.add(key)
        self._handed_out[key] = None

    def write_all(self) -> None:
        """Note that any entry may be set."""
        self._all_written = True

    def settle(self, *, written: bool = True) -> None:
        """Note that everything has been stored: only what is stored can tell from now on.

        `written`: so has what was written.
        """
        for key in list(self._handed_out):
            self._handed_out[key] = None
        if written:
            self.written = set()

    def suspects(self, session: dict[str, Any]) -> list[str]:
        """Return the keys whose entries may not be what is stored."""
        # Lists: a sync endpoint's thread may still hold the session.
        handed_out = list(self._handed_out.items())
        if self._all_written:
            return list(dict.fromkeys([*dict.keys(session), *(key for key, _ in handed_out)]))
        return [key for key, then in handed_out if then is None or then != imprint(dict.get(session, key))]


def all_as_stored(
    session: dict[str, Any], keys: Iterable[str], stored: Mapping[str, str], serializer: Serializer
) -> bool:
    """Whether these entries are what is stored. One that is absent, or cannot be stored, is not."""
    for key in keys:
        value, known = dict.get(session, key, ABSENT), stored.get(key)
        if value is ABSENT or known is None or not carries(known, value, serializer):
            return False
    return True


def imprint(value: Any) -> bytes | None:
    """Return what no other JSON value has, sooner than its JSON. Nothing is ever loaded from it. None: it is not JSON.

    One value may have several, by who else refers to its parts. Of what is not JSON, a set, a tuple and bytes have one.
    """
    try:
        return marshal.dumps(value)
    except ValueError:
        return None
