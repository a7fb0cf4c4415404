"""Look-ups by address: in groups, one by one, and where the vendor does not honour the question."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backfill_pipelines.errors import ConfigurationError, TransientError
from backfill_pipelines.sandbox.gohighlevel_data import KnownContact
from backfill_pipelines.vendors.gohighlevel import Found, GoHighLevel, canary_of
from backfill_pipelines.vendors.gohighlevel_records import Contact, Foreign, RejectedContact
from backfill_pipelines_tests.sandbox.gohighlevel_rig import (
    LOCATION,
    GoHighLevelRig,
    ask_at,
    location,
    running_gohighlevel,
)
from backfill_pipelines_tests.vendors.scripted_server import ScriptedServer, answer

NOWHERE = "nobody@nowhere.test"
NOT_HONOURED = Found(contacts=(), rejected=(), foreign=(), unasked=(), honoured=False)


def with_addresses(rig: GoHighLevelRig, count: int, *, first: int = 100) -> tuple[list[str], set[str]]:
    """Primary addresses of some contacts, and the ids of all that have one of them as their primary."""
    chosen = [rig.seeded.contact(number) for number in range(first, first + 2 * count)]
    addresses = [each.email for each in chosen if each.email is not None][:count]
    keys = {address.lower() for address in addresses}
    every = rig.seeded.seeded_contacts()
    return addresses, {each.id for each in every if each.email is not None and each.email.lower() in keys}


def canary(rig: GoHighLevelRig) -> str:
    address = rig.seeded.contact(0).email
    assert address is not None
    return address


def found_ids(found: Found) -> set[str]:
    return {contact.id for contact in found.contacts}


# --- groups ----------------------------------------------------------------------------------------------------------


def test_120_addresses_take_three_questions_and_the_canary_is_not_among_the_found() -> None:
    with running_gohighlevel(location(1_200)) as rig:
        addresses, ids = with_addresses(rig, 120)
        found = rig.ask(lambda ghl: ghl.by_emails([*addresses, NOWHERE], canary=canary(rig)))
        assert found.honoured
        assert found_ids(found) == ids
        assert len(ids) >= 120
        assert rig.calls() == 3


def test_fifty_addresses_in_a_million_contacts_take_two_questions() -> None:
    with running_gohighlevel(location(1_000_000)) as rig:
        some = [contact.email for number in range(7, 10**6, 15_013) if (contact := rig.seeded.contact(number)).email]
        addresses = [each for each in some if each is not None][:50]
        found = rig.ask(lambda ghl: ghl.by_emails(addresses, canary=canary(rig)))
        assert {contact.email for contact in found.contacts} == set(addresses)
        assert rig.calls() == 2


def test_spellings_of_one_address_are_one_question_and_blanks_around_them_do_not_matter() -> None:
    with running_gohighlevel(location(40)) as rig:
        address = canary(rig)
        found = rig.ask(lambda ghl: ghl.by_emails([f" {address.upper()}", address.title()], canary=address))
        assert found_ids(found) == {rig.seeded.contact_id(0)}
        assert rig.calls() == 1


def test_no_address_is_no_question() -> None:
    with running_gohighlevel(location(40)) as rig:
        assert rig.ask(lambda ghl: ghl.by_emails([], canary=canary(rig))).honoured
        assert rig.server.requests == []


@pytest.mark.parametrize("habit", ["ignored", "truncated", "refused"])
@pytest.mark.parametrize("contacts", [300, 1_200])
def test_a_location_that_does_not_honour_groups_is_found_out_whatever_it_does(habit: str, contacts: int) -> None:
    """Ignored, all contacts come, the canary among them."""
    with running_gohighlevel(location(contacts, or_groups=habit)) as rig:
        addresses, _ = with_addresses(rig, 60)
        assert rig.ask(lambda ghl: ghl.by_emails(addresses, canary=canary(rig))) == NOT_HONOURED
        assert rig.calls() <= 7


def test_a_canary_that_is_not_there_means_that_nothing_is_known() -> None:
    with running_gohighlevel(location(300)) as rig:
        addresses, _ = with_addresses(rig, 5)
        assert rig.ask(lambda ghl: ghl.by_emails(addresses, canary=NOWHERE)) == NOT_HONOURED


@settings(max_examples=12, deadline=None)
@given(limit=st.integers(2, 60), wanted=st.integers(1, 70))
def test_groups_shrink_to_what_the_vendor_takes_and_everybody_is_found(limit: int, wanted: int) -> None:
    with running_gohighlevel(location(300, filters_a_group=limit)) as rig:
        addresses, ids = with_addresses(rig, wanted)
        found = rig.ask(lambda ghl: ghl.by_emails(addresses, canary=canary(rig)))
        assert (found_ids(found), found.honoured, found.unasked) == (ids, True, ())


def test_the_size_that_the_vendor_takes_is_learned_once() -> None:
    async def twice(ghl: GoHighLevel) -> tuple[int, int]:
        await ghl.by_emails(addresses, canary=canary(rig))
        first = rig.calls()
        await ghl.by_emails(addresses, canary=canary(rig))
        return first, rig.calls() - first

    with running_gohighlevel(location(600, filters_a_group=20)) as rig:
        addresses, _ = with_addresses(rig, 147)
        first, second = rig.ask(twice)
        statuses = [each.status for each in rig.server.requests[first:]]
    assert set(statuses) == {200}
    assert second < first <= 20


def refusing_server(bad: str, **contact: Any) -> Any:
    """Answers 422 to every question that holds this address, and the canary's contact to all others."""

    def behave(connection: Any) -> bool:
        refused = bad in connection.server.received[-1].body.decode()
        wrong = {"statusCode": 422, "message": ["value is no email"]}
        right = {"contacts": [{"id": "c0", "locationId": LOCATION, "email": "canary@crm.example.com"}], "total": 1}
        return answer(422 if refused else 200, wrong if refused else right)(connection)

    return behave


def test_an_address_that_is_refused_by_itself_does_not_hold_up_the_others() -> None:
    addresses = [f"a{number}@crm.example.com" for number in range(49)]
    with ScriptedServer(refusing_server("a33@")) as server:
        found = ask_at(server.url, lambda ghl: ghl.by_emails(addresses, canary="canary@crm.example.com"))
        asked = {
            each["value"]
            for request in server.received
            if "a33@" not in request.body.decode()
            for each in json.loads(request.body)["filters"][0]["filters"]
        }
    assert found == Found(contacts=(), rejected=(), foreign=(), unasked=("a33@crm.example.com",), honoured=True)
    assert asked == {*addresses, "canary@crm.example.com"} - {"a33@crm.example.com"}


def test_the_canary_is_the_last_filter_of_a_group() -> None:
    rows = [{"id": "c0", "locationId": LOCATION, "email": "Canary@crm.example.com"}]
    with ScriptedServer(answer(200, {"contacts": rows, "total": 1})) as server:
        ask_at(server.url, lambda ghl: ghl.by_emails(["A@crm.example.com"], canary="Canary@crm.example.com"))
        (request,) = server.received
    assert json.loads(request.body)["filters"] == [
        {
            "group": "OR",
            "filters": [
                {"field": "email", "operator": "eq", "value": "a@crm.example.com"},
                {"field": "email", "operator": "eq", "value": "canary@crm.example.com"},
            ],
        }
    ]


def test_an_address_of_more_than_75_characters_is_told_as_unasked() -> None:
    longest, too_long = f"{'x' * 59}@crm.example.com", f"{'x' * 60}@crm.example.com"
    assert (len(longest), len(too_long)) == (75, 76)
    with running_gohighlevel(location(40)) as rig:
        rig.state.create_contact(KnownContact("cLongest000000000000", email=longest))
        rig.clock.now += 10
        found = rig.ask(lambda ghl: ghl.by_emails([longest, too_long], canary=canary(rig)))
        assert (found_ids(found), found.unasked) == ({"cLongest000000000000"}, (too_long,))
        single = rig.ask(lambda ghl: ghl.by_email(too_long))
        assert (single.contacts, single.unasked, rig.calls()) == ((), (too_long,), 1)


def test_more_contacts_of_an_address_than_a_page_holds_are_all_found() -> None:
    with running_gohighlevel(location(20)) as rig:
        for number in range(1_030):
            rig.state.create_contact(KnownContact(f"cOffice{number:013d}", email="office@umber.test"))
        rig.clock.now += 10
        found = rig.ask(lambda ghl: ghl.by_emails(["office@umber.test"], canary=canary(rig)))
        assert len(found_ids(found)) == 1_030
        assert rig.calls() == 3


@pytest.mark.parametrize("equality", ["primary", "any"])
def test_additional_addresses_are_found_where_the_location_looks_at_them(equality: str) -> None:
    with running_gohighlevel(location(40, email_equality=equality)) as rig:
        second = rig.seeded.contact(2)
        for question in (
            lambda ghl: ghl.by_email(second.additional_emails[0]),
            lambda ghl: ghl.by_emails([second.additional_emails[0]], canary=canary(rig)),
        ):
            found = rig.ask(question)
            assert found.honoured
            assert found_ids(found) == ({second.id} if equality == "any" else set())


def test_malformed_and_foreign_contacts_among_the_found_are_told() -> None:
    with running_gohighlevel(location(40)) as rig:
        addresses, _ = with_addresses(rig, 3, first=10)
        numbers = [rig.seeded.numbers_with(address.lower())[0] for address in addresses]
        spoilt, foreign, fine = (rig.seeded.contact_id(number) for number in numbers)
        rig.state.alter_contact(spoilt, phone=7)
        rig.state.alter_contact(foreign, locationId="elsewhere")
        found = rig.ask(lambda ghl: ghl.by_emails(addresses, canary=canary(rig)))
    assert found_ids(found) == {fine}
    assert found.rejected == (RejectedContact(spoilt, "malformed_contact"),)
    assert found.foreign == (Foreign(foreign),)
    assert "@" not in repr(found)


# --- one address -----------------------------------------------------------------------------------------------------


def test_one_address_finds_all_contacts_that_have_it() -> None:
    with running_gohighlevel(location(300)) as rig:
        address = rig.seeded.contact(230).email
        assert address is not None
        assert rig.seeded.contact(231).email == address
        found = rig.ask(lambda ghl: ghl.by_email(address.upper()))
        assert found_ids(found) == {rig.seeded.contact_id(230), rig.seeded.contact_id(231)}
        assert rig.ask(lambda ghl: ghl.by_email(NOWHERE)) == Found(
            contacts=(), rejected=(), foreign=(), unasked=(), honoured=True
        )


def test_a_single_search_that_finds_others_is_not_believed() -> None:
    rows = [{"id": "c1", "locationId": LOCATION, "email": "other@crm.example.com"}]
    with ScriptedServer(answer(200, {"contacts": rows, "total": 60_000})) as server:
        assert ask_at(server.url, lambda ghl: ghl.by_email("a@crm.example.com")) == NOT_HONOURED
        assert len(server.received) == 1


def test_an_address_that_the_vendor_refuses_is_told_as_unasked() -> None:
    with ScriptedServer(answer(400, {"statusCode": 400, "message": "invalid value"})) as server:
        assert ask_at(server.url, lambda ghl: ghl.by_email("a@crm.example.com")).unasked == ("a@crm.example.com",)


def test_a_wrong_token_is_no_matter_of_the_filter() -> None:
    with running_gohighlevel(location(40)) as rig:
        for question in (
            lambda ghl: ghl.by_email(NOWHERE),
            lambda ghl: ghl.by_emails([NOWHERE], canary=canary(rig)),
            lambda ghl: ghl.duplicate(NOWHERE),
        ):
            with pytest.raises(ConfigurationError) as caught:
                rig.ask(question, token="pit-unknown")
            assert caught.value.code == "unauthorized"


# --- the canary ------------------------------------------------------------------------------------------------------


def test_a_canary_is_an_address_that_can_be_filtered_by() -> None:
    def contact(email: str | None) -> Contact:
        return Contact(
            id="c1",
            location_id=LOCATION,
            email=email,
            additional_emails=(),
            phone=None,
            additional_phones=(),
            first_name=None,
            last_name=None,
            company_name=None,
            date_added=None,
            names_lowercased=False,
        )

    addresses = [None, f"{'x' * 80}@crm.example.com", "a@crm.example.com", "b@crm.example.com"]
    assert canary_of(map(contact, addresses)) == "a@crm.example.com"
    assert canary_of([contact(None)]) is None


# --- answers that are none -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [[], {}, {"contacts": None}, {"contacts": {}}, "contacts"])
def test_json_that_is_no_page_is_one_sentence(body: Any) -> None:
    with ScriptedServer(answer(200, body)) as server, pytest.raises(TransientError) as caught:
        ask_at(server.url, lambda ghl: ghl.by_email("a@crm.example.com"))
    assert caught.value.code == "malformed_response"


@pytest.mark.parametrize(
    ("stated", "total"),
    [({"total": 7}, 7), ({"count": 8}, 8), ({"total": 0, "count": 9}, 0), ({"total": "1542"}, 1542)],
)
def test_the_total_is_read_by_either_name_as_a_number_or_in_digits(stated: dict[str, Any], total: int) -> None:
    with ScriptedServer(answer(200, {"contacts": [], **stated})) as server:
        assert ask_at(server.url, lambda ghl: ghl.total()) == total


@pytest.mark.parametrize(
    "stated", [{}, {"total": None}, {"total": True}, {"total": -1}, {"total": "many"}, {"total": 7.5}]
)
def test_a_total_that_is_none_is_no_total(stated: dict[str, Any]) -> None:
    with ScriptedServer(answer(200, {"contacts": [], **stated})) as server:
        assert ask_at(server.url, lambda ghl: ghl.total()) is None


def test_parts_of_a_lookup_may_be_asked_at_the_same_time() -> None:
    async def in_parts(ghl: GoHighLevel) -> list[Found]:
        parts = [addresses[start : start + 40] for start in range(0, 120, 40)]
        return list(await asyncio.gather(*(ghl.by_emails(part, canary=canary(rig)) for part in parts)))

    with running_gohighlevel(location(600)) as rig:
        addresses, ids = with_addresses(rig, 120)
        assert set().union(*map(found_ids, rig.ask(in_parts))) == ids
