"""Whole runs of `client_leads` over sockets into Postgres, against an independent statement of the rules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from backfill_pipelines.engine.ledger import Run
from backfill_pipelines.sandbox.email_bison import EmailBisonSandbox
from backfill_pipelines.sandbox.email_bison_data import build_email_bison_world
from backfill_pipelines.sandbox.server import SandboxServer
from backfill_pipelines_tests.backfills.agency import (
    AMBER,
    BIRCHWOOD,
    CAFE,
    CEDAR,
    DOVETAIL,
    DRY_RUN,
    UNHURRIED,
    Agency,
    succeeded,
)
from backfill_pipelines_tests.sandbox.client_leads_oracle import expected_client_leads

EVERYBODY = (AMBER, BIRCHWOOD, CAFE, CEDAR, DOVETAIL)


def check_against_the_oracle(agency: Agency, runs: dict[str, Run]) -> None:
    assert succeeded(runs)
    for key, run in runs.items():
        expected = expected_client_leads(agency.bison.state.snapshot(), key)
        assert agency.rows(key) == agency.oracle(key)
        rejects = {row["record_key"] for row in agency.changes(run.id) if row["action"] == "reject"}
        assert rejects == {text or "(no address)" for text in expected.rejected}
        assert run.counts["create"] == run.counts["applied"] == len(expected.rows)
        assert run.counts["source"] == len(agency.bison.state.interested_ids(key))
        assert run.verification is not None
        assert run.verification["passed"]
        assert run.verification["equal"] == len(expected.rows)
    assert agency.written() == sum(len(agency.oracle(key)) for key in runs)


def test_all_clients_into_an_empty_table_are_what_the_rules_say(agency: Agency) -> None:
    ids = [set(agency.bison.state.interested_ids(key)) for key in (AMBER, BIRCHWOOD)]
    assert ids[0] & ids[1], "two instances must share reply ids, or the test says less than it seems to"
    check_against_the_oracle(agency, agency.run_all(*EVERYBODY))


@pytest.fixture
def larger_agency(product_tables: Engine, database_url: SecretStr, tmp_path: Path) -> Iterator[Agency]:
    """Enough replies for every oddity that the sandbox has."""
    world = build_email_bison_world(seed=11, clients=2, interested_replies=[1_900, 60])
    bison = EmailBisonSandbox(world, rate_limit=UNHURRIED)
    with SandboxServer([bison]) as server:
        yield Agency(bison=bison, server=server, database=product_tables, database_url=database_url, folder=tmp_path)


def test_every_oddity_of_a_large_workspace_is_what_the_rules_say(larger_agency: Agency) -> None:
    check_against_the_oracle(larger_agency, larger_agency.run_all(AMBER, BIRCHWOOD))
    stored = [str(value) for row in larger_agency.rows(AMBER).values() for value in row.values()]
    assert any("\x01" in text for text in stored)
    assert any("王" in text for text in stored)
    assert not any("\x00" in text for text in stored)


def test_a_second_run_writes_nothing(agency: Agency) -> None:
    first = agency.run_all(*EVERYBODY)
    before = agency.query("SELECT * FROM client_leads ORDER BY id")
    second = agency.run_all(*EVERYBODY)
    assert succeeded(second)
    for key, run in second.items():
        assert (run.counts["create"], run.counts["update"], run.counts["applied"]) == (0, 0, 0)
        assert run.reasons["unchanged"] == first[key].counts["create"]
        assert run.id != first[key].id
    assert agency.query("SELECT * FROM client_leads ORDER BY id") == before


def test_a_dry_run_writes_nothing_and_plans_what_the_run_then_does(agency: Agency) -> None:
    dry = agency.run_all(AMBER, BIRCHWOOD, steps=DRY_RUN)
    assert succeeded(dry)
    assert agency.written() == 0
    again = agency.run_all(AMBER, BIRCHWOOD, steps=DRY_RUN)
    real = agency.run_all(AMBER, BIRCHWOOD)
    for key, run in dry.items():
        assert run.plan_hash == again[key].plan_hash == real[key].plan_hash
        assert run.counts["create"] == real[key].counts["applied"]
    assert agency.rows(AMBER) == agency.oracle(AMBER)


def test_max_records_loads_so_many_and_the_next_run_the_rest(agency: Agency) -> None:
    expected = agency.oracle(CAFE)
    assert len(expected) > 8
    first = agency.run(CAFE, max_records=5)
    assert succeeded([first])
    assert (first.counts["create"], first.counts["applied"], agency.written()) == (len(expected), 5, 5)
    assert first.verification is not None
    assert (first.verification["missing"], first.verification["passed"]) == (len(expected) - 5, False)
    second = agency.run(CAFE)
    assert second.counts["create"] == second.counts["applied"] == len(expected) - 5
    assert agency.rows(CAFE) == expected


def test_a_client_without_an_interested_reply_is_done_at_once(agency: Agency) -> None:
    for reply_id in agency.bison.state.interested_ids(DOVETAIL):
        agency.bison.state.mark(DOVETAIL, reply_id, interested=False)
    run = agency.run(DOVETAIL)
    assert succeeded([run])
    assert (run.counts["source"], run.counts["applied"], agency.written()) == (0, 0, 0)
    assert run.verification is not None
    assert run.verification["passed"]
    assert agency.reply_pages(DOVETAIL) == [1]


def test_what_changed_at_the_source_is_an_update_of_what_it_concerns(agency: Agency) -> None:
    agency.run(CAFE)
    agency.bison.state.add_reply(CAFE)
    run = agency.run(CAFE)
    assert (run.counts["create"], run.counts["update"], run.counts["applied"]) in {(0, 1, 1), (1, 0, 1)}
    newest = max(agency.bison.state.interested_ids(CAFE))
    assert newest in {row["bison_reply_id"] for row in agency.rows(CAFE).values()}


def test_clients_of_two_instances_name_the_host_they_were_read_from(agency: Agency) -> None:
    agency.run_all(AMBER, BIRCHWOOD)
    hosts = {key: {row["bison_instance"] for row in agency.rows(key).values()} for key in (AMBER, BIRCHWOOD)}
    assert hosts == {AMBER: {agency.host_of(AMBER)}, BIRCHWOOD: {agency.host_of(BIRCHWOOD)}}
    assert agency.host_of(AMBER).startswith("127.0.0.1:")
    assert agency.host_of(AMBER) != agency.host_of(BIRCHWOOD)


def test_a_clients_own_token_never_switches_anybodys_workspace(agency: Agency) -> None:
    assert succeeded(agency.run_all(*EVERYBODY))
    assert not [each for each in agency.server.requests if each.method != "GET"]
    assert agency.bison.state.current_team("main") == 1
