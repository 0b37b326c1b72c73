"""What we add to the events of a botocore client: each of our attempts is sent once, in time, and its reply is whole.

A client that an app brings repeats requests by itself, in one of botocore's three modes. A write whose first reply was
lost must not be repeated blindly: somebody else may have written in between. What is sent again, and when, is decided
in `table_calls.py`. The app's own calls on the same client pass through here untouched.

aiobotocore's clients have the same events. This module imports neither.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from dynamodb_sessions.aws import log_redaction
from dynamodb_sessions.aws.errors import OutcomeUnknown, is_about_credentials, translate_response
from dynamodb_sessions.exceptions import StoreUnavailable

_REDIRECT = 300
_HAVE_A_BODY = frozenset(("GetItem", "PutItem", "UpdateItem", "DeleteItem", "TransactWriteItems", "Query", "Scan"))
"""Operations whose answer is a JSON object, even if it is an empty one."""


@dataclass(slots=True)
class Attempt:
    """One attempt of ours, as the client's events see it."""

    operation: str
    """As boto3 names it."""
    deadline: float
    """When, on the monotonic clock, the caller stops waiting for it."""
    is_sent: bool = False
    on_send: Callable[[], None] | None = None
    """Called just before it is sent."""
    blames_credentials: bool = False
    """Whether it was refused for the credentials of the client, or for want of them."""


_attempt: ContextVar[Attempt | None] = ContextVar("dynamodb_sessions_attempt", default=None)
"""The attempt that this thread or task makes. Without one, the call is the app's own."""


@contextmanager
def our_attempt(attempt: Attempt) -> Iterator[None]:
    """Mark the call that is made in this block, in this thread or task, as ours."""
    token = _attempt.set(attempt)
    try:
        yield
    finally:
        _attempt.reset(token)


def watch(client: Any, *, is_async: bool = False) -> None:
    """Register the handlers on a client. Once is enough, again does no harm."""
    log_redaction.install()
    meta = getattr(client, "meta", None)
    if meta is None:
        return
    # The rate limiter of the adaptive mode also waits in "before-send": only what comes last knows how late it is.
    meta.events.register_last("before-send", _before_send, unique_id="dynamodb-sessions-before-send")
    # First, so that a repetition that will not be made takes nothing from the client's quota of them.
    meta.events.register_first("needs-retry.dynamodb", _needs_retry, unique_id="dynamodb-sessions-needs-retry")
    check = _after_call_async if is_async else _after_call
    meta.events.register("after-call.dynamodb", check, unique_id="dynamodb-sessions-check-reply")


def _before_send(**_: Any) -> None:
    """Refuse to send what nobody waits for any more, and what the client has sent before."""
    attempt = _attempt.get()
    if attempt is None:
        return
    if attempt.is_sent:
        raise OutcomeUnknown("DynamoDB's answer could not be used")
    if time.monotonic() > attempt.deadline:
        raise StoreUnavailable("it was too late to send the request")
    attempt.is_sent = True
    if attempt.on_send is not None:
        attempt.on_send()


def _needs_retry(response: Any = None, caught_exception: Exception | None = None, **_: Any) -> None:
    """End an attempt that failed, before the client waits to repeat it, with what the answer said.

    Returning something would not do: other handlers are asked too, and botocore takes False for a pause of no seconds.
    """
    attempt = _attempt.get()
    if attempt is None:
        return
    if caught_exception is not None:
        raise caught_exception
    if response is not None and response[0].status_code >= _REDIRECT:
        attempt.blames_credentials = is_about_credentials(response[1])
        raise translate_response(response[1])


def _after_call(http_response: Any, parsed: Mapping[str, Any], model: Any, **_: Any) -> None:
    if _is_ours(http_response):
        _check_reply(http_response, http_response.content, parsed, model.name)


async def _after_call_async(http_response: Any, parsed: Mapping[str, Any], model: Any, **_: Any) -> None:
    if _is_ours(http_response):
        _check_reply(http_response, await http_response.content, parsed, model.name)


def _is_ours(http_response: Any) -> bool:
    """Whether it is a reply to one of our calls, and came over a connection: a stub's has no body to look at."""
    return _attempt.get() is not None and getattr(http_response, "raw", None) is not None


def _check_reply(http_response: Any, body: bytes, parsed: Mapping[str, Any], operation: str) -> None:
    """Refuse a reply that was cut off on its way, or is not DynamoDB's: botocore takes it for an empty one.

    Without this, half an item reads as no item, and an outage as a logout. botocore's own check, of a checksum, needs
    the checksum to be there, and in some retry modes does not make the call fail.
    """
    expected = http_response.headers.get("Content-Length")
    if expected is not None and int(expected) != len(body):
        raise OutcomeUnknown("DynamoDB's answer was cut off")
    is_empty = http_response.status_code < _REDIRECT and parsed.keys() <= {"ResponseMetadata"}
    if is_empty and operation in _HAVE_A_BODY and body.strip() != b"{}":
        raise OutcomeUnknown("DynamoDB's answer is invalid")
