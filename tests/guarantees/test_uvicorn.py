"""Real uvicorn processes that share nothing but a table: what several workers, a restart and a closed socket keep."""

import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from dynamodb_sessions.stores import table_schema
from tests.conftest import KEY
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parent.parent.parent
PATIENCE = 20
"""Seconds for what takes one at most when nothing else runs."""

Environment = dict[str, str]


class Server:
    """A uvicorn on a free port of its own choice."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log
        self.url = ""

    def said(self) -> str:
        return self.log.read_text()

    def wait_until_it_says(self, pattern: str, times: int = 1) -> str:
        """Return what the pattern finds in the log."""

        def find() -> list[str]:
            found = re.findall(pattern, self.said())
            assert len(found) >= times or self.process.poll() is None, self.said()
            return found[times - 1 :]

        return str(eventually(find, patience=PATIENCE)[0])

    def browser(self, **options: Any) -> httpx.Client:
        """A client that opens a connection for every request, so that any worker may get it."""
        return httpx.Client(base_url=self.url, limits=httpx.Limits(max_keepalive_connections=0), **options)

    def end(self) -> int:
        """Ask the server to end as a supervisor does. Returns its exit code."""
        self.process.terminate()
        return self.process.wait(PATIENCE)


@contextmanager
def run(
    folder: Path, environment: Environment, app: str = "forgiving", workers: int = 1, lifespan: str = "auto"
) -> Iterator[Server]:
    log = folder / f"{uuid.uuid4().hex}.log"
    app = app if ":" in app else f"tests.helpers.apps:{app}"
    command = [sys.executable, "-m", "uvicorn", app, "--port", "0", "--workers", str(workers), "--lifespan", lifespan]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=PROJECT,
            env=os.environ | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(process, log)
    try:
        yield server
        server.end()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def serve(folder: Path, environment: Environment, app: str = "forgiving", workers: int = 1) -> Iterator[Server]:
    with run(folder, environment, app, workers) as server:
        server.url = server.wait_until_it_says(r"Uvicorn running on (http://\S+)")
        # The parent names the address before anybody listens there.
        server.wait_until_it_says("Application startup complete", times=workers)
        yield server


def settings(endpoint_url: str, table_name: str) -> Environment:
    return {
        "USE_DYNAMODB_SESSIONS": "true",
        "SESSION_SECRET_KEY": KEY,
        "SESSION_TABLE_NAME": table_name,
        "DYNAMODB_ENDPOINT_URL": endpoint_url,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("uvicorn")


@pytest.fixture(scope="module", params=["moto", "local", "local, async"])
def shared_engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def environment(shared_engine: str, request: pytest.FixtureRequest) -> Environment:
    """A server's environment: with a new table on an engine that several processes can share."""
    url = request.getfixturevalue("moto_url" if shared_engine == "moto" else "dynamodb_local_url")
    name = f"sessions-{uuid.uuid4().hex}"
    table_schema.create(boto3.client("dynamodb", endpoint_url=url, region_name="us-east-1"), name)
    return settings(url, name) | ({"TESTS_CLIENT": "async"} if shared_engine == "local, async" else {})


@pytest.fixture(scope="module")
def workers(environment: Environment, folder: Path) -> Iterator[Server]:
    """One server of two workers."""
    with serve(folder, environment, workers=2) as server:
        yield server


def test_what_one_worker_stores_every_worker_sees(workers: Server) -> None:
    seen = {}
    with workers.browser() as browser:
        maker = browser.get("/put/user").json()["pid"]

        def both() -> bool:
            looked = browser.get("/look").json()
            seen[looked["pid"]] = looked["session"]
            return len(seen) > 1

        eventually(both, patience=PATIENCE)
    assert maker in seen
    assert list(seen.values()) == [{"user": True}] * 2


def test_a_logout_at_one_worker_holds_at_every_worker(workers: Server) -> None:
    with workers.browser() as browser:
        browser.get("/put/user")
        cookies = dict(browser.cookies)
        browser.get("/logout")
    pids = set()
    with workers.browser(cookies=cookies) as thief:

        def both() -> bool:
            looked = thief.get("/look").json()
            assert looked["session"] == {}
            pids.add(looked["pid"])
            return len(pids) > 1

        eventually(both, patience=PATIENCE)


def test_different_keys_through_both_workers_are_all_kept(workers: Server, shared_engine: str) -> None:
    """200 of 200, eight at a time. Moto's updates are not atomic under threads: there, one after the other."""
    threads, keys = (1, 25) if shared_engine == "moto" else (8, 25)
    with workers.browser() as browser:
        browser.get("/put/first")
        cookies = dict(browser.cookies)

        def put(thread: int) -> set[int]:
            with workers.browser(cookies=cookies) as another:
                return {another.get(f"/put/{thread}-{key}").raise_for_status().json()["pid"] for key in range(keys)}

        with ThreadPoolExecutor(threads) as pool:
            pids = set().union(*pool.map(put, range(threads)))
        session = browser.get("/look").json()["session"]
    expected = {"first"} | {f"{thread}-{key}" for thread in range(threads) for key in range(keys)}
    assert expected == set(session)
    assert len(pids) == 2 or threads == 1


def test_a_login_survives_a_restart(environment: Environment, folder: Path) -> None:
    """A request in flight when the server is asked to end is still answered, and its session still there afterwards."""
    with serve(folder, environment) as server, server.browser() as browser, ThreadPoolExecutor() as pool:
        login = pool.submit(browser.get, "/slow/user")
        server.wait_until_it_says("slow has begun")
        server.end()
        assert login.result().json()["session"] == {"user": True}
        assert "Application shutdown complete" in server.said()
        assert "Traceback" not in server.said()
        cookies = dict(browser.cookies)
    with serve(folder, environment) as server, server.browser(cookies=cookies) as browser:
        assert browser.get("/look").json()["session"] == {"user": True}


def test_with_another_key_nobody_is_logged_in(workers: Server, environment: Environment, folder: Path) -> None:
    with workers.browser() as browser:
        browser.get("/put/user")
        cookies = dict(browser.cookies)
    another = environment | {"SESSION_SECRET_KEY": KEY[::-1]}
    with serve(folder, another) as server, server.browser(cookies=cookies) as browser:
        looked = browser.get("/look")
    assert looked.json()["session"] == {}
    assert "set-cookie" not in looked.headers


def test_a_websocket_sets_its_cookie_and_stores_what_comes_later(workers: Server) -> None:
    """With the accept; at `save()`; and the rest when the socket is closed."""
    with connect(f"ws{workers.url.removeprefix('http')}/talk") as socket, workers.browser() as browser:
        assert socket.response is not None
        cookie = {"Cookie": socket.response.headers["Set-Cookie"].partition(";")[0]}

        def look() -> set[str]:
            return set(browser.get("/look", headers=cookie).json()["session"])

        assert look() == {"accepted"}
        socket.send("save")
        assert socket.recv() == "True"
        assert look() == {"accepted", "save"}
        socket.send("later")
        assert socket.recv() == "False"
        assert look() == {"accepted", "save"}
        socket.close()
        eventually(lambda: look() == {"accepted", "save", "later"}, patience=PATIENCE)


def test_a_websocket_reads_the_browsers_session(workers: Server) -> None:
    with workers.browser() as browser:
        browser.get("/put/user")
        headers = {"Cookie": f"session_id={browser.cookies['session_id']}"}
        with connect(f"ws{workers.url.removeprefix('http')}/talk", additional_headers=headers):
            assert set(browser.get("/look").json()["session"]) == {"user", "accepted"}


def test_a_change_while_the_response_streams_is_stored_when_it_ends(workers: Server) -> None:
    with workers.browser() as browser:
        browser.get("/put/user")
        assert browser.get("/stream").text == "the response has started and ended"
        # The last byte reaches the browser a moment before the app returns.
        eventually(lambda: "streamed" in browser.get("/look").json()["session"], patience=PATIENCE)


def test_a_server_whose_store_must_work_does_not_start_without_it(moto_url: str, folder: Path) -> None:
    with run(folder, settings(moto_url, "no-such-table"), "strict") as server:
        assert server.process.wait(PATIENCE) != 0
    assert (
        "ConfigurationError: DynamoDB said ResourceNotFoundException: create the table, or correct its name or region\n"
    ) in server.said()
    assert "Application startup failed" in server.said()
    assert "Traceback" not in server.said()


def test_a_server_without_dynamodb_starts_serves_and_says_so(moto_url: str, folder: Path) -> None:
    with serve(folder, settings(moto_url, "no-such-table")) as server, server.browser() as browser:
        error = server.wait_until_it_says(r"(ERROR \[dynamodb_sessions\] .*)")
        browser.get("/put/user")
        assert browser.get("/look").json()["session"] == {"user": True}
    assert "sessions are kept in this process and end with it: DynamoDB said ResourceNotFoundException" in error


FORGOTTEN: Environment = {}
MISSPELT = {"SESSION_SECRET_KEY": KEY, "USE_DYNAMODB_SESSIONS": "maybe"}


@pytest.mark.parametrize("app", ["examples.minimal:app", "forgiving"])
@pytest.mark.parametrize(
    ("environment", "cause"),
    [
        (FORGOTTEN, "no secret_key is given and SESSION_SECRET_KEY is not set: make one with: python -c"),
        (MISSPELT, "USE_DYNAMODB_SESSIONS='maybe' must be one of"),
    ],
    ids=["forgotten", "misspelt"],
)
def test_what_keeps_sessions_from_being_set_up_is_told_once(
    environment: Environment, cause: str, app: str, folder: Path
) -> None:
    with serve(folder, environment, app) as server, server.browser() as browser:
        for path in ("/", "/look", "/nowhere"):
            answer = browser.get(path)
            assert (answer.status_code, answer.text) == (500, "Internal Server Error")
        server.end()
    told = [line for line in server.said().splitlines() if cause in line]
    prefix = "ERROR [dynamodb_sessions] " if app == "forgiving" else ""
    assert [line.partition(cause)[0] for line in told] == [
        f"{prefix}no request can be served, because sessions cannot be set up: ConfigurationError: "
    ]
    assert "Traceback" not in server.said()
    assert "unsupported" not in server.said()
    assert server.said().count("ERROR") == (app == "forgiving")


def test_a_websocket_is_denied_without_a_key(folder: Path) -> None:
    with serve(folder, FORGOTTEN) as server:
        with pytest.raises(InvalidStatus) as denied, connect(f"ws{server.url.removeprefix('http')}/talk"):
            pass
        assert denied.value.response.status_code == 500
    assert "Traceback" not in server.said()


def test_a_server_that_has_no_lifespan_tells_it_with_the_first_request(folder: Path) -> None:
    with run(folder, FORGOTTEN, "examples.minimal:app", lifespan="off") as server:
        server.url = server.wait_until_it_says(r"Uvicorn running on (http://\S+)")
        with server.browser() as browser:
            assert [browser.get("/").status_code for _ in range(3)] == [500] * 3
    assert server.said().count("SESSION_SECRET_KEY is not set") == 1
    assert "Traceback" not in server.said()


def test_a_server_that_must_have_a_lifespan_does_not_start_without_a_key(folder: Path) -> None:
    with run(folder, FORGOTTEN, "examples.minimal:app", lifespan="on") as server:
        assert server.process.wait(PATIENCE) != 0
    assert server.said().count("SESSION_SECRET_KEY is not set") == 1
    assert "Application startup failed" in server.said()
    assert "Uvicorn running" not in server.said()
    assert "Traceback" not in server.said()
