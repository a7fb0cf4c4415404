"""From a DATABASE_URL as people paste it to an engine that works, or one sentence about why it does not.

Belongs here: reading the URL, the engine's settings, and the first connection. Does not belong here: the choice of the
URL, nor anything that is done over the connection. A URL holds a password and a user's name, so no message repeats
any of it but host and port.
"""

from __future__ import annotations

import re

import psycopg
import sqlalchemy
import sqlalchemy.exc
from psycopg import pq
from pydantic import SecretStr
from sqlalchemy.pool import ConnectionPoolEntry

from backfill_pipelines.errors import ConfigurationError

DEFAULT_PORT = 5432
_PORTS = range(1, 65536)
_UTC_NAMES = {"UTC", "Etc/UTC"}

# What libpq, the server or a pooler says -> which sentence the user reads; the first match wins. A code would be better
# than words, but libpq has none for a connection that failed. Words in another language get the last sentence.
_WORDS = {
    r"pg_hba\.conf": "not_let_in",
    # "Tenant or user not found" is the Supabase pooler's answer to a user without the project's reference.
    r"authentication failed|no password supplied|wrong password|tenant or user not found|no such user": "credentials",
    r'role ".*" does not exist': "credentials",
    r'database ".*" does not exist|no such database': "no_database",
    r"permission denied for database": "not_let_in",
    r"too many (clients|connections)|remaining connection slots|max ?client|max_client_conn": "full",
    r"the database system is|not accepting connections": "not_ready",
    r"resolve host|translate host name|name resolution|not known|no address associated": "unknown_host",
    r"refused|timeout|timed out|unreachable|no route|no such file|server closed the connection": "no_answer",
    r"ssl|certificate": "tls",
}
_SENTENCES = {
    "credentials": (
        "The database at {place} refused the user or the password: check both in DATABASE_URL (special characters of "
        "a password must be percent-encoded; a Supabase pooler wants the user as postgres.<project>)."
    ),
    "no_database": (
        "The server at {place} answered, but the database that DATABASE_URL names does not exist there: create it, or "
        "correct the name after the last slash."
    ),
    "not_let_in": (
        "The database at {place} does not let this user in from this host: allow it there (pg_hba.conf and the "
        "privilege CONNECT), or use the sslmode that the server asks for in DATABASE_URL."
    ),
    "full": (
        "The database at {place} has no free connection: end connections of other programs or raise the limit, then "
        "try again."
    ),
    "not_ready": "The database at {place} is starting or shutting down: try again in a minute.",
    "unknown_host": (
        "The host of the database at {place} is not known: check its name in DATABASE_URL and this machine's DNS{hint}."
    ),
    "no_answer": (
        "Nothing answers at {place}: check host and port in DATABASE_URL, that the server runs, and that no firewall "
        "is between{hint}."
    ),
    "tls": "There is no TLS connection to the database at {place}: check sslmode and sslrootcert in DATABASE_URL.",
    "other": "The database at {place} refused the connection: check DATABASE_URL, then the server's own log.",
}
_SUPABASE_HINT = "; Supabase's direct host answers on IPv6 only, so on an IPv4 network take the session pooler's URL"


def normalise_database_url(url: str) -> str:
    """Return `url` for SQLAlchemy with psycopg 3, without parameters that libpq does not know.

    Accepts what Supabase, Heroku, Prisma and SQLAlchemy print: `postgres://`, `postgresql://`, with any driver, and
    their foreign parameters such as `pgbouncer=true` or `connection_limit=1`, which are dropped. Never dropped is a
    parameter about TLS: `ssl=true` becomes `sslmode=require`. Raises ConfigurationError (`invalid_database_url`).
    """
    return _parse(url).render_as_string(hide_password=False)


def dagster_database_url(url: str) -> str:
    """Return `url` for dagster-postgres, whose `NOTIFY run_events, $1` is a syntax error with psycopg 3."""
    return _parse(url).set(drivername="postgresql+psycopg2").render_as_string(hide_password=False)


def create_database_engine(url: SecretStr, *, application_name: str = "backfill") -> sqlalchemy.Engine:
    """Return an engine for `url`; it connects when it is first used.

    It suits a pooler in transaction mode too: no prepared statements and no start-up options, which poolers refuse
    [supabase.com/docs/guides/database/connecting-to-postgres, pgbouncer.org/config.html]. Sessions are in UTC.
    What `url` says about time-outs and keepalives stands over the defaults here.
    """
    parsed = _parse(url.get_secret_value())
    arguments = {
        "application_name": application_name,
        "connect_timeout": 10,
        # A connection that a router has forgotten is found within a minute and not after the kernel's two hours.
        "keepalives": 1,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
    }
    engine = sqlalchemy.create_engine(
        parsed,
        connect_args={
            "prepare_threshold": None,
            **{name: value for name, value in arguments.items() if name not in parsed.query},
        },
        pool_size=10,
        max_overflow=10,
        pool_pre_ping=True,
        hide_parameters=True,
    )
    sqlalchemy.event.listen(engine, "connect", _use_utc)
    return engine


def check_reachable(engine: sqlalchemy.Engine) -> None:
    """Connect once. Raises ConfigurationError (`database_unreachable`) with one sentence on what to correct."""
    try:
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text("SELECT 1"))
    except (sqlalchemy.exc.DBAPIError, psycopg.Error) as error:
        reason = str(error.orig if isinstance(error, sqlalchemy.exc.DBAPIError) else error)
    else:
        return
    # Raised out here so that the original, whose connection object prints the password, is no context of it.
    raise ConfigurationError("database_unreachable", explain_connection_failure(reason, engine.url))


def explain_connection_failure(reason: str, url: sqlalchemy.URL) -> str:
    """Return the sentence for `reason`, libpq's or the server's words, of which it repeats none."""
    host = url.host or _first(url.query.get("host")) or "localhost"
    port = url.port or _first(url.query.get("port")) or DEFAULT_PORT
    hint = _SUPABASE_HINT if host.startswith("db.") and host.endswith(".supabase.co") else ""
    # Before that libpq quotes the host, which may hold any of the words; so may a path that is too long to be tried.
    before, tried, said = reason.lower().rpartition(" failed: ")
    if not tried:
        said = re.sub(r'"[^"]*"', "", before + said)
    kind = next((kind for words, kind in _WORDS.items() if re.search(words, said)), "other")
    return _SENTENCES[kind].format(place=f"{host}:{port}", hint=hint)


def _parse(url: str) -> sqlalchemy.URL:
    text = url.strip()
    try:
        parsed = sqlalchemy.make_url(text)
        valid = parsed.get_backend_name() in {"postgres", "postgresql"} and (
            parsed.port is None or parsed.port in _PORTS
        )
    except (sqlalchemy.exc.ArgumentError, ValueError):
        valid = False
    if not valid:
        raise _invalid("is not the URL of a Postgres database: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE")
    if text.count("@") > 1:
        # Otherwise the rest of the password would pass for the host, which messages show.
        raise _invalid("has more than one @: write an @ in a password as %40")
    return parsed.set(drivername="postgresql+psycopg", query=_libpq_parameters(parsed))


def _libpq_parameters(url: sqlalchemy.URL) -> dict[str, str | tuple[str, ...]]:
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    kept = {name: value for name, value in url.query.items() if name in known}
    foreign = {name.lower(): value for name, value in url.query.items() if name not in known}
    if _first(foreign.get("ssl")) in {"true", "1", "require"}:
        kept.setdefault("sslmode", "require")
        del foreign["ssl"]
    elif _first(foreign.get("ssl")) in {"false", "0"}:
        del foreign["ssl"]
    if any(name.startswith(("ssl", "tls")) for name in foreign):
        raise _invalid(
            "has a parameter about TLS that libpq does not know: write sslmode=require or sslmode=verify-full"
        )
    return kept


def _invalid(problem: str) -> ConfigurationError:
    return ConfigurationError("invalid_database_url", f"DATABASE_URL {problem}.")


def _first(value: str | tuple[str, ...] | None) -> str | None:
    return value[0] if isinstance(value, tuple) else value


def _use_utc(connection: psycopg.Connection, _entry: ConnectionPoolEntry) -> None:
    # Only where the server's default is another zone: behind a pooler in transaction mode SET outlives our
    # transaction on somebody else's session, and Supabase's default is UTC.
    if connection.info.parameter_status("TimeZone") not in _UTC_NAMES:
        connection.execute("SET TimeZone TO 'UTC'")
        connection.commit()
