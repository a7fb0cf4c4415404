"""Records of the fake Attio: what a write does, what Attio does by itself, what other people do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from backfill_pipelines.sandbox.attio_records import COMPANIES, PEOPLE
from backfill_pipelines.sandbox.attio_state import OpenQuestions
from backfill_pipelines_tests.sandbox.attio_rig import (
    EMPTY,
    AttioRig,
    create,
    data,
    error,
    held,
    ids,
    query,
    running_attio,
)

MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z")
ADA = {"first_name": "Ada", "last_name": "Quill", "full_name": "Ada Quill"}


@pytest.fixture(scope="module")
def serving() -> Iterator[AttioRig]:
    with running_attio(EMPTY) as rig:
        yield rig


@pytest.fixture
def rig(serving: AttioRig) -> AttioRig:
    serving.server.reset()
    return serving


@pytest.fixture
def client(rig: AttioRig) -> httpx.Client:
    return rig.client()


def record_id(row: dict[str, Any]) -> str:
    return str(row["id"]["record_id"])


def path(row: dict[str, Any], object_slug: str = PEOPLE) -> str:
    return f"/objects/{object_slug}/records/{record_id(row)}"


def body(**values: Any) -> dict[str, Any]:
    return {"data": {"values": values}}


# --- values ----------------------------------------------------------------------------------------------------------


def test_every_value_is_in_a_list_with_its_history_in_nanoseconds(rig: AttioRig, client: httpx.Client) -> None:
    row = create(client, name=[ADA], email_addresses=["Ada@Mail.Example.com"], user_id="user_1")
    assert all(isinstance(values, list) for values in row["values"].values())
    assert row["values"]["job_title"] == []
    for values in row["values"].values():
        for value in values:
            assert MOMENT.fullmatch(value["active_from"])
            assert value["active_until"] is None
    (value,) = row["values"]["user_id"]
    assert (value["value"], value["attribute_type"]) == ("user_1", "text")
    assert value["created_by_actor"] == {"type": "api-token", "id": rig.seeded.token_actor.id}
    (address,) = row["values"]["email_addresses"]
    assert {name: address[name] for name in address if name.endswith(("address", "domain", "specifier"))} == {
        "email_address": "ada@mail.example.com",
        "original_email_address": "Ada@Mail.Example.com",
        "email_domain": "mail.example.com",
        "email_root_domain": "example.com",
        "email_local_specifier": "ada",
    }
    assert held(row, "created_by", "referenced_actor_type") == ["api-token"]
    assert MOMENT.fullmatch(row["created_at"])
    assert held(row, "record_id") == [record_id(row)]


@pytest.mark.parametrize(
    "values",
    [
        {"email_addresses": "ada@example.test"},
        {"email_addresses": ["ada"]},
        {"email_addresses": ["ada@nodot"]},
        {"email_addresses": ["two@at@example.test"]},
        {"email_addresses": [{"address": "ada@example.test"}]},
        {"email_addresses": [7]},
        {"name": [{"first_name": "Ada", "last_name": "Quill"}]},
        {"user_id": 7},
        {"user_id": ["user_1", "user_2"]},
        {"user_id": [{"text": "user_1"}]},
        {"created_at": "2024-01-01T00:00:00Z"},
        {"record_id": "00000000-0000-4000-8000-000000000000"},
    ],
)
def test_a_value_of_a_wrong_form_is_refused_and_nothing_is_made(client: httpx.Client, values: Any) -> None:
    assert error(client.post("/objects/people/records", json=body(**values))) == (400, "validation_type")
    assert query(client) == []


def test_an_unknown_attribute_is_value_not_found(client: httpx.Client) -> None:
    assert error(client.post("/objects/people/records", json=body(shoe_size="44"))) == (400, "value_not_found")


@pytest.mark.parametrize("document", [{}, {"data": {}}, {"data": {"values": []}}, {"values": {}}, [], {"data": 1}])
def test_a_body_without_values_is_refused(client: httpx.Client, document: Any) -> None:
    assert error(client.post("/objects/people/records", json=document)) == (400, "validation_type")


@pytest.mark.parametrize(
    ("given", "first", "last"), [("Quill, Ada", "Ada", "Quill"), ("Ada", "Ada", ""), (ADA, "Ada", "Quill")]
)
def test_a_name_may_be_written_as_a_text(client: httpx.Client, given: Any, first: str, last: str) -> None:
    row = create(client, name=given)
    assert (held(row, "name", "first_name"), held(row, "name", "last_name")) == ([first], [last])


# --- uniqueness ------------------------------------------------------------------------------------------------------


def test_a_create_is_refused_where_the_address_is_taken_and_names_the_record(client: httpx.Client) -> None:
    first = create(client, email_addresses=["ada@example.test"])
    answer = client.post("/objects/people/records", json=body(email_addresses=["ADA@Example.test"]))
    assert error(answer) == (400, "uniqueness_conflict")
    assert answer.json()["message"] == (
        'A value provided for attribute with slug "email_addresses" conflicts with one already in the system. '
        "This attribute has a uniqueness constraint. Please ensure all values for this attribute do not exist on "
        f"another record. Conflicting record IDs: {record_id(first)}"
    )
    assert len(query(client)) == 1


def test_a_conflict_with_several_records_names_them_all(client: httpx.Client) -> None:
    rows = [create(client, email_addresses=[f"{name}@example.test"]) for name in ("ada", "bo")]
    answer = client.post(
        "/objects/people/records", json=body(email_addresses=["bo@example.test", "ada@example.test", "c@example.test"])
    )
    named = answer.json()["message"].partition("Conflicting record IDs: ")[2].split(", ")
    assert sorted(named) == sorted(map(record_id, rows))


def test_an_update_may_keep_its_own_address_and_not_take_anothers(client: httpx.Client) -> None:
    ada = create(client, email_addresses=["ada@example.test"])
    create(client, email_addresses=["bo@example.test"])
    data(client.patch(path(ada), json=body(email_addresses=["ada@example.test"])))
    assert error(client.patch(path(ada), json=body(email_addresses=["bo@example.test"]))) == (
        400,
        "uniqueness_conflict",
    )


def test_texts_are_unique_only_where_the_attribute_says_so(rig: AttioRig, client: httpx.Client) -> None:
    create(client, user_id="user_1")
    create(client, user_id="user_1")  # what was there before is not checked again
    rig.state.alter_attribute(PEOPLE, "user_id", unique=True)
    assert error(client.post("/objects/people/records", json=body(user_id="user_1"))) == (400, "uniqueness_conflict")


def test_a_deleted_records_values_are_free_again(client: httpx.Client) -> None:
    row = create(client, email_addresses=["ada@example.test"])
    answer = client.delete(path(row))
    assert (answer.status_code, answer.json()) == (200, {})
    assert error(client.get(path(row))) == (404, "not_found")
    create(client, email_addresses=["ada@example.test"])


def test_the_conflict_may_be_409_and_may_be_nameless(rig: AttioRig, client: httpx.Client) -> None:
    create(client, email_addresses=["ada@example.test"])
    rig.server.add_faults([{"kind": "nameless_conflict"}])
    answer = client.post("/objects/people/records", json=body(email_addresses=["ada@example.test"]))
    assert error(answer) == (400, "uniqueness_conflict")
    assert "Conflicting" not in answer.json()["message"]
    with running_attio(EMPTY, questions=OpenQuestions(uniqueness_status=409)) as other:
        client = other.client()
        create(client, email_addresses=["ada@example.test"])
        answer = client.post("/objects/people/records", json=body(email_addresses=["ada@example.test"]))
        assert error(answer) == (409, "uniqueness_conflict")


# --- updates ---------------------------------------------------------------------------------------------------------


def test_patch_adds_to_several_values_in_front_and_put_replaces_them(client: httpx.Client) -> None:
    row = create(client, email_addresses=["a@example.test", "b@example.test"])
    row = data(client.patch(path(row), json=body(email_addresses=["c@example.test", "A@example.test"])))
    assert held(row, "email_addresses", "email_address") == ["c@example.test", "a@example.test", "b@example.test"]
    row = data(client.put(path(row), json=body(email_addresses=["b@example.test"])))
    assert held(row, "email_addresses", "email_address") == ["b@example.test"]
    create(client, email_addresses=["a@example.test"])  # free again


def test_both_leave_attributes_alone_that_are_not_named(client: httpx.Client) -> None:
    row = create(client, name=[ADA], email_addresses=["a@example.test"], description="Met at the fair")
    for method in ("PATCH", "PUT"):
        changed = data(client.request(method, path(row), json=body(user_id=f"user_{method}")))
        assert held(changed, "user_id") == [f"user_{method}"]
        for slug in ("name", "email_addresses", "description"):
            assert changed["values"][slug] == row["values"][slug]


def test_a_single_value_is_replaced_and_the_old_one_stays_in_the_history(rig: AttioRig, client: httpx.Client) -> None:
    row = create(client, user_id="user_1")
    row = data(client.patch(path(row), json=body(user_id="user_2")))
    assert held(row, "user_id") == ["user_2"]
    ((slug, value),) = rig.state.tables[PEOPLE].records[record_id(row)].history
    assert (slug, value.content) == ("user_id", "user_1")
    assert value.active_until is not None


def test_the_same_value_again_is_no_new_value(rig: AttioRig, client: httpx.Client) -> None:
    row = create(client, user_id="user_1")
    rig.state.write(PEOPLE, {"user_id": "user_1"}, actor=rig.seeded.member, record_id=record_id(row))
    assert data(client.get(path(row)))["values"]["user_id"] == row["values"]["user_id"]


@pytest.mark.parametrize(
    ("clears", "by_list", "by_null"),
    [
        ("either", "cleared", "cleared"),
        ("empty_list", "cleared", "refused"),
        ("null", "ignored", "cleared"),
        ("neither", "refused", "refused"),
    ],
)
def test_what_takes_a_value_away_is_an_open_question(clears: Any, by_list: str, by_null: str) -> None:
    with running_attio(EMPTY, questions=OpenQuestions(clears=clears)) as rig:
        client = rig.client()
        for given, outcome in (([], by_list), (None, by_null)):
            row = create(client, user_id="user_1")
            answer = client.patch(path(row), json=body(user_id=given))
            standing = held(data(client.get(path(row))), "user_id")
            assert standing == ([] if outcome == "cleared" else ["user_1"])
            assert answer.status_code == (400 if outcome == "refused" else 200)


# --- assert ----------------------------------------------------------------------------------------------------------


def assert_person(client: httpx.Client, matching: str | None = "email_addresses", **values: Any) -> httpx.Response:
    params = {} if matching is None else {"matching_attribute": matching}
    return client.put("/objects/people/records", params=params, json=body(**values))


def test_an_assert_creates_and_then_updates_and_answers_both_alike(client: httpx.Client) -> None:
    first = data(assert_person(client, email_addresses=["ada@example.test"], user_id="user_1"))
    second = data(assert_person(client, email_addresses=["ADA@example.test"], user_id="user_2"))
    assert record_id(first) == record_id(second)
    assert held(second, "user_id") == ["user_2"]
    assert len(query(client)) == 1


def test_an_assert_adds_to_the_matching_attribute_and_overwrites_every_other_one(client: httpx.Client) -> None:
    company = create(client, COMPANIES, domains=["alder.example", "larch.example"])
    people = [create(client, email_addresses=[f"{name}@mail.example.org"]) for name in ("ada", "bo")]
    data(
        client.patch(
            path(company, COMPANIES),
            json=body(team=[{"target_object": "people", "target_record_id": record_id(people[0])}]),
        )
    )
    answer = client.put(
        "/objects/companies/records?matching_attribute=domains",
        json=body(
            domains=["alder.example", "finch.example"],
            team=[{"target_object": "people", "target_record_id": record_id(people[1])}],
        ),
    )
    row = data(answer)
    assert held(row, "domains", "domain") == ["finch.example", "alder.example", "larch.example"]
    assert held(row, "team", "target_record_id") == [record_id(people[1])]


def test_an_assert_over_two_records_is_a_conflict(client: httpx.Client) -> None:
    for name in ("ada", "bo"):
        create(client, email_addresses=[f"{name}@example.test"])
    answer = assert_person(client, email_addresses=["ada@example.test", "bo@example.test"])
    assert error(answer) == (400, "uniqueness_conflict")


def test_an_assert_needs_a_unique_attribute_that_exists_and_has_a_value(client: httpx.Client) -> None:
    for matching, code in (
        ("user_id", "matching_attribute_definition_not_unique"),
        ("shoe_size", "value_not_found"),
        (None, "validation_type"),
        ("email_addresses", "missing_value"),
    ):
        assert error(assert_person(client, matching, user_id="user_1")) == (400, code)


# --- what Attio does by itself ---------------------------------------------------------------------------------------


def test_a_new_person_brings_a_company_and_the_link_is_the_systems(rig: AttioRig, client: httpx.Client) -> None:
    row = create(client, email_addresses=["ada@mail.alder.example"])
    (company,) = query(client, COMPANIES)
    assert held(company, "domains", "domain") == ["alder.example"]
    assert held(company, "created_by", "referenced_actor_type") == ["system"]
    assert held(row, "company", "target_record_id") == [record_id(company)]
    assert held(row, "company", "created_by_actor") == [{"type": "system", "id": None}]
    assert held(company, "team", "target_record_id") == [record_id(row)]
    create(client, email_addresses=["bo@alder.example"])
    assert len(query(client, COMPANIES)) == 1


def test_a_company_that_has_the_subdomain_wins_over_the_root(client: httpx.Client) -> None:
    create(client, COMPANIES, domains=["alder.example"])
    branch = create(client, COMPANIES, domains=["mail.alder.example"])
    row = create(client, email_addresses=["ada@mail.alder.example"])
    assert held(row, "company", "target_record_id") == [record_id(branch)]


def test_a_free_mail_address_or_a_given_company_brings_none(client: httpx.Client) -> None:
    create(client, email_addresses=["nobody@gmail.com"])
    assert query(client, COMPANIES) == []
    company = create(client, COMPANIES, domains=["finch.example"])
    row = create(client, email_addresses=["ada@alder.example"], company="finch.example")
    assert held(row, "company", "target_record_id") == [record_id(company)]
    assert held(row, "company", "created_by_actor")[0]["type"] == "api-token"
    assert len(query(client, COMPANIES)) == 1


def test_a_reference_must_lead_somewhere(client: httpx.Client) -> None:
    for company in (
        "nowhere.example",
        {"target_object": "companies", "domains": [{"domain": "nowhere.example"}]},
        {"target_object": "companies", "target_record_id": "00000000-0000-4000-8000-000000000000"},
    ):
        answer = client.post("/objects/people/records", json=body(company=company))
        assert error(answer) == (400, "value_not_found")


def test_a_deleted_company_or_person_leaves_no_reference(client: httpx.Client) -> None:
    row = create(client, email_addresses=["ada@alder.example"])
    (company,) = query(client, COMPANIES)
    data_of_company = path(company, COMPANIES)
    other = create(client, email_addresses=["bo@alder.example"])
    client.delete(path(other))
    assert held(data(client.get(data_of_company)), "team", "target_record_id") == [record_id(row)]
    client.delete(data_of_company)
    assert held(data(client.get(path(row))), "company") == []


def test_enrichment_is_the_systems_even_where_nobody_else_may_write(rig: AttioRig, client: httpx.Client) -> None:
    row = create(client, name=[ADA])
    rig.state.alter_attribute(PEOPLE, "job_title", writable=False)
    assert error(client.patch(path(row), json=body(job_title="Buyer"))) == (400, "validation_type")
    rig.state.enrich(PEOPLE, record_id(row), {"job_title": "Buyer"})
    (value,) = data(client.get(path(row)))["values"]["job_title"]
    assert (value["value"], value["created_by_actor"]) == ("Buyer", {"type": "system", "id": None})


# --- what other people do --------------------------------------------------------------------------------------------


def test_a_member_and_another_program_write_under_their_own_names(rig: AttioRig, client: httpx.Client) -> None:
    row = create(client, email_addresses=["ada@example.test"])
    rig.state.write(PEOPLE, {"description": "Called"}, actor=rig.seeded.member, record_id=record_id(row))
    rig.state.write(PEOPLE, {"user_id": "user_9"}, actor=rig.seeded.integration, record_id=record_id(row))
    row = data(client.get(path(row)))
    assert held(row, "description", "created_by_actor")[0]["type"] == "workspace-member"
    assert held(row, "user_id", "created_by_actor")[0]["id"] == rig.seeded.integration.id != rig.seeded.token_actor.id
    assert rig.state.contents(PEOPLE, record_id(row), "user_id") == ["user_9"]
    assert rig.state.find(PEOPLE, "user_id", "user_9") == ids([row])
    rig.state.delete(PEOPLE, record_id(row))
    assert query(client) == []


def test_an_answer_is_never_older_than_the_last_change(rig: AttioRig, client: httpx.Client) -> None:
    person = create(client, email_addresses=["ada@alder.example"])
    (company,) = query(client, COMPANIES)
    other = create(client, COMPANIES, domains=["finch.example"])
    reference = {"target_object": "companies", "target_record_id": record_id(other)}
    rig.state.write(PEOPLE, {"company": reference}, actor=rig.seeded.member, record_id=record_id(person))
    teams = {record_id(row): held(row, "team", "target_record_id") for row in query(client, COMPANIES)}
    assert teams == {record_id(company): [], record_id(other): [record_id(person)]}
    assert held(data(client.get(path(person))), "company", "target_record_id") == [record_id(other)]
    rig.state.alter_attribute(PEOPLE, "company", archived=True)
    assert "company" not in data(client.get(path(person)))["values"]
    rig.state.delete(PEOPLE, record_id(person))
    assert held(data(client.get(path(other, COMPANIES))), "team") == []


def test_ten_thousand_people_at_one_domain_make_one_company(rig: AttioRig) -> None:
    for number in range(10_000):
        rig.state.write(PEOPLE, {"email_addresses": [f"p{number}@alder.example"]}, actor=rig.seeded.member)
    assert len(rig.state.tables[COMPANIES].records) == 1
