"""The client of GoHighLevel against the stateful fake: whole scans, single contacts, and nothing written."""

from __future__ import annotations

import json
from contextlib import aclosing
from typing import Any

import pytest

from backfill_pipelines.errors import BackfillError, ErrorCategory
from backfill_pipelines.sandbox.gohighlevel_data import GoHighLevelLocation, KnownContact, build_gohighlevel_location
from backfill_pipelines.vendors.gohighlevel import (
    Contact,
    ContactPage,
    Foreign,
    GoHighLevel,
    Gone,
    Position,
    RejectedContact,
)
from backfill_pipelines_tests.sandbox.gohighlevel_rig import (
    LOCATION,
    TOKEN,
    GoHighLevelRig,
    ask_at,
    location,
    running_gohighlevel,
)
from backfill_pipelines_tests.vendors.scripted_server import ScriptedServer, answer


async def read_all(ghl: GoHighLevel, position: Position | None = None) -> list[ContactPage]:
    async with aclosing(ghl.scan(position)) as pages:
        return [page async for page in pages]


def distinct(pages: list[ContactPage]) -> set[str]:
    return {row.id for page in pages for row in page.rows}


def seeded_ids(rig: GoHighLevelRig) -> set[str]:
    return {contact.id for contact in rig.seeded.seeded_contacts()}


# --- scans -----------------------------------------------------------------------------------------------------------


def test_every_seeded_contact_arrives_with_every_field_in_one_request_for_500() -> None:
    with running_gohighlevel(location(1_200)) as rig:
        pages = rig.ask(read_all)
        assert rig.calls() == 4
        found = {row.id: row for page in pages for row in page.rows}
        for seeded in rig.seeded.seeded_contacts():
            row = found.pop(seeded.id)
            assert row.date_added is not None
            assert (row.location_id, row.email, row.additional_emails, row.phone, row.additional_phones) == (
                LOCATION,
                seeded.email,
                seeded.additional_emails,
                seeded.phone,
                seeded.additional_phones,
            )
            assert (row.first_name, row.last_name, row.company_name, row.names_lowercased) == (
                seeded.first_name,
                seeded.last_name,
                seeded.company_name,
                False,
            )
            assert round(row.date_added.timestamp() * 1000) == seeded.date_added
        assert not found
    assert [page.total for page in pages] == [1_200] * 4
    assert [page.following is None for page in pages] == [False, False, False, True]


def test_a_scan_killed_after_each_page_goes_on_from_what_a_database_would_have_kept() -> None:
    stored: list[str] = []
    ids: list[str] = []

    async def first_page(ghl: GoHighLevel) -> ContactPage:
        async with aclosing(ghl.scan(json.loads(stored[-1]) if stored else None)) as pages:
            return await anext(pages)

    with running_gohighlevel(location(1_200)) as rig:
        while True:
            page = rig.ask(first_page)
            ids += [row.id for row in page.rows]
            if page.following is None:
                break
            stored.append(json.dumps(page.following))
        assert len(ids) == len(set(ids)) == 1_200
        assert rig.calls() == 4
        assert "@" not in "".join(stored)


def test_a_vendor_that_repeats_its_last_page_does_not_keep_us_for_ever() -> None:
    with running_gohighlevel(location(700, end_of_scan="repeats")) as rig:
        pages = rig.ask(read_all)
        assert rig.calls() == 3
        assert distinct(pages) == seeded_ids(rig)
        assert pages[-1].following is None


def test_a_short_page_is_not_the_end() -> None:
    with running_gohighlevel(location(1_200), faults=[{"kind": "short_page", "rows": 7, "nth": 2}]) as rig:
        pages = rig.ask(read_all)
        assert [len(page.rows) for page in pages] == [500, 7, 500, 193, 0]
        assert distinct(pages) == seeded_ids(rig)


def test_rows_may_come_twice_and_none_is_missed() -> None:
    with running_gohighlevel(location(1_200), faults=[{"kind": "repeat_rows", "rows": 30, "nth": 2}]) as rig:
        pages = rig.ask(read_all)
        assert sum(len(page.rows) for page in pages) == 1_230
        assert distinct(pages) == seeded_ids(rig)


def test_whoever_exists_throughout_is_found_while_others_come_and_disappear() -> None:
    faults = [
        {"kind": "delete_served_contacts", "contacts": 3, "count": 4},
        {"kind": "delete_oldest_contacts", "contacts": 40, "count": 4},
        {"kind": "create_contacts", "contacts": 5, "count": 4},
        {"kind": "total_off", "by": -17, "nth": 2},
    ]
    with running_gohighlevel(location(1_700, index_lag_seconds=0.0), faults=faults) as rig:
        pages = rig.ask(read_all)
        existing = {each.id for each in rig.seeded.seeded_contacts() if rig.state.exists(each.number)}
        assert existing < seeded_ids(rig)
        assert existing <= distinct(pages)
        assert len({page.total for page in pages}) > 1


def test_a_contact_that_was_just_made_is_not_in_the_index_yet() -> None:
    with running_gohighlevel(location(10, index_lag_seconds=3.0)) as rig:
        made = rig.state.create_contact()
        assert made not in distinct(rig.ask(read_all))
        assert isinstance(rig.ask(lambda ghl: ghl.contact(made)), Contact)
        rig.clock.now += 3.0
        assert made in distinct(rig.ask(read_all))
        rig.state.delete_contacts([made])
        assert made in distinct(rig.ask(read_all))
        assert rig.ask(lambda ghl: ghl.contact(made)) == Gone(made)


def test_malformed_contacts_are_counted_and_the_others_go_on() -> None:
    with running_gohighlevel(location(600)) as rig:
        spoilt = [rig.seeded.contact_id(number) for number in (3, 499, 599)]
        for contact_id, fields in zip(spoilt, ({"phone": 1}, {"searchAfter": 7}, {"email": []}), strict=True):
            rig.state.alter_contact(contact_id, **fields)
        rig.state.alter_contact(spoilt[1], email=["canary"])
        pages = rig.ask(read_all)
    rejected = [each for page in pages for each in page.rejected]
    assert set(rejected) == {RejectedContact(each, "malformed_contact") for each in spoilt}
    assert len(distinct(pages)) == 597
    assert "canary" not in repr(pages)


def test_contacts_of_another_location_are_told_with_their_ids_and_never_mixed_in() -> None:
    with running_gohighlevel(location(20), faults=[{"kind": "foreign_contacts", "every": 10}]) as rig:
        page = rig.ask(read_all)[0]
        assert page.foreign == (Foreign(rig.seeded.contact_id(0)), Foreign(rig.seeded.contact_id(10)))
        assert len(page.rows) == 18


def test_names_in_lower_case_are_marked_and_the_contact_by_its_id_has_the_proper_ones() -> None:
    with running_gohighlevel(location(60, search_names="lower_case")) as rig:
        page = rig.ask(read_all)[0]
        for row, seeded in zip(page.rows, rig.seeded.seeded_contacts(), strict=True):
            assert row.names_lowercased is (row.first_name is not None or row.last_name is not None)
            assert row.first_name == (None if seeded.first_name is None else seeded.first_name.lower())
        found = rig.ask(lambda ghl: ghl.contact(page.rows[0].id))
    assert isinstance(found, Contact)
    assert (found.first_name, found.names_lowercased) == (rig.seeded.contact(0).first_name, False)


def test_without_cursors_a_small_location_is_read_and_a_large_one_is_not_taken_for_whole() -> None:
    no_cursors = [{"kind": "no_cursors"}]
    with running_gohighlevel(location(300), faults=no_cursors) as rig:
        assert len(distinct(rig.ask(read_all))) == 300
    with running_gohighlevel(location(501), faults=no_cursors) as rig, pytest.raises(BackfillError) as caught:
        rig.ask(read_all)
    assert (caught.value.code, caught.value.category) == ("malformed_response", ErrorCategory.TRANSIENT)


def test_an_empty_location_is_at_its_end_at_once() -> None:
    with running_gohighlevel(location(0)) as rig:
        pages = rig.ask(read_all)
        assert [(page.rows, page.following, page.total) for page in pages] == [((), None, 0)]
        assert rig.calls() == 1


def test_the_total_costs_one_row() -> None:
    with running_gohighlevel(location(1_200)) as rig:
        assert rig.ask(lambda ghl: ghl.total()) == 1_200
        assert rig.calls() == 1


def test_a_million_contacts_are_asked_for_from_anywhere() -> None:
    async def two_pages(ghl: GoHighLevel) -> list[ContactPage]:
        async with aclosing(ghl.scan({"after": [0, rig.seeded.contact_id(998_999)]})) as pages:
            return [await anext(pages), await anext(pages)]

    with running_gohighlevel(location(1_000_000)) as rig:
        first, second = rig.ask(two_pages)
        assert (first.total, len(first.rows), len(second.rows)) == (1_000_000, 500, 500)
        assert second.rows[-1].id == rig.seeded.contact_id(999_999)


# --- one contact -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 404])
def test_a_contact_that_is_not_there_is_gone_with_either_status(status: int) -> None:
    with running_gohighlevel(location(20, gone_status=status)) as rig:
        deleted = rig.seeded.contact_id(4)
        rig.state.delete_contacts([deleted])
        assert rig.ask(lambda ghl: ghl.contact(deleted)) == Gone(deleted)
        assert rig.ask(lambda ghl: ghl.contact("ghl00000000000000000")) == Gone("ghl00000000000000000")


@pytest.mark.parametrize("habit", ["forbidden", "unauthorized", "served"])
def test_a_contact_of_another_location_is_foreign_whichever_way_it_is_said(habit: str) -> None:
    with running_gohighlevel(location(20, foreign_contact=habit), other_location()) as rig:
        theirs = rig.vendor.locations[1].contact_id(5)
        assert rig.ask(lambda ghl: ghl.contact(theirs)) == Foreign(theirs)


def other_location() -> GoHighLevelLocation:

    return build_gohighlevel_location(3, "locAnother0000000001", "pit-another", contacts=20)


@pytest.mark.parametrize("odd_id", ["", "..", "a/b", "c 1", "é", "x" * 65, "avery@crm.example.com", "c1?x=1"])
def test_what_cannot_be_an_id_is_not_asked_for(odd_id: str) -> None:
    with running_gohighlevel(location(20)) as rig:
        assert rig.ask(lambda ghl: ghl.contact(odd_id)) == RejectedContact(None, "invalid_contact_id")
        assert rig.server.requests == []


def test_a_malformed_contact_and_another_one_than_asked_for_are_rejected() -> None:
    with running_gohighlevel(location(20)) as rig:
        first, second, third = (rig.seeded.contact_id(number) for number in range(3))
        rig.state.alter_contact(first, phone=5)
        rig.state.alter_contact(second, id=third)
        assert rig.ask(lambda ghl: ghl.contact(first)) == RejectedContact(first, "malformed_contact")
        assert rig.ask(lambda ghl: ghl.contact(second)) == RejectedContact(second, "another_contact")


@pytest.mark.parametrize(
    ("status", "message", "found"),
    [
        (400, "Contact with id c1 not found", Gone("c1")),
        (400, "Contact does not exist", Gone("c1")),
        (404, "Contact not found", Gone("c1")),
        (410, "", Gone("c1")),
        (422, ["contact was deleted"], Gone("c1")),
        (400, "Bad Request", RejectedContact("c1", "refused_contact_id")),
        (400, "Contact does not belong to this location", Foreign("c1")),
        (422, ["contactId must be a mongodb id"], RejectedContact("c1", "refused_contact_id")),
        (403, "The token does not have access to this location.", Foreign("c1")),
        (403, "Forbidden resource", Foreign("c1")),
        (401, "The token does not have access to this location.", Foreign("c1")),
    ],
)
def test_what_a_refusal_says_of_a_contact(status: int, message: Any, found: Any) -> None:
    with ScriptedServer(answer(status, {"statusCode": status, "message": message})) as server:
        assert ask_at(server.url, lambda ghl: ghl.contact("c1")) == found


@pytest.mark.parametrize("body", [b"<html>nginx</html>", {"statusCode": 404, "message": "Cannot GET /x/contacts/c1"}])
def test_a_404_of_a_wrong_address_makes_no_contact_gone(body: Any) -> None:
    with ScriptedServer(answer(404, body)) as server, pytest.raises(BackfillError) as caught:
        ask_at(server.url, lambda ghl: ghl.contact("c1"))
    assert caught.value.code == "not_found"
    assert "base_url" in str(caught.value)


def test_a_contact_that_is_null_is_gone() -> None:
    with ScriptedServer(answer(200, {"contact": None})) as server:
        assert ask_at(server.url, lambda ghl: ghl.contact("c1")) == Gone("c1")


# --- duplicates ------------------------------------------------------------------------------------------------------


def test_the_duplicate_of_an_address_is_found_whatever_its_spelling_and_length() -> None:
    long = f"{'x' * 70}+tag@crm.example.com"
    with running_gohighlevel(location(40)) as rig:
        with_second = rig.seeded.contact(2)

        made = rig.state.create_contact(KnownContact("cLong00000000000000", email=long))
        for address, contact_id in ((with_second.additional_emails[0].upper(), with_second.id), (long, made)):
            found = rig.ask(lambda ghl, address=address: ghl.duplicate(address))
            assert isinstance(found, Contact)
            assert found.id == contact_id
        assert rig.ask(lambda ghl: ghl.duplicate("nobody@crm.example.com")) is None


def test_a_duplicate_that_was_found_by_something_else_is_none() -> None:
    contact = {"id": "c1", "locationId": LOCATION, "email": "other@crm.example.com"}
    with ScriptedServer(answer(200, {"contact": contact})) as server:
        assert ask_at(server.url, lambda ghl: ghl.duplicate("a@crm.example.com")) is None
    with ScriptedServer(answer(200, {"contact": {**contact, "locationId": "elsewhere"}})) as server:
        assert ask_at(server.url, lambda ghl: ghl.duplicate("other@crm.example.com")) == Foreign("c1")


# --- the wire --------------------------------------------------------------------------------------------------------


def test_the_token_the_version_and_the_location_are_sent_and_nothing_is_written() -> None:
    async def everything(ghl: GoHighLevel) -> None:
        page = (await read_all(ghl))[0]
        canary = next(row.email for row in page.rows if row.email)
        await ghl.total()
        await ghl.contact(page.rows[0].id)
        await ghl.duplicate(canary)
        await ghl.by_email(canary)
        await ghl.by_emails([canary], canary=canary)

    with running_gohighlevel(location(30)) as rig:
        rig.ask(everything)
        assert rig.vendor.writes == 0
        assert {(each.method, each.call.template) for each in rig.server.requests} == {
            ("POST", "/contacts/search"),
            ("GET", "/contacts/search/duplicate"),
            ("GET", "/contacts/{id}"),
        }
        assert {each.status for each in rig.server.requests} == {200}
    with ScriptedServer(answer(200, {"contacts": [], "total": 0})) as server:
        ask_at(server.url, lambda ghl: ghl.total())
        (request,) = server.received
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert request.headers["version"] == "2021-07-28"
    assert json.loads(request.body) == {
        "locationId": LOCATION,
        "pageLimit": 1,
        "sort": [{"field": "dateAdded", "direction": "asc"}],
    }
