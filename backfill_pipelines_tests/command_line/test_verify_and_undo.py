"""`backfill verify` and `backfill undo` as a user calls them."""

from __future__ import annotations

from backfill_pipelines_tests.backfills.agency import AMBER, BIRCHWOOD, CAFE, DOVETAIL
from backfill_pipelines_tests.installation import Installation

VERIFIED = {
    *("key", "equal", "missing", "extra", "different", "explained", "passed", "examples", "warnings", "details"),
    *("state", "run_id", "error_code", "error_message"),
}
UNDONE = {
    *("key", "run_id", "undo_run_id", "state", "undone", "conflict", "reasons", "error_code", "error_message"),
}
VERIFY = ("verify", "client_leads", "--json", "--client")


def run(installation: Installation, *keys: str) -> dict[str, str]:
    """The runs' ids by key, and the Dagster run's under an empty one."""
    chosen = [argument for key in keys for argument in ("--client", key)]
    done = installation("run", "client_leads", "--json", *chosen)
    assert done.exit_code == 0
    ids = {key: str(partition["run_id"]) for key, partition in done.partitions.items()}
    return {**ids, "": done.document["dagster_run_ids"][0]}


def test_verify_is_0_when_all_is_there_and_1_when_a_row_is_missing(installation: Installation) -> None:
    run(installation, AMBER)
    equal = installation(*VERIFY, AMBER)
    assert equal.exit_code == 0, "what a plan has rejected is no difference"
    assert set(equal.document) == {"backfill", "partitions"}
    assert set(equal.partitions[AMBER]) == VERIFIED
    rows = len(installation.agency.oracle(AMBER))
    figures = ("equal", "missing", "extra", "different", "passed")
    assert [equal.partitions[AMBER][name] for name in figures] == [rows, 0, 0, 0, True]

    installation.agency.execute("DELETE FROM client_leads WHERE id = (SELECT min(id::text)::uuid FROM client_leads)")
    missing = installation(*VERIFY, AMBER)
    assert missing.exit_code == 1
    assert [missing.partitions[AMBER][name] for name in figures] == [rows - 1, 1, 0, 0, False]
    shown = installation("verify", "client_leads", "--client", AMBER)
    assert (shown.exit_code, "DIFFERENT" in shown.stdout) == (1, True)
    run(installation, AMBER)
    assert installation(*VERIFY, AMBER).exit_code == 0


def test_verify_before_any_run_finds_everything_missing_and_writes_nothing(installation: Installation) -> None:
    found = installation(*VERIFY, CAFE)
    assert found.exit_code == 1
    assert found.partitions[CAFE]["missing"] == len(installation.agency.oracle(CAFE))
    assert installation.agency.written() == 0


def test_undo_takes_a_run_back_once(installation: Installation) -> None:
    ids = run(installation, CAFE)
    total = len(installation.agency.oracle(CAFE))
    dry = installation("undo", ids[CAFE], "--dry-run", "--json")
    assert (dry.exit_code, dry.document["dry_run"], installation.agency.written()) == (2, True, total)
    assert dry.partitions[CAFE]["undone"] == total
    done = installation("undo", ids[CAFE], "--json")
    assert (done.exit_code, done.document["dry_run"], installation.agency.written()) == (0, False, 0)
    assert set(done.document) == {"dry_run", "partitions"}
    assert set(done.partitions[CAFE]) == UNDONE
    undone = done.partitions[CAFE]
    assert (undone["run_id"], undone["undone"], undone["conflict"], undone["reasons"]) == (ids[CAFE], total, 0, {})
    again = installation("undo", ids[CAFE], "--json")
    assert (again.exit_code, again.partitions[CAFE]["undone"]) == (0, 0)
    assert installation("undo", ids[CAFE], "--json", "--dry-run").exit_code == 0


def test_undo_of_a_dagster_run_takes_back_all_its_partitions(installation: Installation) -> None:
    ids = run(installation, AMBER, BIRCHWOOD)
    both = installation("undo", ids[""], "--json")
    assert (both.exit_code, installation.agency.written()) == (0, 0)
    assert {key: str(partition["run_id"]) for key, partition in both.partitions.items()} == {
        key: ids[key] for key in (AMBER, BIRCHWOOD)
    }


def test_undo_leaves_what_somebody_has_changed_since_and_says_so(installation: Installation) -> None:
    ids = run(installation, CAFE)
    installation.agency.execute(
        "UPDATE client_leads SET notes = 'called back' WHERE id = (SELECT min(id::text)::uuid FROM client_leads)"
    )
    dry = installation("undo", ids[CAFE], "--dry-run", "--json")
    done = installation("undo", ids[CAFE])
    assert (done.exit_code, installation.agency.written()) == (1, 1)
    assert "somebody has changed since" in done.stdout
    partition = dry.partitions[CAFE]
    assert (dry.exit_code, partition["conflict"], partition["reasons"]) == (2, 1, {"changed_since": 1})


def test_a_dry_run_wrote_nothing_that_could_be_undone(installation: Installation) -> None:
    dry = installation("run", "client_leads", "--json", "--client", DOVETAIL, "--dry-run")
    installation.refused("nothing_to_undo", "undo", dry.partitions[DOVETAIL]["run_id"])


def test_undo_of_a_client_that_the_registry_has_no_more_says_so(installation: Installation) -> None:
    ids = run(installation, DOVETAIL)
    installation.write_registry(lambda document: document["clients"].pop())
    outcome = installation("undo", ids[DOVETAIL], "--json")
    assert (outcome.exit_code, outcome.partitions[DOVETAIL]["error_code"]) == (3, "unknown_client")
    assert installation.agency.written() == 1
