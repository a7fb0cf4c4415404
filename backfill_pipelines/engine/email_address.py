"""What counts as an e-mail address, and when two spellings are the same one.

Belongs here: pure rules over one text. Does not belong here: which addresses may group leads (role mailboxes,
placeholders), or whether anybody reads the mailbox: nothing here asks DNS.

The form is the email-validator library's judgement (RFC 5321, 5322, 6531). Nothing is rewritten: no plus-tag, no
dots, no Unicode or IDNA form. The key is the user's own spelling, trimmed and in lower case.
"""

from __future__ import annotations

import re
import unicodedata

from email_validator import SPECIAL_USE_DOMAIN_NAMES, EmailNotValidError, validate_email

MAXIMUM_LENGTH = 254
"""Characters; RFC 5321 allows a path of 256 octets with its angle brackets. The library counts octets too."""

# The library takes about 30 µs for an address and this expression below 1 µs, with 200,000 addresses in a run. It
# holds only forms that the library certainly accepts: plain ASCII atoms, labels without a double hyphen (Punycode and
# the reserved labels have one), a top-level domain of letters. Everything else is left to the library.
_PLAIN_ADDRESS = re.compile(r"[a-z0-9_+-]+(?:\.[a-z0-9_+-]+)*@(?:[a-z0-9]+(?:-[a-z0-9]+)*\.)+([a-z]{2,})")
# 64 characters in all leave no room for a domain label above 63, which the expression does not count.
_PLAIN_LENGTH = 64
# `test` is reserved as well, but accepted here (see `_has_valid_form`).
_RESERVED_TOP_LEVELS = frozenset(name.rpartition(".")[2] for name in SPECIAL_USE_DOMAIN_NAMES) - {"test"}


def normalise_email(raw: str | None) -> str | None:
    """The comparison key of an address of valid form, else None.

    At least one dot in the domain, at most 254 characters. `Name <a@example.com>` is not an address but a header's
    value, and invalid: taking the address out of it would guess. Quoted local parts and bracketed IP addresses are
    invalid too, as is a reserved top level such as `.invalid` or `.local`.
    """
    key = comparison_key(raw)
    if key is None or len(key) > MAXIMUM_LENGTH:
        return None
    if len(key) <= _PLAIN_LENGTH:
        plain = _PLAIN_ADDRESS.fullmatch(key)
        if plain is not None and plain[1] not in _RESERVED_TOP_LEVELS:
            return key
    return key if _has_valid_form(key) else None


def comparison_key(raw: str | None) -> str | None:
    """The text trimmed and in lower case, whether it is an address or not; None when nothing is left.

    This is how rows that are already in a table are compared. Trimmed are white space, control characters (NUL too)
    and invisible format characters such as the byte order mark, which spreadsheets leave at the ends.
    """
    if raw is None:
        return None
    key = raw.strip().lower()
    if key and not (key.isascii() and key.isprintable()):
        key = trimmed(raw).lower()
    return key or None


def trimmed(text: str) -> str:
    """The text in its own spelling, without what `comparison_key` takes off its ends: what a table stores."""
    start, end = 0, len(text)
    while start < end and _is_invisible(text[start]):
        start += 1
    while end > start and _is_invisible(text[end - 1]):
        end -= 1
    return text[start:end]


def _is_invisible(character: str) -> bool:
    return character.isspace() or unicodedata.category(character) in {"Cc", "Cf", "Zl", "Zp", "Zs"}


def _has_valid_form(key: str) -> bool:
    try:
        # The library refuses `.test` as undeliverable unless it is told of a test environment. That is no question of
        # form, and the sandbox's invented people live there.
        address = validate_email(
            key, check_deliverability=False, globally_deliverable=False, allow_smtputf8=True, test_environment=True
        )
    except (EmailNotValidError, UnicodeError):
        return False
    return "." in (address.ascii_domain or "")
