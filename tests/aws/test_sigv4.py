"""The signatures of client="async" are those that botocore makes."""

import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from aiodynamo.client import Client
from aiodynamo.credentials import Key as AiodynamoKey
from aiodynamo.credentials import StaticCredentials
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from yarl import URL

from dynamodb_sessions import DynamoDBStore
from dynamodb_sessions.aws.sigv4 import Key, Signer
from tests.helpers.aiodynamo_clients import never

pytestmark = pytest.mark.anyio

NOW = 1_800_000_000
ALICE = Key("AKIDALICE", "a secret/of+Alice's")
BOB = Key("AKIDBOB", "a secret of Bob's", "a/session+token==")


def of_botocore(key: Key, region: str, url: str, headers: dict[str, str], body: bytes) -> str:
    """Return the Authorization that botocore gives such a request, sent when its headers say."""
    auth = SigV4Auth(Credentials(key.id, key.secret, key.token), "dynamodb", region)
    unsigned = {name: value for name, value in headers.items() if name.lower() != "authorization"}
    request = AWSRequest("POST", url, unsigned, body)
    request.context["timestamp"] = unsigned["X-Amz-Date"]
    to_sign = auth.string_to_sign(request, auth.canonical_request(request))
    names = auth.signed_headers(auth.headers_to_sign(request))
    signature = auth.signature(to_sign, request)
    return f"AWS4-HMAC-SHA256 Credential={auth.scope(request)}, SignedHeaders={names}, Signature={signature}"


@pytest.mark.parametrize("key", [ALICE, BOB], ids=["a user", "a role"])
@pytest.mark.parametrize(
    ("region", "url"),
    [
        ("eu-central-1", "https://dynamodb.eu-central-1.amazonaws.com"),
        ("us-east-1", "http://localhost:8000"),
        ("us-east-1", "https://127.0.0.1:443/a/path"),
    ],
)
def test_it_signs_as_botocore_does(region: str, url: str, key: Key) -> None:
    signer = Signer(region, url)
    for operation, body in (("GetItem", b"{}"), ("UpdateItem", '{"ü":"\N{SNOWMAN}"}'.encode())):
        headers = signer.headers(key, operation, body)
        assert headers["X-Amz-Target"] == f"DynamoDB_20120810.{operation}"
        assert headers["Authorization"] == of_botocore(key, region, url, headers, body)


def test_what_a_second_shares_is_of_that_second_and_of_one_key(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "https://dynamodb.us-east-1.amazonaws.com"
    signer = Signer("us-east-1", url)
    midnight = NOW - NOW % 86400
    for key in (ALICE, BOB, BOB, ALICE):
        stamps = []
        for now in (midnight - 1.5, midnight - 0.5, midnight - 0.1, midnight, midnight, midnight - 0.5):
            monkeypatch.setattr(time, "time", lambda now=now: now)
            headers = signer.headers(key, "GetItem", b"{}")
            assert headers["Authorization"] == of_botocore(key, "us-east-1", url, headers, b"{}")
            stamps.append(headers["X-Amz-Date"])
        ends = ("4T235958", "4T235959", "4T235959", "5T000000", "5T000000", "4T235959")
        assert stamps == [f"2027011{end}Z" for end in ends]
    for key in (ALICE, BOB, ALICE):
        headers = signer.headers(key, "GetItem", b"{}")
        assert headers["Authorization"] == of_botocore(key, "us-east-1", url, headers, b"{}")


def test_nothing_secret_is_shown() -> None:
    signer = Signer("us-east-1", "http://localhost")
    signer.headers(BOB, "GetItem", b"{}")
    shown = f"{vars(signer)}"
    assert BOB.secret not in shown
    assert str(BOB.token) not in shown


@pytest.mark.parametrize("key", [ALICE, BOB], ids=["a user", "a role"])
async def test_what_arrives_is_what_was_signed(key: Key) -> None:
    """The Host among it, which is not ours to send."""
    arrived: list[tuple[dict[str, str], bytes]] = []

    class Server(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            arrived.append((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        serving = threading.Thread(target=server.handle_request)
        serving.start()
        url = f"http://127.0.0.1:{server.server_port}"
        client = Client(never, StaticCredentials(AiodynamoKey(key.id, key.secret, key.token)), "us-east-1", URL(url))
        assert await DynamoDBStore("sessions", client=client).load("an-id", now=NOW) is None
        serving.join()
    ((headers, body),) = arrived
    signed = {name: headers[name] for name in ("Host", "Content-Type", "X-Amz-Date", "X-Amz-Target")}
    if key.token:
        signed["X-Amz-Security-Token"] = headers["X-Amz-Security-Token"]
    assert headers["Authorization"] == of_botocore(key, "us-east-1", url, signed, body)
