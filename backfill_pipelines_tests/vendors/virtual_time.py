"""Clocks for tests that wait without waiting.

Belongs here: an event loop whose time jumps to the next timer, and a clock whose sleeps are over at once. Does not
belong here: anything about vendors.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any

EPOCH = 1_700_000_000.0


class _JumpingSelector(selectors.SelectSelector):
    """Where the real one would block for a while, this one moves the loop's time on by as much."""

    skipped = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise AssertionError("every task waits for something that cannot come: a deadlock")
        self.skipped += max(0.0, timeout)
        return super().select(0)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop that starts at zero and never waits. Only for code without threads and sockets."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        self._clock_resolution = 1e-9  # the loop may not round our timers up to a millisecond of real time

    def time(self) -> float:
        return self._jumping.skipped

    def block(self, seconds: float) -> None:
        """Let time pass as if a callback had kept the processor for as long."""
        self._jumping.skipped += seconds


class LoopClock:
    """The clock of a machine in a simulation: the loop's time, with this machine's own idea of where it began."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, monotonic_start: float = 0.0, error: float = 0.0) -> None:
        self._loop, self._start, self._error = loop, monotonic_start, error

    def monotonic(self) -> float:
        return self._loop.time() + self._start

    def time(self) -> float:
        return EPOCH + self._loop.time() + self._error

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class InstantClock:
    """A clock that sleeping moves on at once, for tests with real sockets; `slept` lists every sleep."""

    def __init__(self) -> None:
        self.passed = 0.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.passed

    def time(self) -> float:
        return EPOCH + self.passed

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.passed += max(0.0, seconds)
        await asyncio.sleep(0)


def run_virtually(main: Coroutine[Any, Any, None], loop: VirtualTimeLoop) -> None:
    """Run to the end and insist that no task is left behind."""
    try:
        loop.run_until_complete(main)
        left = asyncio.all_tasks(loop)
        assert not left, f"tasks outlived the test: {left}"
    finally:
        loop.close()
