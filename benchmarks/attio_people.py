"""`attio_people`: planning a million users against a million people, and 10,000 new people written.

The plan is made in a process of its own from landing tables that SQL has filled: reading, deciding and making the rows.
The writes go to the fake with Attio's real limits, through a whole run; measured are the run's own start and end at it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

from sqlalchemy import text

from backfill_pipelines.backfills.attio_people import AttioPeople
from backfill_pipelines.database.connection import create_database_engine
from backfill_pipelines.database.embedded_server import EmbeddedServer
from backfill_pipelines.database.schema import upgrade_schema
from backfill_pipelines.engine.partition_run import Steps, run_partition
from backfill_pipelines.engine.runtime import Runtime
from backfill_pipelines.registry import Registry, load_registry
from backfill_pipelines.sandbox.attio import AttioSandbox
from backfill_pipelines.sandbox.attio_data import build_attio_workspace
from backfill_pipelines.sandbox.clerk import ClerkSandbox
from backfill_pipelines.sandbox.clerk_data import ClerkWorld, build_clerk_instance
from backfill_pipelines.sandbox.server import SandboxServer
from benchmarks.figure import Figure
from benchmarks.vendor_process import vendor_process

KEY = "acme"
PLANNED = 1_000_000
CREATED = 10_000
_PLAN = f"""
import json, resource, sys, threading, time, uuid
from pathlib import Path
from types import SimpleNamespace
from pydantic import SecretStr
from backfill_pipelines.backfills.attio_people import AttioPeople, AttioPeopleOptions
from backfill_pipelines.database.connection import create_database_engine
from backfill_pipelines.engine.backfill import Scope
from backfill_pipelines.registry import load_registry
engine = create_database_engine(SecretStr(sys.argv[1]))
scope = Scope(backfill="attio_people", partition_key="{KEY}", registry=load_registry(Path(sys.argv[2]), environ={{}}),
              engine=engine, shared=None, options=AttioPeopleOptions(), stop=threading.Event(), run_id=uuid.uuid4(),
              progress=SimpleNamespace(report=lambda *_: None), locks=None, require_lock=lambda: None)
started = time.perf_counter()
rows = sum(len(frame) for frame in AttioPeople().plan(scope).frames)
print(json.dumps({{"seconds": time.perf_counter() - started, "rows": rows,
                   "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}}))
"""
# A quarter of the people are nobody's, a quarter have their id already; a user in five has a second address.
_USERS = """
INSERT INTO backfill.clerk_user (partition_key, user_id, sweep, primary_email, verified_emails, first_name, last_name,
                                 created_at, banned)
SELECT :key, 'user_' || md5(g::text), 1,
       CASE WHEN g % 17 = 0 THEN upper(address) ELSE address END,
       CASE WHEN g % 5 = 0 THEN jsonb_build_array(address, 'other.' || g || '@gmail.test')
            ELSE jsonb_build_array(address) END,
       'First' || g % 3000, 'Last' || g % 20000, 1700000000000 + g, g % 37 = 0
FROM (SELECT g, 'somebody.' || g || '@company-' || g % 5000 || '.example' AS address
      FROM generate_series(1, :count) AS g) AS invented
"""
_PEOPLE = """
INSERT INTO backfill.attio_person (partition_key, record_id, addresses, user_ids)
SELECT :key, gen_random_uuid()::text,
       jsonb_build_array(CASE WHEN g % 4 = 0 THEN 'stranger.' || g || '@else.test'
                              ELSE 'somebody.' || g || '@company-' || g % 5000 || '.example' END),
       CASE WHEN g % 4 = 1 THEN jsonb_build_array('user_' || md5(g::text)) ELSE '[]' END
FROM generate_series(1, :count) AS g
"""


def figures() -> list[Figure]:
    """Time and memory of the plan, and the time of the writes."""
    with tempfile.TemporaryDirectory() as name, EmbeddedServer.start(Path(name) / "postgres") as server:
        return [*_planning(server, Path(name)), _creating(server, Path(name))]


def _planning(server: EmbeddedServer, folder: Path) -> list[Figure]:
    url = server.ensure_database("planned")
    engine = create_database_engine(url)
    upgrade_schema(engine)
    with engine.begin() as connection:
        for statement in (_USERS, _PEOPLE):
            connection.execute(text(statement), {"key": KEY, "count": PLANNED})
        connection.execute(text("ANALYZE"))
    engine.dispose()
    _registry(folder, "sk_live_invented", "invented", {})
    arguments = [url.get_secret_value(), str(folder / "clients.yaml")]
    done = subprocess.run([sys.executable, "-c", _PLAN, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    what = f"planning {PLANNED:,} users against {PLANNED:,} people"
    return [
        Figure(figure=what, value=found["seconds"], bar=30, unit="seconds", how={"rows": found["rows"]}),
        Figure(figure=f"peak memory of {what}", value=found["megabytes"], bar=1536, unit="MB"),
    ]


def _creating(server: EmbeddedServer, folder: Path) -> Figure:
    engine = create_database_engine(server.ensure_database("created"))
    upgrade_schema(engine)
    with vendor_process(serve) as vendor:
        place = vendor.place
        registry = _registry(folder, place["secret_key"], place["api_key"], place["urls"])
        backfill = AttioPeople()
        with Runtime(registry=registry, engine=engine) as runtime:
            run = runtime.run(
                run_partition(
                    runtime, backfill, KEY, steps=Steps(), options=backfill.options_model(),
                    dagster_run_id=None, root_run_id=None,
                )
            )  # fmt: skip
        counted = vendor.end()
    if run.counts["failed"] or run.counts["applied"] < CREATED * 0.9 or run.error_code:
        raise RuntimeError(f"the run {run.state} with {dict(run.counts)}: {run.error_code}")
    per_write = counted["seconds"] / counted["writes"]
    return Figure(
        figure=f"{CREATED:,} people created in Attio",
        value=per_write * CREATED, bar=410, unit="seconds", how=counted,
    )  # fmt: skip


def _registry(folder: Path, secret_key: str, api_key: str, urls: dict[str, str]) -> Registry:
    access = {"clerk": {"secret_key": secret_key}, "attio": {"api_key": api_key}}
    document = {
        "workspaces": [{"key": KEY, **access}],
        "vendors": {vendor: {"base_url": url} for vendor, url in urls.items()},
    }
    path = folder / "clients.yaml"
    path.write_text(json.dumps(document), encoding="utf-8")
    return load_registry(path, environ={})


class _TimedAttio(AttioSandbox):
    """Notes when a record is created."""

    def describe(self, request, template):  # type: ignore[no-untyped-def]
        if request.method == "POST" and template.endswith("/records"):
            moments.append(time.monotonic())
        return super().describe(request, template)


moments: list[float] = []


def serve(pipe: Connection) -> None:
    """A Clerk of so many users and an Attio without a person, until a word comes."""
    instance = build_clerk_instance(seed=5, users=CREATED + CREATED // 10)
    crm = build_attio_workspace(seed=5, key=KEY, other_people=0, other_companies=0)
    vendors = [ClerkSandbox(ClerkWorld((instance,))), _TimedAttio([crm])]
    server = SandboxServer(vendors)
    server.start()
    urls = {each.name: server.account_urls(each.name)["api"] for each in vendors}
    pipe.send({"urls": urls, "secret_key": instance.secret_key, "api_key": crm.token})
    pipe.recv()
    pipe.send({"writes": len(moments) - 1, "seconds": round(moments[-1] - moments[0], 2)})
    server.stop()
