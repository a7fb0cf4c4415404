"""One search of the fake GoHighLevel: what its body must hold, which contacts it selects, in which order, which page.

Belongs here: reading the body and choosing contacts. Does not belong here: filters (gohighlevel_filters.py), tokens,
JSON of rows.

Source: the vendor's page on searching contacts: `pageLimit` up to 500, `page` up to 10,000 contacts and not together
with `searchAfter`, `query` up to 75 characters; 422 without `locationId` or `pageLimit` (highlevel-api-docs#31).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from backfill_pipelines.sandbox.gohighlevel_data import GoHighLevelContact
from backfill_pipelines.sandbox.gohighlevel_filters import EVERYTHING, LONGEST_VALUE, Selection, selection_of
from backfill_pipelines.sandbox.gohighlevel_rows import bad_request, unprocessable
from backfill_pipelines.sandbox.gohighlevel_state import LocationState

LARGEST_PAGE = 500
REACH = 10_000
"""How far `page` goes; beyond it only `searchAfter` does."""
_KNOWN = frozenset({"locationId", "pageLimit", "page", "searchAfter", "filters", "sort", "query"})

SortKey = Callable[[GoHighLevelContact], str | int]
_SORTS: Mapping[str, SortKey] = {
    "dateAdded": lambda contact: contact.date_added,
    "dateUpdated": lambda contact: contact.date_added,
    "email": lambda contact: (contact.email or "").lower(),
    "firstNameLowerCase": lambda contact: (contact.first_name or "").lower(),
    "lastNameLowerCase": lambda contact: (contact.last_name or "").lower(),
    "source": lambda _contact: "",
    "dnd": lambda _contact: 0,
}


class Search(NamedTuple):
    """A search, its body checked."""

    limit: int
    page: int
    after: list[Any] | None
    selection: Selection
    sort: str
    descending: bool
    whole: bool
    """Whether nothing narrows it down."""


class Chosen(NamedTuple):
    """The contacts of a page, the cursor of each, and how many the search selects in all."""

    contacts: Sequence[GoHighLevelContact]
    cursors: Sequence[list[Any]]
    total: int


def location_of(body: object) -> str:
    """The location that a body names. Raises RefusalError."""
    if not isinstance(body, dict):
        raise bad_request("Bad Request")
    missing = [
        f"{name} must be a {kind}"
        for name, kind, present in (
            ("locationId", "string", isinstance(body.get("locationId"), str) and body["locationId"]),
            ("pageLimit", "number", _is_whole(body.get("pageLimit"))),
        )
        if not present
    ]
    if missing:
        raise unprocessable(*missing)
    return str(body["locationId"])


def read_search(body: Mapping[str, Any], state: LocationState) -> Search:
    """What a body asks for. Raises RefusalError."""
    if unknown := sorted(body.keys() - _KNOWN):
        raise unprocessable(*(f"property {name} should not exist" for name in unknown))
    limit, page, after = body["pageLimit"], body.get("page"), body.get("searchAfter")
    if not 1 <= limit <= LARGEST_PAGE:
        raise unprocessable(f"pageLimit must not be greater than {LARGEST_PAGE}")
    if after is not None and page is not None:
        raise bad_request("page cannot be used together with searchAfter")
    if page is not None and (not _is_whole(page) or page < 1 or page * limit > REACH):
        raise bad_request(f"page * pageLimit must be at most {REACH}")
    if after is not None and not isinstance(after, list):
        raise unprocessable("searchAfter must be an array")
    filters = body.get("filters", [])
    selection = selection_of(filters, state)
    query = body.get("query")
    if query is not None:
        if not isinstance(query, str) or len(query) > LONGEST_VALUE:
            raise unprocessable(f"query must be shorter than or equal to {LONGEST_VALUE} characters")
        selection = _matching(query.lower(), selection)
    sort, descending = _sort(body.get("sort", []))
    whole = selection is EVERYTHING
    return Search(limit, page or 1, after or None, selection, sort, descending, whole)


def choose(search: Search, state: LocationState, *, back: int = 0) -> Chosen:
    """The page of a search; with `back` it begins so many rows earlier. Raises RefusalError for a foreign cursor."""
    key = _SORTS[search.sort]
    if search.whole and search.sort in ("dateAdded", "dateUpdated"):
        contacts, total = _page_of_all(search, state, back=back), state.searchable_count()
    else:
        selected = _selected(search, state)
        # The number breaks ties, as the vendor's cursor does with the id.
        selected.sort(key=lambda contact: (key(contact), contact.number), reverse=search.descending)
        start = max(0, _place_after(search, state, selected, key) - back)
        contacts, total = selected[start : start + search.limit], len(selected)
    return Chosen(contacts, [[key(contact), contact.id] for contact in contacts], total)


def _page_of_all(search: Search, state: LocationState, *, back: int) -> list[GoHighLevelContact]:
    if search.after is not None:
        step = -1 if search.descending else 1
        first = _cursor_number(search.after, state) + step * (1 - back)
        numbers = state.searchable(first, descending=search.descending)
    else:
        numbers = state.searchable(state.end if search.descending else 0, descending=search.descending)
        numbers = islice(numbers, (search.page - 1) * search.limit, None)
    return [state.contact(number) for number in islice(numbers, search.limit)]


def _selected(search: Search, state: LocationState) -> list[GoHighLevelContact]:
    told = search.selection.numbers
    numbers = state.searchable() if told is None else (number for number in sorted(told) if state.shows(number))
    return [contact for contact in map(state.contact, numbers) if search.selection.test(contact)]


def _place_after(search: Search, state: LocationState, selected: Sequence[GoHighLevelContact], key: SortKey) -> int:
    if search.after is None:
        return (search.page - 1) * search.limit
    last = state.contact(_cursor_number(search.after, state))
    behind = (key(last), last.number)
    if search.descending:
        return sum((key(contact), contact.number) >= behind for contact in selected)
    return sum((key(contact), contact.number) <= behind for contact in selected)


def _cursor_number(after: Sequence[Any], state: LocationState) -> int:
    """The contact of a cursor, which may be gone meanwhile."""
    number = state.number_of(after[1]) if len(after) == 2 and isinstance(after[1], str) else None  # noqa: PLR2004
    if number is None:
        raise bad_request("invalid searchAfter")
    return number


def _matching(query: str, selection: Selection) -> Selection:
    def test(contact: GoHighLevelContact) -> bool:
        texts = (contact.first_name, contact.last_name, contact.email, contact.phone, contact.company_name)
        return selection.test(contact) and any(query in text.lower() for text in texts if text)

    return Selection(test, selection.numbers)


def _sort(sorts: object) -> tuple[str, bool]:
    """Field and whether it descends; newest first where a body names none. One is enough for the sandbox."""
    if sorts == []:
        return "dateAdded", True
    first = sorts[0] if isinstance(sorts, list) and len(sorts) == 1 else None
    field = first.get("field") if isinstance(first, dict) else None
    if not isinstance(first, dict) or field not in _SORTS or first.get("direction") not in ("asc", "desc"):
        raise bad_request("invalid sort")
    return str(field), first["direction"] == "desc"


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


__all__ = ["LARGEST_PAGE", "REACH", "Chosen", "Search", "choose", "location_of", "read_search"]
