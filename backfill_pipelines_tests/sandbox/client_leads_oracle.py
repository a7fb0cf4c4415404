"""What `client_leads` must hold after a backfill into an empty table, said a second time and as plainly as possible.

Belongs here: the rules of the plan as an independent statement, in dictionaries. Does not belong here: anything
imported from the product; a rule that is wrong there must not be wrong here for the same reason.

The rules, for one client and with its own token:
- one row per address: the lead's where the reply has a known lead, else the one the reply came from; addresses are
  equal when they are after trimming and lower-casing;
- of an address's replies the one with the highest id gives everything but `interested_at`, which is the earliest date;
- what is no address gives no row;
- names, company and phone are the lead's; a reply without a known lead gives its sender's name, split at the first
  space;
- text loses its NUL characters (Postgres cannot store them), and blank text is no text.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import phonenumbers
from email_validator import EmailNotValidError, validate_email

from backfill_pipelines.sandbox.email_bison_records import EmailBisonWorld, Lead, Reply

PHONE_NAMES = ("phone", "phone number", "cell phone", "mobile")


@dataclass(frozen=True)
class ExpectedClientLeads:
    """`rows`: normalised address -> columns. `rejected`: the distinct things that are no address, normalised."""

    rows: dict[str, dict[str, Any]]
    rejected: set[str]


def expected_client_leads(world: EmailBisonWorld, client_key: str) -> ExpectedClientLeads:
    """The rows of one client. `bison_instance` is left out: it is the host the client was read from."""
    _, workspace = world.client(client_key)
    leads = {lead.id: lead for lead in workspace.leads}
    by_address: dict[str, list[Reply]] = {}
    for reply in workspace.replies:
        if reply.interested:
            by_address.setdefault(_normalised(_address(reply, leads)), []).append(reply)
    rows = {}
    for address, replies in by_address.items():
        if not is_an_address(address):
            continue
        newest = max(replies, key=lambda reply: reply.id)
        lead = leads.get(newest.lead_id or 0)
        first_name, last_name = _names(newest, lead)
        rows[address] = {
            "workspace_name": workspace.name,
            "lead_email": (_address(newest, leads) or "").strip(),
            "first_name": first_name,
            "last_name": last_name,
            "company": None if lead is None else _text(lead.company),
            "phone": None if lead is None else _phone(lead, workspace.phone_region),
            "interested": True,
            "interested_at": min(_moment(reply) for reply in replies),
            "date_received": _moment(newest),
            "bison_reply_id": newest.id,
            "bison_lead_id": newest.lead_id,
            "bison_campaign_id": newest.campaign_id,
            "bison_workspace_id": workspace.id,
        }
    return ExpectedClientLeads(rows, {address for address in by_address if not is_an_address(address)})


def is_an_address(text: str) -> bool:
    """Whether mail could be sent there."""
    try:
        validate_email(text, check_deliverability=False, globally_deliverable=False)
    except EmailNotValidError:
        return False
    return "." in text.rpartition("@")[2]


def _address(reply: Reply, leads: dict[int, Lead]) -> str | None:
    if reply.lead_id is not None and reply.lead_id in leads:
        return leads[reply.lead_id].email
    return reply.from_email_address


def _normalised(address: str | None) -> str:
    return (address or "").strip().lower()


def _names(reply: Reply, lead: Lead | None) -> tuple[str | None, str | None]:
    if lead is not None:
        return _text(lead.first_name), _text(lead.last_name)
    first, _, last = (_text(reply.from_name) or "").partition(" ")
    return _text(first), _text(last)


def _phone(lead: Lead, region: str) -> str | None:
    for name, value in lead.custom_variables:
        if name.strip().lower() in PHONE_NAMES and _text(value) is not None:
            return _e164(value, region)
    return None


def _e164(text: str, region: str) -> str:
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return text
    if not phonenumbers.is_valid_number(number):
        return text
    return str(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164))


def _text(value: str | None) -> str | None:
    cleaned = (value or "").replace("\x00", "")
    return cleaned if cleaned.strip() else None


def _moment(reply: Reply) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=reply.received_at)
