"""The examples run as they stand."""

import importlib.util
import json
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from dynamodb_sessions import SessionEvent
from dynamodb_sessions.otel import OpenTelemetryEvents
from dynamodb_sessions.stores import table_schema
from tests.conftest import KEY
from tests.helpers.mangum import count_probes, http_api, invoke, new_event_loop

EXAMPLES = Path(__file__).parent.parent.parent / "examples"

Load = Callable[[str], ModuleType]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Return a function that imports an example anew, with the key that its user has to set."""
    monkeypatch.setenv("SESSION_SECRET_KEY", KEY)

    def load(path: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location("example", EXAMPLES / path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def in_dynamodb(monkeypatch: pytest.MonkeyPatch, moto_url: str, dynamodb: Any, table_name: str) -> None:
    table_schema.create(dynamodb, table_name)
    monkeypatch.setenv("USE_DYNAMODB_SESSIONS", "true")
    monkeypatch.setenv("SESSION_TABLE_NAME", table_name)
    monkeypatch.setenv("DYNAMODB_ENDPOINT_URL", moto_url)


async def visit(app: Any, times: int, cookie: str = "") -> tuple[list[str], str]:
    """Return what the app answers, and the cookie it leaves."""
    answers = []
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://testserver") as client:
        for _ in range(times):
            response = await client.get("/", headers={"cookie": cookie} if cookie else {})
            answers.append(response.raise_for_status().text)
            cookie = response.headers.get("set-cookie", cookie).partition(";")[0]
    return answers, cookie


def texts(*counts: int) -> list[str]:
    return [f"You have been here {count} times." for count in counts]


@pytest.mark.anyio
async def test_minimal_counts_visits_in_memory(load: Load) -> None:
    answers, _ = await visit(load("minimal.py").app, 3)
    assert texts(1, 2, 3) == answers


@pytest.mark.anyio
@pytest.mark.usefixtures("in_dynamodb")
@pytest.mark.parametrize(
    "example", ["minimal.py", "lambda_app/app.py", "embedded_metrics.py", "opentelemetry_metrics.py"]
)
async def test_what_is_in_dynamodb_survives_the_process(load: Load, example: str) -> None:
    answers, cookie = await visit(load(example).app, 2)
    assert texts(1, 2) == answers
    answers, _ = await visit(load(example).app, 2, cookie)
    assert texts(3, 4) == answers


@pytest.mark.usefixtures("in_dynamodb")
def test_the_lambda_function_is_ready_when_it_is_imported(load: Load) -> None:
    """Its client is built and its first call made in the INIT phase; an invocation makes none of its own."""
    with new_event_loop():
        module = load("lambda_app/app.py")
    assert module.store.mode_reason == "the table answers"
    probes = count_probes(module.store)
    assert texts(1, 2, 3) == [answer["body"] for answer in invocations(module, 3)]
    assert probes == []


def test_the_lambda_function_answers_without_dynamodb(
    load: Load, monkeypatch: pytest.MonkeyPatch, moto_url: str, table_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """From the memory of its instance, which it calls an error."""
    monkeypatch.setenv("SESSION_TABLE_NAME", table_name)
    monkeypatch.setenv("DYNAMODB_ENDPOINT_URL", moto_url)
    with new_event_loop():
        module = load("lambda_app/app.py")
    assert module.store.mode == "memory"
    assert texts(1, 2) == [answer["body"] for answer in invocations(module, 2)]
    (error,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "create the table" in error.getMessage()


def invocations(module: ModuleType, count: int) -> Iterator[dict[str, Any]]:
    cookies: list[str] = []
    for _ in range(count):
        response = invoke(module.handler, http_api("GET", "/", cookies, ""))
        cookies = [cookie.partition(";")[0] for cookie in response.get("cookies", ())] or cookies
        yield response


def test_the_lambda_functions_requirements_bring_all_it_imports() -> None:
    """Each is pinned; this package comes from the checkout, and boto3 is Lambda's own."""
    folder = EXAMPLES / "lambda_app"
    imported = set(re.findall(r"^(?:from|import) (\w+)", (folder / "app.py").read_text(), re.MULTILINE))
    pinned = set(re.findall(r"^([\w-]+)==", (folder / "requirements.txt").read_text(), re.MULTILINE))
    assert imported - sys.stdlib_module_names - pinned == {"dynamodb_sessions", "boto3"}


@pytest.mark.anyio
@pytest.mark.usefixtures("in_dynamodb")
async def test_embedded_metrics_are_lines_that_cloudwatch_takes(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    module = load("embedded_metrics.py")
    await visit(module.app, 2)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.get("db.operation.name") or line["dynamodb_sessions.created"] for line in lines] == [
        "create",
        1,
        "load",
        "update",
    ]
    for line in lines:
        assert abs(line["_aws"]["Timestamp"] / 1000 - time.time()) < 60
        (directive,) = line["_aws"]["CloudWatchMetrics"]
        names = [metric["Name"] for metric in directive["Metrics"]]
        # What a directive names must be there: numbers for metrics, strings for dimensions.
        assert all(isinstance(line[name], int | float) for name in names)
        assert all(isinstance(line[name], str) for (*dimensions,) in directive["Dimensions"] for name in dimensions)


EVENTS = [
    SessionEvent("create", "ok", 2.0, 1.0, "01234567", "dynamodb", "sessions"),
    SessionEvent("load", "StoreUnavailable", 2.0, 1.0, "01234567", "dynamodb", "sessions"),
    SessionEvent("delete", "gone", 2.0, 1.0, "01234567", "dynamodb", "sessions"),
    SessionEvent("revoke_owner", "ok", 2.0, 1.0, None, "dynamodb", "sessions", 3),
    SessionEvent("revoke_tenant", "ok", 2.0, 1.0, None, "dynamodb", "sessions", 5),
    SessionEvent("refused", "refused", 0.0, None, None, "dynamodb", "sessions"),
    SessionEvent("throttled", "ThrottlingException", 0.0, None, "01234567", "dynamodb", "sessions"),
    SessionEvent("fallback", "StoreUnavailable", 0.0, None, None, "memory", "sessions"),
]


def test_embedded_metrics_have_the_names_and_values_that_opentelemetry_gets(
    load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    reader = InMemoryMetricReader()
    record, emit = OpenTelemetryEvents(MeterProvider([reader])), load("embedded_metrics.py").emit
    for event in EVENTS:
        record(event)
        emit(event)
    emitted: dict[str, float] = {}
    for line in map(json.loads, capsys.readouterr().out.splitlines()):
        (directive,) = line["_aws"]["CloudWatchMetrics"]
        assert all(isinstance(line[name], str) for dimensions in directive["Dimensions"] for name in dimensions)
        for metric in directive["Metrics"]:
            emitted[metric["Name"]] = emitted.get(metric["Name"], 0) + line[metric["Name"]]
    data = reader.get_metrics_data()
    assert data is not None
    (scope,) = data.resource_metrics[0].scope_metrics
    got = {
        metric.name: sum(getattr(point, "sum", getattr(point, "value", 0)) for point in metric.data.data_points)
        for metric in scope.metrics
    }
    assert emitted == pytest.approx(got)


@pytest.mark.anyio
@pytest.mark.usefixtures("in_dynamodb")
async def test_opentelemetry_hears_of_every_operation(load: Load) -> None:
    reader = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider([reader]))
    await visit(load("opentelemetry_metrics.py").app, 2)
    data = reader.get_metrics_data()
    assert data is not None
    (scope,) = data.resource_metrics[0].scope_metrics
    points = {metric.name: metric.data.data_points for metric in scope.metrics}
    operations = ["create", "load", "update"]
    for name in ("db.client.operation.duration", "dynamodb_sessions.consumed_capacity"):
        assert [(point.attributes or {})["db.operation.name"] for point in points[name]] == operations
