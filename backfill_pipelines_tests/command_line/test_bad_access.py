"""Tokens and plans that `backfill run` must not work with: exit 3 where that kept everybody from running."""

from __future__ import annotations

import dagster as dg
import pytest

from backfill_pipelines.definitions import all_backfills, build_defs
from backfill_pipelines.engine.dagster_adapter import job_name
from backfill_pipelines_tests.backfills.agency import AMBER, CAFE, DOVETAIL, Document, Edit
from backfill_pipelines_tests.installation import Installation

UNKNOWN_TOKEN = "999|canaryTokenThatMustNotShow"


def with_token(token: str) -> Edit:
    def edit(document: Document) -> None:
        for client in document["clients"]:
            if client["key"] == AMBER:
                client["email_bison"]["token"] = token

    return edit


def check_refused(installation: Installation, code: str, *words: str) -> None:
    """AMBER alone is exit 3, with somebody else exit 1; nothing of it is written or landed either way."""
    alone = installation("run", "client_leads", "--client", AMBER, "--json")
    assert (alone.exit_code, alone.partitions[AMBER]["state"]) == (3, "failed")
    assert alone.partitions[AMBER]["error_code"] == code
    for word in words:
        assert word in alone.partitions[AMBER]["error_message"]
    others = installation("run", "client_leads", "--client", AMBER, "--client", CAFE, "--json")
    assert (others.exit_code, others.partitions[AMBER]["error_code"]) == (1, code)
    assert others.partitions[CAFE]["state"] == "succeeded"
    assert installation.agency.rows(AMBER) == {}
    assert installation.agency.landed(AMBER) == []
    assert "canary" not in alone.stdout + alone.stderr + others.stdout + others.stderr


def test_a_token_that_nobody_knows(installation: Installation) -> None:
    installation.write_registry(with_token(UNKNOWN_TOKEN))
    check_refused(installation, "unauthorized", "token")


def test_a_token_of_another_workspace(installation: Installation) -> None:
    world = installation.agency.bison.state.world
    installation.write_registry(with_token(world.client(DOVETAIL)[1].token))
    check_refused(
        installation, "wrong_workspace", AMBER, str(world.client(DOVETAIL)[1].id), str(world.client(AMBER)[1].id)
    )


def test_no_token_of_any_kind(installation: Installation) -> None:
    def edit(document: Document) -> None:
        del document["email_bison"]["main"]["admin_token"]
        for client in document["clients"]:
            if client["key"] == AMBER:
                del client["email_bison"]["token"]

    installation.write_registry(edit)
    check_refused(installation, "no_token", AMBER, "add it")


def test_a_token_with_a_line_break_in_it(installation: Installation) -> None:
    installation.write_registry(with_token("${TOKEN}"))
    installation.environ["TOKEN"] = "31|canary\ncanary"
    check_refused(installation, "invalid_token", "line break")


@pytest.mark.parametrize(("hours", "code"), [(25, "plan_too_old"), (23, None)])
def test_a_stored_plan_is_loaded_within_a_day_only(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, hours: int, code: str | None
) -> None:
    """As the Dagster UI asks for it: the target alone."""
    dry = installation("run", "client_leads", "--client", CAFE, "--dry-run", "--json").partitions[CAFE]
    installation.agency.execute(f"UPDATE backfill.run SET planned_at = planned_at - interval '{hours} hours'")
    monkeypatch.chdir(installation.folder)
    for name, value in installation.environ.items():
        monkeypatch.setenv(name, value)
    (backfill,) = (each for each in all_backfills() if each.name == "client_leads")
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("client_leads", [CAFE])
        result = (
            build_defs()
            .resolve_job_def(job_name(backfill))
            .execute_in_process(
                instance=instance,
                partition_key=CAFE,
                asset_selection=[dg.AssetKey(["client_leads", backfill.target_asset])],
                raise_on_error=False,
            )
        )
    (newest,) = installation("status", "--json").document["runs"]
    assert (result.success, newest["error_code"]) == (code is None, code)
    assert newest["state"] == ("succeeded" if code is None else "failed")
    assert installation.agency.written() == (dry["counts"]["create"] if code is None else 0)
    if code is not None:
        assert newest["error_message"].endswith("is older than 24 hours; plan again.")
