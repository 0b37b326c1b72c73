"""A Redis of one's own on a port of its own, that keeps nothing; its answers come after a latency if one is wanted.

Redis cannot be told to wait: `python -m benchmarks.redis_server PORT` runs what stands in front of it and does.
"""

import argparse
import asyncio
import contextlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAM = "redis-server"


def is_installed() -> bool:
    return shutil.which(PROGRAM) is not None


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _wait_for(port: int) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise RuntimeError(f"{PROGRAM} does not listen")


@contextmanager
def process(latency: float = 0.0) -> Iterator[tuple[int, list[int]]]:
    """Run one while the block lasts. Returns its port and its processes' numbers."""
    port = _free_port()
    command = [PROGRAM, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with subprocess.Popen([*command, "--daemonize", "no"], stdout=subprocess.DEVNULL) as server:
        try:
            _wait_for(port)
            if not latency:
                yield port, [server.pid]
                return
            with _delayed(port, latency) as (front, pid):
                yield front, [server.pid, pid]
        finally:
            server.terminate()


@contextmanager
def _delayed(port: int, latency: float) -> Iterator[tuple[int, int]]:
    command = [sys.executable, "-m", "benchmarks.redis_server", str(port), "--latency-ms", str(latency * 1000)]
    with subprocess.Popen(
        command, cwd=Path(__file__).parent.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as front:
        assert front.stdout is not None
        yield int(front.stdout.readline()), front.pid


class _Side(asyncio.Protocol):
    """One side of a connection: what it receives goes to the other, after a latency."""

    def __init__(self, latency: float) -> None:
        self.latency = latency
        self.other: asyncio.Transport | None = None
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self._early.append(data)
        elif self.latency:
            asyncio.get_running_loop().call_later(self.latency, self.other.write, data)
        else:
            self.other.write(data)

    def connection_lost(self, _: Exception | None) -> None:
        if self.other is not None:
            self.other.close()

    def join(self, other: "_Side") -> None:
        self.other = other.transport
        for data in self._early:
            self.other.write(data)


class _Front(_Side):
    def __init__(self, port: int, latency: float) -> None:
        super().__init__(0.0)
        self._port = port
        self._answers = latency

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connecting = asyncio.ensure_future(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        _, back = await loop.create_connection(lambda: _Side(self._answers), "127.0.0.1", self._port)
        back.join(self)
        self.join(back)


async def serve(port: int, latency: float) -> None:
    """Stand before a port until standard input ends."""
    server = await asyncio.get_running_loop().create_server(lambda: _Front(port, latency), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--latency-ms", type=float, default=0.0)
    options = parser.parse_args()
    asyncio.run(serve(options.port, options.latency_ms / 1000))
