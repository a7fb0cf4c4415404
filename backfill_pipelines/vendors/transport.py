"""One vendor account's door: JSON over HTTP, with quota, retries and errors that hold no personal value.

Belongs here: the order in which a request acquires, is sent, is judged, waits and is sent again. Does not belong here:
what follows from a response (`outcomes.py`), the arithmetic of waiting (`retry.py`, `budget.py`), connections
(`http_client.py`), and anything about one vendor: those are clients of this one.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import aiohttp
import httpx
import orjson
from pydantic import SecretStr

from backfill_pipelines.errors import ConfigurationError, TransientError
from backfill_pipelines.vendors.clock import Clock
from backfill_pipelines.vendors.http_client import open_http_client
from backfill_pipelines.vendors.outcomes import Action, Failure, Lost, Reply, Success, judge, lost
from backfill_pipelines.vendors.quota import Quota
from backfill_pipelines.vendors.rate_limit_headers import rate_limits, retry_after_seconds
from backfill_pipelines.vendors.retry import RetryBudget, RetryPolicy
from backfill_pipelines.vendors.vendor_errors import (
    AmbiguousWriteError,
    ConflictError,
    ForbiddenError,
    MalformedResponseError,
    NotFoundError,
    RateLimitedError,
    RejectedRequestError,
    UnauthorizedError,
    UnexpectedRedirectError,
    VendorError,
    VendorUnavailableError,
)

__all__ = [
    "AmbiguousWriteError",
    "ApiClient",
    "ConflictError",
    "ForbiddenError",
    "MalformedResponseError",
    "NotFoundError",
    "RateLimitedError",
    "RejectedRequestError",
    "RetryBudget",
    "RetryPolicy",
    "UnauthorizedError",
    "UnexpectedRedirectError",
    "VendorError",
    "VendorUnavailableError",
    "open_http_client",
]

logger = logging.getLogger(__name__)

RESPONSE_SECONDS = 120.0
"""A whole response, from sending to the last byte: a body that trickles passes every time-out between packets."""


class ApiClient:
    """JSON requests to one vendor account; where reads and writes have budgets of their own, one client for each.

    `authorization` is the header's full value. `quotas` are all acquired before each attempt, the counted ones first.
    `retry_budget` is shared by all clients of the account. `not_executed_codes`: the vendor's error codes (snake case)
    that promise it did not execute the request and that trying again helps: such a request is retried, whatever its
    status and method. All methods raise `VendorError`s, and `ParkedError` or `TransientError` from the quotas.
    """

    def __init__(
        self,
        *,
        vendor: str,
        base_url: str,
        authorization: SecretStr | None,
        http: httpx.AsyncClient,
        quotas: Sequence[Quota],
        retry: RetryPolicy,
        retry_budget: RetryBudget,
        clock: Clock,
        headers: Mapping[str, str] | None = None,
        not_executed_codes: Collection[str] = (),
        response_seconds: float = RESPONSE_SECONDS,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._vendor = vendor
        self._base_url = _checked(base_url, vendor)
        self._authorization = _checked_header(authorization, vendor)
        self._http = http
        # Counted first: a paced permit is worth something only in its own moment.
        self._quotas = sorted(quotas, key=lambda quota: not quota.counted)
        self._retry = retry
        self._retry_budget = retry_budget
        self._clock = clock
        self._headers = dict(headers or {})
        self._not_executed_codes = frozenset(not_executed_codes)
        self._response_seconds = response_seconds
        self._jitter = jitter

    async def get(self, path: str, *, params: Mapping[str, Any] | None = None) -> Any:
        """Read; the decoded JSON. `path` is below `base_url`, its variable parts percent-encoded by the caller."""
        return await self._request("GET", path, params=params, idempotent=True)

    async def post(
        self, path: str, *, json: Any = None, params: Mapping[str, Any] | None = None, idempotent: bool
    ) -> Any:
        """Create, or query by a body (`idempotent=True`); the decoded JSON, None for an empty success."""
        return await self._request("POST", path, json=json, params=params, idempotent=idempotent)

    async def put(
        self, path: str, *, json: Any = None, params: Mapping[str, Any] | None = None, idempotent: bool
    ) -> Any:
        """Replace; the decoded JSON, None for an empty success."""
        return await self._request("PUT", path, json=json, params=params, idempotent=idempotent)

    async def patch(
        self, path: str, *, json: Any = None, params: Mapping[str, Any] | None = None, idempotent: bool
    ) -> Any:
        """Change; the decoded JSON, None for an empty success."""
        return await self._request("PATCH", path, json=json, params=params, idempotent=idempotent)

    async def delete(
        self, path: str, *, json: Any = None, params: Mapping[str, Any] | None = None, idempotent: bool
    ) -> Any:
        """Delete; the decoded JSON, None for an empty success."""
        return await self._request("DELETE", path, json=json, params=params, idempotent=idempotent)

    async def _request(
        self, method: str, path: str, *, json: Any = None, params: Mapping[str, Any] | None = None, idempotent: bool
    ) -> Any:
        content = None if json is None else orjson.dumps(json)
        self._retry_budget.earn()
        failures = refusals = 0
        waited = tried = 0.0
        while True:
            await self._acquire()
            began = self._clock.monotonic()
            result = await self._send(method, path, content=content, params=params)
            took = self._clock.monotonic() - began
            outcome = judge(
                result,
                vendor=self._vendor,
                method=method,
                repeatable=idempotent,
                not_executed_codes=self._not_executed_codes,
            )
            if isinstance(result, Reply):
                await self._observe(result)
            if isinstance(outcome, Success):
                return outcome.value
            if outcome.action is Action.FAIL:
                raise outcome.error
            asked = self._asked_to_wait(result, outcome)
            if outcome.action is Action.WAIT:
                refusals += 1
                await self._after_refusal(outcome.error, refusals, asked)
                continue
            failures += 1
            backoff = self._retry.delay(failures, self._jitter())
            delay = max(backoff, asked or 0.0)
            waited += delay
            tried += took + backoff
            if self._retry.is_spent(failures, waited=waited, tried=tried) or not self._retry_budget.spend():
                raise outcome.error
            logger.info("%s failed (%s), trying again in %.1f s", self._vendor, outcome.error.code, delay)
            await self._clock.sleep(delay)

    async def _acquire(self) -> None:
        """A permit of each budget. Where one became void while the next was waited for, all are asked for anew: twenty
        requests may hold a permit of the day and wait for their pace when the vendor says that the day is used up."""
        complete = False
        while not complete:
            acquired: list[tuple[Quota, int]] = []
            try:
                for quota in self._quotas:
                    permit = await quota.acquire()
                    acquired.append((quota, permit))
                complete = all(quota.holds(permit) for quota, permit in acquired)
            finally:
                if not complete:
                    for quota, permit in acquired:
                        if quota.holds(permit):
                            quota.give_back()

    async def _send(
        self, method: str, path: str, *, content: bytes | None, params: Mapping[str, Any] | None
    ) -> Reply | Lost:
        headers = {**self._headers, "Accept": "application/json"}
        if content is not None:
            headers["Content-Type"] = "application/json"
        if self._authorization is not None:
            headers["Authorization"] = self._authorization.get_secret_value()
        request = self._http.build_request(
            method, f"{self._base_url}/{path.lstrip('/')}", content=content, params=params, headers=headers
        )
        try:
            async with asyncio.timeout(self._response_seconds):
                response = await self._http.send(request)
        except (httpx.HTTPError, aiohttp.ClientError, OSError) as error:
            return lost(error)
        return Reply(status=response.status_code, headers=response.headers, content=response.content)

    async def _observe(self, reply: Reply) -> None:
        """Let the quotas hear what the response says. That it cannot be written must not lose a reply that is here: the
        next request meets the same database and says so."""
        limits = rate_limits(reply.headers, self._clock.time())
        for quota in self._quotas:
            state = limits.day if quota.counted else limits.window
            if state is None:
                continue
            try:
                await quota.observe(state)
            except TransientError as error:
                logger.warning("The budget of %s was not updated: %s", self._vendor, error.code)

    def _asked_to_wait(self, result: Reply | Lost, failure: Failure) -> float | None:
        if isinstance(result, Lost):
            return None
        now = self._clock.time()
        asked = retry_after_seconds(result.headers, failure.error.body, now)
        if asked is None and failure.action is Action.WAIT and (window := rate_limits(result.headers, now).window):
            return window.reset_after
        return asked

    async def _after_refusal(self, error: VendorError, refusals: int, asked: float | None) -> None:
        """Wait as the vendor asks, by way of the quotas, so that every process does.

        Refusals do not spend the retry budget: the vendor is well, has executed nothing, and the pause and the halved
        budget see to it that it gets fewer requests, not more.
        """
        too_long = asked is not None and asked > self._retry.maximum_retry_after_seconds
        counted = [quota for quota in self._quotas if quota.counted]
        if refusals > self._retry.refusals or (too_long and not counted):
            raise error
        paced = [quota for quota in self._quotas if not quota.counted]
        for quota in counted if too_long else paced:
            await quota.refused(asked)
        if not paced and not too_long:
            delay = self._retry.delay(refusals, self._jitter()) if asked is None else asked
            await self._clock.sleep(delay)


def _checked(base_url: str, vendor: str) -> str:
    try:
        url = httpx.URL(base_url)
        usable = url.scheme in ("http", "https") and bool(url.host) and not url.query and not url.userinfo
    except httpx.InvalidURL:
        usable = False
    if usable:
        return base_url.rstrip("/")
    raise ConfigurationError(
        "invalid_base_url",
        f"The base_url of {vendor} is no http(s) address without user, password and query: correct it in the registry.",
    )


def _checked_header(authorization: SecretStr | None, vendor: str) -> SecretStr | None:
    # A line break at the end of a token read from a file would otherwise fail deep in the HTTP library.
    value = "" if authorization is None else authorization.get_secret_value()
    if value.isascii() and value.isprintable():
        return authorization
    raise ConfigurationError(
        "invalid_token",
        f"The token of {vendor} holds a line break or another character that no token has: set it again without.",
    )
