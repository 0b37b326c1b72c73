"""Several instances in front of one table, and browsers whose requests take turns at every call: the oracle of reads.

Everything that happens is in one order, which chance decides. The world knows what was stored when, so it can say of
each read whether it is what was stored at some moment within the seconds that a cache may keep it for, not older than
what the browser has seen, nor than what the same instance has itself done. Time passes when the world lets it.
"""

import asyncio
import contextlib
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

import anyio
from botocore.exceptions import ClientError
from starlette.types import Message, Receive, Scope, Send

from benchmarks.stub import Items
from dynamodb_sessions import DynamoDBSessionMiddleware, DynamoDBStore, Session, SessionError
from dynamodb_sessions.aws.errors import OutcomeUnknown, translate
from dynamodb_sessions.identifiers import new_born
from dynamodb_sessions.session.session import state_of
from dynamodb_sessions.stores import item_format
from dynamodb_sessions.stores.contract import Record
from dynamodb_sessions.stores.value_format import PLAIN
from dynamodb_sessions.web.cookie import MAX_VERSION
from tests.conftest import KEY, Clock

SECONDS = 4.0
STALE = 1.0
"""For so long a read that is not strong may miss what was written."""
MAX_AGE = 3600
SHORT = 5
"""Seconds that a session may live for."""
TABLE = "sessions"
_QUIET = 3
"""How many turns of the event loop in which nobody is ready: a task that has ended is heard of a turn or two later."""

Item = dict[str, Any]
T = TypeVar("T")


class Engine(Protocol):
    """A table."""

    def call(self, operation: str, parameters: dict[str, Any]) -> dict[str, Any]: ...


class Fake:
    """A table in this process."""

    def __init__(self) -> None:
        self._items = Items()

    def call(self, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        name = operation.title().replace("_", "")
        status, body = self._items.answer(name.encode(), json.dumps(parameters).encode())
        found: dict[str, Any] = json.loads(body)
        if status == 200:
            return found
        code = found["__type"].rpartition("#")[2]
        refusal: Any = {"Error": {"Code": code}, "CancellationReasons": found.get("CancellationReasons", [])}
        raise ClientError(refusal, name)


class Real:
    """A table of an engine."""

    def __init__(self, client: Any, table_name: str) -> None:
        self._client = client
        self._table_name = table_name

    def call(self, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        for write in parameters.get("TransactItems", [{"": parameters}]):
            next(iter(write.values()))["TableName"] = self._table_name
        answer: dict[str, Any] = getattr(self._client, operation)(**parameters)
        return answer


@dataclass
class Done:
    """One operation of an instance: when it began, and when it last changed what is stored under an id."""

    begun: int
    applied: dict[str, int] = field(default_factory=dict)
    is_over: bool = False


@dataclass(frozen=True)
class State:
    """What was stored under an id from one moment on."""

    tick: int
    time: float
    item: Item | None

    def record(self, session_id: str) -> Record | None:
        if self.item is None or not item_format.is_session(self.item):
            return None
        return item_format.to_record(session_id, self.item, PLAIN)


class Began(NamedTuple):
    """The moment at which a read began."""

    tick: int
    time: float
    done: int
    """When the last operation of the same instance on the session was applied that had ended by then."""


doing: ContextVar[Done | None] = ContextVar("doing", default=None)


class World:
    """The table, its history, and the order of all that happens."""

    def __init__(self, chance: random.Random, engine: Engine, clock: Clock, *, loses: bool, kind: str) -> None:
        self.chance = chance
        self.faults: list[str] = []
        self.monotonic = 1000.0
        self.wall = self.now = float(clock.now)
        self._engine = engine
        self._clock = clock
        self.loses = loses
        self._kind = kind
        self._ticks = 0
        self._history: dict[str, list[State]] = {}
        self._waiting: list[anyio.Event] = []
        self._group: Any = None
        self.at_once = anyio.Semaphore(chance.choice([1, 2, 3, 9]))
        """How many visits may overlap."""

    def tick(self) -> int:
        self._ticks += 1
        return self._ticks

    async def run(self, works: Sequence[Callable[[], Awaitable[None]]]) -> None:
        """Let all of them end, one step of one of them at a time."""
        left = len(works)

        async def do(work: Callable[[], Awaitable[None]]) -> None:
            nonlocal left
            await work()
            left -= 1

        async with anyio.create_task_group() as self._group:
            for work in works:
                self._group.start_soon(do, work)
            await _all_others_wait()
            while self._waiting:
                self._let_time_pass()
                self._waiting.pop(self.chance.randrange(len(self._waiting))).set()
                await _all_others_wait()
            if left:
                self.faults.append(f"{left} wait for ever")
                self._group.cancel_scope.cancel()

    def soon(self, work: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Do it when it is its turn."""
        self._group.start_soon(work, *args)

    async def step(self, *_: object) -> None:
        """Wait for the turn to go on."""
        turn = anyio.Event()
        self._waiting.append(turn)
        await turn.wait()

    def _let_time_pass(self) -> None:
        """Let some time pass, which not every clock may notice."""
        if self.chance.random() > 0.12:
            return
        seconds = self.chance.choice([0.25, 0.5, 1, 2, 3.75])
        if self.chance.random() < 0.1:
            seconds = self.chance.choice([400, MAX_AGE])
        self.now += seconds
        self.wall += seconds
        if self._kind != "frozen" or self.chance.random() < 0.5:
            self.monotonic += seconds
        if self._kind == "set back" and self.chance.random() < 0.2:
            self.wall -= self.chance.choice([1, 3])
        self._clock.now = int(self.wall)

    # What the instances call.

    async def call(self, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """Apply a call at its turn, and answer at another one. A write may get no answer, or be late."""
        await self.step()
        fate = "answered"
        if operation != "get_item" and self.loses and self.chance.random() < 0.15:
            fate = self.chance.choice(["lost", "never", "late"])
        if fate == "late":
            self.soon(self._apply_late, operation, parameters)
        if fate in ("late", "never"):
            await self.step()
            raise OutcomeUnknown("no answer")
        answer = self._apply(operation, parameters)
        await self.step()
        if fate == "lost":
            raise OutcomeUnknown("no answer")
        if isinstance(answer, SessionError):
            raise answer
        return answer

    async def _apply_late(self, operation: str, parameters: dict[str, Any]) -> None:
        await self.step()
        self._apply(operation, parameters)

    def _apply(self, operation: str, parameters: dict[str, Any]) -> dict[str, Any] | SessionError:
        if operation == "get_item":
            return self._read(parameters)
        writes = [next(iter(write.values())) for write in parameters.get("TransactItems", [{"": parameters}])]
        try:
            answer: dict[str, Any] | SessionError = self._engine.call(operation, parameters)
        except ClientError as error:
            answer = translate(error)
        for write in writes:
            self._note(write.get("Key", write.get("Item"))["session_id"]["S"])
        return answer

    def _note(self, session_id: str) -> None:
        """Note what is stored under an id now, if that is something else."""
        request = {"TableName": TABLE, "Key": item_format.key(session_id), "ConsistentRead": True}
        item = self._engine.call("get_item", request).get("Item")
        states = self._history.setdefault(session_id, [State(0, 0.0, None)])
        if states[-1].item == item:
            return
        states.append(State(self.tick(), self.now, item))
        done = doing.get()
        if done is not None and not done.is_over:
            done.applied[session_id] = states[-1].tick

    def _read(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Read, what is stored or, if that will do, what was stored a moment ago."""
        if parameters["ConsistentRead"]:
            return self._engine.call("get_item", parameters)
        states = self._states(parameters["Key"]["session_id"]["S"])
        item = self.chance.choice([state.item for state, end in states if end is None or end.time > self.now - STALE])
        return {} if item is None else {"Item": item}

    def _states(self, session_id: str) -> list[tuple[State, State | None]]:
        """Return what was stored under an id, each with what came next."""
        states = self._history.get(session_id, [State(0, 0.0, None)])
        return list(zip(states, [*states[1:], None], strict=True))

    # What is promised of a read.

    def check(self, instance: "Instance", session_id: str, found: Record | None, began: "Began", **told: Any) -> None:
        """Note a fault if a read is not what it may be."""
        begun, time, demanded = began
        floor = told.get("min_version", 0)
        is_cached = instance.seconds and floor and told.get("consistency", "default") == "default"
        if instance.is_cheap and not is_cached and told.get("consistency") != "strong":
            return  # It may be stale by itself.
        window = instance.seconds if is_cached and found is not None and found.version >= floor else 0.0

        def fits(state: State, end: State | None) -> bool:
            record = state.record(session_id)
            if found is None:
                if record is not None and record.expires_at > told["now"]:
                    return False
            elif record != found or found.expires_at <= told["now"]:
                return False
            if end is None or record is None or record.expires_at <= told["now"]:
                return end is None or end.tick > begun
            return (end.tick > begun or end.time > time - window) and end.tick > demanded

        if not any(fits(state, end) for state, end in self._states(session_id)):
            seen = None if found is None else f"version {found.version}, {sorted(found.data)}"
            stored = [f"#{state.tick}: {_shown(state, session_id)}" for state, _ in self._states(session_id)]
            self.faults.append(
                f"{instance.name} read {seen} from #{begun} to #{self._ticks}, though the browser had seen version "
                f"{floor}, its own last operation was #{demanded}, and there was stored {stored}"
            )


def _shown(state: State, session_id: str) -> str:
    record = state.record(session_id)
    at = f"{state.time - 1_800_000_000:.2f} s"
    return f"{at}, nothing" if record is None else f"{at}, version {record.version}, {sorted(record.data)}"


class Gated:
    """A transport whose calls the world applies, each at its turn."""

    timeout = 5.0
    region_name = "us-east-1"
    client = None

    def __init__(self, world: World) -> None:
        self._world = world

    async def call(self, operation: str, *, deadline: float, **parameters: Any) -> dict[str, Any]:  # noqa: ARG002
        return await self._world.call(operation, parameters)

    def call_sync(self, operation: str, **parameters: Any) -> dict[str, Any]:  # noqa: ARG002
        return {}

    def check_event_loop(self) -> None:
        pass

    def renew(self) -> None:
        pass


class Instance(DynamoDBStore):
    """The store of one instance: it tells the world of each read, and knows what it has itself done."""

    def __init__(self, name: str, world: World, **options: Any) -> None:
        super().__init__(TABLE, client=_NoClient(), compress_over=None, **options)
        transport: Any = Gated(world)
        self._calls._transport = transport
        self.name = name
        self.seconds = options.get("cache_seconds", 0.0)
        self.is_cheap = not options.get("consistent_read", True)
        self.done: dict[str, int] = {}
        self._world = world

    async def load(self, session_id: str, **options: Any) -> Record | None:
        began = Began(self._world.tick(), self._world.now, self.done.get(session_id, 0))
        found = await super().load(session_id, **options)
        self._world.check(self, session_id, found, began, **options)
        return found

    async def create(self, record: Record, **options: Any) -> Record | None:
        return await self._noted(super().create(record, **options), record.id)

    async def update(self, record: Record, *args: Any, **options: Any) -> Record | None:
        return await self._noted(super().update(record, *args, **options), record.id)

    async def exchange(self, record: Record, *args: Any, **options: Any) -> Record | None:
        return await self._noted(super().exchange(record, *args, **options), record.id)

    async def rotate(self, record: Record, *args: Any, **options: Any) -> Record | None:
        return await self._noted(super().rotate(record, *args, **options), record.id)

    async def delete(self, session_id: str, **options: Any) -> bool:
        return await self._noted(super().delete(session_id, **options), session_id)

    async def _noted(self, work: Awaitable[T], session_id: str) -> T:
        """Do it. What was stored before is not to be read here any more."""
        done = Done(self._world.tick())
        token = doing.set(done)
        try:
            result = await work
        finally:
            doing.reset(token)
            done.is_over = True
        for each, tick in {session_id: done.begun, **done.applied}.items():
            self.done[each] = max(tick, self.done.get(each, 0))
        return result


class _NoClient:
    """What a store takes for a client, and never calls."""

    def get_item(self, **parameters: Any) -> None: ...


@dataclass
class Visit:
    """One request, what its handler saw, and what became of it."""

    act: str
    key: str
    sent: int = 0
    arrived: int = 0
    has_version: bool = False
    """Whether its cookie says which version the browser has seen: then a write is told the new one."""
    saw: dict[str, Any] = field(default_factory=dict)
    born: str | None = None
    """Of the session that it found."""
    wrote: str | None = None
    """Of the session that it wrote to before its response began."""
    status: int = 0
    is_cancelled: bool = False


class Browser:
    """A cookie, and the visits whose responses have arrived, in that order."""

    def __init__(self, name: str, cookie: bytes = b"") -> None:
        self.name = name
        self.cookie = cookie
        self.arrived: list[Visit] = []

    @property
    def session_id(self) -> str:
        return self.cookie.partition(b"=")[2].partition(b".")[0].decode()

    @property
    def version(self) -> int:
        """The version that the cookie says the browser has seen; 0: none."""
        return int(self.cookie.split(b".")[1]) % (MAX_VERSION + 1) if self.cookie else 0

    def hear(self, visit: Visit, told: list[bytes]) -> None:
        """Take what a response says: the cookie that arrives last is the one that counts."""
        if visit.status != 200:
            visit.wrote = None
        for value in told:
            self.cookie = b"" if b"Max-Age=0" in value else value.partition(b";")[0]
        self.arrived.append(visit)

    def must_see(self) -> list[Visit]:
        """Return the writes that a visit that is sent now must see: those that no other visit overlapped.

        One that arrived before counts only if the write was sent without a version: then its response, from an instance
        that needs none, leaves the browser with the version that the other one has told it.
        """
        return [
            write
            for place, write in enumerate(self.arrived)
            if write.wrote is not None
            and all(later.sent > write.arrived for later in self.arrived[place + 1 :])
            and (write.has_version or all(earlier.arrived < write.sent for earlier in self.arrived[:place]))
        ]


async def app(scope: Scope, _receive: Receive, send: Send) -> None:
    """Do what the visit is for."""
    visit, session = scope["visit"], scope["session"]
    visit.saw = dict(session)
    visit.born = _born(session)
    start: Message = {"type": "http.response.start", "status": 500 if visit.act == "broken" else 200, "headers": []}
    if visit.act == "late":
        await send(start)
    await _do(visit, session)
    if visit.act != "late":
        await send(start)
    if visit.act in ("write", "save", "atomically"):
        visit.wrote = _born(session)
    await send({"type": "http.response.body", "body": b""})


async def _do(visit: Visit, session: Session) -> None:
    if visit.act in ("write", "late", "save", "broken"):
        session[visit.key] = 1
    match visit.act:
        case "save":
            await session.save()
        case "atomically" if visit.born is not None:
            await session.atomically(lambda data: data.__setitem__(visit.key, 1))
        case "reload":
            await session.reload()
        case "short":
            session.set_max_age(SHORT)
        case "rotate":
            session.regenerate()
        case "logout":
            session.clear()


def _born(session: Session) -> str | None:
    state = state_of(session)
    return None if state.record is None or state.is_ended else state.record.born


async def request(world: World, middleware: DynamoDBSessionMiddleware, browser: Browser, visit: Visit) -> None:
    """Make one visit: it is sent at its turn, and its response arrives at another one."""
    async with world.at_once:
        await world.step()
        await _make(world, middleware, browser, visit)


async def _make(world: World, middleware: DynamoDBSessionMiddleware, browser: Browser, visit: Visit) -> None:
    visit.sent = world.tick()
    visit.has_version = browser.version > 0
    expected = browser.must_see()
    headers = [(b"cookie", browser.cookie)] if browser.cookie else []
    told: list[bytes] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            visit.status = message["status"]
            told.extend(value for name, value in message["headers"] if name == b"set-cookie")

    scope: Scope = {"type": "http", "method": "GET", "scheme": "https", "path": "/", "headers": headers, "visit": visit}
    with anyio.CancelScope() as cancelling:
        if visit.is_cancelled:
            world.soon(_cancel, world, cancelling)
        try:
            await middleware(scope, receive, send)
        except SessionError:  # The session was ended under an exchange.
            visit.status = 500
    if cancelling.cancelled_caught:
        return
    for write in expected:
        if write.wrote == visit.born and write.key not in visit.saw:
            world.faults.append(f"{browser.name} does not see {write.key}, which it has written before")
    if visit.status == 503 and not world.loses:
        world.faults.append(f"{visit.act} was refused")
    await world.step()
    visit.arrived = world.tick()
    browser.hear(visit, told)


async def _cancel(world: World, scope: anyio.CancelScope) -> None:
    await world.step()
    scope.cancel()


async def begin_anew(world: World, store: DynamoDBStore, session_id: str) -> None:
    """Create another session under the id of one, as `open_session` may, once that has ended."""
    await world.step()
    now = int(world.wall)
    record = Record(session_id, {"anew": "1"}, now, now + MAX_AGE, born=new_born())
    with contextlib.suppress(SessionError):
        await store.create(record, now=now)


KEEPING = ("read", "read", "read", "write", "write", "late", "save", "reload", "broken")
ENDING = ("atomically", "short", "rotate", "logout")
"""What may end the session, or change it in ways that leave the cache nothing."""


async def one_day(
    chance: random.Random,
    engine: Engine,
    clock: Clock,
    *,
    watch: Callable[[World], None],
    kinds: Sequence[str] = ("steady", "steady", "frozen", "set back"),
    visits: int = 12,
) -> World:
    """Let browsers visit a site of several instances, in an order that chance decides. Return what came of it.

    `kinds` are of days: on which both clocks go, the monotonic one may stand still, or the wall clock may be set back.
    """
    kind = chance.choice(kinds)
    world = World(chance, engine, clock, loses=chance.random() < 0.3, kind=kind)
    watch(world)
    stores = [
        Instance("x", world, cache_seconds=SECONDS),
        Instance("y", world, cache_seconds=SECONDS, consistent_read=chance.random() < 0.5),
        Instance("without", world),
    ]
    touch_after = 2 if chance.random() < 0.3 else None
    sites = [
        DynamoDBSessionMiddleware(app, KEY, max_age=MAX_AGE, touch_after=touch_after, store=each, fallback="error")
        for each in stores
    ]
    for site in sites:
        await site.store.initialise()  # type: ignore[attr-defined]
    ada = Browser("ada")
    world.loses, loses = False, world.loses
    await world.run([lambda: request(world, sites[0], ada, Visit("write", "first"))])
    world.loses = loses
    thief = Browser("thief", ada.cookie)
    works: list[Callable[[], Awaitable[None]]] = []
    acts = KEEPING + (ENDING if chance.random() < 0.5 else ())
    for number in range(visits):
        browser, site = chance.choices([ada, thief], [4, 1])[0], chance.choices(sites, [3, 2, 1])[0]
        visit = Visit(chance.choice(acts), f"k{number}", is_cancelled=chance.random() < 0.05)
        works.append(lambda visit=visit, browser=browser, site=site: request(world, site, browser, visit))  # type: ignore[misc]
    if chance.random() < 0.3:
        works.append(lambda: begin_anew(world, chance.choice(stores), thief.session_id))
    await world.run(works)
    return world


async def _all_others_wait() -> None:
    """Return once every other task waits for something, and nobody is about to be told of an end."""
    here, quiet = asyncio.current_task(), 0
    while quiet < _QUIET:
        await asyncio.sleep(0)
        are_ready = any(task is not here and _is_ready(task) for task in asyncio.all_tasks())
        quiet = 0 if are_ready else quiet + 1


def _is_ready(task: Any) -> bool:
    waiter = task._fut_waiter
    return waiter is None or waiter.done()
