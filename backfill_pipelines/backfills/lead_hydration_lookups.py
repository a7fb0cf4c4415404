"""Looking up single contacts of a location: by id, by address, and for the spelling of their names.

Belongs here: what is asked, in which order, and what an answer proves. Does not belong here: reading all contacts and
landing (`lead_hydration_source.py`, `lead_hydration_landing.py`).

Addresses are asked for 49 at a time, together with one that surely exists: where that one does not come back, the
location does not honour such questions, and addresses are asked for one by one. Whether a filter on `email` looks at
additional addresses is not documented, so a known one is tried. Where it does not, an address that was not found is
asked for as a duplicate. That finds one contact and does not tell whether it is the only one: the lead is left to a
person (`unproven_contact`). Where duplicates would take as many calls as reading everything, everything is read. It is
read, too, where an address that surely exists is not found by itself: by a vendor that tells capitals apart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from backfill_pipelines.backfills.lead_hydration_landing import Row
from backfill_pipelines.backfills.lead_hydration_matching import ABSENT, FOUND_UNPROVEN, SEARCHED, address_key
from backfill_pipelines.backfills.lead_hydration_source import Extraction
from backfill_pipelines.vendors.gohighlevel import Contact, Foreign, Found, Gone, RejectedContact

_GROUP = 49
"""Addresses of one question; with the one that proves it they are as many filters as the vendor is asked to take."""


class LookUps:
    """The look-ups of one partition. What was landed before it was interrupted is not asked for again."""

    def __init__(self, extraction: Extraction) -> None:
        self._extraction = extraction
        self._landing, self._location = extraction.landing, extraction.location
        self._reading, self._wanted = extraction.reading, extraction.wanted
        self._unasked: list[str] = []
        self._unhonoured: list[str] = []

    # --- by id -----------------------------------------------------------------------------------------------------

    async def contacts(self) -> None:
        """The contacts that leads name and that were not read yet."""
        if not self._wanted.ids:
            return
        known = await asyncio.to_thread(self._landing.known_ids, self._reading, self._wanted.ids)
        await self._by_id(sorted(self._wanted.ids - known), step="contacts by id")

    async def names(self) -> None:
        """Contacts whose names were read in lower case only, where a lead lacks one of them."""
        if await asyncio.to_thread(self._landing.has_lowercased_names, self._reading):
            contacts = await asyncio.to_thread(self._landing.contacts, self._reading, self._wanted)
            await self._by_id(contacts.lacking_names(), step="names")

    async def _by_id(self, contact_ids: Sequence[str], *, step: str) -> None:
        async def ask(contact_id: str) -> tuple[str, Contact | Gone | Foreign | RejectedContact]:
            return contact_id, await self._location.contact(contact_id)

        async def land(answers: Sequence[tuple[str, Contact | Gone | Foreign | RejectedContact]]) -> None:
            rows = [
                row
                for contact_id, found in answers
                for row in self._landing.contact_rows(self._reading, [found], named=contact_id)
            ]
            await self._extraction.commit(rows)

        await self._extraction.each(contact_ids, ask, land, step=step)

    # --- by address ------------------------------------------------------------------------------------------------

    async def addresses(self) -> bool:
        """The addresses by which leads are to be found; False where the location honours no such question at all."""
        asked = await asyncio.to_thread(self._landing.asked, self._reading)
        wanted = sorted(self._wanted.addresses.keys() - asked.addresses.keys())
        canary = await asyncio.to_thread(self._landing.an_address, self._reading, but=wanted)
        singly = wanted if self._reading.groups is False else await self._in_groups(wanted, canary)
        if singly and self._reading.groups is False and not await self._honours_single(canary):
            return False
        if not await self._one_by_one(singly):
            return False
        await self._duplicates(self._unasked)
        return await self._unfound()

    async def _in_groups(self, addresses: Sequence[str], canary: str | None) -> Sequence[str]:
        """Ask for many at a time; returns those that have to be asked for one by one."""
        if canary is None or not addresses:
            return addresses
        groups = [addresses[start : start + _GROUP] for start in range(0, len(addresses), _GROUP)]
        if self._reading.groups is None:
            first = await self._location.by_emails(groups[0], canary=canary)
            self._reading.groups = first.honoured
            await self._land_found([(groups[0], first)])
            if not first.honoured:
                return addresses
            groups = groups[1:]

        async def ask(group: Sequence[str]) -> tuple[Sequence[str], Found]:
            return group, await self._location.by_emails(group, canary=canary)

        await self._extraction.each(groups, ask, self._land_found, step="groups of addresses")
        return self._unhonoured

    async def _honours_single(self, canary: str | None) -> bool:
        """Whether an address that surely exists is found by itself, in lower case as all are asked for."""
        if canary is None:
            return True
        found = await self._location.by_email(canary)
        return found.honoured and any(address_key(canary) in each.addresses for each in found.contacts)

    async def _one_by_one(self, addresses: Sequence[str]) -> bool:
        honoured = True

        async def ask(address: str) -> tuple[Sequence[str], Found]:
            nonlocal honoured
            if not honoured:  # the first answers show it: the rest would be calls for nothing
                return [], _NOTHING_FOUND
            found = await self._location.by_email(address)
            if not found.honoured:
                honoured = False
            return [address], found

        await self._extraction.each(addresses, ask, self._land_found, step="addresses")
        return honoured

    async def _land_found(self, answers: Sequence[tuple[Sequence[str], Found]]) -> None:
        contacts: list[Row] = []
        lookups: list[Row] = []
        for group, found in answers:
            # Filters have shown what they see.
            if any(each.email is None or address_key(each.email) not in group for each in found.contacts):
                self._reading.additional = True
            contacts += self._landing.contact_rows(self._reading, [*found.contacts, *found.rejected, *found.foreign])
            if not found.honoured:
                self._unhonoured += group
                continue
            unasked = {each.strip().lower() for each in found.unasked}
            self._unasked += [each for each in group if each in unasked]
            lookups += self._landing.lookup_rows(self._reading, [each for each in group if each not in unasked])
        await self._extraction.commit(contacts, lookups)

    # --- what filters do not see -----------------------------------------------------------------------------------

    async def _unfound(self) -> bool:
        """Addresses that no contact has as its primary one: whether the look-ups have found all that have them as an
        additional one; where not, and none was found, as duplicates. False where reading everything takes no more calls
        than that, and tells more."""
        asked = await asyncio.to_thread(self._landing.asked, self._reading)
        searched = [
            each for each, outcome in asked.addresses.items() if outcome == SEARCHED and each in self._wanted.addresses
        ]
        contacts = await asyncio.to_thread(self._landing.contacts, self._reading, self._wanted)
        if not contacts.without_primary(searched) or await self._sees_additional():
            return True
        unfound = contacts.without_any(searched)
        left = self._extraction.pages_left
        if left is not None and len(unfound) >= left:
            return False
        await self._duplicates(unfound)
        return True

    async def _sees_additional(self) -> bool:
        """Whether a filter on addresses sees additional ones: a known one comes back."""
        if self._reading.additional is None:
            known = await asyncio.to_thread(self._landing.an_additional_address, self._reading)
            if known is None:
                return False
            contact_id, address = known
            found = await self._location.by_email(address)
            self._reading.additional = any(each.id == contact_id for each in found.contacts)
            await self._extraction.commit()
        return self._reading.additional

    async def _duplicates(self, addresses: Sequence[str]) -> None:
        async def ask(address: str) -> _Duplicate:
            return address, await self._location.duplicate(address)

        async def land(answers: Sequence[_Duplicate]) -> None:
            # A contact that was found so is not landed: whoever plans would take it for the only one.
            odd = [found for _, found in answers if isinstance(found, Foreign | RejectedContact)]
            unproven = [address for address, found in answers if isinstance(found, Contact)]
            absent = [address for address, found in answers if not isinstance(found, Contact)]
            await self._extraction.commit(
                self._landing.contact_rows(self._reading, odd),
                [
                    *self._landing.lookup_rows(self._reading, unproven, FOUND_UNPROVEN),
                    *self._landing.lookup_rows(self._reading, absent, ABSENT),
                ],
            )

        await self._extraction.each(addresses, ask, land, step="duplicates")


_Duplicate = tuple[str, Contact | Foreign | RejectedContact | None]
_NOTHING_FOUND = Found(contacts=(), rejected=(), foreign=(), unasked=(), honoured=True)
