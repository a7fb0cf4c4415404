"""The arithmetic of request budgets, over every row and moment Hypothesis can think of."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill_pipelines.vendors.budget import (
    MINIMUM_PAUSE_SECONDS,
    BudgetChange,
    BudgetRow,
    RateLimitState,
    Terms,
    apply_change,
    begin_window,
    give_back,
    learn,
    learn_count,
    refuse,
    reserve_slots,
    slots_before,
    spacing,
    spent,
    take,
    usable_permits,
    vendor_leaves,
)

NOW = 1_700_000_000.0
TEN_SECONDS = BudgetRow(permits=100, window_seconds=10.0)
DAY = BudgetRow(permits=1000, window_seconds=86_400.0)
OURS = Terms()
WITH_RESERVE = Terms(reserve=0.1)

rows = st.builds(BudgetRow, permits=st.integers(1, 3000), window_seconds=st.sampled_from([1.0, 10.0, 60.0]))
terms = st.builds(Terms, reserve=st.sampled_from([0.0, 0.07, 0.1, 0.5]), slack=st.sampled_from([0.005, 0.015, 0.05]))


def most_in_any_window(moments: list[float], window: float) -> int:
    """The largest number of moments that a closed window of this length can cover."""
    moments = sorted(moments)
    most, first = 0, 0
    for last, moment in enumerate(moments):
        while moment - moments[first] > window:
            first += 1
        most = max(most, last - first + 1)
    return most


@given(row=rows, terms=terms, pauses=st.lists(st.tuples(st.floats(0, 30), st.integers(1, 10)), max_size=60))
def test_reserved_slots_never_exceed_the_budget_in_any_window(
    row: BudgetRow, terms: Terms, pauses: list[tuple[float, int]]
) -> None:
    now, slots = NOW, list[float]()
    for pause, count in pauses:
        now += pause
        row = reserve_slots(row, now, count, terms)
        slots += slots_before(row.next_slot_at, count, spacing(row, now, terms))
    assert most_in_any_window(slots, row.window_seconds) <= max(1, row.permits * (1 - terms.reserve))


@given(row=rows, terms=terms, count=st.integers(1, 10))
def test_slots_begin_now_or_after_those_already_given_away(row: BudgetRow, terms: Terms, count: int) -> None:
    gap = spacing(row, NOW, terms)
    idle = slots_before(reserve_slots(row, NOW, count, terms).next_slot_at, count, gap)
    assert idle[0] == pytest.approx(NOW)
    busy = reserve_slots(replace(row, next_slot_at=NOW + 5), NOW, count, terms)
    assert slots_before(busy.next_slot_at, count, gap)[0] == pytest.approx(NOW + 5)


@given(row=rows, slack=st.sampled_from([0.005, 0.015, 0.05]))
def test_only_the_slack_of_a_budget_stays_unused(row: BudgetRow, slack: float) -> None:
    per_window = row.window_seconds / spacing(row, NOW, Terms(slack=slack))
    assert per_window >= row.permits * (1 - slack)


def test_the_reserve_and_the_ceiling_lower_the_budget() -> None:
    assert usable_permits(TEN_SECONDS, NOW, WITH_RESERVE) == 90
    assert usable_permits(TEN_SECONDS, NOW, Terms(reserve=0.07)) == 93
    assert usable_permits(TEN_SECONDS, NOW, Terms(ceiling=20, reserve=0.1)) == 18
    assert usable_permits(replace(TEN_SECONDS, permits=1), NOW, WITH_RESERVE) == 1


@pytest.mark.parametrize("bad", [{"reserve": 1.0}, {"reserve": -0.1}, {"slack": 0.0}, {"ceiling": 0}])
def test_impossible_terms_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        Terms(**bad)  # type: ignore[arg-type]


# A vendor's refusal


def test_a_refusal_stops_everybody_and_halves_the_budget_until_the_window_is_over() -> None:
    row = refuse(TEN_SECONDS, NOW, 4.0)
    assert row.next_slot_at == NOW + 4
    assert usable_permits(row, NOW + 13.9, OURS) == 50
    assert usable_permits(row, NOW + 14.1, OURS) == 100


@given(delays=st.lists(st.floats(0, 0.99), max_size=40))
def test_the_refusals_of_requests_in_flight_together_count_as_one(delays: list[float]) -> None:
    row = refuse(TEN_SECONDS, NOW, 0.0)
    for delay in sorted(delays):
        row = refuse(row, NOW + delay, 0.0)
    assert row.reduced_permits == 50
    assert row.next_slot_at <= NOW + 0.99 + MINIMUM_PAUSE_SECONDS


def test_a_refusal_after_the_pause_halves_again_down_to_one() -> None:
    row, now = TEN_SECONDS, NOW
    budgets = []
    for _ in range(9):
        row = refuse(row, now, 2.0)
        budgets.append(row.reduced_permits)
        now += 2.5
    assert budgets == [50, 25, 12, 6, 3, 1, 1, 1, 1]


def test_a_refusal_never_brings_a_reserved_slot_forward() -> None:
    row = replace(TEN_SECONDS, next_slot_at=NOW + 100)
    assert refuse(row, NOW, 4.0).next_slot_at == NOW + 100


def test_an_absurd_pause_is_clamped() -> None:
    assert refuse(TEN_SECONDS, NOW, 1e9).next_slot_at == NOW + 600


# A vendor's headers


def test_headers_that_say_what_we_believe_change_nothing() -> None:
    assert learn(TEN_SECONDS, NOW, RateLimitState(), OURS) is None
    assert learn(TEN_SECONDS, NOW, RateLimitState(limit=100, remaining=0, window_seconds=10.0), OURS) is None
    assert learn_count(DAY, NOW, RateLimitState(limit=1000, remaining=1000)) is None


@pytest.mark.parametrize("limit", [40, 3000])
def test_a_smaller_or_larger_limit_of_the_vendor_becomes_the_budget(limit: int) -> None:
    change = learn(TEN_SECONDS, NOW, RateLimitState(limit=limit), OURS)
    assert change == BudgetChange(permits=limit)
    assert apply_change(TEN_SECONDS, NOW, change).permits == limit


def test_a_limit_of_nothing_is_no_limit() -> None:
    assert learn(TEN_SECONDS, NOW, RateLimitState(limit=0, window_seconds=0.0), OURS) is None
    assert learn_count(DAY, NOW, RateLimitState(limit=0)) is None


def test_the_vendors_window_becomes_the_budgets_window() -> None:
    assert learn(TEN_SECONDS, NOW, RateLimitState(window_seconds=1.0), OURS) == BudgetChange(window_seconds=1.0)


def test_when_others_eat_the_reserve_we_give_way_by_what_it_lacks() -> None:
    change = learn(TEN_SECONDS, NOW, RateLimitState(limit=100, remaining=4), WITH_RESERVE)
    assert change is not None
    row = apply_change(TEN_SECONDS, NOW, change)
    assert usable_permits(row, NOW + 9, WITH_RESERVE) == 84
    assert usable_permits(row, NOW + 10.1, WITH_RESERVE) == 90
    # Every following response says nearly the same: no further step, no further write.
    assert learn(row, NOW + 1, RateLimitState(limit=100, remaining=4), WITH_RESERVE) is None
    assert learn(row, NOW + 1, RateLimitState(limit=100, remaining=3), WITH_RESERVE) is None


def test_our_own_use_and_the_jitter_of_one_request_are_no_sign_of_others() -> None:
    for remaining in range(8, 101):
        assert learn(TEN_SECONDS, NOW, RateLimitState(limit=100, remaining=remaining), WITH_RESERVE) is None


def test_a_reduction_is_renewed_at_its_end_while_others_are_there_and_not_eased() -> None:
    row = apply_change(TEN_SECONDS, NOW, BudgetChange(reduced_permits=60, reduced_seconds=10.0))
    assert usable_permits(row, NOW, WITH_RESERVE) == 54
    others_use_30 = RateLimitState(limit=100, remaining=100 - 54 - 30)
    assert learn(row, NOW + 7.9, others_use_30, WITH_RESERVE) is None
    change = learn(row, NOW + 8.1, others_use_30, WITH_RESERVE)
    assert change == BudgetChange(reduced_permits=60, reduced_seconds=10.0)
    renewed = apply_change(row, NOW + 8.1, change)
    assert learn(renewed, NOW + 9.0, others_use_30, WITH_RESERVE) is None
    others_use_50 = RateLimitState(limit=100, remaining=0)
    change = learn(row, NOW + 8.1, others_use_50, WITH_RESERVE)
    assert change is not None
    assert usable_permits(apply_change(row, NOW + 8.1, change), NOW + 9, WITH_RESERVE) == 44


def test_a_reduction_ends_once_the_others_have_stopped() -> None:
    row = apply_change(TEN_SECONDS, NOW, BudgetChange(reduced_permits=60, reduced_seconds=10.0))
    for others in (0, 5, 10):
        state = RateLimitState(limit=100, remaining=100 - 54 - others)
        assert learn(row, NOW + 9.0, state, WITH_RESERVE) is None


def test_who_is_at_one_permit_already_does_not_write_it_again_with_each_response() -> None:
    terms = Terms(reserve=0.1, ceiling=1)
    assert learn(TEN_SECONDS, NOW, RateLimitState(limit=100, remaining=0), terms) is None


def test_with_a_known_reset_we_keep_to_what_remains_until_then() -> None:
    change = learn(TEN_SECONDS, NOW, RateLimitState(limit=100, remaining=20, reset_after=5.0), OURS)
    assert change == BudgetChange(reduced_permits=40, reduced_seconds=5.0)
    assert learn(TEN_SECONDS, NOW, RateLimitState(limit=100, remaining=49, reset_after=5.0), OURS) is None


@given(row=rows, terms=terms, elapsed=st.floats(0, 1), rounding=st.floats(0, 1))
def test_a_process_alone_at_full_speed_is_not_slowed_by_its_own_traces(
    row: BudgetRow, terms: Terms, elapsed: float, rounding: float
) -> None:
    """The headers a vendor with a fixed window would send; resets are whole seconds, rounded up."""
    sent = int(elapsed * row.window_seconds / spacing(row, NOW, terms)) + 1
    reset_after = min(row.window_seconds, (1 - elapsed) * row.window_seconds + rounding)
    state = RateLimitState(limit=row.permits, remaining=max(0, row.permits - sent), reset_after=reset_after)
    assert learn(row, NOW, state, terms) is None


@given(row=rows, terms=terms, remaining=st.integers(0, 3000), reset=st.none() | st.floats(0.01, 60))
def test_listening_only_ever_slows_us_down_and_never_to_a_stop(
    row: BudgetRow, terms: Terms, remaining: int, reset: float | None
) -> None:
    change = learn(row, NOW, RateLimitState(remaining=remaining, reset_after=reset), terms)
    if change is not None:
        assert 1 <= usable_permits(apply_change(row, NOW, change), NOW, terms) <= usable_permits(row, NOW, terms)


# Counted budgets


@given(counts=st.lists(st.integers(1, 10), max_size=80), terms=terms, permits=st.integers(1, 200))
def test_a_fixed_window_never_grants_more_than_its_budget(counts: list[int], terms: Terms, permits: int) -> None:
    row, granted = replace(DAY, permits=permits), 0
    for count in counts:
        row, got = take(row, NOW, count, terms)
        granted += got
    assert granted == min(sum(counts), usable_permits(row, NOW, terms))


def test_a_new_window_begins_when_the_old_one_is_over() -> None:
    row, granted = take(replace(DAY, permits=5), NOW, 10, OURS)
    assert granted == 5
    assert take(row, NOW + 86_399, 1, OURS)[1] == 0
    row, granted = take(row, NOW + 86_400, 3, OURS)
    assert (granted, row.used, row.window_started_at) == (3, 3, NOW + 86_400)


def test_permits_go_back_to_the_window_they_came_from_only() -> None:
    row, _ = take(DAY, NOW, 10, OURS)
    assert give_back(row, 4, NOW).used == 6
    assert give_back(row, 40, NOW).used == 0
    assert give_back(row, 4, NOW - 86_400) == row


def test_the_vendors_count_stands_over_ours_when_others_use_the_day_too() -> None:
    row, _ = take(DAY, NOW, 10, OURS)
    change = learn_count(row, NOW, RateLimitState(limit=1000, remaining=600))
    assert change is not None
    assert apply_change(row, NOW, change).used == 400


def test_a_small_difference_to_the_vendors_count_is_not_worth_a_write_until_the_end_is_near() -> None:
    row, _ = take(DAY, NOW, 10, OURS)
    assert learn_count(row, NOW, RateLimitState(limit=1000, remaining=970)) is None
    nearly = replace(begin_window(DAY, NOW), used=990)
    assert learn_count(nearly, NOW, RateLimitState(limit=1000, remaining=4)) == BudgetChange(used=996)
    assert learn_count(nearly, NOW, RateLimitState(limit=1000, remaining=0)) == BudgetChange(used=1000)


def test_a_small_difference_matters_once_only_the_reserve_is_left() -> None:
    row = replace(begin_window(DAY, NOW), used=895)
    above, below = RateLimitState(limit=1000, remaining=101), RateLimitState(limit=1000, remaining=100)
    assert learn_count(row, NOW, above, WITH_RESERVE) is None
    change = learn_count(row, NOW, below, WITH_RESERVE)
    assert change == BudgetChange(used=900)
    row = apply_change(row, NOW, change)
    assert take(row, NOW, 1, WITH_RESERVE)[1] == 0
    assert learn_count(row, NOW, below, WITH_RESERVE) is None


def test_what_the_vendor_leaves_is_what_is_over_the_reserve() -> None:
    def left(**stated: int) -> int | None:
        return vendor_leaves(DAY, NOW, RateLimitState(**stated), WITH_RESERVE)

    assert [left(limit=1000, remaining=remaining) for remaining in (1000, 105, 100, 3)] == [900, 5, 0, 0]
    assert left(remaining=105) == 5
    assert left(limit=2000, remaining=205) == 5
    assert left(limit=1000) is None


def test_a_day_that_began_anew_at_the_vendor_begins_anew_here() -> None:
    row = replace(begin_window(DAY, NOW), used=900)
    change = learn_count(row, NOW + 3600, RateLimitState(limit=1000, remaining=999))
    assert change is not None
    row = apply_change(row, NOW + 3600, change)
    assert (row.used, row.window_started_at) == (1, NOW + 3600)


def test_a_known_reset_moves_the_window() -> None:
    row = replace(begin_window(DAY, NOW), used=10)
    change = learn_count(row, NOW, RateLimitState(limit=1000, remaining=990, reset_after=3600.0))
    assert change is not None
    row = apply_change(row, NOW, change)
    assert row.window_started_at is not None
    assert row.window_started_at + row.window_seconds == NOW + 3600
    assert row.used == 10
    assert learn_count(row, NOW + 60, RateLimitState(limit=1000, remaining=990, reset_after=3541.0)) is None


def test_a_closed_day_is_spent_until_the_vendor_opens_again() -> None:
    row = apply_change(begin_window(DAY, NOW), NOW, spent(DAY, 7200.0))
    assert take(row, NOW + 7199, 1, OURS)[1] == 0
    assert take(row, NOW + 7201, 1, OURS)[1] == 1


def test_a_reduction_in_force_is_lowered_but_not_raised() -> None:
    row = apply_change(TEN_SECONDS, NOW, BudgetChange(reduced_permits=30, reduced_seconds=10.0))
    assert apply_change(row, NOW + 1, BudgetChange(reduced_permits=60, reduced_seconds=10.0)).reduced_permits == 30
    assert apply_change(row, NOW + 11, BudgetChange(reduced_permits=60, reduced_seconds=10.0)).reduced_permits == 60
