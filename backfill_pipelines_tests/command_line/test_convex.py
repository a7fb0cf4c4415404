"""The commands on `convex_users`, and `backfill convex install`, as a user calls them."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from backfill_pipelines_tests.backfills.convex_product import (
    ACME,
    BOLT,
    DIFFERENT,
    MUTATION,
    USERS,
    ConvexProduct,
    in_workspace,
    serving,
    unhurried,
)
from backfill_pipelines_tests.installation import Installation

RUN = ("run", "convex_users", "--client", ACME, "--json")
VERIFY = ("verify", "convex_users", "--client", ACME, "--json")
PARTITION = {
    *("key", "run_id", "state", "plan_hash", "counts", "reasons", "warnings", "error_code", "error_message"),
    *("parked_until", "details", "verification"),
}
CANARY = "Kanarienvogel"


@pytest.fixture
def app(
    installation: Installation,
    product_tables: Engine,
    database_url: SecretStr,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[ConvexProduct]:
    """Two products, and a registry of them in the user's folder."""
    unhurried(monkeypatch)
    assert installation.folder == tmp_path
    with serving(product_tables, database_url, tmp_path) as product:
        product.registry()
        yield product


def test_a_dry_run_a_run_and_another_one(installation: Installation, app: ConvexProduct) -> None:
    before = app.documents()
    dry = installation(*RUN, "--dry-run")
    assert (dry.exit_code, dry.document["mode"], app.documents()) == (2, "plan", before)
    done = installation(*RUN)
    assert (done.exit_code, done.document["mode"]) == (0, "load")
    run = done.partitions[ACME]
    assert set(run) == PARTITION
    assert run["plan_hash"] == dry.partitions[ACME]["plan_hash"]
    details = dict(run["details"])
    assert details.pop("timestamp").startswith("20")
    assert details == {
        "totalClerkUsers": USERS,
        "successCount": DIFFERENT,
        "errorCount": 3,
        "reasons": {"duplicate_rows": 3, "not_in_convex": 20, "unchanged": 57},
        "gone_from_clerk": 5,
        "no_clerk_id": 0,
        "clerk_users": USERS,
    }
    assert (run["warnings"], run["verification"]["passed"]) == (["gone_from_clerk"], True)
    calls = app.calls()[MUTATION]
    assert installation(*RUN, "--dry-run").exit_code == 0, "conflicts alone are no changes"
    again = installation(*RUN)
    assert (again.exit_code, again.partitions[ACME]["counts"]["applied"]) == (0, 0)
    assert app.calls()[MUTATION] == calls


def test_nulls_are_cleared_on_request(installation: Installation, app: ConvexProduct) -> None:
    ada = app.member("ada@example.com", held={"lastName": "left over"})
    assert installation(*RUN).exit_code == 0
    assert app.row(ada)["lastName"] == "left over"
    assert installation(*RUN, "--clear-nulls", "--dry-run").exit_code == 2
    assert installation(*RUN, "--clear-nulls").exit_code == 0
    assert "lastName" not in app.row(ada)
    assert installation(*RUN, "--clear-nulls", "--dry-run").exit_code == 0


def test_an_option_of_another_backfill_is_a_mistake(installation: Installation, app: ConvexProduct) -> None:
    installation.refused("unknown_option", *RUN, "--overwrite")
    installation.refused("unknown_option", "run", "customers", "--all", "--clear-nulls")
    assert app.calls() == {}


def test_all_workspaces_at_once(installation: Installation, app: ConvexProduct) -> None:
    done = installation("run", "convex_users", "--all", "--json")
    assert (done.exit_code, list(done.partitions)) == (0, [ACME, BOLT])
    shown = installation("run", "convex_users", "--all")
    assert "reasons: duplicate_rows" in shown.stdout
    assert f"warning {ACME}: gone_from_clerk" in shown.stdout


def test_what_is_missing_is_3_alone_and_1_beside_others(installation: Installation, app: ConvexProduct) -> None:
    app.edit = in_workspace(lambda workspace: workspace["convex"].update(deploy_key="${CONVEX_DEPLOY_KEY}"))
    app.registry()
    alone = installation(*RUN)
    assert (alone.exit_code, alone.partitions[ACME]["error_code"]) == (3, "missing_variable")
    assert "CONVEX_DEPLOY_KEY is not set" in alone.partitions[ACME]["error_message"]
    both = installation("run", "convex_users", "--all", "--json")
    assert (both.exit_code, both.partitions[BOLT]["state"]) == (1, "succeeded")
    installation.environ["CONVEX_DEPLOY_KEY"] = app.app.seeded.deploy_key
    assert installation(*RUN).exit_code == 0


def test_functions_that_are_not_deployed_are_3_with_the_command_that_does_it(
    installation: Installation, app: ConvexProduct
) -> None:
    app.app.functions = "absent"
    refused = installation(*RUN)
    assert (refused.exit_code, refused.partitions[ACME]["error_code"]) == (3, "functions_not_deployed")
    assert "backfill convex install DIR" in refused.partitions[ACME]["error_message"]
    assert "functions_not_deployed" in installation("run", "convex_users", "--client", ACME).stdout


def test_verify_is_0_when_equal_1_when_not_and_3_when_it_cannot_ask(
    installation: Installation, app: ConvexProduct
) -> None:
    assert installation(*VERIFY).exit_code == 1, "it has not run yet"
    assert installation(*RUN).exit_code == 0
    equal = installation(*VERIFY)
    compared = equal.partitions[ACME]
    assert (equal.exit_code, compared["equal"], compared["explained"], compared["extra"]) == (0, 77, 3, 5)
    ada = app.member("ada@example.com", held={"firstName": "Augusta"}, first_name="Ada")
    differs = installation(*VERIFY)
    assert (differs.exit_code, differs.partitions[ACME]["examples"]) == (1, {"different_user_ids": [ada]})
    app.app.drop_index("by_clerkId")
    assert installation(*VERIFY).exit_code == 3


def test_undo_is_2_when_it_would_change_something_then_0_then_finds_nothing(
    installation: Installation, app: ConvexProduct
) -> None:
    before = app.documents()
    run_id = installation(*RUN).partitions[ACME]["run_id"]
    loaded = app.documents()
    dry = installation("undo", run_id, "--dry-run", "--json")
    assert (dry.exit_code, dry.partitions[ACME]["undone"], app.documents()) == (2, DIFFERENT, loaded)
    done = installation("undo", run_id, "--json")
    assert (done.exit_code, done.partitions[ACME]["undone"], app.documents()) == (0, DIFFERENT, before)
    again = installation("undo", run_id, "--json")
    assert (again.exit_code, again.partitions[ACME]["undone"]) == (0, 0)


def test_undo_is_1_where_somebody_has_changed_a_field_since(installation: Installation, app: ConvexProduct) -> None:
    ada = app.member("ada@example.com", held={"firstName": "Augusta"}, first_name="Ada")
    run_id = installation(*RUN).partitions[ACME]["run_id"]
    app.app.change(app.row(ada)["_id"], firstName="Gus")
    undone = installation("undo", run_id, "--json")
    assert (undone.exit_code, undone.partitions[ACME]["reasons"]) == (1, {"changed_since": 1})
    assert app.row(ada)["firstName"] == "Gus"


def test_no_value_and_no_key_is_shown_where_no_terminal_is(installation: Installation, app: ConvexProduct) -> None:
    app.member(f"{CANARY}@example.com", held={"firstName": f"{CANARY} before"}, first_name=CANARY)
    run_id = installation(*RUN).partitions[ACME]["run_id"]
    outcomes = [
        installation("run", "convex_users", "--client", ACME, "--verbose"),
        installation("show", run_id),
        installation("show", run_id, "--json"),
        installation("status", "convex_users"),
        installation("verify", "convex_users", "--client", ACME, "--verbose"),
        installation("undo", run_id, "--verbose"),
    ]
    assert [outcome.exit_code for outcome in outcomes] == [0] * 6
    for outcome in outcomes:
        for secret in (CANARY, app.app.seeded.deploy_key, app.users.seeded.secret_key):
            assert secret not in outcome.stdout + outcome.stderr


def test_the_access_is_checked_for_reading_and_for_writing(installation: Installation, app: ConvexProduct) -> None:
    checked = installation("clients", "--check", "--json")
    checks = {each["key"]: each["checks"] for each in checked.document["clients"]}
    assert (checked.exit_code, checks[ACME]) == (0, {"clerk": "ok", "convex": "ok"})
    before = app.documents()
    read_only = app.app.seeded.read_only_key
    app.edit = in_workspace(lambda workspace: workspace["convex"].update(deploy_key=read_only))
    app.registry()
    checked = installation("clients", "--check", "--json")
    checks = {each["key"]: each["checks"] for each in checked.document["clients"]}
    assert checks[ACME]["convex"].endswith("[missing_permission]")
    assert (checked.exit_code, checks[BOLT]["convex"], app.documents()) == (1, "ok", before)


# --- backfill convex install -----------------------------------------------------------------------------------------

OURS = files("backfill_pipelines").joinpath("convex", "backfill.ts").read_bytes()


def test_the_functions_are_installed_into_a_project(installation: Installation) -> None:
    folder = installation.folder / "my app" / "convex"
    folder.mkdir(parents=True)
    done = installation("convex", "install", str(folder), "--json")
    assert done.exit_code == 0
    assert done.document == {"installed": str(folder / "backfill.ts"), "next": "npx convex deploy"}
    assert (folder / "backfill.ts").read_bytes() == OURS
    again = installation("convex", "install", str(folder))
    assert (again.exit_code, "npx convex deploy" in again.stdout) == (0, True)


def test_a_file_of_somebody_else_is_kept_unless_it_may_be_overwritten(installation: Installation) -> None:
    folder = installation.folder / "convex"
    folder.mkdir()
    (folder / "backfill.ts").write_text("export const theirs = 1;\n", encoding="utf-8")
    assert "--overwrite" in installation.refused("functions_differ", "convex", "install", str(folder), "--json")
    assert (folder / "backfill.ts").read_text(encoding="utf-8") == "export const theirs = 1;\n"
    assert installation("convex", "install", str(folder), "--overwrite").exit_code == 0
    assert (folder / "backfill.ts").read_bytes() == OURS
    installation.refused("no_such_folder", "convex", "install", str(folder / "nowhere"))


def test_installing_needs_neither_registry_nor_database(installation: Installation) -> None:
    (installation.folder / "clients.yaml").unlink()
    installation.environ["DATABASE_URL"] = "postgresql://nobody@127.0.0.1:9/none"
    assert installation("convex", "install", str(installation.folder)).exit_code == 0
