"""Reading contacts: both shapes, odd ones, and those of somebody else."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill_pipelines.vendors.gohighlevel_records import Contact, Foreign, RejectedContact, read_contact

LOCATION = "loc1"


def row(**fields: Any) -> dict[str, Any]:
    return {"id": "c1", "locationId": LOCATION, **fields}


def read(**fields: Any) -> Contact:
    found = read_contact(row(**fields), LOCATION)
    assert isinstance(found, Contact)
    return found


def test_a_contact_by_its_id_and_as_a_row_of_a_search_are_read_alike() -> None:
    by_id = read(
        firstName="Zoë",
        lastName="Quill",
        firstNameLowerCase="zoë",
        lastNameLowerCase="quill",
        email="Zoe@crm.example.com",
        emailLowerCase="zoe@crm.example.com",
        additionalEmails=[{"email": "z@letters.example.com"}],
        additionalPhones=[{"phone": "+12055550101"}],
        phone="+12055550100",
        companyName="Umber Books",
        dateAdded="2024-01-08T08:00:00.250Z",
    )
    found = read(
        firstName="Zoë",
        lastName="Quill",
        email="Zoe@crm.example.com",
        additionalEmails=["z@letters.example.com"],
        additionalPhones=["+12055550101"],
        phone="+12055550100",
        companyName="Umber Books",
        dateAdded=1_704_700_800_250,
        searchAfter=[1_704_700_800_250, "c1"],
    )
    assert by_id == found
    assert found == Contact(
        id="c1",
        location_id=LOCATION,
        email="Zoe@crm.example.com",
        additional_emails=("z@letters.example.com",),
        phone="+12055550100",
        additional_phones=("+12055550101",),
        first_name="Zoë",
        last_name="Quill",
        company_name="Umber Books",
        date_added=datetime(2024, 1, 8, 8, 0, 0, 250_000, tzinfo=UTC),
        names_lowercased=False,
    )
    assert found.addresses == {"zoe@crm.example.com", "z@letters.example.com"}


@pytest.mark.parametrize(
    ("names", "first", "last", "lowercased"),
    [
        ({"firstNameLowerCase": "zoë", "lastNameLowerCase": "quill"}, "zoë", "quill", True),
        ({"firstName": "Zoë", "firstNameLowerCase": "zoë", "lastNameLowerCase": "quill"}, "Zoë", "quill", True),
        ({"firstName": None, "lastName": "Quill", "firstNameLowerCase": "zoë"}, "zoë", "Quill", True),
        ({"firstName": "Zoë", "lastName": None, "firstNameLowerCase": "zoë"}, "Zoë", None, False),
        ({"firstName": " ", "lastName": "", "firstNameLowerCase": None}, None, None, False),
        ({}, None, None, False),
    ],
)
def test_a_name_that_is_only_there_in_lower_case_is_marked(
    names: dict[str, Any], first: str | None, last: str | None, lowercased: bool
) -> None:
    found = read(**names)
    assert (found.first_name, found.last_name, found.names_lowercased) == (first, last, lowercased)


def test_nulls_and_blanks_are_everyday() -> None:
    names = ("email", "phone", "firstName", "lastName", "companyName", "additionalEmails", "additionalPhones")
    nothing = read(**dict.fromkeys([*names, "dateAdded"]))
    assert nothing == read(email=" ", phone="", additionalEmails=[None, " ", {"email": None}, {}], dateAdded="soon")
    assert (nothing.email, nothing.additional_emails, nothing.addresses) == (None, (), frozenset())


@pytest.mark.parametrize(
    "wrong",
    [
        {"email": 7},
        {"email": ["a@crm.example.com"]},
        {"phone": 2055550100},
        {"firstName": {"value": "Zoë"}},
        {"lastNameLowerCase": False},
        {"companyName": []},
        {"additionalEmails": "a@crm.example.com"},
        {"additionalEmails": [{"email": 7}]},
        {"additionalEmails": [["a@crm.example.com"]]},
        {"additionalPhones": {"phone": "1"}},
        {"dateAdded": [2024]},
        {"dateAdded": True},
        # Without what a database does not take, it would be another address.
        {"email": "a\x00@crm.example.com"},
        {"additionalEmails": ["a@crm\ud83d.example.com"]},
    ],
)
def test_a_wrong_type_makes_one_rejected_contact(wrong: dict[str, Any]) -> None:
    assert read_contact(row(**wrong), LOCATION) == RejectedContact("c1", "malformed_contact")


@pytest.mark.parametrize("odd_id", [None, 7, "", "x" * 256, "c\x001", "c\ud83d"])
def test_a_contact_without_a_readable_id_is_rejected_without_one(odd_id: Any) -> None:
    assert read_contact(row(id=odd_id), LOCATION) == RejectedContact(None, "malformed_contact")


@pytest.mark.parametrize("owner", ["loc2", None, 7, "LOC1", ["loc1"]])
def test_whose_contact_it_is_is_asked_before_anything_else(owner: Any) -> None:
    assert read_contact(row(locationId=owner, email=7), LOCATION) == Foreign("c1")
    assert read_contact({"id": "c1"}, LOCATION) == Foreign("c1")


@given(row=st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["id", "locationId", "email", "additionalEmails", "dateAdded", "phone", "firstName"]), inner
    ),
    max_leaves=12,
))  # fmt: skip
def test_whatever_comes_is_read_or_refused_and_never_shown(row: Any) -> None:
    found = read_contact(row | {"locationId": LOCATION} if isinstance(row, dict) else row, LOCATION)
    assert isinstance(found, Contact | RejectedContact)


def test_no_personal_value_stands_in_a_repr() -> None:
    canary = "canary@crm.example.com"
    found = read(
        email=canary, phone=canary, firstName=canary, lastName=canary, companyName=canary, additionalEmails=[canary]
    )
    assert "canary" not in repr(found)
