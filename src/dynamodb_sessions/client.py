"""The door to DynamoDB: low-level boto3 calls, each in a worker thread, each with a deadline, errors translated.

boto3 is imported only when a client is built. Nothing here is bound to an event loop: behind
Mangum every invocation may have a new one.
"""

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from dynamodb_sessions import discretion
from dynamodb_sessions.discretion import discreet
from dynamodb_sessions.exceptions import ConfigurationError, SessionError, StoreUnavailable
from dynamodb_sessions.turns import Turns

T = TypeVar("T")

MAX_CONCURRENT_CALLS = 64
"""Worker threads, and pooled connections, of one event loop. Not anyio's default ones: busy endpoints hold those."""

_limiter: anyio.lowlevel.RunVar[anyio.CapacityLimiter] = anyio.lowlevel.RunVar("dynamodb_sessions")

_deadlines = threading.local()
"""`.of_call`: when, on the monotonic clock, whoever made this thread's call stops waiting for it."""

_REDIRECT = 300
_SAY_SOMETHING = frozenset(("GetItem", "PutItem", "UpdateItem", "DeleteItem", "TransactWriteItems", "Query", "Scan"))
"""Operations that answer with a JSON object, be it an empty one."""

UNSENDABLE_CREDENTIALS = "the AWS credentials hold what no header can: is there a line break at the end of one?"

_FIXES = {
    "ResourceNotFoundException": "create the table, or correct its name or region",
    "AccessDeniedException": (
        "allow the role GetItem, PutItem, UpdateItem and DeleteItem on the table, and Query on its index owner-index"
    ),
    "UnrecognizedClientException": "the credentials are not valid here",
    "InvalidSignatureException": "the credentials are not valid here",
    "IncompleteSignatureException": "the credentials are not valid here",
    "MissingAuthenticationTokenException": "the credentials are not valid here",
    "ExpiredTokenException": "renew the credentials",
    "ExpiredToken": "renew the credentials",
    "OptInRequired": "the account is not subscribed to DynamoDB",
    "ValidationException": (
        "its partition key must be session_id, a string; of a table of conversations, its sort key position, a number"
    ),
}


class ConditionFailed(SessionError):
    """The item is not as the write demanded. Nothing was written, unless by an earlier attempt of the same call."""

    def __init__(self, message: str, *, repeated: bool = False) -> None:
        super().__init__(message)
        self.repeated = repeated
        """Whether there was an earlier attempt, whose reply was lost."""


class Contended(SessionError):
    """Another transaction holds the item just now. Nothing was written."""


class ItemTooLarge(SessionError):
    """The item would be larger than DynamoDB takes. Nothing was written."""


class NotAsked(StoreUnavailable):
    """There are more calls to make than are made at once: DynamoDB was not asked, so nothing is said about it."""


async def in_thread(function: Callable[[], T], *, timeout: float) -> T:  # noqa: ASYNC109
    """Run a blocking function in a worker thread. Raises StoreUnavailable after `timeout` seconds, waiting included.

    The thread is then left to end by itself: nothing can interrupt it. NotAsked if there was none to be had.
    """
    begun = False

    def begin() -> T:
        nonlocal begun
        begun = True
        return function()

    try:
        limiter = _limiter.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(MAX_CONCURRENT_CALLS)
        _limiter.set(limiter)
    try:
        with anyio.fail_after(timeout):
            return await anyio.to_thread.run_sync(begin, abandon_on_cancel=True, limiter=limiter)
    except TimeoutError:
        if not begun:
            raise NotAsked(f"more than {MAX_CONCURRENT_CALLS} calls at once: none of the threads was free") from None
        raise StoreUnavailable(f"DynamoDB did not answer within {timeout:g} s") from None


class Door(Protocol):
    """A way to make calls, named and answered as boto3 has them: here, or in `async_client.py`."""

    timeout: float

    @property
    def client(self) -> Any:
        """A boto3 client, for what is done once. Raises ConfigurationError if none can be built."""
        ...

    async def call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Make one call.

        Raises ConditionFailed, Contended, ItemTooLarge, ConfigurationError or StoreUnavailable.
        """
        ...

    def call_sync(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Make one call and block until it has ended. Raises what `call` raises."""
        ...


class Boto3Door:
    """Calls DynamoDB through a boto3 client: the given one, or its own, built at once."""

    def __init__(
        self,
        client: Any = None,
        *,
        region_name: str | None = None,
        endpoint_url: str | None = None,
        timeout: float = 5.0,
    ) -> None:
        self.timeout = timeout
        self._region_name = region_name
        self._endpoint_url = endpoint_url
        self._client = client
        self._is_ours = client is None
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._turn: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
        if client is not None:
            if not callable(getattr(client, "get_item", None)):
                raise ConfigurationError(
                    f'client={client!r} must be "async" or a client, as of boto3.client("dynamodb")'
                )
            _prepare(client)
        else:
            # What is wrong is said when it is needed: an app with a fallback must be able to start without.
            with contextlib.suppress(ConfigurationError):
                self.client  # noqa: B018

    @property
    def client(self) -> Any:
        """The boto3 client. Raises ConfigurationError if none can be built."""
        with self._lock:
            if self._is_ours and self._pid != os.getpid():
                # After a fork the connections are the parent's, and so may be the answers that come out of them.
                self._client = None
            if self._client is None:
                self._client, self._pid = self._build(), os.getpid()
            return self._client

    async def call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Make one call in a worker thread."""
        deadline = time.monotonic() + self.timeout

        def call() -> dict[str, Any]:
            _deadlines.of_call = deadline
            try:
                return self.call_sync(operation, **parameters)
            finally:
                del _deadlines.of_call

        return await in_thread(call, timeout=self.timeout)

    def call_sync(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Make one call in this thread, without the deadline."""
        client = self.client
        try:
            with discreet(), self._turn():
                result: dict[str, Any] = getattr(client, operation)(**parameters)
        except Exception as error:  # noqa: BLE001 - whatever it is, it does not say that there is no session
            # Without its cause, which may quote the request.
            raise translate(error) from None
        return result

    def _build(self) -> Any:
        import boto3  # noqa: PLC0415
        from botocore.config import Config  # noqa: PLC0415

        # botocore's own default has changed between releases, and its read timeout is for every recv: see `timeout`.
        config = Config(
            # Unless a reply drips, both attempts are over before the deadline is.
            connect_timeout=self.timeout / 5,
            read_timeout=self.timeout / 5,
            # Not "standard": it stops repeating for all after some forty repeated creates, whose success it cannot see.
            # The breaker is what spares a DynamoDB that is in trouble.
            retries={"mode": "legacy", "total_max_attempts": 2},
            max_pool_connections=MAX_CONCURRENT_CALLS,
            tcp_keepalive=True,
            # What is sent is made here, and DynamoDB checks it.
            parameter_validation=False,
            # Put together anew for every request, it takes longer than signing does.
            user_agent=f"Boto3/{boto3.__version__} dynamodb-sessions",
        )
        # Lambda and containers set AWS_REGION; boto3 reads only AWS_DEFAULT_REGION.
        region_name = self._region_name or os.environ.get("AWS_REGION") or None
        try:
            session = boto3.Session(region_name=region_name)
            client = session.client("dynamodb", endpoint_url=self._endpoint_url, config=config)
        except Exception as error:  # A broken profile, region or endpoint: all are configuration.
            raise ConfigurationError(f"no DynamoDB client can be built: {reason(error)}") from error
        _prepare(client)
        turns = Turns()
        turns.follow(client)
        self._turn = turns.call
        return client


def _prepare(client: Any) -> None:
    """Teach a client what it does not do by itself: to keep quiet, and to doubt what it hears."""
    discretion.install()
    meta = getattr(client, "meta", None)
    if meta is not None:
        meta.events.register("before-send.dynamodb", _check_deadline, unique_id="dynamodb-sessions-check-deadline")
        meta.events.register("after-call.dynamodb", _check_reply, unique_id="dynamodb-sessions-check-reply")


def _check_deadline(**_: Any) -> None:
    """Refuse to send what nobody waits for any more: a write must not happen after its failure was told."""
    if time.monotonic() > getattr(_deadlines, "of_call", math.inf):
        raise StoreUnavailable("too late to be sent")


def _check_reply(http_response: Any, parsed: dict[str, Any], model: Any, **_: Any) -> None:
    """Refuse a reply that was cut off on its way, or is not DynamoDB's: to botocore it is one that says nothing.

    Without this, half an item reads as no item, and an outage as a logout. Its own check, of a checksum, is not made
    where there is none, and in some modes of retrying does not make it fail in the end.
    """
    from botocore.exceptions import IncompleteReadError  # noqa: PLC0415

    body = http_response.content
    expected, actual = http_response.headers.get("Content-Length"), len(body)
    if expected is not None and int(expected) != actual:
        raise IncompleteReadError(actual_bytes=actual, expected_bytes=expected)
    says_nothing = http_response.status_code < _REDIRECT and parsed.keys() <= {"ResponseMetadata"}
    if says_nothing and model.name in _SAY_SOMETHING and body.strip() != b"{}":
        raise StoreUnavailable("DynamoDB's answer is none")


def translate(error: Exception) -> SessionError:
    """Return what a client's error means here. Names the cause, never the request."""
    from botocore.exceptions import (  # noqa: PLC0415
        ClientError,
        CredentialRetrievalError,
        NoCredentialsError,
        NoRegionError,
        ParamValidationError,
        PartialCredentialsError,
        ProfileNotFound,
    )

    if isinstance(error, SessionError):
        return error
    if isinstance(error, ClientError):
        return translate_response(error.response)
    if isinstance(error, ParamValidationError):  # Its text quotes the parameters.
        return ConfigurationError("DynamoDB's client refused the parameters of the call")
    if isinstance(error, NoCredentialsError | PartialCredentialsError | NoRegionError | ProfileNotFound):
        return ConfigurationError(reason(error))
    if isinstance(error, CredentialRetrievalError):
        return StoreUnavailable("the credentials could not be retrieved")
    return _unreachable(error)


def _unreachable(error: Exception) -> SessionError:
    from botocore.exceptions import HTTPClientError  # noqa: PLC0415

    if type(error) is not HTTPClientError:
        cause = reason(error) if isinstance(error, HTTPClientError) else type(error).__name__
        return StoreUnavailable(f"DynamoDB cannot be reached: {cause}")
    # It quotes whatever went wrong while the request was made and sent, be it a header of the request.
    inner = vars(error).get("kwargs", {}).get("error", error)
    if str(inner).startswith("Invalid header value"):
        return ConfigurationError(UNSENDABLE_CREDENTIALS)
    return StoreUnavailable(f"DynamoDB cannot be reached: {type(inner).__name__}")


def translate_response(response: Any) -> SessionError:
    code = response.get("Error", {}).get("Code", "")
    message = response.get("Error", {}).get("Message", "")
    reasons = [reason for reason in response.get("CancellationReasons", ()) if reason.get("Code") != "None"]
    codes = {reason.get("Code") for reason in reasons}
    if code == "ConditionalCheckFailedException" or "ConditionalCheckFailed" in codes:
        repeated = response.get("ResponseMetadata", {}).get("RetryAttempts", 0) > 0
        return ConditionFailed("the item is not as the write demands", repeated=repeated)
    if code in {"TransactionConflictException", "TransactionInProgressException"} or "TransactionConflict" in codes:
        return Contended("another transaction holds the item")
    if any("size" in text.lower() and "exceeded" in text.lower() for text in (message, *_messages(reasons))):
        return ItemTooLarge("the item is larger than DynamoDB takes")
    said = f"DynamoDB said {code or 'nothing it can name'}"
    if "specified index" in message:
        return ConfigurationError(f"{said}: the table has no index owner-index, which finds the sessions of an owner")
    if code in _FIXES:
        return ConfigurationError(f"{said}: {_FIXES[code]}")
    return StoreUnavailable(said)


def _messages(reasons: list[dict[str, Any]]) -> list[str]:
    return [str(reason.get("Message", "")) for reason in reasons if reason.get("Code") == "ValidationError"]


def reason(error: Exception) -> str:
    """Return the error's own words on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
