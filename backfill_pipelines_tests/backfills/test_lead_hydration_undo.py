"""Taking a run of `lead_hydration` back: every field only where it still holds what was written."""

from __future__ import annotations

import pytest

from backfill_pipelines_tests.backfills.hydration_rig import Hydration, Serve, contact, location, succeeded, verified


@pytest.fixture
def product(serve: Serve) -> Hydration:
    known = [
        contact(
            f"c{number}",
            f"lead{number}@example.com",
            first_name="Ann",
            last_name="Ash",
            phone="+12055550111",
            company_name="Ash & Co",
        )
        for number in range(4)
    ]
    served = serve(location(known=known))
    served.lead("l0", email="lead0@example.com")
    served.lead("l1", email=" Lead1@example.com", first_name="")
    served.lead("l2", contact="c2", last_name="Own")
    served.lead("l3", email="lead3@example.com", phone="  ")
    return served


def test_a_run_is_taken_back_to_the_last_blank(product: Hydration) -> None:
    before = product.leads()
    run = product.run()
    assert run.counts["applied"] == 4
    result = product.undo(run)
    assert (result.undone, result.conflict) == (4, 0)
    assert product.leads() == before, "updated_at too"
    assert verified(product.verify())["missing"] == 4


def test_a_dry_undo_says_so_and_changes_nothing(product: Hydration) -> None:
    run = product.run()
    after = product.leads()
    assert product.undo(run, dry_run=True).undone == 4
    assert product.leads() == after


def test_what_people_have_changed_since_stays_and_the_rest_goes_back(product: Hydration) -> None:
    run = product.run()
    product.edit_lead("l0", first_name="Theirs")
    result = product.undo(run)
    assert (result.undone, result.conflict, result.reasons) == (3, 1, {"changed_since": 1})
    assert product.known("l0") == {"email": "lead0@example.com", "first_name": "Theirs"}
    assert product.undo(run).undone == 0


def test_what_was_taken_back_can_be_done_again(product: Hydration) -> None:
    first = product.run()
    after = {key: product.known(key) for key in product.leads()}
    product.undo(first)
    again = product.run()
    assert succeeded(again)
    assert again.plan_hash == first.plan_hash
    assert {key: product.known(key) for key in product.leads()} == after


def test_only_the_second_of_two_runs_goes_back(product: Hydration) -> None:
    first = product.run()
    product.edit_lead("l2", phone=None)
    second = product.run()
    assert second.counts["applied"] == 1
    assert product.undo(second).undone == 1
    assert "phone" not in product.known("l2")
    assert product.undo(first).undone == 4, "where it was emptied already there is nothing left to take back"
