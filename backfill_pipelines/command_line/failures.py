"""How a command that could not do its work says so: one sentence, one code, no values.

Belongs here: exit codes and the sentence of an exception. Does not belong here: partitions that failed while others
ran (`run.py` reports those).
"""

from __future__ import annotations

import json
import sys
from typing import Any

import typer

from backfill_pipelines.errors import BackfillError

FAILED = 1
DRY_RUN_FOUND_CHANGES = 2
USAGE_OR_CONFIGURATION = 3
PARKED = 4


# Typer's own base of wrong arguments, which it does not export by name.
_USAGE_ERRORS: Any = typer.BadParameter.__bases__


class UsageError(BackfillError):
    """The command was called in a way it cannot work with."""


def exit_code_of(error: Exception) -> int:
    """Print the failure of a whole command to stderr and return its exit code.

    Nothing of the command ran, so a `BackfillError` is a matter of configuration or usage; its text is free of values
    by its contract. Of any other exception only the type and the place are told: its text may quote what it failed on.
    """
    if isinstance(error, _USAGE_ERRORS):
        print(f"error: {error.format_message()} [usage]", file=sys.stderr)
        return USAGE_OR_CONFIGURATION
    if isinstance(error, BackfillError):
        print(f"error: {error.message} [{error.code}]", file=sys.stderr)
        return USAGE_OR_CONFIGURATION
    from backfill_pipelines.engine.partition_run import as_backfill_error

    known = as_backfill_error(error)
    print(f"error: {known.message} [{known.code}]", file=sys.stderr)
    return FAILED


def print_json(document: object) -> None:
    """Print one JSON document on stdout."""
    sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=2, default=str) + "\n")
    sys.stdout.flush()
