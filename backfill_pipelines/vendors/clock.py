"""The time as the vendors' layer sees it.

Belongs here: the protocol, so that waiting can be tested on a virtual clock, the real clock, and a clock on another
machine. Does not belong here: parsing of dates.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

SLEW = 0.001
"""Seconds per second by which the believed difference to another machine's clock may move. A correction shifts all that
is timed by it: 1 ms in a window of 1 s is a fifteenth of the slack that a paced budget has."""
STEP_SECONDS = 1.0
"""A difference further off than this is a step of the other clock (or a failover), not a slow reply."""


class Clock(Protocol):
    """Two ways to read the time and one to let it pass; all in seconds."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment; never goes backwards. Callable from any thread."""
        ...

    def time(self) -> float:
        """Seconds since 1970 UTC, as this machine believes."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`."""
        ...


class SystemClock:
    """The machine's clock and the event loop's timer."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment."""
        return time.monotonic()

    def time(self) -> float:
        """Seconds since 1970 UTC."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Suspend the current task."""
        await asyncio.sleep(seconds)


class RemoteClock:
    """Another machine's clock, known from the replies that carried its time.

    A reply was under way for a while, and not always for the same while. A constant delay does no harm to whoever
    spaces requests by this clock, but its changes do: so the difference to the local clock follows what replies show
    slowly.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset: float | None = None  # local monotonic minus remote
        self._measured_at = 0.0

    def measured(self, *, remote: float, local: float) -> None:
        """A reply said `remote`; it was received at `local` on the monotonic clock."""
        seen = local - remote
        if self._offset is None or abs(seen - self._offset) > STEP_SECONDS:
            self._offset = seen
        else:
            most = SLEW * max(0.0, local - self._measured_at)
            self._offset += min(max(seen - self._offset, -most), most)
        self._measured_at = local

    def now(self) -> float:
        """The other machine's time; this machine's, before the first measurement."""
        return self._clock.monotonic() - self._known_offset()

    def to_local(self, moment: float) -> float:
        """A moment of the other machine's on the local monotonic clock."""
        return moment + self._known_offset()

    def _known_offset(self) -> float:
        return self._clock.monotonic() - self._clock.time() if self._offset is None else self._offset
