"""What is released says the same everywhere: its version, its Pythons, its address, its types."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parent.parent
PYPROJECT = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
SETTINGS = tomllib.loads(PYPROJECT)["project"]
ADDRESS = SETTINGS["urls"]["Source"]

_FETCHED = {".terraform", "__pycache__", "cache"}


def test_the_changelog_has_the_version_and_its_date() -> None:
    changelog = (PROJECT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (\d[^ ]*) - \d{4}-\d\d-\d\d$", changelog, re.MULTILINE)
    assert versions[0] == SETTINGS["version"]
    # What is not released yet stands above, and everything else has a version and a date.
    assert re.findall(r"^## (?!Unreleased)", changelog, re.MULTILINE) == ["## "] * len(versions)


def test_the_address_stands_in_one_place() -> None:
    """Whoever moves the project changes pyproject.toml, and is told here of a line that was forgotten."""
    addresses = re.findall(r"https://github\.com/[\w.-]+/[\w.-]+", PYPROJECT)
    assert set(addresses) == {ADDRESS}
    owner, name = ADDRESS.split("/")[-2:]
    assert SETTINGS["urls"]["Documentation"] == f"https://{owner}.github.io/{name}/"
    folders = (".ci", ".github", "benchmarks", "docs", "examples", "src", "terraform", "tests")
    found = [path for folder in folders for path in (PROJECT / folder).rglob("*")]
    # A source distribution has PKG-INFO too, made of pyproject.toml.
    found += [path for path in PROJECT.iterdir() if path.name not in {"pyproject.toml", "PKG-INFO"}]
    files = [path for path in found if path.is_file() and _FETCHED.isdisjoint(path.parts)]
    spelled = [f"{owner}/{name}".encode(), f"{owner}.github.io".encode()]
    assert [path for path in files if any(each in path.read_bytes() for each in spelled)] == []


def test_the_classifiers_name_the_pythons_that_are_tested() -> None:
    """`.ci/run` tests those that it finds; the workflow installs each."""
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(SETTINGS["classifiers"]))
    workflow = (PROJECT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8")
    (quick,) = re.findall(r"python: \[(.*)\]", workflow)
    assert re.findall(r"3\.\d+", quick) == named
    (everything,) = re.findall(r"python-version: \|\n((?: +3\.\d+\n)+)", workflow)
    assert sorted(everything.split(), key=named.index) == named
    assert SETTINGS["requires-python"] == f">={named[0]}"


def test_the_type_of_every_public_name_is_known(tmp_path: Path) -> None:
    """To pyright too, which infers nothing for a package's users that two type checkers might infer differently."""
    # It looks for the package where `python` would find it.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    command = [sys.executable, "-m", "pyright", "--verifytypes", "dynamodb_sessions", "--ignoreexternal"]
    checked = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )
    assert "Type completeness score: 100%" in checked.stdout, checked.stdout
