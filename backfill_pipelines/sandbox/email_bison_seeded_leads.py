"""The leads of a seeded workspace.

Belongs here: what a lead's record looks like and how often it looks odd. Does not belong here: what leads write
(email_bison_seeded_replies.py).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from backfill_pipelines.sandbox.email_bison_records import MICROSECONDS_A_DAY, WORLD_BEGINS, Lead
from backfill_pipelines.sandbox.every import Every
from backfill_pipelines.sandbox.invented_people import (
    BROKEN_ADDRESSES,
    BROKEN_PHONES,
    COMPANIES,
    OTHER_LABELS,
    PEOPLE,
    PEOPLE_DOMAINS,
    PHONE_FORMATS,
    PHONE_LABELS,
)

SILENT_STATUSES = ("in_sequence", "sequence_finished", "never_contacted")

BROKEN_ADDRESS = Every(23, at=5)
SHARED_PERSON = Every(17, at=6)
"""The same address in every workspace that is large enough, on either instance."""
TWIN = Every(37, at=11)
TWIN_IN_CAPITALS = Every(37, at=12)
"""The record before it, entered once more in another case."""
CAPITALISED_ADDRESS = Every(7, at=2)
PADDED_ADDRESS = Every(9, at=4)
NON_ASCII_ADDRESS = Every(53, at=20)

NUL_IN_NAME = Every(19, at=3)
CONTROL_CHARACTERS_IN_COMPANY = Every(19, at=7)
NO_COMPANY = Every(31, at=9)
NO_FIRST_NAME = Every(41, at=17)
NO_LAST_NAME = Every(43, at=19)
IN_DELETED_CAMPAIGN = Every(29, at=11)
STOPPED_AFTER_REPLY = Every(13, at=0)
"""Wrote, but the campaign calls it stopped and not replied: a filter on `replied` misses it."""

NO_PHONE = Every(5, at=1)
BROKEN_PHONE = Every(11, at=8)
FIRST_PHONE_EMPTY = Every(13, at=2)
"""The first name that fits has an empty value, so the second one counts."""
TWO_PHONES = Every(13, at=7)

LOWEST_DIGITS, DIFFERENT_DIGITS = 5, 95
"""The two free digits of a phone number: 05 to 99, the range that every fictional block has."""


def make_leads(
    *,
    replied: int,
    silent_per_replied: float,
    campaign_ids: Sequence[int],
    deleted_campaign_id: int,
    phone_region: str,
    first_id: int,
    rng: random.Random,
) -> tuple[Lead, ...]:
    """Leads with the ids from `first_id` on; the first `replied` ones have written, the others never have."""
    offset = int(rng.random() * len(PEOPLE))
    formats = PHONE_FORMATS[phone_region]
    leads = []
    for number in range(replied + int(replied * silent_per_replied)):
        first, last, local = PEOPLE[(number + offset) % len(PEOPLE)]
        deleted = IN_DELETED_CAMPAIGN.holds(number)
        leads.append(
            Lead(
                first_id + number,
                _address(number, local),
                _first_name(number, first),
                None if NO_LAST_NAME.holds(number) else last,
                _company(number),
                _custom_variables(number, formats),
                deleted_campaign_id if deleted else campaign_ids[number % len(campaign_ids)],
                None if deleted else _campaign_status(number, replied=number < replied),
                WORLD_BEGINS - MICROSECONDS_A_DAY + number * 1_000_000,
            )
        )
    return tuple(leads)


def _address(number: int, local: str) -> str | None:
    if BROKEN_ADDRESS.holds(number):
        return BROKEN_ADDRESSES[BROKEN_ADDRESS.turn(number) % len(BROKEN_ADDRESSES)]
    if SHARED_PERSON.holds(number):
        return f"shared.{number}@crossroads.example"
    if TWIN.holds(number):
        return f"twin.{number}@mail.example.com"
    if TWIN_IN_CAPITALS.holds(number):
        return f"TWIN.{number - 1}@MAIL.EXAMPLE.COM"
    address = f"{local}.{number}@{PEOPLE_DOMAINS[number % len(PEOPLE_DOMAINS)]}"
    if NON_ASCII_ADDRESS.holds(number):
        return f"jürgen.{address}"
    if CAPITALISED_ADDRESS.holds(number):
        address = address.title()
    return f"  {address} " if PADDED_ADDRESS.holds(number) else address


def _first_name(number: int, first: str) -> str | None:
    if NO_FIRST_NAME.holds(number):
        return None
    return f"{first[:1]}\x00{first[1:]}" if NUL_IN_NAME.holds(number) else first


def _company(number: int) -> str | None:
    if NO_COMPANY.holds(number):
        return None
    if CONTROL_CHARACTERS_IN_COMPANY.holds(number):
        return "Under\x01score\x00 & \x1fCo"
    return COMPANIES[number % len(COMPANIES)]


def _campaign_status(number: int, *, replied: bool) -> str:
    if replied:
        return "sequence_stopped" if STOPPED_AFTER_REPLY.holds(number) else "replied"
    return SILENT_STATUSES[number % len(SILENT_STATUSES)]


def _custom_variables(number: int, formats: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Free-form variables: a phone under one of many names, before or after something else."""
    other = OTHER_LABELS[number % len(OTHER_LABELS)]
    if NO_PHONE.holds(number):
        return (other,) if number % 2 else ()
    label = PHONE_LABELS[number % len(PHONE_LABELS)]
    another = "mobile" if label != "mobile" else "Phone"
    digits = LOWEST_DIGITS + number % DIFFERENT_DIGITS
    if BROKEN_PHONE.holds(number):
        return ((label, BROKEN_PHONES[number % len(BROKEN_PHONES)].format(digits)), other)
    phone = formats[number % len(formats)].format(digits)
    if FIRST_PHONE_EMPTY.holds(number):
        return ((label, ""), other, (another, phone))
    if TWO_PHONES.holds(number):
        return (other, (label, phone), (another, formats[0].format(LOWEST_DIGITS)))
    return ((label, phone),) if number % 2 else (other, (label, phone))


__all__ = ["make_leads"]
