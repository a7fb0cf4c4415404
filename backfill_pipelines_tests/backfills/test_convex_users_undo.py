"""How `convex_users` takes a run back: every byte, where nobody has changed the field since."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from backfill_pipelines.sandbox.convex_data import FIELDS
from backfill_pipelines.sandbox.convex_functions import ConvexLimits
from backfill_pipelines_tests.backfills.convex_product import (
    CLERK,
    DIFFERENT,
    MUTATION,
    QUERY,
    ROWS,
    SMALL_PAGE,
    ConvexProduct,
    in_small_portions,
    serving,
    succeeded,
    unhurried,
    verified,
)


@pytest.fixture
def product(
    database: Engine, database_url: SecretStr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ConvexProduct]:
    unhurried(monkeypatch)
    in_small_portions(monkeypatch)
    with serving(database, database_url, tmp_path, instances=[CLERK]) as running:
        yield running


@pytest.mark.parametrize("clear_nulls", [False, True])
def test_undo_brings_back_every_byte(product: ConvexProduct, clear_nulls: bool) -> None:
    before = product.documents()
    run = product.run(clear_nulls=clear_nulls)
    assert succeeded(run)
    assert product.documents() != before
    undone = product.undo(run)
    assert (undone.undone, undone.conflict) == (run.counts["applied"], 0)
    assert product.documents() == before
    again = product.undo(run)
    assert (again.undone, again.conflict) == (0, 0)


def test_undo_tells_null_from_absent(product: ConvexProduct) -> None:
    held = {"null": {"firstName": None}, "value": {"firstName": "Old"}, "left_over": {"lastName": "left over"}}
    ids = {each: product.member(f"{each}@example.com", held=held[each], first_name="New") for each in held}
    ids["absent"] = product.member("absent@example.com", first_name="New")
    product.app.change(product.row(ids["absent"])["_id"], remove=["firstName"])
    before = {each: product.row(user_id) for each, user_id in ids.items()}
    run = product.run(clear_nulls=True)
    assert {product.row(user_id).get("firstName") for user_id in ids.values()} == {"New"}
    assert "lastName" not in product.row(ids["left_over"])
    assert product.undo(run).conflict == 0
    assert {each: product.row(user_id) for each, user_id in ids.items()} == before
    assert before["null"]["firstName"] is None
    assert "firstName" not in before["absent"]


def test_what_somebody_has_changed_since_stays_and_a_dry_run_says_the_same(product: ConvexProduct) -> None:
    names = ("edited", "emptied", "elsewhere", "gone", "doubled", "handed_over", "back_already", "plain")
    ids = {each: product.member(f"{each}@example.com", held={"firstName": "Old"}, first_name="New") for each in names}
    run = product.run()
    row = {each: product.row(user_id)["_id"] for each, user_id in ids.items()}
    app = product.app
    app.change(row["edited"], firstName="Theirs")
    app.change(row["emptied"], remove=["firstName"])
    app.change(row["elsewhere"], email="theirs@example.com")
    app.delete(row["gone"])
    app.insert(clerkId=ids["doubled"])
    app.change(row["handed_over"], clerkId="user_of_somebody_else")
    app.change(row["back_already"], firstName="Old")
    before, asked = product.documents(), len(product.server.requests)
    dry = product.undo(run, dry_run=True)
    assert product.documents() == before
    # All batches share one reading of the table, and nothing that writes is called.
    assert product.calls(since=asked) == {QUERY: -(-len(before) // SMALL_PAGE)}
    undone = product.undo(run)
    for each in (dry, undone):
        assert (each.undone, each.conflict, each.reasons) == (DIFFERENT + 3, 5, {"changed_since": 5})
    after = product.documents()
    assert {each for each in row if row[each] in before and after[row[each]] != before[row[each]]} == {
        "elsewhere",
        "plain",
    }
    assert (after[row["elsewhere"]]["firstName"], after[row["elsewhere"]]["email"]) == ("Old", "theirs@example.com")
    states = product.outcomes(run.id)
    assert {states[ids[each]][1:] for each in ("edited", "gone")} == {("applied", "changed_since")}


EIGHT = {
    "first_name": "Ada",
    "last_name": "Quill",
    "username": "ada",
    "image_url": "https://img.example.com/ada",
    "last_sign_in_at": 1_704_704_400_000,
    "last_active_at": 1_704_704_500_000,
}
OLD = {
    "firstName": "Old",
    "lastName": None,
    "email": "old@example.com",
    "username": "old",
    "imageUrl": "https://img.example.com/old",
    "lastSignInAt": 1_600_000_000_000,
    "createdAt": 1_600_000_000_001,
    "lastActiveAt": 1_600_000_000_002,
}


def test_of_a_row_in_which_somebody_has_changed_one_field_the_others_go_back(product: ConvexProduct) -> None:
    ids = [product.member(f"{name}@example.com", held=OLD, **{**EIGHT, "username": name}) for name in ("ada", "bo")]
    before = [product.row(user_id) for user_id in ids]
    run = product.run()
    assert all(set(product.row(user_id).items()) & set(OLD.items()) == set() for user_id in ids)
    for row, edit in zip(before, ({"firstName": "Theirs"}, {"lastActiveAt": 1_704_800_000_000}), strict=True):
        product.app.change(row["_id"], **edit)
    dry = product.undo(run, dry_run=True)
    assert product.row(ids[0])["lastName"] == "Quill", "nothing is written by a dry run"
    undone = product.undo(run)
    for each in (dry, undone):
        assert (each.undone, each.conflict, each.reasons) == (DIFFERENT, 2, {"changed_since": 2})
    assert [product.row(user_id) for user_id in ids] == [
        {**before[0], "firstName": "Theirs"},
        {**before[1], "lastActiveAt": 1_704_800_000_000},
    ]
    outcomes = product.outcomes(run.id)
    assert {outcomes[user_id] for user_id in ids} == {("update", "applied", "changed_since")}


def test_to_undo_a_row_again_of_which_a_part_was_undone_writes_nothing_until_the_rest_is_ours(
    product: ConvexProduct,
) -> None:
    ada = product.member("ada@example.com", held=OLD, **EIGHT)
    before, run = product.row(ada), product.run()
    product.app.change(before["_id"], firstName="Theirs")
    product.undo(run)
    documents, written = product.documents(), product.patched
    for dry_run in (True, False):
        again = product.undo(run, dry_run=dry_run)
        assert (again.undone, again.conflict) == (0, 1)
    assert (product.documents(), product.patched) == (documents, written)
    product.app.change(before["_id"], firstName="Ada", lastName="Changed after it was undone")
    third = product.undo(run)
    assert (third.undone, third.conflict) == (0, 1)
    assert product.row(ada) == {**before, "lastName": "Changed after it was undone"}
    product.app.change(before["_id"], lastName=None)
    assert (product.undo(run).undone, product.row(ada)) == (1, before)


def test_a_row_is_undone_where_somebody_has_put_a_part_of_it_back_already(product: ConvexProduct) -> None:
    ada = product.member("ada@example.com", held=OLD, **EIGHT)
    before, run = product.row(ada), product.run()
    product.app.change(before["_id"], email="old@example.com", lastName=None)
    for dry_run in (True, False):
        undone = product.undo(run, dry_run=dry_run)
        assert (undone.undone, undone.conflict) == (DIFFERENT + 1, 0)
    assert product.row(ada) == before


def test_who_changes_a_row_while_it_is_undone_keeps_it_and_the_next_undo_does_the_rest(product: ConvexProduct) -> None:
    ada = product.member("ada@example.com", held=OLD, **EIGHT)
    before, run = product.row(ada), product.run()
    product.app.change(before["_id"], firstName="Theirs")
    last = -(-len(product.documents()) // SMALL_PAGE)
    asked = product.calls()[QUERY]
    product.after(lambda: product.app.change(before["_id"], email="late@example.com"), path=QUERY, nth=last)
    undone = product.undo(run)
    assert product.calls()[QUERY] == asked + last
    assert (undone.undone, undone.reasons) == (DIFFERENT, {"changed_since": 1})
    theirs = {"firstName": "Theirs", "email": "late@example.com"}
    assert {name: product.row(ada)[name] for name in theirs} == theirs
    assert product.row(ada)["lastName"] == "Quill"
    assert product.undo(run).conflict == 1
    assert product.row(ada) == {**before, **theirs}


@pytest.mark.parametrize("fault", ["lost_reply", "truncated_json", "write_conflict"])
def test_a_lost_reply_of_the_part_that_goes_back_leaves_nothing_behind(product: ConvexProduct, fault: str) -> None:
    ada = product.member("ada@example.com", held=OLD, **EIGHT)
    before, run = product.row(ada), product.run()
    product.app.change(before["_id"], firstName="Theirs")
    for nth in range(1, 14, 2):
        product.fault(fault, path=MUTATION, nth=nth)
    undone = product.undo(run)
    assert (undone.undone, undone.reasons) == (DIFFERENT, {"changed_since": 1})
    assert product.row(ada) == {**before, "firstName": "Theirs"}


def test_a_field_that_holds_what_it_cannot_hold_stays_and_the_others_go_back(product: ConvexProduct) -> None:
    odd = product.member("ada@example.com", held=OLD, **EIGHT)
    aside = product.member("bo@example.com", held={"firstName": "Old"}, first_name="Bo")
    before, also, run = product.row(odd), product.row(aside), product.run()
    product.app.change(before["_id"], lastSignInAt="yesterday")
    product.app.change(also["_id"], lastActiveAt=["of no concern here"])
    for dry_run in (True, False):
        undone = product.undo(run, dry_run=dry_run)
        assert (undone.undone, undone.reasons) == (DIFFERENT + 1, {"changed_since": 1})
    assert product.row(odd) == {**before, "lastSignInAt": "yesterday"}
    assert product.row(aside) == {**also, "lastActiveAt": ["of no concern here"]}


def test_an_undo_reads_no_table_unless_somebody_has_changed_a_row(product: ConvexProduct) -> None:
    run = product.run()
    asked = len(product.server.requests)
    assert product.undo(run).undone == DIFFERENT
    assert set(product.calls(since=asked)) == {MUTATION}


@pytest.mark.parametrize("dry_run", [True, False])
def test_what_retention_has_blanked_is_left_and_said_as_such(product: ConvexProduct, dry_run: bool) -> None:
    run, loaded = product.run(), product.documents()
    with product.database.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE backfill.change SET record_key = 'forgotten', before = NULL, after = NULL,"
            " error_code = 'forgotten' WHERE mod(seq, 2) = 0"
        )
    forgotten = product.query("SELECT count(*) AS n FROM backfill.change WHERE state = 'applied' AND after IS NULL")
    undone = product.undo(run, dry_run=dry_run)
    assert undone.reasons == {"forgotten": forgotten[0]["n"]}
    assert undone.undone == DIFFERENT - forgotten[0]["n"]
    assert (product.documents() == loaded) is dry_run


def test_what_the_schema_no_longer_allows_is_said_as_such(product: ConvexProduct) -> None:
    ada = product.member("ada@example.com", held={"firstName": None}, first_name="Ada")
    run = product.run()
    anything = frozenset({"string", "number", "null", "absent", "other"})
    kinds = dict.fromkeys((*FIELDS, "clerkId", "role", "credits", "settings", "bio"), anything)
    product.app.tables["users"].kinds = {**kinds, "firstName": frozenset({"string", "absent"})}
    undone = product.undo(run)
    refused = [each for each in product.changes(run.id).values() if each["error_code"] == "refused_by_schema"]
    assert ada in {each["record_key"] for each in refused}
    assert undone.reasons == {"refused_by_schema": len(refused)}
    assert undone.undone == DIFFERENT + 1 - len(refused) > 0
    assert product.row(ada)["firstName"] == "Ada"


@pytest.mark.parametrize("fault", ["lost_reply", "truncated_json", "function_timeout", "write_conflict"])
def test_a_lost_reply_of_an_undo_leaves_nothing_behind(product: ConvexProduct, fault: str) -> None:
    before = product.documents()
    run = product.run()
    product.fault(fault, path=MUTATION, nth=2)
    undone = product.undo(run)
    assert (undone.undone, undone.conflict) == (DIFFERENT, 0)
    assert product.documents() == before


def test_an_undo_that_fails_in_the_middle_is_finished_by_the_next(product: ConvexProduct) -> None:
    before = product.documents()
    run = product.run()
    product.after(lambda: setattr(product.app, "functions", "absent"), path=MUTATION, nth=2)
    broken = product.undo(run)
    assert (broken.run.error_code, 0 < broken.undone < DIFFERENT) == ("functions_not_deployed", True)
    product.app.functions = "deployed"
    rest = product.undo(run)
    assert broken.undone + rest.undone == DIFFERENT
    assert product.documents() == before


def test_an_undo_that_fails_within_a_batch_is_finished_by_the_next(product: ConvexProduct) -> None:
    before = product.documents()
    run = product.run()
    product.convex.limits = ConvexLimits(documents_written=2)

    def withdraw() -> None:
        if product.patched > DIFFERENT:
            product.app.functions = "absent"

    for nth in range(1, 9):
        product.after(withdraw, path=MUTATION, nth=nth)
    broken = product.undo(run)
    assert broken.run.error_code == "functions_not_deployed"
    product.server.clear_faults()
    product.app.functions = "deployed"
    rest = product.undo(run)
    assert broken.undone + rest.undone == DIFFERENT
    assert product.documents() == before


def test_half_a_run_is_taken_back_as_far_as_it_came(product: ConvexProduct) -> None:
    before, stop = product.documents(), threading.Event()
    product.after(stop.set, path=MUTATION, nth=1)
    run = product.run(stop=stop)
    undone = product.undo(run)
    assert (undone.undone, undone.conflict) == (8, 0)
    assert product.documents() == before


def test_after_an_undo_the_next_run_does_it_all_again(product: ConvexProduct) -> None:
    first = product.run()
    loaded = product.documents()
    product.undo(first)
    again = product.run()
    assert (again.id != first.id, again.plan_hash, again.counts["applied"]) == (True, first.plan_hash, DIFFERENT)
    assert product.documents() == loaded
    assert verified(product.verify())["passed"]
    assert len(loaded) == ROWS
