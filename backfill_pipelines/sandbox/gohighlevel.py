"""The fake GoHighLevel: the HTTP routes of its contacts, tokens and quota.

Belongs here: what each route answers and to whom. Does not belong here: the data (gohighlevel_data.py), its changes
(gohighlevel_state.py), what a search selects (gohighlevel_searching.py), the JSON (gohighlevel_rows.py).

Properties of the vendor that matter: a token is one location's, and every contact says whose it is. A page of a search
is followed by the one behind the last row's `searchAfter`. A search shows a change some seconds late. The quota is the
location's, and every answer tells how much of it is left. Nothing can be written here: tokens have no scope for it, and
whoever tries is counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson
from starlette.requests import Request

from backfill_pipelines.sandbox import gohighlevel_rows as rows
from backfill_pipelines.sandbox.exchange import Answer, RefusalError, VendorRoute, Visit
from backfill_pipelines.sandbox.faults import Call, Fault, FaultKinds
from backfill_pipelines.sandbox.gohighlevel_data import READ_SCOPE, GoHighLevelContact, GoHighLevelLocation
from backfill_pipelines.sandbox.gohighlevel_limits import GoHighLevelLimits
from backfill_pipelines.sandbox.gohighlevel_searching import Chosen, choose, location_of, read_search
from backfill_pipelines.sandbox.gohighlevel_state import LocationState

API_VERSIONS = frozenset({"2021-07-28", "v3"})
"""The one that is documented for the routes here, and the one that the official SDK sends."""
MALFORMED: tuple[Mapping[str, Any], ...] = (
    {"phone": 5_550_100},
    {"additionalEmails": "none"},
    {"firstName": ["Avery"]},
    {"email": {"value": "avery@crm.example.com"}},
    {"companyName": False},
)

FAULT_KINDS: FaultKinds = {
    "ghl_token_refused": {},
    "ghl_scope_missing": {},
    "ghl_location_refused": {},
    # Of a search: `total` is wrong by so much, or missing; every so-manieth row is malformed, or another location's;
    # the page begins so many rows too early, or has so many at most; no row has a cursor.
    "total_off": {"by": int},
    "no_total": {},
    "malformed_contacts": {"every": int},
    "foreign_contacts": {"every": int},
    "repeat_rows": {"rows": int},
    "short_page": {"rows": int},
    "no_cursors": {},
    # Once the answer is made up, so many contacts are made, or disappear: the oldest ones, or the last ones served.
    "create_contacts": {"contacts": int},
    "delete_oldest_contacts": {"contacts": int},
    "delete_served_contacts": {"contacts": int},
}
_WRITES = (
    ("POST", "/contacts/"),
    ("POST", "/contacts/upsert"),
    ("PUT", "/contacts/{id}"),
    ("DELETE", "/contacts/{id}"),
    ("POST", "/contacts/{id}/tags"),
    ("DELETE", "/contacts/{id}/tags"),
    ("POST", "/contacts/{id}/notes"),
    ("POST", "/contacts/bulk/tags/update/{type}"),
)


class GoHighLevelSandbox:
    """A vendor for `SandboxServer`. `states` (by the location's id) holds what tests change while it serves.

    Each location has a quota of its own. `clock`: seconds since 1970.
    """

    name = "gohighlevel"
    mount_path = "/gohighlevel"
    accounts: Sequence[str] = ("api",)
    fault_kinds: FaultKinds = FAULT_KINDS

    def __init__(
        self,
        locations: Sequence[GoHighLevelLocation],
        *,
        limits: GoHighLevelLimits | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.locations = tuple(locations)
        self.states = {each.id: LocationState(each, limits or GoHighLevelLimits(), clock=clock) for each in locations}
        self._by_token = {each.token: self.states[each.id] for each in locations}
        self._served: Sequence[GoHighLevelContact] = ()

    @property
    def writes(self) -> int:
        """Requests of all locations that would have changed something."""
        return sum(state.writes for state in self.states.values())

    # --- what the server asks ------------------------------------------------------------------------------------

    def routes(self) -> Sequence[VendorRoute]:
        """The reading routes that backfills use, and the writing ones that nobody may use."""
        return [
            VendorRoute("POST", "/contacts/search", self._authenticated(self._search)),
            VendorRoute("GET", "/contacts/search/duplicate", self._authenticated(self._duplicate)),
            VendorRoute("GET", "/contacts/{id}", self._authenticated(self._show)),
            *(VendorRoute(method, path, self._refuse_write) for method, path in _WRITES),
        ]

    def unknown_route(self, visit: Visit) -> Answer:
        """404 in the vendor's words; what would have changed something is counted."""
        if visit.request.method != "GET":
            self._refuse_write(visit)
        return rows.no_such_route(visit.request.method, visit.call.path)

    def describe(self, request: Request, template: str) -> Call:
        """Whose request it is; an unknown token has no location."""
        state = self._by_token.get(_bearer(request))
        location, key = ("", "") if state is None else (state.seeded.id, state.seeded.key)
        return Call(
            vendor=self.name,
            account=location,
            workspace=location,
            client=key,
            method=request.method,
            path=request.scope["path"].removeprefix(self.mount_path),
            template=template,
        )

    def admit(self, call: Call) -> tuple[Mapping[str, str], Answer | None]:
        """Take a permit of the location."""
        state = self.states.get(call.account)
        if state is None:
            return {}, None
        refusal = None if state.limits.admit() else rows.rate_limited()
        return state.limits.headers(), refusal

    def rate_limited(self, *, retry_after_seconds: int) -> Answer:  # noqa: ARG002 # the vendor does not say
        """The vendor's own 429."""
        return rows.rate_limited()

    def check_fault(self, fault: Fault) -> None:
        """Every fault of this vendor makes sense for any of its locations."""

    def after_request(self, visit: Visit) -> None:
        """Contacts that come and disappear, where a fault asks for it."""
        state = self.states.get(visit.call.account)
        if state is None:
            return
        with state.lock:
            for fault in visit.faults:
                count = int(fault.number("contacts", 1))
                if fault.kind == "create_contacts":
                    state.create_contacts(count)
                elif fault.kind == "delete_oldest_contacts":
                    state.delete_oldest_contacts(count)
                elif fault.kind == "delete_served_contacts":
                    last = self._served[-count:]
                    state.delete_contacts([each.id for each in last if state.exists(each.number)])

    def reset(self) -> None:
        """Back to the seeded locations, with every permit given back."""
        for state in self.states.values():
            state.reset()

    # --- who may ---------------------------------------------------------------------------------------------------

    def _authenticated(self, handler: Callable[[Visit, LocationState], Answer]) -> Callable[[Visit], Answer]:
        def answer(visit: Visit) -> Answer:
            self._served = ()
            state = self._authorized(visit)
            with state.lock:
                return handler(visit, state)

        return answer

    def _authorized(self, visit: Visit) -> LocationState:
        if visit.request.headers.get("version") not in API_VERSIONS:
            raise rows.missing_version()
        state = self._by_token.get(_bearer(visit.request))
        if state is None or visit.fault("ghl_token_refused") is not None:
            raise rows.invalid_token()
        # The scope is checked before the location is.
        if READ_SCOPE not in state.seeded.scopes or visit.fault("ghl_scope_missing") is not None:
            raise rows.missing_scope(state.seeded.habits.missing_scope)
        if visit.fault("ghl_location_refused") is not None:
            raise rows.foreign_location()
        return state

    def _check_location(self, named: str, state: LocationState) -> None:
        if named == state.seeded.id:
            return
        status = state.seeded.habits.unknown_location
        if named in self.states or status == 403:  # noqa: PLR2004
            raise rows.foreign_location()
        raise rows.absent("Location", status)

    def _refuse_write(self, visit: Visit) -> Answer:
        state = self._by_token.get(_bearer(visit.request))
        if state is None:
            raise rows.invalid_token()
        with state.lock:
            state.writes += 1
        raise rows.missing_scope(401)

    # --- contacts --------------------------------------------------------------------------------------------------

    def _search(self, visit: Visit, state: LocationState) -> Answer:
        try:
            body = orjson.loads(visit.body)
        except orjson.JSONDecodeError:
            raise rows.bad_request("Bad Request") from None
        self._check_location(location_of(body), state)
        search = read_search(body, state)
        if (short := visit.fault("short_page")) is not None:
            search = search._replace(limit=min(search.limit, max(1, int(short.number("rows", 1)))))
        again = visit.fault("repeat_rows")
        chosen = choose(search, state, back=0 if again is None else int(again.number("rows", 1)))
        if not chosen.contacts and search.after is not None and state.seeded.habits.end_of_scan == "repeats":
            chosen = choose(search, state, back=search.limit)
        self._served = chosen.contacts
        off = visit.fault("total_off")
        total = chosen.total + (0 if off is None else int(off.number("by", 1)))
        document = {
            "contacts": self._rows(chosen, visit, state),
            "total": max(0, total),
            "traceId": f"trace-{state.limits.used_today}",
        }
        if visit.fault("no_total") is not None:
            del document["total"]
        return Answer.json(200, document)

    def _rows(self, chosen: Chosen, visit: Visit, state: LocationState) -> list[rows.Row]:
        proper_names = state.seeded.habits.search_names == "both"
        malformed, foreign = visit.fault("malformed_contacts"), visit.fault("foreign_contacts")
        with_cursors = visit.fault("no_cursors") is None
        found: list[rows.Row] = []
        for place, (contact, cursor) in enumerate(zip(chosen.contacts, chosen.cursors, strict=True)):
            row = rows.search_row(contact, state.seeded.id, proper_names=proper_names)
            if with_cursors:
                row["searchAfter"] = cursor
            if altered := state.altered_fields(contact.number):
                row |= altered
            if malformed is not None and place % int(malformed.number("every", 1)) == 0:
                row |= MALFORMED[place % len(MALFORMED)]
            if foreign is not None and place % int(foreign.number("every", 1)) == 0:
                row["locationId"] = "elsewhere"
            found.append(row)
        return found

    def _duplicate(self, visit: Visit, state: LocationState) -> Answer:
        query = visit.request.query_params
        if "locationId" not in query:
            raise rows.bad_request("locationId should not be empty")
        self._check_location(query["locationId"], state)
        email, phone = query.get("email", "").lower(), query.get("number")
        numbers = state.numbers_with(email) if email else []
        found = [contact for contact in map(state.contact, numbers) if state.exists(contact.number)]
        # Of several the vendor has an order of its own: here a primary address first, then the newest.
        found.sort(key=lambda contact: ((contact.email or "").lower() == email, contact.number), reverse=True)
        if not found and phone:
            every = (state.contact(number) for number in state.searchable() if state.exists(number))
            found = [contact for contact in every if contact.phone == phone][:1]
        return Answer.json(200, {"contact": _shown(found[0], state) if found else None})

    def _show(self, visit: Visit, state: LocationState) -> Answer:
        contact_id = visit.request.path_params["id"]
        number = state.number_of(contact_id)
        if number is not None and state.exists(number):
            return Answer.json(200, {"contact": _shown(state.contact(number), state), "traceId": "trace"})
        if number is None:
            self._refuse_foreign(contact_id, state)
        raise rows.absent(f"Contact with id {contact_id}", state.seeded.habits.gone_status)

    def _refuse_foreign(self, contact_id: str, state: LocationState) -> None:
        """Nothing, where no other location has such a contact either."""
        others = [each for each in self.states.values() if each.number_of(contact_id) is not None]
        if not others and contact_id not in state.seeded.foreign_ids:
            return
        habit = state.seeded.habits.foreign_contact
        if habit != "served":
            raise rows.foreign_contact(403 if habit == "forbidden" else 401)
        document = _shown(others[0].contact(others[0].number_of(contact_id) or 0), others[0]) if others else None
        invented = {"id": contact_id, "locationId": "elsewhere", "email": "nobody@elsewhere.test"}
        raise RefusalError(Answer.json(200, {"contact": document or invented}))


def _shown(contact: GoHighLevelContact, state: LocationState) -> rows.Row:
    return {**rows.contact_row(contact, state.seeded.id), **state.altered_fields(contact.number)}


def _bearer(request: Request) -> str:
    return request.headers.get("authorization", "").removeprefix("Bearer ").strip()


__all__ = ["API_VERSIONS", "GoHighLevelSandbox"]
