"""What the fake vendors saw, and how fast they allow it to come.

Belongs here: the log of requests with its counts, and the sliding window of a quota. Does not belong here: how a vendor
words its refusal or its headers.
"""

from __future__ import annotations

import math
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

from backfill_pipelines.sandbox.faults import Call

LONGEST_LOG = 20_000
"""Requests kept one by one (10 MB); a sandbox left running for days keeps counting but forgets the oldest."""


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """One request and what became of it.

    `call.workspace` is the tenant the caller was entitled to, `served_workspace` the one whose rows it got: they differ
    only under a fault. `status` is 0 where the connection was dropped instead of answered.
    """

    number: int
    call: Call
    query: str
    served_workspace: str
    status: int
    faults: tuple[str, ...]

    @property
    def method(self) -> str:
        """The HTTP method."""
        return self.call.method

    @property
    def path(self) -> str:
        """The path below the vendor's base URL."""
        return self.call.path


class CountRow(TypedDict):
    """How many requests one route of one workspace has answered with one status."""

    vendor: str
    account: str
    workspace: str
    client: str
    method: str
    path: str
    status: int
    count: int


class RequestLog:
    """Every request in the order of its answer, and counts per account, workspace and path. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: deque[LoggedRequest] = deque(maxlen=LONGEST_LOG)
        self._counts: Counter[tuple[str, str, str, str, str, str, int]] = Counter()
        self._total = 0

    def add(self, call: Call, *, query: str, served_workspace: str, status: int, faults: tuple[str, ...]) -> None:
        """Note one finished request."""
        with self._lock:
            self._total += 1
            self._entries.append(LoggedRequest(self._total, call, query, served_workspace, status, faults))
            key = (call.vendor, call.account, call.workspace, call.client, call.method, call.template, status)
            self._counts[key] += 1

    def entries(self) -> list[LoggedRequest]:
        """The newest `LONGEST_LOG` requests, oldest first."""
        with self._lock:
            return list(self._entries)

    def total(self) -> int:
        """All requests since the last reset."""
        with self._lock:
            return self._total

    def counts(self) -> list[CountRow]:
        """Counts per account, workspace, route and status, sorted."""
        with self._lock:
            rows = sorted(self._counts.items())
        return [
            CountRow(
                vendor=vendor,
                account=account,
                workspace=workspace,
                client=client,
                method=method,
                path=path,
                status=status,
                count=count,
            )
            for (vendor, account, workspace, client, method, path, status), count in rows
        ]

    def reset(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()
            self._counts.clear()
            self._total = 0


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `permits` requests in any `window_seconds`."""

    permits: int
    window_seconds: float


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether a request fits, how many more would fit now, and when one that did not would (0 where it did)."""

    admitted: bool
    remaining: int
    retry_after_seconds: int


class RateWindow:
    """A sliding window: it never admits more than the limit in any stretch of its length.

    `clock` gives seconds; a refused request takes no permit. Not thread-safe: one event loop asks it.
    """

    def __init__(self, limit: RateLimit, *, clock: Callable[[], float]) -> None:
        self.limit = limit
        self._clock = clock
        self._admitted: deque[float] = deque()

    def admit(self) -> Admission:
        """Take a permit if there is one."""
        now = self._clock()
        while self._admitted and self._admitted[0] <= now - self.limit.window_seconds:
            self._admitted.popleft()
        if len(self._admitted) >= self.limit.permits:
            wait = self._admitted[0] + self.limit.window_seconds - now if self._admitted else self.limit.window_seconds
            return Admission(admitted=False, remaining=0, retry_after_seconds=max(1, math.ceil(wait)))
        self._admitted.append(now)
        return Admission(admitted=True, remaining=self.limit.permits - len(self._admitted), retry_after_seconds=0)

    def reset(self) -> None:
        """Give every permit back."""
        self._admitted.clear()


__all__ = ["LONGEST_LOG", "Admission", "CountRow", "LoggedRequest", "RateLimit", "RateWindow", "RequestLog"]
