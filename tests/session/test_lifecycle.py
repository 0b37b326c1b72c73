"""The decision, as a table, and `open_session`."""

import logging
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from dynamodb_sessions import (
    ConfigurationError,
    MemoryStore,
    Session,
    SessionError,
    UnserializableValue,
    open_session,
)
from dynamodb_sessions.identifiers import new_id
from dynamodb_sessions.session.commit import commit
from dynamodb_sessions.session.lifetimes import BROWSER_SESSION_AGE, Lifetimes
from dynamodb_sessions.session.save_policy import Action, Create, Delete, Empty, Nothing, Rotate, Touch, Update, decide
from dynamodb_sessions.session.session import make_session, state_of
from dynamodb_sessions.session.state import SessionState
from dynamodb_sessions.stores.contract import Changes, Record, SessionStore
from tests.conftest import Clock

NOW = 1_800_000_000
LIFETIMES = Lifetimes(max_age=1000)
PRESENTED = new_id()


def stored(age: int = 0, **attributes: Any) -> Session:
    """A session last written `age` seconds ago."""
    given = {"created_at": NOW - age, "expires_at": NOW - age + 1000} | attributes
    return make_session(SessionState(Record(new_id(), {"a": "1", "b": "[1]"}, **given)))


def new() -> Session:
    return Session()


def dead() -> Session:
    """What the client presented is not there any more."""
    return make_session(SessionState(presented_id=PRESENTED))


def nothing(_: Session) -> None:
    pass


def read(session: Session) -> None:
    session.get("a")


def change(session: Session) -> None:
    session["a"] = 2


def append(session: Session) -> None:
    session["b"].append(2)


def empty(session: Session) -> None:
    for key in list(session):
        del session[key]


def clear_and_fill(session: Session) -> None:
    session.clear()
    session["a"] = 2


def bind(session: Session) -> None:
    session.bind("acme/alice")


def bind_emptied(session: Session) -> None:
    empty(session)
    bind(session)


def regenerate_emptied(session: Session) -> None:
    empty(session)
    session.regenerate()


def forever(session: Session) -> None:
    session.set_max_age(10_000)


def ended(session: Session) -> None:
    session["a"] = 2
    state_of(session).end()


def ended_and_cleared(session: Session) -> None:
    ended(session)
    clear_and_fill(session)


@pytest.mark.parametrize(
    ("session", "act", "succeeds", "fails"),
    [
        (new, nothing, Nothing, Nothing),
        (new, read, Nothing, Nothing),
        (new, change, Create, Nothing),
        (new, bind, Create, Nothing),
        (new, forever, Nothing, Nothing),
        (new, Session.clear, Nothing, Nothing),
        (new, Session.regenerate, Nothing, Nothing),
        (new, clear_and_fill, Create, Nothing),
        (dead, nothing, Nothing, Nothing),
        (dead, read, Nothing, Nothing),
        (dead, change, Create, Nothing),
        (dead, Session.clear, Delete, Delete),
        (dead, clear_and_fill, Create, Delete),
        (stored, nothing, Nothing, Nothing),
        (stored, read, Nothing, Nothing),
        (stored, change, Update, Nothing),
        (stored, append, Update, Nothing),
        (stored, forever, Update, Nothing),
        (stored, empty, Empty, Nothing),
        (stored, Session.clear, Delete, Delete),
        (stored, clear_and_fill, Create, Delete),
        (stored, Session.regenerate, Rotate, Nothing),
        (stored, bind, Rotate, Nothing),
        (stored, bind_emptied, Rotate, Nothing),
        (stored, regenerate_emptied, Empty, Nothing),
        (stored, ended, Nothing, Nothing),
        (stored, ended_and_cleared, Create, Delete),
        (lambda: stored(99), read, Nothing, Nothing),
        (lambda: stored(100), nothing, Nothing, Nothing),
        (lambda: stored(100), read, Touch, Nothing),
        (lambda: stored(100), change, Update, Nothing),
    ],
)
def test_the_decision(
    session: Callable[[], Session], act: Callable[[Session], None], succeeds: type[Action], fails: type[Action]
) -> None:
    for failed, expected in ((False, succeeds), (True, fails)):
        held = session()
        act(held)
        assert expected is type(decide(held, LIFETIMES, NOW, failed=failed))


def decided(session: Session, lifetimes: Lifetimes = LIFETIMES, now: int = NOW, **options: bool) -> Any:
    return decide(session, lifetimes, now, **options)


def test_a_created_session_lives_from_now() -> None:
    session = new()
    session.update(a=1)
    bind(session)
    action = decided(session)
    assert isinstance(action, Create)
    born, handle = action.record.born, action.record.handle
    assert born is not None
    assert handle is not None
    login: Any = {"owner": "acme/alice", "handle": handle, "authenticated_at": NOW}
    assert Create(Record(session.info.id, {"a": "1"}, NOW, NOW + 1000, born=born, **login)) == action
    assert decided(session) != action, "each creation has a mark of its own"


def test_what_was_cleared_is_replaced_by_what_was_put_in_after() -> None:
    session = stored(owner="acme/alice", max_age=50)
    old = session.info.id
    clear_and_fill(session)
    action = decided(session)
    assert isinstance(action, Create)
    assert Create(Record(session.info.id, {"a": "2"}, NOW, NOW + 1000, born=action.record.born), replaces=old) == action
    assert old != session.info.id


def test_an_update_carries_what_changed_and_nothing_else() -> None:
    session = stored(10)
    append(session)
    del session["a"]
    changes = decided(session).changes
    assert ({"b": "[1,2]"}, frozenset({"a"}), None, None, NOW + 1000) == (
        changes.set,
        changes.remove,
        changes.owner,
        changes.max_age,
        changes.expires_at,
    )


def test_a_lifetime_of_its_own_is_the_one_that_counts() -> None:
    session = stored()
    forever(session)
    action = decided(session)
    assert (action.changes.max_age, action.changes.expires_at) == (10_000, NOW + 10_000)
    session = stored(max_age=10_000)
    session.set_max_age(None)
    action = decided(session)
    assert (action.changes.max_age, action.changes.expires_at) == (0, NOW + 1000)


def test_the_absolute_lifetime_is_never_passed() -> None:
    lifetimes = Lifetimes(max_age=1000, absolute_max_age=1500)
    session = stored(600, expires_at=NOW + 400)
    change(session)
    assert decided(session, lifetimes).changes.expires_at == NOW + 900
    session = stored(600, expires_at=NOW + 400)
    session.regenerate()
    assert decided(session, lifetimes).changes.expires_at == NOW + 900
    assert not lifetimes.is_over(Record("x", {}, NOW - 1499, NOW + 1000), NOW)
    assert lifetimes.is_over(Record("x", {}, NOW - 1500, NOW + 1000), NOW)


def test_a_session_at_its_absolute_end_is_not_touched_in_vain() -> None:
    session = stored(900, expires_at=NOW + 100)
    read(session)
    assert Nothing is type(decided(session, Lifetimes(max_age=1000, absolute_max_age=1000)))


def test_touch_after_zero_is_every_request() -> None:
    session = stored()
    read(session)
    assert Touch is type(decided(session, Lifetimes(max_age=1000, touch_after=0)))


def test_touch_after_counts_seconds_since_the_expiry_was_written() -> None:
    lifetimes = Lifetimes(max_age=1000, touch_after=300)
    for age, expected in ((299, Nothing), (300, Touch)):
        session = stored(age)
        read(session)
        assert expected is type(decided(session, lifetimes))


def test_reading_for_one_lifetime_takes_at_most_ten_touches() -> None:
    session, touches = stored(), 0
    for second in range(1, 1001):
        read(session)
        action = decided(session, now=NOW + second)
        if isinstance(action, Touch):
            touches += 1
            state_of(session).settle(action.changes.apply(action.record), asked=state_of(session).asked.count)
    assert touches == 10


def test_without_max_age_the_store_keeps_it_two_weeks_and_the_browser_until_it_closes() -> None:
    lifetimes = Lifetimes(max_age=None)
    assert lifetimes.expires_at(NOW, created_at=NOW, own=None) == NOW + BROWSER_SESSION_AGE
    assert lifetimes.cookie_expires_at(Record("x", {}, NOW, NOW + 50), NOW, extends=True) is None
    assert lifetimes.cookie_expires_at(Record("x", {}, NOW, NOW + 50, max_age=50), NOW, extends=True) == NOW + 50


def test_no_cookie_is_to_be_kept_for_longer_than_browsers_keep_any() -> None:
    lifetimes, year = Lifetimes(max_age=10**9), 365 * 24 * 60 * 60
    record = Record("x", {}, NOW, NOW + 10**9)
    for extends in (True, False):
        told = lifetimes.cookie_expires_at(record, NOW, extends=extends)
        assert told is not None
        assert NOW + year < told < NOW + 2 * year
        assert not lifetimes.is_cookie_due(record, told, NOW, extends=extends)


@pytest.mark.parametrize("max_age", [1, 9, 19, 59, 99, 1000])
def test_no_lifetime_takes_more_than_ten_touches(max_age: int) -> None:
    lifetimes = Lifetimes(max_age)
    record, touches = Record(new_id(), {}, NOW, NOW + max_age), 0
    for second in range(1, max_age + 1):
        if lifetimes.wants_touch(record, NOW + second + max_age):
            touches += 1
            record = Record(record.id, {}, NOW, NOW + second + max_age)
    assert touches <= 10


def test_a_session_that_is_in_use_does_not_end_for_want_of_touches() -> None:
    with pytest.raises(ConfigurationError, match="touch_after"):
        Lifetimes(max_age=60, touch_after=60)
    short = Record(new_id(), {}, NOW, NOW + 10, max_age=10)
    assert Lifetimes(max_age=100, touch_after=50).wants_touch(short, NOW + 11)


@pytest.mark.parametrize("seconds", [0, -1, 1.5, True, "60", 10**20])
@pytest.mark.parametrize("name", ["max_age", "absolute_max_age", "touch_after"])
def test_lifetimes_are_whole_positive_seconds(name: str, seconds: Any) -> None:
    if (name, seconds) == ("touch_after", 0):
        return
    with pytest.raises(ConfigurationError, match=name):
        Lifetimes(**{"max_age": 10, name: seconds})


@pytest.mark.anyio
class TestOpenSession:
    async def test_it_loads_or_begins_under_the_given_id(self, store: SessionStore) -> None:
        async with open_session(store, "thread-123", max_age=86400) as session:
            assert session.info.is_new
            session["state"] = {"step": 1, "score": 1.0, "none": None, "empty": ""}
        async with open_session(store, "thread-123", max_age=86400) as session:
            assert not session.info.is_new
            assert session == {"state": {"step": 1, "score": 1.0, "none": None, "empty": ""}}
            assert isinstance(session["state"]["score"], float)
            assert session.info.id == "thread-123"

    async def test_two_that_create_it_at_once_both_keep_theirs(self, store: SessionStore) -> None:
        async with open_session(store, "thread-1") as first, open_session(store, "thread-1") as second:
            first["first"] = 1
            second["second"] = 2
            second.bind("acme/alice")
        async with open_session(store, "thread-1") as session:
            assert session == {"first": 1, "second": 2}
            assert session.info.owner == "acme/alice"

    async def test_an_error_leaves_everything_as_it_was(self, store: SessionStore) -> None:
        async with open_session(store, "thread-1") as session:
            session["a"] = 1
        with pytest.raises(RuntimeError, match="oh"):
            async with open_session(store, "thread-1") as session:
                session.clear()
                raise RuntimeError("oh")
        async with open_session(store, "thread-1") as session:
            assert session == {"a": 1}

    async def test_save_stores_at_once(self, store: SessionStore) -> None:
        async with open_session(store, "thread-1") as session:
            session["a"] = 1
            assert await session.save()
            async with open_session(store, "thread-1") as other:
                assert other == {"a": 1}
            session["a"] = 2
        async with open_session(store, "thread-1") as session:
            assert session == {"a": 2}

    async def test_emptied_it_is_deleted_and_refilled_it_is_the_same_session(self, store: SessionStore) -> None:
        async with open_session(store, "thread-1") as session:
            session.update(a=1, b=2)
        async with open_session(store, "thread-1") as session:
            session.clear()
            session["c"] = 3
        async with open_session(store, "thread-1") as session:
            assert session == {"c": 3}
            session.clear()
        async with open_session(store, "thread-1") as session:
            assert session.info.is_new

    async def test_one_that_was_deleted_meanwhile_does_not_come_back(self, store: SessionStore) -> None:
        async with open_session(store, "thread-1") as session:
            session["a"] = 1
        with pytest.raises(SessionError, match="deleted"):
            async with open_session(store, "thread-1") as session:
                await store.delete("thread-1")
                session["a"] = 2
        async with open_session(store, "thread-1") as session:
            assert session.info.is_new

    async def test_one_that_was_created_again_meanwhile_is_another(self, store: SessionStore, clock: Clock) -> None:
        async with open_session(store, "thread-1") as session:
            session["a"] = 1
        with pytest.raises(SessionError, match="deleted"):
            async with open_session(store, "thread-1") as session:
                await store.delete("thread-1")
                clock.now += 1
                async with open_session(store, "thread-1") as other:
                    other["new"] = 1
                session["late"] = 2
        async with open_session(store, "thread-1") as session:
            assert session == {"new": 1}

    async def test_emptied_by_one_it_keeps_what_another_has_added(self, store: SessionStore) -> None:
        async with open_session(store, "thread-1") as session:
            session["a"] = 1
        async with open_session(store, "thread-1") as session:
            async with open_session(store, "thread-1") as other:
                other["b"] = 2
            session.clear()
        async with open_session(store, "thread-1") as session:
            assert session == {"b": 2}

    async def test_saves_at_once_are_one_after_the_other(self, store: SessionStore) -> None:
        async def put(session: Session, key: str) -> None:
            session[key] = 1
            assert await session.save()

        async with open_session(store, "thread-1") as session, anyio.create_task_group() as group:
            for key in "abc":
                group.start_soon(put, session, key)
        async with open_session(store, "thread-1") as session:
            assert session == {"a": 1, "b": 1, "c": 1}

    async def test_one_that_was_only_read_may_be_deleted_meanwhile(self, store: SessionStore, clock: Clock) -> None:
        async with open_session(store, "thread-1", max_age=100) as session:
            session["a"] = 1
        clock.now += 50
        async with open_session(store, "thread-1", max_age=100) as session:
            await store.delete("thread-1")
            assert session["a"] == 1
        async with open_session(store, "thread-1", max_age=100) as session:
            assert session.info.is_new

    async def test_what_cannot_be_stored_is_refused_and_nothing_is_sent(self, store: SessionStore) -> None:
        with pytest.raises(UnserializableValue, match="bad"):
            async with open_session(store, "thread-1") as session:
                session.update(good=1, bad=object())
        async with open_session(store, "thread-1") as session:
            assert session.info.is_new

    async def test_it_slides_and_ends(self, store: SessionStore, clock: Clock) -> None:
        async with open_session(store, "thread-1", max_age=100) as session:
            session["a"] = 1
        clock.now += 99
        async with open_session(store, "thread-1", max_age=100) as session:
            assert session == {"a": 1}
        clock.now += 99
        async with open_session(store, "thread-1", max_age=100) as session:
            assert not session.info.is_new
        clock.now += 100
        async with open_session(store, "thread-1", max_age=100) as session:
            assert session.info.is_new

    async def test_past_its_absolute_lifetime_it_begins_anew(self, store: SessionStore, clock: Clock) -> None:
        async with open_session(store, "thread-1", max_age=1000) as session:
            session["a"] = 1
        clock.now += 500
        async with open_session(store, "thread-1", max_age=1000, absolute_max_age=500) as session:
            assert session.info.is_new
            session["b"] = 2
        async with open_session(store, "thread-1", max_age=1000, absolute_max_age=500) as session:
            assert session == {"b": 2}
            assert clock.now == session.info.created_at

    @pytest.mark.parametrize("name", ["", None, 7, "x" * 2049, "th\ud800"])
    async def test_an_id_is_a_text_of_some_length(self, name: Any) -> None:
        with pytest.raises(ConfigurationError, match="session id"):
            async with open_session(MemoryStore(), name):
                pass

    async def test_no_log_and_no_error_names_an_id(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        store = MemoryStore()
        async with open_session(store, "thread-123") as session:
            session["a"] = 1
        with pytest.raises(SessionError) as caught:
            async with open_session(store, "thread-123") as session:
                session["a"] = 2
                await store.delete("thread-123")
        assert "thread-123" not in f"{caught.value}{caplog.text}"
        assert "ended meanwhile" in caplog.text


@pytest.mark.anyio
async def test_what_others_have_changed_beside_the_content_is_known_after_a_save() -> None:
    store, record = MemoryStore(), Record(new_id(), {"a": "1"}, NOW, 2 * NOW)
    await store.create(record, now=NOW)
    mine, others = make_session(SessionState(record)), make_session(SessionState(record))
    others.set_max_age(7)
    others["b"] = 1
    mine["c"] = 1
    for session in (others, mine):
        assert await commit(store, state_of(session), decided(session), asked=state_of(session).asked.count)
    assert mine.info.max_age == 7
    assert mine == {"a": 1, "c": 1}
    assert not mine.modified


@pytest.mark.anyio
async def test_a_touch_that_does_not_hear_of_a_version_forgets_none() -> None:
    class Deaf(MemoryStore):
        async def update(self, record: Record, changes: Changes, *, now: int) -> Record | None:  # noqa: ARG002
            return changes.apply(record)

    session = stored()
    record = state_of(session).record
    assert record is not None
    state_of(session).settle(record, asked=0, version=9)
    assert await commit(Deaf(), state_of(session), Touch(record, Changes(NOW + 5000)), asked=0)
    assert state_of(session).stored_version == 9


@pytest.mark.anyio
async def test_who_joins_a_session_created_in_another_second_can_go_on_with_it(
    store: SessionStore, clock: Clock
) -> None:
    async with open_session(store, "job-1") as mine:
        clock.now += 1
        async with open_session(store, "job-1") as theirs:
            theirs["theirs"] = 1
        clock.now += 1
        mine["mine"] = 1
        assert await mine.save()
        clock.now += 1
        mine["more"] = 2
        assert await mine.save()
        assert await mine.save()
    async with open_session(store, "job-1") as both:
        assert dict(both) == {"theirs": 1, "mine": 1, "more": 2}
