"""Whose address stands at whose domain.

Belongs here: the one spelling of a domain, which domains of a company tell something about its people, and whether an
address stands at one of them. Pure. Does not belong here: the lists of domains that tell nothing (`shared_domains.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import idna

from backfill_pipelines.backfills.shared_domains import is_free_mail, is_public_suffix
from backfill_pipelines.engine.email_address import comparison_key

NO_DOMAIN, FREE_MAIL_DOMAIN = "no_domain", "free_mail_domain"

LONGEST_DOMAIN, LONGEST_LABEL = 253, 63
"""Octets of the ASCII form (RFC 1035, without the dot of the root)."""

# Underscores are no host names, but stand in domains that people have, and the comparison does not mind.
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?")


def normalise_domain(text: str | None) -> str | None:
    """The one spelling of a domain: ASCII (punycode where DNS needs it), lower case, no dot at the end.

    `Bücher.example`, `xn--bcher-kva.example` and `bücher。example.` are one. None for what is no domain: an empty
    label, a label or the whole too long, a space, an IP address. Letters are mapped as Unicode's UTS 46 says, which is
    what browsers do; whether IDNA 2008 would register a label is not asked, as emoji have been registered.
    """
    domain = comparison_key(text)
    if domain is None:
        return None
    if not domain.isascii():
        try:
            domain = idna.uts46_remap(domain, std3_rules=False, transitional=False)
        except idna.IDNAError:
            return None
        domain = ".".join(map(_punycode, domain.split(".")))
    domain = domain.removesuffix(".")
    labels = domain.split(".")
    if len(domain) > LONGEST_DOMAIN or labels[-1].isdecimal():
        return None
    if any(len(label) > LONGEST_LABEL or _LABEL.fullmatch(label) is None for label in labels):
        return None
    return domain


def _punycode(label: str) -> str:
    return label if label.isascii() else f"xn--{label.encode('punycode').decode()}"


def telling_domains(domains: Iterable[str]) -> tuple[tuple[str, ...], str | None]:
    """The domains of a company by which its people are known, normalised, each once; or why there are none.

    A bare public suffix is no company's domain, whatever the CRM says. `free_mail_domain` where a free-mail provider's
    domain is all that there is besides, else `no_domain`.
    """
    named = [each for each in map(normalise_domain, domains) if each is not None and not is_public_suffix(each)]
    telling = tuple(dict.fromkeys(each for each in named if not is_free_mail(each)))
    if telling:
        return telling, None
    return (), FREE_MAIL_DOMAIN if named else NO_DOMAIN


class Placing:
    """Which companies an address belongs to: those with its domain, or with a domain that its own is below of.

    Companies are numbers: their places in the sequence given. What an address's domain says is worked out once: a
    million users have few domains.
    """

    def __init__(self, domains_of: Sequence[Sequence[str]]) -> None:
        """`domains_of`: of each company, normalised."""
        at: dict[str, list[int]] = {}
        for company, domains in enumerate(domains_of):
            for domain in domains:
                at.setdefault(domain, []).append(company)
        self._at: Mapping[str, Sequence[int]] = at
        self._known: dict[str, frozenset[int]] = {}
        self._same: dict[frozenset[int], frozenset[int]] = {}

    def companies_of(self, addresses: Iterable[str]) -> frozenset[int]:
        """The companies of somebody with these addresses; the same set is the same object."""
        found = _NOWHERE
        for address in addresses:
            # What follows the last @: a quoted local part may hold one.
            domain = address.rpartition("@")[2] if "@" in address else ""
            placed = self._known.get(domain)
            if placed is None:
                placed = self._known[domain] = self._same_set(frozenset(self._above(domain)))
            found = placed if not found or found is placed else found | placed
        return self._same_set(found)

    def _above(self, text: str) -> Iterator[int]:
        domain = normalise_domain(text) or ""
        while domain:
            yield from self._at.get(domain, ())
            domain = domain.partition(".")[2]

    def _same_set(self, companies: frozenset[int]) -> frozenset[int]:
        return self._same.setdefault(companies, companies)


_NOWHERE: Final[frozenset[int]] = frozenset()
