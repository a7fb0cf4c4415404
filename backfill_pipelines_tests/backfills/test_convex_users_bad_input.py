"""What `convex_users` must not start with, or must leave alone: one sentence with a code, nothing half-written."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from backfill_pipelines.engine.ledger import Run, State
from backfill_pipelines.errors import ConfigurationError
from backfill_pipelines.sandbox import convex_functions
from backfill_pipelines.sandbox.convex import ConvexQuestions
from backfill_pipelines.sandbox.convex_state import Functions
from backfill_pipelines_tests.backfills.convex_product import (
    ACME,
    BOLT,
    DIFFERENT,
    DRY_RUN,
    LOAD_ONLY,
    MUTATION,
    QUERY,
    ConvexProduct,
    Document,
    failure,
    in_small_portions,
    in_workspace,
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
    with serving(database, database_url, tmp_path) as running:
        yield running


def check_refused(product: ConvexProduct, code: str, *words: str, category: str = "configuration") -> Run:
    """The workspace fails with one clear sentence and nothing of it is written; the other one is as well as ever."""
    before = product.documents()
    runs = product.run_all(ACME, BOLT)
    run = runs[ACME]
    assert (run.state, run.error_code, run.error_category) == (State.FAILED, code, category)
    assert run.error_message is not None
    assert "\n" not in run.error_message
    assert run.error_message.endswith(".")
    assert not [word for word in words if word not in run.error_message], run.error_message
    for secret in (product.app.seeded.deploy_key, product.users.seeded.secret_key):
        assert secret not in run.error_message
    assert product.documents() == before
    assert product.patched == run.counts.get("applied", 0) == 0
    assert succeeded(runs[BOLT])
    assert runs[BOLT].counts["applied"] > 0
    return run


def asked(product: ConvexProduct) -> list[str]:
    """What was asked of either vendor on behalf of the workspace, or with a key of nobody's."""
    return [each.path for each in product.server.requests if each.call.account == ACME or not each.call.workspace]


# --- keys and addresses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "name", "variable"),
    [
        ("clerk", "secret_key", "CLERK_SECRET_KEY"),
        ("convex", "url", "CONVEX_URL"),
        ("convex", "deploy_key", "CONVEX_DEPLOY_KEY"),
    ],
)
@pytest.mark.parametrize("value", [None, "", " "])
def test_a_variable_that_is_not_set(
    product: ConvexProduct, section: str, name: str, variable: str, value: str | None
) -> None:
    product.edit = in_workspace(lambda workspace: workspace[section].update({name: f"${{{variable}}}"}))
    product.environ = {} if value is None else {variable: value}
    check_refused(product, "missing_variable", variable, "set it")
    assert asked(product) == []


@pytest.mark.parametrize("section", ["clerk", "convex"])
def test_a_section_that_is_missing(product: ConvexProduct, section: str) -> None:
    product.edit = in_workspace(lambda workspace: workspace.pop(section))
    check_refused(product, "missing_section", section, "clients.yaml")
    assert asked(product) == []


@pytest.mark.parametrize(
    "key", ["canary", "prod:mellow-heron-111", "preview:team:app|ey", "project:team:app|ey", "Bearer ey|a b", "|"]
)
def test_a_deploy_key_that_cannot_be_one(product: ConvexProduct, key: str) -> None:
    product.edit = in_workspace(lambda workspace: workspace["convex"].update(deploy_key=key))
    run = check_refused(product, "invalid_deploy_key", "convex.deploy_key")
    assert "canary" not in str(run.error_message)
    assert asked(product) == []


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("https://other-owl-7.convex.cloud", "deploy_key_of_another_deployment"),
        ("https://mellow-heron-111.convex.site", "invalid_convex_url"),
    ],
)
def test_an_address_that_the_key_does_not_belong_to(product: ConvexProduct, url: str, code: str) -> None:
    product.edit = in_workspace(lambda workspace: workspace["convex"].update(url=url))
    check_refused(product, code, "convex.url")
    assert asked(product) == []


def test_a_deploy_key_of_another_deployment(product: ConvexProduct) -> None:
    theirs = product.convex.states[BOLT].seeded.deploy_key
    product.edit = in_workspace(lambda workspace: workspace["convex"].update(deploy_key=theirs))
    check_refused(product, "deploy_key_refused", "convex.deploy_key", "convex.url")


def test_the_address_of_something_else(product: ConvexProduct) -> None:
    elsewhere = product.server.account_urls("clerk")["api"]
    product.edit = in_workspace(lambda workspace: workspace["convex"].update(url=elsewhere))
    check_refused(product, "unknown_deployment", "convex.url")


def test_an_address_where_nobody_answers(product: ConvexProduct) -> None:
    product.edit = in_workspace(lambda workspace: workspace["convex"].update(url="http://127.0.0.1:9"))
    run = check_refused(product, "deployment_unreachable", "convex.url", category="transient")
    assert run.resumable


def test_a_paused_deployment(product: ConvexProduct) -> None:
    product.app.paused = True
    check_refused(product, "deployment_paused", "resume")


@pytest.mark.parametrize(("key", "code"), [("pk_live_canary", "invalid_clerk_key"), ("sk_live_canary", "unauthorized")])
def test_a_wrong_key_of_clerk(product: ConvexProduct, key: str, code: str) -> None:
    product.edit = in_workspace(lambda workspace: workspace["clerk"].update(secret_key=key))
    assert "canary" not in str(check_refused(product, code, "Clerk").error_message)


def test_a_key_of_clerk_that_is_revoked_half_way(product: ConvexProduct) -> None:
    product.fault("clerk_key_refused", vendor="clerk", account=ACME, path="/users", nth=1, count=100)
    check_refused(product, "unauthorized", "Clerk")


# --- permissions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refuses", ["status", "function"])
def test_a_key_that_may_not_run_internal_functions(
    database: Engine, database_url: SecretStr, tmp_path: Path, refuses: Any
) -> None:
    questions = ConvexQuestions(refuses_permission_with=refuses)
    with serving(database, database_url, tmp_path, questions=questions) as product:
        key = product.app.seeded.powerless_key
        product.edit = in_workspace(lambda workspace: workspace["convex"].update(deploy_key=key))
        check_refused(product, "missing_permission", "runInternalQueries", "runInternalMutations")
        assert MUTATION not in asked(product)


def test_a_key_that_may_only_read_makes_a_plan_and_writes_nothing(product: ConvexProduct) -> None:
    key = product.app.seeded.read_only_key
    product.edit = in_workspace(lambda workspace: workspace["convex"].update(deploy_key=key))
    dry = product.run(steps=DRY_RUN)
    assert succeeded(dry)
    run = check_refused(product, "missing_permission", "runInternalMutations")
    assert product.states(run.id) == {"planned": DIFFERENT}
    assert product.verify().state is State.SUCCEEDED
    product.edit = None
    assert product.run().counts["applied"] == DIFFERENT


# --- what is deployed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("functions", "code"),
    [
        ("absent", "functions_not_deployed"),
        ("newer", "functions_of_another_version"),
        ("other_arguments", "functions_of_another_version"),
        ("other_answers", "functions_of_another_version"),
    ],
)
def test_functions_that_are_not_there_or_are_others(product: ConvexProduct, functions: Functions, code: str) -> None:
    product.app.functions = functions
    check_refused(product, code, "backfill convex install DIR", "npx convex deploy")
    assert MUTATION not in asked(product)


@pytest.mark.parametrize("functions", ["absent", "newer", "other_answers"])
def test_functions_that_change_between_plan_and_load_write_nothing(
    product: ConvexProduct, functions: Functions
) -> None:
    dry, before = product.run(steps=DRY_RUN), product.documents()
    product.app.functions = functions
    run = product.run(steps=LOAD_ONLY)
    assert (run.id, run.state, run.error_category) == (dry.id, State.FAILED, "configuration")
    assert (product.documents(), product.states(run.id)) == (before, {"planned": DIFFERENT})


@pytest.mark.parametrize("functions", ["absent", "newer", "other_answers"])
def test_functions_that_change_in_the_middle_of_a_load_leave_whole_batches(
    product: ConvexProduct, functions: Functions
) -> None:
    before = product.documents()
    product.after(lambda: setattr(product.app, "functions", functions), path=MUTATION, nth=2)
    run = product.run()
    assert (run.state, run.error_category) == (State.FAILED, "configuration")
    changed = [key for key, each in product.documents().items() if each != before[key]]
    assert len(changed) == product.patched == product.states(run.id)["applied"] == run.counts["applied"]
    product.app.functions = "deployed"
    assert product.undo(run).undone == len(changed)
    assert product.documents() == before


@pytest.mark.parametrize(
    ("names", "code"),
    [
        ({"table": "people"}, "missing_table"),
        ({"index": "by_email"}, "missing_index"),
        ({"id_field": "externalId"}, "missing_index"),
    ],
)
def test_names_that_the_deployment_does_not_have(product: ConvexProduct, names: Document, code: str) -> None:
    product.edit = in_workspace(lambda workspace: workspace["convex"].update(names))
    check_refused(product, code, *names.values(), "registry")


def test_a_table_without_the_index(product: ConvexProduct) -> None:
    product.app.drop_index("by_clerkId")
    check_refused(product, "missing_index", "by_clerkId", '.index("by_clerkId", ["clerkId"])')


def test_an_index_that_is_still_being_built(product: ConvexProduct) -> None:
    product.app.tables["users"].indexes_under_way = {"by_clerkId"}
    assert check_refused(product, "index_not_ready", "by_clerkId", category="transient").resumable
    product.app.tables["users"].indexes_under_way = set()
    assert product.run().counts["applied"] == DIFFERENT


def test_a_place_in_the_table_that_is_no_longer_accepted(product: ConvexProduct) -> None:
    product.fault("status", status=500, path=QUERY, nth=3, count=10_000)
    assert product.run().resumable
    product.server.clear_faults()
    with product.database.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE backfill.cursor SET position = jsonb_set(position, '{cursor}', '\"of-another-table\"')"
            " WHERE stream = 'convex_users'"
        )
    run = product.run()
    assert failure(run) == (State.FAILED, "cursor_refused")
    assert "--fresh" in str(run.error_message)
    assert product.run(fresh=True).counts["applied"] == DIFFERENT


# --- rows and users that are not what they should be -----------------------------------------------------------------

ODD_ROWS: dict[str, Any] = {
    "firstName": 7,
    "lastName": ["Byron"],
    "email": {"address": "ada@example.com"},
    "username": True,
    "imageUrl": "https://img.example.com/\x00",
    "lastSignInAt": "2024-01-08",
    "createdAt": True,
    "lastActiveAt": [1],
}


@pytest.mark.parametrize("field", ODD_ROWS)
def test_a_row_with_a_value_of_an_unexpected_type_is_a_counted_reject(product: ConvexProduct, field: str) -> None:
    odd = product.member("ada@example.com", held={field: ODD_ROWS[field], "role": "owner"}, first_name="Ada")
    row = product.row(odd)
    run = product.run(clear_nulls=True)
    assert succeeded(run)
    assert product.row(odd) == row
    assert (run.counts["reject"], run.reasons[f"malformed_{field}"]) == (1, 1)
    assert product.outcomes(run.id)[odd] == ("reject", "planned", f"malformed_{field}"), "and not `not_in_convex`"
    assert run.reasons["not_in_convex"] == 20
    assert run.details["errorCount"] == 4
    assert (verified(run)["explained"], verified(run)["passed"]) == (4, True)


@pytest.mark.parametrize("clerk_id", [7, "", "user_\n", "u" * 300, {"id": "user_1"}])
def test_a_row_without_a_usable_clerk_id_is_a_counted_reject(product: ConvexProduct, clerk_id: Any) -> None:
    odd = product.app.insert(clerkId=clerk_id, firstName="Ada")
    row = product.documents()[odd]
    run = product.run()
    assert succeeded(run)
    assert product.outcomes(run.id)[odd] == ("reject", "planned", "malformed_clerk_id")
    assert product.documents()[odd] == row
    assert run.details["gone_from_clerk"] == 5


@pytest.mark.parametrize("held", [{}, {"clerkId": None}, {"clerkId": None, "createdAt": "2024-01-08"}])
def test_a_row_of_nobody_is_no_error(product: ConvexProduct, held: Document) -> None:
    guests = [product.app.insert(**held, firstName=name) for name in ("Guest", "Another")]
    rows = product.documents()
    run = product.run()
    assert succeeded(run)
    assert (run.counts["reject"], run.details["errorCount"], run.details["no_clerk_id"]) == (0, 3, 2)
    assert (run.details["gone_from_clerk"], run.details["totalClerkUsers"]) == (5, 100)
    assert "no_clerk_id" not in run.reasons, "reasons are those of users"
    assert sum(run.counts[each] for each in ("create", "update", "skip", "conflict", "reject")) == 100
    assert not {*guests} & {*product.outcomes(run.id)}
    assert [product.documents()[each] for each in guests] == [rows[each] for each in guests]
    assert (product.verify().details["errorCount"], verified(product.verify())["passed"]) == (3, True)


def address(key: str, text: str) -> Document:
    return {"id": key, "email_address": text, "verification": {"status": "verified"}}


ODD_USERS: dict[str, Document] = {
    "two_primary_addresses": {
        "primary_email_address_id": "idn_1",
        "email_addresses": [address("idn_1", "a@example.com"), address("idn_1", "b@example.com")],
    },
    "malformed_created_at": {"created_at": 0},
    "malformed_last_sign_in_at": {"last_sign_in_at": 1_704_700_800},
    "malformed_last_active_at": {"last_active_at": "2024-01-08"},
    "malformed_first_name": {"first_name": 7},
    "malformed_username": {"username": ["ada"]},
    "malformed_image_url": {"image_url": {}},
    "malformed_email_addresses": {"email_addresses": "a@example.com"},
}


@pytest.mark.parametrize("code", ODD_USERS)
def test_a_user_that_is_not_what_it_should_be_is_a_counted_reject(product: ConvexProduct, code: str) -> None:
    odd = product.member("ada@example.com", held={"firstName": "Augusta"}, first_name="Ada")
    product.users.alter_user(odd, **ODD_USERS[code])
    row = product.row(odd)
    run = product.run(clear_nulls=True)
    assert succeeded(run)
    assert product.outcomes(run.id)[odd] == ("reject", "planned", code)
    assert product.row(odd) == row
    assert (run.counts["reject"], run.details["totalClerkUsers"], run.details["errorCount"]) == (1, 101, 4)
    assert run.details["gone_from_clerk"] == 5, "the user is there, though unreadable"
    assert verified(run)["passed"]


def test_times_of_0_or_in_seconds_in_a_row_are_replaced_by_clerks(product: ConvexProduct) -> None:
    held = {"createdAt": 0, "lastSignInAt": 1_704_700_800}
    ada = product.member("ada@example.com", held=held, last_sign_in_at=1_704_704_400_000)
    assert succeeded(product.run())
    assert product.row(ada)["createdAt"] == product.profile(ada)["createdAt"] > 10**12
    assert product.row(ada)["lastSignInAt"] == 1_704_704_400_000


def test_answers_that_are_no_rows_at_all_are_counted_one_by_one(
    product: ConvexProduct, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from functions that somebody has changed without changing their version."""
    odd = {
        product.row(product.member(f"{name}@example.com"))["_id"]: answer
        for name, answer in {"ada": "no row", "bo": {"id": 7, "fields": {}}, "cy": None}.items()
    }
    usual = convex_functions._row
    monkeypatch.setattr(
        convex_functions, "_row", lambda document, field: odd.get(document["_id"], usual(document, field))
    )
    run = product.run()
    assert succeeded(run)
    assert (run.reasons["not_an_object"], run.reasons["malformed_id"], run.counts["reject"]) == (2, 1, 3)
    assert run.counts["applied"] == DIFFERENT


@pytest.mark.parametrize("path", [QUERY, "/users"])
def test_a_body_that_is_no_json_is_asked_for_again_and_then_said(product: ConvexProduct, path: str) -> None:
    product.fault("truncated_json", vendor="*", account=ACME, path=path)
    run = check_refused(product, "malformed_response", category="transient")
    assert re.search("Clerk|Convex", str(run.error_message))


# --- the registry ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "edit",
    [
        lambda workspace: workspace["convex"].update(tabel="users"),
        lambda workspace: workspace["convex"].update(url="mellow-heron-111.convex.cloud"),
        lambda workspace: workspace["convex"].update(deploy_key=7),
        lambda workspace: workspace["convex"].pop("url"),
    ],
    ids=["unknown key", "no scheme", "no text", "no url"],
)
def test_a_registry_with_a_mistake_is_refused_before_anything_is_asked(
    product: ConvexProduct, edit: Callable[[Document], None]
) -> None:
    product.edit = in_workspace(edit)
    with pytest.raises(ConfigurationError) as refused:
        product.registry()
    assert "line" in refused.value.message
    assert asked(product) == []
