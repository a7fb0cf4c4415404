"""Partitions that were parked are launched again when their time has come: once each, as they were asked for."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy
from sqlalchemy import create_engine, text

from backfill_pipelines.definitions import build_defs
from backfill_pipelines.engine import partition_run
from backfill_pipelines.engine.dagster_adapter import job_name
from backfill_pipelines.engine.runtime import Runtime
from backfill_pipelines.errors import ConfigurationError, ParkedError
from backfill_pipelines.registry import load_registry
from backfill_pipelines_tests.engine.dagster_rig import RehearsedBackfill, Rig, registry_document, told

KEYS = ["amber", "birch", "cedar"]


@pytest.fixture
def rig(emptied: sqlalchemy.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(partition_run, "RETRY_DELAYS", (0.0, 0.0))
    (tmp_path / "clients.yaml").write_text(registry_document(KEYS), encoding="utf-8")
    registry = load_registry(tmp_path / "clients.yaml", environ={})
    with (
        Runtime(registry=registry, engine=create_engine(emptied.url)) as runtime,
        dg.DagsterInstance.ephemeral() as instance,
    ):
        instance.add_dynamic_partitions(RehearsedBackfill.name, KEYS)
        yield Rig(backfill=RehearsedBackfill(), runtime=runtime, instance=instance)


def sensor_of(definitions: dg.Definitions) -> dg.SensorDefinition:
    (found,) = [each for each in definitions.sensors or [] if each.name == "parked_partitions"]
    assert isinstance(found, dg.SensorDefinition)
    return found


def asked(rig: Rig) -> list[dg.RunRequest]:
    """What the sensor asks for at this moment."""
    definitions = rig.definitions
    tick = sensor_of(definitions).evaluate_tick(dg.build_sensor_context(instance=rig.instance, definitions=definitions))
    assert tick.run_requests or tick.skip_message
    return list(tick.run_requests or [])


def park(rig: Rig, *keys: str, hours: float, assets: Any = None, config: dict[str, Any] | None = None) -> None:
    """Let partitions spend their day; it is renewed in so many hours."""
    wake_at = datetime.now(UTC) + timedelta(hours=hours)
    for key in keys:
        rig.backfill.failures[key] = ParkedError("daily_budget_spent", "Spent.", wake_at=wake_at)
        assert rig.run(key, assets=assets, config=config).success
        del rig.backfill.failures[key]


def launch(rig: Rig, request: dg.RunRequest) -> None:
    """What the daemon makes of a request."""
    result = rig.definitions.resolve_job_def(job_name(rig.backfill)).execute_in_process(
        instance=rig.instance,
        tags=request.tags,
        run_config=request.run_config,
        asset_selection=list(request.asset_selection or []),
        raise_on_error=False,
    )
    assert told(rig.instance, result).success


def states(rig: Rig) -> dict[str, list[str]]:
    with rig.runtime.engine.connect() as connection:
        rows = connection.execute(text("SELECT partition_key, state FROM backfill.run ORDER BY 1, started_at")).all()
    return {key: [row.state for row in rows if row.partition_key == key] for key in {row.partition_key for row in rows}}


def test_it_runs_unless_somebody_stops_it(rig: Rig) -> None:
    assert sensor_of(rig.definitions).default_status is dg.DefaultSensorStatus.RUNNING


def test_a_partition_is_launched_when_its_time_has_come_and_not_before(rig: Rig) -> None:
    park(rig, "amber", hours=1)
    assert asked(rig) == []
    park(rig, "birch", "cedar", hours=-1)
    requests = asked(rig)
    assert len(requests) == len({request.run_key for request in requests}) == 2
    for request in requests:
        launch(rig, request)
    assert states(rig) == {"amber": ["parked"], "birch": ["succeeded"], "cedar": ["succeeded"]}, "the same runs"
    assert asked(rig) == []


def test_until_it_runs_it_is_one_and_the_same_request(rig: Rig) -> None:
    """Dagster launches no key twice: a run that waits in the queue is not asked for again."""
    park(rig, "amber", hours=-1)
    (first,), (second,) = asked(rig), asked(rig)
    assert first.run_key == second.run_key
    park(rig, "amber", hours=-0.5)
    (again,) = asked(rig)
    assert again.run_key != first.run_key, "parked once more, it is to be launched once more"


def test_a_run_goes_on_as_it_was_asked_for(rig: Rig) -> None:
    park(rig, "amber", hours=-1, assets=rig.assets[:2])
    park(rig, "birch", hours=-1, config={"max_records": 1, "fresh": True})
    requests = {
        request.partition_key or request.tags["dagster/asset_partition_range_start"]: request for request in asked(rig)
    }
    for request in requests.values():
        launch(rig, request)
    assert requests["birch"].run_config == {"ops": {"rehearsed": {"config": {"max_records": 1}}}}
    (birch,) = (run for run in rig.runtime.ledger.newest_runs("rehearsed") if run.partition_key == "birch")
    assert (birch.counts["create"], birch.counts["applied"]) == (2, 1)
    (amber,) = (run for run in rig.runtime.ledger.newest_runs("rehearsed") if run.partition_key == "amber")
    assert (amber.mode, amber.state, rig.backfill.loaded) == ("plan", "succeeded", [birch.id])


def test_what_somebody_has_run_since_is_left_alone(rig: Rig) -> None:
    park(rig, "amber", hours=-1)
    assert rig.run("amber").success
    assert asked(rig) == []


def test_a_partition_that_is_no_longer_there_is_not_launched(rig: Rig) -> None:
    park(rig, "amber", hours=-1)
    rig.instance.delete_dynamic_partition("rehearsed", "amber")
    assert asked(rig) == []


def test_a_registry_that_cannot_be_read_is_told(rig: Rig) -> None:
    def unreadable(_: object) -> Runtime:
        raise ConfigurationError("invalid_registry", "clients.yaml, line 3: unknown key tokn.")

    definitions = build_defs(backfills=[rig.backfill], open_runtime=unreadable)
    context = dg.build_sensor_context(instance=rig.instance, definitions=definitions)
    assert sensor_of(definitions).evaluate_tick(context).skip_message == "clients.yaml, line 3: unknown key tokn."
