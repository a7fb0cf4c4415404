"""`client_leads` and the maintenance jobs as Dagster runs, against the fake vendor and a real database."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import dagster as dg
import pytest

from backfill_pipelines.backfills.client_leads import ClientLeads
from backfill_pipelines.definitions import all_backfills, build_defs
from backfill_pipelines.engine.dagster_adapter import job_name, range_tags
from backfill_pipelines.engine.ledger import Mode, State
from backfill_pipelines_tests.backfills.agency import AMBER, BIRCHWOOD, CAFE, CEDAR, DOVETAIL, Agency
from backfill_pipelines_tests.canaries import canaries_of, found_in
from backfill_pipelines_tests.engine.dagster_rig import (
    Told,
    evaluations,
    everything_told,
    failure_of,
    materialized,
    metadata_of,
    told,
)

KEYS = [AMBER, BIRCHWOOD, CAFE, CEDAR, DOVETAIL]


class Dagster:
    """The product's own definitions over an agency, on an instance that forgets."""

    def __init__(self, agency: Agency, instance: dg.DagsterInstance) -> None:
        self.agency, self.instance = agency, instance
        self.definitions = build_defs(open_runtime=lambda _: agency.runtime())

    def run(self, first: str, last: str) -> Told:
        job = self.definitions.resolve_job_def(job_name(ClientLeads()))
        result = job.execute_in_process(instance=self.instance, tags=range_tags([first, last]), raise_on_error=False)
        return told(self.instance, result)

    def maintain(self, job: str, op: str, **config: object) -> Told:
        result = self.definitions.resolve_job_def(job).execute_in_process(
            instance=self.instance,
            run_config={"ops": {op: {"config": config}}} if config else {},
            raise_on_error=False,
        )
        return told(self.instance, result)


@pytest.fixture
def dagster(agency: Agency) -> Iterator[Dagster]:
    with dg.DagsterInstance.ephemeral() as instance:
        opened = Dagster(agency, instance)
        assert opened.maintain("registry_sync", "sync_registry").success
        assert sorted(instance.get_dynamic_partitions("client_leads")) == KEYS
        yield opened


def test_a_run_loads_its_clients_and_tells_dagster_counts_and_no_values(dagster: Dagster, agency: Agency) -> None:
    agency.server.add_faults([{"kind": "expired_token", "workspace": CAFE}])
    result = dagster.run(AMBER, DOVETAIL)
    assert failure_of(result).description == f"1 of 5 partitions did not finish: {CAFE} (unauthorized)."
    assert materialized(result)["client_leads"] == {AMBER, BIRCHWOOD, CEDAR, DOVETAIL}
    for key in (AMBER, BIRCHWOOD, CEDAR, DOVETAIL):
        assert agency.rows(key) == agency.oracle(key)
        shown = metadata_of(result, "client_leads", key)
        assert shown["rows"] == len(agency.oracle(key))
        assert f"| equal | {len(agency.oracle(key))} |" in shown["source vs target"]
    assert agency.rows(CAFE) == {}

    everything = list(everything_told(dagster.instance))
    canaries = canaries_of(agency.bison.state.world)
    assert found_in(everything, ["unauthorized", AMBER]) == {"unauthorized", AMBER}
    assert found_in(everything, canaries) == set()


def test_undo_of_a_dagster_run_is_a_dry_run_until_somebody_says_otherwise(dagster: Dagster, agency: Agency) -> None:
    loaded = dagster.run(AMBER, BIRCHWOOD)
    written = agency.written()
    assert dagster.maintain("undo", "undo_run", run_id=loaded.run_id).success
    assert agency.written() == written > 0

    undone = dagster.maintain("undo", "undo_run", run_id=loaded.run_id, dry_run=False)
    assert undone.success
    assert agency.written() == 0
    with agency.runtime() as runtime:
        runs = runtime.ledger.of_dagster_run(undone.run_id)
    assert [(run.partition_key, run.mode, run.state) for run in runs] == [
        (AMBER, Mode.UNDO, State.SUCCEEDED),
        (BIRCHWOOD, Mode.UNDO, State.SUCCEEDED),
    ]


def test_undo_of_a_run_that_nobody_knows_says_so_in_one_sentence(dagster: Dagster) -> None:
    result = dagster.maintain("undo", "undo_run", run_id=str(UUID(int=7)))
    failure = failure_of(result)
    assert failure.metadata["code"].value == "unknown_run"
    assert "backfill status" in str(failure.description)


def test_verify_names_the_partitions_that_differ_and_renews_the_check(dagster: Dagster, agency: Agency) -> None:
    dagster.run(AMBER, DOVETAIL)
    agency.execute(
        "DELETE FROM client_leads WHERE id = (SELECT id FROM client_leads WHERE workspace_name = :name LIMIT 1)",
        name=agency.name_of(CEDAR),
    )

    verified = dagster.maintain("verify", "verify_partitions", backfill="client_leads")
    assert failure_of(verified).description == f"1 of 5 partitions differ: {CEDAR}."
    (evaluation,) = evaluations(verified)
    assert (evaluation.passed, evaluation.metadata["partitions that differ"].value) == (False, CEDAR)
    assert evaluation.metadata["missing"].value == 1

    dagster.run(CEDAR, CEDAR)
    again = dagster.maintain("verify", "verify_partitions", backfill="client_leads", partitions=[CEDAR])
    assert again.success
    assert evaluations(again)[0].passed


def test_verify_of_a_backfill_that_nobody_knows_says_which_there_are(dagster: Dagster) -> None:
    result = dagster.maintain("verify", "verify_partitions", backfill="client_lead")
    known = ", ".join(backfill.name for backfill in all_backfills())
    assert failure_of(result).description == f"There is no backfill client_lead; known: {known}."


def test_two_clients_served_from_one_workspace_fail_the_check_of_both(dagster: Dagster, agency: Agency) -> None:
    """The totals that were all alike: 162,179 leads for each of five clients."""
    with agency.runtime() as runtime:
        for run in agency.run_in(runtime, AMBER, CAFE).values():
            details = {**run.details, "source_total": 162_179, "newest_reply_id": 9_000_001}
            runtime.ledger.record(run.id, details=details)
    result = dagster.run(BIRCHWOOD, BIRCHWOOD)
    (evaluation,) = evaluations(result)
    assert not evaluation.passed
    assert evaluation.metadata["partitions that differ"].value == f"{AMBER}, {CAFE}"


def test_retention_forgets_values_and_the_run_cannot_be_undone_any_more(dagster: Dagster, agency: Agency) -> None:
    loaded = dagster.run(DOVETAIL, DOVETAIL)
    written = agency.written()
    values = "SELECT 1 FROM backfill.change WHERE after IS NOT NULL OR before IS NOT NULL"
    assert dagster.maintain("retention", "apply_retention", days=3).success
    assert agency.query(values)
    agency.execute(
        "UPDATE backfill.run SET started_at = now() - interval '4 days', planned_at = now() - interval '4 days'"
    )
    assert dagster.maintain("retention", "apply_retention").success
    assert agency.query(values)
    assert dagster.maintain("retention", "apply_retention", days=3).success
    assert not agency.query(values)
    assert not agency.query("SELECT 1 FROM backfill.bison_lead")
    dagster.maintain("undo", "undo_run", run_id=loaded.run_id, dry_run=False)
    assert agency.written() == written
