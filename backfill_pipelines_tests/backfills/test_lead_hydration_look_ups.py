"""Leads that `lead_hydration` looks up one by one or in groups: how few calls, and what an answer proves."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from backfill_pipelines.vendors.gohighlevel import Found, GoHighLevel
from backfill_pipelines_tests.backfills.hydration_rig import (
    DUPLICATE,
    SEARCH,
    SHOW,
    Serve,
    all_linked,
    contact,
    leads_by_address,
    linked,
    location,
    people,
    succeeded,
    verified,
)


def test_few_leads_of_a_large_location_are_asked_for_in_groups(serve: Serve) -> None:
    product = serve(location(known=people(60), others=3_000))
    leads_by_address(product, range(60))
    run = product.run()
    assert succeeded(run)
    assert (run.details["gohighlevel"]["way"], run.details["gohighlevel"]["contacts"]) == ("look_ups", 3_060)
    assert product.calls() == {SEARCH: 3}, "a page and two groups"
    assert all_linked(product, range(60))
    assert verified(run)["passed"]


def test_contacts_that_leads_name_are_asked_for_one_by_one(serve: Serve) -> None:
    product = serve(location(known=people(5), others=3_000, foreign_ids=["theirs"]))
    for number in range(4):
        product.lead(f"l{number:03d}", contact=f"c{number:03d}")
    product.lead("gone", contact="noSuchContact")
    product.lead("foreign", contact="theirs")
    product.lead("odd", contact="no id at all")
    run = product.run()
    assert succeeded(run)
    outcomes = product.outcomes(run.id)
    assert [outcomes[key][1] for key in ("gone", "foreign", "odd")] == [
        "contact_gone",
        "foreign_contact",
        "invalid_contact_id",
    ]
    assert product.calls()[SEARCH] == 1
    assert product.calls()[SHOW] <= 6, "some came with the first page"
    assert product.known("l000")["first_name"] == "Ann0"


@pytest.mark.parametrize("habit", ["ignored", "refused", "truncated"])
def test_addresses_are_asked_for_one_by_one_where_groups_are_not_honoured(serve: Serve, habit: str) -> None:
    product = serve(location(known=people(40), others=3_000, or_groups=habit))
    leads_by_address(product, range(40))
    run = product.run()
    assert succeeded(run)
    assert all_linked(product, range(40))
    assert product.calls().total() <= 40 + 8, "a page, what it takes to learn it, and one for each"
    assert verified(run)["passed"]


def test_a_location_that_takes_smaller_groups_gets_smaller_ones(serve: Serve) -> None:
    product = serve(location(known=people(60), others=3_000, filters_a_group=20))
    leads_by_address(product, range(60))
    assert succeeded(product.run())
    assert all_linked(product, range(60))
    assert product.calls().total() < 20


def test_a_location_without_an_address_to_prove_groups_by_is_asked_one_by_one(serve: Serve) -> None:
    nameless = [contact(f"n{n:04d}") for n in range(1_000)]
    product = serve(location(known=[*nameless, *people(3)]))
    leads_by_address(product, range(3))
    assert succeeded(product.run())
    assert all_linked(product, range(3))
    assert product.calls() == {SEARCH: 4}


@pytest.mark.parametrize("equality", ["primary", "any"])
def test_two_contacts_with_an_address_are_ambiguous_and_none_is_not_found(serve: Serve, equality: str) -> None:
    known = [contact("one", "two@example.com"), contact("other", "TWO@example.com"), *people(3)]
    product = serve(location(known=known, others=3_000, email_equality=equality))
    product.lead("two", email="two@example.com")
    product.lead("none", email="nobody@example.com")
    leads_by_address(product, range(3))
    run = product.run()
    assert succeeded(run)
    assert product.outcomes(run.id)["two"] == ("conflict", "ambiguous_contact")
    assert product.outcomes(run.id)["none"] == ("reject", "not_found")
    assert all_linked(product, range(3))


def test_an_additional_address_is_found_where_filters_see_additional_ones(serve: Serve) -> None:
    known = [contact("one", "one@example.com", also=["ada@example.com"]), *people(3)]
    product = serve(location(known=known, others=3_000, email_equality="any"))
    product.lead("a", email="ada@example.com")
    product.lead("none", email="nobody@example.com")
    run = product.run()
    assert succeeded(run)
    assert linked(product) == {"a": "one"}
    assert product.outcomes(run.id)["none"] == ("reject", "not_found")
    assert product.calls() == {SEARCH: 2}, "a page, and a group, whose answer shows what filters see"


def test_where_filters_do_not_see_it_a_lead_is_left_to_a_person(serve: Serve) -> None:
    """What finds it tells of one contact, and not whether it is the only one."""
    known = [contact("one", "one@example.com", also=["ada@example.com"]), *people(3)]
    product = serve(location(known=known, others=3_000))
    product.lead("a", email="ada@example.com")
    product.lead("none", email="nobody@example.com")
    run = product.run()
    assert succeeded(run)
    assert product.outcomes(run.id)["a"] == ("conflict", "unproven_contact")
    assert product.outcomes(run.id)["none"] == ("reject", "not_found")
    assert product.calls() == {SEARCH: 3, DUPLICATE: 1}, "a page, a group, what filters see, and who was not found"
    assert (linked(product), verified(run)["passed"]) == ({}, True)


def test_everything_is_read_where_that_takes_no_more_calls_than_asking_for_who_was_not_found(serve: Serve) -> None:
    known = [*people(3), contact("one", "one@example.com", also=["lead7@example.com"])]
    product = serve(location(known=known, others=600))
    leads_by_address(product, range(15))
    run = product.run()
    assert succeeded(run)
    assert product.calls() == {SEARCH: 1 + 1 + 1 + 2}, "a page, a group, what filters see, and the other pages"
    assert (run.details["gohighlevel"]["way"], run.reasons["not_found"]) == ("scan", 11)
    assert linked(product) == {**{f"l{n:03d}": f"c{n:03d}" for n in range(3)}, "l007": "one"}
    assert verified(run)["passed"]


def test_a_vendor_that_tells_capitals_apart_is_read_whole(serve: Serve) -> None:
    known = [contact(f"c{n:03d}", f"Lead{n}@Example.com") for n in range(12)]
    product = serve(location(known=[contact("old", "Old@Example.com"), *known], others=1_200, capitals_differ=True))
    leads_by_address(product, range(12))
    run = product.run()
    assert succeeded(run)
    assert run.details["gohighlevel"]["way"] == "scan"
    assert all_linked(product, range(12))
    assert product.calls() == {SEARCH: 1 + 1 + 1 + 3}, "a page, a group, one alone, and the other pages"


def test_an_address_of_which_nobody_knows_the_small_letters_proves_nothing(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    by_emails = GoHighLevel.by_emails

    async def watched(self: GoHighLevel, emails: Iterable[str], *, canary: str) -> Found:
        asked.append(canary)
        return await by_emails(self, emails, canary=canary)

    monkeypatch.setattr(GoHighLevel, "by_emails", watched)
    odd = [contact(f"0{n}", f"\u0130lker{n}@example.com") for n in range(3)]
    product = serve(location(known=[*odd, contact("1", "plain@example.com"), *people(3)], others=3_000))
    leads_by_address(product, range(3))
    assert succeeded(product.run())
    assert asked
    assert all(each.isascii() for each in asked)


@pytest.mark.parametrize(
    ("others", "look_ups", "way", "calls"),
    [(40, 5, "scan", 2), (600, 80, "scan", 3), (3_000, 40, "look_ups", 3), (3_000, 61, "look_ups", 5)],
)
def test_where_the_vendor_does_not_count_its_contacts_it_is_found_out_on_the_way(
    serve: Serve, others: int, look_ups: int, way: str, calls: int
) -> None:
    product = serve(location(known=people(look_ups), others=others))
    product.fault("no_total")
    leads_by_address(product, range(look_ups))
    run = product.run()
    assert succeeded(run)
    assert all_linked(product, range(look_ups))
    assert (run.details["gohighlevel"]["way"], product.calls()) == (way, {SEARCH: calls})


def test_an_address_too_long_for_a_filter_is_asked_for_as_a_duplicate(serve: Serve) -> None:
    long = f"{'a' * 60}@{'b' * 30}.example.com"
    product = serve(location(known=[contact("long", long), *people(3)], others=3_000))
    product.lead("a", email=long)
    product.lead("none", email=f"x{long}")
    leads_by_address(product, range(3))
    run = product.run()
    assert succeeded(run)
    assert product.outcomes(run.id)["a"] == ("conflict", "unproven_contact")
    assert product.outcomes(run.id)["none"] == ("reject", "not_found")
    assert all_linked(product, range(3))


def test_a_location_that_honours_no_filter_at_all_is_read_whole(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    async def not_honoured(*_: object, **__: object) -> Found:
        return Found(contacts=(), rejected=(), foreign=(), unasked=(), honoured=False)

    monkeypatch.setattr(GoHighLevel, "by_emails", not_honoured)
    monkeypatch.setattr(GoHighLevel, "by_email", not_honoured)
    product = serve(location(known=people(12), others=1_200))
    leads_by_address(product, range(12))
    run = product.run()
    assert succeeded(run)
    assert (run.details["gohighlevel"]["way"], product.calls()) == ("scan", {SEARCH: 4})
    assert all_linked(product, range(12))
