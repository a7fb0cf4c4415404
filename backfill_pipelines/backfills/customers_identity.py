"""What a lead of `customers` can be recognised by: its keys, and which values are no keys.

Belongs here: pure rules over one field, and a client's leads as columns of small numbers: a million leads with all
their texts would not fit a gigabyte. Does not belong here: who belongs together (`customers_grouping.py`).
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

import pandas as pd

from backfill_pipelines.engine.email_address import normalise_email
from backfill_pipelines.engine.phone_number import MAXIMUM_LENGTH, PhoneNormaliser

NONE = -1
"""In a column of numbers: no value."""

_BLOCKED = -2
_KNOWN_SPELLINGS = 200_000
_NAMESPACE = UUID("b9c7e0a4-6f3e-5d0b-9a53-4c1f7e6d2b10").bytes
_SPREADSHEET_FLOAT = re.compile(r"(\+?[0-9]{7,15})\.00?")
_SHORTEST, _LONGEST, _NORTH_AMERICAN = 10, 15, 11


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
        text = f"{self.client_id}\x1f{kind}\x1f{value}".encode()
        return hashlib.blake2b(text, digest_size=16, key=self.secret).hexdigest()

    def customer_id(self, group_hash: str) -> str:
        """The id of the customer that is made for a group: a UUIDv5 of its hash."""
        # As `uuid.uuid5` does it, in a third of its time.
        digest = bytearray(hashlib.sha1(_NAMESPACE + group_hash.encode(), usedforsecurity=False).digest()[:16])
        digest[6] = digest[6] & 0x0F | 0x50
        digest[8] = digest[8] & 0x3F | 0x80
        text = digest.hex()
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class FieldReader:
    """Reads phones and addresses as keys, by a client's rules."""

    def __init__(self, rules: IdentityRules) -> None:
        self._numbers = PhoneNormaliser(rules.region)
        self._rules = rules
        self._blocked_phones = {key for raw in rules.blocked_phones if (key := self.phone(raw)[0])}

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

    def is_blocked_phone(self, key: str) -> bool:
        """Whether a number stands for nobody in particular."""
        return key in self._blocked_phones

    def is_blocked_email(self, key: str) -> bool:
        """Whether an address stands for nobody in particular: a role, a placeholder, a domain of such."""
        local_part, _, domain = key.rpartition("@")
        rules = self._rules
        return local_part in rules.blocked_local_parts or key in rules.blocked_emails or domain in rules.blocked_domains


class Texts:
    """Many short texts, end to end: a Python string of ten letters takes 60 bytes."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ends = array("q", [0])

    def append(self, text: str | None) -> None:
        """Add a text at the end; None is as good as none."""
        if text:
            self._bytes += text.encode()
        self._ends.append(len(self._bytes))

    def __getitem__(self, place: int) -> str:
        """The text at a place; empty where there is none."""
        return self._bytes[self._ends[place] : self._ends[place + 1]].decode()

    def has(self, place: int) -> bool:
        """Whether there is one."""
        return self._ends[place] < self._ends[place + 1]


class Values:
    """The distinct values of one kind of key, each with a number; numbers of raw texts are found without reading."""

    def __init__(self) -> None:
        self.keys: list[str] | Texts = []
        """The keys by number."""
        self._numbers: dict[str, int] = {}

    def number(self, key: str) -> int:
        """The number of a key."""
        found = self._numbers.get(key)
        if found is None:
            found = self._numbers[key] = len(self._numbers)
            self.keys.append(key)
        return found

    def close(self) -> None:
        """Take no more keys, nor find the number of one: so they need a third of the memory."""
        texts = Texts()
        for key in self._numbers:
            texts.append(key)
        self.keys, self._numbers = texts, {}

    def find(self, key: str) -> int:
        """The number of a key that some lead has, else `NONE`."""
        return self._numbers.get(key, NONE)


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
        self.customer_ids: list[str | None] = []
        self.created, self.updated = array("q"), array("q")
        self._reader = FieldReader(rules)
        self._phone_format = rules.phone_format
        self._phone_numbers: dict[str, int] = {}
        self._customer_ids: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, frames: Iterable[pd.DataFrame]) -> None:
        """Take in blocks of leads: id, messenger_psid, phone, email, first_name, last_name, company_name, customer_id,
        created_at, updated_at (microseconds since 1970)."""
        for frame in frames:
            columns = {name: frame[name].tolist() for name in frame.columns}
            start = len(self.ids)
            self.ids += columns["id"]
            self.psid.extend([NONE if raw is None else self.psid_number(raw) for raw in columns["messenger_psid"]])
            phones = self._phones(columns["phone"])
            emails = [self.email_number(raw) if raw else NONE for raw in columns["email"]]
            self.blocked.update(
                number
                for number, (phone, email) in enumerate(zip(phones, emails, strict=True), start=start)
                if _BLOCKED in (phone, email)
            )
            self.phone.extend([max(phone, NONE) for phone in phones])
            self.email.extend([max(email, NONE) for email in emails])
            named = zip(columns["first_name"], columns["last_name"], columns["company_name"], strict=True)
            for lead, (first, last, company) in enumerate(named, start=start):
                name = _name(first, last)
                self.names.append(name)
                if name is None and (text := _text(company)):
                    self.companies[lead] = text
            self.customer_ids += [raw and self._customer_ids.setdefault(raw, raw) for raw in columns["customer_id"]]
            self.created.extend(columns["created_at"])
            self.updated.extend(columns["updated_at"])

    def forget_raw_values(self) -> None:
        """Let go of what only reading needs: a quarter of the memory."""
        self._phone_numbers.clear()
        self._customer_ids.clear()
        self.phones.close()
        self.emails.close()

    def _phones(self, column: Iterable[str | None]) -> list[int]:
        """The numbers of raw phones; one spelling is read once, as far as it is worth its memory."""
        known = self._phone_numbers
        if len(known) > _KNOWN_SPELLINGS:
            known.clear()
        found: list[int] = []
        for raw in column:
            if not raw:
                found.append(NONE)
                continue
            if raw not in known:
                known[raw] = self.phone_number(raw)
            found.append(known[raw])
        return found

    def own_numbers(self, phone: str | None, email: str | None) -> tuple[int, int]:
        """The numbers of what we have stored ourselves: in its stored form a value is its key, with nothing to read."""
        key = phone
        if phone and self._phone_format == "e164":
            digits = phone.removeprefix("+1") if phone.startswith("+1") else phone.removeprefix("+")
            # See `FieldReader.phone`: ten digits that are no number of +1 keep their plus.
            key = phone if len(digits) == _SHORTEST and not phone.startswith("+1") else digits
        found = NONE if key is None else self.phones.find(key)
        if phone and found == NONE:
            found = max(self.phone_number(phone), NONE)
        found_email = NONE if email is None else self.emails.find(email)
        if email and found_email == NONE:
            found_email = max(self.email_number(email), NONE)
        return found, found_email

    def psid_number(self, raw: str | None) -> int:
        """The number of a PSID."""
        text = _text(raw)
        return self.psids.number(text) if text else NONE

    def phone_number(self, raw: str | None) -> int:
        """The number of a phone, or a negative one: `NONE`, or blocked."""
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
        key = normalise_email(raw)
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
