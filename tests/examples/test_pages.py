"""The demos' pages in a real browser: what a person sees of them, by day and by night, at a desk and on a phone."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from threading import Event
from types import ModuleType
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import BrowserContext, Page, expect

from dynamodb_sessions import DynamoDBStore
from examples import chat as chat_room
from examples import sign_out_warning
from examples.agent_chat.app import create_app as create_chat
from examples.agent_chat.scripted import ScriptedModel
from examples.duel_arena.app import MAX_NAME, MAX_QUESTION, create_app
from examples.emulator import Emulator
from tests.conftest import KEY
from tests.examples.conftest import answer_late
from tests.helpers.sites import PATIENCE, Site

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parent.parent.parent
NewContext = Callable[..., BrowserContext]

DESK = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}


class Look:
    """One page as one person sees it, and what is wrong with it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.errors: list[str] = []
        page.on("console", lambda said: self.errors.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def is_fine(self) -> None:
        """Assert that nothing scrolls sideways, that axe has no serious finding, and that the console is silent."""
        assert self.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        found = Axe().run(self.page).response
        serious = [each for each in found["violations"] if each["impact"] in ("serious", "critical")]
        assert serious == [], json.dumps(serious, indent=1)
        assert self.errors == []


@pytest.fixture(params=["light at a desk", "dark at a desk", "light on a phone", "dark on a phone"])
def look(request: pytest.FixtureRequest, new_context: NewContext) -> Look:
    scheme, place = str(request.param).split(maxsplit=1)
    window = new_context(color_scheme=scheme, viewport=PHONE if place == "on a phone" else DESK)
    return Look(window.new_page())


@pytest.fixture
def desk(new_context: NewContext) -> Page:
    return new_context(viewport=DESK).new_page()


def test_a_look_finds_what_is_wrong(new_context: NewContext) -> None:
    """Else the others would prove nothing."""
    look = Look(new_context(viewport=PHONE).new_page())
    look.page.set_content('<title>Page</title><html lang="en"><input>')
    with pytest.raises(AssertionError, match="label"):
        look.is_fine()
    look.page.set_content('<title>Page</title><html lang="en"><p style="width: 400px">Wide')
    with pytest.raises(AssertionError):
        look.is_fine()
    look.page.set_content('<title>Page</title><html lang="en"><script>nothing()</script>')
    with pytest.raises(AssertionError, match="nothing"):
        look.is_fine()


# The arena.


@pytest.fixture
def arena(site: Site, table_name: str, dynamodb: Any) -> str:
    store = DynamoDBStore(table_name, client=dynamodb, create_table=True)
    assert store.probe()
    site.app = create_app(store, KEY, pace=0)
    return site.url("/", "localhost", "http")


@pytest.fixture
def own_arena(site: Site, table_name: str, emulator: Emulator) -> str:
    """The arena as it is when it is started without options: its DynamoDB can be stopped."""
    store = DynamoDBStore(table_name, endpoint_url=emulator.url, create_table=True)
    assert store.probe()
    site.app = create_app(store, KEY, pace=0, emulator=emulator)
    return site.url("/", "localhost", "http")


def enter(context: BrowserContext, arena: str, name: str = "Ada") -> Page:
    """Sign in, and unfold the devices."""
    page = context.new_page()
    page.goto(arena)
    page.get_by_label("Your name").fill(name)
    page.get_by_role("button", name="Enter the arena").click()
    page.locator("summary", has_text="Your devices").click()
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
    other.locator("summary", has_text="Your devices").click()
    expect(devices(other)).to_have_count(1)
    handle = devices(other).locator(".mono").inner_text()
    before = the_fingerprint(one)
    one.get_by_role("button", name="New id").click()
    expect(one.locator("#fingerprint")).not_to_have_text(before)
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


def sign_in(page: Page, arena: str) -> None:
    page.goto(arena)
    page.get_by_label("Your name").fill("Ada")
    page.get_by_role("button", name="Enter the arena").click()


def type_in(page: Page, label: str, text: str) -> None:
    """Type as a person does, who clicks first: what keys write to a field that is not there yet is lost."""
    field = page.get_by_label(label)
    field.click()
    field.press_sequentially(text)


def the_fingerprint(page: Page) -> str:
    """Return the digits of the session, once the panel shows them."""
    fingerprint = page.locator("#fingerprint")
    expect(fingerprint).to_have_text(re.compile("^[0-9a-f]{8}"))
    return fingerprint.inner_text()


def duel(page: Page) -> None:
    """Begin one. It is heard to the end when one can vote."""
    page.get_by_role("button", name="Tabs or spaces?").click()
    expect(page.get_by_role("button", name="Fathom takes it")).to_be_visible()


def test_nothing_is_wrong_with_the_arena_from_the_entrance_to_the_verdict(own_arena: str, look: Look) -> None:
    page = look.page
    page.goto(own_arena)
    expect(page.get_by_label("Your name")).to_be_visible()
    look.is_fine()
    page.get_by_role("button", name="Enter the arena").click()
    expect(page.get_by_text("Your name is empty.")).to_be_visible()
    expect(page.get_by_label("Your name")).to_be_focused()
    look.errors.clear()  # A browser calls it an error that a name was refused.
    look.is_fine()
    sign_in(page, own_arena)
    duel(page)
    look.is_fine()
    page.get_by_role("button", name="Fathom takes it").click()
    expect(page.locator("#blue-verdict")).to_be_visible()
    expect(page.locator("#blue-score")).to_have_text("1")
    look.is_fine()
    page.get_by_role("button", name="Another duel").click()
    page.locator("#duels summary").click()
    page.locator("summary", has_text="Your devices").click()
    look.is_fine()


def test_the_calls_of_each_request_are_in_view_without_scrolling(desk: Page, arena: str) -> None:
    sign_in(desk, arena)
    duel(desk)
    desk.get_by_role("button", name="Fathom takes it").click()
    requests = desk.get_by_label("Requests, the latest first").get_by_role("listitem")
    expect(requests.first).to_have_text(re.compile(r"POST /duels/…/vote\s*GetItem\s*UpdateItem"))
    expect(requests.filter(has_text="answers")).to_contain_text("UpdateItem after the headers")
    for request in requests.all():
        expect(request).to_be_in_viewport(ratio=1)


def test_the_focus_stays_with_who_plays_by_keyboard(desk: Page, arena: str) -> None:
    sign_in(desk, arena)
    expect(desk.get_by_role("heading", name="What shall they fight about?")).to_be_focused()
    desk.get_by_role("button", name="New id").focus()
    before = the_fingerprint(desk)
    desk.keyboard.press("Enter")
    expect(desk.locator("#fingerprint")).not_to_have_text(before)
    expect(desk.get_by_role("button", name="New id")).to_be_focused()
    duel(desk)
    desk.get_by_role("button", name="Cinder takes it").focus()
    desk.keyboard.press("Enter")
    expect(desk.locator("#red-verdict")).to_be_visible()
    expect(desk.get_by_role("button", name="Another duel")).to_be_focused()


def test_no_button_can_be_clicked_in_vain_while_an_answer_is_awaited(desk: Page, arena: str) -> None:
    sign_in(desk, arena)
    answer_late(desk, "/api/new-id")
    before = the_fingerprint(desk)
    desk.get_by_role("button", name="New id").click()
    duel(desk)  # Playwright clicks once the pointer reaches the button.
    expect(desk.locator("#fingerprint")).not_to_have_text(before)


def test_what_is_typed_is_no_longer_than_the_server_takes(desk: Page, arena: str) -> None:
    desk.goto(arena)
    type_in(desk, "Your name", "🐈" * MAX_NAME)
    desk.get_by_role("button", name="Enter the arena").click()
    expect(desk.locator("#player")).to_have_text("🐈" * (MAX_NAME // 2))
    type_in(desk, "Or a question of your own", "?" * (MAX_QUESTION + 1))
    desk.get_by_role("button", name="Start the duel").click()
    expect(desk.locator("#asked")).to_have_text("?" * MAX_QUESTION)


def test_who_asks_to_be_remembered_sees_for_how_long(desk: Page, arena: str) -> None:
    sign_in(desk, arena)
    expect(desk.locator("#expires")).to_have_text(re.compile(r"^(59:\d\d|1:00:00)$"))
    desk.get_by_role("button", name="Sign out").click()
    desk.get_by_label("Remember me for 30 days").check()
    sign_in_again = desk.get_by_label("Your name")
    sign_in_again.fill("Ada")
    sign_in_again.press("Enter")
    expect(desk.locator("#expires")).to_have_text("30 days")


def test_two_changes_of_the_same_moment_both_stay(desk: Page, own_arena: str) -> None:
    sign_in(desk, own_arena)
    for count in (1, 2):
        desk.get_by_role("button", name="Two at once").click()
        expect(desk.locator("#cheered")).to_contain_text(f"Kept are {count}\u00a0:\u00a0{count}.")


def test_one_can_stop_dynamodb_and_start_it_and_nothing_is_lost(own_arena: str, look: Look) -> None:
    page = look.page
    sign_in(page, own_arena)
    duel(page)
    page.get_by_role("button", name="Stop DynamoDB").click()
    expect(page.locator("#mode")).to_have_text("DynamoDB is away")
    expect(page.get_by_role("alert")).to_contain_text("Nothing is lost")
    page.get_by_role("button", name="Cinder takes it").click()
    expect(page.get_by_label("Requests, the latest first")).to_contain_text("POST /duels/…/vote, 503")
    assert look.errors
    assert all("503" in error for error in look.errors)
    look.errors.clear()
    page.evaluate("document.getAnimations().forEach((each) => each.finish())")
    page.reload()
    expect(page.get_by_role("heading", name="The doors are still closed.")).to_be_visible()
    page.get_by_role("button", name="Start DynamoDB").click()
    expect(page.locator("#mode")).to_have_text("DynamoDB")
    expect(page.get_by_role("alert")).to_be_hidden()
    expect(page.locator("#player")).to_have_text("Ada")
    page.get_by_role("button", name="Cinder takes it").click()
    expect(page.locator("#red-score")).to_have_text("1")


def test_a_dynamodb_that_is_not_the_demos_own_cannot_be_stopped(desk: Page, arena: str) -> None:
    sign_in(desk, arena)
    expect(desk.locator("#mode")).to_have_text("DynamoDB")
    expect(desk.locator("#switch")).to_be_hidden()


# The agent chat.


@pytest.fixture
def chat_with(site: Site, table_name: str, moto_url: str) -> Callable[[ScriptedModel], str]:
    """Return a function that serves the chat with a model, and returns its address."""
    place: dict[str, Any] = {"endpoint_url": moto_url, "create_table": True}

    def serve(model: ScriptedModel) -> str:
        store = DynamoDBStore(table_name, **place)
        site.app = create_chat(store, model, secret_key=KEY, table_name=f"{table_name}-c", **place)
        return site.url("/page", "localhost", "http")

    return serve


@pytest.fixture
def chat(chat_with: Callable[[ScriptedModel], str]) -> str:
    return chat_with(ScriptedModel())


def log_in(page: Page, chat: str, name: str = "Ada") -> None:
    page.goto(chat)
    page.get_by_label("Your name").fill(name)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_label("Your message")).to_be_focused()


def say(page: Page, text: str) -> None:
    page.get_by_label("Your message").fill(text)
    page.keyboard.press("Enter")
    expect(page.get_by_role("log").locator("p").last).to_contain_text(f"You said: {text}")
    expect(page.get_by_role("log")).to_have_attribute("aria-busy", "false")


def test_nothing_is_wrong_with_the_chat_from_login_to_logout(look: Look, chat: str) -> None:
    page = look.page
    page.goto(chat)
    expect(page.get_by_label("Your name")).to_be_focused()
    look.is_fine()
    log_in(page, chat)
    expect(page.get_by_label("Your name")).to_be_hidden()
    look.is_fine()
    say(page, "My cat is " + "very " * 50 + "old, and its name is " + "B" * 200)
    look.is_fine()
    expect(page.get_by_label("Your message")).to_be_focused()
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("Your name")).to_be_focused()
    expect(page.get_by_label("Your message")).to_be_hidden()
    expect(page.locator("#messages")).to_be_empty()
    look.is_fine()


class Pausing(ScriptedModel):
    """Says nothing more after the word "then" until it may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = Event()

    async def stream_response(self, *args: Any, **options: Any) -> AsyncIterator[Any]:
        async for event in super().stream_response(*args, **options):
            yield event
            if getattr(event, "delta", "").strip() == "then":
                await asyncio.to_thread(self.go_on.wait, PATIENCE)


def test_the_chat_scrolls_with_the_answer_but_not_away_from_who_reads_above(
    chat_with: Callable[[ScriptedModel], str], new_context: NewContext
) -> None:
    model, page = Pausing(), new_context(viewport=PHONE).new_page()
    log_in(page, chat_with(model))
    log, message = page.get_by_role("log"), page.get_by_label("Your message")
    below = "log => log.scrollHeight - log.scrollTop - log.clientHeight"
    say(page, "One. " * 100)
    assert log.evaluate(below) < 2
    message.fill("Two, then three. " * 20)
    page.keyboard.press("Enter")
    expect(log.locator("p").last).to_have_text(re.compile("You said: Two, then$"))
    assert log.evaluate(below) < 2
    log.evaluate("log => { log.scrollTop = 10 }")
    model.go_on.set()
    expect(log).to_have_attribute("aria-busy", "false")
    assert log.evaluate("log => log.scrollTop") == 10
    # The form stays where it is, below.
    expect(message).to_be_in_viewport(ratio=1)
    assert page.evaluate("document.documentElement.scrollHeight <= innerHeight")


def test_the_chat_lists_conversations_and_opens_them(desk: Page, chat: str) -> None:
    log_in(desk, chat)
    listed, log = desk.locator("#conversations").get_by_role("button"), desk.get_by_role("log")
    expect(listed).to_have_count(0)
    say(desk, "My cat is Bob.")
    expect(listed).to_have_text(["My cat is Bob."])
    desk.get_by_role("button", name="New conversation").click()
    expect(log).to_be_empty()
    expect(desk.get_by_label("Your message")).to_be_focused()
    say(desk, "Another matter.")
    expect(listed).to_have_count(2)
    expect(desk.locator("#conversations [aria-current]")).to_have_text("Another matter.")
    listed.filter(has_text="Bob").click()
    expect(log.locator("p").first).to_have_text("You: My cat is Bob.")
    expect(desk.locator("#conversations [aria-current]")).to_have_text("My cat is Bob.")


def test_what_is_sent_while_another_conversation_opens_is_shown_in_that_one(desk: Page, chat: str) -> None:
    log_in(desk, chat)
    say(desk, "My cat is Bob.")
    answer_late(desk, "/history")
    desk.get_by_role("button", name="New conversation").click()
    say(desk, "Another matter.")
    expect(desk.get_by_role("log").locator("p")).to_have_count(2)
    expect(desk.locator("#conversations [aria-current]")).to_have_text("Another matter.")


def test_the_chat_sends_what_was_submitted_and_keeps_what_was_typed_since(desk: Page, chat: str) -> None:
    log_in(desk, chat)
    answer_late(desk, "/history")
    sent: list[Any] = []
    desk.on("request", lambda request: sent.append(request.post_data_json) if request.url.endswith("/chat") else None)
    desk.get_by_role("button", name="New conversation").click()
    message = desk.get_by_label("Your message")
    message.fill("Yes")
    message.press("Enter")
    message.press_sequentially(", but not today")
    message.press("Enter")
    expect(desk.get_by_role("log").locator("p").last).to_contain_text("You said: Yes")
    expect(desk.get_by_role("log")).to_have_attribute("aria-busy", "false")
    expect(message).to_have_value("Yes, but not today")
    assert sent == [{"text": "Yes"}]


def test_one_can_log_out_of_the_chat_though_an_answer_hangs(desk: Page, chat: str) -> None:
    log_in(desk, chat)
    desk.route("**/chat", lambda _: None)
    desk.get_by_label("Your message").fill("My cat is Bob.")
    desk.keyboard.press("Enter")
    desk.get_by_role("button", name="Log out").click()
    expect(desk.get_by_label("Your name")).to_be_focused()
    expect(desk.get_by_role("alert")).to_be_hidden()


def test_whoever_logs_out_while_the_agent_speaks_is_told_of_no_trouble(
    chat_with: Callable[[ScriptedModel], str], desk: Page
) -> None:
    model = Pausing()
    log_in(desk, chat_with(model))
    desk.get_by_label("Your message").fill("One, then two.")
    desk.keyboard.press("Enter")
    expect(desk.get_by_role("log").locator("p").last).to_have_text(re.compile("You said: One, then$"))
    desk.get_by_role("button", name="Log out").click()
    expect(desk.get_by_label("Your name")).to_be_focused()
    with desk.expect_event("requestfinished", lambda request: request.url.endswith("/chat")):
        model.go_on.set()
    desk.evaluate("() => new Promise((resolve) => setTimeout(resolve, 200))")
    expect(desk.get_by_role("alert")).to_be_hidden()


def test_the_chat_keeps_what_was_typed_when_it_cannot_be_sent(desk: Page, chat: str) -> None:
    log_in(desk, chat)
    desk.route("**/chat", lambda route: route.fulfill(status=503))
    desk.get_by_label("Your message").fill("My cat is Bob.")
    desk.keyboard.press("Enter")
    expect(desk.get_by_role("alert")).to_contain_text("That did not work")
    expect(desk.get_by_label("Your message")).to_have_value("My cat is Bob.")
    desk.unroute("**/chat")
    desk.keyboard.press("Enter")
    expect(desk.get_by_role("log").locator("p").last).to_contain_text("You said: My cat is Bob.")
    expect(desk.get_by_role("alert")).to_be_hidden()


# The pages of the small examples.


@pytest.mark.parametrize("example", [chat_room, sign_out_warning])
def test_nothing_is_wrong_with_the_page_of_a_small_example(
    site: Site, look: Look, example: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SESSION_SECRET_KEY", KEY)
    site.app = example.app
    look.page.goto(site.url("/", "localhost", "http"))
    look.is_fine()


# The pictures.

SCREENSHOTS = PROJECT / "docs" / "screenshots.py"
IMAGES = PROJECT / "docs" / "images"


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def test_the_pictures_can_be_taken_again_and_are_small(tmp_path: Path, chromium_path: str) -> None:
    """They are shown by README, which everybody loads."""
    environment = os.environ | {"CHROMIUM": chromium_path, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, SCREENSHOTS, tmp_path], env=environment, check=True)
    taken = {path.name: size_of(path) for path in tmp_path.iterdir()}
    assert taken == {"arena-light.png": (1280, 800), "arena-dark.png": (1280, 800), "agent-chat.png": (1000, 640)}
    assert taken == {name: size_of(IMAGES / name) for name in taken}
    for folder in (tmp_path, IMAGES):
        assert all((folder / name).stat().st_size < 150_000 for name in taken)
