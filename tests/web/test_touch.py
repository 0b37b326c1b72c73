"""A session's life is extended while the app runs: what only reads does not wait for it."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from starlette.types import Message, Receive, Scope, Send

from dynamodb_sessions import DynamoDBSessionMiddleware, MemoryStore, Session, StoreUnavailable
from tests.conftest import KEY, Clock

pytestmark = pytest.mark.anyio

MAX_AGE = 1000
ENOUGH = 5
"""Seconds after which what is waited for does not come any more."""

Handler = Callable[[Any, Send], Awaitable[Any]]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class OddError(Exception):
    """What a handler raises."""


class Slow:
    """A store whose updates tell that they have begun, and end when they may."""

    def __init__(self) -> None:
        self.kept = MemoryStore()
        self.calls: list[str] = []
        self.began, self.may_end = anyio.Event(), anyio.Event()
        self.began_in_thread = threading.Event()
        self.failure: Exception | None = None
        for name in ("load", "create", "exchange", "rotate", "delete"):
            setattr(self, name, self._counted(name))

    def _counted(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            return await getattr(self.kept, name)(*args, **kwargs)

        return call

    async def update(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append("touch" if args[1].is_touch else "update")
        self.began.set()
        self.began_in_thread.set()
        with anyio.fail_after(ENOUGH):
            await self.may_end.wait()
        if self.failure is not None:
            raise self.failure
        return await self.kept.update(*args, **kwargs)


class Visit:
    """A browser whose session is due to be touched, and what came of its request."""

    def __init__(self, clock: Clock) -> None:
        self.store: Any = Slow()
        self.clock = clock
        self.touch_after: int | None = None
        self.cookie = b""
        self.sent: list[Message] = []

    async def sign_in(self) -> None:
        async def handler(session: Session, _: Send) -> None:
            session.update(user={"id": 1}, count=1)

        await self.ask(handler)
        self.cookie = self.headers[b"set-cookie"].partition(b";")[0]
        self.clock.now += MAX_AGE // 2
        self.store.calls.clear()

    async def ask(self, handler: Handler, kind: str = "http", keys: Any = KEY) -> None:
        self.sent = []

        async def app(scope: Scope, _receive: Receive, send: Send) -> None:
            await handler(scope["session"], send)
            if kind == "http":
                await answer(send)

        async def receive() -> Message:
            return {"type": f"{kind}.request", "body": b""}

        async def send(message: Message) -> None:
            self.sent.append(message)

        headers = [(b"cookie", self.cookie)] if self.cookie else []
        scope = {"type": kind, "method": "GET", "path": "/", "scheme": "http", "headers": headers}
        middleware = DynamoDBSessionMiddleware(
            app, keys, max_age=MAX_AGE, store=self.store, touch_after=self.touch_after
        )
        await middleware(scope, receive, send)

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    async def wait_for_touch(self) -> None:
        with anyio.fail_after(ENOUGH):
            await self.store.began.wait()

    def end_touch(self) -> None:
        self.store.may_end.set()


async def answer(send: Send, status: int = 200) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture
async def visit(clock: Clock) -> Visit:
    visit = Visit(clock)
    await visit.sign_in()
    return visit


USES: dict[str, Callable[[Session], Any]] = {
    "[]": lambda session: session["user"],
    "in": lambda session: "nobody" in session,
    "get": lambda session: session.get("nobody"),
    "values": lambda session: list(session.values()),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
async def test_it_is_made_while_the_app_runs(visit: Visit, use: Callable[[Session], Any]) -> None:
    async def handler(session: Session, _: Send) -> None:
        use(session)
        await visit.wait_for_touch()
        visit.end_touch()

    await visit.ask(handler)
    assert visit.store.calls == ["load", "touch"]
    assert b"Max-Age=1000" in visit.headers[b"set-cookie"]


async def test_it_is_made_while_a_thread_runs(visit: Visit, anyio_backend: str) -> None:
    def endpoint(session: Session) -> None:
        assert session["count"] == 1
        if anyio_backend == "asyncio":
            assert visit.store.began_in_thread.wait(ENOUGH)

    async def handler(session: Session, _: Send) -> None:
        await anyio.to_thread.run_sync(endpoint, session)
        visit.end_touch()

    await visit.ask(handler)
    assert visit.store.calls == ["load", "touch"]
    assert b"Max-Age=1000" in visit.headers[b"set-cookie"]


async def test_a_thread_does_not_wait_for_the_event_loop(visit: Visit) -> None:
    """Which may be waiting for the thread."""

    async def handler(session: Session, _: Send) -> None:
        thread = threading.Thread(target=session.get, args=("user",))
        thread.start()
        thread.join(ENOUGH)
        assert not thread.is_alive()
        visit.end_touch()

    await visit.ask(handler)
    assert visit.store.calls == ["load", "touch"]


async def test_once_a_request_is_enough(visit: Visit) -> None:
    async def handler(session: Session, _: Send) -> None:
        session.get("user")
        await visit.wait_for_touch()
        visit.end_touch()
        visit.clock.now += 1
        await session.save()

    visit.touch_after = 0
    await visit.ask(handler)
    assert visit.store.calls == ["load", "touch"]
    assert b"Max-Age=1000" in visit.headers[b"set-cookie"]


async def test_the_response_waits_for_the_rest_of_it(visit: Visit) -> None:
    async def handler(session: Session, _: Send) -> None:
        session.get("user")
        await visit.wait_for_touch()
        tasks.start_soon(end)

    async def end() -> None:
        await anyio.sleep(0.01)
        assert visit.sent == []
        visit.end_touch()

    async with anyio.create_task_group() as tasks:
        await visit.ask(handler)
    assert b"set-cookie" in visit.headers


async def test_what_is_not_used_is_not_touched(visit: Visit) -> None:
    async def handler(*_: Any) -> None:
        await anyio.sleep(0.01)

    await visit.ask(handler)
    assert visit.store.calls == ["load"]
    assert visit.headers == {}


LOOKS: dict[str, Callable[[Session], Any]] = {
    "request.session": Session.mark_accessed,
    "info": lambda session: session.info,
    "accessed": lambda session: setattr(session, "accessed", True),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
async def test_what_is_only_looked_at_is_not_touched(visit: Visit, look: Callable[[Session], Any]) -> None:
    """Though the response depends on it: a page may show the owner."""

    async def handler(session: Session, _: Send) -> None:
        look(session)
        await anyio.sleep(0.01)

    visit.touch_after = 0
    await visit.ask(handler)
    assert visit.store.calls == ["load"]
    assert visit.headers == {b"vary": b"Cookie"}


async def test_what_is_changed_before_the_app_waits_is_saved_in_one_call(visit: Visit) -> None:
    async def handler(session: Session, _: Send) -> None:
        session["count"] += 1
        await anyio.sleep(0.01)

    visit.end_touch()
    await visit.ask(handler)
    assert visit.store.calls == ["load", "update"]


async def test_what_is_changed_before_the_app_fails_is_not_saved(visit: Visit) -> None:
    async def handler(session: Session, _: Send) -> None:
        session["count"] += 1
        await anyio.sleep(0.01)
        raise OddError

    visit.end_touch()
    with pytest.raises(OddError):
        await visit.ask(handler)
    assert visit.store.calls == ["load"]


async def test_what_cannot_be_saved_may_be_put_right(visit: Visit) -> None:
    async def handler(session: Session, _: Send) -> None:
        session["new"] = object()
        await anyio.sleep(0.01)
        del session["new"]

    visit.end_touch()
    await visit.ask(handler)
    assert visit.store.calls == ["load", "touch"]
    assert visit.status == 200


async def test_what_is_changed_meanwhile_is_saved(visit: Visit) -> None:
    async def handler(session: Session, _: Send) -> None:
        session["user"]["name"] = session["count"]
        session["user"].pop("name")
        await visit.wait_for_touch()
        session["user"]["name"] = "alice"
        visit.end_touch()

    await visit.ask(handler)
    assert visit.store.calls == ["load", "touch", "update"]
    assert [dict(record.data) async for record in visit.store.kept.scan()] == [
        {"user": '{"id":1,"name":"alice"}', "count": "1"}
    ]


@pytest.mark.parametrize(
    ("ask", "call"),
    [(Session.clear, "delete"), (lambda session: session.set_max_age(7), "update"), (Session.popitem, "update")],
)
async def test_what_another_task_asks_for_while_the_response_waits_is_done(
    visit: Visit, ask: Callable[[Session], Any], call: str
) -> None:
    async def meanwhile(session: Session) -> None:
        await visit.wait_for_touch()
        ask(session)
        visit.end_touch()

    async def handler(session: Session, _: Send) -> None:
        session.get("user")
        tasks.start_soon(meanwhile, session)

    async with anyio.create_task_group() as tasks:
        await visit.ask(handler)
    assert visit.store.calls == ["load", "touch", call]


@pytest.mark.parametrize("saves", [False, True])
async def test_a_logout_meanwhile_is_one(visit: Visit, *, saves: bool) -> None:
    async def handler(session: Session, _: Send) -> None:
        session.get("user")
        await visit.wait_for_touch()
        session.clear()
        visit.end_touch()
        if saves:
            await session.save()

    await visit.ask(handler)
    assert visit.store.calls == ["load", "touch", "delete"]
    assert len(visit.store.kept) == 0
    assert b"Max-Age=0" in visit.headers[b"set-cookie"]


async def test_a_session_that_was_ended_meanwhile_gets_no_cookie(visit: Visit) -> None:
    async def handler(session: Session, _: Send) -> None:
        session.get("user")
        await visit.wait_for_touch()
        await visit.store.kept.delete(session.info.id)
        visit.end_touch()

    await visit.ask(handler)
    assert visit.store.calls == ["load", "touch"]
    assert visit.status == 200
    assert b"set-cookie" not in visit.headers
    assert len(visit.store.kept) == 0


async def test_one_that_fails_is_told_instead_of_the_response_and_not_made_again(visit: Visit) -> None:
    async def handler(session: Session, _: Send) -> None:
        session.get("user")
        await visit.wait_for_touch()
        visit.end_touch()

    visit.store.failure = StoreUnavailable("it is out")
    await visit.ask(handler)
    assert visit.store.calls == ["load", "touch"]
    assert visit.status == 503


async def test_one_that_fails_does_not_keep_a_change_from_being_saved(visit: Visit) -> None:
    async def handler(session: Session, _: Send) -> None:
        session.get("user")
        await visit.wait_for_touch()
        visit.end_touch()
        await anyio.sleep(0.01)
        visit.store.failure = None
        session["count"] = 2

    visit.store.failure = StoreUnavailable("it is out")
    await visit.ask(handler)
    assert visit.store.calls == ["load", "touch", "update"]
    assert visit.status == 200


@pytest.mark.parametrize("error", [OddError, SystemExit, ExceptionGroup])
async def test_the_apps_error_comes_through_as_it_is(visit: Visit, error: type[BaseException]) -> None:
    raised = ExceptionGroup("odd", [OddError()]) if error is ExceptionGroup else error()

    async def handler(session: Session, _: Send) -> None:
        session.get("user")
        await visit.wait_for_touch()
        visit.end_touch()
        raise raised

    with pytest.raises(error) as caught:
        await visit.ask(handler)
    assert caught.value is raised
    assert visit.store.calls == ["load", "touch"]


async def test_after_a_failure_has_been_told_nothing_is_touched(visit: Visit) -> None:
    async def handler(session: Session, send: Send) -> None:
        await answer(send, 500)
        session.get("user")
        await anyio.sleep(0.01)

    await visit.ask(handler)
    assert visit.store.calls == ["load"]


async def test_a_client_that_goes_away_does_not_cut_it(visit: Visit) -> None:
    async def handler(session: Session, _: Send) -> None:
        session.get("user")
        await visit.wait_for_touch()
        tasks.cancel_scope.cancel()
        visit.end_touch()
        await anyio.sleep(ENOUGH)

    async with anyio.create_task_group() as tasks:
        await visit.ask(handler)
    assert tasks.cancel_scope.cancelled_caught
    assert [record.expires_at async for record in visit.store.kept.scan()] == [visit.clock.now + MAX_AGE]


async def test_a_websocket_that_begins_to_use_it_has_it_touched_then(visit: Visit) -> None:
    async def handler(session: Session, send: Send) -> None:
        await send({"type": "websocket.accept"})
        await anyio.sleep(0.01)
        assert visit.store.calls == ["load"]
        session.get("user")
        await visit.wait_for_touch()
        visit.end_touch()

    await visit.ask(handler, "websocket")
    assert visit.store.calls == ["load", "touch"]


async def test_what_is_first_used_at_the_very_end_is_touched_then(visit: Visit) -> None:
    async def handler(session: Session, send: Send) -> None:
        await send({"type": "websocket.accept"})
        assert session["count"] == 1

    visit.end_touch()
    await visit.ask(handler, "websocket")
    assert visit.store.calls == ["load", "touch"]


@pytest.mark.parametrize("look", [*LOOKS.values(), None], ids=[*LOOKS, "nothing"])
async def test_a_cookie_of_an_older_key_is_renewed_without_a_touch_where_it_was_looked_at(
    visit: Visit, look: Callable[[Session], Any] | None
) -> None:
    """A response that does not depend on the session may be in a cache, and its cookie with it."""

    async def handler(session: Session, _: Send) -> None:
        if look is not None:
            look(session)

    await visit.ask(handler, keys=["a-new-key-of-more-than-thirty-two-bytes!", KEY])
    assert visit.store.calls == ["load"]
    assert (b"set-cookie" in visit.headers) is (look is not None)


async def test_requests_at_once_leave_nothing_running(visit: Visit, anyio_backend: str) -> None:
    async def handler(session: Session, _: Send) -> None:
        session.get("user")
        await anyio.lowlevel.checkpoint()

    visit.end_touch()
    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(visit.ask, handler)
    if anyio_backend == "asyncio":
        assert len(asyncio.all_tasks()) <= 2
