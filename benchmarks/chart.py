"""The chart for docs/proof.md, as SVG: text, no library, and colours that are readable on light and on dark."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

WIDTH, LABEL, ROW, BAR, GAP = 760, 250, 22, 14, 34
END = 110
"""Pixels that are kept for the figure after a bar."""
OURS, OTHERS, TEXT = "#2f81f7", "#8b949e", "#707a84"


@dataclass(frozen=True, slots=True)
class Panel:
    """Bars of one measure. `ours` are drawn in another colour."""

    title: str
    bars: Sequence[tuple[str, float]]
    ours: str
    form: str
    """How a figure is written, as `str.format` has it."""

    @property
    def height(self) -> int:
        return GAP + ROW * len(self.bars)

    def draw(self, top: int) -> Iterator[str]:
        yield f'<text x="0" y="{top + 16}" font-weight="600">{escape(self.title)}</text>'
        longest = max(value for _, value in self.bars) or 1.0
        for number, (name, value) in enumerate(self.bars):
            y = top + GAP - 8 + ROW * number
            length = max(1.0, value / longest * (WIDTH - LABEL - END))
            colour = OURS if name.startswith(self.ours) else OTHERS
            yield f'<text x="{LABEL - 10}" y="{y + 12}" text-anchor="end">{escape(name)}</text>'
            yield f'<rect x="{LABEL}" y="{y}" width="{length:.0f}" height="{BAR}" rx="2" fill="{colour}"/>'
            figure = escape(self.form.format(value))
            yield f'<text x="{LABEL + length + 8:.0f}" y="{y + 12}">{figure}</text>'


def rows(results: dict[str, Any], name: str, title: str, **wanted: object) -> list[dict[str, Any]]:
    """Return the rows, of the tables of a title, that have certain cells."""
    tables = [table for each, table in results[name]["tables"].items() if each.startswith(title)]
    return [row for table in tables for row in table if all(row[key] == value for key, value in wanted.items())]


def panels(results: dict[str, Any]) -> list[Panel]:
    """Return the panels that the results have figures for."""
    found = []
    for operation in ("read", "write"):
        for row in rows(results, "middleware", "CPU", request=operation, session="4 KB"):
            names = [name for name in ("this package", "Starlette's cookie", "starsessions") if name in row]
            title = f"The middleware alone, in memory: CPU of a {operation}, 4 KB session (less is better)"
            found.append(Panel(title, [(name, row[name]) for name in names], "this package", "{:.0f} µs"))
    for traffic in ("read", "read-mostly"):
        at_64 = rows(results, "requests", f"{traffic}:", **{"concurrent": 64, "server ms": 0.0})
        if at_64:
            title = f"Whole requests, 64 at once, {traffic}: requests a second of one process (more is better)"
            bars = [(row["sessions"], row["requests/s"]) for row in at_64]
            found.append(Panel(title, bars, "this package", "{:,.0f}"))
    dollars = rows(results, "cost", "What", traffic="read-mostly")
    if dollars:
        title = "DynamoDB, one write in ten requests, 2 KB session: $ a million requests (less is better)"
        bars = [(row["sessions"], row["$ / million requests"]) for row in dollars]
        ours, eventual = bars[0][0], bars[1][0]
        bars[1] = (f"{ours}, {eventual.removeprefix('… ')}", bars[1][1])
        found.append(Panel(title, bars, "this package", "${:.2f}"))
    return found


def draw(by_python: dict[str, Any]) -> str:
    """Return the chart of the results of the first Python, which is the oldest."""
    results = next(iter(by_python.values()))
    python: str = results["versions"]["python"]
    parts: list[str] = []
    top = 0
    for panel in panels(results):
        parts += panel.draw(top)
        top += panel.height + 10
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" viewBox="0 0 {WIDTH} {top}"',
            f'  font-family="system-ui, sans-serif" font-size="13" fill="{TEXT}" role="img">',
            f"<title>Benchmarks of dynamodb-sessions, {escape(results['date'])}, CPython {escape(python)}</title>",
            *parts,
            "</svg>\n",
        ]
    )
