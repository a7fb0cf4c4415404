"""A run of `convex_users` that is killed at a place of its load, and the next one: the same end, nothing twice.

The killed ones are real processes, ended by SIGKILL: nothing of theirs runs afterwards, no handler, no `finally`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from backfill_pipelines_tests.backfills.convex_product import (
    ACME,
    DIFFERENT,
    MUTATION,
    ConvexProduct,
    fields_of,
    serving,
)
from backfill_pipelines_tests.backfills.convex_users_reference import expected
from backfill_pipelines_tests.chaos.gate import gate
from backfill_pipelines_tests.installation import Installation

RUN = ("run", "convex_users", "--client", ACME, "--json")
Place = tuple[Literal["INSERT", "UPDATE", "DELETE"], str, str, int]
PLACES: dict[str, Place] = {
    "while a page is landed": ("INSERT", "backfill.convex_user", "true", 0),
    "while the plan is stored": ("INSERT", "backfill.change", "NEW.seq = 11", 0),
    "before anything is sent": ("UPDATE", "backfill.change", "NEW.attempted_at IS NOT NULL", 0),
    "between what Convex has committed and the landing": ("UPDATE", "backfill.convex_user", "true", DIFFERENT),
    "between what Convex has committed and the journal": (
        "UPDATE",
        "backfill.change",
        "NEW.state = 'applied'",
        DIFFERENT,
    ),
    "after the load": ("UPDATE", "backfill.run", "NEW.verification IS NOT NULL", DIFFERENT),
}


@pytest.fixture
def app(
    installation: Installation, product_tables: Engine, database_url: SecretStr, tmp_path: Path
) -> Iterator[ConvexProduct]:
    with serving(product_tables, database_url, tmp_path) as product:
        product.registry()
        yield product


def kill_at(installation: Installation, app: ConvexProduct, place: Place) -> None:
    """Start a run, and kill it where it wants to write a row."""
    before, of, when, _ = place
    with gate(app.database, before=before, of=of, when=when) as shut:
        killed = installation.start(*RUN)
        shut.wait_until_reached()
        killed.kill()


@pytest.mark.parametrize("place", PLACES)
def test_the_run_after_a_killed_one_ends_as_if_nothing_had_happened(
    installation: Installation, app: ConvexProduct, place: str
) -> None:
    world = app.world()
    kill_at(installation, app, PLACES[place])
    assert app.patched == PLACES[place][-1]
    done = installation(*RUN)
    run = done.partitions[ACME]
    assert (done.exit_code, run["state"], run["counts"]["applied"]) == (0, "succeeded", DIFFERENT)
    assert (run["details"]["successCount"], run["verification"]["passed"]) == (DIFFERENT, True)
    assert {key: fields_of(each) for key, each in app.documents().items()} == expected(world).table
    assert app.patched == DIFFERENT, "each row was written once"
    states = app.query("SELECT state, count(*) AS n FROM backfill.change WHERE action = 'update' GROUP BY state")
    assert states == [{"state": "applied", "n": DIFFERENT}]
    assert [str(row["id"]) for row in app.query("SELECT id FROM backfill.run")] == [run["run_id"]]
    calls = app.calls()[MUTATION]
    assert installation(*RUN).partitions[ACME]["counts"]["applied"] == 0
    assert app.calls()[MUTATION] == calls


def test_killed_over_and_over_it_can_be_taken_back_whole(installation: Installation, app: ConvexProduct) -> None:
    before = app.documents()
    for place in PLACES.values():
        kill_at(installation, app, place)
    run_id = installation(*RUN).partitions[ACME]["run_id"]
    assert app.patched == DIFFERENT
    undone = installation("undo", run_id, "--json")
    assert (undone.exit_code, undone.partitions[ACME]["undone"]) == (0, DIFFERENT)
    assert app.documents() == before
