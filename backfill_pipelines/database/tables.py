"""The tables of the schema `backfill`, as SQLAlchemy Core sees them.

Belongs here: our own tables, their columns and what each column means. Does not belong here: the user's tables (their
names come from the registry, their columns from the catalogue) and how the tables come to be (`migrations/`; a test
holds the two against each other).
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Double,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

SCHEMA = "backfill"

metadata = MetaData(schema=SCHEMA)


def _utc(name: str, *, nullable: bool = True) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


run = Table(
    "run",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("dagster_run_id", Text),  # the newest Dagster run that worked on it
    Column("root_run_id", Text),  # the first Dagster run of its group: retries and resumed runs share it
    Column("backfill", Text, nullable=False),
    Column("partition_key", Text, nullable=False),
    Column("mode", Text, nullable=False),  # plan, load, undo, verify
    Column("state", Text, nullable=False),  # running, succeeded, failed, parked, interrupted, refused
    Column("plan_hash", Text),
    Column("planned_counts", JSONB, nullable=False, server_default=text("'{}'")),  # of the plan alone, before outcomes
    Column("planned_reasons", JSONB, nullable=False, server_default=text("'{}'")),
    Column("counts", JSONB, nullable=False, server_default=text("'{}'")),
    Column("reasons", JSONB, nullable=False, server_default=text("'{}'")),
    Column("warnings", JSONB, nullable=False, server_default=text("'[]'")),
    Column(
        "details", JSONB, nullable=False, server_default=text("'{}'")
    ),  # a backfill's own figures; no personal value
    Column("verification", JSONB(none_as_null=True)),  # source against target, as counts and ids, right after the load
    Column("options", JSONB, nullable=False, server_default=text("'{}'")),  # what it was asked for: max_records, …
    _utc("started_at", nullable=False),
    _utc("planned_at"),  # when the plan was stored: one older than 24 h is not loaded
    _utc("finished_at"),
    _utc("parked_until"),
    Column("resumable", Boolean, nullable=False, server_default=text("false")),  # the next run goes on with this one
    Column("undoes", Uuid),  # the run that an undo rolls back
    Column("error_code", Text),
    Column("error_category", Text),  # configuration, transient, data, …: what the failure asks of whoever reads it
    Column("error_message", Text),  # one sentence, free of personal values
    Index("run_by_partition", "backfill", "partition_key", "started_at"),
    Index("run_by_dagster_run", "dagster_run_id"),
)

change = Table(
    "change",
    metadata,
    Column("run_id", Uuid, primary_key=True),
    Column("seq", Integer, primary_key=True),  # order of the plan: 0, 1, 2, …
    Column("target", Text, nullable=False),  # logical name of the table or object that the row is about
    Column("record_key", Text, nullable=False),
    Column("action", Text, nullable=False),  # create, update, skip, conflict, reject
    Column("reason", Text),
    Column("before", JSONB(none_as_null=True)),
    Column("after", JSONB(none_as_null=True)),
    Column(
        "state", Text, nullable=False, server_default=text("'planned'")
    ),  # planned, applied, conflict, failed, undone
    Column("error_code", Text),
    _utc(
        "attempted_at"
    ),  # set before a write that leaves this database; such a row is looked up before it is sent again
    _utc("applied_at"),
    Column("record_id", Text),  # the target's own id of the written record
    Column("fingerprint", Text),  # of a created record as it was just after the write: undo deletes only what equals it
    # Half-empty pages: the journal rewrites every loaded row once, and finds room for it in the row's own page.
    postgresql_with={"fillfactor": "55"},
)

cursor = Table(
    "cursor",
    metadata,
    Column("backfill", Text, primary_key=True),
    Column("partition_key", Text, primary_key=True),
    Column("stream", Text, primary_key=True),
    Column("position", JSONB, nullable=False),
    _utc("updated_at", nullable=False),
)

quota = Table(
    "quota",
    metadata,
    Column("vendor", Text, primary_key=True),
    Column("account", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("permits", Integer, nullable=False),
    Column("window_seconds", Double, nullable=False),
    Column("next_slot_at", Double, nullable=False, server_default=text("0")),
    Column("reduced_permits", Integer),
    Column("reduced_until", Double),
    Column("window_started_at", Double),
    Column("used", BigInteger, nullable=False, server_default=text("0")),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
)

bison_reply = Table(
    "bison_reply",
    metadata,
    Column("partition_key", Text, primary_key=True),
    Column("reply_id", BigInteger, primary_key=True),
    Column("instance", Text, nullable=False),
    Column("lead_id", BigInteger),
    Column("campaign_id", BigInteger),
    Column("sender_email_id", BigInteger),
    Column("known", Boolean, nullable=False),  # its campaign (or sender) is in the workspace's own lists
    _utc("date_received"),
    Column("from_name", Text),
    Column("from_email_address", Text),
    # Two clients must never have landed the same reply: this index answers that in one look-up per page.
    Index("bison_reply_by_instance", "instance", "reply_id"),
)

bison_lead = Table(
    "bison_lead",
    metadata,
    Column("partition_key", Text, primary_key=True),
    Column("lead_id", BigInteger, primary_key=True),
    Column("known", Boolean, nullable=False),  # false: the workspace no longer has this lead
    Column("email", Text),
    Column("first_name", Text),
    Column("last_name", Text),
    Column("company", Text),
    Column("phone", Text),
)

bison_workspace_record = Table(
    "bison_workspace_record",
    metadata,
    Column("instance", Text, primary_key=True),
    Column("workspace_id", BigInteger, primary_key=True),
    Column("kind", Text, primary_key=True),  # campaign, sender_email
    Column("record_id", BigInteger, primary_key=True),
    _utc("landed_at", nullable=False),
)

installation = Table(
    "installation",
    metadata,
    Column("name", Text, primary_key=True),  # hash_key, hash_key_check
    Column("value", Text, nullable=False),
)

customer_group = Table(
    "customer_group",
    metadata,
    Column("client_id", Text, primary_key=True),
    Column("group_key", Text, primary_key=True),  # keyed hash
    Column("customer_id", Text, nullable=False),  # not made by us, or made under another key
    Column("run_id", Uuid, nullable=False),
    Index("customer_group_by_run", "run_id"),
)

customer_merge = Table(
    "customer_merge",
    metadata,
    Column("client_id", Text, primary_key=True),
    Column("from_customer_id", Text, primary_key=True),
    Column("into_customer_id", Text, nullable=False),
    Column("run_id", Uuid, nullable=False),
)

customer_split = Table(
    "customer_split",
    metadata,
    Column("client_id", Text, primary_key=True),
    Column("lead_id", Text, primary_key=True),
    Column("customer_id", Text, nullable=False),
    Column("run_id", Uuid, nullable=False),
)

clerk_user = Table(
    "clerk_user",
    metadata,
    Column("partition_key", Text, primary_key=True),
    Column("user_id", Text, primary_key=True),
    Column("sweep", Integer, nullable=False),  # the reading that saw it last; what an older one saw is gone
    Column("rejected", Text),  # why the row could not be read; then it has nothing but its id
    Column("primary_email", Text),  # as Clerk spells it
    Column("verified_emails", JSONB, nullable=False),  # texts, the primary one too where it is verified
    Column("first_name", Text),
    Column("last_name", Text),
    Column("username", Text),
    Column("image_url", Text),
    Column("created_at", BigInteger),  # milliseconds since 1970, as Clerk and Convex count
    Column("last_sign_in_at", BigInteger),
    Column("last_active_at", BigInteger),
    Column("banned", Boolean, nullable=False),  # or deprovisioned
)

clerk_organization = Table(
    "clerk_organization",
    metadata,
    Column("partition_key", Text, primary_key=True),
    Column("organization_id", Text, primary_key=True),
    Column("sweep", Integer, nullable=False),
    Column("rejected", Text),
    Column("created_at", BigInteger),
    Column("members_count", Integer),
)

clerk_membership = Table(
    "clerk_membership",
    metadata,
    Column("partition_key", Text, primary_key=True),
    Column("organization_id", Text, primary_key=True),
    Column("user_id", Text, primary_key=True),
    Column("sweep", Integer, nullable=False),
    Column("rejected", Text),
)

attio_person = Table(
    "attio_person",
    metadata,
    Column("partition_key", Text, primary_key=True),
    Column("record_id", Text, primary_key=True),
    Column("rejected", Text),
    Column("addresses", JSONB, nullable=False),  # texts
    Column("user_ids", JSONB, nullable=False),  # texts: an attribute may hold several values
)

attio_company = Table(
    "attio_company",
    metadata,
    Column("partition_key", Text, primary_key=True),
    Column("record_id", Text, primary_key=True),
    Column("rejected", Text),
    Column("domains", JSONB, nullable=False),  # texts
    Column("org_id", Text),
)

convex_user = Table(
    "convex_user",
    metadata,
    Column("partition_key", Text, primary_key=True),
    Column("document_id", Text, primary_key=True),
    Column("rejected", Text),
    Column("clerk_id", Text),
    Column("fields", JSONB, nullable=False),  # those of the eight that the document has, null where it holds null
)

ghl_contact = Table(
    "ghl_contact",
    metadata,
    Column("partition_key", Text, primary_key=True),
    Column("contact_id", Text, primary_key=True),
    Column("sweep", Integer, nullable=False),  # the reading that saw it last; what an older one saw is gone
    Column("rejected", Text),  # gone, another location's, malformed: why it has nothing but its id
    Column("email", Text),  # as GoHighLevel spells it
    Column("additional_emails", JSONB, nullable=False),  # texts
    Column("phone", Text),
    Column("first_name", Text),
    Column("last_name", Text),
    Column("company_name", Text),
    Column("names_lowercased", Boolean, nullable=False),  # fit for comparing, not for display
)

ghl_lookup = Table(
    "ghl_lookup",
    metadata,
    Column("partition_key", Text, primary_key=True),
    Column("email", Text, primary_key=True),  # as addresses are compared
    Column("sweep", Integer, nullable=False),
    Column("outcome", Text, nullable=False),  # searched, absent, unproven
)
