"""URLs as people paste them, and what a user reads when the database cannot be reached."""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
import sqlalchemy
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from backfill_pipelines.database.connection import (
    check_reachable,
    create_database_engine,
    dagster_database_url,
    explain_connection_failure,
    normalise_database_url,
)
from backfill_pipelines.database.embedded_server import EmbeddedServer
from backfill_pipelines.errors import ConfigurationError
from backfill_pipelines_tests.database.holders import query, wait_until

SECRET = "s3cr3t-canary"
USER = "user-canary"


def refuse(url: str) -> ConfigurationError:
    """What check_reachable raises for `url`; it must be clean of secrets down to its causes."""
    engine = create_database_engine(SecretStr(url))
    try:
        with pytest.raises(ConfigurationError) as raised:
            check_reachable(engine)
    finally:
        engine.dispose()
    assert raised.value.code == "database_unreachable"
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None
    assert SECRET not in str(raised.value)
    assert USER not in str(raised.value)
    return raised.value


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg", "postgresql+psycopg2"])
def test_every_spelling_of_the_scheme_gets_the_driver_that_its_reader_needs(scheme: str) -> None:
    url = f"{scheme}://ann:p%40ss%2Fw%3Ard@db.example.test:6543/postgres?sslmode=require"
    rest = "ann:p%40ss%2Fw%3Ard@db.example.test:6543/postgres?sslmode=require"
    assert normalise_database_url(url) == f"postgresql+psycopg://{rest}"
    assert dagster_database_url(url) == f"postgresql+psycopg2://{rest}"


@given(password=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1))
def test_a_percent_encoded_password_arrives_unchanged(password: str) -> None:
    url = f"postgres://ann:{quote(password, safe='')}@db.example.test/app?pgbouncer=true"
    for read in (normalise_database_url, dagster_database_url):
        assert sqlalchemy.make_url(read(url)).password == password
        assert read(read(url)) == read(url)


@pytest.mark.parametrize(
    "foreign",
    ["pgbouncer=true", "connection_limit=1", "pool_timeout=20", "schema=public", "supa=base-pooler.x", "ssl=false"],
)
def test_parameters_of_other_libraries_are_dropped_and_those_of_libpq_kept(foreign: str) -> None:
    url = f"postgres://ann:pw@db.example.test/app?{foreign}&sslmode=verify-full&connect_timeout=3"
    assert sqlalchemy.make_url(normalise_database_url(url)).query == {"sslmode": "verify-full", "connect_timeout": "3"}


def test_a_wish_for_tls_is_never_dropped() -> None:
    assert normalise_database_url("postgres://db.example.test/app?ssl=true").endswith("/app?sslmode=require")
    assert normalise_database_url("postgres://db.example.test/app?ssl=true&sslmode=verify-full").endswith("verify-full")
    for unknown in ("sslmod=require", "sslaccept=strict", "ssl=verify"):
        with pytest.raises(ConfigurationError, match="sslmode=require") as raised:
            normalise_database_url(f"postgres://db.example.test/app?{unknown}")
        assert raised.value.code == "invalid_database_url"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "   ",
        SECRET,
        f"mysql://ann:{SECRET}@db.example.test/app",
        f"https://{SECRET}.supabase.co",
        f"postgres://ann:{SECRET}/app",
        f"postgres://ann:x@{SECRET}@db.example.test/app",
        f"postgres://ann:x@{SECRET}/y@db.example.test/app",
        f"postgres://ann:{SECRET}@db.example.test:99999/app",
        f"postgres://ann:{SECRET}@db.example.test:0/app",
        f"postgres://ann:{SECRET}@db.example.test/app?ssl{SECRET}=1",
        f"sqlite:///{SECRET}.db",
    ],
)
def test_what_is_no_postgres_url_is_refused_without_being_repeated(url: str) -> None:
    for read in (normalise_database_url, dagster_database_url, lambda text: create_database_engine(SecretStr(text))):
        with pytest.raises(ConfigurationError, match="DATABASE_URL") as raised:
            read(url)
        assert raised.value.code == "invalid_database_url"
        assert SECRET not in str(raised.value)
        assert raised.value.__suppress_context__ or raised.value.__context__ is None


def test_the_engine_speaks_utc_even_where_the_server_does_not(database_url: SecretStr) -> None:
    plain = database_url.get_secret_value()
    name = sqlalchemy.make_url(plain).database
    query(plain, f"ALTER DATABASE {name} SET TimeZone TO 'America/Los_Angeles'")
    assert query(plain, "SHOW TimeZone") == "America/Los_Angeles"
    engine = create_database_engine(database_url, application_name="a test")
    with engine.begin() as connection:
        assert connection.scalar(sqlalchemy.text("SHOW TimeZone")) == "UTC"
        assert connection.scalar(sqlalchemy.text("SHOW application_name")) == "a test"
    with engine.begin() as connection:
        assert connection.scalar(sqlalchemy.text("SHOW TimeZone")) == "UTC"
    check_reachable(engine)
    engine.dispose()


def test_dagsters_driver_can_notify_on_the_embedded_server(database_url: SecretStr) -> None:
    engine = sqlalchemy.create_engine(dagster_database_url(database_url.get_secret_value()))
    with engine.begin() as connection:
        connection.exec_driver_sql("NOTIFY run_events, %s", ("1",))
    engine.dispose()


def test_the_engine_prepares_no_statement_on_the_server(database: sqlalchemy.Engine) -> None:
    with database.begin() as connection:
        for number in range(20):
            connection.execute(sqlalchemy.text("SELECT :number"), {"number": number})
        assert connection.scalar(sqlalchemy.text("SELECT count(*) FROM pg_prepared_statements")) == 0


def test_what_the_url_says_stands_over_the_defaults(database_url: SecretStr) -> None:
    engine = create_database_engine(SecretStr(f"{database_url.get_secret_value()}&connect_timeout=3&keepalives=0"))
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        parameters = driver.info.get_parameters()
    assert parameters["connect_timeout"] == "3"
    assert parameters["keepalives"] == "0"
    assert parameters["keepalives_idle"] == "30"
    engine.dispose()


def test_neither_the_engine_nor_a_failed_statement_shows_the_password_or_a_parameter() -> None:
    engine = create_database_engine(SecretStr(f"postgres://ann:{SECRET}@127.0.0.1:1/app"))
    assert SECRET not in repr(engine)
    with pytest.raises(sqlalchemy.exc.OperationalError) as raised, engine.connect():
        pass
    assert SECRET not in str(raised.value)
    assert engine.hide_parameters


def test_a_port_where_nothing_listens_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    sentence = refuse(f"postgres://{USER}:{SECRET}@127.0.0.1:{port}/app").message
    assert f"Nothing answers at 127.0.0.1:{port}" in sentence


def test_a_socket_folder_without_a_server_is_named() -> None:
    # Not below pytest's folder: a socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory() as short:
        folder = Path(short) / "authentication failed"
        sentence = refuse(f"postgresql://{USER}:{SECRET}@/app?host={quote(str(folder))}").message
    assert f"Nothing answers at {folder}:5432" in sentence


def test_words_in_a_path_that_is_too_long_are_not_taken_for_the_reason() -> None:
    folder = "/tmp/" + "x" * 100 + "/authentication failed"
    sentence = refuse(f"postgresql://{USER}:{SECRET}@/app?host={quote(folder)}").message
    assert "password" not in sentence


def test_a_host_that_does_not_exist_is_named() -> None:
    sentence = refuse(f"postgres://{USER}:{SECRET}@ssl.nowhere.invalid/app").message
    assert "ssl.nowhere.invalid:5432 is not known" in sentence


def test_a_database_that_does_not_exist_is_told_from_a_wrong_password(
    data_folder: Path,
) -> None:
    with EmbeddedServer.start(data_folder) as server:
        url = server.url("postgres").get_secret_value()
        query(url, f"CREATE ROLE \"{USER}\" LOGIN PASSWORD 'right'")
        query(url, "CREATE DATABASE closed")
        query(url, "REVOKE CONNECT ON DATABASE closed FROM PUBLIC")
        rules = data_folder / "pg_hba.conf"
        others = rules.read_text()
        rules.write_text(f'local postgres "{USER}" scram-sha-256\nlocal template1 "{USER}" reject\n{others}')
        query(url, "SELECT pg_reload_conf()")
        # The reload is a signal: it is done when the server's view of the file that it has loaded changes.
        guarded = url.replace("postgres@", f"{USER}:{SECRET}@")
        wait_until(lambda: not lets_in(guarded))
        assert "refused the user or the password" in refuse(guarded).message
        assert "refused the user or the password" in refuse(url.replace("postgres@", f"{USER}@")).message
        assert "refused the user or the password" in refuse(url.replace("postgres@", f"{USER}2:{SECRET}@")).message
        assert "does not exist there" in refuse(guarded.replace("/postgres?", "/nowhere?")).message
        assert "does not let this user in" in refuse(guarded.replace("/postgres?", "/template1?")).message
        assert "does not let this user in" in refuse(guarded.replace("/postgres?", "/closed?")).message
        check_reachable(create_database_engine(server.url("postgres")))


def lets_in(url: str) -> bool:
    try:
        psycopg.connect(url.replace("+psycopg", "")).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.fixture
def pooler() -> Iterator[tuple[int, list[str]]]:
    """A port that refuses every start of a session in the words of the list, as a pooler does."""
    words = [""]

    def answer() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client:
                client.recv(8)  # "Do you speak TLS?"
                client.sendall(b"N")
                client.recv(4096)
                body = b"SFATAL\0CXX000\0M" + words[0].encode() + b"\0\0"
                client.sendall(b"E" + (len(body) + 4).to_bytes(4, "big") + body)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer)
        thread.start()
        yield listener.getsockname()[1], words
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("Tenant or user not found", "postgres.<project>"),
        ("Max client connections reached", "no free connection"),
        ("MaxClientsInSessionMode: max clients reached", "no free connection"),
        ("sorry, too many clients already", "no free connection"),
        ("the database system is starting up", "try again in a minute"),
        (f"Passwort-Authentifizierung für Benutzer »{USER}« fehlgeschlagen", "refused the connection"),
    ],
)
def test_a_refusal_in_a_poolers_words_is_understood(pooler: tuple[int, list[str]], said: str, expected: str) -> None:
    port, words = pooler
    words[0] = said
    error = refuse(f"postgres://{USER}:{SECRET}@127.0.0.1:{port}/app")
    assert expected in error.message
    assert f"127.0.0.1:{port}" in error.message


def test_a_server_without_tls_is_told_from_one_that_is_not_there(pooler: tuple[int, list[str]]) -> None:
    assert "no TLS connection" in refuse(f"postgres://{USER}:{SECRET}@127.0.0.1:{pooler[0]}/a?sslmode=require").message


@pytest.mark.parametrize("reason", ["Network is unreachable", "[Errno -5] No address associated with hostname"])
def test_supabases_direct_host_gets_the_hint_that_it_needs_ipv6(reason: str) -> None:
    url = sqlalchemy.make_url("postgresql+psycopg://ann@db.abcdefghijkl.supabase.co/postgres")
    assert "session pooler" in explain_connection_failure(f"connection failed: {reason}", url)
    other = sqlalchemy.make_url("postgresql+psycopg://ann@db.example.test/postgres")
    assert "Supabase" not in explain_connection_failure(f"connection failed: {reason}", other)
