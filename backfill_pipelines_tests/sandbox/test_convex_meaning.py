"""The fake's functions mean what the TypeScript's mean: both are held to the examples of `convex/cases.json`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest

from backfill_pipelines.sandbox.convex_data import Kinds
from backfill_pipelines.sandbox.convex_functions import VERSION
from backfill_pipelines_tests.sandbox.convex_rig import (
    CASES,
    NAMES,
    ConvexRig,
    call_body,
    deployment_with,
    running_convex,
    value,
)


@pytest.fixture(scope="module")
def serving() -> Iterator[ConvexRig]:
    with running_convex(deployment_with([])) as rig:
        yield rig


@pytest.fixture
def rig(serving: ConvexRig) -> ConvexRig:
    serving.server.reset()
    return serving


def kinds_of(case: Mapping[str, Any]) -> Kinds | None:
    allowed = case.get("kinds")
    return None if allowed is None else {name: frozenset(kinds) for name, kinds in allowed.items()}


def inserted(rig: ConvexRig, case: Mapping[str, Any], table: str) -> dict[str, str]:
    """Insert the documents of a case; their ids by name."""
    ids: dict[str, str] = {}
    for each in case.get("documents", ()):
        ids[each["as"]] = rig.state.insert(table, **each["document"])
    for each in case.get("documents", ()):
        if each.get("deleted"):
            rig.state.delete(ids[each["as"]], table)
    return ids


def with_ids(part: Any, ids: Mapping[str, str]) -> Any:
    """The same with the id in the place of each `@name`."""
    if isinstance(part, str):
        return ids[part[1:]] if part.startswith("@") else part
    if isinstance(part, list):
        return [with_ids(each, ids) for each in part]
    return {name: with_ids(each, ids) for name, each in part.items()} if isinstance(part, dict) else part


def held(rig: ConvexRig, document_id: str, table: str) -> dict[str, Any] | None:
    document = rig.state.document(document_id, table)
    return document and {name: each for name, each in document.items() if not name.startswith("_")}


@pytest.mark.parametrize("case", CASES["patches"], ids=lambda case: case["name"])
def test_a_patch_means_the_same(case: Mapping[str, Any], rig: ConvexRig) -> None:
    names = {**NAMES, **case.get("names", {})}
    rig.state.tables["users"].kinds = kinds_of(case)
    ids = inserted(rig, case, names["table"])
    body = call_body("backfill:patch", {**names, "patches": with_ids(case["patches"], ids)})
    assert value(rig.client().post("/mutation", json=body)) == {"version": VERSION, "outcomes": case["outcomes"]}
    for name, left in case.get("left", {}).items():
        assert held(rig, ids[name], names["table"]) == left, name


@pytest.mark.parametrize("case", CASES["pages"], ids=lambda case: case["name"])
def test_a_page_means_the_same(case: Mapping[str, Any], rig: ConvexRig) -> None:
    names = {**NAMES, **case.get("names", {})}
    ids = inserted(rig, case, names["table"])
    body = call_body("backfill:page", {**names, "cursor": None, "rows": 100})
    page = value(rig.client().post("/query", json=body))
    assert isinstance(page.pop("cursor"), str)
    assert page == {"version": VERSION, "rows": with_ids(case["rows"], ids), "isDone": True}


@pytest.mark.parametrize(
    ("case", "kind"),
    [(case, kind) for case in CASES["refused"] for kind in ([case["of"]] if "of" in case else ["page", "patch"])],
    ids=lambda each: each if isinstance(each, str) else each["name"],
)
def test_a_refusal_has_the_same_code(case: Mapping[str, Any], kind: str, rig: ConvexRig) -> None:
    names = {**NAMES, **case.get("names", {})}
    own: dict[str, Any] = {"cursor": None, "rows": 10} if kind == "page" else {"patches": []}
    if names["table"] in rig.state.tables:
        inserted(rig, case, names["table"])
    given = case.get("request", own)
    request = None if given is None else {**names, **given}
    body = call_body(f"backfill:{kind}", request, version=case.get("version", VERSION))
    answer = rig.client().post("/query" if kind == "page" else "/mutation", json=body)
    assert code_of(answer) == case["code"]


def code_of(answer: httpx.Response) -> str:
    body = answer.json()
    assert (answer.status_code, body["status"]) == (200, "error")
    assert body["errorData"]["backfill"] == VERSION
    return str(body["errorData"]["code"])
