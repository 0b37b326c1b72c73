"""Hostile input: whatever a client or a table may throw at it. `SESSIONS_TESTS=nightly` runs the full numbers."""

import hashlib
import logging
import random
import re
from collections.abc import Callable
from typing import Any

import boto3
import httpx
import pytest
from itsdangerous import Signer
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from dynamodb_sessions import DynamoDBSessionMiddleware, DynamoDBStore, MemoryStore
from dynamodb_sessions.identifiers import new_id
from dynamodb_sessions.stores import table_schema
from dynamodb_sessions.stores.contract import Record
from tests.conftest import KEY, NIGHTLY, Clock

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

NOW = 1_800_000_000
SEED = 20_180_000


class CountingStore(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    async def load(self, session_id: str, **options: Any) -> Record | None:
        self.calls += 1
        return await super().load(session_id, **options)


def an_app(store: Any) -> Starlette:
    def look(request: Request) -> JSONResponse:
        return JSONResponse(dict(request.session))

    def login(request: Request) -> JSONResponse:
        request.session["user"] = "alice"
        return JSONResponse(dict(request.session))

    def logout(request: Request) -> JSONResponse:
        request.session.clear()
        return JSONResponse({})

    routes = [Route("/", look), Route("/login", login), Route("/logout", logout)]
    return Starlette(routes=routes, middleware=[Middleware(DynamoDBSessionMiddleware, secret_key=KEY, store=store)])


def browser(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="https://testserver")


async def ask(app: Any, cookie: bytes) -> int:
    """Send one request with these very bytes as its Cookie header; return the status."""
    statuses: list[int] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])
            assert b"set-cookie" not in dict(message["headers"])
        else:
            assert message["body"] == b"{}"

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "method": "GET",
        "scheme": "https",
        "path": "/",
        "query_string": b"",
        "headers": [(b"cookie", cookie)],
    }
    await app(scope, receive, send)
    return statuses[0]


async def signed_in(app: Any) -> bytes:
    """Return the value of the cookie of somebody who is signed in."""
    async with browser(app) as client:
        response = await client.get("/login")
    return response.headers["set-cookie"].partition(";")[0].partition("=")[2].encode()


def mutations(value: bytes, chance: random.Random) -> list[Callable[[], bytes]]:
    session_id, version, _ = value.split(b".")
    payload = session_id + b"." + version

    def flip() -> bytes:
        changed = bytearray(value)
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        return bytes(changed)

    def signed(key: str, **options: Any) -> bytes:
        return Signer(key, **options).sign(payload)

    def anything(length: int) -> bytes:
        return chance.randbytes(length)

    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=+/."
    return [
        flip,
        lambda: value[: chance.randrange(len(value))],
        lambda: value + bytes([chance.choice(alphabet)]),
        lambda: value[:-1] + bytes([chance.choice(alphabet.replace(value[-1:], b""))]),
        lambda: signed(KEY, salt=anything(8)),
        lambda: signed(KEY),
        lambda: signed(anything(32).hex(), salt=b"dynamodb_sessions.cookie", key_derivation="hmac"),
        lambda: value[:50] + b"\0" + value[50:],
        lambda: b'"' + value + b'"',
        lambda: value.replace(b".", b"%2E"),
        lambda: b"x" * 8192,
        lambda: anything(chance.randrange(200)).replace(b";", b""),
        lambda: "é".encode() + value,
        lambda: session_id + b"." + str(chance.randrange(2, 10**20)).encode() + value[45 + len(version) - 1 :],
        lambda: new_id().encode() + value[43:],
        lambda: session_id.swapcase() + value[43:],
        lambda: value + b", session_id=" + value,
    ]


def unwrapped(value: bytes) -> bytes:
    """Return a cookie's value without the blanks and the quotes around it, which are none of it: RFC 6265, 4.1.1."""
    value = value.strip(b" \t")
    return value[1:-1] if len(value) > 1 and value[:1] == value[-1:] == b'"' else value


async def test_no_mutated_cookie_is_accepted_and_none_costs_a_call() -> None:
    chance = random.Random(SEED)
    store = CountingStore()
    app = an_app(store)
    value = await signed_in(app)
    ways = mutations(value, chance)
    for number in range(100_000 if NIGHTLY else 5_000):
        mutated = ways[number % len(ways)]()
        if unwrapped(mutated) == value:
            continue
        for name in (b"session_id=", b" session_id=", b"other=1;session_id="):
            assert await ask(app, name + mutated) == 200, mutated
        assert store.calls == 0, mutated


async def test_a_cookie_replayed_after_the_logout_logs_nobody_in() -> None:
    app = an_app(MemoryStore())
    value = await signed_in(app)
    async with browser(app) as client:
        await client.get("/logout", headers={"cookie": f"session_id={value.decode()}"})
    for _ in range(1_000 if NIGHTLY else 100):
        assert await ask(app, b"session_id=" + value) == 200


async def test_what_is_saved_under_a_dead_id_gets_a_fresh_one(clock: Clock) -> None:
    store = MemoryStore()
    app = an_app(store)
    expired = await signed_in(app)
    clock.now += 3600
    deleted = await signed_in(app)
    await store.delete(deleted.partition(b".")[0].decode())
    never = Signer(KEY, salt=b"dynamodb_sessions.cookie", key_derivation="hmac", digest_method=hashlib.sha256)
    unknown = never.sign(f"{new_id()}.1")
    for value in (expired, deleted, unknown):
        async with browser(app) as client:
            response = await client.get("/login", headers={"cookie": f"session_id={value.decode()}"})
        issued = response.headers["set-cookie"].partition("=")[2].partition(".")[0]
        assert len(issued) == 43
        assert issued != value.partition(b".")[0].decode()


def corruptions(chance: random.Random) -> list[Callable[[dict[str, Any]], None]]:
    def wrong_type(item: dict[str, Any]) -> None:
        # The index refuses another type for created_at.
        name = chance.choice(["user_data", "ttl", "version"])
        item[name] = chance.choice(
            [
                {"S": "x"},
                {"B": b"x"},
                {"BOOL": True},
                {"NULL": True},
                {"L": []},
                {"SS": ["a"]},
                {"M": {"a": {"N": "1"}}},
            ]
        )
        if "M" in item[name] and name == "user_data":
            item[name] = {"M": {"a": {"L": [{"S": "1"}]}}}

    def missing(item: dict[str, Any]) -> None:
        del item[chance.choice(["user_data", "created_at", "ttl"])]

    def no_json(item: dict[str, Any]) -> None:
        item["user_data"]["M"]["user"] = {"S": chance.choice(['{"a":', "nul", "'x'", "", "NaN", "1e", "[1,]", '"\n"'])}

    def deep(item: dict[str, Any]) -> None:
        item["user_data"]["M"]["user"] = {"S": "[" * 10_000 + "]" * 10_000}

    def older_and_broken(item: dict[str, Any]) -> None:
        item["user_data"] = {"S": chance.choice(["", "[", "[1]", '"x"', "null", '{"":1}', "{" * 10_000])}

    def compressed(item: dict[str, Any]) -> None:
        item["user_data"] = {"B": chance.randbytes(50)}

    return [wrong_type, missing, no_json, deep, older_and_broken, compressed]


async def test_a_corrupted_item_is_an_empty_session_one_warning_and_untouched(
    moto_url: str, table_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(SEED)
    client = boto3.client("dynamodb", endpoint_url=moto_url, region_name="us-east-1")
    table_schema.create(client, table_name)
    app = an_app(DynamoDBStore(table_name, endpoint_url=moto_url))
    value = (await signed_in(app)).decode()
    key = {"session_id": {"S": value.partition(".")[0]}}
    whole = client.get_item(TableName=table_name, Key=key)["Item"]
    ways = corruptions(chance)
    async with browser(app) as visitor:
        for number in range(10_000 if NIGHTLY else 120):
            item = {**whole, "user_data": {"M": dict(whole["user_data"]["M"])}}
            ways[number % len(ways)](item)
            client.put_item(TableName=table_name, Item=item)
            caplog.clear()
            response = await visitor.get("/", headers={"cookie": f"session_id={value}"})
            assert (response.status_code, response.json()) == (200, {})
            assert "set-cookie" not in response.headers
            assert caplog.text.count("WARNING") == 1
            assert client.get_item(TableName=table_name, Key=key)["Item"] == item


@pytest.mark.parametrize(("transport", "sdk"), [(None, "botocore.endpoint"), ("async", "dynamodb_sessions")])
async def test_no_line_of_any_log_at_debug_tells_a_secret(
    transport: str | None, sdk: str, moto_url: str, table_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The SDK's lines included: at DEBUG it would quote every request."""
    store = DynamoDBStore(table_name, endpoint_url=moto_url, create_table=True, client=transport)
    app = an_app(store)
    caplog.set_level(logging.DEBUG)
    values = [await signed_in(app) for _ in range(3)]
    async with browser(app) as client:
        for value in values:
            cookie = {"cookie": f"session_id={value.decode()}"}
            await client.get("/", headers=cookie)
            await client.get("/login", headers=cookie)
            await client.get("/logout", headers=cookie)
            await client.get("/", headers={"cookie": f"session_id={value.decode()[:-1]}\r\n\x1b[31m"})
    names = ("dynamodb_sessions", "botocore", "urllib3", "aiodynamo", "aiohttp", "asyncio")
    ours = [record for record in caplog.records if record.name.startswith(names)]
    assert any(record.name == sdk for record in ours)
    text = "\n".join(f"{record.getMessage()} {record.exc_text or ''}" for record in ours)
    for value in values:
        session_id, _, signature = value.decode().split(".")
        assert session_id not in text
        assert signature not in text
    assert KEY not in text
    assert not re.search(r"[\r\x1b]", text)


async def test_the_sdks_lines_about_other_calls_stay_as_they_are(
    moto_url: str, table_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = DynamoDBStore(table_name, endpoint_url=moto_url, create_table=True)
    assert await store.load(new_id(), now=NOW) is None
    caplog.set_level(logging.DEBUG, "botocore")
    store.client.get_item(TableName=table_name, Key={"session_id": {"S": "somebody-else"}})
    assert "somebody-else" in caplog.text
