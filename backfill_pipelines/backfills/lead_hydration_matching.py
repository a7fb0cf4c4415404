"""Which contact of a GoHighLevel location a lead has: by its contact id, else by its address.

Belongs here: pure rules over leads, landed contacts and what the location was asked. Does not belong here: what is then
written into the lead (`lead_hydration_plan.py`), and asking (`lead_hydration_source.py`).

An address is found where a contact has it as its primary one, and only where none has, as an additional one. The
vendor's order among several is not trusted: several are nobody's. An answer also says what is not known: who came after
the location was asked was not looked for, and is left to the next run.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import pandas as pd

from backfill_pipelines.engine.email_address import MAXIMUM_LENGTH, comparison_key
from backfill_pipelines.engine.plan import Action

LONGEST_ID = 255
"""Characters of a contact's id at most; the vendor's have 20."""
BLANKS = " \t\n\r\v\f\u00a0\u200b\ufeff"
"""A field with nothing but these is empty."""

CONTACT_GONE, FOREIGN_CONTACT, INVALID_ID = "contact_gone", "foreign_contact", "invalid_contact_id"
AMBIGUOUS, UNPROVEN, NOT_FOUND = "ambiguous_contact", "unproven_contact", "not_found"
NO_KEY, CAME_LATER = "no_key", "came_later"

SEARCHED, ABSENT, FOUND_UNPROVEN = "searched", "absent", "unproven"
"""What is known of an address that a location was asked for: a filter has found what there is; besides, the vendor
knows no duplicate of it; or it knows one, which no filter has found and may be one of several."""

# Whatever else a field holds ("n/a", "none") is nothing to look for: no contact has it for an address.
_ADDRESS = re.compile(r"[^\s@]+@[^\s@]+\.[^\s@]+")


class Lead(NamedTuple):
    """A lead as it is read; `updated_at` as JSON spells it."""

    id: str
    ghl_contact_id: str | None
    email: str | None
    phone: str | None
    first_name: str | None
    last_name: str | None
    company_name: str | None
    updated_at: str | None


class Contact(NamedTuple):
    """A landed contact; `rejected` says why it has nothing but its id."""

    contact_id: str
    rejected: str | None
    email: str | None
    additional_emails: list[str]
    phone: str | None
    first_name: str | None
    last_name: str | None
    company_name: str | None
    names_lowercased: bool


class Key(NamedTuple):
    """What a lead is looked up by: a contact's id, or an address in the form in which addresses are compared."""

    value: str
    is_id: bool


class Match(NamedTuple):
    """A lead's contact; or, where it has none, what becomes of the lead and why."""

    contact: Contact | None
    action: Action
    reason: str | None


def leads_of(frames: Iterable[pd.DataFrame]) -> Iterator[Lead]:
    """Take leads out of frames with the columns of `Lead`."""
    for frame in frames:
        yield from map(Lead._make, zip(*(frame[name].tolist() for name in Lead._fields), strict=True))


def is_blank(value: str | None) -> bool:
    """Whether a field is empty."""
    return value is None or not value.strip(BLANKS)


def key_of(lead: Lead) -> Key | None:
    """What a lead is looked up by; None where it has neither id nor address."""
    if not is_blank(lead.ghl_contact_id):
        return Key((lead.ghl_contact_id or "").strip(BLANKS), is_id=True)
    address = address_key(lead.email)
    return None if address is None else Key(address, is_id=False)


def without_key(lead: Lead) -> Match:
    """What becomes of a lead that cannot be looked up: an address that is none is nobody's."""
    return Match(None, Action.SKIP, NO_KEY) if is_blank(lead.email) else Match(None, Action.REJECT, NOT_FOUND)


def address_key(raw: str | None) -> str | None:
    """The form in which addresses are compared; None for what is none."""
    key = comparison_key(raw)
    return key if key is not None and len(key) <= MAXIMUM_LENGTH and _ADDRESS.fullmatch(key) else None


@dataclass
class Wanted:
    """What the leads of a client want to know of its location."""

    eligible: int = 0
    ids: set[str] = field(default_factory=set)
    addresses: Counter[str] = field(default_factory=Counter)
    """With how many leads want each."""
    without_first_name: set[Key] = field(default_factory=set)
    without_last_name: set[Key] = field(default_factory=set)

    @classmethod
    def by(cls, leads: Iterable[Lead]) -> Wanted:
        """What these leads want."""
        wanted = cls()
        for lead in leads:
            wanted.eligible += 1
            key = key_of(lead)
            if key is None or (key.is_id and len(key.value) > LONGEST_ID):
                continue
            if key.is_id:
                wanted.ids.add(key.value)
            else:
                wanted.addresses[key.value] += 1
            if is_blank(lead.first_name):
                wanted.without_first_name.add(key)
            if is_blank(lead.last_name):
                wanted.without_last_name.add(key)
        return wanted

    @property
    def look_ups(self) -> int:
        """How many questions it would take to ask for everything one by one."""
        return len(self.ids) + len(self.addresses)


@dataclass(frozen=True)
class Asked:
    """What a location was asked. `scanned`: all its contacts were read. `addresses`: look-ups, with their outcome.

    `additional`: whether filters see additional addresses, so that a look-up has found all contacts that have one.
    """

    scanned: bool
    addresses: dict[str, str]
    additional: bool = False


class Contacts:
    """The landed contacts that leads want. A million others, of a large location, would only take memory."""

    def __init__(self, frames: Iterable[pd.DataFrame], wanted: Wanted, asked: Asked) -> None:
        self._wanted, self._asked = wanted, asked
        self._by_id: dict[str, Contact] = {}
        self._primary: defaultdict[str, list[Contact]] = defaultdict(list)
        self._additional: defaultdict[str, list[Contact]] = defaultdict(list)
        self.rejected: list[tuple[str, str]] = []
        """Ids and codes of contacts that cannot be used and that no lead names."""
        for frame in frames:
            for row in zip(*(frame[name].tolist() for name in Contact._fields), strict=True):
                self._add(Contact._make(row))

    def _add(self, contact: Contact) -> None:
        if contact.contact_id in self._wanted.ids:
            self._by_id[contact.contact_id] = contact
        elif contact.rejected not in (None, CONTACT_GONE):
            self.rejected.append((contact.contact_id, str(contact.rejected)))
        primary = address_key(contact.email)
        if primary in self._wanted.addresses and primary is not None:
            self._primary[primary].append(contact)
        for address in {key for each in contact.additional_emails if (key := address_key(each)) is not None}:
            if address != primary and address in self._wanted.addresses:
                self._additional[address].append(contact)

    def match(self, key: Key) -> Match:
        """The contact that a lead with this key has."""
        return self._by_contact_id(key.value) if key.is_id else self._by_address(key.value)

    def _by_contact_id(self, contact_id: str) -> Match:
        if len(contact_id) > LONGEST_ID:
            return Match(None, Action.REJECT, INVALID_ID)
        contact = self._by_id.get(contact_id)
        if contact is None:
            return Match(None, Action.SKIP, CAME_LATER)
        if contact.rejected is not None:
            action = Action.CONFLICT if contact.rejected == FOREIGN_CONTACT else Action.REJECT
            return Match(None, action, contact.rejected)
        return Match(contact, Action.UPDATE, None)

    def _by_address(self, address: str) -> Match:
        outcome = self._asked.addresses.get(address)
        if address not in self._wanted.addresses or (outcome is None and not self._asked.scanned):
            return Match(None, Action.SKIP, CAME_LATER)
        primary = self._primary.get(address, [])
        found = primary or self._additional.get(address, [])
        if len(found) > 1:
            return Match(None, Action.CONFLICT, AMBIGUOUS)
        # Of all that have it, or only of those that happened to be read?
        proven = self._asked.scanned or (outcome == SEARCHED and (bool(primary) or self._asked.additional))
        if found and proven:
            return Match(found[0], Action.UPDATE, None)
        if found or (outcome == FOUND_UNPROVEN and not self._asked.scanned):
            return Match(None, Action.CONFLICT, UNPROVEN)
        return Match(None, Action.REJECT, NOT_FOUND)

    def linked_by_address(self) -> Counter[str]:
        """The ids of the contacts that leads are about to be linked to, with how many leads each."""
        links: Counter[str] = Counter()
        for address, leads in self._wanted.addresses.items():
            contact = self._by_address(address).contact
            if contact is not None:
                links[contact.contact_id] += leads
        return links

    def lacking_names(self) -> list[str]:
        """The ids of contacts of which a lead wants a name that is known in lower case only; sorted."""
        lacking: set[str] = set()
        for keys, name in (
            (self._wanted.without_first_name, "first_name"),
            (self._wanted.without_last_name, "last_name"),
        ):
            for contact in (self.match(key).contact for key in keys):
                if contact is not None and contact.names_lowercased and getattr(contact, name) is not None:
                    lacking.add(contact.contact_id)
        return sorted(lacking)

    def without_primary(self, addresses: Collection[str]) -> list[str]:
        """Those of the addresses that no landed contact has as its primary one; sorted."""
        return sorted(each for each in addresses if each not in self._primary)

    def without_any(self, addresses: Collection[str]) -> list[str]:
        """Those of the addresses that no landed contact has at all; sorted."""
        return [each for each in self.without_primary(addresses) if each not in self._additional]
