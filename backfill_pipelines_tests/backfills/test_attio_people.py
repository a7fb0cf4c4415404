"""`attio_people` end to end, against the fake vendors: what a run reads, plans, writes, checks and takes back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from backfill_pipelines.backfills.attio_people_plan import COUNTED_SKIPS, primary_address
from backfill_pipelines_tests.backfills.attio_people_reference import (
    KnownPerson,
    KnownUser,
    KnownWorld,
    Options,
    expected,
    loaded,
)
from backfill_pipelines_tests.backfills.attio_product import (
    DRY_RUN,
    LOAD_ONLY,
    PEOPLE_QUERY,
    AttioProduct,
    Document,
    Vendors,
    running_vendors,
    succeeded,
    unhurried,
    verified,
)


@pytest.fixture(scope="module")
def vendors() -> Iterator[Vendors]:
    with running_vendors() as running:
        yield running


@pytest.fixture
def product(
    vendors: Vendors, database: Engine, database_url: SecretStr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AttioProduct:
    unhurried(monkeypatch)
    return vendors.product(database, database_url, tmp_path)


def world_of(product: AttioProduct) -> KnownWorld:
    """Both vendors as they are now, in the terms of the reference."""
    users = []
    for number in product.users.users:
        user = product.users.user(number)
        primary = next((each.address for each in user.emails if each.id == user.primary_email_id), None)
        verified_ones = tuple(each.address for each in user.emails if each.status == "verified")
        banned = user.banned or user.deprovisioned
        users.append(KnownUser(id=user.id, primary=primary, verified=verified_ones, banned=banned))
    people = [
        KnownPerson(id=key, addresses=addresses, user_ids=user_ids)
        for key, (addresses, user_ids) in product.people().items()
    ]
    return KnownWorld(users=tuple(users), people=tuple(people))


def holders(world: KnownWorld) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Who has which ids, by addresses: the record ids of those that are made are nobody's to know before."""
    return {each.addresses: each.user_ids for each in world.people}


@pytest.mark.parametrize("include_banned", [False, True])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_does_what_the_rules_say_to_everybody(
    product: AttioProduct, *, overwrite: bool, include_banned: bool
) -> None:
    chosen = Options(overwrite=overwrite, include_banned=include_banned)
    before = world_of(product)
    reference = expected(before, chosen)
    run = product.run(overwrite=overwrite, include_banned=include_banned)
    assert succeeded(run)
    assert holders(world_of(product)) == holders(loaded(before, chosen))
    wanted = Counter(action for action, _ in reference.outcomes.values())
    assert {name: run.counts[name] for name in ("create", "update", "skip", "conflict", "reject")} == {
        name: wanted[name] for name in ("create", "update", "skip", "conflict", "reject")
    }
    reasons = Counter(reason for _, reason in reference.outcomes.values() if reason is not None)
    assert dict(run.reasons) == reasons
    assert {"already_set", "banned", "no_email"} - reasons.keys() == ({"banned"} if include_banned else set())
    rows = product.outcomes(run.id)
    stored = {key: outcome for key, outcome in reference.outcomes.items() if outcome[0] != "skip"}
    assert {key: (action, code) for key, (action, _, code) in rows.items()} == stored
    assert product.writes() == {"POST": wanted["create"], "PATCH": wanted["update"]}


def test_a_second_run_writes_nothing_and_needs_only_the_reads(product: AttioProduct) -> None:
    first = product.run()
    assert succeeded(first)
    writes, asked = product.writes(), len(product.server.requests)
    again = product.run()
    assert succeeded(again)
    assert (again.counts["create"], again.counts["update"], again.counts["applied"]) == (0, 0, 0)
    assert product.writes() == writes
    reads = Counter(each.call.template for each in product.server.requests[asked:])
    assert reads == {
        "/v2/self": 1,
        "/v2/objects/{object}/attributes": 2,
        "/users/count": 1,
        "/users": 1,
        # Whether there are more than a few pages of people, and the one page.
        "/v2/objects/{object}/records/query": 2,
    }
    assert verified(again)["passed"]


def test_a_created_person_has_address_name_and_id_and_nothing_else(product: AttioProduct) -> None:
    user_id = product.user("Grace.H@Example.com", first_name="Grace", last_name="Hopper")
    nameless = product.user("nameless@example.com")
    assert succeeded(product.run())
    (record_id,) = product.people_with(user_id)
    values = product.everything()[record_id]
    ours = {slug for slug, held in values.items() if any(value.actor.type == "api-token" for value in held)}
    assert ours - {"created_at", "created_by"} == {"email_addresses", "name", "user_id"}
    assert product.crm.contents("people", record_id, "name") == [("Grace", "Hopper", "Grace Hopper")]
    assert product.people()[record_id] == (("grace.h@example.com",), (user_id,))
    (record_id,) = product.people_with(nameless)
    assert product.crm.contents("people", record_id, "name") == []


def test_an_updated_person_keeps_everything_else(product: AttioProduct) -> None:
    user_id = product.user("ada@example.com")
    record_id = product.person("ada@example.com", "ada@home.test", job_title=["Countess"])
    before = product.everything()[record_id]
    assert succeeded(product.run())
    after = product.everything()[record_id]
    assert {slug for slug in after if after[slug] != before.get(slug)} == {"user_id"}
    assert product.people_with(user_id) == [record_id]


def test_a_dry_run_writes_nothing_and_its_plan_is_the_one_that_is_loaded(product: AttioProduct) -> None:
    before = product.everything()
    dry = product.run(steps=DRY_RUN)
    assert succeeded(dry)
    assert (product.everything(), product.writes()) == (before, Counter())
    done = product.run(steps=LOAD_ONLY)
    assert succeeded(done)
    assert (done.id, done.plan_hash) == (dry.id, dry.plan_hash)
    assert done.counts["applied"] == dry.counts["create"] + dry.counts["update"]
    assert verified(done)["passed"]


def test_a_plan_does_not_depend_on_when_it_is_made(product: AttioProduct) -> None:
    plans = [product.run(steps=DRY_RUN, fresh=True).plan_hash for _ in range(2)]
    assert plans[0] == plans[1] != product.run(steps=DRY_RUN, overwrite=True).plan_hash


def test_at_most_so_many_are_written_and_the_next_runs_write_the_rest(product: AttioProduct) -> None:
    wanted = expected(world_of(product), Options())
    writes = sum(action in ("create", "update") for action, _ in wanted.outcomes.values())
    part = product.run(max_records=10)
    assert succeeded(part)
    assert part.counts["applied"] == product.writes().total() == 10
    assert verified(part)["missing"] == writes - 10, "those that wait are not hidden"
    rest = product.run()
    assert rest.counts["applied"] == writes - 10
    assert verified(rest)["passed"]


def test_skips_are_rows_where_the_registry_wants_them(product: AttioProduct) -> None:
    def edit(document: Document) -> None:
        document["workspaces"][0]["attio_people"] = {"store_skips": True}

    product.edit = edit
    run = product.run(steps=DRY_RUN)
    assert succeeded(run)
    skips = [row for row in product.changes(run.id).values() if row["action"] == "skip"]
    assert len(skips) == run.counts["skip"] > 0
    assert {row["reason"] for row in skips} == COUNTED_SKIPS | {"set_elsewhere"}
    assert run.plan_hash == product.run(steps=DRY_RUN, fresh=True).plan_hash


def test_the_summary_says_what_became_of_everybody(product: AttioProduct) -> None:
    dry = product.run(steps=DRY_RUN)
    assert dry.details["load_seconds"] == -(-102 * (dry.counts["create"] + dry.counts["update"]) // 2500)
    run = product.run()
    assert succeeded(run)
    told = {name: run.details[name] for name in ("processed", "created", "updated", "skipped", "conflicts", "errors")}
    assert told == {
        "processed": len(product.users.users),
        "created": run.counts["create"],
        "updated": run.counts["update"],
        "skipped": run.counts["skip"],
        "conflicts": run.counts["conflict"],
        "errors": {},
    }
    assert "set_elsewhere" in run.warnings


# --- verify ----------------------------------------------------------------------------------------------------------


def test_verification_counts_each_user_with_an_address_once(product: AttioProduct) -> None:
    run = product.run()
    world = world_of(product)
    users = [
        each for each in world.users if not each.banned and primary_address(each.primary, each.verified) is not None
    ]
    comparison = verified(run)
    assert comparison["passed"]
    assert comparison["equal"] + comparison["explained"] == len(users)
    assert comparison["explained"] <= run.counts["conflict"]
    assert verified(product.verify()) == comparison


def test_verification_names_who_is_missing_and_who_is_there_twice(product: AttioProduct) -> None:
    new, gone, twice = (product.user(f"{name}@example.com") for name in ("new", "gone", "twice"))
    product.users.delete_users([new])
    assert succeeded(product.run())
    before = verified(product.verify())
    new = product.user("newer@example.com")
    product.crm.delete("people", product.people_with(gone)[0])
    product.person("again@home.test", user_id=twice)
    stranger = product.person("stranger@home.test", user_id="user_of_nobody")
    asked = product.writes()
    found = product.verify()
    comparison = verified(found)
    assert comparison == {
        **before,
        "equal": before["equal"] - 2,
        "missing": 2,
        "different": 1,
        "extra": before["extra"] + 1,
        "passed": False,
    }
    assert found.verification is not None
    examples = found.verification["examples"]
    assert set(examples["missing_user_ids"]) == {new, gone}
    assert examples["different_user_ids"] == [twice]
    assert stranger in examples["extra_record_ids"]
    assert product.writes() == asked


def test_the_comparison_after_a_load_reads_people_again(product: AttioProduct) -> None:
    user_id = product.user("ada@example.com")

    def somebody_deletes() -> None:
        product.crm.delete("people", product.people_with(user_id)[0])

    total = len(product.people())
    product.after(somebody_deletes, path="/v2/objects/people/records", method="POST", nth=1)
    product.users.delete_users([each for each in product.users.user_ids() if each != user_id])
    run = product.run()
    assert run.counts["applied"] == 1
    assert verified(run)["missing"] == 1
    assert len(product.landed()) == total
    assert len(product.requests(PEOPLE_QUERY)) > 2


# --- undo ------------------------------------------------------------------------------------------------------------


def test_undo_leaves_people_as_they_were(product: AttioProduct) -> None:
    before = product.people()
    run = product.run(overwrite=True)
    assert succeeded(run)
    assert product.people() != before
    undone = product.undo(run)
    assert (undone.undone, undone.conflict) == (run.counts["applied"], 0)
    assert product.people() == before
    again = product.undo(run)
    assert (again.undone, again.conflict) == (0, 0)


def test_a_dry_run_of_undo_only_says_what_it_would_do(product: AttioProduct) -> None:
    run = product.run()
    loaded_people, writes = product.people(), product.writes()
    told = product.undo(run, dry_run=True)
    assert (told.undone, told.conflict) == (run.counts["applied"], 0)
    assert (product.people(), product.writes()) == (loaded_people, writes)


def test_undo_leaves_what_somebody_has_changed_since_and_says_so(product: AttioProduct) -> None:
    edited, reassigned, emptied, enriched, deleted = (
        product.user(f"{name}@example.com") for name in ("edited", "reassigned", "emptied", "enriched", "deleted")
    )
    known, other = (product.user(f"{name}@example.com") for name in ("known", "other"))
    for address in ("known@example.com", "other@example.com"):
        product.person(address)
    before = product.people()
    run = product.run()
    record = {each: product.people_with(each)[0] for each in (edited, reassigned, emptied, enriched, deleted)}
    write = product.crm.write
    write("people", {"job_title": ["Boss"]}, actor=product.crm.seeded.member, record_id=record[edited])
    product.set_user_id(record[reassigned], "user_of_theirs", by=product.crm.seeded.integration)
    product.set_user_id(product.people_with(known)[0], "user_of_theirs")
    product.set_user_id(product.people_with(other)[0], None)
    product.set_user_id(record[emptied], None)
    product.crm.enrich("people", record[enriched], {"job_title": ["Guessed"]})
    product.crm.delete("people", record[deleted])
    undone = product.undo(run)
    # The one whose update somebody has emptied is as it was before.
    assert undone.reasons == {"changed_since": 4}
    assert undone.undone == run.counts["applied"] - 4
    assert product.people().keys() - before.keys() == {record[each] for each in (edited, reassigned, emptied)}
