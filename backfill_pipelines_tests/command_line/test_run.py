"""`backfill run` as a user calls it: exit codes, the document, resuming, options."""

from __future__ import annotations

import pytest

from backfill_pipelines_tests.backfills.agency import AMBER, BIRCHWOOD, CAFE, CEDAR, DOVETAIL, Document, Edit
from backfill_pipelines_tests.installation import Installation

EVERYBODY = [AMBER, BIRCHWOOD, CAFE, CEDAR, DOVETAIL]
RUN = ("run", "client_leads", "--json")
PARTITION = {
    *("key", "run_id", "state", "plan_hash", "counts", "reasons", "warnings", "error_code", "error_message"),
    *("parked_until", "details", "verification"),
}
COUNTS = {"source", "create", "update", "skip", "conflict", "reject", "applied", "failed"}


def broken_token(key: str) -> Edit:
    def edit(document: Document) -> None:
        for client in document["clients"]:
            if client["key"] == key:
                client["email_bison"]["token"] = "999|nobodyhasthistoken"

    return edit


def test_the_document_of_a_run_is_all_there_is_on_stdout(installation: Installation) -> None:
    done = installation(*RUN, "--client", CAFE, "--client", AMBER, "--client", CAFE, "--verbose")
    assert done.exit_code == 0
    document = done.document
    assert set(document) == {"backfill", "mode", "dagster_run_ids", "partitions"}
    assert (document["backfill"], document["mode"]) == ("client_leads", "load")
    assert [partition["key"] for partition in document["partitions"]] == [CAFE, AMBER], "each once, in the order given"
    for partition in document["partitions"]:
        assert set(partition) == PARTITION
        assert set(partition["counts"]) == COUNTS
        assert partition["counts"]["source"] == len(installation.agency.bison.state.interested_ids(partition["key"]))
        assert (partition["error_code"], partition["parked_until"], partition["warnings"]) == (None, None, [])
    assert f"{AMBER}: replies 7 of 7" in done.stderr, "progress is told, in lines where there is no terminal"
    assert installation.agency.rows(CAFE) == installation.agency.oracle(CAFE)


def test_a_dry_run_finds_changes_and_the_run_does_exactly_those(installation: Installation) -> None:
    agency = installation.agency
    dry = [installation(*RUN, "--client", CAFE, "--dry-run") for _ in range(2)]
    assert [each.exit_code for each in dry] == [2, 2]
    assert dry[0].document["mode"] == "plan"
    assert agency.written() == 0
    done = installation(*RUN, "--client", CAFE)
    assert done.exit_code == 0
    assert len({each.partitions[CAFE]["plan_hash"] for each in (*dry, done)}) == 1
    assert dry[0].partitions[CAFE]["counts"]["create"] == done.partitions[CAFE]["counts"]["applied"] == agency.written()
    assert [each.partitions[CAFE]["counts"]["applied"] for each in dry] == [0, 0]
    nothing = [installation(*RUN, "--client", CAFE, *more) for more in ((), ("--dry-run",))]
    assert [each.exit_code for each in nothing] == [0, 0]
    assert nothing[0].partitions[CAFE]["counts"]["applied"] == 0
    assert nothing[0].partitions[CAFE]["plan_hash"] == nothing[1].partitions[CAFE]["plan_hash"]


def test_max_records_loads_so_many_and_the_next_run_the_rest(installation: Installation) -> None:
    total = len(installation.agency.oracle(CAFE))
    first = installation(*RUN, "--client", CAFE, "--max-records", "5").partitions[CAFE]
    assert (first["counts"]["create"], first["counts"]["applied"], installation.agency.written()) == (total, 5, 5)
    second = installation(*RUN, "--client", CAFE).partitions[CAFE]
    assert second["counts"]["applied"] == total - 5
    assert installation.agency.rows(CAFE) == installation.agency.oracle(CAFE)


def test_a_run_after_an_outage_resumes_and_a_fresh_one_starts_anew(installation: Installation) -> None:
    agency = installation.agency
    outage = [{"kind": "status", "status": 503, "path": "/leads*"}]
    agency.server.add_faults(outage)
    failed = installation(*RUN, "--client", CAFE)
    assert (failed.exit_code, failed.partitions[CAFE]["state"]) == (1, "failed")
    agency.server.clear_faults()
    asked = len(agency.reply_pages(CAFE))
    resumed = installation(*RUN, "--client", CAFE)
    assert (resumed.exit_code, resumed.partitions[CAFE]["run_id"]) == (0, failed.partitions[CAFE]["run_id"])
    assert len(agency.reply_pages(CAFE)) == asked, "the replies had been read"

    agency.server.add_faults(outage)
    failed = installation(*RUN, "--client", CAFE)
    agency.server.clear_faults()
    fresh = installation(*RUN, "--client", CAFE, "--fresh")
    assert fresh.exit_code == 0
    assert fresh.partitions[CAFE]["run_id"] != failed.partitions[CAFE]["run_id"]
    assert len(agency.reply_pages(CAFE)) == asked + 2 * 3, "all three pages, by each of the two"


def test_all_means_everybody_in_dagster_runs_of_a_size(installation: Installation) -> None:
    done = installation(*RUN, "--all", "--batch-size", "2")
    assert done.exit_code == 0
    assert list(done.partitions) == EVERYBODY
    assert len(set(done.document["dagster_run_ids"])) == 3
    again = installation(*RUN, "--all")
    assert len(again.document["dagster_run_ids"]) == 1


def test_a_client_that_fails_takes_nobody_with_it_and_is_run_again_alone(installation: Installation) -> None:
    installation.write_registry(broken_token(CAFE))
    run = installation("run", "client_leads", "--client", AMBER, "--client", CAFE)
    assert run.exit_code == 1
    assert f"failed {CAFE}: " in run.stdout
    assert "[unauthorized]" in run.stdout
    assert f"again:   backfill run client_leads --client {CAFE}\n" in run.stdout
    assert installation.agency.rows(AMBER) == installation.agency.oracle(AMBER)
    installation.write_registry()
    assert installation(*RUN, "--client", CAFE).exit_code == 0


def test_a_run_says_what_to_do_next(installation: Installation) -> None:
    dry = installation("run", "client_leads", "--client", DOVETAIL, "--dry-run")
    assert f"load:    backfill run client_leads --client {DOVETAIL}" in dry.stdout
    done = installation("run", "client_leads", "--client", DOVETAIL)
    (undo,) = (line for line in done.stdout.splitlines() if line.startswith("undo:"))
    assert installation(*undo.split()[2:]).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("run", "client_leads"), "no_partitions_chosen", "--client KEY (several times if need be), or --all"),
        (("run", "client_leads", "--all", "--client", AMBER), "no_partitions_chosen", "--all"),
        (("verify", "client_leads"), "no_partitions_chosen", "--client KEY (several times if need be), or --all"),
        (("run", "clientleads", "--all"), "unknown_backfill", "known: client_leads"),
        (("verify", "clientleads", "--all"), "unknown_backfill", "known: client_leads"),
        (("status", "clientleads"), "unknown_backfill", "known: client_leads"),
        (("run", "client_leads", "--client", "amber"), "unknown_client", "clients.yaml has no client amber"),
        (("run", "client_leads", "--client", "Kim Wallace"), "unknown_client", "known: amber-ridge-roofing"),
        (("verify", "client_leads", "--client", "nobody"), "unknown_client", "has no client nobody"),
        (("run", "client_leads", "--all", "--max-records", "0"), "usage", "see `backfill run --help`"),
        (("run", "client_leads", "--all", "--batch-size", "0"), "usage", "'--batch-size'"),
        (("run", "client_leads", "--all", "--frsh"), "usage", "--fresh"),
        (("undo", "nonsense"), "unknown_run", "`backfill status` lists the runs"),
        (("undo", "00000000-0000-0000-0000-000000000000"), "unknown_run", "`backfill status` lists the runs"),
        (("show", "nonsense"), "unknown_run", "`backfill status` lists the runs"),
        (("show", "00000000-0000-0000-0000-000000000000"), "unknown_run", "`backfill status` lists the runs"),
        (("show", "nonsense", "--action", "delete"), "unknown_action", "create, update, skip, conflict, reject"),
        (("clients", "mint-token", AMBER), "not_a_terminal", "printed to a terminal only"),
        (("report", "kpi", "--month", "October"), "invalid_month", "such as 2025-10"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence_and_exit_3(
    installation: Installation, arguments: tuple[str, ...], code: str, words: str
) -> None:
    assert words in installation.refused(code, *arguments)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("run", "client_leads", "--frsh"), "usage"),
        (("run", "client_leads"), "no_partitions_chosen"),
        (("verify", "client_leads", "--client", "nobody"), "unknown_client"),
        (("undo", "nonsense"), "unknown_run"),
    ],
)
def test_with_json_a_command_that_cannot_begin_says_why_in_a_document_too(
    installation: Installation, arguments: tuple[str, ...], code: str
) -> None:
    told = installation.refused(code, *arguments, "--json")
    document = installation(*arguments, "--json").document
    assert set(document) == {"error_code", "error_message"}
    assert told == f"error: {document['error_message']} [{code}]"
