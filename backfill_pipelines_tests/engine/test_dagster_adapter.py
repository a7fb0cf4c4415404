"""A backfill as Dagster sees it: partitions in a run, what is materialized, what fails, and what a retry does again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine, text

from backfill_pipelines.definitions import build_defs
from backfill_pipelines.engine import partition_run
from backfill_pipelines.engine.dagster_adapter import range_tags, ranges, sync_partitions
from backfill_pipelines.engine.ledger import State
from backfill_pipelines.engine.runtime import Runtime
from backfill_pipelines.errors import ConfigurationError, DataError, ParkedError
from backfill_pipelines.registry import load_registry
from backfill_pipelines_tests.engine.dagster_rig import (
    CANARY,
    RehearsedBackfill,
    Rig,
    evaluations,
    everything_told,
    failure_of,
    materialized,
    metadata_of,
    registry_document,
    told,
)
from backfill_pipelines_tests.engine.waiting import wait_until

KEYS = ["amber", "birch", "cedar", "dove"]
FAILED = DataError("foreign_rows", "Two replies belong to another client; look at the ledger.")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition_run, "RETRY_DELAYS", (0.0, 0.0))


@pytest.fixture
def runtime(emptied: sqlalchemy.Engine, tmp_path: Path) -> Iterator[Runtime]:
    (tmp_path / "clients.yaml").write_text(registry_document(KEYS), encoding="utf-8")
    registry = load_registry(tmp_path / "clients.yaml", environ={})
    # An engine of its own: closing a runtime disposes of its engine.
    with Runtime(registry=registry, engine=create_engine(emptied.url)) as opened:
        yield opened


@pytest.fixture
def rig(runtime: Runtime) -> Iterator[Rig]:
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(RehearsedBackfill.name, KEYS)
        yield Rig(backfill=RehearsedBackfill(), runtime=runtime, instance=instance)


@pytest.fixture
def kept(runtime: Runtime, tmp_path: Path) -> Iterator[Rig]:
    """The same with an instance on disk: a schedule reads no other."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        instance.add_dynamic_partitions(RehearsedBackfill.name, KEYS)
        yield Rig(backfill=RehearsedBackfill(), runtime=runtime, instance=instance)


# --- runs of partitions ----------------------------------------------------------------------------------------------


@given(
    ordered=st.lists(st.integers(0, 40).map(str), unique=True, max_size=40),
    chosen=st.sets(st.integers(0, 40).map(str)),
    size=st.integers(1, 8),
)
def test_ranges_cover_exactly_what_is_wanted_in_as_few_contiguous_runs_as_the_size_allows(
    ordered: list[str], chosen: set[str], size: int
) -> None:
    batches = ranges(ordered, wanted=sorted(chosen), size=size)
    assert [key for batch in batches for key in batch] == [key for key in ordered if key in chosen]
    for batch in batches:
        start = ordered.index(batch[0])
        assert ordered[start : start + len(batch)] == batch
        assert 1 <= len(batch) <= size
    for one, following in pairwise(batches):
        assert len(one) == size or ordered.index(following[0]) > ordered.index(one[-1]) + 1


def test_a_range_run_works_its_partitions_and_no_other(rig: Rig) -> None:
    result = rig.run("birch", "cedar")
    assert result.success
    assert sorted(rig.backfill.extracted) == ["birch", "cedar"]
    assert materialized(result) == {asset: {"birch", "cedar"} for asset in ("source", "plan", "target")}


def test_a_failed_partition_is_named_and_the_others_are_materialized(rig: Rig) -> None:
    rig.backfill.failures["cedar"] = FAILED
    result = rig.run("amber", "dove")
    assert not result.success
    assert materialized(result) == {asset: {"amber", "birch", "dove"} for asset in ("source", "plan", "target")}
    failure = failure_of(result)
    assert failure.description == "1 of 4 partitions did not finish: cedar (foreign_rows)."
    assert {name: value.value for name, value in failure.metadata.items()} == {"cedar": FAILED.message}


def test_a_partition_is_materialized_when_it_is_done_and_not_when_its_run_is(rig: Rig) -> None:
    """A run that dies has finished what it has told: what waits for the end of the step would be lost."""
    target = rig.assets[2]

    def amber_is_there() -> bool:
        wanted = dg.AssetRecordsFilter(asset_key=target, asset_partitions=["amber"])
        return bool(rig.instance.fetch_materializations(wanted, limit=1).records)

    async def wait_for_amber(key: str) -> None:
        if key == "birch":
            await asyncio.to_thread(wait_until, amber_is_there)

    rig.backfill.before_extract = wait_for_amber
    assert rig.run("amber", "birch").success


def test_source_plan_and_target_are_told_in_that_order(rig: Rig) -> None:
    """Dagster calls a target out of date whose plan was materialized after it."""
    events = rig.run("amber").events
    keys = [each.asset_key for each in events if each.event_type is dg.DagsterEventType.ASSET_MATERIALIZATION]
    assert keys == list(rig.assets)


def test_a_parked_partition_fails_no_run_and_is_not_materialized(rig: Rig) -> None:
    wake_at = datetime(2030, 1, 1, tzinfo=UTC)
    rig.backfill.failures["birch"] = ParkedError("daily_budget_spent", "Goes on tomorrow.", wake_at=wake_at)
    result = rig.run("amber", "birch")
    assert result.success
    assert materialized(result)["target"] == {"amber"}
    (parked,) = (run for run in rig.runtime.ledger.newest_runs("rehearsed") if run.state is State.PARKED)
    assert (parked.partition_key, parked.parked_until) == ("birch", wake_at)


def test_a_partition_with_nothing_to_do_is_materialized_with_no_rows(rig: Rig) -> None:
    assert metadata_of(rig.run("amber"), "target", "amber")["rows"] == 2
    again = rig.run("amber")
    assert again.success
    assert metadata_of(again, "target", "amber")["rows"] == 0
    assert metadata_of(again, "plan", "amber")["rows"] == 0
    assert metadata_of(again, "source", "amber")["rows"] == 5


def test_a_materialization_shows_counts_reasons_and_source_against_target(rig: Rig) -> None:
    result = rig.run("amber")
    (run,) = rig.runtime.ledger.of_dagster_run(result.run_id)
    shown = metadata_of(result, "target", "amber")
    assert (shown["run_id"], shown["plan_hash"], shown["verified"]) == (str(run.id), run.plan_hash, True)
    assert "| source | 5 |\n| create | 2 |\n| update | 0 |" in shown["counts"]
    assert "| applied | 2 |\n| failed | 0 |" in shown["counts"]
    assert "| no_email | 1 |" in shown["reasons"]
    assert "| equal | 2 |\n| missing | 0 |" in shown["source vs target"]
    assert "| source leads | 2 |" in shown["source vs target"]
    assert metadata_of(result, "source", "amber")["details"] == {"pages": 3}
    assert "applied" not in metadata_of(result, "plan", "amber")["counts"]


# --- which of the three assets are selected --------------------------------------------------------------------------


def test_source_and_plan_alone_are_the_dry_run_and_the_target_alone_loads_that_plan(rig: Rig) -> None:
    source, plan, target = rig.assets
    dry = rig.run("amber", assets=[source, plan])
    assert dry.success
    assert materialized(dry) == {"source": {"amber"}, "plan": {"amber"}}
    assert (rig.backfill.loaded, evaluations(dry)) == ([], [])
    (planned,) = rig.runtime.ledger.of_dagster_run(dry.run_id)

    loaded = rig.run("amber", assets=[target])
    assert loaded.success
    assert rig.backfill.extracted == ["amber"]
    assert rig.backfill.loaded == [planned.id]
    assert materialized(loaded) == {"target": {"amber"}}
    assert metadata_of(loaded, "target", "amber")["rows"] == 2


def test_the_target_alone_without_a_plan_fails_and_says_so(rig: Rig) -> None:
    result = rig.run("amber", assets=[rig.assets[2]])
    assert failure_of(result).description == "1 of 1 partitions did not finish: amber (no_plan)."


def test_source_and_target_without_the_plan_between_them_are_refused(rig: Rig) -> None:
    result = rig.run("amber", assets=[rig.assets[0], rig.assets[2]])
    assert "select all three" in str(failure_of(result).description)
    assert rig.backfill.extracted == []


# --- the check -------------------------------------------------------------------------------------------------------


def test_the_check_is_evaluated_in_the_run_and_names_the_partitions_that_differ(rig: Rig) -> None:
    rig.backfill.differing = {"birch"}
    result = rig.run("amber", "cedar")
    assert result.success
    (evaluation,) = evaluations(result)
    assert not evaluation.passed
    assert evaluation.description == "2 of 3 partitions are equal."
    assert evaluation.metadata["partitions that differ"].value == "birch"
    assert (evaluation.metadata["equal"].value, evaluation.metadata["missing"].value) == (5, 1)
    assert "| birch | 1 | 1 | 0 | 0 | 0 |" in str(evaluation.metadata["partitions"].value)

    rig.backfill.differing = set()
    (repaired,) = evaluations(rig.run("birch"))
    assert repaired.passed
    assert repaired.description == "3 of 3 partitions are equal."


def test_the_check_is_evaluated_in_a_run_that_fails_too(rig: Rig) -> None:
    rig.backfill.failures["birch"] = FAILED
    result = rig.run("amber", "birch")
    assert not result.success
    assert [evaluation.passed for evaluation in evaluations(result)] == [True]


def test_two_partitions_that_answer_for_each_other_fail_the_check_whichever_finished_first(rig: Rig) -> None:
    rig.backfill.alike = {"amber": "same_as_other_workspace", "cedar": "same_as_other_workspace"}
    assert evaluations(rig.run("amber", "birch"))[0].metadata["partitions that differ"].value == "amber"
    (evaluation,) = evaluations(rig.run("cedar", "dove"))
    assert not evaluation.passed
    assert evaluation.metadata["partitions that differ"].value == "amber, cedar"
    warned = {run.partition_key: run.warnings for run in rig.runtime.ledger.newest_verifications("rehearsed")}
    assert warned == {
        "amber": ["same_as_other_workspace"], "birch": [], "cedar": ["same_as_other_workspace"], "dove": [],
    }  # fmt: skip


def test_the_check_alone_reads_what_is_stored_and_needs_no_partition(rig: Rig) -> None:
    rig.backfill.differing = {"amber"}
    rig.run("amber", "birch")
    rig.backfill.extracted.clear()
    key = dg.AssetCheckKey(rig.assets[2], "source_equals_target")
    selection = dg.AssetSelection.checks(key)
    job = dg.define_asset_job("check_alone", selection=selection)
    definitions = dg.Definitions.merge(rig.definitions, dg.Definitions(jobs=[job]))
    result = definitions.resolve_job_def("check_alone").execute_in_process(instance=rig.instance)
    (evaluation,) = evaluations(told(rig.instance, result))
    assert evaluation.metadata["partitions that differ"].value == "amber"
    assert rig.backfill.extracted == []


# --- again -----------------------------------------------------------------------------------------------------------


def test_a_retry_does_only_what_its_run_has_not_finished(rig: Rig) -> None:
    rig.backfill.failures["birch"] = FAILED
    first = rig.run("amber", "cedar")
    del rig.backfill.failures["birch"]
    rig.backfill.extracted.clear()
    again = rig.run_again(first.run_id, from_failure=True)
    assert again.success
    assert rig.backfill.extracted == ["birch"]
    assert materialized(again)["target"] == {"amber", "birch", "cedar"}


def test_a_retry_of_a_retry_still_counts_what_the_first_attempt_finished(rig: Rig) -> None:
    rig.backfill.failures["birch"] = FAILED
    first = rig.run("amber", "birch")
    second = rig.run_again(first.run_id, from_failure=True)
    del rig.backfill.failures["birch"]
    rig.backfill.extracted.clear()
    assert rig.run_again(second.run_id, from_failure=True).success
    assert rig.backfill.extracted == ["birch"]


def test_a_run_executed_again_from_the_start_does_everything_again(rig: Rig) -> None:
    first = rig.run("amber", "birch")
    rig.backfill.extracted.clear()
    assert rig.run_again(first.run_id, from_failure=False).success
    assert sorted(rig.backfill.extracted) == ["amber", "birch"]


def test_a_partition_at_work_elsewhere_is_refused_and_named(rig: Rig, emptied: sqlalchemy.Engine) -> None:
    with Runtime(registry=rig.runtime.registry, engine=create_engine(emptied.url)) as other:
        assert other.locks.try_acquire("backfill/rehearsed/birch")
        result = rig.run("amber", "birch")
    assert failure_of(result).description == "1 of 2 partitions did not finish: birch (already_running)."
    assert materialized(result)["target"] == {"amber"}


def test_a_runtime_that_cannot_be_opened_fails_the_run_with_its_one_sentence(rig: Rig) -> None:
    def unreachable(_: object) -> Runtime:
        raise ConfigurationError("database_unreachable", "Nothing answers at db.example.com:5432: check DATABASE_URL.")

    job = build_defs(backfills=[rig.backfill], open_runtime=unreachable).resolve_job_def("rehearsed_job")
    result = job.execute_in_process(instance=rig.instance, tags=range_tags(["amber"]), raise_on_error=False)
    failure = failure_of(told(rig.instance, result))
    assert failure.description == "Nothing answers at db.example.com:5432: check DATABASE_URL."
    assert failure.metadata["code"].value == "database_unreachable"


# --- what starts by itself -------------------------------------------------------------------------------------------


def test_the_sensor_adds_what_the_registry_has_and_never_removes(rig: Rig) -> None:
    sensor, _ = rig.definitions.sensors or []
    assert isinstance(sensor, dg.SensorDefinition)
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("rehearsed", ["gone-from-the-registry", "cedar"])
        context = dg.build_sensor_context(instance=instance, definitions=rig.definitions)
        answer = sensor(context)
        assert isinstance(answer, dg.SensorResult)
        (request,) = answer.dynamic_partitions_requests or []
        assert isinstance(request, dg.AddDynamicPartitionsRequest)
        assert list(request.partition_keys) == ["amber", "birch", "dove"]
        instance.add_dynamic_partitions("rehearsed", request.partition_keys)
        assert isinstance(sensor(context), dg.SkipReason)


def test_the_sensor_skips_a_registry_that_it_cannot_read(rig: Rig) -> None:
    def unreadable(_: object) -> Runtime:
        raise ConfigurationError("invalid_registry", "clients.yaml, line 3: unknown key tokn.")

    definitions = build_defs(backfills=[rig.backfill], open_runtime=unreadable)
    sensor, _ = definitions.sensors or []
    assert isinstance(sensor, dg.SensorDefinition)
    answer = sensor(dg.build_sensor_context(instance=rig.instance, definitions=definitions))
    assert isinstance(answer, dg.SkipReason)
    assert answer.skip_message == "clients.yaml, line 3: unknown key tokn."
    assert rig.instance.get_dynamic_partitions("rehearsed") == KEYS


def test_the_command_line_adds_partitions_in_the_same_way(rig: Rig) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("rehearsed", ["gone-from-the-registry"])
        assert sync_partitions(instance, rig.backfill, rig.runtime.registry) == KEYS
        assert sync_partitions(instance, rig.backfill, rig.runtime.registry) == []
        assert instance.get_dynamic_partitions("rehearsed") == ["gone-from-the-registry", *KEYS]


def test_the_schedule_asks_for_every_partition_in_runs_that_work(kept: Rig) -> None:
    rig, rig.maximum = kept, 3
    (schedule,) = rig.definitions.schedules or []
    assert isinstance(schedule, dg.ScheduleDefinition)
    due = datetime(2026, 3, 1, 3, tzinfo=UTC)
    tick = schedule.evaluate_tick(
        dg.build_schedule_context(
            instance=rig.instance, scheduled_execution_time=due, repository_def=rig.definitions.get_repository_def()
        )
    )
    for request in tick.run_requests or []:
        job = rig.definitions.resolve_job_def(request.job_name or schedule.job_name)
        assert job.execute_in_process(instance=rig.instance, tags=request.tags).success
    assert len(tick.run_requests or []) == 2
    assert sorted(rig.backfill.extracted) == KEYS


def test_the_schedule_skips_while_there_is_no_partition(kept: Rig) -> None:
    (schedule,) = kept.definitions.schedules or []
    assert isinstance(schedule, dg.ScheduleDefinition)
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED
    for key in KEYS:
        kept.instance.delete_dynamic_partition("rehearsed", key)
    due = datetime(2026, 3, 1, 3, tzinfo=UTC)
    context = dg.build_schedule_context(instance=kept.instance, scheduled_execution_time=due)
    assert schedule.evaluate_tick(context).skip_message


# --- configuration and words -----------------------------------------------------------------------------------------


def test_an_option_is_handed_to_the_backfill_and_an_unknown_one_is_refused(rig: Rig) -> None:
    assert rig.run("amber", config={"max_records": 1}).success
    assert rig.backfill.loaded
    assert metadata_of(rig.run("birch", config={"max_records": 1}), "target", "birch")["rows"] == 1
    with pytest.raises(dg.DagsterInvalidConfigError):
        rig.run("amber", config={"max_record": 1})


def test_nothing_of_a_record_is_told_to_dagster(
    rig: Rig, caplog: pytest.LogCaptureFixture, emptied: sqlalchemy.Engine
) -> None:
    rig.backfill.failures = {"cedar": ValueError(CANARY), "dove": FAILED}
    with caplog.at_level(logging.DEBUG):
        rig.run("amber", "dove")
        rig.run("amber", assets=list(rig.assets[:2]))
        rig.run("dove", assets=[rig.assets[2]])
    with emptied.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM backfill.change WHERE record_key LIKE 'canary%'"))
    everything = [*everything_told(rig.instance), caplog.text]
    assert any("foreign_rows" in each for each in everything)
    assert not [each for each in everything if "canary" in each]
