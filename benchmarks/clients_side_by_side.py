"""24 clients at 50 ms a request: they must take little longer than the largest one alone, as they run side by side.

`backfill run client_leads --all` in a process of its own against the sandbox in another. What Dagster's own start takes
is measured by the same command for the smallest client without latency.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from backfill_pipelines.database.embedded_server import EmbeddedServer
from backfill_pipelines.sandbox.entry import build_sandbox
from backfill_pipelines.sandbox.traffic import RateLimit
from benchmarks.figure import Figure
from benchmarks.landed_client import make_tables

LATENCY = 0.05
BAR = 1.5
# The vendor's limit is not what is measured.
_RATE_LIMIT = RateLimit(60_000, 60.0)


def figures() -> list[Figure]:
    """Wall time without Dagster's start, over the calls of the largest client times the latency."""
    with tempfile.TemporaryDirectory() as name, EmbeddedServer.start(Path(name) / "postgres") as server:
        folder, url = Path(name), server.ensure_database("clients")
        make_tables(url)
        with _sandbox(0.0) as pipe:
            start = _run(folder, url.get_secret_value(), pipe, ["--client", "elmstead-gutters", "--dry-run"])
        with _sandbox(LATENCY) as pipe:
            wall = _run(folder, url.get_secret_value(), pipe, ["--all"])
            pipe.send("calls")
            calls: Counter[str] = pipe.recv()
    largest = max(calls.values())
    return [
        Figure(
            figure="24 clients side by side at 50 ms, without Dagster's start, over the calls of the largest one",
            value=(wall - start) / (largest * LATENCY),
            bar=BAR,
            unit="ratio",
            how={
                "wall_seconds": round(wall, 1),
                "start_seconds": round(start, 1),
                "calls_of_the_largest": largest,
                "calls": sum(calls.values()),
            },
        )
    ]


def _run(folder: Path, url: str, pipe: Connection, arguments: list[str]) -> float:
    """The seconds of a `backfill run`; raises unless every partition succeeds."""
    pipe.send("registry")
    (folder / "clients.yaml").write_text(pipe.recv(), encoding="utf-8")
    command = [str(Path(sys.executable).with_name("backfill")), "run", "client_leads", "--json", *arguments]
    environ = {**os.environ, "DATABASE_URL": url, "BACKFILL_HOME": str(folder / "home")}
    started = time.perf_counter()
    finished = subprocess.run(
        command, cwd=folder, env=environ, check=False, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    seconds = time.perf_counter() - started
    states = Counter(partition["state"] for partition in json.loads(finished.stdout)["partitions"])
    if set(states) != {"succeeded"}:
        raise RuntimeError(f"not every partition succeeded: {dict(states)}")
    return seconds


@contextmanager
def _sandbox(latency: float) -> Iterator[Connection]:
    """The fake vendors in a process of their own; the pipe answers `registry` and `calls`."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, latency), daemon=True)
    process.start()
    try:
        yield ours
    finally:
        ours.send("stop")
        process.join()


def _serve(pipe: Connection, latency: float) -> None:
    sandbox = build_sandbox(latency_seconds=latency, email_bison_rate_limit=_RATE_LIMIT)
    with sandbox.server:
        while (asked := pipe.recv()) != "stop":
            if asked == "registry":
                pipe.send(sandbox.registry_yaml())
            else:
                pipe.send(Counter(f"{each.call.account} {each.call.workspace}" for each in sandbox.server.requests))
