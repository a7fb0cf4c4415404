"""`backfill report`: reports written to files.

Belongs here: where the files go. Does not belong here: what is in them (`reports/`).
"""

from __future__ import annotations

from pathlib import Path

from backfill_pipelines.engine.runtime import open_runtime
from backfill_pipelines.reports.kpi import as_csv, as_html, client_kpis


def write_kpi_report(*, month: str, folder: Path) -> int:
    """Write the month's KPI as CSV and HTML; returns the exit code."""
    with open_runtime() as runtime:
        kpis = client_kpis(runtime.engine, runtime.registry, month=month)
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in (
        (folder / f"kpi-{month}.csv", as_csv(kpis)),
        (folder / f"kpi-{month}.html", as_html(kpis, month=month)),
    ):
        path.write_text(content, encoding="utf-8")
        print(path)
    return 0
