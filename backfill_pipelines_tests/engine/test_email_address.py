"""Which texts are e-mail addresses, and which spellings are one address.

The fast path is proved against the library; the rest are the shapes that real lead lists hold.
"""

from __future__ import annotations

import pytest
from email_validator import SPECIAL_USE_DOMAIN_NAMES, EmailNotValidError, validate_email
from hypothesis import example, given, settings
from hypothesis import strategies as st

from backfill_pipelines.engine.email_address import comparison_key, normalise_email

_LABELS = st.text(alphabet="abz019-", min_size=0, max_size=5) | st.sampled_from(["xn--fiqs8s", "a--b", "ab--c", "-a"])
_TOP_LEVELS = st.sampled_from(["com", "io", "c", "c0m", "123", "テスト", "co-op", *SPECIAL_USE_DOMAIN_NAMES])
_LOCAL_PARTS = st.text(alphabet="abYZ09._+-'!#$%&*/=?^`{|}~ \"\\é ", min_size=0, max_size=12)
_ADDRESS_LIKE = st.builds(
    lambda local, labels, top, tail: f"{local}@{'.'.join([*labels, top])}{tail}",
    _LOCAL_PARTS,
    st.lists(_LABELS, max_size=3),
    _TOP_LEVELS,
    st.sampled_from(["", "", "", ".", " ", "@"]),
)
_LONG = st.builds(
    lambda local, label, labels: f"{'a' * local}@{'.'.join(['b' * label] * labels)}.com",
    st.integers(0, 260),
    st.integers(0, 70),
    st.integers(1, 5),
)


def _library_says(address: str) -> bool:
    try:
        answer = validate_email(address, check_deliverability=False, globally_deliverable=False, test_environment=True)
    except (EmailNotValidError, UnicodeError):
        return False
    return "." in (answer.ascii_domain or "")


@settings(max_examples=1_500, deadline=None)
@given(_ADDRESS_LIKE | _LONG | st.text(max_size=20) | st.emails())
@example("a@b.com\n")
@example("a@localhost.arpa")
@example("\ud800@example.com")
def test_an_address_is_valid_exactly_when_the_library_says_so(raw: str) -> None:
    key = comparison_key(raw)
    expected = key if key is not None and _library_says(key) else None
    assert normalise_email(raw) == expected


@settings(max_examples=300, deadline=None)
@given(_ADDRESS_LIKE | st.text(max_size=20) | st.emails())
def test_a_key_is_its_own_key(raw: str) -> None:
    key = normalise_email(raw)
    if key is not None:
        assert normalise_email(key) == key
        assert comparison_key(raw) == key


@pytest.mark.parametrize(
    ("raw", "key"),
    [
        (" Ada.Moreno@Example.com ", "ada.moreno@example.com"),
        ("ada+news@example.com", "ada+news@example.com"),
        ("a.d.a@example.com", "a.d.a@example.com"),
        ("o'neil@example.com", "o'neil@example.com"),
        ("\x00ada@example.com\x00", "ada@example.com"),
        ("\ufeffada@example.com\u200b", "ada@example.com"),
        ("\u00a0\tada@example.com\r\n\x1f", "ada@example.com"),
        ("ADA@EXAMPLE.TEST", "ada@example.test"),
        ("Ünal@Müller.example.com", "ünal@müller.example.com"),
        ("田中@例え。テスト", "田中@例え。テスト"),
    ],
)
def test_the_key_is_the_users_spelling_trimmed_and_in_lower_case(raw: str, key: str) -> None:
    assert normalise_email(raw) == key


@pytest.mark.parametrize(
    "raw",
    [
        None,
        "",
        "   ",
        "\x00",
        "ada",
        "ada@example",
        "@example.com",
        "ada@",
        "ada@@example.com",
        "ada lovelace@example.com",
        "ada@example..com",
        "ada@-example.com",
        "ada@example.com.",
        ".ada@example.com",
        "ada@example.com, bob@example.com",
        "ada@example.com;bob@example.com",
        "mailto:ada@example.com?subject=x y",
        "Ada <ada@example.com>",
        "<ada@example.com>",
        '"ada b"@example.com',
        "ada@[192.0.2.1]",
        "ada@server.local",
        "ada@nowhere.invalid",
        "ada\x00@example.com",
        "ada\u200b@example.com",
        "n/a",
    ],
)
def test_what_is_not_one_bare_address_has_no_key(raw: str | None) -> None:
    assert normalise_email(raw) is None


def test_an_address_of_254_characters_is_the_longest() -> None:
    domain = ".".join(["d" * 60] * 3) + ".com"
    longest = "l" * (254 - len(domain) - 1) + "@" + domain
    assert len(longest) == 254
    assert normalise_email(longest) == longest
    assert normalise_email("l" + longest) is None


def test_a_megabyte_of_text_is_refused_without_reading_it() -> None:
    assert normalise_email("a" * 1_000_000 + "@example.com") is None


@pytest.mark.parametrize(
    ("raw", "key"), [(None, None), (" \x00\t", None), (" N/A ", "n/a"), ("\x07Ada@Example\x07", "ada@example")]
)
def test_a_comparison_key_needs_no_valid_form(raw: str | None, key: str | None) -> None:
    assert comparison_key(raw) == key
