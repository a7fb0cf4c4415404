"""Attio's people, landed: all of them, or those that a product's users may be, whichever takes fewer calls.

Belongs here: choosing between the two, reading page by page into `backfill.attio_person`, resumable, and what is landed
as frames. Does not belong here: Clerk's users (`clerk_landing.py`), decisions (`attio_people_plan.py`).

Unlike Clerk's lists, people are landed for this backfill alone, which holds its partition's lock: a new reading begins
by deleting what the one before has landed, so nothing that is gone stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import ceil
from typing import Any, Literal

import orjson
import pandas as pd
from psycopg import sql
from sqlalchemy import Connection, delete, func, select, text

from backfill_pipelines.backfills.attio_people_plan import primary_address
from backfill_pipelines.database.bulk import land_rows, storable_text, stream_columns
from backfill_pipelines.database.tables import attio_person, clerk_user
from backfill_pipelines.engine.backfill import Scope
from backfill_pipelines.engine.email_address import normalise_email
from backfill_pipelines.engine.journal import executed_count
from backfill_pipelines.engine.ledger import read_cursor, write_cursor
from backfill_pipelines.errors import DataError
from backfill_pipelines.vendors.attio import Attio
from backfill_pipelines.vendors.attio_queries import ROWS_A_PAGE
from backfill_pipelines.vendors.attio_records import PEOPLE, Found, Page, Person, RejectedRecord, malformed

BEFORE, AFTER = "people", "people_after_load"
"""The cursors of the reading before a plan and of the one after a load."""
AT_ONCE = 4
"""Pages, or look-ups, under way at once: one after the other, a workspace at some distance would take minutes."""
_FRAME_ROWS = 10_000

Way = Literal["whole", "look_up"]


async def land_people(scope: Scope, attio: Attio, *, stream: str) -> None:
    """Land Attio's people; goes on where an interrupted reading of the same stream stopped."""
    await _Landing(scope=scope, attio=attio, stream=stream).land()


@dataclass(frozen=True, kw_only=True)
class _Landing:
    scope: Scope
    attio: Attio
    stream: str

    async def land(self) -> None:
        # Read again after a load, people are worth what they were just after the writes that the journal knows then;
        # and a place among the keys of users is one only as long as the users are the same.
        executed, users = await asyncio.to_thread(self._circumstances)
        state = await asyncio.to_thread(self._read)
        if state is None or state["executed"] != executed or (state["way"] == "look_up" and state["users"] != users):
            state = {"way": await self._way(), "next": 0, "read": 0, "done": False}
            state |= {"executed": executed, "users": users}
            await asyncio.to_thread(self._begin, state)
        if not state["done"]:
            await (self._read_whole(state) if state["way"] == "whole" else self._look_up(state))
        self.scope.details["attio_people_read"] = await asyncio.to_thread(self._landed)

    async def _way(self) -> Way:
        """All people, unless looking up every address and every id of a user takes fewer calls: one read tells."""
        size = self.attio.keys_a_question
        calls = sum(ceil(count / size) for count in await asyncio.to_thread(self._count_keys))
        return "look_up" if await self.attio.has_more_than(PEOPLE, calls * ROWS_A_PAGE) else "whole"

    # --- the whole object --------------------------------------------------------------------------------------------

    async def _read_whole(self, state: dict[str, Any]) -> None:
        first_of_last: Person | RejectedRecord | None = None
        at_once = 1 if state["next"] == 0 else AT_ONCE  # most workspaces have one page
        while not state["done"]:
            self.scope.safe_point()
            offsets = [state["next"] + number * ROWS_A_PAGE for number in range(at_once)]
            pages = await _all(self._page(offset) for offset in offsets)
            used: list[Page[Person]] = []
            for page in pages:
                rows = (*page.records, *page.rejected)
                if rows and rows[0] == first_of_last:
                    raise malformed("repeats a page whatever offset is asked for")
                first_of_last = rows[0] if rows else None
                used.append(page)
                if page.next_offset is None:
                    break
            state["next"], state["done"] = used[-1].next_offset, used[-1].next_offset is None
            await self._commit(used, state)
            at_once = AT_ONCE

    async def _page(self, offset: int) -> Page[Person]:
        return await anext(aiter(self.attio.people(offset=offset)))

    # --- look-ups ----------------------------------------------------------------------------------------------------

    async def _look_up(self, state: dict[str, Any]) -> None:
        """People by addresses, then by ids. The cursor counts keys, which are sorted: it holds no address."""
        keys = await asyncio.to_thread(_Keys.landed, self.scope)
        while not state["done"]:
            self.scope.safe_point()
            size, place = self.attio.keys_a_question, state["next"]
            groups: list[tuple[bool, Sequence[str]]] = []
            while len(groups) < AT_ONCE and place < keys.count:
                of_addresses, group = keys.group(place, size)
                groups.append((of_addresses, group))
                place += len(group)
            found = await _all(self._find(group, of_addresses=of_addresses) for of_addresses, group in groups)
            state["next"], state["done"] = place, place >= keys.count
            await self._commit(found, state)

    async def _find(self, group: Sequence[str], *, of_addresses: bool) -> Found[Person]:
        if of_addresses:
            # Of an address that Attio does not take in a question nobody has it, and it refuses to create it, too.
            return await self.attio.people_with_addresses(group)
        found = await self.attio.people_with_user_ids(group)
        if found.refused:
            raise DataError(
                "lookup_refused",
                f"Attio does not answer questions about {len(found.refused)} user ids, so it is not known whether "
                "people have them; look at the attribute user_id in Attio, then run again.",
            )
        return found

    # --- the cursor, and what is landed ------------------------------------------------------------------------------

    async def _commit(self, pages: Sequence[Page[Person] | Found[Person]], state: dict[str, Any]) -> None:
        read = state["read"]
        rows = [self._row(record, read + number) for number, record in enumerate(_records(pages))]
        state["read"] = read + len(rows)
        await asyncio.to_thread(self._land, rows, state)
        self.scope.report("attio people", state["read"], None)

    def _row(self, record: Person | RejectedRecord, number: int) -> Mapping[str, Any]:
        row: dict[str, Any] = {
            "partition_key": self.scope.partition_key,
            "rejected": None,
            "addresses": [],
            "user_ids": [],
        }
        if isinstance(record, RejectedRecord):
            return {**row, "record_id": record.record_id or f"unreadable {number}", "rejected": record.reason}
        return {
            **row,
            "record_id": record.record_id,
            "addresses": [storable_text(each) for each in record.addresses],
            "user_ids": [storable_text(each) for each in record.user_ids],
        }

    def _circumstances(self) -> tuple[int, int | None]:
        """How many rows of the run's plan are journalled as done, and which reading of Clerk's users is landed."""
        with self.scope.engine.connect() as connection:
            users = connection.scalar(
                select(func.max(clerk_user.c.sweep)).where(clerk_user.c.partition_key == self.scope.partition_key)
            )
            return executed_count(connection, self.scope.run_id), users

    def _landed(self) -> int:
        with self.scope.engine.connect() as connection:
            mine = attio_person.c.partition_key == self.scope.partition_key
            return connection.scalar(select(func.count()).select_from(attio_person).where(mine)) or 0

    def _count_keys(self) -> tuple[int, int]:
        """How many addresses and ids the landed users have; addresses that are none are few and count as well."""
        statement = text(
            "SELECT count(DISTINCT lower(btrim(a.address))), count(DISTINCT u.user_id) FROM backfill.clerk_user AS u"
            " LEFT JOIN LATERAL (SELECT u.primary_email UNION ALL SELECT jsonb_array_elements_text(u.verified_emails))"
            " AS a(address) ON true WHERE u.partition_key = :key AND u.rejected IS NULL"
        )
        with self.scope.engine.connect() as connection:
            addresses, user_ids = connection.execute(statement, {"key": self.scope.partition_key}).one()
        return addresses, user_ids

    def _read(self) -> dict[str, Any] | None:
        with self.scope.engine.connect() as connection:
            return read_cursor(
                connection,
                backfill=self.scope.backfill,
                partition_key=self.scope.partition_key,
                stream=self.stream,
            )

    def _begin(self, state: Mapping[str, Any]) -> None:
        with self.scope.engine.begin() as connection:
            connection.execute(delete(attio_person).where(attio_person.c.partition_key == self.scope.partition_key))
            self._write(connection, state)

    def _land(self, rows: Sequence[Mapping[str, Any]], state: Mapping[str, Any]) -> None:
        with self.scope.engine.begin() as connection:
            land_rows(connection, attio_person, rows)
            self._write(connection, state)

    def _write(self, connection: Connection, state: Mapping[str, Any]) -> None:
        write_cursor(
            connection,
            backfill=self.scope.backfill,
            partition_key=self.scope.partition_key,
            stream=self.stream,
            position=state,
        )


@dataclass(frozen=True, kw_only=True)
class _Keys:
    """What people could be looked up by: the users' addresses, and their ids."""

    addresses: Sequence[str]
    user_ids: Sequence[str]

    @property
    def count(self) -> int:
        return len(self.addresses) + len(self.user_ids)

    def group(self, place: int, size: int) -> tuple[bool, Sequence[str]]:
        """The next keys from a place on, all of one kind, and whether they are addresses."""
        border = len(self.addresses)
        if place < border:
            return True, self.addresses[place : min(place + size, border)]
        return False, self.user_ids[place - border : place - border + size]

    @classmethod
    def landed(cls, scope: Scope) -> _Keys:
        """Those of the users that are landed. Banned ones too: they have people, and options may include them."""
        addresses: set[str] = set()
        user_ids: list[str] = []
        for frame in user_frames(scope):
            columns = ("user_id", "rejected", "primary_email", "verified_emails")
            for user_id, rejected, primary, verified in zip(*(frame[name] for name in columns), strict=True):
                if rejected is not None:
                    continue
                user_ids.append(user_id)
                spellings = (primary_address(primary, verified), *verified)
                addresses.update(key for each in spellings if (key := normalise_email(each)) is not None)
        return cls(addresses=sorted(addresses), user_ids=sorted(user_ids))


# --- frames of what is landed ----------------------------------------------------------------------------------------


def user_frames(scope: Scope) -> Iterator[pd.DataFrame]:
    """Clerk's users with `USER_COLUMNS`, sorted by id."""
    statement = sql.SQL(
        "SELECT user_id, rejected, primary_email, verified_emails::text AS verified_emails, first_name, last_name,"
        ' banned FROM backfill.clerk_user WHERE partition_key = %s ORDER BY user_id COLLATE "C"'
    )
    return _frames(scope, statement, lists=("verified_emails",))


def person_frames(scope: Scope) -> Iterator[pd.DataFrame]:
    """Attio's people with `PERSON_COLUMNS`, those that could be read."""
    statement = sql.SQL(
        "SELECT record_id, addresses::text AS addresses, user_ids::text AS user_ids"
        " FROM backfill.attio_person WHERE partition_key = %s AND rejected IS NULL"
    )
    return _frames(scope, statement, lists=("addresses", "user_ids"))


def unreadable_people(connection: Connection, partition_key: str) -> int:
    """How many of the landed people could not be read."""
    statement = select(func.count()).where(
        attio_person.c.partition_key == partition_key, attio_person.c.rejected.is_not(None)
    )
    return connection.scalar(statement) or 0


def _frames(scope: Scope, statement: sql.SQL, *, lists: Sequence[str]) -> Iterator[pd.DataFrame]:
    with scope.engine.begin() as connection:
        columns, blocks = stream_columns(connection, statement, [scope.partition_key])
        for block in blocks:
            frame = pd.DataFrame(block, columns=columns, dtype=object)
            for name in lists:
                # All of a block at once: a call for each of a million would be a second.
                frame[name] = pd.Series(orjson.loads(f"[{','.join(frame[name])}]"), dtype=object)
            yield frame


def _records(pages: Sequence[Page[Person] | Found[Person]]) -> Iterator[Person | RejectedRecord]:
    return chain.from_iterable((*page.records, *page.rejected) for page in pages)


async def _all(works: Iterator[Awaitable[Any]]) -> list[Any]:
    """Wait for all; where one fails the others are cancelled and its own error is raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
