"""Contacts as GoHighLevel shows them, reduced to what backfills use.

Belongs here: the records, and reading one from a row of JSON or saying with a code why it cannot be. Does not belong
here: requests (`gohighlevel.py`, `gohighlevel_search.py`), what a backfill makes of a contact.

Two shapes are read alike: that of `GET /contacts/{id}` (GoHighLevel/highlevel-api-docs, apps/contacts.json) and that of
the rows of `POST /contacts/search`, which may lack `firstName` and `lastName` and have only their lower-cased twins.
Additional addresses and phones are texts in the one and objects in the other. No personal value stands in a `repr`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

LONGEST_ID = 255
LATEST_MILLISECONDS = 10**14
"""Milliseconds since 1970 that a date can be (the year 5138)."""
MALFORMED_CONTACT = "malformed_contact"
_TEXTS = ("email", "phone", "companyName", "firstName", "lastName", "firstNameLowerCase", "lastNameLowerCase")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """A contact. Texts are trimmed, and None instead of empty; addresses are spelled as the vendor spells them.

    `names_lowercased`: a name is the vendor's lower-cased twin, fit for comparing and not for display; the contact read
    by its id has the proper one.
    """

    id: str
    location_id: str
    email: str | None = field(repr=False)
    additional_emails: tuple[str, ...] = field(repr=False)
    phone: str | None = field(repr=False)
    additional_phones: tuple[str, ...] = field(repr=False)
    first_name: str | None = field(repr=False)
    last_name: str | None = field(repr=False)
    company_name: str | None = field(repr=False)
    date_added: datetime | None
    names_lowercased: bool

    @property
    def addresses(self) -> frozenset[str]:
        """All its addresses as keys (see `address_key`), the primary one included."""
        return frozenset(map(address_key, (*((self.email,) if self.email else ()), *self.additional_emails)))


@dataclass(frozen=True, slots=True)
class Gone:
    """There is no contact with this id."""

    id: str


@dataclass(frozen=True, slots=True)
class Foreign:
    """A contact that is not the location's: it says so, says nothing, or may not be read. `id`: where it has one."""

    id: str | None


@dataclass(frozen=True, slots=True)
class RejectedContact:
    """A contact that cannot be used: its id where that is readable, and a code."""

    id: str | None
    code: str


class _MalformedError(Exception):
    """A field has a type it cannot have."""


def read_contact(row: Any, location_id: str) -> Contact | Foreign | RejectedContact:
    """A contact of this location. A wrong type in any field makes it `malformed_contact`; whose it is, is asked first.

    A row without a location counts as foreign: every one carries it, and nothing else shows whose data this is.
    """
    if not isinstance(row, dict):
        return RejectedContact(id=None, code=MALFORMED_CONTACT)
    contact_id = _id(row.get("id"))
    if row.get("locationId") != location_id:
        return Foreign(contact_id)
    if contact_id is None:
        return RejectedContact(id=None, code=MALFORMED_CONTACT)
    try:
        return _contact(row, contact_id, location_id)
    except _MalformedError:
        return RejectedContact(id=contact_id, code=MALFORMED_CONTACT)


def address_key(address: str) -> str:
    """An address as addresses are compared: trimmed and in lower case."""
    return address.strip().lower()


def _contact(row: Mapping[str, Any], contact_id: str, location_id: str) -> Contact:
    email, phone, company_name, first_name, last_name, first_lowercased, last_lowercased = map(
        _text, map(row.get, _TEXTS)
    )
    additional_emails = _texts(row.get("additionalEmails"), "email")
    if not all(map(_is_storable, (email or "", *additional_emails))):
        raise _MalformedError  # without what cannot be stored it would be somebody else's address
    return Contact(
        id=contact_id,
        location_id=location_id,
        email=email,
        additional_emails=additional_emails,
        phone=phone,
        additional_phones=_texts(row.get("additionalPhones"), "phone"),
        first_name=first_name or first_lowercased,
        last_name=last_name or last_lowercased,
        company_name=company_name,
        date_added=_moment(row.get("dateAdded")),
        names_lowercased=bool((not first_name and first_lowercased) or (not last_name and last_lowercased)),
    )


def _text(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise _MalformedError
    return value.strip() or None


def _texts(values: object, inner: str) -> tuple[str, ...]:
    if values is None or values == []:
        return ()
    if not isinstance(values, list):
        raise _MalformedError
    texts = (_text(each.get(inner) if isinstance(each, dict) else each) for each in values)
    return tuple(text for text in texts if text is not None)


def _moment(value: object) -> datetime | None:
    """A date in ISO 8601 or in milliseconds. One that cannot be read is none: nothing is decided by it."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _MalformedError
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return None
        if moment.tzinfo is UTC:
            return moment
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return datetime.fromtimestamp(value / 1000, UTC) if 0 <= value < LATEST_MILLISECONDS else None


def _id(value: object) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= LONGEST_ID and _is_storable(value) else None


def _is_storable(text: str) -> bool:
    """Whether a Postgres column takes it as it is: no NUL, no half of a surrogate pair."""
    return "\x00" not in text and (text.isascii() or not any("\ud800" <= each <= "\udfff" for each in text))


__all__ = ["Contact", "Foreign", "Gone", "RejectedContact", "address_key", "read_contact"]
