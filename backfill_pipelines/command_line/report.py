"""`backfill report`: reports written to files.

Belongs here: where the files go. Does not belong here: what is in them (`reports/`).
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from zoneinfo import ZoneInfo

from backfill_pipelines.command_line.failures import print_json
from backfill_pipelines.engine.runtime import open_runtime
from backfill_pipelines.reports.kpi import as_csv, as_html, client_kpis, month_bounds


def write_kpi_report(*, month: str, folder: Path, as_json: bool) -> int:
    """Write the month's KPI as CSV and HTML; returns the exit code."""
    month_bounds(month, ZoneInfo("UTC"))  # refused before anything is opened, and whatever clients there are
    with open_runtime() as runtime:
        kpis = client_kpis(runtime.engine, runtime.registry, month=month)
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        folder / f"kpi-{month}.csv": as_csv(kpis),
        folder / f"kpi-{month}.html": as_html(kpis, month=month),
    }
    for path, content in files.items():
        path.write_text(content, encoding="utf-8")
        if not as_json:
            print(path)
    if as_json:
        print_json({"month": month, "files": [str(path) for path in files], "clients": [asdict(kpi) for kpi in kpis]})
    return 0
