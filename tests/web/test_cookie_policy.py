"""What a client is told of its session, and when: what changes for it, and nothing else."""

import hashlib
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from itsdangerous import Signer
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from dynamodb_sessions import Changes, DynamoDBSessionMiddleware, MemoryStore, Record
from dynamodb_sessions.stores.contract import SessionStore
from dynamodb_sessions.web.cookie import SessionCookie, SessionHeader
from tests.conftest import KEY, Clock
from tests.helpers.asgi import Counting, an_app, browser, held
from tests.helpers.visitors import Client, Site, cookie_max_age, kept_until, told

pytestmark = pytest.mark.anyio

MAX_AGE = 1000
STEP = 100
"""How much a touch gains, at least."""
HEADER = "X-Session-Token"
DAY = 24 * 60 * 60

over_stores = pytest.mark.parametrize("engine", ["memory", "local", "async"])


def a_site(store: Any, **options: Any) -> Site:
    return Site(store, **{"max_age": MAX_AGE, "session_header": HEADER, **options})


@pytest.fixture(params=[None, HEADER], ids=["cookie", "header"])
def client(request: pytest.FixtureRequest, clock: Clock) -> Client:
    return Client(clock, request.param)


async def stored(store: Any) -> Record:
    """Return the one session there is."""
    (record,) = [record async for record in store.scan(now=0)]
    assert isinstance(record, Record)
    return record


WRITES = ["n=1", "pop=a", "many=1", "add=n", "n=1/save", "n=1/save/m=2", "save", ""]


@over_stores
@pytest.mark.parametrize("path", WRITES)
async def test_what_is_done_to_a_session_that_the_client_has_is_not_told(
    store: Any, client: Client, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = a_site(store)
    await client.get(site, "/a=1/b=1")
    client.clock.now += STEP - 1
    for signs in (SessionCookie, SessionHeader):
        monkeypatch.setattr(signs, "issue", None)  # A signature would be for nothing.
    response = await client.get(site, f"/{path}")
    assert "Cache-Control" not in response.headers
    assert response.headers["Vary"] == f"Cookie, {HEADER}"
    assert client.told == [client.clock.now - STEP + 1]
    assert (await stored(store)).content() == response.json()


async def test_what_is_changed_atomically_into_what_it_was_is_not_told(client: Client) -> None:
    async def nothing(request: Request) -> Response:
        await held(request).atomically(lambda content: content.setdefault("a", 1))
        return Response()

    store = MemoryStore()
    await client.get(a_site(store), "/a=1")
    sent = {HEADER: client.token} if client.header else {"Cookie": f"session_id={client.token}"}
    async with browser(an_app(store, nothing, session_header=HEADER, max_age=MAX_AGE)) as visitor:
        response = await visitor.get("/", headers=sent)
    assert response.status_code == 200
    assert {"set-cookie", HEADER.lower()}.isdisjoint(response.headers)


@pytest.mark.parametrize(
    "path", ["regenerate", "login=acme", "max_age=5000", "max_age=400", "clear", "clear/b=2", "pop=a"]
)
async def test_what_changes_for_the_client_is_told(client: Client, path: str) -> None:
    site = a_site(MemoryStore())
    await client.get(site, "/a=1")
    before = client.token
    client.clock.now += 1
    await client.get(site, f"/{path}")
    assert client.told == [client.clock.now - 1, client.clock.now]
    assert client.token != before


# Sliding expiry: the copy that the browser has.


def reads() -> Iterator[str]:
    return itertools.repeat("/")


def writes() -> Iterator[str]:
    return (f"/n={number}" for number in itertools.count())


def reads_and_writes() -> Iterator[str]:
    return itertools.cycle(["/", "/n=1", "/", "/", "/n=2", "/add=n"])


@over_stores
@pytest.mark.parametrize("every", [29, 99, 100, 101, 340, 899])
@pytest.mark.parametrize("paths", [reads, writes, reads_and_writes])
async def test_a_session_in_use_is_never_lost(
    store: SessionStore, client: Client, paths: Callable[[], Iterator[str]], every: int
) -> None:
    """Neither the store's copy nor the browser's, to within what a touch gains; nor is it told more often than that."""
    site, clock = a_site(store), client.clock
    await client.get(site, "/kept=1")
    for path in itertools.islice(paths(), 3 * MAX_AGE // every + 3):
        clock.now += every
        assert (await client.get(site, path)).json()["kept"] == 1
    clock.now += MAX_AGE - STEP
    assert (await client.get(site, "/")).json()["kept"] == 1
    assert all(after - before >= STEP for before, after in itertools.pairwise(client.told))
    clock.now += MAX_AGE
    assert (await client.get(site, "/")).json() == {}


@pytest.mark.parametrize(
    ("options", "path", "max_age", "step"),
    [
        ({"touch_after": 30}, "/kept=1", 1000, 30),
        ({"touch_after": 0}, "/kept=1", 1000, 0),
        ({}, "/kept=1/max_age=5000", 5000, 500),
        ({}, "/kept=1/max_age=50", 50, 5),
        ({"max_age": None}, "/kept=1/max_age=500", 500, 50),
        ({"max_age": 800 * DAY}, "/kept=1", 400 * DAY, 40 * DAY),  # Browsers keep none for longer.
        ({"max_age": 800 * DAY, "touch_after": 500 * DAY}, "/kept=1", 400 * DAY, 40 * DAY),
    ],
    ids=repr,
)
async def test_it_is_never_lost_whatever_its_lifetime(
    client: Client, options: dict[str, Any], path: str, max_age: int, step: int
) -> None:
    site, clock = a_site(MemoryStore(), **options), client.clock
    await client.get(site, path)
    for number in range(40):
        clock.now += max(1, max_age // 17)
        assert (await client.get(site, f"/n={number}" if number % 3 else "/")).json()["kept"] == 1
    clock.now += max_age - step - 1
    assert (await client.get(site, "/")).json()["kept"] == 1
    assert all(after - before >= step for before, after in itertools.pairwise(client.told))


async def test_it_is_never_lost_though_somebody_else_keeps_the_store_from_being_touched(client: Client) -> None:
    """A websocket that saves every minute moves the expiry in the store, and cannot tell the browser."""
    store = Counting(kept := MemoryStore())
    site, clock = a_site(store), client.clock
    await client.get(site, "/kept=1")
    elsewhere = Client(clock, client.header)
    elsewhere.token = client.token
    for _ in range(50):
        clock.now += 60
        await elsewhere.get(site, "/n=1")
        store.calls.clear()
        assert (await client.get(site, "/")).json()["kept"] == 1
        assert store.calls == ["load"], "to renew the cookie costs no write"
    assert (await stored(kept)).expires_at == clock.now + MAX_AGE
    clock.now += MAX_AGE - STEP
    assert (await client.get(site, "/")).json()["kept"] == 1


async def test_who_never_takes_what_it_is_told_costs_no_more_writes(client: Client) -> None:
    store = Counting(MemoryStore())
    site, clock = a_site(store), client.clock
    await client.get(site, "/a=1")
    first = client.token
    store.calls.clear()
    for _ in range(100):
        clock.now += 10
        client.token, client._forgets_at = first, float("inf")
        assert (await client.get(site, "/")).json() == {"a": 1}
    assert store.calls.count("update") == 10


async def test_a_cookie_and_its_session_are_due_at_the_same_time_however_long_the_handler_takes(clock: Clock) -> None:
    async def save(request: Request) -> Response:
        request.session["n"] = 1
        assert await held(request).save()
        clock.now += 5
        return Response()

    store = MemoryStore()
    async with browser(an_app(store, save, max_age=MAX_AGE)) as visitor:
        response = await visitor.get("/")
        assert (kept_until(visitor), cookie_max_age(response)) == ((await stored(store)).expires_at, MAX_AGE)


async def test_until_the_browser_closes_there_is_nothing_to_renew(client: Client) -> None:
    site, clock = a_site(MemoryStore(), max_age=None), client.clock
    await client.get(site, "/a=1")
    for path in itertools.islice(reads_and_writes(), 100):
        clock.now += 9 * DAY
        assert (await client.get(site, path)).json()["a"] == 1
    assert len(client.told) == 1


async def test_at_the_absolute_timeout_there_is_nothing_more_to_gain(client: Client) -> None:
    site, clock = a_site(MemoryStore(), absolute_max_age=1500), client.clock
    begun = clock.now
    await client.get(site, "/a=1")
    for number in range(148):
        clock.now += 10
        response = await client.get(site, f"/n={number}")
        assert response.json()["a"] == 1
        if not client.header and told(response) == "set":
            assert client._forgets_at <= begun + 1500
    assert client.told[-1] <= begun + 600
    clock.now = begun + 1499
    assert (await client.get(site, "/")).json()["a"] == 1
    clock.now += 1
    assert (await client.get(site, "/")).json() == {}


@pytest.mark.parametrize("max_age", [400, 30 * DAY])
async def test_a_lifetime_that_another_process_has_changed_is_told(client: Client, max_age: int) -> None:
    """By `set_max_age` after a response had started, or by the configuration of the next deploy."""
    store, clock = MemoryStore(), client.clock
    await client.get(a_site(store), "/kept=1")
    clock.now += 10
    own = Client(clock, client.header)
    own.token = client.token
    await own.get(a_site(store), f"/max_age={max_age}")
    await client.get(a_site(store), "/")
    assert client.told[1:] == [clock.now]
    deployed = a_site(store, max_age=max_age * 2)
    await own.get(a_site(store), "/max_age=0")
    await client.get(deployed, "/")
    assert client.told[2:] == [clock.now]
    clock.now += max_age * 2 * 9 // 10 - 1
    assert (await client.get(deployed, "/")).json() == {"kept": 1}


@pytest.mark.parametrize("skew", [-20 * DAY, -3 * DAY, 3 * DAY, 20 * DAY])
async def test_a_clock_that_goes_wrong_in_one_instance_takes_no_session_from_its_browser(
    clock: Clock, skew: int
) -> None:
    site, client = a_site(MemoryStore(), max_age=30 * DAY), Client(Clock(clock.now))
    await client.get(site, "/kept=1")
    for number, path in enumerate(itertools.islice(reads_and_writes(), 100)):
        client.clock.now += DAY
        clock.now = client.clock.now + (skew if number % 2 else 0)
        assert (await client.get(site, path)).json()["kept"] == 1
    clock.now = client.clock.now
    await client.get(site, "/")
    client.clock.now += 27 * DAY
    clock.now = client.clock.now
    assert (await client.get(site, "/")).json()["kept"] == 1


async def test_a_clock_that_was_never_set_tells_of_a_cookie_that_is_renewed(clock: Clock) -> None:
    store, client = MemoryStore(), Client(Clock(clock.now))
    right, clock.now = clock.now, 0
    await client.get(a_site(store), "/kept=1")
    found = await stored(store)
    clock.now = right
    await store.create(replace(found, created_at=right, expires_at=right + MAX_AGE), now=right)
    for _ in range(2):
        assert (await client.get(a_site(store), "/")).json() == {"kept": 1}
    assert len(client.told) == 2


@pytest.mark.parametrize("path", ["/poll", "/poll/n=1"])
async def test_a_request_that_extends_nothing_renews_nothing(client: Client, path: str) -> None:
    site = a_site(MemoryStore(), no_touch=["/poll"])
    await client.get(site, "/a=1")
    for _ in range(9):
        client.clock.now += STEP
        await client.get(site, path)
    assert len(client.told) == 1
    await client.get(site, "/")
    assert client.told[1:] == [client.clock.now]


@pytest.mark.parametrize(("path", "is_told"), [("/poll", False), ("/poll/n=1", True)])
async def test_it_tells_how_long_another_request_has_extended_it_only_where_something_is_stored(
    client: Client, path: str, *, is_told: bool
) -> None:
    site = a_site(MemoryStore(), no_touch=["/poll"])
    await client.get(site, "/a=1")
    client.clock.now += STEP
    elsewhere = Client(client.clock, client.header)
    elsewhere.token = client.token
    await elsewhere.get(site, "/")
    await client.get(site, path)
    assert (len(client.told) == 2) is is_told


async def test_of_two_cookies_of_one_session_the_one_that_was_told_last_counts(clock: Clock) -> None:
    """A browser has two where `path` or `domain` has changed, and names the more specific one first."""
    store = MemoryStore()
    site, client = a_site(store), Client(clock)
    await client.get(site, "/a=1")
    older = client.token
    clock.now += STEP
    await client.get(site, "/")
    assert client.token != older
    for header in (f"session_id={older}; session_id={client.token}", f"session_id={client.token}; session_id={older}"):
        async with site.visitor() as visitor:
            response = await visitor.get("/", headers={"Cookie": header})
        assert (response.json(), told(response)) == ({"a": 1}, "none")


# Responses that say nothing.


async def test_a_response_that_did_not_look_at_the_session_tells_nothing(clock: Clock) -> None:
    """A cache may keep it, and with it what it sets."""
    store = MemoryStore()
    client = Client(clock)
    await client.get(a_site(store), "/a=1")
    clock.now += MAX_AGE // 2
    for options in ({}, {"secret_key": ["a-new-key-of-more-than-thirty-two-bytes!", KEY]}):
        app = an_app(Counting(store, keeps_versions=True), lambda _: Response(), max_age=MAX_AGE, **options)
        async with browser(app) as visitor:
            response = await visitor.get("/", headers={"Cookie": f"session_id={client.token}"})
        assert {"set-cookie", "vary", "cache-control"}.isdisjoint(response.headers)


@pytest.mark.parametrize("saves", [False, True])
async def test_a_response_that_fails_renews_nothing_unless_something_was_saved(clock: Clock, *, saves: bool) -> None:
    async def fail(request: Request) -> Response:
        request.session["n"] = 1
        if saves:
            await held(request).save()
        return Response(status_code=500)

    store, client = MemoryStore(), Client(clock)
    await client.get(a_site(store), "/a=1")
    clock.now += MAX_AGE // 2
    async with browser(an_app(store, fail, max_age=MAX_AGE)) as visitor:
        response = await visitor.get("/", headers={"Cookie": f"session_id={client.token}"})
    assert ("set-cookie" in response.headers) is saves


async def test_a_websocket_renews_it_where_it_is_accepted_and_tells_nothing_later(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, client = MemoryStore(), Client(clock)
    await client.get(a_site(store), "/a=1")

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        scope["session"].get("a")
        await send({"type": "websocket.accept"})
        monkeypatch.setattr(SessionCookie, "issue", None)
        for number in range(3):
            scope["session"]["n"] = number
            assert await scope["session"].save()

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    for elapsed, is_told in ((STEP - 1, False), (1, True)):
        sent: list[Any] = []

        async def send(message: Message, sent: list[Any] = sent) -> None:
            sent.append(message)

        with monkeypatch.context():
            clock.now += elapsed
            middleware = DynamoDBSessionMiddleware(app, KEY, store=store, max_age=MAX_AGE)
            cookie = (b"cookie", f"session_id={client.token}".encode())
            await middleware({"type": "websocket", "path": "/", "headers": [cookie]}, receive, send)
        monkeypatch.undo()
        assert (b"set-cookie" in dict(sent[0].get("headers", ()))) is is_told


async def test_what_is_saved_after_the_response_has_started_is_not_signed(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stream(request: Request) -> Response:
        async def chunks() -> Any:
            yield "begun"
            monkeypatch.setattr(SessionCookie, "issue", None)
            request.session["late"] = 1

        return StreamingResponse(chunks())

    store, client = MemoryStore(), Client(clock)
    await client.get(a_site(store), "/a=1")
    clock.now += MAX_AGE // 2
    async with browser(an_app(store, stream, max_age=MAX_AGE)) as visitor:
        await visitor.get("/", headers={"Cookie": f"session_id={client.token}"})
    assert (await stored(store)).content() == {"a": 1, "late": 1}


# Versions.


class Hearing(Counting):
    """A store that notes what it is told of what the browser has seen."""

    def __init__(self, store: SessionStore, *, keeps_versions: bool) -> None:
        super().__init__(store, keeps_versions=keeps_versions)
        self.heard: list[tuple[int, str]] = []
        load = self._counted("load")

        async def hear(*args: Any, **kwargs: Any) -> Any:
            self.heard.append((kwargs.get("min_version", 0), kwargs.get("consistency", "default")))
            return await load(*args, **kwargs)

        self.load = hear


async def test_where_versions_are_kept_every_write_tells_the_new_one(client: Client) -> None:
    store = Hearing(MemoryStore(), keeps_versions=True)
    site = a_site(store)
    await client.get(site, "/a=1")
    assert client.version == 1
    for path, version in (("/", 1), ("/n=1", 2), ("/", 2), ("/n=1/save/n=2", 4), ("/add=n", 5), ("/regenerate", 6)):
        client.clock.now += 1
        count = len(client.told)
        before = client.version
        await client.get(site, path)
        assert (client.version, len(client.told) - count) == (version, int(version != before))
    # What is to get a new id is read again.
    assert store.heard == [*((version, "default") for version in (1, 1, 2, 2, 4, 5)), (0, "strong")]


async def test_who_keeps_no_version_is_given_one_where_they_are_kept_and_read_consistently_until_then(
    client: Client,
) -> None:
    kept = MemoryStore()
    await client.get(a_site(kept), "/a=1")
    await client.get(a_site(kept), "/n=1")
    assert client.version == 0
    store = Hearing(kept, keeps_versions=True)
    for _ in range(2):
        await client.get(a_site(store), "/")
    assert (client.version, len(client.told)) == (2, 2)
    assert store.heard == [(0, "strong"), (2, "default")]


async def test_a_version_is_told_by_who_writes_whatever_its_options(client: Client) -> None:
    kept = MemoryStore()
    await client.get(a_site(Counting(kept, keeps_versions=True)), "/a=1")
    await client.get(a_site(kept), "/n=1")
    assert client.version == 2
    # Until it is to be renewed, where nobody has use for it any more.
    client.clock.now += STEP
    await client.get(a_site(kept), "/")
    assert (client.version, len(client.told)) == (0, 3)
    await client.get(a_site(kept), "/n=2")
    assert len(client.told) == 3


async def test_a_read_tells_no_version(client: Client) -> None:
    """That of somebody else's write could take the place of a newer one, which the browser is told in parallel."""
    site = a_site(Counting(MemoryStore(), keeps_versions=True))
    await client.get(site, "/a=1")
    elsewhere = Client(client.clock, client.header)
    elsewhere.token = client.token
    await elsewhere.get(site, "/n=1")
    await client.get(site, "/")
    assert (client.version, elsewhere.version) == (1, 2)
    await client.get(site, "/n=2")
    assert client.version == 3


async def test_instances_that_keep_versions_and_others_serve_one_browser(client: Client) -> None:
    """What the cookie says is never less than what the browser has done, unless it says nothing."""
    kept = MemoryStore()
    sites = [a_site(kept), a_site(Counting(kept, keeps_versions=True))]
    chance = random.Random(1)
    await client.get(sites[0], "/kept=1")
    seen = 1
    for number in range(500):
        client.clock.now += chance.choice([0, 1, 30, 200])
        path = chance.choice(["/", f"/n={number}", "/add=n", "/save", f"/m={number}/save/n=1", "/regenerate"])
        assert (await client.get(chance.choice(sites), path)).json()["kept"] == 1
        if path not in ("/", "/save"):
            seen = (await stored_with(kept, client)).version
        assert client.version == 0 or client.version >= seen
    assert 100 < len(client.told) < 450


async def stored_with(store: MemoryStore, client: Client) -> Record:
    found = await store.load(client.token.partition(".")[0], now=client.clock.now)
    assert found is not None
    return found


async def test_a_version_that_is_too_high_to_be_told_is_none(client: Client) -> None:
    kept = MemoryStore()
    store = Counting(kept, keeps_versions=True)
    await client.get(a_site(store), "/a=1")
    await kept.delete(client.token.partition(".")[0])
    record = Record(client.token.partition(".")[0], {"a": "1"}, client.clock.now, client.clock.now + MAX_AGE)
    await kept.create(replace(record, version=999_998), now=client.clock.now)
    found = await stored(kept)
    while found.version < 999_998:
        raised = await kept.update(found, Changes(found.expires_at, set={"a": "1"}), now=client.clock.now)
        assert raised is not None
        found = raised
    for version in (999_999, 0):
        await client.get(a_site(store), "/n=1")
        assert client.version == version
    count = len(client.told)
    for path in ("/", "/n=2"):
        await client.get(a_site(store), path)
    assert (client.version, len(client.told)) == (0, count)


# What the version before has told.


def as_before(token: str, version: int) -> str:
    """Return what the version before told of a session: its id and its version."""
    signer = Signer(KEY, salt=b"dynamodb_sessions.cookie", key_derivation="hmac", digest_method=hashlib.sha256)
    return signer.sign(f"{token.partition('.')[0]}.{version}").decode()


@pytest.mark.parametrize("keeps_versions", [False, True])
@pytest.mark.parametrize("path", ["/", "/n=1"])
async def test_a_cookie_of_the_version_before_is_read_and_replaced_once(
    client: Client, path: str, *, keeps_versions: bool
) -> None:
    kept = MemoryStore()
    await client.get(a_site(kept), "/a=1")
    client.token = as_before(client.token, 7)
    store = Hearing(kept, keeps_versions=keeps_versions)
    site = a_site(store, max_age=None)
    for _ in range(2):
        assert (await client.get(site, path)).json()["a"] == 1
    writes = path != "/"
    assert store.heard[0] == (7, "default")
    assert client.version == (0 if not keeps_versions else 3 if writes else 1)
    assert len(client.told) == (3 if keeps_versions and writes else 2)


async def test_it_is_replaced_where_the_session_is_not_extended_too(client: Client) -> None:
    store = MemoryStore()
    await client.get(a_site(store), "/a=1")
    client.token = as_before(client.token, 1)
    for _ in range(2):
        client.clock.now += 10
        await client.get(a_site(store, no_touch=["/"]), "/")
    assert len(client.told) == 2
    client.clock.now += MAX_AGE - 20
    assert (await client.get(a_site(store), "/")).json() == {}
