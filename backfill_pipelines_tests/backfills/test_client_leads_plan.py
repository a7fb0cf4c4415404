"""The rules of the plan of `client_leads`, one case each."""

from __future__ import annotations

from typing import Any

import pytest

from backfill_pipelines.backfills.client_leads_grouping import split_name
from backfill_pipelines.backfills.client_leads_source import phone_of
from backfill_pipelines_tests.backfills.planned_table import (
    ELSEWHERE,
    INSTANCE,
    Row,
    by_key,
    existing,
    lead,
    plan,
    reply,
    source_of,
    workspace,
)

ANN, BO, CY = "ann@example.com", "bo@example.com", "cy@example.com"


def only_lead(replies: list[Row], leads: list[Row], **of: Any) -> Any:
    (found,) = source_of(replies, leads, of=workspace(**of)).leads
    return found


def holding(row_id: str, email: str, reply_id: int, **values: Any) -> Row:
    return existing(row_id, email, **{"bison_reply_id": reply_id, "bison_instance": INSTANCE, **values})


# --- who a reply is from ----------------------------------------------------------------------------------------------


def test_a_known_lead_counts_under_its_own_address_whoever_has_answered() -> None:
    found = only_lead([reply(1, lead_id=4, from_email_address="boss@example.com")], [lead(4, "Ann@Example.com")])
    assert (found.key, found.lead_email, found.lead_id) == (ANN, "Ann@Example.com", 4)


def test_a_lead_that_the_workspace_has_no_more_counts_under_the_address_that_wrote() -> None:
    found = only_lead([reply(1, lead_id=4, from_email_address="Boss@example.com")], [lead(4, None, known=False)])
    assert (found.key, found.lead_id) == ("boss@example.com", 4)


@pytest.mark.parametrize("spelling", [" Ann@Example.com\t", "\ufeffAnn@Example.com", "\x00Ann@Example.com\u00a0\x1f"])
def test_the_stored_address_is_trimmed_as_its_key_is(spelling: str) -> None:
    found = only_lead([reply(1, lead_id=4)], [lead(4, spelling)])
    assert (found.key, found.lead_email) == (ANN, "Ann@Example.com")


def test_two_leads_of_one_address_are_one_row_in_the_newest_ones_spelling() -> None:
    replies = [reply(8, lead_id=1), reply(9, lead_id=2), reply(7, from_email_address="aNN@example.com")]
    found = only_lead(replies, [lead(1, "ANN@example.com"), lead(2, "Ann@example.com", company="Umber")])
    assert (found.lead_email, found.lead_id, found.reply_id, found.company) == ("Ann@example.com", 2, 9, "Umber")


def test_the_highest_reply_id_wins_and_the_earliest_date_is_when_interest_began() -> None:
    replies = [reply(i, lead_id=1, date_received=float(date)) for i, date in ((3, 50), (9, 40), (5, 10))]
    found = only_lead(replies, [lead(1, ANN)])
    assert (found.reply_id, found.date_received, found.interested_at) == (9, 40.0, 10.0)


def test_a_reply_without_a_date_takes_no_part_in_dates() -> None:
    found = only_lead([reply(1, lead_id=1, date_received=5.0), reply(2, lead_id=1, date_received=None)], [lead(1, ANN)])
    assert (found.reply_id, found.date_received, found.interested_at) == (2, None, 5.0)


def test_each_bad_address_is_one_reject_however_many_wrote_from_it() -> None:
    bad = ["nobody", " NOBODY ", "nobody\x00", "", None, " ", "two@at@signs.example", "x@localhost"]
    planned = plan([reply(i, from_email_address=text) for i, text in enumerate(bad, 1)], [], [], of=workspace())
    assert by_key(planned) == dict.fromkeys(
        ["nobody", "(no address)", "two@at@signs.example", "x@localhost"], ("reject", "invalid_email")
    )


def test_replies_of_unknown_campaigns_count_under_an_own_token_and_are_rejected_under_the_admins() -> None:
    replies = [reply(1, known=False, from_email_address=ANN), reply(2, from_email_address=BO)]
    assert by_key(plan(replies, [], [], of=workspace())) == {ANN: ("create", None), BO: ("create", None)}
    assert by_key(plan(replies, [], [], of=workspace(accepts_unknown=False))) == {
        "reply 1": ("reject", "unknown_campaign"),
        BO: ("create", None),
    }


# --- names and phones -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("from_name", "names"),
    [
        ("Zoë van der Meersch", ("Zoë", "van der Meersch")),
        ("  Zoë   van der Meersch ", ("Zoë", "van der Meersch")),
        ("王明珠", ("王明珠", None)),
        ("王 明珠", ("王", "明珠")),
        ("ليلى الحداد", ("ليلى", "الحداد")),
        ("สมชาย ใจงาม", ("สมชาย", "ใจงาม")),
        ("Sunny ☀️🙂 Brightfield", ("Sunny", "☀️🙂 Brightfield")),
        ('Robert "Bo" Tallow, Jr.', ("Robert", '"Bo" Tallow, Jr.')),
        ("Bell\x07 Tower\x1b", ("Bell\x07", "Tower\x1b")),
        ("Cher ", ("Cher", None)),
        ("   ", (None, None)),
        ("", (None, None)),
        (None, (None, None)),
    ],
)
def test_an_untracked_senders_name_is_split_at_its_first_space(
    from_name: str | None, names: tuple[str | None, str | None]
) -> None:
    assert split_name(from_name) == names


def test_an_untracked_sender_has_names_only_and_a_lead_never_gets_them() -> None:
    untracked = only_lead([reply(1, from_name="Ann Quill", from_email_address=ANN)], [])
    assert (untracked.first_name, untracked.last_name, untracked.company, untracked.phone) == (
        "Ann",
        "Quill",
        None,
        None,
    )
    tracked = only_lead([reply(1, lead_id=1, from_name="Ann Quill")], [lead(1, ANN, first_name=" ", last_name=None)])
    assert (tracked.first_name, tracked.last_name) == (None, None)


@pytest.mark.parametrize(
    "name", ["phone", "Phone Number", "CELL PHONE", "mobile", " Mobile ", "phone_number", "cell  phone"]
)
def test_a_phone_is_found_under_each_of_its_names(name: str) -> None:
    assert phone_of([{"name": "City", "value": "x"}, {"name": name, "value": " 555-0101 "}]) == "555-0101"


@pytest.mark.parametrize("name", ["telephone", "phone type", "fax", "mobile app", "phones", "", "\u200bphone"])
def test_other_variables_are_no_phones(name: str) -> None:
    assert phone_of([{"name": name, "value": "555-0101"}]) is None


@pytest.mark.parametrize(
    ("variables", "phone"),
    [
        ([{"name": "Phone", "value": ""}, {"name": "mobile", "value": "2"}, {"name": "cell phone", "value": "3"}], "2"),
        ([{"name": "Phone", "value": None}, {"name": "mobile", "value": " \x00 "}], None),
        ([{"name": "Phone", "value": 2055550101}], "2055550101"),
        ([{"name": "Phone", "value": True}, {"name": "Phone", "value": ["x"]}], None),
        ([{"name": "Phone"}, {"value": "1"}, "Phone", None, {"name": 5, "value": "1"}], None),
        ({"Phone": "555-0101"}, None),
        (None, None),
    ],
)
def test_the_first_phone_that_is_not_empty_counts_whatever_stands_around_it(variables: Any, phone: str | None) -> None:
    assert phone_of(variables) == phone


@pytest.mark.parametrize(
    ("raw", "stored"),
    [
        ("(205) 555-0101", "+12055550101"),
        ("+44 20 7946 0011", "+442079460011"),
        (" 555-0101 ", "555-0101"),
        ("n/a", "n/a"),
    ],
)
def test_a_phone_is_stored_as_e164_where_it_is_valid_and_else_as_it_is(raw: str, stored: str) -> None:
    assert only_lead([reply(1, lead_id=1)], [lead(1, ANN, phone=raw)]).phone == stored


# --- against the table ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", [ANN, "ANN@example.com", " Ann@Example.COM ", "ann@example.com\u00a0"])
def test_a_row_is_found_in_any_spelling_and_keeps_its_own(spelling: str) -> None:
    (planned,) = plan([reply(1, from_email_address=ANN)], [], [existing("1", spelling)], of=workspace())
    assert (planned["action"], planned["before"]["id"]) == ("update", "1")
    assert "lead_email" not in planned["after"]


def test_rows_without_an_address_are_left_alone() -> None:
    table = [existing("1", None), existing("2", "  ")]
    assert by_key(plan([reply(1, from_email_address=ANN)], [], table, of=workspace())) == {ANN: ("create", None)}


def test_two_living_rows_of_one_lead_are_a_conflict_and_a_deleted_one_beside_it_is_not() -> None:
    replies = [reply(1, from_email_address=ANN)]
    two = [existing("1", ANN), existing("2", "ANN@example.com")]
    assert by_key(plan(replies, [], two, of=workspace())) == {ANN: ("conflict", "duplicate_rows")}
    two[0]["deleted_at"] = 1.0
    (planned,) = plan(replies, [], two, of=workspace())
    assert (planned["action"], planned["before"]["id"]) == ("update", "2")


def test_an_update_writes_only_what_has_to_change() -> None:
    row = holding("1", ANN, 3, first_name="Annie", company=" ", interested=False, interested_at=5.0, date_received=3.0)
    leads = [lead(1, ANN, first_name="Ann", company="Umber", phone="(205) 555-0101")]
    (planned,) = plan([reply(3, lead_id=1)], leads, [row], of=workspace())
    assert planned["after"] == {
        "company": "Umber",
        "phone": "+12055550101",
        "interested": True,
        "interested_at": "1970-01-01T00:00:00.000003+00:00",
    }
    assert set(planned["before"]) == {*planned["after"], "id", "updated_at"}


def test_an_older_reply_moves_nothing_of_a_row_that_knows_a_newer_one() -> None:
    row = holding("1", ANN, 9, interested_at=1.0, date_received=9.0, bison_campaign_id=77, bison_lead_id=70)
    assert by_key(plan([reply(3, from_email_address=ANN)], [], [row], of=workspace())) == {ANN: ("skip", "unchanged")}


def test_a_newer_reply_moves_all_that_tells_of_it_even_to_nothing() -> None:
    row = holding("1", ANN, 3, interested_at=1.0, date_received=3.0, bison_campaign_id=77, bison_lead_id=70)
    (planned,) = plan([reply(9, from_email_address=ANN, campaign_id=None)], [], [row], of=workspace())
    assert planned["after"] == {
        "date_received": "1970-01-01T00:00:00.000009+00:00",
        "bison_reply_id": 9,
        "bison_lead_id": None,
        "bison_campaign_id": None,
        "bison_workspace_id": 17,
    }


# --- a reply id that another row holds --------------------------------------------------------------------------------


def test_a_reply_that_another_row_holds_is_a_conflict() -> None:
    table = [holding("1", BO, 5)]
    assert by_key(plan([reply(5, from_email_address=ANN)], [], table, of=workspace())) == {
        ANN: ("conflict", "reply_id_taken")
    }


@pytest.mark.parametrize("deleted_at", [None, 1.0])
def test_another_clients_row_and_a_deleted_one_hold_a_reply_too(deleted_at: float | None) -> None:
    table = [holding("1", BO, 5, workspace_name="Quarry Lane", deleted_at=deleted_at)]
    assert by_key(plan([reply(5, from_email_address=ANN)], [], table, of=workspace()))[ANN][1] == "reply_id_taken"


def test_the_same_id_on_another_instance_is_another_reply_unless_the_table_thinks_otherwise() -> None:
    table = [holding("1", BO, 5, bison_instance=ELSEWHERE, workspace_name="Quarry Lane")]
    replies = [reply(5, from_email_address=ANN)]
    assert by_key(plan(replies, [], table, of=workspace()))[ANN] == ("create", None)
    alone = workspace(reply_ids_unique_alone=True)
    assert by_key(plan(replies, [], table, of=alone))[ANN] == ("conflict", "reply_id_taken")


@pytest.mark.parametrize(("of_client", "taken"), [("Umber Books", True), ("Quarry Lane", False)])
def test_a_row_that_names_no_instance_holds_a_reply_of_its_own_client_only(of_client: str, taken: bool) -> None:
    table = [holding("1", BO, 5, bison_instance=None, workspace_name=of_client)]
    planned = by_key(plan([reply(5, from_email_address=ANN)], [], table, of=workspace()))
    assert (planned[ANN][1] == "reply_id_taken") is taken


def test_a_chain_of_rows_that_all_move_on_is_free() -> None:
    table = [holding("1", ANN, 1), holding("2", BO, 2), holding("3", CY, 3)]
    replies = [reply(2, from_email_address=ANN), reply(3, from_email_address=BO), reply(4, from_email_address=CY)]
    assert {row["action"] for row in plan(replies, [], table, of=workspace())} == {"update"}


def test_a_chain_whose_last_row_stays_is_taken_to_its_beginning() -> None:
    table = [holding("1", ANN, 1), holding("2", BO, 2), holding("3", CY, 3), holding("4", "dee@example.com", 4)]
    replies = [reply(2, from_email_address=ANN), reply(3, from_email_address=BO), reply(4, from_email_address=CY)]
    assert by_key(plan(replies, [], table, of=workspace())) == dict.fromkeys(
        [ANN, BO, CY], ("conflict", "reply_id_taken")
    )
