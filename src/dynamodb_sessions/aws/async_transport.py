"""The transport without threads: aiodynamo's credentials, and aiohttp's connections, in asyncio's event loop.

Region, endpoint and credentials are those boto3 would use, or those of a given aiodynamo client. Connections belong to
an event loop: each has a pool of its own, which closes when the loop shuts down, as `asyncio.run` and every server have
it. Nothing imports this module before it is asked for.
"""

import asyncio
import base64
import functools
import json
import os
import ssl
import time
import urllib.request
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
from aiodynamo.client import Client
from aiodynamo.http.aiohttp import AIOHTTP
from aiodynamo.sign import make_default_endpoint
from yarl import URL

from dynamodb_sessions.aws import log_redaction
from dynamodb_sessions.aws.errors import (
    CREDENTIALS_REFUSED,
    THROTTLING_REASONS,
    NotAsked,
    OutcomeUnknown,
    Refused,
    naming_the_source,
    translate,
    translate_response,
)
from dynamodb_sessions.aws.log_redaction import redacted_logs
from dynamodb_sessions.aws.setup_errors import NO_CREDENTIALS, not_set_up, reason
from dynamodb_sessions.aws.sigv4 import Key, Signer
from dynamodb_sessions.aws.threads import MAX_CONCURRENT_CALLS, in_thread
from dynamodb_sessions.aws.transport import ConfiguredTransport
from dynamodb_sessions.exceptions import StoreUnavailable, outage
from dynamodb_sessions.forks import tell_of_forks

if TYPE_CHECKING:
    from aiodynamo.credentials import Credentials

_OK = 200
_SAID = frozenset(("Item", "Items", "Attributes", "UnprocessedItems", "ConsumedCapacity"))
"""What is in an answer that is not empty, this or that."""
_EXPIRED = "ExpiredTokenException"


class AsyncTransport:
    """Calls DynamoDB as an aiodynamo client would: a given one, or one with boto3's configuration."""

    def __init__(self, client: Client | None = None, *, boto3: ConfiguredTransport, timeout: float = 5.0) -> None:
        """`boto3` is a transport for the same table, with the region, the endpoint, and a client for what is rare."""
        self.timeout = timeout
        self._account: _Account | None = None
        if client is not None:
            endpoint = client.endpoint or make_default_endpoint(client.region)
            self._account = _account(_GivenCredentials(client.credentials), client.region, endpoint)
        self._credentials = _Boto3Credentials(boto3, timeout)
        self._boto3 = boto3
        # So that what became of an attempt can be found out before the deadline.
        self._patience = aiohttp.ClientTimeout(total=timeout * 0.4, sock_connect=timeout / 5)
        log_redaction.install()

    @property
    def client(self) -> Any:
        """The boto3 client of the same table. Raises ConfigurationError if none can be built."""
        return self._boto3.client

    @property
    def region_name(self) -> str | None:
        """The region that is called; None: there is no client yet."""
        return self._boto3.region_name

    def renew(self) -> None:
        """Look for credentials anew at the next call, if those of the last one were refused."""
        self._boto3.renew()
        self._credentials.ask_again()

    def check_event_loop(self) -> None:
        """Raise ConfigurationError if the event loop that runs here is not asyncio's."""
        _running_loop()

    async def call(self, operation: str, *, deadline: float, **parameters: Any) -> dict[str, Any]:
        """Send one attempt from this event loop."""
        pool = _pools.get(_running_loop()) or await _Pool.of_this_loop()
        pool.users.add(id(self))
        attempt = _Attempt(pool.session, self._patience)
        remaining = deadline - time.monotonic()
        try:
            key = None if self._account is None else self._account.credentials.at_hand()
            if key is not None and remaining >= self.timeout * 0.4 and not pool.slots.locked():
                # There is nothing to wait for but DynamoDB itself, for which aiohttp's patience is shorter.
                async with pool.slots:
                    return await self._send(attempt, operation, parameters, key)
            with redacted_logs():
                async with asyncio.timeout(remaining), pool.slots:
                    return await self._send(attempt, operation, parameters, None)
        except aiohttp.ConnectionTimeoutError as error:  # A TimeoutError too, but of what was never sent.
            raise translate(error) from None
        except TimeoutError:
            if not attempt.begun:
                raise NotAsked(f"no turn in {remaining:.3g} s: over {MAX_CONCURRENT_CALLS} calls at once") from None
            if not attempt.sent:
                raise StoreUnavailable(f"there was no client or no credentials within {remaining:.3g} s") from None
            raise OutcomeUnknown(f"DynamoDB did not answer within {remaining:.3g} s") from None
        except Exception as error:  # noqa: BLE001 - whatever it is, it does not say that there is no session
            # Without its cause, which may quote the request.
            raise translate(error) from None

    async def close(self) -> None:
        """Close this event loop's connections, unless another transport uses them, and the boto3 client."""
        loop = _running_loop()
        pool = _pools.get(loop)
        if pool is not None:
            pool.users.discard(id(self))
            if not pool.users:
                del _pools[loop]
                await pool.close()
        await self._boto3.close()

    def call_sync(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Send one attempt from an event loop of its own, in a thread of its own: this one's may be running."""
        deadline = time.monotonic() + self.timeout
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, self.call(operation, deadline=deadline, **parameters)).result()

    async def _send(
        self, attempt: "_Attempt", operation: str, parameters: dict[str, Any], key: Key | None
    ) -> dict[str, Any]:
        attempt.begun = True
        if self._account is None:
            meta = (await in_thread(lambda: self._boto3.client, timeout=self.timeout)).meta
            self._account = _account(self._credentials, meta.region_name, URL(meta.endpoint_url))
        credentials, signer, endpoint, trusted = self._account
        if key is None and (key := await credentials.key(attempt.session)) is None:
            raise not_set_up(NO_CREDENTIALS)
        body = _encode(parameters).encode()
        headers = signer.headers(key, _action(operation), body)
        answer, refusal = await attempt.post(endpoint, headers, body, trusted)
        if refusal is None:
            return answer
        code = refusal["Error"]["Code"]
        if credentials.renews(code, key):
            raise Refused("the credentials were refused, and are looked for again")
        meant = translate_response(refusal)
        raise naming_the_source(meant, credentials.found) if code in CREDENTIALS_REFUSED else meant


class _Account(NamedTuple):
    """Who calls DynamoDB, how that is proved, and what proves that it is DynamoDB."""

    credentials: "_GivenCredentials | _Boto3Credentials"
    signer: Signer
    endpoint: URL
    trusted: ssl.SSLContext | bool


def _account(credentials: "_GivenCredentials | _Boto3Credentials", region: str, endpoint: URL) -> _Account:
    trusted = _trusted() if endpoint.scheme == "https" else True
    return _Account(credentials, Signer(region, str(endpoint)), endpoint, trusted)


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


_encode = json.JSONEncoder(separators=(",", ":"), default=_base64).encode
"""Return a request's parameters as they are sent: bytes, which JSON has not, in base64."""

_decode = json.JSONDecoder().decode


@functools.cache
def _action(operation: str) -> str:
    return operation.title().replace("_", "")


class _Pool:
    """What an event loop has of its own: connections, and how many calls may use them at once."""

    def __init__(self, sessions: AsyncGenerator[aiohttp.ClientSession, None], session: aiohttp.ClientSession) -> None:
        self._sessions = sessions  # Begun and not ended: so an event loop that shuts down ends it.
        self.session = session
        self.slots = asyncio.Semaphore(MAX_CONCURRENT_CALLS)
        self.users: set[int] = set()
        """The transports that have made calls with it."""

    async def close(self) -> None:
        await self._sessions.aclose()

    @classmethod
    async def of_this_loop(cls) -> "_Pool":
        """Return the running event loop's pool, made if there is none. Raises ConfigurationError."""
        loop = _running_loop()
        if loop not in _pools:
            for other in [other for other in list(_pools) if other.is_closed()]:
                _pools.pop(other, None)
            sessions = _sessions()
            _pools[loop] = cls(sessions, await anext(sessions))
        return _pools[loop]


_pools: dict[asyncio.AbstractEventLoop, _Pool] = {}


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise outage('client="async" is aiohttp, which runs in asyncio\'s event loop only') from None


def _trusted() -> ssl.SSLContext | bool:
    """Return what vouches for an endpoint: what the variable says that boto3 reads, too, or the usual authorities."""
    bundle = os.environ.get("AWS_CA_BUNDLE")
    if not bundle:
        return True
    try:
        return ssl.create_default_context(cafile=bundle)
    except OSError as error:
        raise outage(f"AWS_CA_BUNDLE={bundle!r} cannot be read: {type(error).__name__}") from None


async def _sessions() -> AsyncGenerator[aiohttp.ClientSession, None]:
    """Yield one session, and close it."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=MAX_CONCURRENT_CALLS),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept-Encoding": "identity", "User-Agent": "dynamodb-sessions"},
        # As botocore has it. It is looked up for every request, so only where there is one.
        trust_env=bool(urllib.request.getproxies()),
    ) as session:
        yield session


class _Attempt:
    """One attempt on the wire."""

    def __init__(self, session: aiohttp.ClientSession, patience: aiohttp.ClientTimeout) -> None:
        self.session = session
        self._patience = patience
        self.begun = False
        """Whether it had its turn."""
        self.sent = False
        """Whether it may have been sent."""

    async def post(
        self, url: URL, headers: dict[str, str], body: bytes, trusted: ssl.SSLContext | bool
    ) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Send a request. Return the answer, and the refusal if it is one."""
        self.sent = True
        try:
            response = await self.session.post(
                url,
                headers=headers,
                data=aiohttp.BytesPayload(body),
                allow_redirects=False,
                ssl=trusted,
                timeout=self._patience,
            )
            said = await response.read()
        except aiohttp.ConnectionTimeoutError:
            raise
        except TimeoutError:
            raise OutcomeUnknown(f"DynamoDB did not answer within {self._patience.total:.3g} s") from None
        except aiohttp.ClientConnectorError:
            raise
        except aiohttp.ClientError as error:
            raise OutcomeUnknown(f"DynamoDB cannot be reached: {reason(error)}") from None
        if response.status != _OK:
            return {}, _refusal(said) | {"ResponseMetadata": {"HTTPStatusCode": response.status}}
        try:
            answer = _decode(said.decode())
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or (answer and answer.keys().isdisjoint(_SAID)):
            raise OutcomeUnknown("DynamoDB's answer is invalid")
        return answer, None


def _refusal(body: bytes) -> dict[str, Any]:
    """Return what a reply says that is not OK, as botocore would have it."""
    try:
        said = json.loads(body)
        code = said["__type"].rpartition("#")[2]
    except (ValueError, TypeError, KeyError, AttributeError):
        return {"Error": {"Code": ""}}
    message = said.get("message") or said.get("Message") or ""
    kept = {name: said[name] for name in ("CancellationReasons", *THROTTLING_REASONS) if name in said}
    return {"Error": {"Code": code, "Message": message}, **kept}


class _GivenCredentials:
    """Those of an aiodynamo client."""

    def __init__(self, given: "Credentials") -> None:
        self._given = given

    @property
    def found(self) -> object:
        """Return None: aiodynamo does not say where they are from."""
        return None

    def at_hand(self) -> Key | None:
        """Return None: it is not known whether to find the key takes a while."""
        return None

    async def key(self, session: aiohttp.ClientSession) -> Key | None:
        """Return the key, wherever it takes to find it; None if there is none."""
        found = await self._given.get_key(AIOHTTP(session))
        return None if found is None else Key(found.id, found.secret, found.token)

    def renews(self, code: str, _: Key) -> bool:
        """Whether there may be another key than the one for which a call was refused with this code."""
        return code == _EXPIRED and self._given.invalidate()


class _Boto3Credentials:
    """Wherever boto3 finds credentials."""

    def __init__(self, boto3: ConfiguredTransport, timeout: float) -> None:
        self._boto3 = boto3
        self._timeout = timeout
        self._found: Any = None
        self._last: tuple[Any, Key | None] = (None, None)
        """The credentials as botocore last gave them, and their key."""
        tell_of_forks(self)

    @property
    def found(self) -> object:
        """Return what boto3 has found."""
        return self._found

    def forked(self) -> None:
        """Begin anew in a forked process: a thread of the parent's may have held botocore's locks."""
        self.ask_again()

    def ask_again(self) -> None:
        """Have boto3 asked for its credentials at the next call."""
        self._found = None

    def at_hand(self) -> Key | None:
        """Return the key if it need not be looked for, nor renewed, which may take a while."""
        found = self._found
        if found is None or getattr(found, "refresh_needed", bool)():
            return None
        return self._key(found)

    async def key(self, _: aiohttp.ClientSession) -> Key | None:
        """Return the key, looked for or renewed in a thread if need be; None if there is none."""
        return self.at_hand() or await in_thread(self._read, timeout=self._timeout)

    def renews(self, code: str, refused: Key) -> bool:
        """Whether there may be another key than the one for which a call was refused. False if it is a moment old."""
        if code not in CREDENTIALS_REFUSED:
            return False
        if self._last[1] is not refused:  # Somebody else was first.
            return True
        is_renewed = self._boto3.forget_credentials()
        if is_renewed:
            self.ask_again()
        return is_renewed

    def _read(self) -> Key | None:
        found = self._found
        if found is None:
            self._found = found = self._boto3.credentials()
        return None if found is None else self._key(found)

    def _key(self, found: Any) -> Key | None:
        given = found.get_frozen_credentials()
        last, key = self._last
        if given != last:
            key = Key(given.access_key, given.secret_key, given.token)
            self._last = given, key
        return key
