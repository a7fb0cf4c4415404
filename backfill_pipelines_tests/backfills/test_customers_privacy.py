"""Nothing personal in a log, in the ledger's runs, in the audit or in an exception, whatever goes wrong.

Every field of leads and customers holds a canary: a value that is nowhere else. Personal values may stand in the user's
tables and in the plans of our own schema, and nowhere else.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator

import pytest

from backfill_pipelines.backfills import customers
from backfill_pipelines.engine.ledger import Run, State
from backfill_pipelines_tests.backfills.product_rig import ACME, BOLT, DRY_RUN, Product, failure

CANARY = "kanarienvogel"
CANARIES = (CANARY, "5550173", "555-0173", "5550174")


@pytest.fixture
def aviary(product: Product) -> Product:
    """Two clients with every kind of group, of canaries alone; customers that people made, and conflicts."""
    product.execute('ALTER TABLE "Customer" DROP CONSTRAINT "Customer_client_id_phone_key"')
    for of in (ACME, BOLT):
        names = {
            "first_name": f"{CANARY}First",
            "last_name": f"{CANARY}Last",
            "company_name": f"{CANARY}Company",
            "ghl_contact_id": f"{CANARY}Contact",
        }
        values = (
            {"psid": f"{CANARY}Psid", "phone": "(205) 555-0173"},
            {"phone": "+1 205 555 0173", "email": f"{CANARY}.1@example.com"},
            {"email": f"{CANARY}.2@example.com"},
            {"email": f"info@{CANARY}.example.com"},
            {"email": f"{CANARY} is no address", "phone": f"{CANARY} is no phone"},
            {"phone": "205-555-0174"},
            {"psid": f"{CANARY}Found"},
        )
        for number, each in enumerate(values):
            product.lead(f"{of}-{number}", of=of, **names, **each)
            product.job(f"{of}-job-{number}", f"{of}-{number}")
        for _ in range(2):
            product.customer(of=of, phone="2055550174", name=f"{CANARY} Customer")
        product.customer(of=of, psid=f"{CANARY}Found", metadata=f'{{"note": "{CANARY}"}}')
    return product


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """Everything that anything logs at any level; a handler of our own, so that no formatter of pytest's helps."""
    records: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(f"{record.name} {record.msg!r} {record.args!r} {record.getMessage()}")
            if record.exc_info:
                records.extend(traceback.format_exception(*record.exc_info))

    ear = Ear(logging.DEBUG)
    logging.getLogger().addHandler(ear)
    with caplog.at_level(logging.DEBUG):
        yield records
    logging.getLogger().removeHandler(ear)


def check(product: Product, heard: list[str], capfd: pytest.CaptureFixture[str], *runs: Run) -> None:
    """No canary in what was logged or printed, in what runs carry, in any column of `backfill.run`, in the audit."""
    told = [*heard, *capfd.readouterr(), *map(repr, runs)]
    logging.getLogger().setLevel(logging.WARNING)  # SQLAlchemy's own DEBUG lines would show the rows of this question
    told += [repr(row) for row in product.query("SELECT * FROM backfill.run")]
    told += [repr(row) for row in product.query("SELECT error_code, reason, state FROM backfill.change")]
    told += [repr(row) for row in product.query("SELECT * FROM backfill.customer_group")]
    told += [repr(entry) for entry in product.audits()]
    assert len(told) > len(heard)
    for text in told:
        found = [canary for canary in CANARIES if canary.lower() in text.lower()]
        assert not found, text


def test_a_canary_would_be_heard(heard: list[str]) -> None:
    logging.getLogger("somebody").debug("%s", CANARY)
    assert any(CANARY in text for text in heard)


def test_runs_that_go_well_tell_nothing(aviary: Product, heard: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    dry = aviary.run(steps=DRY_RUN)
    runs = aviary.run_all(ACME, BOLT)
    again = aviary.run()
    verified = aviary.verify()
    undone = aviary.undo(runs[ACME])
    stored = repr(aviary.rows("Customer"))
    check(aviary, heard, capfd, dry, *runs.values(), again, verified, undone.run)
    assert [text for text in heard if ", type psid, " in text], "not even the list of groups"
    assert runs[ACME].counts["applied"] > 0
    assert runs[ACME].counts["conflict"] > 0
    assert CANARY in stored, "the canaries never came as far as the target"
    assert "5550173" in stored


def test_a_groups_key_is_a_hash_that_nobody_can_try_numbers_against(
    product: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = set()
    for secret in ("one", "other"):
        monkeypatch.setenv("BACKFILL_HASH_KEY", secret)
        product.lead("kim", phone="2055550173")
        product.run()
        metadata = product.customer_of("kim")["metadata"]
        assert set(metadata) == {
            *("groupType", "groupKey", "leadCount", "multipleLeads", "createdBy", "createdAt", "runId"),
        }
        assert len(bytes.fromhex(metadata["groupKey"])) == 16
        keys.add(metadata["groupKey"])
        for table in ('"Lead"', '"Customer"', "backfill.installation", "backfill.run", "backfill.change"):
            product.execute(f"DELETE FROM {table}")
    assert len(keys) == 2


@pytest.mark.parametrize(
    "refusal",
    [
        "ALTER TABLE \"Customer\" ADD CHECK (name NOT LIKE '%First%')",
        'ALTER TABLE "Customer" ALTER messenger_psid TYPE varchar(3)',
        "CREATE UNIQUE INDEX ON \"Customer\" (lower(name)) WHERE created_at > '2026-02-01'",
        (
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN RAISE EXCEPTION ''not %'', NEW.email; END';"
            ' CREATE TRIGGER refuse BEFORE UPDATE ON "Lead" FOR EACH ROW EXECUTE FUNCTION refuse()'
        ),
    ],
    ids=["check", "too long", "unique", "trigger"],
)
def test_neither_do_rows_that_the_table_refuses_and_quotes(
    aviary: Product, heard: list[str], capfd: pytest.CaptureFixture[str], refusal: str
) -> None:
    aviary.execute('DELETE FROM "Customer" WHERE messenger_psid IS NOT NULL')
    with aviary.database.begin() as connection:
        connection.execution_options(no_parameters=True).exec_driver_sql(refusal)
    run = aviary.run()
    assert run.counts["failed"] + run.counts["conflict"] > 2
    check(aviary, heard, capfd, run)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("ALTER TABLE \"Audit\" ADD CHECK (action <> 'backfill_customers')", "audit_refused"),
        ('ALTER TABLE "Lead" RENAME phone TO elsewhere', "missing_column"),
        (
            (
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM no_such(NEW.email); END';"
                ' CREATE TRIGGER refuse BEFORE UPDATE ON "Lead" FOR EACH ROW EXECUTE FUNCTION refuse()'
            ),
            "target_refused",
        ),
    ],
)
def test_neither_does_a_table_that_does_not_fit(
    aviary: Product, heard: list[str], capfd: pytest.CaptureFixture[str], change: str, code: str
) -> None:
    with aviary.database.begin() as connection:
        connection.execution_options(no_parameters=True).exec_driver_sql(change)
    run = aviary.run()
    assert failure(run) == (State.FAILED, code)
    check(aviary, heard, capfd, run)


@pytest.mark.parametrize("step", ["plan_customers", "read_leads", "ask"])
def test_neither_does_a_defect_of_ours_that_quotes_a_value(
    aviary: Product, heard: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def defect(*_: object, **__: object) -> None:
        raise RuntimeError(f"quotes {CANARY}")

    monkeypatch.setattr(customers, step, defect)
    run = aviary.run()
    assert failure(run) == (State.FAILED, "internal_error")
    check(aviary, heard, capfd, run)
