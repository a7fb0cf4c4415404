"""Worlds for `customers` by chance, dense in collisions: few people, numbers and addresses, in many spellings.

Belongs here: drawing worlds. Does not belong here: what holds for them. Hypothesis makes the smallest example of what
it finds, and finds less: a rule that needs five rows to meet takes thousands of worlds.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

from backfill_pipelines_tests.backfills.customers_reference_fields import Rules
from backfill_pipelines_tests.backfills.customers_worlds import Row, World, customer, job, lead

PSIDS = (None, None, None, "", "p1", "p1 ", "p2", "p3")
# Numbers in two spellings each; of no numbering plan, blocked, too short; another country's ten digits.
PHONES = (
    *(None, None, None, "", "(205) 555-0101", "+1 205.555.0101 ext 7", "2055550102.0", "1-205-555-0102"),
    *("+442079460103", "+44 (0)20 7946 0103", "020 7946 0103", "999000001234", "0000000000", "555-0104"),
    "+65 8123 4567",
)
STORED_PHONES = (None, None, "2055550101", "+12055550102", "442079460103", "999000001234", "6581234567", "+6581234567")
EMAILS = (None, None, "a@example.com", " A@Example.com", "b@example.com", "c@mail.test", "info@example.com", "nobody")
NAMES = (None, "", "Ann", "Bo", "王 明珠")
OUR_NAMES = (
    *(("psid", "p1"), ("psid", "p2"), ("phone", "2055550101"), ("phone", "442079460103")),
    *(("email", "a@example.com"), ("individual", "l0")),
)
OUR_IDS = tuple(World().own_id(name) for name in OUR_NAMES)
PEOPLE_IDS = tuple(f"00000000-0000-4000-8000-00000000000{number}" for number in range(3))
FOREIGN, DANGLING = "00000000-0000-4000-8000-0000000000f0", "00000000-0000-4000-8000-0000000000f1"
_RULES: Mapping[str, tuple[object, ...]] = {
    "region": ("US", "US", "GB"),
    "phone_format": ("digits", "e164"),
    "max_group_size": (2, 3, 100),
    "blocked_emails": ((), ("c@mail.test",)),
    "blocked_local_parts": (("info",),),
    "blocked_domains": ((), ("mail.test",)),
    "blocked_phones": (("0000000000",),),
}


def random_world(rng: random.Random, *, by_hand: bool = True) -> World:
    """A client's world; without `by_hand` there are only people's customers, and nobody linked a lead or a job."""
    there = _customers(rng, ours=by_hand)
    links = [*(row["id"] for row in there), FOREIGN, DANGLING, rng.choice(OUR_IDS)] if by_hand else []

    def link() -> str | None:
        return rng.choice(links) if links and rng.random() < 0.3 else None

    leads = [
        lead(
            f"l{number}",
            psid=rng.choice(PSIDS),
            phone=rng.choice(PHONES),
            email=rng.choice(EMAILS),
            first_name=rng.choice(NAMES),
            company_name=rng.choice(NAMES),
            customer_id=link(),
            created_at=rng.randint(0, 3),
        )
        for number in range(rng.randint(1, 8))
    ]
    return World(
        leads=leads,
        customers=there,
        jobs=[job(f"j{number}", rng.choice(leads)["id"], link()) for number in range(rng.randint(0, 3))],
        rules=Rules(**{name: rng.choice(values) for name, values in _RULES.items()}),  # type: ignore[arg-type]
        strangers={FOREIGN: True, DANGLING: False},
        phones_held_elsewhere=frozenset(rng.choice([(), ("2055550102",)])),
        unique_email=rng.random() < 0.5,
    )


def with_a_past(world: World, rng: random.Random) -> World:
    """The world with groups recorded as some customer, and customers merged; some of those are gone."""
    ids = (*OUR_IDS, *PEOPLE_IDS, DANGLING)
    recorded = {name: rng.choice(ids) for name in rng.sample(OUR_NAMES, rng.randint(0, 3))}
    merged = dict(rng.sample(ids, 2) for _ in range(rng.randint(0, 2)))
    return replace(world, recorded=recorded, merged=merged)


def _customers(rng: random.Random, *, ours: bool) -> list[Row]:
    """No two have one phone in the same spelling."""
    rows = [
        customer(
            each, psid=rng.choice(PSIDS), phone=rng.choice(PHONES), email=rng.choice(EMAILS), name=rng.choice(NAMES)
        )
        for each in PEOPLE_IDS[: rng.randint(0, 3)]
    ]
    for each in rng.sample(OUR_IDS, rng.choice([0, 0, 1, 2, 3])) if ours else ():
        values = {"psid": rng.choice(PSIDS), "phone": rng.choice(STORED_PHONES), "email": rng.choice(EMAILS)}
        rows.append(customer(each, ours=True, lead_count=rng.randint(0, 3), **values))
    seen: set[str | None] = set()
    for row in rows:
        row["phone"] = None if row["phone"] in seen else row["phone"]
        seen.add(row["phone"])
    return rows
