"""Start the chat on http://127.0.0.1:8000/page: `python -m examples.agent_chat`.

DynamoDB is the one at DYNAMODB_ENDPOINT_URL, whose tables are made, or else AWS's, whose tables must be there.
"""

import os

import uvicorn

from dynamodb_sessions import DynamoDBStore
from examples.agent_chat.app import create_app
from examples.agent_chat.scripted import ScriptedModel


def main() -> None:
    endpoint_url = os.environ.get("DYNAMODB_ENDPOINT_URL") or None
    store = DynamoDBStore("sessions", endpoint_url=endpoint_url, create_table=endpoint_url is not None)
    app = create_app(store, ScriptedModel(pace=0.1), endpoint_url=endpoint_url, create_table=endpoint_url is not None)
    uvicorn.run(app)


if __name__ == "__main__":
    main()
