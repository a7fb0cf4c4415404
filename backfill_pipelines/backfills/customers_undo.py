"""The statements that take a run of `customers` back, in their order; each is a compare-and-set on what we wrote.

Belongs here: undo's statements. Does not belong here: when and in which transaction (`customers_target.py`).
"""

from __future__ import annotations

from collections.abc import Iterator

from psycopg import sql

from backfill_pipelines.backfills.customers_plan import CUSTOMER, JOB, LEAD
from backfill_pipelines.backfills.customers_tables import ProductTables
from backfill_pipelines.database.catalogue import TableShape
from backfill_pipelines.engine.journal import CHANGED_SINCE, FORGOTTEN

IN_USE = "in_use"
"""The code of a created customer that stays because something points to it."""
_FILLED = ("name", "phone", "email", "messenger_psid")
_OUTCOME = sql.SQL(
    " UPDATE backfill.change AS c SET state = CASE WHEN o.code IS NULL THEN 'undone' ELSE 'applied' END,"
    " error_code = CASE WHEN c.error_code = {forgotten} THEN c.error_code ELSE o.code END"
    " FROM outcomes AS o WHERE c.run_id = %(run_id)s AND c.seq = o.seq"
).format(forgotten=sql.Literal(FORGOTTEN))
# What counting moves is no human's edit.
_COUNTED = sql.SQL("- ARRAY['leadCount', 'multipleLeads', 'createdAt', 'runId']")


def undo_statements(tables: ProductTables) -> Iterator[sql.Composed]:
    """Customers that a merge deleted come first, and created ones go last: links must have somewhere to point to."""
    yield _restore_merged(tables.customer)
    yield _unlink(tables.job, JOB)
    yield _unlink(tables.lead, LEAD)
    yield _empty_customers(tables.customer)
    if tables.address is not None:
        yield _delete_addresses(tables, tables.address)
    yield _delete_created(tables)


def _batch(target: str, action: str, *, is_merge: bool = False) -> sql.Composed:
    return sql.SQL(
        "batch AS MATERIALIZED (SELECT seq, record_key, before, after, applied_at FROM backfill.change"
        " WHERE run_id = %(run_id)s AND seq BETWEEN %(first)s AND %(last)s AND state = 'applied'"
        " AND target = {target} AND action = {action} AND coalesce(after ? 'merged_into', false) = {is_merge})"
    ).format(target=sql.Literal(target), action=sql.Literal(action), is_merge=sql.Literal(is_merge))


def _restore_merged(customer: TableShape) -> sql.Composed:
    return (
        sql.SQL(
            "WITH {batch}, restored AS (INSERT INTO {table}"
            " SELECT (jsonb_populate_record(NULL::{table}, b.before->'row')).* FROM batch AS b ON CONFLICT DO NOTHING),"
            " outcomes AS (SELECT seq, NULL::text AS code FROM batch)"
        ).format(batch=_batch(CUSTOMER, "update", is_merge=True), table=customer.table)
        + _OUTCOME
    )


def _unlink(table: TableShape, target: str) -> sql.Composed:
    """Put the link back where it was; a row that is gone, or has its old link already, needs nothing."""
    link = table.column("t", "customer_id")
    values = {
        "table": table.table,
        "batch": _batch(target, "update"),
        "id": table.column("t", "id"),
        "id_type": table.type_of("id"),
        "link": link,
        "link_name": sql.Identifier(table.actual("customer_id")),
        "link_type": table.type_of("customer_id"),
        "touched": _touched(table) if "updated_at" in table.columns else sql.SQL(""),
        "changed": sql.Literal(CHANGED_SINCE),
    }
    return (
        sql.SQL(
            "WITH {batch}, standing AS MATERIALIZED (SELECT b.*, {link} AS link FROM batch AS b"
            " JOIN {table} AS t ON {id} = b.record_key::{id_type}),"
            " restored AS (UPDATE {table} AS t SET {link_name} = (b.before->>'customer_id')::{link_type}{touched}"
            " FROM standing AS b WHERE {id} = b.record_key::{id_type}"
            " AND {link} = (b.after->>'customer_id')::{link_type}),"
            " outcomes AS MATERIALIZED (SELECT b.seq,"
            " CASE WHEN s.link IS DISTINCT FROM (b.after->>'customer_id')::{link_type}"
            " AND s.link IS DISTINCT FROM (b.before->>'customer_id')::{link_type} AND s.seq IS NOT NULL"
            " THEN {changed} END AS code FROM batch AS b LEFT JOIN standing AS s USING (seq))"
        ).format(**values)
        + _OUTCOME
    )


def _touched(table: TableShape) -> sql.Composed:
    """`updated_at` goes back with our write, while it still tells of it."""
    return sql.SQL(", {name} = CASE WHEN {column} = b.applied_at::{type} THEN {before} ELSE now() END").format(
        name=sql.Identifier(table.actual("updated_at")),
        column=table.column("t", "updated_at"),
        type=table.type_of("updated_at"),
        before=_moment("b.before->>'updated_at'"),
    )


def _moment(value: str) -> sql.Composed:
    return sql.SQL("(timestamptz 'epoch' + ({})::bigint * interval '1 microsecond')").format(sql.SQL(value))


def _empty_customers(customer: TableShape) -> sql.Composed:
    """Empty what we filled, where it still holds that; count down what we counted, whoever counted since."""
    metadata = customer.column("t", "metadata")

    def per_column(template: str) -> sql.Composed:
        return sql.SQL(" AND " if "OR" in template else ", ").join(
            sql.SQL(template).format(
                actual=sql.Identifier(customer.actual(name)), key=sql.Literal(name), column=customer.column("t", name)
            )
            for name in _FILLED
        )

    return (
        sql.SQL(
            "WITH {batch}, standing AS MATERIALIZED (SELECT b.*, {known} AS whole FROM batch AS b"
            " JOIN {table} AS t ON {id} = b.record_key::{id_type}),"
            " restored AS (UPDATE {table} AS t SET {assignments}, {metadata_name} ="
            " CASE WHEN b.after ? 'lead_count' AND jsonb_typeof({metadata}->'leadCount') = 'number'"
            " THEN {metadata} || jsonb_build_object('leadCount', {count}, 'multipleLeads', {count} > 1)"
            " ELSE {metadata} END{touched}"
            " FROM standing AS b WHERE {id} = b.record_key::{id_type}),"
            " outcomes AS MATERIALIZED (SELECT b.seq, CASE WHEN NOT s.whole THEN {changed} END AS code"
            " FROM batch AS b LEFT JOIN standing AS s USING (seq))"
        ).format(
            batch=_batch(CUSTOMER, "update"),
            known=per_column(
                "(NOT b.after ? {key} OR {column} IS NOT DISTINCT FROM b.after->>{key}"
                " OR {column} IS NOT DISTINCT FROM b.before->>{key})"
            ),
            table=customer.table,
            id=customer.column("t", "id"),
            id_type=customer.type_of("id"),
            assignments=per_column(
                "{actual} = CASE WHEN b.after ? {key} AND {column} IS NOT DISTINCT FROM b.after->>{key}"
                " THEN b.before->>{key} ELSE {column} END"
            ),
            metadata_name=sql.Identifier(customer.actual("metadata")),
            metadata=metadata,
            count=sql.SQL(
                "(({}->>'leadCount')::int - (b.after->>'lead_count')::int"
                " + coalesce((b.before->>'lead_count')::int, 0))"
            ).format(metadata),
            touched=_touched(customer),
            changed=sql.Literal(CHANGED_SINCE),
        )
        + _OUTCOME
    )


def _created_as_made(tables: ProductTables) -> sql.Composed:
    """That the customer `t` is as the plan row `b` made it; in columns that are not ours, as the table makes a row."""
    customer = tables.customer
    parts: list[sql.Composable] = [
        sql.SQL("{} IS NOT DISTINCT FROM b.after->>{}").format(customer.column("t", name), sql.Literal(name))
        for name in (*_FILLED, "client_id")
    ]
    parts.append(
        sql.SQL("({} {counted}) = ((b.after->'metadata') {counted})").format(
            customer.column("t", "metadata"), counted=_COUNTED
        )
    )
    known = set(customer.columns.values())
    for name in customer.all_columns:
        preset = customer.presets.get(name, "NULL")
        # A default that makes a new value for each row (a time, an id) tells nothing.
        if name not in known and "(" not in preset:
            parts.append(
                sql.SQL("t.{} IS NOT DISTINCT FROM {}").format(
                    sql.Identifier(name),
                    sql.SQL(preset.replace("%", "%%")),
                )
            )
    return sql.SQL(" AND ").join(parts)


def _unchanged_addresses(tables: ProductTables, address: TableShape) -> sql.Composed:
    return sql.SQL("NOT EXISTS (SELECT 1 FROM {} AS a WHERE {} = {} AND {} IS DISTINCT FROM {})").format(
        address.table,
        address.column("a", "customer_id"),
        tables.customer.column("t", "id"),
        address.column("a", "created_at"),
        address.column("a", "updated_at"),
    )


def _delete_addresses(tables: ProductTables, address: TableShape) -> sql.Composed:
    """The addresses of a customer that goes, only if nobody has changed them."""
    customer = tables.customer
    return sql.SQL(
        "WITH {batch}, going AS MATERIALIZED (SELECT {id} AS id FROM batch AS b"
        " JOIN {table} AS t ON {id} = b.record_key::{id_type} WHERE {as_made} AND {free} AND {unchanged})"
        " DELETE FROM {addresses} AS a USING going AS g WHERE {address_customer} = g.id"
    ).format(
        batch=_batch(CUSTOMER, "create"),
        id=customer.column("t", "id"),
        id_type=customer.type_of("id"),
        table=customer.table,
        as_made=_created_as_made(tables),
        free=tables.unreferenced(but_for_addresses=True),
        unchanged=_unchanged_addresses(tables, address),
        addresses=address.table,
        address_customer=address.column("a", "customer_id"),
    )


def _delete_created(tables: ProductTables) -> sql.Composed:
    customer = tables.customer
    return (
        sql.SQL(
            "WITH {batch}, standing AS MATERIALIZED (SELECT b.seq, {id} AS id,"
            " CASE WHEN NOT ({free}) THEN {in_use} WHEN NOT ({as_made}) THEN {changed} END AS code"
            " FROM batch AS b JOIN {table} AS t ON {id} = b.record_key::{id_type}),"
            " deleted AS (DELETE FROM {table} AS t USING standing AS s WHERE {id} = s.id AND s.code IS NULL),"
            " outcomes AS MATERIALIZED (SELECT b.seq, s.code FROM batch AS b LEFT JOIN standing AS s USING (seq))"
        ).format(
            batch=_batch(CUSTOMER, "create"),
            id=customer.column("t", "id"),
            id_type=customer.type_of("id"),
            free=tables.unreferenced(),
            in_use=sql.Literal(IN_USE),
            as_made=_created_as_made(tables),
            changed=sql.Literal(CHANGED_SINCE),
            table=customer.table,
        )
        + _OUTCOME
    )
