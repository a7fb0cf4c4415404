"""The fake Clerk: the HTTP routes of its Backend API, keys and quota.

Belongs here: what each route answers and to whom. Does not belong here: the data (clerk_data.py), its changes
(clerk_state.py), the shape of rows and errors (clerk_rows.py), what a list request selects (clerk_lists.py).

Properties of the vendor that matter: the secret key alone says which instance is meant. `GET /users` is a bare array,
the other lists are `{data, total_count}`. A page has 10 rows unless `limit` says otherwise, and 10 as well, in silence,
where `limit` is above 500. Production keys may send 1,000 requests in 10 s, development keys 100.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from starlette.requests import Request

from backfill_pipelines.sandbox import clerk_rows as rows
from backfill_pipelines.sandbox.clerk_data import ClerkMembership, ClerkWorld
from backfill_pipelines.sandbox.clerk_lists import chosen_users, cursor_place, ordered_organizations, page_of
from backfill_pipelines.sandbox.clerk_state import ClerkInstanceState
from backfill_pipelines.sandbox.exchange import Answer, VendorRoute, Visit
from backfill_pipelines.sandbox.faults import Call, Fault, FaultKinds
from backfill_pipelines.sandbox.traffic import RateLimit, RateWindow

LIVE_LIMIT = RateLimit(permits=1_000, window_seconds=10.0)
TEST_LIMIT = RateLimit(permits=100, window_seconds=10.0)
API_VERSIONS = frozenset({"2024-10-01", "2025-03-12", "2025-04-10", "2025-11-10", "2026-05-12"})

FAULT_KINDS: FaultKinds = {
    "clerk_key_refused": {},
    "clerk_forbidden": {},
    # The cursor is answered 422, as by an instance that has none.
    "cursor_refused": {},
    # Once the answer is made up, so many users sign up, or are deleted: the oldest ones, or the last ones of the page
    # that was just served, or so many memberships end.
    "create_users": {"users": int},
    "delete_oldest_users": {"users": int},
    "delete_served_users": {"users": int},
    "delete_oldest_memberships": {"memberships": int},
}


class ClerkSandbox:
    """A vendor for `SandboxServer`. `states` (by the workspace's key) holds what tests change while it serves.

    Each instance has a quota of its own: `live_limit` or `test_limit`, by its key. `clock` gives seconds.
    """

    name = "clerk"
    mount_path = "/clerk/v1"
    accounts: Sequence[str] = ("api",)
    fault_kinds: FaultKinds = FAULT_KINDS

    def __init__(
        self,
        world: ClerkWorld,
        *,
        live_limit: RateLimit = LIVE_LIMIT,
        test_limit: RateLimit = TEST_LIMIT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.world = world
        self.states = {each.key: ClerkInstanceState(each) for each in world.instances}
        self._by_key = {each.secret_key: self.states[each.key] for each in world.instances}
        self._windows = {
            each.key: RateWindow(live_limit if each.live else test_limit, clock=clock) for each in world.instances
        }
        self._served: Sequence[int] = ()
        self._sorted: dict[str, tuple[Sequence[ClerkMembership], Sequence[ClerkMembership]]] = {}

    # --- what the server asks ------------------------------------------------------------------------------------

    def routes(self) -> Sequence[VendorRoute]:
        """The reading routes that backfills use."""
        return [
            VendorRoute("GET", "/users", self._authenticated(self._list_users)),
            VendorRoute("GET", "/users/count", self._authenticated(self._count_users)),
            VendorRoute("GET", "/users/{id}", self._authenticated(self._show_user)),
            VendorRoute("GET", "/organizations", self._authenticated(self._list_organizations)),
            VendorRoute("GET", "/organization_memberships", self._authenticated(self._list_memberships)),
        ]

    def unknown_route(self, _visit: Visit) -> Answer:
        """404 in the vendor's words."""
        return rows.not_found()

    def describe(self, request: Request, template: str) -> Call:
        """Whose request it is; an unknown key has no instance."""
        state = self._by_key.get(_bearer(request))
        key = "" if state is None else state.seeded.key
        return Call(
            vendor=self.name,
            account=key,
            workspace=key,
            client=key,
            method=request.method,
            path=request.scope["path"].partition("/v1")[2],
            template=template,
        )

    def admit(self, call: Call) -> tuple[Mapping[str, str], Answer | None]:
        """Take a permit of the instance. No header tells how many are left."""
        window = self._windows.get(call.account)
        if window is None:
            return {}, None
        admission = window.admit()
        return {}, None if admission.admitted else rows.rate_limited(admission.retry_after_seconds)

    def rate_limited(self, *, retry_after_seconds: int) -> Answer:
        """The vendor's own 429."""
        return rows.rate_limited(retry_after_seconds)

    def check_fault(self, fault: Fault) -> None:
        """Every fault of this vendor makes sense for any of its instances."""

    def after_request(self, visit: Visit) -> None:
        """Users and memberships that come and go, where a fault asks for it."""
        state = self.states.get(visit.call.account)
        if state is None:
            return
        with state.lock:
            for fault in visit.faults:
                users = int(fault.number("users", 1))
                if fault.kind == "create_users":
                    state.create_users(users)
                elif fault.kind == "delete_oldest_users":
                    state.delete_oldest_users(users)
                elif fault.kind == "delete_served_users":
                    last = [number for number in self._served[-users:] if state.has_user(number)]
                    state.delete_users([state.seeded.user_id(number) for number in last])
                elif fault.kind == "delete_oldest_memberships":
                    state.delete_oldest_memberships(int(fault.number("memberships", 1)))

    def reset(self) -> None:
        """Back to the seeded world, with every permit given back."""
        for state in self.states.values():
            state.reset()
        for window in self._windows.values():
            window.reset()

    def _authenticated(self, handler: Callable[[Visit, ClerkInstanceState], Answer]) -> Callable[[Visit], Answer]:
        def answer(visit: Visit) -> Answer:
            self._served = ()
            state = self._by_key.get(_bearer(visit.request))
            if state is None or visit.fault("clerk_key_refused") is not None:
                raise rows.key_invalid()
            if visit.fault("clerk_forbidden") is not None:
                raise rows.forbidden()
            _check_version(visit.request)
            with state.lock:
                return handler(visit, state)

        return answer

    # --- users ---------------------------------------------------------------------------------------------------

    def _list_users(self, visit: Visit, state: ClerkInstanceState) -> Answer:
        query = visit.request.query_params
        limit, offset = page_of(query)
        after = query.get("starting_after")
        if after is not None and (state.seeded.cursor == "refused" or visit.fault("cursor_refused") is not None):
            raise rows.parameter_unknown("starting_after")
        numbers = chosen_users(state, query)
        if after is not None and state.seeded.cursor == "supported":
            offset = cursor_place(state, numbers, query, after=after, offset=offset)
        self._served = numbers[offset : offset + limit]
        return Answer.json(200, [_user_row(state, number) for number in self._served])

    def _count_users(self, visit: Visit, state: ClerkInstanceState) -> Answer:
        count = len(chosen_users(state, visit.request.query_params))
        return Answer.json(200, {"object": "total_count", "total_count": count})

    def _show_user(self, visit: Visit, state: ClerkInstanceState) -> Answer:
        number = state.seeded.user_number(visit.request.path_params["id"])
        if number is None or not state.has_user(number):
            return rows.not_found()
        return Answer.json(200, _user_row(state, number))

    # --- organizations and memberships ---------------------------------------------------------------------------

    def _list_organizations(self, visit: Visit, state: ClerkInstanceState) -> Answer:
        if not state.seeded.organizations_enabled:
            raise rows.organizations_disabled()
        query = visit.request.query_params
        limit, offset = page_of(query)
        listed = ordered_organizations(state, query)
        counted = query.get("include_members_count") == "true"
        data = [
            rows.organization_row(each, members_count=state.members[each.number] if counted else None)
            for each in listed[offset : offset + limit]
        ]
        return Answer.json(200, {"data": data, "total_count": len(listed)})

    def _list_memberships(self, visit: Visit, state: ClerkInstanceState) -> Answer:
        if not state.seeded.organizations_enabled:
            raise rows.organizations_disabled()
        query = visit.request.query_params
        limit, offset = page_of(query)
        order_by = query.getlist("order_by")[0] if "order_by" in query else "-created_at"
        if order_by.lstrip("+-") != "created_at":
            raise rows.value_invalid("order_by", order_by)
        listed = self._memberships_by_creation(state)
        if order_by.startswith("-"):
            listed = listed[::-1]
        data = [
            rows.membership_row(each, state.user(each.user_number), state.organizations[each.organization_number])
            for each in listed[offset : offset + limit]
        ]
        return Answer.json(200, {"data": data, "total_count": len(listed)})

    def _memberships_by_creation(self, state: ClerkInstanceState) -> Sequence[ClerkMembership]:
        if state.seeded.membership_order == "membership":
            return state.memberships
        remembered = self._sorted.get(state.seeded.key)
        if remembered is None or remembered[0] is not state.memberships:
            by_user = sorted(state.memberships, key=lambda each: (each.user_number, each.number))
            remembered = self._sorted[state.seeded.key] = (state.memberships, by_user)
        return remembered[1]


def _user_row(state: ClerkInstanceState, number: int) -> rows.Row:
    return {**rows.user_row(state.user(number)), **state.altered_fields(number)}


def _bearer(request: Request) -> str:
    return request.headers.get("authorization", "").removeprefix("Bearer ").strip()


def _check_version(request: Request) -> None:
    """The version stands in a header or in the query, not in both."""
    named = [request.headers.get("clerk-api-version"), request.query_params.get("__clerk_api_version")]
    versions = [each for each in named if each is not None]
    if len(versions) > 1 or not API_VERSIONS.issuperset(versions):
        raise rows.version_invalid()


__all__ = ["LIVE_LIMIT", "TEST_LIMIT", "ClerkSandbox"]
