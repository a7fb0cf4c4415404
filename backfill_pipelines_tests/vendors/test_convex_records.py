"""Rows of Convex: what is read, and what is told as rejected."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill_pipelines.vendors.convex_records import (
    FIELDS,
    TEXT_FIELDS,
    TIME_FIELDS,
    Patch,
    RejectedRow,
    Row,
    read_row,
)

texts = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))
times = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
fields = st.fixed_dictionaries(
    {},
    optional={
        **{name: st.none() | texts for name in TEXT_FIELDS},
        **{name: st.none() | times for name in TIME_FIELDS},
    },
)


def row(**fields: Any) -> dict[str, Any]:
    return {"id": "j57abc", "clerkId": "user_1", "fields": fields}


@given(fields)
def test_what_a_row_holds_is_read_and_nothing_else(held: dict[str, Any]) -> None:
    found = read_row({"id": "j57abc", "clerkId": "user_1", "fields": held, "_creationTime": 1.5})
    assert isinstance(found, Row)
    assert (found.document_id, found.clerk_id) == ("j57abc", "user_1")
    assert dict(found.fields) == held


@given(st.integers(-(2**53), 2**53))
def test_a_whole_number_has_one_spelling(number: int) -> None:
    for spelling in (number, float(number)):
        found = read_row(row(createdAt=spelling))
        assert isinstance(found, Row)
        assert json.dumps(dict(found.fields)) == json.dumps({"createdAt": number})


def test_what_is_no_whole_number_stays_as_it_is() -> None:
    found = read_row(row(createdAt=1.5, lastSignInAt=1e300, lastActiveAt=0.0))
    assert isinstance(found, Row)
    assert dict(found.fields) == {"createdAt": 1.5, "lastSignInAt": 1e300, "lastActiveAt": 0}


def test_null_is_kept_apart_from_absent() -> None:
    found = read_row(row(firstName=None))
    assert isinstance(found, Row)
    assert dict(found.fields) == {"firstName": None}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, RejectedRow(None, "not_an_object")),
        ([], RejectedRow(None, "not_an_object")),
        ({}, RejectedRow(None, "malformed_id")),
        ({"id": 5, "clerkId": "user_1", "fields": {}}, RejectedRow(None, "malformed_id")),
        ({"id": "", "clerkId": "user_1", "fields": {}}, RejectedRow(None, "malformed_id")),
        ({"id": "j57abc", "fields": {}}, RejectedRow("j57abc", "no_clerk_id")),
        ({"id": "j57abc", "clerkId": None, "fields": {}}, RejectedRow("j57abc", "no_clerk_id")),
        ({"id": "j57abc", "clerkId": None}, RejectedRow("j57abc", "no_clerk_id")),
        ({"id": "j57abc", "clerkId": False, "fields": {}}, RejectedRow("j57abc", "malformed_clerk_id")),
        ({"id": "j57abc", "clerkId": 0, "fields": {}}, RejectedRow("j57abc", "malformed_clerk_id")),
        ({"id": "j57abc", "clerkId": 17.0, "fields": {}}, RejectedRow("j57abc", "malformed_clerk_id")),
        ({"id": "j57abc", "clerkId": "", "fields": {}}, RejectedRow("j57abc", "malformed_clerk_id")),
        ({"id": "j57abc", "clerkId": "user\n1", "fields": {}}, RejectedRow("j57abc", "malformed_clerk_id")),
        ({"id": "j57abc", "clerkId": "x" * 256, "fields": {}}, RejectedRow("j57abc", "malformed_clerk_id")),
        ({"id": "j57abc", "clerkId": "user_1"}, RejectedRow("j57abc", "malformed_fields", "user_1")),
    ],
)
def test_a_row_that_cannot_be_used_is_told_with_its_id(given: Any, expected: RejectedRow) -> None:
    assert read_row(given) == expected


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_of_another_type_rejects_its_row(name: str) -> None:
    others = [5, True] if name in TEXT_FIELDS else ["1700000000000", True, "NaN"]
    for value in [*others, ["x"], {"x": 1}]:
        assert read_row(row(**{name: value})) == RejectedRow("j57abc", f"malformed_{name}", "user_1")


def test_what_else_a_rejected_row_holds_can_be_read() -> None:
    found = read_row(row(firstName=7, lastName="Quill", email=None, createdAt="1700000000000"))
    assert isinstance(found, RejectedRow)
    assert found.code == "malformed_firstName", "the first of them"
    assert (found.fields, found.unreadable) == ({"lastName": "Quill", "email": None}, {"firstName", "createdAt"})
    unheard_of = read_row({"id": "j57abc", "clerkId": "user_1", "fields": ["Quill"]})
    assert isinstance(unheard_of, RejectedRow)
    assert (unheard_of.fields, unheard_of.unreadable) == ({}, set(FIELDS))


def test_a_text_with_a_nul_rejects_its_row() -> None:
    assert read_row(row(firstName="A\x00da")) == RejectedRow("j57abc", "malformed_firstName", "user_1")


def test_no_value_shows_in_what_is_printed() -> None:
    found = read_row(row(firstName="canary"))
    patch = Patch(document_id="j57abc", clerk_id="user_1", before={"firstName": "canary"}, after={"email": "canary"})
    assert "canary" not in f"{found!r} {patch!r} {read_row(row(email=['canary'], lastName='canary'))!r}"


def test_the_undo_of_a_patch_is_the_patch_turned_round() -> None:
    patch = Patch(document_id="j57abc", clerk_id="user_1", before={"username": None}, after={"firstName": "Ada"})
    assert patch.as_json() == {
        "id": "j57abc",
        "clerkId": "user_1",
        "before": {"username": None},
        "after": {"firstName": "Ada"},
    }
