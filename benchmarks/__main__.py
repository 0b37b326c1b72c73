"""`python -m benchmarks [options]`: all that is quick, into results.json and a chart. `… NAME [options]`: one of them.

results.json has the results of each Python, like "3.13", that it was run with: a run replaces those of its own.

A benchmark is a module of this package with a docstring and `main(arguments) -> exit status`. Those with bars also have
`run(options)`, which returns a report.
"""

import argparse
import importlib
import json
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks import chart
from benchmarks.harness import Report, be_nobody, closing

MODULES = {"import": "import_time"}
BENCHMARKS = (
    "agents",
    "cold_start",
    "conversation",
    "cost",
    "growth",
    "import",
    "load",
    "middleware",
    "outage",
    "requests",
    "scale",
    "soak",
    "touch",
)
QUICK = ("middleware", "requests", "touch", "cost", "growth", "import", "cold_start", "conversation")
PACKAGES = ("dynamodb-sessions", "starlette", "boto3", "aiodynamo", "aiohttp", "starsessions", "redis", "hiredis")
ROOT = Path(__file__).parent.parent


def module(name: str) -> Any:
    return importlib.import_module(f"benchmarks.{MODULES.get(name, name)}")


def listing() -> str:
    lines = ["benchmarks, those with a * quick: python -m benchmarks NAME [--help]", ""]
    for name in BENCHMARKS:
        summary = (module(name).__doc__ or "").partition("\n")[0]
        lines.append(f"  {name:12} {'*' if name in QUICK else ' '} {summary}")
    return "\n".join(lines)


def versions() -> dict[str, str | None]:
    """Return which Python and which packages were measured."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def everything(arguments: list[str]) -> int:
    """Run all that is quick, and keep what is found."""
    options = _parser().parse_args(arguments)
    kept = {"results": ROOT / "benchmarks" / "results.json", "chart": ROOT / "docs" / "benchmarks.svg"}
    if options.tiny:
        print("!!! --tiny: these figures mean nothing, and are kept only where you say")
        kept = {}
    kept |= {name: path for name in ("results", "chart") if (path := getattr(options, name)) is not None}
    be_nobody()
    reports: list[Report] = []
    for name in QUICK:
        print(f"\n## {name}")
        given = argparse.Namespace(rounds=1 if options.tiny else module(name).ROUNDS, tiny=options.tiny)
        reports.append(module(name).run(given))
    found = {"date": time.strftime("%Y-%m-%d", time.gmtime()), "versions": versions()}
    found |= {report.name: report.as_json() for report in reports}
    results = _with_those_of_other_pythons(kept.get("results"), found)
    drawn = {"results": json.dumps(results, indent=1, ensure_ascii=False) + "\n", "chart": chart.draw(results)}
    for name, path in kept.items():
        path.write_text(drawn[name])
    print("\n## bars")
    return max([closing(report, bars=options.bars) for report in reports])


def _with_those_of_other_pythons(path: Path | None, found: dict[str, Any]) -> dict[str, Any]:
    """Return the results by Python, oldest first: those that are kept in a file, and in their place what was found."""
    kept = json.loads(path.read_text()) if path is not None and path.exists() else {}
    kept["{}.{}".format(*sys.version_info)] = found
    return dict(sorted(kept.items(), key=lambda each: tuple(map(int, each[0].split(".")))))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks",
        description="Run all that is quick, some minutes, and keep what is found.",
        epilog=listing(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--bars", action="store_true", help="exit with 1 if a bar does not hold, or could not be measured"
    )
    parser.add_argument("--tiny", action="store_true", help="so small that the figures mean nothing")
    parser.add_argument("--results", type=_writable, metavar="FILE", help="default: benchmarks/results.json")
    parser.add_argument("--chart", type=_writable, metavar="FILE", help="default: docs/benchmarks.svg")
    return parser


def _writable(path: str) -> Path:
    if not Path(path).parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {Path(path).parent}")
    return Path(path)


def main(arguments: list[str]) -> int:
    name = arguments[0] if arguments else ""
    if name in BENCHMARKS:
        status: int = module(name).main(arguments[1:])
        return status
    if name[:1] not in ("", "-"):
        print(f"there is no benchmark {name}\n\n{listing()}", file=sys.stderr)
        return 2
    return everything(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
