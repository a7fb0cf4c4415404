"""The customers that groups are or become: how many leads they have, and the fields that their leads give them.

Belongs here: the fields of a customer, in columns of numbers, and who gets a phone that two want. Does not belong here:
who belongs together (`customers_grouping.py`) and the rows of the plan (`customers_plan.py`).
"""

from __future__ import annotations

from array import array

import numpy as np
import numpy.typing as npt

from backfill_pipelines.backfills.customers_existing import Customers
from backfill_pipelines.backfills.customers_groups import EMAIL, PHONE, SHARED_PHONE, Flags, Grouping, Numbers
from backfill_pipelines.backfills.customers_identity import KnownCustomers, LeadColumns
from backfill_pipelines.backfills.customers_values import NONE


class Drafts:
    """One entry per customer that a group without a conflict is or becomes; the new ones first."""

    def __init__(self, leads: LeadColumns, customers: Customers, grouping: Grouping) -> None:
        self._leads, self._customers = leads, customers
        self._own_ids = grouping.groups.own_ids
        groups, linked = grouping.groups, customers.linked
        settled = np.flatnonzero(groups.conflict == 0)
        customer_of = groups.customer[settled]
        new = settled[customer_of == NONE]
        is_found = np.zeros(len(customers), dtype=np.bool_)
        is_found[customer_of[customer_of != NONE]] = True
        existing = np.flatnonzero(is_found)
        self.group = _column(new, [NONE] * len(existing))
        """The group that it is made for, or `NONE`."""
        self.customer = _column([NONE] * len(new), existing)
        """The customer that is there, or `NONE`."""
        self._group_at, self._customer_at = as_array(self.group), as_array(self.customer)
        # Both with an entry more, which is the one of `NONE`.
        of_customer = np.full(len(customers) + 1, NONE, dtype=np.int32)
        of_customer[existing] = np.arange(len(new), len(self))
        self.of_group = np.full(len(groups) + 1, NONE, dtype=np.int32)
        self.of_group[settled] = of_customer[customer_of]
        self.of_group[new] = np.arange(len(new))
        self.of_lead = self.of_group[np.array(grouping.group_of)]
        """By lead: the draft of its group, or `NONE`."""
        self.remade = self._remade()
        """Leads that are linked to a customer that is gone and that is made again here, with its draft."""
        is_its_own = (linked == NONE) | (linked == np.append(self.customer, NONE)[self.of_lead])
        # Of a group in conflict, or of no group: its customer counts it all the same.
        counted = np.where(is_its_own, self.of_lead, of_customer[linked])
        counted[list(self.remade)] = list(self.remade.values())
        self.lead_count = np.bincount(counted[counted != NONE], minlength=len(self))
        self.gains: Flags = np.zeros(len(self) + 1, dtype=np.bool_)
        """Whether a lead is linked to it that was not."""
        self.gains[self.of_lead[linked == NONE]] = True
        self.gains[NONE] = False
        self.is_source: Flags = self.gains[self.of_lead] & is_its_own
        """By lead: whether its fields may become a customer's."""
        self._given: dict[str, array[int]] = {}
        """By field: the lead that has its name or company, the numbers of its other values; or `NONE`."""
        self.reasons: dict[int, str] = {}
        """Why it goes without a phone (an address) of its leads."""

    def __len__(self) -> int:
        return len(self.customer)

    def id(self, draft: int) -> str:
        """The id of the customer."""
        customer = self._customer_at[draft]
        return self._own_ids[self._group_at[draft]] if customer == NONE else self._customers.id(customer)

    def _remade(self) -> dict[int, int]:
        """Where nothing keeps a customer from being deleted, its leads' links lead nowhere until it is made again."""
        strangers = self._customers.strangers
        if not strangers:
            return {}
        gone = set(strangers.values())
        made = {
            self._own_ids[group]: draft
            for draft, group in enumerate(self.group[self.group != NONE].tolist())
            if self._own_ids[group] in gone
        }
        strays = np.flatnonzero((self._customers.linked == NONE) & (np.array(self._leads.link) != NONE))
        found = ((lead, strangers[self._leads.link[lead]]) for lead in strays.tolist())
        return {lead: made[identifier] for lead, identifier in found if identifier in made}

    # --- fields ----------------------------------------------------------------------------------------------------

    def fill(self, by_id: Numbers, known: KnownCustomers) -> None:
        """Give each customer that gains a lead what its leads have, and each phone to one customer.

        `by_id` are the leads that `is_source` has, by id.
        """
        created = np.array(self._leads.created)[by_id]
        oldest_first = by_id[np.argsort(created, kind="stable")]
        leads, places = self._leads, np.arange(len(self._leads), dtype=np.int32)
        with_company = np.zeros(len(leads), dtype=np.bool_)
        with_company[list(leads.companies)] = True
        values = {
            "name": np.where(leads.names.are_there(), places, NONE),
            "company": np.where(with_company, places, NONE),
            PHONE: np.array(leads.phone),
            EMAIL: np.array(leads.email),
            "messenger_psid": np.array(leads.psid),
        }
        given = {name: self._newest(column, oldest_first) for name, column in values.items()}
        self._share_out(PHONE, given[PHONE], oldest_first, known.phones_held_elsewhere)
        if known.unique_email:
            self._share_out(EMAIL, given[EMAIL], oldest_first, known.emails_held_elsewhere)
        self._given = {name: as_array(column) for name, column in given.items()}

    def _newest(self, values: Numbers, oldest_first: Numbers) -> Numbers:
        """By draft: the value of the newest of its leads that has one."""
        found = np.full(len(self), NONE, dtype=np.int32)
        having = oldest_first[values[oldest_first] != NONE]
        # The newest comes last, and what is written last stays.
        found[self.of_lead[having]] = values[having]
        return found

    def _share_out(self, column: str, wanted: Numbers, oldest_first: Numbers, held_elsewhere: frozenset[str]) -> None:
        """Give each phone (address) to one customer: who has it keeps it, else the one with the oldest lead with it."""
        leads, customers = self._leads, self._customers
        numbers, rows = (leads.phone, customers.phone) if column == PHONE else (leads.email, customers.email)
        held = {self._stored(column, number) for number in np.unique(rows[rows != NONE]).tolist()} | held_elsewhere
        held |= customers.unread_phones.keys() if column == PHONE else set()
        values = np.array(numbers)
        drafts = self.of_lead[oldest_first]
        has_wanted = (values[oldest_first] != NONE) & (values[oldest_first] == wanted[drafts])
        drafts, first = np.unique(drafts[has_wanted], return_index=True)
        owner: dict[str, int] = {}
        for draft in drafts[np.argsort(first)].tolist():
            customer = self.customer[draft]
            if customer != NONE and customers.has(customer, column):
                # It is not to be filled, so it wants nothing.
                wanted[draft] = NONE
                continue
            stored = self._stored(column, wanted[draft])
            if stored in held or owner.setdefault(stored, draft) != draft:
                wanted[draft] = NONE
                self.reasons[draft] = SHARED_PHONE if column == PHONE else "shared_email"

    def _stored(self, column: str, number: int) -> str:
        return self._leads.stored_phone(number) if column == PHONE else self._leads.emails.keys[number]

    def fields(self, draft: int) -> dict[str, str | None]:
        """What a customer has by its leads, by column."""
        leads, given = self._leads, self._given
        name, company, psid = given["name"][draft], given["company"][draft], given["messenger_psid"][draft]
        phone, email = given["phone"][draft], given["email"][draft]
        return {
            "name": leads.names[name] if name != NONE else leads.companies[company] if company != NONE else None,
            "phone": None if phone == NONE else leads.stored_phone(phone),
            "email": None if email == NONE else leads.emails.keys[email],
            "messenger_psid": None if psid == NONE else leads.psids.keys[psid],
        }


def as_array(column: Numbers) -> array[int]:
    """A column as an array, which gives one entry at a time in a quarter of the time."""
    return array("i", column.astype(np.int32).tobytes())


def _column(first: npt.ArrayLike, then: npt.ArrayLike) -> Numbers:
    return np.concatenate((np.array(first, dtype=np.int32), np.array(then, dtype=np.int32)))
