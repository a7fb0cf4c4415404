"""Small worlds of companies, users, organizations and memberships, and what must become of the companies.

Belongs here: a world as plain values, its frames, and a reference that works out each company by itself, slowly and
without any code of the backfill. Does not belong here: comparing the two (the tests).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from hypothesis import strategies as st

from backfill_pipelines.backfills.attio_company_orgs_choice import Landed, Rules

FREE = ("gmail.com", "web.de")
SUFFIXES = ("co.uk", "example")
OWN = ("acme.example", "mail.acme.example", "birch.test", "bücher.example", "cedar.co.uk")


@dataclass(frozen=True)
class Person:
    """A user: addresses with whether each is verified, the first one primary where `primary` says so."""

    user_id: str
    addresses: tuple[tuple[str, bool], ...]
    primary: bool = True
    banned: bool = False


@dataclass(frozen=True)
class World:
    """Companies with domains and `org_id`; organizations with all their members' number and age."""

    companies: Mapping[str, tuple[tuple[str, ...], str | None]] = field(default_factory=dict)
    people: Sequence[Person] = ()
    organizations: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    memberships: Sequence[tuple[str, str]] = ()
    """User, organization."""
    memberships_complete: bool = True

    def landed(self, *, rows_a_frame: int = 3) -> Landed:
        """The world as the frames that the plan reads."""
        users = [
            (
                person.user_id,
                None,
                person.banned,
                person.addresses[0][0] if person.primary and person.addresses else None,
                [address for address, verified in person.addresses if verified] or None,
            )
            for person in self.people
        ]
        return Landed(
            companies=frames(
                ("record_id", "rejected", "domains", "org_id"),
                [(key, None, list(domains), org_id) for key, (domains, org_id) in self.companies.items()],
                rows_a_frame,
            ),
            users=frames(("user_id", "rejected", "banned", "primary_email", "verified_emails"), users, rows_a_frame),
            organizations=frames(
                ("organization_id", "rejected", "created_at", "members_count"),
                [(org_id, None, age, members) for org_id, (members, age) in self.organizations.items()],
                rows_a_frame,
            ),
            memberships=frames(
                ("organization_id", "rejected", "user_id"),
                [(org_id, None, user_id) for user_id, org_id in self.memberships],
                rows_a_frame,
            ),
            memberships_complete=self.memberships_complete,
        )


def frames(columns: Sequence[str], rows: Sequence[tuple[Any, ...]], size: int) -> list[pd.DataFrame]:
    """Rows as frames of Python objects."""
    parts = [list(rows[start : start + size]) for start in range(0, len(rows), size)]
    return [pd.DataFrame(part, columns=list(columns), dtype=object) for part in parts]


def expected(world: World, rules: Rules) -> dict[str, tuple[str, str | None]]:
    """What becomes of each company: a reason of those that do not say how close it was, or `update`, and the id."""
    outcomes: dict[str, tuple[str, str | None]] = {}
    for key, (domains, org_id) in world.companies.items():
        reason, main = _main(world, domains, rules)
        outcomes[key] = ("already_set", None) if org_id is not None else (reason, main)
    chosen = [main for reason, main in outcomes.values() if reason == "update"]
    return {
        key: ("shared_org" if reason == "update" and chosen.count(main) > 1 else reason, main)
        for key, (reason, main) in outcomes.items()
    }


def _main(world: World, domains: Sequence[str], rules: Rules) -> tuple[str, str | None]:
    plain = [_plain(each) for each in domains]
    own = [each for each in plain if each not in SUFFIXES and each not in FREE]
    if not own:
        return ("free_mail_domain" if set(plain) & set(FREE) else "no_domain"), None
    return _of_domains(world, own, rules)


def _of_domains(world: World, own: Sequence[str], rules: Rules) -> tuple[str, str | None]:
    crew = {person.user_id for person in world.people if _works_at(person, own, rules)}
    if not crew:
        return "no_users", None
    joined = [org_id for user_id, org_id in world.memberships if user_id in crew]
    if not joined:
        return "no_orgs", None
    if set(joined) - set(world.organizations):
        return "unknown_organization", None
    best = sorted(set(joined))
    best.sort(key=lambda org_id: world.organizations[org_id][1])
    best.sort(key=joined.count, reverse=True)
    best.sort(key=lambda org_id: world.organizations[org_id][0], reverse=True)
    if world.organizations[best[0]][0] < rules.min_members:
        return "below_min_members", None
    if len(best) > 1 and not world.memberships_complete:
        return "memberships_incomplete", None
    return "update", best[0]


def _works_at(person: Person, own: Sequence[str], rules: Rules) -> bool:
    if person.banned and not rules.include_banned:
        return False
    counted = [
        address
        for place, (address, verified) in enumerate(person.addresses)
        if verified or (person.primary and place == 0)
    ]
    return any(f".{_plain(each.split('@')[-1])}".endswith(f".{domain}") for each in counted for domain in own)


def _plain(domain: str) -> str:
    return domain.lower().rstrip(".").encode("idna").decode()


def _spelled(domain: str) -> st.SearchStrategy[str]:
    return st.sampled_from([domain, domain.upper(), f"{domain}.", _plain(domain)])


_DOMAIN = st.sampled_from([*OWN, *OWN, *FREE, *SUFFIXES]).flatmap(_spelled)
_ADDRESS = st.tuples(
    st.builds(
        lambda sub, domain: f"ada@{sub}{domain}",
        st.sampled_from(["", "", "", "eu.", "not"]),
        st.sampled_from([*OWN, *FREE]).flatmap(_spelled),
    ),
    st.booleans(),
)
_ORG_IDS = [f"org_{number}" for number in range(5)]
_USER_IDS = [f"user_{number}" for number in range(8)]
_PEOPLE = st.lists(
    st.builds(
        Person,
        st.sampled_from(_USER_IDS),
        st.lists(_ADDRESS, max_size=3).map(tuple),
        st.booleans(),
        st.sampled_from([False, False, False, True]),
    ),
    max_size=8,
    unique_by=lambda person: person.user_id,
)

WORLDS = st.builds(
    World,
    st.dictionaries(
        st.sampled_from([f"company-{number}" for number in range(6)]),
        st.tuples(
            st.lists(_DOMAIN, max_size=3).map(tuple), st.sampled_from([None, None, None, "org_0", "org_elsewhere"])
        ),
        max_size=6,
    ),
    _PEOPLE,
    st.dictionaries(st.sampled_from(_ORG_IDS), st.tuples(st.integers(0, 3), st.integers(1, 2)), min_size=4),
    st.lists(st.tuples(st.sampled_from(_USER_IDS), st.sampled_from(_ORG_IDS)), max_size=16, unique=True),
    st.booleans(),
)
RULES = st.builds(Rules, min_members=st.integers(1, 3), include_banned=st.booleans())
