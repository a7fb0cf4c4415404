"""The seeded world: always the same, and with everything odd that the backfill must survive."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import unicodedata
from collections import Counter
from itertools import pairwise

import pytest

from backfill_pipelines.sandbox.email_bison_data import build_email_bison_world
from backfill_pipelines.sandbox.email_bison_records import EmailBisonWorld, Reply, Workspace

DIGEST = """
import hashlib
from backfill_pipelines.sandbox.email_bison_data import build_email_bison_world
print(hashlib.sha256(repr(build_email_bison_world(seed=5, clients=4, scale=0.1)).encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def full() -> EmailBisonWorld:
    return build_email_bison_world(seed=1)


def workspaces(world: EmailBisonWorld) -> list[Workspace]:
    return [workspace for _, workspace in world.all_workspaces() if workspace.client_key]


def interested(workspace: Workspace) -> list[Reply]:
    return [reply for reply in workspace.replies if reply.interested]


def test_the_same_seed_gives_the_same_bytes_in_another_process() -> None:
    here = repr(build_email_bison_world(seed=5, clients=4, scale=0.1)).encode()
    for hash_seed in ("1", "2"):
        ran = subprocess.run(
            [sys.executable, "-c", DIGEST],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert ran.stdout.strip() == hashlib.sha256(here).hexdigest()


def test_another_seed_gives_another_world() -> None:
    assert build_email_bison_world(seed=1, clients=3, scale=0.1) != build_email_bison_world(
        seed=2, clients=3, scale=0.1
    )


def test_there_are_24_clients_on_two_instances_with_skewed_sizes(full: EmailBisonWorld) -> None:
    sizes = [len(interested(workspace)) for workspace in workspaces(full)]
    assert len(sizes) == 24
    assert (min(sizes), max(sizes)) == (15, 3_000)
    assert 11_000 < sum(sizes) < 13_000
    assert all(len(instance.workspaces) > 5 for instance in full.instances)
    assert all(len(workspace.replies) >= 3 * len(interested(workspace)) for workspace in workspaces(full))


@pytest.mark.parametrize("clients", [1, 2, 3, 24, 40, 200])
def test_any_number_of_clients_has_distinct_names_and_keys(clients: int) -> None:
    world = build_email_bison_world(seed=1, clients=clients, scale=0.001)
    keys = world.client_keys()
    assert len(set(keys)) == len({workspace.name for workspace in workspaces(world)}) == clients
    assert all(re.fullmatch(r"[a-z0-9-]+", key) for key in keys)


def test_sizes_can_be_stated() -> None:
    world = build_email_bison_world(seed=1, clients=2, interested_replies=[0, 9])
    assert [len(interested(workspace)) for workspace in workspaces(world)] == [0, 9]
    with pytest.raises(ValueError, match="1 sizes were given for 2 clients"):
        build_email_bison_world(seed=1, clients=2, interested_replies=[9])


def test_workspace_ids_are_unique_on_an_instance_and_shared_between_the_two(full: EmailBisonWorld) -> None:
    ids = [[workspace.id for workspace in instance.workspaces if workspace.client_key] for instance in full.instances]
    assert all(len(set(each)) == len(each) for each in ids)
    assert set(ids[0]) & set(ids[1])


def test_every_id_belongs_to_one_workspace_of_its_instance(full: EmailBisonWorld) -> None:
    for instance in full.instances:
        for table in ("campaigns", "sender_emails", "leads", "replies"):
            counts = Counter(record.id for workspace in instance.workspaces for record in getattr(workspace, table))
            assert max(counts.values()) == 1
        for workspace in instance.workspaces:
            ids = [reply.id for reply in workspace.replies]
            assert ids == sorted(ids, reverse=True)


def test_no_reply_points_into_another_workspace(full: EmailBisonWorld) -> None:
    for instance in full.instances:
        campaigns = {each.id: workspace.id for workspace in instance.workspaces for each in workspace.campaigns}
        senders = {each.id: workspace.id for workspace in instance.workspaces for each in workspace.sender_emails}
        for workspace in instance.workspaces:
            leads = {lead.id for lead in workspace.leads}
            for reply in workspace.replies:
                assert campaigns.get(reply.campaign_id or 0, workspace.id) == workspace.id
                assert senders.get(reply.sender_email_id or 0, workspace.id) == workspace.id
                assert reply.lead_id is None or reply.lead_id in leads


def test_ids_of_one_workspace_lie_between_those_of_others(full: EmailBisonWorld) -> None:
    big = max(full.instances[0].workspaces, key=lambda workspace: len(workspace.replies))
    ids = [reply.id for reply in big.replies]
    assert ids[0] - ids[-1] > 1.5 * len(ids)


def test_leads_write_once_or_often(full: EmailBisonWorld) -> None:
    for workspace in workspaces(full):
        if len(interested(workspace)) > 100:
            counts = Counter(reply.lead_id for reply in interested(workspace) if reply.lead_id)
            assert max(counts.values()) > 5
            assert 1 in counts.values()


def test_even_a_small_client_has_odd_replies(full: EmailBisonWorld) -> None:
    small = min(workspaces(full), key=lambda workspace: len(workspace.replies))
    leads = {lead.id: lead for lead in small.leads}
    rows = interested(small)
    assert any(reply.lead_id is None for reply in rows)
    assert any(reply.lead_id and reply.from_email_address != leads[reply.lead_id].email for reply in rows)
    assert any(reply.folder == "Spam" for reply in rows)


def test_the_world_has_everything_odd(full: EmailBisonWorld) -> None:
    rows = [(workspace, reply) for workspace in workspaces(full) for reply in interested(workspace)]
    leads = {(workspace.client_key, lead.id): lead for workspace in workspaces(full) for lead in workspace.leads}
    written = [leads[workspace.client_key, reply.lead_id] for workspace, reply in rows if reply.lead_id]
    addresses = {lead.email for lead in written} | {reply.from_email_address for _, reply in rows}
    for broken in ("not-an-address", "", None):
        assert broken in addresses
    spelled = [address for address in addresses if address]
    assert any(address != address.strip() for address in spelled)
    assert any(address.strip() != address.strip().lower() for address in spelled)
    campaigns = {workspace.client_key: {each.id for each in workspace.campaigns} for workspace in workspaces(full)}
    gone = [
        reply
        for workspace, reply in rows
        if reply.campaign_id and reply.campaign_id not in campaigns[workspace.client_key]
    ]
    assert len(gone) > 50
    assert {reply.sender_email_id is None for reply in gone} == {True, False}
    untracked = [reply for _, reply in rows if reply.lead_id is None]
    assert all(reply.campaign_id is None for reply in untracked)
    assert any(reply.sender_email_id is None for reply in untracked)
    assert any(reply.from_name is None for reply in untracked)
    assert any("\x00" in (reply.from_name or "") for reply in untracked)
    assert any("\x00" in (lead.first_name or "") for lead in written)
    assert any("\x1f" in (lead.company or "") for lead in written)
    assert any(lead.campaign_status == "sequence_stopped" for lead in written)
    labels = {name for lead in written for name, _ in lead.custom_variables}
    assert {"Phone", "phone number", "Cell Phone", "mobile", "telephone"} <= labels
    assert any(value == "" for lead in written for _, value in lead.custom_variables)


def test_names_come_in_every_script(full: EmailBisonWorld) -> None:
    text = "".join(lead.first_name or "" for workspace in workspaces(full) for lead in workspace.leads)
    text += "".join(lead.last_name or "" for workspace in workspaces(full) for lead in workspace.leads)
    scripts = {unicodedata.name(character, "").partition(" ")[0] for character in set(text)}
    assert {
        "LATIN",
        "CYRILLIC",
        "ARABIC",
        "CJK",
        "DEVANAGARI",
        "HEBREW",
        "GREEK",
        "THAI",
        "HANGUL",
        "COMBINING",
    } <= scripts
    assert "🙂" in text
    assert {'"', ",", "'", "\\", ";"} <= set(text)


def test_one_person_is_a_lead_of_two_workspaces_under_two_ids(full: EmailBisonWorld) -> None:
    found = {
        (instance.name, lead.id)
        for instance, workspace in full.all_workspaces()
        for lead in workspace.leads
        if lead.email == "shared.6@crossroads.example"
    }
    assert len(found) == 24
    assert {name for name, _ in found} == {"main", "second"}


def test_dates_mostly_grow_with_ids_but_not_always(full: EmailBisonWorld) -> None:
    dates = [reply.received_at for reply in workspaces(full)[0].replies]
    out_of_order = sum(newer < older for newer, older in pairwise(dates))
    assert 0 < out_of_order < len(dates) / 5
    assert any(date % 1_000_000 for date in dates)
    assert any(not date % 1_000_000 for date in dates)
