"""How a command that could not do its work says so: one sentence, one code, no values.

Belongs here: exit codes and the sentence of an exception. Does not belong here: partitions that failed while others
ran (`run.py` reports those).
"""

from __future__ import annotations

import json
import sys
from typing import Any

import typer

from backfill_pipelines.errors import BackfillError, ErrorCategory

FAILED = 1
DRY_RUN_FOUND_CHANGES = 2
USAGE_OR_CONFIGURATION = 3
PARKED = 4


# Typer's own base of wrong arguments, which it does not export by name.
_USAGE_ERRORS: Any = typer.BadParameter.__bases__


class UsageError(BackfillError):
    """The command was called in a way it cannot work with."""

    category = ErrorCategory.CONFIGURATION


def report_failure(error: Exception, *, as_json: bool) -> int:
    """Say on stderr why a whole command failed, as a document on stdout too with `as_json`; returns its exit code."""
    exit_code, code, sentence = explained(error)
    if sentence:
        print(f"error: {sentence} [{code}]", file=sys.stderr)
    if as_json:
        print_json({"error_code": code, "error_message": sentence})
    return exit_code


def explained(error: Exception) -> tuple[int, str, str]:
    """The exit code, the error code and the sentence of whatever ended a command.

    A `BackfillError` is free of values by its contract. Of an exception that nobody foresaw only the type and the place
    are told: its text may quote what it failed on.
    """
    if isinstance(error, _USAGE_ERRORS):
        return USAGE_OR_CONFIGURATION, "usage", _usage(error)
    if isinstance(error, typer.Abort):
        return FAILED, "not_confirmed", "Nothing was done: the question was not answered."
    if isinstance(error, OSError) and error.filename is not None:
        sentence = f"{error.filename} cannot be used ({error.strerror}); make it accessible, or choose another place."
        return USAGE_OR_CONFIGURATION, "file_unusable", sentence
    if isinstance(error, FileNotFoundError):
        return USAGE_OR_CONFIGURATION, "no_current_folder", "The current folder does not exist any more; go to another."
    if isinstance(error, BackfillError):
        passing = error.category is ErrorCategory.TRANSIENT
        return FAILED if passing else USAGE_OR_CONFIGURATION, error.code, error.message
    from backfill_pipelines.engine.partition_run import as_backfill_error

    known = as_backfill_error(error)
    return FAILED, known.code, known.message


def _usage(error: Any) -> str:
    """What is wrong with the arguments, and where they are explained; nothing where the help was just printed."""
    message: str = error.format_message().rstrip(". ")
    if not message:
        return ""
    command = error.ctx.command_path if error.ctx else "backfill"
    return f"{message}; see `{command} --help`."


def print_json(document: object) -> None:
    """Print one JSON document on stdout, in UTF-8 whatever the locale is."""
    text = json.dumps(document, ensure_ascii=False, indent=2, default=str) + "\n"
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace"))
    sys.stdout.flush()
