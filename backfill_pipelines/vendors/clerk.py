"""Clerk's Backend API: all users, organizations and memberships of an instance, in pages that can be resumed.

Belongs here: the vendor's paths, parameters, quota and key. Does not belong here: how a walk through a list is proven
to be gapless (`clerk_paging.py`), the shapes of records (`clerk_records.py`), what is done with them (the backfills).

Sources: clerk/openapi-specs, bapi/2026-05-12.yml; clerk.com/docs/guides/how-clerk-works/system-limits, as of 2026-11.

A list of N rows takes ceil(N / 499) requests and sometimes one more: the pages overlap by a row. Users by cursor come
one page after the other, which `user_lanes` shortens; the other lists are asked for ahead. All can be read at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import httpx
from pydantic import SecretStr

from backfill_pipelines.errors import ConfigurationError, TransientError
from backfill_pipelines.vendors.clerk_paging import (
    PAGE_ROWS,
    WITNESSES,
    Listing,
    ListReader,
    Place,
    Position,
    Step,
    lane_places,
    walk_by_cursor,
    walk_by_offset,
)
from backfill_pipelines.vendors.clerk_records import (
    EmailAddress,
    Membership,
    Organization,
    RejectedRow,
    User,
    read_membership,
    read_organization,
    read_user,
)
from backfill_pipelines.vendors.clock import Clock
from backfill_pipelines.vendors.quota import Quota
from backfill_pipelines.vendors.quota_store import QuotaStore
from backfill_pipelines.vendors.transport import ApiClient, ForbiddenError, RetryBudget, RetryPolicy

VENDOR = "clerk"
API_VERSION = "2026-05-12"
"""What is answered to a request that names no version is not documented."""
WINDOW_SECONDS = 10.0
LIVE_REQUESTS, TEST_REQUESTS = 1_000, 100
"""Requests in a window, by whether the key is one of production."""
LIVE_RESERVE = 0.2
"""The share of an instance's requests that is left to the product itself, which signs people in with the same key."""
AHEAD = 4
SMALLEST_LANE = 4 * PAGE_ROWS
"""A lane costs up to two requests more: below so many users it is not worth them."""

Row = TypeVar("Row", User, Organization, Membership)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[Row]):
    """One page of a list.

    `following` goes on behind this page, also in another process: store it in the transaction that stores the rows.
    None: the list is at its end, and is not the None that a list begins with. `total` is what the vendor says the list
    holds; None where it says nothing (users).
    """

    rows: Sequence[Row]
    rejected: Sequence[RejectedRow]
    following: Position | None
    total: int | None


class Clerk:
    """One instance. Whoever leaves a list before its end closes it (`contextlib.aclosing`): requests are under way."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    async def count_users(self) -> int:
        """How many users there are. The cheapest request that shows that the key is accepted (`UnauthorizedError`)."""
        body = await self._api.get("/users/count")
        count = _count(body)
        if count is None:
            raise _malformed("/users/count", "holds no total_count")
        return count

    async def count_organizations(self) -> int:
        """How many organizations there are. Raises `ConfigurationError("organizations_unavailable")` where the instance
        has none because the feature is off, or the key may not read them."""
        listing = await self._envelope("/organizations", {"limit": 1})
        return listing.total or 0

    def user_pages(self, position: Position | None = None) -> AsyncGenerator[Page[User], None]:
        """All users from a position on, oldest first, 500 a page; the next one is asked for while one is worked on.

        By cursor; by offset on an instance that refuses or ignores cursors, or where the cursor's own user is deleted.
        In either mode no user that exists throughout is missed when others are deleted: a page that does not share a
        row with the one before is not used, and the walk steps back until one does (see `clerk_paging.py`). Users may
        come twice: keep one of each id. What no page can show is an instance that orders users with the same
        `created_at` in another way for each page by offset, or pages shorter than it was asked for: the distinct ids,
        rejected ones included, are then fewer than `count_users`, which is worth reading everything once more. With
        users signing up and leaving meanwhile the two differ by a few without any harm.
        """
        place = Place.from_position(position)
        return _pages(lambda: walk_by_cursor(self._read_users, place), read_user)

    async def user_lanes(self, lanes: int, *, total: int) -> list[Position]:
        """Positions from which so many `user_pages` together read all users, beside one another.

        Fewer lanes than asked for where `total` (of `count_users`) is too small to be worth it. Costs a request for
        each lane but the first, and each lane may read a page more than its share. Each position can be stored before
        anything is read from it. A lane whose border users are all deleted reads on to the end of the list.
        """
        worth = max(1, min(lanes, total // SMALLEST_LANE))
        offsets = [total * number // worth for number in range(1, worth)]
        probes = [(offset, await self._read_users(offset=offset, limit=WITNESSES)) for offset in offsets]
        return [place.position() for place in lane_places(probes)]

    def organization_pages(
        self, position: Position | None = None, *, ahead: int = AHEAD
    ) -> AsyncGenerator[Page[Organization], None]:
        """All organizations from a position on, with their member counts; up to `ahead` pages are asked for at once.

        By offset, and gapless in the same way as `user_pages`.
        Raises `ConfigurationError("organizations_unavailable")`.
        """
        place = Place.from_position(position)
        read = self._reader("/organizations", {"include_members_count": "true"})
        return _pages(lambda: walk_by_offset(read, place, ahead=ahead), read_organization)

    def membership_pages(
        self, position: Position | None = None, *, ahead: int = AHEAD
    ) -> AsyncGenerator[Page[Membership], None]:
        """All memberships of all organizations from a position on; up to `ahead` pages are asked for at once.

        By offset, and gapless in the same way as `user_pages`; compare the distinct pairs with the last page's `total`.
        Raises `ConfigurationError("organizations_unavailable")`.
        """
        place = Place.from_position(position)
        read = self._reader("/organization_memberships", {})
        return _pages(lambda: walk_by_offset(read, place, ahead=ahead), read_membership)

    async def _read_users(self, *, offset: int = 0, after: str | None = None, limit: int = PAGE_ROWS) -> Listing:
        # A name without a sign is ascending; a bare "+" in a URL would be a space.
        params: dict[str, str | int] = {"limit": limit, "order_by": "created_at"}
        # The two exclude each other, and every other parameter is to stay the same.
        params |= {"offset": offset} if after is None else {"starting_after": after}
        rows = await self._api.get("/users", params=params)
        if not isinstance(rows, list):
            raise _malformed("/users", "is not a list")
        return Listing(rows)

    def _reader(self, path: str, parameters: dict[str, str | int]) -> ListReader:
        async def read(*, offset: int = 0, after: str | None = None) -> Listing:
            if after is not None:
                raise ValueError(f"{path} has no cursor")
            paging: dict[str, str | int] = {"limit": PAGE_ROWS, "offset": offset, "order_by": "created_at"}
            return await self._envelope(path, paging | parameters)

        return read

    async def _envelope(self, path: str, params: Mapping[str, str | int]) -> Listing:
        try:
            body = await self._api.get(path, params=params)
        except ForbiddenError as error:
            code = f", code {error.vendor_code}" if error.vendor_code else ""
            raise ConfigurationError(
                "organizations_unavailable",
                f"Clerk does not let the secret_key read organizations (HTTP 403{code}): switch Organizations on in "
                "the Clerk Dashboard, or check in the registry whose key it is.",
            ) from None
        rows = body.get("data") if isinstance(body, dict) else None
        total = _count(body)
        if not isinstance(rows, list) or total is None:
            raise _malformed(path, "has no data or no total_count")
        return Listing(rows, total)


async def _pages(
    walk: Callable[[], AsyncGenerator[Step, None]], read: Callable[[Any], Row | RejectedRow]
) -> AsyncGenerator[Page[Row], None]:
    async with aclosing(walk()) as steps:
        async for step in steps:
            found = [read(row) for row in step.listing.rows]
            yield Page(
                rows=[each for each in found if not isinstance(each, RejectedRow)],
                rejected=[each for each in found if isinstance(each, RejectedRow)],
                following=None if step.following is None else step.following.position(),
                total=step.listing.total,
            )


def requests_quota(
    secret_key: SecretStr,
    *,
    store: QuotaStore,
    clock: Clock,
    per_window: int | None = None,
    reserve: float | None = None,
) -> Quota:
    """The budget of a key: 1,000 requests in 10 s for one of production, 100 for another.

    The vendor counts by instance, and only a key tells which it is: two workspaces with one key share a budget. What is
    stored is a hash of the key. Raises `ConfigurationError("invalid_clerk_key")`.
    """
    live = _checked(secret_key).startswith("sk_live_")
    return Quota(
        vendor=VENDOR,
        account=account_of(secret_key),
        kind="requests",
        permits=per_window or (LIVE_REQUESTS if live else TEST_REQUESTS),
        window_seconds=WINDOW_SECONDS,
        store=store,
        clock=clock,
        reserve=reserve if reserve is not None else LIVE_RESERVE if live else 0.0,
    )


def account_of(secret_key: SecretStr) -> str:
    """A name for a key that says nothing about it: 64 bits of its hash (the key is random, so there is no guessing)."""
    return hashlib.sha256(secret_key.get_secret_value().encode()).hexdigest()[:16]


def connect(
    http: httpx.AsyncClient,
    *,
    base_url: str,
    secret_key: SecretStr,
    quota: Quota,
    retry_budget: RetryBudget,
    clock: Clock,
) -> Clerk:
    """A client for one key. Raises `ConfigurationError("invalid_clerk_key")`."""
    return Clerk(
        ApiClient(
            vendor="Clerk",
            base_url=base_url,
            authorization=SecretStr(f"Bearer {_checked(secret_key)}"),
            http=http,
            quotas=[quota],
            retry=RetryPolicy(),
            retry_budget=retry_budget,
            clock=clock,
            headers={"Clerk-API-Version": API_VERSION},
        )
    )


def _checked(secret_key: SecretStr) -> str:
    key = secret_key.get_secret_value()
    if key.startswith("sk_"):
        return key
    raise ConfigurationError(
        "invalid_clerk_key",
        "Clerk's secret_key does not begin with sk_live_ or sk_test_: set it in the registry to a secret key from "
        "API keys in the Clerk Dashboard; a publishable key (pk_…) opens nothing.",
    )


def _malformed(path: str, what: str) -> TransientError:
    return TransientError(
        "malformed_response", f"Clerk's answer to {path} {what}: check vendors.clerk.base_url in the registry."
    )


def _count(body: Any) -> int | None:
    total = body.get("total_count") if isinstance(body, dict) else None
    return total if isinstance(total, int) and not isinstance(total, bool) and total >= 0 else None


__all__ = [
    "Clerk",
    "EmailAddress",
    "Membership",
    "Organization",
    "Page",
    "Position",
    "RejectedRow",
    "User",
    "account_of",
    "connect",
    "requests_quota",
]
