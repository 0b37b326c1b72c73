"""Requests that never reach the network: the SDK's own errors of making a connection, raised where it would send."""

from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from botocore.exceptions import ConnectTimeoutError, EndpointConnectionError

from tests.helpers import aiobotocore_clients

_URL = "http://nobody.test"
_WHERE = ConnectionKey("nobody.test", 443, True, True, None, None, None)

NOT_SENT: dict[str, dict[str, Exception]] = {
    "DNS": {
        "boto3": EndpointConnectionError(endpoint_url=_URL, error="Name or service not known"),
        "async": aiohttp.ClientConnectorDNSError(_WHERE, OSError(-2, "Name or service not known")),
    },
    "refused": {
        "boto3": EndpointConnectionError(endpoint_url=_URL, error="Connection refused"),
        "async": aiohttp.ClientConnectorError(_WHERE, OSError(111, "Connection refused")),
    },
    "connect timeout": {
        "boto3": ConnectTimeoutError(endpoint_url=_URL, error="timed out"),
        "async": aiohttp.ConnectionTimeoutError("timed out"),
    },
}
"""By what calls DynamoDB."""

for errors in NOT_SENT.values():  # aiobotocore raises botocore's errors for aiohttp's.
    raised: Any = type(errors["boto3"])
    errors[aiobotocore_clients.KIND] = raised(endpoint_url=_URL, error=errors["async"])


def before_sending(store: Any, transport: str, operation: str, act: Callable[[], None]) -> Callable[[], None]:
    """Do something before every attempt of a call of a store, named as DynamoDB names it. Return what ends that."""
    if transport != "async":
        events, name = store._calls._transport._client.meta.events, f"before-send.dynamodb.{operation}"

        def hook(**_: Any) -> None:
            act()

        events.register(name, hook)
        return lambda: events.unregister(name, hook)
    patch = pytest.MonkeyPatch()
    send = aiohttp.ClientSession._request

    async def request(session: Any, method: str, url: str, **options: Any) -> Any:
        if options["headers"]["X-Amz-Target"].endswith(f".{operation}"):
            act()
        return await send(session, method, url, **options)

    patch.setattr(aiohttp.ClientSession, "_request", request)
    return patch.undo
