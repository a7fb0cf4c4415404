"""Rarities of the seeded data, by position.

Belongs here: the rule "one of so many". Does not belong here: which rarities there are.
"""

from __future__ import annotations


class Every:
    """One of `period` records: the one at the place `at` (from 0), and every `period`-th after it."""

    __slots__ = ("_at", "_period")

    def __init__(self, period: int, *, at: int) -> None:
        self._period = period
        self._at = at

    def holds(self, number: int) -> bool:
        """Whether record `number` is one of them."""
        return number % self._period == self._at

    def turn(self, number: int) -> int:
        """How many came before record `number`: 0 for the first one."""
        return number // self._period


__all__ = ["Every"]
