"""The seeded workspaces of the fake Attio: who is in them, given who uses the product."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from backfill_pipelines.sandbox.attio_data import ProductUser, build_attio_workspace, invent_users
from backfill_pipelines.sandbox.attio_records import COMPANIES, PEOPLE, AttioWorkspace
from backfill_pipelines.sandbox.attio_state import AttioState, OpenQuestions

USERS = invent_users(900, seed=5)
WORKSPACE = build_attio_workspace(seed=5, key="lanternfish", users=USERS, other_people=30)


def what_the_crm_knows(workspace: AttioWorkspace, user: ProductUser) -> str:
    """How a user's addresses and id stand in the workspace, said without any rule of a backfill."""
    by_address = {address.lower(): each for each in workspace.people for address in each.addresses}
    primary = by_address.get(user.addresses[0].lower())
    others = {each.record_id for address in user.addresses[1:] if (each := by_address.get(address.lower()))}
    id_elsewhere = any(each.user_id == user.id and each is not primary for each in workspace.people)
    if primary is None:
        if id_elsewhere:
            return "nobody, and the id is elsewhere"
        return ("nobody", "one by another address", "several by other addresses")[min(len(others), 2)]
    if id_elsewhere:
        return "one, and the id is elsewhere"
    if primary.user_id is not None:
        return "has the id" if primary.user_id == user.id else "has another id"
    return "one without an id"


def test_the_same_arguments_make_the_same_bytes_and_another_seed_others() -> None:
    again = build_attio_workspace(seed=5, key="lanternfish", users=invent_users(900, seed=5), other_people=30)
    assert repr(again) == repr(WORKSPACE)
    other = build_attio_workspace(seed=6, key="lanternfish", users=USERS, other_people=30)
    assert {other.id, other.token}.isdisjoint({WORKSPACE.id, WORKSPACE.token})
    assert {each.record_id for each in other.people}.isdisjoint(each.record_id for each in WORKSPACE.people)


def test_every_way_to_know_a_user_occurs() -> None:
    known = Counter(what_the_crm_knows(WORKSPACE, user) for user in USERS)
    assert known.keys() == {
        "nobody",
        "nobody, and the id is elsewhere",
        "one by another address",
        "several by other addresses",
        "one, and the id is elsewhere",
        "has the id",
        "has another id",
        "one without an id",
    }
    assert known["nobody"] > 200 < known["one without an id"]
    owners = Counter(user.addresses[0] for user in USERS)
    shared = [each for each in WORKSPACE.people if sum(address.lower() in owners for address in each.addresses) > 1]
    assert shared
    assert any(address != address.lower() for each in WORKSPACE.people for address in each.addresses)
    assert any(not each.addresses for each in WORKSPACE.people)
    assert len({each.created_at for each in WORKSPACE.people}) < len(WORKSPACE.people)


def test_companies_are_the_users_domains_and_some_odd_ones() -> None:
    domains = {address.rpartition("@")[2] for user in USERS for address in user.addresses}
    of_users = [each for each in WORKSPACE.companies if domains & set(each.domains)]
    assert 0 < len(of_users) < len(domains)
    assert {each.org_id is None for each in of_users} == {True, False}
    assert any(len(each.domains) > 1 for each in of_users)
    others = [each.domains for each in WORKSPACE.companies if not domains & set(each.domains)]
    assert () in others
    assert ("gmail.com",) in others
    assert ("xn--bcher-vogelsang-vob.example",) in others


def test_a_workspace_can_lack_the_custom_attributes_and_the_scopes() -> None:
    seeded = build_attio_workspace(seed=1, key="bare", users=USERS[:9], scopes=("x:read",), custom_attributes=False)
    state = AttioState([seeded], questions=OpenQuestions(), clock=lambda: 0.0)
    assert state.tokens[seeded.token].scopes == {"x:read"}
    assert "user_id" not in state.workspaces["bare"].tables[PEOPLE].attributes
    assert "org_id" not in state.workspaces["bare"].tables[COMPANIES].attributes


ADDRESSES = st.one_of(
    st.emails(domains=st.sampled_from(["alder.example", "mail.alder.example", "finch.test"])),
    st.text(max_size=8),
    st.sampled_from(["", "@", "a@", "@b.example", "a@b", "two@at@alder.example", "ADA@ALDER.EXAMPLE"]),
)
PRODUCT_USERS = st.builds(
    ProductUser,
    id=st.uuids().map(lambda each: f"user_{each.hex}"),
    addresses=st.lists(ADDRESSES, max_size=3).map(tuple),
    first_name=st.none() | st.text(max_size=5),
    last_name=st.none() | st.text(max_size=5),
)


@settings(max_examples=60)
@given(st.lists(PRODUCT_USERS, max_size=40), st.integers(0, 5))
def test_any_users_make_a_workspace_that_attio_itself_would_accept(users: list[ProductUser], others: int) -> None:
    seeded = build_attio_workspace(seed=1, key="any", users=users, other_people=others, other_companies=others)
    ids = [each.record_id for each in (*seeded.people, *seeded.companies)]
    addresses = [address.lower() for each in seeded.people for address in each.addresses]
    domains = [domain for each in seeded.companies for domain in each.domains]
    for unique in (ids, addresses, domains):
        assert len(unique) == len(set(unique))
    assert sorted(each.created_at for each in seeded.people) == [each.created_at for each in seeded.people]
    state = AttioState([seeded], questions=OpenQuestions(), clock=lambda: 1.0).workspaces["any"]
    for person in seeded.people:
        assert state.contents(PEOPLE, person.record_id, "email_addresses") == list(person.addresses)
