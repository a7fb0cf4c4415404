"""Some of the steps alone, as somebody selects them in the UI: each goes on from what the one before has left."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from sqlalchemy import create_engine

from backfill_pipelines.engine.backfill import RunOptions, Scope
from backfill_pipelines.engine.ledger import Mode, Run, State, read_cursor, write_cursor
from backfill_pipelines.engine.partition_run import Steps, run_partition
from backfill_pipelines.engine.runtime import Runtime
from backfill_pipelines.registry import Registry
from backfill_pipelines_tests.engine.client_leads_backfill import LeadsBackfill
from backfill_pipelines_tests.engine.client_leads_rows import ClientLeads, create

EXTRACT = Steps(extract=True, plan=False, load=False)
PLAN = Steps(extract=False, plan=True, load=False)
LOAD = Steps(extract=False, plan=False, load=True)


@dataclass
class CursoredBackfill(LeadsBackfill):
    """One whose extraction has a cursor, and reads nothing where that says that it is done."""

    reads: list[str] = field(default_factory=list)

    async def extract(self, scope: Scope) -> None:
        await asyncio.to_thread(self._read, scope)

    def _read(self, scope: Scope) -> None:
        of = {"backfill": self.name, "partition_key": scope.partition_key, "stream": "replies"}
        with scope.engine.begin() as connection:
            if read_cursor(connection, **of) is None:
                self.reads.append(scope.partition_key)
                write_cursor(connection, **of, position={"done": True})


@pytest.fixture
def runtime(leads: ClientLeads) -> Iterator[Runtime]:
    with Runtime(registry=Registry(), engine=create_engine(leads.engine.url)) as opened:
        yield opened


@pytest.fixture
def backfill(leads: ClientLeads) -> CursoredBackfill:
    return CursoredBackfill(leads, rows=[create(number) for number in range(3)])


def run(runtime: Runtime, backfill: CursoredBackfill, steps: Steps) -> Run:
    work = run_partition(
        runtime, backfill, "kim", steps=steps, options=RunOptions(), dagster_run_id=None, root_run_id=None
    )
    return runtime.run(work)


def test_the_steps_one_by_one_do_what_they_do_together(
    runtime: Runtime, backfill: CursoredBackfill, leads: ClientLeads
) -> None:
    extracted, planned, loaded = (run(runtime, backfill, steps) for steps in (EXTRACT, PLAN, LOAD))
    assert [found.state for found in (extracted, planned, loaded)] == [State.SUCCEEDED] * 3
    assert [found.mode for found in (extracted, planned, loaded)] == [Mode.PLAN, Mode.PLAN, Mode.LOAD]
    assert extracted.plan_hash is None
    assert planned.id == loaded.id
    assert loaded.counts["applied"] == len(leads.rows()) == 3
    assert backfill.reads == ["kim"]


def test_a_plan_without_an_extraction_before_it_reads_the_source_itself(
    runtime: Runtime, backfill: CursoredBackfill
) -> None:
    assert run(runtime, backfill, PLAN).counts["create"] == 3
    assert backfill.reads == ["kim"]


def test_a_run_that_extracts_reads_anew_whatever_was_extracted_before(
    runtime: Runtime, backfill: CursoredBackfill
) -> None:
    run(runtime, backfill, EXTRACT)
    run(runtime, backfill, Steps())
    assert backfill.reads == ["kim", "kim"]


def test_an_extraction_is_used_for_one_plan_only(runtime: Runtime, backfill: CursoredBackfill) -> None:
    run(runtime, backfill, EXTRACT)
    run(runtime, backfill, PLAN)
    run(runtime, backfill, PLAN)
    assert backfill.reads == ["kim", "kim"]
