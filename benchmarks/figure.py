"""One figure and its bar, as one JSON line.

Belongs here: the form of a result, and the median of a few. Does not belong here: measuring.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What was measured, and the bar that it must keep to; `how` are the numbers behind it."""

    figure: str
    value: float
    bar: float
    unit: str
    at_least: bool = False
    """Whether the bar is a least value; most are greatest values."""
    how: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return self.value >= self.bar if self.at_least else self.value <= self.bar

    def line(self) -> str:
        """The figure as one line of JSON."""
        shown = {
            "figure": self.figure,
            "value": round(self.value, 3),
            "bar": self.bar,
            "unit": self.unit,
            "passed": self.passed,
            "how": self.how,
        }
        return json.dumps(shown)


Benchmark = Callable[[], list[Figure]]
