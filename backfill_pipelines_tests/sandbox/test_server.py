"""The sandbox's server: addresses, counts, reset, and serving in the foreground."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import yaml

from backfill_pipelines.sandbox.email_bison import EmailBisonSandbox
from backfill_pipelines.sandbox.email_bison_records import EmailBisonWorld
from backfill_pipelines.sandbox.entry import build_sandbox
from backfill_pipelines.sandbox.faults import Trigger
from backfill_pipelines.sandbox.product_schema import product_schema_sql
from backfill_pipelines.sandbox.server import SandboxServer, SandboxStartError
from backfill_pipelines_tests.sandbox.conftest import AMBER, CAFE, Connect

FOREGROUND = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
from backfill_pipelines.sandbox.entry import build_sandbox, serve_sandbox
try:
    serve_sandbox(build_sandbox(clients=2, scale=0.01), lambda sandbox: print(sandbox.registry_yaml(), flush=True))
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_the_two_instances_are_on_different_hosts(server: SandboxServer) -> None:
    urls = server.account_urls("email-bison")
    assert list(urls) == ["main", "second"]
    assert len({httpx.URL(url).port for url in urls.values()}) == 2
    assert urls["main"] == f"{server.base_url}/email-bison/main/api"


def free_neighbours() -> int:
    """A port that is free together with the next one."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


def test_a_chosen_port_is_the_first_of_two(world: EmailBisonWorld) -> None:
    port = free_neighbours()
    with SandboxServer([EmailBisonSandbox(world)], port=port) as server:
        assert server.account_urls("email-bison") == {
            "main": f"http://127.0.0.1:{port}/email-bison/main/api",
            "second": f"http://127.0.0.1:{port + 1}/email-bison/second/api",
        }


def test_a_taken_port_is_named_and_nothing_stays_open(world: EmailBisonWorld) -> None:
    port = free_neighbours()
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", port + 1))
        squatter.listen()
        with pytest.raises(SandboxStartError, match=f"port {port + 1} is taken"):
            SandboxServer([EmailBisonSandbox(world)], port=port).start()
    with SandboxServer([EmailBisonSandbox(world)], port=port) as server:
        assert server.base_url.endswith(str(port))


def test_a_stopped_server_answers_no_more_and_has_no_address(world: EmailBisonWorld) -> None:
    server = SandboxServer([EmailBisonSandbox(world)]).start()
    url = server.base_url
    server.stop()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/_sandbox/requests")
    with pytest.raises(SandboxStartError):
        _ = server.base_url
    server.stop()


def test_requests_are_logged_with_workspace_and_status(
    server: SandboxServer, client_of: Connect, world: EmailBisonWorld
) -> None:
    client = client_of(AMBER)
    client.get("/replies?page=2")
    client.get("/leads/999999")
    entries = [(each.method, each.path, each.query, each.call.client, each.status) for each in server.requests]
    assert entries == [("GET", "/replies", "page=2", AMBER, 200), ("GET", "/leads/999999", "", AMBER, 404)]
    assert {each.served_workspace for each in server.requests} == {str(world.client(AMBER)[1].id)}


def test_counts_are_told_per_workspace_and_route(server: SandboxServer, client_of: Connect) -> None:
    for lead_id in (1, 2, 3):
        client_of(AMBER).get(f"/leads/{lead_id}")
    client_of(CAFE).get("/users")
    told = httpx.get(f"{server.base_url}/_sandbox/requests").json()
    assert told["total"] == 4
    rows = {(row["client"], row["path"], row["status"]): row["count"] for row in told["counts"]}
    assert rows == {(AMBER, "/leads/{id}", 404): 3, (CAFE, "/users", 200): 1}


def test_a_reset_over_http_brings_everything_back(
    server: SandboxServer, bison: EmailBisonSandbox, world: EmailBisonWorld, client_of: Connect
) -> None:
    bison.state.add_reply(AMBER)
    bison.state.switch_workspace("main", world.client(AMBER)[1].id)
    server.add_faults([{"kind": "status", "status": 500}])
    server.after(Trigger(), lambda: bison.state.add_reply(AMBER))
    assert client_of(AMBER).get("/users").status_code == 500
    assert httpx.post(f"{server.base_url}/_sandbox/reset").json() == {"reset": True}
    assert server.requests == []
    assert client_of(AMBER).get("/users").status_code == 200
    assert bison.state.snapshot() == world
    assert bison.state.current_team("main") == 1


def test_many_clients_at_once_all_get_their_own_workspace(
    server: SandboxServer, world: EmailBisonWorld, client_of: Connect
) -> None:
    clients = {key: client_of(key) for key in world.client_keys()}

    def read(number: int) -> bool:
        key = world.client_keys()[number % len(clients)]
        team = clients[key].get("/users").json()["data"]["team"]
        return bool(team["id"] == world.client(key)[1].id)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(200)))
    assert httpx.get(f"{server.base_url}/_sandbox/requests").json()["total"] == 200


def test_the_foreground_server_ends_on_an_interrupt() -> None:
    process = subprocess.Popen([sys.executable, "-c", FOREGROUND], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        lines = list(iter(process.stdout.readline, "\n"))
        url = yaml.safe_load("".join(lines))["email_bison"]["main"]["base_url"]
        assert httpx.get(f"{url}/users").status_code == 401
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=10)[0] == "interrupted\n"
    finally:
        process.kill()
        process.wait()


def test_the_registry_points_at_the_running_sandbox_and_opens_every_workspace() -> None:
    sandbox = build_sandbox(clients=24, scale=0.005)
    with sandbox.server:
        registry = yaml.safe_load(sandbox.registry_yaml())
        assert len(registry["clients"]) == 24
        for client in registry["clients"]:
            entry = client["email_bison"]
            url = registry["email_bison"][entry["instance"]]["base_url"]
            with httpx.Client(
                base_url=url, headers={"Authorization": f"Bearer {entry['token']}"}, verify=False
            ) as http:
                team = http.get("/users").json()["data"]["team"]
            assert (team["id"], team["name"]) == (entry["workspace_id"], client["name"])
        admin_only = yaml.safe_load(sandbox.registry_yaml(admin_only=True))
    assert not any("token" in client["email_bison"] for client in admin_only["clients"])
    assert all(instance["admin_token"] for instance in admin_only["email_bison"].values())


def test_the_registry_opens_every_client_s_location_with_its_token_and_no_other() -> None:
    sandbox = build_sandbox(clients=24, scale=0.005)
    with sandbox.server:
        registry = yaml.safe_load(sandbox.registry_yaml())
        url = registry["vendors"]["gohighlevel"]["base_url"]
        entries = {client["leads"]["client_id"]: client["gohighlevel"] for client in registry["clients"]}
        contacts_of = {
            each.id: {contact.id for contact in each.seeded_contacts()} for each in sandbox.gohighlevel.locations
        }
        assert len(entries) == 24
        tokens = [entry["token"] for entry in entries.values()]
        with httpx.Client(base_url=url, headers={"Version": "2021-07-28"}, verify=False) as http:
            for entry, other in zip(entries.values(), [*tokens[1:], tokens[0]], strict=True):
                body = {"locationId": entry["location_id"], "pageLimit": 500}
                opened = http.post(
                    "/contacts/search", json=body, headers={"Authorization": f"Bearer {entry['token']}"}
                ).json()
                assert {row["id"] for row in opened["contacts"]} == contacts_of[entry["location_id"]]
                assert {row["locationId"] for row in opened["contacts"]} == {entry["location_id"]}
                refused = http.post("/contacts/search", json=body, headers={"Authorization": f"Bearer {other}"})
                assert refused.status_code == 403


def test_no_two_locations_are_alike() -> None:
    """Contacts' ids are the vendor's own: one that two locations had would never be found to be foreign."""
    locations = build_sandbox(clients=24, scale=0.1).gohighlevel.locations
    assert len({each.id for each in locations}) == len({each.token for each in locations}) == len(locations) == 24
    contacts = [contact.id for each in locations for contact in each.seeded_contacts()]
    assert len(set(contacts)) == len(contacts)


@pytest.mark.parametrize("seed", [1, 7])
def test_no_lead_names_a_contact_of_another_client_s_location(seed: int) -> None:
    """At the demo's own size: clients of ten leads hardly ever meet by chance."""
    sandbox = build_sandbox(seed=seed, clients=24)
    locations = sandbox.gohighlevel.locations
    named, found = 0, 0
    for client, own in zip(sandbox.product_clients, locations, strict=True):
        ids = {lead.ghl_contact_id for lead in client.leads() if lead.ghl_contact_id is not None}
        named += len(ids)
        found += sum(own.number_of(each) is not None for each in ids)
        foreign = {
            each for each in ids for other in locations if other is not own and other.number_of(each) is not None
        }
        assert foreign == set(), own.key
    assert 0.8 * named < found < named, "most are contacts, and some are gone"


def test_the_registry_and_the_product_s_tables_have_the_same_clients() -> None:
    sandbox = build_sandbox(clients=5, scale=0.005)
    with sandbox.server:
        registry = yaml.safe_load(sandbox.registry_yaml())
    clients = {client["leads"]["client_id"]: client["name"] for client in registry["clients"]}
    assert clients == {each.client_id: each.name for each in sandbox.product_clients}
    assert [client["key"] for client in registry["clients"]] == [each.key for each in sandbox.gohighlevel.locations]


def test_the_product_schema_is_shipped() -> None:
    assert "CREATE TABLE client_leads" in product_schema_sql()
    assert "DEFERRABLE INITIALLY DEFERRED" in product_schema_sql()
