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

from backfill_pipelines.backfills.client_leads_grouping import InterestedLead, Source, Workspace, records, text_of
from backfill_pipelines.engine.email_address import comparison_key
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
        action, reason, outdated = decisions.get(lead.key, _CREATE)
        if lead.key in taken:
            action, reason = Action.CONFLICT, "reply_id_taken"
        frame.append(_plan_row(lead, action, reason, outdated, workspace))
        if len(frame) >= _ROWS_IN_A_FRAME:
            yield plan_frame(frame)
            frame = []
    yield plan_frame(frame)


@dataclass(frozen=True, slots=True)
class _Outdated:
    """What a plan row needs of a row that has to change: 200,000 rows with all their columns would be 300 MB."""

    id: str
    updated_at: float | None
    columns: tuple[str, ...]
    values: tuple[Any, ...]
    """The old values of these columns, as they were read."""


_Decision = tuple[Action, str | None, _Outdated | None]
_CREATE: _Decision = (Action.CREATE, None, None)
_TOMBSTONED: _Decision = (Action.SKIP, "tombstoned", None)
_UNCHANGED: _Decision = (Action.SKIP, "unchanged", None)
# The table's key is case-sensitive, so one lead can have two rows; choosing one would be a guess.
_DUPLICATE: _Decision = (Action.CONFLICT, "duplicate_rows", None)


def _decide(
    source: Source, existing: Iterable[pd.DataFrame], workspace: Workspace, *, extra: list[str] | None = None
) -> dict[str, _Decision]:
    """Update or skip the leads that have rows, by key; those without are left out: they are to be created.

    A row is looked at once, and kept in part where it has to change. `extra` takes the ids of living interested rows
    whose lead the source does not have. Rows without an address are left alone.
    """
    leads = {lead.key: lead for lead in source.leads}
    decisions: dict[str, _Decision] = {}
    shared: dict[tuple[str, ...], tuple[str, ...]] = {}
    for row in records(existing):
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
            columns = tuple(changed_columns(leads[key], row, workspace))
            values = tuple(getattr(row, name) for name in columns)
            outdated = _Outdated(str(row.id), row.updated_at, shared.setdefault(columns, columns), values)
            decisions[key] = (Action.UPDATE, None, outdated) if columns else _UNCHANGED
    return decisions


def _plan_row(
    lead: InterestedLead, action: Action, reason: str | None, outdated: _Outdated | None, workspace: Workspace
) -> tuple[Any, ...]:
    if action is Action.CREATE:
        return (TARGET, lead.key, action, reason, None, _new_row(lead, workspace))
    if action is Action.UPDATE and outdated is not None:
        old = zip(outdated.columns, outdated.values, strict=True)
        before = {name: _plain(name, value) for name, value in old}
        before |= {"id": outdated.id, "updated_at": as_iso(outdated.updated_at)}
        new = _new_row(lead, workspace)
        return (TARGET, lead.key, action, reason, before, {name: new[name] for name in outdated.columns})
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
        if (value := getattr(lead, name)) is not None and text_of(getattr(row, name)) is None
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
        action, _, outdated = decisions.get(lead.key, _CREATE)
        if action is Action.CREATE:
            wanting.append(lead)
        elif outdated is not None and "bison_reply_id" in outdated.columns:
            moves[outdated.id] = lead.key
            wanting.append(lead)
    wanted = {lead.reply_id for lead in wanting}
    holders_of: dict[int, list[Any]] = defaultdict(list)
    for holder in records(holders):
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
