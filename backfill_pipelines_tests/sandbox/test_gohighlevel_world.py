"""The seeded contacts: the same for the same seed, found by id and address, and those of a client's leads."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backfill_pipelines.sandbox.gohighlevel_data import (
    GoHighLevelContact,
    GoHighLevelLocation,
    KnownContact,
    addresses_of,
    build_gohighlevel_location,
)
from backfill_pipelines.sandbox.gohighlevel_leads import LocationOfLeads, address_of, build_location_for_leads
from backfill_pipelines.sandbox.leads_and_jobs import SeededClient
from backfill_pipelines.sandbox.leads_rows import LeadRow


def contacts_of(location: GoHighLevelLocation) -> list[GoHighLevelContact]:
    return list(location.seeded_contacts())


def plain(contacts: int, *, seed: int = 1, location_id: str = "loc1") -> GoHighLevelLocation:
    return build_gohighlevel_location(seed, location_id, "pit", contacts=contacts)


def test_the_same_seed_gives_the_same_contacts_and_another_location_others() -> None:
    one = contacts_of(plain(500))
    assert one == contacts_of(plain(500))
    assert not {each.id for each in one} & {each.id for each in contacts_of(plain(500, location_id="loc2"))}
    assert not {each.id for each in one} & {each.id for each in contacts_of(plain(500, seed=2))}


@pytest.mark.parametrize("known", [0, 1, 7, 333, 1_000])
def test_every_contact_is_found_by_its_id_and_each_of_its_addresses(known: int) -> None:
    explicit = [KnownContact(f"k{place:019d}", email=f"Lead{place}@umber.test") for place in range(known)]
    location = GoHighLevelLocation(seed=1, location_id="loc1", token="pit", contacts=1_000, known=explicit)
    holders: defaultdict[str, list[int]] = defaultdict(list)
    contacts = contacts_of(location)
    for contact in contacts:
        assert location.number_of(contact.id) == contact.number
        assert contact.id == location.contact_id(contact.number)
        for address in addresses_of(contact):
            holders[address].append(contact.number)
    assert {address: location.numbers_with(address) for address in holders} == holders
    assert len({contact.id for contact in contacts}) == 1_000
    assert sum(contact.id.startswith("k") for contact in contacts) == known


def test_known_contacts_are_dealt_evenly() -> None:
    explicit = [KnownContact(f"k{place:019d}") for place in range(50)]
    location = GoHighLevelLocation(seed=1, location_id="loc1", token="pit", contacts=1_000_000, known=explicit)
    assert [location.number_of(each.id) for each in explicit] == list(range(0, 1_000_000, 20_000))
    with pytest.raises(ValueError, match="use as many or more"):
        GoHighLevelLocation(seed=1, location_id="loc1", token="pit", contacts=49, known=explicit)


@given(text=st.text(max_size=40) | st.from_regex(r"[a-z.]{1,8}\.\d{1,12}b?@crm\.example\.com", fullmatch=True))
def test_what_is_no_id_and_no_address_of_the_location_finds_nothing(text: str) -> None:
    location = plain(1_000)
    assert location.number_of(text) is None
    for number in location.numbers_with(text.lower()):
        assert text.lower() in addresses_of(location.contact(number))


def test_every_oddity_is_there_in_a_small_location() -> None:
    contacts = contacts_of(plain(300))
    assert any(each.email is None for each in contacts)
    assert any(each.email and each.email != each.email.lower() for each in contacts)
    assert any(count > 1 for count in Counter(each.email for each in contacts if each.email).values())
    assert any(each.additional_emails for each in contacts)
    assert any(each.additional_phones for each in contacts)
    assert any(each.phone is None for each in contacts)
    assert any(each.phone == "call me" for each in contacts)
    assert any(each.first_name is None for each in contacts)
    assert any(each.last_name is None for each in contacts)
    assert any(each.company_name is None for each in contacts)


def test_nobody_in_there_exists() -> None:
    for contact in contacts_of(plain(2_000)):
        for address in addresses_of(contact):
            assert address.endswith((".example.com", ".test"))
        assert contact.phone is None or "555" in contact.phone or not contact.phone.startswith("+1")


# --- the contacts of leads -------------------------------------------------------------------------------------------


def of_leads(leads: int, **arguments: int) -> tuple[list[LeadRow], LocationOfLeads]:
    rows = list(SeededClient("1001", leads=leads, jobs=0, seed=4).leads())
    return rows, build_location_for_leads(rows, seed=4, location_id="loc1", token="pit", **arguments)


@settings(max_examples=15, deadline=None)
@given(leads=st.integers(1, 700), foreign=st.integers(0, 3), more=st.integers(0, 500))
def test_an_outcome_is_what_looking_at_every_contact_comes_to(leads: int, foreign: int, more: int) -> None:
    rows, found = of_leads(leads, foreign=foreign, contacts=2 * leads + more)
    primary: defaultdict[str, list[str]] = defaultdict(list)
    additional: defaultdict[str, list[str]] = defaultdict(list)
    ids = set()
    for contact in found.location.seeded_contacts():
        ids.add(contact.id)
        if contact.email:
            primary[contact.email.lower()].append(contact.id)
        for address in contact.additional_emails:
            additional[address.lower()].append(contact.id)
    for lead in rows:
        kind, contact_id = found.outcomes[lead.id]
        if lead.ghl_contact_id:
            here = lead.ghl_contact_id in ids
            assert kind == (
                "by_id" if here else "foreign" if lead.ghl_contact_id in found.location.foreign_ids else "gone"
            )
            assert contact_id == (lead.ghl_contact_id if here else None)
            continue
        address = address_of(lead)
        if address is None:
            assert kind == ("not_found" if (lead.email or "").strip() else "without_key")
            continue
        as_primary, as_additional = primary[address], additional[address]
        meant = as_primary or as_additional
        assert kind == (
            "not_found"
            if not meant
            else "ambiguous"
            if len(meant) > 1
            else "by_email"
            if as_primary
            else "by_additional_email"
        )
        assert contact_id == (meant[0] if len(meant) == 1 else None)
    assert sum(outcome.kind == "foreign" for outcome in found.outcomes.values()) <= foreign


def test_every_outcome_has_its_share() -> None:
    rows, found = of_leads(3_000, foreign=2)
    counts = Counter(outcome.kind for outcome in found.outcomes.values())
    assert sum(counts.values()) == len(rows) == 3_000
    assert counts["foreign"] == 2
    for kind, least in {
        "by_id": 0.15,
        "gone": 0.01,
        "by_email": 0.35,
        "by_additional_email": 0.02,
        "ambiguous": 0.02,
        "not_found": 0.03,
        "without_key": 0.05,
    }.items():
        assert counts[kind] >= least * 3_000, kind
    contacts = [contact for contact in found.location.seeded_contacts() if contact.id.startswith(("k", "ghl"))]
    assert any(contact.first_name is None for contact in contacts)
    assert any(contact.phone is None for contact in contacts)
    assert any(contact.phone == "555-0134" for contact in contacts)


def test_the_same_leads_give_the_same_location() -> None:
    one, other = (of_leads(200)[1] for _ in range(2))
    assert one.outcomes == other.outcomes
    assert contacts_of(one.location) == contacts_of(other.location)


def test_a_location_is_as_large_as_it_is_asked_to_be() -> None:
    _, small = of_leads(50, contacts=1_000_000)
    assert small.location.contacts == 1_000_000
    _, natural = of_leads(1_000)
    assert 500 < natural.location.contacts < 1_500
    with pytest.raises(ValueError, match="use as many or more"):
        of_leads(1_000, contacts=10)
