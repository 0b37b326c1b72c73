"""Values of any size, packed into parts that fit into items."""

import os
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest

from dynamodb_sessions import CorruptRecord
from dynamodb_sessions.agents import parts
from dynamodb_sessions.agents.parts import PART_SIZE, PartsFormat
from dynamodb_sessions.stores.contract import MAX_RECORD_SIZE
from dynamodb_sessions.stores.value_format import PLAIN, ValueFormat

pytestmark = pytest.mark.anyio

KEY, OTHER = b"k" * 32, b"o" * 32
ENCRYPTING = ValueFormat(keys=[KEY])
NOISE = os.urandom(3 * PART_SIZE)
VALUES: dict[str, str | bytes] = {
    "empty text": "",
    "short text": "ü",
    "text that compresses": "x" * 500_000,
    "text that does not": NOISE[: PART_SIZE // 2 + 1].hex()[:1000],
    "no bytes": b"",
    "bytes that look compressed": b"\x78",
    "bytes that look encrypted": b"\x01" * 40,
    "just one part": NOISE[: PART_SIZE - 1 - 29],
    "just one too many": NOISE[:PART_SIZE],
    "many parts": NOISE,
    "a text of many parts": "".join(map(chr, range(0x4E00, 0x9E00))) * 40,
}


def encoded(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


def stored(format_: PartsFormat, value: str | bytes, name: str = "v") -> list[dict[str, Any]]:
    return format_.parts(format_.pack(value), name)


@pytest.mark.parametrize("values", [PLAIN, ENCRYPTING], ids=["plain", "encrypted"])
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_a_value_comes_back_as_it_went(value: str | bytes, values: ValueFormat) -> None:
    made = PartsFormat("p", values)
    packed = made.pack(value)
    held = made.parts(packed, "v")
    assert made.unpack(held, "v") == encoded(value)
    sizes = [len(encoded(next(iter(part.values())))) for part in held]
    assert (len(sizes), sum(sizes)) == (packed.count, packed.size)
    assert max(sizes) <= PART_SIZE


def test_a_short_text_can_be_read_in_the_table() -> None:
    assert stored(PartsFormat("p"), "hello") == [{"S": "hello"}]


@pytest.mark.parametrize("value", ["a secret", NOISE[:99], NOISE], ids=["text", "bytes", "parts"])
def test_what_is_encrypted_opens_in_its_place_with_its_key_as_it_was_stored(value: str | bytes) -> None:
    held = stored(PartsFormat("p", ENCRYPTING), value)
    assert encoded(value) not in b"".join(part["B"] for part in held)
    changed = [{"B": part["B"][:-1] + bytes([part["B"][-1] ^ 1])} for part in held]
    places = [("p", PLAIN), ("p", ValueFormat(keys=[OTHER])), ("q", ENCRYPTING)]
    for partition, values in places:
        with pytest.raises(CorruptRecord, match="no key fits"):
            PartsFormat(partition, values).unpack(held, "v")
    reordered = held[:1] + held[:0:-1]
    for other, name in ((held, "w"), (changed, "v"), (held[:-1] or changed, "v"), (reordered + changed, "v")):
        with pytest.raises(CorruptRecord, match="no key fits"):
            PartsFormat("p", ENCRYPTING).unpack(other, name)
    assert PartsFormat("p", ValueFormat(keys=[None, KEY])).unpack(held, "v") == encoded(value)


@pytest.mark.parametrize("held", [[{}], [{"N": "1"}], [{"B": b"xyz"}], [{"B": b"\x78\x9c"}], [{"S": "a"}, {"S": "b"}]])
def test_what_is_invalid_is_no_value(held: list[dict[str, Any]]) -> None:
    with pytest.raises((KeyError, ValueError)):
        PartsFormat("p").unpack(held, "v")


def test_a_few_bytes_do_not_become_gigabytes() -> None:
    held = stored(PartsFormat("p"), "x" * 5_000_000)
    with pytest.raises(ValueError, match="more than"):
        PartsFormat("p").unpack(held, "v", max_size=4_999_999)


def items_of(name: str, value: bytes, first: int) -> list[dict[str, Any]]:
    made = parts.split({"id": {"S": name}}, "v", stored(PartsFormat("p"), value))
    return [{**item, "at": {"N": str(at)}} for at, item in enumerate(made, first)]


async def gathered(items: Iterable[dict[str, Any]]) -> list[tuple[str, int, bool]]:
    async def found() -> AsyncIterator[dict[str, Any]]:
        for item in items:
            yield item

    def value_of(item: dict[str, Any]) -> int:
        return int(item["at"]["N"]) - parts.part_of(item)

    return [(group[0]["id"]["S"], len(group), whole) async for group, whole in parts.gather(found(), value_of)]


async def test_values_are_found_whole_in_either_order_and_a_missing_part_is_noticed() -> None:
    first, second, third = items_of("1", NOISE, 0), items_of("2", NOISE, 4), items_of("3", b"x", 8)
    assert [len(value) for value in (first, second, third)] == [4, 4, 1]
    assert parts.PARTS not in third[0]
    expected = [("1", 4, True), ("2", 4, True), ("3", 1, True)]
    assert await gathered(first + second + third) == expected
    assert await gathered((first + second + third)[::-1]) == expected[::-1]
    for missing in range(4):
        left = first[:missing] + first[missing + 1 :]
        assert await gathered(left + second) == [("1", 3, False), ("2", 4, True)]
        assert await gathered((second + left)[::-1]) == [("1", 3, False), ("2", 4, True)]
        assert await gathered(left) == [("1", 3, False)]
    assert await gathered(first[:2] + second[2:] + third) == [("1", 2, False), ("2", 2, False), ("3", 1, True)]
    third[0] |= {parts.PART: {"S": "x"}, parts.PARTS: {"N": "y"}}
    assert await gathered(third) == [("3", 1, True)]


async def test_nothing_more_is_read_than_a_value_takes() -> None:
    async def found() -> AsyncIterator[dict[str, Any]]:
        for item in items_of("1", NOISE, 0):
            yield item
        raise AssertionError

    async for items, whole in parts.gather(found(), lambda item: item["id"]["S"]):
        assert whole
        assert len(items) == 4
        break


def test_a_transaction_has_as_much_as_it_takes_and_no_part_of_a_value_without_the_others() -> None:
    values = [items_of(str(number), NOISE, 0) for number in range(5)]
    batches = [*parts.transactions(values)]
    assert [len(batch) for batch in batches] == [12, 8]
    assert all(sum(map(parts.item_size, batch)) <= parts.MAX_TRANSACTION_SIZE for batch in batches)
    small = [items_of(str(number), b"x", 0) for number in range(250)]
    assert [len(batch) for batch in parts.transactions(small)] == [100, 100, 50]
    assert [item["id"] for batch in parts.transactions(small) for item in batch] == [item[0]["id"] for item in small]
    assert [*parts.transactions([])] == []


def test_a_part_fits_into_an_item_with_the_longest_key() -> None:
    [first, *_] = items_of("x" * 2048, NOISE, 10**37)
    assert parts.item_size(first) < MAX_RECORD_SIZE
