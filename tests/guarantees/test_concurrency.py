"""What requests at the same time may do to each other, and what cutting one off may do: nothing by halves.

Two requests on one session are tried in every order of their store calls, on the real engine of their DynamoDB
calls, and compared with the model of `model.py`.
"""

import asyncio
import contextlib
import json
import random
import socket
import threading
import uuid
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import anyio
import boto3
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from dynamodb_sessions import DynamoDBSessionMiddleware, DynamoDBStore, MemoryStore
from dynamodb_sessions.aws import table_calls, threads
from dynamodb_sessions.stores import table_schema
from dynamodb_sessions.stores.contract import Changes, Decide, Record, SessionStore
from tests.conftest import KEY, SEED, Clock
from tests.helpers.model import (
    MAX_AGE,
    Answer,
    Dictionary,
    InTurns,
    Kept,
    Script,
    Turns,
    World,
    an_app,
    ask,
    empty_table,
    kept_in_memory,
    kept_in_table,
    play,
    replay,
)
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.slow

LOOK: Script = [("read",)]
PATIENCE = 30
"""Seconds for what takes one at most when nothing else runs."""


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries need not wait where requests take turns anyway."""
    monkeypatch.setattr(table_calls, "_FIRST_PAUSE", 0.0)


# Two requests, in every order.

Stores = tuple[SessionStore, SessionStore]


class Place:
    """One table, or one memory, and two stores on it."""

    def __init__(
        self, url: str | None, transport: str | None = None, kind: type[DynamoDBStore] = DynamoDBStore
    ) -> None:
        self.client: Any = None
        self.memory = MemoryStore()
        self.table_name = f"sessions-{uuid.uuid4().hex}"
        if url is not None:
            self.client = boto3.client("dynamodb", endpoint_url=url, region_name="us-east-1")
            table_schema.create(self.client, self.table_name)
            self.dynamodb = [kind(self.table_name, endpoint_url=url, client=transport) for _ in range(2)]
            self.transports = [store._calls._transport.call for store in self.dynamodb]

    def stores(self, turns: Turns) -> list[Any]:
        """Return two stores. In memory a call is one step; of DynamoDB's, every request to it is one."""
        if self.client is None:
            return [InTurns(self.memory, turns) for _ in range(2)]
        for store, call in zip(self.dynamodb, self.transports, strict=True):
            store._calls._transport.call = self._in_turn(call, turns)  # type: ignore[assignment, method-assign]
        return [InTurns(store, turns, waits=False) for store in self.dynamodb]

    @staticmethod
    def _in_turn(call: Callable[..., Awaitable[Any]], turns: Turns) -> Callable[..., Awaitable[Any]]:
        async def wait_and_call(*args: Any, **kwargs: Any) -> Any:
            await turns.wait()
            return await call(*args, **kwargs)

        return wait_and_call

    def kept(self, now: int) -> dict[str, Kept]:
        if self.client is None:
            return kept_in_memory(self.memory, now)
        return kept_in_table(self.client, self.table_name, now)

    def empty(self) -> None:
        if self.client is None:
            self.memory = MemoryStore()
        else:
            empty_table(self.client, self.table_name)


@pytest.fixture(scope="module", params=["memory", "local", "async"])
def place(request: pytest.FixtureRequest) -> Place:
    return place_of(request.param, request)


def place_of(kind: str, request: pytest.FixtureRequest) -> Place:
    if kind == "memory":
        return Place(None)
    return Place(request.getfixturevalue("dynamodb_local_url"), "async" if kind == "async" else None)


REVOKE: Script = [("revoke",)]
EXPIRE: Script = [("expire",)]
"""No requests: somebody deletes the session; its time runs out."""

ONE: dict[str, Script] = {
    "save": [("set", "one", 1), ("set", "same", "one")],
    "touch": LOOK,
    "rotate": [("set", "one", 1), ("set", "same", "one"), ("rotate",)],
    "bind": [("set", "one", 1), ("set", "same", "one"), ("bind", "acme/alice")],
    "save, then rotate": [("set", "one", 1), ("save",), ("set", "same", "one"), ("rotate",)],
    "save, then save": [("set", "one", 1), ("save",), ("set", "same", "one")],
    "remember": [("set", "one", 1), ("max_age", 3000)],
    "confirm": [("set", "one", 1), ("set", "same", "one"), ("confirm",)],
    "append": [("atomically", "log", 1)],
    "save, then empty": [("set", "one", 1), ("save",), ("delete", "one"), ("delete", "first"), ("delete", "gone")],
}
OTHER: dict[str, Script] = {
    "save": [("set", "other", 2), ("set", "same", "other"), ("delete", "gone")],
    "touch": LOOK,
    "rotate": [("set", "other", 2), ("set", "same", "other"), ("rotate",)],
    "remember": [("set", "other", 2), ("max_age", 3000)],
    "append": [("atomically", "log", 2)],
    "late logout": [("start",), ("clear",), ("set", "other", 2)],
    "logout": [("clear",)],
    "revoke": REVOKE,
    "expire": EXPIRE,
}

Choose = Callable[[list[int]], int]


async def in_every_order(run: Callable[[Choose], Awaitable[None]]) -> int:
    """Run it again and again until whoever waits has been chosen wherever there was a choice. Returns how often."""
    ahead: list[list[int]] = [[]]
    runs = 0
    while ahead:
        path = ahead.pop()
        taken: list[tuple[int, list[int]]] = []

        def choose(waiting: list[int], path: list[int] = path, taken: list[tuple[int, list[int]]] = taken) -> int:
            chosen = path[len(taken)] if len(taken) < len(path) else waiting[0]
            taken.append((chosen, waiting))
            return chosen

        try:
            await run(choose)
        except Exception as error:
            error.add_note(f"turns: {[chosen for chosen, _ in taken]}")
            raise
        runs += 1
        for depth in range(len(path), len(taken)):
            chosen, waiting = taken[depth]
            before = [one for one, _ in taken[:depth]]
            ahead.extend([*before, another] for another in waiting if another != chosen)
    return runs


class Pair:
    """Two requests at once, or one and the session's end, by a browser that was here before."""

    def __init__(self, place: Place, clock: Clock, one: Script, other: Script) -> None:
        self.place = place
        self.clock = clock
        self.one = one
        self.other = other

    async def run(self, choose: Choose) -> None:  # noqa: C901 - a story
        self.clock.now = 1_800_000_000
        self.place.empty()
        world = World(self.clock.now, touch_after=0)
        turns = Turns(choose)
        stores = self.place.stores(turns)
        apps = [an_app(store, touch_after=0) for store in stores]
        first: Script = [("set", "first", 0), ("set", "gone", 0)]
        if ("confirm",) in self.one:
            first = [*first, ("bind", "acme/bob", "Firefox")]
        dictionary = Dictionary()
        made = await ask(apps[0], first)
        begun = play(world.request(first, None))
        dictionary.compare(begun, made)
        [old] = self.place.kept(self.clock.now)

        self.clock.now += 10
        world.now += 10
        jar, cookie = made.raw, made.raw

        def started(answer: Answer) -> None:
            nonlocal jar
            if answer.cookie is not None:
                jar = answer.raw

        async def one() -> Answer:
            return await ask(apps[0], self.one, cookie, started=started)

        async def other() -> Answer:
            if self.other is REVOKE:
                await stores[1].delete(old)
            elif self.other is EXPIRE:
                await turns.wait()
                self.clock.now += MAX_AGE
                turns.done()
            else:
                return await ask(apps[1], self.other, cookie, started=started)
            return Answer()

        answers = await turns.run([one, other])
        if self.other is REVOKE:
            modelled_other = world.revoke(0)
        elif self.other is EXPIRE:
            modelled_other = world.grow_old(MAX_AGE)
        else:
            modelled_other = world.request(self.other, begun.held)
        modelled = replay([world.request(self.one, begun.held), modelled_other], turns.order)
        for expected, answer in zip(modelled, answers, strict=True):
            dictionary.compare(expected, answer)
        kept = self.place.kept(self.clock.now)
        dictionary.compare_all(world, kept)
        await self._check(answers, jar, old, kept)

    async def _check(self, answers: list[Answer], jar: str | None, old: str, kept: dict[str, Kept]) -> None:
        """Check what must hold whatever the model says."""
        ends = self.other in (REVOKE, EXPIRE) or ("clear",) in self.other
        told = [answer.cookie[0] for answer in answers if isinstance(answer.cookie, tuple)]
        if (ends and self.other is not EXPIRE) or any(name != old for name in told):
            assert old not in kept, "a session came back"
        looked = await ask(an_app(self.place.stores(Turns(min))[1], touch_after=0), LOOK, jar)
        held = jar.removeprefix("session_id=").partition(".")[0] if jar else None
        if held in kept:
            assert {key: json.loads(value) for key, value in kept[held].data.items()} == looked.session
        else:
            assert looked.session == {}
            assert held is None or ends, "the browser was left with a dead session"
        if ends:
            return
        appended = [act for act in [*self.one, *self.other] if act[0] == "atomically"]
        if len(appended) == 2:
            assert len(json.loads(kept[old].data["log"])) == 2, "what was changed atomically was lost"
        # A cookie that a finished rotation made worthless begins another session: what it sets is in there.
        stored = {key for one in kept.values() for key in one.data}
        for key, script, answer in zip(("one", "other"), (self.one, self.other), answers, strict=True):
            sets = any(act[:2] == ("set", key) for act in script) and ("delete", key) not in script
            assert key in stored or not sets or answer.cookie is None, f"{key} was lost"


PAIRS = [(one, other) for one in ONE for other in OTHER if other != "append" or one in ("append", "rotate", "touch")]
"""What others change atomically meanwhile, few need to be tried with: most have it the other way round."""


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_two_requests_in_every_order_do_what_one_after_the_other_may(
    place: Place, clock: Clock, one: str, other: str
) -> None:
    """No session comes back, no change of another key is lost, and no answer sets a cookie for a dead session."""
    runs = asyncio.run(in_every_order(Pair(place, clock, ONE[one], OTHER[other]).run))
    assert runs >= 3


class ExchangesBlindly(DynamoDBStore):
    """Read, and change what was read, whoever comes between."""

    async def exchange(self, record: Record, decide: Decide, *, now: int) -> Record | None:
        stored = await self.load(record.id, now=now, consistency="strong")
        changes = None if stored is None else decide(stored)
        return stored if stored is None or changes is None else await self.update(stored, changes, now=now)


class ForgetsTheLogin(DynamoDBStore):
    """Move a session without what it does not know, as the version before had it."""

    async def rotate(self, record: Record, new_id: str, changes: Changes, *, now: int) -> Record | None:
        return await super().rotate(replace(record, label=None), new_id, changes, now=now)


@pytest.mark.parametrize(
    ("kind", "one", "other"), [(ExchangesBlindly, "append", "append"), (ForgetsTheLogin, "confirm", "touch")]
)
def test_a_store_that_loses_something_is_found_out(
    kind: type[DynamoDBStore], one: str, other: str, dynamodb_local_url: str, clock: Clock
) -> None:
    """A check that cannot fail is none."""
    place = Place(dynamodb_local_url, "async", kind)
    with pytest.raises(AssertionError):
        asyncio.run(in_every_order(Pair(place, clock, ONE[one], OTHER[other]).run))


# Cut off.


class CancelledAt:
    """A request that is cancelled when it waits for the n-th time, as asyncio does it or as anyio does."""

    def __init__(self, request: Awaitable[Answer], number: int, *, natively: bool) -> None:
        self.request = request
        self.number = number
        self.natively = natively
        self.waits = 0

    def __await__(self) -> Generator[Any, Any, Answer]:
        inner = self.request.__await__()
        sent: Any = None
        error: BaseException | None = None
        while True:
            try:
                waited_for = inner.send(sent) if error is None else inner.throw(error)
            except StopIteration as end:
                answer: Answer = end.value
                return answer
            if self.waits == self.number:
                self.cut()
            self.waits += 1
            try:
                sent, error = (yield waited_for), None
            except BaseException as thrown:  # noqa: BLE001 - it is passed on
                sent, error = None, thrown

    def cut(self) -> None:
        if self.natively:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        else:
            self.scope.cancel()

    async def run(self) -> bool:
        """Return whether it was cut off before it had ended."""

        async def go() -> None:
            with anyio.CancelScope() as self.scope:
                await self

        task = asyncio.create_task(go())
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return self.waits > self.number


class Waiting:
    """A store whose calls wait before and after, and which tells those that have begun."""

    def __init__(self, store: SessionStore) -> None:
        self.begun: list[str] = []
        for name in ("load", "create", "update", "exchange", "rotate", "delete"):
            setattr(self, name, self._waiting(name, getattr(store, name)))

    def _waiting(self, name: str, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            self.begun.append(name)
            await asyncio.sleep(0)
            result = await method(*args, **kwargs)
            await asyncio.sleep(0)
            return result

        return call


MANY = [("set", f"key{number}", number) for number in range(150)]

CHANGES: dict[str, Script] = {
    "create": [("clear",), ("set", "a", 2), ("set", "b", 2)],
    "update": [("set", "a", 2), ("set", "b", 2), ("delete", "c")],
    "update of many": [*MANY, ("delete", "c")],
    "rotate": [("set", "a", 2), ("delete", "c"), ("rotate",)],
    "bind": [("set", "a", 2), ("delete", "c"), ("bind", "acme/alice")],
    "logout": [("clear",)],
    "late": [("start",), ("set", "a", 2), ("delete", "c")],
}


def contents(place: Place, clock: Clock) -> list[dict[str, Any]]:
    return [
        {key: json.loads(value) for key, value in kept.data.items()} | {"owner": kept.owner}
        for kept in place.kept(clock.now).values()
    ]


@pytest.mark.parametrize("natively", [True, False], ids=["asyncio", "anyio"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_request_cut_off_anywhere_is_stored_whole_or_not_at_all(
    place: Place, clock: Clock, change: str, natively: bool
) -> None:
    before = {"a": 1, "b": 1, "c": 1}
    first: Script = [("set", key, value) for key, value in before.items()]

    done = asyncio.run(
        ask(an_app(MemoryStore()), [*first, *(act for act in CHANGES[change] if act[0] not in {"bind", "rotate"})])
    )
    possible = [[before | {"owner": None}]]
    if change in {"create", "logout"}:
        possible.append([])  # A logout counts even of a request that fails.
    if change != "logout":
        assert done.session is not None
        possible.append([done.session | {"owner": "acme/alice" if change == "bind" else None}])

    async def cut(number: int) -> bool:
        [store, _] = place.stores(Turns(min))
        cookie = (await ask(an_app(store), first)).raw
        waiting = Waiting(store)
        app = an_app(waiting)
        was_cut = await CancelledAt(ask(app, CHANGES[change], cookie), number, natively=natively).run()
        assert contents(place, clock) in possible, f"cut at {number}"
        if not natively and "delete" in waiting.begun:
            assert contents(place, clock) == [], f"cut at {number}: a logout that had begun was not finished"
        elif not natively and waiting.begun != ["load"] and waiting.begun:
            assert contents(place, clock) == possible[-1], f"cut at {number}: a save that had begun was not finished"
        return was_cut

    for number in range(1000):
        place.empty()
        was_cut = asyncio.run(cut(number))
        # A call that was cut off natively may still be under way in its thread.
        eventually(
            lambda: not any(thread.name.startswith("AnyIO") for thread in threading.enumerate()), patience=PATIENCE
        )
        assert contents(place, clock) in possible, f"cut at {number}"
        if not was_cut:
            break
    assert contents(place, clock) == possible[-1]
    assert number >= 3


def test_a_thousand_requests_cut_off_leave_nothing_behind(dynamodb_local_url: str, clock: Clock) -> None:
    """No thread, no token of the limiter and no connection is lost, and every session is whole."""
    chance = random.Random(SEED)
    place = Place(dynamodb_local_url)
    store = place.dynamodb[0]
    app = an_app(store)
    pool = pool_of(store, dynamodb_local_url)

    async def cut() -> None:
        cookies = [(await ask(app, [("set", "a", 1), ("set", "b", 1)])).raw for _ in range(10)]
        most = 0
        for batch in range(100):
            requests = [
                CancelledAt(
                    ask(app, [("set", "a", batch), ("set", "b", batch)], cookie),
                    chance.randrange(8),
                    natively=chance.random() < 0.5,
                )
                for cookie in cookies
            ]
            await asyncio.gather(*(request.run() for request in requests))
            most = max(most, threading.active_count())
        limiter = threads._limiter.get()
        # Everything that can be done at once, can: nothing is missing.
        answers = await asyncio.gather(*(ask(app, LOOK, cookies[0]) for _ in range(2 * threads.MAX_CONCURRENT_CALLS)))
        assert {answer.status for answer in answers} == {200}
        assert limiter.borrowed_tokens == 0
        assert limiter.statistics().tasks_waiting == 0
        assert most <= before + 2 * threads.MAX_CONCURRENT_CALLS

    before = threading.active_count()
    asyncio.run(cut())
    eventually(lambda: threading.active_count() <= before, patience=PATIENCE)
    assert pool.pool is not None
    assert pool.pool.qsize() == threads.MAX_CONCURRENT_CALLS
    for kept in place.kept(clock.now).values():
        assert kept.data["a"] == kept.data["b"]


def pool_of(store: DynamoDBStore, url: str) -> Any:
    """Where botocore keeps its connections: full when every one has been given back."""
    return store.client._endpoint.http_session._manager.connection_from_url(url)


# A client that hangs up.


def an_app_that_streams(store: SessionStore) -> Starlette:
    async def begin(request: Request) -> Response:
        request.session["begun"] = True
        return JSONResponse("")

    async def stream(request: Request) -> Response:
        async def words() -> Any:
            try:
                while True:
                    yield b"word " * 1000
                    request.session["heard"] = True
                    await anyio.sleep(0.001)
            finally:
                request.session["ended"] = True

        def background() -> None:
            request.session["background"] = True

        return StreamingResponse(words(), background=BackgroundTask(background))

    async def look(request: Request) -> Response:
        return JSONResponse(dict(request.session))

    routes = [Route("/begin", begin), Route("/stream", stream), Route("/look", look)]
    return Starlette(routes=routes, middleware=[Middleware(DynamoDBSessionMiddleware, KEY, store=store)])


@contextmanager
def served(app: Any) -> Iterator[int]:
    """Serve an app by a real uvicorn in a thread. Returns its port."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        eventually(lambda: server.started, patience=PATIENCE)
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        listening.close()
    assert not thread.is_alive()


def get(port: int, path: str, cookie: str = "", *, only: int = 0) -> bytes:
    """Send a request over a socket of its own. `only`: hang up after as many bytes of the answer."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while chunk := connection.recv(4096):
            answer += chunk
            if only and len(answer) >= only:
                break
        return answer


@pytest.mark.parametrize("kind", ["memory", "local", "async"])
def test_who_hangs_up_in_the_middle_of_a_stream_loses_nothing(kind: str, request: pytest.FixtureRequest) -> None:
    """Over a real socket: what the handler changed since the response started is stored all the same."""
    place = place_of(kind, request)
    store: SessionStore = place.memory if place.client is None else place.dynamodb[0]
    expected = {"begun": True, "heard": True, "ended": True, "background": True}
    with served(an_app_that_streams(store)) as port:
        for _ in range(5):
            begun = get(port, "/begin").decode()
            cookie = begun.partition("set-cookie: ")[2].partition(";")[0]
            get(port, "/stream", cookie, only=20_000)

            def looked(cookie: str = cookie) -> Any:
                return json.loads(get(port, "/look", cookie).rpartition(b"\r\n")[2])

            eventually(lambda: looked() == expected, patience=PATIENCE)


# Another instance, right after.


@pytest.mark.parametrize("transport", [None, "async"])
def test_after_a_redirect_another_instance_sees_the_new_session(transport: str | None, dynamodb_local_url: str) -> None:
    """As behind a load balancer: the page that a login leads to is served by somebody else."""
    place = Place(dynamodb_local_url, transport)

    async def log_in(request: Request) -> Response:
        request.session["user"] = request.path_params["user"]
        request.session.bind("acme/alice")  # type: ignore[attr-defined]
        return RedirectResponse("/home", 303)

    def home(request: Request) -> Response:
        return JSONResponse(dict(request.session))

    routes = [Route("/log_in/{user}", log_in, methods=["POST"]), Route("/home", home)]
    instances = [
        Starlette(routes=routes, middleware=[Middleware(DynamoDBSessionMiddleware, KEY, store=store)])
        for store in place.dynamodb
    ]

    async def go() -> None:
        cookie = ""
        for number in range(1_000):
            one, other = instances[number % 2], instances[1 - number % 2]
            status, cookie, _ = await send(one, "POST", f"/log_in/{number}", cookie)
            assert status == 303
            status, _, body = await send(other, "GET", "/home", cookie)
            assert (status, json.loads(body)) == (200, {"user": str(number)})

    asyncio.run(go())


async def send(app: Any, method: str, path: str, cookie: str) -> tuple[int, str, bytes]:
    """Return status, cookie and body."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    async def collect(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "method": method,
        "scheme": "https",
        "path": path,
        "query_string": b"",
        "headers": [(b"host", b"a"), (b"cookie", cookie.encode())],
    }
    await app(scope, receive, collect)
    headers = dict(sent[0]["headers"])
    given = headers.get(b"set-cookie", cookie.encode()).decode().partition(";")[0]
    return sent[0]["status"], given, b"".join(message.get("body", b"") for message in sent[1:])
