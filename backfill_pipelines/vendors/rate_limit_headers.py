"""What a response says about the vendor's limits: its headers, and how long to wait after a refusal.

Belongs here: pure functions from headers and bodies to seconds and counts. Does not belong here: what follows from them
(`budget.py`, `transport.py`).

Sources: `Retry-After` in seconds or as an HTTP date (RFC 9110, 10.2.3); `X-RateLimit-Limit`, `-Remaining` and, on 429
only, `-Reset` in seconds since 1970 (Laravel's throttle middleware); `X-RateLimit-Max`, `-Remaining`,
`-Interval-Milliseconds`, `X-RateLimit-Limit-Daily`, `X-RateLimit-Daily-Remaining`
(marketplace.gohighlevel.com/docs/other/rate-limits).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

from backfill_pipelines.vendors.budget import RateLimitState

EPOCH_FROM = 1e9
"""A reset beyond this is a moment since 1970 (it was 2001 then), one below it a number of seconds (30 years)."""


@dataclass(frozen=True, slots=True)
class RateLimits:
    """The states that a response's headers describe: of the short window, and of the day."""

    window: RateLimitState | None = None
    day: RateLimitState | None = None


def rate_limits(headers: Mapping[str, str], now: float) -> RateLimits:
    """Read the limits from headers, whose names are matched without regard to case (httpx's are). `now`: since 1970."""
    interval = _number(headers.get("x-ratelimit-interval-milliseconds"))
    window = RateLimitState(
        limit=_count(headers.get("x-ratelimit-max")) or _count(headers.get("x-ratelimit-limit")),
        remaining=_count(headers.get("x-ratelimit-remaining")),
        window_seconds=interval / 1000 if interval else None,
        reset_after=_reset(headers, now),
    )
    day = RateLimitState(
        limit=_count(headers.get("x-ratelimit-limit-daily")),
        remaining=_count(headers.get("x-ratelimit-daily-remaining")),
    )
    nothing = RateLimitState()
    return RateLimits(window=None if window == nothing else window, day=None if day == nothing else day)


def retry_after_seconds(headers: Mapping[str, str], body: Any, now: float) -> float | None:
    """How long the vendor asks to wait: the longer of what the header and the body (`retry_after`) say; None if it says
    nothing. Never negative."""
    stated = (_header_seconds(headers, now), _body_seconds(body))
    return max((seconds for seconds in stated if seconds is not None), default=None)


def _header_seconds(headers: Mapping[str, str], now: float) -> float | None:
    stated = headers.get("retry-after")
    seconds = _number(stated)
    if seconds is None and stated is not None and (moment := _moment(stated)) is not None:
        return max(0.0, moment - _vendors_now(headers, now))
    return seconds


def _body_seconds(body: Any) -> float | None:
    return _number(body.get("retry_after")) if isinstance(body, dict) else None


def _reset(headers: Mapping[str, str], now: float) -> float | None:
    reset = _number(headers.get("x-ratelimit-reset"))
    if reset is None or reset < EPOCH_FROM:
        return reset
    return max(0.0, reset - _vendors_now(headers, now))


def _vendors_now(headers: Mapping[str, str], now: float) -> float:
    """The vendor's own time where it says it: our clock may be minutes off, and a date is one second away."""
    moment = _moment(headers.get("date", ""))
    return now if moment is None else moment


def _moment(http_date: str) -> float | None:
    try:
        moment = parsedate_to_datetime(http_date)
    except ValueError:
        return None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


def _number(stated: Any) -> float | None:
    if isinstance(stated, bool) or not isinstance(stated, str | int | float):
        return None
    try:
        number = float(stated)
    except (ValueError, OverflowError):
        return None
    return max(0.0, number) if math.isfinite(number) else None


def _count(stated: str | None) -> int | None:
    return int(stated) if stated is not None and stated.strip().isdecimal() and len(stated) < 12 else None  # noqa: PLR2004
