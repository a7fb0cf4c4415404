"""How the reference for `customers` reads the fields of a lead: the two libraries, and nothing of the product's.

Belongs here: phones, addresses, blocked values, stored forms. Does not belong here: who belongs together
(`customers_reference.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import phonenumbers
from email_validator import EmailNotValidError, validate_email

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Rules:
    region: str = "US"
    phone_format: str = "digits"
    max_group_size: int = 100
    blocked_emails: tuple[str, ...] = ()
    blocked_local_parts: tuple[str, ...] = ()
    blocked_domains: tuple[str, ...] = ()
    blocked_phones: tuple[str, ...] = ()


def text_of(raw: str | None) -> str | None:
    return (raw or "").strip() or None


@cache
def email_of(raw: str | None) -> str | None:
    key = (raw or "").strip().lower()
    try:
        address = validate_email(key, check_deliverability=False, test_environment=True, globally_deliverable=False)
    except EmailNotValidError:
        return None
    return key if "." in (address.ascii_domain or "") else None


def valid_numbers(text: str, region: str) -> list[phonenumbers.PhoneNumber]:
    try:
        whole = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        whole = None
    if whole is not None and phonenumbers.is_valid_number(whole):
        return [whole]
    return [match.number for match in phonenumbers.PhoneNumberMatcher(text, region)]


@cache
def phone_of(raw: str | None, region: str) -> tuple[str | None, bool]:
    """The key, and whether it is a valid number."""
    text = (raw or "").strip()
    if not text or len(text) > 64:
        return None, False
    if re.fullmatch(r"\+?\d{7,15}\.00?", text, re.ASCII):
        text = text.split(".")[0]
    for number in valid_numbers(text, region):
        e164 = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
        if number.country_code == 1:
            return e164.removeprefix("+1"), True
        # With ten digits it would pass for a national number of +1, which is somebody else's.
        return (e164 if len(e164) == 11 else e164.removeprefix("+")), True
    digits = "".join(str(int(character)) for character in text if character.isdecimal())
    if len(digits) == 11 and digits.startswith("1"):
        digits = digits[1:]
    return (digits if 10 <= len(digits) <= 15 else None), False


class Reader:
    """Values of leads and customers by the rules of one client; blocked and invalid ones are None."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.valid_phones: set[str] = set()
        self.blocked_phones = {phone_of(raw, rules.region)[0] for raw in rules.blocked_phones}

    def values(self, row: Row) -> dict[str, Any]:
        phone, is_valid = phone_of(row["phone"], self.rules.region)
        email = email_of(row["email"])
        phone_blocked = phone is not None and phone in self.blocked_phones
        email_blocked = email is not None and (
            email in self.rules.blocked_emails
            or email.rpartition("@")[0] in self.rules.blocked_local_parts
            or email.rpartition("@")[2] in self.rules.blocked_domains
        )
        if phone and is_valid and not phone_blocked:
            self.valid_phones.add(phone)
        return {
            **row,
            "psid": text_of(row["messenger_psid"]),
            "phone_key": None if phone_blocked else phone,
            "email_key": None if email_blocked else email,
            "blocked": phone_blocked or email_blocked,
        }

    def stored_phone(self, key: str) -> str:
        if self.rules.phone_format == "digits" or key not in self.valid_phones:
            return key.removeprefix("+")
        if key.startswith("+"):
            return key
        return f"+1{key}" if len(key) == 10 else f"+{key}"


def age(lead: Row) -> tuple[int, str]:
    return lead["created_at"], lead["id"]


def name_of(lead: Row) -> str | None:
    """First and last name."""
    return text_of(f"{text_of(lead['first_name']) or ''} {text_of(lead['last_name']) or ''}")
