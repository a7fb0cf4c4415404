"""`attio_company_orgs` where things go wrong: others write too, replies are lost, readings die, keys are refused."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from backfill_pipelines.engine.ledger import State
from backfill_pipelines.engine.partition_run import Steps
from backfill_pipelines.sandbox.attio_records import COMPANIES
from backfill_pipelines.vendors.clerk import Clerk, Membership, Page
from backfill_pipelines_tests.backfills.attio_product import (
    DRY_RUN,
    LOAD_ONLY,
    RUN,
    failure,
    succeeded,
    unhurried,
    verified,
)
from backfill_pipelines_tests.backfills.company_orgs_rig import (
    ANY_SIZE,
    ATTIO,
    CLERK,
    COMPANIES_QUERY,
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


# --- what others do meanwhile ----------------------------------------------------------------------------------------


def test_a_company_that_somebody_maps_or_deletes_after_the_plan_is_left_as_a_conflict(product: CompanyProduct) -> None:
    mapped, gone, *_ = sorted(product.chosen())
    product.run(steps=DRY_RUN)
    product.set_org_id(mapped, "org_by_hand")
    product.crm.delete(COMPANIES, gone)
    run = product.run(steps=LOAD_ONLY)
    assert product.org_ids()[mapped] == "org_by_hand"
    assert run.details["conflicts"] == {"record_gone": 1, "stale": 1}
    found = verified(run)
    assert (found["passed"], found["explained"]) == (True, 1)


def test_a_company_that_somebody_deletes_just_after_it_was_written_is_no_company_any_more(
    product: CompanyProduct,
) -> None:
    gone, *others = sorted(product.chosen())
    product.after(
        lambda: product.crm.delete(COMPANIES, gone), path=f"/v2/objects/companies/records/{gone}", method="PATCH"
    )
    run = product.run()
    assert gone not in product.landed()
    assert verified(run) == {
        "equal": len(others), "missing": 0, "extra": 0, "different": 0, "explained": 0, "passed": True,
    }  # fmt: skip


def test_where_the_attribute_is_unique_a_shared_organization_goes_to_one_company_and_the_others_are_conflicts(
    product: CompanyProduct,
) -> None:
    product.crm.alter_attribute(COMPANIES, "org_id", unique=True)
    wanted = product.chosen()
    run = product.run()
    assert run.counts["applied"] == len(set(wanted.values()))
    assert run.details["conflicts"] == {"id_on_other_company": len(wanted) - len(set(wanted.values()))}


def test_a_lost_reply_is_looked_up_and_the_company_written_once(product: CompanyProduct) -> None:
    product.server.add_faults([{"kind": "lost_reply", "method": "PATCH", "count": 3}])
    wanted = product.chosen()
    run = product.run()
    assert run.counts["applied"] == len(wanted)
    assert sorted(product.patched()) == sorted(wanted)


def test_a_user_that_cannot_be_read_is_rejected_and_the_others_count(product: CompanyProduct) -> None:
    [user_id] = product.users.create_users()
    product.users.alter_user(user_id, email_addresses="none")
    run = product.run()
    assert succeeded(run)
    assert (run.counts["reject"], run.details["errors"]) == (1, {"malformed_email_addresses": 1})


# --- memberships that are known to be missing ------------------------------------------------------------------------


def clerk_counts(monkeypatch: pytest.MonkeyPatch, difference: int) -> None:
    """Clerk says that there are so many more memberships than it lists."""
    listed = Clerk.membership_pages

    async def counted(*given: Any, **options: Any) -> AsyncGenerator[Page[Membership], None]:
        async for page in listed(*given, **options):
            yield replace(page, total=None if page.total is None else page.total + difference)

    monkeypatch.setattr(Clerk, "membership_pages", counted)


@pytest.mark.parametrize("difference", [3, -3])
def test_a_choice_on_memberships_that_are_not_those_clerk_counts_is_left_to_the_next_run(
    product: CompanyProduct, monkeypatch: pytest.MonkeyPatch, difference: int
) -> None:
    wanted, whole = product.chosen(), product.world()
    unsettled = {
        key
        for key, (reason, _) in expected(replace(whole, memberships_complete=False), ANY_SIZE).items()
        if reason == "memberships_incomplete"
    }
    assert 0 < len(unsettled) < len(wanted)
    with monkeypatch.context() as patched:
        clerk_counts(patched, difference)
        run = product.run()
    assert succeeded(run)
    assert product.calls()["/organization_memberships"] == 2, "read once more"
    assert "count_drift" in run.warnings
    assert run.details["conflicts"] == {"memberships_incomplete": len(unsettled)}
    assert sorted(product.patched()) == sorted(set(wanted) - unsettled)
    assert verified(run)["passed"]
    assert product.run().counts["applied"] == len(unsettled)
    assert {key: product.org_ids()[key] for key in wanted} == wanted


def test_a_plan_made_of_what_another_process_has_landed_knows_that_memberships_are_missing(
    product: CompanyProduct, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        clerk_counts(patched, 3)
        product.run(steps=Steps(plan=False, load=False))
    run = product.run(steps=Steps(extract=False, load=False))
    assert run.reasons["memberships_incomplete"] > 0


# --- an extraction that dies -----------------------------------------------------------------------------------------


def pages_of_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("vendors.attio_queries", "sandbox.attio"):
        monkeypatch.setattr(f"backfill_pipelines.{place}.ROWS_A_PAGE", 10)


def two_pages_come(product: CompanyProduct) -> None:
    """The probe asks twice; two pages come, and then none until the faults are cleared."""
    product.server.add_faults([{"kind": "status", "status": 503, "path": COMPANIES_QUERY, "nth": 5, "count": 1_000}])


@pytest.mark.parametrize("steps", [DRY_RUN, RUN])
def test_a_reading_of_companies_that_died_goes_on_at_the_next_page(
    product: CompanyProduct, monkeypatch: pytest.MonkeyPatch, steps: Steps
) -> None:
    pages_of_ten(monkeypatch)
    without = {key for key, org_id in product.org_ids().items() if org_id is None}
    two_pages_come(product)
    failed = product.run(steps=DRY_RUN)
    assert failure(failed) == (State.FAILED, "vendor_unavailable")
    assert len(product.landed()) == 20
    product.server.clear_faults()
    since = product.seen()
    wanted = product.chosen()
    resumed = product.run(steps=steps)
    assert (resumed.id == failed.id) is (steps == DRY_RUN)
    assert product.landed() == without
    assert resumed.counts["update"] == len(wanted)
    pages = -(-(len(without) - 20) // 10)
    # Besides them, a load reads companies of 25 rows before it writes them, and all of them after.
    looks = 2 * -(-len(wanted) // 10) if steps == RUN else 0
    assert product.calls(since=since)["/v2/objects/{object}/records/query"] == pages + looks
    assert product.calls(since=since)["/users"] == 0


def test_a_new_run_begins_the_reading_anew(product: CompanyProduct, monkeypatch: pytest.MonkeyPatch) -> None:
    pages_of_ten(monkeypatch)
    two_pages_come(product)
    failed = product.run()
    product.server.clear_faults()
    gone = min(product.landed())
    product.crm.delete(COMPANIES, gone)
    wanted = product.chosen()
    run = product.run(fresh=True)
    assert run.id != failed.id
    assert gone not in product.landed()
    assert run.counts["applied"] == len(wanted)


# --- what must be true before ----------------------------------------------------------------------------------------


def test_a_missing_attribute_is_named_with_how_to_make_it(product: CompanyProduct) -> None:
    with product.crm.lock:
        del product.crm.tables[COMPANIES].attributes["org_id"]
    run = product.run()
    assert failure(run) == (State.FAILED, "attribute_missing")
    assert "org_id of companies" in str(run.error_message)
    assert "backfill attio create-attributes" in str(run.error_message)


def test_a_key_that_may_not_write_is_refused_before_anything_is_read(product: CompanyProduct) -> None:
    product.attio.state.set_scopes(ATTIO.token, ["record_permission:read", "object_configuration:read"])
    run = product.run()
    assert failure(run) == (State.FAILED, "missing_scopes")
    assert set(product.calls()) == {"/v2/self"}


# --- nothing personal ------------------------------------------------------------------------------------------------


def test_nothing_personal_stands_in_the_log_the_run_or_the_plan(
    product: CompanyProduct, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    product.server.add_faults([{"kind": "status", "status": 500, "method": "PATCH", "count": 2}])
    run = product.run()
    product.verify()
    product.undo(run)
    told = caplog.text + json.dumps(product.query("SELECT * FROM backfill.run"), default=str)
    told += json.dumps(product.query("SELECT * FROM backfill.change"), default=str)
    users = [CLERK.user(number) for number in range(CLERK.users)]
    canaries = {address.address.lower() for user in users for address in user.emails}
    canaries |= {domain.lower() for company in ATTIO.companies for domain in company.domains}
    canaries |= {company.name.lower() for company in ATTIO.companies} | {ATTIO.token, CLERK.secret_key}
    assert {each for each in canaries if each.lower() in told.lower()} == set()
