"""What changes in a fake Clerk instance while it runs: users and memberships come and go.

Belongs here: the live lists of one instance, in the order of creation, and the changes that people make at any moment.
Does not belong here: HTTP, JSON. Safe to call from the server's thread and from a test's.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from backfill_pipelines.sandbox.clerk_data import (
    MILLISECONDS_A_DAY,
    WORLD_BEGINS,
    WORLD_LASTS,
    ClerkEmail,
    ClerkInstance,
    ClerkMembership,
    ClerkOrganization,
    ClerkUser,
)

AFTERWARDS = WORLD_BEGINS + WORLD_LASTS + 2 * MILLISECONDS_A_DAY
"""When what comes while the sandbox runs was created: after all that was seeded."""

REMEMBERED_USERS = 20_000
"""Seeded users kept (20 MB): their memberships are listed at about the same time, and making one takes 15 µs."""


class ClerkInstanceState:
    """One instance as it is now.

    The lists are in the order of creation, which is that of the numbers: whoever comes while the sandbox runs has a
    higher number, whoever goes leaves no gap. Organizations only come, so that each stands at the place of its number.
    """

    def __init__(self, seeded: ClerkInstance) -> None:
        self.seeded = seeded
        self.lock = threading.RLock()
        self.reset()

    def reset(self) -> None:
        """Back to the seeded instance."""
        with self.lock:
            self.users: list[int] = list(range(self.seeded.users))
            self.organizations: list[ClerkOrganization] = list(self.seeded.organizations)
            self.memberships: list[ClerkMembership] = list(self.seeded.memberships)
            self.members = Counter(each.organization_number for each in self.memberships)
            self._made: dict[int, ClerkUser] = {}
            self._remembered: dict[int, ClerkUser] = {}
            self._altered: defaultdict[int, dict[str, Any]] = defaultdict(dict)
            self._next_user = self.seeded.users
            self._next_membership = len(self.memberships)

    # --- looking -------------------------------------------------------------------------------------------------

    def user(self, number: int) -> ClerkUser:
        """A user by its number, whether it still exists or not."""
        user = self._made.get(number) or self._remembered.get(number)
        if user is None:
            if len(self._remembered) >= REMEMBERED_USERS:
                self._remembered.clear()
            user = self._remembered[number] = self.seeded.user(number)
        return user

    def altered_fields(self, number: int) -> Mapping[str, Any]:
        """What a user's JSON shows instead of what its record holds."""
        return self._altered.get(number, {})

    def has_user(self, number: int) -> bool:
        """Whether a user exists now."""
        place = bisect_left(self.users, number)
        return place < len(self.users) and self.users[place] == number

    def user_ids(self) -> list[str]:
        """The ids of all users there are now, oldest first."""
        with self.lock:
            return [self.seeded.user_id(number) for number in self.users]

    def membership_ids(self) -> list[str]:
        """The ids of all memberships there are now, oldest first."""
        with self.lock:
            return [each.id for each in self.memberships]

    # --- what people do, at any moment ---------------------------------------------------------------------------

    def create_users(self, count: int = 1) -> list[str]:
        """So many more users sign up, made as the seeded ones; their ids."""
        with self.lock:
            numbers = range(self._next_user, self._next_user + count)
            self._next_user += count
            for number in numbers:
                self._made[number] = self.seeded.user(number)._replace(created_at=AFTERWARDS + 1000 * number)
            self.users += numbers
            return [self.seeded.user_id(number) for number in numbers]

    def create_user(self, emails: Sequence[tuple[str, str | None]] = (), **fields: Any) -> str:
        """One certain user: addresses with their verification's status (the first is the primary one), and other fields
        of `ClerkUser`; its id."""
        with self.lock:
            [user_id] = self.create_users()
            number = self.users[-1]
            rows = tuple(
                ClerkEmail(f"idn_2{number:08d}x{place}", address, status, "email_code")
                for place, (address, status) in enumerate(emails)
            )
            primary = rows[0].id if rows else None
            seeded = self._made[number]._replace(emails=rows, primary_email_id=primary)
            self._made[number] = seeded._replace(**fields)
            return user_id

    def alter_user(self, user_id: str, **fields: Any) -> None:
        """Show these values in the user's JSON, whatever they are: new ones, or such as no vendor should send. Filters
        and sorting do not see them. Raises KeyError."""
        with self.lock:
            self._altered[self._number(user_id)].update(fields)

    def delete_users(self, user_ids: Iterable[str]) -> None:
        """These users are deleted, their memberships with them. Raises KeyError."""
        with self.lock:
            gone = {self._number(user_id) for user_id in user_ids}
            self.users = [number for number in self.users if number not in gone]
            self._keep_memberships([each for each in self.memberships if each.user_number not in gone])

    def delete_oldest_users(self, count: int) -> None:
        """So many users from the beginning of the list are deleted: everyone after them moves to a smaller offset."""
        with self.lock:
            self.delete_users([self.seeded.user_id(number) for number in self.users[:count]])

    def create_organization(self, name: str, *, members: Sequence[str] = ()) -> str:
        """A new organization with these users; its id. Raises KeyError."""
        with self.lock:
            number = len(self.organizations)
            created = ClerkOrganization(
                number, f"org_2{number:08d}made", name, f"organization-{number}", AFTERWARDS + 1000 * number
            )
            self.organizations.append(created)
            for user_id in members:
                self.create_membership(user_id, created.id)
            return created.id

    def create_membership(self, user_id: str, organization_id: str) -> str:
        """A user joins an organization; the membership's id. Raises KeyError."""
        with self.lock:
            organization = next((each for each in self.organizations if each.id == organization_id), None)
            if organization is None:
                raise KeyError(organization_id)
            number = self._next_membership
            self._next_membership += 1
            joined = ClerkMembership(
                number=number,
                id=f"orgmem_2{number:08d}made",
                user_number=self._number(user_id),
                organization_number=organization.number,
                role="org:member",
                created_at=AFTERWARDS + 1000 * number,
            )
            self._keep_memberships([*self.memberships, joined])
            return joined.id

    def delete_oldest_memberships(self, count: int) -> None:
        """So many memberships from the beginning of the list end."""
        with self.lock:
            self._keep_memberships(self.memberships[count:])

    def delete_memberships(self, membership_ids: Iterable[str]) -> None:
        """These memberships end."""
        with self.lock:
            gone = set(membership_ids)
            self._keep_memberships([each for each in self.memberships if each.id not in gone])

    def _keep_memberships(self, kept: list[ClerkMembership]) -> None:
        # A list of its own: whoever has sorted the one before can see that it is another one.
        self.memberships = kept
        self.members = Counter(each.organization_number for each in kept)

    def _number(self, user_id: str) -> int:
        number = self.seeded.user_number(user_id)
        if number is None or not self.has_user(number):
            raise KeyError(user_id)
        return number


__all__ = ["ClerkInstanceState"]
