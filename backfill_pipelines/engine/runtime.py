"""One process at work: the registry, the database, the event loop and what all its partitions share.

Belongs here: opening those once and closing them in order. Does not belong here: what runs (`partition_run.py`) and
where the database is (`database/location.py`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Engine

from backfill_pipelines.database.connection import check_reachable, create_database_engine
from backfill_pipelines.database.location import DatabaseLocation
from backfill_pipelines.database.locks import AdvisoryLocks
from backfill_pipelines.database.schema import upgrade_schema
from backfill_pipelines.engine.backfill import Backfill, Progress, RunOptions, Scope, SharedResources
from backfill_pipelines.engine.client_rows import with_clients_of
from backfill_pipelines.engine.ledger import Ledger
from backfill_pipelines.engine.progress import LineProgress
from backfill_pipelines.registry import Registry, load_registry, registry_path

_Result = TypeVar("_Result")
_log = logging.getLogger(__name__)
_DATABASE_THREADS = 16
_LARGE_LOADS = 2
_LOOK_FOR_SIGNALS_SECONDS = 0.2


def lock_name(backfill: str, partition_key: str) -> str:
    """The name of a partition's advisory lock."""
    return f"backfill/{backfill}/{partition_key}"


class Runtime:
    """What partitions need to run, for one process. A context manager; open it once."""

    def __init__(
        self,
        *,
        registry: Registry,
        engine: Engine,
        progress: Progress | None = None,
        stop: threading.Event | None = None,
        location: DatabaseLocation | None = None,
    ) -> None:
        self.registry = registry
        self.engine = engine
        self.ledger = Ledger(engine)
        self.locks = AdvisoryLocks(engine)
        self.shared = SharedResources()
        self.progress: Progress = progress or LineProgress(_log.info)
        self.stop = stop or threading.Event()
        self._location = location
        self._loop = asyncio.new_event_loop()
        self._threads = ThreadPoolExecutor(_DATABASE_THREADS, thread_name_prefix="backfill")
        self._loop.set_default_executor(self._threads)
        self._places: dict[int, asyncio.Semaphore] = {}
        self.large_loads = threading.BoundedSemaphore(_LARGE_LOADS)
        """Held by a load that takes two connections and two processors: so many never wait for each other's."""
        self._thread = threading.Thread(target=self._loop.run_forever, name="backfill-loop", daemon=True)
        self._thread.start()

    @property
    def places(self) -> asyncio.Semaphore:
        """Held by every partition at work, so that `max_parallel_clients` bounds them over all runs of the process."""
        return self.places_for(RunOptions())

    def places_for(self, options: RunOptions) -> asyncio.Semaphore:
        """The places of runs with such options: shared by all runs of the process that allow as many."""
        count = options.partitions_at_once(self.registry)
        return self._places.setdefault(count, asyncio.Semaphore(count))

    def scope(self, backfill: Backfill, partition_key: str, *, options: RunOptions, run_id: UUID) -> Scope:
        """What the steps of one partition get to see."""
        return Scope(
            backfill=backfill.name,
            partition_key=partition_key,
            registry=self.registry,
            engine=self.engine,
            shared=self.shared,
            options=options,
            progress=self.progress,
            stop=self.stop,
            run_id=run_id,
            locks=self.locks,
            require_lock=lambda: self.locks.require(lock_name(backfill.name, partition_key)),
        )

    def run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Run one coroutine on the process's event loop and wait for it, from any other thread."""
        return next(iter(list(self.run_all([work]))))

    def run_all(self, works: Sequence[Coroutine[Any, Any, _Result]]) -> Iterator[_Result]:
        """Run coroutines side by side on the process's event loop; yield each result as it comes, in this thread.

        An interrupt of this thread (Ctrl-C, Dagster ending a run) asks the partitions to stop at their next safe point,
        waits until they have, and is raised again: nothing is left half-done, and nobody is left waiting.
        """
        finished: queue.SimpleQueue[asyncio.Task[_Result]] = queue.SimpleQueue()
        begun: list[asyncio.Task[_Result]] = []  # touched on the loop's thread alone

        async def begin() -> None:
            for work in works:
                begun.append(asyncio.ensure_future(work))
                begun[-1].add_done_callback(finished.put)

        async def end() -> None:
            await asyncio.gather(*begun, return_exceptions=True)

        try:
            asyncio.run_coroutine_threadsafe(begin(), self._loop)
            for _ in works:
                yield _wait(finished).result()
        except BaseException:
            self.stop.set()
            # The loop takes this up after `begin`, so it waits for all of them, wherever in there the interrupt came.
            asyncio.run_coroutine_threadsafe(end(), self._loop).result()
            raise

    def close(self) -> None:
        """Close everything, in the reverse order of its opening; also what is left after one cannot be closed."""
        with ExitStack() as closing:
            if self._location is not None:
                closing.callback(self._location.close)
            closing.callback(self.engine.dispose)
            closing.callback(self.locks.close)
            closing.callback(self._end_loop)
            asyncio.run_coroutine_threadsafe(self.shared.close(), self._loop).result()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._threads.shutdown()
        self._loop.close()

    def __enter__(self) -> Runtime:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _wait(finished: queue.SimpleQueue[asyncio.Task[_Result]]) -> asyncio.Task[_Result]:
    """Wait in short turns: a thread that waits for good on a lock does not see its signals on every platform."""
    while True:
        try:
            return finished.get(timeout=_LOOK_FOR_SIGNALS_SECONDS)
        except queue.Empty:
            continue


def open_runtime(
    *,
    environ: Mapping[str, str] | None = None,
    current_folder: Path | None = None,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> Runtime:
    """Open what the environment names: the registry, the database (or the embedded one), the newest schema.

    The registry has the clients of the database, too, where it says so: whoever opens a runtime sees the same ones.
    """
    environ = os.environ if environ is None else environ
    current_folder = current_folder or Path.cwd()
    registry = load_registry(registry_path(environ, current_folder), environ=environ)
    location, engine = _open_engine(environ, current_folder)
    with ExitStack() as opened:
        opened.callback(location.close)
        opened.callback(engine.dispose)
        registry = with_clients_of(engine, registry)
        opened.pop_all()
    return Runtime(registry=registry, engine=engine, progress=progress, stop=stop, location=location)


@contextmanager
def open_database(
    *, environ: Mapping[str, str] | None = None, current_folder: Path | None = None
) -> Iterator[tuple[Engine, Ledger]]:
    """Open the database alone, for commands that only look at the ledger and need no registry."""
    location, engine = _open_engine(os.environ if environ is None else environ, current_folder or Path.cwd())
    try:
        yield engine, Ledger(engine)
    finally:
        engine.dispose()
        location.close()


def _open_engine(environ: Mapping[str, str], current_folder: Path) -> tuple[DatabaseLocation, Engine]:
    location = DatabaseLocation.resolve(environ, current_folder)
    with ExitStack() as opened:
        opened.callback(location.close)
        engine = create_database_engine(location.database_url)
        opened.callback(engine.dispose)
        check_reachable(engine)
        upgrade_schema(engine)
        opened.pop_all()
    return location, engine
