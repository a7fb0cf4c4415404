"""Fixtures for tests of the engine."""

from __future__ import annotations

import pytest
import sqlalchemy

from backfill_pipelines_tests.engine.client_leads_rows import ClientLeads


@pytest.fixture
def leads(product_tables: sqlalchemy.Engine) -> ClientLeads:
    """The product's table `client_leads`, empty."""
    return ClientLeads(engine=product_tables)
