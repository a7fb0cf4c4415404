"""What a lead of `customers` can be recognised by: its keys, and which values are no keys.

Belongs here: pure rules over one field, and a client's leads as columns of small numbers: a million leads with all
their texts would not fit a gigabyte. Does not belong here: who belongs together (`customers_grouping.py`).
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal
from uuid import UUID

import pandas as pd

from backfill_pipelines.backfills.customers_values import NONE, Texts, Values
from backfill_pipelines.engine.email_address import normalise_email
from backfill_pipelines.engine.phone_number import MAXIMUM_LENGTH, PhoneNormaliser

__all__ = ("NONE", "FieldReader", "GroupKeys", "IdentityRules", "KnownCustomers", "LeadColumns")

_BLOCKED = -2
_KNOWN_SPELLINGS = 200_000
_NAMESPACE = UUID("b9c7e0a4-6f3e-5d0b-9a53-4c1f7e6d2b10").bytes
_SPREADSHEET_FLOAT = re.compile(r"(\+?[0-9]{7,15})\.00?")
_SHORTEST, _LONGEST, _NORTH_AMERICAN = 10, 15, 11
# Ten digits as they are written in North America. Valid or not they are the key, so nothing has to be looked up, which
# takes 2 µs more. Not on the islands of +1, where shorter numbers are completed; nor with the first digit of a prefix.
_TEN_DIGITS = re.compile(r"(?:\+?1[-. ]?)?\(?([2-9][0-9]{2})\)?[-. ]?([0-9]{3})[-. ]?([0-9]{4})")
_DIALLED_AS_TEN_DIGITS = frozenset({"US", "CA"})
# A part before the sign that is valid with every valid domain.
_PLAIN_LOCAL_PART = re.compile(r"[a-z0-9_+-]+(?:\.[a-z0-9_+-]+)*")
_PLAIN_LENGTH = 64


@dataclass(frozen=True, kw_only=True)
class IdentityRules:
    """How a client's fields are read, and the guards of its registry entry (`customers:`)."""

    region: str
    """Where a number without a country code is dialled, ISO 3166 alpha-2."""
    phone_format: Literal["digits", "e164"] = "digits"
    max_group_size: int = 100
    """More leads than this behind one phone or address are no customer, but a shared or invented value."""
    blocked_emails: frozenset[str] = frozenset()
    blocked_local_parts: frozenset[str] = frozenset()
    blocked_domains: frozenset[str] = frozenset()
    blocked_phones: frozenset[str] = frozenset()
    """As people write them; compared by key."""


@dataclass(frozen=True)
class GroupKeys:
    """Keys of groups that may be shown: hashes keyed with the installation's secret, and the ids made of them."""

    secret: bytes = field(repr=False)
    client_id: str

    def hash(self, kind: str, value: str) -> str:
        """32 hexadecimal digits for a group of this client; without the secret nobody can try numbers against it."""
        keyed = self._keyed.copy()
        keyed.update(f"{kind}\x1f{value}".encode())
        return keyed.hexdigest()

    @cached_property
    def _keyed(self) -> hashlib.blake2b:
        """The hash of what all groups have before their kind: taking in the key anew takes longer than all the rest."""
        return hashlib.blake2b(f"{self.client_id}\x1f".encode(), digest_size=16, key=self.secret)

    def customer_id(self, group_hash: str) -> str:
        """The id of the customer that is made for a group: a UUIDv5 of its hash."""
        # As `uuid.uuid5` does it, in a third of its time.
        text = hashlib.sha1(_NAMESPACE + group_hash.encode(), usedforsecurity=False).hexdigest()
        variant = "89ab"[int(text[16], 16) & 3]
        return f"{text[:8]}-{text[8:12]}-5{text[13:16]}-{variant}{text[17:20]}-{text[20:32]}"


class FieldReader:
    """Reads phones and addresses as keys, by a client's rules."""

    def __init__(self, rules: IdentityRules) -> None:
        self._numbers = PhoneNormaliser(rules.region)
        self._rules = rules
        self._blocked_phones = {key for raw in rules.blocked_phones if (key := self.phone(raw)[0])}
        self._reads_ten_digits = rules.region in _DIALLED_AS_TEN_DIGITS
        self._are_plain: dict[str, bool] = {}

    def phone(self, raw: str | None) -> tuple[str | None, bool]:
        """The key of a number and whether it is a valid one: national digits for +1, else E.164 without its plus.

        What is no valid number anywhere keeps its 10 to 15 digits, without a leading 1 of eleven.
        """
        if not raw:
            return None, False
        number = self._numbers.to_e164(raw)
        if number is not None:
            if number.startswith("+1"):
                return number[2:], True
            # Ten digits would pass for a national number of +1: +65 8234 5678 is not (658) 234-5678.
            return (number if len(number) == 1 + _SHORTEST else number[1:]), True
        text = raw.strip()
        if len(text) > MAXIMUM_LENGTH:
            return None, False
        if spreadsheet_float := _SPREADSHEET_FLOAT.fullmatch(text):
            text = spreadsheet_float[1]
        digits = "".join([str(unicodedata.decimal(sign)) for sign in text if sign.isdecimal()])
        if len(digits) == _NORTH_AMERICAN and digits[0] == "1":
            digits = digits[1:]
        return (digits if _SHORTEST <= len(digits) <= _LONGEST else None), False

    def key_at_sight(self, raw: str) -> str | None:
        """The key of a number of ten digits, as `phone` finds it; None where that is to be asked."""
        digits = _TEN_DIGITS.fullmatch(raw) if self._reads_ten_digits else None
        return digits[1] + digits[2] + digits[3] if digits else None

    def email(self, raw: str) -> str | None:
        """The key of an address, as `normalise_email` finds it, in half the time: a domain is judged once."""
        key = raw.strip().lower()
        local_part, _, domain = key.partition("@")
        is_plain = self._are_plain.get(domain)
        if is_plain is None:
            if len(self._are_plain) >= _KNOWN_SPELLINGS:
                self._are_plain.clear()
            is_plain = self._are_plain[domain] = domain.isascii() and normalise_email(f"a@{domain}") == f"a@{domain}"
        if is_plain and len(key) <= _PLAIN_LENGTH and _PLAIN_LOCAL_PART.fullmatch(local_part):
            return key
        return normalise_email(raw)

    def is_blocked_phone(self, key: str) -> bool:
        """Whether a number stands for nobody in particular."""
        return key in self._blocked_phones

    def is_blocked_email(self, key: str) -> bool:
        """Whether an address stands for nobody in particular: a role, a placeholder, a domain of such."""
        local_part, _, domain = key.rpartition("@")
        rules = self._rules
        return local_part in rules.blocked_local_parts or key in rules.blocked_emails or domain in rules.blocked_domains


class LeadColumns:
    """A client's leads, one entry per lead in each column; keys are numbers into `Values`, or `NONE`."""

    def __init__(self, rules: IdentityRules) -> None:
        self.psids, self.phones, self.emails = Values(), Values(), Values()
        self.valid_phones: set[int] = set()
        """Numbers of the phones that are valid, in whatever spelling: the others have no E.164 form."""
        self.ids: list[str] = []
        self.psid, self.phone, self.email = array("i"), array("i"), array("i")
        self.blocked: set[int] = set()
        """Leads with a value that is blocked."""
        self.names = Texts()
        """First and last name."""
        self.companies: dict[int, str] = {}
        """By lead: the company of those without a name, of which there are few."""
        self.links: dict[str, int] = {}
        """Ids of customers that leads are linked to, each with a number."""
        self.link = array("i")
        """That number, or `NONE`."""
        self.created, self.updated = array("q"), array("q")
        self._reader = FieldReader(rules)
        self._phone_format = rules.phone_format
        self._phone_numbers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def customer_ids(self) -> list[str | None]:
        """The customer that each lead is linked to; made of the numbers each time it is asked for."""
        ids = list(self.links)
        return [None if number == NONE else ids[number] for number in self.link]

    def add(self, frames: Iterable[pd.DataFrame]) -> None:
        """Take in blocks of leads: id, messenger_psid, phone, email, customer_id, and, unless all leads are linked,
        first_name, last_name, company_name, created_at, updated_at (microseconds since 1970)."""
        for frame in frames:
            columns = {name: frame[name].tolist() for name in frame.columns}
            start = len(self.ids)
            self.ids += columns["id"]
            self.psid.extend([self.psid_number(raw) if raw else NONE for raw in columns["messenger_psid"]])
            phones = [self.phone_number(raw) if raw else NONE for raw in columns["phone"]]
            emails = [self.email_number(raw) if raw else NONE for raw in columns["email"]]
            for column, numbers in ((self.phone, phones), (self.email, emails)):
                if _BLOCKED in numbers:
                    self.blocked.update(lead for lead, each in enumerate(numbers, start=start) if each == _BLOCKED)
                    column.extend([max(each, NONE) for each in numbers])
                else:
                    column.extend(numbers)
            links = self.links
            self.link.extend(
                [NONE if raw is None else links.setdefault(raw, len(links)) for raw in columns["customer_id"]]
            )
            if "first_name" in columns:
                self._add_fields(columns, start)

    def _add_fields(self, columns: Mapping[str, Sequence[Any]], start: int) -> None:
        """What a customer is made from, beside what it is recognised by."""
        named = zip(columns["first_name"], columns["last_name"], columns["company_name"], strict=True)
        for lead, (first, last, company) in enumerate(named, start=start):
            name = _name(first, last)
            self.names.append(name)
            if name is None and (text := _text(company)):
                self.companies[lead] = text
        self.created.extend(columns["created_at"])
        self.updated.extend(columns["updated_at"])

    def forget_raw_values(self) -> None:
        """Let go of what only reading needs: a quarter of the memory."""
        self._phone_numbers.clear()
        for values in (self.psids, self.phones, self.emails):
            values.close()

    def own_phone_number(self, phone: str | None) -> int:
        """The number of a phone that we have stored ourselves: in that form it is its key, with nothing to read."""
        if not phone:
            return NONE
        # See `FieldReader.phone`: ten digits that are no number of +1 have a plus in their key.
        if self._phone_format == "digits":
            found = self.phones.find(phone)
            if found == NONE and len(phone) == _SHORTEST:
                found = self.phones.find(f"+{phone}")
        else:
            digits = phone.removeprefix("+1") if phone.startswith("+1") else phone.removeprefix("+")
            is_foreign = len(digits) == _SHORTEST and not phone.startswith("+1")
            found = self.phones.find(phone if is_foreign else digits)
        return max(self.phone_number(phone), NONE) if found == NONE else found

    def own_email_number(self, email: str | None) -> int:
        """The number of an address that we have stored ourselves."""
        if not email:
            return NONE
        found = self.emails.find(email)
        return max(self.email_number(email), NONE) if found == NONE else found

    def psid_number(self, raw: str | None) -> int:
        """The number of a PSID."""
        text = _text(raw)
        return self.psids.number(text) if text else NONE

    def phone_number(self, raw: str | None) -> int:
        """The number of a phone, or a negative one: `NONE`, or blocked."""
        if not raw:
            return NONE
        # Whether it is valid matters to its E.164 form alone.
        if self._phone_format == "digits" and (key := self._reader.key_at_sight(raw)):
            return _BLOCKED if self._reader.is_blocked_phone(key) else self.phones.number(key)
        number = self._phone_numbers.get(raw)
        if number is None:
            if len(self._phone_numbers) >= _KNOWN_SPELLINGS:
                self._phone_numbers.clear()
            number = self._phone_numbers[raw] = self._read_phone(raw)
        return number

    def _read_phone(self, raw: str) -> int:
        key, is_valid = self._reader.phone(raw)
        if key is None:
            return NONE
        if self._reader.is_blocked_phone(key):
            return _BLOCKED
        number = self.phones.number(key)
        if is_valid:
            self.valid_phones.add(number)
        return number

    def email_number(self, raw: str | None) -> int:
        """The number of an address, or a negative one: `NONE`, or blocked."""
        key = self._reader.email(raw) if raw else None
        if key is None:
            return NONE
        return _BLOCKED if self._reader.is_blocked_email(key) else self.emails.number(key)

    def stored_phone(self, number: int) -> str:
        """A phone in the form in which the product stores it."""
        key = self.phones.keys[number]
        if self._phone_format == "digits" or number not in self.valid_phones:
            return key.removeprefix("+")
        if key.startswith("+"):
            return key
        return f"+1{key}" if len(key) == _SHORTEST else f"+{key}"


@dataclass(frozen=True, kw_only=True)
class KnownCustomers:
    """What was decided before: by earlier runs, and by people."""

    recorded: Mapping[str, str] = field(default_factory=dict)
    """Hash of a group's key to the customer that it was found to be."""
    merged: Mapping[str, str] = field(default_factory=dict)
    """Customer to the one that somebody merged it into."""
    split: Mapping[str, str] = field(default_factory=dict)
    """Lead to the customer that somebody split it off to."""
    strangers: Mapping[str, bool] = field(default_factory=dict)
    """Ids that leads are linked to and that are none of the client's customers: whether another client's."""
    phones_held_elsewhere: frozenset[str] = frozenset()
    """Stored phones of other clients' customers, where the table allows a phone only once in all."""
    emails_held_elsewhere: frozenset[str] = frozenset()
    unique_email: bool = False
    """Whether the table allows an address only once."""


def _name(first: str | None, last: str | None) -> str | None:
    first, last = first.strip() if first else "", last.strip() if last else ""
    return f"{first} {last}" if first and last else first or last or None


def _text(raw: str | None) -> str | None:
    return (raw.strip() or None) if raw else None
