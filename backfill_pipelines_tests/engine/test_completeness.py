"""How complete records were and are: its one form among a run's details, its table, and what Dagster shows of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine

from backfill_pipelines.command_line.output import completeness_table, figures
from backfill_pipelines.engine.backfill import Plan, Scope
from backfill_pipelines.engine.completeness import COMPLETENESS, Completeness, completeness_of, shares
from backfill_pipelines.engine.ledger import Run
from backfill_pipelines.engine.runtime import Runtime
from backfill_pipelines.registry import load_registry
from backfill_pipelines_tests.engine.dagster_rig import RehearsedBackfill, Rig, metadata_of, registry_document

KNOWN = Completeness(
    records=8, before={"phone": 0.25, "email": 1.0, "name": 0.0}, after={"phone": 0.625, "email": 1.0, "name": 0.0049}
)
TABLE = (
    "| share of records with | before → after |\n|:---|---:|\n"
    "| phone | 25.0% → 62.5% |\n| email | 100.0% → 100.0% |\n| name | 0.0% → 0.5% |"
)

field_names = st.text(st.characters(categories=("Ll", "Pc")), min_size=1, max_size=12)


@st.composite
def counted(draw: st.DrawFn) -> tuple[dict[str, int], int]:
    """How many of so many records have each field."""
    of = draw(st.integers(0, 5_000_000))
    return draw(st.dictionaries(field_names, st.integers(0, of), max_size=6)), of


# --- shares ----------------------------------------------------------------------------------------------------------


@given(counted())
def test_a_share_is_within_0_and_1_and_as_near_as_a_hundredth_of_a_per_cent(given_: tuple[dict[str, int], int]) -> None:
    counts, of = given_
    found = shares(counts, of=of)
    assert list(found) == list(counts)
    for name, share in found.items():
        assert 0 <= share <= 1
        assert abs(share * of - counts[name]) <= of * 0.000_05 + 1e-6
        assert (counts[name] == 0) <= (share == 0)
        assert (counts[name] == of > 0) <= (share == 1)


@given(counted(), st.data())
def test_what_more_records_have_is_no_smaller_share(given_: tuple[dict[str, int], int], data: st.DataObject) -> None:
    counts, of = given_
    more = {name: data.draw(st.integers(count, of)) for name, count in counts.items()}
    before, after = shares(counts, of=of), shares(more, of=of)
    assert all(before[name] <= after[name] for name in counts)


def test_where_there_are_no_records_none_has_anything() -> None:
    assert shares({"phone": 0, "email": 0}, of=0) == {"phone": 0.0, "email": 0.0}


# --- among a run's details -------------------------------------------------------------------------------------------


@given(counted(), counted())
def test_what_details_tell_comes_back_from_the_ledger_as_it_was(
    before: tuple[dict[str, int], int], after: tuple[dict[str, int], int]
) -> None:
    told = Completeness(records=before[1], before=shares(before[0], of=before[1]), after=shares(after[0], of=after[1]))
    stored = json.loads(json.dumps({"pages": 3, **told.as_details()}))
    assert completeness_of(stored) == told


def test_details_that_do_not_tell_of_it_are_none() -> None:
    assert completeness_of({}) is None
    assert completeness_of({"pages": 3}) is None


@given(counted(), st.data())
def test_every_field_is_shown_to_a_tenth_of_a_per_cent(given_: tuple[dict[str, int], int], data: st.DataObject) -> None:
    counts, of = given_
    more = {name: data.draw(st.integers(count, of)) for name, count in counts.items()}
    shown = Completeness(records=of, before=shares(counts, of=of), after=shares(more, of=of)).changes()
    assert shown.keys() == counts.keys()
    for change in shown.values():
        before, after = (float(each.removesuffix("%")) for each in change.split(" → "))
        assert 0 <= before <= after <= 100


# --- what Dagster and a terminal show of it --------------------------------------------------------------------------


class CountedBackfill(RehearsedBackfill):
    """Tells how complete the records of one of its partitions are."""

    def plan(self, scope: Scope) -> Plan:
        if scope.partition_key == "amber":
            scope.details |= KNOWN.as_details()
        return super().plan(scope)


@pytest.fixture
def rig(emptied: sqlalchemy.Engine, tmp_path: Path) -> Iterator[Rig]:
    path = tmp_path / "clients.yaml"
    path.write_text(registry_document(["amber", "birch"]), encoding="utf-8")
    # An engine of its own: closing a runtime disposes of its engine.
    with (
        Runtime(registry=load_registry(path, environ={}), engine=create_engine(emptied.url)) as runtime,
        dg.DagsterInstance.ephemeral() as instance,
    ):
        instance.add_dynamic_partitions(RehearsedBackfill.name, ["amber", "birch"])
        yield Rig(backfill=CountedBackfill(), runtime=runtime, instance=instance)


def newest(rig: Rig) -> dict[str, Run]:
    return {run.partition_key: run for run in rig.runtime.ledger.newest_runs("rehearsed")}


def table_of(metadata: dict[str, Any]) -> set[str]:
    """The table's lines; the ledger keeps the fields in an order of its own."""
    return set(metadata[COMPLETENESS].splitlines())


def test_dagster_shows_a_table_at_the_plan_and_at_the_target_of_a_partition_that_tells(rig: Rig) -> None:
    result = rig.run("amber", "birch")
    assert result.success
    for asset in ("plan", "target"):
        shown = metadata_of(result, asset, "amber")
        assert shown[COMPLETENESS].splitlines()[:2] == TABLE.splitlines()[:2]
        assert table_of(shown) == set(TABLE.splitlines())
        assert COMPLETENESS not in metadata_of(result, asset, "birch"), "who does not tell has none"
    source = metadata_of(result, "source", "amber")
    assert COMPLETENESS not in source
    assert source["details"][COMPLETENESS] == KNOWN.as_details()[COMPLETENESS]


def test_a_dry_run_shows_it_at_the_plan(rig: Rig) -> None:
    dry = rig.run("amber", assets=rig.assets[:2])
    assert table_of(metadata_of(dry, "plan", "amber")) == set(TABLE.splitlines())


def test_at_a_terminal_it_is_a_table_and_no_figure(rig: Rig) -> None:
    rig.run("amber", "birch")
    runs = newest(rig)
    assert completeness_table([runs["birch"]]) is None
    table = completeness_table([runs["birch"], runs["amber"]])
    assert table is not None
    columns = {str(column.header): [*column.cells] for column in table.columns}
    assert columns == {
        "partition": ["amber"],
        "records": ["8"],
        "phone": ["25.0% → 62.5%"],
        "email": ["100.0% → 100.0%"],
        "name": ["0.0% → 0.5%"],
    }
    assert figures([runs["amber"]]) == "pages 3"


def test_a_field_that_only_some_partitions_tell_of_is_empty_for_the_others(rig: Rig) -> None:
    rig.run("amber")
    amber = newest(rig)["amber"]
    other = replace(amber, partition_key="dove", details=Completeness(records=1, before={}, after={}).as_details())
    table = completeness_table([amber, other])
    assert table is not None
    assert [[*column.cells][1] for column in table.columns] == ["dove", "1", "", "", ""]
