"""The statements that take a run of `customers` back, in their order; each is a compare-and-set on what we wrote.

Belongs here: undo's statements. Does not belong here: when and in which transaction (`customers_target.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import LiteralString

from psycopg import sql

from backfill_pipelines.backfills.customers_plan import CUSTOMER, JOB, LEAD
from backfill_pipelines.backfills.customers_tables import ProductTables
from backfill_pipelines.backfills.customers_times import number_as_time
from backfill_pipelines.database.catalogue import TableShape
from backfill_pipelines.engine.journal import CHANGED_SINCE, FORGOTTEN

IN_USE = "in_use"
"""The code of a created customer that stays because something points to it."""
PLAIN: LiteralString = "NOT after ?| ARRAY['merged_into', 'merged_from']"
DELETED: LiteralString = "after ? 'merged_into'"
FILLED_AFTERWARDS: LiteralString = "after ? 'merged_from'"
"""Parts of the plan rows: a merge has one for the customer that goes, and one for that which gets its values."""
_FILLED = ("name", "phone", "email", "messenger_psid")
_OUTCOME = sql.SQL(
    " UPDATE backfill.change AS c SET state = CASE WHEN o.code IS NULL THEN 'undone' ELSE 'applied' END,"
    " error_code = o.code FROM outcomes AS o WHERE c.run_id = %(run_id)s AND c.seq = o.seq"
)
_QUOTED = re.compile(r"'(?:[^']|'')*'" + r'|"(?:[^"]|"")*"')
_TYPE_MODIFIER = re.compile(r"\([0-9]+(?:,[0-9]+)?\)")
_COMPUTED = re.compile(r"\w\(|\b(?:CURRENT_[A-Z]+|LOCALTIME|LOCALTIMESTAMP|SESSION_USER|SYSTEM_USER|USER)\b")
# What counting moves is no human's edit.
_COUNTED = sql.SQL("- ARRAY['leadCount', 'multipleLeads', 'createdAt', 'runId']")


def undo_statements(tables: ProductTables, *, made_of: Mapping[str, bool]) -> Iterator[sql.Composed]:
    """Customers that a merge deleted come first, and created ones go last: links must have somewhere to point to.

    `made_of` are the actual names of the columns that a customer's row can be made of, which leaves out those that
    Postgres computes; and whether a row has there what its maker gave it, and not a number of the table's own.
    """
    # Before it has a phone again that may be there only once.
    yield _empty_customers(tables.customer, FILLED_AFTERWARDS)
    yield _restore_merged(tables.customer, list(made_of))
    yield _unlink(tables.job, JOB, tables.customer)
    yield _unlink(tables.lead, LEAD, tables.customer)
    yield _empty_customers(tables.customer, PLAIN)
    as_made = _created_as_made(tables, [name for name, is_given in made_of.items() if is_given])
    if tables.address is not None:
        yield _delete_addresses(tables, tables.address, as_made)
    yield _delete_created(tables, as_made)


def _batch(target: str, action: str, part: LiteralString = PLAIN) -> sql.Composed:
    """The applied rows of a batch; one whose values are forgotten is left alone, and keeps the code that says so."""
    return sql.SQL(
        "batch AS MATERIALIZED (SELECT seq, record_key, before, after, applied_at FROM backfill.change"
        " WHERE run_id = %(run_id)s AND seq BETWEEN %(first)s AND %(last)s AND state = 'applied'"
        " AND target = {target} AND action = {action} AND {part} AND error_code IS DISTINCT FROM {forgotten})"
    ).format(
        target=sql.Literal(target),
        action=sql.Literal(action),
        part=sql.SQL(part),
        forgotten=sql.Literal(FORGOTTEN),
    )


def _restore_merged(customer: TableShape, columns: Sequence[str]) -> sql.Composed:
    """Make a deleted customer again, with its id and its times.

    Where another has taken a unique value of it by now, the key refuses: then row by row, and this one stays as it is.
    """
    return (
        sql.SQL(
            "WITH {batch}, restored AS (INSERT INTO {table} AS t ({names}) OVERRIDING SYSTEM VALUE"
            " SELECT {values} FROM batch AS b,"
            " LATERAL jsonb_populate_record(NULL::{table}, b.before->'row') AS r"
            " WHERE NOT EXISTS (SELECT 1 FROM {table} AS t WHERE {id} = b.record_key::{id_type})),"
            " outcomes AS MATERIALIZED (SELECT seq, NULL::text AS code FROM batch)"
        ).format(
            batch=_batch(CUSTOMER, "update", DELETED),
            table=customer.table,
            names=_escaped(sql.SQL(", ").join(map(sql.Identifier, columns))),
            values=_escaped(sql.SQL(", ").join(sql.SQL("r.{}").format(sql.Identifier(name)) for name in columns)),
            id=customer.column("t", "id"),
            id_type=customer.type_of("id"),
        )
        + _OUTCOME
    )


def _escaped(part: sql.Composed) -> sql.SQL:
    """What the user has named or written: it may hold the sign that starts a placeholder."""
    return sql.SQL(part.as_string().replace("%", "%%"))


def _unlink(table: TableShape, target: str, customer: TableShape) -> sql.Composed:
    """Put the link back where it was; a row that is gone, or has its old link already, needs nothing."""
    link = table.column("t", "customer_id")
    values = {
        "customers": customer.table,
        "customer_id": customer.column("k", "id"),
        "customer_id_type": customer.type_of("id"),
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
            "WITH {batch}, standing AS MATERIALIZED (SELECT b.*, {link} AS link,"
            " b.before->>'customer_id' IS NULL OR EXISTS (SELECT 1 FROM {customers} AS k"
            "  WHERE {customer_id} = (b.before->>'customer_id')::{customer_id_type}) AS can_go_back"
            " FROM batch AS b JOIN {table} AS t ON {id} = b.record_key::{id_type}),"
            " restored AS (UPDATE {table} AS t SET {link_name} = (b.before->>'customer_id')::{link_type}{touched}"
            " FROM standing AS b WHERE {id} = b.record_key::{id_type} AND b.can_go_back"
            " AND {link} = (b.after->>'customer_id')::{link_type}),"
            " outcomes AS MATERIALIZED (SELECT b.seq,"
            " CASE WHEN (s.link IS DISTINCT FROM (b.after->>'customer_id')::{link_type} OR NOT s.can_go_back)"
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
        before=number_as_time(sql.SQL("(b.before->>'updated_at')::bigint")),
    )


def _empty_customers(customer: TableShape, part: LiteralString) -> sql.Composed:
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
            batch=_batch(CUSTOMER, "update", part),
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


def _created_as_made(tables: ProductTables, given: Sequence[str]) -> sql.Composed:
    """That the customer `t` is as the plan row `b` made it; in columns that are not ours, as the table makes a row."""
    customer = tables.customer
    parts: list[sql.Composable] = [
        sql.SQL("{} IS NOT DISTINCT FROM (b.after->>{})::{}").format(
            customer.column("t", name), sql.Literal(name), customer.type_of(name)
        )
        for name in (*_FILLED, "client_id")
    ]
    parts.append(
        # Of what is no object nothing can be taken away.
        sql.SQL(
            "CASE jsonb_typeof({0}) WHEN 'object' THEN {0} {counted} END = ((b.after->'metadata') {counted})"
        ).format(customer.column("t", "metadata"), counted=_COUNTED)
    )
    known = set(customer.columns.values())
    for name in given:
        if name in known:
            continue
        preset = customer.presets.get(name)
        if preset is None:
            parts.append(_escaped(sql.SQL("t.{} IS NULL").format(sql.Identifier(name))))
        elif _is_constant(preset):
            # Types such as json have no equality; as JSON 0 and 0.00 are one, as text a padded character is.
            same = "(to_jsonb(t.{0}) IS NOT DISTINCT FROM to_jsonb({1}) OR t.{0}::text = ({1})::text)"
            parts.append(_escaped(sql.SQL(same).format(sql.Identifier(name), sql.SQL(preset))))
    return sql.SQL(" AND ").join(parts)


def _is_constant(preset: str) -> bool:
    """Whether a column's default is one value; that which makes a new one for each row (a time, an id) tells nothing.

    Takes SQL as the catalogue spells it: functions as `name(…)`, those of the standard in capitals.
    """
    return _COMPUTED.search(_TYPE_MODIFIER.sub("", _QUOTED.sub("", preset))) is None


def _unchanged_addresses(tables: ProductTables, address: TableShape) -> sql.Composed:
    return sql.SQL("NOT EXISTS (SELECT 1 FROM {} AS a WHERE {} = {} AND {} IS DISTINCT FROM {})").format(
        address.table,
        address.column("a", "customer_id"),
        tables.customer.column("t", "id"),
        address.column("a", "created_at"),
        address.column("a", "updated_at"),
    )


def _delete_addresses(tables: ProductTables, address: TableShape, as_made: sql.Composed) -> sql.Composed:
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
        as_made=as_made,
        free=tables.unreferenced(but_for_addresses=True),
        unchanged=_unchanged_addresses(tables, address),
        addresses=address.table,
        address_customer=address.column("a", "customer_id"),
    )


def _delete_created(tables: ProductTables, as_made: sql.Composed) -> sql.Composed:
    customer = tables.customer
    return (
        sql.SQL(
            "WITH {batch}, standing AS MATERIALIZED (SELECT b.seq, {id} AS id,"
            # One that a newer run has taken leads from is where they go back to when that is undone.
            " CASE WHEN NOT ({free}) OR b.record_key IN (SELECT n.before->>'customer_id' FROM backfill.change AS n"
            "  JOIN backfill.run AS r ON r.id = n.run_id WHERE r.backfill = 'customers' AND r.id <> %(run_id)s"
            "  AND n.state = 'applied' AND n.target IN ('Lead', 'Job') AND n.before->>'customer_id' IS NOT NULL)"
            " THEN {in_use} WHEN ({as_made}) IS NOT TRUE THEN {changed} END AS code"
            " FROM batch AS b JOIN {table} AS t ON {id} = b.record_key::{id_type}),"
            " deleted AS (DELETE FROM {table} AS t USING standing AS s WHERE {id} = s.id AND s.code IS NULL),"
            # One that was merged into another since is not gone for good: that merge can be undone.
            " outcomes AS MATERIALIZED (SELECT b.seq, CASE WHEN s.seq IS NULL AND EXISTS (SELECT 1"
            " FROM backfill.customer_merge AS m WHERE m.client_id = %(client_id)s"
            " AND m.from_customer_id = b.record_key) THEN {changed} ELSE s.code END AS code"
            " FROM batch AS b LEFT JOIN standing AS s USING (seq))"
        ).format(
            batch=_batch(CUSTOMER, "create"),
            id=customer.column("t", "id"),
            id_type=customer.type_of("id"),
            free=tables.unreferenced(),
            in_use=sql.Literal(IN_USE),
            as_made=as_made,
            changed=sql.Literal(CHANGED_SINCE),
            table=customer.table,
        )
        + _OUTCOME
    )
