"""What `convex_users` reads: the app's table, landed page by page, and Clerk's users beside its rows as frames.

Belongs here: the client of a workspace's deployment, the landing of its rows and what a load changes in it, the frames
for the plan. Does not belong here: Clerk's lists (`clerk_landing.py`), what to do about a row (`convex_users_plan.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import orjson
import pandas as pd
from psycopg import sql
from sqlalchemy import delete, func, select, text

from backfill_pipelines.backfills.convex_users_plan import FIELD_OF, ROW_COLUMNS, USER_COLUMNS
from backfill_pipelines.backfills.shared_connections import shared_http
from backfill_pipelines.database.bulk import land_rows, stream_columns
from backfill_pipelines.database.tables import clerk_user, convex_user
from backfill_pipelines.engine.backfill import Scope
from backfill_pipelines.engine.ledger import read_cursor, write_cursor
from backfill_pipelines.errors import ConfigurationError
from backfill_pipelines.registry import ConvexAccess
from backfill_pipelines.vendors import convex
from backfill_pipelines.vendors.clock import SystemClock
from backfill_pipelines.vendors.convex import Convex, Page, Patch, RejectedRow, Row, TableNames
from backfill_pipelines.vendors.retry import RetryBudget

STREAM = "convex_users"
_WORK_MEMORY = "128MB"
_Item = TypeVar("_Item")


# --- the workspace's deployment --------------------------------------------------------------------------------------


async def convex_of(scope: Scope) -> Convex:
    """The client for the workspace's table; all who use it in this process share its slots."""
    access = access_of(scope)
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


def access_of(scope: Scope) -> ConvexAccess:
    """What the registry says of the deployment. Raises `ConfigurationError`."""
    workspace = scope.registry.workspace(scope.partition_key)
    if workspace.convex is None:
        raise ConfigurationError("missing_section", f"{workspace.label} has no convex section in the registry; add it.")
    return workspace.convex


# --- landing ---------------------------------------------------------------------------------------------------------


async def land_documents(scope: Scope, deployment: Convex) -> None:
    """Land the table's rows in `backfill.convex_user`, from the cursor on; nothing where they are landed already."""
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
    rows: list[Row | RejectedRow] = [*page.rows, *page.rejected]
    position = {"cursor": page.following, "read": read + len(rows), "done": page.following is None}
    with scope.engine.begin() as connection:
        if not read:
            connection.execute(delete(convex_user).where(convex_user.c.partition_key == scope.partition_key))
        land_rows(connection, convex_user, [_landed(scope, row, number) for number, row in enumerate(rows, start=read)])
        write_cursor(
            connection,
            backfill=scope.backfill,
            partition_key=scope.partition_key,
            stream=STREAM,
            position=position,
        )


def _landed(scope: Scope, row: Row | RejectedRow, number: int) -> Mapping[str, Any]:
    if isinstance(row, Row):
        own = {"document_id": row.document_id, "rejected": None, "fields": dict(row.fields)}
    else:
        # A row without even an id still counts as one.
        own = {"document_id": row.id or f"unreadable {number}", "rejected": row.code, "fields": {}}
    return {"partition_key": scope.partition_key, "clerk_id": row.clerk_id, **own}


def note_written(scope: Scope, patches: Sequence[Patch]) -> None:
    """Make the landing what Convex has been made: a comparison after the load needs no second reading."""
    rows = [
        {"document_id": patch.document_id, "gone": list(patch.before), "fields": dict(patch.after)} for patch in patches
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


# --- frames ----------------------------------------------------------------------------------------------------------


def count_users(scope: Scope) -> int:
    """How many users of Clerk are landed, unreadable ones included."""
    landed = select(func.count()).select_from(clerk_user).where(clerk_user.c.partition_key == scope.partition_key)
    with scope.engine.connect() as connection:
        return connection.scalar(landed) or 0


def pair_frames(scope: Scope) -> Iterator[pd.DataFrame]:
    """Users beside the rows that have their id, sorted by it; joined where both are, which costs no memory here."""
    columns = ["u.user_id", "u.rejected", *(f"u.{name}" for name in FIELD_OF.values())]
    columns += ["c.document_id", "c.rejected", "coalesce(c.fields::text, '{}')"]
    statement = sql.SQL(
        "SELECT {} FROM (SELECT * FROM backfill.clerk_user WHERE partition_key = %(key)s) AS u"
        " FULL JOIN (SELECT * FROM backfill.convex_user WHERE partition_key = %(key)s) AS c ON c.clerk_id = u.user_id"
        ' ORDER BY coalesce(u.user_id, c.document_id) COLLATE "C", u.user_id IS NULL, c.document_id COLLATE "C"'
    ).format(sql.SQL(", ").join(sql.SQL(column) for column in columns))
    with scope.engine.begin() as connection:
        connection.execute(text(f"SET LOCAL work_mem = '{_WORK_MEMORY}'"))
        _, blocks = stream_columns(connection, statement, {"key": scope.partition_key})
        for block in _one_ahead(blocks):
            frame = pd.DataFrame(block, columns=[*USER_COLUMNS, *ROW_COLUMNS], dtype=object)
            # One document for all of them: a call for each takes longer than what it decodes.
            frame["fields"] = orjson.loads(f"[{','.join(frame['fields'])}]")
            yield frame


def _one_ahead(blocks: Iterator[_Item]) -> Iterator[_Item]:
    """The same, while the next one is on its way: the database and the plan take about as long, each on a processor."""
    with ThreadPoolExecutor(1, thread_name_prefix="convex-users") as thread:
        following = thread.submit(next, blocks, None)
        while (block := following.result()) is not None:
            following = thread.submit(next, blocks, None)
            yield block
