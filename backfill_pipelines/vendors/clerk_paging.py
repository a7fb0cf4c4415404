"""Walking through Clerk's lists while rows are created and deleted, so that no row is missed.

Belongs here: where a walk stands, what proves that a page follows the one before, and what is done where nothing does.
Does not belong here: paths, parameters and the shapes of records (`clerk.py`, `clerk_records.py`).

Every page overlaps the one before by its last row, and counts only if it proves so: a page by cursor begins with that
row, and a page by offset holds at least one of the rows at that end (the *witnesses*). Where a deletion has moved rows
to smaller offsets, between two pages or while the walk was interrupted, the proof fails, and the walk steps back until
it succeeds. New rows come last in the order of creation. So a row that exists throughout is on some page, whatever is
deleted meanwhile; rows may come twice, and the caller keeps one of each id. What a walk cannot prove is that the vendor
keeps rows with the same `created_at` in the same order from one page by offset to the next: compare the distinct ids
with the vendor's total.

Sources: a cursor is the id of the last row, needs the order of `created_at`, and a page that is not full is the last
one (clerk/openapi-specs, bapi/2026-05-12.yml). What follows a cursor whose row was deleted is not documented: the walk
takes no page for granted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, Self

from backfill_pipelines.errors import DataError, TransientError
from backfill_pipelines.vendors.transport import NotFoundError, RejectedRequestError

PAGE_ROWS = 500
"""The most a page holds. Never more: the vendor answers 501 with 10 rows and no error (clerk/clerk-sdk-python#166)."""
STRIDE = PAGE_ROWS - 1
"""From one offset to the next: pages overlap by one row."""
WITNESSES = 20
"""Rows at the end of a page of which one must survive until the next one is read; else the walk begins again."""
STEPS_BACK = (50, PAGE_ROWS - WITNESSES)
"""How far a walk goes back, at first and then at once: little, because mostly little was deleted and the page is to
bring new rows; then as far as it can without stepping over the witnesses."""
NEW_BEGINNINGS = 3
"""How often a walk may find none of its witnesses and begin again before the list is called unstable."""
GROWTH = 20
"""By how many rows a total may exceed what its own page shows: the vendor counts and selects at two moments."""

Position = Mapping[str, Any]
"""Where a walk goes on, as plain JSON: to be stored with the rows before it and handed back as it is."""
CursorState = Literal["untried", "works", "refused"]


@dataclass(frozen=True, slots=True)
class Listing:
    """The rows of one answer, and the vendor's total where it states one."""

    rows: Sequence[Any]
    total: int | None = None


class ListReader(Protocol):
    """Reads `PAGE_ROWS` rows in the order of creation, from an offset or after the row with an id."""

    def __call__(self, *, offset: int = 0, after: str | None = None) -> Coroutine[Any, Any, Listing]:
        """One answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a walk stands: after the page whose last rows are the witnesses.

    `offset` is where the last of them was, or has been before deletions; the next page begins there. `until` are the
    rows at whose end another lane begins; empty where the walk goes to the end of the list.
    """

    offset: int = 0
    witnesses: tuple[str, ...] = ()
    cursor: CursorState = "untried"
    until: tuple[str, ...] = ()

    @classmethod
    def from_position(cls, position: Position | None) -> Self:
        """The place a position stands for. Raises `DataError("invalid_position")`."""
        if position is None:
            return cls()
        offset, cursor = position.get("offset"), position.get("cursor")
        witnesses, until = _texts(position.get("witnesses")), _texts(position.get("until"))
        if (
            not isinstance(offset, int)
            or offset < 0
            or cursor not in ("untried", "works", "refused")
            or witnesses is None
            or until is None
        ):
            raise DataError(
                "invalid_position",
                "The stored position of a Clerk extraction cannot be read; run again with --fresh to begin anew.",
            )
        return cls(offset=offset, witnesses=witnesses, cursor=cursor, until=until)

    def position(self) -> Position:
        """This place as plain JSON."""
        return {
            "offset": self.offset,
            "witnesses": list(self.witnesses),
            "cursor": self.cursor,
            "until": list(self.until),
        }


@dataclass(frozen=True, slots=True)
class Step:
    """One page of a walk, and the place after it; None at the end."""

    listing: Listing
    following: Place | None


async def walk_by_cursor(read: ListReader, place: Place) -> AsyncGenerator[Step, None]:
    """Yield the pages from a place on, each asked for by the row before its first one.

    Only a page itself tells the next cursor, so one is asked for at a time: the next one while this one is worked on.
    An instance that refuses or ignores cursors is walked by offset from then on, and so is the one page whose cursor
    was deleted.
    """
    beginnings = 0
    under_way = asyncio.create_task(_read_next(read, place))
    try:
        while True:
            listing, place = await under_way
            beginnings = _counted_beginnings(beginnings, place)
            following = _after(listing, place)
            if following is not None:
                under_way = asyncio.create_task(_read_next(read, following))
            yield Step(listing, following)
            if following is None:
                return
    finally:
        await _end([under_way])


async def walk_by_offset(read: ListReader, place: Place, *, ahead: int) -> AsyncGenerator[Step, None]:
    """Yield the pages from a place on, in order, with up to `ahead` of them asked for at any time."""
    beginnings = 0
    under_way = {place.offset: asyncio.create_task(read(offset=place.offset))}
    try:
        while True:
            listing = await under_way.pop(place.offset)
            if not _joins(listing, place):
                # What was asked for ahead lies at offsets that the list has moved away from.
                await _end(under_way.values())
                under_way.clear()
                listing, place = await _read_joined(read, place, found=listing)
            beginnings = _counted_beginnings(beginnings, place)
            following = _after(listing, place)
            if following is not None:
                for offset in _offsets_ahead(following, listing.total, ahead):
                    if offset not in under_way:
                        under_way[offset] = asyncio.create_task(read(offset=offset))
            yield Step(listing, following)
            if following is None:
                return
            place = following
    finally:
        await _end(under_way.values())


def lane_places(probes: Sequence[tuple[int, Listing]]) -> list[Place]:
    """The beginnings of several walks that together go through one list, given rows at offsets inside it.

    Each walk but the first begins behind the rows of a probe, and the one before it ends there.
    """
    borders = [(offset, ids) for offset, listing in probes if (ids := _ids(listing.rows)[:WITNESSES])]
    starts = [Place(), *(Place(offset=offset + len(ids) - 1, witnesses=ids) for offset, ids in borders)]
    ends = [*(ids for _, ids in borders), ()]
    return [replace(start, until=end) for start, end in zip(starts, ends, strict=True)]


async def _read_next(read: ListReader, place: Place) -> tuple[Listing, Place]:
    """The page that follows what was read, by cursor if that works, and the place that it begins at."""
    listing = await _read_after(read, place)
    if listing is not None:
        return listing, replace(place, cursor="works")
    if place.witnesses and place.cursor == "untried":
        place = replace(place, cursor="refused")
    return await _read_joined(read, place)


async def _read_after(read: ListReader, place: Place) -> Listing | None:
    """The page after the row before the last one, if that proves to be what it is: it begins with the last one."""
    if place.cursor == "refused" or len(place.witnesses) < 2:  # noqa: PLR2004
        return None
    try:
        listing = await read(after=place.witnesses[-2])
    except (RejectedRequestError, NotFoundError):
        return None
    ids = _ids(listing.rows[:1])
    return listing if ids == place.witnesses[-1:] else None


async def _read_joined(read: ListReader, place: Place, *, found: Listing | None = None) -> tuple[Listing, Place]:
    """A page by offset that follows what was read, stepping back as far as need be, and the place that it begins at.

    `found` is the page at the place itself, where it was read already.
    """
    listing = await read(offset=place.offset) if found is None else found
    first, then = STEPS_BACK
    step = first
    while not _joins(listing, place):
        place = replace(place, offset=max(0, place.offset - step))
        step = then
        listing = await read(offset=place.offset)
    return listing, place


def _joins(listing: Listing, place: Place) -> bool:
    """Whether nothing can lie between what was read and this page: they share a row, or it begins with the first."""
    return place.offset == 0 or not set(place.witnesses).isdisjoint(_ids(listing.rows))


def _offsets_ahead(place: Place, total: int | None, ahead: int) -> list[int]:
    """Where the next pages begin, as far as the list goes."""
    offsets = range(place.offset, place.offset + ahead * STRIDE, STRIDE)
    return [offset for offset in offsets if offset == place.offset or (total is not None and offset + 1 < total)]


def _after(listing: Listing, place: Place) -> Place | None:
    """The place after a page that begins at `place`; None where the page is the last one."""
    rows = listing.rows
    _check_end(listing, place)
    if len(rows) < PAGE_ROWS or not set(place.until).isdisjoint(_ids(rows[: len(rows) - WITNESSES])):
        return None
    witnesses = _ids(rows[-WITNESSES:])
    if not witnesses:
        raise TransientError(
            "malformed_response",
            "Clerk's answer to a list holds no row with an id, so nothing tells where the next page begins.",
        )
    return replace(place, offset=place.offset + len(rows) - 1, witnesses=witnesses)


def _check_end(listing: Listing, place: Place) -> None:
    """A page is not full although the vendor's own total says that there is more: it limits pages otherwise."""
    seen = place.offset + len(listing.rows)
    if listing.total is not None and len(listing.rows) < PAGE_ROWS and listing.total > seen + GROWTH:
        raise TransientError(
            "malformed_response",
            f"Clerk's answer to a list holds {len(listing.rows)} rows where its own total says that there are more.",
        )


def _counted_beginnings(beginnings: int, place: Place) -> int:
    if place.offset > 0 or not place.witnesses:
        return beginnings
    if beginnings >= NEW_BEGINNINGS:
        raise TransientError(
            "unstable_source",
            "Clerk's list kept losing the rows that tell where the next page begins; run again at a quieter time.",
        )
    return beginnings + 1


def _ids(rows: Sequence[Any]) -> tuple[str, ...]:
    """The ids of rows, of those that have one."""
    found = (row.get("id") for row in rows if isinstance(row, dict))
    return tuple(each for each in found if isinstance(each, str) and each)


def _texts(value: object) -> tuple[str, ...] | None:
    texts = tuple(value) if isinstance(value, list) else (None,)
    return texts if all(isinstance(each, str) for each in texts) else None


async def _end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel what nobody waits for any more, and see to the end of it."""
    ending = list(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)


__all__ = [
    "PAGE_ROWS",
    "WITNESSES",
    "ListReader",
    "Listing",
    "Place",
    "Position",
    "Step",
    "lane_places",
    "walk_by_cursor",
    "walk_by_offset",
]
