"""Attio's operations: attributes, people and companies, one record at a time.

Belongs here: the vendor's paths and bodies, and what follows from its refusals. Does not belong here: how questions are
asked (`attio_queries.py`), what JSON means (`attio_records.py`), how to connect (`attio_access.py`), which record is
written and why (the backfills).

Source: docs.attio.com (attribute types, standard objects) and the vendor's OpenAPI file of October 2025. What these
leave open is asked so that either answer does, or checked in the answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Collection, Mapping
from typing import Any

from backfill_pipelines.errors import DataError
from backfill_pipelines.vendors.attio_queries import NEWEST_FIRST, Questions, by_record_id, by_value, rows_of
from backfill_pipelines.vendors.attio_records import (
    COMPANIES,
    EMAIL_ADDRESSES,
    ORG_ID,
    PEOPLE,
    USER_ID,
    Attribute,
    Authorship,
    Company,
    Found,
    Page,
    Person,
    RejectedRecord,
    current_texts,
    malformed,
    read_attribute,
    read_authorship,
    read_company,
    read_person,
    uniqueness_conflict,
)
from backfill_pipelines.vendors.transport import (
    AmbiguousWriteError,
    ApiClient,
    ConflictError,
    NotFoundError,
    RejectedRequestError,
    VendorError,
)

ATTRIBUTES_A_PAGE = 100
PROBED = 25
"""Companies of either kind by which a filter is proved."""
_WITHOUT_ORG_ID: Mapping[str, Any] = {"$not": {ORG_ID: {"$not_empty": True}}}


class Attio:
    """One API key of one workspace.

    No create and no change is sent twice: where its answer is lost it raises `AmbiguousWriteError`, and the caller
    looks first. The exceptions are refusals that say that nothing was executed (429, `concurrent_write_conflict`).
    """

    def __init__(self, *, reads: ApiClient, writes: ApiClient) -> None:
        self._reads = reads
        self._writes = writes
        self._questions = Questions(reads)

    # --- attributes --------------------------------------------------------------------------------------------------

    async def attributes(self, object_slug: str) -> Mapping[str, Attribute]:
        """All attributes of an object by slug, archived ones too, which keep their slug."""
        found: dict[str, Attribute] = {}
        offset = 0
        while True:
            params = {"show_archived": "true", "limit": str(ATTRIBUTES_A_PAGE), "offset": str(offset)}
            rows = rows_of(await self._reads.get(_attributes_path(object_slug), params=params))
            new = [each for each in map(read_attribute, rows) if each.slug not in found]
            if not new:  # not at the first short page: how many a page may hold is not documented
                return found
            found.update((each.slug, each) for each in new)
            offset += len(rows)

    async def create_text_attribute(
        self, object_slug: str, slug: str, *, title: str, description: str, unique: bool = False
    ) -> Attribute:
        """Make a text attribute, or return the one that has the slug already, whatever it is."""
        definition = {
            "title": title,
            "description": description,
            "api_slug": slug,
            "type": "text",
            "is_required": False,
            "is_unique": unique,
            "is_multiselect": False,
            "config": {},
        }
        try:
            body = await self._writes.post(_attributes_path(object_slug), json={"data": definition}, idempotent=False)
        except ConflictError as conflict:
            found = (await self.attributes(object_slug)).get(slug) if conflict.vendor_code == "slug_conflict" else None
            if found is None:
                raise
            return found
        return read_attribute(_data(body))

    # --- whole objects -----------------------------------------------------------------------------------------------

    async def people(self, *, offset: int = 0) -> AsyncIterator[Page[Person]]:
        """All people, oldest first, from a position on; who is created meanwhile comes at the end.

        Where somebody is deleted meanwhile, those behind move up and one may be missed: `create_person` is refused
        then, since the address is taken.
        """
        async for page in self._questions.pages(PEOPLE, read_person, offset=offset):
            yield page

    async def companies(self, *, offset: int = 0, without_org_id: bool = False) -> AsyncIterator[Page[Company]]:
        """All companies, oldest first; with `without_org_id` only those (ask `honours_without_org_id` before)."""
        given = _WITHOUT_ORG_ID if without_org_id else None
        async for page in self._questions.pages(COMPANIES, read_company, given=given, offset=offset):
            yield page

    async def has_more_than(self, object_slug: str, count: int) -> bool:
        """Whether an object has more records than so many: the vendor has no count, and this costs one read."""
        return bool(await self._questions.ask(object_slug, limit=1, offset=count))

    async def honours_without_org_id(self) -> bool:
        """Whether the workspace answers the filter for companies without `org_id` and leaves none of them out.

        `$not_empty` is not documented for texts. So the newest companies are read without a filter, and some of them
        asked for again with it: all without an id must come, and none with one. Where all of the newest companies have
        an id, nothing is proved and the answer is no.
        """
        newest = await self._questions.ask(COMPANIES, sorts=NEWEST_FIRST)
        companies = [each for each in map(read_company, newest) if isinstance(each, Company)]
        without = {each.record_id for each in [each for each in companies if each.org_id is None][:PROBED]}
        having = {each.record_id for each in [each for each in companies if each.org_id is not None][:PROBED]}
        if not without:
            return False
        try:
            rows = await self._questions.ask(
                COMPANIES, given={"$and": [by_record_id([*without, *having]), _WITHOUT_ORG_ID]}
            )
        except RejectedRequestError:
            return False
        return {each.record_id for each in map(read_company, rows)} == without

    # --- looking records up ------------------------------------------------------------------------------------------

    @property
    def keys_a_question(self) -> int:
        """How many keys one query of a look-up takes, for planning; less once queries were refused as too complex."""
        return self._questions.keys_a_question

    async def people_with_addresses(self, addresses: Collection[str]) -> Found[Person]:
        """The people that have one of these addresses, in whatever case."""
        keys = [key for address in addresses if (key := address.strip().lower())]
        question = by_value(EMAIL_ADDRESSES)
        return await self._questions.look_up(PEOPLE, keys, question, read_person, held=lambda each: each.addresses)

    async def people_with_user_ids(self, user_ids: Collection[str]) -> Found[Person]:
        """The people whose `user_id` is one of these."""
        question = by_value(USER_ID)
        return await self._questions.look_up(PEOPLE, user_ids, question, read_person, held=lambda each: each.user_ids)

    async def people_with_ids(self, record_ids: Collection[str]) -> Found[Person]:
        """These people as they are now; those that are not found are gone."""
        return await self._questions.look_up(
            PEOPLE, record_ids, by_record_id, read_person, held=lambda each: (each.record_id,)
        )

    async def companies_with_ids(self, record_ids: Collection[str]) -> Found[Company]:
        """These companies as they are now; those that are not found are gone."""
        return await self._questions.look_up(
            COMPANIES, record_ids, by_record_id, read_company, held=lambda each: (each.record_id,)
        )

    async def person(self, record_id: str) -> Person | RejectedRecord | None:
        """A person by its id, also one that queries do not show yet; None where it is gone."""
        item = await self._record(PEOPLE, record_id)
        found = None if item is None else read_person(item)
        if found is not None and found.record_id != record_id:
            raise malformed("is not the record that was asked for")
        return found

    async def authorship(self, object_slug: str, record_id: str) -> Authorship | None:
        """Who created a record and wrote its values; None where it was deleted."""
        item = await self._record(object_slug, record_id)
        found = None if item is None else read_authorship(item)
        if found is not None and found.record_id != record_id:
            raise malformed("is not the record that was asked for")
        return found

    async def _record(self, object_slug: str, record_id: str) -> Any:
        """A record's JSON; None where there is no such record."""
        try:
            body = await self._reads.get(_record_path(object_slug, record_id))
        except NotFoundError as error:
            if error.vendor_code != "not_found":  # a record that is being merged, or a wrong base_url
                raise
            return None
        item = _data(body)
        if item is None:
            raise malformed("holds no record")
        return item

    # --- writing -----------------------------------------------------------------------------------------------------

    async def create_person(
        self, *, address: str, user_id: str, first_name: str | None, last_name: str | None
    ) -> Person:
        """Create a person, never change one. Raises `UniquenessConflictError` where the address, or the id, is taken.

        A name goes with it where a part of it is known. Whether a name with an empty part is accepted is not
        documented: where such a one is refused, the person is created without it.
        """
        values: dict[str, Any] = {EMAIL_ADDRESSES: [{"email_address": address}], USER_ID: [user_id]}
        first, last = (first_name or "").strip(), (last_name or "").strip()
        if not (first or last):
            return await self._create_person(values)
        name = {"first_name": first, "last_name": last, "full_name": f"{first} {last}".strip()}
        try:
            return await self._create_person({**values, "name": [name]})
        except RejectedRequestError:
            if first and last:
                raise
            return await self._create_person(values)

    async def set_text(self, object_slug: str, record_id: str, attribute: str, value: str) -> None:
        """Write one text attribute of a record and no other.

        Raises `NotFoundError`, `UniquenessConflictError`, and `DataError("write_not_taken")` where the answer shows
        another value than was written.
        """
        if await self._changed(object_slug, record_id, attribute, [value]) != (value,):
            raise _not_taken(record_id, attribute)

    async def clear_text(self, object_slug: str, record_id: str, attribute: str) -> None:
        """Take the value of one text attribute away: by an empty list or, where that does not do it, by null.

        Raises as `set_text` does. Which of the two the vendor takes is not documented.
        """
        try:
            if await self._changed(object_slug, record_id, attribute, []) == ():
                return
        except RejectedRequestError:
            pass  # the second way says why, if it is refused too
        if await self._changed(object_slug, record_id, attribute, None) != ():
            raise _not_taken(record_id, attribute)

    async def delete(self, object_slug: str, record_id: str) -> bool:
        """Delete a record; False where it was gone already, by somebody else or by an attempt whose answer was lost."""
        try:
            await self._writes.delete(_record_path(object_slug, record_id), idempotent=True)
        except NotFoundError as error:
            if error.vendor_code != "not_found":
                raise
            return False
        return True

    async def _create_person(self, values: Mapping[str, Any]) -> Person:
        path = f"/objects/{PEOPLE}/records"
        created = read_person(await _written(self._writes.post(path, json=_body(values), idempotent=False)))
        if isinstance(created, RejectedRecord):
            raise _unreadable()
        return created

    async def _changed(self, object_slug: str, record_id: str, attribute: str, given: Any) -> tuple[str, ...]:
        """Change one attribute; the values that it then has."""
        path = _record_path(object_slug, record_id)
        item = await _written(self._writes.patch(path, json=_body({attribute: given}), idempotent=False))
        standing = current_texts(item, attribute)
        if standing is None:
            raise _unreadable()
        return standing


async def _written(write: Awaitable[Any]) -> Any:
    """The record in the answer to a write."""
    try:
        return _data(await write)
    except VendorError as error:
        # 400 in every answer that anybody has recorded, 409 by its nature: the code counts.
        if error.vendor_code == "uniqueness_conflict":
            raise uniqueness_conflict(error) from None
        raise


def _unreadable() -> AmbiguousWriteError:
    return AmbiguousWriteError(vendor="Attio", reason="the answer cannot be read")


def _not_taken(record_id: str, attribute: str) -> DataError:
    return DataError(
        "write_not_taken",
        f"Attio accepted a change of {attribute} of record {record_id} and did not make it; look at the record, and at "
        "the attribute's settings, in Attio.",
    )


def _data(body: Any) -> Any:
    return body.get("data") if isinstance(body, dict) else None


def _body(values: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"data": {"values": values}}


def _attributes_path(object_slug: str) -> str:
    return f"/objects/{object_slug}/attributes"


def _record_path(object_slug: str, record_id: str) -> str:
    return f"/objects/{object_slug}/records/{record_id}"
