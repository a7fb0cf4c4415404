"""The seeded Clerk instances: always the same, and with something in them for every rule of the backfills."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backfill_pipelines.sandbox.clerk_data import (
    ClerkInstance,
    ClerkUser,
    build_clerk_instance,
    build_clerk_world,
    companies_of,
    company_domain,
)
from backfill_pipelines.sandbox.clerk_state import ClerkInstanceState

INSTANCE = build_clerk_instance(seed=5, users=600)
USERS = list(INSTANCE.seeded_users())


def primary(user: ClerkUser) -> str | None:
    return next((each.address for each in user.emails if each.id == user.primary_email_id), None)


def domain_of(address: str) -> str:
    return address.rpartition("@")[2].lower()


# --- always the same --------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_world() -> None:
    one = build_clerk_world(seed=9, users=200, workspaces=("acme", "umber"))
    again = build_clerk_world(seed=9, users=200, workspaces=("acme", "umber"))
    assert one == again
    assert list(one.instance("umber").seeded_users()) == list(again.instance("umber").seeded_users())
    other = build_clerk_world(seed=10, users=200, workspaces=("acme", "umber"))
    assert one.instance("acme").user_id(0) != other.instance("acme").user_id(0)
    with pytest.raises(KeyError):
        one.instance("nobody")


def test_the_instances_of_a_world_share_no_key_and_no_id() -> None:
    acme, umber = build_clerk_world(seed=9, users=50, workspaces=("acme", "umber"), environment="test").instances
    assert (acme.key, umber.key) == ("acme", "umber")
    assert acme.secret_key != umber.secret_key
    assert acme.secret_key.startswith("sk_test_")
    assert (acme.live, build_clerk_instance(seed=1, users=1).live) == (False, True)
    assert {acme.user_id(each) for each in range(50)}.isdisjoint(umber.user_id(each) for each in range(50))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), users=st.integers(0, 300))
def test_users_are_in_the_order_of_their_creation_and_known_by_their_ids(seed: int, users: int) -> None:
    instance = build_clerk_instance(seed=seed, users=users)
    seeded = list(instance.seeded_users())
    assert [(each.created_at, each.id) for each in seeded] == sorted((each.created_at, each.id) for each in seeded)
    assert [instance.user_number(each.id) for each in seeded] == list(range(users))
    assert len({each.id for each in seeded}) == users
    later = instance.user_id(users + 7)
    assert instance.user_number(later) == users + 7
    for foreign in ("user_1", "", "user_2zzzzzzzz", later[:-1], later + "0", later[:-1] + "!", "org_200000001"):
        assert instance.user_number(foreign) is None


@pytest.mark.parametrize("memberships", [0, 1, 500, 4_000])
def test_a_size_can_be_asked_for_exactly(memberships: int) -> None:
    instance = build_clerk_instance(seed=5, users=1_000, memberships=memberships)
    pairs = {(each.user_number, each.organization_number) for each in instance.memberships}
    assert len(instance.memberships) == len(pairs) == memberships
    assert all(user < 1_000 and organization < len(instance.organizations) for user, organization in pairs)


def test_more_memberships_than_pairs_there_are_not() -> None:
    with pytest.raises(ValueError, match="cannot make 1000 memberships"):
        build_clerk_instance(seed=5, users=3, memberships=1_000)


def test_a_large_instance_takes_no_room_for_its_users() -> None:
    instance = build_clerk_instance(seed=5, users=100_000, memberships=10)
    assert instance.user(99_999).id == instance.user_id(99_999)
    assert len(ClerkInstanceState(instance).users) == 100_000


# --- something for every rule -----------------------------------------------------------------------------------------


def test_nobodys_address_is_anybodys() -> None:
    for user in USERS:
        for email in user.emails:
            local, _, domain = email.address.lower().rpartition("@")
            if domain == "gmail.com":
                assert "_" in local  # no address at Gmail holds one
            else:
                assert domain.endswith((".example", ".test"))


def test_a_small_instance_has_every_kind_of_user() -> None:
    assert any(not user.emails and user.primary_email_id is None for user in USERS)
    unset = [user for user in USERS if user.emails and user.primary_email_id is None]
    assert unset
    assert all([each.status for each in user.emails][:2] == ["unverified", "verified"] for user in unset)
    assert {email.status for user in USERS for email in user.emails} == {
        "verified",
        "unverified",
        "failed",
        "expired",
        None,
    }
    assert {email.strategy for user in USERS for email in user.emails} == {"email_code", "from_oauth_google"}
    assert any(primary(user) and user.emails[0].status == "unverified" for user in USERS)
    assert any(user.first_name is None for user in USERS)
    assert any(user.last_name is None for user in USERS)
    assert any(user.first_name is None and user.last_name is None for user in USERS)
    for flag in ("banned", "locked", "deprovisioned"):
        assert {getattr(user, flag) for user in USERS} == {True, False}
    assert any(user.username is None for user in USERS)
    assert any(user.image_url is None for user in USERS)
    assert any(user.last_sign_in_at is None and user.last_active_at is None for user in USERS)
    assert any(not (user.first_name or "").isascii() for user in USERS)
    assert any(email.address.isupper() for user in USERS for email in user.emails)


def test_some_users_came_in_the_same_millisecond_and_some_claim_anothers_address() -> None:
    at_once = Counter(user.created_at for user in USERS)
    assert max(at_once.values()) == 600 // 25
    assert len([moment for moment, count in at_once.items() if count == 2]) > 10
    verified = {email.address for user in USERS for email in user.emails if email.status == "verified"}
    claimed = [each.address for user in USERS for each in user.emails[1:] if each.status == "unverified"]
    assert verified & set(claimed)
    assert all(active is None or active % 86_400_000 == 0 for active in (user.last_active_at for user in USERS))


def test_addresses_are_at_companies_of_all_sizes_their_subdomains_and_gmail() -> None:
    people = Counter(domain_of(address) for user in USERS if (address := primary(user)))
    assert people["gmail.com"] > 20
    sizes = [people[company_domain(each)] for each in range(companies_of(600))]
    assert max(sizes) > 20
    assert 1 in sizes
    assert any(domain.startswith("mail.") for domain in people)
    assert any(not domain.isascii() for domain in people)
    assert any(domain.startswith("xn--") for domain in people)
    assert {domain.rpartition(".")[2] for domain in people} == {"example", "test", "com"}


def test_companies_have_several_organizations_one_or_none_and_share_some() -> None:
    organizations: defaultdict[str, set[int]] = defaultdict(set)
    for membership in INSTANCE.memberships:
        address = primary(INSTANCE.user(membership.user_number))
        if address:
            organizations[domain_of(address)].add(membership.organization_number)
    assert any(len(each) > 3 for each in organizations.values())
    domains = {domain_of(address) for user in USERS if (address := primary(user))}
    assert domains - organizations.keys()
    shared = Counter(each for numbers in organizations.values() for each in numbers)
    assert any(count > 1 for count in shared.values())


def test_there_are_personal_organizations_and_empty_ones() -> None:
    state = ClerkInstanceState(INSTANCE)
    personal = [each for each in INSTANCE.organizations if each.name.endswith("'s workspace")]
    assert len(personal) == 60
    assert {state.members[each.number] for each in personal} == {1}
    empty = [each for each in INSTANCE.organizations if each.name.endswith("(unused)")]
    assert empty
    assert {state.members[each.number] for each in empty} == {0}
    assert [each.number for each in INSTANCE.organizations] == list(range(len(INSTANCE.organizations)))


# --- what changes -----------------------------------------------------------------------------------------------------


def test_users_come_last_and_take_their_memberships_with_them() -> None:
    state = ClerkInstanceState(INSTANCE)
    [new] = state.create_users()
    assert state.user_ids()[-1] == new
    assert state.user(600).created_at > USERS[-1].created_at
    organization = state.create_organization("Umber Books", members=[new, USERS[0].id])
    assert state.organizations[-1].id == organization
    assert state.members[state.organizations[-1].number] == 2
    state.delete_users([new])
    assert state.members[state.organizations[-1].number] == 1
    assert new not in state.user_ids()
    for gone in (lambda: state.delete_users([new]), lambda: state.create_membership(new, organization)):
        with pytest.raises(KeyError):
            gone()
    with pytest.raises(KeyError):
        state.create_membership(USERS[0].id, "org_none")
    state.reset()
    assert state.user_ids() == [user.id for user in USERS]
    assert len(state.organizations) == len(INSTANCE.organizations)


def test_a_certain_user_can_be_made_by_hand() -> None:
    state = ClerkInstanceState(build_clerk_instance(seed=5, users=0))
    state.create_user([("ada@alder.example", "verified"), ("b@alder.example", None)], first_name="Ada", banned=True)
    [number] = state.users
    user = state.user(number)
    assert (user.first_name, user.banned, primary(user)) == ("Ada", True, "ada@alder.example")
    assert [each.status for each in user.emails] == ["verified", None]
    state.create_user()
    assert state.user(state.users[-1]).emails == ()


def test_the_oldest_go_first() -> None:
    state = ClerkInstanceState(INSTANCE)
    state.delete_oldest_users(3)
    assert state.user_ids() == [user.id for user in USERS[3:]]
    before = state.membership_ids()
    state.delete_oldest_memberships(2)
    state.delete_memberships([before[5]])
    assert state.membership_ids() == [*before[2:5], *before[6:]]
    assert sum(state.members.values()) == len(before) - 3


def test_equal_arguments_make_equal_instances_whatever_was_done_to_a_state() -> None:
    again: ClerkInstance = build_clerk_instance(seed=5, users=600)
    assert again == INSTANCE
