"""What `lead_hydration` must make of leads and contacts, said once more in the plainest way.

Belongs here: the issue's rules, lead by lead, looking through all contacts for each. It shares no line with the package
but the library that reads telephone numbers. Does not belong here: inventing worlds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import phonenumbers

FIELDS = ("phone", "email", "first_name", "last_name", "company_name")
_SPACE = " \t\n\r\v\f\u00a0\u200b\ufeff"


@dataclass(frozen=True)
class ReferenceContact:
    """A contact of the location. `state` is "good", "gone", "foreign" or "malformed"."""

    id: str
    email: str | None = None
    also: tuple[str, ...] = ()
    phone: str | None = None
    first_name: str | None = None
    last_name: str | None = None
    company_name: str | None = None
    state: str = "good"


@dataclass(frozen=True)
class Expected:
    """What becomes of a lead: the action, why, and the new values."""

    action: str
    reason: str | None = None
    after: Mapping[str, str] | None = None


_UNUSABLE = {
    "foreign": Expected("conflict", "foreign_contact"),
    "malformed": Expected("reject", "malformed_contact"),
}


def expected(lead: Mapping[str, str | None], contacts: Sequence[ReferenceContact]) -> Expected:
    """The outcome of one lead of a location that was read whole."""
    contact_id = _text(lead["ghl_contact_id"])
    if contact_id:
        named = [each for each in contacts if each.id == contact_id and each.state != "gone"]
        if not named:
            return Expected("reject", "contact_gone")
        return _UNUSABLE.get(named[0].state) or _filled(lead, named[0], link=False)
    address = _text(lead["email"]).lower()
    name, _, domain = address.partition("@")
    if not name or "." not in domain or domain.startswith(".") or domain.endswith("."):
        return Expected("reject", "not_found") if address else Expected("skip", "no_key")
    good = [each for each in contacts if each.state == "good"]
    found = [each for each in good if _text(each.email).lower() == address]
    if not found:
        found = [each for each in good if address in [_text(also).lower() for also in each.also]]
    if len(found) == 1:
        return _filled(lead, found[0], link=True)
    return Expected("conflict", "ambiguous_contact") if found else Expected("reject", "not_found")


def _filled(lead: Mapping[str, str | None], contact: ReferenceContact, *, link: bool) -> Expected:
    after = {"ghl_contact_id": contact.id} if link else {}
    for name in FIELDS:
        value = _text(getattr(contact, name))
        if name == "phone":
            value = _e164(value)
        if value and not _text(lead[name]):
            after[name] = value
    return Expected("update", None, after) if after else Expected("skip", "nothing_to_fill")


def _text(value: str | None) -> str:
    return (value or "").strip(_SPACE)


def _e164(raw: str) -> str:
    try:
        number = phonenumbers.parse(raw, "US")
    except phonenumbers.NumberParseException:
        return ""
    if not phonenumbers.is_valid_number(number):
        return ""
    return str(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164))
