"""A table `client_leads` in memory, the frames of a plan over it, and what the table is once the plan is applied.

Belongs here: building frames and applying plan rows by the table's own rules. Does not belong here: deciding anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import pandas as pd

from backfill_pipelines.backfills.client_leads_grouping import Source, Workspace, interested_leads
from backfill_pipelines.backfills.client_leads_plan import READ, plan_client_leads

Row = dict[str, Any]

OURS = "Umber Books"
INSTANCE = "bison.example.com"
ELSEWHERE = "other.example.com"

REPLY_COLUMNS = ("reply_id", "lead_id", "campaign_id", "known", "date_received", "from_name", "from_email_address")
LEAD_COLUMNS = ("lead_id", "known", "email", "first_name", "last_name", "company", "phone")
_TIMES = ("interested_at", "date_received")


def workspace(*, reply_ids_unique_alone: bool = False, accepts_unknown: bool = True) -> Workspace:
    return Workspace(
        name=OURS,
        instance=INSTANCE,
        workspace_id=17,
        phone_region="US",
        reply_ids_unique_alone=reply_ids_unique_alone,
        accepts_unknown=accepts_unknown,
    )


def reply(reply_id: int, **values: Any) -> Row:
    """A landed reply; untracked unless it is given a lead."""
    plain: Row = {
        "lead_id": None,
        "campaign_id": 5,
        "known": True,
        "date_received": float(reply_id),
        "from_name": None,
        "from_email_address": f"person{reply_id}@example.com",
    }
    return {"reply_id": reply_id, **plain, **values}


def lead(lead_id: int, email: str | None, **values: Any) -> Row:
    """A landed lead."""
    plain: Row = {"known": True, "first_name": None, "last_name": None, "company": None, "phone": None}
    return {"lead_id": lead_id, "email": email, **plain, **values}


def existing(row_id: str, lead_email: str | None, **values: Any) -> Row:
    """A row of the table; ours unless it is given another workspace."""
    return {
        **dict.fromkeys(READ),
        "id": row_id,
        "workspace_name": OURS,
        "lead_email": lead_email,
        "interested": True,
        "updated_at": 0.0,
        "pipeline_stage": "met",
        "notes": "by hand",
        **values,
    }


def frame(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame([[row[name] for name in columns] for row in rows], columns=list(columns), dtype=object)


def source_of(replies: Sequence[Row], leads: Sequence[Row], *, of: Workspace) -> Source:
    return interested_leads([frame(replies, REPLY_COLUMNS)], [frame(leads, LEAD_COLUMNS)], workspace=of)


def own_rows(table: Sequence[Row]) -> pd.DataFrame:
    return frame([row for row in table if row["workspace_name"] == OURS], READ)


def plan(replies: Sequence[Row], leads: Sequence[Row], table: Sequence[Row], *, of: Workspace) -> list[Row]:
    """The plan's rows, with whatever else the database would have been asked for on the way."""
    ids = {each["reply_id"] for each in replies}
    holders = [row for row in table if row["bison_reply_id"] in ids]
    frames = plan_client_leads(
        source_of(replies, leads, of=of),
        [own_rows(table)],
        [frame(holders, ("id", "bison_reply_id", "bison_instance", "workspace_name"))],
        workspace=of,
    )
    return [row for each in frames for row in each.to_dict("records")]


def applied(table: Sequence[Row], planned: Sequence[Row]) -> list[Row]:
    """The table after a load of the plan. Fails where an update does not find what the plan saw."""
    rows = {row["id"]: dict(row) for row in table}
    for number, each in enumerate(planned):
        if each["action"] == "create":
            made = existing(f"new {number}", None)
            rows[made["id"]] = {**made, "pipeline_stage": None, "notes": None, **_from_json(each["after"])}
        elif each["action"] == "update":
            row, before = rows[each["before"]["id"]], _from_json(each["before"])
            assert all(row[name] == before[name] for name in each["after"])
            row.update(_from_json(each["after"]))
    return list(rows.values())


def broken_keys(table: Sequence[Row], *, of: Workspace) -> list[Any]:
    """What the table's unique keys would refuse."""
    emails = [(row["lead_email"], row["workspace_name"]) for row in table if row["lead_email"] is not None]
    held = [
        (None if of.reply_ids_unique_alone else row["bison_instance"], row["bison_reply_id"])
        for row in table
        if row["bison_reply_id"] is not None and (of.reply_ids_unique_alone or row["bison_instance"] is not None)
    ]
    return [key for keys in (emails, held) for key in set(keys) if keys.count(key) > 1]


def by_key(planned: Sequence[Row]) -> dict[str, tuple[str, str | None]]:
    return {row["record_key"]: (row["action"], row["reason"]) for row in planned}


def _from_json(values: Mapping[str, Any]) -> Row:
    """Times as microseconds again, as the frames have them."""
    return {
        name: _microseconds(value) if name in _TIMES and value is not None else value for name, value in values.items()
    }


def _microseconds(text: str) -> float:
    return round(datetime.fromisoformat(text).timestamp() * 1_000_000)
