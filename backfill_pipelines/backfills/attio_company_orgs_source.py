"""What `attio_company_orgs` reads: Attio's companies into their landing table, and everything landed as frames.

Belongs here: reading the companies page by page, resumable, reading some of them again, the queries. Does not belong
here: Clerk's lists (`clerk_landing.py`), what is made of the frames (`attio_company_orgs_choice.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, LiteralString

import pandas as pd
from psycopg import sql
from sqlalchemy import Connection, delete, select, text

from backfill_pipelines.backfills.attio_company_orgs_choice import Landed, Rules
from backfill_pipelines.backfills.attio_company_orgs_plan import TARGET
from backfill_pipelines.backfills.clerk_landing import MEMBERSHIPS, landed_as_counted
from backfill_pipelines.database.bulk import land_rows, storable_text, stream_columns
from backfill_pipelines.database.tables import attio_company, run
from backfill_pipelines.engine.backfill import Scope
from backfill_pipelines.engine.ledger import Mode, read_cursor, write_cursor
from backfill_pipelines.engine.side_by_side import side_by_side
from backfill_pipelines.vendors.attio import Attio
from backfill_pipelines.vendors.attio_records import Company, Page, RejectedRecord
from backfill_pipelines.vendors.clerk import account_of

STREAM = "attio_companies"
RULES = "rules"
"""Under this name a run's details say by which rules it has planned."""
AT_ONCE: Final = 4
"""Questions under way at once where companies are read again: at 200 ms each a fifth of the reads a workspace has."""

# Nearly every user's verified addresses are the primary one, and a list costs ten times as much to read as a text.
_USERS = (
    "SELECT user_id, rejected, banned, primary_email, CASE WHEN verified_emails = jsonb_build_array(primary_email)"
    " THEN NULL ELSE verified_emails END AS verified_emails FROM backfill.clerk_user WHERE partition_key = %s"
)
_ORGANIZATIONS = (
    "SELECT organization_id, rejected, created_at, members_count FROM backfill.clerk_organization"
    " WHERE partition_key = %s"
)
_MEMBERSHIPS = "SELECT organization_id, rejected, user_id FROM backfill.clerk_membership WHERE partition_key = %s"
_COMPANIES = "SELECT record_id, rejected, domains, org_id FROM backfill.attio_company WHERE partition_key = %s"


# --- Attio's companies, landed ---------------------------------------------------------------------------------------


async def land_companies(scope: Scope, attio: Attio) -> None:
    """Land the companies without `org_id`, or all where the workspace does not honour that filter; all for a
    verification, which looks at what has been written.

    Where the ledger has left a cursor, it goes on at the next page, or has nothing to do. At the beginning of a reading
    the one before is forgotten: a company that is gone, or has an `org_id` by now, must not stay landed, and nobody
    else plans on these rows.
    """
    state = await asyncio.to_thread(_unfinished, scope)
    if state is None:
        whole = await asyncio.to_thread(_verifies, scope)
        without_org_id = not whole and await attio.honours_without_org_id()
        state = {
            "account": _account(scope),
            "without_org_id": without_org_id,
            "offset": 0,
            "read": 0,
        }
        await asyncio.to_thread(_begin, scope, state)
    if state["offset"] is not None:
        pages = attio.companies(offset=state["offset"], without_org_id=state["without_org_id"])
        async for page in pages:
            scope.safe_point()
            rows = _page_rows(scope, page, read=state["read"])
            state |= {"offset": page.next_offset, "read": state["read"] + len(rows)}
            await asyncio.to_thread(_commit, scope, rows, state)
            scope.report(STREAM, state["read"], None)
    scope.details["attio_companies"] = state["read"]
    scope.details["attio_filter"] = "without org_id" if state["without_org_id"] else "none"


async def read_companies_again(scope: Scope, attio: Attio, record_ids: Sequence[str]) -> None:
    """Land these companies as they are now; those that are gone are forgotten."""
    size = attio.keys_a_question
    for start in range(0, len(record_ids), AT_ONCE * size):
        scope.safe_point()
        window = record_ids[start : start + AT_ONCE * size]
        parts = [window[first : first + size] for first in range(0, len(window), size)]
        found = await side_by_side(*(attio.companies_with_ids(part) for part in parts))
        companies: list[Company | RejectedRecord] = []
        for part in found:
            companies += [*part.records, *part.rejected]
        # Of a key that Attio refused to be asked for, nothing is known: what is landed stays.
        refused = {each for part in found for each in part.refused}
        rows = [_row(scope, each, instead="") for each in companies if each.record_id is not None]
        gone = set(window) - refused - {row["record_id"] for row in rows}
        await asyncio.to_thread(_replace, scope, rows, gone)
        scope.report(f"{STREAM} again", min(start + len(window), len(record_ids)), len(record_ids))


def _page_rows(scope: Scope, page: Page[Company], *, read: int) -> list[Mapping[str, Any]]:
    companies: list[Company | RejectedRecord] = [*page.records, *page.rejected]
    return [_row(scope, each, instead=f"unreadable {read + number}") for number, each in enumerate(companies)]


def _row(scope: Scope, company: Company | RejectedRecord, *, instead: str) -> Mapping[str, Any]:
    row: dict[str, Any] = {"partition_key": scope.partition_key, "record_id": company.record_id or instead}
    if isinstance(company, RejectedRecord):
        return {**row, "rejected": company.reason, "domains": [], "org_id": None}
    domains = [storable_text(each) for each in company.domains]
    return {**row, "rejected": None, "domains": domains, "org_id": storable_text(company.org_id)}


def _unfinished(scope: Scope) -> dict[str, Any] | None:
    """The reading to go on with (`offset` is None where it is done); the ledger deletes the cursor of any other."""
    with scope.engine.connect() as connection:
        state = read_cursor(connection, backfill=scope.backfill, partition_key=scope.partition_key, stream=STREAM)
    return state if state is not None and state["account"] == _account(scope) else None


def _verifies(scope: Scope) -> bool:
    with scope.engine.connect() as connection:
        return connection.scalar(select(run.c.mode).where(run.c.id == scope.run_id)) == Mode.VERIFY


def _begin(scope: Scope, state: Mapping[str, Any]) -> None:
    with scope.engine.begin() as connection:
        connection.execute(delete(attio_company).where(attio_company.c.partition_key == scope.partition_key))
        _write_state(scope, connection, state)


def _commit(scope: Scope, rows: Sequence[Mapping[str, Any]], state: Mapping[str, Any]) -> None:
    with scope.engine.begin() as connection:
        land_rows(connection, attio_company, rows)
        _write_state(scope, connection, state)


def _replace(scope: Scope, rows: Sequence[Mapping[str, Any]], gone: set[str]) -> None:
    with scope.engine.begin() as connection:
        land_rows(connection, attio_company, rows)
        connection.execute(
            delete(attio_company).where(
                attio_company.c.partition_key == scope.partition_key, attio_company.c.record_id.in_(gone)
            )
        )


def _write_state(scope: Scope, connection: Connection, state: Mapping[str, Any]) -> None:
    write_cursor(connection, backfill=scope.backfill, partition_key=scope.partition_key, stream=STREAM, position=state)


def _account(scope: Scope) -> str:
    """Of which key: a reading goes on with the same one alone, since another may be another workspace's."""
    attio = scope.registry.workspace(scope.partition_key).attio
    return "" if attio is None else account_of(attio.api_key.resolve())


# --- what is landed, and what was written ----------------------------------------------------------------------------


def landed(scope: Scope) -> Landed:
    """Everything that is landed, as frames of ten thousand rows at most, each query run when it is its turn."""
    with scope.engine.connect() as connection:
        complete = landed_as_counted(connection, scope.partition_key, MEMBERSHIPS)
    return Landed(
        companies=_frames(scope, _COMPANIES),
        users=_frames(scope, _USERS),
        organizations=_frames(scope, _ORGANIZATIONS),
        memberships=_frames(scope, _MEMBERSHIPS),
        memberships_complete=complete,
    )


def _frames(scope: Scope, statement: LiteralString) -> Iterator[pd.DataFrame]:
    with scope.engine.begin() as connection:
        columns, blocks = stream_columns(connection, sql.SQL(statement), [scope.partition_key])
        for block in blocks:
            yield pd.DataFrame(block, columns=columns, dtype=object)


def executed_records(scope: Scope) -> list[str]:
    """The companies that this run's load has come to, whatever became of them."""
    with scope.engine.connect() as connection:
        return list(
            connection.scalars(
                text(
                    "SELECT record_key FROM backfill.change WHERE run_id = :run_id AND target = :target"
                    " AND action = 'update' AND state <> 'planned' ORDER BY seq"
                ),
                {"run_id": scope.run_id, "target": TARGET},
            )
        )


def rules_of_newest_plan(scope: Scope) -> Rules | None:
    """The rules that the partition's newest plan was made by; None where there is no plan.

    A verification, and a load of a stored plan, are asked for nothing: by the default rules they would miss what the
    plan was told to leave out. The run's own options are those of whoever loads it.
    """
    with scope.engine.connect() as connection:
        details: Mapping[str, Any] | None = connection.scalar(
            select(run.c.details)
            .where(
                run.c.backfill == scope.backfill,
                run.c.partition_key == scope.partition_key,
                run.c.planned_at.is_not(None),
            )
            .order_by(run.c.planned_at.desc())
            .limit(1)
        )
    return None if details is None else Rules(**details[RULES])


def written_records(scope: Scope) -> dict[str, str]:
    """What the load of the partition's newest plan has written and nobody has taken back: `org_id` by record."""
    with scope.engine.connect() as connection:
        rows = connection.execute(
            text(
                "SELECT record_key, after ->> 'org_id' FROM backfill.change WHERE run_id = (SELECT id"
                " FROM backfill.run WHERE backfill = :backfill AND partition_key = :key AND planned_at IS NOT NULL"
                " ORDER BY planned_at DESC LIMIT 1)"
                " AND target = :target AND state = 'applied' AND after IS NOT NULL"
            ),
            {"backfill": scope.backfill, "key": scope.partition_key, "target": TARGET},
        )
        return {row[0]: row[1] for row in rows}


def results(scope: Scope) -> Mapping[str, Any]:
    """What became of this run's companies, for the summary: updated, conflicts and errors by reason."""
    conflicts: dict[str, int] = {}
    errors: dict[str, int] = {}
    updated = 0
    with scope.engine.connect() as connection:
        rows = connection.execute(
            text(
                "SELECT action, state, coalesce(error_code, reason), count(*) FROM backfill.change"
                " WHERE run_id = :run_id GROUP BY 1, 2, 3 ORDER BY 3"
            ),
            {"run_id": scope.run_id},
        )
        for action, state, code, count in rows:
            if state == "applied":
                updated += count
            elif "conflict" in (action, state):
                conflicts[code] = conflicts.get(code, 0) + count
            elif action == "reject" or state == "failed":
                errors[code] = errors.get(code, 0) + count
    return {"updated": updated, "conflicts": conflicts, "errors": errors}
