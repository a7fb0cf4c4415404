"""Landing Clerk's lists: whole, resumable, without who is gone, and shared between backfills for an hour."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from backfill_pipelines.backfills.clerk_landing import (
    clerk_of,
    land_memberships,
    land_organizations,
    land_users,
    landed_rejects,
)
from backfill_pipelines.database.tables import clerk_user
from backfill_pipelines.engine.backfill import RunOptions, Scope
from backfill_pipelines.engine.ledger import Mode, Request
from backfill_pipelines.errors import BackfillError, InterruptedRunError, TransientError
from backfill_pipelines.sandbox.clerk_data import build_clerk_instance
from backfill_pipelines.sandbox.faults import Trigger
from backfill_pipelines.vendors.clerk import Clerk
from backfill_pipelines_tests.backfills.attio_product import (
    ACME,
    EMPTY_ATTIO,
    AttioProduct,
    Vendors,
    running_vendors,
    unhurried,
)

INSTANCE = build_clerk_instance(seed=31, users=1_260)
"""Three pages of users, three of memberships."""

Work = Callable[[Scope, Clerk], Awaitable[None]]


@dataclass(kw_only=True)
class Reader:
    """Extractions of backfills that read Clerk; each call is a process of its own."""

    product: AttioProduct

    def read(
        self,
        work: Work = land_users,
        *,
        backfill: str = "first",
        mode: Mode = Mode.LOAD,
        succeeds: bool = True,
        stop: threading.Event | None = None,
        **options: Any,
    ) -> Scope:
        """Begin a run, or go on with the interrupted one, and let it extract; `succeeds`: then it comes to its end."""
        given = RunOptions(**options)
        request = Request(backfill=backfill, partition_key=ACME, mode=mode, fresh=given.fresh, options={})
        with self.product.runtime(stop=stop) as runtime:
            ledger, now = runtime.ledger, datetime.now(UTC)
            verifying = mode is Mode.VERIFY
            run = ledger.open_verification(request, now=now) if verifying else ledger.open_run(request, now=now)
            named: Any = SimpleNamespace(name=backfill)
            scope = runtime.scope(named, ACME, options=given, run_id=run.id)

            async def extract() -> None:
                await work(scope, await clerk_of(scope))

            try:
                runtime.run(extract())
            except BackfillError as error:
                ledger.fail(run, error, now=datetime.now(UTC))
                raise
            if succeeds:
                ledger.succeed(run, now=datetime.now(UTC))
            return scope

    def calls(self) -> Counter[str]:
        """How often each path was asked for."""
        return Counter(each.path for each in self.product.requests(vendor="clerk"))

    def landed(self, table: str = "clerk_user") -> list[dict[str, Any]]:
        return self.product.query(f"SELECT * FROM backfill.{table}")

    def user_ids(self) -> set[str]:
        return {row["user_id"] for row in self.landed()}

    def stop_at_page(self, nth: int) -> threading.Event:
        stop = threading.Event()
        self.product.server.after(Trigger(vendor="clerk", path="/users", nth=nth), stop.set)
        return stop


async def shared_users(scope: Scope, clerk: Clerk) -> None:
    await land_users(scope, clerk, shareable=True)


@pytest.fixture(scope="module")
def vendors() -> Iterator[Vendors]:
    with running_vendors(instance=INSTANCE, workspace=EMPTY_ATTIO) as running:
        yield running


@pytest.fixture
def clerk(
    vendors: Vendors, database: Engine, database_url: SecretStr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Reader:
    unhurried(monkeypatch)
    return Reader(product=vendors.product(database, database_url, tmp_path))


# --- what is landed --------------------------------------------------------------------------------------------------


def test_all_three_lists_are_landed_whole(clerk: Reader) -> None:
    async def everything(scope: Scope, client: Clerk) -> None:
        await land_users(scope, client)
        await land_organizations(scope, client)
        await land_memberships(scope, client)

    scope = clerk.read(everything)
    state = clerk.product.users
    assert clerk.user_ids() == set(state.user_ids())
    assert {(row["organization_id"], row["members_count"]) for row in clerk.landed("clerk_organization")} == {
        (each.id, state.members[each.number]) for each in state.organizations
    }
    assert {(row["organization_id"], row["user_id"]) for row in clerk.landed("clerk_membership")} == {
        (state.organizations[each.organization_number].id, state.seeded.user_id(each.user_number))
        for each in state.memberships
    }
    assert scope.details == {
        "clerk_users": 1_260,
        "clerk_organizations": len(state.organizations),
        "clerk_memberships": len(state.memberships),
    }
    assert scope.warnings == set()


def test_a_user_is_landed_with_what_plans_need(clerk: Reader) -> None:
    state = clerk.product.users
    user_id = state.create_user(
        [("Ada@Example.com", "verified"), ("other@example.com", None), ("third@example.com", "verified")],
        first_name="A\x00da",
        last_name=None,
        banned=False,
        deprovisioned=True,
        created_at=1_700_000_000_123,
        last_sign_in_at=None,
    )
    nobody = state.create_user()
    clerk.read()
    rows = {row["user_id"]: row for row in clerk.landed()}
    row = rows[user_id]
    assert (row["primary_email"], row["verified_emails"]) == (
        "Ada@Example.com",
        ["Ada@Example.com", "third@example.com"],
    )
    assert (row["first_name"], row["last_name"], row["banned"]) == ("Ada", None, True)
    assert (row["created_at"], row["last_sign_in_at"], row["rejected"]) == (1_700_000_000_123, None, None)
    assert (rows[nobody]["primary_email"], rows[nobody]["verified_emails"]) == (None, [])


def test_a_row_that_cannot_be_read_is_landed_as_one_and_the_others_as_they_are(clerk: Reader) -> None:
    state = clerk.product.users
    first, second, third = state.user_ids()[:3]
    state.alter_user(first, email_addresses="none")
    state.alter_user(second, created_at="yesterday")
    state.alter_user(third, id=None)
    scope = clerk.read()
    with clerk.product.database.connect() as connection:
        rejects = landed_rejects(connection, ACME, clerk_user)
    assert rejects == {"malformed_email_addresses": 1, "malformed_created_at": 1, "malformed_id": 1}
    rows = {row["user_id"]: row for row in clerk.landed()}
    assert len(rows) == 1_260, "the one without an id counts as well"
    assert (rows[first]["rejected"], rows[first]["primary_email"]) == ("malformed_email_addresses", None)
    assert scope.warnings == set()


def test_who_is_gone_does_not_stay_landed(clerk: Reader) -> None:
    clerk.read()
    gone = clerk.product.users.user_ids()[10:600]
    clerk.product.users.delete_users(gone)
    clerk.read()
    assert clerk.user_ids() == set(clerk.product.users.user_ids())


def test_whoever_plans_during_a_reading_sees_a_full_list(clerk: Reader) -> None:
    clerk.read()
    clerk.product.users.delete_oldest_users(3)
    seen: list[int] = []
    clerk.product.server.after(Trigger(vendor="clerk", path="/users", nth=2), lambda: seen.append(len(clerk.landed())))
    clerk.read()
    assert seen == [1_260]
    assert len(clerk.landed()) == 1_257


# --- users who come and go meanwhile ---------------------------------------------------------------------------------


def test_users_who_leave_while_they_are_read_are_no_drift(clerk: Reader) -> None:
    clerk.product.server.add_faults([{"kind": "delete_served_users", "users": 5, "path": "/users", "nth": 2}])
    scope = clerk.read()
    assert set(clerk.product.users.user_ids()) <= clerk.user_ids()
    assert scope.details["clerk_users"] in (1_255, 1_260)


def test_fewer_users_than_clerk_counts_are_read_once_more_and_then_reported(
    clerk: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def three_more(_: Clerk) -> int:
        return 1_263

    monkeypatch.setattr(Clerk, "count_users", three_more)
    scope = clerk.read()
    assert scope.warnings == {"count_drift"}
    assert (scope.details["clerk_users"], scope.details["clerk_users_counted"]) == (1_260, 1_263)
    monkeypatch.undo()
    once = clerk.calls()["/users"]
    clerk.product.server.reset()
    unhurried(monkeypatch)
    clerk.read()
    assert once == 2 * clerk.calls()["/users"]


# --- resuming --------------------------------------------------------------------------------------------------------


def test_an_interrupted_reading_goes_on_behind_the_last_page(clerk: Reader) -> None:
    undisturbed = clerk.read()
    asked = clerk.calls()["/users"]
    assert undisturbed.details["clerk_users"] == 1_260
    stop = clerk.stop_at_page(2)
    with pytest.raises(InterruptedRunError):
        clerk.read(stop=stop)
    before = clerk.calls()
    clerk.read()
    rest = clerk.calls()["/users"] - before["/users"]
    assert clerk.calls()["/users/count"] == before["/users/count"], "where the lanes begin is known"
    assert (before["/users"] - asked) + rest <= asked + 1, "the page that was under way is asked for again"
    assert clerk.user_ids() == set(clerk.product.users.user_ids())


def test_so_does_one_that_failed_for_a_reason_that_passes(clerk: Reader) -> None:
    fault = {"kind": "status", "status": 503, "vendor": "clerk", "path": "/users", "nth": 2, "count": 1_000}
    clerk.product.server.add_faults([fault])
    with pytest.raises(TransientError):
        clerk.read()
    clerk.product.server.clear_faults()
    landed = len(clerk.landed())
    assert 0 < landed < 1_260
    clerk.read()
    assert clerk.user_ids() == set(clerk.product.users.user_ids())


def test_a_reading_that_only_extracted_is_what_the_next_step_plans_from(clerk: Reader) -> None:
    with clerk.product.runtime() as runtime:
        run = runtime.ledger.open_run(
            Request(backfill="first", partition_key=ACME, mode=Mode.PLAN, options={}), now=datetime.now(UTC)
        )
        scope = runtime.scope(SimpleNamespace(name="first"), ACME, options=RunOptions(), run_id=run.id)  # type: ignore[arg-type]

        async def extract() -> None:
            await land_users(scope, await clerk_of(scope))

        runtime.run(extract())
        runtime.ledger.succeed(run, now=datetime.now(UTC), keep_extraction=True)
        asked = clerk.calls()
        plans = Request(backfill="first", partition_key=ACME, mode=Mode.PLAN, extracts=False, options={})
        run = runtime.ledger.open_run(plans, now=datetime.now(UTC))
        scope = runtime.scope(SimpleNamespace(name="first"), ACME, options=RunOptions(), run_id=run.id)  # type: ignore[arg-type]
        runtime.run(extract())
    assert clerk.calls() == asked
    assert scope.details == {"clerk_users": 1_260}


@pytest.mark.parametrize("how", ["fresh", "verify"])
def test_a_fresh_run_and_a_verification_begin_anew(clerk: Reader, how: str) -> None:
    with pytest.raises(InterruptedRunError):
        clerk.read(stop=clerk.stop_at_page(2))
    asked = clerk.calls()["/users/count"]
    clerk.read(fresh=how == "fresh", mode=Mode.VERIFY if how == "verify" else Mode.LOAD)
    assert clerk.calls()["/users/count"] == asked + 1
    assert clerk.user_ids() == set(clerk.product.users.user_ids())


# --- sharing ---------------------------------------------------------------------------------------------------------


def test_what_one_backfill_has_landed_another_one_uses_once(clerk: Reader) -> None:
    clerk.read(backfill="first")
    asked = clerk.calls()
    scope = clerk.read(shared_users, backfill="second")
    assert clerk.calls() == asked
    assert scope.details == {"clerk_users": 1_260}
    clerk.read(shared_users, backfill="second")
    assert clerk.calls()["/users"] == 2 * asked["/users"], "the run after a finished one reads anew"


def test_a_backfill_does_not_share_with_itself(clerk: Reader) -> None:
    clerk.read(shared_users)
    asked = clerk.calls()
    clerk.read(shared_users)
    assert clerk.calls()["/users"] == 2 * asked["/users"]


@pytest.mark.parametrize("how", ["fresh", "verify", "older", "other key", "unshared"])
def test_not_every_landing_is_shared(clerk: Reader, how: str) -> None:
    clerk.read(backfill="first")
    asked = clerk.calls()["/users"]
    if how == "older":
        clerk.product.execute(
            "UPDATE backfill.cursor SET position = position || jsonb_build_object('finished_at',"
            " (now() - interval '61 minutes')::text)"
        )
    if how == "other key":
        clerk.product.execute('UPDATE backfill.cursor SET position = position || \'{"account": "another"}\'')
    clerk.read(
        land_users if how == "unshared" else shared_users,
        backfill="second",
        fresh=how == "fresh",
        mode=Mode.VERIFY if how == "verify" else Mode.LOAD,
    )
    assert clerk.calls()["/users"] == 2 * asked


def test_half_a_landing_is_shared_with_nobody(clerk: Reader) -> None:
    with pytest.raises(InterruptedRunError):
        clerk.read(backfill="first", stop=clerk.stop_at_page(2))
    clerk.read(shared_users, backfill="second")
    assert clerk.user_ids() == set(clerk.product.users.user_ids())
    asked = clerk.calls()
    clerk.read(backfill="first")
    assert clerk.calls() == asked, "but the first may use what was landed since it began"


def test_two_backfills_at_once_read_the_list_once(clerk: Reader) -> None:
    with clerk.product.runtime() as runtime:
        scopes = []
        for backfill in ("first", "second"):
            request = Request(backfill=backfill, partition_key=ACME, mode=Mode.LOAD, options={})
            run = runtime.ledger.open_run(request, now=datetime.now(UTC))
            named: Any = SimpleNamespace(name=backfill)
            scopes.append(runtime.scope(named, ACME, options=RunOptions(), run_id=run.id))

        async def extract(scope: Scope) -> None:
            await land_users(scope, await clerk_of(scope))

        list(runtime.run_all([extract(scope) for scope in scopes]))
    assert clerk.calls()["/users/count"] == 1
    assert [scope.details for scope in scopes] == [{"clerk_users": 1_260}] * 2
