"""The second way of loading: record by record, or in small batches, over a vendor's API.

Belongs here: the order of things that keeps a write from being lost or doubled when the process dies: note the attempt,
read the record again, write, journal; after a crash or a lost reply, look the record up before sending it again. Does
not belong here: HTTP (a backfill's target calls its vendor's client).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable
from uuid import UUID

from sqlalchemy import Engine

from backfill_pipelines.engine.journal import (
    Change,
    ChangeState,
    Outcome,
    applied_rows,
    mark_attempted,
    read_changes,
    remaining_rows,
    write_outcomes,
)
from backfill_pipelines.errors import BackfillError, TransientError

_SENDS = 3
"""How often a row is sent whose reply was lost and which the look-up did not find."""

UNKNOWN = "unknown"
"""The code of an outcome that the target could not learn: the reply was lost. Never journalled."""


@runtime_checkable
class RecordTarget(Protocol):
    """What a backfill brings to load, and to undo, plan rows over a vendor's API.

    Every method gets rows of one run and answers for each of them by its `seq`.
    """

    @property
    def batch_rows(self) -> int:
        """How many rows one call of `write` takes: 1 where the vendor knows no batches."""

    @property
    def window_rows(self) -> int:
        """How many rows are noted as attempted, read again and then written together."""

    @property
    def concurrency(self) -> int:
        """How many calls of `write` are under way at once; the vendor's quota paces them besides."""

    async def moved(self, changes: Sequence[Change]) -> Mapping[int, str]:
        """Of rows about to be written: those whose record no longer is as the plan saw it, with a code (`stale`)."""

    async def write(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        """Write; one outcome for each row. A lost reply is `Outcome(state=planned, error_code=UNKNOWN)`."""

    async def find_written(self, changes: Sequence[Change]) -> Mapping[int, Outcome]:
        """Of rows that may have been written already: the outcomes of those that were. Rows left out were not."""

    async def undo(self, changes: Sequence[Change], *, dry_run: bool) -> Sequence[Outcome]:
        """Take back; `undone`, or `applied` with the code `changed_since`. With `dry_run`, only say so."""


@dataclass(frozen=True, kw_only=True)
class RecordLoad:
    """One load, or undo, of a run's rows over an API."""

    engine: Engine
    run_id: UUID
    target: RecordTarget
    safe_point: Callable[[], None]
    progress: Callable[[int, int], None]

    async def load(self, *, limit: int | None) -> None:
        """Execute the rows that are still planned, at most `limit` of them.

        A row's failure is journalled and the others go on. What makes every further row fail as well (a refused token,
        a vendor that is down) is raised by the target as a `BackfillError`, after the outcomes so far are journalled.
        """
        seqs = await asyncio.to_thread(self._remaining, limit)
        for start in range(0, len(seqs), self.target.window_rows):
            self.safe_point()
            await self._load_window(seqs[start : start + self.target.window_rows])
            self.progress(min(start + self.target.window_rows, len(seqs)), len(seqs))

    async def undo(self, *, dry_run: bool) -> Counter[str | None]:
        """Take back the applied rows, last one first; returns how many came to each code, None for those undone."""
        codes: Counter[str | None] = Counter()

        async def take_back(changes: Sequence[Change]) -> Sequence[Outcome]:
            outcomes = await self.target.undo(changes, dry_run=dry_run)
            codes.update(None if outcome.state is ChangeState.UNDONE else outcome.error_code for outcome in outcomes)
            return [] if dry_run else outcomes

        seqs = await asyncio.to_thread(self._applied)
        for start in range(0, len(seqs), self.target.window_rows):
            self.safe_point()
            changes = await asyncio.to_thread(self._read, seqs[start : start + self.target.window_rows])
            await self._in_batches(changes, take_back)
            self.progress(min(start + self.target.window_rows, len(seqs)), len(seqs))
        return codes

    async def _load_window(self, seqs: Sequence[int]) -> None:
        changes = await asyncio.to_thread(self._read, seqs)
        # Rows that a dead process had attempted: their reply is lost with it.
        pending = await self._without_written(changes, [change for change in changes if change.attempted])
        for _ in range(_SENDS):
            if not pending:
                return
            moved = await self.target.moved(pending)
            await self._journal(
                [Outcome(seq=seq, state=ChangeState.CONFLICT, error_code=code) for seq, code in moved.items()]
            )
            pending = [change for change in pending if change.seq not in moved]
            await asyncio.to_thread(self._mark, [change.seq for change in pending])
            unknown = await self._in_batches(pending, self.target.write)
            lost = [change for change in pending if change.seq in unknown]
            pending = await self._without_written(lost, lost)
        if pending:
            raise TransientError(
                "replies_lost",
                f"The vendor's replies to {len(pending)} writes were lost {_SENDS} times in a row, and the records are "
                "not there; run again to go on.",
            )

    async def _without_written(self, changes: Sequence[Change], doubtful: Sequence[Change]) -> list[Change]:
        """Journal those doubtful rows that turn out to be written; return the rows that are not."""
        if not doubtful:
            return list(changes)
        found = await self.target.find_written(doubtful)
        await self._journal(list(found.values()))
        return [change for change in changes if change.seq not in found]

    async def _in_batches(
        self, changes: Sequence[Change], work: Callable[[Sequence[Change]], Awaitable[Sequence[Outcome]]]
    ) -> set[int]:
        """Do the work side by side, journal every outcome, return the rows whose outcome is unknown.

        Where one batch raises, those under way are journalled all the same and no other is begun; then it is raised.
        """
        places = asyncio.Semaphore(self.target.concurrency)
        failed = asyncio.Event()

        async def one(batch: Sequence[Change]) -> set[int]:
            async with places:
                if failed.is_set():
                    return set()
                try:
                    outcomes = await work(batch)
                except BaseException:
                    failed.set()
                    raise
            known = [outcome for outcome in outcomes if outcome.error_code != UNKNOWN]
            await self._journal(known)
            # A row of which the target says nothing is one whose reply is lost, too.
            return {change.seq for change in batch} - {outcome.seq for outcome in known}

        size = self.target.batch_rows
        results = await asyncio.gather(
            *(one(changes[start : start + size]) for start in range(0, len(changes), size)), return_exceptions=True
        )
        failures = [result for result in results if isinstance(result, BaseException)]
        if failures:
            # A defect of ours says more than the vendor being down.
            raise min(failures, key=lambda failure: isinstance(failure, BackfillError))
        return set().union(*(result for result in results if isinstance(result, set)))

    async def _journal(self, outcomes: Sequence[Outcome]) -> None:
        if outcomes:
            await asyncio.to_thread(self._write, outcomes)

    def _remaining(self, limit: int | None) -> Sequence[int]:
        with self.engine.connect() as connection:
            return remaining_rows(connection, self.run_id, limit=limit)

    def _applied(self) -> Sequence[int]:
        with self.engine.connect() as connection:
            return applied_rows(connection, self.run_id)

    def _read(self, seqs: Sequence[int]) -> list[Change]:
        with self.engine.connect() as connection:
            return read_changes(connection, self.run_id, seqs)

    def _mark(self, seqs: Sequence[int]) -> None:
        with self.engine.begin() as connection:
            mark_attempted(connection, self.run_id, seqs)

    def _write(self, outcomes: Sequence[Outcome]) -> None:
        with self.engine.begin() as connection:
            write_outcomes(connection, self.run_id, outcomes)
