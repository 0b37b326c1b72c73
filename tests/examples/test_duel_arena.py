"""The demo, played through as a browser would, and started as a person would."""

import hashlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import boto3
import httpx
import pytest

from dynamodb_sessions import DynamoDBStore
from examples.duel_arena import app as arena_app
from examples.duel_arena import contenders
from examples.duel_arena.__main__ import main, secret_key
from examples.duel_arena.app import MAX_AGE, MAX_DEVICES, MAX_DUELS, REMEMBERED, STATIC, TOUCH_AFTER, create_app
from examples.duel_arena.browsers import browser_of
from examples.duel_arena.calls import HEADER
from examples.emulator import Emulator
from tests.conftest import KEY

ROOT = Path(__file__).parent.parent.parent

pytestmark = pytest.mark.anyio


class Arena:
    """A table, and as many browsers and web processes on it as a test wants."""

    def __init__(self, table_name: str, dynamodb: Any) -> None:
        self.table_name = table_name
        self.dynamodb = dynamodb

    def browser(self, cookies: httpx.Cookies | None = None, **options: Any) -> httpx.AsyncClient:
        """Return a browser in front of a web process of its own."""
        store = DynamoDBStore(self.table_name, client=self.dynamodb, create_table=True)
        assert store.probe()
        app = create_app(store, KEY, pace=0, **options)
        return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://arena", cookies=cookies)

    @property
    def items(self) -> list[dict[str, Any]]:
        """The sessions in the table, without what says that one has moved or an owner's were ended."""
        items = self.dynamodb.scan(TableName=self.table_name)["Items"]
        return [item for item in items if "user_data" in item]


@pytest.fixture
def arena(table_name: str, dynamodb: Any) -> Arena:
    return Arena(table_name, dynamodb)


@pytest.fixture
def emulator_url(emulator: Emulator) -> str:
    return emulator.url


async def post(browser: httpx.AsyncClient, path: str, **body: Any) -> httpx.Response:
    # As JavaScript would, whatever the text; httpx's own encoding refuses half a character.
    return await browser.post(
        f"/api{path}", content=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )


async def get(browser: httpx.AsyncClient, path: str) -> Any:
    response = await browser.get(f"/api{path}")
    assert response.status_code == 200
    return response.json()


async def start(browser: httpx.AsyncClient, **what: Any) -> str:
    response = await post(browser, "/duels", **what)
    assert response.status_code == 201
    name: str = response.json()["id"]
    return name


def spoken(response: httpx.Response) -> dict[str, str]:
    """Return what each corner said in a stream."""
    *words, end = [json.loads(line) for line in response.text.splitlines()]
    assert end == {"end": True}
    return {corner: " ".join(said["word"] for said in words if said["corner"] == corner) for corner in ("red", "blue")}


def session_id(browser: httpx.AsyncClient) -> str:
    return browser.cookies["duel_arena"].partition(".")[0]


async def test_a_duel_from_the_entrance_to_the_verdict(arena: Arena) -> None:
    async with arena.browser() as browser:
        signed_in = await post(browser, "/sign-in", name="  Ada   Lovelace ")
        assert signed_in.json()["player"] == "Ada Lovelace"
        assert signed_in.json()["score"] == {"red": 0, "blue": 0}

        duel = await start(browser, topic="tabs")
        said = spoken(await post(browser, f"/duels/{duel}/answers"))
        assert contenders.answers(duel, "Tabs or spaces?", contenders.TOPICS["tabs"]) == said

        # The answers were saved after the headers had gone: another web process finds them in the table.
        async with arena.browser(browser.cookies) as other:
            assert [said] == [duel["answers"] for duel in (await get(other, "/arena"))["duels"]]
            voted = await post(other, f"/duels/{duel}/vote", corner="blue")
            assert voted.json()["score"] == {"red": 0, "blue": 1}

        state = await get(browser, "/arena")
        assert ("blue", said, {"red": 0, "blue": 1}) == (
            state["duels"][0]["vote"],
            state["duels"][0]["answers"],
            state["score"],
        )
        assert (await post(browser, f"/duels/{duel}/vote", corner="red")).status_code == 409


async def test_a_new_id_keeps_the_login_and_signing_out_deletes_the_item(arena: Arena) -> None:
    async with arena.browser() as browser:
        await post(browser, "/sign-in", name="Ada")
        before = session_id(browser)
        assert [before] == [item["session_id"]["S"] for item in arena.items]
        assert arena.items[0]["owner"]["S"] == "Ada"

        await post(browser, "/new-id")
        assert before != session_id(browser)
        assert [session_id(browser)] == [item["session_id"]["S"] for item in arena.items]
        assert (await get(browser, "/arena"))["player"] == "Ada"

        await post(browser, "/sign-out")
        assert arena.items == []
        assert "duel_arena" not in browser.cookies
        assert (await get(browser, "/arena"))["player"] is None


async def test_a_vote_while_they_still_speak_is_kept(arena: Arena) -> None:
    """The stream's session was loaded before the vote, and is saved after it."""
    async with arena.browser() as other:
        voted: list[httpx.Response] = []

        async def words(texts: dict[str, str], pace: float) -> Any:
            async for said in speak(texts, pace):
                if not voted:
                    voted.append(await post(other, f"/duels/{duel}/vote", corner="red"))
                yield said

        speak = contenders.speak
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(contenders, "speak", words)
            await post(other, "/sign-in", name="Ada")
            duel = await start(other, topic="cats")
            async with arena.browser(other.cookies) as browser:
                said = spoken(await post(browser, f"/duels/{duel}/answers"))
        state = await get(other, "/arena")
        assert voted[0].status_code == 200
        assert ("red", said) == (state["duels"][0]["vote"], state["duels"][0]["answers"])


async def test_who_asks_to_be_remembered_stays_for_30_days(arena: Arena) -> None:
    async with arena.browser() as browser:
        for remember, seconds in ((True, REMEMBERED), (False, MAX_AGE), ("yes", MAX_AGE)):
            signed_in = await post(browser, "/sign-in", name="Ada", remember=remember)
            assert f"Max-Age={seconds}" in signed_in.headers["Set-Cookie"]
            panel = await get(browser, "/panel")
            assert panel["lifetime"] == seconds
            assert panel["expires_in"] in range(seconds - 10, seconds + 1)


@pytest.mark.parametrize("engine", ["the demo's own", "local"])
async def test_two_cheers_of_the_same_moment_both_count(
    engine: str, table_name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request has read the session before the other saves it."""
    url = request.getfixturevalue("dynamodb_local_url" if engine == "local" else "emulator_url")
    both_have_read, reading = anyio.Event(), []

    async def wait_for_the_other(_: float) -> None:
        reading.append(1)
        if len(reading) == 2:
            both_have_read.set()
        await both_have_read.wait()

    arena = Arena(table_name, boto3.client("dynamodb", endpoint_url=url, region_name="us-east-1"))
    async with arena.browser() as browser:
        await post(browser, "/sign-in", name="Ada")
        monkeypatch.setattr(arena_app, "sleep", wait_for_the_other)
        async with anyio.create_task_group() as requests:
            for corner in ("red", "blue"):
                requests.start_soon(partial(post, browser, "/cheers", corner=corner))
        assert (await get(browser, "/arena"))["cheers"] == {"red": 1, "blue": 1}


async def test_when_dynamodb_goes_away_requests_are_refused_and_nothing_is_lost(
    emulator: Emulator, table_name: str
) -> None:
    arena = Arena(table_name, boto3.client("dynamodb", endpoint_url=emulator.url, region_name="us-east-1"))
    async with arena.browser(emulator=emulator) as browser:

        async def switch(running: bool) -> None:
            for _ in range(2):  # To press it twice is to press it once.
                assert (await post(browser, "/emulator", running=running)).json() == {"running": running}
            assert await get(browser, "/emulator") == {"running": running}

        await post(browser, "/sign-in", name="Ada")
        duel = await start(browser, topic="tabs")
        before, cookies = await get(browser, "/arena"), dict(browser.cookies)

        await switch(running=False)
        refused = [
            await browser.get("/api/arena"),
            await browser.get("/api/panel"),
            await post(browser, f"/duels/{duel}/vote", corner="red"),
            await post(browser, "/sign-out"),
        ]
        assert [response.status_code for response in refused] == [503] * len(refused)
        assert (await browser.get("/")).status_code == 200
        assert dict(browser.cookies) == cookies

        await switch(running=True)
        with anyio.fail_after(20):
            while (await browser.get("/api/panel")).status_code == 503:
                """The breaker lets nobody ask, for a second at most."""
        assert await get(browser, "/arena") == before


async def test_only_a_dynamodb_of_the_demos_own_can_be_stopped(arena: Arena) -> None:
    async with arena.browser() as browser:
        assert await get(browser, "/emulator") == {"running": None}
        assert (await post(browser, "/emulator", running=False)).json() == {"running": None}
        assert (await browser.get("/api/panel")).status_code == 200


async def test_another_sites_form_cannot_stop_it(emulator: Emulator, arena: Arena) -> None:
    async with arena.browser(emulator=emulator) as browser:
        assert (await browser.post("/api/emulator", data={"running": ""})).status_code == 415
        assert await get(browser, "/emulator") == {"running": True}


async def test_the_panel_shows_what_the_middleware_does(arena: Arena) -> None:
    async with arena.browser() as browser:
        nobody = await get(browser, "/panel")
        assert tuple(nobody[key] for key in ("signed_in", "session", "size", "expires_in")) == (False, None, 0, None)

        await post(browser, "/sign-in", name="Ada")
        duel = await start(browser, topic="aliens")
        before = await get(browser, "/panel")
        await post(browser, f"/duels/{duel}/answers")
        panel = await get(browser, "/panel")

        assert panel["mode"] == "dynamodb"
        assert panel["reason"]
        assert panel["signed_in"] is True
        assert hashlib.sha256(session_id(browser).encode()).hexdigest()[:8] == panel["session"]
        assert session_id(browser) not in json.dumps(panel)
        assert before["size"] < panel["size"] < 3000
        assert 3590 <= panel["expires_in"] <= 3600
        limit, late = sorted(panel["late"], key=lambda each: str(each["path"]).endswith("/answers"))
        assert limit["operations"] == ["Query"], "too many devices? No response waits for the answer"
        assert late["path"].endswith(f"/duels/{duel}/answers")
        assert late["operations"] == ["UpdateItem"]

    async with arena.browser() as stranger:
        await post(stranger, "/sign-in", name="Eve")
        own = (await get(stranger, "/panel"))["late"]
        assert [call["path"] for call in own] == ["/api/sign-in"], "nobody sees the calls of others"


@asynccontextmanager
async def signed_in(arena: Arena, *names: str, **options: Any) -> AsyncIterator[list[httpx.AsyncClient]]:
    """Browsers in front of web processes of their own, one for each name."""
    async with AsyncExitStack() as stack:
        browsers = [await stack.enter_async_context(arena.browser(**options)) for _ in names]
        for browser, name in zip(browsers, names, strict=True):
            assert (await post(browser, "/sign-in", name=name)).status_code == 200
        yield browsers


async def devices_of(browser: httpx.AsyncClient) -> list[dict[str, Any]]:
    shown = await get(browser, "/devices")
    devices: list[dict[str, Any]] = shown["devices"]
    return devices


async def handle_of(browser: httpx.AsyncClient) -> str:
    (handle,) = [str(device["handle"]) for device in await devices_of(browser) if device["here"]]
    return handle


async def test_a_player_sees_every_device_and_this_one_first(arena: Arena) -> None:
    async with signed_in(arena, "Ada", "Eve", "Ada") as (laptop, stranger, phone):
        await post(phone, "/sign-in", name="Ada")  # The same device, in the place of its former self.
        shown = await get(phone, "/devices")
        assert shown["player"] == "Ada"
        this, other = shown["devices"]
        assert [device["here"] for device in (this, other)] == [True, False]
        assert [this["handle"], other["handle"]] == [await handle_of(phone), await handle_of(laptop)]
        assert abs(time.time() - other["since"]) < 60
        assert this["browser"] == browser_of(phone.headers["User-Agent"])
        text = json.dumps(shown)
        assert all(session_id(browser) not in text for browser in (laptop, stranger, phone))
        assert len(await devices_of(stranger)) == 1

        await post(phone, "/new-id")
        assert await handle_of(phone) == this["handle"], "a new id is the same device"


async def test_a_device_was_last_seen_when_it_last_asked(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    async with signed_in(arena, "Ada", "Ada") as (one, other):
        now = time.time()

        async def idle(after: float) -> int:
            monkeypatch.setattr(time, "time", lambda: now + after)
            seconds: int = (await devices_of(one))[1]["idle"]
            return seconds

        assert await idle(300) in range(299, 302)
        await get(other, "/arena")
        assert await idle(300 + TOUCH_AFTER) in range(TOUCH_AFTER - 1, TOUCH_AFTER + 2)


async def test_ending_all_others_signs_them_out_on_their_very_next_request(arena: Arena) -> None:
    async with signed_in(arena, "Ada", "Ada", "Eve", "Ada") as (one, other, stranger, another):
        left = (await post(one, "/devices/end-others")).json()["devices"]
        assert [device["handle"] for device in left] == [await handle_of(one)]
        for ended in (other, another):
            assert (await get(ended, "/arena"))["player"] is None
        assert (await get(one, "/arena"))["player"] == "Ada"
        assert (await get(stranger, "/arena"))["player"] == "Eve"
        assert len(arena.items) == 2


async def test_one_device_can_be_ended(arena: Arena) -> None:
    async with signed_in(arena, "Ada", "Ada", "Ada") as (one, other, another):
        device = await handle_of(other)
        left = (await post(one, "/devices/end", device=device)).json()["devices"]
        assert len(left) == 2
        assert [(await get(browser, "/arena"))["player"] for browser in (one, other, another)] == ["Ada", None, "Ada"]
        assert (await post(one, "/devices/end", device=device)).status_code == 404


async def test_only_ones_own_devices_can_be_ended(arena: Arena) -> None:
    async with signed_in(arena, "Ada", "Eve") as (victim, stranger):
        handle, fingerprint = await handle_of(victim), (await get(victim, "/panel"))["session"]
        for device in (handle, fingerprint, session_id(victim), "", None, [handle], {"$ne": ""}):
            assert (await post(stranger, "/devices/end", device=device)).status_code == 404
        assert (await post(stranger, "/devices/end")).status_code == 404
        assert len(arena.items) == 2


async def test_to_end_the_own_device_is_to_sign_out(arena: Arena) -> None:
    async with signed_in(arena, "Ada", "Ada") as (one, other):
        ended = await post(one, "/devices/end", device=await handle_of(one))
        assert ended.json() == {"player": None, "devices": []}
        assert "duel_arena" not in one.cookies
        assert [(await get(browser, "/arena"))["player"] for browser in (one, other)] == [None, "Ada"]


async def test_one_sign_in_too_many_ends_the_oldest(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    async with AsyncExitStack() as stack:
        browsers = [await stack.enter_async_context(arena.browser()) for _ in range(MAX_DEVICES + 1)]
        for age, browser in enumerate(browsers):
            monkeypatch.setattr(time, "time", lambda moment=now + age: moment)
            await post(browser, "/sign-in", name="Ada")
        assert len(await devices_of(browsers[-1])) == MAX_DEVICES
        assert [(await get(browser, "/arena"))["player"] for browser in browsers] == [None] + MAX_DEVICES * ["Ada"]


async def test_devices_are_known_in_memory_too(table_name: str, dynamodb: Any) -> None:
    app = create_app(DynamoDBStore(table_name, client=dynamodb), KEY, pace=0)  # A table that is not there.

    def browser() -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://arena")

    async with browser() as one, browser() as other:
        for client in (one, other):
            await post(client, "/sign-in", name="Ada")
        assert (await get(one, "/panel"))["mode"] == "memory"
        assert len(await devices_of(one)) == 2
        await post(one, "/devices/end-others")
        assert (await get(other, "/arena"))["player"] is None


async def test_without_the_index_the_arena_goes_on_and_says_what_is_missing(arena: Arena) -> None:
    arena.dynamodb.create_table(
        TableName=arena.table_name,
        KeySchema=[{"AttributeName": "session_id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "session_id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    async with signed_in(arena, "Ada") as (browser,):
        refused = await browser.get("/api/devices")
        assert refused.status_code == 503
        assert refused.json()["error"].startswith("DynamoDB said")
        assert (await get(browser, "/arena"))["player"] == "Ada"


@pytest.mark.parametrize(
    ("user_agent", "browser"),
    [
        ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox on Linux"),
        ("Mozilla/5.0 (Windows NT 10.0) Chrome/140.0.0.0 Safari/537.36 Edg/140.0.0.0", "Edge on Windows"),
        ("Mozilla/5.0 (Windows NT 10.0) Chrome/140.0.0.0 Safari/537.36 OPR/122.0.0.0", "Opera on Windows"),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) Version/18.5 Safari/605.1.15", "Safari on macOS"),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) CriOS/140.0 Safari/604.1", "Chrome on iPhone"),
        ("Mozilla/5.0 (Linux; Android 15) Chrome/140.0.0.0 Mobile Safari/537.36", "Chrome on Android"),
        ("<b>curl</b>" * 1000, "Some browser"),
        ("", "Some browser"),
    ],
)
def test_a_browser_is_named_in_words_of_ours(user_agent: str, browser: str) -> None:
    assert browser_of(user_agent) == browser


async def test_every_answer_says_which_calls_it_took(arena: Arena) -> None:
    async with arena.browser() as browser:
        assert (await browser.get("/api/arena")).headers[HEADER] == ""
        assert (await post(browser, "/sign-in", name="Ada")).headers[HEADER] == "PutItem"
        assert (await browser.get("/api/arena")).headers[HEADER] == "GetItem"
        started = await post(browser, "/duels", topic="tabs")
        assert started.headers[HEADER] == "GetItem, UpdateItem"
        # What a stream saves comes too late for a header.
        assert (await post(browser, f"/duels/{started.json()['id']}/answers")).headers[HEADER] == "GetItem"
        assert (await browser.get("/api/devices")).headers[HEADER] == "GetItem, Query, GetItem"
        assert (await post(browser, "/new-id")).headers[HEADER] == "GetItem, TransactWriteItems"
        assert (await post(browser, "/sign-out")).headers[HEADER] == "GetItem, DeleteItem"
        assert HEADER not in (await browser.get("/")).headers


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "empty"),
        (" \t\n ", "empty"),
        ("\u200b\u200d", "empty"),
        (None, "empty"),
        (["Ada"], "empty"),
        ("x" * 41, "too long"),
        ("🐈" * 21, "too long"),  # As a browser counts them.
        ("Ada\u0000", "cannot be shown"),
        ("Ada\ud800", "cannot be shown"),
    ],
)
async def test_a_name_that_is_none_is_refused(arena: Arena, name: object, why: str) -> None:
    async with arena.browser() as browser:
        refused = await post(browser, "/sign-in", name=name)
        assert refused.status_code == 422
        assert why in refused.json()["error"]
        assert arena.items == []


@pytest.mark.parametrize(
    "name", ["x" * 40, "🐈" * 20, "Łukasz", "👩‍💻", "<script>alert(1)</script>", "O'Brien & Söhne"]
)
async def test_any_other_name_is_taken_as_it_is(arena: Arena, name: str) -> None:
    async with arena.browser() as browser:
        await post(browser, "/sign-in", name=name)
        assert name == (await get(browser, "/arena"))["player"]


async def test_only_json_from_its_own_page_is_taken(arena: Arena) -> None:
    async with arena.browser() as browser:

        async def refused(headers: dict[str, str], content: bytes = b'{"name": "Ada"}') -> int:
            return (await browser.post("/api/sign-in", headers=headers, content=content)).status_code

        json_type = {"Content-Type": "application/json"}
        assert (await browser.post("/api/sign-in", data={"name": "Ada"})).status_code == 415
        assert await refused({"Content-Type": "text/plain"}) == 415
        assert await refused(json_type | {"Sec-Fetch-Site": "cross-site"}) == 403
        assert await refused(json_type, b"{") == 400
        assert await refused(json_type, b"[]") == 400
        assert await refused(json_type, b"\xff") == 400
        assert await refused(json_type, b" " * 5000) == 413
        assert (await browser.get("/api/sign-out")).status_code == 405
        assert arena.items == []

        await post(browser, "/sign-in", name="Ada")
        for path in ("/sign-in", "/sign-out", "/new-id", "/duels", "/devices/end", "/devices/end-others"):
            assert (await browser.post(f"/api{path}", data={})).status_code == 415
        assert (await get(browser, "/arena"))["player"] == "Ada"


async def test_who_has_not_signed_in_cannot_play(arena: Arena) -> None:
    async with arena.browser() as browser:
        for path in ("/cheers", "/duels", "/duels/0/answers", "/duels/0/vote", "/new-id", "/devices/end"):
            refused = await post(browser, path, topic="tabs")
            assert (refused.status_code, refused.json()["error"]) == (401, "Sign in first.")
        assert (await browser.get("/api/devices")).status_code == 401
        assert arena.items == []


async def test_what_does_not_exist_is_refused(arena: Arena) -> None:
    async with arena.browser() as browser:
        await post(browser, "/sign-in", name="Ada")
        duel = await start(browser, topic="tabs")
        assert (await post(browser, "/duels/0/answers")).status_code == 404
        for corner in ("green", None, ["red"]):
            assert (await post(browser, f"/duels/{duel}/vote", corner=corner)).status_code == 422
            assert (await post(browser, "/cheers", corner=corner)).status_code == 422
        assert (await post(browser, "/duels", topic="tariffs")).status_code == 422
        assert (await post(browser, "/duels", question="?" * 141)).status_code == 422


async def test_only_the_last_duels_are_remembered(arena: Arena) -> None:
    async with arena.browser() as browser:
        await post(browser, "/sign-in", name="Ada")
        duels = [await start(browser, question=f"Question {number}") for number in range(MAX_DUELS)]
        await post(browser, f"/duels/{duels[0]}/answers")
        duels.append(await start(browser, question="One more"))
        kept = await get(browser, "/arena")
        assert duels[:0:-1] == [duel["id"] for duel in kept["duels"]]
        assert f"answers:{duels[0]}" not in arena.items[0]["user_data"]["M"]


async def test_a_server_that_closes_does_not_wait_for_the_last_word(arena: Arena) -> None:
    async with arena.browser(closing=lambda: True) as browser:
        await post(browser, "/sign-in", name="Ada")
        duel = await start(browser, topic="tabs")
        assert (await post(browser, f"/duels/{duel}/answers")).text == ""
        assert (await get(browser, "/arena"))["duels"][0]["answers"] is None


async def test_the_page_may_use_nothing_but_its_own_files(arena: Arena) -> None:
    async with arena.browser() as browser:
        page = await browser.get("/")
        assert page.status_code == 200
        assert "default-src 'self'" in page.headers["Content-Security-Policy"]
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|https?://", page.text)
        for path in re.findall(r'(?:src|href)="(/[^"]+)"', page.text):
            assert (await browser.get(path)).status_code == 200
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", (STATIC / "arena.js").read_text())


async def test_each_topic_has_two_different_voices() -> None:
    for topic in contenders.TOPICS.values():
        answers = contenders.answers("seed", topic.question, topic)
        assert answers == contenders.answers("seed", topic.question, topic)
        assert answers["red"] != answers["blue"]
        for text in answers.values():
            assert 40 <= len(text.split()) <= 90


async def test_a_question_of_ones_own_is_quoted_as_it_is() -> None:
    question = "Is {question} a {0}, <b>really</b>"
    for text in contenders.answers("seed", question, None).values():
        assert f"“{question}?”" in text


def test_it_starts_with_one_command_and_ends_without_a_word(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "examples.duel_arena", "--port", "0"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(3)]
        url = re.search(r"http://127\.0\.0\.1:\d+", said[1])
        assert url, said
        assert "emulated DynamoDB" in said[2]
        with httpx.Client(base_url=url[0]) as browser:
            assert browser.get("/").status_code == 200
            assert browser.post("/api/sign-in", json={"name": "Ada"}).json()["player"] == "Ada"
    finally:
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=20)
    assert (process.returncode, rest) == (0, "")
    key = tmp_path / ".duel_arena.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert len(key.read_text()) >= 43


def test_a_port_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit) as ended:
        main(["--port", str(taken.getsockname()[1])])
    assert re.fullmatch(r"Cannot listen on 127\.0\.0\.1:\d+: [^\n]+", str(ended.value))


def test_the_key_is_made_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = secret_key()
    assert made
    assert made == secret_key()
    monkeypatch.setenv("SESSION_SECRET_KEY", KEY)
    assert secret_key() is None
