"""Searching the contacts of one GoHighLevel location: pages of all of them, and look-ups by address.

Belongs here: the body of `POST /contacts/search`, how a scan ends, and what proves that the vendor has honoured a
filter. Does not belong here: reading one contact (`gohighlevel_records.py`), other requests (`gohighlevel.py`).

Source: the vendor's page on searching contacts (highlevel.stoplight.io, "Search Contacts"), as of 2026-11. It documents
filters, groups and their operators, not how many filters a group may have, nor whether equality of `email` looks at
additional addresses. A change takes seconds to appear: what was just written is not to be searched for.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from backfill_pipelines.errors import TransientError
from backfill_pipelines.vendors.gohighlevel_records import (
    Contact,
    Foreign,
    RejectedContact,
    address_key,
    read_contact,
)
from backfill_pipelines.vendors.gohighlevel_refusals import refused_search, refused_token
from backfill_pipelines.vendors.transport import ApiClient, RejectedRequestError, VendorError

PAGE_ROWS = 500
_DIGITS = 10
"""The most a page holds."""
LONGEST_VALUE = 75
"""Characters of a filter's value at most."""
FILTERS_A_GROUP = 50
"""Filters of one group to begin with, the canary's included; the vendor's own limit is not documented."""
OLDEST_FIRST = ({"field": "dateAdded", "direction": "asc"},)
"""The one order in which nothing moves while it is read, and new contacts come last."""

Filter = Mapping[str, Any]
Position = Mapping[str, Any]
"""Where a scan goes on, as plain JSON: to be stored with the rows before it and handed back as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContactPage:
    """One page of a scan.

    `following` goes on behind this page, also in another process: store it in the transaction that stores the rows.
    None: the scan is at its end, and is not the None that it begins with. `total` is what the vendor says the location
    holds; None where it says nothing.
    """

    rows: tuple[Contact, ...]
    rejected: tuple[RejectedContact, ...]
    foreign: tuple[Foreign, ...]
    following: Position | None
    total: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a look-up by addresses found.

    `contacts`: each has one of the addresses, as its primary or an additional one; one of each id. `honoured` False:
    the answers show that the filter was not applied; then no contact is in here, and nothing is known. `unasked`:
    addresses that no filter takes, because they are longer than 75 characters or were refused.
    """

    contacts: tuple[Contact, ...]
    rejected: tuple[RejectedContact, ...]
    foreign: tuple[Foreign, ...]
    unasked: tuple[str, ...] = field(repr=False)
    honoured: bool


@dataclass(frozen=True, slots=True)
class _Answer:
    rows: Sequence[Any]
    total: int | None

    @property
    def cursor(self) -> list[Any] | None:
        """Where the next page begins: what the last row that has a cursor says."""
        cursors = (row.get("searchAfter") for row in reversed(self.rows) if isinstance(row, dict))
        return next((cursor for cursor in cursors if isinstance(cursor, list) and cursor), None)


class _NotHonouredError(Exception):
    """Rows came that the filter excludes, or the canary did not."""


class Searches:
    """The searches of one location. What it learns about the size of a group holds for all that follow."""

    def __init__(self, api: ApiClient, location_id: str) -> None:
        self._api = api
        self._location_id = location_id
        self.filters_a_group = FILTERS_A_GROUP
        """How many filters a group takes; fewer once groups were refused."""

    async def total(self) -> int | None:
        """How many contacts the location has; None where the vendor does not say. Raises as `scan` does."""
        return (await self._unfiltered(None, limit=1)).total

    async def scan(self, position: Position | None) -> AsyncGenerator[ContactPage, None]:
        """All contacts, oldest first; see `GoHighLevel.scan`."""
        after = None if position is None else position["after"]
        asked = set() if after is None else {orjson.dumps(after)}
        read = 0
        while True:
            answer = await self._unfiltered(after, limit=PAGE_ROWS)
            read += len(answer.rows)
            cursor = answer.cursor
            if answer.rows and cursor is None and (answer.total is None or read < answer.total):
                # Without a cursor the rest cannot be reached, and an end that is none would lose it silently.
                raise malformed("has contacts without searchAfter")
            ended = cursor is None or orjson.dumps(cursor) in asked
            contacts, rejected, foreign = self._sorted_out(answer.rows)
            page = ContactPage(
                rows=contacts,
                rejected=rejected,
                foreign=foreign,
                following=None if ended else {"after": cursor},
                total=answer.total,
            )
            del answer  # else a hundred locations keep a hundred pages of JSON while they store what was read
            yield page
            if ended:
                return
            after = cursor
            asked.add(orjson.dumps(cursor))

    async def by_email(self, email: str) -> Found:
        """One address, one request."""
        search = _Lookup({address_key(email)})
        if len(email.strip()) > LONGEST_VALUE:
            return search.found(unasked=[email])
        try:
            await self._take_all([_equals(email)], search)
        except RejectedRequestError:
            return search.found(unasked=[email])
        except _NotHonouredError:
            return search.not_honoured()
        return search.found()

    async def by_emails(self, emails: Iterable[str], *, canary: str) -> Found:
        """Many addresses in groups; see `GoHighLevel.by_emails`."""
        distinct = list({address_key(email): email for email in emails}.values())
        askable = [email for email in distinct if len(email.strip()) <= LONGEST_VALUE]
        questions = _GroupedQuestions(self, canary, _Lookup(set(map(address_key, askable))))
        try:
            await questions.ask_all(askable)
        except _NotHonouredError:
            return questions.lookup.not_honoured()
        too_long = [email for email in distinct if len(email.strip()) > LONGEST_VALUE]
        return questions.lookup.found(unasked=[*too_long, *questions.refused])

    async def ask_group(self, emails: Sequence[str], canary: str, lookup: _Lookup) -> None:
        """One question for some addresses. Raises RejectedRequestError, and `_NotHonouredError`."""
        # The canary is last: a vendor that looks only at the first filters of a group does not find it.
        group = {"group": "OR", "filters": [_equals(email) for email in (*emails, canary)]}
        present = await self._take_all([group], lookup, also=address_key(canary))
        if address_key(canary) not in present:
            raise _NotHonouredError

    async def _take_all(self, filters: Sequence[Filter], lookup: _Lookup, *, also: str | None = None) -> set[str]:
        """Read all pages of a filtered search; the addresses that its rows have."""
        after: list[Any] | None = None
        asked: set[bytes] = set()
        present: set[str] = set()
        read = 0
        while True:
            answer = await self._filtered(filters, after)
            read += len(answer.rows)
            contacts, rejected, foreign = self._sorted_out(answer.rows)
            present |= lookup.take(contacts, rejected, foreign, also=also)
            after = answer.cursor
            whole = read >= answer.total if answer.total is not None else len(answer.rows) < PAGE_ROWS
            if whole or after is None or orjson.dumps(after) in asked:
                return present
            asked.add(orjson.dumps(after))

    async def _unfiltered(self, after: Sequence[Any] | None, *, limit: int) -> _Answer:
        try:
            return await self._search({"pageLimit": limit}, after)
        except VendorError as error:
            raise refused_search(error, self._location_id, resumed=after is not None) from None

    async def _filtered(self, filters: Sequence[Filter], after: Sequence[Any] | None) -> _Answer:
        try:
            return await self._search({"pageLimit": PAGE_ROWS, "filters": list(filters)}, after)
        except RejectedRequestError:
            raise
        except VendorError as error:
            raise refused_token(error, self._location_id) from None

    async def _search(self, question: Mapping[str, Any], after: Sequence[Any] | None) -> _Answer:
        body = {"locationId": self._location_id, "sort": list(OLDEST_FIRST), **question}
        if after is not None:
            body["searchAfter"] = list(after)
        answer = await self._api.post("/contacts/search", json=body, idempotent=True)
        rows = answer.get("contacts") if isinstance(answer, dict) else None
        if not isinstance(rows, list):
            raise malformed("has no contacts")
        return _Answer(rows, _count(answer["total"] if "total" in answer else answer.get("count")))

    def _sorted_out(
        self, rows: Sequence[Any]
    ) -> tuple[tuple[Contact, ...], tuple[RejectedContact, ...], tuple[Foreign, ...]]:
        found = [read_contact(row, self._location_id) for row in rows]
        return (
            tuple(each for each in found if isinstance(each, Contact)),
            tuple(each for each in found if isinstance(each, RejectedContact)),
            tuple(each for each in found if isinstance(each, Foreign)),
        )


class _Lookup:
    """What was found so far of the addresses that were asked for."""

    def __init__(self, wanted: Collection[str]) -> None:
        self._wanted = frozenset(wanted)
        self._contacts: dict[str, Contact] = {}
        self._rejected: dict[RejectedContact, None] = {}
        self._foreign: dict[Foreign, None] = {}

    def take(
        self,
        contacts: Iterable[Contact],
        rejected: Iterable[RejectedContact],
        foreign: Iterable[Foreign],
        *,
        also: str | None,
    ) -> set[str]:
        """Keep a page; the addresses it has. `also` was asked for too and is kept only if it is wanted.

        Raises `_NotHonouredError` for a contact that has none of the addresses: the filter was ignored.
        """
        present: set[str] = set()
        for contact in contacts:
            addresses = contact.addresses
            present |= addresses
            if not addresses.isdisjoint(self._wanted):
                self._contacts[contact.id] = contact
            elif also not in addresses:
                raise _NotHonouredError
        self._rejected.update(dict.fromkeys(rejected))
        self._foreign.update(dict.fromkeys(foreign))
        return present

    def found(self, *, unasked: Sequence[str] = ()) -> Found:
        """The result."""
        return Found(
            contacts=tuple(self._contacts.values()),
            rejected=tuple(self._rejected),
            foreign=tuple(self._foreign),
            unasked=tuple(unasked),
            honoured=True,
        )

    def not_honoured(self) -> Found:
        """The result where no answer can be relied on; foreign contacts are told all the same."""
        return Found(contacts=(), rejected=(), foreign=tuple(self._foreign), unasked=(), honoured=False)


class _GroupedQuestions:
    """A look-up in groups. A group that the vendor refuses is halved until it is known what it did not like."""

    def __init__(self, searches: Searches, canary: str, lookup: _Lookup) -> None:
        self._searches = searches
        self._canary = canary
        self._taken = False
        self.lookup = lookup
        self.refused: list[str] = []

    async def ask_all(self, emails: Sequence[str]) -> bool:
        """Ask for addresses in groups as large as the vendor takes; whether it took every group at once."""
        asked, taken = 0, True
        while asked < len(emails):
            size = max(1, self._searches.filters_a_group - 1)  # one is the canary's
            taken &= await self._ask(emails[asked : asked + size])
            asked += size
        return taken

    async def _ask(self, group: Sequence[str]) -> bool:
        try:
            await self._searches.ask_group(group, self._canary, self.lookup)
        except RejectedRequestError:
            await self._ask_in_parts(group)
            return False
        self._taken = True
        return True

    async def _ask_in_parts(self, group: Sequence[str]) -> None:
        if not self._taken:
            await self._check_the_question()
        if len(group) == 1:
            self.refused.append(group[0])
            return
        middle = len(group) // 2
        taken = [await self.ask_all(half) for half in (group[:middle], group[middle:])]
        if all(taken):  # no address was wrong: there were too many
            self._searches.filters_a_group = min(self._searches.filters_a_group, len(group) - middle + 1)

    async def _check_the_question(self) -> None:
        """Nothing was taken so far: a group of the canary alone tells whether the vendor takes groups at all."""
        try:
            await self._searches.ask_group((), self._canary, self.lookup)
        except RejectedRequestError:
            raise _NotHonouredError from None
        self._taken = True


def canary_of(contacts: Iterable[Contact]) -> str | None:
    """An address that surely exists and can be filtered by, from contacts that were just read; None if none has one."""
    return next((each.email for each in contacts if each.email is not None and len(each.email) <= LONGEST_VALUE), None)


def malformed(what: str) -> TransientError:
    """An answer that is JSON and not what it must be."""
    return TransientError(
        "malformed_response",
        f"GoHighLevel's answer to a search {what}: check vendors.gohighlevel.base_url in the registry, then run again.",
    )


def _count(value: object) -> int | None:
    """How many there are, as a number or in digits; None where that is not said."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < _DIGITS:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _equals(email: str) -> Filter:
    return {"field": "email", "operator": "eq", "value": address_key(email)}


__all__ = ["ContactPage", "Found", "Position", "Searches", "canary_of", "malformed"]
