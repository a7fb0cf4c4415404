"""Convex: all rows of a deployment's table of users, and changes of them by compare-and-set.

Belongs here: calling the two functions of `backfill_pipelines/convex/backfill.ts` over HTTP, how much at once, the
deploy key. Does not belong here: rows and patches (`convex_records.py`), why a call failed (`convex_failures.py`), what
a field should hold (the backfills).

Sources: docs.convex.dev/http-api, docs.convex.dev/production/state/limits, get-convex/convex-backend, as of 2026-11.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
from pydantic import SecretStr

from backfill_pipelines.errors import BackfillError, ConfigurationError, DataError, TransientError
from backfill_pipelines.vendors.clock import Clock
from backfill_pipelines.vendors.convex_failures import (
    Failure,
    FunctionFailedError,
    error_for,
    explained,
    other_version,
    value_of,
)
from backfill_pipelines.vendors.convex_records import (
    FIELDS,
    TEXT_FIELDS,
    TIME_FIELDS,
    Outcome,
    Patch,
    RejectedRow,
    Row,
    TableNames,
    Value,
    read_row,
)
from backfill_pipelines.vendors.transport import ApiClient, RetryBudget, RetryPolicy, VendorError

VENDOR = "convex"
FUNCTIONS_VERSION = 1
"""`VERSION` in backfill.ts: caller and functions must agree on it."""
PAGE_FUNCTION, PATCH_FUNCTION = "backfill:page", "backfill:patch"
ROWS_A_PAGE = 4_000
"""Below what an array holds (8,192); 4 KiB a row stay below what a transaction reads (16 MiB)."""
ROWS_A_BATCH = 500
"""One index range and a write for each: an eighth of the ranges of a transaction, and well within a second of code."""
CALLS_AT_ONCE = 8
"""Half of the mutations that a deployment of the smallest kind runs at once: the others are the app's."""

_DEPLOY_KEY = re.compile(r"(?P<kind>[a-z]+:)?(?P<name>[^|\s]*)\|\S+")
_NOT_OF_A_DEPLOYMENT = ("preview:", "project:", "team:")


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The next rows of the table, oldest first.

    `following` goes on behind this page, also in another process: store it in the transaction that stores the rows.
    None: the table is at its end, and is not the None that it begins with.
    """

    rows: Sequence[Row]
    rejected: Sequence[RejectedRow]
    following: str | None


class Portion:
    """How many rows are asked for at once: halved where it was too much, and less from then on."""

    def __init__(self, most: int) -> None:
        self.rows = most
        self.proven = False

    def succeeded(self) -> None:
        """The function is there, may be called, and answers."""
        self.proven = True

    def smaller(self, tried: int, *, unexplained: bool) -> int | None:
        """What to try after so many rows failed; None where there is nothing smaller.

        As long as a function has never answered, a failure that says nothing may have nothing to do with the size: one
        row tells, instead of a dozen halves.
        """
        if tried <= 1:
            return None
        self.rows = min(self.rows, tried // 2)
        return 1 if unexplained and not self.proven else self.rows


class Convex:
    """One table of a deployment.

    At most `CALLS_AT_ONCE` calls are under way at once, whoever makes them; each process counts its own, and the slots
    of a deployment are no budget that is used up: what finds none is refused by the vendor and tried again.
    """

    def __init__(
        self,
        api: ApiClient,
        *,
        names: TableNames,
        rows_a_page: int = ROWS_A_PAGE,
        rows_a_batch: int = ROWS_A_BATCH,
    ) -> None:
        self._api = api
        self._names = names
        self._slots = asyncio.Semaphore(CALLS_AT_ONCE)
        self._pages = Portion(rows_a_page)
        self._batches = Portion(rows_a_batch)

    async def check(self) -> None:
        """One cheap call that shows that the key is accepted and may read, that the functions are deployed in this
        version, and that table and index are there. Raises what `pages` raises at its first page.

        That the key may write as well is shown by the first batch, or by `check_writing`.
        """
        await self._page(None, 1)

    async def check_writing(self) -> None:
        """One empty batch: shows that the key may run the mutation, and writes nothing. Raises as `patch` does."""
        await self._batch([])

    async def pages(self, cursor: str | None = None) -> AsyncGenerator[Page, None]:
        """All rows from a cursor on, in the order of their creation: who is changed meanwhile keeps its place, who is
        new comes last. N rows take N / `rows_a_page` calls and one more.

        Raises `ConfigurationError` (`functions_not_deployed`, `functions_of_another_version`, `missing_permission`,
        `missing_table`, `missing_index`, `deploy_key_refused`, `unknown_deployment`, `deployment_paused`,
        `convex_function_failed`), `TransientError` (`deployment_unreachable`, `index_not_ready`, those of the
        transport) and `DataError` (`cursor_refused`, `convex_limit`, `cursor_stuck`).
        """
        while True:
            page = await self._page(cursor, self._pages.rows)
            yield page
            if page.following is None:
                return
            cursor = page.following

    async def patch(self, patches: Sequence[Patch]) -> list[Outcome]:
        """Make changes, each by compare-and-set; one outcome for each, in their order. No call where there are none.

        Up to `rows_a_batch` of them are one transaction, more are several, one after the other: whoever wants them
        beside one another calls this beside itself. A batch that is too much, or that other writers keep breaking, is
        halved. Safe to repeat: what was written is `ALREADY` then. Raises as `pages` does, and
        `TransientError("write_conflicts")`. Where transactions before the failing one are written, their outcomes are
        returned instead, fewer than there are patches: whoever calls again for the rest meets the error.
        """
        outcomes: list[Outcome] = []
        while len(outcomes) < len(patches):
            start = len(outcomes)
            try:
                outcomes += await self._batch(patches[start : start + self._batches.rows])
            except BackfillError:
                if not outcomes:
                    raise
                return outcomes
        return outcomes

    async def _page(self, cursor: str | None, rows: int) -> Page:
        while True:
            try:
                value = await self._call("query", PAGE_FUNCTION, {"cursor": cursor, "rows": rows})
            except FunctionFailedError as failed:
                rows = self._smaller(self._pages, rows, failed, PAGE_FUNCTION)
                continue
            self._pages.succeeded()
            return _read_page(value, asked_from=cursor)

    async def _batch(self, patches: Sequence[Patch]) -> list[Outcome]:
        """As many outcomes as could be had at once, from the first patch on."""
        size = len(patches)
        while True:
            batch = patches[:size]
            try:
                value = await self._call("mutation", PATCH_FUNCTION, {"patches": [each.as_json() for each in batch]})
            except FunctionFailedError as failed:
                size = self._smaller(self._batches, size, failed, PATCH_FUNCTION)
                continue
            self._batches.succeeded()
            return _read_outcomes(value, expected=len(batch))

    def _smaller(self, portion: Portion, tried: int, failed: FunctionFailedError, function: str) -> int:
        size = None
        if failed.failure in (Failure.TOO_MUCH, Failure.CONTENDED, Failure.UNEXPLAINED):
            size = portion.smaller(tried, unexplained=failed.failure is Failure.UNEXPLAINED)
        if size is None:
            raise error_for(failed, function=function, names=self._names, proven=portion.proven) from None
        return size

    async def _call(self, kind: str, function: str, request: Mapping[str, Any]) -> Any:
        names = {"table": self._names.table, "index": self._names.index, "idField": self._names.id_field}
        args = {"version": FUNCTIONS_VERSION, "request": {**names, **request}}
        body = {"path": function, "args": args, "format": "json"}
        async with self._slots:
            try:
                # Mutations compare before they set: to make one twice does no harm.
                answer = await self._api.post(f"/{kind}", json=body, idempotent=True)
            except VendorError as error:
                raise _understood(error) from None
        return value_of(answer)


def connect(
    http: httpx.AsyncClient,
    *,
    url: str,
    deploy_key: SecretStr,
    names: TableNames,
    retry_budget: RetryBudget,
    clock: Clock,
    rows_a_page: int = ROWS_A_PAGE,
    rows_a_batch: int = ROWS_A_BATCH,
) -> Convex:
    """A client for a deployment's table. Raises `ConfigurationError`: `invalid_deploy_key`, `invalid_convex_url`,
    `deploy_key_of_another_deployment`, `invalid_base_url`."""
    key = _checked(deploy_key, url)
    api = ApiClient(
        vendor="Convex",
        base_url=f"{url.rstrip('/')}/api",
        authorization=SecretStr(f"Convex {key}"),
        http=http,
        quotas=[],
        retry=RetryPolicy(),
        retry_budget=retry_budget,
        clock=clock,
    )
    return Convex(api, names=names, rows_a_page=rows_a_page, rows_a_batch=rows_a_batch)


def _understood(error: VendorError) -> Exception:
    failed = explained(error)
    if failed is not None:
        return failed
    if error.status is None:
        return TransientError(
            "deployment_unreachable",
            f"The Convex deployment cannot be reached ({error.reason}): check convex.url in the registry and Convex's "
            "status page, then run again.",
        )
    return error


def _read_page(value: Any, *, asked_from: str | None) -> Page:
    rows = value.get("rows") if isinstance(value, dict) else None
    cursor = value.get("cursor") if isinstance(value, dict) else None
    done = value.get("isDone") if isinstance(value, dict) else None
    if (
        not _of_our_version(value)
        or not isinstance(rows, list)
        or not isinstance(cursor, str)
        or not isinstance(done, bool)
    ):
        raise other_version(PAGE_FUNCTION)
    if not done and cursor == asked_from:
        raise DataError(
            "cursor_stuck",
            "Convex answers with the same place in the table again and again: look at the deployment's log and status.",
        )
    found = [read_row(row) for row in rows]
    return Page(
        rows=[each for each in found if isinstance(each, Row)],
        rejected=[each for each in found if isinstance(each, RejectedRow)],
        following=None if done else cursor,
    )


def _read_outcomes(value: Any, *, expected: int) -> list[Outcome]:
    outcomes = value.get("outcomes") if isinstance(value, dict) else None
    if not _of_our_version(value) or not isinstance(outcomes, list) or len(outcomes) != expected:
        raise other_version(PATCH_FUNCTION)
    try:
        return [Outcome(each) for each in outcomes]
    except ValueError:
        raise other_version(PATCH_FUNCTION) from None


def _of_our_version(value: Any) -> bool:
    return isinstance(value, dict) and value.get("version") == FUNCTIONS_VERSION


def _checked(deploy_key: SecretStr, url: str) -> str:
    """The key, if it can be one for this URL: a mistake is told before anything is sent."""
    key = deploy_key.get_secret_value().strip()
    parts = _DEPLOY_KEY.fullmatch(key)
    if parts is None or key.startswith(_NOT_OF_A_DEPLOYMENT):
        raise ConfigurationError(
            "invalid_deploy_key",
            "convex.deploy_key in the registry is no key of a deployment (prod:NAME|…): make one in the deployment's "
            "settings in the Convex dashboard; a preview or project key, or an access token, calls no functions.",
        )
    host = _host(url)
    if host.endswith(".convex.site"):
        raise ConfigurationError(
            "invalid_convex_url",
            "convex.url in the registry is the address of HTTP actions: set it to the one that ends in .convex.cloud.",
        )
    if host.endswith(".convex.cloud") and parts["kind"] and parts["name"] != host.partition(".")[0]:
        raise ConfigurationError(
            "deploy_key_of_another_deployment",
            "convex.deploy_key in the registry names another deployment than convex.url: correct one of the two.",
        )
    return key


def _host(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""  # the transport says what is wrong with it


__all__ = [
    "CALLS_AT_ONCE",
    "FIELDS",
    "ROWS_A_BATCH",
    "ROWS_A_PAGE",
    "TEXT_FIELDS",
    "TIME_FIELDS",
    "Convex",
    "Outcome",
    "Page",
    "Patch",
    "RejectedRow",
    "Row",
    "TableNames",
    "Value",
    "connect",
]
