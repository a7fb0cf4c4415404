"""What is landed of a client's GoHighLevel location: contacts, and the addresses that it was asked for."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"

_STATEMENTS = (
    """
    CREATE TABLE backfill.ghl_contact (
        partition_key     text NOT NULL,
        contact_id        text NOT NULL,
        sweep             integer NOT NULL,
        rejected          text,
        email             text,
        additional_emails jsonb NOT NULL,
        phone             text,
        first_name        text,
        last_name         text,
        company_name      text,
        names_lowercased  boolean NOT NULL,
        PRIMARY KEY (partition_key, contact_id)
    )
    """,
    """
    CREATE TABLE backfill.ghl_lookup (
        partition_key text NOT NULL,
        email         text NOT NULL,
        sweep         integer NOT NULL,
        outcome       text NOT NULL,
        PRIMARY KEY (partition_key, email)
    )
    """,
)


def upgrade() -> None:
    """Make the tables."""
    for statement in _STATEMENTS:
        op.execute(statement)
