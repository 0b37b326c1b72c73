"""What there is to know about a session, what of it is shown, and which names a template finds in it."""

import copy
import dataclasses
import json
import pickle
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.encoders import jsonable_encoder
from jinja2 import Environment

from dynamodb_sessions import DynamoDBSessionMiddleware, MemoryStore, Session, SessionError, SessionInfo, session_of
from dynamodb_sessions.identifiers import fingerprint, new_id
from dynamodb_sessions.session.session import make_session, state_of
from dynamodb_sessions.session.state import SessionState
from dynamodb_sessions.stores.contract import Record
from tests.conftest import KEY, Clock

pytestmark = pytest.mark.anyio


def a_session(**attributes: Any) -> Session:
    given = {"created_at": 100, "expires_at": 200} | attributes
    return make_session(SessionState(Record(new_id(), {"a": "1"}, **given)))


def test_the_public_names_are_starlettes_the_verbs_and_info() -> None:
    assert {name for name in dir(Session) if not name.startswith("_")} - set(dir(dict)) == {
        *("accessed", "modified", "mark_accessed", "mark_modified"),
        *("bind", "confirm_login", "regenerate", "set_max_age", "save", "reload", "atomically", "wait_ended"),
        "info",
    }
    assert not hasattr(Session(), "__dict__")


def test_a_template_finds_the_keys() -> None:
    """Jinja looks for an attribute before it looks for a key."""
    keys = ("id", "owner", "store", "created_at", "expires_at", "max_age", "is_new", "record", "version", "late")
    session = a_session(owner="acme/alice")
    session.update({key: f"the {key}" for key in keys})
    template = Environment(autoescape=True).from_string("".join(f"{{{{ session.{key} }}}}," for key in keys))
    assert template.render(session=session) == "".join(f"the {key}," for key in keys)
    assert Environment(autoescape=True).from_string("{{ session.id }}").render(session=a_session()) == ""


def test_it_says_what_is_known_now(clock: Clock) -> None:
    session = a_session(
        created_at=clock.now - 10,
        expires_at=clock.now + 90,
        owner="acme/alice",
        tenant="acme",
        max_age=100,
        authenticated_at=clock.now - 5,
    )
    before = session.info
    assert dataclasses.asdict(before) == {
        "fingerprint": fingerprint(before.id),
        "is_new": False,
        "created_at": clock.now - 10,
        "expires_at": clock.now + 90,
        "expires_in": 90,
        "owner": "acme/alice",
        "tenant": "acme",
        "max_age": 100,
        "authenticated_at": clock.now - 5,
    }
    clock.now += 100
    session.bind("acme/bob")
    session.set_max_age(None)
    after = session.info
    assert (after.owner, after.tenant, after.max_age, after.expires_in) == ("acme/bob", None, None, 0)
    assert after.authenticated_at == clock.now
    assert after.id != before.id
    assert (before.owner, before.expires_in) == ("acme/alice", 90), "a look is of its moment"


def test_a_new_one_has_no_times() -> None:
    info = Session().info
    assert (info.is_new, info.created_at, info.expires_at, info.expires_in) == (True, None, None, None)
    with pytest.raises(SessionError, match="store"):
        _ = info.store


def test_it_cannot_be_changed() -> None:
    info: Any = Session().info
    with pytest.raises(dataclasses.FrozenInstanceError):
        info.owner = "acme/eve"
    with pytest.raises(AttributeError):
        info.id = "chosen"


def shown(info: SessionInfo) -> list[str]:
    return [
        *(repr(info), str(info), repr(vars(info)), repr(dataclasses.asdict(info)), repr(dataclasses.astuple(info))),
        *(json.dumps(jsonable_encoder(info)), pickle.dumps(info).decode("latin-1"), repr(copy.deepcopy(info))),
        repr(dataclasses.replace(info, owner="b")),
    ]


def test_nothing_that_is_made_of_it_shows_the_id() -> None:
    session = a_session(owner="acme/alice")
    info = session.info
    assert info.id == state_of(session).id
    assert not [text for text in shown(info) if info.id in text]
    for again in (copy.copy(info), pickle.loads(pickle.dumps(info)), dataclasses.replace(info)):
        assert again == info
        with pytest.raises(SessionError, match="copy"):
            _ = again.id


async def test_an_endpoint_that_returns_it_sends_no_id() -> None:
    app, ids = FastAPI(), []
    app.add_middleware(DynamoDBSessionMiddleware, KEY, store=MemoryStore())

    @app.get("/typed")
    def typed(request: Request) -> SessionInfo:
        request.session["a"] = 1
        ids.append(session_of(request).info.id)
        return session_of(request).info

    @app.get("/untyped")
    async def untyped(request: Request) -> Any:
        return session_of(request).info

    @app.get("/nested")
    async def nested(request: Request) -> dict[str, Any]:
        return {"session": [session_of(request).info]}

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="https://testserver") as client:
        for path in ("/typed", "/untyped", "/nested"):
            response = await client.get(path)
            assert response.status_code == 200
            assert fingerprint(ids[0]) in response.text
            assert "expires_in" in response.text
            assert ids[0] not in response.text
