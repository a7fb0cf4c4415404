"""Nothing personal and no key in a log, in the ledger's runs or in an exception of `attio_people`, whatever goes wrong.

Every field of both vendors holds a canary: a value that is nowhere else. Personal values may stand in Attio, and in the
landing and plan tables of our own schema, and nowhere else.
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

from backfill_pipelines.backfills import attio_people
from backfill_pipelines.engine.ledger import Run, State
from backfill_pipelines_tests.backfills.attio_product import (
    DRY_RUN,
    EMPTY_ATTIO,
    EMPTY_CLERK,
    LOAD_ONLY,
    RECORDS,
    AttioProduct,
    Vendors,
    failure,
    running_vendors,
    succeeded,
    unhurried,
)

CANARY = "kanarienvogel"
CRM = EMPTY_ATTIO._replace(token=f"{CANARY}Token")
USERS = EMPTY_CLERK._replace(secret_key=f"sk_live_{CANARY}Key")


@pytest.fixture(scope="module")
def vendors() -> Iterator[Vendors]:
    with running_vendors(instance=USERS, workspace=CRM) as running:
        yield running


@pytest.fixture
def aviary(
    vendors: Vendors, database: Engine, database_url: SecretStr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AttioProduct:
    unhurried(monkeypatch)
    product = vendors.product(database, database_url, tmp_path)
    names = {"first_name": f"{CANARY}First", "last_name": f"{CANARY}Last\x00", "username": f"{CANARY}name"}
    for number in range(6):
        product.user(f"{CANARY}{number}@example.com", f"{CANARY}{number}@home.test", **names)
    product.user(f"{CANARY} is no address", **names)
    product.person(f"{CANARY}1@example.com")
    product.person(f"{CANARY}2@example.com", user_id="user_of_theirs")
    product.person(f"{CANARY}3@home.test", job_title=[f"{CANARY}Boss"])
    return product


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


def check(product: AttioProduct, heard: list[str], capfd: pytest.CaptureFixture[str], *runs: Run) -> None:
    """No canary in what was logged or printed, in what the runs carry, in any column of `backfill.run`, or in a cursor
    (which outlives no run, but is no place for values either)."""
    told = [*heard, *capfd.readouterr(), *map(repr, runs)]
    logging.getLogger().setLevel(logging.WARNING)  # SQLAlchemy's own DEBUG lines would show the rows of this question
    told += [repr(row) for row in product.query("SELECT * FROM backfill.run")]
    told += [repr(row) for row in product.query("SELECT * FROM backfill.cursor")]
    told += [repr(row) for row in product.query("SELECT * FROM backfill.quota")]
    told += [repr(row) for row in product.query("SELECT record_key, error_code, reason FROM backfill.change")]
    found = [text for text in told if CANARY in text.lower()]
    assert told
    assert not found, found[0]


def test_a_canary_would_be_heard(heard: list[str]) -> None:
    logging.getLogger("somebody").debug("%s", CANARY)
    assert any(CANARY in text for text in heard)


def test_a_run_that_goes_well_tells_nothing(
    aviary: AttioProduct, heard: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    run = aviary.run(overwrite=True)
    assert succeeded(run)
    again, verified = aviary.run(), aviary.verify()
    undone = aviary.undo(run)
    check(aviary, heard, capfd, run, again, verified, undone.run)
    assert any(CANARY in address for addresses, _ in aviary.people().values() for address in addresses)


def test_neither_does_one_beside_which_people_write(
    aviary: AttioProduct, heard: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert succeeded(aviary.run(steps=DRY_RUN))
    aviary.person(f"{CANARY}4@example.com", job_title=[f"{CANARY}Boss"])
    aviary.person(f"{CANARY}5@example.com", user_id=f"{CANARY}Theirs")
    run = aviary.run(steps=LOAD_ONLY)
    assert run.counts["conflict"] > 0
    check(aviary, heard, capfd, run, aviary.undo(run).run)


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "status": 500, "path": "/users"},
        {"kind": "status", "status": 403, "path": "/users"},
        {"kind": "clerk_key_refused"},
        {"kind": "truncated_json", "path": "*/query"},
        {"kind": "cut_body", "path": "*/query"},
        {"kind": "expired_token", "path": "*/query"},
        {"kind": "status", "status": 400, "path": "*/query"},
        {"kind": "status", "status": 500, "method": "POST", "path": RECORDS},
        {"kind": "lost_reply", "method": "PATCH"},
        {"kind": "truncated_json", "method": "POST", "path": RECORDS},
        {"kind": "expired_token", "method": "POST", "path": RECORDS},
    ],
    ids=str,
)
def test_neither_does_one_that_fails(
    aviary: AttioProduct, heard: list[str], capfd: pytest.CaptureFixture[str], fault: dict[str, Any]
) -> None:
    aviary.server.add_faults([fault])
    run = aviary.run()
    check(aviary, heard, capfd, run)


@pytest.mark.parametrize("status", [400, 404, 409, 422])
def test_neither_does_a_vendor_that_refuses_single_rows(
    aviary: AttioProduct, heard: list[str], capfd: pytest.CaptureFixture[str], status: int
) -> None:
    aviary.fault("status", status=status, method="POST", path=RECORDS)
    aviary.fault("status", status=status, method="PATCH")
    run = aviary.run()
    assert succeeded(run)
    assert run.counts["failed"] + run.counts["conflict"] > 0
    check(aviary, heard, capfd, run)


def test_neither_does_a_defect_of_ours_that_quotes_a_value(
    aviary: AttioProduct, heard: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(*_: object, **__: object) -> None:
        raise RuntimeError(f"quotes {CANARY}")

    monkeypatch.setattr(attio_people, "plan_people", defect)
    run = aviary.run()
    assert failure(run) == (State.FAILED, "internal_error")
    check(aviary, heard, capfd, run)
