"""The decisions of `lead_hydration`: which contact a lead has, and which of its fields are filled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill_pipelines.backfills.lead_hydration_matching import (
    ABSENT,
    FOUND_UNPROVEN,
    SEARCHED,
    Asked,
    Contact,
    Contacts,
    Lead,
    Wanted,
    address_key,
)
from backfill_pipelines.backfills.lead_hydration_plan import HydrationPlan, Rules, digits_of
from backfill_pipelines.backfills.lead_hydration_source import estimated_total, is_scan_worth_it
from backfill_pipelines.vendors.gohighlevel import ContactPage, RejectedContact
from backfill_pipelines_tests.backfills.hydration_reference import Expected, ReferenceContact, expected

SCANNED = Asked(scanned=True, addresses={})
CODES = {"gone": "contact_gone", "foreign": "foreign_contact", "malformed": "malformed_contact"}
Outcome = tuple[str, str | None, Mapping[str, str] | None]


def lead(identifier: str = "a", **values: str | None) -> Lead:
    empty: dict[str, str | None] = dict.fromkeys(Lead._fields)
    return Lead(**{**empty, "updated_at": "2026-01-01T00:00:00+00:00", **values, "id": identifier})  # type: ignore[arg-type]


def contact(identifier: str = "c1", **values: Any) -> Contact:
    empty: dict[str, Any] = dict.fromkeys(Contact._fields)
    return Contact(**{**empty, "additional_emails": [], "names_lowercased": False, **values, "contact_id": identifier})


def frame_of(contacts: Iterable[Contact]) -> pd.DataFrame:
    return pd.DataFrame(list(contacts), columns=list(Contact._fields), dtype=object)


def plan_of(
    leads: Sequence[Lead],
    contacts: Iterable[Contact] = (),
    *,
    asked: Asked = SCANNED,
    phone_format: Literal["e164", "digits"] = "e164",
    region: str = "US",
    linked_before: Mapping[str, int] | None = None,
    store_skips: bool = True,
) -> tuple[HydrationPlan, dict[str, Outcome]]:
    wanted = Wanted.by(leads)
    plan = HydrationPlan(
        leads,
        Contacts([frame_of(contacts)], wanted, asked),
        rules=Rules(region=region, phone_format=phone_format),
        linked_before=linked_before or {},
        store_skips=store_skips,
    )
    rows = [row for frame in plan.frames() for row in frame.itertuples(index=False)]
    outcomes = {str(row.record_key): (str(row.action), row.reason, row.after) for row in rows}
    assert len(outcomes) == len(rows)
    return plan, outcomes  # type: ignore[return-value]


def outcome_of(only: Lead, *contacts: Contact, **given_: Any) -> Outcome:
    return plan_of([only], contacts, **given_)[1][only.id]


# --- the rules, one by one -------------------------------------------------------------------------------------------


def test_a_lead_with_an_id_is_filled_from_that_contact_whatever_its_address() -> None:
    assert outcome_of(
        lead(ghl_contact_id=" c1\n", email="ada@example.com"),
        contact("c1", email="other@example.com", phone="(205) 555-0111", first_name=" Ada ", company_name="Ash & Co"),
        contact("c2", email="ada@example.com", last_name="Wrong"),
    ) == ("update", None, {"phone": "+12055550111", "first_name": "Ada", "company_name": "Ash & Co"})


def test_a_lead_with_an_address_is_linked_and_filled_where_one_contact_has_it() -> None:
    found = contact("c1", email="ADA@Example.com", last_name="Ash")
    assert outcome_of(lead(email=" Ada@example.COM "), found) == (
        "update",
        None,
        {"ghl_contact_id": "c1", "last_name": "Ash"},
    )


def test_a_primary_address_is_meant_before_an_additional_one() -> None:
    primary = contact("c1", email="ada@example.com")
    additional = contact("c2", email="b@example.com", additional_emails=["ADA@example.com"])
    assert outcome_of(lead(email="ada@example.com"), additional, primary)[2] == {"ghl_contact_id": "c1"}
    assert outcome_of(lead(email="ada@example.com"), additional)[2] == {"ghl_contact_id": "c2"}


@pytest.mark.parametrize("addresses", [{"email": "ada@example.com"}, {"additional_emails": ["Ada@example.com"]}])
def test_several_contacts_with_an_address_are_a_conflict(addresses: dict[str, Any]) -> None:
    two = [contact("c1", **addresses), contact("c2", **addresses)]
    assert outcome_of(lead(email="ada@example.com"), *two) == ("conflict", "ambiguous_contact", None)


def test_a_contact_that_has_an_address_twice_is_one() -> None:
    both = contact("c1", email="ada@example.com", additional_emails=["ada@example.com", "ADA@example.com"])
    assert outcome_of(lead(email="ada@example.com"), both)[2] == {"ghl_contact_id": "c1"}


@pytest.mark.parametrize("email", [None, "", " \u00a0"])
def test_a_lead_with_neither_id_nor_address_is_skipped(email: str | None) -> None:
    assert outcome_of(lead(email=email), contact(email=email)) == ("skip", "no_key", None)


@pytest.mark.parametrize("email", ["n/a", "none", "ada@", "@example.com", "ada@localhost", "a@b@c"])
def test_an_address_that_is_none_is_nobody_s(email: str) -> None:
    assert outcome_of(lead(email=email), contact(email=email)) == ("reject", "not_found", None)


def test_only_empty_fields_are_filled_and_blanks_are_empty() -> None:
    full = contact("c1", email="new@example.com", phone="+12055550111", first_name="New", last_name="New")
    there = lead(ghl_contact_id="c1", phone="what people wrote", first_name=" ", last_name="Own", email="\u00a0")
    assert outcome_of(there, full)[2] == {"first_name": "New", "email": "new@example.com"}


def test_a_field_that_the_contact_lacks_stays_empty() -> None:
    assert outcome_of(lead(ghl_contact_id="c1"), contact("c1", first_name="  ")) == ("skip", "nothing_to_fill", None)


@pytest.mark.parametrize(
    ("raw", "region", "e164", "digits"),
    [
        ("(205) 555-0111", "US", "+12055550111", "2055550111"),
        ("020 7946 0958", "GB", "+442079460958", "442079460958"),
        ("+44 20 7946 0958", "US", "+442079460958", "442079460958"),
        ("+65 8234 5678", "US", "+6582345678", "+6582345678"),
    ],
)
def test_a_phone_is_stored_normalised(raw: str, region: str, e164: str, digits: str) -> None:
    found = contact("c1", phone=raw)
    for form, number in (("e164", e164), ("digits", digits)):
        assert outcome_of(lead(ghl_contact_id="c1"), found, region=region, phone_format=form)[2] == {"phone": number}


def test_digits_of_ten_that_are_no_number_of_north_america_keep_their_plus() -> None:
    assert digits_of("+6582345678") == "+6582345678"


@pytest.mark.parametrize("raw", ["555-0134", "0000000000", "call me", "617-8807"])
def test_an_invalid_phone_is_not_stored_and_counted(raw: str) -> None:
    plan, outcomes = plan_of([lead(ghl_contact_id="c1")], [contact("c1", phone=raw, last_name="Ash")])
    assert outcomes["a"][2] == {"last_name": "Ash"}
    assert plan.figures.noted == {"invalid_phone": 1}


def test_an_invalid_phone_of_a_contact_whose_lead_has_one_is_nobody_s_concern() -> None:
    plan, _ = plan_of([lead(ghl_contact_id="c1", phone="+12055550111")], [contact("c1", phone="call me")])
    assert not plan.figures.noted


def test_names_in_lower_case_are_not_stored_but_the_rest_is() -> None:
    found = contact("c1", first_name="ada", last_name="ash", company_name="ash & co", names_lowercased=True)
    assert outcome_of(lead(ghl_contact_id="c1"), found)[2] == {"company_name": "ash & co"}


@pytest.mark.parametrize(
    ("code", "action"),
    [
        ("contact_gone", "reject"),
        ("malformed_contact", "reject"),
        ("refused_contact_id", "reject"),
        ("foreign_contact", "conflict"),
    ],
)
def test_a_contact_that_cannot_be_used_leaves_its_lead_alone(code: str, action: str) -> None:
    _, outcomes = plan_of([lead(ghl_contact_id="c1", email="ada@example.com")], [contact("c1", rejected=code)])
    assert outcomes == {"a": (action, code, None)}, "one row: the contact is no second one"


def test_a_malformed_contact_that_no_lead_names_is_a_row_of_its_own() -> None:
    plan, outcomes = plan_of([lead(email="ada@example.com")], [contact("c9", rejected="malformed_contact")])
    assert outcomes["c9"] == ("reject", "malformed_contact", None)
    assert plan.figures.shown() | {"filled": {}} == {
        "eligible": 1,
        "linked": 0,
        "filled": {},
        "not_found": 1,
        "ambiguous": 0,
        "rejected": 1,
        "no_key": 0,
    }


def test_an_id_too_long_to_be_one_is_rejected() -> None:
    assert outcome_of(lead(ghl_contact_id="x" * 256)) == ("reject", "invalid_contact_id", None)


def test_a_contact_of_several_leads_is_allowed_and_counted() -> None:
    leads = [lead("a", email="ada@example.com"), lead("b", email="ADA@example.com"), lead("c", email="cy@example.com")]
    contacts = [contact("c1", email="ada@example.com"), contact("c2", email="cy@example.com")]
    plan, outcomes = plan_of(leads, contacts)
    assert {key: after for key, (_, _, after) in outcomes.items()} == {
        "a": {"ghl_contact_id": "c1"},
        "b": {"ghl_contact_id": "c1"},
        "c": {"ghl_contact_id": "c2"},
    }
    assert plan.figures.noted == {"shared_contact": 2}
    plan, _ = plan_of(leads[2:], contacts, linked_before={"c2": 1})
    assert plan.figures.noted == {"shared_contact": 1}


def test_what_the_location_was_not_asked_is_left_to_the_next_run() -> None:
    later = ("skip", "came_later", None)
    known = contact("c1", email="ada@example.com")
    asked = Asked(scanned=False, addresses={"cy@example.com": SEARCHED})
    assert outcome_of(lead(email="ada@example.com"), known, asked=asked) == later, "another may have it, too"
    assert outcome_of(lead(email="cy@example.com"), known, asked=asked) == ("reject", "not_found", None)
    assert outcome_of(lead(ghl_contact_id="c2"), known, asked=asked) == later


def test_a_lead_that_came_between_two_readings_is_left_to_the_next_run() -> None:
    first, second = lead("a", email="ada@example.com"), lead("b", email="bo@example.com")
    plan = HydrationPlan(
        [first, second],
        Contacts([frame_of([contact("c1", email="bo@example.com")])], Wanted.by([first]), SCANNED),
        rules=Rules(region="US", phone_format="e164"),
        linked_before={},
    )
    (frame,) = plan.frames()
    assert frame["record_key"].tolist() == ["a"]
    assert plan.skips == {"came_later": 1}


@pytest.mark.parametrize(("outcome", "told"), [(FOUND_UNPROVEN, "unproven_contact"), (ABSENT, "not_found")])
def test_a_contact_that_may_be_one_of_several_is_left_to_a_person(outcome: str, told: str) -> None:
    asked = Asked(scanned=False, addresses={"ada@example.com": outcome})
    assert outcome_of(lead(email="ada@example.com"), asked=asked)[1] == told


@pytest.mark.parametrize(
    ("found", "asked", "told"),
    [
        ({"additional_emails": ["ada@example.com"]}, Asked(False, {"ada@example.com": SEARCHED}), "conflict"),
        ({"additional_emails": ["ada@example.com"]}, Asked(False, {"ada@example.com": SEARCHED}, True), "update"),
        ({"additional_emails": ["ada@example.com"]}, SCANNED, "update"),
        ({"email": "ada@example.com"}, Asked(False, {"ada@example.com": SEARCHED}), "update"),
        ({"email": "ada@example.com"}, Asked(False, {"ada@example.com": FOUND_UNPROVEN}), "conflict"),
    ],
)
def test_a_contact_that_was_read_by_chance_is_not_taken_for_the_only_one(
    found: dict[str, Any], asked: Asked, told: str
) -> None:
    assert outcome_of(lead(email="ada@example.com"), contact("c1", **found), asked=asked)[0] == told


def test_a_row_compares_with_what_the_contact_was_found_by() -> None:
    given_ = lead(email=" Ada@example.com", first_name="")
    wanted = Wanted.by([given_])
    plan = HydrationPlan(
        [given_],
        Contacts([frame_of([contact("c1", email="ada@example.com", first_name="Ada")])], wanted, SCANNED),
        rules=Rules(region="US", phone_format="e164"),
        linked_before={},
    )
    (frame,) = plan.frames()
    assert frame["before"].tolist() == [
        {
            "id": "a",
            "updated_at": "2026-01-01T00:00:00+00:00",
            "ghl_contact_id": None,
            "email": " Ada@example.com",
            "first_name": "",
        }
    ]


# --- how few calls ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "look_ups", "worth_it"),
    [
        (60_000, 50_000, True),
        (60_000, 2_400, True),
        (60_000, 2_399, False),
        (1_000_000, 50, False),
        (500, 1, True),
        (501, 20, False),
        (501, 21, True),
        (0, 5, True),
    ],
)
def test_all_contacts_are_read_where_a_page_spares_twenty_look_ups(total: int, look_ups: int, worth_it: bool) -> None:
    assert is_scan_worth_it(total, look_ups) is worth_it


@pytest.mark.parametrize(
    ("rows", "total", "read", "estimated"),
    [(500, 1_200, 500, 1_200), (500, None, 500, 1_000), (500, None, 1_500, 2_000), (499, None, 999, 999)],
)
def test_where_the_vendor_does_not_count_its_contacts_a_full_page_is_followed_by_another(
    rows: int, total: int | None, read: int, estimated: int
) -> None:
    rejected = tuple(RejectedContact(None, "malformed_contact") for _ in range(rows))
    page = ContactPage(rows=(), rejected=rejected, foreign=(), following=None, total=total)
    assert estimated_total(page, read=read) == estimated


def test_a_name_is_asked_for_where_a_lead_lacks_it_and_only_its_lower_case_is_known() -> None:
    leads = [
        lead("a", ghl_contact_id="c1", first_name="Ada"),
        lead("b", email="bo@example.com", last_name="Birch"),
        lead("c", email="cy@example.com"),
        lead("d", ghl_contact_id="c4", first_name="Dee", last_name="Dale"),
    ]
    lowered = {"names_lowercased": True, "first_name": "x", "last_name": "y"}
    contacts = [
        contact("c1", **{**lowered, "last_name": None}),
        contact("c2", email="bo@example.com", **lowered),
        contact("c3", email="cy@example.com", first_name="Cy"),
        contact("c4", **lowered),
    ]
    assert Contacts([frame_of(contacts)], Wanted.by(leads), SCANNED).lacking_names() == ["c2"]


# --- any world -------------------------------------------------------------------------------------------------------

_ADDRESSES = ["ada@example.com", "bo@example.com", "cy@home.test", "dee@home.test"]
_SPELT = st.sampled_from(_ADDRESSES).flatmap(
    lambda address: st.sampled_from([address, address.upper(), f" {address}", f"{address}\u00a0", address.title()])
)
_IDS = [f"c{number}" for number in range(6)]
_FIELD = st.sampled_from([None, None, "", "  ", "Ada", " Ash \n", "\u00a0"])
_PHONE = st.sampled_from([None, "", "(205) 555-0111", "+442079460958", "555-0134", "call me", " 205 555 0122 "])

_LEADS = st.lists(
    st.fixed_dictionaries(
        {
            "ghl_contact_id": st.sampled_from([None, None, "", " ", *_IDS, "c1 ", "c99"]),
            "email": st.one_of(st.none(), st.sampled_from(["", "n/a", "ada@", " "]), _SPELT),
            "phone": _PHONE,
            "first_name": _FIELD,
            "last_name": _FIELD,
            "company_name": _FIELD,
        }
    ),
    max_size=12,
)
_CONTACTS = st.lists(
    st.builds(
        ReferenceContact,
        id=st.sampled_from(_IDS),
        email=st.one_of(st.none(), _SPELT),
        also=st.lists(_SPELT, max_size=2).map(tuple),
        phone=_PHONE,
        first_name=_FIELD,
        last_name=_FIELD,
        company_name=_FIELD,
        state=st.sampled_from(["good", "good", "good", "good", "gone", "foreign", "malformed"]),
    ),
    unique_by=lambda each: each.id,
    max_size=6,
)


def landed(each: ReferenceContact) -> Contact:
    if each.state != "good":
        return contact(each.id, rejected=CODES[each.state])
    return contact(
        each.id,
        email=each.email,
        additional_emails=list(each.also),
        phone=each.phone,
        first_name=each.first_name,
        last_name=each.last_name,
        company_name=each.company_name,
    )


@given(leads=_LEADS, contacts=_CONTACTS)
def test_every_lead_of_any_world_is_treated_as_the_rules_say(
    leads: list[dict[str, str | None]], contacts: list[ReferenceContact]
) -> None:
    rows = [lead(f"lead {number}", **values) for number, values in enumerate(leads)]
    # Whom a scan has not seen was asked for by its id: nobody was there.
    absent = {(row.ghl_contact_id or "").strip() for row in rows} - {each.id for each in contacts} - {""}
    gone = [contact(each, rejected="contact_gone") for each in sorted(absent)]
    plan, outcomes = plan_of(rows, [*map(landed, contacts), *gone])
    found = {key: Expected(*each) for key, each in outcomes.items() if key.startswith("lead ")}
    assert found == {row.id: expected(row._asdict(), contacts) for row in rows}
    figures = plan.figures
    updates = [each for each in found.values() if each.action == "update"]
    assert figures.eligible == len(rows) == len(updates) + figures.reasons.total()
    assert figures.linked == sum("ghl_contact_id" in (each.after or {}) for each in updates)
    # What was written is what a second plan leaves alone.
    written = [row._replace(**(found[row.id].after or {})) for row in rows]
    again = plan_of(written, [*map(landed, contacts), *gone])[1]
    assert not [key for key, (action, _, _) in again.items() if action == "update"]


@given(leads=_LEADS, contacts=_CONTACTS, order=st.randoms())
def test_the_order_of_contacts_decides_nothing(
    leads: list[dict[str, str | None]], contacts: list[ReferenceContact], order: Any
) -> None:
    rows = [lead(f"lead {number}", **values) for number, values in enumerate(leads)]
    there = list(map(landed, contacts))
    before = plan_of(rows, there)[1]
    order.shuffle(there)
    assert plan_of(rows, there)[1] == before


@given(st.text(max_size=40))
def test_the_form_in_which_addresses_are_compared_is_its_own(raw: str) -> None:
    key = address_key(raw)
    assert key is None or address_key(key) == key
