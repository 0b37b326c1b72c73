"""AWS Signature Version 4 of requests to DynamoDB: aiodynamo's takes four times as long, botocore's ten times.

What all requests of one second share is derived once. Source: "Create a signed AWS API request" in the IAM
documentation; `tests/aws/test_sigv4.py` holds it to botocore's own.
"""

import hashlib
import hmac
import time
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

from dynamodb_sessions.aws.setup_errors import UNSENDABLE, not_set_up

_CONTENT_TYPE = "application/x-amz-json-1.0"
_TARGET = "DynamoDB_20120810"
_ALGORITHM = "AWS4-HMAC-SHA256"
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Key:
    """An access key: its id, its secret and, if it is a temporary one, its session token."""

    id: str = field(repr=False)
    secret: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class _Second:
    """What the signatures of one second, by one key, have in common."""

    time: int
    key: Key = field(repr=False)
    stamp: str
    scope: str
    signing: hmac.HMAC = field(repr=False)
    """Begun with the signing key: a copy is sooner made than another one."""


class Signer:
    """Signs requests for one endpoint of one region. Event loops in several threads may share it."""

    def __init__(self, region: str, endpoint_url: str) -> None:
        self._region = region
        self._host, path = _host_and_path(endpoint_url)
        self._request = f"POST\n{path}\n\ncontent-type:{_CONTENT_TYPE}\nhost:{self._host}\nx-amz-date:"
        self._second: _Second | None = None

    def headers(self, key: Key, operation: str, body: bytes) -> dict[str, str]:
        """Return the headers of a request that is sent now. `operation` is named as DynamoDB names it: "GetItem".

        Raises ConfigurationError if the key cannot be sent.
        """
        second = self._now(key)
        target = f"{_TARGET}.{operation}"
        token, signed = "", "content-type;host;x-amz-date"
        if key.token:
            token, signed = f"x-amz-security-token:{key.token}\n", f"{signed};x-amz-security-token"
        request = (
            f"{self._request}{second.stamp}\n{token}x-amz-target:{target}\n\n"
            f"{signed};x-amz-target\n{hashlib.sha256(body).hexdigest()}"
        )
        to_sign = f"{_ALGORITHM}\n{second.stamp}\n{second.scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        signing = second.signing.copy()
        signing.update(to_sign.encode())
        headers = {
            "Host": self._host,
            "Content-Type": _CONTENT_TYPE,
            "X-Amz-Date": second.stamp,
            "X-Amz-Target": target,
            "Authorization": (
                f"{_ALGORITHM} Credential={key.id}/{second.scope}, "
                f"SignedHeaders={signed};x-amz-target, Signature={signing.hexdigest()}"
            ),
        }
        if key.token:
            headers["X-Amz-Security-Token"] = key.token
        return headers

    def _now(self, key: Key) -> _Second:
        now, second = int(time.time()), self._second
        if second is None or second.time != now or second.key != key:
            if not f"{key.id}{key.token or ''}".isprintable():
                raise not_set_up(UNSENDABLE)
            stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
            scope = f"{stamp[:8]}/{self._region}/dynamodb/aws4_request"
            signing_key = f"AWS4{key.secret}".encode()
            for part in scope.split("/"):
                signing_key = hmac.digest(signing_key, part.encode(), "sha256")
            signing = hmac.new(signing_key, digestmod="sha256")
            self._second = second = _Second(now, key, stamp, scope, signing)
        return second


def _host_and_path(url: str) -> tuple[str, str]:
    """Return a URL's host, with its port if it is not the scheme's own, and its path, both as they are sent."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    if parts.port is not None and parts.port != _PORTS.get(parts.scheme):
        host = f"{host}:{parts.port}"
    return host, quote(parts.path or "/", safe="/%:@!$&'()*+,;=~")
