"""What every test may ask for: a clean environment, the DynamoDB engines, and stores on tables of their own."""

import os
import random
import re
import signal
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import boto3
import pytest
from moto.server import ThreadedMotoServer

from benchmarks import cold_start
from dynamodb_sessions import DynamoDBStore, MemoryStore
from dynamodb_sessions import clock as package_clock
from dynamodb_sessions.agents import partition, tables
from dynamodb_sessions.stores import dynamodb as dynamodb_store
from dynamodb_sessions.stores import fallback as fallback_store
from dynamodb_sessions.stores import memory as memory_store
from dynamodb_sessions.stores.contract import SessionStore
from tests.helpers import aiobotocore_clients

KEY = "a-key-for-tests-of-more-than-32-bytes"

NIGHTLY = os.environ.get("SESSIONS_TESTS") == "nightly"
"""Whether the suites run at full length."""

SEED = int(os.environ.setdefault("SESSIONS_SEED", str(random.SystemRandom().randrange(2**32) if NIGHTLY else 1)))
"""What all chance in the tests comes from: the same for every change, so that a failure is the change's; another each
night. Set, so that the workers of pytest-xdist have it too."""


@dataclass(frozen=True)
class Wanted:
    """What tests want and a machine may lack. Its absence is never silent, and where it is required, never forgiven."""

    untested: str
    missing: str
    required: str
    """Name of the environment variable that requires it."""

    def is_missing(self) -> NoReturn:
        if os.environ.get(self.required):
            pytest.fail(self.missing)
        pytest.skip(self.missing)


LOCAL = "DYNAMODB_LOCAL_URL"
ENGINE = Wanted(
    "NOT TESTED ON THE REAL ENGINE",
    f"DynamoDB Local is not running: start it and set {LOCAL} to its address",
    "REQUIRE_DYNAMODB_LOCAL",
)
CHROMIUM = "CHROMIUM"
BROWSER = Wanted(
    "NOT TESTED IN A REAL BROWSER",
    f"Chromium is not installed: install it, or set {CHROMIUM} to its path",
    "REQUIRE_CHROMIUM",
)
TERRAFORM = Wanted(
    "NOT TESTED WITH TERRAFORM",
    "Terraform or its AWS provider is missing: install it, and see that `terraform init` finds the provider",
    "REQUIRE_TERRAFORM",
)

HISTORY = Wanted(
    "NOT TESTED WITH THE VERSION BEFORE",
    "The commit of the version before is missing: run the tests in a clone of the repository with its whole history",
    "REQUIRE_HISTORY",
)
SLOW = Wanted(
    "NOT TESTED AT LENGTH",
    f"It is slow: set {LOCAL}, or name its file, and it runs",
    ENGINE.required,
)

collect_ignore = [] if aiobotocore_clients.IF_INSTALLED else ["aws/test_aiobotocore_transport.py"]
# What takes the packages of the extras `docs` and `cookbook`: `.ci/run` installs them for these tests alone.
collect_ignore += [] if find_spec("zensical") else ["test_site.py"]
collect_ignore += [] if find_spec("nicegui") else ["test_frameworks.py"]

_skipped_for_want_of = Counter[Wanted]()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def _aws_environment() -> Iterator[None]:
    """No test reaches an account: no configuration of the machine is read, and the credentials are nobody's."""
    with pytest.MonkeyPatch.context() as patch:
        for name in tuple(os.environ):
            if name.startswith(("AWS_", "SESSION_", "USE_DYNAMODB")) or name == "DYNAMODB_ENDPOINT_URL":
                patch.delenv(name)
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


@pytest.fixture(scope="session", autouse=True)
def _patience() -> Iterator[None]:
    """A machine that runs much else may stand still for seconds: no test fails by that which names no deadline."""
    defaults = DynamoDBStore.__init__.__kwdefaults__ or {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(defaults, "timeout", 20.0)
        patch.setattr(tables, "TIMEOUT", 20.0)
        patch.setattr(partition, "_MOVE_TIMEOUT", 20.0)
        patch.setattr(fallback_store, "_PROBE_TIMEOUT", 20.0)
        yield


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def function_zip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Lambda example, as it is shipped."""
    return cold_start.make_zip(tmp_path_factory.mktemp("package") / "function.zip")


@pytest.fixture(scope="session")
def dynamodb_local_url() -> str:
    """The address of the real engine."""
    return os.environ.get(LOCAL) or ENGINE.is_missing()


@pytest.fixture(params=["memory", "moto", "local", "async", *aiobotocore_clients.IF_INSTALLED])
def engine(request: pytest.FixtureRequest) -> str:
    """Where sessions are kept: each test that asks runs once for every kind.

    "async" is "local", without threads; "aiobotocore" is "local", by a client of that name, where it is installed.
    """
    return str(request.param)


@pytest.fixture
def endpoint_url(engine: str, request: pytest.FixtureRequest) -> str | None:
    if engine == "memory":
        return None
    url: str = request.getfixturevalue("moto_url" if engine == "moto" else "dynamodb_local_url")
    return url


@pytest.fixture
def table_name() -> str:
    """A name that no other test uses."""
    return f"sessions-{uuid.uuid4().hex}"


@pytest.fixture
async def connect(engine: str) -> AsyncIterator[Callable[[str], Awaitable[Any]]]:
    """Return a function that makes what a store takes as `client`, for an endpoint, in the test's own event loop."""
    async with aiobotocore_clients.connecting(engine) as connect:
        yield connect


@pytest.fixture
async def aiobotocore_client(dynamodb_local_url: str) -> AsyncIterator[Any]:
    """A client of the real engine, in the event loop that the test runs in."""
    async with aiobotocore_clients.open_client(dynamodb_local_url) as client:
        yield client


@pytest.fixture
def given_client(engine: str, request: pytest.FixtureRequest) -> Any:
    """What a store takes as `client`."""
    if engine == aiobotocore_clients.KIND:
        return request.getfixturevalue("aiobotocore_client")
    return "async" if engine == "async" else None


@pytest.fixture
def new_store(endpoint_url: str | None, table_name: str, given_client: Any) -> Callable[..., SessionStore]:
    """Return a function that makes another store on the same table, as another process would."""
    shared = MemoryStore()

    def make(**options: Any) -> SessionStore:
        if endpoint_url is None:
            return shared
        options.setdefault("client", given_client)
        return DynamoDBStore(table_name, endpoint_url=endpoint_url, create_table=True, **options)

    return make


@pytest.fixture
def store(new_store: Callable[..., SessionStore]) -> SessionStore:
    return new_store()


@pytest.fixture
def dynamodb(moto_url: str) -> Any:
    """A client of moto's DynamoDB, to look at the items."""
    return boto3.client("dynamodb", endpoint_url=moto_url, region_name="us-east-1")


class Clock:
    """The time as the tests will have it, in epoch seconds."""

    def __init__(self, now: int) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Stop the clock that sessions are timed with; a test moves it on."""
    stopped = Clock(1_800_000_000)
    for place in (package_clock, dynamodb_store, fallback_store, memory_store):
        monkeypatch.setattr(place, "wall_clock", stopped)
    return stopped


def pytest_configure() -> None:
    """Hear Ctrl-C, and let children hear it: whoever runs the tests in the background may have it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


PASSED = "TESTS_PASSED"
"""The variable with the name of a file in which a run notes the tests that have passed."""

PASSED_BEFORE = "TESTS_PASSED_BEFORE"
"""The variable with the name of such a file: what has passed in the same environment is not run again."""

_passed: list[str] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what cannot be: the transports without threads are asyncio's, and aiobotocore is not everywhere.

    And what has passed before.

    What has the mark `slow` runs with DynamoDB Local, or where its file is named. It runs first: what is begun last is
    waited for by all workers, when there are several.
    """
    before = os.environ.get(PASSED_BEFORE)
    passed = frozenset(Path(before).read_text().splitlines()) if before else frozenset[str]()
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in passed])

    def is_possible(item: pytest.Item) -> bool:
        kinds = set(re.split(r"[-\[\]]", item.name))
        if item.get_closest_marker(aiobotocore_clients.KIND) and not aiobotocore_clients.IF_INSTALLED:
            return False
        return "trio" not in kinds or kinds.isdisjoint(("async", aiobotocore_clients.KIND))

    items[:] = [item for item in items if is_possible(item) and item.nodeid not in passed]
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    if LOCAL not in os.environ:
        named = {Path(argument.partition("::")[0]).resolve() for argument in config.args}
        for item in items:
            if item.get_closest_marker("slow") and item.path not in named:
                item.add_marker(pytest.mark.skip(SLOW.missing))


def pytest_report_header() -> str:
    aiobotocore = "" if aiobotocore_clients.IF_INSTALLED else ", aiobotocore is not installed and not tested"
    return f"sessions: {'nightly' if NIGHTLY else 'default'} profile, SESSIONS_SEED={SEED}{aiobotocore}"


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and report.passed:
        _passed.append(report.nodeid)
    if report.skipped:
        _skipped_for_want_of.update(
            wanted for wanted in (ENGINE, BROWSER, TERRAFORM, HISTORY, SLOW) if wanted.missing in str(report.longrepr)
        )


def pytest_sessionfinish(session: pytest.Session) -> None:
    noted = os.environ.get(PASSED)
    if noted and not hasattr(session.config, "workerinput"):  # Workers of pytest-xdist report to the one that writes.
        Path(noted).write_text("\n".join(_passed))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for wanted, tests in _skipped_for_want_of.items():
        terminalreporter.section(wanted.untested, red=True, bold=True)
        terminalreporter.line(f"{tests} tests were skipped. {wanted.missing}.", red=True)
