"""Cookie policy: what a response tells its client of the session. PURE: a function of what it holds and what is stored.

A client is told what changes for it. Of a write to a session whose cookie it holds it need not know.
"""

from dynamodb_sessions.session.lifetimes import Lifetimes
from dynamodb_sessions.session.state import SessionState, Use
from dynamodb_sessions.stores.contract import Record
from dynamodb_sessions.web.cookie import MAX_VERSION, CookiePayload

_UNUSED, _USED = Use.NONE, Use.USED


def is_settled(held: CookiePayload | None, record: Record | None, keeps_versions: bool) -> bool:
    """Whether a request that has stored nothing has nothing to tell: of most, it takes less than to ask `to_tell`.

    A cookie that expires when its session does is due when that is, and then a touch is stored.
    """
    if record is None:
        return True
    return (
        held is not None
        and held.expires_at == record.expires_at
        and not held.stale
        and held.session_id == record.id
        and (held.version > 0 or not keeps_versions)
    )


def to_tell(
    held: CookiePayload | None,
    record: Record,
    state: SessionState,
    lifetimes: Lifetimes,
    now: int,
    *,
    committed: bool,
    failed: bool,
    keeps_versions: bool,
) -> CookiePayload | None:
    """Return what the client is to hold from now on; None: what it holds already.

    `held` is the cookie that it sent, and by which the session was found. `committed`: the request has stored
    something. `failed`: its response says so, and does not let the session live longer. `keeps_versions`: the store's
    reads are better for knowing which version the browser has seen.

    There are four reasons: another id; a cookie that is stale; an expiry that has moved by enough; and the version. A
    cookie that keeps the version gets the new one from every write, whatever the options of the process that writes:
    else one with a cache would take an older copy to be good enough. One that keeps none gets it from a process that
    has use for it, and loses it when it is renewed by one that has not: without it, no cache answers.
    """
    if held is None or held.session_id != record.id:
        held = None
    elif state.use is _UNUSED and not committed:
        return None  # The response does not depend on the session, so that a cache may keep it.
    extends = lifetimes.extends and state.use is _USED and not failed
    if held is None or held.stale:
        renews = True
    else:
        renews = (extends or committed) and lifetimes.is_cookie_due(record, held.expires_at, now, extends=extends)
    seen = 0 if held is None else held.version
    if not (renews or seen or keeps_versions):
        return None
    keeps = keeps_versions or (seen > 0 and not renews)
    version = state.stored_version if keeps and state.stored_version <= MAX_VERSION else 0
    if not renews and (version == seen or (seen and not committed)):
        return None
    return CookiePayload(record.id, version, lifetimes.cookie_expires_at(record, now, extends=extends))
