"""Clerk's own Python SDK (`clerk-backend-api`) drives the fake: what it can read, it reads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from clerk_backend_api import Clerk, models

from backfill_pipelines.sandbox.clerk import ClerkSandbox
from backfill_pipelines.sandbox.clerk_data import ClerkWorld, build_clerk_instance
from backfill_pipelines.sandbox.server import SandboxServer

# The SDK reads its own deprecated parameter in every request.
pytestmark = pytest.mark.filterwarnings("ignore:warning. .* DEPRECATED:DeprecationWarning")

INSTANCE = build_clerk_instance(seed=5, users=120)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with SandboxServer([ClerkSandbox(ClerkWorld((INSTANCE,)))]) as server:
        yield server.account_urls("clerk")["api"]


@pytest.fixture
def sdk(url: str) -> Iterator[Clerk]:
    with Clerk(bearer_auth=INSTANCE.secret_key, server_url=url, timeout_ms=10_000) as opened:
        yield opened


def test_it_reads_all_users_with_their_addresses(sdk: Clerk) -> None:
    users = sdk.users.list(request={"limit": 500, "order_by": "created_at"})
    seeded = list(INSTANCE.seeded_users())
    assert [user.id for user in users] == [user.id for user in seeded]
    for found, expected in zip(users, seeded, strict=True):
        assert found.first_name == expected.first_name
        assert found.created_at == expected.created_at
        assert found.primary_email_address_id == expected.primary_email_id
        assert [each.email_address for each in found.email_addresses] == [each.address for each in expected.emails]
        statuses = [getattr(each.verification, "status", None) for each in found.email_addresses]
        assert [getattr(status, "value", status) for status in statuses] == [each.status for each in expected.emails]


def test_it_pages_by_offset_and_selects(sdk: Clerk) -> None:
    page = sdk.users.list(request={"limit": 20, "offset": 110, "order_by": "+created_at"})
    assert [user.id for user in page] == [INSTANCE.user_id(number) for number in range(110, 120)]
    chosen = sdk.users.list(request={"user_id": [INSTANCE.user_id(3), INSTANCE.user_id(5)], "order_by": "created_at"})
    assert [user.id for user in chosen] == [INSTANCE.user_id(3), INSTANCE.user_id(5)]
    assert sdk.users.get(user_id=INSTANCE.user_id(7)).id == INSTANCE.user_id(7)


def test_it_counts(sdk: Clerk) -> None:
    assert sdk.users.count(request={}).total_count == 120
    banned = sum(user.banned for user in INSTANCE.seeded_users())
    assert sdk.users.count(request={"banned": True}).total_count == banned > 0


def test_it_reads_organizations_with_their_counts(sdk: Clerk) -> None:
    page = sdk.organizations.list(limit=500, include_members_count=True, order_by="created_at")
    assert page.total_count == len(INSTANCE.organizations)
    assert [each.id for each in page.data] == [each.id for each in INSTANCE.organizations]
    assert sum(each.members_count or 0 for each in page.data) == len(INSTANCE.memberships)


def test_it_reads_all_memberships(sdk: Clerk) -> None:
    page = sdk.users.get_instance_organization_memberships(limit=500, order_by="created_at")
    assert page.total_count == len(INSTANCE.memberships)
    found = {
        (each.public_user_data.user_id, each.organization.id) for each in page.data if each.public_user_data is not None
    }
    assert found == {
        (INSTANCE.user_id(each.user_number), INSTANCE.organizations[each.organization_number].id)
        for each in INSTANCE.memberships
    }


def test_it_understands_the_refusals(sdk: Clerk, url: str) -> None:
    with Clerk(bearer_auth="sk_live_nobody", server_url=url) as stranger, pytest.raises(models.ClerkErrors) as refused:
        stranger.users.list(request={})
    assert refused.value.data.errors[0].code == "clerk_key_invalid"
    with pytest.raises(models.ClerkErrors) as invalid:
        sdk.users.list(request={"order_by": "shoe_size"})
    assert invalid.value.data.errors[0].code == "form_param_value_invalid"
