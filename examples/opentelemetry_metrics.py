"""OpenTelemetry metrics of every operation on a session. Where they go is for your provider and exporter to say."""

from opentelemetry import metrics
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from dynamodb_sessions import DynamoDBSessionMiddleware, SessionEvent

meter = metrics.get_meter("dynamodb_sessions")
duration = meter.create_histogram("session.operation.duration", unit="s", description="How long operations took")
capacity = meter.create_counter("session.consumed_capacity", unit="{unit}", description="What DynamoDB consumed")


def record(event: SessionEvent) -> None:
    attributes = {"operation": event.name, "outcome": event.outcome}
    duration.record(event.duration_ms / 1000, attributes)
    if event.capacity_units is not None:
        capacity.add(event.capacity_units, attributes)


def visits(request: Request) -> PlainTextResponse:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return PlainTextResponse(f"You have been here {request.session['visits']} times.")


app = Starlette(routes=[Route("/", visits)])
app.add_middleware(DynamoDBSessionMiddleware, on_event=record)
