"""The chat: a conversation outlives the process and the device, and is nobody else's."""

from collections.abc import Callable
from typing import Any

import anyio
import httpx
import pytest
from fastapi import FastAPI

from dynamodb_sessions import DynamoDBStore
from examples.agent_chat.app import create_app
from examples.agent_chat.scripted import ScriptedModel
from tests.conftest import KEY

pytestmark = pytest.mark.anyio

Start = Callable[[], FastAPI]


@pytest.fixture(params=["moto", "local"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def start(endpoint_url: str, table_name: str) -> Start:
    """Return a function that starts the app as another process would."""

    def start() -> FastAPI:
        store = DynamoDBStore(table_name, endpoint_url=endpoint_url, create_table=True)
        return create_app(
            store,
            ScriptedModel(),
            secret_key=KEY,
            table_name=f"{table_name}-c",
            endpoint_url=endpoint_url,
            create_table=True,
        )

    return start


def browser(app: FastAPI, cookies: Any = None) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://testserver", cookies=cookies)


async def say(client: httpx.AsyncClient, text: str) -> str:
    return (await client.post("/chat", json={"text": text})).raise_for_status().text


async def history(client: httpx.AsyncClient) -> list[str]:
    return [message["text"] for message in (await client.get("/history")).raise_for_status().json()["messages"]]


async def test_it_survives_a_restart_and_a_second_device(start: Start) -> None:
    async with browser(start()) as client:
        assert (await client.get("/page")).status_code == 200
        assert (await client.post("/chat", json={"text": "Hello"})).status_code == 401
        await client.post("/login", json={"name": "Ada"})
        first = await say(client, "My cat is Bob.")
        assert first.startswith("You said: My cat is Bob.")
        cookies = client.cookies
    async with browser(start(), cookies) as client:  # Another process.
        assert "My cat is Bob." in await say(client, "What was that?")
        before = await history(client)
        assert before[:2] == ["My cat is Bob.", first]
    async with browser(start()) as device:
        await device.post("/login", json={"name": "Ada"})
        assert await history(device) == before
        assert "My cat is Bob." in await say(device, "And here?")
        await device.post("/new")
        assert await history(device) == []
    async with browser(start(), cookies) as client:
        assert len(await history(client)) == len(before) + 2


async def test_it_is_nobody_elses(start: Start) -> None:
    app = start()
    async with browser(app) as ada, browser(app) as bob:
        for client, name in ((ada, "Ada"), (bob, "Bob")):
            await client.post("/login", json={"name": name})
        await say(ada, "A secret.")
        assert await history(bob) == []
        await ada.post("/logout")
        assert (await ada.get("/history")).status_code == 401


async def test_its_answer_is_streamed(start: Start) -> None:
    """httpx's transport would put it together again."""
    app = start()
    async with browser(app) as client:
        await client.post("/login", json={"name": "Ada"})
        cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    sent: list[Any] = []
    received = [{"type": "http.request", "body": b'{"text":"One two three."}'}]

    async def receive() -> Any:
        if not received:
            await anyio.sleep_forever()
        return received.pop()

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"cookie", cookie.encode()), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/chat", "query_string": b"", "scheme": "https"}
    await app({**scope, "headers": headers, "server": ("testserver", 443), "client": None}, receive, send)
    parts = [message["body"].decode() for message in sent if message.get("body")]
    assert parts[:4] == ["You", " said:", " One", " two"]
