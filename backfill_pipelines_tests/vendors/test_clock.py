"""Another machine's clock, known only from exchanges that take their time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill_pipelines.vendors.clock import DRIFT, RemoteClock
from backfill_pipelines_tests.vendors.virtual_time import InstantClock

AHEAD = 5_000.0
ways = st.tuples(st.floats(0, 0.5), st.floats(0, 0.5))


def exchange(clock: InstantClock, remote: RemoteClock, there: float, back: float, *, ahead: float = AHEAD) -> None:
    sent = clock.monotonic()
    clock.passed += there
    said = clock.monotonic() + ahead
    clock.passed += back
    remote.measured(remote=said, sent=sent, received=clock.monotonic())


@given(exchanges=st.lists(ways, min_size=1, max_size=20))
def test_the_error_is_at_most_half_of_the_fastest_exchange_and_what_clocks_drift(
    exchanges: list[tuple[float, float]],
) -> None:
    clock = InstantClock()
    remote = RemoteClock(clock)
    for there, back in exchanges:
        exchange(clock, remote, there, back)
    fastest = min(there + back for there, back in exchanges)
    assert abs(remote.now() - (clock.monotonic() + AHEAD)) <= fastest / 2 + DRIFT * clock.passed + 1e-9
    assert remote.to_local(remote.now()) == pytest.approx(clock.monotonic())


@pytest.mark.parametrize("step", [-3600.0, -1.0, 1.0, 3600.0])
def test_a_clock_that_was_set_is_believed_at_once(step: float) -> None:
    clock = InstantClock()
    remote = RemoteClock(clock)
    for _ in range(5):
        exchange(clock, remote, 0.01, 0.01)
    exchange(clock, remote, 0.01, 0.01, ahead=AHEAD + step)
    assert remote.now() - clock.monotonic() == pytest.approx(AHEAD + step)


def test_before_the_first_exchange_this_machines_time_is_believed() -> None:
    clock = InstantClock()
    assert RemoteClock(clock).now() == pytest.approx(clock.time())


def test_a_slow_reply_is_remembered_for_a_while() -> None:
    clock = InstantClock()
    remote = RemoteClock(clock)
    exchange(clock, remote, 0.01, 0.01)
    exchange(clock, remote, 0.01, 0.31)
    assert remote.reply_seconds == pytest.approx(0.31, abs=0.001)
    for _ in range(100):
        exchange(clock, remote, 0.01, 0.01)
    assert remote.reply_seconds == pytest.approx(0.01, abs=0.001)
