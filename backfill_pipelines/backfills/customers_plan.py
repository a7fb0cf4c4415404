"""What `customers` plans: rows for customers, leads and jobs, out of who belongs together.

Belongs here: the fields of a customer, who gets a phone that two want, the rows and the run's figures. Pure. Does not
belong here: who belongs together (`customers_grouping.py`) and executing (`customers_target.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
import orjson
import pandas as pd

from backfill_pipelines.backfills.customers_grouping import (
    EMAIL,
    INDIVIDUAL,
    PHONE,
    PSID,
    SHARED_PHONE,
    SPLIT_GROUP,
    Customer,
    Customers,
    Group,
    Grouping,
    group_leads,
)
from backfill_pipelines.backfills.customers_identity import NONE, GroupKeys, IdentityRules, KnownCustomers, LeadColumns
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


@dataclass(slots=True)
class _Draft:
    """A customer's fields as its leads have them, and what is to be written of them."""

    group: Group
    id: str
    lead_count: int = 0
    name: str | None = None
    company: str | None = None
    phone: int = NONE
    email: int = NONE
    psid: int = NONE
    reason: str | None = None
    gains: bool = False
    """Whether a lead is linked to it that was not."""


def plan_customers(
    leads: Iterable[pd.DataFrame],
    customers: Iterable[pd.DataFrame],
    jobs: Iterable[pd.DataFrame],
    *,
    rules: IdentityRules,
    keys: GroupKeys,
    known: KnownCustomers,
    list_skips: bool = True,
) -> CustomersPlan:
    """Say which customers a client's leads and jobs have.

    `leads` as `LeadColumns.add` takes them; `customers` (of this client) with id, name, phone, email, messenger_psid,
    ours, lead_count, updated_at; `jobs` (of the client's leads) with id, lead_id, customer_id. Without `list_skips`
    what is linked already is only counted: in a run with nothing to do that is everything.
    """
    columns = LeadColumns(rules)
    columns.add(leads)
    there = Customers(customers, columns)
    columns.forget_raw_values()
    grouping = group_leads(columns, there, max_group_size=rules.max_group_size, keys=keys, known=known)
    return _Planner(columns, there, grouping, keys=keys, known=known, list_skips=list_skips).plan(jobs)


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
        self._group_of, self._linked_to = grouping.group_of, grouping.linked_to
        self._drafts: list[_Draft | None] = []
        """By group: the draft of its customer, one for all groups that are the same customer."""
        self._figures: dict[str, Any] = {}
        self._by_id = sorted(range(len(leads)), key=leads.ids.__getitem__)

    def plan(self, jobs: Iterable[pd.DataFrame]) -> CustomersPlan:
        oldest_first = self._by_age()
        self._draft_customers()
        self._collect_values(oldest_first)
        self._share_out(PHONE, oldest_first)
        if self._known.unique_email:
            self._share_out(EMAIL, oldest_first)
        looked_up = {lead: number for number, lead in enumerate(self._leads.ids)}
        job_rows, job_count = self._job_rows(jobs, looked_up)
        del looked_up
        self._count(job_rows, job_count)
        return CustomersPlan(
            source=len(self._leads) + job_count,
            figures=self._figures,
            frames=self._frames(job_rows),
            skips={} if self._list_skips else self._skips(),
            grouping=self._grouping,
        )

    # --- customers -------------------------------------------------------------------------------------------------

    def _by_age(self) -> list[int]:
        """The leads, oldest first; of one moment by id."""
        created = np.array(self._leads.created, dtype=np.int64)[self._by_id]
        oldest_first: list[int] = np.array(self._by_id)[np.argsort(created, kind="stable")].tolist()
        return oldest_first

    def _draft_customers(self) -> None:
        of_existing: dict[str, _Draft] = {}
        for group in self._grouping.groups:
            if group.conflict is not None:
                self._drafts.append(None)
            elif group.customer is not None:
                self._drafts.append(of_existing.setdefault(group.customer.id, _Draft(group, group.customer.id)))
            else:
                self._drafts.append(_Draft(group, group.own_id))

    def _collect_values(self, oldest_first: Sequence[int]) -> None:
        """Give each customer what its leads have; the newest lead comes last, so that its values stay."""
        leads = self._leads
        of_existing = {draft.id: draft for draft in self._drafts if draft is not None and draft.group.customer}
        for lead in oldest_first:
            linked, number = self._linked_to[lead], self._group_of[lead]
            draft = self._drafts[number] if number != NONE else None
            if linked is not None and (draft is None or draft.id != linked.id):
                # Of a group in conflict, or of no group: its customer counts it all the same.
                if linked.id in of_existing:
                    of_existing[linked.id].lead_count += 1
            elif draft is not None:
                draft.lead_count += 1
                draft.gains = draft.gains or linked is None
                draft.name = leads.names[lead] or draft.name
                draft.company = leads.companies[lead] or draft.company
                for column in ("phone", "email", "psid"):
                    if getattr(leads, column)[lead] != NONE:
                        setattr(draft, column, getattr(leads, column)[lead])

    def _share_out(self, column: str, oldest_first: Sequence[int]) -> None:
        """Give each phone (address) to one customer: who has it keeps it, else the one with the oldest lead with it."""
        stored = self._stored(column)
        elsewhere = self._known.phones_held_elsewhere if column == PHONE else self._known.emails_held_elsewhere
        owner: dict[str, str] = dict.fromkeys(elsewhere, "")
        for customer in self._customers.by_id.values():
            if value := (customer.phone if column == PHONE else customer.email):
                owner[value] = customer.id
        values = getattr(self._leads, column)
        for lead in oldest_first:
            number, value = self._group_of[lead], values[lead]
            draft = self._drafts[number] if number != NONE else None
            if draft is None or value == NONE or getattr(draft, column) != value:
                continue
            if owner.setdefault(stored(value), draft.id) != draft.id:
                setattr(draft, column, NONE)
                existing = draft.group.customer
                # A customer that has a value of its own wanted none.
                if existing is None or not getattr(existing, column):
                    draft.reason = SHARED_PHONE if column == PHONE else "shared_email"

    def _stored(self, column: str) -> Callable[[int], str]:
        return self._leads.stored_phone if column == PHONE else self._leads.emails.keys.__getitem__

    def _fields(self, draft: _Draft) -> dict[str, str | None]:
        leads = self._leads
        return {
            "name": draft.name or draft.company,
            "phone": None if draft.phone == NONE else leads.stored_phone(draft.phone),
            "email": None if draft.email == NONE else leads.emails.keys[draft.email],
            "messenger_psid": None if draft.psid == NONE else leads.psids.keys[draft.psid],
        }

    def _customer_rows(self) -> Iterator[tuple[Any, ...]]:
        drafts = {draft.id: draft for draft in self._drafts if draft is not None}
        for draft in sorted(drafts.values(), key=attrgetter("id")):
            customer = draft.group.customer
            if customer is None:
                yield (CUSTOMER, draft.id, _CREATE, draft.reason or draft.group.reason, None, self._created(draft))
            else:
                changed = self._changed(draft, customer)
                if changed:
                    before = {name: _old(customer, name) for name in changed} | {"updated_at": customer.updated_at}
                    yield (CUSTOMER, draft.id, _UPDATE, None, _json(before), _json(changed))
        # A group in conflict all of whose leads are linked has no lead row that would tell of it.
        unlinked = {self._group_of[lead] for lead, customer in enumerate(self._linked_to) if customer is None}
        for number, group in enumerate(self._grouping.groups):
            if group.conflict == SPLIT_GROUP and number not in unlinked:
                group_hash = group.hash or self._keys.hash(group.kind, group.value)
                yield (CUSTOMER, self._keys.customer_id(group_hash), _CONFLICT, SPLIT_GROUP, None, None)

    def _created(self, draft: _Draft) -> str:
        group = draft.group
        metadata = {
            "createdBy": CREATED_BY,
            "groupKey": group.hash,
            "groupType": group.kind,
            "leadCount": draft.lead_count,
            "multipleLeads": draft.lead_count > 1,
        }
        return _json({"client_id": self._keys.client_id, "metadata": metadata, **self._fields(draft)})

    def _changed(self, draft: _Draft, customer: Customer) -> dict[str, Any]:
        """What an existing customer lacks; nothing is ever overwritten but our own count of leads."""
        changed: dict[str, Any] = {}
        if draft.gains:
            changed = {
                name: value
                for name, value in self._fields(draft).items()
                if value is not None and not (_old(customer, name) or "").strip()
            }
        if customer.ours and customer.lead_count != draft.lead_count:
            changed["lead_count"] = draft.lead_count
        return changed

    # --- leads -----------------------------------------------------------------------------------------------------

    def _lead_rows(self) -> Iterator[tuple[Any, ...]]:
        leads, groups, reasons = self._leads, self._grouping.groups, self._grouping.reason_of
        told: set[int] = set()
        for lead in self._by_id:
            number, identifier = self._group_of[lead], leads.ids[lead]
            linked = leads.customer_ids[lead]
            if number == NONE:
                reason = "foreign_customer" if self._known.strangers.get(linked or "") else "dangling_customer"
                yield (LEAD, identifier, _CONFLICT, reason, None, None)
                continue
            if linked is not None:
                if self._list_skips:
                    yield (LEAD, identifier, _SKIP, "already_linked", None, None)
                continue
            draft, group = self._drafts[number], groups[number]
            if draft is None:
                yield (LEAD, identifier, _CONFLICT, group.conflict, None, None)
                continue
            before = f'{{"customer_id":null,"updated_at":{leads.updated[lead]}}}'
            after = f'{{"customer_id":"{draft.id}"}}'
            if number not in told and group.hash and group.customer is not None:
                told.add(number)
                after = f'{{"customer_id":"{draft.id}","group_key":"{group.hash}"}}'
            yield (LEAD, identifier, _UPDATE, reasons.get(lead), before, after)

    # --- jobs ------------------------------------------------------------------------------------------------------

    def _job_rows(
        self, jobs: Iterable[pd.DataFrame], looked_up: dict[str, int]
    ) -> tuple[list[tuple[str, str, str | None, str | None]], int]:
        """What becomes of each job: id, action, reason, customer; those linked already are counted alone."""
        rows: list[tuple[str, str, str | None, str | None]] = []
        already = count = 0
        for frame in jobs:
            for identifier, lead_id, linked in zip(frame["id"], frame["lead_id"], frame["customer_id"], strict=True):
                count += 1
                customer_id = self._customer_of(looked_up[lead_id])
                if customer_id is not None and linked == customer_id:
                    already += 1
                    if self._list_skips:
                        rows.append((identifier, _SKIP, "already_linked", None))
                elif linked is not None:
                    rows.append((identifier, _CONFLICT, "job_mismatch", None))
                elif customer_id is None:
                    rows.append((identifier, _SKIP, "lead_without_customer", None))
                else:
                    rows.append((identifier, _UPDATE, None, customer_id))
        self._figures["jobs_already_linked"] = already
        rows.sort(key=lambda row: row[0])
        return rows, count

    def _customer_of(self, lead: int) -> str | None:
        """The customer that a lead has, or gets."""
        linked = self._linked_to[lead]
        if linked is not None:
            return linked.id
        number = self._group_of[lead]
        draft = self._drafts[number] if number != NONE else None
        return None if draft is None else draft.id

    # --- frames and figures ----------------------------------------------------------------------------------------

    def _frames(self, job_rows: Sequence[tuple[str, str, str | None, str | None]]) -> Iterator[pd.DataFrame]:
        yield from _framed(self._customer_rows())
        yield from _framed(self._lead_rows())
        before = '{"customer_id":null}'
        yield from _framed(
            (JOB, identifier, action, reason, None, None)
            if customer_id is None
            else (JOB, identifier, action, reason, before, f'{{"customer_id":"{customer_id}"}}')
            for identifier, action, reason, customer_id in job_rows
        )

    def _skips(self) -> dict[str, int]:
        count = self._figures["leads_already_linked"] + self._figures["jobs_already_linked"]
        return {"already_linked": count} if count else {}

    def _count(self, job_rows: Sequence[tuple[str, str, str | None, str | None]], job_count: int) -> None:
        groups = self._grouping.groups
        kinds = Counter(group.kind for group in groups)
        linked = sum(customer is not None for customer in self._linked_to)
        settled = [group for group in groups if group.conflict is None]
        self._figures |= {
            "groups": {kind: kinds[kind] for kind in (PSID, PHONE, EMAIL, INDIVIDUAL)},
            "leads_total": len(self._leads),
            "customers_created": sum(group.customer is None for group in settled),
            "customers_reused": len({group.customer.id for group in settled if group.customer is not None}),
            "leads_linked": sum(
                customer_id is None and number != NONE and self._drafts[number] is not None
                for customer_id, number in zip(self._leads.customer_ids, self._group_of, strict=True)
            ),
            "leads_already_linked": linked,
            "jobs_linked": sum(row[1] == _UPDATE for row in job_rows),
            "jobs_total": job_count,
        }


def _old(customer: Customer, name: str) -> Any:
    return customer.psid if name == "messenger_psid" else getattr(customer, name)


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
