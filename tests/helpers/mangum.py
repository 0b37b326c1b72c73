"""The events that invoke a function behind Mangum, and a browser that sends them."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from types import SimpleNamespace
from typing import Any

from dynamodb_sessions import DynamoDBStore
from dynamodb_sessions.stores.reserved_ids import PROBE_ID

CONTEXT = SimpleNamespace(
    function_name="sessions", aws_request_id="8f507cfc-xmpl-4697-b07a-ac58fc914c95", memory_limit_in_mb=128
)

HEADERS = {"Host": "sessions.example.com", "X-Forwarded-Proto": "https", "X-Forwarded-Port": "443"}


Event = dict[str, Any]


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


def count_probes(store: DynamoDBStore) -> list[str]:
    """Return a list that every probe the store makes from now on adds to."""
    probes: list[str] = []

    def count(params: dict[str, Any], **_: Any) -> None:
        if params["Key"]["session_id"]["S"] == PROBE_ID:
            probes.append(params["TableName"])

    store.client.meta.events.register("provide-client-params.dynamodb.GetItem", count)
    return probes
