"""What is told to `on_event` and to the log of every operation on a stored session."""

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from starlette.responses import JSONResponse, Response

from dynamodb_sessions import (
    ConfigurationError,
    DynamoDBSessionMiddleware,
    DynamoDBStore,
    Health,
    MemoryStore,
    OwnerStore,
    Record,
    SessionEvent,
    SessionStore,
    StoreUnavailable,
    devices,
    open_session,
)
from dynamodb_sessions.events import observing
from dynamodb_sessions.identifiers import fingerprint, new_id
from dynamodb_sessions.stores.fallback import FallbackStore
from dynamodb_sessions.stores.observed_store import observed
from dynamodb_sessions.web.cookie import CookiePayload
from tests.conftest import KEY, Clock
from tests.helpers.asgi import Counting, an_app, browser, by_path, clear, held, look, put
from tests.helpers.fallback import Primary, Time, healed
from tests.helpers.proxy import How, Proxy, Step

pytestmark = pytest.mark.anyio


def regenerate(request: Any) -> None:
    held(request).regenerate()


PATHS = by_path(
    put=put(a=1), other=put(b=2), look=look, regenerate=regenerate, clear=clear, nothing=lambda _: Response()
)


async def test_every_operation_is_told(store: SessionStore, clock: Clock, engine: str) -> None:
    events: list[SessionEvent] = []
    app = an_app(store, PATHS, on_event=events.append, max_age=100)
    async with browser(app) as client:
        for path in ("nothing", "put", "other", "look", "regenerate", "clear", "look"):
            clock.now += 30
            await client.get(f"/{path}")
    assert [(event.name, event.outcome) for event in events] == [
        ("create", "ok"),
        *[("load", "ok"), ("update", "ok")],
        *[("load", "ok"), ("touch", "ok")],
        *[("load", "ok"), ("rotate", "ok")],
        *[("load", "ok"), ("delete", "ok")],
    ]
    assert len({event.session for event in events}) == 2
    assert all(len(event.session or "") == 8 and event.duration_ms > 0 for event in events)
    counted = [event.capacity_units for event in events]
    if engine == "memory":
        assert set(counted) == {None}
    if engine == "local":
        # A strong read of up to 4 KB is one unit, a write of up to 1 KB one, in a transaction two for each item.
        assert counted == [1, 1, 1, 1, 1, 1, 4, 1, 1]


async def test_what_ends_for_want_of_room_is_told_too() -> None:
    events: list[SessionEvent] = []

    def login(request: Any) -> None:
        request.session["user"] = "alice"
        held(request).bind("acme/alice")

    app = an_app(MemoryStore(), login, max_sessions_per_owner=1, on_event=events.append)
    async with browser(app) as first, browser(app) as second:
        await first.get("/")
        await second.get("/")
    made, none_ended, made_next, counted, ended = events
    names = ["create", "limit_owner", "create", "limit_owner", "delete"]
    assert [(event.name, event.outcome) for event in events] == [(name, "ok") for name in names]
    assert (none_ended.count, counted.count, counted.session) == (0, 1, None)
    assert counted.duration_ms > 0
    assert ended.session == made.session != made_next.session
    assert ended.duration_ms == 0


async def test_what_concerns_an_owner_is_told_too(store: SessionStore, engine: str) -> None:
    """By `session.info.store`, and by `devices`."""
    events: list[SessionEvent] = []

    async def list_others(request: Any) -> Response:
        info = held(request).info
        return JSONResponse([record.owner async for record in info.store.list_owner(info.owner)])

    async def log_out(request: Any) -> None:
        session = held(request)
        [other] = [device for device in await devices.of(session) if not device.is_current]
        assert await devices.end(session, other.handle)

    async def end_others(request: Any) -> None:
        assert await devices.end_others(held(request)) == 1

    async def health(request: Any) -> None:
        assert (await held(request).info.store.health()).ok

    def login(request: Any) -> None:
        held(request).bind("acme/alice")

    acts = by_path(login=login, list=list_others, log_out=log_out, end_others=end_others, health=health)
    app = an_app(store, acts, on_event=events.append)
    async with browser(app) as first, browser(app) as second, browser(app) as third:
        for client in (first, second):
            await client.get("/login")
        assert (await first.get("/list")).json() == ["acme/alice"] * 2
        ended = events[1].session
        await first.get("/log_out")
        await third.get("/login")
        await first.get("/end_others")
        await first.get("/health")
    told = [event for event in events if event.name not in ("load", "create", "touch")]
    names = ["list_owner", "list_owner", "list_owner", "delete", "revoke_owner", "health"]
    assert [(event.name, event.outcome) for event in told] == [(name, "ok") for name in names]
    assert [event.session for event in told] == [None, None, None, ended, None, None]
    assert [event.count for event in told] == [1] * 6
    assert all(event.duration_ms > 0 for event in told)
    mode, table = ("memory", None) if engine == "memory" else ("dynamodb", store.table_name)  # type: ignore[attr-defined]
    assert {(event.mode, event.table) for event in events} == {(mode, table)}
    if engine == "local":
        assert all(event.capacity_units for event in told)


@pytest.mark.parametrize("engine", ["memory", "local", "async"], indirect=True)
async def test_a_list_is_told_page_by_page_and_nothing_of_it_while_its_caller_works(
    store: SessionStore, engine: str
) -> None:
    """16 sessions are read at once: what the caller does between two is no part of the list, nor is its capacity."""
    events: list[SessionEvent] = []
    watched = observed(store, events.append)
    assert isinstance(watched, OwnerStore)
    now = int(time.time())
    for number in range(17):
        await store.create(Record(new_id(), {}, now + number, now + 100, owner="acme/alice"), now=now)
    async with contextlib.aclosing(watched.list_owner("acme/alice")) as records:  # type: ignore[type-var]
        async for record in records:
            assert observing.get() is None
            await watched.load(record.id, now=now)
    pages = [number for number, event in enumerate(events) if event.name == "list_owner"]
    assert pages == ([0] if engine == "memory" else [0, 17])
    loads = [event for event in events if event.name == "load"]
    assert len(loads) == 17
    if engine == "local":
        assert {event.capacity_units for event in loads} == {1}
        assert events[17].capacity_units == 1
    events.clear()
    async with contextlib.aclosing(watched.list_owner("acme/alice")) as records:  # type: ignore[type-var]
        async for _ in records:
            break
    assert [event.name for event in events] == ["list_owner"]


async def test_a_store_of_your_own_may_list_with_any_iterator() -> None:
    class Listing:
        def __init__(self) -> None:
            self.left = [Record(new_id(), {}, 0, 1)]

        def __aiter__(self) -> "Listing":
            return self

        async def __anext__(self) -> Record:
            if not self.left:
                raise StopAsyncIteration
            return self.left.pop()

    class Own(MemoryStore):
        def list_owner(self, *_: Any, **__: Any) -> Any:
            return Listing()

    events: list[SessionEvent] = []
    watched: Any = observed(Own(), events.append)
    assert len([record async for record in watched.list_owner("acme/alice")]) == 1
    assert [(event.name, event.outcome) for event in events] == [("list_owner", "ok")]


async def test_an_error_in_the_midst_of_a_list_is_told(moto_url: str) -> None:
    events: list[SessionEvent] = []
    watched: Any = observed(DynamoDBStore("missing-table", endpoint_url=moto_url), events.append)
    with pytest.raises(ConfigurationError):
        _ = [record async for record in watched.list_owner("acme/alice")]
    health = await watched.health()
    assert not health.ok
    assert [(event.name, event.outcome) for event in events] == [
        ("list_owner", "ConfigurationError"),
        ("health", "unhealthy"),
    ]


async def test_a_session_of_your_own_id_is_told_as_a_requests_is(store: SessionStore) -> None:
    events: list[SessionEvent] = []
    async with open_session(store, "job-1", on_event=events.append) as session:
        session["step"] = 1
    assert [(event.name, event.outcome) for event in events] == [("load", "absent"), ("create", "ok")]
    assert {event.session for event in events} == {fingerprint("job-1")}
    with pytest.raises(ConfigurationError, match="on_event"):
        async with open_session(store, "job-1", on_event="print"):  # type: ignore[arg-type]
            pass


# What is no operation.


@pytest.mark.parametrize("engine", ["moto", "async"], indirect=True)
async def test_each_throttled_attempt_is_told_with_what_reached_its_limit(
    store: SessionStore, endpoint_url: str, given_client: Any
) -> None:
    """Source: "Diagnosing throttling" in DynamoDB's documentation."""
    assert isinstance(store, DynamoDBStore)
    assert store.probe()
    proxy = Proxy(endpoint_url)
    arn = "arn:aws:dynamodb:us-east-1:123456789012:table/sessions"
    code = (400, "ProvisionedThroughputExceededException")
    why = {"ThrottlingReasons": [{"reason": "TableReadKeyRangeThroughputExceeded", "resource": arn}]}
    proxy.play("GetItem", [Step(How.ANOTHER, applied=False, error=code, details=each) for each in (why, {})])
    events: list[SessionEvent] = []
    watched = observed(DynamoDBStore(store.table_name, endpoint_url=proxy.url, client=given_client), events.append)
    session_id = new_id()
    try:
        assert await watched.load(session_id, now=0) is None
    finally:
        proxy.close()
    assert [(event.name, event.outcome) for event in events] == [
        ("throttled", "TableReadKeyRangeThroughputExceeded"),
        ("throttled", "ProvisionedThroughputExceededException"),
        ("load", "absent"),
    ]
    assert {event.session for event in events} == {fingerprint(session_id)}
    assert f"TableReadKeyRangeThroughputExceeded on {arn}" in str(events[0].reason)
    assert [event.duration_ms > 0 for event in events] == [False, False, True]


async def test_memory_that_stands_in_is_told_once_and_so_is_its_end_from_another_thread() -> None:
    told: list[tuple[SessionEvent, str]] = []
    primary, time = Primary(), Time()
    fallback = FallbackStore(
        primary, MemoryStore(), on_event=lambda event: told.append((event, threading.current_thread().name)), clock=time
    )
    for _ in range(3):
        await fallback.initialise()
    assert await fallback.health() == Health(True, "memory", "it does not work", degraded=True)
    await healed(fallback, primary, time)
    assert not (await fallback.health()).degraded
    (begins, here), (ends, there) = told
    assert (begins.name, begins.outcome, begins.mode) == ("fallback", "StoreUnavailable", "memory")
    assert (begins.reason, begins.session, begins.duration_ms) == ("it does not work", None, 0)
    assert (ends.name, ends.outcome, ends.mode) == ("recovered", "ok", "dynamodb")
    assert here != there


async def test_the_middleware_tells_of_a_fallback(moto_url: str, table_name: str) -> None:
    """With the table's name, which is that of what comes after it, too."""
    events: list[SessionEvent] = []
    store = DynamoDBStore(table_name, endpoint_url=moto_url)
    async with browser(an_app(store, put(a=1), on_event=events.append)) as client:
        assert (await client.get("/")).status_code == 200
    assert [(event.name, event.outcome) for event in events] == [("fallback", "ConfigurationError"), ("create", "ok")]
    assert {(event.mode, event.table) for event in events} == {("memory", table_name)}


async def test_a_cookie_or_token_that_does_not_verify_is_told_each_time() -> None:
    """A count: nothing of what it says. One that another one of the request makes up for is not told."""
    events: list[SessionEvent] = []
    app = an_app(MemoryStore(), put(a=1), on_event=events.append, session_header="X-Session-Token")
    async with browser(app) as client:
        cookie = (await client.get("/")).headers["set-cookie"].partition(";")[0]
        client.cookies.clear()
        events.clear()
        forged = cookie[:-1] + ("A" if cookie[-1] != "A" else "B")
        for headers in ({"cookie": forged}, {"cookie": forged}, {"x-session-token": "session"}):
            await client.get("/", headers=headers)
            client.cookies.clear()
        refused = [event for event in events if event.name == "refused"]
        assert len(refused) == 3
        assert {(event.outcome, event.session, event.reason, event.duration_ms) for event in refused} == {
            ("refused", None, None, 0)
        }
        events.clear()
        other, empty = "your_session_id=1", "session_id="
        for headers in (
            {"cookie": f"{forged}; {cookie}"},
            {"cookie": other},
            {"cookie": empty},
            {"x-session-token": ""},
        ):
            await client.get("/", headers=headers)
            client.cookies.clear()
        assert "refused" not in {event.name for event in events}


def calls_of(work: Callable[[], object]) -> list[str]:
    """Return the names of the functions that are called, in their order."""
    called: list[str] = []

    def note(frame: Any, event: str, _: object) -> None:
        if event == "call":
            called.append(frame.f_code.co_qualname)

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return called


async def without_session(_: object, __: object, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


def test_to_listen_costs_a_request_without_a_session_nothing() -> None:
    async def receive() -> Any: ...

    async def send(_: Any) -> None: ...

    def serve(middleware: DynamoDBSessionMiddleware) -> None:
        scope = {"type": "http", "path": "/", "scheme": "https", "headers": [(b"accept", b"*/*")]}
        with contextlib.suppress(StopIteration):  # It waits for nothing.
            middleware(scope, receive, send).send(None)

    costs = []
    for on_event in (None, repr):
        middleware = DynamoDBSessionMiddleware(without_session, KEY, store=MemoryStore(), on_event=on_event)
        costs.append(calls_of(partial(serve, middleware)))
    assert costs[0] == costs[1]
    assert "without_session" in costs[0]


def test_to_listen_costs_nothing_where_there_is_no_cookie_or_a_good_one() -> None:
    silent, told = (
        DynamoDBSessionMiddleware(an_app(MemoryStore(), look), KEY, store=MemoryStore(), on_event=on_event).setup
        for on_event in (None, repr)
    )
    good = silent.cookie.issue(CookiePayload(new_id()), now=0, secure=True).partition(";")[0].encode()
    for headers in ([(b"accept", b"*/*")], [(b"cookie", b"theme=dark")], [(b"cookie", good)]):
        costs = []
        for setup in (silent, told):
            setup.cookie.read(headers)  # It is remembered.
            costs.append(calls_of(partial(setup.cookie.read, headers)))
        assert costs[0] == costs[1]
        assert len(costs[0]) <= 5


async def test_a_session_that_is_not_there_and_one_that_ended_meanwhile(clock: Clock) -> None:
    events: list[SessionEvent] = []
    counting = Counting(MemoryStore())

    def end(request: Any) -> None:
        request.session["late"] = 1
        counting.store._records.clear()  # type: ignore[attr-defined]

    app = an_app(counting, by_path(put=put(a=1), end=end, look=look), on_event=events.append)
    async with browser(app) as client:
        for path in ("put", "end", "look"):
            clock.now += 1
            await client.get(f"/{path}")
    assert [(event.name, event.outcome) for event in events] == [
        ("create", "ok"),
        *[("load", "ok"), ("update", "gone")],
        ("load", "absent"),
    ]


async def test_an_error_is_told_by_its_name() -> None:
    events: list[SessionEvent] = []
    counting = Counting(MemoryStore())
    counting.failing = {"create"}
    async with browser(an_app(counting, put(a=1), on_event=events.append)) as client:
        assert (await client.get("/")).status_code == 503
    [event] = events
    assert (event.name, event.outcome) == ("create", "StoreUnavailable")


async def test_a_callback_that_fails_breaks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def fail(event: SessionEvent) -> None:
        raise RuntimeError(event.session)

    async with browser(an_app(MemoryStore(), put(a=1), on_event=fail)) as client:
        response = await client.get("/")
    assert (response.status_code, response.json()) == (200, {"a": 1})
    assert caplog.messages == ["on_event raised RuntimeError"]


async def test_at_debug_the_log_has_the_same_as_fields(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    with caplog.at_level(logging.DEBUG, logger="dynamodb_sessions"):
        async with browser(an_app(store, put(a=1))) as client:
            await client.get("/")
    [session_id] = store._records
    [record] = caplog.records
    fields: dict[str, Any] = vars(record)
    assert record.getMessage().startswith(f"session {fingerprint(session_id)}: create ok in ")
    assert (fields["event"], fields["outcome"], fields["session"]) == ("create", "ok", fingerprint(session_id))
    assert fields["duration_ms"] > 0
    assert fields["capacity_units"] is None
    assert (fields["mode"], fields["table"], fields["count"], fields["reason"]) == ("memory", None, 1, None)


async def test_dynamodb_is_asked_for_capacity_only_if_somebody_listens(moto_url: str, table_name: str) -> None:
    store = DynamoDBStore(table_name, endpoint_url=moto_url, create_table=True)
    asked: list[object] = []
    store.client.meta.events.register(
        "provide-client-params.dynamodb.*", lambda params, **_: asked.append(params.get("ReturnConsumedCapacity"))
    )
    for on_event in (None, repr):
        asked.clear()
        async with browser(an_app(store, put(a=1), on_event=on_event)) as client:
            await client.get("/")
        assert asked[-1] == ("TOTAL" if on_event else None)


@pytest.mark.parametrize("said", [None, {}, [], [{}], [None], {"TableName": "sessions"}, 3], ids=repr)
async def test_capacity_that_is_not_told_as_dynamodb_does_breaks_nothing(
    said: Any, moto_url: str, table_name: str
) -> None:
    """A client may be another's, a proxy's or an emulator's."""
    store = DynamoDBStore(table_name, endpoint_url=moto_url, create_table=True)
    call = store._calls._transport.call

    async def say(operation: str, **parameters: Any) -> dict[str, Any]:
        return await call(operation, **parameters) | {"ConsumedCapacity": said}

    store._calls._transport.call = say  # type: ignore[method-assign]
    events: list[SessionEvent] = []
    async with browser(an_app(store, put(a=1), on_event=events.append)) as client:
        assert (await client.get("/")).status_code == 200
    assert [(event.outcome, event.capacity_units) for event in events] == [("ok", None)]


async def unawaited(event: SessionEvent) -> None:
    raise StoreUnavailable(event.name)


class Unawaited:
    async def __call__(self, event: SessionEvent) -> None:
        raise StoreUnavailable(event.name)


@pytest.mark.parametrize("on_event", ["print", 3, unawaited, partial(unawaited), Unawaited(), Unawaited().__call__])
def test_what_cannot_be_called_where_it_stands_is_refused(on_event: Any) -> None:
    with pytest.raises(ConfigurationError, match="on_event"):
        an_app(MemoryStore(), look, on_event=on_event).build_middleware_stack()
