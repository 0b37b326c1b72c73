"""An operation is not an attempt: whatever becomes of attempts, some order of the operations, made once, explains it.

Two or three writers use one or two sessions of a table of the real engine. A scheduler decides which of their calls is
applied next, and what becomes of it: it is answered; it is applied and its reply is lost; it is held back, and lands at
any later time, or never; it is refused. What was loaded, what was answered, and what is stored in the end is held
against a specification in which every operation happens at one moment between its beginning and its end.

SESSIONS_TESTS=nightly runs more of everything; SESSIONS_SEED repeats a run.
"""

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import boto3
import pytest

from dynamodb_sessions import DynamoDBStore, MemoryStore, StoreUnavailable
from dynamodb_sessions.aws import table_calls
from dynamodb_sessions.aws.errors import ConditionFailed, OutcomeUnknown, Refused
from dynamodb_sessions.aws.table_calls import Operation
from dynamodb_sessions.exceptions import SessionError
from dynamodb_sessions.identifiers import new_born, new_id
from dynamodb_sessions.stores import dynamodb, table_schema, update_expression
from dynamodb_sessions.stores.contract import Changes, Decide, Expiry, Record, SessionStore, is_same
from dynamodb_sessions.stores.value_format import PLAIN
from tests.conftest import NIGHTLY, SEED, Clock

pytestmark = pytest.mark.slow

IDLE = 1000
BEGIN = 1_800_000_000
WRITES = frozenset(("put_item", "update_item", "delete_item", "transact_write_items"))


# What some order of the operations may leave.


class Kept(NamedTuple):
    """A session as everybody can see it, but for its version."""

    born: str | None
    data: frozenset[tuple[str, str]]
    owner: str | None
    max_age: int | None
    expires_at: int
    label: str | None = None
    authenticated_at: int | None = None


State = frozenset[tuple[str, Kept]]
"""What is stored, by id."""
Effect = Callable[[dict[str, Kept]], bool]
"""Does one operation to what is stored. False: it could not have had the result that it had."""


@dataclass(eq=False)
class Happening:
    """One operation, or a part of one that happens at a moment of its own."""

    what: str
    begun: int
    effects: list[Effect]
    """What it may have done: with one that is certain, this alone."""
    ended: int = 0
    is_certain: bool = True
    """Whether it has happened. Else it has, or has not."""
    may_be_late: bool = False
    """Whether it may happen after its failure was told: only its deadline allows that."""


NEVER = 10**9
DONE = "done "
"""What the state has of a creation that was made under its last id: then it cannot be made under an earlier one."""


def explains(happenings: list[Happening], first: State, last: State) -> bool:
    """Whether some order of them leads from one state to the other."""
    count = len(happenings)
    latest = [NEVER if each.may_be_late else each.ended for each in happenings]
    seen: set[tuple[int, State]] = set()

    def go(done: int, state: State) -> bool:
        if (done, state) in seen:
            return False
        seen.add((done, state))
        left = [number for number in range(count) if not done >> number & 1]
        visible = frozenset((name, kept) for name, kept in state if not name.startswith(DONE))
        if visible == last and not any(happenings[number].is_certain for number in left):
            return True
        # What ended before another began came before it.
        horizon = min((latest[number] for number in left if happenings[number].is_certain), default=NEVER)
        for number in left:
            each = happenings[number]
            if each.begun > horizon:
                continue
            passed = max((happenings[other].begun for other in range(count) if done >> other & 1), default=0)
            if latest[number] < passed:
                continue
            for effect in each.effects:
                kept = dict(state)
                if effect(kept) and go(done | 1 << number, frozenset(kept.items())):
                    return True
        return False

    return go(0, first)


def kept_of(record: Record) -> Kept:
    data = frozenset(record.data.items())
    return Kept(
        record.born, data, record.owner, record.max_age, record.expires_at, record.label, record.authenticated_at
    )


# The scheduler.

_who: ContextVar[int] = ContextVar("who")


@dataclass(eq=False)
class Ticket:
    """A call that waits for its turn."""

    who: int
    name: str
    may_go: asyncio.Event = field(default_factory=asyncio.Event)
    is_over: asyncio.Event = field(default_factory=asyncio.Event)
    fate: str = "answered"


class Scheduler:
    """Lets one call through at a time, and decides what becomes of it."""

    def __init__(self, store: DynamoDBStore, chance: random.Random, faults: int) -> None:
        self.now = 0
        """Counts whatever begins and ends."""
        self.trace: list[str] = []
        self.unknown: set[int] = set()
        """Whose operation has had an attempt of which nothing is known."""
        self.expired: set[int] = set()
        """Whose operation has come to its deadline."""
        self._chance = chance
        self._faults = faults
        self._waiting: list[Ticket] = []
        self._late: list[tuple[str, Callable[[], Awaitable[Any]]]] = []
        self._operations: dict[int, Operation] = {}
        self._call = store._calls._transport.call
        self._begin = store._calls.begin
        self._store = store

    def tick(self) -> int:
        self.now += 1
        return self.now

    def begin(self) -> Operation:
        operation = self._operations[_who.get()] = self._begin()
        return operation

    async def call(self, operation: str, *, deadline: float, **parameters: Any) -> dict[str, Any]:
        """Be the transport."""
        ticket = Ticket(_who.get(), operation)
        self._waiting.append(ticket)
        await ticket.may_go.wait()
        try:
            return await self._attempt(ticket, deadline, parameters)
        finally:
            ticket.is_over.set()

    async def _attempt(self, ticket: Ticket, deadline: float, parameters: dict[str, Any]) -> dict[str, Any]:
        who, name = ticket.who, ticket.name

        async def apply() -> dict[str, Any]:
            try:
                answer = await self._call(name, deadline=deadline + 3600, **parameters)
            except SessionError as error:
                self.trace.append(f"{who}: {name} {ticket.fate}: {type(error).__name__}")
                raise
            self.trace.append(f"{who}: {name} {ticket.fate}")
            return answer

        if ticket.fate == "refused":
            self.trace.append(f"{who}: {name} refused")
            raise Refused("throttled")
        if ticket.fate == "answered":
            return await apply()
        self.unknown.add(who)
        if ticket.fate == "lost":
            with suppress(SessionError):
                await apply()
        else:
            self.trace.append(f"{who}: {name} held")
            ticket.fate = "late"
            self._late.append((name, apply))
        if self._chance.random() < 0.1:
            self.trace.append(f"{who}: deadline")
            self.expired.add(who)
            self._operations[who].deadline = 0
        raise OutcomeUnknown("its reply is lost")

    async def run(self, programs: list[Callable[[], Awaitable[None]]]) -> None:
        """Run the programs at once, call by call, then let what is late land, or not."""
        self._store._calls._transport.call = self.call  # type: ignore[method-assign]
        self._store._calls.begin = self.begin  # type: ignore[method-assign]

        async def one(who: int, program: Callable[[], Awaitable[None]]) -> None:
            _who.set(who)
            await program()

        tasks = [asyncio.create_task(one(who, program)) for who, program in enumerate(programs)]
        try:
            while not await self._all_wait(tasks):
                if self._late and self._chance.random() < 0.3:
                    await self._land()
                    continue
                ticket = self._waiting.pop(self._chance.randrange(len(self._waiting)))
                if ticket.name in WRITES and self._faults and self._chance.random() < 0.4:
                    self._faults -= 1
                    ticket.fate = self._chance.choice(["lost", "lost", "held", "held", "held", "refused"])
                ticket.may_go.set()
                await ticket.is_over.wait()
            for task in tasks:
                await task
            while self._late:
                if self._chance.random() < 0.7:
                    await self._land()
                else:
                    self._late.pop()
        finally:
            self._store._calls._transport.call = self._call  # type: ignore[method-assign]
            self._store._calls.begin = self._begin  # type: ignore[method-assign]

    async def _land(self) -> None:
        _, apply = self._late.pop(self._chance.randrange(len(self._late)))
        with suppress(SessionError):
            await apply()

    async def _all_wait(self, tasks: list[asyncio.Task[None]]) -> bool:
        """Wait until every program that has not ended waits for a call of its own. True: all have ended."""
        settled = 0
        while settled < 5:  # One program may make several calls at once.
            before = len(self._waiting)
            await asyncio.sleep(0)
            busy = {who for who, task in enumerate(tasks) if not task.done()} - {one.who for one in self._waiting}
            settled = 0 if busy or len(self._waiting) != before else settled + 1
        return not self._waiting


# The writers.


class History:
    """What writers do to one or two sessions, and what they were told."""

    def __init__(self, store: DynamoDBStore, chance: random.Random, clock: Clock) -> None:
        self.store = store
        self.chance = chance
        self.clock = clock
        self.is_fixed = chance.random() < 0.4
        """Whether the ids are of the user's own: then sessions do not move, and others begin anew under them."""
        self.owner, self.other_owner = (f"{name}-{uuid.uuid4().hex}" for name in ("acme", "other"))
        self.scheduler = Scheduler(store, chance, faults=chance.choice([0, 1, 1, 2, 2, 3]))
        self.happenings: list[Happening] = []
        self.births: set[str | None] = set()
        self.heard: dict[int, int] = {}
        """The highest version that each writer has heard of."""
        names = [f"job-{uuid.uuid4().hex}" if self.is_fixed else new_id() for _ in range(chance.choice([1, 1, 2]))]
        self.ids = list(names)
        self.first = [self._record(name) for name in names if not (self.is_fixed and chance.random() < 0.2)]
        self.names = names

    def _record(self, name: str) -> Record:
        # One that an older version has created has nothing of its own to tell it by.
        born = None if self.chance.random() < 0.1 and not self.births else new_born()
        self.births.add(born)
        owner = self.owner if self.chance.random() < 0.5 else None
        now = self.clock.now
        return Record(name, {"n": "1"}, now, now + IDLE, 1, owner, None, born)

    async def run(self) -> None:
        for record in self.first:
            assert await self.store.create(record, now=self.clock.now) is not None
        first = frozenset((record.id, kept_of(record)) for record in self.first)
        programs = [self._writer(self.chance.choice([1, 2, 2, 3])) for _ in range(self.chance.choice([2, 2, 3]))]
        await self.scheduler.run(programs)
        last = set()
        for name in self.ids:
            found = await self.store.load(name, now=self.clock.now, consistency="strong")
            if isinstance(found, Record):
                last.add((name, kept_of(found)))
        assert explains(self.happenings, first, frozenset(last)), "no order explains it"

    def _writer(self, steps: int) -> Callable[[], Awaitable[None]]:
        async def write() -> None:
            name = self.chance.choice(self.names)
            record = None
            for _ in range(steps):
                self.clock.now += self.chance.random() < 0.3
                if record is None or self.chance.random() < 0.5:
                    record = await self._load(name)
                if record is None:
                    record = await self._without(name)
                else:
                    record = await self._with(record)
                if record is not None:
                    name = record.id
                    if record.id not in self.names and self.chance.random() < 0.3:
                        self.names.append(record.id)

        return write

    async def _load(self, name: str) -> Record | None:
        happening = self._begin("load", name)
        found = await self.store.load(name, now=self.clock.now)
        record = found if isinstance(found, Record) else None
        seen = None if record is None else kept_of(record)
        happening.effects = [lambda kept: kept.get(name) == seen]
        self._end(happening, f"load: {'a session' if record else found.__class__.__name__}")
        self.heard[_who.get()] = 0 if record is None else record.version
        return record

    async def _without(self, name: str) -> Record | None:
        if self.is_fixed and self.chance.random() < 0.8:
            return await self._create(name)
        if not self.is_fixed and self.chance.random() < 0.6:
            return await self._create(new_id(), replaces=name if self.chance.random() < 0.4 else None)
        if self.chance.random() < 0.5:
            await self._revoke()
        else:
            await self._delete_whatever(name)
        return None

    async def _with(self, record: Record) -> Record | None:
        moves = [self._rotate, self._rotate, self._bind, self._confirm, self._replace]
        fixed = [self._create_taken, self._confirm_in_place] if self.is_fixed else moves
        act = self.chance.choice(
            [
                *[self._set] * 6,
                self._pop,
                self._pop,
                self._set_both,
                *[self._append] * 3,
                self._touch,
                self._touch,
                self._remember,
                self._log_out,
                self._empty,
                self._end_it,
                self._revoke_of,
                *fixed,
            ]
        )
        return await act(record)

    async def _create_taken(self, record: Record) -> Record | None:
        return await self._create(record.id) or record

    async def _replace(self, record: Record) -> Record | None:
        return await self._create(new_id(), replaces=record.id)

    async def _create(self, name: str, replaces: str | None = None) -> Record | None:
        record = self._record(name)
        tried = [name]

        def fresh_id() -> str:
            tried.append(new_id())
            return tried[-1]

        def created(at: str) -> Effect:
            def create(kept: dict[str, Kept]) -> bool:
                is_last = at == tried[-1]
                if at in kept or DONE + str(record.born) in kept or (is_last and any(each in kept for each in tried)):
                    return False
                if replaces is not None:
                    kept.pop(replaces, None)
                kept[at] = kept_of(record)
                if is_last:
                    kept[DONE + str(record.born)] = Kept("", frozenset(), None, None, 0)
                return True

            return create

        happening = self._begin("create", name)
        try:
            stored = await self.store.create(
                record, now=self.clock.now, replaces=replaces, fresh_id=None if self.is_fixed else fresh_id
            )
        except StoreUnavailable as error:
            happening.effects = [created(tried[-1])]
            self._fail(happening, error)
            # Under an id of the user's own others begin sessions too, in place of the tombstone or before it could be
            # left there; once such a one has been ended, nothing is left that would keep a late attempt from landing.
            happening.may_be_late |= self.is_fixed
            stored = None
        else:
            happening.effects = [(lambda kept: name in kept) if stored is None else created(stored.id)]
            self._end(happening, "create: taken" if stored is None else "create: done")
        for each in tried[:-1]:
            # It may have been there, and been ended by others, before it was begun under the next id.
            self.happenings.append(
                Happening("create before", happening.begun, [created(each)], happening.ended, is_certain=False)
            )
        self.ids += tried
        self.heard[_who.get()] = 0 if stored is None else stored.version
        return stored

    async def _set(self, record: Record) -> Record | None:
        value = self.chance.choice("112")
        return await self._change(record, Changes(0, {self.chance.choice("nnm"): value}))

    async def _pop(self, record: Record) -> Record | None:
        return await self._change(record, Changes(0, remove=frozenset("n")))

    async def _set_both(self, record: Record) -> Record | None:
        """Change two at once, which here takes the replacement of all."""
        value = self.chance.choice("12")
        return await self._change(record, Changes(0, {"n": value, "m": value}))

    async def _append(self, record: Record) -> Record | None:
        """Change what is stored by what it is, one key or two."""
        now, letter, also = self.clock.now, self.chance.choice("abc"), self.chance.choice([{}, {}, {"m": "3"}])

        def appended(data: dict[str, str]) -> dict[str, str]:
            return {"log": data.get("log", "") + letter, **also}

        def decide(stored: Record) -> Changes:
            return Changes(now + (stored.max_age or IDLE), appended(dict(stored.data)))

        def change(kept: dict[str, Kept]) -> bool:
            stored = kept.get(record.id)
            if stored is None or stored.born != record.born:
                return False
            data = dict(stored.data)
            data |= appended(data)
            expires_at = now + (stored.max_age or IDLE)
            kept[record.id] = stored._replace(data=frozenset(data.items()), expires_at=expires_at)
            return True

        return await self._ask(f"append {letter}", record, None, change, self.store.exchange(record, decide, now=now))

    async def _confirm_in_place(self, record: Record) -> Record | None:
        return await self._change(record, Changes(0, authenticated_at=self.clock.now))

    async def _remember(self, record: Record) -> Record | None:
        return await self._change(record, Changes(0, max_age=self.chance.choice([0, 500, 3000])))

    async def _change(self, record: Record, changes: Changes) -> Record | None:
        now = self.clock.now
        max_age = record.max_age if changes.max_age is None else changes.max_age or None
        changes = replace(
            changes, expires_at=now + (max_age or IDLE), expiry=Expiry(now, IDLE), heard=self.heard[_who.get()]
        )

        def change(kept: dict[str, Kept]) -> bool:
            stored = kept.get(record.id)
            if stored is None or stored.born != record.born:
                return False
            data = {key: value for key, value in stored.data if key not in changes.remove} | dict(changes.set)
            own = stored.max_age if changes.max_age is None else changes.max_age or None
            proof = stored.authenticated_at if changes.authenticated_at is None else changes.authenticated_at
            kept[record.id] = stored._replace(
                data=frozenset(data.items()), max_age=own, expires_at=now + (own or IDLE), authenticated_at=proof
            )
            return True

        def prolong(kept: dict[str, Kept]) -> bool:
            stored = kept.get(record.id)
            if stored is not None and stored.born == record.born:
                kept[record.id] = stored._replace(expires_at=max(stored.expires_at, now + (stored.max_age or IDLE)))
            return True

        what = f"set {dict(changes.set)} remove {sorted(changes.remove)} max_age {changes.max_age}"
        held = changes.apply(record)
        begun = self.scheduler.now + 1
        stored = await self._ask(what, record, held, change, self.store.update(record, changes, now=now))
        if _who.get() in self.scheduler.unknown:
            # Where its changes are found there, ours or another's, the session lives on for as long as ours would let
            # it, though others have let it end sooner meanwhile, by a clock that is behind.
            ended = self.scheduler.now
            self.happenings.append(Happening("prolong", begun, [prolong], ended, is_certain=False))
        return stored

    async def _touch(self, record: Record) -> Record | None:
        now = self.clock.now
        until = now + (record.max_age or IDLE)

        def touch(kept: dict[str, Kept]) -> bool:
            stored = kept.get(record.id)
            if stored is None or stored.born != record.born:
                return False
            if stored.max_age == record.max_age:
                kept[record.id] = stored._replace(expires_at=max(stored.expires_at, until))
            return True

        changes = Changes(until)
        held = changes.apply(record)
        return await self._ask("touch", record, held, touch, self.store.update(record, changes, now=now))

    async def _rotate(self, record: Record, owner: str | None = None, *, proves: bool = False) -> Record | None:
        now, to = self.clock.now, new_id()
        created_at = None if owner is None else now
        label = None if owner is None else self.chance.choice([None, "Firefox"])
        until = now + (record.max_age or IDLE)
        changes = Changes(
            until,
            owner=owner,
            created_at=created_at,
            expiry=Expiry(now, IDLE),
            heard=self.heard[_who.get()],
            label=label,
            authenticated_at=now if proves else None,
        )

        def rotate(kept: dict[str, Kept]) -> bool:
            stored = kept.get(record.id)
            if stored is None or stored.born != record.born:
                return False
            del kept[record.id]
            kept[to] = stored._replace(
                owner=owner or stored.owner,
                expires_at=now + (stored.max_age or IDLE),
                label=stored.label if owner is None else label,
                authenticated_at=now if proves else stored.authenticated_at,
            )
            return True

        self.ids.append(to)
        what = "rotate" if owner is None else "bind"
        held = changes.move(record, to)
        return await self._ask(what, record, held, rotate, self.store.rotate(record, to, changes, now=now))

    async def _bind(self, record: Record) -> Record | None:
        return await self._rotate(record, self.other_owner, proves=True)

    async def _confirm(self, record: Record) -> Record | None:
        return await self._rotate(record, proves=True)

    async def _ask(
        self, what: str, record: Record, held: Record | None, effect: Effect, call: Awaitable[Record | None]
    ) -> Record | None:
        """Change a session that was loaded. Return what the writer knows of it then, as `commit` has it.

        `held`: what it expects to be stored; None: it takes whatever is.
        """
        happening = self._begin(what, record.id)
        happening.effects = [effect]
        try:
            stored = await call
        except StoreUnavailable as error:
            self._fail(happening, error)
            return None
        if stored is None:
            # It is gone; what an attempt may have done before it went, nobody can see.
            self._is_or_is_not(happening, lambda kept: self._is_gone(kept, record))
            if _who.get() not in self.scheduler.unknown:
                self.happenings.remove(happening)
        self._end(happening, f"{what}: {'gone' if stored is None else 'done'}")
        if stored is not None and held is None:
            self.heard[_who.get()] = stored.version
        if stored is None or held is None or stored == held:
            return stored
        # What others have changed meanwhile, the writer has not seen.
        self.heard[_who.get()] = max(stored.version, self.heard[_who.get()])
        return replace(stored, data=held.data, version=held.version)

    def _is_or_is_not(self, happening: Happening, known: Effect) -> None:
        """Note that an operation has happened or has not, but that this was true meanwhile."""
        happening.is_certain = False
        self.happenings.append(Happening("known", happening.begun, [known], self.scheduler.now + 1))

    @staticmethod
    def _is_gone(kept: dict[str, Kept], record: Record) -> bool:
        return record.id not in kept or kept[record.id].born != record.born

    @staticmethod
    def _ending(record: Record) -> Effect:
        """End a session, wherever it is; if it has moved, unless it is somebody else's by now."""

        def end(kept: dict[str, Kept]) -> bool:
            for name, stored in list(kept.items()):
                if stored.born == record.born and (name == record.id or stored.owner == record.owner):
                    del kept[name]
            return True

        return end

    async def _log_out(self, record: Record) -> None:
        await self._finish("log out", record, self._ending(record), self.store.delete(record.id, record=record))

    async def _empty(self, record: Record) -> Record | None:
        """End a session unless it has changed since it was loaded."""

        def end(kept: dict[str, Kept]) -> bool:
            if self._is_gone(kept, record) or kept[record.id].data != frozenset(record.data.items()):
                return False
            del kept[record.id]
            return True

        happening = self._begin("empty", record.id)
        happening.effects = [end]
        try:
            was_ended = await self.store.delete(record.id, record=record, version=record.version)
        except StoreUnavailable as error:
            self._fail(happening, error)
            return None
        if not was_ended:
            self.happenings.remove(happening)
        elif _who.get() in self.scheduler.unknown:
            # It is ended, by whomever.
            self._is_or_is_not(happening, lambda kept: all(stored.born != record.born for stored in kept.values()))
        self._end(happening, f"empty: {was_ended}")
        return None if was_ended else record

    async def _end_it(self, record: Record) -> None:
        await self._delete_whatever(record.id)

    async def _delete_whatever(self, name: str) -> None:
        def end(kept: dict[str, Kept]) -> bool:
            kept.pop(name, None)
            return True

        await self._finish("delete", None, end, self.store.delete(name))

    async def _finish(self, what: str, record: Record | None, effect: Effect, call: Awaitable[bool]) -> None:
        happening = self._begin(what, "" if record is None else record.id)
        happening.effects = [effect]
        try:
            await call
        except StoreUnavailable as error:
            self._fail(happening, error)
        else:
            self._end(happening, what)

    async def _revoke_of(self, _: Record) -> None:
        await self._revoke()

    async def _revoke(self) -> None:
        """End all sessions of the owner: each at a moment of its own."""
        begun, who = self.scheduler.tick(), _who.get()
        self.scheduler.unknown.discard(who)
        failure = None
        try:
            await self.store.revoke_owner(self.owner)
        except StoreUnavailable as error:
            failure = error
        ended = self.scheduler.tick()
        self.scheduler.trace.append(f"{who}: revoke: {failure or 'done'} ({begun}-{ended})")
        for born in self.births:

            def end(kept: dict[str, Kept], born: str | None = born) -> bool:
                for name, stored in list(kept.items()):
                    if stored.born == born and stored.owner == self.owner:
                        del kept[name]
                return True

            self.happenings.append(Happening(f"revoke {born}", begun, [end], ended, is_certain=failure is None))

    def _begin(self, what: str, name: str) -> Happening:
        who = _who.get()
        happening = Happening(what, self.scheduler.tick(), [])
        self.scheduler.unknown.discard(who)
        self.scheduler.expired.discard(who)
        self.scheduler.trace.append(f"{who}: begins {what} of {name[:8]} ({happening.begun})")
        self.happenings.append(happening)
        return happening

    def _end(self, happening: Happening, told: str) -> None:
        happening.ended = self.scheduler.tick()
        self.scheduler.trace.append(f"{_who.get()}: {told} ({happening.ended})")

    def _fail(self, happening: Happening, error: StoreUnavailable) -> None:
        who = _who.get()
        happening.is_certain = False
        happening.may_be_late = who in self.scheduler.expired
        self._end(happening, f"{happening.what}: 503, {error}")
        if who not in self.scheduler.unknown:
            self.happenings.remove(happening)


async def histories(store: DynamoDBStore, clock: Clock, count: int, *, label: str = "") -> None:
    for number in range(count):
        chance = random.Random(f"{SEED}/{label}/{number}")
        clock.now = BEGIN
        history = History(store, chance, clock)
        try:
            await history.run()
        except Exception as error:
            error.add_note("\n".join(history.scheduler.trace))
            error.add_note(f"SESSIONS_SEED={SEED}, history {number} of {label!r}")
            raise


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries need not wait; and what takes a replacement of all entries is what changes two."""
    monkeypatch.setattr(table_calls, "_FIRST_PAUSE", 0.0)
    monkeypatch.setattr(dynamodb, "_MAX_ENTRIES", 1)


@pytest.fixture
def table(dynamodb_local_url: str, table_name: str) -> Iterator[tuple[str, str]]:
    client = boto3.client("dynamodb", endpoint_url=dynamodb_local_url, region_name="us-east-1")
    table_schema.create(client, table_name)
    yield table_name, dynamodb_local_url
    client.delete_table(TableName=table_name)


@pytest.mark.parametrize("transport", [None, "async"])
def test_some_order_of_the_operations_explains_whatever_becomes_of_their_attempts(
    transport: Literal["async"] | None, table: tuple[str, str], clock: Clock
) -> None:
    name, url = table
    store = DynamoDBStore(name, endpoint_url=url, client=transport)
    count = 10_000 if NIGHTLY else 1_000
    asyncio.run(histories(store, clock, count if transport == "async" else count // 5, label=str(transport)))


# What it has found.


def lose_the_first_write(store: DynamoDBStore, meanwhile: Callable[[], Awaitable[Any]]) -> None:
    """Have a store's next write get no answer, and never be applied; something else happens meanwhile."""
    call = store._calls._transport.call

    async def lose(operation: str, *, deadline: float, **parameters: Any) -> dict[str, Any]:
        if operation not in WRITES:
            return await call(operation, deadline=deadline, **parameters)
        store._calls._transport.call = call  # type: ignore[method-assign]
        await meanwhile()
        raise OutcomeUnknown("its reply is lost")

    store._calls._transport.call = lose  # type: ignore[method-assign]


async def nothing() -> None:
    pass


@pytest.mark.parametrize("transport", [None, "async"])
def test_what_is_there_already_lives_for_as_long_as_if_it_had_been_written(
    transport: Literal["async"] | None, table: tuple[str, str]
) -> None:
    async def go() -> None:
        store = DynamoDBStore(table[0], endpoint_url=table[1], client=transport)
        record = Record(new_id(), {"n": "1"}, BEGIN, BEGIN + IDLE, born=new_born())
        await store.create(record, now=BEGIN)
        changes = Changes(BEGIN + 500 + IDLE, {"n": "1"}, expiry=Expiry(BEGIN + 500, IDLE))
        lose_the_first_write(store, nothing)
        changed = await store.update(record, changes, now=BEGIN + 500)
        assert changed is not None
        assert changed.expires_at == BEGIN + 500 + IDLE
        assert await store.load(record.id, now=BEGIN + 500) == changed

    asyncio.run(go())


@pytest.mark.parametrize("transport", [None, "async"])
def test_what_has_moved_meanwhile_is_not_said_to_be_ended(
    transport: Literal["async"] | None, table: tuple[str, str], clock: Clock
) -> None:
    """A session is emptied; the attempt gets no answer; another request gives the session a new id."""
    clock.now = BEGIN

    async def go() -> None:
        store = DynamoDBStore(table[0], endpoint_url=table[1], client=transport)
        record = Record(new_id(), {"n": "1"}, BEGIN, BEGIN + IDLE, born=new_born())
        await store.create(record, now=BEGIN)
        lose_the_first_write(store, lambda: store.rotate(record, new_id(), Changes(BEGIN + IDLE), now=BEGIN))
        assert not await store.delete(record.id, record=record, version=1)

    asyncio.run(go())


@pytest.mark.parametrize("kind", ["memory", None, "async"])
def test_what_is_begun_in_place_of_a_session_that_has_moved_does_not_hide_where_it_is(
    kind: str | None, table: tuple[str, str], clock: Clock
) -> None:
    """A logout is under way; a request rotates the session; another one, that had cleared it, begins a new one."""
    clock.now = BEGIN

    async def go() -> None:
        in_table = DynamoDBStore(table[0], endpoint_url=table[1], client=None if kind == "memory" else kind)
        store: SessionStore = MemoryStore() if kind == "memory" else in_table
        old, moved, anew = (Record(new_id(), {}, BEGIN, BEGIN + IDLE, born=new_born()) for _ in range(3))
        await store.create(old, now=BEGIN)
        await store.rotate(old, moved.id, Changes(BEGIN + IDLE), now=BEGIN)
        assert await store.create(anew, now=BEGIN, replaces=old.id, fresh_id=new_id) == anew
        await store.delete(old.id, record=old)
        assert await store.load(moved.id, now=BEGIN) is None
        assert await store.load(anew.id, now=BEGIN) == anew

    asyncio.run(go())


# A check that cannot fail is none: stores that each break one rule are found out.


class RepeatsUpdates(DynamoDBStore):
    """What an SDK does by itself: send the same again."""

    async def _update(
        self, operation: Operation, record: Record, changes: Changes, changed: Record, now: int
    ) -> Record | None:
        request = update_expression.first_attempt(record, changes, operation.id, now, PLAIN)
        try:
            await self._calls.repeat(operation, "update_item", TableName=self.table_name, **request)
        except ConditionFailed:
            return None
        return changed


class RepeatsCreations(DynamoDBStore):
    """… of a login: also after it was ended."""

    async def _is_created(self, operation: Operation, record: Record, now: int, _: OutcomeUnknown) -> bool:
        operation.is_unsettled = True
        with suppress(ConditionFailed):
            request = update_expression.creation(record, operation.id, now, PLAIN)
            await self._calls.repeat(operation, "put_item", TableName=self.table_name, **request)
        return True


class DeletesBlindly(DynamoDBStore):
    """Delete whatever is under an id, by an attempt that may be late."""

    async def delete(self, session_id: str, **_: Any) -> bool:
        return await self._delete(self._calls.begin(), session_id)


class LeavesNoFence(DynamoDBStore):
    """Read whether an attempt was applied, and believe it for ever."""

    async def _settle_update(
        self, operation: Operation, record: Record, changes: Changes, now: int, error: OutcomeUnknown
    ) -> Record | None:
        stored, _ = await self._read(operation, record.id, now)
        if isinstance(stored, Record) and changes.are_in(stored):
            return stored
        raise StoreUnavailable(str(error))


class BuriesNothing(DynamoDBStore):
    """Begin a session under a fresh id though the first attempt may land yet."""

    async def _is_created(self, operation: Operation, record: Record, now: int, _: OutcomeUnknown) -> bool:
        found = (await self._read(operation, record.id, now))[0]
        return isinstance(found, Record)


class MovesTwice(DynamoDBStore):
    """Take an attempt to move a session that got no answer for one that never happened."""

    async def _settle_rotation(self, *_: Any) -> Any:
        return None


class ExchangesAgain(DynamoDBStore):
    """Take an exchange that got no answer for one that never happened."""

    async def exchange(self, record: Record, decide: Decide, *, now: int) -> Record | None:
        operation = self._calls.begin()
        while True:
            stored, operations = await self._read(operation, record.id, now)
            if not isinstance(stored, Record) or not is_same(stored, record):
                return None
            changes = decide(stored)
            assert changes is not None
            changed = changes.apply(stored)
            request = self._exchanging(stored, operations, changes, changed, f"exchange:{operation.id}", now)
            with suppress(ConditionFailed, OutcomeUnknown):
                await self._calls.attempt(operation, "update_item", TableName=self.table_name, **request)
                return changed


class ForgetsTheProof(DynamoDBStore):
    """Move a session without what it does not know, as the version before has it."""

    async def rotate(self, record: Record, new_id: str, changes: Changes, *, now: int) -> Record | None:
        return await super().rotate(replace(record, authenticated_at=None), new_id, changes, now=now)


@pytest.mark.parametrize(
    "kind",
    [
        RepeatsUpdates,
        RepeatsCreations,
        DeletesBlindly,
        LeavesNoFence,
        BuriesNothing,
        MovesTwice,
        ExchangesAgain,
        ForgetsTheProof,
    ],
)
def test_a_store_that_breaks_a_rule_is_found_out(
    kind: type[DynamoDBStore], table: tuple[str, str], clock: Clock
) -> None:
    name, url = table
    store = kind(name, endpoint_url=url, client="async")
    with pytest.raises(AssertionError, match="no order explains it"):
        asyncio.run(histories(store, clock, 5_000))
