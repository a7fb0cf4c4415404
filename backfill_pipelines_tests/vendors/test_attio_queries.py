"""Reading Attio: whole objects in pages, records by their keys, and a filter that has to prove itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from backfill_pipelines.errors import BackfillError, ErrorCategory
from backfill_pipelines.sandbox.attio_data import build_attio_workspace, invent_users
from backfill_pipelines.sandbox.attio_limits import AttioLimits
from backfill_pipelines.sandbox.attio_records import COMPANIES, PEOPLE
from backfill_pipelines.sandbox.attio_state import OpenQuestions
from backfill_pipelines.vendors.attio import Attio
from backfill_pipelines.vendors.attio_records import Company, Found, Page, Person
from backfill_pipelines.vendors.transport import RateLimitedError, RejectedRequestError
from backfill_pipelines_tests.sandbox.attio_rig import EMPTY, KEY, UNLIMITED, WORKSPACE, AttioRig, running_attio
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
from backfill_pipelines_tests.vendors.scripted_server import answer

MANY = build_attio_workspace(seed=9, key=KEY, users=invent_users(900, seed=9), other_people=520, other_companies=3)


@pytest.fixture(scope="module")
def many() -> Iterator[AttioRig]:
    with running_attio(MANY) as rig:
        yield rig


@pytest.fixture
def rig(many: AttioRig) -> AttioRig:
    many.server.reset()
    return many


async def all_of(pages: AsyncIterator[Page[Any]]) -> list[Page[Any]]:
    return [page async for page in pages]


def queries(rig: AttioRig) -> int:
    """How many queries were sent."""
    return sum("query" in path for _, path, _ in rig.statuses())


def code_of(result: object) -> tuple[str, ErrorCategory]:
    assert isinstance(result, BackfillError)
    return result.code, result.category


# --- whole objects ---------------------------------------------------------------------------------------------------


def test_all_people_come_once_oldest_first_500_a_page(rig: AttioRig) -> None:
    pages = ask(rig, lambda attio: all_of(attio.people()))
    people = [each for page in pages for each in page.records]
    assert [len(page.records) for page in pages] == [500, 500, len(MANY.people) - 1_000]
    assert [page.next_offset for page in pages] == [500, 1_000, None]
    assert sorted(each.record_id for each in people) == sorted(each.record_id for each in MANY.people)
    assert [each.created_at for each in people] == sorted(each.created_at for each in people)
    assert (queries(rig), [page.rejected for page in pages]) == (3, [()] * 3)


def test_reading_goes_on_from_any_page_and_sees_who_came_meanwhile(rig: AttioRig) -> None:
    first = ask(rig, lambda attio: all_of(attio.people()))[0]
    added = rig.state.write(PEOPLE, {"email_addresses": ["late@elsewhere.test"]}, actor=rig.seeded.member).id
    rest = ask(rig, lambda attio: all_of(attio.people(offset=first.next_offset or 0)))
    ids = [each.record_id for page in (first, *rest) for each in page.records]
    assert (len(ids), len(set(ids)), ids[-1]) == (len(MANY.people) + 1, len(MANY.people) + 1, added)


def test_a_last_page_that_is_full_is_followed_by_an_empty_one() -> None:
    rows = [record({}, record_id=f"0a1b2c3d-0000-4000-8000-{number:012d}") for number in range(500)]
    pages, requests = scripted(
        lambda attio: all_of(attio.people()), answer(200, {"data": rows}), answer(200, {"data": []})
    )
    assert [len(page.records) for page in pages] == [500, 0]  # type: ignore[union-attr]
    assert [sent(each)["offset"] for each in requests] == [0, 500]
    assert sent(requests[0])["sorts"] == [{"direction": "asc", "attribute": "created_at"}]


def test_a_malformed_person_is_rejected_and_the_others_are_read() -> None:
    rows = [record({}), record({"user_id": [value(value=7)]}), {"id": "?"}]
    pages, _ = scripted(lambda attio: all_of(attio.people()), answer(200, {"data": rows}))
    (page,) = pages  # type: ignore[misc] # a list of one page
    assert [each.record_id for each in page.records] == [RECORD_ID]
    assert [(each.record_id, each.reason) for each in page.rejected] == [
        (RECORD_ID, "bad_user_id"),
        (None, "no_record_id"),
    ]


def test_a_server_that_ignores_the_offset_is_not_read_for_ever() -> None:
    rows = [record({}, record_id=f"0a1b2c3d-0000-4000-8000-{number:012d}") for number in range(500)]
    result, requests = scripted(lambda attio: all_of(attio.people()), answer(200, {"data": rows}))
    assert code_of(result) == ("malformed_response", ErrorCategory.TRANSIENT)
    assert len(requests) == 2


@pytest.mark.parametrize("body", [{}, {"data": {}}, {"data": None}, [], None])
def test_an_answer_without_rows_is_not_an_empty_object(body: Any) -> None:
    result, _ = scripted(lambda attio: all_of(attio.people()), answer(200, body if body is not None else b"null"))
    assert code_of(result) == ("malformed_response", ErrorCategory.TRANSIENT)


def test_whether_an_object_is_larger_than_a_number_costs_one_read(rig: AttioRig) -> None:
    total = len(MANY.people)
    assert ask(rig, lambda attio: attio.has_more_than(PEOPLE, total - 1)) is True
    assert ask(rig, lambda attio: attio.has_more_than(PEOPLE, total)) is False
    assert queries(rig) == 2


def test_reads_are_repeated_after_a_lost_answer_and_a_storm(rig: AttioRig) -> None:
    rig.server.add_faults(
        [
            {"kind": "lost_reply", "path": "*/query", "nth": 1},
            {"kind": "status", "status": 502, "path": "*/query", "nth": 2, "count": 2},
            {"kind": "rate_limited", "retry_after": 2, "path": "*/query", "nth": 4},
        ]
    )
    assert len(ask(rig, lambda attio: all_of(attio.people()))) == 3


# --- by addresses ----------------------------------------------------------------------------------------------------


def by_addresses(rig: AttioRig, addresses: list[str]) -> Found[Person]:
    return ask(rig, lambda attio: attio.people_with_addresses(addresses))


def test_people_are_found_by_any_of_their_addresses_in_any_case(rig: AttioRig) -> None:
    chosen = [each for each in MANY.people if each.addresses][:150]
    addresses = [f" {each.addresses[-1].upper()} " for each in chosen]
    found = by_addresses(rig, [*addresses, "nobody@elsewhere.test", "", " "])
    assert {each.record_id for each in found.records} == {each.record_id for each in chosen}
    assert (len(found.records), found.rejected, found.refused) == (len(chosen), (), ())
    assert queries(rig) == 2


def test_no_addresses_are_no_question(rig: AttioRig) -> None:
    assert by_addresses(rig, []).records == ()
    assert queries(rig) == 0


def test_a_person_with_several_of_the_addresses_is_one_person(rig: AttioRig) -> None:
    person = next(each for each in MANY.people if len(each.addresses) > 1)
    assert [each.record_id for each in by_addresses(rig, list(person.addresses)).records] == [person.record_id]


@pytest.mark.parametrize("status", [400, 429])
def test_a_question_that_is_too_complex_is_halved_and_the_next_ones_are_smaller(status: Any) -> None:
    addresses = [address for each in WORKSPACE.people for address in each.addresses]
    addresses += [f"nobody.{number}@elsewhere.test" for number in range(200)]
    questions = OpenQuestions(refuses_scores_with=status)

    async def question(attio: Attio) -> tuple[Found[Person], int]:
        return await attio.people_with_addresses(addresses), attio.keys_a_question

    with running_attio(limits=UNLIMITED._replace(query_score=31), questions=questions) as rig:
        found, keys = ask(rig, question)
        statuses = [answered for _, path, answered in rig.statuses() if "query" in path]
    assert len(found.records) == sum(bool(each.addresses) for each in WORKSPACE.people)
    assert found.refused == ()
    assert keys == 25  # 100 and both halves were refused, the quarters were not; their sort counts too
    assert set(statuses[statuses.index(200) :]) == {200, status}
    assert statuses[-5:] == [200] * 5


def test_one_wrong_address_is_refused_alone_and_teaches_nothing_about_the_size() -> None:
    wrong = "no address at all"
    addresses = [address for each in WORKSPACE.people for address in each.addresses]

    async def question(attio: Attio) -> tuple[Found[Person], int]:
        return await attio.people_with_addresses([*addresses[:7], wrong, *addresses[7:]]), attio.keys_a_question

    with running_attio(questions=OpenQuestions(refuses_malformed_addresses=True)) as rig:
        found, keys = ask(rig, question)
    assert (found.refused, keys) == ((wrong,), 100)
    assert len(found.records) == sum(bool(each.addresses) for each in WORKSPACE.people)
    assert wrong not in repr(found)


def test_a_question_that_is_refused_for_every_key_is_a_wrong_question() -> None:
    result, requests = scripted(
        lambda attio: attio.people_with_addresses(["a@x.test", "b@x.test", "c@x.test"]),
        refusal(400, "filter_error"),
    )
    assert isinstance(result, RejectedRequestError)
    assert len(requests) == 5


def test_a_single_key_that_is_too_many_requests_is_no_wrong_key() -> None:
    busy = answer(429, {"status_code": 429, "code": "rate_limit_exceeded", "message": "Later."})
    result, _ = scripted(lambda attio: attio.people_with_addresses(["a@x.test"]), busy)
    assert isinstance(result, RateLimitedError)


def test_an_answer_about_other_people_shows_that_the_question_was_not_understood() -> None:
    other = answer(200, {"data": [record({"email_addresses": [address("other@x.test")]})]})
    result, _ = scripted(lambda attio: attio.people_with_addresses(["a@x.test"]), other)
    assert code_of(result) == ("filter_not_honoured", ErrorCategory.DATA)
    assert "x.test" not in str(result)


def test_a_person_that_cannot_be_read_is_reported_by_a_look_up_too() -> None:
    row = record({"email_addresses": [address("a@x.test")], "user_id": [value(value=7)]})
    found, _ = scripted(lambda attio: attio.people_with_addresses(["a@x.test"]), answer(200, {"data": [row]}))
    assert isinstance(found, Found)
    assert (found.records, [each.reason for each in found.rejected]) == ((), ["bad_user_id"])


# --- by ids ----------------------------------------------------------------------------------------------------------


def test_people_are_found_by_user_id_however_many_share_it() -> None:
    with running_attio(EMPTY) as rig:
        for number in range(510):
            rig.state.write(PEOPLE, {"user_id": f"user_{number % 2}"}, actor=rig.seeded.member)
        rig.state.write(PEOPLE, {"user_id": "user_11"}, actor=rig.seeded.member)
        found = ask(rig, lambda attio: attio.people_with_user_ids(["user_0", "user_1", "user_9"]))
        assert (len(found.records), queries(rig)) == (510, 2)


def test_records_are_read_again_by_their_ids_and_the_deleted_ones_are_absent(rig: AttioRig) -> None:
    chosen = [each.record_id for each in MANY.people[:130]]
    rig.state.delete(PEOPLE, chosen[7])
    rig.state.write(PEOPLE, {"user_id": "user_new"}, actor=rig.seeded.member, record_id=chosen[8])
    found = ask(rig, lambda attio: attio.people_with_ids(chosen))
    by_id = {each.record_id: each for each in found.records}
    assert by_id.keys() == {*chosen} - {chosen[7]}
    assert by_id[chosen[8]].user_ids == ("user_new",)
    assert queries(rig) == 2


def test_companies_are_read_again_by_their_ids(rig: AttioRig) -> None:
    chosen = [each.record_id for each in MANY.companies]
    found = ask(rig, lambda attio: attio.companies_with_ids(chosen))
    assert {each.record_id for each in found.records} == set(chosen)


# --- companies without an organization -------------------------------------------------------------------------------


def companies(rig: AttioRig, *, without_org_id: bool) -> list[Company]:
    pages = ask(rig, lambda attio: all_of(attio.companies(without_org_id=without_org_id)))
    return [each for page in pages for each in page.records]


def test_the_filter_for_companies_without_an_organization_is_proved_and_then_used(rig: AttioRig) -> None:
    assert ask(rig, lambda attio: attio.honours_without_org_id()) is True
    assert queries(rig) == 2
    everything = companies(rig, without_org_id=False)
    assert {each.org_id is None for each in everything} == {True, False}
    assert companies(rig, without_org_id=True) == [each for each in everything if each.org_id is None]


@pytest.mark.parametrize("not_empty", ["refused", "ignored"])
def test_a_workspace_that_does_not_know_the_filter_is_found_out(not_empty: Any) -> None:
    with running_attio(questions=OpenQuestions(not_empty_on_text=not_empty)) as rig:
        assert ask(rig, lambda attio: attio.honours_without_org_id()) is False


def test_without_a_company_that_lacks_an_organization_nothing_is_proved() -> None:
    with running_attio(EMPTY) as rig:
        assert ask(rig, lambda attio: attio.honours_without_org_id()) is False
        rig.state.write(COMPANIES, {"org_id": "org_1"}, actor=rig.seeded.member)
        assert ask(rig, lambda attio: attio.honours_without_org_id()) is False
        rig.state.write(COMPANIES, {"name": "Alder"}, actor=rig.seeded.member)
        assert ask(rig, lambda attio: attio.honours_without_org_id()) is True


@pytest.mark.parametrize("missing", [0, 1])
def test_a_filter_that_leaves_one_out_or_lets_one_through_is_not_honoured(missing: int) -> None:
    """By an answer of the vendor with one company too few, and with one too many."""
    without = [record({}, record_id=f"0a1b2c3d-0000-4000-8000-{number:012d}") for number in range(3)]
    having = record({"org_id": [value(value="org_1")]}, record_id="0a1b2c3d-0000-4000-8000-0000000000ff")
    filtered = without[1:] if missing else [*without, having]
    result, _ = scripted(
        lambda attio: attio.honours_without_org_id(),
        answer(200, {"data": [*without, having]}),
        answer(200, {"data": filtered}),
    )
    assert result is False


def test_the_default_limits_let_a_hundred_addresses_through() -> None:
    with running_attio(limits=AttioLimits()) as rig:
        found = by_addresses(rig, [f"nobody.{number}@elsewhere.test" for number in range(100)])
        assert (found.records, queries(rig)) == ((), 1)
