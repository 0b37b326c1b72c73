"""CloudWatch metrics without an agent or a call: a line of JSON per operation, which Lambda and ECS pass on.

The format is CloudWatch's embedded metric format. What you get, by operation and outcome: how many there were, how
long they took, what DynamoDB consumed.
"""

import json
import time

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from dynamodb_sessions import DynamoDBSessionMiddleware, SessionEvent


def emit(event: SessionEvent) -> None:
    metrics = [{"Name": "Duration", "Unit": "Milliseconds"}]
    values = {"Operation": event.name, "Outcome": event.outcome, "Duration": event.duration_ms}
    if event.capacity_units is not None:
        metrics.append({"Name": "ConsumedCapacity", "Unit": "Count"})
        values["ConsumedCapacity"] = event.capacity_units
    directive = {"Namespace": "Sessions", "Dimensions": [["Operation", "Outcome"]], "Metrics": metrics}
    print(json.dumps({"_aws": {"Timestamp": int(time.time() * 1000), "CloudWatchMetrics": [directive]}, **values}))


def visits(request: Request) -> PlainTextResponse:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return PlainTextResponse(f"You have been here {request.session['visits']} times.")


app = Starlette(routes=[Route("/", visits)])
app.add_middleware(DynamoDBSessionMiddleware, on_event=emit)
