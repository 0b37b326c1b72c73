"""CloudWatch metrics without an agent or a call: a line of JSON per operation, which Lambda and ECS pass on.

The format is CloudWatch's embedded metric format; the names are those of `dynamodb_sessions.otel`. What you get: how
many operations there were, how long they took and what DynamoDB consumed, by operation and outcome; how many sessions
were created and ended, cookies refused and attempts throttled; 1 when memory begins to stand in for DynamoDB, and 0
when it ends.
"""

import json
import time

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from dynamodb_sessions import DynamoDBSessionMiddleware, SessionEvent

COUNTED = {
    "create": "dynamodb_sessions.created",
    "delete": "dynamodb_sessions.ended",
    "revoke_owner": "dynamodb_sessions.ended",
    "revoke_tenant": "dynamodb_sessions.ended",
    "refused": "dynamodb_sessions.refused",
    "throttled": "dynamodb_sessions.throttled",
}
MODES = {"fallback": 1, "recovered": 0}


def emit(event: SessionEvent) -> None:
    system = "memory" if event.mode == "memory" else "aws.dynamodb"
    place = {"db.system.name": system, "db.collection.name": event.table or "none"}
    if event.duration_ms:
        metrics = {"db.client.operation.duration": (event.duration_ms / 1000, "Seconds")}
        if event.capacity_units is not None:
            metrics["dynamodb_sessions.consumed_capacity"] = (event.capacity_units, "Count")
        write(metrics, {**place, "db.operation.name": event.name, "dynamodb_sessions.outcome": event.outcome})
    if event.name in COUNTED and (event.outcome == "ok" or not event.duration_ms):
        write({COUNTED[event.name]: (event.count, "Count")}, place)
    if event.name in MODES:
        # No dimension may have a metric's name: this one is about memory alone.
        memory = {**place, "db.system.name": "memory"}
        write({"dynamodb_sessions.mode": (MODES[event.name], "None")}, memory)


def write(metrics: dict[str, tuple[float, str]], dimensions: dict[str, str]) -> None:
    directive = {
        "Namespace": "Sessions",
        "Dimensions": [list(dimensions)],
        "Metrics": [{"Name": name, "Unit": unit} for name, (_, unit) in metrics.items()],
    }
    header = {"Timestamp": int(time.time() * 1000), "CloudWatchMetrics": [directive]}
    values = {name: value for name, (value, _) in metrics.items()}
    print(json.dumps({"_aws": header, **dimensions, **values}))


def visits(request: Request) -> PlainTextResponse:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return PlainTextResponse(f"You have been here {request.session['visits']} times.")


app = Starlette(routes=[Route("/", visits)])
app.add_middleware(DynamoDBSessionMiddleware, on_event=emit)
