"""A client's customers that are there, and how they are found: by id and by what their rows hold.

Belongs here: reading their rows into columns, one entry per customer: 600,000 objects would be 150 MB. Does not belong
here: who is which of them (`customers_grouping.py`).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from backfill_pipelines.backfills.customers_identity import LeadColumns
from backfill_pipelines.backfills.customers_values import NONE

FIELDS = ("name", "phone", "email", "messenger_psid")
"""The columns that are filled where they are empty."""
_EMPTY, _PRESENT, _BLANK = 0, 1, 2


class Customers:
    """The client's customers, each with a number: found by id and by what their rows hold."""

    def __init__(self, frames: Iterable[pd.DataFrame], leads: LeadColumns) -> None:
        """`frames` with id, phone, email, messenger_psid, ours, lead_count, updated_at, and, unless all leads are
        linked, name."""
        self._numbers = leads.links
        links = len(self._numbers)
        self._places = array("i")
        """By customer: the number of its id."""
        psid, phone, email = array("i"), array("i"), array("i")
        self.ours = bytearray()
        self.lead_counts: list[int | float | None] = []
        """What those of ours say of themselves; anybody may have written there."""
        self.updated = array("q")
        self.unread_phones: dict[str, int] = {}
        """Stored phones that are none by the rules, with their customer: nobody else may store them either."""
        self._fields = {name: bytearray() for name in FIELDS}
        self._blanks: dict[tuple[int, str], str] = {}
        for frame in frames:
            columns = {name: frame[name].tolist() for name in frame.columns}
            start = len(self._places)
            numbers = self._numbers
            self._places.extend([numbers.setdefault(each, len(numbers)) for each in columns["id"]])
            phones, ours = columns["phone"], columns["ours"]
            read_phones = [
                leads.own_phone_number(raw) if is_ours else max(leads.phone_number(raw), NONE)
                for raw, is_ours in zip(phones, ours, strict=True)
            ]
            self.unread_phones |= {
                raw: place
                for place, (raw, number) in enumerate(zip(phones, read_phones, strict=True), start=start)
                if number == NONE and raw
            }
            phone.extend(read_phones)
            email.extend(
                [
                    leads.own_email_number(raw) if is_ours else max(leads.email_number(raw), NONE)
                    for raw, is_ours in zip(columns["email"], ours, strict=True)
                ]
            )
            psid.extend([leads.psid_number(raw) if raw else NONE for raw in columns["messenger_psid"]])
            self.ours += bytes(map(bool, ours))
            self.lead_counts += columns["lead_count"]
            self.updated.extend(columns["updated_at"])
            if "name" in columns:
                self._add_fields(columns, start)
        self._ids = list(self._numbers)
        place_of = np.full(len(self._numbers) + 1, NONE, dtype=np.int32)
        place_of[np.array(self._places)] = np.arange(len(self._places))
        self._place_of = place_of
        self.psid, self.phone, self.email = (np.array(column) for column in (psid, phone, email))
        self.is_peoples = np.frombuffer(bytes(self.ours), dtype=np.uint8) == 0
        self.linked = place_of[np.array(leads.link)]
        """By lead: the client's customer that it is linked to, or `NONE`."""
        self.strangers = {number: self._ids[number] for number in np.flatnonzero(place_of[:links] == NONE).tolist()}
        """Ids that leads are linked to and that are none of the client's customers, by their number among the links."""

    def __len__(self) -> int:
        return len(self._places)

    def _add_fields(self, columns: Mapping[str, Sequence[Any]], start: int) -> None:
        for name in FIELDS:
            block = bytes(
                [_EMPTY if value is None else _PRESENT if value.strip() else _BLANK for value in columns[name]]
            )
            self._fields[name] += block
            if _BLANK in block:
                self._blanks |= {
                    (place, name): columns[name][place - start]
                    for place, state in enumerate(block, start=start)
                    if state == _BLANK
                }

    def find(self, identifier: str) -> int:
        """The customer with an id, or `NONE`."""
        number = self._numbers.get(identifier)
        return NONE if number is None else int(self._place_of[number])

    def id(self, place: int) -> str:
        """A customer's id."""
        return self._ids[self._places[place]]

    def has(self, place: int, name: str) -> bool:
        """Whether one of `FIELDS` holds something."""
        return self._fields[name][place] == _PRESENT

    def empty_value(self, place: int, name: str) -> str | None:
        """What stands in a field that holds nothing: null, or white space."""
        return self._blanks.get((place, name))
