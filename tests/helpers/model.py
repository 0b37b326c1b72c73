"""The obvious model of sessions: a dict of them, and requests that take turns at it.

`World` is that model. It is written from what the README promises, in plain Python, and shares no code with the
package. `ask` sends a real request through the middleware; `Turns` lets several take turns at the store, call by call,
so that the model can be told the same order.
"""

import asyncio
import copy
import functools
import itertools
import json
import math
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dynamodb_sessions import DynamoDBSessionMiddleware, MemoryStore, Session, SessionError, StoreUnavailable
from dynamodb_sessions.stores.contract import SessionStore
from tests.conftest import KEY

MAX_AGE = 1000
MOVED_SECONDS = 60

Act = tuple[Any, ...]
Script = Sequence[Act]
Name = str | int
"""A session id: the real one, or the model's number for it."""

EXPIRED = "expired"


class BrokenError(Exception):
    """What a handler raises."""


class OutageError(Exception):
    """The model's store does not answer."""


@dataclass
class Kept:
    """A session as it is stored, its values as JSON."""

    data: dict[str, str]
    created_at: int
    expires_at: int
    version: int = 1
    owner: str | None = None
    max_age: int | None = None
    label: str | None = None
    authenticated_at: int | None = None
    born: int = field(default=0, compare=False, repr=False)
    """The model's alone: which session it is, wherever it moves."""


class Held(NamedTuple):
    """A cookie as the model has it: the version that it keeps, if not 0, and when the browser forgets it."""

    name: int
    version: int
    expires_at: int


@dataclass
class Answer:
    """What came of a request."""

    status: int = 0
    cookie: tuple[Name, int, int] | str | None = None
    """Id, version and Max-Age of the cookie that was set; or that it was expired."""
    held: Held | None = None
    """What the browser was told, if it was."""
    session: dict[str, Any] | None = None
    """As the handler left it; None: it did not run."""
    broke: bool = False
    """Whether an exception reached the server."""
    raw: str | None = None
    """The cookie as the browser sends it back."""


# What both a real session and the model's dict can be asked to do.


def alter(data: dict[str, Any], act: Act) -> None:
    match act:
        case ("set", key, value):
            data[key] = copy.deepcopy(value)
        case ("delete", key):
            data.pop(key, None)
        case ("nest", key, value):
            if not isinstance(data.get(key), list):
                data[key] = []
            data[key].append({"deep": copy.deepcopy(value)})
        case ("read",):
            data.get("anything")
        case ("nothing",):
            pass
        case _:
            raise NotImplementedError(act)


# The real thing.


async def perform(scope: Scope, _receive: Receive, send: Send) -> None:
    """The app: it does what the scope's script says."""
    session: Session = scope["session"]
    status, started = 200, False
    try:
        for act in scope["script"]:
            match act:
                case ("status", int(status)):
                    pass
                case ("start",):
                    await send({"type": "http.response.start", "status": status, "headers": []})
                    started = True
                case ("raise",):
                    raise BrokenError
                case ("save",):
                    await session.save()
                case ("atomically", key, value):
                    await atomically(session, ("nest", key, value))
                case _:
                    request_of(session, act)
    finally:
        scope["answer"].session = copy.deepcopy(dict(dict.items(session)))
    if not started:
        await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def atomically(session: Session, act: Act) -> None:
    """Do it to what is stored now, if there is anything to do it to."""
    try:
        await session.atomically(functools.partial(alter, act=act))
    except StoreUnavailable:
        raise
    except SessionError:
        pass


def request_of(session: Session, act: Act) -> None:
    match act:
        case ("rotate",):
            session.regenerate()
        case ("bind", owner):
            session.bind(owner)
        case ("bind", owner, label):
            session.bind(owner, label=label)
        case ("confirm",):
            if session.info.owner is not None:
                session.confirm_login()
        case ("max_age", seconds):
            session.set_max_age(seconds)
        case ("clear",):
            session.clear()
        case _:
            alter(session, act)


def an_app(store: Any, **options: Any) -> DynamoDBSessionMiddleware:
    return DynamoDBSessionMiddleware(perform, KEY, store=store, **{"max_age": MAX_AGE, "fallback": "error", **options})


def read_cookie(header: str, answer: Answer) -> None:
    pair, *attributes = header.split("; ")
    seconds = int(next(one for one in attributes if one.startswith("Max-Age=")).partition("=")[2])
    if seconds == 0:
        answer.cookie = EXPIRED
    else:
        name, number, _ = pair.removeprefix("session_id=").split(".")
        answer.cookie, answer.raw = (name, int(number) % 1_000_000, seconds), pair


async def ask(
    app: ASGIApp, script: Script, cookie: str | None = None, *, started: Callable[[Answer], None] = lambda _: None
) -> Answer:
    """Send a request, and call `started` when its response starts."""
    answer = Answer()
    headers = [] if cookie is None else [(b"cookie", cookie.encode())]
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "headers": headers,
        "script": script,
        "answer": answer,
    }

    async def receive() -> Message:
        await anyio.sleep_forever()
        raise AssertionError

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            for name, value in message["headers"]:
                if name.lower() == b"set-cookie":
                    assert answer.cookie is None, "two cookies"
                    read_cookie(value.decode(), answer)
            started(answer)

    try:
        await app(scope, receive, send)
    except (BrokenError, StoreUnavailable):
        answer.broke = True
    return answer


def kept_in_memory(store: MemoryStore, now: int) -> dict[str, Kept]:
    return {
        record.id: Kept(
            dict(record.data),
            record.created_at,
            record.expires_at,
            record.version,
            record.owner,
            record.max_age,
            record.label,
            record.authenticated_at,
        )
        for record, _ in store._records.values()
        if record.expires_at > now
    }


def kept_in_table(client: Any, table_name: str, now: int) -> dict[str, Kept]:
    items = client.scan(TableName=table_name, ConsistentRead=True)["Items"]
    return {
        item["session_id"]["S"]: Kept(
            {key: value["S"] for key, value in item["user_data"]["M"].items()},
            int(item["created_at"]["N"]),
            int(item["ttl"]["N"]),
            int(item["version"]["N"]),
            item.get("owner", {}).get("S"),
            int(item["max_age"]["N"]) if "max_age" in item else None,
            item.get("label", {}).get("S"),
            int(item["authenticated_at"]["N"]) if "authenticated_at" in item else None,
        )
        for item in items
        if "user_data" in item and int(item["ttl"]["N"]) > now
    }


def empty_table(client: Any, table_name: str) -> None:
    """Remove all there is, be it no session."""
    for item in client.scan(TableName=table_name, ConsistentRead=True)["Items"]:
        client.delete_item(TableName=table_name, Key={"session_id": item["session_id"]})


_who: ContextVar[int] = ContextVar("who")


class Turns:
    """Lets one request through at a time, as `choose` says, and only when every other one waits or has ended."""

    def __init__(self, choose: Callable[[list[int]], int]) -> None:
        self.order: list[int] = []
        """Whose store call has ended, one after the other: what the model is told."""
        self._choose = choose
        self._waiting: dict[int, asyncio.Event] = {}
        self._busy = 0
        self._all_wait = asyncio.Event()

    async def wait(self) -> None:
        """Wait for one's turn."""
        who = _who.get(None)
        if who is None:
            return
        mine = self._waiting[who] = asyncio.Event()
        self._rest()
        await mine.wait()

    def done(self) -> None:
        """Note that a store call has ended."""
        who = _who.get(None)
        if who is not None:
            self.order.append(who)

    async def run(self, requests: Sequence[Callable[[], Awaitable[Answer]]]) -> list[Answer]:
        self._busy = len(requests)

        async def one(number: int, request: Callable[[], Awaitable[Answer]]) -> Answer:
            _who.set(number)
            try:
                return await request()
            finally:
                self._rest()

        tasks = [asyncio.create_task(one(number, request)) for number, request in enumerate(requests)]
        while True:
            await self._all_wait.wait()
            self._all_wait.clear()
            if not self._waiting:
                break
            number = self._choose(sorted(self._waiting))
            self._busy += 1
            self._waiting.pop(number).set()
        return [await task for task in tasks]

    def _rest(self) -> None:
        self._busy -= 1
        if not self._busy:
            self._all_wait.set()


class InTurns:
    """A store whose calls take turns, or only tell when they have ended."""

    def __init__(self, store: SessionStore, turns: Turns, *, waits: bool = True, keeps_versions: bool = False) -> None:
        self.keeps_versions = keeps_versions
        for name in ("load", "create", "update", "exchange", "rotate", "delete"):
            setattr(self, name, self._in_turn(getattr(store, name), turns, waits=waits))

    @staticmethod
    def _in_turn(method: Callable[..., Awaitable[Any]], turns: Turns, *, waits: bool) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            if waits:
                await turns.wait()
            result = await method(*args, **kwargs)
            turns.done()
            return result

        return call


# The model.


def as_json(data: dict[str, Any]) -> dict[str, str]:
    return {key: json.dumps(value, ensure_ascii=False, separators=(",", ":")) for key, value in data.items()}


@dataclass(frozen=True)
class Call:
    """A store call that a request waits for, and what it does. A `write` can fail otherwise than a `load`."""

    kind: str
    effect: Callable[[], Any]


Steps = Generator[Call, Any, Answer]
Part = Generator[Call, Any, bool]


class World:
    """All the sessions there are, and the time.

    `forgets`: an expired session is removed as soon as it is seen, and where it has moved when another one moves.
    `waits`: a store call takes a while, in which other tasks run. `keeps_versions`: cookies keep the version.
    """

    def __init__(
        self,
        now: int,
        *,
        forgets: bool = True,
        absolute_max_age: int | None = None,
        touch_after: int | None = None,
        waits: bool = True,
        keeps_versions: bool = False,
    ) -> None:
        self.now = now
        self.keeps_versions = keeps_versions
        self.forgets = forgets
        self.absolute_max_age = absolute_max_age
        self.touch_after = touch_after
        self.waits = waits
        self.kept: dict[int, Kept] = {}
        self.moved: dict[int, tuple[int, int]] = {}
        """Where sessions have moved, and until when that is known."""
        self.jar: Held | None = None
        """The cookie that the browser holds."""
        self._numbers = itertools.count()

    def new_name(self) -> int:
        return next(self._numbers)

    def find(self, name: int, now: int) -> Kept | None:
        kept = self.kept.get(name)
        if kept is not None and kept.expires_at <= now:
            if self.forgets:
                del self.kept[name]
            return None
        return kept

    def move(self, name: int, to: int, now: int) -> None:
        """Note where a session has moved."""
        self.kept.pop(name, None)
        self.moved[name] = to, now + MOVED_SECONDS
        while self.forgets and self.moved[oldest := next(iter(self.moved))][1] <= now:
            del self.moved[oldest]

    def has_moved(self, name: int, now: int) -> bool:
        return name not in self.kept and self.moved.get(name, (0, 0))[1] > now

    def end(self, name: int, before: Kept | None) -> None:
        """End a session, as it was loaded; where it has moved, unless it is somebody else's by now."""
        here = name
        while before is not None and self.has_moved(here, self.now):
            here = self.moved[here][0]
        kept = self.kept.get(here)
        if here == name or (before and kept and (kept.born, kept.owner) == (before.born, before.owner)):
            self.kept.pop(here, None)

    def living(self) -> dict[int, Kept]:
        return {name: kept for name, kept in self.kept.items() if kept.expires_at > self.now}

    def expires_at(self, now: int, created_at: int, max_age: int | None) -> int:
        idle = now + (max_age or MAX_AGE)
        return idle if self.absolute_max_age is None else min(idle, created_at + self.absolute_max_age)

    def revoke(self, name: int) -> Steps:
        yield Call("write", lambda: self.kept.pop(name, None))
        return Answer()

    def grow_old(self, seconds: int) -> Steps:
        yield Call("time", lambda: setattr(self, "now", self.now + seconds))
        return Answer()

    def request(self, script: Script, cookie: Held | None) -> Steps:
        return Request(self).run(script, cookie)

    def request_of_the_browser(self, script: Script, first: Held | None) -> Steps:
        """A request that begins when it has its turn, with the given cookie or, with none, the browser's."""
        yield Call("begin", lambda: None)
        return (yield from Request(self).run(script, self.jar if first is None else first))


class Request:
    """One request as the README has it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.name: int | None = None
        """What is named by the browser, or by us since."""
        self.before: Kept | None = None
        """What was stored when this request last looked, and what it has changed of it since."""
        self.data: dict[str, Any] = {}
        self.loaded: Kept | None = None
        self.held: Held | None = None
        """The cookie by which the session was found."""
        self.committed_at: int | None = None
        """When something was stored last."""
        self.is_due = self.waited = self.looked_at = False
        """Whether it was to be touched when it was loaded, and whether the app has waited for something since."""
        self.used = self.cleared = self.rotates = self.started = self.refused = self.gone = self.moved = False
        self.written: set[str] = set()
        """What was assigned, be it what it was: somebody else may have changed it."""
        self.owner: str | None = None
        self.label: str | None = None
        self.proves = False
        """Whether the owner has just proved who they are."""
        self.max_age: int | None = None
        self.settled = self.told = 0
        """How many commits there were, and the version that the last one has heard of."""
        self.status = 200
        self.answer = Answer()

    def run(self, script: Script, cookie: Held | None) -> Steps:
        if cookie is not None:
            name, now = cookie.name, self.world.now
            self.name = name
            try:
                self.before, self.moved = copy.deepcopy((yield Call("load", lambda: self._look(name, now))))
            except OutageError:
                return Answer(503)
            if self.before is not None:
                self.data = {key: json.loads(value) for key, value in self.before.data.items()}
                self.loaded, self.is_due = self.before, self._gains(self.before, self.world.now)
                self.held, self.told = cookie, self.before.version
        try:
            yield from self._handle(script)
        except (BrokenError, OutageError) as error:
            yield from self._touch_meanwhile()
            yield from self._give_up()
            if isinstance(error, OutageError) and not self.started:
                self.answer.status = 503
            else:
                self.answer.broke = True
        else:
            if self.refused or self.status >= 500:
                yield from self._give_up()
            else:
                yield from self._commit_late()
        return self.answer

    def _touch_meanwhile(self) -> Part:
        """A touch overlaps the handler, if that waits: it is made though the handler fails, or again if it is long."""
        before, data = self.before, as_json(self.data)
        if before is None or before is not self.loaded or not (self.waited and self.is_due and self.used):
            return True
        if self.refused or (self.started and self.status >= 500) or self.gone or self.cleared or self.rotates:
            return True
        if data != before.data or self.written & data.keys() or self.max_age is not None:
            return True
        try:
            return (yield from self._touch(before, self.world.now))
        except OutageError:
            return False

    def _look(self, name: int, now: int) -> tuple[Kept | None, bool]:
        return self.world.find(name, now), self.world.has_moved(name, now)

    def _handle(self, script: Script) -> Part:
        try:
            for act in script:
                yield from self._do(act)
        finally:
            self.answer.session = copy.deepcopy(self.data)
        if not self.started and not self.refused:
            yield from self._start()
        return True

    def _do(self, act: Act) -> Part:  # noqa: C901, PLR0912 - a table
        self.used |= act[0] not in {"nothing", "status", "start", "raise", "save", "confirm"}
        self.looked_at |= self.used or act[0] == "confirm"
        match act:
            case ("status", status):
                self.status = status
            case ("start",):
                yield from self._start()
            case ("raise",):
                raise BrokenError
            case ("save",):
                yield from self._save()
            case ("atomically", key, value):
                yield from self._atomically(("nest", key, value))
            case ("rotate",):
                self.rotates = True
            case ("bind", owner, *label):
                self.rotates, self.owner, self.label, self.proves = True, owner, label[0] if label else None, True
            case ("confirm",):
                if self.owner or (self.before and not self.cleared and self.before.owner):
                    self.used = self.rotates = self.proves = True
            case ("max_age", seconds):
                self.max_age = seconds or 0
            case ("clear",):
                self.data.clear()
                self.cleared, self.rotates, self.owner, self.max_age = True, False, None, None
                self.label, self.proves = None, False
            case _:
                if act[0] == "set" or (act[0] == "nest" and not isinstance(self.data.get(act[1]), list)):
                    self.written.add(act[1])
                alter(self.data, act)
        return True

    def _start(self) -> Part:
        try:
            if self.status >= 500:
                yield from self._honour_logout()
            else:
                yield from self._commit()
        except OutageError:
            self.refused, self.answer.status = True, 503
            return False
        self.started, self.answer.status = True, self.status
        self._tell()
        self.used = self.used and self.status >= 500  # For a touch, once will do.
        return True

    def _tell(self) -> None:
        """Tell the browser what changes for it: a write to a session that it has is nothing it need know."""
        before, name, committed = self.before, self.name, self.committed_at is not None
        if self.gone or (before is None and not committed):
            return
        now = self.world.now if self.committed_at is None else self.committed_at
        extends = self.used and self.status < 500
        held = self.held if self.held is not None and self.held.name == name else None
        expires_at = now
        if before is not None and name is not None:
            expires_at = before.expires_at
            if extends:
                expires_at = self.world.expires_at(now, before.created_at, before.max_age)
            gained = math.inf if held is None else abs(expires_at - held.expires_at)
            # One that expires when its session does is due when that is, and then the session is touched.
            apart = committed or (held is not None and held.expires_at != before.expires_at)
            renews = held is None or ((extends or committed) and apart and gained >= self._step(before))
            keeps = self.world.keeps_versions or (held is not None and held.version > 0 and not renews)
            version = self.told if keeps else 0
            misses = held is None or (version != held.version and (committed or (self.looked_at and not held.version)))
            if not renews and not misses:
                return
            self.answer.held = Held(name, version, expires_at)
            self.answer.cookie = (name, version, expires_at - now)
        if expires_at <= now:
            self.answer.cookie, self.answer.held = EXPIRED, None
        self.world.jar = self.answer.held

    def _commit_late(self) -> Part:
        try:
            return (yield from self._touch_meanwhile()) and (yield from self._commit())
        except OutageError:
            return False

    def _give_up(self) -> Part:
        try:
            return (yield from self._honour_logout())
        except OutageError:
            return False

    def _honour_logout(self) -> Part:
        if self.cleared and self.name is not None:
            yield from self._end()
        return True

    def _may_be_copy(self) -> bool:
        """Whether what is to get a new id may have ended before it was loaded: a store's cache may be late."""
        held = self.held
        if held is None or not held.version or not self.world.keeps_versions or self.committed_at is not None:
            return False
        return not (self.cleared or self.started) and (self.owner is not None or not self.proves)

    def _look_again(self) -> Part:
        """Find out whether it has ended. Then only what was assigned since is to be stored."""
        name, now = self.name, self.world.now
        if self.before is None or name is None or (self.gone and self.owner is None):
            return True
        found, moved = yield Call("load", lambda: self._look(name, now))
        if found is None:
            self.data = {key: value for key, value in self.data.items() if key in self.written}
            self.before, self.told, self.gone, self.moved = None, 0, False, moved
        return True

    def _commit(self) -> Part:
        if self.rotates and self._may_be_copy():
            yield from self._look_again()
        if self.gone and not self.cleared and self.owner is None and (self.before is not None or not self.rotates):
            return False
        if self.before is None or self.cleared:
            if not self.data and self.owner is None:
                return (yield from self._honour_logout()) and not self.gone
            if self.moved and not (self.cleared or self.rotates):
                # It is late: what moved has a cookie of its own, which no new session is to replace.
                self.gone = True
                return False
            return (yield from self._begin_anew())
        return (yield from self._change(self.before))

    def _save(self) -> Part:
        """Commit, and find out whether the session still lives if nothing had to be stored."""
        settled = self.settled
        yield from self._commit()
        if self.settled != settled:
            return True
        name, now = self.name, self.world.now
        if self.gone or self.cleared or self.rotates or self.before is None or name is None:
            return True
        self.waited = self.world.waits
        if (yield Call("load", lambda: self.world.find(name, now))) is None:
            self.gone = True
        return True

    def _atomically(self, act: Act) -> Part:
        """Change what is stored now. What this request has not saved yet is left out of it, and stays so."""
        if self.cleared or self.rotates or (self.before is None and self.started):
            return False
        if self.gone or self.moved:
            self.gone = True
            return False
        now, is_new = self.world.now, self.before is None
        name = self.world.new_name() if is_new or self.name is None else self.name

        def write() -> Kept | None:
            kept = Kept({}, now, 0, 0, born=name) if is_new else self.world.find(name, now)
            if kept is None:
                return None
            data = {key: json.loads(value) for key, value in kept.data.items()}
            alter(data, act)
            until = self.world.expires_at(now, kept.created_at, kept.max_age)
            self.world.kept[name] = replace(kept, data=as_json(data), version=kept.version + 1, expires_at=until)
            return self.world.kept[name]

        kept = copy.deepcopy((yield Call("write", write)))
        if kept is None:
            self.gone = True
            return False
        known, held = {} if self.before is None else self.before.data, as_json(self.data)
        unsaved = {key for key, value in held.items() if key in self.written or value != known.get(key)}
        unsaved |= known.keys() - held.keys()
        self.data = {key: value for key, value in self.data.items() if key in unsaved}
        self.data |= {key: json.loads(value) for key, value in kept.data.items() if key not in unsaved}
        self.name, self.before, self.told = name, kept, kept.version
        self.committed_at = now
        return True

    def _change(self, before: Kept) -> Part:
        now, data = self.world.now, as_json(self.data)
        change = {key: value for key, value in data.items() if before.data.get(key) != value or key in self.written}
        removed = before.data.keys() - data.keys()
        owner, rotates, proves, own = self.owner, self.rotates, self.proves, self.max_age
        assert self.name is not None
        if removed and not data and owner is None:
            return (yield from self._empty(before))
        if rotates and self.started:
            # Nobody can be told a new id any more, so it keeps its own, and its owner.
            owner, rotates, proves = None, False, False
            if not (change or removed or own is not None):
                return True
        if not (change or removed or rotates or owner is not None or own is not None):
            return (yield from self._touch(before, now))
        name = self.name
        new_name = self.world.new_name() if rotates else name

        def write() -> Kept | None:
            kept = self.world.find(name, now)
            if kept is None:
                return None
            changed = self._changed(kept, change, removed, now, owner, proves=proves)
            if new_name != name:
                self.world.move(name, new_name, now)
            self.world.kept[new_name] = changed
            return changed

        kept = yield Call("write", write)
        if kept is None and rotates and owner is not None:
            return (yield from self._log_in_anew(new_name, before, data, owner, now))
        return self._heard(kept, new_name, replace(before, data=data), now)

    def _log_in_anew(self, name: int, before: Kept, data: dict[str, str], owner: str, now: int) -> Part:
        """Whoever has just logged in is logged in, though the session from before is gone."""
        max_age = before.max_age if self.max_age is None else self.max_age or None
        expires_at = self.world.expires_at(now, now, max_age)
        new = Kept(data, now, expires_at, 1, owner, max_age, self.label, now, born=name)

        def begin() -> None:
            self.world.kept[name] = copy.deepcopy(new)

        yield Call("write", begin)
        self._settle(name, new, now)
        return True

    def _changed(
        self,
        kept: Kept,
        change: dict[str, str],
        removed: Iterable[str],
        now: int,
        owner: str | None = None,
        *,
        proves: bool = False,
    ) -> Kept:
        """Return what these changes make of what is stored, whose lifetime is its own."""
        max_age = kept.max_age if self.max_age is None else self.max_age or None
        created_at = kept.created_at if owner is None else now  # A login is when its owner's session begins.
        return Kept(
            {key: value for key, value in kept.data.items() if key not in removed} | change,
            created_at,
            self.world.expires_at(now, created_at, max_age),
            kept.version + 1,
            owner or kept.owner,
            max_age,
            kept.label if owner is None else self.label,
            now if proves else kept.authenticated_at,
            kept.born,
        )

    def _step(self, before: Kept) -> int:
        """Return the seconds that a touch, or another cookie, is to gain."""
        step = self.world.touch_after
        return math.ceil((before.max_age or MAX_AGE) / 10) if step is None else step

    def _gains(self, before: Kept, now: int) -> bool:
        """Whether a touch would gain enough."""
        return self.world.expires_at(now, before.created_at, before.max_age) - before.expires_at >= self._step(before)

    def _touch(self, before: Kept, now: int) -> Part:
        expires_at = self.world.expires_at(now, before.created_at, before.max_age)
        if not self.used or not self._gains(before, now):
            return not self.gone
        name = self.name
        assert name is not None

        def write() -> Kept | None:
            kept = self.world.find(name, now)
            if kept is not None and kept.max_age == before.max_age:
                kept.expires_at = max(kept.expires_at, expires_at)
            return kept

        kept = yield Call("write", write)
        return self._heard(kept, name, replace(before, version=before.version - 1), now, self.told)

    def _empty(self, before: Kept) -> Part:
        """End what has nothing left in it, unless others have added something."""
        name, now, known = self.name, self.world.now, before.version
        assert name is not None

        def end() -> bool:
            kept = self.world.kept.get(name)
            if kept is None or kept.version != known:
                return False
            del self.world.kept[name]
            return True

        def write() -> Kept | None:
            kept = self.world.find(name, now)
            if kept is not None:
                kept = self.world.kept[name] = self._changed(kept, {}, before.data.keys(), now)
            return kept

        while not (yield Call("write", end)):
            found = yield Call("load", lambda: copy.deepcopy(self.world.find(name, now)))
            if found is None:
                return self._heard(None, name, before, now)
            if found.data.keys() - before.data.keys():
                return self._heard((yield Call("write", write)), name, replace(before, data={}), now)
            known = found.version
        self._settle(None, None)
        return True

    def _heard(self, kept: Kept | None, name: int, before: Kept, now: int, told: int = 0) -> bool:
        """Take what is stored for what this request knows now, but of others' changes."""
        if kept is None:
            self.gone = True
            return False
        held = replace(kept, data=before.data, version=before.version + 1)
        self._settle(name, held, now, max(kept.version, told))
        return True

    def _begin_anew(self) -> Part:
        old = self.name if self.cleared or self.rotates else None
        if self.started:
            if old is not None:
                yield Call("write", lambda: self.world.end(old, self.before))
                self._settle(None, None)
            self.gone = True
            return False
        name, now = self.world.new_name(), self.world.now
        proof = now if self.proves else None
        new = Kept(as_json(self.data), now, 0, 1, self.owner, self.max_age or None, self.label, proof, born=name)
        new.expires_at = self.world.expires_at(now, now, new.max_age)

        def write() -> None:
            if old is not None and not self.world.has_moved(old, now):
                self.world.move(old, name, now)
            self.world.kept[name] = copy.deepcopy(new)

        yield Call("write", write)
        self._settle(name, new, now)
        return True

    def _end(self) -> Part:
        name = self.name
        assert name is not None
        yield Call("write", lambda: self.world.end(name, self.before))
        self._settle(None, None)
        return True

    def _settle(self, name: int | None, kept: Kept | None, now: int = 0, version: int = 1) -> None:
        self.name, self.before = name, copy.deepcopy(kept)
        self.settled += 1
        self.cleared = self.rotates = self.proves = self.gone = self.moved = False
        self.written = set()
        self.owner = self.label = None
        if kept is not None:  # Else the next one is to live for as long.
            self.max_age = None
        self.told, self.committed_at = version, now


def play(steps: Steps, fault: Any = None) -> Answer:
    """Let one request do all its calls, some of which may fail."""
    try:
        call = next(steps)
        while True:
            when = None if fault is None else fault.strikes(call.kind)
            if when is None:
                call = steps.send(call.effect())
            else:
                if when == "after":
                    call.effect()
                call = steps.throw(OutageError())
    except StopIteration as end:
        answer: Answer = end.value
        return answer


def replay(requests: Sequence[Steps], order: Sequence[int | Callable[[], None]]) -> list[Answer]:
    """Let the requests do their calls in the given order, between which other things may happen."""
    answers: dict[int, Answer] = {}
    calls: dict[int, Call] = {}

    def advance(who: int, *sent: Any) -> None:
        try:
            calls[who] = requests[who].send(*sent)
        except StopIteration as end:
            answers[who] = end.value

    for who in range(len(requests)):
        advance(who, None)
    for step in order:
        if callable(step):
            step()
        else:
            advance(step, calls.pop(step).effect())
    assert not calls, "a request made fewer calls than it should"
    return [answers[who] for who in range(len(requests))]


def in_order(kept: Iterable[Kept]) -> list[str]:
    return sorted(repr(replace(one, data=dict(sorted(one.data.items())))) for one in kept)


class Dictionary:
    """Which real id is which of the model's, learnt from the cookies."""

    def __init__(self) -> None:
        self.real: dict[int, str] = {}

    def compare(self, expected: Answer, actual: Answer) -> None:
        assert (expected.status, expected.broke) == (actual.status, actual.broke)
        # A table does not keep the order of a session's keys, but that within a value.
        assert (expected.session is None) == (actual.session is None)
        assert as_json(expected.session or {}) == as_json(actual.session or {})
        if not isinstance(expected.cookie, tuple):
            assert expected.cookie == actual.cookie
            return
        assert isinstance(actual.cookie, tuple), f"{actual.cookie} instead of {expected.cookie}"
        assert expected.cookie[1:] == actual.cookie[1:], f"{actual.cookie} instead of {expected.cookie}"
        number, name = expected.cookie[0], actual.cookie[0]
        assert isinstance(number, int)
        assert isinstance(name, str)
        assert (number in self.real) == (name in self.real.values())
        assert self.real.setdefault(number, name) == name

    def compare_all(self, world: World, stored: dict[str, Kept]) -> None:
        """Whether all that is stored is what should be: of sessions whose cookie was never sent, the id is unknown."""
        living, left = world.living(), dict(stored)
        assert {self.real[number]: living.pop(number) for number in tuple(living) if number in self.real} == {
            name: left.pop(name) for name in stored if name in self.real.values()
        }
        assert in_order(living.values()) == in_order(left.values())
