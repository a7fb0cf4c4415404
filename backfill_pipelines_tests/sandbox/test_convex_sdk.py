"""Convex's own Python client (`convex`) drives the fake: calls, numbers, errors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from convex import ConvexError, ConvexInt64
from convex.http_client import ConvexExecutionError, ConvexHttpClient

from backfill_pipelines_tests.sandbox.convex_rig import DEPLOYMENT, NAMES, ConvexRig, running_convex


@pytest.fixture(scope="module")
def serving() -> Iterator[ConvexRig]:
    with running_convex() as rig:
        yield rig


@pytest.fixture
def rig(serving: ConvexRig) -> ConvexRig:
    serving.server.reset()
    return serving


@pytest.fixture
def sdk(rig: ConvexRig) -> ConvexHttpClient:
    client = ConvexHttpClient(rig.url)
    client.set_admin_auth(DEPLOYMENT.deploy_key)
    return client


def test_it_reads_all_rows_page_by_page(sdk: ConvexHttpClient, rig: ConvexRig) -> None:
    rows, cursor, done = [], None, False
    while not done:
        request = {**NAMES, "cursor": cursor, "rows": 50.0}
        page = sdk.query("backfill:page", {"version": 1.0, "request": request})
        rows += page["rows"]
        cursor, done = page["cursor"], page["isDone"]
    documents = rig.state.documents()
    assert [each["id"] for each in rows] == [each["_id"] for each in documents]
    assert [each["fields"].get("lastSignInAt", "absent") for each in rows] == [
        each.get("lastSignInAt", "absent") for each in documents
    ]


def test_it_writes_and_is_told_what_became_of_it(sdk: ConvexHttpClient, rig: ConvexRig) -> None:
    document = rig.state.documents()[20]
    patch = {
        "id": document["_id"],
        "clerkId": document["clerkId"],
        "before": {"createdAt": document["createdAt"]},
        "after": {"createdAt": 1_700_000_000_000.0},
    }
    args = {"version": 1.0, "request": {**NAMES, "patches": [patch]}}
    assert sdk.mutation("backfill:patch", args) == {"version": 1.0, "outcomes": ["patched"]}
    assert sdk.mutation("backfill:patch", args) == {"version": 1.0, "outcomes": ["already"]}
    changed = rig.state.document(document["_id"])
    assert changed == {**document, "createdAt": 1_700_000_000_000.0}


def test_it_understands_a_failed_function(sdk: ConvexHttpClient) -> None:
    names = {**NAMES, "table": "nowhere", "cursor": None, "rows": 1.0}
    with pytest.raises(ConvexError) as failed:
        sdk.query("backfill:page", {"version": 1.0, "request": names})
    assert failed.value.data == {"backfill": 1.0, "code": "missing_table"}
    with pytest.raises(ConvexExecutionError, match="Could not find public function for 'users:list'"):
        sdk.query("users:list")
    with pytest.raises(ConvexExecutionError, match="ArgumentValidationError"):  # an int64 is no number
        sdk.query("backfill:page", {"version": ConvexInt64(1), "request": names})


def test_it_understands_a_refusal(sdk: ConvexHttpClient, rig: ConvexRig) -> None:
    sdk.set_admin_auth("prod:other-owl-7|eyJ2MiI6nothing")
    with pytest.raises(Exception, match="401 BadAdminKey: "):
        sdk.query("backfill:page")
    sdk.set_auth("eyJhbGciOiJub25lIn0")
    with pytest.raises(ConvexExecutionError, match="Could not find public function"):
        sdk.query("backfill:page")
    assert not rig.state.calls
