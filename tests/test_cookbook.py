"""What the recipes of docs/cookbook.md do, and what the guide says of long connections, in the hands of a browser."""

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from dynamodb_sessions import DynamoDBSessionMiddleware
from dynamodb_sessions.testing import session_transaction
from tests.conftest import KEY
from tests.helpers.pages import app_of

LOGIN = {"name": "alice", "password": "correct horse"}


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSION_SECRET_KEY", KEY)


def browser(heading: str, **options: Any) -> TestClient:
    return TestClient(app_of("cookbook.md", heading), **options)


class TestAPasswordLoginInFastAPI:
    @pytest.fixture
    def client(self) -> TestClient:
        return browser("A password login in FastAPI")

    def test_a_stranger_is_sent_to_the_login(self, client: TestClient) -> None:
        assert client.get("/", follow_redirects=False).headers["location"] == "/login"
        assert "<form" in client.get("/").text

    @pytest.mark.parametrize("wrong", [{"name": "bob"}, {"password": "wrong"}])
    def test_a_wrong_name_or_password_logs_nobody_in(self, client: TestClient, wrong: dict[str, str]) -> None:
        assert client.post("/login", data=LOGIN | wrong).status_code == 401
        assert "<form" in client.get("/").text

    def test_the_user_is_known_until_the_logout(self, client: TestClient) -> None:
        assert client.post("/login", data=LOGIN).json() == "Hello, alice."
        out = client.post("/logout", follow_redirects=False)
        assert out.headers["clear-site-data"] == '"cache", "storage"'
        assert "<form" in client.get("/").text

    def test_an_id_of_before_the_login_is_worth_nothing_after_it(self, client: TestClient) -> None:
        with session_transaction(client) as session:
            session["cart"] = ["apple"]
        planted = dict(client.cookies)
        client.post("/login", data=LOGIN)
        assert dict(client.cookies) != planted
        assert "<form" in TestClient(client.app, cookies=planted).get("/").text


class TestAuthenticationMiddleware:
    @pytest.fixture
    def client(self) -> TestClient:
        return browser("A password login with AuthenticationMiddleware")

    def test_a_page_of_a_user_knows_them(self, client: TestClient) -> None:
        assert client.post("/login", data=LOGIN | {"password": "wrong"}).status_code == 401
        assert client.post("/login", data=LOGIN).text == "Hello, alice."
        assert client.get("/admin").status_code == 403  # They have the scope "editor", and not this one.

    def test_a_stranger_and_who_has_logged_out_are_sent_to_the_login(self, client: TestClient) -> None:
        assert client.get("/", follow_redirects=False).status_code == 303
        client.post("/login", data=LOGIN)
        client.post("/logout", follow_redirects=False)
        assert client.get("/", follow_redirects=False).status_code == 303


def test_a_flash_message_is_shown_once() -> None:
    client = browser("Flash messages")
    assert client.post("/orders", follow_redirects=False).status_code == 303
    client.post("/orders", follow_redirects=False)
    assert client.get("/").json() == ["Thank you for your order."] * 2
    assert client.get("/").json() == []


def test_a_visitor_without_a_flash_message_gets_no_session() -> None:
    client = browser("Flash messages")
    assert client.get("/").json() == []
    assert not client.cookies


def test_a_background_task_changes_the_session_of_its_request() -> None:
    client = browser("Background tasks")
    assert client.get("/invite").json() == "not yet"
    client.post("/invite/bob@example.com")
    assert client.get("/invite").json() == "bob@example.com"


def test_what_a_stream_changes_is_saved_when_it_ends() -> None:
    """Of docs/long-connections.md: a session that was new before it began, too."""
    client = TestClient(app_of("long-connections.md", "Streaming responses"))
    for reports in (1, 2):
        assert client.get("/report").text == "The first line.\nThe last line.\n"
        with session_transaction(client) as session:
            assert dict(session) == {"reports": reports, "finished": True}


def test_what_a_websocket_changes_before_it_is_accepted_comes_with_the_handshake() -> None:
    """Of docs/long-connections.md: its cookie is in the response, and what it changes later is saved at its end."""

    async def endpoint(websocket: WebSocket) -> None:
        websocket.session["before"] = True
        await websocket.accept()
        websocket.session["after"] = True
        await websocket.close()

    app = Starlette(routes=[WebSocketRoute("/", endpoint)])
    app.add_middleware(DynamoDBSessionMiddleware)
    client = TestClient(app)
    with client.websocket_connect("/") as websocket, pytest.raises(WebSocketDisconnect):
        websocket.receive_text()
    headers: list[tuple[bytes, bytes]] = list(websocket.extra_headers or [])
    (cookie,) = [value for name, value in headers if name == b"set-cookie"]
    client.cookies.set(*cookie.decode().partition(";")[0].split("=", 1))
    with session_transaction(client) as session:
        assert dict(session) == {"before": True, "after": True}
