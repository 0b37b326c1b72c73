"""The documentation site: it is built without a warning, shows every page, and asks no other server for anything."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

import dynamodb_sessions
from dynamodb_sessions import agents, devices
from tests.conftest import BROWSER, CHROMIUM

PROJECT = Path(__file__).parent.parent
CONFIGURATION = (PROJECT / "mkdocs.yml").read_text(encoding="utf-8")
PAGES = sorted((PROJECT / "docs").glob("*.md"))

LOADED = {
    "link": "href",
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "srcset",
    "audio": "src",
    "video": "src",
}
"""What a browser fetches by itself, and which attribute says from where."""


class Parsed(HTMLParser):
    """What a page of the site links to and loads, and the anchors that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value for name, value in attrs if value is not None}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag in LOADED and LOADED[tag] in found and found.get("rel") != "canonical":
            self.loads.append(found[LOADED[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the site, built elsewhere than in the checkout."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("mkdocs.yml", "CONTRIBUTING.md"):
        shutil.copy(PROJECT / name, folder)
    for name in (".github", "docs", "terraform"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns(".terraform", "__pycache__"))
    (folder / "src").symlink_to(PROJECT / "src")
    command = [str(Path(sys.executable).parent / "zensical"), "build", "--strict"]
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "site"


@pytest.fixture(scope="module")
def parsed(site: Path) -> dict[Path, Parsed]:
    pages = {path.resolve(): Parsed(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    return {path: page for path, page in pages.items() if path.name != "404.html"}


def test_every_page_is_there_and_in_the_navigation(site: Path) -> None:
    (navigation,) = re.findall(r"^nav:\n(.*?)^\S", CONFIGURATION, re.MULTILINE | re.DOTALL)
    named = re.findall(r"(\S+\.md)$", navigation, re.MULTILINE)
    assert sorted(named) == [page.name for page in PAGES]
    assert [page.name for page in PAGES if not (site / f"{page.stem}.html").exists()] == []


def test_every_link_and_anchor_holds(parsed: dict[Path, Parsed]) -> None:
    assert len(parsed) >= len(PAGES)
    broken = []
    for path, page in parsed.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link == ".":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            known = parsed[target].anchors if target in parsed else None
            missing = not target.exists() or (
                parts.fragment and known is not None and unquote(parts.fragment) not in known
            )
            if missing and parts.fragment != "__skip":
                broken.append((path.name, link))
    assert broken == []


def test_it_loads_nothing_from_another_server(site: Path, parsed: dict[Path, Parsed]) -> None:
    """So it can be read without a network, and tells nobody who reads it."""
    assert [load for page in parsed.values() for load in page.loads if urlsplit(load).netloc] == []
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//[^)\"']*", styles) == []


def test_the_reference_names_everything_that_is_public(parsed: dict[Path, Parsed]) -> None:
    (reference,) = [page for path, page in parsed.items() if path.name == "reference.html"]
    public = [f"dynamodb_sessions.{name}" for name in dynamodb_sessions.__all__]
    public += [f"dynamodb_sessions.agents.{name}" for name in agents.__all__]
    public += [
        f"dynamodb_sessions.devices.{name}" for name in vars(devices) if name in ("of", "end", "end_others", "Device")
    ]
    public += ["dynamodb_sessions.testing.session_transaction", "dynamodb_sessions.otel.OpenTelemetryEvents"]
    assert [name for name in public if name not in reference.anchors] == []


def test_mkdocs_could_build_it_too() -> None:
    """Whoever wants the other builder finds nothing in the way: no hooks, no overrides, no plugin of one of the two."""
    assert re.findall(r"^(?:hooks|  custom_dir):", CONFIGURATION, re.MULTILINE) == []
    assert "\n  font: false" in CONFIGURATION
    (plugins,) = re.findall(r"^plugins:\n(.*?)^\S", CONFIGURATION, re.MULTILINE | re.DOTALL)
    assert re.findall(r"^  - (\w+)", plugins, re.MULTILINE) == ["search", "mkdocstrings"]


# In a browser.


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = os.environ.get(CHROMIUM) or shutil.which("chromium") or BROWSER.is_missing()
    # No other name than this machine's address exists for it.
    arguments = ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=path, args=arguments) as browser:
        yield browser


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    handler = partial(SilentHandler, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class SilentHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """The requests are of no interest."""


@dataclass
class Looked:
    """What a browser finds out about the pages, in one width and theme."""

    complaints: list[tuple[str, str]]
    """Of its console: errors, warnings, and what it could not load."""
    too_wide: list[str]
    findings: list[tuple[str, str, str]]
    """Of axe-core, those that are serious or critical."""


def listen(page: Page, name: str, complaints: list[tuple[str, str]]) -> None:
    page.on("console", lambda message: complaints.append((name, message.text)))
    page.on("pageerror", lambda error: complaints.append((name, str(error))))
    page.on("requestfailed", lambda request: complaints.append((name, request.url)))


@pytest.fixture(scope="module", params=[(1280, "light"), (390, "dark")], ids=str)
def looked(request: pytest.FixtureRequest, browser: Browser, address: str) -> Looked:
    width, scheme = request.param
    found = Looked([], [], [])
    axe = Path(os.environ["AXE_CORE"]).read_text(encoding="utf-8") if "AXE_CORE" in os.environ else None
    with browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme) as context:
        for name in [f"{page.stem}.html" for page in PAGES]:
            page = context.new_page()
            listen(page, name, found.complaints)
            page.goto(f"{address}/{name}", wait_until="load")
            if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
                found.too_wide.append(name)
            if axe is not None:
                page.evaluate(axe)
                ran = page.evaluate(
                    "axe.run(document, { preload: false, resultTypes: ['violations'], runOnly: ['wcag2a', 'wcag2aa'] })"
                )
                serious = [each for each in ran["violations"] if each["impact"] in ("serious", "critical")]
                found.findings += [(name, each["id"], each["nodes"][0]["html"]) for each in serious]
            page.close()
    return found


def test_a_browser_has_nothing_to_complain_of(looked: Looked) -> None:
    assert looked.complaints == []


def test_no_page_is_wider_than_the_window(looked: Looked) -> None:
    assert looked.too_wide == []


@pytest.mark.skipif("AXE_CORE" not in os.environ, reason="set AXE_CORE to the path of axe.min.js, of npm's axe-core")
def test_axe_finds_nothing_serious(looked: Looked) -> None:
    assert looked.findings == []
