"""A user's installation for each test, and GoHighLevel locations beside it for those that ask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from backfill_pipelines.sandbox.gohighlevel_data import GoHighLevelLocation
from backfill_pipelines.sandbox.gohighlevel_limits import GoHighLevelLimits
from backfill_pipelines_tests.backfills.hydration_rig import UNLIMITED, Hydration, Serve, serving, unhurried
from backfill_pipelines_tests.installation import Installation
from backfill_pipelines_tests.installation_fixtures import dagster_storage, installation, running_sandbox


@pytest.fixture
def serve(
    installation: Installation,
    product_tables: Engine,
    database_url: SecretStr,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Serve]:
    """Serves locations until the end of the test; the registry in the user's folder is of their clients."""
    unhurried(monkeypatch)
    assert installation.folder == tmp_path
    with ExitStack() as stack:

        def started(*locations: GoHighLevelLocation, limits: GoHighLevelLimits = UNLIMITED) -> Hydration:
            product = stack.enter_context(serving(product_tables, database_url, tmp_path, *locations, limits=limits))
            installation.told_to_nobody |= {each.token for each in locations}
            for each in locations:
                product.client(each.key)
            product.registry()
            return product

        yield started


__all__ = ["dagster_storage", "installation", "running_sandbox", "serve"]
