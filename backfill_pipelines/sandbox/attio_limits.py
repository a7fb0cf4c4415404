"""How much Attio lets through: 100 reads and 25 writes a second, and scores for queries.

Belongs here: the windows and the score of a query. Does not belong here: which request is a write, and the 429.

The vendor says that a refusal lasts until "usually the following second" and nothing about how it counts, so a window
is either aligned to the clock second or slides. A query's score grows with its conditions, its sorts and the number of
records, by a formula that the vendor keeps to itself; the one here has the same properties.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Literal, NamedTuple

WindowKind = Literal["sliding", "clock"]
RECORDS_A_STEP = 10_000
"""A query over so many more records scores as much again."""


class AttioLimits(NamedTuple):
    """The limits of one workspace. `window` is how reads and writes are counted in their second."""

    reads: int = 100
    writes: int = 25
    window: WindowKind = "sliding"
    query_score: int = 200
    """What one query may score; one of 150 addresses over 10,000 people passes, over 20,000 it does not."""
    score_sum: int = 50_000
    """What all queries of `score_window_seconds` may score together."""
    score_window_seconds: float = 10.0


class Window:
    """Weighted permits in a window that slides, or that begins with each clock second.

    `clock`: seconds since 1970. A refused request takes no permit. Not thread-safe: one event loop asks it.
    """

    def __init__(self, permits: int, seconds: float, *, kind: WindowKind, clock: Callable[[], float]) -> None:
        self._permits = permits
        self._seconds = seconds
        self._kind = kind
        self._clock = clock
        self._taken: deque[tuple[float, int]] = deque()
        self._sum = 0
        self.most_taken = 0
        """The fullest the window ever was."""

    def refused_until(self, weight: int = 1) -> int | None:
        """Take a permit of this weight. Where there is none: the second since 1970 from which there may be one."""
        now = self._clock()
        began = math.floor(now / self._seconds) * self._seconds if self._kind == "clock" else now - self._seconds
        while self._taken and (self._taken[0][0] < began if self._kind == "clock" else self._taken[0][0] <= began):
            self._sum -= self._taken.popleft()[1]
        if self._sum + weight > self._permits:
            first = self._taken[0][0] if self._taken else now
            frees_at = began + self._seconds if self._kind == "clock" else first + self._seconds
            return max(math.ceil(frees_at), math.floor(now) + 1)
        self._taken.append((now, weight))
        self._sum += weight
        self.most_taken = max(self.most_taken, self._sum)
        return None

    def reset(self) -> None:
        """Give every permit back."""
        self._taken.clear()
        self._sum = self.most_taken = 0


class WorkspaceLimits:
    """The windows of one workspace, which all its tokens share."""

    def __init__(self, limits: AttioLimits, *, clock: Callable[[], float]) -> None:
        self.limits = limits
        self.reads = Window(limits.reads, 1.0, kind=limits.window, clock=clock)
        self.writes = Window(limits.writes, 1.0, kind=limits.window, clock=clock)
        self.scores = Window(limits.score_sum, limits.score_window_seconds, kind="sliding", clock=clock)

    def reset(self) -> None:
        """Give every permit back."""
        for window in (self.reads, self.writes, self.scores):
            window.reset()


def score(*, conditions: int, sorts: int, records: int) -> int:
    """What a query scores: it "depends on sorts, filters and the object's total record count"."""
    return (conditions + sorts) * (1 + records // RECORDS_A_STEP)


__all__ = ["AttioLimits", "Window", "WindowKind", "WorkspaceLimits", "score"]
