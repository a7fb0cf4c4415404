"""The limiter in front of a shared budget: many coroutines in several "processes", on a clock that jumps.

A "process" here is one `Quota` with a monotonic clock of its own; all of them share one store, which answers after a
delay as a database does.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backfill_pipelines.errors import ParkedError, TransientError
from backfill_pipelines.vendors.budget import RateLimitState, Terms, usable_permits
from backfill_pipelines.vendors.quota import BLOCK, Quota
from backfill_pipelines.vendors.quota_store import InMemoryQuotaStore, QuotaKey, Reservation, Snapshot, Taken
from backfill_pipelines_tests.vendors.test_budget import most_in_any_window
from backfill_pipelines_tests.vendors.virtual_time import EPOCH, LoopClock, VirtualTimeLoop, run_virtually


class DistantStore(InMemoryQuotaStore):
    """The store in memory behind a network: an answer takes up to `delay` seconds, of which `jitter` is chance."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, delay: float = 0.0, jitter: float = 0.1, seed: int = 0
    ) -> None:
        super().__init__(LoopClock(loop))
        self._delay, self._jitter, self._random = delay, jitter, random.Random(seed)
        self.leases: list[int] = []
        self.writes = 0
        self.down = False

    async def _network(self) -> None:
        await asyncio.sleep(self._delay * self._random.uniform(1 - self._jitter, 1) / 2)
        if self.down:
            raise TransientError("quota_unavailable", "The store is down.")

    async def reserve(self, key: QuotaKey, count: int, terms: Terms, *, lead: float) -> Reservation | None:
        self.leases.append(count)
        await self._network()
        reservation = await super().reserve(key, count, terms, lead=lead)
        await self._network()
        return reservation

    async def open(self, key: QuotaKey, *, permits: int, window_seconds: float) -> Snapshot:
        await self._network()
        snapshot = await super().open(key, permits=permits, window_seconds=window_seconds)
        await self._network()
        return snapshot

    async def take(self, key: QuotaKey, count: int, terms: Terms) -> Taken | None:
        self.leases.append(count)
        await self._network()
        return await super().take(key, count, terms)

    async def change(self, key: QuotaKey, change: Any) -> Any:
        self.writes += 1
        await self._network()
        return await super().change(key, change)


class Process:
    """One `Quota` with its own idea of the time, and a record of when its permits came."""

    def __init__(self, loop: VirtualTimeLoop, store: InMemoryQuotaStore, *, start: float = 0.0, **budget: Any) -> None:
        arguments = {"kind": "requests", "permits": 100, "window_seconds": 10.0, **budget}
        self.loop = loop
        self.clock = LoopClock(loop, monotonic_start=start, error=start)
        # The store's answer is stamped with the asking machine's clock, as the Postgres store does it.
        self.quota = Quota(
            vendor="acme", account="one", store=_Stamped(store, self.clock), clock=self.clock, **arguments
        )
        self.sent: list[float] = []

    async def worker(self, until: float = float("inf"), requests: float = float("inf")) -> None:
        while self.loop.time() < until and requests > 0:
            await self.quota.acquire()
            self.sent.append(self.loop.time())
            requests -= 1


class _Stamped:
    """A shared store as one machine sees it."""

    def __init__(self, store: InMemoryQuotaStore, clock: LoopClock) -> None:
        self._store, self._clock_of_machine = store, clock

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        operation = getattr(self._store, name)

        async def stamped(*arguments: Any, **named: Any) -> Any:
            sent_at = self._clock_of_machine.monotonic()
            answer = await operation(*arguments, **named)
            stamps = {"sent_at": sent_at, "received_at": self._clock_of_machine.monotonic()}
            if hasattr(answer, "snapshot"):
                return replace(answer, snapshot=replace(answer.snapshot, **stamps))
            return answer if answer is None else replace(answer, **stamps)

        return stamped


async def work(processes: list[Process], *, workers: int, seconds: float) -> None:
    until = processes[0].loop.time() + seconds
    tasks = [asyncio.ensure_future(process.worker(until)) for process in processes for _ in range(workers)]
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for process in processes:
        await process.quota.aclose()


@settings(max_examples=25, deadline=None)
@given(
    budget=st.sampled_from([(100, 10.0), (25, 1.0), (100, 1.0), (1000, 10.0), (3, 1.0), (300, 60.0)]),
    processes=st.integers(1, 4),
    workers=st.integers(1, 40),
    delay=st.sampled_from([0.0, 0.002, 0.08]),
    reserve=st.sampled_from([0.0, 0.1]),
    seed=st.integers(0, 100),
)
def test_workers_in_several_processes_exceed_no_window_and_use_98_per_cent(
    *, budget: tuple[int, float], processes: int, workers: int, delay: float, reserve: float, seed: int
) -> None:
    permits, window = budget
    loop = VirtualTimeLoop()
    store = DistantStore(loop, delay=delay, seed=seed)
    starts = [1000.0 * index for index in range(processes)]
    all_processes = [
        Process(loop, store, start=start, permits=permits, window_seconds=window, reserve=reserve) for start in starts
    ]
    seconds = 4 * window
    run_virtually(work(all_processes, workers=workers, seconds=seconds), loop)
    sent = [moment for process in all_processes for moment in process.sent]
    usable = int(permits * (1 - reserve) + 1e-9) or 1
    assert most_in_any_window(sent, window) <= usable  # sliding, and so aligned too
    if workers >= 20:  # enough of them wait to keep a lease under way while the last one is used
        assert len(sent) >= 0.98 * usable * (seconds - 2 * delay) / window


def test_a_blocked_event_loop_sends_no_burst_afterwards() -> None:
    loop = VirtualTimeLoop()
    store = DistantStore(loop, delay=0.01)
    one, other = Process(loop, store), Process(loop, store)

    async def main() -> None:
        tasks = [asyncio.ensure_future(work([one, other], workers=20, seconds=40.0))]
        for pause in (3.0, 0.05, 0.5, 5.0):
            await asyncio.sleep(4.7)
            loop.block(pause)
        await asyncio.gather(*tasks)

    run_virtually(main(), loop)
    sent = sorted(one.sent + other.sent)
    assert most_in_any_window(sent, 10.0) <= 100
    for process in (one, other):
        assert most_in_any_window(process.sent, 0.05) == 1


class OversleepingClock(LoopClock):
    """Every sleep lasts three times longer than a permit of 25/s may be late."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds + 0.0225)


def test_an_event_loop_that_always_lags_still_makes_progress() -> None:
    loop = VirtualTimeLoop()
    process = Process(loop, DistantStore(loop), permits=25, window_seconds=1.0)
    process.quota._clock = OversleepingClock(loop)

    async def main() -> None:
        async with asyncio.timeout(20.0):
            await asyncio.gather(*(process.worker(requests=5) for _ in range(10)))
        await process.quota.aclose()

    run_virtually(main(), loop)
    assert most_in_any_window(process.sent, 1.0) <= 25


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000))
def test_answers_that_take_different_times_do_not_bunch_the_requests(seed: int) -> None:
    """Between 20 and 40 ms each way, where a window of one second bears 15 ms in all."""
    loop = VirtualTimeLoop()
    store = DistantStore(loop, delay=0.08, jitter=0.5, seed=seed)
    processes = [Process(loop, store, start=start, permits=25, window_seconds=1.0) for start in (0.0, 1000.0, 2000.0)]
    run_virtually(work(processes, workers=3, seconds=6.0), loop)
    assert most_in_any_window([moment for process in processes for moment in process.sent], 1.0) <= 25


def test_a_process_leases_no_more_than_it_has_waiters() -> None:
    loop = VirtualTimeLoop()
    store = DistantStore(loop)
    process = Process(loop, store)

    async def main() -> None:
        await process.worker(requests=3)
        await asyncio.gather(*(process.worker(requests=1) for _ in range(25)))
        await process.quota.aclose()

    run_virtually(main(), loop)
    assert store.leases == [1, 1, 1, 10, 10, 5]


def test_a_lone_caller_far_from_the_store_loses_no_permit_on_the_way() -> None:
    """A slot of "now" would have passed when its permit arrives 40 ms later."""
    loop = VirtualTimeLoop()
    store = DistantStore(loop, delay=0.08)
    process = Process(loop, store, permits=25, window_seconds=1.0)

    async def main() -> None:
        await process.worker(requests=30)
        await process.quota.aclose()

    run_virtually(main(), loop)
    assert len(store.leases) <= 31


def test_one_reply_that_hung_does_not_hold_up_the_requests_after_it() -> None:
    loop = VirtualTimeLoop()
    store = DistantStore(loop)
    process = Process(loop, store, permits=25, window_seconds=1.0)

    async def main() -> None:
        await process.worker(requests=1)
        store._delay = 60.0
        await process.worker(requests=1)
        store._delay = 0.0
        await asyncio.sleep(1.0)
        before = loop.time()
        await process.worker(requests=1)
        assert process.sent[-1] - before <= 0.3
        await process.quota.aclose()

    run_virtually(main(), loop)


def test_waiters_are_served_in_the_order_in_which_they_came() -> None:
    loop = VirtualTimeLoop()
    process = Process(loop, DistantStore(loop, delay=0.05))
    served: list[int] = []

    async def one(number: int) -> None:
        await process.quota.acquire()
        served.append(number)

    async def main() -> None:
        await asyncio.gather(*(one(number) for number in range(35)))
        await process.quota.aclose()

    run_virtually(main(), loop)
    assert served == list(range(35))


@settings(max_examples=25, deadline=None)
@given(cancelled=st.sets(st.integers(0, 29)), at=st.floats(0, 3.5))
def test_the_permits_of_cancelled_waiters_go_to_the_next(cancelled: set[int], at: float) -> None:
    loop = VirtualTimeLoop()
    process = Process(loop, DistantStore(loop, delay=0.05))

    async def main() -> None:
        tasks = [asyncio.ensure_future(process.worker(requests=1)) for _ in range(30)]
        await asyncio.sleep(at)
        for number in cancelled:
            tasks[number].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        served = sum(result is None for result in results)
        assert served >= 30 - len(cancelled)
        assert len(process.sent) == served
        await process.quota.aclose()

    run_virtually(main(), loop)
    # The slots of the cancelled were not lost: nobody waited longer than for his own place in the queue.
    assert process.sent[-1] <= 30 * 0.1015 + 0.1
    assert most_in_any_window(process.sent, 10.0) <= 100


def test_a_waiter_cancelled_just_before_its_permit_does_not_keep_it() -> None:
    loop = VirtualTimeLoop()
    process = Process(loop, DistantStore(loop), permits=1, window_seconds=10.0)

    async def main() -> None:
        await process.quota.acquire()
        first = asyncio.ensure_future(process.quota.acquire())
        second = asyncio.ensure_future(process.worker(requests=1))

        class CancellingClock(LoopClock):
            async def sleep(self, seconds: float) -> None:
                await asyncio.sleep(seconds)
                first.cancel()  # its task has no chance to run before the permit is handed out

        process.quota._clock = CancellingClock(loop)
        with pytest.raises(asyncio.CancelledError):
            await first
        async with asyncio.timeout(60.0):
            await second
        assert process.sent == [pytest.approx(10.15)]
        await process.quota.aclose()

    run_virtually(main(), loop)


def test_a_waiter_cancelled_in_the_instant_of_its_permit_hands_it_on() -> None:
    loop = VirtualTimeLoop()
    process = Process(loop, DistantStore(loop), permits=1, window_seconds=10.0)

    async def main() -> None:
        await process.quota.acquire()
        first = asyncio.ensure_future(process.quota.acquire())
        second = asyncio.ensure_future(process.worker(requests=1))
        release = process.quota._hand_out

        def hand_out_and_cancel() -> bool:
            done = release()
            first.cancel()
            return done

        process.quota._hand_out = hand_out_and_cancel  # type: ignore[method-assign]
        with pytest.raises(asyncio.CancelledError):
            await first
        await second
        assert process.sent == [pytest.approx(10.15)]
        await process.quota.aclose()

    run_virtually(main(), loop)


# What the vendor says


def test_a_429_pushes_every_process_back_and_shrinks_the_budget_until_its_window_is_over() -> None:
    loop = VirtualTimeLoop()
    store = DistantStore(loop)
    one, other = Process(loop, store), Process(loop, store)

    async def main() -> None:
        working = asyncio.ensure_future(work([one, other], workers=10, seconds=60.0))
        await asyncio.sleep(20.0)
        await asyncio.gather(*(one.quota.refused(5.0) for _ in range(10)))
        await working

    run_virtually(main(), loop)
    sent = sorted(one.sent + other.sent)

    def between(begin: float, end: float) -> int:
        return sum(begin <= moment < end for moment in sent)

    assert between(0, 20) >= 196
    assert not [moment for moment in one.sent if 20.0 < moment < 25.0]
    assert between(20.0, 25.0) <= 20  # the other process ends the block it holds, and the one it had ordered
    assert between(23.0, 25.0) == 0
    assert 45 <= between(25.0, 35.0) <= 50
    assert between(40.0, 60.0) >= 196  # from 35.0 on, but for the slots given away before


def test_slots_that_were_under_way_when_the_vendor_refused_are_void() -> None:
    loop = VirtualTimeLoop()
    process = Process(loop, DistantStore(loop, delay=0.1))

    async def main() -> None:
        waiting = asyncio.ensure_future(process.worker(requests=1))
        await asyncio.sleep(0.06)  # the slots are reserved, and on their way back
        await process.quota.refused(5.0)
        await waiting
        assert process.sent[0] >= 5.06
        await process.quota.aclose()

    run_virtually(main(), loop)


def test_a_refusal_without_a_time_waits_for_a_window_or_ten_seconds() -> None:
    for window, pause in ((1.0, 1.0), (10.0, 10.0), (60.0, 10.0)):
        loop = VirtualTimeLoop()
        process = Process(loop, DistantStore(loop), window_seconds=window)

        async def main(process: Process = process) -> None:
            await process.worker(requests=1)
            await process.quota.refused(None)
            await process.worker(requests=1)
            await process.quota.aclose()

        run_virtually(main(), loop)
        assert process.sent == [0.0, pytest.approx(pause)]


def test_a_larger_limit_of_the_vendor_is_used_by_every_process_with_one_write() -> None:
    loop = VirtualTimeLoop()
    store = DistantStore(loop, delay=0.01)
    one, other = Process(loop, store), Process(loop, store)

    async def main() -> None:
        working = asyncio.ensure_future(work([one, other], workers=10, seconds=30.0))
        await asyncio.sleep(10.0)
        await asyncio.gather(*(one.quota.observe(RateLimitState(limit=200, remaining=150)) for _ in range(50)))
        await working

    run_virtually(main(), loop)
    assert store.writes == 1
    sent = [moment for moment in one.sent + other.sent if 15 <= moment < 25]
    assert 196 <= len(sent) <= 200


def test_endpoints_with_different_limits_do_not_write_the_budget_again_and_again() -> None:
    loop = VirtualTimeLoop()
    store = DistantStore(loop)
    process = Process(loop, store)

    async def main() -> None:
        await process.worker(requests=1)
        for _ in range(50):
            await process.quota.observe(RateLimitState(limit=50))
            await process.quota.observe(RateLimitState(limit=100))
        assert store.writes == 1
        assert process.quota.row.permits == 50
        await asyncio.sleep(10.1)
        await process.quota.observe(RateLimitState(limit=100))
        assert process.quota.row.permits == 100
        await process.quota.aclose()

    run_virtually(main(), loop)


def test_others_who_use_the_budget_are_given_way_to_until_the_window_is_over() -> None:
    loop = VirtualTimeLoop()
    process = Process(loop, DistantStore(loop), reserve=0.1)

    async def main() -> None:
        await process.worker(requests=1)
        await process.quota.observe(RateLimitState(limit=100, remaining=0))
        row = process.quota.row
        assert usable_permits(row, EPOCH + loop.time(), Terms(reserve=0.1)) == 80
        assert usable_permits(row, EPOCH + loop.time() + 10.1, Terms(reserve=0.1)) == 90
        await process.quota.aclose()

    run_virtually(main(), loop)


def test_the_users_own_ceiling_stands_over_what_the_vendor_grants() -> None:
    loop = VirtualTimeLoop()
    process = Process(loop, DistantStore(loop), ceiling=20)

    async def main() -> None:
        await process.worker(requests=1)
        await process.quota.observe(RateLimitState(limit=1000))
        await work([process], workers=5, seconds=20.0)

    run_virtually(main(), loop)
    assert most_in_any_window(process.sent, 10.0) <= 20


# Daily budgets


def test_a_spent_day_parks_with_the_time_of_its_renewal() -> None:
    loop = VirtualTimeLoop()
    store = DistantStore(loop)
    one, other = (Process(loop, store, kind="day", permits=30, window_seconds=86_400.0, reserve=0.1) for _ in range(2))

    async def main() -> None:
        await asyncio.sleep(100.0)
        results = await asyncio.gather(
            *(process.worker(requests=10) for process in (one, other) for _ in range(2)), return_exceptions=True
        )
        parked = [result for result in results if result is not None]
        assert len(one.sent) + len(other.sent) == 27
        for error in parked:
            assert isinstance(error, ParkedError)
            assert error.code == "daily_budget_spent"
            assert error.wake_at.timestamp() == pytest.approx(EPOCH + 100 + 86_400)
            assert error.wake_at.utcoffset() == timedelta(0)
        assert len({id(error) for error in parked}) == len(parked)
        await asyncio.sleep(86_400.0)
        await one.worker(requests=27)
        await one.quota.aclose()
        await other.quota.aclose()

    run_virtually(main(), loop)


def test_a_day_is_leased_in_blocks_and_what_is_left_goes_back_on_close() -> None:
    loop = VirtualTimeLoop()
    store = DistantStore(loop)
    process = Process(loop, store, kind="day", permits=1000, window_seconds=86_400.0)

    async def main() -> None:
        async with process.quota:
            await process.worker(requests=13)
            process.quota.give_back()
        assert store.leases == [10, 10]
        assert store._rows[process.quota.key].used == 12

    run_virtually(main(), loop)


def test_a_vendor_that_closes_the_day_parks_until_it_says() -> None:
    loop = VirtualTimeLoop()
    process = Process(loop, DistantStore(loop), kind="day", permits=1000, window_seconds=86_400.0)

    async def main() -> None:
        await process.worker(requests=1)
        await process.quota.refused(7200.0)
        with pytest.raises(ParkedError) as caught:
            await process.quota.acquire()
        assert caught.value.wake_at.timestamp() == pytest.approx(EPOCH + 7200)
        await asyncio.sleep(7201.0)
        await process.quota.acquire()
        await process.quota.aclose()

    run_virtually(main(), loop)


@pytest.mark.parametrize(("kind", "requests"), [("day", 10), ("daily", 3)])
def test_a_day_spent_by_others_parks_and_the_rest_of_a_block_is_void(kind: str, requests: int) -> None:
    loop = VirtualTimeLoop()
    process = Process(loop, DistantStore(loop), kind=kind, permits=1000, window_seconds=86_400.0, reserve=0.1)

    async def main() -> None:
        await process.worker(requests=requests)
        await process.quota.observe(RateLimitState(limit=1000, remaining=99))
        with pytest.raises(ParkedError):
            await process.quota.acquire()
        await process.quota.aclose()

    run_virtually(main(), loop)


class Day:
    """A vendor that counts 200,000 requests a day, nearly all of them used by others already; 20,000 are our reserve.

    `stated`: what every answer names as remaining; None for the true number.
    """

    def __init__(self, remaining: int, *, stated: int | None = None) -> None:
        self.remaining, self.calls, self._stated = remaining, 0, stated

    def answer(self) -> RateLimitState:
        self.calls += 1
        self.remaining -= 1
        return RateLimitState(limit=200_000, remaining=self.remaining if self._stated is None else self._stated)


def day_of(loop: VirtualTimeLoop, store: InMemoryQuotaStore) -> Process:
    return Process(loop, store, kind="daily", permits=200_000, window_seconds=86_400.0, reserve=0.1)


async def use_up(day: Day, processes: list[Process], *, workers: int = 1) -> None:
    """Ask one request after the other, in each of the workers, until all of them are parked."""

    async def worker(process: Process) -> None:
        while True:
            await process.quota.acquire()
            await asyncio.sleep(0.1)
            state = day.answer()
            await asyncio.sleep(0.1)
            await process.quota.observe(state)

    ends = await asyncio.gather(*(worker(one) for one in processes for _ in range(workers)), return_exceptions=True)
    assert {type(end) for end in ends} == {ParkedError}
    for process in processes:
        await process.quota.aclose()


@pytest.mark.parametrize("stated", [None, 20_004], ids=["true", "late"])
def test_of_a_day_nearly_used_up_by_others_exactly_what_is_over_the_reserve_is_used(stated: int | None) -> None:
    """Also where the vendor's count lags behind: the block that was leased before its first answer is void."""
    loop = VirtualTimeLoop()
    day = Day(20_005, stated=stated)
    run_virtually(use_up(day, [day_of(loop, DistantStore(loop, delay=0.01))]), loop)
    assert day.calls == 5


@settings(max_examples=40, deadline=None)
@given(
    over=st.integers(0, 120),
    processes=st.integers(1, 3),
    workers=st.integers(1, 20),
    delay=st.sampled_from([0.0, 0.01, 0.15]),
    seed=st.integers(0, 100),
)
def test_the_reserve_of_a_day_is_overrun_by_no_more_than_what_was_in_flight(
    *, over: int, processes: int, workers: int, delay: float, seed: int
) -> None:
    loop = VirtualTimeLoop()
    store = DistantStore(loop, delay=delay, seed=seed)
    day = Day(20_000 + over)
    run_virtually(use_up(day, [day_of(loop, store) for _ in range(processes)], workers=workers), loop)
    assert day.calls <= over + processes * workers
    assert day.calls >= over - BLOCK * (processes - 1)


def test_of_the_last_block_is_kept_what_the_vendor_says_is_left() -> None:
    """The vendor's count is ahead of ours by three, which is too little to be written."""
    loop = VirtualTimeLoop()
    store = DistantStore(loop)
    process = Process(loop, store, kind="day", permits=1000, window_seconds=86_400.0, reserve=0.1)

    async def main() -> None:
        await process.worker(requests=891)
        await process.quota.observe(RateLimitState(limit=1000, remaining=106))
        assert store.writes == 0
        with pytest.raises(ParkedError):
            await process.worker()
        await process.quota.aclose()

    run_virtually(main(), loop)
    assert len(process.sent) == 891 + 6


@pytest.mark.parametrize("before", [0, 888], ids=["ahead_of_our_count", "level_with_it"])
def test_a_permit_of_the_day_does_not_stand_once_the_vendor_says_that_the_day_is_used_up(before: int) -> None:
    loop = VirtualTimeLoop()
    process = Process(loop, DistantStore(loop), kind="day", permits=1000, window_seconds=86_400.0, reserve=0.1)

    async def main() -> None:
        await process.worker(requests=before)
        permits = await asyncio.gather(*(process.quota.acquire() for _ in range(12)))
        await process.quota.observe(RateLimitState(limit=1000, remaining=112))
        assert all(map(process.quota.holds, permits))
        await process.quota.observe(RateLimitState(limit=1000, remaining=100))
        assert not any(map(process.quota.holds, permits))
        await process.quota.aclose()

    run_virtually(main(), loop)


# When things break


def test_a_store_that_is_down_fails_every_waiter_and_the_next_try_works() -> None:
    loop = VirtualTimeLoop()
    store = DistantStore(loop)
    process = Process(loop, store)

    async def main() -> None:
        store.down = True
        errors = await asyncio.gather(*(process.quota.acquire() for _ in range(12)), return_exceptions=True)
        assert all(isinstance(error, TransientError) and error.code == "quota_unavailable" for error in errors)
        store.down = False
        await process.worker(requests=1)
        await process.quota.aclose()

    run_virtually(main(), loop)


def test_a_budget_whose_row_disappeared_is_made_anew_by_the_next_try() -> None:
    loop = VirtualTimeLoop()
    store = DistantStore(loop)
    process = Process(loop, store)

    async def main() -> None:
        await process.worker(requests=1)
        store._rows.clear()
        with pytest.raises(TransientError):
            await process.quota.acquire()
        await process.worker(requests=1)
        await process.quota.aclose()

    run_virtually(main(), loop)


def test_closing_tells_those_who_wait_and_leaves_no_task() -> None:
    loop = VirtualTimeLoop()
    process = Process(loop, DistantStore(loop), permits=1, window_seconds=1000.0)

    async def main() -> None:
        await process.quota.acquire()
        waiting = [asyncio.ensure_future(process.quota.acquire()) for _ in range(3)]
        await asyncio.sleep(1.0)
        await process.quota.aclose()
        assert [str(error) for error in await asyncio.gather(*waiting, return_exceptions=True)] == [
            "the quota was closed"
        ] * 3
        with pytest.raises(RuntimeError):
            await process.quota.acquire()
        await process.quota.aclose()

    run_virtually(main(), loop)


def test_when_the_last_waiter_leaves_nothing_goes_on() -> None:
    loop = VirtualTimeLoop()
    process = Process(loop, DistantStore(loop), permits=1, window_seconds=1000.0)

    async def main() -> None:
        await process.quota.acquire()
        waiting = asyncio.ensure_future(process.quota.acquire())
        await asyncio.sleep(1.0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await asyncio.sleep(0.01)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await process.worker(requests=1)  # and a new one is served at the slot the other left
        assert process.sent == [pytest.approx(1015.0)]
        await process.quota.aclose()

    run_virtually(main(), loop)


def test_a_budget_without_permits_is_refused() -> None:
    loop = VirtualTimeLoop()
    with pytest.raises(ValueError, match="at least one permit"):
        Process(loop, DistantStore(loop), permits=0)
    loop.close()
