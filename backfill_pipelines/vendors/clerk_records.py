"""Users, organizations and memberships as Clerk's Backend API shows them, reduced to what backfills use.

Belongs here: the records, and reading each from a row of JSON or saying with a code why it cannot be. Does not belong
here: requests and pages (`clerk.py`, `clerk_paging.py`), what a backfill makes of a user without an address.

Source of the shapes: clerk/openapi-specs, bapi/2026-05-12.yml. Its times are called Unix timestamps; all its examples,
and the API, are in milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

EARLIEST, LATEST = 10**11, 10**14
"""Milliseconds since 1970 that a time can be (1973 to 5138): less is 0 or was meant as seconds."""
LONGEST_ID = 255

VERIFIED = "verified"

_Record = TypeVar("_Record", "User", "Organization", "Membership")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmailAddress:
    """An address of a user, spelled as Clerk spells it.

    `status` is that of its verification (`verified`, `unverified`, `failed`, `expired`, `transferable`, or what else
    the vendor may say), None where there is no verification.
    """

    id: str | None
    address: str = field(repr=False)
    status: str | None

    @property
    def verified(self) -> bool:
        """Whether its owner has proven that it is theirs."""
        return self.status == VERIFIED


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A user. Times are milliseconds since 1970, `last_active_at` with the precision of a day.

    `primary_email_id` is the vendor's word and may name none of the addresses.
    """

    id: str
    primary_email_id: str | None
    emails: tuple[EmailAddress, ...]
    first_name: str | None = field(repr=False)
    last_name: str | None = field(repr=False)
    username: str | None = field(repr=False)
    image_url: str | None = field(repr=False)
    created_at: int
    last_sign_in_at: int | None
    last_active_at: int | None
    banned: bool
    locked: bool
    deprovisioned: bool

    @property
    def primary_email(self) -> EmailAddress | None:
        """The address that Clerk names as the primary one."""
        if self.primary_email_id is None:
            return None
        return next((each for each in self.emails if each.id == self.primary_email_id), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Organization:
    """An organization and its number of members, whatever their domains. `created_at`: milliseconds since 1970."""

    id: str
    created_at: int
    members_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """A user in an organization."""

    user_id: str
    organization_id: str


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A row that is not what it should be: its id where it has one, and a code that names the field."""

    id: str | None
    code: str


class _MalformedError(Exception):
    """A field has a value it cannot have; the text is the code."""


def read_user(row: Any) -> User | RejectedRow:
    """A user. Codes: `not_an_object`, `malformed_FIELD`, `two_primary_addresses`."""
    return _read(row, _user)


def read_organization(row: Any) -> Organization | RejectedRow:
    """An organization that was asked for with its count of members. Codes: `not_an_object`, `malformed_FIELD`."""
    return _read(row, _organization)


def read_membership(row: Any) -> Membership | RejectedRow:
    """A membership. Codes: `not_an_object`, `malformed_public_user_data`, `malformed_organization`."""
    return _read(row, _membership)


def _read(row: Any, read: Callable[[Mapping[str, Any]], _Record]) -> _Record | RejectedRow:
    if not isinstance(row, dict):
        return RejectedRow(id=None, code="not_an_object")
    try:
        return read(row)
    except _MalformedError as malformed:
        return RejectedRow(id=_id(row.get("id")), code=str(malformed))


def _user(row: Mapping[str, Any]) -> User:
    emails = _emails(row)
    primary = _optional_text(row, "primary_email_address_id")
    if primary is not None and sum(each.id == primary for each in emails) > 1:
        raise _MalformedError("two_primary_addresses")
    return User(
        id=_required_id(row),
        primary_email_id=primary,
        emails=emails,
        first_name=_optional_text(row, "first_name"),
        last_name=_optional_text(row, "last_name"),
        username=_optional_text(row, "username"),
        image_url=_optional_text(row, "image_url"),
        created_at=_time(row, "created_at"),
        last_sign_in_at=_optional_time(row, "last_sign_in_at"),
        last_active_at=_optional_time(row, "last_active_at"),
        banned=_flag(row, "banned"),
        locked=_flag(row, "locked"),
        deprovisioned=_flag(row, "deprovisioned"),
    )


def _organization(row: Mapping[str, Any]) -> Organization:
    count = _whole(row.get("members_count"))
    if count is None or count < 0:
        raise _malformed("members_count")
    return Organization(id=_required_id(row), created_at=_time(row, "created_at"), members_count=count)


def _membership(row: Mapping[str, Any]) -> Membership:
    return Membership(
        user_id=_id_inside(row, "public_user_data", "user_id"), organization_id=_id_inside(row, "organization", "id")
    )


def _emails(row: Mapping[str, Any]) -> tuple[EmailAddress, ...]:
    addresses = row.get("email_addresses")
    if not isinstance(addresses, list):
        raise _malformed("email_addresses")
    return tuple(_email(each) for each in addresses)


def _email(row: Any) -> EmailAddress:
    address = row.get("email_address") if isinstance(row, dict) else None
    if not isinstance(address, str):
        raise _malformed("email_addresses")
    verification = row.get("verification")
    if verification is not None and not isinstance(verification, dict):
        raise _malformed("verification")
    # An unknown status is no reason to fail: whatever is not known to be verified is not verified.
    status = verification.get("status") if verification is not None else None
    return EmailAddress(id=_id(row.get("id")), address=address, status=status if isinstance(status, str) else None)


def _id_inside(row: Mapping[str, Any], name: str, id_name: str) -> str:
    inner = row.get(name)
    inner_id = _id(inner.get(id_name)) if isinstance(inner, dict) else None
    if inner_id is None:
        raise _malformed(name)
    return inner_id


def _required_id(row: Mapping[str, Any]) -> str:
    row_id = _id(row.get("id"))
    if row_id is None:
        raise _malformed("id")
    return row_id


def _id(value: object) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= LONGEST_ID else None


def _optional_text(row: Mapping[str, Any], name: str) -> str | None:
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise _malformed(name)
    return value


def _time(row: Mapping[str, Any], name: str) -> int:
    value = _whole(row.get(name))
    if value is None or not EARLIEST <= value < LATEST:
        raise _malformed(name)
    return value


def _optional_time(row: Mapping[str, Any], name: str) -> int | None:
    return None if row.get(name) is None else _time(row, name)


def _flag(row: Mapping[str, Any], name: str) -> bool:
    value = row.get(name, False)
    if not isinstance(value, bool):
        raise _malformed(name)
    return value


def _whole(value: object) -> int | None:
    """A whole number, be it written as `1.7e12`; True is none."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _malformed(name: str) -> _MalformedError:
    return _MalformedError(f"malformed_{name}")


__all__ = [
    "EmailAddress",
    "Membership",
    "Organization",
    "RejectedRow",
    "User",
    "read_membership",
    "read_organization",
    "read_user",
]
