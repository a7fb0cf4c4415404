"""What holds for every plan of `customers`, in small worlds where everything collides with everything."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from backfill_pipelines.backfills.customers_identity import FieldReader, IdentityRules
from backfill_pipelines.engine.email_address import normalise_email
from backfill_pipelines.sandbox.leads_and_jobs import SeededClient
from backfill_pipelines_tests.backfills.customers_random_worlds import (
    DANGLING,
    EMAILS,
    FOREIGN,
    NAMES,
    OUR_IDS,
    PEOPLE_IDS,
    PHONES,
    PSIDS,
    STORED_PHONES,
    random_world,
    with_a_past,
)
from backfill_pipelines_tests.backfills.customers_reference_fields import Rules, phone_of, text_of
from backfill_pipelines_tests.backfills.customers_worlds import FIELDS, Row, World, customer, job, lead


@st.composite
def customers(draw: st.DrawFn, *, ours: bool) -> list[Row]:
    """At most three that people made and three of ours; no two with one phone in the same spelling."""
    any_of = st.sampled_from
    rows = [
        customer(
            each,
            psid=draw(any_of(PSIDS)),
            phone=draw(any_of(PHONES)),
            email=draw(any_of(EMAILS)),
            name=draw(any_of(NAMES)),
        )
        for each in PEOPLE_IDS[: draw(st.integers(0, 3))]
    ]
    for each in draw(st.lists(any_of(OUR_IDS), unique=True, max_size=3)) if ours else ():
        values = {"psid": draw(any_of(PSIDS)), "phone": draw(any_of(STORED_PHONES)), "email": draw(any_of(EMAILS))}
        rows.append(customer(each, ours=True, lead_count=draw(st.integers(0, 3)), **values))
    seen: set[str | None] = set()
    for row in rows:
        row["phone"] = None if row["phone"] in seen else row["phone"]
        seen.add(row["phone"])
    return rows


@st.composite
def worlds(draw: st.DrawFn, *, by_hand: bool = True) -> World:
    """A client's world; without `by_hand` there are only people's customers, and nobody linked a lead or a job."""
    there = draw(customers(ours=by_hand))
    links = st.sampled_from([None, None, None, *(row["id"] for row in there), FOREIGN, DANGLING])
    links = links if by_hand else st.none()
    leads = [
        lead(
            f"l{number}",
            psid=draw(st.sampled_from(PSIDS)),
            phone=draw(st.sampled_from(PHONES)),
            email=draw(st.sampled_from(EMAILS)),
            first_name=draw(st.sampled_from(NAMES)),
            customer_id=draw(links),
            created_at=draw(st.integers(0, 3)),
        )
        for number in range(draw(st.integers(0, 7)))
    ]
    jobs = [
        job(f"j{number}", draw(st.sampled_from(leads))["id"], draw(links))
        for number in range(draw(st.integers(0, 2)) if leads else 0)
    ]
    rules = Rules(
        phone_format=draw(st.sampled_from(["digits", "e164"])),
        max_group_size=draw(st.sampled_from([2, 100])),
        blocked_local_parts=("info",),
        blocked_phones=("0000000000",),
    )
    strangers = {FOREIGN: True, DANGLING: False}
    return World(leads, there, jobs, rules, strangers=strangers, unique_email=draw(st.booleans()))


often = settings(max_examples=60, deadline=None)


def assert_as_the_reference_says(world: World) -> None:
    said, planned = world.reference(), world.plan().decided()
    assert planned.leads == said.leads
    assert planned.customers == said.customers
    assert planned.jobs == said.jobs
    assert planned.split_groups == said.split_groups
    assert {name: planned.figures[name] for name in said.figures} == said.figures


@settings(max_examples=100, deadline=None)
@given(world=worlds())
def test_the_plan_is_what_the_reference_says(world: World) -> None:
    assert_as_the_reference_says(world)


def test_the_plans_of_a_thousand_worlds_are_what_the_reference_says() -> None:
    for seed in range(1_000):
        rng = random.Random(seed)
        world = random_world(rng)
        assert_as_the_reference_says(with_a_past(world, rng) if seed % 2 else world)


@pytest.mark.parametrize(("region", "phone_format"), [("US", "digits"), ("DE", "e164")])
def test_the_plan_of_seeded_leads_is_what_the_reference_says(region: str, phone_format: str) -> None:
    client = SeededClient("42", leads=420, jobs=300, seed=9, phone_region=region, foreign_customer_id=FOREIGN)
    rules = Rules(
        region=region,
        phone_format=phone_format,
        max_group_size=6,
        blocked_emails=("test@test.com",),
        blocked_local_parts=("info", "noreply"),
        blocked_phones=("0000000000", "123 456 7890"),
    )
    world = World(
        leads=[_in_microseconds(row._asdict()) for row in client.leads()],
        customers=[
            {**_in_microseconds(row._asdict()), "ours": False, "lead_count": None} for row in client.customers()
        ],
        jobs=[row._asdict() for row in client.jobs() if row.lead_id is not None],
        rules=rules,
        strangers={FOREIGN: True},
    )
    assert_as_the_reference_says(world)
    planned = world.plan()
    reasons = {row["reason"] for row in planned.rows}
    assert reasons >= {
        *("already_linked", "ambiguous_email", "ambiguous_existing", "blocked_value", "foreign_customer"),
        *("no_identifier", "oversized_group", "shared_phone", "split_group"),
    }
    assert all(planned.figures["groups"].values())
    assert planned.source == 420 + len(world.jobs)


@often
@given(world=worlds(), seed=st.integers(0, 99))
def test_a_plan_does_not_depend_on_the_order_of_rows_nor_on_blocks(world: World, seed: int) -> None:
    one, other = world.plan(), world.plan(seed=seed)
    assert (other.rows, other.figures, other.source) == (one.rows, one.figures, one.source)


def test_the_plans_of_some_hundred_worlds_do_not_depend_on_order() -> None:
    for seed in range(250):
        rng = random.Random(seed)
        world = with_a_past(random_world(rng), rng)
        assert world.plan(seed=seed).rows == world.plan().rows, seed


def test_what_is_linked_already_may_be_counted_instead_of_listed() -> None:
    for seed in range(200):
        rng = random.Random(seed)
        world = random_world(rng)
        if seed % 2:
            world = world.after(world.plan())
            world = replace(world, leads=[row for row in world.leads if row["customer_id"] or seed % 4 == 1])
            ids = {row["id"] for row in world.leads}
            world = replace(world, jobs=[row for row in world.jobs if row["lead_id"] in ids])
        listed, counted = world.plan(), world.plan(list_skips=False)
        rows = [row for row in listed.rows if row["reason"] != "already_linked"]
        assert (counted.rows, counted.figures, counted.source) == (rows, listed.figures, listed.source), seed
        assert sum(counted.skips.values()) == len(listed.rows) - len(rows)


@often
@given(world=worlds())
def test_rows_are_sorted_and_each_lead_and_job_has_one(world: World) -> None:
    rows = world.plan().rows
    for target, own in (("Customer", None), ("Lead", world.leads), ("Job", world.jobs)):
        keys = [row["record_key"] for row in rows if row["target"] == target and row["action"] != "conflict"]
        assert keys == sorted(keys)
        if own is not None:
            every = [row["record_key"] for row in rows if row["target"] == target]
            assert every == sorted(row["id"] for row in own)
    targets = [row["target"] for row in rows]
    assert targets == sorted(targets, key=["Customer", "Lead", "Job"].index)


@often
@given(world=worlds(by_hand=False))
def test_a_plan_that_was_loaded_leaves_nothing_to_do(world: World) -> None:
    planned = world.plan()
    after = world.after(planned)
    again = after.plan()
    assert list(again.written()) == []
    told = [(row["target"], row["record_key"], row["reason"]) for row in planned.rows if row["action"] == "conflict"]
    assert told == [
        (row["target"], row["record_key"], row["reason"]) for row in again.rows if row["action"] == "conflict"
    ]


def test_what_people_linked_by_hand_is_settled_after_a_second_load() -> None:
    for seed in range(200):
        rng = random.Random(seed)
        world = with_a_past(random_world(rng), rng)
        once = world.after(world.plan())
        twice = once.after(once.plan())
        assert list(twice.plan().written()) == [], seed


def test_a_customer_that_is_made_counts_every_lead_that_is_linked_to_it_then() -> None:
    """Those too whose link led nowhere, because it is made again."""
    remade = 0
    for seed in range(200):
        world = random_world(random.Random(seed))
        planned = world.plan()
        after = world.after(planned)
        for identifier in created(planned.rows):
            linked = [row for row in after.leads if row["customer_id"] == identifier]
            (made,) = (row for row in after.customers if row["id"] == identifier)
            assert made["lead_count"] == len(linked), seed
            remade += any(row["customer_id"] == identifier for row in world.leads)
    assert remade


@often
@given(world=worlds(by_hand=False), first=st.sets(st.integers(0, 7)))
def test_leads_that_come_later_never_merge_two_psids_nor_leave_anything_undone(world: World, first: set[int]) -> None:
    assert_good_in_two_halves(world, first)


def test_leads_of_some_hundred_worlds_may_come_in_two_halves() -> None:
    for seed in range(200):
        rng = random.Random(seed)
        world = random_world(rng, by_hand=False)
        assert_good_in_two_halves(world, {number for number in range(8) if rng.random() < 0.5})


def assert_good_in_two_halves(world: World, first: set[int]) -> None:
    early = [row for number, row in enumerate(world.leads) if number in first]
    late = [row for number, row in enumerate(world.leads) if number not in first]
    ids = {row["id"] for row in early}
    half = replace(world, leads=early, jobs=[row for row in world.jobs if row["lead_id"] in ids])
    half = half.after(half.plan())
    jobs = [*half.jobs, *(row for row in world.jobs if row["lead_id"] not in ids)]
    whole = replace(half, leads=[*half.leads, *late], jobs=jobs)
    whole = whole.after(whole.plan())
    psids: defaultdict[str, set[str]] = defaultdict(set)
    for row in whole.leads:
        if row["customer_id"] and (psid := text_of(row["messenger_psid"])):
            psids[row["customer_id"]].add(psid)
    assert all(len(each) == 1 for each in psids.values())
    assert_no_phone_twice(world, whole)
    assert list(whole.plan().written()) == []


@often
@given(world=worlds())
def test_no_two_customers_end_with_one_phone(world: World) -> None:
    assert_no_phone_twice(world, world.after(world.plan()))


def assert_no_phone_twice(before: World, after: World) -> None:
    """However it is spelled; of customers that had it before there may be two."""
    had = {row["id"] for row in before.customers if text_of(row["phone"])}
    holders: defaultdict[str, set[str]] = defaultdict(set)
    for row in after.customers:
        if phone := text_of(row["phone"]):
            holders[phone_of(phone, before.rules.region)[0] or phone].add(row["id"])
    assert all(len(each) == 1 or each <= had for each in holders.values())
    new = [row["phone"] for row in after.customers if row["id"] not in had and row["phone"]]
    assert not before.phones_held_elsewhere & set(new)


@often
@given(world=worlds())
def test_of_customers_that_are_there_only_what_is_empty_is_filled(world: World) -> None:
    before = {row["id"]: row for row in world.customers}
    for row in world.after(world.plan()).customers:
        old = before.get(row["id"])
        if old is not None:
            assert all(row[name] == old[name] for name in FIELDS if text_of(old[name]))
            assert old["ours"] or row["lead_count"] == old["lead_count"]


@often
@given(world=worlds())
def test_two_clients_never_meet_and_ids_are_always_the_same(world: World) -> None:
    ours, theirs = world.plan(), replace(world, client_id="43").plan()
    mine, others = created(ours.rows), created(theirs.rows)
    assert mine.keys() == created(world.plan().rows).keys()
    assert not mine.keys() & others.keys()
    assert not {each["groupKey"] for each in mine.values()} & {each["groupKey"] for each in others.values()}
    assert all(UUID(identifier).version == 5 for identifier in mine)
    values = {row[name].strip() for row in world.leads for name in ("messenger_psid", "phone", "email") if row[name]}
    assert all(not value or value not in each["groupKey"] for value in values for each in mine.values())


@often
@given(world=worlds(by_hand=False), data=st.data())
def test_what_people_split_stays_split(world: World, data: st.DataObject) -> None:
    """Leads that were left undecided may be decided by it: of two who had their phone one is left, say."""
    world = world.after(world.plan())
    linked = {row["id"] for row in world.leads if row["customer_id"]}
    if not linked:
        return
    chosen = data.draw(st.lists(st.sampled_from(sorted(linked)), min_size=1, max_size=2, unique=True))
    leads = [{**row, "customer_id": FOREIGN} if row["id"] in chosen else row for row in world.leads]
    jobs = [{**row, "customer_id": FOREIGN} if row["lead_id"] in chosen else row for row in world.jobs]
    split = replace(
        world,
        leads=leads,
        jobs=jobs,
        customers=[*world.customers, customer(FOREIGN, name="split off", ours=True, lead_count=len(chosen))],
        split=dict.fromkeys(chosen, FOREIGN),
    )
    after = split.after(split.plan())
    for before, now in ((split.leads, after.leads), (split.jobs, after.jobs)):
        homes = {row["id"]: row["customer_id"] for row in now}
        assert all(homes[row["id"]] == row["customer_id"] for row in before if row["customer_id"])
    moved = [key for target, key, *_ in after.plan().written() if target == "Lead"]
    assert not linked & set(moved)


DIGITS = st.text("0123456789", min_size=2, max_size=5)
NUMBERS = st.builds(
    "".join, st.lists(st.one_of(DIGITS, st.sampled_from(["+1", "1", "011", "(", ")", "-", " ", ".", ".0"])), max_size=7)
)
TEN_DIGITS = st.builds(
    str.format,
    st.sampled_from(["{}{}{}", "({}) {}-{}", "1-{}-{}-{}", "+1 ({}) {}.{}", "+1{}{}{}", "{} {} {}.0", "011{}{}{}"]),
    *(st.integers(0, 10**size - 1).map(f"{{:0{size}}}".format) for size in (3, 3, 4)),
)
READERS = {region: FieldReader(IdentityRules(region=region)) for region in ("US", "CA", "GB")}


@settings(max_examples=300, deadline=None)
@given(raw=st.one_of(NUMBERS, TEN_DIGITS), region=st.sampled_from(sorted(READERS)))
@example(raw="2055550101", region="US")
def test_a_phone_that_is_read_at_sight_is_read_as_the_library_reads_it(raw: str, region: str) -> None:
    at_sight = READERS[region].key_at_sight(raw)
    assert at_sight in (None, READERS[region].phone(raw)[0])
    assert at_sight is None or region != "GB"


LOCAL_PARTS = st.text("aB9.+_-!é ", min_size=0, max_size=9)
DOMAINS = st.sampled_from(
    [
        *("example.com", "Example.COM ", "mail.test", "x.invalid", "no-dot", "xn--bcher-kva.example", "bücher.example"),
        *("a..b", f"{'d' * 60}.com", "@example.com", "", "1.2.3.4", "[1.2.3.4]", "b.example\x00", "b.example\u200b"),
    ]
)


@settings(max_examples=300, deadline=None)
@given(local_part=LOCAL_PARTS, domain=DOMAINS)
def test_an_address_of_a_domain_that_is_judged_once_is_read_like_any_other(local_part: str, domain: str) -> None:
    raw = f"{local_part}@{domain}"
    assert READERS["US"].email(raw) == normalise_email(raw)


def created(rows: list[Row]) -> dict[str, Mapping[str, Any]]:
    planned = World().plan()
    made = replace(planned, rows=[row for row in rows if row["action"] == "create"]).written()
    return {key: after["metadata"] for _, key, _, _, after in made}


def _in_microseconds(row: Row) -> Row:
    times = {name: int(row[name].timestamp() * 1_000_000) for name in ("created_at", "updated_at")}
    return {**row, **times}
