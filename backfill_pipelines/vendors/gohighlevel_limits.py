"""How fast GoHighLevel may be asked: two budgets for each location.

Belongs here: the vendor's limits and the share that is left to the customer. Does not belong here: how a budget is
shared and paced (`quota.py`, `budget.py`).

Source: marketplace.gohighlevel.com/docs/other/rate-limits, as of 2026-11: 100 requests in 10 s and 200,000 a day, for
each app and location. That a private integration counts as an app of its own is not documented: the customer's other
programs may use the same budget, so a part of it is left alone, and the vendor's own counts are listened to.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from backfill_pipelines.errors import ConfigurationError
from backfill_pipelines.vendors.clock import Clock
from backfill_pipelines.vendors.quota import Quota
from backfill_pipelines.vendors.quota_store import QuotaStore

VENDOR = "gohighlevel"
BURST_REQUESTS, BURST_SECONDS = 100, 10.0
DAILY_REQUESTS, DAY_SECONDS = 200_000, 86_400.0
RESERVE = 0.10
"""The share of both budgets that is left to the customer: never more than 90 requests in any 10 s."""
FEWEST_RPS = 1 / BURST_SECONDS
"""A budget has at least one permit in its window."""


class GoHighLevelQuotas(NamedTuple):
    """The two budgets of a location; close both. `daily.row.used` is what was used of the location's day so far."""

    burst: Quota
    daily: Quota


def quotas(
    location_id: str,
    *,
    store: QuotaStore,
    clock: Clock,
    reserve: float = RESERVE,
    per_location_rps: float | None = None,
) -> GoHighLevelQuotas:
    """The budgets of a location, which all processes and tokens share.

    `per_location_rps`: requests a second that the user allows at most; it lowers what the reserve leaves and never
    raises it. Raises `ConfigurationError("invalid_per_location_rps")` below one request in 10 s.
    """

    def budget(kind: str, permits: int, window_seconds: float, ceiling: int | None) -> Quota:
        return Quota(
            vendor=VENDOR,
            account=location_id,
            kind=kind,
            permits=permits,
            window_seconds=window_seconds,
            store=store,
            clock=clock,
            reserve=reserve,
            ceiling=ceiling,
        )

    return GoHighLevelQuotas(
        burst=budget("burst", BURST_REQUESTS, BURST_SECONDS, _ceiling(per_location_rps, reserve)),
        daily=budget("daily", DAILY_REQUESTS, DAY_SECONDS, None),
    )


def requests_per_second(per_location_rps: float | None = None, *, reserve: float = RESERVE) -> float:
    """How many requests a location takes from us in a second."""
    most = BURST_REQUESTS * (1 - reserve) / BURST_SECONDS
    return most if per_location_rps is None else min(most, per_location_rps)


def _ceiling(per_location_rps: float | None, reserve: float) -> int | None:
    """The permits of a window of which, after the reserve is taken off, the user's own limit is left."""
    if per_location_rps is None:
        return None
    if not per_location_rps >= FEWEST_RPS:
        raise ConfigurationError(
            "invalid_per_location_rps",
            f"A limit of less than {FEWEST_RPS:g} requests a second for each GoHighLevel location is too low to be "
            "kept: set per-location-rps to more, or leave it out.",
        )
    wanted = math.floor(min(per_location_rps, BURST_REQUESTS / BURST_SECONDS) * BURST_SECONDS)
    return math.ceil(wanted / (1 - reserve))


__all__ = ["DAILY_REQUESTS", "RESERVE", "VENDOR", "GoHighLevelQuotas", "quotas", "requests_per_second"]
