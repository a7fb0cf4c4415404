"""Groups of leads in columns, and what became of each lead: what the rules of `customers` come to.

Belongs here: the names of kinds, conflicts and reasons, and what there is to know of a group. Does not belong here:
which leads are a group (`customers_grouping.py`), and what is planned of it (`customers_plan.py`).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from backfill_pipelines.backfills.customers_existing import Customers
from backfill_pipelines.backfills.customers_identity import LeadColumns
from backfill_pipelines.backfills.customers_values import NONE

PSID, PHONE, EMAIL, INDIVIDUAL, PEOPLE = KINDS = ("psid", "phone", "email", "individual", "people")
"""Kinds of groups. `PEOPLE` are the leads that somebody split off: no rule made that group."""
SHARED_PHONE, SPLIT_GROUP, AMBIGUOUS_EXISTING = "shared_phone", "split_group", "ambiguous_existing"
OVERSIZED, BLOCKED, AMBIGUOUS_EMAIL, NO_IDENTIFIER = (
    "oversized_group",
    "blocked_value",
    "ambiguous_email",
    "no_identifier",
)
CONFLICTS = (None, SPLIT_GROUP, AMBIGUOUS_EXISTING)
REASONS = (None, OVERSIZED, BLOCKED, AMBIGUOUS_EMAIL, NO_IDENTIFIER)
"""Of leads: why one is an individual, or fell to its address. Columns hold the place in these."""

Numbers = npt.NDArray[np.int32]
Codes = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]
_T = TypeVar("_T", bound=np.generic)


@dataclass(frozen=True, slots=True)
class GroupCustomer:
    """The customer that a group is."""

    id: str


@dataclass(frozen=True, slots=True)
class Group:
    """Leads that are one customer."""

    kind: str
    customer: GroupCustomer | None
    """None while it is to be a new one."""
    conflict: str | None
    reason: str | None
    own_id: str
    """The id of the customer that would be made for it; empty where its customer was found without."""


class Groups:
    """All groups, each with a number: one entry in each column. 600,000 objects would be 120 MB."""

    def __init__(self, leads: LeadColumns, customers: Customers) -> None:
        self._leads, self._customers = leads, customers
        self.kind: Codes = np.zeros(0, dtype=np.uint8)
        self.value: Numbers = np.zeros(0, dtype=np.int32)
        """What makes it: the number of its PSID, phone or address; its lead; the customer it was split off to."""
        self.customer: Numbers = np.zeros(0, dtype=np.int32)
        """The customer that it was found to be, or `NONE`."""
        self.is_linked: Flags = np.zeros(0, dtype=np.bool_)
        """Whether that is the customer of leads that are linked already."""
        self.conflict: Codes = np.zeros(0, dtype=np.uint8)
        self.shares_phone: Flags = np.zeros(0, dtype=np.bool_)
        """Whether two customers of a higher kind have its phone."""
        self.own_ids: list[str] = []
        """See `Group.own_id`."""

    def __len__(self) -> int:
        return len(self.kind)

    def __getitem__(self, number: int) -> Group:
        customer = self.customer[number]
        return Group(
            kind=KINDS[self.kind[number]],
            customer=None if customer == NONE else GroupCustomer(self._customers.id(customer)),
            conflict=CONFLICTS[self.conflict[number]],
            reason=SHARED_PHONE if self.shares_phone[number] else None,
            own_id=self.own_ids[number],
        )

    def __iter__(self) -> Iterator[Group]:
        return (self[number] for number in range(len(self)))

    def open(self, kind: str, values: Numbers) -> Numbers:
        """Make a group of each value; returns their numbers."""
        numbers = np.arange(len(self), len(self) + len(values), dtype=np.int32)
        self.kind = _longer(self.kind, len(values), KINDS.index(kind))
        self.value = np.concatenate((self.value, values))
        self.customer = _longer(self.customer, len(values), NONE)
        self.is_linked = _longer(self.is_linked, len(values), 0)
        self.conflict = _longer(self.conflict, len(values), 0)
        self.shares_phone = _longer(self.shares_phone, len(values), 0)
        self.own_ids += [""] * len(values)
        return numbers

    def name(self, number: int) -> tuple[str, str]:
        """Kind and identifier: what a group is called whatever the order of the leads."""
        kind = KINDS[self.kind[number]]
        return kind, self.identifier(kind, int(self.value[number]))

    def identifier(self, kind: str, value: int) -> str:
        """What makes a group; of an individual its lead's id, of what people split off its customer's."""
        if kind == INDIVIDUAL:
            return self._leads.ids[value]
        if kind == PEOPLE:
            return self._customers.id(value)
        values = self._leads.psids if kind == PSID else self._leads.phones if kind == PHONE else self._leads.emails
        return values.keys[value]


def _longer(column: npt.NDArray[_T], count: int, value: int) -> npt.NDArray[_T]:
    return np.concatenate((column, np.full(count, value, dtype=column.dtype)))


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """Every lead's group."""

    groups: Groups
    group_of: array[int]
    """Per lead: the number of its group, or `NONE` for a lead whose link leads out of the client."""
    reason_of: dict[int, str]
    """Per lead, where there is one: why it is an individual, or fell to its address."""
