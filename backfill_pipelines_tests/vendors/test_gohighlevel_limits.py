"""How fast a location is asked: against windows that slide and windows that are fixed, beside other programs.

Most of it on a virtual clock, with the fake's own windows in place of the network.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill_pipelines.errors import ConfigurationError, ParkedError
from backfill_pipelines.sandbox.gohighlevel_limits import GoHighLevelLimits, LocationLimits
from backfill_pipelines.vendors.gohighlevel import GoHighLevel, GoHighLevelQuotas, quotas
from backfill_pipelines.vendors.gohighlevel_limits import requests_per_second
from backfill_pipelines.vendors.quota_store import InMemoryQuotaStore
from backfill_pipelines.vendors.rate_limit_headers import rate_limits
from backfill_pipelines_tests.sandbox.gohighlevel_rig import LOCATION, location, running_gohighlevel
from backfill_pipelines_tests.vendors.virtual_time import EPOCH, LoopClock, VirtualTimeLoop, run_virtually

WindowKind = Literal["sliding", "fixed"]


class Simulation:
    """Processes of ours and another program, in front of one location's windows."""

    def __init__(self, limits: GoHighLevelLimits, *, starts_at: float = 0.0) -> None:
        self.loop = VirtualTimeLoop()
        self.clock = LoopClock(self.loop, error=starts_at)
        self.store = InMemoryQuotaStore(self.clock)
        self.vendor = LocationLimits(limits, clock=self.clock.time)
        self.sent: list[float] = []
        self.refused: list[float] = []
        self.others_refused = 0

    async def process(self, seconds: float, *, workers: int = 20, **terms: float | None) -> None:
        """Workers that ask again at once, each request taking 80 ms, listening to the headers as the transport does."""
        budgets = quotas(LOCATION, store=self.store, clock=self.clock, **terms)  # type: ignore[arg-type] # of the right names

        async def worker() -> None:
            while True:
                await budgets.daily.acquire()
                await budgets.burst.acquire()
                admitted = self.vendor.admit()
                (self.sent if admitted else self.refused).append(self.loop.time())
                headers = {name.lower(): value for name, value in self.vendor.headers().items()}
                await self.clock.sleep(0.08)
                await self._listen(budgets, headers, admitted=admitted)

        async with budgets.burst, budgets.daily:
            tasks = [asyncio.create_task(worker()) for _ in range(workers)]
            await self.clock.sleep(seconds)
            for task in tasks:
                task.cancel()
            self.ends = await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self, budgets: GoHighLevelQuotas, headers: dict[str, str], *, admitted: bool) -> None:
        state = rate_limits(headers, self.clock.time())
        assert state.window is not None
        assert state.day is not None
        await budgets.burst.observe(state.window)
        await budgets.daily.observe(state.day)
        if not admitted:
            await budgets.burst.refused(None)

    async def another_program(self, seconds: float, *, requests_in_ten_seconds: int, begins: float = 0.0) -> None:
        await self.clock.sleep(begins)
        while self.loop.time() < seconds:
            self.others_refused += not self.vendor.admit()
            await self.clock.sleep(10 / requests_in_ten_seconds)

    def run(self, *parts: Callable[[], object]) -> None:
        async def main() -> None:
            await asyncio.gather(*(part() for part in parts))  # type: ignore[call-overload] # coroutines

        run_virtually(main(), self.loop)

    def between(self, begin: float, end: float) -> int:
        return sum(begin <= moment < end for moment in self.sent)


@pytest.mark.parametrize("kind", ["sliding", "fixed"])
@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("starts_at", [0.0, 7.3])
def test_98_per_cent_of_what_the_reserve_leaves_are_used_and_never_more_than_90(
    kind: WindowKind, processes: int, starts_at: float
) -> None:
    simulation = Simulation(GoHighLevelLimits(window=kind), starts_at=starts_at)
    simulation.run(*[lambda: simulation.process(61.0)] * processes)
    assert simulation.refused == []
    assert simulation.vendor.most_in_a_window <= 90
    assert simulation.between(1.0, 61.0) >= 0.98 * 540


@pytest.mark.parametrize(("rps", "most"), [(5.0, 50), (0.1, 1), (0.55, 5), (9.5, 90), (1000.0, 90), (8.99, 89)])
def test_the_users_own_limit_lowers_the_rate_and_never_raises_it(rps: float, most: int) -> None:
    simulation = Simulation(GoHighLevelLimits())
    simulation.run(lambda: simulation.process(60.0, per_location_rps=rps))
    assert simulation.vendor.most_in_a_window <= most
    assert simulation.between(0.0, 60.0) >= 0.97 * 6 * most - 1


@pytest.mark.parametrize("rps", [0.0, -1.0, 0.05, float("nan")])
def test_a_limit_that_cannot_be_kept_is_refused(rps: float) -> None:
    clock = LoopClock(VirtualTimeLoop())
    with pytest.raises(ConfigurationError) as caught:
        quotas(LOCATION, store=InMemoryQuotaStore(clock), clock=clock, per_location_rps=rps)
    assert caught.value.code == "invalid_per_location_rps"


@given(reserve=st.floats(0.0, 0.9))
def test_the_reserve_is_a_setting(reserve: float) -> None:
    simulation = Simulation(GoHighLevelLimits())
    simulation.run(lambda: simulation.process(12.0, reserve=reserve))
    assert simulation.vendor.most_in_a_window <= max(1, round(100 * (1 - reserve) + 1e-6))


@pytest.mark.parametrize("kind", ["sliding", "fixed"])
def test_another_program_within_the_reserve_is_not_in_our_way_nor_we_in_its(kind: WindowKind) -> None:
    simulation = Simulation(GoHighLevelLimits(window=kind))
    simulation.run(
        lambda: simulation.process(61.0),
        lambda: simulation.another_program(60.0, requests_in_ten_seconds=9),
    )
    assert simulation.refused == []
    assert simulation.others_refused == 0
    assert simulation.between(1.0, 61.0) >= 0.93 * 540


@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("others", [15, 30])
def test_to_another_program_that_needs_more_than_the_reserve_we_give_way(processes: int, others: int) -> None:
    """Without renewed reductions we would be refused every 25 s, and the customer's program would be now and then."""
    simulation = Simulation(GoHighLevelLimits())
    simulation.run(
        *[lambda: simulation.process(301.0)] * processes,
        lambda: simulation.another_program(300.0, requests_in_ten_seconds=others),
    )
    assert len(simulation.refused) <= 2 * processes
    assert simulation.others_refused <= 4
    assert [moment for moment in simulation.refused if moment > 60.0] == []
    assert simulation.between(30.0, 300.0) >= 27 * 35


def test_a_day_that_others_have_used_up_to_the_reserve_parks_until_it_is_renewed() -> None:
    async def ask_often(ghl: GoHighLevel) -> tuple[int, ParkedError]:
        asked = 0
        while True:
            try:
                await ghl.total()
            except ParkedError as parked:
                return asked, parked
            asked += 1

    with running_gohighlevel(location(20), limits=GoHighLevelLimits(burst=10**6)) as rig:
        rig.state.limits.use_elsewhere(179_985, day_only=True)
        asked, parked = rig.ask(ask_often)
        assert (asked, parked.code) == (15, "daily_budget_spent")
        assert parked.wake_at == datetime.fromtimestamp(EPOCH + 86_400, UTC)
        assert rig.state.limits.used_today == 180_000


def test_a_few_requests_of_others_near_the_end_of_our_day_are_noticed() -> None:
    """A difference of 1,000 to the vendor's count is no matter, unless it is the reserve's."""
    simulation = Simulation(GoHighLevelLimits(burst=10**6))
    simulation.vendor.use_elsewhere(1_000, day_only=True)

    async def process() -> None:
        budgets = quotas(LOCATION, store=simulation.store, clock=simulation.clock)
        async with budgets.burst, budgets.daily:
            await budgets.daily.acquire()
            await budgets.daily.observe(rate_limits({"x-ratelimit-daily-remaining": "20900"}, 0.0).day)  # type: ignore[arg-type] # there
            await budgets.daily.acquire()
            await budgets.daily.observe(rate_limits({"x-ratelimit-daily-remaining": "19999"}, 0.0).day)  # type: ignore[arg-type] # there
            with pytest.raises(ParkedError):
                await budgets.daily.acquire()

    simulation.run(process)


def test_a_spent_day_of_the_vendors_parks_with_its_first_429() -> None:
    async def ask(ghl: GoHighLevel) -> None:
        with pytest.raises(ParkedError):
            await ghl.total()

    with running_gohighlevel(location(20)) as rig:
        rig.state.limits.use_elsewhere(10**9, day_only=True)
        rig.ask(ask)
        assert [each.status for each in rig.server.requests] == [429]


def test_both_budgets_are_the_locations_and_shared() -> None:
    clock = LoopClock(VirtualTimeLoop())
    budgets = quotas(LOCATION, store=InMemoryQuotaStore(clock), clock=clock)
    assert [(each.key.vendor, each.key.account, each.key.kind, each.counted) for each in budgets] == [
        ("gohighlevel", LOCATION, "burst", False),
        ("gohighlevel", LOCATION, "daily", True),
    ]
    assert [(each.row.permits, each.row.window_seconds) for each in budgets] == [(100, 10.0), (200_000, 86_400.0)]


@pytest.mark.parametrize(
    ("rps", "reserve", "most"), [(None, 0.1, 9.0), (None, 0.5, 5.0), (3.0, 0.1, 3.0), (50.0, 0.1, 9.0), (8.0, 0.5, 5.0)]
)
def test_a_location_takes_what_the_reserve_leaves_and_no_more_than_the_user_says(
    rps: float | None, reserve: float, most: float
) -> None:
    assert requests_per_second(rps, reserve=reserve) == pytest.approx(most)
