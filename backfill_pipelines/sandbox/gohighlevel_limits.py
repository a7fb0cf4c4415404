"""How much GoHighLevel lets through: 100 requests in 10 s and 200,000 a day, for each location.

Belongs here: the two windows of a location and the headers that tell of them. Does not belong here: the body of a 429.

Source: marketplace.gohighlevel.com/docs/other/rate-limits names the limits and the headers. It does not say how a
window is counted: here the short one slides, the strictest that it can be, or is fixed; a day is one of UTC.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

SECONDS_A_DAY = 86_400


class GoHighLevelLimits(NamedTuple):
    """The limits of one location. `window` is how the short one is counted."""

    burst: int = 100
    burst_seconds: float = 10.0
    daily: int = 200_000
    window: Literal["sliding", "fixed"] = "sliding"


class LocationLimits:
    """The requests of one location, whichever token they came with.

    `clock`: seconds since 1970. A refused request takes no permit. Not thread-safe: one event loop asks it.
    """

    def __init__(self, limits: GoHighLevelLimits, *, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Give every permit back."""
        self._lately: deque[float] = deque()
        self._began = 0.0
        self._in_window = 0
        self._day = 0
        self.used_today = 0
        self.refused = 0
        """Requests answered with 429."""
        self.most_in_a_window = 0
        """The most requests that were let through in any stretch of `burst_seconds`, however they are counted."""

    def admit(self) -> bool:
        """Take a permit of both windows if both have one."""
        now = self._clock()
        self._turn(now)
        if self.used_today >= self._limits.daily or self._remaining() <= 0:
            self.refused += 1
            return False
        self._lately.append(now)
        self._in_window += 1
        self.used_today += 1
        self.most_in_a_window = max(self.most_in_a_window, len(self._lately))
        return True

    def use_elsewhere(self, requests: int, *, day_only: bool = False) -> None:
        """Another program of the customer's sends so many requests at this moment; those that fit are let through.

        With `day_only` it did so earlier today.
        """
        if day_only:
            self._turn(self._clock())
            self.used_today = min(self._limits.daily, self.used_today + requests)
            return
        for _ in range(requests):
            self.admit()

    def headers(self) -> Mapping[str, str]:
        """What every answer tells."""
        return {
            "X-RateLimit-Limit-Daily": str(self._limits.daily),
            "X-RateLimit-Daily-Remaining": str(max(0, self._limits.daily - self.used_today)),
            "X-RateLimit-Interval-Milliseconds": str(round(self._limits.burst_seconds * 1000)),
            "X-RateLimit-Max": str(self._limits.burst),
            "X-RateLimit-Remaining": str(max(0, self._remaining())),
        }

    def _remaining(self) -> int:
        counted = len(self._lately) if self._limits.window == "sliding" else self._in_window
        return self._limits.burst - counted

    def _turn(self, now: float) -> None:
        while self._lately and self._lately[0] <= now - self._limits.burst_seconds:
            self._lately.popleft()
        began = math.floor(now / self._limits.burst_seconds) * self._limits.burst_seconds
        if began != self._began:
            self._began, self._in_window = began, 0
        day = math.floor(now / SECONDS_A_DAY)
        if day != self._day:
            self._day, self.used_today = day, 0


__all__ = ["GoHighLevelLimits", "LocationLimits"]
