"""The monthly KPI: what is counted, in whose month, and its two forms."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from backfill_pipelines.errors import ConfigurationError
from backfill_pipelines.registry import Registry, load_registry
from backfill_pipelines.reports.kpi import ClientKpi, as_csv, as_html, client_kpis, month_bounds

ZONES = ["UTC", "America/Los_Angeles", "Asia/Kolkata", "Pacific/Auckland"]


@given(year=st.integers(2000, 2090), month=st.integers(1, 12), zone=st.sampled_from(ZONES))
def test_months_follow_each_other_without_a_gap(year: int, month: int, zone: str) -> None:
    first, following = month_bounds(f"{year}-{month:02}", ZoneInfo(zone))
    year, month = (year + 1, 1) if month == 12 else (year, month + 1)
    assert following == month_bounds(f"{year}-{month:02}", ZoneInfo(zone))[0]
    assert first < following
    assert first.astimezone(ZoneInfo(zone)).day == 1


def test_a_month_begins_at_the_clients_midnight() -> None:
    first, following = month_bounds("2026-03", ZoneInfo("America/Los_Angeles"))
    assert first == datetime(2026, 3, 1, 8, tzinfo=UTC)
    assert following == datetime(2026, 4, 1, 7, tzinfo=UTC)  # summer time began in between


@pytest.mark.parametrize("month", ["2026", "2026-13", "october", "2026-10-01", ""])
def test_anything_but_a_month_is_refused(month: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        month_bounds(month, ZoneInfo("UTC"))
    assert raised.value.code == "invalid_month"


REGISTRY = """
defaults: {timezone: America/Los_Angeles}
email_bison: {main: {base_url: "https://bison.example.com/api"}}
clients:
  - {key: amber, name: Amber, email_bison: {instance: main, workspace_id: 1, token: t}}
  - {key: birch, name: Birch, timezone: Asia/Kolkata, email_bison: {instance: main, workspace_id: 2, token: t}}
"""


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    path = tmp_path / "clients.yaml"
    path.write_text(REGISTRY, encoding="utf-8")
    return load_registry(path, environ={})


def add(engine: sqlalchemy.Engine, name: str, email: str, interested_at: str, **columns: object) -> None:
    values = {
        "workspace_name": name,
        "lead_email": email,
        "interested": True,
        "interested_at": interested_at,
        **columns,
    }
    with engine.begin() as connection:
        connection.execute(
            text(f"INSERT INTO client_leads ({', '.join(values)}) VALUES ({', '.join(':' + each for each in values)})"),
            values,
        )


def test_living_interested_leads_are_counted_in_the_clients_own_month(
    product_tables: sqlalchemy.Engine, registry: Registry
) -> None:
    add(product_tables, "Amber", "first@example.com", "2026-03-01T08:00:00Z")
    add(product_tables, "Amber", "before@example.com", "2026-03-01T07:59:59Z")
    add(product_tables, "Amber", "gone@example.com", "2026-03-05T00:00:00Z", deleted_at="2026-03-06T00:00:00Z")
    add(product_tables, "Amber", "cold@example.com", "2026-03-05T00:00:00Z", interested=False)
    add(product_tables, "Birch", "evening@example.com", "2026-02-28T20:00:00Z")
    assert client_kpis(product_tables, registry, month="2026-03") == [
        ClientKpi(key="amber", name="Amber", interested_in_month=1, interested_in_all=2),
        ClientKpi(key="birch", name="Birch", interested_in_month=1, interested_in_all=1),
    ]


KPIS = st.builds(
    ClientKpi,
    key=st.just("kim"),
    name=st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20),
    interested_in_month=st.integers(0, 999),
    interested_in_all=st.integers(0, 999),
)


@given(kpis=st.lists(KPIS, max_size=4))
def test_the_csv_reads_back_as_it_was_written(kpis: list[ClientKpi]) -> None:
    rows = list(csv.reader(io.StringIO(as_csv(kpis), newline="")))
    assert [(row[1], int(row[2]), int(row[3])) for row in rows[1:]] == [
        (kpi.name, kpi.interested_in_month, kpi.interested_in_all) for kpi in kpis
    ]


def test_a_name_is_no_markup_in_the_html() -> None:
    kpi = ClientKpi(key="kim", name="<b>Kim & Co</b>", interested_in_month=1, interested_in_all=2)
    page = as_html([kpi], month="2026-03")
    assert "&lt;b&gt;Kim &amp; Co&lt;/b&gt;" in page
    assert "<b>" not in page
