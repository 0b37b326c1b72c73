"""An app whose handler does to its session what a test says at that moment, and browsers of it."""

import inspect
from collections.abc import Callable
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dynamodb_sessions import DynamoDBSessionMiddleware, Session, session_of
from tests.conftest import KEY

Act = Callable[[Session], Any]


class Browser(httpx.AsyncClient):
    """A cookie jar of its own, and what its next request does."""

    def __init__(self, store: Any, **options: Any) -> None:
        self._acts: dict[str, Act] = {}
        """By the path of the request that does it."""
        app = Starlette(routes=[Route("/{path:path}", self._answer)])
        app.add_middleware(DynamoDBSessionMiddleware, secret_key=KEY, store=store, **options)
        super().__init__(transport=httpx.ASGITransport(app), base_url="http://site")

    async def _answer(self, request: Request) -> Response:
        result = self._acts[request.url.path](session_of(request))
        return JSONResponse(await result if inspect.isawaitable(result) else result)

    async def do(self, act: Act, path: str = "/") -> Any:
        """Return what `act` returns of the session of a request, as JSON has it; whatever it raises comes through."""
        self._acts[path] = act
        response = await self.get(path)
        assert response.status_code == 200, response.text
        return response.json()
