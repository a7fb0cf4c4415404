"""A run of `attio_people` that is killed at a place of its work, and the next one: everybody there once, nothing lost.

The killed ones are real processes, ended by SIGKILL while the vendor has taken a request and not answered it yet.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from backfill_pipelines.database.connection import create_database_engine
from backfill_pipelines.engine.partition_run import Steps, run_partition
from backfill_pipelines.engine.runtime import Runtime
from backfill_pipelines.engine.undo import undo_run
from backfill_pipelines.registry import load_registry
from backfill_pipelines.sandbox.faults import Trigger
from backfill_pipelines.vendors import attio_access, clerk
from backfill_pipelines.vendors.transport import RetryPolicy
from backfill_pipelines_tests.backfills.attio_product import (
    ACME,
    BACKFILL,
    DRY_RUN,
    LOAD_ONLY,
    PEOPLE_QUERY,
    RECORDS,
    RUN,
    AttioProduct,
    Vendors,
    running_vendors,
    succeeded,
    unhurried,
    verified,
)
from backfill_pipelines_tests.installation import LONG_ENOUGH

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([__name__])


def _work(url: str, registry: str, steps: Steps, undoes: str | None) -> None:
    """The body of a process of its own: a run, or an undo."""
    attio_access.READS_PER_SECOND = attio_access.WRITES_PER_SECOND = clerk.LIVE_REQUESTS = 10**6
    for module in (attio_access, clerk):
        module.RetryPolicy = partial(RetryPolicy, base_seconds=0.001)  # type: ignore[attr-defined]
    with Runtime(
        registry=load_registry(Path(registry), environ={}), engine=create_database_engine(SecretStr(url))
    ) as runtime:
        if undoes is not None:
            run = runtime.ledger.get(UUID(undoes))
            assert run is not None
            runtime.run(undo_run(runtime, BACKFILL, run, dry_run=False))
            return
        options = BACKFILL.options_model()
        work = run_partition(
            runtime, BACKFILL, ACME, steps=steps, options=options, dagster_run_id=None, root_run_id=None
        )
        runtime.run(work)


def kill_at(product: AttioProduct, trigger: Trigger, *, steps: Steps = RUN, undoes: UUID | None = None) -> None:
    """Start the work in a process of its own, and kill it at a request that has had its effect."""
    product.registry()
    process = _CONTEXT.Process(
        target=_work,
        args=(
            product.database_url.get_secret_value(),
            str(product.folder / "clients.yaml"),
            steps,
            None if undoes is None else str(undoes),
        ),
        daemon=True,
    )
    struck = threading.Event()

    def kill() -> None:
        process.kill()
        process.join(LONG_ENOUGH)
        struck.set()

    # A request of a process that was killed before may still strike: this one has to be there by then.
    process.start()
    product.server.after(trigger, kill)
    assert struck.wait(LONG_ENOUGH), "it never came to the place where it was to be killed"
    assert process.exitcode == -signal.SIGKILL


@pytest.fixture(scope="module")
def vendors() -> Iterator[Vendors]:
    with running_vendors() as running:
        yield running


@pytest.fixture
def product(
    vendors: Vendors, database: Engine, database_url: SecretStr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AttioProduct:
    unhurried(monkeypatch)
    return vendors.product(database, database_url, tmp_path)


def check(product: AttioProduct, before: dict[str, Any]) -> None:
    """The run after the killed ones ends as if nothing had happened, and all of it can be taken back."""
    done = product.run()
    assert succeeded(done)
    assert [row["id"] for row in product.query("SELECT id FROM backfill.run WHERE mode = 'load'")] == [done.id]
    assert (done.counts["applied"], done.counts["failed"]) == (done.counts["create"] + done.counts["update"], 0)
    assert verified(done)["passed"]
    people = product.people()
    addresses = [address for held, _ in people.values() for address in held]
    assert len(addresses) == len(set(addresses))
    ids = [user_id for _, user_ids in people.values() for user_id in user_ids]
    assert len(ids) == len(set(ids)), "nobody is there twice"
    assert len(people) == len(before) + done.counts["create"]
    again = product.run()
    assert again.counts["applied"] == 0
    assert product.undo(done).undone == done.counts["applied"]
    assert product.people() == before


def attio(path: str, method: str, nth: int) -> Trigger:
    return Trigger(vendor="attio", path=path, method=method, nth=nth)


PLACES = {
    "while users are read": Trigger(vendor="clerk", path="/users", nth=1),
    "while people are read": attio(PEOPLE_QUERY, "POST", 2),
    "at the first create": attio(RECORDS, "POST", 1),
    "among the creates": attio(RECORDS, "POST", 17),
    "among the updates": attio(f"{RECORDS}/*", "PATCH", 9),
    "after the last write": attio(f"{RECORDS}/*", "PATCH", 42),
}


@pytest.mark.parametrize("place", PLACES)
def test_the_run_after_a_killed_one_ends_as_if_nothing_had_happened(product: AttioProduct, place: str) -> None:
    before = product.people()
    kill_at(product, PLACES[place])
    check(product, before)


def test_killed_over_and_over_it_comes_to_the_same_end(product: AttioProduct) -> None:
    before = product.people()
    for trigger in (*PLACES.values(), attio(RECORDS, "POST", 3), attio(f"{RECORDS}/*", "PATCH", 1)):
        if trigger.nth == 42:
            continue  # so many are not left by then
        kill_at(product, trigger)
    check(product, before)


def test_killed_where_a_create_has_become_an_update_it_is_taken_back_as_one(product: AttioProduct) -> None:
    ada = product.user("ada@example.com")
    assert succeeded(product.run(steps=DRY_RUN))
    record_id = product.person("ada@example.com", by=product.crm.seeded.token_actor)
    product.users.delete_users([each for each in product.users.user_ids() if each != ada])
    before = product.people()
    kill_at(product, attio(f"{RECORDS}/{record_id}", "PATCH", 1), steps=LOAD_ONLY)
    assert product.people_with(ada) == [record_id]
    done = product.run(steps=LOAD_ONLY)
    assert product.outcomes(done.id)[ada] == ("update", "applied", "matched_since_plan")
    assert product.undo(done).conflict == 0
    assert product.people() == before


def test_what_somebody_does_after_the_kill_stays_theirs(product: AttioProduct) -> None:
    updated = product.user("ada@example.com")
    record_id = product.person("ada@example.com")
    kill_at(product, attio(RECORDS, "POST", 2))
    product.set_user_id(record_id, "user_of_theirs")
    done = product.run()
    assert succeeded(done)
    assert product.people()[record_id][1] == ("user_of_theirs",)
    assert product.outcomes(done.id)[updated][1:] == ("conflict", "stale")


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_killed_during_undo_the_next_undo_takes_everything_back(product: AttioProduct, method: str) -> None:
    before = product.people()
    run = product.run()
    kill_at(product, attio(f"{RECORDS}/*", method, 7), undoes=run.id)
    assert product.people() != before
    product.undo(run)
    assert product.people() == before
    states = product.query(
        "SELECT state, count(*) AS n FROM backfill.change WHERE action IN ('create', 'update') GROUP BY state"
    )
    assert states == [{"state": "undone", "n": run.counts["applied"]}]
