"""Whose rows are these? Which token reads a client's workspace, and the lists that tell its rows from another's.

No reply says which workspace it is of, but its campaign (or, without one, its sender) does: ids are unique within an
instance. Belongs here: choosing the reader, and reading, sharing and keeping the lists. Does not belong here: how one
answer is proven (`vendors/email_bison_workspace.py`), and what is done about a foreign or unknown row
(`client_leads_source.py`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import SecretStr
from sqlalchemy import Connection, Engine, delete, func, select

from backfill_pipelines.backfills.shared_connections import shared_http
from backfill_pipelines.database.bulk import land_rows
from backfill_pipelines.database.tables import bison_workspace_record
from backfill_pipelines.engine.backfill import Scope
from backfill_pipelines.errors import BackfillError, ConfigurationError, InterruptedRunError
from backfill_pipelines.registry import Client, EmailBisonAccess, Registry
from backfill_pipelines.vendors.clock import SystemClock
from backfill_pipelines.vendors.email_bison import EmailBison, connect, requests_quota
from backfill_pipelines.vendors.email_bison_workspace import AdminReader, OwnTokenReader, WorkspaceReader
from backfill_pipelines.vendors.postgres_quota_store import PostgresQuotaStore
from backfill_pipelines.vendors.quota import Quota
from backfill_pipelines.vendors.transport import RetryBudget

_log = logging.getLogger(__name__)
_LOCK_LOOKS_SECONDS = 0.5

_PATHS = {"campaign": "/campaigns", "sender_email": "/sender-emails"}
REUSED_WITHIN = timedelta(minutes=15)
"""Lists of other workspaces that a run landed a moment ago are not read again by the next run of the same backfill."""
TRUSTED_WITHIN = timedelta(hours=24)
"""Lists of a workspace that this run has no token for are believed this long."""


@dataclass(frozen=True, kw_only=True)
class RecordIds:
    """The ids of a workspace's campaigns and sender addresses."""

    campaign: frozenset[int] = frozenset()
    sender_email: frozenset[int] = frozenset()

    def has(self, row: Mapping[str, Any]) -> bool:
        """Whether a reply's campaign, or without one its sender, is in the lists."""
        campaign = row.get("campaign_id")
        if campaign is not None:
            return campaign in self.campaign
        return row.get("sender_email_id") in self.sender_email


@dataclass(frozen=True, kw_only=True)
class WorkspaceLists:
    """The lists of the client's own workspace, and of the other registered workspaces of its instance."""

    own: RecordIds
    others: Mapping[str, RecordIds]
    """By the key of the other client."""
    unread: Sequence[str] = ()
    """Clients whose workspaces' lists could not be read: the proof is partial."""

    def is_own(self, row: Mapping[str, Any]) -> bool:
        """Whether the row is proven to be the workspace's own."""
        return self.own.has(row)

    def owners(self, row: Mapping[str, Any]) -> list[str]:
        """The other clients whose workspaces have the row; none of a row that is not foreign.

        A campaign that two workspaces list is foreign to both: one of the tokens answers with the other's data.
        """
        return [client for client, ids in self.others.items() if ids.has(row)]


async def read_lists(engine: Engine, reader: WorkspaceReader, *, instance: str, workspace_id: int) -> RecordIds:
    """Read a workspace's lists, proven before and after, and land them."""
    await reader.prove()
    found: dict[str, frozenset[int]] = {}
    for kind, path in _PATHS.items():
        ids: set[int] = set()
        number, last_page = 1, 1
        while number <= last_page:
            page = await reader.page(path, number=number)
            ids.update(row["id"] for row in page.rows)
            number, last_page = number + 1, page.last_page
        found[kind] = frozenset(ids)
    await reader.prove()
    lists = RecordIds(campaign=found["campaign"], sender_email=found["sender_email"])
    await asyncio.to_thread(_land, engine, lists, instance=instance, workspace_id=workspace_id)
    return lists


def landed_lists(engine: Engine, *, instance: str, workspace_id: int, within: timedelta) -> RecordIds | None:
    """The lists as a run landed them, unless that is too long ago."""
    table = bison_workspace_record
    of_workspace = (table.c.instance == instance) & (table.c.workspace_id == workspace_id)
    with engine.connect() as connection:
        landed_at = connection.scalar(select(func.min(table.c.landed_at)).where(of_workspace))
        if landed_at is None or datetime.now(UTC) - landed_at > within:
            return None
        rows = connection.execute(select(table.c.kind, table.c.record_id).where(of_workspace)).all()
    return RecordIds(
        campaign=frozenset(row.record_id for row in rows if row.kind == "campaign"),
        sender_email=frozenset(row.record_id for row in rows if row.kind == "sender_email"),
    )


def forget_lists(connection: Connection, registry: Registry, keys: Collection[str]) -> None:
    """Forget the landed lists of these clients' workspaces: a token has answered with another workspace's data."""
    table = bison_workspace_record
    for client in registry.clients:
        if client.key not in keys or client.email_bison is None:
            continue
        host, workspace_id = registry.bison_instance(client).host, bison_access(client).workspace_id
        connection.execute(delete(table).where(table.c.instance == host, table.c.workspace_id == workspace_id))


def _land(engine: Engine, lists: RecordIds, *, instance: str, workspace_id: int) -> None:
    table = bison_workspace_record
    now = datetime.now(UTC)
    rows = [
        {"instance": instance, "workspace_id": workspace_id, "kind": kind, "record_id": record_id, "landed_at": now}
        for kind in _PATHS
        for record_id in sorted(getattr(lists, kind))
    ]
    with engine.begin() as connection:
        connection.execute(delete(table).where((table.c.instance == instance) & (table.c.workspace_id == workspace_id)))
        # An upsert: another process may be landing the same lists at this moment.
        land_rows(connection, table, rows)


@dataclass(frozen=True, kw_only=True)
class ProvenWorkspace:
    """How to read a client's workspace so that nothing of another's can pass."""

    reader: WorkspaceReader
    lists: WorkspaceLists
    pages_ahead: int
    """How many pages may be asked for at once: in admin mode each needs its own two checks."""


@asynccontextmanager
async def proven_workspace(scope: Scope, client: Client) -> AsyncIterator[ProvenWorkspace]:
    """Prove the client's workspace, now and again at the end.

    With tokens of their own, partitions are read side by side. With only the admin token, one at a time per instance,
    over all processes and hosts: the current workspace is state of the token's user, and a second reader would switch
    it away.
    """
    access = bison_access(client)
    bison = await _email_bison(scope, client, token_of(scope.registry, client))
    if access.token is not None:
        reader: WorkspaceReader = OwnTokenReader(bison, workspace_id=access.workspace_id, partition_key=client.key)
        await reader.prove()
        yield ProvenWorkspace(reader=reader, lists=await _lists(scope, client, reader, admin=None), pages_ahead=4)
        await reader.prove()
        return
    async with _instance_lock(scope, scope.registry.bison_instance(client).host):
        reader = AdminReader(bison, workspace_id=access.workspace_id)
        yield ProvenWorkspace(reader=reader, lists=await _lists(scope, client, reader, admin=bison), pages_ahead=1)
        await reader.prove()


async def _lists(scope: Scope, client: Client, reader: WorkspaceReader, *, admin: EmailBison | None) -> WorkspaceLists:
    neighbours = _neighbours(scope.registry, client)
    if admin is None:
        others = await asyncio.gather(*(_neighbour_lists(scope, other, admin=None) for other in neighbours))
    else:
        # One after the other, and before our own: reading them switches the workspace away from ours.
        others = []
        for other in neighbours:
            scope.safe_point()
            others.append(await _neighbour_lists(scope, other, admin=admin))
    return WorkspaceLists(
        own=await _fresh_lists(scope, client, reader),
        others={other.key: ids for other, ids in zip(neighbours, others, strict=True) if ids is not None},
        unread=[other.key for other, ids in zip(neighbours, others, strict=True) if ids is None],
    )


def _neighbours(registry: Registry, client: Client) -> list[Client]:
    """The other clients on the client's instance: ids are unique within one."""
    # Not by `host`: an unset variable of another instance is not this client's mistake.
    address = registry.bison_instance(client).base_url.identity()
    return [
        other
        for other in registry.clients
        if other.email_bison is not None
        and other.key != client.key
        and registry.bison_instance(other).base_url.identity() == address
    ]


async def _fresh_lists(scope: Scope, client: Client, reader: WorkspaceReader) -> RecordIds:
    """A workspace's lists, read once per process whoever needs them first."""
    host, workspace_id = scope.registry.bison_instance(client).host, bison_access(client).workspace_id
    return await scope.shared.get(
        ("email bison lists", host, workspace_id),
        lambda: read_lists(scope.engine, reader, instance=host, workspace_id=workspace_id),
    )


async def _neighbour_lists(scope: Scope, other: Client, *, admin: EmailBison | None) -> RecordIds | None:
    """The lists of another client's workspace; None where they cannot be read: its own run will say why.

    By its own token, or where we hold the instance's admin token anyway by that. Under another client's own token the
    workspace is not switched for it: that would throw people out of their browsers.
    """
    host, access = scope.registry.bison_instance(other).host, bison_access(other)

    def landed(within: timedelta) -> RecordIds | None:
        return landed_lists(scope.engine, instance=host, workspace_id=access.workspace_id, within=within)

    recent = await asyncio.to_thread(landed, REUSED_WITHIN)
    if recent is not None:
        return recent
    try:
        if access.token is not None:
            bison = await _email_bison(scope, other, access.token.resolve())
            own = OwnTokenReader(bison, workspace_id=access.workspace_id, partition_key=other.key)
            return await _fresh_lists(scope, other, own)
        if admin is not None:
            return await _fresh_lists(scope, other, AdminReader(admin, workspace_id=access.workspace_id))
    except InterruptedRunError:
        raise
    except BackfillError as error:
        _log.warning("%s: the lists of %s cannot be read (%s)", scope.partition_key, other.key, error.code)
    return await asyncio.to_thread(landed, TRUSTED_WITHIN)


async def _email_bison(scope: Scope, client: Client, token: SecretStr) -> EmailBison:
    """A client for one token. All tokens share the connections; those of one instance share its quota and retries."""
    instance = scope.registry.bison_instance(client)
    host, clock = instance.host, SystemClock()

    async def account() -> tuple[Quota, RetryBudget]:
        store = PostgresQuotaStore(scope.engine, clock)
        quota = requests_quota(host, per_minute=instance.requests_per_minute, store=store, clock=clock)
        return await scope.shared.enter(quota), RetryBudget()

    quota, retry_budget = await scope.shared.get(("email bison account", host), account)
    return connect(
        await shared_http(scope),
        base_url=instance.base_url.resolve(),
        token=token,
        quota=quota,
        retry_budget=retry_budget,
        clock=clock,
    )


@asynccontextmanager
async def _instance_lock(scope: Scope, instance: str) -> AsyncIterator[None]:
    """Hold the instance: whoever reads it by its admin token does so alone, across processes and hosts."""
    name = f"email_bison/{instance}"
    while not await asyncio.to_thread(scope.locks.try_acquire, name):
        scope.safe_point()
        scope.report("waiting for the instance", 0, None)
        await asyncio.sleep(_LOCK_LOOKS_SECONDS)
    try:
        yield
    finally:
        await asyncio.to_thread(scope.locks.release, name)


def bison_access(client: Client) -> EmailBisonAccess:
    """The client's section `email_bison`; partitions exist only for clients that have one."""
    if client.email_bison is None:
        raise ConfigurationError("missing_section", f"Client {client.key} has no email_bison section in the registry.")
    return client.email_bison


def token_of(registry: Registry, client: Client) -> SecretStr:
    """The token to read the client's workspace with: its own, else its instance's admin token.

    Raises `ConfigurationError`: `missing_variable`, or `no_token` where there is neither.
    """
    own, admin = bison_access(client).token, registry.bison_instance(client).admin_token
    if own is not None:
        return own.resolve()
    if admin is not None:
        return admin.resolve()
    raise ConfigurationError(
        "no_token",
        f"Client {client.key} has no email_bison.token in the registry, and its instance has no admin_token; make a "
        "token in the workspace's settings and add it.",
    )
