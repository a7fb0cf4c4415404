"""Queries of the fake Attio: the documented filters, and an error for every other one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill_pipelines.sandbox.attio_filters import read_filter, select
from backfill_pipelines.sandbox.attio_records import COMPANIES, PEOPLE
from backfill_pipelines.sandbox.attio_state import AttioState, OpenQuestions
from backfill_pipelines_tests.sandbox.attio_rig import (
    WORKSPACE,
    AttioRig,
    create,
    error,
    held,
    ids,
    query,
    running_attio,
)

NO_USER_ID = {"$not": {"user_id": {"$not_empty": True}}}
BY_CREATION = [{"direction": "asc", "attribute": "created_at"}]
SOMEBODY = next(each for each in WORKSPACE.people if each.user_id and each.addresses and each.first_name)
Row = dict[str, Any]


@pytest.fixture(scope="module")
def rig() -> Iterator[AttioRig]:
    with running_attio() as serving:
        yield serving


@pytest.fixture(scope="module")
def client(rig: AttioRig) -> httpx.Client:
    return rig.client()


@pytest.fixture(scope="module")
def people(client: httpx.Client) -> list[Row]:
    return query(client)


def refused(client: httpx.Client, object_slug: str = PEOPLE, **body: Any) -> str:
    status, code = error(client.post(f"/objects/{object_slug}/records/query", json=body))
    assert status == 400
    return code


# --- what a filter chooses -------------------------------------------------------------------------------------------


def any_of(slug: str, name: str, holds: Callable[[str], bool]) -> Callable[[Row], bool]:
    return lambda row: any(holds(value) for value in held(row, slug, name))


ADDRESS = SOMEBODY.addresses[0].lower()
DOMAIN = ADDRESS.rpartition("@")[2]
FIRST = SOMEBODY.first_name
CHOICES: list[tuple[Any, Callable[[Row], bool]]] = [
    ({"email_addresses": ADDRESS}, any_of("email_addresses", "email_address", lambda each: each == ADDRESS)),
    (
        {"email_addresses": {"email_domain": DOMAIN}},
        any_of("email_addresses", "email_domain", lambda each: each == DOMAIN),
    ),
    (
        {"email_addresses": {"email_address": {"$ends_with": ".test"}}},
        any_of("email_addresses", "email_address", lambda each: each.endswith(".test")),
    ),
    (
        {"email_addresses": {"email_local_specifier": {"$starts_with": "a"}}},
        any_of("email_addresses", "email_local_specifier", lambda each: each.startswith("a")),
    ),
    ({"email_addresses": {"$not_empty": True}}, lambda row: bool(row["values"]["email_addresses"])),
    ({"$not": {"email_addresses": {"$not_empty": True}}}, lambda row: not row["values"]["email_addresses"]),
    ({"user_id": SOMEBODY.user_id}, any_of("user_id", "value", lambda each: each == SOMEBODY.user_id)),
    (
        {"user_id": {"$in": [SOMEBODY.user_id, "user_none"]}},
        any_of("user_id", "value", lambda each: each == SOMEBODY.user_id),
    ),
    (NO_USER_ID, lambda row: not row["values"]["user_id"]),
    ({"name": {"first_name": FIRST}}, any_of("name", "first_name", lambda each: each == FIRST)),
    ({"name": {"$contains": FIRST.upper()}}, any_of("name", "full_name", lambda each: FIRST.lower() in each.lower())),
    ({"created_by": {"referenced_actor_type": "workspace-member"}}, lambda _row: True),
    ({"created_at": {"$gte": "2024-01-08T08:30:00.000000000Z"}}, lambda row: row["created_at"] >= "2024-01-08T08:30"),
    (
        {"created_at": {"$gt": "2024-01-08T08:10", "$lte": "2024-01-08T08:40"}},
        lambda row: "2024-01-08T08:10" < row["created_at"] <= "2024-01-08T08:40",
    ),
    (
        {"$and": [{"email_addresses": {"$not_empty": True}}, NO_USER_ID]},
        lambda row: bool(row["values"]["email_addresses"]) and not row["values"]["user_id"],
    ),
    (
        {"email_addresses": {"$not_empty": True}, "user_id": {"$starts_with": "user_"}},
        lambda row: bool(row["values"]["email_addresses"]) and bool(row["values"]["user_id"]),
    ),
    (
        {"path": [["people", "company"], ["companies", "domains"]], "constraints": {"root_domain": "example.com"}},
        lambda row: bool(row["values"]["company"]),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("given_filter", "holds"), CHOICES[:-1], ids=[str(each) for each, _ in CHOICES[:-1]])
def test_each_documented_filter_chooses_by_its_field(
    client: httpx.Client, people: list[Row], given_filter: Any, holds: Callable[[Row], bool]
) -> None:
    wanted = sorted(ids([row for row in people if holds(row)]))
    assert sorted(ids(query(client, filter=given_filter))) == wanted != []


def test_a_path_leads_from_people_to_the_domains_of_their_companies(client: httpx.Client, people: list[Row]) -> None:
    companies = {row["id"]["record_id"]: row for row in query(client, COMPANIES)}
    wanted = [
        row
        for row in people
        if any(
            "example.com" in held(companies[company], "domains", "root_domain")
            for company in held(row, "company", "target_record_id")
        )
    ]
    assert sorted(ids(query(client, filter=CHOICES[-1][0]))) == sorted(ids(wanted)) != []


def test_records_are_found_by_their_ids(client: httpx.Client, people: list[Row]) -> None:
    wanted = ids(people)[:3]
    found = query(client, filter={"record_id": {"$in": [*wanted, "00000000-0000-4000-8000-000000000000"]}})
    assert sorted(ids(found)) == sorted(wanted)
    company = held(next(row for row in people if row["values"]["company"]), "company", "target_record_id")[0]
    given_filter = {"company": {"target_object": "companies", "target_record_id": {"$in": [company]}}}
    members = [row for row in people if company in held(row, "company", "target_record_id")]
    assert sorted(ids(query(client, filter=given_filter))) == sorted(ids(members))


def test_an_address_is_compared_as_attio_normalised_it(rig: AttioRig) -> None:
    with running_attio() as own:
        client = own.client()
        row = create(client, email_addresses=["Mixed.Case@Example.Test"])
        assert ids(query(client, filter={"email_addresses": "mixed.case@example.test"})) == ids([row])
        assert query(client, filter={"email_addresses": "Mixed.Case@Example.Test"}) == []


# --- and only those --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given_filter",
    [
        {"user_id": {"$empty": True}},
        {"user_id": {"$neq": "x"}},
        {"user_id": {"$nin": ["x"]}},
        {"user_id": {"$not_empty": False}},
        {"user_id": None},
        {"user_id": {}},
        {"user_id": {"value": {"$gt": "x"}}},
        {"user_id": {"text": "x"}},
        {"user_id": {"$in": "x"}},
        {"user_id": {"$in": [["x"]]}},
        {"user_id": {"$eq": ["x"]}},
        {"email_addresses": {"$in": ["a@example.test"]}},
        {"email_addresses": {"domain": "example.test"}},
        {"email_addresses": ["a@example.test"]},
        {"company": "00000000-0000-4000-8000-000000000000"},
        {"$nor": [{"user_id": "x"}]},
        {"$and": []},
        {"$or": {"user_id": "x"}},
        {"$not": [{"user_id": "x"}]},
        {"path": [["people", "company"]], "constraint": {}},
        {"path": [["companies", "domains"]], "constraints": {"domain": "x"}},
        {"path": [["people", "name"], ["companies", "domains"]], "constraints": {"domain": "x"}},
        {"path": [["deals", "name"]], "constraints": {"value": "x"}},
        [],
        "user_id",
    ],
    ids=str,
)
def test_every_other_filter_is_a_filter_error(client: httpx.Client, given_filter: Any) -> None:
    assert refused(client, filter=given_filter) == "filter_error"


@pytest.mark.parametrize(
    "body",
    [
        {"filter": {"parent_record_id": "x"}},
        {"filter": {"updated_at": {"$gt": "2024"}}},
        {"filter": {"path": [["people", "shoe_size"]], "constraints": {"value": "x"}}},
        {"sorts": [{"direction": "asc", "attribute": "updated_at"}]},
    ],
    ids=str,
)
def test_an_unknown_attribute_is_named(client: httpx.Client, body: Any) -> None:
    answer = client.post("/objects/people/records/query", json=body)
    assert error(answer) == (400, "unknown_filter_attribute_slug")
    (slug,) = answer.json()["path"]
    assert answer.json()["message"] == f"Unknown attribute slug: {slug}."


def test_what_not_empty_means_for_texts_is_an_open_question() -> None:
    for answer in ("honoured", "refused", "ignored"):
        with running_attio(questions=OpenQuestions(not_empty_on_text=answer)) as rig:  # type: ignore[arg-type]
            client = rig.client()
            if answer == "refused":
                assert refused(client, filter=NO_USER_ID) == "filter_error"
            else:
                without = sum(each.user_id is None for each in WORKSPACE.people)
                assert len(query(client, filter=NO_USER_ID)) == (without if answer == "honoured" else 0)
            assert len(query(client, filter={"email_addresses": {"$not_empty": True}})) > 0


# --- sorts and pages -------------------------------------------------------------------------------------------------


def test_records_are_sorted_by_any_attribute_and_the_empty_ones_come_last(
    client: httpx.Client, people: list[Row]
) -> None:
    by_creation = query(client, sorts=BY_CREATION)
    assert [row["created_at"] for row in by_creation] == sorted(row["created_at"] for row in people)
    descending = query(client, sorts=[{"direction": "desc", "attribute": "created_at"}])
    assert [row["created_at"] for row in descending] == sorted((row["created_at"] for row in people), reverse=True)
    for direction in ("asc", "desc"):
        rows = query(client, sorts=[{"direction": direction, "attribute": "name", "field": "last_name"}])
        names = [held(row, "name", "last_name")[0] for row in rows]
        assert names == sorted(names, reverse=direction == "desc")
        texts = [
            held(row, "user_id") for row in query(client, sorts=[{"direction": direction, "attribute": "user_id"}])
        ]
        full = [each for each in texts if each]
        assert full == sorted(full, reverse=direction == "desc") != []
        assert not any(texts[len(full) :])


def test_a_second_sort_settles_what_the_first_leaves_open(client: httpx.Client) -> None:
    rows = query(
        client,
        sorts=[
            {"direction": "asc", "attribute": "name", "field": "first_name"},
            {"direction": "desc", "attribute": "created_at"},
        ],
    )
    pairs = [(held(row, "name", "first_name")[0], row["created_at"]) for row in rows]
    assert pairs == sorted(sorted(pairs, key=lambda pair: pair[1], reverse=True), key=lambda pair: pair[0])


def test_a_path_sorts_people_by_their_companies(client: httpx.Client) -> None:
    path = [["people", "company"], ["companies", "domains"]]
    rows = query(client, sorts=[{"direction": "asc", "path": path}])
    companies = {
        row["id"]["record_id"]: held(row, "domains", "domain")[0]
        for row in query(client, COMPANIES)
        if row["values"]["domains"]
    }
    domains = [companies[each] for row in rows for each in held(row, "company", "target_record_id")]
    assert domains == sorted(domains) != []


@pytest.mark.parametrize(
    "sorts",
    [
        [{"attribute": "created_at"}],
        [{"direction": "up", "attribute": "created_at"}],
        [{"direction": "asc"}],
        [{"direction": "asc", "attribute": "name", "field": "nick_name"}],
        [{"direction": "asc", "attribute": "name", "order": 1}],
        ["created_at"],
        "created_at",
    ],
)
def test_a_sort_of_another_form_is_a_filter_error(client: httpx.Client, sorts: Any) -> None:
    assert refused(client, sorts=sorts) == "filter_error"


def test_pages_together_are_everything_once(client: httpx.Client, people: list[Row]) -> None:
    pages = [query(client, sorts=BY_CREATION, limit=7, offset=start) for start in range(0, len(people) + 7, 7)]
    assert ids([row for page in pages for row in page]) == ids(query(client, sorts=BY_CREATION))
    assert pages[-1] == []


def test_a_page_has_500_rows_by_default_and_never_more() -> None:
    with running_attio() as rig:
        for number in range(510):
            rig.state.write(PEOPLE, {"description": f"number {number}"}, actor=rig.seeded.member)
        client = rig.client()
        total = len(WORKSPACE.people) + 510
        assert [len(query(client, **body)) for body in ({}, {"limit": 5_000}, {"offset": 500})] == [
            500,
            500,
            total - 500,
        ]


@pytest.mark.parametrize("body", [{"limit": -1}, {"offset": "x"}, {"limit": 1.5}])
def test_a_limit_is_a_whole_number(client: httpx.Client, body: Any) -> None:
    assert refused(client, **body) == "validation_type"


def test_another_field_of_the_body_is_an_error(client: httpx.Client) -> None:
    assert refused(client, cursor="x") == "filter_error"


# --- rules -----------------------------------------------------------------------------------------------------------

STATE = AttioState([WORKSPACE], questions=OpenQuestions(), clock=lambda: 1_790_000_000.0).workspaces[WORKSPACE.key]
TABLE = STATE.tables[PEOPLE]
LEAVES = st.sampled_from(
    [
        *({"email_addresses": address.lower()} for each in WORKSPACE.people[:9] for address in each.addresses),
        *({"user_id": each.user_id} for each in WORKSPACE.people if each.user_id),
        *({"record_id": {"$in": [each.record_id]}} for each in WORKSPACE.people[:9]),
        {"email_addresses": {"$not_empty": True}},
        {"user_id": {"$not_empty": True}},
        {"user_id": "user_nobody"},
        {"name": {"first_name": {"$contains": "a"}}},
        {"email_addresses": {"email_domain": {"$ends_with": "example"}}},
    ]
)
FILTERS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(lambda parts: {"$and": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda parts: {"$or": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda part: {"$not": part}, inner),
    ),
    max_leaves=8,
)


def chosen(given_filter: Any) -> set[str]:
    return {record.id for record in select(STATE, TABLE, read_filter(STATE, TABLE, given_filter), [])}


def by_set_algebra(given_filter: Any) -> set[str]:
    """What a filter chooses, by the meaning of its words alone."""
    ((name, value),) = given_filter.items()
    if name == "$and":
        return set.intersection(*map(by_set_algebra, value))
    if name == "$or":
        return set.union(*map(by_set_algebra, value))
    if name == "$not":
        return set(TABLE.records) - by_set_algebra(value)
    condition = read_filter(STATE, TABLE, given_filter)
    return {record.id for record in TABLE.records.values() if condition.holds(record)}


@given(FILTERS)
def test_logic_is_set_algebra_and_the_index_changes_nothing(given_filter: Any) -> None:
    assert chosen(given_filter) == by_set_algebra(given_filter)
