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
    """What the browser is told when it works: "none", "set" or "expired"."""
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
        Operation("update", "UpdateItem", "ok", "set", "the changed keys, the others as they were", "changed"),
        Operation("touch", "UpdateItem", "ok", "set", "the later expiry", "as it was, and lives longer"),
        Operation(
            "rotate",
            "TransactWriteItems",
            "ok",
            "set",
            "the session under its new id, nothing under the old one",
            "none: the browser knows the old id only, and begins anew",
        ),
        Operation(
            "delete", "DeleteItem", "ok", "expired", "nothing under its id", "ended: its cookie means nothing any more"
        ),
    )
}


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong between the store and DynamoDB."""

    name: str
    meaning: str
    error: str = "StoreUnavailable"
    """What the store raises, if the fault is not healed."""
    repeated: bool = True
    """Whether the SDK makes a second attempt."""
    after: bool = False
    """Whether it can strike the reply to a request that was applied. Else "after" means that the first attempt was
    applied, its reply was lost by a reset connection, and the fault strikes the second."""
    never: dict[tuple[str, Moment], str] = field(default_factory=dict)
    """Cells that cannot be, and why."""


def _never_after(reason: str) -> dict[tuple[str, Moment], str]:
    return {(operation, Moment.AFTER): reason for operation in OPERATIONS}


_NO_TABLE = "the table that has just applied the first attempt is there"
_RIGHT_KEY = "the table that has just applied the first attempt has the right key"
_FITTED = "what has just been stored is not too large to be stored again"
_NO_GROWTH = "a request that stores no data cannot be too large"

FAULTS = {
    fault.name: fault
    for fault in (
        Fault("ProvisionedThroughputExceededException", "throttled: the table's capacity"),
        Fault("ThrottlingException", "throttled: the control plane, or an on-demand table that grows"),
        Fault("RequestLimitExceeded", "throttled: the account's capacity", repeated=False),
        Fault("500", "InternalServerError", after=True),
        Fault("503", "ServiceUnavailable", after=True),
        Fault("expired token", "ExpiredTokenException", "ConfigurationError", repeated=False),
        Fault("access denied", "AccessDeniedException", "ConfigurationError", repeated=False),
        Fault(
            "missing table",
            "ResourceNotFoundException",
            "ConfigurationError",
            repeated=False,
            never=_never_after(_NO_TABLE),
        ),
        Fault(
            "wrong key schema",
            "ValidationException",
            "ConfigurationError",
            repeated=False,
            never=_never_after(_RIGHT_KEY),
        ),
        Fault("DNS", "the endpoint's name cannot be resolved"),
        Fault("refused", "nobody listens"),
        Fault("connect timeout", "nobody answers"),
        Fault("read timeout", "a connection on which nothing comes", after=True),
        Fault("reset", "a connection that is reset", after=True),
        Fault("truncated body", "a reply that ends before its last byte", after=True),
        Fault(
            "oversized",
            "an item of more than 400 KB, which only others' changes can make of it: ours are measured before they "
            "are sent",
            "SessionTooLarge",
            repeated=False,
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
    applied: int
    """How often DynamoDB applies the request: 0, the table is unchanged; 1 or 2, it is changed exactly once."""

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
        """Whether the SDK's second attempt makes good for the first."""
        has_another = self.moment is Moment.BEFORE or self.fault.after
        return self.extent is Extent.ONE and self.fault.repeated and has_another

    @property
    def ends_all_the_same(self) -> bool:
        """Whether a logout that was told to have failed succeeds a moment later: the middleware tries it once more."""
        is_struck_once = self.extent is Extent.ONE and self.moment is Moment.BEFORE and not self.heals
        return self.operation.name == "delete" and is_struck_once

    @property
    def outcome(self) -> Outcome:
        after = self.moment is Moment.AFTER
        if self.heals:
            return Outcome(self.operation.returns, 200, self.operation.cookie, applied=1 + after)
        # A fault that strikes replies lets both attempts through.
        applied = after * (2 if self.fault.after and self.extent is Extent.ALL else 1)
        if self.ends_all_the_same:
            applied = 1
        return Outcome(self.fault.error, 500 if self.fault.error == "SessionTooLarge" else 503, "none", applied)


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
    page += _table("fault", "that is", "the store raises", "the SDK repeats", "strikes")
    for fault in FAULTS.values():
        strikes = "requests and replies" if fault.after else "requests"
        page += _row(fault.name, fault.meaning, f"`{fault.error}`", "yes" if fault.repeated else "no", strikes)
    page += _NEVER
    page += _table("fault", "the request was", "operations", "because")
    for fault, moment in product(FAULTS.values(), Moment):
        for reason in dict.fromkeys(fault.never.get((name, moment)) for name in OPERATIONS):
            if reason is not None:
                names = (name for name in OPERATIONS if fault.never.get((name, moment)) == reason)
                page += _row(fault.name, _WAS[moment], ", ".join(names), reason)
    return page


_INTRODUCTION = """\
# What happens under faults

This page is printed from the table in `tests/helpers/fault_table.py`; `tests/guarantees/test_faults.py` proves every
cell of it against the real engine. After a change of the table: `python -m tests.helpers.fault_table > docs/faults.md`.

A request makes one operation on its session, and a fault strikes it. In each cell, the HTTP status if the fault strikes
one attempt, and if it strikes every attempt. The SDK makes two.

"""

_OUTCOMES = """
- **200**: the second attempt has healed it. The response is the app's own, with the cookie below, and the table is
  changed exactly once.
- **503** with `Retry-After`, none of the app's response, no cookie. After a load that failed the handler has not run.
  The table is unchanged if the request was not applied, else changed exactly once.
- **503, ended**: the client is told 503, as above; then the middleware tries a logout once more, and that succeeds.
- **500**: `SessionTooLarge` where the app's response begins, as from a handler; no cookie, the table unchanged. An app
  that calls `await session.save()` can handle it.
- **never**: cannot be; the reasons are below.

"Not applied": DynamoDB has refused the request, or never had it. "Applied": it has done what it was asked, but its
reply does not arrive, by the fault itself if it strikes replies; else a reset connection loses it, and the fault
strikes the second attempt, after which there is none.

An update that was applied twice, because its first reply was lost, counts as one change: the same values are set and
the same keys removed, so nothing but `version` tells, which rises by two. A request that has loaded an older version
loses nothing by that: to move the session, it reads it again; if it has emptied it, only the keys it knew are removed.

"""

_FAULTS = """
## The faults

"""

_NEVER = """
## What cannot be

"""

if __name__ == "__main__":
    sys.stdout.write(document())
