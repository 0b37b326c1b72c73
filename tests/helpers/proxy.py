"""A proxy on this machine, in front of a DynamoDB engine, that breaks what passes through it as it is told to."""

import contextlib
import http.client
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

DRIP_SECONDS = 0.05
"""The pause before every byte of a dripping reply."""

DRIPS = 200
"""Bytes of it, and as long waits one that waits in vain: else a client without a deadline would hang here for ever."""


class How(Enum):
    """What becomes of a reply."""

    WHOLE = auto()
    """It comes as it should."""
    ANOTHER = auto()
    """An error comes in its place: see `Step.error`."""
    DROPPED = auto()
    """The connection is closed."""
    RESET = auto()
    """The connection is reset."""
    TRUNCATED = auto()
    """It ends before its last byte."""
    DRIPPED = auto()
    """It comes byte by byte, too slowly to end before anybody loses patience."""
    NEVER = auto()
    """Nothing comes, and the connection stays open."""


@dataclass(frozen=True)
class Step:
    """What happens to one request."""

    how: How = How.WHOLE
    applied: bool = True
    """Whether the engine gets the request."""
    error: tuple[int, str] = (500, "InternalServerError")
    """Status and code, for `How.ANOTHER`."""
    details: dict[str, Any] = field(default_factory=dict)
    """What else that error says."""
    between: Callable[[], object] | None = None
    """What somebody else does once the request has been applied, or not, and before its sender hears anything: between
    two attempts. It runs in the proxy's thread, and must not go through what is scripted."""
    late: int | None = None
    """The request is held, and applied later: before the reply to the so many-th request after it; 0: by `land`."""


WHOLE = Step()


def cut(between: Callable[[], object] | None = None) -> Step:
    """A request that is applied, and its reply lost; then somebody else does something."""
    return Step(How.RESET, between=between)


def held(between: Callable[[], object] | None = None, *, late: int = 0) -> Step:
    """A request whose connection is cut, and that is applied later; somebody else does something at once."""
    return Step(How.RESET, applied=False, between=between, late=late)


@dataclass
class Script:
    """What happens to the requests of one operation, in their order; then `rest` happens to all."""

    steps: list[Step] = field(default_factory=list)
    rest: Step = WHOLE

    def next(self) -> Step:
        return self.steps.pop(0) if self.steps else self.rest


class Proxy:
    """Passes every request on to `upstream` unless a script says otherwise. `close` ends it."""

    def __init__(self, upstream: str) -> None:
        self.connections = 0
        self.requests: list[str] = []
        """The operations that were asked for."""
        self.times: list[float] = []
        """When each of them came, on the monotonic clock."""
        self.landed: list[int] = []
        """The engine's status for each request that was held and has been applied since."""
        self.failures: list[Exception] = []
        """What went wrong with whatever somebody else was to do."""
        self.authorizations: list[str] = []
        self.released = threading.Event()
        self._upstream = urlsplit(upstream).netloc
        self._scripts: dict[str, Script] = {}
        self._lock = threading.Lock()
        self._held: list[_Held] = []
        self._open: set[socket.socket] = set()
        self._server = _Server(("127.0.0.1", 0), self)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def play(self, operation: str, steps: Iterable[Step] = (), *, rest: Step = WHOLE) -> None:
        """Let this happen to the next requests of an operation, named as DynamoDB names it; "*": of every one."""
        with self._lock:
            self._scripts[operation] = Script(list(steps), rest)

    def heal(self) -> None:
        """Pass everything on from now, and let go of what is held."""
        with self._lock:
            self._scripts.clear()
            self._held.clear()
            self.landed.clear()
        released, self.released = self.released, threading.Event()
        released.set()

    def close_connections(self) -> int:
        """Close every connection, as a server does that has waited long enough. Return how many there were."""
        with self._lock:
            closed, self._open = self._open, set()
        for connection in closed:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        return len(closed)

    def close(self) -> None:
        self.heal()
        self._server.shutdown()
        self._server.server_close()
        self.close_connections()

    def opened(self, connection: socket.socket) -> None:
        with self._lock:
            self.connections += 1
            self._open.add(connection)

    def closed(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.discard(connection)

    def step(self, operation: str, authorization: str) -> Step:
        with self._lock:
            self.requests.append(operation)
            self.times.append(time.monotonic())
            self.authorizations.append(authorization)
            script = self._scripts.get(operation) or self._scripts.get("*")
            return script.next() if script else WHOLE

    def hold(self, headers: dict[str, str], body: bytes, late: int) -> None:
        with self._lock:
            self._held.append(_Held(headers, body, late))

    def land(self) -> list[int]:
        """Apply what is held, and return the engine's status for each."""
        with self._lock:
            due, self._held = self._held, []
        return self._land(due)

    def passed(self) -> None:
        """Another request has passed: apply what was held until then."""
        with self._lock:
            for each in self._held:
                each.late -= 1
            due = [each for each in self._held if each.late == 0]
            self._held = [each for each in self._held if each.late]
        self._land(due)

    def _land(self, due: "list[_Held]") -> list[int]:
        landed = [self.forward(each.headers, each.body)[0] for each in due]
        self.landed += landed
        return landed

    def forward(self, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self._upstream, timeout=30)
        with contextlib.closing(connection):
            connection.request("POST", "/", body, headers)
            reply = connection.getresponse()
            kept = {
                name: value for name, value in reply.getheaders() if name.lower().startswith(("x-amz", "content-t"))
            }
            return reply.status, kept, reply.read()


@dataclass
class _Held:
    """A request that is applied later."""

    headers: dict[str, str]
    body: bytes
    late: int
    """After how many more requests; 0 or less: when it is asked for."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], proxy: Proxy) -> None:
        super().__init__(address, _Handler)
        self.proxy = proxy

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that goes away is what is wanted here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.proxy.opened(self.connection)

    def finish(self) -> None:
        self.server.proxy.closed(self.connection)
        super().finish()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the parent's name
        pass

    def do_POST(self) -> None:
        proxy = self.server.proxy
        released = proxy.released
        body = self.rfile.read(int(self.headers["Content-Length"]))
        step = proxy.step(self.headers["X-Amz-Target"].rpartition(".")[2], self.headers["Authorization"])
        status, headers, reply = 500, dict[str, str](), b"{}"
        if step.late is not None:
            proxy.hold(dict(self.headers.items()), body, step.late)
        if step.applied:
            try:
                status, headers, reply = proxy.forward(dict(self.headers.items()), body)
            except OSError:  # The engine is not there: nor is its proxy.
                step = Step(How.DROPPED)
        if step.late is None:
            proxy.passed()
        if step.between is not None:
            try:
                step.between()
            except Exception as error:  # noqa: BLE001 - it is the test's, and its thread is another
                proxy.failures.append(error)
        if step.how is How.ANOTHER:
            status, code = step.error
            headers = {"Content-Type": "application/x-amz-json-1.0"}
            said = {"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": "by the proxy", **step.details}
            reply = json.dumps(said).encode()
        self.close_connection = step.how not in (How.WHOLE, How.ANOTHER)
        self._answer(step.how, released, status, headers, reply)

    def _answer(self, how: How, released: threading.Event, status: int, headers: dict[str, str], reply: bytes) -> None:
        match how:
            case How.WHOLE | How.ANOTHER:
                self._reply(status, headers, reply, len(reply))
            case How.TRUNCATED:
                self._reply(status, headers, reply[:-1], max(1, len(reply)))
            case How.DRIPPED:
                self._reply(status, headers, b"", DRIPS + 1)
                for _ in range(DRIPS):
                    if released.wait(DRIP_SECONDS):
                        break
                    self.wfile.write(b" ")
            case How.NEVER:
                released.wait(DRIPS * DRIP_SECONDS)
            case How.RESET:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.server.proxy.closed(self.connection)
                os.close(self.connection.detach())

    def _reply(self, status: int, headers: dict[str, str], body: bytes, length: int) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)
