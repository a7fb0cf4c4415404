"""`attio_company_orgs` end to end, against the fake vendors: what it lands, plans, writes, checks and takes back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from backfill_pipelines.backfills.attio_company_orgs_choice import Rules
from backfill_pipelines.backfills.attio_people import AttioPeople
from backfill_pipelines.sandbox.attio_records import COMPANIES
from backfill_pipelines.sandbox.attio_state import OpenQuestions
from backfill_pipelines_tests.backfills.attio_product import DRY_RUN, LOAD_ONLY, succeeded, unhurried, verified
from backfill_pipelines_tests.backfills.company_orgs_rig import (
    ANY_SIZE,
    CompanyProduct,
    serving_companies,
)
from backfill_pipelines_tests.backfills.company_orgs_worlds import expected


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    unhurried(monkeypatch)


@pytest.fixture
def product(database: Engine, database_url: SecretStr, tmp_path: Path) -> Iterator[CompanyProduct]:
    with serving_companies(database, database_url, tmp_path) as running:
        yield running


# --- a run -----------------------------------------------------------------------------------------------------------


def test_every_company_gets_its_main_organization_and_nothing_else_is_touched(product: CompanyProduct) -> None:
    before, others = product.org_ids(), product.everything_else()
    outcomes, wanted = expected(product.world(), ANY_SIZE), product.chosen()
    run = product.run()
    assert succeeded(run)
    assert len(wanted) > 15
    assert product.org_ids() == {**before, **wanted}
    assert product.everything_else() == others
    assert sorted(product.patched()) == sorted(wanted)
    skips = Counter(reason for reason, org_id in outcomes.values() if org_id is None and reason != "already_set")
    assert (run.counts["applied"], run.counts["skip"], run.counts["conflict"]) == (len(wanted), skips.total(), 0)
    assert {reason: run.reasons[reason] for reason in skips} == skips
    assert run.reasons["shared_org"] == sum(reason == "shared_org" for reason, _ in outcomes.values())
    assert list(run.warnings) == ["shared_org"]


def test_the_summary_and_the_rows_show_what_was_chosen_among(product: CompanyProduct) -> None:
    run = product.run()
    details = run.details
    assert details["processed"] == run.counts["source"]
    assert (details["updated"], details["conflicts"], details["errors"]) == (run.counts["applied"], {}, {})
    assert details["skipped"] == run.counts["skip"]
    rows = product.changes(run.id)
    assert list(rows) == sorted(rows)
    assert 0 < len(details["candidates"]) <= 20
    for record_id, candidates in details["candidates"].items():
        assert 2 <= len(candidates) <= 5
        assert rows[record_id]["before"]["candidates"] == candidates
        assert rows[record_id]["after"]["org_id"] == candidates[0]["org_id"]


def test_a_dry_run_writes_nothing_and_plans_the_same(product: CompanyProduct) -> None:
    before = product.org_ids()
    dry = product.run(steps=DRY_RUN)
    assert (product.org_ids(), product.patched()) == (before, [])
    assert product.run().plan_hash == dry.plan_hash


def test_a_second_run_needs_only_the_reads_and_plans_nothing(product: CompanyProduct) -> None:
    product.run()
    since = product.seen()
    again = product.run()
    assert (again.counts["create"], again.counts["update"], again.counts["conflict"]) == (0, 0, 0)
    assert product.calls(since=since) == {
        "/v2/self": 1,
        "/v2/objects/{object}/attributes": 2,
        "/v2/objects/{object}/records/query": 3,  # the probe's two, and a page
        "/users/count": 1,
        "/users": 1,
        "/organizations": 1,
        "/organization_memberships": 1,
    }


@pytest.mark.parametrize("answer", ["ignored", "refused"])
def test_a_workspace_that_does_not_honour_the_filter_gets_the_same(
    database: Engine, database_url: SecretStr, tmp_path: Path, answer: Any
) -> None:
    with serving_companies(
        database, database_url, tmp_path, questions=OpenQuestions(not_empty_on_text=answer)
    ) as product:
        before, wanted = product.org_ids(), product.chosen()
        run = product.run()
        assert product.org_ids() == {**before, **wanted}
        assert run.reasons["already_set"] == sum(org_id is not None for org_id in before.values())
        assert run.details["attio_filter"] == "none"
        assert verified(run)["passed"]


def test_what_has_an_org_id_by_now_or_is_gone_does_not_stay_landed(product: CompanyProduct) -> None:
    product.run(steps=DRY_RUN)
    first = product.landed()
    assert first == {key for key, org_id in product.org_ids().items() if org_id is None}
    gone, done, *_ = sorted(first)
    product.crm.delete(COMPANIES, gone)
    product.set_org_id(done, "org_by_hand")
    product.run(steps=DRY_RUN)
    assert product.landed() == first - {gone, done}


def test_users_that_another_backfill_has_landed_within_the_hour_are_used_once(product: CompanyProduct) -> None:
    people = replace(product, backfill=AttioPeople())
    assert succeeded(people.run(steps=DRY_RUN))
    since = product.seen()
    assert succeeded(product.run(steps=DRY_RUN))
    assert product.calls(since=since)["/users"] == 0
    assert product.calls(since=since)["/users/count"] == 0
    assert product.calls(since=since)["/organization_memberships"] == 1
    since = product.seen()
    assert succeeded(product.run())
    assert product.calls(since=since)["/users"] == 1


# --- what it may be asked for ----------------------------------------------------------------------------------------


def test_the_least_number_of_members_comes_from_the_registry_unless_the_run_says_otherwise(
    product: CompanyProduct,
) -> None:
    product.configure(min_members=4)
    by_setting, by_option = (product.chosen(Rules(min_members=least)) for least in (4, 9))
    assert len(by_option) < len(by_setting) < len(product.chosen())
    assert product.run(steps=DRY_RUN).counts["update"] == len(by_setting)
    run = product.run(min_members=9)
    assert sorted(product.patched()) == sorted(by_option)
    assert run.reasons["below_min_members"] > 0
    # What the plan was told to leave out is not missing, neither at once nor later.
    for each in (run, product.verify()):
        assert (verified(each)["passed"], verified(each)["missing"]) == (True, 0)


def test_a_stored_plan_is_verified_by_the_rules_that_it_was_made_by(product: CompanyProduct) -> None:
    wanted = product.chosen(Rules(min_members=9))
    product.run(steps=DRY_RUN, min_members=9)
    run = product.run(steps=LOAD_ONLY)
    assert sorted(product.patched()) == sorted(wanted)
    assert (verified(run)["equal"], verified(run)["passed"]) == (len(wanted), True)


def test_banned_users_count_where_that_is_asked_for(product: CompanyProduct) -> None:
    rules = Rules(min_members=1, include_banned=True)
    banned = sum(person.banned for person in product.world().people)
    wanted = product.chosen(rules)
    assert banned > 3
    assert product.run(include_banned=True).counts["applied"] == len(wanted)
    assert {key: product.org_ids()[key] for key in wanted} == wanted


def test_skips_are_stored_where_the_registry_says_so(product: CompanyProduct) -> None:
    product.configure(store_skips=True)
    run = product.run()
    stored = [row for row in product.changes(run.id).values() if row["action"] == "skip"]
    assert len(stored) == run.counts["skip"] == run.details["skipped"] > 0


def test_only_so_many_are_written_as_were_asked_for_and_the_rest_is_missing(product: CompanyProduct) -> None:
    wanted = product.chosen()
    run = product.run(max_records=5)
    assert len(product.patched()) == 5
    assert (verified(run)["equal"], verified(run)["missing"]) == (5, len(wanted) - 5)


# --- verify and undo -------------------------------------------------------------------------------------------------


def test_a_verification_names_what_is_missing_and_what_differs_and_leaves_what_people_chose(
    product: CompanyProduct,
) -> None:
    set_before = {key for key, org_id in product.org_ids().items() if org_id is not None}
    wanted = product.chosen()
    run = product.run()
    assert (verified(run)["equal"], verified(run)["passed"]) == (len(wanted), True)
    emptied, changed, *_ = sorted(wanted)
    product.set_org_id(emptied, None)
    product.set_org_id(changed, "org_by_hand")
    found = product.verify().verification
    assert found is not None
    assert not found["passed"]
    assert found["examples"]["missing_record_ids"] == [emptied]
    assert found["examples"]["different_record_ids"] == [changed]
    assert found["equal"] == len(wanted) - 2
    assert set(found["examples"]["set_otherwise_record_ids"]) <= set_before
    assert found["figures"]["companies"] == len(product.org_ids())


def test_an_undo_brings_back_exactly_what_was_there(product: CompanyProduct) -> None:
    before, others = product.org_ids(), product.everything_else()
    run = product.run()
    after = product.org_ids()
    dry = product.undo(run, dry_run=True)
    assert product.org_ids() == after
    result = product.undo(run)
    assert result.undone == dry.undone == run.counts["applied"]
    assert (product.org_ids(), product.everything_else()) == (before, others)
    assert product.run().counts["applied"] == run.counts["applied"]


def test_an_undo_leaves_what_somebody_has_changed_since(product: CompanyProduct) -> None:
    run = product.run()
    changed = product.patched()[0]
    product.set_org_id(changed, "org_by_hand")
    result = product.undo(run)
    assert (result.conflict, result.reasons) == (1, {"changed_since": 1})
    assert product.org_ids()[changed] == "org_by_hand"
