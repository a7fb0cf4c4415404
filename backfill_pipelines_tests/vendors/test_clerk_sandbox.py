"""The client of Clerk against the stateful fake: whole instances over a real socket, while others change them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

import pytest
from pydantic import SecretStr

from backfill_pipelines.errors import BackfillError, ErrorCategory
from backfill_pipelines.sandbox.clerk import ClerkSandbox
from backfill_pipelines.sandbox.clerk_data import ClerkInstance, ClerkWorld, build_clerk_instance
from backfill_pipelines.sandbox.clerk_state import ClerkInstanceState
from backfill_pipelines.sandbox.server import SandboxServer
from backfill_pipelines.vendors.clerk import (
    Clerk,
    EmailAddress,
    Membership,
    Page,
    Position,
    User,
    connect,
    requests_quota,
)
from backfill_pipelines.vendors.quota_store import InMemoryQuotaStore
from backfill_pipelines.vendors.transport import RetryBudget, open_http_client
from backfill_pipelines_tests.vendors.virtual_time import InstantClock

Answer = TypeVar("Answer")
INSTANCE = build_clerk_instance(seed=5, users=2_600)


class World:
    """A running fake with one instance, and a way to ask it."""

    def __init__(self, instance: ClerkInstance, *faults: dict[str, Any]) -> None:
        self.instance = instance
        self.sandbox = ClerkSandbox(ClerkWorld((instance,)))
        self.server = SandboxServer([self.sandbox])
        self.faults = list(faults)

    @property
    def state(self) -> ClerkInstanceState:
        return self.sandbox.states["acme"]

    def ask(self, question: Callable[[Clerk], Awaitable[Answer]]) -> Answer:
        async def asked() -> Answer:
            clock = InstantClock()
            key = SecretStr(self.instance.secret_key)
            quota = requests_quota(key, store=InMemoryQuotaStore(clock), clock=clock)
            async with open_http_client() as http, quota:
                url = self.server.account_urls("clerk")["api"]
                budget = RetryBudget()
                clerk = connect(http, base_url=url, secret_key=key, quota=quota, retry_budget=budget, clock=clock)
                return await question(clerk)

        with self.server:
            self.server.add_faults(self.faults)
            return asyncio.run(asked())

    def calls(self, path: str) -> int:
        return sum(each.path == path for each in self.server.requests)


async def read_all(pages: AsyncGenerator[Page[Any], None]) -> list[Any]:
    async with aclosing(pages) as opened:
        return [row async for page in opened for row in page.rows]


async def read_with_crashes(clerk: Clerk) -> list[User]:
    """After every page, forget everything but what a database would have kept."""
    users: list[User] = []
    stored: str | None = None
    while True:
        async with aclosing(clerk.user_pages(None if stored is None else json.loads(stored))) as pages:
            page = await anext(pages)
        users += page.rows
        if page.following is None:
            return users
        stored = json.dumps(page.following)


def ids(users: Sequence[User]) -> set[str]:
    return {user.id for user in users}


# --- all of it --------------------------------------------------------------------------------------------------------


def test_every_seeded_user_arrives_with_every_field() -> None:
    world = World(INSTANCE)
    found = {user.id: user for user in world.ask(lambda clerk: read_all(clerk.user_pages()))}
    assert world.calls("/users") == 6
    assert len(found) == 2_600
    for seeded in INSTANCE.seeded_users():
        assert found[seeded.id] == User(
            id=seeded.id,
            primary_email_id=seeded.primary_email_id,
            emails=tuple(EmailAddress(id=each.id, address=each.address, status=each.status) for each in seeded.emails),
            first_name=seeded.first_name,
            last_name=seeded.last_name,
            username=seeded.username,
            image_url=seeded.image_url,
            created_at=seeded.created_at,
            last_sign_in_at=seeded.last_sign_in_at,
            last_active_at=seeded.last_active_at,
            banned=seeded.banned,
            locked=seeded.locked,
            deprovisioned=seeded.deprovisioned,
        )


def test_organizations_have_their_counts_and_memberships_their_two_ends() -> None:
    world = World(INSTANCE)

    async def both(clerk: Clerk) -> tuple[list[Any], list[Any], int]:
        organizations, memberships = await asyncio.gather(
            read_all(clerk.organization_pages(ahead=3)), read_all(clerk.membership_pages(ahead=3))
        )
        return organizations, memberships, await clerk.count_organizations()

    organizations, memberships, count = world.ask(both)
    assert {each.id: (each.created_at, each.members_count) for each in organizations} == {
        each.id: (each.created_at, world.state.members[each.number]) for each in INSTANCE.organizations
    }
    assert count == len(INSTANCE.organizations)
    assert set(memberships) == {
        Membership(
            user_id=INSTANCE.user_id(each.user_number),
            organization_id=INSTANCE.organizations[each.organization_number].id,
        )
        for each in INSTANCE.memberships
    }
    assert world.calls("/organization_memberships") == -(-len(INSTANCE.memberships) // 499)


def test_the_count_is_the_users_there_are() -> None:
    assert World(INSTANCE).ask(lambda clerk: clerk.count_users()) == 2_600


def test_an_empty_instance_has_nobody() -> None:
    world = World(build_clerk_instance(seed=5, users=0, memberships=0)._replace(organizations=()))

    async def everything(clerk: Clerk) -> list[Any]:
        lists = (clerk.user_pages(), clerk.organization_pages(), clerk.membership_pages())
        return [await read_all(each) for each in lists]

    assert world.ask(everything) == [[], [], []]


# --- while it changes -------------------------------------------------------------------------------------------------

NEW_USERS = {"kind": "create_users", "users": 7, "path": "/users"}
OLDEST_LEAVE = {"kind": "delete_oldest_users", "users": 3, "path": "/users"}
END_OF_PAGE_LEAVES = {"kind": "delete_served_users", "users": 4, "path": "/users"}
WHOLE_PAGE_LEAVES = {"kind": "delete_served_users", "users": 500, "path": "/users", "nth": 3}


@pytest.mark.parametrize(
    ("motion", "cursor", "deleted_cursor"),
    [
        (NEW_USERS, "supported", "resolved"),
        (NEW_USERS, "refused", "resolved"),
        (OLDEST_LEAVE, "supported", "resolved"),
        (OLDEST_LEAVE, "refused", "resolved"),
        (OLDEST_LEAVE, "ignored", "resolved"),
        (END_OF_PAGE_LEAVES, "supported", "resolved"),
        (END_OF_PAGE_LEAVES, "supported", "refused"),
        (END_OF_PAGE_LEAVES, "supported", "empty"),
        (END_OF_PAGE_LEAVES, "refused", "resolved"),
        (WHOLE_PAGE_LEAVES, "supported", "refused"),
        (WHOLE_PAGE_LEAVES, "supported", "empty"),
        (WHOLE_PAGE_LEAVES, "refused", "resolved"),
    ],
)
def test_no_user_who_stays_is_missed(motion: dict[str, Any], cursor: Any, deleted_cursor: Any) -> None:
    world = World(INSTANCE._replace(cursor=cursor, deleted_cursor=deleted_cursor), motion)
    users = world.ask(read_with_crashes)
    seeded = {INSTANCE.user_id(number) for number in range(2_600)}
    stayed = seeded & set(world.state.user_ids())
    assert stayed <= ids(users)
    assert (stayed < seeded) == (motion is not NEW_USERS)
    assert world.calls("/users") < 30


def test_no_membership_that_stays_is_missed() -> None:
    for order in ("membership", "user"):
        motion = {"kind": "delete_oldest_memberships", "memberships": 3, "path": "/organization_memberships"}
        world = World(INSTANCE._replace(membership_order=order), motion)
        found = world.ask(lambda clerk: read_all(clerk.membership_pages(ahead=2)))
        stayed = {
            Membership(
                user_id=INSTANCE.user_id(each.user_number),
                organization_id=INSTANCE.organizations[each.organization_number].id,
            )
            for each in world.state.memberships
        }
        assert len(stayed) < len(INSTANCE.memberships)
        assert stayed <= set(found)


def test_a_crash_asks_for_no_page_twice() -> None:
    world = World(INSTANCE)
    assert len(ids(world.ask(read_with_crashes))) == 2_600
    assert [each.query for each in world.server.requests] == [
        "limit=500&order_by=created_at&offset=0",
        *(f"limit=500&order_by=created_at&starting_after={INSTANCE.user_id(499 * n - 1)}" for n in range(1, 6)),
    ]


def test_a_cursor_that_is_refused_for_once_is_used_again() -> None:
    world = World(INSTANCE, {"kind": "cursor_refused", "nth": 3, "path": "/users"})
    assert len(ids(world.ask(lambda clerk: read_all(clerk.user_pages())))) == 2_600
    asked = ["cursor" if "starting_after" in each.query else "offset" for each in world.server.requests]
    assert asked == ["offset", "cursor", "cursor", "offset", "cursor", "cursor", "cursor"]


@pytest.mark.parametrize(("lanes", "cursor"), [(2, "supported"), (5, "supported"), (5, "refused")])
def test_lanes_share_the_users_among_them(lanes: int, cursor: Any) -> None:
    instance = build_clerk_instance(seed=5, users=8_100)
    world = World(instance._replace(cursor=cursor))

    async def read(clerk: Clerk) -> list[list[User]]:
        positions: list[Position] = await clerk.user_lanes(lanes, total=await clerk.count_users())
        stored = json.loads(json.dumps(positions))
        return list(await asyncio.gather(*(read_all(clerk.user_pages(each)) for each in stored)))

    found = world.ask(read)
    opened = min(lanes, 4)
    assert len(found) == opened
    assert {user.id for lane in found for user in lane} == {instance.user_id(number) for number in range(8_100)}
    assert max(len(lane) for lane in found) < 8_100 / opened + 600
    assert world.calls("/users") <= 18 + 3 * (opened - 1) + (opened if cursor == "refused" else 0)


def test_a_storm_of_failures_and_refusals_costs_no_user() -> None:
    world = World(
        INSTANCE,
        {"kind": "status", "status": 503, "nth": 2, "count": 2},
        {"kind": "lost_reply", "nth": 5},
        {"kind": "truncated_json", "nth": 7},
        {"kind": "rate_limited", "retry_after": 4, "nth": 9},
        {"kind": "cut_body", "nth": 11},
    )
    assert len(ids(world.ask(lambda clerk: read_all(clerk.user_pages())))) == 2_600


def test_malformed_users_are_counted_and_the_others_go_on() -> None:
    world = World(INSTANCE)

    async def read(clerk: Clerk) -> list[Page[User]]:
        seeded = [INSTANCE.user_id(number) for number in range(10)]
        world.state.alter_user(seeded[3], created_at=1_700_000_000)
        world.state.alter_user(seeded[5], email_addresses=None, first_name="canary")
        async with aclosing(clerk.user_pages()) as pages:
            return [page async for page in pages]

    pages = world.ask(read)
    assert [(each.id, each.code) for page in pages for each in page.rejected] == [
        (INSTANCE.user_id(3), "malformed_created_at"),
        (INSTANCE.user_id(5), "malformed_email_addresses"),
    ]
    assert len({user.id for page in pages for user in page.rows}) == 2_598
    assert "canary" not in repr(pages)


def test_a_revoked_key_and_an_instance_without_organizations_are_told_apart() -> None:
    async def refusal(question: Awaitable[Any]) -> tuple[str, ErrorCategory]:
        with pytest.raises(BackfillError) as caught:
            await question
        return caught.value.code, caught.value.category

    revoked = World(INSTANCE, {"kind": "clerk_key_refused"})
    assert revoked.ask(lambda clerk: refusal(clerk.count_users())) == ("unauthorized", ErrorCategory.CONFIGURATION)
    without = World(INSTANCE._replace(organizations_enabled=False))
    assert without.ask(lambda clerk: refusal(clerk.count_organizations())) == (
        "organizations_unavailable",
        ErrorCategory.CONFIGURATION,
    )
