"""`lead_hydration` as a Dagster run: its options, its partitions side by side, and what the UI shows of them."""

from __future__ import annotations

import json
from contextlib import nullcontext

import dagster as dg

from backfill_pipelines.definitions import build_defs
from backfill_pipelines.engine.dagster_adapter import job_name, range_tags
from backfill_pipelines_tests.backfills.hydration_rig import (
    ACME,
    BACKFILL,
    BOLT,
    TOKENS,
    Serve,
    contact,
    location,
)
from backfill_pipelines_tests.engine.dagster_rig import everything_told, materialized, metadata_of, told


def test_a_run_of_two_clients_shows_their_figures_and_nobody(serve: Serve) -> None:
    known = [contact(name, f"{name}@example.com", first_name=f"Kanarienvogel{name}") for name in ("ada", "bo")]
    product = serve(location(known=known), location(BOLT, known=known))
    product.lead("a", email="ada@example.com")
    product.lead("b", of=BOLT, email="bo@example.com")
    with product.runtime() as runtime, dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(BACKFILL.name, [ACME, BOLT])
        definitions = build_defs(backfills=[BACKFILL], open_runtime=lambda _: nullcontext(runtime))
        result = told(
            instance,
            definitions.resolve_job_def(job_name(BACKFILL)).execute_in_process(
                instance=instance,
                tags=range_tags([ACME, BOLT]),
                run_config={"ops": {BACKFILL.name: {"config": {"concurrency": 1, "per_location_rps": 5.0}}}},
                raise_on_error=False,
            ),
        )
        assert result.success
        assert materialized(result) == {
            name: {ACME, BOLT} for name in (BACKFILL.source_asset, "plan", BACKFILL.target_asset)
        }
        details = metadata_of(result, BACKFILL.source_asset, ACME)["details"]
        assert (details["linked"], details["gohighlevel"]["way"]) == (1, "scan")
        assert details["completeness"]["after"]["ghl_contact_id"] == 1.0
        everything = "\n".join([*everything_told(instance), json.dumps(details)]).lower()
        assert not [each for each in ("kanarienvogel", "ada@example.com", *TOKENS.values()) if each in everything]
    assert product.known("b")["ghl_contact_id"] == "bo"


def test_one_run_works_as_many_clients_as_may_be_at_work(serve: Serve) -> None:
    definitions = build_defs(backfills=[BACKFILL], max_partitions_per_run=6)
    (assets,) = definitions.assets or []
    assert isinstance(assets, dg.AssetsDefinition)
    assert assets.backfill_policy == dg.BackfillPolicy.multi_run(max_partitions_per_run=100)
