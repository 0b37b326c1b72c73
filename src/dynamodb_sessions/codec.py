"""Session values to stored strings and back: JSON, one string per top-level key.

Everything comes back as it went (a tuple comes back as a list, as JSON has it): a value of which that cannot be
promised is refused by name, never converted.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from dynamodb_sessions.exceptions import UnserializableValue

MAX_DEPTH = 256
"""How deep a value may be nested: far below the interpreter's recursion limit, so what was written can be read."""


MAX_KEY_SIZE = 65_535
"""Bytes. Source: DynamoDB's limit of an attribute's name."""


def is_text(value: object, *, max_size: int | None = None) -> bool:
    """Whether a value is valid Unicode text, of 1 to `max_size` bytes of UTF-8 if that is given."""
    if not isinstance(value, str):
        return False
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        return False
    return max_size is None or 0 < size <= max_size


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


encode: Callable[[Any], str] = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
"""Return the compact JSON of a value. Raises ValueError, TypeError or RecursionError: see `encode_item`."""

_decoder = json.JSONDecoder(parse_constant=_refuse_constant)
_raw_decode = _decoder.raw_decode


def encode_item(key: object, value: Any, *, known: str | None = None) -> str:
    """Return the stored string of one session entry: `known`, without another look, if that carries the same value.

    Raises UnserializableValue naming the key if the entry would not come back as it went.
    """
    if not is_text(key, max_size=MAX_KEY_SIZE):
        raise UnserializableValue(key, f"a session key must be a non-empty str of at most {MAX_KEY_SIZE:,} bytes")
    try:
        encoded = encode(value)
        if known is not None and same(encoded, known):
            return known
        encoded.encode()
        # Both are cheap and nearly always settle it; only the rest is walked.
        if encoded.count("[") + encoded.count("{") > MAX_DEPTH or decode(encoded) != value:
            _check_nested(value)
    except RecursionError:
        raise UnserializableValue(key, f"it is nested deeper than {MAX_DEPTH} levels") from None
    except UnicodeEncodeError:
        raise UnserializableValue(key, "it holds a lone surrogate, which is not valid Unicode text") from None
    except (TypeError, ValueError) as error:
        raise UnserializableValue(key, str(error)) from None
    return encoded


def decode(encoded: str) -> Any:
    """Return the value of a stored string. Raises ValueError or RecursionError if it is not JSON."""
    return _decoder.decode(encoded)


def decode_items(items: Mapping[str, str]) -> dict[str, Any]:
    """Return every entry decoded. Raises ValueError or RecursionError if one is not JSON."""
    decoded = {}
    for key, encoded in items.items():
        try:
            decoded[key], end = _raw_decode(encoded)
        except ValueError:
            end = -1
        # What has white space around it is another writer's; looking for it takes longer than a short value does.
        if end != len(encoded):
            decoded[key] = decode(encoded)
    return decoded


def same(encoded: str, stored: str) -> bool:
    """Whether two stored strings carry one value, however another writer may have spelled the second."""
    try:
        return encoded == stored or encoded == encode(decode(stored))
    except (ValueError, RecursionError):  # A number that is too large for us, say.
        return False


def encode_items(items: Mapping[str, Any]) -> dict[str, str]:
    """Return every entry encoded. Raises UnserializableValue."""
    return {key: encode_item(key, value) for key, value in items.items()}


def _check_nested(value: Any) -> None:
    """Refuse the two things json.dumps lets pass: keys it would turn into strings, and nesting without end."""
    level = [value]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                for key in node:
                    if not isinstance(key, str):
                        raise TypeError(f"a nested key must be a str, not {type(key).__name__}")
                below.extend(node.values())
            elif isinstance(node, list | tuple):
                below.extend(node)
        level = [node for node in below if isinstance(node, dict | list | tuple)]
        if not level:
            return
    raise RecursionError
