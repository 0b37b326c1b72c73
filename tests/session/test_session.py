import copy
import json
import operator
import pickle
import secrets
from collections import ChainMap, OrderedDict
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import pytest

from dynamodb_sessions import ConfigurationError, CorruptRecord, Session, SessionError, UnserializableValue
from dynamodb_sessions.identifiers import new_id
from dynamodb_sessions.session import tracking
from dynamodb_sessions.session.session import make_session, state_of
from dynamodb_sessions.session.state import Response, SessionState
from dynamodb_sessions.stores.contract import Record


def a_session(data: dict[str, Any] | None = None, **options: Any) -> Session:
    given: dict[str, Any] = {"cart": [1], "name": "x", "deep": {"a": {"b": []}}} if data is None else data
    record = Record(new_id(), {key: json.dumps(value) for key, value in given.items()}, 100, 200, owner="acme/alice")
    return make_session(SessionState(record, **options))


def settle(session: Session, stored: dict[str, Any]) -> None:
    """As when a commit has stored this."""
    state = state_of(session)
    state.settle(state_of(a_session(stored)).record, asked=state.asked.count)


def test_it_is_a_dict() -> None:
    session = Session({"a": 1}, b=2)
    assert isinstance(session, dict)
    assert session == {"a": 1, "b": 2}
    assert session | {"c": 3} == {"a": 1, "b": 2, "c": 3}
    assert json.dumps(session) == '{"a": 1, "b": 2}'


@pytest.mark.parametrize(
    "change",
    [
        lambda session: session["cart"].append(2),
        lambda session: session["deep"]["a"]["b"].append(1),
        lambda session: session.__setitem__("name", "y"),
        lambda session: session.update(new=1),
        lambda session: session.pop("name"),
        lambda session: session.popitem(),
        lambda session: session.setdefault("new", []),
        lambda session: session.__ior__({"new": 1}),
        lambda session: session.__delitem__("name"),
        lambda session: session.clear(),
        lambda session: session.regenerate(),
        lambda session: session.bind("acme/bob"),
        lambda session: session.set_max_age(60),
        lambda session: session.set_max_age(None),
        lambda session: session.__setitem__("bad", object()),
    ],
)
def test_every_change_is_a_modification(change: Any) -> None:
    session = a_session()
    assert not session.modified
    change(session)
    assert session.modified
    assert session.accessed


@pytest.mark.parametrize(
    "look",
    [
        lambda session: session["name"],
        lambda session: session.get("nothing"),
        lambda session: "name" in session,
        len,
        bool,
        list,
        dict,
        reversed,
        repr,
        lambda session: session == {},
        lambda session: session.items(),
        lambda session: session.keys(),
        lambda session: session.values(),
        lambda session: session.copy(),
        lambda session: session | {},
        lambda session: {} | session,
        lambda session: session.pop("nothing", None),
        lambda session: session.setdefault("name", "other"),
        lambda session: session.update(name="x"),
        lambda session: session["cart"].extend([]),
    ],
)
def test_every_look_is_an_access_and_no_modification(look: Any) -> None:
    session = a_session()
    assert not session.accessed
    look(session)
    assert session.accessed
    assert not session.modified


def test_a_change_undone_is_none() -> None:
    session = a_session()
    session["name"] = "y"
    session["new"] = 1
    session["name"] = "x"
    del session["new"]
    assert not session.modified


def test_the_type_of_a_value_counts() -> None:
    session = a_session({"a": 1, "b": True})
    session["a"] = 1.0
    session["b"] = 1
    assert ({"a": "1.0", "b": "1"}, frozenset()) == state_of(session).delta(session)


def test_a_new_session_has_an_id_and_no_past() -> None:
    session = Session()
    assert session.info.is_new
    assert len(session.info.id) == 43
    assert session.info.id == session.info.id
    assert (session.info.created_at, session.info.expires_at, session.info.owner) == (None, None, None)


def test_a_stored_session_knows_its_past() -> None:
    session = a_session()
    record = state_of(session).record
    assert record is not None
    assert (record.id, False, 100, 200, "acme/alice") == (
        session.info.id,
        session.info.is_new,
        session.info.created_at,
        session.info.expires_at,
        session.info.owner,
    )


def test_the_id_after_a_rotation_is_the_one_to_come() -> None:
    for rotate in (Session.regenerate, Session.clear, lambda session: session.bind("o")):
        session = a_session()
        before = session.info.id
        rotate(session)
        assert before != session.info.id == session.info.id


def test_clear_forgets_the_owner_too() -> None:
    session = a_session()
    session.bind("acme/bob")
    session.set_max_age(5)
    session.clear()
    assert (session.info.owner, session.info.max_age) == (None, None)


@pytest.mark.parametrize("owner", ["", None, 1, b"x", "x" * 1025, "a\ud800"])
def test_an_owner_is_a_text_of_some_length(owner: Any) -> None:
    with pytest.raises(ConfigurationError, match="owner"):
        a_session().bind(owner)


@pytest.mark.parametrize("seconds", [0, -1, 1.5, True, "60"])
def test_a_lifetime_is_a_positive_whole_number(seconds: Any) -> None:
    with pytest.raises(ConfigurationError, match="max_age"):
        a_session().set_max_age(seconds)


def test_the_id_cannot_change_once_the_browser_cannot_be_told() -> None:
    session = a_session()
    state_of(session).response = Response.STARTED
    with pytest.raises(SessionError, match="response has started"):
        session.regenerate()
    with pytest.raises(SessionError, match="response has started"):
        session.bind("acme/bob")
    assert not session.modified


def test_a_copy_is_of_the_content() -> None:
    session = a_session()
    for again in (copy.copy(session), copy.deepcopy(session), pickle.loads(pickle.dumps(session))):
        assert isinstance(again, Session)
        assert again == session
        assert again.info.is_new


def test_what_apps_tell_starlettes_session_does_no_harm() -> None:
    session = a_session()
    session.modified = True
    session.mark_modified()
    session.mark_accessed()
    assert not session.modified
    assert session.accessed


def test_an_id_of_its_users_own_never_changes() -> None:
    session = make_session(SessionState(fixed_id="thread-1"))
    with pytest.raises(SessionError):
        session.regenerate()
    session.bind("acme/alice")
    session.clear()
    assert session.info.id == "thread-1"


@pytest.mark.anyio
async def test_a_session_of_no_store_cannot_be_saved() -> None:
    with pytest.raises(SessionError):
        await Session().save()


@pytest.mark.parametrize("stored", ["", "{", "[" * 100_000, "NaN"], ids=lambda stored: stored[:3])
def test_what_is_not_json_is_no_session(stored: str) -> None:
    with pytest.raises(CorruptRecord):
        make_session(SessionState(Record(new_id(), {"a": stored}, 1, 2)))


def test_ids_are_of_256_bits_and_differ() -> None:
    ids = {new_id() for _ in range(10_000)}
    assert len(ids) == 10_000
    assert {43} == {len(name) for name in ids}


def test_without_randomness_there_is_no_id(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int | None = None) -> bytes:
        raise OSError("no entropy")

    monkeypatch.setattr(secrets, "token_bytes", fail)
    with pytest.raises(OSError, match="no entropy"):
        new_id()


def test_no_repr_of_a_record_shows_its_id() -> None:
    session = a_session()
    assert session.info.id not in repr(state_of(session).record)


def matched(session: Session) -> Any:
    match session:
        case {"cart": cart}:
            return cart


def unpacked(**data: Any) -> Any:
    return data["cart"]


WAYS: dict[str, Callable[[Session], Any]] = {
    "[]": lambda session: session["cart"],
    "get": lambda session: session.get("cart"),
    "setdefault": lambda session: session.setdefault("cart", []),
    "values": lambda session: next(iter(session.values())),
    "items": lambda session: next(value for _, value in session.items()),
    "copy": lambda session: session.copy()["cart"],
    "dict": lambda session: dict(session)["cart"],
    "|": lambda session: (session | {})["cart"],
    "| of another": lambda session: ({} | session)["cart"],
    "**": lambda session: {**session}["cart"],
    "arguments": lambda session: unpacked(**session),
    "update of another": lambda session: update({}, session)["cart"],
    "copy.copy": lambda session: copy.copy(session)["cart"],
    "match": matched,
    "itemgetter": operator.itemgetter("cart"),
    "ChainMap": lambda session: ChainMap({}, session)["cart"],
}


def update(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    one.update(other)
    return one


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_whichever_way_a_nested_value_was_reached_its_change_counts(way: Callable[[Session], Any]) -> None:
    session = a_session({"cart": [1], "other": 2})
    cart = way(session)
    assert not session.modified
    cart.append(2)
    assert state_of(session).delta(session) == ({"cart": "[1,2]"}, frozenset())


class One(IntEnum):
    ONE = 1


PUTS: dict[str, Callable[[Session, Any], Any]] = {
    "[]": lambda session, cart: session.__setitem__("cart", cart),
    "setdefault": lambda session, cart: (session.pop("cart"), session.setdefault("cart", cart)),
    "update": lambda session, cart: session.update(cart=cart),
    "|=": lambda session, cart: session.__ior__({"cart": cart}),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_value_is_compared_with_what_is_stored_now_not_with_what_it_was_when_it_was_reached(
    way: Callable[[Session], Any],
) -> None:
    session = a_session({"cart": [1], "other": 2})
    cart = way(session)
    cart.append(2)
    state_of(session).settle(
        state_of(a_session({"cart": [1, 2], "other": 2})).record, asked=state_of(session).asked.count
    )
    assert not session.modified
    cart.pop()
    assert state_of(session).delta(session) == ({"cart": "[1]"}, frozenset())
    assert state_of(session).may_differ(session)


@pytest.mark.parametrize("put", PUTS.values(), ids=PUTS)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_what_was_put_in_counts_however_it_is_looked_at_before_and_after(
    way: Callable[[Session], Any], put: Callable[[Session, Any], Any]
) -> None:
    for looked_at in (False, True):
        session = a_session({"cart": [1]})
        if looked_at:
            way(session)
        put(session, [2])
        assert way(session) == [2]
        assert state_of(session).delta(session) == ({"cart": "[2]"}, frozenset())


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (True, "[true]"),
        (1.0, "[1.0]"),
        ("1", '["1"]'),
        (None, "[null]"),
        ([1], "[[1]]"),
        (OrderedDict(a=1), '[{"a":1}]'),
        (One.ONE, "[1]"),
    ],
)
def test_the_type_of_a_nested_value_counts(way: Callable[[Session], Any], value: Any, encoded: str) -> None:
    session = a_session({"cart": [1]})
    way(session)[0] = value
    assert state_of(session).delta(session) == ({} if encoded == "[1]" else {"cart": encoded}, frozenset())


def test_a_nested_value_that_is_no_json_is_a_change_that_cannot_be_stored() -> None:
    session = a_session({"cart": [1]})
    session["cart"].append(object())
    assert session.modified
    assert state_of(session).may_differ(session)
    with pytest.raises(UnserializableValue, match="cart"):
        state_of(session).delta(session)


def test_what_was_put_in_can_be_changed_after_it_was_stored() -> None:
    cart = [1]
    puts: list[Callable[[Session], Any]] = [
        lambda session: session.__setitem__("cart", cart),
        lambda session: session.setdefault("cart", cart),
        lambda session: session.update(cart=cart),
        lambda session: session.__ior__({"cart": cart}),
    ]
    for put in puts:
        session = a_session({"other": 2})
        put(session)
        state_of(session).settle(
            state_of(a_session({"other": 2, "cart": [1]})).record, asked=state_of(session).asked.count
        )
        assert not session.modified
        cart.append(2)
        assert state_of(session).delta(session) == ({"cart": "[1,2]"}, frozenset())
        cart.pop()


def test_what_goes_out_and_in_again_is_no_change() -> None:
    session = a_session({"cart": [1], "other": 2})
    session["cart"] = session.pop("cart")
    del session["other"]
    assert state_of(session).delta(session) == ({}, frozenset({"other"}))
    session["other"] = 2
    assert not session.modified


@pytest.mark.parametrize(
    "ask",
    [
        Session.clear,
        Session.regenerate,
        lambda session: session.bind("alice"),
        lambda session: session.set_max_age(7),
        Session.popitem,
        lambda session: (session.update(b=2), session.pop("a")),
        lambda session: session.__delitem__("a"),
        lambda session: session.__setitem__("a", 3),
    ],
)
def test_what_is_asked_for_while_it_is_being_saved_is_not_forgotten(ask: Callable[[Session], Any]) -> None:
    session = a_session({"a": 1, "b": 2})
    ask(session)
    session.accessed = False  # As when the response has started.
    assert state_of(session).may_differ(session)


ASKED: dict[str, Callable[[Session], Any]] = {
    "clear": Session.clear,
    "rotate": Session.regenerate,
    "bind": lambda session: session.bind("alice"),
    "lifetime": lambda session: session.set_max_age(7),
}


@pytest.mark.parametrize("later", ASKED)
@pytest.mark.parametrize("before", ASKED)
def test_of_what_is_asked_for_during_a_save_only_that_is_still_to_be_done(before: str, later: str) -> None:
    session = a_session({"a": 1})
    ASKED[before](session)
    asked, record = state_of(session).asked.count, state_of(a_session({"b": 1})).record
    ASKED[later](session)
    state_of(session).settle(record, asked=asked)
    expected = {later} | ({"rotate"} if later == "bind" else set())
    assert {name for name in ASKED if getattr(state_of(session).asked, name)} == expected
    assert state_of(session).may_differ(session)
    assert record is not None
    assert (session.info.id == record.id) == (later == "lifetime")
    state_of(session).settle(record, asked=state_of(session).asked.count)
    assert not state_of(session).asked.is_pending
    assert session.info.id == record.id


def test_two_threads_that_reach_for_a_value_first_at_once_lose_no_change(monkeypatch: pytest.MonkeyPatch) -> None:
    session = a_session({"cart": [1]})
    imprint = tracking.imprint

    def interrupted(value: Any) -> bytes | None:
        monkeypatch.setattr(tracking, "imprint", imprint)
        session["cart"].append(2)  # The other thread.
        return imprint(value)

    monkeypatch.setattr(tracking, "imprint", interrupted)
    assert session["cart"] == [1, 2]
    assert state_of(session).delta(session) == ({"cart": "[1,2]"}, frozenset())


def test_a_value_that_has_come_to_contain_itself_is_named_and_soon() -> None:
    session = a_session({"tree": {"children": []}})
    tree = session["tree"]
    tree["children"] = [{"parent": tree}, {"parent": tree}]
    assert state_of(session).may_differ(session)
    assert session.modified
    with pytest.raises(UnserializableValue, match="'tree'"):
        state_of(session).delta(session)


def test_one_that_is_due_tells_once_that_it_is_used() -> None:
    told: list[bool] = []
    session = a_session({"a": 1})
    state_of(session).on_use = lambda: told.append(session.accessed)
    session.accessed = False
    session.mark_accessed()
    assert session.info.owner == "acme/alice"
    assert told == []
    assert session["a"] == session.get("a") == 1
    assert told == [True]
