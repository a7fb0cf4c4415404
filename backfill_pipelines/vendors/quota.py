"""The limiter that stands before every request: many coroutines ask, one leases permits for all of them.

Belongs here: waiting for permits inside one process, and listening to what the vendor says about the budget. Does not
belong here: the arithmetic (`budget.py`), where budgets are shared (`quota_store.py`, `postgres_quota_store.py`),
limits on how many requests run at once.

How a permit gets from the store to a coroutine: `acquire` queues a waiter. A *pump* task lives as long as there are
waiters; it leases a block of permits for them (never more than there are waiters, so that an idle process holds no
permit that another could use) and hands them out in order, each at its own slot. The next block is leased while the
last slot of the one in hand approaches, so that a distant database costs no gaps.

A permit whose slot passed unused (the event loop was blocked, the machine slept) is thrown away: sent late, it would
bunch with those of the other processes, whose slots are now. The next lease begins at the present again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from backfill_pipelines.errors import BackfillError, ParkedError, TransientError
from backfill_pipelines.vendors.budget import (
    DEFAULT_SLACK,
    BudgetChange,
    BudgetRow,
    RateLimitState,
    Terms,
    apply_change,
    lateness_tolerance,
    learn,
    learn_count,
    slots_before,
    spacing,
    spent,
    usable_permits,
    vendor_leaves,
)
from backfill_pipelines.vendors.clock import Clock, RemoteClock
from backfill_pipelines.vendors.quota_store import QuotaKey, QuotaStore, Snapshot

logger = logging.getLogger(__name__)

COUNTED_KINDS = frozenset({"day", "daily"})
"""The kinds of budgets that are counted in a fixed window; every other kind is paced."""
BLOCK = 10
"""Permits leased at once: a tenth of the round trips, and no process is more than ten slots ahead of the others."""
UNKNOWN_PAUSE_SECONDS = 10.0
"""The pause after a refusal that names none, unless the window is shorter."""
MAXIMUM_LEAD_SECONDS = 0.25
"""How far ahead of now slots are asked for, at most, because replies take their time: the lead of one process holds up
all, and a reply that once took half a minute must not."""
TIMER_RESOLUTION_SECONDS = 0.0005
"""Shorter waits are not waited: an event loop's timer has a resolution of a millisecond."""
DROPS_IN_A_ROW = 3
"""After dropping what was late so many times, the next is used however late: an event loop that always lags must still
make progress."""


class Quota:
    """One budget of one vendor account, as one process uses it. Bound to one event loop.

    `kind` "day" or "daily" counts `permits` per fixed window; any other kind spaces them evenly over `window_seconds`.
    `reserve`, `slack` and `ceiling`: see `Terms`. Close it (`async with`, `aclose`) to return what it leased and did
    not use.
    """

    def __init__(
        self,
        *,
        vendor: str,
        account: str,
        kind: str,
        permits: int,
        window_seconds: float,
        store: QuotaStore,
        clock: Clock,
        reserve: float = 0.0,
        slack: float = DEFAULT_SLACK,
        ceiling: int | None = None,
    ) -> None:
        if permits < 1 or window_seconds <= 0:
            raise ValueError(f"a budget needs at least one permit and a window, not {permits} per {window_seconds} s")
        self.key = QuotaKey(vendor=vendor, account=account, kind=kind)
        self._terms = Terms(reserve=reserve, slack=slack, ceiling=ceiling)
        self._configured = BudgetRow(permits=permits, window_seconds=window_seconds)
        self._store = store
        self._clock = clock
        self._row = self._configured
        self._opened = False
        self._closed = False
        self._waiters: deque[asyncio.Future[int]] = deque()
        self._permits: deque[float] = deque()  # slots on the local monotonic clock, in order
        self._generation = 0  # raised by a refusal or a new count: permits leased before it are void
        self._pump_task: asyncio.Task[None] | None = None
        self._lease_task: asyncio.Task[None] | None = None
        self._failure: Exception | None = None
        self._counting = asyncio.Lock()  # a lease asked for after a new count may not reach the store before it
        self._store_clock = RemoteClock(clock)
        self._lease_seconds = 0.0
        self._drops_in_a_row = 0
        self._raise_not_before = float("-inf")

    @property
    def counted(self) -> bool:
        """Whether permits are counted in a fixed window instead of paced."""
        return self.key.kind in COUNTED_KINDS

    @property
    def row(self) -> BudgetRow:
        """The budget as this process last saw it."""
        return self._row

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def acquire(self) -> int:
        """Return when one request may be sent, first come first served; the permit, for `holds`.

        Raises `ParkedError("daily_budget_spent")` with the time of renewal when a counted budget has ended, and
        `TransientError("quota_unavailable")` when the store cannot be reached. A cancelled wait leaves its permit to
        the next waiter.
        """
        if self._closed:
            raise RuntimeError("the quota is closed")
        if self.counted and self._permits and not self._waiters:
            self._permits.popleft()
            return self._generation
        waiter: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._keep_pumping()
        try:
            return await waiter
        except asyncio.CancelledError:
            self._abandon(waiter)
            raise

    def holds(self, permit: int) -> bool:
        """Whether a permit still stands: what the vendor says may make it void until the request is sent."""
        return permit == self._generation

    def give_back(self) -> None:
        """Return a permit just acquired and not used: to the next waiter, else to this process for a later one."""
        if not self._hand_out():
            self._permits.appendleft(self._clock.monotonic())

    async def observe(self, state: RateLimitState) -> None:
        """Learn from a response's headers. Writes to the store only when something changed materially."""
        now = self._store_clock.now()
        if self.counted:
            change = learn_count(self._row, now, state, self._terms)
            self._keep_at_most(vendor_leaves(self._row, now, state, self._terms))
        else:
            change = learn(self._row, now, self._without_a_hasty_raise(state), self._terms)
        if change is None:
            return
        # Believed before it is written: the other responses in flight say the same and must not write it again.
        self._row = apply_change(self._row, now, change)
        if self.counted:
            # The vendor's count has nothing of the block in hand, nor of one on its way: spent on top of it, they would
            # be the customer's, or be refused. What is left is leased anew, out of the new count.
            left = usable_permits(self._row, now, self._terms) - self._row.used
            if left < max(BLOCK, len(self._permits)):
                self._void_permits()
        await self._write(change)

    async def refused(self, retry_after_seconds: float | None) -> None:
        """The vendor answered 429: every process stops for that long, then the budget is halved for one window.

        A paced budget given no time waits for a window, or 10 s. A counted one is spent until then. Other processes
        stop at the end of the block they hold, ten permits at most.
        """
        unknown = self._row.window_seconds if self.counted else min(self._row.window_seconds, UNKNOWN_PAUSE_SECONDS)
        pause = unknown if retry_after_seconds is None else retry_after_seconds
        logger.info("%s refused a request (%s): everybody pauses for %.1f s", self.key.vendor, self.key.kind, pause)
        self._void_permits()
        if self.counted:
            await self._write(spent(self._row, pause))
        else:
            await self._open()
            self._believe(await self._store.refuse(self.key, pause))
        self._void_permits()  # again: a lease may have come in while the refusal was being written

    async def aclose(self) -> None:
        """Stop, cancel what still waits, and give unused counted permits back. Idempotent."""
        self._closed = True
        self._stop_pumping()
        self._tell_waiters(RuntimeError("the quota was closed"))
        if self._lease_task is not None:
            await asyncio.wait({self._lease_task})
        if self.counted and self._permits and self._row.window_started_at is not None:
            unused = len(self._permits)
            self._permits.clear()
            await self._store.give_back(self.key, unused, window_started_at=self._row.window_started_at)

    # The pump

    def _keep_pumping(self) -> None:
        if self._pump_task is None:
            self._pump_task = asyncio.create_task(self._pump())
        elif self._permits:
            self._lease_ahead()

    def _stop_pumping(self) -> None:
        # Forgotten before it has ended: a waiter that comes in between gets a pump of its own.
        if self._pump_task is not None:
            self._pump_task.cancel()
            self._pump_task = None

    async def _pump(self) -> None:
        try:
            while self._waiters:
                if not self._permits:
                    await self._lease()
                    continue
                self._lease_ahead()
                wait = 0.0 if self.counted else self._permits[0] - self._clock.monotonic()
                if wait > TIMER_RESOLUTION_SECONDS:
                    await self._clock.sleep(wait)
                    continue
                self._release()
        finally:
            if self._pump_task is asyncio.current_task():
                self._pump_task = None

    def _release(self) -> None:
        now = self._clock.monotonic()
        earliest = now - lateness_tolerance(self._row.window_seconds, self._terms)
        if not self.counted and self._permits[0] < earliest and self._drops_in_a_row < DROPS_IN_A_ROW:
            self._drops_in_a_row += 1
            while self._permits and self._permits[0] < earliest:
                self._permits.popleft()
            return
        self._drops_in_a_row = 0
        slot = self._permits.popleft()
        if not self._hand_out():
            self._permits.appendleft(slot)

    def _hand_out(self) -> bool:
        """Wake the next waiter; False if there is none. One whose task was cancelled this instant is still queued."""
        while self._waiters:
            if not (waiter := self._waiters.popleft()).done():
                waiter.set_result(self._generation)
                return True
        return False

    def _tell_waiters(self, error: Exception) -> None:
        while self._waiters:
            if not (waiter := self._waiters.popleft()).done():
                waiter.set_exception(_again(error))

    def _keep_at_most(self, count: int | None) -> None:
        """Keep of what is leased and not used as much as the vendor says is left; all of it where it says nothing."""
        if count == 0:
            self._void_permits()  # those too whose requests still wait for another budget
        while count is not None and len(self._permits) > count:
            self._permits.pop()

    def _void_permits(self) -> None:
        self._generation += 1
        self._permits.clear()

    def _abandon(self, waiter: asyncio.Future[int]) -> None:
        if waiter in self._waiters:
            self._waiters.remove(waiter)
            if not self._waiters:
                self._stop_pumping()
        elif not waiter.cancelled() and waiter.exception() is None and not self._closed:
            self.give_back()

    # Leases

    async def _lease(self) -> None:
        """Wait for permits; when there are none to be had, every waiter is told why."""
        self._begin_lease()
        if self._lease_task is not None:
            await asyncio.wait({self._lease_task})
        if self._failure is not None:
            self._tell_waiters(self._failure)

    def _lease_ahead(self) -> None:
        """Start the next lease early enough that it is there when the block in hand ends."""
        if self.counted or len(self._waiters) <= len(self._permits):
            return
        horizon = 2 * self._lease_seconds + spacing(self._row, self._store_clock.now(), self._terms)
        if self._permits[-1] - self._clock.monotonic() <= horizon:
            self._begin_lease()

    def _begin_lease(self) -> None:
        if self._lease_task is None:
            count = BLOCK if self.counted else min(BLOCK, len(self._waiters) - len(self._permits))
            self._lease_task = asyncio.create_task(self._run_lease(count))

    async def _run_lease(self, count: int) -> None:
        started, generation = self._clock.monotonic(), self._generation
        self._failure = None
        try:
            await self._open()
            await (self._take(count, generation) if self.counted else self._reserve(count, generation))
        except Exception as error:  # noqa: BLE001 - handed to the waiters, who would otherwise wait for ever
            self._failure = error
        finally:
            self._lease_task = None
            self._lease_seconds = self._clock.monotonic() - started

    async def _reserve(self, count: int, generation: int) -> None:
        lead = min(self._store_clock.reply_seconds, MAXIMUM_LEAD_SECONDS)
        reservation = await self._store.reserve(self.key, count, self._terms, lead=lead)
        if reservation is None:
            raise self._vanished()
        self._believe(reservation.snapshot)
        if generation == self._generation:
            slots = slots_before(reservation.snapshot.row.next_slot_at, count, reservation.gap)
            self._permits.extend(map(self._store_clock.to_local, slots))

    async def _take(self, count: int, generation: int) -> None:
        async with self._counting:
            taken = await self._store.take(self.key, count, self._terms)
            if taken is None:
                raise self._vanished()
            self._believe(taken.snapshot)
        if generation == self._generation:
            self._permits.extend([taken.snapshot.received_at] * taken.granted)
        if not taken.granted:
            raise self._parked(taken.snapshot.row)

    async def _open(self) -> None:
        if not self._opened:
            permits, window_seconds = self._configured.permits, self._configured.window_seconds
            self._believe(await self._store.open(self.key, permits=permits, window_seconds=window_seconds))
            self._opened = True

    def _parked(self, row: BudgetRow) -> ParkedError:
        renewed_at = datetime.fromtimestamp((row.window_started_at or 0.0) + row.window_seconds, tz=UTC)
        return ParkedError(
            "daily_budget_spent",
            f"The daily budget of {self.key.vendor} requests for {self.key.account} is spent; "
            f"the work goes on at {renewed_at:%Y-%m-%d %H:%M} UTC.",
            wake_at=renewed_at,
        )

    def _vanished(self) -> TransientError:
        self._opened = False
        return TransientError(
            "quota_unavailable",
            f"The request budget of {self.key.vendor} disappeared from backfill.quota while it was in use; run again.",
        )

    # What the store and the vendor say

    async def _write(self, change: BudgetChange) -> None:
        await self._open()
        async with self._counting:
            self._believe(await self._store.change(self.key, change))

    def _believe(self, snapshot: Snapshot | None) -> None:
        if snapshot is None:
            raise self._vanished()
        self._row = snapshot.row
        self._store_clock.measured(remote=snapshot.now, sent=snapshot.sent_at, received=snapshot.received_at)

    def _without_a_hasty_raise(self, state: RateLimitState) -> RateLimitState:
        """Endpoints of one account may state different limits: the smallest of a window counts, else each response
        would write the budget anew."""
        now = self._clock.monotonic()
        if state.limit is None:
            return state
        if state.limit <= self._row.permits:
            self._raise_not_before = now + self._row.window_seconds
            return state
        if now >= self._raise_not_before:
            return state
        return RateLimitState(window_seconds=state.window_seconds)


def _again(error: Exception) -> Exception:
    """One exception for each waiter: they are raised in different tasks, and each gets a traceback of its own."""
    if isinstance(error, ParkedError):
        return ParkedError(error.code, error.message, wake_at=error.wake_at)
    if isinstance(error, BackfillError):
        return type(error)(error.code, error.message)
    return error
