"""What holds for every merge and split, and for every plan after one, in small worlds where everything collides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson
import pandas as pd
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from backfill_pipelines.backfills.customers_identity import IdentityRules, LeadColumns
from backfill_pipelines.backfills.customers_manual import (
    PlanRow,
    StandingCustomer,
    new_customer,
    plan_merge,
    plan_split,
    split_keys,
    split_values,
)
from backfill_pipelines_tests.backfills.customers_reference import Rules
from backfill_pipelines_tests.backfills.customers_worlds import CLIENT, FIELDS, Row, World, customer, job, lead

PSIDS = st.sampled_from([None, None, "p1", "p2"])
PHONES = st.sampled_from([None, None, "(205) 555-0101", "+1 205.555.0101", "2055550102", "1-205-555-0103"])
EMAILS = st.sampled_from([None, None, "a@example.com", " A@Example.com", "b@example.com", "info@example.com"])
RULES = Rules(blocked_local_parts=("info",))

often = settings(max_examples=50, deadline=None)


@st.composite
def some_leads(draw: st.DrawFn, prefix: str, *, least: int) -> list[Row]:
    return [
        lead(
            f"{prefix}{number}",
            psid=draw(PSIDS),
            phone=draw(PHONES),
            email=draw(EMAILS),
            first_name=draw(st.sampled_from([None, "Ann", "Bo"])),
            created_at=draw(st.integers(0, 3)),
        )
        for number in range(draw(st.integers(least, 7)))
    ]


@st.composite
def linked_worlds(draw: st.DrawFn) -> World:
    """A client after a run: every lead has its customer."""
    leads = draw(some_leads("l", least=2))
    jobs = [job(f"j{number}", draw(st.sampled_from(leads))["id"]) for number in range(draw(st.integers(0, 3)))]
    world = World(leads=leads, jobs=jobs, rules=RULES)
    return world.after(world.plan())


def standing(world: World, identifier: str) -> StandingCustomer:
    (row,) = (row for row in world.customers if row["id"] == identifier)
    return StandingCustomer(
        id=identifier,
        client_id=CLIENT,
        fields={name: row[name] for name in FIELDS},
        ours=row["ours"],
        lead_count=row["lead_count"],
        updated_at=row["updated_at"],
        document=orjson.dumps(row).decode(),
        leads={row["id"]: row["updated_at"] for row in world.leads if row["customer_id"] == identifier},
        split_off=[each for each, home in world.split.items() if home == identifier],
    )


def carried_out(world: World, rows: Sequence[PlanRow]) -> World:
    """The world once the rows are written; fails where one has not seen what is there."""
    tables = {
        "Customer": {row["id"]: dict(row) for row in world.customers},
        "Lead": {row["id"]: dict(row) for row in world.leads},
        "Job": {row["id"]: dict(row) for row in world.jobs},
    }
    merged, split_off = dict(world.merged), dict(world.split)
    # As the target does: a customer is filled when the one it is filled from is gone.
    for target, key, action, _, before_text, after_text in sorted(
        rows, key=lambda row: "merged_from" in (row[5] or "")
    ):
        before, after = (orjson.loads(text) if text else {} for text in (before_text, after_text))
        if action == "create":
            values = {"psid" if name == "messenger_psid" else name: after[name] for name in FIELDS}
            tables[target][key] = customer(key, ours=True, lead_count=after["metadata"]["leadCount"], **values)
        elif "merged_into" in after:
            assert before["row"] == tables[target].pop(key)
            merged[key] = after["merged_into"]
        elif action == "update":
            assert after.pop("merged_from", None) not in tables["Customer"]
            if after.pop("split", False):
                split_off[key] = after["customer_id"]
            assert all(tables[target][key][name] == before[name] for name in after)
            tables[target][key].update(after)
    return replace(
        world,
        leads=list(tables["Lead"].values()),
        customers=list(tables["Customer"].values()),
        jobs=list(tables["Job"].values()),
        merged=merged,
        split=split_off,
    )


def merged_world(world: World, into: str, gone: str) -> World:
    jobs = {row["id"]: True for row in world.jobs if row["customer_id"] == gone}
    rows = plan_merge(standing(world, into), standing(world, gone), jobs=jobs, is_free=True, unique={"phone"})
    return carried_out(world, rows)


def split_world(world: World, identifier: str, chosen: Sequence[str]) -> tuple[World, str]:
    old = standing(world, identifier)
    columns = LeadColumns(IdentityRules(region="US", blocked_local_parts=frozenset(RULES.blocked_local_parts)))
    columns.add(world_frames(world, identifier))
    held = {row[name] for row in world.customers for name in FIELDS if name != "name"}
    values = {
        name: [value for value in values if value not in held]
        for name, values in split_values(columns, chosen, old).items()
    }
    key = next(iter(split_keys(world.keys, chosen)))
    new = new_customer(columns, chosen, values, name=None, key=key)
    jobs = [row["id"] for row in world.jobs if row["customer_id"] == identifier and row["lead_id"] in chosen]
    return carried_out(world, plan_split(old, new, leads=chosen, jobs=jobs)), new.id


def world_frames(world: World, identifier: str) -> list[Any]:
    names = ("id", "messenger_psid", "phone", "email", "first_name", "last_name", "company_name", "customer_id")
    rows = [row for row in world.leads if row["customer_id"] == identifier]
    columns = [*names, "created_at", "updated_at"]
    return [pd.DataFrame([[row[name] for name in columns] for row in rows], columns=columns, dtype=object)]


def homes(world: World) -> dict[str, str]:
    return {row["id"]: row["customer_id"] for row in world.leads}


def is_sound(world: World) -> bool:
    """Every link leads to a customer, a job's to its lead's, our counts are right, no phone is there twice.

    A lead that comes later may be left alone: it may have something in common with two customers that are there.
    """
    linked = {each: home for each, home in homes(world).items() if home is not None}
    phones = [row["phone"] for row in world.customers if row["phone"]]
    counts = {row["id"]: row["lead_count"] for row in world.customers}
    return (
        set(linked.values()) <= counts.keys()
        and all(row["customer_id"] == linked.get(row["lead_id"]) for row in world.jobs)
        and all(list(linked.values()).count(each) == count for each, count in counts.items())
        and len(phones) == len(set(phones))
    )


@often
@given(world=linked_worlds(), newcomers=some_leads("n", least=0), data=st.data())
def test_no_later_plan_takes_a_merge_back(world: World, newcomers: list[Row], data: st.DataObject) -> None:
    identifiers = sorted(row["id"] for row in world.customers)
    assume(len(identifiers) > 1)
    into, gone = data.draw(st.permutations(identifiers))[:2]
    together = {each for each, home in homes(world).items() if home in (into, gone)}
    world = merged_world(world, into, gone)
    assert is_sound(world)
    assert {homes(world)[each] for each in together} == {into}
    assert list(world.plan().written()) == []

    grown = replace(world, leads=[*world.leads, *newcomers])
    later = grown.after(grown.plan())
    assert is_sound(later)
    assert homes(world).items() <= homes(later).items()
    assert gone not in {row["id"] for row in later.customers}


@often
@given(world=linked_worlds(), newcomers=some_leads("n", least=0), data=st.data())
def test_no_later_plan_takes_a_split_back(world: World, newcomers: list[Row], data: st.DataObject) -> None:
    of_many = sorted({home for home in homes(world).values() if list(homes(world).values()).count(home) > 1})
    assume(of_many)
    identifier = data.draw(st.sampled_from(of_many))
    own = sorted(each for each, home in homes(world).items() if home == identifier)
    chosen = data.draw(st.lists(st.sampled_from(own), unique=True, min_size=1, max_size=len(own) - 1))
    separate, new = split_world(world, identifier, chosen)
    assert is_sound(separate)
    assert {homes(separate)[each] for each in chosen} == {new}
    assert {homes(separate)[each] for each in own if each not in chosen} == {identifier}
    assert list(separate.plan().written()) == []

    grown = replace(separate, leads=[*separate.leads, *newcomers])
    later = grown.after(grown.plan())
    assert is_sound(later)
    assert homes(separate).items() <= homes(later).items()

    together = merged_world(separate, identifier, new)
    assert homes(together) == homes(world)
    assert list(together.plan().written()) == []


@often
@given(leads=some_leads("l", least=1), data=st.data())
def test_the_id_of_a_split_depends_on_its_leads_alone(leads: list[Row], data: st.DataObject) -> None:
    identifiers = [row["id"] for row in leads]
    keys = World(leads=leads).keys
    first, second = (key for key, _ in zip(split_keys(keys, identifiers), range(2), strict=False))
    assert next(iter(split_keys(keys, data.draw(st.permutations(identifiers))))) == first
    assert first[1] != second[1]
    assert next(iter(split_keys(keys, [*identifiers, "another"]))) != first
