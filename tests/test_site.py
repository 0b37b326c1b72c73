"""The documentation site: it is built without a warning, shows every page, and asks no other server for anything."""

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import dynamodb_sessions
from dynamodb_sessions import agents, devices

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
    shutil.copy(PROJECT / "mkdocs.yml", folder)
    for name in ("docs", "terraform"):
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
