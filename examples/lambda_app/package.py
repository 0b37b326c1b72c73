"""Make the function's zip, as Terraform and SAM ship it: `python3 examples/lambda_app/package.py function.zip`.

It holds the package as it is in this checkout, and what requirements.txt pins by version and hash, which
requirements.in says how to make. What Lambda has itself, boto3 and all it brings, is left out. The same files make the
same bytes, so that nothing is deployed when nothing changed.

Nothing that this brings is compiled, so one zip runs anywhere. For an app that needs more, compiled packages too, give
its own pinned requirements, and where they are to run:

    package.py function.zip --requirements mine.txt --platform manylinux2014_aarch64 --python-version 3.13
"""

import argparse
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
PROJECT = HERE.parent.parent
EPOCH = (1980, 1, 1, 0, 0, 0)


def pip_install(target: Path, *arguments: str) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    subprocess.run([*pip, "--no-deps", "--upgrade", "--target", str(target), *arguments], check=True)


def install_pinned(target: Path, requirements: Path, platform: str | None, python_version: str | None) -> None:
    # Wheels only: what is built here would be built for this machine.
    arguments = ["--only-binary", ":all:", "--require-hashes", "-r", str(requirements)]
    if platform is not None:
        arguments += ["--platform", platform, "--implementation", "cp"]
    if python_version is not None:
        arguments += ["--python-version", python_version]
    pip_install(target, *arguments)


def files(target: Path) -> Iterator[Path]:
    for path in sorted(target.rglob("*")):
        # Commands are of no use there; they and pip's notes differ from machine to machine.
        own = path.parent.name != "bin" and path.name not in ("direct_url.json", "RECORD")
        if own and path.is_file():
            yield path


def package(
    zip_file: Path,
    requirements: Path = HERE / "requirements.txt",
    platform: str | None = None,
    python_version: str | None = None,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder)
        install_pinned(target, requirements, platform, python_version)
        pip_install(target, str(PROJECT))
        (target / "app.py").write_bytes((HERE / "app.py").read_bytes())
        with zipfile.ZipFile(zip_file, "w") as made:
            for path in files(target):
                entry = zipfile.ZipInfo(path.relative_to(target).as_posix(), EPOCH)
                # Shared libraries are loaded, not run: none of them needs to be executable.
                entry.external_attr = 0o644 << 16
                made.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zip_file", type=Path, metavar="function.zip")
    parser.add_argument("--requirements", type=Path, default=HERE / "requirements.txt", metavar="FILE")
    parser.add_argument("--platform", help="of the wheels, such as manylinux2014_aarch64; default: this machine's")
    parser.add_argument("--python-version", metavar="VERSION", help="such as 3.13; default: this Python's")
    options = parser.parse_args()
    if not options.requirements.is_file():
        parser.error(f"there is no file {options.requirements}")
    if not options.zip_file.absolute().parent.is_dir():
        parser.error(f"there is no folder {options.zip_file.absolute().parent}")
    try:
        package(options.zip_file, options.requirements, options.platform, options.python_version)
    except subprocess.CalledProcessError:
        sys.exit("pip could not install what the requirements name, and says above why: each needs a hash and a wheel")
