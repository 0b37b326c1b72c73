"""A real browser for the tests of this folder: headless Chromium.

Nothing but this machine is asked: `*.test` and `localhost` are 127.0.0.1, and other names do not exist.
"""

import datetime
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from playwright.sync_api import Browser, BrowserContext, BrowserType, Page, expect, sync_playwright

from examples.emulator import Emulator
from tests.conftest import BROWSER, CHROMIUM
from tests.helpers.sites import PATIENCE, Site, run

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
def new_context(private_windows: Browser) -> Iterator[Callable[..., BrowserContext]]:
    """Return a function that makes a browser whose cookies are its own."""
    with ExitStack() as stack:

        def make(**options: Any) -> BrowserContext:
            context = stack.enter_context(private_windows.new_context(**AS_EVERYWHERE | options))
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


def answer_late(page: Page, path: str) -> None:
    """Let the page hear a second late what the server has answered, so that it hears of all else before."""
    page.evaluate(
        """(path) => {
            const asked = window.fetch;
            window.fetch = async (...what) => {
                const answer = await asked(...what);
                if (what[0] === path) await new Promise((resolve) => setTimeout(resolve, 1000));
                return answer;
            };
        }""",
        path,
    )


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


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    """The DynamoDB of the demo."""
    emulator = Emulator()
    yield emulator
    emulator.stop()
