"""A time of the user's tables as a whole number in a plan, and back: nothing of it may be lost, as undo restores it.

Belongs here: the two expressions. Does not belong here: which column, and when.
"""

from __future__ import annotations

from psycopg import sql

_NONE, _BEFORE_ALL, _AFTER_ALL = -(2**63), -(2**63) + 1, 2**63 - 1
"""No time, and Postgres' infinite ones: what has no time is the oldest there is."""


def time_as_number(column: sql.Composable) -> sql.Composed:
    """A time (with or without zone, or a date) as microseconds since 1970."""
    return sql.SQL(
        "CASE WHEN isfinite({0}) THEN (extract(epoch FROM {0}) * 1000000)::bigint WHEN {0} > 'epoch' THEN {1}"
        " WHEN {0} < 'epoch' THEN {2} ELSE {3} END"
    ).format(column, _AFTER_ALL, _BEFORE_ALL, _NONE)


def number_as_time(number: sql.Composable) -> sql.Composed:
    """The time that such a number stands for, as `timestamptz`; for a statement with parameters (`%%`)."""
    # An interval is multiplied in floating point: exact for the seconds of any year, not for their microseconds.
    return sql.SQL(
        "CASE {0} WHEN {1} THEN 'infinity' WHEN {2} THEN '-infinity' WHEN {3} THEN NULL ELSE timestamptz 'epoch'"
        " + ({0} / 1000000) * interval '1 second' + ({0} %% 1000000) * interval '1 microsecond' END"
    ).format(number, _AFTER_ALL, _BEFORE_ALL, _NONE)
