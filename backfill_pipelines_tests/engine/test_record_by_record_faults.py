"""Loading over an API when batches overlap, a target says too little, and a real process is killed."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import pytest
import sqlalchemy

from backfill_pipelines.engine.journal import Change, ChangeState, Outcome
from backfill_pipelines.engine.record_by_record import UNKNOWN, RecordLoad
from backfill_pipelines.errors import ConfigurationError, TransientError
from backfill_pipelines_tests.engine.people_file import FilePeople, load_people, plan_people, states
from backfill_pipelines_tests.engine.waiting import wait_until

KEYS = [f"p{number}" for number in range(8)]


@dataclass
class Calls:
    """A target that notes its calls, and answers each with what `answer` says."""

    batch_rows: int = 2
    window_rows: int = 8
    concurrency: int = 2
    asked: list[list[str]] = field(default_factory=list)
    sent: list[list[str]] = field(default_factory=list)
    looked_up: list[list[str]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    silent: frozenset[str] = frozenset()
    refuse_from: int | None = None
    there: set[str] = field(default_factory=set)

    async def moved(self, changes: Sequence[Change]) -> Mapping[int, str]:
        return {}

    async def write(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        self.asked.append([change.record_key for change in changes])
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        if self.refuse_from is not None and len(self.sent) >= self.refuse_from:
            raise ConfigurationError("unauthorized", "The token is refused.")
        self.sent.append([change.record_key for change in changes])
        return [
            Outcome(seq=change.seq, state=ChangeState.APPLIED)
            for change in changes
            if change.record_key not in self.silent
        ]

    async def find_written(self, changes: Sequence[Change]) -> Mapping[int, Outcome]:
        self.looked_up.append([change.record_key for change in changes])
        return {
            change.seq: Outcome(seq=change.seq, state=ChangeState.APPLIED)
            for change in changes
            if change.record_key in self.there
        }

    async def undo(self, changes: Sequence[Change], *, dry_run: bool) -> Sequence[Outcome]:
        return [Outcome(seq=change.seq, state=ChangeState.PLANNED, error_code=UNKNOWN) for change in changes]


def work_of(engine: sqlalchemy.Engine, run_id: UUID, target: Calls) -> RecordLoad:
    return RecordLoad(
        engine=engine, run_id=run_id, target=target, safe_point=lambda: None, progress=lambda _done, _total: None
    )


def load(engine: sqlalchemy.Engine, run_id: UUID, target: Calls) -> None:
    asyncio.run(work_of(engine, run_id, target).load(limit=None))


def test_batches_are_of_the_size_and_number_that_the_target_takes(emptied: sqlalchemy.Engine) -> None:
    target = Calls(batch_rows=3, concurrency=2)
    load(emptied, plan_people(emptied, KEYS), target)
    assert sorted(target.sent) == [KEYS[0:3], KEYS[3:6], KEYS[6:8]]
    assert target.most_at_once == 2


def test_once_a_batch_has_failed_no_other_is_begun(emptied: sqlalchemy.Engine) -> None:
    target = Calls(batch_rows=1, concurrency=1, refuse_from=3)
    run_id = plan_people(emptied, KEYS)
    with pytest.raises(ConfigurationError):
        load(emptied, run_id, target)
    assert target.asked == [["p0"], ["p1"], ["p2"], ["p3"]]
    assert states(emptied, run_id) == {"applied": 3, "planned": 5}


def test_a_defect_of_ours_is_raised_rather_than_the_vendors_failure(emptied: sqlalchemy.Engine) -> None:
    class Both(Calls):
        async def write(self, changes: Sequence[Change]) -> Sequence[Outcome]:
            await asyncio.sleep(0)
            if changes[0].record_key == "p0":
                raise TransientError("vendor_unavailable", "Down.")
            raise KeyError("a defect")

    with pytest.raises(KeyError):
        load(emptied, plan_people(emptied, KEYS), Both(batch_rows=4))


def test_a_row_of_which_the_target_says_nothing_is_looked_up_and_not_taken_for_done(
    emptied: sqlalchemy.Engine,
) -> None:
    target = Calls(silent=frozenset({"p3", "p4"}), there={"p3"})
    run_id = plan_people(emptied, KEYS)
    with pytest.raises(TransientError) as caught:
        load(emptied, run_id, target)
    assert caught.value.code == "replies_lost"
    assert sorted(target.looked_up[0]) == ["p3", "p4"]
    assert states(emptied, run_id) == {"applied": 7, "planned": 1}


def test_rows_that_were_never_sent_are_not_looked_up(emptied: sqlalchemy.Engine) -> None:
    target = Calls()
    load(emptied, plan_people(emptied, KEYS), target)
    assert target.looked_up == []


def test_an_undo_whose_reply_is_lost_leaves_the_row_applied_and_says_so(emptied: sqlalchemy.Engine) -> None:
    target = Calls()
    run_id = plan_people(emptied, KEYS[:2])
    load(emptied, run_id, target)
    assert asyncio.run(work_of(emptied, run_id, target).undo(dry_run=False)) == {UNKNOWN: 2}
    assert states(emptied, run_id) == {"applied": 2}


@pytest.mark.parametrize("moment", ["before the write", "after the write"])
def test_a_process_killed_around_a_write_neither_loses_nor_doubles_it(
    emptied: sqlalchemy.Engine, tmp_path: Path, moment: str
) -> None:
    run_id = plan_people(emptied, KEYS)
    people = FilePeople(tmp_path / "people.jsonl")
    script = (
        "import sys; from backfill_pipelines_tests.engine.people_file import stall_in_the_middle; "
        "stall_in_the_middle(*sys.argv[1:])"
    )
    url = emptied.url.render_as_string(hide_password=False)
    with subprocess.Popen([sys.executable, "-c", script, url, str(run_id), str(people.path), moment, "p5"]) as loader:
        wait_until(lambda: people.path.with_suffix(".stalled").exists())
        loader.kill()
    assert len(people.written()) == (5 if moment == "before the write" else 6)
    # p4 and p5 share a window: both are attempted; p4 may be journalled, p5 is not.
    assert states(emptied, run_id)["planned"] >= 3

    load_people(emptied, run_id, people)

    assert people.written() == KEYS
    assert states(emptied, run_id) == {"applied": 8}
    assert json.loads(people.path.read_text().splitlines()[0]) == {"key": "p0", "value": "v-p0"}
