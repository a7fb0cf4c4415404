"""`python -m benchmarks [NAME …]`: measure, and print one JSON line per figure. Exit 1 if one misses its bar.

Belongs here: which benchmarks there are, by name. Does not belong here: what they measure.
"""

from __future__ import annotations

import argparse
import importlib
import sys

NAMES = (
    "command_help",
    "quota",
    "clerk",
    "attio_writes",
    "attio_people",
    "clients_side_by_side",
    "memory",
    "convex",
    "hydration",
    "load",
    "customers",
)
"""From the quickest to the longest."""


def main() -> int:
    """Run the named benchmarks, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all by default")
    names = parser.parse_args().names or NAMES
    if unknown := sorted(set(names) - set(NAMES)):
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(NAMES)}")
    missed = 0
    for name in names:
        for figure in importlib.import_module(f"benchmarks.{name}").figures():
            print(figure.line(), flush=True)
            missed += not figure.passed
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
