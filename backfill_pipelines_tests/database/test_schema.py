"""The migrations: to the newest schema from anywhere, by anybody who may, from any number of processes."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text

from backfill_pipelines.database.connection import create_database_engine
from backfill_pipelines.database.embedded_server import EmbeddedServer
from backfill_pipelines.database.schema import drop_schema, upgrade_schema
from backfill_pipelines.database.tables import SCHEMA, metadata
from backfill_pipelines.errors import ConfigurationError
from backfill_pipelines_tests.database.roles import another_role


@pytest.fixture
def bare(embedded_server: EmbeddedServer, administration: sqlalchemy.Engine) -> Iterator[sqlalchemy.Engine]:
    """An engine on a database with nothing in it."""
    name = f"bare_{uuid.uuid4().hex}"
    engine = create_database_engine(embedded_server.ensure_database(name))
    yield engine
    engine.dispose()
    with administration.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


def differences(engine: sqlalchemy.Engine) -> list[object]:
    """What Alembic would have to do to make the schema what `tables.py` says."""
    options = {
        "version_table_schema": SCHEMA,
        "include_schemas": True,
        "include_name": lambda name, kind, _: name == SCHEMA if kind == "schema" else True,
        "compare_type": True,
        "compare_server_default": True,
    }
    with engine.connect() as connection:
        found: list[object] = compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
    return found


def version(engine: sqlalchemy.Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.scalars(text("SELECT version_num FROM backfill.alembic_version")))


def test_the_migrated_schema_is_what_the_tables_say(bare: sqlalchemy.Engine) -> None:
    upgrade_schema(bare)
    assert differences(bare) == []
    assert set(sqlalchemy.inspect(bare).get_table_names(schema=SCHEMA)) == {
        "alembic_version",
        *(table.name for table in metadata.tables.values()),
    }


def test_the_journals_pages_leave_room_for_outcomes(bare: sqlalchemy.Engine) -> None:
    upgrade_schema(bare)
    with bare.connect() as connection:
        options = connection.scalar(text("SELECT reloptions FROM pg_class WHERE oid = 'backfill.change'::regclass"))
    assert options == ["fillfactor=55"]


def test_upgrading_again_changes_nothing(bare: sqlalchemy.Engine) -> None:
    upgrade_schema(bare)
    with bare.begin() as connection:
        connection.execute(text("INSERT INTO backfill.cursor VALUES ('b', 'p', 's', '{}', now())"))
    upgrade_schema(bare)
    with bare.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM backfill.cursor")) == 1
    assert len(version(bare)) == 1


def test_upgrades_at_the_same_moment_do_not_meet(bare: sqlalchemy.Engine) -> None:
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(upgrade_schema, [bare] * 4))
    assert differences(bare) == []
    assert len(version(bare)) == 1


def test_dropping_the_schema_leaves_the_users_tables(bare: sqlalchemy.Engine) -> None:
    upgrade_schema(bare)
    with bare.begin() as connection:
        connection.execute(text("CREATE TABLE client_leads (id int)"))
    drop_schema(bare)
    drop_schema(bare)
    assert sqlalchemy.inspect(bare).get_schema_names() == ["information_schema", "public"]
    assert sqlalchemy.inspect(bare).get_table_names() == ["client_leads"]
    upgrade_schema(bare)
    assert differences(bare) == []


def test_a_role_that_may_not_create_the_schema_is_told_what_to_do(bare: sqlalchemy.Engine) -> None:
    with another_role(bare) as (_, engine), pytest.raises(ConfigurationError) as caught:
        upgrade_schema(engine)
    assert caught.value.code == "schema_not_writable"
    assert "CREATE SCHEMA backfill AUTHORIZATION" in caught.value.message


def test_a_role_that_may_not_write_the_schema_of_another_is_told_so_too(bare: sqlalchemy.Engine) -> None:
    with bare.begin() as connection:
        connection.execute(text("CREATE SCHEMA backfill"))
    with another_role(bare) as (_, engine), pytest.raises(ConfigurationError) as caught:
        upgrade_schema(engine)
    assert caught.value.code == "schema_not_writable"


def test_a_schema_that_an_administrator_made_for_the_role_is_filled(bare: sqlalchemy.Engine) -> None:
    with another_role(bare) as (name, engine):
        with bare.begin() as connection:
            connection.execute(text(f"CREATE SCHEMA backfill AUTHORIZATION {name}"))
        upgrade_schema(engine)
        upgrade_schema(engine)
        assert differences(engine) == []


def test_a_schema_newer_than_this_version_is_left_alone(bare: sqlalchemy.Engine) -> None:
    upgrade_schema(bare)
    with bare.begin() as connection:
        connection.execute(text("UPDATE backfill.alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigurationError) as caught:
        upgrade_schema(bare)
    assert caught.value.code == "schema_too_new"
    assert version(bare) == ["9999"]
