"""Clients that the user's own table has: whoever opens a runtime sees them, beside those of the registry's file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import sqlalchemy
from pydantic import SecretStr

from backfill_pipelines.engine.runtime import open_runtime
from backfill_pipelines.errors import ConfigurationError

TOKEN = "pit-canary-4f"
FILE = """
clients_from_database: {wanted}
clients: [{{key: kim-wallace, name: Kim Wallace, leads: {{client_id: "42"}}}}]
"""


def keys_of(folder: Path, database_url: SecretStr, *, wanted: str = "true", tables: str = "") -> list[str]:
    """The partitions of a runtime that have a location and leads."""
    (folder / "clients.yaml").write_text(FILE.format(wanted=wanted) + tables, encoding="utf-8")
    environ = {**os.environ, "DATABASE_URL": database_url.get_secret_value()}
    environ.pop("BACKFILL_CLIENTS", None)
    with open_runtime(environ=environ, current_folder=folder) as runtime:
        assert TOKEN not in repr(runtime.registry)
        for key in runtime.registry.partition_keys("client", "gohighlevel"):
            access = runtime.registry.client(key).gohighlevel
            assert access is not None
            assert access.token.resolve().get_secret_value() == TOKEN
        return runtime.registry.partition_keys("client", {"gohighlevel", "leads"})


def add(engine: sqlalchemy.Engine, identifier: str, name: str, location: str | None, key: str | None = TOKEN) -> None:
    with engine.begin() as connection:
        connection.execute(
            sqlalchemy.text('INSERT INTO "Client" VALUES (:id, :name, :location, :key)'),
            {"id": identifier, "name": name, "location": location, "key": key},
        )


def test_rows_with_a_location_and_a_key_are_clients(
    product_tables: sqlalchemy.Engine, database_url: SecretStr, tmp_path: Path
) -> None:
    add(product_tables, "42", "Kim's own row", "loc-42")
    add(product_tables, "7", "Café Ora", "loc-7")
    add(product_tables, "8", "No location", None)
    add(product_tables, "9", "No key", "loc-9", None)
    assert keys_of(tmp_path, database_url) == ["kim-wallace", "cafe-ora"]
    assert keys_of(tmp_path, database_url, wanted="false") == []


def test_the_table_may_have_other_names(
    product_tables: sqlalchemy.Engine, database_url: SecretStr, tmp_path: Path
) -> None:
    add(product_tables, "7", "Café Ora", "loc-7")
    with product_tables.begin() as connection:
        connection.execute(sqlalchemy.text('ALTER TABLE "Client" RENAME ghl_private_key TO "ghlKey"'))
        connection.execute(sqlalchemy.text('ALTER TABLE "Client" RENAME TO "Customers of ours"'))
    tables = "tables: {Client: {name: Customers of ours, columns: {ghl_private_key: ghlKey}}}\n"
    assert keys_of(tmp_path, database_url, tables=tables) == ["cafe-ora"]


def test_a_database_without_the_table_is_told_in_one_sentence(
    database: sqlalchemy.Engine, database_url: SecretStr, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        keys_of(tmp_path, database_url)
    assert caught.value.code == "missing_table"
