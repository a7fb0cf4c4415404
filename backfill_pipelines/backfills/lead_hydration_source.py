"""Reading a client's GoHighLevel location with as few calls as its leads need.

Belongs here: the choice between reading all of it and looking up what is wanted, the scan, and landing what was
answered. Does not belong here: opening the location (`lead_hydration_access.py`), look-ups
(`lead_hydration_lookups.py`), what is stored (`lead_hydration_landing.py`), which contact a lead has
(`lead_hydration_matching.py`), the vendor's paths (`vendors/gohighlevel.py`).

The first page tells how many contacts there are. All are read where that takes a twentieth of the calls of single
look-ups: 100 for 50,000 contacts. Either way a contact is asked for by its id only for what a page does not tell.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from math import ceil
from typing import Any, TypeVar

from backfill_pipelines.backfills.lead_hydration_access import Access
from backfill_pipelines.backfills.lead_hydration_landing import Landing, Reading, Row
from backfill_pipelines.backfills.lead_hydration_matching import Wanted
from backfill_pipelines.engine.backfill import Scope
from backfill_pipelines.errors import DataError
from backfill_pipelines.vendors.gohighlevel import ContactPage

PAGE_ROWS = 500
LOOK_UPS_A_PAGE = 20
"""A page is worth it where it spares so many look-ups."""
RESCANS = 3
AT_ONCE = 20
"""Questions of one location that are under way at once: more than its 9 a second need at a latency of 2 s."""
SCAN_INCOMPLETE = "scan_incomplete"
MOST_FOREIGN = 1
"""One contact of another location may be a lead's mistake; two are a wrong key or a wrong location."""

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class ForeignContactsError(DataError):
    """Contacts came that are another location's."""

    def __init__(self, location_id: str, contact_ids: Iterable[str]) -> None:
        self.contact_ids = sorted(contact_ids)
        super().__init__(
            "foreign_contact",
            f"{len(self.contact_ids)} contacts that GoHighLevel location {location_id} was asked for are not its own: "
            "their locationId is another one, or missing. Nothing was written. Check location_id, token and "
            "leads.client_id of this client.",
        )


def is_scan_worth_it(total: int, look_ups: int) -> bool:
    """Whether to read all contacts of a location, by how many it has, instead of asking for what is wanted. Pure.

    One page is read in any case, so a location that is no larger is known already.
    """
    return total <= PAGE_ROWS or total / PAGE_ROWS <= look_ups / LOOK_UPS_A_PAGE


def estimated_total(page: ContactPage, *, read: int) -> int:
    """How many contacts a location has, as far as a page tells, when `read` of them were read with it. Pure.

    Where the vendor does not say: a short page looks like the last one, and behind a full one comes another.
    """
    if page.total is not None:
        return page.total
    rows = len(page.rows) + len(page.rejected) + len(page.foreign)
    return read if rows < PAGE_ROWS else read + PAGE_ROWS


class Extraction:
    """What is shared by the scan and the look-ups of one partition: asking, and landing what was answered."""

    def __init__(self, scope: Scope, access: Access, wanted: Wanted) -> None:
        self.scope, self.location, self.wanted = scope, access.location, wanted
        self.landing = Landing(scope, access.location.location_id)
        self.reading: Reading
        self._held, self._requests = access.held, access.requests
        self._requests_before = access.requests.requests
        self._calls_before = 0
        self._foreign: set[str] = set()
        self._calls_left = 0
        self._per_second = access.per_second

    async def begin(self) -> None:
        """Find out where the reading stands."""
        self.reading = await asyncio.to_thread(self.landing.begin)
        self._calls_before = self.reading.calls
        self._foreign = await asyncio.to_thread(self.landing.foreign_ids, self.reading)

    async def scan(self) -> None:
        """Read all contacts, sweep after sweep until it is complete; the first page alone where that is not worth it.

        Contacts come and go meanwhile, and the vendor's index lags: fewer distinct ids than it says there are mean that
        some were missed. What any of the sweeps has seen counts.
        """
        reading = self.reading
        while not reading.scanned:
            if not reading.swept:
                await self._sweep()
                if reading.way == "look_ups":
                    return
            reading.distinct = await asyncio.to_thread(self.landing.distinct, reading)
            complete = reading.total is None or reading.distinct >= reading.total
            if complete or reading.rescans >= RESCANS:
                reading.scanned = True
            else:
                reading.rescans, reading.sweep = reading.rescans + 1, reading.sweep + 1
                reading.position, reading.swept, reading.read = None, False, 0
            await self.commit()

    async def _sweep(self) -> None:
        reading = self.reading
        async with aclosing(self.location.scan(reading.position)) as pages:
            page = await anext(pages, None)
            while page is not None:
                self.scope.safe_point()
                rows = self.landing.contact_rows(reading, [*page.rows, *page.rejected, *page.foreign])
                self._move_behind(page)
                if reading.way is None:
                    total = estimated_total(page, read=reading.read)
                    if page.following is not None and not is_scan_worth_it(total, self.wanted.look_ups):
                        reading.way = "look_ups"
                    elif page.following is None or page.total is not None:
                        reading.way = "scan"  # else the next page tells
                del page  # else a hundred locations keep a hundred pages while they wait for the next one
                if reading.way == "look_ups":
                    await self.commit(rows)
                    return
                page = await self._landed_before_the_next(rows, pages)
                self.scope.report("contacts", reading.read, reading.total)

    @property
    def pages_left(self) -> int | None:
        """How many more calls it would take to have read everything, the last for the end; None where nobody knows."""
        total = self.reading.total
        return None if total is None else ceil(max(0, total - self.reading.read) / PAGE_ROWS) + 1

    async def _landed_before_the_next(
        self, rows: Sequence[Row], pages: AsyncGenerator[ContactPage, None]
    ) -> ContactPage | None:
        """Land a page, and return the next one: it gets its permit meanwhile, and is asked for afterwards."""
        self._held.hold()
        ahead = asyncio.ensure_future(anext(pages, None))
        try:
            await self.commit(rows)
        except BaseException:
            ahead.cancel()
            await asyncio.wait({ahead})
            raise
        finally:
            self._held.release()
        del rows
        return await ahead

    def _move_behind(self, page: ContactPage) -> None:
        reading = self.reading
        reading.position = page.following
        reading.swept = page.following is None
        reading.read += len(page.rows) + len(page.rejected) + len(page.foreign)
        reading.total = page.total if page.total is not None else reading.total
        self._calls_left = ceil(max(0, (reading.total or 0) - reading.read) / PAGE_ROWS)

    async def each(
        self,
        items: Sequence[Item],
        ask: Callable[[Item], Awaitable[Answer]],
        land: Callable[[Sequence[Answer]], Awaitable[None]],
        *,
        step: str,
    ) -> None:
        """Ask for each item, some at once, and land the answers as they come.

        Whoever has asked lands what has come so far before it asks again: what a kill loses is what was in flight.
        After an error nobody asks any more, and what is on its way is landed all the same.
        """
        waiting, answered, landing = iter(items), list[Answer](), asyncio.Lock()
        done, self._calls_left = 0, len(items)
        failures: list[Exception] = []

        async def land_answers() -> None:
            nonlocal done
            async with landing:
                batch = answered[:]
                answered.clear()
                if batch:
                    await land(batch)
                    done += len(batch)
                    self._calls_left = len(items) - done
                    self.scope.report(step, done, len(items))

        async def asker() -> None:
            try:
                for item in waiting:
                    if failures:
                        return
                    self.scope.safe_point()
                    answered.append(await ask(item))
                    await land_answers()
            except Exception as error:  # noqa: BLE001 - raised below, once the others are done
                failures.append(error)

        async with asyncio.TaskGroup() as askers:
            for _ in range(min(AT_ONCE, len(items))):
                askers.create_task(asker())
        if failures:
            raise failures[0]

    async def commit(self, contacts: Sequence[Row] = (), lookups: Sequence[Row] = ()) -> None:
        """Land rows and where the reading stands. Raises `ForeignContactsError` where they are another's."""
        self.reading.calls = self._calls_before + self._requests.requests - self._requests_before
        self._foreign |= {row["contact_id"] for row in contacts if row.get("rejected") == "foreign_contact"}
        if len(self._foreign) > MOST_FOREIGN:
            raise ForeignContactsError(self.location.location_id, self._foreign)
        writing = asyncio.ensure_future(asyncio.to_thread(self.landing.commit, self.reading, contacts, lookups))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait({writing})  # nobody is to go on, or to clean up, beside a thread that still writes
            raise

    def figures(self) -> dict[str, Any]:
        """What the reading has come to, as details of a run; `eta_seconds` is for what is left of its present step."""
        reading = self.reading
        figures: dict[str, Any] = {
            "way": reading.way,
            "calls": reading.calls,
            "contacts": reading.total,
            "eta_seconds": 0 if reading.finished else ceil(self._calls_left / self._per_second),
        }
        if reading.way == "scan":
            # They are counted at the end of a sweep.
            figures |= {"contacts_read": reading.distinct or reading.read, "scans": reading.rescans + 1}
        return figures
