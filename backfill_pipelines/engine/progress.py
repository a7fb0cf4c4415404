"""How far a run is, as lines of a log: at most one line per partition and step in ten seconds.

Belongs here: the throttle and the estimate of what is left. Does not belong here: progress bars (the command line has
them) and anything personal: keys and numbers only.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

_SECONDS_BETWEEN_LINES = 10.0


@dataclass
class _Step:
    started: float
    first_done: int
    last_line: float


class LineProgress:
    """Tells progress in lines (of a log, or of a stream), seldom enough to read."""

    def __init__(self, tell: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._tell = tell
        self._clock = clock
        self._mutex = threading.Lock()
        self._steps: dict[tuple[str, str], _Step] = {}

    def report(self, partition_key: str, step: str, done: int, total: int | None) -> None:
        """Tell the first and last report of a step, and one in ten seconds between them."""
        now = self._clock()
        with self._mutex:
            known = self._steps.get((partition_key, step))
            if known is None:
                self._steps[partition_key, step] = known = _Step(started=now, first_done=done, last_line=now)
            elif done != total and now - known.last_line < _SECONDS_BETWEEN_LINES:
                return
            known.last_line = now
        left = remaining_seconds(done - known.first_done, total and total - done, elapsed=now - known.started)
        of_total = "" if total is None else f" of {total}"
        estimate = "" if left is None or done == total else f", about {left:.0f} s left"
        self._tell(f"{partition_key}: {step} {done}{of_total}{estimate}")


def remaining_seconds(done: int, left: int | None, *, elapsed: float) -> float | None:
    """Estimate, at the pace so far, how long what is left takes; None while there is no pace to tell."""
    if left is None or done <= 0 or elapsed <= 0:
        return None
    return left * elapsed / done
