"""Testing: give the client of a test a session, as Flask's `session_transaction` does.

A request of the client's own goes through the app. Where it reaches the session middleware, a stand-in takes the place
of the app below, hands the session over, waits until the test's block has ended, and answers: so the session is loaded
and committed as in any request, behind the same mounts and middlewares, and the client keeps the cookie.

The request is marked by a context variable, which nothing that comes over a network can set. Who looks for the mark is
a wrapper around the middleware, put there by the first `session_transaction` of a process: an app that is served has
none of this.
"""

import copy
import functools
import inspect
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from contextvars import ContextVar, copy_context
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, overload

import anyio
from anyio.from_thread import BlockingPortal
from starlette.middleware.sessions import SessionMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dynamodb_sessions.exceptions import SessionError, StoreUnavailable
from dynamodb_sessions.middleware import DynamoDBSessionMiddleware
from dynamodb_sessions.session.asked import NOTHING_ASKED
from dynamodb_sessions.session.session import Session, state_of, take
from dynamodb_sessions.web.cookie import values_of

if TYPE_CHECKING:
    import httpx
    import httpx2
    from starlette.testclient import TestClient

_METHOD = "TRACE"
"""What no endpoint answers, should the request get past all session middleware; and safe, so CSRF checks let it by."""

_UNAVAILABLE = 503
_ERROR = 400


@overload
def session_transaction(client: "TestClient", *, path: str = "/") -> AbstractContextManager[Session]: ...


@overload
def session_transaction(
    client: "httpx.AsyncClient | httpx2.AsyncClient", *, path: str = "/"
) -> AbstractAsyncContextManager[Session]: ...


def session_transaction(client: Any, *, path: str = "/") -> Any:
    """Open the session of a test's client, to read and change it, and store it when the block ends.

    client: Starlette's or FastAPI's TestClient, for `with`; an AsyncClient of httpx or httpx2 over ASGITransport, for
    `async with`. path: of the request that is made for it. What the app excludes or mounts there counts, and so does
    the cookie's own path; no endpoint is called. The outermost DynamoDBSessionMiddleware there answers.

        with session_transaction(client) as session:
            session["user"] = "alice"
            session.bind("acme/alice")
        assert client.get("/me").json() == "alice"

    Inside, it is the `Session` that an endpoint would get, with what the client's cookie says is stored. The client may
    make other requests meanwhile: they see what is stored, as requests at once do. Afterwards the client has the
    cookie; a client whose `headers` have the `session_header` has the token in it. If the block raises, nothing is
    stored but what `save()` stored before.

    Raises SessionError if the session is not one of ours, if it was ended meanwhile, or if the client would not send
    the cookie back; StoreUnavailable; and what a commit raises, like UnserializableValue.
    """
    if not hasattr(client, "build_request"):
        raise TypeError(f"session_transaction takes a TestClient or an AsyncClient, not {type(client).__name__}")
    _watch_middlewares()
    opened = _in_the_event_loop if inspect.iscoroutinefunction(client.send) else _in_a_thread
    return opened(client, path)


class _Met(Enum):
    """What the marked request has met on its way."""

    NOTHING = auto()
    STARLETTE = auto()
    """Starlette's own session middleware, which has let it by."""
    EXCLUDED = auto()
    """A middleware of ours that gives this path no session, and has let it by."""
    OURS = auto()


class _Transaction:
    """One marked request, and what has become of it."""

    def __init__(self, client: Any, path: str, hold: Callable[[], Awaitable[None]]) -> None:
        self._client = client
        self._path = path
        self._hold = hold
        """Lets the test go on, and returns when its block has ended."""
        self._request = client.build_request(_METHOD, path)
        if not self._request.url.host:
            raise SessionError("the client has no base_url: give it one, like base_url='http://testserver'")
        self.met = _Met.NOTHING
        self.has_succeeded = False
        """Whether the block has ended without an error."""
        self._session: Session | None = None
        self._header: bytes | None = None
        """What stands in the cookie's place, if the client sends it."""
        self._answer: Message | None = None
        """How our middleware has started the response."""
        self._status = 0
        """What the client got in the end. 0: nothing."""
        self._failure: Exception | None = None

    # What the client's side does.

    def send(self) -> Any:
        """Send the request as it is: what follows a redirect would be another one. A coroutine, if the client is so."""
        return self._client.send(self._request, follow_redirects=False)

    @contextmanager
    def sending(self) -> Iterator[Callable[[Any], None]]:
        """Mark what is sent in this context. Called with the response; notes what is raised in its place."""

        def note(response: Any) -> None:
            self._status = response.status_code

        _marked.set(self)
        try:
            yield note
        except Exception as error:  # noqa: BLE001 - it is raised where the test is
            self._failure = self._failure or error

    def opened(self) -> Session:
        """Return the session. Raises SessionError, or what the app raised, if the request ended without one."""
        if self._session is not None:
            return self._session
        place = f"no session at {self._path!r}"
        if self.met is _Met.STARLETTE:
            raise SessionError(
                f"{place}: Starlette's SessionMiddleware keeps it in a cookie there. If that is session_middleware(), "
                "USE_DYNAMODB_SESSIONS is off: set it, or give the tests a DynamoDBSessionMiddleware with MemoryStore()"
            ) from self._failure
        if self.met is _Met.EXCLUDED:
            raise SessionError(
                f"{place}: `exclude` of DynamoDBSessionMiddleware excludes it; give another path="
            ) from self._failure
        if self._failure is not None:
            raise self._failure
        if self.met is _Met.NOTHING:
            raise SessionError(
                f"{place}: the app answered {_METHOD} {self._path} with {self._status}, and no "
                "DynamoDBSessionMiddleware was reached. It is not installed there (path= leads to a mounted app), or a "
                "middleware in front of it answers by itself: a redirect, an authentication, a check of the host"
            )
        raise self._refused("loaded")

    def check(self) -> None:
        """Raise if the session was not stored, or the client would not send its cookie."""
        if self._failure is not None:
            raise self._failure
        if self._session is None or self._answer is None:
            raise SessionError(
                f"the request ended before the block did, with {self._status or 'no answer'}, so nothing is stored: "
                "was the client closed, or has the app a time limit?"
            )
        if self._answer["status"] >= _ERROR:
            raise self._refused("saved")
        if state_of(self._session).is_ended and self._session.modified:
            raise SessionError(
                "the session was ended while the block ran, by a logout perhaps: its changes are dropped"
            )
        for name, value in self._answer["headers"]:
            if name == self._header:
                self._client.headers[name.decode()] = value.decode()
            elif name == b"set-cookie":
                self._check_cookie(value.decode("latin-1"))
                return

    def _refused(self, what: str) -> SessionError:
        status = 0 if self._answer is None else self._answer["status"]
        kind = StoreUnavailable if status == _UNAVAILABLE else SessionError
        return kind(f"the session could not be {what}: the middleware answered {status}; an ERROR in the log says why")

    def _check_cookie(self, set_cookie: str) -> None:
        """Raise SessionError if the client's next request would come without the cookie that it was just told."""
        (name, _, value), *attributes = [part.partition("=") for part in set_cookie.split("; ")]
        next_request = self._client.build_request("GET", self._path)
        sent = next_request.headers.get("cookie", "").encode()
        if not value or value.encode() in values_of(name.encode(), sent):
            return
        told = {attribute: of for attribute, _, of in attributes}
        url = next_request.url
        if "Secure" in told and url.scheme != "https":
            why = (
                f"it is Secure, and this is {url.scheme}://{url.host}. Give the client base_url='https://{url.host}', "
                "or the middleware https_only=None"
            )
        elif not f"{url.path}/".startswith(f"{told['Path'].rstrip('/')}/"):
            why = f"its path is {told['Path']!r}. Give session_transaction a path= in it"
        elif "Domain" in told:
            why = (
                f"its domain is {told['Domain']!r}, and this is {url.host!r}. Give the client a base_url in that domain"
            )
        else:
            why = "a middleware in front removes it, or the client has a Cookie header or a policy of its own"
        raise SessionError(f"the session is stored, but the client would not send its cookie {name!r} back: {why}")

    # What the app's side does.

    async def serve_by(
        self, middleware: DynamoDBSessionMiddleware, scope: Scope, receive: Receive, send: Send, call: "_Call"
    ) -> None:
        """Have a middleware of ours serve the request, with a stand-in for the app below it."""

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start" and self.met is _Met.OURS:
                self._answer = message
            await send(message)

        self.met = _Met.OURS
        if middleware.session_header is not None:
            self._header = middleware.session_header.header
        below, middleware = middleware.app, copy.copy(middleware)
        middleware.app = functools.partial(self._stand_in, below)
        try:
            await call(middleware, scope, receive, watched)
        except Exception as error:
            self._failure = self._failure or error
            raise

    async def _stand_in(self, below: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Hold the request until the test's block has ended, then answer it."""
        session = scope.get("session")
        if not isinstance(session, Session):
            self.met = _Met.EXCLUDED
            await below(scope, receive, send)
            return
        self._session = session
        try:
            await self._hold()
        finally:
            if not self.has_succeeded:
                _forget_changes(session)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})


def _forget_changes(session: Session) -> None:
    """Have a session hold what is stored of it, with nothing asked of it, not even a logout."""
    state = state_of(session)
    state.asked = NOTHING_ASKED
    if state.record is None:
        dict.clear(session)
    else:
        take(session, state.record)


_Call = Callable[[Any, Scope, Receive, Send], Awaitable[None]]
_marked: ContextVar[_Transaction | None] = ContextVar("dynamodb_sessions.testing", default=None)


@functools.cache
def _watch_middlewares() -> None:
    """Wrap our middleware and Starlette's, once in a process, so that each looks for the mark."""

    async def ours(call: _Call, middleware: Any, scope: Scope, receive: Receive, send: Send) -> None:
        transaction = _marked.get()
        if transaction is None or transaction.met is _Met.OURS or scope["type"] != "http":
            await call(middleware, scope, receive, send)
        else:
            await transaction.serve_by(middleware, scope, receive, send, call)

    async def starlettes(call: _Call, middleware: Any, scope: Scope, receive: Receive, send: Send) -> None:
        transaction = _marked.get()
        if transaction is not None and transaction.met is not _Met.OURS:
            transaction.met = _Met.STARLETTE
        await call(middleware, scope, receive, send)

    def watch(kind: type, with_mark: Callable[..., Awaitable[None]]) -> None:
        call: _Call = kind.__call__

        @functools.wraps(call)
        async def watching(middleware: Any, scope: Scope, receive: Receive, send: Send) -> None:
            await with_mark(call, middleware, scope, receive, send)

        kind.__call__ = watching  # type: ignore[method-assign]

    watch(DynamoDBSessionMiddleware, ours)
    watch(SessionMiddleware, starlettes)


@contextmanager
def _in_a_thread(client: Any, path: str) -> Iterator[Session]:
    """Send the request from a thread: the app runs in an event loop of the client's, the test in none."""
    settled = threading.Event()
    release: Callable[[], None] | None = None

    async def hold() -> None:
        nonlocal release
        async with BlockingPortal() as portal:
            release = functools.partial(portal.call, portal.stop)
            settled.set()
            await portal.sleep_until_stopped()

    def send() -> None:
        try:
            with transaction.sending() as note:
                note(transaction.send())
        finally:
            settled.set()

    transaction = _Transaction(client, path, hold)
    thread = threading.Thread(target=copy_context().run, args=(send,), name="session_transaction", daemon=True)
    thread.start()
    settled.wait()
    try:
        yield transaction.opened()
        transaction.has_succeeded = True
    finally:
        if release is not None:
            with suppress(RuntimeError):  # The app has ended meanwhile.
                release()
        thread.join()
    transaction.check()


@asynccontextmanager
async def _in_the_event_loop(client: Any, path: str) -> AsyncIterator[Session]:
    """Send the request from a task of the test's own event loop."""
    settled, ended = anyio.Event(), anyio.Event()
    failure: BaseException | None = None

    async def hold() -> None:
        settled.set()
        await ended.wait()

    async def send() -> None:
        try:
            with transaction.sending() as note:
                note(await transaction.send())
        finally:
            settled.set()

    transaction = _Transaction(client, path, hold)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send)
        await settled.wait()
        try:
            yield transaction.opened()
            transaction.has_succeeded = True
        except BaseException as error:  # noqa: BLE001 - raised below, where no task group makes a group of it
            failure = error
        ended.set()
    if failure is not None:
        raise failure
    transaction.check()
