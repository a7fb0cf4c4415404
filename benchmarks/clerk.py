"""Reading a Clerk instance of 100,000 users and 150,000 memberships into the landing tables, all three lists at once.

Measured: the requests that it takes, and the wall time over what so many would take if as many as are allowed to be
under way were so all the time. Every answer takes `LATENCY_SECONDS`. To invent a page takes the fake 30 ms of its one
processor, which would be measured too: so it remembers its answers, and the first of two runs is there for that alone.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import httpx

from backfill_pipelines.backfills.attio_company_orgs import AttioCompanyOrgs
from backfill_pipelines.backfills.attio_company_orgs_source import side_by_side
from backfill_pipelines.backfills.clerk_landing import (
    LANES,
    MEMBERSHIPS_AHEAD,
    ORGANIZATIONS_AHEAD,
    clerk_of,
    land_memberships,
    land_organizations,
    land_users,
)
from backfill_pipelines.database.connection import create_database_engine
from backfill_pipelines.database.embedded_server import EmbeddedServer
from backfill_pipelines.database.schema import upgrade_schema
from backfill_pipelines.engine.backfill import Scope
from backfill_pipelines.engine.ledger import State
from backfill_pipelines.engine.partition_run import Steps, run_partition
from backfill_pipelines.engine.runtime import Runtime
from backfill_pipelines.registry import Registry, load_registry
from backfill_pipelines.sandbox.clerk import ClerkSandbox
from backfill_pipelines.sandbox.clerk_data import ClerkWorld, build_clerk_instance
from backfill_pipelines.sandbox.exchange import Answer, Handler, VendorRoute, Visit
from backfill_pipelines.sandbox.server import SandboxServer
from benchmarks.figure import Figure
from benchmarks.vendor_process import vendor_process

KEY = "acme"
USERS, MEMBERSHIPS = 100_000, 150_000
CALLS = 510
"""Besides one for every 500 organizations."""
LATENCY_SECONDS = 0.5
"""Chosen, not known of the vendor. The bar is relative to it: the shorter, the more our own work on a page weighs."""
CONCURRENCY = LANES + MEMBERSHIPS_AHEAD + ORGANIZATIONS_AHEAD
"""Requests that may be under way: users in lanes, memberships and organizations some pages ahead."""
BAR = 1.3


class ClerkAlone(AttioCompanyOrgs):
    """What the backfill reads of Clerk, and nothing else."""

    async def extract(self, scope: Scope) -> None:
        clerk = await clerk_of(scope)
        await side_by_side(
            land_users(scope, clerk, shareable=True), land_organizations(scope, clerk), land_memberships(scope, clerk)
        )


def figures() -> list[Figure]:
    """The calls, and the ratio of wall time."""
    with (
        tempfile.TemporaryDirectory() as name,
        EmbeddedServer.start(Path(name) / "postgres") as server,
        vendor_process(serve, LATENCY_SECONDS) as vendor,
    ):
        place = vendor.place
        for database in ("first", "measured"):
            engine = create_database_engine(server.ensure_database(database))
            upgrade_schema(engine)
            registry = write_registry(Path(name), place[database], place["secret_key"])
            with Runtime(registry=registry, engine=engine) as runtime:
                wall = read_all(runtime, organizations=place["organizations"])
        counted = Counter(vendor.end())
    calls = counted.total()
    least = calls * LATENCY_SECONDS / CONCURRENCY
    how = {"calls": counted, "organizations": place["organizations"]}
    return [
        Figure(
            figure=f"requests for {USERS:,} users, {MEMBERSHIPS:,} memberships and the organizations",
            value=calls,
            bar=CALLS + place["organizations"] // 500,
            unit="requests",
            how=how,
        ),
        Figure(
            figure=f"their wall time at {LATENCY_SECONDS * 1000:.0f} ms, over {CONCURRENCY} under way all the time",
            value=wall / least,
            bar=BAR,
            unit="ratio",
            how={"wall_seconds": round(wall, 1), "least_seconds": round(least, 1)},
        ),
    ]


def read_all(runtime: Runtime, *, organizations: int) -> float:
    """Read the instance; how long it took."""
    backfill = ClerkAlone()
    started = time.perf_counter()
    run = runtime.run(
        run_partition(
            runtime,
            backfill,
            KEY,
            steps=Steps(plan=False, load=False),
            options=backfill.options_model(),
            dagster_run_id=None,
            root_run_id=None,
        )
    )
    wall = time.perf_counter() - started
    read = [run.details.get(f"clerk_{name}") for name in ("users", "memberships", "organizations")]
    if run.state is not State.SUCCEEDED or read != [USERS, MEMBERSHIPS, organizations]:
        raise RuntimeError(f"the run {run.state} with {read} rows: {run.error_code}")
    return wall


def write_registry(folder: Path, url: str, secret_key: str) -> Registry:
    """One workspace; its Attio section is there because a partition needs one, and nobody asks it."""
    document = {
        "workspaces": [{"key": KEY, "clerk": {"secret_key": secret_key}, "attio": {"api_key": "invented"}}],
        "vendors": {"clerk": {"base_url": url}},
    }
    path = folder / "clients.yaml"
    path.write_text(json.dumps(document), encoding="utf-8")
    return load_registry(path, environ={})


class RememberingClerk(ClerkSandbox):
    """The fake, with every answer made once, whichever server of it is asked."""

    def __init__(self, world: ClerkWorld) -> None:
        super().__init__(world)
        self._made: dict[tuple[str, str], Answer] = {}

    def routes(self) -> Sequence[VendorRoute]:
        return [VendorRoute(each.method, each.path, self._remembered(each.handler)) for each in super().routes()]

    def _remembered(self, handler: Handler) -> Handler:
        def answer(visit: Visit) -> Answer:
            question = visit.call.path, str(visit.request.url.query)
            if question not in self._made:
                self._made[question] = handler(visit)
            return self._made[question]

        return answer


def serve(pipe: Connection, latency_seconds: float) -> None:
    """The fake with its real limits, at once and with a latency; counts the requests to the latter by path and status.

    The limits are the vendor's own for both together, but the second run begins long after the first one's window.
    """
    instance = build_clerk_instance(seed=1, users=USERS, memberships=MEMBERSHIPS, key=KEY)
    clerk = RememberingClerk(ClerkWorld((instance,)))
    with SandboxServer([clerk]) as first, SandboxServer([clerk], latency_seconds=latency_seconds) as measured:
        urls = {"first": first.account_urls("clerk")["api"], "measured": measured.account_urls("clerk")["api"]}
        pipe.send({**urls, "secret_key": instance.secret_key, "organizations": len(instance.organizations)})
        pipe.recv()
        rows = httpx.get(f"{measured.base_url}/_sandbox/requests", trust_env=False).raise_for_status().json()["counts"]
        counts: Counter[str] = Counter()
        for row in rows:
            counts[f"{row['path']} {row['status']}"] += row["count"]
        pipe.send(dict(counts))
