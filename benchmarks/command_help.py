"""`backfill --help` must answer at once: against the least it could take, importing typer."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.figure import Figure

TURNS = 7
BAR = 3.0
_HEAVY = ("dagster", "pandas")
_IMPORTED = (
    "import sys; sys.argv = ['backfill', '--help']\n"
    "from backfill_pipelines.cli import main\n"
    "try: main()\n"
    "except SystemExit: pass\n"
    f"print(sum(name in sys.modules for name in {_HEAVY}), file=sys.stderr)"
)


def figures() -> list[Figure]:
    """The ratio of the medians, in turn; and how many of the heavy libraries were imported."""
    command = [str(Path(sys.executable).with_name("backfill")), "--help"]
    least = [sys.executable, "-c", "import typer"]
    ours: list[float] = []
    bare: list[float] = []
    for _ in range(TURNS):
        ours.append(_seconds(command))
        bare.append(_seconds(least))
    imported = subprocess.run([sys.executable, "-c", _IMPORTED], check=True, capture_output=True, text=True)
    return [
        Figure(
            figure="backfill --help over python -c 'import typer'",
            value=statistics.median(ours) / statistics.median(bare),
            bar=BAR,
            unit="ratio",
            how={"help_seconds": round(statistics.median(ours), 3), "typer_seconds": round(statistics.median(bare), 3)},
        ),
        Figure(
            figure=f"of {', '.join(_HEAVY)} imported by backfill --help",
            value=int(imported.stderr.split()[-1]),
            bar=0,
            unit="libraries",
        ),
    ]


def _seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started
