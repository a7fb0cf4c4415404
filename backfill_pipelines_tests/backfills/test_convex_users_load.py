"""How `convex_users` writes: against people who edit meanwhile, lost replies, limits, outages and interruptions."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from backfill_pipelines.engine.ledger import State
from backfill_pipelines.sandbox.convex_data import FIELDS
from backfill_pipelines.sandbox.convex_functions import ConvexLimits
from backfill_pipelines_tests.backfills.convex_product import (
    CLERK,
    DIFFERENT,
    DRY_RUN,
    LOAD_ONLY,
    MUTATION,
    QUERY,
    ROWS,
    SMALL_PAGE,
    ConvexProduct,
    failure,
    fields_of,
    in_small_portions,
    serving,
    succeeded,
    unhurried,
    verified,
)
from backfill_pipelines_tests.backfills.convex_users_reference import expected

PAGES = -(-ROWS // SMALL_PAGE)
BATCHES = -(-DIFFERENT // 4)


@pytest.fixture
def product(
    database: Engine, database_url: SecretStr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ConvexProduct]:
    unhurried(monkeypatch)
    in_small_portions(monkeypatch)
    with serving(database, database_url, tmp_path, instances=[CLERK]) as running:
        yield running


def check_complete(product: ConvexProduct, run: Any, *, as_of: Any) -> None:
    """Every row as it must be, each written once and journalled."""
    assert succeeded(run)
    assert {key: fields_of(each) for key, each in product.documents().items()} == expected(as_of).table
    assert product.patched == run.counts["applied"] == DIFFERENT
    assert product.states(run.id) == {"applied": DIFFERENT}
    assert verified(run)["passed"]


# --- what people do between plan and load ----------------------------------------------------------------------------


def test_what_moved_since_the_plan_is_left_as_it_is(product: ConvexProduct) -> None:
    names = ("edited", "emptied", "elsewhere", "gone", "doubled", "handed_over", "mended", "plain")
    ids = {each: product.member(f"{each}@example.com", held={"firstName": "Old"}, first_name="New") for each in names}
    dry = product.run(steps=DRY_RUN)
    row = {each: product.row(user_id)["_id"] for each, user_id in ids.items()}
    app = product.app
    app.change(row["edited"], firstName="Theirs")
    app.change(row["emptied"], remove=["firstName"])
    app.change(row["elsewhere"], email="theirs@example.com", role="owner")
    app.delete(row["gone"])
    app.insert(clerkId=ids["doubled"], firstName="Twin")
    app.change(row["handed_over"], clerkId="user_of_somebody_else")
    app.change(row["mended"], firstName="New")
    before = product.documents()
    run = product.run(steps=LOAD_ONLY)
    assert succeeded(run)
    assert {each: product.outcomes(run.id)[user_id][1:] for each, user_id in ids.items()} == {
        "edited": ("conflict", "stale"),
        "emptied": ("conflict", "stale"),
        "elsewhere": ("applied", None),
        "gone": ("conflict", "record_gone"),
        "doubled": ("conflict", "duplicate_rows"),
        "handed_over": ("conflict", "stale"),
        "mended": ("applied", None),
        "plain": ("applied", None),
    }
    after = product.documents()
    assert after[row["elsewhere"]] == {**before[row["elsewhere"]], "firstName": "New"}, "their edit stays"
    assert after.keys() == before.keys()
    for each in ("edited", "emptied", "doubled", "handed_over", "mended"):
        assert after[row[each]] == before[row[each]]
    assert run.counts["conflict"] == dry.counts["conflict"] + 5
    assert run.counts["applied"] == DIFFERENT + 3


def test_a_value_that_the_apps_schema_forbids_fails_alone(product: ConvexProduct) -> None:
    product.member("ada@example.com", held={"username": "left over"})
    anything = frozenset({"string", "number", "null", "absent", "other"})
    kinds = dict.fromkeys((*FIELDS, "clerkId", "role", "credits", "settings", "bio"), anything)
    product.app.tables["users"].kinds = {**kinds, "username": frozenset({"string"})}
    run = product.run(clear_nulls=True)
    assert succeeded(run)
    failed = [
        key
        for key, (_, state, code) in product.outcomes(run.id).items()
        if (state, code) == ("failed", "refused_by_schema")
    ]
    assert len(failed) == run.counts["failed"] > 0
    assert run.counts["applied"] == product.patched > 0
    assert run.details["errorCount"] == run.counts["failed"] + run.counts["conflict"]
    assert run.reasons["refused_by_schema"] == run.counts["failed"]


@pytest.mark.parametrize("held", [1e20, -1e20, 1.7e308, 1_704_700_800_000.25, 2.0**63, 5e-324], ids=str)
def test_numbers_that_no_time_can_be_are_replaced_and_can_be_put_back(product: ConvexProduct, held: float) -> None:
    ada = product.member("ada@example.com", held={"lastSignInAt": held}, last_sign_in_at=1_704_704_400_000)
    run = product.run()
    assert succeeded(run)
    assert product.row(ada)["lastSignInAt"] == 1_704_704_400_000
    assert product.undo(run).conflict == 0
    assert product.row(ada)["lastSignInAt"] == held


def test_texts_in_any_script_arrive_as_they_are(product: ConvexProduct) -> None:
    name = "Zoë \"quoted\" \\ back\nline \t 日本 😀 'x' \u2028 %s"
    ada = product.member("ada@example.com", held={"firstName": name + "!"}, first_name=name)
    run = product.run()
    assert product.row(ada)["firstName"] == name
    assert product.undo(run).conflict == 0
    assert product.row(ada)["firstName"] == name + "!"


# --- replies that never arrive ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["lost_reply", "truncated_json", "cut_body", "reset"])
def test_a_lost_reply_leaves_nothing_doubled_and_is_journalled_as_applied(product: ConvexProduct, fault: str) -> None:
    world = product.world()
    product.fault(fault, path=MUTATION, nth=2)
    run = product.run()
    check_complete(product, run, as_of=world)
    assert product.app.outcomes["already"] == (0 if fault == "reset" else 4)
    assert product.calls()[MUTATION] == BATCHES + 1


def test_where_no_reply_ever_comes_the_next_run_finds_what_was_written(product: ConvexProduct) -> None:
    world = product.world()
    product.fault("lost_reply", path=MUTATION)
    run = product.run()
    assert failure(run) == (State.FAILED, "deployment_unreachable")
    assert (run.resumable, product.states(run.id)) == (True, {"planned": DIFFERENT})
    written = product.patched
    assert written > 0
    product.server.clear_faults()
    again = product.run()
    assert again.id == run.id
    check_complete(product, again, as_of=world)
    assert again.details["successCount"] == DIFFERENT


def test_what_the_landing_says_after_lost_replies_is_what_is_there(product: ConvexProduct) -> None:
    product.fault("lost_reply", path=MUTATION, nth=1, count=3)
    run = product.run()
    assert verified(product.verify()) == verified(run)


# --- limits and outages ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "limits",
    [
        ConvexLimits(documents_written=3),
        ConvexLimits(patches_in_time=1),
        ConvexLimits(documents_read=7),
        ConvexLimits(documents_read=7, shortens_pages=False),
        ConvexLimits(index_ranges=3),
    ],
    ids=lambda limits: str(
        {name: value for name, value in limits._asdict().items() if value != ConvexLimits._field_defaults[name]}
    ),
)
def test_a_page_or_batch_over_a_limit_is_halved(
    database: Engine, database_url: SecretStr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: ConvexLimits
) -> None:
    unhurried(monkeypatch)
    in_small_portions(monkeypatch)
    with serving(database, database_url, tmp_path, instances=[CLERK], limits=limits) as product:
        world = product.world()
        check_complete(product, product.run(), as_of=world)


@pytest.mark.parametrize("path", [QUERY, MUTATION])
@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "rate_limited", "nth": 2, "count": 3},
        {"kind": "status", "status": 503, "nth": 2, "count": 2},
        {"kind": "overloaded", "nth": 2, "count": 2},
        {"kind": "write_conflict", "nth": 2, "count": 2},
        {"kind": "function_timeout", "nth": 2},
    ],
    ids=lambda fault: str(fault["kind"]),
)
def test_what_passes_is_waited_for(product: ConvexProduct, path: str, fault: dict[str, Any]) -> None:
    world = product.world()
    product.fault(path=path, **fault)
    check_complete(product, product.run(), as_of=world)


def test_a_function_that_fails_with_560_is_one_that_fails_with_200(product: ConvexProduct) -> None:
    world = product.world()
    product.fault("function_failure_560", path="/api/*")
    product.fault("function_timeout", path="/api/*", nth=2)
    check_complete(product, product.run(), as_of=world)


def test_writers_that_never_leave_a_row_alone_fail_the_run_for_now(product: ConvexProduct) -> None:
    product.fault("write_conflict", path=MUTATION)
    before = product.documents()
    run = product.run()
    assert (failure(run), run.resumable) == ((State.FAILED, "write_conflicts"), True)
    assert product.documents() == before


def test_an_outage_in_the_middle_of_the_load_is_gone_on_from(product: ConvexProduct) -> None:
    world = product.world()
    product.fault("status", status=503, path=MUTATION, nth=3, count=10_000)
    run = product.run()
    assert (run.state, run.resumable) == (State.FAILED, True)
    assert 0 < product.patched < DIFFERENT
    product.server.clear_faults()
    asked = len(product.server.requests)
    again = product.run()
    assert (again.id, again.plan_hash) == (run.id, run.plan_hash)
    check_complete(product, again, as_of=world)
    assert set(product.calls(since=asked)) == {MUTATION}, "neither read nor planned again"


def test_what_half_a_batch_has_written_before_the_failure_is_journalled(product: ConvexProduct) -> None:
    before = product.documents()
    product.convex.limits = ConvexLimits(documents_written=2)

    def withdraw() -> None:
        if product.patched:
            product.app.functions = "absent"

    for nth in range(1, 9):
        product.after(withdraw, path=MUTATION, nth=nth)
    run = product.run()
    assert failure(run) == (State.FAILED, "functions_not_deployed")
    assert product.states(run.id)["applied"] == run.details["successCount"] == product.patched > 0
    product.app.functions = "deployed"
    assert product.undo(run).undone == run.counts["applied"]
    assert product.documents() == before


# --- interruptions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [1, 3, PAGES])
def test_an_interrupted_reading_goes_on_with_the_next_page(product: ConvexProduct, page: int) -> None:
    world, stop = product.world(), threading.Event()
    product.after(stop.set, path=QUERY, nth=page)
    run = product.run(stop=stop)
    assert failure(run) == (State.INTERRUPTED, "interrupted")
    assert len(product.query("SELECT 1 FROM backfill.convex_user")) == (page - 1) * SMALL_PAGE
    again = product.run()
    assert again.id == run.id
    check_complete(product, again, as_of=world)
    assert product.calls()[QUERY] == PAGES + 1, "only the page that was not landed is read again"


def test_rows_that_come_and_go_while_the_reading_stands_still(product: ConvexProduct) -> None:
    stop = threading.Event()
    product.after(stop.set, path=QUERY, nth=3)
    product.run(stop=stop)
    landed = [row["document_id"] for row in product.query("SELECT document_id FROM backfill.convex_user ORDER BY 1")]
    product.app.delete(landed[0])
    late = product.member("late@example.com", held={"firstName": "Old"}, first_name="New")
    run = product.run()
    assert succeeded(run)
    assert landed[0] not in product.documents()
    # Where Clerk's list was read to its end before, the newcomer is not in it, and nothing is written for them.
    assert (product.row(late)["firstName"], run.details["gone_from_clerk"]) in {("Old", 6), ("New", 5)}
    again = product.run()
    assert (product.row(late)["firstName"], again.details["gone_from_clerk"]) == ("New", 5)


def test_an_interrupted_load_goes_on_with_the_next_rows(product: ConvexProduct) -> None:
    world, stop = product.world(), threading.Event()
    product.after(stop.set, path=MUTATION, nth=2)
    run = product.run(stop=stop)
    assert failure(run) == (State.INTERRUPTED, "interrupted")
    assert product.states(run.id) == {"applied": 8, "planned": DIFFERENT - 8}
    assert run.details["successCount"] == 8
    again = product.run()
    assert again.id == run.id
    check_complete(product, again, as_of=world)
    assert (again.details["successCount"], again.details["totalClerkUsers"]) == (DIFFERENT, 100)
    assert product.calls()[MUTATION] == BATCHES


def test_a_verification_that_is_interrupted_meanwhile_does_not_spoil_the_comparison(product: ConvexProduct) -> None:
    world, stop = product.world(), threading.Event()
    product.after(stop.set, path=MUTATION, nth=2)
    product.run(stop=stop)
    product.fault("status", status=500, path=QUERY, nth=2, count=10_000)
    assert product.verify().state is State.FAILED
    product.server.clear_faults()
    assert len(product.query("SELECT 1 FROM backfill.convex_user")) < ROWS
    run = product.run()
    check_complete(product, run, as_of=world)
    assert verified(run)["equal"] == 77


def test_a_page_that_fails_for_good_cancels_the_reading_of_clerk_with_its_own_error(product: ConvexProduct) -> None:
    product.fault("status", status=500, path=QUERY)
    product.fault("latency", vendor="clerk", seconds=1.0, path="/users")
    run = product.run()
    assert (run.state, run.resumable) == (State.FAILED, True)
    assert run.error_message is not None
    assert "Convex" in run.error_message


def test_who_signs_up_while_it_is_read_waits_for_the_next_run(product: ConvexProduct) -> None:
    product.after(
        lambda: product.member("late@example.com", held={"firstName": "Old"}, first_name="New"),
        path="/users",
        vendor="clerk",
    )
    assert succeeded(product.run())
    assert succeeded(product.run())
    (late,) = [each for each in product.documents().values() if each.get("email") == "late@example.com"]
    assert late["firstName"] == "New"
