"""What is DynamoDB's own: the item, older items, broken items, errors, lost replies, stale reads."""

import json
import os
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import anyio
import boto3
import httpx
import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    HTTPClientError,
    ParamValidationError,
    ReadTimeoutError,
)
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dynamodb_sessions import (
    ConfigurationError,
    CorruptRecord,
    DynamoDBSessionMiddleware,
    DynamoDBStore,
    MemoryStore,
    SessionError,
    SessionTooLarge,
    StoreUnavailable,
    open_session,
)
from dynamodb_sessions.aws.errors import (
    ConditionFailed,
    ItemTooLarge,
    OutcomeUnknown,
    Refused,
    Throttled,
    Unreachable,
    translate,
)
from dynamodb_sessions.clock import wall_clock
from dynamodb_sessions.identifiers import new_id
from dynamodb_sessions.stores import table_schema
from dynamodb_sessions.stores.contract import MAX_RECORD_SIZE, Changes, Record, record_size
from dynamodb_sessions.stores.fallback import FallbackStore
from dynamodb_sessions.stores.item_format import from_record
from dynamodb_sessions.stores.observed_store import observed
from dynamodb_sessions.stores.reserved_ids import PROBE_ID
from dynamodb_sessions.stores.value_format import ValueFormat
from tests.helpers.answering import answering

pytestmark = pytest.mark.anyio

NOW = 1_800_000_000
LATER = NOW + 100


@pytest.fixture(params=["moto", "local"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(endpoint_url: str, table_name: str) -> Any:
    made = boto3.client("dynamodb", endpoint_url=endpoint_url, region_name="us-east-1")
    table_schema.create(made, table_name)
    return made


@pytest.fixture
def store(client: Any, table_name: str) -> DynamoDBStore:
    return DynamoDBStore(table_name, endpoint_url=client.meta.endpoint_url)


@pytest.fixture
def item(client: Any, table_name: str) -> Callable[[str], Any]:
    def get(session_id: str) -> Any:
        key = {"session_id": {"S": session_id}}
        return client.get_item(TableName=table_name, Key=key, ConsistentRead=True).get("Item")

    return get


def calls_of(store: DynamoDBStore) -> list[str]:
    """Return a list that grows with every call the store makes."""
    calls: list[str] = []
    store.client.meta.events.register("before-call.dynamodb", lambda model, **_: calls.append(model.name))
    return calls


def a_record(data: dict[str, str] | None = None) -> Record:
    return Record(new_id(), {"a": "1"} if data is None else data, NOW, LATER)


async def test_the_item_is_the_documented_one(store: DynamoDBStore, item: Callable[[str], Any]) -> None:
    record = Record(new_id(), {"n": "1.50", "ü": '{"a":[null,""]}'}, NOW, LATER, owner="acme/alice", max_age=500)
    await store.create(record, now=NOW)
    expected = {
        "session_id": {"S": record.id},
        "user_data": {"M": {"n": {"S": "1.50"}, "ü": {"S": '{"a":[null,""]}'}}},
        "created_at": {"N": str(NOW)},
        "ttl": {"N": str(LATER)},
        "version": {"N": "1"},
        "owner": {"S": "acme/alice"},
        "max_age": {"N": "500"},
    }
    assert item(record.id) == expected
    await store.update(record, Changes(LATER + 1, set={"n": "2"}, max_age=0), now=NOW)
    del expected["max_age"]
    expected |= {"ttl": {"N": str(LATER + 1)}, "version": {"N": "2"}}
    expected["user_data"] = {"M": {"n": {"S": "2"}, "ü": {"S": '{"a":[null,""]}'}}}
    assert item(record.id) == expected


async def test_the_table_is_the_documented_one(client: Any, table_name: str) -> None:
    table_schema.create(client, table_name)  # Once more: it is there already.
    (index,) = client.describe_table(TableName=table_name)["Table"]["GlobalSecondaryIndexes"]
    assert index["IndexName"] == "owner-index"
    table_name += "-tenants"
    table_schema.create(client, table_name, tenants=True)
    made = client.describe_table(TableName=table_name)["Table"]
    assert made["KeySchema"] == [{"AttributeName": "session_id", "KeyType": "HASH"}]
    assert made["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
    indexes = {index["IndexName"]: index for index in made["GlobalSecondaryIndexes"]}
    assert {name: [key["AttributeName"] for key in index["KeySchema"]] for name, index in indexes.items()} == {
        "owner-index": ["owner", "created_at"],
        "tenant-index": ["tenant", "owner"],
    }
    assert all(index["Projection"] == {"ProjectionType": "KEYS_ONLY"} for index in indexes.values())
    time_to_live = client.describe_time_to_live(TableName=table_name)["TimeToLiveDescription"]
    assert time_to_live["TimeToLiveStatus"] == "ENABLED"
    assert time_to_live["AttributeName"] == "ttl"


@pytest.mark.parametrize("engine", ["local"])
async def test_our_count_of_bytes_is_dynamodbs(client: Any, table_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit it fits; one byte more, sent all the same, the engine itself refuses."""
    store = DynamoDBStore(table_name, endpoint_url=client.meta.endpoint_url, compress_over=None)
    monkeypatch.setattr(ValueFormat, "check_size", lambda _, record: record)
    plain = a_record({"é": "", "b": "1"})
    for empty in (
        plain,
        replace(plain, owner="ö", max_age=3600),
        replace(plain, created_at=1_812_345_679, version=123),
    ):
        await fits_exactly(store, empty)


async def fits_exactly(store: DynamoDBStore, empty: Record) -> None:
    for beyond, fits in ((0, True), (1, False)):
        size = MAX_RECORD_SIZE + beyond - record_size(empty)
        record = replace(empty, id=new_id(), data={"é": "x" * size, "b": "1"})
        if fits:
            assert await store.create(record, now=NOW)
        else:
            with pytest.raises(SessionError, match="409,600"):
                await store.create(record, now=NOW)


def older_item(session_id: str, data: str, **attributes: Any) -> dict[str, Any]:
    given = {"session_id": {"S": session_id}, "user_data": {"S": data}}
    return given | {"created_at": {"N": f"{NOW}.25"}, "ttl": {"N": str(LATER)}} | attributes


class TestOlderLayout:
    @pytest.fixture
    def older(self, client: Any, table_name: str) -> str:
        name = new_id()
        data = json.dumps({"user": "alice", "cart": [1, {"b": None}]})
        client.put_item(TableName=table_name, Item=older_item(name, data))
        return name

    async def test_it_is_read(self, store: DynamoDBStore, older: str) -> None:
        record = await store.load(older, now=NOW)
        assert record is not None
        assert record.content() == {"user": "alice", "cart": [1, {"b": None}]}
        assert (record.created_at, record.version) == (NOW, 0)

    async def test_a_touch_leaves_the_layout(
        self, store: DynamoDBStore, older: str, item: Callable[[str], Any]
    ) -> None:
        record = await store.load(older, now=NOW)
        assert record is not None
        assert await store.update(record, Changes(LATER + 5), now=NOW) is not None
        stored = item(older)
        assert stored["ttl"] == {"N": str(LATER + 5)}
        assert "S" in stored["user_data"]

    async def test_its_next_change_rewrites_it_as_a_map(
        self, store: DynamoDBStore, older: str, item: Callable[[str], Any]
    ) -> None:
        record = await store.load(older, now=NOW)
        assert record is not None
        await store.update(record, Changes(LATER, set={"new": "1"}), now=NOW)
        await store.update(record, Changes(LATER, remove=frozenset({"user"}), owner="o"), now=NOW)
        stored = item(older)
        assert stored["user_data"] == {"M": {"cart": {"S": '[1,{"b":null}]'}, "new": {"S": "1"}}}
        assert (stored["version"], stored["owner"]) == ({"N": "2"}, {"S": "o"})

    async def test_it_can_be_moved_to_a_new_id(self, store: DynamoDBStore, older: str) -> None:
        record = await store.load(older, now=NOW)
        assert record is not None
        name = new_id()
        assert await store.rotate(record, name, Changes(LATER), now=NOW) is not None
        moved = await store.load(name, now=NOW)
        assert moved is not None
        assert moved.data == record.data
        assert await store.load(older, now=NOW) is None
        assert await store.rotate(moved, new_id(), Changes(LATER), now=NOW) is not None
        assert await store.load(name, now=NOW) is None

    async def test_it_can_be_ended_if_nobody_has_changed_it(self, store: DynamoDBStore, older: str) -> None:
        assert not await store.delete(older, version=1)
        assert await store.delete(older, version=0)
        assert await store.load(older, now=NOW) is None


BROKEN: dict[str, dict[str, Any]] = {
    "user_data missing": {"user_data": None},
    "user_data a number": {"user_data": {"N": "1"}},
    "user_data no JSON": {"user_data": {"S": "{"}},
    "user_data a JSON list": {"user_data": {"S": "[]"}},
    "user_data with an empty key": {"user_data": {"S": '{"":1}'}},
    "user_data nested without end": {"user_data": {"S": "[" * 10_000}},
    "a value a number": {"user_data": {"M": {"a": {"N": "1"}}}},
    "a value no JSON": {"user_data": {"M": {"a": {"S": "{"}}}},
    "a value nested without end": {"user_data": {"M": {"a": {"S": "[" * 10_000}}}},
    "a value in bytes": {"user_data": {"M": {"a": {"B": b"x"}}}},
    "ttl missing": {"ttl": None},
    "ttl a text": {"ttl": {"S": "soon"}},
    "created_at missing": {"created_at": None},
    "created_at negative": {"created_at": {"N": "-5"}},
    "version a text": {"version": {"S": "1"}},
    "max_age a text": {"max_age": {"S": "1"}},
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
async def test_a_broken_item_is_an_error_of_its_own_and_stays_as_it_is(
    change: dict[str, Any], store: DynamoDBStore, client: Any, table_name: str, item: Callable[[str], Any]
) -> None:
    name = "thread-1"
    whole = older_item(name, "{}", user_data={"M": {"a": {"S": "1"}}}, version={"N": "3"}) | change
    broken = {key: value for key, value in whole.items() if value is not None}
    client.put_item(TableName=table_name, Item=broken)
    with pytest.raises(CorruptRecord) as caught:
        async with open_session(store, name):
            raise AssertionError
    assert name not in str(caught.value)
    assert item(name) == broken


class TestCompression:
    """Of values that are long, and gain by it: an item is charged by its size."""

    LONG = '"' + "abc " * 1000 + '"'

    async def test_it_is_of_long_values_only(self, store: DynamoDBStore, item: Callable[[str], Any]) -> None:
        record = a_record({"long": self.LONG, "short": '"abc"'})
        await store.create(record, now=NOW)
        held = item(record.id)["user_data"]["M"]
        assert held["short"] == {"S": '"abc"'}
        assert zlib.decompress(held["long"]["B"]).decode() == self.LONG
        assert len(held["long"]["B"]) < 100

    async def test_what_would_not_gain_stays_as_it_is(
        self, client: Any, table_name: str, item: Callable[[str], Any]
    ) -> None:
        store = DynamoDBStore(table_name, endpoint_url=client.meta.endpoint_url, compress_over=0)
        record = a_record({"short": '"abc"', "long": self.LONG})
        await store.create(record, now=NOW)
        assert {name: set(value) for name, value in item(record.id)["user_data"]["M"].items()} == {
            "short": {"S"},
            "long": {"B"},
        }

    async def test_it_can_be_off(self, client: Any, table_name: str, item: Callable[[str], Any]) -> None:
        store = DynamoDBStore(table_name, endpoint_url=client.meta.endpoint_url, compress_over=None)
        record = a_record({"long": self.LONG})
        await store.create(record, now=NOW)
        assert item(record.id)["user_data"]["M"] == {"long": {"S": self.LONG}}

    async def test_items_with_and_without_it_are_read_by_both(self, client: Any, table_name: str) -> None:
        url = client.meta.endpoint_url
        on, off = (
            DynamoDBStore(table_name, endpoint_url=url),
            DynamoDBStore(table_name, endpoint_url=url, compress_over=None),
        )
        record = a_record({"first": self.LONG})
        await on.create(record, now=NOW)
        changed = await off.update(record, Changes(LATER, set={"second": self.LONG}), now=NOW)
        assert changed is not None
        for store in (on, off):
            assert await store.load(record.id, now=NOW) == changed

    @pytest.mark.parametrize(
        "held",
        [b"", b"no zlib", zlib.compress(b"1")[:-1], zlib.compress(b"\xff"), zlib.compress(b" " * 10_000_000)],
        ids=["empty", "noise", "cut", "no text", "bomb"],
    )
    async def test_what_cannot_be_inflated_is_corrupt(self, store: DynamoDBStore, client: Any, held: bytes) -> None:
        record = a_record()
        stored = from_record(record)
        stored["user_data"] = {"M": {"a": {"B": held}}}
        client.put_item(TableName=store.table_name, Item=stored)
        with pytest.raises(CorruptRecord):
            await store.load(record.id, now=NOW)

    async def test_many_small_values_cannot_be_gigabytes_either(self, store: DynamoDBStore, client: Any) -> None:
        record = a_record()
        stored = from_record(record)
        held = zlib.compress(b'"' + b" " * (MAX_RECORD_SIZE - 10) + b'"')
        stored["user_data"] = {"M": {str(number): {"B": held} for number in range(300)}}
        client.put_item(TableName=store.table_name, Item=stored)
        with pytest.raises(CorruptRecord):
            await store.load(record.id, now=NOW)

    async def test_what_several_have_put_in_together_can_be_used_and_made_smaller(self, store: DynamoDBStore) -> None:
        """It fits into an item, though it would not as it is: no reader is to suffer for that."""
        record, half = a_record({"n": "1"}), '"' + "x" * 250_000 + '"'
        await store.create(record, now=NOW)
        for key in "ab":
            assert await store.update(record, Changes(LATER, set={key: half}), now=NOW)
        held = await store.load(record.id, now=NOW)
        assert held is not None
        assert record_size(held) > MAX_RECORD_SIZE
        assert await store.update(held, Changes(LATER + 1), now=NOW)
        with pytest.raises(SessionTooLarge):
            await store.update(held, Changes(LATER, set={"c": '"more"'}), now=NOW)
        smaller = await store.update(held, Changes(LATER, set={"n": "2"}, remove=frozenset({"c"})), now=NOW)
        assert smaller is not None
        moved = await store.rotate(smaller, new_id(), Changes(LATER, remove=frozenset({"a"})), now=NOW)
        assert moved is not None
        assert set(moved.data) == {"b", "n"}

    @pytest.mark.parametrize("over", ["1", 1.5, True, -1])
    def test_a_bad_size_is_refused(self, over: Any) -> None:
        with pytest.raises(ConfigurationError, match="compress_over"):
            DynamoDBStore("sessions", compress_over=over)


@pytest.mark.parametrize("client", [object(), boto3.Session, 5])
def test_a_client_that_is_none_is_refused_at_once(client: Any) -> None:
    with pytest.raises(ConfigurationError, match="client="):
        DynamoDBStore("sessions", client=client)


class TestStaleReads:
    """A store that may read stale copies: the engine's answers are held back on purpose."""

    def test_a_consistency_that_is_none_is_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="consistent_read='no'"):
            DynamoDBStore("sessions", consistent_read="no")  # type: ignore[arg-type]

    @pytest.mark.parametrize("consistent_read", [True, False])
    def test_a_store_says_whether_cookies_are_to_carry_versions(self, *, consistent_read: bool) -> None:
        store = DynamoDBStore("sessions", consistent_read=consistent_read)
        assert store.keeps_versions is not consistent_read
        assert FallbackStore(store, None).keeps_versions is store.keeps_versions
        assert observed(store, None).keeps_versions is store.keeps_versions
        assert observed(FallbackStore(store, None), None).keeps_versions is store.keeps_versions

    def test_other_stores_need_no_versions(self) -> None:
        assert observed(MemoryStore(), None).keeps_versions is False

    @pytest.fixture
    def half_price(self, client: Any, table_name: str) -> DynamoDBStore:
        return DynamoDBStore(table_name, endpoint_url=client.meta.endpoint_url, consistent_read=False)

    async def test_what_it_has_just_written_it_reads_consistently_at_once(self, half_price: DynamoDBStore) -> None:
        """A cheap read would likely be repeated: one read is cheaper than both."""
        record = a_record()
        await half_price.create(record, now=NOW)
        consistent = self.reads(half_price, None)
        assert await half_price.load(record.id, now=NOW, min_version=1) == record
        assert await half_price.update(record, Changes(LATER, set={"a": "2"}), now=NOW + 2) is not None
        assert await half_price.load(record.id, now=NOW + 3) is not None
        assert await half_price.rotate(record, moved := new_id(), Changes(LATER), now=NOW + 5) is not None
        assert await half_price.load(moved, now=NOW + 6) is not None
        assert consistent == [True, True, True, True]
        assert await half_price.load(moved, now=NOW + 7, min_version=1) is not None
        assert consistent[4:] == [False, True]

    @pytest.mark.parametrize(
        "act",
        [
            lambda store, record, _: store.delete(record.id),
            lambda store, record, _: store.revoke_owner(record.owner),
            lambda store, record, now: store.create(replace(record, id=new_id()), now=now, replaces=record.id),
            lambda store, record, now: store.rotate(record, new_id(), Changes(now + 100), now=now),
            lambda store, record, now: store.update(
                record, Changes(now + 100, set={f"k{number}": "1" for number in range(101)}), now=now
            ),
        ],
        ids=["deleted", "revoked", "replaced", "moved", "changed in many keys"],
    )
    async def test_what_it_has_just_ended_it_reads_consistently(self, half_price: DynamoDBStore, act: Any) -> None:
        now = wall_clock()
        record = replace(a_record(), created_at=now - 5, expires_at=now + 100, owner=new_id())
        await half_price.create(record, now=now - 5)
        await act(half_price, record, now)
        consistent = self.reads(half_price, None)
        await half_price.load(record.id, now=now)
        assert consistent == [True]

    async def test_what_it_remembers_of_its_writes_is_bounded(
        self, half_price: DynamoDBStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dynamodb_sessions.stores.dynamodb._MAX_WRITTEN", 2)
        records = [a_record() for _ in range(3)]
        for record in records:
            await half_price.create(record, now=NOW)
        consistent = self.reads(half_price, None)
        for record in records:
            await half_price.load(record.id, now=NOW)
        assert consistent == [False, True, True, True]

    @pytest.mark.parametrize(("consistent", "least"), [((False, False), 25), ((True, False), 10), ((False, True), 10)])
    async def test_a_browser_sees_what_it_wrote_however_stale_the_copies(
        self,
        client: Any,
        table_name: str,
        monkeypatch: pytest.MonkeyPatch,
        consistent: tuple[bool, bool],
        least: int,
    ) -> None:
        """Two instances take turns, and every cheap read answers with the first copy there was.

        An instance whose reads are consistent has no use for the version, and tells it to a browser that has one.
        """
        stores = [
            DynamoDBStore(table_name, endpoint_url=client.meta.endpoint_url, consistent_read=each)
            for each in consistent
        ]
        monkeypatch.setattr("dynamodb_sessions.stores.dynamodb._STALE_SECONDS", -1)
        first: dict[str, Any] = {}
        stale = 0
        for store in stores:
            asked: list[dict[str, Any]] = []

            def ask(params: dict[str, Any], asked: list[dict[str, Any]] = asked, **_: Any) -> None:
                asked.append(params)

            def answer(parsed: dict[str, Any], asked: list[dict[str, Any]] = asked, **_: Any) -> None:
                nonlocal stale
                name = asked[-1]["Key"]["session_id"]["S"]
                if not asked[-1].get("ConsistentRead", True):
                    was = first.setdefault(name, parsed.get("Item"))
                    stale += was != parsed.get("Item")
                    parsed.pop("Item", None)
                    parsed |= {} if was is None else {"Item": was}

            store.client.meta.events.register("provide-client-params.dynamodb.GetItem", ask)
            store.client.meta.events.register("after-call.dynamodb.GetItem", answer)

        async def count(request: Request) -> Response:
            request.session["n"] = request.session.get("n", 0) + 1
            return JSONResponse(request.session["n"])

        instances = [
            httpx.ASGITransport(DynamoDBSessionMiddleware(Starlette(routes=[Route("/", count)]), "k" * 32, store=store))
            for store in stores
        ]
        cookies = httpx.Cookies()
        for number in range(1, 31):
            async with httpx.AsyncClient(
                transport=instances[number % 2], base_url="http://app", cookies=cookies
            ) as browser:
                assert (await browser.get("/")).json() == number
                cookies = browser.cookies
        assert stale >= least

    def reads(self, store: DynamoDBStore, stale: Any) -> list[bool]:
        """Answer reads that may be stale with `stale`; return the list of whether each was consistent."""
        consistent: list[bool] = []

        def answer(params: dict[str, Any], **_: Any) -> None:
            consistent.append(params["ConsistentRead"])

        def hold_back(parsed: dict[str, Any], **_: Any) -> None:
            if not consistent[-1]:
                # Something, or it would be no answer of DynamoDB's.
                parsed["ConsumedCapacity"] = {"CapacityUnits": 0.5}
                parsed.pop("Item", None)
                if stale is not None:
                    parsed["Item"] = stale

        store.client.meta.events.register("provide-client-params.dynamodb.GetItem", answer)
        store.client.meta.events.register("after-call.dynamodb.GetItem", hold_back)
        return consistent

    async def test_one_read_does_when_it_is_recent_enough(self, half_price: DynamoDBStore) -> None:
        record = a_record()
        await half_price.create(record, now=NOW)
        calls = calls_of(half_price)
        assert await half_price.load(record.id, now=NOW, min_version=1) == record
        assert calls == ["GetItem"]

    async def test_an_absent_item_is_looked_for_again(self, half_price: DynamoDBStore) -> None:
        record = a_record()
        await half_price.create(record, now=NOW)
        consistent = self.reads(half_price, None)
        assert await half_price.load(record.id, now=NOW + 2, min_version=1) == record
        assert consistent == [False, True]

    async def test_an_older_item_than_the_client_has_seen_is_read_again(
        self, half_price: DynamoDBStore, item: Callable[[str], Any]
    ) -> None:
        record = a_record()
        await half_price.create(record, now=NOW)
        stale = item(record.id)
        await half_price.update(record, Changes(LATER, set={"a": "2"}), now=NOW)
        consistent = self.reads(half_price, stale)
        loaded = await half_price.load(record.id, now=NOW + 2, min_version=2)
        assert loaded is not None
        assert loaded.data == {"a": "2"}
        assert consistent == [False, True]

    async def test_what_was_changed_on_a_stale_copy_loses_nothing(
        self, half_price: DynamoDBStore, item: Callable[[str], Any]
    ) -> None:
        record = a_record({})
        await half_price.create(record, now=NOW)
        stale = item(record.id)
        await half_price.update(record, Changes(LATER, set={"a": "1"}), now=NOW)
        self.reads(half_price, stale)
        loaded = await half_price.load(record.id, now=NOW + 2, min_version=1)
        assert loaded == record
        moved = await half_price.rotate(loaded, new_id(), Changes(LATER, set={"b": "2"}), now=NOW + 2)
        assert moved is not None
        assert moved.data == {"a": "1", "b": "2"}


def losing_first_reply(store: DynamoDBStore, operation: str) -> list[int]:
    """Apply the first request of this operation, and lose its reply. Return the statuses that were lost."""
    lost: list[int] = []

    def lose(request: Any, **_: Any) -> AWSResponse | None:
        if lost:
            return None
        answered = store.client._endpoint.http_session.send(request)
        lost.append(answered.status_code)
        raise ReadTimeoutError(endpoint_url="http://lost")

    store.client.meta.events.register(f"before-send.dynamodb.{operation}", lose)
    return lost


async def test_a_lost_reply_to_a_create_is_repeated_and_taken(store: DynamoDBStore) -> None:
    """The repeated attempt finds the id taken, by its own first: that is a success."""
    lost = losing_first_reply(store, "PutItem")
    record = a_record()
    assert await store.create(record, now=NOW)
    assert lost == [200]
    assert await store.load(record.id, now=NOW) == record


async def test_a_repeated_create_does_not_take_anothers_record_for_its_own(store: DynamoDBStore) -> None:
    taken = a_record()
    await store.create(taken, now=NOW)
    losing_first_reply(store, "PutItem")
    with pytest.raises(StoreUnavailable, match="another session is stored"):
        await store.create(replace(taken, data={"b": "2"}), now=NOW)
    assert await store.load(taken.id, now=NOW) == taken


async def test_a_lost_reply_to_a_conditional_delete_is_no_conflict(store: DynamoDBStore) -> None:
    record = a_record()
    await store.create(record, now=NOW)
    lost = losing_first_reply(store, "DeleteItem")
    assert await store.delete(record.id, version=1)
    assert lost == [200]


async def test_a_repeated_conditional_delete_does_not_take_a_refusal_for_its_own_success(store: DynamoDBStore) -> None:
    record = a_record()
    await store.create(record, now=NOW)
    losing_first_reply(store, "DeleteItem")
    assert not await store.delete(record.id, version=2)
    assert await store.load(record.id, now=NOW) == record


@pytest.mark.parametrize(("checksum", "error"), [(True, "ChecksumError"), (False, "cut off")])
async def test_half_a_reply_is_no_answer(store: DynamoDBStore, checksum: bool, error: str) -> None:
    """The SDK may take it for an empty one: half an item must not read as no item."""
    record = a_record()
    await store.create(record, now=NOW)

    def cut_off(request: Any, **_: Any) -> AWSResponse:
        answered: AWSResponse = store.client._endpoint.http_session.send(request)
        answered._content = answered.content[:-1]
        if not checksum:
            del answered.headers["x-amz-crc32"]
        return answered

    store.client.meta.events.register("before-send.dynamodb.GetItem", cut_off)
    with pytest.raises(StoreUnavailable, match=error):
        await store.load(record.id, now=NOW)


@pytest.mark.parametrize("transport", [None, "async"])
@pytest.mark.parametrize("status", [200, 204])
@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"1", b"null", b'{"message":"sorry"}', b'{"Item":null}'])
async def test_what_is_no_answer_of_dynamodbs_is_an_outage(body: bytes, status: int, transport: str | None) -> None:
    """A proxy's page, say: it does not tell that there is no session, nor that one was stored."""
    with answering(status, body) as server, ThreadPoolExecutor(1) as thread:
        thread.submit(server.serve_forever, 0.01)
        store = DynamoDBStore(
            "sessions", endpoint_url=f"http://127.0.0.1:{server.server_port}", client=transport, timeout=0.3
        )
        try:
            with pytest.raises(StoreUnavailable):
                await store.load(new_id(), now=NOW)
            if body != b'{"Item":null}':
                with pytest.raises(StoreUnavailable):
                    await store.create(a_record(), now=NOW)
        finally:
            server.shutdown()


@pytest.mark.parametrize("engine", ["local"])
async def test_a_lost_reply_to_a_rotation_moves_it_once(store: DynamoDBStore) -> None:
    record = a_record()
    await store.create(record, now=NOW)
    lost = losing_first_reply(store, "TransactWriteItems")
    name = new_id()
    moved = await store.rotate(record, name, Changes(LATER, set={"b": "2"}), now=NOW)
    assert lost == [200]
    assert moved is not None
    assert await store.load(name, now=NOW) == moved
    assert await store.load(record.id, now=NOW) is None


async def test_a_lost_reply_to_an_update_and_a_delete_changes_nothing_twice(store: DynamoDBStore) -> None:
    record = a_record()
    await store.create(record, now=NOW)
    losing_first_reply(store, "UpdateItem")
    losing_first_reply(store, "DeleteItem")
    updated = await store.update(record, Changes(LATER, set={"a": "2"}), now=NOW)
    assert updated is not None
    assert updated.data == {"a": "2"}
    await store.delete(record.id)
    assert await store.load(record.id, now=NOW) is None


def give_up_between_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a deadline of three seconds come in a pause, half of it before the end: no attempt is cut off by it."""
    monkeypatch.setattr("dynamodb_sessions.aws.table_calls.random.uniform", lambda _, longest: longest)
    monkeypatch.setattr("dynamodb_sessions.aws.table_calls._FIRST_PAUSE", 0.1)
    monkeypatch.setattr("dynamodb_sessions.aws.table_calls._LONGEST_PAUSE", 100.0)


async def test_a_held_item_is_tried_again_and_given_up_in_the_end(
    store: DynamoDBStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynamodb_sessions.aws.table_calls._FIRST_PAUSE", 0.0)
    record = a_record()
    await store.create(record, now=NOW)
    conflicts = [3]

    def conflict(**_: Any) -> None:
        if conflicts[0]:
            conflicts[0] -= 1
            raise ClientError({"Error": {"Code": "TransactionConflictException"}}, "UpdateItem")

    store.client.meta.events.register("before-call.dynamodb.UpdateItem", conflict)
    assert await store.update(record, Changes(LATER, set={"a": "2"}), now=NOW) is not None
    hasty = DynamoDBStore(store.table_name, client=store.client, timeout=3.0)
    give_up_between_attempts(monkeypatch)
    conflicts[0] = 100_000
    with pytest.raises(StoreUnavailable, match=r"another transaction holds the item.*it was tried until the deadline"):
        await hasty.update(record, Changes(LATER, set={"a": "3"}), now=NOW)


async def test_what_changes_without_end_is_given_up_and_nothing_is_lost(
    store: DynamoDBStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_up_between_attempts(monkeypatch)
    record = a_record()
    await store.create(record, now=NOW)

    def conflict(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "ConditionalCheckFailedException"}}, "UpdateItem")

    for operation in ("UpdateItem", "TransactWriteItems"):
        store.client.meta.events.register(f"before-call.dynamodb.{operation}", conflict)
    many = Changes(LATER, set={f"{number}": "1" for number in range(101)})
    hasty = DynamoDBStore(store.table_name, client=store.client, timeout=3.0)
    with pytest.raises(StoreUnavailable, match="too many"):
        await hasty.update(record, many, now=NOW)
    with pytest.raises(StoreUnavailable, match="faster"):
        await hasty.rotate(record, new_id(), Changes(LATER), now=NOW)
    assert await store.load(record.id, now=NOW) == record


async def test_a_call_ends_by_its_deadline(client: Any, table_name: str) -> None:
    store = DynamoDBStore(table_name, client=client, timeout=0.2)
    client.meta.events.register("before-call.dynamodb", lambda **_: time.sleep(1))
    before = time.monotonic()
    with pytest.raises(StoreUnavailable, match=r"within 0\.2 s"):
        await store.load(new_id(), now=NOW)
    assert time.monotonic() - before < 1


@pytest.mark.parametrize("engine", ["local"])
def test_after_a_fork_each_process_reads_its_own_answers(store: DynamoDBStore) -> None:
    """The store is probed before the fork, as a pre-forking server does, which leaves a warm connection behind."""
    names = [new_id(), new_id()]
    for number, name in enumerate(names):
        anyio.run(partial(store.create, replace(a_record({"n": str(number)}), id=name), now=NOW))
    assert store.probe()

    def reads(number: int) -> bool:
        async def read() -> bool:
            for _ in range(100):
                record = await store.load(names[number], now=NOW)
                if record is None or record.data != {"n": str(number)}:
                    return False
            return True

        return anyio.run(read)

    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if reads(0) else 1)
        finally:
            os._exit(2)
    right = reads(1)
    _, status = os.waitpid(child, 0)
    assert right
    assert os.waitstatus_to_exitcode(status) == 0


async def test_an_answer_about_another_session_is_no_answer(store: DynamoDBStore) -> None:
    record = a_record()
    await store.create(record, now=NOW)

    def mix_up(parsed: dict[str, Any], **_: Any) -> None:
        parsed["Item"]["session_id"] = {"S": new_id()}

    store.client.meta.events.register("after-call.dynamodb.GetItem", mix_up)
    with pytest.raises(StoreUnavailable, match="another session"):
        await store.load(record.id, now=NOW)


async def test_a_client_of_ones_own_is_used_as_it_is(client: Any, table_name: str) -> None:
    store = DynamoDBStore(table_name, client=client)
    assert store.client is client
    assert store.probe()
    assert await store.load(new_id(), now=NOW) is None


async def test_probing_asks_once_for_an_id_that_nobody_has(store: DynamoDBStore) -> None:
    asked: list[Any] = []
    store.client.meta.events.register(
        "provide-client-params.dynamodb.GetItem", lambda params, **_: asked.append(params["Key"])
    )
    assert store.mode_reason == "not asked yet"
    assert store.probe()
    assert store.probe()
    assert asked == [{"session_id": {"S": PROBE_ID}}]
    assert (store.mode, store.mode_reason, store.probe_error) == ("dynamodb", "the table answers", None)


async def test_without_middleware_a_missing_table_is_an_error(moto_url: str, table_name: str) -> None:
    store = DynamoDBStore(table_name, endpoint_url=moto_url)
    with pytest.raises(ConfigurationError, match="ResourceNotFoundException"):
        async with open_session(store, "thread-1"):
            raise AssertionError


async def test_a_table_that_cannot_be_created_is_an_error(table_name: str) -> None:
    store = DynamoDBStore(table_name, endpoint_url="http://127.0.0.1:1", create_table=True)
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        await store.load("x", now=NOW)


@pytest.mark.parametrize("name", ["", "ab", "a b", "x" * 256, 5, "a/b"])
async def test_a_table_has_a_tables_name(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="table_name"):
        DynamoDBStore(name)


async def test_a_table_may_be_named_by_its_arn() -> None:
    DynamoDBStore("arn:aws:dynamodb:us-east-1:123456789012:table/sessions")


@pytest.mark.parametrize("seconds", [0, -1, True, float("inf"), float("nan"), 3601])
async def test_a_deadline_is_positive_and_one_is_alive_to_see_it(seconds: float) -> None:
    with pytest.raises(ConfigurationError, match="timeout"):
        DynamoDBStore("sessions", timeout=seconds)


def client_error(code: str, message: str = "", reasons: list[dict[str, str]] | None = None) -> ClientError:
    response: Any = {"Error": {"Code": code, "Message": message}}
    if reasons is not None:
        response["CancellationReasons"] = reasons
    return ClientError(response, "Whatever")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (client_error("ConditionalCheckFailedException"), ConditionFailed),
        (client_error("TransactionConflictException"), Refused),
        (
            client_error("TransactionCanceledException", "", [{"Code": "None"}, {"Code": "TransactionConflict"}]),
            Refused,
        ),
        (
            client_error("TransactionCanceledException", "", [{"Code": "ConditionalCheckFailed"}, {"Code": "None"}]),
            ConditionFailed,
        ),
        (
            client_error(
                "TransactionCanceledException",
                "",
                [{"Code": "ValidationError", "Message": "Item size has exceeded the maximum allowed size"}],
            ),
            ItemTooLarge,
        ),
        (
            client_error("ValidationException", "Item size to update has exceeded the maximum allowed size"),
            ItemTooLarge,
        ),
        (client_error("ValidationException", "The provided key element does not match the schema"), ConfigurationError),
        (client_error("ResourceNotFoundException"), ConfigurationError),
        (client_error("AccessDeniedException"), ConfigurationError),
        (client_error("ExpiredTokenException"), ConfigurationError),
        (client_error("ProvisionedThroughputExceededException"), Throttled),
        (client_error("ThrottlingException"), Throttled),
        (client_error("RequestLimitExceeded"), Throttled),
        (client_error("TransactionCanceledException", "", [{"Code": "ThrottlingError"}, {"Code": "None"}]), Throttled),
        (client_error("InternalServerError"), OutcomeUnknown),
        (client_error(""), OutcomeUnknown),
        (ParamValidationError(report="the secret"), ConfigurationError),
        (ReadTimeoutError(endpoint_url="http://x"), OutcomeUnknown),
        (ConnectTimeoutError(endpoint_url="http://x"), Unreachable),
        (OSError("broken pipe"), OutcomeUnknown),
        (HTTPClientError(error=ValueError("Invalid header value b'the secret\\n'")), ConfigurationError),
        (HTTPClientError(error=ValueError("Failed to parse: user:secret@proxy")), OutcomeUnknown),
        (HTTPClientError(error="the secret"), OutcomeUnknown),
    ],
    ids=repr,
)
async def test_every_error_is_one_of_ours(error: Exception, expected: type[SessionError]) -> None:
    translated = translate(error)
    assert type(translated) is expected
    assert "secret" not in str(translated)
    assert str(translated).isprintable()


GARBAGE: dict[str, list[tuple[str, Any]]] = {
    "load": [
        ("GetItem", {"Item": []}),
        ("GetItem", {"Item": 5}),
        ("GetItem", {"Item": {"session_id": "x"}}),
    ],
    "update": [
        ("UpdateItem", {"Attributes": None}),
        ("UpdateItem", {"Attributes": {"version": {"N": "many"}}}),
        ("UpdateItem", {"Attributes": {"version": 5, "ttl": {}}}),
    ],
    "list": [("Query", {"Items": [{}]}), ("Query", {"Items": [None]}), ("Query", {}), ("Query", {"Items": 5})],
}


@pytest.mark.parametrize(("act", "operation", "said"), [(act, *each) for act, all_ in GARBAGE.items() for each in all_])
async def test_well_formed_json_that_is_not_dynamodbs_is_an_outage(
    act: str, operation: str, said: Any, moto_url: str, table_name: str
) -> None:
    """Never an AttributeError, and never a session that is absent. With `client="async"`: boto3's parser is lenient."""
    store = DynamoDBStore(table_name, endpoint_url=moto_url, client="async", create_table=True, timeout=1.0)
    record = a_record()
    await store.create(record, now=NOW)
    send = store._calls._transport.call

    async def garbled(name: str, **parameters: Any) -> Any:
        answer = await send(name, **parameters)
        return said if name.title().replace("_", "") == operation else answer

    store._calls._transport.call = garbled  # type: ignore[method-assign, assignment]
    with pytest.raises(StoreUnavailable):
        if act == "load":
            await store.load(record.id, now=NOW)
        elif act == "update":
            await store.update(record, Changes(LATER, set={"a": "2"}), now=NOW)
        else:
            assert [each async for each in store.list_owner("acme/alice", now=NOW)]


@pytest.mark.parametrize("kind", [None, "async"])
async def test_a_store_closes_what_it_has_opened_and_can_be_used_again(
    kind: str | None, moto_url: str, table_name: str
) -> None:
    async with DynamoDBStore(table_name, endpoint_url=moto_url, client=kind, create_table=True) as store:
        record = a_record()
        await store.create(record, now=NOW)
        other = DynamoDBStore(table_name, endpoint_url=moto_url, client=kind)
        assert await other.load(record.id, now=NOW) == record
    assert await other.load(record.id, now=NOW) == record, "another store's connections stay open"
    assert await store.load(record.id, now=NOW) == record
    await store.close()
    await other.close()
    await other.close()


async def test_a_given_client_stays_open(client: Any, table_name: str) -> None:
    store = DynamoDBStore(table_name, client=client)
    await store.close()
    assert await store.load(new_id(), now=NOW) is None
