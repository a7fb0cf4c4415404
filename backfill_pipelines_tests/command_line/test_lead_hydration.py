"""The commands on `lead_hydration` as a user calls them: exit codes, the document, options, figures, undo, parking.

Every call is held against the tokens and against a canary in each personal value: neither may come up in any output.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from backfill_pipelines.sandbox.gohighlevel_limits import GoHighLevelLimits
from backfill_pipelines_tests.backfills.hydration_rig import ACME, BOLT, SEARCH, Hydration, Serve, contact, location
from backfill_pipelines_tests.installation import Installation
from backfill_pipelines_tests.terminal import terminal

RUN = ("run", "lead_hydration", "--client", ACME, "--json")
ALL = ("run", "lead_hydration", "--all", "--json")
VERIFY = ("verify", "lead_hydration", "--client", ACME, "--json")
PARTITION = {
    *("key", "run_id", "state", "plan_hash", "counts", "reasons", "warnings", "error_code", "error_message"),
    *("parked_until", "details", "verification"),
}
CANARY = "kanarienvogel"
PHONE = "+12055550173"
PEOPLE_WHO_ARE_NOBODY_S = 40
BEFORE = {
    "phone": 0.3333,
    "email": 0.8333,
    "first_name": 0.1667,
    "last_name": 0.1667,
    "company_name": 0.1667,
    "ghl_contact_id": 0.3333,
}
AFTER = BEFORE | {"phone": 0.6667, "first_name": 0.5, "company_name": 0.3333, "ghl_contact_id": 0.5}
"""Of six leads, by hand: one is linked, two get a phone and a first name, one a company."""


def address(name: str) -> str:
    return f"{CANARY}.{name}@example.com"


@pytest.fixture
def product(installation: Installation, serve: Serve) -> Hydration:
    """A client with a lead of every kind, and one with a single lead; a location for each."""
    installation.told_to_nobody |= {CANARY, CANARY.title(), PHONE, PHONE[2:]}
    ada = contact("ada", address("ada"), phone=PHONE, first_name=f"{CANARY.title()} Ada", company_name=f"{CANARY} Ltd")
    known = [
        ada,
        contact("cy", address("cy"), phone="(205) 555-0173", first_name=f"{CANARY.title()} Cy"),
        contact("twin", address("twins"), first_name=CANARY),
        contact("other-twin", address("twins"), first_name=CANARY),
    ]
    served = serve(
        location(known=known, others=PEOPLE_WHO_ARE_NOBODY_S),
        location(BOLT, known=[contact("bo", address("bo"), last_name=f"{CANARY} Birch")]),
        limits=GoHighLevelLimits(burst=10**6),
    )
    served.lead("by-address", email=f" {address('ada').upper()}")
    served.lead("by-id", contact="cy", email=address("cy"))
    served.lead("ambiguous", email=address("twins"))
    served.lead("not-found", email=address("nobody"))
    served.lead("without-key", phone=PHONE)
    complete = {name: f"{CANARY} {name}" for name in ("phone", "first_name", "last_name", "company_name")}
    served.lead("complete", contact="x", email=address("full"), **complete)
    served.lead("b", of=BOLT, email=address("bo"))
    return served


def test_a_dry_run_says_what_the_run_then_does(installation: Installation, product: Hydration) -> None:
    before = product.leads()
    dry = installation(*RUN, "--dry-run", "--verbose")
    assert (dry.exit_code, dry.document["mode"], product.leads()) == (2, "plan", before)
    done = installation(*RUN, "--verbose")
    assert (done.exit_code, done.document["backfill"], done.document["mode"]) == (0, "lead_hydration", "load")
    planned, loaded = dry.partitions[ACME], done.partitions[ACME]
    assert set(planned) == set(loaded) == PARTITION
    assert planned["plan_hash"] == loaded["plan_hash"]
    counts = {"source": 5, "create": 0, "update": 2, "skip": 1, "conflict": 1, "reject": 1, "failed": 0}
    assert (planned["counts"], loaded["counts"]) == (counts | {"applied": 0}, counts | {"applied": 2})
    assert loaded["reasons"] == {"ambiguous_contact": 1, "no_key": 1, "not_found": 1}
    assert (loaded["error_code"], loaded["parked_until"], loaded["warnings"]) == (None, None, [])
    assert (planned["verification"], loaded["verification"]["passed"]) == (None, True)
    assert product.known("by-address") == {
        "ghl_contact_id": "ada",
        "email": f" {address('ada').upper()}",
        "phone": PHONE,
        "first_name": f"{CANARY.title()} Ada",
        "company_name": f"{CANARY} Ltd",
    }
    assert "ghl_contact_id" not in product.known("b"), "the other client was not asked for"
    assert f"{ACME}: contacts {PEOPLE_WHO_ARE_NOBODY_S + 4} of {PEOPLE_WHO_ARE_NOBODY_S + 4}" in done.stderr


def test_the_details_tell_the_calls_the_day_and_how_complete_leads_were_and_are(
    installation: Installation, product: Hydration
) -> None:
    dry = installation(*RUN, "--dry-run").partitions[ACME]["details"]
    loaded = installation(*RUN).partitions[ACME]["details"]
    contacts = PEOPLE_WHO_ARE_NOBODY_S + 4
    for details, used in ((dry, 2), (loaded, 4)):
        assert details["completeness"] == {"records": 6, "before": BEFORE, "after": AFTER}
        day = details["gohighlevel"].pop("day")
        assert details["gohighlevel"] == {
            "way": "scan",
            "calls": 2,
            "contacts": contacts,
            "eta_seconds": 0,
            "contacts_read": contacts,
            "scans": 1,
        }
        assert used <= day["used"] < day["of"] == 180_000
        assert (details["eligible"], details["linked"], details["not_found"]) == (5, 1, 1)
        assert details["filled"] == {"phone": 2, "email": 0, "first_name": 2, "last_name": 0, "company_name": 1}
    assert product.calls() == {SEARCH: 4}


def test_a_second_run_has_no_update_and_a_comparison_finds_everything_equal(
    installation: Installation, product: Hydration
) -> None:
    assert installation(*RUN).exit_code == 0
    after = product.leads()
    dry, again = installation(*RUN, "--dry-run"), installation(*RUN)
    assert (dry.exit_code, again.exit_code, product.leads()) == (0, 0, after)
    assert [each.partitions[ACME]["counts"]["update"] for each in (dry, again)] == [0, 0]
    equal = installation(*VERIFY)
    assert (equal.exit_code, equal.partitions[ACME]["missing"], equal.partitions[ACME]["different"]) == (0, 0, 0)
    product.edit_lead("by-address", phone=None)
    lacking = installation(*VERIFY)
    assert (lacking.exit_code, lacking.partitions[ACME]["missing"]) == (1, 1)
    assert lacking.partitions[ACME]["examples"]["missing_lead_ids"] == ["by-address"]


def test_undo_by_the_run_s_id_leaves_every_lead_as_it_was(installation: Installation, product: Hydration) -> None:
    before = product.leads()
    run_id = installation(*RUN).partitions[ACME]["run_id"]
    loaded = product.leads()
    assert loaded != before
    dry = installation("undo", run_id, "--dry-run", "--json")
    assert (dry.exit_code, dry.partitions[ACME]["undone"], product.leads()) == (2, 2, loaded)
    done = installation("undo", run_id, "--json")
    assert (done.exit_code, done.partitions[ACME]["undone"], product.leads()) == (0, 2, before)
    again = installation("undo", run_id, "--json")
    assert (again.exit_code, again.partitions[ACME]["undone"]) == (0, 0)


def test_undo_is_1_where_somebody_has_changed_what_was_written(installation: Installation, product: Hydration) -> None:
    run_id = installation(*RUN).partitions[ACME]["run_id"]
    product.edit_lead("by-id", first_name="Theirs")
    undone = installation("undo", run_id, "--json")
    assert (undone.exit_code, undone.partitions[ACME]["reasons"]) == (1, {"changed_since": 1})
    assert product.known("by-id")["first_name"] == "Theirs"
    assert "ghl_contact_id" not in product.known("by-address")


# --- options ---------------------------------------------------------------------------------------------------------


def test_how_many_locations_and_how_fast_may_be_said(installation: Installation, product: Hydration) -> None:
    done = installation(*ALL, "--concurrency", "2", "--per-location-rps", "5")
    assert (done.exit_code, list(done.partitions)) == (0, [ACME, BOLT])
    assert [each["counts"]["applied"] for each in done.partitions.values()] == [2, 1]
    assert len(done.document["dagster_run_ids"]) == 1
    options = {each["partition_key"]: each["options"] for each in installation("status", "--json").document["runs"]}
    assert options[ACME] == options[BOLT]
    assert (options[ACME]["concurrency"], options[ACME]["per_location_rps"]) == (2, 5.0)


@pytest.mark.parametrize(
    ("option", "value", "code"),
    [
        ("--per-location-rps", "0", "invalid_option"),
        ("--per-location-rps", "-1", "invalid_option"),
        ("--per-location-rps", "nan", "invalid_option"),
        ("--per-location-rps", "inf", "invalid_option"),
        ("--per-location-rps", "fast", "usage"),
        ("--concurrency", "0", "usage"),
        ("--concurrency", "-1", "usage"),
        ("--concurrency", "1.5", "usage"),
        ("--max-records", "0", "usage"),
    ],
)
def test_a_value_that_cannot_be_meant_is_one_sentence_that_names_the_option(
    installation: Installation, product: Hydration, option: str, value: str, code: str
) -> None:
    assert option in installation.refused(code, *RUN, f"{option}={value}")
    assert product.seen() == 0


def test_a_limit_that_no_budget_can_keep_fails_the_partition_with_the_option_s_name(
    installation: Installation, product: Hydration
) -> None:
    refused = installation(*RUN, "--per-location-rps", "0.05")
    assert (refused.exit_code, refused.partitions[ACME]["error_code"]) == (3, "invalid_per_location_rps")
    assert "per-location-rps" in refused.partitions[ACME]["error_message"]
    assert product.seen() == 0


@pytest.mark.parametrize("option", [("--concurrency", "2"), ("--per-location-rps", "5")], ids=lambda given: given[0])
@pytest.mark.parametrize("other", ["client_leads", "customers", "attio_people"])
def test_another_backfill_does_not_take_these_options(
    installation: Installation, option: tuple[str, str], other: str
) -> None:
    told = installation.refused("unknown_option", "run", other, "--all", *option)
    assert f"{other} does not take {option[0]}" in told


def test_an_option_of_another_backfill_is_a_mistake(installation: Installation, product: Hydration) -> None:
    installation.refused("unknown_option", *RUN, "--overwrite")
    assert product.seen() == 0


def test_max_records_loads_so_many_and_the_next_run_the_rest(installation: Installation, serve: Serve) -> None:
    product = serve(location(known=[contact(f"c{number}", address(str(number))) for number in range(5)]))
    for number in range(5):
        product.lead(f"l{number}", email=address(str(number)))
    first = installation(*RUN, "--max-records", "2")
    counts = first.partitions[ACME]["counts"]
    assert (first.exit_code, counts["update"], counts["applied"]) == (0, 5, 2)
    linked = [row["id"] for row in product.leads().values() if row["ghl_contact_id"]]
    assert len(linked) == 2
    assert first.partitions[ACME]["details"]["completeness"]["after"]["ghl_contact_id"] == 0.4, "what is, not the plan"
    assert installation(*RUN).partitions[ACME]["counts"]["applied"] == 3


# --- what people see -------------------------------------------------------------------------------------------------


def squeezed(text: str) -> list[str]:
    """The lines of a table without what is there for the eye."""
    return [" ".join(line.split()) for line in text.splitlines()]


def test_without_json_there_is_a_table_of_completeness_and_the_figures(
    installation: Installation, product: Hydration
) -> None:
    dry = installation("run", "lead_hydration", "--client", ACME, "--dry-run")
    done = installation("run", "lead_hydration", "--all")
    lines = squeezed(done.stdout)
    assert "share of records with each field, before → after" in lines
    assert "partition records email phone last_name first_name company_name ghl_contact_id" in lines
    acme = f"{ACME} 6 83.3% → 83.3% 33.3% → 66.7% 16.7% → 16.7% 16.7% → 50.0% 16.7% → 33.3% 33.3% → 50.0%"
    assert acme in lines
    assert acme in squeezed(dry.stdout), "a dry run shows what would come of it"
    assert f"{BOLT} 1 100.0% → 100.0% 0.0% → 0.0% 0.0% → 100.0% 0.0% → 0.0% 0.0% → 0.0% 0.0% → 100.0%" in lines
    (figures,) = (line for line in lines if line.startswith("figures: "))
    shown = dict(each.rsplit(" ", 1) for each in figures.removeprefix("figures: ").split(", "))
    assert int(shown["gohighlevel.calls"]) == 4, "of both"
    assert int(shown["gohighlevel.day.used"]) >= 6, "the dry run's, too"
    assert (shown["gohighlevel.day.of"], shown["gohighlevel.eta_seconds"]) == ("360000", "0")
    assert (shown["eligible"], shown["linked"], shown["filled.phone"], shown["not_found"]) == ("6", "2", "2", "1")
    assert not [name for name in shown if "completeness" in name], "it has a table of its own"
    assert "reasons: ambiguous_contact 1, no_key 1, not_found 1" in lines


def test_a_single_run_tells_which_way_it_went_and_what_to_do_next(
    installation: Installation, product: Hydration
) -> None:
    dry = installation("run", "lead_hydration", "--client", ACME, "--dry-run")
    assert dry.exit_code == 2
    assert "gohighlevel.way scan" in dry.stdout
    assert f"load:    backfill run lead_hydration --client {ACME}" in dry.stdout
    before = product.leads()
    done = installation("run", "lead_hydration", "--client", ACME)
    (undo,) = (line for line in done.stdout.splitlines() if line.startswith("undo:"))
    assert installation(*undo.split()[2:]).exit_code == 0
    assert product.leads() == before


def test_at_a_terminal_the_table_is_the_same(installation: Installation, product: Hydration) -> None:
    with terminal() as screen:
        done = installation.start("run", "lead_hydration", "--client", ACME, at=screen).ended()
    assert done.exit_code == 0
    lines = squeezed(screen.shown())
    assert f"{ACME} 6 83.3% → 83.3% 33.3% → 66.7% 16.7% → 16.7% 16.7% → 50.0% 16.7% → 33.3% 33.3% → 50.0%" in lines
    assert "gohighlevel.day.used 2" in screen.shown()
    assert not [secret for secret in installation.secrets() if secret in screen.shown()]


def test_show_masks_what_was_filled_where_stdout_is_no_terminal(installation: Installation, product: Hydration) -> None:
    run_id = installation(*RUN).partitions[ACME]["run_id"]
    shown = installation("show", run_id, "--json", "--action", "update")
    assert (shown.exit_code, shown.document["masked"], len(shown.document["changes"])) == (0, True, 2)
    for change in shown.document["changes"]:
        assert {*change["before"].values(), *change["after"].values()} <= {"•••", None}
        assert change["record_key"] == "b•••"
        assert change["after"]["phone"] == "•••"
    as_text = installation("show", run_id)
    assert "Values are masked: stdout is no terminal." in as_text.stdout
    assert as_text.stdout.count("→ applied") == 2
    assert "conflict (ambiguous_contact) a•••" in as_text.stdout
    assert "reject (not_found) n•••" in as_text.stdout


# --- a day that is spent ---------------------------------------------------------------------------------------------


def spent(serve: Serve) -> Hydration:
    """A location of three pages on a day of which two requests are left to us, and one that need not be asked."""
    product = serve(
        location(known=[contact(f"c{number}", address(str(number))) for number in range(60)], others=1_200),
        location(BOLT),
        limits=GoHighLevelLimits(burst=10**6, daily=3),
    )
    for number in range(60):
        product.lead(f"l{number}", email=address(str(number)))
    product.lead("b", of=BOLT, phone=PHONE)
    return product


def test_a_day_that_is_spent_parks_the_client_until_the_next_one(installation: Installation, serve: Serve) -> None:
    product = spent(serve)
    before, now = product.leads(), datetime.now(UTC)
    parked = installation(*ALL)
    assert (parked.exit_code, product.leads()) == (4, before)
    run = parked.partitions[ACME]
    assert (run["state"], run["error_code"], parked.partitions[BOLT]["state"]) == (
        "parked",
        "daily_budget_spent",
        "succeeded",
    )
    assert datetime.fromisoformat(run["parked_until"]) > now
    details = run["details"]["gohighlevel"]
    assert details["way"] == "scan"
    assert details["eta_seconds"] > 0
    (newest,) = (each for each in status(installation) if each["partition_key"] == ACME)
    assert (newest["id"], newest["state"], newest["resumable"]) == (run["run_id"], "parked", True)
    assert newest["parked_until"] == run["parked_until"]


def test_a_client_that_is_parked_is_told_to_people_and_goes_on_the_next_day(
    installation: Installation, serve: Serve
) -> None:
    product = spent(serve)
    parked = installation("run", "lead_hydration", "--client", ACME)
    assert parked.exit_code == 4
    assert f"parked {ACME}: " in parked.stdout
    assert "[daily_budget_spent]" in parked.stdout
    assert f"parked {ACME} until 20" in parked.stdout
    assert f"resume:  backfill run lead_hydration --client {ACME}\n" in parked.stdout
    assert "parked" in installation("status").stdout
    (run,) = status(installation)
    product.execute("UPDATE backfill.quota SET used = 0, window_started_at = NULL")
    product.state().limits.reset()
    product.state().limits._limits = GoHighLevelLimits(burst=10**6, daily=1_000)
    done = installation(*RUN)
    assert (done.exit_code, done.partitions[ACME]["run_id"]) == (0, run["id"])
    assert done.partitions[ACME]["parked_until"] is None
    assert done.partitions[ACME]["counts"]["applied"] == 60


def status(installation: Installation) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = installation("status", "lead_hydration", "--json").document["runs"]
    return runs
