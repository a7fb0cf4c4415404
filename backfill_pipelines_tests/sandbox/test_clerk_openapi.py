"""The fake Clerk's answers against the vendor's own OpenAPI file.

`openapi/clerk.json` is an extract of Clerk's published OpenAPI document (github.com/clerk/openapi-specs,
bapi/2026-05-12.yml, MIT): the operations used here with their schemas, without descriptions and examples.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from backfill_pipelines.sandbox.clerk import ClerkSandbox
from backfill_pipelines.sandbox.clerk_data import ClerkWorld, build_clerk_instance
from backfill_pipelines.sandbox.server import SandboxServer

DOCUMENT = json.loads((Path(__file__).parent / "openapi" / "clerk.json").read_text(encoding="utf-8"))
INSTANCE = build_clerk_instance(seed=5, users=400)


def in_json_schema(schema: Any) -> Any:
    """OpenAPI 3.0's `nullable` as JSON Schema says it."""
    if isinstance(schema, list):
        return [in_json_schema(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    meant = {name: in_json_schema(value) for name, value in schema.items() if name != "nullable"}
    return {"anyOf": [meant, {"type": "null"}]} if schema.get("nullable") is True else meant


SCHEMAS = in_json_schema(DOCUMENT)


def conforms(answer: httpx.Response, path: str) -> Any:
    """Check the answer against what the operation declares for its status; returns the body."""
    declared = SCHEMAS["paths"][path]["get"]["responses"][str(answer.status_code)]
    schema = SCHEMAS["components"]["responses"][declared["$ref"].rpartition("/")[2]]["content"]["application/json"]
    document = {**schema["schema"], "components": SCHEMAS["components"]}
    jsonschema.Draft202012Validator(document).validate(answer.json())
    return answer.json()


@pytest.fixture(scope="module")
def serving() -> Iterator[tuple[SandboxServer, httpx.Client]]:
    with (
        SandboxServer([ClerkSandbox(ClerkWorld((INSTANCE,)))]) as server,
        httpx.Client(
            base_url=server.account_urls("clerk")["api"],
            headers={"Authorization": f"Bearer {INSTANCE.secret_key}"},
            timeout=10,
        ) as client,
    ):
        yield server, client


@pytest.fixture
def client(serving: tuple[SandboxServer, httpx.Client]) -> httpx.Client:
    serving[0].reset()
    return serving[1]


@pytest.fixture
def server(serving: tuple[SandboxServer, httpx.Client]) -> SandboxServer:
    return serving[0]


def test_a_page_with_every_kind_of_user_is_as_the_vendor_declares_it(client: httpx.Client) -> None:
    users = conforms(client.get("/users", params={"limit": 500, "order_by": "created_at"}), "/users")
    assert len(users) == 400
    assert conforms(client.get(f"/users/{users[0]['id']}"), "/users/{user_id}") == users[0]
    assert conforms(client.get("/users/count"), "/users/count")["total_count"] == 400


def test_organizations_and_memberships_are_as_the_vendor_declares_them(client: httpx.Client) -> None:
    for query in ({}, {"include_members_count": "true", "limit": 500}):
        conforms(client.get("/organizations", params=query), "/organizations")
    page = conforms(client.get("/organization_memberships", params={"limit": 500}), "/organization_memberships")
    assert len(page["data"]) > 300


def test_refusals_are_as_the_vendor_declares_them(client: httpx.Client, server: SandboxServer) -> None:
    unknown = {"Authorization": "Bearer sk_live_nobody"}
    assert conforms(client.get("/users", headers=unknown), "/users")["errors"][0]["code"] == "clerk_key_invalid"
    for query in ({"limit": "10.0"}, {"starting_after": "user_1"}, {"order_by": "shoe_size"}):
        answer = client.get("/users", params=query)
        assert answer.status_code == 422
        conforms(answer, "/users")
    assert client.get("/users/user_1").status_code == 404
    conforms(client.get("/users/user_1"), "/users/{user_id}")
    conforms(client.get("/users", headers={"Clerk-API-Version": "1"}), "/users")
    server.add_faults([{"kind": "clerk_forbidden"}])
    conforms(client.get("/organizations"), "/organizations")


def test_what_the_client_sends_stands_in_the_declaration() -> None:
    declared = {
        path: {
            each["name"]
            if "name" in each
            else DOCUMENT["components"]["parameters"][each["$ref"].rpartition("/")[2]]["name"]
            for each in operation["get"]["parameters"]
        }
        for path, operation in DOCUMENT["paths"].items()
        if path != "/users/{user_id}"
    }
    assert {"limit", "offset", "order_by", "starting_after"} <= declared["/users"]
    assert {"limit", "offset", "order_by", "include_members_count"} <= declared["/organizations"]
    assert {"limit", "offset", "order_by"} == declared["/organization_memberships"]
    limit = DOCUMENT["components"]["parameters"]["LimitParameter"]["schema"]
    assert (limit["default"], limit["minimum"], limit["maximum"]) == (10, 1, 500)


def test_the_check_would_notice_a_wrong_answer(client: httpx.Client) -> None:
    answer = client.get("/users", params={"limit": 1})
    for spoil in (
        lambda user: user.pop("created_at"),
        lambda user: user.update(surprise=1),
        lambda user: user.update(banned=None),
        lambda user: user["email_addresses"].append({"object": "email_address"}),
    ):
        [user] = answer.json()
        spoil(user)
        with pytest.raises(jsonschema.ValidationError):
            conforms(httpx.Response(200, json=[user]), "/users")
