"""What runs of `customers` leave in the product's audit, and the installation's secret for the keys of groups."""

from __future__ import annotations

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, text

from backfill_pipelines.backfills.customers_audit import KEY_VARIABLE, hash_key
from backfill_pipelines.engine.ledger import State
from backfill_pipelines.errors import ConfigurationError
from backfill_pipelines_tests.backfills.product_rig import (
    ACME,
    BOLT,
    CLIENT_IDS,
    DRY_RUN,
    LOAD_ONLY,
    Product,
    failure,
    fill_typical_client,
    succeeded,
    verified,
)

FIGURES = {
    "groups": {"psid": 3, "phone": 3, "email": 1, "individual": 2},
    "leads_total": 14,
    "customers_created": 8,
    "customers_reused": 1,
    "leads_linked": 14,
    "leads_already_linked": 0,
    "jobs_linked": 4,
    "jobs_already_linked": 0,
    "jobs_total": 4,
}


@pytest.fixture
def filled(product: Product) -> Product:
    fill_typical_client(product)
    return product


# --- the audit --------------------------------------------------------------------------------------------------------


def test_a_run_leaves_one_entry_that_says_all_of_it(filled: Product) -> None:
    run = filled.run()
    assert filled.audits() == [
        FIGURES
        | {
            "client_id": CLIENT_IDS[ACME],
            "partition": ACME,
            "mode": "load",
            "run_id": str(run.id),
            "undoes": None,
            "plan_hash": run.plan_hash,
            "succeeded": True,
            "error_codes": [],
            "counts": run.counts,
            "reasons": {"blocked_value": 1, "no_identifier": 1, "shared_phone": 2},
        }
    ]
    again = filled.run()
    (_, entry) = filled.audits()
    assert (entry["run_id"], entry["leads_linked"], entry["leads_already_linked"]) == (str(again.id), 0, 14)


def test_each_client_of_a_run_has_its_own_entry(filled: Product) -> None:
    fill_typical_client(filled, of=BOLT, prefix="b-")
    filled.run_all(ACME, BOLT)
    assert {(entry["partition"], entry["client_id"]) for entry in filled.audits()} == set(CLIENT_IDS.items())


def test_a_dry_run_leaves_none_and_the_load_of_its_plan_one(filled: Product) -> None:
    filled.run(steps=DRY_RUN)
    assert filled.audits() == []
    loaded = filled.run(steps=LOAD_ONLY)
    filled.run(steps=LOAD_ONLY)
    (entry,) = filled.audits()
    assert (entry["run_id"], entry["counts"]["applied"]) == (str(loaded.id), 27)


def test_a_load_that_failed_leaves_one_too_and_going_on_with_it_replaces_that(
    filled: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled.execute(
        "CREATE FUNCTION away() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'away' USING ERRCODE = '57P01'; END $$"
    )
    filled.execute('CREATE TRIGGER away BEFORE UPDATE ON "Lead" FOR EACH ROW EXECUTE FUNCTION away()')
    run = filled.run()
    assert failure(run) == (State.FAILED, "database_unavailable")
    (entry,) = filled.audits()
    assert (entry["succeeded"], entry["error_codes"]) == (False, ["database_unavailable"])
    assert {name: entry[name] for name in FIGURES} == FIGURES | {
        "customers_created": 0,
        "leads_linked": 0,
        "jobs_linked": 0,
    }
    filled.execute('DROP TRIGGER away ON "Lead"')
    again = filled.run()
    assert (again.id, verified(again)["passed"]) == (run.id, True)
    (entry,) = filled.audits()
    assert (entry["succeeded"], entry["error_codes"], entry["leads_linked"]) == (True, [], 14)


def test_what_kept_a_run_from_beginning_leaves_none(filled: Product) -> None:
    filled.execute('ALTER TABLE "Lead" RENAME phone TO elsewhere')
    assert filled.run().state is State.FAILED
    assert filled.audits() == []


def test_an_undo_is_noted_and_a_dry_one_is_not(filled: Product) -> None:
    run = filled.run()
    filled.execute("UPDATE \"Lead\" SET customer_id = NULL WHERE id = 'alone'")
    filled.undo(run, dry_run=True)
    assert len(filled.audits()) == 1
    undone = filled.undo(run)
    (_, entry) = filled.audits()
    assert {name: entry[name] for name in ("mode", "run_id", "undoes", "succeeded", "counts", "reasons")} == {
        "mode": "undo",
        "run_id": str(undone.run.id),
        "undoes": str(run.id),
        "succeeded": True,
        "counts": {"undone": 27, "conflict": 0},
        "reasons": {},
    }


@pytest.mark.parametrize(
    "change",
    [
        'ALTER TABLE "Audit" ALTER id DROP DEFAULT, ALTER id TYPE text, ALTER created_at DROP DEFAULT',
        'ALTER TABLE "Audit" DROP id; ALTER TABLE "Audit" ADD id bigserial',
        'ALTER TABLE "Audit" ALTER payload DROP DEFAULT, ALTER payload TYPE json',
    ],
    ids=["ids without a default", "numbered ids without a key", "json"],
)
def test_audits_of_other_shapes_have_one_entry_for_each_run_too(filled: Product, change: str) -> None:
    for statement in change.split(";"):
        filled.execute(statement)
    filled.run(steps=DRY_RUN)
    for _ in range(2):
        assert succeeded(filled.run(steps=LOAD_ONLY))
    (entry,) = filled.audits()
    assert entry["counts"]["applied"] == 27
    assert verified(filled.verify())["passed"]
    assert filled.query('SELECT count(created_at) AS n FROM "Audit"') == [{"n": 1}]


# --- the secret -------------------------------------------------------------------------------------------------------


def key(engine: Engine, configured: str | None = None) -> bytes:
    with engine.begin() as connection:
        return hash_key(connection, None if configured is None else SecretStr(configured))


def refused(engine: Engine, configured: str | None = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        key(engine, configured)
    assert caught.value.code == "hash_key_mismatch"
    return caught.value.message


def test_the_secret_is_made_once_and_kept(database: Engine) -> None:
    made = key(database)
    assert len(made) == 32
    assert key(database) == made
    with database.begin() as connection:
        connection.execute(text("DELETE FROM backfill.installation"))
    assert key(database) != made


def test_a_configured_secret_is_used_and_not_stored(database: Engine) -> None:
    given = key(database, "correct horse battery staple, and a good deal more than sixty-four bytes of it")
    with database.connect() as connection:
        kept = [row.value for row in connection.execute(text("SELECT value FROM backfill.installation"))]
    assert not [value for value in kept if "horse" in value or value == given.hex()]
    assert key(database, "correct horse battery staple, and a good deal more than sixty-four bytes of it") == given
    assert KEY_VARIABLE in refused(database, "another")
    assert "set it again" in refused(database)


def test_a_secret_that_was_made_is_not_replaced_by_a_configured_one(database: Engine) -> None:
    made = key(database)
    assert "another" not in refused(database, "another")
    assert key(database) == made


def test_a_run_with_another_secret_is_refused_before_anything_is_written(
    filled: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, " first ")
    first = filled.run()
    assert succeeded(first)
    before = filled.everything()
    for other in ("second", ""):
        monkeypatch.setenv(KEY_VARIABLE, other)
        assert failure(filled.run()) == (State.FAILED, "hash_key_mismatch")
    assert filled.everything() == before
    monkeypatch.setenv(KEY_VARIABLE, "first")
    assert filled.run().counts["applied"] == 0


def test_one_secret_gives_one_person_the_same_customer_in_every_database(
    filled: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "the same")
    filled.run()
    ids = set(filled.rows("Customer"))
    filled.execute('TRUNCATE "Lead", "Job", "Customer", "CustomerAddress"')
    filled.execute("TRUNCATE backfill.installation, backfill.run, backfill.change, backfill.customer_group")
    fill_typical_client(filled)
    filled.run()
    assert set(filled.rows("Customer")) == ids
