"""Which organization is a company's main one.

Belongs here: pure rules from frames of what is landed to one decision for each company, whatever its `org_id` is now.
Does not belong here: what is done about it (`attio_company_orgs_plan.py`), domains (`company_domains.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from typing import Any

import pandas as pd

from backfill_pipelines.backfills.company_domains import Placing, telling_domains

COMPANY_COLUMNS = ("record_id", "rejected", "domains", "org_id")
USER_COLUMNS = ("user_id", "rejected", "banned", "primary_email", "verified_emails")
ORGANIZATION_COLUMNS = ("organization_id", "rejected", "created_at", "members_count")
MEMBERSHIP_COLUMNS = ("organization_id", "rejected", "user_id")

NO_USERS, NO_ORGS, BELOW_MIN_MEMBERS = "no_users", "no_orgs", "below_min_members"
UNKNOWN_ORGANIZATION = "unknown_organization"
"""People of the company are in an organization of which no number of members is known: it may be the main one."""

MEMBERSHIPS_INCOMPLETE = "memberships_incomplete"
"""People of the company are in several organizations, and of some memberships it is known that they were not read."""

CANDIDATES_SHOWN = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What a run may be asked for. `min_members`: of all members of an organization, wherever they have addresses."""

    min_members: int
    include_banned: bool = False


@dataclass(frozen=True, kw_only=True)
class Landed:
    """What is landed, as frames with the columns above; each is consumed once. Rejected rows have `rejected`, a code,
    and no more than an id. `verified_emails` may be None where it says no more than `primary_email`."""

    companies: Iterable[pd.DataFrame]
    users: Iterable[pd.DataFrame]
    organizations: Iterable[pd.DataFrame]
    memberships: Iterable[pd.DataFrame]
    memberships_complete: bool
    """Whether they are as many as Clerk counts. Where not, nothing is chosen among several organizations: an `org_id`
    that is written stays, whatever a complete list would have said."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An organization that people of the company are in: all its members, and those from the company."""

    org_id: str
    members: int
    members_here: int
    created_at: int
    """Milliseconds since 1970."""

    @property
    def rank(self) -> tuple[int, int, int, str]:
        """The smallest is the main one: most members, most from here, oldest; the id, so that there is one order."""
        return -self.members, -self.members_here, self.created_at, self.org_id


@dataclass(frozen=True, slots=True)
class Choice:
    """The main organization, or None and why; `reason` says what decided in either case."""

    org_id: str | None
    reason: str
    candidates: tuple[Candidate, ...] = ()
    """The first of them, main one first."""


@dataclass(frozen=True, slots=True)
class Company:
    """A company that could be read, with its choice."""

    record_id: str
    org_id: str | None
    """What it has now."""
    choice: Choice


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that could not be read: whose it is, its id and the code."""

    source: str
    record_id: str
    code: str


@dataclass(frozen=True, slots=True)
class Choices:
    """Of everything that is landed."""

    companies: Sequence[Company]
    rejects: Sequence[Reject]


def choose(landed: Landed, rules: Rules) -> Choices:
    """Find the main organization of every company.

    Takes its time from the number of users and memberships; its memory from that of users at companies' domains.
    """
    rejects: list[Reject] = []
    companies = list(_usable(landed.companies, COMPANY_COLUMNS, "companies", rejects))
    domains = [telling_domains(given) for _, given, _ in companies]
    crews = _Crews(Placing([telling for telling, _ in domains]), len(companies))
    for user_id, banned, primary, verified in _usable(landed.users, USER_COLUMNS, "clerk_users", rejects):
        if rules.include_banned or not banned:
            crews.add_user(user_id, (*(() if primary is None else (primary,)), *(verified or ())))
    known = {
        org_id: (created_at, members)
        for org_id, created_at, members in _usable(
            landed.organizations, ORGANIZATION_COLUMNS, "clerk_organizations", rejects
        )
    }
    for org_id, user_id in _usable(landed.memberships, MEMBERSHIP_COLUMNS, "clerk_memberships", rejects):
        crews.add_membership(user_id, org_id)
    main = _MainOrganization(crews, known, rules, complete=landed.memberships_complete)
    return Choices(
        companies=[
            Company(record_id, org_id, Choice(None, why_none) if why_none is not None else main.of(number))
            for number, ((record_id, _, org_id), (_, why_none)) in enumerate(zip(companies, domains, strict=True))
        ],
        rejects=rejects,
    )


class _Crews:
    """Users by the set of companies that they belong to, a *crew*: nearly always one company, and few sets in all.

    Memberships are counted by crew, since that of each user is looked at once, and a user of two domains of a company
    must count once.
    """

    def __init__(self, placing: Placing, companies: int) -> None:
        self.of_company: list[list[int]] = [[] for _ in range(companies)]
        self.memberships: list[Counter[str]] = []
        """By crew, how many of its users are in each organization."""
        self._placing = placing
        self._number: dict[frozenset[int], int] = {}
        self._of_user: dict[str, int] = {}

    def add_user(self, user_id: str, addresses: Iterable[str]) -> None:
        belongs_to = self._placing.companies_of(addresses)
        if not belongs_to:
            return
        crew = self._number.get(belongs_to)
        if crew is None:
            crew = self._number[belongs_to] = len(self.memberships)
            self.memberships.append(Counter())
            for company in belongs_to:
                self.of_company[company].append(crew)
        self._of_user[user_id] = crew

    def add_membership(self, user_id: str, org_id: str) -> None:
        crew = self._of_user.get(user_id)
        if crew is not None:
            self.memberships[crew][org_id] += 1


class _MainOrganization:
    """The choice for companies; those with the same crews have the same one."""

    def __init__(self, crews: _Crews, known: Mapping[str, tuple[int, int]], rules: Rules, *, complete: bool) -> None:
        self._complete = complete
        self._crews = crews
        self._known = known
        self._rules = rules
        self._made: dict[tuple[int, ...], Choice] = {}

    def of(self, company: int) -> Choice:
        crews = tuple(self._crews.of_company[company])
        made = self._made.get(crews)
        if made is None:
            made = self._made[crews] = self._choice(crews)
        return made

    def _choice(self, crews: Sequence[int]) -> Choice:
        if not crews:
            return Choice(None, NO_USERS)
        here: Counter[str] = Counter()
        for crew in crews:
            here.update(self._crews.memberships[crew])
        if not here:
            return Choice(None, NO_ORGS)
        candidates = [
            Candidate(org_id, self._known[org_id][1], count, self._known[org_id][0])
            for org_id, count in here.items()
            if org_id in self._known
        ]
        first = tuple(nsmallest(CANDIDATES_SHOWN, candidates, key=lambda each: each.rank))
        if len(candidates) < len(here):
            return Choice(None, UNKNOWN_ORGANIZATION, first)
        if first[0].members < self._rules.min_members:
            return Choice(None, BELOW_MIN_MEMBERS, first)
        if len(candidates) > 1 and not self._complete:
            return Choice(None, MEMBERSHIPS_INCOMPLETE, first)
        return Choice(first[0].org_id, _what_decided(first), first)


def _what_decided(candidates: Sequence[Candidate]) -> str:
    if len(candidates) == 1:
        return "only_org"
    first, second = candidates[:2]
    if first.members > second.members:
        return "most_members"
    return "most_members_here" if first.members_here > second.members_here else "oldest_org"


def _usable(
    frames: Iterable[pd.DataFrame], columns: Sequence[str], source: str, rejects: list[Reject]
) -> Iterator[tuple[Any, ...]]:
    """The rows without their `rejected`; those that have one go to `rejects`, by the first column."""
    for frame in frames:
        codes = frame["rejected"].tolist()
        values = [frame[name].tolist() for name in columns if name != "rejected"]
        if any(codes):
            for code, row in zip(codes, zip(*values, strict=True), strict=True):
                if code is None:
                    yield row
                else:
                    rejects.append(Reject(source, row[0], code))
        else:
            yield from zip(*values, strict=True)
