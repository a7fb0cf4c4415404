"""Ctrl-C and SIGTERM: the first asks for a safe stop, the second ends at once; the next run goes on either way."""

from __future__ import annotations

import signal
from typing import Any

from backfill_pipelines_tests.backfills.agency import AMBER
from backfill_pipelines_tests.chaos.aftermath import check_as_if_undisturbed, cursor, journal, ledger
from backfill_pipelines_tests.chaos.gate import gate
from backfill_pipelines_tests.installation import Installation, Variation, wait_until
from backfill_pipelines_tests.terminal import CTRL_C, terminal

RUN = ("run", "client_leads", "--client", AMBER, "--json")
STOPPING = "stopping at the next safe point; once more to end at once"
Rows = list[dict[str, Any]]


def test_ctrl_c_at_a_terminal_stops_at_a_safe_point_and_says_how_to_go_on(
    installation: Installation, undisturbed: Rows
) -> None:
    agency = installation.agency
    landed = "(SELECT count(*) FROM backfill.bison_reply) >= 30"
    with gate(agency.database, before="INSERT", of="backfill.bison_reply", when=landed) as shut, terminal() as screen:
        running = installation.start("run", "client_leads", "--client", AMBER, at=screen)
        shut.wait_until_reached()
        screen.press(CTRL_C)
        wait_until(lambda: STOPPING in screen.shown())
        shut.open()
        assert running.ended().exit_code == 1
    said = screen.shown()
    assert "interrupted" in said
    assert f"resume:  backfill run client_leads --client {AMBER}" in said
    assert "Traceback" not in said
    (stopped,) = ledger(agency)
    assert (stopped["state"], cursor(agency, "replies")["page"]) == ("interrupted", 3)
    done = installation(*RUN)
    assert done.partitions[AMBER]["run_id"] == str(stopped["id"])
    check_as_if_undisturbed(installation, done, undisturbed)


def test_a_stop_during_the_load_keeps_whole_batches_and_the_next_run_loads_the_rest(
    installation: Installation, undisturbed: Rows
) -> None:
    agency = installation.agency
    loaded = "(SELECT count(*) FROM client_leads) >= 10"
    with gate(agency.database, before="INSERT", of="client_leads", when=loaded) as shut:
        running = installation.start(*RUN, variation=Variation(batch_rows=5))
        shut.wait_until_reached()
        running.send(signal.SIGINT)
        running.wait_for_stderr(STOPPING)
        shut.open()
        stopped = running.ended()
    assert stopped.exit_code == 1
    run = stopped.partitions[AMBER]
    assert (run["state"], run["error_code"], run["counts"]["applied"]) == ("interrupted", "interrupted", 15)
    assert "the same command again goes on from here" in run["error_message"]
    assert journal(agency) == {"applied": 15, "planned": len(undisturbed) - 15}
    done = installation(*RUN)
    assert done.partitions[AMBER]["run_id"] == run["run_id"]
    check_as_if_undisturbed(installation, done, undisturbed)


def test_a_second_signal_ends_the_process_at_once(installation: Installation, undisturbed: Rows) -> None:
    agency = installation.agency
    with gate(agency.database, before="INSERT", of="client_leads") as shut:
        running = installation.start(*RUN)
        shut.wait_until_reached()
        running.send(signal.SIGTERM)
        running.wait_for_stderr(STOPPING)
        assert running.is_alive(), "the first one only asks"
        running.send(signal.SIGINT)
        ended = running.ended()
    assert (ended.exit_code, ended.stdout) == (128 + signal.SIGINT, "")
    assert [run["state"] for run in ledger(agency)] == ["running"], "nobody was left to say otherwise"
    check_as_if_undisturbed(installation, installation(*RUN), undisturbed)
