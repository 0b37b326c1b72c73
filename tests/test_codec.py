import datetime
from enum import Enum
from typing import Any

import pytest

from dynamodb_sessions import UnserializableValue
from dynamodb_sessions.codec import MAX_DEPTH, decode, decode_items, encode_item, same


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        *(0, -1, 2**70, 1.0, 0.1, 1e300, -0.0, True, False, None, "", "x", "é😀\u2028\0"),
        *([], {}, [1, [2.0, {"": None}]], {"a": {"b": [True, ""]}}),
        nested(MAX_DEPTH),
    ],
    ids=repr,
)
def test_a_value_comes_back_as_it_went(value: object) -> None:
    back = decode(encode_item("key", value))
    assert repr(value) == repr(back)


def test_a_tuple_comes_back_as_a_list() -> None:
    assert decode(encode_item("key", (1, (2,)))) == [1, [2]]


def cycle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


class Colour(Enum):
    RED = 1


@pytest.mark.parametrize(
    "value",
    [
        *(b"x", {1}, datetime.datetime.now(tz=datetime.UTC), object(), Colour.RED, 1j),
        *(float("nan"), float("inf"), "\ud800", ["\udfff"], {"\ud800": 1}),
        *({1: "a"}, {None: 1}, {"a": [{True: 1}]}, [(1, {2: 3})]),
        *(cycle(), nested(MAX_DEPTH + 1), nested(900), nested(100_000)),
        [{"a": nested(MAX_DEPTH)}],
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_json_cannot_carry_there_and_back_is_refused_by_name(value: object) -> None:
    with pytest.raises(UnserializableValue, match=r"session\['the key'\]") as caught:
        encode_item("the key", value)
    assert caught.value.key == "the key"


@pytest.mark.parametrize("key", ["", 1, None, b"x", ("a",), "\ud800"], ids=repr)
def test_a_key_must_be_a_non_empty_text(key: object) -> None:
    with pytest.raises(UnserializableValue) as caught:
        encode_item(key, "value")
    assert key == caught.value.key


def test_an_error_message_is_one_line_of_ascii() -> None:
    with pytest.raises(UnserializableValue) as caught:
        encode_item("a\r\n\x1b[31mé", object())
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", ["", "{", "NaN", "-Infinity", "[" * 100_000, "'x'"], ids=lambda text: text[:9])
def test_what_is_not_json_is_not_decoded(text: str) -> None:
    with pytest.raises((ValueError, RecursionError)):
        decode(text)


def test_the_same_value_spelled_differently_is_the_same() -> None:
    assert same('{"a":[1,2]}', '{"a": [1, 2]}')
    assert same("[1e-07,100.0]", "[1e-7,1E2]")  # As JavaScript has it, and others.
    assert not same('"more"', "1e400")
    assert not same('"more"', "[" * 100_000)
    assert not same('{"a":[1,2]}', '{"a":[1,2.0]}')
    assert not same("1", "true")


def test_another_writers_white_space_is_none_of_the_value() -> None:
    assert decode_items({"a": ' [1, "x"]', "b": "\n2 ", "c": "3"}) == {"a": [1, "x"], "b": 2, "c": 3}


@pytest.mark.parametrize(
    "items",
    [
        {"a": "[1", "b": "2],3"},
        {"a": "1,2", "b": '"x', "c": 'y"'},
        {"a": "1],[2", "b": "[[3", "c": "4]]"},
        *({"a": text} for text in ("", " ", "1 2", "1,2", "NaN", "-Infinity", "{", "nul", "\ufeff1")),
    ],
    ids=repr,
)
def test_entries_that_are_not_each_one_json_value_are_refused(items: dict[str, str]) -> None:
    """Nothing of one entry may be read as a part of the next."""
    with pytest.raises(ValueError):  # noqa: PT011 - in whatever words json has for it
        decode_items(items)


@pytest.mark.parametrize(
    ("value", "known", "expected"),
    [
        (5, "5", "5"),
        (5, "4", "5"),
        (5, "5.0", "5"),
        (5, "05", "5"),
        (5, " 5", " 5"),
        (0, "-0", "-0"),
        (-5, "5", "-5"),
        (1, "true", "1"),
        (True, "1", "true"),
        (10**30, str(10**30), str(10**30)),
    ],
)
def test_a_number_is_known_by_its_value_and_its_kind(value: object, known: str, expected: str) -> None:
    assert encode_item("n", value, known=known) == expected
