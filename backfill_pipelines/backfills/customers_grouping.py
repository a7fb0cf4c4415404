"""Who belongs together: a client's leads as groups, and each group as a known customer, a new one, or a conflict.

Belongs here: the rules of `customers`, by the most reliable identifier first (PSID, phone, address), over columns of
numbers: leads, values, groups and customers are places in these. Pure; nothing depends on the order of the leads. Does
not belong here: reading fields (`customers_identity.py`), who has a value (`customers_holders.py`), which customer a
group without a link is (`customers_finding.py`) and what is written (`customers_plan.py`).
"""

from __future__ import annotations

from array import array

import numpy as np

from backfill_pipelines.backfills.customers_existing import Customers
from backfill_pipelines.backfills.customers_finding import CustomerFinder
from backfill_pipelines.backfills.customers_groups import (
    AMBIGUOUS_EMAIL,
    AMBIGUOUS_EXISTING,
    BLOCKED,
    CONFLICTS,
    EMAIL,
    INDIVIDUAL,
    NO_IDENTIFIER,
    OVERSIZED,
    PEOPLE,
    PHONE,
    PSID,
    REASONS,
    SHARED_PHONE,
    SPLIT_GROUP,
    Flags,
    Group,
    Grouping,
    Groups,
    Numbers,
)
from backfill_pipelines.backfills.customers_holders import MANY, holders
from backfill_pipelines.backfills.customers_identity import GroupKeys, KnownCustomers, LeadColumns
from backfill_pipelines.backfills.customers_values import NONE

__all__ = ("EMAIL", "INDIVIDUAL", "PEOPLE", "PHONE", "PSID", "SHARED_PHONE", "Group", "Grouping", "group_leads")


def group_leads(
    leads: LeadColumns, customers: Customers, *, max_group_size: int, keys: GroupKeys, known: KnownCustomers
) -> Grouping:
    """Group a client's leads, and find the customers that are there already."""
    return _Rules(leads, customers, max_group_size=max_group_size, keys=keys, known=known).grouping()


class _Rules:
    """The rules in their order, over what they have found so far."""

    def __init__(
        self, leads: LeadColumns, customers: Customers, *, max_group_size: int, keys: GroupKeys, known: KnownCustomers
    ) -> None:
        self._leads, self._customers, self._max_group_size = leads, customers, max_group_size
        self._known = known
        self._values = {PSID: np.array(leads.psid), PHONE: np.array(leads.phone), EMAIL: np.array(leads.email)}
        self._group_of = np.full(len(leads), NONE, dtype=np.int32)
        self._reasons = np.zeros(len(leads), dtype=np.uint8)
        self._is_blocked = np.zeros(len(leads), dtype=np.bool_)
        self._is_blocked[list(leads.blocked)] = True
        self._groups = Groups(leads, customers)
        self._split_off: dict[str, dict[int, int]] = {PSID: {}, PHONE: {}, EMAIL: {}}
        """By identifier: values that only leads have that were split off, with their group; or `MANY`."""
        self._finder = CustomerFinder(
            leads, customers, self._groups, values=self._values, group_of=self._group_of, keys=keys, known=known
        )

    def grouping(self) -> Grouping:
        """Apply the rules: what people split off, then PSID, phone, address, and what is left."""
        free = self._set_aside()
        has_psid = self._values[PSID][free] != NONE
        self._group_by_psid(free[has_psid])
        rest = self._group_by_phone(free[~has_psid])
        rest = self._group_by_email(rest)
        self._make_individuals(rest)
        told = np.flatnonzero(self._reasons)
        names = [str(REASONS[code]) for code in self._reasons[told].tolist()]
        return Grouping(
            groups=self._groups,
            group_of=array("i", self._group_of.tobytes()),
            reason_of=dict(zip(told.tolist(), names, strict=True)),
        )

    # --- leads that no rule may move -------------------------------------------------------------------------------

    def _set_aside(self) -> Numbers:
        """Take out the leads that are linked out of the client, and group those that somebody split off."""
        linked = self._customers.linked
        is_free = (np.array(self._leads.link) == NONE) | (linked != NONE)
        homes = self._homes(is_free) if self._known.split else {}
        if not homes:
            return np.flatnonzero(is_free).astype(np.int32)
        customers = np.array(sorted(set(homes.values())), dtype=np.int32)
        opened = self._groups.open(PEOPLE, customers)
        self._groups.customer[opened], self._groups.is_linked[opened] = customers, True
        group_of = dict(zip(customers.tolist(), opened.tolist(), strict=True))
        for lead, home in homes.items():
            self._group_of[lead] = group_of[home]
            is_free[lead] = False
        # A value that a split left on both sides stays with the customer that was split.
        for column, values in self._values.items():
            kept = set(values[is_free & (linked != NONE)].tolist())
            of_group = self._split_off[column]
            for lead in homes:
                value, group = int(values[lead]), int(self._group_of[lead])
                if value != NONE and value not in kept:
                    of_group[value] = group if of_group.get(value, group) == group else MANY
        return np.flatnonzero(is_free).astype(np.int32)

    def _homes(self, is_free: Flags) -> dict[int, int]:
        """Leads that somebody split off, with the customer that they were split off to, where it is still there."""
        split = self._known.split
        return {
            lead: home
            for lead, identifier in enumerate(self._leads.ids)
            if identifier in split and is_free[lead] and (home := self._customers.find(split[identifier])) != NONE
        }

    # --- PSID ------------------------------------------------------------------------------------------------------

    def _group_by_psid(self, members: Numbers) -> None:
        """Leads with the same PSID are one customer. Always."""
        values, first = self._values[PSID][members], len(self._groups)
        group_of_value = np.full(len(self._leads.psids), NONE, dtype=np.int32)
        for value, group in self._split_off[PSID].items():
            group_of_value[value] = NONE if group == MANY else group
        new = _distinct(values, where=group_of_value == NONE)
        group_of_value[new] = opened = self._groups.open(PSID, new)
        self._group_of[members] = group_of_value[values]
        self._take_over_links(members, first_own=first)
        self._finder.find(PSID, opened, members)

    # --- phone -----------------------------------------------------------------------------------------------------

    def _group_by_phone(self, members: Numbers) -> Numbers:
        """Leads without a PSID, by phone; returns those that have none to be grouped by."""
        first = len(self._groups)
        is_usable = self._is_usable(members, PHONE)
        chosen = members[is_usable]
        values = self._values[PHONE][chosen]
        group_of_value = self._holders(PHONE)
        is_shared = group_of_value == MANY
        # A customer that people made has the phone too: theirs or the PSID's, nobody can tell.
        is_doubtful = (group_of_value != NONE) & self._finder.unclaimed(PHONE)
        new = _distinct(values, where=(group_of_value < 0) | is_doubtful)
        group_of_value[new] = opened = self._groups.open(PHONE, new)
        self._groups.conflict[opened[is_doubtful[new]]] = CONFLICTS.index(AMBIGUOUS_EXISTING)
        self._groups.shares_phone[opened[is_shared[new]]] = True
        self._group_of[chosen] = group_of_value[values]
        self._take_over_links(chosen, first_own=first)
        self._finder.find(PHONE, opened, chosen)
        return members[~is_usable]

    # --- address ---------------------------------------------------------------------------------------------------

    def _group_by_email(self, members: Numbers) -> Numbers:
        """Leads with neither PSID nor phone, by address; returns those that are individuals."""
        first = len(self._groups)
        group_of_value = self._holders(EMAIL)
        is_ambiguous = (group_of_value == MANY) | ((group_of_value != NONE) & self._finder.unclaimed(EMAIL))
        is_usable = self._is_usable(members, EMAIL)
        chosen = members[is_usable]
        undecided = chosen[is_ambiguous[self._values[EMAIL][chosen]]]
        self._reasons[undecided] = REASONS.index(AMBIGUOUS_EMAIL)
        chosen = chosen[~is_ambiguous[self._values[EMAIL][chosen]]]
        values = self._values[EMAIL][chosen]
        new = _distinct(values, where=group_of_value == NONE)
        group_of_value[new] = opened = self._groups.open(EMAIL, new)
        self._group_of[chosen] = group_of_value[values]
        self._take_over_links(chosen, first_own=first)
        self._finder.find(EMAIL, opened, chosen)
        return np.concatenate((members[~is_usable], undecided))

    # --- what is left ----------------------------------------------------------------------------------------------

    def _make_individuals(self, members: Numbers) -> None:
        """One customer per lead that has nothing to be recognised by."""
        opened = self._groups.open(INDIVIDUAL, members)
        self._group_of[members] = opened
        self._reasons[members[self._reasons[members] == 0]] = REASONS.index(NO_IDENTIFIER)
        self._groups.customer[opened] = self._customers.linked[members]
        self._finder.find(INDIVIDUAL, opened, members)

    # --- steps that come again -------------------------------------------------------------------------------------

    def _is_usable(self, members: Numbers, column: str) -> Flags:
        """Which leads have an identifier that groups; of the others the reason is noted, where one is to be told."""
        values = self._values[column][members]
        has_one = values != NONE
        blocked = members[~has_one & self._is_blocked[members] & (self._reasons[members] == 0)]
        self._reasons[blocked] = REASONS.index(BLOCKED)
        sizes = np.bincount(values[has_one])
        is_oversized = has_one.copy()
        is_oversized[has_one] = sizes[values[has_one]] > self._max_group_size
        self._reasons[members[is_oversized]] = REASONS.index(OVERSIZED)
        is_usable: Flags = has_one & ~is_oversized
        return is_usable

    def _take_over_links(self, members: Numbers, *, first_own: int) -> None:
        """A group is the customer that its leads are linked to already; two of them cannot be one group.

        Groups from `first_own` on are this step's own; one of an earlier step stays the conflict that it is.
        """
        groups = self._groups
        members = members[self._customers.linked[members] != NONE]
        linked, group_of = self._customers.linked[members], self._group_of[members]
        found = np.full(len(groups), NONE, dtype=np.int32)
        found[group_of] = linked
        is_plural = np.zeros(len(groups), dtype=np.bool_)
        is_plural[group_of[found[group_of] != linked]] = True
        is_told = found != NONE
        is_told[:first_own] &= groups.conflict[:first_own] == 0
        is_plural |= groups.is_linked & (groups.customer != NONE) & (groups.customer != found)
        groups.conflict[is_told] = np.where(is_plural[is_told], CONFLICTS.index(SPLIT_GROUP), 0)
        groups.customer[is_told] = np.where(is_plural, NONE, found)[is_told]
        groups.is_linked |= is_told

    def _holders(self, column: str) -> Numbers:
        return holders(
            self._leads,
            self._customers,
            self._groups,
            column=column,
            group_of=self._group_of,
            split_off=self._split_off[column],
        )


def _distinct(values: Numbers, *, where: Flags) -> Numbers:
    """The distinct ones of some values, of those that a flag per value allows."""
    is_there = np.zeros(len(where), dtype=np.bool_)
    is_there[values] = True
    return np.flatnonzero(is_there & where).astype(np.int32)
