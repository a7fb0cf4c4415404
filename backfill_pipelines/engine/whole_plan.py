"""A plan that is executed while it is stored: the shortest way of a large set-based load.

Belongs here: executing and journalling side by side, and what holds when the process dies between the two. Does not
belong here: the statements (the backfill's target), and what is done where something is not as planned (rows one batch
after the other, `set_based.py`).

A large plan takes about as long to store as to execute. So its rows are journalled over one connection, as applied from
the start, while another executes them: no row is journalled twice, and two processors work on it. Both transactions are
complete before either commits. The journal's commits first, and the one that executes also notes that the run has its
plan: rows of a run without a plan are of a process that died in that moment, and mean nothing (`discard_unplanned`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, runtime_checkable
from uuid import UUID

import pandas as pd
from sqlalchemy import Connection, Engine, delete, text

from backfill_pipelines.database.tables import change
from backfill_pipelines.engine.plan import StoredPlan
from backfill_pipelines.engine.set_based import SetBasedTarget

_WAITING = 8
"""How many pieces of work may wait: each is up to 200,000 rows of text, and there is no end of memory to hold them."""

Work = Callable[[], bool]


class WholeLoad(Protocol):
    """One plan of a target, executed in one transaction."""

    def take(self, rows: pd.DataFrame) -> Iterable[Work]:
        """The next rows of the plan, in its order: what is to be done for them on the load's connection, in order.

        Each piece answers False where a row did not come out as planned. Called in another thread than the pieces.
        """

    def end(self) -> Iterable[Work]:
        """What is left to be done once all rows were taken."""


@runtime_checkable
class WholePlanTarget(SetBasedTarget, Protocol):
    """A target that can execute a whole plan at once, where everything goes as planned."""

    def begin_whole(self, connection: Connection, run_id: UUID) -> WholeLoad:
        """Get ready to execute a plan of the run in the connection's transaction."""


class _MovedError(Exception):
    """A row is not as the plan saw it."""


def store_and_execute(
    engine: Engine,
    run_id: UUID,
    target: WholePlanTarget,
    frames: Iterable[pd.DataFrame],
    *,
    store: Callable[[Connection, Iterable[pd.DataFrame], str], StoredPlan],
    record: Callable[[Connection, StoredPlan], None],
    beside: bool,
) -> bool:
    """Store a plan and execute it, or do neither and return False: where a row was not as planned.

    `store` journals frames as applied at the moment given, `record` notes that the run has its plan. With `beside` both
    are done side by side, over two connections: worth it for a plan of many rows.
    """
    with engine.connect() as connection, connection.begin() as load:
        applied_at = str(connection.scalar(text("SELECT now()::text")))
        whole = target.begin_whole(connection, run_id)
        try:
            if beside:
                with engine.connect() as journal, journal.begin():
                    with _Beside() as begin:
                        stored = store(journal, _taken(frames, whole, begin), applied_at)
                        for work in whole.end():
                            begin(work)
                    record(connection, stored)
                    # What would be refused at the load's commit is refused now: the journal's comes first.
                    connection.execute(text("SET CONSTRAINTS ALL IMMEDIATE"))
            else:
                works: list[Work] = []
                stored = store(connection, _taken(frames, whole, works.append), applied_at)
                for work in (*works, *whole.end()):
                    _require(work)
                record(connection, stored)
        except _MovedError:
            load.rollback()
            return False
    return True


def discard_unplanned(connection: Connection, run_id: UUID) -> None:
    """Delete what is journalled of a run that has no plan: the load's commit did not follow the journal's."""
    connection.execute(delete(change).where(change.c.run_id == run_id))


def _taken(frames: Iterable[pd.DataFrame], whole: WholeLoad, begin: Callable[[Work], None]) -> Iterator[pd.DataFrame]:
    for frame in frames:
        for work in whole.take(frame):
            begin(work)
        yield frame


def _require(work: Work) -> None:
    if not work():
        raise _MovedError


class _Beside:
    """A thread that does one piece of work after the other; leaving waits for the last one.

    Raises what a piece raised, or `_MovedError` after one that answered False; the pieces behind it are not begun.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._begun: list[Future[None]] = []
        self._failed = False

    def __enter__(self) -> Callable[[Work], None]:
        return self._begin

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown(wait=True, cancel_futures=kind is not None)
        if kind is None:
            for work in self._begun:
                work.result()

    def _begin(self, work: Work) -> None:
        self._begun.append(self._thread.submit(self._do, work))
        while self._begun and (len(self._begun) > _WAITING or self._begun[0].done()):
            self._begun.pop(0).result()

    def _do(self, work: Work) -> None:
        if self._failed:
            return
        try:
            _require(work)
        except BaseException:
            self._failed = True
            raise
