"""The client of Convex against the stateful fake: whole tables over a real socket, while others change them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import pytest
from pydantic import SecretStr

from backfill_pipelines.errors import BackfillError, ErrorCategory
from backfill_pipelines.sandbox.convex import ConvexQuestions
from backfill_pipelines.sandbox.convex_data import FIELDS, profile_of
from backfill_pipelines.sandbox.convex_functions import ConvexLimits
from backfill_pipelines.sandbox.convex_state import Functions
from backfill_pipelines.vendors.convex import CALLS_AT_ONCE, Convex, Outcome, Patch, Row, TableNames, connect
from backfill_pipelines.vendors.transport import RetryBudget, open_http_client
from backfill_pipelines_tests.sandbox.convex_rig import CLERK, DEPLOYMENT, ConvexRig, running_convex
from backfill_pipelines_tests.vendors.virtual_time import InstantClock

Answer = TypeVar("Answer")
USERS = {user.id: user for user in CLERK.seeded_users()}


def ask(
    rig: ConvexRig,
    question: Callable[[Convex], Awaitable[Answer]],
    *,
    key: str | None = None,
    names: TableNames | None = None,
    clock: InstantClock | None = None,
    **sizes: int,
) -> Answer:
    async def asked() -> Answer:
        async with open_http_client() as http:
            convex = connect(
                http,
                url=rig.url,
                deploy_key=SecretStr(key or rig.seeded.deploy_key),
                names=names or TableNames(),
                retry_budget=RetryBudget(),
                clock=clock or InstantClock(),
                **sizes,
            )
            return await question(convex)

    return asyncio.run(asked())


async def read_all(convex: Convex) -> list[Row]:
    return [row async for page in convex.pages() for row in page.rows]


def failure_of(rig: ConvexRig, question: Callable[[Convex], Awaitable[Any]], **given: Any) -> tuple[str, ErrorCategory]:
    with pytest.raises(BackfillError) as failed:
        ask(rig, question, **given)
    return failed.value.code, failed.value.category


def repairs(rows: Sequence[Row]) -> list[Patch]:
    """For each row with a user, what makes it equal to that user; only fields that differ."""
    patches = []
    for row in rows:
        if row.clerk_id in USERS:
            wanted = {name: value for name, value in profile_of(USERS[row.clerk_id]).items() if value is not None}
            after = {name: value for name, value in wanted.items() if row.fields.get(name) != value}
            before = {name: row.fields[name] for name in after if name in row.fields}
            if after:
                patches.append(Patch(document_id=row.document_id, clerk_id=row.clerk_id, before=before, after=after))
    return patches


def undone(patches: Sequence[Patch]) -> list[Patch]:
    return [
        Patch(document_id=each.document_id, clerk_id=each.clerk_id, before=each.after, after=each.before)
        for each in patches
    ]


# --- all of it --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows_a_page", [7, 84, 168, 4_000])
def test_every_row_arrives_with_what_it_holds(rows_a_page: int) -> None:
    with running_convex() as rig:
        rows = ask(rig, read_all, rows_a_page=rows_a_page)
        documents = rig.state.documents()
        assert [(row.document_id, row.clerk_id) for row in rows] == [(d["_id"], d["clerkId"]) for d in documents]
        assert [dict(row.fields) for row in rows] == [
            {name: document[name] for name in FIELDS if name in document} for document in documents
        ]
        assert rig.state.calls["backfill:page"] <= -(-len(documents) // rows_a_page) + 1


def test_reading_goes_on_where_it_was_left() -> None:
    async def with_crashes(convex: Convex) -> list[Row]:
        rows, stored = [], None
        while True:
            page = await anext(convex.pages(stored))
            rows += page.rows
            stored = page.following
            if stored is None:
                return rows

    with running_convex() as rig:
        rows = ask(rig, with_crashes, rows_a_page=50)
        assert [row.document_id for row in rows] == [each["_id"] for each in rig.state.documents()]
        assert rig.state.calls["backfill:page"] == 4


def test_what_is_written_is_what_clerk_has_and_the_undo_brings_every_byte_back() -> None:
    with running_convex() as rig:
        seeded = rig.state.documents()
        rows = ask(rig, read_all)
        patches = repairs(rows)
        expected = Counter("duplicate_rows" if rows_of(rows, each) > 1 else "patched" for each in patches)
        assert Counter(ask(rig, lambda convex: convex.patch(patches), rows_a_batch=9)) == expected
        assert expected["patched"] == 40
        assert {rows_of(rows, each) for each in repairs(ask(rig, read_all))} <= {2}
        back = ask(rig, lambda convex: convex.patch(undone(patches)))
        assert back.count(Outcome.PATCHED) == 40
        assert rig.state.documents() == seeded


def rows_of(rows: Sequence[Row], patch: Patch) -> int:
    return sum(row.clerk_id == patch.clerk_id for row in rows)


def test_a_second_time_everything_is_there_already() -> None:
    with running_convex() as rig:
        patches = repairs(ask(rig, read_all))
        ask(rig, lambda convex: convex.patch(patches))
        documents = rig.state.documents()
        again = ask(rig, lambda convex: convex.patch(patches))
        assert set(again) == {Outcome.ALREADY}
        assert rig.state.documents() == documents


# --- while it changes -------------------------------------------------------------------------------------------------


def test_what_people_do_in_between_is_told_and_never_overwritten() -> None:
    with running_convex() as rig:
        changed, gone, taken, doubled, left = repairs(ask(rig, read_all))[:5]
        rig.state.change(changed.document_id, **dict.fromkeys(changed.after, None))
        rig.state.delete(gone.document_id)
        rig.state.change(taken.document_id, clerkId="user_somebody_else")
        rig.state.insert(clerkId=doubled.clerk_id)
        before = {each["_id"]: each for each in rig.state.documents()}
        outcomes = ask(rig, lambda convex: convex.patch([changed, gone, taken, doubled, left]))
        assert outcomes == ["conflict", "missing", "other_clerk_id", "duplicate_rows", "patched"]
        after = {each["_id"]: each for each in rig.state.documents()}
        assert [each for each in after if after[each] != before[each]] == [left.document_id]


def test_rows_that_change_and_go_while_they_are_read_hide_no_other() -> None:
    faults = [
        {"kind": "change_users", "users": 9, "nth": 2, "path": "/api/query"},
        {"kind": "delete_users", "users": 9, "nth": 3, "path": "/api/query"},
    ]
    with running_convex(faults=faults) as rig:
        rows = ask(rig, read_all, rows_a_page=20)
        found = [row.document_id for row in rows]
        assert len(found) == len(set(found))
        assert {each["_id"] for each in rig.state.documents()} <= set(found)


# --- faults and limits ------------------------------------------------------------------------------------------------

STORM: list[Mapping[str, Any]] = [
    {"kind": "status", "status": 503, "nth": 1, "count": 2},
    {"kind": "lost_reply", "nth": 4},
    {"kind": "rate_limited", "nth": 6, "count": 2},
    {"kind": "truncated_json", "nth": 9},
    {"kind": "write_conflict", "nth": 11},
    {"kind": "overloaded", "nth": 13},
    {"kind": "cut_body", "nth": 15},
    {"kind": "function_timeout", "nth": 17},
]


def test_a_storm_of_failures_costs_no_row_and_writes_none_twice() -> None:
    with running_convex(faults=[{**each, "path": "/api/query"} for each in STORM]) as rig:
        rows = ask(rig, read_all, rows_a_page=20)
        assert len(rows) == 168
        patches = repairs(rows)
        rig.server.add_faults([{**each, "path": "/api/mutation"} for each in STORM])
        outcomes = Counter(ask(rig, lambda convex: convex.patch(patches), rows_a_batch=4))
        # A reply that was lost after the write says `already` the second time.
        assert outcomes["patched"] + outcomes["already"] == 40
        assert outcomes["already"] >= 4
        assert rig.state.outcomes["patched"] == 40


@pytest.mark.parametrize(
    "limits",
    [
        ConvexLimits(documents_read=20, shortens_pages=False),
        ConvexLimits(documents_read=20),
        ConvexLimits(bytes_read=9_000),
        ConvexLimits(index_ranges=8),
        ConvexLimits(documents_written=7),
        ConvexLimits(bytes_written=5_000),
        ConvexLimits(patches_in_time=3),
        ConvexLimits(body_bytes=3_000),
    ],
)
def test_what_is_over_a_limit_is_halved_until_it_fits(limits: ConvexLimits) -> None:
    with running_convex(limits=limits) as rig:
        rows = ask(rig, read_all)
        assert len(rows) == 168
        outcomes = Counter(ask(rig, lambda convex: convex.patch(repairs(rows))))
        assert outcomes["patched"] == 40


def test_a_row_that_is_over_a_limit_by_itself_is_said() -> None:
    with running_convex(limits=ConvexLimits(bytes_read=10)) as rig:
        assert failure_of(rig, read_all) == ("convex_limit", ErrorCategory.DATA)


def test_no_more_than_eight_calls_are_under_way_at_once() -> None:
    with running_convex(limits=ConvexLimits(slots=CALLS_AT_ONCE), latency_seconds=0.02) as rig:
        patches = repairs(ask(rig, read_all))

        async def beside_one_another(convex: Convex) -> list[list[Outcome]]:
            return await asyncio.gather(*(convex.patch([each]) for each in patches))

        outcomes = ask(rig, beside_one_another)
        assert sum(each == [Outcome.PATCHED] for each in outcomes) == 40
        assert rig.state.most_at_once["mutation"] == CALLS_AT_ONCE
        assert {each.status for each in rig.server.requests} == {200}


class HurriedClock(InstantClock):
    """Waits a hundredth of what it is asked to: long enough for a slot to come free."""

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds)
        await asyncio.sleep(seconds / 100)


def test_slots_that_others_take_are_waited_for() -> None:
    with running_convex(limits=ConvexLimits(slots=2), latency_seconds=0.01) as rig:
        patches = repairs(ask(rig, read_all))[5:15]

        async def beside_one_another(convex: Convex) -> list[list[Outcome]]:
            return await asyncio.gather(*(convex.patch([each]) for each in patches))

        assert ask(rig, beside_one_another, clock=HurriedClock()) == [[Outcome.PATCHED]] * 10
        assert rig.state.most_at_once["mutation"] == 2
        assert 429 in {each.status for each in rig.server.requests}


# --- what is missing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refuses", ["status", "function"])
def test_a_key_that_may_not_is_told_apart_from_one_that_is_wrong(refuses: Any) -> None:
    with running_convex(questions=ConvexQuestions(refuses_permission_with=refuses)) as rig:
        missing = ("missing_permission", ErrorCategory.CONFIGURATION)
        assert failure_of(rig, lambda convex: convex.check(), key=DEPLOYMENT.powerless_key) == missing
        ask(rig, lambda convex: convex.check(), key=DEPLOYMENT.read_only_key)
        assert failure_of(rig, lambda convex: convex.check_writing(), key=DEPLOYMENT.read_only_key) == missing
        wrong = failure_of(rig, lambda convex: convex.check(), key="prod:other-owl-7|nothing")
        assert wrong == ("deploy_key_refused", ErrorCategory.CONFIGURATION)


@pytest.mark.parametrize(
    ("functions", "code"),
    [
        ("absent", "functions_not_deployed"),
        ("newer", "functions_of_another_version"),
        ("other_arguments", "functions_of_another_version"),
        ("other_answers", "functions_of_another_version"),
    ],
)
@pytest.mark.parametrize("hides_errors", [False, True])
def test_other_functions_than_ours_are_known_and_write_nothing(
    functions: Functions, code: str, hides_errors: bool
) -> None:
    with running_convex(questions=ConvexQuestions(hides_errors=hides_errors)) as rig:
        patches = repairs(ask(rig, read_all))
        before = rig.state.documents()
        rig.state.functions = functions
        hidden = hides_errors and functions in ("absent", "other_arguments")
        expected = ("convex_function_failed" if hidden else code, ErrorCategory.CONFIGURATION)
        assert failure_of(rig, lambda convex: convex.check()) == expected
        assert failure_of(rig, read_all) == expected
        assert failure_of(rig, lambda convex: convex.patch(patches)) == expected
        assert rig.state.documents() == before


@pytest.mark.parametrize("hides_errors", [False, True])
def test_names_that_the_deployment_does_not_have_are_told_apart(hides_errors: bool) -> None:
    with running_convex(questions=ConvexQuestions(hides_errors=hides_errors)) as rig:
        for names, code in (
            (TableNames(table="people"), "missing_table"),
            (TableNames(table="my users"), "missing_table"),
            (TableNames(index="by_email"), "missing_index"),
            (TableNames(id_field="externalId"), "missing_index"),
        ):
            expected = (code, ErrorCategory.CONFIGURATION)
            assert failure_of(rig, lambda convex: convex.check(), names=names) == expected
            assert failure_of(rig, lambda convex: convex.check_writing(), names=names) == expected


def test_a_paused_deployment_and_one_that_is_not_there_are_said() -> None:
    with running_convex() as rig:
        rig.state.paused = True
        assert failure_of(rig, read_all) == ("deployment_paused", ErrorCategory.CONFIGURATION)
    with running_convex() as rig:
        url = rig.url

    async def unreachable() -> None:
        async with open_http_client() as http:
            key = SecretStr(DEPLOYMENT.deploy_key)
            await connect(
                http,
                url=url,
                deploy_key=key,
                names=TableNames(),
                retry_budget=RetryBudget(),
                clock=InstantClock(),
            ).check()

    with pytest.raises(BackfillError) as failed:
        asyncio.run(unreachable())
    assert (failed.value.code, failed.value.category) == ("deployment_unreachable", ErrorCategory.TRANSIENT)
    assert "convex.url" in str(failed.value)
