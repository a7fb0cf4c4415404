"""How long the door keeps at a request, on a clock that jumps: attempts take as long as a vendor lets them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from backfill_pipelines.errors import ParkedError
from backfill_pipelines.vendors.http_client import READ_SECONDS
from backfill_pipelines.vendors.quota import Quota
from backfill_pipelines.vendors.quota_store import InMemoryQuotaStore
from backfill_pipelines.vendors.transport import (
    AmbiguousWriteError,
    ApiClient,
    RateLimitedError,
    RetryBudget,
    RetryPolicy,
    VendorError,
    VendorUnavailableError,
    open_http_client,
)
from backfill_pipelines_tests.vendors.virtual_time import LoopClock, VirtualTimeLoop, run_virtually

Attempt = Callable[[httpx.Request], Awaitable[httpx.Response]]


async def silence(request: httpx.Request) -> httpx.Response:
    """The connection is made, and nothing ever comes."""
    await asyncio.sleep(request.extensions["timeout"]["read"])
    raise httpx.ReadTimeout("", request=request)


async def unreachable(request: httpx.Request) -> httpx.Response:
    """Not even the connection is made."""
    await asyncio.sleep(request.extensions["timeout"]["connect"])
    raise httpx.ConnectTimeout("", request=request)


async def refused(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("", request=request)


def answers(status: int, *, after: float = 0.2, headers: dict[str, str] | None = None) -> Attempt:
    async def attempt(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(after)
        return httpx.Response(status, headers=headers, json={"data": 1}, request=request)

    return attempt


class Vendor(httpx.AsyncBaseTransport):
    """Meets each attempt as a script says, and with its last line from then on; `began` is when each of them began."""

    def __init__(self, loop: VirtualTimeLoop, *script: Attempt) -> None:
        self._loop, self._script = loop, list(script)
        self.began: list[float] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.began.append(self._loop.time())
        return await (self._script.pop(0) if len(self._script) > 1 else self._script[0])(request)


class Asked:
    """One request to a vendor: how it ended and when, in seconds, and when its attempts began."""

    def __init__(self, *script: Attempt, idempotent: bool = True, jitter: float = 0.999, **budgets: Any) -> None:
        loop = VirtualTimeLoop()
        vendor = Vendor(loop, *script)
        clock = LoopClock(loop)
        quotas = [
            Quota(vendor="acme", account="one", store=InMemoryQuotaStore(clock), clock=clock, kind=kind, **budget)
            for kind, budget in budgets.items()
        ]

        async def main() -> None:
            async with open_http_client() as real, httpx.AsyncClient(transport=vendor, timeout=real.timeout) as http:
                api = ApiClient(
                    vendor="acme",
                    base_url="https://acme.test",
                    authorization=None,
                    http=http,
                    quotas=quotas,
                    retry=RetryPolicy(),
                    retry_budget=RetryBudget(),
                    clock=clock,
                    jitter=lambda: jitter,
                )
                try:
                    self.end: Any = await api.post("/things", json={}, idempotent=idempotent)
                except VendorError as error:
                    self.end = error
                self.seconds = loop.time()
                for quota in quotas:
                    await quota.aclose()

        run_virtually(main(), loop)
        self.began = vendor.began


# A vendor that stays away


@pytest.mark.parametrize("jitter", [0.0, 0.5, 0.999])
def test_silence_is_asked_a_second_time_and_costs_about_a_minute(jitter: float) -> None:
    asked = Asked(silence, jitter=jitter)
    assert isinstance(asked.end, VendorUnavailableError)
    assert len(asked.began) == 2
    assert 60.0 <= asked.seconds <= 61.0
    assert Asked(silence, answers(200)).end == {"data": 1}


@pytest.mark.parametrize(
    ("attempt", "longest"), [(refused, 15.0), (answers(500), 16.0), (unreachable, 65.0)], ids=["refused", "500", "away"]
)
def test_quicker_failures_use_all_their_attempts(attempt: Attempt, longest: float) -> None:
    asked = Asked(attempt)
    assert isinstance(asked.end, VendorUnavailableError)
    assert len(asked.began) == 5
    assert asked.seconds <= longest


def test_a_silent_write_that_may_have_been_executed_is_not_sent_again() -> None:
    asked = Asked(silence, idempotent=False)
    assert isinstance(asked.end, AmbiguousWriteError)
    assert (len(asked.began), asked.seconds) == (1, READ_SECONDS)


def test_no_attempt_that_is_under_way_is_cut_off() -> None:
    """A body of a hundred seconds comes to its end, also where most of the minute was gone when it began."""
    assert Asked(answers(200, after=100.0)).end == {"data": 1}
    asked = Asked(answers(500, after=55.0), answers(200, after=100.0))
    assert asked.end == {"data": 1}
    assert asked.seconds > 155.0


# What does not count


def test_waiting_for_permits_does_not_count() -> None:
    asked = Asked(answers(500), answers(500), answers(500), answers(200), requests={"permits": 1, "window_seconds": 50})
    assert asked.end == {"data": 1}
    assert asked.seconds > 150.0


def test_waits_that_a_failing_vendor_asks_for_do_not_count() -> None:
    asked = Asked(answers(503, headers={"Retry-After": "110"}), answers(200))
    assert asked.end == {"data": 1}
    assert asked.seconds > 110.0


@pytest.mark.parametrize("budgets", [{}, {"requests": {"permits": 100, "window_seconds": 10.0}}], ids=["none", "paced"])
def test_refusals_do_not_count(budgets: dict[str, Any]) -> None:
    too_many = answers(429, after=20.0, headers={"Retry-After": "50"})
    asked = Asked(too_many, too_many, too_many, answers(500), answers(200), **budgets)
    assert asked.end == {"data": 1}
    assert asked.seconds > 3 * 70.0
    asked = Asked(too_many, **budgets)
    assert isinstance(asked.end, RateLimitedError)
    assert len(asked.began) == 11


# The day's reserve


def test_requests_that_wait_for_their_pace_do_not_overrun_the_reserve_of_the_day() -> None:
    """Twenty at once, as a location's lookups are: when the first answer names what others used, the other nineteen
    have a permit of the day each. Two of them are on their way by then: 9 a second, answered after 0.2 s."""
    loop = VirtualTimeLoop()
    clock = LoopClock(loop)
    store = InMemoryQuotaStore(clock)
    remaining = 20_005

    async def count_down(request: httpx.Request) -> httpx.Response:
        nonlocal remaining
        remaining -= 1
        stated = {"X-RateLimit-Limit-Daily": "200000", "X-RateLimit-Daily-Remaining": str(remaining)}
        return await answers(200, headers=stated)(request)

    vendor = Vendor(loop, count_down)
    budgets = [("daily", 200_000, 86_400.0), ("burst", 100, 10.0)]
    quotas = [
        Quota(
            vendor="acme",
            account="one",
            kind=kind,
            permits=permits,
            window_seconds=window,
            store=store,
            clock=clock,
            reserve=0.1,
        )
        for kind, permits, window in budgets
    ]

    async def main() -> None:
        async with httpx.AsyncClient(transport=vendor) as http:
            api = ApiClient(
                vendor="acme",
                base_url="https://acme.test",
                authorization=None,
                http=http,
                quotas=quotas,
                retry=RetryPolicy(),
                retry_budget=RetryBudget(),
                clock=clock,
            )

            async def asker() -> None:
                while True:
                    await api.get("/things")

            ends = await asyncio.gather(*(asker() for _ in range(20)), return_exceptions=True)
            assert {type(end) for end in ends} == {ParkedError}
        for quota in quotas:
            await quota.aclose()

    run_virtually(main(), loop)
    assert 5 <= len(vendor.began) <= 5 + 2
