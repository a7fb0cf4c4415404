"""A backfill over `client_leads` whose source is a list in memory, for tests of what the engine does around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal
from uuid import UUID

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from backfill_pipelines.engine.backfill import Plan, Reconciliation, RunOptions, Scope
from backfill_pipelines.engine.journal import ChangeState
from backfill_pipelines.engine.ledger import Run
from backfill_pipelines.engine.plan import plan_frame
from backfill_pipelines.engine.sql_target import SqlTarget
from backfill_pipelines_tests.engine.client_leads_rows import ClientLeads


@dataclass
class WatchedTarget:
    """The real target, with something to happen before each batch."""

    inner: SqlTarget
    before_batch: Callable[[], None]

    @property
    def batch_rows(self) -> int:
        return self.inner.batch_rows

    def apply(self, connection: Connection, run_id: UUID, first: int, last: int) -> None:
        self.before_batch()
        self.inner.apply(connection, run_id, first, last)

    def undo(self, connection: Connection, run_id: UUID, first: int, last: int) -> None:
        self.before_batch()
        self.inner.undo(connection, run_id, first, last)

    def refusal(self, error: DBAPIError) -> tuple[ChangeState, str]:
        return self.inner.refusal(error)


@dataclass
class LeadsBackfill:
    """Plans the rows that it is given, once: rows that are in the table already are planned no more."""

    name: ClassVar[str] = "leads"
    description: ClassVar[str] = "A backfill for tests."
    source_asset: ClassVar[str] = "source"
    target_asset: ClassVar[str] = "client_leads"
    kinds: ClassVar[Mapping[Literal["source", "plan", "target"], set[str]]] = {
        "source": set(),
        "plan": set(),
        "target": set(),
    }
    partition_kind: ClassVar[Literal["client", "workspace"]] = "client"
    uses: ClassVar[str] = "email_bison"
    options_model: ClassVar[type[RunOptions]] = RunOptions
    schedule: ClassVar[str] = "0 3 * * *"

    leads: ClientLeads
    rows: Sequence[tuple[Any, ...]] = ()
    before_batch: Callable[[], None] = lambda: None
    extract_failures: list[Exception] = field(default_factory=list)
    alike: Mapping[str, str] = field(default_factory=dict)

    def preflight(self, scope: Scope) -> None:
        self.leads.target()

    async def extract(self, scope: Scope) -> None:
        if self.extract_failures:
            raise self.extract_failures.pop(0)
        scope.warnings.add("proof_partial")
        scope.reasons["unknown_campaign"] = 2
        scope.details["pages"] = 3

    def plan(self, scope: Scope) -> Plan:
        there = {row["lead_email"].lower() for row in self.leads.rows()}
        rows = [row for row in self.rows if row[2] != "create" or row[1] not in there]
        return Plan(source=len(self.rows), frames=[plan_frame(rows)])

    def target(self, scope: Scope) -> WatchedTarget:
        return WatchedTarget(self.leads.target(), self.before_batch)

    def verify(self, scope: Scope) -> Reconciliation:
        there = {row["lead_email"].lower() for row in self.leads.rows()}
        missing = sum(row[1] not in there for row in self.rows)
        return Reconciliation(equal=len(self.rows) - missing, missing=missing, extra=0, different=0, passed=not missing)

    def compare_partitions(self, runs: Sequence[Run]) -> Mapping[str, str]:
        return {run.partition_key: self.alike[run.partition_key] for run in runs if run.partition_key in self.alike}
