"""Where `client="async"` has its key from: the environment, or the endpoint it names, or wherever boto3 finds one.

A key that is at hand is given without waiting. What takes a while is awaited, or done in a thread.
"""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import aiohttp

from dynamodb_sessions.aws import environment
from dynamodb_sessions.aws.environment import Container
from dynamodb_sessions.aws.errors import CREDENTIALS_REFUSED
from dynamodb_sessions.aws.loop_connections import Pool
from dynamodb_sessions.aws.sigv4 import Key
from dynamodb_sessions.aws.threads import in_thread
from dynamodb_sessions.aws.transport import ConfiguredTransport
from dynamodb_sessions.forks import tell_of_forks

_OK = 200
_CREDENTIALS_SECONDS = 2.0
"""How long a container's endpoint may take. Source: botocore."""
_RENEWAL_SECONDS = 1.0
"""The least time between two looks for credentials, while those that are found are refused."""


class EnvironmentCredentials:
    """The key that is in the environment, or that the endpoint gives which the environment names.

    Whatever goes wrong with that endpoint is left to boto3, which has more patience, and says what it is.
    """

    def __init__(self, source: Key | Container, boto3: "Boto3Credentials", timeout: float) -> None:
        self._source = source
        self._boto3 = boto3
        self._patience = aiohttp.ClientTimeout(total=min(timeout, _CREDENTIALS_SECONDS))
        self._key = source if isinstance(source, Key) else None
        self._expires = float("inf")
        self._asked_at = 0.0
        """When the endpoint was last asked, on the monotonic clock."""

    @property
    def found(self) -> object:
        """Return what says where they are from, as boto3 says it."""
        return _Source("env" if isinstance(self._source, Key) else "container-role")

    def at_hand(self) -> Key | None:
        """Return the key if it need not be asked for."""
        return self._key if time.time() < self._expires - environment.ADVISORY_SECONDS else None

    async def key(self, pool: Pool) -> Key | None:
        """Return the key, given by the endpoint if need be; None if there is none."""
        if (key := self._still_good()) is not None and pool.renewing.locked():
            return key  # Somebody else asks for the next one.
        async with pool.renewing:
            if (key := self.at_hand()) is not None:
                return key
            if isinstance(self._source, Container):
                with suppress(aiohttp.ClientError, OSError, KeyError, TypeError, ValueError):
                    return await self._ask(self._source)
        if (key := self._still_good()) is not None:
            return key  # The next call asks again. Source: botocore.
        return await self._boto3.key(pool)

    def _still_good(self) -> Key | None:
        """Return the key, if it may be used for want of the next one."""
        return self._key if time.time() < self._expires - environment.MANDATORY_SECONDS else None

    def renews(self, code: str, refused: Key) -> bool:
        """Whether there may be another key than the one for which a call was refused. False if it is a moment old."""
        if code not in CREDENTIALS_REFUSED:
            return False
        if isinstance(self._source, Key):
            found = environment.credentials()
            if isinstance(found, Key):
                self._source = self._key = found
        elif self._key is refused and time.monotonic() - self._asked_at >= _RENEWAL_SECONDS:
            self._key = None
        return self._boto3.renews(code, refused) if self._key is None else self._key != refused

    async def _ask(self, endpoint: Container) -> Key:
        """Ask the endpoint. Raises aiohttp.ClientError, OSError, KeyError, TypeError or ValueError."""
        self._asked_at = time.monotonic()
        headers = {"Accept": "application/json"} | environment.container_headers()
        # In a session of its own: it is not to be asked through a proxy. Source: botocore.
        async with (
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), timeout=self._patience) as session,
            session.get(endpoint.url, headers=headers, allow_redirects=False) as response,
        ):
            if response.status != _OK:
                raise ValueError("no credentials")
            self._key, self._expires = environment.key_of(json.loads(await response.read()))
        return self._key


class _Source(NamedTuple):
    """Where credentials are from, by botocore's name of it."""

    method: str


class Boto3Credentials:
    """Wherever boto3 finds credentials."""

    def __init__(self, boto3: Callable[[], ConfiguredTransport], timeout: float) -> None:
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

    async def key(self, _: Pool) -> Key | None:
        """Return the key, looked for or renewed in a thread if need be; None if there is none."""
        return self.at_hand() or await in_thread(self._read, timeout=self._timeout)

    def renews(self, code: str, refused: Key) -> bool:
        """Whether there may be another key than the one for which a call was refused. False if it is a moment old."""
        if code not in CREDENTIALS_REFUSED:
            return False
        if self._last[1] is not refused:  # Somebody else was first.
            return True
        is_renewed = self._boto3().forget_credentials()
        if is_renewed:
            self.ask_again()
        return is_renewed

    def _read(self) -> Key | None:
        found = self._found
        if found is None:
            self._found = found = self._boto3().credentials()
        return None if found is None else self._key(found)

    def _key(self, found: Any) -> Key | None:
        given = found.get_frozen_credentials()
        last, key = self._last
        if given != last:
            key = Key(given.access_key, given.secret_key, given.token)
            self._last = given, key
        return key
