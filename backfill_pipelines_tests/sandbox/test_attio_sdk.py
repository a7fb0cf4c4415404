"""The PyPI client `attio` drives the fake, as it would drive the vendor."""

from __future__ import annotations

from collections.abc import Iterator
from email.utils import parsedate_to_datetime

import attio
import httpx
import pytest
from attio import errors, models

from backfill_pipelines.sandbox.attio_limits import AttioLimits
from backfill_pipelines_tests.sandbox.attio_rig import EMPTY, WORKSPACE, AttioRig, running_attio


@pytest.fixture(scope="module")
def serving() -> Iterator[AttioRig]:
    with running_attio() as rig:
        yield rig


@pytest.fixture
def rig(serving: AttioRig) -> AttioRig:
    serving.server.reset()
    return serving


@pytest.fixture
def sdk(rig: AttioRig) -> Iterator[attio.SDK]:
    with httpx.Client(verify=False) as http, attio.SDK(oauth2=rig.seeded.token, server_url=rig.url, client=http) as sdk:
        yield sdk


def test_it_identifies_itself(rig: AttioRig, sdk: attio.SDK) -> None:
    token = sdk.meta.get_v2_self()
    assert isinstance(token, models.AttioCom)
    assert token.workspace_id == rig.seeded.id


def test_it_pages_through_people_and_reads_every_value(sdk: attio.SDK) -> None:
    found = []
    while True:
        page = sdk.records.post_v2_objects_object_records_query(
            object="people",
            sorts=[{"direction": "asc", "attribute": "created_at"}],
            limit=20,
            offset=len(found),
        )
        found += page.data
        if len(page.data) < 20:
            break
    assert [each.id.record_id for each in found] == [
        each.record_id for each in sorted(WORKSPACE.people, key=lambda each: (each.created_at, each.record_id))
    ]
    addresses = [value.email_address for each in found for value in each.values["email_addresses"]]
    assert sorted(addresses) == sorted(address.lower() for each in WORKSPACE.people for address in each.addresses)


def test_it_creates_changes_asserts_and_deletes_a_person(rig: AttioRig, sdk: attio.SDK) -> None:
    values = {"email_addresses": ["ada@alder.example"], "user_id": ["user_1"]}
    created = sdk.records.post_v2_objects_object_records(object="people", data={"values": values}).data
    record_id = created.id.record_id
    changed = sdk.records.patch_v2_objects_object_records_record_id_(
        object="people", record_id=record_id, data={"values": {"user_id": ["user_2"]}}
    ).data
    assert [value.value for value in changed.values["user_id"]] == ["user_2"]
    asserted = sdk.records.put_v2_objects_object_records(
        object="people", matching_attribute="email_addresses", data={"values": values}
    ).data
    assert asserted.id.record_id == record_id
    sdk.records.delete_v2_objects_object_records_record_id_(object="people", record_id=record_id)
    with pytest.raises(errors.SDKError) as refusal:
        sdk.records.get_v2_objects_object_records_record_id_(object="people", record_id=record_id)
    assert refusal.value.status_code == 404
    assert record_id not in rig.state.tables["people"].records


def test_it_lists_and_makes_attributes() -> None:
    with (
        running_attio(EMPTY._replace(user_id_attribute=False)) as rig,
        httpx.Client(verify=False) as http,
        attio.SDK(oauth2=rig.seeded.token, server_url=rig.url, client=http) as sdk,
    ):
        before = sdk.attributes.get_v2_target_identifier_attributes(target="objects", identifier="people").data
        assert "user_id" not in {each.api_slug for each in before}
        made = sdk.attributes.post_v2_target_identifier_attributes(
            target="objects",
            identifier="people",
            data={
                "title": "Clerk user ID",
                "description": None,
                "api_slug": "user_id",
                "type": "text",
                "is_required": False,
                "is_unique": False,
                "is_multiselect": False,
                "config": {},
            },
        ).data
        after = sdk.attributes.get_v2_target_identifier_attributes(target="objects", identifier="people").data
        assert after == [*before, made]


def test_it_understands_a_filter_error_and_a_missing_scope(rig: AttioRig, sdk: attio.SDK) -> None:
    with pytest.raises(errors.PostV2ObjectsObjectRecordsQueryFilterError):
        sdk.records.post_v2_objects_object_records_query(object="people", filter_={"user_id": {"$neq": "x"}})
    rig.vendor.state.set_scopes(rig.seeded.token, ["record_permission:read", "object_configuration:read"])
    with pytest.raises(errors.SDKError) as refusal:
        sdk.records.post_v2_objects_object_records(object="people", data={"values": {}})
    assert refusal.value.status_code == 403


def test_it_gets_the_429_with_a_date() -> None:
    with (
        running_attio(EMPTY, limits=AttioLimits(reads=1)) as rig,
        httpx.Client(verify=False) as http,
        attio.SDK(oauth2=rig.seeded.token, server_url=rig.url, client=http) as sdk,
    ):
        rig.server.add_faults([{"kind": "rate_limited", "nth": 2}])
        sdk.meta.get_v2_self()
        with pytest.raises(errors.SDKError) as refusal:
            sdk.meta.get_v2_self()
        assert refusal.value.status_code == 429
        assert parsedate_to_datetime(refusal.value.headers["Retry-After"]) is not None
