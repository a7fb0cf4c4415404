"""A product with leads and jobs but no customers: its tables, a registry of two clients, and runs without Dagster.

Belongs here: filling the tables, driving runs of `customers` and reading what they left behind. Does not belong here:
what is expected of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_DNS, UUID, uuid4, uuid5

from pydantic import SecretStr
from sqlalchemy import Engine, text

from backfill_pipelines.backfills.customers import Customers
from backfill_pipelines.database.connection import create_database_engine
from backfill_pipelines.engine.ledger import Run, State
from backfill_pipelines.engine.partition_run import Steps, run_partition
from backfill_pipelines.engine.runtime import Runtime
from backfill_pipelines.engine.undo import UndoResult, undo_run
from backfill_pipelines.engine.verify import verify_partition
from backfill_pipelines.registry import Registry, load_registry

ACME, BOLT = "acme", "bolt"
CLIENT_IDS = {ACME: "42", BOLT: "it's 43"}
BACKFILL = Customers()
RUN = Steps()
DRY_RUN = Steps(load=False)
LOAD_ONLY = Steps(extract=False, plan=False)
OURS = "backfill_pipelines.customers"
TABLES = ("Customer", "CustomerAddress", "Lead", "Job", "Audit")

Row = dict[str, Any]
Document = dict[str, Any]

_FIRST = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)


@dataclass(kw_only=True)
class Product:
    """The product's tables and its database; `edit` changes the registry's document before it is written."""

    database: Engine
    database_url: SecretStr
    folder: Path
    edit: Callable[[Document], None] | None = None
    _made: int = field(default=0, init=False)

    # --- filling ------------------------------------------------------------------------------------------------------

    def client(self, key: str) -> str:
        """The client's id in the product's tables; there from the first time it is asked for."""
        self.execute(
            'INSERT INTO "Client" (id, name) VALUES (:id, :name) ON CONFLICT DO NOTHING', id=CLIENT_IDS[key], name=key
        )
        return CLIENT_IDS[key]

    def lead(self, identifier: str, *, of: str = ACME, **values: Any) -> str:
        """A lead, a minute younger than the one before; `psid` is its `messenger_psid`."""
        if "psid" in values:
            values["messenger_psid"] = values.pop("psid")
        moment = self._moment()
        row = {"id": identifier, "client_id": self.client(of), "created_at": moment, "updated_at": moment, **values}
        return self._insert("Lead", row)

    def job(self, identifier: str, lead_id: str | None, **values: Any) -> str:
        return self._insert("Job", {"id": identifier, "lead_id": lead_id, **values})

    def customer(self, *, of: str = ACME, **values: Any) -> str:
        """A customer that people made; its id."""
        if "psid" in values:
            values["messenger_psid"] = values.pop("psid")
        moment = self._moment()
        row = {"id": uuid4(), "client_id": self.client(of), "created_at": moment, "updated_at": moment, **values}
        return self._insert("Customer", row)

    def _moment(self) -> datetime:
        self._made += 1
        return _FIRST + timedelta(minutes=self._made)

    def _insert(self, table: str, row: Mapping[str, Any]) -> str:
        columns, places = ", ".join(f'"{name}"' for name in row), ", ".join(f":{name}" for name in row)
        self.execute(f'INSERT INTO "{table}" ({columns}) VALUES ({places})', **row)
        return str(row["id"])

    # --- driving ------------------------------------------------------------------------------------------------------

    def registry(self) -> Registry:
        document: Document = {
            "clients": [
                {"key": key, "name": key.title(), "leads": {"client_id": client_id}}
                for key, client_id in CLIENT_IDS.items()
            ]
        }
        if self.edit is not None:
            self.edit(document)
        path = self.folder / "clients.yaml"
        path.write_text(json.dumps(document), encoding="utf-8")
        return load_registry(path, environ={})

    @contextmanager
    def runtime(self, *, url: SecretStr | None = None) -> Iterator[Runtime]:
        """One process's worth of shared things."""
        engine = create_database_engine(url or self.database_url)
        with Runtime(registry=self.registry(), engine=engine) as runtime:
            yield runtime

    def run_all(self, *keys: str, steps: Steps = RUN, url: SecretStr | None = None, **options: Any) -> dict[str, Run]:
        """Clients side by side, in a process of their own."""
        with self.runtime(url=url) as runtime:
            works = [
                run_partition(
                    runtime,
                    BACKFILL,
                    key,
                    steps=steps,
                    options=BACKFILL.options_model(**options),
                    dagster_run_id=None,
                    root_run_id=None,
                )
                for key in keys
            ]
            return {run.partition_key: run for run in runtime.run_all(works)}

    def run(self, key: str = ACME, *, steps: Steps = RUN, url: SecretStr | None = None, **options: Any) -> Run:
        return self.run_all(key, steps=steps, url=url, **options)[key]

    def verify(self, key: str = ACME) -> Run:
        with self.runtime() as runtime:
            return runtime.run(verify_partition(runtime, BACKFILL, key))

    def undo(self, run: Run, *, dry_run: bool = False, url: SecretStr | None = None) -> UndoResult:
        with self.runtime(url=url) as runtime:
            return runtime.run(undo_run(runtime, BACKFILL, run, dry_run=dry_run))

    # --- looking ------------------------------------------------------------------------------------------------------

    def query(self, statement: str, **parameters: Any) -> list[Row]:
        with self.database.connect() as connection:
            return [dict(row) for row in connection.execute(text(statement), parameters).mappings()]

    def execute(self, statement: str, **parameters: Any) -> None:
        with self.database.begin() as connection:
            connection.execute(text(statement), parameters)

    def rows(self, table: str) -> dict[str, Row]:
        """A table's rows with all their columns, by id."""
        found = self.query(f'SELECT to_jsonb(t) AS row FROM "{table}" AS t ORDER BY id::text')
        return {str(each["row"]["id"]): each["row"] for each in found}

    def everything(self, *, but: Sequence[str] = ()) -> dict[str, dict[str, Row]]:
        """Every row of the user's tables."""
        return {table: self.rows(table) for table in TABLES if table not in but}

    def customer_of(self, lead_id: str) -> Row:
        """The customer that a lead is linked to."""
        return self.rows("Customer")[self.rows("Lead")[lead_id]["customer_id"]]

    def together(self) -> set[frozenset[str]]:
        """Which leads have one customer."""
        found: dict[str, set[str]] = {}
        for identifier, row in self.rows("Lead").items():
            if row["customer_id"] is not None:
                found.setdefault(row["customer_id"], set()).add(identifier)
        return {frozenset(leads) for leads in found.values()}

    def audits(self) -> list[Row]:
        """What the audit says of runs of ours, oldest first."""
        return [
            each["payload"]
            for each in self.query(
                "SELECT payload FROM \"Audit\" WHERE action = 'backfill_customers' ORDER BY created_at, id"
            )
        ]

    def changes(self, run_id: UUID) -> list[Row]:
        return self.query("SELECT * FROM backfill.change WHERE run_id = :run_id ORDER BY seq", run_id=run_id)

    def outcomes(self, run_id: UUID) -> dict[tuple[str, str], tuple[str, str | None]]:
        """By target and key: the state of a planned row, and the code of what kept it from being done."""
        return {
            (row["target"], row["record_key"]): (row["state"], row["error_code"] or row["reason"])
            for row in self.changes(run_id)
        }


def fill_typical_client(product: Product, *, of: str = ACME, prefix: str = "") -> None:
    """Every kind of group, a shared phone, a customer that people made, jobs; 14 leads, 9 customers, 4 jobs."""

    def lead(identifier: str, **values: Any) -> None:
        product.lead(prefix + identifier, of=of, **values)

    lead("psid-1", psid="p-1", phone="(205) 555-0111", first_name="Ada", last_name="Ash")
    lead("psid-2", psid="p-1", email="ada.ash@example.com")
    lead("joins-psid", phone="+1 205 555 0111", company_name="Ash & Co")
    lead("phone-1", phone="205-555-0122", first_name="Bo")
    lead("phone-2", phone="1 205 555 0122", email="BO@Example.com ")
    lead("joins-phone", email=" bo@example.com", last_name="Birch")
    lead("mail-1", email="cy@example.com", first_name="Cy")
    lead("mail-2", email="CY@example.com")
    lead("alone", first_name="Dee", last_name="Dale")
    lead("role", email="info@example.com", company_name="Elm Ltd")
    lead("family-1", psid="p-2", phone="205 555 0133")
    lead("family-2", psid="p-3", phone="(205) 555-0133 ext. 2")
    lead("family-3", phone="2055550133")
    lead("known", phone="+12055550144", email="fay@example.com", first_name="Fay")
    fay = uuid5(NAMESPACE_DNS, f"{prefix}fay.example.com")
    product.customer(id=fay, of=of, name="Fay Fir", phone="(205) 555-0144")
    for number, lead_id in enumerate(("psid-2", "mail-1", "mail-1", "known"), start=1):
        product.job(f"{prefix}job-{number}", prefix + lead_id)


def succeeded(*runs: Run) -> bool:
    """Whether all of them did; fails with the first one's own words, which say more than a state."""
    for run in runs:
        assert run.state is State.SUCCEEDED, f"{run.partition_key}: {run.error_code}: {run.error_message}"
    return True


def verified(run: Run) -> dict[str, Any]:
    """What a comparison found."""
    assert succeeded(run)
    assert run.verification is not None
    names = ("equal", "missing", "extra", "different", "explained", "passed")
    return {name: run.verification[name] for name in names}


def failure(run: Run) -> tuple[State, str | None]:
    """How a run failed: its state and its code."""
    return run.state, run.error_code
