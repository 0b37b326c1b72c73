"""The commands: what each does, and what it prints. Imported when one is run: `--help` needs nothing of it."""

import argparse
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import nullcontext
from dataclasses import asdict
from functools import cached_property, partial
from typing import Any, TextIO

import anyio

from dynamodb_sessions import settings
from dynamodb_sessions.aws.errors import words_of
from dynamodb_sessions.aws.table_calls import AT_ONCE, all_at_once, batches
from dynamodb_sessions.clock import wall_clock
from dynamodb_sessions.codec import is_text
from dynamodb_sessions.exceptions import ConfigurationError, CorruptRecord, SessionError, StoreUnavailable
from dynamodb_sessions.identifiers import fingerprint
from dynamodb_sessions.ops import doctor, emit
from dynamodb_sessions.ops.cli import MAX_KEY_SIZE
from dynamodb_sessions.ops.emit import iam
from dynamodb_sessions.ops.output import FAILED, fail, moment, printable, progress, put, sessions
from dynamodb_sessions.ops.patient_store import SEALED, OperatorsStore, Summary
from dynamodb_sessions.ops.target import Target
from dynamodb_sessions.stores import table_schema
from dynamodb_sessions.stores.contract import Party, Record, record_size
from dynamodb_sessions.stores.reserved_ids import ADOPTED

_UNKNOWN = "there is no live session under this id (its name of 8 digits will do only together with --owner)"
_UNKNOWN_NAME = "the owner has no live session of this id or name (the name changes when the session gets another id)"
_SEVERAL = "sessions of the owner have this name, and nothing was done: give the id, which list --owner --ids tells"

_NAME = re.compile(r"[0-9a-f]{8}")

_GO_ON = ("revoke", "purge-expired")
"""Commands that find less to do when they are run again."""

_MARKS = {"ok": "✓", "warning": "!", "wrong": "✗", "open": "-"}
_PLAIN_MARKS = {"ok": "ok", "warning": "!!", "wrong": "NO", "open": "--"}


class Work:
    """One command at work: on which table, and how far it is."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.as_json: bool = options.json
        self.so_far: Callable[[], str] | None = None
        """What to say of a command that is interrupted."""

    @cached_property
    def target(self) -> Target:
        """The table that the options and the environment name."""
        conversations = getattr(self.options, "conversations", False)
        return Target(
            getattr(self.options, "table", None) or ("conversations" if conversations else settings.table_name()),
            getattr(self.options, "region", None),
            getattr(self.options, "endpoint_url", None) or settings.endpoint_url(),
            conversations,
            getattr(self.options, "tenants", False),
        )

    @cached_property
    def store(self) -> OperatorsStore:
        """The store on that table."""
        return OperatorsStore(
            self.target.table_name,
            region_name=self.target.region_name,
            endpoint_url=self.target.endpoint_url,
            rate=getattr(self.options, "rate", None),
        )

    def where(self) -> str:
        """Return where the command looked, as far as that is known, and how to find out what is wrong there."""
        try:
            target = self.target
        except SessionError:
            return "see `dynamodb-sessions check --help`"
        region, endpoint = target.region_name or os.environ.get("AWS_REGION"), target.endpoint_url
        if "store" in vars(self):
            try:
                meta = self.store.client.meta
            except SessionError:
                pass
            else:
                region, endpoint = meta.region_name, meta.endpoint_url
        host = "AWS's" if endpoint is None else endpoint.rpartition("@")[2]
        return (
            f"table {target.table_name}, region {region or '(none)'}, endpoint {host}: "
            f"{target.command('check')} looks for what is wrong"
        )

    def put(self, text: str, /, **told: Any) -> None:
        """Print a line for people; or what it tells, as JSON."""
        put(text, as_json=self.as_json, **told)

    def wait(self, work: Callable[["Work"], Awaitable[int]], *, so_far: Callable[[], str], shown: bool = True) -> int:
        """Run what may take long, until --timeout if one is given, and tell how far it is. Return its exit code."""
        self.so_far = so_far

        async def within_time() -> int | None:
            seconds = self.options.timeout
            with nullcontext() if seconds is None else anyio.move_on_after(seconds):
                return await work(self)
            return None

        with progress(self._live, shown=shown) as tell:
            self.store.calls.on_answer = tell
            ended = anyio.run(within_time)
        self.so_far = so_far if ended is None else None
        if ended is None:
            return fail(f"--timeout: {self.options.timeout:g} s are over{self.left_off()}; {self.where()}")
        return ended

    def left_off(self) -> str:
        """Return how far it was, and how to go on."""
        if self.so_far is None:
            return ""
        return f": {self.so_far()}{'; run it again to go on' if self.options.command in _GO_ON else ''}"

    def _live(self) -> str:
        refused = self.store.calls.refused
        throttled = f" (throttled {refused:,} times: it waits and goes on)" if refused else ""
        return f"{self.so_far() if self.so_far else ''}{throttled}"


def run(options: argparse.Namespace) -> int:
    """Run a command. Return its exit code. Raises KeyboardInterrupt, once it has said how far it was, and OSError."""
    work = Work(options)
    try:
        return COMMANDS[options.command](work)
    except KeyboardInterrupt:
        fail(f"interrupted{work.left_off()}")
        raise
    except SessionError as error:
        left_off = work.left_off() if isinstance(error, StoreUnavailable) else ""
        return fail(f"{error}{left_off}; {work.where()}")
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 - no traceback: it may quote an id
        return fail(f"unexpected {type(error).__name__}, a bug of dynamodb-sessions{work.left_off()}; {work.where()}")


def _check(work: Work) -> int:
    findings = []
    marks = _marks(sys.stdout)
    for finding in doctor.examine(work.target):
        findings.append(finding)
        if not work.as_json:
            print(f"{marks[finding.verdict]} {finding.check:18} {printable(finding.detail)}", flush=True)
            if finding.fix:
                print(f"{' ' * len(marks['ok'])} {'':18} fix: {printable(finding.fix)}", flush=True)
    is_well = all(finding.verdict is not doctor.Verdict.WRONG for finding in findings)
    if work.as_json:
        told = {"ok": is_well, "table": work.target.table_name, "checks": [*map(asdict, findings)]}
        print(json.dumps(told, indent=2))
    return 0 if is_well else FAILED


def _emit(work: Work) -> int:
    options = work.options
    if (options.operator or options.kms_key) and options.form != "iam":
        options.usage(f"{'--operator' if options.operator else '--kms-key'} goes with iam only")
    if options.form == "iam":
        text = iam.render(work.target, operator=options.operator, kms_key=options.kms_key)
    else:
        text = emit.FORMS[options.form](work.target)
    work.put(text.removesuffix("\n"), form=options.form, text=text)
    return 0


def _create_table(work: Work) -> int:
    target, client = work.target, work.store.client
    try:
        table_schema.create(client, target.table_name, conversations=target.conversations, tenants=target.tenants)
    except TimeoutError as error:
        raise ConfigurationError(str(error)) from None
    except Exception as error:  # noqa: BLE001 - whatever it is, the table is not there
        raise ConfigurationError(f"the table cannot be created: {words_of(error)}") from None
    region = client.meta.region_name
    text = f"the table {target.table_name} is in {region}; {target.command('check')} looks at it closely"
    work.put(text, table=target.table_name, region=region)
    return 0


def _list(work: Work) -> int:
    listed = 0

    async def listing(work: Work) -> int:
        nonlocal listed
        table = _Table(work)
        async for found in _listed(work):
            if not found.id.startswith(ADOPTED):
                table.put(found)
                listed += 1
        if not listed and not work.as_json:
            print("no sessions")
        return 0

    return work.wait(listing, so_far=lambda: f"{sessions(listed)} listed", shown=not sys.stdout.isatty())


def _listed(work: Work) -> AsyncIterator[Summary] | AsyncIterator[Record]:
    owner, tenant, store, now = work.options.owner, work.options.tenant, work.store, wall_clock()
    if not work.options.sizes:
        party = Party("owner", owner) if tenant is None else Party("tenant", tenant)
        return store.summaries(now=now) if party.name is None else store.summaries_of(party, now=now)
    if tenant is not None:
        return store.list_tenant(tenant, now=now)
    return store.scan(now=now) if owner is None else store.list_owner(owner, now=now)


class _Table:
    """Prints sessions, one a line, under a header."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._ids: bool = work.options.ids
        self._header = True

    def put(self, found: Summary | Record) -> None:
        """Print one."""
        width = 43 if self._ids else 8
        size = record_size(found) if isinstance(found, Record) else None
        if self._header and not self._work.as_json:
            bytes_ = "" if size is None else f"{'BYTES':>7} "
            print(f"{'ID' if self._ids else 'SESSION':{width}} {'CREATED':20} {'EXPIRES':20} {bytes_}OWNER")
        self._header = False
        name = fingerprint(found.id)
        self._work.put(
            f"{printable(found.id) if self._ids else name:{width}} {moment(found.created_at)} "
            f"{moment(found.expires_at)} {'' if size is None else f'{size:7} '}"
            f"{'-' if found.owner is None else printable(found.owner)}",
            session=name,
            **({"id": found.id} if self._ids else {}),
            owner=found.owner,
            **({} if found.tenant is None else {"tenant": found.tenant}),
            created_at=found.created_at,
            expires_at=found.expires_at,
            **({} if size is None else {"bytes": size}),
        )


def _show(work: Work) -> int:
    given = _read_ids(work.options.id)
    shown = 0

    async def showing(work: Work) -> int:
        nonlocal shown
        code = 0
        for each in given:
            ids = await _named(work, each)
            record = await work.store.load(ids[0], now=wall_clock()) if len(ids) == 1 else None
            if record is None:
                code = await _none_or_several(work, ids)
                continue
            if shown and not work.as_json:
                print()
            _put_session(work, record)
            shown += 1
        return code

    return work.wait(showing, so_far=lambda: f"{sessions(shown)} shown", shown=False)


def _put_session(work: Work, record: Record) -> None:
    name, size, keys = fingerprint(record.id), record_size(record), dict[str, dict[str, Any]]()
    lines = {
        "session": name,
        **({"id": printable(record.id)} if work.options.ids else {}),
        "owner": "-" if record.owner is None else printable(record.owner),
        **({} if record.tenant is None else {"tenant": printable(record.tenant)}),
        "created": moment(record.created_at),
        "expires": moment(record.expires_at),
        "lifetime": "the middleware's" if record.max_age is None else f"{record.max_age} s, its own",
        "version": record.version,
        "bytes": size,
        "keys": len(record.data),
    }
    text = [f"{label:9} {value}" for label, value in lines.items()]
    for key, encoded in sorted(record.data.items()):
        if encoded == SEALED:
            text.append(f"{'-':>9} {printable(key)} (encrypted)")
            keys[key] = {"encrypted": True}
            continue
        keys[key] = {"bytes": len(encoded.encode())} | ({"value": encoded} if work.options.values else {})
        value = f" = {printable(encoded)}" if work.options.values else ""
        text.append(f"{keys[key]['bytes']:9} {printable(key)}{value}")
    work.put(
        "\n".join(text),
        session=name,
        **({"id": record.id} if work.options.ids else {}),
        owner=record.owner,
        **({} if record.tenant is None else {"tenant": record.tenant}),
        created_at=record.created_at,
        expires_at=record.expires_at,
        max_age=record.max_age,
        version=record.version,
        bytes=size,
        keys=keys,
    )


async def _named(work: Work, given: str) -> list[str]:
    """Return the ids that an argument stands for: itself; or, with an owner, those of the owner that it names."""
    owner = work.options.owner
    if owner is None:
        return [given]
    return await work.store.ids_named(Party("owner", owner), given)


async def _none_or_several(work: Work, ids: list[str]) -> int:
    """Say that nothing is there under an id or a name; or list all that have the name."""
    if len(ids) < 2:  # noqa: PLR2004 - one has ended meanwhile
        return fail(f"{_UNKNOWN if work.options.owner is None else _UNKNOWN_NAME}; {work.where()}")
    table = _Table(work)
    async for found in work.store.summaries_of(Party("owner", work.options.owner), now=wall_clock()):
        if found.id in ids:
            table.put(found)
    return fail(f"{len(ids)} {_SEVERAL}; {work.where()}")


def _revoke(work: Work) -> int:
    options = work.options
    if (options.id is None and options.owner is None) == (options.tenant is None):
        options.usage("give an ID, --owner or both, or --tenant")
    if options.keep is not None and options.id is not None:
        options.usage("--keep goes with --owner and --tenant only")
    return _revoke_all(work) if options.id is None else _revoke_some(work)


def _revoke_some(work: Work) -> int:
    given, ended = _read_ids(work.options.id), 0

    async def revoking(work: Work) -> int:
        nonlocal ended
        code = 0
        for each in given:
            ids = await _named(work, each)
            if len(ids) != 1 or not await _revoke_one(work, ids[0]):
                code = await _none_or_several(work, ids)
                continue
            ended += 1
            name = fingerprint(ids[0])
            work.put(f"revoked {name}", session=name, ended=True)
        return code

    return work.wait(revoking, so_far=lambda: f"{ended:,} ended, {len(given) - ended:,} left")


async def _revoke_one(work: Work, session_id: str) -> bool:
    if work.options.owner is not None:
        return await work.store.end_one_of(work.options.owner, session_id)
    try:
        record = await work.store.load(session_id, now=wall_clock())
    except CorruptRecord:
        return await work.store.delete(session_id)
    # With its record it is ended under another id, too, if it has just got one.
    return await work.store.delete(session_id, record=record) and record is not None


def _revoke_all(work: Work) -> int:
    options, store, keep = work.options, work.store, None
    if options.keep is not None:
        keep, *others = _read_ids(options.keep)
        if others:
            raise ConfigurationError("--keep spares one session: give one id")

    async def revoking(_: Work) -> int:
        nonlocal keep
        if keep is not None and _NAME.fullmatch(keep):
            party = Party("owner", options.owner) if options.tenant is None else Party("tenant", options.tenant)
            ids = await store.ids_named(party, keep)
            if len(ids) != 1:
                return fail(f"{len(ids)} of the sessions are named as --keep says, and nothing was done: give the id")
            keep = ids[0]
        if options.tenant is not None:
            ended = await store.revoke_tenant(options.tenant, keep=keep)
        else:
            ended = await store.revoke_owner(options.owner, keep=keep)
        work.put(f"revoked {sessions(ended)}", ended=ended)
        return 0

    def so_far() -> str:
        left = len(store.named - {keep}) - store.settled
        return f"{store.ended:,} ended, {f'{left:,}' if left > 0 else 'and nobody knows how many are'} left"

    return work.wait(revoking, so_far=so_far)


def _purge_expired(work: Work) -> int:
    store, now = work.store, wall_clock()
    did, purged = "would delete" if work.options.dry_run else "deleted", 0

    async def purging(_: Work) -> int:
        nonlocal purged
        async for ids in batches(store.expired(now=now), AT_ONCE):
            if work.options.dry_run:
                purged += len(ids)
            else:
                purged += sum(await all_at_once([partial(store.delete_expired, each, now=now) for each in ids]))
        looked_at = store.calls.looked_at
        work.put(
            f"{did} {sessions(purged, 'expired ')} of {looked_at:,} stored",
            deleted=0 if work.options.dry_run else purged,
            expired=purged,
            looked_at=looked_at,
        )
        return 0

    return work.wait(purging, so_far=lambda: f"{store.calls.looked_at:,} looked at, {did} {purged:,} expired")


COMMANDS: dict[str, Callable[[Work], int]] = {
    "check": _check,
    "emit": _emit,
    "create-table": _create_table,
    "list": _list,
    "show": _show,
    "revoke": _revoke,
    "purge-expired": _purge_expired,
}


def _read_ids(given: str) -> list[str]:
    """Return an id; or those in the lines of standard input if it is given as a dash: there no shell remembers them.

    To be called outside of an event loop, in which Ctrl-C would wait for the input.
    """
    ids = [given]
    if given == "-":
        try:
            lines = [sys.stdin.readline()] if sys.stdin.isatty() else list(sys.stdin)
        except UnicodeDecodeError:
            lines = []
        ids = [line.strip() for line in lines if line.strip()]
    if not ids or not all(is_text(each, max_size=MAX_KEY_SIZE) for each in ids):
        raise ConfigurationError(f"an id is text of 1 to {MAX_KEY_SIZE} bytes")
    return ids


def _marks(stream: TextIO) -> dict[str, str]:
    try:
        "".join(_MARKS.values()).encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return _PLAIN_MARKS
    return _MARKS
