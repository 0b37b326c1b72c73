"""An operation is not an attempt: what somebody else does between two attempts of it is neither undone nor repeated.

The proxy applies an attempt and loses its reply, or holds it and applies it when it is late; before its sender hears
anything, somebody else does something. And the lifetimes: no write that did not see one changes it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import httpx
import pytest

from dynamodb_sessions import DynamoDBStore, SessionError, StoreUnavailable, open_session
from dynamodb_sessions.identifiers import new_id
from dynamodb_sessions.stores.contract import Changes, Record
from tests.conftest import Clock
from tests.helpers.aiobotocore_clients import Connect
from tests.helpers.proxy import How, Proxy, Step, cut, held
from tests.helpers.unsent import NOT_SENT, before_sending
from tests.helpers.visitors import (
    Item,
    Site,
    content,
    cookie_max_age,
    cookie_version,
    meanwhile,
    scan,
    sessions,
    told,
)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

HOUR, DAY = 3600, 24 * 3600
CALLS = {
    "load": "GetItem",
    "create": "PutItem",
    "update": "UpdateItem",
    "exchange": "UpdateItem",
    "touch": "UpdateItem",
    "rotate": "TransactWriteItems",
    "delete": "DeleteItem",
}
PATHS = {
    "load": "look",
    "create": "n=1",
    "update": "n=2",
    "exchange": "add=n",
    "touch": "look",
    "rotate": "regenerate",
    "delete": "clear",
}
WAYS = {"lost": cut, "late": held}


class Table:
    """A table with two ways to it: ours, which leads through the proxy, and everybody else's."""

    def __init__(self, name: str, engine_client: Any, proxy: Proxy, transport: str, ours: Any) -> None:
        self.name = name
        self.client = engine_client
        self.proxy = proxy
        self.transport = transport
        self._client = ours

    def ours(self, **options: Any) -> DynamoDBStore:
        options = {"timeout": 10.0, "client": self._client} | options
        return DynamoDBStore(self.name, endpoint_url=self.proxy.url, **options)

    def theirs(self, **options: Any) -> DynamoDBStore:
        return DynamoDBStore(self.name, client=self.client, **options)

    def sessions(self) -> dict[str, Item]:
        return sessions(self.client, self.name)

    def only(self) -> Item:
        """Return the only session there is."""
        (item,) = self.sessions().values()
        return item

    def visit(self, path: str, cookies: Any, responses: list[httpx.Response] | None = None) -> Callable[[], None]:
        """Return what makes a request of the same browser by another process."""

        async def request() -> httpx.Response:
            async with Site(self.theirs()).visitor(httpx.Cookies(cookies)) as visitor:
                return await visitor.get(path)

        return meanwhile(request, responses)

    def begin_anew(self, session_id: str, **entries: int) -> Callable[[], None]:
        """Return what has somebody else begin a session under an id of their own."""

        async def begin() -> None:
            async with open_session(self.theirs(), session_id) as session:
                session.update(entries)

        return meanwhile(begin)


@pytest.fixture
async def table(own_table: str, engine_client: Any, faulty: Proxy, transport: str, connect: Connect) -> Table:
    return Table(own_table, engine_client, faulty, transport, await connect(faulty.url))


async def known(table: Table, path: str = "n=1", **options: Any) -> tuple[Site, httpx.AsyncClient]:
    """Return a site, and a visitor who has a session there."""
    site = Site(table.ours(), **options)
    visitor = site.visitor()
    assert (await visitor.get(path)).status_code == 200
    return site, visitor


# Between two attempts


async def test_a_login_that_was_revoked_between_its_attempts_stays_revoked(table: Table) -> None:
    revoked: list[int] = []
    seen: list[str] = []

    async def revoke() -> int:
        seen.extend(table.sessions())
        return await table.theirs().revoke_owner("alice")

    site = Site(table.ours())
    visitor = site.visitor()
    table.proxy.play("PutItem", [cut(meanwhile(revoke, revoked))])
    response = await visitor.get("n=1/login=alice")
    assert revoked == [1]
    assert not table.sessions().keys() & set(seen)
    assert response.status_code in (200, 503)
    if response.status_code == 200:
        assert (await visitor.get("look")).json() == {"n": 1}
        assert table.only()["session_id"]["S"] not in seen
    else:
        assert not table.sessions()


async def test_a_login_whose_attempt_is_late_is_made_once(table: Table) -> None:
    visitor = Site(table.ours()).visitor()
    table.proxy.play("PutItem", [held()])
    response = await visitor.get("n=1/login=alice")
    assert response.status_code == 200
    table.proxy.land()
    assert table.proxy.landed == [400]
    assert len(table.sessions()) == 1
    assert (await visitor.get("look")).json() == {"n": 1}
    assert await table.theirs().revoke_owner("alice") == 1
    assert not table.sessions()


@pytest.mark.parametrize("mine", ["n=1", "pop=n", "n=1/max_age=60", "n=2", "many=1/n=1"])
async def test_what_somebody_wrote_after_our_attempt_is_not_overwritten_by_the_next(mine: str, table: Table) -> None:
    """Also of a key that was removed, and of one of so many that all are written."""
    _, visitor = await known(table, "n=0/kept=1")
    responses: list[httpx.Response] = []
    table.proxy.play("UpdateItem", [cut(table.visit("n=2", visitor.cookies, responses))])
    response = await visitor.get(mine)
    assert [each.status_code for each in responses] == [200]
    assert content(table.only())["n"] == "2"
    assert response.status_code in (200, 503)
    if response.status_code == 200:
        assert told(response) == ("set" if "max_age" in mine else "none")
    assert (await visitor.get("look")).json()["n"] == 2


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mine", ["n=1", "pop=n", "many=1/n=1"])
async def test_nobody_who_came_between_is_no_conflict(mine: str, way: str, table: Table) -> None:
    _, visitor = await known(table, "n=0/kept=1")
    table.proxy.play("UpdateItem", [WAYS[way]()])
    response = await visitor.get(mine)
    assert (response.status_code, told(response)) == (200, "none")
    after = content(table.only())
    assert after.get("n") == (None if mine == "pop=n" else "1")
    table.proxy.land()
    assert table.proxy.landed == ([] if way == "lost" else [400])
    assert content(table.only()) == after
    assert (await visitor.get("kept=2")).status_code == 200


@pytest.mark.parametrize("status", [500, 503])
async def test_a_server_error_of_a_write_says_nothing_of_what_became_of_it(status: int, table: Table) -> None:
    _, visitor = await known(table, "n=0")
    error = (status, "InternalServerError" if status == 500 else "ServiceUnavailable")
    table.proxy.play("UpdateItem", [Step(How.ANOTHER, error=error, between=table.visit("n=2", visitor.cookies))])
    assert (await visitor.get("n=1")).status_code in (200, 503)
    assert content(table.only())["n"] == "2"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("between", ["look", "m=5", "many=5", "add=n", "m=5/add=n", "regenerate", "clear"])
async def test_an_addition_is_made_once_whatever_comes_between(between: str, way: str, table: Table) -> None:
    """It is told to be made only if it was, and never twice: what cannot be known is an error."""
    _, visitor = await known(table)
    responses: list[httpx.Response] = []
    table.proxy.play("UpdateItem", [WAYS[way](table.visit(between, visitor.cookies, responses))])
    response = await visitor.get("add=n")
    table.proxy.land()
    assert [each.status_code for each in responses] == [200]
    if between == "clear":
        assert not table.sessions()
        assert response.status_code == 500
        return
    n, theirs = int(content(table.only())["n"]), between.count("add")
    if response.status_code == 200:
        assert n == 2 + theirs
        assert response.json()["n"] == n
    else:
        assert response.status_code == 503
        assert n in (1 + theirs, 2 + theirs)
    assert response.status_code == 200 or between not in ("look", "m=5"), "that much can be known"


async def test_additions_whose_replies_are_lost_are_all_made(table: Table) -> None:
    _, visitor = await known(table)
    table.proxy.play("UpdateItem", [cut(), held(), cut()])
    for _ in range(3):
        assert (await visitor.get("add=n")).status_code == 200
    table.proxy.land()
    assert content(table.only())["n"] == "4"


async def test_what_cannot_be_known_is_an_error_also_when_the_reply_to_its_fence_is_lost(table: Table) -> None:
    """Two others have written since: nobody can tell. That the fence is there does not say that the change is."""
    _, visitor = await known(table, "n=0")

    def others() -> None:
        table.visit("n=2", visitor.cookies)()
        table.visit("n=3", visitor.cookies)()

    table.proxy.play("UpdateItem", [held(others), cut()])
    assert (await visitor.get("n=1")).status_code == 503
    table.proxy.land()
    assert table.proxy.landed == [400]
    assert content(table.only()) == {"n": "3"}


@pytest.mark.parametrize("landing", [0, 1, 2])
async def test_an_attempt_that_is_late_is_never_applied_after_its_operation(landing: int, table: Table) -> None:
    """Somebody else writes before ours is decided, and after; it lands between, or at the end."""
    _, visitor = await known(table, "n=0")
    table.proxy.play("UpdateItem", [held(table.visit("m=1", visitor.cookies), late=landing)])
    response = await visitor.get("n=1")
    assert (response.status_code, content(table.only())) == (200, {"n": "1", "m": "1"})
    await asyncio.to_thread(table.visit("n=2", visitor.cookies))
    table.proxy.land()
    assert len(table.proxy.landed) == 1
    assert content(table.only()) == {"n": "2", "m": "1"}


async def test_a_job_that_is_begun_anew_is_not_deleted_by_a_second_attempt(table: Table) -> None:
    await asyncio.to_thread(table.begin_anew("job-1", n=1))
    for step in (cut, held):
        table.proxy.play("DeleteItem", [step(lambda: _again(table))])
        await table.ours().delete("job-1")
        table.proxy.land()
        assert content(table.only()) == {"n": "2"}


def _again(table: Table) -> None:
    """Let another worker end the job, as far as that is not done, and begin it anew."""
    meanwhile(lambda: table.theirs().delete("job-1"))()
    table.begin_anew("job-1", n=2)()


async def test_an_emptied_session_that_is_begun_anew_lives(table: Table) -> None:
    """And who has emptied the one before is not told that somebody else had ended it."""
    await asyncio.to_thread(table.begin_anew("job-1", n=1))
    table.proxy.play("DeleteItem", [cut(table.begin_anew("job-1", n=2))])
    async with open_session(table.ours(), "job-1") as session:
        del session["n"]
    assert content(table.only()) == {"n": "2"}


@pytest.mark.parametrize("way", WAYS)
async def test_a_session_of_ones_own_id_that_was_deleted_is_not_created_by_a_second_attempt(
    way: str, table: Table
) -> None:
    deleted: list[bool] = []
    end = meanwhile(lambda: table.theirs().delete("x"), deleted)
    table.proxy.play("PutItem", [WAYS[way](end)])
    with pytest.raises(StoreUnavailable):
        async with open_session(table.ours(), "x") as session:
            session["n"] = 1
    assert deleted == [True]
    table.proxy.land()
    assert not table.sessions()


@pytest.mark.parametrize("how", [How.NEVER, How.RESET, How.DRIPPED])
async def test_nothing_is_sent_once_a_contended_rotation_is_told_to_have_failed(how: How, table: Table) -> None:
    """The browser's id is good still: it was told of no other."""
    visitor = Site(table.ours(timeout=2.5)).visitor()
    await visitor.get("n=1")
    begun = time.monotonic()

    def give_up() -> None:
        time.sleep(0.1)
        if time.monotonic() - begun > 1.5:
            table.proxy.play("TransactWriteItems", rest=Step(how, applied=False))

    codes = {"CancellationReasons": [{"Code": "None"}, {"Code": "TransactionConflict"}]}
    cancelled = (400, "TransactionCanceledException")
    contended = Step(How.ANOTHER, applied=False, error=cancelled, details=codes, between=give_up)
    table.proxy.play("TransactWriteItems", rest=contended)
    response = await visitor.get("regenerate")
    was_told = time.monotonic()
    assert response.status_code == 503
    table.proxy.heal()
    await anyio.sleep(2)
    assert table.proxy.times[-1] <= was_told
    assert (await visitor.get("look")).json() == {"n": 1}


@pytest.mark.parametrize("operation", ["create", "update", "exchange", "touch", "rotate", "delete"])
@pytest.mark.parametrize("how", [How.NEVER, How.RESET, How.ANOTHER])
async def test_nothing_is_sent_once_a_failure_was_told(how: How, operation: str, table: Table) -> None:
    """One deadline for the operation, whatever it takes, reaches every attempt."""
    store, record = table.ours(timeout=1.0), Record(new_id(), {"n": "0"}, 1_800_000_000, 1_800_003_600)
    assert await store.create(record, now=1_800_000_000)
    table.proxy.play("*", rest=Step(how, applied=how is How.RESET, error=(400, "ThrottlingException")))
    begun = time.monotonic()
    with pytest.raises(StoreUnavailable):
        await operations(store, record)[operation]()
    was_told = time.monotonic()
    assert was_told - begun <= 1.5
    table.proxy.heal()
    await anyio.sleep(1.5)
    assert table.proxy.times[-1] <= was_told


def operations(store: DynamoDBStore, record: Record) -> dict[str, Callable[[], Awaitable[Any]]]:
    now = 1_800_000_000
    return {
        "load": lambda: store.load(record.id, now=now),
        "create": lambda: store.create(Record(new_id(), {"n": "1"}, now, now + HOUR), now=now),
        "update": lambda: store.update(record, Changes(now + HOUR, set={"n": "1"}), now=now),
        "exchange": lambda: store.exchange(record, lambda _: Changes(now + HOUR, set={"n": "1"}), now=now),
        "touch": lambda: store.update(record, Changes(now + 2 * HOUR), now=now),
        "rotate": lambda: store.rotate(record, new_id(), Changes(now + HOUR), now=now),
        "delete": lambda: store.delete(record.id),
    }


async def test_an_update_that_a_rotation_has_carried_along_is_not_told_to_be_gone(table: Table) -> None:
    _, visitor = await known(table, "n=0")
    responses: list[httpx.Response] = []
    table.proxy.play("UpdateItem", [cut(table.visit("regenerate", visitor.cookies, responses))])
    response = await visitor.get("n=1")
    assert responses[0].status_code == 200
    assert content(table.only())["n"] == "1"
    assert response.status_code == 503


async def test_an_explicit_save_that_a_rotation_has_carried_along_raises(table: Table) -> None:
    """It is not False: that says that nothing is stored."""
    store = table.theirs()
    record = Record(new_id(), {"n": "0"}, int(time.time()), int(time.time()) + HOUR)
    assert await store.create(record, now=record.created_at)
    rotate = meanwhile(lambda: _rotate(table.theirs(), record.id))
    table.proxy.play("UpdateItem", [cut(rotate)])
    with pytest.raises(StoreUnavailable):
        await table.ours().update(record, Changes(record.expires_at, set={"n": "1"}), now=record.created_at)


async def _rotate(store: DynamoDBStore, session_id: str) -> None:
    now = int(time.time())
    found: Any = await store.load(session_id, now=now)
    assert await store.rotate(found, new_id(), Changes(now + HOUR), now=now)


async def test_a_rotation_that_was_applied_is_not_told_to_be_gone(table: Table) -> None:
    for step in (cut, held):
        _, visitor = await known(table, "n=0")
        table.proxy.play("TransactWriteItems", [step(), step()])
        response = await visitor.get("regenerate")
        assert (response.status_code, told(response)) == (200, "set")
        table.proxy.land()
        assert (await visitor.get("look")).json() == {"n": 0}
        assert (await visitor.get("clear")).status_code == 200
        assert not table.sessions()


async def test_too_large_is_not_told_before_it_is_certain(table: Table) -> None:
    """An attempt of which nobody knows is not to land after the app was told that it was too large."""
    now = int(time.time())
    record = Record(new_id(), {"n": "0"}, now, now + HOUR)
    assert await table.theirs().create(record, now=now)
    record = await table.theirs().load(record.id, now=now)  # type: ignore[assignment]

    async def grow() -> None:
        store = table.theirs(compress_over=None)
        assert await store.update(record, Changes(now + HOUR, set={"big": f'"{"x" * 300_000}"'}), now=now)

    async def shrink() -> None:
        found: Any = await table.theirs().load(record.id, now=now)
        assert await table.theirs().update(found, Changes(now + HOUR, remove=frozenset(["big"])), now=now)

    table.proxy.play("UpdateItem", [held(meanwhile(grow))])
    with pytest.raises(SessionError) as raised:
        await table.ours(compress_over=None).update(
            record, Changes(now + HOUR, set={"mine": f'"{"x" * 200_000}"'}), now=now
        )
    assert type(raised.value).__name__ == "SessionTooLarge"
    await shrink()
    table.proxy.land()
    assert content(table.only()) == {"n": "0"}


# Refusals


REFUSALS: dict[str, Any] = {
    "ProvisionedThroughputExceededException": Step(
        How.ANOTHER, applied=False, error=(400, "ProvisionedThroughputExceededException")
    ),
    "ThrottlingException": Step(How.ANOTHER, applied=False, error=(400, "ThrottlingException")),
    "RequestLimitExceeded": Step(How.ANOTHER, applied=False, error=(400, "RequestLimitExceeded")),
    "conflict": Step(How.ANOTHER, applied=False, error=(400, "TransactionConflictException")),
    "cancelled for throttling": Step(
        How.ANOTHER,
        applied=False,
        error=(400, "TransactionCanceledException"),
        details={"CancellationReasons": [{"Code": "ThrottlingError"}, {"Code": "None"}]},
    ),
    **dict.fromkeys(NOT_SENT),
}


@pytest.mark.parametrize("times", [2, 3, 5])
@pytest.mark.parametrize("refusal", REFUSALS)
async def test_refusals_in_a_row_are_not_seen(refusal: str, times: int, table: Table, clock: Clock) -> None:
    store = table.ours()
    site = Site(store)
    for operation, call in CALLS.items():
        visitor = site.visitor()
        if operation != "create":
            await visitor.get("n=1")
        clock.now += HOUR // 2
        undo = refuse(store, table, refusal, call, times)
        response = await visitor.get(PATHS[operation])
        undo()
        assert (operation, response.status_code) == (operation, 200)
        expected = {"update": {"n": 2}, "exchange": {"n": 2}, "delete": {}}.get(operation, {"n": 1})
        assert response.json() == (await visitor.get("look")).json() == expected


def refuse(store: DynamoDBStore, table: Table, refusal: str, call: str, times: int) -> Callable[[], None]:
    """Let the next attempts of a call be refused. Return what ends that."""
    step = REFUSALS[refusal]
    if step is not None:
        table.proxy.play(call, [step] * times)
        return table.proxy.heal
    left = [NOT_SENT[refusal][table.transport]] * times

    def fail() -> None:
        if left:
            raise left.pop()

    return before_sending(store, table.transport, call, fail)


@pytest.mark.parametrize("operation", CALLS)
async def test_the_error_after_the_deadline_says_what_reached_its_limit(
    operation: str, table: Table, caplog: pytest.LogCaptureFixture
) -> None:
    """Source: "Diagnosing throttling" in DynamoDB's documentation."""
    arn = "arn:aws:dynamodb:us-east-1:123456789012:table/sessions"
    reasons = [{"reason": "TableWriteKeyRangeThroughputExceeded", "resource": arn}]
    throttled = (400, "ProvisionedThroughputExceededException")
    step = Step(How.ANOTHER, applied=False, error=throttled, details={"ThrottlingReasons": reasons})
    now = 1_800_000_000
    record = Record(new_id(), {"n": "0"}, now, now + HOUR)
    assert await table.theirs().create(record, now=now)
    table.proxy.play(CALLS[operation], rest=step)
    with pytest.raises(StoreUnavailable, match=f"TableWriteKeyRangeThroughputExceeded on {arn}"):
        await operations(table.ours(timeout=1.5), record)[operation]()
    if operation == "update":
        visitor = Site(table.ours(timeout=1.5)).visitor()
        await visitor.get("n=1")
        assert (await visitor.get("n=2")).status_code == 503
        assert f"TableWriteKeyRangeThroughputExceeded on {arn}" in caplog.text


# Tombstones, markers and older items


async def test_what_is_no_session_is_not_seen_as_one(
    table: Table, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, dynamodb_local_url: str
) -> None:
    """Neither a tombstone nor where a session has moved is loaded, listed, scanned or shown."""
    from dynamodb_sessions.ops.cli import main  # noqa: PLC0415

    visitor = Site(table.ours()).visitor()
    table.proxy.play("PutItem", [held()])
    assert (await visitor.get("n=1/login=alice")).status_code == 200
    assert (await visitor.get("regenerate")).status_code == 200
    others = scan(table.client, table.name).keys() - table.sessions().keys()
    assert len(others) == 2
    store, now = table.theirs(), int(time.time())
    for session_id in others:
        assert not isinstance(await store.load(session_id, now=now), Record)
    only = table.only()["session_id"]["S"]
    assert [record.id async for record in store.list_owner("alice")] == [only]
    assert [record.id async for record in store.scan()] == [only]
    assert [record.id async for record in store.scan(include_expired=True)] == [only]
    monkeypatch.setenv("DYNAMODB_ENDPOINT_URL", dynamodb_local_url)
    monkeypatch.setenv("SESSION_TABLE_NAME", table.name)

    async def run(*arguments: str) -> tuple[int, str]:
        code = await asyncio.get_running_loop().run_in_executor(None, main, arguments)
        return code, capsys.readouterr().out

    code, said = await run("list")
    assert (code, len(said.splitlines())) == (0, 2)
    for session_id in others:
        code, said = await run("show", session_id)
        assert (code, "user_data" in said) == (1, False)
    # Nor are they deleted before their time, or what they are there for could happen.
    code, _ = await run("purge-expired")
    assert scan(table.client, table.name).keys() == {*others, only}


async def test_a_session_is_created_over_the_tombstone_of_another(table: Table) -> None:
    table.proxy.play("PutItem", [held()])
    with pytest.raises(StoreUnavailable):
        async with open_session(table.ours(), "job-1") as session:
            session["n"] = 1
    assert not table.sessions()
    async with open_session(table.ours(), "job-1") as session:
        session["n"] = 2
    table.proxy.land()
    assert table.proxy.landed == [400]
    assert content(table.only()) == {"n": "2"}


async def test_deleting_by_its_first_id_does_not_let_a_late_creation_land(table: Table) -> None:
    """An app may have noted `session.id` before it was stored under another."""
    now = int(time.time())
    record = Record(new_id(), {"n": "1"}, now, now + HOUR, born="b")
    table.proxy.play("PutItem", [held()])
    stored: Any = await table.ours().create(record, now=now, fresh_id=new_id)
    assert stored.id != record.id
    await table.ours().delete(record.id)
    table.proxy.land()
    assert table.sessions().keys() == {stored.id}


OLDER: dict[str, Item] = {
    "without born": {
        "user_data": {"M": {"n": {"S": "1"}}},
        "created_at": {"N": "1700000000"},
        "version": {"N": "3"},
    },
    "as one string": {"user_data": {"S": '{"n": 1}'}, "created_at": {"N": "1700000000.5"}},
}


@pytest.mark.parametrize("path", ["n=2", "look", "max_age=60", "login=alice", "regenerate", "clear", "pop=n", "many=1"])
@pytest.mark.parametrize("layout", OLDER)
@pytest.mark.parametrize("fault", ["none", *WAYS])
async def test_items_of_older_layouts_are_changed_and_ended(
    fault: str, layout: str, path: str, table: Table, engine_client: Any
) -> None:
    """Twice, and by an app that holds them under an id of its own too."""
    site = Site(table.ours())
    visitor = site.visitor()
    await visitor.get("n=1")
    older = OLDER[layout] | {
        "session_id": table.only()["session_id"],
        "ttl": {"N": str(int(time.time()) + HOUR // 2)},
    }
    engine_client.put_item(TableName=table.name, Item=older)
    if fault != "none":
        for call in ("UpdateItem", "DeleteItem", "TransactWriteItems"):
            table.proxy.play(call, [WAYS[fault]()])
    assert (await visitor.get(path)).status_code == 200
    table.proxy.land()
    expected = {"n=2": {"n": 2}, "clear": {}, "pop=n": {}}.get(path, {"n": 1})
    assert (await visitor.get("look")).json().items() >= expected.items()
    if expected:
        assert (await visitor.get("n=5/max_age=70")).status_code == 200
        assert (await visitor.get("n=6/max_age=80")).status_code == 200
        assert content(table.only())["n"] == "6"
        assert (await visitor.get("clear")).status_code == 200
    assert not table.sessions()


@pytest.mark.parametrize("layout", OLDER)
async def test_an_older_session_under_an_id_of_ones_own_outlives_a_login(layout: str, table: Table) -> None:
    ttl = {"N": str(int(time.time()) + HOUR)}
    table.client.put_item(TableName=table.name, Item=OLDER[layout] | {"session_id": {"S": "job-1"}, "ttl": ttl})
    async with open_session(table.ours(), "job-1") as session:
        session.bind("alice")
        assert await session.save()
        session["m"] = 1
        assert await session.save()
        session["m"] = 2
    assert content(table.only()) == {"n": "1", "m": "2"}
    assert await table.theirs().revoke_owner("alice") == 1
    assert not table.sessions()


async def test_an_older_session_that_was_begun_anew_within_the_second_is_another(table: Table) -> None:
    """What was loaded before is neither written to it nor ends it: what begins now has a `born`."""
    now = int(time.time())
    for layout in OLDER.values():
        older = layout | {"created_at": {"N": str(now)}, "session_id": {"S": "job-1"}, "ttl": {"N": str(now + HOUR)}}
        table.client.put_item(TableName=table.name, Item=older)
        store = table.ours()
        record: Any = await store.load("job-1", now=now)
        await asyncio.to_thread(_again, table)
        assert await store.update(record, Changes(now + HOUR, set={"n": "9"}), now=now) is None
        assert await store.update(record, Changes(now + HOUR, owner="alice"), now=now) is None
        assert await store.update(record, Changes(now + 2 * HOUR), now=now) is None
        await store.delete("job-1", record=record)
        assert content(table.only()) == {"n": "2"}
        assert "owner" not in table.only()


# Lifetimes


REMEMBERED = 30 * DAY


@pytest.mark.parametrize("mine", ["m=1", "look", "regenerate", "login=alice", "many=1", "pop=n"])
@pytest.mark.parametrize("seconds", [REMEMBERED, 60])
async def test_a_lifetime_that_was_set_meanwhile_is_neither_shortened_nor_outlived(
    seconds: int, mine: str, table: Table, clock: Clock
) -> None:
    """By a request that has loaded the session before, and knows nothing of it: in the table, and in the cookie."""
    site, visitor = await known(table, "n=1/k=1")
    clock.now += HOUR // 2
    site.during = table.visit(f"max_age={seconds}", visitor.cookies)
    response = await visitor.get(mine)
    assert response.status_code == 200
    item = table.only()
    assert item["max_age"] == {"N": str(seconds)}
    assert item["ttl"] == {"N": str(clock.now + seconds)}
    if told(response) == "set":
        assert cookie_max_age(response) == seconds
    clock.now += seconds - 1
    assert (await visitor.get("look")).json()["k"] == 1


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mine", ["m=1", "look", "regenerate", "many=1"])
@pytest.mark.parametrize("seconds", [REMEMBERED, 60])
async def test_nor_by_a_second_attempt(seconds: int, mine: str, way: str, table: Table, clock: Clock) -> None:
    _, visitor = await known(table, "n=1/k=1")
    clock.now += HOUR // 2
    call = "TransactWriteItems" if mine == "regenerate" else "UpdateItem"
    table.proxy.play(call, [WAYS[way](table.visit(f"max_age={seconds}", visitor.cookies))])
    await visitor.get(mine)
    table.proxy.land()
    item = table.only()
    if (mine, way) == ("regenerate", "lost"):  # It had moved already, and who came with the old id has changed nothing.
        assert "max_age" not in item
    else:
        assert item["max_age"] == {"N": str(seconds)}
        assert item["ttl"] == {"N": str(clock.now + seconds)}


async def test_the_absolute_limit_cuts_a_lifetime_that_was_set_meanwhile(table: Table, clock: Clock) -> None:
    site, visitor = await known(table, "n=1", absolute_max_age=2 * HOUR)
    begun = clock.now
    clock.now += HOUR // 2
    site.during = table.visit(f"max_age={REMEMBERED}", visitor.cookies)
    assert (await visitor.get("m=1")).status_code == 200
    assert table.only()["ttl"] == {"N": str(begun + 2 * HOUR)}
    assert table.only()["max_age"] == {"N": str(REMEMBERED)}


async def test_a_lifetime_that_was_set_before_an_empty_save_is_that_of_what_comes(table: Table, clock: Clock) -> None:
    _, visitor = await known(table, "n=1")
    response = await visitor.get("clear/max_age=60/save/m=1")
    assert (response.status_code, cookie_max_age(response)) == (200, 60)
    assert table.only()["max_age"] == {"N": "60"}
    assert table.only()["ttl"] == {"N": str(clock.now + 60)}


async def test_a_touch_never_lowers_the_version_in_the_cookie(table: Table, clock: Clock) -> None:
    """With cheap reads, the browser's next one would be content with what is older than what it has seen."""
    site = Site(table.ours(consistent_read=False))
    visitor = site.visitor()
    await visitor.get("n=1")
    clock.now += HOUR // 2
    site.during = table.visit("n=2", visitor.cookies)
    response = await visitor.get("look")
    assert (response.status_code, response.json()) == (200, {"n": 1})
    assert table.only()["version"] == {"N": "2"}
    if told(response) == "set":
        assert cookie_version(response) == 2


async def test_a_touch_that_comes_after_an_update_tells_its_version(table: Table, clock: Clock) -> None:
    """The update has let the session live as long, but not longer than the touch would."""
    site = Site(table.ours(consistent_read=False))
    visitor = site.visitor()
    await visitor.get("n=1")
    clock.now += HOUR // 2
    cookies = visitor.cookies

    def update() -> None:
        table.visit("n=2", cookies)()
        clock.now += 10

    site.during = update
    response = await visitor.get("look")
    assert (told(response), cookie_version(response)) == ("set", 2)


async def test_a_login_in_an_old_session_is_the_newest_of_its_owner(table: Table, clock: Clock) -> None:
    site, old = await known(table, "n=1", max_sessions_per_owner=2)
    clock.now += 100
    first = site.visitor()
    await first.get("n=2/login=alice")
    clock.now += 100
    await old.get("login=alice")
    clock.now += 100
    last = site.visitor()
    await last.get("n=3/login=alice")
    with anyio.fail_after(30):
        while len(table.sessions()) > 2:  # noqa: ASYNC110 - it is a number
            await anyio.sleep(0.02)
    assert [(await each.get("look")).json() for each in (first, old, last)] == [{}, {"n": 1}, {"n": 3}]
