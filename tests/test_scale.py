"""The figures of docs/scale.md are those that docs/scale.py computes."""

import re
import runpy
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "scale.md").read_text(encoding="utf-8")
COMPUTED = runpy.run_path(str(DOCS / "scale.py"))


def test_every_row_of_the_tables_is_computed() -> None:
    rows = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in PAGE.splitlines() if line[:1] == "|"]
    assert [row for row in rows if row[0] != "values" and "---" not in row] == [
        *COMPUTED["sizes"](),
        *COMPUTED["bills"](),
    ]


def test_every_figure_in_bold_is_computed() -> None:
    assert set(re.findall(r"\*\*(.+?)\*\*", PAGE)) == COMPUTED["figures"]()


def test_the_page_names_what_the_bill_assumes() -> None:
    each = [
        f"by {COMPUTED['REQUESTS']} requests",
        f"changed by {COMPUTED['CHANGES']}",
        f"touched by {COMPUTED['TOUCHES']}",
    ]
    prices = [f"${COMPUTED['READ_PRICE']}", f"${COMPUTED['WRITE_PRICE']}", f"${COMPUTED['STORAGE_PRICE']}"]
    for assumed in (*each, *prices, f"for {COMPUTED['DAYS']} days", f"first {COMPUTED['FREE_GB']}"):
        assert assumed in " ".join(PAGE.split())
