"""Logins: whose session it is, on which device, and when its owner last proved who they are."""

from typing import Any

import pytest

from dynamodb_sessions import ConfigurationError, Session, SessionError, open_session
from dynamodb_sessions.stores.contract import Record
from tests.conftest import Clock
from tests.helpers.browsing import Browser

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "local", "async"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def stored(store: Any) -> Record:
    (record,) = [record async for record in store.scan()]
    assert isinstance(record, Record)
    return record


def confirmed(session: Session) -> bool:
    session.confirm_login()
    return session.info.is_fresh(600)


async def test_a_login_stores_who_where_and_when(store: Any, clock: Clock) -> None:
    alice = Browser(store)
    await alice.do(lambda session: session.bind("acme/alice", tenant="acme", label="Firefox on Linux"))
    record = await stored(store)
    assert (record.owner, record.label, record.authenticated_at) == ("acme/alice", "Firefox on Linux", clock.now)
    assert record.tenant == "acme"
    assert record.handle is not None
    assert len(bytes.fromhex(record.handle)) == 8

    clock.now += 5
    await alice.do(lambda session: session.bind("acme/alice"))
    again = await stored(store)
    assert (again.tenant, again.label, again.authenticated_at) == (None, None, clock.now)
    assert again.handle not in (None, record.handle)


async def test_a_session_without_a_login_has_nothing_of_it(store: Any) -> None:
    """Who does not use it, does not pay for it."""
    await Browser(store).do(lambda session: session.update(a=1))
    record = await stored(store)
    assert (record.owner, record.tenant, record.handle, record.label, record.authenticated_at) == (None,) * 5


async def test_a_confirmed_login_is_fresh_under_a_new_id(store: Any, clock: Clock) -> None:
    alice = Browser(store)
    await alice.do(lambda session: session.bind("acme/alice", tenant="acme", label="Firefox"))
    before = await stored(store)
    clock.now += 601
    assert await alice.do(lambda session: session.info.is_fresh(600)) is False
    assert await alice.do(confirmed) is True
    after = await stored(store)
    assert before.id != after.id
    assert (after.authenticated_at, after.created_at) == (clock.now, before.created_at), "it is the same login"
    assert (after.owner, after.handle, after.label) == (before.owner, before.handle, before.label)
    assert after.tenant == before.tenant == "acme"
    clock.now += 600
    assert await alice.do(lambda session: session.info.is_fresh(600)) is True


async def test_nobody_is_fresh_without_a_login() -> None:
    assert Session().info.authenticated_at is None
    assert not Session().info.is_fresh(600)
    with pytest.raises(SessionError, match="bound to nobody"):
        Session().confirm_login()


async def test_a_logout_forgets_the_proof(store: Any) -> None:
    alice = Browser(store)
    await alice.do(lambda session: session.bind("acme/alice"))

    def logout(session: Session) -> bool:
        session.clear()
        return session.info.is_fresh(600)

    assert await alice.do(logout) is False


async def test_a_login_under_an_id_of_ones_own_keeps_the_id(store: Any, clock: Clock) -> None:
    async with open_session(store, "job-1") as session:
        session.bind("acme/alice", tenant="acme", label="job")
    clock.now += 10
    async with open_session(store, "job-1") as session:
        session.confirm_login()
    record = await stored(store)
    assert (record.id, record.owner, record.label, record.authenticated_at) == ("job-1", "acme/alice", "job", clock.now)
    assert record.tenant == "acme"


@pytest.mark.parametrize(
    ("given", "kept"), [("x" * 300, "x" * 256), ("", None), ("é", "é"), ("lone \ud800", "lone ?"), (None, None)]
)
async def test_a_label_never_fails_a_login(given: str | None, kept: str | None, store: Any) -> None:
    """Whoever logs in may have chosen it."""
    await Browser(store).do(lambda session: session.bind("acme/alice", label=given))
    assert (await stored(store)).label == kept


def test_a_label_is_text() -> None:
    label: Any = b"Firefox"
    with pytest.raises(ConfigurationError, match="label"):
        Session().bind("acme/alice", label=label)
