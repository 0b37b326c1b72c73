"""Apps of one handler, the browser that visits them, and a store that counts the calls it gets."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dynamodb_sessions import (
    DynamoDBSessionMiddleware,
    Session,
    StoreUnavailable,
    session_of,
)
from dynamodb_sessions.stores.contract import SessionStore
from tests.conftest import KEY

Act = Callable[[Request], Any]


class Counting:
    """A store that counts the calls of the one it passes them on to, and can fail them."""

    def __init__(self, store: SessionStore, *, keeps_versions: bool = False) -> None:
        self.store = store
        self.keeps_versions = keeps_versions
        self.calls: list[str] = []
        self.failing: set[str] = set()
        self.during: Callable[[], None] | None = None
        """What happens during the next call."""
        for name in ("load", "create", "update", "exchange", "rotate", "delete"):
            setattr(self, name, self._counted(name))

    def _counted(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            if name in self.failing:
                raise StoreUnavailable("the store is out")
            if self.during is not None:
                during, self.during = self.during, None
                during()
            return await getattr(self.store, name)(*args, **kwargs)

        return call


def an_app(store: Any, act: Act, **options: Any) -> Starlette:
    """An app of one endpoint that does `act` and answers with the session, or with the response that it made."""

    async def endpoint(request: Request) -> Response:
        made = act(request)
        if hasattr(made, "__await__"):
            made = await made
        return made if isinstance(made, Response) else JSONResponse(dict(request.session))

    middleware = Middleware(DynamoDBSessionMiddleware, **{"secret_key": KEY, "store": store, **options})
    return Starlette(routes=[Route("/{path:path}", endpoint)], middleware=[middleware])


@asynccontextmanager
async def browser(app: Any, *, scheme: str = "https", **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=app, **options)
    async with httpx.AsyncClient(transport=transport, base_url=f"{scheme}://testserver") as client:
        yield client


held = session_of


def by_path(**acts: Act) -> Act:
    return lambda request: acts[request.path_params["path"]](request)


def put(**values: Any) -> Act:
    return lambda request: request.session.update(values)


def look(request: Request) -> None:
    request.session.get("anything")


def clear(request: Request) -> None:
    request.session.clear()


def clear_and_fill_session(session: Session) -> None:
    session.clear()
    session["new"] = 1


def clear_and_fill(request: Request) -> None:
    clear_and_fill_session(held(request))
