"""Nothing personal and no token in a log, in the ledger's runs or in an exception, whatever goes wrong.

Every field of the source holds a canary: a value that is nowhere else. Personal values may stand in the target and in
the landing and plan tables of our own schema, and nowhere else.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from backfill_pipelines.backfills import client_leads
from backfill_pipelines.engine.ledger import Run, State
from backfill_pipelines.sandbox import email_bison_rows
from backfill_pipelines.sandbox.email_bison import EmailBisonSandbox
from backfill_pipelines.sandbox.email_bison_data import build_email_bison_world
from backfill_pipelines.sandbox.email_bison_records import EmailBisonWorld, Instance, Lead, Reply, Workspace
from backfill_pipelines.sandbox.server import SandboxServer
from backfill_pipelines_tests.backfills.agency import AMBER, BIRCHWOOD, CAFE, UNHURRIED, Agency, failure

CANARY = "kanarienvogel"
PHONE = "(205) 555-0173"
PHONE_CANARIES = ("5550173", "555-0173")


def canary_lead(lead: Lead) -> Lead:
    return lead._replace(
        email=f"{CANARY}{lead.id}@example.com" if lead.id % 7 else f"{CANARY} {lead.id} is no address",
        first_name=f"{CANARY}First{lead.id}",
        last_name=f"{CANARY}Last\x00",
        company=f"{CANARY}\x01Company",
        custom_variables=(("phone", PHONE if lead.id % 2 else f"{CANARY}Phone"), (f"{CANARY}Name", f"{CANARY}Value")),
    )


def canary_reply(reply: Reply) -> Reply:
    return reply._replace(from_name=f"{CANARY} Sender", from_email_address=f"{CANARY}.from{reply.id}@example.com")


def canary_workspace(workspace: Workspace) -> Workspace:
    return workspace._replace(
        token=f"{workspace.id}|{CANARY}Token{workspace.id}",
        campaigns=tuple(each._replace(name=f"{CANARY}Campaign") for each in workspace.campaigns),
        sender_emails=tuple(
            each._replace(name=f"{CANARY}Mailbox", email=f"{CANARY}.box@example.com")
            for each in workspace.sender_emails
        ),
        leads=tuple(map(canary_lead, workspace.leads)),
        replies=tuple(map(canary_reply, workspace.replies)),
    )


def canary_instance(instance: Instance) -> Instance:
    return instance._replace(
        admin_token=f"9001|{CANARY}Admin{instance.name}",
        other_session_token=f"9002|{CANARY}Other{instance.name}",
        workspaces=tuple(map(canary_workspace, instance.workspaces)),
    )


@pytest.fixture(scope="module")
def canary_world() -> EmailBisonWorld:
    world = build_email_bison_world(seed=5, clients=3, interested_replies=[24, 12, 12])
    return world._replace(instances=tuple(map(canary_instance, world.instances)))


@pytest.fixture
def aviary(
    canary_world: EmailBisonWorld,
    product_tables: Engine,
    database_url: SecretStr,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Agency]:
    monkeypatch.setattr(email_bison_rows, "SUBJECTS", (f"{CANARY} subject",))
    monkeypatch.setattr(email_bison_rows, "TEXTS", (f"{CANARY} text",))
    bison = EmailBisonSandbox(canary_world, rate_limit=UNHURRIED)
    with SandboxServer([bison]) as server:
        yield Agency(bison=bison, server=server, database=product_tables, database_url=database_url, folder=tmp_path)


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """Everything that anything logs at any level; a handler of our own, so that no formatter of pytest's helps."""
    records: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(f"{record.name} {record.msg!r} {record.args!r} {record.getMessage()}")
            if record.exc_info:
                records.extend(traceback.format_exception(*record.exc_info))

    ear = Ear(logging.DEBUG)
    logging.getLogger().addHandler(ear)
    with caplog.at_level(logging.DEBUG):
        yield records
    logging.getLogger().removeHandler(ear)


def check(agency: Agency, heard: list[str], capfd: pytest.CaptureFixture[str], *runs: Run) -> None:
    """No canary in what was logged or printed, in what the runs carry, or in any column of `backfill.run`."""
    told = [*heard, *capfd.readouterr(), *map(repr, runs)]
    logging.getLogger().setLevel(logging.WARNING)  # SQLAlchemy's own DEBUG lines would show the rows of this question
    told += [repr(row) for row in agency.query("SELECT * FROM backfill.run")]
    told += [repr(row) for row in agency.query("SELECT error_code, reason, state FROM backfill.change")]
    assert told
    for text in told:
        found = [canary for canary in (CANARY, *PHONE_CANARIES) if canary.lower() in text.lower()]
        assert not found, text


def test_a_canary_would_be_heard(heard: list[str]) -> None:
    logging.getLogger("somebody").debug("%s", CANARY)
    assert any(CANARY in text for text in heard)


def test_a_run_that_goes_well_tells_nothing(
    aviary: Agency, heard: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    runs = aviary.run_all(AMBER, BIRCHWOOD, CAFE)
    again = aviary.run_all(AMBER, BIRCHWOOD)
    verified = aviary.verify(CAFE)
    undone = aviary.undo(runs[AMBER])
    check(aviary, heard, capfd, *runs.values(), *again.values(), verified, undone.run)
    assert heard
    stored = [repr(row) for row in aviary.query("SELECT * FROM client_leads")]
    assert any(CANARY in text for text in stored), "the canaries never came as far as the target"
    assert any("5550173" in text for text in stored)


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "expired_token", "path": "/replies"},
        {"kind": "status", "status": 500, "path": "/replies"},
        {"kind": "status", "status": 403, "path": "/leads*"},
        {"kind": "truncated_json", "path": "/leads*"},
        {"kind": "cut_body", "path": "/replies"},
        {"kind": "ignore_status_filter", "path": "/replies"},
        {"kind": "wrong_workspace", "serve": CAFE, "path": "/replies"},
        {"kind": "wrong_workspace", "serve": CAFE, "path": "/leads*"},
        {"kind": "total_drift", "path": "/replies"},
    ],
    ids=str,
)
def test_neither_does_one_that_fails_at_the_source(
    aviary: Agency, heard: list[str], capfd: pytest.CaptureFixture[str], fault: dict[str, Any]
) -> None:
    aviary.server.add_faults([{**fault, "workspace": AMBER}])
    run = aviary.run(AMBER)
    assert run.state is State.FAILED
    check(aviary, heard, capfd, run)


@pytest.mark.parametrize("admin_only", [False, True])
def test_neither_does_a_token_that_is_wrong(
    aviary: Agency, heard: list[str], capfd: pytest.CaptureFixture[str], admin_only: bool
) -> None:
    aviary.admin_only = admin_only
    for instance in aviary.bison.state.world.instances:
        for token in (instance.admin_token, *(each.token for each in instance.workspaces)):
            aviary.bison.state.revoke(token)
    run = aviary.run(AMBER)
    assert failure(run) == (State.FAILED, "unauthorized", False)
    check(aviary, heard, capfd, run)


@pytest.mark.parametrize(
    "refusal",
    [
        "ALTER TABLE client_leads ADD CHECK (first_name NOT LIKE '%First%')",
        "ALTER TABLE client_leads ALTER company TYPE varchar(3)",
        "ALTER TABLE client_leads ADD UNIQUE (last_name)",
        (
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN RAISE EXCEPTION ''not %'', NEW.lead_email; END';"
            " CREATE TRIGGER refuse BEFORE INSERT ON client_leads FOR EACH ROW EXECUTE FUNCTION refuse()"
        ),
    ],
    ids=["check", "too long", "unique", "trigger"],
)
def test_neither_does_a_target_that_refuses_rows_and_quotes_them(
    aviary: Agency, heard: list[str], capfd: pytest.CaptureFixture[str], refusal: str
) -> None:
    aviary.execute(refusal)
    run = aviary.run(AMBER)
    assert run.counts["failed"] + run.counts["conflict"] > 0
    check(aviary, heard, capfd, run)


def test_neither_does_a_defect_of_ours_that_quotes_a_value(
    aviary: Agency, heard: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(*_: object, **__: object) -> None:
        raise RuntimeError(f"quotes {CANARY}")

    monkeypatch.setattr(client_leads, "plan_client_leads", defect)
    run = aviary.run(AMBER)
    assert failure(run) == (State.FAILED, "internal_error", False)
    check(aviary, heard, capfd, run)
