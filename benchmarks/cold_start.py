"""Lambda's cold start: the example's zip in a fresh process, its import and its first requests.

Beside it is the same function with Starlette's cookie sessions, which have no store to reach. DynamoDB is a stub that
answers at once: what it takes in your Region comes on top, twice for the first request of a function and its import.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import stub
from benchmarks.harness import KEY, be_nobody, milliseconds, print_table, ratio

EXAMPLE = Path(__file__).parent.parent / "examples" / "lambda_app"

LAMBDA_HAS = ("boto3", "botocore", "dateutil", "jmespath", "s3transfer", "six.py", "urllib3")

DRIVER = """
import sys, time
folder, installed, module = sys.argv[1:]
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

COOKIES = """
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


def start(folder: Path, events: list[dict[str, Any]], environment: dict[str, str], *, module: str = "app") -> Process:
    """Start a function whose zip is unpacked in a folder, and send it events."""
    with tempfile.TemporaryDirectory() as lambdas:
        for name in LAMBDA_HAS:
            Path(lambdas, name).symlink_to(Path(sysconfig.get_path("purelib"), name))
        # Neither this interpreter's packages nor its environment, but for what is given. And a function's folder cannot
        # be written to, so each of its processes compiles its modules anew.
        command = [sys.executable, "-B", "-I", "-S", "-c", DRIVER, str(folder), lambdas, module]
        done = subprocess.run(
            command, input=json.dumps(events), capture_output=True, text=True, check=False, env=environment, timeout=60
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


def measure(rounds: int) -> int:
    """Print the table. Returns the number of errors."""
    names = {"app": "this package", "cookies": "Starlette's cookie sessions"}
    taken: dict[str, list[list[float]]] = {module: [] for module in names}
    errors = 0
    with tempfile.TemporaryDirectory() as temporary, stub.running(0.0) as url:
        zip_file, folder = make_zip(Path(temporary, "function.zip")), Path(temporary, "function")
        with zipfile.ZipFile(zip_file) as packed:
            packed.extractall(folder)
            unpacked = sum(entry.file_size for entry in packed.infolist())
        size = zip_file.stat().st_size
        (folder / "cookies.py").write_text(COOKIES)
        environment = {**os.environ, "SESSION_SECRET_KEY": KEY, "DYNAMODB_ENDPOINT_URL": url}
        for number in range(rounds + 1):
            for module in names:
                process = start(folder, [an_event([])] * 2, environment, module=module)
                errors += sum(response["statusCode"] != 200 for response in process.responses)
                if number:  # The first has read the files from the disk.
                    taken[module].append(process.seconds)
    print(f"the zip: {size / 1e6:.2f} MB, unpacked {unpacked / 1e6:.2f} MB; medians of {rounds} fresh processes\n")
    medians = {module: [statistics.median(times) for times in zip(*taken[module], strict=True)] for module in names}
    rows = [
        (name, *map(milliseconds, medians[module]), ratio(sum(medians[module]), sum(medians["cookies"])))
        for module, name in names.items()
    ]
    print_table(("sessions", "import ms", "first request ms", "second ms", "all to cookies'"), rows)
    return errors


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks cold_start", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="fresh processes of each (default: %(default)s)")
    options = parser.parse_args(arguments)
    be_nobody()
    errors = measure(options.rounds)
    print(f"errors: {errors}, wanted 0")
    return 1 if errors else 0
