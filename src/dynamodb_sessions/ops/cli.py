"""`dynamodb-sessions`: what an operator does with the table and the sessions in it.

Exit codes: 0 well done; 1 not, and standard error says why in one line; 2 wrong usage; 130 interrupted; 141 nobody
reads the output any more.
"""

import argparse
import io
import json
import os
import re
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from typing import Any, NoReturn, TextIO

import anyio

from dynamodb_sessions import settings
from dynamodb_sessions.aws.boto3_transport import Boto3Transport
from dynamodb_sessions.aws.errors import ConditionFailed, words_of
from dynamodb_sessions.aws.table_calls import all_at_once, batches
from dynamodb_sessions.clock import wall_clock
from dynamodb_sessions.codec import is_text
from dynamodb_sessions.exceptions import ConfigurationError, CorruptRecord, SessionError
from dynamodb_sessions.identifiers import fingerprint
from dynamodb_sessions.ops import doctor, emit
from dynamodb_sessions.ops.emit import iam
from dynamodb_sessions.ops.target import Target
from dynamodb_sessions.stores import item_format, table_schema
from dynamodb_sessions.stores.contract import Record, record_size
from dynamodb_sessions.stores.dynamodb import DynamoDBStore
from dynamodb_sessions.stores.reserved_ids import ADOPTED

FAILED = 1
INTERRUPTED = 130
UNREAD = 141

_MAX_KEY_SIZE = 2048
"""Bytes of a partition key's value. Source: DynamoDB's service quotas."""

_AT_ONCE = 32
_TELL_EVERY = 0.2
_UNKNOWN = "there is no live session under this id (its name of 8 digits is not its id)"
_ID = re.compile(r"[\w-]{43}", re.ASCII)
_HIDDEN = "\0"
"""Put before an id that begins with a dash, which argparse would take for an option. No argument can hold it."""

_SEALED = ""
"""What stands for a value that no key opens. No value is stored as nothing, and it counts as nothing."""

_MARKS = {"ok": "✓", "warning": "!", "wrong": "✗", "open": "-"}
_PLAIN_MARKS = {"ok": "ok", "warning": "!!", "wrong": "NO", "open": "--"}

_DESCRIPTION = "Look after the DynamoDB table of dynamodb-sessions, and the sessions in it."
_EPILOG = (
    "A session is named by 8 hex digits of its id's SHA-256, as in logs: an id is a login, and is shown by --ids only."
)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and without the ids in it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {_printable(_ID.sub('(an id)', message))}; see --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Return its exit code; argparse exits by itself."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # An owner may be what the terminal cannot show.
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(
        [_HIDDEN + each if each[:1] == "-" and _ID.fullmatch(each) else each for each in given]
    )
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except SessionError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        _fail("interrupted")
        return INTERRUPTED
    except OSError as error:
        # Else the interpreter complains when it flushes on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD if isinstance(error, BrokenPipeError) else _fail(f"nothing can be printed: {error.strerror}")
    return code


def _parser() -> argparse.ArgumentParser:
    place = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    place.add_argument("--table", metavar="NAME", help="default: SESSION_TABLE_NAME, or sessions")
    place.add_argument("--region", metavar="NAME", help="default: AWS_REGION, or what boto3 finds")
    place.add_argument("--endpoint-url", metavar="URL", help="default: DYNAMODB_ENDPOINT_URL, or AWS")
    parser = _Parser("dynamodb-sessions", description=_DESCRIPTION, epilog=_EPILOG, parents=[place])
    parser.add_argument("--version", action="version", version=version("dynamodb-sessions"))
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    kind = _Parser(add_help=False)
    kind.add_argument(
        "--conversations",
        action="store_true",
        help="the table of agents' conversations; its name is conversations by default",
    )
    tenants = _Parser(add_help=False)
    tenants.add_argument("--tenants", action="store_true", help="with the index that finds the sessions of a tenant")

    def command(
        name: str, run: Callable[[argparse.Namespace], int], text: str, *more: _Parser
    ) -> argparse.ArgumentParser:
        described = f"{text[0].upper()}{text[1:]}."
        made = commands.add_parser(name, help=text, description=described, parents=[place, *more])
        made.set_defaults(run=run)
        return made

    check = command(
        "check", _check, "find what is wrong with region, credentials, table and permissions", kind, tenants
    )
    check.add_argument("--json", action="store_true", help="print the findings as JSON")

    emitting = command(
        "emit", _emit, "print what to deploy: the table, or the IAM policy of those who use it", kind, tenants
    )
    emitting.add_argument("form", choices=["terraform", "cloudformation", "sam", "cdk", "cli", "iam"])
    emitting.add_argument("--operator", action="store_true", help="with iam: an operator's policy, not the app's")
    emitting.add_argument("--kms-key", metavar="ARN", help="with iam: the table's customer managed key")
    emitting.set_defaults(usage=emitting.error)

    command("create-table", _create_table, "create the table if it is not there: for development", kind, tenants)

    listing = command("list", _list, "list the live sessions; without --owner or --tenant it reads the whole table")
    listed = listing.add_mutually_exclusive_group()
    listed.add_argument("--owner", type=_text, help="only those bound to this owner, oldest first")
    listed.add_argument("--tenant", type=_text, help="only those bound to this tenant, by owner")
    listing.add_argument("--ids", action="store_true", help="print usable ids")

    show = command("show", _show, "show one session: its times, its keys and their sizes")
    show.add_argument("id", type=_text, metavar="ID", help="its id, or - to read it from standard input")
    show.add_argument(
        "--values",
        action="store_true",
        help="print the values as they are stored: JSON, or the text of the app's serializer",
    )
    show.add_argument("--ids", action="store_true", help="print its usable id")

    revoke = command("revoke", _revoke, "end one session, or all of an owner or a tenant")
    revoke.add_argument("id", type=_text, metavar="ID", nargs="?", help="its id, or - to read it from standard input")
    revoke.add_argument("--owner", type=_text, help="end all sessions bound to this owner")
    revoke.add_argument("--tenant", type=_text, help="end all sessions bound to this tenant")
    revoke.add_argument(
        "--keep", type=_text, metavar="ID", help="with --owner or --tenant: but not this one; - reads its id"
    )
    revoke.set_defaults(usage=revoke.error)

    purge = command("purge-expired", _purge_expired, "delete the expired sessions that DynamoDB's TTL has left")
    purge.add_argument("--dry-run", action="store_true", help="only count them")
    return parser


def _check(options: argparse.Namespace) -> int:
    target, findings = _target(options), []
    marks = _marks(sys.stdout)
    for finding in doctor.examine(target):
        findings.append(finding)
        if not options.json:
            print(f"{marks[finding.verdict]} {finding.check:18} {_printable(finding.detail)}", flush=True)
            if finding.fix:
                print(f"{' ' * len(marks['ok'])} {'':18} fix: {finding.fix}", flush=True)
    is_well = all(finding.verdict is not doctor.Verdict.WRONG for finding in findings)
    if options.json:
        print(json.dumps({"ok": is_well, "table": target.table_name, "checks": [*map(asdict, findings)]}, indent=2))
    return 0 if is_well else FAILED


def _emit(options: argparse.Namespace) -> int:
    if (options.operator or options.kms_key) and options.form != "iam":
        options.usage(f"{'--operator' if options.operator else '--kms-key'} goes with iam only")
    target = _target(options)
    if options.form == "iam":
        sys.stdout.write(iam.render(target, operator=options.operator, kms_key=options.kms_key))
    else:
        sys.stdout.write(emit.FORMS[options.form](target))
    return 0


def _create_table(options: argparse.Namespace) -> int:
    target = _target(options)
    client = _store(target).client
    try:
        table_schema.create(client, target.table_name, conversations=target.conversations, tenants=target.tenants)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told without what it quotes
        raise ConfigurationError(f"the table cannot be created: {words_of(error)}") from None
    print(
        f"the table {target.table_name} is in {client.meta.region_name}; {target.command('check')} looks at it closely"
    )
    return 0


def _list(options: argparse.Namespace) -> int:
    return anyio.run(_list_sessions, options)


async def _list_sessions(options: argparse.Namespace) -> int:
    store = _store(_target(options))
    records = store.scan() if options.owner is None else store.list_owner(options.owner)
    if options.tenant is not None:
        records = store.list_tenant(options.tenant)
    name = "ID" if options.ids else "SESSION"
    width = 43 if options.ids else 8
    header = f"{name:{width}} {'CREATED':20} {'EXPIRES':20} {'BYTES':>7} OWNER"
    async for record in records:
        if record.id.startswith(ADOPTED):
            continue
        if header:
            print(header)
            header = ""
        named = _printable(record.id) if options.ids else fingerprint(record.id)
        owner = "-" if record.owner is None else _printable(record.owner)
        times = f"{_moment(record.created_at)} {_moment(record.expires_at)}"
        print(f"{named:{width}} {times} {record_size(record):7} {owner}")
    return 0


def _show(options: argparse.Namespace) -> int:
    options.id = _read_id(options.id)
    return anyio.run(_show_session, options)


async def _show_session(options: argparse.Namespace) -> int:
    record = await _store(_target(options)).load(options.id, now=wall_clock())
    if record is None:
        return _fail(_UNKNOWN)
    lines = {
        "session": fingerprint(record.id),
        **({"id": _printable(record.id)} if options.ids else {}),
        "owner": "-" if record.owner is None else _printable(record.owner),
        **({} if record.tenant is None else {"tenant": _printable(record.tenant)}),
        "created": _moment(record.created_at),
        "expires": _moment(record.expires_at),
        "lifetime": "the middleware's" if record.max_age is None else f"{record.max_age} s, its own",
        "version": record.version,
        "bytes": record_size(record),
    }
    for name, value in lines.items():
        print(f"{name:9} {value}")
    print(f"{'keys':9} {len(record.data)}")
    for key, encoded in sorted(record.data.items()):
        if encoded == _SEALED:
            print(f"{'-':>9} {_printable(key)} (encrypted)")
            continue
        print(f"{len(encoded.encode()):9} {_printable(key)}{f' = {_printable(encoded)}' if options.values else ''}")
    return 0


def _revoke(options: argparse.Namespace) -> int:
    if sum(given is not None for given in (options.id, options.owner, options.tenant)) != 1:
        options.usage("give either an ID, or --owner, or --tenant")
    if options.keep is not None and options.id is not None:
        options.usage("--keep goes with --owner and --tenant only")
    if options.id is not None:
        options.id = _read_id(options.id)
    if options.keep is not None:
        options.keep = _read_id(options.keep)
    return anyio.run(_revoke_one if options.id is not None else _revoke_all, options)


async def _revoke_one(options: argparse.Namespace) -> int:
    store = _store(_target(options))
    try:
        is_there = await store.load(options.id, now=wall_clock()) is not None
    except CorruptRecord:
        is_there = True
    await store.delete(options.id)
    if not is_there:
        return _fail(_UNKNOWN)
    print(f"revoked {fingerprint(options.id)}")
    return 0


async def _revoke_all(options: argparse.Namespace) -> int:
    store = _store(_target(options))
    if options.owner is not None:
        ended = await store.revoke_owner(options.owner, keep=options.keep)
    else:
        ended = await store.revoke_tenant(options.tenant, keep=options.keep)
    print(f"revoked {_sessions(ended)}")
    return 0


def _purge_expired(options: argparse.Namespace) -> int:
    return anyio.run(_purge, options)


async def _purge(options: argparse.Namespace) -> int:
    target, now = _target(options), wall_clock()
    transport = Boto3Transport(region_name=target.region_name, endpoint_url=target.endpoint_url)
    store = _OperatorsStore(target.table_name, client=transport.client)
    seen = purged = 0

    async def expired() -> AsyncGenerator[Record, None]:
        nonlocal seen
        async for record in store.scan(now=now, include_expired=True):
            seen += 1
            tell(f"{seen:,} looked at, {purged:,} expired")
            if record.expires_at <= now:
                yield record

    with _progress() as tell:
        async for records in batches(expired(), _AT_ONCE):
            if options.dry_run:
                purged += len(records)
            else:
                deletes = [partial(_delete_expired, transport, target, record, now) for record in records]
                purged += sum(await all_at_once(deletes))
    print(f"{'would delete' if options.dry_run else 'deleted'} {_sessions(purged, 'expired ')} of {seen:,} stored")
    return 0


async def _delete_expired(transport: Boto3Transport, target: Target, record: Record, now: int) -> bool:
    """Delete what is stored if it is expired still: another session may have been created under its id since."""
    try:
        await transport.call(
            "delete_item",
            deadline=time.monotonic() + transport.timeout,
            TableName=target.table_name,
            Key=item_format.key(record.id),
            ConditionExpression="#t <= :now",
            ExpressionAttributeNames={"#t": table_schema.TTL},
            ExpressionAttributeValues={":now": item_format.number(now)},
        )
    except ConditionFailed:
        return False
    return True


def _target(options: argparse.Namespace) -> Target:
    conversations = getattr(options, "conversations", False)
    return Target(
        getattr(options, "table", None) or ("conversations" if conversations else settings.table_name()),
        getattr(options, "region", None),
        getattr(options, "endpoint_url", None) or settings.endpoint_url(),
        conversations,
        getattr(options, "tenants", False),
    )


class _OperatorsStore(DynamoDBStore):
    """One that needs no key of encryption: an operator may look at sessions, and end them, without reading them."""

    def __init__(self, table_name: str, **options: Any) -> None:
        super().__init__(table_name, **options)
        self._values.in_place_of_sealed = _SEALED


def _store(target: Target) -> DynamoDBStore:
    return _OperatorsStore(target.table_name, region_name=target.region_name, endpoint_url=target.endpoint_url)


def _text(value: str) -> str:
    value = value.removeprefix(_HIDDEN)
    if not is_text(value, max_size=_MAX_KEY_SIZE):
        raise argparse.ArgumentTypeError(f"it must be text of 1 to {_MAX_KEY_SIZE} bytes")
    return value


def _read_id(given: str) -> str:
    """Return an id, from standard input if it is given as a dash: there no shell remembers it.

    To be called outside of an event loop, in which Ctrl-C would wait for the input.
    """
    try:
        session_id = sys.stdin.readline().strip() if given == "-" else given
    except UnicodeDecodeError:
        session_id = ""
    if not is_text(session_id, max_size=_MAX_KEY_SIZE):
        raise ConfigurationError(f"an id is text of 1 to {_MAX_KEY_SIZE} bytes")
    return session_id


def _moment(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):  # After the year 9999, by another writer's mistake.
        return str(seconds)


def _sessions(count: int, kind: str = "") -> str:
    return f"{count:,} {kind}session{'' if count == 1 else 's'}"


def _printable(text: str) -> str:
    """Return the text with what could steer a terminal, or end the line, escaped."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def _marks(stream: TextIO) -> dict[str, str]:
    try:
        "".join(_MARKS.values()).encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return _PLAIN_MARKS
    return _MARKS


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Give a function that tells how far the work is: on a terminal, on one line, a few times a second."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    told = 0.0

    def tell(text: str) -> None:
        nonlocal told
        if time.monotonic() - told >= _TELL_EVERY:
            told = time.monotonic()
            print(f"\r{text}", end="", file=sys.stderr, flush=True)

    try:
        yield tell
    finally:
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def _fail(reason: str) -> int:
    print(f"dynamodb-sessions: {' '.join(_printable(reason).split())}", file=sys.stderr)
    return FAILED
