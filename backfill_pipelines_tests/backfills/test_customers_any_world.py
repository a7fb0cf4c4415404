"""What holds in any world, on real tables: a dry run plans what the run does, the run after it finds nothing to do, the
verification agrees, and undo leaves every row as it was."""

from __future__ import annotations

import random
from typing import Any
from uuid import uuid4

import pytest

from backfill_pipelines_tests.backfills.product_rig import ACME, BOLT, DRY_RUN, Document, Product, Row, succeeded

PHONES = ("2055550111", "(205) 555-0111", "+1 205 555 0122", "2055550122.0", "+44 20 7946 0958", "0000000000", "", None)
EMAILS = ("a@example.com", "A@example.com ", "b@example.com", "info@example.com", "no address", None, None)
PSIDS = ("one", " one", "two", "three", "", None, None, None)
CLIENTS = (ACME, ACME, ACME, ACME, BOLT)
KEYS = ("client_id, phone", "phone", "email", None)


class Maker:
    """Fills the tables at random: customers that people made, links of all kinds, leads in several lots, jobs."""

    def __init__(self, product: Product, seed: int) -> None:
        self.product, self.random = product, random.Random(seed)
        self.customers: list[str] = []
        self.leads: list[str] = []

    def settings(self) -> None:
        customers = {
            "max_group_size": self.random.choice((1, 2, 100)),
            "phone_format": self.random.choice(("digits", "e164")),
        }

        def edit(document: Document) -> None:
            document["defaults"] = {"customers": customers}

        self.product.edit = edit

    def loosen_tables(self) -> None:
        for constraint in ("Lead_customer_id_fkey", "Job_lead_id_fkey", "Customer_client_id_phone_key"):
            self.product.execute(f'ALTER TABLE "{constraint.split("_")[0]}" DROP CONSTRAINT "{constraint}"')

    def add_customers(self) -> None:
        """Customers that people made, and a unique key that they do not break."""
        used: set[Any] = set()
        for _ in range(self.random.randint(0, 5)):
            phone, email = self.random.choice(PHONES), self.random.choice(EMAILS)
            values = {"phone": None if phone in used else phone, "email": None if email in used else email}
            used |= set(values.values())
            values |= {"name": self.random.choice((None, "", "X")), "psid": self.random.choice(PSIDS)}
            self.customers.append(self.product.customer(of=self.random.choice(CLIENTS), **values))
        if key := self.random.choice(KEYS):
            self.product.execute(f'ALTER TABLE "Customer" ADD UNIQUE ({key})')

    def add_leads(self) -> None:
        links: tuple[Any, ...] = (*[None] * 20, str(uuid4()), *self.customers)
        for _ in range(self.random.randint(0, 12)):
            self.leads.append(
                self.product.lead(
                    f"lead {len(self.leads)}",
                    of=self.random.choice(CLIENTS),
                    phone=self.random.choice(PHONES),
                    email=self.random.choice(EMAILS),
                    psid=self.random.choice(PSIDS),
                    first_name=self.random.choice((None, "Kim", " ")),
                    company_name=self.random.choice((None, "Elm Ltd")),
                    customer_id=self.random.choice(links),
                )
            )

    def add_jobs(self) -> None:
        for number in range(self.random.randint(0, 8)):
            lead, customer = self.random.choice([*self.leads, "nobody"]), self.random.choice([None, *self.customers])
            self.product.job(f"job {number}", lead, customer_id=customer)


@pytest.mark.parametrize("seed", range(5))
def test_in_any_world(product: Product, seed: int) -> None:
    maker = Maker(product, seed)
    maker.settings()
    maker.loosen_tables()
    for key in (ACME, BOLT):
        product.client(key)
    maker.add_customers()
    maker.add_leads()
    maker.add_jobs()
    done: list[tuple[Any, dict[str, dict[str, Row]]]] = []
    for _ in range(2):
        before = product.everything(but=("Audit",))
        dry = product.run(steps=DRY_RUN)
        run = product.run()
        assert succeeded(dry, run)
        assert run.plan_hash == dry.plan_hash
        assert run.counts["applied"] == dry.counts["create"] + dry.counts["update"]
        assert (run.verification or {})["passed"], run.verification
        assert product.run().counts["applied"] == 0
        done.append((run, before))
        maker.add_leads()
    for run, before in reversed(done):
        undone = product.undo(run)
        assert (undone.undone, undone.conflict) == (run.counts["applied"], 0)
        after = product.everything(but=("Audit",))
        assert after["Customer"] == before["Customer"]
        for table in ("Lead", "Job"):
            assert {key: after[table][key] for key in before[table]} == before[table]
