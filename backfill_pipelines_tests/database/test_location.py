"""Where the databases are: what the environment says, else an embedded server of our own."""

from __future__ import annotations

from pathlib import Path

import pytest

from backfill_pipelines.database.connection import create_database_engine
from backfill_pipelines.database.location import (
    DatabaseLocation,
    dagster_storage_url,
    embedded_server,
    home_folder,
)
from backfill_pipelines.errors import ConfigurationError
from backfill_pipelines_tests.database.holders import lives


def test_the_home_folder_is_the_current_folders_unless_the_environment_names_one(tmp_path: Path) -> None:
    assert home_folder({}, tmp_path) == tmp_path / ".backfill"
    assert home_folder({"BACKFILL_HOME": ""}, tmp_path) == tmp_path / ".backfill"
    assert home_folder({"BACKFILL_HOME": "/srv/backfill"}, tmp_path) == Path("/srv/backfill")
    assert home_folder({"BACKFILL_HOME": "here"}, tmp_path).is_absolute()


def test_the_url_of_the_environment_is_taken_and_no_server_started(tmp_path: Path) -> None:
    location = DatabaseLocation.resolve({"DATABASE_URL": "  postgres://u:pw@db.example.com/crm\n"}, tmp_path)
    assert location.database_url.get_secret_value() == "postgresql+psycopg://u:pw@db.example.com/crm"
    assert not location.is_embedded
    assert "pw" not in repr(location)
    location.close()
    assert list(tmp_path.iterdir()) == []


def test_a_url_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        DatabaseLocation.resolve({"DATABASE_URL": "mysql://db.example.com/crm"}, tmp_path)
    assert caught.value.code == "invalid_database_url"


def test_without_a_url_there_is_an_embedded_server_with_a_database_of_ours_and_one_of_dagsters(
    tmp_path: Path, data_folder: Path
) -> None:
    home = tmp_path / ".backfill"
    home.mkdir()
    home.chmod(0o755)
    data_folder.rename(home / "postgres")
    location = DatabaseLocation.resolve({"DATABASE_URL": " "}, tmp_path)
    try:
        assert location.is_embedded
        assert lives(home / "postgres")
        engine = create_database_engine(location.database_url)
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT current_database()").scalar() == "product"
        engine.dispose()
        with embedded_server({}, tmp_path) as server:
            storage = dagster_storage_url({}, server).get_secret_value()
            assert storage.startswith("postgresql+psycopg2://")
            assert "/dagster" in storage
            named = dagster_storage_url({"DAGSTER_POSTGRES_URL": "postgres://u@db.example.com/dagster_prod"}, server)
            assert named.get_secret_value() == "postgresql+psycopg2://u@db.example.com/dagster_prod"
    finally:
        location.close()
    location.close()
    assert not lives(home / "postgres")
