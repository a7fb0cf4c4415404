"""The seeded contacts of the fake GoHighLevel, and how a location treats what the vendor leaves open.

Belongs here: what a contact holds, how often it looks odd, and finding a contact by its id or address. Does not belong
here: what changes while the sandbox runs (gohighlevel_state.py), how a contact looks in JSON (gohighlevel_rows.py),
contacts that belong to a client's leads (gohighlevel_leads.py).

A contact is computed from the seed and a number each time it is asked for, and found again from the number in its id
or address: a location of a million contacts takes no memory and no time to make. The numbers are in the order of
`dateAdded`. A location may have *known* contacts too, which are kept one by one and dealt evenly among the others.
Nobody in here exists: addresses are below `example.com` and `.test`.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from backfill_pipelines.sandbox.every import Every
from backfill_pipelines.sandbox.invented_people import COMPANIES, PEOPLE
from backfill_pipelines.sandbox.leads_phones import InventedNumbers

WORLD_BEGINS = 1_704_700_800_000
"""2024-01-08T08:00:00Z in milliseconds since 1970. A fixed date: the world has no clock."""
WORLD_LASTS = 700 * 86_400_000
ADDED_TOGETHER = 3
"""Contacts with one and the same `dateAdded`, as an import makes them."""
READ_SCOPE = "contacts.readonly"

NO_EMAIL = Every(9, at=4)
EMAIL_OF_ANOTHER = Every(211, at=20)
"""Has the address of the contact before as its primary one."""
CAPITALS = Every(17, at=3)
SECOND_EMAIL = Every(7, at=2)
NO_PHONE = Every(6, at=1)
INVALID_PHONE = Every(23, at=9)
SECOND_PHONE = Every(13, at=5)
NO_FIRST_NAME = Every(11, at=6)
NO_LAST_NAME = Every(8, at=7)
HAS_COMPANY = Every(3, at=0)
_INVALID_PHONES = ("555-0134", "0000000000", "call me")
_DOMAINS = ("crm.example.com", "letters.example.com", "fernhollow.test", "gable-stone.test", "tidewater.test")
_NUMBER_IN_ADDRESS = re.compile(r"\.(\d{1,9})b?@")
_MASK = 2**64 - 1


class KnownContact(NamedTuple):
    """A contact that is kept, and not computed."""

    id: str
    email: str | None = None
    additional_emails: tuple[str, ...] = ()
    phone: str | None = None
    additional_phones: tuple[str, ...] = ()
    first_name: str | None = None
    last_name: str | None = None
    company_name: str | None = None


class GoHighLevelContact(NamedTuple):
    """A contact. Times are milliseconds since 1970."""

    number: int
    id: str
    email: str | None
    additional_emails: tuple[str, ...]
    phone: str | None
    additional_phones: tuple[str, ...]
    first_name: str | None
    last_name: str | None
    company_name: str | None
    date_added: int


class LocationHabits(NamedTuple):
    """What the vendor's documentation leaves open, and what differs from one location to the next."""

    search_names: Literal["both", "lower_case"] = "both"
    """Whether the rows of a search have names as they are spelled, or only their lower-cased twins."""
    or_groups: Literal["honoured", "ignored", "refused", "truncated"] = "honoured"
    """What becomes of a group of filters: ignored, all contacts come; refused, 400; truncated, the first ten count."""
    filters_a_group: int = 100
    """More of them in one group are answered with 422."""
    email_equality: Literal["primary", "any"] = "primary"
    """Whether a filter on `email` looks at additional addresses too."""
    capitals_differ: bool = False
    """Whether a filter on `email` tells capitals apart."""
    end_of_scan: Literal["empty", "repeats"] = "empty"
    """What follows the last cursor: an empty page, or the last page once more."""
    gone_status: Literal[400, 404] = 400
    foreign_contact: Literal["forbidden", "unauthorized", "served"] = "forbidden"
    """A contact of another location by its id: 403, 401, or the contact itself."""
    unknown_location: Literal[400, 403, 404, 422] = 403
    missing_scope: Literal[401, 403] = 401
    index_lag_seconds: float = 2.0
    """After how long a search shows that a contact was made or deleted."""


class GoHighLevelLocation:
    """One location as it is seeded: the same arguments give the same contacts.

    `contacts` counts the known ones too. `foreign_ids` are contacts of a location that is not in the sandbox. `key` is
    the client's key in the registry. Raises ValueError for more known contacts than `contacts`.
    """

    def __init__(
        self,
        *,
        seed: int,
        location_id: str,
        token: str,
        contacts: int,
        key: str = "",
        known: Sequence[KnownContact] = (),
        foreign_ids: Iterable[str] = (),
        habits: LocationHabits | None = None,
        scopes: Iterable[str] = (READ_SCOPE,),
        phone_region: str = "US",
    ) -> None:
        if not len(known) <= contacts < 10**8:
            raise ValueError(f"{contacts} contacts of which {len(known)} are known: use as many or more, below 10^8")
        self.seed, self.id, self.token, self.key, self.contacts = seed, location_id, token, key, contacts
        self.habits = habits or LocationHabits()
        self.scopes = frozenset(scopes)
        self.foreign_ids = frozenset(foreign_ids)
        self._known = tuple(known)
        self._phones = InventedNumbers(phone_region, random.Random(f"phones:{seed}"))  # noqa: S311 # invented data
        self._step = WORLD_LASTS // max(1, contacts)
        self._mixed_seed = seed
        for character in location_id:  # two locations of one seed have no id in common
            self._mixed_seed = (self._mixed_seed * 131 + ord(character)) & _MASK
        self._known_ids: dict[str, int] = {}
        self._known_addresses: defaultdict[str, list[int]] = defaultdict(list)
        for place, each in enumerate(self._known):
            number = place * contacts // len(self._known)
            self._known_ids[each.id] = number
            for address in dict.fromkeys(addresses_of(each)):
                self._known_addresses[address].append(number)

    def contact(self, number: int) -> GoHighLevelContact:
        """A contact by its number; those from `contacts` on are the ones that come while the sandbox runs."""
        known = self._known_at(number)
        added = WORLD_BEGINS + self._step * (number - number % ADDED_TOGETHER)
        if known is not None:
            return GoHighLevelContact(number, *known, added)
        first, last, local = PEOPLE[(number + self.seed) % len(PEOPLE)]
        return GoHighLevelContact(
            number,
            self.contact_id(number),
            self._email(number),
            (f"{local}.{number}b@{_DOMAINS[number % len(_DOMAINS)]}",) if SECOND_EMAIL.holds(number) else (),
            self._phone(number),
            (self._phones.number(number + 7).e164,) if SECOND_PHONE.holds(number) else (),
            None if NO_FIRST_NAME.holds(number) else first,
            None if NO_LAST_NAME.holds(number) else last,
            COMPANIES[number % len(COMPANIES)] if HAS_COMPANY.holds(number) else None,
            added,
        )

    def seeded_contacts(self) -> Iterator[GoHighLevelContact]:
        """All contacts as they were seeded, oldest first."""
        return map(self.contact, range(self.contacts))

    def contact_id(self, number: int) -> str:
        """The id of a contact: 20 letters and digits, as the vendor's."""
        known = self._known_at(number)
        return f"c{number:08d}{_mixed(self._mixed_seed, number) & (2**44 - 1):011x}" if known is None else known.id

    def number_of(self, contact_id: str) -> int | None:
        """The number in an id, future contacts included; None for an id that is not of this location."""
        if contact_id in self._known_ids:
            return self._known_ids[contact_id]
        digits = contact_id[1:9]
        number = int(digits) if digits.isascii() and digits.isdecimal() else -1
        return number if number >= 0 and self.contact_id(number) == contact_id else None

    def numbers_with(self, address: str) -> list[int]:
        """The contacts that have an address (in lower case), as their primary or an additional one; in order."""
        numbers = set(self._known_addresses.get(address, ()))
        for digits in _NUMBER_IN_ADDRESS.findall(address):
            numbers.update((int(digits), int(digits) + 1))
        return sorted(each for each in numbers if address in addresses_of(self.contact(each)))

    def _known_at(self, number: int) -> KnownContact | None:
        if not self._known or number >= self.contacts:
            return None
        place = -(-number * len(self._known) // self.contacts)
        holds = place < len(self._known) and place * self.contacts // len(self._known) == number
        return self._known[place] if holds else None

    def _email(self, number: int) -> str | None:
        if NO_EMAIL.holds(number):
            return None
        if EMAIL_OF_ANOTHER.holds(number) and self._known_at(number - 1) is None:
            return self._email(number - 1)
        address = f"{PEOPLE[(number + self.seed) % len(PEOPLE)][2]}.{number}@{_DOMAINS[number % len(_DOMAINS)]}"
        return address.title() if CAPITALS.holds(number) else address

    def _phone(self, number: int) -> str | None:
        if NO_PHONE.holds(number):
            return None
        if INVALID_PHONE.holds(number):
            return _INVALID_PHONES[number % len(_INVALID_PHONES)]
        return self._phones.number(number).e164


def build_gohighlevel_location(
    seed: int,
    location_id: str,
    token: str,
    *,
    contacts: int,
    key: str = "",
    habits: LocationHabits | None = None,
    phone_region: str = "US",
) -> GoHighLevelLocation:
    """A location whose contacts have nothing to do with any lead."""
    return GoHighLevelLocation(
        seed=seed,
        location_id=location_id,
        token=token,
        contacts=contacts,
        key=key,
        habits=habits,
        phone_region=phone_region,
    )


def addresses_of(contact: GoHighLevelContact | KnownContact) -> list[str]:
    """All addresses of a contact in lower case, the primary one first."""
    primary = [] if contact.email is None else [contact.email]
    return [address.lower() for address in (*primary, *contact.additional_emails)]


def _mixed(seed: int, number: int) -> int:
    """64 bits that look like chance (the finalizer of SplitMix64): a generator of Python's costs 10 µs to seed."""
    mixed = (seed * 0x9E3779B97F4A7C15 + number * 0xD1B54A32D192ED03 + 0x632BE59BD9B4E019) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return mixed ^ (mixed >> 31)


__all__ = [
    "READ_SCOPE",
    "WORLD_BEGINS",
    "WORLD_LASTS",
    "GoHighLevelContact",
    "GoHighLevelLocation",
    "KnownContact",
    "LocationHabits",
    "addresses_of",
    "build_gohighlevel_location",
]
