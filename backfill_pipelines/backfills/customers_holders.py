"""Who has a phone or an address: the customers found so far, by their groups, their rows and the leads linked to them.

Belongs here: which one group has a value, and where several customers have it. Does not belong here: what follows from
that (`customers_grouping.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from backfill_pipelines.backfills.customers_existing import Customers
from backfill_pipelines.backfills.customers_groups import KINDS, PEOPLE, PHONE, Flags, Groups, Numbers
from backfill_pipelines.backfills.customers_identity import LeadColumns
from backfill_pipelines.backfills.customers_values import NONE

MANY = -2
"""In a column of groups: more than one customer has the value."""


def holders(
    leads: LeadColumns,
    customers: Customers,
    groups: Groups,
    *,
    column: str,
    group_of: Numbers,
    split_off: Mapping[int, int],
) -> Numbers:
    """By value of a column (`PHONE` or `EMAIL`): the group that has it, `MANY` or `NONE`.

    A customer has what any of its leads has, or its own row. Where two groups are one customer, a value is the group's
    whose leads have it, as they share its conflicts. `split_off` are values with the group that people split them off
    to, or `MANY`.
    """
    of_lead = np.array(leads.phone if column == PHONE else leads.email)
    found = _Holders(groups, customers, len(leads.phones if column == PHONE else leads.emails))
    is_in_group = (group_of != NONE) & (of_lead != NONE)
    is_in_group[is_in_group] = groups.kind[group_of[is_in_group]] != KINDS.index(PEOPLE)
    split = {value: group for value, group in split_off.items() if group != MANY}
    found.by_leads(
        np.concatenate((of_lead[is_in_group], np.fromiter(split.keys(), np.int32, len(split)))),
        np.concatenate((group_of[is_in_group], np.fromiter(split.values(), np.int32, len(split)))),
    )
    found.is_shared[[value for value, group in split_off.items() if group == MANY]] = True
    group_of_customer = _first_groups(groups, len(customers))
    if (group_of_customer != NONE).any():
        settled = np.flatnonzero(group_of_customer != NONE)
        rows = (customers.phone if column == PHONE else customers.email)[settled]
        others = _leads_of_no_group_of_theirs(customers.linked, groups, group_of, group_of_customer)
        others = others[of_lead[others] != NONE]
        found.by_customers(
            np.concatenate((rows[rows != NONE], of_lead[others])),
            np.concatenate((settled[rows != NONE], customers.linked[others])),
            group_of_customer,
        )
    return found.told()


class _Holders:
    """The holders of values, as they are found."""

    def __init__(self, groups: Groups, customers: Customers, values: int) -> None:
        self._groups = groups
        # Whose group it is: groups that are one customer are one.
        own = np.arange(len(customers), len(customers) + len(groups), dtype=np.int64)
        self._owner_of_group = np.where(groups.customer == NONE, own, groups.customer)
        self._group = np.full(values, NONE, dtype=np.int32)
        self._owner = np.full(values, NONE, dtype=np.int64)
        self.is_shared: Flags = np.zeros(values, dtype=np.bool_)

    def by_leads(self, values: Numbers, numbers: Numbers) -> None:
        """Note values that leads of groups have."""
        self._note(values, self._owner_of_group[numbers])
        self._group[values] = numbers
        is_doubtful = (self._group[values] != numbers) & ~self.is_shared[values]
        for value, number in zip(values[is_doubtful].tolist(), numbers[is_doubtful].tolist(), strict=True):
            self._group[value] = min(int(self._group[value]), number, key=self._groups.name)

    def by_customers(self, values: Numbers, owners: Numbers, group_of_customer: Numbers) -> None:
        """Note values that customers have otherwise."""
        self._note(values, owners.astype(np.int64))
        is_new = self._group[values] == NONE
        self._group[values[is_new]] = group_of_customer[owners[is_new]]

    def _note(self, values: Numbers, owners: npt.NDArray[np.int64]) -> None:
        is_new = self._owner[values] == NONE
        self._owner[values[is_new]] = owners[is_new]
        self.is_shared[values[self._owner[values] != owners]] = True

    def told(self) -> Numbers:
        """The group of each value."""
        return np.where(self.is_shared, MANY, self._group).astype(np.int32)


def _first_groups(groups: Groups, customers: int) -> Numbers:
    """By customer: the first by name of the groups that it is, without what people split off; or `NONE`."""
    first = np.full(customers, NONE, dtype=np.int32)
    numbers = np.flatnonzero((groups.customer != NONE) & (groups.kind != KINDS.index(PEOPLE))).astype(np.int32)
    first[groups.customer[numbers]] = numbers
    for number in numbers[first[groups.customer[numbers]] != numbers].tolist():
        customer = groups.customer[number]
        first[customer] = min(int(first[customer]), number, key=groups.name)
    return first


def _leads_of_no_group_of_theirs(
    linked: Numbers, groups: Groups, group_of: Numbers, group_of_customer: Numbers
) -> Numbers:
    """Leads whose group is not looked for yet, or is split: they are their customer's all the same."""
    leads = np.flatnonzero(linked != NONE)
    leads = leads[group_of_customer[linked[leads]] != NONE]
    own = group_of[leads]
    is_elsewhere = own == NONE
    is_elsewhere[~is_elsewhere] = groups.customer[own[~is_elsewhere]] != linked[leads[~is_elsewhere]]
    found: Numbers = leads[is_elsewhere].astype(np.int32)
    return found
