"""Which customer a group is that no link has told: one that has its key, its PSID, its phone or its address.

Belongs here: the look-ups, each only where it is certain; else the group is a conflict. Does not belong here: which
leads are a group (`customers_grouping.py`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from functools import cached_property

import numpy as np

from backfill_pipelines.backfills.customers_existing import Customers
from backfill_pipelines.backfills.customers_groups import (
    AMBIGUOUS_EXISTING,
    CONFLICTS,
    EMAIL,
    INDIVIDUAL,
    PHONE,
    PSID,
    Flags,
    Groups,
    Numbers,
)
from backfill_pipelines.backfills.customers_identity import GroupKeys, KnownCustomers, LeadColumns
from backfill_pipelines.backfills.customers_values import NONE

_AMBIGUOUS = CONFLICTS.index(AMBIGUOUS_EXISTING)


class CustomerFinder:
    """Finds customers for groups as the rules open them; what an earlier step has found or contested counts later."""

    def __init__(
        self,
        leads: LeadColumns,
        customers: Customers,
        groups: Groups,
        *,
        values: Mapping[str, Numbers],
        group_of: Numbers,
        keys: GroupKeys,
        known: KnownCustomers,
    ) -> None:
        self._leads, self._customers, self._groups = leads, customers, groups
        self._values, self._group_of = values, group_of
        self._keys, self._known = keys, known
        self._contested: dict[str, set[int]] = {PHONE: set(), EMAIL: set()}
        """By look-up: customers that several groups may be; no later one is taken for it either."""

    def find(self, kind: str, opened: Numbers, members: Numbers) -> None:
        """Find the customers of new groups of a kind: by key, PSID, phone, address, in this order."""
        self._find_by_key(kind, self._still_open(opened))
        if kind == PSID:
            self._find_by_psid(self._still_open(opened))
        # Leads that came to their address have no phone that groups.
        if kind in (PSID, PHONE):
            self._find_people_made(PHONE, kind, opened, members)
        if kind != INDIVIDUAL:
            self._find_people_made(EMAIL, kind, opened, members)

    def unclaimed(self, column: str) -> Flags:
        """By value, whether a customer has it that people made and that no group has been found to be."""
        found = np.zeros(len(self._leads.phones if column == PHONE else self._leads.emails), dtype=np.bool_)
        found[self._row_values(column)[self._free_customers(column)]] = True
        return found

    def _still_open(self, opened: Numbers) -> Numbers:
        still_open: Numbers = opened[(self._groups.customer[opened] == NONE) & (self._groups.conflict[opened] == 0)]
        return still_open

    def _row_values(self, column: str) -> Numbers:
        return self._customers.phone if column == PHONE else self._customers.email

    def _free_customers(self, column: str) -> Numbers:
        """Customers that people made, with a value in their row, that no group has been found to be.

        What we made is found by its key alone: else a second PSID with one phone would depend on when it came.
        """
        is_free = self._customers.is_peoples & (self._row_values(column) != NONE)
        if is_free.any():
            found = self._groups.customer
            is_free[found[found != NONE]] = False
        return np.flatnonzero(is_free).astype(np.int32)

    # --- by key and by PSID ----------------------------------------------------------------------------------------

    def _find_by_key(self, kind: str, opened: Numbers) -> None:
        groups, recorded = self._groups, self._known.recorded
        for number, value in zip(opened.tolist(), groups.value[opened].tolist(), strict=True):
            group_hash = self._keys.hash(kind, groups.identifier(kind, value))
            own_id = groups.own_ids[number] = self._keys.customer_id(group_hash)
            customer = self._standing(recorded[group_hash]) if group_hash in recorded else NONE
            if customer == NONE:
                customer = self._standing(own_id)
            if customer != NONE:
                groups.customer[number] = customer

    def _standing(self, identifier: str) -> int:
        """A customer, or what it was merged into, and that again: the last of them that is still there."""
        found, merged = self._customers.find(identifier), self._known.merged
        seen = {identifier}
        while (into := merged.get(identifier)) is not None and into not in seen:
            seen.add(into)
            identifier = into
            if (customer := self._customers.find(into)) != NONE:
                found = customer
        return found

    def _find_by_psid(self, opened: Numbers) -> None:
        """The one customer that has the group's PSID in its row; of two nobody can tell."""
        with_psid = np.flatnonzero(self._customers.psid != NONE)
        psids = self._customers.psid[with_psid]
        customer_of = np.full(len(self._leads.psids), NONE, dtype=np.int32)
        customer_of[psids] = with_psid
        is_shared = np.zeros(len(customer_of), dtype=np.bool_)
        is_shared[psids[customer_of[psids] != with_psid]] = True
        psids = self._groups.value[opened]
        self._groups.customer[opened] = np.where(is_shared[psids], NONE, customer_of[psids])
        self._groups.conflict[opened[is_shared[psids]]] = _AMBIGUOUS

    # --- by phone and by address -----------------------------------------------------------------------------------

    def _find_people_made(self, column: str, kind: str, opened: Numbers, members: Numbers) -> None:
        """Find customers that people made by what their rows hold; where that is uncertain, the group is a conflict."""
        groups = self._groups
        candidates = self._candidates(column, self._still_open(opened), members)
        claims = Counter(customer for found in candidates.values() for customer in found)
        phones: Mapping[int, set[int]] = {}
        if column == EMAIL and kind != EMAIL:
            phones = self._phones_of(candidates.keys(), members)
        contested_now: set[int] = set()
        for number, found in candidates.items():
            customer = min(found)
            other_psid = kind == PSID and not self._psids_of(customer) <= {int(groups.value[number])}
            phone = int(self._customers.phone[customer])
            other_phone = bool(phones.get(number)) and phone not in (NONE, *phones[number])
            contested = (
                len(found) > 1 or other_psid or claims[customer] > 1 or not self._contested[column].isdisjoint(found)
            )
            if contested or other_phone:
                groups.conflict[number] = _AMBIGUOUS
            contested_now.update(found if contested else ())
        # Who is contested by phone is no sure match by address either; by address alone says nothing of a phone.
        for weaker in (PHONE, EMAIL) if column == PHONE else (EMAIL,):
            self._contested[weaker] |= contested_now
        # Only now, so that no group sees a customer as taken that another has just claimed.
        for number, found in candidates.items():
            if groups.conflict[number] == 0:
                groups.customer[number] = min(found)

    def _candidates(self, column: str, opened: Numbers, members: Numbers) -> dict[int, set[int]]:
        """By group: the customers whose row has a value that one of its leads has."""
        free = self._free_customers(column)
        if not len(free) or not len(opened):
            return {}
        is_open = np.zeros(len(self._groups), dtype=np.bool_)
        is_open[opened] = True
        members = members[is_open[self._group_of[members]]]
        values = self._values[column][members]
        of_value: defaultdict[int, list[int]] = defaultdict(list)
        for customer, value in zip(free.tolist(), self._row_values(column)[free].tolist(), strict=True):
            of_value[value].append(customer)
        has_some = np.isin(values, list(of_value))
        found: defaultdict[int, set[int]] = defaultdict(set)
        pairs = zip(self._group_of[members[has_some]].tolist(), values[has_some].tolist(), strict=True)
        for number, value in pairs:
            found[number].update(of_value[value])
        return found

    def _phones_of(self, numbers: Collection[int], members: Numbers) -> Mapping[int, set[int]]:
        """By group: its leads' phones."""
        phones: defaultdict[int, set[int]] = defaultdict(set)
        members = members[np.isin(self._group_of[members], list(numbers)) & (self._values[PHONE][members] != NONE)]
        for number, phone in zip(self._group_of[members].tolist(), self._values[PHONE][members].tolist(), strict=True):
            phones[number].add(phone)
        return phones

    def _psids_of(self, customer: int) -> set[int]:
        """The PSIDs that a customer has, in its row and by its leads."""
        return self._psids_by_links.get(customer, set()) | ({int(self._customers.psid[customer])} - {NONE})

    @cached_property
    def _psids_by_links(self) -> Mapping[int, set[int]]:
        """By customer that people made: the PSIDs of the leads that are linked to it."""
        linked, psids = self._customers.linked, self._values[PSID]
        is_told = (linked != NONE) & (psids != NONE)
        is_told[is_told] = self._customers.is_peoples[linked[is_told]]
        found: defaultdict[int, set[int]] = defaultdict(set)
        for customer, psid in zip(linked[is_told].tolist(), psids[is_told].tolist(), strict=True):
            found[customer].add(psid)
        return found
