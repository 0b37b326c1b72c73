"""The transport for a client of aiobotocore or aioboto3: its calls are awaited in the event loop that it belongs to.

The client is the app's: it opens and closes it. What is asked from elsewhere, such as a probe from a thread, is sent
in the client's event loop as well; only where that loop cannot be waited for does a boto3 client with the same region,
endpoint and credentials do it.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from functools import partial
from typing import Any

from dynamodb_sessions.aws.client_events import Attempt, our_attempt, watch
from dynamodb_sessions.aws.errors import NotAsked, OutcomeUnknown, Unreachable, translate
from dynamodb_sessions.aws.log_redaction import redacted_logs
from dynamodb_sessions.aws.setup_errors import UNSENDABLE, SetupError, build_problem, not_set_up
from dynamodb_sessions.aws.threads import in_thread
from dynamodb_sessions.aws.transport import Transport
from dynamodb_sessions.exceptions import ConfigurationError, SessionError, StoreUnavailable, outage

_NEVER_CONNECTED = (
    # aiohttp's
    "ClientConnectorError",
    "ClientHttpProxyError",
    "ConnectionTimeoutError",
    # httpx's
    "ConnectError",
    "ConnectTimeout",
    "PoolTimeout",
    "ProxyError",
    # Python's
    "gaierror",
)
"""Errors of making a connection."""


class AiobotocoreTransport:
    """Calls DynamoDB through a given aiobotocore client."""

    def __init__(self, client: Any, *, boto3: Callable[[Any], Transport], timeout: float = 5.0) -> None:
        """`boto3` makes a transport of a boto3 client."""
        if not callable(getattr(client, "get_item", None)):
            raise ConfigurationError(f"client={type(client).__name__} of aiobotocore is not one of DynamoDB")
        self.timeout = timeout
        self._client = client
        self._boto3 = boto3
        # So that what became of an attempt can be found out before the deadline.
        self._patience = timeout * 0.4
        # More calls would wait for a connection, and look as if DynamoDB did not answer them.
        self._slots = asyncio.Semaphore(client.meta.config.max_pool_connections)
        self._loop = _this_loop()
        watch(client, is_async=True)

    @property
    def client(self) -> Any:
        """A boto3 client, built anew, with the credentials that the client has now. Raises ConfigurationError."""
        return _boto3_client(self._client, self.timeout)

    @property
    def region_name(self) -> str | None:
        """The region that is called."""
        return str(self._client.meta.region_name)

    async def close(self) -> None:
        """Do nothing: whoever has opened the client closes it."""

    def renew(self) -> None:
        """Do nothing: a given client has its own credentials."""

    def check_event_loop(self) -> None:
        """Raise ConfigurationError if the event loop that runs here is not asyncio's."""
        if _this_loop() is None:
            raise outage("a client of aiobotocore works in asyncio's event loop only")

    async def call(self, operation: str, *, deadline: float, **parameters: Any) -> dict[str, Any]:
        """Send one attempt from the client's event loop: this one, if it is the first to ask."""
        here = _this_loop()
        if self._loop is None:
            self._loop = here
        self.check_event_loop()
        if here is self._loop:
            return await self._send(operation, deadline, parameters)
        remaining = deadline - time.monotonic()
        return await in_thread(partial(self._send_there, operation, deadline, parameters), timeout=remaining)

    def call_sync(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Send one attempt, and block until it has ended."""
        if self._loop is None or not self._loop.is_running() or self._loop is _this_loop():
            return self._boto3(self.client).call_sync(operation, **parameters)
        return self._send_there(operation, time.monotonic() + self.timeout, parameters)

    def _send_there(self, operation: str, deadline: float, parameters: dict[str, Any]) -> dict[str, Any]:
        """Send one attempt in the client's event loop, from another thread."""
        sending = self._send(operation, deadline, parameters)
        if self._loop is None or not self._loop.is_running():
            sending.close()
            raise outage("the event loop that the aiobotocore client belongs to does not run")
        try:
            answer = asyncio.run_coroutine_threadsafe(sending, self._loop)
        except RuntimeError:  # It has been closed just now.
            sending.close()
            raise StoreUnavailable("the event loop that the aiobotocore client belongs to has ended") from None
        try:
            # It ends by itself, by its deadline, unless that event loop is stopped or blocked.
            return answer.result(deadline - time.monotonic() + self.timeout)
        except (TimeoutError, CancelledError):
            answer.cancel()
            raise OutcomeUnknown("the event loop that the aiobotocore client belongs to did not answer") from None

    async def _send(self, operation: str, deadline: float, parameters: dict[str, Any]) -> dict[str, Any]:
        remaining, has_turn = deadline - time.monotonic(), False
        loop = asyncio.get_running_loop()
        end = loop.time() + remaining

        def wait_for_the_answer() -> None:
            # Given up here, because the client itself may wait a minute for it.
            limit.reschedule(min(end, loop.time() + self._patience))

        attempt = Attempt(operation, deadline, on_send=wait_for_the_answer)
        try:
            async with asyncio.timeout_at(end) as limit, self._slots:
                has_turn = loop.time() < end  # Others give up theirs at the very moment that it is too late.
                with our_attempt(attempt), redacted_logs():
                    answer: dict[str, Any] = await getattr(self._client, operation)(**parameters)
                    return answer
        except TimeoutError:
            if not has_turn:
                raise NotAsked(f"no turn in {remaining:.3g} s: the client has too few connections") from None
            if not attempt.is_sent:
                raise StoreUnavailable("the client could not send the request in time") from None
            raise OutcomeUnknown(f"DynamoDB did not answer within {min(remaining, self._patience):.3g} s") from None
        except Exception as error:  # noqa: BLE001 - whatever it is, it does not say that there is no session
            # Without its cause, which may quote the request.
            raise _translate(error) from None


def _this_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _translate(error: Exception) -> SessionError:
    """Return what a client's error means here.

    aiobotocore says of a connection that broke while an answer was awaited that it could not be made.
    """
    meant = translate(error)
    inner = getattr(error, "kwargs", {}).get("error")
    if not isinstance(inner, Exception):
        return meant
    kinds = {kind.__name__ for kind in type(inner).__mro__}
    if isinstance(meant, Unreachable) and kinds.isdisjoint(_NEVER_CONNECTED):
        return OutcomeUnknown(f"DynamoDB cannot be reached: {type(inner).__name__}")
    if isinstance(inner, ValueError) and "headers" in str(inner):
        return not_set_up(UNSENDABLE)
    return meant


def _boto3_client(client: Any, timeout: float) -> Any:
    """Return a boto3 client with the region, endpoint and credentials of an aiobotocore client."""
    import boto3  # noqa: PLC0415 - only for what is rare
    from botocore.config import Config  # noqa: PLC0415 - as above

    try:
        with ThreadPoolExecutor(1) as thread:  # An event loop may be running in this one.
            key = thread.submit(asyncio.run, _frozen_credentials(client, timeout)).result()
        session = boto3.Session(
            aws_access_key_id=key.access_key, aws_secret_access_key=key.secret_key, aws_session_token=key.token
        )
        config = Config(
            connect_timeout=timeout / 5,
            read_timeout=timeout / 5,
            retries={"mode": "legacy", "total_max_attempts": 1},
            proxies=client.meta.config.proxies,
            proxies_config=client.meta.config.proxies_config,
        )
        return session.client(
            "dynamodb",
            region_name=client.meta.region_name,
            endpoint_url=client.meta.endpoint_url,
            verify=getattr(client._endpoint.http_session, "_verify", None),  # noqa: SLF001 - a CA of the app's own
            config=config,
        )
    except SessionError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told without what it quotes
        # Not from the error itself, which may quote credentials.
        problem = build_problem(error)
        raise not_set_up(problem, error, doing="no DynamoDB client can be built") from SetupError(problem)


async def _frozen_credentials(client: Any, timeout: float) -> Any:  # noqa: ASYNC109
    """Return the credentials that the client signs with just now. Raises ConfigurationError if it has none."""
    found = client._get_credentials()  # noqa: SLF001 - it has no public way
    if found is None:
        raise outage("NoCredentialsError: the aiobotocore client has no AWS credentials")
    try:
        async with asyncio.timeout(timeout):
            return await found.get_frozen_credentials()
    except TimeoutError:
        raise StoreUnavailable("the credentials take too long to be found") from None
