"""`backfill attio create-attributes`: the attributes that the Attio backfills write, made where they are missing.

Belongs here: which attributes those are, making them in the chosen workspaces, and what the command answers. Does not
belong here: the check before a run (`backfills/attio_workspace.py`), HTTP.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx

from backfill_pipelines.command_line.failures import FAILED, print_json
from backfill_pipelines.command_line.output import wide_console
from backfill_pipelines.command_line.run import require_choice
from backfill_pipelines.errors import BackfillError, ConfigurationError
from backfill_pipelines.registry import Registry, Workspace, load_registry, registry_path
from backfill_pipelines.vendors.attio import Attio
from backfill_pipelines.vendors.attio_access import BASE_URL, connect, identify, quotas
from backfill_pipelines.vendors.attio_records import (
    ATTRIBUTE_SCOPES,
    COMPANIES,
    ORG_ID,
    PEOPLE,
    USER_ID,
    attribute_problem,
)
from backfill_pipelines.vendors.clock import SystemClock
from backfill_pipelines.vendors.http_client import open_http_client
from backfill_pipelines.vendors.quota_store import InMemoryQuotaStore
from backfill_pipelines.vendors.transport import RetryBudget


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """An attribute that a backfill writes."""

    object_slug: str
    slug: str
    title: str
    description: str


_ATTRIBUTES = (
    _Wanted(
        object_slug=PEOPLE,
        slug=USER_ID,
        title="User ID",
        description="The person's user id in the product (Clerk). Written by the backfill attio_people.",
    ),
    _Wanted(
        object_slug=COMPANIES,
        slug=ORG_ID,
        title="Organization ID",
        description="The company's main organization in the product (Clerk). Written by the backfill "
        "attio_company_orgs.",
    ),
)


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """What became of one attribute of one workspace, or of a workspace that could not be asked (`attribute` None)."""

    key: str
    attribute: str | None
    outcome: Literal["created", "exists", "unusable", "failed"]
    code: str | None = None
    sentence: str | None = None


def create_attributes(workspaces: Sequence[str], *, all_workspaces: bool, as_json: bool) -> int:
    """Make `user_id` of people and `org_id` of companies where they are missing; returns the exit code.

    0 where every workspace has both now, usable for us; 1 where one has not. Asking twice makes nothing twice.
    """
    require_choice(workspaces, all_partitions=all_workspaces)
    registry = load_registry(registry_path(os.environ, Path.cwd()), environ=os.environ)
    for key in workspaces:
        registry.require_partition("workspace", key, "attio")
    keys = registry.partition_keys("workspace", "attio") if all_workspaces else list(dict.fromkeys(workspaces))
    if not keys:
        raise ConfigurationError("no_partitions", "The registry has no workspace with an attio section; add one.")
    answers = asyncio.run(_create_all(registry, keys))
    if as_json:
        print_json(_document(answers, keys))
    else:
        _print(answers)
    return FAILED if any(answer.outcome in ("unusable", "failed") for answer in answers) else 0


async def _create_all(registry: Registry, keys: Sequence[str]) -> list[_Answer]:
    """One workspace after the other: two may share a key, and then the second finds what the first has made."""
    answers: list[_Answer] = []
    async with open_http_client() as http:
        for key in keys:
            try:
                answers += await _create(http, registry, registry.workspace(key))
            except BackfillError as error:
                answers.append(
                    _Answer(key=key, attribute=None, outcome="failed", code=error.code, sentence=error.message)
                )
    return answers


async def _create(http: httpx.AsyncClient, registry: Registry, workspace: Workspace) -> list[_Answer]:
    if workspace.attio is None:
        raise ConfigurationError("missing_section", f"{workspace.label} has no attio section in the registry; add it.")
    api_key, clock, retry_budget = workspace.attio.api_key.resolve(), SystemClock(), RetryBudget()
    base_url = registry.vendor_base_url("attio", workspace) or BASE_URL
    token = await identify(http, api_key=api_key, retry_budget=retry_budget, clock=clock, base_url=base_url)
    budgets = quotas(token.workspace_id, store=InMemoryQuotaStore(clock), clock=clock)
    async with budgets.read, budgets.write:
        attio = connect(
            http, api_key=api_key, quotas=budgets, retry_budget=retry_budget, clock=clock, base_url=base_url
        )
        return [
            await _create_one(attio, workspace, wanted, missing_scopes=token.missing(ATTRIBUTE_SCOPES))
            for wanted in _ATTRIBUTES
        ]


async def _create_one(attio: Attio, workspace: Workspace, wanted: _Wanted, *, missing_scopes: Sequence[str]) -> _Answer:
    name = f"{wanted.object_slug}.{wanted.slug}"
    standing = (await attio.attributes(wanted.object_slug)).get(wanted.slug)
    made = standing is None
    if standing is None:
        if missing_scopes:
            raise ConfigurationError(
                "missing_scopes",
                f"The Attio API key of {workspace.label} lacks {', '.join(missing_scopes)}, which making {name} needs: "
                "give it the scope in Attio under Workspace settings, Developers, or make the attribute there.",
            )
        standing = await attio.create_text_attribute(
            wanted.object_slug, wanted.slug, title=wanted.title, description=wanted.description
        )
    problem = attribute_problem(standing)
    if problem is None:
        return _Answer(key=workspace.key, attribute=name, outcome="created" if made else "exists")
    return _Answer(
        key=workspace.key,
        attribute=name,
        outcome="unusable",
        code=f"attribute_{problem}",
        sentence=f"{workspace.label} has an attribute {name} that cannot hold our ids ({problem}): "
        + ("restore it in Attio." if problem == "archived" else "rename it in Attio, then ask for this again."),
    )


def _document(answers: Sequence[_Answer], keys: Sequence[str]) -> object:
    return {
        "workspaces": [
            {
                "key": key,
                "attributes": {
                    answer.attribute: answer.outcome
                    for answer in answers
                    if answer.key == key and answer.attribute is not None
                },
                "errors": [
                    {"code": answer.code, "message": answer.sentence}
                    for answer in answers
                    if answer.key == key and answer.code is not None
                ],
            }
            for key in keys
        ]
    }


def _print(answers: Sequence[_Answer]) -> None:
    console = wide_console()
    for answer in answers:
        about = f"{answer.key}: {answer.attribute or 'not asked'} {answer.outcome}"
        line = about if answer.sentence is None else f"{about}: {answer.sentence} [{answer.code}]"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
