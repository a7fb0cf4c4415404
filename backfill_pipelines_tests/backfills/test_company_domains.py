"""Domains: when two spellings are one, which of a company's say anything, and whose address stands where."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill_pipelines.backfills.company_domains import (
    FREE_MAIL_DOMAIN,
    NO_DOMAIN,
    Placing,
    normalise_domain,
    telling_domains,
)
from backfill_pipelines.backfills.shared_domains import FREE_MAIL, is_free_mail, is_public_suffix

LABELS = st.sampled_from(["acme", "mail", "a", "b-c", "bücher", "日本", "x1", "straße"])
DOMAINS = st.builds(lambda labels, top: ".".join([*labels, top]), st.lists(LABELS, min_size=1, max_size=3), LABELS)


@pytest.mark.parametrize(
    "spelling",
    [
        "bücher.example",
        "Bücher.Example",
        "BÜCHER.EXAMPLE.",
        "xn--bcher-kva.example",
        "XN--BCHER-KVA.example.",
        "bu\u0308cher.example",
        "bücher。example",
        "ｂücher.example",
        " bücher.example\u200b",
    ],
)
def test_all_spellings_of_an_international_domain_are_one(spelling: str) -> None:
    assert normalise_domain(spelling) == "xn--bcher-kva.example"


@pytest.mark.parametrize(
    ("spelling", "normalised"),
    [
        ("straße.example", "xn--strae-oqa.example"),  # not strasse: both can be registered, by different people
        ("i❤.example", "xn--i-7iq.example"),
        ("i❤\ufe0f.example", "xn--i-7iq.example"),
        ("my_host.example", "my_host.example"),
        ("1.example", "1.example"),
    ],
)
def test_a_domain_keeps_what_makes_it_another_one(spelling: str, normalised: str) -> None:
    assert normalise_domain(spelling) == normalised


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        " ",
        ".",
        ".example",
        "acme..example",
        "acme.example..",
        "-acme.example",
        "acme-.example",
        "acme corp.example",
        "acme.example/team",
        "ada@acme.example",
        "127.0.0.1",
        "[::1]",
        "a" * 64 + ".example",
        "é" * 63 + ".example",
        "a.".join(["abcdefghi"] * 26) + ".example",
        "\x00",
        "acme\ud800.example",
    ],
)
def test_what_is_no_domain_has_no_spelling(text: str | None) -> None:
    assert normalise_domain(text) is None


@given(st.text(max_size=40))
def test_no_text_is_too_odd_and_a_normalised_one_stays(text: str) -> None:
    domain = normalise_domain(text)
    if domain is not None:
        assert normalise_domain(domain) == domain
        assert domain.isascii()
        assert domain == domain.lower()


@given(DOMAINS)
def test_the_ascii_form_of_a_domain_is_the_domain(domain: str) -> None:
    normalised = normalise_domain(domain)
    assert normalised is not None
    decoded = ".".join(
        label.removeprefix("xn--").encode().decode("punycode") if label.startswith("xn--") else label
        for label in normalised.split(".")
    )
    assert decoded == domain
    assert normalise_domain(f"{domain.upper() if 'ß' not in domain else domain}.") == normalised


# --- which domains say anything --------------------------------------------------------------------------------------


def test_each_domain_counts_once_however_it_is_spelled() -> None:
    assert telling_domains(["Acme.example", "acme.example.", "bücher.example", "xn--bcher-kva.example"]) == (
        ("acme.example", "xn--bcher-kva.example"),
        None,
    )


@pytest.mark.parametrize(
    ("domains", "reason"),
    [
        ([], NO_DOMAIN),
        (["co.uk"], NO_DOMAIN),
        (["com", "github.io", "xn--p1ai", "not a domain"], NO_DOMAIN),
        (["gmail.com"], FREE_MAIL_DOMAIN),
        (["GMail.com.", "yahoo.co.uk", "qq.com"], FREE_MAIL_DOMAIN),
        (["gmail.com", "co.uk"], FREE_MAIL_DOMAIN),
    ],
)
def test_a_company_without_a_domain_of_its_own_says_why(domains: list[str], reason: str) -> None:
    assert telling_domains(domains) == ((), reason)


def test_a_domain_of_its_own_is_enough_beside_those_that_say_nothing() -> None:
    assert telling_domains(["gmail.com", "co.uk", "acme.co.uk"]) == (("acme.co.uk",), None)


@pytest.mark.parametrize("domain", ["com", "example", "co.uk", "com.au", "or.jp", "co.za", "com.br", "netlify.app"])
def test_a_public_suffix_is_nobodys(domain: str) -> None:
    assert is_public_suffix(domain)


@pytest.mark.parametrize("domain", ["acme.com", "acme.co.uk", "acme.github.io", "co.example", "github.com", "bbc.uk"])
def test_a_name_below_a_public_suffix_is_somebodys(domain: str) -> None:
    assert not is_public_suffix(domain)


def test_the_list_of_free_mail_is_spelled_as_domains_are_compared() -> None:
    assert {each for each in FREE_MAIL if normalise_domain(each) != each} == set()
    assert len(FREE_MAIL) > 4_000
    assert is_free_mail("gmail.com")
    assert not is_free_mail("mail.gmail.com")


# --- whose address stands where --------------------------------------------------------------------------------------


def placed(domains_of: list[list[str]], *addresses: str) -> set[int]:
    return set(Placing(domains_of).companies_of(addresses))


def test_an_address_belongs_to_its_domain_and_to_every_domain_above_it() -> None:
    companies = [["acme.example"], ["mail.acme.example"], ["other.example"]]
    assert placed(companies, "ada@acme.example") == {0}
    assert placed(companies, "ada@mail.acme.example") == {0, 1}
    assert placed(companies, "ada@eu.mail.acme.example") == {0, 1}
    assert placed(companies, "ada@notacme.example") == set()
    assert placed(companies, "ada@example") == set()


def test_a_domain_that_two_companies_share_belongs_to_both() -> None:
    assert placed([["acme.example"], ["else.example", "acme.example"]], "ada@acme.example") == {0, 1}


def test_all_addresses_of_somebody_count_and_in_any_spelling() -> None:
    companies = [["xn--bcher-kva.example"], ["acme.example"]]
    assert placed(companies, "Ada@BÜCHER.example", "ada@ACME.example.") == {0, 1}


@pytest.mark.parametrize("address", ["", "acme.example", "ada@", "ada", "@", "ada@acme.example@"])
def test_what_is_no_address_belongs_nowhere(address: str) -> None:
    assert placed([["acme.example"]], address) == set()


def test_a_quoted_local_part_may_hold_an_at_sign() -> None:
    assert placed([["acme.example"]], '"ada@home"@acme.example') == {0}


@given(st.lists(st.lists(DOMAINS, max_size=3), max_size=5), st.lists(DOMAINS, max_size=3))
def test_the_placing_of_any_addresses_is_that_of_comparing_each_domain_with_each(
    companies: list[list[str]], domains: list[str]
) -> None:
    normalised = [[normalise_domain(each) or "" for each in of_one] for of_one in companies]
    expected = {
        number
        for number, of_one in enumerate(companies)
        for own in of_one
        for domain in domains
        if domain == own or domain.endswith(f".{own}")
    }
    assert placed(normalised, *(f"ada@{domain}" for domain in domains)) == expected


def test_the_same_set_of_companies_is_the_same_object() -> None:
    placing = Placing([["acme.example", "acme.test"], ["other.example"]])
    first = placing.companies_of(["ada@acme.example"])
    assert placing.companies_of(["bob@x.acme.test", "bob@acme.example"]) is first
