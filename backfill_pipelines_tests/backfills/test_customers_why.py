"""Why two leads are the same customer or not: what is told is what a run does, and asking changes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from backfill_pipelines.backfills.customers_why import EXPLANATIONS, Why
from backfill_pipelines.backfills.customers_why_source import why
from backfill_pipelines.errors import ConfigurationError
from backfill_pipelines_tests.backfills.customers_decisions import a_household, id_of, merge, split, two_customers
from backfill_pipelines_tests.backfills.product_rig import BOLT, Document, Product, succeeded

# By pair: the same customer or not, by what, and what they share.
EXPECTED: dict[tuple[str, str], tuple[bool, str, list[str]]] = {
    ("psid-1", "psid-2"): (True, "psid", ["psid"]),
    ("psid-1", "joins-phone"): (True, "phone", ["phone"]),
    ("psid-2", "joins-phone"): (True, "through_others", []),
    ("psid-2", "joins-email"): (True, "email", ["email"]),
    ("phone-1", "phone-2"): (True, "phone", ["phone"]),
    ("email-1", "email-2"): (True, "email", ["email"]),
    ("psid-1", "phone-1"): (False, "nothing_shared", []),
    ("role-1", "role-2"): (False, "blocked_value", ["email"]),
    ("crowd-1", "crowd-2"): (False, "oversized_group", ["phone"]),
    ("crowd-1", "crowd-mail"): (True, "email", ["phone", "email"]),
    ("family-1", "family-2"): (False, "different_psid", ["phone"]),
    ("family-1", "family-3"): (False, "shared_phone", ["phone"]),
    ("both-1", "both-3"): (False, "ambiguous_email", ["email"]),
    ("both-1", "both-2"): (False, "different_phone", ["email"]),
    ("psid-mail", "phone-mail"): (False, "more_reliable", ["email"]),
    ("doubtful", "alone"): (False, "nothing_shared", []),
    ("doubtful", "doubtful-too"): (False, "ambiguous_existing", ["email"]),
    ("alone", "nobody"): (False, "nothing_shared", []),
}


def settings(document: Document) -> None:
    document["defaults"] = {"customers": {"max_group_size": 3}}


def fill(product: Product) -> None:
    product.lead("psid-1", psid="p-1", phone="205 555 0101")
    product.lead("psid-2", psid=" p-1 ", email="one@example.com")
    product.lead("joins-phone", phone="+1 (205) 555-0101")
    product.lead("joins-email", email="ONE@example.com ")
    product.lead("phone-1", phone="205 555 0102")
    product.lead("phone-2", phone="12055550102")
    product.lead("email-1", email="two@example.com")
    product.lead("email-2", email="two@example.com", phone="call me")
    product.lead("role-1", email="info@example.com")
    product.lead("role-2", email="info@example.com")
    for number in range(1, 4):
        product.lead(f"crowd-{number}", phone="205 555 0103", email="crowd@example.com" if number == 1 else None)
    product.lead("crowd-mail", phone="205 555 0103", email="crowd@example.com")
    product.lead("family-1", psid="p-2", phone="205 555 0104")
    product.lead("family-2", psid="p-3", phone="205 555 0104")
    product.lead("family-3", phone="205 555 0104")
    product.lead("both-1", phone="205 555 0105", email="both@example.com")
    product.lead("both-2", phone="205 555 0106", email="both@example.com")
    product.lead("both-3", email="both@example.com")
    product.lead("psid-mail", psid="p-4", email="mail@example.com")
    product.lead("phone-mail", phone="205 555 0107", email="mail@example.com")
    product.lead("alone", first_name="Dee")
    product.lead("nobody", phone=" ", email="no address")
    for name in ("Fay", "Gus"):
        product.customer(name=name, email="doubt@example.com")
    product.lead("doubtful", email="doubt@example.com")
    product.lead("doubtful-too", email="doubt@example.com")


def ask(product: Product, one: str, other: str) -> Why:
    with product.runtime() as runtime:
        return why(runtime, one, other)


def told(answer: Why) -> tuple[bool, str, list[str]]:
    return answer.is_same, answer.decided_by, list(answer.shared)


def everything_there(product: Product) -> Any:
    names = [
        row["name"]
        for row in product.query(
            "SELECT table_schema || '.' || quote_ident(table_name) AS name FROM information_schema.tables"
            " WHERE table_schema IN ('public', 'backfill') ORDER BY 1"
        )
    ]
    return {name: product.query(f"SELECT t::text FROM {name} AS t ORDER BY 1") for name in names}


@pytest.mark.parametrize("is_run", [False, True])
def test_the_answer_is_what_the_rules_decide_before_a_run_and_after_it(product: Product, *, is_run: bool) -> None:
    product.edit = settings
    fill(product)
    if is_run:
        assert succeeded(product.run())
        customers = {lead: row["customer_id"] for lead, row in product.rows("Lead").items()}
    before = everything_there(product)
    with product.runtime() as runtime:
        for pair, expected in EXPECTED.items():
            for one, other in (pair, pair[::-1]):
                answer = why(runtime, one, other)
                assert (pair, told(answer)) == (pair, expected)
                if is_run:
                    assert [lead.customer_id for lead in answer.leads] == [customers[one], customers[other]]
                    assert answer.is_same == (None is not customers[one] == customers[other])
    assert everything_there(product) == before


def test_every_identifier_says_how_far_it_counted(product: Product) -> None:
    product.edit = settings
    fill(product)

    def states(one: str, other: str) -> list[dict[str, str]]:
        return [{each.kind: each.state for each in lead.identifiers} for lead in ask(product, one, other).leads]

    assert states("psid-1", "joins-email") == [
        {"psid": "used", "phone": "unused", "email": "absent"},
        {"psid": "absent", "phone": "absent", "email": "used"},
    ]
    assert states("crowd-1", "crowd-2") == [
        {"psid": "absent", "phone": "oversized", "email": "used"},
        {"psid": "absent", "phone": "oversized", "email": "absent"},
    ]
    assert states("role-1", "nobody") == [
        {"psid": "absent", "phone": "absent", "email": "blocked"},
        {"psid": "absent", "phone": "absent", "email": "unreadable"},
    ]
    answer = ask(product, "both-3", "crowd-2")
    assert [(lead.rule, list(lead.guards)) for lead in answer.leads] == [
        ("individual", ["ambiguous_email"]),
        ("individual", ["oversized_group"]),
    ]


def test_the_run_that_made_a_link_is_named_as_long_as_the_link_is_its_own(product: Product) -> None:
    product.lead("one", phone="205 555 0101")
    product.lead("two", phone="205 555 0101")
    other = product.customer(name="Other")
    assert [(lead.is_linked, lead.linked_by) for lead in ask(product, "one", "two").leads] == [(False, None)] * 2
    run = product.run()
    for lead in ask(product, "one", "two").leads:
        assert lead.linked_by is not None
        assert (lead.is_linked, lead.linked_by.run_id, lead.linked_by.command) == (True, str(run.id), "run")
    product.execute("UPDATE \"Lead\" SET customer_id = CAST(:id AS uuid) WHERE id = 'two'", id=other)
    moved = ask(product, "one", "two")
    assert told(moved) == (False, "split_group", ["phone"])
    assert moved.leads[1].linked_by is None


def test_a_merge_is_the_reason_until_it_is_undone(product: Product) -> None:
    ada, bo = two_customers(product)
    assert told(ask(product, "ada", "bo")) == (False, "nothing_shared", [])
    run = merge(product, ada, bo)
    answer = ask(product, "ada", "bo")
    assert told(answer) == (True, "merge", [])
    assert [(each.gone, each.into, each.run_id) for each in answer.merges] == [(bo, ada, str(run.id))]
    linked_by = answer.leads[1].linked_by
    assert linked_by is not None
    assert (linked_by.command, linked_by.run_id) == ("merge", str(run.id))
    product.undo(run)
    assert told(ask(product, "ada", "bo")) == (False, "nothing_shared", [])


def test_a_split_is_the_reason_until_it_is_undone(product: Product) -> None:
    household = a_household(product)
    assert told(ask(product, "ada", "bo")) == (True, "phone", ["phone"])
    run = split(product, household, "bo")
    answer = ask(product, "ada", "bo")
    assert told(answer) == (False, "split", ["phone"])
    split_off = answer.leads[1].split_off
    assert split_off is not None
    assert (answer.leads[1].rule, split_off.run_id, split_off.origin) == ("split", str(run.id), household)
    product.undo(run)
    assert told(ask(product, "ada", "bo")) == (True, "phone", ["phone"])


def test_leads_that_were_split_off_together_are_one_customer(product: Product) -> None:
    product.lead("cy", phone="205 555 0122")
    household = a_household(product)
    split(product, household, "ada", "bo")
    assert told(ask(product, "ada", "bo")) == (True, "split", ["phone"])
    product.lead("stranger", email="stranger@example.com")
    assert told(ask(product, "ada", "stranger")) == (False, "nothing_shared", [])


def test_links_out_of_the_client_are_named_as_such(product: Product) -> None:
    product.execute('ALTER TABLE "Lead" DROP CONSTRAINT "Lead_customer_id_fkey"')
    product.lead("one", phone="205 555 0101", customer_id=product.customer(of=BOLT))
    product.lead("two", phone="205 555 0101", customer_id="00000000-0000-4000-8000-000000000000")
    product.lead("three", phone="205 555 0101")
    assert told(ask(product, "one", "three")) == (False, "foreign_customer", ["phone"])
    assert told(ask(product, "two", "three")) == (False, "dangling_customer", ["phone"])
    product.execute('UPDATE "Lead" SET customer_id = l.customer_id FROM "Lead" AS l WHERE l.id = \'one\'')
    assert told(ask(product, "one", "two")) == (True, "linked", ["phone"])


def test_leads_of_different_clients_never_meet(product: Product) -> None:
    product.lead("here", phone="205 555 0101")
    product.lead("there", of=BOLT, phone="205 555 0101")
    answer = ask(product, "here", id_if_any(product, "there"))
    assert told(answer) == (False, "different_clients", [])
    assert [list(lead.identifiers) for lead in answer.leads] == [[], []]


def id_if_any(product: Product, lead: str) -> str:
    assert succeeded(product.run(BOLT))
    assert id_of(product, lead)
    return lead


def test_what_is_not_two_leads_is_refused_without_repeating_it(product: Product) -> None:
    product.lead("here's one")
    for one, other, code in (
        ("here's one", "here's one", "same_lead"),
        ("here's one", "canary@example.com", "unknown_lead"),
        ("canary@example.com", "here's one", "unknown_lead"),
    ):
        with pytest.raises(ConfigurationError) as caught:
            ask(product, one, other)
        assert caught.value.code == code
        assert "canary" not in caught.value.message


def test_no_value_stands_in_the_form_in_which_an_answer_is_logged(product: Product) -> None:
    product.lead("one", phone="205 555 0101", email="canary@example.com")
    product.lead("two", psid="canary")
    shown = repr(ask(product, "one", "two"))
    assert "canary" not in shown
    assert "555" not in shown


def test_every_code_has_its_sentence() -> None:
    assert {code for _, code, _ in EXPECTED.values()} <= EXPLANATIONS.keys()
    assert all(sentence.endswith(".") for sentence in EXPLANATIONS.values())
