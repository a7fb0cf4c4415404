"""A client whose replies and leads are landed already: `client_leads` without a source.

Belongs here: one registry, one database with the product's tables, invented replies in the landing tables, and runs of
`client_leads` that start from those. Does not belong here: measuring.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr
from sqlalchemy import Engine, text

from backfill_pipelines.backfills.client_leads import ClientLeads
from backfill_pipelines.database.connection import create_database_engine
from backfill_pipelines.database.schema import upgrade_schema
from backfill_pipelines.engine.backfill import Scope
from backfill_pipelines.engine.ledger import Run, State
from backfill_pipelines.engine.partition_run import Steps, run_partition
from backfill_pipelines.engine.runtime import Runtime
from backfill_pipelines.registry import load_registry
from backfill_pipelines.sandbox.product_schema import product_schema_sql

CLIENT = "amber-ridge-roofing"
WORKSPACE = "Amber Ridge Roofing"

_REGISTRY = f"""
defaults: {{phone_region: US}}
email_bison: {{main: {{base_url: "https://mail.example.com/api"}}}}
clients:
  - {{key: {CLIENT}, name: {WORKSPACE}, email_bison: {{instance: main, workspace_id: 17, token: invented}}}}
"""

_REPLIES = """
INSERT INTO backfill.bison_reply
SELECT :client, n, 'mail.example.com', 1000000 + n % :leads, 100 + n % 40, 500 + n % 90, true,
       timestamptz '2024-03-01' + n * interval '97 seconds', 'Robin Ashby ' || n, 'robin.' || n || '@mail.example.com'
FROM generate_series(1, :replies) AS n
"""
_LEADS = """
INSERT INTO backfill.bison_lead
SELECT :client, 1000000 + n, true,
       CASE WHEN n % 7 = 0 THEN 'Robin.Ashby.' ELSE 'robin.ashby.' END || n || '@company' || n % 4000 || '.example.com',
       'Robin', 'Ashby', 'Company ' || n % 4000, '(202) 555-' || to_char(100 + n % 100, 'FM0000')
FROM generate_series(0, :leads - 1) AS n
"""


class LandedClientLeads(ClientLeads):
    """The backfill as it is, but for the extraction: the rows are here."""

    async def extract(self, scope: Scope) -> None:
        """Nothing to read."""


def make_tables(url: SecretStr) -> None:
    """Make the schema `backfill` and the product's tables."""
    engine = create_database_engine(url)
    upgrade_schema(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql(product_schema_sql())
    engine.dispose()


def land(engine: Engine, *, replies: int, leads: int) -> None:
    """Land so many interested replies of so many different leads."""
    parameters = {"client": CLIENT, "replies": replies, "leads": leads}
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE backfill.bison_reply, backfill.bison_lead"))
        connection.execute(text(_REPLIES), parameters)
        connection.execute(text(_LEADS), parameters)
        connection.execute(text("ANALYZE backfill.bison_reply, backfill.bison_lead"))


def write_registry(folder: Path) -> Path:
    """Write a `clients.yaml` with the one client."""
    path = folder / "clients.yaml"
    path.write_text(_REGISTRY, encoding="utf-8")
    return path


@contextmanager
def opened(url: SecretStr, folder: Path) -> Iterator[Runtime]:
    """One process at work on the one client."""
    registry = load_registry(write_registry(folder), environ={})
    with Runtime(registry=registry, engine=create_database_engine(url)) as runtime:
        yield runtime


def run(runtime: Runtime, *, steps: Steps) -> Run:
    """Run the client's partition; raises unless it succeeds."""
    backfill = LandedClientLeads()
    work = run_partition(
        runtime,
        backfill,
        CLIENT,
        steps=steps,
        options=backfill.options_model(),
        dagster_run_id=None,
        root_run_id=None,
    )
    finished = runtime.run(work)
    if finished.state is not State.SUCCEEDED:
        raise RuntimeError(f"the run ended {finished.state}: {finished.error_code}: {finished.error_message}")
    return finished
