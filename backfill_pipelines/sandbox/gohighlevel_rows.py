"""The JSON of the fake GoHighLevel: contacts in both shapes, and errors.

Belongs here: names of fields, status and wording. Does not belong here: when each is due.

Sources: GoHighLevel/highlevel-api-docs, apps/contacts.json and common/common-schemas.json, for a contact by its id and
for 400, 401 and 422; the vendor's page on searching contacts for the rows of a search. Additional addresses by id are
objects (highlevel-api-docs#289). The 401 of a missing scope and the 403 are quoted by its users; the 429 is convention.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from backfill_pipelines.sandbox.exchange import Answer, RefusalError
from backfill_pipelines.sandbox.gohighlevel_data import GoHighLevelContact

Row = dict[str, Any]
_SOURCE = "imported"


def search_row(contact: GoHighLevelContact, location_id: str, *, proper_names: bool) -> Row:
    """A contact as a row of a search; the caller adds `searchAfter`."""
    added = iso(contact.date_added)
    row: Row = {
        "id": contact.id,
        "locationId": location_id,
        "phoneLabel": None,
        "country": "US",
        "address": None,
        "source": _SOURCE,
        "type": "lead",
        "dnd": False,
        "state": None,
        "businessName": contact.company_name,
        "customFields": [],
        "tags": [],
        "dateAdded": added,
        "additionalEmails": list(contact.additional_emails),
        "phone": contact.phone,
        "companyName": contact.company_name,
        "additionalPhones": list(contact.additional_phones),
        "dateUpdated": added,
        "city": None,
        "dateOfBirth": None,
        "firstNameLowerCase": None if contact.first_name is None else contact.first_name.lower(),
        "lastNameLowerCase": None if contact.last_name is None else contact.last_name.lower(),
        "email": contact.email,
        "assignedTo": None,
        "followers": [],
        "validEmail": None,
    }
    if proper_names:
        row["firstName"], row["lastName"] = contact.first_name, contact.last_name
    return row


def contact_row(contact: GoHighLevelContact, location_id: str) -> Row:
    """A contact by its id. What it does not have is left out."""
    added = iso(contact.date_added)
    name = " ".join(each for each in (contact.first_name, contact.last_name) if each) or None
    fields: Row = {
        "id": contact.id,
        "name": name,
        "locationId": location_id,
        "firstName": contact.first_name,
        "lastName": contact.last_name,
        "firstNameLowerCase": contact.first_name and contact.first_name.lower(),
        "lastNameLowerCase": contact.last_name and contact.last_name.lower(),
        "fullNameLowerCase": name and name.lower(),
        "email": contact.email,
        "emailLowerCase": contact.email and contact.email.lower(),
        "companyName": contact.company_name,
        "phone": contact.phone,
        "dnd": False,
        "type": "lead",
        "source": _SOURCE,
        "country": "US",
        "tags": [],
        "dateAdded": added,
        "dateUpdated": added,
        "customFields": [],
        "additionalEmails": [{"email": address} for address in contact.additional_emails],
        "additionalPhones": [{"phone": phone} for phone in contact.additional_phones],
    }
    return {name: value for name, value in fields.items() if value is not None}


def iso(milliseconds: int) -> str:
    """A moment as the vendor writes it."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def bad_request(message: str) -> RefusalError:
    """400."""
    return RefusalError(Answer.json(400, {"statusCode": 400, "message": message}))


def unprocessable(*messages: str) -> RefusalError:
    """422, whose message is a list."""
    return RefusalError(
        Answer.json(422, {"statusCode": 422, "message": list(messages), "error": "Unprocessable Entity"})
    )


def invalid_token() -> RefusalError:
    """The token is unknown."""
    return _unauthorized("Invalid token: access token is invalid")


def missing_version() -> RefusalError:
    """The request names no version of the API, or one that there is not."""
    return _unauthorized("version header was not found.")


def missing_scope(status: int) -> RefusalError:
    """The token lacks the scope."""
    if status == 403:  # noqa: PLR2004
        return _forbidden("The token is not authorized for this scope.")
    return _unauthorized("The token is not authorized for this scope.")


def foreign_location() -> RefusalError:
    """The token is another location's."""
    return _forbidden("The token does not have access to this location.")


def foreign_contact(status: int) -> RefusalError:
    """The contact is another location's."""
    message = "The token does not have access to this location."
    return _unauthorized(message) if status == 401 else _forbidden(message)  # noqa: PLR2004


def absent(what: str, status: int) -> RefusalError:
    """Nothing of this kind exists."""
    body: Row = {"statusCode": status, "message": f"{what} not found"}
    if status == 422:  # noqa: PLR2004
        body |= {"message": [body["message"]], "error": "Unprocessable Entity"}
    return RefusalError(Answer.json(status, body))


def no_such_route(method: str, path: str) -> Answer:
    """404 of the router."""
    return Answer.json(404, {"statusCode": 404, "message": f"Cannot {method} {path}", "error": "Not Found"})


def rate_limited() -> Answer:
    """429. The vendor names no `Retry-After`."""
    return Answer.json(429, {"statusCode": 429, "message": "Too Many Requests"})


def _unauthorized(message: str) -> RefusalError:
    return RefusalError(Answer.json(401, {"statusCode": 401, "message": message, "error": "Unauthorized"}))


def _forbidden(message: str) -> RefusalError:
    return RefusalError(Answer.json(403, {"statusCode": 403, "message": message, "error": "Forbidden"}))


__all__ = [
    "Row",
    "absent",
    "bad_request",
    "contact_row",
    "foreign_contact",
    "foreign_location",
    "invalid_token",
    "iso",
    "missing_scope",
    "missing_version",
    "no_such_route",
    "rate_limited",
    "search_row",
    "unprocessable",
]
