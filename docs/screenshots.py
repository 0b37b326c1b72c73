"""Take the pictures of the demos again: `python docs/screenshots.py [folder]`.

It wants Chromium and the extra `dev`.
"""

import contextlib
import os
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import boto3
import uvicorn
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

sys.path.insert(0, str(Path(__file__).parent.parent))

from dynamodb_sessions import DynamoDBStore
from examples.agent_chat.app import create_app as create_chat
from examples.agent_chat.scripted import ScriptedModel
from examples.duel_arena.app import create_app as create_arena
from examples.emulator import Emulator

IMAGES = Path(__file__).parent / "images"
KEY = "the-key-of-pictures-and-of-nothing-else"
PATIENCE = 60
"""Seconds for what takes one when nothing else runs."""


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    expect.set_options(timeout=PATIENCE * 1000)
    emulator = Emulator()
    client = boto3.client(
        "dynamodb",
        endpoint_url=emulator.url,
        region_name="us-east-1",
        aws_access_key_id="pictures",
        aws_secret_access_key="pictures",  # noqa: S106 - the emulator does not mind
    )
    store = DynamoDBStore(client=client, create_table=True)
    store.probe()
    arena = create_arena(store, KEY, pace=0.03, emulator=emulator)
    chat = create_chat(store, ScriptedModel(), secret_key=KEY, client=client, create_table=True)
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        pictures: list[tuple[str, Any, Callable[[Page], None], dict[str, Any]]] = [
            ("arena-light", arena, play_a_duel, {"color_scheme": "light", "viewport": {"width": 1280, "height": 800}}),
            ("arena-dark", arena, play_a_duel, {"color_scheme": "dark", "viewport": {"width": 1280, "height": 800}}),
            ("agent-chat", chat, talk, {"color_scheme": "light", "viewport": {"width": 1000, "height": 640}}),
        ]
        for name, app, play, look in pictures:
            with serve(app) as url, browser.new_page(reduced_motion="reduce", **look) as page:
                page.goto(url)
                play(page)
                page.mouse.move(0, 0)
                picture = Image.open(BytesIO(page.screenshot())).convert("RGB")
            # 256 colours are enough for a page, and take a quarter of the bytes.
            picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
                folder / f"{name}.png", optimize=True
            )
        browser.close()
    emulator.stop()


def play_a_duel(page: Page) -> None:
    page.get_by_label("Your name").fill("Ada")
    page.get_by_label("Remember me").check()
    page.get_by_role("button", name="Enter the arena").click()
    page.get_by_role("button", name="Tabs or spaces?").click()
    page.get_by_role("button", name="Fathom takes it").click()
    expect(page.locator("#blue-verdict")).to_be_visible()
    page.get_by_role("button", name="Two at once").click()
    expect(page.locator("#cheered")).to_contain_text("Kept are")
    expect(page.locator("#expires")).to_have_text("30 days")


def talk(page: Page) -> None:
    page.get_by_label("Your name").fill("Ada")
    page.get_by_role("button", name="Log in").click()
    for said in (["My cat is called Bob."], ["I need a title for my talk.", "Make it shorter.", "Thank you."]):
        page.get_by_role("button", name="New conversation").click()
        expect(page.get_by_role("log")).to_be_empty()
        for text in said:
            page.get_by_label("Your message").fill(text)
            page.get_by_role("button", name="Send").click()
            expect(page.get_by_role("log").locator("p").last).to_contain_text(f"You said: {text}")
            expect(page.get_by_role("log")).to_have_attribute("aria-busy", "false")


@contextlib.contextmanager
def serve(app: Any) -> Iterator[str]:
    """Run uvicorn on a free port of this machine."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else IMAGES)
