"""Lambda: real Mangum, events as AWS sends them, and an event loop of its own for every invocation."""

import asyncio
import logging
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from mangum import Mangum
from mangum.exceptions import LifespanFailure
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from dynamodb_sessions import DynamoDBSessionMiddleware, DynamoDBStore
from dynamodb_sessions.identifiers import new_id
from dynamodb_sessions.stores import table_schema
from tests.conftest import KEY
from tests.helpers.mangum import (
    INTEGRATIONS,
    Browser,
    Event,
    Integration,
    count_probes,
    http_api,
    invoke,
    new_event_loop,
)
from tests.helpers.proxy import How, Proxy, Step

pytestmark = pytest.mark.slow


async def login(request: Request) -> Response:
    request.session["user"] = (await request.json())["name"]
    response = JSONResponse(dict(request.session))
    response.set_cookie("theme", "dark")
    return response


async def me(request: Request) -> Response:
    return JSONResponse(dict(request.session))


async def visits(request: Request) -> Response:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return JSONResponse(request.session["visits"])


async def late(request: Request) -> Response:
    async def chunks() -> AsyncIterator[str]:
        yield "["
        request.session["late"] = True
        yield "]"

    return StreamingResponse(chunks(), media_type="application/json")


async def logout(request: Request) -> Response:
    request.session.clear()
    return JSONResponse({})


@dataclass
class Function:
    """An app as Lambda has it, and how often it was started."""

    store: DynamoDBStore
    lifespan: Any = "auto"
    options: dict[str, Any] = field(default_factory=dict)
    starts: int = 0

    def __post_init__(self) -> None:
        routes = [
            Route("/login", login, methods=["POST"]),
            Route("/logout", logout, methods=["POST"]),
            *(Route(f"/{endpoint.__name__}", endpoint) for endpoint in (me, visits, late)),
        ]
        app = Starlette(routes=routes, lifespan=self.count)
        app.add_middleware(DynamoDBSessionMiddleware, secret_key=KEY, store=self.store, **self.options)
        with new_event_loop():
            self.handler = Mangum(app, lifespan=self.lifespan)

    @asynccontextmanager
    async def count(self, _: Starlette) -> AsyncIterator[None]:
        self.starts += 1
        yield

    def __call__(self, event: Event, context: Any) -> Event:
        return self.handler(event, context)


@pytest.fixture
def stored(dynamodb: Any, table_name: str) -> Callable[[], int]:
    """How many sessions are in the table just now."""
    table_schema.create(dynamodb, table_name)

    def count() -> int:
        found: int = dynamodb.scan(TableName=table_name, ConsistentRead=True)["Count"]
        return found

    return count


@pytest.fixture
def store(stored: Callable[[], int], moto_url: str, table_name: str) -> DynamoDBStore:
    assert stored() == 0
    return DynamoDBStore(table_name, endpoint_url=moto_url)


@pytest.mark.parametrize("integration", INTEGRATIONS.values(), ids=list(INTEGRATIONS))
def test_login_read_logout(integration: Integration, store: DynamoDBStore, stored: Callable[[], int]) -> None:
    """The session is in the table, and its cookie in the response, when the handler returns."""
    browser = Browser(Function(store), integration)
    assert browser.visit("GET", "/me") == {}
    assert browser.received == []

    assert browser.visit("POST", "/login", '{"name": "alice"}') == {"user": "alice"}
    assert stored() == 1
    assert {cookie.partition("=")[0] for cookie in browser.received} == {"session_id", "theme"}
    session_cookie = next(cookie for cookie in browser.received if cookie.startswith("session_id="))
    assert session_cookie.endswith("; Max-Age=3600; Path=/; HttpOnly; SameSite=lax; Secure")

    assert browser.visit("GET", "/me") == {"user": "alice"}
    assert [browser.visit("GET", "/visits") for _ in range(3)] == [1, 2, 3]
    kept = dict(browser.cookies)

    assert browser.visit("POST", "/logout") == {}
    assert stored() == 0
    assert browser.cookies == {"theme": "dark"}
    browser.cookies = kept
    assert browser.visit("GET", "/me") == {}


def test_a_change_after_the_response_has_started_is_stored_when_the_handler_returns(store: DynamoDBStore) -> None:
    browser = Browser(Function(store))
    browser.visit("GET", "/visits")
    assert browser.visit("GET", "/late") == []
    assert browser.visit("GET", "/me") == {"visits": 1, "late": True}


@pytest.mark.parametrize(
    ("at_import", "lifespan", "count"), [(False, "auto", 100), (True, "auto", 10), (False, "off", 10)]
)
def test_a_hundred_invocations_probe_once(store: DynamoDBStore, at_import: bool, lifespan: str, count: int) -> None:
    """Once for the process: at import if the app asks for it, else at the first use; never by lifespan or loop."""
    probes = count_probes(store)
    if at_import:
        assert store.probe()
    function = Function(store, lifespan)
    browser = Browser(function)
    assert list(range(1, count + 1)) == [browser.visit("GET", "/visits") for _ in range(count)]
    assert (count if lifespan == "auto" else 0) == function.starts
    assert len(probes) == 1


@pytest.fixture
def proxy(moto_url: str) -> Iterator[Proxy]:
    made = Proxy(moto_url)
    yield made
    made.close()


@pytest.mark.parametrize("how", [None, How.DROPPED, How.RESET], ids=["between", "dropped", "reset"])
def test_a_hundred_invocations_survive_their_dead_connections(
    how: How | None, stored: Callable[[], int], proxy: Proxy, dynamodb: Any, table_name: str
) -> None:
    """A function sleeps between its invocations, and its connections die: while it sleeps, or as it wakes."""
    assert stored() == 0
    store = DynamoDBStore(table_name, endpoint_url=proxy.url)
    probes = count_probes(store)
    browser = Browser(Function(store))
    for number in range(1, 101):
        assert browser.visit("GET", "/visits") == number
        (item,) = dynamodb.scan(TableName=table_name, ConsistentRead=True)["Items"]
        assert item["user_data"]["M"]["visits"]["S"] == str(number)
        if how is None:
            assert proxy.close_connections() >= 1
        else:
            proxy.play("*", [Step(how, applied=False)])
    assert len(probes) == 1


def test_invocations_leave_no_threads_behind(store: DynamoDBStore) -> None:
    """Each event loop has its own worker threads; they end with it."""
    browser = Browser(Function(store))
    browser.visit("GET", "/visits")
    before = threading.active_count()
    for _ in range(20):
        browser.visit("GET", "/visits")
    # The last ones may just be ending.
    assert threading.active_count() < before + 5


def test_two_event_loops_at_once_share_a_store() -> None:
    """With more calls than there are worker threads, so that calls wait for each other in both."""
    calls = 200
    loads = 0

    class Client:
        def get_item(self, **_: Any) -> dict[str, Any]:
            nonlocal loads
            time.sleep(0.005)
            with lock:
                loads += 1
            return {}

    lock = threading.Lock()
    store = DynamoDBStore("sessions", client=Client())

    async def load() -> None:
        await asyncio.wait_for(asyncio.gather(*(store.load(new_id(), now=1) for _ in range(calls))), timeout=5)

    threads = [threading.Thread(target=asyncio.run, args=(load(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loads == 2 * calls


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address where connections are refused."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize("missing", ["table", "dynamodb"])
def test_without_dynamodb_it_still_serves(
    missing: str, moto_url: str, nobody: str, caplog: pytest.LogCaptureFixture
) -> None:
    """From the memory of this process, and it says so once, as an error with its cause."""
    # A busy machine has moto answer late, and that would be the cause then.
    store = DynamoDBStore("no-such-table", endpoint_url=moto_url if missing == "table" else nobody, timeout=60)
    with caplog.at_level(logging.ERROR, "dynamodb_sessions"):
        browser = Browser(Function(store))
        browser.visit("POST", "/login", '{"name": "alice"}')
        assert browser.visit("GET", "/me") == {"user": "alice"}
        browser.visit("POST", "/logout")
        assert browser.visit("GET", "/me") == {}
    (error,) = [record for record in caplog.records if record.name == "dynamodb_sessions"]
    assert error.levelno == logging.ERROR
    cause = "ResourceNotFoundException: create the table" if missing == "table" else "DynamoDB cannot be reached"
    assert cause in error.getMessage()
    assert store.mode == "memory"


def test_a_function_whose_store_must_work_fails_by_name(moto_url: str) -> None:
    store = DynamoDBStore("no-such-table", endpoint_url=moto_url)
    function = Function(store, options={"fallback": "error"})
    for _ in range(2):
        with pytest.raises(LifespanFailure, match="ConfigurationError: DynamoDB said ResourceNotFoundException"):
            invoke(function, http_api("GET", "/me", [], ""))
