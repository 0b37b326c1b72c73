"""A server that gives every request the same answer."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def answering(status: int, body: bytes) -> ThreadingHTTPServer:
    """Return a server, not started yet, that answers each POST with this status and body."""

    class Answering(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    return ThreadingHTTPServer(("127.0.0.1", 0), Answering)
