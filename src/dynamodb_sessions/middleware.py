"""DynamoDBSessionMiddleware: its options, the store of the environment, and which requests get a session.

What those do is in `web/request_cycle.py`. Whatever keeps the contract of `stores/contract.py` will do as a store.
"""

import functools
import inspect
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec

from starlette.datastructures import Secret
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dynamodb_sessions import settings
from dynamodb_sessions.codec import Serializer, checked_serializer
from dynamodb_sessions.events import Observer, OnEvent, check_on_event
from dynamodb_sessions.exceptions import ConfigurationError, SessionError
from dynamodb_sessions.session.lifetimes import Lifetimes
from dynamodb_sessions.stores.contract import OwnerStore, ProbedStore, SessionStore
from dynamodb_sessions.stores.memory import MemoryStore
from dynamodb_sessions.stores.observed_store import ObservedOwnerStore, observed
from dynamodb_sessions.web.cookie import SessionCookie, SessionHeader
from dynamodb_sessions.web.misconfigured import Misconfigured, is_built_for_a_message
from dynamodb_sessions.web.request_cycle import Commits, RequestCycle, Setup

if TYPE_CHECKING:
    from dynamodb_sessions.stores.dynamodb import DynamoDBStore
    from dynamodb_sessions.stores.fallback import FallbackStore
    from dynamodb_sessions.web.starlette_cookie_import import StarletteCookie

logger: logging.Logger = logging.getLogger("dynamodb_sessions")

SameSite = Literal["lax", "strict", "none"]
Options = ParamSpec("Options")


class DynamoDBSessionMiddleware:
    """Keeps `request.session` on the server; the browser holds a signed session id. Takes the place of Starlette's.

    secret_key: what signs the cookie, or several, newest first; None: SESSION_SECRET_KEY and, comma-separated,
    SESSION_SECRET_KEY_FALLBACKS. max_age: idle timeout in seconds; None: until the browser closes, 14 days in the
    store. https_only: the cookie's Secure; None: whenever the request came over https. store: None: as the environment
    says. absolute_max_age: seconds after its creation at which a session ends, however busy.
    touch_after: seconds a session that is only read must gain before its expiry is written, and the browser's cookie
    before it is set again; None: a tenth of its lifetime. fallback: "memory" or "error", while the store cannot be
    initialised. exclude: path prefixes of requests that get no session. no_touch: path prefixes of requests that do not
    extend a session, though they may use and change it. session_header: name of a header, like X-Session-Token; a
    request with that header, be it empty, has its session's token there instead of in the cookie, and so does its
    response.
    max_sessions_per_owner: how many sessions an owner may have; the next `bind` ends the oldest.
    import_cookie: name of the cookie of Starlette's own middleware, whose sessions are adopted, each once, if they
    are signed with `import_secret_key`, or `secret_key`, not before `import_signed_after`, and before
    `import_signed_before`: epoch seconds, or a datetime with a time zone. on_event: called with a SessionEvent after
    each operation on a stored session. serializer: what turns values into text and back; None: JSONSerializer().
    Raises ConfigurationError, unless Starlette makes it while a server runs: then one ERROR in the log says why every
    request is answered 500.
    """

    def __init__(
        self,
        app: ASGIApp,
        secret_key: str | Secret | Sequence[str | Secret] | None = None,
        session_cookie: str = "session_id",
        max_age: int | None = 3600,
        path: str = "/",
        same_site: SameSite = "lax",
        https_only: bool | None = None,
        domain: str | None = None,
        partitioned: bool = False,
        *,
        store: SessionStore | None = None,
        absolute_max_age: int | None = None,
        touch_after: int | None = None,
        fallback: Literal["memory", "error"] = "memory",
        exclude: Sequence[str] = (),
        no_touch: Sequence[str] = (),
        session_header: str | None = None,
        max_sessions_per_owner: int | None = None,
        import_cookie: str | None = None,
        import_secret_key: str | Secret | Sequence[str | Secret] | None = None,
        import_signed_after: float | datetime | None = None,
        import_signed_before: float | datetime | None = None,
        on_event: OnEvent | None = None,
        serializer: Serializer | None = None,
    ) -> None:
        self.app = app
        self._instead: Misconfigured | None = None
        self.session_header: SessionHeader | None = None
        try:
            _check_store(store, fallback, max_sessions_per_owner)
            self._excluded = _checked_prefixes("exclude", exclude)
            self._untouched = _checked_prefixes("no_touch", no_touch)
            check_on_event(on_event)
            serializer = checked_serializer(serializer)
            keys = settings.secret_keys(secret_key)
            imports = _check_imports(
                import_cookie,
                keys,
                import_secret_key=import_secret_key,
                import_signed_after=import_signed_after,
                import_signed_before=import_signed_before,
            )
            cookie = SessionCookie(
                keys,
                name=session_cookie,
                path=path,
                same_site=same_site,
                https_only=https_only,
                domain=domain,
                partitioned=partitioned,
            )
            if session_header is not None:
                self.session_header = SessionHeader(keys, name=session_header)
            lifetimes = Lifetimes(max_age, absolute_max_age, touch_after)
            if store is None:
                store = store_from_environment()
        except ConfigurationError as error:
            if not is_built_for_a_message():
                raise
            self._instead = Misconfigured(error)
            return
        fallback_store = None if isinstance(store, MemoryStore) else _fallback_of(store, fallback, on_event)
        self.store: SessionStore = fallback_store or store
        kept = observed(self.store, on_event)
        if on_event is not None:
            _tell_of_refused(kept.observer, cookie, self.session_header, imports)
        self.setup: Setup = Setup(
            cookie=cookie,
            carrier=cookie,
            vary=b"Cookie" if session_header is None else f"Cookie, {session_header}".encode(),
            lifetimes=lifetimes,
            store=kept,
            owners=kept if isinstance(kept, ObservedOwnerStore) else None,
            serializer=serializer,
            max_sessions_per_owner=max_sessions_per_owner,
            fallback=fallback_store,
            imports=imports,
            commits=Commits(),
            keeps_versions=kept.keeps_versions,
            answers_at_once=type(store) is MemoryStore,
        )
        self._are_alike = not (self._excluded or self._untouched or self.session_header)
        """Whether all requests have the same setup."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._instead is not None:
            await self._instead(scope, receive, send)
        elif scope["type"] in ("http", "websocket"):
            setup = self.setup if self._are_alike else self._setup_of(scope)
            if setup is None:
                await self.app(scope, receive, send)
            else:
                await RequestCycle(setup, scope, receive, send).run(self.app)
        elif scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _setup_of(self, scope: Scope) -> Setup | None:
        """Return what a request's session is kept with; None: it gets none."""
        if _is_below(self._excluded, scope):
            return None
        setup = self.setup
        if self.session_header is not None and self.session_header.is_in(scope["headers"]):
            setup = setup._replace(carrier=self.session_header, imports=None)
        if _is_below(self._untouched, scope):
            setup = setup._replace(lifetimes=replace(setup.lifetimes, extends=False))
        return setup

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app's lifespan, from a store that is initialised to the last commit.

        The store is initialised before the server takes requests, so that a server whose store must work does not
        start. Only the first lifespan does: behind Mangum every invocation has one.
        """
        first: Message | None = None
        if self.setup.fallback is not None:
            first = await receive()
            try:
                await self.setup.fallback.initialise()
            except SessionError as error:
                await send({"type": "lifespan.startup.failed", "message": f"{type(error).__name__}: {error}"})
                return

        async def next_message() -> Message:
            nonlocal first
            again, first = first, None
            message = await receive() if again is None else again
            if message["type"] == "lifespan.shutdown":
                await self.setup.commits.wait()
            return message

        # The store stays open: behind Mangum the next invocation wants its connections.
        await self.app(scope, next_message, send)


def _with_options_of(
    middleware: Callable[Concatenate[ASGIApp, Options], object],
) -> Callable[[Callable[..., Middleware]], Callable[Options, Middleware]]:
    """Let a function take a middleware's options: all its parameters but the app. It gets them by name.

    So the options are listed once, in the middleware. Type checkers and editors know them, and an unknown one raises a
    TypeError.
    """
    signature = inspect.signature(middleware)

    def decorate(function: Callable[..., Middleware]) -> Callable[Options, Middleware]:
        @functools.wraps(function)
        def decorated(*args: Options.args, **kwargs: Options.kwargs) -> Middleware:
            given = signature.bind(None, *args, **kwargs).arguments
            return function(**{name: value for name, value in given.items() if name != "app"})

        options = [parameter for name, parameter in signature.parameters.items() if name != "app"]
        shown = signature.replace(parameters=options, return_annotation=Middleware)
        decorated.__signature__ = shown  # type: ignore[attr-defined] # What `help` and editors at run time read.
        return decorated

    return decorate


@_with_options_of(DynamoDBSessionMiddleware)
def session_middleware(**options: Any) -> Middleware:
    """Return DynamoDBSessionMiddleware if USE_DYNAMODB_SESSIONS is on, else Starlette's cookie sessions.

    Options are DynamoDBSessionMiddleware's. Starlette's middleware gets those it knows, with the same defaults and
    the newest key; a warning names the others. Raises ConfigurationError, or TypeError for an option of neither.
    """
    # What would fail in production fails in development. No client is built for it.
    store = options.get("store")
    ours = DynamoDBSessionMiddleware(_no_app, **{**options, "store": MemoryStore() if store is None else store})
    if settings.use_dynamodb():
        return Middleware(DynamoDBSessionMiddleware, **options)
    theirs = inspect.signature(SessionMiddleware).parameters
    unknown = [name for name, value in options.items() if name not in theirs and value]
    if unknown:
        logger.warning("Starlette's cookie sessions do without what is given as %s", ", ".join(unknown))
    known = {name: each.default for name, each in inspect.signature(session_middleware).parameters.items()} | options
    # Those that are neither given nor on by default are left to Starlette.
    known = {name: value for name, value in known.items() if name in theirs and (name in options or value)}
    known["secret_key"] = settings.secret_keys(options.get("secret_key"))[0]
    known["https_only"] = bool(ours.setup.cookie.https_only)
    return Middleware(SessionMiddleware, **known)


def store_from_environment() -> "DynamoDBStore | MemoryStore":
    """Return the store the environment asks for. Raises ConfigurationError."""
    if not settings.use_dynamodb():
        logger.info("USE_DYNAMODB_SESSIONS is off: sessions are kept in this process and end with it")
        return MemoryStore()
    from dynamodb_sessions.stores.dynamodb import DynamoDBStore  # noqa: PLC0415 - of no use to sessions in memory

    return DynamoDBStore()


def _fallback_of(store: SessionStore, fallback: str, on_event: OnEvent | None) -> "FallbackStore | None":
    from dynamodb_sessions.stores.fallback import FallbackStore  # noqa: PLC0415 - of no use to sessions in memory

    if isinstance(store, ProbedStore):
        return FallbackStore(store, MemoryStore() if fallback == "memory" else None, on_event=on_event)
    return store if isinstance(store, FallbackStore) else None


def _tell_of_refused(
    observer: Observer, cookie: SessionCookie, header: SessionHeader | None, imports: "StarletteCookie | None"
) -> None:
    """Have it told if the cookie or token of a request does not verify."""
    if imports is None or imports.name != cookie.name:  # Else Starlette's own cookies would be told, too.
        cookie.on_refused = observer.refused
    if header is not None:
        header.on_refused = observer.refused


async def _no_app(*_: object) -> None:
    """Stand in for an app where options are only checked."""


def _check_store(store: SessionStore | None, fallback: str, max_sessions_per_owner: int | None) -> None:
    if store is not None and (isinstance(store, type) or not isinstance(store, SessionStore)):
        raise ConfigurationError(f"store={store!r} is no session store")
    if fallback not in ("memory", "error"):
        raise ConfigurationError(f'fallback={fallback!r} must be "memory" or "error"')
    if max_sessions_per_owner is None:
        return
    if isinstance(max_sessions_per_owner, bool) or not isinstance(max_sessions_per_owner, int):
        raise ConfigurationError(f"max_sessions_per_owner={max_sessions_per_owner!r} must be None or a whole number")
    if max_sessions_per_owner < 1:
        raise ConfigurationError(f"max_sessions_per_owner={max_sessions_per_owner} must be at least 1")
    if store is not None and not isinstance(store, OwnerStore):
        raise ConfigurationError(f"max_sessions_per_owner needs a store that lists sessions by owner: {store!r}")


def _checked_prefixes(parameter: str, given: Sequence[str]) -> tuple[str, ...]:
    if not isinstance(given, list | tuple) or not all(
        isinstance(prefix, str) and prefix[:1] == "/" for prefix in given
    ):
        raise ConfigurationError(f"{parameter}={given!r} must be a list of path prefixes, each beginning with /")
    return tuple(prefix.rstrip("/") for prefix in given)


def _is_below(prefixes: Sequence[str], scope: Scope) -> bool:
    """Whether a request's path in the app is one of these, or below one."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and path.startswith(f"{root}/"):
        path = path[len(root) :]
    return any(path == prefix or path.startswith(f"{prefix}/") for prefix in prefixes)


def _check_imports(import_cookie: str | None, keys: list[str], **options: Any) -> "StarletteCookie | None":
    if import_cookie is None:
        for name, value in options.items():
            if value is not None:
                raise ConfigurationError(f"{name} is of no use without import_cookie")
        return None
    from dynamodb_sessions.web.starlette_cookie_import import StarletteCookie  # noqa: PLC0415 - of no use to most

    given = options["import_secret_key"]
    return StarletteCookie(
        import_cookie,
        keys if given is None else settings.secret_keys(given),
        signed_after=options["import_signed_after"],
        signed_before=options["import_signed_before"],
    )
