"""A test for every class of advisory that has hit session libraries, named after it."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from dynamodb_sessions import ConfigurationError, DynamoDBSessionMiddleware, MemoryStore, Session
from dynamodb_sessions.identifiers import new_id
from dynamodb_sessions.web.cookie import CookiePayload, SessionCookie
from tests.conftest import KEY

pytestmark = pytest.mark.anyio

OLDER, NEWER = "the-older-key-of-more-than-32-bytes!", "the-newer-key-of-more-than-32-bytes!"


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def an_app(store: MemoryStore, secret_key: Any = KEY, **acts: Callable[[Session], Any]) -> Starlette:
    async def endpoint(request: Request) -> Response:
        session: Session = request.scope["session"]
        made = acts[request.path_params["act"]](session)
        return made if isinstance(made, Response) else JSONResponse(dict(session))

    middleware = Middleware(DynamoDBSessionMiddleware, secret_key=secret_key, store=store)
    return Starlette(routes=[Route("/{act}", endpoint)], middleware=[middleware])


async def get(app: Any, act: str, cookie: str = "", **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="https://testserver") as client:
        return await client.get(f"/{act}", headers={"cookie": cookie, **headers} if cookie else headers)


def cookie_of(response: httpx.Response) -> str:
    return response.headers["set-cookie"].partition(";")[0]


def login(session: Session) -> None:
    session["user"] = "alice"
    session.bind("acme/alice")


def put(session: Session) -> None:
    session["a"] = 1


async def test_cve_2018_1000519_an_id_of_the_clients_choosing_is_not_adopted(store: MemoryStore) -> None:
    """Session fixation."""
    app = an_app(store, put=put)
    chosen = f"{new_id()}.1"
    cookie = SessionCookie(
        [KEY], name="session_id", path="/", same_site="lax", https_only=None, domain=None, partitioned=False
    )
    signed = cookie.issue(CookiePayload(chosen.partition(".")[0]), now=0, secure=True).partition(";")[0]
    for presented in (f"session_id={chosen}", f"session_id={chosen.partition('.')[0]}", signed):
        issued = cookie_of(await get(app, "put", presented))
        assert chosen.partition(".")[0] not in issued


async def test_cve_2022_38054_and_cve_2024_38513_a_login_changes_the_id(store: MemoryStore) -> None:
    """Session fixation: what an attacker planted before the login is worth nothing after it."""
    app = an_app(store, put=put, login=login, look=dict)
    planted = cookie_of(await get(app, "put"))
    victim = cookie_of(await get(app, "login", planted))
    assert (await get(app, "look", planted)).json() == {}
    assert (await get(app, "look", victim)).json() == {"a": 1, "user": "alice"}


async def test_cve_2025_46336_a_request_under_way_does_not_bring_a_deleted_session_back(store: MemoryStore) -> None:
    """Resurrection."""

    def end_elsewhere_and_put(session: Session) -> None:
        store._remove(session.info.id)
        session["a"] = 2

    app = an_app(store, put=put, race=end_elsewhere_and_put, look=dict)
    cookie = cookie_of(await get(app, "put"))
    response = await get(app, "race", cookie)
    assert "set-cookie" not in response.headers
    assert len(store) == 0
    assert (await get(app, "look", cookie)).json() == {}


@pytest.mark.parametrize("end", [Session.clear, login, Session.regenerate])
async def test_cve_2018_1000814_and_cve_2024_31999_an_ended_session_is_of_no_use(
    store: MemoryStore, end: Callable[[Session], None]
) -> None:
    """Reuse after the logout."""
    app = an_app(store, put=put, end=end, look=dict)
    cookie = cookie_of(await get(app, "put"))
    await get(app, "end", cookie)
    for _ in range(3):
        assert (await get(app, "look", cookie)).json() == {}


@pytest.mark.parametrize("key", ["", " ", [], [""], None])
async def test_cve_2015_3982_and_cve_2023_27524_there_is_no_empty_and_no_default_key(key: Any) -> None:
    with pytest.raises(ConfigurationError):
        DynamoDBSessionMiddleware(Starlette(), key, store=MemoryStore())


async def test_cve_2015_5143_and_cve_2015_5963_visitors_do_not_fill_the_store(store: MemoryStore) -> None:
    """Neither by looking, nor by emptying nothing, nor with cookies that are none."""
    app = an_app(
        store, look=dict, clear=Session.clear, regenerate=Session.regenerate, pop=lambda session: session.pop("a", None)
    )
    for act in ("look", "clear", "regenerate", "pop"):
        for cookie in ("", "session_id=", f"session_id={new_id()}", f"session_id={new_id()}.1.{new_id()}"):
            response = await get(app, act, cookie)
            assert "set-cookie" not in response.headers
    assert len(store) == 0


async def test_cve_2025_47278_the_newest_key_signs(store: MemoryStore) -> None:
    """Key order: with a list read the wrong way round, a retired key would go on signing."""
    issued = cookie_of(await get(an_app(store, [NEWER, OLDER], put=put), "put"))
    assert (await get(an_app(store, NEWER, look=dict), "look", issued)).json() == {"a": 1}
    assert (await get(an_app(store, OLDER, look=dict), "look", issued)).json() == {}


async def test_cve_2023_30861_a_response_with_a_cookie_is_not_for_caches(store: MemoryStore) -> None:
    response = await get(an_app(store, put=put), "put")
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["vary"] == "Cookie"


@pytest.mark.parametrize(
    "look",
    [lambda session: "a" in session, len, bool, list, lambda session: session.get("a"), lambda session: session == {}],
)
async def test_cve_2026_27205_every_look_at_the_session_varies_the_response(
    store: MemoryStore, look: Callable[[Session], Any]
) -> None:
    def act(session: Session) -> Response:
        session.accessed = False
        look(session)
        return PlainTextResponse("")

    response = await get(an_app(store, act=act), "act")
    assert response.headers["vary"] == "Cookie"


async def test_cve_2026_48710_the_host_header_decides_nothing(store: MemoryStore) -> None:
    app = an_app(store, put=put)
    for host in ("evil.example/?@x", "a b", "[", "x\\y", "testserver:http"):
        response = await get(app, "put", host=host)
        assert response.status_code == 200
        assert "Secure" in response.headers["set-cookie"]
        assert "evil" not in response.headers["set-cookie"]


async def test_cve_2023_40273_sessions_do_not_survive_a_password_change(store: MemoryStore) -> None:
    async def change_password(request: Request) -> Response:
        await store.revoke_owner("acme/alice", keep=request.scope["session"].info.id)
        return PlainTextResponse("")

    app = an_app(store, login=login, look=dict)
    app.router.routes.insert(0, Route("/password", change_password))
    thief, alice = [cookie_of(await get(app, "login")) for _ in range(2)]
    await get(app, "password", alice)
    assert (await get(app, "look", thief)).json() == {}
    assert (await get(app, "look", alice)).json() == {"user": "alice"}
