"""What is left behind: in the table, in the ledger, in Dagster.

Belongs here: reading that, and the one thing that must hold however often a run was killed. Does not belong here:
killing.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

from pydantic import SecretStr
from sqlalchemy import text

from backfill_pipelines.database.connection import create_database_engine
from backfill_pipelines_tests.backfills.agency import AMBER, Agency
from backfill_pipelines_tests.installation import Installation, Outcome

IDENTITY = ("id", "created_at", "updated_at")


def client_leads_of(agency: Agency, key: str) -> list[dict[str, Any]]:
    """The client's rows with all their columns but those that no two runs have in common."""
    found = agency.query(
        "SELECT to_jsonb(t) - CAST(:identity AS text[]) AS row FROM client_leads AS t WHERE workspace_name = :name"
        " ORDER BY lead_email",
        identity=list(IDENTITY),
        name=agency.name_of(key),
    )
    return [each["row"] for each in found]


def identities(agency: Agency) -> dict[str, Any]:
    """What tells whether a row was written once more: its id and times, by its address."""
    rows = agency.query("SELECT * FROM client_leads")
    return {row["lead_email"]: tuple(row[name] for name in IDENTITY) for row in rows}


def ledger(agency: Agency, *, mode: str = "load") -> list[dict[str, Any]]:
    """The runs of AMBER, oldest first."""
    return agency.query(
        "SELECT * FROM backfill.run WHERE partition_key = :key AND mode = :mode ORDER BY started_at",
        key=AMBER,
        mode=mode,
    )


def journal(agency: Agency) -> dict[str, int]:
    """How many rows of plans are in which state; skips and rejects are none of its business."""
    found = agency.query(
        "SELECT state, count(*) AS n FROM backfill.change WHERE action IN ('create', 'update') GROUP BY state"
    )
    return {each["state"]: each["n"] for each in found}


def cursor(agency: Agency, stream: str) -> dict[str, Any]:
    """Where the extraction of AMBER stands."""
    found = agency.query(
        "SELECT position FROM backfill.cursor WHERE partition_key = :key AND stream = :stream", key=AMBER, stream=stream
    )
    return dict(found[0]["position"])


def asked(agency: Agency, *, since: int = 0) -> list[tuple[str, int | None]]:
    """What was asked of the vendor for AMBER since a number of requests: path and page."""
    found = [each for each in agency.requests(AMBER) if each.number > since]
    return [(each.path, int(parse_qs(each.query)["page"][0]) if "page=" in each.query else None) for each in found]


def pages(agency: Agency, path: str, *, since: int = 0) -> list[int]:
    """The pages of a path that were asked for, sorted."""
    return sorted(page for each, page in asked(agency, since=since) if each == path and page is not None)


def requests_so_far(agency: Agency) -> int:
    return max((each.number for each in agency.server.requests), default=0)


def dagster_status(installation: Installation, run_id: str) -> str:
    """The state of a Dagster run."""
    engine = create_database_engine(SecretStr(installation.environ["DAGSTER_POSTGRES_URL"]))
    with engine.connect() as connection:
        status = connection.scalar(text("SELECT status FROM runs WHERE run_id = :run_id"), {"run_id": run_id})
    engine.dispose()
    return str(status)


def check_as_if_undisturbed(installation: Installation, last: Outcome, rows: list[dict[str, Any]]) -> None:
    """Nothing lost, nothing twice: the table, the journal and the ledger are as one undisturbed run leaves them."""
    agency = installation.agency
    assert last.exit_code == 0
    assert client_leads_of(agency, AMBER) == rows
    assert agency.written() == len(rows)
    assert journal(agency) == {"applied": len(rows)}
    run = last.partitions[AMBER]
    assert [str(each["id"]) for each in ledger(agency)] == [run["run_id"]]
    assert (run["state"], run["counts"]["create"], run["counts"]["applied"]) == ("succeeded", len(rows), len(rows))
    assert run["verification"]["passed"]
    assert run["verification"]["equal"] == len(rows)
