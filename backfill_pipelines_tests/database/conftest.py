"""A data folder of its own for tests of the server's lifecycle."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from backfill_pipelines.database.embedded_server import EmbeddedServer
from backfill_pipelines_tests.conftest import open_to_server
from backfill_pipelines_tests.database.holders import stop


@pytest.fixture
def tmp_path(tmp_path: Path) -> Path:
    """pytest's folder, which a server that runs as `nobody` must be able to enter too."""
    open_to_server(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def initialised_data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder whose server has run and stopped; copying it takes a tenth of making one."""
    data = tmp_path_factory.mktemp("initialised") / "postgres"
    open_to_server(data.parent)
    EmbeddedServer.start(data, durable=False).close()
    return data


@pytest.fixture
def data_folder(initialised_data_folder: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of it for one test; a server that the test leaves behind is stopped."""
    data = tmp_path / "postgres"
    shutil.copytree(initialised_data_folder, data)
    yield data
    stop(data)
