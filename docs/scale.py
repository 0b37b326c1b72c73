"""The figures of scale.md, each computed: `python docs/scale.py` prints them. A test compares the page with them.

In the page every figure that is computed stands in bold, and every row of its tables is a row of `sizes` or `bills`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.cost import READ_PRICE, READ_UNIT, WRITE_PRICE, WRITE_UNIT, size_of, units
from dynamodb_sessions.identifiers import new_id
from dynamodb_sessions.stores import item_format
from dynamodb_sessions.stores.contract import Record

KEY_WRITES, KEY_READS = 1_000, 3_000
"""Units a second of one partition, and so of one key.

Source: https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/bp-partition-key-design.html
"""
NEW_WRITES, NEW_READS = 4_000, 12_000
"""Units a second of a new on-demand table, its warm throughput.

Source: https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/warm-throughput.html
"""
STORAGE_PRICE, BACKUP_PRICE, FREE_GB = 0.25, 0.20, 25
"""Dollars for a GB and month, stored and of point-in-time recovery, and the GB that cost nothing: us-east-1, standard.

Source, as for READ_PRICE and WRITE_PRICE: https://aws.amazon.com/dynamodb/pricing/on-demand/
"""
OVERHEAD = 100
"""Bytes that DynamoDB bills besides, of an item and of each of its entries in an index."""

SESSIONS, DAYS = 10_000_000, 14
REQUESTS, CHANGES, TOUCHES = 30, 5, 4
"""Of one session: how many begin in a month, how long each is stored, and what happens to it."""
TRANSACTION = 2
"""What a transaction costs, by the same write without one."""


def item_size(value_bytes: int, *, owner: str | None = "acme/alice") -> int:
    """Return the bytes of a session with one value of that size, as DynamoDB counts them."""
    value = "x" * (value_bytes - 2)
    record = Record(
        new_id(), {"cart": f'"{value}"'}, 1_800_000_000, 1_801_209_600, 5, owner, born="b" * 11, handle="h" * 16
    )
    return size_of(item_format.from_record(record))


def index_size() -> int:
    """Return the bytes of an entry of the owner index, which has keys only."""
    entry = {"session_id": {"S": new_id()}, "owner": {"S": "acme/alice"}, "created_at": {"N": "1800000000"}}
    return size_of(entry)


def dollars(amount: float) -> str:
    return f"${amount:,.2f}"


def sizes() -> list[tuple[str, ...]]:
    """Return what a session of each size takes, a row each."""
    rows: list[tuple[str, ...]] = []
    for kilobytes in (0.5, 4, 10, 40, 100, 390):
        size = item_size(int(kilobytes * 1_000))
        writes, reads = units(size, WRITE_UNIT), units(size, READ_UNIT)
        rows.append(
            (f"{kilobytes:g} KB", f"{writes}", f"{reads}", f"{KEY_WRITES // writes:,}", f"{KEY_READS // reads:,}")
        )
    return rows


def bill(value_bytes: int) -> list[float]:
    """Return the dollars of a month: writes, reads, storage, backup, all of them, and a replica's."""
    size = item_size(value_bytes)
    write, read = units(size, WRITE_UNIT), units(size, READ_UNIT)
    login = TRANSACTION * 2 * write + 1  # The old id goes, the new one comes, and the index has it.
    writes = SESSIONS * (write + login + CHANGES * write + TOUCHES * write) / 1e6 * WRITE_PRICE
    reads = SESSIONS * REQUESTS * read / 1e6 * READ_PRICE
    stored = SESSIONS * DAYS / 30 * (size + index_size() + 2 * OVERHEAD) / 1e9
    storage = max(0.0, stored - FREE_GB) * STORAGE_PRICE
    backup = stored * BACKUP_PRICE
    # A replica takes each write again, and the deletes of DynamoDB's TTL, which are free in the Region they happen in.
    replica = writes + SESSIONS * write / 1e6 * WRITE_PRICE + stored * STORAGE_PRICE + backup
    return [writes, reads, storage, backup, writes + reads + storage + backup, replica]


def bills() -> list[tuple[str, ...]]:
    """Return what a month of 10 million sessions costs by their size, a row each."""
    return [(f"{value / 1_000:g} KB", *map(dollars, bill(value))) for value in (500, 4_000, 40_000)]


def figures() -> set[str]:
    """Return what stands in the text of the page, in bold."""
    large = item_size(40_000)
    write = units(large, WRITE_UNIT)
    return {
        f"{write} write units",
        f"{KEY_WRITES // write} changes a second",
        f"{KEY_READS // units(large, READ_UNIT)} loads a second",
        f"{KEY_WRITES:,} logins a second",
        f"{KEY_WRITES:,} write units",
        f"{KEY_READS:,} read units",
        f"{NEW_WRITES:,} writes",
        f"{NEW_READS:,} reads",
        f"{SESSIONS // 1_000_000} million sessions",
        f"{NEW_WRITES // (TRANSACTION * 2 + 1):,} logins",
        dollars(bill(500)[-2]),
        f"{SESSIONS * DAYS / 30 / 1e6:.1f} million",
    }


if __name__ == "__main__":
    for row in (*sizes(), *bills()):
        print(*row, sep=" | ")
    print(*sorted(figures()), sep="\n")
