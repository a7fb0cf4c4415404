"""What `customers` remembers beside the user's tables: which customer a group has, and what people merged and split.

Belongs here: writing that down in the transaction that executes a plan, and forgetting it with the undo. Does not
belong here: reading it (`customers_source.py`).
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import Connection, text

_REMEMBER_GROUPS = text(
    "INSERT INTO backfill.customer_group (client_id, group_key, customer_id, run_id)"
    " SELECT :client_id, after->>'group_key', after->>'customer_id', run_id FROM backfill.change"
    " WHERE run_id = :run_id AND state = 'applied' AND target = 'Lead' AND after ? 'group_key'"
    " ON CONFLICT (client_id, group_key) DO UPDATE"
    " SET customer_id = excluded.customer_id, run_id = excluded.run_id"
    " WHERE customer_group.customer_id <> excluded.customer_id"
)
# Also of a customer that stays, because something else points to it.
_REMEMBER_MERGES = text(
    "INSERT INTO backfill.customer_merge (client_id, from_customer_id, into_customer_id, run_id)"
    " SELECT :client_id, record_key, after->>'merged_into', run_id FROM backfill.change"
    " WHERE run_id = :run_id AND target = 'Customer' AND after ? 'merged_into' ON CONFLICT DO NOTHING"
)
_REMEMBER_SPLITS = text(
    "INSERT INTO backfill.customer_split (client_id, lead_id, customer_id, run_id)"
    " SELECT :client_id, record_key, after->>'customer_id', run_id FROM backfill.change"
    " WHERE run_id = :run_id AND state = 'applied' AND target = 'Lead' AND after ? 'split'"
    " ON CONFLICT (client_id, lead_id) DO UPDATE SET customer_id = excluded.customer_id, run_id = excluded.run_id"
)
_CANNOT_BE_UNDONE = text(
    "SELECT EXISTS (SELECT 1 FROM backfill.change WHERE run_id = :run_id AND error_code = 'forgotten')"
)
_FORGET_GROUPS = text("DELETE FROM backfill.customer_group WHERE run_id = :run_id")
_FORGET_MERGES = text("DELETE FROM backfill.customer_merge WHERE run_id = :run_id")
_FORGET_SPLITS = text("DELETE FROM backfill.customer_split WHERE run_id = :run_id")
_REMEMBER_OLDER_SPLITS = text(
    "INSERT INTO backfill.customer_split (client_id, lead_id, customer_id, run_id)"
    " SELECT DISTINCT ON (c.record_key) :client_id, c.record_key, c.after->>'customer_id', c.run_id"
    " FROM backfill.run AS undone JOIN backfill.run AS r USING (backfill, partition_key)"
    " JOIN backfill.change AS c ON c.run_id = r.id"
    " WHERE undone.id = :run_id AND r.id <> undone.id AND r.options ? 'command'"
    " AND c.state = 'applied' AND c.target = 'Lead' AND c.after ? 'split'"
    " AND c.record_key IN (SELECT s.record_key FROM backfill.change AS s"
    "  WHERE s.run_id = :run_id AND s.target = 'Lead' AND s.after ? 'split')"
    " ORDER BY c.record_key, c.applied_at DESC ON CONFLICT DO NOTHING"
)


def remember(connection: Connection, run_id: UUID, client_id: str) -> None:
    """Keep what a run has found, and what a person has decided with it."""
    for statement in (_REMEMBER_GROUPS, _REMEMBER_MERGES, _REMEMBER_SPLITS):
        connection.execute(statement, {"run_id": run_id, "client_id": client_id})


def forget(connection: Connection, run_id: UUID, client_id: str) -> None:
    """Let go of what came with a run that is taken back; a run that retention has blanked stands, and this with it.

    A lead that was split off, and moved on by a person, is what the first split made of it once the second is undone.
    """
    values = {"run_id": run_id, "client_id": client_id}
    if connection.scalar(_CANNOT_BE_UNDONE, values):
        return
    for statement in (_FORGET_GROUPS, _FORGET_MERGES):
        connection.execute(statement, values)
    if connection.execute(_FORGET_SPLITS, values).rowcount:
        connection.execute(_REMEMBER_OLDER_SPLITS, values)
