"""The Attio client against the stateful fake, and against answers that the vendor's documentation leaves possible."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from backfill_pipelines.errors import BackfillError, DataError, ErrorCategory
from backfill_pipelines.sandbox.attio_records import COMPANIES, PEOPLE
from backfill_pipelines.sandbox.attio_state import OpenQuestions
from backfill_pipelines.vendors.attio import Attio
from backfill_pipelines.vendors.attio_records import (
    Attribute,
    Person,
    UniquenessConflictError,
    attribute_problem,
)
from backfill_pipelines.vendors.transport import (
    AmbiguousWriteError,
    NotFoundError,
    RejectedRequestError,
)
from backfill_pipelines_tests.sandbox.attio_rig import EMPTY, AttioRig, SettableClock, running_attio
from backfill_pipelines_tests.vendors.attio_asking import (
    RECORD_ID,
    address,
    ask,
    record,
    refusal,
    scripted,
    sent,
    value,
)
from backfill_pipelines_tests.vendors.scripted_server import answer, reset

NOBODY = "00000000-0000-4000-8000-000000000000"
ADA = {"address": "Ada@Alder.example", "user_id": "user_1", "first_name": "Ada", "last_name": "Quill"}


@pytest.fixture(scope="module")
def serving() -> Iterator[AttioRig]:
    with running_attio(EMPTY) as rig:
        yield rig


@pytest.fixture
def rig(serving: AttioRig) -> AttioRig:
    serving.server.reset()
    return serving


def writes(rig: AttioRig) -> list[tuple[str, int]]:
    """Method and status of every write so far."""
    return [(method, status) for method, path, status in rig.statuses() if method != "GET" and "query" not in path]


def code_of(result: object) -> tuple[str, ErrorCategory]:
    assert isinstance(result, BackfillError)
    assert str(result)
    return result.code, result.category


# --- attributes ------------------------------------------------------------------------------------------------------


def test_attributes_are_known_by_slug_archived_ones_too(rig: AttioRig) -> None:
    rig.state.alter_attribute(PEOPLE, "user_id", archived=True)
    found = ask(rig, lambda attio: attio.attributes(PEOPLE))
    assert attribute_problem(found["user_id"]) == "archived"
    assert attribute_problem(found["job_title"]) is None
    assert attribute_problem(found["created_by"]) == "not_text"
    assert attribute_problem(found.get("shoe_size")) == "missing"
    assert {query for *_, query in [(each.query).split("&") for each in rig.server.requests]} == {
        "offset=0",
        f"offset={len(found)}",
    }


def test_attributes_are_read_to_the_end_however_few_a_page_holds() -> None:
    rows = [{"api_slug": f"a{number}", "type": "text"} for number in range(3)]
    found, requests = scripted(
        lambda attio: attio.attributes(PEOPLE),
        answer(200, {"data": rows[:2]}),
        answer(200, {"data": rows[2:]}),
        answer(200, {"data": []}),
    )
    assert list(found) == ["a0", "a1", "a2"]  # type: ignore[arg-type] # a mapping
    assert [each.path.rpartition("offset=")[2] for each in requests] == ["0", "2", "3"]


def test_a_server_that_ignores_the_offset_does_not_keep_us_for_ever() -> None:
    page = answer(200, {"data": [{"api_slug": "a", "type": "text"}]})
    found, requests = scripted(lambda attio: attio.attributes(PEOPLE), page)
    assert (list(found), len(requests)) == (["a"], 2)  # type: ignore[arg-type] # a mapping


def test_an_attribute_is_made_and_the_one_that_has_the_slug_is_returned() -> None:
    def make(attio: Attio) -> Any:
        return attio.create_text_attribute(PEOPLE, "user_id", title="Clerk user ID", description="Who it is in Clerk")

    with running_attio(EMPTY._replace(user_id_attribute=False)) as rig:
        made = ask(rig, make)
        assert made == Attribute(
            slug="user_id", kind="text", writable=True, archived=False, unique=False, multiselect=False
        )
        rig.state.alter_attribute(PEOPLE, "user_id", type="number")
        assert attribute_problem(ask(rig, make)) == "not_text"
        assert writes(rig) == [("POST", 200), ("POST", 409)]


def test_an_attribute_whose_answer_is_lost_is_not_made_twice() -> None:
    result, requests = scripted(
        lambda attio: attio.create_text_attribute(PEOPLE, "user_id", title="Clerk user ID", description="Who it is"),
        reset,
        answer(200, {}),
    )
    assert isinstance(result, AmbiguousWriteError)
    assert len(requests) == 1


# --- creating --------------------------------------------------------------------------------------------------------


def test_a_person_is_created_with_address_id_and_name(rig: AttioRig) -> None:
    person = ask(rig, lambda attio: attio.create_person(**ADA))
    assert (person.addresses, person.user_ids) == (("ada@alder.example",), ("user_1",))
    assert rig.state.contents(PEOPLE, person.record_id, "email_addresses") == ["Ada@Alder.example"]
    assert rig.state.contents(PEOPLE, person.record_id, "name") == [("Ada", "Quill", "Ada Quill")]
    assert writes(rig) == [("POST", 200)]


@pytest.mark.parametrize(
    ("first", "last", "name"),
    [
        (None, None, []),
        (" ", "", []),
        ("Ada", None, [("Ada", "", "Ada")]),
        (None, " Tallow, Jr. ", [("", "Tallow, Jr.", "Tallow, Jr.")]),
    ],
)
def test_a_name_goes_along_as_far_as_it_is_known(
    rig: AttioRig, first: str | None, last: str | None, name: list[Any]
) -> None:
    person = ask(rig, lambda attio: attio.create_person(**{**ADA, "first_name": first, "last_name": last}))
    assert rig.state.contents(PEOPLE, person.record_id, "name") == name


def test_where_half_a_name_is_refused_the_person_comes_without_and_a_whole_name_is_never_dropped() -> None:
    made = answer(200, {"data": record({"email_addresses": [address("ada@alder.example")]})})
    refused = refusal(400, "validation_type")
    person, requests = scripted(lambda attio: attio.create_person(**{**ADA, "last_name": None}), refused, made)
    assert isinstance(person, Person)
    assert ["name" in sent(each)["data"]["values"] for each in requests] == [True, False]
    whole, requests = scripted(lambda attio: attio.create_person(**ADA), refused, made)
    assert isinstance(whole, RejectedRequestError)
    assert len(requests) == 1


@pytest.mark.parametrize("status", [400, 409])
def test_a_taken_address_names_the_person_that_has_it_and_nothing_is_written(status: Any) -> None:
    with running_attio(EMPTY, questions=OpenQuestions(uniqueness_status=status)) as rig:
        first = ask(rig, lambda attio: attio.create_person(**ADA))
        with pytest.raises(UniquenessConflictError) as conflict:
            ask(rig, lambda attio: attio.create_person(**{**ADA, "address": "ADA@alder.example", "user_id": "user_2"}))
        assert conflict.value.record_ids == (first.record_id,)
        assert conflict.value.attribute == "email_addresses"
        assert "ada" not in f"{conflict.value!r}{conflict.value}".lower()
        assert len(rig.state.tables[PEOPLE].records) == 1


def test_a_conflict_that_names_nobody_is_an_error_of_its_own(rig: AttioRig) -> None:
    ask(rig, lambda attio: attio.create_person(**ADA))
    rig.server.add_faults([{"kind": "nameless_conflict"}])
    with pytest.raises(DataError) as conflict:
        ask(rig, lambda attio: attio.create_person(**ADA))
    assert conflict.value.code == "nameless_conflict"


@pytest.mark.parametrize("fault", ["lost_reply", "cut_body", "truncated_json"])
def test_a_create_whose_answer_is_lost_is_sent_once_and_found_by_looking(rig: AttioRig, fault: str) -> None:
    rig.server.add_faults([{"kind": fault, "method": "POST", "path": "*/records", "count": 1}])
    with pytest.raises(AmbiguousWriteError):
        ask(rig, lambda attio: attio.create_person(**ADA))
    assert len(writes(rig)) == 1
    found = ask(rig, lambda attio: attio.people_with_addresses([ADA["address"]]))
    assert [each.user_ids for each in found.records] == [("user_1",)]


@pytest.mark.parametrize("fault", [{"kind": "reset"}, {"kind": "status", "status": 503}])
def test_a_create_that_may_not_have_happened_is_not_sent_again_either(rig: AttioRig, fault: dict[str, Any]) -> None:
    rig.server.add_faults([{**fault, "method": "POST", "path": "*/records", "count": 1}])
    with pytest.raises(AmbiguousWriteError):
        ask(rig, lambda attio: attio.create_person(**ADA))
    assert len(writes(rig)) == 1
    assert ask(rig, lambda attio: attio.people_with_addresses([ADA["address"]])).records == ()


def test_a_create_whose_answer_is_unreadable_may_have_happened() -> None:
    for body in ({"data": record({}, created_at=None)}, {"data": {}}, {}, []):
        result, requests = scripted(lambda attio: attio.create_person(**ADA), answer(200, body))
        assert isinstance(result, AmbiguousWriteError)
        assert len(requests) == 1


def test_refusals_that_promise_that_nothing_was_executed_are_sent_again(rig: AttioRig) -> None:
    rig.server.add_faults(
        [
            {"kind": "concurrent_write_conflict", "method": "POST", "path": "*/records", "count": 2},
            {"kind": "rate_limited", "retry_after": 2, "method": "POST", "path": "*/records", "nth": 3},
        ]
    )
    ask(rig, lambda attio: attio.create_person(**ADA))
    assert writes(rig) == [("POST", 409), ("POST", 409), ("POST", 429), ("POST", 200)]
    assert len(rig.state.tables[PEOPLE].records) == 1


# --- changing --------------------------------------------------------------------------------------------------------


def somebody(rig: AttioRig, **values: Any) -> str:
    """A person that a member of the workspace made."""
    return rig.state.write(PEOPLE, values, actor=rig.seeded.member).id


def test_only_the_one_attribute_is_changed(rig: AttioRig) -> None:
    record_id = somebody(rig, email_addresses=["ada@alder.example"], name="Ada", description="Met at the fair")
    before = {slug: list(each) for slug, each in rig.state.tables[PEOPLE].records[record_id].values.items()}
    ask(rig, lambda attio: attio.set_text(PEOPLE, record_id, "user_id", "user_1"))
    after = rig.state.tables[PEOPLE].records[record_id].values
    assert rig.state.contents(PEOPLE, record_id, "user_id") == ["user_1"]
    assert {slug: list(each) for slug, each in after.items() if slug != "user_id"} == before
    assert after["user_id"][0].actor == rig.seeded.token_actor


def test_a_company_is_changed_in_the_same_way(rig: AttioRig) -> None:
    company = rig.state.write(COMPANIES, {"domains": ["alder.example"]}, actor=rig.seeded.member).id
    ask(rig, lambda attio: attio.set_text(COMPANIES, company, "org_id", "org_1"))
    (found,) = ask(rig, lambda attio: attio.companies_with_ids([company])).records
    assert (found.org_id, found.domains) == ("org_1", ("alder.example",))


@pytest.mark.parametrize("clears", ["either", "empty_list", "null"])
def test_a_value_is_taken_away_whichever_way_the_vendor_takes(clears: Any) -> None:
    with running_attio(EMPTY, questions=OpenQuestions(clears=clears)) as rig:
        record_id = somebody(rig, user_id="user_1", description="Stays")
        ask(rig, lambda attio: attio.clear_text(PEOPLE, record_id, "user_id"))
        assert rig.state.contents(PEOPLE, record_id, "user_id") == []
        assert rig.state.contents(PEOPLE, record_id, "description") == ["Stays"]


def test_where_nothing_takes_a_value_away_it_is_an_error() -> None:
    with running_attio(EMPTY, questions=OpenQuestions(clears="neither")) as rig:
        record_id = somebody(rig, user_id="user_1")
        with pytest.raises(RejectedRequestError):
            ask(rig, lambda attio: attio.clear_text(PEOPLE, record_id, "user_id"))
    stubborn = answer(200, {"data": record({"user_id": [value(value="user_1")]})})
    result, requests = scripted(lambda attio: attio.clear_text(PEOPLE, RECORD_ID, "user_id"), stubborn)
    assert code_of(result) == ("write_not_taken", ErrorCategory.DATA)
    assert [sent(each)["data"]["values"]["user_id"] for each in requests] == [[], None]


@pytest.mark.parametrize("standing", [[], [value(value="user_2")], [value(value="user_1"), value(value="user_2")]])
def test_a_change_that_the_answer_does_not_show_is_an_error(standing: Any) -> None:
    result, _ = scripted(
        lambda attio: attio.set_text(PEOPLE, RECORD_ID, "user_id", "user_1"),
        answer(200, {"data": record({"user_id": standing})}),
    )
    assert code_of(result) == ("write_not_taken", ErrorCategory.DATA)
    assert "user_1" not in str(result)


def test_a_change_whose_answer_is_lost_or_unreadable_is_sent_once() -> None:
    for behaviour in (reset, answer(502, b"<html>"), answer(200, {"data": {}}), answer(200, b"{")):
        result, requests = scripted(
            lambda attio: attio.set_text(PEOPLE, RECORD_ID, "user_id", "user_1"), behaviour, answer(200, {})
        )
        assert isinstance(result, AmbiguousWriteError)
        assert len(requests) == 1


def test_a_record_that_is_gone_or_whose_value_is_taken_is_said_to_be(rig: AttioRig) -> None:
    with pytest.raises(NotFoundError):
        ask(rig, lambda attio: attio.set_text(PEOPLE, NOBODY, "user_id", "user_1"))
    rig.state.alter_attribute(PEOPLE, "user_id", unique=True)
    owner, other = somebody(rig, user_id="user_1"), somebody(rig, name="Bo")
    with pytest.raises(UniquenessConflictError) as conflict:
        ask(rig, lambda attio: attio.set_text(PEOPLE, other, "user_id", "user_1"))
    assert (conflict.value.record_ids, conflict.value.attribute) == ((owner,), "user_id")


# --- deleting, and whose a record is ---------------------------------------------------------------------------------


def test_a_record_is_deleted_once_and_a_lost_answer_does_no_harm(rig: AttioRig) -> None:
    record_id = somebody(rig, name="Ada")
    assert ask(rig, lambda attio: attio.delete(PEOPLE, record_id)) is True
    assert ask(rig, lambda attio: attio.delete(PEOPLE, record_id)) is False
    record_id = somebody(rig, name="Bo")
    rig.server.add_faults([{"kind": "lost_reply", "method": "DELETE", "count": 1}])
    assert ask(rig, lambda attio: attio.delete(PEOPLE, record_id)) is False
    assert record_id not in rig.state.tables[PEOPLE].records


def test_a_person_that_nobody_touched_but_us_and_attio_is_ours_alone(rig: AttioRig) -> None:
    person = ask(rig, lambda attio: attio.create_person(**ADA))
    rig.state.enrich(PEOPLE, person.record_id, {"job_title": "Buyer"})
    found = ask(rig, lambda attio: attio.authorship(PEOPLE, person.record_id))
    assert found is not None
    assert {each.attribute for each in found.values} >= {"name", "email_addresses", "user_id", "company", "job_title"}
    assert found.written_by_others() == ()


@pytest.mark.parametrize("who", ["member", "integration"])
def test_a_value_of_anybody_else_makes_it_theirs_too(rig: AttioRig, who: str) -> None:
    person = ask(rig, lambda attio: attio.create_person(**ADA))
    rig.state.write(
        PEOPLE, {"email_addresses": ["ada@private.test"]}, actor=getattr(rig.seeded, who), record_id=person.record_id
    )
    found = ask(rig, lambda attio: attio.authorship(PEOPLE, person.record_id))
    assert found is not None
    assert found.written_by_others() == ("email_addresses",)


def test_a_later_write_with_our_own_key_may_be_another_programs() -> None:
    clock = SettableClock()
    with running_attio(EMPTY, clock=clock) as rig:
        person = ask(rig, lambda attio: attio.create_person(**ADA))
        clock.now += 60
        rig.state.write(PEOPLE, {"description": "x"}, actor=rig.seeded.token_actor, record_id=person.record_id)
        found = ask(rig, lambda attio: attio.authorship(PEOPLE, person.record_id))
        assert found is not None
        assert found.written_by_others() == ("description",)


def test_a_record_that_somebody_else_made_is_theirs(rig: AttioRig) -> None:
    record_id = somebody(rig, name="Ada")
    found = ask(rig, lambda attio: attio.authorship(PEOPLE, record_id))
    assert found is not None
    assert found.created_by is not None
    assert found.created_by.kind == "workspace-member"


def test_a_deleted_record_has_no_authorship_and_any_other_404_is_not_taken_for_one(rig: AttioRig) -> None:
    assert ask(rig, lambda attio: attio.authorship(PEOPLE, NOBODY)) is None
    for behaviour in (refusal(404, "merge_in_progress"), answer(404, b"<html>")):
        for question in (
            lambda attio: attio.authorship(PEOPLE, RECORD_ID),
            lambda attio: attio.person(RECORD_ID),
            lambda attio: attio.delete(PEOPLE, RECORD_ID),
        ):
            result, _ = scripted(question, behaviour)
            assert isinstance(result, NotFoundError)


def test_a_person_is_read_by_its_id_as_it_is(rig: AttioRig) -> None:
    person = ask(rig, lambda attio: attio.create_person(**ADA))
    assert ask(rig, lambda attio: attio.person(person.record_id)) == person
    assert ask(rig, lambda attio: attio.person(NOBODY)) is None


@pytest.mark.parametrize("body", [{"data": record({})}, {}])
def test_another_record_than_the_one_asked_for_is_not_used(body: Any) -> None:
    for question in (lambda attio: attio.authorship(PEOPLE, NOBODY), lambda attio: attio.person(NOBODY)):
        result, _ = scripted(question, answer(200, body))
        assert code_of(result) == ("malformed_response", ErrorCategory.TRANSIENT)


# --- nothing personal in an error ------------------------------------------------------------------------------------


def test_no_error_holds_a_value_of_the_request_or_the_answer() -> None:
    canary = {"address": "canary@x.test", "user_id": "canary", "first_name": "Canary", "last_name": "Canary"}
    for status in (400, 401, 403, 404, 409, 422, 500):
        body = {"status_code": status, "code": "value_not_found", "message": "canary@x.test", "path": ["canary"]}
        result, _ = scripted(lambda attio: attio.create_person(**canary), answer(status, body))
        assert isinstance(result, BackfillError)
        assert "canary" not in f"{result!r} {result} {result.__dict__!r}".lower()
        assert "a-token-of-the-test" not in f"{result!r} {result} {result.__dict__!r}"
