"""`attio_people --overwrite` end to end: an id moves to the person of its user, and never stands on two people."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from backfill_pipelines_tests.backfills.attio_product import (
    DRY_RUN,
    EMPTY_ATTIO,
    EMPTY_CLERK,
    LOAD_ONLY,
    PEOPLE_QUERY,
    RECORDS,
    AttioProduct,
    Vendors,
    running_vendors,
    succeeded,
    unhurried,
    verified,
)


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


def test_an_id_that_stands_on_a_third_person_is_not_written_to_a_second_one(product: AttioProduct) -> None:
    ada = product.user("ada@example.com")
    record_id = product.person("ada@example.com", user_id="user_of_theirs")
    third = product.person("elsewhere@home.test", user_id=ada)
    run = product.run(overwrite=True)
    assert product.outcomes(run.id)[ada] == ("conflict", "planned", "id_on_other_person")
    assert (product.people_with(ada), product.people_with("user_of_theirs")) == ([third], [record_id])


@pytest.mark.parametrize("unique", [False, True])
def test_ids_that_have_to_move_one_after_the_other_move_in_one_run_and_back_in_one_undo(
    product: AttioProduct, *, unique: bool
) -> None:
    product.crm.alter_attribute("people", "user_id", unique=unique)
    users = [product.user(f"person{number:03}@example.com") for number in range(60)]
    # Each person but the last has the id of the user after.
    held = [*users[1:-1], "user_of_nobody"]
    people = [product.person(f"person{number:03}@example.com", user_id=each) for number, each in enumerate(held)]
    before = product.people()
    run = product.run(overwrite=True)
    assert succeeded(run)
    assert [product.people_with(each) for each in users[:-1]] == [[each] for each in people]
    assert len(product.people_with(users[-1])) == 1
    assert verified(run)["passed"]
    again = product.run(overwrite=True)
    assert (again.counts["create"], again.counts["update"], again.counts["conflict"]) == (0, 0, 0)
    assert product.undo(run).undone == 60
    assert product.people() == before


def freed(product: AttioProduct) -> tuple[str, str, str, str]:
    """Two users; the first one's person has the other's id. The users, their people."""
    ada, bo = product.user("ada@example.com"), product.user("bo@example.com")
    return ada, bo, product.person("ada@example.com", user_id=bo), product.person("bo@example.com")


def test_an_id_that_is_not_freed_after_all_stays_where_it_is(product: AttioProduct) -> None:
    ada, bo, first, _ = freed(product)
    assert succeeded(product.run(steps=DRY_RUN, overwrite=True))
    product.fault("merge_in_progress", method="PATCH", path=f"{RECORDS}/{first}")
    run = product.run(steps=LOAD_ONLY, overwrite=True)
    assert product.outcomes(run.id) == {
        ada: ("update", "conflict", "merge_in_progress"),
        bo: ("update", "conflict", "id_on_other_person"),
    }
    assert product.people_with(bo) == [first]


@pytest.mark.parametrize("matched", [True, False], ids=["update", "create"])
@pytest.mark.parametrize(
    "fault", [{"kind": "lost_reply", "nth": 1}, {"kind": "reset", "nth": 1}, {"kind": "lagging_query"}]
)
def test_whatever_happens_to_replies_no_two_people_have_one_id(
    product: AttioProduct, fault: dict[str, Any], *, matched: bool
) -> None:
    ada, bo, first, second = freed(product)
    if not matched:
        product.crm.delete("people", second)
    assert succeeded(product.run(steps=DRY_RUN, overwrite=True))
    lagging = fault["kind"] == "lagging_query"
    product.fault(**fault, **({"path": PEOPLE_QUERY} if lagging else {"method": "PATCH"}))
    product.run(steps=LOAD_ONLY, overwrite=True)
    product.server.clear_faults()
    assert len(product.people_with(bo)) <= 1
    succeeded(product.run(overwrite=True))
    assert product.people_with(ada) == [first]
    assert len(product.people_with(bo)) == 1
