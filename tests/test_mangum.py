"""Lambda: real Mangum, events as AWS sends them, and an event loop of its own for every invocation."""

import asyncio
import json
import logging
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from types import SimpleNamespace
from typing import Any

import pytest
from mangum import Mangum
from mangum.exceptions import LifespanFailure
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from dynamodb_sessions import DynamoDBSessionMiddleware, DynamoDBStore, table
from dynamodb_sessions.dynamodb import PROBE_ID
from dynamodb_sessions.session import new_id
from tests.conftest import KEY
from tests.proxy import How, Proxy, Step

Event = dict[str, Any]

CONTEXT = SimpleNamespace(
    function_name="sessions", aws_request_id="8f507cfc-xmpl-4697-b07a-ac58fc914c95", memory_limit_in_mb=128
)
HEADERS = {"Host": "sessions.example.com", "X-Forwarded-Proto": "https", "X-Forwarded-Port": "443"}


def rest_api(method: str, path: str, cookies: list[str], body: str) -> Event:
    """API Gateway's REST API: every header twice, once as a list."""
    headers = HEADERS | ({"Cookie": "; ".join(cookies)} if cookies else {})
    return {
        "resource": "/{proxy+}",
        "path": path,
        "httpMethod": method,
        "headers": headers,
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "queryStringParameters": None,
        "multiValueQueryStringParameters": None,
        "pathParameters": {"proxy": path[1:]},
        "stageVariables": None,
        "requestContext": {
            "resourcePath": "/{proxy+}",
            "httpMethod": method,
            "path": f"/prod{path}",
            "protocol": "HTTP/1.1",
            "stage": "prod",
            "identity": {"sourceIp": "192.0.2.1", "userAgent": "curl/8"},
        },
        "body": body or None,
        "isBase64Encoded": False,
    }


def http_api_1(method: str, path: str, cookies: list[str], body: str) -> Event:
    """API Gateway's HTTP API with the payload format of the REST API."""
    return rest_api(method, path, cookies, body) | {"version": "1.0"}


def http_api(method: str, path: str, cookies: list[str], body: str) -> Event:
    """API Gateway's HTTP API: the cookies are no header but a list, there and back."""
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        **({"cookies": cookies} if cookies else {}),
        "headers": {name.lower(): value for name, value in HEADERS.items()},
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "api-id",
            "domainName": "sessions.example.com",
            "http": {
                "method": method,
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "192.0.2.1",
                "userAgent": "curl/8",
            },
            "routeKey": "$default",
            "stage": "$default",
        },
        **({"body": body} if body else {}),
        "isBase64Encoded": False,
    }


def function_url(method: str, path: str, cookies: list[str], body: str) -> Event:
    """A function URL: the HTTP API's event, from another domain."""
    event = http_api(method, path, cookies, body)
    event["headers"]["host"] = "urlid.lambda-url.us-east-1.on.aws"
    event["requestContext"] |= {"apiId": "urlid", "domainName": "urlid.lambda-url.us-east-1.on.aws"}
    return event


def balancer(method: str, path: str, cookies: list[str], body: str) -> Event:
    """An Application Load Balancer: each header once."""
    headers = HEADERS | ({"Cookie": "; ".join(cookies)} if cookies else {})
    return {
        "requestContext": {
            "elb": {"targetGroupArn": "arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup/t"}
        },
        "httpMethod": method,
        "path": path,
        "queryStringParameters": {},
        "headers": {name.lower(): value for name, value in headers.items()},
        "body": body,
        "isBase64Encoded": False,
    }


def balancer_multi(method: str, path: str, cookies: list[str], body: str) -> Event:
    """An Application Load Balancer with multi-value headers: every Cookie header of the client by itself."""
    event = balancer(method, path, [], body)
    headers = {name: [value] for name, value in event.pop("headers").items()}
    del event["queryStringParameters"]
    return event | {
        "multiValueQueryStringParameters": {},
        "multiValueHeaders": headers | ({"cookie": cookies} if cookies else {}),
    }


def from_either(response: Event) -> list[str]:
    """API Gateway joins `headers` and `multiValueHeaders`; a name is in one of them."""
    one = response["headers"].get("set-cookie")
    several: list[str] = response["multiValueHeaders"].get("set-cookie", [])
    assert one is None or not several
    return several or ([] if one is None else [one])


def from_cookies(response: Event) -> list[str]:
    assert not any(name.lower() == "set-cookie" for name in response["headers"])
    cookies: list[str] = response.get("cookies", [])
    return cookies


def from_headers(response: Event) -> list[str]:
    """A header that a balancer is to send twice has two names, which differ in their case."""
    assert "multiValueHeaders" not in response
    return [value for name, value in response["headers"].items() if name.lower() == "set-cookie"]


def from_lists(response: Event) -> list[str]:
    assert "headers" not in response
    cookies: list[str] = response["multiValueHeaders"].get("set-cookie", [])
    return cookies


@dataclass(frozen=True)
class Integration:
    """How a kind of event carries a request, and where it wants the response's cookies."""

    event: Callable[[str, str, list[str], str], Event]
    set_cookies: Callable[[Event], list[str]]


HTTP_API = Integration(http_api, from_cookies)
INTEGRATIONS = {
    "rest-api": Integration(rest_api, from_either),
    "http-api-1.0": Integration(http_api_1, from_either),
    "http-api-2.0": HTTP_API,
    "function-url": Integration(function_url, from_cookies),
    "alb": Integration(balancer, from_headers),
    "alb-multi-value": Integration(balancer_multi, from_lists),
}


@dataclass
class Browser:
    """Keeps the cookies it is given, and sends its requests by way of an integration."""

    handler: Callable[[Event, Any], Event]
    integration: Integration = HTTP_API
    cookies: dict[str, str] = field(default_factory=dict)
    received: list[str] = field(default_factory=list)

    def visit(self, method: str, path: str, body: str = "") -> Any:
        cookies = [f"{name}={value}" for name, value in self.cookies.items()]
        response = invoke(self.handler, self.integration.event(method, path, cookies, body))
        self.received = self.integration.set_cookies(response)
        for header in self.received:
            for name, morsel in SimpleCookie(header).items():
                self.cookies[name] = morsel.value
                if morsel["max-age"] == "0":
                    del self.cookies[name]
        assert response["statusCode"] == 200, response
        return json.loads(response["body"])


@contextmanager
def new_event_loop() -> Iterator[None]:
    """Set an event loop that nothing has seen before, nor will again: Mangum takes the one that is set."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        yield
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def invoke(handler: Callable[[Event, Any], Event], event: Event) -> Event:
    """Call a function's handler as Lambda does, but for the event loop: each invocation has its own."""
    with new_event_loop():
        return handler(event, CONTEXT)


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


def count_probes(store: DynamoDBStore) -> list[str]:
    """Return a list that every probe the store makes from now on adds to."""
    probes: list[str] = []

    def count(params: dict[str, Any], **_: Any) -> None:
        if params["Key"]["session_id"]["S"] == PROBE_ID:
            probes.append(params["TableName"])

    store.client.meta.events.register("provide-client-params.dynamodb.GetItem", count)
    return probes


@pytest.fixture
def stored(dynamodb: Any, table_name: str) -> Callable[[], int]:
    """How many sessions are in the table just now."""
    table.create(dynamodb, table_name)

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
    store = DynamoDBStore("no-such-table", endpoint_url=moto_url if missing == "table" else nobody)
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
