"""The Attio workspace of a partition: its client, and what must be true of it before anything is read or written.

Belongs here: whose key it is, the budget that all keys of a workspace share, the preflight over the network. Does not
belong here: HTTP (`vendors/attio*.py`), what is read and written (the backfills).
"""

from __future__ import annotations

from dataclasses import dataclass

from backfill_pipelines.backfills.shared_connections import shared_http
from backfill_pipelines.engine.backfill import Scope
from backfill_pipelines.errors import ConfigurationError
from backfill_pipelines.registry import Workspace
from backfill_pipelines.vendors.attio import Attio
from backfill_pipelines.vendors.attio_access import BASE_URL, AttioQuotas, connect, identify, quotas
from backfill_pipelines.vendors.attio_records import WRITE_SCOPES, TokenInfo, attribute_problem
from backfill_pipelines.vendors.clock import SystemClock
from backfill_pipelines.vendors.postgres_quota_store import PostgresQuotaStore
from backfill_pipelines.vendors.retry import RetryBudget

_PROBLEMS = {
    "missing": "does not exist: make it with `backfill attio create-attributes --client {key}`",
    "archived": "is archived and so keeps its name from a new one: restore it in Attio's settings of the object",
    "not_text": "is of another type than text: rename it in Attio and make a text attribute of that name with "
    "`backfill attio create-attributes --client {key}`",
    "multiselect": "takes several values: rename it in Attio and make one that takes a single text with "
    "`backfill attio create-attributes --client {key}`",
    "read_only": "cannot be written through the API: rename it in Attio and make one that can with "
    "`backfill attio create-attributes --client {key}`",
}


@dataclass(frozen=True, kw_only=True)
class _Access:
    """What a key stands for, and its client."""

    token: TokenInfo
    attio: Attio


async def attio_of(scope: Scope) -> Attio:
    """The client for the workspace's API key; all keys of one Attio workspace share its two budgets.

    Each key is identified once in a process. Raises `ConfigurationError`: `missing_section`, `token_inactive`,
    `unauthorized`.
    """
    return (await _access_of(scope)).attio


async def require_ready(scope: Scope, attio: Attio, *, object_slug: str, attribute: str) -> None:
    """Check that the key may do what the backfill does, and that the attribute can hold a text. A few reads.

    Raises `ConfigurationError`: `missing_scopes`, or `attribute_` with the problem (`missing`, `archived`, `not_text`,
    `multiselect`, `read_only`). That its values are unique is not required.
    """
    workspace = _workspace(scope)
    missing = (await _access_of(scope)).token.missing(WRITE_SCOPES)
    if missing:
        raise ConfigurationError(
            "missing_scopes",
            f"The Attio API key of {workspace.label} lacks {', '.join(missing)}: give it these scopes in Attio under "
            "Workspace settings, Developers, or set attio.api_key in the registry to a key that has them.",
        )
    problem = attribute_problem((await attio.attributes(object_slug)).get(attribute))
    if problem is not None:
        raise ConfigurationError(
            f"attribute_{problem}",
            f"The attribute {attribute} of {object_slug} in the Attio workspace of {workspace.label} "
            f"{_PROBLEMS[problem].format(key=workspace.key)}.",
        )


async def _access_of(scope: Scope) -> _Access:
    workspace = _workspace(scope)
    if workspace.attio is None:
        raise ConfigurationError(
            "missing_section", f"{workspace.label} has no attio section in the registry; add it with its api_key."
        )
    api_key = workspace.attio.api_key.resolve()
    base_url = scope.registry.vendor_base_url("attio", workspace) or BASE_URL
    clock = SystemClock()

    async def connected() -> _Access:
        http = await shared_http(scope)
        retry_budget = RetryBudget()
        token = await identify(http, api_key=api_key, retry_budget=retry_budget, clock=clock, base_url=base_url)

        async def account() -> AttioQuotas:
            budgets = quotas(token.workspace_id, store=PostgresQuotaStore(scope.engine, clock), clock=clock)
            return AttioQuotas(
                read=await scope.shared.enter(budgets.read), write=await scope.shared.enter(budgets.write)
            )

        budgets = await scope.shared.get(("attio workspace", token.workspace_id), account)
        attio = connect(
            http, api_key=api_key, quotas=budgets, retry_budget=retry_budget, clock=clock, base_url=base_url
        )
        return _Access(token=token, attio=attio)

    return await scope.shared.get(("attio key", base_url, api_key), connected)


def _workspace(scope: Scope) -> Workspace:
    return scope.registry.workspace(scope.partition_key)
