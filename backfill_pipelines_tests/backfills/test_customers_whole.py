"""A client's plan executed while it is stored: the same tables in the end as row by row, whichever way it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Connection

from backfill_pipelines.backfills import customers_whole
from backfill_pipelines.backfills.customers_target import CustomersTarget
from backfill_pipelines.engine import partition_run
from backfill_pipelines_tests.backfills.product_rig import (
    DRY_RUN,
    LOAD_ONLY,
    Product,
    Row,
    fill_typical_client,
    succeeded,
    verified,
)

AWKWARD = 'tab\there, line\nbreak, back\\slash, "quote", \\N, ünï😀'


@pytest.fixture(params=["side by side", "over one connection"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition_run, "_BESIDE_ABOVE", 0 if request.param == "side by side" else 1_000)
    monkeypatch.setattr(customers_whole, "_BLOCK_ROWS", 3)
    monkeypatch.setattr("backfill_pipelines.backfills.customers_plan._ROWS_IN_A_FRAME", 4)


@pytest.fixture
def filled(product: Product) -> Product:
    fill_typical_client(product)
    product.lead("awkward \\ 'id'", psid="p-9", first_name=AWKWARD, company_name=AWKWARD)
    return product


def comparable(product: Product) -> dict[str, dict[str, Row]]:
    """The tables, without what no two runs have in common."""
    tables = product.everything(but=("Audit",))
    for rows in tables.values():
        for row in rows.values():
            for moment in ("created_at", "updated_at"):
                row.pop(moment, None)
            if row.get("metadata"):
                row["metadata"] = {k: v for k, v in row["metadata"].items() if k not in ("createdAt", "runId")}
    return tables


@contextmanager
def in_between(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], None]) -> Iterator[list[str]]:
    """Let something happen after the plan was made, before any of it is executed; notes how rows were executed."""
    began, apply, noted = CustomersTarget.begin_whole, CustomersTarget.apply, list[str]()

    def begin_whole(self: CustomersTarget, connection: Connection, run_id: object) -> object:
        noted.append("whole")
        happens()
        return began(self, connection, run_id)  # type: ignore[arg-type]

    def careful(self: CustomersTarget, *arguments: object) -> None:
        noted.append("careful")
        apply(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patches:
        patches.setattr(CustomersTarget, "begin_whole", begin_whole)
        patches.setattr(CustomersTarget, "apply", careful)
        yield noted


@pytest.mark.usefixtures("way")
def test_a_plan_executed_whole_leaves_what_the_careful_way_leaves(
    filled: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = filled.run(steps=DRY_RUN)
    careful = filled.run(steps=LOAD_ONLY)
    expected, journal = comparable(filled), filled.outcomes(careful.id)
    filled.undo(careful)
    with in_between(monkeypatch, lambda: None) as noted:
        whole = filled.run()
    assert noted == ["whole"]
    assert comparable(filled) == expected
    assert filled.outcomes(whole.id) == journal
    assert (whole.plan_hash, whole.counts) == (planned.plan_hash, careful.counts)
    assert filled.customer_of("awkward \\ 'id'")["name"] == AWKWARD.strip()
    assert verified(whole)["passed"]
    assert filled.run().counts["applied"] == 0
    undone = filled.undo(whole)
    assert (undone.undone, undone.conflict) == (whole.counts["applied"], 0)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE \"Lead\" SET customer_id = (SELECT id FROM \"Customer\" WHERE name = 'Fay Fir') WHERE id = 'alone'",
        "UPDATE \"Customer\" SET email = 'theirs@example.com' WHERE name = 'Fay Fir'",
        "DELETE FROM \"Customer\" WHERE name = 'Fay Fir'",
        "UPDATE \"Job\" SET customer_id = (SELECT id FROM \"Customer\" WHERE name = 'Fay Fir') WHERE id = 'job-1'",
        "INSERT INTO \"Customer\" (id, client_id, phone) VALUES (gen_random_uuid(), '42', '2055550122')",
    ],
    ids=["a lead is linked", "a field is filled", "a customer is gone", "a job is linked", "a phone is taken"],
)
def test_whatever_moved_since_the_plan_is_planned_again(
    filled: Product, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    with in_between(monkeypatch, lambda: filled.execute(statement)) as noted:
        run = filled.run()
    assert succeeded(run)
    assert noted[:2] == ["whole", "careful"]
    assert run.counts["failed"] == 0
    again = filled.run()
    assert (again.counts["create"], again.counts["update"]) == (0, 0)


@pytest.mark.usefixtures("way")
def test_later_leads_of_customers_that_are_there_are_linked_whole(
    filled: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled.run()
    filled.lead("later", psid="p-1", email="later@example.com")
    filled.lead("unlike the others", psid="p-new")
    with in_between(monkeypatch, lambda: None) as noted:
        run = filled.run()
    assert (noted, run.counts["create"], verified(run)["passed"]) == (["whole"], 1, True)
    assert filled.customer_of("later")["metadata"]["leadCount"] == 4  # two of its PSID, one of its phone, the new one


@pytest.mark.usefixtures("way")
def test_a_key_that_is_checked_only_at_the_commit_leaves_no_journal_of_what_was_not_done(
    filled: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled.execute('ALTER TABLE "Customer" DROP CONSTRAINT "Customer_client_id_phone_key"')
    filled.execute('ALTER TABLE "Customer" ADD UNIQUE (client_id, phone) DEFERRABLE INITIALLY DEFERRED')
    taken = "INSERT INTO \"Customer\" (id, client_id, phone) VALUES (gen_random_uuid(), '42', '2055550122')"
    with in_between(monkeypatch, lambda: filled.execute(taken)) as noted:
        run = filled.run()
    assert (succeeded(run), noted[:2], run.counts["failed"]) == (True, ["whole", "careful"], 0)
    assert verified(run)["passed"]
