"""Metrics of sessions, under the names of OpenTelemetry's semantic conventions."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from dynamodb_sessions import DynamoDBSessionMiddleware, DynamoDBStore, MemoryStore, SessionEvent, SessionStore
from dynamodb_sessions.otel import BOUNDS, OpenTelemetryEvents
from tests.conftest import KEY
from tests.helpers.asgi import an_app, browser, by_path, clear, held, look, put

pytestmark = pytest.mark.anyio

DURATION = "db.client.operation.duration"


class Metrics:
    """What an exporter would get."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.events = OpenTelemetryEvents(MeterProvider([self._reader]))

    def read(self) -> dict[str, Any]:
        """Return the metrics by their names."""
        data = self._reader.get_metrics_data()
        assert data is not None
        (scope,) = data.resource_metrics[0].scope_metrics
        assert scope.scope.name == "dynamodb_sessions"
        return {metric.name: metric for metric in scope.metrics}

    def values(self, name: str) -> dict[tuple[tuple[str, Any], ...], Any]:
        """Return the values of a counter or gauge by their attributes."""
        points = self.read()[name].data.data_points
        return {tuple(sorted(point.attributes.items())): point.value for point in points}

    def total(self, name: str) -> int:
        found = self.read().get(name)
        return 0 if found is None else sum(point.value for point in found.data.data_points)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def login(request: Any) -> None:
    held(request).bind("acme/alice", tenant="acme")


async def end_others(request: Any) -> None:
    await held(request).info.store.revoke_owner("acme/alice", keep=held(request).info.id)


async def end_tenant(request: Any) -> None:
    await held(request).info.store.revoke_tenant("acme", keep=held(request).info.id)


PATHS = by_path(put=put(a=1), look=look, clear=clear, login=login, end_others=end_others, end_tenant=end_tenant)


async def test_operations_have_the_names_of_the_semantic_conventions(
    store: SessionStore, metrics: Metrics, engine: str
) -> None:
    async with browser(an_app(store, PATHS, on_event=metrics.events)) as client:
        for path in ("put", "look", "clear"):
            await client.get(f"/{path}")
    system = {"db.system.name": "memory"}
    if isinstance(store, DynamoDBStore):
        system = {"db.system.name": "aws.dynamodb", "db.collection.name": store.table_name}
    duration = metrics.read()[DURATION]
    assert duration.unit == "s"
    assert {point.attributes["db.operation.name"]: point.count for point in duration.data.data_points} == {
        "create": 1,
        "load": 2,
        "delete": 1,
    }
    for point in duration.data.data_points:
        assert {**point.attributes, **system, "dynamodb_sessions.outcome": "ok"} == point.attributes
        assert "error.type" not in point.attributes
        assert list(point.explicit_bounds) == BOUNDS
        assert 0 < point.max < 10
    if engine == "local":
        assert metrics.total("dynamodb_sessions.consumed_capacity") == 4
    assert metrics.total("dynamodb_sessions.created") == metrics.total("dynamodb_sessions.ended") == 1
    modes = metrics.values("dynamodb_sessions.mode").items()
    current = [dict(attributes)["dynamodb_sessions.mode"] for attributes, value in modes if value]
    assert current == ["memory" if engine == "memory" else "dynamodb"]


def test_the_bounds_are_those_of_the_conventions_and_some_between() -> None:
    """Source: "Semantic conventions for database client metrics", `db.client.operation.duration`."""
    assert {0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10} <= set(BOUNDS)
    assert sorted(BOUNDS) == BOUNDS


@pytest.mark.parametrize("end", ["end_others", "end_tenant"])
async def test_sessions_that_were_created_ended_or_refused_are_counted(metrics: Metrics, end: str) -> None:
    app = an_app(MemoryStore(), PATHS, on_event=metrics.events)
    async with browser(app) as first, browser(app) as second, browser(app) as third:
        for client in (first, second, third):
            await client.get("/login")
        await first.get(f"/{end}")
        assert metrics.total("dynamodb_sessions.ended") == 2
        await first.get("/clear")
        for _ in range(3):
            await first.get("/look", headers={"cookie": "session_id=forged"})
    totals = {name: metrics.total(f"dynamodb_sessions.{name}") for name in ("created", "ended", "refused")}
    assert totals == {"created": 3, "ended": 3, "refused": 3}


async def test_sessions_that_end_for_want_of_room_are_counted_once(metrics: Metrics) -> None:
    app = an_app(MemoryStore(), PATHS, on_event=metrics.events, max_sessions_per_owner=1)
    async with browser(app) as first, browser(app) as second:
        await first.get("/login")
        await second.get("/login")
    assert metrics.total("dynamodb_sessions.ended") == 1
    operations = [point.attributes["db.operation.name"] for point in metrics.read()[DURATION].data.data_points]
    assert sorted(operations) == ["create", "limit_owner"]


@pytest.mark.parametrize("outcome", ["StoreUnavailable", "cancelled", "unhealthy"])
def test_what_failed_has_the_type_of_its_error(metrics: Metrics, outcome: str) -> None:
    metrics.events(SessionEvent("create", outcome, 3.0, None, None, "dynamodb", "sessions"))
    for ended_well in ("ok", "gone", "absent"):
        metrics.events(SessionEvent("update", ended_well, 3.0, None, None, "dynamodb", "sessions"))
    points = [point.attributes for point in metrics.read()[DURATION].data.data_points]
    assert [point.get("error.type") for point in points] == [outcome, None, None, None]
    assert metrics.total("dynamodb_sessions.created") == 0


def test_what_is_no_operation_has_no_duration_but_the_gauge_tells_of_a_fallback(metrics: Metrics) -> None:
    def told(name: str, outcome: str, mode: str) -> None:
        metrics.events(SessionEvent(name, outcome, 0.0, None, None, mode, "sessions"))

    def modes() -> dict[str, int]:
        found = metrics.values("dynamodb_sessions.mode").items()
        return {dict(attributes)["dynamodb_sessions.mode"]: value for attributes, value in found}

    told("throttled", "TableReadKeyRangeThroughputExceeded", "dynamodb")
    told("fallback", "StoreUnavailable", "memory")
    assert modes() == {"dynamodb": 0, "memory": 1}
    told("recovered", "ok", "dynamodb")
    assert modes() == {"dynamodb": 1, "memory": 0}
    assert DURATION not in metrics.read()
    [(attributes, count)] = metrics.values("dynamodb_sessions.throttled").items()
    assert (dict(attributes)["error.type"], count) == ("TableReadKeyRangeThroughputExceeded", 1)


def test_without_the_extra_the_error_names_it() -> None:
    code = "import sys; sys.modules['opentelemetry'] = None; import dynamodb_sessions; import dynamodb_sessions.otel"
    failed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'dynamodb-sessions[otel]'" in failed.stderr


def test_nobody_who_does_not_ask_for_it_imports_it() -> None:
    code = "import json, sys; import dynamodb_sessions, dynamodb_sessions.middleware; print(json.dumps([*sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"opentelemetry", "dynamodb_sessions.otel"} & set(json.loads(done.stdout))


# Beside the instrumentation of Starlette, FastAPI and ASGI.


Build = Callable[[Any, TracerProvider], Any]


async def visits(request: Request) -> Response:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return Response()


def by_asgi(on_event: Any, provider: TracerProvider) -> Any:
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware  # noqa: PLC0415 - it may be missing

    return OpenTelemetryMiddleware(an_app(MemoryStore(), visits, on_event=on_event), tracer_provider=provider)


def by_starlette(on_event: Any, provider: TracerProvider) -> Any:
    from opentelemetry.instrumentation.starlette import StarletteInstrumentor  # noqa: PLC0415 - it may be missing

    app = an_app(MemoryStore(), visits, on_event=on_event)
    StarletteInstrumentor.instrument_app(app, tracer_provider=provider)
    return app


def by_fastapi(on_event: Any, provider: TracerProvider) -> Any:
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor  # noqa: PLC0415 - it may be missing

    sessions = Middleware(DynamoDBSessionMiddleware, secret_key=KEY, store=MemoryStore(), on_event=on_event)
    app = FastAPI(middleware=[sessions])
    app.add_api_route("/", visits, response_model=None)
    FastAPIInstrumentor.instrument_app(app, tracer_provider=provider)
    return app


@pytest.fixture(params=[by_asgi, by_starlette, by_fastapi])
def build(request: pytest.FixtureRequest) -> Build:
    name = request.param.__name__.removeprefix("by_")
    if importlib.util.find_spec("opentelemetry.instrumentation") is None:
        pytest.skip("OpenTelemetry's instrumentation is not installed")
    pytest.importorskip(f"opentelemetry.instrumentation.{name}")
    build: Build = request.param
    return build


async def test_what_is_told_of_a_request_belongs_to_its_span(build: Build) -> None:
    """So a histogram's exemplars lead to the request's trace, and spans of AWS's calls are below its span."""
    spans: list[tuple[str, Any]] = []
    app = build(lambda event: spans.append((event.name, trace.get_current_span().get_span_context())), TracerProvider())
    async with browser(app) as client:
        for _ in range(2):
            assert (await client.get("/")).status_code == 200
    assert [name for name, _ in spans] == ["create", "load", "update"]
    (first, second, third) = [context.trace_id for _, context in spans]
    assert first != second == third != 0
    assert all(context.is_valid for _, context in spans)
