"""What is told to `on_event` and to the log of every operation on a stored session."""

import logging
from functools import partial
from typing import Any

import pytest
from starlette.responses import Response

from dynamodb_sessions import ConfigurationError, DynamoDBStore, MemoryStore, SessionEvent, StoreUnavailable
from dynamodb_sessions.identifiers import fingerprint
from dynamodb_sessions.stores.contract import SessionStore
from tests.conftest import Clock
from tests.helpers.asgi import Counting, an_app, browser, by_path, clear, held, look, put

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
    assert all(len(event.session) == 8 and event.duration_ms > 0 for event in events)
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
    made, made_next, ended = events
    assert [(event.name, event.outcome) for event in (made_next, ended)] == [("create", "ok"), ("delete", "ok")]
    assert ended.session == made.session


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
