"""`attio_company_orgs`: the main Clerk organization of every Attio company, as its `org_id`, per workspace.

The story, top to bottom: what it is, what must be true before it starts, what it reads, what it plans, how it writes,
how it checks. Does not belong here: reading Attio's companies (`attio_company_orgs_source.py`) and Clerk's lists
(`clerk_landing.py`), the pure decisions (`attio_company_orgs_choice.py`, `attio_company_orgs_plan.py`), writing
(`attio_target.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import ceil
from typing import ClassVar, Literal

from pydantic import Field

from backfill_pipelines.backfills.attio_company_orgs_choice import Rules, choose
from backfill_pipelines.backfills.attio_company_orgs_plan import (
    SHARED_ORG,
    TARGET,
    compare,
    plan_companies,
    shown_candidate,
)
from backfill_pipelines.backfills.attio_company_orgs_source import (
    RULES,
    executed_records,
    land_companies,
    landed,
    read_companies_again,
    results,
    rules_of_newest_plan,
    written_records,
)
from backfill_pipelines.backfills.attio_target import ORG_ID_OF_COMPANIES, AttioTextTarget
from backfill_pipelines.backfills.attio_workspace import attio_of, require_ready
from backfill_pipelines.backfills.clerk_landing import clerk_of, land_memberships, land_organizations, land_users
from backfill_pipelines.engine.backfill import Plan, Reconciliation, RunOptions, Scope
from backfill_pipelines.engine.journal import left_alone
from backfill_pipelines.engine.ledger import Run
from backfill_pipelines.engine.side_by_side import side_by_side
from backfill_pipelines.registry import AttioCompanyOrgsSettings
from backfill_pipelines.vendors.attio_access import WRITE_SLACK, WRITES_PER_SECOND
from backfill_pipelines.vendors.attio_records import COMPANIES, ORG_ID

_EXAMPLES = 20
_SHOWN_COMPANIES = 20


class AttioCompanyOrgsOptions(RunOptions):
    """What a run of `attio_company_orgs` may be asked for besides."""

    min_members: int | None = Field(
        default=None, ge=1, description="Leave out organizations with fewer members; overrides the registry's setting."
    )
    include_banned: bool = Field(
        default=False, description="Count banned and deprovisioned users among a company's people, too."
    )


class AttioCompanyOrgs:
    """Every Attio company has the `org_id` of its main Clerk organization."""

    name: ClassVar[str] = "attio_company_orgs"
    description: ClassVar[str] = (
        "The org_id of every Attio company that has none yet: of the Clerk organizations that people with an address "
        "at the company's domains are in, the one with the most members. Never changes an org_id that is there."
    )
    source_asset: ClassVar[str] = "clerk_organizations"
    target_asset: ClassVar[str] = "attio_companies"
    kinds: ClassVar[Mapping[Literal["source", "plan", "target"], set[str]]] = {
        "source": {"python"},
        "plan": {"pandas"},
        "target": {"python"},
    }
    partition_kind: ClassVar[Literal["client", "workspace"]] = "workspace"
    uses: ClassVar[frozenset[str]] = frozenset({"clerk", "attio"})
    options_model: ClassVar[type[RunOptions]] = AttioCompanyOrgsOptions
    schedule: ClassVar[str] = "30 4 * * *"

    # --- what must be true before anything starts -----------------------------------------------------------------

    def preflight(self, scope: Scope) -> None:
        """Check the workspace's entry; raises `ConfigurationError`. The key itself is tried in `extract`."""
        _rules(scope)
        scope.registry.require_partition(self.partition_kind, scope.partition_key, sorted(self.uses))
        workspace = scope.registry.workspace(scope.partition_key)
        if workspace.clerk is not None and workspace.attio is not None:
            workspace.clerk.secret_key.resolve()
            workspace.attio.api_key.resolve()

    # --- extract ---------------------------------------------------------------------------------------------------

    async def extract(self, scope: Scope) -> None:
        """Land Clerk's users, organizations and memberships, and Attio's companies, side by side."""
        attio = await attio_of(scope)
        await require_ready(scope, attio, object_slug=COMPANIES, attribute=ORG_ID)
        clerk = await clerk_of(scope)
        await side_by_side(
            land_users(scope, clerk, shareable=True),
            land_organizations(scope, clerk),
            land_memberships(scope, clerk),
            land_companies(scope, attio),
        )

    # --- plan ------------------------------------------------------------------------------------------------------

    def plan(self, scope: Scope) -> Plan:
        """Find every company's main organization, and say what to do."""
        rules = _rules(scope)
        choices = choose(landed(scope), rules)
        plan = plan_companies(
            choices,
            store_skips=scope.registry.store_skips(self.name, scope.partition_key),
            shown=_SHOWN_COMPANIES,
        )
        if plan.shared_orgs:
            scope.warnings.add(SHARED_ORG)
        scope.details |= {
            "processed": len(choices.companies),
            RULES: asdict(rules),
            # What nobody can be faster than.
            "load_seconds": ceil(plan.updates * (1 + WRITE_SLACK) / WRITES_PER_SECOND),
            "skipped": plan.skipped,
            "shared_orgs": plan.shared_orgs,
            "candidates": {
                company.record_id: [shown_candidate(each) for each in company.choice.candidates]
                for company in plan.with_choice
            },
        }
        return Plan(source=len(choices.companies) + len(choices.rejects), frames=plan.frames, skips=plan.skips)

    # --- load and undo ---------------------------------------------------------------------------------------------

    def target(self, scope: Scope) -> AttioTextTarget:
        """`org_id` alone, where the company still has none."""
        return AttioTextTarget(scope, ORG_ID_OF_COMPANIES)

    # --- verify ----------------------------------------------------------------------------------------------------

    async def read_target(self, scope: Scope) -> None:
        """Land the companies again that the load has come to; none where it had nothing to do."""
        record_ids = await asyncio.to_thread(executed_records, scope)
        if record_ids:
            await read_companies_again(scope, await attio_of(scope), record_ids)
        scope.details |= await asyncio.to_thread(results, scope)

    def verify(self, scope: Scope) -> Reconciliation:
        """Every company's main organization, found anew by the rules of the newest plan, against its `org_id`."""
        choices = choose(landed(scope), rules_of_newest_plan(scope) or _rules(scope))
        with scope.engine.connect() as connection:
            left = left_alone(connection, backfill=self.name, partition_key=scope.partition_key, target=TARGET)
        comparison = compare(choices, written=written_records(scope), left_alone=left)
        return Reconciliation(
            equal=comparison.equal,
            missing=len(comparison.missing),
            extra=0,
            different=len(comparison.different),
            explained=comparison.explained,
            passed=not comparison.missing and not comparison.different,
            examples={
                "missing_record_ids": comparison.missing[:_EXAMPLES],
                "different_record_ids": comparison.different[:_EXAMPLES],
                "set_otherwise_record_ids": comparison.set_otherwise[:_EXAMPLES],
            },
            figures={
                "companies": len(choices.companies),
                "set otherwise": len(comparison.set_otherwise),
                "rejected at the source": len(choices.rejects),
            },
        )

    def compare_partitions(self, runs: Sequence[Run]) -> Mapping[str, str]:  # noqa: ARG002 - the protocol's
        """Nothing: each workspace has organizations and companies of its own."""
        return {}


def _rules(scope: Scope) -> Rules:
    settings = scope.registry.settings(AttioCompanyOrgsSettings, scope.registry.workspace(scope.partition_key))
    # An undo and a verification come with the plain options.
    asked = scope.options if isinstance(scope.options, AttioCompanyOrgsOptions) else AttioCompanyOrgsOptions()
    return Rules(min_members=asked.min_members or settings.min_members, include_banned=asked.include_banned)
