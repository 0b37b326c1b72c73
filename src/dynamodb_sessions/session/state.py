"""SessionState: what is known of a session besides its content. `Session` shows a little of it, `web` decides by it.

It holds no session: a session holds it. Else each would keep the other from being freed when its request ends.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from dynamodb_sessions.codec import JSON, Serializer, encode_item, encode_items
from dynamodb_sessions.exceptions import UnserializableValue
from dynamodb_sessions.forks import tell_of_forks
from dynamodb_sessions.identifiers import new_id
from dynamodb_sessions.session.asked import NOTHING_ASKED, Asked, Login
from dynamodb_sessions.session.lifetimes import Lifetimes
from dynamodb_sessions.session.tracking import ABSENT, Tracking, all_as_stored
from dynamodb_sessions.stores.contract import OwnerStore, Record

if TYPE_CHECKING:
    from dynamodb_sessions.session.session import Session

logger: logging.Logger = logging.getLogger("dynamodb_sessions")

T = TypeVar("T")

_NO_KEYS = frozenset[str]()


class _OneThreadAtATime:
    """A lock that a forked process has anew."""

    def __init__(self) -> None:
        self.forked()
        tell_of_forks(self)

    def forked(self) -> None:
        """Begin anew: a thread of the parent's may have held it."""
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


one_thread_at_a_time: _OneThreadAtATime = _OneThreadAtATime()
"""Held while what several threads may have is replaced by what is computed from it.

A sync endpoint runs in a thread, and may start others; the event loop commits meanwhile. Reading and writing one
attribute or one key of a dict is safe by itself. Some things are not: to replace `asked` by what follows from it, where
one of two calls would be lost; to begin the state, or its tracking, where each of two threads would note in one of its
own; and to make the new id, of which one of two threads would hold one that is never stored. Each happens at most a few
times in a request and takes about a microsecond, so that one lock does for all sessions: one for each would have to be
made in every request, most of which ask for nothing.
"""


class Use(Enum):
    """What has been done with a session, since the response started if it has."""

    NONE = auto()
    LOOKED_AT = auto()
    """`request.session` or `info`: the response depends on the cookie, but the session lives no longer for it."""
    USED = auto()
    """The dict was read or written, or a verb called: the session lives longer."""


class Standing(Enum):
    """What is known of the stored session."""

    NEW = auto()
    """Nothing is stored."""
    STORED = auto()
    ENDED = auto()
    """Somebody else has ended it, or it can never be stored: nothing of it may be stored again."""
    MOVED = auto()
    """The id that the client named is one that a session had until a moment ago."""


class Response(Enum):
    """How far the response is. A session that belongs to no request stays in the first."""

    TO_COME = auto()
    STARTED = auto()
    """Cookies can no longer be set."""
    OVER = auto()
    """No commit follows: a change is stored by `save()` alone."""
    OVER_AND_CHANGED = auto()
    """As before, and a warning has said so."""


# What every request looks up: until CPython 3.12 a member of an enum takes as long to find as a function takes to call.
_UNUSED, _USED = Use.NONE, Use.USED
_NEW, _STORED = Standing.NEW, Standing.STORED
_TO_COME, _OVER = Response.TO_COME, Response.OVER


class Backing(Protocol):
    """What saves a session: its request, or `open_session`."""

    @property
    def owners(self) -> OwnerStore | None:
        """The store, if it finds sessions by owner."""
        ...

    @property
    def lifetimes(self) -> Lifetimes:
        """How long its sessions live."""
        ...

    @property
    def serializer(self) -> Serializer:
        """What the session's values are stored with."""
        ...

    async def save(self, session: "Session") -> bool:
        """Store the changes now. False if the session was ended meanwhile."""
        ...

    async def reload(self, session: "Session") -> bool:
        """Have the session hold what is stored of it now. False if it has ended, or was never stored."""
        ...

    async def atomically(self, session: "Session", change: Callable[[dict[str, Any]], T]) -> T:
        """Change what is stored now, and return what `change` returns."""
        ...

    async def wait_ended(self, session: "Session", every: float) -> None:
        """Return once the session has ended. Asks every so many seconds."""
        ...


class SessionState:
    """What is known of one session. Several threads of one request may use it at once.

    `fixed_id` is an id that the session's user chose. `presented_id` is one that the client named, with a valid
    signature, under which nothing was found.
    """

    __slots__ = (
        "_new_id",
        "asked",
        "backing",
        "fixed_id",
        "on_use",
        "presented_id",
        "record",
        "response",
        "standing",
        "stored_version",
        "tracking",
        "use",
    )

    def __init__(
        self,
        record: Record | None = None,
        *,
        fixed_id: str | None = None,
        presented_id: str | None = None,
        moved: bool = False,
        backing: Backing | None = None,
    ) -> None:
        self.record = record
        self.fixed_id: str | None = fixed_id
        self._new_id = fixed_id
        self.presented_id = presented_id
        self.backing: Backing | None = backing
        self.use: Use = _UNUSED
        self.response: Response = _TO_COME
        self.asked: Asked = NOTHING_ASKED
        self.tracking: Tracking | None = None
        """Which keys may have changed: all that a commit has to compare. None: none."""
        self.on_use: Callable[[], None] | None = None
        """Called once, in whichever thread, when the session is first used."""
        self.standing = _NEW if record is None else _STORED
        self.stored_version: int = 0 if record is None else record.version
        """The version that the last commit left."""
        if moved:
            self.standing = Standing.MOVED

    @property
    def serializer(self) -> Serializer:
        """What the session's values are stored with."""
        return JSON if self.backing is None else self.backing.serializer

    @property
    def is_late(self) -> bool:
        """Whether the response has started."""
        return self.response is not _TO_COME

    @property
    def is_ended(self) -> bool:
        """Whether a commit found that the session was ended meanwhile."""
        return self.standing is Standing.ENDED

    @property
    def id(self) -> str:
        """The id this session is, or will be, stored under. After a rotation: the new one."""
        if self.record is not None and not self.asked.rotate and not self.asked.clear:
            return self.record.id
        found = self._new_id
        if found is None:
            with one_thread_at_a_time:
                found = self._new_id = self._new_id or new_id()
        return found

    @property
    def owner(self) -> str | None:
        """Who the session is bound to, or will be."""
        login = self._login
        return None if login is None else login.owner

    @property
    def tenant(self) -> str | None:
        """The tenant that the session is bound to, or will be."""
        login = self._login
        return None if login is None else login.tenant

    @property
    def _login(self) -> Login | Record | None:
        """Where it stands who is logged in, or will be."""
        return self.asked.login or (None if self.asked.clear else self.record)

    @property
    def max_age(self) -> int | None:
        """The session's own idle lifetime in seconds; None: the middleware's."""
        if self.asked.max_age is not None:
            return self.asked.max_age or None
        return None if self.record is None or self.asked.clear else self.record.max_age

    def look(self) -> None:
        """Note that the session was looked at."""
        if self.use is _UNUSED:
            self.use = Use.LOOKED_AT

    def mark_used(self) -> None:
        """Note that the session is used, and tell whoever waits for it."""
        self.use = _USED
        if self.on_use is not None:
            on_use, self.on_use = self.on_use, None
            on_use()

    def tracked(self) -> Tracking:
        """Return the tracking, begun if it has not been."""
        tracking = self.tracking
        if tracking is None:
            with one_thread_at_a_time:
                tracking = self.tracking = self.tracking or Tracking()
        return tracking

    def write(self, key: str) -> None:
        """Note that an entry is set or removed."""
        if self.use is not _USED:
            self.mark_used()
        if self.response is _OVER:
            self.response = Response.OVER_AND_CHANGED
            logger.warning(
                "a session was changed after its request had ended: the change is lost, "
                "unless `await session.save()` follows"
            )
        self.tracked().write(key)

    def ask(self, how: Callable[[Asked], Asked]) -> None:
        """Note what was asked for, by the method of `Asked` that adds it to what already was."""
        with one_thread_at_a_time:
            self.asked = how(self.asked)
            if self.asked.count in (self.asked.rotate, self.asked.clear):
                self._new_id = None  # Each has an id of its own.
        self.mark_used()

    def delta(self, content: dict[str, Any]) -> tuple[dict[str, str], frozenset[str]]:
        """Return the encoded entries to set and the keys to remove, against what is stored.

        Only entries that were written or given away are compared, by what `Tracking` notes of them. Whether a key is
        to be removed shows in the number of entries, which is asked for before all keys are.
        Raises UnserializableValue.
        """
        stored = {} if self.record is None or self.asked.clear else self.record.data
        if not stored:
            return encode_items(dict(dict.items(content)), self.serializer), _NO_KEYS
        suspects = [] if self.tracking is None else self.tracking.suspects(content)
        to_set = _changed(content, suspects, stored, self.serializer) if suspects else {}
        if dict.__len__(content) == len(stored) + (sum(key not in stored for key in to_set) if to_set else 0):
            return to_set, _NO_KEYS
        return to_set, frozenset(key for key in stored if not dict.__contains__(content, key))

    def rewritten(self, content: dict[str, Any], to_set: Mapping[str, str]) -> dict[str, str]:
        """Return the entries that were set to what they were: somebody else may have changed them since.

        `to_set` are those that are to be set anyway.
        """
        if self.tracking is None or self.record is None or self.asked.clear:
            return {}
        stored = self.record.data
        return {
            key: stored[key]
            for key in list(self.tracking.written)
            if key in stored and key not in to_set and dict.__contains__(content, key)
        }

    def unsaved(self, content: dict[str, Any]) -> frozenset[str]:
        """Return the keys of which a commit would store something, be it what they were, or fail to."""
        if self.record is None:
            return frozenset(dict.keys(content))
        stored, changed = self.record.data, list[str]()
        if self.tracking is not None:
            written = self.tracking.written
            changed = [
                key
                for key in self.tracking.suspects(content)
                # To remove what is not there is no change.
                if dict.__contains__(content, key)
                and (key in written or not all_as_stored(content, [key], stored, self.serializer))
            ]
        return frozenset([*changed, *(key for key in stored if not dict.__contains__(content, key))])

    def is_modified(self, content: dict[str, Any]) -> bool:
        """Whether a commit would store anything, or fail to."""
        if self.asked.is_pending:
            return True
        try:
            to_set, to_remove = self.delta(content)
        except UnserializableValue:
            return True
        return bool(to_set or to_remove)

    def may_differ(self, content: dict[str, Any]) -> bool:
        """Whether there may be anything to store: something was asked for, or done to it or a value it gave away.

        Asked after every request, most of which have changed nothing: it takes less than to decide.
        """
        if self.asked is not NOTHING_ASKED and self.asked.is_pending:
            return True
        if self.tracking is None:
            return False
        if self.record is None or self.tracking.written:
            return True
        suspects = self.tracking.suspects(content)
        if not self.is_late:
            return bool(suspects)
        # By now it has nearly always been stored.
        return not all_as_stored(content, suspects, self.record.data, self.serializer)

    def end(self) -> None:
        """Note that nothing of the session may be stored any more."""
        self.standing = Standing.ENDED

    def finish(self) -> None:
        """Note that no commit will follow: what is changed from now on is stored by `save` alone."""
        self.response = _OVER

    def take(self, record: Record) -> None:
        """Take a record, which has been read again, for what is stored and unchanged."""
        self.record = record
        self.stored_version = max(self.stored_version, record.version)
        self.tracking = None

    def rebase(self, record: Record, unsaved: frozenset[str] = _NO_KEYS) -> None:
        """Take a record for what is stored now, and leave unsaved what is."""
        self.record, self.stored_version, self.standing = record, record.version, _STORED
        self.presented_id = None
        if self.tracking is not None:
            self.tracking.settle(written=False)
            # The others are what is stored: to store them once more would undo what others do meanwhile.
            self.tracking.written.intersection_update(unsaved)

    def begin_anew(self, *, moved: bool) -> None:
        """Note that nothing is stored under the id that the client named, as if nothing had been found at first."""
        assert self.record is not None  # noqa: S101 - else there is nothing to forget
        self.presented_id, self.record, self.stored_version = self.record.id, None, 0
        self.standing = Standing.MOVED if moved else _NEW

    def settle(self, record: Record | None, *, asked: int, version: int = 0) -> None:
        """Take the record for what is stored now: whatever comes later is a change of it. None: nothing is.

        `asked` is `asked.count` when the commit was decided: what has been asked for since is still to be done.
        `version` is the stored one: higher than the record's if others have changed the session too.
        """
        before, self.record = self.record, record
        if self.tracking is not None:
            # A touch has stored nothing of what was written while it was under way.
            touched = record and before and (record.id, record.version) == (before.id, before.version)
            self.tracking.settle(written=not touched)
        self.stored_version = version
        self.presented_id = None
        self.standing = _NEW if record is None else _STORED
        with one_thread_at_a_time:
            if self.asked is not NOTHING_ASKED:
                self.asked = self.asked.settled(asked, ended=record is None)
            if not self.asked.clear and not self.asked.rotate:
                self._new_id = self.fixed_id


def _changed(
    content: dict[str, Any], keys: list[str], stored: Mapping[str, str], serializer: Serializer
) -> dict[str, str]:
    """Return those of the entries that are not what is stored, encoded."""
    changed = {}
    for key in keys:
        value, known = dict.get(content, key, ABSENT), stored.get(key)
        if value is ABSENT:
            continue
        encoded = encode_item(key, value, known=known, serializer=serializer)
        if encoded != known:
            changed[key] = encoded
    return changed
