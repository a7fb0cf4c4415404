"""What must hold of leads, jobs and customers after a run: the questions, as SQL that psql can ask too.

Belongs here: the queries, and what their answers mean. `docs/sql/customers_validation.sql` holds them with the default
names, for people; a test holds the two against each other. Does not belong here: repairing anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from psycopg import sql
from sqlalchemy import Connection

from backfill_pipelines.backfills.customers_plan import CREATED_BY
from backfill_pipelines.backfills.customers_tables import ProductTables
from backfill_pipelines.database.bulk import driver_connection

EXAMPLES = 20
LARGE_GROUP = 5
"""More leads than this are listed for review."""


class Question(NamedTuple):
    """What is asked, and the query for the ids that break it."""

    words: str
    query: str


QUESTIONS: Mapping[str, Question] = {
    "leads_without_customer": Question(
        "Leads without a customer: 0, but for those that the newest plan left as a conflict.",
        """
SELECT l.{lead_id} AS id FROM {leads} AS l
WHERE l.{lead_client} = {client} AND l.{lead_customer} IS NULL""",
    ),
    "jobs_without_customer": Question(
        "Jobs without a customer whose lead has one of its client: 0.",
        """
SELECT j.{job_id} AS id FROM {jobs} AS j JOIN {leads} AS l ON l.{lead_id} = j.{job_lead}
JOIN {customers} AS c ON c.{customer_id} = l.{lead_customer} AND c.{customer_client} = l.{lead_client}
WHERE l.{lead_client} = {client} AND j.{job_customer} IS NULL""",
    ),
    "jobs_of_another_customer": Question(
        "Jobs whose customer is not their lead's: 0.",
        """
SELECT j.{job_id} AS id FROM {jobs} AS j JOIN {leads} AS l ON l.{lead_id} = j.{job_lead}
WHERE l.{lead_client} = {client} AND j.{job_customer} IS NOT NULL
  AND j.{job_customer} IS DISTINCT FROM l.{lead_customer}""",
    ),
    "leads_of_a_foreign_customer": Question(
        "Leads that are linked to no customer of their client (another client's, or one that does not exist): 0.",
        """
SELECT l.{lead_id} AS id FROM {leads} AS l LEFT JOIN {customers} AS c ON c.{customer_id} = l.{lead_customer}
WHERE l.{lead_client} = {client} AND l.{lead_customer} IS NOT NULL
  AND c.{customer_client} IS DISTINCT FROM l.{lead_client}""",
    ),
    "customers_with_one_phone": Question(
        "Customers that the backfill made and that share a phone with another of their client: 0.",
        """
SELECT c.{customer_id} AS id FROM {customers} AS c
WHERE c.{customer_client} = {client} AND c.{customer_metadata}->>'createdBy' = {made_by}
  AND c.{customer_phone} IN (
    SELECT d.{customer_phone} FROM {customers} AS d WHERE d.{customer_client} = {client}
    GROUP BY d.{customer_phone} HAVING count(*) > 1)""",
    ),
    "created_customers_without_leads": Question(
        "Customers that the backfill made and that no lead has: 0.",
        """
SELECT c.{customer_id} AS id FROM {customers} AS c
WHERE c.{customer_client} = {client} AND c.{customer_metadata}->>'createdBy' = {made_by}
  AND NOT EXISTS (SELECT 1 FROM {leads} AS l WHERE l.{lead_customer} = c.{customer_id})""",
    ),
    "large_groups": Question(
        f"Customers of more than {LARGE_GROUP} leads, for review: right for a family, wrong for a shared value.",
        """
SELECT l.{lead_customer} AS id FROM {leads} AS l
WHERE l.{lead_client} = {client} AND l.{lead_customer} IS NOT NULL
GROUP BY l.{lead_customer} HAVING count(*) > {large}""",
    ),
}
"""By name; all but the last must have no answer."""

LAST_AUDIT = Question(
    "The run of the client's newest audit entry: the newest run of `backfill status customers`.",
    """
SELECT a.{audit_payload}->>'run_id' AS id FROM {audits} AS a
WHERE a.{audit_action} = 'backfill_customers' AND a.{audit_payload}->>'client_id' = {client}
ORDER BY a.{audit_created} DESC LIMIT 1""",
)


def ask(connection: Connection, tables: ProductTables, client_id: str) -> dict[str, set[str]]:
    """Ask all questions of one client: the ids of what breaks each rule."""
    client = sql.Literal(client_id)
    return {name: _ids(connection, question(query, tables, client)) for name, (_, query) in QUESTIONS.items()}


def _ids(connection: Connection, query: sql.Composed) -> set[str]:
    statement = sql.SQL("SELECT q.id::text FROM ({}) AS q").format(query)
    return {row[0] for row in driver_connection(connection).execute(statement)}


def count_leads(connection: Connection, tables: ProductTables, client_id: str) -> int:
    """How many leads a client has."""
    query = sql.SQL("SELECT count(*) FROM {leads} AS l WHERE l.{client_name} = {client}").format(
        leads=tables.lead.table,
        client_name=sql.Identifier(tables.lead.actual("client_id")),
        client=sql.Literal(client_id),
    )
    row = driver_connection(connection).execute(query).fetchone()
    return 0 if row is None else int(row[0])


def question(query: str, tables: ProductTables, client: sql.Composable) -> sql.Composed:
    """A query with the product's own names in it."""
    lead, job, customer, audit = tables.lead, tables.job, tables.customer, tables.audit
    return sql.SQL(query).format(
        client=client,
        made_by=sql.Literal(CREATED_BY),
        large=sql.Literal(LARGE_GROUP),
        leads=lead.table,
        lead_id=sql.Identifier(lead.actual("id")),
        lead_client=sql.Identifier(lead.actual("client_id")),
        lead_customer=sql.Identifier(lead.actual("customer_id")),
        jobs=job.table,
        job_id=sql.Identifier(job.actual("id")),
        job_lead=sql.Identifier(job.actual("lead_id")),
        job_customer=sql.Identifier(job.actual("customer_id")),
        customers=customer.table,
        customer_id=sql.Identifier(customer.actual("id")),
        customer_client=sql.Identifier(customer.actual("client_id")),
        customer_phone=sql.Identifier(customer.actual("phone")),
        customer_metadata=sql.Identifier(customer.actual("metadata")),
        audits=audit.table,
        audit_action=sql.Identifier(audit.actual("action")),
        audit_payload=sql.Identifier(audit.actual("payload")),
        audit_created=sql.Identifier(audit.actual("created_at")),
    )
