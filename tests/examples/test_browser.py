"""What a real browser makes of our cookies: headless Chromium in front of uvicorn."""

from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect
from starlette.middleware.cors import CORSMiddleware

from dynamodb_sessions import ConfigurationError
from examples import chat, sign_out_warning
from tests.conftest import KEY, Clock
from tests.examples.conftest import Chromium, answer_late
from tests.helpers.sites import PATIENCE, Site, an_app
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.slow


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
    answer_late(other, "/sign-out")  # After the server has closed the websocket.
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
