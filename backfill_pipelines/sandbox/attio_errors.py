"""The error bodies of Attio.

Belongs here: status, type, code and wording. Does not belong here: when each is due. The bodies of
`uniqueness_conflict`, `unauthorized` and `unknown_filter_attribute_slug` were captured from the real API by its users;
the others follow the examples of the vendor's OpenAPI file.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from email.utils import formatdate
from typing import Any

from backfill_pipelines.sandbox.exchange import Answer, RefusalError

SCOPE_NAMES: Mapping[str, str] = {
    "record_permission": "Records",
    "object_configuration": "Object configuration",
}


def refusal(
    status: int, code: str, message: str, *, kind: str = "invalid_request_error", path: Sequence[str] | None = None
) -> RefusalError:
    """An error of the vendor's form."""
    body: dict[str, Any] = {"status_code": status, "type": kind, "code": code, "message": message}
    if path is not None:
        body["path"] = list(path)
    return RefusalError(Answer.json(status, body))


def unauthenticated() -> RefusalError:
    """The token is unknown or was revoked."""
    return refusal(401, "unauthorized", "The API Key provided is invalid or has been revoked.", kind="auth_error")


def missing_scope(scope: str) -> RefusalError:
    """The token lacks a scope, such as `record_permission:read-write`."""
    name, _, access = scope.partition(":")
    words = "Read-Write" if access == "read-write" else "Read"
    return refusal(
        403,
        "unauthorized",
        "The API Key provided is not authorized to perform the requested action. This request requires scopes: "
        f"{words} access to the {SCOPE_NAMES[name]} scope.",
        kind="auth_error",
    )


def not_found(message: str) -> RefusalError:
    """Nothing stands at the address."""
    return refusal(404, "not_found", message)


def invalid_value(message: str) -> RefusalError:
    """A value, or the body, has the wrong form."""
    return refusal(400, "validation_type", message)


def unknown_attribute(name: str) -> RefusalError:
    """A value for an attribute that the object does not have, or whose attribute is archived."""
    return refusal(400, "value_not_found", f'Cannot find attribute with slug/ID "{name}".')


def filter_error(message: str = "Error in filter.") -> RefusalError:
    """A filter or sort that the vendor does not know."""
    return refusal(400, "filter_error", message)


def unknown_filter_attribute(name: str) -> RefusalError:
    """A filter or sort on an attribute that the object does not have."""
    return refusal(400, "unknown_filter_attribute_slug", f"Unknown attribute slug: {name}.", path=[name])


def uniqueness_conflict(slug: str, record_ids: Collection[str], *, status: int, named: bool = True) -> RefusalError:
    """A value that another record has already; the message names it (`named=False`: it does not)."""
    message = (
        f'A value provided for attribute with slug "{slug}" conflicts with one already in the system. This attribute '
        "has a uniqueness constraint. Please ensure all values for this attribute do not exist on another record."
    )
    if named:
        message += f" Conflicting record IDs: {', '.join(sorted(record_ids))}"
    return refusal(status, "uniqueness_conflict", message)


def concurrent_write_conflict() -> RefusalError:
    """Somebody else was writing the same record; nothing was executed."""
    return refusal(409, "concurrent_write_conflict", "The record was modified by another request. Please try again.")


def merge_in_progress(*, status: int) -> RefusalError:
    """The record is being merged with another one; nothing was executed."""
    return refusal(status, "merge_in_progress", "The record is being merged. Please try again once that is done.")


def rate_limited(resets_at: int) -> Answer:
    """429, until a second since 1970: `Retry-After` is that moment as an HTTP date."""
    body = {
        "status_code": 429,
        "type": "rate_limit_error",
        "code": "rate_limit_exceeded",
        "message": "Rate limit exceeded, please try again later",
    }
    return Answer.json(429, body, headers={"Retry-After": formatdate(resets_at, usegmt=True)})
