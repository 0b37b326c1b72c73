"""Lambda's cold start: the example's zip in a fresh process, its import and its first requests.

Beside it is the same function with `client="async"`, and with Starlette's cookie sessions, which have no store. Each is
started on a whole core, and on a quarter of one, which is what a function of 442 MB has. DynamoDB is a stub that
answers at once, without TLS: what it takes in your Region comes on top, twice for the first request and its import.

The quarter is a CPU quota of a control group (cgroup), the kernel's own, so it takes root on Linux.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import stub
from benchmarks.harness import KEY, Bar, Report, be_nobody, closing, options_of, paired

EXAMPLE = Path(__file__).parent.parent / "examples" / "lambda_app"

ASYNC_TAKES = (
    *("aiohappyeyeballs", "aiohttp", "aiosignal", "attr", "attrs", "frozenlist", "idna", "multidict", "propcache"),
    *("typing_extensions.py", "yarl"),
)
"""What is in a zip besides, if it has the extra `async`."""

LAMBDA_HAS = ("boto3", "botocore", "dateutil", "jmespath", "s3transfer", "six.py", "urllib3")

ASYNC, BOTO3, COOKIES = "this package, async", "this package, boto3", "Starlette's cookie sessions"
MODULES = {ASYNC: "with_async", BOTO3: "app", COOKIES: "with_cookies"}
CORES = (1.0, 0.25)
ROUNDS = 7
LIMITS = {(ASYNC, BOTO3, 0.25): 0.6, (ASYNC, COOKIES, 1.0): 1.6, (ASYNC, COOKIES, 0.25): 1.6}
"""How many times as long as the other it may take, on so many cores."""

DRIVER = """
import sys, time
folder, installed, module, group = sys.argv[1:]
if group:
    with open(group, "w") as processes:
        processes.write("0")
sys.path[:0] = [folder]
sys.path.append(installed)
started = time.perf_counter()
import asyncio, importlib
asyncio.set_event_loop(asyncio.new_event_loop())
handler = importlib.import_module(module).handler
seconds = [time.perf_counter() - started]
import json
responses = []
for event in json.load(sys.stdin):
    started = time.perf_counter()
    responses.append(handler(event, None))
    seconds.append(time.perf_counter() - started)
found = {name: each.__file__ for name, each in sys.modules.items() if getattr(each, "__file__", None)}
print(json.dumps([seconds, responses, found]))
"""

WITH_COOKIES = """
import os
from mangum import Mangum
from starlette.applications import Starlette
from starlette.middleware.sessions import SessionMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

def visits(request):
    request.session["visits"] = request.session.get("visits", 0) + 1
    return PlainTextResponse(f"You have been here {request.session['visits']} times.")

app = Starlette(routes=[Route("/", visits)])
app.add_middleware(SessionMiddleware, secret_key=os.environ["SESSION_SECRET_KEY"])
handler = Mangum(app)
"""


@dataclass(frozen=True, slots=True)
class Process:
    """A fresh process of a function. `seconds` are those of its import, and of one request after the other."""

    seconds: list[float]
    responses: list[dict[str, Any]]
    modules: dict[str, str]
    """Where each module was found."""


def make_zip(zip_file: Path) -> Path:
    """Make the example's zip, of the package as it is here."""
    command = [sys.executable, str(EXAMPLE / "package.py"), str(zip_file)]
    subprocess.run(command, check=True, capture_output=True)
    return zip_file


def start(
    folder: Path,
    events: list[dict[str, Any]],
    environment: dict[str, str],
    *,
    module: str = "app",
    group: Path | None = None,
) -> Process:
    """Start a function whose zip is unpacked in a folder, and send it events.

    `group` is the file that a process of a control group writes its number to.
    """
    with tempfile.TemporaryDirectory() as lambdas:
        for name in (*LAMBDA_HAS, *ASYNC_TAKES):
            Path(lambdas, name).symlink_to(Path(sysconfig.get_path("purelib"), name))
        # Neither this interpreter's packages nor its environment, but for what is given. And a function's folder cannot
        # be written to, so each of its processes compiles its modules anew.
        command = [sys.executable, "-B", "-I", "-S", "-c", DRIVER, str(folder), lambdas, module, str(group or "")]
        done = subprocess.run(
            command, input=json.dumps(events), capture_output=True, text=True, check=False, env=environment, timeout=120
        )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return Process(*json.loads(done.stdout))


def an_event(cookies: list[str]) -> dict[str, Any]:
    """Return a request as an HTTP API sends it."""
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": "/",
        "rawQueryString": "",
        "cookies": cookies,
        "headers": {"host": "sessions.example.com", "x-forwarded-proto": "https"},
        "requestContext": {
            "http": {
                "method": "GET",
                "path": "/",
                "protocol": "HTTP/1.1",
                "sourceIp": "192.0.2.1",
                "userAgent": "curl/8",
            },
            "stage": "$default",
        },
        "isBase64Encoded": False,
    }


@contextmanager
def quota(cores: float) -> Iterator[Path | None]:
    """Make a control group whose processes have so many cores together, while the block lasts.

    Return the file that one writes its number to; None: they have all there are. Raises OSError where none can be made.
    """
    if cores >= 1:
        yield None
        return
    period = 100_000
    root = Path("/sys/fs/cgroup")
    folder = (root / "cpu" if (root / "cpu").is_dir() else root) / f"benchmark-{os.getpid()}"
    folder.mkdir()
    try:
        if (folder / "cpu.cfs_quota_us").exists():
            (folder / "cpu.cfs_period_us").write_text(str(period))
            (folder / "cpu.cfs_quota_us").write_text(str(int(period * cores)))
        else:
            (folder / "cpu.max").write_text(f"{int(period * cores)} {period}")
        yield folder / "cgroup.procs"
    finally:
        with suppress(OSError):  # The kernel needs a moment to see that its processes have ended.
            folder.rmdir()


@contextmanager
def functions() -> Iterator[Path]:
    """Unpack the zip, and put the other functions beside it, while the block lasts."""
    with tempfile.TemporaryDirectory() as temporary:
        zip_file, folder = make_zip(Path(temporary, "function.zip")), Path(temporary, "function")
        with zipfile.ZipFile(zip_file) as packed:
            packed.extractall(folder)
            unpacked = sum(entry.file_size for entry in packed.infolist())
        print(f"the zip: {zip_file.stat().st_size / 1e6:.2f} MB, unpacked {unpacked / 1e6:.2f} MB")
        example = (folder / "app.py").read_text()
        with_async = example.replace("DynamoDBStore()", 'DynamoDBStore(client="async")').replace("import boto3\n", "")
        assert "async" in with_async
        (folder / "with_async.py").write_text(with_async)
        (folder / "with_cookies.py").write_text(WITH_COOKIES)
        yield folder


def measure(report: Report, *, rounds: int, cores: Sequence[float] = CORES) -> None:
    """Start each function so many times, in turn, with so many cores."""
    with functions() as folder, stub.running(0.0) as url:
        environment = {**os.environ, "SESSION_SECRET_KEY": KEY, "DYNAMODB_ENDPOINT_URL": url}
        rows = []
        for number in cores:
            try:
                with quota(number) as group:
                    taken = _starts(folder, environment, group, rounds)
            except OSError as error:
                report.miss(f"a cold start on {number:g} of a core: no control group can be made here: {error}")
            else:
                rows += [_row(name, number, taken) for name in MODULES]
        report.add("Cold start of the Lambda example, wall time of fresh processes", rows)


def _starts(folder: Path, environment: dict[str, str], group: Path | None, rounds: int) -> dict[str, list[list[float]]]:
    taken: dict[str, list[list[float]]] = {name: [] for name in MODULES}
    for number in range(rounds + 1):
        for name, module in MODULES.items():
            process = start(folder, [an_event([])] * 2, environment, module=module, group=group)
            statuses = [response["statusCode"] for response in process.responses]
            assert statuses == [200, 200], f"{name}: {statuses}"
            if number:  # The first has read the files from the disk.
                taken[name].append(process.seconds)
    return taken


def _row(name: str, cores: float, taken: dict[str, list[list[float]]]) -> dict[str, Any]:
    wholes = {each: [sum(seconds) for seconds in starts] for each, starts in taken.items()}

    def to(other: str) -> Bar | float | None:
        if name == other:
            return None
        value, limit = paired(wholes[name], wholes[other]), LIMITS.get((name, other, cores))
        return value if limit is None else Bar(f"cold start, {name}, {cores:g} cores, to {other}", value, limit)

    imported, first, second = (statistics.median(times) * 1000 for times in zip(*taken[name], strict=True))
    return {
        "sessions": name,
        "cores": cores,
        "to the cookie's": to(COOKIES),
        "to boto3's": to(BOTO3),
        "import ms": imported,
        "first request ms": first,
        "second ms": second,
        "all ms": statistics.median(wholes[name]) * 1000,
    }


def run(options: argparse.Namespace) -> Report:
    report = Report("cold_start")
    measure(report, rounds=options.rounds, cores=CORES[:1] if options.tiny else CORES)
    return report


def main(arguments: Sequence[str]) -> int:
    options = options_of("cold_start", __doc__, rounds=ROUNDS, arguments=arguments)
    be_nobody()
    return closing(run(options), bars=options.bars)
