"""DynamoDBSessionMiddleware: its options, the store of the environment, and which requests get a session.

What those do is in `web/request_cycle.py`. Whatever keeps the contract of `stores/contract.py` will do as a store.
"""

import inspect
import logging
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from starlette.datastructures import Secret
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dynamodb_sessions import settings
from dynamodb_sessions.events import OnEvent, check_on_event
from dynamodb_sessions.exceptions import ConfigurationError, SessionError
from dynamodb_sessions.session.lifetimes import Lifetimes
from dynamodb_sessions.stores.contract import OwnerStore, ProbedStore, SessionStore
from dynamodb_sessions.stores.memory import MemoryStore
from dynamodb_sessions.stores.observed_store import ObservedStore
from dynamodb_sessions.web.cookie import SessionCookie
from dynamodb_sessions.web.request_cycle import Commits, RequestCycle, Setup

if TYPE_CHECKING:
    from dynamodb_sessions.stores.dynamodb import DynamoDBStore
    from dynamodb_sessions.stores.fallback import FallbackStore
    from dynamodb_sessions.web.starlette_cookie_import import StarletteCookie

logger = logging.getLogger("dynamodb_sessions")

SameSite = Literal["lax", "strict", "none"]


class DynamoDBSessionMiddleware:
    """Keeps `request.session` on the server; the browser holds a signed session id. Takes the place of Starlette's.

    secret_key: what signs the cookie, or several, newest first; None: SESSION_SECRET_KEY and, comma-separated,
    SESSION_SECRET_KEY_FALLBACKS. max_age: idle timeout in seconds; None: until the browser closes, 14 days in the
    store. https_only: the cookie's Secure; None: whenever the request came over https. store: None: as the environment
    says. absolute_max_age: seconds after its creation at which a session ends, however busy.
    touch_after: seconds a session that is only read must gain before its expiry is written; None: a tenth of its
    lifetime. fallback: "memory" or "error", while the store cannot be initialised. exclude: path prefixes of requests
    that get no session. max_sessions_per_owner: how many sessions an owner may have; the next `bind` ends the oldest.
    import_cookie: name of the cookie of Starlette's own middleware, whose sessions are adopted, each once, if they
    are signed with `import_secret_key`, or `secret_key`, not before `import_signed_after`, and before
    `import_signed_before`: epoch seconds, or a datetime with a time zone. on_event: called with a SessionEvent after
    each operation on a stored session. Raises ConfigurationError.
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
        max_sessions_per_owner: int | None = None,
        import_cookie: str | None = None,
        import_secret_key: str | Secret | Sequence[str | Secret] | None = None,
        import_signed_after: float | datetime | None = None,
        import_signed_before: float | datetime | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        lifetimes, cookie, imports = _check(
            secret_key=secret_key,
            session_cookie=session_cookie,
            max_age=max_age,
            path=path,
            same_site=same_site,
            https_only=https_only,
            domain=domain,
            partitioned=partitioned,
            store=store,
            absolute_max_age=absolute_max_age,
            touch_after=touch_after,
            fallback=fallback,
            exclude=exclude,
            max_sessions_per_owner=max_sessions_per_owner,
            import_cookie=import_cookie,
            import_secret_key=import_secret_key,
            import_signed_after=import_signed_after,
            import_signed_before=import_signed_before,
            on_event=on_event,
        )
        self._store_of_ours: DynamoDBStore | None = None
        if store is None:
            store = store_from_environment()
            # Else whoever has made it closes it.
            self._store_of_ours = None if isinstance(store, MemoryStore) else store
        fallback_store = None if isinstance(store, MemoryStore) else _fallback_of(store, fallback)
        self.app = app
        self.store: SessionStore = fallback_store or store
        self.setup = Setup(
            cookie=cookie,
            lifetimes=lifetimes,
            store=ObservedStore(self.store, on_event),
            owners=self.store if isinstance(self.store, OwnerStore) else None,
            max_sessions_per_owner=max_sessions_per_owner,
            fallback=fallback_store,
            imports=imports,
            commits=Commits(),
        )
        self._excluded = tuple(prefix.rstrip("/") for prefix in exclude)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and not (self._excluded and self._is_excluded(scope)):
            await RequestCycle(self.setup, scope, receive, send).run(self.app)
        elif scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _is_excluded(self, scope: Scope) -> bool:
        path: str = scope["path"]
        root: str = scope.get("root_path", "")
        if root and path.startswith(f"{root}/"):
            path = path[len(root) :]
        return any(path == prefix or path.startswith(f"{prefix}/") for prefix in self._excluded)

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

        async def pass_on(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown.") and self._store_of_ours is not None:
                await self._store_of_ours.close()
            await send(message)

        await self.app(scope, next_message, pass_on)


def session_middleware(**options: Any) -> Middleware:
    """Return DynamoDBSessionMiddleware if USE_DYNAMODB_SESSIONS is on, else Starlette's cookie sessions.

    Options are DynamoDBSessionMiddleware's. Starlette's middleware gets those it knows, with the same defaults and
    the newest key; a warning names the others. Raises ConfigurationError, or TypeError for an option of neither.
    """
    given = inspect.signature(DynamoDBSessionMiddleware).bind(None, **options)
    given.apply_defaults()
    arguments = {name: value for name, value in given.arguments.items() if name != "app"}
    arguments["secret_key"] = keys = settings.secret_keys(arguments["secret_key"])
    _, cookie, _ = _check(**arguments)
    if settings.use_dynamodb():
        return Middleware(DynamoDBSessionMiddleware, **options)
    known: tuple[str, ...] = ("session_cookie", "max_age", "path", "same_site")
    # What only newer releases of Starlette know is passed only if it is used.
    known += tuple(name for name in ("domain", "partitioned") if arguments[name])
    unknown = [name for name in options if name not in (*known, "secret_key", "https_only") and options[name]]
    if unknown:
        logger.warning("Starlette's cookie sessions do without what is given as %s", ", ".join(unknown))
    return Middleware(
        SessionMiddleware,
        secret_key=keys[0],
        https_only=bool(cookie.https_only),
        **{name: arguments[name] for name in known},
    )


def store_from_environment() -> "DynamoDBStore | MemoryStore":
    """Return the store the environment asks for. Raises ConfigurationError."""
    if not settings.use_dynamodb():
        logger.info("USE_DYNAMODB_SESSIONS is off: sessions are kept in this process and end with it")
        return MemoryStore()
    from dynamodb_sessions.stores.dynamodb import DynamoDBStore  # noqa: PLC0415 - of no use to sessions in memory

    return DynamoDBStore()


def _fallback_of(store: SessionStore, fallback: str) -> "FallbackStore | None":
    from dynamodb_sessions.stores.fallback import FallbackStore  # noqa: PLC0415 - of no use to sessions in memory

    if isinstance(store, ProbedStore):
        return FallbackStore(store, MemoryStore() if fallback == "memory" else None)
    return store if isinstance(store, FallbackStore) else None


def _check(
    *,
    secret_key: Any,
    session_cookie: str,
    max_age: int | None,
    path: str,
    same_site: str,
    https_only: bool | None,
    domain: str | None,
    partitioned: bool,
    store: SessionStore | None,
    absolute_max_age: int | None,
    touch_after: int | None,
    fallback: str,
    exclude: Sequence[str],
    max_sessions_per_owner: int | None,
    import_cookie: str | None,
    import_secret_key: Any,
    import_signed_after: float | datetime | None,
    import_signed_before: float | datetime | None,
    on_event: OnEvent | None,
) -> "tuple[Lifetimes, SessionCookie, StarletteCookie | None]":
    """Return the options as they are used. Raises ConfigurationError for those that cannot be."""
    if store is not None and (isinstance(store, type) or not isinstance(store, SessionStore)):
        raise ConfigurationError(f"store={store!r} is no session store")
    if fallback not in ("memory", "error"):
        raise ConfigurationError(f'fallback={fallback!r} must be "memory" or "error"')
    if not isinstance(exclude, list | tuple) or not all(
        isinstance(prefix, str) and prefix[:1] == "/" for prefix in exclude
    ):
        raise ConfigurationError(f"exclude={exclude!r} must be a list of path prefixes, each beginning with /")
    if max_sessions_per_owner is not None:
        if isinstance(max_sessions_per_owner, bool) or not isinstance(max_sessions_per_owner, int):
            raise ConfigurationError(
                f"max_sessions_per_owner={max_sessions_per_owner!r} must be None or a whole number"
            )
        if max_sessions_per_owner < 1:
            raise ConfigurationError(f"max_sessions_per_owner={max_sessions_per_owner} must be at least 1")
        if store is not None and not isinstance(store, OwnerStore):
            raise ConfigurationError(f"max_sessions_per_owner needs a store that lists sessions by owner: {store!r}")
    check_on_event(on_event)
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
    return Lifetimes(max_age, absolute_max_age, touch_after), cookie, imports


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
