"""How complete a partition's records are before and after a run, as a backfill may tell among a run's details.

Belongs here: the one form of it, which the command line and the Dagster UI show as a table. Does not belong here:
counting (the backfill), printing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

COMPLETENESS = "completeness"
"""Its name among the details."""


@dataclass(frozen=True, kw_only=True)
class Completeness:
    """The share (0 to 1) of `records` that have each field. After a dry run `after` is what was planned."""

    records: int
    before: Mapping[str, float]
    after: Mapping[str, float]

    def as_details(self) -> dict[str, Any]:
        """As a part of a run's details."""
        return {COMPLETENESS: asdict(self)}

    def changes(self) -> dict[str, str]:
        """By field: per cent before and after."""
        return {name: f"{self.before[name]:.1%} → {share:.1%}" for name, share in self.after.items()}


def completeness_of(details: Mapping[str, Any]) -> Completeness | None:
    """What a run's details tell of it."""
    told = details.get(COMPLETENESS)
    return None if told is None else Completeness(**told)


def shares(counts: Mapping[str, int], *, of: int) -> dict[str, float]:
    """The share of records that have each field, to a hundredth of a per cent; 0 where there are none.

    At most 1: counts of one moment may be held against the records of another one.
    """
    return {name: round(min(count, of) / max(1, of), 4) for name, count in counts.items()}
