"""Values that JSON does not have: what TaggedJSONSerializer carries, and what a serializer of the app's may do."""

import json
import logging
import math
import pickle
import subprocess
import sys
from collections import namedtuple
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import hypothesis
import pytest
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from dynamodb_sessions import (
    ConfigurationError,
    CorruptRecord,
    DynamoDBSessionMiddleware,
    DynamoDBStore,
    JSONSerializer,
    MemoryStore,
    Record,
    StoreUnavailable,
    TaggedJSONSerializer,
    UnserializableValue,
    open_session,
)
from dynamodb_sessions.codec import MAX_DEPTH, encode_item, encode_items
from dynamodb_sessions.identifiers import new_id
from dynamodb_sessions.session.tracking import imprint
from dynamodb_sessions.stores import item_format
from dynamodb_sessions.stores.contract import SessionStore
from dynamodb_sessions.stores.value_format import PLAIN
from tests.conftest import KEY
from tests.helpers.asgi import Counting, an_app, browser, by_path, put
from tests.helpers.starlette_cookies import OLD_KEY, of_starlette

pytestmark = pytest.mark.anyio

TAGGED = TaggedJSONSerializer()
BERLIN = timezone(timedelta(hours=2))
EVERY_TYPE: dict[str, Any] = {
    "naive": datetime(2026, 6, 1, 12, 30, 0, 5),  # noqa: DTZ001 - it must come back so
    "aware": datetime(2026, 6, 1, 12, 30, tzinfo=BERLIN),
    "date": date(2026, 6, 1),
    "uuid": UUID(int=5),
    "decimal": Decimal("-1.10"),
    "bytes": b"\0\xff",
    "set": {1, "a", (1, frozenset({date(2026, 1, 1)}))},
    "frozenset": frozenset({1}),
    "tuple": (1, [2, (3, {"a": ()})]),
    "plain": {"a": [1, None, True, 0.5, "é"]},
    "like a tag": {" date": "2026-06-01"},
}


def alike(one: Any, other: Any) -> bool:
    """Whether two values are the same to the last type: 1 is not True, and a list is not a tuple."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(map(alike, one.values(), other.values()))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, set | frozenset):
        return len(one) == len(other) and all(any(alike(each, there) for there in other) for each in one)
    if isinstance(one, datetime):
        return bool(one.isoformat() == other.isoformat())  # Equal moments may have different zones.
    return repr(one) == repr(other)


_KEYS = st.sampled_from(["", " ", "  ", "a", " date", "  date", " tuple", " set", " unknown"])
_PLAIN = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3)
)
_ZONES = st.none() | st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(timezone)
_HASHABLE = st.recursive(
    _PLAIN
    | st.datetimes(timezones=_ZONES)
    | st.dates()
    | st.uuids()
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.binary(max_size=3),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=5,
)


def nested_in_json(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=2)


JSON_VALUES = st.recursive(_PLAIN, nested_in_json, max_leaves=8)
VALUES = st.recursive(
    _HASHABLE | st.sets(_HASHABLE, max_size=3),
    lambda inner: nested_in_json(inner) | st.tuples(inner) | st.tuples(inner, inner),
    max_leaves=8,
)
_few = hypothesis.settings(max_examples=100, deadline=None, database=None)


# What it carries.


@_few
@hypothesis.given(VALUES)
def test_a_value_comes_back_as_it_went(value: Any) -> None:
    text = encode_item("key", value, serializer=TAGGED)
    assert alike(TAGGED.loads(text), value)
    assert TAGGED.dumps(TAGGED.loads(text)) == text
    json.loads(text)  # Whoever knows no tags can read it all the same.


@_few
@hypothesis.given(JSON_VALUES)
def test_plain_json_is_written_and_read_as_before_whatever_it_looks_like(value: Any) -> None:
    text = JSONSerializer().dumps(value)
    assert alike(TAGGED.loads(text), value)
    assert TAGGED.dumps(value) == text


@pytest.mark.parametrize("value", EVERY_TYPE.values(), ids=EVERY_TYPE)
def test_every_type_comes_back(value: Any) -> None:
    assert alike(TAGGED.loads(TAGGED.dumps(value)), value)


@pytest.mark.parametrize("fold", [0, 1])
def test_a_time_zone_comes_back_as_its_offset(fold: int) -> None:
    """In an hour that comes twice, too, of which each comparison between zones says that it differs."""
    went = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=fold)
    back = TAGGED.loads(TAGGED.dumps(went))
    assert back.timestamp() == went.timestamp()
    assert back.tzinfo == timezone(timedelta(hours=2 - fold))


def test_equal_sets_have_equal_text() -> None:
    one, other = {0, 8}, {8, 0}
    assert list(one) != list(other)
    assert TAGGED.dumps(one) == TAGGED.dumps(other)
    assert TAGGED.dumps([frozenset(map(str, one))]) == TAGGED.dumps([frozenset(map(str, other))])


class Number(IntEnum):
    ONE = 1


class Day(date):
    pass


Point = namedtuple("Point", "x y")  # noqa: PYI024 - as apps have it


@pytest.mark.parametrize(
    ("value", "back"),
    [([Number.ONE, {1}], [1, {1}]), (Day(2026, 6, 1), date(2026, 6, 1)), (Point(1, 2), (1, 2))],
    ids=repr,
)
def test_a_subclass_is_stored_as_its_base_type(value: Any, back: Any) -> None:
    assert alike(TAGGED.loads(TAGGED.dumps(value)), back)


@pytest.mark.parametrize("value", [Number.ONE, Point(1, 2)], ids=repr)
def test_so_it_is_in_json(value: Any) -> None:
    back = JSONSerializer().loads(JSONSerializer().dumps(value))
    assert alike(back, 1 if value is Number.ONE else [1, 2])


class Colour(Enum):
    RED = 1


class Nanoseconds(datetime):
    """As pandas.Timestamp has them."""

    def isoformat(self, *args: Any, **kwargs: Any) -> str:
        return f"{super().isoformat(*args, **kwargs)}789"


def tuples(depth: int) -> Any:
    value: Any = ()
    for _ in range(depth - 1):
        value = (value,)
    return value


def cycle() -> Any:
    value: list[Any] = [date(2026, 6, 1)]
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "why"),
    [
        *((value, "Out of range float") for value in (math.nan, [-math.inf], {"a": (math.nan,)}, {math.inf})),
        *((Decimal(text), "finite") for text in ("NaN", "sNaN", "-Infinity")),
        *(
            (value, type(value).__name__)
            for value in (object(), time(1), timedelta(1), Colour.RED, 1j, bytearray(b"x"))
        ),
        (Nanoseconds(2026, 6, 1, 0, 0, 0, 1), "Nanoseconds"),
        *((value, "nested key") for value in ({1: "a"}, [({None: 1},)], {date(2026, 6, 1): 1})),
        *((value, "nested too deep") for value in (tuples(MAX_DEPTH // 2 + 1), cycle(), tuples(100_000))),
        *((value, "surrogate") for value in ("\ud800", {"\ud800"})),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isascii() else type(value).__name__,
)
def test_what_it_cannot_carry_is_refused_by_name(value: Any, why: str) -> None:
    with pytest.raises(UnserializableValue, match=rf"session\['the key'\].*{why}") as caught:
        encode_item("the key", value, serializer=TAGGED)
    assert caught.value.key == "the key"
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()


def test_it_may_be_nested_as_deep_as_json() -> None:
    deepest = tuples(MAX_DEPTH // 2)
    assert TAGGED.loads(TAGGED.dumps(deepest)) == deepest
    many = [{"a": [each]} for each in range(MAX_DEPTH)]
    assert TAGGED.dumps(many) == JSONSerializer().dumps(many)
    with pytest.raises(RecursionError):
        TAGGED.dumps(json.loads("[" * 257 + "]" * 257))


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "nul",
            "NaN",
            " NaN",
            ' {" date":"2026-13-01"}',
            ' {" date":1}',
            ' {" decimal":"x"}',
            ' {" bytes":"?"}',
        ),
        *(' {" uuid":"5"}', ' {" set":[[]]}', ' {" tuple":"ab"}', ' {" unknown":1}', " " + "[" * 100_000),
    ],
    ids=lambda text: text[:20],
)
def test_what_it_cannot_read_is_a_corrupt_record(text: str) -> None:
    record = Record(new_id(), {"good": "1", "bad": text}, 1, 2)
    with pytest.raises(CorruptRecord, match="'bad'"):
        record.content(TAGGED)


def test_who_does_not_use_it_imports_nothing_for_it() -> None:
    asked = "{'decimal', 'uuid', 'dynamodb_sessions.tagged_json'}"
    script = f"import sys, dynamodb_sessions; print({asked} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "set()\n"


# In a session.


async def test_a_request_and_open_session_carry_every_type(store: SessionStore) -> None:
    seen: dict[str, Any] = {}
    ids: list[str] = []

    def look(request: Request) -> Response:
        seen.update(request.session)
        ids.append(request.session.info.id)  # type: ignore[attr-defined]
        return Response()

    def fill(request: Request) -> Response:
        request.session.update(EVERY_TYPE)
        return Response()

    def change(request: Request) -> Response:
        request.session["set"].add(UUID(int=7))
        return Response()

    app = an_app(store, by_path(fill=fill, look=look, change=change), serializer=TAGGED)
    async with browser(app) as client:
        for path in ("fill", "change", "look"):
            await client.get(f"/{path}")
    expected = EVERY_TYPE | {"set": EVERY_TYPE["set"] | {UUID(int=7)}}
    assert alike(dict(sorted(seen.items())), dict(sorted(expected.items())))
    async with open_session(store, ids[0], serializer=TAGGED) as session:
        assert dict(session) == expected
        session["tuple"] = (session["date"],)
        assert await session.save()
        assert await session.reload()
        assert session["tuple"] == (date(2026, 6, 1),)


async def test_an_app_can_switch_it_on(store: SessionStore) -> None:
    """What was written as JSON is read, and only what changes is written anew."""
    name = new_id()
    async with open_session(store, name) as session:
        session.update({"like": {" date": "2026-06-01"}, "cart": [1], "n": 1})
    async with open_session(store, name, serializer=TAGGED) as session:
        assert session == {"like": {" date": "2026-06-01"}, "cart": [1], "n": 1}
        session["cart"].append((2,))
    record = await store.load(name, now=1)
    assert record is not None
    assert record.data == {"like": '{" date":"2026-06-01"}', "cart": ' [1,{" tuple":[2]}]', "n": "1"}
    assert record.content(serializer=TAGGED)["cart"] == [1, (2,)]


async def test_older_items_are_read_by_what_reads_json(moto_url: str, dynamodb: Any, table_name: str) -> None:
    store = DynamoDBStore(table_name, endpoint_url=moto_url, create_table=True)
    async with open_session(store, "makes the table"):
        pass
    item = {"session_id": {"S": "x"}, "user_data": {"S": '{"a": [1], "b": {" set": [1]}}'}}
    dynamodb.put_item(TableName=table_name, Item=item | {"created_at": {"N": "1"}, "ttl": {"N": str(2**33)}})
    async with open_session(store, "x", serializer=TAGGED) as session:
        assert session == {"a": [1], "b": {" set": [1]}}
        session["a"].append({2})
    stored = dynamodb.get_item(TableName=table_name, Key={"session_id": {"S": "x"}})["Item"]
    assert item_format.to_record("x", stored, PLAIN).data == {"a": ' [1,{" set":[2]}]', "b": '{" set":[1]}'}
    with pytest.raises(CorruptRecord, match=r"'[ab]'"):
        async with open_session(store, "x", serializer=Words()):
            pass


async def test_a_session_out_of_starlettes_cookie_is_stored_with_it() -> None:
    def look(request: Request) -> Response:
        return Response(repr(dict(request.session)))

    options = {"import_cookie": "session", "import_secret_key": OLD_KEY, "serializer": Words()}
    async with browser(an_app(MemoryStore(), look, **options)) as client:
        client.cookies.set("session", of_starlette({"user": "alice"}))
        for _ in range(2):
            assert (await client.get("/")).text == "{'user': ['alice']}"


@pytest.mark.parametrize("name", ["naive", "date", "uuid", "decimal", "bytes"])
async def test_a_read_of_what_cannot_change_compares_nothing(name: str) -> None:
    serializer = Counted()
    data = encode_items(EVERY_TYPE, TAGGED)
    store = MemoryStore()
    await store.create(Record("x", data, 1, 2**33), now=1)
    async with open_session(store, "x", serializer=serializer) as session:
        assert session[name] == EVERY_TYPE[name]
    assert serializer.written == []


# A serializer of one's own.


class Words:
    """Stores lists of words, and no JSON."""

    def dumps(self, value: Any) -> str:
        return " ".join(value if isinstance(value, list) else [value])

    def loads(self, text: str) -> Any:
        if not text.replace(" ", "").isalpha():
            raise ValueError(f"not words: {text}")
        return text.split()


class Counted:
    """Notes what it writes."""

    def __init__(self) -> None:
        self.written: list[Any] = []

    def dumps(self, value: Any) -> str:
        self.written.append(value)
        return TAGGED.dumps(value)

    def loads(self, text: str) -> Any:
        return TAGGED.loads(text)


@dataclass
class Cart:
    items: list[str] = field(default_factory=list)


class Carts:
    """Stores carts, each of which is an object that no one can see change."""

    def dumps(self, value: Cart) -> str:
        return ",".join(value.items)

    def loads(self, text: str) -> Cart:
        return Cart(text.split(",") if text else [])


class Failing:
    """Raises, or returns, what it is told to."""

    def __init__(self, made: Any) -> None:
        self.made = made

    def dumps(self, _: Any) -> str:
        if isinstance(self.made, Exception):
            raise self.made
        text: str = self.made
        return text

    def loads(self, _: str) -> Any:
        raise self.made


async def test_it_is_called_for_what_has_changed_only() -> None:
    serializer, store = Counted(), MemoryStore()
    async with open_session(store, "x", serializer=serializer) as session:
        session.update({"a": 1, "b": [2], "c": 3})
    assert serializer.written == [1, [2], 3]
    serializer.written.clear()
    async with open_session(store, "x", serializer=serializer) as session:
        assert session["b"] == [2]
        session["a"] = 5
    assert serializer.written == [5]


async def test_an_object_may_change_where_it_is(store: SessionStore) -> None:
    counting = Counting(store)

    def look(request: Request) -> Response:
        return PlainTextResponse(str(request.session["cart"].items))

    def add(request: Request) -> Response:
        request.session["cart"].items.append("apple")
        return Response()

    def stream(request: Request) -> Response:
        async def words() -> AsyncIterator[str]:
            yield "a"
            request.session["cart"].items.append("late")

        return StreamingResponse(words())

    fill = put(cart=Cart())
    app = an_app(
        counting,
        by_path(fill=lambda request: fill(request) or Response(), look=look, add=add, stream=stream),
        serializer=Carts(),
    )
    async with browser(app) as client:
        for path in ("fill", "look", "add", "stream"):
            await client.get(f"/{path}")
        assert counting.calls == ["create", "load", "load", "update", "load", "update"]
        assert (await client.get("/look")).text == "['apple', 'late']"


async def test_one_key_with_many_writers_is_changed_by_it(store: SessionStore) -> None:
    def add(content: dict[str, Any]) -> int:
        content.setdefault("seen", set()).add(date(2026, 6, 1 + len(content["seen"])))
        return len(content["seen"])

    name = new_id()
    async with (
        open_session(store, name, serializer=TAGGED) as session,
        open_session(store, name, serializer=TAGGED) as other,
    ):
        session["mine"] = (1,)
        assert [await each.atomically(add) for each in (session, other, session)] == [1, 2, 3]
        assert session == {"mine": (1,), "seen": {date(2026, 6, day) for day in (1, 2, 3)}}


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (ValueError("é\nx"), r"Failing\.dumps raised ValueError: \\xe9 x$"),
        (RecursionError(), "nested too deep for Failing"),
        (b"x", r"Failing\.dumps returned bytes, not str"),
        (None, r"Failing\.dumps returned NoneType, not str"),
        ("\ud800", r"Failing\.dumps returned a lone surrogate"),
    ],
    ids=repr,
)
async def test_what_its_dumps_does_wrong_names_the_key_and_nothing_is_stored(made: Any, why: str) -> None:
    counting = Counting(MemoryStore())
    with pytest.raises(UnserializableValue, match=why) as caught:
        async with open_session(counting, "x", serializer=Failing(made)) as session:  # type: ignore[arg-type]
            session["the key"] = 1
    assert caught.value.key == "the key"
    assert caught.value.__cause__ is (made if isinstance(made, ValueError) else None)
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()
    assert counting.calls == ["load"]


async def test_its_outage_is_an_outage() -> None:
    """Of a key service, say, that both ask."""
    store = MemoryStore()
    await store.create(Record("x", {"a": "1"}, 1, 2**33), now=1)
    app = an_app(store, put(a=1), serializer=Failing(StoreUnavailable("no keys")))
    async with browser(app) as client:
        assert (await client.get("/")).status_code == 503
    with pytest.raises(StoreUnavailable):
        async with open_session(store, "x", serializer=Failing(StoreUnavailable("no keys"))):
            pass


async def test_what_it_cannot_read_is_left_as_it_is(store: SessionStore, caplog: pytest.LogCaptureFixture) -> None:
    ids: list[str] = []

    def look(request: Request) -> Response:
        ids.append(request.session.info.id)  # type: ignore[attr-defined]
        return Response(str(len(request.session)))

    async with browser(an_app(store, by_path(put=put(a="s3cret"), look=look))) as client:
        await client.get("/put")
        await client.get("/look")
        before = await store.load(ids[0], now=1)
        other = an_app(store, by_path(look=look), serializer=Failing(ValueError("s3cret")))
        async with browser(other) as another:
            another.cookies = client.cookies
            with caplog.at_level(logging.WARNING):
                assert (await another.get("/look")).text == "0"
    assert await store.load(ids[0], now=1) == before
    assert "session['a'] cannot be read: Failing.loads raised ValueError" in caplog.text
    assert "s3cret" not in caplog.text
    with pytest.raises(CorruptRecord) as caught:
        async with open_session(store, ids[0], serializer=Failing(ValueError("s3cret"))):
            pass
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize(
    ("serializer", "given"),
    [
        (TaggedJSONSerializer, "the class TaggedJSONSerializer"),
        (JSONSerializer, "the class JSONSerializer"),
        ("json", "str"),
        (json.JSONEncoder(), "JSONEncoder"),
        (0, "int"),
    ],
    ids=["class", "default class", "str", "no loads", "falsy"],
)
async def test_what_is_no_serializer_is_refused(serializer: Any, given: str) -> None:
    with pytest.raises(ConfigurationError, match=f"serializer must be an object.*, not {given}$"):
        DynamoDBSessionMiddleware(lambda *_: None, KEY, store=MemoryStore(), serializer=serializer)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="serializer must be an object"):
        async with open_session(MemoryStore(), "x", serializer=serializer):
            pass


@pytest.mark.parametrize("serializer", [None, JSONSerializer(), json], ids=["none", "default", "module"])
async def test_json_is_json(serializer: Any) -> None:
    store = MemoryStore()
    async with open_session(store, "x", serializer=serializer) as session:
        session["a"] = {"b": 1}
    async with open_session(store, "x") as session:
        assert session == {"a": {"b": 1}}


def test_the_json_serializer_refuses_what_json_cannot_carry() -> None:
    for value in ({1}, math.nan, {1: 2}, json.loads("[" * 257 + "]" * 257)):
        with pytest.raises((TypeError, ValueError, RecursionError)):
            JSONSerializer().dumps(value)


async def test_pickles_bytes_are_refused() -> None:
    with pytest.raises(UnserializableValue, match="returned bytes, not str"):
        async with open_session(MemoryStore(), "x", serializer=pickle) as session:  # type: ignore[arg-type]
            session["a"] = 1


def test_sets_and_tuples_that_differ_have_different_imprints() -> None:
    values: list[Any] = [[1, 2], (1, 2), {1, 2}, frozenset((1, 2)), {1, 3}, b"x", "x", [b"x"], [{1}], [(1,)]]
    assert len({imprint(value) for value in values}) == len(values)
    assert imprint(datetime.now(tz=UTC)) is None
