"""`attio_people` where Attio's queries do not show yet what was written, and where it is merging records: what is ours
is known as ours, and nobody is left half done without a word."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from backfill_pipelines.engine.ledger import State
from backfill_pipelines_tests.backfills.attio_product import (
    DRY_RUN,
    EMPTY_ATTIO,
    EMPTY_CLERK,
    LOAD_ONLY,
    PEOPLE_QUERY,
    RECORDS,
    AttioProduct,
    Vendors,
    failure,
    running_vendors,
    succeeded,
    unhurried,
)

ONE_RECORD = f"{RECORDS}/*"


@pytest.fixture(scope="module")
def vendors() -> Iterator[Vendors]:
    """Nobody yet, on either side."""
    with running_vendors(instance=EMPTY_CLERK, workspace=EMPTY_ATTIO) as running:
        yield running


@pytest.fixture
def product(
    vendors: Vendors, database: Engine, database_url: SecretStr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AttioProduct:
    unhurried(monkeypatch)
    return vendors.product(database, database_url, tmp_path)


# --- queries that lag ------------------------------------------------------------------------------------------------


def test_people_created_by_a_lost_write_are_ours_though_no_query_shows_them_yet(product: AttioProduct) -> None:
    users = [product.user(f"person{number}@example.com") for number in range(6)]
    assert succeeded(product.run(steps=DRY_RUN))
    product.fault("lost_reply", method="POST", path=RECORDS, nth=1, count=3)
    product.fault("lagging_query", path=PEOPLE_QUERY)
    run = product.run(steps=LOAD_ONLY)
    assert product.outcomes(run.id) == dict.fromkeys(users, ("create", "applied", None))
    assert len(product.people()) == 6
    product.server.clear_faults()
    assert product.undo(run).undone == 6
    assert product.people() == {}


def test_a_person_made_by_somebody_else_a_moment_ago_gets_the_id_though_no_query_shows_them(
    product: AttioProduct,
) -> None:
    ada = product.user("ada@example.com")
    assert succeeded(product.run(steps=DRY_RUN))
    record_id = product.person("ada@example.com")
    product.fault("lagging_query", path=PEOPLE_QUERY)
    run = product.run(steps=LOAD_ONLY)
    assert product.outcomes(run.id)[ada] == ("update", "applied", "matched_since_plan")
    assert product.people_with(ada) == [record_id]


def test_a_person_that_may_be_ours_and_cannot_be_read_is_not_given_up(product: AttioProduct) -> None:
    ada = product.user("ada@example.com")
    assert succeeded(product.run(steps=DRY_RUN))
    product.fault("lost_reply", method="POST", path=RECORDS, nth=1)
    product.fault("lagging_query", path=PEOPLE_QUERY)
    product.fault("merge_in_progress", method="GET", path=ONE_RECORD)
    run = product.run(steps=LOAD_ONLY)
    assert failure(run) == (State.FAILED, "replies_lost")
    assert product.outcomes(run.id)[ada] == ("create", "planned", None)
    product.server.clear_faults()
    done = product.run()
    assert product.outcomes(done.id)[ada] == ("create", "applied", None)
    assert (done.id, len(product.people())) == (run.id, 1)
    assert product.undo(done).undone == 1


# --- records that are being merged -----------------------------------------------------------------------------------


def test_a_person_that_is_being_merged_is_a_conflict_that_the_next_run_settles(product: AttioProduct) -> None:
    ada, bo = product.user("ada@example.com"), product.user("bo@example.com")
    first, second = product.person("ada@example.com"), product.person("bo@example.com")
    product.fault("merge_in_progress", method="PATCH", path=f"{RECORDS}/{first}")
    run = product.run()
    assert product.outcomes(run.id)[ada] == ("update", "conflict", "merge_in_progress")
    assert product.people_with(bo) == [second]
    product.server.clear_faults()
    assert product.run().counts["applied"] == 1
    assert product.people_with(ada) == [first]


def test_a_person_who_has_the_address_and_is_being_merged_is_one_too(product: AttioProduct) -> None:
    ada = product.user("ada@example.com")
    assert succeeded(product.run(steps=DRY_RUN))
    product.person("ada@example.com")
    product.fault("merge_in_progress", method="GET", path=ONE_RECORD)
    run = product.run(steps=LOAD_ONLY)
    assert product.outcomes(run.id)[ada] == ("create", "conflict", "merge_in_progress")


@pytest.mark.parametrize("method", ["PATCH", "GET", "DELETE"])
def test_what_is_being_merged_is_not_taken_back_and_the_rest_is(product: AttioProduct, method: str) -> None:
    ada, bo = product.user("ada@example.com"), product.user("bo@example.com")
    product.person("ada@example.com")
    run = product.run()
    product.fault("merge_in_progress", method=method, path=ONE_RECORD)
    undone = product.undo(run)
    assert (undone.undone, undone.conflict, dict(undone.reasons)) == (1, 1, {"merge_in_progress": 1})
    left = ada if method == "PATCH" else bo
    assert len(product.people_with(left)) == 1
