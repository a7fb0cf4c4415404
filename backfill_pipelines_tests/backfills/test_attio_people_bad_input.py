"""What `attio_people` makes of wrong keys, missing rights, attributes that are not what they should be, users that are
not what they should be, and vendors that answer nonsense: one sentence, nothing written, the others go on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from backfill_pipelines.engine.ledger import Run, State
from backfill_pipelines.sandbox.attio_data import build_attio_workspace
from backfill_pipelines_tests.backfills.attio_product import (
    ACME,
    ATTIO,
    CLERK,
    DRY_RUN,
    EMPTY_ATTIO,
    EMPTY_CLERK,
    RECORDS,
    AttioProduct,
    Document,
    Vendors,
    failure,
    running_vendors,
    serving,
    succeeded,
    unhurried,
    verified,
)

SECRETS = (CLERK.secret_key, ATTIO.token)


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


def refused(product: AttioProduct, code: str, *words: str, **options: Any) -> Run:
    """A run must fail with this code and a sentence with these words, having read no user and written nothing."""
    before = product.everything()
    run = product.run(**options)
    assert failure(run) == (State.FAILED, code)
    sentence = run.error_message or ""
    assert not [word for word in words if word not in sentence], sentence
    assert not [secret for secret in SECRETS if secret in sentence]
    assert "\n" not in sentence
    assert product.everything() == before
    assert product.writes().total() == 0
    assert product.changes(run.id) == {}
    return run


# --- keys and scopes -------------------------------------------------------------------------------------------------


def test_an_attio_key_that_was_deleted(product: AttioProduct) -> None:
    product.attio.state.revoke(ATTIO.token)
    refused(product, "token_inactive", "attio.api_key")
    assert product.requests(vendor="clerk") == []


def test_a_clerk_key_that_is_wrong(product: AttioProduct) -> None:
    product.server.add_faults([{"kind": "clerk_key_refused"}])
    refused(product, "unauthorized", "Clerk")


def test_a_clerk_key_that_is_the_public_one(product: AttioProduct) -> None:
    def edit(document: Document) -> None:
        document["workspaces"][0]["clerk"]["secret_key"] = "pk_live_public"

    product.edit = edit
    refused(product, "invalid_clerk_key", "pk_")


@pytest.mark.parametrize(
    ("scopes", "missing"),
    [
        (("object_configuration:read", "record_permission:read"), "record_permission:read-write"),
        (("record_permission:read-write",), "object_configuration:read"),
        (("user_management:read",), "record_permission:read-write"),
    ],
    ids=["read only", "no configuration", "neither"],
)
def test_a_key_without_the_scopes(product: AttioProduct, scopes: tuple[str, ...], missing: str) -> None:
    product.attio.state.set_scopes(ATTIO.token, scopes)
    refused(product, "missing_scopes", missing, "Workspace acme")


def test_a_variable_that_is_not_set(product: AttioProduct) -> None:
    def edit(document: Document) -> None:
        document["workspaces"][0]["attio"]["api_key"] = "${ATTIO_API_KEY_OF_NOBODY}"

    product.edit = edit
    refused(product, "missing_variable", "ATTIO_API_KEY_OF_NOBODY")
    assert product.server.requests == []


def test_a_workspace_without_a_section(product: AttioProduct) -> None:
    def edit(document: Document) -> None:
        del document["workspaces"][0]["attio"]

    product.edit = edit
    refused(product, "missing_section", "attio")
    assert product.registry().partition_keys("workspace", product.backfill.uses) == []


# --- the attribute ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"archived": True}, "archived"),
        ({"type": "number"}, "not_text"),
        ({"multiselect": True}, "multiselect"),
        ({"writable": False}, "read_only"),
    ],
    ids=str,
)
def test_an_attribute_that_cannot_hold_an_id(product: AttioProduct, changes: dict[str, Any], problem: str) -> None:
    product.crm.alter_attribute("people", "user_id", **changes)
    refused(product, f"attribute_{problem}", "user_id", "people")
    assert product.requests(vendor="clerk") == []


def test_an_attribute_that_is_missing(
    database: Engine, database_url: SecretStr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unhurried(monkeypatch)
    bare = build_attio_workspace(seed=1, key=ACME, custom_attributes=False)
    with serving(database, database_url, tmp_path, workspace=bare) as product:
        refused(product, "attribute_missing", "user_id", "backfill attio create-attributes --client acme")


def test_an_attribute_whose_values_are_unique_is_welcome(product: AttioProduct) -> None:
    product.crm.alter_attribute("people", "user_id", unique=True)
    assert verified(product.run())["passed"]


# --- users -----------------------------------------------------------------------------------------------------------


def test_users_that_cannot_be_read_and_addresses_that_are_none_are_rejected_and_the_others_go_on(
    product: AttioProduct,
) -> None:
    odd = product.users.user_ids()[1]
    product.users.alter_user(odd, email_addresses=None)
    bad = [
        product.user(address)
        for address in ("nonsense", "two@@example.com", "ada@localhost", " ", "Ada <ada@example.com>")
    ]
    good = product.user("good@example.com")
    run = product.run()
    assert succeeded(run)
    rows = product.outcomes(run.id)
    assert {rows[each] for each in bad} == {("reject", "planned", "invalid_email")}
    assert rows[odd] == ("reject", "planned", "malformed_email_addresses")
    assert run.counts["reject"] == len(bad) + 1
    assert len(product.people_with(good)) == 1
    comparison = verified(run)
    assert comparison["passed"]
    assert comparison["explained"] >= len(bad)


def test_an_address_that_attio_refuses_fails_its_row_and_no_other(product: AttioProduct) -> None:
    # Valid by the standards; Attio's own rules are its own.
    odd, good = product.user("o'hara+tag@sub.example.com"), product.user("good@example.com")
    product.fault("status", status=400, method="POST", path=RECORDS, nth=1)
    run = product.run()
    assert succeeded(run)
    failed = [key for key, (_, state, _) in product.outcomes(run.id).items() if state == "failed"]
    assert (len(failed), run.counts["failed"], run.details["errors"]) == (1, 1, {"rejected_request": 1})
    assert verified(run)["explained"] >= 1
    written = {odd, good} - set(failed)
    assert all(len(product.people_with(each)) == 1 for each in written)


def test_names_that_are_odd_are_written_as_they_are_or_left_out(product: AttioProduct) -> None:
    names = [("", "Solo"), ("Solo", None), (" ", " "), ("Zoë\x00", "Ω'Brien"), ("x" * 3_000, "y")]
    users = [
        product.user(f"odd{place}@example.com", first_name=first, last_name=last)
        for place, (first, last) in enumerate(names)
    ]
    run = product.run()
    assert succeeded(run)
    assert [len(product.people_with(each)) for each in users] == [1] * len(users)
    (record_id,) = product.people_with(users[3])
    assert product.crm.contents("people", record_id, "name") == [("Zoë", "Ω'Brien", "Zoë Ω'Brien")]


def test_ten_thousand_users_of_one_domain(
    database: Engine, database_url: SecretStr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unhurried(monkeypatch)
    with serving(database, database_url, tmp_path, instance=EMPTY_CLERK, workspace=EMPTY_ATTIO) as product:
        with product.users.lock:
            for number, user_id in enumerate(product.users.create_users(10_000)):
                address = {"id": "idn_1", "email_address": f"person{number}@one.example", "verification": None}
                product.users.alter_user(
                    user_id,
                    email_addresses=[address],
                    primary_email_address_id="idn_1",
                    banned=False,
                    deprovisioned=False,
                    last_sign_in_at=None,
                    last_active_at=None,
                )
        run = product.run(max_records=50)
        assert succeeded(run)
        assert (run.counts["create"], run.counts["applied"]) == (10_000, 50)
        companies = product.crm.tables["companies"].records
        assert len(companies) == 1, "Attio links all of them to the one company that it makes"


# --- answers that are none -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v2/self", "*/attributes", "*/query"])
@pytest.mark.parametrize("kind", ["truncated_json", "cut_body", "reset"])
def test_one_broken_answer_to_a_read_is_asked_for_again(product: AttioProduct, path: str, kind: str) -> None:
    product.fault(kind, path=path, nth=1)
    assert verified(product.run())["passed"]


@pytest.mark.parametrize(
    ("vendor", "path"), [("attio", "/v2/self"), ("attio", "*/query"), ("clerk", "/users"), ("clerk", "/users/count")]
)
def test_pages_of_html_and_storms_of_5xx_end_in_one_sentence_and_the_next_run_goes_on(
    product: AttioProduct, vendor: str, path: str
) -> None:
    product.server.add_faults([{"kind": "status", "status": 502, "vendor": vendor, "path": path}])
    run = refused(product, "vendor_unavailable", vendor.title())
    assert run.resumable
    product.server.clear_faults()
    done = product.run()
    assert done.id == run.id
    assert verified(done)["passed"]


def test_too_many_requests_are_waited_for_until_the_date_that_attio_names(product: AttioProduct) -> None:
    product.fault("rate_limited", retry_after=0, path=RECORDS, method="POST", nth=2, count=2)
    run = product.run()
    assert verified(run)["passed"]
    assert run.counts["failed"] == 0


def test_two_workspaces_may_share_a_key(product: AttioProduct) -> None:
    def edit(document: Document) -> None:
        document["workspaces"].append({**document["workspaces"][0], "key": "twin"})

    product.edit = edit
    runs = product.run_all(ACME, "twin", steps=DRY_RUN)
    assert succeeded(*runs.values())
    assert runs[ACME].plan_hash == runs["twin"].plan_hash
    assert len(product.requests("/v2/self")) == 1, "a key is identified once"
    budgets = product.query("SELECT account, kind FROM backfill.quota WHERE vendor = 'attio'")
    assert budgets == [{"account": ATTIO.id, "kind": "read"}], "and what it may ask for is the workspace's"


def test_the_workspace_is_asked_at_the_address_of_the_registry(product: AttioProduct) -> None:
    def edit(document: Document) -> None:
        document["vendors"]["attio"]["base_url"] += "/nowhere"

    product.edit = edit
    refused(product, "not_found", "base_url")
