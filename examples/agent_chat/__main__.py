"""Start the chat: `python -m examples.agent_chat`.

DynamoDB is the one at DYNAMODB_ENDPOINT_URL, or else an emulator in this process, which forgets when that ends. With
`--aws` it is AWS's, whose tables must be there.
"""

import argparse
import contextlib
import os
import secrets
import sys
from collections.abc import Sequence
from typing import Any

from dynamodb_sessions import DynamoDBStore
from examples.emulator import Emulator

try:
    import uvicorn

    from examples.agent_chat.app import create_app
    from examples.agent_chat.scripted import ScriptedModel
except ModuleNotFoundError as error:
    sys.exit(f"The chat wants {error.name}: pip install 'dynamodb-sessions[agents,demo]'")

KEY = "SESSION_SECRET_KEY"
REGION = "us-east-1"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.agent_chat", description="A chat with a scripted agent.")
    parser.add_argument("--port", default=8000, type=int, help="port to listen on (default: %(default)s)")
    parser.add_argument("--aws", action="store_true", help="use DynamoDB itself: its tables sessions and conversations")
    options = parser.parse_args(arguments)
    with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as stack:
        place: dict[str, Any] = {}
        if options.aws:
            os.environ.pop("DYNAMODB_ENDPOINT_URL", None)  # A store, and a conversation, would look there.
        endpoint_url = os.environ.get("DYNAMODB_ENDPOINT_URL")
        if (options.aws or endpoint_url) and not os.environ.get(KEY):
            parser.error(f"set {KEY} to some secret of 32 bytes or more: logins are to outlive this process")
        kept = "AWS" if options.aws else endpoint_url or "an emulator, as long as this process lives"
        if not options.aws:
            if not endpoint_url:
                emulator = Emulator()
                stack.callback(emulator.stop)
                endpoint_url = emulator.url
                os.environ.setdefault(KEY, secrets.token_urlsafe(32))  # Logins do not outlive it either.
            # An emulator asks for credentials and a region, but does not mind which.
            os.environ.setdefault("AWS_ACCESS_KEY_ID", "chat")
            os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "chat")
            region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or REGION
            place = {"endpoint_url": endpoint_url, "region_name": region, "create_table": True}
        print(
            f"Agent chat: http://127.0.0.1:{options.port} (Ctrl-C closes it). What is said is kept in {kept}.",
            flush=True,
        )
        app = create_app(DynamoDBStore("sessions", **place), ScriptedModel(pace=0.1), **place)
        uvicorn.run(app, port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
