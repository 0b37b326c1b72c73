"""An app that does to its session what a path says, its visitors, and somebody else who comes between."""

import asyncio
import functools
import math
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dynamodb_sessions import DynamoDBSessionMiddleware, Session
from tests.conftest import KEY, Clock
from tests.helpers.apps import held

T = TypeVar("T")
Item = dict[str, Any]


class Site:
    """An app over one store. Each visitor has a cookie jar."""

    def __init__(self, store: Any, **options: Any) -> None:
        self.during: Callable[[], object] | None = None
        """What happens within the next handler, once the session is loaded, and before it is used."""
        app = Starlette(routes=[Route("/{path:path}", self._answer)])
        app.add_middleware(DynamoDBSessionMiddleware, **{"secret_key": KEY, "store": store, **options})
        self._transport = httpx.ASGITransport(app, raise_app_exceptions=False)

    def visitor(self, cookies: Any = None) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=self._transport, base_url="http://site", cookies=cookies)

    async def _answer(self, request: Request) -> Response:
        if self.during is not None:
            during, self.during = self.during, None
            await asyncio.to_thread(during)
        session = held(request)
        await act(session, request.path_params["path"])
        return JSONResponse(dict(session), headers={"X-App": "its own"})


class Client:
    """A client that comes to one instance or another, as the clock of the tests goes.

    A browser, which keeps its cookie for as long as it was told to; or, with a header, what keeps the token in it.
    """

    def __init__(self, clock: Clock, header: str | None = None) -> None:
        self.clock = clock
        self.header = header
        self.token = ""
        """What the cookie, or the header, holds."""
        self.told: list[int] = []
        """When it was told something."""
        self._forgets_at: float = math.inf

    async def get(self, site: Site, path: str) -> httpx.Response:
        if self.clock.now >= self._forgets_at:
            self.token = ""
        sent = {"Cookie": f"session_id={self.token}"} if self.header is None else {self.header: self.token}
        async with site.visitor() as visitor:
            response = await visitor.get(path, headers=sent if self.token or self.header else {})
        told = response.headers.get("Set-Cookie" if self.header is None else self.header)
        if told is not None:
            self.told.append(self.clock.now)
            pair, *attributes = told.split("; ")
            self.token = pair.removeprefix("session_id=")
            ages = [int(each.removeprefix("Max-Age=")) for each in attributes if each.startswith("Max-Age=")]
            self._forgets_at = self.clock.now + ages[0] if ages else math.inf
        return response

    @property
    def version(self) -> int:
        """The version that the cookie keeps; 0: none."""
        return int(self.token.split(".")[1]) % 1_000_000


async def act(session: Session, path: str) -> None:  # noqa: C901 - a table
    """Do to a session what a path says: several things, with a slash between them."""
    for word in path.split("/"):
        match word.split("="):
            case ["pop", key]:
                session.pop(key, None)
            case ["login", owner]:
                session.bind(owner)
            case ["max_age", seconds]:
                session.set_max_age(int(seconds) or None)
            case ["many", value]:
                session.update({f"key{number}": value for number in range(150)})
            case ["add", key]:
                await session.atomically(functools.partial(add, key))
            case ["regenerate"]:
                session.regenerate()
            case ["clear"]:
                session.clear()
            case ["save"]:
                await session.save()
            case [key, value]:
                session[key] = int(value)
            case _:
                session.get("anything")


def add(key: str, content: dict[str, Any]) -> None:
    content[key] = content.get(key, 0) + 1


def told(response: httpx.Response) -> str:
    """Return what the browser is told of its cookie: "none", "set" or "expired"."""
    cookies = response.headers.get_list("Set-Cookie")
    assert len(cookies) <= 1
    if not cookies:
        return "none"
    return "expired" if "Max-Age=0" in cookies[0] else "set"


def cookie_number(response: httpx.Response) -> int:
    """Return the number next to the id in a response's cookie."""
    return int(response.headers["Set-Cookie"].split(";")[0].split(".")[1])


def cookie_version(response: httpx.Response) -> int:
    """Return which version of the session a response's cookie keeps; 0: none."""
    return cookie_number(response) % 1_000_000


def kept_until(visitor: httpx.AsyncClient) -> int:
    """Return when a visitor's cookie is to be forgotten, as it says itself, in epoch seconds."""
    seconds = int(visitor.cookies["session_id"].split(".")[1]) // 1_000_000
    return int(datetime(2024, 1, 1, tzinfo=UTC).timestamp()) + seconds


def cookie_max_age(response: httpx.Response) -> int:
    """Return for how many seconds the browser is to keep the cookie of a response."""
    attributes = dict(each.strip().partition("=")[::2] for each in response.headers["Set-Cookie"].split(";"))
    return int(attributes["Max-Age"])


def meanwhile(work: Callable[[], Awaitable[T]], results: list[T] | None = None) -> Callable[[], None]:
    """Return what does an asynchronous work in a thread that has no event loop, and notes its result."""

    async def done() -> T:
        return await work()

    def run() -> None:
        result = asyncio.run(done())
        if results is not None:
            results.append(result)

    return run


def scan(client: Any, table_name: str) -> dict[str, Item]:
    """Return all that is in a table, by id."""
    pages = client.get_paginator("scan").paginate(TableName=table_name, ConsistentRead=True)
    return {item["session_id"]["S"]: item for page in pages for item in page["Items"]}


def sessions(client: Any, table_name: str) -> dict[str, Item]:
    """Return the sessions in a table, by id: neither where one has moved, nor where none may ever be created."""
    return {name: item for name, item in scan(client, table_name).items() if "user_data" in item}


def content(item: Item) -> dict[str, str]:
    """Return the encoded entries of a session."""
    return {key: value["S"] for key, value in item["user_data"]["M"].items()}
