"""Make the function's zip, as Terraform ships it: `python3 examples/lambda_app/package.py function.zip`.

Further arguments are further requirements for pip, as `.` for the package in this folder. What Lambda has itself, boto3
and all it brings, is left out. The same files make the same bytes, so that nothing is deployed when nothing changed.
"""

import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

HERE = Path(__file__).parent
EPOCH = (1980, 1, 1, 0, 0, 0)


def install(target: Path, requirements: list[str]) -> None:
    # Nothing that this brings is compiled, so any machine can make it.
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    subprocess.run([*pip, "--target", target, *requirements, "-r", HERE / "requirements.txt"], check=True)


def on_lambda(installed: dict[str, Distribution], name: str = "boto3") -> Iterator[str]:
    if name in installed:
        yield name
        for requirement in installed[name].requires or ():
            yield from on_lambda(installed, re.split(r"[^\w.-]", requirement)[0].lower())


def files(target: Path) -> Iterator[Path]:
    installed = {one.metadata["Name"].lower(): one for one in distributions(path=[str(target)])}
    left_out = {
        target / file
        for name in set(on_lambda(installed))
        for file in installed[name].files or ()
        if ".." not in str(file)
    }
    for path in sorted(target.rglob("*")):
        # Commands are of no use there; they and pip's notes differ from machine to machine.
        own = path.parent.name != "bin" and path.name not in ("direct_url.json", "RECORD")
        if own and path.is_file() and path not in left_out:
            yield path


def package(zip_file: Path, requirements: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(zip_file, "w") as made:
        target = Path(folder)
        install(target, requirements)
        (target / "app.py").write_bytes((HERE / "app.py").read_bytes())
        for path in files(target):
            entry = zipfile.ZipInfo(path.relative_to(target).as_posix(), EPOCH)
            entry.external_attr = 0o644 << 16
            made.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)


if __name__ == "__main__":
    if len(sys.argv) < 2:  # noqa: PLR2004 - the script and its argument
        sys.exit(__doc__)
    package(Path(sys.argv[1]), sys.argv[2:])
