"""What happens under which fault: the one table that `test_faults.py` proves and `docs/faults.md` is printed from.

`python -m tests.helpers.fault_table > docs/faults.md` prints it anew.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from itertools import product


class Moment(Enum):
    BEFORE = "before"
    """DynamoDB has not applied the request, or, for a load, not read the item."""
    AFTER = "after"
    """It has, but the reply does not arrive."""


class Extent(Enum):
    ONE = "one"
    """One attempt is struck; the next would succeed."""
    ALL = "all"
    """Every attempt is."""


@dataclass(frozen=True)
class Operation:
    """An operation on a session, as a request makes it."""

    name: str
    call: str
    returns: str
    """What the store says when it works."""
    cookie: str
    """What becomes of the browser's cookie when it works: "none", "set", "kept" or "expired"."""
    change: str
    """What there is in the table afterwards, if it was applied."""
    lost: str
    """What the browser's session is if it was applied and the browser was told that it failed."""


OPERATIONS = {
    operation.name: operation
    for operation in (
        Operation("load", "GetItem", "ok", "none", "what there was", "as it was"),
        Operation(
            "create",
            "PutItem",
            "ok",
            "set",
            "the new session",
            "none: the item stays without a browser until it expires",
        ),
        Operation("update", "UpdateItem", "ok", "kept", "the changed keys, the others as they were", "changed"),
        Operation(
            "exchange",
            "UpdateItem",
            "ok",
            "kept",
            "what `session.atomically` makes of what is there, and the name of the exchange",
            "changed",
        ),
        Operation("touch", "UpdateItem", "ok", "set", "the later expiry", "as it was, and lives longer"),
        Operation(
            "rotate",
            "TransactWriteItems",
            "ok",
            "set",
            "the session under its new id, under the old one for a minute where it is now",
            "none: the browser knows the old id only, and begins anew",
        ),
        Operation(
            "delete", "DeleteItem", "ok", "expired", "nothing under its id", "ended: its cookie means nothing any more"
        ),
    )
}


class Says(Enum):
    """What a failed attempt says of what became of it, and what is done about it."""

    REFUSED = "nothing was written, and the same may succeed a moment later"
    """The same attempt is sent again, until the deadline."""
    UNKNOWN = "it may have been applied, or be applied yet"
    """A read tells; or, where the same may be applied twice without harm, it is sent again. Both until the deadline."""
    FINAL = "nothing was written, and the same would fail again"
    """It is told at once."""


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong between the store and DynamoDB."""

    name: str
    meaning: str
    says: Says
    error: str = "StoreUnavailable"
    """What the store raises, if the fault is not healed."""
    never: dict[tuple[str, Moment], str] = field(default_factory=dict)
    """Cells that cannot be, and why."""

    @property
    def after(self) -> bool:
        """Whether it can strike the reply to a request that was applied. Else "after" means that the first attempt was
        applied, its reply was lost by a reset connection, and the fault strikes the next of the same call."""
        return self.says is Says.UNKNOWN


def _never_after(reason: str) -> dict[tuple[str, Moment], str]:
    return {(operation, Moment.AFTER): reason for operation in OPERATIONS}


_NO_TABLE = "the table that has just applied the first attempt is there"
_RIGHT_KEY = "the table that has just applied the first attempt has the right key"
_FITTED = "what has just been stored is not too large to be stored again"
_NO_GROWTH = "a request that stores no data cannot be too large"

FAULTS = {
    fault.name: fault
    for fault in (
        Fault("ProvisionedThroughputExceededException", "throttled: the table's capacity", Says.REFUSED),
        Fault("ThrottlingException", "throttled: the control plane, or an on-demand table that grows", Says.REFUSED),
        Fault("RequestLimitExceeded", "throttled: the account's capacity", Says.REFUSED),
        Fault("conflict", "another transaction holds the item", Says.REFUSED),
        Fault("500", "InternalServerError", Says.UNKNOWN),
        Fault("503", "ServiceUnavailable", Says.UNKNOWN),
        Fault(
            "expired token",
            "ExpiredTokenException, and no other credentials are there",
            Says.FINAL,
            "ConfigurationError",
        ),
        Fault("access denied", "AccessDeniedException", Says.FINAL, "ConfigurationError"),
        Fault(
            "missing table",
            "ResourceNotFoundException",
            Says.FINAL,
            "ConfigurationError",
            never=_never_after(_NO_TABLE),
        ),
        Fault(
            "wrong key schema",
            "ValidationException",
            Says.FINAL,
            "ConfigurationError",
            never=_never_after(_RIGHT_KEY),
        ),
        Fault("DNS", "the endpoint's name cannot be resolved", Says.REFUSED),
        Fault("refused", "nobody listens", Says.REFUSED),
        Fault("connect timeout", "nobody answers", Says.REFUSED),
        Fault("read timeout", "a connection on which nothing comes", Says.UNKNOWN),
        Fault("reset", "a connection that is reset", Says.UNKNOWN),
        Fault("truncated body", "a reply that ends before its last byte", Says.UNKNOWN),
        Fault(
            "oversized",
            "an item of more than 400 KB, which only others' changes can make of it: ours are measured before they "
            "are sent",
            Says.FINAL,
            "SessionTooLarge",
            never=_never_after(_FITTED)
            | {(operation, moment): _NO_GROWTH for operation in ("load", "touch", "delete") for moment in Moment},
        ),
    )
}


@dataclass(frozen=True)
class Outcome:
    """What a cell ends with."""

    store: str
    """What the store raises, or "ok"."""
    status: int
    cookie: str
    applied: bool
    """Whether the table is changed, and then exactly once; else it is unchanged."""
    fenced: bool = False
    """Whether a fence, or a tombstone, was stored besides, which no content tells."""

    @property
    def retry_after(self) -> bool:
        """Whether the client is told to come back."""
        return self.status == 503


@dataclass(frozen=True)
class Cell:
    fault: Fault
    operation: Operation
    moment: Moment
    extent: Extent

    def __str__(self) -> str:
        return f"{self.fault.name}-{self.operation.name}-{self.moment.value}-{self.extent.value}"

    @property
    def never(self) -> str | None:
        """Why it cannot be; None: it can."""
        return self.fault.never.get((self.operation.name, self.moment))

    @property
    def heals(self) -> bool:
        """Whether the operation succeeds all the same."""
        name, is_after = self.operation.name, self.moment is Moment.AFTER
        if is_after and name in ("create", "exchange"):
            return True  # A read tells, and needs no second attempt.
        if self.extent is Extent.ONE:
            return self.fault.says is not Says.FINAL
        # Of these a read tells, even if every reply to a write is lost.
        return is_after and self.fault.says is Says.UNKNOWN and name in ("update", "rotate")

    @property
    def ends_by_deadline(self) -> bool:
        """Whether it fails, and not before the deadline."""
        return not self.heals and self.fault.says is not Says.FINAL

    @property
    def ends_all_the_same(self) -> bool:
        """Whether a logout that was told to have failed succeeds a moment later: the middleware tries it once more."""
        is_struck_once = self.extent is Extent.ONE and self.moment is Moment.BEFORE and not self.heals
        return self.operation.name == "delete" and is_struck_once

    @property
    def outcome(self) -> Outcome:
        name, is_after, is_unknown = self.operation.name, self.moment is Moment.AFTER, self.fault.says is Says.UNKNOWN
        if self.heals:
            fenced = (name == "update" and is_after) or (name == "create" and is_unknown and not is_after)
            return Outcome(self.operation.returns, 200, self.operation.cookie, applied=True, fenced=fenced)
        status = 500 if self.fault.error == "SessionTooLarge" else 503
        return Outcome(self.fault.error, status, "none", applied=is_after or self.ends_all_the_same)


def cells() -> Iterator[Cell]:
    """Yield every cell of the table, those that cannot be among them."""
    for fault, operation, moment, extent in product(FAULTS.values(), OPERATIONS.values(), Moment, Extent):
        yield Cell(fault, operation, moment, extent)


def _result(fault: Fault, operation: Operation, moment: Moment) -> str:
    one, every = (Cell(fault, operation, moment, extent) for extent in Extent)
    if one.never:
        return "never"
    return f"{one.outcome.status}{', ended' if one.ends_all_the_same else ''} / {every.outcome.status}"


_WAS = {Moment.BEFORE: "not applied", Moment.AFTER: "applied"}


def _row(*columns: str) -> str:
    return f"| {' | '.join(columns)} |\n"


def _table(*heads: str) -> str:
    return _row(*heads) + _row(*["---"] * len(heads))


def document() -> str:
    """Return the table as a page of Markdown."""
    page = _INTRODUCTION
    page += _table("fault", "the request was", *OPERATIONS)
    for fault, moment in product(FAULTS.values(), Moment):
        results = (_result(fault, operation, moment) for operation in OPERATIONS.values())
        page += _row(fault.name, _WAS[moment], *results)
    page += _OUTCOMES
    page += _table(
        "operation",
        "call",
        "cookie at 200",
        "the table after it was applied",
        "the session after 503 if it was applied",
    )
    for operation in OPERATIONS.values():
        page += _row(operation.name, f"`{operation.call}`", operation.cookie, operation.change, operation.lost)
    page += _FAULTS
    page += _table("fault", "that is", "it says of the attempt", "the store raises, if it is not healed", "strikes")
    for fault in FAULTS.values():
        strikes = "requests and replies" if fault.after else "requests"
        page += _row(fault.name, fault.meaning, fault.says.value, f"`{fault.error}`", strikes)
    page += _NEVER
    page += _table("fault", "the request was", "operations", "because")
    for fault, moment in product(FAULTS.values(), Moment):
        for reason in dict.fromkeys(fault.never.get((name, moment)) for name in OPERATIONS):
            if reason is not None:
                names = (name for name in OPERATIONS if fault.never.get((name, moment)) == reason)
                page += _row(fault.name, _WAS[moment], ", ".join(names), reason)
    page += _BETWEEN
    page += _table("operation", "the first attempt", *(somebody.value for somebody in Somebody))
    for (name, way), endings in ENDINGS.items():
        page += _row(name, way.value, *(str(endings[somebody]) for somebody in Somebody))
    return page + _BETWEEN_MEANS


_INTRODUCTION = """\
# What happens under faults

This page is printed from the tables in `tests/helpers/fault_table.py`; `tests/guarantees/test_faults.py` proves every
cell of them against the real engine. After a change of a table: `python -m tests.helpers.fault_table > docs/faults.md`.

One operation on a session may take several attempts. The SDK does not retry: the store sends each attempt itself. All
attempts share one deadline, `timeout`. After it, nothing more is sent. How an attempt fails decides what comes next:

- **Nothing was written, and the same may succeed a moment later**: throttled, another transaction, no connection. The
  same attempt is sent again, after a pause that doubles each time and is random, until the deadline.
- **Nobody knows**: it may have been applied, or be applied yet. The store looks for a change with a strong read. One
  write then makes the change, if it is missing, and stores the operation's name in the item. After that, a late attempt
  has no effect. If a new session is not found, a tombstone is stored under its id, and the session is created under
  another id; under an id of your own it is an error. A touch and a delete are sent again: their condition is the very
  session, so to apply them twice is the same as once. A rotation is sent again with the same token.
- **Nothing was written, and the same would fail again**: the error is raised at once.

An exchange is what `await session.atomically(change)` makes: a read, and a change on condition that nobody has come
between, which always leaves its name. If the outcome of an attempt is unknown, it is sent again unchanged, as long as
the first one may still be applied. Then exactly one of the two is applied.

In this table, each request makes one operation on its session, and one fault strikes it. Each cell has two HTTP
statuses: the first for a fault that strikes one attempt, the second for a fault that strikes every attempt of the
operation's call.

"""

_OUTCOMES = """
- **200**: it was healed. The response is the app's own, with the cookie below, and the table is changed exactly once.
  "Kept": nothing changes for the browser, so it is told nothing, and keeps the cookie that it has.
- **503** with `Retry-After`, none of the app's response, no cookie. After a load that failed the handler has not run.
  The table is unchanged if the request was not applied, else changed exactly once. Where the deadline has come before
  anybody knew what had become of an attempt, it may still happen, once: an attempt that is late lands within minutes,
  or never, and only if nobody has ended the session, moved it, or settled the same since.
- **503, ended**: the client is told 503, as above; then the middleware tries a logout once more, and that succeeds.
- **500**: `SessionTooLarge` where the app's response begins, as from a handler; no cookie, the table unchanged. An app
  that calls `await session.save()` can handle it.
- **never**: cannot be; the reasons are below.

"Not applied": DynamoDB has refused the request, or never had it. "Applied": DynamoDB has done what it was asked, but
its reply does not arrive. If the fault can strike replies, the fault loses it. If not, a reset connection loses it, and
the fault strikes the next attempt of the same call. A create and an exchange make no next attempt: a read has already
shown the result.

The extra write that settles an unknown outcome is no change of the content, but it raises `version` too: an update
whose first reply was lost raises it by two. A request that has loaded an older version loses nothing by that: to move
the session, it reads it again; if it has emptied it, only the keys it knew are removed.

"""

_FAULTS = """
## The faults

"""

_NEVER = """
## What cannot be

"""

_BETWEEN = """
## What somebody else does between two attempts

The first attempt of an operation is applied and its **reply is lost**; or its connection is cut, and it is **applied
late**: between the attempts that follow, or after all of them. Before the store hears anything, somebody else acts: on
the session wherever it is by now, or, if it is gone, on what they had loaded of it. In each cell, what the request is
told, and what is stored in the end.

"""

_BETWEEN_MEANS = """
- **ours**, **theirs**, **both**: whose change is stored. Of one key, "ours" means that our change came after theirs.
- **200** without a cookie: the session was ended, or moved by somebody else, and nothing of the request is stored.
- **500**: a `SessionError` of `session.atomically`: the session was ended, and nothing is stored.
- **503**: nobody can know whether our change came before theirs, or whether it was carried along; it does not happen
  any more.
- **done**, **SessionError**, **StoreUnavailable**: what `open_session` says. A session is begun anew only under an id
  of your own: one of ours is never used twice. `SessionError`: it was deleted while it was open; `StoreUnavailable`: it
  was not created.
- **never**: what is not there yet cannot be changed, moved or ended; and an id of your own does not change.
"""


class Somebody(Enum):
    """Who acts between two attempts, and how."""

    NOBODY = "nobody"
    SAME_KEY = "another writer of the same key"
    OTHER_KEY = "another writer of another key"
    ENDED = "it is ended"
    ROTATED = "it is rotated"
    ANEW = "it is ended and begun anew"


class Way(Enum):
    """What becomes of the first attempt."""

    LOST = "reply lost"
    LATE = "applied late"


@dataclass(frozen=True)
class Ending:
    """How an operation ends between whose attempts somebody has acted."""

    told: str
    """The HTTP status; of a session under an id of its user's own "done", or the error."""
    cookie: str
    """What becomes of the browser's cookie: "none", "set", "kept" or "expired"."""
    left: str
    """What is stored in the end: "ours", "theirs", "both" or "nothing"."""

    def __str__(self) -> str:
        told = f"{self.told}, no cookie" if (self.told, self.cookie) == ("200", "none") else self.told
        return "never" if self.told == "never" else f"{told}: {self.left}"


_CANNOT_BE = Ending("never", "none", "nothing")


def _endings(*endings: Ending) -> dict[Somebody, Ending]:
    return dict(zip(Somebody, endings, strict=True))


def _ok(left: str, cookie: str = "set") -> Ending:
    return Ending("200", cookie, left)


def _unknown(left: str) -> Ending:
    return Ending("503", "none", left)


def _own(told: str) -> Ending:
    return Ending(told, "none", "theirs")


_ENDED = _ok("nothing", "none")
_GONE = Ending("500", "none", "nothing")
_LOGGED_OUT = _ok("nothing", "expired")

ENDINGS = {
    ("create", Way.LOST): _endings(
        _ok("ours"), _ok("theirs"), _ok("both"), _ok("ours"), _unknown("both"), _own("StoreUnavailable")
    ),
    ("create", Way.LATE): _endings(
        _ok("ours"), _CANNOT_BE, _CANNOT_BE, _CANNOT_BE, _CANNOT_BE, _own("StoreUnavailable")
    ),
    ("update", Way.LOST): _endings(
        _ok("ours", "kept"), _unknown("theirs"), _ok("both", "kept"), _ENDED, _unknown("both"), _own("SessionError")
    ),
    ("update", Way.LATE): _endings(
        _ok("ours", "kept"), _ok("ours", "kept"), _ok("both", "kept"), _ENDED, _unknown("theirs"), _own("SessionError")
    ),
    ("exchange", Way.LOST): _endings(
        _ok("ours", "kept"), _ok("theirs", "kept"), _ok("both", "kept"), _GONE, _unknown("both"), _own("SessionError")
    ),
    ("exchange", Way.LATE): _endings(
        _ok("ours", "kept"), _ok("both", "kept"), _ok("both", "kept"), _GONE, _unknown("theirs"), _own("SessionError")
    ),
    ("touch", Way.LOST): _endings(_ok("ours"), _ok("both"), _ok("both"), _ENDED, _ok("theirs", "none"), _own("done")),
    ("touch", Way.LATE): _endings(_ok("ours"), _ok("both"), _ok("both"), _ENDED, _ok("theirs", "none"), _own("done")),
    ("rotate", Way.LOST): _endings(_ok("ours"), _ok("both"), _ok("both"), _ok("nothing"), _ok("both"), _CANNOT_BE),
    ("rotate", Way.LATE): _endings(_ok("ours"), _ok("both"), _ok("both"), _ENDED, _ok("theirs", "none"), _CANNOT_BE),
    ("delete", Way.LOST): _endings(*[_LOGGED_OUT] * 5, _own("done")),
    ("delete", Way.LATE): _endings(*[_LOGGED_OUT] * 5, _own("done")),
}
"""The third dimension: an ending for each who may act between."""

if __name__ == "__main__":
    sys.stdout.write(document())
