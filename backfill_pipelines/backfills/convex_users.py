"""`convex_users`: eight profile fields of Clerk's users into an app's Convex table, for users that are there already.

The story, top to bottom: what it is, what must be true before it starts, how it reads both sides, what it plans, how it
writes and takes back, how it checks. Does not belong here: Clerk's lists (`clerk_landing.py`), the table's rows
(`convex_users_source.py`), which field changes (`convex_users_plan.py`) and which goes back (`convex_users_undo.py`),
calls (`vendors/convex.py`).

It only ever updates: it inserts and deletes no row, and touches no other field.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal

import pandas as pd
from pydantic import Field
from sqlalchemy import select

from backfill_pipelines.backfills.clerk_landing import clerk_of, land_users
from backfill_pipelines.backfills.convex_users_plan import (
    DOCUMENT,
    NOT_IN_CONVEX,
    TARGET,
    UNCHANGED,
    UsersPlan,
    plan_users,
)
from backfill_pipelines.backfills.convex_users_source import (
    access_of,
    convex_of,
    count_users,
    land_documents,
    note_written,
    pair_frames,
)
from backfill_pipelines.backfills.convex_users_undo import Remainder, remainder
from backfill_pipelines.database import tables
from backfill_pipelines.engine.backfill import Plan, Reconciliation, RunOptions, Scope
from backfill_pipelines.engine.journal import (
    CHANGED_SINCE,
    FORGOTTEN,
    STALE,
    Change,
    ChangeState,
    Outcome,
    left_alone,
    outcome_counts,
)
from backfill_pipelines.engine.ledger import Run
from backfill_pipelines.engine.partition_run import with_outcomes
from backfill_pipelines.engine.plan import Action
from backfill_pipelines.engine.side_by_side import side_by_side
from backfill_pipelines.vendors import convex
from backfill_pipelines.vendors.convex import Patch, RejectedRow, Row
from backfill_pipelines.vendors.convex_records import EXACT, NO_CLERK_ID

GONE_FROM_CLERK = "gone_from_clerk"
_EXAMPLES = 20
_OUTCOMES: Mapping[convex.Outcome, tuple[ChangeState, str | None]] = {
    convex.Outcome.PATCHED: (ChangeState.APPLIED, None),
    # Mostly our own, whose reply was lost on the way and which the transport sent again.
    convex.Outcome.ALREADY: (ChangeState.APPLIED, None),
    convex.Outcome.CONFLICT: (ChangeState.CONFLICT, STALE),
    convex.Outcome.MISSING: (ChangeState.CONFLICT, "record_gone"),
    convex.Outcome.DUPLICATE_ROWS: (ChangeState.CONFLICT, "duplicate_rows"),
    convex.Outcome.OTHER_CLERK_ID: (ChangeState.CONFLICT, STALE),
    convex.Outcome.REFUSED_BY_SCHEMA: (ChangeState.FAILED, "refused_by_schema"),
}


class ConvexUsersOptions(RunOptions):
    """What a run of `convex_users` may be asked for besides."""

    clear_nulls: bool = Field(
        default=False, description="Remove a field that Clerk has empty; by default it is left alone."
    )


class ConvexUsers:
    """Every row of the app's users has the profile that Clerk has."""

    name: ClassVar[str] = "convex_users"
    description: ClassVar[str] = (
        "Names, address, picture and times of Clerk's users in the Convex table of users. Updates rows that are there, "
        "field by field where they differ; inserts, deletes and touches nothing else."
    )
    source_asset: ClassVar[str] = "clerk_profiles"
    target_asset: ClassVar[str] = "convex_users"
    kinds: ClassVar[Mapping[Literal["source", "plan", "target"], set[str]]] = {
        "source": {"python"},
        "plan": {"pandas"},
        "target": {"typescript"},
    }
    partition_kind: ClassVar[Literal["client", "workspace"]] = "workspace"
    uses: ClassVar[frozenset[str]] = frozenset({"clerk", "convex"})
    options_model: ClassVar[type[RunOptions]] = ConvexUsersOptions
    schedule: ClassVar[str] = "0 2 * * 0"

    # --- what must be true before anything starts -----------------------------------------------------------------

    def preflight(self, scope: Scope) -> None:
        """Check what the registry says; raises `ConfigurationError`. What only the vendors know, the reading shows."""
        scope.registry.require_partition("workspace", scope.partition_key, sorted(self.uses))
        workspace, access = scope.registry.workspace(scope.partition_key), access_of(scope)
        if workspace.clerk is not None:
            workspace.clerk.secret_key.resolve()
        access.url.resolve()
        access.deploy_key.resolve()

    # --- extract ---------------------------------------------------------------------------------------------------

    async def extract(self, scope: Scope) -> None:
        """Land Clerk's users and the table's rows, side by side."""
        deployment, clerk = await convex_of(scope), await clerk_of(scope)
        # One lane: a second one would be faster, for two requests more than a reading may take.
        await side_by_side(land_documents(scope, deployment), land_users(scope, clerk, lanes=1))

    # --- plan ------------------------------------------------------------------------------------------------------

    def plan(self, scope: Scope) -> Plan:
        """Compare each user with the row that has its id."""
        plan = _planned(scope, list_skips=scope.registry.store_skips(self.name, scope.partition_key))
        return Plan(source=count_users(scope), frames=_told(scope, plan), skips=plan.skips)

    # --- load and undo ---------------------------------------------------------------------------------------------

    def target(self, scope: Scope) -> ConvexTarget:
        """Batches of rows, each one transaction in Convex, each row by compare-and-set."""
        return ConvexTarget(scope)

    async def read_target(self, scope: Scope) -> None:
        """Nothing where this run has landed the table: what it wrote is noted there. Where it loads an earlier plan, or
        a verification has begun to land anew meanwhile, the table is read."""
        await land_documents(scope, await convex_of(scope))

    # --- verify ----------------------------------------------------------------------------------------------------

    def verify(self, scope: Scope) -> Reconciliation:
        """Every row with a user of Clerk equals it in the eight fields.

        Right after a load against what Convex said that it wrote, which is in the landing; `backfill verify` reads both
        sides anew.
        """
        plan, loaded = _planned(scope, list_skips=False), dict(scope.details)
        with scope.engine.connect() as connection:
            alone = left_alone(connection, backfill=scope.backfill, partition_key=scope.partition_key, target=TARGET)
        different: list[str] = []
        explained = 0
        for frame in _told(scope, plan):
            wrong = frame[frame["action"] == Action.UPDATE]["record_key"].tolist()
            unexplained = [key for key in wrong if key not in alone]
            different += unexplained
            explained += len(frame) - len(unexplained)
        # What a load has told of itself stands.
        scope.details |= loaded
        return Reconciliation(
            equal=plan.skips[UNCHANGED],
            missing=0,
            extra=plan.gone_from_clerk,
            different=len(different),
            explained=explained,
            passed=not different,
            examples={"different_user_ids": different[:_EXAMPLES]},
            figures={"users not in Convex": plan.skips[NOT_IN_CONVEX], "rows gone from Clerk": plan.gone_from_clerk},
        )

    def compare_partitions(self, runs: Sequence[Run]) -> Mapping[str, str]:  # noqa: ARG002 - the protocol's
        """Deployments have nothing in common."""
        return {}


def _planned(scope: Scope, *, list_skips: bool) -> UsersPlan:
    # An undo and a verification come with the plain options.
    clear_nulls = getattr(scope.options, "clear_nulls", False) is True
    return plan_users(pair_frames(scope), clear_nulls=clear_nulls, list_skips=list_skips)


# --- the target ------------------------------------------------------------------------------------------------------


class ConvexTarget:
    """Rows of the plan as patches. To send one again is safe: what was written already is answered as such.

    Whatever it has learnt is in the run's details at once, so that a load that fails tells how far it came.
    """

    batch_rows = convex.ROWS_A_BATCH
    concurrency = convex.CALLS_AT_ONCE
    window_rows = convex.ROWS_A_BATCH * convex.CALLS_AT_ONCE * 4

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._reading = asyncio.Lock()
        self._standing: Mapping[str, Sequence[Row | RejectedRow]] | None = None
        with scope.engine.connect() as connection:
            run = tables.run
            planned = select(run.c.planned_counts, run.c.planned_reasons).where(run.c.id == scope.run_id)
            self._planned = connection.execute(planned).one()
            states, codes = outcome_counts(connection, scope.run_id)
        self._states, self._codes = Counter(states), Counter(codes)
        self._tell()

    async def moved(self, changes: Sequence[Change]) -> Mapping[int, str]:  # noqa: ARG002 - the protocol's
        """Nothing: Convex compares in the transaction that writes."""
        return {}

    async def write(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        """Write; what was written is noted in the landing as well, for the verification.

        Fewer outcomes than changes: what follows failed, and does so again when it is sent again.
        """
        patches = [_patch(change) for change in changes]
        answers = [_OUTCOMES[answer] for answer in await (await convex_of(self._scope)).patch(patches)]
        patches = patches[: len(answers)]
        written = [patch for patch, (state, _) in zip(patches, answers, strict=True) if state is ChangeState.APPLIED]
        await asyncio.to_thread(note_written, self._scope, written)
        self._states.update(state for state, _ in answers)
        self._codes.update(code for _, code in answers if code is not None)
        self._tell()
        return [
            Outcome(seq=change.seq, state=state, error_code=code, record_id=patch.document_id)
            for change, patch, (state, code) in zip(changes, patches, answers, strict=False)
        ]

    async def find_written(self, changes: Sequence[Change]) -> Mapping[int, Outcome]:  # noqa: ARG002 - the protocol's
        """None that need be known: to send a patch again tells."""
        return {}

    async def undo(self, changes: Sequence[Change], *, dry_run: bool) -> Sequence[Outcome]:
        """Patch the previous values back into each field that still holds ours.

        A row of which a field has been changed since keeps that field, stays `applied` with `changed_since`, and may be
        undone again: the fields that are back are not written then.
        """
        kept = [change for change in changes if change.after is not None]
        back = [_reverse(_patch(change)) for change in kept]
        if dry_run:
            found = [None if each.whole else CHANGED_SINCE for each in await self._remainders(back)]
        else:
            found = await self._take_back(back)
        # Of what retention has blanked nobody knows any more what to take back.
        codes = {change.seq: FORGOTTEN for change in changes if change.after is None}
        codes |= {change.seq: code for change, code in zip(kept, found, strict=True) if code is not None}
        return [
            Outcome(
                seq=change.seq,
                state=ChangeState.APPLIED if change.seq in codes else ChangeState.UNDONE,
                error_code=codes.get(change.seq),
            )
            for change in changes
        ]

    async def _take_back(self, back: Sequence[Patch]) -> list[str | None]:
        """Write whole changes back, then, of those that somebody has moved, the fields that are still ours; for each
        the code of what is not back.

        The table is read for the latter alone: a table of a million takes hundreds of calls, a batch one.
        """
        answers = await self._patched(back)
        codes = [_code(answer) for answer in answers]
        moved = [place for place, answer in enumerate(answers) if answer is convex.Outcome.CONFLICT]
        left = await self._remainders([back[place] for place in moved])
        answers_to_parts = iter(await self._patched([each.patch for each in left if each.patch is not None]))
        for place, each in zip(moved, left, strict=True):
            code = None if each.patch is None else _code(next(answers_to_parts))
            codes[place] = code if code is not None or each.whole else CHANGED_SINCE
        return codes

    async def _patched(self, patches: Sequence[Patch]) -> Sequence[convex.Outcome]:
        deployment = await convex_of(self._scope)
        answers: list[convex.Outcome] = []
        while len(answers) < len(patches):
            # What fails half-way raises, and the next undo finds the first half `ALREADY` there.
            answers += await deployment.patch(patches[len(answers) :])
        return answers

    async def _remainders(self, back: Sequence[Patch]) -> Sequence[Remainder]:
        """What is left to take back of these changes as the rows are.

        The table is read once, whoever asks, and only the users that the run has changed are kept.
        """
        if not back:
            return []
        async with self._reading:
            if self._standing is None:
                wanted = await asyncio.to_thread(self._changed_users)
                found: defaultdict[str, list[Row | RejectedRow]] = defaultdict(list)
                async for page in (await convex_of(self._scope)).pages():
                    rows: list[Row | RejectedRow] = [*page.rows, *page.rejected]
                    for row in rows:
                        if row.clerk_id is not None and row.clerk_id in wanted:
                            found[row.clerk_id].append(row)
                self._standing = found
        return [remainder(patch, self._standing.get(patch.clerk_id, ())) for patch in back]

    def _changed_users(self) -> set[str]:
        change = tables.change
        applied = (change.c.run_id == self._scope.run_id) & (change.c.state == ChangeState.APPLIED)
        with self._scope.engine.connect() as connection:
            return set(connection.scalars(select(change.c.record_key).where(applied)))

    def _tell(self) -> None:
        counts, reasons = with_outcomes(*self._planned, self._states, self._codes)
        problems = counts[Action.REJECT] + counts[Action.CONFLICT] + counts["failed"]
        self._scope.details |= _result(
            users=counts["source"], written=counts["applied"], problems=problems, reasons=reasons
        )


def _patch(change: Change) -> Patch:
    before, after = _sendable(change.before), _sendable(change.after)
    document_id = str(before.pop(DOCUMENT))
    after.pop(DOCUMENT)
    return Patch(document_id=document_id, clerk_id=change.record_key, before=before, after=after)


def _sendable(values: Mapping[str, Any] | None) -> dict[str, Any]:
    """Values of the journal as they were read: what is too large for an int of 64 bits was a float."""
    return {
        name: float(value) if isinstance(value, int) and abs(value) > EXACT else value
        for name, value in (values or {}).items()
    }


def _reverse(patch: Patch) -> Patch:
    return Patch(document_id=patch.document_id, clerk_id=patch.clerk_id, before=patch.after, after=patch.before)


def _code(answer: convex.Outcome) -> str | None:
    """Why a patch back is not made; None where the row holds what it was to."""
    state, code = _OUTCOMES[answer]
    return CHANGED_SINCE if state is ChangeState.CONFLICT else code


# --- what a run tells ------------------------------------------------------------------------------------------------


def _told(scope: Scope, plan: UsersPlan) -> Iterator[pd.DataFrame]:
    """The plan's frames; what they come to is told after the last one."""
    reasons: Counter[str] = Counter()
    problems = 0
    for frame in plan.frames:
        reasons.update(frame["reason"].dropna().tolist())
        problems += int(frame["action"].isin((Action.REJECT, Action.CONFLICT)).sum())
        yield frame
    scope.details |= _result(users=plan.users, written=0, problems=problems, reasons=reasons + plan.skips)
    scope.details |= {GONE_FROM_CLERK: plan.gone_from_clerk, NO_CLERK_ID: plan.of_nobody}
    if plan.gone_from_clerk:
        scope.warnings.add(GONE_FROM_CLERK)


def _result(*, users: int, written: int, problems: int, reasons: Mapping[str, int]) -> Mapping[str, Any]:
    """The figures of a run: `errorCount` is what was rejected, left as a conflict, or failed."""
    return {
        "totalClerkUsers": users,
        "successCount": written,
        "errorCount": problems,
        "timestamp": datetime.now(UTC).isoformat(),
        "reasons": dict(sorted(reasons.items())),
    }
