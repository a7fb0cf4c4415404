"""Who shares what: the households, offices and accidents that the seeded leads come in.

Belongs here: the shapes, as data. Does not belong here: whose names, numbers and addresses fill them
(leads_and_jobs.py).

The leads of a client are dealt from `PERIOD` again and again, so that each shape comes at its own place and a small
client has the first shapes of the list.
"""

from __future__ import annotations

from dataclasses import dataclass

ELSEWHERE = -1
"""`SeededLead.linked`: to a customer of another client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeededLead:
    """A lead of a household. A number names a person of the household, a text is the field itself.

    `linked` is the place of one of the household's customers, or `ELSEWHERE`. With `unplanned` the phone is one of
    twelve digits that no numbering plan has.
    """

    name: int | None = 0
    company: int | None = None
    psid: int | str | None = None
    phone: int | str | None = None
    email: int | str | None = None
    linked: int | None = None
    unplanned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SeededCustomer:
    """A customer that people made for a household before any backfill ran."""

    name: int | None = 0
    psid: int | None = None
    phone: int | None = None
    email: int | None = None
    address: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Household:
    """Leads that belong together, or that only look so.

    A `rare` one has its customers and links in every tenth period only; in the others it is the same leads without.
    """

    name: str
    leads: tuple[SeededLead, ...]
    people: int = 1
    customers: tuple[SeededCustomer, ...] = ()
    rare: bool = False


_Lead, _Human = SeededLead, SeededCustomer

LONG_FIELD = "9" * 10_000
"""More than a btree key of Postgres holds (2,700 bytes)."""

HOUSEHOLDS: tuple[Household, ...] = (
    # A client of ten leads has these.
    Household(name="regular", leads=(_Lead(phone=0, email=0),)),
    Household(name="a form after Messenger", leads=(_Lead(psid=0, phone=0), _Lead(phone=0, email=0))),
    Household(
        name="family",
        people=2,
        leads=(_Lead(psid=0, phone=0), _Lead(psid=1, phone=0, email=1, name=1), _Lead(phone=0)),
    ),
    Household(name="twice", leads=(_Lead(phone=0, email=0), _Lead(phone=0, email=0))),
    Household(name="known by phone", leads=(_Lead(phone=0),), customers=(_Human(phone=0, address=True),)),
    Household(name="company only", leads=(_Lead(name=None, company=0),)),
    # A client of some hundred has all of these.
    Household(name="by email", leads=(_Lead(email=0), _Lead(email=0))),
    Household(
        name="role mailbox", leads=(_Lead(email="info@copperline.example.com"), _Lead(email="NoReply@umber.test "))
    ),
    Household(name="placeholders", leads=(_Lead(phone="0000000000", email="test@test.com"),)),
    Household(name="placeholder phone", leads=(_Lead(phone="(123) 456-7890", email=0),)),
    Household(name="blank", leads=(_Lead(name=None, psid="  ", phone="", email=" "),)),
    Household(name="no identifier", leads=(_Lead(phone="call me", email="not-an-address"),)),
    Household(name="Messenger only", leads=(_Lead(psid=0), _Lead(psid=0, name=None), _Lead(psid=0, phone=0))),
    Household(
        name="couple",
        people=3,
        leads=(_Lead(phone=0, email=0), _Lead(phone=1, email=0, name=1), _Lead(email=0, name=2)),
    ),
    Household(name="form without a phone", leads=(_Lead(phone=0, email=0), _Lead(email=0), _Lead(psid=0, email=0))),
    Household(
        name="office",
        people=7,
        leads=tuple(_Lead(phone=0, email=each, name=each, company=0) for each in range(7)),
    ),
    Household(name="local number", leads=(_Lead(phone="555-0134", email=0), _Lead(phone="555-0134"))),
    Household(name="too long", leads=(_Lead(phone=LONG_FIELD, email=0), _Lead(phone=LONG_FIELD))),
    Household(name="in no plan", leads=(_Lead(phone=0, unplanned=True), _Lead(phone=0, unplanned=True, email=0))),
    Household(name="old mobile", leads=(_Lead(phone="+52 1 55 5555 0134"), _Lead(phone="001 205 555 0134", email=0))),
    Household(name="known by email", leads=(_Lead(phone=0, email=0),), customers=(_Human(email=0),)),
    Household(
        name="known by PSID", leads=(_Lead(psid=0), _Lead(psid=0, phone=0)), customers=(_Human(psid=0, name=None),)
    ),
    Household(
        name="linked",
        leads=(_Lead(phone=0, email=0, linked=0), _Lead(phone=0), _Lead(email=0)),
        customers=(_Human(phone=0, email=0),),
    ),
    Household(
        name="two of one phone",
        people=2,
        rare=True,
        leads=(_Lead(phone=0),),
        customers=(_Human(phone=0), _Human(phone=0)),
    ),
    Household(
        name="two of one email",
        rare=True,
        leads=(_Lead(phone=0, email=0),),
        customers=(_Human(email=0), _Human(email=0)),
    ),
    Household(
        name="another phone",
        people=2,
        rare=True,
        leads=(_Lead(phone=0, email=0),),
        customers=(_Human(phone=1, email=0),),
    ),
    Household(
        name="split",
        people=2,
        rare=True,
        leads=(_Lead(psid=0, phone=0, linked=0), _Lead(psid=0, linked=1), _Lead(psid=0)),
        customers=(_Human(phone=0), _Human(phone=1, name=1)),
    ),
    Household(name="linked elsewhere", rare=True, leads=(_Lead(phone=0, linked=ELSEWHERE), _Lead(phone=0, email=0))),
    Household(name="customer without leads", rare=True, people=1, leads=(), customers=(_Human(phone=0, address=True),)),
)

_PLAIN_REPEATS: tuple[tuple[str, int], ...] = (
    # What most leads are, to fill the period up.
    ("regular", 72),
    ("twice", 18),
    ("a form after Messenger", 6),
    ("by email", 5),
    ("Messenger only", 2),
)


def _period() -> tuple[Household, ...]:
    by_name = {each.name: each for each in HOUSEHOLDS}
    return HOUSEHOLDS + tuple(by_name[name] for name, times in _PLAIN_REPEATS for _ in range(times))


PERIOD: tuple[Household, ...] = _period()
"""The households in the order in which a client's leads are dealt from them."""

OVERSIZED = 120
"""Leads of each oversized group: above the product's default limit of 100."""
OVERSIZED_KINDS: tuple[SeededLead, ...] = (_Lead(phone=0), _Lead(email=0), _Lead(psid=0))
"""What all leads of an oversized group share, in turns. Leads of one PSID are one customer however many they are."""


__all__ = [
    "ELSEWHERE",
    "HOUSEHOLDS",
    "LONG_FIELD",
    "OVERSIZED",
    "OVERSIZED_KINDS",
    "PERIOD",
    "Household",
    "SeededCustomer",
    "SeededLead",
]
