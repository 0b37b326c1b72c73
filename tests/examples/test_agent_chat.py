"""The chat: a conversation outlives the process and the device, and is nobody else's."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from agents import set_trace_processors
from agents.tracing import TracingProcessor
from fastapi import FastAPI

from dynamodb_sessions import DynamoDBStore
from dynamodb_sessions.agents import DynamoDBConversation
from examples.agent_chat import app as chat_app
from examples.agent_chat.app import create_app
from examples.agent_chat.scripted import ScriptedModel
from tests.conftest import KEY

pytestmark = pytest.mark.anyio

PROJECT = Path(__file__).parent.parent.parent
Start = Callable[..., FastAPI]


@pytest.fixture(params=["moto", "local"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def start(endpoint_url: str, table_name: str) -> Start:
    """Return a function that starts the app as another process would."""

    def start(pace: float = 0) -> FastAPI:
        store = DynamoDBStore(table_name, endpoint_url=endpoint_url, create_table=True)
        return create_app(
            store,
            ScriptedModel(pace),
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
        assert (await ada.get("/history")).json() == {"user": None, "messages": []}
        assert (await ada.get("/conversations")).status_code == 401


async def listed(client: httpx.AsyncClient) -> dict[str, str]:
    """Return the ids of the user's conversations by title, as they are listed."""
    return {each["title"]: each["id"] for each in (await client.get("/conversations")).raise_for_status().json()}


async def test_it_lists_ones_conversations_and_opens_the_earlier_ones(start: Start) -> None:
    app = start()
    async with browser(app) as ada, browser(app) as bob:
        for client, name in ((ada, "Ada"), (bob, "Bob")):
            await client.post("/login", json={"name": name})
        assert await listed(ada) == {}
        await say(ada, "My cat is Bob.")
        await ada.post("/new")
        await say(ada, "Another matter.")
        conversations = await listed(ada)
        assert conversations.keys() == {"Another matter.", "My cat is Bob."}

        assert (await ada.post("/open", json={"id": conversations["My cat is Bob."]})).status_code == 200
        assert (await history(ada))[0] == "My cat is Bob."
        assert "My cat is Bob." in await say(ada, "What was that?")

        assert await listed(bob) == {}
        for conversation in [*conversations.values(), "", "no such id"]:
            assert (await bob.post("/open", json={"id": conversation})).status_code == 404
        assert await history(bob) == []


async def test_it_lists_the_latest_conversations_only(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_app, "LISTED", 2)
    async with browser(start()) as client:
        await client.post("/login", json={"name": "Ada"})
        for text in ("One.", "Two.", "Three."):
            await say(client, text)
            await client.post("/new")
        assert len(await listed(client)) == 2


async def test_what_tools_said_is_not_shown(start: Start, table_name: str, endpoint_url: str) -> None:
    async with browser(start()) as client:
        await client.post("/login", json={"name": "Ada"})
        await say(client, "What time is it?")
        before = await history(client)
        place: dict[str, Any] = {"table_name": f"{table_name}-c", "endpoint_url": endpoint_url}
        (chat,) = [chat async for chat in DynamoDBConversation.of_owner("chat/Ada", **place)]
        call = {"type": "function_call", "call_id": "1", "name": "clock", "arguments": "{}"}
        answer = {"type": "function_call_output", "call_id": "1", "output": "noon"}
        await DynamoDBConversation(chat.session_id, **place).add_items([call, answer])
        assert await history(client) == before


class Watch(TracingProcessor):
    """Counts what would be sent to OpenAI."""

    def __init__(self) -> None:
        self.seen = 0

    def on_trace_start(self, trace: Any) -> None:  # noqa: ARG002
        self.seen += 1

    def on_trace_end(self, trace: Any) -> None: ...

    def on_span_start(self, span: Any) -> None:  # noqa: ARG002
        self.seen += 1

    def on_span_end(self, span: Any) -> None: ...

    def shutdown(self) -> None: ...

    def force_flush(self) -> None: ...


@pytest.fixture
def watch() -> Iterator[Watch]:
    watching = Watch()
    set_trace_processors([watching])
    yield watching
    set_trace_processors([])


async def test_it_tells_nobody(start: Start, watch: Watch) -> None:
    async with browser(start()) as client:
        await client.post("/login", json={"name": "Ada"})
        await say(client, "A secret.")
    assert watch.seen == 0


async def stream(client: httpx.AsyncClient, app: FastAPI, parts: int | None = None) -> list[str]:
    """Say something, and return the answer's parts as they are sent; hang up after so many. httpx would join them."""
    cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    heard: list[str] = []
    hung_up = anyio.Event()
    received = [{"type": "http.request", "body": b'{"text":"One two three."}'}]

    async def receive() -> Any:
        if received:
            return received.pop()
        await hung_up.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message.get("body"):
            heard.append(message["body"].decode())
        if len(heard) == parts:
            hung_up.set()

    headers = [(b"cookie", cookie.encode()), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/chat", "query_string": b"", "scheme": "https"}
    await app({**scope, "headers": headers, "server": ("testserver", 443), "client": None}, receive, send)
    return heard


async def test_its_answer_is_streamed(start: Start) -> None:
    app = start()
    async with browser(app) as client:
        await client.post("/login", json={"name": "Ada"})
        assert (await stream(client, app))[:4] == ["You", " said:", " One", " two"]


async def test_an_answer_nobody_waited_for_is_in_the_conversation(start: Start) -> None:
    app = start(pace=0.05)
    async with browser(app) as client:
        await client.post("/login", json={"name": "Ada"})
        heard = await stream(client, app, parts=2)
        assert heard == ["You", " said:"]
        kept: list[str] = []
        with anyio.fail_after(20):
            while len(kept) < 2:
                await anyio.sleep(0.05)
                kept = await history(client)
    assert kept == ["One two three.", "You said: One two three. I shall remember it."]


def test_it_starts_with_nothing_but_itself(tmp_path: Path) -> None:
    """No DynamoDB, no key, no account."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-m", "examples.agent_chat", "--port", str(port)]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert f"{url} " in said
        assert "in an emulator" in said
        with httpx.Client(base_url=url, timeout=30) as client:
            deadline = time.monotonic() + 30
            while not answers(client):
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert client.get("/", follow_redirects=True).status_code == 200
            assert client.post("/login", json={"name": "Ada"}).status_code == 200
            assert "Hello." in client.post("/chat", json={"text": "Hello."}).text
            assert len(client.get("/history").json()["messages"]) == 2
    finally:
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=30)
    assert (process.returncode, rest) == (0, "")


@pytest.mark.parametrize("arguments", [["--aws"], []])
def test_what_outlives_it_wants_a_key_that_does(arguments: list[str], tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(PROJECT)}
    environment |= {} if arguments else {"DYNAMODB_ENDPOINT_URL": "http://127.0.0.1:9"}
    command = [sys.executable, "-m", "examples.agent_chat", *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "SESSION_SECRET_KEY" in done.stderr


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/page").status_code == 200
    except httpx.ConnectError:
        return False
