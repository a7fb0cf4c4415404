"""The way in to Attio: what an API key stands for, the budgets of its workspace, a client.

Belongs here: connecting, and how fast. Does not belong here: what is asked for then (`attio.py`).

Source of the limits: docs.attio.com/rest-api/guides/rate-limiting: 100 reads and 25 writes a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import httpx
from pydantic import SecretStr

from backfill_pipelines.vendors.attio import Attio
from backfill_pipelines.vendors.attio_records import TokenInfo, read_token
from backfill_pipelines.vendors.clock import Clock
from backfill_pipelines.vendors.quota import Quota
from backfill_pipelines.vendors.quota_store import QuotaStore
from backfill_pipelines.vendors.transport import ApiClient, RetryBudget, RetryPolicy

VENDOR = "attio"
BASE_URL = "https://api.attio.com"
READS_PER_SECOND, WRITES_PER_SECOND = 100, 25
WRITE_SLACK = 0.02
"""Writes are 40.8 ms apart: 98 % of the limit, and 1,000 of them take 40.8 s. Two requests may be displaced against one
another by 20 ms, half of it by us and half on the way, before a window that slides sees 26 of them in a second; on a
machine that has nothing else to do they are by 2 ms. A refusal costs as much as 45 slots; one that comes too late, one.
"""
READ_SLACK = 0.05
"""Reading has time; its answers are large and keep the event loop busy."""
NOT_EXECUTED_CODES = ("concurrent_write_conflict",)
"""Refusals of a write that say that it was not executed and that another attempt helps."""


class AttioQuotas(NamedTuple):
    """The two budgets of a workspace; close both."""

    read: Quota
    write: Quota


def quotas(workspace_id: str, *, store: QuotaStore, clock: Clock, reserve: float = 0.0) -> AttioQuotas:
    """The budgets of a workspace, which all its API keys share. `reserve`: the share left to other programs."""

    def budget(kind: str, permits: int, slack: float) -> Quota:
        return Quota(
            vendor=VENDOR,
            account=workspace_id,
            kind=kind,
            permits=permits,
            window_seconds=1,
            store=store,
            clock=clock,
            reserve=reserve,
            slack=slack,
        )

    return AttioQuotas(
        read=budget("read", READS_PER_SECOND, READ_SLACK), write=budget("write", WRITES_PER_SECOND, WRITE_SLACK)
    )


async def identify(
    http: httpx.AsyncClient,
    *,
    api_key: SecretStr,
    retry_budget: RetryBudget,
    clock: Clock,
    base_url: str = BASE_URL,
) -> TokenInfo:
    """What an API key stands for; one read outside the budget, since only its answer says whose budget that is.

    Raises `ConfigurationError`: `token_inactive`, `unauthorized`.
    """
    api = _api(http, base_url=base_url, api_key=api_key, quotas=[], retry_budget=retry_budget, clock=clock)
    return read_token(await api.get("/self"))


def connect(
    http: httpx.AsyncClient,
    *,
    api_key: SecretStr,
    quotas: AttioQuotas,
    retry_budget: RetryBudget,
    clock: Clock,
    base_url: str = BASE_URL,
) -> Attio:
    """A client for one API key, with the budgets of its workspace."""

    def api(quota: Quota) -> ApiClient:
        return _api(http, base_url=base_url, api_key=api_key, quotas=[quota], retry_budget=retry_budget, clock=clock)

    return Attio(reads=api(quotas.read), writes=api(quotas.write))


def _api(
    http: httpx.AsyncClient,
    *,
    base_url: str,
    api_key: SecretStr,
    quotas: Sequence[Quota],
    retry_budget: RetryBudget,
    clock: Clock,
) -> ApiClient:
    return ApiClient(
        vendor="Attio",
        base_url=f"{base_url.rstrip('/')}/v2",
        authorization=SecretStr(f"Bearer {api_key.get_secret_value()}"),
        http=http,
        quotas=quotas,
        retry=RetryPolicy(),
        retry_budget=retry_budget,
        clock=clock,
        not_executed_codes=NOT_EXECUTED_CODES,
    )
