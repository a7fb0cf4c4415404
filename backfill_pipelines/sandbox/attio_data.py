"""The seeded workspaces of the fake Attio: who is in a product's CRM, given who uses the product.

Belongs here: people and companies from a seed and a list of users. Does not belong here: the users of a product (the
list is an argument, so that it can be another fake's), what changes while the sandbox runs (attio_state.py).

Rarities come by position and not by chance ("every 29th user's person has somebody else's id"): a small workspace has
them too. Users that the CRM knows in an odd way keep clear of each other: no address is given to two people.
"""

from __future__ import annotations

import random
import string
from collections.abc import Sequence
from typing import NamedTuple

from backfill_pipelines.sandbox.attio_records import (
    ALL_SCOPES,
    Actor,
    AttioWorkspace,
    SeededCompany,
    SeededPerson,
    stable_uuid,
)
from backfill_pipelines.sandbox.every import Every
from backfill_pipelines.sandbox.invented_people import COMPANIES, PEOPLE, PEOPLE_DOMAINS

FIRST_CREATED_AT = 1_704_700_800_000_000_000
"""2024-01-08T08:00:00Z in nanoseconds since 1970. A fixed date: the seeded world has no clock."""
STEP = 61_000_000_007
"""Between two records: a minute and a bit, so that nanoseconds are not round."""
CREATED_TOGETHER = Every(17, at=3)
"""Created in the same nanosecond as the record before, as an import does."""

NO_PERSON = Every(3, at=0)
ALREADY_SET = Every(4, at=1)
ANOTHER_USERS_ID = Every(29, at=4)
KNOWN_BY_ANOTHER_ADDRESS = Every(13, at=5)
"""The person has the user's second address and not the primary one."""
ONE_PERSON_AN_ADDRESS = Every(31, at=7)
"""A person for each address but the primary one."""
SHARES_A_PERSON = Every(37, at=10)
"""One person has the primary addresses of this user and of the next."""
ID_ON_A_STRANGER = Every(41, at=16)
"""Nobody has the user's addresses, and a person with another one has the id."""
ID_ON_ANOTHER_PERSON = Every(43, at=19)
IN_CAPITALS = Every(5, at=2)
ENRICHED = Every(6, at=5)

NO_COMPANY = Every(11, at=5)
ORGANIZATION_SET = Every(5, at=3)
SECOND_DOMAIN = Every(7, at=2)

SPECIAL_COMPANIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Nameless Workshop", ()),
    ("Everybody's Mailbox", ("gmail.com",)),
    ("Quiet Harbour", ("quiet-harbour.example",)),
    ("Bücher Vogelsang", ("xn--bcher-vogelsang-vob.example",)),
    ("Registry of Names", ("co.uk",)),
)


class ProductUser(NamedTuple):
    """A user of the product, as its user management knows them. `addresses` begin with the primary one."""

    id: str
    addresses: tuple[str, ...]
    first_name: str | None
    last_name: str | None


def build_attio_workspace(
    *,
    seed: int,
    key: str,
    users: Sequence[ProductUser] = (),
    other_people: int = 20,
    other_companies: int = 10,
    scopes: Sequence[str] = ALL_SCOPES,
    custom_attributes: bool = True,
) -> AttioWorkspace:
    """The Attio workspace of a product, in which part of the users are people already.

    The same arguments make the same bytes. `other_people` and `other_companies` have nothing to do with the users.
    Addresses that are none are passed over. `custom_attributes`: whether `user_id` and `org_id` were made.
    """
    workspace_id = stable_uuid(seed, "attio", key)
    rng = random.Random(f"attio:{seed}:{key}")  # noqa: S311 # invented data
    maker = _Maker(workspace_id, rng)
    for number, user in enumerate(users):
        maker.know_user(number, user, users[(number + 1) % len(users)])
    for number in range(other_people):
        maker.add_stranger(number)
    return AttioWorkspace(
        seed=seed,
        key=key,
        id=workspace_id,
        name=key.replace("-", " ").title(),
        token="".join(rng.choices(string.hexdigits.lower(), k=64)),
        token_actor=Actor("api-token", stable_uuid(workspace_id, "token")),
        member=Actor("workspace-member", stable_uuid(workspace_id, "member")),
        integration=Actor("api-token", stable_uuid(workspace_id, "integration")),
        people=tuple(maker.people),
        companies=tuple(_companies(workspace_id, users, other_companies)),
        scopes=tuple(scopes),
        user_id_attribute=custom_attributes,
    )


def invent_users(count: int, *, seed: int) -> list[ProductUser]:
    """Users of a product that has no user management of its own in the sandbox: one to three addresses each."""
    rng = random.Random(f"users:{seed}")  # noqa: S311 # invented data
    users = []
    for number in range(count):
        first, last, local = PEOPLE[number % len(PEOPLE)]
        domain = PEOPLE_DOMAINS[number % len(PEOPLE_DOMAINS)]
        addresses = [f"{local}.{number}@{domain}"]
        addresses += [f"{local}.{number}@private-{place}.test" for place in range(number % 3)]
        user_id = "user_" + "".join(rng.choices(string.ascii_letters + string.digits, k=27))
        users.append(ProductUser(user_id, tuple(addresses), first, last if number % 7 else None))
    return users


class _Maker:
    """People of one workspace, with addresses that are all different."""

    def __init__(self, workspace_id: str, rng: random.Random) -> None:
        self.people: list[SeededPerson] = []
        self._workspace_id = workspace_id
        self._rng = rng
        self._taken: set[str] = set()

    def know_user(self, number: int, user: ProductUser, next_user: ProductUser) -> None:
        """Make the people that the CRM has for this user: none, one, or too many."""
        if NO_PERSON.holds(number):
            return
        names = (user.first_name or "", user.last_name or "")
        first, others = user.addresses[:1], user.addresses[1:]
        if ID_ON_A_STRANGER.holds(number):
            self._add(names, (f"stranger.{number}@elsewhere.test",), user.id)
        elif ONE_PERSON_AN_ADDRESS.holds(number):
            for address in others:
                self._add(names, (address,), None)
        elif KNOWN_BY_ANOTHER_ADDRESS.holds(number) and others:
            self._add(names, others[:1], None)
        elif SHARES_A_PERSON.holds(number):
            self._add(names, first + next_user.addresses[:1], None)
        else:
            if ID_ON_ANOTHER_PERSON.holds(number):
                self._add(names, (f"second.record.{number}@elsewhere.test",), user.id)
            owner = self._owner(number, user.id)
            capitals = tuple(address.title() for address in first) if IN_CAPITALS.holds(number) else first
            self._add(names, capitals, owner)

    def add_stranger(self, number: int) -> None:
        """Somebody who does not use the product."""
        first, last, local = PEOPLE[number % len(PEOPLE)]
        addresses = (f"{local}.prospect.{number}@{PEOPLE_DOMAINS[number % len(PEOPLE_DOMAINS)]}",)
        self._add((first, last), () if number % 9 == 4 else addresses, None)  # noqa: PLR2004 # some have none

    def _owner(self, number: int, user_id: str) -> str | None:
        if ID_ON_ANOTHER_PERSON.holds(number):
            return None
        if ANOTHER_USERS_ID.holds(number):
            return f"user_somebody_else_{number}"
        return user_id if ALREADY_SET.holds(number) else None

    def _add(self, names: tuple[str, str], addresses: Sequence[str], user_id: str | None) -> None:
        usable = [each for each in addresses if _is_address(each) and each.lower() not in self._taken]
        if addresses and not usable:
            return
        self._taken.update(each.lower() for each in usable)
        number = len(self.people)
        self.people.append(
            SeededPerson(
                stable_uuid(self._workspace_id, "people", number),
                _created_at(number),
                *names,
                tuple(usable),
                user_id,
                self._rng.choice(("Founder", "Engineer", "Buyer")) if ENRICHED.holds(number) else None,
            )
        )


def _companies(workspace_id: str, users: Sequence[ProductUser], others: int) -> list[SeededCompany]:
    """A company for most of the users' domains, some odd ones, and some that no user belongs to."""
    domains = list(
        dict.fromkeys(
            address.lower().rpartition("@")[2] for user in users for address in user.addresses if _is_address(address)
        )
    )
    drafts: list[tuple[str, tuple[str, ...], str | None]] = []
    for number, domain in enumerate(domains):
        if NO_COMPANY.holds(number):
            continue
        second = (f"hq-{domain}",) if SECOND_DOMAIN.holds(number) else ()
        organization = f"org_set_before_{number}" if ORGANIZATION_SET.holds(number) else None
        drafts.append((COMPANIES[number % len(COMPANIES)], (domain, *second), organization))
    taken = {each for _, of_one, _ in drafts for each in of_one}
    drafts += [(name, domains, None) for name, domains in SPECIAL_COMPANIES if not taken & set(domains)]
    drafts += [
        (f"{COMPANIES[number % len(COMPANIES)]} {number}", (f"prospect-{number}.example",), None)
        for number in range(others)
    ]
    return [
        SeededCompany(stable_uuid(workspace_id, "companies", number), _created_at(number), *draft)
        for number, draft in enumerate(drafts)
    ]


def _created_at(number: int) -> int:
    return FIRST_CREATED_AT + STEP * (number - 1 if CREATED_TOGETHER.holds(number) else number)


def _is_address(text: str) -> bool:
    local, _, domain = text.rpartition("@")
    return bool(local) and "@" not in local and "." in domain.strip(".") and not any(map(str.isspace, text))


__all__ = ["ProductUser", "build_attio_workspace", "invent_users"]
