"""The errors of a vendor's API.

Belongs here: one class per outcome that a caller may want to tell from the others, with a stable code and one sentence.
Does not belong here: which status has which outcome (`outcomes.py`).

An error's text holds the vendor's name, the status, the vendor's own short error code and its request id: never a URL,
a header or a value from a body. The body is there for a vendor's client to decide by, and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from pydantic import Secret

from backfill_pipelines.errors import BackfillError, ConfigurationError, DataError, TransientError

_REQUEST_ID_HEADERS = ("x-request-id", "request-id", "x-trace-id", "x-amzn-requestid", "cf-ray")
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:=/-]{1,100}")
_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")
_LONG_NUMBER = re.compile(r"\d{5}")
_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


class VendorError(BackfillError):
    """A request to a vendor failed.

    `status` is None where no response came. `vendor_code` is the vendor's own code, in snake case. `body` is the parsed
    error body, for decisions only: it is in no text, no repr and no pickle.
    """

    CODE: ClassVar[str] = "vendor_error"
    SENTENCE: ClassVar[str] = "{vendor} did not execute a request{facts}; look up the code in its documentation."

    def __init__(
        self,
        *,
        vendor: str,
        status: int | None = None,
        vendor_code: str | None = None,
        request_id: str | None = None,
        reason: str | None = None,
        body: Any = None,
    ) -> None:
        facts = [
            f"HTTP {status}" if status is not None else None,
            f"code {vendor_code}" if vendor_code is not None else None,
            f"request {request_id}" if request_id is not None else None,
            reason,
        ]
        stated = ", ".join(fact for fact in facts if fact is not None)
        super().__init__(self.CODE, self.SENTENCE.format(vendor=vendor, facts=f" ({stated})" if stated else ""))
        self.vendor = vendor
        self.status = status
        self.vendor_code = vendor_code
        self.request_id = request_id
        self.reason = reason
        self._body: Secret[Any] = Secret(body)

    @property
    def body(self) -> Any:
        """The parsed error body, or None. It may hold personal values."""
        return self._body.get_secret_value()

    def __reduce__(self) -> tuple[Callable[..., VendorError], tuple[Any, ...]]:
        return _rebuild, (type(self), self.vendor, self.status, self.vendor_code, self.request_id, self.reason)


def _rebuild(kind: type[VendorError], *facts: Any) -> VendorError:
    vendor, status, vendor_code, request_id, reason = facts
    return kind(vendor=vendor, status=status, vendor_code=vendor_code, request_id=request_id, reason=reason)


class UnauthorizedError(VendorError, ConfigurationError):
    """401: the vendor does not know the credentials."""

    CODE = "unauthorized"
    SENTENCE = "{vendor} does not accept the token{facts}: check it in the registry, or the variable it is read from."


class ForbiddenError(VendorError, ConfigurationError):
    """403: the credentials are known and not enough."""

    CODE = "forbidden"
    SENTENCE = "{vendor} does not let the token do this{facts}: check its scopes and whose it is in the registry."


class NotFoundError(VendorError, DataError):
    """404: the record, or the path, does not exist."""

    CODE = "not_found"
    SENTENCE = "{vendor} has no such record{facts}: it was deleted, or the ids or base_url in the registry are wrong."


class ConflictError(VendorError, DataError):
    """409: the request contradicts what the vendor holds."""

    CODE = "conflict"
    SENTENCE = "{vendor} refused a request that contradicts the record's state{facts}: run again to plan it anew."


class RejectedRequestError(VendorError, DataError):
    """400, 422 and the other 4xx: the vendor will never execute this request."""

    CODE = "rejected_request"
    SENTENCE = "{vendor} rejected a request as invalid{facts}: look up the code in its documentation."


class VendorUnavailableError(VendorError, TransientError):
    """5xx, 408 or no connection, after the retries."""

    CODE = "vendor_unavailable"
    SENTENCE = "{vendor} is not available{facts}: check its status page and base_url in the registry, then run again."


class RateLimitedError(VendorError, TransientError):
    """429, after the retries or with a wait that is too long."""

    CODE = "rate_limited"
    SENTENCE = "{vendor} keeps refusing requests as too many{facts}: wait, or lower the budget in the registry."


class MalformedResponseError(VendorError, TransientError):
    """A success whose body is no JSON, after the retries: a maintenance page or a truncated body, which both pass; or a
    base_url that leads to a website, which does not."""

    CODE = "malformed_response"
    SENTENCE = (
        "{vendor} answered with something other than JSON{facts}: check base_url in the registry, then run again."
    )


class UnexpectedRedirectError(VendorError, ConfigurationError):
    """3xx: an API does not redirect, and the token must not follow."""

    CODE = "unexpected_redirect"
    SENTENCE = "{vendor} redirects to another address{facts}: correct base_url in the registry."


class AmbiguousWriteError(VendorError, TransientError):
    """A write may or may not have been executed; look the record up before sending it again."""

    CODE = "ambiguous_write"
    SENTENCE = (
        "{vendor} may or may not have executed a write whose answer was lost{facts}: run again, which looks it up."
    )


def vendor_error_code(body: Any) -> str | None:
    """The vendor's own code from an error body, in snake case, if there is one that is surely only a code.

    Knows `code` (Attio, Convex), `errors[0].code` (Clerk), `error.code`, `error` (Email Bison, GoHighLevel) and `type`.
    """
    if not isinstance(body, dict):
        return None
    errors, error = body.get("errors"), body.get("error")
    first = errors[0] if isinstance(errors, list) and errors else None
    candidates = (
        body.get("code"),
        first.get("code") if isinstance(first, dict) else None,
        error.get("code") if isinstance(error, dict) else error,
        body.get("type"),
    )
    return next((code for candidate in candidates if (code := _as_code(candidate)) is not None), None)


def _as_code(candidate: Any) -> str | None:
    if not isinstance(candidate, str):
        return None
    code = _WORD_START.sub("_", candidate).lower()
    # Five digits in a row are a phone number or an id, not a code.
    return code if _CODE.fullmatch(code) and not _LONG_NUMBER.search(code) else None


def request_id(headers: Mapping[str, str]) -> str | None:
    """The vendor's id of the request, for its support."""
    for name in _REQUEST_ID_HEADERS:
        stated = headers.get(name, "")
        if _REQUEST_ID.fullmatch(stated):
            return stated
    return None
