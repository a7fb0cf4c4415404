-- What must hold of leads, jobs and customers of one client, to be asked with psql at any time; reads only.
--
--   psql "$DATABASE_URL" -v client_id=42 -f docs/sql/customers_validation.sql
--
-- client_id is the id in "Client". Each question lists the ids that break it: no rows is what you want, but for
-- the last two, which are for review. `backfill verify customers` asks the same. Names are the default ones; where the
-- registry's tables: says otherwise, change them here.

-- leads_without_customer: Leads without a customer: 0, but for those that the newest plan left as a conflict.
SELECT l.id AS id FROM "Lead" AS l
WHERE l.client_id = :'client_id' AND l.customer_id IS NULL;

-- jobs_without_customer: Jobs without a customer whose lead has one of its client: 0.
SELECT j.id AS id FROM "Job" AS j JOIN "Lead" AS l ON l.id = j.lead_id
JOIN "Customer" AS c ON c.id = l.customer_id AND c.client_id = l.client_id
WHERE l.client_id = :'client_id' AND j.customer_id IS NULL;

-- jobs_of_another_customer: Jobs whose customer is not their lead's: 0.
SELECT j.id AS id FROM "Job" AS j JOIN "Lead" AS l ON l.id = j.lead_id
WHERE l.client_id = :'client_id' AND j.customer_id IS NOT NULL
  AND j.customer_id IS DISTINCT FROM l.customer_id;

-- leads_of_a_foreign_customer: Leads that are linked to no customer of their client (another client's, or one that does not exist): 0.
SELECT l.id AS id FROM "Lead" AS l LEFT JOIN "Customer" AS c ON c.id = l.customer_id
WHERE l.client_id = :'client_id' AND l.customer_id IS NOT NULL
  AND c.client_id IS DISTINCT FROM l.client_id;

-- customers_with_one_phone: Customers that the backfill made and that share a phone with another of their client: 0.
SELECT c.id AS id FROM "Customer" AS c
WHERE c.client_id = :'client_id' AND c.metadata->>'createdBy' = 'backfill_pipelines.customers'
  AND c.phone IN (
    SELECT d.phone FROM "Customer" AS d WHERE d.client_id = :'client_id'
    GROUP BY d.phone HAVING count(*) > 1);

-- created_customers_without_leads: Customers that the backfill made and that no lead has: 0.
SELECT c.id AS id FROM "Customer" AS c
WHERE c.client_id = :'client_id' AND c.metadata->>'createdBy' = 'backfill_pipelines.customers'
  AND NOT EXISTS (SELECT 1 FROM "Lead" AS l WHERE l.customer_id = c.id);

-- large_groups: Customers of more than 5 leads, for review: right for a family, wrong for a shared value.
SELECT l.customer_id AS id FROM "Lead" AS l
WHERE l.client_id = :'client_id' AND l.customer_id IS NOT NULL
GROUP BY l.customer_id HAVING count(*) > 5;

-- last_audit: The run of the client's newest audit entry: the newest run of `backfill status customers`.
SELECT a.payload->>'run_id' AS id FROM "Audit" AS a
WHERE a.action = 'backfill_customers' AND a.payload->>'client_id' = :'client_id'
ORDER BY a.created_at DESC LIMIT 1;
