"""How long `backfill --help` takes, against Python that only imports the library it is built with.

In turn, seven times each, the medians. And what it has imported by then: neither Dagster nor pandas, which take
seconds and which no `--help` needs.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.figure import Figure

TURNS = 7
BAR = 3.0
HEAVY = ("dagster", "pandas")

_IMPORTED = f"""
import sys
from backfill_pipelines.cli import main
sys.argv = ["backfill", "--help"]
try:
    main()
except SystemExit:
    pass
print(sum(name in sys.modules for name in {HEAVY!r}), file=sys.stderr)
"""


def figures() -> list[Figure]:
    """The ratio of the medians, and how many of the heavy libraries were imported."""
    command = shutil.which("backfill", path=str(Path(sys.executable).parent)) or shutil.which("backfill")
    if command is None:
        raise RuntimeError("there is no command backfill: install the project (pip install -e .)")
    typer: list[float] = []
    ours: list[float] = []
    for _ in range(TURNS):
        typer.append(_seconds([sys.executable, "-c", "import typer"]))
        ours.append(_seconds([command, "--help"]))
    shown = subprocess.run([sys.executable, "-c", _IMPORTED], check=True, capture_output=True, text=True)
    return [
        Figure(
            figure="backfill --help, over python -c 'import typer'",
            value=statistics.median(ours) / statistics.median(typer),
            bar=BAR,
            unit="ratio",
            how={"help_seconds": _rounded(ours), "typer_seconds": _rounded(typer)},
        ),
        Figure(
            figure=f"of {' and '.join(HEAVY)}, imported by backfill --help",
            value=int(shown.stderr),
            bar=0,
            unit="libraries",
        ),
    ]


def _seconds(command: Sequence[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def _rounded(seconds: Sequence[float]) -> list[float]:
    return [round(each, 2) for each in seconds]
