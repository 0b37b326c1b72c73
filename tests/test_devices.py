"""Devices: the sessions of one owner, as they are shown to the owner, and ended by them."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from dynamodb_sessions import MemoryStore, Session, SessionError, devices
from dynamodb_sessions.identifiers import new_id
from dynamodb_sessions.stores.contract import Record
from tests.conftest import Clock
from tests.helpers.browsing import Browser

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "local", "async"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def shown(session: Session) -> list[dict[str, Any]]:
    return [dataclasses.asdict(device) for device in await devices.of(session)]


async def seen_by(browser: Browser, count: int) -> list[dict[str, Any]]:
    """Return what a browser sees once it sees so many: the index hears of a login a moment later."""
    with anyio.fail_after(30):
        seen: list[dict[str, Any]] = []
        while len(seen := await browser.do(shown)) != count:  # noqa: ASYNC110
            await anyio.sleep(0.01)
    return seen


async def logged_in(store: Any, owner: str, label: str | None = None, **options: Any) -> Browser:
    browser = Browser(store, **options)
    await browser.do(lambda session: session.bind(owner, label=label))
    return browser


async def test_an_owner_sees_their_devices_newest_first(store: Any, clock: Clock) -> None:
    begun = clock.now
    first = await logged_in(store, "acme/alice", "Firefox")
    clock.now += 10
    second = await logged_in(store, "acme/alice", "Safari")
    await logged_in(store, "acme/bob", "Bob's")
    clock.now += 1000
    await first.do(len)

    seen = await seen_by(second, 2)
    assert [(each["label"], each["created_at"], each["is_current"]) for each in seen] == [
        ("Safari", begun + 10, True),
        ("Firefox", begun, False),
    ]
    # The first was used just now; a look at its devices does not extend the second.
    assert [each["last_seen"] for each in seen] == [begun + 10, begun + 1010]
    assert {len(bytes.fromhex(each["handle"])) for each in seen} == {8}
    assert [each["is_current"] for each in await seen_by(first, 2)] == [False, True]


async def test_a_device_is_ended_at_once_by_its_owner_alone(store: Any) -> None:
    first, second = await logged_in(store, "acme/alice"), await logged_in(store, "acme/alice")
    bob = await logged_in(store, "acme/bob")
    (handle,) = [each["handle"] for each in await seen_by(first, 2) if not each["is_current"]]
    assert await bob.do(lambda session: devices.end(session, handle)) is False
    assert await second.do(lambda session: session.info.owner) == "acme/alice"
    assert await first.do(lambda session: devices.end(session, handle)) is True
    assert await second.do(lambda session: session.info.owner) is None
    assert await first.do(lambda session: devices.end(session, handle)) is False
    assert len(await seen_by(first, 1)) == 1


async def test_ending_the_own_device_is_a_logout(store: Any) -> None:
    alice = await logged_in(store, "acme/alice")
    (device,) = await alice.do(shown)
    assert await alice.do(lambda session: devices.end(session, device["handle"])) is True
    assert not alice.cookies


async def test_all_others_are_ended_together(store: Any) -> None:
    browsers = [await logged_in(store, "acme/alice") for _ in range(3)]
    bob = await logged_in(store, "acme/bob")
    await seen_by(browsers[0], 3)
    assert await browsers[0].do(devices.end_others) == 2
    assert [await each.do(lambda session: session.info.owner) for each in [*browsers, bob]] == [
        "acme/alice",
        None,
        None,
        "acme/bob",
    ]


@pytest.mark.parametrize("ask", [Session.confirm_login, Session.regenerate, lambda session: session.bind("acme/alice")])
async def test_a_new_id_that_is_not_saved_yet_is_this_device_still(ask: Callable[[Session], None], store: Any) -> None:
    """As where a password is confirmed, and everybody else signed out, in one request."""
    alice, other = await logged_in(store, "acme/alice"), await logged_in(store, "acme/alice")
    await seen_by(alice, 2)

    async def act(session: Session) -> Any:
        ask(session)
        return [await shown(session), await devices.end_others(session)]

    seen, ended = await alice.do(act)
    assert (sum(device["is_current"] for device in seen), ended) == (1, 1)
    assert await alice.do(lambda session: session.info.owner) == "acme/alice"
    assert await other.do(lambda session: session.info.owner) is None


@pytest.mark.usefixtures("clock")
async def test_a_handle_moves_with_the_session(store: Any) -> None:
    alice = await logged_in(store, "acme/alice", "Firefox")
    before = await alice.do(shown)
    await alice.do(Session.regenerate)
    await alice.do(Session.confirm_login)
    assert await alice.do(shown) == before


async def test_the_absolute_lifetime_hides_when_it_was_last_used(store: Any, clock: Clock) -> None:
    alice = await logged_in(store, "acme/alice", absolute_max_age=4000)
    clock.now += 1000
    await alice.do(len)
    assert [each["last_seen"] for each in await alice.do(shown)] == [None]


async def test_a_login_from_before_there_were_handles_has_one(store: Any) -> None:
    """The version before does not store one."""
    alice = await logged_in(store, "acme/alice")
    now = int(time.time())
    await store.create(Record(new_id(), {}, now - 9, now + 60, owner="acme/alice", born="before"), now=now)
    (_, device) = await seen_by(alice, 2)
    assert len(bytes.fromhex(device["handle"])) == 8
    assert await alice.do(lambda session: devices.end(session, device["handle"])) is True
    await seen_by(alice, 1)


async def test_only_who_is_bound_has_devices() -> None:
    unbound = Browser(MemoryStore())
    for ask in (devices.of, devices.end_others, lambda session: devices.end(session, "00")):
        with pytest.raises(SessionError, match="bind"):
            await unbound.do(ask)
