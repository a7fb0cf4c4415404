"""`customers`: plan and load of a million leads and half a million jobs, against the bare SQL of the same result.

The bare SQL groups in the database, inserts the customers and updates leads and jobs: no plan, no journal, no way back.
Both start from a copy of the same database, in turn. Then a run with nothing to do, the memory of the process, and
10,000 leads against a script that does what scripts do: a SELECT, an INSERT and an UPDATE per lead.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from backfill_pipelines.database.connection import create_database_engine
from backfill_pipelines.database.embedded_server import EmbeddedServer
from benchmarks.figure import Figure
from benchmarks.landed_client import make_tables
from benchmarks.leads_in_tables import CLIENT, CLIENT_ID, copy_database, fill, write_registry

LEADS = 1_000_000
FEW_LEADS = 10_000
TURNS = 2
_RUN = f"""
import json, resource, sys, time
from pathlib import Path
from pydantic import SecretStr
import backfill_pipelines.definitions
from backfill_pipelines.backfills.customers import Customers
from backfill_pipelines.database.connection import create_database_engine
from backfill_pipelines.engine.partition_run import Steps, run_partition
from backfill_pipelines.engine.runtime import Runtime
from backfill_pipelines.registry import load_registry
url, registry = SecretStr(sys.argv[1]), load_registry(Path(sys.argv[2]), environ={{}})
class Unverified(Customers):
    def verify(self, scope):
        Unverified.loaded = time.perf_counter()
        return super().verify(scope)
with Runtime(registry=registry, engine=create_database_engine(url)) as runtime:
    backfill = Unverified()
    started = time.perf_counter()
    run = runtime.run(run_partition(runtime, backfill, "{CLIENT}", steps=Steps(), options=backfill.options_model(),
                                    dagster_run_id=None, root_run_id=None))
print(json.dumps({{"seconds": Unverified.loaded - started, "state": run.state, "counts": dict(run.counts),
                   "details": dict(run.details), "passed": run.verification["passed"],
                   "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}}))
"""
_BARE = (
    "SET LOCAL work_mem = '128MB'",
    """
    CREATE TEMP TABLE known ON COMMIT DROP AS
    SELECT id, nullif(btrim(messenger_psid), '') AS psid, lower(btrim(email)) AS email, created_at,
           right(nullif(regexp_replace(phone, '\\D', '', 'g'), ''), 10) AS phone,
           btrim(first_name || ' ' || last_name) AS name
    FROM "Lead" WHERE client_id = '42' AND customer_id IS NULL
    """,
    """
    CREATE TEMP TABLE by_phone ON COMMIT DROP AS
    SELECT k.*, CASE WHEN k.psid IS NOT NULL THEN 'psid:' || k.psid WHEN h.holders = 1 THEN 'psid:' || h.psid
                     WHEN k.phone IS NOT NULL THEN 'phone:' || k.phone END AS key
    FROM known AS k LEFT JOIN (SELECT phone, min(psid) AS psid, count(DISTINCT psid) AS holders FROM known
                               WHERE psid IS NOT NULL AND phone IS NOT NULL GROUP BY phone) AS h
      ON h.phone = k.phone AND k.psid IS NULL
    """,
    """
    CREATE TEMP TABLE grouped ON COMMIT DROP AS
    SELECT k.id, k.psid, k.phone, k.email, k.name, k.created_at, md5('42' || coalesce(k.key,
             CASE WHEN k.email IS NULL OR h.holders > 1 THEN 'individual:' || k.id
                  WHEN h.holders = 1 THEN h.key ELSE 'email:' || k.email END))::uuid AS customer_id
    FROM by_phone AS k LEFT JOIN (SELECT email, min(key) AS key, count(DISTINCT key) AS holders FROM by_phone
                                  WHERE key IS NOT NULL AND email IS NOT NULL GROUP BY email) AS h
      ON h.email = k.email AND k.key IS NULL
    """,
    """
    INSERT INTO "Customer" (id, client_id, name, phone, email, messenger_psid, metadata)
    SELECT customer_id, '42', name, CASE WHEN row_number() OVER (PARTITION BY phone ORDER BY oldest) = 1 THEN phone END,
           email, psid, jsonb_build_object('leadCount', leads, 'multipleLeads', leads > 1, 'createdAt', now(),
             'groupKey', md5(customer_id::text), 'groupType', 'x', 'createdBy', 'sql', 'runId', 'x')
    FROM (SELECT customer_id, count(*) AS leads, min(created_at) AS oldest,
                 (array_agg(name ORDER BY created_at DESC) FILTER (WHERE name IS NOT NULL))[1] AS name,
                 (array_agg(phone ORDER BY created_at DESC) FILTER (WHERE phone IS NOT NULL))[1] AS phone,
                 (array_agg(email ORDER BY created_at DESC) FILTER (WHERE email IS NOT NULL))[1] AS email,
                 max(psid) AS psid
          FROM grouped GROUP BY customer_id) AS customers
    """,
    'UPDATE "Lead" AS t SET customer_id = g.customer_id, updated_at = now() FROM grouped AS g WHERE g.id = t.id',
    """
    UPDATE "Job" AS j SET customer_id = t.customer_id FROM "Lead" AS t
    WHERE t.id = j.lead_id AND t.client_id = '42' AND j.customer_id IS NULL
    """,
)


def figures() -> list[Figure]:
    """Time ratios of plan and load, and the memory of the process."""
    with tempfile.TemporaryDirectory() as name, EmbeddedServer.start(Path(name) / "postgres") as server:
        return [*_large(server, Path(name)), _small(server, Path(name))]


def _large(server: EmbeddedServer, folder: Path) -> list[Figure]:
    _template(server, "many", LEADS)
    bare: list[float] = []
    ours: list[dict[str, object]] = []
    for _ in range(TURNS):
        copy_database(server, "many", "bare")
        bare.append(_bare(server))
        copy_database(server, "many", "ours")
        ours.append(_ours(server, folder, "ours"))
    _require_same(server)
    again = _ours(server, folder, "ours")
    seconds = [float(str(each["seconds"])) for each in ours]
    rerun = float(str(again["seconds"]))
    how = {"bare_seconds": [round(s, 1) for s in bare], "seconds": [round(s, 1) for s in seconds]}
    size = f"{LEADS:,} leads and {LEADS // 2:,} jobs"
    return [
        Figure(
            figure=f"customers: plan and load of {size}, over the bare SQL",
            value=min(seconds) / min(bare), bar=1.5, unit="ratio", how=how,
        ),
        Figure(
            figure=f"customers: peak memory with {size}",
            value=max(float(str(each["megabytes"])) for each in (*ours, again)), bar=1024, unit="MB",
        ),
        Figure(
            figure="customers: a run with nothing to do, over the first",
            value=rerun / min(seconds), bar=0.25, unit="ratio", how={"seconds": round(rerun, 1)},
        ),
        Figure(
            figure="customers: rows written by a run with nothing to do",
            value=float(json.loads(json.dumps(again["counts"]))["applied"]), bar=0, unit="rows",
        ),
    ]  # fmt: skip


def _small(server: EmbeddedServer, folder: Path) -> Figure:
    _template(server, "few", FEW_LEADS)
    copy_database(server, "few", "ours")
    ours = float(str(_ours(server, folder, "ours")["seconds"]))
    copy_database(server, "few", "script")
    script = _script(server)
    return Figure(
        figure=f"customers: {FEW_LEADS:,} leads, a script of one SELECT, INSERT and UPDATE per lead over plan and load",
        value=script / ours, bar=20, unit="ratio", at_least=True,
        how={"script_seconds": round(script, 1), "seconds": round(ours, 2)},
    )  # fmt: skip


def _template(server: EmbeddedServer, name: str, leads: int) -> None:
    url = server.ensure_database(name)
    make_tables(url)
    engine = create_database_engine(url)
    fill(engine, leads=leads)
    engine.dispose()


def _bare(server: EmbeddedServer) -> float:
    engine = create_database_engine(server.url("bare"))
    with engine.connect() as connection:
        started = time.perf_counter()
        with connection.begin():
            for statement in _BARE:
                connection.exec_driver_sql(statement)
        seconds = time.perf_counter() - started
    engine.dispose()
    return seconds


def _ours(server: EmbeddedServer, folder: Path, name: str) -> dict[str, object]:
    """Plan and load in a process of its own, without the verification that follows; raises unless that passes."""
    arguments = [server.url(name).get_secret_value(), str(write_registry(folder))]
    environment = {**os.environ, "BACKFILL_HASH_KEY": "invented"}
    done = subprocess.run(
        [sys.executable, "-c", _RUN, *arguments], check=True, stdout=subprocess.PIPE, text=True, env=environment
    )
    result: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    if result["state"] != "succeeded" or not result["passed"]:
        raise RuntimeError(f"the run ended as {result}")
    return result


def _require_same(server: EmbeddedServer) -> None:
    """Both ways must have come to the same: as many customers, of as many leads each."""
    sizes = (
        'SELECT leads, count(*) FROM (SELECT count(*) AS leads FROM "Lead" GROUP BY customer_id) AS g'
        " GROUP BY leads ORDER BY leads"
    )
    found = []
    for name in ("bare", "ours"):
        engine = create_database_engine(server.url(name))
        with engine.connect() as connection:
            found.append(connection.execute(text(sizes)).all())
        engine.dispose()
    if found[0] != found[1]:
        raise RuntimeError(f"the bare SQL groups otherwise: {found}")


def _script(server: EmbeddedServer) -> float:
    """What a script does: for each lead look for its customer by phone, make one, link it; a commit for each."""
    engine: Engine = create_database_engine(server.url("script"))
    with Session(engine) as session:
        leads = session.execute(text('SELECT id, phone, email, first_name FROM "Lead"')).all()
        session.commit()
        started = time.perf_counter()
        for identifier, phone, email, name in leads:
            customer = session.scalar(
                text(
                    'SELECT id FROM "Customer" WHERE client_id = :client AND (phone = :phone OR email = :email) LIMIT 1'
                ),
                {"client": CLIENT_ID, "phone": phone, "email": email},
            )
            if customer is None:
                customer = session.scalar(
                    text(
                        'INSERT INTO "Customer" (id, client_id, name, phone, email)'
                        " VALUES (gen_random_uuid(), :client, :name, :phone, :email) RETURNING id"
                    ),
                    {"client": CLIENT_ID, "name": name, "phone": phone, "email": email},
                )
            session.execute(
                text('UPDATE "Lead" SET customer_id = :customer, updated_at = now() WHERE id = :id'),
                {"customer": customer, "id": identifier},
            )
            session.commit()
        seconds = time.perf_counter() - started
    engine.dispose()
    return seconds
