"""`dynamodb-sessions`: what an operator does with the table and the sessions in it.

Exit codes: 0 well done; 1 not, and standard error says why in one line; 2 wrong usage; 130 interrupted; 141 nobody
reads the output any more. Here is what is typed; what is done is in `commands.py`, and imported when it is.
"""

import argparse
import io
import math
import os
import re
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from dynamodb_sessions.ops.output import fail, printable

INTERRUPTED = 130
UNREAD = 141

MAX_KEY_SIZE = 2048
"""Bytes of a partition key's value. Source: DynamoDB's service quotas."""

_ID = re.compile(r"[\w-]{43}", re.ASCII)
_HIDDEN = "\0"
"""Put before an id that begins with a dash, which argparse would take for an option. No argument can hold it."""

_DESCRIPTION = "Look after the DynamoDB table of dynamodb-sessions, and the sessions in it."
_EPILOG = (
    "A session is named by 8 hex digits of its id's SHA-256, as in logs: an id is a login, and is shown by --ids only."
)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and without the ids in it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {printable(_ID.sub('(an id)', message))}; see --help\n")


class _Version(argparse.Action):
    """Tells the version. It is looked up only when it is asked for: that takes longer than all the rest of --help."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from importlib.metadata import version  # noqa: PLC0415 - see above

        parser.exit(message=f"{version('dynamodb-sessions')}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Return its exit code; argparse exits by itself."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # An owner may be what the terminal cannot show.
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(
        [_HIDDEN + each if each[:1] == "-" and _ID.fullmatch(each) else each for each in given]
    )
    try:
        from dynamodb_sessions.ops import commands  # noqa: PLC0415 - `--help` waits for none of it

        code = commands.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        if arguments is None:  # The process ends; one who presses it twice shall see no traceback of that.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        return INTERRUPTED
    except OSError as error:
        # Else the interpreter complains when it flushes on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD if isinstance(error, BrokenPipeError) else fail(f"nothing can be printed: {error.strerror}")
    return code


def _parser() -> argparse.ArgumentParser:
    common = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--table", metavar="NAME", help="default: SESSION_TABLE_NAME, or sessions")
    common.add_argument("--region", metavar="NAME", help="default: AWS_REGION, or what boto3 finds")
    common.add_argument("--endpoint-url", metavar="URL", help="default: DYNAMODB_ENDPOINT_URL, or AWS")
    parser = _Parser("dynamodb-sessions", description=_DESCRIPTION, epilog=_EPILOG, parents=[common])
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    kind = _Parser(add_help=False)
    kind.add_argument(
        "--conversations",
        action="store_true",
        help="the table of agents' conversations; its name is conversations by default",
    )
    tenants = _Parser(add_help=False)
    tenants.add_argument("--tenants", action="store_true", help="with the index that finds the sessions of a tenant")
    lasting = _Parser(add_help=False)
    lasting.add_argument(
        "--timeout",
        type=_positive,
        metavar="SECONDS",
        help="give up after so long; default: go on while DynamoDB is throttled, until Ctrl-C",
    )
    lasting.add_argument(
        "--rate", type=_positive, metavar="UNITS", help="consume no more capacity units a second than this"
    )

    def command(name: str, text: str, *more: _Parser) -> argparse.ArgumentParser:
        described = f"{text[0].upper()}{text[1:]}."
        made = commands.add_parser(name, help=text, description=described, parents=[common, *more])
        made.add_argument("--json", action="store_true", help="print JSON; if there may be more than one, one a line")
        made.set_defaults(usage=made.error)
        return made

    check_text = "find what is wrong with region, credentials, table and permissions"
    command("check", check_text, kind, tenants)

    emit_text = "print what to deploy: the table, or the IAM policy of those who use it"
    emitting = command("emit", emit_text, kind, tenants)
    emitting.add_argument("form", choices=["terraform", "cloudformation", "sam", "cdk", "cli", "iam"])
    emitting.add_argument("--operator", action="store_true", help="with iam: an operator's policy, not the app's")
    emitting.add_argument("--kms-key", metavar="ARN", help="with iam: the table's customer managed key")

    command("create-table", "create the table if it is not there: for development", kind, tenants)

    list_text = "list the live sessions; without --owner or --tenant it reads the whole table"
    listing = command("list", list_text, lasting)
    listed = listing.add_mutually_exclusive_group()
    listed.add_argument("--owner", type=_text, help="only those bound to this owner, oldest first")
    listed.add_argument("--tenant", type=_text, help="only those bound to this tenant, by owner")
    listing.add_argument("--ids", action="store_true", help="print usable ids")
    listing.add_argument("--sizes", action="store_true", help="print how many bytes each holds: it reads all of them")

    named = "its id, which may follow --; or, with --owner, its name of 8 digits; or - for those in standard input"
    show = command("show", "show a session: its times, its keys and their sizes", lasting)
    show.add_argument("id", type=_text, metavar="ID", help=named)
    show.add_argument("--owner", type=_text, help="who it is bound to")
    show.add_argument(
        "--values",
        action="store_true",
        help="print the values as they are stored: JSON, or the text of the app's serializer",
    )
    show.add_argument("--ids", action="store_true", help="print its usable id")

    revoke = command("revoke", "end one session, or all of an owner or a tenant", lasting)
    revoke.add_argument("id", type=_text, metavar="ID", nargs="?", help=named)
    revoke.add_argument("--owner", type=_text, help="end all sessions bound to this owner; with ID: that one of them")
    revoke.add_argument("--tenant", type=_text, help="end all sessions bound to this tenant")
    revoke.add_argument(
        "--keep",
        type=_text,
        metavar="ID",
        help="with --owner or --tenant: but not this one, by its id or name; - reads it",
    )
    revoke.set_defaults(ids=False)

    purge = command("purge-expired", "delete the expired sessions that DynamoDB's TTL has left", lasting)
    purge.add_argument("--dry-run", action="store_true", help="only count them")
    return parser


def _positive(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{value!r} must be a positive number")
    return number


def _text(value: str) -> str:
    from dynamodb_sessions.codec import is_text  # noqa: PLC0415 - `--help` has no use for it

    value = value.removeprefix(_HIDDEN)
    if not is_text(value, max_size=MAX_KEY_SIZE):
        raise argparse.ArgumentTypeError(f"it must be text of 1 to {MAX_KEY_SIZE} bytes")
    return value
