"""SessionInfo: what there is to know about a session, as it was when somebody looked."""

from dataclasses import dataclass
from typing import Any, Self

from dynamodb_sessions import clock
from dynamodb_sessions.exceptions import SessionError
from dynamodb_sessions.identifiers import fingerprint
from dynamodb_sessions.session.state import SessionState
from dynamodb_sessions.stores.contract import OwnerStore


class _Unshown:
    """What a SessionInfo knows and never shows.

    Whatever turns an object into text looks at its fields or into its `__dict__`: `repr`, `asdict`, `vars`, FastAPI's
    `jsonable_encoder`. Here it finds neither: a slot of a base class is no field, and is not in `__dict__`. As a field
    the id would be in the response of any handler that returns `session.info`, and whoever has it is logged in.
    """

    __slots__ = ("_id", "_store")

    def __getstate__(self) -> dict[str, Any]:
        """Return what is shown."""
        return dict(vars(self))

    def __reduce__(self) -> tuple[type[Self], tuple[Any, ...]]:
        """Copy and pickle what is shown, and not the id."""
        return type(self), tuple(vars(self).values())


@dataclass(frozen=True)
class SessionInfo(_Unshown):
    """What is known about a session at one moment: `session.info`, made anew at each look.

    Times are epoch seconds, as last stored; None while the session is new.
    """

    fingerprint: str
    """The name the session has in logs: 8 hex digits of its id's SHA-256."""
    is_new: bool
    """Whether nothing is stored of it yet."""
    created_at: int | None
    expires_at: int | None
    expires_in: int | None
    """Seconds until it expires; None while it is new."""
    owner: str | None
    """Who it is bound to."""
    tenant: str | None
    """The tenant that `bind` has named."""
    max_age: int | None
    """Its own idle lifetime in seconds; None: the middleware's."""
    authenticated_at: int | None
    """When its owner last proved who they are: by a login, `bind`, or by `confirm_login`."""

    def is_fresh(self, seconds: int) -> bool:
        """Whether the owner has proved who they are in the last so many seconds: ask it before what is dangerous."""
        return self.authenticated_at is not None and clock.wall_clock() - self.authenticated_at <= seconds

    @property
    def id(self) -> str:
        """The id it is, or will be, stored under; after a rotation, the new one. A secret: keep it out of pages.

        That of a new session may still change until it is stored. Raises SessionError if this is a copy of what
        `session.info` was, which never has it.
        """
        session_id: str | None = getattr(self, "_id", None)
        if session_id is None:
            raise SessionError("a copy of what is known about a session does not have its id")
        return session_id

    @property
    def store(self) -> OwnerStore:
        """Where the session and its owner's others are kept: for `list_owner`, `revoke_owner` and those of tenants.

        Raises SessionError if it is kept nowhere, or in a store that finds no sessions by owner.
        """
        store: OwnerStore | None = getattr(self, "_store", None)
        if store is None:
            raise SessionError("this session is not kept in a store that finds sessions by owner")
        return store


def info_of(state: SessionState) -> SessionInfo:
    """Return what is known about a session now."""
    # What is put in after a `clear()` is a new session.
    session_id, record = state.id, None if state.asked.clear else state.record
    now = clock.wall_clock()
    authenticated_at = None if record is None else record.authenticated_at
    info = SessionInfo(
        fingerprint=fingerprint(session_id),
        is_new=record is None,
        created_at=None if record is None else record.created_at,
        expires_at=None if record is None else record.expires_at,
        expires_in=None if record is None else max(0, record.expires_at - now),
        owner=state.owner,
        tenant=state.tenant,
        max_age=state.max_age,
        authenticated_at=now if state.asked.proof else authenticated_at,
    )
    # Frozen: its own class sets fields in this way too.
    object.__setattr__(info, "_id", session_id)
    object.__setattr__(info, "_store", None if state.backing is None else state.backing.owners)
    return info
