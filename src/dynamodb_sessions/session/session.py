"""Session: the dict a handler holds. It knows what changed since it was loaded, and decides nothing."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Self

from dynamodb_sessions.clock import check_seconds
from dynamodb_sessions.codec import encode_item, encode_items
from dynamodb_sessions.exceptions import ConfigurationError, SessionError, UnserializableValue
from dynamodb_sessions.identifiers import new_id
from dynamodb_sessions.session.tracking import ABSENT, CONSTANTS, Tracking, all_as_stored
from dynamodb_sessions.stores.contract import MAX_OWNER_SIZE, OwnerStore, Record, is_owner

logger = logging.getLogger("dynamodb_sessions")

_LATE = "the response has started, so the browser cannot be told a new session id any more: do this before it starts"


class Session(dict[str, Any]):
    """The session of one request: a dict of JSON values, and what the middleware knows about it.

    `Session()` is new and empty; `Session(record=…)` holds what was stored. `fixed_id` names a session whose id its
    user chose. `presented_id` is an id the client named, with a valid signature, under which nothing was found.
    Raises CorruptRecord if the record's values are not JSON.
    """

    accessed = False
    """Whether anything was read or written, since the response started if it has."""
    cleared = False
    """Whether `clear()` was called: nothing of what was stored is to stay."""
    rotates = False
    """Whether the id is to change."""
    late = False
    """Whether the response has started: cookies can no longer be set."""
    ended = False
    """Whether a commit found that somebody else has ended the session: nothing of it may be stored again."""
    moved = False
    """Whether the id that the client named is one that a session had until a moment ago."""
    record: Record | None = None
    fixed_id: str | None = None
    presented_id: str | None = None
    new_owner: str | None = None
    """The owner bound since the last commit, if any."""
    new_max_age: int | None = None
    """The lifetime set since the last commit, as `Changes` has it."""
    asked = 0
    """Grows with every `clear`, `regenerate`, `bind` and `set_max_age`: a commit settles only what it knew of."""
    _done = 0
    """What it was when what is done was decided."""
    _asked_at: dict[str, int] | None = None
    """What it was when each of these was last asked for, by the attribute that says so."""
    _new_id: str | None = None
    _tracking: Tracking | None = None
    """Which keys may have changed: all a commit has to compare. None: none."""
    _store: OwnerStore | None = None
    stored_version = 0
    """The version that the last commit left."""
    _save: Callable[["Session"], Awaitable[bool]] | None = None
    _reload: Callable[["Session"], Awaitable[bool]] | None = None

    def __init__(
        self,
        *args: Any,
        record: Record | None = None,
        fixed_id: str | None = None,
        presented_id: str | None = None,
        moved: bool = False,
        **kwargs: Any,
    ) -> None:
        if args or kwargs:
            super().__init__(*args, **kwargs)
            self._track().write_all()
        if fixed_id is not None:
            self.fixed_id = self._new_id = fixed_id
        if presented_id is not None:
            self.presented_id = presented_id
        if moved:
            self.moved = True
        if record is not None:
            self.record = record
            self.stored_version = record.version
            dict.update(self, record.content())

    @property
    def id(self) -> str:
        """The id this session is, or will be, stored under. After a rotation: the new one."""
        if self.record is not None and not self.rotates and not self.cleared:
            return self.record.id
        if self._new_id is None:
            self._new_id = new_id()
        return self._new_id

    @property
    def is_new(self) -> bool:
        """Whether nothing is stored of this session yet."""
        return self.record is None

    @property
    def created_at(self) -> int | None:
        """Epoch seconds; None while it is new."""
        return None if self.record is None else self.record.created_at

    @property
    def expires_at(self) -> int | None:
        """Epoch seconds, as last stored; None while it is new."""
        return None if self.record is None else self.record.expires_at

    @property
    def owner(self) -> str | None:
        """Who the session is bound to."""
        return self.new_owner or (None if self.record is None or self.cleared else self.record.owner)

    @property
    def max_age(self) -> int | None:
        """The session's own idle lifetime in seconds; None: the middleware's."""
        if self.new_max_age is not None:
            return self.new_max_age or None
        return None if self.record is None or self.cleared else self.record.max_age

    @property
    def store(self) -> OwnerStore:
        """Where the session and its owner's others are kept: for `list_owner` and `revoke_owner`.

        Raises SessionError if it is kept nowhere, or in a store that finds no sessions by owner.
        """
        if self._store is None:
            raise SessionError("this session is not kept in a store that finds sessions by owner")
        return self._store

    @property
    def modified(self) -> bool:
        """Whether the content differs from what is stored, however deep: `session["cart"].append(x)` counts."""
        if self.cleared or self.rotates or self.new_owner is not None or self.new_max_age is not None:
            return True
        try:
            to_set, to_remove = self.delta()
        except UnserializableValue:
            return True
        return bool(to_set or to_remove)

    @modified.setter
    def modified(self, _: bool) -> None:
        """Accept what apps tell Starlette's session. What counts here is the content."""
        self.accessed = True

    def regenerate(self) -> None:
        """Give the session a new id, with the same content; the old id is dead. For any change of privilege.

        Raises SessionError where the id cannot change: after the response has started, or when its user chose it.
        """
        if self.fixed_id is not None:
            raise SessionError("this session was opened under an id of your own, which cannot change")
        if self.late:
            raise SessionError(_LATE)
        self.rotates = True
        self._new_id = None
        self._ask("rotates")

    def bind(self, owner: str) -> None:
        """Record whose session this is, and give it a new id: what a login calls, against session fixation.

        A session under an id of your own keeps its id. Raises SessionError as `regenerate` does, and
        ConfigurationError if the owner is not a non-empty str of at most 1024 bytes.
        """
        if not is_owner(owner):
            raise ConfigurationError(f"an owner must be a non-empty str of at most {MAX_OWNER_SIZE} bytes")
        if self.fixed_id is None:
            self.regenerate()
        self.new_owner = owner
        self._ask("new_owner")

    def set_max_age(self, seconds: int | None) -> None:
        """Give this session its own idle lifetime ("remember me"); None gives it back the middleware's.

        Raises ConfigurationError if it is not a positive int.
        """
        check_seconds("max_age", seconds)
        self.new_max_age = seconds or 0
        self._ask("new_max_age")

    async def save(self) -> bool:
        """Store the changes now instead of at the end. False if the session was ended meanwhile: nothing is stored.

        After a new id was saved, the response must succeed: only it tells the browser. Raises StoreUnavailable,
        UnserializableValue or SessionTooLarge; what is stored is then as it was.
        """
        if self._save is None:
            raise SessionError("this session belongs to no request and no store")
        return await self._save(self)

    async def reload(self) -> bool:
        """Read what is stored now, and forget the changes that are not saved yet. False if the session has ended.

        What was asked for by `set_max_age`, `bind` or `regenerate` is still to be done. Raises StoreUnavailable or
        CorruptRecord, and SessionError after a `clear()` that is not saved.
        """
        if self._reload is None:
            raise SessionError("this session belongs to no request and no store")
        if self.cleared:
            raise SessionError("this session was cleared, and there is nothing to read again before that is saved")
        return await self._reload(self)

    # What the rest of the package asks and tells.

    def delta(self) -> tuple[dict[str, str], frozenset[str]]:
        """Return the encoded entries to set and the keys to remove, against what is stored.

        Raises UnserializableValue.
        """
        stored = {} if self.record is None or self.cleared else self.record.data
        if not stored:
            return encode_items(dict(dict.items(self))), _NOTHING
        suspects = [] if self._tracking is None else self._tracking.suspects(self)
        to_set = self._changed(suspects, stored) if suspects else {}
        if dict.__len__(self) == len(stored) + (sum(key not in stored for key in to_set) if to_set else 0):
            return to_set, _NOTHING
        return to_set, frozenset(key for key in stored if not dict.__contains__(self, key))

    def rewritten(self, to_set: Mapping[str, str]) -> dict[str, str]:
        """Return the entries that were set to what they were: somebody else may have changed them since.

        `to_set` are those that are to be set anyway.
        """
        if self._tracking is None or self.record is None or self.cleared:
            return {}
        stored = self.record.data
        return {
            key: stored[key]
            for key in list(self._tracking.written)
            if key in stored and key not in to_set and dict.__contains__(self, key)
        }

    @property
    def wants_new_id(self) -> bool:
        """Whether `regenerate` or `bind` was called, and is not done yet."""
        return self.rotates or self.new_owner is not None

    def _changed(self, keys: list[str], stored: Mapping[str, str]) -> dict[str, str]:
        """Return those of the entries that are not what is stored, encoded."""
        changed = {}
        for key in keys:
            value, known = dict.get(self, key, ABSENT), stored.get(key)
            if value is not ABSENT and (encoded := encode_item(key, value, known=known)) != known:
                changed[key] = encoded
        return changed

    @property
    def may_differ(self) -> bool:
        """Whether there may be anything to store: something was asked for, or done to it or a value it gave away."""
        if self.asked != self._done:
            return True
        if self._tracking is None:
            return False
        if self.record is None or self._tracking.written:
            return True
        suspects = self._tracking.suspects(self)
        if not self.late:
            return bool(suspects)
        # By now it has nearly always been stored: to see that takes less than to decide it.
        return not all_as_stored(self, suspects, self.record.data)

    def attach(
        self,
        save: Callable[["Session"], Awaitable[bool]],
        reload: Callable[["Session"], Awaitable[bool]],
        store: OwnerStore | None,
    ) -> None:
        """Say what `save` and `reload` do, and where the session is kept."""
        self._save = save
        self._reload = reload
        self._store = store

    def assign(self, content: Mapping[str, Any]) -> None:
        """Make this the content: what is no key of it is removed, what is not the same object is set."""
        for key in [key for key in dict.keys(self) if key not in content]:
            del self[key]
        for key, value in content.items():
            if dict.get(self, key, ABSENT) is not value:
                self[key] = value

    def take(self, record: Record) -> None:
        """Take a record for what is stored and what the session holds, in place of all that it has held."""
        content = record.content()
        self.record = record
        self.stored_version = max(self.stored_version, record.version)
        self.__dict__.pop("_tracking", None)  # As the class has it.
        dict.clear(self)
        dict.update(self, content)

    def finish(self) -> None:
        """Note that no commit will follow: what is changed from now on is stored by `save` alone."""
        if self._tracking is None:
            self._tracking = Tracking()
        self._tracking.on_write = _warn_of_late_change

    def settle(self, record: Record | None, *, asked: int, version: int = 0) -> None:
        """Take the record for what is stored now: whatever comes later is a change of it. None: nothing is.

        `asked` is what it was when the commit was decided: what has been asked for since, is still to be done.
        `version` is the stored one: higher than the record's if others have changed the session too.
        """
        before, self.record = self.record, record
        if self._tracking is not None:
            # A touch has stored nothing of what was written while it was under way.
            touched = record and before and (record.id, record.version) == (before.id, before.version)
            self._tracking.settle(written=not touched)
        self.stored_version = version
        self.presented_id = None
        self.moved = False
        self.ended = False
        self._done = asked
        for name, then in list((self._asked_at or {}).items()):
            # What ended a session did not settle how long the next one is to live.
            if then <= asked and (record is not None or name != "new_max_age"):
                self.__dict__.pop(name, None)  # As the class has it.
        if not self.cleared and not self.rotates:
            self._new_id = self.fixed_id

    def mark_accessed(self) -> None:
        """Called by Starlette's `request.session`."""
        self.accessed = True

    def mark_modified(self) -> None:
        """As Starlette's own session has it. What counts here is the content."""
        self.accessed = True

    def clear(self) -> None:
        """Forget everything, and with it the id: what a logout calls. What is put in afterwards is a new session.

        Under an id of your own it is the same session, with other content.
        """
        if self.fixed_id is None:
            self.cleared = True
            self.rotates = False
            self._new_id = None
            self.new_owner = self.new_max_age = None
        super().clear()
        self._ask("cleared")

    def __reduce__(self) -> tuple[type["Session"], tuple[dict[str, Any]]]:
        """Copy and pickle the content, not the request it belongs to."""
        self._hand_out_all()
        return Session, (dict(dict.items(self)),)

    def _ask(self, name: str) -> None:
        """Note that this was asked for, once the attribute says so: no commit, in whichever thread, misses it then."""
        self.asked += 1
        self._asked_at = {**(self._asked_at or {}), name: self.asked}
        self.accessed = True

    def __getitem__(self, key: str) -> Any:
        self.accessed = True
        value = super().__getitem__(key)
        if value.__class__ not in CONSTANTS:
            self._track().hand_out(key, value)
        return value

    def get(self, key: str, default: Any = None) -> Any:
        """As dict's."""
        self.accessed = True
        value = super().get(key, default)
        if value.__class__ not in CONSTANTS and value is not default:
            self._track().hand_out(key, value)
        return value

    def setdefault(self, key: str, default: Any = None) -> Any:
        """As dict's."""
        self.accessed = True
        self._track().write(key)
        return super().setdefault(key, default)

    def __setitem__(self, key: str, value: Any) -> None:
        self.accessed = True
        self._track().write(key)
        super().__setitem__(key, value)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """As dict's."""
        self.accessed = True
        new = dict[str, Any](*args, **kwargs)
        tracking = self._track()
        for key in new:
            tracking.write(key)
        super().update(new)

    def __ior__(self, other: Any) -> Self:  # type: ignore[override, misc]
        self.update(other)
        return self

    def __delitem__(self, key: str) -> None:
        self.accessed = True
        self._track().write(key)
        super().__delitem__(key)

    def pop(self, key: str, *default: Any) -> Any:
        """As dict's."""
        self.accessed = True
        self._track().write(key)
        return super().pop(key, *default)

    def popitem(self) -> tuple[str, Any]:
        """As dict's."""
        self.accessed = True
        key, value = super().popitem()
        self._track().write(key)
        return key, value

    def _hand_out_all(self) -> None:
        tracking = self._track()
        for key, value in list(dict.items(self)):
            if value.__class__ not in CONSTANTS:
                tracking.hand_out(key, value)

    def _track(self) -> Tracking:
        if self._tracking is not None:
            return self._tracking
        # In one step: two threads of one request may begin at once.
        tracking: Tracking = self.__dict__.setdefault("_tracking", Tracking())
        return tracking


class DueSession(Session):
    """A session that is to be touched if it is used: it says when it first is, once, in whichever thread."""

    _accessed = False
    on_access: Callable[[], None] | None = None

    @property
    def accessed(self) -> bool:
        """As a session's."""
        return self._accessed

    @accessed.setter
    def accessed(self, accessed: bool) -> None:
        self._accessed = accessed
        if accessed and self.on_access is not None:
            on_access, self.on_access = self.on_access, None
            on_access()


def _warn_of_late_change() -> None:
    logger.warning(
        "a session was changed after its request had ended: the change is lost, unless `await session.save()` follows"
    )


_NOTHING = frozenset[str]()


def _marking(name: str, *, reads: bool = False) -> Callable[..., Any]:
    method = getattr(dict, name)

    def marking(self: Session, /, *args: Any, **kwargs: Any) -> Any:
        self.accessed = True
        if reads:
            self._hand_out_all()
        return method(self, *args, **kwargs)

    marking.__name__ = name
    marking.__qualname__ = f"Session.{name}"
    marking.__doc__ = method.__doc__
    return marking


# Every way into a dict tells that the response depends on the session, `in` and `len` included.
for _name in (
    *("__contains__", "__eq__", "__iter__", "__len__", "__ne__", "__repr__", "__reversed__"),
    "keys",
):
    setattr(Session, _name, _marking(_name))
for _name in ("__or__", "__ror__", "copy", "items", "values"):
    setattr(Session, _name, _marking(_name, reads=True))
