"""Several commands at once: the same partition, different ones, and one instance that only an admin token opens."""

from __future__ import annotations

from typing import Any

from backfill_pipelines_tests.backfills.agency import AMBER, CAFE
from backfill_pipelines_tests.chaos.aftermath import client_leads_of, ledger
from backfill_pipelines_tests.chaos.gate import gate
from backfill_pipelines_tests.installation import Installation

RUN = ("run", "client_leads", "--json", "--client")
Rows = list[dict[str, Any]]


def test_a_second_run_of_a_partition_is_refused_while_others_run(installation: Installation, undisturbed: Rows) -> None:
    agency = installation.agency
    mine = f"NEW.workspace_name = '{agency.name_of(AMBER)}'"
    with gate(agency.database, before="INSERT", of="client_leads", when=mine) as shut:
        first = installation.start(*RUN, AMBER)
        shut.wait_until_reached()
        second = installation(*RUN, AMBER, "--client", CAFE)
        assert second.exit_code == 1
        refused = second.partitions[AMBER]
        assert (refused["state"], refused["error_code"]) == ("refused", "already_running")
        assert "Another run of client_leads is at work on amber-ridge-roofing" in refused["error_message"]
        assert second.partitions[CAFE]["state"] == "succeeded"
        assert agency.rows(CAFE) == agency.oracle(CAFE)
        undo = installation("undo", str(ledger(agency)[0]["id"]), "--json")
        assert (undo.exit_code, undo.partitions[AMBER]["error_code"]) == (1, "already_running")
        assert first.is_alive(), "nobody else's command ends it"
    done = first.ended()
    assert (done.exit_code, done.partitions[AMBER]["state"]) == (0, "succeeded")
    assert client_leads_of(agency, AMBER) == undisturbed
    assert {row["state"] for row in ledger(agency)} == {"succeeded", "refused"}


def test_an_instances_admin_token_goes_to_the_next_command_when_its_holder_is_killed(
    installation: Installation,
) -> None:
    agency = installation.agency
    installation.write_registry(admin_only=True)
    mine = f"NEW.partition_key = '{AMBER}' AND (SELECT count(*) FROM backfill.bison_reply) >= 30"
    with gate(agency.database, before="INSERT", of="backfill.bison_reply", when=mine) as shut:
        holder = installation.start(*RUN, AMBER)
        shut.wait_until_reached()
        waiting = installation.start(*RUN, CAFE)
        waiting.wait_for_stderr(f"{CAFE}: waiting for the instance")
        holder.kill()
        done = waiting.ended()
    assert (done.exit_code, done.partitions[CAFE]["state"]) == (0, "succeeded")
    resumed = installation(*RUN, AMBER)
    assert (resumed.exit_code, resumed.partitions[AMBER]["state"]) == (0, "succeeded")
    again = installation(*RUN, AMBER, "--client", CAFE)
    for key, run in again.partitions.items():
        assert (run["counts"]["create"], run["counts"]["update"], run["verification"]["passed"]) == (0, 0, True), key
        assert agency.rows(key)
