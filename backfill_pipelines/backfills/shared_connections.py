"""The HTTP connections of a process, which all partitions and vendors share.

Belongs here: opening them once. Does not belong here: what a vendor's client needs besides (each vendor's own access).
"""

from __future__ import annotations

import httpx

from backfill_pipelines.engine.backfill import Scope
from backfill_pipelines.vendors.http_client import open_http_client


async def shared_http(scope: Scope) -> httpx.AsyncClient:
    """The one pool of connections, opened by whoever asks first."""

    async def connections() -> httpx.AsyncClient:
        return await scope.shared.enter(open_http_client())

    return await scope.shared.get("http", connections)
