"""Whatever is asked of sessions, in whatever order, while time goes by and the store fails: they do as the model does.

SESSIONS_TESTS=nightly runs more of everything; SESSIONS_SEED repeats a run.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import boto3
import hypothesis
import pytest
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from dynamodb_sessions import DynamoDBStore, MemoryStore, StoreUnavailable
from dynamodb_sessions.stores.contract import SessionStore
from tests.conftest import NIGHTLY, SEED, Clock
from tests.helpers.model import (
    Act,
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

pytestmark = pytest.mark.slow

ABSOLUTE_MAX_AGE = 5000


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Thousands of lines about outages that are meant would hide what is wrong."""
    caplog.set_level(logging.CRITICAL, "dynamodb_sessions")


# Requests in any order.


def a_script(chance: random.Random, number: int) -> Script:
    """What some handler might do."""
    changes: list[Act] = [
        ("set", f"own{number}", chance.random()),
        ("set", "same", number),
        ("set", chance.choice("abc"), {"by": number}),
        ("delete", chance.choice("abc")),
        ("nest", "list", number),
        ("max_age", chance.choice([None, 400, 3000])),
        ("clear",),
        ("save",),
        ("read",),
        ("atomically", chance.choice(["a", "list"]), number),
    ]
    login = ("bind", f"owner{number}", chance.choice([None, "Firefox"]))
    early: list[Act] = [*changes, ("rotate",), login, ("confirm",), ("nothing",)]
    script = chance.choices(early, k=chance.choice([1, 1, 2, 3, 4]))
    if chance.random() < 0.2:
        script += [("start",), *chance.choices(changes, k=chance.choice([1, 2]))]
    trouble = chance.random()
    if trouble < 0.06:
        script.insert(0, ("status", 500))
    elif trouble < 0.09:
        script.append(("raise",))
    return script


async def one_interleaving(chance: random.Random, clock: Clock) -> None:  # noqa: C901 - a story
    store, keeps_versions = MemoryStore(), chance.random() < 0.5
    world, dictionary = World(clock.now, keeps_versions=keeps_versions), Dictionary()
    first: Script = [("set", "a", 1), ("set", "b", [1, {"c": None}]), ("set", "list", [])]
    if chance.random() < 0.5:
        first = [*first, ("bind", "first", "Chrome")]
    turns = Turns(lambda waiting: waiting[0])
    made = await ask(an_app(InTurns(store, turns, keeps_versions=keeps_versions)), first)
    begun = play(world.request(first, None))
    dictionary.compare(begun, made)
    jar = made.raw
    events: list[int | Callable[[], None]] = []

    def choose(waiting: list[int]) -> int:
        events.extend(turns.order)
        turns.order.clear()
        if chance.random() < 0.1:
            seconds = chance.choice([1, 100, 600, 1001])
            clock.now += seconds
            events.append(lambda: setattr(world, "now", world.now + seconds))
        return chance.choice(waiting)

    turns = Turns(choose)
    app = an_app(InTurns(store, turns, keeps_versions=keeps_versions))
    scripts = [a_script(chance, number) for number in range(chance.choice([3, 4, 5]))]
    stale = [chance.random() < 0.5 for _ in scripts]

    def a_request(script: Script, *, stale: bool) -> Callable[[], Awaitable[Answer]]:
        def started(answer: Answer) -> None:
            nonlocal jar
            if answer.cookie is not None:
                jar = answer.raw

        async def request() -> Answer:
            await turns.wait()
            turns.done()
            return await ask(app, script, made.raw if stale else jar, started=started)

        return request

    answers = await turns.run([a_request(script, stale=old) for script, old in zip(scripts, stale, strict=True)])
    events.extend(turns.order)
    try:
        requests = [
            world.request_of_the_browser(script, begun.held if old else None)
            for script, old in zip(scripts, stale, strict=True)
        ]
        for expected, answer in zip(replay(requests, events), answers, strict=True):
            dictionary.compare(expected, answer)
        dictionary.compare_all(world, kept_in_memory(store, clock.now))
    except Exception as error:
        for who, script in enumerate(scripts):
            error.add_note(f"request {who}, with {'the first' if stale[who] else 'the last'} cookie: {script}")
        error.add_note(f"turns: {[step if isinstance(step, int) else 'time' for step in events]}")
        raise


async def _interleavings(count: int, clock: Clock) -> None:
    for number in range(count):
        try:
            await one_interleaving(random.Random(f"{SEED}/{number}"), clock)
        except Exception as error:
            error.add_note(f"SESSIONS_SEED={SEED}, interleaving {number}")
            raise


def test_requests_in_any_order_do_what_the_model_does(clock: Clock) -> None:
    """Three to five requests, call by call, with time going by."""
    asyncio.run(_interleavings(10_000 if NIGHTLY else 1_000, clock))


# Any history of one table.


@dataclass
class Fault:
    """Store calls of a request that fail: the first of a kind, or all; before their work is done, or after."""

    kind: str
    when: str
    lasts: bool
    spent: bool = False

    def strikes(self, kind: str) -> str | None:
        if kind != self.kind or (self.spent and not self.lasts):
            return None
        self.spent = True
        return self.when


class Faulty:
    """A store whose calls can fail."""

    def __init__(self, store: SessionStore) -> None:
        self.fault: Fault | None = None
        for name in ("load", "create", "update", "exchange", "rotate", "delete"):
            setattr(self, name, self._failing(getattr(store, name), "load" if name == "load" else "write"))

    def _failing(self, method: Callable[..., Awaitable[Any]], kind: str) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            when = None if self.fault is None else self.fault.strikes(kind)
            if when == "before":
                raise StoreUnavailable("it is out")
            result = await method(*args, **kwargs)
            if when == "after":
                raise StoreUnavailable("its answer is lost")
            return result

        return call


class Memory:
    """Where the sessions of the state machine are kept: here."""

    forgets = True

    def __init__(self) -> None:
        self._store = MemoryStore()

    def reset(self) -> None:
        self._store = MemoryStore()

    def store(self) -> SessionStore:
        return self._store

    def kept(self, now: int) -> dict[str, Kept]:
        return kept_in_memory(self._store, now)


class Table:
    """… or in a table."""

    forgets = False

    def __init__(self, url: str, table_name: str, client: str | None) -> None:
        self._options: dict[str, Any] = {"endpoint_url": url, "client": client}
        self._client = boto3.client("dynamodb", endpoint_url=url, region_name="us-east-1")
        self._name = table_name
        DynamoDBStore(table_name, client=self._client, create_table=True).probe()

    def reset(self) -> None:
        empty_table(self._client, self._name)

    def store(self) -> SessionStore:
        return DynamoDBStore(self._name, **self._options)

    def kept(self, now: int) -> dict[str, Kept]:
        return kept_in_table(self._client, self._name, now)


NOBODY = (None, None)

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
_keys = st.sampled_from(["a", "b", "a.b", "ü", "#", "x" * 100])
_ages = st.sampled_from([None, 1, 400, 3000])
_faults = (
    st.none()
    | st.none()
    | st.builds(Fault, st.sampled_from(["load", "write"]), st.sampled_from(["before", "after"]), st.booleans())
)
_changes = st.one_of(
    st.tuples(st.just("set"), _keys, _json),
    st.tuples(st.just("delete"), _keys),
    st.tuples(st.just("nest"), _keys, _json),
    st.tuples(st.just("atomically"), _keys, _json),
    st.tuples(st.just("max_age"), _ages),
    st.sampled_from([("read",), ("clear",), ("save",), ("nothing",)]),
)
_early = _changes | st.sampled_from(
    [("rotate",), ("bind", "acme/alice", "Firefox"), ("bind", "acme/bob"), ("confirm",)]
)
_scripts = st.builds(
    lambda status, early, late, end: [*status, *early, *([("start",), *late] if late else []), *end],
    st.sampled_from([[], [], [], [("status", 404)], [("status", 500)]]),
    st.lists(_early, max_size=5),
    st.just([]) | st.lists(_changes.filter(lambda act: act != ("save",)), max_size=3),
    st.sampled_from([[], [], [], [("raise",)]]),
)


class Sessions(RuleBasedStateMachine):
    """Whatever browsers do, with cookies new and old, while the store fails and time goes by, either way."""

    cookies = Bundle("cookies")
    clock: ClassVar[Clock]
    place: ClassVar[Memory | Table]

    def __init__(self) -> None:
        super().__init__()
        self.clock.now = 1_800_000_000
        self.place.reset()
        self.world = World(
            self.clock.now,
            forgets=self.place.forgets,
            absolute_max_age=ABSOLUTE_MAX_AGE,
            waits=isinstance(self.place, Table),
        )
        self.dictionary = Dictionary()
        self.runner = asyncio.Runner()
        self.restart()

    def teardown(self) -> None:
        self.runner.close()

    def request(self, cookie: Any, script: Script, fault: Fault | None = None) -> Any:
        held, raw = cookie
        expected = play(self.world.request(script, held), None if fault is None else replace(fault))
        self.store.fault = None if fault is None else replace(fault)
        answer = self.runner.run(ask(self.app, script, raw))
        self.dictionary.compare(expected, answer)
        return multiple() if expected.held is None else (expected.held, answer.raw)

    @initialize(target=cookies)
    def begin(self) -> Any:
        return self.request(NOBODY, [("set", "a", 1)])

    @rule(target=cookies)
    def come_without_a_cookie(self) -> Any:
        return self.request(NOBODY, [("nest", "a", {})])

    @rule(cookie=cookies, fault=_faults, target=cookies)
    def load(self, cookie: Any, fault: Fault | None) -> Any:
        return self.request(cookie, [("read",)], fault)

    @rule(cookie=cookies, key=_keys, value=_json, fault=_faults, target=cookies)
    def set(self, cookie: Any, key: str, value: Any, fault: Fault | None) -> Any:
        return self.request(cookie, [("set", key, value)], fault)

    @rule(cookie=cookies, key=_keys, value=_json, fault=_faults, target=cookies)
    def change_inside(self, cookie: Any, key: str, value: Any, fault: Fault | None) -> Any:
        return self.request(cookie, [("nest", key, value)], fault)

    @rule(cookie=cookies, key=_keys, fault=_faults, target=cookies)
    def delete(self, cookie: Any, key: str, fault: Fault | None) -> Any:
        return self.request(cookie, [("delete", key)], fault)

    @rule(cookie=cookies, fault=_faults, target=cookies)
    def rotate(self, cookie: Any, fault: Fault | None) -> Any:
        return self.request(cookie, [("rotate",)], fault)

    @rule(
        cookie=cookies,
        owner=st.sampled_from(["acme/alice", "ü"]),
        label=st.sampled_from([None, "Firefox", "ü"]),
        fault=_faults,
        target=cookies,
    )
    def bind(self, cookie: Any, owner: str, label: str | None, fault: Fault | None) -> Any:
        return self.request(cookie, [("bind", owner, label)], fault)

    @rule(cookie=cookies, fault=_faults, target=cookies)
    def confirm_login(self, cookie: Any, fault: Fault | None) -> Any:
        return self.request(cookie, [("confirm",)], fault)

    @rule(cookie=cookies, key=_keys, value=_json, fault=_faults, target=cookies)
    def change_atomically(self, cookie: Any, key: str, value: Any, fault: Fault | None) -> Any:
        return self.request(cookie, [("set", key, value), ("atomically", key, value)], fault)

    @rule(cookie=cookies, seconds=_ages, fault=_faults, target=cookies)
    def set_max_age(self, cookie: Any, seconds: int | None, fault: Fault | None) -> Any:
        return self.request(cookie, [("max_age", seconds)], fault)

    @rule(cookie=cookies, fault=_faults, target=cookies)
    def log_out(self, cookie: Any, fault: Fault | None) -> Any:
        return self.request(cookie, [("clear",)], fault)

    @rule(cookie=cookies, script=_scripts, target=cookies)
    def do_anything(self, cookie: Any, script: Script) -> Any:
        return self.request(cookie, script)

    @rule(seconds=st.sampled_from([1, 99, 100, 500, 999, 1000, 3000, -1, -100, -1500]))
    def let_time_pass(self, seconds: int) -> None:
        self.clock.now += seconds
        self.world.now += seconds

    @rule()
    def restart(self) -> None:
        self.store = Faulty(self.place.store())
        self.app = an_app(self.store, absolute_max_age=ABSOLUTE_MAX_AGE)

    @invariant()
    def what_is_stored_is_what_should_be(self) -> None:
        self.dictionary.compare_all(self.world, self.place.kept(self.clock.now))


def run_machine(place: Memory | Table, clock: Clock, *, runs: int, steps: int) -> None:
    machine = type("Machine", (Sessions,), {"clock": clock, "place": place})
    hypothesis.seed(SEED)(machine)
    settings = hypothesis.settings(
        max_examples=runs,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        derandomize=False,
        print_blob=True,
        phases=set(Phase) - {Phase.explain},
        suppress_health_check=list(HealthCheck),
    )
    try:
        run_state_machine_as_test(machine, settings=settings)
    except BaseException as error:
        error.add_note(f"SESSIONS_SEED={SEED}")
        raise


def test_every_history_in_memory_is_the_models(clock: Clock) -> None:
    runs, steps = (2_000, 50) if NIGHTLY else (200, 30)
    run_machine(Memory(), clock, runs=runs, steps=steps)


@pytest.mark.parametrize("client", [None, "async"])
def test_every_history_in_a_table_is_the_models(
    clock: Clock, dynamodb_local_url: str, table_name: str, client: str | None
) -> None:
    runs, steps = (200, 50) if NIGHTLY else (20, 20)
    run_machine(Table(dynamodb_local_url, table_name, client), clock, runs=runs, steps=steps)
