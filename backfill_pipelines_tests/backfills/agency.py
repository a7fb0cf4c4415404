"""An agency at work: fake vendors on sockets, a database, a registry, and runs of `client_leads` without Dagster.

Belongs here: driving whole runs and reading what they left behind. Does not belong here: what is expected of them.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from uuid import UUID

import yaml
from pydantic import SecretStr
from sqlalchemy import Engine, text

from backfill_pipelines.backfills.client_leads import ClientLeads
from backfill_pipelines.database.connection import create_database_engine
from backfill_pipelines.engine.backfill import Progress
from backfill_pipelines.engine.ledger import Run, State
from backfill_pipelines.engine.partition_run import Steps, run_partition
from backfill_pipelines.engine.runtime import Runtime
from backfill_pipelines.engine.undo import UndoResult, undo_run
from backfill_pipelines.engine.verify import verify_partition
from backfill_pipelines.registry import Registry, load_registry
from backfill_pipelines.sandbox.email_bison import EmailBisonSandbox
from backfill_pipelines.sandbox.registry_file import registry_yaml
from backfill_pipelines.sandbox.server import SandboxServer
from backfill_pipelines.sandbox.traffic import LoggedRequest, RateLimit
from backfill_pipelines_tests.sandbox.client_leads_oracle import expected_client_leads

AMBER = "amber-ridge-roofing"  # main
BIRCHWOOD = "birchwood-daughters"  # second
CAFE = "cafe-lumiere-catering"  # main
CEDAR = "cedar-point-solar"  # second
DOVETAIL = "dovetail-kitchens"  # main, three replies

BACKFILL = ClientLeads()
RUN = Steps()
DRY_RUN = Steps(load=False)
UNHURRIED = RateLimit(permits=1_000_000, window_seconds=60.0)
"""The tests are about data; at the real limit each would wait for its permits."""

Document = dict[str, Any]
Edit = Callable[[Document], None]


@dataclass(kw_only=True)
class Agency:
    """The world and its database; `edit` changes the registry's document before it is written."""

    bison: EmailBisonSandbox
    server: SandboxServer
    database: Engine
    database_url: SecretStr
    folder: Path
    admin_only: bool = False
    edit: Edit | None = None
    environ: Mapping[str, str] = field(default_factory=dict)

    # --- driving ------------------------------------------------------------------------------------------------------

    def registry(self) -> Registry:
        urls = self.server.account_urls("email-bison")
        written = registry_yaml(self.bison.state.world, urls, admin_only=self.admin_only)
        document = yaml.load(written, yaml.CSafeLoader)
        for instance in document["email_bison"].values():
            instance["requests_per_minute"] = UNHURRIED.permits
        if self.edit is not None:
            self.edit(document)
        path = self.folder / "clients.yaml"
        path.write_text(json.dumps(document), encoding="utf-8")  # which is YAML too, and faster
        return load_registry(path, environ=self.environ)

    @contextmanager
    def runtime(
        self, *, stop: threading.Event | None = None, progress: Progress | None = None, url: SecretStr | None = None
    ) -> Iterator[Runtime]:
        """One process's worth of shared things."""
        engine = create_database_engine(url or self.database_url)
        with Runtime(registry=self.registry(), engine=engine, stop=stop, progress=progress) as runtime:
            yield runtime

    def run_in(self, runtime: Runtime, *keys: str, steps: Steps = RUN, **options: Any) -> dict[str, Run]:
        """Partitions side by side, in one process."""
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

    def run_all(self, *keys: str, steps: Steps = RUN, url: SecretStr | None = None, **options: Any) -> dict[str, Run]:
        """Partitions side by side, in a process of their own."""
        with self.runtime(url=url) as runtime:
            return self.run_in(runtime, *keys, steps=steps, **options)

    def run(self, key: str, *, steps: Steps = RUN, url: SecretStr | None = None, **options: Any) -> Run:
        """One partition, in a process of its own."""
        return self.run_all(key, steps=steps, url=url, **options)[key]

    def verify(self, key: str) -> Run:
        with self.runtime() as runtime:
            return runtime.run(verify_partition(runtime, BACKFILL, key))

    def undo(self, run: Run) -> UndoResult:
        with self.runtime() as runtime:
            return runtime.run(undo_run(runtime, BACKFILL, run, dry_run=False))

    # --- looking ------------------------------------------------------------------------------------------------------

    def name_of(self, key: str) -> str:
        return self.bison.state.world.client(key)[1].name

    def workspace_of(self, key: str) -> int:
        return self.bison.state.world.client(key)[1].id

    def host_of(self, key: str) -> str:
        instance = self.bison.state.world.client(key)[0].name
        return self.server.account_urls("email-bison")[instance].split("/")[2]

    def rows(self, key: str) -> dict[str, dict[str, Any]]:
        """The client's rows of `client_leads` by comparison key, as far as the backfill writes them."""
        found = self.query(
            "SELECT workspace_name, lead_email, first_name, last_name, company, phone, interested, interested_at,"
            " date_received, bison_reply_id, bison_lead_id, bison_campaign_id, bison_instance, bison_workspace_id"
            " FROM client_leads WHERE workspace_name = :name",
            name=self.name_of(key),
        )
        rows = {row["lead_email"].strip().lower(): row for row in found}
        assert len(rows) == len(found)
        return rows

    def oracle(self, key: str) -> dict[str, dict[str, Any]]:
        """What the rows must be after a run into an empty table, as the world stands now."""
        expected = expected_client_leads(self.bison.state.snapshot(), key)
        return {email: {**row, "bison_instance": self.host_of(key)} for email, row in expected.rows.items()}

    def query(self, statement: str, **parameters: Any) -> list[dict[str, Any]]:
        with self.database.connect() as connection:
            return [dict(row) for row in connection.execute(text(statement), parameters).mappings()]

    def execute(self, statement: str, **parameters: Any) -> None:
        with self.database.begin() as connection:
            connection.execute(text(statement), parameters)

    def written(self) -> int:
        """How many rows `client_leads` has."""
        return int(self.query("SELECT count(*) AS n FROM client_leads")[0]["n"])

    def changes(self, run_id: UUID) -> list[dict[str, Any]]:
        return self.query("SELECT * FROM backfill.change WHERE run_id = :run_id ORDER BY seq", run_id=run_id)

    def landed(self, key: str) -> list[int]:
        found = self.query("SELECT reply_id FROM backfill.bison_reply WHERE partition_key = :key ORDER BY 1", key=key)
        return [row["reply_id"] for row in found]

    def requests(self, key: str, path: str = "*") -> list[LoggedRequest]:
        """The requests made as that client, in order."""
        return [each for each in self.server.requests if each.call.client == key and path in ("*", each.path)]

    def reply_pages(self, key: str) -> list[int]:
        """The pages of replies that were asked for as that client, in the order of the answers."""
        return [int(parse_qs(each.query)["page"][0]) for each in self.requests(key, "/replies")]


def succeeded(runs: Mapping[str, Run] | Sequence[Run]) -> bool:
    """Whether all of them did; fails with the first one's own words, which say more than a state."""
    for run in runs.values() if isinstance(runs, Mapping) else runs:
        assert run.state is State.SUCCEEDED, f"{run.partition_key}: {run.error_code}: {run.error_message}"
    return True


def failure(run: Run) -> tuple[State, str | None, bool]:
    """How a run failed: its state, its code, and whether the next one goes on with it."""
    return run.state, run.error_code, run.resumable
