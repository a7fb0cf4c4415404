"""One process at work: the registry, the database, the event loop and what all its partitions share.

Belongs here: opening those once and closing them in order. Does not belong here: what runs (`partition_run.py`) and
where the database is (`database/location.py`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Engine

from backfill_pipelines.database.connection import create_database_engine
from backfill_pipelines.database.location import DatabaseLocation
from backfill_pipelines.database.locks import AdvisoryLocks
from backfill_pipelines.database.schema import upgrade_schema
from backfill_pipelines.engine.backfill import Backfill, Progress, RunOptions, Scope, SharedResources
from backfill_pipelines.engine.ledger import Ledger
from backfill_pipelines.engine.progress import LoggedProgress
from backfill_pipelines.registry import Registry, load_registry, registry_path

_Result = TypeVar("_Result")
_DATABASE_THREADS = 16
_LOOK_FOR_SIGNALS_SECONDS = 0.2


class Runtime:
    """What partitions need to run, for one process. A context manager; open it once."""

    def __init__(
        self, *, registry: Registry, engine: Engine, progress: Progress | None = None,
        stop: threading.Event | None = None, location: DatabaseLocation | None = None,
    ) -> None:
        self.registry = registry
        self.engine = engine
        self.ledger = Ledger(engine)
        self.locks = AdvisoryLocks(engine)
        self.shared = SharedResources()
        self.progress: Progress = progress or LoggedProgress(logging.getLogger("backfill_pipelines"))
        self.stop = stop or threading.Event()
        self._location = location
        self._loop = asyncio.new_event_loop()
        self._threads = ThreadPoolExecutor(_DATABASE_THREADS, thread_name_prefix="backfill")
        self._loop.set_default_executor(self._threads)
        self._places = asyncio.Semaphore(registry.defaults.max_parallel_clients)
        self._thread = threading.Thread(target=self._loop.run_forever, name="backfill-loop", daemon=True)
        self._thread.start()

    @property
    def places(self) -> asyncio.Semaphore:
        """Held by every partition at work, so that `max_parallel_clients` bounds them over all runs of the process."""
        return self._places

    def scope(self, backfill: Backfill, partition_key: str, *, options: RunOptions, run_id: UUID) -> Scope:
        """What the steps of one partition get to see."""
        from backfill_pipelines.engine.partition_run import lock_name

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
            require_lock=lambda: self.locks.require(lock_name(backfill.name, partition_key)),
        )

    def run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Run a coroutine on the process's event loop and wait for it. For any thread.

        An interrupt of the waiting thread (Ctrl-C, Dagster ending a run) asks the partitions to stop at their next safe
        point, waits until they have, and is raised again: nothing is left half-done, and nobody is left waiting.
        """
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        while True:
            try:
                return future.result(timeout=_LOOK_FOR_SIGNALS_SECONDS)
            except FutureTimeoutError:
                if future.done():
                    raise
            except BaseException:
                if future.done():
                    raise
                self.stop.set()
                future.result()
                raise

    def close(self) -> None:
        """Close everything, in the reverse order of its opening."""
        asyncio.run_coroutine_threadsafe(self.shared.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._threads.shutdown()
        self._loop.close()
        self.locks.close()
        self.engine.dispose()
        if self._location is not None:
            self._location.close()

    def __enter__(self) -> Runtime:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def open_runtime(
    *, environ: Mapping[str, str] | None = None, current_folder: Path | None = None,
    progress: Progress | None = None, stop: threading.Event | None = None,
) -> Runtime:
    """Open what the environment names: the registry, the database (or the embedded one), the newest schema."""
    environ = os.environ if environ is None else environ
    current_folder = current_folder or Path.cwd()
    registry = load_registry(registry_path(environ, current_folder), environ=environ)
    location = DatabaseLocation.resolve(environ, current_folder)
    try:
        engine = create_database_engine(location.database_url)
        upgrade_schema(engine)
    except BaseException:
        location.close()
        raise
    return Runtime(registry=registry, engine=engine, progress=progress, stop=stop, location=location)
