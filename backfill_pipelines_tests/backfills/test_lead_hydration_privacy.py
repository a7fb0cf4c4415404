"""Nothing personal and no token in a log, in the ledger's runs or in an exception of `lead_hydration`.

Every field of both sides holds a canary: a value that is nowhere else. Personal values may stand in the leads, and in
the landing and plan tables of our own schema, and nowhere else.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from typing import Any

import pytest

from backfill_pipelines.backfills import lead_hydration
from backfill_pipelines.engine.ledger import Run, State
from backfill_pipelines_tests.backfills.hydration_rig import (
    DRY_RUN,
    LOAD_ONLY,
    TOKENS,
    Hydration,
    Serve,
    contact,
    failure,
    location,
    succeeded,
)

CANARY = "kanarienvogel"
PHONES = ("(205) 555-0173", "5550173", "2055550173")


@pytest.fixture(params=[0, 3_000], ids=["scan", "look-ups"])
def aviary(serve: Serve, request: pytest.FixtureRequest) -> Hydration:
    known = [
        contact(
            f"c{number}",
            f"{CANARY}{number}@example.com",
            also=[f"{CANARY}{number}b@example.com"],
            phone=PHONES[0] if number % 2 else f"{CANARY} phone",
            first_name=f"{CANARY}First\x00",
            last_name=f"{CANARY}Last",
            company_name=f"{CANARY}\x01Company",
        )
        for number in range(6)
    ]
    known.append(contact("twice", f"{CANARY}0@example.com"))
    product = serve(location(known=known, others=request.param, foreign_ids=["theirs"]))
    for number in range(5):
        product.lead(f"l{number}", email=f"{CANARY}{number}@example.com")
    product.lead("also", email=f"{CANARY}5b@example.com")
    product.lead("none", email=f"{CANARY}.nobody@example.com", first_name=f"{CANARY}Own")
    product.lead("odd", email=f"{CANARY} is no address")
    product.lead("gone", contact="noSuchContact")
    product.lead("foreign", contact="theirs")
    product.state().alter_contact("c4", phone=[CANARY])
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


def check(product: Hydration, heard: list[str], capfd: pytest.CaptureFixture[str], *runs: Run) -> None:
    """Neither in what was logged and printed, nor in what the ledger tells of runs, nor in the cursors."""
    told = [*heard, *capfd.readouterr(), *map(repr, runs)]
    told += [repr(row) for row in product.query("SELECT * FROM backfill.run")]
    told += [repr(row) for row in product.query("SELECT * FROM backfill.cursor")]
    everything = "\n".join(told).lower()
    leaked = [each for each in (CANARY, *PHONES, *TOKENS.values()) if each.lower() in everything]
    assert not leaked, [line for line in told if CANARY in line.lower()][:3]


def test_a_run_a_verification_and_an_undo_show_nobody(
    aviary: Hydration, heard: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    dry = aviary.run(steps=DRY_RUN)
    run = aviary.run(steps=LOAD_ONLY)
    assert succeeded(dry, run)
    assert run.counts["applied"] > 2
    verified = aviary.verify()
    aviary.undo(run)
    check(aviary, heard, capfd, dry, run, verified)


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "status": 500},
        {"kind": "status", "status": 200},
        {"kind": "truncated_json"},
        {"kind": "cut_body"},
        {"kind": "ghl_token_refused"},
        {"kind": "foreign_contacts", "every": 2},
        {"kind": "no_cursors"},
    ],
    ids=lambda fault: f"{fault['kind']} {fault.get('status', '')}",
)
def test_neither_does_one_that_fails_at_the_source(
    aviary: Hydration, heard: list[str], capfd: pytest.CaptureFixture[str], fault: dict[str, Any]
) -> None:
    aviary.fault(**fault)
    run = aviary.run()
    if fault["kind"] != "no_cursors":
        assert run.state is State.FAILED
    check(aviary, heard, capfd, run)


@pytest.mark.parametrize(
    "refusal",
    [
        "ALTER TABLE \"Lead\" ADD CHECK (first_name NOT LIKE '%First%')",
        'ALTER TABLE "Lead" ALTER company_name TYPE varchar(3)',
        'CREATE UNIQUE INDEX ON "Lead" (last_name)',
    ],
    ids=["check", "too long", "unique"],
)
def test_neither_does_a_table_that_refuses_rows_and_quotes_them(
    aviary: Hydration, heard: list[str], capfd: pytest.CaptureFixture[str], refusal: str
) -> None:
    aviary.execute(refusal)
    run = aviary.run()
    assert run.counts["failed"] + run.counts["conflict"] > 0
    check(aviary, heard, capfd, run)


def test_neither_does_a_defect_of_ours_that_quotes_a_value(
    aviary: Hydration, heard: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(*_: object, **__: object) -> None:
        raise RuntimeError(f"quotes {CANARY}")

    monkeypatch.setattr(lead_hydration, "HydrationPlan", defect)
    run = aviary.run()
    assert failure(run) == (State.FAILED, "internal_error")
    check(aviary, heard, capfd, run)
