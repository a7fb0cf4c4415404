"""A vendor of people in a file that outlives the process, and a load into it that can be made to hang.

Belongs here: the vendor, a target for it, and running loads. Does not belong here: assertions.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy

from backfill_pipelines.engine.journal import Change, ChangeState, Outcome, outcome_counts
from backfill_pipelines.engine.plan import Action, plan_frame, store_plan
from backfill_pipelines.engine.record_by_record import RecordLoad


@dataclass
class FilePeople:
    """One line per write that reached it."""

    path: Path

    def write(self, key: str, value: str) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "value": value}) + "\n")

    def written(self) -> list[str]:
        """The keys of all writes, in their order."""
        if not self.path.exists():
            return []
        return [json.loads(line)["key"] for line in self.path.read_text(encoding="utf-8").splitlines()]


@dataclass
class PeopleTarget:
    """Writes one person at a time, two to a window."""

    people: FilePeople
    watch: Callable[[str, str], None]
    batch_rows: int = 1
    window_rows: int = 2
    concurrency: int = 1

    async def moved(self, changes: Sequence[Change]) -> Mapping[int, str]:
        return {}

    async def write(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        (change,) = changes
        assert change.after is not None
        self.watch("before the write", change.record_key)
        self.people.write(change.record_key, change.after["value"])
        self.watch("after the write", change.record_key)
        return [Outcome(seq=change.seq, state=ChangeState.APPLIED)]

    async def find_written(self, changes: Sequence[Change]) -> Mapping[int, Outcome]:
        there = set(self.people.written())
        return {
            change.seq: Outcome(seq=change.seq, state=ChangeState.APPLIED)
            for change in changes
            if change.record_key in there
        }

    async def undo(self, changes: Sequence[Change], *, dry_run: bool) -> Sequence[Outcome]:
        raise NotImplementedError


def plan_people(engine: sqlalchemy.Engine, keys: Sequence[str]) -> UUID:
    """Store a plan that creates these people; returns its run id."""
    run_id = uuid4()
    rows: list[tuple[Any, ...]] = [("people", key, Action.CREATE, None, None, {"value": f"v-{key}"}) for key in keys]
    with engine.begin() as connection:
        store_plan(connection, run_id=run_id, frames=[plan_frame(rows)])
    return run_id


def states(engine: sqlalchemy.Engine, run_id: UUID) -> dict[str, int]:
    """How many rows of a plan are in each state."""
    with engine.connect() as connection:
        return outcome_counts(connection, run_id)[0]


def load_people(
    engine: sqlalchemy.Engine,
    run_id: UUID,
    people: FilePeople,
    *,
    watch: Callable[[str, str], None] = lambda _moment, _key: None,
) -> None:
    """Load what is left of a plan."""
    target = PeopleTarget(people, watch)
    work = RecordLoad(
        engine=engine, run_id=run_id, target=target, safe_point=lambda: None, progress=lambda _done, _total: None
    )
    asyncio.run(work.load(limit=None))


def stall_in_the_middle(url: str, run_id: str, path: str, moment: str, key: str) -> None:
    """In a process of its own: load, and hang at one moment of one person, to be killed there."""
    people = FilePeople(Path(path))

    def watch(at: str, of: str) -> None:
        if (at, of) == (moment, key):
            people.path.with_suffix(".stalled").touch()
            time.sleep(60)

    load_people(sqlalchemy.create_engine(url), UUID(run_id), people, watch=watch)
