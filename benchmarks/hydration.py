"""`lead_hydration`: how few calls, how much of the rate, how many locations at once, and how fast it loads.

Calls are counted at the fake. Its real window of 100 requests in 10 s slides, the strictest way of counting; a tenth
is left to the customer, so the whole of it is 90 in 10 s. Locations side by side are measured in one process of their
own, against one of them alone; the processor time that is allowed besides is that of the process and of the fake,
which are on this machine together, and of the database.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import SecretStr
from sqlalchemy import Engine, text

from backfill_pipelines.backfills.lead_hydration_plan import WRITTEN
from backfill_pipelines.backfills.lead_hydration_source import PAGE_ROWS
from backfill_pipelines.database.bulk import driver_connection
from backfill_pipelines.database.embedded_server import EmbeddedServer
from backfill_pipelines.engine.partition_run import Steps
from backfill_pipelines.engine.runtime import Runtime
from backfill_pipelines.engine.set_based import load_set_based
from backfill_pipelines.sandbox.gohighlevel_limits import GoHighLevelLimits
from benchmarks.figure import Figure
from benchmarks.hydration_world import (
    BACKFILL,
    LocationSize,
    by_address,
    by_id,
    fill,
    opened,
    run_clients,
    serving,
    work,
    write_registry,
)
from benchmarks.vendor_process import vendor_process

LEADS, CONTACTS, CALLS = 50_000, 60_000, 130
FEW_LEADS, MANY_CONTACTS, FEW_CALLS = 50, 1_000_000, 60
USABLE_PER_SECOND = 9.0
RATED_LOOK_UPS = 300
RATE_BAR = 0.98
LOCATIONS, CONTACTS_EACH, FAN_OUT, MEGABYTES = 100, 2_000, 1.5, 600.0
LOADED, LOAD_BAR, TURNS = 200_000, 3.0, 3
_DRY = Steps(load=False)
_EXTRACT = Steps(plan=False, load=False)


def figures() -> list[Figure]:
    """All of it."""
    with tempfile.TemporaryDirectory() as name, EmbeddedServer.start(Path(name) / "postgres") as server:
        folder = Path(name)
        return [
            *calls(server, folder),
            *killed(server, folder),
            *rates(server, folder),
            *fan_out(server, folder),
            *loads(server, folder),
        ]


# --- how few calls ---------------------------------------------------------------------------------------------------


def calls(server: EmbeddedServer, folder: Path) -> list[Figure]:
    """The calls of a large client, and of a small one in a huge location."""
    large, huge = LocationSize(key="large", contacts=CONTACTS), LocationSize(key="huge", contacts=MANY_CONTACTS)
    url = server.ensure_database("calls")
    location, far_apart = huge.build(), range(1, MANY_CONTACTS, MANY_CONTACTS // FEW_LEADS // 2)
    addresses = [address for number in far_apart if (address := location.contact(number).email) is not None]
    few = [(address, "Robin", "Ashby", None) for address in addresses[:FEW_LEADS]]
    fill(url, {large.key: by_address(large, LEADS), huge.key: few})
    found = []
    with serving(large, huge) as vendor:
        registry = write_registry(folder / "calls.yaml", vendor.place["url"], [large, huge])
        with opened(registry, url) as runtime:
            for size, leads, bar in ((large, LEADS, CALLS), (huge, FEW_LEADS, FEW_CALLS)):
                (run,) = run_clients(runtime, [size.key], steps=Steps())
                found.append(
                    Figure(
                        figure=f"calls for {leads:,} leads of a location of {size.contacts:,} contacts",
                        value=vendor.told()["calls"],
                        bar=bar,
                        unit="calls",
                        how={"way": run.details["gohighlevel"]["way"], "linked": run.details["linked"]},
                    )
                )
    return found


# --- what a kill costs -----------------------------------------------------------------------------------------------


def killed(server: EmbeddedServer, folder: Path) -> list[Figure]:
    """The pages that are asked for twice where a process was ended in the middle of them."""
    size = LocationSize(key="killed", contacts=CONTACTS)
    url = server.ensure_database("killed")
    fill(url, {size.key: by_address(size, LEADS)})
    pages = CONTACTS // PAGE_ROWS + 1
    with serving(size) as vendor:
        registry = write_registry(folder / "killed.yaml", vendor.place["url"], [size])
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=work, args=(there, registry, url, [size.key], _EXTRACT))
        process.start()
        here.recv()
        here.send("begin")
        asked = 0
        while asked < pages // 2:
            asked += vendor.told()["calls"]
        process.kill()
        process.join()
        with opened(registry, url) as runtime:
            run_clients(runtime, [size.key], steps=_EXTRACT)
        asked += vendor.told()["calls"]
    return [
        Figure(
            figure=f"pages of {pages} that are asked for again after SIGKILL in the middle",
            value=asked - pages,
            bar=1,
            unit="pages",
        )
    ]


# --- how much of the rate --------------------------------------------------------------------------------------------


def rates(server: EmbeddedServer, folder: Path) -> list[Figure]:
    """The share of the budget that is used after the first second, and the refusals."""
    scanned = LocationSize(key="scanned", contacts=CONTACTS)
    looked_up = LocationSize(key="lookedup", contacts=MANY_CONTACTS)
    cases = (
        ("a scan", scanned, [by_address(scanned, LEADS)]),
        ("look-ups by one process", looked_up, [_spread(looked_up, 1, 0)]),
        ("look-ups by three processes", looked_up, [_spread(looked_up, 3, place) for place in range(3)]),
    )
    found: list[Figure] = []
    for place, (what, size, leads) in enumerate(cases):
        url = server.ensure_database(f"rate_{place}")
        # All of them work for one location, each on leads of its own.
        clients = [f"{size.key}-{number}" for number in range(len(leads))]
        fill(url, dict(zip(clients, leads, strict=True)))
        with serving(size, limits=GoHighLevelLimits()) as vendor:
            registries = [
                write_registry(folder / f"{client}.yaml", vendor.place["url"], [size], client=client)
                for client in clients
            ]
            if size is scanned:  # once so that the fake has made its pages: it takes as long for one as they are apart
                _run_at_once(registries, url, clients)
                time.sleep(10)
                vendor.told()
            _run_at_once(registries, url, clients)
            found += _rate_figures(what, vendor.told())
    return found


def _spread(size: LocationSize, parts: int, part: int) -> Any:
    """A part's share of the look-ups; none of the contacts comes with the first page."""
    each = RATED_LOOK_UPS // parts
    return by_id(size, range(10_000 + part * each, 10_000 + (part + 1) * each))


def _run_at_once(registries: Sequence[Path], url: SecretStr, clients: Sequence[str]) -> list[dict[str, Any]]:
    """Each registry's client in a process of its own."""
    with ExitStack() as stack:
        processes = [
            stack.enter_context(vendor_process(work, registry, url, [client], _EXTRACT))
            for registry, client in zip(registries, clients, strict=True)
        ]
        for process in processes:
            process.say("begin")
        return [process.answer() for process in processes]


def _rate_figures(what: str, told: dict[str, Any]) -> list[Figure]:
    began = told["moments"][0]
    later = [moment for moment in told["moments"] if moment > began + 1]
    seconds = later[-1] - later[0]
    return [
        Figure(
            figure=f"share of a location's budget used by {what}, after the first second",
            value=(len(later) - 1) / seconds / USABLE_PER_SECOND,
            bar=RATE_BAR,
            unit="share",
            at_least=True,
            how={"calls": told["calls"], "seconds": round(seconds, 2)},
        ),
        Figure(figure=f"refusals of {what}", value=told["refused"], bar=0, unit="429s"),
        Figure(
            figure=f"most requests of {what} in any 10 s",
            value=told["most_in_a_window"],
            bar=10 * USABLE_PER_SECOND,
            unit="requests",
        ),
    ]


# --- how many locations at once --------------------------------------------------------------------------------------


def fan_out(server: EmbeddedServer, folder: Path) -> list[Figure]:
    """The wall time of a hundred locations over that of one, and the memory of the process."""
    sizes = [LocationSize(key=f"c{place:03d}", contacts=CONTACTS_EACH, seed=place + 1) for place in range(LOCATIONS)]
    with serving(*sizes, limits=GoHighLevelLimits()) as vendor:
        url = server.ensure_database("fan_out")
        fill(url, {size.key: by_address(size, CONTACTS_EACH) for size in sizes})
        registry = write_registry(folder / "fan_out.yaml", vendor.place["url"], sizes)
        keys = [size.key for size in sizes]
        # Once so that the fake has made its answers, and not within 10 s of what is measured.
        _measured(registry, url, keys)
        time.sleep(10)
        alone = _measured(registry, url, keys[:1])
        time.sleep(10)
        before = vendor.told()["cpu_seconds"], _database_cpu_seconds(folder)
        together = _measured(registry, url, keys)
        vendor_cpu = vendor.told()["cpu_seconds"] - before[0]
        database_cpu = _database_cpu_seconds(folder) - before[1]
    allowed = FAN_OUT * alone["wall_seconds"] + together["cpu_seconds"] + vendor_cpu + database_cpu
    return [
        Figure(
            figure=f"wall time of {LOCATIONS} locations of {CONTACTS_EACH:,} contacts, over {FAN_OUT} times that of one"
            " and the processor time",
            value=together["wall_seconds"] / allowed,
            bar=1.0,
            unit="ratio",
            how={
                "wall_seconds": round(together["wall_seconds"], 2),
                "cpu_seconds": round(together["cpu_seconds"], 2),
                "vendor_cpu_seconds": round(vendor_cpu, 2),
                "database_cpu_seconds": round(database_cpu, 2),
                "alone_wall_seconds": round(alone["wall_seconds"], 2),
                "contacts": together["contacts"],
                "ways": together["ways"],
            },
        ),
        Figure(
            figure=f"peak memory of the process with {LOCATIONS} locations",
            value=together["megabytes"],
            bar=MEGABYTES,
            unit="MB",
        ),
    ]


def _database_cpu_seconds(folder: Path) -> float:
    """The processor time of the server and of all its sessions, those that have ended too."""
    server = (folder / "postgres" / "postmaster.pid").read_text(encoding="ascii").split()[0]
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            process, _, rest = stat.read_text(encoding="utf-8").partition(" ")
        except OSError:
            continue  # it has ended
        fields = rest.rpartition(")")[2].split()
        if process == server:
            ticks += sum(map(int, fields[11:15]))  # with those of its children that have ended
        elif fields[1] == server:
            ticks += sum(map(int, fields[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _measured(registry: Path, url: SecretStr, keys: Sequence[str]) -> dict[str, Any]:
    with vendor_process(work, registry, url, keys, _EXTRACT) as process:
        return process.end()


# --- how fast it loads -----------------------------------------------------------------------------------------------


def loads(server: EmbeddedServer, folder: Path) -> list[Figure]:
    """The load of a stored plan, over COPY of the same values and one UPDATE."""
    size = LocationSize(key="loaded", contacts=LOADED * 5 // 4)
    url = server.ensure_database("load")
    fill(url, {size.key: by_address(size, LOADED)})
    with serving(size) as vendor:
        registry = write_registry(folder / "load.yaml", vendor.place["url"], [size])
        with opened(registry, url) as runtime:
            (planned,) = run_clients(runtime, [size.key], steps=_DRY)
            return _measure_loads(runtime, size.key, planned.id)


def _measure_loads(runtime: Runtime, key: str, run_id: UUID) -> list[Figure]:
    engine = runtime.engine
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE stored_plan AS SELECT * FROM backfill.change ORDER BY seq"))
        connection.execute(text('CREATE TABLE stored_leads AS SELECT * FROM "Lead" ORDER BY id'))
        columns = ", ".join(f"after->>'{name}' AS {name}" for name in WRITTEN)
        connection.execute(
            text(f"CREATE TABLE values_to_write AS SELECT record_key AS id, {columns} FROM stored_plan ORDER BY seq")
        )
        rows = connection.scalar(text("SELECT count(*) FROM stored_plan WHERE action = 'update'")) or 0
        connection.execute(text("CREATE UNLOGGED TABLE staging AS SELECT * FROM values_to_write LIMIT 0"))
    copied = _copied_out(engine)
    bare: list[float] = []
    ours: list[float] = []
    for _ in range(TURNS):
        bare.append(_timed(engine, lambda: _bare(engine, copied)))
        ours.append(_timed(engine, lambda: _load(runtime, key, run_id)))
        with engine.connect() as connection:
            applied = connection.scalar(text("SELECT count(*) FROM backfill.change WHERE state = 'applied'"))
        if applied != rows:
            raise RuntimeError(f"{applied} rows were loaded instead of {rows}")
    return [
        Figure(
            figure=f"loading {rows:,} planned leads, journal included, over COPY and UPDATE … FROM of the same values",
            value=statistics.median(ours) / statistics.median(bare),
            bar=LOAD_BAR,
            unit="ratio",
            how={
                "bare_seconds": [round(seconds, 2) for seconds in bare],
                "load_seconds": [round(seconds, 2) for seconds in ours],
            },
        )
    ]


def _copied_out(engine: Engine) -> bytes:
    with (
        engine.begin() as connection,
        driver_connection(connection).cursor() as cursor,
        cursor.copy("COPY values_to_write TO STDOUT") as copy,
    ):
        return b"".join(bytes(block) for block in copy)


def _timed(engine: Engine, work_to_do: Callable[[], None]) -> float:
    """The seconds of work on the tables as they were, with nothing left to write for what came before."""
    with engine.begin() as connection:
        connection.execute(text('TRUNCATE staging, backfill.change, "Lead" CASCADE'))
        connection.execute(text('INSERT INTO "Lead" SELECT * FROM stored_leads ORDER BY id'))
        connection.execute(text("INSERT INTO backfill.change SELECT * FROM stored_plan ORDER BY seq"))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text('VACUUM ANALYZE "Lead"'))
        connection.execute(text("VACUUM ANALYZE backfill.change"))
        connection.execute(text("CHECKPOINT"))
    started = time.perf_counter()
    work_to_do()
    return time.perf_counter() - started


def _bare(engine: Engine, copied: bytes) -> None:
    assignments = ", ".join(f"{name} = coalesce(s.{name}, t.{name})" for name in WRITTEN)
    with engine.begin() as connection:
        with driver_connection(connection).cursor() as cursor, cursor.copy("COPY staging FROM STDIN") as copy:
            for start in range(0, len(copied), 1 << 16):
                copy.write(copied[start : start + (1 << 16)])
        connection.execute(
            text(f'UPDATE "Lead" AS t SET {assignments}, updated_at = now() FROM staging AS s WHERE t.id = s.id')
        )


def _load(runtime: Runtime, key: str, run_id: UUID) -> None:
    scope = runtime.scope(BACKFILL, key, options=BACKFILL.options_model(), run_id=run_id)
    load_set_based(
        runtime.engine,
        run_id,
        BACKFILL.target(scope),
        limit=None,
        safe_point=scope.safe_point,
        progress=lambda done, total: scope.report("load", done, total),
    )


__all__ = ["figures"]
