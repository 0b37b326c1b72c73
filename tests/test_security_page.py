"""What docs/security.md says of OWASP ASVS 5.0 and NIST SP 800-63B-4: each row that is ours has a test."""

import logging
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from dynamodb_sessions import DynamoDBSessionMiddleware, MemoryStore, Session, devices, session_of
from dynamodb_sessions.testing import session_transaction
from tests.conftest import KEY, Clock
from tests.helpers.pages import DOCS, block

if TYPE_CHECKING:
    from starlette.middleware import Middleware

PAGE = (DOCS / "security.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\d[\w.-]+) \|[^|]*\|[^|]*\| (\w+) \|", PAGE, re.MULTILINE)
ASVS_CHAPTER_7 = {1: 3, 2: 4, 3: 2, 4: 5, 5: 3, 6: 2}
"""How many requirements each of its sections has."""
NIST_LISTS = {"5.1": 6, "5.1.1": 7}
"""How many requirements its numbered lists have."""

DAY = 86400

PROVED = set[str]()
"""The rows that have a test."""

Test = TypeVar("Test", bound=Callable[..., None])


def proves(*numbers: str) -> Callable[[Test], Test]:
    """Note which rows of the page a test shows to be so."""
    PROVED.update(numbers)
    return lambda test: test


class Site:
    """An app with these options, whose requests do what a test says, and browsers of it."""

    def __init__(self, scheme: str = "https", **options: Any) -> None:
        self.act: Callable[[Session], Any] = Session.copy
        self.store = MemoryStore()
        self.scheme = scheme
        self.app = Starlette(routes=[Route("/", self.answer)])
        self.app.add_middleware(DynamoDBSessionMiddleware, KEY, **{"store": self.store} | options)

    async def answer(self, request: Request) -> JSONResponse:
        done = self.act(session_of(request))
        return JSONResponse(await done if hasattr(done, "__await__") else done)

    def browser(self, cookies: Any = None) -> TestClient:
        return TestClient(self.app, base_url=f"{self.scheme}://site", cookies=cookies)

    def do(self, browser: TestClient, act: Callable[[Session], Any]) -> Any:
        self.act = act
        return browser.get("/").json()

    def login(self, browser: TestClient, owner: str = "alice") -> str:
        """Return the cookie of a login."""
        return self.set_cookie(browser, lambda session: session.bind(owner))

    def set_cookie(self, browser: TestClient, act: Callable[[Session], Any]) -> str:
        self.act = act
        return browser.get("/").headers.get("set-cookie", "")

    def owner(self, browser: TestClient) -> Any:
        return self.do(browser, lambda session: session.info.owner)


@pytest.fixture
def site() -> Site:
    return Site()


def value_of(cookie: str) -> str:
    return cookie.partition("=")[2].partition(";")[0]


def attributes_of(cookie: str) -> set[str]:
    return {attribute.strip().lower() for attribute in cookie.split(";")[1:]}


# Of the page itself.


def test_it_has_every_requirement() -> None:
    numbers = [number for number, _ in ROWS]
    asvs = [f"7.{section}.{number + 1}" for section, count in ASVS_CHAPTER_7.items() for number in range(count)]
    assert [number for number in numbers if number.startswith("7.")] == asvs
    for section, count in NIST_LISTS.items():
        listed = [number for number in numbers if number.startswith(f"{section}-")]
        assert listed == [f"{section}-{number + 1}" for number in range(count)]
    assert {who for _, who in ROWS} == {"default", "option", "you"}


def test_each_row_that_is_ours_has_a_test() -> None:
    assert {number for number, who in ROWS if who != "you"} == PROVED


@pytest.mark.parametrize(
    ("name", "idle", "overall"), [("AAL1", None, 30 * DAY), ("AAL2", 3600, DAY), ("AAL3", 900, 12 * 3600)]
)
def test_the_settings_keep_to_the_limits_and_are_enforced(
    name: str, idle: int | None, overall: int, clock: Clock
) -> None:
    middleware: Middleware = block(DOCS / "security.md", "Settings for AAL1, AAL2 and AAL3").run()[name]
    options: dict[str, Any] = {**middleware.kwargs}
    assert options["max_age"] <= (idle or overall)
    assert options["absolute_max_age"] <= overall
    site = Site(**options)

    left = site.browser()
    assert site.login(left).startswith("__Host-")
    clock.now += options["max_age"] + 1
    assert site.owner(left) is None, "it was not used for too long"

    busy = site.browser()
    site.login(busy)
    begun = clock.now
    while clock.now - begun + options["max_age"] // 2 < overall:
        clock.now += options["max_age"] // 2
        assert site.do(busy, len) == 0
        assert site.owner(busy) == "alice"
    clock.now = begun + overall
    assert site.owner(busy) is None, "it was used all the time, and has lasted for too long"


# OWASP ASVS 5.0.


@proves("7.2.1", "5.1.a")
def test_a_cookie_counts_only_if_the_backend_verifies_it(site: Site) -> None:
    alice = site.browser()
    cookie = value_of(site.login(alice))
    assert site.owner(alice) == "alice"
    forged = cookie[:-1] + ("a" if cookie[-1] != "a" else "b")
    assert site.owner(site.browser({"session_id": forged})) is None


@proves("7.2.2", "7.2.3", "5.1-2")
def test_ids_are_unique_and_have_256_bits(site: Site) -> None:
    ids = {value_of(site.login(site.browser())).partition(".")[0] for _ in range(100)}
    assert len(ids) == 100
    assert {len(session_id) for session_id in ids} == {43}  # of 6 bits each, but for the last


@proves("7.2.4", "5.1.b", "5.1.f", "5.1-1")
@pytest.mark.parametrize("prove", [lambda session: session.bind("alice"), Session.confirm_login])
def test_a_login_and_a_proof_give_a_new_id_and_end_the_old(site: Site, prove: Callable[[Session], Any]) -> None:
    alice = site.browser()
    site.login(alice)
    before = dict(alice.cookies)
    site.do(alice, prove)
    assert dict(alice.cookies) != before
    assert site.owner(site.browser(before)) is None
    assert site.owner(alice) == "alice"


@proves("7.3.1", "5.2.b", "5.2.c")
def test_a_session_ends_that_is_not_used_and_lives_on_if_it_is(site: Site, clock: Clock) -> None:
    alice = site.browser()
    site.login(alice)
    for _ in range(3):
        clock.now += 3500
        assert site.do(alice, len) == 0
        assert site.owner(alice) == "alice"
    clock.now += 3600
    assert site.owner(alice) is None


@proves("7.3.2", "5.1.e", "5.1-5", "5.2.a")
def test_a_session_ends_however_busy(clock: Clock) -> None:
    site = Site(absolute_max_age=7200)
    alice = site.browser()
    site.login(alice)
    for _ in range(3):
        clock.now += 1800
        site.do(alice, lambda session: session.update(at=clock.now))
        assert site.owner(alice) == "alice"
    clock.now += 1800
    assert site.owner(alice) is None


@proves("7.4.1", "5.1-3", "5.1.h")
def test_a_logout_ends_the_session_and_erases_the_cookie(site: Site) -> None:
    alice = site.browser()
    site.login(alice)
    copied = dict(alice.cookies)
    cookie = site.set_cookie(alice, Session.clear)
    assert value_of(cookie) in ("", "null")
    assert "max-age=0" in attributes_of(cookie)
    assert site.owner(site.browser(copied)) is None


@proves("7.4.2", "7.4.5")
def test_whoever_has_the_store_ends_the_sessions_of_one_user(site: Site) -> None:
    laptop, phone, other = (site.browser() for _ in range(3))
    for browser, owner in ((laptop, "alice"), (phone, "alice"), (other, "bob")):
        site.login(browser, owner)
    assert site.do(site.browser(), lambda session: session.info.store.revoke_owner("alice")) == 2
    assert [site.owner(browser) for browser in (laptop, phone, other)] == [None, None, "bob"]


@proves("7.4.3")
def test_a_user_ends_all_their_other_sessions(site: Site) -> None:
    laptop, phone = site.browser(), site.browser()
    site.login(laptop)
    site.login(phone)
    assert site.do(laptop, devices.end_others) == 1
    assert [site.owner(browser) for browser in (laptop, phone)] == ["alice", None]


@proves("7.5.1", "7.5.3")
def test_a_login_is_fresh_for_as_long_as_the_app_says(site: Site, clock: Clock) -> None:
    alice = site.browser()
    site.login(alice)
    clock.now += 601
    assert site.do(alice, lambda session: session.info.is_fresh(600)) is False
    site.do(alice, Session.confirm_login)
    assert site.do(alice, lambda session: session.info.is_fresh(600)) is True


@proves("7.5.2")
def test_users_see_their_sessions_and_end_any_of_them(site: Site) -> None:
    laptop, phone, other = site.browser(), site.browser(), site.browser()
    for browser, owner in ((laptop, "alice"), (phone, "alice"), (other, "bob")):
        site.login(browser, owner)

    async def handles(session: Session) -> list[str]:
        return [device.handle for device in await devices.of(session) if not device.is_current]

    (handle,) = site.do(laptop, handles)
    assert site.do(other, lambda session: devices.end(session, handle)) is False, "it is not theirs"
    assert site.do(laptop, lambda session: devices.end(session, handle)) is True
    assert [site.owner(browser) for browser in (laptop, phone)] == ["alice", None]


# NIST SP 800-63B-4.


@proves("5.1.c")
def test_a_cookie_can_end_with_the_browser() -> None:
    site = Site(max_age=None, absolute_max_age=DAY)
    assert not [each for each in attributes_of(site.login(site.browser())) if each.startswith(("max-age", "expires"))]


@proves("5.1.i", "5.1.1-2", "5.1.1-3", "5.1.1-6")
def test_scripts_and_other_sites_and_hosts_get_no_cookie(site: Site) -> None:
    attributes = attributes_of(site.login(site.browser()))
    assert {"httponly", "samesite=lax", "path=/"} <= attributes
    assert not [each for each in attributes if each.startswith("domain")]


@proves("5.1.1-1")
def test_a_cookie_of_https_is_for_https_alone(site: Site) -> None:
    assert "secure" in attributes_of(site.login(site.browser()))


@proves("5.1.j", "5.1.1-5")
@pytest.mark.parametrize("options", [{"session_cookie": "__Host-session"}, {"https_only": True}])
def test_a_cookie_never_goes_over_plain_http(options: dict[str, Any]) -> None:
    site = Site("http", **options)
    cookie = site.login(site.browser())
    assert {"secure", "path=/"} <= attributes_of(cookie)
    assert cookie.startswith(options.get("session_cookie", "session_id"))


@proves("5.1.1-4")
def test_a_cookie_expires_with_its_session_which_the_store_ends(site: Site, clock: Clock) -> None:
    alice = site.browser()
    assert "max-age=3600" in attributes_of(site.login(alice))
    kept = dict(alice.cookies)  # by a browser that does not forget
    clock.now += 3600
    assert site.owner(site.browser(kept)) is None


@proves("5.1.1-7")
def test_a_cookie_says_nothing_of_its_user(site: Site) -> None:
    alice = site.browser()
    cookie = site.set_cookie(alice, lambda session: session.update(name="alice"))
    session_id, number, signature = value_of(cookie).split(".")
    assert (len(session_id), number.isdecimal(), len(signature)) == (43, True, 43)
    assert "alice" not in cookie


@proves("5.2.d")
def test_a_login_resets_both_timeouts(clock: Clock) -> None:
    site = Site(absolute_max_age=5400)
    alice = site.browser()
    site.login(alice)
    clock.now += 3000
    site.login(alice)
    for _ in range(2):
        clock.now += 2000
        assert site.do(alice, len) == 0
        assert site.owner(alice) == "alice"


@proves("5.2.d")
def test_a_proof_resets_the_inactivity_timeout_alone(clock: Clock) -> None:
    site = Site(absolute_max_age=5400)
    alice = site.browser()
    site.login(alice)
    clock.now += 3000
    site.do(alice, Session.confirm_login)
    clock.now += 2000
    assert site.owner(alice) == "alice"
    clock.now += 400
    assert site.owner(alice) is None


@proves("5.2.e")
def test_a_page_can_ask_how_long_a_session_has_left(clock: Clock) -> None:
    site = Site(no_touch=["/"])
    alice = site.browser()
    site.login(alice)
    clock.now += 1000
    for _ in range(2):
        assert site.do(alice, lambda session: session.info.expires_in) == 2600


def test_the_log_has_neither_an_id_nor_a_cookie(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    alice = site.browser()
    session_id, _, signature = value_of(site.login(alice)).split(".")
    site.do(alice, Session.clear)
    assert caplog.text
    assert session_id not in caplog.text
    assert signature not in caplog.text


def test_a_logout_tells_the_browser_to_forget_the_site(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSION_SECRET_KEY", KEY)
    (logout,) = [found for found in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "Clear-Site-Data" in found]
    namespace = dict[str, Any](__name__="page")
    exec(compile(logout, "security.md", "exec"), namespace)
    client = TestClient(namespace["app"])
    with session_transaction(client) as session:
        session.bind("alice")
    assert client.post("/logout").headers["clear-site-data"] == '"cache", "storage"'
    assert not client.cookies
