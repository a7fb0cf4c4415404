"""A client's GoHighLevel location, opened for `lead_hydration`: its token, its budgets, and what is counted of them.

Belongs here: making the vendor's client for one partition. Does not belong here: what it is asked
(`lead_hydration_source.py`), the limits themselves (`vendors/gohighlevel_limits.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import httpx
from psycopg import sql

from backfill_pipelines.backfills.shared_connections import shared_http
from backfill_pipelines.database.bulk import driver_connection
from backfill_pipelines.engine.backfill import Scope
from backfill_pipelines.errors import ConfigurationError
from backfill_pipelines.registry import LeadHydrationSettings
from backfill_pipelines.vendors.clock import SystemClock
from backfill_pipelines.vendors.gohighlevel import BASE_URL, GoHighLevel, connect, quotas
from backfill_pipelines.vendors.gohighlevel_limits import VENDOR, requests_per_second
from backfill_pipelines.vendors.postgres_quota_store import PostgresQuotaStore
from backfill_pipelines.vendors.quota import Quota
from backfill_pipelines.vendors.retry import RetryBudget

TOO_LATE_SECONDS = 0.05
"""So much after its slot a request would come too close to the next ones."""


class CountedRetryBudget(RetryBudget):
    """Counts requests too: every one that is made for the first time, and every retry. Those refused for being one too
    many are not counted: the vendor does not either."""

    def __init__(self) -> None:
        super().__init__()
        self.requests = 0

    def earn(self) -> None:
        """See `RetryBudget`."""
        self.requests += 1
        super().earn()

    def spend(self) -> bool:
        """See `RetryBudget`."""
        granted = super().spend()
        self.requests += granted
        return granted


class HeldRequests:
    """Connections whose requests can be held back while they have their permits.

    The next page gets its permit while the last one is landed, and is sent when that is done: a page a slot, and yet
    never two of them that a kill would have to repeat.
    """

    def __init__(self, http: httpx.AsyncClient, burst: Quota) -> None:
        self._http, self._burst = http, burst
        self._free = asyncio.Event()
        self._free.set()

    def hold(self) -> None:
        """Send nothing until `release`."""
        self._free.clear()

    def release(self) -> None:
        """Send what waits."""
        self._free.set()

    def build_request(self, *arguments: Any, **named: Any) -> httpx.Request:
        """See `httpx.AsyncClient`."""
        return self._http.build_request(*arguments, **named)

    async def send(self, request: httpx.Request) -> httpx.Response:
        """See `httpx.AsyncClient`."""
        if not self._free.is_set():
            since = time.monotonic()
            await self._free.wait()
            if time.monotonic() - since > TOO_LATE_SECONDS:
                await self._burst.acquire()  # its slot has passed
        return await self._http.send(request)


@dataclass(frozen=True, kw_only=True)
class Access:
    """A location that is open."""

    location: GoHighLevel
    requests: CountedRetryBudget
    held: HeldRequests
    per_second: float
    """Requests that may be made of it, by all processes together."""


@asynccontextmanager
async def location_of(scope: Scope, *, per_location_rps: float | None) -> AsyncIterator[Access]:
    """Open the client's location. All processes share its budgets."""
    client, clock = scope.registry.client(scope.partition_key), SystemClock()
    access = client.gohighlevel
    if access is None:
        raise ConfigurationError(
            "missing_section", f"{client.label} has no gohighlevel section in the registry; add it."
        )
    location_id = access.location_id.resolve()

    async def retries() -> CountedRetryBudget:
        return CountedRetryBudget()

    # Kept when the partition is tried again: an outage is not to get a fresh budget of retries each time.
    requests = await scope.shared.get(("gohighlevel retries", location_id), retries)
    store = PostgresQuotaStore(scope.engine, clock)
    reserve = _reserve(scope)
    budgets = quotas(location_id, store=store, clock=clock, reserve=reserve, per_location_rps=per_location_rps)
    # Closed with the partition: what was leased of the day and not used goes back at once.
    async with budgets.burst, budgets.daily:
        held = HeldRequests(await shared_http(scope), budgets.burst)
        location = connect(
            cast("httpx.AsyncClient", held),
            token=access.token.resolve(),
            location_id=location_id,
            quotas=budgets,
            retry_budget=requests,
            clock=clock,
            base_url=scope.registry.vendor_base_url("gohighlevel", client) or BASE_URL,
        )
        per_second = requests_per_second(per_location_rps, reserve=reserve)
        yield Access(location=location, requests=requests, held=held, per_second=per_second)


def used_today(scope: Scope, location_id: str) -> dict[str, int]:
    """The location's day: how many requests were `used`, by anybody as far as the vendor told, `of` how many that are
    ours to use."""
    statement = sql.SQL(
        "SELECT CASE WHEN extract(epoch FROM now()) < window_started_at + window_seconds THEN used ELSE 0 END, permits"
        " FROM backfill.quota WHERE vendor = %s AND account = %s AND kind = 'daily'"
    )
    with scope.engine.connect() as connection:
        row = driver_connection(connection).execute(statement, [VENDOR, location_id]).fetchone()
    return {} if row is None else {"used": row[0], "of": int(row[1] * (1 - _reserve(scope)))}


def _reserve(scope: Scope) -> float:
    client = scope.registry.client(scope.partition_key)
    return scope.registry.settings(LeadHydrationSettings, client).reserve
