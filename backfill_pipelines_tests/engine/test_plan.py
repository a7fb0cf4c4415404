"""A plan's hash and its rows in `backfill.change`."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pandas as pd
import pytest
import sqlalchemy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from backfill_pipelines.database.tables import change
from backfill_pipelines.engine.plan import Action, StoredPlan, plan_frame, store_plan

# What a JSON document in Postgres can hold: no NUL, no lone surrogates.
TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=8)
VALUES = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT
DOCUMENTS = st.none() | st.dictionaries(TEXT, VALUES, max_size=3)
REASONS = st.none() | st.sampled_from(["already_set", "no_email"])
STORED = st.tuples(
    st.just("t"), TEXT, st.sampled_from([Action.CREATE, Action.UPDATE, Action.CONFLICT, Action.REJECT]), REASONS,
    DOCUMENTS, DOCUMENTS,
)  # fmt: skip
SKIP = st.tuples(st.just("t"), TEXT, st.just(Action.SKIP), REASONS, st.none(), st.none())
ROWS = st.lists(STORED | SKIP, max_size=6)

Row = tuple[Any, ...]
quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def stored(engine: sqlalchemy.Engine, *frames: list[Row], store_skips: bool = False) -> StoredPlan:
    with engine.begin() as connection:
        return store_plan(
            connection, run_id=uuid4(), frames=[plan_frame(rows) for rows in frames], store_skips=store_skips
        )


def told(plan: StoredPlan) -> tuple[Any, ...]:
    return plan.plan_hash, plan.actions, plan.reasons


@quick
@given(rows=ROWS, cut=st.integers(0, 6))
def test_the_hash_knows_neither_run_nor_frames(emptied: sqlalchemy.Engine, rows: list[Row], cut: int) -> None:
    assert told(stored(emptied, rows)) == told(stored(emptied, rows[:cut], [], rows[cut:]))


@quick
@given(rows=st.lists(STORED, min_size=1, max_size=4), other=STORED, place=st.integers(0, 3))
def test_any_other_stored_row_makes_another_hash(
    emptied: sqlalchemy.Engine, rows: list[Row], other: Row, place: int
) -> None:
    changed = list(rows)
    changed[place % len(rows)] = other
    same = stored(emptied, rows).plan_hash == stored(emptied, changed).plan_hash
    assert same == (repr(rows) == repr(changed) or rows == changed)


@quick
@given(rows=st.lists(STORED, max_size=3), skips=st.lists(SKIP, max_size=3))
def test_skips_are_counted_and_neither_hashed_nor_stored(
    emptied: sqlalchemy.Engine, rows: list[Row], skips: list[Row]
) -> None:
    with_skips = stored(emptied, rows + skips)
    assert with_skips.plan_hash == stored(emptied, rows).plan_hash
    assert with_skips.actions.get(Action.SKIP, 0) == len(skips)


@quick
@given(rows=ROWS, store_skips=st.booleans())
def test_rows_are_stored_in_order_as_they_were_planned(
    emptied: sqlalchemy.Engine, rows: list[Row], store_skips: bool
) -> None:
    run_id = uuid4()
    with emptied.begin() as connection:
        store_plan(connection, run_id=run_id, frames=[plan_frame(rows)], store_skips=store_skips)
        found = connection.execute(select(change).where(change.c.run_id == run_id).order_by(change.c.seq)).all()
    expected = [row for row in rows if store_skips or row[2] != Action.SKIP]
    assert [row.seq for row in found] == list(range(len(expected)))
    assert [
        (row.target, row.record_key, row.action, row.reason, row.before, row.after) for row in found
    ] == expected  # fmt: skip
    assert all(row.state == "planned" for row in found)


@quick
@given(rows=ROWS, cut=st.integers(0, 6))
def test_rows_that_are_executed_as_they_are_stored_are_journalled_so_in_the_same_plan(
    emptied: sqlalchemy.Engine, rows: list[Row], cut: int
) -> None:
    run_id = uuid4()
    with emptied.begin() as connection:
        frames = [plan_frame(rows[:cut]), plan_frame(rows[cut:])]
        now = connection.scalar(select(sqlalchemy.func.now()))
        plan = store_plan(connection, run_id=run_id, frames=frames, applied_at=str(now))
        found = connection.execute(select(change).where(change.c.run_id == run_id).order_by(change.c.seq)).all()
    assert told(plan) == told(stored(emptied, rows))
    for row in found:
        executed = row.action in {Action.CREATE, Action.UPDATE}
        assert (row.state, row.applied_at) == (("applied", now) if executed else ("planned", None))


def test_the_order_of_keys_in_a_document_is_no_difference(emptied: sqlalchemy.Engine) -> None:
    one: Row = ("t", "k", Action.UPDATE, None, {"a": 1, "b": 2}, {"c": 3, "d": None})
    other: Row = ("t", "k", Action.UPDATE, None, {"b": 2, "a": 1}, {"d": None, "c": 3})
    assert stored(emptied, [one]) == stored(emptied, [other])


def test_a_value_in_before_is_not_the_same_as_one_in_after(emptied: sqlalchemy.Engine) -> None:
    before: Row = ("t", "k", Action.UPDATE, None, {"a": 1}, None)
    after: Row = ("t", "k", Action.UPDATE, None, None, {"a": 1})
    assert stored(emptied, [before]).plan_hash != stored(emptied, [after]).plan_hash


def test_a_plan_that_breaks_off_stores_nothing(emptied: sqlalchemy.Engine) -> None:
    def frames() -> Any:
        yield plan_frame([("t", "k", Action.CREATE, None, None, {"a": 1})])
        raise ValueError("half-way")

    run_id = uuid4()
    with pytest.raises(ValueError, match="half-way"), emptied.begin() as connection:
        store_plan(connection, run_id=run_id, frames=frames())
    with emptied.connect() as connection:
        assert connection.execute(select(change).where(change.c.run_id == run_id)).all() == []


def test_none_stays_none_in_a_frame() -> None:
    frame = plan_frame([("t", "k", Action.CREATE, None, None, {"a": 1}), ("t", "l", Action.SKIP, "x", None, None)])
    assert list(frame["reason"]) == [None, "x"]
    assert isinstance(frame, pd.DataFrame)
