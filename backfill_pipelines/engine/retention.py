"""Forgetting: personal values in the schema `backfill` that are older than the registry allows.

Belongs here: what is blanked and what is kept. Does not belong here: the user's tables, which are never touched.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine, text

from backfill_pipelines.engine.ledger import STALE_AFTER

_STATEMENTS = {
    # Without its values a change cannot be undone any more; what happened, to which row and when, stays.
    "change": (
        "UPDATE backfill.change AS c SET record_key = 'forgotten', before = NULL, after = NULL, fingerprint = NULL,"
        " error_code = 'forgotten'"
        " FROM backfill.run AS r WHERE r.id = c.run_id AND greatest(r.started_at, r.planned_at) < :before"
        " AND c.record_key <> 'forgotten'"
    ),
    # The ids stay: that no other client's partition lands the same reply is checked against them.
    "bison_reply": (
        "UPDATE backfill.bison_reply AS b SET from_name = NULL, from_email_address = NULL WHERE"
        " (from_name IS NOT NULL OR from_email_address IS NOT NULL) AND NOT EXISTS (SELECT 1 FROM backfill.run AS r"
        " WHERE r.partition_key = b.partition_key AND r.started_at >= :before)"
    ),
    **{
        table: (
            f"DELETE FROM backfill.{table} AS b WHERE NOT EXISTS (SELECT 1 FROM backfill.run AS r"  # noqa: S608 - ours
            " WHERE r.partition_key = b.partition_key AND r.started_at >= :before)"
        )
        for table in ("clerk_user", "attio_person", "convex_user", "ghl_contact", "ghl_lookup")
    },
    "bison_lead": (
        "DELETE FROM backfill.bison_lead AS b WHERE NOT EXISTS (SELECT 1 FROM backfill.run AS r"
        " WHERE r.partition_key = b.partition_key AND r.started_at >= :before)"
    ),
}


def delete_personal_values(engine: Engine, *, older_than_days: int) -> dict[str, int]:
    """Blank or delete what belongs to runs that started, and planned, before; returns the number of rows by table.

    A run whose values are forgotten can no longer be undone. A plan that may still be loaded is never forgotten.
    """
    before = datetime.now(UTC) - max(timedelta(days=older_than_days), STALE_AFTER)
    with engine.begin() as connection:
        return {
            table: connection.execute(text(statement), {"before": before}).rowcount
            for table, statement in _STATEMENTS.items()
        }
