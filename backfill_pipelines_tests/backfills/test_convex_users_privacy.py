"""Nothing personal and no key in a log, in the ledger's runs or in an exception of `convex_users`, whatever goes wrong.

Every field of both sides holds a canary: a value that is nowhere else. Personal values may stand in the target and in
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

from backfill_pipelines.backfills import convex_users
from backfill_pipelines.engine.ledger import Run, State
from backfill_pipelines.sandbox.convex_data import FIELDS
from backfill_pipelines_tests.backfills.convex_product import (
    ACME,
    CLERK,
    MUTATION,
    QUERY,
    ConvexProduct,
    failure,
    in_small_portions,
    in_workspace,
    serving,
    succeeded,
    unhurried,
)

CANARY = "kanarienvogel"
PEOPLE = 30


def fill(product: ConvexProduct) -> None:
    """Everybody is a canary; half of the rows differ, a few are odd."""
    product.users.delete_users(product.users.user_ids())
    for document_id in product.documents():
        product.app.delete(document_id)
    for number in range(PEOPLE):
        member = product.member(
            f"{CANARY}.{number}@example.com",
            held={"lastName": f"{CANARY} before {number}", "bio": f"{CANARY} bio"} if number % 2 else {},
            first_name=f"{CANARY}First{number}",
            last_name=f"{CANARY}Last{number}",
            username=f"{CANARY}_{number}",
            image_url=f"https://img.clerk.test/{CANARY}{number}",
        )
        if number == 5:
            product.app.insert(clerkId=member, firstName=f"{CANARY} twin")
        if number == 7:
            product.users.alter_user(member, username=[f"{CANARY} is no text"])
        if number == 9:
            product.app.change(product.row(member)["_id"], email={"address": f"{CANARY}@example.com"})
    product.app.insert(clerkId=f"{CANARY}\n", firstName=CANARY)
    product.app.insert(clerkId="user_gone", firstName=CANARY, email=f"{CANARY}@example.com")


@pytest.fixture
def aviary(
    database: Engine, database_url: SecretStr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ConvexProduct]:
    unhurried(monkeypatch)
    in_small_portions(monkeypatch)
    instance = CLERK._replace(secret_key=f"sk_live_{CANARY}ClerkKey")
    with serving(database, database_url, tmp_path, instances=[instance]) as product:
        deploy_key = f"prod:{product.app.seeded.name}|{CANARY}DeployKey"
        product.app.keys[deploy_key] = product.app.keys[product.app.seeded.deploy_key]
        product.edit = in_workspace(lambda workspace: workspace["convex"].update(deploy_key=deploy_key))
        fill(product)
        yield product


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


def check(product: ConvexProduct, heard: list[str], capfd: pytest.CaptureFixture[str], *runs: Run) -> None:
    """No canary in what was logged or printed, in what the runs carry, or in any column of `backfill.run`."""
    told = [*heard, *capfd.readouterr(), *map(repr, runs)]
    logging.getLogger().setLevel(logging.WARNING)  # SQLAlchemy's own DEBUG lines would show the rows of this question
    told += [repr(row) for row in product.query("SELECT * FROM backfill.run")]
    told += [repr(row) for row in product.query("SELECT * FROM backfill.cursor")]
    told += [repr(row) for row in product.query("SELECT error_code, reason, state, record_id FROM backfill.change")]
    assert told
    for text in told:
        assert CANARY not in text.lower(), text


def test_a_canary_would_be_heard(heard: list[str]) -> None:
    logging.getLogger("somebody").debug("%s", CANARY)
    assert any(CANARY in text for text in heard)


def test_a_run_that_goes_well_tells_nothing(
    aviary: ConvexProduct, heard: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    run = aviary.run(clear_nulls=True)
    assert succeeded(run)
    assert (run.counts["applied"], run.counts["reject"], run.counts["conflict"]) == (12, 3, 1)
    stored = [repr(document) for document in aviary.documents().values()]
    assert sum("Last" in text for text in stored) >= PEOPLE // 2, "the canaries never came as far as the target"
    again, verification = aviary.run(), aviary.verify()
    dry, undone = aviary.undo(run, dry_run=True), aviary.undo(run)
    check(aviary, heard, capfd, run, again, verification, dry.run, undone.run)
    assert heard


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "clerk_key_refused", "vendor": "clerk"},
        {"kind": "truncated_json", "vendor": "clerk", "path": "/users"},
        {"kind": "status", "status": 500, "vendor": "clerk", "path": "/users"},
        {"kind": "truncated_json", "path": QUERY},
        {"kind": "cut_body", "path": QUERY},
        {"kind": "status", "status": 403, "path": QUERY},
        {"kind": "function_timeout", "path": QUERY},
        {"kind": "status", "status": 500, "path": MUTATION},
        {"kind": "lost_reply", "path": MUTATION},
        {"kind": "truncated_json", "path": MUTATION},
        {"kind": "write_conflict", "path": MUTATION},
        {"kind": "function_timeout", "path": MUTATION},
    ],
    ids=str,
)
def test_neither_does_one_that_fails(
    aviary: ConvexProduct, heard: list[str], capfd: pytest.CaptureFixture[str], fault: dict[str, Any]
) -> None:
    aviary.server.add_faults([{"vendor": "convex", **fault}])
    run = aviary.run()
    assert run.state is State.FAILED
    check(aviary, heard, capfd, run)


def test_neither_does_a_schema_or_a_validator_that_refuses_values_and_quotes_them(
    aviary: ConvexProduct, heard: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    anything = frozenset({"string", "number", "null", "absent", "other"})
    kinds = dict.fromkeys((*FIELDS, "clerkId", "bio"), anything)
    aviary.app.tables["users"].kinds = {**kinds, "lastName": frozenset({"number"})}
    refused = aviary.run()
    assert refused.counts["failed"] > 0
    aviary.app.functions = "other_arguments"
    check(aviary, heard, capfd, refused, aviary.run())


def test_neither_does_a_table_of_ours_that_refuses_a_row_and_quotes_it(
    aviary: ConvexProduct, heard: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    with aviary.database.begin() as connection:
        connection.exec_driver_sql(
            "ALTER TABLE backfill.convex_user ADD CHECK (fields->>'lastName' NOT LIKE '%%Last%%')"
        )
    run = aviary.run()
    assert failure(run) == (State.FAILED, "internal_error")
    check(aviary, heard, capfd, run)


def test_neither_does_a_defect_of_ours_that_quotes_a_value(
    aviary: ConvexProduct, heard: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(*_: object, **__: object) -> None:
        raise RuntimeError(f"quotes {CANARY}")

    monkeypatch.setattr(convex_users, "plan_users", defect)
    run = aviary.run()
    assert failure(run) == (State.FAILED, "internal_error")
    check(aviary, heard, capfd, run)


def test_neither_does_a_workspace_that_another_run_holds(
    aviary: ConvexProduct, heard: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    runs = aviary.run_all(ACME, ACME)
    check(aviary, heard, capfd, *runs.values())
