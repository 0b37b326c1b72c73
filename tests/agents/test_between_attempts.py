"""What others do to a conversation between two attempts, two calls and two lifetimes of it."""

import asyncio
import itertools
import secrets
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

import anyio
import pytest

from dynamodb_sessions import SessionError, StoreUnavailable
from dynamodb_sessions.agents import DynamoDBConversation, partition
from dynamodb_sessions.agents.partition import HEAD
from tests.agents.conftest import Converse, listed, said
from tests.conftest import Clock
from tests.helpers.proxy import How, Proxy, Step, held

pytestmark = pytest.mark.anyio

LOST = Step(How.DROPPED)


class Between(Proxy):
    """A proxy that does something once, after a request was applied and before its reply goes anywhere."""

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self.then: dict[str, Callable[[], object]] = {}

    def forward(self, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        reply = super().forward(headers, body)
        then = self.then.pop(headers["X-Amz-Target"].rpartition(".")[2], None)
        if then is not None:
            then()
        return reply


@pytest.fixture
def proxy(endpoint_url: str) -> Iterator[Between]:
    made = Between(endpoint_url)
    yield made
    made.close()


@pytest.fixture
def elsewhere(converse: Converse, table_name: str) -> Callable[..., Any]:
    """Do something to a conversation as another process does it: not through the proxy, and at once."""
    url = converse()._calls.client.meta.endpoint_url

    def do(
        act: Callable[[DynamoDBConversation], Coroutine[Any, Any, Any]], session_id: str = "chat", **options: Any
    ) -> Any:
        return asyncio.run(act(DynamoDBConversation(session_id, table_name, endpoint_url=url, **options)))

    return do


class HalfWay(Proxy):
    """A proxy that refuses all batches of deletes but the first."""

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        refused = Step(How.ANOTHER, applied=False, error=(400, "AccessDeniedException"))
        self.play("BatchWriteItem", [Step()], rest=refused)

    async def clear(self, conversation: DynamoDBConversation) -> None:
        """Clear a conversation, and delete only the first batch of its messages."""
        with pytest.raises(SessionError):
            await DynamoDBConversation("chat", conversation._calls.table_name, endpoint_url=self.url).clear_session()


@pytest.fixture
def half_way(endpoint_url: str) -> Iterator[HalfWay]:
    made = HalfWay(endpoint_url)
    yield made
    made.close()


async def texts(conversation: DynamoDBConversation) -> list[str]:
    return [item["content"] for item in await conversation.get_items()]


@pytest.mark.parametrize("count", [1, 3])
async def test_a_message_that_is_popped_before_its_lost_reply_is_repeated_is_popped_once(
    count: int, converse: Converse, proxy: Between, elsewhere: Callable[..., Any]
) -> None:
    popped: list[Any] = []
    for operation in ("PutItem", "TransactWriteItems"):
        proxy.play(operation, [LOST])
        proxy.then[operation] = lambda: popped.append(elsewhere(DynamoDBConversation.pop_item))
    await converse(endpoint_url=proxy.url).add_items([said(str(number)) for number in range(count)])
    while (item := await converse().pop_item()) is not None:
        popped.append(item)
    assert [item["content"] for item in popped] == [str(number) for number in reversed(range(count))]


async def test_what_is_popped_before_the_lost_reply_of_a_pop_is_another_message(
    converse: Converse, proxy: Between, elsewhere: Callable[..., Any]
) -> None:
    await converse().add_items([said("one"), said("two")])
    popped: list[Any] = []
    proxy.play("TransactWriteItems", [LOST])
    proxy.then["TransactWriteItems"] = lambda: popped.append(elsewhere(DynamoDBConversation.pop_item))
    assert await converse(endpoint_url=proxy.url).pop_item() == said("two")
    assert popped == [said("one")]


@pytest.mark.parametrize(("when", "count"), [("UpdateItem", 1), ("UpdateItem", 250), ("TransactWriteItems", 250)])
async def test_a_turn_that_meets_a_clear_is_nobodys_orphan(
    when: str,
    count: int,
    converse: Converse,
    proxy: Between,
    elsewhere: Callable[..., Any],
    items: Callable[[], list[dict[str, Any]]],
) -> None:
    """It has its positions, or is stored in part: then it is cleared as a whole, and nobody sees any of it again."""
    await converse(owner="alice").add_items([said("before")])
    proxy.then[when] = lambda: elsewhere(DynamoDBConversation.clear_session)
    await converse(owner="alice", endpoint_url=proxy.url).add_items([said(str(number)) for number in range(count)])
    assert await texts(converse()) == []
    assert [message async for message in converse().messages(after=1)] == []
    assert await converse().get_items(2) == []
    assert await converse().pop_item() is None
    assert [found async for found in listed(converse, "alice")] == []
    await converse(owner="bob").add_items([said("his")])
    assert await texts(converse()) == ["his"]
    assert await converse().get_items(2) == [said("his")]
    assert [found.session_id async for found in listed(converse, "bob")] == ["chat"]
    with pytest.raises(SessionError, match="somebody else"):
        await converse(owner="alice").add_items([said("hers")])
    await converse().clear_session()
    assert [item["position"] for item in items()] == [{"N": str(HEAD)}], "and the next clear deletes it"


async def test_a_turn_that_begins_during_a_clear_stays_and_so_does_its_owner(
    converse: Converse, proxy: Between, elsewhere: Callable[..., Any]
) -> None:
    await converse(owner="alice").add_items([said("before")])
    proxy.then["Query"] = lambda: elsewhere(lambda other: other.add_items([said("meanwhile")]), owner="alice")
    await converse(endpoint_url=proxy.url).clear_session()
    assert await texts(converse()) == ["meanwhile"]
    assert [found.session_id async for found in listed(converse, "alice")] == ["chat"]
    with pytest.raises(SessionError, match="somebody else"):
        await converse(owner="bob").add_items([said("his")])


@pytest.mark.parametrize("operation", ["UpdateItem", "BatchWriteItem"])
async def test_a_clear_whose_lost_reply_is_repeated_ends_nothing_that_has_begun_since(
    operation: str, converse: Converse, proxy: Between, elsewhere: Callable[..., Any]
) -> None:
    await converse(owner="alice").add_items([said("before")])
    proxy.play(operation, [LOST])
    proxy.then[operation] = lambda: elsewhere(lambda other: other.add_items([said("his")]), owner="bob")
    await converse(endpoint_url=proxy.url).clear_session()
    assert await texts(converse()) == ["his"]
    assert [found.session_id async for found in listed(converse, "bob")] == ["chat"]


async def test_a_clear_that_fails_half_way_is_done_for_every_reader(
    converse: Converse, proxy: Between, items: Callable[[], list[dict[str, Any]]]
) -> None:
    await converse(owner="alice").add_items([said(str(number)) for number in range(60)])
    proxy.play("BatchWriteItem", [Step(), Step(How.ANOTHER, applied=False, error=(400, "AccessDeniedException"))])
    with pytest.raises(SessionError):
        await converse(endpoint_url=proxy.url).clear_session()
    assert len(items()) == 1 + 35
    assert await texts(converse()) == []
    assert await converse().get_items(3) == []
    assert await converse().pop_item() is None
    assert [found async for found in listed(converse, "alice")] == []
    await converse().clear_session()
    assert len(items()) == 1


async def test_positions_never_go_back_whatever_the_clock_says(
    converse: Converse, monkeypatch: pytest.MonkeyPatch
) -> None:
    await converse().add_items([said("one"), said("two")])
    seen = [message.position async for message in converse().messages()][-1]
    await converse().clear_session()
    behind = time.time_ns() - 600 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: behind)
    await converse().add_items([said("three")])
    assert [message.item async for message in converse().messages(after=seen)] == [said("three")]


@pytest.mark.parametrize("is_cleared", [False, True])
async def test_nor_after_the_conversation_has_expired(
    is_cleared: bool, converse: Converse, client: Any, table_name: str, now: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DynamoDB removes it by its own clock, here at once; another host's is a quarter of an hour behind."""
    now.now = int(time.time())
    await converse(ttl_seconds=60, owner="alice").add_items([said("one")])
    seen = [message.position async for message in converse().messages()][-1]
    if is_cleared:
        await converse().clear_session()
    now.now += 61
    assert [found async for found in listed(converse, "alice")] == []
    for item in client.scan(TableName=table_name)["Items"]:
        if "ttl" in item and int(item["ttl"]["N"]) <= now.now:
            client.delete_item(TableName=table_name, Key={name: item[name] for name in ("session_id", "position")})
    behind = time.time_ns() - 900 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: behind)
    await converse(ttl_seconds=60).add_items([said("two")])
    assert [message.item async for message in converse().messages(after=seen)] == [said("two")]


@pytest.mark.parametrize("limit", [0, -1])
async def test_no_messages_are_none(limit: int, converse: Converse) -> None:
    await converse().add_items([said("one")])
    assert [message async for message in converse().messages(limit=limit)] == []
    assert [message async for message in converse().messages(after=5, limit=limit)] == []
    assert await converse().get_items(limit) == []


async def test_the_head_is_no_message(converse: Converse, caplog: pytest.LogCaptureFixture) -> None:
    await converse().add_items([said("one")])
    assert [message.item async for message in converse().messages(after=-5)] == [said("one")]
    assert [message.item async for message in converse().messages(limit=1)] == [said("one")]
    assert caplog.text == ""


WRITES: dict[str, tuple[str, Callable[[DynamoDBConversation], Coroutine[Any, Any, Any]], list[str]]] = {
    "add": ("UpdateItem", lambda conversation: conversation.add_items([said("two")]), ["one", "two"]),
    "store": ("TransactWriteItems", lambda conversation: conversation.add_items([said("two")]), ["one", "two"]),
    "pop": ("TransactWriteItems", lambda conversation: conversation.pop_item(), []),
    "clear": ("UpdateItem", lambda conversation: conversation.clear_session(), []),
    "delete": ("BatchWriteItem", lambda conversation: conversation.clear_session(), []),
}


@pytest.mark.parametrize("natively", [True, False], ids=["asyncio", "anyio"])
@pytest.mark.parametrize("write", WRITES)
async def test_who_is_cancelled_goes_on_when_the_outcome_is_settled(
    write: str, natively: bool, converse: Converse, proxy: Between
) -> None:
    """The reply is lost, too: the repetition belongs to it."""
    operation, act, expected = WRITES[write]
    await converse().add_items([said("one")])
    loop, scope = asyncio.get_running_loop(), anyio.CancelScope()
    applied = threading.Event()

    async def run() -> None:
        with scope:
            await act(converse(endpoint_url=proxy.url))
            await anyio.sleep(10)

    task = asyncio.create_task(run())

    def cancel() -> None:
        loop.call_soon_threadsafe(task.cancel if natively else scope.cancel)
        applied.set()
        time.sleep(0.2)

    proxy.play(operation, [LOST])
    proxy.then[operation] = cancel
    await asyncio.wait([task])
    assert applied.is_set()
    assert proxy.requests.count(operation) >= 2
    sent = [name for name in proxy.requests if name != "Query"]  # A read may be on its way still.
    assert task.cancelled() is natively
    assert scope.cancelled_caught is not natively
    assert await texts(converse()) == expected
    assert [name for name in proxy.requests if name != "Query"] == sent, "nothing is written any more"


async def test_a_cancelled_write_that_fails_is_cancelled_and_no_more(converse: Converse, proxy: Between) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(converse(endpoint_url=proxy.url).add_items([said("one")]))
    proxy.play("TransactWriteItems", [Step(How.ANOTHER, error=(400, "AccessDeniedException"))])
    proxy.then["TransactWriteItems"] = lambda: loop.call_soon_threadsafe(task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("engine", ["local"], indirect=True)
@pytest.mark.parametrize("write", WRITES)
async def test_each_method_is_one_operation(write: str, converse: Converse, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a clear, each batch that it deletes is one, and each page that it reads of what to delete."""
    conversation = converse()
    await conversation.add_items([said("one")])
    begin, begun = conversation._calls.begin, itertools.count()

    def counted() -> Any:
        next(begun)
        return begin()

    monkeypatch.setattr(conversation._calls, "begin", counted)
    await WRITES[write][1](conversation)
    assert next(begun) == (3 if WRITES[write][2] == [] and write != "pop" else 1)


async def test_a_pop_that_gets_no_answer_ends_by_its_one_deadline(
    converse: Converse, proxy: Between, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = converse(endpoint_url=proxy.url)
    await conversation.add_items([said("one")])
    monkeypatch.setattr(conversation._calls._transport, "timeout", 1.0)
    proxy.play("Query", [Step(How.DROPPED)] * 2)
    proxy.play("TransactWriteItems", rest=Step(How.ANOTHER, applied=False))
    begun = time.monotonic()
    with pytest.raises(StoreUnavailable):
        await conversation.pop_item()
    assert time.monotonic() - begun < 1.5


async def test_what_an_earlier_version_has_stored_goes_on(
    converse: Converse, client: Any, table_name: str, now: Clock
) -> None:
    """Its head has no word of clears, and its `ttl` is when its messages expire: as they do by themselves still."""
    head = {"session_id": {"S": "chat"}, "position": {"N": "0"}, "last": {"N": "101"}, "owner": {"S": "alice"}}
    head |= {"created_at": {"N": "1"}, "updated_at": {"N": "1"}, "ttl": {"N": str(now.now + 1000)}}
    client.put_item(TableName=table_name, Item=head)
    message = {"message": {"S": '{"role":"user","content":"old"}'}, "created_at": {"N": "1"}}
    key = {"session_id": {"S": "chat"}, "position": {"N": "101"}}
    client.put_item(TableName=table_name, Item=key | message | {"ttl": {"N": str(now.now + 1000)}})
    await converse(owner="alice", ttl_seconds=60, ttl_of="message").add_items([said("new")])
    assert await texts(converse()) == ["old", "new"]
    now.now += 999
    assert await texts(converse()) == ["old"]
    assert [found.session_id async for found in listed(converse, "alice")] == ["chat"]
    now.now += 1
    assert [found async for found in listed(converse, "alice")] == []
    await converse().clear_session()
    await converse(owner="bob").add_items([said("his")])
    assert await texts(converse()) == ["his"]


@pytest.fixture
def earlier(client: Any, table_name: str) -> Callable[..., None]:
    """Return a function that stores a conversation of two messages as earlier versions had it."""

    def put(position: int, **item: Any) -> None:
        key = {"session_id": {"S": "chat"}, "position": {"N": str(position)}}
        client.put_item(TableName=table_name, Item=key | {"created_at": {"N": "1"}} | item)

    def store(last: int = 102, **more: Any) -> None:
        for number in (101, 102):
            put(number, message={"S": f'{{"content":"{number}"}}'})
        put(0, last={"N": str(last)}, owner={"S": "alice"}, updated_at={"N": "1"}, cleared={"N": "101"}, **more)

    return store


async def see(conversation: DynamoDBConversation) -> None:
    assert await texts(conversation) == ["102"]


async def add(conversation: DynamoDBConversation) -> None:
    with pytest.raises(SessionError, match="somebody else"):
        await conversation.add_items([said("bob's")])


async def pop(conversation: DynamoDBConversation) -> None:
    assert await conversation.pop_item() == {"content": "102"}
    assert await conversation.pop_item() is None


async def page(conversation: DynamoDBConversation) -> None:
    assert [message.item["content"] async for message in conversation.messages()] == ["102"]


async def clear(conversation: DynamoDBConversation) -> None:
    await conversation.clear_session()
    assert await texts(conversation) == []


@pytest.mark.parametrize("use", [see, add, pop, page, clear])
@pytest.mark.parametrize("meanwhile", ["nothing", "lost", "moved", "changed"])
async def test_the_head_of_an_earlier_version_is_moved_by_its_first_use(
    use: Callable[[DynamoDBConversation], Awaitable[None]],
    meanwhile: str,
    converse: Converse,
    proxy: Between,
    elsewhere: Callable[..., Any],
    earlier: Callable[..., None],
    items: Callable[[], list[dict[str, Any]]],
) -> None:
    """Whoever is at it at the same time, and whatever a process of that version changes meanwhile."""
    await converse().clear_session()
    earlier()
    if meanwhile == "lost":
        proxy.play("TransactWriteItems", [LOST])
    elif meanwhile != "nothing":
        proxy.then["GetItem"] = (lambda: elsewhere(see)) if meanwhile == "moved" else (lambda: earlier(last=105))
    await use(converse(owner="bob", endpoint_url=proxy.url))
    heads = [item for item in items() if "last" in item]
    assert [item["position"] for item in heads] == [{"N": str(HEAD)}]
    assert int(heads[0]["last"]["N"]) == (105 if meanwhile == "changed" else 102)
    await converse(owner="alice").add_items([said("new")])
    assert (await texts(converse()))[-1] == "new"
    del proxy.requests[:]
    await converse(endpoint_url=proxy.url).get_items(20)
    assert proxy.requests == ["Query"]


@pytest.mark.parametrize("error", ["AccessDeniedException", "ProvisionedThroughputExceededException"])
async def test_who_may_not_write_reads_what_an_earlier_version_has_stored(
    error: str, converse: Converse, proxy: Between, earlier: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition, "_MOVE_TIMEOUT", 1.0)
    earlier()
    proxy.play("TransactWriteItems", rest=Step(How.ANOTHER, applied=False, error=(400, error)))
    conversation = converse(endpoint_url=proxy.url)
    assert await texts(conversation) == ["102"]
    assert [message.item["content"] async for message in conversation.messages()] == ["102"]
    proxy.play("TransactWriteItems")
    await conversation.add_items([said("new")])
    assert await texts(conversation) == ["102", "new"]


async def test_a_head_of_an_earlier_version_may_have_any_attributes(
    converse: Converse, client: Any, table_name: str, earlier: Callable[..., None]
) -> None:
    """Such as those that global tables of 2017 add."""
    earlier(**{"aws:rep:updateregion": {"S": "eu-central-1"}, "my note": {"S": "x"}})
    assert await texts(converse()) == ["102"]
    key = {"session_id": {"S": "chat"}, "position": {"N": str(HEAD)}}
    assert client.get_item(TableName=table_name, Key=key)["Item"]["my note"] == {"S": "x"}


async def test_a_clear_by_a_process_of_an_earlier_version_is_a_clear(
    converse: Converse, client: Any, table_name: str, items: Callable[[], list[dict[str, Any]]]
) -> None:
    """It took the head for the latest message, and deleted it."""
    await converse(owner="alice").add_items([said("one")])
    for item in items():
        client.delete_item(TableName=table_name, Key={name: item[name] for name in ("session_id", "position")})
    cleared = {name: {"N": str(HEAD)} for name in ("last", "cleared")}
    client.put_item(TableName=table_name, Item={"session_id": {"S": "chat"}, "position": {"N": "0"}} | cleared)
    await converse(owner="bob").add_items([said("two")])
    assert await texts(converse()) == ["two"]
    [two] = [message async for message in converse().messages()]
    await converse().clear_session()
    await converse(owner="alice").add_items([said("three")])
    assert [message.item async for message in converse().messages(after=two.position)] == [said("three")]


@pytest.mark.parametrize("options", [{}, {"limit": 5}, {"newest_first": True}], ids=str)
async def test_a_page_is_of_one_time(
    options: dict[str, Any], converse: Converse, proxy: Between, elsewhere: Callable[..., Any], half_way: HalfWay
) -> None:
    """Whoever pages through a conversation that is cleared meanwhile does not read two that are mixed."""
    await converse(owner="alice").add_items([said(str(number)) for number in range(30)])

    async def clear_half_and_begin(conversation: DynamoDBConversation) -> None:
        await half_way.clear(conversation)
        await conversation.add_items([said("bob's")])

    proxy.then["Query"] = lambda: elsewhere(clear_half_and_begin, owner="bob")
    found = [message.item async for message in converse(endpoint_url=proxy.url).messages(**options)]
    before = [said(str(number)) for number in range(30)]
    assert found in ([said("bob's")], before[::-1] if "newest_first" in options else before)
    assert half_way.requests[-1] == "BatchWriteItem"


async def test_one_query_reads_the_latest_messages(converse: Converse, proxy: Proxy) -> None:
    """Before the first one, too, and however many there are."""
    for count in (0, 1, 30):
        await converse().add_items([said("x")] * count)
        del proxy.requests[:]
        await converse(endpoint_url=proxy.url).get_items(20)
        assert proxy.requests == ["Query"]


async def test_what_a_clear_of_an_earlier_version_left_behind_is_cleared(
    converse: Converse, client: Any, table_name: str
) -> None:
    await converse().clear_session()
    await converse().add_items([said(str(number)) for number in range(3)])
    client.delete_item(TableName=table_name, Key={"session_id": {"S": "chat"}, "position": {"N": str(HEAD)}})
    assert await texts(converse()) == ["0", "1", "2"]
    await converse().clear_session()
    assert await texts(converse()) == []
    await converse().add_items([said("new")])
    assert await texts(converse()) == ["new"]


async def test_what_was_for_ever_and_is_cleared_expires_from_then_on(converse: Converse, now: Clock) -> None:
    """For its owner's list; the head itself outlives what may have been stored of it meanwhile."""
    await converse(owner="alice").add_items([said("for ever")])
    await converse().clear_session()
    for _ in range(2):
        await converse(owner="alice", ttl_seconds=60).add_items([said("a minute")])
        assert [found.session_id async for found in listed(converse, "alice")] == ["chat"]
        now.now += 30
    now.now += 30
    assert [found async for found in listed(converse, "alice")] == []


@pytest.mark.parametrize("head", [{}, {"last": {"S": "x"}}, {"last": {"N": "1"}, "cleared": {"S": "x"}}], ids=str)
async def test_a_head_that_is_none_is_an_outage(
    head: dict[str, Any], converse: Converse, client: Any, table_name: str
) -> None:
    client.put_item(TableName=table_name, Item={"session_id": {"S": "chat"}, "position": {"N": str(HEAD)}} | head)
    for call in (converse().get_items, converse().pop_item, converse().clear_session):
        with pytest.raises(StoreUnavailable, match="head"):
            await call()


@pytest.mark.parametrize("limit", [None, 15])
@pytest.mark.parametrize("later", [[], [said("new")]])
async def test_who_reads_several_pages_sees_a_clear_in_one_step(
    limit: int | None, later: list[dict[str, str]], converse: Converse, proxy: Between, elsewhere: Callable[..., Any]
) -> None:
    await converse().add_items([said(secrets.token_hex(100_000)) for _ in range(20)])

    async def go_on(conversation: DynamoDBConversation) -> None:
        await conversation.clear_session()
        await conversation.add_items(later)

    proxy.then["Query"] = lambda: elsewhere(go_on)
    got = await converse(endpoint_url=proxy.url).get_items(limit)
    assert got == []
    assert await converse().get_items(limit) == later


async def test_who_reads_the_latest_sees_a_clear_in_one_step(
    converse: Converse,
    proxy: Between,
    elsewhere: Callable[..., Any],
    half_way: HalfWay,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await converse().add_items([said(str(number)) for number in range(30)])
    monkeypatch.setattr(partition, "MAX_PAGE", 8)
    proxy.then["Query"] = lambda: elsewhere(half_way.clear)
    assert await converse(endpoint_url=proxy.url).get_items(20) == []
    assert half_way.requests[-1] == "BatchWriteItem"


@pytest.mark.parametrize("options", [{}, {"ttl_seconds": 60}, {"ttl_of": "message"}])
async def test_a_late_attempt_to_begin_a_turn_does_not_begin_a_cleared_conversation(
    options: dict[str, Any], converse: Converse, proxy: Between
) -> None:
    await converse(owner="alice", **options).add_items([said("one")])
    proxy.play("UpdateItem", [held(late=0)])
    await converse(owner="alice", endpoint_url=proxy.url, **options).add_items([said("two")])
    await converse().clear_session()
    proxy.land()
    assert [found async for found in listed(converse, "alice")] == []
    await converse(owner="bob").add_items([said("bob's")])
    assert await texts(converse()) == ["bob's"]
