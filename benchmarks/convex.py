"""`convex_users`: calls for 100,000 users against 80,000 rows of which 20,000 differ, and the plan of a million users.

The calls are counted by the fake vendors, which keep to their limits; a second run has nothing to do. The plan reads
landing tables that SQL has filled, in a process of its own; storing it is not measured.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from pydantic import SecretStr

from backfill_pipelines.backfills.convex_users import ConvexUsers
from backfill_pipelines.database.connection import create_database_engine
from backfill_pipelines.database.embedded_server import EmbeddedServer
from backfill_pipelines.database.schema import upgrade_schema
from backfill_pipelines.engine.ledger import State
from backfill_pipelines.engine.partition_run import Steps, run_partition
from backfill_pipelines.engine.runtime import Runtime
from backfill_pipelines.registry import Registry, load_registry
from backfill_pipelines.sandbox.clerk import ClerkSandbox
from backfill_pipelines.sandbox.clerk_data import ClerkWorld, build_clerk_instance
from backfill_pipelines.sandbox.convex import ConvexSandbox
from backfill_pipelines.sandbox.convex_data import build_convex_deployment
from backfill_pipelines.sandbox.server import SandboxServer
from backfill_pipelines.vendors.convex import ROWS_A_BATCH, ROWS_A_PAGE
from benchmarks.figure import Figure
from benchmarks.vendor_process import vendor_process

KEY = "acme"
USERS, ROWS, DIFFERENT = 100_000, 80_000, 20_000
CLERK_CALLS = 202
CONVEX_CALLS = -(-ROWS // ROWS_A_PAGE) + -(-DIFFERENT // ROWS_A_BATCH) + 2
PLANNED_USERS = 1_000_000
PLAN_SECONDS = 20.0
TURNS = 2
_FILL = (
    """
    INSERT INTO backfill.clerk_user (partition_key, user_id, sweep, primary_email, verified_emails, first_name,
      last_name, username, image_url, created_at, last_sign_in_at, last_active_at, banned)
    SELECT 'acme', 'user_2' || md5(n::text), 1, 'person.' || n || '@company-' || n % 5000 || '.example', '[]',
      'First' || n % 1000, CASE WHEN n % 7 > 0 THEN 'Last' || n % 3000 END, CASE WHEN n % 3 = 1 THEN 'person_' || n END,
      'https://img.clerk.test/user_2' || md5(n::text), 1704700800000 + n * 1000,
      CASE WHEN n % 14 > 0 THEN 1704704400000 + n * 1000 END, 1704672000000 + n / 1000 * 86400000, false
    FROM generate_series(1::bigint, {users}) AS n
    """,
    # Four of five have a row, a quarter of which differs.
    """
    INSERT INTO backfill.convex_user (partition_key, document_id, clerk_id, fields)
    SELECT 'acme', 'j5' || left(md5('row of ' || user_id), 30), user_id, jsonb_strip_nulls(jsonb_build_object(
      'firstName', first_name || CASE WHEN n % 5 = 3 THEN ' (as it was)' ELSE '' END, 'lastName', last_name,
      'email', primary_email, 'username', username, 'imageUrl', image_url, 'lastSignInAt', last_sign_in_at,
      'createdAt', created_at, 'lastActiveAt', last_active_at))
    FROM (SELECT *, (created_at - 1704700800000) / 1000 AS n FROM backfill.clerk_user) AS u WHERE n % 5 <> 4
    """,
    "ANALYZE backfill.clerk_user",
    "ANALYZE backfill.convex_user",
)


def figures() -> list[Figure]:
    """The calls of a run and of one with nothing to do, and the seconds of a plan."""
    with tempfile.TemporaryDirectory() as name, EmbeddedServer.start(Path(name) / "postgres") as server:
        return [*_calls(server, Path(name)), _plan(server, Path(name))]


# --- calls -----------------------------------------------------------------------------------------------------------


def _calls(server: EmbeddedServer, folder: Path) -> list[Figure]:
    with vendor_process(serve) as vendor:
        place = vendor.place
        engine = create_database_engine(server.ensure_database("calls"))
        upgrade_schema(engine)
        registry = _registry(folder, place)
        with Runtime(registry=registry, engine=engine) as runtime:
            started = time.perf_counter()
            _run(runtime, written=DIFFERENT)
            seconds, first = time.perf_counter() - started, _counted(place)
            _run(runtime, written=0)
            second = _counted(place) - first
        vendor.end()
    clerk = sum(count for path, count in first.items() if path.startswith("/users"))
    return [
        Figure(
            figure=f"convex_users: calls of Clerk for {USERS:,} users", value=clerk, bar=CLERK_CALLS, unit="requests",
            how={"calls": first, "seconds": round(seconds, 1)},
        ),
        Figure(
            figure=f"convex_users: calls of Convex for {ROWS:,} rows of which {DIFFERENT:,} differ",
            value=first["/api/query"] + first["/api/mutation"], bar=CONVEX_CALLS, unit="requests",
        ),
        Figure(
            figure="convex_users: mutations called by a run with nothing to do",
            value=second["/api/mutation"], bar=0, unit="requests", how={"calls": second},
        ),
    ]  # fmt: skip


def _run(runtime: Runtime, *, written: int) -> None:
    backfill = ConvexUsers()
    run = runtime.run(
        run_partition(
            runtime,
            backfill,
            KEY,
            steps=Steps(),
            options=backfill.options_model(),
            dagster_run_id=None,
            root_run_id=None,
        )
    )
    passed = run.verification is not None and run.verification["passed"]
    if run.state is not State.SUCCEEDED or run.counts["applied"] != written or not passed:
        raise RuntimeError(f"the run {run.state} with {run.counts}: {run.error_code}")


def _counted(place: dict[str, Any]) -> Counter[str]:
    """The requests so far, by path."""
    rows = httpx.get(f"{place['control']}/_sandbox/requests", trust_env=False).raise_for_status().json()["counts"]
    counts: Counter[str] = Counter()
    for row in rows:
        counts[row["path"]] += row["count"]
    return counts


def serve(pipe: Connection) -> None:
    """Both fakes, with their real limits."""
    instance = build_clerk_instance(seed=1, users=USERS, memberships=0, key=KEY)
    app = build_convex_deployment(seed=1, key=KEY, users=instance.seeded_users(), duplicates=0, gone=0)
    clerk, convex = ClerkSandbox(ClerkWorld((instance,))), ConvexSandbox([app])
    with SandboxServer([clerk, convex]) as server:
        place = {"control": server.base_url, "clerk": server.account_urls("clerk")["api"]}
        keys = {"secret_key": instance.secret_key, "deploy_key": app.deploy_key}
        pipe.send({**place, **keys, "convex": server.account_urls("convex")[KEY]})
        pipe.recv()
        pipe.send({})


# --- plan ------------------------------------------------------------------------------------------------------------


def _plan(server: EmbeddedServer, folder: Path) -> Figure:
    url = server.ensure_database("plan")
    engine = create_database_engine(url)
    upgrade_schema(engine)
    with engine.begin() as connection:
        for statement in _FILL:
            connection.exec_driver_sql(statement.format(users=PLANNED_USERS).replace("%", "%%"))
    engine.dispose()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
        turns = [processes.submit(plan_once, url.get_secret_value(), folder).result() for _ in range(TURNS)]
    how = {name: [round(turn[name], 1) for turn in turns] for name in ("seconds", "processor_seconds")}
    return Figure(
        figure=f"convex_users: plan of {PLANNED_USERS:,} users, with reading what is landed",
        value=min(turn["seconds"] for turn in turns), bar=PLAN_SECONDS, unit="seconds", how=how,
    )  # fmt: skip


def plan_once(url: str, folder: Path) -> dict[str, float]:
    """Make the plan; what it took of this process."""
    backfill = ConvexUsers()
    registry = _registry(folder, {"clerk": "http://127.0.0.1:9", "convex": "http://127.0.0.1:9"})
    with Runtime(registry=registry, engine=create_database_engine(SecretStr(url))) as runtime:
        scope = runtime.scope(backfill, KEY, options=backfill.options_model(), run_id=uuid4())
        started, processor_started = time.perf_counter(), time.process_time()
        plan = backfill.plan(scope)
        rows = sum(len(frame) for frame in plan.frames)
        seconds, processor_seconds = time.perf_counter() - started, time.process_time() - processor_started
    if (plan.source, rows) != (PLANNED_USERS, PLANNED_USERS // 5):
        raise RuntimeError(f"the plan has {rows} rows for {plan.source} users")
    return {"seconds": seconds, "processor_seconds": processor_seconds}


def _registry(folder: Path, place: dict[str, Any]) -> Registry:
    document = {
        "workspaces": [
            {
                "key": KEY,
                "clerk": {"secret_key": place.get("secret_key", "sk_live_invented")},
                "convex": {"url": place["convex"], "deploy_key": place.get("deploy_key", "prod:invented|key")},
            }
        ],
        "vendors": {"clerk": {"base_url": place["clerk"]}},
    }
    path = folder / "clients.yaml"
    path.write_text(json.dumps(document), encoding="utf-8")
    return load_registry(path, environ={})
