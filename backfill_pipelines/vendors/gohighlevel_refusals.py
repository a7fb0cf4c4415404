"""What GoHighLevel's refusals mean for whoever has to correct something.

Belongs here: telling a wrong token, a missing scope, a foreign location and an unknown one apart, each in one sentence;
and what a refusal says of a single contact. Does not belong here: statuses that mean the same with every vendor
(`outcomes.py`).

The vendor documents only 400, 401 and 422. Seen by its users: 401 for an invalid token and, with another message, for a
token without the scope (checked first); 403 for a token of another location. What a location or a contact that does not
exist gets is not documented, so each status that it could be is understood. Messages are looked at and never shown.
"""

from __future__ import annotations

from http import HTTPStatus

from backfill_pipelines.errors import BackfillError, ConfigurationError, DataError
from backfill_pipelines.vendors.gohighlevel_records import Foreign, Gone, RejectedContact
from backfill_pipelines.vendors.transport import (
    ForbiddenError,
    NotFoundError,
    RejectedRequestError,
    UnauthorizedError,
    VendorError,
)

SCOPE = "contacts.readonly"
REFUSED_ID = "refused_contact_id"
"""The vendor takes the id for no id at all, or does not say what is wrong with it."""
_ABSENT = ("not found", "notfound", "does not exist", "doesn't exist", "no contact", "deleted")
_ELSEWHERE = ("not belong to this location", "another location", "different location", "other location")
_NO_SUCH_PATH = "cannot get "


def refused_search(error: VendorError, location_id: str, *, resumed: bool) -> BackfillError:
    """What to raise for a search without filters that failed. `resumed`: it went on behind a cursor."""
    if isinstance(error, UnauthorizedError | ForbiddenError):
        return refused_token(error, location_id)
    if not isinstance(error, RejectedRequestError | NotFoundError):
        return error
    if resumed:
        return DataError(
            "cursor_refused",
            f"GoHighLevel does not go on from where the scan of location {location_id} stood (HTTP {error.status}): "
            "run again with --fresh.",
        )
    return ConfigurationError(
        "unknown_location",
        f"GoHighLevel has no location {location_id} for this token (HTTP {error.status}): correct location_id in the "
        "registry, or base_url if it was changed.",
    )


def refused_token(error: VendorError, location_id: str) -> BackfillError:
    """What to raise for a 401 or 403 that is about the token; anything else is raised as it is."""
    if not isinstance(error, UnauthorizedError | ForbiddenError):
        return error
    if "scope" in _message(error):
        return ConfigurationError(
            "missing_scope",
            f"The token of GoHighLevel location {location_id} lacks a scope (HTTP {error.status}): give its private "
            f"integration the scope {SCOPE}.",
        )
    if _is_foreign(error):
        return ConfigurationError(
            "forbidden_location",
            f"The token does not open GoHighLevel location {location_id} (HTTP {error.status}): it is another "
            f"location's, or lacks the scope {SCOPE}; correct location_id or token in the registry.",
        )
    return ConfigurationError(
        "unauthorized",
        f"GoHighLevel does not accept the token of location {location_id} (HTTP {error.status}): check it in the "
        "registry, or the variable it is read from; a private integration's token may have been rotated.",
    )


def refused_contact(error: VendorError, contact_id: str, location_id: str) -> Gone | Foreign | RejectedContact:
    """What a failed `GET /contacts/{id}` says of the contact. Raises what is not about the contact."""
    if _is_foreign(error):
        return Foreign(contact_id)
    if isinstance(error, NotFoundError) and error.body is not None and not _message(error).startswith(_NO_SUCH_PATH):
        return Gone(contact_id)
    if isinstance(error, RejectedRequestError):
        if any(words in _message(error) for words in _ELSEWHERE):
            return Foreign(contact_id)
        absent = error.status == HTTPStatus.GONE or any(words in _message(error) for words in _ABSENT)
        return Gone(contact_id) if absent else RejectedContact(contact_id, REFUSED_ID)
    raise refused_token(error, location_id) from None


def _is_foreign(error: VendorError) -> bool:
    """Whether it is the location that the token does not open: 403, or a 401 that says so."""
    if isinstance(error, UnauthorizedError):
        return "access to this location" in _message(error)
    return isinstance(error, ForbiddenError) and "scope" not in _message(error)


def _message(error: VendorError) -> str:
    """The vendor's words in lower case, for decisions only: a text, or a list of them with 422."""
    message = error.body.get("message") if isinstance(error.body, dict) else None
    parts = message if isinstance(message, list) else [message]
    return " ".join(part.lower() for part in parts if isinstance(part, str))


__all__ = ["REFUSED_ID", "refused_contact", "refused_search", "refused_token"]
