"""What `customers` remembers: the key of its hashes, which customer a group has, and what people merged and split."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"

_STATEMENTS = (
    """
    CREATE TABLE backfill.installation (
        name  text PRIMARY KEY,
        value text NOT NULL
    )
    """,
    """
    CREATE TABLE backfill.customer_group (
        client_id   text NOT NULL,
        group_key   text NOT NULL,
        customer_id text NOT NULL,
        run_id      uuid NOT NULL,
        PRIMARY KEY (client_id, group_key)
    )
    """,
    "CREATE INDEX customer_group_by_run ON backfill.customer_group (run_id)",
    """
    CREATE TABLE backfill.customer_merge (
        client_id        text NOT NULL,
        from_customer_id text NOT NULL,
        into_customer_id text NOT NULL,
        run_id           uuid NOT NULL,
        PRIMARY KEY (client_id, from_customer_id)
    )
    """,
    """
    CREATE TABLE backfill.customer_split (
        client_id   text NOT NULL,
        lead_id     text NOT NULL,
        customer_id text NOT NULL,
        run_id      uuid NOT NULL,
        PRIMARY KEY (client_id, lead_id)
    )
    """,
)


def upgrade() -> None:
    """Make the tables."""
    for statement in _STATEMENTS:
        op.execute(statement)
