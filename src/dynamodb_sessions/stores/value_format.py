"""ValueFormat: how a session's values are stored: compressed where they gain by it, encrypted where there is a key.

A stored value is text (S) or bytes (B), and the first byte tells what they are:

- 0x78: the text, compressed by zlib (RFC 1950);
- 0x01, 0x02: the text, or the text compressed by zlib, encrypted: see `encryption.py`.

Every form is read, whatever this process writes. One that no key opens is a corrupt record.
"""

import base64
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dynamodb_sessions.exceptions import ConfigurationError, CorruptRecord, SessionTooLarge
from dynamodb_sessions.stores import contract
from dynamodb_sessions.stores.contract import MAX_RECORD_SIZE, Record

if TYPE_CHECKING:
    from dynamodb_sessions.stores.encryption import Encryption, SessionCipher

ENCRYPTED = {b"\x01": "S", b"\x02": "B"}
"""The first byte of an encrypted value, and what it hides."""

MAX_RATIO = 10
"""How many times as long a value may be as what is stored of it, if it is stored without knowing all the others."""

_MAX_UNPACKED = (MAX_RATIO + 2) * MAX_RECORD_SIZE
"""Characters of one item, uncompressed, that are read. What has a higher ratio is only stored with known values."""


class ValueFormat:
    """Packs the values of sessions as they are stored, and unpacks them.

    A value of more than `compress_over` characters is compressed if it gains by it; None: never. `keys` are 32 bytes
    each, newest first: the first encrypts, all decrypt. None in place of the first: nothing is encrypted. Raises
    ConfigurationError if there are keys and `cryptography` is not installed.
    """

    __slots__ = ("_compress_over", "_encryption", "in_place_of_sealed")

    def __init__(self, compress_over: int | None = None, keys: Sequence[bytes | None] = ()) -> None:
        whole = isinstance(compress_over, int) and not isinstance(compress_over, bool)
        if compress_over is not None and not (whole and compress_over >= 0):
            raise ConfigurationError(f"compress_over={compress_over!r} must be None or a whole number of characters")
        self._compress_over = compress_over
        self._encryption = _encryption(keys) if keys else None
        self.in_place_of_sealed: str | None = None
        """What stands for a value that no key opens; None: it is a corrupt record."""

    def pack_all(self, session_id: str, values: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        """Return what holds each of a session's values. It belongs to this session and key, and is valid nowhere else.

        So whoever gives a session another id packs all of it anew.
        """
        packed = {key: pack(value, self._compress_over) for key, value in values.items()}
        if self._encryption is None or not self.overhead:
            return packed
        cipher = self._encryption.of(session_id)
        return {key: {"B": cipher.encrypt(key, attribute)} for key, attribute in packed.items()}

    def unpack_all(self, session_id: str, attributes: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
        """Return all the values that are held.

        Raises CorruptRecord if no key opens one; KeyError, TypeError or ValueError if one is invalid, and soon, if they
        are too much together.
        """
        values, left, cipher = {}, _MAX_UNPACKED, None
        for key, attribute in attributes.items():
            held: Mapping[str, Any] | None = attribute
            if "S" not in attribute and (stored := as_bytes(attribute["B"]))[:1] in ENCRYPTED:
                if cipher is None and self._encryption is not None:
                    cipher = self._encryption.of(session_id)
                held = None if cipher is None else cipher.decrypt(key, stored)
            values[key] = value = self._sealed() if held is None else unpack(held)
            left -= len(value)
            if left < 0:
                raise ValueError("more than any session holds")
        return values

    @property
    def overhead(self) -> int:
        """How many bytes longer a value is for being encrypted; 0: none is."""
        return 0 if self._encryption is None else self._encryption.overhead

    def cipher_of(self, session_id: str) -> "SessionCipher | None":
        """Return what decrypts the values of one session, and encrypts them if there is an `overhead`. None: no key."""
        return None if self._encryption is None else self._encryption.of(session_id)

    def check_size(self, record: Record, *, before: Record | None = None) -> None:
        """Raise SessionTooLarge for a record that does not fit into an item, encrypted, but as if nothing compressed.

        One that was larger before may stay so: compressed, what several have put in together may fit all the same.
        """
        contract.check_size(record, before=before, overhead=self.overhead)

    def _sealed(self) -> str:
        """Return what stands for a value that no key opens. Raises CorruptRecord if nothing does."""
        if self.in_place_of_sealed is None:
            raise CorruptRecord(
                "a stored session value is encrypted, and no key fits: give DynamoDBStore the one it was encrypted "
                "with, by encryption_key, SESSION_ENCRYPTION_KEY or SESSION_ENCRYPTION_KEY_FALLBACKS; if it has it, "
                "the value was changed, or moved here from elsewhere"
            )
        return self.in_place_of_sealed


def pack(value: str, compress_over: int | None) -> dict[str, Any]:
    """Return what holds a text: compressed if it has more characters than that, and takes less so."""
    if compress_over is not None and len(value) > compress_over:
        encoded = value.encode()
        compressed = zlib.compress(encoded)
        if len(compressed) < len(encoded):
            return {"B": compressed}
    return {"S": value}


def unpack(attribute: Mapping[str, Any]) -> str:
    """Return the text that is held. Raises KeyError, TypeError or ValueError if it is invalid."""
    if "S" in attribute:
        text: str = attribute["S"]
        return text
    return inflate(as_bytes(attribute["B"]), MAX_RECORD_SIZE).decode()


def inflate(compressed: bytes, max_size: int) -> bytes:
    """Return what was compressed. Raises ValueError if it is invalid, or more than so many bytes."""
    inflating = zlib.decompressobj()
    # A few bytes may claim to be gigabytes.
    try:
        value = inflating.decompress(compressed, max_size)
    except zlib.error:
        raise ValueError("not compressed as it should be") from None
    if not inflating.eof:
        raise ValueError("cut off, or more than is ever stored")
    return value


def check_readable(record: Record) -> None:
    """Raise SessionTooLarge for what would be too much to be read again, however small it is compressed.

    Each of several who change a session at once may add as much as fits into an item, so it may be more than that.
    """
    size, limit = sum(len(value) for value in record.data.values()), MAX_RATIO * MAX_RECORD_SIZE
    if size > limit:
        raise SessionTooLarge(size, limit, sorted(record.data, key=lambda key: -len(record.data[key]))[:3])


def as_bytes(held: Any) -> bytes:
    """Return stored bytes, which a client may leave as they came, in base64."""
    return held if isinstance(held, bytes) else base64.b64decode(held)


def _encryption(keys: Sequence[bytes | None]) -> "Encryption":
    try:
        from dynamodb_sessions.stores.encryption import Encryption  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigurationError(
            f"encryption_key takes what is not installed ({error.name}): pip install 'dynamodb-sessions[encryption]'"
        ) from error
    return Encryption(keys)


PLAIN = ValueFormat()
"""Text, neither compressed nor encrypted."""
