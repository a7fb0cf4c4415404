"""`client_leads`: interested replies of Email Bison into the table `client_leads`, per client.

The story, top to bottom: what it is, what must be true before it starts, how it reads the source (and proves whose it
is), what it plans, how it writes, how it checks. Does not belong here: the sweep over the pages
(`client_leads_source.py`), the lists that tell whose rows they are (`client_leads_proof.py`), and the pure decisions
(`client_leads_plan.py`).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import pandas as pd
from psycopg import sql
from pydantic import Field
from sqlalchemy import delete

from backfill_pipelines.backfills.client_leads_grouping import Source, Workspace, interested_leads
from backfill_pipelines.backfills.client_leads_plan import READ, TARGET, WRITTEN, compare, plan_client_leads
from backfill_pipelines.backfills.client_leads_proof import bison_access, forget_lists, proven_workspace, token_of
from backfill_pipelines.backfills.client_leads_source import REPLIES, Extraction, ForeignRowsError
from backfill_pipelines.database.bulk import copy_rows, stream_columns
from backfill_pipelines.database.catalogue import TableShape, read_table, require_access, require_fillable
from backfill_pipelines.database.tables import bison_lead, bison_reply, change
from backfill_pipelines.engine.backfill import Plan, Reconciliation, RunOptions, Scope
from backfill_pipelines.engine.journal import left_alone
from backfill_pipelines.engine.ledger import Run, read_cursor
from backfill_pipelines.engine.plan import Action
from backfill_pipelines.engine.sql_target import SqlTarget
from backfill_pipelines.errors import BackfillError, ConfigurationError, ErrorCategory
from backfill_pipelines.registry import Client

_TIMES = ("interested_at", "date_received", "deleted_at", "updated_at")
_EXAMPLES = 20
_BLANKS = " \t\n\r\v\f\u00a0\u200b\ufeff"
"""What a stored address may have at its ends; `btrim` alone takes off spaces only."""


class ClientLeadsOptions(RunOptions):
    """What a run of `client_leads` may be asked for besides."""

    accept_moved: bool = Field(
        default=False,
        description="Accept replies that another client's partition has landed: a sender has moved between them.",
    )


class ClientLeads:
    """Every interested lead of a client's Email Bison workspace has its row in `client_leads`."""

    name: ClassVar[str] = "client_leads"
    description: ClassVar[str] = (
        "One row of client_leads per interested lead of the client's Email Bison workspace. Creates what is missing, "
        "fills what is empty, never touches what people own."
    )
    source_asset: ClassVar[str] = "email_bison_replies"
    target_asset: ClassVar[str] = TARGET
    kinds: ClassVar[Mapping[Literal["source", "plan", "target"], set[str]]] = {
        "source": {"python"},
        "plan": {"pandas"},
        "target": {"postgres"},
    }
    partition_kind: ClassVar[Literal["client", "workspace"]] = "client"
    uses: ClassVar[str] = "email_bison"
    options_model: ClassVar[type[RunOptions]] = ClientLeadsOptions
    schedule: ClassVar[str] = "0 3 * * *"

    # --- what must be true before anything starts -----------------------------------------------------------------

    def preflight(self, scope: Scope) -> None:
        """Check the client's entry and the target table; raises `ConfigurationError`."""
        client = _client(scope)
        token_of(scope.registry, client)
        client.name.resolve()
        shape = _shape(scope)
        with scope.engine.connect() as connection:
            require_access(connection, shape, ("SELECT", "INSERT", "UPDATE"))
            require_fillable(connection, shape, WRITTEN)
        if not shape.has_unique_key(("lead_email", "workspace_name")):
            raise ConfigurationError(
                "missing_unique_key",
                f'The table "{shape.name}" has no immediate unique key on (lead_email, workspace_name), without which '
                "two writers make duplicates; add: "
                f'ALTER TABLE "{shape.name}" ADD UNIQUE (lead_email, workspace_name).',
            )

    # --- extract ---------------------------------------------------------------------------------------------------

    async def extract(self, scope: Scope) -> None:
        """Land the workspace's interested replies and their leads, proven to be the workspace's own."""
        client = _client(scope)
        try:
            async with proven_workspace(scope, client) as proven:
                if proven.lists.unread:
                    scope.warnings.add("proof_partial")
                await Extraction(
                    scope=scope,
                    reader=proven.reader,
                    lists=proven.lists,
                    instance=scope.registry.bison_instance(client).host,
                    pages_ahead=proven.pages_ahead,
                ).run()
        except BackfillError as error:
            # What may pass (an outage, Ctrl-C) keeps what it has landed: the next run goes on from there.
            if error.category in (ErrorCategory.CONFIGURATION, ErrorCategory.DATA):
                await asyncio.to_thread(_discard, scope, error)
            raise

    # --- plan ------------------------------------------------------------------------------------------------------

    def plan(self, scope: Scope) -> Plan:
        """Compare the interested leads with the client's rows, and say what to do."""
        workspace, shape = _workspace(scope), _shape(scope)
        source = _source(scope, workspace)
        if workspace.accepts_unknown and source.unknown_replies:
            scope.reasons["unknown_campaign"] = source.unknown_replies
        return Plan(
            source=source.replies,
            frames=plan_client_leads(
                source, _existing_rows(scope, shape), _reply_holders(scope, shape), workspace=workspace
            ),
        )

    # --- load and undo ---------------------------------------------------------------------------------------------

    def target(self, scope: Scope) -> SqlTarget:
        """Set-based, safe beside the webhook that writes the same rows at the same moment.

        A create gives way to any row that has come up for the lead, in whatever spelling; an update gives way to any
        change of the columns it wants to change, and to a deletion.
        """
        shape = _shape(scope)
        return SqlTarget(
            shape=shape,
            columns=WRITTEN,
            unique_key=("lead_email", "workspace_name"),
            create_guard=sql.SQL(
                "NOT EXISTS (SELECT 1 FROM {table} AS existing WHERE {workspace} = %(workspace)s"
                " AND lower(btrim({email}, %(blanks)s)) = b.record_key)"
            ).format(
                table=shape.table,
                workspace=shape.column("existing", "workspace_name"),
                email=shape.column("existing", "lead_email"),
            ),
            update_guard=sql.SQL("{} IS NULL").format(shape.column("t", "deleted_at")),
            guard_values={"workspace": _client(scope).name.resolve(), "blanks": _BLANKS},
            conflicts={
                key.name: "reply_id_taken" for key in shape.unique_keys if shape.actual("bison_reply_id") in key.columns
            },
        )

    # --- verify ----------------------------------------------------------------------------------------------------

    def verify(self, scope: Scope) -> Reconciliation:
        """Distinct leads at the source against interested rows in the target, by key."""
        workspace, shape = _workspace(scope), _shape(scope)
        source = _source(scope, workspace)
        comparison = compare(source, _existing_rows(scope, shape), workspace=workspace, left_alone=_left_alone(scope))
        return Reconciliation(
            equal=comparison.equal,
            missing=len(comparison.missing),
            extra=len(comparison.extra),
            different=len(comparison.different),
            explained=comparison.explained,
            passed=not comparison.missing and not comparison.different,
            examples={
                "missing_reply_ids": [str(lead.reply_id) for lead in comparison.missing[:_EXAMPLES]],
                "different_reply_ids": [str(lead.reply_id) for lead in comparison.different[:_EXAMPLES]],
                "extra_row_ids": list(comparison.extra[:_EXAMPLES]),
            },
            figures={"source leads": len(source.leads), "rejected at the source": len(source.rejects)},
        )

    def compare_partitions(self, runs: Sequence[Run]) -> Mapping[str, str]:
        """Two workspaces of an instance with the same total and the same newest reply: one answers for the other."""
        alike: dict[tuple[Any, Any, Any], list[str]] = defaultdict(list)
        for run in runs:
            if run.details.get("source_total"):
                figures = (run.details.get("instance"), run.details["source_total"], run.details.get("newest_reply_id"))
                alike[figures].append(run.partition_key)
        return {key: "same_as_other_workspace" for keys in alike.values() if len(keys) > 1 for key in keys}


# --- frames: what is landed, and what is in the target ---------------------------------------------------------------


def _source(scope: Scope, workspace: Workspace) -> Source:
    replies = sql.SQL(
        "SELECT reply_id, lead_id, campaign_id, known, {} AS date_received, from_name, from_email_address"
        " FROM backfill.bison_reply WHERE partition_key = %s"
    ).format(_microseconds(sql.SQL("date_received")))
    leads = sql.SQL(
        "SELECT lead_id, known, email, first_name, last_name, company, phone"
        " FROM backfill.bison_lead WHERE partition_key = %s"
    )
    return interested_leads(
        _frames(scope, replies, scope.partition_key), _frames(scope, leads, scope.partition_key), workspace=workspace
    )


def _existing_rows(scope: Scope, shape: TableShape) -> Iterator[pd.DataFrame]:
    """The client's rows, tombstones included; times in microseconds."""
    statement = sql.SQL("SELECT {columns} FROM {table} AS t WHERE {workspace} = %s").format(
        columns=sql.SQL(", ").join(_read_column(shape, name) for name in READ),
        table=shape.table,
        workspace=shape.column("t", "workspace_name"),
    )
    return _frames(scope, statement, _client(scope).name.resolve())


def _reply_holders(scope: Scope, shape: TableShape) -> Iterator[pd.DataFrame]:
    """The rows of any client that hold one of the replies of the source."""
    names = ("id", "bison_reply_id", "bison_instance", "workspace_name")
    statement = sql.SQL(
        "SELECT {columns} FROM {table} AS t JOIN backfill.bison_reply AS r ON r.reply_id = {reply_id}"
        " WHERE r.partition_key = %s"
    ).format(
        columns=sql.SQL(", ").join(_read_column(shape, name) for name in names),
        table=shape.table,
        reply_id=shape.column("t", "bison_reply_id"),
    )
    return _frames(scope, statement, scope.partition_key)


def _read_column(shape: TableShape, name: str) -> sql.Composable:
    column = shape.column("t", name)
    value = _microseconds(column) if name in _TIMES else column
    # Ids are compared and put into plans as text, whatever their type.
    return sql.SQL("{}::text AS id" if name == "id" else "{} AS {}").format(value, sql.Identifier(name))


def _microseconds(column: sql.Composable) -> sql.Composable:
    """A time as microseconds since 1970: exact in a double, and comparable without a parser."""
    return sql.SQL("(extract(epoch FROM {}) * 1000000)::double precision").format(column)


def _frames(scope: Scope, statement: sql.Composed | sql.SQL, parameter: str) -> Iterator[pd.DataFrame]:
    """Read a query as frames of Python objects, ten thousand rows at a time."""
    with scope.engine.begin() as connection:
        columns, blocks = stream_columns(connection, statement, [parameter])
        for block in blocks:
            yield pd.DataFrame(block, columns=columns, dtype=object)


# --- the client, in the terms of each step ---------------------------------------------------------------------------


def _client(scope: Scope) -> Client:
    return scope.registry.client(scope.partition_key)


def _workspace(scope: Scope) -> Workspace:
    client, shape = _client(scope), _shape(scope)
    access = bison_access(client)
    return Workspace(
        name=client.name.resolve(),
        instance=scope.registry.bison_instance(client).host,
        workspace_id=access.workspace_id,
        phone_region=scope.registry.phone_region(client),
        reply_ids_unique_alone=any(
            key.columns == (shape.actual("bison_reply_id"),) and not key.partial for key in shape.unique_keys
        ),
        accepts_unknown=access.token is not None,
    )


def _shape(scope: Scope) -> TableShape:
    names = scope.registry.table(TARGET)
    with scope.engine.connect() as connection:
        return read_table(connection, schema=names.schema, name=names.name, columns=names.columns(*READ))


def _left_alone(scope: Scope) -> set[str]:
    with scope.engine.connect() as connection:
        return set(left_alone(connection, backfill=scope.backfill, partition_key=scope.partition_key, target=TARGET))


def _discard(scope: Scope, error: BackfillError) -> None:
    """Forget what a refused extraction has landed, and put the ids of foreign rows into the ledger.

    What stayed would pass for this client's, and stop the client that it belongs to. What an earlier extraction has
    landed stays until a new one replaces it: that was proven.
    """
    with scope.engine.begin() as connection:
        if read_cursor(connection, backfill=scope.backfill, partition_key=scope.partition_key, stream=REPLIES):
            connection.execute(delete(bison_reply).where(bison_reply.c.partition_key == scope.partition_key))
            connection.execute(delete(bison_lead).where(bison_lead.c.partition_key == scope.partition_key))
        if isinstance(error, ForeignRowsError):
            forget_lists(connection, scope.registry, {scope.partition_key, *error.owners})
            # A process that died right here has written them already, and its run is gone on with.
            connection.execute(delete(change).where(change.c.run_id == scope.run_id))
            copy_rows(
                connection,
                table=("backfill", "change"),
                columns=("run_id", "seq", "target", "record_key", "action", "reason"),
                rows=(
                    (scope.run_id, seq, TARGET, f"reply {reply_id}", Action.REJECT.value, "foreign_rows")
                    for seq, reply_id in enumerate(error.reply_ids)
                ),
            )
