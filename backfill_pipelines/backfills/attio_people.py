"""`attio_people`: every Clerk user of a workspace has an Attio person with its `user_id`.

The story, top to bottom: what it is, what must be true before it starts, what it reads, what it plans, how it writes,
how it checks. Does not belong here: landing users (`clerk_landing.py`) and people (`attio_people_source.py`), the pure
decisions (`attio_people_plan.py`), the order of a write (`attio_people_target.py`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any, ClassVar, Literal

from pydantic import Field
from sqlalchemy import Connection, text

from backfill_pipelines.backfills.attio_people_plan import (
    ELSEWHERE,
    TARGET,
    Decision,
    PeoplePlan,
    plan_people,
)
from backfill_pipelines.backfills.attio_people_source import (
    AFTER,
    BEFORE,
    land_people,
    person_frames,
    unreadable_people,
    user_frames,
)
from backfill_pipelines.backfills.attio_people_target import REPLANNED, AttioPeopleTarget
from backfill_pipelines.backfills.attio_workspace import attio_of, require_ready
from backfill_pipelines.backfills.clerk_landing import clerk_of, land_users
from backfill_pipelines.backfills.large_plans import unseen_by_garbage_collection, without_garbage_collection
from backfill_pipelines.engine.backfill import Plan, Reconciliation, RunOptions, Scope
from backfill_pipelines.engine.journal import executed_count, left_alone
from backfill_pipelines.engine.ledger import Run
from backfill_pipelines.engine.plan import Action
from backfill_pipelines.vendors.attio_access import WRITE_SLACK, WRITES_PER_SECOND
from backfill_pipelines.vendors.attio_records import PEOPLE, USER_ID

_EXAMPLES = 20
UNREADABLE = "unreadable_people"
"""The warning that some of Attio's people could not be read: no user matches them."""


class AttioPeopleOptions(RunOptions):
    """What a run of `attio_people` may be asked for besides."""

    overwrite: bool = Field(default=False, description="Replace another user_id that a matched person has.")
    include_banned: bool = Field(default=False, description="Treat banned and deprovisioned users as all others.")


class AttioPeople:
    """Every Clerk user of a workspace has an Attio person with its `user_id`."""

    name: ClassVar[str] = "attio_people"
    description: ClassVar[str] = (
        "One Attio person with the attribute user_id per Clerk user of the workspace. Creates who is missing, sets "
        "what is empty, never touches another attribute."
    )
    source_asset: ClassVar[str] = "clerk_users"
    target_asset: ClassVar[str] = "attio_people"
    kinds: ClassVar[Mapping[Literal["source", "plan", "target"], set[str]]] = {
        "source": {"python"},
        "plan": {"pandas"},
        "target": {"python"},
    }
    partition_kind: ClassVar[Literal["client", "workspace"]] = "workspace"
    uses: ClassVar[frozenset[str]] = frozenset({"clerk", "attio"})
    options_model: ClassVar[type[RunOptions]] = AttioPeopleOptions
    schedule: ClassVar[str] = "30 3 * * *"

    # --- what must be true before anything starts -----------------------------------------------------------------

    def preflight(self, scope: Scope) -> None:
        """Check the workspace's entry; raises `ConfigurationError`. What needs the network is checked by `extract`."""
        scope.registry.require_partition("workspace", scope.partition_key, sorted(self.uses))
        workspace = scope.registry.workspace(scope.partition_key)
        if workspace.clerk is not None and workspace.attio is not None:
            workspace.clerk.secret_key.resolve()
            workspace.attio.api_key.resolve()

    # --- extract ---------------------------------------------------------------------------------------------------

    async def extract(self, scope: Scope) -> None:
        """Land Clerk's users and Attio's people. Each key opens its own instance or workspace and no other."""
        attio, clerk = await attio_of(scope), await clerk_of(scope)
        await require_ready(scope, attio, object_slug=PEOPLE, attribute=USER_ID)
        await land_users(scope, clerk)
        await land_people(scope, attio, stream=BEFORE)

    # --- plan ------------------------------------------------------------------------------------------------------

    def plan(self, scope: Scope) -> Plan:
        """Compare users with people, and say what to do."""
        with without_garbage_collection():
            planned = plan_people(
                user_frames(scope),
                person_frames(scope),
                overwrite=_option(scope, "overwrite"),
                include_banned=_option(scope, "include_banned"),
                list_skips=scope.registry.store_skips(self.name, scope.partition_key),
            )
        self._tell(scope, planned)
        frames = unseen_by_garbage_collection(planned.frames)
        return Plan(source=planned.source, frames=frames, skips=planned.skips)

    def _tell(self, scope: Scope, planned: PeoplePlan) -> None:
        with scope.engine.connect() as connection:
            unreadable = unreadable_people(connection, scope.partition_key)
        writes = planned.count(Action.CREATE) + planned.count(Action.UPDATE)
        scope.details |= {
            "processed": planned.source,
            "skipped": planned.count(Action.SKIP),
            "conflicts": planned.count(Action.CONFLICT),
            # What nobody can be faster than.
            "load_seconds": ceil(writes * (1 + WRITE_SLACK) / WRITES_PER_SECOND),
        }
        if unreadable:
            scope.warnings.add(UNREADABLE)
            scope.details[UNREADABLE] = unreadable
        if planned.decisions.get(Decision(Action.SKIP, ELSEWHERE)):
            scope.warnings.add(ELSEWHERE)

    # --- load and undo ---------------------------------------------------------------------------------------------

    def target(self, scope: Scope) -> AttioPeopleTarget:
        """Record by record, over the API, at 25 writes a second."""
        return AttioPeopleTarget(scope, overwrite=_option(scope, "overwrite"))

    async def read_target(self, scope: Scope) -> None:
        """Land Attio's people as they are after a load, unless it wrote nothing."""
        if await asyncio.to_thread(_count_outcomes, scope):
            await land_people(scope, await attio_of(scope), stream=AFTER)

    # --- verify ----------------------------------------------------------------------------------------------------

    def verify(self, scope: Scope) -> Reconciliation:
        """Every user with an address has exactly one person with its `user_id`."""
        with scope.engine.connect() as connection:
            users = _count_users(connection, scope)
            differing = _differing_users(connection, scope)
            strangers = _ids_of_nobody(connection, scope)
            alone = left_alone(connection, backfill=scope.backfill, partition_key=scope.partition_key, target=TARGET)
        unexplained = {user_id: people for user_id, people in differing.items() if user_id not in alone}
        missing = [user_id for user_id, people in unexplained.items() if people == 0]
        different = [user_id for user_id, people in unexplained.items() if people > 0]
        return Reconciliation(
            equal=users - len(differing),
            missing=len(missing),
            extra=len(strangers),
            different=len(different),
            explained=len(differing) - len(unexplained),
            passed=not missing and not different,
            examples={
                "missing_user_ids": missing[:_EXAMPLES],
                "different_user_ids": different[:_EXAMPLES],
                "extra_record_ids": strangers[:_EXAMPLES],
            },
            figures={"users with an address": users},
        )

    def compare_partitions(self, runs: Sequence[Run]) -> Mapping[str, str]:  # noqa: ARG002 - the protocol's
        """Nothing: two workspaces may share an instance, a key, or both."""
        return {}


def _option(scope: Scope, name: Literal["overwrite", "include_banned"]) -> bool:
    # An undo and a verification come with the plain options.
    return getattr(scope.options, name, False) is True


# --- what the journal and the landing tables say ---------------------------------------------------------------------


def _count_outcomes(scope: Scope) -> int:
    """Put what became of the plan's rows into the run's details; returns how many have an outcome."""
    with scope.engine.connect() as connection:
        rows = connection.execute(
            text(
                "SELECT action, state, reason, error_code, count(*) FROM backfill.change WHERE run_id = :run_id"
                " GROUP BY 1, 2, 3, 4"
            ),
            {"run_id": scope.run_id},
        )
        counts: Counter[str] = Counter()
        errors: Counter[str] = Counter()
        for action, state, reason, error_code, count in rows:
            if "conflict" in (action, state):
                counts["conflicts"] += count
            elif state == "failed":
                errors[error_code] += count
            elif state == "applied":
                counts["created" if action == Action.CREATE else "updated"] += count
                counts[REPLANNED] += count if reason == REPLANNED else 0
        scope.details |= {name: counts[name] for name in ("created", "updated", REPLANNED, "conflicts")}
        scope.details["errors"] = dict(sorted(errors.items()))
        return executed_count(connection, scope.run_id)


_WITH_ADDRESS = (
    "u.partition_key = :key AND u.rejected IS NULL AND (:banned OR NOT u.banned)"
    " AND (u.primary_email IS NOT NULL OR u.verified_emails <> '[]')"
)


def _count_users(connection: Connection, scope: Scope) -> int:
    statement = text(f"SELECT count(*) FROM backfill.clerk_user AS u WHERE {_WITH_ADDRESS}")  # noqa: S608 - ours
    return connection.scalar(statement, _parameters(scope)) or 0


def _differing_users(connection: Connection, scope: Scope) -> dict[str, int]:
    """Users with an address that not exactly one person has the id of, and how many have."""
    statement = text(
        "WITH held AS (SELECT h.user_id, count(DISTINCT p.record_id) AS people FROM backfill.attio_person AS p,"  # noqa: S608 - ours
        " jsonb_array_elements_text(p.user_ids) AS h(user_id) WHERE p.partition_key = :key GROUP BY 1)"
        " SELECT u.user_id, coalesce(held.people, 0) FROM backfill.clerk_user AS u LEFT JOIN held USING (user_id)"
        f" WHERE {_WITH_ADDRESS} AND coalesce(held.people, 0) <> 1 ORDER BY 1"
    )
    return {row[0]: row[1] for row in connection.execute(statement, _parameters(scope))}


def _ids_of_nobody(connection: Connection, scope: Scope) -> list[str]:
    """People with the id of nobody who is a user: of another product in the same workspace, or of somebody who left."""
    statement = text(
        "SELECT DISTINCT p.record_id FROM backfill.attio_person AS p, jsonb_array_elements_text(p.user_ids)"
        " AS h(user_id) WHERE p.partition_key = :key AND NOT EXISTS (SELECT 1 FROM backfill.clerk_user AS u"
        " WHERE u.partition_key = :key AND u.user_id = h.user_id) ORDER BY 1"
    )
    return list(connection.scalars(statement, {"key": scope.partition_key}))


def _parameters(scope: Scope) -> dict[str, Any]:
    return {"key": scope.partition_key, "banned": _option(scope, "include_banned")}
