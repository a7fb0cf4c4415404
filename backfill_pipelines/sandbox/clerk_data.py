"""The seeded world of the fake Clerk: users, organizations and who is a member of what.

Belongs here: what a record holds and how often it looks odd. Does not belong here: what changes while the sandbox runs
(clerk_state.py), how a record looks in JSON (clerk_rows.py).

A user is computed from the seed and a number each time it is asked for, so that an instance of 100,000 users takes no
memory and no time to make. Rarities come by position and not by chance: a small instance has them too. Nobody in here
exists: addresses are below `.example` and `.test`, and those at Gmail hold an underscore, which no Gmail address can.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from backfill_pipelines.sandbox.every import Every
from backfill_pipelines.sandbox.invented_people import CLIENT_ADJECTIVES, CLIENT_NOUNS, PEOPLE

Environment = Literal["live", "test"]
CursorAnswer = Literal["supported", "refused", "ignored"]
"""What an instance makes of `starting_after`: the vendor's cursor, 422 as before the vendor had one, or nothing."""
DeletedCursorAnswer = Literal["resolved", "refused", "empty"]
"""What follows a cursor whose user was deleted: the users after it, a 422, or an empty page. The vendor leaves it
open."""
MembershipOrder = Literal["membership", "user"]
"""Whose `created_at` the list of memberships is sorted by. The vendor leaves it open, too."""

MILLISECONDS_A_DAY = 86_400_000
WORLD_BEGINS = 1_704_700_800_000
"""2024-01-08T08:00:00Z in milliseconds since 1970. A fixed date: the world has no clock."""
WORLD_LASTS = 700 * MILLISECONDS_A_DAY
IMPORTED_PART = 25
"""One of so many users was imported when the product moved to Clerk: they all have the same `created_at`."""
USERS_A_COMPANY = 8

NO_ADDRESS = Every(31, at=12)
FREE_MAIL = Every(9, at=2)
SUBDOMAIN = Every(13, at=4)
CAPITALS = Every(17, at=3)
PRIMARY_UNVERIFIED = Every(19, at=7)
OAUTH = Every(4, at=1)
PRIMARY_UNSET = Every(23, at=8)
"""No primary address is named although there are two, the second of them verified."""
SECOND_ADDRESS = Every(5, at=0)
CLAIMS_ANOTHERS = Every(47, at=20)
"""Has entered the address of the user before, without verifying it."""
NO_FIRST_NAME = Every(11, at=5)
NO_LAST_NAME = Every(7, at=6)
USERNAME = Every(3, at=1)
NEVER_SIGNED_IN = Every(14, at=9)
NO_IMAGE_URL = Every(53, at=10)
BANNED = Every(37, at=11)
DEPROVISIONED = Every(41, at=13)
LOCKED = Every(43, at=14)
SECOND_STATUSES: tuple[str | None, ...] = ("verified", "unverified", "failed", "expired", None)

IDN_DOMAIN = Every(29, at=6)
TEST_DOMAIN = Every(3, at=2)
NO_ORGANIZATION = Every(6, at=5)
SECOND_ORGANIZATION = Every(3, at=1)
THIRD_ORGANIZATION = Every(11, at=4)
GUESTS_OF_NEIGHBOUR = Every(17, at=9)
"""A company whose people are also in the organization of the company before."""
PERSONAL_ORGANIZATION = Every(10, at=6)
EMPTY_ORGANIZATION = Every(40, at=3)
OUTSIDER = Every(8, at=7)
"""A user at a company's domain who is in none of its organizations."""
CONSULTANT = Every(12, at=2)
_MASK = 2**64 - 1


class ClerkEmail(NamedTuple):
    """An address of a user. `status` is None where Clerk shows no verification at all."""

    id: str
    address: str
    status: str | None
    strategy: str


class ClerkUser(NamedTuple):
    """A user. Times are milliseconds since 1970; `image_url` is None where the field is missing."""

    number: int
    id: str
    emails: tuple[ClerkEmail, ...]
    primary_email_id: str | None
    first_name: str | None
    last_name: str | None
    username: str | None
    image_url: str | None
    created_at: int
    last_sign_in_at: int | None
    last_active_at: int | None
    banned: bool
    locked: bool
    deprovisioned: bool


class ClerkOrganization(NamedTuple):
    """An organization; how many members it has, the state knows."""

    number: int
    id: str
    name: str
    slug: str
    created_at: int


class ClerkMembership(NamedTuple):
    """A user in an organization, both by their numbers."""

    number: int
    id: str
    user_number: int
    organization_number: int
    role: str
    created_at: int


class ClerkInstance(NamedTuple):
    """One instance as it is seeded. Equal for equal arguments of `build_clerk_instance`.

    `key` is the workspace's key in the registry. The numbers of seeded users are 0 to `users` - 1 in the order of
    their creation; `user` knows those that come later, too.
    """

    seed: int
    key: str
    secret_key: str
    users: int
    organizations: tuple[ClerkOrganization, ...]
    memberships: tuple[ClerkMembership, ...]
    cursor: CursorAnswer = "supported"
    deleted_cursor: DeletedCursorAnswer = "resolved"
    membership_order: MembershipOrder = "membership"
    organizations_enabled: bool = True

    @property
    def live(self) -> bool:
        """Whether its key is one of production, with ten times the quota."""
        return self.secret_key.startswith("sk_live_")

    def user_id(self, number: int) -> str:
        """The id of a user."""
        return f"user_2{number:08d}{_mixed(self.seed, number):016x}"

    def user_number(self, user_id: str) -> int | None:
        """The number in an id, deleted and future users included; None for an id that is not of this instance."""
        digits = user_id[6:14]
        number = int(digits) if digits.isascii() and digits.isdecimal() else -1
        return number if number >= 0 and self.user_id(number) == user_id else None

    def user(self, number: int) -> ClerkUser:
        """A user as it was seeded."""
        user_id = self.user_id(number)
        first, last, local = PEOPLE[(number + self.seed) % len(PEOPLE)]
        created_at = user_created_at(number, users=self.users)
        emails = self._emails(number, local)
        signed_in = None if NEVER_SIGNED_IN.holds(number) else created_at + 3_600_000 + number % 1000
        active = None if signed_in is None else signed_in - signed_in % MILLISECONDS_A_DAY
        return ClerkUser(
            number=number,
            id=user_id,
            emails=emails,
            primary_email_id=None if PRIMARY_UNSET.holds(number) or not emails else emails[0].id,
            first_name=None if NO_FIRST_NAME.holds(number) else first,
            last_name=None if NO_LAST_NAME.holds(number) else last,
            username=f"{local.replace('.', '_')}_{number}" if USERNAME.holds(number) else None,
            image_url=None if NO_IMAGE_URL.holds(number) else f"https://img.clerk.test/{user_id}",
            created_at=created_at,
            last_sign_in_at=signed_in,
            last_active_at=active,
            banned=BANNED.holds(number),
            locked=LOCKED.holds(number),
            deprovisioned=DEPROVISIONED.holds(number),
        )

    def seeded_users(self) -> Iterator[ClerkUser]:
        """All users as they were seeded, oldest first."""
        return map(self.user, range(self.users))

    def company_of(self, number: int) -> int:
        """The company whose domain a user's address is at: a few large ones, many small ones."""
        share = (_mixed(self.seed + 1, number) >> 32) / 2**32
        return int(companies_of(self.users) * share * share)

    def _emails(self, number: int, local: str) -> tuple[ClerkEmail, ...]:
        if NO_ADDRESS.holds(number):
            return ()
        status = "unverified" if PRIMARY_UNVERIFIED.holds(number) or PRIMARY_UNSET.holds(number) else "verified"
        strategy = "from_oauth_google" if OAUTH.holds(number) else "email_code"
        address = _address(number, local, self.company_of(number))
        emails = [ClerkEmail(f"idn_2{number:08d}a", address, status, strategy)]
        second = ClerkEmail(f"idn_2{number:08d}b", f"{local}.{number}@crossroads.example", "verified", "email_code")
        if PRIMARY_UNSET.holds(number):
            emails.append(second)
        elif SECOND_ADDRESS.holds(number):
            turn = SECOND_ADDRESS.turn(number)
            at_gmail = second._replace(address=f"{local}_{number}b@gmail.com") if turn % 2 else second
            emails.append(at_gmail._replace(status=SECOND_STATUSES[turn % len(SECOND_STATUSES)]))
        if CLAIMS_ANOTHERS.holds(number):
            earlier = PEOPLE[(number - 1 + self.seed) % len(PEOPLE)][2]
            claimed = _address(number - 1, earlier, self.company_of(number - 1))
            emails.append(ClerkEmail(f"idn_2{number:08d}c", claimed, "unverified", "email_code"))
        return tuple(emails)


class ClerkWorld(NamedTuple):
    """Everything the fake vendor knows: one instance for each workspace."""

    instances: tuple[ClerkInstance, ...]

    def instance(self, key: str) -> ClerkInstance:
        """The instance of a workspace. Raises KeyError."""
        for each in self.instances:
            if each.key == key:
                return each
        raise KeyError(key)


def build_clerk_world(
    *, seed: int, users: int = 600, workspaces: Sequence[str] = ("acme",), environment: Environment = "live"
) -> ClerkWorld:
    """One instance with so many users for each workspace."""
    return ClerkWorld(
        tuple(
            build_clerk_instance(seed=seed + 1000 * place, key=key, users=users, environment=environment)
            for place, key in enumerate(workspaces)
        )
    )


def build_clerk_instance(
    *, seed: int, users: int, key: str = "acme", environment: Environment = "live", memberships: int | None = None
) -> ClerkInstance:
    """The instance of a seed. Without `memberships` there are about 1.2 of them for each user; with it exactly so many.

    Raises ValueError where the organizations cannot hold so many.
    """
    secret_key = f"sk_{environment}_{_mixed(seed + 2, 0):016x}{_mixed(seed + 2, 1):016x}Sandbox"
    instance = ClerkInstance(seed, key, secret_key, users, (), ())
    organizations, of_company, personal = _organizations(instance)
    pairs = _natural_pairs(instance, of_company, personal)
    if memberships is not None:
        pairs = _exactly(memberships, pairs, users=users, organizations=len(organizations))
    step = _step(len(pairs))
    return instance._replace(
        organizations=tuple(organizations),
        memberships=tuple(
            ClerkMembership(
                number=number,
                id=f"orgmem_2{number:08d}{_mixed(seed + 4, number):016x}",
                user_number=user_number,
                organization_number=organization_number,
                role=("org:admin" if number % 5 == 0 else "org:member"),
                created_at=WORLD_BEGINS + step * (number - number % 3),
            )
            for number, (user_number, organization_number) in enumerate(pairs)
        ),
    )


def companies_of(users: int) -> int:
    """How many companies so many users work at; they are numbered from 0."""
    return max(1, users // USERS_A_COMPANY)


def company_domain(company: int) -> str:
    """The domain of a company as people write it: one of 29 holds a letter that DNS writes otherwise."""
    if IDN_DOMAIN.holds(company):
        return f"bücher-{company}.example"
    adjective = CLIENT_ADJECTIVES[company % len(CLIENT_ADJECTIVES)].lower()
    noun = CLIENT_NOUNS[company // len(CLIENT_ADJECTIVES) % len(CLIENT_NOUNS)].lower()
    return f"{adjective}-{noun}-{company}.{'test' if TEST_DOMAIN.holds(company) else 'example'}"


def user_created_at(number: int, *, users: int) -> int:
    """Milliseconds since 1970; never less than that of the user before."""
    imported = users // IMPORTED_PART
    if number < imported:
        return WORLD_BEGINS
    # The first two of each ten came in the same millisecond.
    place = number - number % 2 if number % 10 < 2 else number  # noqa: PLR2004
    return WORLD_BEGINS + MILLISECONDS_A_DAY + _step(users) * place


def _step(records: int) -> int:
    return WORLD_LASTS // max(1, records)


def _address(number: int, local: str, company: int) -> str:
    if FREE_MAIL.holds(number):
        return f"{local}_{number}@gmail.com"
    domain = company_domain(company)
    if number % 2 and not domain.isascii():
        domain = domain.encode("idna").decode()
    if SUBDOMAIN.holds(number):
        domain = f"mail.{domain}"
    address = f"{local}.{number}@{domain}"
    return address.upper() if CAPITALS.holds(number) and address.isascii() else address


def _organizations(instance: ClerkInstance) -> tuple[list[ClerkOrganization], list[list[int]], dict[int, int]]:
    """All organizations, the numbers of those of each company, and of those that people made for themselves."""
    names: list[str] = []
    of_company: list[list[int]] = []
    for company in range(companies_of(instance.users)):
        wanted = 0 if NO_ORGANIZATION.holds(company) else 1
        wanted += SECOND_ORGANIZATION.holds(company) + THIRD_ORGANIZATION.holds(company)
        of_company.append(list(range(len(names), len(names) + wanted)))
        title = f"{CLIENT_ADJECTIVES[company % 8]} {CLIENT_NOUNS[company // 8 % 8]} {company}"
        names += [f"{title} {('HQ', 'Labs', '研究所')[place]}" for place in range(wanted)]
        if EMPTY_ORGANIZATION.holds(company):
            names.append(f"{title} (unused)")
    personal: dict[int, int] = {}
    for number in range(instance.users):
        if PERSONAL_ORGANIZATION.holds(number):
            personal[number] = len(names)
            names.append(f"{PEOPLE[(number + instance.seed) % len(PEOPLE)][0]}'s workspace")
    step = _step(len(names))
    organizations = [
        ClerkOrganization(
            number=number,
            id=f"org_2{number:08d}{_mixed(instance.seed + 3, number):016x}",
            name=name,
            slug=f"organization-{number}",
            created_at=WORLD_BEGINS + step * number,
        )
        for number, name in enumerate(names)
    ]
    return organizations, of_company, personal


def _natural_pairs(
    instance: ClerkInstance, of_company: Sequence[Sequence[int]], personal: dict[int, int]
) -> list[tuple[int, int]]:
    """User and organization, in the order in which they joined."""
    pairs: list[tuple[int, int]] = []
    for number in range(instance.users):
        company = instance.company_of(number)
        joined: list[int] = []
        if not OUTSIDER.holds(number):
            # All in the first one, every second in the second one, every third in the third one.
            joined += [each for place, each in enumerate(of_company[company]) if number % (place + 1) == 0]
        if GUESTS_OF_NEIGHBOUR.holds(company):
            joined += of_company[company - 1][:1]
        if CONSULTANT.holds(number):
            joined += of_company[(company * 7 + 3) % len(of_company)][:1]
        if number in personal:
            joined.append(personal[number])
        pairs += [(number, each) for each in dict.fromkeys(joined)]
    return pairs


def _exactly(wanted: int, pairs: list[tuple[int, int]], *, users: int, organizations: int) -> list[tuple[int, int]]:
    if wanted > users * organizations:
        raise ValueError(f"{users} users and {organizations} organizations cannot make {wanted} memberships")
    present = set(pairs)
    shift = 0
    while len(pairs) < wanted:
        more = [(number, (number * 13 + shift) % organizations) for number in range(users)]
        fresh = [pair for pair in more if pair not in present]
        present.update(fresh)
        pairs = pairs + fresh
        shift += 1
    return pairs[:wanted]


def _mixed(seed: int, number: int) -> int:
    """64 bits that look like chance (the finalizer of SplitMix64): a generator of Python's costs 10 µs to seed."""
    mixed = (seed * 0x9E3779B97F4A7C15 + number * 0xD1B54A32D192ED03 + 0x632BE59BD9B4E019) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return mixed ^ (mixed >> 31)


__all__ = [
    "WORLD_BEGINS",
    "ClerkEmail",
    "ClerkInstance",
    "ClerkMembership",
    "ClerkOrganization",
    "ClerkUser",
    "ClerkWorld",
    "build_clerk_instance",
    "build_clerk_world",
    "companies_of",
    "company_domain",
    "user_created_at",
]
