"""Session values to stored strings and back: JSON or a serializer of the app's, one string per top-level key.

Everything comes back as it went (a tuple comes back as a list, as JSON has it): a value of which that cannot be
promised is refused by name, never converted. What a serializer of the app's promises is its own affair.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, Protocol

from dynamodb_sessions.exceptions import ConfigurationError, CorruptRecord, SessionError, UnserializableValue

MAX_DEPTH = 256
"""How deep a value may be nested: far below the interpreter's recursion limit, so what was written can be read."""


MAX_KEY_SIZE = 65_535
"""Bytes. Source: DynamoDB's limit of an attribute's name."""

CONSTANTS: set[type] = {str, int, float, bool, type(None)}
"""Types of values that cannot change where they are. A serializer of this package adds those that it knows."""


class Serializer(Protocol):
    """What turns the values of a session into text, and back. It is called with one top-level value at a time.

    Equal values must give equal text, in every process: a change is noticed by its text, so sets have to be sorted.
    One object serves all requests, from the event loop and from threads.
    """

    def dumps(self, value: Any, /) -> str:
        """Return the text of a value. What it raises becomes an UnserializableValue, unless it is a SessionError."""
        ...

    def loads(self, text: str, /) -> Any:
        """Return the value of a text. What it raises becomes a CorruptRecord, unless it is a SessionError."""
        ...


def is_text(value: object, *, max_size: int | None = None) -> bool:
    """Whether a value is valid Unicode text, of 1 to `max_size` bytes of UTF-8 if that is given."""
    if not isinstance(value, str):
        return False
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        return False
    return max_size is None or 0 < size <= max_size


def refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_encode: Callable[[Any], str] = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def encode(value: Any) -> str:
    """Return the compact JSON of a value. Raises ValueError, TypeError or RecursionError: see `encode_item`."""
    # What counts something is written most often, and takes the encoder ten times as long.
    return int.__repr__(value) if value.__class__ is int else _encode(value)


_decoder = json.JSONDecoder(parse_constant=refuse_constant)
_raw_decode = _decoder.raw_decode


class JSONSerializer:
    """Whatever JSON carries, as it went; a tuple comes back as a list. The default.

    Subclasses of JSON's types, like an IntEnum or a NamedTuple, are stored as their base type.
    """

    __slots__ = ()

    def dumps(self, value: Any, /) -> str:
        """Return the compact JSON of a value. Raises TypeError, ValueError or RecursionError if it is not JSON."""
        encoded = encode(value)
        check_nested(value)
        return encoded

    def loads(self, text: str, /) -> Any:
        """Return the value of a text. Raises ValueError or RecursionError if it is not JSON."""
        return decode(text)


JSON = JSONSerializer()


def checked_serializer(serializer: Serializer | None) -> Serializer:
    """Return the serializer that is given; None: JSON. Raises ConfigurationError for what is no serializer."""
    if serializer is None or serializer.__class__ is JSONSerializer:
        return JSON  # Itself: what it stands for is done without a call of it.
    is_one = callable(getattr(serializer, "dumps", None)) and callable(getattr(serializer, "loads", None))
    if isinstance(serializer, type) or not is_one:
        given = f"the class {serializer.__name__}" if isinstance(serializer, type) else type(serializer).__name__
        raise ConfigurationError(
            f"serializer must be an object with dumps(value) -> str and loads(str) -> value, not {given}"
        )
    return serializer


def encode_item(key: object, value: Any, *, known: str | None = None, serializer: Serializer = JSON) -> str:
    """Return the stored string of one session entry: `known`, without another look, if that carries the same value.

    Raises UnserializableValue naming the key if the entry would not come back as it went.
    """
    if not is_text(key, max_size=MAX_KEY_SIZE):
        raise UnserializableValue(key, f"a session key must be a non-empty str of at most {MAX_KEY_SIZE:,} bytes")
    if serializer is not JSON:
        return _dumps(serializer, key, value)
    try:
        encoded = encode(value)
        if known is not None and same(encoded, known):
            return known
        if value.__class__ is int:
            return encoded
        encoded.encode()
        # Both are cheap and nearly always settle it; only the rest is walked.
        if encoded.count("[") + encoded.count("{") > MAX_DEPTH or decode(encoded) != value:
            check_nested(value)
    except RecursionError:
        raise UnserializableValue(key, f"it is nested deeper than {MAX_DEPTH} levels") from None
    except UnicodeEncodeError:
        raise UnserializableValue(key, "it holds a lone surrogate, which is not valid Unicode text") from None
    except (TypeError, ValueError) as error:
        raise UnserializableValue(key, str(error)) from None
    return encoded


def decode(encoded: str) -> Any:
    """Return the value of a stored string. Raises ValueError or RecursionError if it is not JSON."""
    try:
        value, end = _raw_decode(encoded)
    except ValueError:
        end = -1
    # What has white space around it is another writer's; looking for it takes longer than a short value does.
    return value if end == len(encoded) else _decoder.decode(encoded)


def decode_items(items: Mapping[str, str], serializer: Serializer = JSON) -> dict[str, Any]:
    """Return every entry decoded.

    Raises ValueError or RecursionError if one is not JSON, and CorruptRecord if another serializer cannot read it.
    """
    if serializer is not JSON:
        return {key: _loads(serializer, key, text) for key, text in items.items()}
    decoded = {}
    for key, encoded in items.items():
        try:
            decoded[key], end = _raw_decode(encoded)
        except ValueError:
            end = -1
        if end != len(encoded):
            decoded[key] = decode(encoded)
    return decoded


def same(encoded: str, stored: str) -> bool:
    """Whether two stored strings carry one value, however another writer may have spelled the second."""
    if encoded == stored:
        return True
    if encoded.isdigit() and stored.isdigit():  # There is one way to write a whole number in digits alone.
        return False
    try:
        return encoded == encode(decode(stored))
    except (ValueError, RecursionError):  # A number that is too large for us, say.
        return False


def carries(stored: str, value: Any, serializer: Serializer = JSON) -> bool:
    """Whether a stored string carries this value. False for what cannot be stored."""
    if serializer is JSON:
        try:
            return same(encode(value), stored)
        except (TypeError, ValueError, RecursionError):
            return False
    try:
        return serializer.dumps(value) == stored
    except Exception:  # noqa: BLE001 - whatever an app's serializer raises: the commit, which follows, tells
        return False


def encode_items(items: Mapping[str, Any], serializer: Serializer = JSON) -> dict[str, str]:
    """Return every entry encoded. Raises UnserializableValue."""
    return {key: encode_item(key, value, serializer=serializer) for key, value in items.items()}


def _dumps(serializer: Serializer, key: object, value: Any) -> str:
    """Return what a serializer makes of an entry. Raises UnserializableValue, or the serializer's own SessionError."""
    name = type(serializer).__name__
    try:
        text = serializer.dumps(value)
    except SessionError:
        raise
    except RecursionError:
        raise UnserializableValue(key, f"it is nested too deep for {name}") from None
    except Exception as error:
        said = ascii(" ".join(str(error).split()))[1:-1]
        raise UnserializableValue(key, f"{name}.dumps raised {type(error).__name__}: {said}") from error
    if not isinstance(text, str):
        raise UnserializableValue(key, f"{name}.dumps returned {type(text).__name__}, not str")
    if not is_text(text):
        raise UnserializableValue(key, f"{name}.dumps returned a lone surrogate, which is not valid Unicode text")
    return text


def _loads(serializer: Serializer, key: str, text: str) -> Any:
    """Return what a serializer reads in a stored string. Raises CorruptRecord, or the serializer's own SessionError."""
    try:
        return serializer.loads(text)
    except SessionError:
        raise
    except Exception as error:
        # Without what it says, which may quote the value.
        name = f"{type(serializer).__name__}.loads raised {type(error).__name__}"
        raise CorruptRecord(f"the stored session[{key!a}] cannot be read: {name}") from error


def check_nested(value: Any) -> None:
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
