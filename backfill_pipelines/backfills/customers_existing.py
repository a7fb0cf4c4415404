"""A client's customers that are there, and how they are found: by id and by what their rows hold.

Belongs here: reading their rows into what the rules need. Does not belong here: who is which of them
(`customers_grouping.py`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from backfill_pipelines.backfills.customers_identity import NONE, LeadColumns

PRESENT = "present"
"""Stands for what a customer's field holds, where only that matters: 600,000 names and addresses would be 150 MB."""


@dataclass(slots=True)
class Customer:
    """A customer that is there; its fields as they are where they are blank, else `PRESENT`."""

    id: str
    name: str | None
    phone: str | None
    email: str | None
    psid: str | None
    ours: bool
    lead_count: int | None
    updated_at: int
    psid_number: int
    phone_number: int
    email_number: int


class Customers:
    """The client's customers, found by id and by what their rows hold."""

    def __init__(self, frames: Iterable[pd.DataFrame], leads: LeadColumns) -> None:
        self.by_id: dict[str, Customer] = {}
        self.unread_phones: dict[str, str] = {}
        """Stored phones that are none by the rules, with their customer's id: nobody else may store them either."""
        self.by_psid: defaultdict[int, list[Customer]] = defaultdict(list)
        self.people_made_by_phone: defaultdict[int, list[Customer]] = defaultdict(list)
        self.people_made_by_email: defaultdict[int, list[Customer]] = defaultdict(list)
        for frame in frames:
            for row in zip(*(frame[name].tolist() for name in _CUSTOMER_COLUMNS), strict=True):
                self._add(row, leads)

    def _add(self, row: Sequence[Any], leads: LeadColumns) -> None:
        identifier, name, phone, email, psid, ours, lead_count, updated_at = row
        if ours:
            phone_number, email_number = leads.own_numbers(phone, email)
        else:
            phone_number, email_number = max(leads.phone_number(phone), NONE), max(leads.email_number(email), NONE)
        customer = Customer(
            identifier,
            _or_present(name),
            _or_present(phone),
            _or_present(email),
            _or_present(psid),
            bool(ours),
            lead_count,
            updated_at,
            leads.psid_number(psid),
            phone_number,
            email_number,
        )
        self.by_id[identifier] = customer
        if phone and phone_number == NONE:
            self.unread_phones[phone] = identifier
        if customer.psid_number != NONE:
            self.by_psid[customer.psid_number].append(customer)
        # What we made is found by its key alone: else a second PSID with one phone would depend on when it came.
        if not customer.ours and customer.phone_number != NONE:
            self.people_made_by_phone[customer.phone_number].append(customer)
        if not customer.ours and customer.email_number != NONE:
            self.people_made_by_email[customer.email_number].append(customer)


_CUSTOMER_COLUMNS = ("id", "name", "phone", "email", "messenger_psid", "ours", "lead_count", "updated_at")


def _or_present(value: str | None) -> str | None:
    return PRESENT if value and value.strip() else value
