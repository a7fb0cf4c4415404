"""How Email Bison writes its records and pages in JSON.

Belongs here: the shape of a row, of a page (15 rows whatever is asked) and of the vendor's error bodies. Does not
belong here: which rows are chosen, who may see them. The shapes are those of the vendor's OpenAPI examples and of
observed answers; fields that no consumer reads are left out.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from backfill_pipelines.sandbox.email_bison_records import Campaign, Lead, Reply, SenderEmail
from backfill_pipelines.sandbox.email_bison_state import InstanceState, WorkspaceState
from backfill_pipelines.sandbox.exchange import Answer, RefusalError
from backfill_pipelines.sandbox.invented_people import SUBJECTS, TEXTS

Row = dict[str, Any]

ROWS_A_PAGE = 15
PAGES_EACH_SIDE = 3
"""Numbered links around the current page (Laravel's default)."""
LONGEST_FULL_LINKS = 13
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def timestamp(microseconds: int) -> str:
    """Microseconds since 1970 as the vendor writes them: `2024-09-21T02:10:42.000000Z`."""
    return (_EPOCH + timedelta(microseconds=microseconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def stable_uuid(*parts: object) -> str:
    """A UUID that is always the same for the same record."""
    digest = hashlib.blake2b(":".join(map(str, parts)).encode(), digest_size=16).digest()
    return str(uuid.UUID(bytes=digest, version=4))


# --- rows ------------------------------------------------------------------------------------------------------------


def reply_row(reply: Reply, workspace: WorkspaceState, instance: InstanceState) -> Row:
    """A reply. Nothing in it names the workspace: the real API has no such field either."""
    text = TEXTS[reply.id % len(TEXTS)]
    sender = workspace.sender_emails.get(reply.sender_email_id or 0)
    to_address = sender.email if sender is not None else None
    return {
        "id": reply.id,
        "uuid": stable_uuid(instance.name, "reply", reply.id),
        "folder": reply.folder,
        "subject": SUBJECTS[reply.id % len(SUBJECTS)].replace("{company}", workspace.name),
        "read": reply.read,
        "interested": reply.interested,
        "automated_reply": reply.automated,
        "html_body": f"<div>{text}</div>",
        "text_body": text,
        "raw_body": None,
        "headers": None,
        "date_received": timestamp(reply.received_at),
        "type": "Outgoing Email" if reply.folder == "Sent" else _incoming_type(reply),
        "tracked_reply": reply.lead_id is not None,
        "scheduled_email_id": None if reply.lead_id is None else reply.id + 700_000,
        "campaign_id": reply.campaign_id,
        "lead_id": reply.lead_id,
        "sender_email_id": reply.sender_email_id,
        "raw_message_id": f"<{stable_uuid(instance.name, 'message', reply.id)}@mail.example.com>",
        "from_name": reply.from_name,
        "from_email_address": reply.from_email_address,
        "primary_to_email_address": to_address,
        "to": [{"name": sender.name, "address": to_address}] if sender is not None else [],
        "cc": None,
        "bcc": None,
        "parent_id": None,
        "attachments": [],
        "created_at": timestamp(reply.received_at),
        "updated_at": timestamp(reply.received_at),
    }


def _incoming_type(reply: Reply) -> str:
    if reply.folder == "Bounced":
        return "Bounced"
    return "Tracked Reply" if reply.lead_id is not None else "Untracked Reply"


def lead_row(lead: Lead, workspace: WorkspaceState) -> Row:
    """A lead. Its phone is in a custom variable, if anywhere; `status` is that of the address, not interest."""
    replies = workspace.reply_count(lead.id)
    in_campaign = lead.campaign_status is not None and lead.campaign_id in workspace.campaigns
    campaign_data = {"campaign_id": lead.campaign_id, "status": lead.campaign_status, "replies": replies}
    return {
        "id": lead.id,
        "first_name": lead.first_name,
        "last_name": lead.last_name,
        "email": lead.email,
        "title": None,
        "company": lead.company,
        "notes": None,
        "status": "verified",
        "custom_variables": [{"name": name, "value": value} for name, value in lead.custom_variables],
        "lead_campaign_data": [campaign_data] if in_campaign else [],
        "overall_stats": {
            "emails_sent": replies + 2,
            "opens": 0,
            "replies": replies,
            "unique_replies": min(replies, 1),
            "unique_opens": 0,
        },
        "tags": [],
        "created_at": timestamp(lead.created_at),
        "updated_at": timestamp(lead.created_at),
    }


def campaign_row(campaign: Campaign, instance: InstanceState) -> Row:
    """A campaign."""
    return {
        "id": campaign.id,
        "uuid": stable_uuid(instance.name, "campaign", campaign.id),
        "name": campaign.name,
        "type": "outbound",
        "status": campaign.status,
        "tags": [],
        "created_at": "2024-01-02T09:00:00.000000Z",
        "updated_at": "2024-01-02T09:00:00.000000Z",
    }


def sender_email_row(sender: SenderEmail) -> Row:
    """A mailbox."""
    return {
        "id": sender.id,
        "name": sender.name,
        "email": sender.email,
        "status": "Connected",
        "daily_limit": 30,
        "tags": [],
        "created_at": "2024-01-02T09:00:00.000000Z",
        "updated_at": "2024-01-02T09:00:00.000000Z",
    }


def workspace_row(workspace: WorkspaceState, *, main: bool) -> Row:
    """A workspace, as the list of workspaces and the user's `team` show it."""
    return {
        "id": workspace.id,
        "name": workspace.name,
        "personal_team": main,
        "main": main,
        "parent_id": None,
        "total_monthly_email_verification_credits": 0,
        "remaining_monthly_email_verification_credits": 0,
        "sender_email_limit": 100_000,
        "warmup_limit": 100_000,
        "has_access_to_warmup": False,
        "created_at": "2024-01-01T08:00:00.000000Z",
        "updated_at": "2024-01-01T08:00:00.000000Z",
    }


# --- pages -----------------------------------------------------------------------------------------------------------


def page_number(asked: str | None) -> int:
    """The page asked for; anything that is not a positive number is the first one."""
    return max(1, int(asked)) if asked is not None and asked.isascii() and asked.isdigit() else 1


def page_envelope(rows: Sequence[Row], *, total: int, page: int, url: str) -> Row:
    """Laravel's page around at most 15 rows. Links lose the filters: whether the real ones keep them is not known."""
    last = max(1, -(-total // ROWS_A_PAGE))
    first_row = (page - 1) * ROWS_A_PAGE + 1

    def link(number: int | None) -> str | None:
        return None if number is None else f"{url}?page={number}"

    previous_page = page - 1 if page > 1 else None
    next_page = page + 1 if page < last else None
    return {
        "data": rows,
        "links": {"first": link(1), "last": link(last), "prev": link(previous_page), "next": link(next_page)},
        "meta": {
            "current_page": page,
            "from": first_row if rows else None,
            "last_page": last,
            "links": [
                {"url": link(previous_page), "label": "&laquo; Previous", "active": False},
                *(
                    {"url": link(number), "label": "..." if number is None else str(number), "active": number == page}
                    for number in _numbered_links(page, last)
                ),
                {"url": link(next_page), "label": "Next &raquo;", "active": False},
            ],
            "per_page": ROWS_A_PAGE,
            "to": first_row + len(rows) - 1 if rows else None,
            "total": total,
        },
    }


def _numbered_links(page: int, last: int) -> list[int | None]:
    """The pages that get a numbered link; None stands for a gap."""
    if last <= LONGEST_FULL_LINKS:
        return list(range(1, last + 1))
    shown = {1, 2, last - 1, last, *range(page - PAGES_EACH_SIDE, page + PAGES_EACH_SIDE + 1)}
    numbers: list[int | None] = []
    previous = 0
    for number in sorted(each for each in shown if 1 <= each <= last):
        if number > previous + 1:
            numbers.append(None)
        numbers.append(number)
        previous = number
    return numbers


# --- errors ----------------------------------------------------------------------------------------------------------

FOREIGN_RECORD = "This action is unauthorized. The api key does not match the workspace the record is on."


def unauthenticated() -> RefusalError:
    """401: no token, an unknown one, or one that has expired."""
    return RefusalError(Answer.json(401, {"message": "Unauthenticated."}))


def forbidden(message: str = "This action is unauthorized.") -> RefusalError:
    """403."""
    return RefusalError(Answer.json(403, {"data": {"success": False, "message": message}}))


def record_not_found(model: str, key: str) -> RefusalError:
    """404 of a record."""
    body = {"success": False, "message": "Record not found.", "record_not_found": {model: key}}
    return RefusalError(Answer.json(404, {"data": body}))


def route_not_found(path: str) -> Answer:
    """404 of a path: `The route api/webhooks could not be found.`"""
    return Answer.json(404, {"message": f"The route {path} could not be found."})


def invalid(errors: dict[str, str]) -> RefusalError:
    """422: field -> what is wrong with it."""
    details = {name: [message] for name, message in errors.items()}
    return RefusalError(Answer.json(422, {"message": "The given data was invalid.", "errors": details}))


def rate_limited(retry_after_seconds: int) -> Answer:
    """429: the body states the seconds to wait, as does the header."""
    body = {"error": "rate_limited", "retry_after": retry_after_seconds}
    return Answer.json(429, body, headers={"Retry-After": str(retry_after_seconds)})
