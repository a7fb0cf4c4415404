"""The arithmetic of a request budget: a row and a moment in, permits and a new row out.

Belongs here: pure functions only; every rule about how many requests may be sent when. Does not belong here: storage
(`quota_store.py`), waiting (`quota.py`), headers (`rate_limit_headers.py`). The two statements of
`postgres_quota_store.py` say the same as `reserve_slots` and `take`, and a test compares them on random rows.

Two kinds of budget share one row type:

- *paced*: at most `permits` in **any** `window_seconds`. The generic cell rate algorithm with a burst of one: permits
  carry slots that lie `spacing` apart, reserved ahead by moving `next_slot_at`. With `spacing = window / permits *
  (1 + slack)` any `permits + 1` consecutive slots span `window * (1 + slack)`, so no window, sliding or aligned to a
  clock, sees more than `permits` as long as requests are displaced against one another by less than
  `slack * window` (150 ms of a 10 s window, 15 ms of a 1 s window, at the default of 1.5 %). One half of that is
  given to the sender's lateness (`lateness_tolerance`), the other is left to the network's jitter.
- *counted*: `permits` per fixed window (a day), taken as they come.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

DEFAULT_SLACK = 0.015
"""Uses 98.5 % of a paced budget; see the module's docstring for what it buys."""
MINIMUM_PAUSE_SECONDS = 1.0
"""After a refusal: the refusals of requests that were in flight beside the first arrive within it and count as one."""
MAXIMUM_PAUSE_SECONDS = 600.0
"""No refusal stops an account for longer; a vendor that asks for more has closed for the day."""
SETTLED = 0.2
"""The last part of a reduction, in windows, in which the vendor's count shows what others use."""
ROUNDING = 1e-9
"""`100 * (1 - 0.07)` is 92.99999999999999 in floating point and means 93."""


@dataclass(frozen=True, slots=True)
class BudgetRow:
    """One row of `backfill.quota`. Moments are seconds since 1970 on the store's clock."""

    permits: int
    window_seconds: float
    next_slot_at: float = 0.0
    reduced_permits: int | None = None
    reduced_until: float | None = None
    window_started_at: float | None = None
    used: int = 0


@dataclass(frozen=True, slots=True)
class Terms:
    """How much of a budget this process may use.

    `reserve`: the share (0 ≤ reserve < 1) kept free for the customer's production traffic. `slack`: see the module.
    `ceiling`: a limit of the user's own, in permits per window, whatever the vendor grants.
    """

    reserve: float = 0.0
    slack: float = DEFAULT_SLACK
    ceiling: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.reserve < 1:
            raise ValueError(f"reserve must lie in [0, 1), not {self.reserve}")
        if not 0 < self.slack < 1:
            raise ValueError(f"slack must lie between 0 and 1, not {self.slack}: without any, jitter breaks the limit")
        if self.ceiling is not None and self.ceiling < 1:
            raise ValueError(f"ceiling must be at least 1, not {self.ceiling}")


@dataclass(frozen=True, slots=True)
class RateLimitState:
    """What a response's headers say about one window. None: not said. Times are seconds."""

    limit: int | None = None
    remaining: int | None = None
    window_seconds: float | None = None
    reset_after: float | None = None


@dataclass(frozen=True, slots=True)
class BudgetChange:
    """What to write after listening to a vendor. None: leave it.

    `reduced_permits` holds for `reduced_seconds` from now and only ever lowers a reduction in force.
    `used` only ever raises the count, unless `recount`: then it replaces it. `window_age`: the fixed window began that
    many seconds ago.
    """

    permits: int | None = None
    window_seconds: float | None = None
    reduced_permits: int | None = None
    reduced_seconds: float = 0.0
    used: int | None = None
    recount: bool = False
    window_age: float | None = None


NO_TERMS = Terms()


def usable_permits(row: BudgetRow, now: float, terms: Terms) -> int:
    """Permits per window that we may use at this moment, at least 1."""
    permits = row.permits if terms.ceiling is None else min(row.permits, terms.ceiling)
    if row.reduced_permits is not None and row.reduced_until is not None and row.reduced_until > now:
        permits = min(permits, row.reduced_permits)
    return _share(permits, terms)


def _share(permits: int, terms: Terms) -> int:
    return max(1, math.floor(permits * (1 - terms.reserve) + ROUNDING))


# Paced budgets


def spacing(row: BudgetRow, now: float, terms: Terms) -> float:
    """Seconds between two slots."""
    return row.window_seconds * (1 + terms.slack) / usable_permits(row, now, terms)


def lateness_tolerance(window_seconds: float, terms: Terms) -> float:
    """Seconds after its slot within which a permit may still be used."""
    return window_seconds * terms.slack / 2


def reserve_slots(row: BudgetRow, now: float, count: int, terms: Terms, *, lead: float = 0.0) -> BudgetRow:
    """Move `next_slot_at` past `count` slots, the first of them after those already given away.

    None is earlier than `lead` seconds from now: a slot that has passed when its permit arrives is of no use.
    """
    first = max(row.next_slot_at, now + lead)
    return replace(row, next_slot_at=first + count * spacing(row, now, terms))


def slots_before(next_slot_at: float, count: int, gap: float) -> list[float]:
    """The slots that a reservation ending at `next_slot_at` holds, in order."""
    return [next_slot_at - (count - index) * gap for index in range(count)]


def refuse(row: BudgetRow, now: float, pause: float) -> BudgetRow:
    """The vendor refused a request: nobody sends for `pause` seconds, then half the budget until its window is over.

    A refusal that arrives before the pause of an earlier one is over belongs to the same overrun and does not halve
    again: twenty requests in flight would otherwise leave a millionth of the budget.
    """
    pause = min(max(pause, MINIMUM_PAUSE_SECONDS), MAXIMUM_PAUSE_SECONDS)
    reduced_until = row.reduced_until if row.reduced_until is not None and row.reduced_permits is not None else now
    permits = min(row.permits, row.reduced_permits or row.permits) if reduced_until > now else row.permits
    same_overrun = reduced_until - row.window_seconds > now
    return replace(
        row,
        next_slot_at=max(row.next_slot_at, now + pause),
        reduced_permits=permits if same_overrun else max(1, permits // 2),
        reduced_until=max(reduced_until, now + pause + row.window_seconds),
    )


def learn(row: BudgetRow, now: float, state: RateLimitState, terms: Terms) -> BudgetChange | None:
    """What the headers of a response teach about a paced budget; None if nothing that matters.

    The vendor's limit becomes the budget. When less remains than our own use leaves, others use the budget too, and we
    give way until the window is over: with a known reset, down to what then remains for the time until it; without one,
    by what the reserve lacks.
    """
    limit = state.limit if state.limit is not None and state.limit > 0 else row.permits
    stated = state.window_seconds
    window = stated if stated is not None and stated > 0 else row.window_seconds
    known = replace(row, permits=limit, window_seconds=window)
    change = BudgetChange(
        permits=limit if limit != row.permits else None,
        window_seconds=window if abs(window - row.window_seconds) > ROUNDING else None,
    )
    if state.remaining is not None and state.reset_after is None and _is_settled(row, now):
        if (renewed := _still_left(known, now, state.remaining, terms)) is not None:
            change = replace(change, reduced_permits=renewed, reduced_seconds=window)
    elif state.remaining is not None:
        reduced, seconds = _give_way(known, now, state.remaining, state.reset_after, terms=terms)
        change = replace(change, reduced_permits=reduced, reduced_seconds=seconds)
    return change if change != BudgetChange() else None


def _is_settled(row: BudgetRow, now: float) -> bool:
    """Whether a reduction is about to end: the vendor's window then holds what we sent at this pace, little else."""
    return row.reduced_until is not None and 0 < row.reduced_until - now <= SETTLED * row.window_seconds


def _still_left(row: BudgetRow, now: float, remaining: int, terms: Terms) -> int | None:
    """The permits for another window where others still use more than the reserve; None where they have stopped.

    Without it a reduction ends while they go on, and every second window runs into the vendor's refusals. A reduction
    is not eased while they are there: how much they would use is not known before they are refused.
    """
    usable = usable_permits(row, now, terms)
    kept_free = row.permits - _share(row.permits, terms)
    others = row.permits - remaining - usable
    if others <= kept_free + _jitter(row) or usable == 1:
        return None
    return _before_reserve(min(usable, row.permits - others - kept_free), terms)


def _give_way(
    row: BudgetRow, now: float, remaining: int, reset_after: float | None, *, terms: Terms
) -> tuple[int | None, float]:
    """The reduced permits and for how many seconds; (None, 0) when what remains is enough for us."""
    usable = usable_permits(row, now, terms)
    unreduced = usable_permits(replace(row, reduced_permits=None), now, terms)
    kept_free = row.permits - _share(row.permits, terms)
    if reset_after is not None and 0 < reset_after <= row.window_seconds:
        windows_left = reset_after / row.window_seconds
        affordable = max(0, remaining - kept_free)
        lacking = usable * windows_left - affordable
        reduced, seconds = affordable / windows_left, reset_after
    else:
        reduced, seconds = float(unreduced - max(0, kept_free - remaining)), row.window_seconds
        lacking = usable - reduced
    # No sign of other users: one request of jitter or two per cent, and the second to which headers round a reset.
    margin = _jitter(row) + (usable / row.window_seconds if reset_after is not None else 0.0)
    if lacking <= margin or usable == 1:
        return None, 0.0
    return _before_reserve(reduced, terms), seconds


def _jitter(row: BudgetRow) -> float:
    return max(1.0, 0.02 * row.permits)


def _before_reserve(usable: float, terms: Terms) -> int:
    """What a row holds of which so many permits are left when the reserve is taken off."""
    return math.ceil(max(1, math.floor(usable)) / (1 - terms.reserve) - ROUNDING)


# Counted budgets


def begin_window(row: BudgetRow, now: float) -> BudgetRow:
    """The row with a fresh window if the last one is over."""
    if row.window_started_at is not None and now < row.window_started_at + row.window_seconds:
        return row
    return replace(row, window_started_at=now, used=0)


def take(row: BudgetRow, now: float, count: int, terms: Terms) -> tuple[BudgetRow, int]:
    """Take up to `count` permits from the fixed window; returns how many were left to take."""
    row = begin_window(row, now)
    granted = min(count, max(0, usable_permits(row, now, terms) - row.used))
    return replace(row, used=row.used + granted), granted


def give_back(row: BudgetRow, count: int, window_started_at: float) -> BudgetRow:
    """Return unused permits to the window they were taken from; a window that is over takes nothing back."""
    if row.window_started_at != window_started_at:
        return row
    return replace(row, used=max(0, row.used - count))


def learn_count(row: BudgetRow, now: float, state: RateLimitState, terms: Terms = NO_TERMS) -> BudgetChange | None:
    """What the headers of a response teach about a counted budget; None if nothing that matters.

    The vendor's count is the truth, since others may use the budget too. It is written when it is ahead of ours by more
    than a hundredth of the budget (less, near its end) or shows that only the reserve is left, and when it is behind by
    a tenth: then the vendor's window has begun anew before ours.
    """
    limit = state.limit if state.limit is not None and state.limit > 0 else row.permits
    change = BudgetChange(permits=limit if limit != row.permits else None)
    if state.reset_after is not None and 0 < state.reset_after <= row.window_seconds:
        age = row.window_seconds - state.reset_after
        if row.window_started_at is None or abs(now - age - row.window_started_at) > 0.001 * row.window_seconds:
            change = replace(change, window_age=age)
    if state.remaining is not None:
        used = max(0, limit - state.remaining)
        believed = begin_window(row, now).used
        ahead = used - believed
        usable = usable_permits(replace(row, permits=limit), now, terms)
        if ahead > min(max(20, limit // 100), state.remaining // 2) or used >= usable > believed:
            change = replace(change, used=used)
        elif -ahead > max(20, limit // 10):
            change = replace(change, used=used, recount=True, window_age=change.window_age or 0.0)
    return change if change != BudgetChange() else None


def vendor_leaves(row: BudgetRow, now: float, state: RateLimitState, terms: Terms) -> int | None:
    """How many more permits a counted budget bears by the vendor's own count, the reserve kept; None if not said.

    A difference too small to be written (`learn_count`) still counts here: it is what the last block would overrun.
    """
    if state.remaining is None:
        return None
    limit = state.limit if state.limit is not None and state.limit > 0 else row.permits
    usable = usable_permits(replace(row, permits=limit), now, terms)
    return max(0, usable - max(0, limit - state.remaining))


def spent(row: BudgetRow, pause: float) -> BudgetChange:
    """The vendor has closed the counted budget for `pause` seconds from now."""
    age = row.window_seconds - min(max(pause, MINIMUM_PAUSE_SECONDS), row.window_seconds)
    return BudgetChange(used=row.permits, recount=True, window_age=age)


def apply_change(row: BudgetRow, now: float, change: BudgetChange) -> BudgetRow:
    """The row after a change."""
    permits = change.permits if change.permits is not None else row.permits
    window_seconds = change.window_seconds if change.window_seconds is not None else row.window_seconds
    row = replace(row, permits=permits, window_seconds=window_seconds)
    if change.reduced_permits is not None:
        in_force = row.reduced_until is not None and row.reduced_until > now
        before = row.reduced_permits if in_force and row.reduced_permits is not None else change.reduced_permits
        row = replace(
            row,
            reduced_permits=min(change.reduced_permits, before),
            reduced_until=max(row.reduced_until or 0.0, now + change.reduced_seconds),
        )
    if change.used is not None or change.window_age is not None:
        row = begin_window(row, now)
    if change.used is not None:
        row = replace(row, used=change.used if change.recount else max(row.used, change.used))
    if change.window_age is not None:
        row = replace(row, window_started_at=now - change.window_age)
    return row
