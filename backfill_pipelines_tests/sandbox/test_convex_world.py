"""The seeded deployment: rows that came from the fake Clerk's users, and how they differ from them."""

from __future__ import annotations

from collections import Counter
from typing import Any

from backfill_pipelines.sandbox.clerk_data import ClerkUser, build_clerk_instance
from backfill_pipelines.sandbox.convex_data import (
    FIELDS,
    ConvexDeployment,
    build_convex_deployment,
    deployment_of,
    profile_of,
)
from backfill_pipelines.sandbox.convex_state import ConvexDeploymentState
from backfill_pipelines_tests.sandbox.convex_rig import CLERK, DEPLOYMENT

USERS = {user.id: user for user in CLERK.seeded_users()}


def documents(deployment: ConvexDeployment = DEPLOYMENT) -> list[dict[str, Any]]:
    return [dict(each) for each in deployment.tables[0].documents]


def differs(document: dict[str, Any], user: ClerkUser) -> bool:
    """Whether a value that Clerk has is not the row's: what Clerk has not may be anything."""
    return any(document.get(name) != value for name, value in profile_of(user).items() if value is not None)


def test_the_same_seed_gives_the_same_deployment() -> None:
    again = build_convex_deployment(seed=5, users=build_clerk_instance(seed=5, users=200).seeded_users())
    assert again == DEPLOYMENT
    other = build_convex_deployment(seed=6, users=CLERK.seeded_users())
    assert other.deploy_key != DEPLOYMENT.deploy_key
    assert not {each["_id"] for each in documents(other)} & {each["_id"] for each in documents()}


def test_four_of_five_users_have_a_row_and_a_quarter_of_the_rows_differs() -> None:
    exact = build_convex_deployment(seed=5, users=CLERK.seeded_users(), duplicates=0, gone=0)
    rows = documents(exact)
    assert len(rows) == len({each["clerkId"] for each in rows}) == 160
    assert sum(differs(each, USERS[each["clerkId"]]) for each in rows) == 40


def test_some_users_have_two_rows_and_some_rows_no_user() -> None:
    rows = Counter(each["clerkId"] for each in documents())
    assert len(documents()) == 160 + 3 + 5
    assert sum(count > 1 for count in rows.values()) == 3
    assert sum(clerk_id not in USERS for clerk_id in rows) == 5


def test_where_clerk_has_nothing_a_row_has_null_or_nothing_or_something_left_over() -> None:
    found: Counter[str] = Counter()
    for document in documents():
        user = USERS.get(document["clerkId"])
        for name, value in profile_of(user).items() if user else ():
            if value is None:
                held = document.get(name, "absent")
                found["absent" if held == "absent" else "null" if held is None else "left over"] += 1
    assert min(found[each] for each in ("absent", "null", "left over")) >= 3


def test_rows_differ_in_every_way() -> None:
    ways: Counter[tuple[str, str]] = Counter()
    for document in documents():
        user = USERS.get(document["clerkId"])
        for name, value in profile_of(user).items() if user else ():
            held = document.get(name, "absent")
            if value is not None and held != value:
                ways[name, held if held in ("absent", None) else "other"] += 1
    assert {name for name, _ in ways} == set(FIELDS)
    assert {way for _, way in ways} == {"absent", None, "other"}


def test_documents_look_like_convex_documents() -> None:
    rows = documents()
    assert all(len(each["_id"]) == 32 and each["_id"].isalnum() and each["_id"].islower() for each in rows)
    times = [each["_creationTime"] for each in rows]
    assert times == sorted(set(times))
    assert not any(type(value) is int for each in rows for value in each.values())
    assert all({"role", "credits", "settings"} <= each.keys() for each in rows if each["clerkId"] in USERS)


def test_keys_look_like_deploy_keys() -> None:
    keys = [DEPLOYMENT.deploy_key, DEPLOYMENT.read_only_key, DEPLOYMENT.powerless_key]
    assert len(set(keys)) == 3
    assert all(each.startswith(f"prod:{DEPLOYMENT.name}|") for each in keys)


def test_what_people_do_is_seen_by_the_index_and_undone_by_a_reset() -> None:
    state = ConvexDeploymentState(DEPLOYMENT)
    first, second = state.documents()[20:22]
    state.change(first["_id"], clerkId="user_a", firstName="Ada", remove=["createdAt"])
    assert state.ids_of("user_a") == [first["_id"]]
    assert state.ids_of(first["clerkId"]) == []
    changed = state.document(first["_id"])
    assert changed is not None
    assert (changed["firstName"], "createdAt" in changed) == ("Ada", False)
    state.delete(second["_id"])
    assert state.document(second["_id"]) is None
    assert state.ids_of(second["clerkId"]) == []
    new = state.insert(clerkId="user_a", createdAt=1)
    assert state.ids_of("user_a") == [first["_id"], new]
    assert state.documents()[-1]["_id"] == new
    assert len(state.documents()) == 168
    state.reset()
    assert state.documents() == documents()


def test_a_deployment_can_have_other_tables() -> None:
    assert deployment_of(seed=1, key="other", tables=[]).name != DEPLOYMENT.name
