"""A product with leads and a fake GoHighLevel: runs of `lead_hydration` without Dagster.

Belongs here: filling the table of leads, driving whole runs, doing what people do meanwhile, and reading what a run
left. Does not belong here: what is expected of it.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, text

from backfill_pipelines.backfills.lead_hydration import LeadHydration
from backfill_pipelines.database.connection import create_database_engine
from backfill_pipelines.engine import partition_run
from backfill_pipelines.engine.backfill import Progress
from backfill_pipelines.engine.ledger import Run, State
from backfill_pipelines.engine.partition_run import Steps, run_partition
from backfill_pipelines.engine.runtime import Runtime
from backfill_pipelines.engine.undo import UndoResult, undo_run
from backfill_pipelines.engine.verify import verify_partition
from backfill_pipelines.registry import Registry, load_registry
from backfill_pipelines.sandbox.faults import Trigger
from backfill_pipelines.sandbox.gohighlevel import GoHighLevelSandbox
from backfill_pipelines.sandbox.gohighlevel_data import GoHighLevelLocation, KnownContact, LocationHabits
from backfill_pipelines.sandbox.gohighlevel_limits import GoHighLevelLimits
from backfill_pipelines.sandbox.gohighlevel_state import LocationState
from backfill_pipelines.sandbox.server import SandboxServer
from backfill_pipelines.vendors import gohighlevel, gohighlevel_limits
from backfill_pipelines.vendors.retry import RetryPolicy

BACKFILL = LeadHydration()
ACME, BOLT = "acme", "bolt"
KEYS = (ACME, BOLT)
CLIENT_IDS = {ACME: "42", BOLT: "it's 43"}
LOCATIONS = {ACME: "locAcme0000000000001", BOLT: "locBolt0000000000002"}
TOKENS = {ACME: "pit-acme-c7f1", BOLT: "pit-bolt-d8e2"}
RUN = Steps()
DRY_RUN = Steps(load=False)
LOAD_ONLY = Steps(extract=False, plan=False)
EXTRACT_ONLY = Steps(plan=False, load=False)
SEARCH, SHOW, DUPLICATE = "/contacts/search", "/contacts/{id}", "/contacts/search/duplicate"
UNLIMITED = GoHighLevelLimits(burst=10**6, daily=10**9)
FIELDS = ("phone", "email", "first_name", "last_name", "company_name", "ghl_contact_id")

Row = dict[str, Any]
Document = dict[str, Any]

_FIRST = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)


def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting for permits, which most tests are not about, nor between attempts."""
    monkeypatch.setattr(gohighlevel_limits, "BURST_REQUESTS", 10**6)
    monkeypatch.setattr(gohighlevel, "RetryPolicy", partial(RetryPolicy, base_seconds=0.001))
    monkeypatch.setattr(partition_run, "RETRY_DELAYS", (0.0, 0.0))


def location(
    key: str = ACME,
    *,
    known: Sequence[KnownContact] = (),
    others: int = 0,
    foreign_ids: Iterable[str] = (),
    **habits: Any,
) -> GoHighLevelLocation:
    """A client's location: known contacts, and others that are nobody's."""
    return GoHighLevelLocation(
        seed=7,
        location_id=LOCATIONS[key],
        token=TOKENS[key],
        contacts=len(known) + others,
        key=key,
        known=known,
        foreign_ids=foreign_ids,
        habits=LocationHabits(**{"index_lag_seconds": 0.0, **habits}),
    )


@dataclass(kw_only=True)
class Hydration:
    """The vendor and the database; `edit` changes the registry's document before it is written."""

    vendor: GoHighLevelSandbox
    server: SandboxServer
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
        """A lead, a minute younger than the one before; `contact` is its `ghl_contact_id`."""
        if "contact" in values:
            values["ghl_contact_id"] = values.pop("contact")
        self._made += 1
        moment = _FIRST + timedelta(minutes=self._made)
        row = {"id": identifier, "client_id": self.client(of), "created_at": moment, "updated_at": moment, **values}
        columns, places = ", ".join(f'"{name}"' for name in row), ", ".join(f":{name}" for name in row)
        self.execute(f'INSERT INTO "Lead" ({columns}) VALUES ({places})', **row)
        return identifier

    def edit_lead(self, identifier: str, **values: Any) -> None:
        """Somebody changes a lead."""
        changes = ", ".join(f"{name} = :{name}" for name in values)
        self.execute(f'UPDATE "Lead" SET {changes}, updated_at = now() WHERE id = :lead', lead=identifier, **values)

    # --- driving ------------------------------------------------------------------------------------------------------

    def registry(self) -> Registry:
        document: Document = {
            "clients": [
                {
                    "key": each.key,
                    "name": each.key.title(),
                    "gohighlevel": {"location_id": each.id, "token": each.token},
                    "leads": {"client_id": CLIENT_IDS.get(each.key, each.key)},
                }
                for each in self.vendor.locations
            ],
            "vendors": {"gohighlevel": {"base_url": self.server.account_urls("gohighlevel")["api"]}},
        }
        if self.edit is not None:
            self.edit(document)
        path = self.folder / "clients.yaml"
        path.write_text(json.dumps(document), encoding="utf-8")
        return load_registry(path, environ={})

    def configure(self, **settings: Any) -> None:
        """Write these settings of the backfill into every client's entry of the registry."""

        def edit(document: Document) -> None:
            for client in document["clients"]:
                client["lead_hydration"] = settings

        self.edit = edit

    @contextmanager
    def runtime(self, *, stop: threading.Event | None = None, progress: Progress | None = None) -> Iterator[Runtime]:
        """One process's worth of shared things."""
        engine = create_database_engine(self.database_url)
        with Runtime(registry=self.registry(), engine=engine, stop=stop, progress=progress) as runtime:
            yield runtime

    def run_all(
        self,
        *keys: str,
        steps: Steps = RUN,
        stop: threading.Event | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> dict[str, Run]:
        """Clients side by side, in a process of their own."""
        with self.runtime(stop=stop, progress=progress) as runtime:
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

    def run(self, key: str = ACME, **given: Any) -> Run:
        """A run of one client: `run_all`'s arguments, and options."""
        return self.run_all(key, **given)[key]

    def verify(self, key: str = ACME) -> Run:
        with self.runtime() as runtime:
            return runtime.run(verify_partition(runtime, BACKFILL, key))

    def undo(self, run: Run, *, dry_run: bool = False) -> UndoResult:
        with self.runtime() as runtime:
            return runtime.run(undo_run(runtime, BACKFILL, run, dry_run=dry_run))

    # --- the vendor, and what people do there -------------------------------------------------------------------------

    def state(self, key: str = ACME) -> LocationState:
        return self.vendor.states[LOCATIONS[key]]

    def after(self, action: Callable[[], None], *, path: str = SEARCH, nth: int = 1) -> None:
        """Do it once such a request has had its effect, before it is answered."""
        self.server.after(Trigger(vendor="gohighlevel", path=path, nth=nth), action)

    def fault(self, kind: str, **trigger: Any) -> None:
        self.server.add_faults([{"kind": kind, "vendor": "gohighlevel", **trigger}])

    # --- looking ------------------------------------------------------------------------------------------------------

    def query(self, statement: str, **parameters: Any) -> list[Row]:
        with self.database.connect() as connection:
            return [dict(row) for row in connection.execute(text(statement), parameters).mappings()]

    def execute(self, statement: str, **parameters: Any) -> None:
        with self.database.begin() as connection:
            connection.execute(text(statement), parameters)

    def leads(self) -> dict[str, Row]:
        """All leads with all their columns, by id."""
        found = self.query('SELECT to_jsonb(t) AS row FROM "Lead" AS t ORDER BY id')
        return {each["row"]["id"]: each["row"] for each in found}

    def known(self, identifier: str) -> Row:
        """What a lead has of what may be filled; without what it lacks."""
        row = self.leads()[identifier]
        return {name: row[name] for name in FIELDS if row[name] is not None}

    def changes(self, run_id: UUID) -> list[Row]:
        return self.query("SELECT * FROM backfill.change WHERE run_id = :run_id ORDER BY seq", run_id=run_id)

    def outcomes(self, run_id: UUID) -> dict[str, tuple[str, str | None]]:
        """Of each planned row by its key: its action, and the code that says why."""
        rows = self.changes(run_id)
        found = {row["record_key"]: (row["action"], row["error_code"] or row["reason"]) for row in rows}
        assert len(found) == len(rows)
        return found

    def landed(self, key: str = ACME) -> dict[str, Row]:
        rows = self.query("SELECT * FROM backfill.ghl_contact WHERE partition_key = :key", key=key)
        return {row["contact_id"]: row for row in rows}

    def calls(self, key: str = ACME, *, since: int = 0) -> Counter[str]:
        """How often each path was asked for with the client's token; contacts by their ids are one path."""
        return Counter(each.call.template for each in self.server.requests[since:] if each.call.client == key)

    def seen(self) -> int:
        """How many requests there were so far."""
        return len(self.server.requests)


@contextmanager
def serving(
    database: Engine,
    database_url: SecretStr,
    folder: Path,
    *locations: GoHighLevelLocation,
    limits: GoHighLevelLimits = UNLIMITED,
) -> Iterator[Hydration]:
    """The vendor, for one test; whoever asks it to write something fails the test."""
    vendor = GoHighLevelSandbox(locations, limits=limits)
    with SandboxServer([vendor]) as server:
        yield Hydration(vendor=vendor, server=server, database=database, database_url=database_url, folder=folder)
        assert vendor.writes == 0


class Serve(Protocol):
    """Serves locations for the rest of a test."""

    def __call__(self, *locations: GoHighLevelLocation, limits: GoHighLevelLimits = UNLIMITED) -> Hydration: ...


def contact(identifier: str, email: str | None = None, **fields: Any) -> KnownContact:
    """A contact; `also` are its additional addresses."""
    also = fields.pop("also", ())
    return KnownContact(id=identifier, email=email, additional_emails=tuple(also), **fields)


def succeeded(*runs: Run) -> bool:
    """Whether all of them did; fails with the first one's own words, which say more than a state."""
    for run in runs:
        assert run.state is State.SUCCEEDED, f"{run.partition_key}: {run.error_code}: {run.error_message}"
    return True


def failure(run: Run) -> tuple[State, str | None]:
    """How a run failed: its state and its code."""
    return run.state, run.error_code


def verified(run: Run) -> dict[str, Any]:
    """What a comparison found."""
    assert succeeded(run)
    assert run.verification is not None
    names = ("equal", "missing", "extra", "different", "explained", "passed")
    return {name: run.verification[name] for name in names}


def counts(run: Run) -> Mapping[str, int]:
    """What a plan and its load came to, without what is nothing."""
    return {name: count for name, count in run.counts.items() if count}


def people(count: int, **fields: Any) -> list[KnownContact]:
    """Contacts with addresses and names of their own."""
    return [contact(f"c{n:03d}", f"lead{n}@example.com", first_name=f"Ann{n}", **fields) for n in range(count)]


def leads_by_address(product: Hydration, numbers: Iterable[int]) -> None:
    for number in numbers:
        product.lead(f"l{number:03d}", email=f"Lead{number}@example.com")


def linked(product: Hydration) -> dict[str, str]:
    return {key: row["ghl_contact_id"] for key, row in product.leads().items() if row["ghl_contact_id"]}


def all_linked(product: Hydration, numbers: Iterable[int]) -> bool:
    return linked(product) == {f"l{number:03d}": f"c{number:03d}" for number in numbers}
