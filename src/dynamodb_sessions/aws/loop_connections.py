"""What an event loop has of its own for `client="async"`: aiohttp's connections, and how many calls may use them.

They close when the loop shuts down, as `asyncio.run` and every server have it.
"""

import asyncio
import os
import ssl
import urllib.request
from collections.abc import AsyncGenerator

import aiohttp
from yarl import URL

from dynamodb_sessions.aws.threads import MAX_CONCURRENT_CALLS
from dynamodb_sessions.exceptions import outage


class Pool:
    """What an event loop has of its own: connections, and how many calls may use them at once."""

    def __init__(self, sessions: AsyncGenerator[aiohttp.ClientSession, None], session: aiohttp.ClientSession) -> None:
        self._sessions = sessions  # Begun and not ended: so an event loop that shuts down ends it.
        self.session = session
        self.slots: asyncio.Semaphore = asyncio.Semaphore(MAX_CONCURRENT_CALLS)
        self.users: set[int] = set()
        """The transports that have made calls with it."""
        self.renewing: asyncio.Lock = asyncio.Lock()
        """Held while a container is asked for credentials."""

    async def close(self) -> None:
        await self._sessions.aclose()

    @classmethod
    async def of_this_loop(cls) -> "Pool":
        """Return the running event loop's pool, made if there is none. Raises ConfigurationError."""
        loop = running_loop()
        if loop not in pools:
            for other in [other for other in list(pools) if other.is_closed()]:
                pools.pop(other, None)
            sessions = _sessions()
            pools[loop] = cls(sessions, await anext(sessions))
        return pools[loop]


pools: dict[asyncio.AbstractEventLoop, Pool] = {}


def running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise outage('client="async" is aiohttp, which runs in asyncio\'s event loop only') from None


def trusted_authorities() -> ssl.SSLContext | bool:
    """Return what vouches for an endpoint: what the variable says that boto3 reads, too, or the usual authorities."""
    bundle = os.environ.get("AWS_CA_BUNDLE")
    if not bundle:
        return True
    try:
        return ssl.create_default_context(cafile=bundle)
    except OSError as error:
        raise outage(f"AWS_CA_BUNDLE={bundle!r} cannot be read: {type(error).__name__}") from None


def proxy_of(endpoint: URL) -> URL | None:
    """Return the proxy by which the environment has an endpoint called, as botocore finds it; None: there is none.

    aiohttp would find it too, but also what a netrc file says, which it would send in place of the signature.
    """
    url = urllib.request.getproxies().get(endpoint.scheme)
    if not url or (endpoint.host and urllib.request.proxy_bypass(endpoint.host)):
        return None
    try:
        return URL(url if "://" in url else f"http://{url.removeprefix('//')}")
    except ValueError:  # Its words may quote a password.
        raise outage(f"the proxy that {endpoint.scheme.upper()}_PROXY names is no URL") from None


async def _sessions() -> AsyncGenerator[aiohttp.ClientSession, None]:
    """Yield one session, and close it."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=MAX_CONCURRENT_CALLS),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept-Encoding": "identity", "User-Agent": "dynamodb-sessions"},
    ) as session:
        yield session
