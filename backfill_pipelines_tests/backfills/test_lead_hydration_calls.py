"""How few calls `lead_hydration` makes, and that what was interrupted makes none of them twice."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import pytest

from backfill_pipelines.backfills.lead_hydration_access import location_of
from backfill_pipelines.engine.backfill import Scope
from backfill_pipelines.engine.ledger import State
from backfill_pipelines.sandbox.gohighlevel_limits import GoHighLevelLimits
from backfill_pipelines.vendors.gohighlevel_limits import requests_per_second
from backfill_pipelines_tests.backfills.hydration_rig import (
    ACME,
    BACKFILL,
    RUN,
    SEARCH,
    SHOW,
    Hydration,
    Serve,
    all_linked,
    failure,
    leads_by_address,
    linked,
    location,
    people,
    succeeded,
)

# --- reading all of it -----------------------------------------------------------------------------------------------


def test_a_location_is_read_whole_where_that_spares_twenty_look_ups_a_page(serve: Serve) -> None:
    product = serve(location(known=people(30), others=700))
    leads_by_address(product, range(30))
    run = product.run()
    assert succeeded(run)
    assert (run.details["gohighlevel"]["way"], product.calls()) == ("scan", {SEARCH: 3})
    assert all_linked(product, range(30))


def test_only_ids_that_a_scan_has_not_seen_are_asked_for(serve: Serve) -> None:
    product = serve(location(known=people(4), others=600, foreign_ids=["theirs"]))
    for number in range(30):
        product.lead(f"x{number}", email=f"nobody{number}@example.com")
    product.lead("known", contact="c001")
    product.lead("gone", contact="noSuchContact")
    product.lead("foreign", contact="theirs")
    run = product.run()
    assert succeeded(run)
    assert product.calls() == {SEARCH: 3, SHOW: 2}
    outcomes = product.outcomes(run.id)
    assert outcomes["gone"] == ("reject", "contact_gone")
    assert outcomes["foreign"] == ("conflict", "foreign_contact")
    assert product.leads()["gone"]["ghl_contact_id"] == "noSuchContact", "the id stays"


def test_names_are_asked_for_only_where_a_lead_lacks_them_and_a_page_has_them_in_lower_case(serve: Serve) -> None:
    product = serve(location(known=people(6), others=600, search_names="lower_case"))
    leads_by_address(product, range(2))
    for number in range(2, 30):
        product.lead(f"full{number}", email=f"lead{number}@example.com", first_name="Own")
    assert succeeded(product.run())
    assert product.calls() == {SEARCH: 3, SHOW: 2}
    assert (product.known("l000")["first_name"], product.known("full2")["first_name"]) == ("Ann0", "Own")


def test_a_contact_that_disappears_before_its_name_is_asked_for_is_gone(serve: Serve) -> None:
    product = serve(location(known=people(1), search_names="lower_case"))
    leads_by_address(product, [0])
    product.after(lambda: product.state().delete_contacts(["c000"]), nth=2)
    run = product.run()
    assert succeeded(run)
    assert linked(product) == {}
    assert run.reasons == {"not_found": 1}


def test_a_scan_that_misses_contacts_begins_again(serve: Serve) -> None:
    product = serve(location(known=people(30), others=600))
    leads_by_address(product, range(30))
    product.fault("total_off", by=5, count=3)
    run = product.run()
    assert succeeded(run)
    assert (run.details["gohighlevel"]["scans"], run.warnings) == (2, [])
    assert product.calls() == {SEARCH: 6}


def test_a_scan_that_goes_on_missing_contacts_counts_after_three_more_with_a_warning(serve: Serve) -> None:
    product = serve(location(known=people(30), others=600))
    leads_by_address(product, range(30))
    product.fault("total_off", by=5)
    run = product.run()
    assert succeeded(run)
    assert run.warnings == ["scan_incomplete"]
    figures = run.details["gohighlevel"]
    assert (figures["scans"], figures["contacts_read"], figures["contacts"]) == (4, 630, 635)
    assert product.calls() == {SEARCH: 12}
    assert all_linked(product, range(30))


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "repeat_rows", "rows": 7},
        {"kind": "short_page", "rows": 400},
        {"kind": "create_contacts", "contacts": 3, "nth": 1},
        {"kind": "delete_oldest_contacts", "contacts": 3, "nth": 1},
    ],
    ids=lambda fault: fault["kind"],
)
def test_rows_that_repeat_come_or_go_while_a_location_is_read_lose_nothing(serve: Serve, fault: dict[str, Any]) -> None:
    product = serve(location(known=people(30), others=600))
    leads_by_address(product, range(1, 30))
    product.fault(**fault)
    run = product.run()
    assert succeeded(run)
    assert run.warnings == []
    assert all_linked(product, range(1, 30))


def test_a_location_whose_end_is_the_last_page_once_more_is_read_whole(serve: Serve) -> None:
    product = serve(location(known=people(30), others=600, end_of_scan="repeats"))
    leads_by_address(product, range(30))
    assert succeeded(product.run())
    assert all_linked(product, range(30))


# --- going on --------------------------------------------------------------------------------------------------------


def interrupted(product: Hydration, *, path: str = SEARCH, nth: int) -> None:
    """A run that somebody stops at a request."""
    stop = threading.Event()
    product.after(stop.set, path=path, nth=nth)
    assert product.run(stop=stop).state is State.INTERRUPTED


@pytest.mark.parametrize("nth", [1, 2, 3, 4])
def test_a_scan_that_was_stopped_goes_on_at_the_page_that_was_not_landed(serve: Serve, nth: int) -> None:
    product = serve(location(known=people(60), others=1_200))
    leads_by_address(product, range(60))
    interrupted(product, nth=nth)
    done = product.run()
    assert succeeded(done)
    assert product.calls() == {SEARCH: 4 + 1}, "the page that was on its way"
    assert all_linked(product, range(60))
    assert len(product.query("SELECT FROM backfill.run")) == 1


def test_look_ups_that_were_stopped_are_not_made_again(serve: Serve) -> None:
    product = serve(location(known=people(100), others=60_000))
    for number in range(100):
        product.lead(f"l{number:03d}", contact=f"c{number:03d}")
    leads_by_address(product, range(200, 260))
    interrupted(product, path="/contacts/c*", nth=50)
    landed = len(product.landed())
    first = product.calls()[SHOW]
    assert landed - 500 >= 49
    assert succeeded(product.run())
    assert product.calls()[SEARCH] == 1 + 2 + 1, "a page, two groups, and the probe"
    assert first + (100 - (landed - 500)) >= product.calls()[SHOW] - 1
    assert product.known("l099")["first_name"] == "Ann99"


def test_fresh_begins_anew(serve: Serve) -> None:
    product = serve(location(known=people(60), others=1_200))
    leads_by_address(product, range(60))
    interrupted(product, nth=3)
    assert succeeded(product.run(fresh=True))
    assert product.calls() == {SEARCH: 3 + 4}


def test_another_location_of_the_client_is_not_gone_on_with(serve: Serve) -> None:
    product = serve(location(known=people(60), others=1_200), location("bolt", known=people(60), others=1_200))
    leads_by_address(product, range(60))
    interrupted(product, nth=2)

    def edit(document: Any) -> None:
        acme, bolt = document["clients"]
        acme["gohighlevel"], bolt["gohighlevel"] = bolt["gohighlevel"], acme["gohighlevel"]

    product.edit = edit
    assert succeeded(product.run())
    assert product.calls("bolt") == {SEARCH: 4}


# --- limits ----------------------------------------------------------------------------------------------------------


def test_a_day_that_is_spent_parks_the_partition_which_goes_on_where_it_stood(serve: Serve) -> None:
    product = serve(location(known=people(60), others=1_200), limits=GoHighLevelLimits(burst=10**6, daily=3))
    leads_by_address(product, range(60))
    run = product.run()
    assert failure(run) == (State.PARKED, "daily_budget_spent")
    assert run.parked_until is not None
    asked = product.calls()[SEARCH]
    assert 0 < asked < 4
    assert linked(product) == {}
    # The next day.
    product.execute("UPDATE backfill.quota SET used = 0, window_started_at = NULL")
    product.state().limits.reset()
    product.state().limits._limits = GoHighLevelLimits(burst=10**6, daily=1_000)
    done = product.run()
    assert succeeded(done)
    assert done.id == run.id
    assert product.calls()[SEARCH] <= 4 + 1
    assert all_linked(product, range(60))
    assert done.details["gohighlevel"]["calls"] <= 5


def test_look_ups_on_a_day_that_is_spent_keep_what_they_have(serve: Serve) -> None:
    product = serve(location(known=people(60), others=60_000), limits=GoHighLevelLimits(burst=10**6, daily=40))
    for number in range(60):
        product.lead(f"l{number:03d}", contact=f"c{number:03d}")
    assert failure(product.run()) == (State.PARKED, "daily_budget_spent")
    refused = product.state().limits.refused
    assert len(product.landed()) == 500 + product.calls()[SHOW] - refused
    product.execute("UPDATE backfill.quota SET used = 0, window_started_at = NULL")
    product.state().limits.reset()
    product.state().limits._limits = GoHighLevelLimits(burst=10**6, daily=1_000)
    assert succeeded(product.run())
    assert product.calls() == {SEARCH: 1, SHOW: 59 + refused}, "one came with the page"


def test_after_a_refusal_nobody_asks_on(serve: Serve) -> None:
    product = serve(location(known=people(100), others=60_000))
    for number in range(100):
        product.lead(f"l{number:03d}", contact=f"c{number:03d}")
    product.fault("ghl_token_refused", path="/contacts/c*", nth=5)
    assert failure(product.run()) == (State.FAILED, "unauthorized")
    assert product.calls()[SHOW] <= 5 + 20 + 20, "what was under way, and what began before it was known"


@pytest.mark.parametrize("rps", [0.05, 0.0999])
def test_a_limit_of_the_user_s_that_cannot_be_kept_is_refused(serve: Serve, rps: float) -> None:
    product = serve(location(known=people(1)))
    leads_by_address(product, [0])
    assert failure(product.run(per_location_rps=rps)) == (State.FAILED, "invalid_per_location_rps")


def test_the_details_tell_of_the_calls_of_all_attempts(serve: Serve) -> None:
    product = serve(location(known=people(60), others=1_200))
    leads_by_address(product, range(60))
    product.fault("status", status=502, path=SEARCH, nth=2)
    run = product.run(steps=RUN)
    assert run.details["gohighlevel"]["calls"] == product.calls(ACME).total() == 5


def sweeps_of(rows: Sequence[dict[str, Any]]) -> set[int]:
    return {row["sweep"] for row in rows}


def test_every_reading_leaves_rows_of_its_own_alone(serve: Serve) -> None:
    product = serve(location(known=people(30)))
    leads_by_address(product, range(30))
    for sweep in (1, 2):
        assert succeeded(product.run())
        product.edit_lead("l000", phone=None)
        assert sweeps_of(list(product.landed().values())) == {sweep}


def test_what_is_left_is_estimated_at_the_rate_that_the_reserve_leaves(serve: Serve) -> None:
    product = serve(location(known=people(1)))
    product.configure(reserve=0.5)

    async def per_second(scope: Scope) -> float:
        async with location_of(scope, per_location_rps=None) as access:
            return access.per_second

    with product.runtime() as runtime:
        scope = runtime.scope(BACKFILL, ACME, options=BACKFILL.options_model(), run_id=uuid4())
        assert runtime.run(per_second(scope)) == requests_per_second(reserve=0.5)
