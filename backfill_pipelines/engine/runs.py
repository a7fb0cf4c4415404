"""What a run is, what is asked for, and when the one goes on with the other.

Belongs here: the values of the ledger and the pure rules over them. Does not belong here: reading and writing them
(`ledger.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

STALE_AFTER = timedelta(hours=24)
"""A plan, or a half-done extraction, older than this is not trusted any more: the world has moved on."""


class Mode(StrEnum):
    """What a run does. A dry run is `plan`: extract and plan, nothing else."""

    PLAN = "plan"
    LOAD = "load"
    UNDO = "undo"
    VERIFY = "verify"


class State(StrEnum):
    """How a run stands."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    PARKED = "parked"
    INTERRUPTED = "interrupted"
    REFUSED = "refused"


@dataclass(frozen=True, kw_only=True)
class Run:
    """A row of `backfill.run`."""

    id: UUID
    dagster_run_id: str | None
    root_run_id: str | None
    backfill: str
    partition_key: str
    mode: Mode
    state: State
    plan_hash: str | None
    planned_counts: Mapping[str, int]
    planned_reasons: Mapping[str, int]
    counts: Mapping[str, int]
    reasons: Mapping[str, int]
    warnings: Sequence[str]
    details: Mapping[str, Any]
    verification: Mapping[str, Any] | None
    options: Mapping[str, Any]
    resumable: bool
    started_at: datetime
    planned_at: datetime | None
    finished_at: datetime | None
    parked_until: datetime | None
    undoes: UUID | None
    error_code: str | None
    error_category: str | None
    error_message: str | None

    @property
    def wrote(self) -> bool:
        """Whether what is journalled of it has happened.

        Of a run without a plan it has not: its process died between the journal and the load (`whole_plan.py`). Only
        what a person commanded, such as a merge, has no plan and is done all the same.
        """
        return self.planned_at is not None or "command" in self.options


@dataclass(frozen=True, kw_only=True)
class Request:
    """What somebody asks to be run: which partition of which backfill, how, and on behalf of which Dagster run."""

    backfill: str
    partition_key: str
    mode: Mode
    dagster_run_id: str | None = None
    root_run_id: str | None = None
    fresh: bool = False
    extracts: bool = True
    """Whether it reads the source itself; else it plans from what an earlier run has landed."""
    options: Mapping[str, Any]


def can_resume(newest: Run, request: Request, *, now: datetime) -> bool:
    """Whether a request goes on with the partition's newest run instead of starting anew. Pure."""
    if request.fresh or newest.mode is not request.mode:
        return False
    if not (newest.resumable or newest.state is State.RUNNING):
        return False
    if _deciding(newest.options) != _deciding(request.options):
        return False  # its plan, or half of it, was made for something else
    return newest.planned_at is None or now - newest.planned_at <= STALE_AFTER


def _deciding(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options by which a plan is decided: not how much of it is loaded."""
    return {name: value for name, value in options.items() if name not in ("max_records", "fresh")}


def leaves_an_extraction(newest: Run, request: Request) -> bool:
    """Whether the newest run of a partition, not gone on with, has landed what a request may start from."""
    if request.fresh or newest.planned_at is not None:
        return False
    only_extracted = newest.state is State.SUCCEEDED and not request.extracts
    return newest.resumable or newest.state is State.RUNNING or only_extracted
