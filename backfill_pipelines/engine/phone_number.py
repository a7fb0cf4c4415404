"""Which telephone number a field holds, in E.164.

Belongs here: pure rules over one text and the region it is read in. Does not belong here: the form in which a product
stores numbers, or which numbers may group leads.

libphonenumber decides (its metadata, so the result may move with its version). A parse and its checks cost about 40 µs,
too much for a million leads, so the common plain forms are decided by the same metadata compiled to one expression
per numbering plan; whatever is not certain there goes to the library.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import phonenumbers
from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata, PhoneNumberFormat, PhoneNumberMatcher
from phonenumbers.phonemetadata import PhoneNumberDesc

MAXIMUM_LENGTH = 64
"""Characters. A longer field is prose: libphonenumber is slow on it, and a btree key holds 2,700 bytes."""

# What a spreadsheet makes of a number: the library would read the zero as a digit more.
_FLOAT = re.compile(r"(\+?[0-9]{7,15})\.00?")
_PLAIN = re.compile(r"\(?\+?[0-9][0-9 ().-]*")
_PUNCTUATION = {ord(character): None for character in "+ ().-"}
_LONGEST_CALLING_CODE = 3
# A number in prose that follows the beginning of an international one is its tail, not a number: of the obsolete
# "+52 1 (551) 234-5678" the library's search offers a valid one in New Jersey.
_INTERNATIONAL_START = re.compile(r"(?:\+|(?<!\d)(?:00|011))[\d\s()./-]*\Z")
_SHORTEST_NUMBER = 7
_NOTHING = "(?!)"
_NORTH_AMERICA = "1"
_NORTH_AMERICAN_LENGTH = 10


def to_e164(raw: str | None, *, region: str) -> str | None:
    """The first valid number of the field in E.164 without its extension, or None.

    For many fields of one region make one `PhoneNormaliser`: it keeps its compiled numbering plans.
    """
    return PhoneNormaliser(region).to_e164(raw)


class PhoneNormaliser:
    """Reads fields as somebody in `region` (ISO 3166 alpha-2) would dial them.

    Raises ValueError for a region that libphonenumber does not know.
    """

    def __init__(self, region: str) -> None:
        home = PhoneMetadata.metadata_for_region(region) if region in phonenumbers.SUPPORTED_REGIONS else None
        if home is None:
            msg = f"unknown phone region {region!r}: use a country's two capital letters, such as US"
            raise ValueError(msg)
        self.region = region
        self._home = _HomeRules.of(home)
        self._plans: dict[str, _NumberingPlan | None] = {}

    def to_e164(self, raw: str | None) -> str | None:
        """The first valid number of the field in E.164 without its extension, or None.

        White space around it and a spreadsheet's `.0` are dropped; letters are read as the keypad's digits; of
        several numbers, or of prose, the first valid one counts. Above 64 characters a field has no number.
        """
        text = (raw or "").strip()
        if not text or len(text) > MAXIMUM_LENGTH:
            return None
        if text.endswith("0") and (spreadsheet_float := _FLOAT.fullmatch(text)):
            text = spreadsheet_float[1]
        if (certain := self._certain_number(text)) is not None:
            return certain
        return None if self._is_certainly_none(text) else self._number_by_library(text)

    def _is_certainly_none(self, text: str) -> bool:
        """Whether a plain form that is no certain number can be none at all: ten digits of North America, ±1 before.

        Of invalid numbers most are such ("555" is no area code), and the library tries each of them for 0.2 ms. Nothing
        shorter in them can be valid: what it is without its 1 has been looked at.
        """
        if _PLAIN.fullmatch(text) is None:
            return False
        digits = text.translate(_PUNCTUATION)
        if "+" in text:
            return len(digits) == 1 + _NORTH_AMERICAN_LENGTH and digits[0] == _NORTH_AMERICA
        home = self._home
        if home.calling_code != _NORTH_AMERICA or home.completes_numbers or home.international_prefix.match(digits):
            return False
        return len(digits) <= _NORTH_AMERICAN_LENGTH or (
            len(digits) == 1 + _NORTH_AMERICAN_LENGTH and digits[0] == _NORTH_AMERICA
        )

    def _certain_number(self, text: str) -> str | None:
        """What the library would answer for a plain form, or None where that is not certain."""
        if _PLAIN.fullmatch(text) is None:
            return None
        digits = text.translate(_PUNCTUATION)
        if "+" in text:
            calling_code = _NORTH_AMERICA
            if not digits.startswith(_NORTH_AMERICA):
                sizes = range(1, _LONGEST_CALLING_CODE + 1)
                calling_code = next((digits[:size] for size in sizes if self._plan(digits[:size])), "")
            national: str | None = digits[len(calling_code) :]
        else:
            calling_code = self._home.calling_code
            national = self._home.national_part(digits)
        plan = self._plan(calling_code)
        if plan is None or national is None or not plan.has(national):
            return None
        if ("+" in text or len(national) < len(digits)) and plan.rewrites(national):
            return None
        return f"+{calling_code}{national}"

    def _plan(self, calling_code: str) -> _NumberingPlan | None:
        if calling_code not in self._plans:
            self._plans[calling_code] = _NumberingPlan.of(calling_code)
        return self._plans[calling_code]

    def _number_by_library(self, text: str) -> str | None:
        try:
            number = phonenumbers.parse(text, self.region)
        except phonenumbers.NumberParseException:
            pass
        else:
            if phonenumbers.is_valid_number(number):
                return phonenumbers.format_number(number, PhoneNumberFormat.E164)
        if self._is_too_short_to_search(text):
            return None
        for match in PhoneNumberMatcher(text, self.region):
            if not _is_cut_from_international(text[: match.start]):
                return phonenumbers.format_number(match.number, PhoneNumberFormat.E164)
        return None

    def _is_too_short_to_search(self, text: str) -> bool:
        """Whether nothing shorter than the whole field, which is no number, can be one.

        Of the invalid fields most are ten digits; the search takes 250 µs for each.
        """
        if "+" in text or _PLAIN.fullmatch(text) is None:
            return False
        return len(text.translate(_PUNCTUATION)) <= self._home.shortest


def _is_cut_from_international(before: str) -> bool:
    start = _INTERNATIONAL_START.search(before)
    # With a whole number's digits before it, it is the second of two.
    return start is not None and sum(character.isdigit() for character in start[0]) < _SHORTEST_NUMBER


@dataclass(frozen=True, slots=True)
class _HomeRules:
    """How a region's own people dial: what libphonenumber's `parse` strips from a number without a plus sign."""

    calling_code: str
    international_prefix: re.Pattern[str]
    trunk_prefix: re.Pattern[str] | None
    general: re.Pattern[str]
    lengths: frozenset[int]

    @property
    def shortest(self) -> int:
        return min(self.lengths)

    @property
    def completes_numbers(self) -> bool:
        """Whether a local number gets its area code from the region, as on Caribbean islands."""
        return self.trunk_prefix is not None and self.trunk_prefix.groups > 0

    @classmethod
    def of(cls, home: PhoneMetadata) -> _HomeRules:
        trunk_prefix = home.national_prefix_for_parsing
        return cls(
            calling_code=str(home.country_code),
            international_prefix=re.compile(home.international_prefix or _NOTHING),
            trunk_prefix=re.compile(trunk_prefix) if trunk_prefix else None,
            general=re.compile(_pattern(home.general_desc)),
            lengths=_lengths(home),
        )

    def national_part(self, digits: str) -> str | None:
        """The national number, where the rules leave no choice; else None."""
        if self.international_prefix.match(digits):
            return None
        if digits.startswith(self.calling_code) and self.general.fullmatch(digits) is None:
            # The library drops a calling code only if that makes the number one of the region's; and it then tries
            # the trunk prefix on the rest, which the caller refuses.
            rest = digits[len(self.calling_code) :]
            return rest if self._is_possible(rest) and not self._has_trunk_prefix(rest) else None
        trunk = self.trunk_prefix.match(digits) if self.trunk_prefix else None
        if trunk is None:
            return digits
        # A prefix with groups carries an operator's code, or is rewritten.
        rest = digits[trunk.end() :]
        return rest if not trunk.groups() and self._is_possible(rest) else None

    def _has_trunk_prefix(self, digits: str) -> bool:
        return self.trunk_prefix is not None and self.trunk_prefix.match(digits) is not None

    def _is_possible(self, national: str) -> bool:
        return len(national) in self.lengths and self.general.fullmatch(national) is not None


@dataclass(frozen=True, slots=True)
class _NumberingPlan:
    """The valid national numbers of one calling code, which may serve several regions (+1 serves 25)."""

    valid_by_length: Mapping[int, re.Pattern[str]]
    trunk_prefix: re.Pattern[str] | None

    @classmethod
    def of(cls, calling_code: str) -> _NumberingPlan | None:
        """None where no geographical region has the calling code."""
        # int() would read "01", which is no calling code, as 1.
        codes = COUNTRY_CODE_TO_REGION_CODE.get(int(calling_code), ()) if calling_code[:1] not in {"", "0"} else ()
        regions = [region for code in codes if (region := PhoneMetadata.metadata_for_region(code, None)) is not None]
        if not regions:
            return None
        lengths = frozenset[int]().union(*(_lengths(region) for region in regions))
        trunk_prefix = regions[0].national_prefix_for_parsing
        return cls(
            valid_by_length={length: re.compile("|".join(_alternatives(regions, length))) for length in lengths},
            trunk_prefix=re.compile(trunk_prefix) if trunk_prefix else None,
        )

    def has(self, national: str) -> bool:
        valid = self.valid_by_length.get(len(national))
        return valid is not None and valid.fullmatch(national) is not None

    def rewrites(self, national: str) -> bool:
        """Whether the library would still strip or rewrite the beginning of this number."""
        return self.trunk_prefix is not None and self.trunk_prefix.match(national) is not None


def _alternatives(regions: list[PhoneMetadata], length: int) -> Iterator[str]:
    """Per region the expression of its valid numbers of this length.

    The library gives a number to the first region whose leading digits it has, or, of those without, whose types it
    fits; only then it asks whether it is valid there. So an earlier region's leading digits rule a later one out.
    """
    taken = ""
    for region in regions:
        leading = f"(?={region.leading_digits})" if region.leading_digits else ""
        types = [kind for kind in _types(region) if not kind.possible_length or length in kind.possible_length]
        if types and length in _lengths(region):
            patterns = "|".join(_pattern(kind) for kind in types)
            general = f"(?={_pattern(region.general_desc)}\\Z)"
            yield f"(?:{taken}{leading}{general}(?:{patterns}))"
        if region.leading_digits:
            taken += f"(?!{region.leading_digits})"
    # Nothing fits a length that no type has.
    yield _NOTHING


def _pattern(numbers: PhoneNumberDesc | None) -> str:
    return f"(?:{numbers.national_number_pattern})" if numbers and numbers.national_number_pattern else _NOTHING


def _lengths(region: PhoneMetadata) -> frozenset[int]:
    return frozenset(region.general_desc.possible_length if region.general_desc else ())


def _types(region: PhoneMetadata) -> list[PhoneNumberDesc]:
    kinds = (
        region.fixed_line,
        region.mobile,
        region.toll_free,
        region.premium_rate,
        region.shared_cost,
        region.personal_number,
        region.voip,
        region.pager,
        region.uan,
        region.voicemail,
    )
    return [kind for kind in kinds if kind is not None and kind.national_number_pattern]
