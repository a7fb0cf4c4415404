"""The fake Attio over a real socket: tokens, scopes, attributes, limits."""

from __future__ import annotations

from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill_pipelines.sandbox.attio_data import build_attio_workspace
from backfill_pipelines.sandbox.attio_limits import AttioLimits, Window, score
from backfill_pipelines.sandbox.attio_state import OpenQuestions
from backfill_pipelines_tests.sandbox.attio_rig import (
    EMPTY,
    KEY,
    WORKSPACE,
    AttioRig,
    SettableClock,
    create,
    data,
    error,
    ids,
    query,
    running_attio,
)

ATTRIBUTE = {
    "title": "Clerk user ID",
    "description": None,
    "api_slug": "user_id",
    "type": "text",
    "is_required": False,
    "is_unique": False,
    "is_multiselect": False,
    "config": {},
}


@pytest.fixture(scope="module")
def serving() -> Iterator[AttioRig]:
    with running_attio(others=[build_attio_workspace(seed=3, key="other", other_people=2)]) as rig:
        yield rig


@pytest.fixture
def rig(serving: AttioRig) -> AttioRig:
    serving.server.reset()
    return serving


@pytest.fixture
def client(rig: AttioRig) -> httpx.Client:
    return rig.client()


# --- tokens and scopes -----------------------------------------------------------------------------------------------


def test_a_token_tells_its_scopes_and_its_workspace(rig: AttioRig, client: httpx.Client) -> None:
    body = client.get("/self").json()
    assert (body["active"], body["workspace_id"], body["sub"]) == (True, rig.seeded.id, rig.seeded.id)
    assert set(body["scope"].split()) == set(rig.seeded.scopes)


def test_a_dead_token_is_answered_with_200_by_self_and_with_401_by_everything_else(rig: AttioRig) -> None:
    rig.vendor.state.revoke(rig.seeded.token)
    for token in (rig.seeded.token, "unknown"):
        client = rig.client(token=token)
        answer = client.get("/self")
        assert (answer.status_code, answer.json()) == (200, {"active": False})
        assert error(client.post("/objects/people/records/query", json={})) == (401, "unauthorized")


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", "/objects/people/records/query", "record_permission:read"),
        ("GET", "/objects/people/records/x", "record_permission:read"),
        ("POST", "/objects/people/records", "record_permission:read-write"),
        ("PUT", "/objects/people/records", "record_permission:read-write"),
        ("PATCH", "/objects/people/records/x", "record_permission:read-write"),
        ("PUT", "/objects/people/records/x", "record_permission:read-write"),
        ("DELETE", "/objects/people/records/x", "record_permission:read-write"),
        ("GET", "/objects/people/attributes", "object_configuration:read"),
        ("POST", "/objects/people/attributes", "object_configuration:read-write"),
    ],
)
def test_each_route_asks_for_its_scope(rig: AttioRig, method: str, path: str, scope: str) -> None:
    name, _, access = scope.partition(":")
    weaker = [f"{name}:read"] if access == "read-write" else []
    others = [each for each in rig.seeded.scopes if not each.startswith(name)]
    rig.vendor.state.set_scopes(rig.seeded.token, [*others, *weaker])
    answer = rig.client().request(method, path, json={})
    assert error(answer) == (403, "unauthorized")
    assert answer.json()["message"].startswith("The API Key provided is not authorized")
    rig.vendor.state.set_scopes(rig.seeded.token, [*others, scope])
    assert rig.client().request(method, path, json={}).status_code != 403


def test_a_token_sees_its_own_workspace_only(rig: AttioRig) -> None:
    other = rig.vendor.state.workspaces["other"]
    assert len(query(rig.client(token=other.seeded.token))) == 2
    assert len(query(rig.client())) == len(WORKSPACE.people)


def test_what_is_not_there_is_404(client: httpx.Client) -> None:
    for method, path in (
        ("GET", "/objects/people/records/00000000-0000-4000-8000-000000000000"),
        ("DELETE", "/objects/people/records/00000000-0000-4000-8000-000000000000"),
        ("POST", "/objects/deals/records/query"),
        ("GET", "/tasks"),
    ):
        assert error(client.request(method, path, json={})) == (404, "not_found")


def test_every_request_is_logged_under_its_workspace(rig: AttioRig, client: httpx.Client) -> None:
    query(client, limit=1)
    rig.client(token="unknown").get("/self")
    known, unknown = rig.server.requests[-2:]
    assert (known.call.client, known.call.template) == (KEY, "/v2/objects/{object}/records/query")
    assert (known.path, known.call.workspace) == ("/v2/objects/people/records/query", rig.seeded.id)
    assert (unknown.call.client, unknown.call.workspace) == ("", "")


# --- attributes ------------------------------------------------------------------------------------------------------


def attributes(client: httpx.Client, object_slug: str = "people", **params: str) -> dict[str, dict[str, Any]]:
    return {each["api_slug"]: each for each in data(client.get(f"/objects/{object_slug}/attributes", params=params))}


def test_the_custom_attributes_are_texts_and_writable(client: httpx.Client) -> None:
    for object_slug, slug in (("people", "user_id"), ("companies", "org_id")):
        found = attributes(client, object_slug)[slug]
        assert (found["type"], found["is_writable"], found["is_archived"], found["is_system_attribute"]) == (
            "text",
            True,
            False,
            False,
        )


def test_an_archived_attribute_is_listed_on_request_only(rig: AttioRig, client: httpx.Client) -> None:
    rig.state.alter_attribute("people", "user_id", archived=True)
    assert "user_id" not in attributes(client)
    assert attributes(client, show_archived="true")["user_id"]["is_archived"] is True
    body = {"data": {"values": {"user_id": ["user_1"]}}}
    record_id = rig.seeded.people[0].record_id
    assert error(client.patch(f"/objects/people/records/{record_id}", json=body)) == (400, "value_not_found")
    row = data(client.get(f"/objects/people/records/{record_id}"))
    assert "user_id" not in row["values"]


def test_attributes_are_listed_in_pages(client: httpx.Client) -> None:
    slugs = list(attributes(client))
    pages = [list(attributes(client, limit="4", offset=str(start))) for start in range(0, len(slugs) + 4, 4)]
    assert [slug for page in pages for slug in page] == slugs


def test_an_attribute_is_made_once() -> None:
    with running_attio(EMPTY._replace(user_id_attribute=False)) as rig:
        client = rig.client()
        made = data(client.post("/objects/people/attributes", json={"data": ATTRIBUTE}))
        assert (made["api_slug"], made["type"], made["is_system_attribute"]) == ("user_id", "text", False)
        assert attributes(client)["user_id"] == made
        assert error(client.post("/objects/people/attributes", json={"data": ATTRIBUTE})) == (409, "slug_conflict")
        rig.state.alter_attribute("people", "user_id", archived=True)
        assert error(client.post("/objects/people/attributes", json={"data": ATTRIBUTE})) == (409, "slug_conflict")


@pytest.mark.parametrize("without", sorted(set(ATTRIBUTE)))
def test_an_attribute_needs_all_its_fields(client: httpx.Client, without: str) -> None:
    definition = {name: value for name, value in {**ATTRIBUTE, "api_slug": "another"}.items() if name != without}
    assert error(client.post("/objects/people/attributes", json={"data": definition})) == (400, "validation_type")


# --- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sliding", "clock"])
def test_reads_and_writes_have_limits_of_their_own_and_a_refusal_ends_at_an_http_date(kind: Any) -> None:
    clock = SettableClock(now=1_790_000_000.25)
    with running_attio(EMPTY, limits=AttioLimits(reads=3, writes=2, window=kind), clock=clock) as rig:
        client = rig.client()
        for number in range(2):
            create(client, name=f"Person {number}")
        refused = client.post("/objects/people/records", json={"data": {"values": {}}})
        assert error(refused) == (429, "rate_limit_exceeded")
        assert refused.json()["type"] == "rate_limit_error"
        resets_at = parsedate_to_datetime(refused.headers["Retry-After"]).timestamp()
        assert refused.headers["Retry-After"].endswith("GMT")
        assert resets_at == (1_790_000_001 if kind == "clock" else 1_790_000_002)
        assert len(query(client)) == 2  # a query is a read, and the refused write was not executed
        assert client.get("/self").status_code == 200
        query(client)
        assert client.get("/self").status_code == 429
        clock.now = resets_at
        create(client, name="Person 3")


def test_a_sliding_window_lasts_its_whole_second() -> None:
    clock = SettableClock(now=1_790_000_000.0)
    window = Window(1, 1.0, kind="sliding", clock=clock)
    assert window.refused_until() is None
    clock.now += 0.998
    assert window.refused_until() == 1_790_000_001
    clock.now += 0.002
    assert window.refused_until() is None


def test_a_clock_window_begins_anew_with_the_second_and_a_sliding_one_does_not() -> None:
    answers = {}
    for kind in ("sliding", "clock"):
        clock = SettableClock(now=1_790_000_000.9)
        window = Window(2, 1.0, kind=kind, clock=clock)  # type: ignore[arg-type] # both kinds
        assert [window.refused_until(), window.refused_until()] == [None, None]
        clock.now += 0.2
        answers[kind] = window.refused_until()
    assert answers == {"sliding": 1_790_000_002, "clock": None}


@given(
    st.lists(st.tuples(st.integers(0, 4_000), st.integers(1, 3)), max_size=60),
    st.sampled_from(["sliding", "clock"]),
    st.integers(1, 5),
)
def test_no_window_ever_lets_more_through_and_what_it_says_is_true(
    arrivals: list[tuple[int, int]], kind: Any, permits: int
) -> None:
    clock = SettableClock()
    window = Window(permits, 1.0, kind=kind, clock=clock)
    taken: list[tuple[int, int]] = []
    for milliseconds, weight in sorted(arrivals):
        clock.now = 1_790_000_000 + milliseconds / 1000
        until = window.refused_until(weight)
        own = [
            each
            for moment, each in taken
            if (moment > milliseconds - 1000 if kind == "sliding" else moment // 1000 == milliseconds // 1000)
        ]
        assert (until is None) == (sum(own) + weight <= permits)
        if until is None:
            taken.append((milliseconds, weight))
        else:
            assert clock.now < until <= clock.now + 2


def test_a_query_that_is_too_complex_is_refused_for_ever_and_a_simpler_one_is_not() -> None:
    filters = {"$or": [{"email_addresses": f"somebody.{number}@example.test"} for number in range(20)]}
    for status, code in ((400, "filter_error"), (429, "rate_limit_exceeded")):
        questions = OpenQuestions(refuses_scores_with=status)  # type: ignore[arg-type] # both of them
        with running_attio(EMPTY, limits=AttioLimits(query_score=19), questions=questions) as rig:
            client = rig.client()
            refused = client.post("/objects/people/records/query", json={"filter": filters})
            assert error(refused) == (status, code)
            assert query(client, filter={"$or": filters["$or"][:19]}) == []


def test_scores_add_up_over_ten_seconds_and_then_are_refused_for_a_while() -> None:
    clock = SettableClock()
    with running_attio(EMPTY, limits=AttioLimits(score_sum=5), clock=clock) as rig:
        client = rig.client()
        body = {"sorts": [{"direction": "asc", "attribute": "created_at"}], "filter": {"name": "Nobody"}}
        for _ in range(2):
            query(client, **body)
        refused = client.post("/objects/people/records/query", json=body)
        assert error(refused) == (429, "rate_limit_exceeded")
        assert parsedate_to_datetime(refused.headers["Retry-After"]).timestamp() == 1_790_000_011
        clock.now += 10.1
        assert query(client, **body) == []


def test_a_score_grows_with_conditions_sorts_and_records() -> None:
    assert [score(conditions=2, sorts=1, records=records) for records in (0, 9_999, 10_000, 25_000)] == [3, 3, 6, 9]


# --- faults ----------------------------------------------------------------------------------------------------------


def test_a_concurrent_write_conflict_executes_nothing_and_spares_reads(rig: AttioRig, client: httpx.Client) -> None:
    rig.server.add_faults([{"kind": "concurrent_write_conflict"}])
    before = len(query(client))
    answer = client.post("/objects/people/records", json={"data": {"values": {"name": "Ada Quill"}}})
    assert error(answer) == (409, "concurrent_write_conflict")
    assert len(query(client)) == before


def test_a_lost_reply_happens_after_the_person_was_made(rig: AttioRig, client: httpx.Client) -> None:
    rig.server.add_faults([{"kind": "lost_reply", "method": "POST", "path": "*/records", "count": 1}])
    with pytest.raises(httpx.TransportError):
        create(client, email_addresses=["lost@example.test"])
    assert len(rig.state.find("people", "email_addresses", "lost@example.test")) == 1


def test_a_lagging_query_does_not_show_who_was_made_a_moment_ago_and_everything_else_does(
    rig: AttioRig, client: httpx.Client
) -> None:
    before = ids(query(client))
    created = data(
        client.post("/objects/people/records", json={"data": {"values": {"email_addresses": ["n@new.test"]}}})
    )
    record_id = created["id"]["record_id"]
    rig.server.add_faults([{"kind": "lagging_query", "seconds": 60, "count": 1}])
    assert sorted(ids(query(client))) == sorted(before)
    assert data(client.get(f"/objects/people/records/{record_id}"))["id"]["record_id"] == record_id
    assert record_id in ids(query(client))


@pytest.mark.parametrize(("method", "status"), [("GET", 404), ("DELETE", 404), ("PATCH", 400), ("PUT", 400)])
def test_a_record_that_is_being_merged_is_refused_and_left_as_it_is(
    rig: AttioRig, client: httpx.Client, method: str, status: int
) -> None:
    record_id = ids(query(client))[0]
    rig.server.add_faults([{"kind": "merge_in_progress", "count": 1}])
    body = {"data": {"values": {"description": ["x"]}}}
    path = f"/objects/people/records/{record_id}"
    assert error(client.request(method, path, json=body)) == (status, "merge_in_progress")
    assert data(client.get(path))["values"]["description"] == []


def test_a_token_can_expire_by_a_fault(rig: AttioRig, client: httpx.Client) -> None:
    rig.server.add_faults([{"kind": "expired_token"}])
    assert client.get("/self").json() == {"active": False}
    assert error(client.get("/objects/people/attributes")) == (401, "unauthorized")


def test_the_shared_429_has_the_vendors_form(rig: AttioRig, client: httpx.Client) -> None:
    rig.server.add_faults([{"kind": "rate_limited", "retry_after": 3, "count": 1}])
    answer = client.get("/self")
    assert error(answer) == (429, "rate_limit_exceeded")
    assert parsedate_to_datetime(answer.headers["Retry-After"]) is not None


def test_a_reset_gives_records_tokens_attributes_and_permits_back(rig: AttioRig, client: httpx.Client) -> None:
    create(client, name="Ada Quill")
    rig.vendor.state.revoke(rig.seeded.token)
    rig.state.alter_attribute("people", "user_id", archived=True)
    rig.server.reset()
    assert len(query(client)) == len(WORKSPACE.people)
    assert "user_id" in attributes(client)
