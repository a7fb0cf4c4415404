"""The client of Clerk against a server that answers as a script says: what it sends, what it makes of any answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import SecretStr

from backfill_pipelines.errors import BackfillError, ConfigurationError, ErrorCategory
from backfill_pipelines.vendors.clerk import Clerk, Page, account_of, connect, requests_quota
from backfill_pipelines.vendors.quota_store import InMemoryQuotaStore
from backfill_pipelines.vendors.transport import RetryBudget, open_http_client
from backfill_pipelines_tests.vendors.scripted_server import Behaviour, Received, ScriptedServer, answer, reset
from backfill_pipelines_tests.vendors.virtual_time import InstantClock

Answer = TypeVar("Answer")
KEY = SecretStr("sk_live_a-key-of-the-test")
MOMENT = 1_700_000_000_000
HTML = b"<html><body>Bad Gateway canary</body></html>"


def scripted(
    question: Callable[[Clerk], Awaitable[Answer]], *script: Behaviour, clock: InstantClock | None = None
) -> tuple[Answer | BackfillError, list[Received]]:
    """What came of it, an error of ours included, and the requests it took."""
    time = clock or InstantClock()

    async def asked(url: str) -> Answer:
        quota = requests_quota(KEY, store=InMemoryQuotaStore(time), clock=time)
        async with open_http_client() as http, quota:
            clerk = connect(http, base_url=url, secret_key=KEY, quota=quota, retry_budget=RetryBudget(), clock=time)
            return await question(clerk)

    with ScriptedServer(*script) as server:
        try:
            result: Answer | BackfillError = asyncio.run(asked(f"{server.url}/v1"))
        except BackfillError as error:
            result = error
        return result, server.received


def first_page(pages: Callable[[Clerk], AsyncGenerator[Page[Any], None]]) -> Callable[[Clerk], Awaitable[Page[Any]]]:
    async def read(clerk: Clerk) -> Page[Any]:
        async with aclosing(pages(clerk)) as opened:
            return await anext(opened)

    return read


def all_pages(
    pages: Callable[[Clerk], AsyncGenerator[Page[Any], None]],
) -> Callable[[Clerk], Awaitable[list[Page[Any]]]]:
    async def read(clerk: Clerk) -> list[Page[Any]]:
        async with aclosing(pages(clerk)) as opened:
            return [page async for page in opened]

    return read


users = first_page(lambda clerk: clerk.user_pages())
memberships = first_page(lambda clerk: clerk.membership_pages())
organizations = first_page(lambda clerk: clerk.organization_pages())


def query_of(received: Received) -> dict[str, str]:
    return {name: " ".join(values) for name, values in parse_qs(urlsplit(received.path).query).items()}


def user_row(number: int) -> dict[str, Any]:
    return {"id": f"user_{number:04}", "email_addresses": [], "created_at": MOMENT + number}


def code_of(result: object) -> tuple[str, ErrorCategory]:
    assert isinstance(result, BackfillError)
    assert "canary" not in f"{result!r} {result} {result.__dict__!r}"
    assert KEY.get_secret_value() not in f"{result!r} {result} {result.__dict__!r}"
    return result.code, result.category


def errors_body(code: str) -> dict[str, Any]:
    return {"errors": [{"code": code, "message": "canary", "long_message": "canary"}], "clerk_trace_id": "canary"}


# --- what is sent -----------------------------------------------------------------------------------------------------


def test_every_request_carries_the_key_and_names_the_version() -> None:
    found, requests = scripted(
        lambda clerk: clerk.count_users(), answer(200, {"object": "total_count", "total_count": 12})
    )
    assert found == 12
    [request] = requests
    assert (request.method, request.path) == ("GET", "/v1/users/count")
    assert request.headers["authorization"] == "Bearer sk_live_a-key-of-the-test"
    assert request.headers["clerk-api-version"] == "2026-05-12"


def test_users_are_read_oldest_first_500_a_page_and_after_the_row_before_the_last_one() -> None:
    first = [user_row(number) for number in range(500)]
    second = [user_row(number) for number in range(499, 620)]
    found, requests = scripted(all_pages(lambda clerk: clerk.user_pages()), answer(200, first), answer(200, second))
    assert isinstance(found, list)
    assert [len(page.rows) for page in found] == [500, 121]
    assert found[1].following is None
    assert [urlsplit(each.path).path for each in requests] == ["/v1/users"] * 2
    assert [query_of(each) for each in requests] == [
        {"limit": "500", "order_by": "created_at", "offset": "0"},
        {"limit": "500", "order_by": "created_at", "starting_after": "user_0498"},
    ]


def test_a_422_to_the_cursor_leads_to_an_offset_from_then_on() -> None:
    rows = [user_row(number) for number in range(1_100)]
    found, requests = scripted(
        all_pages(lambda clerk: clerk.user_pages()),
        answer(200, rows[:500]),
        answer(422, errors_body("form_param_unknown")),
        answer(200, rows[499:999]),
        answer(200, rows[998:]),
    )
    assert isinstance(found, list)
    assert {user.id for page in found for user in page.rows} == {row["id"] for row in rows}
    assert [query_of(each).get("offset") for each in requests] == ["0", None, "499", "998"]


def test_organizations_are_read_with_their_counts_and_memberships_by_offset() -> None:
    row = {"id": "org_1", "created_at": MOMENT, "members_count": 2}
    found, requests = scripted(organizations, answer(200, {"data": [row], "total_count": 1}))
    assert isinstance(found, Page)
    assert (found.rows[0].members_count, found.total, found.following) == (2, 1, None)
    assert urlsplit(requests[0].path).path == "/v1/organizations"
    assert query_of(requests[0]) == {
        "limit": "500",
        "offset": "0",
        "order_by": "created_at",
        "include_members_count": "true",
    }
    row = {"id": "orgmem_1", "organization": {"id": "org_1"}, "public_user_data": {"user_id": "user_1"}}
    found, requests = scripted(memberships, answer(200, {"data": [row], "total_count": 1}))
    assert isinstance(found, Page)
    assert (found.rows[0].user_id, found.rows[0].organization_id) == ("user_1", "org_1")
    assert urlsplit(requests[0].path).path == "/v1/organization_memberships"
    assert query_of(requests[0]) == {"limit": "500", "offset": "0", "order_by": "created_at"}


def test_lanes_cost_a_small_request_each_and_a_small_instance_has_one() -> None:
    rows = [user_row(number) for number in range(4_000, 4_020)]
    found, requests = scripted(lambda clerk: clerk.user_lanes(3, total=12_000), answer(200, rows))
    assert isinstance(found, list)
    assert [query_of(each) for each in requests] == [
        {"limit": "20", "order_by": "created_at", "offset": offset} for offset in ("4000", "8000")
    ]
    assert [each["offset"] for each in found] == [0, 4_019, 8_019]
    found, requests = scripted(lambda clerk: clerk.user_lanes(3, total=3_999), answer(200, rows))
    assert found == [{"offset": 0, "witnesses": [], "cursor": "untried", "until": []}]
    assert requests == []


# --- keys and quota ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "permits", "reserve"),
    [("sk_live_abc", 1_000, 0.2), ("sk_test_abc", 100, 0.0), ("sk_staging_abc", 100, 0.0)],
)
def test_the_budget_follows_the_kind_of_key(key: str, permits: int, reserve: float) -> None:
    clock = InstantClock()
    quota = requests_quota(SecretStr(key), store=InMemoryQuotaStore(clock), clock=clock)
    assert (quota.row.permits, quota.row.window_seconds) == (permits, 10.0)
    assert quota._terms.reserve == reserve
    assert (quota.key.vendor, quota.key.kind) == ("clerk", "requests")


def test_one_key_has_one_budget_and_its_name_does_not_tell_the_key() -> None:
    one, another = SecretStr("sk_live_abcdefghijklmnop"), SecretStr("sk_live_abcdefghijklmnoq")
    assert account_of(one) == account_of(SecretStr("sk_live_abcdefghijklmnop")) != account_of(another)
    assert len(account_of(one)) == 16
    assert not any(one.get_secret_value()[place : place + 4] in account_of(one) for place in range(20))


@pytest.mark.parametrize("key", ["pk_live_abc", "", "a-key", "Bearer sk_live_abc"])
def test_what_is_no_secret_key_is_refused_before_anything_is_sent(key: str) -> None:
    clock = InstantClock()
    with pytest.raises(ConfigurationError, match="sk_live_") as caught:
        requests_quota(SecretStr(key), store=InMemoryQuotaStore(clock), clock=clock)
    assert caught.value.code == "invalid_clerk_key"
    assert "abc" not in str(caught.value)


def test_a_429_is_waited_for_as_long_as_it_asks() -> None:
    clock = InstantClock()
    found, requests = scripted(
        lambda clerk: clerk.count_users(),
        answer(429, errors_body("too_many_requests"), {"Retry-After": "7"}),
        answer(200, {"total_count": 3}),
        clock=clock,
    )
    assert (found, len(requests)) == (3, 2)
    assert sum(clock.slept) >= 7


# --- answers that are none --------------------------------------------------------------------------------------------


def test_a_wrong_key_is_a_matter_of_configuration() -> None:
    for question in (lambda clerk: clerk.count_users(), users, memberships):
        found, requests = scripted(question, answer(401, errors_body("clerk_key_invalid")))
        assert code_of(found) == ("unauthorized", ErrorCategory.CONFIGURATION)
        assert "clerk_key_invalid" in str(found)
        assert len(requests) == 1


def test_an_instance_without_organizations_says_what_to_switch_on() -> None:
    refused = answer(403, errors_body("organization_not_enabled_in_instance"))
    for question in (memberships, organizations, lambda clerk: clerk.count_organizations()):
        found, _ = scripted(question, refused)
        assert code_of(found) == ("organizations_unavailable", ErrorCategory.CONFIGURATION)
        assert "organization_not_enabled_in_instance" in str(found)
        assert "Dashboard" in str(found)


def test_a_key_that_may_not_read_users_is_a_matter_of_configuration() -> None:
    found, _ = scripted(users, answer(403, errors_body("authorization_invalid")))
    assert code_of(found) == ("forbidden", ErrorCategory.CONFIGURATION)


@pytest.mark.parametrize(
    ("question", "body"),
    [
        (users, {"data": [], "total_count": 0}),
        (users, {"users": []}),
        (users, "users"),
        (users, None),
        (memberships, []),
        (memberships, {"data": []}),
        (memberships, {"data": {}, "total_count": 0}),
        (memberships, {"data": [], "total_count": "0"}),
        (memberships, {"data": [], "total_count": -1}),
        (organizations, {"total_count": 0}),
        (organizations, {"data": [], "total_count": True}),
        (lambda clerk: clerk.count_users(), {"count": 5}),
        (lambda clerk: clerk.count_users(), {"total_count": None}),
        (lambda clerk: clerk.count_users(), [5]),
        (lambda clerk: clerk.count_users(), 5),
    ],
)
def test_an_answer_that_is_not_clerks_is_not_used(question: Callable[[Clerk], Awaitable[Any]], body: Any) -> None:
    found, _ = scripted(question, answer(200, body if body is not None else b"null"))
    assert code_of(found) == ("malformed_response", ErrorCategory.TRANSIENT)


def test_a_website_in_the_place_of_the_api_is_named_as_such() -> None:
    found, _ = scripted(users, answer(200, HTML))
    assert code_of(found) == ("malformed_response", ErrorCategory.TRANSIENT)
    assert "base_url" in str(found)
    found, _ = scripted(users, answer(502, HTML))
    assert code_of(found) == ("vendor_unavailable", ErrorCategory.TRANSIENT)


def test_a_request_of_a_list_is_sent_again_when_its_answer_is_lost() -> None:
    found, requests = scripted(users, reset, answer(503, HTML), answer(200, [user_row(1)]))
    assert isinstance(found, Page)
    assert [each.id for each in found.rows] == ["user_0001"]
    assert len(requests) == 3


def test_one_bad_row_costs_one_row() -> None:
    rows = [user_row(1), {"id": "user_0002", "email_addresses": "canary"}, None, user_row(3)]
    found, _ = scripted(users, answer(200, rows))
    assert isinstance(found, Page)
    assert [each.id for each in found.rows] == ["user_0001", "user_0003"]
    assert [(each.id, each.code) for each in found.rejected] == [
        ("user_0002", "malformed_email_addresses"),
        (None, "not_an_object"),
    ]
    assert "canary" not in repr(found)
