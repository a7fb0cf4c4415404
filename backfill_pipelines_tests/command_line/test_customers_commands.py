"""`backfill run`, `verify`, `undo` and `show` on `customers`, as a user calls them."""

from __future__ import annotations

import pytest

from backfill_pipelines.database.locks import AdvisoryLocks
from backfill_pipelines.engine.runtime import lock_name
from backfill_pipelines_tests.backfills.agency import AMBER, CAFE, Document
from backfill_pipelines_tests.backfills.product_rig import ACME, BOLT, CLIENT_IDS, Product, fill_typical_client
from backfill_pipelines_tests.installation import Installation

RUN = ("run", "customers", "--json", "--client", AMBER)
VERIFY = ("verify", "customers", "--json", "--client")
PERSONAL = (
    "Ash",
    "Birch",
    "Fay",
    "Dale",
    "ada.ash@",
    "bo@",
    "cy@",
    "@example.com",
    "5550111",
    "555-0111",
    "p-1",
    "p-2",
)


@pytest.fixture
def shop(installation: Installation) -> Product:
    """The product's tables with a typical client each for two clients of the registry."""

    def edit(document: Document) -> None:
        ids = {AMBER: CLIENT_IDS[ACME], CAFE: CLIENT_IDS[BOLT]}
        for client in document["clients"]:
            client.pop("leads", None)
            if client["key"] in ids:
                client["leads"] = {"client_id": ids[client["key"]]}

    installation.write_registry(edit)
    product = Product(
        database=installation.agency.database,
        database_url=installation.agency.database_url,
        folder=installation.folder / "unused",
    )
    fill_typical_client(product)
    fill_typical_client(product, of=BOLT, prefix="b-")
    return product


def test_a_dry_run_a_run_and_another_one(installation: Installation, shop: Product) -> None:
    dry = installation(*RUN, "--dry-run")
    assert (dry.exit_code, dry.document["mode"], shop.together()) == (2, "plan", set())
    done = installation(*RUN)
    assert done.exit_code == 0
    run = done.partitions[AMBER]
    assert run["plan_hash"] == dry.partitions[AMBER]["plan_hash"]
    assert (run["counts"]["create"], run["counts"]["update"], run["counts"]["applied"]) == (8, 19, 27)
    assert run["details"] == {
        "groups": {"psid": 3, "phone": 3, "email": 1, "individual": 2},
        "leads_total": 14,
        "customers_created": 8,
        "customers_reused": 1,
        "leads_linked": 14,
        "leads_already_linked": 0,
        "jobs_linked": 4,
        "jobs_already_linked": 0,
        "jobs_total": 4,
    }
    assert installation(*RUN, "--dry-run").exit_code == 0
    again = installation(*RUN)
    assert (again.exit_code, again.partitions[AMBER]["counts"]["applied"]) == (0, 0)


def test_all_clients_that_have_leads_and_no_others(installation: Installation, shop: Product) -> None:
    done = installation("run", "customers", "--all", "--json")
    assert (done.exit_code, set(done.partitions)) == (0, {AMBER, CAFE})
    told = installation.refused("missing_section", "run", "customers", "--client", "dovetail-kitchens")
    assert "leads" in told


def test_verbose_lists_groups_by_ids_and_nothing_that_is_said_is_personal(
    installation: Installation, shop: Product
) -> None:
    outcomes = [
        installation("run", "customers", "--client", AMBER, "--verbose"),
        installation("verify", "customers", "--client", AMBER, "--verbose"),
        installation("status", "customers"),
    ]
    run_id = shop.audits()[0]["run_id"]
    outcomes += [
        installation("show", run_id),
        installation("show", run_id, "--json"),
        installation("undo", run_id, "--verbose"),
    ]
    assert [outcome.exit_code for outcome in outcomes] == [0] * 6
    ada = next(row for row in shop.query("SELECT record_key FROM backfill.change WHERE after->>'name' = 'Ada Ash'"))
    assert f"{AMBER}: customer {ada['record_key']}, type psid, 3 leads, as usual" in outcomes[0].stderr
    assert outcomes[0].stderr.count(", type ") == 9
    for outcome in outcomes:
        said = outcome.stdout + outcome.stderr
        assert not [word for word in PERSONAL if word in said], said


def test_without_verbose_no_group_is_listed(installation: Installation, shop: Product) -> None:
    assert ", type " not in installation("run", "customers", "--client", AMBER).stderr


def test_verify_is_0_when_all_is_in_order_1_when_not_and_3_when_it_cannot_ask(
    installation: Installation, shop: Product
) -> None:
    assert installation(*RUN).exit_code == 0
    equal = installation(*VERIFY, AMBER)
    assert (equal.exit_code, equal.partitions[AMBER]["equal"], equal.partitions[AMBER]["passed"]) == (0, 14, True)
    assert installation(*VERIFY, CAFE).exit_code == 1, "it has not run yet"
    shop.execute("UPDATE \"Job\" SET customer_id = NULL WHERE id = 'job-1'")
    broken = installation(*VERIFY, AMBER)
    assert (broken.exit_code, broken.partitions[AMBER]["examples"]) == (1, {"jobs_without_customer": ["job-1"]})
    shop.execute('ALTER TABLE "Job" RENAME TO elsewhere')
    assert installation(*VERIFY, AMBER).exit_code == 3


def test_conflicts_that_a_plan_left_fail_neither_the_run_nor_the_verification(
    installation: Installation, shop: Product
) -> None:
    shop.execute('UPDATE "Job" SET customer_id = (SELECT id FROM "Customer" LIMIT 1) WHERE id = \'job-1\'')
    run = installation(*RUN)
    assert (run.exit_code, run.partitions[AMBER]["reasons"]["job_mismatch"]) == (0, 1)
    assert installation(*VERIFY, AMBER).exit_code == 0


def test_undo_is_2_when_it_would_change_something_then_0_then_finds_nothing(
    installation: Installation, shop: Product
) -> None:
    run_id = installation(*RUN).partitions[AMBER]["run_id"]
    loaded = shop.everything()
    dry = installation("undo", run_id, "--dry-run", "--json")
    assert (dry.exit_code, dry.partitions[AMBER]["undone"], shop.everything()) == (2, 27, loaded)
    done = installation("undo", run_id, "--json")
    assert (done.exit_code, done.partitions[AMBER]["undone"], shop.together()) == (0, 27, set())
    for again in (installation("undo", run_id, "--json"), installation("undo", run_id, "--json", "--dry-run")):
        assert (again.exit_code, again.partitions[AMBER]["undone"]) == (0, 0)


def test_undo_is_1_when_somebody_needs_what_it_would_take_back(installation: Installation, shop: Product) -> None:
    run_id = installation(*RUN).partitions[AMBER]["run_id"]
    shop.execute("UPDATE \"Customer\" SET name = 'Edited' WHERE name = 'Cy'")
    undone = installation("undo", run_id, "--json")
    assert (undone.exit_code, undone.partitions[AMBER]["reasons"]) == (1, {"changed_since": 1})


def test_a_run_beside_another_one_is_refused_with_1(installation: Installation, shop: Product) -> None:
    locks = AdvisoryLocks(shop.database)
    assert locks.try_acquire(lock_name("customers", AMBER))
    refused = installation(*RUN)
    locks.close()
    assert (refused.exit_code, refused.partitions[AMBER]["error_code"]) == (1, "already_running")
    assert shop.together() == set()


def test_another_secret_than_that_of_the_customers_that_are_there_is_refused_with_3(
    installation: Installation, shop: Product
) -> None:
    installation.environ["BACKFILL_HASH_KEY"] = "the secret that is PLANTED here"
    assert installation(*RUN).exit_code == 0
    installation.environ["BACKFILL_HASH_KEY"] = "another secret that is PLANTED"
    before = shop.everything()
    outcome = installation(*RUN)
    assert (outcome.exit_code, outcome.partitions[AMBER]["error_code"]) == (3, "hash_key_mismatch")
    assert shop.everything() == before
    assert "PLANTED" not in outcome.stdout + outcome.stderr
    del installation.environ["BACKFILL_HASH_KEY"]
    assert installation(*RUN).partitions[AMBER]["error_code"] == "hash_key_mismatch"
