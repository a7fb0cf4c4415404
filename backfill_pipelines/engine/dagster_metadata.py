"""What the Dagster UI shows of runs and comparisons: counts, ids and codes, never a value.

Belongs here: figures as metadata and as one line of a log. Does not belong here: when they are told, and to which asset
(`dagster_adapter.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from backfill_pipelines.engine.completeness import completeness_of
from backfill_pipelines.engine.ledger import Run
from backfill_pipelines.engine.plan import Action

_COUNTS = ("source", "create", "update", "skip", "conflict", "reject", "applied", "failed")
_COMPARED = ("equal", "missing", "extra", "different", "explained")


def summary(run: Run) -> str:
    """One line about a partition's run: key, state, counts and codes."""
    counts = ", ".join(f"{name} {run.counts[name]}" for name in (*_COUNTS, "undone") if run.counts.get(name))
    code = f" ({run.error_code}: {run.error_message})" if run.error_code else ""
    return f"{run.partition_key}: {run.state}{code}; {counts or 'nothing to do'}"


def run_metadata(run: Run) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What the UI shows of a partition's run at its source, its plan and its target; counts, ids and codes only.

    `rows` are the records read, the creates and updates planned, and the rows written.
    """
    counts = {name: run.counts.get(name, 0) for name in _COUNTS}
    about = {"run_id": str(run.id), "warnings": ", ".join(run.warnings) or "none"}
    source = {"rows": counts["source"], **about}
    if run.details:
        source["details"] = dg.MetadataValue.json(dict(run.details))
    about_plan = {"plan_hash": run.plan_hash or "none", "reasons": dg.MetadataValue.md(_table("reason", run.reasons))}
    plan = {
        "rows": counts["create"] + counts["update"],
        **about,
        "counts": dg.MetadataValue.md(_table("action", {action: counts[action] for action in Action})),
        **about_plan,
    }
    target = {"rows": counts["applied"], **about, "counts": dg.MetadataValue.md(_table("", counts)), **about_plan}
    if (completeness := completeness_of(run.details)) is not None:
        for shown in (plan, target):
            shown["completeness"] = dg.MetadataValue.md(
                _table("share of records with", completeness.changes(), unit="before → after")
            )
    if run.verification is not None:
        figures = {name: run.verification[name] for name in _COMPARED}
        target["source vs target"] = dg.MetadataValue.md(
            _table("source vs target", {**figures, **run.verification["figures"]})
        )
        target["verified"] = bool(run.verification["passed"])
    return source, plan, target


def _table(head: str, figures: Mapping[str, Any], *, unit: str = "records") -> str:
    if not figures:
        return "none"
    lines = [f"| {head} | {unit} |", "|:---|---:|"]
    return "\n".join([*lines, *(f"| {name} | {figure} |" for name, figure in figures.items())])


def comparison_metadata(compared: Mapping[str, Mapping[str, Any]], *, differing: Sequence[str]) -> dict[str, Any]:
    """What the UI shows of the comparisons of all partitions, by partition key; sums as numbers, which it plots."""
    return {
        "partitions that differ": ", ".join(differing) or "none",
        **{name: sum(comparison[name] for comparison in compared.values()) for name in _COMPARED},
        "partitions": dg.MetadataValue.md(_comparison_table(compared)),
    }


def _comparison_table(compared: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [f"| partition | {' | '.join(_COMPARED)} |", f"|:---|{'---:|' * len(_COMPARED)}"]
    lines += [
        f"| {key} | {' | '.join(str(figures[name]) for name in _COMPARED)} |" for key, figures in compared.items()
    ]
    return "\n".join(lines)
