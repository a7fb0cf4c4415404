"""How well four processes share one limit of 100 requests in 10 s through a real Postgres, and what a permit costs.

Measured: `granted` in `seconds`; `share`, of what the limit allows in that time; `most_in_any_window`, at the moments
when callers may send; `per_process`; and from a second run with a limit that is never reached, microseconds of wall
time per permit of one process with many waiters.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import tempfile
import time
from multiprocessing.managers import SyncManager
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from backfill_pipelines.database.connection import create_database_engine
from backfill_pipelines.database.embedded_server import EmbeddedServer
from backfill_pipelines.database.schema import upgrade_schema
from backfill_pipelines.vendors.clock import SystemClock
from backfill_pipelines.vendors.postgres_quota_store import PostgresQuotaStore
from backfill_pipelines.vendors.quota import Quota
from benchmarks.figure import Figure

PERMITS, WINDOW = 100, 10.0
WORKERS = 20
PROCESSES, SECONDS = 4, 31.0


def hammer(url: str, seconds: float, ready: Any, answers: Any) -> None:
    """One process: `WORKERS` coroutines that ask again at once; reports when they were let through (Unix time)."""

    async def work() -> list[float]:
        moments: list[float] = []
        store = PostgresQuotaStore(create_database_engine(SecretStr(url)), SystemClock())
        async with Quota(
            vendor="acme",
            account="bench",
            kind="requests",
            permits=PERMITS,
            window_seconds=WINDOW,
            store=store,
            clock=SystemClock(),
        ) as quota:

            async def worker() -> None:
                while True:
                    await quota.acquire()
                    moments.append(time.time())

            await asyncio.to_thread(ready.wait)
            tasks = [asyncio.create_task(worker()) for _ in range(WORKERS)]
            await asyncio.sleep(seconds)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return moments

    answers.put(asyncio.run(work()))


async def microseconds_per_permit(url: str, permits: int) -> float:
    store = PostgresQuotaStore(create_database_engine(SecretStr(url)), SystemClock())
    async with Quota(
        vendor="acme",
        account="unlimited",
        kind="requests",
        permits=10**9,
        window_seconds=1.0,
        store=store,
        clock=SystemClock(),
    ) as quota:
        await quota.acquire()  # connection and row
        started = time.perf_counter()
        await asyncio.gather(*(quota.acquire() for _ in range(permits)))
        return (time.perf_counter() - started) / permits * 1e6


def most_in_any_window(moments: list[float]) -> int:
    most = first = 0
    for last, moment in enumerate(moments):
        while moment - moments[first] > WINDOW:
            first += 1
        most = max(most, last - first + 1)
    return most


def share_a_limit(url: str, manager: SyncManager, *, processes: int, seconds: float) -> dict[str, Any]:
    ready, answers = manager.Barrier(processes), manager.Queue()
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=hammer, args=(url, seconds, ready, answers)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    per_process = [answers.get(timeout=seconds + 60) for _ in workers]
    for worker in workers:
        worker.join()
    moments = sorted(moment for of_one in per_process for moment in of_one)
    return {
        "limit": f"{PERMITS}/{WINDOW:g} s",
        "processes": processes,
        "seconds": seconds,
        "granted": len(moments),
        "share": round(len(moments) / (PERMITS * seconds / WINDOW), 4),
        "most_in_any_window": most_in_any_window(moments),
        "per_process": [len(of_one) for of_one in per_process],
    }


def figures() -> list[Figure]:
    """The share of the budget that four processes use together, and the most permits in any window."""
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer.start(Path(folder) / "postgres") as server:
        url = server.ensure_database("quota").get_secret_value()
        engine = create_database_engine(SecretStr(url))
        upgrade_schema(engine)
        engine.dispose()
        with multiprocessing.get_context("spawn").Manager() as manager:
            result = share_a_limit(url, manager, processes=PROCESSES, seconds=SECONDS)
        permit = asyncio.run(microseconds_per_permit(url, 20_000))
    how = {**result, "microseconds_per_permit": round(permit, 1)}
    return [
        Figure(
            figure="share of a limit used by four processes",
            value=result["share"],
            bar=0.98,
            unit="share",
            at_least=True,
            how=how,
        ),
        Figure(figure="most permits in any window", value=result["most_in_any_window"], bar=PERMITS, unit="permits"),
    ]
