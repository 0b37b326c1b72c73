"""The protocol of a transport, and which one a client stands for. A transport is imported when it is chosen."""

from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from dynamodb_sessions.exceptions import ConfigurationError

if TYPE_CHECKING:
    from dynamodb_sessions.aws.boto3_transport import Boto3Transport


class Transport(Protocol):
    """A way to make calls, named and answered as boto3 has them.

    A call is one attempt: no transport sends a write a second time, and none sends anything after the deadline.
    """

    timeout: float

    @property
    def client(self) -> Any:
        """A boto3 client, for what is done once. Raises ConfigurationError if none can be built."""
        ...

    @property
    def region_name(self) -> str | None:
        """The region that is called; None: there is no client yet. Never blocks."""
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

    def forget_credentials(self) -> bool:
        """Have the next call look for credentials again, in place of refused ones. False if that was a moment ago."""
        ...


def open_transport(
    client: Any, *, region_name: str | None = None, endpoint_url: str | None = None, timeout: float = 5.0
) -> Transport:
    """Return the transport that a client stands for. Raises ConfigurationError if there is none."""
    if isinstance(client, str) and client != "async":
        raise ConfigurationError(f'client={client!r} must be "async" or a client')
    _refuse(client)
    packages = _packages(client)
    if "aiobotocore" in packages:
        from dynamodb_sessions.aws.aiobotocore_transport import AiobotocoreTransport  # noqa: PLC0415 - when it is chosen

        return AiobotocoreTransport(client, boto3=partial(_boto3, timeout=timeout), timeout=timeout)
    if client != "async" and "aiodynamo" not in packages:
        return _boto3(client, region_name=region_name, endpoint_url=endpoint_url, timeout=timeout)
    try:
        from dynamodb_sessions.aws.async_transport import AsyncTransport  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigurationError(
            f"client={client!r} takes what is not installed ({error.name}): pip install 'dynamodb-sessions[async]'"
        ) from error
    given = None if client == "async" else client
    if given is not None:
        region_name, endpoint_url = given.region, None if given.endpoint is None else str(given.endpoint)
    boto3 = partial(_boto3, region_name=region_name, endpoint_url=endpoint_url, timeout=timeout)
    return AsyncTransport(given, boto3=boto3, region_name=region_name, endpoint_url=endpoint_url, timeout=timeout)


def _boto3(client: Any = None, **options: Any) -> "Boto3Transport":
    from dynamodb_sessions.aws.boto3_transport import Boto3Transport  # noqa: PLC0415 - when it is chosen

    return Boto3Transport(client, **options)


_RESOURCE_HANDLERS = frozenset(("dynamodb-attr-value-input", "dynamodb-attr-value-output"))
"""The event handlers by which a boto3 resource makes its client take and return Python values."""


def _refuse(client: Any) -> None:
    """Raise ConfigurationError for what looks like a client that could be used, and is not."""
    packages = _packages(client)
    if "amazondax" in packages:
        raise ConfigurationError(
            "client= is a client of DAX, which cannot keep sessions: it repeats writes by itself, cannot be kept from "
            "it, and a repeated write may undo what another request has written. Pass a client of DynamoDB"
        )
    if packages & {"boto3.resources", "aioboto3.resources"}:
        raise ConfigurationError(
            'client= is a boto3 resource, not a client: pass boto3.client("dynamodb"). Nor will its meta.client do'
        )
    if packages & {"aiobotocore.session", "aioboto3.session", "boto3.session", "botocore.session"}:
        raise ConfigurationError(
            f'client= is a {type(client).__name__}, not a client: pass boto3.client("dynamodb"), or of aiobotocore and '
            'aioboto3 what `async with session.client("dynamodb") as client` gives'
        )
    if not _RESOURCE_HANDLERS.isdisjoint(_handler_ids(client)):
        raise ConfigurationError(
            "client= is the client of a boto3 resource (its meta.client), which takes and returns Python values where "
            'DynamoDB has typed ones: pass one of its own, boto3.client("dynamodb")'
        )


def _handler_ids(client: Any) -> Collection[str]:
    """Return the unique ids of a botocore client's event handlers. There is no public way to ask for them."""
    events = getattr(getattr(client, "meta", None), "events", None)
    found = getattr(getattr(events, "_emitter", events), "_unique_id_handlers", ())
    return found if isinstance(found, Collection) else ()


def _packages(client: Any) -> set[str]:
    """Return what an object's classes come from: the first part, and the first two parts, of their modules' names."""
    modules = [kind.__module__.split(".") for kind in type(client).__mro__]
    return {module[0] for module in modules} | {".".join(module[:2]) for module in modules}
