"""The monthly KPI: interested leads per client, what agencies bill by.

Belongs here: the month's bounds in a client's time zone, the count, and its two forms. Does not belong here: anything
that writes to a database.
"""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from psycopg import sql
from sqlalchemy import Engine

from backfill_pipelines.database.bulk import driver_connection
from backfill_pipelines.database.catalogue import read_table
from backfill_pipelines.errors import ConfigurationError
from backfill_pipelines.registry import Registry

_COLUMNS = ("workspace_name", "interested", "interested_at", "deleted_at")
_DECEMBER = 12


@dataclass(frozen=True, kw_only=True)
class ClientKpi:
    """One client's month: leads that became interested in it, and all that ever were."""

    key: str
    name: str
    interested_in_month: int
    interested_in_all: int


def month_bounds(month: str, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """The first moment of a month ("2025-10") and of the next, in a time zone, as UTC.

    Raises `ConfigurationError("invalid_month")`.
    """
    try:
        first = datetime.strptime(month, "%Y-%m").replace(tzinfo=zone)
    except ValueError:
        raise ConfigurationError("invalid_month", "--month is a year and a month, such as 2025-10.") from None
    following = (
        first.replace(year=first.year + 1, month=1)
        if first.month == _DECEMBER
        else first.replace(month=first.month + 1)
    )
    return first.astimezone(UTC), following.astimezone(UTC)


def client_kpis(engine: Engine, registry: Registry, *, month: str) -> list[ClientKpi]:
    """The month of every client with an Email Bison workspace, by its key."""
    names = registry.table("client_leads")
    with engine.connect() as connection:
        shape = read_table(connection, schema=names.schema, name=names.name, columns=names.columns(*_COLUMNS))
        statement = sql.SQL(
            "SELECT count(*) FILTER (WHERE {at} >= %(first)s AND {at} < %(following)s), count(*) FROM {table} AS t"
            " WHERE {workspace} = %(name)s AND {interested} AND {deleted} IS NULL"
        ).format(
            at=shape.column("t", "interested_at"),
            table=shape.table,
            workspace=shape.column("t", "workspace_name"),
            interested=shape.column("t", "interested"),
            deleted=shape.column("t", "deleted_at"),
        )
        kpis: list[ClientKpi] = []
        for key in registry.partition_keys("client", "email_bison"):
            client = registry.client(key)
            name = client.name.resolve()
            first, following = month_bounds(month, registry.timezone(client))
            with driver_connection(connection).cursor() as cursor:
                row = cursor.execute(statement, {"first": first, "following": following, "name": name}).fetchone()
            in_month, in_all = row or (0, 0)
            kpis.append(ClientKpi(key=key, name=name, interested_in_month=in_month, interested_in_all=in_all))
    return kpis


_HEADINGS = ("client", "name", "interested leads in the month", "interested leads in all")


def as_csv(kpis: Sequence[ClientKpi]) -> str:
    """The report as CSV."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_HEADINGS)
    writer.writerows(_cells(kpi) for kpi in kpis)
    return out.getvalue()


def as_html(kpis: Sequence[ClientKpi], *, month: str) -> str:
    """The report as one HTML page without anything from elsewhere."""
    head = "".join(f"<th>{html.escape(heading)}</th>" for heading in _HEADINGS)
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in _cells(kpi)) + "</tr>" for kpi in kpis
    )
    title = f"Interested leads {html.escape(month)}"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        "<style>body{font-family:sans-serif}td,th{padding:.3em 1em;text-align:left}"
        "td:nth-child(n+3){text-align:right}</style></head>\n"
        f"<body><h1>{title}</h1><table><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table></body></html>\n"
    )


def _cells(kpi: ClientKpi) -> tuple[str, str, int, int]:
    return kpi.key, kpi.name, kpi.interested_in_month, kpi.interested_in_all
