"""`python -m benchmarks NAME [options]`: run one benchmark; without a name, list them.

A benchmark is a module of this package with a docstring and `main(arguments) -> exit status`.
"""

import importlib
import sys

BENCHMARKS = ("cold_start", "cost", "load", "middleware", "outage", "requests", "soak")


def main(arguments: list[str]) -> int:
    name, *rest = arguments or [""]
    if name in BENCHMARKS:
        status: int = importlib.import_module(f"benchmarks.{name}").main(rest)
        return status
    print("python -m benchmarks NAME [--help]\n")
    for each in BENCHMARKS:
        summary = (importlib.import_module(f"benchmarks.{each}").__doc__ or "").partition("\n")[0]
        print(f"  {each:10} {summary}")
    return 0 if name in ("", "-h", "--help") else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
