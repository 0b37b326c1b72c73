"""OpenTelemetry metrics of sessions. Where they go is for your provider and exporter to say.

    pip install 'dynamodb-sessions[otel]' opentelemetry-distro opentelemetry-exporter-otlp
    opentelemetry-instrument uvicorn examples.opentelemetry_metrics:app

The middleware is given to the constructor. So the instrumentation of Starlette is outside of it, and what it calls
belongs to the span of the request.
"""

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from dynamodb_sessions import DynamoDBSessionMiddleware
from dynamodb_sessions.otel import OpenTelemetryEvents


def visits(request: Request) -> PlainTextResponse:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return PlainTextResponse(f"You have been here {request.session['visits']} times.")


sessions = Middleware(DynamoDBSessionMiddleware, on_event=OpenTelemetryEvents())
app = Starlette(routes=[Route("/", visits)], middleware=[sessions])
