"""The time as the vendors' layer sees it.

Belongs here: the protocol, so that waiting can be tested on a virtual clock, the real clock, and a clock on another
machine. Does not belong here: parsing of dates.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

DRIFT = 0.0005
"""Seconds per second by which two clocks may part: what NTP's slewing may do to one, and more than a crystal does."""
FADING = 0.9
"""What is left of the memory of a slow reply with each further one."""


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

    The time in a reply was read after the question was sent and before the reply was received. Each exchange so bounds
    the difference of the clocks from both sides, and the middle of what all of them leave open is what is believed:
    half the asymmetry of the fastest exchange is its error.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._least: float | None = None  # bounds of local monotonic minus remote
        self._most = 0.0
        self._measured_at = 0.0
        self.reply_seconds = 0.0
        """How long a reply is on its way, from the reading of the remote clock: the slowest of late, fading."""

    def measured(self, *, remote: float, sent: float, received: float) -> None:
        """A reply said `remote`; it and its question were received and sent at these moments of the monotonic clock."""
        drift = DRIFT * (received - self._measured_at)
        least, most = sent - remote, received - remote
        if self._least is not None:
            least, most = max(least, self._least - drift), min(most, self._most + drift)
        if least > most:  # no difference fits all exchanges: one of the clocks was set
            least, most = sent - remote, received - remote
        self._least, self._most, self._measured_at = least, most, received
        self.reply_seconds = max(received - self.to_local(remote), FADING * self.reply_seconds)

    def now(self) -> float:
        """The other machine's time; this machine's, before the first measurement."""
        return self._clock.monotonic() - self._difference()

    def to_local(self, moment: float) -> float:
        """A moment of the other machine's on the local monotonic clock."""
        return moment + self._difference()

    def _difference(self) -> float:
        return self._clock.monotonic() - self._clock.time() if self._least is None else (self._least + self._most) / 2
