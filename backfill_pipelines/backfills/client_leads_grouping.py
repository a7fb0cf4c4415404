"""The source of `client_leads` in the plan's terms: interested replies grouped into leads.

Belongs here: pure functions from frames of replies and leads to one record per lead. Does not belong here: the target
and what to do about it (`client_leads_plan.py`), and getting the frames (`client_leads.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from backfill_pipelines.engine.email_address import comparison_key, normalise_email, trimmed
from backfill_pipelines.engine.phone_number import PhoneNormaliser


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """The client whose leads these are, in the terms of the target's columns."""

    name: str
    instance: str
    """Host of the Email Bison instance; ids are unique within it."""
    workspace_id: int
    phone_region: str
    reply_ids_unique_alone: bool
    """Whether the table's unique key is on the reply id alone, so that two instances' ids can collide."""
    accepts_unknown: bool
    """Whether replies of unknown campaigns count: under the client's own token they do, in admin mode they do not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InterestedLead:
    """What the source says of one lead; times are microseconds since 1970."""

    key: str
    lead_email: str
    reply_id: int
    lead_id: int | None
    campaign_id: int | None
    date_received: float | None
    interested_at: float | None
    first_name: str | None
    last_name: str | None
    company: str | None
    phone: str | None


@dataclass(frozen=True, kw_only=True)
class Source:
    """The source in the plan's terms: the interested leads by key, and the rows that cannot be leads."""

    replies: int
    unknown_replies: int
    """Replies whose campaign (or sender) is in no list of the workspace."""
    leads: Sequence[InterestedLead]
    """In the order of their keys."""
    rejects: Sequence[tuple[str, str]]
    """Pairs of record key and reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Winner:
    """The newest reply of a key so far, with what it says of its sender."""

    reply_id: int
    lead_id: int | None
    campaign_id: int | None
    date_received: float | None
    address: str | None
    from_name: str | None


_Lead = tuple[str | None, str | None, str | None, str | None, str | None]
"""Address, first name, last name, company and phone of a lead, as landed."""


def interested_leads(replies: Iterable[pd.DataFrame], leads: Iterable[pd.DataFrame], *, workspace: Workspace) -> Source:
    """Group replies into leads.

    The key is the lead's address where the lead is known, else the reply's sender's, trimmed and lower-cased. Of a
    lead's replies the one with the highest id wins; its earliest `date_received` is `interested_at`. Bad addresses are
    rejected once per distinct value; in admin mode replies of unknown campaigns are rejected one by one.

    `replies` have reply_id, lead_id, campaign_id, known, date_received (microseconds), from_name, from_email_address;
    `leads` have lead_id, known, email, first_name, last_name, company, phone. Both are consumed frame by frame, in any
    order: 200,000 replies as one frame would be half of what a run may take.
    """
    known_leads = _known_leads(leads)
    rejects: set[tuple[str, str]] = set()
    newest: dict[str, _Winner] = {}
    earliest: dict[str, float] = {}
    count = unknown = 0
    for reply in records(replies):
        count += 1
        unknown += not reply.known
        if not reply.known and not workspace.accepts_unknown:
            rejects.add((f"reply {reply.reply_id}", "unknown_campaign"))
            continue
        lead = known_leads.get(reply.lead_id) if reply.lead_id is not None else None
        address = reply.from_email_address if lead is None else lead[0]
        key = normalise_email(address)
        if key is None:
            rejects.add((comparison_key(address) or "(no address)", "invalid_email"))
            continue
        date_received = None if pd.isna(reply.date_received) else reply.date_received
        if key not in newest or newest[key].reply_id < reply.reply_id:
            newest[key] = _Winner(
                reply_id=int(reply.reply_id),
                lead_id=reply.lead_id,
                campaign_id=reply.campaign_id,
                date_received=date_received,
                # One text, not two equal ones.
                address=key if address == key else address,
                from_name=reply.from_name if lead is None else None,
            )
        if date_received is not None:
            earliest[key] = min(earliest.get(key, date_received), date_received)
    phones = PhoneNormaliser(workspace.phone_region)
    return Source(
        replies=count,
        unknown_replies=unknown,
        leads=[
            _interested_lead(key, newest.pop(key), known_leads, earliest.pop(key, None), phones=phones)
            for key in sorted(newest)
        ],
        rejects=sorted(rejects),
    )


def _known_leads(leads: Iterable[pd.DataFrame]) -> dict[int, _Lead]:
    """The leads that the workspace still has, by id; equal names and companies as one text each."""
    texts: dict[str, str] = {}

    def shared(text: str | None) -> str | None:
        return None if text is None else texts.setdefault(text, text)

    return {
        lead.lead_id: (lead.email, shared(lead.first_name), shared(lead.last_name), shared(lead.company), lead.phone)
        for lead in records(leads)
        if lead.known
    }


def _interested_lead(
    key: str,
    winner: _Winner,
    known_leads: dict[int, _Lead],
    interested_at: float | None,
    *,
    phones: PhoneNormaliser,
) -> InterestedLead:
    # Taken out: a lead has one address and so one key, and what is used up makes room for what comes of it.
    lead = known_leads.pop(winner.lead_id, None) if winner.lead_id is not None else None
    if lead is None:
        (first_name, last_name), company, phone = split_name(winner.from_name), None, None
    else:
        first_name, last_name, company, phone = (text_of(value) for value in lead[1:])
    return InterestedLead(
        key=key,
        # The lead's own spelling: the webhook writes that one, and the table's key is case-sensitive.
        lead_email=trimmed(winner.address or ""),
        reply_id=winner.reply_id,
        lead_id=winner.lead_id,
        campaign_id=winner.campaign_id,
        date_received=winner.date_received,
        interested_at=interested_at,
        first_name=first_name,
        last_name=last_name,
        company=company,
        phone=None if phone is None else phones.to_e164(phone) or phone,
    )


def split_name(from_name: str | None) -> tuple[str | None, str | None]:
    """First and last name of an untracked reply's sender: its name, split at the first space."""
    text = text_of(from_name)
    if text is None:
        return None, None
    first, _, last = text.partition(" ")
    return first, text_of(last)


def records(frames: Iterable[pd.DataFrame]) -> Iterator[Any]:
    """The rows of frames of Python objects, as named tuples."""
    for frame in frames:
        yield from frame.itertuples(index=False)


def text_of(value: object) -> str | None:
    """Text without white space around it; None where nothing is left."""
    return (value.strip() or None) if isinstance(value, str) else None
