"""The command line as an operator meets it: what it prints, what it ends, how it fails."""

import io
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import anyio
import boto3
import pytest

from dynamodb_sessions import DynamoDBStore, SessionError
from dynamodb_sessions.identifiers import fingerprint, new_id
from dynamodb_sessions.ops import cli
from dynamodb_sessions.stores import item_format, table_schema
from dynamodb_sessions.stores.contract import Record
from dynamodb_sessions.stores.reserved_ids import ADOPTED

COMMAND = [sys.executable, "-m", "dynamodb_sessions"]
NOBODY_THERE = ["--endpoint-url", "http://127.0.0.1:9"]

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
    assert header.split() == ["SESSION", "CREATED", "EXPIRES", "BYTES", "OWNER"]
    expected = {
        (fingerprint(record.id), stamp(record.created_at), stamp(record.expires_at), record.owner or "-")
        for record in (alices, another)
    }
    assert {tuple(line.split()[:3] + line.split()[4:]) for line in lines} == expected
    assert old.id not in str(lines)


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
    assert "0 sessions" in run("revoke", "--owner", "acme/alice", "--keep", record.id)
    assert record.id in stored()


@pytest.mark.parametrize("command", ["show", "revoke"])
def test_a_session_that_is_not_there_is_an_error(command: str, run: Run, keep: Store) -> None:
    for session_id in (new_id(), keep(left=-5).id, fingerprint(keep().id)):
        said = run(command, session_id, code=1)
        assert (
            said == "dynamodb-sessions: there is no live session under this id (its name of 8 digits is not its id)\n"
        )


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
    monkeypatch.setattr(cli, "_AT_ONCE", 3)
    live = {keep().id for _ in range(2)}
    expired = {keep(left=-5).id for _ in range(7)}
    assert run("purge-expired", "--dry-run") == "would delete 7 expired sessions of 9 stored\n"
    assert stored() == live | expired
    assert run("purge-expired") == "deleted 7 expired sessions of 9 stored\n"
    assert stored() == live
    assert run("purge-expired") == "deleted 0 expired sessions of 2 stored\n"


def test_purge_spares_what_was_created_anew_meanwhile(
    run: Run, keep: Store, stored: Callable[[], set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = keep(left=-5, id="thread-1")
    delete = cli._delete_expired

    async def late(transport: Any, target: Any, found: Record, now: int) -> bool:
        store = DynamoDBStore(target.table_name, client=transport.client)
        assert await store.create(Record("thread-1", {}, now, now + 100), now=now)
        return await delete(transport, target, found, now)

    monkeypatch.setattr(cli, "_delete_expired", late)
    assert run("purge-expired") == "deleted 0 expired sessions of 1 stored\n"
    assert stored() == {record.id}


def test_a_failure_amid_a_purge_is_one_line(run: Run, keep: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        keep(left=-5)

    async def fail(*_: Any) -> bool:
        raise SessionError("DynamoDB said no")

    monkeypatch.setattr(cli, "_delete_expired", fail)
    assert run("purge-expired", code=1) == "dynamodb-sessions: DynamoDB said no\n"


@pytest.mark.parametrize("engine", ["moto"], indirect=True)
def test_progress_is_told_on_a_terminal_only(
    run: Run, keep: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(left=-5)
    assert run("purge-expired", "--dry-run") == "would delete 1 expired session of 1 stored\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert cli.main(["purge-expired"]) == 0
    said = capsys.readouterr()
    assert said.err == "\r1 looked at, 0 expired\r\033[K"
    assert said.out == "deleted 1 expired session of 1 stored\n"


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
        (["revoke"], "give either an ID, or --owner, or --tenant"),
        (["revoke", "x", "--owner", "y"], "give either an ID, or --owner, or --tenant"),
        (["revoke", "--tenant", "x", "--owner", "y"], "give either an ID, or --owner, or --tenant"),
        (["list", "--tenant", "x", "--owner", "y"], "not allowed with argument"),
        (["revoke", "x", "--keep", "y"], "--keep goes with --owner and --tenant only"),
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
        (["emit", "cli", "--table", "arn:aws:dynamodb:eu-west-1:1:table/x"], "not an ARN"),
    ],
    ids=str,
)
def test_a_failure_is_told_in_one_line(arguments: list[str], said: str, run: Run) -> None:
    line = run(*arguments, code=1)
    assert said in line
    assert line.startswith("dynamodb-sessions: ")
    assert line.count("\n") == 1
    assert "some-id" not in line


@pytest.mark.parametrize("command", ["list", "purge-expired"])
def test_a_table_that_is_not_there_is_told(command: str, run: Run, moto_url: str) -> None:
    line = run(command, "--table", "no-such-table", "--endpoint-url", moto_url, code=1)
    assert "create the table, or correct its name or region" in line


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


def test_help_does_not_wait_for_the_sdk() -> None:
    code = (
        "import atexit, sys; atexit.register(lambda: print('boto3' in sys.modules)); "
        "from dynamodb_sessions.ops import cli"
    )
    ran = subprocess.run([sys.executable, "-c", f"{code}; cli.main(['--help'])"], capture_output=True, check=True)
    assert ran.stdout.endswith(b"\nFalse\n")


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
    assert (ran.returncode, ran.stderr) == (1, b"dynamodb-sessions: an id is text of 1 to 2048 bytes\n")


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
from dynamodb_sessions.ops import cli
class Waiting:
    def readline(self):
        pathlib.Path({str(ready)!r}).touch()
        import time; time.sleep(60)
sys.stdin = Waiting()
sys.exit(cli.main(["show", "-"]))
"""
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    while not ready.exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (cli.INTERRUPTED, "dynamodb-sessions: interrupted\n")
