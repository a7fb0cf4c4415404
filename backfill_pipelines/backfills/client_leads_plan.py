"""The decisions of `client_leads`: which row of `client_leads` each interested lead of a workspace must have.

Belongs here: pure functions from frames to plan rows, and the comparison of what should be with what is. No network, no
clock, no database. Does not belong here: getting the frames and executing the rows (`client_leads.py`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd

from backfill_pipelines.engine.email_address import comparison_key, normalise_email, trimmed
from backfill_pipelines.engine.phone_number import PhoneNormaliser
from backfill_pipelines.engine.plan import Action, plan_frame

TARGET = "client_leads"

FILLED_WHEN_EMPTY = ("first_name", "last_name", "company", "phone")
MOVED_WITH_THE_REPLY = (
    "date_received",
    "bison_reply_id",
    "bison_lead_id",
    "bison_campaign_id",
    "bison_instance",
    "bison_workspace_id",
)
WRITTEN = ("workspace_name", "lead_email", *FILLED_WHEN_EMPTY, "interested", "interested_at", *MOVED_WITH_THE_REPLY)
"""The columns that this backfill may write. `pipeline_stage` and `notes` belong to people, `deleted_at` too."""

READ = ("id", *WRITTEN, "deleted_at", "updated_at")

_ROWS_IN_A_FRAME = 5_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


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
    for reply in _records(replies):
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
        for lead in _records(leads)
        if lead.known
    }


def _interested_lead(
    key: str,
    winner: _Winner,
    known_leads: Mapping[int, _Lead],
    interested_at: float | None,
    *,
    phones: PhoneNormaliser,
) -> InterestedLead:
    lead = known_leads.get(winner.lead_id) if winner.lead_id is not None else None
    if lead is None:
        (first_name, last_name), company, phone = split_name(winner.from_name), None, None
    else:
        first_name, last_name, company, phone = (_text(value) for value in lead[1:])
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
    text = _text(from_name)
    if text is None:
        return None, None
    first, _, last = text.partition(" ")
    return first, _text(last)


def plan_client_leads(
    source: Source, existing: Iterable[pd.DataFrame], holders: Iterable[pd.DataFrame], *, workspace: Workspace
) -> Iterator[pd.DataFrame]:
    """Say what to do for every lead, as frames of plan rows in the order of the keys.

    `existing` has the client's rows (`READ`, times in microseconds); `holders` has the rows of any client that hold one
    of the reply ids of the source: id, bison_reply_id, bison_instance, workspace_name.
    """
    decisions = _decide(source, existing, workspace)
    taken = _taken_reply_ids(source.leads, decisions, holders, workspace)
    frame: list[tuple[Any, ...]] = [(TARGET, key, Action.REJECT, reason, None, None) for key, reason in source.rejects]
    for lead in source.leads:
        action, reason, row = decisions.get(lead.key, _CREATE)
        if lead.key in taken:
            action, reason = Action.CONFLICT, "reply_id_taken"
        frame.append(_plan_row(lead, action, reason, row, workspace))
        if len(frame) >= _ROWS_IN_A_FRAME:
            yield plan_frame(frame)
            frame = []
    yield plan_frame(frame)


_Decision = tuple[Action, str | None, Any]
_CREATE: _Decision = (Action.CREATE, None, None)
_TOMBSTONED: _Decision = (Action.SKIP, "tombstoned", None)
_UNCHANGED: _Decision = (Action.SKIP, "unchanged", None)
# The table's key is case-sensitive, so one lead can have two rows; choosing one would be a guess.
_DUPLICATE: _Decision = (Action.CONFLICT, "duplicate_rows", None)


def _decide(
    source: Source, existing: Iterable[pd.DataFrame], workspace: Workspace, *, extra: list[str] | None = None
) -> dict[str, _Decision]:
    """Update or skip the leads that have rows, by key; those without are left out: they are to be created.

    A row is looked at once and kept only where it has to change. `extra` takes the ids of living interested rows whose
    lead the source does not have. Rows without an address are left alone.
    """
    leads = {lead.key: lead for lead in source.leads}
    decisions: dict[str, _Decision] = {}
    for row in _records(existing):
        key = comparison_key(row.lead_email)
        living = pd.isna(row.deleted_at)
        if key is None or key not in leads:
            if extra is not None and key is not None and living and row.interested is True:
                extra.append(str(row.id))
        elif not living:
            decisions.setdefault(key, _TOMBSTONED)
        elif decisions.get(key, _TOMBSTONED) is not _TOMBSTONED:
            decisions[key] = _DUPLICATE
        else:
            changed = changed_columns(leads[key], row, workspace)
            decisions[key] = (Action.UPDATE, None, row) if changed else _UNCHANGED
    return decisions


def _plan_row(
    lead: InterestedLead, action: Action, reason: str | None, row: Any, workspace: Workspace
) -> tuple[Any, ...]:
    if action is Action.CREATE:
        return (TARGET, lead.key, action, reason, None, _new_row(lead, workspace))
    if action is Action.UPDATE:
        changed = changed_columns(lead, row, workspace)
        before = {name: _plain(name, getattr(row, name)) for name in changed}
        before |= {"id": str(row.id), "updated_at": as_iso(row.updated_at)}
        return (TARGET, lead.key, action, reason, before, changed)
    return (TARGET, lead.key, action, reason, None, None)


def _new_row(lead: InterestedLead, workspace: Workspace) -> dict[str, Any]:
    return {
        "workspace_name": workspace.name,
        "lead_email": lead.lead_email,
        **{name: getattr(lead, name) for name in FILLED_WHEN_EMPTY},
        "interested": True,
        "interested_at": as_iso(lead.interested_at),
        **_reply_columns(lead, workspace),
    }


def _reply_columns(lead: InterestedLead, workspace: Workspace) -> dict[str, Any]:
    return {
        "date_received": as_iso(lead.date_received),
        "bison_reply_id": lead.reply_id,
        "bison_lead_id": lead.lead_id,
        "bison_campaign_id": lead.campaign_id,
        "bison_instance": workspace.instance,
        "bison_workspace_id": workspace.workspace_id,
    }


def changed_columns(lead: InterestedLead, row: Any, workspace: Workspace) -> dict[str, Any]:
    """The columns of an existing row that have to change, with their new values; empty where nothing has to.

    Names, company and phone are filled only when empty; `interested` only becomes true; `interested_at` only earlier;
    what tells of the reply moves together, and only to a reply with a higher id.
    """
    changed: dict[str, Any] = {
        name: value
        for name in FILLED_WHEN_EMPTY
        if (value := getattr(lead, name)) is not None and _text(getattr(row, name)) is None
    }
    if row.interested is not True:
        changed["interested"] = True
    if lead.interested_at is not None and (pd.isna(row.interested_at) or lead.interested_at < row.interested_at):
        changed["interested_at"] = as_iso(lead.interested_at)
    if pd.isna(row.bison_reply_id) or lead.reply_id > row.bison_reply_id:
        changed |= {
            name: value
            for name, value in _reply_columns(lead, workspace).items()
            if value != _plain(name, getattr(row, name))
        }
    return changed


def _taken_reply_ids(
    leads: Sequence[InterestedLead],
    decisions: Mapping[str, _Decision],
    holders: Iterable[pd.DataFrame],
    workspace: Workspace,
) -> set[str]:
    """The keys of leads whose reply id another row holds and keeps.

    A row that this very plan moves to a higher reply gives its id up; one that turns out to be a conflict itself does
    not, and so on until nothing changes.
    """
    moves: dict[object, str] = {}
    wanting: list[InterestedLead] = []
    for lead in leads:
        action, _, row = decisions.get(lead.key, _CREATE)
        if action is Action.CREATE:
            wanting.append(lead)
        elif action is Action.UPDATE and "bison_reply_id" in changed_columns(lead, row, workspace):
            moves[row.id] = lead.key
            wanting.append(lead)
    wanted = {lead.reply_id for lead in wanting}
    holders_of: dict[int, list[Any]] = defaultdict(list)
    for holder in _records(holders):
        if int(holder.bison_reply_id) in wanted and _same_reply(holder, workspace):
            holders_of[int(holder.bison_reply_id)].append(holder.id)
    taken: set[str] = set()
    while True:
        found = {
            lead.key
            for lead in wanting
            if lead.key not in taken
            and any(
                moves.get(holder, lead.key) in taken or holder not in moves
                for holder in holders_of.get(lead.reply_id, ())
            )
        }
        if not found:
            return taken
        taken |= found


def _same_reply(holder: Any, workspace: Workspace) -> bool:
    """Whether a row with the same reply id tells of the same reply: ids are unique within an instance only.

    Rows of before the instance was recorded have none; within the client's own rows it can only be the same.
    """
    if workspace.reply_ids_unique_alone or holder.bison_instance == workspace.instance:
        return True
    return holder.bison_instance is None and holder.workspace_name == workspace.name


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The source against the target; `extra` are rows that the webhook knows and the source no longer marks."""

    equal: int
    missing: Sequence[InterestedLead]
    different: Sequence[InterestedLead]
    explained: int
    extra: Sequence[str]
    """Ids of the rows."""


def compare(
    source: Source, existing: Iterable[pd.DataFrame], *, workspace: Workspace, left_alone: Collection[str]
) -> Comparison:
    """Compare the interested leads with the client's rows as they are now.

    `left_alone` are keys that the newest plan rejected or left as a conflict: they explain a difference.
    """
    extra: list[str] = []
    decisions = _decide(source, existing, workspace, extra=extra)
    equal, explained = 0, 0
    missing: list[InterestedLead] = []
    different: list[InterestedLead] = []
    for lead in source.leads:
        decision = decisions.get(lead.key, _CREATE)
        if decision is _UNCHANGED:
            equal += 1
        elif decision in (_TOMBSTONED, _DUPLICATE) or lead.key in left_alone:
            explained += 1
        elif decision is _CREATE:
            missing.append(lead)
        else:
            different.append(lead)
    return Comparison(equal=equal, missing=missing, different=different, explained=explained, extra=sorted(extra))


def _records(frames: Iterable[pd.DataFrame]) -> Iterator[Any]:
    """The rows of frames of Python objects, as named tuples."""
    for frame in frames:
        yield from frame.itertuples(index=False)


def as_iso(microseconds: float | None) -> str | None:
    """The one spelling of a time in plans: UTC with microseconds, as Postgres reads it.

    Postgres holds years that Python does not (and `infinity`). Such a mistyped year must not stop a whole client: its
    row's compare-and-set fails, and it stays as a stale conflict.
    """
    if microseconds is None or pd.isna(microseconds):
        return None
    try:
        return (_EPOCH + timedelta(microseconds=int(microseconds))).isoformat(timespec="microseconds")
    except OverflowError:
        return "infinity" if microseconds > 0 else "-infinity"


def _plain(name: str, value: Any) -> Any:
    """A value of an existing row as a plan holds it."""
    if name in ("interested_at", "date_received"):
        return as_iso(value)
    return None if value is None or value is pd.NA or value != value else value  # noqa: PLR0124 - NaN


def _text(value: object) -> str | None:
    """Text without white space around it; None where nothing is left."""
    return (value.strip() or None) if isinstance(value, str) else None
