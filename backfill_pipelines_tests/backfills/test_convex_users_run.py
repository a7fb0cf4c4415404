"""`convex_users` end to end, against the fake vendors: what a run reads, plans, writes, says and checks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, text

from backfill_pipelines.definitions import build_defs
from backfill_pipelines.engine.dagster_metadata import run_metadata
from backfill_pipelines.engine.ledger import Run, State
from backfill_pipelines_tests.backfills.convex_product import (
    ACME,
    BACKFILL,
    BOLT,
    DIFFERENT,
    DRY_RUN,
    EMPTY_CLERK,
    LOAD_ONLY,
    MUTATION,
    QUERY,
    ROWS,
    SMALL_PAGE,
    USERS,
    ConvexProduct,
    fields_of,
    in_small_portions,
    in_workspace,
    others_of,
    serving,
    succeeded,
    unhurried,
    verified,
)
from backfill_pipelines_tests.backfills.convex_users_reference import expected

FIGURES = ("totalClerkUsers", "successCount", "errorCount", "reasons")


@pytest.fixture
def product(
    database: Engine, database_url: SecretStr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ConvexProduct]:
    unhurried(monkeypatch)
    in_small_portions(monkeypatch)
    with serving(database, database_url, tmp_path) as running:
        yield running


def told(run: Run) -> dict[str, Any]:
    """The run's own figures, whose time is now."""
    moment = datetime.fromisoformat(run.details["timestamp"])
    assert timedelta(0) <= datetime.now(UTC) - moment < timedelta(minutes=5)
    return {name: run.details[name] for name in FIGURES}


# --- what a run does -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clear_nulls", [False, True])
def test_a_run_does_what_the_rules_say_to_everybody(product: ConvexProduct, *, clear_nulls: bool) -> None:
    before, world = product.documents(), product.world()
    reference = expected(world, clear_nulls=clear_nulls)
    run = product.run(clear_nulls=clear_nulls)
    assert succeeded(run)
    after = product.documents()
    assert {key: fields_of(each) for key, each in after.items()} == reference.table
    assert {key: others_of(each) for key, each in after.items()} == {k: others_of(each) for k, each in before.items()}
    actions = Counter(action for action, _ in reference.outcomes.values())
    names = ("source", "create", "update", "skip", "conflict", "reject", "applied", "failed")
    assert {name: run.counts[name] for name in names} == {
        "source": USERS,
        "create": 0,
        "applied": actions["update"],
        "failed": 0,
        **{name: actions[name] for name in ("update", "skip", "conflict", "reject")},
    }
    reasons = Counter(reason for _, reason in reference.outcomes.values() if reason is not None)
    assert run.reasons == reasons
    assert (reasons["not_in_convex"], reasons["duplicate_rows"]) == (20, 3)
    assert product.outcomes(run.id) == {
        key: (action, "applied" if action == "update" else "planned", reason)
        for key, (action, reason) in reference.outcomes.items()
        if action != "skip"
    }


def test_only_fields_that_differ_are_sent(product: ConvexProduct) -> None:
    before = product.documents()
    run = product.run()
    for row in product.changes(run.id).values():
        if row["action"] == "update":
            assert set(row["before"]) | set(row["after"]) < {"_id", *fields_of(before[row["record_id"]]), *row["after"]}
            assert len(row["after"]) == 2, "one field of each row has drifted"
            assert row["record_id"] == row["before"]["_id"] == row["after"]["_id"]


def test_clearing_is_asked_for(product: ConvexProduct) -> None:
    left = product.member("ada@example.com", held={"lastName": "left over", "username": None})
    assert succeeded(product.run())
    assert product.row(left)["lastName"] == "left over"
    assert succeeded(product.run(clear_nulls=True))
    assert "lastName" not in product.row(left)
    assert product.row(left)["username"] is None, "null is as good as nothing"


def test_a_run_reads_each_side_once_and_writes_in_batches(product: ConvexProduct) -> None:
    run = product.run()
    assert succeeded(run)
    assert product.calls() == {
        "/users/count": 1,
        "/users": 1,
        QUERY: -(-ROWS // SMALL_PAGE),
        MUTATION: -(-DIFFERENT // 4),
    }


def test_a_second_run_makes_no_mutation_call(product: ConvexProduct) -> None:
    assert succeeded(product.run(clear_nulls=True))
    documents, asked = product.documents(), len(product.server.requests)
    again = product.run(clear_nulls=True)
    assert succeeded(again)
    assert (again.counts["update"], again.counts["applied"]) == (0, 0)
    assert MUTATION not in product.calls(since=asked)
    assert product.documents() == documents
    assert verified(again)["passed"]


def test_a_dry_run_writes_nothing_and_its_plan_is_the_one_that_is_loaded(product: ConvexProduct) -> None:
    before = product.documents()
    dry = product.run(steps=DRY_RUN)
    assert succeeded(dry)
    assert (product.documents(), product.calls()[MUTATION]) == (before, 0)
    loaded = product.run(steps=LOAD_ONLY)
    assert succeeded(loaded)
    assert (loaded.id, loaded.plan_hash) == (dry.id, dry.plan_hash)
    assert loaded.counts["applied"] == dry.counts["update"] == DIFFERENT
    assert verified(loaded)["passed"]
    assert product.calls()[QUERY] == 2 * -(-ROWS // SMALL_PAGE), "to compare, the table is read after an earlier plan"


def test_a_plan_depends_neither_on_when_it_is_made_nor_on_the_order_of_what_is_landed(product: ConvexProduct) -> None:
    first = product.run(steps=DRY_RUN)
    assert first.plan_hash == product.run(steps=DRY_RUN, fresh=True).plan_hash
    assert first.plan_hash != product.run(steps=DRY_RUN, clear_nulls=True).plan_hash
    for table in ("clerk_user", "convex_user"):
        with product.database.begin() as connection:
            connection.execute(text(f"CREATE TEMP TABLE shuffled ON COMMIT DROP AS TABLE backfill.{table}"))
            connection.execute(text(f"TRUNCATE backfill.{table}"))
            statement = f"INSERT INTO backfill.{table} SELECT * FROM shuffled ORDER BY md5(shuffled::text)"
            connection.execute(text(statement))
    with product.runtime() as runtime:
        plan = BACKFILL.plan(runtime.scope(BACKFILL, ACME, options=BACKFILL.options_model(), run_id=first.id))
        keys = [key for frame in plan.frames for key in frame["record_key"].tolist()]
    assert keys == list(product.changes(first.id))


def test_at_most_so_many_are_written_and_the_next_runs_write_the_rest(product: ConvexProduct) -> None:
    part = product.run(max_records=6)
    assert succeeded(part)
    assert part.counts["applied"] == product.patched == part.details["successCount"] == 6
    assert verified(part)["different"] == DIFFERENT - 6, "those that wait are not hidden"
    rest = product.run()
    assert rest.counts["applied"] == DIFFERENT - 6
    assert verified(rest)["passed"]


def test_skips_are_rows_where_the_registry_wants_them_and_change_nothing_else(product: ConvexProduct) -> None:
    plain = product.run(steps=DRY_RUN)
    product.edit = in_workspace(lambda workspace: workspace.update(convex_users={"store_skips": True}))
    run = product.run(steps=DRY_RUN)
    assert succeeded(run)
    skips = [row for row in product.changes(run.id).values() if row["action"] == "skip"]
    assert len(skips) == run.counts["skip"] == plain.counts["skip"] > 0
    assert (run.plan_hash, run.reasons, told(run)) == (plain.plan_hash, plain.reasons, told(plain))


def test_other_names_of_table_index_and_field(product: ConvexProduct) -> None:
    members = product.app.tables["users"]
    members.name = "members"
    members.indexes = {"by_identity": "clerkId"}
    product.app.tables = {"members": members}
    names = {"table": "members", "index": "by_identity", "id_field": "clerkId"}
    product.edit = in_workspace(lambda workspace: workspace["convex"].update(names))
    run = product.run()
    assert succeeded(run)
    assert run.counts["applied"] == DIFFERENT


def test_workspaces_side_by_side_are_nobody_elses_business(product: ConvexProduct) -> None:
    runs = product.run_all(ACME, BOLT)
    assert succeeded(*runs.values())
    assert {key: run.details["totalClerkUsers"] for key, run in runs.items()} == {ACME: USERS, BOLT: 20}
    for key, run in runs.items():
        documents = product.documents(key)
        assert all(row["record_id"] in documents for row in product.changes(run.id).values() if row["record_id"])


def test_neither_users_nor_rows_is_nothing_to_do(database: Engine, database_url: SecretStr, tmp_path: Path) -> None:
    with serving(database, database_url, tmp_path, instances=[EMPTY_CLERK]) as empty:
        for number in range(5):
            empty.app.delete(empty.app.ids_of(f"user_2gone{number:04d}")[0])
        run = empty.run()
        assert succeeded(run)
        assert told(run) == {"totalClerkUsers": 0, "successCount": 0, "errorCount": 0, "reasons": {}}
        assert verified(run)["passed"]


# --- what a run says -------------------------------------------------------------------------------------------------

SKIPPED = {"duplicate_rows": 3, "not_in_convex": 20, "unchanged": 57}


def test_the_result_of_a_dry_run(product: ConvexProduct) -> None:
    run = product.run(steps=DRY_RUN)
    assert told(run) == {"totalClerkUsers": USERS, "successCount": 0, "errorCount": 3, "reasons": SKIPPED}
    assert (run.details["gone_from_clerk"], run.warnings) == (5, ["gone_from_clerk"])


def test_the_result_of_a_run_and_of_one_with_nothing_to_do(product: ConvexProduct) -> None:
    run = product.run()
    assert told(run) == {"totalClerkUsers": USERS, "successCount": DIFFERENT, "errorCount": 3, "reasons": SKIPPED}
    assert told(run)["reasons"] == run.reasons
    assert (run.details["gone_from_clerk"], run.warnings) == (5, ["gone_from_clerk"])
    assert run_metadata(run)[0]["details"].data == run.details
    again = product.run()
    reasons = {**SKIPPED, "unchanged": 57 + DIFFERENT}
    assert told(again) == {"totalClerkUsers": USERS, "successCount": 0, "errorCount": 3, "reasons": reasons}


def test_what_came_otherwise_than_planned_is_in_the_result(product: ConvexProduct) -> None:
    edited = product.member("ada@example.com", held={"firstName": "Augusta"}, first_name="Ada")
    # Once the last row is read, and before any is written.
    last = -(-(ROWS + 1) // SMALL_PAGE)
    product.after(lambda: product.app.change(product.row(edited)["_id"], firstName="Gus"), path=QUERY, nth=last)
    run = product.run()
    assert succeeded(run)
    reasons = {**SKIPPED, "stale": 1}
    assert told(run) == {"totalClerkUsers": USERS + 1, "successCount": DIFFERENT, "errorCount": 4, "reasons": reasons}
    assert run.reasons == reasons


def test_the_result_of_a_load_that_fails_is_how_far_it_came(product: ConvexProduct) -> None:
    product.after(lambda: setattr(product.app, "functions", "absent"), path=MUTATION, nth=2)
    run = product.run()
    assert run.state is State.FAILED
    figures = told(run)
    assert figures["successCount"] == run.counts["applied"] == product.patched == product.states(run.id)["applied"]
    assert 8 <= product.patched < DIFFERENT
    assert {**figures, "successCount": 0} == {
        "totalClerkUsers": USERS,
        "successCount": 0,
        "errorCount": 3,
        "reasons": SKIPPED,
    }


def test_the_result_of_a_verification(product: ConvexProduct) -> None:
    assert succeeded(product.run())
    run = product.verify()
    reasons = {**SKIPPED, "unchanged": 57 + DIFFERENT}
    assert told(run) == {"totalClerkUsers": USERS, "successCount": 0, "errorCount": 3, "reasons": reasons}
    assert run.warnings == ["gone_from_clerk"]


def test_nobody_gone_is_no_warning(product: ConvexProduct) -> None:
    for number in range(5):
        product.app.delete(product.app.ids_of(f"user_2gone{number:04d}")[0])
    run = product.run()
    assert (run.warnings, run.details["gone_from_clerk"]) == ([], 0)


def test_a_user_who_leaves_is_gone_the_next_time_and_the_row_stays(product: ConvexProduct) -> None:
    left = product.member("ada@example.com", first_name="Ada")
    assert product.run().details["gone_from_clerk"] == 5
    product.users.delete_users([left])
    row = product.row(left)
    run = product.run(clear_nulls=True)
    assert (run.details["gone_from_clerk"], product.row(left)) == (6, row)


# --- verify ----------------------------------------------------------------------------------------------------------


def test_a_comparison_right_after_the_load_says_what_one_that_reads_anew_says(product: ConvexProduct) -> None:
    run = product.run(clear_nulls=True)
    comparison = verified(run)
    assert comparison == {
        "equal": 77,
        "missing": 0,
        "extra": 5,
        "different": 0,
        "explained": 3,
        "passed": True,
    }
    asked = len(product.server.requests)
    assert verified(product.verify()) == comparison
    assert product.calls(since=asked) == {"/users/count": 1, "/users": 1, QUERY: -(-ROWS // SMALL_PAGE)}


def test_a_verification_names_who_differs_and_writes_nothing(product: ConvexProduct) -> None:
    wrong = [product.member(f"{name}@example.com", first_name=name) for name in ("ada", "bo")]
    assert succeeded(product.run())
    product.app.change(product.row(wrong[0])["_id"], firstName="Augusta")
    product.app.change(product.row(wrong[1])["_id"], remove=["email"])
    documents, asked = product.documents(), len(product.server.requests)
    run = product.verify()
    comparison = verified(run)
    assert (comparison["different"], comparison["equal"], comparison["passed"]) == (2, 77, False)
    assert run.verification is not None
    assert run.verification["examples"] == {"different_user_ids": sorted(wrong)}
    assert (product.documents(), MUTATION in product.calls(since=asked)) == (documents, False)


def test_what_a_load_left_as_a_conflict_is_explained_until_the_next_plan(product: ConvexProduct) -> None:
    edited = product.member("ada@example.com", held={"firstName": "Augusta"}, first_name="Ada")
    product.after(
        lambda: product.app.change(product.row(edited)["_id"], firstName="Gus"),
        path=QUERY,
        nth=-(-(ROWS + 1) // SMALL_PAGE),
    )
    run = product.run()
    assert product.outcomes(run.id)[edited] == ("update", "conflict", "stale")
    assert (verified(run)["explained"], verified(run)["passed"]) == (4, True)
    assert (verified(product.verify())["explained"], verified(product.verify())["passed"]) == (4, True)
    assert succeeded(product.run())
    assert product.row(edited)["firstName"] == "Ada"
    assert verified(product.verify())["explained"] == 3


# --- in Dagster ------------------------------------------------------------------------------------------------------


def test_every_sunday_at_two_once_somebody_switches_it_on() -> None:
    schedules = [each for each in build_defs().schedules or [] if "convex_users" in each.name]
    assert [each.cron_schedule for each in schedules if isinstance(each, dg.ScheduleDefinition)] == ["0 2 * * 0"]
    assert [each.default_status for each in schedules] == [dg.DefaultScheduleStatus.STOPPED]
