"""Session: the dict a handler holds. It notes what is done to it, and decides nothing."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

from dynamodb_sessions.clock import check_seconds
from dynamodb_sessions.codec import CONSTANTS
from dynamodb_sessions.exceptions import ConfigurationError, SessionError
from dynamodb_sessions.identifiers import new_handle
from dynamodb_sessions.session.asked import Asked, Login
from dynamodb_sessions.session.info import SessionInfo, info_of
from dynamodb_sessions.session.state import Backing, SessionState, Use, one_thread_at_a_time
from dynamodb_sessions.session.tracking import ABSENT
from dynamodb_sessions.stores.contract import MAX_LABEL_LENGTH, MAX_OWNER_SIZE, Record, is_owner

if TYPE_CHECKING:
    from _collections_abc import dict_items, dict_keys, dict_values

T = TypeVar("T")

_LATE = "the response has started, so the browser cannot be told a new session id any more: do this before it starts"

_USED = Use.USED  # Looked up at every read: a global is found sooner than a member of an enum.


class Session(dict[str, Any]):
    """The session of one request: a dict of JSON values, or its serializer's, which notes what is done to it.

    `Session()` is new, empty and kept nowhere. Besides a dict's it has Starlette's four names, the verbs `bind`,
    `confirm_login`, `regenerate`, `set_max_age`, `save`, `reload`, `atomically` and `wait_ended`, and `info`: no other
    attribute, for a template prefers those to keys of the same name. Every way into a dict is written out below, `in`
    and `len` included: each tells that the session is used.
    """

    __slots__ = ("__weakref__", "_begin", "_state")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._state = SessionState()
        if args or kwargs:
            super().__init__(*args, **kwargs)
            self._state.tracked().write_all()

    # What there is to know.

    @property
    def info(self) -> SessionInfo:
        """What is known about the session now: a look at it, which does not let it live longer."""
        self._state.look()
        return info_of(self._state)

    @property
    def accessed(self) -> bool:
        """Whether the session was looked at or used, since the response started if it has."""
        return self._state.use is not Use.NONE

    @accessed.setter
    def accessed(self, accessed: bool) -> None:
        """Accept what Starlette's own session lets an app set."""
        if accessed:
            self._state.look()
        else:
            self._state.use = Use.NONE

    @property
    def modified(self) -> bool:
        """Whether the content differs from what is stored, however deep: `session["cart"].append(x)` counts."""
        return self._state.is_modified(self)

    @modified.setter
    def modified(self, _: bool) -> None:
        """Accept what apps tell Starlette's session. What counts here is the content."""
        self._state.mark_used()

    def mark_accessed(self) -> None:
        """Note a look at the session. Starlette 1 calls it from `request.session`."""
        self._state.look()

    def mark_modified(self) -> None:
        """Note that the session is used. What it stores is what differs, marked or not."""
        self._state.mark_used()

    # What can be asked for.

    def regenerate(self) -> None:
        """Give the session a new id, with the same content; the old id is dead. For any change of privilege.

        Raises SessionError where the id cannot change: after the response has started, or when its user chose it.
        """
        self._check_rotates()
        self._state.ask(Asked.to_rotate)

    def bind(self, owner: str, *, tenant: str | None = None, label: str | None = None) -> None:
        """Record whose session this is, and give it a new id: what a login calls, against session fixation.

        `tenant` is which of your customers the owner belongs to, for `list_tenant` and `revoke_tenant` of the store.
        `label` is what the list of the owner's devices calls this one, such as `request.headers.get("user-agent")`; it
        is cut at 256 characters. A session under an id of your own keeps its id. Raises SessionError as `regenerate`
        does, and ConfigurationError if the owner, or the tenant, is not a non-empty str of at most 1024 bytes, or the
        label no str.
        """
        if not is_owner(owner):
            raise ConfigurationError(f"an owner must be a non-empty str of at most {MAX_OWNER_SIZE} bytes")
        if tenant is not None and not is_owner(tenant):
            raise ConfigurationError(f"a tenant must be a non-empty str of at most {MAX_OWNER_SIZE} bytes")
        if label is not None and not isinstance(label, str):
            raise ConfigurationError("a label must be a str or None")
        # Whoever logs in may have chosen it: what is no valid Unicode must not fail the login.
        kept = None if label is None else label[:MAX_LABEL_LENGTH].encode(errors="replace").decode() or None
        login = Login(owner, new_handle(), kept, tenant)
        rotates = self._may_rotate()
        self._state.ask(partial(Asked.to_bind, login=login, rotate=rotates))

    def confirm_login(self) -> None:
        """Note that the owner has just proved again who they are, and give the session a new id.

        Call it after a second password prompt or a passkey: `info.authenticated_at` is then now, and `info.is_fresh`
        is true. A session under an id of your own keeps its id. Raises SessionError as `regenerate` does, and if the
        session is bound to nobody.
        """
        if self._state.owner is None:
            raise SessionError("this session is bound to nobody, so there is no login to confirm: call bind()")
        self._state.ask(partial(Asked.to_prove, rotate=self._may_rotate()))

    def set_max_age(self, seconds: int | None) -> None:
        """Give this session its own idle lifetime ("remember me"); None gives it back the middleware's.

        Raises ConfigurationError if it is not a positive int.
        """
        check_seconds("max_age", seconds)
        self._state.ask(partial(Asked.to_live, max_age=seconds or 0))

    async def save(self) -> bool:
        """Store the changes now instead of at the end. False if the session was ended meanwhile: nothing is stored.

        After a new id was saved, the response must succeed: only it tells the browser. Raises StoreUnavailable,
        UnserializableValue or SessionTooLarge; what is stored is then as it was.
        """
        return await self._backing.save(self)

    async def reload(self) -> bool:
        """Read what is stored now, and forget the changes that are not saved yet. False if the session has ended.

        What was asked for by `set_max_age`, `bind` or `regenerate` is still to be done. Raises StoreUnavailable or
        CorruptRecord, and SessionError after a `clear()` that is not saved.
        """
        if self._state.asked.clear:
            raise SessionError("this session was cleared, and there is nothing to read again before that is saved")
        return await self._backing.reload(self)

    async def atomically(self, change: Callable[[dict[str, Any]], T]) -> T:
        """Change what is stored now, whoever else is changing it, and return what `change` returns.

        `change(content)` gets the stored content as a dict of its own, without this request's unsaved changes, and
        changes it in place. Those stay unsaved: a key that the request has written itself is stored as it has written
        it, at the end. It must be quick and not async, and runs again if somebody else came between. What it left is
        stored at once, so a failure of the request later does not undo it:
        `await session.atomically(lambda content: content.setdefault("log", []).append("seen"))`.
        Whatever it raises comes through, and nothing is stored. After it has begun a new session, the response must
        succeed: only it tells the browser. Raises SessionError if the session has ended, or while a `clear()` or a new
        id is not saved; StoreUnavailable, CorruptRecord, UnserializableValue or SessionTooLarge.
        """
        backing = self._backing
        self._state.mark_used()
        return await backing.atomically(self, change)

    async def wait_ended(self, *, every: float = 30) -> None:
        """Return once the session has ended: by a logout or revocation elsewhere, by its expiry, or by a new id.

        For a connection that lives long, such as a websocket: run it in a task group with the work. It asks every
        so many seconds, by one eventually consistent read. An outage is no end: it is logged, and asked again.
        Raises ConfigurationError if `every` is not a positive number, and SessionError if nothing is stored yet.
        """
        if isinstance(every, bool) or not isinstance(every, int | float) or not 0 < every < float("inf"):
            raise ConfigurationError(f"every={every!r} must be a positive number of seconds")
        await self._backing.wait_ended(self, every)

    def clear(self) -> None:
        """Forget everything, and with it the id: what a logout calls. What is put in afterwards is a new session.

        Under an id of your own it is the same session, with other content.
        """
        # Emptied first: a commit that runs at the same time as this thread then stores an empty session or none, never
        # what was just cleared under a new id.
        super().clear()
        if self._state.fixed_id is None:
            self._state.ask(Asked.to_clear)
        else:
            self._state.mark_used()

    # Ways to read.

    def __getitem__(self, key: str) -> Any:
        """As dict's."""
        state = self._state
        if state.use is not _USED:
            state.mark_used()
        value = super().__getitem__(key)
        if value.__class__ not in CONSTANTS:
            state.tracked().hand_out(key, value)
        return value

    def get(self, key: str, default: Any = None) -> Any:
        """As dict's."""
        state = self._state
        if state.use is not _USED:
            state.mark_used()
        value = super().get(key, default)
        if value.__class__ not in CONSTANTS and value is not default:
            state.tracked().hand_out(key, value)
        return value

    def __contains__(self, key: object) -> bool:
        self._state.mark_used()
        return super().__contains__(key)

    def __len__(self) -> int:
        self._state.mark_used()
        return super().__len__()

    def __iter__(self) -> Iterator[str]:
        self._state.mark_used()
        return super().__iter__()

    def __reversed__(self) -> Iterator[str]:
        self._state.mark_used()
        return super().__reversed__()

    def __eq__(self, other: object) -> bool:
        self._state.mark_used()
        return super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        self._state.mark_used()
        return super().__ne__(other)

    __hash__ = None  # As a dict's.

    def __repr__(self) -> str:
        self._state.mark_used()
        return super().__repr__()

    def keys(self) -> "dict_keys[str, Any]":
        """As dict's."""
        self._state.mark_used()
        return super().keys()

    def values(self) -> "dict_values[str, Any]":
        """As dict's."""
        self._hand_out_all()
        return super().values()

    def items(self) -> "dict_items[str, Any]":
        """As dict's."""
        self._hand_out_all()
        return super().items()

    def copy(self) -> dict[str, Any]:
        """Return a plain dict with the same values."""
        self._hand_out_all()
        return super().copy()

    def __or__(self, other: Any) -> Any:
        self._hand_out_all()
        return super().__or__(other)

    def __ror__(self, other: Any) -> Any:
        self._hand_out_all()
        return super().__ror__(other)

    def __reduce__(self) -> tuple[type["Session"], tuple[dict[str, Any]]]:
        """Copy and pickle the content, not the request it belongs to."""
        self._hand_out_all()
        return Session, (dict(dict.items(self)),)

    # Ways to write.

    def __setitem__(self, key: str, value: Any) -> None:
        self._state.write(key)
        super().__setitem__(key, value)

    def setdefault(self, key: str, default: Any = None) -> Any:
        """As dict's: it only reads a key that is there."""
        if super().__contains__(key):
            return self[key]
        self._state.write(key)
        return super().setdefault(key, default)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """As dict's."""
        self._state.mark_used()
        new = dict[str, Any](*args, **kwargs)
        for key in new:
            self._state.write(key)
        super().update(new)

    def __ior__(self, other: Any) -> Self:  # type: ignore[override]
        self.update(other)
        return self

    def __delitem__(self, key: str) -> None:
        self._state.write(key)
        super().__delitem__(key)

    def pop(self, key: str, *default: Any) -> Any:
        """As dict's."""
        self._state.write(key)
        return super().pop(key, *default)

    def popitem(self) -> tuple[str, Any]:
        """As dict's."""
        self._state.mark_used()
        key, value = super().popitem()
        self._state.write(key)
        return key, value

    @property
    def _backing(self) -> Backing:
        """What saves the session. Raises SessionError if nothing does."""
        if self._state.backing is None:
            raise SessionError("this session belongs to no request and no store")
        return self._state.backing

    def _hand_out_all(self) -> None:
        """Note that every value is given away."""
        self._state.mark_used()
        tracking = self._state.tracked()
        for key, value in list(dict.items(self)):
            if value.__class__ not in CONSTANTS:
                tracking.hand_out(key, value)

    def _may_rotate(self) -> bool:
        """Whether a login gives the session a new id. Raises SessionError if it should, and cannot."""
        if self._state.fixed_id is not None:
            return False
        self._check_rotates()
        return True

    def _check_rotates(self) -> None:
        """Raise SessionError if the id cannot change."""
        if self._state.fixed_id is not None:
            raise SessionError("this session was opened under an id of your own, which cannot change")
        if self._state.is_late:
            raise SessionError(_LATE)


class Unseen(Session):
    """A new session that nobody has looked at yet, as most visitors never do: it has no state before.

    It is a `Session` from the first look on. A class whose instances may lack an attribute finds all others later.
    Whether nobody has looked yet is asked of its class, without a look.
    """

    __slots__ = ()

    _begin: Callable[[Session], None]
    """What gives it its state, by `see`."""

    def __getattr__(self, name: str) -> Any:
        """Begin the state, in whichever thread it is asked for first."""
        if name != "_state":
            raise AttributeError(f"'Session' object has no attribute {name!r}", name=name, obj=self)
        with one_thread_at_a_time:
            if self.__class__ is Unseen:  # Else another thread has been faster.
                self._begin(self)
        return object.__getattribute__(self, name)


Unseen.__name__ = Unseen.__qualname__ = Session.__name__

# What the rest of the package does with one, which is nothing for whoever holds it.


def make_session(state: SessionState) -> Session:
    """Return a session of this state, which holds what is stored. Raises CorruptRecord if it cannot be read."""
    session = Session.__new__(Session)
    session._state = state  # noqa: SLF001 - as its own class does
    if state.record is not None:
        dict.update(session, state.record.content(state.serializer))
    return session


def make_unseen_session(begin: Callable[[Session], None]) -> Session:
    """Return a new session without a state. When it is first looked at, `begin` is to give it one, by `see`."""
    session = Unseen.__new__(Unseen)
    session._begin = begin  # noqa: SLF001 - as its own class does
    return session


def see(session: Session, state: SessionState) -> None:
    """Give an unseen session its state: from now on it is one like any other."""
    session._state = state  # noqa: SLF001 - as its own class does
    session.__class__ = Session  # Of the same layout.


def state_of(session: Session) -> SessionState:
    """Return what is known of a session besides its content."""
    return session._state  # noqa: SLF001 - the one way to it


def assign(session: Session, content: Mapping[str, Any]) -> None:
    """Make this the session's content: what is no key of it is removed, what is not the same object is set."""
    for key in [key for key in dict.keys(session) if key not in content]:
        del session[key]
    for key, value in content.items():
        if dict.get(session, key, ABSENT) is not value:
            session[key] = value


def take(session: Session, record: Record) -> None:
    """Take a record for what is stored and what the session holds, in place of all that it has held."""
    state = state_of(session)
    content = record.content(state.serializer)
    state.take(record)
    dict.clear(session)
    dict.update(session, content)


def begin_anew(session: Session, *, moved: bool) -> None:
    """Forget what was stored, which has ended. What was set since stays, and is all that the session holds."""
    state = state_of(session)
    written = set[str]() if state.tracking is None else state.tracking.written
    for key in [key for key in list(dict.keys(session)) if key not in written]:
        dict.__delitem__(session, key)
    state.begin_anew(moved=moved)


def rebase(session: Session, record: Record) -> None:
    """Take a record for what is stored. What the session has changed, and not saved, stays as it is."""
    state = state_of(session)
    if state.asked.clear:  # Meanwhile, by another task or thread: what is to end is not to be filled again.
        state.rebase(record)
        return
    content = record.content(state.serializer)
    ours = state.unsaved(session)
    known = {} if state.record is None else state.record.data
    for key in [key for key in list(dict.keys(session)) if key not in content and key not in ours]:
        dict.__delitem__(session, key)
    for key, value in content.items():
        if key not in ours and record.data[key] != known.get(key):
            dict.__setitem__(session, key, value)
    state.rebase(record, ours)
