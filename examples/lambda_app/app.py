"""The visits of `examples/minimal.py`, on Lambda: the function's handler is `app.handler`.

Behind an API Gateway (REST or HTTP), an Application Load Balancer or a function URL alike. The environment is the
package's: SESSION_TABLE_NAME is "sessions" by default; the region is Lambda's own. The key is SESSION_SECRET_KEY or,
so that nobody reads it in the function's configuration, in the parameter that SESSION_SECRET_KEY_PARAMETER names.
"""

import os

import boto3
from mangum import Mangum
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from dynamodb_sessions import DynamoDBSessionMiddleware, DynamoDBStore

# At import, so that the client, its connection and its first call belong to Lambda's INIT phase, not to a visitor.
store = DynamoDBStore()
store.probe()


def secret_keys() -> list[str] | None:
    """Read the keys from Parameter Store, newest first, with commas between them. None: SESSION_SECRET_KEY."""
    name = os.environ.get("SESSION_SECRET_KEY_PARAMETER")
    if not name:
        return None
    parameter = boto3.client("ssm").get_parameter(Name=name, WithDecryption=True)["Parameter"]
    return str(parameter["Value"]).split(",")


def visits(request: Request) -> PlainTextResponse:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return PlainTextResponse(f"You have been here {request.session['visits']} times.")


app = Starlette(routes=[Route("/", visits)])
# Without DynamoDB the function still answers, but each of its instances then knows only the sessions it made itself,
# and says so as an ERROR in its log. Where that is worse than no answer: fallback="error".
app.add_middleware(DynamoDBSessionMiddleware, secret_keys(), session_cookie="session_id", max_age=7200, store=store)

handler = Mangum(app)
