"""How much of Attio's 25 writes a second 1,000 creates use, from one process and from three that share the budget.

The fake answers after `LATENCY_SECONDS` and counts in a window that slides, the stricter of the two ways in which the
vendor may count: what never is 26 in any second is never 26 in a second of the clock either. Measured at the fake:
the pace of the requests that came, and how many of them were refused.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.managers import SyncManager
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr

from backfill_pipelines.database.connection import create_database_engine
from backfill_pipelines.database.embedded_server import EmbeddedServer
from backfill_pipelines.database.schema import upgrade_schema
from backfill_pipelines.sandbox.attio import AttioSandbox
from backfill_pipelines.sandbox.attio_data import build_attio_workspace
from backfill_pipelines.sandbox.attio_limits import AttioLimits
from backfill_pipelines.sandbox.exchange import Answer
from backfill_pipelines.sandbox.faults import Call
from backfill_pipelines.sandbox.server import SandboxServer
from backfill_pipelines.vendors.attio_access import WRITES_PER_SECOND, connect, quotas
from backfill_pipelines.vendors.clock import SystemClock
from backfill_pipelines.vendors.postgres_quota_store import PostgresQuotaStore
from backfill_pipelines.vendors.transport import RetryBudget, open_http_client
from benchmarks.figure import Figure
from benchmarks.vendor_process import vendor_process

KEY = "acme"
WRITES = 1_000
PROCESSES = (1, 3)
WORKERS = 20
"""Writes that one process has under way at most: enough for 25 a second at answers of 0.8 s."""
LATENCY_SECONDS = 0.2
BAR = 0.975


def figures() -> list[Figure]:
    """The share of the limit that was used, and the refusals, for each number of processes."""
    found: list[Figure] = []
    with tempfile.TemporaryDirectory() as name, EmbeddedServer.start(Path(name) / "postgres") as server:
        for processes in PROCESSES:
            url = server.ensure_database(f"writes_{processes}")
            engine = create_database_engine(url)
            upgrade_schema(engine)
            engine.dispose()
            with multiprocessing.get_context("spawn").Manager() as manager:
                counted = write_all(url.get_secret_value(), manager, processes=processes)
            found += _figures(counted, processes=processes)
    return found


def _figures(counted: Mapping[str, Any], *, processes: int) -> list[Figure]:
    arrivals: Sequence[float] = sorted(counted["arrivals"])
    seconds = arrivals[-1] - arrivals[0]
    who = f"{processes} process{'es' if processes > 1 else ''}"
    how = {
        "writes": len(arrivals),
        "seconds": round(seconds, 2),
        "most_in_a_second": counted["most_in_a_second"],
        "statuses": counted["statuses"],
    }
    return [
        Figure(
            figure=f"share of Attio's writes a second used by {who}",
            value=(len(arrivals) - 1) / seconds / WRITES_PER_SECOND,
            bar=BAR,
            unit="share",
            at_least=True,
            how=how,
        ),
        Figure(
            figure=f"writes of {who} that were refused as too many",
            value=counted["statuses"].get("429", 0),
            bar=0,
            unit="requests",
        ),
    ]


def write_all(database_url: str, manager: SyncManager, *, processes: int) -> dict[str, Any]:
    """Create `WRITES` people; what the fake has counted."""
    ready = manager.Barrier(processes)
    context = multiprocessing.get_context("spawn")
    with vendor_process(serve, LATENCY_SECONDS) as vendor:
        workers = [
            context.Process(target=create, args=(vendor.place, database_url, range(first, WRITES, processes), ready))
            for first in range(processes)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if any(worker.exitcode for worker in workers):
            raise RuntimeError("a process that writes has failed")
        return vendor.end()


def create(place: Mapping[str, str], database_url: str, numbers: Sequence[int], ready: Any) -> None:
    """One process: create the people of these numbers, some at a time."""

    async def work() -> None:
        clock = SystemClock()
        store = PostgresQuotaStore(create_database_engine(SecretStr(database_url)), clock)
        budgets = quotas(place["workspace_id"], store=store, clock=clock)
        async with open_http_client() as http, budgets.read, budgets.write:
            attio = connect(
                http,
                base_url=place["url"],
                api_key=SecretStr(place["api_key"]),
                quotas=budgets,
                retry_budget=RetryBudget(),
                clock=clock,
            )
            await attio.has_more_than("people", 0)  # connection and row
            waiting = iter(numbers)

            async def worker() -> None:
                for number in waiting:
                    await attio.create_person(
                        address=f"new.{number}@company-{number % 50}.test",
                        user_id=f"user_{number}",
                        first_name="Ada",
                        last_name="Quill",
                    )

            await asyncio.to_thread(ready.wait)
            await asyncio.gather(*(worker() for _ in range(WORKERS)))

    asyncio.run(work())


class TimedAttio(AttioSandbox):
    """The fake, which notes when each write came."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.arrivals: list[float] = []

    def admit(self, call: Call) -> tuple[Mapping[str, str], Answer | None]:
        if call.method != "GET" and not call.path.endswith("/query"):
            self.arrivals.append(time.time())
        return super().admit(call)


def serve(pipe: Connection, latency_seconds: float) -> None:
    """The fake with its real limits; counts the writes by status, and when they came."""
    workspace = build_attio_workspace(seed=1, key=KEY)
    attio = TimedAttio([workspace], limits=AttioLimits(window="sliding"))
    with SandboxServer([attio], latency_seconds=latency_seconds) as server:
        url = server.account_urls("attio")["api"]
        pipe.send({"url": url, "api_key": workspace.token, "workspace_id": workspace.id})
        pipe.recv()
        rows = httpx.get(f"{server.base_url}/_sandbox/requests", trust_env=False).raise_for_status().json()["counts"]
        statuses: Counter[str] = Counter()
        for row in rows:
            if row["method"] != "GET" and not row["path"].endswith("/query"):
                statuses[str(row["status"])] += row["count"]
        most = attio.limits[KEY].writes.most_taken
        pipe.send({"arrivals": attio.arrivals, "statuses": dict(statuses), "most_in_a_second": most})
