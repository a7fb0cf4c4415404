"""What a list request of the fake Clerk selects: limits, order, filters and the cursor.

Belongs here: reading the query and choosing records. Does not belong here: HTTP, JSON of rows.

Sources: clerk/openapi-specs, bapi/2026-05-12.yml; that a `limit` above 500 gives 10 rows is clerk/clerk-sdk-python#166,
that `10.0` is no number clerk/clerk-sdk-python#8.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence

from starlette.datastructures import QueryParams

from backfill_pipelines.sandbox import clerk_rows as rows
from backfill_pipelines.sandbox.clerk_data import ClerkOrganization, ClerkUser
from backfill_pipelines.sandbox.clerk_state import ClerkInstanceState

DEFAULT_LIMIT, LARGEST_LIMIT = 10, 500
LARGEST_FILTER = 100
"""Values of one filter that are looked at."""

_CREATION = frozenset({"created_at", "+created_at", "-created_at"})
_PAGING = frozenset({"limit", "offset", "order_by", "starting_after", "__clerk_api_version"})
_USER_ORDERS: Mapping[str, Callable[[ClerkUser], str | int | None]] = {
    "updated_at": lambda user: user.last_sign_in_at or user.created_at,
    "email_address": lambda user: next((each.address for each in user.emails), None),
    "first_name": lambda user: user.first_name,
    "last_name": lambda user: user.last_name,
    "username": lambda user: user.username,
    "last_active_at": lambda user: user.last_active_at,
    "last_sign_in_at": lambda user: user.last_sign_in_at,
}
_USER_TIMES: Mapping[str, Callable[[ClerkUser], int | None]] = {
    "created_at": lambda user: user.created_at,
    "last_active_at": lambda user: user.last_active_at,
    "last_sign_in_at": lambda user: user.last_sign_in_at,
}


def page_of(query: QueryParams) -> tuple[int, int]:
    """Limit and offset of a request. Raises RefusalError where one is no whole number or too small."""
    limit = _number(query, "limit", default=DEFAULT_LIMIT, smallest=1)
    offset = _number(query, "offset", default=0, smallest=0)
    return (limit if limit <= LARGEST_LIMIT else DEFAULT_LIMIT), offset


def chosen_users(state: ClerkInstanceState, query: QueryParams) -> Sequence[int]:
    """The numbers of all users a request means, in its order. Raises RefusalError."""
    numbers = _filtered(state, query)
    order_by = _order_by(query)
    if order_by in _CREATION:
        return numbers[::-1] if order_by.startswith("-") else numbers
    key = _USER_ORDERS.get(order_by.lstrip("+-"))
    if key is None:
        raise rows.value_invalid("order_by", order_by)
    keys = {number: key(state.user(number)) for number in numbers}
    known = sorted((each for each in numbers if keys[each] is not None), key=lambda each: keys[each])  # type: ignore[arg-type, return-value] # all of one kind
    unknown = [each for each in numbers if keys[each] is None]
    return [*known[::-1], *unknown] if order_by.startswith("-") else [*known, *unknown]


def cursor_place(
    state: ClerkInstanceState, numbers: Sequence[int], query: QueryParams, *, after: str, offset: int
) -> int:
    """How many of the chosen users lie before the first one after a cursor. Raises RefusalError."""
    order_by = _order_by(query)
    if order_by not in _CREATION:
        raise rows.value_invalid("order_by", order_by)
    number = state.seeded.user_number(after)
    if offset or number is None:
        raise rows.value_invalid("starting_after", after)
    if not state.has_user(number):
        if state.seeded.deleted_cursor == "refused":
            raise rows.value_invalid("starting_after", after)
        if state.seeded.deleted_cursor == "empty":
            return len(numbers)
    if order_by.startswith("-"):
        return bisect_right(numbers, -number, key=lambda each: -each)
    return bisect_right(numbers, number)


def ordered_organizations(state: ClerkInstanceState, query: QueryParams) -> Sequence[ClerkOrganization]:
    """All organizations in the order of a request. Raises RefusalError."""
    for name in ("query", "user_id", "organization_id", "include_missing_member_with_elevated_permissions"):
        if name in query:
            raise rows.not_in_the_sandbox(name)
    order_by = _order_by(query)
    listed = state.organizations
    match order_by.lstrip("+-"):
        case "created_at":
            pass
        case "name":
            listed = sorted(listed, key=lambda each: each.name)
        case "members_count":
            listed = sorted(listed, key=lambda each: state.members[each.number])
        case _:
            raise rows.value_invalid("order_by", order_by)
    return listed[::-1] if order_by.startswith("-") else listed


def _filtered(state: ClerkInstanceState, query: QueryParams) -> list[int]:
    tests: list[Callable[[ClerkUser], bool]] = []
    for name in query:
        if name in _PAGING:
            continue
        field, _, side = name.rpartition("_")
        values = frozenset(query.getlist(name)[:LARGEST_FILTER])
        if name == "user_id":
            tests.append(lambda user, ids=values: user.id in ids)  # type: ignore[misc] # bound now
        elif name == "email_address":
            wanted = frozenset(value.lower() for value in values)
            tests.append(lambda user, wanted=wanted: any(each.address.lower() in wanted for each in user.emails))  # type: ignore[misc] # bound now
        elif name == "banned":
            tests.append(lambda user, banned=("true" in values): user.banned is banned)  # type: ignore[misc] # bound now
        elif field in _USER_TIMES and side in {"before", "after"}:
            limit = _number(query, name, default=0, smallest=0)
            tests.append(_time_test(_USER_TIMES[field], limit, later=side == "after"))
        else:
            raise rows.not_in_the_sandbox(name)
    if not tests:
        return state.users
    return [number for number in state.users if all(test(state.user(number)) for test in tests)]


def _time_test(read: Callable[[ClerkUser], int | None], limit: int, *, later: bool) -> Callable[[ClerkUser], bool]:
    def holds(user: ClerkUser) -> bool:
        moment = read(user)
        return moment is not None and (moment > limit if later else moment < limit)

    return holds


def _order_by(query: QueryParams) -> str:
    """Only the first one counts; newest first where there is none."""
    return query.getlist("order_by")[0] if "order_by" in query else "-created_at"


def _number(query: QueryParams, name: str, *, default: int, smallest: int) -> int:
    stated = query.get(name)
    if stated is None:
        return default
    if not stated.isascii() or not stated.isdecimal() or int(stated) < smallest:
        raise rows.value_invalid(name, stated)
    return int(stated)


__all__ = ["chosen_users", "cursor_place", "ordered_organizations", "page_of"]
