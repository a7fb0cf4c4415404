"""Loading over an API: nothing lost, nothing doubled, wherever the process dies.

The vendor is an object that outlives the "process": a death is an exception that nothing handles, raised at the points
where a kill would hurt; the next load starts from what the journal and the vendor hold, as a new process would.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backfill_pipelines.engine.journal import STALE, Change, ChangeState, Outcome, outcome_counts
from backfill_pipelines.engine.plan import Action, plan_frame, store_plan
from backfill_pipelines.engine.record_by_record import UNKNOWN, RecordLoad, RecordTarget
from backfill_pipelines.errors import ConfigurationError, InterruptedRunError, TransientError


class Death(BaseException):
    """The process is gone: nobody handles this."""


@dataclass
class Vendor:
    """A vendor's store of people by natural key, and every write that reached it."""

    people: dict[str, str] = field(default_factory=dict)
    writes: Counter[str] = field(default_factory=Counter)


@dataclass
class FakeTarget:
    """Writes people to the vendor, with a fault at the n-th write if asked for."""

    vendor: Vendor
    batch_rows: int = 1
    window_rows: int = 4
    concurrency: int = 1
    fault: Callable[[str, str], None] = lambda _moment, _key: None
    refused: frozenset[str] = frozenset()
    moved_keys: frozenset[str] = frozenset()

    async def moved(self, changes: Sequence[Change]) -> Mapping[int, str]:
        return {change.seq: STALE for change in changes if change.record_key in self.moved_keys}

    async def write(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        return [self._write(change) for change in changes]

    def _write(self, change: Change) -> Outcome:
        key = change.record_key
        self.fault("before", key)
        if key in self.refused:
            return Outcome(seq=change.seq, state=ChangeState.FAILED, error_code="rejected_request")
        assert change.after is not None
        self.vendor.people[key] = change.after["value"]
        self.vendor.writes[key] += 1
        try:
            self.fault("after", key)
        except ConnectionError:
            return Outcome(seq=change.seq, state=ChangeState.PLANNED, error_code=UNKNOWN)
        return Outcome(seq=change.seq, state=ChangeState.APPLIED, record_id=f"id-{key}")

    async def find_written(self, changes: Sequence[Change]) -> Mapping[int, Outcome]:
        return {
            change.seq: Outcome(seq=change.seq, state=ChangeState.APPLIED, record_id=f"id-{change.record_key}")
            for change in changes
            if change.record_key in self.vendor.people
        }

    async def undo(self, changes: Sequence[Change], *, dry_run: bool) -> Sequence[Outcome]:
        outcomes = []
        for change in changes:
            assert change.after is not None
            ours = self.vendor.people.get(change.record_key) == change.after["value"]
            if ours and not dry_run:
                del self.vendor.people[change.record_key]
            state, code = (ChangeState.UNDONE, None) if ours else (ChangeState.APPLIED, "changed_since")
            outcomes.append(Outcome(seq=change.seq, state=state, error_code=code))
        return outcomes


def store(engine: sqlalchemy.Engine, keys: Sequence[str]) -> UUID:
    run_id = uuid4()
    rows: list[tuple[Any, ...]] = [("people", key, Action.CREATE, None, None, {"value": f"v-{key}"}) for key in keys]
    with engine.begin() as connection:
        store_plan(connection, run_id=run_id, frames=[plan_frame(rows)])
    return run_id


def load(engine: sqlalchemy.Engine, run_id: UUID, target: FakeTarget, *, limit: int | None = None) -> None:
    def nothing(*_: int) -> None:
        return None

    work = RecordLoad(engine=engine, run_id=run_id, target=target, safe_point=lambda: None, progress=nothing)
    asyncio.run(work.load(limit=limit))


def states(engine: sqlalchemy.Engine, run_id: UUID) -> tuple[dict[str, int], dict[str, int]]:
    with engine.connect() as connection:
        return outcome_counts(connection, run_id)


KEYS = [f"p{number}" for number in range(10)]


def test_the_fake_target_is_what_the_engine_takes_for_a_record_target() -> None:
    assert isinstance(FakeTarget(Vendor()), RecordTarget)


def test_every_row_is_written_once_and_journalled(emptied: sqlalchemy.Engine) -> None:
    vendor = Vendor()
    run_id = store(emptied, KEYS)
    load(emptied, run_id, FakeTarget(vendor, concurrency=3, batch_rows=2))
    assert vendor.people == {key: f"v-{key}" for key in KEYS}
    assert set(vendor.writes.values()) == {1}
    assert states(emptied, run_id) == ({"applied": 10}, {})


def test_loading_a_second_time_sends_nothing(emptied: sqlalchemy.Engine) -> None:
    vendor = Vendor()
    run_id = store(emptied, KEYS)
    load(emptied, run_id, FakeTarget(vendor))
    load(emptied, run_id, FakeTarget(vendor))
    assert set(vendor.writes.values()) == {1}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    deaths=st.lists(st.tuples(st.sampled_from(["before", "after"]), st.sampled_from(KEYS)), max_size=4),
    window=st.integers(1, 5),
    batch=st.integers(1, 3),
)
def test_dying_anywhere_and_loading_again_neither_loses_nor_doubles(
    emptied: sqlalchemy.Engine, deaths: list[tuple[str, str]], window: int, batch: int
) -> None:
    vendor = Vendor()
    run_id = store(emptied, KEYS)
    waiting = list(deaths)

    def die(moment: str, key: str) -> None:
        if (moment, key) in waiting:
            waiting.remove((moment, key))
            raise Death

    for _ in range(len(deaths) + 1):
        target = FakeTarget(vendor, fault=die, window_rows=window, batch_rows=batch)
        try:
            load(emptied, run_id, target)
        except Death:
            continue
        break
    load(emptied, run_id, FakeTarget(vendor, window_rows=window, batch_rows=batch))
    assert vendor.people == {key: f"v-{key}" for key in KEYS}
    assert set(vendor.writes.values()) == {1}
    assert states(emptied, run_id) == ({"applied": 10}, {})


def test_a_lost_reply_is_looked_up_and_not_sent_again(emptied: sqlalchemy.Engine) -> None:
    vendor = Vendor()
    run_id = store(emptied, KEYS)

    def lose(moment: str, key: str) -> None:
        if moment == "after" and key == "p3":
            raise ConnectionError

    load(emptied, run_id, FakeTarget(vendor, fault=lose))
    assert vendor.writes["p3"] == 1
    assert states(emptied, run_id) == ({"applied": 10}, {})


def test_a_write_that_never_arrives_is_sent_three_times_and_then_given_up_resumably(
    emptied: sqlalchemy.Engine,
) -> None:
    @dataclass
    class Deaf(FakeTarget):
        sends: Counter[str] = field(default_factory=Counter)

        def _write(self, change: Change) -> Outcome:
            if change.record_key != "p2":
                return super()._write(change)
            self.sends[change.record_key] += 1
            return Outcome(seq=change.seq, state=ChangeState.PLANNED, error_code=UNKNOWN)

    vendor = Vendor()
    run_id = store(emptied, KEYS[:4])
    target = Deaf(vendor)
    with pytest.raises(TransientError) as raised:
        load(emptied, run_id, target)
    assert raised.value.code == "replies_lost"
    assert target.sends["p2"] == 3
    assert states(emptied, run_id)[0] == {"applied": 3, "planned": 1}
    load(emptied, run_id, FakeTarget(vendor))
    assert states(emptied, run_id)[0] == {"applied": 4}


def test_a_record_that_moved_since_the_plan_becomes_a_conflict_and_is_not_written(emptied: sqlalchemy.Engine) -> None:
    vendor = Vendor()
    run_id = store(emptied, KEYS)
    load(emptied, run_id, FakeTarget(vendor, moved_keys=frozenset({"p1", "p7"})))
    assert "p1" not in vendor.people
    assert states(emptied, run_id) == ({"applied": 8, "conflict": 2}, {"stale": 2})


def test_a_row_that_is_refused_does_not_stop_the_others(emptied: sqlalchemy.Engine) -> None:
    vendor = Vendor()
    run_id = store(emptied, KEYS)
    load(emptied, run_id, FakeTarget(vendor, refused=frozenset({"p0"})))
    assert states(emptied, run_id) == ({"applied": 9, "failed": 1}, {"rejected_request": 1})


def test_a_refused_token_stops_the_load_after_journalling_what_was_done(emptied: sqlalchemy.Engine) -> None:
    vendor = Vendor()
    run_id = store(emptied, KEYS)

    def revoke(moment: str, key: str) -> None:
        if moment == "before" and key == "p2":
            raise ConfigurationError("unauthorized", "The token is refused.")

    with pytest.raises(ConfigurationError):
        load(emptied, run_id, FakeTarget(vendor, fault=revoke, concurrency=4))
    applied = states(emptied, run_id)[0]["applied"]
    # What was written before is journalled; neither the rest of the window nor the later ones were begun.
    assert applied == 2
    assert sum(vendor.writes.values()) == 2


def test_a_limit_loads_so_many_rows_and_leaves_the_rest_planned(emptied: sqlalchemy.Engine) -> None:
    vendor = Vendor()
    run_id = store(emptied, KEYS)
    load(emptied, run_id, FakeTarget(vendor), limit=3)
    assert sorted(vendor.people) == ["p0", "p1", "p2"]
    assert states(emptied, run_id)[0] == {"applied": 3, "planned": 7}


def test_a_stop_is_seen_between_windows(emptied: sqlalchemy.Engine) -> None:
    vendor = Vendor()
    run_id = store(emptied, KEYS)
    windows: list[int] = []

    def safe_point() -> None:
        if windows:
            raise InterruptedRunError("interrupted", "Stopped on request.")

    work = RecordLoad(
        engine=emptied,
        run_id=run_id,
        target=FakeTarget(vendor),
        safe_point=safe_point,
        progress=lambda done, _total: windows.append(done),
    )
    with pytest.raises(InterruptedRunError):
        asyncio.run(work.load(limit=None))
    assert windows == [4]
    assert states(emptied, run_id)[0] == {"applied": 4, "planned": 6}


def undo(engine: sqlalchemy.Engine, run_id: UUID, target: FakeTarget, *, dry_run: bool) -> Counter[str | None]:
    work = RecordLoad(engine=engine, run_id=run_id, target=target, safe_point=lambda: None, progress=lambda *_: None)
    return asyncio.run(work.undo(dry_run=dry_run))


def test_undo_takes_back_what_is_still_ours_and_reports_the_rest(emptied: sqlalchemy.Engine) -> None:
    vendor = Vendor()
    run_id = store(emptied, KEYS)
    load(emptied, run_id, FakeTarget(vendor))
    vendor.people["p5"] = "changed by hand"
    expected = Counter({None: 9, "changed_since": 1})
    assert undo(emptied, run_id, FakeTarget(vendor), dry_run=True) == expected
    assert len(vendor.people) == 10
    assert undo(emptied, run_id, FakeTarget(vendor), dry_run=False) == expected
    assert vendor.people == {"p5": "changed by hand"}
    assert undo(emptied, run_id, FakeTarget(vendor), dry_run=False) == Counter({"changed_since": 1})


def test_a_change_names_itself_without_its_values() -> None:
    change = Change(
        seq=1, target="people", record_key="canary@example.com", action="create", reason=None, before=None,
        after={"value": "canary"}, record_id=None, attempted=False,
    )  # fmt: skip
    assert "canary" not in repr(change)
