"""One key, many writers: `session.atomically` changes what is stored now."""

import copy
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from starlette.types import Message, Receive, Scope, Send

from dynamodb_sessions import (
    DynamoDBSessionMiddleware,
    MemoryStore,
    Session,
    SessionError,
    SessionStore,
    UnserializableValue,
    open_session,
)
from dynamodb_sessions.stores.contract import Record
from tests.conftest import KEY, Clock
from tests.helpers.browsing import Browser

pytestmark = pytest.mark.anyio

Content = dict[str, Any]


@pytest.fixture(params=["memory", "local", "async"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def append(item: object) -> Callable[[Content], int]:
    """Return a change that adds an item to a list, and returns how many there are."""

    def change(content: Content) -> int:
        content.setdefault("log", []).append(item)
        return len(content["log"])

    return change


async def content(browser: Browser) -> Any:
    return await browser.do(dict)


async def test_many_writers_over_two_instances_lose_nothing(new_store: Callable[..., SessionStore]) -> None:
    instances = [Browser(new_store(timeout=30.0)), Browser(new_store(timeout=30.0))]
    await instances[0].do(lambda session: session.update(log=[]))
    instances[1].cookies = instances[0].cookies
    counts: list[int] = []

    async def one(number: int) -> None:
        act = append(number)
        counts.append(await instances[number % 2].do(lambda session: session.atomically(act), f"/{number}"))

    async with anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(one, number)
    assert sorted((await content(instances[0]))["log"]) == list(range(50))
    assert sorted(counts) == list(range(1, 51)), "each is told what it has made"


async def test_it_sees_what_is_stored_and_leaves_unsaved_what_is_not(store: Any) -> None:
    alice = Browser(store)
    await alice.do(lambda session: session.update(log=["first"], gone=1, kept=[1], mine=1))

    async def act(session: Session) -> Any:
        session["mine"] = 2
        del session["gone"]
        session["new"] = "unsaved"
        seen: list[Content] = []

        def change(stored: Content) -> None:
            seen.append(copy.deepcopy(stored))
            append("second")(stored)
            stored["theirs"] = True

        await session.atomically(change)
        async with open_session(store, session.info.id) as outside:
            stored = dict(outside)
        return {"seen": seen, "stored": stored, "session": dict(session)}

    told = await alice.do(act)
    before = {"log": ["first"], "gone": 1, "kept": [1], "mine": 1}
    assert told["seen"] == [before]
    assert told["stored"] == before | {"log": ["first", "second"], "theirs": True}
    after = {"log": ["first", "second"], "kept": [1], "mine": 2, "new": "unsaved", "theirs": True}
    assert told["session"] == after
    assert await content(alice) == after, "the rest is saved at the end, as ever"


async def test_what_was_saved_before_in_the_request_is_not_undone_by_its_end(store: Any) -> None:
    alice = Browser(store)

    async def act(session: Session) -> None:
        session["log"] = []
        await session.save()
        log = session["log"]
        await session.atomically(append("seen"))
        log.append("of a value that was given away before")

    await alice.do(act)
    assert await content(alice) == {"log": ["seen"]}


async def test_what_it_leaves_under_a_key_is_not_undone_though_the_request_removed_that_key_before(
    store: Any, new_store: Callable[..., SessionStore]
) -> None:
    """To remove what is not there is no change, so nothing of it is to be saved at the end."""
    alice, elsewhere = Browser(store), Browser(new_store())
    await alice.do(lambda session: session.update(other=1))
    elsewhere.cookies = alice.cookies

    async def act(session: Session) -> None:
        session.pop("log", None)
        await session.atomically(append("first"))
        await elsewhere.do(lambda session: session.atomically(append("second")), "/elsewhere")

    await alice.do(act)
    assert await content(alice) == {"other": 1, "log": ["first", "second"]}


async def test_a_key_that_the_request_has_written_is_saved_as_it_was_written(store: Any) -> None:
    """Be it as it was."""
    alice = Browser(store)
    await alice.do(lambda session: session.update(log=[]))

    async def act(session: Session) -> None:
        session["log"] = []
        await session.atomically(append("seen"))

    await alice.do(act)
    assert await content(alice) == {"log": []}


async def test_a_logout_while_it_runs_is_not_filled_again(store: Any) -> None:
    alice = Browser(store)
    await alice.do(lambda session: session.update(log=[]))

    async def act(session: Session) -> Any:
        def change(stored: Content) -> None:
            session.clear()  # As another task or thread may do it.
            stored["theirs"] = 1

        await session.atomically(change)
        return dict(session)

    assert await alice.do(act) == {}
    assert not alice.cookies
    assert [each async for each in store.scan()] == []


async def test_a_new_session_is_created_by_it(store: Any) -> None:
    alice = Browser(store)

    async def act(session: Session) -> Any:
        session["later"] = 1
        count = await session.atomically(append("first"))
        return [count, session.info.is_new]

    assert await alice.do(act) == [1, False]
    assert await content(alice) == {"log": ["first"], "later": 1}


async def test_a_failure_afterwards_does_not_undo_it(store: Any) -> None:
    alice = Browser(store)
    await alice.do(lambda session: session.update(log=[]))

    async def act(session: Session) -> None:
        session["dropped"] = True
        await session.atomically(append("kept"))
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await alice.do(act)
    assert await content(alice) == {"log": ["kept"]}


async def test_nothing_to_change_stores_nothing_and_gives_no_cookie(store: Any) -> None:
    alice = Browser(store)
    assert await alice.do(lambda session: session.atomically(len)) == 0
    assert not alice.cookies
    assert [each async for each in store.scan()] == []


async def test_what_it_raises_comes_through_and_nothing_is_stored(store: Any) -> None:
    alice = Browser(store)
    await alice.do(lambda session: session.update(log=[]))

    def fail(content: Content) -> None:
        append("lost")(content)
        raise LookupError

    with pytest.raises(LookupError):
        await alice.do(lambda session: session.atomically(fail))
    with pytest.raises(UnserializableValue, match="when"):
        await alice.do(lambda session: session.atomically(lambda content: content.update(when=object())))
    assert await content(alice) == {"log": []}


@pytest.mark.parametrize("ask", [Session.clear, Session.regenerate, lambda session: session.bind("acme/alice")])
async def test_not_while_a_new_id_or_a_logout_is_not_saved(ask: Callable[[Session], None], store: Any) -> None:
    alice = Browser(store)
    await alice.do(lambda session: session.update(log=[]))

    async def act(session: Session) -> None:
        ask(session)
        await session.atomically(append("lost"))

    with pytest.raises(SessionError, match="save"):
        await alice.do(act)
    assert await content(alice) == ({} if ask is Session.clear else {"log": []}), "a logout is honoured, as ever"


async def test_what_has_ended_is_not_brought_back(store: Any) -> None:
    alice = Browser(store)
    await alice.do(lambda session: session.update(log=[]))

    async def act(session: Session) -> None:
        await store.delete(session.info.id)
        await session.atomically(append("lost"))

    with pytest.raises(SessionError, match="ended"):
        await alice.do(act)
    assert [each async for each in store.scan()] == []


async def test_outside_requests_too_and_by_those_who_begin_at_once(store: Any) -> None:
    async def one(number: int) -> None:
        async with open_session(store, "job-1") as session:
            await session.atomically(append(number))
            session[f"seen-{number}"] = True

    async with anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(one, number)
    async with open_session(store, "job-1") as session:
        assert sorted(session["log"]) == list(range(5))
        assert {f"seen-{number}" for number in range(5)} < session.keys()


async def test_outside_requests_it_sees_what_was_begun_since_the_session_was_opened(store: Any) -> None:
    """Though it would change nothing of an empty one."""
    async with open_session(store, "job-1") as late:
        async with open_session(store, "job-1") as early:
            early["log"] = ["first"]
        assert await late.atomically(lambda content: content["log"].pop() if content else None) == "first"
        assert await late.atomically(lambda content: content["log"].pop() if content["log"] else None) is None
    async with open_session(store, "job-2") as session:
        assert await session.atomically(len) == 0
    assert [each.id async for each in store.scan()] == ["job-1"]


async def test_it_is_a_use_of_the_session_though_nothing_changes(store: Any, clock: Clock) -> None:
    alice = Browser(store)
    await alice.do(lambda session: session.update(n=1))
    clock.now += 1000
    assert await alice.do(lambda session: session.atomically(len)) == 1
    assert [each.expires_at async for each in store.scan()] == [clock.now + 3600]


async def test_a_response_that_starts_while_it_runs_waits_for_the_cookie() -> None:
    """Another task of a websocket begins the session."""
    accepts = anyio.Event()
    sent: list[Message] = []

    class Slow(MemoryStore):
        async def create(self, record: Record, **options: Any) -> Record | None:
            await accepts.wait()
            return await super().create(record, **options)

    async def app(scope: Scope, _: Receive, send: Send) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(scope["session"].atomically, append("first"))
            await anyio.wait_all_tasks_blocked()
            accepts.set()
            await send({"type": "websocket.accept"})

    async def note(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "path": "/", "headers": []}
    with anyio.fail_after(30):
        await DynamoDBSessionMiddleware(app, KEY, store=Slow())(scope, receive, note)
    (accepted,) = sent
    assert b"set-cookie" in dict(accepted.get("headers", ()))


async def test_it_takes_no_async_function_and_needs_a_store(store: Any) -> None:
    async def change(_: Content) -> None:
        """Do nothing."""

    with pytest.raises(TypeError, match="not async"):
        await Browser(store).do(lambda session: session.atomically(change))
    with pytest.raises(SessionError, match="no store"):
        await Session().atomically(len)
