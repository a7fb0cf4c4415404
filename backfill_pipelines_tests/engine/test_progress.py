"""Progress as lines: seldom enough to read, and an estimate that is never nonsense."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from backfill_pipelines.engine.progress import LineProgress, remaining_seconds


@dataclass
class Clock:
    """A clock that the test moves."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_step_tells_its_first_and_last_report_and_one_in_ten_seconds_between() -> None:
    lines: list[str] = []
    clock = Clock()
    progress = LineProgress(lines.append, clock=clock)
    for page in range(1, 41):
        clock.now += 1
        progress.report("kim", "replies", page, 40)
    assert [line.split(",")[0] for line in lines] == [
        "kim: replies 1 of 40",
        "kim: replies 11 of 40",
        "kim: replies 21 of 40",
        "kim: replies 31 of 40",
        "kim: replies 40 of 40",
    ]


def test_a_line_says_how_long_the_rest_takes_at_the_pace_so_far() -> None:
    lines: list[str] = []
    clock = Clock()
    progress = LineProgress(lines.append, clock=clock)
    progress.report("kim", "replies", 10, 100)
    clock.now += 20
    progress.report("kim", "replies", 50, 100)
    assert lines == ["kim: replies 10 of 100", "kim: replies 50 of 100, about 25 s left"]


def test_partitions_and_steps_have_their_own_turns() -> None:
    lines: list[str] = []
    progress = LineProgress(lines.append, clock=Clock())
    progress.report("kim", "replies", 1, 9)
    progress.report("lee", "replies", 1, 9)
    progress.report("kim", "leads", 1, 9)
    progress.report("kim", "replies", 2, 9)
    assert lines == ["kim: replies 1 of 9", "lee: replies 1 of 9", "kim: leads 1 of 9"]


def test_a_step_of_unknown_length_is_told_without_an_end() -> None:
    lines: list[str] = []
    clock = Clock()
    progress = LineProgress(lines.append, clock=clock)
    progress.report("kim", "plan", 0, None)
    clock.now += 11
    progress.report("kim", "plan", 0, None)
    assert lines == ["kim: plan 0", "kim: plan 0"]


def test_an_empty_step_is_done_at_once() -> None:
    lines: list[str] = []
    LineProgress(lines.append, clock=Clock()).report("kim", "load", 0, 0)
    assert lines == ["kim: load 0 of 0"]


@given(
    done=st.integers(-5, 10**9),
    left=st.none() | st.integers(0, 10**9),
    elapsed=st.floats(-1, 10**6, allow_nan=False),
)
def test_an_estimate_is_a_time_or_nothing(done: int, left: int | None, elapsed: float) -> None:
    seconds = remaining_seconds(done, left, elapsed=elapsed)
    if left is None or done <= 0 or elapsed <= 0:
        assert seconds is None
    else:
        assert seconds is not None
        assert seconds >= 0
