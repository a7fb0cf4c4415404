"""24 clients at once against vendors that answer after 50 ms: no slower than the largest of them needs anyhow.

The least is what the largest client's calls take one after the other. Twice: through `backfill run client_leads --all`,
where Dagster's own start is allowed besides, and through the engine alone, where nothing is. Dagster's start is the
time of the same command on a world of 24 clients with three replies each, less what the calls of the busiest take; its
own storage is made before that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from backfill_pipelines.backfills.client_leads import ClientLeads
from backfill_pipelines.database.connection import create_database_engine
from backfill_pipelines.database.embedded_server import EmbeddedServer
from backfill_pipelines.engine.ledger import Run, State
from backfill_pipelines.engine.partition_run import Steps, run_partition
from backfill_pipelines.engine.runtime import Runtime
from backfill_pipelines.registry import load_registry
from benchmarks.figure import Figure
from benchmarks.landed_client import make_tables
from benchmarks.sandbox_process import RunningSandbox, running_sandbox

CLIENTS = 24
LATENCY_SECONDS = 0.05
BAR = 1.5
_THREE_REPLIES_EACH = 0.001


def figures() -> list[Figure]:
    """The two ratios, of wall time to the calls of the largest client times the latency."""
    with tempfile.TemporaryDirectory() as name, EmbeddedServer.start(Path(name) / "postgres") as server:
        folder = Path(name)
        with running_sandbox(clients=CLIENTS, scale=_THREE_REPLIES_EACH, latency_seconds=LATENCY_SECONDS) as sandbox:
            _by_command(server, "first", sandbox, folder)
            wall, largest = _by_command(server, "small", sandbox, folder)
            start = wall - largest * LATENCY_SECONDS
        with running_sandbox(clients=CLIENTS, scale=1.0, latency_seconds=LATENCY_SECONDS) as sandbox:
            by_command = _figure("backfill run client_leads --all", *_by_command(server, "all", sandbox, folder), start)
            by_engine = _figure("the engine alone", *_by_engine(server, "engine", sandbox, folder), 0.0)
    return [by_command, by_engine]


def _figure(what: str, wall: float, largest: int, start: float) -> Figure:
    least = largest * LATENCY_SECONDS
    return Figure(
        figure=f"{CLIENTS} clients at {LATENCY_SECONDS * 1000:.0f} ms by {what}, over the calls of the largest one",
        value=(wall - start) / least,
        bar=BAR,
        unit="ratio",
        how={
            "wall_seconds": round(wall, 1),
            "start_seconds": round(start, 1),
            "calls_of_the_largest": largest,
            "their_seconds": round(least, 1),
        },
    )


def _by_command(server: EmbeddedServer, database: str, sandbox: RunningSandbox, folder: Path) -> tuple[float, int]:
    """Run the command on an empty database; its wall time, and the calls of the largest client."""
    url = server.ensure_database(database)
    make_tables(url)
    environment = {
        **os.environ,
        "BACKFILL_HOME": str(folder / "home"),
        "BACKFILL_CLIENTS": str(_registry(sandbox, folder)),
        "DATABASE_URL": url.get_secret_value(),
        "DAGSTER_POSTGRES_URL": server.ensure_database("dagster").get_secret_value(),
    }
    command = [str(Path(sys.executable).with_name("backfill")), "run", "client_leads", "--all", "--json"]
    sandbox.reset()
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, cwd=folder, check=False, capture_output=True, text=True)
    wall = time.perf_counter() - started
    states = [partition["state"] for partition in json.loads(done.stdout or '{"partitions": []}')["partitions"]]
    _require_all_succeeded(states)
    return wall, max(sandbox.calls_by_client().values())


def _by_engine(server: EmbeddedServer, database: str, sandbox: RunningSandbox, folder: Path) -> tuple[float, int]:
    """Run all partitions side by side in this process, on an empty database; as above."""
    url = server.ensure_database(database)
    make_tables(url)
    registry = load_registry(_registry(sandbox, folder), environ={})
    backfill = ClientLeads()
    sandbox.reset()
    started = time.perf_counter()
    with Runtime(registry=registry, engine=create_database_engine(url)) as runtime:

        async def one(key: str) -> Run:
            async with runtime.places:
                return await run_partition(
                    runtime,
                    backfill,
                    key,
                    steps=Steps(),
                    options=backfill.options_model(),
                    dagster_run_id=None,
                    root_run_id=None,
                )

        runs = list(runtime.run_all([one(client.key) for client in registry.clients]))
    wall = time.perf_counter() - started
    _require_all_succeeded([run.state for run in runs])
    return wall, max(sandbox.calls_by_client().values())


def _registry(sandbox: RunningSandbox, folder: Path) -> Path:
    path = folder / "clients.yaml"
    path.write_text(sandbox.registry, encoding="utf-8")
    return path


def _require_all_succeeded(states: list[str]) -> None:
    if states != [State.SUCCEEDED] * CLIENTS:
        raise RuntimeError(f"not every partition succeeded: {states}")
