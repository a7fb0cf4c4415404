"""A small agency for each test: five clients on two instances, an empty `client_leads`, no waiting between retries; and
a product with two clients, for `customers`.

Belongs here: fixtures that several tests of a backfill use. Does not belong here: how a run is driven (`agency.py`,
`product_rig.py`).
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from backfill_pipelines.engine import partition_run
from backfill_pipelines.sandbox.email_bison import EmailBisonSandbox
from backfill_pipelines.sandbox.email_bison_data import build_email_bison_world
from backfill_pipelines.sandbox.email_bison_records import EmailBisonWorld
from backfill_pipelines.sandbox.gohighlevel_data import GoHighLevelLocation
from backfill_pipelines.sandbox.gohighlevel_limits import GoHighLevelLimits
from backfill_pipelines.sandbox.server import SandboxServer
from backfill_pipelines.vendors import email_bison
from backfill_pipelines.vendors.transport import RetryPolicy
from backfill_pipelines_tests.backfills.agency import UNHURRIED, Agency
from backfill_pipelines_tests.backfills.hydration_rig import UNLIMITED, Hydration, Serve, serving, unhurried
from backfill_pipelines_tests.backfills.product_rig import Product


@pytest.fixture(scope="session")
def world() -> EmailBisonWorld:
    return build_email_bison_world(seed=7, clients=5, interested_replies=[50, 40, 31, 20, 3])


@pytest.fixture(scope="session")
def running(world: EmailBisonWorld) -> Iterator[tuple[EmailBisonSandbox, SandboxServer]]:
    bison = EmailBisonSandbox(world, rate_limit=UNHURRIED)
    with SandboxServer([bison]) as server:
        yield bison, server


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many attempts as ever, without the seconds between them."""
    monkeypatch.setattr(partition_run, "RETRY_DELAYS", (0.0, 0.0))
    monkeypatch.setattr(email_bison, "RetryPolicy", partial(RetryPolicy, base_seconds=0.001))


@pytest.fixture(scope="session")
def tls_context() -> Callable[[], ssl.SSLContext]:
    return cache(httpx.create_ssl_context)


@pytest.fixture(autouse=True)
def one_tls_context(monkeypatch: pytest.MonkeyPatch, tls_context: Callable[[], ssl.SSLContext]) -> None:
    """Reading the certificate authorities takes longer than a small client's whole run, and nothing here speaks TLS."""
    monkeypatch.setattr(httpx, "create_ssl_context", tls_context)


@pytest.fixture
def agency(
    running: tuple[EmailBisonSandbox, SandboxServer], product_tables: Engine, database_url: SecretStr, tmp_path: Path
) -> Agency:
    bison, server = running
    server.reset()
    return Agency(bison=bison, server=server, database=product_tables, database_url=database_url, folder=tmp_path)


@pytest.fixture
def product(product_tables: Engine, database_url: SecretStr, tmp_path: Path) -> Product:
    return Product(database=product_tables, database_url=database_url, folder=tmp_path)


@pytest.fixture
def serve(
    product_tables: Engine, database_url: SecretStr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Serve]:
    """Serves GoHighLevel locations beside a table of leads, until the end of the test."""
    unhurried(monkeypatch)
    with ExitStack() as stack:

        def started(*locations: GoHighLevelLocation, limits: GoHighLevelLimits = UNLIMITED) -> Hydration:
            return stack.enter_context(serving(product_tables, database_url, tmp_path, *locations, limits=limits))

        yield started
