"""Does every access of the registry work: each vendor called once, with the least that shows it.

Belongs here: which call tells. Does not belong here: the vendors' clients, and printing (`clients.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import httpx
from pydantic import SecretStr

from backfill_pipelines.backfills import clerk_landing
from backfill_pipelines.backfills.client_leads_proof import bison_access, token_of
from backfill_pipelines.errors import BackfillError, ConfigurationError
from backfill_pipelines.registry import (
    AttioAccess,
    ClerkAccess,
    Client,
    ConvexAccess,
    GoHighLevelAccess,
    Registry,
    Workspace,
)
from backfill_pipelines.vendors import attio_access, clerk, convex, email_bison, gohighlevel
from backfill_pipelines.vendors.attio_records import WRITE_SCOPES
from backfill_pipelines.vendors.clock import SystemClock
from backfill_pipelines.vendors.quota_store import InMemoryQuotaStore
from backfill_pipelines.vendors.transport import RetryBudget, open_http_client

_CHECKS_AT_ONCE = 8

Check = Callable[[], Awaitable[None]]


async def check_accesses(registry: Registry) -> dict[str, dict[str, str]]:
    """By client or workspace, by vendor: `ok`, or the sentence that says what is wrong."""
    places = asyncio.Semaphore(_CHECKS_AT_ONCE)

    async def one(key: str, checks: Mapping[str, Check]) -> tuple[str, dict[str, str]]:
        async with places:
            return key, {vendor: await _answer(check) for vendor, check in checks.items()}

    async with open_http_client() as http:
        checks = {client.key: _of_client(http, registry, client) for client in registry.clients}
        checks |= {workspace.key: _of_workspace(http, registry, workspace) for workspace in registry.workspaces}
        return dict(await asyncio.gather(*(one(key, each) for key, each in checks.items() if each)))


def email_bison_of(
    http: httpx.AsyncClient, registry: Registry, client: Client, token: SecretStr
) -> email_bison.EmailBison:
    """A client for one token, with a budget of this process alone: for a call or two."""
    instance, clock = registry.bison_instance(client), SystemClock()
    quota = email_bison.requests_quota(
        instance.host, per_minute=instance.requests_per_minute, store=InMemoryQuotaStore(clock), clock=clock
    )
    return email_bison.connect(
        http, base_url=instance.base_url.resolve(), token=token, quota=quota, retry_budget=RetryBudget(), clock=clock
    )


async def _answer(check: Check) -> str:
    try:
        await check()
    except BackfillError as error:
        return f"{error.message} [{error.code}]"
    return "ok"


def _of_client(http: httpx.AsyncClient, registry: Registry, client: Client) -> Mapping[str, Check]:
    checks: dict[str, Check] = {}
    if client.email_bison is not None:
        checks["email_bison"] = lambda: _email_bison(http, registry, client)
    if (location := client.gohighlevel) is not None:
        checks["gohighlevel"] = lambda: _gohighlevel(http, registry, client, location)
    return checks


def _of_workspace(http: httpx.AsyncClient, registry: Registry, workspace: Workspace) -> Mapping[str, Check]:
    checks: dict[str, Check] = {}
    if (clerk_access := workspace.clerk) is not None:
        checks["clerk"] = lambda: _clerk(http, registry, workspace, clerk_access)
    if (attio := workspace.attio) is not None:
        checks["attio"] = lambda: _attio(http, registry, workspace, attio)
    if (deployment := workspace.convex) is not None:
        checks["convex"] = lambda: _convex(http, deployment)
    return checks


async def _email_bison(http: httpx.AsyncClient, registry: Registry, client: Client) -> None:
    bison = email_bison_of(http, registry, client, token_of(registry, client))
    current = await bison.current_workspace()
    access = bison_access(client)
    if access.token is not None and current != access.workspace_id:
        raise ConfigurationError(
            "wrong_workspace",
            f"The token of client {client.key} belongs to workspace {current}; the registry says "
            f"{access.workspace_id}: correct one of them.",
        )


async def _gohighlevel(http: httpx.AsyncClient, registry: Registry, client: Client, access: GoHighLevelAccess) -> None:
    location_id, clock = access.location_id.resolve(), SystemClock()
    budgets = gohighlevel.quotas(location_id, store=InMemoryQuotaStore(clock), clock=clock)
    async with budgets.burst, budgets.daily:
        await gohighlevel.connect(
            http,
            base_url=registry.vendor_base_url("gohighlevel", client) or gohighlevel.BASE_URL,
            token=access.token.resolve(),
            location_id=location_id,
            quotas=budgets,
            retry_budget=RetryBudget(),
            clock=clock,
        ).total()


async def _clerk(http: httpx.AsyncClient, registry: Registry, workspace: Workspace, access: ClerkAccess) -> None:
    secret_key, clock = access.secret_key.resolve(), SystemClock()
    async with clerk.requests_quota(secret_key, store=InMemoryQuotaStore(clock), clock=clock) as quota:
        await clerk.connect(
            http,
            base_url=registry.vendor_base_url("clerk", workspace) or clerk_landing.BASE_URL,
            secret_key=secret_key,
            quota=quota,
            retry_budget=RetryBudget(),
            clock=clock,
        ).count_users()


async def _attio(http: httpx.AsyncClient, registry: Registry, workspace: Workspace, access: AttioAccess) -> None:
    token = await attio_access.identify(
        http,
        api_key=access.api_key.resolve(),
        retry_budget=RetryBudget(),
        clock=SystemClock(),
        base_url=registry.vendor_base_url("attio", workspace) or attio_access.BASE_URL,
    )
    if missing := token.missing(WRITE_SCOPES):
        raise ConfigurationError(
            "missing_scopes",
            f"The Attio API key of {workspace.label} lacks {', '.join(missing)}: give it these scopes in Attio under "
            "Workspace settings, Developers.",
        )


async def _convex(http: httpx.AsyncClient, access: ConvexAccess) -> None:
    deployment = convex.connect(
        http,
        url=access.url.resolve(),
        deploy_key=access.deploy_key.resolve(),
        names=convex.TableNames(
            table=access.table.resolve(), index=access.index.resolve(), id_field=access.id_field.resolve()
        ),
        retry_budget=RetryBudget(),
        clock=SystemClock(),
    )
    await deployment.check()
    await deployment.check_writing()
