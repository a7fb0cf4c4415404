"""The fake GoHighLevel's answers, and our client's requests, against the vendor's own OpenAPI file.

`openapi/ghl-contacts.json` is an extract of what the vendor publishes (github.com/GoHighLevel/highlevel-api-docs,
apps/contacts.json and common/common-schemas.json): the operations used here with their schemas, without descriptions
and examples. It says nothing of the body of a search, nor of the rows of its answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from backfill_pipelines.vendors.gohighlevel import API_VERSION, BASE_URL
from backfill_pipelines_tests.sandbox.gohighlevel_rig import LOCATION, GoHighLevelRig, location, running_gohighlevel

DOCUMENT = json.loads((Path(__file__).parent / "openapi" / "ghl-contacts.json").read_text(encoding="utf-8"))
CONTACT, DUPLICATE, SEARCH = "/contacts/{contactId}", "/contacts/search/duplicate", "/contacts/search"
UNDECLARED = {"additionalEmails", "additionalPhones"}
"""What live answers have and the file lacks (highlevel-api-docs#289)."""


def conforms(answer: httpx.Response, path: str, method: str = "get") -> Any:
    """Check the answer against what the operation declares for its status; returns the body."""
    declared = DOCUMENT["paths"][path][method]["responses"][str(answer.status_code)]
    content = declared.get("content")
    if content is not None:
        schema = {**content["application/json"]["schema"], "components": DOCUMENT["components"]}
        jsonschema.Draft202012Validator(schema).validate(answer.json())
    return answer.json()


@pytest.fixture(scope="module")
def rig() -> Iterator[GoHighLevelRig]:
    with running_gohighlevel(location(400)) as running:
        yield running


def test_every_contact_by_its_id_is_as_the_vendor_declares_it(rig: GoHighLevelRig) -> None:
    client = rig.client()
    declared = DOCUMENT["components"]["schemas"]["GetContectByIdSchema"]["properties"].keys()
    for number in range(120):
        contact = conforms(client.get(f"/contacts/{rig.seeded.contact_id(number)}"), CONTACT)["contact"]
        assert contact.keys() <= declared | UNDECLARED


def test_refusals_are_as_the_vendor_declares_them(rig: GoHighLevelRig) -> None:
    unknown = rig.client(token="pit-unknown")
    body = conforms(unknown.get("/contacts/c1"), CONTACT)
    assert body == {
        "statusCode": 401,
        "message": "Invalid token: access token is invalid",
        "error": "Unauthorized",
    }
    assert conforms(rig.client().get("/contacts/c1"), CONTACT)["statusCode"] == 400
    assert conforms(rig.client().get(DUPLICATE), DUPLICATE)["statusCode"] == 400
    conforms(unknown.get(DUPLICATE, params={"locationId": LOCATION}), DUPLICATE)
    assert conforms(unknown.post(SEARCH, json={"locationId": LOCATION, "pageLimit": 1}), SEARCH, "post")
    schema = {"$ref": "#/components/schemas/UnprocessableDTO", "components": DOCUMENT["components"]}
    refused = rig.post(locationId=None, pageLimit=None)
    assert refused.status_code == 422
    jsonschema.Draft202012Validator(schema).validate(refused.json())


def test_successes_have_the_status_that_is_declared(rig: GoHighLevelRig) -> None:
    assert conforms(rig.post(), SEARCH, "post")["total"] == 400
    found = rig.client().get(DUPLICATE, params={"locationId": LOCATION, "email": "a@umber.test"})
    assert conforms(found, DUPLICATE) == {"contact": None}


def test_what_the_client_sends_stands_in_the_declaration() -> None:
    for path, operations in DOCUMENT["paths"].items():
        (operation,) = operations.values()
        (version,) = (each for each in operation["parameters"] if each["name"] == "Version")
        assert version["schema"]["enum"] == [API_VERSION], path
        assert operation["security"] == [{"bearer": ["contacts.readonly"]}]
    parameters = {each["name"] for each in DOCUMENT["paths"][DUPLICATE]["get"]["parameters"]}
    assert {"locationId", "email"} <= parameters
    assert DOCUMENT["servers"] == [{"url": BASE_URL}]


def test_the_check_would_notice_a_wrong_answer(rig: GoHighLevelRig) -> None:
    answer = rig.client().get(f"/contacts/{rig.seeded.contact_id(1)}")
    for field, value in (("firstName", 7), ("tags", "none"), ("dnd", "no"), ("email", None)):
        spoilt = answer.json()
        spoilt["contact"][field] = value
        with pytest.raises(jsonschema.ValidationError):
            conforms(httpx.Response(200, json=spoilt), CONTACT)
