"""Values of any size: compressed where they gain by it, encrypted where there is a key, and split to fit into items.

A value that fits into one item is stored as `value_format` says. One that does not is cut into parts, an item each;
each has the attributes `part` (N, from 0 on) and `parts` (N, how many there are). Joined, they are bytes, whose first
one tells what they are, as `value_format` says, and one more: 0x00 is followed by the value as it is.

It makes no calls. `transactions` says what can be written together; whoever needs more than that for one value writes
what refers to it last.
"""

import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from dynamodb_sessions.exceptions import CorruptRecord
from dynamodb_sessions.stores import item_format
from dynamodb_sessions.stores.contract import MAX_RECORD_SIZE
from dynamodb_sessions.stores.value_format import ENCRYPTED, PLAIN, ValueFormat, as_bytes, inflate

MAX_TRANSACTION_ITEMS = 100
MAX_TRANSACTION_SIZE = 4_000_000
"""Bytes. Source: DynamoDB's service quotas, "Transactions": 4 MB, of which the requests' own text takes a little."""

PART_SIZE = MAX_RECORD_SIZE - 4096
"""Bytes of a value in one item. The rest is for its key, of at most 2048, and its other attributes."""

MAX_UNPACKED = 10 * MAX_TRANSACTION_SIZE
"""Bytes of one value, uncompressed, that are read unless somebody says otherwise: a few bytes may claim to be more."""

PART = "part"
PARTS = "parts"

_COMPRESS_OVER = 1024
_AS_IT_IS = b"\x00"


@dataclass(frozen=True, slots=True)
class Packed:
    """A value that is compressed, if that makes it smaller, and not yet encrypted."""

    held: dict[str, Any] = field(repr=False)
    size: int
    """Bytes that are stored of it, encryption included."""

    @property
    def count(self) -> int:
        """How many parts it takes."""
        return max(1, -(-self.size // PART_SIZE))


class PartsFormat:
    """Packs the values of one partition, such as a conversation, into parts, and unpacks them.

    `partition` is its key: encrypted values are valid in this partition only, and under their name. A value of more
    than `compress_over` bytes is compressed if it gains by it.
    """

    __slots__ = ("_cipher", "_compress_over", "_overhead")

    def __init__(self, partition: str, values: ValueFormat = PLAIN, *, compress_over: int = _COMPRESS_OVER) -> None:
        self._compress_over = compress_over
        self._cipher = values.cipher_of(partition)
        self._overhead = values.overhead

    def pack(self, value: str | bytes) -> Packed:
        """Compress a value. Text that is stored as it is can be read in the table; bytes cannot."""
        encoded = value.encode() if isinstance(value, str) else value
        held: dict[str, Any] = {"S": value} if isinstance(value, str) else {"B": _AS_IT_IS + encoded}
        if len(encoded) > self._compress_over:
            compressed = zlib.compress(encoded)
            if len(compressed) < len(encoded):
                return Packed({"B": compressed}, len(compressed) + self._overhead)
        if len(encoded) + self._overhead > PART_SIZE:
            held = {"B": _AS_IT_IS + encoded}
        return Packed(held, len(encoded) + ("B" in held) + self._overhead)

    def parts(self, packed: Packed, name: str) -> list[dict[str, Any]]:
        """Return what holds the parts of a value, in their order. It can be unpacked under this name only."""
        held = packed.held
        if self._cipher is not None and self._overhead:
            held = {"B": self._cipher.encrypt(name, held)}
        if packed.count == 1:
            return [held]
        return [{"B": held["B"][start : start + PART_SIZE]} for start in range(0, packed.size, PART_SIZE)]

    def unpack(self, parts: Sequence[dict[str, Any]], name: str, *, max_size: int = MAX_UNPACKED) -> bytes:
        """Return the value that these parts hold, all of them, in their order.

        Raises CorruptRecord if no key opens it; KeyError, TypeError or ValueError if it is invalid, or has more than
        `max_size` bytes.
        """
        if len(parts) == 1 and "S" in parts[0]:
            return _encoded(parts[0]["S"])
        stored = b"".join(as_bytes(part["B"]) for part in parts)
        if stored[:1] in ENCRYPTED:
            opened = None if self._cipher is None else self._cipher.decrypt(name, stored)
            if opened is None:
                raise CorruptRecord("a stored value is encrypted, and no key fits, or it was changed or moved here")
            if "S" in opened:
                return _encoded(opened["S"])
            stored = opened["B"]
        return stored[1:] if stored[:1] == _AS_IT_IS else inflate(stored, max_size)


def _encoded(text: str) -> bytes:
    return text.encode()


def split(item: dict[str, Any], attribute: str, parts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return an item for each part of a value: this one, with the part in that attribute. Their keys are to be set."""
    if len(parts) == 1:
        return [{**item, attribute: parts[0]}]
    count = item_format.number(len(parts))
    return [
        {**item, attribute: part, PART: item_format.number(number), PARTS: count} for number, part in enumerate(parts)
    ]


def part_of(item: dict[str, Any]) -> int:
    """Return the number of the part that an item has, from 0 on; 0 for a whole value."""
    return _number(item, PART, 0)


def _number(item: dict[str, Any], attribute: str, default: int) -> int:
    """Return a number, or what stands in for one that is missing or invalid: unpacking tells."""
    try:
        return int(item[attribute]["N"])
    except (KeyError, TypeError, ValueError):
        return default


async def gather(
    found: AsyncIterator[dict[str, Any]], value_of: Callable[[dict[str, Any]], Hashable]
) -> AsyncGenerator[tuple[list[dict[str, Any]], bool], None]:
    """Yield the items of each value, in the order of its parts, and whether none is missing.

    The parts of a value follow each other in what is found, in either order; `value_of` says which value an item is of.
    Nothing more than a value is read before it is yielded.
    """
    items: list[dict[str, Any]] = []
    value: Hashable = None
    async for item in found:
        if PARTS not in item and not items:  # As most are.
            yield [item], True
            continue
        if items and value_of(item) != value:
            yield sorted(items, key=part_of), False
            items = []
        value = value_of(item)
        items.append(item)
        if len(items) == _number(item, PARTS, 1):
            yield sorted(items, key=part_of), True
            items = []
    if items:
        yield sorted(items, key=part_of), False


def item_size(item: dict[str, Any]) -> int:
    """Return the bytes that DynamoDB counts for an item of texts, numbers and bytes, or a few more."""
    values = (next(iter(value.values())) for value in item.values())
    return sum(
        len(name) + len(value.encode() if isinstance(value, str) else value)
        for name, value in zip(item, values, strict=True)
    )


def transactions(values: Iterable[Sequence[dict[str, Any]]]) -> Iterator[list[dict[str, Any]]]:
    """Yield the items of the values in their order, as many at a time as one transaction takes.

    Those of one value stay together: none may have more than a transaction takes.
    """
    made = [*values]
    for batch in fit((len(items), sum(map(item_size, items))) for items in made):
        yield [item for items in made[batch] for item in items]


def fit(sizes: Iterable[tuple[int, int]], *, max_items: int = MAX_TRANSACTION_ITEMS) -> Iterator[slice]:
    """Yield which values fit into one transaction, and which into the next. `sizes`: of each, how many items and bytes.

    What is more than a transaction takes has one of its own.
    """
    start, items, size = 0, 0, 0
    end = 0
    for end, (more_items, more_size) in enumerate(sizes):
        if items and (items + more_items > max_items or size + more_size > MAX_TRANSACTION_SIZE):
            yield slice(start, end)
            start, items, size = end, 0, 0
        items += more_items
        size += more_size
    if items:
        yield slice(start, end + 1)
