"""`lead_hydration`: a client's leads found in its GoHighLevel location, and their empty fields filled from there.

The story, top to bottom: what it is, what must be true before it starts, what it reads, what it plans, how it writes,
how it checks. Does not belong here: reading the location (`lead_hydration_source.py`, `lead_hydration_lookups.py`),
which contact a lead has (`lead_hydration_matching.py`), the rows (`lead_hydration_plan.py`), the statements
(`lead_hydration_tables.py`). Nothing here writes to GoHighLevel.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from math import ceil
from typing import Any, ClassVar, Literal

import pandas as pd
from psycopg import sql
from pydantic import Field
from sqlalchemy import Connection, delete, select

from backfill_pipelines.backfills.large_plans import seldom_garbage_collection
from backfill_pipelines.backfills.lead_hydration_access import location_of, used_today
from backfill_pipelines.backfills.lead_hydration_landing import Landing, Reading, asked_of, read_reading
from backfill_pipelines.backfills.lead_hydration_lookups import LookUps
from backfill_pipelines.backfills.lead_hydration_matching import FOREIGN_CONTACT, NOT_FOUND, Contacts, Wanted
from backfill_pipelines.backfills.lead_hydration_plan import (
    FILLED,
    GHL_CONTACT,
    LEAD,
    LINK,
    NOTHING_TO_FILL,
    WRITTEN,
    HydrationPlan,
    Rules,
)
from backfill_pipelines.backfills.lead_hydration_source import (
    SCAN_INCOMPLETE,
    Extraction,
    ForeignContactsError,
)
from backfill_pipelines.backfills.lead_hydration_tables import (
    completeness,
    differing_leads,
    eligible_leads,
    landed_contacts,
    lead_table,
    links_of,
    newest_load,
    require_client,
    written_fields,
)
from backfill_pipelines.database.bulk import copy_rows
from backfill_pipelines.database.catalogue import TableShape, require_access
from backfill_pipelines.database.tables import change, run
from backfill_pipelines.engine.backfill import Plan, Reconciliation, RunOptions, Scope
from backfill_pipelines.engine.completeness import Completeness, completeness_of, shares
from backfill_pipelines.engine.journal import left_alone
from backfill_pipelines.engine.ledger import Mode, Run
from backfill_pipelines.engine.plan import Action
from backfill_pipelines.engine.sql_target import SqlTarget
from backfill_pipelines.errors import ConfigurationError, ParkedError
from backfill_pipelines.registry import Client, LeadHydrationSettings, Registry

_log = logging.getLogger(__name__)

LOCATIONS_AT_ONCE = 100
"""They are independent of one another and mostly wait for their permits: far more than other partitions at once."""
BATCH_ROWS = 50_000
"""Each batch reads the whole table; its locks are held for about two seconds."""
_EXAMPLES = 20
_IDS_A_LINE = 50
_TAKEN = {LINK: "contact_taken", "phone": "phone_taken", "email": "email_taken"}


class LeadHydrationOptions(RunOptions):
    """What a run of `lead_hydration` may be asked for besides."""

    concurrency: int | None = Field(
        default=None, ge=1, description="Locations at work at once; max_parallel_clients of the registry, else 100."
    )
    per_location_rps: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Requests a second to one location at most, below what GoHighLevel allows.",
    )

    def partitions_at_once(self, registry: Registry) -> int:
        """See `RunOptions`."""
        if self.concurrency is not None:
            return self.concurrency
        said = "max_parallel_clients" in registry.defaults.model_fields_set
        return registry.defaults.max_parallel_clients if said else LOCATIONS_AT_ONCE


class LeadHydration:
    """Every lead that can be found in the client's location is linked, and has what its contact knows of it."""

    name: ClassVar[str] = "lead_hydration"
    description: ClassVar[str] = (
        "Links every lead to its GoHighLevel contact, by id or address, and fills the lead's empty fields from it. "
        "Never overwrites a field, and never writes to GoHighLevel."
    )
    source_asset: ClassVar[str] = "gohighlevel_contacts"
    target_asset: ClassVar[str] = "leads"
    kinds: ClassVar[Mapping[Literal["source", "plan", "target"], set[str]]] = {
        "source": {"python"},
        "plan": {"pandas"},
        "target": {"postgres"},
    }
    partition_kind: ClassVar[Literal["client", "workspace"]] = "client"
    uses: ClassVar[frozenset[str]] = frozenset({"gohighlevel", "leads"})
    options_model: ClassVar[type[RunOptions]] = LeadHydrationOptions
    schedule: ClassVar[str] = "30 3 * * *"
    partitions_per_run: ClassVar[int] = LOCATIONS_AT_ONCE

    # --- what must be true before anything starts -----------------------------------------------------------------

    def preflight(self, scope: Scope) -> None:
        """Check the client's entry, the leads' table and the role's privileges; raises `ConfigurationError`."""
        scope.registry.require_partition(self.partition_kind, scope.partition_key, sorted(self.uses))
        client = _client(scope)
        scope.registry.require_own_location(client)
        if client.gohighlevel is not None:
            client.gohighlevel.location_id.resolve()
            client.gohighlevel.token.resolve()
        _rules(scope)
        with scope.engine.connect() as connection:
            scope.kept.pop(LEAD, None)
            require_access(connection, _lead(scope, connection), ("SELECT", "UPDATE"))
            require_client(connection, scope.registry, _client_id(scope))

    # --- extract ---------------------------------------------------------------------------------------------------

    async def extract(self, scope: Scope) -> None:
        """Land the contacts that the client's leads want, with as few calls as that takes."""
        await scope.shared.get("seldom garbage collection", partial(scope.shared.enter, seldom_garbage_collection()))
        wanted = await asyncio.to_thread(_wanted, scope)
        rps = scope.options.per_location_rps if isinstance(scope.options, LeadHydrationOptions) else None
        parked: ParkedError | None = None
        async with location_of(scope, per_location_rps=rps) as access:
            extraction = Extraction(scope, access, wanted)
            await extraction.begin()
            try:
                if not extraction.reading.finished:
                    await _read(extraction)
            except ForeignContactsError as error:
                await asyncio.to_thread(_discard, scope, extraction.landing, error)
                raise
            except ParkedError as error:
                parked = error
        # Closed by now: what was leased of the day and not used is not counted any more.
        await _tell(scope, extraction, wait_until=None if parked is None else parked.wake_at)
        if parked is not None:
            raise parked
        if extraction.reading.way == "scan" and extraction.reading.distinct < (extraction.reading.total or 0):
            scope.warnings.add(SCAN_INCOMPLETE)

    # --- plan ------------------------------------------------------------------------------------------------------

    def plan(self, scope: Scope) -> Plan:
        """Say which empty fields of which leads are filled."""
        with scope.engine.begin() as connection:
            lead = _lead(scope, connection)
            before = completeness(connection, lead, _client_id(scope))
        plan, wanted = _plan(scope, lead)
        return Plan(source=wanted.eligible, frames=_told(scope, plan, before), skips=plan.skips)

    # --- load and undo ---------------------------------------------------------------------------------------------

    def target(self, scope: Scope) -> SqlTarget:
        """Set-based, by compare-and-set on the fields that are filled and on those by which the contact was found."""
        with scope.engine.connect() as connection:
            lead = _lead(scope, connection)
        return SqlTarget(
            shape=lead,
            columns=WRITTEN,
            unique_key=("id",),
            create_guard=sql.SQL("false"),  # no lead is ever made
            # `b` is the plan's row. A lead of another address or id by now would be filled from a stranger.
            update_guard=sql.SQL(" AND ").join(
                [
                    sql.SQL("{} = %(client_id)s").format(lead.column("t", "client_id")),
                    *(
                        sql.SQL("{}::text IS NOT DISTINCT FROM b.before->>{}").format(
                            lead.column("t", name), sql.Literal(name)
                        )
                        for name in (LINK, "email")
                    ),
                ]
            ),
            guard_values={"client_id": _client_id(scope)},
            batch_rows=BATCH_ROWS,
            conflicts={
                key.name: reason
                for name, reason in reversed(_TAKEN.items())
                for key in lead.unique_keys
                if lead.actual(name) in key.columns
            },
        )

    # --- verify ----------------------------------------------------------------------------------------------------

    def verify(self, scope: Scope) -> Reconciliation:
        """Plan anew on the leads as they are: what could still be filled is missing. And what the newest load has
        written (`linked` and `filled` of the details) must be there, unless somebody has written the lead since."""
        with scope.engine.begin() as connection:
            lead = _lead(scope, connection)
            now = completeness(connection, lead, _client_id(scope))
            left = left_alone(connection, backfill=self.name, partition_key=scope.partition_key, target=LEAD)
            newest = newest_load(connection, backfill=self.name, partition_key=scope.partition_key)
            differing = [] if newest is None else differing_leads(connection, lead, newest)
            mode = connection.scalar(select(run.c.mode).where(run.c.id == scope.run_id))
            told = scope.run_id if mode == Mode.LOAD else newest
            written = {} if told is None else written_fields(connection, told)
        plan, _ = _plan(scope, lead)
        fillable = [key for frame in plan.frames() for key in _updates(frame)]
        missing = [key for key in fillable if left.get(key) is None]
        different = [key for key, changed_since in differing if not changed_since]
        figures = plan.figures
        if mode != Mode.LOAD:
            scope.details |= figures.shown()
        scope.details |= {
            "linked": written.get(LINK, 0),
            "filled": {name: written.get(name, 0) for name in FILLED},
        }
        if mode == Mode.LOAD and (planned := completeness_of(scope.details)) is not None:
            scope.details |= replace(_complete(now, now), before=planned.before).as_details()
        explained = len(fillable) - len(missing) + sum(map(figures.reasons.__getitem__, _explaining(figures.reasons)))
        return Reconciliation(
            equal=now["leads"] - len({*missing, *different}) - explained,
            missing=len(missing),
            extra=0,
            different=len(different),
            explained=explained,
            passed=not missing and not different,
            examples={"missing_lead_ids": missing[:_EXAMPLES], "different_lead_ids": different[:_EXAMPLES]},
            figures={
                "leads": now["leads"],
                **{f"with {name}": count for name, count in now.items() if name != "leads"},
                "changed since": len(differing) - len(different),
                **dict(sorted(figures.reasons.items())),
            },
        )

    def compare_partitions(self, runs: Sequence[Run]) -> Mapping[str, str]:  # noqa: ARG002 - the protocol's
        """Nothing: every contact says whose it is."""
        return {}


async def _tell(scope: Scope, extraction: Extraction, *, wait_until: datetime | None) -> None:
    """How the location was read, with what was used of its day, and how long the rest takes."""
    figures = extraction.figures()
    if wait_until is not None:
        figures["eta_seconds"] += max(0, ceil((wait_until - datetime.now(UTC)).total_seconds()))
    day = await asyncio.to_thread(used_today, scope, extraction.location.location_id)
    scope.details |= {"gohighlevel": {**figures, "day": day}}


async def _read(extraction: Extraction) -> None:
    """Everything that the leads want to know of the location."""
    reading = extraction.reading
    if not extraction.wanted.look_ups:
        reading.way = "none"
    else:
        if reading.way != "look_ups":
            await extraction.scan()
        look_ups = LookUps(extraction)
        # What a scan has not seen may be gone or another location's; only its id tells.
        await look_ups.contacts()
        if reading.way == "look_ups" and not await look_ups.addresses():
            reading.way = "scan"  # no filter is honoured: then only all of them tell
            await extraction.scan()
        await look_ups.names()
    await asyncio.to_thread(extraction.landing.finish, reading)


# --- frames: what is landed, and the leads ---------------------------------------------------------------------------


def _wanted(scope: Scope) -> Wanted:
    with scope.engine.begin() as connection:
        lead = _lead(scope, connection)
        return Wanted.by(eligible_leads(connection, lead, _client_id(scope)))


def _plan(scope: Scope, lead: TableShape) -> tuple[HydrationPlan, Wanted]:
    """The plan on the leads as they are; they are read once to know what they want, and again row by row."""
    client_id, key = _client_id(scope), scope.partition_key
    with scope.engine.begin() as connection:
        wanted = Wanted.by(eligible_leads(connection, lead, client_id))
        reading = read_reading(connection, key) or Reading(sweep=1, first_sweep=1, location_id="")
        frames = landed_contacts(connection, key, since_sweep=reading.first_sweep)
        contacts = Contacts(frames, wanted, asked_of(connection, key, reading))
        linked = links_of(connection, lead, client_id, contacts.linked_by_address().keys())

    def leads() -> Iterator[Any]:
        with scope.engine.begin() as connection:
            yield from eligible_leads(connection, lead, client_id)

    plan = HydrationPlan(
        leads(),
        contacts,
        rules=_rules(scope),
        linked_before=linked,
        store_skips=scope.registry.store_skips(scope.backfill, key),
    )
    return plan, wanted


def _told(scope: Scope, plan: HydrationPlan, before: Mapping[str, int]) -> Iterator[pd.DataFrame]:
    """The plan's frames; behind the last one, its figures as the run's. The log names who was not found, by id."""
    for frame in plan.frames():
        if _log.isEnabledFor(logging.INFO):
            not_found = frame.loc[frame["reason"] == NOT_FOUND, "record_key"].tolist()
            for start in range(0, len(not_found), _IDS_A_LINE):
                ids = ", ".join(not_found[start : start + _IDS_A_LINE])
                _log.info("%s: no contact was found for leads %s", scope.partition_key, ids)
        yield frame
    figures = plan.figures
    scope.reasons.update(figures.noted)
    after = {name: before[name] + figures.filled[name] for name in FILLED} | {LINK: before[LINK] + figures.linked}
    scope.details |= figures.shown() | _complete(before, {**before, **after}).as_details()


def _complete(before: Mapping[str, int], after: Mapping[str, int]) -> Completeness:
    fields = (*FILLED, LINK)
    of = before["leads"]
    return Completeness(
        records=of,
        before=shares({name: before[name] for name in fields}, of=of),
        after=shares({name: after[name] for name in fields}, of=of),
    )


def _updates(frame: pd.DataFrame) -> list[str]:
    keys: list[str] = frame.loc[frame["action"] == Action.UPDATE, "record_key"].tolist()
    return keys


def _explaining(reasons: Mapping[str, int]) -> list[str]:
    """The reasons for which a lead stays incomplete without anything being wrong with the backfill's work."""
    return [reason for reason in reasons if reason != NOTHING_TO_FILL]


# --- the client, in the terms of each step ---------------------------------------------------------------------------


def _client(scope: Scope) -> Client:
    return scope.registry.client(scope.partition_key)


def _lead(scope: Scope, connection: Connection) -> TableShape:
    """The leads' table, read once in a run: with a hundred partitions side by side the catalogue would be the work."""
    if LEAD not in scope.kept:
        scope.kept[LEAD] = lead_table(connection, scope.registry)
    shape: TableShape = scope.kept[LEAD]
    return shape


def _client_id(scope: Scope) -> str:
    rows = _client(scope).leads
    if rows is None:
        raise ConfigurationError(
            "missing_section", f"The client {scope.partition_key} has no section leads: {{client_id: …}}; add it."
        )
    return rows.client_id.resolve()


def _rules(scope: Scope) -> Rules:
    client = _client(scope)
    settings = scope.registry.settings(LeadHydrationSettings, client)
    return Rules(region=scope.registry.phone_region(client), phone_format=settings.phone_format)


def _discard(scope: Scope, landing: Landing, error: ForeignContactsError) -> None:
    """Forget what was landed from a location that is not the client's, and put the foreign ids into the ledger."""
    landing.discard()
    with scope.engine.begin() as connection:
        # A process that died right here has written them already, and its run is gone on with.
        connection.execute(delete(change).where(change.c.run_id == scope.run_id))
        copy_rows(
            connection,
            table=("backfill", "change"),
            columns=("run_id", "seq", "target", "record_key", "action", "reason"),
            rows=(
                (scope.run_id, seq, GHL_CONTACT, contact_id, Action.CONFLICT.value, FOREIGN_CONTACT)
                for seq, contact_id in enumerate(error.contact_ids)
            ),
        )
