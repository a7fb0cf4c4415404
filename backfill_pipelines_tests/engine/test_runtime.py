"""One process at work: results as they come, an interrupt that leaves nothing half-done, and opening and closing."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import sqlalchemy

from backfill_pipelines.engine.backfill import RunOptions
from backfill_pipelines.engine.runtime import Runtime, lock_name, open_database, open_runtime
from backfill_pipelines.errors import ConfigurationError, TransientError
from backfill_pipelines.registry import Registry
from backfill_pipelines_tests.engine.client_leads_backfill import LeadsBackfill
from backfill_pipelines_tests.engine.client_leads_rows import ClientLeads


@pytest.fixture
def runtime(emptied: sqlalchemy.Engine) -> Iterator[Runtime]:
    with Runtime(registry=Registry(), engine=sqlalchemy.create_engine(emptied.url)) as opened:
        yield opened


async def answer(value: str, *, after: threading.Event | None = None) -> str:
    if after is not None:
        await asyncio.to_thread(after.wait, 30)
    return value


# --- places ----------------------------------------------------------------------------------------------------------


class CrowdedOptions(RunOptions):
    """Options of runs that may have other numbers of partitions at work."""

    places: int

    def partitions_at_once(self, registry: Registry) -> int:
        return self.places


def test_runs_that_allow_as_many_partitions_at_once_share_their_places(runtime: Runtime) -> None:
    usual = runtime.places_for(RunOptions())
    assert usual is runtime.places
    assert usual is runtime.places_for(CrowdedOptions(places=Registry().defaults.max_parallel_clients))
    assert runtime.places_for(CrowdedOptions(places=2)) is runtime.places_for(CrowdedOptions(places=2)) is not usual


# --- results ---------------------------------------------------------------------------------------------------------


def test_one_coroutine_is_run_and_its_result_returned(runtime: Runtime) -> None:
    assert runtime.run(answer("done")) == "done"


def test_results_come_as_they_are_ready_and_not_in_the_order_of_the_work(runtime: Runtime) -> None:
    late = threading.Event()
    results = runtime.run_all([answer("late", after=late), answer("early")])
    assert next(results) == "early"
    late.set()
    assert list(results) == ["late"]


def test_no_work_has_no_results(runtime: Runtime) -> None:
    assert list(runtime.run_all([])) == []


def test_a_failure_is_raised_once_the_others_have_stopped(runtime: Runtime) -> None:
    stopped: list[str] = []

    async def fail() -> str:
        raise TransientError("database_unavailable", "Gone.")

    async def work() -> str:
        await asyncio.to_thread(runtime.stop.wait, 30)
        stopped.append("work")
        return "done"

    with pytest.raises(TransientError):
        list(runtime.run_all([work(), fail()]))
    assert stopped == ["work"]


# --- interrupts ------------------------------------------------------------------------------------------------------


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Python's own answer to Ctrl-C: workers of a test session ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_of_the_waiting_thread_asks_the_work_to_stop_waits_for_it_and_is_raised_again(
    runtime: Runtime,
) -> None:
    at_work, stopped = threading.Event(), threading.Event()

    async def work() -> str:
        at_work.set()
        await asyncio.to_thread(runtime.stop.wait, 30)
        stopped.set()
        return "done"

    def interrupt() -> None:
        at_work.wait(30)
        os.kill(os.getpid(), signal.SIGINT)

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            list(runtime.run_all([work()]))
    finally:
        runtime.stop.set()
        interrupting.join()
    assert stopped.is_set()


@pytest.mark.parametrize("leave", ["break", "raise"])
def test_whoever_stops_taking_results_has_stopped_the_work(runtime: Runtime, leave: str) -> None:
    stopped = threading.Event()

    async def work() -> str:
        await asyncio.to_thread(runtime.stop.wait, 30)
        stopped.set()
        return "done"

    def take() -> None:
        for _ in runtime.run_all([answer("early"), work()]):
            if leave == "raise":
                raise LookupError
            break

    if leave == "raise":
        with pytest.raises(LookupError):
            take()
    else:
        take()
    assert runtime.stop.is_set()
    assert stopped.wait(30)


# --- opening and closing ---------------------------------------------------------------------------------------------


def test_closing_gives_back_locks_and_resources(emptied: sqlalchemy.Engine) -> None:
    closed: list[str] = []

    @asynccontextmanager
    async def resource() -> AsyncIterator[None]:
        yield
        closed.append("resource")

    with Runtime(registry=Registry(), engine=sqlalchemy.create_engine(emptied.url)) as runtime:
        runtime.run(runtime.shared.enter(resource()))
        assert runtime.locks.try_acquire("name")
    assert closed == ["resource"]
    with Runtime(registry=Registry(), engine=sqlalchemy.create_engine(emptied.url)) as runtime:
        assert runtime.locks.try_acquire("name")


def test_what_cannot_be_closed_keeps_nothing_else_open(emptied: sqlalchemy.Engine) -> None:
    @asynccontextmanager
    async def broken() -> AsyncIterator[None]:
        yield
        raise TransientError("database_unavailable", "Gone.")

    runtime = Runtime(registry=Registry(), engine=sqlalchemy.create_engine(emptied.url))
    runtime.run(runtime.shared.enter(broken()))
    assert runtime.locks.try_acquire("name")
    with pytest.raises(TransientError):
        runtime.close()
    with Runtime(registry=Registry(), engine=sqlalchemy.create_engine(emptied.url)) as other:
        assert other.locks.try_acquire("name")


def test_the_runtime_opens_what_the_environment_names(
    emptied: sqlalchemy.Engine, tmp_path: Path, leads: ClientLeads
) -> None:
    registry = tmp_path / "clients.yaml"
    registry.write_text("defaults: {max_parallel_clients: 3}\n", encoding="utf-8")
    environ = {"DATABASE_URL": emptied.url.render_as_string(hide_password=False), "BACKFILL_CLIENTS": str(registry)}
    with open_runtime(environ=environ, current_folder=tmp_path) as runtime:
        assert runtime.registry.defaults.max_parallel_clients == 3
        assert runtime.ledger.newest_runs(None) == []
        run_id = leads.plan([])
        scope = runtime.scope(LeadsBackfill(leads), "kim", options=RunOptions(), run_id=run_id)
        with pytest.raises(TransientError):
            scope.require_lock()
        assert runtime.locks.try_acquire(lock_name("leads", "kim"))
        scope.require_lock()
    with open_database(environ=environ, current_folder=tmp_path) as (engine, ledger):
        assert ledger.newest_runs(None) == []
        assert engine.url.database == emptied.url.database


def test_a_database_that_does_not_answer_is_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "clients.yaml").write_text("clients: []\n", encoding="utf-8")
    environ = {"DATABASE_URL": "postgres://u:canary@127.0.0.1:1/none"}
    with pytest.raises(ConfigurationError) as caught:
        open_runtime(environ=environ, current_folder=tmp_path)
    assert caught.value.code == "database_unreachable"
    assert "canary" not in caught.value.message


def test_importing_the_engine_touches_neither_network_nor_database() -> None:
    script = (
        "import socket\n"
        "def refuse(*_, **__): raise AssertionError('a connection at import')\n"
        "socket.socket.connect = refuse\n"
        "import backfill_pipelines.engine.undo, backfill_pipelines.engine.verify, backfill_pipelines.engine.retention\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env={"PATH": os.environ["PATH"]})
