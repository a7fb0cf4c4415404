"""Clerk's users, organizations and memberships of a workspace, landed for every backfill that reads them.

Belongs here: reading a list whole into its landing table, page by page, resumable, and who may use what another
backfill has landed. Does not belong here: pages (`vendors/clerk.py`) and what a user without an address means (the
backfills).

A reading is a *sweep* with a number. Rows carry the number of the sweep that saw them last, and what the new sweep has
not seen is deleted only at its end: whoever plans meanwhile sees a full list, never half a one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Table, delete, func, select, text

from backfill_pipelines.backfills.shared_connections import shared_http
from backfill_pipelines.database.bulk import land_rows, storable_text
from backfill_pipelines.database.tables import clerk_membership, clerk_organization, clerk_user, run
from backfill_pipelines.engine.backfill import Scope
from backfill_pipelines.engine.ledger import Mode, read_cursor, write_cursor
from backfill_pipelines.engine.side_by_side import side_by_side
from backfill_pipelines.errors import ConfigurationError
from backfill_pipelines.vendors.clerk import (
    Clerk,
    Membership,
    Organization,
    Page,
    Position,
    User,
    account_of,
    connect,
    requests_quota,
)
from backfill_pipelines.vendors.clock import SystemClock
from backfill_pipelines.vendors.postgres_quota_store import PostgresQuotaStore
from backfill_pipelines.vendors.quota import Quota
from backfill_pipelines.vendors.retry import RetryBudget

BASE_URL = "https://api.clerk.com/v1"
OWNER = "clerk"
"""Under which name cursors of landings are kept: they belong to no backfill."""
USERS, ORGANIZATIONS, MEMBERSHIPS = "users", "organizations", "memberships"
LANES = 2
"""Users are asked for in so many lanes beside one another: pages by cursor come one after the other. More lanes cost a
request or two each, of the 510 that 100,000 users and 150,000 memberships may take."""
MEMBERSHIPS_AHEAD, ORGANIZATIONS_AHEAD = 3, 1
"""Pages asked for at once. All three lists are read side by side, and with these they take about as long as each other:
there are half as many pages of users as of memberships where a user has 1.5, and few organizations."""
SHARED_WITHIN = timedelta(hours=1)
"""So long may another backfill use what one has landed."""
COUNT_DRIFT = "count_drift"
_SWEEPS = 2
_LOCK_LOOKS_SECONDS = 0.5

Row = User | Organization | Membership


async def clerk_of(scope: Scope) -> Clerk:
    """A client for the workspace's instance; all workspaces with one key share its budget."""
    workspace = scope.registry.workspace(scope.partition_key)
    if workspace.clerk is None:
        raise ConfigurationError("missing_section", f"{workspace.label} has no clerk section in the registry; add it.")
    secret_key, clock = workspace.clerk.secret_key.resolve(), SystemClock()

    async def account() -> tuple[Quota, RetryBudget]:
        quota = requests_quota(secret_key, store=PostgresQuotaStore(scope.engine, clock), clock=clock)
        return await scope.shared.enter(quota), RetryBudget()

    quota, retry_budget = await scope.shared.get(("clerk account", account_of(secret_key)), account)
    return connect(
        await shared_http(scope),
        base_url=scope.registry.vendor_base_url("clerk", workspace) or BASE_URL,
        secret_key=secret_key,
        quota=quota,
        retry_budget=retry_budget,
        clock=clock,
    )


async def land_users(scope: Scope, clerk: Clerk, *, shareable: bool = False, lanes: int = LANES) -> None:
    """Land all users in `backfill.clerk_user`, in so many lanes beside one another.

    With `shareable`, what another backfill has landed within the last hour does, once: a run after a finished one reads
    anew. The distinct users are compared with Clerk's own count: fewer are read once more, and a difference that stays
    is the warning `count_drift`.
    """

    async def begin() -> tuple[Sequence[Position | None], int]:
        total = await clerk.count_users()
        return await clerk.user_lanes(lanes, total=total), total

    await _Landing(
        scope=scope,
        stream=USERS,
        table=clerk_user,
        begin=begin,
        pages=clerk.user_pages,
        row=_user_row,
        count=clerk.count_users,
    ).land(shareable=shareable)


async def land_organizations(scope: Scope, clerk: Clerk) -> None:
    """Land all organizations, with their numbers of members, in `backfill.clerk_organization`."""
    await _Landing(
        scope=scope,
        stream=ORGANIZATIONS,
        table=clerk_organization,
        begin=_one_lane,
        pages=lambda position: clerk.organization_pages(position, ahead=ORGANIZATIONS_AHEAD),
        row=_organization_row,
    ).land()


async def land_memberships(scope: Scope, clerk: Clerk) -> None:
    """Land all memberships in `backfill.clerk_membership`."""
    await _Landing(
        scope=scope,
        stream=MEMBERSHIPS,
        table=clerk_membership,
        begin=_one_lane,
        pages=lambda position: clerk.membership_pages(position, ahead=MEMBERSHIPS_AHEAD),
        row=_membership_row,
    ).land()


def landed_rejects(connection: Connection, partition_key: str, table: Table) -> dict[str, int]:
    """How many rows of a landing could not be read, by code."""
    rows = connection.execute(
        select(table.c.rejected, func.count())
        .where(table.c.partition_key == partition_key, table.c.rejected.is_not(None))
        .group_by(table.c.rejected)
    )
    return {row[0]: row[1] for row in rows}


def landed_as_counted(connection: Connection, partition_key: str, stream: str) -> bool:
    """Whether as many rows of a list are landed as Clerk counted. False, too, while a reading is not at its end."""
    state = read_cursor(connection, backfill=OWNER, partition_key=partition_key, stream=stream)
    return state is not None and state["finished_at"] is not None and state["distinct"] == state["expected"]


async def _one_lane() -> tuple[Sequence[Position | None], int | None]:
    return [None], None


@dataclass(frozen=True, kw_only=True)
class _Landing:
    """One list of Clerk into one table."""

    scope: Scope
    stream: str
    table: Table
    begin: Callable[[], Any]
    """Where the lanes begin, and how many rows there are where that is known before."""
    pages: Callable[[Position | None], AsyncGenerator[Page[Any], None]]
    row: Callable[[Any], Mapping[str, Any]]
    count: Callable[[], Any] | None = None
    """Asks for the number of rows; None where each page states it."""

    async def land(self, *, shareable: bool = False) -> None:
        """Read the list whole, unless what is landed may be used."""
        async with self._alone():
            state = await asyncio.to_thread(self._usable, shareable=shareable)
            if state is not None:
                self._tell(state)
                return
            state = await asyncio.to_thread(self._unfinished) or await self._begin()
            for left in reversed(range(_SWEEPS)):
                await self._sweep(state)
                distinct = await asyncio.to_thread(self._distinct, state)
                if self.count is not None and distinct != state["expected"]:
                    # Somebody signed up or left meanwhile, or rows were missed: only Clerk's count now can tell.
                    state["expected"] = max(await self.count(), 0)
                # More than a page states as the list's total: rows that were read have gone since.
                if distinct == state["expected"] or (self.count and distinct > state["expected"]) or not left:
                    break
                state = await self._begin()
            state |= {"distinct": distinct, "finished_at": datetime.now(UTC).isoformat(), "used_by": []}
            await asyncio.to_thread(self._finish, state)
            self._tell(state)

    # --- one reading of the list -----------------------------------------------------------------------------------

    async def _begin(self) -> dict[str, Any]:
        positions, expected = await self.begin()
        lanes = [{"position": position, "done": False} for position in positions]
        return await asyncio.to_thread(self._new_sweep, lanes, expected)

    async def _sweep(self, state: dict[str, Any]) -> None:
        commits = asyncio.Lock()
        lanes = (lane for lane in state["lanes"] if not lane["done"])
        await side_by_side(*(self._read_lane(state, lane, commits) for lane in lanes))

    async def _read_lane(self, state: dict[str, Any], lane: dict[str, Any], commits: asyncio.Lock) -> None:
        position = lane["position"]
        async with aclosing(self.pages(None if position is None else dict(position))) as pages:
            async for page in pages:
                self.scope.safe_point()
                rows = [self._landed(state, number, row) for number, row in enumerate((*page.rows, *page.rejected))]
                # One commit at a time: the state of all lanes is one document.
                async with commits:
                    lane["position"], lane["done"] = page.following, page.following is None
                    state["read"] += len(rows)
                    if page.total is not None:
                        state["expected"] = page.total
                    await asyncio.to_thread(self._commit, rows, state)
                self.scope.report(f"clerk {self.stream}", state["read"], state["expected"])

    def _landed(self, state: Mapping[str, Any], number: int, row: Any) -> Mapping[str, Any]:
        common: dict[str, Any] = {"partition_key": self.scope.partition_key, "sweep": state["sweep"]}
        if isinstance(row, Row):
            return {**common, "rejected": None, **self.row(row)}
        # A row without even an id still counts as one.
        identifier = storable_text(row.id) or f"unreadable {state['read'] + number}"
        return {**common, "rejected": row.code, **_EMPTY[self.table.name], _IDENTIFIER[self.table.name]: identifier}

    # --- the cursor, each a short transaction ----------------------------------------------------------------------

    def _usable(self, *, shareable: bool) -> dict[str, Any] | None:
        """What is landed already, if this run may use it: by its own extraction (which an interrupted run may have
        begun), by anybody since it began, or by another backfill that shares."""
        scope = self.scope
        with scope.engine.begin() as connection:
            state = self._read(connection)
            if state is None or state["finished_at"] is None or state["account"] != self._account():
                return None
            started_at, mode = connection.execute(
                select(run.c.started_at, run.c.mode).where(run.c.id == scope.run_id)
            ).one()
            own = self._ticket(connection) == state["sweep"]
            since = datetime.fromisoformat(state["started_at"]) >= started_at
            recent = datetime.now(UTC) - datetime.fromisoformat(state["finished_at"]) <= SHARED_WITHIN
            shared = shareable and recent and mode != Mode.VERIFY and not scope.options.fresh
            unused = scope.backfill not in (state["backfill"], *state["used_by"])
            if not (own or since or (shared and unused)):
                return None
            if unused:
                state["used_by"] = [*state["used_by"], scope.backfill]
                self._write(connection, state)
            self._take_ticket(connection, state)
            return state

    def _unfinished(self) -> dict[str, Any] | None:
        """The sweep that this extraction had begun before it was interrupted."""
        with self.scope.engine.connect() as connection:
            state, ticket = self._read(connection), self._ticket(connection)
        if state is None or state["finished_at"] is not None or state["account"] != self._account():
            return None
        return state if ticket == state["sweep"] else None

    def _new_sweep(self, lanes: Sequence[Mapping[str, Any]], expected: int | None) -> dict[str, Any]:
        with self.scope.engine.begin() as connection:
            newest = connection.scalar(
                select(func.max(self.table.c.sweep)).where(self.table.c.partition_key == self.scope.partition_key)
            )
            before = self._read(connection)
            state = {
                # One that was interrupted before its first page has a number, and no rows.
                "sweep": max(newest or 0, 0 if before is None else before["sweep"]) + 1,
                "account": self._account(),
                "backfill": self.scope.backfill,
                "started_at": datetime.now(UTC).isoformat(),
                "finished_at": None,
                "used_by": [],
                "read": 0,
                "lanes": lanes,
                "expected": expected,
            }
            self._write(connection, state)
            self._take_ticket(connection, state)
        return state

    def _commit(self, rows: Sequence[Mapping[str, Any]], state: Mapping[str, Any]) -> None:
        with self.scope.engine.begin() as connection:
            land_rows(connection, self.table, rows)
            self._write(connection, state)

    def _distinct(self, state: Mapping[str, Any]) -> int:
        with self.scope.engine.connect() as connection:
            return (
                connection.scalar(
                    select(func.count()).where(
                        self.table.c.partition_key == self.scope.partition_key, self.table.c.sweep == state["sweep"]
                    )
                )
                or 0
            )

    def _finish(self, state: Mapping[str, Any]) -> None:
        """Forget what this sweep has not seen: it is gone."""
        with self.scope.engine.begin() as connection:
            connection.execute(
                delete(self.table).where(
                    self.table.c.partition_key == self.scope.partition_key, self.table.c.sweep != state["sweep"]
                )
            )
            self._write(connection, state)
            connection.execute(text(f"ANALYZE backfill.{self.table.name}"))

    def _read(self, connection: Connection) -> dict[str, Any] | None:
        return read_cursor(connection, backfill=OWNER, partition_key=self.scope.partition_key, stream=self.stream)

    def _write(self, connection: Connection, state: Mapping[str, Any]) -> None:
        write_cursor(
            connection, backfill=OWNER, partition_key=self.scope.partition_key, stream=self.stream, position=state
        )

    def _ticket(self, connection: Connection) -> int | None:
        """The sweep that this extraction has begun or used. The ledger takes it away with the backfill's own cursors,
        whenever the next run of the backfill is to read anew."""
        scope = self.scope
        ticket = read_cursor(
            connection, backfill=scope.backfill, partition_key=scope.partition_key, stream=self._ticket_name
        )
        return None if ticket is None else int(ticket["sweep"])

    def _take_ticket(self, connection: Connection, state: Mapping[str, Any]) -> None:
        scope = self.scope
        write_cursor(
            connection,
            backfill=scope.backfill,
            partition_key=scope.partition_key,
            stream=self._ticket_name,
            position={"sweep": state["sweep"]},
        )

    @property
    def _ticket_name(self) -> str:
        return f"clerk_{self.stream}"

    def _account(self) -> str:
        clerk = self.scope.registry.workspace(self.scope.partition_key).clerk
        return "" if clerk is None else account_of(clerk.secret_key.resolve())

    def _tell(self, state: Mapping[str, Any]) -> None:
        """What the run shows of it."""
        self.scope.details[f"clerk_{self.stream}"] = state["distinct"]
        if state["distinct"] != state["expected"]:
            self.scope.warnings.add(COUNT_DRIFT)
            self.scope.details[f"clerk_{self.stream}_counted"] = state["expected"]

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """One landing of a list of a workspace at a time, whichever backfill it is for."""
        name = f"{OWNER}/{self.scope.partition_key}/{self.stream}"
        while not await asyncio.to_thread(self.scope.locks.try_acquire, name):
            self.scope.safe_point()
            self.scope.report(f"clerk {self.stream}: waiting for another backfill's reading", 0, None)
            await asyncio.sleep(_LOCK_LOOKS_SECONDS)
        try:
            yield
        finally:
            await asyncio.to_thread(self.scope.locks.release, name)


_IDENTIFIER = {"clerk_user": "user_id", "clerk_organization": "organization_id", "clerk_membership": "organization_id"}
_EMPTY: Mapping[str, Mapping[str, Any]] = {
    "clerk_user": {"verified_emails": [], "banned": False},
    "clerk_organization": {},
    "clerk_membership": {"user_id": ""},
}


def _user_row(user: User) -> Mapping[str, Any]:
    primary = user.primary_email
    return {
        "user_id": user.id,
        "primary_email": None if primary is None else storable_text(primary.address),
        "verified_emails": [storable_text(each.address) for each in user.emails if each.verified],
        "first_name": storable_text(user.first_name),
        "last_name": storable_text(user.last_name),
        "username": storable_text(user.username),
        "image_url": storable_text(user.image_url),
        "created_at": user.created_at,
        "last_sign_in_at": user.last_sign_in_at,
        "last_active_at": user.last_active_at,
        "banned": user.banned or user.deprovisioned,
    }


def _organization_row(organization: Organization) -> Mapping[str, Any]:
    return {
        "organization_id": organization.id,
        "created_at": organization.created_at,
        "members_count": organization.members_count,
    }


def _membership_row(membership: Membership) -> Mapping[str, Any]:
    return {"organization_id": membership.organization_id, "user_id": membership.user_id}
