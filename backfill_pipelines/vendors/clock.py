"""The time as the vendors' layer sees it.

Belongs here: the protocol, so that waiting can be tested on a virtual clock, and the real clock. Does not belong here:
parsing of dates.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


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
