"""The one family of errors a user may see.

Belongs here: the base class, its categories, and nothing else. Does not belong here: errors that only one module
raises and catches. An error's text is shown in logs, Dagster events and at the terminal, so it never holds a personal
value, a token or a response body: keys, counts, ids and codes only.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum


class ErrorCategory(StrEnum):
    """What the failure asks of whoever reads it."""

    CONFIGURATION = "configuration"
    """The user must change the registry, the environment or the database; trying again does not help."""
    TRANSIENT = "transient"
    """The other side was unavailable; the same call may succeed later."""
    DATA = "data"
    """The data contradicts what the backfill must be able to rely on; a person has to look."""
    REFUSED = "refused"
    """The run was not started, by design: another one holds the partition."""
    PARKED = "parked"
    """A daily budget has ended; the work goes on at a known time."""
    INTERRUPTED = "interrupted"
    """Somebody asked the run to stop."""
    INTERNAL = "internal"
    """A defect of ours."""


class BackfillError(Exception):
    """A failure with a code for programs and one sentence for people.

    `code` is short, lower-case and stable (`wrong_workspace`); `message` says what is wrong, what to do, and where.
    """

    category: ErrorCategory = ErrorCategory.DATA

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return self.message


class ConfigurationError(BackfillError):
    """The user must change something before this can run; nothing was written."""

    category = ErrorCategory.CONFIGURATION


class TransientError(BackfillError):
    """The other side was unavailable for longer than the retries last."""

    category = ErrorCategory.TRANSIENT


class DataError(BackfillError):
    """What was read cannot be trusted or used; nothing was written."""

    category = ErrorCategory.DATA


class RefusedError(BackfillError):
    """The run was not started because another one is at work on the partition."""

    category = ErrorCategory.REFUSED


class InterruptedRunError(BackfillError):
    """A person or the host asked the run to stop; it stopped at a safe point and can be resumed."""

    category = ErrorCategory.INTERRUPTED


class ParkedError(BackfillError):
    """A daily budget has ended.

    `wake_at` (aware, UTC) is when the budget is renewed.
    """

    category = ErrorCategory.PARKED

    def __init__(self, code: str, message: str, *, wake_at: datetime) -> None:
        super().__init__(code, message)
        self.wake_at = wake_at
