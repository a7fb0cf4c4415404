"""The quota's window and the log, without a socket."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backfill_pipelines.sandbox.faults import Call
from backfill_pipelines.sandbox.traffic import LONGEST_LOG, RateLimit, RateWindow, RequestLog

CALL = Call("email-bison", "main", "4", "amber-ridge-roofing", "GET", "/leads/7", "/leads/{id}")


@given(
    permits=st.integers(1, 5),
    window=st.sampled_from([1, 10, 60]),
    pauses=st.lists(st.integers(0, 30), max_size=60),
)
def test_no_stretch_of_a_windows_length_ever_has_more_than_its_permits(
    permits: int, window: int, pauses: list[int]
) -> None:
    now = 0
    rate_window = RateWindow(RateLimit(permits, window), clock=lambda: now)
    admitted: list[int] = []
    for pause in pauses:
        now += pause
        recent = sum(moment > now - window for moment in admitted)
        admission = rate_window.admit()
        assert admission.admitted == (recent < permits)
        if admission.admitted:
            admitted.append(now)
            assert admission.remaining == permits - recent - 1
        else:
            assert sum(moment > now + admission.retry_after_seconds - window for moment in admitted) < permits
    for start in admitted:
        assert sum(start <= moment < start + window for moment in admitted) <= permits


def test_the_log_forgets_the_oldest_but_keeps_counting() -> None:
    log = RequestLog()
    for _ in range(LONGEST_LOG + 3):
        log.add(CALL, query="", served_workspace="4", status=200, faults=())
    assert (log.entries()[0].number, len(log.entries()), log.total()) == (4, LONGEST_LOG, LONGEST_LOG + 3)
    assert [row["count"] for row in log.counts()] == [LONGEST_LOG + 3]
