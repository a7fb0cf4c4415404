"""Which replies and leads a request's filters choose.

Belongs here: the filters the vendor knows and what they mean. Does not belong here: pages and permissions. A parameter
that is not here is ignored, as the vendor ignores it: 200 and the whole workspace.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from backfill_pipelines.sandbox import email_bison_rows as rows
from backfill_pipelines.sandbox.email_bison_records import Lead, Reply
from backfill_pipelines.sandbox.email_bison_state import WorkspaceState, newest_first

REPLY_FILTERS = frozenset({"search", "status", "folder", "read", "campaign_id", "sender_email_id", "lead_id"})
STATUSES = frozenset({"interested", "automated_reply", "not_automated_reply"})
FOLDERS = frozenset({"inbox", "sent", "spam", "bounced", "all"})


def choose_replies(workspace: WorkspaceState, query: Mapping[str, str]) -> Sequence[Reply]:
    """Replies that pass every known filter, newest first.

    Raises the vendor's 422 for a `status` or `folder` that does not exist.
    """
    chosen = {name: query[name].strip().lower() for name in sorted(REPLY_FILTERS & query.keys())}
    for name, allowed in (("status", STATUSES), ("folder", FOLDERS)):
        if name in chosen and chosen[name] not in allowed:
            raise rows.invalid({name: f"The selected {name} is invalid."})
    # Whether the real default is the inbox is not known; it is the one that punishes leaving `folder` out.
    chosen.setdefault("folder", "inbox")
    return workspace.selection(
        ("replies", *chosen.items()),
        lambda: [
            reply
            for reply in newest_first(workspace.replies)
            if all(_passes(reply, name, value) for name, value in chosen.items())
        ],
    )


def choose_leads(workspace: WorkspaceState, query: Mapping[str, str]) -> Sequence[Lead]:
    """Leads that pass `search` and `filters[lead_campaign_status]`, newest first."""
    search = query.get("search", "").strip().lower()
    status = query.get("filters[lead_campaign_status]", "")
    return workspace.selection(
        ("leads", search, status),
        lambda: [
            lead
            for lead in newest_first(workspace.leads)
            if (not search or search in f"{lead.email} {lead.first_name} {lead.last_name}".lower())
            and (not status or lead.campaign_status == status)
        ],
    )


def _passes(reply: Reply, name: str, value: str) -> bool:
    match name:
        case "folder":
            return value == "all" or reply.folder.lower() == value
        case "status":
            return reply.interested if value == "interested" else reply.automated == (value == "automated_reply")
        case "read":
            return reply.read == (value in {"1", "true"})
        case "search":
            return value in f"{reply.from_name} {reply.from_email_address}".lower()
        case _:
            return str(getattr(reply, name)) == value


__all__ = ["choose_leads", "choose_replies"]
