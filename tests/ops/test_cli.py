"""The command line as an operator meets it: what it prints, what it ends, how it fails."""

import io
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import boto3
import pytest

from dynamodb_sessions import DynamoDBStore, StoreUnavailable
from dynamodb_sessions.aws.boto3_transport import Boto3Transport
from dynamodb_sessions.aws.errors import OutcomeUnknown
from dynamodb_sessions.identifiers import fingerprint, new_id
from dynamodb_sessions.ops import cli, commands, patient_store
from dynamodb_sessions.ops.patient_store import OperatorsStore
from dynamodb_sessions.stores import item_format, table_schema
from dynamodb_sessions.stores.contract import Changes, Record
from dynamodb_sessions.stores.reserved_ids import ADOPTED
from tests.helpers import waiting
from tests.helpers.proxy import WHOLE, How, Proxy, Step

COMMAND = [sys.executable, "-m", "dynamodb_sessions"]
NOBODY_THERE = ["--endpoint-url", "http://127.0.0.1:9"]

THROTTLED = Step(How.ANOTHER, applied=False, error=(400, "ProvisionedThroughputExceededException"))

Run = Callable[..., str]
Store = Callable[..., Record]


@pytest.fixture(params=["moto", "local"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(endpoint_url: str, table_name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of the table that the environment names."""
    monkeypatch.setenv("SESSION_TABLE_NAME", table_name)
    monkeypatch.setenv("DYNAMODB_ENDPOINT_URL", endpoint_url)
    made = boto3.client("dynamodb", endpoint_url=endpoint_url, region_name="us-east-1")
    table_schema.create(made, table_name)
    return made


@pytest.fixture
def proxy(
    client: Any,  # noqa: ARG001 - it makes the table, past the proxy
    endpoint_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Proxy]:
    """What stands between the command line and the table."""
    made = Proxy(endpoint_url)
    monkeypatch.setenv("DYNAMODB_ENDPOINT_URL", made.url)
    yield made
    made.close()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command, expects its exit code, and returns all it printed."""

    def run(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        try:
            ended = cli.main(arguments)
        except SystemExit as exit_:
            ended = int(exit_.code or 0)
        said = "".join(capsys.readouterr())
        assert ended == code, said
        return said

    return run


@pytest.fixture
def keep(client: Any, table_name: str) -> Store:
    """Return a function that stores a session."""
    store = DynamoDBStore(table_name, client=client)

    def keep(owner: str | None = None, *, age: int = 10, left: int = 100, **options: Any) -> Record:
        now = int(time.time())
        options = {"id": new_id(), "data": {"user": '"alice"', "cart": "[1,2]"}} | options
        record = Record(created_at=now - age, expires_at=now + left, owner=owner, **options)
        # As it was at its creation: the store would not create one that is over.
        assert anyio.run(lambda: store.create(record, now=record.created_at))
        return record

    return keep


@pytest.fixture
def stored(client: Any, table_name: str) -> Callable[[], set[str]]:
    """Return a function that returns the ids in the table, without those that say when an owner's were ended."""

    def ids() -> set[str]:
        found = {item["session_id"]["S"] for item in client.scan(TableName=table_name)["Items"]}
        return {each for each in found if not each.startswith("revoked/")}

    return ids


def stamp(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


# list


def test_list_names_every_live_session(run: Run, keep: Store) -> None:
    alices, another, old = keep("acme/alice"), keep(), keep(left=-5)
    header, *lines = run("list").splitlines()
    assert header.split() == ["SESSION", "CREATED", "EXPIRES", "OWNER"]
    expected = {
        (fingerprint(record.id), stamp(record.created_at), stamp(record.expires_at), record.owner or "-")
        for record in (alices, another)
    }
    assert {tuple(line.split()) for line in lines} == expected
    assert fingerprint(old.id) not in str(lines)


def test_list_tells_sizes_on_demand(run: Run, keep: Store) -> None:
    small, large = keep("acme/alice"), keep("acme/alice", data={"big": f'"{"x" * 9000}"'})
    for arguments in (["list"], ["list", "--owner", "acme/alice"]):
        header, *lines = run(*arguments, "--sizes").splitlines()
        assert header.split() == ["SESSION", "CREATED", "EXPIRES", "BYTES", "OWNER"]
        sizes = {line.split()[0]: int(line.split()[3]) for line in lines}
        assert sizes[fingerprint(large.id)] > 9000 > sizes[fingerprint(small.id)] > 0


def test_that_there_are_no_sessions_is_said(run: Run, keep: Store) -> None:
    keep(left=-5)
    assert run("list") == run("list", "--owner", "nobody") == "no sessions\n"
    assert run("list", "--json") == run("list", "--owner", "nobody", "--json") == ""
    assert run("revoke", "--owner", "nobody") == "revoked no sessions\n"


def test_an_owners_sessions_are_read_a_hundred_at_once(run: Run, keep: Store, proxy: Proxy) -> None:
    ids = [keep("acme/alice", age=300 - number).id for number in range(201)]
    names = [line.split()[0] for line in run("list", "--owner", "acme/alice").splitlines()[1:]]
    assert names == [*map(fingerprint, ids)]
    assert proxy.requests == ["Query", *["BatchGetItem"] * 3]


@pytest.mark.parametrize("engine", ["moto"], indirect=True)
def test_keys_that_a_batch_leaves_out_are_read_later(run: Run, keep: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """As DynamoDB does when it is throttled, or when the answer would be larger than 16 MB."""
    ids = [keep("acme/alice", age=300 - number).id for number in range(7)]
    call = Boto3Transport.call

    async def half(transport: Boto3Transport, operation: str, **parameters: Any) -> dict[str, Any]:
        if operation != "batch_get_item":
            return await call(transport, operation, **parameters)
        ((name, asked),) = parameters.pop("RequestItems").items()
        now, later = asked["Keys"][:2], asked["Keys"][2:]
        answer = await call(transport, operation, RequestItems={name: asked | {"Keys": now}}, **parameters)
        return answer | ({"UnprocessedKeys": {name: asked | {"Keys": later}}} if later else {})

    monkeypatch.setattr(Boto3Transport, "call", half)
    names = [line.split()[0] for line in run("list", "--owner", "acme/alice").splitlines()[1:]]
    assert names == [*map(fingerprint, ids)]


@pytest.mark.parametrize("engine", ["moto"], indirect=True)
def test_a_session_that_the_index_names_twice_is_listed_once(
    run: Run, keep: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login under an id of one's own moves it to another place in the index, which is read page by page."""
    record = keep("acme/alice", id="thread-1")

    async def twice(*_: Any) -> AsyncIterator[str]:
        for session_id in (record.id, record.id):
            yield session_id

    monkeypatch.setattr(DynamoDBStore, "_ids_of", twice)
    _, line = run("list", "--owner", "acme/alice").splitlines()
    assert fingerprint(record.id) in line
    run("revoke", fingerprint(record.id), "--owner", "acme/alice")


def test_list_of_an_owner_is_oldest_first(run: Run, keep: Store) -> None:
    young, old = keep("acme/alice", age=5), keep("acme/alice", age=50)
    keep("acme/bob")
    names = [line.split()[0] for line in run("list", "--owner", "acme/alice").splitlines()[1:]]
    assert names == [fingerprint(old.id), fingerprint(young.id)]


def test_ids_are_printed_on_demand_only(run: Run, keep: Store) -> None:
    record = keep("acme/alice")
    for arguments in (["list"], ["list", "--owner", "acme/alice"], ["show", record.id], ["revoke", record.id]):
        assert record.id not in run(*arguments)
    record = keep("acme/alice")
    for arguments in (["list"], ["list", "--owner", "acme/alice"], ["show", record.id]):
        assert record.id in run(*arguments, "--ids")


def test_list_goes_on_to_the_last_page(run: Run, keep: Store) -> None:
    """A page of DynamoDB is 1 MB."""
    for _ in range(5):
        keep("acme/alice", data={"big": f'"{"x" * 300_000}"'})
    assert len(run("list").splitlines()) == 6


def test_list_leaves_out_what_is_no_session(run: Run, keep: Store, client: Any, table_name: str) -> None:
    record, adopted = keep(), Record(ADOPTED + "0" * 64, {"id": '"x"'}, 0, 2**33)
    client.put_item(TableName=table_name, Item={"session_id": {"S": "secret-id"}})
    client.put_item(TableName=table_name, Item=item_format.from_record(adopted))
    said = run("list")
    assert fingerprint(record.id) in said
    assert "secret-id" not in said
    assert fingerprint(adopted.id) not in said


def test_what_could_steer_a_terminal_is_escaped(run: Run, keep: Store) -> None:
    record = keep("ann\x1b[2J\u202eé", data={"k\n\x1b": '"\x9b\u202e"'})
    for said in (run("list"), run("show", record.id, "--values")):
        assert "\x1b" not in said
        assert "\u202e" not in said
        assert "\x9b" not in said
        assert r"ann\x1b[2J\u202eé" in said


# show


def test_show_tells_all_but_the_values(run: Run, keep: Store) -> None:
    record = keep("acme/alice", max_age=600, version=3, data={"token": '"s3cret"', "é": "[1,2]"})
    said = run("show", record.id)
    assert dict(line.split(maxsplit=1) for line in said.splitlines()) == {
        "session": fingerprint(record.id),
        "owner": "acme/alice",
        "created": stamp(record.created_at),
        "expires": stamp(record.expires_at),
        "lifetime": "600 s, its own",
        "version": "3",
        "bytes": said.split("bytes")[1].split()[0],
        "keys": "2",
        "8": "token",
        "5": "é",
    }
    assert "s3cret" not in said


def test_show_tells_the_values_on_demand(run: Run, keep: Store) -> None:
    record = keep(data={"token": '"s3cret"', "models": "Cart:{\x1b"})
    said = run("show", record.id, "--values")
    assert 'token = "s3cret"' in said
    assert r"models = Cart:{\x1b" in said, "no JSON, but what the app's serializer has made of it"
    assert "lifetime  the middleware's" in said


@pytest.mark.parametrize(
    "command", [["show", "-"], ["revoke", "-"], ["revoke", "--owner", "acme/alice", "--keep", "-"]]
)
def test_an_id_is_read_from_standard_input(
    command: list[str], run: Run, keep: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = keep("acme/alice")
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{record.id}\n"))
    run(*command)
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    assert "an id is text of 1 to 2048 bytes" in run(*command, code=1)


@pytest.mark.parametrize("prefix", ["-", "--", "-h"])
def test_an_id_may_begin_with_a_dash(prefix: str, run: Run, keep: Store, stored: Callable[[], set[str]]) -> None:
    """As one in 64 does: it is no option."""
    record, other = keep(id=(prefix + new_id())[:43]), keep()
    assert fingerprint(record.id) in run("show", record.id)
    run("revoke", record.id)
    assert stored() == {other.id}
    record = keep("acme/alice", id=record.id)
    assert "no sessions" in run("revoke", "--owner", "acme/alice", "--keep", record.id)
    assert record.id in stored()


@pytest.mark.parametrize("engine", ["moto"], indirect=True)
def test_what_follows_two_dashes_is_an_id(run: Run, keep: Store, stored: Callable[[], set[str]]) -> None:
    keep(id="-x")
    assert fingerprint("-x") in run("show", "--", "-x")
    run("revoke", "--", "-x")
    assert stored() == set()


@pytest.mark.parametrize("engine", ["moto"], indirect=True)
def test_many_ids_are_read_from_standard_input(
    run: Run, keep: Store, stored: Callable[[], set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are there are ended, whichever are not."""
    ids = [keep().id, "lost", keep().id]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(ids)))
    assert run("show", "-", code=1).count("lifetime") == 2
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(ids)))
    said = run("revoke", "-", code=1)
    assert [line for line in said.splitlines() if "revoked" in line] == [
        f"revoked {fingerprint(ids[i])}" for i in (0, 2)
    ]
    assert said.count("no live session") == 1
    assert stored() == set()


@pytest.mark.parametrize("named", [fingerprint, str], ids=["name", "id"])
def test_with_its_owner_a_sessions_name_will_do(
    named: Callable[[str], str], run: Run, keep: Store, stored: Callable[[], set[str]]
) -> None:
    record, other, bobs = keep("acme/alice"), keep("acme/alice"), keep("acme/bob")
    name = named(record.id)
    assert fingerprint(record.id) in run("show", name, "--owner", "acme/alice")
    for command in ("show", "revoke"):
        assert "no live session" in run(command, name, "--owner", "acme/bob", code=1)
    assert run("revoke", name, "--owner", "acme/alice") == f"revoked {fingerprint(record.id)}\n"
    assert stored() == {other.id, bobs.id}
    assert "no live session" in run("revoke", name, "--owner", "acme/alice", code=1)


@pytest.mark.parametrize("engine", ["moto"], indirect=True)
def test_of_two_of_one_name_neither_is_ended(
    run: Run, keep: Store, stored: Callable[[], set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name has 32 bits."""
    for place in (commands, patient_store):
        monkeypatch.setattr(place, "fingerprint", lambda _: "1a2b3c4d")
    ids = {keep("acme/alice", age=age).id for age in (10, 20)}
    for command in ("show", "revoke"):
        said = run(command, "1a2b3c4d", "--owner", "acme/alice", code=1)
        assert said.count("1a2b3c4d 20") == 2, "both are listed"
        assert "dynamodb-sessions: 2 sessions of the owner have this name, and nothing was done" in said
    assert stored() == ids


@pytest.mark.parametrize("command", ["show", "revoke"])
def test_a_session_that_is_not_there_is_an_error(command: str, run: Run, keep: Store) -> None:
    for session_id in (new_id(), keep(left=-5).id, fingerprint(keep().id)):
        said = run(command, session_id, code=1)
        assert said.startswith("dynamodb-sessions: there is no live session under this id (its name of 8 digits will")


def test_without_the_key_sessions_are_shown_and_ended_and_not_read(
    run: Run, client: Any, table_name: str, stored: Callable[[], set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = secrets.token_urlsafe(32)
    store, now = DynamoDBStore(table_name, client=client, encryption_key=key), int(time.time())
    record = Record(new_id(), {"user": '"alice"', "cart": "[1,2]"}, now, now + 100, owner="acme/alice")
    over = replace(record, id=new_id(), created_at=now - 100, expires_at=now - 50)
    for each in (record, over):
        assert anyio.run(partial(store.create, each, now=each.created_at))
    said = run("show", record.id, "--values")
    assert "- user (encrypted)" in said
    assert "alice" not in said.replace("acme/alice", "")
    for command in (["list"], ["list", "--owner", "acme/alice"]):
        assert fingerprint(record.id) in run(*command)
    monkeypatch.setenv("SESSION_ENCRYPTION_KEY", key)
    said = run("show", record.id, "--values")
    assert 'user = "alice"' in said
    assert key not in said
    monkeypatch.delenv("SESSION_ENCRYPTION_KEY")
    assert "deleted 1 expired session of 2 stored" in run("purge-expired")
    assert run("revoke", record.id) == f"revoked {fingerprint(record.id)}\n"
    assert stored() == set()


# revoke


def test_revoke_ends_one_session(run: Run, keep: Store, stored: Callable[[], set[str]]) -> None:
    record, other = keep("acme/alice"), keep("acme/alice")
    assert run("revoke", record.id) == f"revoked {fingerprint(record.id)}\n"
    assert stored() == {other.id}


@pytest.mark.parametrize("engine", ["moto"], indirect=True)
def test_a_session_that_moves_while_it_is_revoked_is_ended_where_it_is(
    run: Run, keep: Store, stored: Callable[[], set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    record, load = keep("acme/alice"), OperatorsStore.load
    moved = new_id()

    async def load_and_move(store: OperatorsStore, session_id: str, *, now: int) -> Record | None:
        found = await load(store, session_id, now=now)
        assert await store.rotate(record, moved, Changes(now + 100), now=now)
        return found

    monkeypatch.setattr(OperatorsStore, "load", load_and_move)
    assert run("revoke", record.id) == f"revoked {fingerprint(record.id)}\n"
    assert moved not in stored()


def test_revoke_ends_what_cannot_be_read(
    run: Run, client: Any, table_name: str, stored: Callable[[], set[str]]
) -> None:
    client.put_item(TableName=table_name, Item={"session_id": {"S": "broken"}})
    assert "not a session" in run("show", "broken", code=1)
    run("revoke", "broken")
    assert stored() == set()


def test_revoke_ends_all_of_an_owner(run: Run, keep: Store, stored: Callable[[], set[str]]) -> None:
    records = [keep("acme/alice") for _ in range(3)]
    other = keep("acme/bob")
    assert run("revoke", "--owner", "acme/alice", "--keep", records[0].id) == "revoked 2 sessions\n"
    assert stored() == {records[0].id, other.id}
    assert run("revoke", "--owner", "acme/alice") == "revoked 1 session\n"
    assert stored() == {other.id}


@pytest.mark.parametrize("engine", ["moto"], indirect=True)
def test_the_session_to_keep_may_be_named(
    run: Run, keep: Store, stored: Callable[[], set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By 8 digits, as `list` names it. Where that is not one session, none is ended."""
    kept, other, bobs = keep("acme/alice"), keep("acme/alice"), keep("acme/bob")
    everybody = {kept.id, other.id, bobs.id}
    assert "nothing was done" in run("revoke", "--owner", "acme/alice", "--keep", fingerprint(bobs.id), code=1)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{kept.id}\n{other.id}\n"))
    assert "one id" in run("revoke", "--owner", "acme/alice", "--keep", "-", code=1)
    assert stored() == everybody
    assert run("revoke", "--owner", "acme/alice", "--keep", fingerprint(kept.id)) == "revoked 1 session\n"
    assert stored() == {kept.id, bobs.id}


# Tenants.


def test_a_tenants_sessions_are_listed_by_owner_and_ended(
    run: Run, keep: Store, stored: Callable[[], set[str]], table_name: str, client: Any, engine: str
) -> None:
    said = run("list", "--tenant", "acme", code=1)
    assert "check --tenants" in said or engine == "moto", "which has an answer of its own"
    client.delete_table(TableName=table_name)
    run("create-table", "--tenants")
    bob, alice = keep("acme/bob", tenant="acme"), keep("acme/alice", tenant="acme")
    other = keep("acme/carol")
    names = [line.split()[0] for line in run("list", "--tenant", "acme").splitlines()[1:]]
    assert names == [fingerprint(alice.id), fingerprint(bob.id)]
    assert "tenant    acme\n" in run("show", bob.id)
    assert "tenant" not in run("show", other.id)
    assert run("revoke", "--tenant", "acme", "--keep", bob.id) == "revoked 1 session\n"
    assert run("revoke", "--tenant", "acme") == "revoked 1 session\n"
    assert stored() == {other.id}


# purge-expired


def test_purge_deletes_what_has_expired(
    run: Run, keep: Store, stored: Callable[[], set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "AT_ONCE", 3)
    live = {keep().id for _ in range(2)}
    expired = {keep(left=-5).id for _ in range(7)}
    assert run("purge-expired", "--dry-run") == "would delete 7 expired sessions of 9 stored\n"
    assert stored() == live | expired
    assert run("purge-expired") == "deleted 7 expired sessions of 9 stored\n"
    assert stored() == live
    assert run("purge-expired") == "deleted no expired sessions of 2 stored\n"


def test_purge_spares_what_was_created_anew_meanwhile(
    run: Run, keep: Store, stored: Callable[[], set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = keep(left=-5, id="thread-1")
    delete = OperatorsStore.delete_expired

    async def late(store: OperatorsStore, session_id: str, *, now: int) -> bool:
        assert await store.create(Record("thread-1", {}, now, now + 100), now=now)
        return await delete(store, session_id, now=now)

    monkeypatch.setattr(OperatorsStore, "delete_expired", late)
    assert run("purge-expired") == "deleted no expired sessions of 1 stored\n"
    assert stored() == {record.id}


def test_a_failure_amid_a_purge_is_one_line_and_tells_how_far_it_was(
    run: Run, keep: Store, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "AT_ONCE", 1)
    monkeypatch.setattr(patient_store, "SILENCE", 0.0)
    for _ in range(3):
        keep(left=-5)
    proxy.play("DeleteItem", [WHOLE], rest=Step(How.DROPPED, applied=False))
    said = run("purge-expired", code=1)
    assert said.startswith("dynamodb-sessions: DynamoDB cannot be reached")
    assert ": 3 looked at, deleted 1 expired; run it again to go on; table" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("engine", ["moto"], indirect=True)
def test_progress_is_told_on_a_terminal_only(
    run: Run, keep: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(left=-5)
    assert run("purge-expired", "--dry-run") == "would delete 1 expired session of 1 stored\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert cli.main(["purge-expired"]) == 0
    said = capsys.readouterr()
    assert said.err.startswith("\r0 looked at, deleted 0 expired\033[K")
    assert said.err.endswith("\r\033[K")
    assert said.out == "deleted 1 expired session of 1 stored\n"


# Throttled.


def every(other: int) -> list[Step]:
    """Refuse one of so many requests."""
    return [THROTTLED if number % other == 0 else WHOLE for number in range(4000)]


@pytest.mark.parametrize("share", [20, 2], ids=["5 %", "50 %"])
def test_throttled_commands_finish(
    share: int, run: Run, keep: Store, proxy: Proxy, stored: Callable[[], set[str]]
) -> None:
    alices, live = [keep("acme/alice") for _ in range(40)], keep("acme/bob")
    expired = [keep(left=-5) for _ in range(40)]
    proxy.play("*", every(share))
    assert len(run("list").splitlines()) == 42
    assert len(run("list", "--owner", "acme/alice").splitlines()) == 41
    assert fingerprint(live.id) in run("show", live.id)
    assert run("revoke", "--owner", "acme/alice") == "revoked 40 sessions\n"
    assert "deleted 40 expired sessions" in run("purge-expired")
    assert stored() == {live.id}
    assert len(proxy.requests) > len(alices) + len(expired)


@pytest.mark.parametrize("engine", ["local"], indirect=True)
@pytest.mark.parametrize("command", [["list"], ["list", "--owner", "a"], ["show", "x"], ["purge-expired"]], ids=str)
@pytest.mark.usefixtures("client")
def test_throttled_for_good_they_go_on_until_the_timeout(command: list[str], run: Run, proxy: Proxy) -> None:
    proxy.play("*", rest=THROTTLED)
    assert run(*command, "--timeout", "0.5", code=1).startswith("dynamodb-sessions: --timeout: 0.5 s are over")
    assert len(proxy.requests) > 1


def ended_and_left(said: str) -> tuple[int, int]:
    (found,) = re.findall(r": (\d+) ended, (\d+) left; run it again to go on", said)
    return int(found[0]), int(found[1])


def test_what_was_never_counted_is_not_said_to_be_none(run: Run, proxy: Proxy) -> None:
    proxy.play("*", rest=THROTTLED)
    said = run("revoke", "--owner", "acme/alice", "--timeout", "0.5", code=1)
    assert "0 ended, and nobody knows how many are left; run it again to go on" in said


@pytest.mark.parametrize("engine", ["local"], indirect=True)
def test_how_many_were_ended_until_the_timeout_is_told(
    run: Run, keep: Store, proxy: Proxy, stored: Callable[[], set[str]]
) -> None:
    for _ in range(12):
        keep("acme/alice")
    proxy.play("DeleteItem", [WHOLE] * 5, rest=THROTTLED)
    said = run("revoke", "--owner", "acme/alice", "--timeout", "3", code=1)
    assert "--timeout: 3 s are over" in said
    # A reply may be on its way still.
    assert ended_and_left(said)[0] <= 5
    assert sum(ended_and_left(said)) == 12
    proxy.heal()
    left = len(stored())
    assert run("revoke", "--owner", "acme/alice") == f"revoked {left} sessions\n"


@pytest.mark.parametrize("engine", ["local"], indirect=True)
def test_how_many_were_ended_until_ctrl_c_is_told(keep: Store, proxy: Proxy, stored: Callable[[], set[str]]) -> None:
    for _ in range(12):
        keep("acme/alice")
    proxy.play("DeleteItem", [WHOLE] * 5, rest=THROTTLED)
    with spawn("revoke", "--owner", "acme/alice") as process:
        waiting.eventually(lambda: len(stored()) == 7, patience=60)
        seen = proxy.requests.count("DeleteItem")
        waiting.eventually(lambda: proxy.requests.count("DeleteItem") > seen + 40, patience=60)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert err.startswith("dynamodb-sessions: interrupted: ")
    assert err.count("\n") == 1
    assert 0 < ended_and_left(err)[0] <= 5
    assert sum(ended_and_left(err)) == 12
    assert process.returncode == cli.INTERRUPTED


@pytest.mark.parametrize("engine", ["local"], indirect=True)
def test_at_a_rate_no_page_of_a_scan_is_larger(run: Run, keep: Store, proxy: Proxy) -> None:
    for _ in range(9):
        keep(left=-5)
    assert run("purge-expired", "--rate", "40") == "deleted 9 expired sessions of 9 stored\n"
    assert proxy.requests.count("Scan") == 1
    run("list", "--rate", "4")
    for _ in range(9):
        keep()
    del proxy.requests[:]
    assert len(run("list", "--rate", "4").splitlines()) == 10
    assert proxy.requests == ["Scan"] * 3


@pytest.mark.anyio
async def test_calls_take_their_turns_at_a_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each waits for what those before it have consumed, as far as that is known."""
    now, slept = 1000.0, list[float]()

    async def sleep(seconds: float) -> None:
        slept.append(round(seconds, 6))

    monkeypatch.setattr(anyio, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    pace = patient_store.Pace(10)
    reserved = [await pace.turn("scan") for _ in range(2)]
    assert slept == [0, 0.1]
    for each in reserved:
        pace.settle("scan", each, {"CapacityUnits": 5.0})
    assert await pace.turn("scan") == 5.0
    assert slept[-1] == 1.0, "two scans have consumed 10 units"
    now += 60
    await pace.turn("delete_item")
    assert slept[-1] == 0


@pytest.mark.anyio
async def test_a_lost_answer_after_a_long_wait_for_its_turn_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with --rate, or while a pager holds up what is printed: only attempts without an answer count."""
    store, now, answers = OperatorsStore("sessions"), [1000.0], ["items", "lost", "items", *["lost"] * 9]

    async def call(*_: Any, **__: Any) -> dict[str, Any]:
        now[0] += 2.0
        if answers.pop(0) == "lost":
            raise OutcomeUnknown("DynamoDB cannot be reached")
        return {"Items": []}

    async def listed() -> None:
        now[0] += 60.0
        assert [each async for each in store.summaries(now=0)] == []

    monkeypatch.setattr(patient_store, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(store.calls._transport, "call", call)
    await listed()
    await listed()
    with pytest.raises(StoreUnavailable):
        await listed()
    assert len(answers) == 1, "16 s without an answer"


# JSON


@pytest.mark.parametrize("engine", ["moto"], indirect=True)
def test_every_command_prints_json_for_machines(run: Run, keep: Store, table_name: str) -> None:
    """Those that stream, one object a line."""
    one, two, _ = keep("acme/alice", age=20), keep("acme/alice"), keep(left=-5)
    told = {
        "session": fingerprint(one.id),
        "owner": "acme/alice",
        "created_at": one.created_at,
        "expires_at": one.expires_at,
    }
    lines = [json.loads(line) for line in run("list", "--owner", "acme/alice", "--json").splitlines()]
    assert lines[0] == told
    assert [line["session"] for line in lines] == [fingerprint(one.id), fingerprint(two.id)]
    assert len(run("list", "--json").splitlines()) == 2
    (first, _) = run("list", "--owner", "acme/alice", "--json", "--ids").splitlines()
    assert json.loads(first) == told | {"id": one.id}
    shown = json.loads(run("show", one.id, "--json"))
    assert shown == told | {
        "max_age": None,
        "version": one.version,
        "bytes": shown["bytes"],
        "keys": {"user": {"bytes": 7}, "cart": {"bytes": 5}},
    }
    assert json.loads(run("show", one.id, "--json", "--values"))["keys"]["cart"] == {"bytes": 5, "value": "[1,2]"}
    assert json.loads(run("revoke", one.id, "--json")) == {"session": fingerprint(one.id), "ended": True}
    assert json.loads(run("revoke", "--owner", "acme/alice", "--json")) == {"ended": 1}
    purged = {"deleted": 1, "expired": 1, "looked_at": 2}
    assert json.loads(run("purge-expired", "--dry-run", "--json")) == purged | {"deleted": 0}
    assert json.loads(run("purge-expired", "--json")) == purged
    assert json.loads(run("create-table", "--json")) == {"table": table_name, "region": "us-east-1"}
    assert json.loads(run("check", "--json"))["ok"]
    assert json.loads(run("emit", "iam", "--json"))["text"] == run("emit", "iam")


# create-table


def test_create_table_makes_it_once(run: Run, table_name: str, stored: Callable[[], set[str]], keep: Store) -> None:
    another = f"{table_name}-2"
    for _ in range(2):
        assert f"`dynamodb-sessions check --table {another} --" in run("create-table", "--table", another)
    run("check", "--table", another)
    record = keep()
    run("create-table")
    assert stored() == {record.id}


# Mistakes.


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["lost"], "invalid choice: 'lost'"),
        (["list", "--lost"], "unrecognized arguments: --lost"),
        (["show"], "the following arguments are required: ID"),
        (["show", ""], "it must be text of 1 to 2048 bytes"),
        (["show", "\udcff"], "it must be text of 1 to 2048 bytes"),
        (["show", "x" * 2049], "it must be text of 1 to 2048 bytes"),
        (["list", "--owner", ""], "argument --owner: it must be text"),
        (["revoke"], "give an ID, --owner or both, or --tenant"),
        (["revoke", "--tenant", "x", "--owner", "y"], "give an ID, --owner or both, or --tenant"),
        (["revoke", "x", "--tenant", "y"], "give an ID, --owner or both, or --tenant"),
        (["list", "--tenant", "x", "--owner", "y"], "not allowed with argument"),
        (["revoke", "x", "--keep", "y"], "--keep goes with --owner and --tenant only"),
        (["revoke", "x", "--owner", "y", "--keep", "z"], "--keep goes with --owner and --tenant only"),
        (["list", "--timeout", "0"], "'0' must be a positive number"),
        (["list", "--rate", "nan"], "'nan' must be a positive number"),
        (["list", "--rate", "many"], "'many' must be a positive number"),
        (["emit"], "the following arguments are required: form"),
        (["emit", "pulumi"], "invalid choice: 'pulumi'"),
        (["emit", "cli", "--operator"], "--operator goes with iam only"),
        (["emit", "cli", "--kms-key", "x"], "--kms-key goes with iam only"),
    ],
    ids=str,
)
def test_wrong_usage_is_told_in_one_line(arguments: list[str], said: str, run: Run) -> None:
    line = run(*arguments, code=2)
    assert said in line
    assert line.startswith("dynamodb-sessions")
    assert line.endswith("; see --help\n")
    assert line.count("\n") == 1


@pytest.mark.parametrize("arguments", [["show", "x"], ["revoke"], []], ids=str)
def test_wrong_usage_does_not_quote_an_id(arguments: list[str], run: Run) -> None:
    session_id = new_id()
    assert session_id not in run(*arguments, session_id, session_id, code=2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list", "--table", "no/such name"], "'no/such name' is not a DynamoDB table's name"),
        (["list", "--endpoint-url", "nowhere"], "Invalid endpoint: nowhere"),
        (["list", *NOBODY_THERE], "DynamoDB cannot be reached"),
        (["show", "some-id", *NOBODY_THERE], "DynamoDB cannot be reached"),
        (["revoke", "some-id", *NOBODY_THERE], "DynamoDB cannot be reached"),
        (["revoke", "--owner", "a", *NOBODY_THERE], "DynamoDB cannot be reached"),
        (["purge-expired", *NOBODY_THERE], "DynamoDB cannot be reached"),
        (["create-table", *NOBODY_THERE], "Could not connect"),
        (["list", "--endpoint-url", "http://["], "the endpoint's address is no URL"),
        (["emit", "cli", "--table", "arn:aws:dynamodb:eu-west-1:1:table/x"], "not an ARN"),
    ],
    ids=str,
)
def test_a_failure_is_told_in_one_line(
    arguments: list[str], said: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patient_store, "SILENCE", 0.0)
    line = run(*arguments, code=1)
    assert said in line
    assert line.startswith("dynamodb-sessions: ")
    assert line.count("\n") == 1
    assert "some-id" not in line


@pytest.mark.parametrize("command", ["list", "purge-expired"])
def test_a_table_that_is_not_there_is_told(command: str, run: Run, moto_url: str) -> None:
    line = run(command, "--table", "no-such-table", "--endpoint-url", moto_url, code=1)
    assert "create the table, or correct its name or region" in line


@pytest.mark.parametrize("arguments", [["list"], ["list", "--owner", "a"], ["show", "x"], ["revoke", "x"]], ids=str)
def test_a_failure_tells_where_it_looked_and_what_finds_the_cause(
    arguments: list[str], run: Run, moto_url: str
) -> None:
    """In `show` and `revoke` that there is no such session, too: it may be in another region's table."""
    line = run(*arguments, "--table", "no-such-table", "--endpoint-url", moto_url, code=1)
    assert f"table no-such-table, region us-east-1, endpoint {moto_url}: `dynamodb-sessions check --table" in line


def test_no_password_of_an_endpoint_is_printed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patient_store, "SILENCE", 0.0)
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", "http://alice:s3cret@127.0.0.1:9")
    for arguments in (
        ["list"],
        ["list", "--endpoint-url", "http://alice:s3cret@["],
        ["check", "--endpoint-url", "http://alice:/s3cret@127.0.0.1:9"],
        ["list", "--endpoint-url", "http://alice:#s3cret@127.0.0.1:9"],
    ):
        assert "s3cret" not in run(*arguments, code=1)


@pytest.mark.parametrize("engine", ["moto"], indirect=True)
def test_check_names_the_host_that_it_calls_without_a_password(
    run: Run, client: Any, table_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = client.meta.endpoint_url.removeprefix("http://")
    monkeypatch.delenv("DYNAMODB_ENDPOINT_URL")
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", f"http://alice:s3cret@{host}")
    for arguments in (["check"], ["check", "--json"]):
        said = run(*arguments, "--table", table_name)
        assert f"http://{host}" in said
        assert "s3cret" not in said


@pytest.mark.parametrize("engine", ["local"], indirect=True)
@pytest.mark.parametrize("kind", ["S", "N"])
@pytest.mark.parametrize("command", [["list"], ["purge-expired"], ["show", "x"]], ids=str)
def test_a_table_with_another_key_is_told(
    command: list[str], kind: str, run: Run, client: Any, table_name: str
) -> None:
    other, name = f"{table_name}-other", "id" if kind == "S" else "session_id"
    client.create_table(
        TableName=other,
        KeySchema=[{"AttributeName": name, "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": kind}],
        BillingMode="PAY_PER_REQUEST",
    )
    client.put_item(TableName=other, Item={name: {kind: "1"}, "ttl": {"N": "1"}})
    line = run(*command, "--table", other, code=1)
    assert "partition key must be session_id" in line
    assert line.count("\n") == 1


@pytest.mark.parametrize("engine", ["moto"], indirect=True)
@pytest.mark.usefixtures("client")
def test_a_bug_is_one_line_that_quotes_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("secret-id")

    monkeypatch.setattr(OperatorsStore, "load", broken)
    line = run("show", "secret-id", code=1)
    assert line.startswith("dynamodb-sessions: unexpected RuntimeError, a bug of dynamodb-sessions")
    assert "secret-id" not in line


# Where things are.


@pytest.mark.parametrize("engine", ["moto"], indirect=True)
def test_options_go_before_the_command_or_after_it(
    run: Run, keep: Store, endpoint_url: str, table_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = keep()
    for name in ("SESSION_TABLE_NAME", "DYNAMODB_ENDPOINT_URL", "AWS_REGION"):
        monkeypatch.delenv(name)
    where = ["--table", table_name, "--endpoint-url", endpoint_url, "--region", "us-east-1"]
    assert fingerprint(record.id) in run(*where, "list")
    assert fingerprint(record.id) in run("list", *where)
    assert fingerprint(record.id) in run(*where[:2], "list", *where[2:])
    assert "You must specify a region" in run("list", code=1)


def test_every_command_explains_itself(run: Run) -> None:
    text = run("--help")
    commands = re.findall(r"^    ([a-z-]+) ", text, re.MULTILINE)
    assert commands == ["check", "emit", "create-table", "list", "show", "revoke", "purge-expired"]
    for command in commands:
        assert f"usage: dynamodb-sessions {command}" in run(command, "--help")


def test_it_tells_its_version(run: Run) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*\n", run("--version"))


# As a process.


def test_it_is_installed_under_its_name() -> None:
    (installed,) = entry_points(group="console_scripts", name="dynamodb-sessions")
    assert installed.load() is cli.main


def spawn(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def test_help_imports_what_it_prints_and_nothing_else() -> None:
    code = """import atexit, sys
from dynamodb_sessions.ops import cli
def tell():
    print(sorted(name for name in sys.modules if name.startswith("dynamodb_sessions")))
    print({"anyio", "asyncio", "boto3", "botocore", "json", "logging", "starlette"} & {*sys.modules})
atexit.register(tell)
cli.main(["--help"])"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = ["dynamodb_sessions", "dynamodb_sessions.ops", "dynamodb_sessions.ops.cli", "dynamodb_sessions.ops.output"]
    assert ran.stdout.endswith(f"\n{names}\nset()\n")


def test_nothing_else_imports_it() -> None:
    code = """import sys, dynamodb_sessions
print({name for name in sys.modules if name.startswith('dynamodb_sessions.ops')})"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "set()\n"


@pytest.mark.parametrize("engine", ["moto"], indirect=True)
def test_a_reader_that_goes_away_is_no_error(keep: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does the interpreter make it one, when it flushes what is left on its way out."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    keep()
    with spawn("list") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert process.wait(30) == cli.UNREAD


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a disk that is always full")
@pytest.mark.parametrize("engine", ["moto"], indirect=True)
def test_a_full_disk_is_told_in_one_line(keep: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    keep()
    with open("/dev/full", "w") as full:  # noqa: PTH123
        ran = subprocess.run([*COMMAND, "list"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (1, "dynamodb-sessions: nothing can be printed: No space left on device\n")


def test_an_id_that_is_no_text_is_told_in_one_line() -> None:
    environment = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    ran = subprocess.run([*COMMAND, "show", "-"], input=b"\xff\n", stderr=subprocess.PIPE, env=environment, check=False)
    assert ran.returncode == 1
    assert ran.stderr.startswith(b"dynamodb-sessions: an id is text of 1 to 2048 bytes; table ")
    assert ran.stderr.count(b"\n") == 1


@pytest.mark.parametrize("engine", ["moto"], indirect=True)
def test_what_a_terminal_cannot_show_is_escaped(keep: Store) -> None:
    keep("zoë")
    out, err = spawn("list", env=os.environ | {"PYTHONIOENCODING": "ascii"}).communicate(timeout=60)
    assert out.endswith(" zo\\xeb\n")
    assert err == ""


@pytest.mark.parametrize("engine", ["moto"], indirect=True)
@pytest.mark.parametrize(("encoding", "mark"), [("utf-8", "✓ region"), ("ascii", "ok region")])
@pytest.mark.usefixtures("client")
def test_marks_are_what_the_terminal_can_show(encoding: str, mark: str) -> None:
    process = spawn("check", env=os.environ | {"PYTHONIOENCODING": encoding}, encoding=encoding)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert mark in out


def test_ctrl_c_ends_it_in_one_line(tmp_path: Path) -> None:
    """While it waits for its input, and so before it has asked anybody for anything."""
    ready = tmp_path / "ready"
    code = f"""
import pathlib, sys
from dynamodb_sessions.ops import cli, commands, patient_store
from dynamodb_sessions.ops.patient_store import OperatorsStore
class Waiting:
    isatty = lambda self: True
    def readline(self):
        pathlib.Path({str(ready)!r}).touch()
        import time; time.sleep(60)
sys.stdin = Waiting()
sys.exit(cli.main(["show", "-"]))
"""
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    try:
        while not ready.exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, err) == (cli.INTERRUPTED, "dynamodb-sessions: interrupted\n")
