"""A session that nobody has looked at: it costs nothing, and is one like any other from the first look on."""

import copy
import logging
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dynamodb_sessions import DynamoDBSessionMiddleware, MemoryStore, Session
from dynamodb_sessions.session.session import make_unseen_session, see, state_of
from dynamodb_sessions.session.state import Response, SessionState, Use
from dynamodb_sessions.web import request_cycle
from tests.conftest import KEY

pytestmark = pytest.mark.anyio


async def ask(app: ASGIApp, **scope: Any) -> list[Message]:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    given = {"type": "http", "method": "GET", "path": "/", "scheme": "https", "headers": []}
    await app(given | scope, receive, send)
    return sent


def sessions(app: ASGIApp) -> DynamoDBSessionMiddleware:
    return DynamoDBSessionMiddleware(app, KEY, store=MemoryStore())


async def start(send: Send, status: int = 200) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})


async def end(send: Send, *, more: bool = False) -> None:
    await send({"type": "http.response.body", "body": b"x", "more_body": more})


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> list[SessionState]:
    """The states that requests make."""
    made: list[SessionState] = []

    def make(*args: Any, **kwargs: Any) -> SessionState:
        made.append(SessionState(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(request_cycle, "SessionState", make)
    return made


@pytest.mark.parametrize("status", [200, 500])
async def test_who_is_not_looked_at_costs_nothing(states: list[SessionState], status: int) -> None:
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await start(send, status)
        await end(send, more=True)
        await end(send)

    sent = await ask(sessions(app))
    assert [len(message.get("headers", [])) for message in sent] == [0, 0, 0]
    assert states == []


async def test_an_app_that_fails_makes_nothing_of_it_either(states: list[SessionState]) -> None:
    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await ask(sessions(app))
    assert states == []


@pytest.mark.parametrize(
    "look",
    [
        lambda session: session.get("key"),
        lambda session: "key" in session,
        len,
        repr,
        lambda session: session.info,
        lambda session: session.accessed,
        copy.copy,
        pickle.dumps,
        lambda session: dict(session) | session,
        lambda session: session.setdefault("key", 1),
        lambda session: session.mark_accessed(),
    ],
)
async def test_any_look_makes_it_one_like_any_other(look: Callable[[Session], Any], states: list[SessionState]) -> None:
    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        session = scope["session"]
        assert isinstance(session, Session)
        look(session)
        assert type(session) is Session
        session["user"] = "ada"
        await start(send)

    [message] = await ask(sessions(app))
    assert {name for name, _ in message["headers"]} == {b"set-cookie", b"vary", b"cache-control"}
    assert len(states) == 1


async def test_what_it_has_no_attribute_for_is_an_error_as_everywhere() -> None:
    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        with pytest.raises(AttributeError, match="'Session' object has no attribute 'user'"):
            _ = scope["session"].user
        assert type(scope["session"]).__name__ == "Session"
        await start(send)

    assert len(await ask(sessions(app))) == 1


async def test_one_that_an_app_has_replaced_is_stored() -> None:
    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        scope["session"] = {"user": "ada"}
        await start(send)

    [message] = await ask(sessions(app))
    assert b"set-cookie" in dict(message["headers"])


@pytest.mark.parametrize("when", ["started", "over"])
async def test_the_first_look_may_come_late(when: str, caplog: pytest.LogCaptureFixture) -> None:
    held: list[Session] = []

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        held.append(scope["session"])
        await start(send)
        await end(send, more=True)
        if when == "started":
            held[0]["user"] = "ada"
        await end(send)

    with caplog.at_level(logging.WARNING):
        await ask(sessions(app))
        if when == "over":
            held[0]["user"] = "ada"
    [record] = caplog.records
    expected = "the response has started" if when == "started" else "changed after its request had ended"
    assert expected in record.message
    assert state_of(held[0]).response is (Response.OVER if when == "started" else Response.OVER_AND_CHANGED)


@pytest.fixture
def _restless_threads() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_restless_threads")
def test_threads_that_look_at_once_get_one_state() -> None:
    for _ in range(200):
        made: list[SessionState] = []

        def begin(session: Session, made: list[SessionState] = made) -> None:
            made.append(SessionState())
            see(session, made[-1])

        session, ready = make_unseen_session(begin), threading.Barrier(4)

        def look(number: int, session: Session = session, ready: threading.Barrier = ready) -> None:
            ready.wait()
            session[str(number)] = number

        threads = [threading.Thread(target=look, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(made) == 1
        assert state_of(session).tracked().written == {"0", "1", "2", "3"}


class Watched(dict[str, Any]):
    """A scope in which a thread looks at the session right after the request has asked whether anybody did."""

    is_armed = False

    def get(self, key: str, default: Any = None) -> Any:
        found = super().get(key, default)
        if self.is_armed and key == "session":
            self.is_armed = False
            thread = threading.Thread(target=found.get, args=("user",))
            thread.start()
            thread.join()
        return found


async def test_a_thread_that_looks_while_the_response_starts_knows_that_it_has() -> None:
    """A cookie that it would need can no longer be set."""

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        scope.is_armed = True  # type: ignore[attr-defined]
        await start(send)
        state = state_of(scope["session"])
        assert (state.use, state.is_late) == (Use.USED, True)
        await end(send)

    async def receive() -> Message:
        return {"type": "http.request"}

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await sessions(app)(Watched(type="http", method="GET", path="/", headers=[]), receive, send)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
