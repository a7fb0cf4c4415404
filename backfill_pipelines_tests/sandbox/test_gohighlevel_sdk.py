"""GoHighLevel's own Python SDK (`gohighlevel-api-client`) drives the fake: what it can read, it reads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from highlevel import GHLError, HighLevel

from backfill_pipelines_tests.sandbox.gohighlevel_rig import (
    LOCATION,
    TOKEN,
    GoHighLevelRig,
    location,
    running_gohighlevel,
)


@pytest.fixture(scope="module")
def rig() -> Iterator[GoHighLevelRig]:
    with running_gohighlevel(location(900)) as running:
        yield running


def ask(rig: GoHighLevelRig, question: Callable[[Any], Awaitable[Any]], *, token: str = TOKEN) -> Any:
    class AtTheFake(HighLevel):  # type: ignore[misc] # untyped
        BASE_URL = rig.url

    async def asked() -> Any:
        sdk = AtTheFake(private_integration_token=token)
        try:
            return await question(sdk.contacts)
        finally:
            await sdk.http_client.aclose()

    return asyncio.run(asked())


def test_it_scans_a_location_with_its_own_version_of_the_api(rig: GoHighLevelRig) -> None:
    async def scan(contacts: Any) -> list[str]:
        body: dict[str, Any] = {
            "locationId": LOCATION,
            "pageLimit": 500,
            "sort": [{"field": "dateAdded", "direction": "asc"}],
        }
        found: list[str] = []
        while rows := (await contacts.search_contacts_advanced(body))["contacts"]:
            found += [row["id"] for row in rows]
            body["searchAfter"] = rows[-1]["searchAfter"]
        return found

    assert ask(rig, scan) == [contact.id for contact in rig.seeded.seeded_contacts()]


def test_it_reads_one_contact_and_a_duplicate(rig: GoHighLevelRig) -> None:
    seeded = rig.seeded.contact(2)

    async def read(contacts: Any) -> tuple[Any, Any]:
        return (
            await contacts.get_contact(contact_id=seeded.id),
            await contacts.get_duplicate_contact(location_id=LOCATION, email=seeded.email),
        )

    by_id, duplicate = ask(rig, read)
    assert by_id["contact"]["id"] == duplicate["contact"]["id"] == seeded.id
    assert by_id["contact"]["firstName"] == seeded.first_name


@pytest.mark.parametrize(("token", "status"), [("pit-unknown", 401), (TOKEN, 400)])
def test_it_understands_the_refusals(rig: GoHighLevelRig, token: str, status: int) -> None:
    with pytest.raises(GHLError) as refused:
        ask(rig, lambda contacts: contacts.get_contact(contact_id="cNobody"), token=token)
    assert refused.value.status_code == status


def test_what_it_writes_is_refused_and_counted(rig: GoHighLevelRig) -> None:
    before = rig.vendor.writes
    with pytest.raises(GHLError):
        ask(rig, lambda contacts: contacts.upsert_contact({"locationId": LOCATION, "email": "a@umber.test"}))
    assert rig.vendor.writes > before
