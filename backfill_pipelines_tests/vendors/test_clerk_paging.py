"""Walks through a list that changes while it is read: whoever stays in it is found.

The list is in memory and the pages are small, so that thousands of histories can be tried; the same walks over a real
socket are in `test_clerk_sandbox.py`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backfill_pipelines.errors import DataError, TransientError
from backfill_pipelines.vendors import clerk_paging
from backfill_pipelines.vendors.clerk_paging import Listing, Place, Step, lane_places, walk_by_cursor, walk_by_offset
from backfill_pipelines.vendors.transport import NotFoundError, RejectedRequestError

SMALL_PAGE = 10
CursorAnswer = Literal["supported", "refused", "ignored"]
DeletedAnswer = Literal["resolved", "refused", "not found", "empty", "from the start"]


@contextmanager
def small_pages() -> Iterator[None]:
    with patch.multiple(
        clerk_paging, PAGE_ROWS=SMALL_PAGE, STRIDE=SMALL_PAGE - 1, WITNESSES=3, STEPS_BACK=(4, 7), GROWTH=2
    ):
        yield


@dataclass(frozen=True)
class Change:
    """What happens before one request is answered: rows at these places (modulo the length) go, so many come, at the
    end or at a place; and how long the answer takes compared with others that are under way."""

    deleted: tuple[int, ...] = ()
    created: int = 0
    created_at_place: int | None = None
    turns: int = 0


@dataclass
class MovingList:
    """The vendor's side: rows in the order of creation."""

    rows: list[float]
    changes: list[Change] = field(default_factory=list)
    cursor: CursorAnswer = "supported"
    deleted_cursor: DeletedAnswer = "resolved"
    states_total: bool = True
    requests: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.always = set(self.rows)
        self._next = float(len(self.rows))

    async def read(self, *, offset: int = 0, after: str | None = None) -> Listing:
        change = self.changes[len(self.requests)] if len(self.requests) < len(self.changes) else Change()
        self.requests.append({"offset": offset, "after": after})
        for _ in range(change.turns):
            await asyncio.sleep(0)
        self._apply(change)
        start = offset if after is None or self.cursor == "ignored" else self._place_after(after)
        found = self.rows[start : start + clerk_paging.PAGE_ROWS]
        return Listing([{"id": name(each)} for each in found], len(self.rows) if self.states_total else None)

    def _apply(self, change: Change) -> None:
        for place in change.deleted:
            if self.rows:
                self.always.discard(self.rows.pop(place % len(self.rows)))
        for _ in range(change.created):
            if change.created_at_place is None or len(self.rows) < 2:
                self._next += 1
                self.rows.append(self._next)
            else:
                place = 1 + change.created_at_place % (len(self.rows) - 1)
                self.rows.insert(place, (self.rows[place - 1] + self.rows[place]) / 2)

    def _place_after(self, after: str) -> int:
        if self.cursor == "refused":
            raise RejectedRequestError(vendor="Clerk", status=422)
        row = float(after.removeprefix("row_"))
        if row not in self.rows:
            if self.deleted_cursor == "refused":
                raise RejectedRequestError(vendor="Clerk", status=422)
            if self.deleted_cursor == "not found":
                raise NotFoundError(vendor="Clerk", status=404)
            if self.deleted_cursor == "empty":
                return len(self.rows)
            if self.deleted_cursor == "from the start":
                return 0
        return sum(each <= row for each in self.rows)


def name(row: float) -> str:
    return f"row_{row!r}"


def ids_of(listing: Listing) -> list[str]:
    return [row["id"] for row in listing.rows]


Walk = Callable[[MovingList, Place], AsyncGenerator[Step, None]]


def by_cursor(moving: MovingList, place: Place) -> AsyncGenerator[Step, None]:
    return walk_by_cursor(moving.read, place)


def by_offset(moving: MovingList, place: Place) -> AsyncGenerator[Step, None]:
    return walk_by_offset(moving.read, place, ahead=3)


async def collect(
    walk: Walk, moving: MovingList, place: Place | None = None, *, crash_after: tuple[int, ...] = ()
) -> list[str]:
    """All ids of a walk that is left after so many pages, several times, and goes on from the stored position."""
    seen: list[str] = []
    following: Place | None = place or Place()
    for pages in (*crash_after, None):
        if following is None:
            break
        following = Place.from_position(json.loads(json.dumps(following.position())))
        async with aclosing(walk(moving, following)) as steps:
            number = 0
            async for step in steps:
                seen += ids_of(step.listing)
                following = step.following
                number += 1
                if number == pages:
                    break
    return seen


gentle = st.builds(
    Change,
    deleted=st.lists(st.integers(0, 200), max_size=2).map(tuple),
    created=st.integers(0, 2),
    turns=st.integers(0, 4),
)
violent = st.builds(
    Change,
    deleted=st.lists(st.integers(0, 200), max_size=30).map(tuple),
    created=st.integers(0, 12),
    created_at_place=st.none() | st.integers(0, 200),
    turns=st.integers(0, 4),
)
walks = st.sampled_from([by_cursor, by_offset])
crashes = st.lists(st.integers(1, 4), max_size=3).map(tuple)
cursors = st.sampled_from(["supported", "refused", "ignored"])
deleted_cursors = st.sampled_from(["resolved", "refused", "not found", "empty", "from the start"])


@settings(max_examples=200, deadline=None)
@given(
    walk=walks,
    size=st.integers(0, 80),
    changes=st.lists(gentle, max_size=25),
    crash_after=crashes,
    cursor=cursors,
    deleted_cursor=deleted_cursors,
)
def test_who_stays_in_the_list_is_found_while_others_come_and_go(
    *,
    walk: Walk,
    size: int,
    changes: list[Change],
    crash_after: tuple[int, ...],
    cursor: CursorAnswer,
    deleted_cursor: DeletedAnswer,
) -> None:
    moving = MovingList([float(each) for each in range(size)], changes, cursor, deleted_cursor)
    with small_pages():
        seen = asyncio.run(collect(walk, moving, crash_after=crash_after))
    assert {name(each) for each in moving.always} <= set(seen)


@settings(max_examples=200, deadline=None)
@given(
    walk=walks,
    size=st.integers(0, 120),
    changes=st.lists(violent, max_size=25),
    crash_after=crashes,
    cursor=cursors,
    deleted_cursor=deleted_cursors,
)
def test_a_list_in_upheaval_is_read_whole_or_called_unstable(
    *,
    walk: Walk,
    size: int,
    changes: list[Change],
    crash_after: tuple[int, ...],
    cursor: CursorAnswer,
    deleted_cursor: DeletedAnswer,
) -> None:
    moving = MovingList([float(each) for each in range(size)], changes, cursor, deleted_cursor, states_total=False)
    with small_pages():
        try:
            seen = asyncio.run(collect(walk, moving, crash_after=crash_after))
        except TransientError as error:
            code = error.code
        else:
            code = "whole" if {name(each) for each in moving.always} <= set(seen) else "a row is missing"
    assert code in {"whole", "unstable_source"}


@settings(max_examples=200, deadline=None)
@given(
    size=st.integers(0, 160),
    lanes=st.integers(1, 5),
    changes=st.lists(gentle, max_size=40),
    cursor=cursors,
    deleted_cursor=deleted_cursors,
)
def test_lanes_together_find_everybody(
    size: int, lanes: int, changes: list[Change], cursor: CursorAnswer, deleted_cursor: DeletedAnswer
) -> None:
    moving = MovingList([float(each) for each in range(size)], changes, cursor, deleted_cursor)

    async def read() -> set[str]:
        offsets = [size * number // lanes for number in range(1, lanes)]
        places = lane_places([(offset, await moving.read(offset=offset)) for offset in offsets])
        found = await asyncio.gather(*(collect(by_cursor, moving, place) for place in places))
        return {each for lane in found for each in lane}

    with small_pages():
        seen = asyncio.run(read())
    assert {name(each) for each in moving.always} <= seen


# --- what it costs ----------------------------------------------------------------------------------------------------


def requests_of(walk: Walk, moving: MovingList, place: Place | None = None) -> tuple[list[str], int]:
    seen = asyncio.run(collect(walk, moving, place))
    return seen, len(moving.requests)


def quiet(size: int, **features: Any) -> MovingList:
    return MovingList([float(each) for each in range(size)], **features)


@pytest.mark.parametrize("walk", [by_cursor, by_offset])
@pytest.mark.parametrize(
    ("size", "requests"),
    [(0, 1), (1, 1), (499, 1), (500, 2), (501, 2), (999, 3), (1_000, 3), (5_489, 11), (5_490, 12), (5_491, 12)],
)
def test_a_quiet_list_takes_a_request_for_each_499_rows(walk: Walk, size: int, requests: int) -> None:
    seen, took = requests_of(walk, quiet(size))
    assert took == requests
    assert set(seen) == {name(float(each)) for each in range(size)}


def test_a_hundred_thousand_rows_take_201_requests_by_either_way() -> None:
    assert requests_of(by_cursor, quiet(100_000))[1] == 201
    assert requests_of(by_offset, quiet(100_000))[1] == 201
    assert requests_of(by_offset, quiet(150_000))[1] == 301


@pytest.mark.parametrize("cursor", ["refused", "ignored"])
def test_an_instance_without_cursors_is_asked_for_one_once(cursor: CursorAnswer) -> None:
    moving = quiet(5_000, cursor=cursor)
    seen, took = requests_of(by_cursor, moving)
    assert len(set(seen)) == 5_000
    assert [each["after"] is not None for each in moving.requests] == [False, True] + [False] * 10
    assert took == 12


@pytest.mark.parametrize("deleted_cursor", ["refused", "not found", "empty", "from the start"])
def test_a_deleted_cursor_costs_two_requests_and_the_walk_stays_with_cursors(deleted_cursor: DeletedAnswer) -> None:
    moving = quiet(3_000, deleted_cursor=deleted_cursor)
    moving.changes = [Change(), Change(), Change(deleted=(997,))]  # the row before the last one of the second page
    seen, _ = requests_of(by_cursor, moving)
    assert {name(each) for each in moving.always} <= set(seen)
    asked = ["cursor" if each["after"] else each["offset"] for each in moving.requests]
    assert asked == [0, "cursor", "cursor", 998, 948, "cursor", "cursor", "cursor", "cursor", "cursor"][: len(asked)]
    assert asked[-1] == "cursor"


@pytest.mark.parametrize("walk", [by_cursor, by_offset])
def test_a_walk_steps_back_to_where_it_was_and_not_to_the_beginning(walk: Walk) -> None:
    moving = quiet(6_000, cursor="refused")
    before = 6 if walk is by_cursor else 5  # one request more to find out that there are no cursors
    moving.changes = [Change()] * before + [Change(deleted=(0,) * 600)]
    seen, _ = requests_of(walk, moving)
    assert {name(each) for each in moving.always} <= set(seen)
    asked = [each["offset"] for each in moving.requests if not each["after"]]
    back = asked.index(2_445)
    assert asked[back : back + 4] == [2_445, 1_965, 1_485, 1_984]
    assert asked.count(0) == 1


def test_pages_are_asked_for_ahead_and_never_beyond_the_end() -> None:
    moving = quiet(2_600)

    async def read() -> list[int]:
        async with aclosing(walk_by_offset(moving.read, Place(), ahead=3)) as steps:
            return [await settled(moving) async for _ in steps]

    assert asyncio.run(read()) == [4, 5, 6, 6, 6, 6]
    assert [each["offset"] for each in moving.requests] == [0, 499, 998, 1497, 1996, 2495]


def test_a_walk_that_is_left_takes_its_requests_along() -> None:
    asked: list[int] = []

    async def hang(*, offset: int = 0, after: str | None = None) -> Listing:
        asked.append(offset)
        if offset > 0:
            await asyncio.Event().wait()
        return Listing([{"id": name(float(each))} for each in range(500)], 10_000)

    async def read() -> None:
        async with aclosing(walk_by_offset(hang, Place(), ahead=8)) as steps:
            await anext(steps)
            await asyncio.sleep(0)
            assert len(asked) == 9
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(read())


async def settled(moving: MovingList) -> int:
    """How many requests are out once the tasks have begun theirs."""
    for _ in range(3):
        await asyncio.sleep(0)
    return len(moving.requests)


# --- what cannot be trusted -------------------------------------------------------------------------------------------


def test_a_page_shorter_than_asked_for_is_no_end_where_the_total_says_otherwise() -> None:
    async def capped(*, offset: int = 0, after: str | None = None) -> Listing:
        return Listing([{"id": name(float(each))} for each in range(offset, offset + 10)], 3_000)

    async def read() -> None:
        async with aclosing(walk_by_offset(capped, Place(), ahead=2)) as steps:
            await anext(steps)

    with pytest.raises(TransientError, match="10 rows where its own total says that there are more") as caught:
        asyncio.run(read())
    assert caught.value.code == "malformed_response"


@pytest.mark.parametrize("row", [{"id": None}, {}, "text", None, {"id": 7}])
def test_a_full_page_without_ids_leads_nowhere(row: Any) -> None:
    async def nameless(*, offset: int = 0, after: str | None = None) -> Listing:
        return Listing([row] * 500)

    with pytest.raises(TransientError, match="no row with an id"):
        asyncio.run(anext(walk_by_cursor(nameless, Place())))  # type: ignore[arg-type] # an awaitable will do


def test_a_list_that_always_loses_its_witnesses_is_given_up() -> None:
    count = 0

    async def restless(*, offset: int = 0, after: str | None = None) -> Listing:
        nonlocal count
        count += 1
        return Listing([{"id": f"{count}-{each}"} for each in range(500)], 10_000)

    async def read() -> None:
        async with aclosing(walk_by_offset(restless, Place(), ahead=2)) as steps:
            async for _ in steps:
                pass

    with pytest.raises(TransientError, match="quieter time") as caught:
        asyncio.run(read())
    assert caught.value.code == "unstable_source"
    assert count < 40


@pytest.mark.parametrize(
    "position",
    [
        {},
        {"offset": -1, "witnesses": [], "cursor": "works", "until": []},
        {"offset": "0", "witnesses": [], "cursor": "works", "until": []},
        {"offset": 0, "witnesses": [7], "cursor": "works", "until": []},
        {"offset": 0, "witnesses": [], "cursor": "maybe", "until": []},
        {"offset": 0, "witnesses": [], "cursor": "works", "until": None},
    ],
)
def test_a_position_that_no_walk_has_written_is_not_guessed_at(position: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="--fresh") as caught:
        Place.from_position(position)
    assert caught.value.code == "invalid_position"
