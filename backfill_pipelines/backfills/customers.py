"""`customers`: leads grouped into customers, leads and jobs linked to them, per client.

The story, top to bottom: what it is, what must be true before it starts, what it plans, how it writes, how it checks,
what it leaves behind. Does not belong here: how fields are read (`customers_identity.py`), who belongs together
(`customers_grouping.py`), the rows (`customers_plan.py`), the statements (`customers_target.py`, `customers_undo.py`)
and the questions of the verification (`customers_verify.py`).
"""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar, Literal

import pandas as pd
import psycopg
from pydantic import SecretStr
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from backfill_pipelines.backfills.customers_audit import KEY_VARIABLE, hash_key, is_audited, write_audit
from backfill_pipelines.backfills.customers_identity import GroupKeys, IdentityRules
from backfill_pipelines.backfills.customers_plan import CUSTOMER, JOB, LEAD, CustomersPlan, plan_customers
from backfill_pipelines.backfills.customers_source import (
    are_all_linked,
    read_customers,
    read_jobs,
    read_known,
    read_leads,
    read_strangers,
)
from backfill_pipelines.backfills.customers_tables import (
    ProductTables,
    jobs_of_no_client,
    read_tables,
    require_usable,
)
from backfill_pipelines.backfills.customers_target import CustomersTarget
from backfill_pipelines.backfills.customers_verify import EXAMPLES, ask, count_leads
from backfill_pipelines.backfills.large_plans import unseen_by_garbage_collection, without_garbage_collection
from backfill_pipelines.engine.backfill import Plan, Reconciliation, RunOptions, Scope
from backfill_pipelines.engine.journal import left_alone
from backfill_pipelines.engine.ledger import Mode, Run
from backfill_pipelines.engine.set_based import is_unavailable, sqlstate_of
from backfill_pipelines.errors import BackfillError, ConfigurationError, DataError, ErrorCategory
from backfill_pipelines.registry import Client, CustomersSettings

_log = logging.getLogger(__name__)

_FRAMES_AHEAD = 4


class Customers:
    """Every lead of a client has its customer, and every job its lead's."""

    name: ClassVar[str] = "customers"
    description: ClassVar[str] = (
        "One customer per person behind a client's leads, by PSID, phone or address; leads and jobs linked to it. "
        "Conservative: what is uncertain stays apart, and what people made is only filled where it is empty."
    )
    source_asset: ClassVar[str] = "leads_and_jobs"
    target_asset: ClassVar[str] = "customers"
    kinds: ClassVar[Mapping[Literal["source", "plan", "target"], set[str]]] = {
        "source": {"postgres"},
        "plan": {"pandas"},
        "target": {"postgres"},
    }
    partition_kind: ClassVar[Literal["client", "workspace"]] = "client"
    uses: ClassVar[str] = "leads"
    options_model: ClassVar[type[RunOptions]] = RunOptions
    schedule: ClassVar[str] = "30 4 * * *"

    # --- what must be true before anything starts -----------------------------------------------------------------

    def preflight(self, scope: Scope) -> None:
        """Check the tables, the role's privileges, the settings and the client; raises `ConfigurationError`."""
        identity_rules(scope)
        with scope.engine.begin() as connection:
            require_usable(connection, scope.registry, read_tables(connection, scope.registry), _client_id(scope))
            group_keys(connection, scope)

    # --- extract ---------------------------------------------------------------------------------------------------

    async def extract(self, scope: Scope) -> None:
        """Nothing to land: source and target are the same database, and the plan reads both in one snapshot."""

    # --- plan ------------------------------------------------------------------------------------------------------

    def plan(self, scope: Scope) -> Plan:
        """Say which customers the client's leads and jobs have."""
        client_id = _client_id(scope)
        with scope.engine.begin() as connection:
            keys = group_keys(connection, scope)
        with scope.engine.connect() as connection, connection.begin(), without_garbage_collection():
            connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
            tables = read_tables(connection, scope.registry)
            list_skips = scope.registry.store_skips(self.name, scope.partition_key)
            known = read_known(connection, tables, client_id, with_strangers=False)
            with_fields = not are_all_linked(connection, tables, client_id)
            with _read_ahead(
                read_leads(connection, tables, client_id, with_fields=with_fields),
                read_customers(connection, tables, client_id, with_fields=with_fields),
                read_jobs(connection, tables, client_id, list_linked=list_skips),
            ) as (leads, customers, jobs):
                plan = plan_customers(
                    _with_progress(scope, leads),
                    customers,
                    jobs,
                    rules=identity_rules(scope),
                    keys=keys,
                    known=lambda ids: replace(known, strangers=read_strangers(connection, tables, ids)),
                    list_skips=list_skips,
                )
        scope.details.update(plan.figures)
        if _log.isEnabledFor(logging.INFO):
            _tell_groups(scope, plan)
        return Plan(source=plan.source, frames=unseen_by_garbage_collection(plan.frames), skips=plan.skips)

    # --- load and undo ---------------------------------------------------------------------------------------------

    def target(self, scope: Scope) -> CustomersTarget:
        """Set-based, one transaction for the client; whoever links a lead meanwhile keeps it."""
        with scope.engine.connect() as connection:
            tables = read_tables(connection, scope.registry)
        return CustomersTarget(
            tables=tables,
            client_id=_client_id(scope),
            progress=lambda done, total: scope.report("load", done, total),
        )

    # --- verify ----------------------------------------------------------------------------------------------------

    def verify(self, scope: Scope) -> Reconciliation:
        """Ask the questions of `customers_verify.py`; what the newest plan left as a conflict is explained."""
        with scope.engine.connect() as connection:
            tables = read_tables(connection, scope.registry)
            client_id = _client_id(scope)
            broken = ask(connection, tables, client_id)
            left = {
                target: left_alone(connection, backfill=self.name, partition_key=scope.partition_key, target=target)
                for target in (LEAD, JOB)
            }
            leads_total = count_leads(connection, tables, client_id)
            mode = connection.scalar(text("SELECT mode FROM backfill.run WHERE id = :id"), {"id": scope.run_id})
            # A run's own audit is written after this.
            unaudited = [] if mode == Mode.LOAD else _unaudited_runs(connection, scope, tables)
            of_no_client = jobs_of_no_client(connection, tables) if _speaks_for_all(scope) else None
            if mode == Mode.LOAD:
                scope.details.update(_written(connection, scope))
        if broken["large_groups"]:
            scope.warnings.add("large_groups")
        unexplained = {
            name: sorted(ids - left[JOB if name.startswith("jobs") else LEAD].keys()) for name, ids in broken.items()
        }
        explained = [
            reason
            for name, ids in broken.items()
            if name.startswith("leads")
            for identifier in ids
            if (reason := left[LEAD].get(identifier))
        ]
        explained += [
            reason
            for name, ids in broken.items()
            if name.startswith("jobs")
            for identifier in ids
            if (reason := left[JOB].get(identifier))
        ]
        missing = len(unexplained["leads_without_customer"]) + len(unexplained["jobs_without_customer"])
        different = sum(
            len(unexplained[name])
            for name in ("jobs_of_another_customer", "leads_of_a_foreign_customer", "customers_with_one_phone")
        )
        extra = len(unexplained["created_customers_without_leads"])
        figures: dict[str, Any] = {"leads": leads_total, "large groups": len(broken["large_groups"])}
        figures |= {f"left alone: {reason}": count for reason, count in sorted(Counter(explained).items())}
        if of_no_client is not None:
            figures["no_lead"] = of_no_client
        return Reconciliation(
            equal=leads_total - len(broken["leads_without_customer"]) - len(broken["leads_of_a_foreign_customer"]),
            missing=missing,
            extra=extra,
            different=different,
            explained=len(explained),
            passed=not (missing or different or extra or unaudited),
            examples={name: ids[:EXAMPLES] for name, ids in unexplained.items() if ids}
            | ({"runs_without_audit": unaudited} if unaudited else {}),
            figures=figures,
        )

    def compare_partitions(self, runs: Sequence[Run]) -> Mapping[str, str]:  # noqa: ARG002 - the protocol's
        """Clients never meet here."""
        return {}

    # --- what a run leaves behind ----------------------------------------------------------------------------------

    def audit(self, scope: Scope, run: Run, failure: BackfillError | None) -> None:
        """One row in the product's own audit for each run that loads or takes back."""
        if failure is not None and failure.category is ErrorCategory.CONFIGURATION and run.planned_at is None:
            return  # it has not come so far as to touch anything
        figures = {name: value for name, value in run.details.items() if name != "groups"}
        if run.mode is Mode.LOAD:
            with scope.engine.connect() as connection:
                figures |= _written(connection, scope)  # a load that has failed has not come to compare them
        payload = {
            "client_id": _client_id(scope),
            "partition": scope.partition_key,
            "mode": run.mode,
            "run_id": str(run.id),
            "undoes": None if run.undoes is None else str(run.undoes),
            "plan_hash": run.plan_hash,
            "succeeded": failure is None,
            "error_codes": [] if failure is None else [failure.code],
            "groups": run.details.get("groups", {}),
            **figures,
            "counts": dict(run.counts),
            "reasons": dict(run.reasons),
        }
        with scope.engine.connect() as connection:
            tables = read_tables(connection, scope.registry)
        try:
            with scope.engine.begin() as connection:
                write_audit(connection, tables, run_id=run.id, payload=payload)
        except (DBAPIError, psycopg.Error) as error:
            if is_unavailable(error):
                raise
            raise DataError(
                "audit_refused",
                f'The table "{tables.audit.name}" refused the entry of this run (SQLSTATE {sqlstate_of(error)}), whose '
                "other writes stand; make it accept the action backfill_customers, and run again.",
            ) from None


# --- the client, in the terms of each step ---------------------------------------------------------------------------


def _client(scope: Scope) -> Client:
    return scope.registry.client(scope.partition_key)


def _client_id(scope: Scope) -> str:
    rows = _client(scope).leads
    if rows is None:
        raise ConfigurationError(
            "missing_section", f"The client {scope.partition_key} has no section leads: {{client_id: …}}; add it."
        )
    return rows.client_id.resolve()


def identity_rules(scope: Scope) -> IdentityRules:
    """How the client's fields are read, by its settings; raises `ConfigurationError`."""
    client = _client(scope)
    settings = scope.registry.settings(CustomersSettings, client)
    blocked = settings.blocked
    return IdentityRules(
        region=scope.registry.phone_region(client),
        phone_format=settings.phone_format,
        max_group_size=settings.max_group_size,
        blocked_emails=_lowered(blocked.emails),
        blocked_local_parts=_lowered(blocked.local_parts),
        blocked_domains=_lowered(blocked.domains),
        blocked_phones=frozenset(blocked.phones),
    )


def _lowered(values: Iterable[str]) -> frozenset[str]:
    return frozenset(value.strip().lower() for value in values)


def group_keys(connection: Connection, scope: Scope) -> GroupKeys:
    """The client's group keys, with the installation's secret; raises `ConfigurationError`."""
    configured = os.environ.get(KEY_VARIABLE, "").strip()
    return GroupKeys(hash_key(connection, SecretStr(configured) if configured else None), _client_id(scope))


def _speaks_for_all(scope: Scope) -> bool:
    """Whether this partition counts what belongs to no client: one must, or 24 clients would count it 24 times."""
    return scope.partition_key == scope.registry.partition_keys("client", Customers.uses)[0]


def _unaudited_runs(connection: Connection, scope: Scope, tables: ProductTables) -> list[str]:
    """The newest run that wrote, where the product's audit does not know it."""
    newest = connection.scalar(
        text(
            "SELECT id::text FROM backfill.run WHERE backfill = :backfill AND partition_key = :key AND planned_at IS"
            " NOT NULL AND mode = 'load' AND finished_at IS NOT NULL ORDER BY started_at DESC LIMIT 1"
        ),
        {"backfill": scope.backfill, "key": scope.partition_key},
    )
    return [newest] if newest is not None and not is_audited(connection, tables, newest) else []


def _written(connection: Connection, scope: Scope) -> dict[str, int]:
    """The run's figures as they came out: rows that had moved were left alone."""
    rows = connection.execute(
        text(
            "SELECT target, action, count(*) FROM backfill.change WHERE run_id = :run_id AND state = 'applied'"
            " GROUP BY target, action"
        ),
        {"run_id": scope.run_id},
    )
    applied = {(target, action): count for target, action, count in rows}
    return {
        "customers_created": applied.get((CUSTOMER, "create"), 0),
        "leads_linked": applied.get((LEAD, "update"), 0),
        "jobs_linked": applied.get((JOB, "update"), 0),
    }


@contextmanager
def _read_ahead(*sources: Iterator[pd.DataFrame]) -> Iterator[list[Iterator[pd.DataFrame]]]:
    """The sources, to be worked on one after the other, while what comes next is read: both sides have a core each."""

    def read() -> Iterator[pd.DataFrame | None]:
        for source in sources:
            yield from source
            yield None  # Said at once, not when the next source's first frame is there.

    frames = read()
    with ThreadPoolExecutor(1) as reader:
        ahead = deque(reader.submit(next, frames, None) for _ in range(_FRAMES_AHEAD))

        def next_source() -> Iterator[pd.DataFrame]:
            while (frame := ahead.popleft().result()) is not None:
                ahead.append(reader.submit(next, frames, None))
                yield frame
            ahead.append(reader.submit(next, frames, None))

        yield [next_source() for _ in sources]


def _with_progress(scope: Scope, frames: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    done = 0
    for frame in frames:
        yield frame
        done += len(frame)
        scope.report("read", done, None)
        scope.safe_point()


def _tell_groups(scope: Scope, plan: CustomersPlan) -> None:
    """List every group, as `--verbose` asks: what made it, how many leads, why it is what it is; ids alone."""
    grouping = plan.grouping
    sizes = Counter(grouping.group_of)
    reasons: defaultdict[int, set[str]] = defaultdict(set)
    for lead, reason in grouping.reason_of.items():
        reasons[grouping.group_of[lead]].add(reason)
    for number, group in enumerate(grouping.groups):
        settled = group.customer.id if group.customer is not None else group.own_id
        _log.info(
            "%s: customer %s, type %s, %d leads, %s",
            scope.partition_key,
            "none" if group.conflict is not None else settled,
            group.kind,
            sizes[number],
            ", ".join(sorted({*filter(None, (group.conflict, group.reason)), *reasons[number]})) or "as usual",
        )
