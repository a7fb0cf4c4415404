"""GoHighLevel locations in a process of their own, leads for them, and runs of `lead_hydration` on both.

Belongs here: the fake vendor with its answers remembered, the tables, the registry, and one process that runs clients.
Does not belong here: what is measured (`hydration.py`).
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from sqlalchemy import Engine

from backfill_pipelines.backfills.lead_hydration import LeadHydration
from backfill_pipelines.database.bulk import copy_rows
from backfill_pipelines.database.connection import create_database_engine
from backfill_pipelines.engine.ledger import Run, State
from backfill_pipelines.engine.partition_run import Steps, run_partition
from backfill_pipelines.engine.runtime import Runtime
from backfill_pipelines.registry import load_registry
from backfill_pipelines.sandbox.exchange import Answer, Handler, VendorRoute, Visit
from backfill_pipelines.sandbox.faults import Call
from backfill_pipelines.sandbox.gohighlevel import GoHighLevelSandbox
from backfill_pipelines.sandbox.gohighlevel_data import GoHighLevelLocation, build_gohighlevel_location
from backfill_pipelines.sandbox.gohighlevel_limits import GoHighLevelLimits
from backfill_pipelines.sandbox.server import SandboxServer
from benchmarks.landed_client import make_tables
from benchmarks.vendor_process import VendorProcess, vendor_process

BACKFILL = LeadHydration()
UNLIMITED = GoHighLevelLimits(burst=10**6, daily=10**9)
_COLUMNS = ("id", "client_id", "email", "first_name", "last_name", "ghl_contact_id")


@dataclass(frozen=True, kw_only=True)
class LocationSize:
    """A client's location by its key, and how many contacts it has."""

    key: str
    contacts: int
    seed: int = 1

    def build(self) -> GoHighLevelLocation:
        """The location; the same in every process."""
        location_id = f"loc{self.key}".ljust(20, "0")
        return build_gohighlevel_location(
            self.seed, location_id, f"pit-{self.key}", contacts=self.contacts, key=self.key
        )


# --- the vendor ------------------------------------------------------------------------------------------------------


class RememberingGoHighLevel(GoHighLevelSandbox):
    """The fake, with every answer made once, and the moment of every request that was let through.

    To invent a page takes it 20 ms of its one processor, which would be measured too.
    """

    def __init__(self, locations: Sequence[GoHighLevelLocation], limits: GoHighLevelLimits) -> None:
        super().__init__(locations, limits=limits)
        self.moments: list[float] = []
        self._made: dict[tuple[str, str, bytes], Answer] = {}

    def routes(self) -> Sequence[VendorRoute]:
        return [VendorRoute(each.method, each.path, self._remembered(each.handler)) for each in super().routes()]

    def _remembered(self, handler: Handler) -> Handler:
        def answer(visit: Visit) -> Answer:
            question = visit.call.account, visit.call.path, visit.body
            if question not in self._made:
                self._made[question] = handler(visit)
            return self._made[question]

        return answer

    def admit(self, call: Call) -> tuple[Mapping[str, str], Answer | None]:
        headers, refusal = super().admit(call)
        if refusal is None:
            self.moments.append(time.monotonic())
        return headers, refusal


def serve(pipe: Connection, sizes: Sequence[LocationSize], limits: GoHighLevelLimits, latency_seconds: float) -> None:
    """Serve the locations until the end; each word but "end" is answered with what was counted since the last one."""
    vendor = RememberingGoHighLevel([each.build() for each in sizes], limits)
    with SandboxServer([vendor], latency_seconds=latency_seconds) as server:
        pipe.send({"url": server.account_urls("gohighlevel")["api"]})
        while True:
            word = pipe.recv()
            moments, vendor.moments = vendor.moments, []
            pipe.send(
                {
                    "calls": len(moments),
                    "moments": moments,
                    "refused": sum(state.limits.refused for state in vendor.states.values()),
                    "most_in_a_window": max(state.limits.most_in_a_window for state in vendor.states.values()),
                    "cpu_seconds": time.process_time(),
                }
            )
            if word == "end":
                return


@contextmanager
def serving(
    *sizes: LocationSize, limits: GoHighLevelLimits = UNLIMITED, latency_seconds: float = 0.0
) -> Iterator[VendorProcess]:
    """The vendor in a process of its own."""
    with vendor_process(serve, sizes, limits, latency_seconds) as process:
        yield process


# --- the product -----------------------------------------------------------------------------------------------------


def fill(url: SecretStr, leads: Mapping[str, Iterable[tuple[str | None, ...]]]) -> None:
    """Make the tables, with leads by client: email, first name, last name, contact's id."""
    make_tables(url)
    engine = create_database_engine(url)
    for client_id, rows in leads.items():
        with engine.begin() as connection:
            copy_rows(connection, table=("Client",), columns=("id", "name"), rows=[(client_id, client_id)])
            copy_rows(
                connection,
                table=("Lead",),
                columns=_COLUMNS,
                rows=((f"{client_id} {place:08d}", client_id, *row) for place, row in enumerate(rows)),
            )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql('VACUUM ANALYZE "Lead"')
    engine.dispose()


def by_address(size: LocationSize, count: int) -> Iterator[tuple[str | None, ...]]:
    """Leads with the addresses of a location's contacts, which lack phone, company and link."""
    addresses = dict.fromkeys(each.email for each in size.build().seeded_contacts() if each.email is not None)
    for address, _ in zip(addresses, range(count), strict=False):
        yield address, "Robin", "Ashby", None


def by_id(size: LocationSize, numbers: Iterable[int]) -> Iterator[tuple[str | None, ...]]:
    """Leads with the ids of these of a location's contacts."""
    location = size.build()
    for number in numbers:
        yield None, "Robin", "Ashby", location.contact_id(number)


def write_registry(path: Path, url: str, sizes: Iterable[LocationSize], *, client: str | None = None) -> Path:
    """Write a `clients.yaml`; a client has the key of its location, in the product too, unless another is given."""
    clients = [
        {
            "key": client or each.key,
            "name": client or each.key,
            "gohighlevel": {"location_id": each.build().id, "token": each.build().token},
            "leads": {"client_id": client or each.key},
        }
        for each in sizes
    ]
    document = {"clients": clients, "vendors": {"gohighlevel": {"base_url": url}}}
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


# --- runs ------------------------------------------------------------------------------------------------------------


@contextmanager
def opened(registry: Path, url: SecretStr) -> Iterator[Runtime]:
    """One process at work."""
    with Runtime(registry=load_registry(registry, environ={}), engine=create_database_engine(url)) as runtime:
        yield runtime


def run_clients(runtime: Runtime, keys: Sequence[str], *, steps: Steps) -> list[Run]:
    """Run clients side by side; raises unless all of them succeed."""
    options = BACKFILL.options_model()

    async def one(key: str) -> Run:
        async with runtime.places_for(options):
            return await run_partition(
                runtime, BACKFILL, key, steps=steps, options=options, dagster_run_id=None, root_run_id=None
            )

    runs = list(runtime.run_all([one(key) for key in keys]))
    for run in runs:
        if run.state is not State.SUCCEEDED:
            raise RuntimeError(f"{run.partition_key} ended {run.state}: {run.error_code}: {run.error_message}")
    return runs


def work(pipe: Connection, registry: Path, url: SecretStr, keys: Sequence[str], steps: Steps) -> None:
    """A process of its own: waits for a word, runs the clients, and sends what that took."""
    with opened(registry, url) as runtime:
        runtime.run(_warm(runtime.engine))
        pipe.send({})
        pipe.recv()
        started, cpu_before = time.perf_counter(), time.process_time()
        runs = run_clients(runtime, keys, steps=steps)
        done: dict[str, Any] = {
            "wall_seconds": time.perf_counter() - started,
            "cpu_seconds": time.process_time() - cpu_before,
            "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "ways": sorted({run.details["gohighlevel"]["way"] for run in runs}),
            "applied": sum(run.counts["applied"] for run in runs),
            "contacts": sum(run.details["gohighlevel"]["contacts"] or 0 for run in runs),
        }
    pipe.send(done)


async def _warm(engine: Engine) -> None:
    """Open the first connection, so that it is not measured."""
    engine.connect().close()
