"""What is released says the same everywhere: its version, its Pythons, its address, its types."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parent.parent
SETTINGS = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_type_of_every_public_name_is_known(tmp_path: Path) -> None:
    """To pyright too, which infers nothing for a package's users that two type checkers might infer differently."""
    # It looks for the package where `python` would find it.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    command = [sys.executable, "-m", "pyright", "--verifytypes", "dynamodb_sessions", "--ignoreexternal"]
    checked = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )
    assert "Type completeness score: 100%" in checked.stdout, checked.stdout
