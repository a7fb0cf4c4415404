"""The oracle on worlds small enough to check by eye, and that the seeded world reaches every one of its rules."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from backfill_pipelines.sandbox.email_bison_data import build_email_bison_world
from backfill_pipelines.sandbox.email_bison_records import EmailBisonWorld, Instance, Lead, Reply, Workspace
from backfill_pipelines_tests.sandbox.client_leads_oracle import expected_client_leads, is_an_address

FIRST = datetime(2024, 1, 1, tzinfo=UTC)
SECOND = datetime(2024, 2, 1, tzinfo=UTC)


def lead(lead_id: int, email: str | None, *variables: tuple[str, str]) -> Lead:
    return Lead(lead_id, email, "Ann\x00a", " ", "Umber Books", variables, 5, "replied", 0)


def reply(reply_id: int, *, lead_id: int | None, received: datetime = FIRST, sender: str = "x@example.com") -> Reply:
    return Reply(
        id=reply_id,
        lead_id=lead_id,
        campaign_id=5,
        sender_email_id=None,
        from_name="Zoë van der Meersch",
        from_email_address=sender,
        received_at=int(received.timestamp()) * 1_000_000,
        interested=True,
        automated=False,
        read=True,
        folder="Inbox",
    )


def world_of(leads: Sequence[Lead], replies: Sequence[Reply]) -> EmailBisonWorld:
    workspace = Workspace(4, "Umber", "umber", "GB", "1|a", (), (), tuple(leads), tuple(replies))
    return EmailBisonWorld(1, (Instance("main", 1, "2|b", "3|c", (workspace,)),))


def test_a_leads_replies_are_one_row_with_the_highest_id_and_the_earliest_date() -> None:
    world = world_of(
        [lead(1, "  Ann@Example.com ", ("Phone", ""), ("mobile", "020 7946 0011"))],
        [reply(9, lead_id=1, received=SECOND), reply(7, lead_id=1, received=FIRST)],
    )
    expected = expected_client_leads(world, "umber")
    assert expected.rejected == set()
    assert expected.rows == {
        "ann@example.com": {
            "workspace_name": "Umber",
            "lead_email": "Ann@Example.com",
            "first_name": "Anna",
            "last_name": None,
            "company": "Umber Books",
            "phone": "+442079460011",
            "interested": True,
            "interested_at": FIRST,
            "date_received": SECOND,
            "bison_reply_id": 9,
            "bison_lead_id": 1,
            "bison_campaign_id": 5,
            "bison_workspace_id": 4,
        }
    }


def test_an_untracked_reply_is_keyed_by_its_sender_and_named_by_it() -> None:
    row = expected_client_leads(world_of([], [reply(9, lead_id=None, sender="Z@example.com")]), "umber").rows[
        "z@example.com"
    ]
    assert (row["first_name"], row["last_name"]) == ("Zoë", "van der Meersch")
    assert (row["company"], row["phone"], row["bison_lead_id"]) == (None, None, None)


def test_a_reply_from_another_address_is_the_leads_row() -> None:
    world = world_of([lead(1, "ann@example.com")], [reply(9, lead_id=1, sender="boss@example.com")])
    assert expected_client_leads(world, "umber").rows.keys() == {"ann@example.com"}


def test_a_phone_that_is_not_valid_stays_as_it_is() -> None:
    world = world_of([lead(1, "ann@example.com", ("CELL PHONE", "555-0112"))], [reply(9, lead_id=1)])
    assert expected_client_leads(world, "umber").rows["ann@example.com"]["phone"] == "555-0112"


def test_what_is_no_address_is_rejected_once() -> None:
    world = world_of(
        [lead(1, "not-an-address"), lead(2, " Not-An-Address"), lead(3, None)],
        [reply(9, lead_id=1), reply(8, lead_id=2), reply(7, lead_id=3)],
    )
    expected = expected_client_leads(world, "umber")
    assert (expected.rows, expected.rejected) == ({}, {"not-an-address", ""})


@pytest.mark.parametrize(
    ("text", "valid"),
    [("a@mail.example", True), ("jürgen@mail.example.com", True), ("a@localhost", False), ("a b@example.com", False)],
)
def test_an_address_has_a_dot_in_its_domain_and_no_space(text: str, valid: bool) -> None:
    assert is_an_address(text) is valid


def test_the_seeded_world_reaches_every_rule() -> None:
    world = build_email_bison_world(seed=1, clients=6)
    everything = [expected_client_leads(world, key) for key in world.client_keys()]
    rows = [row for each in everything for row in each.rows.values()]
    assert {"", "not-an-address", "two@at@signs.example", "nodot@localhost"} <= set().union(
        *(each.rejected for each in everything)
    )
    assert any(row["phone"] is None for row in rows)
    assert any((row["phone"] or "").startswith("+") for row in rows)
    assert any(row["phone"] and not row["phone"].startswith("+") for row in rows)
    assert any(row["bison_lead_id"] is None for row in rows)
    assert any(row["interested_at"] < row["date_received"] for row in rows)
    assert any(row["lead_email"] != row["lead_email"].lower() for row in rows)
    assert not any("\x00" in str(value) for row in rows for value in row.values())
