"""What the environment alone says of region, endpoint and credentials: on Lambda and ECS, all there is to know.

To import boto3 for that takes a function's cold start longer than everything else in it. So `client="async"` asks here
first. The answer is what boto3 would find, or None: then boto3 is to find it. None it is wherever a file, a profile or
a variable may say more than what is read here.

Source: botocore's `credentials.py`, `configprovider.py` and `partitions.json`, whose order of sources this keeps.
"""

import os
import re
import stat
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from dynamodb_sessions.aws.sigv4 import Key

ADVISORY_SECONDS = 15 * 60
"""So long before they expire, credentials are renewed. Source: botocore."""
MANDATORY_SECONDS = 10 * 60
"""So long before they expire, they are not used any more."""

_REGION = re.compile(r"((us|eu|ap|sa|ca|me|af|il|mx)-[a-z]+-\d+|us-gov-[a-z]+-\d+)")
"""The regions whose endpoints are below amazonaws.com."""
_URL = re.compile(r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?(/[A-Za-z0-9._~/-]*)?")
_SAYS_MORE = (
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_DYNAMODB",
    "AWS_USE_FIPS_ENDPOINT",
    "AWS_USE_DUALSTACK_ENDPOINT",
    "AWS_DATA_PATH",
    "AWS_CREDENTIAL_EXPIRATION",
    "AWS_CREDENTIAL_FILE",
    "BOTO_CONFIG",
)
"""Variables that name another endpoint, or another source of credentials."""
_FILES = {"AWS_CONFIG_FILE": "~/.aws/config", "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials"}
"""The variables that name files that may say more, and where those are by default."""
_OTHER_FILES = ("/etc/boto.cfg", "~/.boto", "~/.aws/models")
"""An older version's, and the directory of descriptions of services, endpoints included, that take precedence."""
_WEB_IDENTITY = ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN")
_RELATIVE, _FULL = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"
_AGENT = "http://169.254.170.2"
_CONTAINER_URL = re.compile(r"(?P<scheme>https?)://(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?(/[!-~]*)?")
_LOCAL = re.compile(r"localhost|127\.\d+\.\d+\.\d+|\[::1\]|169\.254\.170\.23?|\[fd00:ec2::23\]")
"""Who may be asked for credentials without TLS: this machine, and the agents of ECS and EKS."""


class Container(NamedTuple):
    """The endpoint of a container that gives the credentials of its role."""

    url: str


class Found(NamedTuple):
    """The region that is called, the URL of its endpoint, and the key that signs, or who gives it."""

    region: str
    endpoint_url: str
    source: Key | Container


def look(region_name: str | None, endpoint_url: str | None) -> Found | None:
    """Return what the environment says, but for the options that are given; None: boto3 is to find it all."""
    region = region_name or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ""
    url = endpoint_url or f"https://dynamodb.{region}.amazonaws.com"
    if not _REGION.fullmatch(region) or not _URL.fullmatch(url) or _something_says_more():
        return None
    source = credentials()
    return None if source is None else Found(region, url, source)


def credentials() -> Key | Container | None:
    """Return the key that is in the environment, or who gives it; None: boto3 is to find it."""
    key, secret = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
    if key or secret:
        token = os.environ.get("AWS_SECURITY_TOKEN") or os.environ.get("AWS_SESSION_TOKEN") or None
        return Key(key, secret, token) if key and secret else None
    if any(os.environ.get(name) for name in _WEB_IDENTITY):
        return None
    relative = os.environ.get(_RELATIVE)
    url = os.environ.get(_FULL, "") if relative is None else f"{_AGENT}{relative}"
    return Container(url) if _may_be_asked(url) else None


def container_headers() -> dict[str, str]:
    """Return what a container's endpoint wants to be sent. Raises OSError or ValueError."""
    path, token = os.environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"), None
    if path is not None:  # It is read each time: the token is replaced by another one.
        token = Path(path).read_text(encoding="utf-8")
    else:
        token = os.environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN")
    if token is None:
        return {}
    if not token.isprintable():
        raise ValueError("the token cannot be sent")
    return {"Authorization": token}


def key_of(said: Any) -> tuple[Key, float]:
    """Return the key that a container's endpoint has given, and when it expires, in epoch seconds.

    Raises KeyError, TypeError or ValueError if it has given none.
    """
    texts = [said[name] for name in ("AccessKeyId", "SecretAccessKey", "Token", "Expiration")]
    if not all(isinstance(text, str) and text for text in texts):
        raise ValueError("not a key")
    expires = datetime.fromisoformat(texts[3])
    if expires.tzinfo is None:
        raise ValueError("not a time")
    return Key(*texts[:3]), expires.timestamp()


def _something_says_more() -> bool:
    if any(os.environ.get(name) for name in _SAYS_MORE):
        return True
    files = [os.environ.get(name) or usual for name, usual in _FILES.items()]
    return any(_holds_something(path) for path in (*files, *_OTHER_FILES))


def _holds_something(path: str) -> bool:
    """Whether there is something to read, as far as one can tell without reading it."""
    if path == os.devnull:
        return False
    try:
        found = Path(os.path.expandvars(path)).expanduser().stat()  # As botocore does.
    except (OSError, RuntimeError, ValueError):
        return False
    return not stat.S_ISREG(found.st_mode) or found.st_size > 0


def _may_be_asked(url: str) -> bool:
    """Whether credentials may be asked for there: over TLS, or of this machine and its agents."""
    found = _CONTAINER_URL.fullmatch(url)
    return found is not None and (found["scheme"] == "https" or _LOCAL.fullmatch(found["host"]) is not None)
