"""A merge or a split of customers, from what a person asks for to what is written: one run of the ledger.

Belongs here: finding the client, and the run: read, planned, executed, audited, and undone like any other. Does not
belong here: the rows (`customers_manual.py`), the queries (`customers_manual_source.py`), the statements
(`customers_target.py`), and who asks (the command line, the Dagster jobs).

Such a run is read, planned, stored and executed in one transaction, which closes it in the ledger too, and has no time
of planning there (`planned_at`): so no later run of the backfill goes on with it, loads it as the newest plan, or takes
it for the plan that explains what a verification finds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, select, text, update
from sqlalchemy.exc import DBAPIError

from backfill_pipelines.backfills.customers import Customers, group_keys, identity_rules
from backfill_pipelines.backfills.customers_identity import LeadColumns
from backfill_pipelines.backfills.customers_manual import (
    PlanRow,
    StandingCustomer,
    new_customer,
    plan_merge,
    plan_split,
    split_keys,
    split_values,
)
from backfill_pipelines.backfills.customers_manual_source import (
    as_uuid,
    client_of,
    held_values,
    is_free,
    is_taken,
    merged_into,
    read_customer,
    read_jobs_of,
    read_leads_of,
    unique_columns,
)
from backfill_pipelines.backfills.customers_plan import CUSTOMER, JOB, LEAD
from backfill_pipelines.backfills.customers_tables import ProductTables, read_tables
from backfill_pipelines.database.catalogue import require_access
from backfill_pipelines.database.tables import run as run_table
from backfill_pipelines.engine.backfill import RunOptions, Scope
from backfill_pipelines.engine.journal import outcome_counts
from backfill_pipelines.engine.ledger import Mode, Request, Run, State
from backfill_pipelines.engine.partition_run import audited, guarded, holding_partition, with_outcomes
from backfill_pipelines.engine.plan import Action, StoredPlan, plan_frame, store_plan
from backfill_pipelines.engine.runtime import Runtime
from backfill_pipelines.engine.set_based import is_unavailable, sqlstate_of
from backfill_pipelines.errors import ConfigurationError, DataError, TransientError
from backfill_pipelines.registry import Registry

_BACKFILL = Customers()
_MAY_PASS = ("40001", "40P01", "55P03")


@dataclass(frozen=True, kw_only=True)
class _Decision:
    """What a person's wish comes to."""

    rows: Sequence[PlanRow]
    source: int
    """Leads and jobs looked at."""
    details: Mapping[str, Any]


_Decide = Callable[[Connection, Scope, ProductTables], _Decision]


async def merge_customers(
    runtime: Runtime, *, into: str, gone: str, dry_run: bool, dagster_run_id: str | None = None
) -> Run:
    """Make two customers of a client one: leads and jobs of `gone` move to `into`, and `gone` is deleted.

    It stays where anything else points to it (a conflict, `in_use`). Either way a later backfill takes it for `into`,
    until the run is undone. Returns the run; raises `ConfigurationError`: `invalid_customer_id`, `same_customer`,
    `unknown_customer`, `already_merged`, `different_clients`, `unknown_client`.
    """
    kept, leaving = (_customer_id(given) for given in (into, gone))
    if kept == leaving:
        raise ConfigurationError("same_customer", "A customer cannot be merged into itself; name two customers.")
    partition_key = await asyncio.to_thread(_partition_of, runtime, kept, leaving)

    def decide(connection: Connection, scope: Scope, tables: ProductTables) -> _Decision:
        del scope
        require_access(connection, tables.customer, ("DELETE",))
        return _merge(connection, tables, _standing(connection, tables, kept), _standing(connection, tables, leaving))

    options = {"command": "merge", "into": kept, "from": leaving}
    return await _run(runtime, partition_key, decide, options=options, dry_run=dry_run, dagster_run_id=dagster_run_id)


async def split_customer(
    runtime: Runtime,
    *,
    customer: str,
    leads: Sequence[str],
    name: str | None,
    dry_run: bool,
    dagster_run_id: str | None = None,
) -> Run:
    """Give some leads of a customer, with their jobs, a customer of their own, which a later backfill leaves to them.

    Its name is the one given, else that of its newest lead. Returns the run; raises as `merge_customers` does. What is
    wrong with the leads is the run's error: `no_leads`, `unknown_leads`, `all_leads`.
    """
    identifier = _customer_id(customer)
    chosen = list(dict.fromkeys(lead for lead in leads if lead))
    partition_key = await asyncio.to_thread(_partition_of, runtime, identifier)

    def decide(connection: Connection, scope: Scope, tables: ProductTables) -> _Decision:
        old = _standing(connection, tables, identifier)
        _require_some_of(old, chosen)
        return _split(connection, scope, tables, old, chosen, name=(name or "").strip() or None)

    # The name is a person's: it stands in the plan's row alone.
    options = {"command": "split", "customer": identifier, "leads": len(chosen)}
    return await _run(runtime, partition_key, decide, options=options, dry_run=dry_run, dagster_run_id=dagster_run_id)


# --- what is asked for -----------------------------------------------------------------------------------------------


def _customer_id(given: str) -> str:
    identifier = as_uuid(given)
    if identifier is None:
        raise ConfigurationError(
            "invalid_customer_id", 'An id of a customer is a UUID; take it from the column customer_id of "Lead".'
        )
    return identifier


def _partition_of(runtime: Runtime, *customers: str) -> str:
    """The partition whose customers these are."""
    clients: dict[str, str] = {}
    with runtime.engine.connect() as connection:
        tables = read_tables(connection, runtime.registry)
        for identifier in customers:
            # Gone or not: where something else pointed to it, it is still there.
            if (into := merged_into(connection, identifier)) is not None:
                raise ConfigurationError(
                    "already_merged",
                    f"The customer {identifier} was merged into {into} already; name that one, or undo that merge.",
                )
            client_id = client_of(connection, tables.customer, identifier)
            if client_id is None:
                raise _unknown_customer(identifier)
            clients[identifier] = client_id
    if len(set(clients.values())) > 1:
        raise ConfigurationError(
            "different_clients", "These customers are of different clients, whose leads never meet; name two of one."
        )
    return partition_of_client(runtime.registry, next(iter(clients.values())))


def partition_of_client(registry: Registry, client_id: str) -> str:
    """The partition of the client with this id in the product. Raises `ConfigurationError("unknown_client")`."""
    for key in registry.partition_keys(Customers.partition_kind, Customers.uses):
        rows = registry.client(key).leads
        try:
            if rows is not None and rows.client_id.resolve() == client_id:
                return key
        except ConfigurationError:
            continue  # a variable that another client lacks is no matter of this one
    raise ConfigurationError(
        "unknown_client", "It belongs to a client that the registry does not have; add it with leads: {client_id: …}."
    )


def _unknown_customer(identifier: str) -> ConfigurationError:
    return ConfigurationError(
        "unknown_customer", f'There is no customer {identifier}; take its id from the column customer_id of "Lead".'
    )


def _standing(connection: Connection, tables: ProductTables, identifier: str) -> StandingCustomer:
    try:
        return read_customer(connection, tables, identifier)
    except LookupError:
        raise _unknown_customer(identifier) from None


def _require_some_of(old: StandingCustomer, chosen: Sequence[str]) -> None:
    """Raise unless the leads are some, but not all, of the customer's. A lead that it has not is told by its place."""
    unknown = [place for place, lead in enumerate(chosen, start=1) if lead not in old.leads]
    if not chosen:
        raise ConfigurationError("no_leads", "Say which leads to split off: --leads ID,ID.")
    if unknown:
        raise ConfigurationError(
            "unknown_leads",
            f"{len(unknown)} of the {len(chosen)} leads given are none of the customer's (number "
            f"{', '.join(map(str, unknown))} of the list); name leads that are linked to {old.id}.",
        )
    if len(chosen) == len(old.leads):
        raise ConfigurationError(
            "all_leads", f"These are all {len(chosen)} leads of the customer; leave it at least one."
        )


# --- what comes of it ------------------------------------------------------------------------------------------------


def _merge(connection: Connection, tables: ProductTables, into: StandingCustomer, gone: StandingCustomer) -> _Decision:
    jobs = read_jobs_of(connection, tables, gone)
    known = into.leads.keys() | gone.leads.keys()
    free = is_free(connection, tables, gone, jobs)
    rows = plan_merge(
        into,
        gone,
        jobs={job: lead in known for job, lead in jobs.items()},
        is_free=free,
        unique=unique_columns(tables.customer),
    )
    if not any(row[2] == Action.UPDATE for row in rows):
        raise ConfigurationError(
            "nothing_to_merge",
            f"The customer {gone.id} has no leads and no jobs to be moved, and something else points to it; "
            "change what points to it, then delete it.",
        )
    details = {"command": "merge", "into_customer": into.id, "from_customer": gone.id}
    return _Decision(rows=rows, source=len(gone.leads) + len(jobs), details=details)


def _split(
    connection: Connection,
    scope: Scope,
    tables: ProductTables,
    old: StandingCustomer,
    chosen: Sequence[str],
    *,
    name: str | None,
) -> _Decision:
    columns = LeadColumns(identity_rules(scope))
    columns.add([read_leads_of(connection, tables, old.id, old.client_id)])
    wanted = split_values(columns, set(chosen), old)
    held = held_values(connection, tables.customer, old.client_id, wanted)
    new = new_customer(
        columns,
        set(chosen),
        {column: [value for value in values if value not in held[column]] for column, values in wanted.items()},
        name=name,
        key=next(
            key
            for key in split_keys(group_keys(connection, scope), chosen)
            if not is_taken(connection, tables.customer, key[1])
        ),
    )
    jobs = {job for job, lead in read_jobs_of(connection, tables, old).items() if lead in set(chosen)}
    rows = plan_split(old, new, leads=chosen, jobs=jobs)
    details = {"command": "split", "from_customer": old.id, "new_customer": new.id}
    return _Decision(rows=rows, source=len(chosen) + len(jobs), details=details)


# --- the run ---------------------------------------------------------------------------------------------------------


async def _run(
    runtime: Runtime,
    partition_key: str,
    decide: _Decide,
    *,
    options: Mapping[str, Any],
    dry_run: bool,
    dagster_run_id: str | None,
) -> Run:
    ledger = runtime.ledger
    request = Request(
        backfill=_BACKFILL.name,
        partition_key=partition_key,
        mode=Mode.PLAN if dry_run else Mode.LOAD,
        dagster_run_id=dagster_run_id,
        root_run_id=dagster_run_id,
        options=options,
    )

    async def work() -> Run:
        run = await asyncio.to_thread(ledger.open_side_run, request, now=datetime.now(UTC))
        scope = runtime.scope(_BACKFILL, partition_key, options=RunOptions(), run_id=run.id)
        failure = await guarded(
            lambda: asyncio.to_thread(_execute, runtime, scope, run, decide, dry_run=dry_run), scope=scope
        )
        if not dry_run:
            failure = await audited(runtime, _BACKFILL, scope, run, failure)
        if failure is not None:
            await asyncio.to_thread(ledger.fail, run, failure, now=datetime.now(UTC))
            # Whatever the reason was: the backfill's next run is no merge to go on with.
            await asyncio.to_thread(ledger.record, run.id, resumable=False)
        return ledger.get(run.id) or run

    return await holding_partition(runtime, request, work)


def _execute(runtime: Runtime, scope: Scope, run: Run, decide: _Decide, *, dry_run: bool) -> None:
    """Read, plan, store and execute: all of it, or nothing."""
    _BACKFILL.preflight(scope)
    target = _BACKFILL.target(scope)
    scope.require_lock()
    try:
        with runtime.engine.begin() as connection:
            # Tried again after a COMMIT whose answer was lost, there is nothing left to do.
            if connection.scalar(select(run_table.c.state).where(run_table.c.id == run.id)) == State.SUCCEEDED:
                return
            decision = decide(connection, scope, target.tables)
            stored = store_plan(connection, run_id=run.id, frames=[plan_frame(decision.rows)])
            if not dry_run:
                target.apply(connection, run.id, 0, len(decision.rows))
            _close(connection, run, decision, stored)
    except DBAPIError as error:
        sqlstate = sqlstate_of(error)
        if is_unavailable(error):
            raise
        if sqlstate in _MAY_PASS:
            raise TransientError(
                "target_busy",
                f"Other writers kept the rows locked (SQLSTATE {sqlstate}); nothing was changed, try again.",
            ) from None
        raise DataError(
            "target_refused",
            f"The database refused the change (SQLSTATE {sqlstate or 'none'}), and nothing was changed; look at the "
            'keys, constraints and triggers of "Customer", "Lead" and "Job".',
        ) from None


def _close(connection: Connection, run: Run, decision: _Decision, stored: StoredPlan) -> None:
    states, codes = outcome_counts(connection, run.id)
    planned = {"source": decision.source, **stored.actions}
    counts, reasons = with_outcomes(planned, stored.reasons, states, codes)
    rows = connection.execute(
        text(
            "SELECT target || ' ' || CASE WHEN after ? 'merged_into' THEN 'delete' ELSE action END, count(*)"
            " FROM backfill.change WHERE run_id = :run_id AND action IN ('create', 'update')"
            " AND state IN ('planned', 'applied') GROUP BY 1"
        ),
        {"run_id": run.id},
    )
    done = {what: count for what, count in rows}  # noqa: C416 - a row is no pair to mypy
    details = {
        **decision.details,
        "plan_hash": stored.plan_hash,
        "customers_created": done.get(f"{CUSTOMER} create", 0),
        "customers_deleted": done.get(f"{CUSTOMER} delete", 0),
        "leads_linked": done.get(f"{LEAD} update", 0),
        "jobs_linked": done.get(f"{JOB} update", 0),
    }
    connection.execute(
        update(run_table)
        .where(run_table.c.id == run.id)
        .values(state=State.SUCCEEDED, finished_at=datetime.now(UTC), counts=counts, reasons=reasons, details=details)
    )
