"""When to try again, and when an outage has had enough of us.

Belongs here: the policy of one request and the budget of an account, both without I/O. Does not belong here: which
failures may be retried (`outcomes.py`), the limits of healthy traffic (`quota.py`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How one request is retried. Times are seconds.

    A failure is tried again after a wait drawn evenly between 0 and `base_seconds * 2**n` ("full jitter": the retries
    of many requests that failed together spread out), at most `maximum_delay_seconds`, or as long as the vendor asks.
    Waiting for the quota counts nowhere. No retry begins after any of

    - `attempts`;
    - `give_up_after_seconds` in failed attempts and drawn waits: a vendor that takes every connection and never answers
      would otherwise keep each request for `attempts` read time-outs, ten times as long as one that answers 500. An
      attempt under way is not cut off: its answer may be about to come;
    - `maximum_waiting_seconds` of waits, those included that a failing vendor asked for.

    A refusal for being one too many (429) is no failure and has limits of its own: `refusals` of them, and a vendor
    that asks for more than `maximum_retry_after_seconds` is not waited for.
    """

    attempts: int = 5
    base_seconds: float = 0.5
    maximum_delay_seconds: float = 30.0
    give_up_after_seconds: float = 60.0
    maximum_waiting_seconds: float = 120.0
    refusals: int = 10
    maximum_retry_after_seconds: float = 600.0

    def delay(self, failures: int, jitter: float) -> float:
        """Seconds to wait after so many failures (1 or more); `jitter` is a random number in [0, 1)."""
        return jitter * min(self.maximum_delay_seconds, self.base_seconds * 2.0 ** min(failures, 32))

    def is_spent(self, failures: int, *, waited: float, tried: float) -> bool:
        """Whether to give up after so many failures; `waited` and `tried` include the wait before the next attempt.

        `waited`: seconds of all waits. `tried`: seconds of failed attempts and drawn waits.
        """
        return failures >= self.attempts or tried >= self.give_up_after_seconds or waited > self.maximum_waiting_seconds


class RetryBudget:
    """Retries of one account: at most `share` of its requests, and `floor` more.

    When a vendor is down, each request would otherwise be sent `attempts` times, to a vendor that can serve none. One
    budget for all clients of an account; in memory, since each process sees an outage by itself. What a long healthy
    run saves up is capped at `most`: enough for the requests that one hiccup of a few seconds fails.
    """

    def __init__(self, *, share: float = 0.2, floor: int = 10, most: int = 100) -> None:
        self._share = share
        self._most = float(most)
        self._tokens = float(floor)

    def earn(self) -> None:
        """A request is about to be made for the first time."""
        self._tokens = min(self._most, self._tokens + self._share)

    def spend(self) -> bool:
        """Whether one retry may be made; it is then spent."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
