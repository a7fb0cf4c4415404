"""The fake Attio's answers against the vendor's own OpenAPI file.

`openapi/attio.json` is an extract of Attio's published OpenAPI document (version 2.0.0, October 2025): the operations
used here without their descriptions and examples. The file says 3.1.0 and marks what may be null by 3.0's `nullable`;
it is read as it is meant. Two codes that were captured from the real API stand in no such file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from backfill_pipelines.sandbox.attio_records import COMPANIES, PEOPLE
from backfill_pipelines_tests.sandbox.attio_rig import EMPTY, AttioRig, create, running_attio

DOCUMENT = json.loads((Path(__file__).parent / "openapi" / "attio.json").read_text(encoding="utf-8"))
RECORDS, RECORD = "/v2/objects/{object}/records", "/v2/objects/{object}/records/{record_id}"
QUERY, ATTRIBUTES = "/v2/objects/{object}/records/query", "/v2/{target}/{identifier}/attributes"
NOBODY = "00000000-0000-4000-8000-000000000000"


def as_meant(schema: Any) -> Any:
    """The schema with what may be null said in 3.1's way: as a type, and in the enumeration if there is one."""
    if isinstance(schema, list):
        return [as_meant(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    meant = {name: as_meant(value) for name, value in schema.items() if name != "nullable"}
    if schema.get("nullable") is True:
        meant["type"] = [schema["type"], "null"]
    if "null" in meant.get("type", ()) and isinstance(meant.get("enum"), list):
        meant["enum"] = [*meant["enum"], None]
    return meant


SCHEMAS = as_meant(DOCUMENT)


def validator(schema: Mapping[str, Any]) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({**schema, "components": SCHEMAS["components"]})


def conforms(answer: httpx.Response, path: str, *, asked: Any = None) -> Any:
    """Check a request's body and the answer to it against the operation; returns the answer's body."""
    operation = SCHEMAS["paths"][path][answer.request.method.lower()]
    if asked is not None:
        validator(operation["requestBody"]["content"]["application/json"]["schema"]).validate(asked)
    declared = operation["responses"][str(answer.status_code)]["content"]["application/json"]["schema"]
    validator(declared).validate(answer.json())
    return answer.json()


@pytest.fixture(scope="module")
def serving() -> Iterator[AttioRig]:
    with running_attio() as rig:
        yield rig


@pytest.fixture
def rig(serving: AttioRig) -> AttioRig:
    serving.server.reset()
    return serving


@pytest.fixture
def client(rig: AttioRig) -> httpx.Client:
    return rig.client()


def test_a_living_and_a_dead_token_are_described_as_declared(rig: AttioRig, client: httpx.Client) -> None:
    assert conforms(client.get("/self"), "/v2/self")["active"] is True
    assert conforms(rig.client(token="unknown").get("/self"), "/v2/self")["active"] is False


def test_every_seeded_record_is_written_as_declared(rig: AttioRig, client: httpx.Client) -> None:
    for object_slug, seeded in ((PEOPLE, rig.seeded.people), (COMPANIES, rig.seeded.companies)):
        asked = {"sorts": [{"direction": "asc", "attribute": "created_at"}], "limit": 500, "offset": 0}
        answer = client.post(f"/objects/{object_slug}/records/query", json=asked)
        assert len(conforms(answer, QUERY, asked=asked)["data"]) >= len(seeded) > 0


def test_a_created_an_updated_an_asserted_and_a_deleted_record_are_as_declared(client: httpx.Client) -> None:
    asked = {
        "data": {
            "values": {
                "email_addresses": [{"email_address": "ada@alder.example"}],
                "name": [{"first_name": "Ada", "last_name": "Quill", "full_name": "Ada Quill"}],
                "user_id": ["user_1"],
            }
        }
    }
    created = conforms(client.post("/objects/people/records", json=asked), RECORDS, asked=asked)
    path = f"/objects/people/records/{created['data']['id']['record_id']}"
    conforms(client.get(path), RECORD)
    for method, values in (("PATCH", {"user_id": ["user_2"]}), ("PUT", {"email_addresses": ["bo@alder.example"]})):
        changed = {"data": {"values": values}}
        conforms(client.request(method, path, json=changed), RECORD, asked=changed)
    answer = client.put("/objects/people/records?matching_attribute=email_addresses", json=asked)
    conforms(answer, RECORDS, asked=asked)
    conforms(client.delete(path), RECORD)
    conforms(client.get(path), RECORD)
    conforms(client.delete(path), RECORD)


def test_attributes_are_listed_and_made_as_declared(client: httpx.Client) -> None:
    for object_slug in (PEOPLE, COMPANIES):
        conforms(client.get(f"/objects/{object_slug}/attributes"), ATTRIBUTES)
    asked = {
        "data": {
            "title": "Shoe size",
            "description": "In Paris points",
            "api_slug": "shoe_size",
            "type": "number",
            "is_required": False,
            "is_unique": False,
            "is_multiselect": False,
            "config": {},
        }
    }
    conforms(client.post("/objects/people/attributes", json=asked), ATTRIBUTES, asked=asked)
    conforms(client.post("/objects/people/attributes", json=asked), ATTRIBUTES, asked=asked)
    row = create(client, shoe_size=44)
    conforms(client.get(f"/objects/people/records/{row['id']['record_id']}"), RECORD)
    conforms(client.post("/objects/people/attributes", json={"data": {}}), ATTRIBUTES)
    conforms(client.post("/objects/deals/attributes", json=asked), ATTRIBUTES)


@pytest.mark.parametrize(
    ("method", "url", "path", "body"),
    [
        ("POST", "/objects/people/records/query", QUERY, {"filter": {"user_id": {"$neq": "x"}}}),
        ("POST", "/objects/deals/records/query", QUERY, {}),
        ("POST", "/objects/people/records", RECORDS, {"data": {"values": {"shoe_size": "44"}}}),
        ("POST", "/objects/deals/records", RECORDS, {"data": {"values": {}}}),
        ("PUT", "/objects/people/records?matching_attribute=x", RECORDS, {"data": {"values": {}}}),
        ("GET", f"/objects/people/records/{NOBODY}", RECORD, None),
        ("PATCH", f"/objects/people/records/{NOBODY}", RECORD, {"data": {"values": {}}}),
        ("PUT", f"/objects/people/records/{NOBODY}", RECORD, {"data": {"values": {}}}),
        ("DELETE", f"/objects/people/records/{NOBODY}", RECORD, None),
    ],
)
def test_refusals_have_the_declared_codes(client: httpx.Client, method: str, url: str, path: str, body: Any) -> None:
    answer = client.request(method, url, json=body)
    assert answer.status_code in (400, 404)
    conforms(answer, path)


def test_a_value_that_is_required_is_missed_as_declared() -> None:
    with running_attio(EMPTY) as rig:
        client = rig.client()
        row = create(client, name="Ada Quill")
        rig.state.alter_attribute(PEOPLE, "description", required=True)
        answer = client.post("/objects/people/records", json={"data": {"values": {"name": "Bo Tallow"}}})
        assert (answer.status_code, answer.json()["code"]) == (400, "missing_value")
        assert client.get(f"/objects/people/records/{row['id']['record_id']}").status_code == 200


def test_the_check_itself_sees_a_value_that_is_not_as_declared(client: httpx.Client) -> None:
    row = create(client, user_id="user_1")
    answer = client.get(f"/objects/people/records/{row['id']['record_id']}")
    body = answer.json()
    del body["data"]["values"]["user_id"][0]["active_from"]
    declared = SCHEMAS["paths"][RECORD]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    with pytest.raises(jsonschema.ValidationError):
        validator(declared).validate(body)
