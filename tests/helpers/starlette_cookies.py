"""The cookies of Starlette's own sessions."""

import base64
import json
from typing import Any

from itsdangerous import TimestampSigner

OLD_KEY = "the-key-that-the-cookie-sessions-were-signed-with"


ALICE = {"user": "alice", "cart": [1, {"a": None}]}


def of_starlette(data: Any, *, key: str = OLD_KEY) -> str:
    return TimestampSigner(key).sign(base64.b64encode(json.dumps(data).encode())).decode()
