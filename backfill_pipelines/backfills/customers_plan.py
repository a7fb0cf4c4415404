"""What `customers` plans: rows for customers, leads and jobs, out of who belongs together.

Belongs here: the fields of a customer, who gets a phone that two want, the rows and the run's figures. Pure. Does not
belong here: who belongs together (`customers_grouping.py`) and executing (`customers_target.py`).
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pandas as pd

from backfill_pipelines.backfills.customers_existing import PRESENT, Customer, Customers
from backfill_pipelines.backfills.customers_grouping import (
    EMAIL,
    INDIVIDUAL,
    PHONE,
    PSID,
    SHARED_PHONE,
    SPLIT_GROUP,
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


class _Drafts:
    """The customers that groups are or become: their fields as the leads have them, in columns of numbers."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self.groups: list[Group] = []
        """By draft: the first of the groups that are this customer."""
        self.of_group = array("i")
        """By group: its draft, or `NONE` for a group in conflict."""
        self.of_existing: dict[str, int] = {}
        """By the id of a customer that is there: its draft."""
        for group in groups:
            number = len(self.groups)
            if group.conflict is not None:
                self.of_group.append(NONE)
                continue
            if group.customer is not None:
                number = self.of_existing.setdefault(group.customer.id, number)
            if number == len(self.groups):
                self.groups.append(group)
            self.of_group.append(number)
        size = len(self.groups)
        self.lead_count = array("i", [0]) * size
        # Leads, of which the draft has its name or company.
        self.name, self.company = array("i", [NONE]) * size, array("i", [NONE]) * size
        self.phone, self.email, self.psid = (array("i", [NONE]) * size for _ in range(3))
        self.gains = bytearray(size)
        """Whether a lead is linked to it that was not."""
        self.reasons: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.groups)

    def id(self, draft: int) -> str:
        """The id of the customer."""
        group = self.groups[draft]
        return group.own_id if group.customer is None else group.customer.id


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
        self._drafts = _Drafts(grouping.groups)
        self._figures: dict[str, Any] = {}
        self._by_id = array("i", sorted(range(len(leads)), key=leads.ids.__getitem__))

    def plan(self, jobs: Iterable[pd.DataFrame]) -> CustomersPlan:
        self._count_leads()
        if any(self._drafts.gains):
            oldest_first = self._by_age()
            self._collect_values(oldest_first)
            self._share_out(PHONE, oldest_first)
            if self._known.unique_email:
                self._share_out(EMAIL, oldest_first)
        job_rows = self._read_jobs(jobs)
        self._count(job_rows)
        return CustomersPlan(
            source=len(self._leads) + self._figures["jobs_total"],
            figures=self._figures,
            frames=self._frames(job_rows),
            skips={} if self._list_skips else self._skips(),
            grouping=self._grouping,
        )

    # --- customers -------------------------------------------------------------------------------------------------

    def _by_age(self) -> array[int]:
        """The leads, oldest first; of one moment by id."""
        by_id = np.array(self._by_id)
        created = np.array(self._leads.created, dtype=np.int64)[by_id]
        return array("i", by_id[np.argsort(created, kind="stable")].astype(np.int32).tobytes())

    def _draft_of(self, lead: int) -> int:
        """The draft of a lead's group, or `NONE`."""
        group = self._group_of[lead]
        return NONE if group == NONE else self._drafts.of_group[group]

    def _count_leads(self) -> None:
        """Count each customer's leads, and note which gain one."""
        drafts = self._drafts
        for lead, linked in enumerate(self._linked_to):
            draft = self._draft_of(lead)
            if linked is not None and (draft == NONE or drafts.groups[draft].customer is not linked):
                # Of a group in conflict, or of no group: its customer counts it all the same.
                draft = drafts.of_existing.get(linked.id, NONE)
            if draft != NONE:
                drafts.lead_count[draft] += 1
                drafts.gains[draft] |= linked is None

    def _collect_values(self, oldest_first: Iterable[int]) -> None:
        """Give each customer that gains a lead what its leads have; the newest comes last, so that its values stay."""
        for lead in oldest_first:
            linked, draft = self._linked_to[lead], self._draft_of(lead)
            if draft == NONE or not self._drafts.gains[draft]:
                continue
            if linked is None or self._drafts.groups[draft].customer is linked:
                self._take_values(draft, lead)

    def _take_values(self, draft: int, lead: int) -> None:
        leads, drafts = self._leads, self._drafts
        if leads.names.has(lead):
            drafts.name[draft] = lead
        if lead in leads.companies:
            drafts.company[draft] = lead
        for mine, its in ((drafts.phone, leads.phone), (drafts.email, leads.email), (drafts.psid, leads.psid)):
            if its[lead] != NONE:
                mine[draft] = its[lead]

    def _share_out(self, column: str, oldest_first: Iterable[int]) -> None:
        """Give each phone (address) to one customer: who has it keeps it, else the one with the oldest lead with it."""
        stored = self._leads.stored_phone if column == PHONE else self._leads.emails.keys.__getitem__
        owner = self._owners(column, stored)
        values, wanted = (
            (self._leads.phone, self._drafts.phone) if column == PHONE else (self._leads.email, self._drafts.email)
        )
        for lead in oldest_first:
            draft, value = self._draft_of(lead), values[lead]
            if NONE in (draft, value) or wanted[draft] != value:
                continue
            existing = self._drafts.groups[draft].customer
            if existing is not None and getattr(existing, column) is PRESENT:
                # It is not to be filled, so it wants nothing.
                wanted[draft] = NONE
                continue
            identifier = self._drafts.id(draft)
            if owner.setdefault(stored(value), identifier) != identifier:
                wanted[draft] = NONE
                self._drafts.reasons[draft] = SHARED_PHONE if column == PHONE else "shared_email"

    def _owners(self, column: str, stored: Callable[[int], str]) -> dict[str, str]:
        """Which customer holds a value already, in the form in which it is stored."""
        if column == PHONE:
            owner = dict.fromkeys(self._known.phones_held_elsewhere, "") | self._customers.unread_phones
        else:
            owner = dict.fromkeys(self._known.emails_held_elsewhere, "")
        for customer in self._customers.by_id.values():
            number = customer.phone_number if column == PHONE else customer.email_number
            if number != NONE:
                owner[stored(number)] = customer.id
        return owner

    def _fields(self, draft: int) -> dict[str, str | None]:
        leads, drafts = self._leads, self._drafts
        name, company = drafts.name[draft], drafts.company[draft]
        phone, email, psid = drafts.phone[draft], drafts.email[draft], drafts.psid[draft]
        return {
            "name": leads.names[name] if name != NONE else leads.companies[company] if company != NONE else None,
            "phone": None if phone == NONE else leads.stored_phone(phone),
            "email": None if email == NONE else leads.emails.keys[email],
            "messenger_psid": None if psid == NONE else leads.psids.keys[psid],
        }

    def _customer_rows(self) -> Iterator[tuple[Any, ...]]:
        drafts = self._drafts
        for draft in sorted(range(len(drafts)), key=drafts.id):
            group = drafts.groups[draft]
            if group.customer is None:
                reason = drafts.reasons.get(draft) or group.reason
                yield (CUSTOMER, group.own_id, _CREATE, reason, None, self._created(draft))
            elif changed := self._changed(draft, group.customer):
                before = {name: _old(group.customer, name) for name in changed}
                before["updated_at"] = group.customer.updated_at
                reason = drafts.reasons.get(draft)
                yield (CUSTOMER, group.customer.id, _UPDATE, reason, _json(before), _json(changed))
        # A group in conflict all of whose leads are linked has no lead row that would tell of it.
        unlinked = {self._group_of[lead] for lead, customer in enumerate(self._linked_to) if customer is None}
        for number, group in enumerate(self._grouping.groups):
            if group.conflict == SPLIT_GROUP and number not in unlinked:
                group_hash = self._keys.hash(group.kind, group.value)
                yield (CUSTOMER, self._keys.customer_id(group_hash), _CONFLICT, SPLIT_GROUP, None, None)

    def _created(self, draft: int) -> str:
        group, lead_count = self._drafts.groups[draft], self._drafts.lead_count[draft]
        metadata = {
            "createdBy": CREATED_BY,
            "groupKey": self._keys.hash(group.kind, group.value),
            "groupType": group.kind,
            "leadCount": lead_count,
            "multipleLeads": lead_count > 1,
        }
        return _json({"client_id": self._keys.client_id, "metadata": metadata, **self._fields(draft)})

    def _changed(self, draft: int, customer: Customer) -> dict[str, Any]:
        """What an existing customer lacks; nothing is ever overwritten but our own count of leads."""
        changed: dict[str, Any] = {}
        if self._drafts.gains[draft]:
            changed = {
                name: value
                for name, value in self._fields(draft).items()
                if value is not None and _old(customer, name) is not PRESENT
            }
        lead_count = self._drafts.lead_count[draft]
        if customer.ours and customer.lead_count != lead_count:
            changed["lead_count"] = lead_count
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
            draft, group = self._drafts.of_group[number], groups[number]
            if draft == NONE:
                yield (LEAD, identifier, _CONFLICT, group.conflict, None, None)
                continue
            customer_id = self._drafts.id(draft)
            before = f'{{"customer_id":null,"updated_at":{leads.updated[lead]}}}'
            after = f'{{"customer_id":"{customer_id}"}}'
            if group.customer is not None and group.own_id and number not in told:
                told.add(number)
                after = f'{{"customer_id":"{customer_id}","group_key":"{self._keys.hash(group.kind, group.value)}"}}'
            yield (LEAD, identifier, _UPDATE, reasons.get(lead), before, after)

    # --- jobs ------------------------------------------------------------------------------------------------------

    def _read_jobs(self, jobs: Iterable[pd.DataFrame]) -> _Jobs:
        """What becomes of each job; of those that are linked already only the number is kept, unless all are listed."""
        read = _Jobs()
        sorted_ids = [self._leads.ids[lead] for lead in self._by_id]
        already = total = 0
        for frame in jobs:
            columns = (frame[name].tolist() for name in ("id", "lead_id", "customer_id"))
            for identifier, lead_id, linked in zip(*columns, strict=True):
                total += 1
                lead = self._by_id[bisect_left(sorted_ids, lead_id)]
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
        linked = self._linked_to[lead]
        if linked is not None:
            return linked.id
        draft = self._draft_of(lead)
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

    def _frames(self, jobs: _Jobs) -> Iterator[pd.DataFrame]:
        yield from _framed(self._customer_rows())
        yield from _framed(self._lead_rows())
        yield from _framed(self._job_rows(jobs))

    def _skips(self) -> dict[str, int]:
        count = self._figures["leads_already_linked"] + self._figures["jobs_already_linked"]
        return {"already_linked": count} if count else {}

    def _count(self, jobs: _Jobs) -> None:
        groups = self._grouping.groups
        kinds = Counter(group.kind for group in groups)
        self._figures |= {
            "groups": {kind: kinds[kind] for kind in (PSID, PHONE, EMAIL, INDIVIDUAL)},
            "leads_total": len(self._leads),
            "customers_created": sum(group.customer is None and group.conflict is None for group in groups),
            "customers_reused": len(self._drafts.of_existing),
            "leads_linked": sum(
                customer_id is None and self._draft_of(lead) != NONE
                for lead, customer_id in enumerate(self._leads.customer_ids)
            ),
            "leads_already_linked": sum(customer is not None for customer in self._linked_to),
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
