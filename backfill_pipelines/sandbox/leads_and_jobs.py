"""Seeded leads and jobs of any number, and the customers that people had made before.

Belongs here: making rows from a seed. Does not belong here: which shapes there are (leads_households.py), spellings of
phones (leads_phones.py), writing to a database (leads_filling.py), and any idea of what a backfill makes of it.

A row is a function of seed, client and place and nothing is remembered from one to the next: a million leads are never
in memory at once. Leads of one household are spread over the whole table.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cached_property
from math import gcd
from typing import NamedTuple
from uuid import UUID

from backfill_pipelines.sandbox.every import Every
from backfill_pipelines.sandbox.invented_people import COMPANIES, PEOPLE
from backfill_pipelines.sandbox.leads_households import (
    ELSEWHERE,
    LONG_FIELD,
    OVERSIZED,
    OVERSIZED_KINDS,
    PERIOD,
    Household,
    SeededCustomer,
    SeededLead,
)
from backfill_pipelines.sandbox.leads_phones import InventedNumbers
from backfill_pipelines.sandbox.leads_rows import ClientRow, CustomerAddressRow, CustomerRow, JobRow, LeadRow

MOST_LEADS = 3_900_000
"""Of one client: then the invented telephone numbers would begin anew."""

_WORLD_BEGINS, _WORLD_LASTS = 1_704_700_800, 600 * 86_400
"""2024-01-08T08:00:00Z, and how many seconds until the last lead comes."""
_CUSTOMERS_BEGAN = datetime(2023, 2, 1, 9, tzinfo=UTC)
_ARRIVE_TOGETHER = 3
"""Leads with one and the same `created_at`, as an import makes them."""
_DOMAINS = ("mail.example.com", "umber.example.com", "willowcourt.example.com", "quarrylane.test", "northwick.test")
_EMAIL_FORMS = ("{}", "{}", "{}", "{}", "{}", " {}", "{}\n", "\u00a0{} ")
_UPPER_CASE, _TITLE_CASE, _UNICODE_ADDRESS = Every(6, at=3), Every(6, at=4), Every(41, at=7)
_FIRST_PSID, _PSID_STEP = 4_100_000_000_000_000, 7_919
_PADDED_PSID = Every(29, at=12)
_HAS_COMPANY, _HAS_CONTACT, _NO_FIRST_NAME, _EDITED = Every(3, at=1), Every(4, at=2), Every(19, at=5), Every(3, at=0)

_PEOPLE_OF_OVERSIZED = 1_000
"""The numbers of the first people: those whose phone or address more than a hundred leads have."""
_FEWEST_FOR_OVERSIZED, _LEADS_PER_OVERSIZED = 2_000, 50_000
_RARE = Every(10, at=0)
_LONG_FIELD_LATER = 80
_ODD_IDS = (
    (Every(97, at=4), '{}-o\'hara "{}"'),
    (Every(101, at=6), "{}-лид-领先-{}"),
    (Every(103, at=8), "{}-a,b;\\N\t{}"),
)
_JOB_WITHOUT_LEAD, _JOB_OF_THE_SAME_LEAD = Every(37, at=2), Every(4, at=3)
_JOB_LINKED, _JOB_LINKED_WRONGLY = Every(2, at=0), Every(499, at=9)
_MADE_BY = ('{"createdBy": "front desk"}', "{}", '{"source": "import", "tags": ["vip"]}')
_EDITED_AFTER = timedelta(hours=5)
_GOLDEN = 0.618


class _Place(NamedTuple):
    """A lead's place in its household. `first_person` is the number of the household's first person."""

    lead: SeededLead
    household: Household
    serial: int
    first_person: int
    period: int


class SeededClient:
    """The leads and jobs of one client: the same arguments give the same bytes.

    Clients of one seed have people in common. `phone_region` (ISO 3166 alpha-2, one of `leads_phones.REGIONS`) is where
    they live. `foreign_customer_id` is a customer of another client, to which some leads are linked by mistake.
    Raises ValueError for sizes below 0 or above `MOST_LEADS`, and for an unknown region.
    """

    def __init__(
        self,
        client_id: str,
        *,
        leads: int,
        jobs: int,
        seed: int,
        name: str | None = None,
        phone_region: str = "US",
        foreign_customer_id: str | None = None,
    ) -> None:
        if not (0 <= leads <= MOST_LEADS and jobs >= 0):
            raise ValueError(
                f"{leads} leads and {jobs} jobs of one client: use 0 to {MOST_LEADS} leads, 0 or more jobs"
            )
        self.client_id, self.name = client_id, name or f"Client {client_id}"
        self.number_of_leads, self.number_of_jobs = leads, jobs
        self._foreign_customer_id = foreign_customer_id
        seeds_own = random.Random(f"people:{seed}")  # noqa: S311 # invented data
        self._numbers = InventedNumbers(phone_region, seeds_own)
        self._first_name = seeds_own.randrange(len(PEOPLE))
        rng = random.Random(f"leads:{seed}:{client_id}")  # noqa: S311
        self._style = rng.getrandbits(16)
        self._customers = rng.getrandbits(62) << 64
        self._contacts = self._customers >> 64 & 0xFFFF_FFFF
        self._household_order, self._arrival_order = _order(leads, rng), _order(leads, rng)
        self._oversized = len(OVERSIZED_KINDS) + leads // _LEADS_PER_OVERSIZED if leads >= _FEWEST_FOR_OVERSIZED else 0
        self._dealt = leads - self._oversized * OVERSIZED
        self._slots, self._first_slots, self._people = _dealt_from(PERIOD)

    def client(self) -> ClientRow:
        """The client itself, without a GoHighLevel location."""
        return ClientRow(self.client_id, self.name, None, None)

    def leads(self) -> Iterator[LeadRow]:
        """All leads, in the order in which they have their numbers."""
        return map(self._lead, range(self.number_of_leads))

    def jobs(self) -> Iterator[JobRow]:
        """All jobs. One of 37 has no lead; every fourth is of the same lead as the one before it."""
        return map(self._job, range(self.number_of_jobs))

    def customers(self) -> Iterator[CustomerRow]:
        """The customers that people made."""
        for customer_id, number, customer, serial, first_person in self._made_by_people():
            first, last, _ = self._person(first_person + (customer.name or 0))
            yield CustomerRow(
                customer_id,
                self.client_id,
                None if customer.name is None else f"{first} {last}",
                # Two customers of one phone have it in different spellings: it is unique in the table.
                None if customer.phone is None else self._phone(first_person + customer.phone, style=2 * number),
                None if customer.email is None else self._email(first_person + customer.email, style=number),
                None if customer.psid is None else self._psid(first_person + customer.psid),
                _MADE_BY[serial % len(_MADE_BY)],
                _CUSTOMERS_BEGAN,
                _CUSTOMERS_BEGAN,
            )

    def addresses(self) -> Iterator[CustomerAddressRow]:
        """The addresses of those of them that have one."""
        for customer_id, _, customer, serial, _ in self._made_by_people():
            if customer.address:
                address_id = str(UUID(int=UUID(customer_id).int ^ 1))
                line = f"{serial % 900 + 1} Gable Lane"
                yield CustomerAddressRow(
                    address_id, customer_id, line, "Fernhollow", _CUSTOMERS_BEGAN, _CUSTOMERS_BEGAN
                )

    @cached_property
    def some_customer_id(self) -> str | None:
        """The first customer that people made, if there is one."""
        return next((customer_id for customer_id, *_ in self._made_by_people()), None)

    def _lead(self, number: int) -> LeadRow:
        place = self._place(number)
        lead, first_person = place.lead, place.first_person
        style = number * 31 + self._style
        first: str | None = None
        last: str | None = None
        if lead.name is not None:
            first, last, _ = self._person(first_person + lead.name)
            if _NO_FIRST_NAME.holds(style):
                first = None
        company = None
        if lead.company is not None or _HAS_COMPANY.holds(style):
            company = COMPANIES[(first_person + (lead.company or 0)) % len(COMPANIES)]
        phone, email, psid = lead.phone, lead.email, lead.psid
        if isinstance(phone, int):
            person = first_person + phone
            phone = f"99{person:010d}" if lead.unplanned else self._phone(person, style=style)
        elif phone is LONG_FIELD and place.period:
            phone = LONG_FIELD[:_LONG_FIELD_LATER]
        if isinstance(email, int):
            email = self._email(first_person + email, style=style)
        if isinstance(psid, int):
            psid = self._psid(first_person + psid)
            if _PADDED_PSID.holds(style):
                psid = f" {psid}\t"
        arrival = number * self._arrival_order % self.number_of_leads // _ARRIVE_TOGETHER * _ARRIVE_TOGETHER
        created_at = datetime.fromtimestamp(_WORLD_BEGINS + _WORLD_LASTS * arrival // self.number_of_leads, UTC)
        return LeadRow(
            self._lead_id(number),
            self.client_id,
            psid,
            phone,
            email,
            first,
            last,
            company,
            f"ghl{self._contacts:08x}{style:09x}" if _HAS_CONTACT.holds(style) else None,
            self._linked_to(place),
            created_at,
            created_at + _EDITED_AFTER if _EDITED.holds(style) else created_at,
        )

    def _job(self, number: int) -> JobRow:
        created_at = datetime.fromtimestamp(_WORLD_BEGINS + _WORLD_LASTS * number // self.number_of_jobs, UTC)
        job_id = f"{self.client_id}-job-{number:07d}"
        if _JOB_WITHOUT_LEAD.holds(number) or not self.number_of_leads:
            return JobRow(job_id, None, None, created_at)
        turn = number - 1 if _JOB_OF_THE_SAME_LEAD.holds(number) else number
        of_lead = turn * self.number_of_leads // self.number_of_jobs
        linked = None
        if _JOB_LINKED_WRONGLY.holds(number):
            linked = self.some_customer_id
        elif _JOB_LINKED.holds(number):
            linked = self._linked_to(self._place(of_lead))
        return JobRow(job_id, self._lead_id(of_lead), linked, created_at)

    def _lead_id(self, number: int) -> str:
        for some, odd in _ODD_IDS:
            if some.holds(number):
                return odd.format(self.client_id, number)
        return f"{self.client_id}-lead-{number:07d}"

    def _place(self, number: int) -> _Place:
        slot = number * self._household_order % self.number_of_leads
        if slot >= self._dealt:
            group = (slot - self._dealt) // OVERSIZED
            lead = OVERSIZED_KINDS[group % len(OVERSIZED_KINDS)]
            return _Place(lead, PERIOD[0], -1, group, 0)
        period, slot = divmod(slot, len(self._slots))
        lead, position, person = self._slots[slot]
        first_person = _PEOPLE_OF_OVERSIZED + period * self._people + person
        return _Place(lead, PERIOD[position], period * len(PERIOD) + position, first_person, period)

    def _linked_to(self, place: _Place) -> str | None:
        linked = place.lead.linked
        if linked is None or (place.household.rare and not _RARE.holds(place.period)):
            return None
        return self._foreign_customer_id if linked == ELSEWHERE else self._customer_id(place.serial, linked)

    def _made_by_people(self) -> Iterator[tuple[str, int, SeededCustomer, int, int]]:
        """Id, place in its household, the customer, the household's serial number and its first person."""
        for start in range(0, self._dealt, len(self._slots)):
            period = start // len(self._slots)
            for position, (household, first_slot, person) in enumerate(self._first_slots):
                if not household.customers or start + first_slot >= self._dealt:
                    continue
                if household.rare and not _RARE.holds(period):
                    continue
                serial = period * len(PERIOD) + position
                first_person = _PEOPLE_OF_OVERSIZED + period * self._people + person
                for number, customer in enumerate(household.customers):
                    yield self._customer_id(serial, number), number, customer, serial, first_person

    def _customer_id(self, serial: int, number: int) -> str:
        return str(UUID(int=self._customers | serial << 8 | number << 1, version=4))

    def _person(self, person: int) -> tuple[str, str, str]:
        return PEOPLE[(person + self._first_name) % len(PEOPLE)]

    def _phone(self, person: int, *, style: int) -> str:
        return self._numbers.number(person).spelled(style)

    def _email(self, person: int, *, style: int) -> str:
        latin = "józefa.żuk" if _UNICODE_ADDRESS.holds(person) else self._person(person)[2]
        address = f"{latin}.{person}@{_DOMAINS[person % len(_DOMAINS)]}"
        if _UPPER_CASE.holds(style):
            address = address.upper()
        elif _TITLE_CASE.holds(style):
            address = address.title()
        return _EMAIL_FORMS[style % len(_EMAIL_FORMS)].format(address)

    def _psid(self, person: int) -> str:
        return str(_FIRST_PSID + person * _PSID_STEP)


def _order(size: int, rng: random.Random) -> int:
    """A factor that deals the numbers below `size` anew: coprime with it, and so that neighbours come far apart."""
    factor = max(1, int(size * _GOLDEN)) + rng.randrange(max(1, size // 8))
    while gcd(factor, size) > 1:
        factor += 1
    return factor


def _dealt_from(
    period: tuple[Household, ...],
) -> tuple[list[tuple[SeededLead, int, int]], list[tuple[Household, int, int]], int]:
    """The period lead by lead (with household's place and first person), household by household, and its people."""
    slots: list[tuple[SeededLead, int, int]] = []
    households: list[tuple[Household, int, int]] = []
    people = 0
    for position, household in enumerate(period):
        households.append((household, len(slots), people))
        slots += [(lead, position, people) for lead in household.leads]
        people += household.people
    return slots, households, people


__all__ = ["MOST_LEADS", "SeededClient"]
