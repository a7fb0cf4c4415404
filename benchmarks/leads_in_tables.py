"""A client's leads and jobs in the product's tables, of any size, made by the database itself.

Belongs here: the invented leads, a registry for them, and starting `customers` from any state of the database again.
Every phone is valid, so that plain SQL finds the groups that the rules find. Does not belong here: measuring.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine, text

from backfill_pipelines.database.connection import create_database_engine
from backfill_pipelines.database.embedded_server import EmbeddedServer

CLIENT = "amber-ridge-roofing"
CLIENT_ID = "42"
_REGISTRY = f"""
defaults: {{phone_region: US}}
clients:
  - {{key: {CLIENT}, name: Amber Ridge Roofing, leads: {{client_id: "{CLIENT_ID}"}}}}
"""
# No subscriber has a number of the exchange 555; 96 area codes make 960,000 of them, without directory assistance.
_LEADS = """
INSERT INTO "Lead" (id, client_id, messenger_psid, phone, email, first_name, last_name, created_at, updated_at)
SELECT 'lead_' || lpad(n::text, 12, '0'), :client,
       CASE WHEN n % 10 < 2 THEN 'psid-' || n / 13 END,
       CASE WHEN n % 10 < 8 THEN
         (ARRAY['+1 (%s) 555-%s', '%s555%s', '1-%s-555-%s', '%s.555.%s', '+1%s555%s'])[1 + n % 5] END,
       CASE WHEN n % 10 < 9 THEN 'Robin.Ashby.' || (n * 31) % (:leads * 7 / 10) || '@Company' || n % 100 || '.test' END,
       'Robin', 'Ashby ' || n, now() - n * interval '1 second', now() - n * interval '1 second'
FROM generate_series(1, CAST(:leads AS bigint)) AS n
"""
_PHONES = """
UPDATE "Lead" AS t SET phone = format(t.phone, a.code, lpad((k.number % 9000 + 1300)::text, 4, '0'))
FROM (SELECT id, (substr(id, 6)::bigint * 7919) % (:leads * 6 / 10) AS number FROM "Lead") AS k,
     (SELECT code, row_number() OVER (ORDER BY code) - 1 AS place FROM string_to_table(:areas, ' ') AS code) AS a
WHERE k.id = t.id AND t.phone IS NOT NULL AND a.place = (k.number / 9000) % :area_count
"""
_JOBS = """
INSERT INTO "Job" (id, lead_id) SELECT 'job_' || n, 'lead_' || lpad((1 + n * 2 % :leads)::text, 12, '0')
FROM generate_series(1, :leads / 2) AS n
"""
_AREAS = (  # of North America, in one text
    "205 206 207 208 209 210 212 213 214 215 216 217 218 219 224 225 228 229 231 234 239 240 248 251 252 253 254 256 "
    "260 262 267 269 270 276 281 301 302 303 304 305 307 308 309 310 312 313 314 315 316 317 318 319 320 321 323 325 "
    "330 331 334 336 337 339 347 351 352 360 361 386 401 402 404 405 406 407 408 409 410 412 413 414 415 417 419 423"
)


def fill(engine: Engine, *, leads: int) -> None:
    """Put so many leads, and half as many jobs, into empty tables."""
    parameters = {"client": CLIENT_ID, "leads": leads}
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO \"Client\" VALUES (:client, 'Amber Ridge Roofing')"), parameters)
        connection.execute(text(_LEADS), parameters)
        connection.execute(text(_PHONES), {"leads": leads, "areas": _AREAS, "area_count": len(_AREAS.split())})
        connection.execute(text(_JOBS), parameters)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        # The phones were a second write: the tables are to be as they are after a week, not full of dead rows.
        connection.execute(text('VACUUM FULL ANALYZE "Lead"'))
        connection.execute(text('VACUUM ANALYZE "Job"'))


def write_registry(folder: Path) -> Path:
    """Write a `clients.yaml` with the one client."""
    path = folder / "clients.yaml"
    path.write_text(_REGISTRY, encoding="utf-8")
    return path


def copy_database(server: EmbeddedServer, template: str, name: str) -> None:
    """Make a database anew as a copy of another that nobody uses, and write all of it to disk."""
    administration = create_database_engine(server.url("postgres"))
    with administration.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy"))
        connection.execute(text("CHECKPOINT"))
    administration.dispose()
