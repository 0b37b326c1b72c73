"""What users read is plain English: the phrases that a second-language reader has to parse twice stay out."""

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
PHRASES = {
    r"\bis none\b": "is invalid, is missing",
    r"(?i:\bcannot be had\b)": "is missing, cannot be built",
    r"(?i:\bas of\b)": "like, for",
    r"(?i:\bsee to it\b)": "make sure",
    r"(?i:\bmend(s|ed|ing)?\b)": "fix",
    r"(?i:\bbeside\b)": "compared with, next to, with",
    r"(?i:\bthose that are given\b)": "the others",
}
"""What is not wanted, and what to write instead."""

_FINE = re.compile(r"\b(if|that|where|whether|;|None:) there is none\b|there is none\b|(?i:#beside)")
"""Where it means what it says: there is no such thing."""


def pages() -> list[Path]:
    """Return the files of this checkout whose text users read."""
    folders = ("src", "docs", "examples", "terraform", ".github")
    found = [path for folder in folders for path in (PROJECT / folder).rglob("*")]
    found += [PROJECT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
    return [path for path in found if path.suffix in {".py", ".md", ".tf", ".html"} and ".terraform" not in path.parts]


def offences(text: str) -> list[str]:
    """Return each unwanted phrase of a text, and what to write instead."""
    text = _FINE.sub("", text)
    return [
        f"{match[0]!r}: write {instead}" for phrase, instead in PHRASES.items() for match in re.finditer(phrase, text)
    ]


@pytest.mark.parametrize("path", pages(), ids=lambda path: str(path.relative_to(PROJECT)))
def test_no_phrase_has_to_be_read_twice(path: Path) -> None:
    assert offences(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text", ["the answer is none", "see to it that", "a time as of now", "it mends it", "Beside it", "cannot be had"]
)
def test_every_phrase_is_found(text: str) -> None:
    assert len(offences(text)) == 1


def test_the_pages_are_there() -> None:
    """A list that is empty would prove nothing."""
    assert {"README.md", "session.py", "cli.py", "faults.md"} <= {path.name for path in pages()}
