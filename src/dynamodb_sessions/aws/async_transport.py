"""The transport without threads: requests that are signed here, over aiohttp's connections, in asyncio's event loop.

Region, endpoint and credentials are those boto3 would use, or those of a given aiodynamo client. Where the environment
says all of it, as on Lambda and ECS, boto3 is not imported. Connections belong to an event loop: each has a pool of its
own, which closes when the loop shuts down, as `asyncio.run` and every server have it. Nothing imports this module
before it is asked for.
"""

import asyncio
import base64
import functools
import io
import json
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
from yarl import URL

from dynamodb_sessions.aws import environment, log_redaction
from dynamodb_sessions.aws.async_credentials import Boto3Credentials, EnvironmentCredentials
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
from dynamodb_sessions.aws.loop_connections import Pool, pools, proxy_of, running_loop, trusted_authorities
from dynamodb_sessions.aws.setup_errors import NO_CREDENTIALS, not_set_up, reason
from dynamodb_sessions.aws.sigv4 import Key, Signer
from dynamodb_sessions.aws.threads import MAX_CONCURRENT_CALLS, in_thread
from dynamodb_sessions.aws.transport import ConfiguredTransport
from dynamodb_sessions.exceptions import ConfigurationError, StoreUnavailable
from dynamodb_sessions.forks import tell_of_forks

if TYPE_CHECKING:
    from aiodynamo.client import Client
    from aiodynamo.credentials import Credentials

_OK = 200
_SAID = frozenset(("Item", "Items", "Attributes", "UnprocessedItems", "ConsumedCapacity"))
"""What is in an answer that is not empty, this or that."""
_LARGE = 2**20
"""Bytes. What is larger is written piece by piece, so that nobody else waits for it: aiohttp warns of it otherwise."""
_EXPIRED = "ExpiredTokenException"


class AsyncTransport:
    """Calls DynamoDB as an aiodynamo client would: a given one, or one with boto3's configuration."""

    def __init__(
        self,
        client: "Client | None" = None,
        *,
        boto3: Callable[[], ConfiguredTransport],
        region_name: str | None = None,
        endpoint_url: str | None = None,
        timeout: float = 5.0,
    ) -> None:
        """`boto3` makes a transport for the same table, for what is rare, and for what the environment does not say."""
        self.timeout = timeout
        self._options = region_name, endpoint_url
        self._make_boto3 = boto3
        self._made_boto3: ConfiguredTransport | None = None
        self._making = threading.Lock()
        self._credentials = Boto3Credentials(lambda: self._boto3, timeout)
        # So that what became of an attempt can be found out before the deadline.
        self._patience = aiohttp.ClientTimeout(total=timeout * 0.4, sock_connect=timeout / 5)
        self._account: _Account | None = None
        if client is not None:
            self._account = _given(client)
        else:
            with suppress(ConfigurationError):  # Told at the first call: an app with a fallback must be able to start.
                self._account = self._of_environment()
        tell_of_forks(self)
        log_redaction.install()
        if self._account is None:
            self._boto3  # noqa: B018 - it takes a while, so not while a visitor waits

    def forked(self) -> None:
        """Begin anew in a forked process: a thread of the parent's may have held the lock."""
        self._making = threading.Lock()

    @property
    def client(self) -> Any:
        """The boto3 client of the same table. Raises ConfigurationError if none can be built."""
        return self._boto3.client

    @property
    def region_name(self) -> str | None:
        """The region that is called; None: there is no client yet."""
        if self._account is not None:
            return self._account.region
        return None if self._made_boto3 is None else self._made_boto3.region_name

    @property
    def _boto3(self) -> ConfiguredTransport:
        """The transport that has boto3's configuration, made when it is first wanted, which takes a while."""
        with self._making:
            if self._made_boto3 is None:
                self._made_boto3 = self._make_boto3()
            return self._made_boto3

    def renew(self) -> None:
        """Look for credentials anew at the next call, if those of the last one were refused."""
        if self._made_boto3 is not None:
            self._made_boto3.renew()
        self._credentials.ask_again()
        if self._account is not None and isinstance(self._account.credentials, EnvironmentCredentials):
            self._account = None

    def check_event_loop(self) -> None:
        """Raise ConfigurationError if the event loop that runs here is not asyncio's."""
        running_loop()

    async def call(self, operation: str, *, deadline: float, **parameters: Any) -> dict[str, Any]:
        """Send one attempt from this event loop."""
        pool = pools.get(running_loop()) or await Pool.of_this_loop()
        pool.users.add(id(self))
        attempt = _Attempt(pool.session, self._patience)
        remaining = deadline - time.monotonic()
        try:
            key = None if self._account is None else self._account.credentials.at_hand()
            if key is not None and remaining >= self.timeout * 0.4 and not pool.slots.locked():
                # There is nothing to wait for but DynamoDB itself, for which aiohttp's patience is shorter.
                async with pool.slots:
                    return await self._send(attempt, operation, parameters, key, pool)
            with redacted_logs():
                async with asyncio.timeout(remaining), pool.slots:
                    return await self._send(attempt, operation, parameters, None, pool)
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
        loop = running_loop()
        pool = pools.get(loop)
        if pool is not None:
            pool.users.discard(id(self))
            if not pool.users:
                del pools[loop]
                await pool.close()
        if self._made_boto3 is not None:
            await self._made_boto3.close()

    def call_sync(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Send one attempt from an event loop of its own, in a thread of its own: this one's may be running."""
        deadline = time.monotonic() + self.timeout
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, self.call(operation, deadline=deadline, **parameters)).result()

    async def _send(
        self, attempt: "_Attempt", operation: str, parameters: dict[str, Any], key: Key | None, pool: "Pool"
    ) -> dict[str, Any]:
        attempt.begun = True
        account = self._account or self._of_environment()
        if account is None:
            account = await in_thread(self._of_boto3, timeout=self.timeout)
        self._account = account
        if key is None and (key := await account.credentials.key(pool)) is None:
            raise not_set_up(NO_CREDENTIALS)
        body = _encode(parameters).encode()
        headers = account.signer.headers(key, _action(operation), body)
        answer, refusal = await attempt.post(account, headers, body)
        if refusal is None:
            return answer
        code = refusal["Error"]["Code"]
        if account.credentials.renews(code, key):
            raise Refused("the credentials were refused, and are looked for again")
        meant = translate_response(refusal)
        raise naming_the_source(meant, account.credentials.found) if code in CREDENTIALS_REFUSED else meant

    def _of_environment(self) -> "_Account | None":
        """Return who calls what, if the environment says all of that."""
        found = environment.look(*self._options)
        if found is None:
            return None
        credentials = EnvironmentCredentials(found.source, self._credentials, self.timeout)
        return _account(credentials, found.region, found.endpoint_url)

    def _of_boto3(self) -> "_Account":
        meta = self._boto3.client.meta
        return _account(self._credentials, meta.region_name, meta.endpoint_url)


class _Account(NamedTuple):
    """Who calls DynamoDB, how that is proved, and what proves that it is DynamoDB."""

    credentials: "_GivenCredentials | EnvironmentCredentials | Boto3Credentials"
    region: str
    signer: Signer
    endpoint: URL
    trusted: ssl.SSLContext | bool
    proxy: URL | None


def _account(
    credentials: "_GivenCredentials | EnvironmentCredentials | Boto3Credentials", region: str, url: str
) -> _Account:
    endpoint = URL(url)
    trusted = trusted_authorities() if endpoint.scheme == "https" else True
    return _Account(credentials, region, Signer(region, url), endpoint, trusted, proxy_of(endpoint))


def _given(client: "Client") -> _Account:
    """Return the account of an aiodynamo client."""
    from aiodynamo.sign import make_default_endpoint  # noqa: PLC0415 - only for whoever has it

    endpoint = client.endpoint or make_default_endpoint(client.region)
    return _account(_GivenCredentials(client.credentials), client.region, str(endpoint))


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


_encode = json.JSONEncoder(separators=(",", ":"), default=_base64).encode
"""Return a request's parameters as they are sent: bytes, which JSON has not, in base64."""

_decode = json.JSONDecoder().decode


@functools.cache
def _action(operation: str) -> str:
    return operation.title().replace("_", "")


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
        self, account: _Account, headers: dict[str, str], body: bytes
    ) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Send a request. Return the answer, and the refusal if it is one."""
        self.sent = True
        try:
            response = await self.session.post(
                account.endpoint,
                headers=headers,
                data=aiohttp.BytesPayload(body) if len(body) <= _LARGE else aiohttp.BytesIOPayload(io.BytesIO(body)),
                allow_redirects=False,
                ssl=account.trusted,
                proxy=account.proxy,
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

    async def key(self, pool: Pool) -> Key | None:
        """Return the key, wherever it takes to find it; None if there is none."""
        from aiodynamo.http.aiohttp import AIOHTTP  # noqa: PLC0415 - only for whoever has it

        found = await self._given.get_key(AIOHTTP(pool.session))
        return None if found is None else Key(found.id, found.secret, found.token)

    def renews(self, code: str, _: Key) -> bool:
        """Whether there may be another key than the one for which a call was refused with this code."""
        return code == _EXPIRED and self._given.invalidate()
