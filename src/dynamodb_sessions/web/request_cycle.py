"""Request cycle: one request, or one websocket, from its cookie to its last commit.

What happens when is the table of `phases.py`; what is to be done to a session, `session/save_policy.py` decides.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import anyio
import anyio.lowlevel
from starlette.middleware import sessions as starlette_sessions
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dynamodb_sessions import clock
from dynamodb_sessions.codec import Serializer
from dynamodb_sessions.exceptions import ConfigurationError, CorruptRecord, SessionError, StoreUnavailable
from dynamodb_sessions.identifiers import fingerprint
from dynamodb_sessions.session import save_policy
from dynamodb_sessions.session.commit import atomically, commit, is_alive, load, look_again, reload, wait_ended
from dynamodb_sessions.session.lifetimes import Lifetimes
from dynamodb_sessions.session.save_policy import Create, Delete, Nothing, Rotate, Touch, Update, decide
from dynamodb_sessions.session.session import (
    Session,
    Unseen,
    assign,
    make_session,
    make_unseen_session,
    see,
    state_of,
)
from dynamodb_sessions.session.state import Response, SessionState, Use
from dynamodb_sessions.settled import settled
from dynamodb_sessions.stores.contract import OwnerStore, Record
from dynamodb_sessions.stores.observed_store import ObservedStore
from dynamodb_sessions.web.cookie import CookiePayload, SessionCookie, SessionHeader
from dynamodb_sessions.web.cookie_policy import is_settled, to_tell
from dynamodb_sessions.web.overlapped_touch import OverlappedTouch, Progress
from dynamodb_sessions.web.phases import Action, Ending, Phase, kind_of, saves_late, transition
from dynamodb_sessions.web.responses import add_headers, refuse

if TYPE_CHECKING:
    from dynamodb_sessions.stores.fallback import FallbackStore
    from dynamodb_sessions.web.starlette_cookie_import import StarletteCookie

T = TypeVar("T")

logger: logging.Logger = logging.getLogger("dynamodb_sessions")

_POLL_SECONDS = 0.01
_TURNS = 10
_STARLETTE_HAS_A_TYPE = hasattr(starlette_sessions, "Session")
"""Whether Starlette's own sessions have a type of their own, as from 1.0."""
# What every request looks up: until CPython 3.12 a member of an enum takes as long to find as a function takes to call.
_LOADING, _RUNNING, _OVER = Phase.LOADING, Phase.RUNNING, Phase.OVER
_PASS, _SWALLOW, _SAVE_LATE = Action.PASS, Action.SWALLOW, Action.SAVE_LATE_THEN_PASS
_LOGOUT, _WITHOUT_COOKIE = Action.LOGOUT_THEN_HEADERS, Action.COMMIT_WITHOUT_COOKIE
_UNUSED, _USED, _RESPONSE_STARTED = Use.NONE, Use.USED, Response.STARTED

_OUTAGE = (StoreUnavailable, ConfigurationError)


class Setup(NamedTuple):
    """What all requests of one middleware share."""

    cookie: SessionCookie
    carrier: SessionCookie | SessionHeader
    """What the session comes in, and what tells the client: the cookie, or the header in its place."""
    vary: bytes
    """What a response varies by that depends on its session."""
    lifetimes: Lifetimes
    store: ObservedStore
    owners: OwnerStore | None
    """The store, if it finds sessions by owner."""
    serializer: Serializer
    max_sessions_per_owner: int | None
    fallback: "FallbackStore | None"
    """The store, if it may have to be initialised."""
    imports: "StarletteCookie | None"
    """The cookies that are adopted, if any are."""
    commits: "Commits"
    """Those that are under way."""
    keeps_versions: bool
    """Whether the store's reads are better for knowing which version the browser has seen."""
    answers_at_once: bool
    """Whether the store never waits for anything: then a commit cannot be cancelled half way, and needs no task."""


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
        for _ in range(_TURNS):  # What a server has just cancelled begins its last commit now.
            await anyio.lowlevel.checkpoint()
        while self._under_way:  # noqa: ASYNC110 - in whichever event loop, so that no event of one would do.
            await anyio.sleep(_POLL_SECONDS)


class Arrival(NamedTuple):
    """How a request arrived. Nothing of it changes later."""

    secure: bool
    """Whether it came over https or wss."""
    root_path: str = ""
    """Where the app is mounted."""
    adopted: bool = False
    """Whether the session was in a cookie of Starlette's, which is to be removed once the browser has ours."""
    superseded: bool = False
    """Whether there is such a cookie and one of ours: it counts for nothing, and is to be removed."""


_INSECURE, _SECURE = Arrival(secure=False), Arrival(secure=True)


class Committed(NamedTuple):
    """What a request has stored."""

    at: int
    """When it last did, in epoch seconds."""
    bound: Record | None
    """What was stored at a login, until its owner's other sessions have been counted."""


class _NoTurn:
    """What a commit holds that cannot be interrupted."""

    def release(self) -> None:
        """Do nothing."""


_NO_TURN = _NoTurn()


class RequestCycle:
    """One request, or one websocket, from its cookie to its last commit.

    `phases.py` says what is to be done when; this does it. It also is what `save()` and `reload()` of its session call,
    which may be held for longer than the request.
    """

    __slots__ = (
        "_arrival",
        "_committed",
        "_disconnected",
        "_held",
        "_phase",
        "_receive",
        "_scope",
        "_send",
        "_session",
        "_setup",
        "_touch",
        "_turn",
    )

    def __init__(self, setup: Setup, scope: Scope, receive: Receive, send: Send) -> None:
        self._setup = setup
        self._scope: Any = scope
        self._receive = receive
        self._send = send
        self._phase = _LOADING
        self._arrival = _SECURE if scope.get("scheme") in ("https", "wss") else _INSECURE
        if root_path := scope.get("root_path", ""):
            self._arrival = Arrival(self._arrival.secure, root_path)
        self._held: CookiePayload | None = None
        """The cookie by which the session was found, if it was."""
        self._session: Any = None
        self._committed: Committed | None = None
        """None: nothing was stored, as in most requests."""
        self._touch: OverlappedTouch | None = None
        """None: the session is not due to be touched."""
        self._disconnected = False
        self._turn: anyio.Lock | None = None
        """Held by the commit that is under way. None: there has been none, as in most requests."""

    @property
    def owners(self) -> OwnerStore | None:
        """The store, if it finds sessions by owner."""
        return self._setup.owners

    @property
    def lifetimes(self) -> Lifetimes:
        """How long sessions live."""
        return self._setup.lifetimes

    @property
    def serializer(self) -> Serializer:
        """What the session's values are stored with."""
        return self._setup.serializer

    async def run(self, app: ASGIApp) -> None:  # noqa: C901, PLR0912 - a frame less in each request
        """Run the app with its session. Whatever the app raises comes through, unless it is answered as an outage.

        The session is loaded before, and what is left is committed when the app has ended.
        """
        setup = self._setup
        try:
            if setup.fallback is not None and not setup.fallback.is_initialised:
                await setup.fallback.initialise()
            payloads = setup.carrier.read(self._scope["headers"])
            try:
                if payloads or setup.imports is not None:
                    session = await self._load(payloads)
                else:
                    session = make_unseen_session(self._begin)
            except _OUTAGE as error:
                await self._refuse("loaded", error)
                return
            self._session = self._scope["session"] = session
            self._phase = _RUNNING
            try:
                if self._touch is None:
                    await app(self._scope, self._watch, self._respond)
                else:
                    await self._touch.run(
                        lambda: app(self._scope, self._watch, self._respond),
                        self._touch_now,
                        state_of(session),
                    )
            except BaseException as error:
                gone = self._disconnected or isinstance(error, anyio.get_cancelled_exc_class())
                if self._may_commit(session):
                    await self._finish(session, Ending.GONE if gone else Ending.RAISED)
                if self._phase is not Phase.RUNNING or not _is_outage(error):
                    raise
                await self._refuse("saved", error)
            else:
                if self._may_commit(session):
                    await self._finish(session, Ending.RETURNED)
        finally:
            if self._committed is not None and self._committed.bound is not None:
                await self._limit_owner(self._committed)
            # The session may be held for longer, and holds on to this: what it has no use for any more must not come
            # back to it, or each request would be left to the garbage collector.
            self._phase = _OVER
            if self._session is not None and self._session.__class__ is not Unseen:
                state_of(self._session).finish()
            self._receive, self._send = _GONE[self._scope["type"]], _ignored
            self._scope = self._session = self._touch = None

    # How a request begins.

    def _begin(self, session: Session) -> None:
        """Give the session its state, when it is looked at for the first time, in whichever thread.

        The phase may change meanwhile. Whoever changes it does so before asking whether the session has a state.
        """
        state, phase = SessionState(backing=self), _LOADING
        see(session, state)
        while phase is not self._phase:
            phase = self._phase
            if phase is not _RUNNING:
                state.response = Response.OVER if phase is _OVER else _RESPONSE_STARTED

    async def _load(self, payloads: Sequence[CookiePayload]) -> Session:
        """Return the session of the first cookie that has one, adopted from a cookie of Starlette's if need be.

        Else a new one, which knows the id that the client named: a logout ends what may still be there.
        Raises StoreUnavailable or ConfigurationError.
        """
        imports, fallback = self._setup.imports, self._setup.fallback
        carried_over = [] if imports is None else imports.read(self._scope["headers"])
        if carried_over and payloads:
            self._arrival = self._arrival._replace(superseded=True)
        presented, moved = None, False

        def note_moved() -> None:
            nonlocal moved
            moved = True

        for payload in payloads:
            try:
                named = payload.session_id
                # What was in memory, and is not any more, has another id by now.
                session_id = named if fallback is None else await fallback.bring_home(named, now=clock.wall_clock())
                record = await load(
                    self._setup.store,
                    session_id,
                    self._setup.lifetimes,
                    min_version=payload.version,
                    # What the browser has seen is not known: whoever wrote last may have told it of no version.
                    consistency="strong" if self._setup.keeps_versions and not payload.version else "default",
                    on_moved=note_moved,
                )
                if record is not None:
                    return self._open(record, payload)
            except CorruptRecord as error:
                logger.warning(
                    "session %s cannot be read and is left as it is: %s", fingerprint(payload.session_id), error
                )
            else:
                presented = presented or payload.session_id
        if imports is not None and self._may_adopt(payloads):
            for carried in carried_over:
                record = await imports.adopt(self._setup.store, carried, self._setup.lifetimes, self._setup.serializer)
                if record is not None:
                    self._arrival = self._arrival._replace(adopted=True)
                    return self._open(record, None)
        return make_session(SessionState(presented_id=presented, moved=moved, backing=self))

    def _open(self, record: Record, held: CookiePayload | None) -> Session:
        """Return the session of a record, and note whether it is due to be touched. Raises CorruptRecord."""
        session = make_session(SessionState(record, backing=self))
        self._held = held
        if self._setup.lifetimes.is_due(record, clock.wall_clock()):
            self._touch = OverlappedTouch()
        return session

    def _may_adopt(self, payloads: Sequence[CookiePayload]) -> bool:
        """Whether a cookie of Starlette's may be a session still.

        Not of a browser that has been here, not even after its session has ended. And not while memory stands in for
        DynamoDB, which alone knows whether it has been adopted before, and has ended.
        """
        fallback = self._setup.fallback
        return not payloads and (fallback is None or fallback.is_initialised)

    # What the app receives and sends.

    async def _watch(self) -> Message:
        """Receive for the app, and note that the client has gone."""
        message = await self._receive()
        if message["type"] in ("http.disconnect", "websocket.disconnect"):
            self._disconnected = True
        return message

    async def _respond(self, message: Message) -> None:
        """Do what the table says about a message from the app, and send it."""
        action, after = transition(self._phase, kind_of(message))
        if action is _SWALLOW:
            return
        if action is _SAVE_LATE:
            if self._may_commit(self._session):
                await self._save_late(self._session, failed=False)
        elif action is not _PASS:
            if self._session.__class__ is Unseen and self._scope.get("session") is self._session:
                self._phase = after
                if self._session.__class__ is not Unseen:  # A thread has looked at it at this very moment.
                    state_of(self._session).response = _RESPONSE_STARTED
            elif not await self._start(self._session, action, message):
                return
        self._phase = after
        try:
            await self._send(message)
        except OSError:
            self._disconnected = True
            raise
        committed = self._committed
        if committed is not None and committed.bound is not None and message["type"] == "websocket.accept":
            await self._limit_owner(committed)  # It may stay open for long.

    async def _start(self, session: Session, action: Action, message: Message) -> bool:
        """Commit what the app has done before its response starts. False if the client was told to come later."""
        state, failed = state_of(session), action is _LOGOUT
        if action is _WITHOUT_COOKIE:
            state.response = _RESPONSE_STARTED
        if self._may_commit(session):
            try:
                await self._commit(session, failed=failed)
            except _OUTAGE as error:
                await self._refuse("saved", error)
                return False
        if action is not _WITHOUT_COOKIE:
            self._add_headers(message, state, failed=failed)
        state.response = _RESPONSE_STARTED
        if not failed:  # Else what it has dropped may still be saved.
            state.use = _UNUSED
        return True

    def _add_headers(self, message: Message, state: SessionState, *, failed: bool) -> None:
        """Add to the start of the response what the session has to say to the client, if anything."""
        looked_at, value, arrival, setup = state.use is not _UNUSED, None, self._arrival, self._setup
        if self._committed is not None or not is_settled(self._held, state.record, setup.keeps_versions):
            value = self._to_tell(state, failed=failed)
        if not (looked_at or value is not None or arrival.superseded):
            return
        told = [] if value is None else [(setup.carrier.header, value)]
        cookie, imports = setup.cookie, setup.imports
        if imports is not None and imports.name != cookie.name and (arrival.superseded or (arrival.adopted and told)):
            told.append((cookie.header, cookie.expire(secure=arrival.secure, name=imports.name)))
        add_headers(message, vary=setup.vary if looked_at else None, told=told)

    def _to_tell(self, state: SessionState, *, failed: bool) -> str | None:
        """Return the value of the header that tells the client what changes for it; None: nothing does."""
        record, setup, committed = state.record, self._setup, self._committed
        secure, held = self._arrival.secure, self._held
        if state.is_ended:
            return None
        if record is None:
            return setup.carrier.expire(secure=secure)
        # The time of the commit: so the cookie expires when the session does, and both are renewed by one request.
        now = clock.wall_clock() if committed is None else committed.at
        payload = to_tell(
            held,
            record,
            state,
            setup.lifetimes,
            now,
            committed=committed is not None,
            failed=failed,
            keeps_versions=setup.keeps_versions,
        )
        return None if payload is None else setup.carrier.issue(payload, now=now, secure=secure)

    async def _refuse(self, what: str, error: BaseException) -> None:
        """Answer that the client is to come back later: the session is neither empty nor saved, it is out of reach."""
        logger.error("a session could not be %s: %s", what, error)
        self._phase = Phase.REFUSED
        if self._session is not None and self._session.__class__ is not Unseen:
            state_of(self._session).response = _RESPONSE_STARTED
        await refuse(self._scope, self._receive, self._send)

    # What saves the session.

    async def save(self, session: Session) -> bool:
        """Store the changes now. False if the session was ended meanwhile, though nothing was changed."""
        return await self._commit(session, failed=False, asks=True)

    async def reload(self, session: Session) -> bool:
        """Have the session hold what is stored of it now. False if it has ended, or was never stored."""
        turn = await self._take_turn()
        try:
            return await reload(self._setup.store, session)
        finally:
            turn.release()

    async def atomically(self, session: Session, change: Callable[[dict[str, Any]], T]) -> T:
        """Change what is stored now, and return what `change` returns. A new session must reach its browser."""
        setup = self._setup
        turn = await self._take_turn()
        try:
            self._take_assigned(session)
            state, now = state_of(session), clock.wall_clock()
            if state.record is None and state.is_late:
                raise SessionError("the response has started, so a new session cannot be given to the browser")

            async def work() -> T:
                result = await atomically(setup.store, session, setup.lifetimes, change)
                if state.record is not None:
                    self._note_commit(now)
                return result

            with setup.commits:
                return await settled(work())
        finally:
            turn.release()

    async def wait_ended(self, session: Session, every: float) -> None:
        """Return once the session has ended. Asks every so many seconds."""
        await wait_ended(self._setup.store, state_of(session), self._setup.lifetimes, every)

    async def _touch_now(self) -> None:
        """Make the touch that overlaps the handler, unless a commit is under way, which does the same."""
        if self._turn is None or not self._turn.locked():
            failed = self._phase in (Phase.FAILED, Phase.REFUSED)
            await self._commit(self._session, failed=failed, touch_only=True)

    async def _finish(self, session: Session, ending: Ending) -> None:
        """Save what changed after the response had started, or, if none ever did or it failed, honour a logout."""
        await self._save_late(session, failed=not saves_late(self._phase, ending))

    async def _save_late(self, session: Session, *, failed: bool) -> None:
        """Commit when nobody is left to be told of an outage: the response is on its way, or is an error already."""
        try:
            await self._commit(session, failed=failed)
        except _OUTAGE as error:
            logger.error("a session could not be saved after its response had started, or failed: %s", error)

    def _may_commit(self, session: Session) -> bool:
        """Whether a commit may have something to do, be it to wait for one that another task has begun: it decides."""
        if session.__class__ is Unseen:
            return self._scope.get("session") is not session
        if self._turn is not None and self._turn.locked():
            return True
        state = state_of(session)
        if state.may_differ(session) or self._scope.get("session") is not session:
            return True
        if state.use is not _USED or state.record is None:
            return False
        return self._setup.lifetimes.is_due(state.record, clock.wall_clock())

    def _take_assigned(self, session: Session) -> None:
        """Take what the app has put in the session's place in the scope for its content from now on."""
        held = session if self._scope is None else self._scope.get("session", session)
        # An app below may have session middleware of its own, Starlette's or ours: its session is not ours. Before
        # 1.0 Starlette's is a plain dict, which is told from an assigned one by where it is: below a Mount.
        if isinstance(held, Session) or type(held).__module__ == starlette_sessions.__name__:
            return
        if not _STARLETTE_HAS_A_TYPE and self._scope.get("root_path", "") != self._arrival.root_path:
            return
        if isinstance(held, Mapping):
            assign(session, held)
        elif held is None or isinstance(held, type | Enum):  # Litestar's Empty.
            assign(session, {})
        else:
            raise SessionError(f"scope['session'] was set to {type(held).__name__}, which is no dict")

    async def _take_turn(self) -> "anyio.Lock | _NoTurn":
        """Return the lock that this commit now holds: one at a time, for each must see what the last has stored.

        A task of a websocket, the touch that overlaps the handler and the end of the response may all commit. Two at
        once would decide on the same record: the second would create a session again, or rotate one that has moved.
        Nearly always nobody else holds it: taken in this way, the event loop need not go round once for it. A store
        that answers at once leaves nobody a moment for another commit.
        """
        if self._setup.answers_at_once:
            return _NO_TURN
        turn = self._turn = self._turn or anyio.Lock()
        try:
            turn.acquire_nowait()
        except anyio.WouldBlock:
            with anyio.CancelScope(shield=True):
                await turn.acquire()
        return turn

    async def _commit(self, session: Session, *, failed: bool, touch_only: bool = False, asks: bool = False) -> bool:
        """Store what the app did to the session. False if it was gone.

        Shielded: a client that goes away does not cut a save in half; the store's own deadline ends it. `failed`: of
        what the app did, only a logout counts. `asks`: somebody wants to know whether the session is still there, even
        if nothing was changed.
        """
        turn = await self._take_turn()
        try:
            self._take_assigned(session)
            state = state_of(session)
            if state.asked.rotate and not (failed or touch_only) and self._may_be_copy(state):
                await look_again(self._setup.store, session)
            asked, now = state.asked.count, clock.wall_clock()
            action = decide(session, self._setup.lifetimes, now, failed=failed)
            if isinstance(action, Nothing) or (touch_only and not isinstance(action, Touch)):
                if asks:
                    await is_alive(self._setup.store, state)
                return not state.is_ended
            if self._touch is not None and isinstance(action, Touch):
                self._touch.raise_failure()
                if self._touch.progress is Progress.MADE and not state.is_late:
                    return not state.is_ended
            work = self._store(state, action, now, asked)
            if self._setup.answers_at_once:
                return await work
            with self._setup.commits:
                return await settled(work)
        finally:
            turn.release()

    def _may_be_copy(self, state: SessionState) -> bool:
        """Whether a session that is to get a new id may have ended before it was loaded.

        Not if something was stored of it since. A login that is only confirmed needs one that lives.
        """
        held, asked = self._held, state.asked
        if held is None or not held.version or not self._setup.keeps_versions or self._committed is not None:
            return False
        return not (asked.clear or state.is_late) and (asked.login is not None or not asked.proof)

    async def _store(self, state: SessionState, action: save_policy.Action, now: int, asked: int) -> bool:
        """Make the store call that the action stands for, or what of it can still be done. False if it was gone."""
        if state.is_late and isinstance(action, Create):
            logger.warning(
                "the response has started, so a new session cannot be given to the browser: it is not stored"
            )
            if action.replaces is not None:
                await commit(self._setup.store, state, Delete(action.replaces, state.record), asked=asked)
            state.end()
            return False
        bound = state.asked.login is not None
        if state.is_late and isinstance(action, Rotate):
            logger.warning(
                "the response has started, so the browser cannot be given a new id: the session keeps its own"
            )
            bound = False
            until, expiry = self._setup.lifetimes.of_change(
                now,
                created_at=action.record.created_at,
                own=state.max_age,
                named=action.changes.max_age is not None,
            )
            changes = replace(
                action.changes, owner=None, created_at=None, authenticated_at=None, expiry=expiry, expires_at=until
            )
            if changes.is_touch:
                return True
            action = Update(action.record, changes)
        if not await commit(self._setup.store, state, action, asked=asked):
            return False
        self._note_commit(now, state.record if bound else None)
        return True

    def _note_commit(self, now: int, bound: Record | None = None) -> None:
        if bound is None and self._committed is not None:
            bound = self._committed.bound
        self._committed = Committed(now, bound)

    async def _limit_owner(self, committed: Committed) -> None:
        """End the oldest sessions of whoever has logged in, if there are too many now. No response waits for it."""
        bound, self._committed = committed.bound, committed._replace(bound=None)
        owners, maximum = self._setup.owners, self._setup.max_sessions_per_owner
        if bound is None or maximum is None or owners is None:
            return
        from dynamodb_sessions.session.owner_limit import limit_owner  # noqa: PLC0415 - of no use to most

        with self._setup.commits:
            await settled(limit_owner(owners, bound, maximum))


def _is_outage(error: BaseException) -> bool:
    """Whether the store could not do what the app asked of it: a request is told to come later, as by its commit."""
    return isinstance(error, StoreUnavailable) or (isinstance(error, ConfigurationError) and error.is_outage)


async def _gone() -> Message:
    return {"type": "http.disconnect"}


async def _gone_websocket() -> Message:
    return {"type": "websocket.disconnect", "code": 1005}


_GONE = {"http": _gone, "websocket": _gone_websocket}


async def _ignored(_: Message) -> None:
    pass
