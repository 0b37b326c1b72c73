"""Moving in: the cookie sessions of Starlette's own middleware are adopted, each once.

Such a cookie is the session, so it can be replayed after a logout. Here it is worth one session: the first request
that brings it stores the session and, under a hash of the cookie, which one it became; later ones are sent there.
"""

import base64
import hashlib
import json
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from itsdangerous import BadSignature, TimestampSigner

from dynamodb_sessions import clock
from dynamodb_sessions.codec import Serializer, encode_items
from dynamodb_sessions.exceptions import ConfigurationError, CorruptRecord, UnserializableValue
from dynamodb_sessions.identifiers import new_born, new_id
from dynamodb_sessions.session.commit import load
from dynamodb_sessions.session.lifetimes import BROWSER_SESSION_AGE, Lifetimes
from dynamodb_sessions.stores.contract import Record, SessionStore
from dynamodb_sessions.stores.reserved_ids import ADOPTED
from dynamodb_sessions.web.cookie import MAX_CANDIDATES, check_name, cookies_of, values_of

logger: logging.Logger = logging.getLogger("dynamodb_sessions")

MAX_AGE = BROWSER_SESSION_AGE
"""Seconds since it was signed for which a cookie is adopted: Starlette's own default of `max_age`."""

_MARGIN = 24 * 60 * 60
"""Seconds for which it is still known what became of a cookie after it has grown too old, by whatever clock."""

_ID = "id"


@dataclass(frozen=True, slots=True)
class CookieSession:
    """What a verified cookie of Starlette's carries. `id` and `expires_at` are of the record of what became of it."""

    id: str = field(repr=False)
    data: dict[str, Any] = field(repr=False)
    expires_at: int


class StarletteCookie:
    """Reads the session cookies that Starlette's SessionMiddleware has set under a name, with any of the keys.

    Only those count that were signed at `signed_after` or later, and before `signed_before`: epoch seconds, or a
    datetime with its time zone. Raises ConfigurationError for an invalid name, or invalid times.
    """

    def __init__(
        self,
        name: str,
        keys: Sequence[str],
        *,
        signed_after: float | datetime | None = None,
        signed_before: float | datetime | None = None,
    ) -> None:
        check_name("import_cookie", name)
        self._signed_after = _epoch_seconds("import_signed_after", signed_after, otherwise=-math.inf)
        self._signed_before = _epoch_seconds("import_signed_before", signed_before, otherwise=math.inf)
        if self._signed_after >= self._signed_before:
            raise ConfigurationError("import_signed_after must be earlier than import_signed_before")
        self.name = name
        self._name = name.encode()
        self._signers = [TimestampSigner(key) for key in keys]

    def read(self, headers: Iterable[tuple[bytes, bytes]]) -> list[CookieSession]:
        """Return what the cookies of this name carry, of those that verify and are not empty, each once.

        Only the first four of them count, as for our own: each may cost reads of the store.
        """
        found: dict[str, CookieSession] = {}
        for value in values_of(self._name, cookies_of(self._name, headers)):
            carried = self._verify(value)
            if carried is not None and len(found) < MAX_CANDIDATES:
                found.setdefault(carried.id, carried)
        return list(found.values())

    def _verify(self, value: bytes) -> CookieSession | None:
        """Return what a cookie of Starlette's carries; None: no key has signed it, it is out of time or empty."""
        for signer in self._signers:
            try:
                payload, signed_at = signer.unsign(value, max_age=MAX_AGE, return_timestamp=True)
                data = json.loads(base64.b64decode(payload))
            except (BadSignature, ValueError, RecursionError):
                continue
            if not isinstance(data, dict) or not data:
                return None
            if not self._signed_after <= signed_at.timestamp() < self._signed_before:
                return None
            digest = hashlib.sha256(payload + str(signed_at.timestamp()).encode()).hexdigest()
            return CookieSession(ADOPTED + digest, data, int(signed_at.timestamp()) + MAX_AGE + _MARGIN)
        return None

    async def adopt(
        self, store: SessionStore, found: CookieSession, lifetimes: Lifetimes, serializer: Serializer
    ) -> Record | None:
        """Return the record of the session that a cookie has become, or becomes now; None if that has ended since."""
        now = clock.wall_clock()
        try:
            adopted = await store.load(found.id, now=now)
            if adopted is None:
                expires_at = lifetimes.expires_at(now, created_at=now, own=None)
                record = Record(new_id(), encode_items(found.data, serializer), now, expires_at, born=new_born())
                await store.create(record, now=now)
                became = Record(found.id, encode_items({_ID: record.id}), now, found.expires_at)
                if await store.create(became, now=now):
                    return record
                # A parallel request was first, unless this is our own first attempt, whose reply was lost.
                adopted = await store.load(found.id, now=now)
                if adopted is None or adopted.content()[_ID] != record.id:
                    await store.delete(record.id)
            return None if adopted is None else await load(store, adopted.content()[_ID], lifetimes)
        except (CorruptRecord, UnserializableValue) as error:
            logger.warning("a cookie session cannot be adopted: %s", error)
            return None


def _epoch_seconds(parameter: str, value: object, *, otherwise: float) -> float:
    """Return a moment as epoch seconds. Raises ConfigurationError for what is no moment, or could be another one."""
    if value is None:
        return otherwise
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.timestamp()
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return value
    raise ConfigurationError(f"{parameter}={value!r} must be epoch seconds, or a datetime with a time zone")
