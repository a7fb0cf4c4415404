"""What is landed of a workspace: Clerk's users, organizations and memberships; Attio's people and companies; Convex."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"

_STATEMENTS = (
    """
    CREATE TABLE backfill.clerk_user (
        partition_key   text NOT NULL,
        user_id         text NOT NULL,
        sweep           integer NOT NULL,
        rejected        text,
        primary_email   text,
        verified_emails jsonb NOT NULL,
        first_name      text,
        last_name       text,
        username        text,
        image_url       text,
        created_at      bigint,
        last_sign_in_at bigint,
        last_active_at  bigint,
        banned          boolean NOT NULL,
        PRIMARY KEY (partition_key, user_id)
    )
    """,
    """
    CREATE TABLE backfill.clerk_organization (
        partition_key   text NOT NULL,
        organization_id text NOT NULL,
        sweep           integer NOT NULL,
        rejected        text,
        created_at      bigint,
        members_count   integer,
        PRIMARY KEY (partition_key, organization_id)
    )
    """,
    """
    CREATE TABLE backfill.clerk_membership (
        partition_key   text NOT NULL,
        organization_id text NOT NULL,
        user_id         text NOT NULL,
        sweep           integer NOT NULL,
        rejected        text,
        PRIMARY KEY (partition_key, organization_id, user_id)
    )
    """,
    """
    CREATE TABLE backfill.attio_person (
        partition_key text NOT NULL,
        record_id     text NOT NULL,
        rejected      text,
        addresses     jsonb NOT NULL,
        user_ids      jsonb NOT NULL,
        PRIMARY KEY (partition_key, record_id)
    )
    """,
    """
    CREATE TABLE backfill.attio_company (
        partition_key text NOT NULL,
        record_id     text NOT NULL,
        rejected      text,
        domains       jsonb NOT NULL,
        org_id        text,
        PRIMARY KEY (partition_key, record_id)
    )
    """,
    """
    CREATE TABLE backfill.convex_user (
        partition_key text NOT NULL,
        document_id   text NOT NULL,
        rejected      text,
        clerk_id      text,
        fields        jsonb NOT NULL,
        PRIMARY KEY (partition_key, document_id)
    )
    """,
)


def upgrade() -> None:
    """Make the tables."""
    for statement in _STATEMENTS:
        op.execute(statement)
