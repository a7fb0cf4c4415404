"""What holds for every plan of `client_leads`, whatever stands in the source and in the table."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backfill_pipelines.backfills.client_leads_grouping import Workspace
from backfill_pipelines.backfills.client_leads_plan import FILLED_WHEN_EMPTY, MOVED_WITH_THE_REPLY, WRITTEN, compare
from backfill_pipelines.engine.email_address import comparison_key
from backfill_pipelines_tests.backfills.planned_table import (
    ELSEWHERE,
    INSTANCE,
    OURS,
    Row,
    applied,
    broken_keys,
    existing,
    lead,
    own_rows,
    plan,
    reply,
    source_of,
    workspace,
)

# Few values, so that they meet: the same people in every spelling, ids that others hold, dates that tie.
SPELLINGS = st.sampled_from(
    [
        "ann@example.com",
        "ANN@example.com",
        "  Ann@Example.com ",
        "\ufeffann@example.com\u00a0",
        "bo@example.com",
        "Bo@example.com\t",
        "jürgen@example.com",
        "JÜRGEN@EXAMPLE.COM",
        "İpek@example.com",
        "not-an-address",
        " Not-An-Address",
        "",
        None,
    ]
)
IDS = st.integers(1, 9)
TIMES = st.none() | st.sampled_from([0.0, 1_000_000.0, 1_700_000_000_123_456.0, -5.0])
TEXTS = st.sampled_from([None, "", "  ", "Ann", "王 明珠", "\x01", "(205) 555-0101", "call me"])

REPLIES = st.lists(
    st.builds(
        reply,
        IDS,
        lead_id=st.none() | st.integers(1, 4),
        known=st.booleans(),
        date_received=TIMES,
        from_name=TEXTS,
        from_email_address=SPELLINGS,
    ),
    unique_by=lambda row: row["reply_id"],
    max_size=8,
)
LEADS = st.lists(
    st.builds(
        lead,
        st.integers(1, 4),
        SPELLINGS,
        known=st.booleans(),
        first_name=TEXTS,
        last_name=TEXTS,
        company=TEXTS,
        phone=TEXTS,
    ),
    unique_by=lambda row: row["lead_id"],
    max_size=4,
)
ROWS = st.builds(
    existing,
    st.uuids().map(str),
    SPELLINGS,
    workspace_name=st.sampled_from([OURS, OURS, OURS, "Quarry Lane"]),
    first_name=TEXTS,
    last_name=TEXTS,
    company=TEXTS,
    phone=TEXTS,
    interested=st.sampled_from([True, False, None]),
    interested_at=TIMES,
    date_received=TIMES,
    bison_reply_id=st.none() | IDS,
    bison_lead_id=st.none() | IDS,
    bison_campaign_id=st.none() | IDS,
    bison_instance=st.sampled_from([INSTANCE, INSTANCE, ELSEWHERE, None]),
    bison_workspace_id=st.none() | IDS,
    deleted_at=st.sampled_from([None, None, 1.0]),
)


@dataclass(frozen=True)
class World:
    replies: list[Row]
    leads: list[Row]
    table: list[Row]
    of: Workspace

    def plan(self) -> list[Row]:
        return plan(self.replies, self.leads, self.table, of=self.of)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    of = workspace(reply_ids_unique_alone=draw(st.booleans()), accepts_unknown=draw(st.booleans()))
    table: list[Row] = []
    for row in draw(st.lists(ROWS, max_size=7)):
        if not broken_keys([*table, row], of=of):
            table.append(row)
    return World(draw(REPLIES), draw(LEADS), table, of)


each_world = given(world=worlds())
often = settings(max_examples=40, deadline=None)


@often
@each_world
def test_a_plan_applied_leaves_nothing_to_do(world: World) -> None:
    planned = world.plan()
    table = applied(world.table, planned)
    again = plan(world.replies, world.leads, table, of=world.of)
    assert {row["action"] for row in again} <= {"skip", "conflict", "reject"}
    assert [row for row in again if row["action"] in ("conflict", "reject")] == [
        row for row in planned if row["action"] in ("conflict", "reject")
    ]


@often
@each_world
def test_no_plan_breaks_a_unique_key(world: World) -> None:
    assert broken_keys(applied(world.table, world.plan()), of=world.of) == []


@often
@given(world=worlds(), seed=st.integers(0, 99))
def test_a_plan_does_not_depend_on_the_order_of_any_rows(world: World, seed: int) -> None:
    def shuffled(rows: list[Row]) -> list[Row]:
        return random.Random(seed).sample(rows, len(rows))

    other = World(shuffled(world.replies), shuffled(world.leads), shuffled(world.table), world.of)
    assert other.plan() == world.plan()


@often
@each_world
def test_there_is_one_plan_row_for_each_lead_and_each_bad_address(world: World) -> None:
    planned = world.plan()
    keys = [row["record_key"] for row in planned]
    assert len(set(keys)) == len(keys)
    leads = [row["record_key"] for row in planned if row["action"] != "reject"]
    assert leads == sorted(leads)
    rejected = {row["record_key"] for row in planned if row["reason"] == "invalid_email"}
    assert rejected <= {"not-an-address", "(no address)"}
    unknown = {f"reply {row['reply_id']}" for row in world.replies if not row["known"]}
    stopped = {row["record_key"] for row in planned if row["reason"] == "unknown_campaign"}
    assert stopped == (set() if world.of.accepts_unknown else unknown)


@often
@each_world
def test_what_people_own_and_what_is_not_the_clients_never_changes(world: World) -> None:
    before = {row["id"]: row for row in world.table}
    for row in applied(world.table, world.plan()):
        if row["id"] not in before:
            continue
        changed = {name for name, value in row.items() if value != before[row["id"]][name]}
        assert changed <= set(WRITTEN) - {"workspace_name", "lead_email"}
        if changed:
            assert row["workspace_name"] == OURS
            assert row["deleted_at"] is None
            assert comparison_key(row["lead_email"]) is not None


@often
@each_world
def test_a_deleted_lead_does_not_come_back(world: World) -> None:
    tombstones = {comparison_key(row["lead_email"]) for row in world.table if row["deleted_at"] and _is_ours(row)}
    living = {comparison_key(row["lead_email"]) for row in world.table if not row["deleted_at"] and _is_ours(row)}
    for row in world.plan():
        if row["record_key"] in tombstones - living - {None}:
            assert (row["action"], row["reason"]) in {("skip", "tombstoned"), ("reject", "invalid_email")}


@often
@each_world
def test_every_column_moves_in_its_own_direction_only(world: World) -> None:
    leads = {each.key: each for each in source_of(world.replies, world.leads, of=world.of).leads}
    before = {row["id"]: row for row in world.table}
    after = {row["id"]: row for row in applied(world.table, world.plan())}
    for each in world.plan():
        if each["action"] != "update":
            continue
        old, new, source = before[each["before"]["id"]], after[each["before"]["id"]], leads[each["record_key"]]
        assert all((old[name] or "").strip() == "" for name in FILLED_WHEN_EMPTY if new[name] != old[name])
        assert new["interested"] is True
        if new["interested_at"] != old["interested_at"]:
            assert old["interested_at"] is None or new["interested_at"] < old["interested_at"]
        if any(new[name] != old[name] for name in MOVED_WITH_THE_REPLY):
            assert old["bison_reply_id"] is None or new["bison_reply_id"] > old["bison_reply_id"]
            assert new == {**new, **_reply_of(source)}


@often
@each_world
def test_a_create_holds_every_column_and_only_what_the_source_says(world: World) -> None:
    leads = {each.key: each for each in source_of(world.replies, world.leads, of=world.of).leads}
    for each in world.plan():
        if each["action"] == "create":
            assert set(each["after"]) == set(WRITTEN)
            assert comparison_key(each["after"]["lead_email"]) == each["record_key"]
            assert each["after"]["bison_reply_id"] == leads[each["record_key"]].reply_id


@often
@each_world
def test_verification_after_a_load_finds_nothing_missing_and_nothing_different(world: World) -> None:
    planned = world.plan()
    left_alone = {row["record_key"] for row in planned if row["action"] in ("conflict", "reject")}
    source = source_of(world.replies, world.leads, of=world.of)
    found = compare(source, [own_rows(applied(world.table, planned))], workspace=world.of, left_alone=left_alone)
    assert (found.missing, found.different) == ([], [])
    assert found.equal + found.explained == len(source.leads)


@pytest.mark.parametrize("value", [float("inf"), 1e19, -1e19])
def test_a_year_that_no_calendar_has_stops_nobody_else(value: float) -> None:
    table = [existing("1", "ann@example.com", interested_at=value), existing("2", "bo@example.com")]
    replies = [reply(1, from_email_address="ann@example.com"), reply(2, from_email_address="bo@example.com")]
    actions = {row["record_key"]: row["action"] for row in plan(replies, [], table, of=workspace())}
    assert actions == {"ann@example.com": "update", "bo@example.com": "update"}


def _is_ours(row: Row) -> bool:
    return bool(row["workspace_name"] == OURS)


def _reply_of(source: Any) -> Row:
    return {
        "date_received": source.date_received,
        "bison_reply_id": source.reply_id,
        "bison_lead_id": source.lead_id,
        "bison_campaign_id": source.campaign_id,
        "bison_instance": INSTANCE,
        "bison_workspace_id": 17,
    }
