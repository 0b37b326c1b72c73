"""The default transport: low-level boto3 calls, each in a worker thread, each with a deadline, errors translated.

boto3 is imported only when a client is built.
"""

import contextlib
import os
import threading
import time
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from dynamodb_sessions.aws import log_redaction
from dynamodb_sessions.aws.errors import OutcomeUnknown, reason, translate
from dynamodb_sessions.aws.log_redaction import redacted_logs
from dynamodb_sessions.aws.threads import MAX_CONCURRENT_CALLS, TurnTakingLock, in_thread
from dynamodb_sessions.exceptions import ConfigurationError, StoreUnavailable, outage


@dataclass(slots=True)
class _Attempt:
    """One attempt, as the client's events meet it."""

    deadline: float
    """When, on the monotonic clock, whoever made it stops waiting for it."""
    may_be_repeated: bool
    """Whether the client may send it again: it writes nothing."""
    sent: int = 0


_attempt: ContextVar[_Attempt | None] = ContextVar("dynamodb_sessions_attempt", default=None)
"""The attempt that this thread makes. Others may use the client for calls of their own, which are none."""

_READS = frozenset(("get_item", "query", "scan"))
_REDIRECT = 300
_SAY_SOMETHING = frozenset(("GetItem", "PutItem", "UpdateItem", "DeleteItem", "TransactWriteItems", "Query", "Scan"))
"""Operations that answer with a JSON object, be it an empty one."""


class Boto3Transport:
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
        self._turn_taking: TurnTakingLock | None = None
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

    async def call(self, operation: str, *, deadline: float, **parameters: Any) -> dict[str, Any]:
        """Send one attempt from a worker thread."""
        attempt = _Attempt(deadline, may_be_repeated=operation in _READS)

        def call() -> dict[str, Any]:
            _attempt.set(attempt)  # Of a context of its own.
            return self.call_sync(operation, **parameters)

        return await in_thread(call, timeout=deadline - time.monotonic())

    def call_sync(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Send one attempt from this thread, without a deadline."""
        client = self.client
        try:
            with redacted_logs(), self._turn():
                result: dict[str, Any] = getattr(client, operation)(**parameters)
        except Exception as error:  # noqa: BLE001 - whatever it is, it does not say that there is no session
            # Without its cause, which may quote the request.
            raise translate(error) from None
        return result

    async def close(self) -> None:
        """Close the client, if it is not a given one. A later call builds another one."""
        with self._lock:
            client = self._client if self._is_ours else None
            if client is not None:
                self._client = None
        if client is not None:
            client.close()

    def _turn(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext() if self._turn_taking is None else self._turn_taking.call()

    def _build(self) -> Any:
        import boto3  # noqa: PLC0415
        from botocore.config import Config  # noqa: PLC0415

        # botocore's own default has changed between releases, and its read timeout is for every recv: see `timeout`.
        config = Config(
            # So that what became of an attempt can be found out before the deadline.
            connect_timeout=self.timeout / 5,
            read_timeout=self.timeout / 5,
            # An attempt is not the operation: what is sent again, and when, is decided in `table_calls.py`.
            retries={"mode": "legacy", "total_max_attempts": 1},
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
            raise outage(f"no DynamoDB client can be built: {reason(error)}") from error
        _prepare(client)
        self._turn_taking = TurnTakingLock()
        self._turn_taking.follow(client)
        return client


def _prepare(client: Any) -> None:
    """Teach a client what it does not do by itself: to keep quiet, and to doubt what it hears."""
    log_redaction.install()
    meta = getattr(client, "meta", None)
    if meta is not None:
        meta.events.register("before-send.dynamodb", _before_send, unique_id="dynamodb-sessions-before-send")
        meta.events.register("after-call.dynamodb", _check_reply, unique_id="dynamodb-sessions-check-reply")


def _before_send(**_: Any) -> None:
    """Refuse to send what nobody waits for any more, and a write that the client has sent before.

    A client that an app brings may repeat its requests by itself, in whichever mode. A write whose first reply was lost
    must not be repeated blindly: somebody else may have written in between.
    """
    attempt = _attempt.get()
    if attempt is None:
        return
    if attempt.sent and not attempt.may_be_repeated:
        raise OutcomeUnknown("DynamoDB did not answer a write, or not so that it could be repeated")
    if time.monotonic() > attempt.deadline:
        raise (OutcomeUnknown if attempt.sent else StoreUnavailable)("too late to be sent")
    attempt.sent += 1


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
        raise OutcomeUnknown("DynamoDB's answer is none")
