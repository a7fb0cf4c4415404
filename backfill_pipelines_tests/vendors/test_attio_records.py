"""What Attio's JSON is taken to mean, and what it is not."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill_pipelines.errors import ConfigurationError, DataError, TransientError
from backfill_pipelines.sandbox.attio_records import PEOPLE
from backfill_pipelines.sandbox.attio_state import AttioState, OpenQuestions
from backfill_pipelines.vendors.attio_records import (
    ATTRIBUTE_SCOPES,
    READ_SCOPES,
    WRITE_SCOPES,
    Actor,
    Attribute,
    Authorship,
    Company,
    Person,
    RejectedRecord,
    TokenInfo,
    UniquenessConflictError,
    WrittenValue,
    attribute_problem,
    read_attribute,
    read_authorship,
    read_company,
    read_person,
    read_token,
    uniqueness_conflict,
)
from backfill_pipelines.vendors.vendor_errors import RejectedRequestError
from backfill_pipelines_tests.sandbox.attio_rig import WORKSPACE
from backfill_pipelines_tests.vendors.attio_asking import RECORD_ID, address, record, value

OTHER_ID = "0a1b2c3d-0000-4000-8000-0000000000bb"
MADE = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)


# --- people ----------------------------------------------------------------------------------------------------------


def test_a_person_has_its_addresses_in_lower_case_and_its_creation_in_microseconds() -> None:
    person = read_person(
        record(
            {"email_addresses": [address("Ada@Example.test"), address("b@x.test")], "user_id": [value(value="user_1")]}
        )
    )
    assert person == Person(
        record_id=RECORD_ID, created_at=MADE, addresses=("ada@example.test", "b@x.test"), user_ids=("user_1",)
    )


def test_an_address_counts_as_it_was_typed_too_where_attio_rewrote_it() -> None:
    rewritten = {**address("ada@xn--bcher-kva.test"), "original_email_address": "Ada@Bücher.test"}
    person = read_person(record({"email_addresses": [rewritten]}))
    assert isinstance(person, Person)
    assert person.addresses == ("ada@xn--bcher-kva.test", "ada@bücher.test")


@pytest.mark.parametrize(
    "absent", [{}, {"email_addresses": [], "user_id": []}, {"email_addresses": None, "user_id": None}]
)
def test_what_is_absent_null_or_an_empty_list_is_empty(absent: dict[str, Any]) -> None:
    person = read_person(record(absent))
    assert isinstance(person, Person)
    assert (person.addresses, person.user_ids) == ((), ())


def test_only_current_values_count_and_a_blank_text_is_none() -> None:
    former = {"active_until": "2024-05-07T00:00:00.000000000Z"}
    person = read_person(
        record(
            {
                "email_addresses": [address("new@x.test"), address("old@x.test", **former)],
                "user_id": [value(value="user_2"), value(value="user_1", **former), value(value="  ")],
            }
        )
    )
    assert isinstance(person, Person)
    assert (person.addresses, person.user_ids) == (("new@x.test",), ("user_2",))


@pytest.mark.parametrize(
    ("item", "record_id", "reason"),
    [
        (None, None, "no_record_id"),
        ([], None, "no_record_id"),
        ({}, None, "no_record_id"),
        (record({}, id={"record_id": 7}), None, "no_record_id"),
        (record({}, id={"record_id": "../people"}), None, "no_record_id"),
        (record({}, id=RECORD_ID), None, "no_record_id"),
        (record({}, created_at=None), RECORD_ID, "no_created_at"),
        (record({}, created_at="yesterday"), RECORD_ID, "no_created_at"),
        (record({}, created_at="2024-05-06T07:08:09"), RECORD_ID, "no_created_at"),
        (record({}, values=None), RECORD_ID, "no_values"),
        (record({}, values=[]), RECORD_ID, "no_values"),
        (record({"email_addresses": "ada@x.test"}), RECORD_ID, "bad_email_addresses"),
        (record({"email_addresses": ["ada@x.test"]}), RECORD_ID, "bad_email_addresses"),
        (record({"email_addresses": [value(email_address=None)]}), RECORD_ID, "bad_email_address"),
        (record({"user_id": [value(value=7)]}), RECORD_ID, "bad_user_id"),
        (record({"user_id": {"value": "user_1"}}), RECORD_ID, "bad_user_id"),
    ],
)
def test_a_malformed_person_is_rejected_with_a_reason(item: Any, record_id: str | None, reason: str) -> None:
    assert read_person(item) == RejectedRecord(record_id=record_id, reason=reason)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=6)
    | st.just(RECORD_ID)
    | st.just("2024-05-06T07:08:09Z"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["id", "record_id", "created_at", "values", "email_addresses", "user_id", "domains", "value", "domain"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(JSON)
def test_no_json_whatever_makes_reading_fail(item: Any) -> None:
    for read, kind in ((read_person, Person), (read_company, Company)):
        found = read(item)
        assert isinstance(found, kind | RejectedRecord)
        assert found.record_id in (None, RECORD_ID)
        if isinstance(found, kind):
            assert found.created_at.tzinfo is not None


def test_every_seeded_person_is_read_as_it_was_seeded() -> None:
    state = AttioState([WORKSPACE], questions=OpenQuestions(), clock=lambda: 0.0).workspaces[WORKSPACE.key]
    table = state.tables[PEOPLE]
    for seeded in WORKSPACE.people:
        person = read_person(table.row(table.records[seeded.record_id]))
        assert isinstance(person, Person)
        assert person.record_id == seeded.record_id
        assert person.addresses == tuple(each.lower() for each in seeded.addresses)
        assert person.user_ids == (() if seeded.user_id is None else (seeded.user_id,))
        assert person.created_at == datetime.fromtimestamp(0, UTC) + timedelta(microseconds=seeded.created_at // 1000)


def test_no_personal_value_is_in_a_repr() -> None:
    person = read_person(record({"email_addresses": [address("canary@x.test")], "user_id": [value(value="canary")]}))
    company = read_company(record({"domains": [value(domain="canary.test")], "org_id": [value(value="canary")]}))
    for each in (person, company):
        assert RECORD_ID in repr(each)
        assert "canary" not in repr(each)


# --- companies -------------------------------------------------------------------------------------------------------


def test_a_company_has_its_domains_and_its_organization() -> None:
    company = read_company(
        record(
            {
                "domains": [value(domain="Alder.example"), value(domain="finch.example")],
                "org_id": [value(value="org_1")],
            }
        )
    )
    assert company == Company(
        record_id=RECORD_ID, created_at=MADE, domains=("alder.example", "finch.example"), org_id="org_1"
    )
    bare = read_company(record({}))
    assert isinstance(bare, Company)
    assert (bare.domains, bare.org_id) == ((), None)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"domains": [value(domain=7)]}, "bad_domain"),
        ({"org_id": [value(value="org_1"), value(value="org_2")]}, "several_org_ids"),
    ],
)
def test_a_company_that_contradicts_itself_is_rejected(values: Any, reason: str) -> None:
    assert read_company(record(values)) == RejectedRecord(record_id=RECORD_ID, reason=reason)


# --- tokens and attributes -------------------------------------------------------------------------------------------


def test_a_token_lacks_what_it_was_not_given_and_writing_includes_reading() -> None:
    token = read_token({"active": True, "workspace_id": "w", "scope": "record_permission:read-write note:read"})
    assert token.missing(WRITE_SCOPES) == ("object_configuration:read",)
    token = TokenInfo(workspace_id="w", scopes=frozenset({"record_permission:read", "object_configuration:read-write"}))
    assert (token.missing(READ_SCOPES), token.missing(ATTRIBUTE_SCOPES)) == ((), ())
    assert token.missing(WRITE_SCOPES) == ("record_permission:read-write",)


def test_a_dead_token_is_a_matter_of_configuration_and_half_an_answer_is_malformed() -> None:
    with pytest.raises(ConfigurationError) as dead:
        read_token({"active": False})
    assert dead.value.code == "token_inactive"
    for body in (None, [], {}, {"active": True}, {"active": True, "workspace_id": "w"}, {"active": True, "scope": "x"}):
        with pytest.raises(TransientError):
            read_token(body)
    assert read_token({"sub": "w", "scope": ""} | {"scope": "a b"}).workspace_id == "w"


def attribute(**settings: Any) -> dict[str, Any]:
    return {
        "api_slug": "user_id",
        "type": "text",
        "is_writable": True,
        "is_archived": False,
        "is_unique": False,
        "is_multiselect": False,
        **settings,
    }


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        (attribute(), None),
        (attribute(is_unique=True), None),
        (attribute(is_archived=True), "archived"),
        (attribute(type="number"), "not_text"),
        (attribute(is_multiselect=True), "multiselect"),
        (attribute(is_writable=False), "read_only"),
        (attribute(is_archived=None), "archived"),
        (attribute(is_writable="yes"), "read_only"),
    ],
)
def test_an_attribute_is_of_use_only_where_everything_about_it_is_right(item: Any, problem: str | None) -> None:
    assert attribute_problem(read_attribute(item)) == problem


def test_an_attribute_that_is_not_there_is_missing_and_half_a_one_is_malformed() -> None:
    assert attribute_problem(None) == "missing"
    for item in (None, {}, {"api_slug": "x"}, {"type": "text"}, attribute(api_slug="")):
        with pytest.raises(TransientError):
            read_attribute(item)
    assert isinstance(read_attribute(attribute()), Attribute)


# --- who wrote what --------------------------------------------------------------------------------------------------

US, SYSTEM = Actor("api-token", "token-1"), Actor("system", None)
CREATED_BY = [{**value("actor-reference"), "referenced_actor_type": "api-token", "referenced_actor_id": "token-1"}]


@pytest.mark.parametrize(
    ("other", "foreign"),
    [
        (value(value="x"), False),
        (value(value="x", actor="system"), False),
        (value(value="x", actor="system", active_from="2026-01-01T00:00:00Z"), False),
        (value(value="x", actor="workspace-member"), True),
        (value(value="x", actor="app"), True),
        (value(value="x", created_by_actor={"type": "api-token", "id": "token-2"}), True),
        (value(value="x", created_by_actor={"type": None, "id": None}), True),
        (value(value="x", created_by_actor=None), True),
        (value(value="x", active_from="2024-05-06T07:08:13Z"), False),
        (value(value="x", active_from="2024-05-06T07:08:16Z"), True),
        (value(value="x", active_from=None), True),
        (value(value="x", actor="workspace-member", active_until="2024-06-01T00:00:00Z"), False),
    ],
)
def test_only_what_the_creator_wrote_at_once_and_attios_own_values_are_harmless(other: Any, foreign: bool) -> None:
    authorship = read_authorship(
        record({"created_by": CREATED_BY, "user_id": [value(value="u")], "description": [other]})
    )
    assert authorship.created_by == US
    assert authorship.written_by_others() == (("description",) if foreign else ())


@pytest.mark.parametrize("created_by", [[], None, [value("actor-reference")], [*CREATED_BY, *CREATED_BY]])
def test_without_one_known_creator_every_value_but_attios_is_somebody_elses(created_by: Any) -> None:
    values = {"created_by": created_by, "user_id": [value(value="u")], "company": [value(actor="system")]}
    found = read_authorship(record(values)).written_by_others()
    assert "user_id" in found
    assert "company" not in found


@pytest.mark.parametrize("item", [None, record({}, values=None), record({"name": "Ada"}), record({}, created_at=None)])
def test_a_record_that_cannot_be_read_says_nothing_about_its_authors(item: Any) -> None:
    with pytest.raises(TransientError) as error:
        read_authorship(item)
    assert error.value.code == "malformed_response"


@given(st.lists(st.tuples(st.sampled_from(["system", "us", "them"]), st.integers(0, 9)), max_size=8))
def test_a_record_is_ours_alone_exactly_while_nobody_else_wrote_and_nothing_came_later(
    writes: list[tuple[str, int]],
) -> None:
    actors = {"system": SYSTEM, "us": US, "them": Actor("workspace-member", "m")}
    values = tuple(
        WrittenValue(attribute=f"a{number}", actor=actors[who], written_at=MADE + timedelta(seconds=later))
        for number, (who, later) in enumerate(writes)
    )
    authorship = Authorship(record_id=RECORD_ID, created_at=MADE, created_by=US, values=values)
    foreign = {
        f"a{number}" for number, (who, later) in enumerate(writes) if who == "them" or (who == "us" and later > 5)
    }
    assert set(authorship.written_by_others()) == foreign


# --- uniqueness conflicts --------------------------------------------------------------------------------------------

SENTENCE = (
    'A value provided for attribute with slug "email_addresses" conflicts with one already in the system. This '
    "attribute has a uniqueness constraint. Please ensure all values for this attribute do not exist on another "
    "record. Conflicting record IDs: "
)


def conflict(message: Any) -> DataError:
    body = {"status_code": 400, "code": "uniqueness_conflict", "message": message}
    return uniqueness_conflict(
        RejectedRequestError(vendor="Attio", status=400, vendor_code="uniqueness_conflict", body=body)
    )


@pytest.mark.parametrize("between", [", ", ",", " ", "\n"])
def test_the_records_in_the_way_are_read_from_the_sentence(between: str) -> None:
    found = conflict(SENTENCE + between.join((RECORD_ID, OTHER_ID.upper())))
    assert isinstance(found, UniquenessConflictError)
    assert (found.record_ids, found.attribute) == ((RECORD_ID, OTHER_ID), "email_addresses")


@pytest.mark.parametrize(
    "message",
    [
        None,
        "",
        7,
        SENTENCE,
        f"{SENTENCE}none",
        f"{SENTENCE}{RECORD_ID[:-1]}",
        f"{SENTENCE}{RECORD_ID}0",
        f"See record {RECORD_ID}.",
        [RECORD_ID],
    ],
)
def test_a_conflict_that_names_no_record_is_not_guessed_at(message: Any) -> None:
    found = conflict(message)
    assert not isinstance(found, UniquenessConflictError)
    assert found.code == "nameless_conflict"


def test_a_conflict_survives_a_pickle_and_shows_ids_only() -> None:
    found = conflict(f'{SENTENCE}{RECORD_ID} because of "canary@x.test"')
    assert isinstance(found, UniquenessConflictError)
    again = pickle.loads(pickle.dumps(found))
    assert (again.record_ids, again.attribute, str(again)) == (found.record_ids, found.attribute, str(found))
    assert "canary" not in f"{found!r} {found} {found.__dict__!r}"


@given(st.text(max_size=30), st.text(max_size=30), st.lists(st.uuids().map(str), min_size=1, max_size=3))
def test_whatever_stands_around_them_the_ids_are_found_and_none_is_invented(
    before: str, after: str, record_ids: list[str]
) -> None:
    found = conflict(f"{before} Conflicting record IDs: {', '.join(record_ids)} {after}")
    assert isinstance(found, UniquenessConflictError)
    assert list(found.record_ids) == record_ids
