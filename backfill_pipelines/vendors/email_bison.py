"""Email Bison over HTTP: who am I, pages of records, single records, switching, minting.

Belongs here: the vendor's paths, parameters and shapes, parsed leniently and checked strictly. Does not belong here:
whose data a response is (`email_bison_workspace.py`) and what is done with it (the backfills).

Source of the shapes: the vendor's documentation (docs.emailbison.com) and its OpenAPI text, as of 2026-11.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from pydantic import SecretStr

from backfill_pipelines.errors import ConfigurationError, DataError, TransientError
from backfill_pipelines.vendors.clock import Clock
from backfill_pipelines.vendors.quota import Quota
from backfill_pipelines.vendors.quota_store import QuotaStore
from backfill_pipelines.vendors.transport import (
    ApiClient,
    ForbiddenError,
    NotFoundError,
    RejectedRequestError,
    RetryBudget,
    RetryPolicy,
    VendorError,
)

VENDOR = "email_bison"
REQUESTS_PER_MINUTE = 2700
"""Where the budget of an instance starts: below the 3,000 a minute that are known second-hand; headers move it."""

FOREIGN_RECORD = "does not match the workspace"
"""Part of the vendor's 403 for a record of another workspace: its own statement, and so a proof."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """One page of a list. `total` and `last_page` are the vendor's own figures at the time of this page."""

    rows: Sequence[Mapping[str, Any]]
    number: int
    last_page: int
    total: int


class ForeignRecordError(DataError):
    """The vendor itself says that a record belongs to another workspace."""


class EmailBison:
    """One token at one instance. Pages hold 15 rows, whatever is asked for."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    async def current_workspace(self) -> int:
        """The id of the workspace that responses to this token come from right now (`GET /users`).

        The vendor names it `team` or `workspace`; both or neither prove nothing: `DataError("workspace_unproven")`.
        """
        body = await self._api.get("/users")
        user = body.get("data") if isinstance(body, dict) else None
        named = {
            found["id"]
            for name in ("team", "workspace")
            if isinstance(user, dict) and isinstance(found := user.get(name), dict) and _is_id(found.get("id"))
        }
        if len(named) != 1:
            raise DataError(
                "workspace_unproven",
                "Email Bison's GET /users does not name exactly one workspace, so nothing proves whose data this is; "
                "nothing was written. Check the token's kind and the instance's version.",
            )
        return int(named.pop())

    async def page(self, path: str, *, number: int, filters: Mapping[str, str] | None = None) -> Page:
        """One page of a list, by number.

        The parameters are built here for every page: whether the vendor's `links.next` keeps the filters is unknown.
        """
        body = await self._api.get(path, params={**(filters or {}), "page": str(number)})
        rows = body.get("data") if isinstance(body, dict) else None
        meta = body.get("meta") if isinstance(body, dict) else None
        if not isinstance(rows, list) or not isinstance(meta, dict) or not all(isinstance(row, dict) for row in rows):
            raise _malformed(path, "has no rows or no meta")
        total, last_page = _count(meta.get("total")), _count(meta.get("last_page"))
        if total is None or last_page is None:
            raise _malformed(path, "has no meta.total or meta.last_page")
        if not all(_is_id(row.get("id")) for row in rows):
            raise _malformed(path, "has a row without id")
        return Page(rows=rows, number=number, last_page=max(1, last_page), total=total)

    async def record(self, path: str) -> Mapping[str, Any] | None:
        """One record, or None where the workspace has none with that id.

        Raises `ForeignRecordError("foreign_rows")` where the vendor says it belongs to another workspace.
        """
        try:
            body = await self._api.get(path)
        except VendorError as error:
            if isinstance(error, NotFoundError):
                return None
            if isinstance(error, ForbiddenError) and FOREIGN_RECORD in str(error.body):
                raise ForeignRecordError(
                    "foreign_rows",
                    "Email Bison refuses a record that the replies refer to: it belongs to another workspace. Nothing "
                    "was written; check the client's token and workspace_id in the registry.",
                ) from None
            raise
        record = body.get("data") if isinstance(body, dict) else None
        folder, _, record_id = path.rpartition("/")
        if not isinstance(record, dict) or not _is_id(record.get("id")) or str(record["id"]) != record_id:
            raise _malformed(f"{folder}/ID", "is not the record that was asked for")
        return record

    async def switch_workspace(self, workspace_id: int) -> None:
        """Switch the *user's* current workspace: every other session of that user sees it, its browser too.

        Raises `ConfigurationError("switch_refused")`. That it has worked only `current_workspace` can tell.
        """
        try:
            body = await self._api.post(
                "/workspaces/v1.1/switch-workspace", json={"team_id": workspace_id}, idempotent=True
            )
        except VendorError as error:
            if not isinstance(error, (ForbiddenError, NotFoundError, RejectedRequestError)):
                raise
            raise ConfigurationError(
                "switch_refused",
                f"Email Bison does not let the instance's admin_token switch to workspace {workspace_id}; "
                "check workspace_id, or give the client a token of its own: backfill clients mint-token KEY.",
            ) from None
        switched = body.get("data") if isinstance(body, dict) else None
        if not isinstance(switched, dict) or switched.get("success") is False:
            raise _malformed("/workspaces/v1.1/switch-workspace", "does not confirm the switch")

    async def mint_token(self, workspace_id: int, *, name: str) -> SecretStr:
        """Make a token of one workspace, with an admin token and without switching. The vendor shows it once."""
        body = await self._api.post(
            f"/workspaces/v1.1/{workspace_id}/api-tokens", json={"name": name}, idempotent=False
        )
        minted = body.get("data") if isinstance(body, dict) else None
        token = minted.get("plain_text_token") if isinstance(minted, dict) else None
        if not isinstance(token, str) or not token:
            raise _malformed("/workspaces/v1.1/ID/api-tokens", "holds no token")
        return SecretStr(token)


def requests_quota(host: str, *, per_minute: int | None, store: QuotaStore, clock: Clock) -> Quota:
    """The budget of an instance, for all its tokens: whether the vendor counts by token or instance is unknown."""
    return Quota(
        vendor=VENDOR,
        account=host,
        kind="requests",
        permits=per_minute or REQUESTS_PER_MINUTE,
        window_seconds=60,
        store=store,
        clock=clock,
    )


def connect(
    http: httpx.AsyncClient, *, base_url: str, token: SecretStr, quota: Quota, retry_budget: RetryBudget, clock: Clock
) -> EmailBison:
    """A client for one token of an instance."""
    return EmailBison(
        ApiClient(
            vendor="Email Bison",
            base_url=base_url,
            authorization=SecretStr(f"Bearer {token.get_secret_value()}"),
            http=http,
            quotas=[quota],
            retry=RetryPolicy(),
            retry_budget=retry_budget,
            clock=clock,
        )
    )


def _malformed(path: str, what: str) -> TransientError:
    return TransientError("malformed_response", f"Email Bison's answer to {path} {what}.")


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**63


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
