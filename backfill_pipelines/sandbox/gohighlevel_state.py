"""What changes in a location of the fake GoHighLevel while it runs: contacts come and disappear.

Belongs here: which contacts exist, which of them a search shows (its index lags), and the changes that people make at
any moment. Does not belong here: HTTP, JSON. Safe to call from the server's thread and from a test's.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from backfill_pipelines.sandbox.gohighlevel_data import (
    WORLD_BEGINS,
    WORLD_LASTS,
    GoHighLevelContact,
    GoHighLevelLocation,
    KnownContact,
)
from backfill_pipelines.sandbox.gohighlevel_limits import GoHighLevelLimits, LocationLimits

AFTERWARDS = WORLD_BEGINS + WORLD_LASTS + 86_400_000
"""When the contacts that come while the sandbox runs were added, in milliseconds since 1970: after all others."""


class LocationState:
    """One location as it is now. `clock`: seconds since 1970.

    Contacts have numbers in the order of `dateAdded`. Whoever comes has a higher number, whoever goes leaves a gap.
    """

    def __init__(self, seeded: GoHighLevelLocation, limits: GoHighLevelLimits, *, clock: Callable[[], float]) -> None:
        self.seeded = seeded
        self.limits = LocationLimits(limits, clock=clock)
        self.lock = threading.RLock()
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Back to the seeded location."""
        with self.lock:
            self.limits.reset()
            self.writes = 0
            """Requests that would have changed something; none was executed."""
            self._made: list[tuple[GoHighLevelContact, float]] = []  # with when a search shows it
            self._made_ids: dict[str, int] = {}
            self._gone: dict[int, float] = {}  # with when a search shows it no more
            self._altered: defaultdict[int, dict[str, Any]] = defaultdict(dict)

    # --- looking -------------------------------------------------------------------------------------------------

    @property
    def end(self) -> int:
        """The number behind the last one that there ever was."""
        return self.seeded.contacts + len(self._made)

    def contact(self, number: int) -> GoHighLevelContact:
        """A contact by its number, whether it still exists or not."""
        if number < self.seeded.contacts:
            return self.seeded.contact(number)
        return self._made[number - self.seeded.contacts][0]

    def number_of(self, contact_id: str) -> int | None:
        """The number of a contact that exists or did."""
        number = self._made_ids.get(contact_id)
        if number is None:
            number = self.seeded.number_of(contact_id)
            return number if number is not None and number < self.seeded.contacts else None
        return number

    def exists(self, number: int) -> bool:
        """Whether the contact is there, whatever a search shows."""
        return 0 <= number < self.end and number not in self._gone

    def altered_fields(self, number: int) -> Mapping[str, Any]:
        """What a contact's JSON shows instead of what it holds."""
        return self._altered.get(number, {})

    def searchable(self, first: int = 0, *, descending: bool = False) -> Iterator[int]:
        """The contacts that a search shows, from a number on in the order of `dateAdded`, or down from it."""
        now = self._clock()
        numbers = range(min(first, self.end - 1), -1, -1) if descending else range(max(0, first), self.end)
        if not self._gone and not self._made:
            return iter(numbers)
        return (number for number in numbers if self._shown(number, now))

    def shows(self, number: int) -> bool:
        """Whether a search shows this contact."""
        return 0 <= number < self.end and self._shown(number, self._clock())

    def searchable_count(self) -> int:
        """How many contacts a search shows."""
        now = self._clock()
        hidden = sum(until <= now for until in self._gone.values())
        hidden += sum(
            since > now and self._gone.get(number, now + 1) > now
            for number, (_, since) in enumerate(self._made, start=self.seeded.contacts)
        )
        return self.end - hidden

    def numbers_with(self, address: str) -> list[int]:
        """The contacts that have this address, in lower case, among all that there ever were."""
        made = [contact.number for contact, _ in self._made if address in _addresses(contact)]
        return [number for number in self.seeded.numbers_with(address) if number < self.seeded.contacts] + made

    def _shown(self, number: int, now: float) -> bool:
        if self._gone.get(number, now + 1) <= now:
            return False
        return number < self.seeded.contacts or self._made[number - self.seeded.contacts][1] <= now

    # --- changing ------------------------------------------------------------------------------------------------

    def create_contact(self, contact: KnownContact | None = None) -> str:
        """Somebody makes a contact, an invented one without `contact`; its id. A search shows it after the lag."""
        with self.lock:
            number = self.end
            added = AFTERWARDS + 1000 * number
            made = (
                self.seeded.contact(number)._replace(date_added=added)
                if contact is None
                else GoHighLevelContact(number, *contact, added)
            )
            self._made.append((made, self._clock() + self.seeded.habits.index_lag_seconds))
            self._made_ids[made.id] = number
            return made.id

    def create_contacts(self, count: int) -> None:
        """So many contacts are made."""
        for _ in range(count):
            self.create_contact()

    def delete_contacts(self, contact_ids: Iterable[str]) -> None:
        """These contacts disappear: by their ids at once, from searches after the lag. Raises KeyError."""
        with self.lock:
            until = self._clock() + self.seeded.habits.index_lag_seconds
            for contact_id in contact_ids:
                number = self.number_of(contact_id)
                if number is None or not self.exists(number):
                    raise KeyError(contact_id)
                self._gone[number] = until

    def delete_oldest_contacts(self, count: int) -> None:
        """The oldest ones that exist disappear."""
        with self.lock:
            numbers = (number for number in range(self.end) if self.exists(number))
            self.delete_contacts([self.contact(number).id for number, _ in zip(numbers, range(count), strict=False)])

    def alter_contact(self, contact_id: str, **fields: Any) -> None:
        """Show other fields in a contact's JSON, malformed ones perhaps; filters do not see them. Raises KeyError."""
        with self.lock:
            number = self.number_of(contact_id)
            if number is None:
                raise KeyError(contact_id)
            self._altered[number] |= fields


def _addresses(contact: GoHighLevelContact) -> set[str]:
    return {each.lower() for each in (contact.email, *contact.additional_emails) if each is not None}


__all__ = ["AFTERWARDS", "LocationState"]
