"""The decisions of `lead_hydration`: which empty fields of which lead are filled from its contact.

Belongs here: pure functions from leads and contacts to plan rows and figures. No network, no clock, no database. Does
not belong here: which contact a lead has (`lead_hydration_matching.py`), getting the frames and executing the rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd

from backfill_pipelines.backfills.lead_hydration_matching import (
    AMBIGUOUS,
    BLANKS,
    FOREIGN_CONTACT,
    NO_KEY,
    NOT_FOUND,
    Contact,
    Contacts,
    Key,
    Lead,
    is_blank,
    key_of,
    without_key,
)
from backfill_pipelines.engine.phone_number import PhoneNormaliser
from backfill_pipelines.engine.plan import Action, plan_frame

LEAD, GHL_CONTACT = "Lead", "ghl_contact"
LINK = "ghl_contact_id"
FILLED = ("phone", "email", "first_name", "last_name", "company_name")
WRITTEN = (LINK, *FILLED)
"""The columns that this backfill may write, each only where it is empty."""
NOTHING_TO_FILL, INVALID_PHONE, SHARED_CONTACT = "nothing_to_fill", "invalid_phone", "shared_contact"

_ROWS_IN_A_FRAME = 5_000
_NORTH_AMERICAN = 10


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How a client's leads are filled. `region`: in which its contacts' phones are read (ISO 3166 alpha-2)."""

    region: str
    phone_format: Literal["e164", "digits"]


@dataclass
class Figures:
    """What a plan comes to, counted while its rows are made."""

    eligible: int = 0
    linked: int = 0
    filled: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    """Of every lead that is not updated."""
    rejected: int = 0
    """Leads and contacts that cannot be used, but for those that were not found."""
    noted: Counter[str] = field(default_factory=Counter)
    """What else is worth knowing and is no row's reason: invalid phones, shared contacts."""

    def shown(self) -> dict[str, Any]:
        """As details of a run."""
        return {
            "eligible": self.eligible,
            "linked": self.linked,
            "filled": {name: self.filled[name] for name in FILLED},
            "not_found": self.reasons[NOT_FOUND],
            "ambiguous": self.reasons[AMBIGUOUS],
            "rejected": self.rejected,
            "no_key": self.reasons[NO_KEY],
        }


class HydrationPlan:
    """The plan of a client. `figures` and `skips` are complete once the frames are used up."""

    def __init__(
        self,
        leads: Iterable[Lead],
        contacts: Contacts,
        *,
        rules: Rules,
        linked_before: Mapping[str, int],
        store_skips: bool = False,
    ) -> None:
        """`linked_before`: how many leads of the client have a contact's id already, for contacts that leads are about
        to be linked to."""
        self._leads, self._contacts, self._rules, self._store_skips = leads, contacts, rules, store_skips
        self._normaliser = PhoneNormaliser(rules.region)
        self._links = contacts.linked_by_address() + Counter(dict(linked_before))
        self.figures = Figures()
        self.skips: Counter[str] = Counter()

    def frames(self) -> Iterator[pd.DataFrame]:
        """The rows: contacts that cannot be used, by id; then leads, in the order given."""
        rows: list[tuple[Any, ...]] = [
            (GHL_CONTACT, contact_id, self._rejection(code), code, None, None)
            for contact_id, code in sorted(self._contacts.rejected)
        ]
        for lead in self._leads:
            row = self._row(lead)
            if row[2] is not Action.SKIP or self._store_skips:
                rows.append(row)
            else:
                self.skips[row[3]] += 1
            if len(rows) >= _ROWS_IN_A_FRAME:
                yield plan_frame(rows)
                rows = []
        yield plan_frame(rows)

    def _rejection(self, code: str) -> Action:
        self.figures.rejected += 1
        return Action.CONFLICT if code == FOREIGN_CONTACT else Action.REJECT

    def _row(self, lead: Lead) -> tuple[Any, ...]:
        figures = self.figures
        figures.eligible += 1
        key = key_of(lead)
        contact, action, reason = without_key(lead) if key is None else self._contacts.match(key)
        if contact is not None and key is not None:
            after = self._filled(lead, contact, key)
            if after:
                self._count(contact, after)
                return (LEAD, lead.id, Action.UPDATE, None, _before(lead, after), after)
            action, reason = Action.SKIP, NOTHING_TO_FILL
        elif action in (Action.REJECT, Action.CONFLICT) and reason not in (NOT_FOUND, AMBIGUOUS):
            figures.rejected += 1
        if reason is not None:
            figures.reasons[reason] += 1
        return (LEAD, lead.id, action, reason, None, None)

    def _filled(self, lead: Lead, contact: Contact, key: Key) -> dict[str, str]:
        """The lead's empty fields with what its contact has for them, and the link where the lead had none."""
        after = {} if key.is_id else {LINK: contact.contact_id}
        for name in FILLED:
            if is_blank(getattr(lead, name)) and (value := self._value(contact, name)) is not None:
                after[name] = value
        return after

    def _value(self, contact: Contact, name: str) -> str | None:
        """What the contact has for a field of a lead."""
        value: str | None = getattr(contact, name)
        if value is None or is_blank(value):
            return None
        if name == "phone":
            return self._phone(value)
        if name in ("first_name", "last_name") and contact.names_lowercased:
            return None  # no spelling that anybody would want to see
        return value.strip(BLANKS)

    def _phone(self, raw: str) -> str | None:
        number = self._normaliser.to_e164(raw)
        if number is None:
            self.figures.noted[INVALID_PHONE] += 1
            return None
        return number if self._rules.phone_format == "e164" else digits_of(number)

    def _count(self, contact: Contact, after: Collection[str]) -> None:
        self.figures.filled.update(name for name in after if name != LINK)
        if LINK in after:
            self.figures.linked += 1
            if self._links[contact.contact_id] > 1:
                self.figures.noted[SHARED_CONTACT] += 1


def digits_of(number: str) -> str:
    """A number in E.164 as the product's own form has it: national digits for +1, elsewhere without its plus.

    Ten digits would pass for a national number of +1: such a number of another country keeps its plus.
    """
    if number.startswith("+1"):
        return number.removeprefix("+1")
    digits = number.removeprefix("+")
    return number if len(digits) == _NORTH_AMERICAN else digits


def _before(lead: Lead, after: Collection[str]) -> dict[str, Any]:
    """What the load compares with: the fields to be filled, and those by which the contact was found.

    Filled from the contact of an id or address that the lead has no more, it would have a stranger's phone.
    """
    known = {"id": lead.id, "updated_at": lead.updated_at, LINK: lead.ghl_contact_id, "email": lead.email}
    return known | {name: getattr(lead, name) for name in after}
