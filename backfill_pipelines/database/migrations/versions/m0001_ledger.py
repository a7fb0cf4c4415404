"""The ledger (runs, changes, cursors), the shared quota, and the landing tables of Email Bison."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None

_STATEMENTS = (
    """
    CREATE TABLE backfill.run (
        id              uuid PRIMARY KEY,
        dagster_run_id  text,
        root_run_id     text,
        backfill        text NOT NULL,
        partition_key   text NOT NULL,
        mode            text NOT NULL,
        state           text NOT NULL,
        plan_hash       text,
        planned_counts  jsonb NOT NULL DEFAULT '{}',
        planned_reasons jsonb NOT NULL DEFAULT '{}',
        counts          jsonb NOT NULL DEFAULT '{}',
        reasons         jsonb NOT NULL DEFAULT '{}',
        warnings        jsonb NOT NULL DEFAULT '[]',
        details         jsonb NOT NULL DEFAULT '{}',
        verification    jsonb,
        options         jsonb NOT NULL DEFAULT '{}',
        started_at      timestamptz NOT NULL,
        planned_at      timestamptz,
        finished_at     timestamptz,
        parked_until    timestamptz,
        resumable       boolean NOT NULL DEFAULT false,
        undoes          uuid,
        error_code      text,
        error_category  text,
        error_message   text,
        CHECK (mode IN ('plan', 'load', 'undo', 'verify')),
        CHECK (state IN ('running', 'succeeded', 'failed', 'parked', 'interrupted', 'refused'))
    )
    """,
    "CREATE INDEX run_by_partition ON backfill.run (backfill, partition_key, started_at)",
    "CREATE INDEX run_by_dagster_run ON backfill.run (dagster_run_id)",
    """
    CREATE TABLE backfill.change (
        run_id        uuid NOT NULL,
        seq           integer NOT NULL,
        target        text NOT NULL,
        record_key    text NOT NULL,
        action        text NOT NULL,
        reason        text,
        before        jsonb,
        after         jsonb,
        state         text NOT NULL DEFAULT 'planned',
        error_code    text,
        attempted_at  timestamptz,
        applied_at    timestamptz,
        record_id     text,
        fingerprint   text,
        PRIMARY KEY (run_id, seq),
        CHECK (action IN ('create', 'update', 'skip', 'conflict', 'reject')),
        CHECK (state IN ('planned', 'applied', 'conflict', 'failed', 'undone'))
    ) WITH (fillfactor = 55)
    """,
    """
    CREATE TABLE backfill.cursor (
        backfill       text NOT NULL,
        partition_key  text NOT NULL,
        stream         text NOT NULL,
        position       jsonb NOT NULL,
        updated_at     timestamptz NOT NULL,
        PRIMARY KEY (backfill, partition_key, stream)
    )
    """,
    """
    CREATE TABLE backfill.quota (
        vendor             text NOT NULL,
        account            text NOT NULL,
        kind               text NOT NULL,
        permits            integer NOT NULL,
        window_seconds     double precision NOT NULL,
        next_slot_at       double precision NOT NULL DEFAULT 0,
        reduced_permits    integer,
        reduced_until      double precision,
        window_started_at  double precision,
        used               bigint NOT NULL DEFAULT 0,
        updated_at         timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (vendor, account, kind)
    )
    """,
    """
    CREATE TABLE backfill.bison_reply (
        partition_key       text NOT NULL,
        reply_id            bigint NOT NULL,
        instance            text NOT NULL,
        lead_id             bigint,
        campaign_id         bigint,
        sender_email_id     bigint,
        known               boolean NOT NULL,
        date_received       timestamptz,
        from_name           text,
        from_email_address  text,
        PRIMARY KEY (partition_key, reply_id)
    )
    """,
    "CREATE INDEX bison_reply_by_instance ON backfill.bison_reply (instance, reply_id)",
    """
    CREATE TABLE backfill.bison_lead (
        partition_key  text NOT NULL,
        lead_id        bigint NOT NULL,
        known          boolean NOT NULL,
        email          text,
        first_name     text,
        last_name      text,
        company        text,
        phone          text,
        PRIMARY KEY (partition_key, lead_id)
    )
    """,
    """
    CREATE TABLE backfill.bison_workspace_record (
        instance      text NOT NULL,
        workspace_id  bigint NOT NULL,
        kind          text NOT NULL,
        record_id     bigint NOT NULL,
        landed_at     timestamptz NOT NULL,
        PRIMARY KEY (instance, workspace_id, kind, record_id)
    )
    """,
)


def upgrade() -> None:
    """Make the tables; the schema itself is made before Alembic looks for its version table in it."""
    for statement in _STATEMENTS:
        op.execute(statement)
