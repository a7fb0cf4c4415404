"""The fake Convex over HTTP: who may call what, how functions answer and fail, limits, slots."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import orjson
import pytest

from backfill_pipelines.sandbox.convex import ConvexQuestions
from backfill_pipelines.sandbox.convex_functions import ConvexLimits
from backfill_pipelines_tests.sandbox.convex_rig import (
    DEPLOYMENT,
    ConvexRig,
    call_body,
    deployment_with,
    failed,
    page_body,
    patch_body,
    refused,
    running_convex,
    value,
)

UNKNOWN = "Could not find public function for '{}'. Did you forget to run `npx convex dev` or `npx convex deploy`?"
SMALL = deployment_with([{"clerkId": f"user_{number}", "firstName": f"Ada {number}"} for number in range(6)])


@pytest.fixture(scope="module")
def serving() -> Iterator[ConvexRig]:
    with running_convex() as rig:
        yield rig


@pytest.fixture
def rig(serving: ConvexRig) -> ConvexRig:
    serving.server.reset()
    return serving


@pytest.fixture
def client(rig: ConvexRig) -> httpx.Client:
    return rig.client()


def renames(rig: ConvexRig) -> list[dict[str, Any]]:
    return [
        {
            "id": each["_id"],
            "clerkId": each["clerkId"],
            "before": {name: each[name] for name in ("firstName",) if name in each},
            "after": {"firstName": "Bea"},
        }
        for each in rig.state.documents()
    ]


# --- who may call -----------------------------------------------------------------------------------------------------


def test_an_internal_function_does_not_exist_for_users_and_strangers(rig: ConvexRig) -> None:
    for authorization in (None, "Bearer eyJhbGciOiJub25lIn0", "bearer x"):
        client = rig.client(authorization)
        assert failed(client.post("/query", json=page_body())) == UNKNOWN.format("backfill:page")
        assert failed(client.post("/mutation", json=patch_body())) == UNKNOWN.format("backfill:patch")
    assert not rig.state.calls


def test_a_deploy_key_opens_it_however_the_scheme_is_spelled(rig: ConvexRig) -> None:
    for scheme in ("Convex", "convex", "CONVEX"):
        client = rig.client(f"{scheme} {DEPLOYMENT.deploy_key}")
        assert value(client.post("/query", json=page_body()))["rows"]


def test_a_key_of_another_deployment_is_refused(rig: ConvexRig) -> None:
    client = rig.client("Convex prod:other-owl-7|eyJ2MiI6nothing")
    assert refused(client.post("/query", json=page_body())) == (401, "BadAdminKey")


@pytest.mark.parametrize("authorization", ["Convex", "Basic dXNlcjpwYXNz", "prod:name|key"])
def test_a_malformed_header_is_refused(rig: ConvexRig, authorization: str) -> None:
    assert refused(rig.client(authorization).post("/query", json=page_body())) == (400, "InvalidHeaderFailure")


def test_a_scoped_key_may_only_what_it_may(rig: ConvexRig) -> None:
    reader = rig.client(f"Convex {DEPLOYMENT.read_only_key}")
    assert value(reader.post("/query", json=page_body()))["rows"]
    assert refused(reader.post("/mutation", json=patch_body())) == (403, "OperationNotPermitted")
    nobody = rig.client(f"Convex {DEPLOYMENT.powerless_key}")
    assert refused(nobody.post("/query", json=page_body())) == (403, "OperationNotPermitted")


def test_a_missing_permission_may_be_told_as_a_failed_function() -> None:
    with running_convex(questions=ConvexQuestions(refuses_permission_with="function")) as rig:
        nobody = rig.client(f"Convex {DEPLOYMENT.powerless_key}")
        text = failed(nobody.post("/query", json=page_body()))
        assert text == "You do not have permission to perform this operation (deployment:functions:runInternalQueries)."


# --- how functions are called -----------------------------------------------------------------------------------------


def test_every_route_calls_the_same_function(rig: ConvexRig, client: httpx.Client) -> None:
    body = page_body(rows=3)
    page = value(client.post("/query", json=body))
    assert len(page["rows"]) == 3
    query = {"path": body["path"], "args": orjson.dumps(body["args"]).decode(), "format": "json"}
    assert value(client.get("/query", params=query)) == page
    assert value(client.post("/query", json={**body, "args": [body["args"]]})) == page
    assert value(client.post("/query", json={**body, "path": "backfill.js:page"})) == page
    assert value(client.post("/function", json=body)) == page
    assert value(client.post("/run/backfill/page", json={"args": body["args"]})) == page
    assert rig.state.calls == {"backfill:page": 6}


def test_the_route_for_any_function_is_for_admins(rig: ConvexRig) -> None:
    assert refused(rig.client(None).post("/function", json=page_body())) == (403, "BadDeployKey")


def test_a_function_of_another_type_or_name_is_not_called(rig: ConvexRig, client: httpx.Client) -> None:
    assert failed(client.post("/mutation", json=page_body())).startswith("Trying to execute backfill.js:page as Mut")
    assert failed(client.post("/query", json=patch_body())).startswith("Trying to execute backfill.js:patch as Query")
    assert failed(client.post("/action", json=page_body())).startswith("Trying to execute backfill.js:page as Action")
    for path in ("users:list", "backfill:delete", "backfill"):
        body = call_body(path, {})
        assert failed(client.post("/query", json=body)).startswith("Could not find public function for 'users"[:33])
    assert not rig.state.calls


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "BadJsonBody"),
        (b"{", "BadJsonBody"),
        (b"[]", "BadJsonBody"),
        (b'{"args": {}}', "BadJsonBody"),
        (b'{"path": "backfill:page", "args": []}', "BadJsonBody"),
        (b'{"path": "backfill:page", "args": {}, "format": "xml"}', "BadFormat"),
    ],
)
def test_a_body_that_is_none_is_refused(client: httpx.Client, content: bytes, expected: str) -> None:
    assert refused(client.post("/query", content=content)) == (400, expected)


def test_other_paths_and_deployments_are_not_there(rig: ConvexRig, client: httpx.Client) -> None:
    assert refused(client.get("/list_snapshot"))[0] == 404
    assert refused(client.post("/run/page", json={"args": {}})) == (400, "MissingIdentifier")
    other = f"{rig.server.base_url}/convex/nobody/api/query"
    assert refused(httpx.post(other, json=page_body(), verify=False))[0] == 404


def test_arguments_that_the_function_does_not_take_are_refused(client: httpx.Client) -> None:
    for args in ({}, {"version": 1}, {"version": 1, "request": {}, "more": 1}, {"version": "1", "request": {}}):
        text = failed(client.post("/query", json={"path": "backfill:page", "args": args}))
        assert text.startswith("ArgumentValidationError: ")
    as_int64 = {"version": {"$integer": "AQAAAAAAAAA="}, "request": {}}
    assert failed(client.post("/query", json={"path": "backfill:page", "args": as_int64})).startswith("ArgumentVal")


def test_all_numbers_are_floats(rig: ConvexRig, client: httpx.Client) -> None:
    rig.state.insert(clerkId="user_new", createdAt=1_700_000_000_000)
    answer = client.post("/query", json=page_body())
    assert b'"createdAt":1700000000000.0' in answer.content
    assert b'"version":1.0' in answer.content


# --- how functions fail -----------------------------------------------------------------------------------------------


def test_a_failure_shows_its_text_its_data_and_its_log(client: httpx.Client) -> None:
    body = client.post("/query", json=page_body(table="nowhere")).json()
    assert body == {
        "status": "error",
        "errorMessage": "[Request ID: 5a4db0c5e0b14c0f] Server Error\nUncaught ConvexError: "
        '{"backfill":1.0,"code":"missing_table"}',
        "errorData": {"backfill": 1.0, "code": "missing_table"},
        "logLines": ["[LOG] 'the function was called'"],
    }


def test_a_deployment_that_hides_errors_still_shows_the_data() -> None:
    with running_convex(questions=ConvexQuestions(hides_errors=True)) as rig:
        body = rig.client().post("/query", json=page_body(table="nowhere")).json()
        assert body["errorMessage"] == "[Request ID: 5a4db0c5e0b14c0f] Server Error"
        assert body["errorData"]["code"] == "missing_table"
        rig.state.functions = "absent"
        body = rig.client().post("/query", json=page_body()).json()
        assert body == {"status": "error", "errorMessage": "[Request ID: 5a4db0c5e0b14c0f] Server Error"}


def test_a_failure_comes_with_560_where_that_is_asked_for(rig: ConvexRig, client: httpx.Client) -> None:
    rig.server.add_faults([{"kind": "function_failure_560"}])
    assert client.post("/query", json=page_body()).status_code == 200
    answer = client.post("/query", json=page_body(table="nowhere"))
    assert (answer.status_code, answer.json()["status"]) == (560, "error")


def test_what_is_deployed_can_be_something_else(rig: ConvexRig, client: httpx.Client) -> None:
    rig.state.functions = "absent"
    assert failed(client.post("/query", json=page_body())) == UNKNOWN.format("backfill:page")
    rig.state.functions = "newer"
    assert '"other_version"' in failed(client.post("/mutation", json=patch_body()))
    rig.state.functions = "other_arguments"
    assert failed(client.post("/query", json=page_body())).startswith("ArgumentValidationError: ")
    rig.state.functions = "other_answers"
    assert value(client.post("/mutation", json=patch_body())) == {"updated": 0.0}
    rig.state.paused = True
    assert "deployment is paused" in failed(client.post("/query", json=page_body()))


def test_an_index_that_is_still_built_is_not_ready(rig: ConvexRig, client: httpx.Client) -> None:
    rig.state.tables["users"].indexes_under_way.add("by_clerkId")
    assert '"index_not_ready"' in failed(client.post("/query", json=page_body()))
    rig.state.tables["users"].indexes_under_way.clear()
    rig.state.drop_index("by_clerkId")
    assert '"missing_index"' in failed(client.post("/query", json=page_body()))


def test_faults_of_the_vendor_come_before_anything_happens(rig: ConvexRig, client: httpx.Client) -> None:
    kinds = ("write_conflict", "overloaded", "function_timeout", "rate_limited")
    rig.server.add_faults([{"kind": kind, "nth": nth} for nth, kind in enumerate(kinds, start=1)])
    body = patch_body(renames(rig)[20])
    assert refused(client.post("/mutation", json=body)) == (503, "OptimisticConcurrencyControlFailure")
    assert refused(client.post("/mutation", json=body)) == (503, "ExpiredInQueue")
    assert failed(client.post("/mutation", json=body)) == "Function execution timed out (maximum duration: 1s)"
    assert refused(client.post("/mutation", json=body)) == (429, "TooManyConcurrentRequests")
    assert not rig.state.outcomes
    assert value(client.post("/mutation", json=body))["outcomes"] == ["patched"]
    assert rig.state.outcomes == {"patched": 1}


def test_people_change_and_delete_users_between_two_calls(rig: ConvexRig, client: httpx.Client) -> None:
    rig.server.add_faults([{"kind": "change_users", "users": 2, "nth": 1}, {"kind": "delete_users", "nth": 2}])
    before = rig.state.documents()
    client.post("/query", json=page_body())
    changed = rig.state.documents()
    assert [left != right for left, right in zip(before, changed, strict=True)].count(True) == 2
    client.post("/query", json=page_body())
    assert rig.state.documents() == changed[1:]


# --- pages ------------------------------------------------------------------------------------------------------------


def test_a_full_page_does_not_know_that_it_is_the_last_one(rig: ConvexRig, client: httpx.Client) -> None:
    total = len(rig.state.documents())
    full = value(client.post("/query", json=page_body(rows=total)))
    assert (len(full["rows"]), full["isDone"]) == (total, False)
    empty = value(client.post("/query", json=page_body(full["cursor"])))
    assert (empty["rows"], empty["isDone"]) == ([], True)


def test_a_page_that_would_read_too_much_is_shorter_or_fails() -> None:
    for limits in (ConvexLimits(documents_read=4), ConvexLimits(bytes_read=500)):
        with running_convex(SMALL, limits=limits) as rig:
            page = value(rig.client().post("/query", json=page_body()))
            assert (0 < len(page["rows"]) < 6, page["isDone"]) == (True, False)
            rest = value(rig.client().post("/query", json=page_body(page["cursor"])))
            assert [each["clerkId"] for each in page["rows"] + rest["rows"]] == [f"user_{n}" for n in range(6)]
        with running_convex(SMALL, limits=limits._replace(shortens_pages=False)) as rig:
            assert '"too_much"' in failed(rig.client().post("/query", json=page_body()))
            assert len(value(rig.client().post("/query", json=page_body(rows=2)))["rows"]) == 2


def test_a_cursor_that_is_none_is_refused(client: httpx.Client) -> None:
    for cursor in ("nonsense", "", "WyJtZW1iZXJzIiwxLjBd", "e30="):
        assert '"cursor_refused"' in failed(client.post("/query", json=page_body(cursor)))


# --- limits of a transaction, slots -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "limits",
    [
        ConvexLimits(documents_read=5),
        ConvexLimits(bytes_read=600),
        ConvexLimits(index_ranges=6),
        ConvexLimits(documents_written=5),
        ConvexLimits(bytes_written=600),
    ],
)
def test_a_batch_over_a_limit_writes_nothing_and_its_half_is_written(limits: ConvexLimits) -> None:
    with running_convex(SMALL, limits=limits) as rig:
        before = rig.state.documents()
        patches = renames(rig)
        assert '"too_much"' in failed(rig.client().post("/mutation", json=patch_body(*patches)))
        assert rig.state.documents() == before
        answer = rig.client().post("/mutation", json=patch_body(*patches[:3]))
        assert value(answer)["outcomes"] == ["patched"] * 3
        assert rig.state.documents()[3:] == before[3:]


def test_a_batch_that_takes_a_second_times_out() -> None:
    with running_convex(SMALL, limits=ConvexLimits(patches_in_time=5)) as rig:
        text = failed(rig.client().post("/mutation", json=patch_body(*renames(rig))))
        assert text == "Function execution timed out (maximum duration: 1s)"


def test_a_body_over_the_limit_is_refused() -> None:
    with running_convex(SMALL, limits=ConvexLimits(body_bytes=400)) as rig:
        assert refused(rig.client().post("/mutation", json=patch_body(*renames(rig))))[0] == 413


def test_who_finds_no_slot_is_refused_and_the_slots_come_back() -> None:
    with running_convex(SMALL, limits=ConvexLimits(slots=2), latency_seconds=0.2) as rig, ThreadPoolExecutor(6) as pool:
        clients = [rig.client() for _ in range(6)]
        answers = list(pool.map(lambda client: client.post("/query", json=page_body()).status_code, clients))
        assert set(answers) == {200, 429}
        assert rig.state.most_at_once == {"query": 2}
        assert rig.client().post("/query", json=page_body()).status_code == 200
        assert not +rig.state.under_way
