"""What `customers` plans: rows for customers, leads and jobs, out of who belongs together.

Belongs here: the fields of a customer, who gets a phone that two want, the rows and the run's figures. Pure. Does not
belong here: who belongs together (`customers_grouping.py`) and executing (`customers_target.py`).
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pandas as pd

from backfill_pipelines.backfills.customers_drafts import Drafts, as_array
from backfill_pipelines.backfills.customers_existing import Customers
from backfill_pipelines.backfills.customers_grouping import group_leads
from backfill_pipelines.backfills.customers_groups import (
    CONFLICTS,
    EMAIL,
    INDIVIDUAL,
    KINDS,
    PHONE,
    PSID,
    SHARED_PHONE,
    SPLIT_GROUP,
    Grouping,
    Numbers,
)
from backfill_pipelines.backfills.customers_identity import GroupKeys, IdentityRules, KnownCustomers, LeadColumns
from backfill_pipelines.backfills.customers_values import NONE
from backfill_pipelines.engine.plan import Action, plan_frame

CREATED_BY = "backfill_pipelines.customers"
CUSTOMER, LEAD, JOB = "Customer", "Lead", "Job"
_ROWS_IN_A_FRAME = 20_000
_CREATE, _UPDATE, _SKIP, _CONFLICT = (
    str(each) for each in (Action.CREATE, Action.UPDATE, Action.SKIP, Action.CONFLICT)
)


@dataclass(frozen=True, kw_only=True)
class CustomersPlan:
    """A client's plan."""

    source: int
    """Leads and jobs looked at."""
    figures: dict[str, Any]
    frames: Iterator[pd.DataFrame]
    """Frames of plan rows: customers, leads, jobs, each sorted by id; to be consumed once."""
    skips: dict[str, int]
    """Rows that are skipped and not in the frames, by reason."""
    grouping: Grouping


def plan_customers(
    leads: Iterable[pd.DataFrame],
    customers: Iterable[pd.DataFrame],
    jobs: Iterable[pd.DataFrame],
    *,
    rules: IdentityRules,
    keys: GroupKeys,
    known: Callable[[Collection[str]], KnownCustomers],
    list_skips: bool = True,
) -> CustomersPlan:
    """Say which customers a client's leads and jobs have.

    `leads` as `LeadColumns.add` takes them; `customers` (of this client) as `Customers` does; `jobs` (of the client's
    leads) with id, lead_id, customer_id. A job without an id stands for as many as its customer_id says that are linked
    to the customer of their lead already. `known` is asked once, with the ids that leads are linked to and that are
    none of the client's customers. Without `list_skips` what is linked already is only counted: in a run with nothing
    to do that is everything.
    """
    columns = LeadColumns(rules)
    columns.add(leads)
    there = Customers(customers, columns)
    columns.forget_raw_values()
    knowledge = known(there.strangers.values())
    grouping = group_leads(columns, there, max_group_size=rules.max_group_size, keys=keys, known=knowledge)
    return _Planner(columns, there, grouping, keys=keys, known=knowledge, list_skips=list_skips).plan(jobs)


class _Planner:
    def __init__(
        self,
        leads: LeadColumns,
        customers: Customers,
        grouping: Grouping,
        *,
        keys: GroupKeys,
        known: KnownCustomers,
        list_skips: bool,
    ) -> None:
        self._leads, self._customers, self._grouping = leads, customers, grouping
        self._list_skips = list_skips
        self._keys, self._known = keys, known
        self._is_unlinked = np.array(leads.link) == NONE
        self._drafts = Drafts(leads, customers, grouping)
        self._figures: dict[str, Any] = {}

    def plan(self, jobs: Iterable[pd.DataFrame]) -> CustomersPlan:
        """The plan; leads are put in order only as far as they have rows, or a customer gains by them."""
        is_told = self._is_unlinked | (np.array(self._grouping.group_of) == NONE) | self._list_skips
        members = np.flatnonzero(is_told | self._drafts.is_source).tolist()
        by_id = np.array(sorted(members, key=self._leads.ids.__getitem__), dtype=np.int32)
        if self._drafts.is_source.any():
            self._drafts.fill(by_id[self._drafts.is_source[by_id]], self._known)
        job_rows = self._read_jobs(jobs)
        self._count(job_rows)
        return CustomersPlan(
            source=len(self._leads) + self._figures["jobs_total"],
            figures=self._figures,
            frames=self._frames(by_id[is_told[by_id]], job_rows),
            skips={} if self._list_skips else self._skips(),
            grouping=self._grouping,
        )

    # --- customers -------------------------------------------------------------------------------------------------

    def _customer_rows(self) -> Iterator[tuple[Any, ...]]:
        drafts, groups = self._drafts, self._grouping.groups
        customers, made_for = as_array(drafts.customer), as_array(drafts.group)
        kinds, values, shares_phone = groups.kind.tobytes(), as_array(groups.value), groups.shares_phone.tobytes()
        for draft in sorted(self._moving_drafts(), key=drafts.id):
            customer, identifier, reason = customers[draft], drafts.id(draft), drafts.reasons.get(draft)
            if customer == NONE:
                group = made_for[draft]
                reason = reason or (SHARED_PHONE if shares_phone[group] else None)
                after = self._created(draft, KINDS[kinds[group]], values[group])
                yield (CUSTOMER, identifier, _CREATE, reason, None, after)
            elif changed := self._changed(draft, customer):
                before = {name: self._old(customer, name) for name in changed}
                before["updated_at"] = self._customers.updated[customer]
                yield (CUSTOMER, identifier, _UPDATE, reason, _json(before), _json(changed))
        # A group in conflict all of whose leads are linked has no lead row that would tell of it.
        is_told = np.zeros(len(groups) + 1, dtype=np.bool_)
        is_told[np.array(self._grouping.group_of)[self._is_unlinked]] = True
        is_split = groups.conflict == CONFLICTS.index(SPLIT_GROUP)
        untold = np.flatnonzero(is_split & ~is_told[:-1]).tolist()
        for identifier in sorted(self._keys.customer_id(self._keys.hash(*groups.name(each))) for each in untold):
            yield (CUSTOMER, identifier, _CONFLICT, SPLIT_GROUP, None, None)

    def _moving_drafts(self) -> list[int]:
        """The customers that are new, gain a lead, or are ours and count their leads otherwise."""
        drafts, customers = self._drafts, self._customers
        is_there = drafts.customer != NONE
        counted = np.array(customers.lead_counts, dtype=np.float64)[drafts.customer[is_there]]
        is_moving = drafts.gains[:-1].copy()
        is_moving[is_there] |= ~customers.is_peoples[drafts.customer[is_there]] & (
            counted != drafts.lead_count[is_there]
        )
        moving: list[int] = np.flatnonzero(is_moving).tolist()
        return moving

    def _created(self, draft: int, kind: str, value: int) -> str:
        lead_count = int(self._drafts.lead_count[draft])
        metadata = {
            "createdBy": CREATED_BY,
            "groupKey": self._keys.hash(kind, self._grouping.groups.identifier(kind, value)),
            "groupType": kind,
            "leadCount": lead_count,
            "multipleLeads": lead_count > 1,
        }
        return _json({"client_id": self._keys.client_id, "metadata": metadata, **self._drafts.fields(draft)})

    def _changed(self, draft: int, customer: int) -> dict[str, Any]:
        """What an existing customer lacks; nothing is ever overwritten but our own count of leads."""
        changed: dict[str, Any] = {}
        if self._drafts.gains[draft]:
            changed = {
                name: value
                for name, value in self._drafts.fields(draft).items()
                if value is not None and not self._customers.has(customer, name)
            }
        lead_count = int(self._drafts.lead_count[draft])
        if self._customers.ours[customer] and self._customers.lead_counts[customer] != lead_count:
            changed["lead_count"] = lead_count
        return changed

    def _old(self, customer: int, name: str) -> Any:
        if name == "lead_count":
            return self._customers.lead_counts[customer]
        return self._customers.empty_value(customer, name)

    # --- leads -----------------------------------------------------------------------------------------------------

    def _lead_rows(self, by_id: Numbers) -> Iterator[tuple[Any, ...]]:
        leads, groups, reasons = self._leads, self._grouping.groups, self._grouping.reason_of
        drafts, found, strangers = as_array(self._drafts.of_lead), as_array(groups.customer), self._customers.strangers
        told: set[int] = set()
        for lead in by_id.tolist():
            number, identifier, link = self._grouping.group_of[lead], leads.ids[lead], leads.link[lead]
            if number == NONE:
                reason = "foreign_customer" if self._known.strangers.get(strangers[link]) else "dangling_customer"
                yield (LEAD, identifier, _CONFLICT, reason, None, None)
                continue
            if link != NONE:
                yield (LEAD, identifier, _SKIP, "already_linked", None, None)
                continue
            draft = drafts[lead]
            if draft == NONE:
                yield (LEAD, identifier, _CONFLICT, CONFLICTS[groups.conflict[number]], None, None)
                continue
            customer_id = self._drafts.id(draft)
            before = f'{{"customer_id":null,"updated_at":{leads.updated[lead]}}}'
            after = f'{{"customer_id":"{customer_id}"}}'
            if found[number] != NONE and groups.own_ids[number] and number not in told:
                told.add(number)
                group_key = self._keys.hash(*groups.name(number))
                after = f'{{"customer_id":"{customer_id}","group_key":"{group_key}"}}'
            yield (LEAD, identifier, _UPDATE, reasons.get(lead), before, after)

    # --- jobs ------------------------------------------------------------------------------------------------------

    def _read_jobs(self, jobs: Iterable[pd.DataFrame]) -> _Jobs:
        """What becomes of each job; of those that are linked already only the number is kept, unless all are listed."""
        read = _Jobs()
        places: dict[str, int] = {}
        already = total = 0
        for frame in jobs:
            columns = (frame[name].tolist() for name in ("id", "lead_id", "customer_id"))
            for identifier, lead_id, linked in zip(*columns, strict=True):
                if identifier is None:
                    total += int(linked)
                    already += int(linked)
                    continue
                total += 1
                places = places or {lead: place for place, lead in enumerate(self._leads.ids)}
                lead = places[lead_id]
                customer_id = self._customer_of(lead)
                if customer_id is not None and linked == customer_id:
                    already += 1
                    if self._list_skips:
                        read.add(identifier, lead, _Jobs.LINKED)
                elif linked is not None:
                    read.add(identifier, lead, _Jobs.MISMATCH)
                else:
                    read.add(identifier, lead, _Jobs.WITHOUT if customer_id is None else _Jobs.TO_LINK)
        self._figures |= {"jobs_total": total, "jobs_already_linked": already}
        return read

    def _customer_of(self, lead: int) -> str | None:
        """The customer that a lead has, or gets."""
        linked = int(self._customers.linked[lead])
        if linked != NONE:
            return self._customers.id(linked)
        draft = self._drafts.remade.get(lead, int(self._drafts.of_lead[lead]))
        return None if draft == NONE else self._drafts.id(draft)

    def _job_rows(self, jobs: _Jobs) -> Iterator[tuple[Any, ...]]:
        outcomes = {
            _Jobs.LINKED: (_SKIP, "already_linked"),
            _Jobs.WITHOUT: (_SKIP, "lead_without_customer"),
            _Jobs.MISMATCH: (_CONFLICT, "job_mismatch"),
        }
        before = '{"customer_id":null}'
        for place in sorted(range(len(jobs.ids)), key=jobs.ids.__getitem__):
            if jobs.states[place] == _Jobs.TO_LINK:
                after = f'{{"customer_id":"{self._customer_of(jobs.leads[place])}"}}'
                yield (JOB, jobs.ids[place], _UPDATE, None, before, after)
            else:
                yield (JOB, jobs.ids[place], *outcomes[jobs.states[place]], None, None)

    # --- frames and figures ----------------------------------------------------------------------------------------

    def _frames(self, by_id: Numbers, jobs: _Jobs) -> Iterator[pd.DataFrame]:
        yield from _framed(self._customer_rows())
        yield from _framed(self._lead_rows(by_id))
        yield from _framed(self._job_rows(jobs))

    def _skips(self) -> dict[str, int]:
        count = self._figures["leads_already_linked"] + self._figures["jobs_already_linked"]
        return {"already_linked": count} if count else {}

    def _count(self, jobs: _Jobs) -> None:
        drafts = self._drafts
        kinds = Counter(self._grouping.groups.kind.tolist())
        self._figures |= {
            "groups": {kind: kinds[KINDS.index(kind)] for kind in (PSID, PHONE, EMAIL, INDIVIDUAL)},
            "leads_total": len(self._leads),
            "customers_created": int((drafts.customer == NONE).sum()),
            "customers_reused": int((drafts.customer != NONE).sum()),
            "leads_linked": int((self._is_unlinked & (drafts.of_lead != NONE)).sum()),
            "leads_already_linked": int((self._customers.linked != NONE).sum()),
            "jobs_linked": jobs.states.count(_Jobs.TO_LINK),
        }


class _Jobs:
    """The jobs that a plan has rows for, in columns."""

    TO_LINK, LINKED, MISMATCH, WITHOUT = range(4)

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.leads = array("i")
        self.states = bytearray()

    def add(self, identifier: str, lead: int, state: int) -> None:
        """Take in a job of a lead."""
        self.ids.append(identifier)
        self.leads.append(lead)
        self.states.append(state)


def _json(value: dict[str, Any]) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def _framed(rows: Iterable[tuple[Any, ...]]) -> Iterator[pd.DataFrame]:
    block: list[tuple[Any, ...]] = []
    for row in rows:
        block.append(row)
        if len(block) == _ROWS_IN_A_FRAME:
            yield plan_frame(block)
            block = []
    if block:
        yield plan_frame(block)
