"""`backfill status` and `backfill show`: what ran, and with which values, but those at a terminal only."""

from __future__ import annotations

from backfill_pipelines_tests.backfills.agency import CAFE, DOVETAIL
from backfill_pipelines_tests.installation import Installation
from backfill_pipelines_tests.terminal import terminal

STATUS = {
    *("id", "dagster_run_id", "root_run_id", "backfill", "partition_key", "mode", "state", "plan_hash", "counts"),
    *("planned_counts", "planned_reasons", "reasons", "warnings", "details", "verification", "options", "resumable"),
    *("started_at", "planned_at", "finished_at", "parked_until", "undoes"),
    *("error_code", "error_category", "error_message"),
}
CHANGE = {"seq", "target", "record_key", "action", "reason", "state", "error_code", "before", "after"}


def test_status_is_the_newest_run_of_every_partition(installation: Installation) -> None:
    assert "Nothing has run yet" in installation("status").stdout
    assert installation("status", "--json").document == {"runs": []}
    for _ in range(2):
        done = installation("run", "client_leads", "--json", "--client", DOVETAIL)
    status = installation("status", "client_leads", "--json")
    assert status.exit_code == 0
    (newest,) = status.document["runs"]
    assert set(newest) == STATUS
    assert (newest["id"], newest["state"]) == (done.partitions[DOVETAIL]["run_id"], "succeeded")
    assert newest["started_at"].endswith("+00:00")
    assert newest["id"] in installation("status").stdout


def test_show_masks_every_value_where_stdout_is_no_terminal(installation: Installation) -> None:
    run_id = installation("run", "client_leads", "--json", "--client", CAFE).partitions[CAFE]["run_id"]
    shown = installation("show", run_id, "--json", "--limit", "3", "--action", "create")
    assert shown.exit_code == 0
    assert (set(shown.document), shown.document["masked"]) == ({"run_id", "masked", "changes"}, True)
    changes = shown.document["changes"]
    assert len(changes) == 3
    for change in changes:
        assert set(change) == CHANGE
        assert {value for value in change["after"].values() if value is not None} == {"•••"}
        assert change["record_key"][1:] == "•••"
    as_text = installation("show", run_id)
    assert as_text.stdout.count("→ applied") == len(installation.agency.oracle(CAFE))
    assert "Values are masked: stdout is no terminal." in as_text.stdout
    assert installation("show", run_id, "--action", "update", "--json").document["changes"] == []


def test_show_at_a_terminal_prints_values_and_nothing_that_a_terminal_obeys(installation: Installation) -> None:
    run_id = installation("run", "client_leads", "--json", "--client", DOVETAIL).partitions[DOVETAIL]["run_id"]
    (row,) = installation.agency.rows(DOVETAIL).values()
    installation.agency.execute(
        "INSERT INTO backfill.change (run_id, seq, target, record_key, action, reason, state) VALUES"
        " (:run_id, 77, 'client_leads', E'\\x1b]0;evil\\x07\\x1b[2J', 'reject', 'invalid_email', 'planned')",
        run_id=run_id,
    )
    with terminal() as screen:
        done = installation.start("show", run_id, at=screen).ended()
    assert done.exit_code == 0
    assert row["lead_email"] in screen.shown()
    assert "•••" not in screen.shown()
    assert "\\x1b]0;evil\\x07\\x1b[2J" in screen.shown()
