"""The middleware alone, its sessions in memory, beside Starlette's cookie sessions and starsessions in memory.

Raw ASGI calls of one app: no server, no HTTP client. All get the same request but for the cookie each has given out.
The times are CPU time. That sessions are loaded and written is checked on the same apps, before and after.
"""

import argparse
import asyncio
import gc
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from starlette.middleware.sessions import SessionMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from benchmarks.harness import KEY, Bar, Report, a_session, be_nobody, closing, options_of, paired
from dynamodb_sessions import DynamoDBSessionMiddleware, MemoryStore

OURS, STARLETTE, STARSESSIONS, NONE = "this package", "Starlette's cookie", "starsessions", "no sessions"
ROUNDS = 7
SIZES = (500, 4_000, 40_000)
OPERATIONS = ("anonymous", "read", "read all", "write")
MAX_AGE = 3600
SAMPLE_SECONDS = 0.03
LIMITS = {"anonymous": 1.1, "read": 1.0, "write": 1.0}
HEADERS = ((b"host", b"localhost"), (b"user-agent", b"benchmark"), (b"accept", b"*/*"))

_SCOPE: Scope = {
    "type": "http",
    "asgi": {"version": "3.0", "spec_version": "2.3"},
    "http_version": "1.1",
    "method": "GET",
    "scheme": "https",
    "raw_path": b"/",
    "root_path": "",
    "query_string": b"",
    "client": ("127.0.0.1", 1),
    "server": ("localhost", 443),
}


def use(path: str, session: dict[str, Any]) -> bytes:
    """Do with a session what the path says. What is answered shows what was in it."""
    match path:
        case "/anonymous":
            return b""
        case "/read":
            return f"{session['user']['id']} {session['count']}".encode()
        case "/read all":
            return b"%d" % len(list(session.values()))
        case "/write":
            session["count"] += 1
            return b"%d" % session["count"]
    session.update(a_session(int(path[1:])))
    return b""


async def answer(send: Send, body: bytes) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


async def app(scope: Scope, _receive: Receive, send: Send) -> None:
    await answer(send, use(scope["path"], scope["session"]))


async def app_that_loads(scope: Scope, _receive: Receive, send: Send) -> None:
    """Load the session as starsessions wants it: where it is used, so not for anonymous requests."""
    path = scope["path"]
    if path == "/anonymous":
        await answer(send, b"")
        return
    await scope["session_handler"].load()
    await answer(send, use(path, scope["session"]))


async def app_without(scope: Scope, _receive: Receive, send: Send) -> None:
    """Do the same with a session that is just there."""
    await answer(send, use(scope["path"], scope["state"]))


@dataclass
class Contender:
    name: str
    app: ASGIApp
    on_server: bool = True
    """Whether a write is seen by the next request with the same cookie."""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    session: dict[str, Any] = field(default_factory=dict)
    writes: int = 0
    last: list[Message] = field(default_factory=list)

    async def request(self, path: str, headers: list[tuple[bytes, bytes]]) -> None:
        """Make one request, and keep what is answered."""
        self.last = sent = []

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message)

        await self.app({**_SCOPE, "path": path, "headers": headers, "state": self.session}, receive, send)

    async def ask(self, path: str) -> bytes:
        """Make one request and use the cookie that it sets from now on. Returns the body."""
        await self.request(path, self.headers)
        start, body = self.last
        assert start["status"] == 200
        for name, value in start["headers"]:
            if name.lower() == b"set-cookie":
                self.headers = [*HEADERS, (b"cookie", value.partition(b";")[0])]
        return bytes(body["body"])

    async def sign_in(self, size: int) -> None:
        """Have a session of a size, known to be loaded and written."""
        self.headers, self.writes = list(HEADERS), 0
        assert await self.ask("/anonymous") == b""
        assert self.headers == list(HEADERS)
        if self.name == NONE:
            self.session = a_session(size)
        else:
            await self.ask(f"/{size}")
        assert await self.ask("/read") == b"u-4711 0"
        assert await self.ask("/read all") == b"%d" % len(a_session(size))

    async def check(self) -> None:
        """See that all that was written is there, and is found by the next request."""
        expected = 1 + (self.writes if self.on_server else 0)
        await self.ask("/write")
        assert await self.ask("/read") == b"u-4711 %d" % expected, self.name

    async def sample(self, operation: str, requests: int) -> float:
        """Return the CPU seconds of a request."""
        path = f"/{operation}"
        headers = list(HEADERS) if operation == "anonymous" else self.headers
        gc.collect()
        started = time.process_time()
        for _ in range(requests):
            await self.request(path, headers)
        seconds = time.process_time() - started
        assert self.last[0]["status"] == 200
        self.writes += requests if operation == "write" else 0
        return seconds / requests


def contenders(report: Report) -> list[Contender]:
    """Return them all, but those that are not installed."""
    found = [
        Contender(NONE, app_without),
        Contender(OURS, DynamoDBSessionMiddleware(app, KEY, max_age=MAX_AGE, store=MemoryStore())),
        Contender(STARLETTE, SessionMiddleware(app, KEY, max_age=MAX_AGE), on_server=False),
    ]
    if find_spec("starsessions") is None:
        report.miss("starsessions in memory: it is not installed")
    else:
        from starsessions import InMemoryStore  # noqa: PLC0415
        from starsessions import SessionMiddleware as Starsessions  # noqa: PLC0415

        middleware = Starsessions(app_that_loads, InMemoryStore(), lifetime=MAX_AGE, rolling=True)
        found.append(Contender(STARSESSIONS, middleware))
    return found


async def measure(
    report: Report, *, rounds: int, sizes: Sequence[int] = SIZES, seconds: float = SAMPLE_SECONDS
) -> None:
    everyone = contenders(report)
    rows = []
    for size in sizes:
        for each in everyone:
            await each.sign_in(size)
        for operation in OPERATIONS:
            if operation == "anonymous" and size != sizes[0]:
                continue
            slowest = [await each.sample(operation, 20) for each in everyone][1]
            requests = max(5, int(seconds / slowest))
            taken: dict[str, list[float]] = {each.name: [] for each in everyone}
            for _ in range(rounds):
                for each in everyone:
                    taken[each.name].append(await each.sample(operation, requests))
            rows.append(row(operation, size, taken))
        for each in everyone:
            await each.check()
    report.add("CPU µs of a request, the middleware alone, sessions in memory", rows)


def row(operation: str, size: int, taken: dict[str, list[float]]) -> dict[str, Any]:
    to_cookie = paired(taken[OURS], taken[STARLETTE])
    kilobytes = "any" if operation == "anonymous" else f"{size / 1000:g} KB"
    limit = LIMITS.get(operation)
    figure = f"{operation} {kilobytes}, to Starlette's cookie"
    return {
        "request": operation,
        "session": kilobytes,
        "to the cookie's": to_cookie if limit is None else Bar(figure, to_cookie, limit),
        "to starsessions": paired(taken[OURS], taken[STARSESSIONS]) if STARSESSIONS in taken else "not installed",
        **{name: statistics.median(values) * 1e6 for name, values in taken.items()},
    }


def run(options: argparse.Namespace) -> Report:
    report = Report("middleware")
    if options.tiny:
        asyncio.run(measure(report, rounds=options.rounds, sizes=(500,), seconds=0.001))
    else:
        asyncio.run(measure(report, rounds=options.rounds))
    return report


def main(arguments: Sequence[str]) -> int:
    options = options_of("middleware", __doc__, rounds=ROUNDS, arguments=arguments)
    be_nobody()
    return closing(run(options), bars=options.bars)
