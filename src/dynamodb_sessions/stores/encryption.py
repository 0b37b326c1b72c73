"""Encryption of a session's values by AES-256-GCM. It takes `cryptography`: it is imported only where a key is given.

An encrypted value is one byte that says what it hides, 12 random bytes (the nonce), as many bytes as are hidden, and 16
that authenticate all of it, and the name of the value's key in the session. Source: NIST SP 800-38D.

Each session has keys of its own, derived from its id, so a value is valid in its session only. And no number of
sessions wears a key out: nonces are random, for which GCM allows 2**32 values of one key (SP 800-38D, 8.3). That is far
more than one session ever stores; all sessions together might.
"""

import hmac
import os
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dynamodb_sessions.stores.value_format import ENCRYPTED

_NONCE_SIZE = 12
_TAG_SIZE = 16
_FIRST_BYTES = {kind: first for first, kind in ENCRYPTED.items()}
_PURPOSE = b"dynamodb-sessions AES-256-GCM "


class Encryption:
    """Makes the ciphers of sessions. `keys`: 32 bytes each, newest first; None in place of the first: none encrypts."""

    __slots__ = ("_keys", "overhead")

    def __init__(self, keys: Sequence[bytes | None]) -> None:
        # Not the bytes: no dump of the variables of a frame is to show them.
        self._keys = [hmac.new(key, _PURPOSE, "sha256") for key in keys if key is not None]
        self.overhead = 0 if keys[0] is None else 1 + _NONCE_SIZE + _TAG_SIZE
        """How many bytes longer a value is for being encrypted; 0: none is."""

    def of(self, session_id: str) -> "SessionCipher":
        return SessionCipher([_derive(key, session_id) for key in self._keys])


class SessionCipher:
    """Encrypts and decrypts the values of one session."""

    __slots__ = ("_ciphers",)

    def __init__(self, ciphers: Sequence[AESGCM]) -> None:
        self._ciphers = ciphers

    def encrypt(self, key: str, attribute: Mapping[str, Any]) -> bytes:
        """Encrypt, with the newest key, what holds a value: text (S) or bytes (B)."""
        [(kind, held)] = attribute.items()
        first, nonce = _FIRST_BYTES[kind], os.urandom(_NONCE_SIZE)
        hidden = held.encode() if kind == "S" else held
        return first + nonce + self._ciphers[0].encrypt(nonce, hidden, first + key.encode())

    def decrypt(self, key: str, sealed: bytes) -> dict[str, Any] | None:
        """Return what holds the value; None: no key fits, or it is not of this session and key as it was stored."""
        first, nonce, hidden = sealed[:1], sealed[1 : 1 + _NONCE_SIZE], sealed[1 + _NONCE_SIZE :]
        kind = ENCRYPTED[first]
        for cipher in self._ciphers:
            try:
                held = cipher.decrypt(nonce, hidden, first + key.encode())
            except (InvalidTag, ValueError):  # ValueError: it is cut off.
                continue
            return {kind: held.decode() if kind == "S" else held}
        return None


def _derive(key: hmac.HMAC, session_id: str) -> AESGCM:
    """Return a session's cipher. Its key is HKDF-Expand's: RFC 5869, 2.3; a key that is random needs no Extract."""
    derived = key.copy()
    derived.update(session_id.encode() + b"\x01")
    return AESGCM(derived.digest())
