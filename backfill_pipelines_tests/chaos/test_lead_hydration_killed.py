"""A run of `lead_hydration` that is killed at a place of its work, and the next one: nothing lost, nothing asked twice.

The killed ones are real processes, ended by SIGKILL: at a request that the vendor has taken and not answered yet, or
where they want to write a row.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Literal
from uuid import UUID

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from backfill_pipelines.database.connection import create_database_engine
from backfill_pipelines.engine.partition_run import run_partition
from backfill_pipelines.engine.runtime import Runtime
from backfill_pipelines.engine.undo import undo_run
from backfill_pipelines.registry import load_registry
from backfill_pipelines.sandbox.faults import Trigger
from backfill_pipelines.sandbox.gohighlevel_data import GoHighLevelLocation
from backfill_pipelines.vendors import gohighlevel_limits
from backfill_pipelines_tests.backfills.hydration_rig import (
    ACME,
    BACKFILL,
    RUN,
    SEARCH,
    SHOW,
    Hydration,
    contact,
    location,
    serving,
    succeeded,
    unhurried,
    verified,
)
from backfill_pipelines_tests.chaos.gate import gate
from backfill_pipelines_tests.installation import LONG_ENOUGH

LEADS, PAGES = 60, 4
AT_ONCE = 20
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([__name__])


def _work(url: str, registry: str, undoes: str | None) -> None:
    """The body of a process of its own: a run, or an undo."""
    gohighlevel_limits.BURST_REQUESTS = 10**6
    with Runtime(
        registry=load_registry(Path(registry), environ={}), engine=create_database_engine(SecretStr(url))
    ) as runtime:
        if undoes is not None:
            run = runtime.ledger.get(UUID(undoes))
            assert run is not None
            runtime.run(undo_run(runtime, BACKFILL, run, dry_run=False))
            return
        options = BACKFILL.options_model()
        runtime.run(
            run_partition(runtime, BACKFILL, ACME, steps=RUN, options=options, dagster_run_id=None, root_run_id=None)
        )


def process_of(product: Hydration, *, undoes: UUID | None = None) -> ForkServerProcess:
    product.registry()
    url = product.database_url.get_secret_value()
    registry = str(product.folder / "clients.yaml")
    return _CONTEXT.Process(target=_work, args=(url, registry, None if undoes is None else str(undoes)), daemon=True)


def kill_at_request(product: Hydration, path: str, nth: int) -> None:
    """Kill a run at a request that has had its effect."""
    process, struck = process_of(product), threading.Event()

    def kill() -> None:
        process.kill()
        process.join(LONG_ENOUGH)
        struck.set()

    product.server.after(Trigger(vendor="gohighlevel", path=path, nth=nth), kill)
    process.start()
    assert struck.wait(LONG_ENOUGH), "it never came to the place where it was to be killed"
    assert process.exitcode == -signal.SIGKILL


def kill_at_row(
    product: Hydration,
    of: str,
    when: str,
    *,
    before: Literal["INSERT", "UPDATE"] = "UPDATE",
    undoes: UUID | None = None,
) -> None:
    """Kill a run where it wants to write a row."""
    with gate(product.database, before=before, of=of, when=when) as shut:
        process = process_of(product, undoes=undoes)
        process.start()
        shut.wait_until_reached()
        process.kill()
        process.join(LONG_ENOUGH)


def crm(*, others: int) -> GoHighLevelLocation:
    known = [
        contact(f"c{number:03d}", f"lead{number}@example.com", first_name=f"Ann{number}", phone="(205) 555-0111")
        for number in range(LEADS)
    ]
    return location(known=known, others=others)


@pytest.fixture
def product(
    product_tables: Engine, database_url: SecretStr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Hydration]:
    unhurried(monkeypatch)
    with serving(product_tables, database_url, tmp_path, crm(others=1_200)) as served:
        for number in range(LEADS):
            served.lead(f"l{number:03d}", email=f"Lead{number}@example.com")
        yield served


@pytest.fixture
def large(
    product_tables: Engine, database_url: SecretStr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Hydration]:
    """The same leads, with their contacts' ids, of a location too large to be read."""
    unhurried(monkeypatch)
    with serving(product_tables, database_url, tmp_path, crm(others=60_000)) as served:
        for number in range(LEADS):
            served.lead(f"l{number:03d}", contact=f"c{number:03d}")
        yield served


def check(product: Hydration) -> None:
    """The run after the killed ones ends as if nothing had happened, and all of it can be taken back."""
    done = product.run()
    assert succeeded(done)
    assert [row["id"] for row in product.query("SELECT id FROM backfill.run")] == [done.id]
    assert (done.counts["applied"], verified(done)["passed"]) == (LEADS, True)
    states = product.query("SELECT state, count(*) AS n FROM backfill.change GROUP BY state")
    assert states == [{"state": "applied", "n": LEADS}]
    for number in (0, LEADS - 1):
        lead = product.known(f"l{number:03d}")
        assert (lead["ghl_contact_id"], lead["first_name"]) == (f"c{number:03d}", f"Ann{number}")
    assert product.run().counts["applied"] == 0


@pytest.mark.parametrize("page", range(1, PAGES + 1))
def test_killed_at_a_page_the_next_run_repeats_that_page_and_no_other(product: Hydration, page: int) -> None:
    kill_at_request(product, SEARCH, page)
    assert product.run().counts["applied"] == LEADS
    assert product.calls() == {SEARCH: PAGES + 1}


def test_killed_while_a_page_is_landed_the_next_one_is_not_asked_for_yet(product: Hydration) -> None:
    landed = "(SELECT count(*) FROM backfill.ghl_contact) >= 500"
    kill_at_row(product, "backfill.ghl_contact", landed, before="INSERT")
    assert product.calls() == {SEARCH: 2}
    assert product.run().counts["applied"] == LEADS
    assert product.calls() == {SEARCH: PAGES + 1}


def test_killed_again_and_again_it_still_comes_to_its_end(product: Hydration) -> None:
    for page in (1, 1, 2):
        kill_at_request(product, SEARCH, page)
    kill_at_row(product, '"Lead"', "NEW.id = 'l030'")
    check(product)


def test_killed_among_look_ups_the_next_run_repeats_at_most_those_under_way(large: Hydration) -> None:
    kill_at_request(large, "/contacts/c*", 40)
    assert large.run().counts["applied"] == LEADS
    assert large.calls()[SEARCH] == 1, "the first page is landed, and one of the contacts with it"
    assert LEADS - 1 <= large.calls()[SHOW] <= LEADS - 1 + AT_ONCE


def test_killed_among_the_leads_the_next_run_loads_what_is_left(product: Hydration) -> None:
    before = product.leads()
    kill_at_row(product, '"Lead"', "NEW.id = 'l030'")
    assert product.leads() == before, "a batch is written whole or not at all"
    asked = product.calls()
    check(product)
    assert product.calls()[SEARCH] == asked[SEARCH] + PAGES, "the run goes on with its plan; the one after it asks anew"


def test_killed_during_undo_the_next_undo_takes_everything_back(product: Hydration) -> None:
    before = product.leads()
    run = product.run()
    loaded = product.leads()
    kill_at_row(product, '"Lead"', "NEW.id = 'l030'", undoes=run.id)
    assert product.leads() == loaded
    assert product.undo(run).undone == LEADS
    assert product.leads() == before
