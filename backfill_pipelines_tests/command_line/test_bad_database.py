"""A database that cannot be used, as `backfill run` tells of it: one sentence with what to do, and nothing written."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import sqlalchemy
from sqlalchemy import text

from backfill_pipelines.database.embedded_server import EmbeddedServer
from backfill_pipelines_tests.backfills.agency import AMBER, CAFE
from backfill_pipelines_tests.installation import Installation

RUN = ("run", "client_leads", "--client", CAFE)
PASSWORD = "p%C3%A4ss%22w%25rd%27%20canary"


def check_preflight(installation: Installation, code: str, words: str) -> None:
    """Every partition fails for this reason: exit 3, and nothing was asked of the vendor, landed or written."""
    before = len(installation.agency.server.requests)
    outcome = installation(*RUN, "--client", AMBER, "--json")
    assert outcome.exit_code == 3
    for partition in outcome.partitions.values():
        assert (partition["state"], partition["error_code"]) == ("failed", code)
        assert words in partition["error_message"]
    assert len(installation.agency.server.requests) == before
    assert installation.agency.query("SELECT * FROM backfill.bison_reply") == []


@pytest.mark.parametrize(
    ("url", "code", "words"),
    [
        (f"postgres://someone:{PASSWORD}@127.0.0.1:1/product", "database_unreachable", "127.0.0.1:1"),
        (f"postgresql://someone:{PASSWORD}@nowhere.invalid/product", "database_unreachable", "nowhere.invalid:5432"),
        (f"mysql://someone:{PASSWORD}@127.0.0.1/product", "invalid_database_url", "write postgresql://"),
        ("postgresql://someone:canary@more@127.0.0.1/product", "invalid_database_url", "write an @ in a password as"),
        ("canary", "invalid_database_url", "write postgresql://"),
    ],
)
@pytest.mark.parametrize("variable", ["DATABASE_URL", "DAGSTER_POSTGRES_URL"])
def test_a_database_that_does_not_answer_is_named_without_its_password(
    installation: Installation, variable: str, url: str, code: str, words: str
) -> None:
    installation.environ[variable] = url
    told = installation.refused(code, *RUN)
    assert words in told
    assert f" {variable}" in told
    assert "canary" not in told


def test_a_database_that_does_not_exist_is_said_so(installation: Installation, embedded_server: EmbeddedServer) -> None:
    installation.environ["DATABASE_URL"] = embedded_server.url("no_such_database").get_secret_value()
    assert "does not exist there: create it" in installation.refused("database_unreachable", *RUN)


def test_a_database_without_the_table(installation: Installation) -> None:
    installation.agency.execute("ALTER TABLE client_leads RENAME TO leads_of_clients")
    check_preflight(installation, "missing_table", 'has no table "client_leads"')
    installation.agency.execute("ALTER TABLE leads_of_clients RENAME TO client_leads")


def test_a_table_without_a_column(installation: Installation) -> None:
    installation.agency.execute("ALTER TABLE client_leads RENAME COLUMN bison_reply_id TO reply_id")
    check_preflight(installation, "missing_column", "no column bison_reply_id; add it, or name the actual column")


def test_a_table_without_its_unique_key(installation: Installation) -> None:
    (key,) = installation.agency.query(
        "SELECT conname FROM pg_constraint WHERE conrelid = 'client_leads'::regclass AND contype = 'u'"
        " AND pg_get_constraintdef(oid) LIKE '%lead_email%'"
    )
    installation.agency.execute(f"ALTER TABLE client_leads DROP CONSTRAINT {key['conname']}")
    check_preflight(
        installation, "missing_unique_key", 'ALTER TABLE "client_leads" ADD UNIQUE (lead_email, workspace_name)'
    )


@dataclass(frozen=True)
class Role:
    """A login of the database that is neither its owner nor a superuser."""

    name: str
    url: str


@pytest.fixture
def role(
    installation: Installation, administration: sqlalchemy.Engine, embedded_server: EmbeddedServer
) -> Iterator[Role]:
    name = f"pipeline_{uuid.uuid4().hex}"
    agency = installation.agency
    with administration.connect() as connection:
        connection.execute(text(f"CREATE ROLE {name} LOGIN"))
    agency.execute(f"GRANT ALL ON SCHEMA backfill TO {name}")
    agency.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA backfill TO {name}")
    url = agency.database.url.set(drivername="postgres", username=name).render_as_string().replace("@", f":{PASSWORD}@")
    yield Role(name, url)
    agency.execute(f"DROP OWNED BY {name}")
    with administration.connect() as connection:
        connection.execute(text(f"DROP ROLE {name}"))


def test_a_role_that_row_level_security_blinds(installation: Installation, role: Role) -> None:
    agency = installation.agency
    agency.execute(f"GRANT ALL ON client_leads TO {role.name}")
    agency.execute("ALTER TABLE client_leads ENABLE ROW LEVEL SECURITY")
    installation.environ["DATABASE_URL"] = role.url
    check_preflight(installation, "row_level_security", "Row-level security hides rows")
    agency.execute(f"CREATE POLICY everything ON client_leads TO {role.name} USING (true) WITH CHECK (true)")
    assert installation(*RUN).exit_code == 0
    assert agency.rows(CAFE) == agency.oracle(CAFE)


def test_a_role_that_may_not_write_the_table(installation: Installation, role: Role) -> None:
    installation.agency.execute(f"GRANT SELECT ON client_leads TO {role.name}")
    installation.environ["DATABASE_URL"] = role.url
    check_preflight(installation, "missing_privilege", 'GRANT INSERT ON "client_leads"')


def test_a_role_that_may_not_make_the_schema(installation: Installation, role: Role) -> None:
    installation.agency.execute("DROP SCHEMA backfill CASCADE")
    installation.environ["DATABASE_URL"] = role.url
    assert "CREATE SCHEMA backfill AUTHORIZATION" in installation.refused("schema_not_writable", *RUN)


def test_a_url_with_the_old_scheme_and_a_password_full_of_quotes_works_and_is_not_shown(
    installation: Installation, role: Role
) -> None:
    installation.agency.execute(f"GRANT ALL ON client_leads TO {role.name}")
    assert role.url.startswith("postgres://")
    installation.environ["DATABASE_URL"] = role.url
    for arguments in ((*RUN, "--json", "--verbose"), ("status", "--json"), ("db", "upgrade")):
        outcome = installation(*arguments)
        assert outcome.exit_code == 0
        assert "canary" not in outcome.stdout + outcome.stderr
    assert installation.agency.rows(CAFE) == installation.agency.oracle(CAFE)
