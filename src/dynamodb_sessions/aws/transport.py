"""The protocol of a transport, and which one a client stands for. A transport is imported when it is chosen."""

from typing import Any, Protocol

from dynamodb_sessions.exceptions import ConfigurationError


class Transport(Protocol):
    """A way to make calls, named and answered as boto3 has them.

    A call is one attempt: no transport sends a write a second time, and none sends anything after the deadline.
    """

    timeout: float

    @property
    def client(self) -> Any:
        """A boto3 client, for what is done once. Raises ConfigurationError if none can be built."""
        ...

    async def call(self, operation: str, *, deadline: float, **parameters: Any) -> dict[str, Any]:
        """Send one attempt. `deadline`: seconds of the monotonic clock.

        Raises ConditionFailed, ItemTooLarge, Refused, Unreachable, OutcomeUnknown, NotAsked, ConfigurationError, or
        StoreUnavailable for what was never sent: `errors.py` says what each means.
        """
        ...

    def call_sync(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Send one attempt, and block until it has ended, which is within the timeout. Raises what `call` raises.

        Its seconds are those of a probe: of a client that an app brings, they are as its own timeouts have them.
        """
        ...

    async def close(self) -> None:
        """Close the connections that this transport has opened. A later call opens new ones."""
        ...

    def renew(self) -> None:
        """Look for credentials and region anew, at the next call, if those of the last call were missing or refused."""
        ...

    def check_event_loop(self) -> None:
        """Raise ConfigurationError if nothing can be called from the event loop that runs here."""
        ...


class ConfiguredTransport(Transport, Protocol):
    """A transport that has boto3's configuration, and lends it to another one."""

    def credentials(self) -> Any:
        """Look for the credentials, once: what boto3 has found. None: none, and the next call looks again.

        Blocks. Raises what botocore raises.
        """
        ...

    def forget_credentials(self) -> None:
        """Have the next call of `credentials` look again."""
        ...


def open_transport(
    client: Any, *, region_name: str | None = None, endpoint_url: str | None = None, timeout: float = 5.0
) -> Transport:
    """Return the transport that a client stands for. Raises ConfigurationError if it cannot be had."""
    from dynamodb_sessions.aws.boto3_transport import Boto3Transport  # noqa: PLC0415 - imported when it is chosen

    wants_async = client == "async"
    if isinstance(client, str) and not wants_async:
        raise ConfigurationError(f'client={client!r} must be "async" or a client')
    if not wants_async and not type(client).__module__.startswith("aiodynamo."):
        return Boto3Transport(client, region_name=region_name, endpoint_url=endpoint_url, timeout=timeout)
    try:
        from dynamodb_sessions.aws.async_transport import AsyncTransport  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigurationError(
            f"client={client!r} takes what is not installed ({error.name}): pip install 'dynamodb-sessions[async]'"
        ) from error
    given = None if wants_async else client
    if given is not None:
        region_name, endpoint_url = given.region, None if given.endpoint is None else str(given.endpoint)
    boto3 = Boto3Transport(region_name=region_name, endpoint_url=endpoint_url, timeout=timeout)
    return AsyncTransport(given, boto3=boto3, timeout=timeout)
