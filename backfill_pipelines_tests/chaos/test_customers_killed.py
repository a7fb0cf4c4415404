"""A run of `customers` that is killed at a place of its work, and the next one: the same final state, nothing twice.

The killed ones are real processes, ended by SIGKILL: nothing of theirs runs afterwards, no handler, no `finally`.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy

from backfill_pipelines.database.connection import create_database_engine
from backfill_pipelines.database.embedded_server import EmbeddedServer
from backfill_pipelines.sandbox.product_schema import product_schema_sql
from backfill_pipelines_tests.backfills.agency import AMBER, Document
from backfill_pipelines_tests.backfills.product_rig import ACME, CLIENT_IDS, Product, fill_typical_client, succeeded
from backfill_pipelines_tests.chaos.gate import gate
from backfill_pipelines_tests.installation import Installation, Outcome

RUN = ("run", "customers", "--client", AMBER, "--json")
PLANNED = 27
SECRET = "one secret for all databases, so that their customers have the same ids"
MOVING = {"created_at", "updated_at", "createdAt", "runId"}
State = dict[str, dict[str, Any]]


def state_of(product: Product) -> State:
    """The user's tables, but for what no two runs have in common: times, and the run's id."""
    return {table: _without_times(rows) for table, rows in product.everything(but=("Audit",)).items()}


def _without_times(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: _without_times(inner) for name, inner in value.items() if name not in MOVING}


@pytest.fixture(scope="module")
def undisturbed(
    embedded_server: EmbeddedServer,
    administration: sqlalchemy.Engine,
    template_database: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[State]:
    """What a run leaves that nobody disturbs, in a database of its own."""
    name = f"undisturbed_{uuid.uuid4().hex}"
    with administration.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name} TEMPLATE {template_database} STRATEGY file_copy"))
    url = embedded_server.url(name)
    engine = create_database_engine(url)
    with engine.begin() as connection:
        connection.execution_options(no_parameters=True).exec_driver_sql(product_schema_sql())
    product = Product(database=engine, database_url=url, folder=tmp_path_factory.mktemp("undisturbed"))
    fill_typical_client(product)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BACKFILL_HASH_KEY", SECRET)
        assert succeeded(product.run())
    yield state_of(product)
    engine.dispose()
    with administration.connect() as connection:
        connection.execute(sqlalchemy.text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def shop(installation: Installation) -> Product:
    def edit(document: Document) -> None:
        for client in document["clients"]:
            client.pop("leads", None)
            if client["key"] == AMBER:
                client["leads"] = {"client_id": CLIENT_IDS[ACME]}

    installation.write_registry(edit)
    installation.environ["BACKFILL_HASH_KEY"] = SECRET
    product = Product(
        database=installation.agency.database,
        database_url=installation.agency.database_url,
        folder=installation.folder,
    )
    fill_typical_client(product)
    return product


def kill_at(
    installation: Installation, product: Product, before: Any, of: str, when: str = "true", *, command: Any = RUN
) -> None:
    """Start the command, and kill it where it wants to write a row."""
    with gate(product.database, before=before, of=of, when=when) as shut:
        killed = installation.start(*command)
        shut.wait_until_reached()
        killed.kill()


def check(installation: Installation, product: Product, last: Outcome, undisturbed: State) -> None:
    """Nothing lost, nothing twice: tables, journal, ledger and audit as one undisturbed run leaves them."""
    assert last.exit_code == 0
    assert state_of(product) == undisturbed
    run = last.partitions[AMBER]
    assert (run["state"], run["counts"]["applied"], run["verification"]["passed"]) == ("succeeded", PLANNED, True)
    states = product.query("SELECT state, count(*) AS n FROM backfill.change GROUP BY state")
    assert states == [{"state": "applied", "n": PLANNED}]
    assert [str(row["id"]) for row in product.query("SELECT id FROM backfill.run")] == [run["run_id"]]
    (entry,) = product.audits()
    assert (entry["run_id"], entry["succeeded"], entry["leads_linked"]) == (run["run_id"], True, 14)
    assert installation(*RUN).partitions[AMBER]["counts"]["applied"] == 0


PLACES = {
    "while the plan is stored": ("INSERT", "backfill.change", "NEW.seq = 11", 0),
    "before the first customer": ("INSERT", '"Customer"', "true", 0),
    "among the leads": ("UPDATE", '"Lead"', "NEW.id = 'mail-1'", 0),
    "at the last job": ("UPDATE", '"Job"', "NEW.id = 'job-4'", 0),
    "between load and audit": ("INSERT", '"Audit"', "true", PLANNED),
}


@pytest.mark.parametrize("place", ["while the plan is stored", "among the leads", "between load and audit"])
def test_the_run_after_a_killed_one_ends_as_if_nothing_had_happened(
    installation: Installation, shop: Product, undisturbed: State, place: str
) -> None:
    before, of, when, journalled = PLACES[place]
    untouched = state_of(shop)
    kill_at(installation, shop, before, of, when)
    assert shop.query("SELECT count(*) AS n FROM backfill.change") == [{"n": journalled}]
    assert state_of(shop) == (undisturbed if journalled else untouched)
    assert shop.audits() == []
    check(installation, shop, installation(*RUN), undisturbed)


def test_killed_while_it_loads_a_stored_plan_the_next_run_loads_that_plan(
    installation: Installation, shop: Product, undisturbed: State
) -> None:
    command = (*RUN, "--max-records", "1000")
    untouched = state_of(shop)
    kill_at(installation, shop, "UPDATE", '"Lead"', "NEW.id = 'mail-1'", command=command)
    (planned,) = shop.query("SELECT * FROM backfill.run")
    assert (planned["state"], state_of(shop)) == ("running", untouched)
    states = shop.query("SELECT state, count(*) AS n FROM backfill.change GROUP BY state")
    assert states == [{"state": "planned", "n": PLANNED}]
    done = installation(*command)
    assert done.partitions[AMBER]["plan_hash"] == planned["plan_hash"]
    check(installation, shop, done, undisturbed)


def test_killed_over_and_over_it_comes_to_the_same_end(
    installation: Installation, shop: Product, undisturbed: State
) -> None:
    for before, of, when, _ in PLACES.values():
        kill_at(installation, shop, before, of, when)
    check(installation, shop, installation(*RUN), undisturbed)


def test_what_somebody_does_after_the_kill_stays_theirs(installation: Installation, shop: Product) -> None:
    kill_at(installation, shop, "UPDATE", '"Lead"', "NEW.id = 'mail-1'")
    theirs = shop.customer(name="Theirs")
    shop.execute("UPDATE \"Lead\" SET customer_id = CAST(:id AS uuid) WHERE id = 'mail-1'", id=theirs)
    done = installation(*RUN)
    assert (done.exit_code, done.partitions[AMBER]["verification"]["passed"]) == (0, True)
    assert {shop.rows("Lead")[each]["customer_id"] for each in ("mail-1", "mail-2")} == {theirs}
    assert len(shop.audits()) == 1


def test_killed_during_undo_the_next_undo_takes_everything_back(installation: Installation, shop: Product) -> None:
    untouched = state_of(shop)
    run_id = installation(*RUN).partitions[AMBER]["run_id"]
    loaded = state_of(shop)
    kill_at(installation, shop, "DELETE", '"Customer"', "OLD.name = 'Cy'", command=("undo", run_id, "--json"))
    assert state_of(shop) == loaded, "all of a client's rows, or none of them"
    done = installation("undo", run_id, "--json")
    assert (done.exit_code, done.partitions[AMBER]["undone"]) == (0, PLANNED)
    assert state_of(shop) == untouched
    assert [entry["mode"] for entry in shop.audits()] == ["load", "undo"]
    again = installation(*RUN).partitions[AMBER]
    assert (again["run_id"] != run_id, again["counts"]["applied"]) == (True, PLANNED)
