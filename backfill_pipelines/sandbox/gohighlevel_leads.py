"""Locations whose contacts are those of a client's leads, in known shares.

Belongs here: which lead has a contact and how it can be found, and what a look-up must come to. Does not belong here:
the leads (leads_and_jobs.py), contacts of nobody (gohighlevel_data.py).
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

from backfill_pipelines.sandbox.every import Every
from backfill_pipelines.sandbox.gohighlevel_data import GoHighLevelLocation, KnownContact, LocationHabits
from backfill_pipelines.sandbox.invented_people import COMPANIES, PEOPLE
from backfill_pipelines.sandbox.leads_phones import InventedNumbers

OutcomeKind = Literal[
    "by_id", "gone", "foreign", "by_email", "by_additional_email", "ambiguous", "not_found", "without_key"
]

# Of the distinct addresses of leads without a contact's id, by the order in which they come.
ABSENT = Every(10, at=3)
ONLY_ADDITIONAL = Every(12, at=5)
TWO_PRIMARY = Every(25, at=7)
TWO_ADDITIONAL = Every(50, at=11)
PRIMARY_AND_ADDITIONAL = Every(20, at=9)
"""One contact has it as its primary address, and another one as an additional: the first one is meant."""
# Of the contact ids that leads have, likewise.
GONE = Every(15, at=4)
WITHOUT_EMAIL = Every(3, at=1)

_NO_NAMES, _NO_COMPANY = Every(9, at=2), Every(4, at=3)
_NO_PHONE, _INVALID_PHONE = Every(7, at=5), Every(31, at=6)
_MORE_CONTACTS = 1.2


class LeadLike(Protocol):
    """What of a lead matters here; a `LeadRow` is one."""

    @property
    def id(self) -> str: ...  # noqa: D102 # as in "Lead"
    @property
    def email(self) -> str | None: ...  # noqa: D102
    @property
    def first_name(self) -> str | None: ...  # noqa: D102
    @property
    def last_name(self) -> str | None: ...  # noqa: D102
    @property
    def ghl_contact_id(self) -> str | None: ...  # noqa: D102


class LeadOutcome(NamedTuple):
    """What becomes of a lead: how its contact is found, and which one it is where exactly one is meant."""

    kind: OutcomeKind
    contact_id: str | None = None


class LocationOfLeads(NamedTuple):
    """A location and the outcome for each lead, by the lead's id."""

    location: GoHighLevelLocation
    outcomes: dict[str, LeadOutcome]


def build_location_for_leads(
    leads: Iterable[LeadLike],
    *,
    seed: int,
    location_id: str,
    token: str,
    contacts: int | None = None,
    key: str = "",
    foreign: int = 0,
    habits: LocationHabits | None = None,
    phone_region: str = "US",
) -> LocationOfLeads:
    """The location of a client with these leads; the same arguments give the same contacts.

    `contacts`: how many there are in all, leads' and others'; a fifth more than those of the leads if left out. The
    contacts of the first `foreign` leads with a contact's id are another location's. Raises ValueError for too few
    `contacts`.
    """
    rows = list(leads)
    made = _Contacts(seed, phone_region)
    with_ids = [lead for lead in rows if lead.ghl_contact_id]
    foreign_ids = {lead.ghl_contact_id for lead in with_ids[:foreign] if lead.ghl_contact_id}
    for place, lead in enumerate(with_ids):
        if lead.ghl_contact_id and lead.ghl_contact_id not in foreign_ids and not GONE.holds(place):
            made.for_id(lead.ghl_contact_id, lead, with_email=not WITHOUT_EMAIL.holds(place))
    for lead in rows:
        if not lead.ghl_contact_id:
            made.for_address(lead)
    location = GoHighLevelLocation(
        seed=seed,
        location_id=location_id,
        token=token,
        contacts=int(len(made.contacts) * _MORE_CONTACTS) if contacts is None else contacts,
        key=key,
        known=list(made.contacts.values()),
        foreign_ids=foreign_ids,
        habits=habits,
        phone_region=phone_region,
    )
    return LocationOfLeads(location, _outcomes(rows, list(made.contacts.values()), foreign_ids))


def address_of(lead: LeadLike) -> str | None:
    """The address of a lead in lower case; None if what it has looks like none."""
    address = (lead.email or "").strip().lower()
    return address if "@" in address[1:] and "." in address.partition("@")[2] else None


class _Contacts:
    """The contacts made so far, by id."""

    def __init__(self, seed: int, phone_region: str) -> None:
        self._seed = seed
        self._phones = InventedNumbers(phone_region, random.Random(f"phones:{seed}"))  # noqa: S311 # invented data
        self._decided: set[str] = set()
        self._addresses = 0
        self.contacts: dict[str, KnownContact] = {}

    def for_id(self, contact_id: str, lead: LeadLike, *, with_email: bool) -> None:
        """The contact that a lead names."""
        if contact_id in self.contacts:
            return
        address = address_of(lead)
        # One that another contact has already would make every lead with this address ambiguous.
        if not with_email or address in self._decided:
            address = None
        if address is not None:
            self._decided.add(address)
        self._add(contact_id, lead, email=address)

    def for_address(self, lead: LeadLike) -> None:
        """The contacts that a lead without an id is to be found by, if it is the first one with this address."""
        address = address_of(lead)
        if address is None or address in self._decided:
            return
        self._decided.add(address)
        place = self._addresses
        self._addresses += 1
        other = f"front.desk.{place}@umber.test"
        if ABSENT.holds(place):
            return
        if ONLY_ADDITIONAL.holds(place) or TWO_ADDITIONAL.holds(place):
            self._add(self._next_id(), lead, email=other, additional=(address,))
            if TWO_ADDITIONAL.holds(place):
                self._add(self._next_id(), lead, email=None, additional=(f"second.{other}", address))
            return
        self._add(self._next_id(), lead, email=address)
        if TWO_PRIMARY.holds(place):
            self._add(self._next_id(), lead, email=address)
        elif PRIMARY_AND_ADDITIONAL.holds(place):
            self._add(self._next_id(), lead, email=other, additional=(address,))

    def _next_id(self) -> str:
        return f"k{self._seed % 10_000:04d}lead{len(self.contacts):011d}"

    def _add(self, contact_id: str, lead: LeadLike, *, email: str | None, additional: tuple[str, ...] = ()) -> None:
        place = len(self.contacts)
        first, last, _ = PEOPLE[(place + self._seed) % len(PEOPLE)]
        nameless = _NO_NAMES.holds(place)
        phone: str | None = self._phones.number(place).e164
        if _NO_PHONE.holds(place) or _INVALID_PHONE.holds(place):
            phone = "555-0134" if _INVALID_PHONE.holds(place) else None
        self.contacts[contact_id] = KnownContact(
            id=contact_id,
            email=email,
            additional_emails=additional,
            phone=phone,
            first_name=None if nameless else lead.first_name or first,
            last_name=None if nameless else lead.last_name or last,
            company_name=None if _NO_COMPANY.holds(place) else COMPANIES[place % len(COMPANIES)],
        )


def _outcomes(
    leads: Iterable[LeadLike], contacts: Iterable[KnownContact], foreign_ids: set[str]
) -> dict[str, LeadOutcome]:
    """Read off the contacts, not off how they were made: leads share addresses with one another."""
    ids: set[str] = set()
    primary: defaultdict[str, list[str]] = defaultdict(list)
    additional: defaultdict[str, list[str]] = defaultdict(list)
    for contact in contacts:
        ids.add(contact.id)
        if contact.email is not None:
            primary[contact.email].append(contact.id)
        for address in contact.additional_emails:
            additional[address].append(contact.id)

    def outcome(lead: LeadLike) -> LeadOutcome:
        if lead.ghl_contact_id in foreign_ids:
            return LeadOutcome("foreign")
        if lead.ghl_contact_id:
            return LeadOutcome("by_id", lead.ghl_contact_id) if lead.ghl_contact_id in ids else LeadOutcome("gone")
        address = address_of(lead)
        if address is None:
            return LeadOutcome("not_found" if (lead.email or "").strip() else "without_key")
        return _outcome_of(address, primary, additional)

    return {lead.id: outcome(lead) for lead in leads}


def _outcome_of(
    address: str, primary: Mapping[str, Sequence[str]], additional: Mapping[str, Sequence[str]]
) -> LeadOutcome:
    as_primary = primary.get(address)
    found = as_primary or additional.get(address, ())
    if len(found) == 1:
        return LeadOutcome("by_email" if as_primary else "by_additional_email", found[0])
    return LeadOutcome("ambiguous" if found else "not_found")


__all__ = [
    "LeadLike",
    "LeadOutcome",
    "LocationOfLeads",
    "OutcomeKind",
    "address_of",
    "build_location_for_leads",
]
