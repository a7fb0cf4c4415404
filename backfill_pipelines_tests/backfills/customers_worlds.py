"""Small worlds for `customers`: leads, customers and jobs in memory, their plan, and the world after the plan.

Belongs here: building rows and frames, reading a plan's rows, applying them. Does not belong here: deciding anything
(`customers_reference.py` decides what is right).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import pandas as pd

from backfill_pipelines.backfills.customers_identity import GroupKeys, IdentityRules, KnownCustomers
from backfill_pipelines.backfills.customers_plan import plan_customers
from backfill_pipelines_tests.backfills.customers_reference import Decided, Name, Reference
from backfill_pipelines_tests.backfills.customers_reference_fields import Rules

Row = dict[str, Any]

CLIENT = "42"
FIELDS = ("name", "phone", "email", "messenger_psid")
_LEAD = ("messenger_psid", "phone", "email", "first_name", "last_name", "company_name", "customer_id")
_LEAD_COLUMNS = ("id", *_LEAD, "created_at", "updated_at")
_CUSTOMER_COLUMNS = ("id", *FIELDS, "ours", "lead_count", "updated_at")
_JOB_COLUMNS = ("id", "lead_id", "customer_id")


def lead(identifier: str, *, psid: str | None = None, created_at: int = 0, **values: Any) -> Row:
    row: Row = {"id": identifier, **dict.fromkeys(_LEAD), "messenger_psid": psid, **values}
    return {**row, "created_at": created_at, "updated_at": created_at}


def customer(identifier: str, *, psid: str | None = None, ours: bool = False, **values: Any) -> Row:
    """A customer that people made, unless it is `ours`."""
    row: Row = {"id": identifier, **dict.fromkeys(FIELDS), "messenger_psid": psid, "ours": ours, "lead_count": None}
    return {**row, "updated_at": 0, **values}


def job(identifier: str, lead_id: str, customer_id: str | None = None) -> Row:
    return {"id": identifier, "lead_id": lead_id, "customer_id": customer_id}


@dataclass(frozen=True)
class World:
    """A client with all that a plan is made from. `recorded` is by the group itself, not by its hash."""

    leads: Sequence[Row] = ()
    customers: Sequence[Row] = ()
    jobs: Sequence[Row] = ()
    rules: Rules = field(default_factory=Rules)
    client_id: str = CLIENT
    recorded: Mapping[Name, str] = field(default_factory=dict)
    merged: Mapping[str, str] = field(default_factory=dict)
    split: Mapping[str, str] = field(default_factory=dict)
    strangers: Mapping[str, bool] = field(default_factory=dict)
    phones_held_elsewhere: frozenset[str] = frozenset()
    unique_email: bool = False

    @property
    def keys(self) -> GroupKeys:
        return GroupKeys(b"a secret of these tests", self.client_id)

    def own_id(self, name: Name) -> str:
        """The id of the customer that is made for a group."""
        return self.keys.customer_id(self.keys.hash(*name))

    def reference(self) -> Decided:
        reference = Reference(
            self.leads,
            self.customers,
            rules=self.rules,
            own_id=self.own_id,
            recorded=self.recorded,
            merged=self.merged,
            strangers=self.strangers,
            phones_held_elsewhere=self.phones_held_elsewhere,
            unique_email=self.unique_email,
        )
        return reference.decided(self.jobs)

    def plan(self, *, seed: int | None = None, list_skips: bool = True) -> Planned:
        """The product's plan. With a seed its rows come in another order and in small blocks.

        Without `list_skips` it is given no more than is read of the tables then.
        """
        rng = None if seed is None else random.Random(seed)
        rules = self.rules
        unread: tuple[str, ...] = ()
        if not list_skips and all(row["customer_id"] for row in self.leads):
            unread = ("first_name", "last_name", "company_name", "created_at", "name")
        plan = plan_customers(
            _frames(self.leads, [name for name in _LEAD_COLUMNS if name not in unread], rng),
            _frames(self.customers, [name for name in _CUSTOMER_COLUMNS if name not in unread], rng),
            _frames(self.jobs if list_skips else self.jobs_with_linked_counted(), _JOB_COLUMNS, rng),
            rules=IdentityRules(
                region=rules.region,
                phone_format="digits" if rules.phone_format == "digits" else "e164",
                max_group_size=rules.max_group_size,
                blocked_emails=frozenset(rules.blocked_emails),
                blocked_local_parts=frozenset(rules.blocked_local_parts),
                blocked_domains=frozenset(rules.blocked_domains),
                blocked_phones=frozenset(rules.blocked_phones),
            ),
            keys=self.keys,
            known=lambda strangers: KnownCustomers(
                recorded={self.keys.hash(*name): each for name, each in self.recorded.items()},
                merged=self.merged,
                split=self.split,
                strangers={each: self.strangers.get(each, False) for each in strangers},
                phones_held_elsewhere=self.phones_held_elsewhere,
                unique_email=self.unique_email,
            ),
            list_skips=list_skips,
        )
        rows = [row for frame in plan.frames for row in frame.to_dict("records")]
        return Planned(rows=rows, figures=plan.figures, source=plan.source, skips=plan.skips)

    def jobs_with_linked_counted(self) -> Sequence[Row]:
        """The jobs, but for those that are linked to the customer of their lead: one row says how many these are."""
        ids = {row["id"] for row in self.customers}
        link_of = {row["id"]: row["customer_id"] for row in self.leads if row["customer_id"] in ids}
        others = [
            row for row in self.jobs if row["customer_id"] is None or link_of.get(row["lead_id"]) != row["customer_id"]
        ]
        return [*others, {"id": None, "lead_id": None, "customer_id": str(len(self.jobs) - len(others))}]

    def after(self, planned: Planned) -> World:
        """The world once the plan has been loaded. Fails where a row is not as the plan has seen it."""
        leads = {row["id"]: dict(row) for row in self.leads}
        customers = {row["id"]: dict(row) for row in self.customers}
        jobs = {row["id"]: dict(row) for row in self.jobs}
        recorded = {self.keys.hash(*name): each for name, each in self.recorded.items()}
        for target, identifier, action, before, after in planned.written():
            if target == "Customer" and action == "create":
                assert identifier not in customers
                values = {name: after[name] for name in FIELDS}
                values["psid"] = values.pop("messenger_psid")
                count = after["metadata"]["leadCount"]
                customers[identifier] = customer(identifier, ours=True, lead_count=count, **values)
                continue
            row = {"Customer": customers, "Lead": leads, "Job": jobs}[target][identifier]
            recorded_key = after.pop("group_key", None)
            if recorded_key is not None:
                recorded[recorded_key] = after["customer_id"]
            assert all(row[name] == before[name] for name in after)
            row.update(after)
        names = {self.keys.hash(*name): name for name in self.every_name()}
        return replace(
            self,
            leads=list(leads.values()),
            customers=list(customers.values()),
            jobs=list(jobs.values()),
            recorded={names[key]: each for key, each in recorded.items()},
        )

    def every_name(self) -> Iterator[Name]:
        """The groups that there could be."""
        yield from self.recorded
        reader = Reference(self.leads, (), rules=self.rules, own_id=self.own_id).leads.values()
        for row in reader:
            yield ("individual", row["id"])
            for kind, column in (("psid", "psid"), ("phone", "phone_key"), ("email", "email_key")):
                if row[column]:
                    yield (kind, row[column])


@dataclass(frozen=True)
class Planned:
    """A plan's rows, with `before` and `after` read."""

    rows: Sequence[Row]
    figures: Mapping[str, Any]
    source: int
    skips: Mapping[str, int] = field(default_factory=dict)
    """What is skipped and in no row, by reason."""

    def written(self) -> Iterator[tuple[str, str, str, Row, Row]]:
        """Target, key, action, before, after of what a load executes."""
        for row in self.rows:
            if row["action"] in ("create", "update"):
                yield row["target"], row["record_key"], row["action"], _read(row["before"]), _read(row["after"])

    def decided(self) -> Decided:
        """The plan in the reference's form; jobs that are linked already are left out there."""
        result = Decided(figures=dict(self.figures))
        for row in self.rows:
            key, told, after = row["record_key"], (row["action"], row["reason"]), _read(row["after"])
            if row["target"] == "Lead":
                result.leads[key] = (*told, after.get("customer_id"))
            elif row["target"] == "Job":
                result.jobs[key] = (*told, after.get("customer_id"))
            elif row["action"] == "create":
                metadata = after["metadata"]
                shown = {name: metadata[name] for name in ("groupType", "leadCount", "multipleLeads")}
                result.customers[key] = (*told, {name: after[name] for name in FIELDS} | shown)
            elif row["action"] == "conflict":
                assert row["reason"] == "split_group"
                result.split_groups.add(key)
            else:
                result.customers[key] = (*told, after)
        return result


def _read(value: str | None) -> Row:
    return {} if value is None else orjson.loads(value)


def _frames(rows: Sequence[Row], columns: Sequence[str], rng: random.Random | None) -> list[pd.DataFrame]:
    size = len(rows) or 1
    ordered = list(rows)
    if rng is not None:
        rng.shuffle(ordered)
        size = rng.randint(1, 4)
    blocks = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    return [
        pd.DataFrame([[row[name] for name in columns] for row in block], columns=columns, dtype=object)
        for block in blocks
    ]
