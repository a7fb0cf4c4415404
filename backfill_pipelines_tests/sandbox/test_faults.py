"""Faults and motion on request, over a real socket."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from backfill_pipelines.sandbox.email_bison import EmailBisonSandbox
from backfill_pipelines.sandbox.email_bison_records import EmailBisonWorld
from backfill_pipelines.sandbox.faults import (
    ArmedTrigger,
    Call,
    FaultFormatError,
    Trigger,
    describe_fault,
    parse_faults,
    read_faults_file,
)
from backfill_pipelines.sandbox.server import SandboxServer, known_fault_kinds
from backfill_pipelines_tests.sandbox.conftest import AMBER, BIRCHWOOD, CAFE, DOVETAIL, Connect

INTERESTED = "/replies?status=interested&folder=all"


@pytest.fixture
def client(client_of: Connect) -> httpx.Client:
    return client_of(AMBER)


@pytest.fixture
def total(client: httpx.Client) -> Callable[[], int]:
    return lambda: int(client.get(INTERESTED).json()["meta"]["total"])


# --- broken deliveries -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [500, 502])
def test_a_status_fault_answers_with_an_html_page(server: SandboxServer, client: httpx.Client, status: int) -> None:
    server.add_faults([{"kind": "status", "status": status, "count": 1}])
    broken = client.get(INTERESTED)
    assert (broken.status_code, broken.headers["content-type"]) == (status, "text/html")
    assert broken.text.startswith("<html>")
    assert client.get(INTERESTED).status_code == 200


def test_a_rate_limited_fault_is_the_vendors_own_429(server: SandboxServer, client: httpx.Client) -> None:
    server.add_faults([{"kind": "rate_limited", "retry_after": 8, "count": 1}])
    answer = client.get("/users")
    assert (answer.status_code, answer.json()) == (429, {"error": "rate_limited", "retry_after": 8})
    assert answer.headers["Retry-After"] == "8"


def test_a_reset_happens_before_the_request_takes_effect(
    server: SandboxServer, bison: EmailBisonSandbox, admin: httpx.Client, world: EmailBisonWorld
) -> None:
    server.add_faults([{"kind": "reset", "path": "*/switch-workspace", "count": 1}])
    with pytest.raises(httpx.TransportError):
        admin.post("/workspaces/v1.1/switch-workspace", json={"team_id": world.client(CAFE)[1].id})
    assert bison.state.current_team("main") == 1
    assert server.requests[-1].status == 0


def test_a_lost_reply_happens_after_the_request_took_effect(
    server: SandboxServer, bison: EmailBisonSandbox, admin: httpx.Client, world: EmailBisonWorld
) -> None:
    target = world.client(CAFE)[1].id
    server.add_faults([{"kind": "lost_reply", "path": "*/switch-workspace", "count": 1}])
    with pytest.raises(httpx.TransportError):
        admin.post("/workspaces/v1.1/switch-workspace", json={"team_id": target})
    assert bison.state.current_team("main") == target
    assert admin.get("/users").json()["data"]["team"]["id"] == target


def test_truncated_json_is_complete_http_around_half_a_document(server: SandboxServer, client: httpx.Client) -> None:
    server.add_faults([{"kind": "truncated_json", "count": 1}])
    answer = client.get(INTERESTED)
    assert answer.status_code == 200
    with pytest.raises(json.JSONDecodeError):
        answer.json()
    assert client.get(INTERESTED).json()["meta"]["total"] == 45


def test_a_cut_body_ends_the_connection(server: SandboxServer, client: httpx.Client) -> None:
    server.add_faults([{"kind": "cut_body", "count": 1}])
    with pytest.raises(httpx.TransportError):
        client.get(INTERESTED)
    assert client.get(INTERESTED).status_code == 200


def test_a_slow_body_begins_at_once_and_then_keeps_the_reader_waiting(
    server: SandboxServer, client: httpx.Client
) -> None:
    server.add_faults([{"kind": "slow_body", "seconds": 80, "count": 1}])
    with client.stream("GET", INTERESTED, timeout=0.2) as answer:
        assert answer.status_code == 200
        with pytest.raises(httpx.ReadTimeout):
            answer.read()


def test_a_slow_body_arrives_whole(server: SandboxServer, client: httpx.Client) -> None:
    server.add_faults([{"kind": "slow_body", "seconds": 0.02, "count": 1}])
    assert len(client.get(INTERESTED).json()["data"]) == 15


def test_latency_keeps_the_whole_answer_back(server: SandboxServer, client: httpx.Client) -> None:
    server.add_faults([{"kind": "latency", "seconds": 60, "count": 1}])
    with pytest.raises(httpx.ReadTimeout):
        client.get("/users", timeout=0.2)


# --- wrong answers ---------------------------------------------------------------------------------------------------


def test_only_the_replies_can_be_another_workspaces(
    server: SandboxServer, client: httpx.Client, world: EmailBisonWorld
) -> None:
    own, other = world.client(AMBER)[1], world.client(CAFE)[1]
    server.add_faults([{"kind": "wrong_workspace", "serve": CAFE, "workspace": AMBER, "path": "/replies*"}])
    document = client.get(INTERESTED).json()
    assert document["meta"]["total"] == 31
    assert document["data"][0]["id"] == next(reply.id for reply in other.replies if reply.interested)
    assert client.get("/users").json()["data"]["team"]["id"] == own.id
    assert client.get("/campaigns").json()["data"][0]["id"] == own.campaigns[-1].id
    served = {entry.path: entry.served_workspace for entry in server.requests}
    assert served == {"/replies": str(other.id), "/users": str(own.id), "/campaigns": str(own.id)}


def test_everything_but_the_user_can_be_another_workspaces(
    server: SandboxServer, client: httpx.Client, world: EmailBisonWorld
) -> None:
    own, other = world.client(AMBER)[1], world.client(CAFE)[1]
    server.add_faults([{"kind": "wrong_workspace", "serve": str(other.id), "workspace": AMBER}])
    assert client.get("/users").json()["data"]["team"]["id"] == own.id
    assert client.get(INTERESTED).json()["meta"]["total"] == 31
    for path, records in (
        ("/campaigns", other.campaigns),
        ("/sender-emails", other.sender_emails),
        ("/leads", other.leads),
    ):
        assert client.get(path).json()["data"][0]["id"] == records[-1].id
    assert client.get(f"/campaigns/{own.campaigns[0].id}").status_code == 403


def test_other_workspaces_are_not_struck(server: SandboxServer, client_of: Connect) -> None:
    server.add_faults([{"kind": "wrong_workspace", "serve": CAFE, "workspace": AMBER}])
    assert client_of(DOVETAIL).get(INTERESTED).json()["meta"]["total"] == 3
    assert client_of(BIRCHWOOD).get(INTERESTED).json()["meta"]["total"] == 40


def test_the_status_filter_can_be_ignored(server: SandboxServer, client: httpx.Client, world: EmailBisonWorld) -> None:
    server.add_faults([{"kind": "ignore_status_filter", "path": "/replies"}])
    document = client.get(INTERESTED).json()
    assert document["meta"]["total"] == len(world.client(AMBER)[1].replies)
    assert {row["interested"] for row in document["data"]} == {True, False}


def test_the_total_can_drift_for_ever(server: SandboxServer, total: Callable[[], int]) -> None:
    server.add_faults([{"kind": "total_drift"}])
    assert [total(), total(), total()] == [46, 47, 48]


def test_a_token_can_expire_in_the_middle(server: SandboxServer, client: httpx.Client) -> None:
    server.add_faults([{"kind": "expired_token", "workspace": AMBER, "nth": 2, "count": 2}])
    assert [client.get("/users").status_code for _ in range(4)] == [200, 401, 401, 200]


# --- motion ----------------------------------------------------------------------------------------------------------


def test_a_mark_taken_away_between_two_pages_moves_a_row_out_of_sight(
    server: SandboxServer, client: httpx.Client, world: EmailBisonWorld
) -> None:
    ids = [reply.id for reply in world.client(AMBER)[1].replies if reply.interested]
    server.add_faults([{"kind": "unmark_newest", "path": "/replies", "workspace": AMBER, "nth": 1}])
    first = client.get(INTERESTED).json()
    second = client.get(f"{INTERESTED}&page=2").json()
    assert [row["id"] for row in first["data"]] == ids[:15]
    assert [row["id"] for row in second["data"]] == ids[16:31]
    assert (first["meta"]["total"], second["meta"]["total"]) == (45, 44)


def test_a_reply_that_comes_in_between_two_pages_shows_a_row_twice(
    server: SandboxServer, client: httpx.Client, world: EmailBisonWorld
) -> None:
    ids = [reply.id for reply in world.client(AMBER)[1].replies if reply.interested]
    server.add_faults([{"kind": "add_reply", "path": "/replies", "nth": 1}])
    client.get(INTERESTED)
    second = client.get(f"{INTERESTED}&page=2").json()
    assert [row["id"] for row in second["data"]] == ids[14:29]
    newest = client.get(INTERESTED).json()["data"][0]
    assert newest["id"] > max(reply.id for _, each in world.all_workspaces()[:4] for reply in each.replies)


def test_motion_by_chance_is_the_same_for_the_same_seed(
    server: SandboxServer, bison: EmailBisonSandbox, client: httpx.Client
) -> None:
    def move() -> list[int]:
        server.reset()
        server.add_faults([{"kind": "live_motion", "path": "/replies", "probability": 0.5}])
        for _ in range(20):
            client.get(INTERESTED)
        return bison.state.interested_ids(AMBER)

    first = move()
    assert first == move()
    assert first != (server.reset(), bison.state.interested_ids(AMBER))[1]


def test_a_hook_runs_after_the_chosen_request_of_the_chosen_workspace(
    server: SandboxServer, bison: EmailBisonSandbox, client_of: Connect, total: Callable[[], int]
) -> None:
    doomed = bison.state.interested_ids(AMBER)[-1]
    server.after(
        Trigger(workspace=AMBER, path="/replies", nth=2), lambda: bison.state.mark(AMBER, doomed, interested=False)
    )
    client_of(CAFE).get(INTERESTED)
    assert [total(), total(), total()] == [45, 45, 44]


def test_another_session_can_switch_to_and_fro_between_two_checks(
    server: SandboxServer, bison: EmailBisonSandbox, admin: httpx.Client, world: EmailBisonWorld
) -> None:
    ours, theirs = world.client(AMBER)[1].id, world.client(CAFE)[1].id
    bison.state.switch_workspace("main", ours)
    server.add_faults([{"kind": "switch_workspace", "team": theirs, "path": "/users", "nth": 1}])
    server.after(Trigger(path="/replies", nth=1), lambda: bison.state.switch_workspace("main", ours))
    before = admin.get("/users").json()["data"]["team"]["id"]
    page = admin.get(INTERESTED).json()
    after = admin.get("/users").json()["data"]["team"]["id"]
    assert (before, page["meta"]["total"], after) == (ours, 31, ours)


def test_what_moved_is_in_the_snapshot_and_gone_after_a_reset(
    server: SandboxServer, bison: EmailBisonSandbox, world: EmailBisonWorld
) -> None:
    state = bison.state
    new = state.add_reply(AMBER)
    lead_id = world.client(AMBER)[1].leads[0].id
    state.delete_lead(AMBER, lead_id)
    state.delete_campaign(AMBER, world.client(AMBER)[1].campaigns[0].id)
    moved = state.snapshot().client(AMBER)[1]
    assert moved.replies[0].id == new
    assert lead_id not in {lead.id for lead in moved.leads}
    assert len(moved.campaigns) == len(world.client(AMBER)[1].campaigns) - 1
    server.reset()
    assert state.snapshot() == world


def test_a_revoked_token_is_unauthenticated(
    bison: EmailBisonSandbox, client: httpx.Client, world: EmailBisonWorld
) -> None:
    bison.state.revoke(world.client(AMBER)[1].token)
    assert client.get("/users").status_code == 401


# --- triggers and files ----------------------------------------------------------------------------------------------


def call(**changes: str) -> Call:
    plain = {"vendor": "email-bison", "account": "main", "workspace": "4", "client": AMBER, "method": "GET"}
    return Call(**{**plain, "path": "/replies", "template": "/replies", **changes})


@pytest.mark.parametrize(
    ("trigger", "struck"),
    [
        (Trigger(), [1, 2, 3, 4, 5, 6]),
        (Trigger(count=2), [1, 2]),
        (Trigger(nth=3), [3]),
        (Trigger(nth=3, count=2), [3, 4]),
        (Trigger(probability=0.0), []),
    ],
)
def test_a_trigger_counts_the_requests_it_matches(trigger: Trigger, struck: list[int]) -> None:
    armed = ArmedTrigger(trigger, seed="1")
    assert [number for number in range(1, 7) if armed.strikes(call())] == struck


@pytest.mark.parametrize(
    ("trigger", "matches"),
    [
        (Trigger(workspace="4"), True),
        (Trigger(workspace=AMBER), True),
        (Trigger(workspace="5"), False),
        (Trigger(account="second"), False),
        (Trigger(method="POST"), False),
        (Trigger(vendor="clerk"), False),
        (Trigger(path="/repl*"), True),
        (Trigger(path="/leads/*"), False),
    ],
)
def test_a_trigger_matches_by_every_field(trigger: Trigger, matches: bool) -> None:
    assert trigger.matches(call()) is matches


def test_chance_strikes_the_same_requests_for_the_same_seed() -> None:
    def struck(seed: str) -> list[bool]:
        armed = ArmedTrigger(Trigger(probability=0.3), seed=seed)
        return [armed.strikes(call()) for _ in range(200)]

    assert struck("1") == struck("1") != struck("2")
    assert 20 < sum(struck("1")) < 100


@pytest.mark.parametrize(
    ("document", "part"),
    [
        ({"kind": "status"}, "list"),
        (["status"], "fault 1 is not a mapping"),
        ([{"kind": "status"}, {"kind": "earthquake"}], "fault 2 has an unknown kind"),
        ([{"kind": "status", "stauts": 500}], "unknown key"),
        ([{"kind": "latency", "seconds": "long"}], "needs a number as 'seconds'"),
        ([{"kind": "status", "nth": "first"}], "needs a number as 'nth'"),
        ([{"kind": ["status"]}], "unknown kind"),
    ],
)
def test_a_fault_nobody_understands_is_refused_with_its_number(
    bison: EmailBisonSandbox, document: object, part: str
) -> None:
    with pytest.raises(FaultFormatError, match=part):
        parse_faults(document, known_fault_kinds([bison]))


def test_a_fault_that_names_no_workspace_is_refused_and_none_is_armed(server: SandboxServer) -> None:
    for fault in ({"kind": "wrong_workspace", "serve": "nobody"}, {"kind": "switch_workspace", "team": 999}):
        answer = httpx.post(f"{server.base_url}/_sandbox/faults", json=[{"kind": "reset"}, fault])
        assert answer.status_code == 422
        assert fault["kind"] in answer.json()["error"]
    assert httpx.get(f"{server.base_url}/_sandbox/faults").json() == {"faults": []}


@pytest.mark.parametrize(
    "text",
    [
        'faults:\n  - {kind: status, status: 502, path: "/replies*", nth: 2}\n',
        '[{"kind": "status", "status": 502, "path": "/replies*", "nth": 2}]',
    ],
)
def test_a_faults_file_is_yaml_or_json(tmp_path: Path, bison: EmailBisonSandbox, text: str) -> None:
    file = tmp_path / "faults.yaml"
    file.write_text(text)
    faults = read_faults_file(file, known_fault_kinds([bison]))
    assert [describe_fault(fault) for fault in faults] == [
        {"kind": "status", "status": 502, "path": "/replies*", "nth": 2}
    ]


def test_a_faults_file_that_cannot_be_read_says_so(tmp_path: Path, bison: EmailBisonSandbox) -> None:
    (tmp_path / "broken.yaml").write_text("faults: [")
    for name in ("broken.yaml", "missing.yaml"):
        with pytest.raises(FaultFormatError, match=name):
            read_faults_file(tmp_path / name, known_fault_kinds([bison]))


def test_faults_come_and_go_over_http(server: SandboxServer, client: httpx.Client) -> None:
    control = f"{server.base_url}/_sandbox/faults"
    fault: dict[str, Any] = {"kind": "status", "status": 500, "path": "/users"}
    assert httpx.post(control, json={"faults": [fault]}).json() == {"faults": [fault]}
    assert client.get("/users").status_code == 500
    assert httpx.delete(control).json() == {"faults": []}
    assert client.get("/users").status_code == 200
    assert httpx.post(control, content=b"{").status_code == 422
