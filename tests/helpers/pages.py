"""The pages that users read, and the blocks of code in them."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

PROJECT = Path(__file__).parent.parent.parent
DOCS = PROJECT / "docs"
PAGES = [PROJECT / "README.md", *sorted(DOCS.glob("*.md"))]
NEEDS_PACKAGES = {DOCS / "frameworks.md"}
"""Pages whose blocks take packages that the other tests do without: tests/test_frameworks.py runs and checks them."""


@dataclass(frozen=True)
class Block:
    """A fenced block, and its page's line before its first."""

    page: Path
    language: str
    text: str
    line: int

    def run(self) -> dict[str, Any]:
        """Run a Python block, and return what it has defined. An error names the page's own line."""
        # As a module, for what looks up annotations there.
        module = sys.modules["page"] = ModuleType("page")
        exec(compile("\n" * self.line + self.text, self.page, "exec"), vars(module))
        return vars(module)


def blocks(*pages: Path) -> list[Block]:
    """Return the fenced blocks of these pages."""
    found = []
    for page in pages:
        text = page.read_text(encoding="utf-8")
        fences = re.finditer(r"^```([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        found += [Block(page, fence[1], fence[2], text.count("\n", 0, fence.start(2))) for fence in fences]
        # Else one would be left out of the tests.
        assert text.count("\n```") == 2 * sum(block.page == page for block in found), page
    return found


def source_of(page: Path) -> Path:
    """Return the file that a page of the site is made of: itself, or one of another folder that it includes."""
    included = re.fullmatch(r'--8<-- "([^"]+)"\n', page.read_text(encoding="utf-8"))
    return PROJECT / included[1] if included else page


def block(page: Path, heading: str) -> Block:
    """Return the first Python block below a heading of a page."""
    lines = page.read_text(encoding="utf-8").splitlines()
    start = lines.index(f"## {heading}")
    return next(found for found in blocks(page) if found.language == "python" and found.line > start)


def app_of(page: str, heading: str) -> Any:
    """Return the app of the first Python block below a heading of a page of docs/."""
    return block(DOCS / page, heading).run()["app"]


def write_modules(folder: Path, found: list[Block]) -> None:
    """Write every Python block into a folder, as a module of its own, for type checkers."""
    for each in found:
        if each.language == "python":
            (folder / f"{each.page.stem.replace('-', '_').lower()}_{each.line}.py").write_text(each.text)
            assert "type: ignore" not in each.text
