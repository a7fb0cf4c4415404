"""The fake Email Bison over a real socket, held to the vendor's documentation."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from backfill_pipelines.sandbox.email_bison import EmailBisonSandbox
from backfill_pipelines.sandbox.email_bison_data import build_email_bison_world
from backfill_pipelines.sandbox.email_bison_records import EmailBisonWorld
from backfill_pipelines.sandbox.server import SandboxServer
from backfill_pipelines.sandbox.traffic import RateLimit
from backfill_pipelines_tests.sandbox.conftest import AMBER, BIRCHWOOD, CAFE, Connect

FOREIGN = "This action is unauthorized. The api key does not match the workspace the record is on."


def read_all(client: httpx.Client, path: str, **query: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    page, last = 1, 1
    while page <= last:
        document = client.get(path, params={**query, "page": str(page)}).raise_for_status().json()
        rows += document["data"]
        last = document["meta"]["last_page"]
        page += 1
    return rows


def interested_ids(world: EmailBisonWorld, client_key: str) -> list[int]:
    return [reply.id for reply in world.client(client_key)[1].replies if reply.interested]


# --- tokens and workspaces -------------------------------------------------------------------------------------------


def test_an_unknown_token_is_unauthenticated(client_of: Connect) -> None:
    client = client_of(AMBER)
    for headers in ({"Authorization": "Bearer 1|wrong"}, {"Authorization": ""}):
        answer = client.get("/users", headers=headers)
        assert (answer.status_code, answer.json()) == (401, {"message": "Unauthenticated."})


def test_a_token_of_one_instance_is_unknown_on_the_other(world: EmailBisonWorld, client_of: Connect) -> None:
    foreign = world.client(BIRCHWOOD)[1].token
    answer = client_of(AMBER).get("/users", headers={"Authorization": f"Bearer {foreign}"})
    assert answer.status_code == 401


def test_users_names_the_workspace_of_an_api_user_token(world: EmailBisonWorld, client_of: Connect) -> None:
    workspace = world.client(AMBER)[1]
    team = client_of(AMBER).get("/users").json()["data"]["team"]
    assert (team["id"], team["name"]) == (workspace.id, workspace.name)


@pytest.mark.parametrize(("says", "keys"), [("team", {"team"}), ("workspace", {"workspace"}), ("neither", set())])
def test_users_can_answer_with_team_workspace_or_neither(world: EmailBisonWorld, says: Any, keys: set[str]) -> None:
    with SandboxServer([EmailBisonSandbox(world, users_answer=says)]) as server:
        url = server.account_urls("email-bison")["main"]
        data = httpx.get(f"{url}/users", headers={"Authorization": f"Bearer {world.client(AMBER)[1].token}"}).json()[
            "data"
        ]
    assert {"team", "workspace"} & data.keys() == keys


def test_users_can_answer_with_the_workspace_the_owner_stands_in(world: EmailBisonWorld) -> None:
    vendor = EmailBisonSandbox(world, users_answer="owner_team")
    with SandboxServer([vendor]) as server:
        url = server.account_urls("email-bison")["main"]
        vendor.state.switch_workspace("main", world.client(CAFE)[1].id)
        answer = httpx.get(f"{url}/users", headers={"Authorization": f"Bearer {world.client(AMBER)[1].token}"})
    assert answer.json()["data"]["team"]["id"] == world.client(CAFE)[1].id


def test_a_switch_is_seen_by_another_session_of_the_same_user(
    world: EmailBisonWorld, admin: httpx.Client, browser: httpx.Client
) -> None:
    target = world.client(AMBER)[1]
    answer = admin.post("/workspaces/v1.1/switch-workspace", json={"team_id": target.id})
    assert answer.json()["data"]["name"] == target.name
    assert browser.get("/users").json()["data"]["team"]["id"] == target.id
    assert browser.get("/replies?status=interested&folder=all").json()["meta"]["total"] == 45


def test_a_switch_does_not_move_an_api_user_token(
    world: EmailBisonWorld, admin: httpx.Client, client_of: Connect
) -> None:
    admin.post("/workspaces/v1.1/switch-workspace", json={"team_id": world.client(CAFE)[1].id})
    assert client_of(AMBER).get("/users").json()["data"]["team"]["id"] == world.client(AMBER)[1].id


def test_a_switch_does_not_reach_the_other_instance(
    world: EmailBisonWorld, admin: httpx.Client, bison: EmailBisonSandbox
) -> None:
    admin.post("/workspaces/v1.1/switch-workspace", json={"team_id": world.client(CAFE)[1].id})
    assert bison.state.current_team("second") == 1


@pytest.mark.parametrize("body", [{"workspace_id": 4}, {}, {"team_id": "4"}, {"team_id": True}, [4]])
def test_a_wrong_switch_body_is_422_and_switches_nothing(admin: httpx.Client, body: object) -> None:
    before = admin.get("/users").json()["data"]["team"]["id"]
    answer = admin.post("/workspaces/v1.1/switch-workspace", json=body)
    assert answer.status_code == 422
    assert answer.json()["message"] == "The given data was invalid."
    assert "team_id" in answer.json()["errors"]
    assert admin.get("/users").json()["data"]["team"]["id"] == before


def test_an_api_user_token_can_neither_switch_nor_mint(world: EmailBisonWorld, client_of: Connect) -> None:
    client, team_id = client_of(AMBER), world.client(AMBER)[1].id
    for path, body in (("switch-workspace", {"team_id": team_id}), (f"{team_id}/api-tokens", {"name": "backfill"})):
        answer = client.post(f"/workspaces/v1.1/{path}", json=body)
        assert answer.status_code == 403
        assert answer.json()["data"]["success"] is False


def test_a_minted_token_serves_its_workspace_without_a_switch(
    world: EmailBisonWorld, admin: httpx.Client, connect: Any
) -> None:
    workspace = world.client(CAFE)[1]
    before = admin.get("/users").json()
    minted = admin.post(f"/workspaces/v1.1/{workspace.id}/api-tokens", json={"name": "backfill"}).json()["data"]
    assert minted["plain_text_token"].startswith(f"{minted['id']}|")
    assert minted["plain_text_token"].partition("|")[2] not in minted["token_hash"]
    assert admin.get("/users").json() == before
    assert connect("main", minted["plain_text_token"]).get("/users").json()["data"]["team"]["id"] == workspace.id


def test_minting_needs_a_name_and_an_existing_workspace(world: EmailBisonWorld, admin: httpx.Client) -> None:
    workspace_id = world.client(CAFE)[1].id
    assert admin.post(f"/workspaces/v1.1/{workspace_id}/api-tokens", json={}).status_code == 422
    assert admin.post("/workspaces/v1.1/9999/api-tokens", json={"name": "backfill"}).status_code == 404


def test_the_admin_sees_all_workspaces_and_an_api_user_only_its_own(
    world: EmailBisonWorld, admin: httpx.Client, client_of: Connect
) -> None:
    ids = [workspace.id for workspace in world.instances[0].workspaces]
    for path in ("/workspaces", "/workspaces/v1.1"):
        assert [row["id"] for row in read_all(admin, path)] == ids
    own = world.client(AMBER)[1].id
    assert [row["id"] for row in read_all(client_of(AMBER), "/workspaces/v1.1")] == [own]
    assert client_of(AMBER).get(f"/workspaces/v1.1/{own}").json()["data"]["name"] == "Amber Ridge Roofing"
    assert client_of(AMBER).get(f"/workspaces/v1.1/{world.client(CAFE)[1].id}").status_code == 403


# --- pages and filters -----------------------------------------------------------------------------------------------


def test_a_page_has_15_rows_whatever_is_asked(client_of: Connect) -> None:
    query = {"status": "interested", "folder": "all", "per_page": "100", "limit": "100", "page": "2"}
    document = client_of(AMBER).get("/replies", params=query).json()
    assert len(document["data"]) == 15
    meta = document["meta"]
    assert (meta["current_page"], meta["last_page"], meta["per_page"], meta["total"]) == (2, 3, 15, 45)
    assert (meta["from"], meta["to"]) == (16, 30)
    assert document["links"].keys() == {"first", "last", "prev", "next"}
    assert document["links"]["next"].endswith("/api/replies?page=3")
    assert [link["label"] for link in meta["links"]] == ["&laquo; Previous", "1", "2", "3", "Next &raquo;"]


def test_all_pages_together_are_every_interested_reply_newest_first(world: EmailBisonWorld, client_of: Connect) -> None:
    rows = read_all(client_of(AMBER), "/replies", status="interested", folder="all")
    assert [row["id"] for row in rows] == interested_ids(world, AMBER)
    assert all(row["interested"] is True for row in rows)
    assert not any("workspace" in key or "team" in key for row in rows for key in row)


def test_a_page_after_the_last_is_empty(client_of: Connect) -> None:
    document = client_of(AMBER).get("/replies?status=interested&folder=all&page=9").json()
    assert (document["data"], document["meta"]["from"], document["meta"]["to"]) == ([], None, None)
    assert document["meta"]["last_page"] == 3


def test_an_empty_list_has_one_page(admin: httpx.Client) -> None:
    document = admin.get("/replies?status=interested&folder=all").json()
    assert (document["data"], document["meta"]["last_page"], document["meta"]["total"]) == ([], 1, 0)


def test_an_unknown_filter_is_silently_ignored(world: EmailBisonWorld, client_of: Connect) -> None:
    everything = len(world.client(AMBER)[1].replies)
    for query in ({"interested": "1"}, {"date_from": "2026-01-01"}, {"filters[tag_ids][]": "3"}):
        answer = client_of(AMBER).get("/replies", params={"folder": "all", **query})
        assert answer.status_code == 200
        assert answer.json()["meta"]["total"] == everything


def test_an_unknown_value_of_a_known_filter_is_422(client_of: Connect) -> None:
    answer = client_of(AMBER).get("/replies?status=hot")
    assert (answer.status_code, answer.json()["errors"]) == (422, {"status": ["The selected status is invalid."]})


def test_without_a_folder_only_the_inbox_is_listed(client_of: Connect) -> None:
    client = client_of(AMBER)
    inbox = read_all(client, "/replies", status="interested")
    assert {row["folder"] for row in inbox} == {"Inbox"}
    assert len(inbox) < 45


def test_each_filter_chooses_by_its_field(world: EmailBisonWorld, client_of: Connect) -> None:
    client, replies = client_of(AMBER), world.client(AMBER)[1].replies
    tracked = next(reply for reply in replies if reply.lead_id is not None and reply.sender_email_id is not None)
    choices = {
        "status=automated_reply": lambda reply: reply.automated,
        "status=not_automated_reply": lambda reply: not reply.automated,
        "read=true": lambda reply: reply.read,
        "read=0": lambda reply: not reply.read,
        f"campaign_id={tracked.campaign_id}": lambda reply: reply.campaign_id == tracked.campaign_id,
        f"lead_id={tracked.lead_id}": lambda reply: reply.lead_id == tracked.lead_id,
        f"sender_email_id={tracked.sender_email_id}": lambda reply: reply.sender_email_id == tracked.sender_email_id,
        "search=FRONTDESK": lambda reply: "frontdesk" in (reply.from_email_address or ""),
    }
    for query, holds in choices.items():
        total = client.get(f"/replies?folder=all&{query}").json()["meta"]["total"]
        assert total == sum(map(holds, replies)) > 0, query


def test_replies_are_listed_below_campaign_lead_and_sender(world: EmailBisonWorld, client_of: Connect) -> None:
    client, workspace = client_of(AMBER), world.client(AMBER)[1]
    own = {campaign.id for campaign in workspace.campaigns}
    tracked = next(reply for reply in workspace.replies if reply.campaign_id in own and reply.sender_email_id)
    for path, field in (("campaigns", "campaign_id"), ("leads", "lead_id"), ("sender-emails", "sender_email_id")):
        value = getattr(tracked, field)
        rows = read_all(client, f"/{path}/{value}/replies", folder="all")
        assert [row["id"] for row in rows] == [
            reply.id for reply in workspace.replies if getattr(reply, field) == value
        ]


def test_leads_are_found_by_search_and_by_campaign_status(world: EmailBisonWorld, client_of: Connect) -> None:
    client, leads = client_of(AMBER), world.client(AMBER)[1].leads
    replied = read_all(client, "/leads", **{"filters[lead_campaign_status]": "replied"})
    assert [row["id"] for row in replied] == [lead.id for lead in reversed(leads) if lead.campaign_status == "replied"]
    assert all(row["lead_campaign_data"][0]["status"] == "replied" for row in replied)
    address = next(lead.email for lead in leads if lead.email and "crossroads" in lead.email)
    assert [row["email"] for row in read_all(client, "/leads", search=address.upper())] == [address]
    assert len(read_all(client, "/leads")) == len(leads)


def test_a_lead_carries_its_custom_variables_as_they_were_typed(world: EmailBisonWorld, client_of: Connect) -> None:
    lead = next(lead for lead in world.client(AMBER)[1].leads if len(lead.custom_variables) > 1)
    row = client_of(AMBER).get(f"/leads/{lead.id}").json()["data"]
    assert row["custom_variables"] == [{"name": name, "value": value} for name, value in lead.custom_variables]
    assert (row["email"], row["first_name"], row["company"]) == (lead.email, lead.first_name, lead.company)


def test_campaigns_and_senders_are_listed_and_shown(world: EmailBisonWorld, client_of: Connect) -> None:
    client, workspace = client_of(AMBER), world.client(AMBER)[1]
    assert [row["id"] for row in read_all(client, "/campaigns")] == [each.id for each in reversed(workspace.campaigns)]
    senders = read_all(client, "/sender-emails")
    assert [row["id"] for row in senders] == [each.id for each in reversed(workspace.sender_emails)]
    assert client.get(f"/sender-emails/{senders[0]['id']}").json()["data"] == senders[0]
    campaign = workspace.campaigns[0]
    assert client.get(f"/campaigns/{campaign.id}").json()["data"]["name"] == campaign.name


# --- errors ----------------------------------------------------------------------------------------------------------


def test_another_workspaces_record_is_403_and_an_unknown_one_404(world: EmailBisonWorld, client_of: Connect) -> None:
    client, foreign = client_of(AMBER), world.client(CAFE)[1]
    paths = {
        "replies": (foreign.replies[0].id, "reply"),
        "leads": (foreign.leads[0].id, "lead"),
        "campaigns": (foreign.campaigns[0].id, "campaign"),
        "sender-emails": (foreign.sender_emails[0].id, "sender_email"),
    }
    for path, (foreign_id, model) in paths.items():
        forbidden = client.get(f"/{path}/{foreign_id}")
        assert (forbidden.status_code, forbidden.json()) == (403, {"data": {"success": False, "message": FOREIGN}})
        missing = client.get(f"/{path}/999999")
        body = {"success": False, "message": "Record not found.", "record_not_found": {model: "999999"}}
        assert (missing.status_code, missing.json()) == (404, {"data": body})


def test_an_unknown_route_is_named_in_its_404(client_of: Connect) -> None:
    answer = client_of(AMBER).get("/webhooks")
    assert (answer.status_code, answer.json()) == (404, {"message": "The route api/webhooks could not be found."})


# --- the quota -------------------------------------------------------------------------------------------------------


def test_the_window_is_enforced_per_instance_and_told_in_headers() -> None:
    world = build_email_bison_world(seed=2, clients=2, interested_replies=[16, 16])
    now = [1_800_000_000.0]
    vendor = EmailBisonSandbox(world, rate_limit=RateLimit(3, 60), clock=lambda: now[0])
    with SandboxServer([vendor]) as server:
        urls = server.account_urls("email-bison")
        tokens = {world.client(key)[0].name: world.client(key)[1].token for key in world.client_keys()}

        def call(instance: str) -> httpx.Response:
            return httpx.get(
                f"{urls[instance]}/users", headers={"Authorization": f"Bearer {tokens[instance]}"}, verify=False
            )

        remaining = []
        for _ in range(3):
            answer = call("main")
            remaining.append((answer.status_code, answer.headers["X-RateLimit-Remaining"]))
            now[0] += 1
        assert remaining == [(200, "2"), (200, "1"), (200, "0")]
        refused = call("main")
        assert (refused.status_code, refused.json()) == (429, {"error": "rate_limited", "retry_after": 57})
        assert refused.headers["Retry-After"] == "57"
        assert refused.headers["X-RateLimit-Limit"] == "3"
        assert refused.headers["X-RateLimit-Reset"] == str(int(now[0]) + 57)
        assert call("second").status_code == 200
        now[0] += 57
        assert call("main").status_code == 200
        assert call("main").status_code == 429


def test_every_answer_tells_the_quota(client_of: Connect) -> None:
    client = client_of(AMBER)
    for path in ("/users", "/campaigns/999999", "/replies?status=hot", "/webhooks"):
        assert client.get(path).headers["X-RateLimit-Limit"] == "3000"
