"""`convex_users`: eight profile fields of Clerk's users into an app's Convex table, for users that are there already.

The story, top to bottom: what it is, what must be true before it starts, how it reads both sides, what it plans, how it
writes and takes back, how it checks. Does not belong here: Clerk's lists (`clerk_landing.py`), which field changes
(`convex_users_plan.py`), calls (`vendors/convex.py`).

It only ever updates: it inserts and deletes no row, and touches no other field.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal

import orjson
import pandas as pd
from psycopg import sql
from pydantic import Field
from sqlalchemy import Connection, delete, func, select, text

from backfill_pipelines.backfills.clerk_landing import clerk_of, land_users
from backfill_pipelines.backfills.convex_users_plan import (
    DOCUMENT,
    FIELD_OF,
    GONE_FROM_CLERK,
    ROW_COLUMNS,
    USER_COLUMNS,
    UsersPlan,
    plan_users,
)
from backfill_pipelines.backfills.shared_connections import shared_http
from backfill_pipelines.database.bulk import land_rows, stream_columns
from backfill_pipelines.database.tables import clerk_user, convex_user
from backfill_pipelines.engine.backfill import Plan, Reconciliation, RunOptions, Scope
from backfill_pipelines.engine.journal import CHANGED_SINCE, STALE, Change, ChangeState, Outcome, outcome_counts
from backfill_pipelines.engine.ledger import Run, read_cursor, write_cursor
from backfill_pipelines.engine.plan import Action
from backfill_pipelines.engine.side_by_side import side_by_side
from backfill_pipelines.errors import ConfigurationError
from backfill_pipelines.registry import ConvexAccess, Workspace
from backfill_pipelines.vendors import convex
from backfill_pipelines.vendors.clock import SystemClock
from backfill_pipelines.vendors.convex import Convex, Page, Patch, RejectedRow, Row, TableNames
from backfill_pipelines.vendors.retry import RetryBudget

STREAM = "convex_users"
_EXAMPLES = 20
_OUTCOMES: Mapping[convex.Outcome, tuple[ChangeState, str | None]] = {
    convex.Outcome.PATCHED: (ChangeState.APPLIED, None),
    # Mostly our own, whose reply was lost on the way and which the transport sent again.
    convex.Outcome.ALREADY: (ChangeState.APPLIED, None),
    convex.Outcome.CONFLICT: (ChangeState.CONFLICT, STALE),
    convex.Outcome.MISSING: (ChangeState.CONFLICT, "record_gone"),
    convex.Outcome.DUPLICATE_ROWS: (ChangeState.CONFLICT, "duplicate_rows"),
    convex.Outcome.OTHER_CLERK_ID: (ChangeState.CONFLICT, STALE),
    convex.Outcome.REFUSED_BY_SCHEMA: (ChangeState.FAILED, "refused_by_schema"),
}


class ConvexUsersOptions(RunOptions):
    """What a run of `convex_users` may be asked for besides."""

    clear_nulls: bool = Field(
        default=False, description="Remove a field that Clerk has empty; by default it is left alone."
    )


class ConvexUsers:
    """Every row of the app's users has the profile that Clerk has."""

    name: ClassVar[str] = "convex_users"
    description: ClassVar[str] = (
        "Names, address, picture and times of Clerk's users in the Convex table of users. Updates rows that are there, "
        "field by field where they differ; inserts, deletes and touches nothing else."
    )
    source_asset: ClassVar[str] = "clerk_profiles"
    target_asset: ClassVar[str] = "convex_users"
    kinds: ClassVar[Mapping[Literal["source", "plan", "target"], set[str]]] = {
        "source": {"python"},
        "plan": {"pandas"},
        "target": {"typescript"},
    }
    partition_kind: ClassVar[Literal["client", "workspace"]] = "workspace"
    uses: ClassVar[frozenset[str]] = frozenset({"clerk", "convex"})
    options_model: ClassVar[type[RunOptions]] = ConvexUsersOptions
    schedule: ClassVar[str] = "0 2 * * 0"

    # --- what must be true before anything starts -----------------------------------------------------------------

    def preflight(self, scope: Scope) -> None:
        """Check what the registry says; raises `ConfigurationError`. What only the vendors know, the reading shows."""
        workspace, access = _workspace(scope), _access(scope)
        if workspace.clerk is None:
            raise ConfigurationError(
                "missing_section", f"{workspace.label} has no clerk section in the registry; add it."
            )
        workspace.clerk.secret_key.resolve()
        access.url.resolve()
        access.deploy_key.resolve()

    # --- extract ---------------------------------------------------------------------------------------------------

    async def extract(self, scope: Scope) -> None:
        """Land Clerk's users and the table's rows, side by side."""
        deployment = await convex_of(scope)
        await side_by_side(_land_rows(scope, deployment), land_users(scope, await clerk_of(scope)))

    # --- plan ------------------------------------------------------------------------------------------------------

    def plan(self, scope: Scope) -> Plan:
        """Compare each user with the row that has its id."""
        with scope.engine.connect() as connection:
            users = connection.scalar(
                select(func.count()).select_from(clerk_user).where(clerk_user.c.partition_key == scope.partition_key)
            )
        plan = _planned(scope, list_skips=scope.registry.store_skips(self.name, scope.partition_key))
        return Plan(source=users or 0, frames=_told(scope, plan, users=users or 0), skips=plan.skips)

    # --- load and undo ---------------------------------------------------------------------------------------------

    def target(self, scope: Scope) -> ConvexTarget:
        """Batches of rows, each one transaction in Convex, each row by compare-and-set."""
        return ConvexTarget(scope)

    # --- verify ----------------------------------------------------------------------------------------------------

    def verify(self, scope: Scope) -> Reconciliation:
        """Every row with a user of Clerk equals it in the eight fields.

        Right after a load against what Convex said that it wrote, which is in the landing; `backfill verify` reads both
        sides anew.
        """
        plan = _planned(scope, list_skips=False)
        different: list[str] = []
        explained = updates = 0
        for frame in plan.frames:
            for key, action in zip(frame["record_key"].tolist(), frame["action"].tolist(), strict=True):
                if action == Action.UPDATE:
                    updates += 1
                    different += [key] if len(different) < _EXAMPLES else []
                else:
                    explained += 1
        _tell_result(scope)
        return Reconciliation(
            equal=plan.skips["unchanged"],
            missing=0,
            extra=plan.gone_from_clerk,
            different=updates,
            explained=explained,
            passed=not updates,
            examples={"different_user_ids": different},
            figures={"users not in Convex": plan.skips["not_in_convex"], "rows gone from Clerk": plan.gone_from_clerk},
        )

    def compare_partitions(self, runs: Sequence[Run]) -> Mapping[str, str]:  # noqa: ARG002 - the protocol's
        """Deployments have nothing in common."""
        return {}


# --- the target ------------------------------------------------------------------------------------------------------


class ConvexTarget:
    """Rows of the plan as patches. To send one again is safe: what was written already is answered as such."""

    batch_rows = convex.ROWS_A_BATCH
    concurrency = convex.CALLS_AT_ONCE
    window_rows = convex.ROWS_A_BATCH * convex.CALLS_AT_ONCE * 4

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._standing: Mapping[str, Mapping[str, Any]] | None = None

    async def moved(self, changes: Sequence[Change]) -> Mapping[int, str]:  # noqa: ARG002 - the protocol's
        """Nothing: Convex compares in the transaction that writes."""
        return {}

    async def write(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        """Write; what was written is noted in the landing as well, for the verification."""
        answers = await (await convex_of(self._scope)).patch([_patch(change) for change in changes])
        outcomes = [
            Outcome(seq=change.seq, state=state, error_code=code, record_id=_document_of(change))
            for change, answer in zip(changes, answers, strict=True)
            for state, code in [_OUTCOMES[answer]]
        ]
        written = [c for c, outcome in zip(changes, outcomes, strict=True) if outcome.state is ChangeState.APPLIED]
        await asyncio.to_thread(_note_written, self._scope, written)
        return outcomes

    async def find_written(self, changes: Sequence[Change]) -> Mapping[int, Outcome]:  # noqa: ARG002 - the protocol's
        """None that need be known: to send a patch again tells."""
        return {}

    async def undo(self, changes: Sequence[Change], *, dry_run: bool) -> Sequence[Outcome]:
        """Patch the previous values back where the row still holds ours."""
        back = [_reverse(_patch(change)) for change in changes]
        if dry_run:
            held = await self._rows()
            undone = [_holds(held.get(patch.document_id), patch) for patch in back]
        else:
            answers = await (await convex_of(self._scope)).patch(back)
            undone = [_OUTCOMES[answer][0] is ChangeState.APPLIED for answer in answers]
        return [
            Outcome(seq=change.seq, state=ChangeState.UNDONE)
            if done
            else Outcome(seq=change.seq, state=ChangeState.APPLIED, error_code=CHANGED_SINCE)
            for change, done in zip(changes, undone, strict=True)
        ]

    async def _rows(self) -> Mapping[str, Mapping[str, Any]]:
        """The table as it is: to say what an undo would do takes a reading, since nothing may be written."""
        if self._standing is None:
            deployment = await convex_of(self._scope)
            self._standing = {row.document_id: row.fields async for page in deployment.pages() for row in page.rows}
        return self._standing


def _patch(change: Change) -> Patch:
    before, after = dict(change.before or {}), dict(change.after or {})
    document_id = str(before.pop(DOCUMENT))
    after.pop(DOCUMENT)
    return Patch(document_id=document_id, clerk_id=change.record_key, before=before, after=after)


def _reverse(patch: Patch) -> Patch:
    return Patch(document_id=patch.document_id, clerk_id=patch.clerk_id, before=patch.after, after=patch.before)


def _document_of(change: Change) -> str:
    return str((change.before or {})[DOCUMENT])


def _holds(fields: Mapping[str, Any] | None, patch: Patch) -> bool:
    """Whether a row holds what a patch expects, or what it would write."""
    if fields is None:
        return False
    names = {*patch.before, *patch.after}
    held = {name: fields[name] for name in names if name in fields}
    return held in (dict(patch.before), dict(patch.after))


# --- the workspace's deployment --------------------------------------------------------------------------------------


async def convex_of(scope: Scope) -> Convex:
    """The client for the workspace's table; all who use it in this process share its slots."""
    access = _access(scope)
    url, deploy_key = access.url.resolve(), access.deploy_key.resolve()
    names = TableNames(table=access.table.resolve(), index=access.index.resolve(), id_field=access.id_field.resolve())

    async def connected() -> Convex:
        return convex.connect(
            await shared_http(scope),
            url=url,
            deploy_key=deploy_key,
            names=names,
            retry_budget=RetryBudget(),
            clock=SystemClock(),
        )

    return await scope.shared.get(("convex", url, deploy_key, names), connected)


def _workspace(scope: Scope) -> Workspace:
    return scope.registry.workspace(scope.partition_key)


def _access(scope: Scope) -> ConvexAccess:
    workspace = _workspace(scope)
    if workspace.convex is None:
        raise ConfigurationError("missing_section", f"{workspace.label} has no convex section in the registry; add it.")
    return workspace.convex


# --- landing and frames ----------------------------------------------------------------------------------------------


async def _land_rows(scope: Scope, deployment: Convex) -> None:
    """Land the table's rows page by page, from the cursor on."""
    position = await asyncio.to_thread(_position, scope)
    if position is not None and position["done"]:
        return
    read = 0 if position is None else position["read"]
    async for page in deployment.pages(None if position is None else position["cursor"]):
        scope.safe_point()
        await asyncio.to_thread(_land_page, scope, page, read=read)
        read += len(page.rows) + len(page.rejected)
        scope.report("convex rows", read, None)


def _position(scope: Scope) -> dict[str, Any] | None:
    with scope.engine.connect() as connection:
        return read_cursor(connection, backfill=scope.backfill, partition_key=scope.partition_key, stream=STREAM)


def _land_page(scope: Scope, page: Page, *, read: int) -> None:
    with scope.engine.begin() as connection:
        if not read:
            connection.execute(delete(convex_user).where(convex_user.c.partition_key == scope.partition_key))
        rows: list[Row | RejectedRow] = [*page.rows, *page.rejected]
        land_rows(connection, convex_user, [_landed(scope, row, number) for number, row in enumerate(rows, start=read)])
        write_cursor(
            connection,
            backfill=scope.backfill,
            partition_key=scope.partition_key,
            stream=STREAM,
            position={
                "cursor": page.following,
                "read": read + len(rows),
                "done": page.following is None,
            },
        )


def _landed(scope: Scope, row: Row | RejectedRow, number: int) -> Mapping[str, Any]:
    if isinstance(row, Row):
        own = {"document_id": row.document_id, "rejected": None, "clerk_id": row.clerk_id, "fields": dict(row.fields)}
    else:
        # A row without even an id still counts as one.
        own = {"document_id": row.id or f"unreadable {number}", "rejected": row.code, "clerk_id": None, "fields": {}}
    return {"partition_key": scope.partition_key, **own}


def _note_written(scope: Scope, changes: Sequence[Change]) -> None:
    """The landing as Convex is now."""
    rows = [
        {"document_id": patch.document_id, "gone": list(patch.before), "fields": dict(patch.after)}
        for patch in map(_patch, changes)
    ]
    with scope.engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE backfill.convex_user AS c SET fields = (c.fields - w.gone) || w.fields"
                " FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS w(document_id text, gone text[], fields jsonb)"
                " WHERE c.partition_key = :key AND c.document_id = w.document_id"
            ),
            {"rows": orjson.dumps(rows).decode(), "key": scope.partition_key},
        )


def _planned(scope: Scope, *, list_skips: bool) -> UsersPlan:
    options = scope.options
    clear_nulls = options.clear_nulls if isinstance(options, ConvexUsersOptions) else False
    return plan_users(_pairs(scope), clear_nulls=clear_nulls, list_skips=list_skips)


def _pairs(scope: Scope) -> Iterator[pd.DataFrame]:
    """Users beside the rows that have their id, sorted by it; joined where both are, which costs no memory here."""
    columns = ["u.user_id", "u.rejected", *(f"u.{name}" for name in FIELD_OF.values())]
    columns += ["c.document_id", "c.rejected", "c.clerk_id", "c.fields"]
    statement = sql.SQL(
        "SELECT json_build_array({})::text"
        " FROM (SELECT * FROM backfill.clerk_user WHERE partition_key = %(key)s) AS u"
        " FULL JOIN (SELECT * FROM backfill.convex_user WHERE partition_key = %(key)s) AS c ON c.clerk_id = u.user_id"
        ' ORDER BY coalesce(u.user_id, c.document_id) COLLATE "C", c.document_id COLLATE "C"'
    ).format(sql.SQL(", ").join(sql.SQL(column) for column in columns))
    with scope.engine.begin() as connection:
        connection.execute(text("SET LOCAL work_mem = '128MB'"))
        _, blocks = stream_columns(connection, statement, {"key": scope.partition_key})
        for block in blocks:
            rows = orjson.loads(f"[{','.join([row[0] for row in block])}]")
            yield pd.DataFrame(rows, columns=[*USER_COLUMNS, *ROW_COLUMNS], dtype=object)


# --- what a run tells ------------------------------------------------------------------------------------------------


def _told(scope: Scope, plan: UsersPlan, *, users: int) -> Iterator[pd.DataFrame]:
    """The plan's frames; what they come to is told after the last one."""
    problems: Counter[str] = Counter()
    for frame in plan.frames:
        problems.update(frame[frame["action"].isin((Action.REJECT, Action.CONFLICT))]["reason"].tolist())
        yield frame
    scope.details.update(
        totalClerkUsers=users,
        successCount=0,
        errorCount=problems.total(),
        timestamp=datetime.now(UTC).isoformat(),
        reasons=dict(sorted((problems + plan.skips).items())),
    )
    scope.details[GONE_FROM_CLERK] = plan.gone_from_clerk
    if plan.gone_from_clerk:
        scope.warnings.add(GONE_FROM_CLERK)


def _tell_result(scope: Scope) -> None:
    """What came of the run's rows."""
    with scope.engine.connect() as connection:
        states, _ = outcome_counts(connection, scope.run_id)
        problems = _planned_problems(connection, scope)
    scope.details.update(
        successCount=states.get(ChangeState.APPLIED, 0),
        errorCount=problems + states.get(ChangeState.FAILED, 0) + states.get(ChangeState.CONFLICT, 0),
        timestamp=datetime.now(UTC).isoformat(),
    )


def _planned_problems(connection: Connection, scope: Scope) -> int:
    counts = connection.scalar(text("SELECT planned_counts FROM backfill.run WHERE id = :id"), {"id": scope.run_id})
    return int(counts.get(Action.REJECT, 0) + counts.get(Action.CONFLICT, 0)) if counts else 0
