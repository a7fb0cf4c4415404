"""Which number a field holds: the shapes that real lead lists hold, and the proof of the fast path.

The reference below is the library alone. A wrong number is worse than none: it would merge two people.
"""

from __future__ import annotations

import phonenumbers
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from phonenumbers import PhoneNumberMatcher

from backfill_pipelines.engine.phone_number import MAXIMUM_LENGTH, PhoneNormaliser, to_e164

_REGIONS = sorted(phonenumbers.SUPPORTED_REGIONS)
_NORMALISERS = {region: PhoneNormaliser(region) for region in _REGIONS}
_EXAMPLES = [
    number
    for region in _REGIONS
    for kind in (0, 1, 3, 5, 6)
    if (number := phonenumbers.example_number_for_type(region, kind)) is not None
]
# A plain field never holds a letter, so the library reads it whole or not at all.
_PLAIN_CHARACTERS = "0123456789+ ().-"


def _whole_number(text: str, region: str) -> str | None:
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_valid_number(number):
        return None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def _numbers_in_prose(text: str, region: str) -> list[str]:
    return [
        phonenumbers.format_number(match.number, phonenumbers.PhoneNumberFormat.E164)
        for match in PhoneNumberMatcher(text, region)
    ]


@st.composite
def _near_numbers(draw: st.DrawFn) -> tuple[str, str]:
    """A valid number of some country in some format, a few characters changed, and a region to read it in."""
    number = draw(st.sampled_from(_EXAMPLES))
    characters = list(phonenumbers.format_number(number, draw(st.sampled_from([0, 0, 1, 2]))))
    for _ in range(draw(st.integers(0, 3))):
        position = draw(st.integers(0, len(characters) - 1))
        characters[position : position + draw(st.integers(0, 1))] = draw(st.text(_PLAIN_CHARACTERS, max_size=2))
        characters = characters or ["0"]
    prefix = draw(st.sampled_from(["", "", "", "00", "011", "0", "1", "+", "+0", "8", str(number.country_code)]))
    own = phonenumbers.region_code_for_country_code(number.country_code or 0)
    regions = [own if own in _NORMALISERS else "US", "US", draw(st.sampled_from(_REGIONS))]
    return prefix + "".join(characters), draw(st.sampled_from(regions))


@settings(max_examples=1_500, deadline=None)
@example(("01599123296", "IL"))  # 015 is an operator's prefix for calls abroad
@example(("+3758102450111", "BD"))  # 810 is a prefix in Belarus
@example(("74710009998", "KZ"))  # Kazakhstan shares +7 with Russia, whose number it would be
@example(("13101234", "JM"))  # seven digits after the 1: a local number
@example(("+01 800-212-3456", "CX"))  # no calling code begins with 0
@given(_near_numbers() | st.tuples(st.text(_PLAIN_CHARACTERS, max_size=18), st.sampled_from(_REGIONS)))
def test_the_fast_path_answers_only_what_the_library_answers(field: tuple[str, str]) -> None:
    text, region = field
    fast = _NORMALISERS[region]._certain_number(text.strip())
    assert fast in {None, _whole_number(text.strip(), region)}


@st.composite
def _dense_plain_fields(draw: st.DrawFn) -> tuple[str, str]:
    """Seven to twelve digits around the shape of a North American number, with any punctuation, and a region."""
    area_code = draw(st.sampled_from(["205", "212", "246", "555", "011", "100", "911", "800", "999"]))
    digits = draw(st.sampled_from(["", "", "1", "11", "01", "0", "44", "91", "49"]))
    digits += area_code + draw(st.text("0123456789", min_size=4, max_size=8))
    for _ in range(draw(st.integers(0, 3))):
        position = draw(st.integers(0, len(digits)))
        digits = (
            digits[:position] + draw(st.sampled_from([" ", "-", ".", "(", ")", ") ", " (", "--"])) + digits[position:]
        )
    return draw(st.sampled_from(["", "", "+", "(", "+1", "+1 ("])) + digits, draw(
        st.sampled_from(["US", "CA", "GB", "DE", "BB", "IN"])
    )


@settings(max_examples=1_500, deadline=None)
@given(_dense_plain_fields() | st.tuples(st.text(_PLAIN_CHARACTERS, max_size=16), st.sampled_from(["US", "CA", "BB"])))
def test_a_field_is_only_said_to_hold_nothing_where_the_library_finds_nothing(field: tuple[str, str]) -> None:
    text, region = field[0].strip(), field[1]
    normaliser = _NORMALISERS[region]
    if normaliser._certain_number(text) is None and normaliser._is_certainly_none(text):
        assert normaliser._number_by_library(text) is None
        assert _whole_number(text, region) is None


def test_invalid_numbers_of_ten_digits_need_no_library() -> None:
    """Completeness: of invalid numbers most are such, and the library takes 0.2 ms for each."""
    for text in ("555 555 0100", "(100) 555-0100", "1 555 555 0100", "+1 (555) 555-0100", "617-8807"):
        assert _NORMALISERS["US"]._is_certainly_none(text)
    assert not _NORMALISERS["BB"]._is_certainly_none("555 555 0100"), "an island's local number gets its area code"


@settings(max_examples=600, deadline=None)
@given(_near_numbers() | st.tuples(st.text(max_size=30), st.sampled_from(_REGIONS)))
def test_a_number_is_what_the_library_reads_or_finds(field: tuple[str, str]) -> None:
    text, region = field
    found = _NORMALISERS[region].to_e164(text)
    whole = _whole_number(text, region)
    if whole is not None:
        assert found == whole
    elif found is not None and not text.strip().endswith((".0", ".00")):
        assert found in _numbers_in_prose(text, region)
    elif found is None and region in {"US", "CA"} and "+" not in text and "0" not in text:
        assert _numbers_in_prose(text, region) == [], "a field too short to search holds nothing to find"


def test_the_fast_path_knows_every_area_code_of_north_america() -> None:
    """Completeness, not only soundness: a fast path that answers nothing would pass the proof above."""
    normaliser = _NORMALISERS["US"]
    for area_code in range(200, 1_000):
        text = f"({area_code}) 234-5678"
        assert normaliser._certain_number(text) == _whole_number(text, "US")


@pytest.mark.parametrize("region", _REGIONS)
def test_every_country_s_example_number_keeps_its_own_form(region: str) -> None:
    number = phonenumbers.example_number(region)
    assert number is not None
    expected = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    for style in (0, 1, 2):
        assert _NORMALISERS[region].to_e164(phonenumbers.format_number(number, style)) == expected


@pytest.mark.parametrize(
    ("raw", "region", "expected"),
    [
        ("(205) 617-8807", "US", "+12056178807"),
        ("1-205-617-8807", "US", "+12056178807"),
        ("+1 205 617 8807", "US", "+12056178807"),
        ("2056178807", "US", "+12056178807"),
        ("12056178807", "US", "+12056178807"),
        ("205.617.8807 ext 12", "US", "+12056178807"),
        ("(205) 617-8807 x12", "US", "+12056178807"),
        ("+44 (0)20 7946 0958", "US", "+442079460958"),
        ("+44 (0)20 7946 0958", "GB", "+442079460958"),
        ("020 7946 0958", "GB", "+442079460958"),
        ("1-800-FLOWERS", "US", "+18003569377"),
        ("205-617-8807 / 205-617-8808", "US", "+12056178807"),
        ("2056178807.0", "US", "+12056178807"),
        ("12056178807.0", "US", "+12056178807"),
        ("2056178807.00", "US", "+12056178807"),
        ("001 205 617 8807", "US", None),
        ("0012056178807", "US", None),
        ("+52 1 55 1234 5678", "US", None),
        ("+52 1 55 1234 5678", "MX", None),
        ("+52 55 1234 5678", "US", "+525512345678"),
        ("+39 06 6982 1234", "US", "+390669821234"),
        ("２０５６１７８８０７", "US", "+12056178807"),
        ("617-8807", "US", None),
        ("0000000000", "US", None),
        ("1234567890", "US", None),
    ],
)
def test_the_known_shapes_of_phone_fields(raw: str, region: str, expected: str | None) -> None:
    assert to_e164(raw, region=region) == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (None, None),
        ("", None),
        (" \x00 ", None),
        ("n/a", None),
        ("\x002056178807\x00", "+12056178807"),
        ("\u202a+1 205\u2011617\u20118807\u202c", "+12056178807"),
        ("tel:+1-205-617-8807", "+12056178807"),
        ("call 617-8807 or 205-617-8808", "+12056178808"),
        ("205-617-8807\n205-617-8808", "+12056178807"),
        ("0000000000, 205-617-8808", "+12056178808"),
        ("mobile: 205-617-8807 (after 5)", "+12056178807"),
        ("205-617-8807/8808", "+12056178807"),
        ("2 (205) 617-8807", "+12056178807"),
        ("+1 205 617 8807 +44 20 7946 0958", "+12056178807"),
        ("416-555-0123", "+14165550123"),
        ("2.05618E+09", None),
        ("555-0100", None),
        ("ada@example.com", None),
    ],
)
def test_prose_gives_its_first_valid_number(raw: str | None, expected: str | None) -> None:
    assert to_e164(raw, region="US") == expected


@pytest.mark.parametrize(
    "raw", ["+52 1 (551) 234-5678", "0052 1 (551) 234-5678", "011 52 1 (551) 234-5678", "mobile +52 1 (551) 234-5678"]
)
def test_the_tail_of_a_foreign_number_is_not_a_local_number(raw: str) -> None:
    assert _numbers_in_prose(raw, "US") == ["+15512345678"], "the library's search would offer it"
    assert to_e164(raw, region="US") is None


def test_a_number_after_a_whole_foreign_one_counts() -> None:
    assert to_e164("+999 1234567 (205) 617-8807", region="US") == "+12056178807"


def test_a_field_above_64_characters_has_no_phone() -> None:
    number = "205-617-8807"
    assert to_e164(number + " " + "y" * (MAXIMUM_LENGTH - len(number) - 1), region="US") == "+12056178807"
    assert to_e164(number + " " + "y" * (MAXIMUM_LENGTH - len(number)), region="US") is None
    assert to_e164(number + " " * 100, region="US") == "+12056178807"
    assert to_e164("1" * 1_000_000, region="US") is None


@pytest.mark.parametrize("region", ["us", "", "XX", "001", "USA"])
def test_an_unknown_region_is_refused(region: str) -> None:
    with pytest.raises(ValueError, match="unknown phone region"):
        PhoneNormaliser(region)
