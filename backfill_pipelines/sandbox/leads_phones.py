"""Invented telephone numbers in any amount, and the ways in which people type them.

Belongs here: which numbers there are, and spellings that all mean the same number. Does not belong here: who has which
number, and fields that hold no number at all (leads_households.py).

Numbers are of ranges that the regulators keep for fiction: 555-01xx in North America, Ofcom's, ACMA's, BNetzA's,
ARCEP's and PTS's drama numbers. A million leads need more than those: then the rest of the exchange 555 follows, which
has no subscribers either (only its 555-1212 is answered, and left out).
"""

from __future__ import annotations

import random
from typing import NamedTuple

from backfill_pipelines.sandbox.every import Every

_AREAS_US = (
    "201 202 203 205 206 207 208 209 210 212 213 214 215 216 217 218 219 220 223 224 225 228 229 231 234 239 240 "
    "248 251 252 253 254 256 260 262 267 269 270 272 274 276 279 281 301 302 303 304 305 307 308 309 310 312 313 "
    "314 315 316 317 318 319 320 321 323 325 326 330 331 332 334 336 337 339 341 346 347 351 352 360 361 364 380 "
    "385 386 401 402 404 405 406 407 408 409 410 412 413 414 415 417 419 423 424 425 430 432 434 435 440 442 443 "
    "445 447 448 458 463 464 469 470 475 478 479 480 484 501 502 503 504 505 507 508 509 510 512 513 515 516 517 "
    "518 520 530 531 534 539 540 541 551 559 561 562 563 564 567 570 571 573 574 575 580 585 586 601 602 603 605 "
    "606 607 608 609 610 612 614 615 616 617 618 619 620 623 626 628 629 630 631 636 640 641 646 650 651 657 660 "
    "661 662 667 669 678 680 681 682 701 702 703 704 706 707 708 712 713 714 715 716 717 718 719 720 724 725 726 "
    "727 731 732 734 737 740 743 747 754 757 760 762 763 765 769 770 772 773 774 775 779 781 785 786 801 802 803 "
    "804 805 806 808 810 812 813 814 815 816 817 818 820 828 830 831 832 843 845 847 848 850 854 856 857 858 859 "
    "860 862 863 864 865 870 872 878 901 903 904 906 907 908 909 910 912 913 914 915 916 917 918 919 920 925 928 "
    "929 930 931 934 936 937 938 940 941 947 949 951 952 954 956 959 970 971 972 973 978 979 980 984 985 989"
)
_AREAS_CA = (
    "204 226 236 249 250 289 306 343 365 403 416 418 431 437 438 450 506 514 519 548 579 581 587 604 613 639 647 "
    "705 709 778 780 782 807 819 825 867 873 902 905"
)
_NORTH_AMERICA = {"US": tuple(_AREAS_US.split()), "CA": tuple(_AREAS_CA.split())}

# Calling code; how many digits vary; area codes with the digits before those. All have the trunk prefix 0.
_ELSEWHERE: dict[str, tuple[str, int, tuple[tuple[str, str], ...]]] = {
    "GB": (
        "44",
        3,
        (
            *(("20", "79460"), ("113", "4960"), ("114", "4960"), ("116", "4960"), ("117", "4960"), ("118", "4960")),
            *(("121", "4960"), ("131", "4960"), ("141", "4960"), ("151", "4960"), ("161", "4960"), ("191", "4980")),
            *(("28", "96496"), ("29", "20180")),
        ),
    ),
    "AU": ("61", 4, (("2", "5550"), ("3", "5550"), ("7", "5550"), ("8", "5550"))),
    "DE": ("49", 3, (("30", "23125"), ("40", "66969"), ("69", "90009"), ("89", "99998"), ("221", "4710"))),
    "FR": ("33", 4, (("1", "9900"), ("2", "6191"), ("3", "5301"), ("4", "6571"), ("5", "3649"))),
    "SE": ("46", 2, (("8", "465004"), ("31", "39006"), ("40", "62804"))),
}
REGIONS: tuple[str, ...] = (*_NORTH_AMERICA, *_ELSEWHERE)
"""Where a client can be: ISO 3166 alpha-2, as libphonenumber calls its regions."""

_FIRST_FICTION_LINE, _FICTION_LINES = 100, 100
_FIRST_OTHER_LINE, _DIRECTORY_LINE, _LAST_LINE = 200, 1_212, 9_999
_LINES = _FICTION_LINES + _LAST_LINE - _FIRST_OTHER_LINE
DISTINCT = 3_000_000
"""How many people can have a number of their own."""
_ABROAD = Every(23, at=5)
_FULL_WIDTH = str.maketrans("0123456789", "０１２３４５６７８９")

# Common forms stand more often. `{a}` area, `{b}` and `{c}` the two parts of the local number.
_NORTH_AMERICAN_FORMS = (
    *("({a}) {b}-{c}", "({a}) {b}-{c}", "{a}-{b}-{c}", "{a}{b}{c}", "{a}{b}{c}", "+1{a}{b}{c}", "+1{a}{b}{c}"),
    *("1{a}{b}{c}", "{a}.{b}.{c}", "+1 ({a}) {b}-{c}", "1-{a}-{b}-{c}", " {a} {b} {c}\t", "({a}) {b}-{c} ext 12"),
    *("{a}{b}{c}.0", "{a}-{b}-{c} x7", "({a}) {b}-{c} / ({a}) 555-0199", "cell: {a}-{b}-{c}", "tel:+1-{a}-{b}-{c}"),
)
_NATIONAL_FORMS = ("0{a} {l}", "0{a}{l}", "(0{a}) {l}", "0{a}-{l}", "+{k}{a}{l}", "+{k} (0){a} {l}", "0{a} {l} ext 12")
_INTERNATIONAL_FORMS = ("+{k}{a}{l}", "+{k} {a} {l}", "+{k} (0){a} {l}", "+{k} {a} {l} ext 12", "+{k}-{a}-{l}")
_INTERNATIONAL_FORMS_OF_1 = ("+1{a}{b}{c}", "+1 ({a}) {b}-{c}", "+1 {a} {b} {c}", "+1-{a}-{b}-{c} x7")
_TYPED_WITH_FULL_WIDTH = Every(37, at=11)


class InventedNumber(NamedTuple):
    """A number in its parts. `local` is what follows the area code; `forms` are the spellings fit for the client."""

    calling_code: str
    area: str
    local: str
    forms: tuple[str, ...]

    @property
    def e164(self) -> str:
        """The number as the whole world dials it."""
        return f"+{self.calling_code}{self.area}{self.local}"

    def spelled(self, style: int) -> str:
        """One of its spellings; any `style` is fine, and all of them mean this number."""
        local = self.local
        text = self.forms[style % len(self.forms)].format(
            k=self.calling_code, a=self.area, l=local, b=local[:3], c=local[3:]
        )
        return text.translate(_FULL_WIDTH) if _TYPED_WITH_FULL_WIDTH.holds(style) else text


class InventedNumbers:
    """The numbers that the leads of a client in one region have. Every 23rd is of another country.

    Raises ValueError for a region that is not one of `REGIONS`.
    """

    def __init__(self, region: str, rng: random.Random) -> None:
        if region not in REGIONS:
            raise ValueError(f"no invented numbers for the region {region!r}: use one of {', '.join(REGIONS)}")
        self._region = region
        # A country's own areas first; when they are used up, those of the United States.
        self._tiers = [
            tuple(rng.sample(areas, len(areas)))
            for areas in dict.fromkeys((_NORTH_AMERICA.get(region, _NORTH_AMERICA["US"]), _NORTH_AMERICA["US"]))
        ]
        self._forms = _NORTH_AMERICAN_FORMS if region in _NORTH_AMERICA else _INTERNATIONAL_FORMS_OF_1
        self._abroad = tuple(each for each in _ELSEWHERE if each != region)

    def number(self, serial: int) -> InventedNumber:
        """The number of a person. They are distinct below `DISTINCT`; then they begin anew."""
        if _ABROAD.holds(serial):
            turn = _ABROAD.turn(serial)
            region = self._abroad[turn % len(self._abroad)]
            if found := _number_elsewhere(region, turn // len(self._abroad), _INTERNATIONAL_FORMS):
                return found
        elif self._region in _ELSEWHERE and (found := _number_elsewhere(self._region, serial, _NATIONAL_FORMS)):
            return found
        return self._north_american(serial)

    def _north_american(self, serial: int) -> InventedNumber:
        areas, *others = self._tiers
        if others and serial >= len(areas) * _LINES:
            serial -= len(areas) * _LINES
            areas = others[0]
        line = serial // len(areas) % _LINES
        if line < _FICTION_LINES:
            line += _FIRST_FICTION_LINE
        else:
            line += _FIRST_OTHER_LINE - _FICTION_LINES
            line += line >= _DIRECTORY_LINE
        return InventedNumber("1", areas[serial % len(areas)], f"555{line:04d}", self._forms)


def _number_elsewhere(region: str, serial: int, forms: tuple[str, ...]) -> InventedNumber | None:
    """The number of a region's ranges, or None when they are used up."""
    calling_code, width, ranges = _ELSEWHERE[region]
    turn, place = divmod(serial, len(ranges))
    if turn >= 10**width:
        return None
    area, beginning = ranges[place]
    return InventedNumber(calling_code, area, f"{beginning}{turn:0{width}d}", forms)


__all__ = ["DISTINCT", "REGIONS", "InventedNumber", "InventedNumbers"]
