"""Rows of Clerk: what is read from them, and what is rejected instead of guessed at."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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

MOMENT = 1_700_000_000_000


def email_row(address: Any = "ada@example.com", status: Any = "verified", **fields: Any) -> dict[str, Any]:
    return {
        "id": "idn_1",
        "object": "email_address",
        "email_address": address,
        "verification": {"object": "verification_otp", "status": status, "strategy": "email_code"},
        **fields,
    }


def user_row(**fields: Any) -> dict[str, Any]:
    return {
        "id": "user_1",
        "object": "user",
        "primary_email_address_id": "idn_1",
        "email_addresses": [email_row()],
        "first_name": "Ada",
        "last_name": "Quill",
        "username": "ada",
        "image_url": "https://img.example.com/1",
        "created_at": MOMENT,
        "last_sign_in_at": MOMENT + 5,
        "last_active_at": MOMENT + 7,
        "banned": False,
        "locked": False,
        "deprovisioned": False,
        **fields,
    }


def without(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


def test_a_user_is_read_as_it_is() -> None:
    assert read_user(user_row(banned=True)) == User(
        id="user_1",
        primary_email_id="idn_1",
        emails=(EmailAddress(id="idn_1", address="ada@example.com", status="verified"),),
        first_name="Ada",
        last_name="Quill",
        username="ada",
        image_url="https://img.example.com/1",
        created_at=MOMENT,
        last_sign_in_at=MOMENT + 5,
        last_active_at=MOMENT + 7,
        banned=True,
        locked=False,
        deprovisioned=False,
    )


def test_what_the_vendor_may_leave_out_or_empty_is_none_or_false() -> None:
    nullable = ("primary_email_address_id", "first_name", "last_name", "username", "image_url")
    nullable += ("last_sign_in_at", "last_active_at")
    empty = user_row(email_addresses=[], **dict.fromkeys(nullable))
    missing = without(empty, *nullable, "banned", "locked", "deprovisioned")
    user = read_user(empty)
    assert isinstance(user, User)
    assert read_user(missing) == user
    assert (user.emails, user.primary_email, user.first_name, user.last_active_at) == ((), None, None, None)
    assert (user.banned, user.locked, user.deprovisioned) == (False, False, False)


def test_all_addresses_come_with_their_verification_in_the_vendors_order() -> None:
    rows = [
        email_row("Ada@Example.com", "unverified", id="idn_1"),
        email_row("b@example.com", "verified", id="idn_2"),
        email_row("c@example.com", "failed", id="idn_3"),
        email_row("d@example.com", "expired", id="idn_4"),
        email_row("e@example.com", "transferable", id="idn_5"),
        email_row("f@example.com", id="idn_6", verification=None),
        without(email_row("g@example.com", id="idn_7"), "verification"),
        email_row("h@example.com", "something_new", id="idn_8"),
        without(email_row("i@example.com", "verified"), "id"),
    ]
    user = read_user(user_row(email_addresses=rows, primary_email_address_id="idn_2"))
    assert isinstance(user, User)
    assert [(each.id, each.address[0], each.status, each.verified) for each in user.emails] == [
        ("idn_1", "A", "unverified", False),
        ("idn_2", "b", "verified", True),
        ("idn_3", "c", "failed", False),
        ("idn_4", "d", "expired", False),
        ("idn_5", "e", "transferable", False),
        ("idn_6", "f", None, False),
        ("idn_7", "g", None, False),
        ("idn_8", "h", "something_new", False),
        (None, "i", "verified", True),
    ]
    assert user.primary_email is user.emails[1]


def test_a_primary_id_that_names_no_address_names_none() -> None:
    user = read_user(user_row(primary_email_address_id="idn_9"))
    assert isinstance(user, User)
    assert (user.primary_email_id, user.primary_email) == ("idn_9", None)


def test_a_time_may_be_written_as_a_float() -> None:
    user = read_user(user_row(created_at=1.7e12))
    assert isinstance(user, User)
    assert (user.created_at, type(user.created_at)) == (1_700_000_000_000, int)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"id": None}, "malformed_id"),
        ({"id": 7}, "malformed_id"),
        ({"id": ""}, "malformed_id"),
        ({"id": "x" * 256}, "malformed_id"),
        ({"email_addresses": None}, "malformed_email_addresses"),
        ({"email_addresses": {}}, "malformed_email_addresses"),
        ({"email_addresses": ["ada@example.com"]}, "malformed_email_addresses"),
        ({"email_addresses": [email_row(None)]}, "malformed_email_addresses"),
        ({"email_addresses": [email_row(verification="verified")]}, "malformed_verification"),
        ({"email_addresses": [email_row(), email_row("b@example.com")]}, "two_primary_addresses"),
        ({"primary_email_address_id": 1}, "malformed_primary_email_address_id"),
        ({"first_name": ["Ada"]}, "malformed_first_name"),
        ({"last_name": 5}, "malformed_last_name"),
        ({"username": {}}, "malformed_username"),
        ({"image_url": False}, "malformed_image_url"),
        ({"created_at": None}, "malformed_created_at"),
        ({"created_at": "2024-01-01"}, "malformed_created_at"),
        ({"created_at": True}, "malformed_created_at"),
        ({"created_at": 1.5}, "malformed_created_at"),
        ({"last_sign_in_at": 0}, "malformed_last_sign_in_at"),
        ({"last_sign_in_at": 1_700_000_000}, "malformed_last_sign_in_at"),  # seconds
        ({"last_active_at": -1}, "malformed_last_active_at"),
        ({"last_active_at": 10**17}, "malformed_last_active_at"),  # nanoseconds
        ({"banned": "no"}, "malformed_banned"),
        ({"banned": None}, "malformed_banned"),
        ({"deprovisioned": 1}, "malformed_deprovisioned"),
    ],
)
def test_a_user_with_an_impossible_field_is_rejected_by_its_name(fields: dict[str, Any], code: str) -> None:
    rejected = read_user(user_row(**fields))
    assert rejected == RejectedRow(id=None if "id" in fields else "user_1", code=code)


@pytest.mark.parametrize("row", [None, "user_1", 7, [user_row()]])
def test_what_is_no_object_is_rejected(row: Any) -> None:
    for read in (read_user, read_organization, read_membership):
        assert read(row) == RejectedRow(id=None, code="not_an_object")


def test_an_organization_needs_its_count() -> None:
    row = {"id": "org_1", "name": "Alder & Finch", "created_at": MOMENT, "members_count": 3}
    assert read_organization(row) == Organization(id="org_1", created_at=MOMENT, members_count=3)
    assert read_organization({**row, "members_count": 0}) == Organization(
        id="org_1", created_at=MOMENT, members_count=0
    )
    for wrong in (None, -1, "3", True, 1.5):
        assert read_organization({**row, "members_count": wrong}) == RejectedRow("org_1", "malformed_members_count")
    assert read_organization({**row, "created_at": 0}) == RejectedRow("org_1", "malformed_created_at")
    assert read_organization({**row, "id": None}) == RejectedRow(None, "malformed_id")


def test_a_membership_is_a_user_in_an_organization() -> None:
    row = {"id": "orgmem_1", "organization": {"id": "org_1"}, "public_user_data": {"user_id": "user_1"}}
    assert read_membership(row) == Membership(user_id="user_1", organization_id="org_1")
    assert read_membership(without(row, "id")) == Membership(user_id="user_1", organization_id="org_1")
    for wrong in (None, {}, {"user_id": None}, {"user_id": 7}, "user_1"):
        assert read_membership({**row, "public_user_data": wrong}) == RejectedRow(
            "orgmem_1", "malformed_public_user_data"
        )
    for wrong in (None, {}, {"id": ""}, []):
        assert read_membership({**row, "organization": wrong}) == RejectedRow("orgmem_1", "malformed_organization")


def test_a_record_shows_no_personal_value() -> None:
    user = read_user(
        user_row(
            email_addresses=[email_row("canary@example.com")],
            first_name="canary",
            last_name="canary",
            username="canary",
            image_url="https://img.example.com/canary",
        )
    )
    assert isinstance(user, User)
    assert "canary" not in f"{user!r} {user} {user.emails!r} {user.primary_email!r}"
    assert "user_1" in repr(user)
    rejected = read_user(user_row(first_name=["canary"], email_addresses=[email_row("canary@example.com")]))
    assert "canary" not in repr(rejected)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(sorted(user_row())), json_values, max_size=4), json_values, json_values)
def test_no_row_whatever_its_values_ends_the_page(fields: dict[str, Any], one: Any, another: Any) -> None:
    row = json.loads(json.dumps(user_row(**fields)))
    assert isinstance(read_user(row), User | RejectedRow)
    assert isinstance(read_user(one), RejectedRow)
    assert isinstance(read_user(user_row(email_addresses=[email_row(one, another)])), User | RejectedRow)
    assert isinstance(read_membership({"organization": one, "public_user_data": another}), RejectedRow | Membership)
    assert isinstance(read_organization({"id": one, "members_count": another}), RejectedRow)
