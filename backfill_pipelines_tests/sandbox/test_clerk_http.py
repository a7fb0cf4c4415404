"""The fake Clerk over a real socket, held to what the vendor documents and its users have found out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from backfill_pipelines.sandbox.clerk import ClerkSandbox
from backfill_pipelines.sandbox.clerk_data import ClerkInstance, ClerkWorld, build_clerk_instance
from backfill_pipelines.sandbox.clerk_state import ClerkInstanceState
from backfill_pipelines.sandbox.server import SandboxServer

INSTANCE = build_clerk_instance(seed=5, users=60)
DEVELOPMENT = build_clerk_instance(seed=6, users=5, key="umber", environment="test")


@dataclass
class Rig:
    sandbox: ClerkSandbox
    server: SandboxServer
    client: httpx.Client

    @property
    def state(self) -> ClerkInstanceState:
        return next(iter(self.sandbox.states.values()))

    def get(self, path: str, **query: Any) -> Any:
        answer = self.client.get(path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def refused(self, path: str, **query: Any) -> tuple[int, str]:
        answer = self.client.get(path, params=query)
        [error] = answer.json()["errors"]
        assert error["message"]
        assert error["long_message"]
        return answer.status_code, error["code"]

    def users(self, **query: Any) -> list[str]:
        return [user["id"] for user in self.get("/users", **query)]


@contextmanager
def running(
    *instances: ClerkInstance, key: str | None = None, clock: Callable[[], float] | None = None
) -> Iterator[Rig]:
    world = ClerkWorld(instances)
    sandbox = ClerkSandbox(world) if clock is None else ClerkSandbox(world, clock=clock)
    authorization = f"Bearer {key or instances[0].secret_key}"
    with (
        SandboxServer([sandbox]) as server,
        httpx.Client(
            base_url=server.account_urls("clerk")["api"], headers={"Authorization": authorization}, timeout=10
        ) as client,
    ):
        yield Rig(sandbox, server, client)


@pytest.fixture(scope="module")
def serving() -> Iterator[Rig]:
    with running(INSTANCE, DEVELOPMENT) as rig:
        yield rig


@pytest.fixture
def rig(serving: Rig) -> Rig:
    serving.server.reset()
    return serving


IDS = [INSTANCE.user_id(number) for number in range(60)]


# --- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer sk_live_nobody", "Basic abc"])
def test_an_unknown_key_is_401(rig: Rig, authorization: str) -> None:
    answer = rig.client.get("/users", headers={"Authorization": authorization})
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (401, "clerk_key_invalid")
    assert answer.json()["clerk_trace_id"]


def test_the_key_alone_says_which_instance_is_meant(rig: Rig) -> None:
    umber = {"Authorization": f"Bearer {DEVELOPMENT.secret_key}"}
    assert rig.client.get("/users/count", headers=umber).json()["total_count"] == 5
    assert rig.get("/users/count") == {"object": "total_count", "total_count": 60}
    assert [each.call.workspace for each in rig.server.requests] == ["umber", "acme"]


def test_the_version_stands_in_the_header_or_in_the_query(rig: Rig) -> None:
    version = {"Clerk-API-Version": "2026-05-12"}
    assert rig.client.get("/users/count", headers=version).status_code == 200
    assert rig.client.get("/users/count?__clerk_api_version=2025-11-10").status_code == 200
    both = rig.client.get("/users/count?__clerk_api_version=2025-11-10", headers=version)
    unknown = rig.client.get("/users/count", headers={"Clerk-API-Version": "2019-01-01"})
    assert (both.status_code, unknown.status_code) == (400, 400)


def test_a_path_that_does_not_exist_is_404(rig: Rig) -> None:
    assert rig.refused("/people") == (404, "resource_not_found")
    assert rig.refused("/users/user_1") == (404, "resource_not_found")


# --- pages of users ---------------------------------------------------------------------------------------------------


def test_users_are_a_bare_list_of_ten_newest_first(rig: Rig) -> None:
    assert rig.users() == IDS[:-11:-1]
    assert rig.users(limit=3, offset=2) == IDS[57:54:-1]
    assert rig.users(limit=3, order_by="created_at") == rig.users(limit=3, order_by="+created_at") == IDS[:3]
    assert rig.users(offset=60) == []


def test_a_limit_above_500_gives_ten_in_silence() -> None:
    with running(build_clerk_instance(seed=5, users=510)) as rig:
        assert len(rig.users(limit=500)) == 500
        assert len(rig.users(limit=501)) == 10
        assert len(rig.get("/organization_memberships", limit=501)["data"]) == 10
        assert len(rig.get("/organization_memberships", limit=500)["data"]) == 500


@pytest.mark.parametrize(
    "query",
    [{"limit": "10.0"}, {"limit": 0}, {"limit": -1}, {"limit": "all"}, {"offset": -1}, {"order_by": "shoe_size"}],
)
def test_a_wrong_parameter_is_422(rig: Rig, query: dict[str, Any]) -> None:
    assert rig.refused("/users", **query) == (422, "form_param_value_invalid")


def test_a_bare_plus_is_a_space_and_no_order(rig: Rig) -> None:
    assert rig.client.get("/users?order_by=+created_at").status_code == 422
    assert rig.client.get("/users?order_by=%2Bcreated_at").status_code == 200


def test_only_the_first_order_counts(rig: Rig) -> None:
    answer = rig.client.get("/users?limit=2&order_by=created_at&order_by=username")
    assert [each["id"] for each in answer.json()] == IDS[:2]


@pytest.mark.parametrize("field", ["updated_at", "first_name", "last_name", "username", "last_active_at"])
def test_users_can_be_ordered_otherwise_with_the_empty_ones_last(rig: Rig, field: str) -> None:
    for order, reverse in ((field, False), (f"-{field}", True)):
        values = [user[field] for user in rig.get("/users", limit=500, order_by=order)]
        known = [value for value in values if value is not None]
        assert known == sorted(known, reverse=reverse)
        assert values == known + [None] * (len(values) - len(known))


def test_the_cursor_goes_on_after_a_user_in_either_direction(rig: Rig) -> None:
    assert rig.users(limit=3, order_by="created_at", starting_after=IDS[9]) == IDS[10:13]
    assert rig.users(limit=3, starting_after=IDS[9]) == IDS[8:5:-1]
    assert rig.users(limit=3, order_by="created_at", starting_after=IDS[57]) == IDS[58:]
    assert rig.users(order_by="created_at", starting_after=IDS[59]) == []
    assert rig.users(limit=2, order_by="created_at", starting_after=IDS[9], offset=0) == IDS[10:12]


@pytest.mark.parametrize(
    "query",
    [
        {"starting_after": IDS[3], "offset": 1},
        {"starting_after": IDS[3], "order_by": "username"},
        {"starting_after": "user_of_nobody"},
    ],
)
def test_a_cursor_goes_with_no_offset_and_no_other_order(rig: Rig, query: dict[str, Any]) -> None:
    assert rig.refused("/users", **query) == (422, "form_param_value_invalid")


def test_an_instance_may_know_no_cursor_or_ignore_it(rig: Rig) -> None:
    rig.server.add_faults([{"kind": "cursor_refused"}])
    assert rig.refused("/users", starting_after=IDS[3]) == (422, "form_param_unknown")
    assert rig.users(limit=2, order_by="created_at") == IDS[:2]
    with running(INSTANCE._replace(cursor="refused")) as old:
        assert old.refused("/users", starting_after=IDS[3]) == (422, "form_param_unknown")
    with running(INSTANCE._replace(cursor="ignored")) as deaf:
        assert deaf.users(limit=2, order_by="created_at", starting_after=IDS[3]) == IDS[:2]


@pytest.mark.parametrize("answer", ["resolved", "refused", "empty"])
def test_a_deleted_cursor_is_answered_as_the_instance_does(answer: Any) -> None:
    with running(INSTANCE._replace(deleted_cursor=answer)) as rig:
        rig.state.delete_users([IDS[9]])
        query = {"limit": 3, "order_by": "created_at", "starting_after": IDS[9]}
        if answer == "refused":
            assert rig.refused("/users", **query) == (422, "form_param_value_invalid")
        else:
            assert rig.users(**query) == (IDS[10:13] if answer == "resolved" else [])


# --- filters and counts -----------------------------------------------------------------------------------------------


def test_filters_select_and_the_count_agrees(rig: Rig) -> None:
    seeded = list(INSTANCE.seeded_users())
    middle = seeded[30].created_at
    expected: list[tuple[dict[str, Any], list[str]]] = [
        ({"user_id": [IDS[4], IDS[7], "user_of_nobody"]}, [IDS[4], IDS[7]]),
        ({"email_address": seeded[5].emails[0].address.upper()}, [IDS[5]]),
        ({"banned": "true"}, [each.id for each in seeded if each.banned]),
        ({"banned": "false"}, [each.id for each in seeded if not each.banned]),
        ({"created_at_after": middle}, [each.id for each in seeded if each.created_at > middle]),
        ({"created_at_before": middle}, [each.id for each in seeded if each.created_at < middle]),
        (
            {"last_active_at_after": middle, "banned": "false"},
            [each.id for each in seeded if (each.last_active_at or 0) > middle and not each.banned],
        ),
    ]
    for query, ids in expected:
        assert rig.users(limit=500, order_by="created_at", **query) == ids
        assert rig.get("/users/count", **query)["total_count"] == len(ids)
    after = rig.users(limit=2, order_by="created_at", created_at_after=middle, starting_after=IDS[40])
    assert after == IDS[41:43]


def test_a_filter_that_the_sandbox_has_not_is_refused_and_not_ignored(rig: Rig) -> None:
    assert rig.refused("/users", query="ada")[1] == "not_in_the_sandbox"
    assert rig.refused("/users/count", phone_number="+12055550100")[1] == "not_in_the_sandbox"
    assert rig.refused("/organizations", query="alder")[1] == "not_in_the_sandbox"


def test_one_user_is_shown_by_id(rig: Rig) -> None:
    assert rig.get(f"/users/{IDS[4]}")["id"] == IDS[4]
    rig.state.delete_users([IDS[4]])
    assert rig.refused(f"/users/{IDS[4]}") == (404, "resource_not_found")


def test_a_test_can_put_anything_into_a_users_row(rig: Rig) -> None:
    rig.state.alter_user(IDS[4], first_name="Grace", created_at="yesterday")
    assert {name: rig.get(f"/users/{IDS[4]}")[name] for name in ("first_name", "created_at")} == {
        "first_name": "Grace",
        "created_at": "yesterday",
    }


# --- organizations and memberships ------------------------------------------------------------------------------------


def test_organizations_come_in_an_envelope_newest_first_and_with_counts_on_request(rig: Rig) -> None:
    plain = rig.get("/organizations", limit=2)
    assert plain["total_count"] == len(INSTANCE.organizations)
    assert [each["id"] for each in plain["data"]] == [each.id for each in INSTANCE.organizations[:-3:-1]]
    assert all("members_count" not in each for each in plain["data"])
    counted = rig.get("/organizations", limit=500, order_by="created_at", include_members_count="true")["data"]
    assert [each["id"] for each in counted] == [each.id for each in INSTANCE.organizations]
    assert sum(each["members_count"] for each in counted) == len(INSTANCE.memberships)
    by_size = rig.get("/organizations", limit=500, order_by="-members_count", include_members_count="true")["data"]
    assert [each["members_count"] for each in by_size] == sorted(
        (each["members_count"] for each in counted), reverse=True
    )
    assert rig.refused("/organizations", order_by="slug") == (422, "form_param_value_invalid")
    names = [each["name"] for each in rig.get("/organizations", limit=500, order_by="name")["data"]]
    assert names == sorted(names)


def test_a_membership_names_its_user_and_holds_its_organization(rig: Rig) -> None:
    page = rig.get("/organization_memberships", limit=500, order_by="created_at")
    assert page["total_count"] == len(INSTANCE.memberships)
    assert [(each["public_user_data"]["user_id"], each["organization"]["id"]) for each in page["data"]] == [
        (IDS[each.user_number], INSTANCE.organizations[each.organization_number].id) for each in INSTANCE.memberships
    ]
    backwards = rig.get("/organization_memberships", limit=500)["data"]
    assert [each["id"] for each in backwards] == [each["id"] for each in page["data"]][::-1]
    assert rig.refused("/organization_memberships", order_by="role") == (422, "form_param_value_invalid")


def test_memberships_may_be_sorted_by_their_users_creation() -> None:
    with running(INSTANCE._replace(membership_order="user")) as rig:
        organization = INSTANCE.organizations[0].id
        if any(each.user_number == 0 and each.organization_number == 0 for each in INSTANCE.memberships):
            organization = INSTANCE.organizations[1].id
        late = rig.state.create_membership(IDS[0], organization)
        rows = rig.get("/organization_memberships", limit=500, order_by="created_at")["data"]
        users = [each["public_user_data"]["user_id"] for each in rows]
        assert users == sorted(users)
        assert late in [each["id"] for each in rows[:5]]


def test_an_instance_without_organizations_says_so() -> None:
    with running(INSTANCE._replace(organizations_enabled=False)) as rig:
        for path in ("/organizations", "/organization_memberships"):
            assert rig.refused(path) == (403, "organization_not_enabled_in_instance")
        assert len(rig.users()) == 10


# --- quota and faults -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("instance", "permits"), [(INSTANCE, 1_000), (DEVELOPMENT, 100)])
def test_a_key_has_so_many_requests_in_ten_seconds_and_is_told_when_to_come_back(
    instance: ClerkInstance, permits: int
) -> None:
    now = 1_000.0
    with running(instance, clock=lambda: now) as rig:
        statuses = [rig.client.get("/users/count").status_code for _ in range(permits + 1)]
        assert statuses == [200] * permits + [429]
        refused = rig.client.get("/users/count")
        assert refused.headers["Retry-After"] == "10"
        assert refused.json()["errors"][0]["code"] == "too_many_requests"
        now += 9.5
        assert rig.client.get("/users/count").headers["Retry-After"] == "1"
        now += 0.6
        assert rig.client.get("/users/count").status_code == 200
        rig.server.reset()
        assert rig.client.get("/users/count").status_code == 200


def test_an_unknown_key_takes_nobodys_permit() -> None:
    with running(DEVELOPMENT, clock=lambda: 1_000.0) as rig:
        for _ in range(101):
            assert rig.client.get("/users", headers={"Authorization": "Bearer sk_test_x"}).status_code == 401
        assert rig.client.get("/users/count").status_code == 200


def test_users_come_and_go_while_pages_are_read(rig: Rig) -> None:
    rig.server.add_faults(
        [
            {"kind": "delete_oldest_users", "users": 2, "path": "/users", "nth": 1},
            {"kind": "create_users", "users": 3, "path": "/users", "nth": 2},
            {"kind": "delete_served_users", "users": 1, "path": "/users", "nth": 3},
            {"kind": "delete_oldest_memberships", "memberships": 4, "path": "/organization_memberships", "nth": 1},
        ]
    )
    assert rig.users(limit=5, order_by="created_at") == IDS[:5]
    assert rig.users(limit=5, order_by="created_at") == IDS[2:7]
    assert rig.get("/users/count")["total_count"] == 61
    assert rig.users(limit=5, order_by="created_at") == IDS[2:7]
    assert rig.users(limit=5, order_by="created_at") == [*IDS[2:6], IDS[7]]
    before = rig.get("/organization_memberships")["total_count"]
    assert rig.get("/organization_memberships")["total_count"] == before - 4


def test_a_key_can_be_refused_and_a_permission_missing(rig: Rig) -> None:
    rig.server.add_faults([{"kind": "clerk_key_refused", "nth": 1}, {"kind": "clerk_forbidden", "nth": 2}])
    assert rig.refused("/users") == (401, "clerk_key_invalid")
    assert rig.refused("/users") == (403, "authorization_invalid")
    rig.server.add_faults([{"kind": "rate_limited", "retry_after": 3, "count": 1}])
    assert rig.client.get("/users").headers["Retry-After"] == "3"


def test_a_reset_brings_the_seeded_users_back(rig: Rig) -> None:
    rig.state.delete_users(IDS[:10])
    rig.state.alter_user(IDS[20], first_name="Grace")
    rig.server.reset()
    assert rig.users(limit=500, order_by="created_at") == IDS
    assert rig.get(f"/users/{IDS[20]}")["first_name"] == INSTANCE.user(20).first_name
