"""Request cycle: one request, or one websocket, from its cookie to its last commit.

When something happens is settled here; what is to be done to a session, `session/save_policy.py` decides.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio
from starlette.middleware.sessions import SessionMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dynamodb_sessions import clock
from dynamodb_sessions.exceptions import (
    ConfigurationError,
    CorruptRecord,
    SessionError,
    StoreUnavailable,
    UnserializableValue,
)
from dynamodb_sessions.identifiers import fingerprint
from dynamodb_sessions.session.commit import commit, is_alive, load, reload
from dynamodb_sessions.session.lifetimes import Lifetimes
from dynamodb_sessions.session.save_policy import Action, Create, Delete, Nothing, Rotate, Touch, Update, decide
from dynamodb_sessions.session.session import DueSession, Session
from dynamodb_sessions.stores.contract import OwnerStore, Record
from dynamodb_sessions.stores.observed_store import ObservedStore
from dynamodb_sessions.web.cookie import CookiePayload, SessionCookie
from dynamodb_sessions.web.responses import add_headers, refuse

if TYPE_CHECKING:
    from dynamodb_sessions.stores.fallback import FallbackStore
    from dynamodb_sessions.web.starlette_cookie_import import StarletteCookie

logger = logging.getLogger("dynamodb_sessions")

_SERVER_ERROR = 500
_POLL_SECONDS = 0.01
_OUTAGE = (StoreUnavailable, ConfigurationError)
_STARTS = frozenset(("http.response.start", "websocket.accept", "websocket.http.response.start", "websocket.close"))


class Setup(NamedTuple):
    """What all requests of one middleware share."""

    cookie: SessionCookie
    lifetimes: Lifetimes
    store: ObservedStore
    owners: OwnerStore | None
    """The store, if it finds sessions by owner."""
    max_sessions_per_owner: int | None
    fallback: "FallbackStore | None"
    """The store, if it may have to be initialised."""
    imports: "StarletteCookie | None"
    """The cookies that are adopted, if any are."""
    commits: "Commits"
    """Those that are under way."""


class Commits:
    """Counts what is being stored, so that a server that ends can wait for it. Event loops may share it."""

    def __init__(self) -> None:
        self._under_way = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self._under_way += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._under_way -= 1

    async def wait(self) -> None:
        """Wait until none is under way. Each ends by its store's deadline."""
        await anyio.sleep(_POLL_SECONDS)  # What a server has just cancelled begins its last commit now.
        while self._under_way:  # noqa: ASYNC110 - in whichever event loop, so that no event of one would do.
            await anyio.sleep(_POLL_SECONDS)


class RequestCycle:
    """One request, or one websocket, from its cookie to its last commit."""

    _refresh = False
    """Whether the client's cookie was signed by an older key."""
    _adopted = False
    """Whether the session was in a cookie of Starlette's, which is to be removed once the browser has ours."""
    _superseded = False
    """Whether there is such a cookie beside one of ours: it counts for nothing, and is to be removed."""
    _set_cookie: str | None = None
    _failed = False
    """Whether the app's response says that it failed."""
    _refused = False
    """Whether the client was told to come back later: whatever the app still says is not passed on."""
    _streaming = False
    _bound: Record | None = None
    """What was stored at a login of this request, until its owner's other sessions have been counted."""
    _is_open = False
    """Whether a websocket was accepted."""
    _disconnected = False
    _is_due = False
    """Whether the session is to be touched if it is used."""
    _touched = False
    """Whether the session was touched while the app ran."""
    _untouched: Exception | None = None
    """Why it was not."""
    _committed: "anyio.Event | None" = None
    """Set when the commit that is under way, if one is, has ended."""

    def __init__(self, setup: Setup, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        self._setup = setup
        self._app = app
        self._scope: Any = scope
        self._session: Any = None
        self._is_secure = scope.get("scheme") in ("https", "wss")
        self._root_path = scope.get("root_path", "")
        self._receive = receive
        self._send = send

    async def run(self) -> None:
        try:
            await self._run()
        finally:
            if self._bound is not None:
                await self._limit_owner()
            # The session may be held for longer, and holds on to this: what it has no use for any more must not come
            # back to it, or each request would be left to the garbage collector.
            self._refused = True
            if self._session is not None:
                self._session.finish()
            self._receive, self._send = _GONE[self._scope["type"]], _ignored
            self._scope = self._session = None

    async def _run(self) -> None:
        setup = self._setup
        if setup.fallback is not None and not setup.fallback.is_initialised:
            await setup.fallback.initialise()
        payloads = setup.cookie.read(self._scope["headers"])
        try:
            session = await self._load(payloads) if payloads or setup.imports is not None else Session()
        except _OUTAGE as error:
            await self._refuse("loaded", error)
            return
        session.attach(self._save, self._reload, setup.owners)
        self._session = self._scope["session"] = session
        try:
            if self._is_due:
                await self._touch_meanwhile(session)
            else:
                await self._app(self._scope, self._watch, self._respond)
        except BaseException as error:
            gone = self._disconnected or isinstance(error, anyio.get_cancelled_exc_class())
            await self._finish(session, failed=self._failed or not gone)
            if session.late or not _is_outage(error):
                raise
            await self._refuse("saved", error)
        else:
            if self._may_commit(session):
                await self._finish(session, failed=self._failed)

    async def _load(self, payloads: Sequence[CookiePayload]) -> Session:
        imports = self._setup.imports
        carried_over = [] if imports is None else imports.read(self._scope["headers"])
        self._superseded = bool(carried_over and payloads)
        presented, moved = None, False

        def note_moved() -> None:
            nonlocal moved
            moved = True

        for payload in payloads:
            try:
                record = await load(
                    self._setup.store,
                    await self._bring_home(payload.session_id),
                    self._setup.lifetimes,
                    min_version=payload.version,
                    on_moved=note_moved,
                )
                if record is not None:
                    # What was kept in memory has another id by now.
                    refresh = payload.stale or record.id != payload.session_id
                    session = self._open(record, refresh=refresh)
                    self._refresh = refresh
                    return session
            except CorruptRecord as error:
                logger.warning(
                    "session %s cannot be read and is left as it is: %s", fingerprint(payload.session_id), error
                )
            else:
                presented = presented or payload.session_id
        if imports is None or not self._may_adopt(payloads):
            return Session(presented_id=presented, moved=moved)
        for carried in carried_over:
            record = await imports.adopt(self._setup.store, carried, self._setup.lifetimes)
            if record is not None:
                self._refresh = self._adopted = True
                return self._open(record, refresh=True)
        return Session(presented_id=presented, moved=moved)

    async def _bring_home(self, session_id: str) -> str:
        """Return the id that a session has by now: of one that was in memory, and is not any more, another."""
        fallback = self._setup.fallback
        if fallback is None:
            return session_id
        return await fallback.bring_home(session_id, now=clock.wall_clock())

    def _open(self, record: Record, *, refresh: bool) -> Session:
        if not refresh and not self._setup.lifetimes.is_due(record, clock.wall_clock()):
            return Session(record=record)
        self._is_due = True
        return DueSession(record=record)

    async def _touch_meanwhile(self, session: Any) -> None:
        """Run the app, and touch the session as soon as it is used and the app waits for something itself."""
        failure = None
        async with anyio.create_task_group() as tasks:
            used = anyio.Event()
            session.on_access = _from_any_thread(used.set)
            if self._refresh:
                used.set()
            tasks.start_soon(self._touch, session, used)
            try:
                await self._app(self._scope, self._watch, self._respond)
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as error:  # noqa: BLE001 - it is the app's, and not to be wrapped in the group's
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _touch(self, session: Session, used: "anyio.Event") -> None:
        record = session.record
        await used.wait()
        if self._committed is not None or session.record is not record:
            return  # Whatever is committed, or has been, lets the session live longer, or ends it.
        try:
            await self._commit(session, failed=self._failed or self._refused, touch_only=True)
            self._touched = session.record is not record
        except UnserializableValue:
            pass  # The app may still put it right.
        except Exception as error:  # noqa: BLE001 - it is the commit's, before the response
            self._untouched = error

    def _may_adopt(self, payloads: Sequence[CookiePayload]) -> bool:
        """Whether a cookie of Starlette's may be a session still.

        Not of a browser that has been here, not even after its session has ended. And not while memory stands in for
        DynamoDB, which alone knows whether it has been adopted before, and has ended.
        """
        fallback = self._setup.fallback
        return not payloads and (fallback is None or fallback.is_initialised)

    async def _watch(self) -> Message:
        message = await self._receive()
        if message["type"] in ("http.disconnect", "websocket.disconnect"):
            self._disconnected = True
        return message

    async def _respond(self, message: Message) -> None:
        if self._refused:
            return
        session = self._session
        if not session.late and message["type"] in _STARTS:
            # A websocket that is closed instead of accepted has no headers to carry a cookie.
            session.late = message["type"] == "websocket.close"
            self._failed = message.get("status", 200) >= _SERVER_ERROR
            if self._may_commit(session):
                try:
                    await self._commit(session, failed=self._failed)
                except _OUTAGE as error:
                    await self._refuse("saved", error)
                    return
            session.late = True
            self._is_open = message["type"] == "websocket.accept"
            accessed = session.accessed
            if not self._failed:  # Else what it has dropped may still be saved.
                session.accessed = False
            if message["type"] != "websocket.close" and (accessed or self._set_cookie is not None or self._superseded):
                self._add_headers(message, accessed=accessed)
        elif message.get("more_body"):
            self._streaming = True
        elif self._streaming and message["type"] == "http.response.body":
            # Before the end of the stream, so that the same browser's next request sees what it has changed.
            await self._finish(session, failed=self._failed)
        await self._pass_on(message)

    async def _pass_on(self, message: Message) -> None:
        try:
            await self._send(message)
        except OSError:
            self._disconnected = True
            raise
        if self._is_open and self._bound is not None:  # A websocket may stay open for long.
            await self._limit_owner()

    def _add_headers(self, message: Message, *, accessed: bool) -> None:
        cookies = [] if self._set_cookie is None else [self._set_cookie]
        cookie, imports = self._setup.cookie, self._setup.imports
        if imports is not None and imports.name != cookie.name and (self._superseded or (self._adopted and cookies)):
            cookies.append(cookie.expire(secure=self._is_secure, name=imports.name))
        add_headers(message, vary=accessed, cookies=cookies)

    def _may_commit(self, session: Session) -> bool:
        """Whether a commit may have something to do: it decides."""
        if session.may_differ or self._refresh or self._scope.get("session") is not session:
            return True
        record = session.record
        return session.accessed and record is not None and self._setup.lifetimes.is_due(record, clock.wall_clock())

    async def _save(self, session: Session) -> bool:
        return await self._commit(session, failed=False, asks=True)

    async def _reload(self, session: Session) -> bool:
        await self._committed_before()
        return await reload(self._setup.store, session)

    def _take_assigned(self, session: Session) -> None:
        """Take what the app has put in the session's place in the scope for its content from now on."""
        held = session if self._scope is None else self._scope.get("session", session)
        # An app below may have session middleware of its own, Starlette's or ours: its session is none of ours. Before
        # 1.0 Starlette's is a plain dict, which is told from an assigned one by where it is: below a Mount.
        is_below = self._scope is not None and self._scope.get("root_path", "") != self._root_path
        if isinstance(held, Session) or type(held).__module__ == SessionMiddleware.__module__ or is_below:
            return
        if isinstance(held, Mapping):
            session.assign(held)
        elif held is None or isinstance(held, type | Enum):  # Litestar's Empty.
            session.assign({})
        else:
            raise SessionError(f"scope['session'] was set to {type(held).__name__}, which is no dict")

    async def _committed_before(self) -> None:
        """Wait for the commit that is under way, if one is."""
        if self._committed is not None:
            with anyio.CancelScope(shield=True):
                while self._committed is not None:
                    await self._committed.wait()

    async def _commit(self, session: Session, *, failed: bool, touch_only: bool = False, asks: bool = False) -> bool:
        """Store what the app did to the session, and note the cookie that tells the browser. False if it was gone.

        One at a time: each must see what the one before has stored. And shielded: a client that goes away does not
        cut a save in half; the store's own deadline ends it. `asks`: somebody wants to know whether the session is
        still there, even if nothing was changed.
        """
        await self._committed_before()
        self._take_assigned(session)
        now, asked = clock.wall_clock(), session.asked
        action = decide(session, self._setup.lifetimes, now, failed=failed, refresh=self._refresh)
        if isinstance(action, Nothing) or (touch_only and not isinstance(action, Touch)):
            if asks and not await is_alive(self._setup.store, session):
                self._set_cookie = None  # As below.
            return not session.ended
        if self._is_due and isinstance(action, Touch):
            if self._untouched is not None:
                untouched, self._untouched = self._untouched, None
                raise untouched
            if self._touched and not session.late:
                return not session.ended
        self._committed = anyio.Event()
        try:
            with anyio.CancelScope(shield=True), self._setup.commits:
                kept = await self._commit_alone(session, action, now, asked)
        finally:
            self._committed.set()
            self._committed = None
        return kept

    async def _commit_alone(self, session: Session, action: Action, now: int, asked: int) -> bool:
        if isinstance(action, Create) and session.late:
            logger.warning(
                "the response has started, so a new session cannot be given to the browser: it is not stored"
            )
            if action.replaces is not None:
                await commit(self._setup.store, session, Delete(action.replaces, session.record), asked=asked)
            session.ended = True
            return False
        if isinstance(action, Rotate) and session.late:
            logger.warning(
                "the response has started, so the browser cannot be given a new id: the session keeps its own"
            )
            expiry = self._setup.lifetimes.expiry(now, created_at=action.record.created_at)
            changes = replace(
                action.changes, owner=None, created_at=None, expiry=expiry, expires_at=expiry.at(session.max_age)
            )
            action = Update(action.record, changes) if not changes.is_touch else Nothing()
            if isinstance(action, Nothing):
                return True
        bound = session.new_owner is not None
        if not await commit(self._setup.store, session, action, asked=asked):
            self._set_cookie = None  # Not even one that an earlier save of this request was to send.
            return False
        self._refresh = False
        if bound:
            self._bound = session.record
        secure = self._is_secure
        if session.record is None:
            self._set_cookie = self._setup.cookie.expire(secure=secure)
        else:
            max_age = self._setup.lifetimes.cookie_max_age(session.record, now)
            self._set_cookie = self._setup.cookie.issue(
                session.record.id, session.stored_version, max_age=max_age, secure=secure
            )
        return True

    async def _limit_owner(self) -> None:
        """End the oldest sessions of whoever has logged in, if there are too many now. No response waits for it."""
        bound, self._bound = self._bound, None
        owners, maximum = self._setup.owners, self._setup.max_sessions_per_owner
        if bound is None or maximum is None or owners is None:
            return
        from dynamodb_sessions.session.owner_limit import limit_owner  # noqa: PLC0415 - of no use to most

        with anyio.CancelScope(shield=True), self._setup.commits:
            await limit_owner(self._setup.store, owners, bound, maximum)

    async def _finish(self, session: Session, *, failed: bool) -> None:
        """Save what changed after the response had started, or, if none ever did, honour a logout."""
        try:
            await self._commit(session, failed=failed or self._refused or not session.late)
        except _OUTAGE as error:
            # Nobody is left to be told: the response is on its way, or is an error already.
            logger.error("a session could not be saved after its response had started, or failed: %s", error)

    async def _refuse(self, what: str, error: BaseException) -> None:
        """Answer that the client is to come back later: the session is neither empty nor saved, it is out of reach."""
        logger.error("a session could not be %s: %s", what, error)
        self._refused = True
        if self._session is not None:
            self._session.late = True
        await refuse(self._scope, self._receive, self._send, is_open=self._is_open)


def _from_any_thread(callback: Callable[[], None]) -> Callable[[], None]:
    """Return what makes the callback in this thread's event loop, and waits for nothing."""
    here = threading.get_ident()
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:  # Trio's: what other threads use, is touched when it is committed.
        loop = None

    def call() -> None:
        if threading.get_ident() == here:
            callback()
        elif loop is not None:
            with contextlib.suppress(RuntimeError):  # It is closed.
                loop.call_soon_threadsafe(callback)

    return call


def _is_outage(error: BaseException) -> bool:
    """Whether the store could not do what the app asked of it: a request is told to come later, as by its commit."""
    return isinstance(error, StoreUnavailable) or (isinstance(error, ConfigurationError) and error.is_outage)


async def _gone() -> Message:
    return {"type": "http.disconnect"}


async def _gone_websocket() -> Message:
    return {"type": "websocket.disconnect"}


_GONE = {"http": _gone, "websocket": _gone_websocket}


async def _ignored(_: Message) -> None:
    pass
