"""`attio_people` beside people and programs that write to the CRM at the same moment, and over a network that loses
replies: nobody is overwritten, nobody is there twice, and everything that was done can be taken back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from backfill_pipelines.engine.ledger import State
from backfill_pipelines.sandbox.attio_state import OpenQuestions
from backfill_pipelines_tests.backfills.attio_product import (
    DRY_RUN,
    EMPTY_ATTIO,
    EMPTY_CLERK,
    LOAD_ONLY,
    PEOPLE_QUERY,
    RECORDS,
    AttioProduct,
    Vendors,
    failure,
    running_vendors,
    succeeded,
    unhurried,
    verified,
)


@pytest.fixture(scope="module")
def vendors(request: pytest.FixtureRequest) -> Iterator[Vendors]:
    """Nobody yet, on either side."""
    questions: OpenQuestions | None = getattr(request, "param", None)
    with running_vendors(instance=EMPTY_CLERK, workspace=EMPTY_ATTIO, questions=questions) as running:
        yield running


@pytest.fixture
def product(
    vendors: Vendors, database: Engine, database_url: SecretStr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AttioProduct:
    unhurried(monkeypatch)
    return vendors.product(database, database_url, tmp_path)


def answers(**questions: Any) -> pytest.MarkDecorator:
    """Where the vendor's documentation leaves something open: this."""
    return pytest.mark.parametrize("vendors", [OpenQuestions(**questions)], indirect=True, ids=[str(questions)])


def plan_then_load(product: AttioProduct, meanwhile: Any) -> Any:
    """What somebody does between plan and load."""
    assert succeeded(product.run(steps=DRY_RUN))
    meanwhile()
    return product.run(steps=LOAD_ONLY)


# --- updates ---------------------------------------------------------------------------------------------------------


def test_an_id_that_somebody_sets_after_the_plan_stays(product: AttioProduct) -> None:
    ada, bo = product.user("ada@example.com"), product.user("bo@example.com")
    record_id, other = product.person("ada@example.com"), product.person("bo@example.com")
    run = plan_then_load(product, lambda: product.set_user_id(record_id, "user_of_theirs"))
    assert product.outcomes(run.id)[ada] == ("update", "conflict", "stale")
    assert (product.people_with("user_of_theirs"), product.people_with(bo)) == ([record_id], [other])
    assert (run.counts["applied"], run.counts["conflict"]) == (1, 1)
    assert verified(run) | {"extra": 0} == {
        "equal": 1,
        "missing": 0,
        "extra": 0,
        "different": 0,
        "explained": 1,
        "passed": True,
    }


def test_the_same_id_set_by_somebody_else_is_theirs_and_not_ours_to_take_back(product: AttioProduct) -> None:
    ada = product.user("ada@example.com")
    record_id = product.person("ada@example.com")
    run = plan_then_load(product, lambda: product.set_user_id(record_id, ada))
    assert product.outcomes(run.id)[ada] == ("update", "conflict", "stale")
    assert product.undo(run).undone == 0
    assert product.people_with(ada) == [record_id]


def test_a_person_that_is_deleted_after_the_plan_is_gone(product: AttioProduct) -> None:
    ada = product.user("ada@example.com")
    record_id = product.person("ada@example.com")
    run = plan_then_load(product, lambda: product.crm.delete("people", record_id))
    assert product.outcomes(run.id)[ada] == ("update", "conflict", "record_gone")
    assert product.people() == {}
    assert product.run().counts["create"] == 1


def test_a_person_deleted_in_the_moment_of_the_write_is_gone_too(product: AttioProduct) -> None:
    ada = product.user("ada@example.com")
    record_id = product.person("ada@example.com")
    assert succeeded(product.run(steps=DRY_RUN))
    product.after(lambda: product.crm.delete("people", record_id), path="*/query", nth=1)
    run = product.run(steps=LOAD_ONLY)
    assert product.outcomes(run.id)[ada] == ("update", "conflict", "record_gone")


def test_a_workspace_that_wants_unique_ids_refuses_a_second_one(product: AttioProduct) -> None:
    product.crm.alter_attribute("people", "user_id", unique=True)
    ada, bo = product.user("ada@example.com"), product.user("bo@example.com")
    product.person("ada@example.com")

    def somebody_sets_both() -> None:
        product.person("elsewhere@home.test", user_id=ada)
        product.person("elsewhere@work.test", user_id=bo)

    run = plan_then_load(product, somebody_sets_both)
    assert product.outcomes(run.id) == {
        ada: ("update", "conflict", "id_on_other_person"),
        bo: ("create", "conflict", "set_elsewhere"),
    }


# --- creates: the address, or the id, is taken by now ----------------------------------------------------------------


@pytest.mark.parametrize(
    "vendors", [OpenQuestions(), OpenQuestions(uniqueness_status=409)], indirect=True, ids=["400", "409"]
)
def test_a_person_made_after_the_plan_gets_the_id_and_undo_takes_back_only_that(product: AttioProduct) -> None:
    ada = product.user("ada@example.com", first_name="Ada")
    made: list[str] = []
    run = plan_then_load(product, lambda: made.append(product.person("ADA@example.com", job_title=["Countess"])))
    assert product.people_with(ada) == made
    row = product.changes(run.id)[ada]
    assert (row["action"], row["reason"], row["state"], row["record_id"]) == (
        "update",
        "matched_since_plan",
        "applied",
        made[0],
    )
    assert (run.details["created"], run.details["updated"], run.details["matched_since_plan"]) == (0, 1, 1)
    assert product.crm.contents("people", made[0], "name") == [], "an update writes the id alone"
    assert verified(run)["passed"]
    again = product.run()
    assert (again.counts["applied"], again.reasons) == (0, {"already_set": 1})
    assert product.undo(run).undone == 1
    assert product.people() == {made[0]: (("ada@example.com",), ())}


def test_it_is_not_deleted_even_where_the_same_key_made_it_a_moment_before(product: AttioProduct) -> None:
    ada = product.user("ada@example.com")
    token = product.crm.seeded.token_actor
    run = plan_then_load(product, lambda: product.person("ada@example.com", by=token))
    assert product.undo(run).undone == 1
    assert [ids for _, ids in product.people().values()] == [()]
    assert product.people_with(ada) == []


@pytest.mark.parametrize(
    ("user_id", "code"), [("user_of_theirs", "other_user_id"), ("own", "already_set")], ids=["other", "own"]
)
def test_a_person_made_after_the_plan_with_an_id_is_left(product: AttioProduct, user_id: str, code: str) -> None:
    ada = product.user("ada@example.com")
    held = ada if user_id == "own" else user_id
    run = plan_then_load(product, lambda: product.person("ada@example.com", user_id=held))
    assert product.outcomes(run.id)[ada] == ("create", "conflict", code)
    assert [ids for _, ids in product.people().values()] == [(held,)]
    assert product.undo(run).undone == 0


def test_overwriting_is_planned_again_too_and_undo_brings_the_other_id_back(product: AttioProduct) -> None:
    ada = product.user("ada@example.com")
    assert succeeded(product.run(steps=DRY_RUN))
    record_id = product.person("ada@example.com", user_id="user_of_theirs")
    run = product.run(steps=LOAD_ONLY, overwrite=True)
    assert product.people_with(ada) == [record_id]
    assert product.undo(run).undone == 1
    assert product.people_with("user_of_theirs") == [record_id]


def test_nobody_is_created_whose_id_somebody_has_set_elsewhere_by_now(product: AttioProduct) -> None:
    ada = product.user("ada@example.com")
    run = plan_then_load(product, lambda: product.person("elsewhere@home.test", user_id=ada))
    assert product.outcomes(run.id)[ada] == ("create", "conflict", "set_elsewhere")
    assert len(product.people()) == 1


def test_one_person_made_for_two_users_is_given_to_the_first_and_to_nobody_else(product: AttioProduct) -> None:
    ada, bo = product.user("ada@example.com"), product.user("bo@example.com")
    run = plan_then_load(product, lambda: product.person("ada@example.com", "bo@example.com"))
    outcomes = product.outcomes(run.id)
    assert sorted(state for _, state, _ in outcomes.values()) == ["applied", "conflict"]
    assert {code for _, _, code in outcomes.values()} <= {"matched_since_plan", "shared_person", "other_user_id"}
    assert [len(ids) for _, ids in product.people().values()] == [1]
    assert product.undo(run).undone == 1
    assert {ada, bo} & {each for _, ids in product.people().values() for each in ids} == set()


def test_a_person_that_another_row_writes_to_is_nobody_elses(product: AttioProduct) -> None:
    ada, bo = product.user("ada@example.com"), product.user("bo@example.com")
    record_id = product.person("ada@example.com")

    def somebody_adds_an_address() -> None:
        product.crm.write(
            "people", {"email_addresses": ["bo@example.com"]}, actor=product.crm.seeded.member, record_id=record_id
        )

    run = plan_then_load(product, somebody_adds_an_address)
    assert product.outcomes(run.id)[bo] == ("create", "conflict", "shared_person")
    assert product.people_with(ada) == [record_id]


def test_several_people_made_after_the_plan_are_ambiguous(product: AttioProduct) -> None:
    product.crm.alter_attribute("people", "user_id", unique=True)
    ada = product.user("ada@example.com")

    def somebody_makes_two() -> None:
        product.person("ada@example.com", user_id="user_of_theirs")
        product.person("elsewhere@home.test", user_id=ada)

    run = plan_then_load(product, somebody_makes_two)
    assert product.outcomes(run.id)[ada] == ("create", "conflict", "other_user_id")


def test_a_refusal_that_names_nobody_fails_the_row_and_no_other(product: AttioProduct) -> None:
    ada, bo = product.user("ada@example.com"), product.user("bo@example.com")
    product.fault("nameless_conflict", method="POST", path=RECORDS)
    run = plan_then_load(product, lambda: product.person("ada@example.com"))
    assert product.outcomes(run.id)[ada] == ("create", "failed", "nameless_conflict")
    assert (run.counts["failed"], run.details["errors"]) == (1, {"nameless_conflict": 1})
    assert len(product.people_with(bo)) == 1


# --- replies that are lost -------------------------------------------------------------------------------------------

LOST = ["lost_reply", "reset", "cut_body", "truncated_json"]


@pytest.mark.parametrize("kind", LOST)
def test_nobody_is_created_twice_whatever_happens_to_the_reply(product: AttioProduct, kind: str) -> None:
    users = [product.user(f"person{number}@example.com") for number in range(12)]
    product.fault(kind, method="POST", path=RECORDS, nth=3, count=4)
    run = product.run()
    assert succeeded(run)
    assert [len(product.people_with(each)) for each in users] == [1] * 12
    assert len(product.people()) == 12
    assert (run.counts["applied"], run.counts["failed"]) == (12, 0)
    assert product.undo(run).undone == 12
    assert product.people() == {}


@pytest.mark.parametrize("kind", LOST)
def test_an_update_whose_reply_is_lost_is_done_once(product: AttioProduct, kind: str) -> None:
    users = [product.user(f"person{number}@example.com") for number in range(12)]
    for number in range(12):
        product.person(f"person{number}@example.com")
    product.fault(kind, method="PATCH", nth=2, count=5)
    run = product.run()
    assert succeeded(run)
    assert [len(product.people_with(each)) for each in users] == [1] * 12
    assert run.counts["applied"] == 12
    values = [held["user_id"] for held in product.everything().values()]
    assert [len(each) for each in values] == [1] * 12
    assert product.undo(run).undone == 12


def test_a_create_whose_reply_is_lost_is_found_by_one_look_up(product: AttioProduct) -> None:
    ada = product.user("ada@example.com")
    assert succeeded(product.run(steps=DRY_RUN))
    product.fault("lost_reply", method="POST", path=RECORDS, nth=1)
    asked = len(product.requests())
    run = product.run(steps=LOAD_ONLY)
    assert run.counts["applied"] == 1
    # Who has the id, the create, whether it was done; then people are read again: whether there are many, and a page.
    paths = [each.path for each in product.requests()[asked + 1 :]]
    assert paths == [PEOPLE_QUERY, RECORDS, PEOPLE_QUERY, PEOPLE_QUERY, PEOPLE_QUERY]
    assert product.writes() == {"POST": 1}
    assert len(product.people_with(ada)) == 1


def test_a_create_that_arrives_after_it_was_looked_for_is_ours_all_the_same(product: AttioProduct) -> None:
    ada = product.user("ada@example.com")
    assert succeeded(product.run(steps=DRY_RUN))
    token = product.crm.seeded.token_actor
    product.fault("reset", method="POST", path=RECORDS, nth=1)
    product.after(lambda: product.person("ada@example.com", user_id=ada, by=token), path=PEOPLE_QUERY, nth=2)
    run = product.run(steps=LOAD_ONLY)
    assert product.outcomes(run.id)[ada] == ("create", "applied", None)
    assert (product.writes(), len(product.people())) == ({"POST": 1}, 1)
    assert product.undo(run).undone == 1
    assert product.people() == {}


def test_an_update_that_arrives_after_it_was_looked_for_is_ours_all_the_same(product: AttioProduct) -> None:
    ada, token = product.user("ada@example.com"), product.crm.seeded.token_actor
    record_id = product.person("ada@example.com")
    assert succeeded(product.run(steps=DRY_RUN))
    product.fault("reset", method="PATCH", nth=1)
    product.after(lambda: product.set_user_id(record_id, ada, by=token), path=PEOPLE_QUERY, nth=2)
    run = product.run(steps=LOAD_ONLY)
    assert product.outcomes(run.id)[ada] == ("update", "applied", None)
    assert product.writes() == {"PATCH": 1}
    assert product.undo(run).undone == 1


@pytest.mark.parametrize("kind", ["lost_reply", "reset"])
def test_a_row_planned_again_whose_reply_is_lost_stays_an_update(product: AttioProduct, kind: str) -> None:
    ada = product.user("ada@example.com")
    product.fault(kind, method="PATCH", nth=1, count=1)
    token = product.crm.seeded.token_actor
    run = plan_then_load(product, lambda: product.person("ada@example.com", by=token))
    assert product.outcomes(run.id)[ada] == ("update", "applied", "matched_since_plan")
    assert product.undo(run).undone == 1
    assert [ids for _, ids in product.people().values()] == [()]


@pytest.mark.parametrize("kind", ["lost_reply", "reset"])
def test_replies_lost_while_it_is_taken_back_change_nothing(product: AttioProduct, kind: str) -> None:
    for number in range(6):
        product.user(f"created{number}@example.com")
        product.user(f"known{number}@example.com")
        product.person(f"known{number}@example.com")
    before = product.people()
    run = product.run()
    product.fault(kind, method="PATCH", nth=2, count=3)
    product.fault(kind, method="DELETE", nth=2, count=2)
    undone = product.undo(run)
    assert (undone.undone, undone.conflict) == (12, 0)
    assert product.people() == before


@pytest.mark.parametrize(
    "vendors",
    [OpenQuestions(clears="either"), OpenQuestions(clears="empty_list"), OpenQuestions(clears="null")],
    indirect=True,
    ids=["either", "empty_list", "null"],
)
def test_an_id_is_taken_back_whichever_way_attio_empties_a_text(product: AttioProduct) -> None:
    product.user("ada@example.com")
    product.person("ada@example.com")
    before = product.people()
    assert product.undo(product.run()).undone == 1
    assert product.people() == before


@answers(clears="neither")
def test_where_attio_empties_no_text_the_rest_is_taken_back_all_the_same(product: AttioProduct) -> None:
    ada, bo = product.user("ada@example.com"), product.user("bo@example.com")
    record_id = product.person("ada@example.com")
    undone = product.undo(product.run())
    assert (undone.undone, undone.conflict, set(undone.reasons)) == (1, 1, {"rejected_request"})
    assert (product.people_with(ada), product.people_with(bo)) == ([record_id], [])


def test_a_write_that_attio_says_it_did_not_execute_is_sent_again(product: AttioProduct) -> None:
    users = [product.user(f"person{number}@example.com") for number in range(5)]
    product.fault("concurrent_write_conflict", method="POST", path=RECORDS, nth=2, count=3)
    run = product.run()
    assert run.counts["applied"] == 5
    assert [len(product.people_with(each)) for each in users] == [1] * 5


def test_an_outage_during_the_load_is_not_met_with_every_row_of_it(product: AttioProduct) -> None:
    users = [product.user(f"person{number}@example.com") for number in range(150)]
    product.fault("status", status=503, method="POST", path=RECORDS, nth=30, count=10_000)
    run = product.run()
    assert failure(run) == (State.FAILED, "ambiguous_write")
    assert run.resumable
    written = len(product.people())
    assert 0 < written < 40
    assert product.writes()["POST"] < 3 * 80 + 40, "three attempts, each given up early"
    journalled = sum(state == "applied" for _, state, _ in product.outcomes(run.id).values())
    assert journalled == written
    product.server.clear_faults()
    done = product.run()
    assert (done.id, done.counts["applied"]) == (run.id, 150)
    assert [len(product.people_with(each)) for each in users] == [1] * 150


def test_a_key_that_is_revoked_during_the_load_loses_nothing_that_is_journalled(product: AttioProduct) -> None:
    for number in range(100):
        product.user(f"person{number}@example.com")
    product.after(lambda: product.attio.state.revoke(product.crm.seeded.token), path=RECORDS, method="POST", nth=40)
    run = product.run()
    assert failure(run) == (State.FAILED, "unauthorized")
    written = len(product.people())
    journalled = sum(state == "applied" for _, state, _ in product.outcomes(run.id).values())
    assert journalled == written == 40
