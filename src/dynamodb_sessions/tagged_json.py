"""TaggedJSONSerializer: JSON with tags for the types that it does not have.

A text without tags is plain JSON, as `JSONSerializer` writes it. One with tags begins with a space, which that never
does, and is JSON all the same: `{" date":"2026-06-01"}` in it is a date. So what was written as plain JSON is read as
it went, even if a dict in it looks like a tag. In a text with tags, such a dict, of one key that begins with a space,
is written with one more space.
"""

import base64
import json
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from functools import partial
from itertools import repeat
from typing import Any, NamedTuple
from uuid import UUID

from dynamodb_sessions.codec import CONSTANTS, MAX_DEPTH, check_nested, decode, encode, refuse_constant

_MARK = " "

CONSTANTS.update((datetime, date, UUID, Decimal, bytes))


def _isoformat(value: date) -> str:
    return value.isoformat()


def _decimal(value: Decimal) -> str:
    if not value.is_finite():
        raise ValueError("a Decimal must be finite")
    return str(value)


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


class _Tag(NamedTuple):
    """How values of one type are written, as a text or a list, and read."""

    kind: type
    name: str
    write: Callable[[Any], str | list[Any]]
    read: Callable[[Any], Any]
    form: type = str


_TAGS = (
    _Tag(datetime, " datetime", _isoformat, datetime.fromisoformat),  # Before date: each is one of those too.
    _Tag(date, " date", _isoformat, date.fromisoformat),
    _Tag(UUID, " uuid", str, UUID),
    _Tag(Decimal, " decimal", _decimal, Decimal),
    _Tag(bytes, " bytes", _base64, partial(base64.b64decode, validate=True)),
    _Tag(tuple, " tuple", list, tuple, list),
    _Tag(set, " set", list, set, list),
    _Tag(frozenset, " frozenset", list, frozenset, list),
)
_BY_NAME = {tag.name: tag for tag in _TAGS}


class TaggedJSONSerializer:
    """Carries datetime, date, UUID, Decimal, bytes, set, frozenset and tuple besides JSON, nested as you like.

    It reads what `JSONSerializer` has written. A time zone comes back as its offset from UTC. NaN, infinity and other
    types are refused; subclasses are stored as their base type. Of a datetime, `fold` is not kept.
    """

    __slots__ = ()

    def dumps(self, value: Any, /) -> str:
        """Return the text of a value. Raises TypeError, ValueError or RecursionError if it cannot be carried."""
        try:
            plain = encode(value)
            if decode(plain) == value:  # Nearly always, and sooner than a look at every part.
                if plain.count("[") + plain.count("{") > MAX_DEPTH:
                    check_nested(value)
                return plain
        except (TypeError, ValueError):
            pass  # What the matter is, if it is one, comes out below.
        return _MARK + encode(_tagged(value, 1))

    def loads(self, text: str, /) -> Any:
        """Return the value of a text. Raises ValueError, TypeError, ArithmeticError or RecursionError."""
        return _decoder.decode(text) if text.startswith(_MARK) else decode(text)


def _tagged(value: Any, depth: int) -> Any:
    """Return a value as JSON has it, with tags. `depth` is that of the level of JSON it would begin, from 1.

    One call for each such level, so that what can be read can be written.
    """
    if value is None or isinstance(value, str | int | float):
        return value
    if depth > MAX_DEPTH:
        raise RecursionError(f"nested deeper than {MAX_DEPTH} levels of JSON, of which a tag is one")
    if isinstance(value, dict):
        return dict(zip(_marked_keys(value), map(_tagged, value.values(), repeat(depth + 1)), strict=True))
    if isinstance(value, list):
        return list(map(_tagged, value, repeat(depth + 1)))
    for tag in _TAGS:
        if isinstance(value, tag.kind):
            written = _tagged(tag.write(value), depth + 1)
            if tag.kind in (set, frozenset):
                written.sort(key=encode)  # In whatever order a set has it in this process.
            elif tag.form is str and tag.write(tag.read(written)) != written:
                break  # It has more to it than its base type: nanoseconds, say.
            return {tag.name: written}
    raise TypeError(f"{type(value).__name__} is not among the types that it carries")


def _marked_keys(value: dict[Any, Any]) -> list[str]:
    """Return the keys of a dict, marked if it could be taken for a tag."""
    for key in value:
        if not isinstance(key, str):
            raise TypeError(f"a nested key must be a str, not {type(key).__name__}")
    return [_MARK + key for key in value] if _looks_like_a_tag(value) else list(value)


def _looks_like_a_tag(value: dict[str, Any]) -> bool:
    return len(value) == 1 and next(iter(value)).startswith(_MARK)


def _untagged(found: dict[str, Any]) -> Any:
    """Return what an object of JSON stands for, whose own values are read already."""
    if not _looks_like_a_tag(found):
        return found
    ((name, written),) = found.items()
    if name.startswith(_MARK * 2):
        return {name[1:]: written}
    tag = _BY_NAME.get(name)
    if tag is None or not isinstance(written, tag.form):
        raise ValueError("there is a tag that is not known")
    return tag.read(written)


_decoder = json.JSONDecoder(object_hook=_untagged, parse_constant=refuse_constant)
