"""The fake GoHighLevel over HTTP: tokens, limits of a search, windows, disappearing contacts, and nothing written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from backfill_pipelines.sandbox.gohighlevel_data import GoHighLevelLocation, KnownContact, build_gohighlevel_location
from backfill_pipelines.sandbox.gohighlevel_limits import GoHighLevelLimits
from backfill_pipelines_tests.sandbox.gohighlevel_rig import (
    LOCATION,
    TOKEN,
    GoHighLevelRig,
    location,
    running_gohighlevel,
)

OLDEST_FIRST = [{"field": "dateAdded", "direction": "asc"}]


@pytest.fixture(scope="module")
def small() -> Iterator[GoHighLevelRig]:
    with running_gohighlevel(location(20)) as rig:
        yield rig


def equal(value: object, field: str = "email") -> dict[str, Any]:
    return {"field": field, "operator": "eq", "value": value}


def any_of(*filters: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"group": "OR", "filters": list(filters)}]


def ids(document: dict[str, Any]) -> list[str]:
    return [row["id"] for row in document["contacts"]]


def refused(answer: httpx.Response) -> tuple[int, Any]:
    body = answer.json()
    assert body["statusCode"] == answer.status_code
    return answer.status_code, body["message"]


# --- who may ---------------------------------------------------------------------------------------------------------


def test_both_versions_of_the_api_are_served_and_none_is_not() -> None:
    with running_gohighlevel(location(20)) as rig:
        path = f"/contacts/{rig.seeded.contact_id(1)}"
        assert [rig.client(version=each).get(path).status_code for each in ("2021-07-28", "v3")] == [200, 200]
        for version in (None, "2020-01-01"):
            assert refused(rig.client(version=version).get(path))[0] == 401


def test_a_token_opens_its_own_location_and_no_other() -> None:
    other = build_gohighlevel_location(3, "locAnother0000000001", "pit-another", contacts=20)
    with running_gohighlevel(location(20), other) as rig:
        body = {"locationId": LOCATION, "pageLimit": 1}
        for token, status in ((TOKEN, 200), ("pit-another", 403), ("pit-unknown", 401), ("pit", 401)):
            assert rig.client(token=token).post("/contacts/search", json=body).status_code == status
        theirs = other.contact_id(3)
        assert refused(rig.client().get(f"/contacts/{theirs}"))[0] == 403
        query = {"locationId": other.id, "email": "a@crm.example.com"}
        assert rig.client().get("/contacts/search/duplicate", params=query).status_code == 403


def test_the_scope_is_checked_before_the_location() -> None:
    without = GoHighLevelLocation(seed=3, location_id=LOCATION, token=TOKEN, contacts=5, scopes=[])
    with running_gohighlevel(without) as rig:
        assert refused(rig.post(locationId="locNowhere")) == (401, "The token is not authorized for this scope.")


def test_whatever_would_write_is_refused_and_counted() -> None:
    with running_gohighlevel(location(20)) as rig:
        contact, client = f"/contacts/{rig.seeded.contact_id(1)}", rig.client()
        attempts = [
            client.post("/contacts/", json={"locationId": LOCATION}),
            client.post("/contacts/upsert", json={"locationId": LOCATION}),
            client.put(contact, json={"firstName": "x"}),
            client.delete(contact),
            client.post(f"{contact}/tags", json={"tags": ["x"]}),
            client.post("/contacts/bulk/business", json={}),
            client.patch("/elsewhere", json={}),
        ]
        assert {each.status_code for each in attempts} == {401}
        assert rig.vendor.writes == 7
        assert client.get(contact).status_code == 200
        assert rig.search()["total"] == 20
        assert rig.vendor.writes == 7
        rig.server.reset()
        assert rig.vendor.writes == 0


# --- what a search must hold -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"locationId": None}, 422),
        ({"pageLimit": None}, 422),
        ({"pageLimit": 0}, 422),
        ({"pageLimit": 501}, 422),
        ({"pageLimit": "500"}, 422),
        ({"limit": 5}, 422),
        ({"page": 20}, 200),
        ({"page": 21}, 400),
        ({"pageLimit": 100, "page": 100}, 200),
        ({"pageLimit": 100, "page": 101}, 400),
        ({"page": 0}, 400),
        ({"page": 1, "searchAfter": [1, "c"]}, 400),
        ({"searchAfter": "c"}, 422),
        ({"searchAfter": [1, "c"]}, 400),
        ({"query": "x" * 75}, 200),
        ({"query": "x" * 76}, 422),
        ({"filters": [equal("x" * 75)]}, 200),
        ({"filters": [equal("x" * 76)]}, 400),
        ({"filters": [equal(["a@crm.example.com"])]}, 400),
        ({"filters": [equal("a", field="additionalEmails")]}, 400),
        ({"filters": [{"field": "email", "operator": "contains", "value": "a"}]}, 400),
        ({"filters": [{"field": "phone", "operator": "contains", "value": "+1"}]}, 400),
        ({"filters": [{"field": "phone", "operator": "in", "value": "1"}]}, 400),
        ({"filters": [{"field": "email", "operator": "exists", "value": "a"}]}, 400),
        ({"filters": {"group": "OR"}}, 422),
        ({"filters": [{"group": "XOR", "filters": [equal("a")]}]}, 422),
        ({"filters": any_of()}, 422),
        ({"filters": any_of(*[equal(f"a{number}@umber.test") for number in range(101)])}, 422),
        ({"sort": [{"field": "shoeSize", "direction": "asc"}]}, 400),
        ({"sort": [{"field": "email", "direction": "up"}]}, 400),
    ],
)
def test_a_search_is_refused_with_the_status_that_its_fault_has(
    small: GoHighLevelRig, body: dict[str, Any], status: int
) -> None:
    answer = small.post(**body)
    assert answer.status_code == status, answer.text
    if status == 422:
        assert isinstance(answer.json()["message"], list)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"null"])
def test_a_body_that_is_no_object_is_refused(small: GoHighLevelRig, content: bytes) -> None:
    assert refused(small.client().post("/contacts/search", content=content))[0] == 400


# --- what it selects -------------------------------------------------------------------------------------------------


def test_the_operators_select_what_they_say() -> None:
    with running_gohighlevel(location(300)) as rig:
        contacts = list(rig.seeded.seeded_contacts())

        def selected(field: str, operator: str, value: object = None) -> set[str]:
            entry = {"field": field, "operator": operator} | ({} if value is None else {"value": value})
            return set(ids(rig.search(filters=[entry], sort=OLDEST_FIRST)))

        def where(holds: Any) -> set[str]:
            return {each.id for each in contacts if holds(each)}

        assert selected("email", "exists") == where(lambda each: each.email)
        assert selected("email", "not_exists") == where(lambda each: not each.email)
        assert selected("companyName", "contains", "STORAGE") == where(lambda c: "Storage" in (c.company_name or ""))
        assert selected("companyName", "not_contains", "storage") == where(
            lambda c: "Storage" not in (c.company_name or "")
        )
        first = contacts[0]
        assert selected("id", "eq", first.id) == {first.id}
        assert selected("id", "not_eq", first.id) == where(lambda each: each.id != first.id)
        assert selected("phone", "eq", first.phone) == where(lambda each: each.phone == first.phone)
        middle = contacts[150].date_added
        assert selected("dateAdded", "range", {"gte": middle}) == where(lambda each: each.date_added >= middle)
        assert selected("dateAdded", "range", {"gt": middle, "lte": middle + 10**10}) == where(
            lambda each: middle < each.date_added <= middle + 10**10
        )


def test_groups_nest_and_all_filters_outside_them_must_hold() -> None:
    with running_gohighlevel(location(300)) as rig:
        with_email = [each for each in rig.seeded.seeded_contacts() if each.email][:4]
        either = any_of(*(equal(each.email) for each in with_email))
        assert set(ids(rig.search(filters=either))) >= {each.id for each in with_email}
        both = [*either, {"group": "AND", "filters": any_of(equal(with_email[0].email), equal("nobody@umber.test"))}]
        assert ids(rig.search(filters=both)) == [with_email[0].id]


def test_an_address_is_equal_whatever_its_case_and_additional_ones_count_where_the_location_says_so() -> None:
    for equality, finds in (("primary", False), ("any", True)):
        with running_gohighlevel(location(60, email_equality=equality)) as rig:
            capital, second = rig.seeded.contact(3), rig.seeded.contact(2)
            assert capital.email is not None
            assert capital.email != capital.email.lower()
            assert ids(rig.search(filters=[equal(capital.email.lower())])) == [capital.id]
            assert ids(rig.search(filters=[equal(second.additional_emails[0])])) == ([second.id] if finds else [])


@pytest.mark.parametrize("field", ["email", "firstNameLowerCase", "dateAdded", "dateUpdated", "source"])
@pytest.mark.parametrize("direction", ["asc", "desc"])
def test_every_order_is_paged_by_cursor_and_by_page_alike(field: str, direction: str) -> None:
    with running_gohighlevel(location(130)) as rig:
        sort = [{"field": field, "direction": direction}]
        whole = ids(rig.search(sort=sort))
        assert len(set(whole)) == 130
        by_page = [each for page in range(1, 5) for each in ids(rig.search(sort=sort, page=page, pageLimit=40))]
        by_cursor: list[str] = []
        after = None
        while rows := rig.search(sort=sort, pageLimit=40, searchAfter=after)["contacts"]:
            by_cursor += [row["id"] for row in rows]
            after = rows[-1]["searchAfter"]
        assert by_page == by_cursor == whole


def test_rows_have_one_date_in_threes_and_stand_in_its_order() -> None:
    with running_gohighlevel(location(60)) as rig:
        dates = [row["dateAdded"] for row in rig.search(sort=OLDEST_FIRST)["contacts"]]
        assert dates == sorted(dates)
        assert len(set(dates)) == 20
        assert ids(rig.search())[0] == rig.seeded.contact_id(59)  # newest first, unless a body says otherwise


# --- the two shapes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", ["both", "lower_case"])
def test_a_row_may_have_names_in_lower_case_only_and_additional_addresses_as_texts(names: str) -> None:
    with running_gohighlevel(location(20, search_names=names)) as rig:
        row = rig.search(sort=OLDEST_FIRST)["contacts"][2]
        contact = rig.client().get(f"/contacts/{row['id']}").json()["contact"]
        assert ("firstName" in row, "lastName" in row) == ((names == "both"),) * 2
        assert row["firstNameLowerCase"] == contact["firstName"].lower() == contact["firstNameLowerCase"]
        assert row["additionalEmails"] == [each["email"] for each in contact["additionalEmails"]] != []
        assert row["locationId"] == contact["locationId"] == LOCATION


# --- what changes ----------------------------------------------------------------------------------------------------


def test_a_search_shows_a_change_after_the_lag_and_the_contact_itself_at_once() -> None:
    with running_gohighlevel(location(20, index_lag_seconds=4.0)) as rig:
        client = rig.client()
        made = rig.state.create_contact(KnownContact("cMade000000000000000", email="made@umber.test"))
        gone = rig.seeded.contact_id(7)
        rig.state.delete_contacts([gone])

        def shown() -> tuple[bool, bool, int]:
            document = rig.search()
            return made in ids(document), gone in ids(document), document["total"]

        assert client.get(f"/contacts/{made}").status_code == 200
        assert refused(client.get(f"/contacts/{gone}"))[0] == 400
        assert shown() == (False, True, 20)
        rig.clock.now += 3.9
        assert shown() == (False, True, 20)
        rig.clock.now += 0.2
        assert shown() == (True, False, 20)
        assert ids(rig.search(filters=[equal("made@umber.test")])) == [made]
        assert ids(rig.search(filters=[equal(gone, field="id")])) == []
        rig.server.reset()
        assert shown() == (False, True, 20)


def test_a_cursor_whose_contact_disappeared_still_leads_on() -> None:
    with running_gohighlevel(location(60, index_lag_seconds=0.0)) as rig:
        rows = rig.search(sort=OLDEST_FIRST, pageLimit=20)["contacts"]
        rig.state.delete_contacts([row["id"] for row in rows])
        following = rig.search(sort=OLDEST_FIRST, pageLimit=20, searchAfter=rows[-1]["searchAfter"])
        assert ids(following)[0] == rig.seeded.contact_id(20)
        assert following["total"] == 40


def test_the_total_drifts_while_one_scans() -> None:
    faults = [
        {"kind": "create_contacts", "contacts": 3, "nth": 1},
        {"kind": "delete_served_contacts", "contacts": 5, "nth": 2},
        {"kind": "delete_oldest_contacts", "contacts": 10, "nth": 3},
        {"kind": "total_off", "by": 100, "nth": 5},
    ]
    with running_gohighlevel(location(60, index_lag_seconds=0.0), faults=faults) as rig:
        assert [rig.search(pageLimit=1)["total"] for _ in range(5)] == [60, 63, 62, 52, 152]


def test_pages_are_spoilt_on_request() -> None:
    def page(rig: GoHighLevelRig, kind: str, **parameters: int) -> list[dict[str, Any]]:
        rig.server.clear_faults()
        rig.server.add_faults([{"kind": kind, **parameters}])
        document = rig.search(sort=OLDEST_FIRST, pageLimit=20, searchAfter=cursor)
        rows: list[dict[str, Any]] = document["contacts"]
        return rows

    with running_gohighlevel(location(60)) as rig:
        cursor = rig.search(sort=OLDEST_FIRST, pageLimit=20)["contacts"][-1]["searchAfter"]
        numbers = [rig.seeded.number_of(row["id"]) for row in page(rig, "repeat_rows", rows=4)]
        assert numbers == list(range(16, 36))
        assert len(page(rig, "short_page", rows=6)) == 6
        assert all("searchAfter" not in row for row in page(rig, "no_cursors"))
        assert sum(row["locationId"] != LOCATION for row in page(rig, "foreign_contacts", every=5)) == 4
        malformed = page(rig, "malformed_contacts", every=1)
        assert any(isinstance(row["phone"], int) for row in malformed)
        assert any(isinstance(row["additionalEmails"], str) for row in malformed)


def test_the_end_of_a_scan_is_an_empty_page_or_the_last_one_again() -> None:
    for end, count in (("empty", 0), ("repeats", 20)):
        with running_gohighlevel(location(50, end_of_scan=end)) as rig:
            last = rig.search(sort=OLDEST_FIRST)["contacts"][-1]["searchAfter"]
            rows = rig.search(sort=OLDEST_FIRST, pageLimit=20, searchAfter=last)["contacts"]
            assert len(rows) == count
            assert not rows or rows[-1]["searchAfter"] == last


# --- duplicates ------------------------------------------------------------------------------------------------------


def test_a_duplicate_is_looked_for_by_address_and_then_by_phone() -> None:
    with running_gohighlevel(location(60)) as rig:
        client = rig.client()

        def duplicate(**query: str) -> Any:
            answer = client.get("/contacts/search/duplicate", params={"locationId": LOCATION, **query})
            found = answer.json()["contact"]
            return None if found is None else found["id"]

        first, second = rig.seeded.contact(0), rig.seeded.contact(2)
        assert first.email is not None
        assert first.phone is not None
        assert duplicate(email=first.email.upper()) == first.id
        assert duplicate(email=second.additional_emails[0]) == second.id
        assert duplicate(number=first.phone) == first.id
        assert duplicate(email="nobody@umber.test") is None
        assert client.get("/contacts/search/duplicate").status_code == 400


# --- how fast --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", ["sliding", "fixed"])
def test_the_hundred_and_first_request_in_ten_seconds_is_refused_and_every_answer_counts(window: Any) -> None:
    with running_gohighlevel(location(20), limits=GoHighLevelLimits(window=window)) as rig:
        rig.clock.now = 1_790_000_001.0
        client, path = rig.client(), f"/contacts/{rig.seeded.contact_id(1)}"
        answers = [client.get(path) for _ in range(101)]
        assert [each.status_code for each in answers] == [200] * 100 + [429]
        assert answers[0].headers["X-RateLimit-Max"] == "100"
        assert answers[0].headers["X-RateLimit-Interval-Milliseconds"] == "10000"
        assert answers[0].headers["X-RateLimit-Limit-Daily"] == "200000"
        remaining = [int(each.headers["X-RateLimit-Remaining"]) for each in answers]
        assert remaining == [*range(99, -1, -1), 0]
        assert answers[-1].headers["X-RateLimit-Daily-Remaining"] == "199900"
        rig.clock.now += 9.5
        assert client.get(path).status_code == (429 if window == "sliding" else 200)
        rig.clock.now += 0.6
        assert client.get(path).status_code == 200
        assert rig.state.limits.most_in_a_window == (100 if window == "sliding" else 101)


def test_a_location_has_a_day_of_its_own() -> None:
    other = build_gohighlevel_location(3, "locAnother0000000001", "pit-another", contacts=20)
    with running_gohighlevel(location(20), other, limits=GoHighLevelLimits(daily=3)) as rig:
        path = f"/contacts/{rig.seeded.contact_id(1)}"
        assert [rig.client().get(path).status_code for _ in range(4)] == [200, 200, 200, 429]
        theirs = f"/contacts/{other.contact_id(1)}"
        assert rig.client(token="pit-another").get(theirs).headers["X-RateLimit-Daily-Remaining"] == "2"
        rig.clock.now += 86_400
        assert rig.client().get(path).status_code == 200


def test_faults_are_the_vendors_own_words() -> None:
    with running_gohighlevel(location(20)) as rig:
        for kind, status in (("ghl_token_refused", 401), ("ghl_scope_missing", 401), ("ghl_location_refused", 403)):
            rig.server.clear_faults()
            rig.server.add_faults([{"kind": kind, "workspace": LOCATION}])
            assert refused(rig.post())[0] == status
        rig.server.clear_faults()
        rig.server.add_faults([{"kind": "status", "status": 200}])
        assert rig.post().headers["content-type"] == "text/html"
