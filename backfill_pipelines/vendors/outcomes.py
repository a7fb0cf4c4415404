"""What follows from the end of a request: one table, and one function that reads it.

Belongs here: decisions, as pure functions. Does not belong here: sending, waiting, counting retries (`transport.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from http import HTTPStatus
from typing import Any

import aiohttp
import httpx

from backfill_pipelines.vendors.json_body import UndecodableBodyError, decode_json
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
    request_id,
    vendor_error_code,
)


class Action(Enum):
    """What to do next."""

    RETURN = auto()
    FAIL = auto()
    RETRY = auto()
    """It may work a little later."""
    WAIT = auto()
    """It was one too many and was not executed."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete response."""

    status: int
    headers: Mapping[str, str]
    content: bytes


@dataclass(frozen=True, slots=True)
class Lost:
    """No complete response. `sent`: the vendor may have seen the request."""

    sent: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Success:
    """The decoded body; None where there is none."""

    value: Any


@dataclass(frozen=True, slots=True)
class Failure:
    """What to do, and the error to raise when that is to fail or there are no tries left."""

    action: Action
    error: VendorError


# A status stands over its hundred; what is in neither (1xx, 6xx and beyond) is no HTTP of ours.
_STATUSES: Mapping[int, tuple[Action, type[VendorError]]] = {
    401: (Action.FAIL, UnauthorizedError),
    403: (Action.FAIL, ForbiddenError),
    404: (Action.FAIL, NotFoundError),
    408: (Action.RETRY, VendorUnavailableError),
    409: (Action.FAIL, ConflictError),
    429: (Action.WAIT, RateLimitedError),
    560: (Action.FAIL, RejectedRequestError),  # Convex: the function failed, which it would do again
}
_HUNDREDS: Mapping[int, tuple[Action, type[VendorError]]] = {
    2: (Action.RETURN, MalformedResponseError),
    3: (Action.FAIL, UnexpectedRedirectError),
    4: (Action.FAIL, RejectedRequestError),
    5: (Action.RETRY, VendorUnavailableError),
}
_UNKNOWN = (Action.FAIL, MalformedResponseError)

# What aiohttp raises before a byte of the request is on its way. The transport's own mapping to httpx's exceptions
# cannot be used: it calls a connection that broke after sending a ConnectTimeout.
_BEFORE_SENDING_AIOHTTP = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL)
_BEFORE_SENDING_HTTPX = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)


def lost(error: Exception) -> Lost:
    """What is known about a request whose sending ended in an exception."""
    origin = error if isinstance(error, aiohttp.ClientError) else error.__cause__
    if isinstance(origin, aiohttp.ClientError):
        sent = not isinstance(origin, _BEFORE_SENDING_AIOHTTP)
    else:
        sent = not isinstance(error, _BEFORE_SENDING_HTTPX)
    if not sent:
        return Lost(sent=False, reason="no connection")
    return Lost(sent=True, reason="no answer in time" if _is_timeout(error, origin) else "connection lost")


def _is_timeout(error: Exception, origin: BaseException | None) -> bool:
    return isinstance(origin if isinstance(origin, aiohttp.ClientError) else error, TimeoutError | httpx.ReadTimeout)


def judge(
    result: Reply | Lost,
    *,
    vendor: str,
    method: str,
    repeatable: bool,
    not_executed_codes: Collection[str] = (),
) -> Success | Failure:
    """What follows from the end of a request.

    `repeatable`: executing it twice does no harm. A write that is not repeatable is sent again only where the vendor
    cannot have executed it: no connection, a 429, or one of `not_executed_codes`, the (snake case) codes with which
    this vendor says so. Everything else that leaves it open ends in AmbiguousWriteError.
    """
    if isinstance(result, Lost):
        if repeatable or not result.sent:
            return Failure(Action.RETRY, VendorUnavailableError(vendor=vendor, reason=result.reason))
        return Failure(Action.FAIL, AmbiguousWriteError(vendor=vendor, reason=result.reason))
    action, kind = _STATUSES.get(result.status) or _HUNDREDS.get(result.status // 100, _UNKNOWN)
    body, decoded = _body(result, method)
    if action is Action.RETURN and decoded:
        return Success(body)
    code = vendor_error_code(body) if action is not Action.RETURN else None
    if code in not_executed_codes and action is not Action.WAIT:
        action = Action.RETRY
    elif action in (Action.RETURN, Action.RETRY):
        action, kind = (Action.RETRY, kind) if repeatable else (Action.FAIL, AmbiguousWriteError)
    error = kind(
        vendor=vendor, status=result.status, vendor_code=code, request_id=request_id(result.headers), body=body
    )
    return Failure(action, error)


def _body(reply: Reply, method: str) -> tuple[Any, bool]:
    """The decoded body, and whether there was one to decode. Only reading may not succeed with nothing to read."""
    if not reply.content:
        return None, method != "GET" or reply.status == HTTPStatus.NO_CONTENT
    try:
        return decode_json(reply.content), True
    except UndecodableBodyError:
        return None, False
