"""Moving in from Starlette's cookie sessions: nobody has to log in again, and no cookie is worth two logins."""

import base64
import logging
import math
from datetime import UTC, datetime
from typing import Any

import anyio
import httpx
import pytest
import starlette.middleware.sessions
from itsdangerous import TimestampSigner
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from dynamodb_sessions import ConfigurationError, DynamoDBSessionMiddleware, MemoryStore
from dynamodb_sessions.stores.contract import Record, SessionStore
from dynamodb_sessions.stores.fallback import FallbackStore
from dynamodb_sessions.web import starlette_cookie_import
from tests.conftest import KEY, Clock
from tests.helpers.asgi import Counting, an_app, browser, by_path, clear, held, look, put
from tests.helpers.fallback import Primary, Time, healed
from tests.helpers.starlette_cookies import ALICE, OLD_KEY, of_starlette

pytestmark = pytest.mark.anyio


def moved_in(store: Any, *, options: dict[str, Any] | None = None, **acts: Any) -> Starlette:
    return an_app(
        store,
        by_path(look=look, put=put(more=1), clear=clear, nothing=lambda _: Response(), **acts),
        import_cookie="session",
        import_secret_key=OLD_KEY,
        **options or {},
    )


def set_cookies(response: httpx.Response) -> list[str]:
    return [value.partition("=")[0] for value in response.headers.get_list("set-cookie")]


async def test_who_was_logged_in_stays_logged_in(store: SessionStore) -> None:
    async def login(request: Request) -> JSONResponse:
        request.session.update(ALICE)
        return JSONResponse({})

    before = Starlette(
        routes=[Route("/", login)], middleware=[Middleware(SessionMiddleware, secret_key=OLD_KEY, https_only=True)]
    )
    async with browser(before) as old, browser(moved_in(store)) as new:
        await old.get("/")
        new.cookies = old.cookies
        first = await new.get("/look")
        assert first.json() == ALICE
        assert set_cookies(first) == ["session_id", "session"]
        assert "Max-Age=0" in first.headers.get_list("set-cookie")[1]
        assert list(new.cookies) == ["session_id"]
        assert (await new.get("/put")).json() == ALICE | {"more": 1}
        assert (await new.get("/look")).json() == ALICE | {"more": 1}


async def test_a_request_that_does_not_look_moves_it_too() -> None:
    async with browser(moved_in(MemoryStore())) as client:
        client.cookies.set("session", of_starlette(ALICE))
        assert set_cookies(await client.get("/nothing")) == ["session_id", "session"]
        assert (await client.get("/look")).json() == ALICE


async def test_after_a_logout_the_old_cookie_logs_nobody_in(store: SessionStore) -> None:
    cookie = of_starlette(ALICE)
    async with browser(moved_in(store)) as client:
        client.cookies.set("session", cookie)
        await client.get("/look")
        await client.get("/clear")
    async with browser(moved_in(store)) as thief:
        for _ in range(3):
            thief.cookies.set("session", cookie)
            assert (await thief.get("/look")).json() == {}
        assert (await thief.get("/put")).json() == {"more": 1}


async def test_parallel_requests_become_one_session() -> None:
    store = MemoryStore()
    cookie = of_starlette(ALICE)
    seen: list[Any] = []

    class Slow(Counting):
        def _counted(self, name: str) -> Any:
            call = super()._counted(name)

            async def slow(*args: Any, **kwargs: Any) -> Any:
                await anyio.sleep(0.001)
                return await call(*args, **kwargs)

            return slow

    async def one() -> None:
        async with browser(moved_in(Slow(store))) as client:
            client.cookies.set("session", cookie)
            seen.append(((await client.get("/look")).json(), client.cookies["session_id"].partition(".")[0]))

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(one)
    [session] = {session_id for _, session_id in seen}
    assert [data for data, _ in seen] == [ALICE] * 5
    assert len(store) == 2, "the session, and what became of the cookie"
    assert session in store._records


async def test_a_reply_that_was_lost_is_no_other_request() -> None:
    """The store says that the record of what became of the cookie is there already: it is our own."""

    class Forgetful(MemoryStore):
        async def create(self, record: Record, **options: Any) -> Record | None:
            created = await super().create(record, **options)
            return None if record.id.startswith("imported/") else created

    async with browser(moved_in(Forgetful())) as client:
        client.cookies.set("session", of_starlette(ALICE))
        assert (await client.get("/look")).json() == ALICE
        assert (await client.get("/look")).json() == ALICE


async def test_a_login_moves_it_to_a_new_id_and_ends_the_cookie_for_good(store: SessionStore) -> None:
    cookie = of_starlette({"visits": 3})

    def login(request: Request) -> None:
        request.session["user"] = "alice"
        held(request).bind("acme/alice")

    async with browser(moved_in(store, login=login)) as client:
        client.cookies.set("session", cookie)
        assert (await client.get("/login")).json() == {"visits": 3, "user": "alice"}
        assert (await client.get("/look")).json() == {"visits": 3, "user": "alice"}
        client.cookies.clear()
        client.cookies.set("session", cookie)
        assert (await client.get("/look")).json() == {}


FORGED = [
    of_starlette(ALICE, key="some-other-key"),
    of_starlette(ALICE)[:-1],
    "A" + of_starlette(ALICE),
    of_starlette([1]),
    of_starlette({}),
    of_starlette("x"),
    TimestampSigner(OLD_KEY).sign(b"not base64!").decode(),
    TimestampSigner(OLD_KEY).sign(base64.b64encode(b"[" * 100_000)).decode(),
    "",
    "..",
]


@pytest.mark.parametrize("cookie", FORGED, ids=range(len(FORGED)))
async def test_what_does_not_verify_costs_no_call(cookie: str) -> None:
    counting = Counting(MemoryStore())
    async with browser(moved_in(counting)) as client:
        response = await client.get("/look", headers={"cookie": f"session={cookie}"})
    assert (response.status_code, response.json(), counting.calls) == (200, {}, [])
    assert set_cookies(response) == []


@pytest.mark.parametrize("header", ['session="{}"', "session = {}", 'other=1;\tsession ="{}" '])
async def test_quotes_and_blanks_around_it_are_read_as_starlette_reads_them(header: str) -> None:
    async with browser(moved_in(MemoryStore())) as client:
        response = await client.get("/look", headers={"cookie": header.format(of_starlette(ALICE))})
    assert (response.json(), set_cookies(response)) == (ALICE, ["session_id", "session"])


async def test_one_that_is_too_old_is_not_adopted(monkeypatch: pytest.MonkeyPatch) -> None:
    cookie = of_starlette(ALICE)
    monkeypatch.setattr(starlette_cookie_import, "MAX_AGE", -1)
    async with browser(moved_in(MemoryStore())) as client:
        client.cookies.set("session", cookie)
        assert (await client.get("/look")).json() == {}


@pytest.mark.parametrize(
    "age", [starlette_cookie_import.MAX_AGE - 1, starlette_cookie_import.MAX_AGE, starlette_cookie_import.MAX_AGE + 1]
)
async def test_however_old_it_has_grown_it_logs_nobody_in_after_the_logout(
    age: int, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starlette takes a cookie in the last of its seconds, too."""
    monkeypatch.setattr(TimestampSigner, "get_timestamp", lambda _: clock.now)
    cookie = of_starlette(ALICE)
    async with browser(moved_in(MemoryStore())) as client:
        client.cookies.set("session", cookie)
        await client.get("/look")
        await client.get("/clear")
        clock.now += age
        client.cookies.set("session", cookie)
        assert (await client.get("/look")).json() == {}


@pytest.mark.parametrize(
    ("options", "adopted"),
    [
        ({}, [0, 1, 2, 3]),
        ({"import_signed_before": 1_800_000_002}, [0, 1]),
        ({"import_signed_before": datetime.fromtimestamp(1_800_000_001.5, UTC)}, [0, 1]),
        ({"import_signed_after": 1_800_000_002.0}, [2, 3]),
        ({"import_signed_after": 1_800_000_001, "import_signed_before": 1_800_000_003}, [1, 2]),
    ],
    ids=str,
)
async def test_only_what_was_signed_in_time_is_adopted(
    options: dict[str, Any], adopted: list[int], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not is left alone."""
    clock.now = 1_800_000_000
    monkeypatch.setattr(TimestampSigner, "get_timestamp", lambda _: clock.now)
    counting = Counting(MemoryStore())
    for second in range(4):
        cookie = of_starlette({"n": second})
        counting.calls.clear()
        async with browser(moved_in(counting, options=options)) as client:
            client.cookies.set("session", cookie)
            response = await client.get("/look")
            if second in adopted:
                assert (response.json(), set_cookies(response)) == ({"n": second}, ["session_id", "session"])
            else:
                assert (response.json(), set_cookies(response), counting.calls) == ({}, [], [])
        clock.now += 1


@pytest.mark.parametrize("options", [{}, {"import_signed_after": 1_800_000_050, "import_signed_before": 1_800_000_150}])
async def test_an_earlier_copy_of_the_same_session_is_one_of_its_own(
    options: dict[str, Any], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starlette signs anew at each change, and no two of its cookies say that they belong together."""
    clock.now = 1_800_000_000
    monkeypatch.setattr(TimestampSigner, "get_timestamp", lambda _: clock.now)
    earlier = of_starlette(ALICE)
    clock.now += 100
    latest = of_starlette(ALICE | {"n": 1})
    clock.now += 100
    by_an_old_instance = of_starlette(ALICE | {"n": 2})
    app = moved_in(MemoryStore(), options=options)
    async with browser(app) as alice:
        alice.cookies.set("session", latest)
        assert (await alice.get("/look")).json() == ALICE | {"n": 1}
        await alice.get("/clear")
    seen = []
    for cookie in (earlier, latest, by_an_old_instance):
        async with browser(app) as thief:
            thief.cookies.set("session", cookie)
            seen.append((await thief.get("/look")).json())
    assert seen == ([{}, {}, {}] if options else [ALICE, {}, ALICE | {"n": 2}])


@pytest.mark.parametrize("cut_off", [None, 1_800_000_000])
async def test_an_app_below_that_keeps_its_cookies_keeps_them_with_a_cut_off_only(
    cut_off: int | None, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.now = 1_800_000_000
    monkeypatch.setattr(TimestampSigner, "get_timestamp", lambda _: clock.now)

    async def keep(request: Request) -> JSONResponse:
        if request.query_params:
            request.session.update(request.query_params)
        return JSONResponse(dict(request.session))

    below = Starlette(
        routes=[Route("/", keep)],
        middleware=[Middleware(SessionMiddleware, secret_key=OLD_KEY)],
    )
    app = Starlette(
        routes=[Mount("/shop", below), Route("/", keep)],
        middleware=[
            Middleware(
                DynamoDBSessionMiddleware,
                secret_key=KEY,
                store=MemoryStore(),
                import_cookie="session",
                import_secret_key=OLD_KEY,
                import_signed_before=cut_off,
            )
        ],
    )
    async with browser(app) as client:
        await client.get("/?name=alice")
        await client.get("/shop/?basket=1")
        visit = await client.get("/shop/")
        assert visit.json() == {"basket": "1"}
        # Starlette before 1.0 sets its cookie again on every response, and so outlives the removal.
        again = [] if hasattr(starlette.middleware.sessions, "Session") else ["session"]
        assert set_cookies(visit) == [*again, *([] if cut_off else ["session"])], "taken for a leftover, and removed"
        assert (await client.get("/shop/")).json() == ({"basket": "1"} if cut_off or again else {})
        assert (await client.get("/")).json() == {"name": "alice"}


async def test_what_dynamodb_cannot_carry_is_left_alone_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    async with browser(moved_in(MemoryStore())) as client:
        client.cookies.set("session", of_starlette({"": 1}))
        with caplog.at_level(logging.WARNING):
            assert (await client.get("/look")).json() == {}
    assert "cannot be adopted" in caplog.text


async def test_many_cookies_in_one_request_cost_no_more_than_a_few() -> None:
    counting = Counting(MemoryStore())
    ended = [of_starlette({"n": n}) for n in range(10)]
    async with browser(moved_in(counting)) as client:
        for cookie in ended:
            await client.get("/clear", headers={"cookie": f"session={cookie}"})
        for cookies, expected in ((ended[:1] * 100, 1), (ended, 4)):
            counting.calls.clear()
            await client.get("/look", headers={"cookie": "; ".join(f"session={cookie}" for cookie in cookies)})
            assert counting.calls == ["load", "load"] * expected, "what became of each, and that session"


async def test_a_session_of_our_own_comes_first() -> None:
    store = MemoryStore()
    async with browser(moved_in(store)) as client:
        await client.get("/put")
        client.cookies.set("session", of_starlette(ALICE), domain="testserver.local")
        first = await client.get("/nothing")
        assert (set_cookies(first), first.headers["cache-control"]) == (["session"], "no-store")
        assert list(client.cookies) == ["session_id"]
        second = await client.get("/look")
        assert (second.json(), set_cookies(second)) == ({"more": 1}, [])
    assert len(store) == 1


@pytest.mark.parametrize("path", ["clear", "nothing"])
async def test_a_cookie_beside_a_session_of_our_own_logs_nobody_in_after_that_has_ended(path: str) -> None:
    """It was set by an instance of before, or while nothing was adopted: whoever logs out now means this session."""
    store = MemoryStore()
    async with browser(moved_in(store)) as client:
        await client.get("/put")
        client.cookies.set("session", of_starlette(ALICE), domain="testserver.local")
        if path == "nothing":
            store._records.clear()  # As an operator ends it.
        await client.get(f"/{path}")
        assert (await client.get("/look")).json() == {}
        assert "session" not in client.cookies
        assert (await client.get("/look")).json() == {}


async def test_under_our_own_name_it_is_not_removed_beside_a_session_of_ours() -> None:
    """It has been set for another path; a removal would hit the session's cookie too."""
    told: list[str] = []
    options = {"session_cookie": "session", "import_cookie": "session"}
    app = an_app(MemoryStore(), look, on_event=lambda event: told.append(event.name), **options)
    async with browser(app) as client:
        client.cookies.set("session", of_starlette(ALICE, key=KEY), domain="testserver.local")
        await client.get("/")
        both = f"session={client.cookies['session']}; session={of_starlette({'user': 'bob'}, key=KEY)}"
        response = await client.get("/", headers={"cookie": both})
    assert (response.json(), set_cookies(response)) == (ALICE, [])
    assert "refused" not in told


async def test_an_outage_is_no_logout() -> None:
    counting = Counting(MemoryStore())
    for failing in ("load", "create"):
        counting.failing = {failing}
        async with browser(moved_in(counting)) as client:
            client.cookies.set("session", of_starlette(ALICE))
            response = await client.get("/look")
            assert (response.status_code, set_cookies(response)) == (503, [])


async def test_while_dynamodb_cannot_be_initialised_it_waits() -> None:
    """A process that starts without DynamoDB does not know of a logout that DynamoDB knows of."""
    primary, time = Primary(), Time()
    fallback = FallbackStore(primary, MemoryStore(), clock=time)
    async with browser(moved_in(fallback)) as client:
        client.cookies.set("session", of_starlette(ALICE))
        response = await client.get("/look")
        assert (response.json(), set_cookies(response)) == ({}, [])
        await healed(fallback, primary, time)
        assert (await client.get("/look")).json() == ALICE
    assert len(primary) == 2


async def test_the_old_cookie_may_have_our_name_and_our_key() -> None:
    app = an_app(MemoryStore(), look, session_cookie="session", import_cookie="session")
    async with browser(app) as client:
        client.cookies.set("session", of_starlette(ALICE, key=KEY))
        first = await client.get("/")
        assert (first.json(), set_cookies(first)) == (ALICE, ["session"])
        assert (await client.get("/")).json() == ALICE


@pytest.mark.parametrize(
    "options",
    [
        *({"import_cookie": name} for name in ("a b", "")),
        {"import_cookie": "x", "import_secret_key": ""},
        *(
            {"import_cookie": "x", "import_signed_before": moment}
            for moment in ("2026-06-01", datetime(2026, 6, 1), math.inf, math.nan, True)  # noqa: DTZ001
        ),
        {"import_cookie": "x", "import_signed_after": 2, "import_signed_before": 2},
    ],
    ids=str,
)
def test_options_that_cannot_be_used_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        an_app(MemoryStore(), look, **options).build_middleware_stack()


@pytest.mark.parametrize(
    "options", [{"import_secret_key": OLD_KEY}, {"import_signed_after": 0}, {"import_signed_before": 1}], ids=str
)
def test_what_is_said_of_a_cookie_that_has_no_name_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"{next(iter(options))} is of no use without import_cookie"):
        an_app(MemoryStore(), look, **options).build_middleware_stack()
