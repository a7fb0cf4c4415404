"""What a person decides about customers: that two are one, or that some leads of one are somebody else. As plan rows.

Belongs here: the rows of a merge and of a split, in the form that `customers_target.py` executes and undoes. Pure. Does
not belong here: reading what they are made from, and running them (`customers_manual_run.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from backfill_pipelines.backfills.customers_grouping import SHARED_PHONE
from backfill_pipelines.backfills.customers_identity import NONE, GroupKeys, LeadColumns
from backfill_pipelines.backfills.customers_plan import CREATED_BY, CUSTOMER, JOB, LEAD
from backfill_pipelines.backfills.customers_undo import IN_USE
from backfill_pipelines.engine.plan import Action, canonical_json

PlanRow = tuple[str, str, str, str | None, str | None, str | None]
"""A plan row: `PLAN_COLUMNS`, `before` and `after` as text."""

SPLIT = "split"
"""The kind of a group that no rule has made."""
UNIQUE_VALUES = ("phone", "email", "messenger_psid")
"""What a new customer gets of its leads only where nobody else has it."""
_COLUMN_OF = {"phone": "phone", "email": "email", "messenger_psid": "psid"}


@dataclass(frozen=True, kw_only=True)
class StandingCustomer:
    """A customer as it stands."""

    id: str
    client_id: str
    fields: Mapping[str, str | None]
    """name, phone, email, messenger_psid."""
    ours: bool
    lead_count: int | None
    """What our own metadata says."""
    updated_at: int
    """Microseconds since 1970."""
    document: str
    """The whole row as JSON, in Postgres' own spelling: a number read and written again would not be the same."""
    leads: Mapping[str, int]
    """Id to `updated_at` of the client's leads that are linked to it."""
    split_off: Collection[str] = ()
    """Those of its leads that somebody split off to it: remembered, so that no rule moves them."""


@dataclass(frozen=True, kw_only=True)
class NewCustomer:
    """The customer that leads are split off to."""

    id: str
    group_key: str
    fields: Mapping[str, str | None]
    reason: str | None
    """Why it has no phone though one of its leads has."""


# --- merge -----------------------------------------------------------------------------------------------------------


def plan_merge(
    into: StandingCustomer,
    gone: StandingCustomer,
    *,
    jobs: Mapping[str, bool],
    is_free: bool,
    unique: Collection[str],
) -> list[PlanRow]:
    """The rows that make two customers one: everything of `gone` moves to `into`, and `gone` is deleted.

    `jobs` are those of `gone`: whether each one's lead is of one of the two; another one's is a conflict, and stays.
    `is_free` says that nothing else points to `gone`. Where something does, or a job stays, `gone` stays too (a
    conflict, `in_use`), and keeps the values that a unique key allows only once: `unique` names those columns.
    """
    goes = is_free and all(jobs.values())
    customers = [_gone(into, gone, goes=goes)]
    gained = {
        name: value
        for name, value in gone.fields.items()
        if not _blank(value) and _blank(into.fields[name]) and (goes or name not in unique)
    }
    changed: dict[str, Any] = dict(gained)
    lead_count = len(into.leads) + len(gone.leads)
    if into.ours and into.lead_count != lead_count:
        changed["lead_count"] = lead_count
    if changed:
        before = {**into.fields, "lead_count": into.lead_count}
        # A phone may be there only once: `into` gets it when `gone` is gone.
        after = changed | ({"merged_from": gone.id} if gained and goes else {})
        customers.append(_update(CUSTOMER, into.id, _old(before, changed, into.updated_at), after))
    return [
        *sorted(customers, key=_key),
        *(
            _update(
                LEAD,
                lead,
                {"customer_id": gone.id, "updated_at": updated_at},
                {"customer_id": into.id} | ({"split": True} if lead in gone.split_off else {}),
            )
            for lead, updated_at in sorted(gone.leads.items())
        ),
        *(
            _update(JOB, job, {"customer_id": gone.id}, {"customer_id": into.id})
            if moves
            else (JOB, job, str(Action.CONFLICT), "job_mismatch", None, None)
            for job, moves in sorted(jobs.items())
        ),
    ]


def _gone(into: StandingCustomer, gone: StandingCustomer, *, goes: bool) -> PlanRow:
    after = _json({"merged_into": into.id})
    if not goes:
        # It is remembered all the same, so the row says what.
        return (CUSTOMER, gone.id, str(Action.CONFLICT), IN_USE, None, after)
    before = f'{{"row":{gone.document},"updated_at":{gone.updated_at}}}'
    return (CUSTOMER, gone.id, str(Action.UPDATE), None, before, after)


# --- split -----------------------------------------------------------------------------------------------------------


def split_keys(keys: GroupKeys, leads: Iterable[str]) -> Iterable[tuple[str, str]]:
    """Keys and ids for the customer of these leads, to be tried in turn: the same ones at any time, in any order.

    The first may be taken: by a customer of an earlier split that was merged away since, or that an undo had to leave.
    """
    value = orjson.dumps(sorted(leads)).decode()
    number = 1
    while True:
        group_key = keys.hash(SPLIT, value if number == 1 else f"{value} {number}")
        yield group_key, keys.customer_id(group_key)
        number += 1


def split_values(leads: LeadColumns, chosen: Collection[str], old: StandingCustomer) -> dict[str, list[str]]:
    """What the customer of the chosen leads may have, by column, newest lead first.

    `leads` are all of the old customer's. A value that it has too, in its own row or by a lead that it keeps, stays
    its own.
    """
    own = {
        "phone": leads.phone_number(old.fields["phone"]),
        "email": leads.email_number(old.fields["email"]),
        "messenger_psid": leads.psid_number(old.fields["messenger_psid"]),
    }
    found: dict[str, list[str]] = {}
    for name in UNIQUE_VALUES:
        numbers = getattr(leads, _COLUMN_OF[name])
        stays = {own[name], NONE} | {
            number for lead, number in zip(leads.ids, numbers, strict=True) if lead not in chosen
        }
        wanted = [numbers[place] for place in _newest_first(leads, chosen) if numbers[place] not in stays]
        found[name] = [_stored(leads, name, number) for number in dict.fromkeys(wanted)]
    return found


def new_customer(
    leads: LeadColumns,
    chosen: Collection[str],
    values: Mapping[str, Sequence[str]],
    *,
    name: str | None,
    key: tuple[str, str],
) -> NewCustomer:
    """The customer of the chosen leads; `values` are the ones of `split_values` that nobody else has."""
    newest = _newest_first(leads, chosen)
    group_key, identifier = key
    fields = {column: next(iter(values[column]), None) for column in UNIQUE_VALUES}
    has_phone = any(leads.phone[place] != NONE for place in newest)
    return NewCustomer(
        id=identifier,
        group_key=group_key,
        fields={
            "name": name
            or next((leads.names[place] for place in newest if leads.names[place]), None)
            or next((leads.companies[place] for place in newest if place in leads.companies), None),
            **fields,
        },
        reason=SHARED_PHONE if has_phone and fields["phone"] is None else None,
    )


def plan_split(
    old: StandingCustomer, new: NewCustomer, *, leads: Collection[str], jobs: Collection[str]
) -> list[PlanRow]:
    """The rows that give some leads of a customer, and their jobs, a customer of their own."""
    metadata = {
        "createdBy": CREATED_BY,
        "groupKey": new.group_key,
        "groupType": SPLIT,
        "leadCount": len(leads),
        "multipleLeads": len(leads) > 1,
    }
    created = _json({"client_id": old.client_id, "metadata": metadata, **new.fields})
    customers: list[PlanRow] = [(CUSTOMER, new.id, str(Action.CREATE), new.reason, None, created)]
    left = len(old.leads) - len(leads)
    if old.ours and old.lead_count != left:
        before = _old({"lead_count": old.lead_count}, ("lead_count",), old.updated_at)
        customers.append(_update(CUSTOMER, old.id, before, {"lead_count": left}))
    return [
        *sorted(customers, key=_key),
        *(
            _update(
                LEAD,
                lead,
                {"customer_id": old.id, "updated_at": old.leads[lead]},
                {"customer_id": new.id, "split": True},
            )
            for lead in sorted(leads)
        ),
        *(_update(JOB, job, {"customer_id": old.id}, {"customer_id": new.id}) for job in sorted(jobs)),
    ]


def _newest_first(leads: LeadColumns, chosen: Collection[str]) -> list[int]:
    places = [place for place, lead in enumerate(leads.ids) if lead in chosen]
    return sorted(places, key=lambda place: (leads.created[place], leads.ids[place]), reverse=True)


def _stored(leads: LeadColumns, name: str, number: int) -> str:
    if name == "phone":
        return leads.stored_phone(number)
    return (leads.emails if name == "email" else leads.psids).keys[number]


# --- rows ------------------------------------------------------------------------------------------------------------


def _update(target: str, key: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> PlanRow:
    return (target, key, str(Action.UPDATE), None, _json(before), _json(after))


def _old(values: Mapping[str, Any], names: Iterable[str], updated_at: int) -> dict[str, Any]:
    return {name: values[name] for name in names} | {"updated_at": updated_at}


def _json(value: Mapping[str, Any]) -> str:
    return canonical_json(value).decode()


def _key(row: PlanRow) -> str:
    return row[1]


def _blank(value: str | None) -> bool:
    return not (value or "").strip()
