"""The decisions of `attio_company_orgs`: what becomes of each company's `org_id`.

Belongs here: pure functions from choices to plan rows, and the comparison of what should be with what is. No network,
no clock, no database. Does not belong here: which organization is the main one (`attio_company_orgs_choice.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from backfill_pipelines.backfills.attio_company_orgs_choice import (
    MEMBERSHIPS_INCOMPLETE,
    UNKNOWN_ORGANIZATION,
    Candidate,
    Choices,
    Company,
    Reject,
)
from backfill_pipelines.engine.plan import Action, plan_frame

TARGET = "companies"
ORG_ID = "org_id"
CANDIDATES = "candidates"
"""Under this key `before` shows among which organizations it was chosen. Nothing compares with it or writes it."""

ALREADY_SET, SHARED_ORG = "already_set", "shared_org"

_UNSETTLED = frozenset({UNKNOWN_ORGANIZATION, MEMBERSHIPS_INCOMPLETE})
"""There is a main organization, and it is not known which."""
_ROWS_IN_A_FRAME = 5_000


@dataclass(frozen=True, kw_only=True)
class CompanyPlan:
    """What to do for the companies: the rows, the skips that are only counted, and figures that name nobody."""

    frames: Iterator[pd.DataFrame]
    skips: Mapping[str, int]
    """By reason; empty where they are rows."""
    skipped: int
    updates: int
    shared_orgs: int
    """Organizations that are chosen for more than one company."""
    with_choice: Sequence[Company]
    """The first companies that had a choice between organizations, in the order of their ids."""


def plan_companies(choices: Choices, *, store_skips: bool, shown: int) -> CompanyPlan:
    """Say what to do for every company, as rows in the order of their keys.

    A company that has an `org_id` keeps it, whichever it is. An organization that is chosen for two companies goes to
    both, with the reason `shared_org`.
    """
    decided = [(company, *_decision(company)) for company in choices.companies]
    chosen = Counter(company.choice.org_id for company, action, _ in decided if action is Action.UPDATE)
    shared = {org_id for org_id, companies in chosen.items() if companies > 1}
    skips = Counter(reason for _, action, reason in decided if action is Action.SKIP)
    if not store_skips:
        decided = [each for each in decided if each[1] is not Action.SKIP]
    decided.sort(key=lambda each: each[0].record_id)
    updated = [company for company, action, _ in decided if action is Action.UPDATE]
    return CompanyPlan(
        frames=_frames(decided, choices.rejects, shared),
        skips={} if store_skips else skips,
        skipped=skips.total(),
        updates=len(updated),
        shared_orgs=len(shared),
        with_choice=[company for company in updated if len(company.choice.candidates) > 1][:shown],
    )


_Decided = tuple[Company, Action, str]


def _decision(company: Company) -> tuple[Action, str]:
    if company.org_id is not None:
        return Action.SKIP, ALREADY_SET
    if company.choice.org_id is not None:
        return Action.UPDATE, company.choice.reason
    return (Action.CONFLICT if company.choice.reason in _UNSETTLED else Action.SKIP), company.choice.reason


def _frames(decided: Sequence[_Decided], rejects: Sequence[Reject], shared: set[str | None]) -> Iterator[pd.DataFrame]:
    """Rows of companies and rejects together, sorted by key; made one frame at a time."""
    entries: list[_Decided | Reject] = [*decided, *rejects]
    entries.sort(key=_key)
    for start in range(0, len(entries), _ROWS_IN_A_FRAME):
        yield plan_frame(_row(entry, shared) for entry in entries[start : start + _ROWS_IN_A_FRAME])


def _key(entry: _Decided | Reject) -> tuple[str, str]:
    return (entry.record_id, entry.source) if isinstance(entry, Reject) else (entry[0].record_id, TARGET)


def _row(entry: _Decided | Reject, shared: set[str | None]) -> tuple[Any, ...]:
    if isinstance(entry, Reject):
        return (entry.source, entry.record_id, Action.REJECT, entry.code, None, None)
    company, action, reason = entry
    before: dict[str, Any] = {"record_id": company.record_id, ORG_ID: company.org_id}
    if company.choice.candidates:
        before[CANDIDATES] = [shown_candidate(each) for each in company.choice.candidates]
    after = None
    if action is Action.UPDATE:
        after = {"record_id": company.record_id, ORG_ID: company.choice.org_id}
        reason = SHARED_ORG if company.choice.org_id in shared else reason
    return (TARGET, company.record_id, action, reason, before, after)


def shown_candidate(candidate: Candidate) -> Mapping[str, Any]:
    """A candidate as a plan row and a run's metadata show it: an id and two counts."""
    return {"org_id": candidate.org_id, "members": candidate.members, "members_here": candidate.members_here}


# --- what should be against what is ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Companies that have a main organization, by what they have; ids of records."""

    equal: int
    missing: Sequence[str]
    """Without an `org_id`, and nothing explains it."""
    different: Sequence[str]
    """With another one than this backfill wrote there."""
    explained: int
    """Without one, or with another, because the newest plan left them as a conflict."""
    set_otherwise: Sequence[str]
    """With another one that was there before, or since another organization became the main one: it is kept."""


def compare(choices: Choices, *, written: Mapping[str, str], left_alone: Mapping[str, str]) -> Comparison:
    """Compare every company's main organization with the `org_id` that it has.

    `written`: what the newest plan's load has written, by record; `left_alone`: the records that it left, with why.
    """
    equal = explained = 0
    missing: list[str] = []
    different: list[str] = []
    set_otherwise: list[str] = []
    for company in choices.companies:
        should = written.get(company.record_id, company.choice.org_id)
        if should is None:
            continue
        if company.org_id == should:
            equal += 1
        elif company.record_id in left_alone:
            explained += 1
        elif company.org_id is None:
            missing.append(company.record_id)
        elif company.record_id in written:
            different.append(company.record_id)
        else:
            set_otherwise.append(company.record_id)
    return Comparison(
        equal=equal,
        missing=sorted(missing),
        different=sorted(different),
        explained=explained,
        set_otherwise=sorted(set_otherwise),
    )
