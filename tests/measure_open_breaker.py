"""How long a request takes while DynamoDB hangs and the breaker is open: `python -m tests.measure_open_breaker`."""

import logging
import os
import statistics
import sys
import time

import anyio
from moto.server import ThreadedMotoServer

from dynamodb_sessions import DynamoDBStore
from dynamodb_sessions.breaker import FAILURES
from tests.proxy import How, Proxy, Step
from tests.test_faults import App

REQUESTS = 5_000


async def measure(proxy: Proxy) -> list[float]:
    """Return the milliseconds that each request of a browser with a session takes."""
    app = App(DynamoDBStore("sessions", endpoint_url=proxy.url, create_table=True))
    assert (await app.get("/count")).status_code == 200
    proxy.play("*", rest=Step(How.NEVER))
    for _ in range(FAILURES):
        assert (await app.get("/look")).status_code == 503
    durations = []
    for _ in range(REQUESTS):
        before = time.perf_counter()
        response = await app.get("/look")
        durations.append((time.perf_counter() - before) * 1000)
        assert response.status_code == 503
    return durations


if __name__ == "__main__":
    os.environ |= {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_REGION": "us-east-1"}
    logging.disable()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    proxy = Proxy(f"http://{host}:{port}")
    cuts = statistics.quantiles(durations := anyio.run(measure, proxy), n=100)
    sys.stdout.write(
        f"{REQUESTS} requests while the breaker is open, in ms: "
        f"median {cuts[49]:.2f}, p99 {cuts[98]:.2f}, longest {max(durations):.2f}\n"
    )
    proxy.close()
    server.stop()
