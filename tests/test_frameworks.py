"""What the recipes of docs/frameworks.md do with the real packages, which are those of the extra `cookbook`."""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from joserfc import jwk, jwt
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from dynamodb_sessions import DynamoDBSessionMiddleware
from dynamodb_sessions.testing import session_transaction
from tests.conftest import KEY
from tests.helpers.pages import DOCS, PROJECT, block, blocks, write_modules

PAGE = DOCS / "frameworks.md"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SESSION_SECRET_KEY", KEY)
    monkeypatch.chdir(tmp_path)


def recipe(heading: str) -> dict[str, Any]:
    return block(PAGE, heading).run()


def test_every_block_passes_mypy(tmp_path: Path) -> None:
    write_modules(tmp_path, blocks(PAGE))
    # The packages without types are listed in pyproject.toml; so are their decorators without.
    options = ["--strict", "--allow-untyped-decorators", "--explicit-package-bases"]
    command = [sys.executable, "-m", "mypy", *options, str(tmp_path)]
    environment = os.environ | {"MYPYPATH": os.pathsep.join((str(PROJECT / "src"), str(PROJECT)))}
    checked = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, ""), checked.stdout


class Provider:
    """An OpenID provider with one user, who always agrees."""

    issuer = "https://login.example"

    def __init__(self) -> None:
        self.key = jwk.RSAKey.generate_key(2048, {"kid": "1", "use": "sig", "alg": "RS256"})
        self.nonce = ""
        self.app = Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self.metadata),
                Route("/token", self.token, methods=["POST"]),
                Route("/keys", self.keys),
            ]
        )

    async def metadata(self, _: Request) -> JSONResponse:
        names = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "keys"}
        found: dict[str, Any] = {name: f"{self.issuer}/{path}" for name, path in names.items()}
        return JSONResponse(found | {"issuer": self.issuer, "id_token_signing_alg_values_supported": ["RS256"]})

    async def keys(self, _: Request) -> JSONResponse:
        return JSONResponse({"keys": [self.key.as_dict(private=False)]})

    async def token(self, _: Request) -> JSONResponse:
        claims = {"iss": self.issuer, "aud": "yours", "sub": "7", "email": "alice@example.com", "nonce": self.nonce}
        token = jwt.encode({"alg": "RS256", "kid": "1"}, claims | {"iat": int(time.time()), "exp": 2**32}, self.key)
        return JSONResponse({"access_token": "access", "token_type": "Bearer", "id_token": token})


class TestAuthlib:
    @pytest.fixture
    def provider(self) -> Provider:
        return Provider()

    @pytest.fixture
    def client(self, provider: Provider) -> TestClient:
        found = recipe("A login with Authlib")
        found["oauth"].provider.client_kwargs["transport"] = httpx2.ASGITransport(provider.app)
        return TestClient(found["app"])

    def to_the_provider_and_back(self, client: TestClient, provider: Provider) -> str:
        sent = client.get("/login", follow_redirects=False)
        asked = parse_qs(urlsplit(sent.headers["location"]).query)
        provider.nonce = asked["nonce"][0]
        return f"/callback?code=1&state={asked['state'][0]}"

    def test_it_logs_in_under_a_new_id(self, client: TestClient, provider: Provider) -> None:
        back = self.to_the_provider_and_back(client, provider)
        before = dict(client.cookies)
        assert client.get(back).json() == "Hello, alice@example.com."
        assert dict(client.cookies) != before
        with session_transaction(client) as session:
            assert (session.info.owner, list(session)) == ("https://login.example|7", ["email"])

    def test_a_state_is_good_once_and_for_its_own_browser(self, client: TestClient, provider: Provider) -> None:
        back = self.to_the_provider_and_back(client, provider)
        assert TestClient(client.app).get(back).status_code == 401
        assert client.get(back).status_code == 200
        assert client.get(back).status_code == 401


class TestCsrfTokens:
    @pytest.fixture
    def client(self) -> TestClient:
        return TestClient(recipe("CSRF tokens")["app"], base_url="https://testserver")

    def test_a_form_of_another_site_logs_nobody_in(self, client: TestClient) -> None:
        assert client.post("/login", data={"name": "mallory"}).status_code == 403
        client.get("/login")
        assert client.post("/login", data={"name": "mallory", "csrftoken": "guessed"}).status_code == 403
        assert client.get("/").text == "Hello, stranger."

    def test_the_pages_own_form_does(self, client: TestClient) -> None:
        (token,) = re.findall(r'value="([^"]+)"', client.get("/login").text)
        assert client.post("/login", data={"name": "alice", "csrftoken": token}).text == "Hello, alice."
        assert {"__Host-session", "__Host-csrf"} == set(client.cookies)


class TestSqladmin:
    @pytest.fixture
    def client(self) -> TestClient:
        return TestClient(recipe("sqladmin")["app"])

    def test_it_asks_for_a_login_and_knows_its_user(self, client: TestClient) -> None:
        assert client.get("/admin/book/list").url.path == "/admin/login"
        assert client.post("/admin/login", data={"username": "alice", "password": "wrong"}).status_code == 400
        client.post("/admin/login", data={"username": "alice", "password": "correct horse"})
        assert client.get("/admin/book/list").url.path == "/admin/book/list"
        client.get("/admin/logout")
        assert client.get("/admin/book/list").url.path == "/admin/login"

    def test_its_cookie_is_ours(self, client: TestClient) -> None:
        client.post("/admin/login", data={"username": "alice", "password": "correct horse"})
        assert set(client.cookies) == {"session_id"}
        with session_transaction(client) as session:
            assert session.info.owner == "admin/alice"


class TestNiceGUI:
    @pytest.fixture
    def client(self) -> Iterator[TestClient]:
        with TestClient(recipe("NiceGUI")["app"]) as client:
            yield client

    def test_the_browsers_storage_is_our_session(self, client: TestClient) -> None:
        assert "You have been here 1 times." in client.get("/").text
        assert "You have been here 2 times." in client.get("/").text
        assert set(client.cookies) == {"session_id"}
        with session_transaction(client) as session:
            assert set(session) == {"id", "visits"}


def test_fasthtml_counts_the_visits() -> None:
    client = TestClient(recipe("FastHTML")["app"])
    assert "You have been here 1 times." in client.get("/").text
    assert "You have been here 2 times." in client.get("/").text
    with session_transaction(client) as session:
        assert dict(session) == {"visits": 2}
    assert not Path(".sesskey").exists()


class TestStrawberry:
    @pytest.fixture
    def client(self) -> TestClient:
        return TestClient(recipe("Strawberry")["app"])

    def ask(self, client: TestClient, query: str) -> Any:
        answer = client.post("/graphql", json={"query": query}).json()
        assert "errors" not in answer
        (value,) = answer["data"].values()
        return value

    def test_a_resolver_knows_who_is_logged_in(self, client: TestClient) -> None:
        assert self.ask(client, "{ me }") is None
        assert self.ask(client, 'mutation { logIn(name: "alice", password: "wrong") }') is False
        assert self.ask(client, "{ me }") is None
        assert self.ask(client, 'mutation { logIn(name: "alice", password: "correct horse") }') is True
        assert self.ask(client, "{ me }") == "alice"
        assert self.ask(client, "mutation { logOut }") is True
        assert self.ask(client, "{ me }") is None


class TestSocketIO:
    """Spoken over Engine.IO's polling, as every browser begins: a packet's first digits are its kind."""

    @pytest.fixture
    def app(self) -> DynamoDBSessionMiddleware:
        found: DynamoDBSessionMiddleware = recipe("Socket.IO")["app"]
        return found

    async def connect(self, client: httpx2.AsyncClient) -> tuple[str, str]:
        path = "/socket.io/?EIO=4&transport=polling"
        opened = await client.get(path)
        path += f"&sid={json.loads(opened.text[1:])['sid']}"
        await client.post(path, content="40")
        return path, (await client.get(path)).text

    async def talk(self, app: DynamoDBSessionMiddleware) -> tuple[str, str, str]:
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://testserver") as client:
            _, refused = await self.connect(client)
            await client.post("/login/alice")
            path, accepted = await self.connect(client)
            await client.post(path, content='421["whoami"]')
            return refused, accepted, (await client.get(path)).text

    def test_a_handshake_knows_who_is_logged_in(self, app: DynamoDBSessionMiddleware) -> None:
        refused, accepted, answer = asyncio.run(self.talk(app))
        assert refused.startswith("44")
        assert accepted.startswith("40")
        assert answer == '431["alice"]'
