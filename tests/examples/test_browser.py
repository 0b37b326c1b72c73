"""What a real browser makes of our cookies, and two of them of the demo: headless Chromium in front of uvicorn.

Nothing but this machine is asked: `*.test` and `localhost` are 127.0.0.1, and other names do not exist.
"""

import datetime
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from playwright.sync_api import Browser, BrowserContext, BrowserType, Page, expect, sync_playwright
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from dynamodb_sessions import ConfigurationError, DynamoDBSessionMiddleware, DynamoDBStore, MemoryStore, Session
from examples import chat, sign_out_warning
from examples.duel_arena.app import create_app
from tests.conftest import BROWSER, CHROMIUM, KEY, Clock
from tests.helpers.waiting import eventually

PATIENCE = 20
"""Seconds for what takes a few at most when nothing else runs."""

FLAGS = [
    "--no-sandbox",  # CI is root.
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP *.test 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
]

AS_EVERYWHERE: Any = {
    "ignore_https_errors": True,
    "reduced_motion": "reduce",
    "viewport": {"width": 800, "height": 600},
}


class Site:
    """Whatever app a test serves, in the clear and encrypted, at any name that ends in `.test` and at localhost."""

    def __init__(self) -> None:
        self.app: ASGIApp = PlainTextResponse("nothing is served")
        self.ports: dict[str, int] = {}
        self.entered = Event()
        self.released = Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)

    def serve(self, **options: Any) -> None:
        """Serve an app whose sessions have these options."""
        self.entered.clear()
        self.released.clear()
        self.app = an_app(self.entered, self.released, **options)

    def url(self, path: str, host: str = "a.test", scheme: str = "https") -> str:
        return f"{scheme}://{host}:{self.ports[scheme]}{path}"


@contextmanager
def run(app: ASGIApp, certificate: Path | None = None) -> Iterator[int]:
    """Run uvicorn on a free port of this machine."""
    options: dict[str, Any] = {"ssl_certfile": certificate, "timeout_graceful_shutdown": PATIENCE}
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="websockets-sansio", lifespan="off", **options))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def uvicorns(certificate: Path) -> Iterator[Site]:
    """They outlive the browsers, so that no connection is left when they end."""
    site = Site()
    with run(site) as clear, run(site, certificate) as encrypted:
        site.ports = {"http": clear, "https": encrypted}
        yield site


@pytest.fixture
def site(uvicorns: Site) -> Iterator[Site]:
    yield uvicorns
    uvicorns.released.set()


@dataclass
class Chromium:
    type: BrowserType
    path: str

    def open(self, profile: Path) -> BrowserContext:
        """Start a browser as a person does: what it keeps, it keeps in the profile."""
        return self.type.launch_persistent_context(profile, executable_path=self.path, args=FLAGS, **AS_EVERYWHERE)


@pytest.fixture(scope="module")
def chromium_path() -> str:
    return os.environ.get(CHROMIUM) or shutil.which("chromium") or BROWSER.is_missing()


@pytest.fixture(scope="module")
def chromium(chromium_path: str, uvicorns: Site) -> Iterator[Chromium]:
    assert uvicorns.ports
    expect.set_options(timeout=PATIENCE * 1000)
    with sync_playwright() as playwright:
        yield Chromium(playwright.chromium, chromium_path)


@pytest.fixture(scope="module")
def private_windows(chromium: Chromium) -> Iterator[Browser]:
    with chromium.type.launch(executable_path=chromium.path, args=FLAGS) as browser:
        yield browser


@pytest.fixture(scope="module")
def lenient_window(chromium: Chromium, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    """A browser that lets frames of other sites have their cookies, as some do. By itself Chromium does not."""
    profile = tmp_path_factory.mktemp("profile")
    (profile / "Default").mkdir()
    (profile / "Default" / "Preferences").write_text('{"profile": {"cookie_controls_mode": 0}}')
    with chromium.open(profile) as window:
        yield window


@pytest.fixture
def new_context(private_windows: Browser) -> Iterator[Callable[[], BrowserContext]]:
    """Return a function that makes a browser whose cookies are its own."""
    with ExitStack() as stack:

        def make() -> BrowserContext:
            context = stack.enter_context(private_windows.new_context(**AS_EVERYWHERE))
            context.set_default_timeout(PATIENCE * 1000)
            return context

        yield make


@pytest.fixture(scope="module")
def shared_window(private_windows: Browser) -> Iterator[BrowserContext]:
    """One for all tests that take what they find: a new one costs more than most tests do."""
    with private_windows.new_context(**AS_EVERYWHERE) as shared_window:
        shared_window.new_page()
        yield shared_window


@pytest.fixture
def context(shared_window: BrowserContext) -> Iterator[BrowserContext]:
    shared_window.clear_cookies()
    yield shared_window
    for page in shared_window.pages[1:]:
        page.close()


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return context.pages[0]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and what it says of itself, good for an hour."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "certificate.pem"
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(private + made.public_bytes(pem))
    return file


def an_app(entered: Event, released: Event, **options: Any) -> Starlette:
    def blank(_: Request) -> Response:
        return HTMLResponse("<!doctype html><title>Blank</title>", headers={"Cache-Control": "no-store"})

    def login(request: Request) -> Response:
        session: Session = request.session  # type: ignore[assignment]
        session["user"] = request.path_params["name"]
        session.bind(request.path_params["name"])
        return look(request)

    def visit(request: Request) -> Response:
        request.session["visited"] = True
        return look(request)

    def logout(request: Request) -> Response:
        request.session.clear()
        return look(request)

    def look(request: Request) -> Response:
        return PlainTextResponse(request.session.get("user", "nobody"), headers={"Cache-Control": "no-store"})

    def slow(request: Request) -> Response:
        request.session["slow"] = True
        entered.set()
        released.wait(PATIENCE)
        return look(request)

    def raw(request: Request) -> Response:
        return PlainTextResponse("", headers={"Set-Cookie": request.query_params["cookie"]})

    routes = [
        Route("/", blank),
        Route("/visit", visit),
        Route("/login/{name}", login),
        Route("/logout", logout),
        Route("/look", look, methods=["GET", "POST"]),
        Route("/slow", slow),
        Route("/raw", raw),
    ]
    app = Starlette(routes=[Mount("/app/deep", routes=routes), *routes])
    app.add_middleware(DynamoDBSessionMiddleware, KEY, store=MemoryStore(), **options)
    return app


def see(page: Page, url: str) -> str:
    """Type the address. Return what the page says."""
    page.goto(url)
    return page.inner_text("body")


# Where the cookie goes.


def test_a_login_over_https_is_never_sent_in_the_clear(site: Site, page: Page) -> None:
    site.serve()
    assert see(page, site.url("/login/ada")) == "ada"
    [cookie] = page.context.cookies()
    assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, True, "Lax", "/")
    assert see(page, site.url("/look")) == "ada"
    assert see(page, site.url("/look", scheme="http")) == "nobody"
    assert see(page, site.url("/look", host="b.test")) == "nobody"


def test_over_http_a_login_works_too(site: Site, page: Page) -> None:
    site.serve()
    for host in ("localhost", "a.test"):
        see(page, site.url("/login/ada", host, "http"))
        assert see(page, site.url("/look", host, "http")) == "ada"
    assert [cookie["secure"] for cookie in page.context.cookies()] == [False, False]


@pytest.mark.parametrize("name", ["session_id", "__Secure-session", "__Host-session"])
def test_a_cookie_for_https_only_is_refused_over_http(site: Site, page: Page, name: str) -> None:
    """But not from this very machine, where Chromium trusts http: there one can develop."""
    site.serve(session_cookie=name, https_only=True)
    see(page, site.url("/login/ada", scheme="http"))
    assert page.context.cookies() == []
    see(page, site.url("/login/ada", "localhost", "http"))
    assert see(page, site.url("/look", "localhost", "http")) == "ada"
    see(page, site.url("/login/eve"))
    assert see(page, site.url("/look")) == "eve"


@pytest.mark.parametrize(
    ("attributes", "options"),
    [
        ("; Path=/app; Secure", {"path": "/app"}),
        ("; Path=/; Domain=a.test; Secure", {"domain": "a.test"}),
        ("; Path=/", {"https_only": False}),
    ],
)
def test_host_cookies_that_we_refuse_are_those_the_browser_refuses(
    site: Site, page: Page, attributes: str, options: dict[str, Any]
) -> None:
    site.serve()
    for name, accepted in (("other", 1), ("__Host-other", 0)):
        page.context.clear_cookies()
        see(page, site.url(f"/raw?cookie={name}=1{attributes.replace(';', '%3B')}"))
        assert len(page.context.cookies(site.url("/app/"))) == accepted
    with pytest.raises(ConfigurationError):
        an_app(Event(), Event(), session_cookie="__Host-other", **options).build_middleware_stack()


def test_no_script_can_read_it(site: Site, page: Page) -> None:
    site.serve()
    see(page, site.url("/login/ada"))
    page.goto(site.url("/"))
    page.evaluate("document.cookie = 'mine=1'")
    assert page.evaluate("document.cookie") == "mine=1"
    assert len(page.context.cookies()) == 2


def follow_a_link(page: Page, url: str) -> str:
    page.set_content(f'<a href="{url}">there</a>')
    page.click("a")
    page.wait_for_url(url)
    return page.inner_text("body")


def submit_a_form(page: Page, url: str) -> str:
    page.set_content(f'<form method="post" action="{url}"><button>there</button></form>')
    page.click("button")
    page.wait_for_url(url)
    return page.inner_text("body")


def embed_a_frame(page: Page, url: str) -> str:
    page.set_content(f'<iframe src="{url}"></iframe>')
    return page.frame_locator("iframe").locator("body").inner_text()


@pytest.mark.parametrize(
    ("same_site", "arrives"),
    [
        ("strict", {}),
        ("lax", {follow_a_link}),
        ("none", {follow_a_link, submit_a_form, embed_a_frame}),
    ],
)
def test_what_another_site_can_do_with_it(
    site: Site, lenient_window: BrowserContext, same_site: str, arrives: set[Callable[..., str]]
) -> None:
    site.serve(same_site=same_site)
    page = lenient_window.pages[0]
    lenient_window.clear_cookies()
    see(page, site.url("/login/ada"))
    for act in (follow_a_link, submit_a_form, embed_a_frame):
        page.goto(site.url("/", "b.test"))
        assert act(page, site.url("/look")) == ("ada" if act in arrives else "nobody")
        page.goto(site.url("/"))
        assert act(page, site.url("/look")) == "ada"


@pytest.mark.parametrize(
    ("window", "partitioned", "users"),
    [
        ("lenient_window", False, {"b": "ada", "c": "ada", "top": "ada"}),
        ("lenient_window", True, {"b": "ada", "c": "nobody", "top": "nobody"}),
        ("context", False, {"b": "nobody", "c": "nobody", "top": "nobody"}),
        ("context", True, {"b": "ada", "c": "nobody", "top": "nobody"}),
    ],
)
def test_a_partitioned_cookie_belongs_to_the_site_around_the_frame(
    site: Site,
    request: pytest.FixtureRequest,
    window: str,
    partitioned: bool,
    users: dict[str, str],
) -> None:
    """And in a window that is not lenient, no other is taken in a frame at all."""
    site.serve(same_site="none", partitioned=partitioned)
    context: BrowserContext = request.getfixturevalue(window)
    context.clear_cookies()
    page = context.pages[0]
    page.goto(site.url("/", "b.test"))
    assert embed_a_frame(page, site.url("/login/ada")) == "ada"
    seen = {"b": embed_a_frame(page, site.url("/look"))}
    page.goto(site.url("/", "c.test"))
    seen["c"] = embed_a_frame(page, site.url("/look"))
    seen["top"] = see(page, site.url("/look"))
    assert seen == users
    page.goto(site.url("/", "b.test"))
    assert embed_a_frame(page, site.url("/logout")) == "nobody"
    assert context.cookies() == []


# How long it stays.


@pytest.mark.parametrize(("max_age", "user"), [(None, "nobody"), (3600, "ada")])
def test_what_is_left_when_the_browser_was_closed(
    site: Site, chromium: Chromium, tmp_path: Path, max_age: int | None, user: str
) -> None:
    site.serve(max_age=max_age)
    with chromium.open(tmp_path) as window:
        see(window.pages[0], site.url("/login/ada"))
        assert see(window.pages[0], site.url("/look")) == "ada"
        [cookie] = window.cookies()
        assert (cookie["expires"] == -1) == (max_age is None)
    with chromium.open(tmp_path) as window:
        assert see(window.pages[0], site.url("/look")) == user


def test_the_browser_drops_it_when_its_time_is_over(site: Site, page: Page) -> None:
    site.serve(max_age=2)
    response = page.goto(site.url("/login/ada"))
    assert response
    assert "Max-Age=2" in (response.header_value("set-cookie") or "")
    eventually(lambda: page.context.cookies() == [], patience=PATIENCE)
    assert see(page, site.url("/look")) == "nobody"


@pytest.mark.parametrize(
    ("options", "prefix"),
    [
        ({}, ""),
        ({"path": "/app"}, "/app/deep"),
        ({"domain": "a.test"}, ""),
        ({"path": "/app", "domain": "a.test"}, "/app/deep"),
        ({"session_cookie": "__Host-session"}, ""),
        ({"session_cookie": "__Secure-session", "same_site": "none", "partitioned": True}, ""),
        ({"max_age": None}, ""),
    ],
)
def test_a_logout_removes_it(site: Site, page: Page, options: dict[str, Any], prefix: str) -> None:
    site.serve(**options)
    see(page, site.url(f"{prefix}/login/ada", "www.a.test"))
    assert see(page, site.url(f"{prefix}/look", "www.a.test")) == "ada"
    assert see(page, site.url("/look", "www.a.test")) == ("nobody" if prefix else "ada")
    assert see(page, site.url(f"{prefix}/look")) == ("ada" if "domain" in options else "nobody")
    assert len(page.context.cookies()) == 1
    assert see(page, site.url(f"{prefix}/logout", "www.a.test")) == "nobody"
    assert page.context.cookies() == []


def test_a_page_warns_before_its_session_ends_and_lets_its_user_stay(
    site: Site, new_context: Callable[[], BrowserContext], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's time and the page's are as the test says: to ask extends nothing, to stay does."""
    monkeypatch.setenv("SESSION_SECRET_KEY", KEY)
    site.app = sign_out_warning.app
    page = new_context().new_page()
    page.clock.install()
    warning, stay = page.get_by_role("alert"), page.get_by_role("button", name="Stay signed in")

    def pass_time(seconds: int) -> None:
        clock.now += seconds
        with page.expect_response("**/api/poll"):
            page.clock.run_for(15_000)

    page.goto(site.url("/"))
    expect(warning).to_have_text("You are signed out.")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("Hello, Ada.")).to_be_visible()
    for _ in range(8):
        pass_time(430)
        expect(warning).to_be_hidden()
    pass_time(50)
    expect(warning).to_have_text("You will be signed out in 2 minutes.")
    pass_time(50)
    expect(warning).to_have_text("You will be signed out in 1 minute.")
    stay.click()
    expect(warning).to_be_hidden()
    pass_time(3480)
    expect(warning).to_have_text("You will be signed out in 2 minutes.")
    pass_time(120)
    expect(warning).to_have_text("You are signed out.")
    expect(stay).to_be_hidden()


# A websocket that closes when its session has ended.


@pytest.fixture
def chat_url(site: Site, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SESSION_SECRET_KEY", KEY)
    monkeypatch.setattr(chat, "EVERY", 0.1)
    site.app = chat.app
    return site.url("/")


def join(page: Page, name: str) -> None:
    page.get_by_label("Your name").fill(name)
    with page.expect_websocket():
        page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("main")).to_contain_text(f"You are {name}.")
    expect(page.get_by_label("Your name")).to_be_hidden()


def say(page: Page, text: str, *, members: int) -> None:
    eventually(lambda: len(chat.room) == members, patience=PATIENCE)
    page.get_by_label("Message").fill(text)
    page.get_by_role("button", name="Send").click()


def test_a_chat_closes_where_its_user_is_signed_out(new_context: Callable[[], BrowserContext], chat_url: str) -> None:
    one, other, stranger = (new_context().new_page() for _ in range(3))
    for page, name in ((one, "Ada"), (other, "Ada"), (stranger, "Eve")):
        page.goto(chat_url)
        join(page, name)
    say(other, "Hello, <b>all</b>.", members=3)
    for page in (one, other, stranger):
        expect(page.get_by_role("log")).to_have_text("Ada: Hello, <b>all</b>.")

    one.get_by_role("button", name="Sign out everywhere else").click()
    expect(other.get_by_role("alert")).to_have_text("You were signed out, so the chat has closed.")
    expect(other.get_by_role("main")).to_be_hidden()
    say(one, "Still here.", members=2)
    for page in (one, stranger):
        expect(page.get_by_role("log")).to_contain_text("Ada: Still here.")

    join(other, "Ada")
    expect(other.get_by_role("alert")).to_be_empty()
    other.get_by_role("button", name="Sign out", exact=True).click()
    expect(other.get_by_label("Your name")).to_be_visible()
    expect(other.get_by_role("alert")).to_be_empty()
    say(stranger, "Bye.", members=2)
    expect(one.get_by_role("log")).to_contain_text("Eve: Bye.")


def test_a_chat_goes_on_when_its_session_gets_a_new_id(context: BrowserContext, chat_url: str) -> None:
    """As by another login in another tab: the websocket of the old id closes, and the page opens one anew."""
    page = context.new_page()
    page.goto(chat_url)
    join(page, "Ada")
    with page.expect_websocket():
        page.evaluate(
            """() => fetch("/sign-in", {
                method: "POST", headers: {"Content-Type": "application/json"}, body: '{"name": "Ada"}'
            })"""
        )
    say(page, "Still here.", members=1)
    expect(page.get_by_role("log")).to_have_text("Ada: Still here.")
    expect(page.get_by_role("alert")).to_be_empty()


# A session without a cookie.


def test_a_page_of_another_site_has_its_session_in_a_header(site: Site, page: Page) -> None:
    """If CORS lets that site send the header and read it. The browser's own cookie is neither used nor changed."""
    site.serve(session_header="X-Session-Token")
    site.app = CORSMiddleware(
        site.app, [site.url("", "b.test")], allow_headers=["X-Session-Token"], expose_headers=["X-Session-Token"]
    )
    see(page, site.url("/login/ada"))
    cookies = page.context.cookies()
    page.goto(site.url("/", "b.test"))
    script = """async ([url, token]) => {
        const response = await fetch(url, { headers: { "X-Session-Token": token } });
        return [await response.text(), response.headers.get("X-Session-Token")];
    }"""
    user, token = page.evaluate(script, [site.url("/login/eve"), ""])
    assert user == "eve"
    assert page.evaluate(script, [site.url("/look"), token]) == ["eve", None]
    assert page.evaluate(script, [site.url("/logout"), token]) == ["nobody", ""]
    assert page.evaluate(script, [site.url("/look"), token]) == ["nobody", None]
    assert page.context.cookies() == cookies
    assert see(page, site.url("/look")) == "ada"


# Two tabs of one browser.


def test_what_one_tab_does_the_other_sees(site: Site, context: BrowserContext) -> None:
    site.serve()
    one, other = context.new_page(), context.new_page()
    see(one, site.url("/login/ada"))
    assert see(other, site.url("/look")) == "ada"
    see(other, site.url("/logout"))
    assert see(one, site.url("/look")) == "nobody"
    see(one, site.url("/login/eve"))
    assert see(other, site.url("/look")) == "eve"
    assert len(context.cookies()) == 1


@pytest.mark.parametrize("before", ["/visit", "/login/ada"])
@pytest.mark.parametrize("meanwhile", [["/login/eve"], ["/logout", "/login/eve"], ["/logout"]])
def test_a_slow_answer_in_one_tab_does_not_undo_what_the_other_has_done(
    site: Site, context: BrowserContext, before: str, meanwhile: list[str]
) -> None:
    site.serve(touch_after=0)
    one, other = context.new_page(), context.new_page()
    see(one, site.url(before))
    other.goto(site.url("/"))
    other.evaluate("() => { window.answer = fetch('/slow').then((response) => response.text()) }")
    eventually(site.entered.is_set, patience=PATIENCE)
    for path in meanwhile:
        user = see(one, site.url(path))
    cookies = context.cookies()
    assert len(cookies) == (user == "eve")
    site.released.set()
    other.evaluate("() => window.answer")
    assert context.cookies() == cookies
    assert see(one, site.url("/look")) == see(other, site.url("/look")) == user


# The demo, in two browsers.


@pytest.fixture
def arena(site: Site, table_name: str, dynamodb: Any) -> str:
    store = DynamoDBStore(table_name, client=dynamodb, create_table=True)
    assert store.probe()
    site.app = create_app(store, KEY, pace=0)
    return site.url("/", "localhost", "http")


def enter(context: BrowserContext, arena: str, name: str = "Ada") -> Page:
    page = context.new_page()
    page.goto(arena)
    page.get_by_label("Your name").fill(name)
    page.get_by_role("button", name="Enter the arena").click()
    expect(devices(page).first).to_contain_text("here")
    return page


def devices(page: Page) -> Any:
    return page.locator("#devices > li")


def test_ending_all_others_signs_the_other_browser_out_before_its_users_eyes(
    new_context: Callable[[], BrowserContext], arena: str
) -> None:
    one = enter(new_context(), arena)
    expect(devices(one)).to_have_count(1)
    other = enter(new_context(), arena)
    stranger = enter(new_context(), arena, "Eve")
    for page in (one, other):
        expect(devices(page)).to_have_count(2)
        expect(devices(page).last).to_contain_text(
            re.compile(r"Chrome on \w+\s*Active now\s*(End)?\s*[0-9a-f]{16} since ")
        )

    one.get_by_role("button", name="End all others").click()
    expect(devices(one)).to_have_count(1)
    expect(other.get_by_role("alert")).to_contain_text("You were signed out.")
    expect(other.get_by_label("Your name")).to_be_visible()
    expect(other.locator("#devices-panel")).to_be_hidden()

    one.reload()
    expect(devices(one)).to_have_count(1)
    expect(one.locator("#player")).to_have_text("Ada")
    expect(stranger.locator("#player")).to_have_text("Eve")

    other.get_by_role("button", name="Enter the arena").click()
    expect(devices(one)).to_have_count(2)
    expect(other.get_by_role("alert")).to_be_hidden()


def test_each_browser_sees_both_devices_and_one_ends_the_other(
    new_context: Callable[[], BrowserContext], arena: str
) -> None:
    one, other = enter(new_context(), arena), enter(new_context(), arena)
    for page in (one, other):
        expect(devices(page)).to_have_count(2)
        expect(devices(page).first).to_contain_text("here")
        expect(devices(page).last.get_by_role("button", name="End")).to_be_visible()
    handles = [sorted(devices(page).locator(".mono").all_inner_texts()) for page in (one, other)]
    assert handles[0] == handles[1]
    devices(one).last.get_by_role("button", name="End").click()
    expect(devices(one)).to_have_count(1)
    expect(other.get_by_role("alert")).to_contain_text("You were signed out.")
    expect(one.locator("#player")).to_have_text("Ada")


def test_one_device_is_ended_and_the_others_stay(new_context: Callable[[], BrowserContext], arena: str) -> None:
    one, other, another = (enter(new_context(), arena) for _ in range(3))
    expect(devices(one)).to_have_count(3)
    name = other.locator("#devices .mono").first.inner_text()
    devices(one).filter(has_text=name).get_by_role("button", name="End").click()
    for page in (one, another):
        expect(devices(page)).to_have_count(2)
        expect(page.get_by_text(name)).to_have_count(0)
    expect(other.get_by_role("alert")).to_contain_text("You were signed out.")


def test_two_tabs_of_one_browser_follow_each_other(context: BrowserContext, arena: str) -> None:
    one = enter(context, arena)
    other = context.new_page()
    other.goto(arena)
    expect(devices(other)).to_have_count(1)
    handle = devices(other).locator(".mono").inner_text()
    fingerprint = one.locator("#fingerprint")
    before = fingerprint.inner_text()
    one.get_by_role("button", name="New id").click()
    expect(fingerprint).not_to_have_text(before)
    with other.expect_response("**/api/devices"):
        """Once it has looked again, too."""
    expect(devices(other)).to_have_text([re.compile(handle)])
    expect(other.get_by_role("alert")).to_be_hidden()
    one.evaluate(
        """() => fetch("/api/sign-in", {
            method: "POST", headers: {"Content-Type": "application/json"}, body: '{"name": "Eve"}'
        })"""
    )
    for page in (one, other):
        expect(page.locator("#player")).to_have_text("Eve")
    one.get_by_role("button", name="Sign out").click()
    expect(other.get_by_label("Your name")).to_be_visible()
    assert context.cookies() == []


def test_a_duel_is_fought_to_the_verdict(context: BrowserContext, arena: str) -> None:
    page = enter(context, arena)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.get_by_role("button", name="Tabs or spaces?").click()
    page.get_by_role("button", name="Fathom takes it").click()
    expect(page.locator("#blue-verdict")).to_be_visible()
    expect(page.locator("#blue-score")).to_have_text("1")
    assert errors == []
